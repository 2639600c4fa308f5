//! The run: the one task that owns the VM.
//!
//! ```text
//!  link ──────┐ Notice                       ┌─▶ VM: kill
//!  workload ──┤                              ├─▶ link: shut down
//!  VM's end ──┼─▶ Run ── StateDriver ─Effect─┼─▶ workload: start, signal
//!  health ────┤                              ├─▶ health: begin, end
//!  clients ───┤ Asked                        └─▶ recorder ─▶ store, then watchers
//!  one timer ─┘
//! ```
//!
//! When nothing happens nothing runs: there is a timer only in phases that have a time limit, and
//! between probes.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use msb_protocol::mux::Opener;
use msb_protocol::{ControlInput, Request};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::activity::{self, Activity};
use super::control::{Asked, ControlRequest, DeniedReason, Granted, JailLayer, StatusEvent};
use super::health::{self, HealthChange};
use super::logs::LogWriter;
use super::metrics::HostSide;
use super::mounts::Mounts;
use super::requests;
use super::restart::RunEnd;
use super::serving::Files;
use super::state::{Effect, Hook, Input, Phase, StateDriver, Time};
use super::{LaunchConfig, hooks, scripts, session, workload};
use crate::runtime::Vm;
use crate::spec::{Health, Millis, SandboxSpec, Status};
use crate::store::{RunIdentity, now_ms};

/// What the tasks around the run tell it.
#[derive(Debug)]
pub(super) enum Notice {
    /// For the state machine.
    Input(Input),
    /// The guest is set up; streams can be opened.
    Ready(Opener),
    /// Nobody uses the sandbox, of which this many uses have begun.
    Idle(u64),
}

/// Where the run hears from.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    pub(super) notices: mpsc::Receiver<Notice>,
    pub(super) health: mpsc::Receiver<HealthChange>,
    pub(super) orders: &'a mut Orders,
}

/// Where a supervisor hears from, whichever run it is in.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) asked: mpsc::Receiver<Asked>,
    pub(super) terminate: Signal,
}

/// The place of a run in the life of its supervisor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// When the first run began.
    pub(super) since: Instant,
    /// Runs that the restart policy has begun, this one included.
    pub(super) restarts: u32,
}

/// A run that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// As the run had it at last.
    pub(super) config: LaunchConfig,
    /// The last status, which has not been told.
    pub(super) last: StatusEvent,
    pub(super) end: RunEnd,
    pub(super) files: Files,
}

/// The run.
#[derive(Debug)]
pub(super) struct Run {
    config: LaunchConfig,
    identity: RunIdentity,
    state: StateDriver,
    vm: Arc<dyn Vm>,
    files: Files,
    log: Rc<RefCell<LogWriter>>,
    sinks: Sinks,
    opener: Option<Opener>,
    signals: Option<mpsc::Sender<i32>>,
    health: Option<Health>,
    probe_output: Option<String>,
    health_task: Option<AbortHandle>,
    hook_task: Option<AbortHandle>,
    activity: Activity,
    idle_task: Option<AbortHandle>,
    /// The guest boots with other scripts than it is to have.
    scripts_late: bool,
    /// Whether the guest has said that it has those that it was last given.
    scripts_there: Arc<AtomicBool>,
    /// It is to be stopped once the commands in it have ended.
    draining: bool,
    deadline: Option<Instant>,
    place: Place,
    began: Instant,
    /// When the workload was first seen to run.
    runs_since: Option<Instant>,
    ended: bool,
}

/// Where the run speaks to.
#[derive(Debug)]
pub(super) struct Sinks {
    pub(super) link: mpsc::Sender<ControlInput>,
    pub(super) notices: mpsc::Sender<Notice>,
    pub(super) health: mpsc::Sender<HealthChange>,
    pub(super) changes: mpsc::UnboundedSender<StatusEvent>,
}

