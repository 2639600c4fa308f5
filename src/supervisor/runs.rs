//! All runs of one supervisor: the first, and those that the restart policy has follow.
//!
//! The socket, the locks and the watchers outlive a run, so that a sandbox that is waiting for its
//! next run can be asked, watched and stopped like any other.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::control::{
    Asked, Clients, ControlRequest, DeniedReason, Granted, Socket, StatusEvent, serve,
};
use super::link::attend;
use super::logs::LogWriter;
use super::mounts::Mounts;
use super::process::{self, CONSOLE_MAX, Hold, StartedVm};
use super::record::{Subject, record};
use super::restart::{Restarts, RunEnd};
use super::run::{Ended, Notice, Orders, Place, Run, Sinks, Sources, at, expiry};
use super::state::EXPIRED;
use super::{LaunchConfig, SandboxPaths, filling, identity, workload};
use crate::home::Home;
use crate::runtime::{self, Driver, Vm};
use crate::spec::Status;
use crate::store::{RunIdentity, now_ms};

/// How long clients have to read their last status.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);
/// How long the last words on the console are waited for: they have been sent.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A supervisor and its sandbox.
#[derive(Debug)]
pub(super) struct Runs {
    driver: Box<dyn Driver>,
    paths: SandboxPaths,
    /// This process, in its first run.
    owner: RunIdentity,
    /// As the last update left it.
    config: LaunchConfig,
    orders: Orders,
    changes: mpsc::UnboundedSender<StatusEvent>,
    changed: Option<mpsc::UnboundedReceiver<StatusEvent>>,
    place: Place,
    restarts: Restarts,
}

/// A run whose VM has been started.
struct Begun {
    run: Run,
    notices: mpsc::Receiver<Notice>,
    health: mpsc::Receiver<super::health::HealthChange>,
    console: JoinHandle<io::Result<()>>,
}

/// Why no other run begins while one is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// Somebody wants it so.
    Asked,
    /// The sandbox has had its time.
    Expired,
}

impl Runs {
    /// Of a sandbox whose first run, `owner`, begins.
    pub(super) fn new(
        driver: Box<dyn Driver>,
        paths: SandboxPaths,
        owner: RunIdentity,
        config: LaunchConfig,
        orders: Orders,
    ) -> Self {
        let (changes, changed) = mpsc::unbounded_channel();
        let place = Place { since: Instant::now(), restarts: 0 };
        let (changed, restarts) = (Some(changed), Restarts::default());
        Self { driver, paths, owner, config, orders, changes, changed, place, restarts }
    }

    /// Attends the run of `vm` and all that follow, to the end of the last. Calls `begun` when
    /// clients are served.
    pub(super) async fn attend(
        mut self,
        home: Home,
        vm: StartedVm,
        (socket, asked, hold): (Socket, mpsc::Sender<Asked>, Hold),
        begun: impl FnOnce(),
    ) {
        let first = self.begin(self.owner.clone(), vm);
        let (watchers, status) = watch::channel(first.run.event());
        let subject = Arc::new(Subject {
            home,
            project: self.config.project.clone(),
            name: self.config.name.to_string(),
            owner: self.owner.clone(),
        });
        let Some(changed) = self.changed.take() else { return };
        let recorder = tokio::task::spawn_local(record(subject, changed, watchers, || drop(hold)));
        let clients = Clients::default();
        let serving = tokio::task::spawn_local(serve(socket, clients.clone(), asked, status));
        begun();
        let last = self.all(first).await;
        let _ = self.changes.send(last);
        drop(self);
        // Whoever hears of the end finds it in the row, and the sandbox free; then the clients go.
        let _ = recorder.await;
        serving.abort();
        let _ = serving.await;
        clients.finish(FAREWELL).await;
    }

    /// The last status of all, which has not been told.
    async fn all(&mut self, first: Begun) -> StatusEvent {
        let mut ended = self.finish(first).await;
        loop {
            let (last, end) = ended;
            let (status, code) = (last.status, last.exit_code);
            tracing::info!(%status, exit_code = code, error = last.error, "ended");
            let Some(pause) = self.restarts.after(self.config.spec.restart, end) else {
                return last;
            };
            if let Some(over) = self.wait(&last, end.failed, pause).await {
                return self.given_up(last, over);
            }
            self.place.restarts = self.restarts.count();
            ended = self.again(last).await;
        }
    }

