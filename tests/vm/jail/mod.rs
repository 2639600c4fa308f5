//! The jail of either driver, from inside: this program takes the place of the VMM.

mod attempts;

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use msb::home::Home;
use msb::runtime::{
    Disk, Driver, DriverChoice, JailReport, Kernel, Passed, Role, Shared, VmConfig, VmExit, driver,
};
use msb::store::Store;

use crate::guest::vm_driver_of;
use attempts::{ATTEMPTS, Targets, Verdict};

/// Names what there is to be had, as JSON.
const TARGETS: &str = "JAIL_TARGETS";
/// Set when only what is easy is tried.
const EASY: &str = "JAIL_EASY";
/// An ordinary user and group, of nobody.
const STRANGER: u32 = 64_999;
const DISK_BYTES: u64 = 1 << 20;

/// Layers that do not hold here although they could: all kernels that run guests have the others.
pub(crate) fn missing(report: &JailReport) -> Vec<(&'static str, &str)> {
    let optional = |why: &str| why.starts_with("this kernel has none");
    report.missing().filter(|(layer, why)| *layer != "landlock" || !optional(why)).collect()
}

/// Whether every layer can hold here.
pub(crate) fn can_be_whole() -> bool {
    const VERSION: u32 = 1;
    let number = libc::SYS_landlock_create_ruleset;
    // SAFETY: without attributes the call answers with the version of Landlock.
    unsafe { libc::syscall(number, std::ptr::null::<u8>(), 0, VERSION) > 0 }
}

/// A machine full of treasures, all of them open to everyone.
struct Machine {
    _dir: tempfile::TempDir,
    targets: Targets,
    _listeners: (TcpListener, UnixListener, UnixListener),
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        home.create().unwrap();
        drop(Store::open(&home).unwrap());
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("msb-jail-{}", std::process::id());
        let name = SocketAddr::from_abstract_name(&address).unwrap();
        let socket = home.socket("other");
        let unix = UnixListener::bind(&socket).unwrap();
        let targets = Targets {
            state: home.root().to_owned(),
            database: home.database(),
            disk: home.root().join("other.ext4"),
            parent: i32::try_from(std::process::id()).unwrap(),
            port: tcp.local_addr().unwrap().port(),
            address,
            devices: block_devices(),
            own_fd: None,
            own_path: dir.path().join("own.ext4"),
            own_bytes: DISK_BYTES,
            socket,
        };
        let _listeners = (tcp, unix, UnixListener::bind_addr(&name).unwrap());
        for path in [&targets.disk, &targets.own_path] {
            File::create(path).unwrap().set_len(DISK_BYTES).unwrap();
        }
        fs::copy("/bin/sh", targets.state.join("program")).unwrap();
        for path in [&targets.database, &targets.disk, &targets.socket] {
            fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
        }
        for path in [dir.path(), home.root(), targets.socket.parent().unwrap()] {
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        }
        Self { _dir: dir, targets, _listeners }
    }

    fn config(&self) -> VmConfig {
        VmConfig {
            run_id: "test".to_owned(),
            sandbox: "test".to_owned(),
            require_jail: false,
            kernel: Kernel::default(),
            vcpus: 1,
            memory_mib: 256,
            disks: vec![Disk {
                serial: "upper".to_owned(),
                path: self.targets.own_path.clone(),
                readonly: false,
                format: msb::spec::DiskFormat::Raw,
            }],
            files: false,
        }
    }

    /// Runs this program in the place of the VMM of `driver`, and gives back what it tried.
    async fn run(&self, driver: &dyn Driver, easy: bool) -> (JailReport, Vec<(String, String)>) {
        self.run_as(driver, easy, Role::Vm).await
    }

    /// The same in the jail for `role`.
    async fn run_as(
        &self,
        driver: &dyn Driver,
        easy: bool,
        role: Role,
    ) -> (JailReport, Vec<(String, String)>) {
        let mut command = driver.command(&self.config());
        let server = role != Role::Vm;
        if server {
            command.fds.clear();
            command.writes.clear();
            command.devices.clear();
        }
        command.role = role;
        let mut targets = self.targets.clone();
        let disk = command.fds.iter().find(|fd| matches!(fd.what, Passed::Disk(_)));
        targets.own_fd = disk.map(|fd| fd.number);
        command.program = std::env::current_exe().unwrap();
        command.args =
            ["--exact", "jail::prisoner", "--ignored", "--nocapture", "--test-threads=1"]
                .map(Into::into)
                .to_vec();
        command.env = vec![(TARGETS.into(), serde_json::to_string(&targets).unwrap().into())];
        if easy {
            command.env.push((EASY.into(), "1".into()));
        }
        command.reads.clear();
        command.fds.retain(|fd| fd.what != Passed::Report);
        let (links, host) = driver.links(false).unwrap();
        let vm = driver.spawn(command, links).unwrap();
        if !easy && !server {
            assert_its_own_user(vm.pid());
        }
        let text = tokio::task::spawn_blocking(move || read_to_end(host.console)).await.unwrap();
        assert_eq!(vm.wait().await.unwrap(), VmExit::Code(0), "{text}");
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        let lines = lines.map(|(name, verdict)| (name.to_owned(), verdict.to_owned()));
        (vm.jail().clone(), lines.collect())
    }
}

