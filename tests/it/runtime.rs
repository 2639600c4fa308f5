//! The runtime without a guest: disks against e2fsprogs, the kernel's installation, VM processes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use msb::home::Home;
use msb::rootfs::ext4;
use msb::runtime::setup::{self, Installer, Pin, Progress, SetupError};
use msb::runtime::{Disk, DriverChoice, Kernel, VmConfig, VmExit, driver};
use msb::spec::DiskFormat;
use sha2::{Digest, Sha256};

fn run(program: &str, args: &[&str], path: &Path) -> (i32, String) {
    let output = Command::new(program).args(args).arg(path).output().unwrap_or_else(|error| {
        panic!("{program}: {error}; install it: apt-get install e2fsprogs")
    });
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

fn assert_clean(path: &Path) {
    let (code, text) = run("/sbin/e2fsck", &["-fn"], path);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn e2fsck_finds_nothing_at_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let mib = 1 << 20;
    let group = 128 * mib;
    let sizes = [
        ext4::MIN_BYTES,
        ext4::MIN_BYTES + 4095,
        33 * mib,
        group - 4096,
        group,
        group + 4096,
        group + 3 * mib,
        2 * group + 100 * mib,
        3 * group,
        1 << 30,
        (10 << 30) + 12345,
        // Past one, two and three meta groups of 8 GiB, and a lone group behind them.
        (8 << 30) + 64 * mib,
        (16 << 30) + group,
        (24 << 30) - group,
        100 << 30,
    ];
    for size in sizes {
        let path = dir.path().join("disk");
        let file = File::create(&path).unwrap();
        ext4::format(&file, size, *b"0123456789abcdef").unwrap();
        assert_eq!(file.metadata().unwrap().len(), size / 4096 * 4096);
        assert_clean(&path);
    }
}

#[test]
fn a_disk_can_be_grown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let file = File::create(&path).unwrap();
    ext4::format(&file, 100 << 20, [1; 16]).unwrap();
    for size in [300 << 20, 20_u64 << 30] {
        file.set_len(size).unwrap();
        assert_clean(&path);
        let (code, text) = run("/sbin/resize2fs", &["-f"], &path);
        assert_eq!(code, 0, "{text}");
        assert_clean(&path);
    }
}

#[test]
fn sizes_out_of_range_are_refused() {
    let file = tempfile::tempfile().unwrap();
    for size in [0, ext4::MIN_BYTES - 1, ext4::MAX_BYTES + 1] {
        assert!(matches!(ext4::format(&file, size, [0; 16]), Err(ext4::FormatError::Size(_))));
    }
    assert_eq!(file.metadata().unwrap().len(), 0);
}