impl Run {
    /// A run whose VM has been started.
    pub(super) fn new(
        config: LaunchConfig,
        identity: RunIdentity,
        (vm, files): (Arc<dyn Vm>, Files),
        log: LogWriter,
        sinks: Sinks,
        place: Place,
    ) -> Self {
        let has_workload = !workload::workload_argv(&config.spec, &config.image).is_empty();
        let timeout = Duration::from_millis(config.boot_timeout_ms);
        let (state, effects) =
            StateDriver::new(has_workload, workload::hook_set(&config.spec), timeout);
        let mut run = Self {
            health: config.spec.healthcheck.as_ref().map(|_| Health::Starting),
            config,
            identity,
            state,
            vm,
            files,
            log: Rc::new(RefCell::new(log)),
            sinks,
            opener: None,
            signals: None,
            probe_output: None,
            health_task: None,
            hook_task: None,
            activity: Activity::new(),
            idle_task: None,
            scripts_late: false,
            scripts_there: Arc::new(AtomicBool::new(true)),
            draining: false,
            deadline: None,
            place,
            began: Instant::now(),
            runs_since: None,
            ended: false,
        };
        run.apply(effects);
        run
    }

    /// The status as it is.
    pub(super) fn event(&self) -> StatusEvent {
        StatusEvent {
            id: self.config.id.clone(),
            run_id: self.identity.run_id.clone(),
            at_ms: now_ms(),
            status: match self.state.status() {
                Status::Running if self.draining => Status::Draining,
                status => status,
            },
            health: self.health,
            started: self.state.started(),
            exit_code: self.state.exit_code(),
            error: self.state.error().map(str::to_owned),
            probe_output: self.probe_output.clone(),
            vm_pid: Some(self.vm.pid()),
            restarts: self.place.restarts,
            restart_at_ms: None,
        }
    }

    /// Runs until the VM has ended.
    pub(super) async fn until_the_end(mut self, mut sources: Sources<'_>) -> Ended {
        while !self.ended {
            let expiry = expiry(&self.config.spec, self.place.since);
            let expiry = expiry.filter(|_| !self.state.asked());
            tokio::select! {
                () = at(self.deadline) => {
                    self.deadline = None;
                    self.take(Input::TimeUp);
                }
                () = self.activity.sessions_ended(self.opener.as_ref()),
                    if self.draining && !self.state.asked() =>
                {
                    let grace = self.config.spec.stop_grace_period.duration();
                    self.take(Input::Stop(grace));
                }
                () = at(expiry) => {
                    let grace = self.config.spec.stop_grace_period.duration();
                    let limit = self.config.spec.max_duration.unwrap_or_default().to_string();
                    self.take(Input::Expire { time: Time::Run, grace, limit });
                }
                Some(notice) = sources.notices.recv() => match notice {
                    Notice::Input(input) => self.take(input),
                    Notice::Idle(begun) => self.idle(begun),
                    Notice::Ready(opener) => {
                        self.opener = Some(opener.clone());
                        if std::mem::take(&mut self.scripts_late) {
                            self.bring_scripts(opener);
                        } else {
                            self.take(Input::Booted);
                        }
                    }
                },
                Some(asked) = sources.orders.asked.recv() => {
                    let answer = self.decide(asked.request);
                    let _ = asked.answer.send(answer);
                }
                Some(change) = sources.health.recv() => {
                    if self.health_task.is_some() {
                        self.health = Some(change.health);
                        self.probe_output = Some(change.output);
                        self.publish();
                    }
                }
                _ = sources.orders.terminate.recv() => {
                    let grace = self.config.spec.stop_grace_period.duration();
                    self.take(Input::Stop(grace));
                }
            }
        }
        let last = self.event();
        let end = RunEnd {
            ran: self.runs_since.filter(|_| last.started).map(|since| since.elapsed()),
            failed: last.status == Status::Crashed
                || !last.started
                || last.exit_code.is_some_and(|code| code != 0),
            asked: self.state.asked() || self.draining,
        };
        Ended { config: self.config, last, end, files: self.files }
    }

