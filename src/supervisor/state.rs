//! The life of one run, as a state machine without input or output.
//!
//! ```text
//!            Booted, no workload ┌──────────────────────────────────────────┐
//!  Booting ──────Booted──────▶ Running ──Stop──▶ Stopping ──workload ended──▶ ShuttingDown
//!     │ Stop: then Booted leads   │  workload ended  │ grace: SIGKILL           │ Bye
//!     │ to ShuttingDown           └──────────────────┼────────▶ ShuttingDown    ▼
//!     │                                              │                       Leaving
//!     │ BootFailed, time up                          │ time up                  │
//!     └──────────▶ Dying ◀───────────────────────────┴──── Kill, link lost ─────┤
//!                    └───────────────── VM ended ──────────▶ Ended ◀────────────┘
//! ```
//!
//! The end of the VM ends the run from every phase. It is `stopped` after a `Bye` or when this side
//! killed the VM on request, else `crashed`. Each phase but `Running` has a time limit, so that a
//! stop always ends. Hooks belong to a phase: those after the start run in `Running`, before the
//! sandbox counts as started; those before the stop in `Stopping`, within the grace period and
//! before the stop signal. A run that has had its time (`Expire`) is stopped, with a reason and an exit
//! code that say so.

use std::time::Duration;

use msb_protocol::{ExecFailure, ExitStatus};

use crate::runtime::VmExit;
use crate::spec::Status;

/// After SIGKILL, how long the agent may take to say that the workload has ended.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the rest of the guest's processes have between SIGTERM and SIGKILL.
const REST_GRACE: Duration = Duration::from_secs(1);
/// How long the guest may take to sync and unmount, beyond that.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the VM may take to end after `Bye`.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// When the link breaks, the VM has usually ended: how long to wait to learn how.
const LINK_TIMEOUT: Duration = Duration::from_millis(500);
/// How the error of a workload that did not start begins.
pub(super) const START_FAILED: &str = "the workload could not be started";
/// How the error of a run that has had its time begins.
pub const EXPIRED: &str = "stopped after its max_duration";
/// How the error of a run begins that nobody has used for its time.
pub const IDLED: &str = "stopped after its idle_timeout";
/// The exit code of a workload that was killed.
const KILLED: i32 = 128 + 9;
/// The exit code of a workload that has had its time, however it took that; `timeout(1)`'s.
const OUT_OF_TIME: i32 = 124;

/// What happens to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The guest is set up.
    Booted,
    /// It could not be.
    BootFailed(String),
    /// The workload runs.
    WorkloadStarted,
    /// The workload does not run any more.
    WorkloadEnded(WorkloadEnd),
    /// Hooks have run, up to the first that failed.
    HooksEnded {
        /// Which.
        hook: Hook,
        /// Why one failed.
        failure: Option<String>,
        /// What the workload may take to stop, if that is the consequence.
        grace: Duration,
    },
    /// Someone wants it to end in order.
    Stop(Duration),
    /// Someone wants it to end at once.
    Kill,
    /// It has had its time, or not been used for its time: it ends in order.
    Expire {
        /// Which of the two.
        time: Time,
        /// What it may take for its end.
        grace: Duration,
        /// The time it had, for people.
        limit: String,
    },
    /// The guest has stopped everything.
    Bye,
    /// The agent does not answer any more.
    LinkLost(String),
    /// The agent said what it must not.
    LinkBroken(String),
    /// The file server has ended in this way, and the VM has not.
    FilesLost(String),
    /// The VM has ended.
    VmEnded(VmExit),
    /// The armed timer has run out.
    TimeUp,
}

/// What a run may have a limited time of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// In all.
    Run,
    /// Without being used.
    Idle,
}

/// When hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// When the workload runs.
    PostStart,
    /// Before the stop signal.
    PreStop,
}

/// Which hooks there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HookSet {
    pub(super) post_start: bool,
    pub(super) pre_stop: bool,
}