/// A library like libkrunfw, with two pages of kernel.
fn library(dir: &Path) -> Vec<u8> {
    let source = dir.join("bundle.c");
    let text = r#"
        struct note { unsigned name, size, kind; char text[4]; unsigned long long entry; };
        __attribute__((visibility("default"))) struct {
            struct note note;
            char rest[8193 - sizeof(struct note)];
        } __attribute__((packed)) KERNEL_BUNDLE = {{4, 8, 18, "Xen", 0x1000040}, {0}};
    "#;
    fs::write(&source, text).unwrap();
    let out = dir.join("bundle.so");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-nostdlib", "-o"])
        .args([&out, &source])
        .status()
        .expect("cc, which Rust links with, is missing");
    assert!(status.success());
    fs::read(out).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An installation from a wheel made here, by a pip made here.
struct Fake {
    dir: tempfile::TempDir,
    home: Home,
    installer: Installer,
    wheel: Vec<u8>,
}

impl Fake {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        home.create().unwrap();
        let library = library(dir.path());
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file("pkg/lib/libkrunfw.so.5.0.1", options).unwrap();
        archive.write_all(&library).unwrap();
        let wheel = archive.finish().unwrap().into_inner();
        let pin = Pin {
            package: "pkg==1.0".to_owned(),
            wheel_sha256: sha256(&wheel),
            wheel_bytes: wheel.len() as u64,
            member: "pkg/lib/libkrunfw.so.5.0.1".to_owned(),
            library_sha256: sha256(&library),
            library_bytes: library.len() as u64,
            platform: "any".to_owned(),
        };
        let mut fake = Self { dir, home, installer: Installer { pin, pip: Vec::new() }, wheel };
        fake.pip(
            r#"while [ "$1" != --dest ]; do shift; done
               mkdir -p "$2" "$TMPDIR/x" && cp "$W" "$TMPDIR/x/part" && cp "$W" "$2/pkg.whl""#,
        );
        fake
    }

    /// Makes `script` the only pip; it counts its calls.
    fn pip(&mut self, script: &str) {
        let path = self.dir.path().join("pip");
        let (wheel, calls) = (self.wheel_path(), self.calls_path());
        let text = format!(
            "[ \"$1\" = --version ] && exit 0\nW={}\necho >> {}\n{script}\n",
            wheel.display(),
            calls.display()
        );
        fs::write(&path, text).unwrap();
        self.installer.pip = vec![vec!["/bin/sh".into(), path.into()]];
    }

    fn wheel_path(&self) -> PathBuf {
        self.dir.path().join("pkg.whl")
    }

    fn calls_path(&self) -> PathBuf {
        self.dir.path().join("calls")
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.calls_path()).map_or(0, |text| text.lines().count())
    }

    fn install(&self, wheel: &[u8]) -> Result<setup::Status, SetupError> {
        fs::write(self.wheel_path(), wheel).unwrap();
        self.installer.install(&self.home, &mut |_| {})
    }

    /// Nothing is installed, and nothing is left over.
    fn assert_untouched(&self) {
        assert_eq!(fs::read_dir(self.home.tmp()).unwrap().count(), 0);
        let left: Vec<OsString> = fs::read_dir(self.home.runtime())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "setup.lock")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn setup_installs_once_and_again_after_damage() {
    let fake = Fake::new();
    // What a killed installation leaves.
    fs::create_dir_all(fake.home.tmp().join("setup-dead/tmp")).unwrap();
    fs::write(fake.wheel_path(), &fake.wheel).unwrap();
    let mut seen = Vec::new();
    let status = fake.installer.install(&fake.home, &mut |step| seen.push(step)).unwrap();
    assert!(matches!(seen.first(), Some(Progress::Downloading { bytes: 0, .. })), "{seen:?}");
    assert_eq!(seen.last(), Some(&Progress::Kernel));
    assert_eq!(fs::read_dir(fake.home.tmp()).unwrap().count(), 0);
    let kernel = status.kernel.unwrap();
    let bytes = fs::read(&kernel).unwrap();
    assert_eq!(bytes.len(), 4096 + 8192);
    assert!(bytes.starts_with(b"\x7fELF"));

    assert_eq!(fake.install(&fake.wheel).unwrap().kernel, Some(kernel));
    assert_eq!(fake.calls(), 1, "an intact library is downloaded again");
    fs::write(&status.library.path, "damaged").unwrap();
    fake.install(&fake.wheel).unwrap();
    assert_eq!(fake.calls(), 2);
    assert_eq!(sha256(&fs::read(&status.library.path).unwrap()), fake.installer.pin.library_sha256);
}

#[test]
fn setup_refuses_what_is_not_pinned() {
    let mut fake = Fake::new();
    let mut other = fake.wheel.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    assert!(matches!(fake.install(&other), Err(SetupError::Digest { .. })));
    assert!(matches!(fake.install(&fake.wheel[..100]), Err(SetupError::Digest { .. })));
    fake.assert_untouched();
    // The wheel is the pinned one, its library is not.
    fake.installer.pin.library_sha256 = sha256(b"another");
    assert!(matches!(fake.install(&fake.wheel), Err(SetupError::Digest { .. })));
    fake.installer.pin.member = "pkg/missing".to_owned();
    assert!(matches!(fake.install(&fake.wheel), Err(SetupError::Archive { .. })));
    fake.installer.pin.wheel_sha256 = sha256(b"no archive");
    assert!(matches!(fake.install(b"no archive"), Err(SetupError::Archive { .. })));
    fake.assert_untouched();
}