/// Until nobody holds the other end, be it a socket or a terminal.
fn read_to_end(console: std::os::fd::OwnedFd) -> String {
    rustix::io::ioctl_fionbio(&console, false).unwrap();
    let (mut file, mut bytes) = (File::from(console), Vec::new());
    match file.read_to_end(&mut bytes) {
        Err(error) if error.raw_os_error() != Some(libc::EIO) => panic!("{error}"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// Seen from here it is not root, even when this process is.
fn assert_its_own_user(pid: u32) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for field in ["Uid:", "Gid:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let own = rustix::process::geteuid();
        for id in line.split_ascii_whitespace() {
            assert_ne!(id, "0", "{status}");
            assert!(own.is_root() || field == "Gid:" || id == own.as_raw().to_string(), "{status}");
        }
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
}

fn block_devices() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_block_device()))
        .map(|entry| entry.path())
        .collect()
}

/// Not a test: what runs in the place of the VMM.
#[test]
#[ignore = "the helper process of other tests"]
fn prisoner() {
    let targets = std::env::var(TARGETS).expect("only another test starts this");
    let targets: Targets = serde_json::from_str(&targets).unwrap();
    let easy = std::env::var_os(EASY).is_some();
    // SAFETY: plain numbers. Without this a file that grows too large ends the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    println!();
    for attempt in ATTEMPTS.iter().filter(|attempt| attempt.easy || !easy) {
        let (verdict, why) = attempt.verdict(&targets);
        println!("{}\t{verdict:?} {why}", attempt.name);
    }
}

