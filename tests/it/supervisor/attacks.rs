//! Guests that attack the link itself: raw bytes in the place of the agent. Whatever they do, the
//! supervisor lives or ends the sandbox with a reason, takes little memory for it, and leaves the
//! neighbour alone.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use msb_protocol::{GuestMetrics, Preamble, append_message};
use serde::Serialize;

use super::*;

/// What an attack may cost a supervisor over what one takes that is not attacked, in KiB.
const MEMORY_KIB: u64 = 64 << 10;
/// Sessions that nobody reads.
const UNREAD: usize = 8;
/// The sessions that a supervisor grants.
const ALL_SESSIONS: usize = 128;
/// What a stream may have under way, in bytes.
const WINDOW: usize = 256 << 10;

/// Types and flags of the frames that carry streams (yamux).
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const PING: u8 = 2;
const GO_AWAY: u8 = 3;
const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

/// A guest's end of the link, by hand.
struct Raw {
    link: UnixStream,
    /// Streams that the host has opened, and what it said there first.
    opened: BTreeMap<u32, Vec<u8>>,
}

fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    let mut bytes = vec![0, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

fn message(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    append_message(&mut bytes, message).unwrap();
    bytes
}

impl Raw {
    fn new() -> Self {
        let link = io::stdin().as_fd().try_clone_to_owned().unwrap();
        Self { link: UnixStream::from(link), opened: BTreeMap::new() }
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.link.write_all(bytes).is_err() {
            // The supervisor has hung up, as it should; the VM would be killed next.
            std::process::exit(0);
        }
    }

    fn send(&mut self, flags: u16, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap();
        self.write(&[&frame(DATA, flags, stream, length), payload].concat());
    }

    fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        if self.link.read_exact(&mut bytes).is_err() {
            std::process::exit(0);
        }
        bytes
    }

    fn shake_hands(&mut self) {
        self.write(&Preamble::OURS.encode());
        self.read(Preamble::LEN);
    }

    /// The next frame with a payload: its stream.
    fn hear(&mut self) -> u32 {
        loop {
            let header = self.read(12);
            let number = |at: usize| u32::from_be_bytes(*header[at..].first_chunk().unwrap());
            if header[1] != DATA {
                continue;
            }
            let payload = self.read(number(8) as usize);
            if !payload.is_empty() {
                self.opened.entry(number(4)).or_default().extend(payload);
                return number(4);
            }
        }
    }

    /// Boots as an agent does, up to here: the control stream is 1.
    fn boot(&mut self) {
        self.shake_hands();
        // What the stream is for, and how to boot.
        for _ in 0..2 {
            assert_eq!(self.hear(), 1);
        }
    }

    fn ready(&mut self) {
        self.boot();
        self.send(ACK, 1, &message(&READY));
    }

    /// Waits until the host has opened so many streams besides, and said what for.
    fn streams(&mut self, count: usize) -> Vec<u32> {
        while self.opened.keys().filter(|stream| **stream > 1).count() < count {
            self.hear();
        }
        self.opened.keys().copied().filter(|stream| *stream > 1).collect()
    }

    /// Answers whoever asks for metrics, which tells that all before has been sent.
    fn answer_metrics(&mut self, answer: &[u8]) -> ! {
        let asked = message(&Request::Metrics);
        loop {
            let stream = self.hear();
            if self.opened.get(&stream) == Some(&asked) {
                self.send(ACK, stream, answer);
            }
        }
    }

    /// Hears nothing and says nothing more.
    fn wait(&mut self) -> ! {
        loop {
            std::thread::park();
        }
    }

    fn hear_all(&mut self) -> ! {
        loop {
            self.hear();
        }
    }
}

const READY: ControlOutput = ControlOutput::Ready { uptime_us: 1 };