/// How a workload ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WorkloadEnd {
    /// By itself or by a signal.
    Exited(ExitStatus),
    /// It did not start.
    Failed(ExecFailure),
    /// The session stopped without a word: the VM has probably ended.
    Lost(String),
    /// The agent said what it must not.
    Broken(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Start the workload.
    StartWorkload,
    /// Run hooks.
    RunHooks(Hook),
    /// End the hooks that run.
    StopHooks,
    /// Begin to watch what runs: its health, and whether it is used.
    StartWatches,
    /// End that.
    StopWatches,
    /// Send the workload its stop signal.
    SignalWorkload,
    /// Send the workload SIGKILL.
    KillWorkload,
    /// Have the agent shut the guest down.
    Shutdown(Duration),
    /// Kill the VM.
    KillVm,
    /// Set the one timer; `Duration::MAX` clears it.
    Arm(Duration),
    /// Set the timer, unless it runs out earlier anyway.
    Shorten(Duration),
    /// The status is another.
    Publish,
    /// The run has ended.
    End,
}

/// Where a run is, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Booting,
    Running,
    Stopping,
    ShuttingDown,
    Leaving,
    Dying,
    Ended,
}

/// The state of a run.
#[derive(Clone, Debug)]
pub(super) struct StateDriver {
    phase: Phase,
    has_workload: bool,
    /// The workload was started and has not ended.
    workload_runs: bool,
    /// In `Booting`: it is to end as soon as it can.
    stop_wanted: bool,
    /// In `Stopping`: SIGKILL has been sent.
    kill_sent: bool,
    /// In `Dying`: it was wanted, so the end is no crash.
    wanted: bool,
    /// In `Dying`: the link broke, and the VM has not been killed.
    link_lost: bool,
    /// Its end was asked for: no other run follows by itself.
    asked: bool,
    expired: bool,
    hooks: HookSet,
    /// Those that run.
    running_hooks: Option<Hook>,
    started: bool,
    exit_code: Option<i32>,
    error: Option<String>,
    outcome: Status,
}

impl StateDriver {
    /// A run that boots, and what is to be done first.
    pub(super) fn new(
        has_workload: bool,
        hooks: HookSet,
        boot_timeout: Duration,
    ) -> (Self, Vec<Effect>) {
        let state = Self {
            phase: Phase::Booting,
            has_workload,
            workload_runs: false,
            stop_wanted: false,
            kill_sent: false,
            wanted: false,
            link_lost: false,
            asked: false,
            expired: false,
            hooks,
            running_hooks: None,
            started: false,
            exit_code: None,
            error: None,
            outcome: Status::Crashed,
        };
        (state, vec![Effect::Arm(boot_timeout)])
    }

    /// The hooks that there are by now.
    pub(super) fn set_hooks(&mut self, hooks: HookSet) {
        self.hooks = hooks;
    }

    /// Where it is.
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the workload (or the agent, without one) has run.
    pub(super) fn started(&self) -> bool {
        self.started
    }

    /// Whether its end was asked for, or is due.
    pub(super) fn asked(&self) -> bool {
        self.asked
    }

    /// The workload's exit code.
    pub(super) fn exit_code(&self) -> Option<i32> {
        self.exit_code.map(|code| if self.expired { OUT_OF_TIME } else { code })
    }

    /// What went wrong.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The status to tell others.
    pub(super) fn status(&self) -> Status {
        match self.phase {
            Phase::Booting => Status::Starting,
            Phase::Running if self.started => Status::Running,
            Phase::Running => Status::Starting,
            Phase::Stopping | Phase::ShuttingDown | Phase::Leaving | Phase::Dying => {
                Status::Draining
            }
            Phase::Ended => self.outcome,
        }
    }

