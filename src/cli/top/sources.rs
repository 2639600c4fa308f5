//! Where the dashboard's events come from: supervisors, logs and the store.
//!
//! Nothing polls what nobody looks at: the kernel wakes for rows and logs, and only sandboxes that
//! run are measured, while the dashboard has the terminal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use super::state::{LOG_LINES, Seen, State};
use super::update::Event;
use crate::cli::args::Filter;
use crate::cli::error::CliError;
use crate::cli::filter;
use crate::client::MetricsSampler;
use crate::home::Home;
use crate::spec::{Name, SandboxSpec};
use crate::store::SandboxRow;
use crate::supervisor::logs::{LogFollower, LogRange, LogRecord};
use crate::supervisor::{ControlClient, SandboxPaths};

/// The time between two measurements of a sandbox.
const INTERVAL: Duration = Duration::from_secs(1);
/// The time to the first one that knows what the processors do.
const FIRST: Duration = Duration::from_millis(250);
/// How long a supervisor may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The shortest time between two looks at a log that grows.
const LOG_PAUSE: Duration = Duration::from_millis(100);
/// Events that wait to be taken in.
const QUEUE: usize = 64;

/// Which sandboxes the dashboard is about.
#[derive(Clone)]
pub(super) struct Scope {
    pub(super) home: Home,
    pub(super) project: Name,
    /// All where there are none.
    pub(super) names: Vec<Name>,
    pub(super) filter: Filter,
}

impl Scope {
    /// The rows as they are.
    fn rows(&self) -> Result<Vec<SandboxRow>, CliError> {
        let mut rows = filter::rows(&self.project, &[], &self.filter)?;
        rows.retain(|row| {
            self.names.is_empty() || self.names.iter().any(|name| name.as_str() == row.name)
        });
        Ok(rows)
    }
}

/// A task that ends with this.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A log that is followed.
struct FollowedLog {
    id: String,
    batches: mpsc::Receiver<Event>,
    _task: Task,
}

/// Everything that events come from.
pub(super) struct Sources {
    home: Home,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    reload: Arc<Notify>,
    samplers: BTreeMap<String, Task>,
    log: Option<FollowedLog>,
    _rows: Task,
}

impl Sources {
    /// Begins with what exists. Needs a tokio runtime.
    pub(super) fn new(scope: Scope) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let reload = Arc::new(Notify::new());
        let home = scope.home.clone();
        let rows = Task(tokio::spawn(rows(scope, Arc::clone(&reload), sender.clone())));
        let samplers = BTreeMap::new();
        Self { home, sender, events, reload, samplers, log: None, _rows: rows }
    }

    /// Where others put events.
    pub(super) fn sender(&self) -> mpsc::Sender<Event> {
        self.sender.clone()
    }

    /// Has what exists read again.
    pub(super) fn reload(&self) {
        self.reload.notify_one();
    }

    /// Measures what runs and follows the log that is shown, and nothing else.
    pub(super) fn look_at(&mut self, state: &State) {
        let live = state.sandboxes.iter().filter(|sandbox| sandbox.seen.row.status.is_live());
        let live: Vec<&str> = live.map(|sandbox| sandbox.seen.row.id.as_str()).collect();
        self.samplers.retain(|id, _| live.contains(&id.as_str()));
        for id in live {
            if !self.samplers.contains_key(id) {
                let sampler = MetricsSampler::new(&self.home, id);
                let task = sample(id.to_owned(), sampler, self.sender.clone());
                self.samplers.insert(id.to_owned(), Task(tokio::spawn(task)));
            }
        }
        let followed = state.followed();
        if self.log.as_ref().map(|log| log.id.as_str()) != followed {
            self.log = followed.and_then(|id| self.follow(id));
        }
    }

    /// Stops to measure and to follow, until the next look.
    pub(super) fn look_away(&mut self) {
        self.samplers.clear();
        self.log = None;
    }

    /// A log that is there; what has never run has none, and what cannot be read is as good as none.
    fn follow(&self, id: &str) -> Option<FollowedLog> {
        let dir = SandboxPaths::new(&self.home, id).logs();
        let range = LogRange { since: None, tail: Some(LOG_LINES) };
        let (records, follower) = dir.exists().then(|| LogFollower::open(&dir, &range).ok())??;
        let (send, batches) = mpsc::channel(1);
        let task = Task(tokio::spawn(follow(records, follower, send)));
        Some(FollowedLog { id: id.to_owned(), batches, _task: task })
    }

    /// The next event. Cancellation-safe.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            let log = async {
                match &mut self.log {
                    Some(log) => log.batches.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = self.events.recv() => return event,
                batch = log => match batch {
                    Some(event) => return event,
                    None => self.log = None,
                },
            }
        }
    }
}

/// Tells what exists at first and whenever it is asked to.
async fn rows(scope: Scope, reload: Arc<Notify>, send: mpsc::Sender<Event>) {
    loop {
        let event = match scope.rows() {
            Ok(rows) => Event::Rows(seen(&scope.home, rows).await),
            Err(error) => Event::Said { text: error.chain().join(": "), is_error: true },
        };
        if send.send(event).await.is_err() {
            return;
        }
        reload.notified().await;
    }
}

/// Rows with what only their supervisors know, all asked at the same time.
async fn seen(home: &Home, rows: Vec<SandboxRow>) -> Vec<Seen> {
    let mut asked = JoinSet::new();
    for row in rows {
        let client = ControlClient::new(home, &row.id);
        asked.spawn(async move {
            let status = async {
                let live = row.status.is_live();
                if live {
                    tokio::time::timeout(PATIENCE, client.status()).await.ok()?.ok()
                } else {
                    None
                }
            };
            let status = status.await;
            let cpus =
                serde_json::from_str(&row.spec_json).map_or(1, |spec: SandboxSpec| spec.cpus);
            let restarts = status.as_ref().map(|status| status.restarts);
            Seen { row, restarts, restart_at_ms: status.and_then(|s| s.restart_at_ms), cpus }
        });
    }
    let mut seen = asked.join_all().await;
    seen.sort_by(|a, b| a.row.name.cmp(&b.row.name));
    seen
}

/// Measures a sandbox for as long as somebody takes it.
async fn sample(id: String, mut sampler: MetricsSampler, send: mpsc::Sender<Event>) {
    // The first one cannot know what the processors do.
    let _ = tokio::time::timeout(PATIENCE, sampler.sample()).await;
    tokio::time::sleep(FIRST).await;
    loop {
        let sampled = tokio::time::timeout(PATIENCE, sampler.sample()).await;
        let metrics = sampled.ok().and_then(Result::ok);
        if send.send(Event::Metrics { id: id.clone(), metrics }).await.is_err() {
            return;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Passes a log on as it grows, until it cannot be read any more.
async fn follow(before: Vec<LogRecord>, mut follower: LogFollower, send: mpsc::Sender<Event>) {
    let mut batch = Event::Log { fresh: true, records: before };
    while send.send(batch).await.is_ok() {
        let records = loop {
            let Ok(()) = follower.changed().await else { return };
            match follower.read() {
                Ok(records) if records.is_empty() => {}
                Ok(records) => break records,
                Err(_) => return,
            }
        };
        batch = Event::Log { fresh: false, records };
        if !follower.is_behind() {
            tokio::time::sleep(LOG_PAUSE).await;
        }
    }
}