#[test]
#[ignore = "an agent of the tests in attacks.rs"]
fn helper_attack() {
    let attack = std::env::var("ATTACK").unwrap();
    let mut raw = Raw::new();
    let noise = vec![0xff; 64 << 10];
    match attack.as_str() {
        "no agent" => raw.write(&[b'x'; 64]),
        "an agent of the future" => raw.write(&Preamble { min: 900, max: 901 }.encode()),
        "half a preamble" => raw.write(&Preamble::OURS.encode()[..5]),
        "4 GiB of payload" => {
            raw.boot();
            raw.write(&frame(DATA, ACK, 1, u32::MAX));
            loop {
                raw.write(&noise);
            }
        }
        "a payload over its window" => {
            raw.boot();
            raw.send(ACK, 1, &vec![0; WINDOW + 1]);
            raw.hear_all();
        }
        "half a frame" => {
            raw.boot();
            raw.write(&frame(DATA, ACK, 1, 100)[..7]);
        }
        "half a payload" => {
            raw.boot();
            raw.write(&frame(DATA, ACK, 1, 100));
            raw.write(&[0; 50]);
        }
        "streams of its own" => {
            raw.boot();
            for stream in (2..).step_by(2) {
                raw.write(&frame(WINDOW_UPDATE, SYN, stream, 0));
            }
        }
        "a stream that is there" => {
            raw.boot();
            raw.write(&frame(WINDOW_UPDATE, SYN, 1, 0));
            raw.hear_all();
        }
        "answers to no ping" => {
            raw.boot();
            for number in 0.. {
                raw.write(&frame(PING, ACK, 0, number));
            }
        }
        "credit without end" => {
            raw.boot();
            loop {
                raw.write(&frame(WINDOW_UPDATE, ACK, 1, u32::MAX));
            }
        }
        "an unknown type" => {
            raw.boot();
            raw.write(&frame(9, 0, 1, 0));
            raw.hear_all();
        }
        "a message of 4 GiB" => {
            raw.boot();
            raw.send(ACK, 1, &[0, 0xff, 0xff, 0xff, 0xff]);
            raw.hear_all();
        }
        "an unknown kind" => {
            raw.boot();
            raw.send(ACK, 1, &[9, 0, 0, 0, 0]);
            raw.hear_all();
        }
        "output on the control stream" => {
            raw.boot();
            raw.send(ACK, 1, &[2, 1, 0, 0, 0, b'x']);
            raw.hear_all();
        }
        "a message of nothing but depth" => {
            raw.boot();
            let deep = [0x81; 100_000];
            let length = u32::try_from(deep.len()).unwrap().to_le_bytes();
            raw.send(ACK, 1, &[&[0], &length[..], &deep].concat());
            raw.hear_all();
        }
        "ready twice" => {
            raw.ready();
            raw.send(0, 1, &message(&READY));
            raw.hear_all();
        }
        "farewell first" => {
            raw.boot();
            raw.send(ACK, 1, &message(&ControlOutput::Bye));
            raw.hear_all();
        }
        "ready after it could not be set up" => {
            raw.boot();
            let failed = msb_protocol::BootFailed { stage: "x".into(), message: "y".into() };
            raw.send(ACK, 1, &message(&ControlOutput::BootFailed(failed)));
            raw.send(0, 1, &message(&READY));
            raw.hear_all();
        }
        "it hangs up" => {
            raw.boot();
            raw.write(&frame(DATA, FIN | ACK, 1, 0));
            raw.wait();
        }
        "it resets" => {
            raw.boot();
            raw.write(&frame(DATA, RST, 1, 0));
            raw.wait();
        }
        "it goes away" => {
            raw.boot();
            raw.write(&frame(GO_AWAY, 0, 0, 0));
            raw.wait();
        }
        // From here on it gets as far as running.
        "unknown streams" => {
            raw.boot();
            for stream in 0..200_u32 {
                raw.send(0, 1001 + 2 * stream, &vec![0; 1 << 20]);
                raw.write(&frame(WINDOW_UPDATE, 0, 3001, u32::MAX));
                raw.write(&frame(DATA, RST, 5001, 0));
            }
            raw.send(ACK, 1, &message(&READY));
            raw.answer_metrics(&message(&GuestMetrics::default()));
        }
        "pings" => {
            raw.boot();
            const PINGS: u32 = 200_000;
            let pings: Vec<u8> = (0..PINGS).flat_map(|n| frame(PING, SYN, 0, n)).collect();
            let mut link = raw.link.try_clone().unwrap();
            let sending = std::thread::spawn(move || link.write_all(&pings));
            // Each is answered; who does not read that is not read.
            raw.read(12 * PINGS as usize);
            sending.join().unwrap().unwrap();
            raw.send(ACK, 1, &message(&READY));
            raw.answer_metrics(&message(&GuestMetrics::default()));
        }
        "empty payloads" => {
            raw.boot();
            let empty: Vec<u8> = (0..1000).flat_map(|_| frame(DATA, ACK, 1, 0)).collect();
            for _ in 0..500 {
                raw.write(&empty);
            }
            raw.send(ACK, 1, &message(&READY));
            raw.answer_metrics(&message(&GuestMetrics::default()));
        }
        "answers before questions" => {
            raw.boot();
            let lie = GuestMetrics { disk_read_bytes: 666, ..GuestMetrics::default() };
            for stream in (3..21).step_by(2) {
                raw.send(ACK, stream, &message(&lie));
            }
            raw.send(ACK, 1, &message(&READY));
            raw.answer_metrics(&message(&GuestMetrics::default()));
        }
        "byte by byte" => {
            raw.ready();
            for stream in raw.streams(UNREAD) {
                let bytes: Vec<u8> = (0..WINDOW)
                    .flat_map(|_| [frame(DATA, 0, stream, 1), vec![2]].concat())
                    .collect();
                raw.write(&bytes);
            }
            raw.answer_metrics(&message(&GuestMetrics::default()));
        }
        "all windows" => {
            raw.ready();
            for stream in raw.streams(ALL_SESSIONS) {
                for _ in 0..8 {
                    raw.send(0, stream, &vec![2; WINDOW / 8]);
                }
            }
            raw.answer_metrics(&message(&GuestMetrics::default()));
        }
        "no answer" => {
            raw.ready();
            raw.hear_all();
        }
        "no word is read" => {
            raw.ready();
            raw.wait();
        }
        "metrics of nonsense" => {
            raw.ready();
            let answer = message(&BTreeMap::from([("cpu_us", f64::NAN), ("net_rx_bytes", -1.0)]));
            raw.answer_metrics(&answer);
        }
        "metrics of 4 GiB" => {
            raw.ready();
            raw.answer_metrics(&[0, 0xff, 0xff, 0xff, 0xff]);
        }
        "metrics of all there is" => {
            raw.ready();
            raw.answer_metrics(&message(&GuestMetrics {
                cpu_us: u64::MAX,
                memory_total_bytes: u64::MAX,
                memory_available_bytes: 0,
                disk_read_bytes: u64::MAX,
                disk_write_bytes: u64::MAX,
                net_rx_bytes: u64::MAX,
                net_tx_bytes: u64::MAX,
            }));
        }
        other => panic!("{other}"),
    }
}