    /// Takes `input` in; what is to be done.
    pub(super) fn step(&mut self, input: Input) -> Vec<Effect> {
        if self.phase == Phase::Ended {
            return Vec::new();
        }
        match input {
            Input::VmEnded(exit) => self.vm_ended(exit),
            Input::Kill => {
                self.asked = true;
                self.kill()
            }
            Input::Stop(grace) => {
                self.asked = true;
                self.stop(grace)
            }
            Input::Expire { time, grace, limit } => self.expire(time, grace, &limit),
            Input::Booted => self.booted(),
            Input::BootFailed(why) => match self.phase {
                Phase::Booting => self.die(format!("the guest could not be set up: {why}")),
                _ => self.die("the agent broke the protocol".into()),
            },
            Input::WorkloadStarted => self.workload_started(),
            Input::WorkloadEnded(end) => self.workload_ended(end),
            Input::HooksEnded { hook, failure, grace } => self.hooks_ended(hook, failure, grace),
            Input::Bye => match self.phase {
                Phase::Dying | Phase::Leaving => Vec::new(),
                _ => self.end_with(Phase::Leaving, vec![Effect::Arm(LEAVE_TIMEOUT)]),
            },
            Input::LinkLost(why) => self.lose(format!("the link to the guest broke: {why}")),
            Input::LinkBroken(why) => match self.phase {
                Phase::Dying | Phase::Leaving => Vec::new(),
                _ => self.die(format!("the agent broke the protocol: {why}")),
            },
            Input::FilesLost(how) => match self.phase {
                Phase::Dying | Phase::Leaving => Vec::new(),
                // Whatever the guest does with its mounts waits for ever.
                _ => self.die(format!("the file server has ended: {how}")),
            },
            Input::TimeUp => self.time_up(),
        }
    }

    fn enter(&mut self, phase: Phase, mut effects: Vec<Effect>) -> Vec<Effect> {
        self.phase = phase;
        effects.push(Effect::Publish);
        effects
    }

    /// Enters a phase in which neither probes nor hooks run.
    fn end_with(&mut self, phase: Phase, mut effects: Vec<Effect>) -> Vec<Effect> {
        effects.insert(0, Effect::StopWatches);
        if self.running_hooks.take().is_some() {
            effects.insert(0, Effect::StopHooks);
        }
        self.enter(phase, effects)
    }

    fn booted(&mut self) -> Vec<Effect> {
        if self.phase != Phase::Booting {
            return match self.phase {
                Phase::Dying => Vec::new(),
                _ => self.die("the agent broke the protocol".into()),
            };
        }
        if self.stop_wanted {
            return self.shut_down();
        }
        if self.has_workload {
            self.phase = Phase::Running;
            self.workload_runs = true;
            // The agent answers at once, one way or the other.
            return vec![Effect::StartWorkload, Effect::Arm(SHUTDOWN_TIMEOUT)];
        }
        self.phase = Phase::Running;
        self.runs()
    }

    fn workload_started(&mut self) -> Vec<Effect> {
        match self.phase {
            Phase::Running if !self.started && self.running_hooks.is_none() => self.runs(),
            Phase::Running => Vec::new(),
            _ => {
                self.started = true;
                Vec::new()
            }
        }
    }

    /// What there is to run runs: hooks make it a start.
    fn runs(&mut self) -> Vec<Effect> {
        if self.hooks.post_start {
            self.running_hooks = Some(Hook::PostStart);
            return vec![Effect::Arm(Duration::MAX), Effect::RunHooks(Hook::PostStart)];
        }
        self.started = true;
        vec![Effect::Arm(Duration::MAX), Effect::StartWatches, Effect::Publish]
    }

    fn hooks_ended(&mut self, hook: Hook, failure: Option<String>, grace: Duration) -> Vec<Effect> {
        if self.running_hooks != Some(hook) {
            return Vec::new();
        }
        self.running_hooks = None;
        match (hook, failure) {
            (Hook::PostStart, None) => {
                self.started = true;
                vec![Effect::StartWatches, Effect::Publish]
            }
            (Hook::PostStart, Some(why)) => {
                self.error.get_or_insert_with(|| format!("{START_FAILED}: post_start: {why}"));
                self.signal(grace)
            }
            // A hook that fails does not keep a sandbox from being stopped.
            (Hook::PreStop, _) if self.workload_runs => vec![Effect::SignalWorkload],
            (Hook::PreStop, _) => self.shut_down(),
        }
    }