#[test]
fn setup_says_what_pip_said_and_how_to_get_pip() {
    let mut fake = Fake::new();
    fake.pip("echo 'ERROR: no matching distribution' >&2; exit 1");
    let error = fake.install(&fake.wheel).unwrap_err().to_string();
    assert!(error.contains("pkg==1.0") && error.contains("no matching distribution"), "{error}");
    fake.installer.pip = vec![vec!["/nonexistent/pip".into()], vec!["/bin/false".into()]];
    let error = fake.install(&fake.wheel).unwrap_err().to_string();
    assert!(error.contains("apt-get install python3-pip"), "{error}");
    fake.assert_untouched();
}

fn config() -> VmConfig {
    VmConfig {
        run_id: "test".to_owned(),
        sandbox: "test".to_owned(),
        require_jail: false,
        kernel: Kernel::default(),
        vcpus: 1,
        memory_mib: 64,
        disks: Vec::new(),
        files: false,
    }
}

fn home() -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path());
    home.create().unwrap();
    (dir, home)
}

/// A shell script in the place of a VM, under the real driver's jail when `jailed`.
fn shell(home: &Home, jailed: bool, script: &str) -> (Box<dyn msb::runtime::Vm>, String) {
    let choice = if jailed { DriverChoice::Qemu } else { DriverChoice::Local };
    let chosen = driver(choice, home).unwrap_or_else(|error| panic!("{error}; {}", error.help));
    let driver = chosen.driver;
    let mut command = driver.command(&config());
    command.program = "/bin/sh".into();
    command.reads.clear();
    command.args = vec!["-c".into(), script.into()];
    let (links, host) = driver.links(false).unwrap();
    let vm = driver.spawn(command, links).unwrap();
    rustix::io::ioctl_fionbio(&host.console, false).unwrap();
    let text = std::io::read_to_string(File::from(host.console)).unwrap();
    (vm, text)
}

#[tokio::test]
async fn a_vm_process_is_waited_for_and_killed() {
    let (_dir, home) = home();
    let (vm, text) = shell(&home, false, "echo hello; exit 7");
    assert_eq!(text, "hello\n");
    assert_eq!(vm.wait().await.unwrap(), VmExit::Code(7));
    assert_eq!(vm.wait().await.unwrap(), VmExit::Code(7));
    vm.kill().unwrap();

    let local = driver(DriverChoice::Local, &home).unwrap().driver;
    let (links, _host) = local.links(false).unwrap();
    let vm = local.spawn(local.command(&config()), links).unwrap();
    assert_eq!(msb::runtime::start_time(vm.pid()).unwrap(), vm.start_time());
    vm.kill().unwrap();
    assert_eq!(vm.wait().await.unwrap(), VmExit::Signal(9));
}

#[test]
fn a_dropped_vm_is_killed() {
    let (_dir, home) = home();
    let local = driver(DriverChoice::Local, &home).unwrap().driver;
    let (links, _host) = local.links(false).unwrap();
    let vm = local.spawn(local.command(&config()), links).unwrap();
    let pid = vm.pid();
    drop(vm);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_vm_process_has_its_descriptors_and_no_environment() {
    let (_dir, home) = home();
    let _noise = File::open("/dev/zero").unwrap();
    let (_vm, text) =
        shell(&home, false, "env; cd /proc/self/fd; echo [0-9]*; cat /proc/$$/status");
    // `ls` by the shell itself holds one descriptor more than it inherited.
    assert!(text.lines().any(|line| line == "0 1 2 3" || line == "0 1 2 3 4"), "{text}");
    assert!(!text.contains("CARGO"), "{text}");
    assert!(text.contains("NoNewPrivs:\t1"), "{text}");
    let ignored = text.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    let pipe = 1 << (libc::SIGPIPE - 1);
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & pipe, 0, "SIGPIPE is ignored");
    assert!(text.contains("PWD=/\n"), "{text}");
}