/// An honest sandbox, and attacks in another one of the same project.
struct Siege {
    bench: Bench,
    neighbour: Up,
    usual_kib: u64,
}

fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Looks at the memory of a process until it has ended; the most it has had.
fn measure(pid: u32) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut peak = 0;
        while let Some(now) = peak_kib(pid) {
            peak = peak.max(now);
            std::thread::park_timeout(Duration::from_millis(5));
        }
        peak
    })
}

impl Siege {
    async fn begin() -> Self {
        let bench = bench();
        let neighbour = bench.launch(bench.config("neighbour", idle())).await;
        neighbour.running().await;
        let output = neighbour.run("head -c 1000000 /dev/zero | tr '\\0' x").await.1;
        assert_eq!(output.len(), 1_000_000);
        within(neighbour.client.metrics()).await.unwrap();
        let usual_kib = peak_kib(neighbour.launched.pid).unwrap();
        Self { bench, neighbour, usual_kib }
    }

    async fn attack(&self, attack: &str) -> Up {
        let name = format!("a{}", attack.replace(' ', "-").to_lowercase());
        let mut config = self.bench.config(&name, idle());
        let binary = std::env::current_exe().unwrap();
        let helper = "supervisor::attacks::helper_attack";
        config.local_agent = Some(self.bench.script(&format!(
            "ATTACK='{attack}' exec {} --exact {helper} --ignored --nocapture <&3",
            binary.display()
        )));
        self.bench.launch(config).await
    }

    /// The neighbour is as it was.
    async fn assert_harmless(&self, attack: &str, peak_kib: u64) {
        let more = peak_kib.saturating_sub(self.usual_kib);
        eprintln!("{attack}: {more} KiB over {}", self.usual_kib);
        assert!(more < MEMORY_KIB, "{attack}: {more} KiB over {}", self.usual_kib);
        let answer = self.neighbour.run("echo fine").await.1;
        assert_eq!(answer, "fine\n", "{attack}");
    }

    /// The sandbox stays, and ends when it is told to.
    async fn assert_obedient(&self, attack: &str, up: &Up) {
        let status = within(up.client.status()).await.unwrap();
        assert_eq!(status.status, Status::Running, "{attack}: {status:?}");
        self.assert_harmless(attack, peak_kib(up.launched.pid).unwrap()).await;
        within(up.client.kill()).await.unwrap();
        assert_eq!(up.ended().await.status, Status::Stopped, "{attack}");
    }
}

const BROKE: &str = "the agent broke the protocol";

