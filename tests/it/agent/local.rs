//! The agent as a process here, and sessions with it.

use super::*;

/// Far longer than anything here takes: a test that hangs fails.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// Built by the build script; the product embeds the same file.
pub(super) const AGENT: &str = concat!(env!("OUT_DIR"), "/msb-agent");

/// An agent that runs, and the host's side of it.
pub(super) struct Local {
    pub(super) child: Child,
    pub(super) opener: Opener,
    pub(super) control: MuxStream,
    pub(super) driver: JoinHandle<Result<(), MuxError>>,
}

/// An exec session.
pub(super) struct Session {
    pub(super) reader: ReadHalf<MuxStream>,
    pub(super) writer: WriteHalf<MuxStream>,
    pub(super) buffer: Vec<u8>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) pid: u32,
}

/// How a session went.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) end: ExecOutput,
}

pub(super) fn spawn_agent() -> (Child, StdUnixStream) {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    let child = Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" --local 3 3<&0 </dev/null", AGENT])
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    (child, ours)
}

impl Local {
    /// An agent that is set up.
    pub(super) async fn start() -> Self {
        let mut local = Self::connect().await;
        local.send(&ControlInput::Boot(Box::default())).await;
        assert!(matches!(local.receive().await, Some(ControlOutput::Ready { .. })));
        local
    }

    /// An agent that waits to be set up.
    pub(super) async fn connect() -> Self {
        let (child, socket) = spawn_agent();
        socket.set_nonblocking(true).unwrap();
        let mut socket = UnixStream::from_std(socket).unwrap();
        assert_eq!(host_handshake(&mut socket).await.unwrap(), msb_protocol::VERSION);
        let (opener, driver) = mux::client(socket);
        let driver = tokio::spawn(driver);
        let mut control = opener.open().await.unwrap();
        write_message(&mut control, &Request::Control).await.unwrap();
        Self { child, opener, control, driver }
    }

    pub(super) async fn send(&mut self, input: &ControlInput) {
        write_message(&mut self.control, input).await.unwrap();
    }

    pub(super) async fn receive(&mut self) -> Option<ControlOutput> {
        let mut buffer = Vec::new();
        let frame = timeout(LIMIT, read_frame(&mut self.control, &mut buffer)).await;
        frame.unwrap().unwrap().map(|frame| frame.message().unwrap())
    }

    pub(super) async fn open(&self, request: ExecRequest) -> Session {
        let mut stream = self.opener.open().await.unwrap();
        write_message(&mut stream, &Request::Exec(request)).await.unwrap();
        let (reader, writer) = tokio::io::split(stream);
        let (buffer, stdout, stderr) = (Vec::new(), Vec::new(), Vec::new());
        Session { reader, writer, buffer, stdout, stderr, pid: 0 }
    }

    pub(super) async fn run(&self, request: ExecRequest) -> Outcome {
        self.open(request).await.finish().await
    }

    /// Standard output of a shell script that must succeed.
    pub(super) async fn sh(&self, script: &str) -> String {
        let outcome = self.run(sh(script)).await;
        assert_eq!(outcome.end, exited(0), "{outcome:?}");
        outcome.stdout
    }

    /// Asks for a shutdown; the exit code of the agent.
    pub(super) async fn shut_down(mut self, grace_ms: u64) -> Option<i32> {
        self.send(&ControlInput::Shutdown { grace_ms }).await;
        assert_eq!(self.receive().await, Some(ControlOutput::Bye));
        assert_eq!(self.receive().await, None);
        timeout(LIMIT, self.driver).await.unwrap().unwrap().unwrap();
        gone(self.child.id()).await;
        self.child.wait().unwrap().code()
    }

    pub(super) fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Session {
    /// The next message; output on the way to it is gathered.
    pub(super) async fn message(&mut self) -> Option<ExecOutput> {
        loop {
            let read = timeout(LIMIT, read_frame(&mut self.reader, &mut self.buffer));
            match read.await.expect("the agent answers").unwrap()? {
                Frame::Data { fd: 1, bytes } => self.stdout.extend_from_slice(bytes),
                Frame::Data { fd: 2, bytes } => self.stderr.extend_from_slice(bytes),
                Frame::Data { fd, .. } => panic!("output of {fd}"),
                frame @ Frame::Message(_) => match frame.message().unwrap() {
                    ExecOutput::InputTaken(_) => {}
                    message => return Some(message),
                },
            }
        }
    }

    pub(super) async fn started(&mut self) -> u32 {
        match self.message().await {
            Some(ExecOutput::Started { pid }) => {
                self.pid = pid;
                pid
            }
            other => panic!("{other:?}"),
        }
    }

    /// Reads until standard output ends with `text`.
    pub(super) async fn until(&mut self, text: &str) {
        while !self.stdout.ends_with(text.as_bytes()) {
            let read = timeout(LIMIT, read_frame(&mut self.reader, &mut self.buffer));
            match read.await.expect("the command says it").unwrap() {
                Some(Frame::Data { fd: 1, bytes }) => self.stdout.extend_from_slice(bytes),
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&self.stdout)),
            }
        }
    }

    pub(super) async fn send(&mut self, input: ExecInput) {
        write_message(&mut self.writer, &input).await.unwrap();
    }

    pub(super) async fn finish(mut self) -> Outcome {
        let end = match self.message().await.unwrap() {
            ExecOutput::Started { .. } => self.message().await.unwrap(),
            end => end,
        };
        assert_eq!(self.message().await, None, "nothing follows the end");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome { stdout: text(&self.stdout), stderr: text(&self.stderr), end }
    }
}

pub(super) fn command(argv: &[&str]) -> ExecRequest {
    ExecRequest { argv: argv.iter().map(ToString::to_string).collect(), ..ExecRequest::default() }
}

pub(super) fn sh(script: &str) -> ExecRequest {
    command(&["/bin/sh", "-c", script])
}

pub(super) fn with_stdin(mut request: ExecRequest) -> ExecRequest {
    request.stdin = StdinMode::Pipe;
    request
}

pub(super) fn with_tty(mut request: ExecRequest) -> ExecRequest {
    request.tty = Some(Tty { rows: 30, cols: 100, term: "vt100".to_owned() });
    request
}

pub(super) const fn exited(code: i32) -> ExecOutput {
    ExecOutput::Exited(ExitStatus::Code(code))
}

pub(super) const fn signalled(signal: i32) -> ExecOutput {
    ExecOutput::Exited(ExitStatus::Signal(signal))
}

/// Waits for the end of a process; one that does not exist has ended.
pub(super) async fn gone(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::NONBLOCK) {
        // SAFETY: an owned descriptor stays the same and open until it is dropped.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.unwrap();
        let _guard = timeout(LIMIT, pidfd.readable()).await.expect("the process ends").unwrap();
    }
}

pub(super) fn number(text: &[u8]) -> u32 {
    String::from_utf8_lossy(text).trim().parse().unwrap()
}