#[test]
fn the_jail_holds_nothing_but_programs() {
    let (dir, home) = home();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    let probe = format!(
        "echo *; echo /etc/*; read line < {0}/secret; echo $line; echo x > {0}/made; echo x > /usr/made; \
         kill -9 {1}; exec id -u",
        dir.path().display(),
        std::process::id()
    );
    let (vm, text) = shell(&home, true, &probe);
    let unavailable: Vec<_> =
        vm.jail().layers.iter().filter(|layer| layer.unavailable.is_some()).collect();
    assert!(unavailable.is_empty(), "namespaces are off on this machine: {unavailable:?}");
    let first = text.lines().next().unwrap();
    assert!(!first.contains("root") && !first.contains("home"), "{text}");
    assert!(!text.contains("\nsecret"), "{text}");
    assert!(text.contains("65534"), "{text}");
    assert!(!Path::new("/usr/made").exists());
    assert!(!dir.path().join("made").exists());
}

#[test]
fn what_cannot_be_opened_or_started_is_named() {
    let (dir, home) = home();
    let driver = driver(DriverChoice::Local, &home).unwrap().driver;
    let missing = dir.path().join("missing");
    let mut command = driver.command(&config());
    command.program.clone_from(&missing);
    let (links, _host) = driver.links(false).unwrap();
    let error = driver.spawn(command, links).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");

    let mut command = driver.command(&config());
    let disk =
        Disk { serial: "x".to_owned(), path: missing, readonly: true, format: DiskFormat::Raw };
    command.fds.push(msb::runtime::PassedFd { number: 5, what: msb::runtime::Passed::Disk(disk) });
    let (links, _host) = driver.links(false).unwrap();
    let error = driver.spawn(command, links).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn a_driver_is_chosen_by_name() {
    let (_dir, home) = home();
    assert!("kvm".parse::<DriverChoice>().is_err());
    let auto =
        driver(DriverChoice::Auto, &home).unwrap_or_else(|error| panic!("{error}; {}", error.help));
    let found = auto.driver.probe().unwrap();
    match driver("krun".parse().unwrap(), &home) {
        Ok(krun) => {
            assert_eq!(krun.driver.probe().unwrap(), found);
            assert_eq!((found.driver, found.max_disks, auto.fallback), ("krun", 8, None));
        }
        Err(error) => {
            assert!(error.reason.contains("KVM") && error.help.contains("qemu"), "{error:?}");
            assert_eq!((found.driver, found.max_disks), ("qemu", 7));
            assert_eq!(auto.fallback, Some(error.reason));
        }
    }
    let mode = fs::metadata(home.runtime().join("machine.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
}

#[test]
fn a_process_for_libkrun_says_what_it_lacks() {
    let said = |descriptors: &str| {
        let config = "{\"library\":\"/no/kernel\",\"vcpus\":1,\"memory_mib\":64,\"disks\":[],\
                      \"files\":false,\"require_jail\":true}";
        let output = Command::new("/bin/sh")
            .args(["-c", &format!("echo '{config}' | \"$MSB\" __krun run {descriptors}")])
            .env("MSB", env!("CARGO_BIN_EXE_msb"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (report, message) = said("3<&0 4>&1 5<&0 6<&0");
    assert!(report.contains("\"filter\":null"), "{report}");
    for text in [report, message] {
        assert!(text.contains("the kernel cannot be loaded: /no/kernel"), "{text}");
    }
    let (report, message) = said("3<&0 4>&-");
    assert_eq!((report.as_str(), message.as_str()), ("", "only `msb` itself starts a VM\n"));
}
