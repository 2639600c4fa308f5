//! A state directory with supervisors, and what tests ask of them.

use super::*;

/// Far beyond what anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

pub(crate) struct Bench {
    pub(crate) _dir: TempDir,
    pub(crate) home: Home,
}

pub(crate) fn bench() -> Bench {
    bench_below("home")
}

pub(crate) fn bench_below(path: &str) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path().join(path));
    let store = Store::open(&home).unwrap();
    store
        .write(Durability::Relaxed, |w| w.put_project("shop", "/srv/shop", &[]))
        .unwrap_or_else(|e: StoreError| panic!("{e}"));
    Bench { _dir: dir, home }
}

pub(crate) fn sh(script: &str) -> SandboxSpec {
    let image = Image { source: ImageSource::Oci("none".into()), platform: None };
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    SandboxSpec { cmd: Some(argv), ..SandboxSpec::new(image) }
}

pub(crate) fn idle() -> SandboxSpec {
    SandboxSpec { cmd: None, ..sh("") }
}

impl Bench {
    /// A configuration of a sandbox whose row exists.
    pub(crate) fn config(&self, name: &str, spec: SandboxSpec) -> LaunchConfig {
        let id = supervisor::new_id().unwrap();
        let row = NewSandbox {
            id: &id,
            project: "shop",
            name,
            spec_json: "{}",
            spec_hash: "h",
            image_digest: None,
            origin_file: None,
            protect: false,
            driver: Some("local"),
        };
        let store = Store::open(&self.home).unwrap();
        store
            .write(Durability::Relaxed, |w| w.create_sandbox(&row))
            .unwrap_or_else(|e: StoreError| panic!("{e}"));
        LaunchConfig {
            id,
            project: "shop".into(),
            name: Name::new(name).unwrap(),
            spec,
            image: ImageDefaults::default(),
            driver: "local".into(),
            kernel: Kernel::default(),
            boot_disk: None,
            image_format: msb::spec::DiskFormat::Raw,
            image_file: None,
            patch_file: None,
            upper: None,
            volumes: std::collections::BTreeMap::new(),
            boot_timeout_ms: DEFAULT_BOOT_TIMEOUT_MS,
            require_jail: false,
            executable: Some(env!("CARGO_BIN_EXE_msb").into()),
            local_agent: None,
        }
    }

    pub(crate) async fn up(&self, spec: SandboxSpec) -> Up {
        self.launch(self.config("web", spec)).await
    }

    pub(crate) async fn launch(&self, config: LaunchConfig) -> Up {
        let launched = within(supervisor::launch(&self.home, &config)).await.unwrap();
        let client = ControlClient::new(&self.home, &config.id);
        Up { home: self.home.clone(), config, launched, client }
    }

    pub(crate) fn row(&self, id: &str) -> SandboxRow {
        Store::open(&self.home).unwrap().sandbox_by_id(id).unwrap().unwrap()
    }

    /// A program that takes the agent's place: the helper of that name in [`hostile`].
    pub(crate) fn hostile(&self, helper: &str) -> PathBuf {
        let binary = std::env::current_exe().unwrap();
        self.script(&format!(
            "exec {} --exact supervisor::hostile::{helper} --ignored --nocapture <&3",
            binary.display()
        ))
    }

    pub(crate) fn script(&self, body: &str) -> PathBuf {
        let path = self._dir.path().join("agent.sh");
        let mut file = fs::File::create(&path).unwrap();
        writeln!(file, "#!/bin/sh\n{body}").unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

/// A sandbox that was started. Its supervisor is killed with the test.
pub(crate) struct Up {
    pub(crate) home: Home,
    pub(crate) config: LaunchConfig,
    pub(crate) launched: Launched,
    pub(crate) client: ControlClient,
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(start_time) = supervisor::start_time(self.launched.pid) {
            let run = RunIdentity {
                pid: self.launched.pid,
                start_time,
                boot_id: supervisor::boot_id().unwrap(),
                run_id: self.launched.run_id.clone(),
            };
            let _ = supervisor::kill(&run);
        }
    }
}

impl Up {
    pub(crate) async fn until(&self, done: impl FnMut(&StatusEvent) -> bool) -> StatusEvent {
        within(supervisor::wait_until(&self.home, &self.config.id, done)).await.unwrap()
    }

    pub(crate) async fn running(&self) -> StatusEvent {
        let event = self.until(|event| event.status == Status::Running).await;
        assert_eq!(event.status, Status::Running, "{event:?}");
        event
    }

    pub(crate) async fn ended(&self) -> StatusEvent {
        self.until(|_| false).await
    }

    pub(crate) async fn run(&self, script: &str) -> (ExitStatus, String) {
        let session = within(self.client.exec(command(script))).await.unwrap();
        within(collect(session)).await
    }

    pub(crate) fn logs(&self) -> Vec<String> {
        let dir = SandboxPaths::new(&self.home, &self.config.id).logs();
        let records = logs::read(&dir, &LogRange::default()).unwrap();
        records.into_iter().map(|record| format!("{}: {}", record.stream, record.message)).collect()
    }

    /// Follows the log until a line is `line`.
    pub(crate) async fn said(&self, line: &str) {
        let dir = SandboxPaths::new(&self.home, &self.config.id).logs();
        let (mut records, mut follower) = LogFollower::open(&dir, &LogRange::default()).unwrap();
        while !records.iter().any(|record| record.message == line) {
            within(follower.changed()).await.unwrap();
            records.extend(follower.read().unwrap());
        }
    }

    pub(crate) fn peak_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.launched.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }
}

pub(crate) fn command(script: &str) -> ExecRequest {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ExecRequest { argv, ..ExecRequest::default() }
}

/// Reads a session to its end.
pub(crate) async fn collect(mut session: ExecSession) -> (ExitStatus, String) {
    let mut output = Vec::new();
    let mut buffer = Vec::new();
    while let Some(frame) = read_frame(&mut session.stream, &mut buffer).await.unwrap() {
        match &frame {
            Frame::Data { bytes, .. } => output.extend_from_slice(bytes),
            Frame::Message(_) => match frame.message().unwrap() {
                ExecOutput::Started { .. } | ExecOutput::InputTaken(_) => {}
                ExecOutput::Exited(status) => {
                    return (status, String::from_utf8_lossy(&output).into_owned());
                }
                ExecOutput::Failed(failure) => panic!("{failure}"),
            },
        }
    }
    panic!("the session ended without a status");
}

pub(crate) async fn started(session: &mut ExecSession) -> u32 {
    let mut buffer = Vec::new();
    let frame = within(read_frame(&mut session.stream, &mut buffer)).await.unwrap().unwrap();
    match frame.message().unwrap() {
        ExecOutput::Started { pid } => pid,
        other => panic!("{other:?}"),
    }
}

/// Waits for the end of a process that is not our child.
pub(crate) async fn gone(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let waiting = tokio::task::spawn_blocking(move || {
        if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) {
            let mut poll = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut poll, None).unwrap();
        }
    });
    within(waiting).await.unwrap();
}

pub(crate) fn kill_9(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