/// Every attempt is denied, by name, except those that a missing layer lets pass; no layer is missing
/// but `without`.
async fn every_attempt_is_denied(without: &[&str], except: &[&str]) {
    let machine = Machine::new();
    let driver = vm_driver_of(&Home::at(&machine.targets.state));
    let (report, tried) = machine.run(&*driver, false).await;
    let layers: Vec<_> = missing(&report).into_iter().map(|(layer, _)| layer).collect();
    assert_eq!(layers, without, "{report:?}");
    let denied = format!("{:?} ", Verdict::Denied);
    let mut wrong = Vec::new();
    for attempt in ATTEMPTS.iter().filter(|attempt| !except.contains(&attempt.name)) {
        match tried.iter().find(|(name, _)| name == attempt.name) {
            Some((_, verdict)) if verdict.starts_with(&denied) => {}
            Some((name, verdict)) => wrong.push(format!("{name}: {verdict}")),
            None => wrong.push(format!("{}: not tried", attempt.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried.len() >= 40 && tried.len() == ATTEMPTS.len());
    assert_eq!(fs::metadata(&machine.targets.own_path).unwrap().len(), DISK_BYTES);
}

/// Usually root.
#[tokio::test]
async fn the_user_of_this_test_is_denied_every_attempt() {
    every_attempt_is_denied(&[], &[]).await;
}

/// A file server has no guest in it, and is told what to do by one.
async fn every_attempt_of_a_file_server_is_denied() {
    // It may write files of any size, and have more of them open.
    let mut except = vec!["write larger files", "open more files"];
    if rustix::process::geteuid().is_root() {
        // The kernel counts no threads of root, and says first that a program is being executed. It
        // has two capabilities, as `tests/it/files` checks.
        except.extend(["start threads without end", "replace itself"]);
        except.push("gain something by a setuid program");
    }
    let machine = Machine::new();
    let share = machine.targets.state.join("share");
    fs::create_dir(&share).unwrap();
    let role = Role::FileServer(vec![Shared { path: share, readonly: false }]);
    let driver = vm_driver_of(&Home::at(&machine.targets.state));
    let (report, tried) = machine.run_as(&*driver, false, role).await;
    assert_eq!(missing(&report), []);
    let denied = format!("{:?}", Verdict::Denied);
    let wrong: Vec<_> = tried
        .iter()
        .filter(|(name, verdict)| !verdict.starts_with(&denied) && !except.contains(&name.as_str()))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(tried.len(), ATTEMPTS.len());
}

/// Usually root.
#[tokio::test]
async fn a_file_server_is_denied_every_attempt() {
    every_attempt_of_a_file_server_is_denied().await;
}

/// Not a test: the ordinary user.
#[tokio::test]
#[ignore = "the helper process of another test"]
async fn ordinary_user() {
    assert!(!rustix::process::geteuid().is_root());
    every_attempt_is_denied(&[], &[]).await;
    every_attempt_of_a_file_server_is_denied().await;
}

#[test]
fn an_ordinary_user_is_denied_every_attempt() {
    elsewhere("jail::ordinary_user", true);
}

/// Not a test: on a machine without user namespaces.
#[tokio::test]
#[ignore = "the helper process of another test"]
async fn without_user_namespaces() {
    forbid_user_namespaces();
    nothing_is_executed_when_a_layer_is_required();
    if rustix::process::geteuid().is_root() {
        return every_attempt_is_denied(&["user namespace"], &[]).await;
    }
    let spaces = "network, process, ipc and host name namespaces";
    let without = ["user namespace", spaces, "identity", "file system", "resource limits"];
    if can_be_whole() {
        return every_attempt_is_denied(&without, &["start threads without end"]).await;
    }
    let machine = Machine::new();
    let driver = vm_driver_of(&Home::at(&machine.targets.state));
    let (report, _) = machine.run(&*driver, true).await;
    assert!(report.missing().map(|(layer, _)| layer).eq(without.into_iter().chain(["landlock"])));
}

fn nothing_is_executed_when_a_layer_is_required() {
    let machine = Machine::new();
    let driver = vm_driver_of(&Home::at(&machine.targets.state));
    let config = VmConfig { require_jail: true, ..machine.config() };
    let mut command = driver.command(&config);
    command.program = "/bin/echo".into();
    command.reads.clear();
    let (links, host) = driver.links(false).unwrap();
    let refused = driver.spawn(command, links).unwrap_err().to_string();
    assert!(refused.contains("required to be: user namespace ("), "{refused}");
    assert_eq!(read_to_end(host.console), "");
}

/// For root the other layers are enough; for others it takes Landlock.
#[test]
fn without_user_namespaces_every_attempt_is_denied() {
    for stranger in [false, true] {
        elsewhere("jail::without_user_namespaces", stranger);
    }
}

/// Runs the test `name` in a process of its own, as an ordinary user if that is asked for.
fn elsewhere(name: &str, stranger: bool) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    if stranger && rustix::process::geteuid().is_root() {
        command.uid(STRANGER).gid(STRANGER);
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

/// As a sysctl does for the whole machine: for this process and those that it starts.
fn forbid_user_namespaces() {
    use seccompiler::SeccompCmpArgLen::Dword;
    use seccompiler::{SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
    let flag = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let made = SeccompCondition::new(0, Dword, SeccompCmpOp::MaskedEq(flag), flag).unwrap();
    let rules = [(libc::SYS_clone, vec![SeccompRule::new(vec![made]).unwrap()])];
    let filter = SeccompFilter::new(
        rules.into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSPC.unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter_all_threads(&program).unwrap();
}

/// What is easy without a jail succeeds without one: the attempts are real.
#[tokio::test]
async fn without_a_jail_what_is_easy_succeeds() {
    let machine = Machine::new();
    let home = Home::at(&machine.targets.state);
    let local = driver(DriverChoice::Local, &home).unwrap().driver;
    let (_, tried) = machine.run(&*local, true).await;
    assert!(tried.len() > 20, "{tried:?}");
    for (name, verdict) in &tried {
        assert!(verdict.starts_with(&format!("{:?}", Verdict::Done)), "{name}: {verdict}");
    }
}