    fn take(&mut self, input: Input) {
        tracing::debug!(?input, phase = ?self.state.phase());
        let effects = self.state.step(input);
        self.apply(effects);
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            tracing::debug!(?effect);
            match effect {
                Effect::StartWorkload => self.start_workload(),
                Effect::RunHooks(hook) => self.run_hooks(hook),
                Effect::StopHooks => {
                    if let Some(task) = self.hook_task.take() {
                        task.abort();
                    }
                }
                Effect::StartWatches => {
                    self.start_health();
                    self.watch_idleness();
                }
                Effect::StopWatches => {
                    self.stop_health();
                    if let Some(task) = self.idle_task.take() {
                        task.abort();
                    }
                }
                Effect::SignalWorkload => {
                    let signal = workload::stop_signal(&self.config.spec, &self.config.image);
                    self.signal(signal.number());
                }
                Effect::KillWorkload => self.signal(crate::spec::Signal::KILL.number()),
                Effect::Shutdown(grace) => {
                    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                    // The queue is empty: only this is ever sent, once.
                    let _ = self.sinks.link.try_send(ControlInput::Shutdown { grace_ms });
                }
                Effect::KillVm => {
                    if let Err(error) = self.vm.kill() {
                        tracing::error!(%error, "cannot kill the VM");
                    }
                }
                Effect::Arm(time) => self.deadline = deadline(time),
                Effect::Shorten(time) => {
                    self.deadline = [self.deadline, deadline(time)].into_iter().flatten().min();
                }
                Effect::Publish => self.publish(),
                Effect::End => self.ended = true,
            }
        }
    }

    fn publish(&mut self) {
        let event = self.event();
        // The last one is told by the caller, when what belongs to it is known.
        if !event.has_ended() {
            let _ = self.sinks.changes.send(event);
        }
    }

    fn start_workload(&mut self) {
        let Some(opener) = self.opener.clone() else { return };
        let Some(request) = workload::workload(&self.config.spec, &self.config.image) else {
            return;
        };
        let (sender, signals) = mpsc::channel(16);
        self.signals = Some(sender);
        let notices = self.sinks.notices.clone();
        tokio::task::spawn_local(session::run(opener, request, self.log.clone(), signals, notices));
    }

    /// Brings the guest its scripts, before anything runs in it.
    fn bring_scripts(&self, opener: Opener) {
        let (files, notices) = (scripts::files(&self.config.spec), self.sinks.notices.clone());
        let there = Arc::clone(&self.scripts_there);
        tokio::task::spawn_local(async move {
            if let Err(why) = scripts::replace(&opener, files, &there).await {
                tracing::error!(why, "the scripts could not be written");
            }
            let _ = notices.send(Notice::Input(Input::Booted)).await;
        });
    }

    fn signal(&self, signal: i32) {
        if let Some(signals) = &self.signals {
            let _ = signals.try_send(signal);
        }
    }

    fn run_hooks(&mut self, hook: Hook) {
        self.runs_since.get_or_insert_with(Instant::now);
        let Some(opener) = self.opener.clone() else { return };
        let commands = workload::hooks(&self.config.spec, &self.config.image, hook);
        let grace = self.config.spec.stop_grace_period.duration();
        let hooks = hooks::run(opener, hook, commands, grace, self.sinks.notices.clone());
        self.hook_task = Some(tokio::task::spawn_local(hooks).abort_handle());
    }

    fn start_health(&mut self) {
        self.runs_since.get_or_insert_with(Instant::now);
        self.stop_health();
        let (Some(opener), Some(check)) = (self.opener.clone(), &self.config.spec.healthcheck)
        else {
            return;
        };
        let request = workload::probe(&self.config.spec, &self.config.image, check);
        let watch = health::watch(opener, request, check.clone(), self.sinks.health.clone());
        self.health_task = Some(tokio::task::spawn_local(watch).abort_handle());
    }

    fn stop_health(&mut self) {
        if let Some(task) = self.health_task.take() {
            task.abort();
        }
    }

    fn watch_idleness(&mut self) {
        if let Some(task) = self.idle_task.take() {
            task.abort();
        }
        let (Some(opener), Some(limit)) = (self.opener.clone(), self.config.spec.idle_timeout)
        else {
            return;
        };
        let (activity, notices) = (self.activity.clone(), self.sinks.notices.clone());
        let watch = activity::watch_idleness(activity, opener, limit.duration(), notices);
        self.idle_task = Some(tokio::task::spawn_local(watch).abort_handle());
    }

    fn idle(&mut self, begun: u64) {
        // Unless somebody has come meanwhile.
        if let (true, Some(limit)) =
            (self.activity.is_unused_since(begun), self.config.spec.idle_timeout)
        {
            let grace = self.config.spec.stop_grace_period.duration();
            self.take(Input::Expire { time: Time::Idle, grace, limit: limit.to_string() });
        }
    }

    fn decide(&mut self, request: ControlRequest) -> Result<Granted, DeniedReason> {
        requests::decide(self.state.phase(), self.activity.sessions(), &request)?;
        if self.draining && matches!(request, ControlRequest::Exec(_)) {
            return Err(DeniedReason::Draining);
        }
        match request {
            ControlRequest::Status | ControlRequest::Watch => {}
            ControlRequest::Attach => return Ok(Granted::Attached(self.activity.attach())),
            ControlRequest::Metrics => {
                let opener = self.opener.clone().ok_or(DeniedReason::NotReady)?;
                return Ok(Granted::Metrics(opener, Box::new(self.host_side())));
            }
            ControlRequest::Jail => return Ok(Granted::Jail(JailLayer::all(self.vm.jail()))),
            ControlRequest::Stop { grace_ms } => {
                let grace = grace_ms.map_or(self.config.spec.stop_grace_period, Millis::from_ms);
                self.take(Input::Stop(grace.duration()));
            }
            ControlRequest::Drain => {
                self.draining = true;
                self.publish();
            }
            ControlRequest::Signal(number) => {
                let sent = self.signals.as_ref().map(|signals| signals.try_send(number));
                if !matches!(sent, Some(Ok(()))) {
                    return Err(DeniedReason::NoWorkload);
                }
            }
            ControlRequest::Kill => self.take(Input::Kill),
            ControlRequest::Update(spec) => {
                let files = scripts::files(&spec);
                let changed = files != scripts::files(&self.config.spec)
                    || !self.scripts_there.load(Ordering::Relaxed);
                self.update(*spec);
                match self.opener.clone().filter(|_| self.state.phase() <= Phase::Running) {
                    Some(opener) if changed => {
                        let there = Arc::clone(&self.scripts_there);
                        return Ok(Granted::Scripts(opener, files, there));
                    }
                    _ => self.scripts_late |= changed,
                }
            }
            ControlRequest::Exec(request) => {
                let request = workload::complete(&self.config.spec, &self.config.image, *request);
                return self.session(Request::Exec(request));
            }
            ControlRequest::Fs(request) => return self.session(Request::Fs(*request)),
            ControlRequest::Grow { file } => return self.grow(&file),
        }
        Ok(Granted::Done)
    }

    fn host_side(&self) -> HostSide {
        HostSide {
            run_id: self.identity.run_id.clone(),
            since: self.began,
            vm_pid: self.vm.pid(),
            cpus: self.config.spec.cpus,
            memory_limit_bytes: self.config.spec.memory.bytes(),
        }
    }

    fn session(&self, request: Request) -> Result<Granted, DeniedReason> {
        let opener = self.opener.clone().ok_or(DeniedReason::NotReady)?;
        Ok(Granted::Session(opener, Box::new(request), self.activity.session()))
    }

    fn grow(&mut self, file: &Path) -> Result<Granted, DeniedReason> {
        let opener = self.opener.clone().ok_or(DeniedReason::NotReady)?;
        let shares = Mounts::of(&self.config).growing(file);
        if shares.is_empty() {
            let why = format!("the sandbox does not write to {}", file.display());
            return Err(DeniedReason::Invalid(why));
        }
        self.files.need(&self.vm, &self.sinks.notices).map_err(DeniedReason::Failed)?;
        Ok(Granted::Growth(opener, shares, self.activity.session()))
    }

    fn update(&mut self, spec: SandboxSpec) {
        let probes = self.health_task.is_some() || self.config.spec.healthcheck.is_none();
        let changed = spec.healthcheck != self.config.spec.healthcheck;
        let idles = spec.idle_timeout != self.config.spec.idle_timeout;
        super::process::set_log_level(spec.log_level);
        self.config.spec = spec;
        self.state.set_hooks(workload::hook_set(&self.config.spec));
        let runs = self.state.started() && self.state.phase() == Phase::Running;
        if idles && runs {
            self.watch_idleness();
        }
        if changed && probes && self.state.started() {
            self.health = self.config.spec.healthcheck.as_ref().map(|_| Health::Starting);
            self.probe_output = None;
            self.stop_health();
            if runs {
                self.start_health();
            }
            self.publish();
        }
    }
}

/// When a sandbox that was started at `since` has had its time.
pub(super) fn expiry(spec: &SandboxSpec, since: Instant) -> Option<Instant> {
    spec.max_duration.and_then(|limit| since.checked_add(limit.duration()))
}

/// Waits until `time`; for ever without one.
pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn deadline(time: Duration) -> Option<Instant> {
    Instant::now().checked_add(time)
}