    fn workload_ended(&mut self, end: WorkloadEnd) -> Vec<Effect> {
        if !std::mem::replace(&mut self.workload_runs, false) {
            return Vec::new();
        }
        match end {
            WorkloadEnd::Exited(status) => {
                // It has run, whatever its hooks would have said.
                self.started |= self.running_hooks == Some(Hook::PostStart);
                // Codes come from the guest: what a shell could report, nothing else.
                self.exit_code = Some(status.code().clamp(0, 255));
            }
            WorkloadEnd::Failed(failure) => {
                self.exit_code = Some(failure.code());
                self.error = Some(format!("{START_FAILED}: {failure}"));
            }
            WorkloadEnd::Lost(why) => {
                return match self.phase {
                    // Its end is under way: the session goes with the rest.
                    Phase::ShuttingDown => Vec::new(),
                    _ => self.lose(format!("the workload's session broke: {why}")),
                };
            }
            WorkloadEnd::Broken(why) => {
                return match self.phase {
                    Phase::Dying | Phase::Leaving => Vec::new(),
                    _ => self.die(format!("the workload's session broke: {why}")),
                };
            }
        }
        match self.phase {
            Phase::Running | Phase::Stopping => self.shut_down(),
            _ => Vec::new(),
        }
    }

    fn shut_down(&mut self) -> Vec<Effect> {
        let effects =
            vec![Effect::Shutdown(REST_GRACE), Effect::Arm(REST_GRACE + SHUTDOWN_TIMEOUT)];
        self.end_with(Phase::ShuttingDown, effects)
    }

    fn stop(&mut self, grace: Duration) -> Vec<Effect> {
        match self.phase {
            Phase::Booting => {
                self.stop_wanted = true;
                vec![Effect::Shorten(grace)]
            }
            Phase::Running if self.started && self.hooks.pre_stop => {
                let effects = vec![Effect::RunHooks(Hook::PreStop), Effect::Arm(grace)];
                let effects = self.end_with(Phase::Stopping, effects);
                self.running_hooks = Some(Hook::PreStop);
                effects
            }
            Phase::Running => self.signal(grace),
            Phase::Stopping if !self.kill_sent => vec![Effect::Shorten(grace)],
            _ => Vec::new(),
        }
    }

    /// Stops the workload, where there is one.
    fn signal(&mut self, grace: Duration) -> Vec<Effect> {
        if !self.workload_runs {
            return self.shut_down();
        }
        self.end_with(Phase::Stopping, vec![Effect::SignalWorkload, Effect::Arm(grace)])
    }

    fn expire(&mut self, time: Time, grace: Duration, limit: &str) -> Vec<Effect> {
        self.asked = true;
        match self.phase {
            Phase::Booting | Phase::Running if !self.stop_wanted => {
                self.expired = time == Time::Run;
                let reason = if time == Time::Run { EXPIRED } else { IDLED };
                self.error.get_or_insert_with(|| format!("{reason} of {limit}"));
                self.stop(grace)
            }
            // Its end is under way.
            _ => Vec::new(),
        }
    }

    fn kill(&mut self) -> Vec<Effect> {
        self.wanted = true;
        match self.phase {
            Phase::Dying => vec![Effect::KillVm],
            _ => self.end_with(Phase::Dying, vec![Effect::KillVm, Effect::Arm(Duration::MAX)]),
        }
    }

    /// The guest is lost, probably because the VM has ended: it gets some time to say so.
    fn lose(&mut self, why: String) -> Vec<Effect> {
        match self.phase {
            Phase::Dying | Phase::Leaving => Vec::new(),
            _ => {
                self.error.get_or_insert(why);
                self.link_lost = true;
                self.end_with(Phase::Dying, vec![Effect::Arm(LINK_TIMEOUT)])
            }
        }
    }

    fn die(&mut self, why: String) -> Vec<Effect> {
        self.error.get_or_insert(why);
        self.end_with(Phase::Dying, vec![Effect::KillVm, Effect::Arm(Duration::MAX)])
    }

