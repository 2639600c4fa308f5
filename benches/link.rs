//! The way to an agent without a guest (rows 12, 13 and 14 of the performance table): the real
//! supervisor, with the real agent as a process of this machine. And what a supervisor takes at rest.
//! Prints one table and exits with 1 when a gate fails.
//!
//! `cargo bench --features test-support --bench link`. Ours and its peer take turns; shown are
//! medians.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program that measures and prints; a failure is what a panic is for"
)]

use std::fs;
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use msb::client::{ExecConfig, ExecEvent, Stdin, exec};
use msb::home::Home;
use msb::runtime::Kernel;
use msb::spec::{DiskFormat, Image, ImageSource, Name, SandboxSpec, Status};
use msb::store::{Durability, NewSandbox, Store, StoreError};
use msb::supervisor::{self, DEFAULT_BOOT_TIMEOUT_MS, ImageDefaults, LaunchConfig};

const PAIRS: usize = 7;
/// Round trips in one measurement.
const ROUND_TRIPS: usize = 50;
/// The output of a command, in bytes.
const OUTPUT: usize = 20 << 20;
/// What is copied, in bytes.
const COPIED: usize = 100 << 20;
/// Sessions at a time.
const SESSIONS: usize = 100;
/// How long a supervisor is watched that has nothing to do.
const REST: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut table = Table::new();
    runtime.block_on(async {
        let up = Up::new().await;
        at_rest(&mut table, &up);
        let peer = Container::start(up.dir.path());
        round_trips(&mut table, &up, &peer).await;
        output(&mut table, &up).await;
        copies(&mut table, &up, &peer);
        sessions(&mut table, &up).await;
        within(supervisor::ControlClient::new(&up.home, &up.id).kill()).await.unwrap();
        within(supervisor::wait_until(&up.home, &up.id, |_| false)).await.unwrap();
    });
    if table.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.unwrap()
}

struct Table {
    failed: bool,
}

impl Table {
    fn new() -> Self {
        println!(
            "{:<46} {:>12} {:>12} {:>9} {:>7} {:>7}",
            "figure", "ours", "peer", "value", "gate", "aim"
        );
        Self { failed: false }
    }

    /// A value that must not be above its gate.
    fn row(&mut self, figure: &str, ours: &str, peer: &str, value: f64, (gate, aim): (f64, f64)) {
        let verdict = match (value <= gate, value <= aim) {
            (false, _) => "FAILED",
            (true, false) => "ok",
            (true, true) => "ok, aim reached",
        };
        self.failed |= value > gate;
        println!(
            "{figure:<46} {ours:>12} {peer:>12} {value:>9.2} {gate:>7.1} {aim:>7.1}  {verdict}"
        );
    }

    fn beside_podman(
        &mut self,
        figure: &str,
        (ours, theirs): (Vec<f64>, Vec<f64>),
        peer: &Peer,
        limits: (f64, f64),
    ) {
        match peer {
            Ok(_) => self.ratio(figure, (median(ours), median(theirs)), limits),
            Err(why) => println!("{figure:<46} {:>12} {:>12}  {why}", ms(median(ours)), "missing"),
        }
    }

    fn ratio(&mut self, figure: &str, (ours, peer): (f64, f64), limits: (f64, f64)) {
        self.row(figure, &ms(ours), &ms(peer), ours / peer, limits);
    }
}

fn ms(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1e3)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// A sandbox that runs and does nothing.
struct Up {
    home: Home,
    id: String,
    pid: u32,
    dir: tempfile::TempDir,
}

impl Up {
    async fn new() -> Self {
        // Files are where files of users are, and gone before they are written to the disk.
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        let id = supervisor::new_id().unwrap();
        let row = NewSandbox {
            id: &id,
            project: "bench",
            name: "one",
            spec_json: "{}",
            spec_hash: "h",
            image_digest: None,
            origin_file: None,
            protect: false,
            driver: Some("local"),
        };
        let store = Store::open(&home).unwrap();
        let made: Result<(), StoreError> = store.write(Durability::Relaxed, |w| {
            w.put_project("bench", "/srv/bench", &[])?;
            w.create_sandbox(&row)
        });
        made.unwrap();
        let image = Image { source: ImageSource::Oci("none".into()), platform: None };
        let config = LaunchConfig {
            id: id.clone(),
            project: "bench".into(),
            name: Name::new("one").unwrap(),
            spec: SandboxSpec::new(image),
            image: ImageDefaults::default(),
            driver: "local".into(),
            kernel: Kernel::default(),
            boot_disk: None,
            image_format: DiskFormat::Raw,
            image_file: None,
            patch_file: None,
            upper: None,
            volumes: std::collections::BTreeMap::new(),
            boot_timeout_ms: DEFAULT_BOOT_TIMEOUT_MS,
            require_jail: false,
            executable: Some(env!("CARGO_BIN_EXE_msb").into()),
            local_agent: None,
        };
        let launched = within(supervisor::launch(&home, &config)).await.unwrap();
        let running = |event: &supervisor::StatusEvent| event.status == Status::Running;
        let event = within(supervisor::wait_until(&home, &id, running)).await.unwrap();
        assert_eq!(event.status, Status::Running, "{event:?}");
        Self { home, id, pid: launched.pid, dir }
    }