    fn begin(&self, identity: RunIdentity, (vm, links, mut files): StartedVm) -> Begun {
        let (notices_in, notices) = mpsc::channel(16);
        let (health_in, health) = mpsc::channel(16);
        let (link, commands) = mpsc::channel(4);
        let console = tokio::task::spawn_local({
            let path = self.paths.console_log();
            async move { runtime::record_console(links.console, &path, CONSOLE_MAX).await }
        });
        let shares = Mounts::of(&self.config).shares;
        let boot = filling::settle(workload::boot_config(&self.config), shares);
        let link_task = attend(links.agent, boot, commands, notices_in.clone());
        let link_task = tokio::task::spawn_local(link_task);
        let vm: Arc<dyn Vm> = Arc::from(vm);
        let watching = process::watch_vm(Arc::clone(&vm), link_task, notices_in.clone());
        tokio::task::spawn_local(watching);
        let changes = self.changes.clone();
        let sinks = Sinks { link, notices: notices_in, health: health_in, changes };
        let log = LogWriter::new(&self.paths.logs());
        files.watch(&vm, &sinks.notices);
        let run = Run::new(self.config.clone(), identity, (vm, files), log, sinks, self.place);
        Begun { run, notices, health, console }
    }

    async fn finish(&mut self, begun: Begun) -> (StatusEvent, RunEnd) {
        let Begun { run, notices, health, console } = begun;
        let sources = Sources { notices, health, orders: &mut self.orders };
        let Ended { config, mut last, end, files } = run.until_the_end(sources).await;
        self.config = config;
        let _ = tokio::time::timeout(LAST_WORDS, console).await;
        files.finish().await;
        if last.status == Status::Crashed && !last.started {
            process::explain(&mut last, &self.config.driver, &self.paths.console_log());
        }
        (last, end)
    }

    /// Another run of the sandbox, from its beginning to its end.
    async fn again(&mut self, before: StatusEvent) -> (StatusEvent, RunEnd) {
        let begun = identity::new_run_id().map_err(|e| e.to_string()).and_then(|run_id| {
            let vm = process::start_vm(&*self.driver, &self.config, &run_id)?;
            Ok((RunIdentity { run_id, ..self.owner.clone() }, vm))
        });
        match begun {
            Ok((run, vm)) => {
                tracing::info!(run = run.run_id, vm = vm.0.pid(), "started again");
                let begun = self.begin(run, vm);
                let _ = self.changes.send(begun.run.event());
                self.finish(begun).await
            }
            Err(why) => {
                let error = format!("cannot start the VM: {why}");
                let last = StatusEvent {
                    at_ms: now_ms(),
                    status: Status::Crashed,
                    started: false,
                    exit_code: None,
                    error: Some(error),
                    restarts: self.place.restarts,
                    ..before
                };
                (last, RunEnd { ran: None, failed: true, asked: false })
            }
        }
    }

    /// Waits for the time of the next run; why there is none, otherwise.
    async fn wait(&mut self, last: &StatusEvent, failed: bool, pause: Duration) -> Option<Over> {
        let millis = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        let now = now_ms();
        let _ = self.changes.send(StatusEvent {
            at_ms: now,
            status: Status::Restarting,
            health: None,
            started: true,
            vm_pid: None,
            restart_at_ms: Some(now.saturating_add(millis)),
            ..last.clone()
        });
        let next = Instant::now().checked_add(pause);
        loop {
            tokio::select! {
                () = at(next) => return None,
                () = at(expiry(&self.config.spec, self.place.since)) => return Some(Over::Expired),
                _ = self.orders.terminate.recv() => return Some(Over::Asked),
                Some(asked) = self.orders.asked.recv() => {
                    let (answer, over) = self.decide(asked.request, failed);
                    let _ = asked.answer.send(answer);
                    if over {
                        return Some(Over::Asked);
                    }
                }
            }
        }
    }

    /// The answer to a request while no VM runs, and whether the wait is over.
    fn decide(
        &mut self,
        request: ControlRequest,
        failed: bool,
    ) -> (Result<Granted, DeniedReason>, bool) {
        match request {
            ControlRequest::Status | ControlRequest::Watch => (Ok(Granted::Done), false),
            ControlRequest::Stop { .. } | ControlRequest::Drain | ControlRequest::Kill => {
                (Ok(Granted::Done), true)
            }
            ControlRequest::Update(spec) => {
                process::set_log_level(spec.log_level);
                self.config.spec = *spec;
                let wanted = self.restarts.still(self.config.spec.restart, failed);
                (Ok(Granted::Done), !wanted)
            }
            ControlRequest::Signal(_) => (Err(DeniedReason::NoWorkload), false),
            ControlRequest::Jail
            | ControlRequest::Attach
            | ControlRequest::Metrics
            | ControlRequest::Exec(_)
            | ControlRequest::Fs(_)
            | ControlRequest::Grow { .. } => (Err(DeniedReason::NotReady), false),
        }
    }

    fn given_up(&self, last: StatusEvent, over: Over) -> StatusEvent {
        let limit = self.config.spec.max_duration.unwrap_or_default();
        let error = match over {
            Over::Asked => last.error,
            Over::Expired => Some(format!("{EXPIRED} of {limit}")),
        };
        StatusEvent { at_ms: now_ms(), status: Status::Stopped, error, vm_pid: None, ..last }
    }
}