    fn time_up(&mut self) -> Vec<Effect> {
        match self.phase {
            Phase::Booting if self.stop_wanted => self.kill(),
            Phase::Booting => self.die("the guest did not boot in time".into()),
            Phase::Running => self.die("the agent did not start the workload in time".into()),
            Phase::Stopping if !self.workload_runs => self.shut_down(),
            Phase::Stopping if !self.kill_sent => {
                self.kill_sent = true;
                let mut effects = vec![Effect::KillWorkload, Effect::Arm(REAP_TIMEOUT)];
                if self.running_hooks.take().is_some() {
                    effects.insert(0, Effect::StopHooks);
                }
                effects
            }
            Phase::Stopping => {
                self.exit_code = Some(KILLED);
                self.workload_runs = false;
                self.shut_down()
            }
            Phase::ShuttingDown | Phase::Leaving => {
                self.error.get_or_insert("the guest did not shut down in time".into());
                self.kill()
            }
            Phase::Dying => {
                self.link_lost = false;
                vec![Effect::KillVm, Effect::Arm(Duration::MAX)]
            }
            Phase::Ended => Vec::new(),
        }
    }

    fn vm_ended(&mut self, exit: VmExit) -> Vec<Effect> {
        self.outcome = match self.phase {
            Phase::Leaving => Status::Stopped,
            Phase::Dying if self.wanted => {
                if self.workload_runs && self.started {
                    self.exit_code = Some(KILLED);
                }
                Status::Stopped
            }
            _ => {
                let how = match exit {
                    VmExit::Code(code) => format!("exit code {code}"),
                    VmExit::Signal(signal) => format!("signal {signal}"),
                };
                if self.phase != Phase::Dying || self.link_lost {
                    self.error = Some(format!("the VM ended unexpectedly ({how})"));
                }
                Status::Crashed
            }
        };
        self.workload_runs = false;
        self.end_with(Phase::Ended, vec![Effect::End])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOOT: Duration = Duration::from_secs(60);
    const GRACE: Duration = Duration::from_secs(10);

    fn run(has_workload: bool, inputs: impl IntoIterator<Item = Input>) -> StateDriver {
        run_with(has_workload, HookSet::default(), inputs)
    }

    fn run_with(
        has_workload: bool,
        hooks: HookSet,
        inputs: impl IntoIterator<Item = Input>,
    ) -> StateDriver {
        let (mut state, _) = StateDriver::new(has_workload, hooks, BOOT);
        for input in inputs {
            state.step(input);
        }
        state
    }

    fn exited(code: i32) -> Input {
        Input::WorkloadEnded(WorkloadEnd::Exited(ExitStatus::Code(code)))
    }

    fn expire(grace: u64) -> Input {
        expire_of(Time::Run, grace)
    }

    fn expire_of(time: Time, grace: u64) -> Input {
        Input::Expire { time, grace: Duration::from_secs(grace), limit: "1h".into() }
    }

    const VM_ENDED: Input = Input::VmEnded(VmExit::Code(0));

    #[test]
    fn nothing_runs_on_without_the_file_server() {
        let up = [Input::Booted, Input::WorkloadStarted, Input::FilesLost("signal 9".into())];
        let state = run(true, up.into_iter().chain([Input::VmEnded(VmExit::Signal(9))]));
        assert_eq!(state.status(), Status::Crashed);
        assert_eq!(state.error(), Some("the file server has ended: signal 9"));
        // After all that the guest had to say, nothing is lost with it.
        let bye = [Input::Booted, Input::Bye, Input::FilesLost("signal 9".into()), VM_ENDED];
        assert_eq!(run(false, bye).status(), Status::Stopped);
    }

    #[test]
    fn a_job_runs_to_its_end() {
        let up = [Input::Booted, Input::WorkloadStarted];
        assert_eq!(run(true, up.clone()).status(), Status::Running);
        let state = run(true, up.into_iter().chain([exited(3), Input::Bye, VM_ENDED]));
        assert_eq!((state.status(), state.exit_code()), (Status::Stopped, Some(3)));
        assert_eq!(state.error(), None);
    }

    #[test]
    fn one_that_is_not_used_is_stopped_and_has_its_own_exit_code() {
        let up = [Input::Booted, Input::WorkloadStarted, expire_of(Time::Idle, 10)];
        let state = run(true, up.into_iter().chain([exited(0), Input::Bye, VM_ENDED]));
        assert_eq!((state.status(), state.exit_code()), (Status::Stopped, Some(0)));
        assert_eq!(state.error(), Some("stopped after its idle_timeout of 1h"));
        assert!(state.asked(), "no other run follows");
    }

    #[test]
    fn a_stop_is_a_signal_then_a_kill_then_a_shutdown() {
        let mut state = run(true, [Input::Booted, Input::WorkloadStarted]);
        let asked = state.step(Input::Stop(GRACE));
        assert!(asked.contains(&Effect::SignalWorkload) && asked.contains(&Effect::Arm(GRACE)));
        assert_eq!(state.status(), Status::Draining);
        assert!(state.step(Input::TimeUp).contains(&Effect::KillWorkload));
        assert!(state.step(Input::TimeUp).contains(&Effect::Shutdown(REST_GRACE)));
        assert!(state.step(Input::TimeUp).contains(&Effect::KillVm));
        assert!(state.step(VM_ENDED).contains(&Effect::End));
        assert_eq!((state.status(), state.exit_code()), (Status::Stopped, Some(KILLED)));
    }

    #[test]
    fn a_run_that_has_had_its_time_is_stopped_and_says_so() {
        let mut state = run(true, [Input::Booted, Input::WorkloadStarted]);
        let asked = state.step(expire(10));
        assert!(asked.contains(&Effect::SignalWorkload) && asked.contains(&Effect::Arm(GRACE)));
        assert!(state.asked());
        for input in [exited(0), Input::Bye, VM_ENDED] {
            state.step(input);
        }
        assert_eq!((state.status(), state.exit_code()), (Status::Stopped, Some(OUT_OF_TIME)));
        assert_eq!(state.error(), Some("stopped after its max_duration of 1h"));
        // Too late: the workload has ended, or a stop is under way.
        let late = |before: Input| {
            let up = [Input::Booted, Input::WorkloadStarted, before, expire(10), exited(0)];
            let state = run(true, up.into_iter().chain([Input::Bye, VM_ENDED]));
            state.exit_code()
        };
        assert_eq!((late(exited(3)), late(Input::Stop(GRACE))), (Some(3), Some(0)));
    }

    #[test]
    fn a_stop_while_booting_waits_for_the_guest() {
        let mut state = run(true, [Input::Stop(GRACE)]);
        assert_eq!(state.status(), Status::Starting);
        assert!(state.step(Input::Booted).contains(&Effect::Shutdown(REST_GRACE)));
        assert!(!state.started());
    }

    #[test]
    fn only_bye_or_a_wish_makes_an_end_orderly() {
        let up = || vec![Input::Booted, Input::WorkloadStarted];
        let with = |more: &[Input]| {
            let state = run(true, up().into_iter().chain(more.iter().cloned()));
            (state.status(), state.error().map(str::to_owned))
        };
        let ended = Some("the VM ended unexpectedly (exit code 0)".to_owned());
        assert_eq!(with(&[VM_ENDED]), (Status::Crashed, ended.clone()));
        let lost = Input::LinkLost("x".into());
        assert_eq!(with(&[lost.clone(), VM_ENDED]), (Status::Crashed, ended.clone()));
        assert_eq!(with(&[exited(0), VM_ENDED]), (Status::Crashed, ended));
        let broke = Some("the link to the guest broke: x".to_owned());
        let killed = Input::VmEnded(VmExit::Signal(9));
        assert_eq!(with(&[lost, Input::TimeUp, killed.clone()]), (Status::Crashed, broke));
        assert_eq!(with(&[Input::Kill, killed]), (Status::Stopped, None));
        assert_eq!(with(&[Input::Bye, VM_ENDED]), (Status::Stopped, None));
    }

    #[test]
    fn a_workload_that_does_not_start_is_told_apart() {
        let failed = WorkloadEnd::Failed(ExecFailure::NotFound("x".into()));
        let state = run(true, [Input::Booted, Input::WorkloadEnded(failed), Input::Bye, VM_ENDED]);
        assert_eq!((state.status(), state.exit_code()), (Status::Stopped, Some(127)));
        assert!(!state.started());
        assert!(state.error().is_some_and(|error| error.contains("command not found")));
    }

    const BOTH: HookSet = HookSet { post_start: true, pre_stop: true };

    fn hooked(hook: Hook, failure: Option<&str>) -> Input {
        Input::HooksEnded { hook, failure: failure.map(str::to_owned), grace: GRACE }
    }

    #[test]
    fn hooks_after_the_start_are_part_of_it() {
        let mut state = run_with(true, BOTH, [Input::Booted]);
        let asked = state.step(Input::WorkloadStarted);
        assert!(asked.contains(&Effect::RunHooks(Hook::PostStart)));
        assert_eq!((state.status(), state.started()), (Status::Starting, false));
        let asked = state.step(hooked(Hook::PostStart, None));
        assert!(asked.contains(&Effect::StartWatches));
        assert_eq!((state.status(), state.started()), (Status::Running, true));
    }

    #[test]
    fn a_hook_that_fails_after_the_start_makes_it_a_failure() {
        let mut state = run_with(true, BOTH, [Input::Booted, Input::WorkloadStarted]);
        let asked = state.step(hooked(Hook::PostStart, Some("no")));
        assert!(asked.contains(&Effect::SignalWorkload) && asked.contains(&Effect::Arm(GRACE)));
        for input in [exited(0), Input::Bye, VM_ENDED] {
            state.step(input);
        }
        assert!(!state.started() && !state.asked());
        assert_eq!(state.error(), Some("the workload could not be started: post_start: no"));
    }

    #[test]
    fn hooks_before_the_stop_have_the_grace_period() {
        let up = [Input::Booted, Input::WorkloadStarted, hooked(Hook::PostStart, None)];
        let mut state = run_with(true, BOTH, up.clone());
        let asked = state.step(Input::Stop(GRACE));
        assert!(asked.contains(&Effect::RunHooks(Hook::PreStop)));
        assert!(asked.contains(&Effect::Arm(GRACE)) && !asked.contains(&Effect::SignalWorkload));
        assert_eq!(state.step(hooked(Hook::PreStop, Some("no"))), [Effect::SignalWorkload]);
        // Those that take too long end with the workload.
        let mut state = run_with(true, BOTH, up.clone().into_iter().chain([Input::Stop(GRACE)]));
        let asked = state.step(Input::TimeUp);
        assert!(asked.contains(&Effect::StopHooks) && asked.contains(&Effect::KillWorkload));
        assert_eq!(state.step(hooked(Hook::PreStop, None)), []);
        // Without a workload the guest is shut down.
        let up = [Input::Booted, hooked(Hook::PostStart, None), Input::Stop(GRACE)];
        let mut state = run_with(false, BOTH, up.clone());
        assert!(state.step(hooked(Hook::PreStop, None)).contains(&Effect::Shutdown(REST_GRACE)));
        let mut state = run_with(false, BOTH, up);
        assert!(state.step(Input::TimeUp).contains(&Effect::Shutdown(REST_GRACE)));
        assert_eq!(state.exit_code(), None);
    }

    #[test]
    fn a_stop_does_not_wait_for_hooks_after_the_start() {
        let mut state = run_with(true, BOTH, [Input::Booted, Input::WorkloadStarted]);
        let asked = state.step(Input::Stop(GRACE));
        assert!(asked.contains(&Effect::StopHooks) && asked.contains(&Effect::SignalWorkload));
        assert!(!asked.contains(&Effect::RunHooks(Hook::PreStop)));
        // A job may be through before its hooks are.
        let up = [Input::Booted, Input::WorkloadStarted, exited(0), Input::Bye, VM_ENDED];
        let state = run_with(true, BOTH, up);
        assert_eq!((state.started(), state.exit_code(), state.error()), (true, Some(0), None));
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            Just(Input::Booted),
            Just(Input::BootFailed("x".into())),
            Just(hooked(Hook::PostStart, None)),
            Just(hooked(Hook::PostStart, Some("x"))),
            Just(hooked(Hook::PreStop, None)),
            Just(hooked(Hook::PreStop, Some("x"))),
            Just(Input::WorkloadStarted),
            (-1000..1000).prop_map(exited),
            Just(Input::WorkloadEnded(WorkloadEnd::Failed(ExecFailure::NotFound("x".into())))),
            Just(Input::WorkloadEnded(WorkloadEnd::Lost("x".into()))),
            (0_u64..20).prop_map(|s| Input::Stop(Duration::from_secs(s))),
            Just(Input::Kill),
            (0_u64..20).prop_map(expire),
            (0_u64..20).prop_map(|grace| expire_of(Time::Idle, grace)),
            Just(Input::Bye),
            Just(Input::LinkLost("x".into())),
            Just(Input::LinkBroken("x".into())),
            Just(Input::FilesLost("x".into())),
            Just(Input::WorkloadEnded(WorkloadEnd::Broken("x".into()))),
            Just(Input::TimeUp),
            Just(Input::VmEnded(VmExit::Signal(11))),
        ]
    }