    /// Runs a command to its end; how much it wrote.
    async fn run(&self, program: &str, arguments: &[&str]) -> usize {
        let config = ExecConfig::new(program).args(arguments.iter().copied());
        let mut session = exec(&self.home, &self.id, config).await.unwrap();
        let mut total = 0;
        while let Some(event) = session.recv().await.unwrap() {
            match event {
                ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => total += bytes.len(),
                ExecEvent::Started { .. } => {}
                ExecEvent::Exited(status) => assert!(status.success(), "{status:?}"),
            }
        }
        total
    }

    fn msb(&self, words: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_msb"));
        command.env("MSB_HOME", self.home.root()).args(["-p", "bench"]).args(words);
        succeed(&mut command);
    }

    /// A line of `/proc/PID/status` of the supervisor, as a number.
    fn status(&self, key: &str) -> u64 {
        number(Path::new(&format!("/proc/{}/status", self.pid)), key)
    }
}

fn number(path: &Path, key: &str) -> u64 {
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// How often any thread of the supervisor has begun to wait.
fn waits(up: &Up) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", up.pid)).unwrap();
    let waits =
        tasks.map(|task| number(&task.unwrap().path().join("status"), "voluntary_ctxt_switches"));
    waits.sum()
}

/// Before all else: nothing has been asked of it.
fn at_rest(table: &mut Table, up: &Up) {
    // What belongs to the start ends first.
    std::thread::sleep(REST / 5);
    let before = waits(up);
    std::thread::sleep(REST);
    let woken = waits(up) - before;
    let resident = up.status("VmRSS") as f64 / 1024.0;
    let own = up.status("RssAnon") as f64 / 1024.0;
    let figure = format!("wake-ups of an idle supervisor in {} s", REST.as_secs());
    table.row(&figure, &woken.to_string(), "-", woken as f64, (0.0, 0.0));
    let mib = |value: f64| format!("{value:.1} MiB");
    table.row("resident memory of an idle supervisor", &mib(resident), "-", resident, (10.0, 10.0));
    table.row("of it its own, not files'", &mib(own), "-", own, (10.0, 4.0));
}

async fn round_trips(table: &mut Table, up: &Up, peer: &Peer) {
    let mut samples = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let begun = Instant::now();
        for _ in 0..ROUND_TRIPS {
            up.run("/bin/true", &[]).await;
        }
        samples.0.push(begun.elapsed().as_secs_f64() / ROUND_TRIPS as f64);
        let local =
            timed(|| (0..ROUND_TRIPS).for_each(|_| succeed(&mut Command::new("/bin/true"))));
        samples.1.push(local / ROUND_TRIPS as f64);
    }
    let (ours, local) = (median(samples.0), median(samples.1));
    table.row("exec round trip, ms; fork + exec", &ms(ours), &ms(local), ours * 1e3, (5.0, 2.0));
    let mut samples = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        samples.0.push(timed(|| up.msb(&["exec", "one", "--", "/bin/true"])));
        if let Ok(container) = peer {
            samples.1.push(timed(|| container.exec(&["/bin/true"])));
        }
    }
    table.beside_podman("`msb exec`; `podman exec`", samples, peer, (0.5, 0.1));
}

async fn output(table: &mut Table, up: &Up) {
    let bytes = OUTPUT.to_string();
    let arguments = ["-c", &bytes, "/dev/zero"];
    let mut samples = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let begun = Instant::now();
        assert_eq!(up.run("/usr/bin/head", &arguments).await, OUTPUT);
        samples.0.push(begun.elapsed().as_secs_f64());
        samples.1.push(timed(|| assert_eq!(local_output(&arguments), OUTPUT)));
    }
    let figures = (median(samples.0), median(samples.1));
    table.ratio("20 MiB of output; by a pipe", figures, (10.0, 3.0));
}

fn local_output(arguments: &[&str]) -> usize {
    let mut child =
        Command::new("/usr/bin/head").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let (mut space, mut total) = (vec![0; 64 << 10], 0);
    loop {
        match output.read(&mut space).unwrap() {
            0 => break,
            count => total += count,
        }
    }
    child.wait().unwrap();
    total
}

