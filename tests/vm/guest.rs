//! A guest for tests: busybox in an EROFS image under a writable disk.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use msb::home::Home;
use msb::image::erofs::{Attr, Builder};
use msb::rootfs;
use msb::runtime::{
    Disk, Driver, DriverChoice, HostLinks, Krun, Unavailable, Vm, VmConfig, VmExit, driver,
    record_console, setup,
};
use msb::spec::{ByteSize, DiskFormat};
use msb_protocol::mux::{self, MuxStream, Opener};
use msb_protocol::{
    BootConfig, ControlInput, ControlOutput, ExecOutput, ExecRequest, Frame, Request, RootConfig,
    host_handshake, read_frame, write_message,
};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far longer than anything takes, even emulated on a loaded machine: a test that hangs fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);
pub(crate) const BUSYBOX: &str = "/bin/busybox";
pub(crate) const APPLETS: [&str; 16] = [
    "sh", "cat", "id", "echo", "sleep", "hostname", "date", "dd", "ps", "kill", "ls", "mount",
    "sync", "touch", "true", "wc",
];

/// A state directory that all tests share: it holds the kernel, fetched once.
pub(crate) fn home() -> &'static Home {
    static HOME: OnceLock<Home> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = Home::at(Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm-home"));
        home.create().unwrap();
        setup::install(&home, &mut |_| {})
            .unwrap_or_else(|error| panic!("no kernel for the guest: {error}"));
        home
    })
}

/// The name of the driver that the suite runs on: `MSB_DRIVER`, or qemu, which works everywhere.
pub(crate) fn driver_name() -> String {
    std::env::var("MSB_DRIVER").unwrap_or_else(|_| "qemu".to_owned())
}

/// The driver that the suite runs on.
pub(crate) fn vm_driver() -> Box<dyn Driver> {
    vm_driver_of(home())
}

pub(crate) fn vm_driver_of(home: &Home) -> Box<dyn Driver> {
    let choice: DriverChoice = driver_name().parse().unwrap();
    let missing = |error: Unavailable| -> ! { panic!("{error}; {}", error.help) };
    if choice == DriverChoice::Krun {
        let krun = Krun::find(home).unwrap_or_else(|error| missing(error));
        return Box::new(krun.program(env!("CARGO_BIN_EXE_msb").into()));
    }
    driver(choice, home).unwrap_or_else(|error| missing(error)).driver
}

/// An image with busybox, root, `nobody` and what `add` adds.
fn busybox_image(path: &Path, add: impl FnOnce(&mut Builder)) {
    let busybox = fs::read(BUSYBOX).unwrap_or_else(|error| {
        panic!("{BUSYBOX}: {error}; install it: apt-get install busybox-static")
    });
    let mut image = Builder::new(File::create(path).unwrap()).unwrap();
    image.bytes("bin/busybox", Attr::mode(0o755), &busybox).unwrap();
    for applet in APPLETS {
        image.symlink(format!("bin/{applet}"), Attr::mode(0o777), "busybox").unwrap();
    }
    let passwd = "root:x:0:0::/root:/bin/sh\nnobody:x:1000:1000::/home/nobody:/bin/sh\n";
    image.bytes("etc/passwd", Attr::mode(0o644), passwd.as_bytes()).unwrap();
    image.bytes("etc/group", Attr::mode(0o644), b"root:x:0:\nnobody:x:1000:\n").unwrap();
    for dir in ["dev", "proc", "sys", "run", "root"] {
        image.dir(dir, Attr::mode(0o755)).unwrap();
    }
    image.dir("tmp", Attr::mode(0o1777)).unwrap();
    add(&mut image);
    image.finish().unwrap();
}

/// A VM process, the host's end of its agent port, and what records its console.
pub(crate) type Started = (Box<dyn Vm>, UnixStream, JoinHandle<()>);

/// The files of a guest.
pub(crate) struct Files {
    pub(crate) dir: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With more in the image.
    pub(crate) fn with(add: impl FnOnce(&mut Builder)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        busybox_image(&dir.path().join("image.erofs"), add);
        rootfs::create_disk(&dir.path().join("upper.ext4"), ByteSize::from_mib(256)).unwrap();
        Self { dir }
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.dir.path().join("upper.ext4")
    }