    /// What the state machine has the world do, as far as the properties go.
    #[derive(Default)]
    struct World {
        timer: bool,
        vm_killed: bool,
        hooks: Option<Hook>,
        workloads: u32,
        ends: u32,
    }

    impl World {
        fn apply(&mut self, effects: &[Effect]) {
            for effect in effects {
                match effect {
                    Effect::Arm(time) => self.timer = *time != Duration::MAX,
                    Effect::Shorten(_) => self.timer = true,
                    Effect::KillVm => self.vm_killed = true,
                    Effect::StartWorkload => self.workloads += 1,
                    Effect::End => self.ends += 1,
                    Effect::RunHooks(hook) => assert_eq!(self.hooks.replace(*hook), None),
                    Effect::StopHooks => self.hooks = None,
                    Effect::StartWatches
                    | Effect::StopWatches
                    | Effect::SignalWorkload
                    | Effect::KillWorkload
                    | Effect::Shutdown(_)
                    | Effect::Publish => {}
                }
            }
        }
    }

    proptest! {
        /// However hostile or unlucky the order of events, from any state time alone kills the VM
        /// (unless it simply runs), its end ends the run once, and the workload starts once at most.
        #[test]
        fn every_run_ends(
            has_workload: bool,
            hooks: (bool, bool),
            inputs in prop::collection::vec(input(), 0..40),
            stop: bool,
        ) {
            let hooks = HookSet { post_start: hooks.0, pre_stop: hooks.1 };
            let (mut state, effects) = StateDriver::new(has_workload, hooks, BOOT);
            let mut world = World::default();
            world.apply(&effects);
            for input in inputs {
                if input == Input::TimeUp && !std::mem::take(&mut world.timer) {
                    continue;
                }
                // Only what runs ends.
                if let Input::HooksEnded { hook, .. } = &input
                    && world.hooks.take_if(|running| running == hook).is_none()
                {
                    continue;
                }
                let effects = state.step(input);
                world.apply(&effects);
                let settled = state.started() || !has_workload || world.hooks.is_some();
                let waits = state.phase() == Phase::Running && settled;
                prop_assert!(
                    world.timer || world.vm_killed || waits || state.phase() == Phase::Ended,
                    "stuck in {:?}", state.phase()
                );
            }
            if stop {
                let effects = state.step(Input::Stop(GRACE));
                world.apply(&effects);
                for _ in 0..8 {
                    if std::mem::take(&mut world.timer) {
                        let effects = state.step(Input::TimeUp);
                        world.apply(&effects);
                    }
                }
                prop_assert!(world.vm_killed || state.phase() == Phase::Ended);
            }
            let effects = state.step(VM_ENDED);
            world.apply(&effects);
            prop_assert_eq!(world.ends, 1);
            prop_assert!(world.workloads <= 1);
            prop_assert!(!state.status().is_live());
            prop_assert!(state.exit_code().is_none_or(|code| (0..=255).contains(&code)));
            prop_assert!(state.step(Input::Booted).is_empty());
        }
    }
}