#[tokio::test]
async fn who_breaks_the_protocol_is_ended_with_a_reason() {
    let siege = Siege::begin().await;
    for (attack, reason) in [
        ("no agent", BROKE),
        ("an agent of the future", "speaks versions 900 to 901"),
        ("half a preamble", "the VM ended unexpectedly"),
        ("4 GiB of payload", BROKE),
        ("a payload over its window", "broke the rules of streams"),
        ("half a frame", "the VM ended unexpectedly"),
        ("half a payload", "the VM ended unexpectedly"),
        ("streams of its own", "the peer opened a stream"),
        ("a stream that is there", BROKE),
        ("answers to no ping", "broke the rules of streams"),
        ("credit without end", "broke the rules of streams"),
        ("an unknown type", BROKE),
        ("a message of 4 GiB", "4294967295 bytes is too long"),
        ("an unknown kind", "unknown frame kind 9"),
        ("output on the control stream", "unexpected frame"),
        ("a message of nothing but depth", "malformed message"),
        ("ready twice", "a message out of turn"),
        ("farewell first", "a message out of turn"),
        ("ready after it could not be set up", "x: y"),
        ("it hangs up", "the control stream was closed"),
        ("it resets", "the control stream was closed"),
        ("it goes away", "the link to the guest broke"),
    ] {
        let up = siege.attack(attack).await;
        let memory = measure(up.launched.pid);
        let event = up.ended().await;
        assert_eq!(event.status, Status::Crashed, "{attack}: {event:?}");
        let error = event.error.unwrap();
        assert!(error.contains(reason), "{attack}: {error}");
        gone(up.launched.pid).await;
        siege.assert_harmless(attack, memory.join().unwrap()).await;
    }
}

#[tokio::test]
async fn floods_are_passed_over() {
    let siege = Siege::begin().await;
    for attack in ["unknown streams", "pings", "empty payloads", "answers before questions"] {
        let up = siege.attack(attack).await;
        up.running().await;
        let asked = within(up.client.metrics()).await;
        assert!(
            asked.as_ref().is_ok_and(|sample| sample.disk_read_bytes == 0),
            "{attack}: {asked:?}"
        );
        siege.assert_obedient(attack, &up).await;
    }
}

#[tokio::test]
async fn sessions_that_nobody_reads_take_their_windows_and_no_more() {
    let siege = Siege::begin().await;
    for (attack, count) in [("byte by byte", UNREAD), ("all windows", ALL_SESSIONS)] {
        let up = siege.attack(attack).await;
        up.running().await;
        let mut unread = Vec::new();
        for _ in 0..count {
            unread.push(within(up.client.exec(command("true"))).await.unwrap());
        }
        // It answers when it has sent all.
        while within(up.client.metrics()).await.is_err() {}
        siege.assert_obedient(attack, &up).await;
    }
}

#[tokio::test]
async fn a_guest_that_never_answers_holds_up_nobody() {
    let siege = Siege::begin().await;
    for attack in ["no answer", "no word is read"] {
        let up = siege.attack(attack).await;
        up.running().await;
        let mut sessions = Vec::new();
        for _ in 0..4 {
            let request = ExecRequest { stdin: StdinMode::Pipe, ..command("true") };
            let mut session = within(up.client.exec(request)).await.unwrap();
            // Far more than a window.
            let flood = vec![0; 4 << 20];
            let stuck = async { write_data(&mut session.stream, 0, &flood).await };
            let stuck = tokio::time::timeout(Duration::from_millis(100), stuck).await;
            assert!(stuck.is_err(), "{attack}: somebody took it");
            sessions.push(session);
        }
        let asked = within(up.client.metrics()).await;
        let denied = matches!(asked, Err(ControlError::Denied(DeniedReason::NoAnswer)));
        assert!(denied, "{attack}: {asked:?}");
        siege.assert_obedient(attack, &up).await;
    }
}

#[tokio::test]
async fn lies_about_metrics_are_refused_or_bounded() {
    let siege = Siege::begin().await;
    for attack in ["metrics of nonsense", "metrics of 4 GiB"] {
        let up = siege.attack(attack).await;
        up.running().await;
        let asked = within(up.client.metrics()).await;
        let denied = matches!(asked, Err(ControlError::Denied(DeniedReason::NoAnswer)));
        assert!(denied, "{attack}: {asked:?}");
        siege.assert_obedient(attack, &up).await;
    }
    let attack = "metrics of all there is";
    let up = siege.attack(attack).await;
    up.running().await;
    let sample = within(up.client.metrics()).await.unwrap();
    assert_eq!(sample.memory_bytes, sample.memory_limit_bytes);
    assert!(sample.cpu_us <= sample.uptime_us * u64::from(sample.cpus));
    let metrics = within(msb::client::metrics(&siege.bench.home, &up.config.id)).await.unwrap();
    assert!((0.0..=100.0 * f64::from(sample.cpus)).contains(&metrics.cpu_percent));
    let all = within(msb::client::all_sandbox_metrics(&siege.bench.home)).await.unwrap();
    assert_eq!(all.len(), 2);
    siege.assert_obedient(attack, &up).await;
}