    pub(crate) fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console.log")).unwrap_or_default()
    }

    pub(crate) fn assert_upper_is_clean(&self) {
        let output = Command::new("/sbin/e2fsck")
            .arg("-fn")
            .arg(self.upper())
            .output()
            .expect("e2fsck is missing: apt-get install e2fsprogs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    pub(crate) fn config(&self) -> VmConfig {
        let disk = |serial: &str, path: PathBuf, readonly| Disk {
            serial: serial.to_owned(),
            path,
            readonly,
            format: DiskFormat::Raw,
        };
        VmConfig {
            run_id: "test".to_owned(),
            sandbox: "test".to_owned(),
            require_jail: false,
            kernel: setup::kernel(home()).unwrap(),
            vcpus: 1,
            memory_mib: 256,
            disks: vec![
                disk("boot", rootfs::boot_disk(home()).unwrap(), true),
                disk("image", self.dir.path().join("image.erofs"), true),
                disk("upper", self.upper(), false),
            ],
            files: false,
        }
    }

    /// Starts a VM and keeps its console log.
    pub(crate) fn start(&self, config: &VmConfig) -> Started {
        self.try_start(config).unwrap()
    }

    pub(crate) fn try_start(&self, config: &VmConfig) -> io::Result<Started> {
        let driver = vm_driver();
        let (links, HostLinks { agent, console, .. }) = driver.links(config.files).unwrap();
        let vm = driver.spawn(driver.command(config), links)?;
        let log = self.dir.path().join("console.log");
        let recorder = tokio::spawn(async move {
            record_console(console, &log, 1 << 20).await.unwrap();
        });
        Ok((vm, UnixStream::from_std(agent).unwrap(), recorder))
    }

    /// Boots until the guest is ready.
    pub(crate) async fn boot(&self) -> Guest {
        let (vm, mut agent, recorder) = self.start(&self.config());
        let hello = timeout(LIMIT, host_handshake(&mut agent)).await;
        hello.unwrap().unwrap_or_else(|error| panic!("{error}\n{}", self.console()));
        let (opener, driver) = mux::client(agent);
        tokio::spawn(driver);
        let mut control = opener.open().await.unwrap();
        write_message(&mut control, &Request::Control).await.unwrap();
        let mut guest = Guest { vm, opener, control, recorder };
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let config = BootConfig {
            root: RootConfig {
                lowers: vec!["image".to_owned()],
                upper: Some("upper".to_owned()),
                disk: None,
            },
            hostname: "kiosk".to_owned(),
            clock_ns: u64::try_from(clock.as_nanos()).unwrap(),
            ..BootConfig::default()
        };
        guest.send(&ControlInput::Boot(Box::new(config))).await;
        let answer = guest.receive().await;
        assert!(
            matches!(answer, Some(ControlOutput::Ready { .. })),
            "{answer:?}\n{}",
            self.console()
        );
        guest
    }
}

/// A guest that is ready.
pub(crate) struct Guest {
    pub(crate) vm: Box<dyn Vm>,
    pub(crate) opener: Opener,
    control: MuxStream,
    recorder: JoinHandle<()>,
}

/// What a command wrote and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) end: ExecOutput,
}

impl Guest {
    async fn send(&mut self, input: &ControlInput) {
        write_message(&mut self.control, input).await.unwrap();
    }

    async fn receive(&mut self) -> Option<ControlOutput> {
        let mut buffer = Vec::new();
        let frame = timeout(LIMIT, read_frame(&mut self.control, &mut buffer)).await.unwrap();
        frame.ok().flatten().map(|frame| frame.message().unwrap())
    }

    pub(crate) async fn run(&self, request: ExecRequest) -> Outcome {
        let mut stream = self.opener.open().await.unwrap();
        write_message(&mut stream, &Request::Exec(request)).await.unwrap();
        let (mut stdout, mut stderr, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let frame = timeout(LIMIT, read_frame(&mut stream, &mut buffer)).await.unwrap();
            match frame.unwrap().expect("the session ended without a status") {
                Frame::Data { fd: 1, bytes } => stdout.extend_from_slice(bytes),
                Frame::Data { bytes, .. } => stderr.extend_from_slice(bytes),
                message @ Frame::Message(_) => match message.message().unwrap() {
                    ExecOutput::Started { .. } | ExecOutput::InputTaken(_) => {}
                    end @ (ExecOutput::Exited(_) | ExecOutput::Failed(_)) => {
                        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
                        return Outcome { stdout: text(stdout), stderr: text(stderr), end };
                    }
                },
            }
        }
    }

    pub(crate) async fn sh(&self, script: &str) -> Outcome {
        self.run(sh(script)).await
    }

    /// Shuts down in order, and waits for the process.
    pub(crate) async fn shut_down(mut self) -> VmExit {
        self.send(&ControlInput::Shutdown { grace_ms: 1000 }).await;
        assert_eq!(self.receive().await, Some(ControlOutput::Bye));
        let exit = timeout(LIMIT, self.vm.wait()).await.unwrap().unwrap();
        self.recorder.await.unwrap();
        exit
    }

    /// Pulls the plug.
    pub(crate) async fn cut_power(self) {
        self.vm.kill().unwrap();
        assert_eq!(self.vm.wait().await.unwrap(), VmExit::Signal(9));
        self.recorder.await.unwrap();
    }
}

pub(crate) fn sh(script: &str) -> ExecRequest {
    ExecRequest {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ..ExecRequest::default()
    }
}