fn copies(table: &mut Table, up: &Up, peer: &Peer) {
    let at = |name: &str| up.dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("large"), vec![7; COPIED]).unwrap();
    let there = format!("one:{}", at("there"));
    let from = format!("one:{}", at("large"));
    let mut samples = (Vec::new(), Vec::new(), Vec::new());
    let mut podman = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let mut cp = Command::new("cp");
        samples.0.push(timed(|| up.msb(&["--quiet", "cp", &at("large"), &there])));
        samples.1.push(timed(|| up.msb(&["--quiet", "cp", &from, &at("here")])));
        samples.2.push(timed(|| succeed(cp.args([at("large"), at("plain")]))));
        for name in ["there", "here"] {
            assert_eq!(fs::metadata(at(name)).unwrap().len(), COPIED as u64);
            fs::remove_file(at(name)).unwrap();
        }
        fs::remove_file(at("plain")).unwrap();
        if let Ok(container) = peer {
            let there = format!("{}:/there", container.name);
            podman.0.push(timed(|| container.cp(&at("large"), &there)));
            podman.1.push(timed(|| container.cp(&there, &at("plain"))));
            fs::remove_file(at("plain")).unwrap();
        }
    }
    let plain = median(samples.2);
    // No gate: what it must keep up with is the other way into a sandbox.
    let limits = (f64::INFINITY, 2.5);
    table.ratio("100 MiB copied in; `cp`", (median(samples.0.clone()), plain), limits);
    table.ratio("100 MiB copied out; `cp`", (median(samples.1.clone()), plain), limits);
    let (to, from) = ((samples.0, podman.0), (samples.1, podman.1));
    table.beside_podman("100 MiB copied in; `podman cp`", to, peer, (0.5, 0.5));
    table.beside_podman("100 MiB copied out; `podman cp`", from, peer, (0.5, 0.5));
}

/// Many sessions that talk, then one that nobody reads beside some that are.
async fn sessions(table: &mut Table, up: &Up) {
    let before = up.status("VmHWM");
    let begun = Instant::now();
    let mut talking = tokio::task::JoinSet::new();
    for number in 0..SESSIONS {
        let (home, id) = (up.home.clone(), up.id.clone());
        talking.spawn(async move {
            let config = ExecConfig::new("/bin/cat").stdin(Stdin::Pipe);
            let mut session = exec(&home, &id, config).await.unwrap();
            let sink = session.take_stdin().unwrap();
            let said = vec![u8::try_from(number).unwrap(); 64 << 10];
            let (sent, output) = tokio::join!(
                async {
                    let sent = sink.write(&said).await;
                    sink.close();
                    sent
                },
                session.collect()
            );
            sent.unwrap();
            assert!(output.unwrap().stdout_bytes() == said);
        });
    }
    while let Some(talked) = talking.join_next().await {
        talked.unwrap();
    }
    let took = begun.elapsed().as_secs_f64() / SESSIONS as f64;
    let alone = {
        let begun = Instant::now();
        for _ in 0..ROUND_TRIPS {
            up.run("/bin/true", &[]).await;
        }
        begun.elapsed().as_secs_f64() / ROUND_TRIPS as f64
    };
    table.ratio("one of 100 sessions at a time; one alone", (took, alone), (5.0, 2.0));
    let config = ExecConfig::new("/bin/cat").args(["/dev/zero"]);
    let unread = exec(&up.home, &up.id, config).await.unwrap();
    let begun = Instant::now();
    for _ in 0..ROUND_TRIPS {
        up.run("/bin/true", &[]).await;
    }
    let beside = begun.elapsed().as_secs_f64() / ROUND_TRIPS as f64;
    table.ratio("a round trip beside one nobody reads; alone", (beside, alone), (2.0, 1.2));
    drop(unread);
    let more = (up.status("VmHWM") - before) as f64 / 1024.0;
    table.row("memory for all that, MiB", &format!("{more:.1} MiB"), "-", more, (64.0, 32.0));
}

/// The peer: a container of the same machine's programs.
/// A container of podman, or why there is none.
type Peer = Result<Container, String>;

struct Container {
    name: String,
    dir: PathBuf,
}

impl Container {
    fn start(dir: &Path) -> Peer {
        let dir = dir.join("container");
        for sub in
            ["rootfs/bin", "rootfs/dev", "rootfs/proc", "rootfs/sys", "rootfs/etc", "rootfs/run"]
        {
            fs::create_dir_all(dir.join(sub)).map_err(|error| error.to_string())?;
        }
        for program in ["busybox", "sleep", "true"] {
            fs::copy("/bin/busybox", dir.join("rootfs/bin").join(program))
                .map_err(|error| format!("busybox-static: {error}"))?;
        }
        // Its own limits may be higher than who runs this is allowed.
        fs::write(dir.join("containers.conf"), "[containers]\ndefault_ulimits = []\n")
            .map_err(|error| error.to_string())?;
        let name = format!("msb-bench-{}", std::process::id());
        let container = Self { name, dir };
        let rootfs = container.dir.join("rootfs");
        let words = ["run", "-d", "--network", "none", "--name", &container.name, "--rootfs"];
        let output = container.podman(&words).arg(rootfs).args(["/bin/sleep", "3600"]).output();
        match output {
            Ok(output) if output.status.success() => Ok(container),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(said.lines().last().unwrap_or_default().to_owned())
            }
            Err(error) => Err(format!("podman: {error}")),
        }
    }

    fn podman(&self, words: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        command.args(["--cgroup-manager", "cgroupfs"]).args(words).stdin(Stdio::null());
        command
    }

    fn exec(&self, words: &[&str]) {
        succeed(self.podman(&["exec", &self.name]).args(words));
    }

    fn cp(&self, from: &str, to: &str) {
        succeed(&mut self.podman(&["cp", from, to]));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.podman(&["rm", "-f", "-t", "0", &self.name]).output();
    }
}
