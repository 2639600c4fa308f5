//! Executes a plan.
//!
//! One task drives everything: steps are futures in one set, their ends are events, and nothing
//! polls. A step becomes *ready* when all steps it needs or follows have ended, and is skipped as
//! soon as one that it needs did not succeed.
//!
//! ```text
//! pending ──▶ ready ──▶ running ──▶ done
//!    │           │          └─────▶ failed ──▶ (dependents) skipped
//!    ├───────────┴──▶ interrupted
//!    └──▶ skipped
//! ```
//!
//! Of several ready steps the one with the longest way to the end goes first, which keeps the
//! whole close to the longest of the critical path and the work divided by the slots.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use crate::plan::{Action, Plan, Step, StepId};
use crate::spec::ResourceId;

use super::{Event, Host, HostError, Progress, ProgressHandle, Reporter, StepOutput};

/// How a plan is executed.
#[derive(Clone, Debug)]
pub struct ExecuteOptions {
    /// The most steps at a time, at least 1. Awaits do not count: they only wait.
    pub parallelism: usize,
    /// The longest that one await may take; none: until its condition holds or cannot hold.
    pub wait_timeout: Option<Duration>,
    /// Once cancelled, no step is started and those that run are finished, but for pulls and
    /// awaits, which are given up.
    pub cancel: CancellationToken,
}

impl ExecuteOptions {
    /// Default of `parallelism`.
    pub const DEFAULT_PARALLELISM: usize = 8;
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self {
            parallelism: Self::DEFAULT_PARALLELISM,
            wait_timeout: None,
            cancel: CancellationToken::new(),
        }
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// It succeeded.
    Done,
    /// It failed.
    Failed,
    /// It was not started, because one that it needs failed or was skipped.
    Skipped,
    /// It was not started or was given up, because the run was interrupted.
    Interrupted,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By step, in the order of the plan.
    pub states: Vec<StepState>,
    /// The errors, in the order in which they happened; those of optional steps too.
    pub errors: Vec<(StepId, HostError)>,
    /// Whether the run was cancelled before it was through.
    pub interrupted: bool,
}

impl Outcome {
    /// Whether every step succeeded, but for optional ones.
    pub fn succeeded(&self, plan: &Plan) -> bool {
        !self.interrupted
            && plan
                .steps
                .iter()
                .zip(&self.states)
                .all(|(step, state)| *state == StepState::Done || step.optional)
    }

    /// The steps that did not succeed, with their errors, but for optional ones.
    pub fn failures<'a>(
        &'a self,
        plan: &'a Plan,
    ) -> impl Iterator<Item = (&'a Step, &'a HostError)> {
        self.errors
            .iter()
            .map(|(id, error)| (plan.step(*id), error))
            .filter(|(step, _)| !step.optional)
    }
}

/// Executes a plan: every step starts as soon as those it needs have succeeded and a slot is free.
/// Errors of steps are in the outcome, all of them.
pub async fn execute(
    plan: &Plan,
    host: &impl Host,
    options: &ExecuteOptions,
    reporter: &mut dyn Reporter,
) -> Outcome {
    let (sender, progress) = unbounded_channel();
    let mut run = Run::new(plan, host, options, reporter, sender);
    run.drive(progress).await;
    run.finish()
}

/// The journal could not be written, for any of the steps in one commit.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the journal could not be written")]
struct JournalError(#[source] Arc<HostError>);

/// How a started step ended.
enum End {
    Done(StepOutput),
    Failed(HostError),
    GivenUp,
}

type Running<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = (usize, End)> + Send + 'a>>>;

/// The steps that come after a step.
#[derive(Default)]
struct Next {
    hard: Vec<usize>,
    soft: Vec<usize>,
}

struct Run<'a, H> {
    plan: &'a Plan,
    host: &'a H,
    options: &'a ExecuteOptions,
    reporter: &'a mut dyn Reporter,
    sender: UnboundedSender<(StepId, Progress)>,
    next: Vec<Next>,
    /// How many steps each still waits for.
    waiting: Vec<usize>,
    /// The length of the longest way to the end.
    rank: Vec<u32>,
    states: Vec<Option<StepState>>,
    ready: BinaryHeap<(u32, Reverse<usize>)>,
    ready_awaits: Vec<usize>,
    running: Running<'a>,
    slots: usize,
    errors: Vec<(StepId, HostError)>,
    interrupted: bool,
}

impl<'a, H: Host> Run<'a, H> {
    fn new(
        plan: &'a Plan,
        host: &'a H,
        options: &'a ExecuteOptions,
        reporter: &'a mut dyn Reporter,
        sender: UnboundedSender<(StepId, Progress)>,
    ) -> Self {
        let count = plan.steps.len();
        let mut next: Vec<Next> = Vec::new();
        next.resize_with(count, Next::default);
        let mut waiting = vec![0; count];
        for (position, step) in plan.steps.iter().enumerate() {
            waiting[position] = step.needs.len() + step.after.len();
            step.needs.iter().for_each(|id| next[id.index()].hard.push(position));
            step.after.iter().for_each(|id| next[id.index()].soft.push(position));
        }
        let rank = ranks(plan, &next);
        let mut run = Self {
            plan,
            host,
            options,
            reporter,
            sender,
            next,
            waiting,
            rank,
            states: vec![None; count],
            ready: BinaryHeap::new(),
            ready_awaits: Vec::new(),
            running: FuturesUnordered::new(),
            slots: options.parallelism.max(1),
            errors: Vec::new(),
            interrupted: false,
        };
        for position in 0..count {
            if run.waiting[position] == 0 {
                run.make_ready(position);
            }
        }
        run
    }

    async fn drive(&mut self, mut progress: UnboundedReceiver<(StepId, Progress)>) {
        let cancel = self.options.cancel.clone();
        loop {
            if !cancel.is_cancelled() {
                self.start_ready().await;
            }
            if self.running.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some((id, progress)) = progress.recv() => {
                    let step = self.plan.step(id);
                    self.reporter.report(Event::Progress { step, progress });
                }
                Some(first) = self.running.next() => self.settle(first).await,
            }
        }
        self.interrupted = cancel.is_cancelled() && self.states.iter().any(is_cut_short);
    }

    /// Starts every ready step for which there is a slot, after one journal commit for them all.
    async fn start_ready(&mut self) {
        let mut starting = std::mem::take(&mut self.ready_awaits);
        while self.slots > 0
            && let Some((_, Reverse(position))) = self.ready.pop()
        {
            self.slots -= 1;
            starting.push(position);
        }
        let journaled: Vec<&Step> = starting
            .iter()
            .map(|&position| &self.plan.steps[position])
            .filter(|step| step.action.is_journaled())
            .collect();
        let begun = if journaled.is_empty() { Ok(()) } else { self.host.begin(&journaled).await };
        let failed = begun.err().map(|error| JournalError(Arc::new(error)));
        for position in starting {
            let step = &self.plan.steps[position];
            self.reporter.report(Event::StepStarted { step });
            match &failed {
                Some(error) if step.action.is_journaled() => {
                    self.slots += 1;
                    self.fail(position, HostError::failed(error.clone()));
                }
                _ => self.running.push(self.future(position)),
            }
        }
    }

    fn future(&self, position: usize) -> Pin<Box<dyn Future<Output = (usize, End)> + Send + 'a>> {
        let step = &self.plan.steps[position];
        let (host, options) = (self.host, self.options);
        let handle = ProgressHandle::new(step.id, self.sender.clone());
        Box::pin(async move {
            let work = async {
                match host.apply(step, &handle).await {
                    Ok(output) => End::Done(output),
                    Err(error) => End::Failed(error),
                }
            };
            let end = match &step.action {
                Action::AwaitSandbox { .. } => {
                    tokio::select! {
                        biased;
                        end = within(work, step, options.wait_timeout) => end,
                        () = options.cancel.cancelled() => End::GivenUp,
                    }
                }
                Action::PullImage { .. } => {
                    tokio::select! {
                        biased;
                        end = work => end,
                        () = options.cancel.cancelled() => End::GivenUp,
                    }
                }
                _ => work.await,
            };
            (position, end)
        })
    }

    /// Takes the end of a step, and of all that have ended by then, with one journal commit.
    async fn settle(&mut self, first: (usize, End)) {
        let mut ended = vec![first];
        while let Some(Some(more)) = self.running.next().now_or_never() {
            ended.push(more);
        }
        let closing: Vec<(&Step, bool)> = ended
            .iter()
            .map(|(position, end)| (&self.plan.steps[*position], matches!(end, End::Done(_))))
            .filter(|(step, _)| step.action.is_journaled())
            .collect();
        let closed = if closing.is_empty() { Ok(()) } else { self.host.finish(&closing).await };
        let failed = closed.err().map(|error| JournalError(Arc::new(error)));
        for (position, end) in ended {
            let step = &self.plan.steps[position];
            self.slots += usize::from(takes_slot(step));
            match (end, &failed) {
                (End::Done(_), Some(error)) if step.action.is_journaled() => {
                    self.fail(position, HostError::failed(error.clone()));
                }
                (End::Done(output), _) => self.succeed(position, &output),
                (End::Failed(error), _) => self.fail(position, error),
                (End::GivenUp, _) => self.states[position] = Some(StepState::Interrupted),
            }
        }
    }

    fn succeed(&mut self, position: usize, output: &StepOutput) {
        self.states[position] = Some(StepState::Done);
        let step = &self.plan.steps[position];
        self.reporter.report(Event::StepDone { step, output });
        let Next { hard, soft } = std::mem::take(&mut self.next[position]);
        hard.into_iter().chain(soft).for_each(|next| self.one_less(next));
    }

    fn fail(&mut self, position: usize, error: HostError) {
        self.states[position] = Some(StepState::Failed);
        let step = &self.plan.steps[position];
        self.reporter.report(Event::StepFailed { step, error: &error });
        self.errors.push((step.id, error));
        let mut ended = vec![position];
        while let Some(position) = ended.pop() {
            let Next { hard, soft } = std::mem::take(&mut self.next[position]);
            for next in hard {
                if self.states[next].is_none() {
                    self.states[next] = Some(StepState::Skipped);
                    let skipped = &self.plan.steps[next];
                    let because = Some(step);
                    self.reporter.report(Event::StepSkipped { step: skipped, because });
                    ended.push(next);
                }
            }
            soft.into_iter().for_each(|next| self.one_less(next));
        }
    }

    fn one_less(&mut self, position: usize) {
        self.waiting[position] -= 1;
        if self.waiting[position] == 0 && self.states[position].is_none() {
            self.make_ready(position);
        }
    }

    fn make_ready(&mut self, position: usize) {
        if takes_slot(&self.plan.steps[position]) {
            self.ready.push((self.rank[position], Reverse(position)));
        } else {
            self.ready_awaits.push(position);
        }
    }

    fn finish(self) -> Outcome {
        for (step, state) in self.plan.steps.iter().zip(&self.states) {
            if state.is_none() {
                self.reporter.report(Event::StepSkipped { step, because: None });
            }
        }
        let states = self.states.into_iter().map(|state| state.unwrap_or(StepState::Interrupted));
        Outcome { states: states.collect(), errors: self.errors, interrupted: self.interrupted }
    }
}

fn is_cut_short(state: &Option<StepState>) -> bool {
    matches!(state, None | Some(StepState::Interrupted))
}

/// Awaits only wait: one in a slot would keep work from being done.
fn takes_slot(step: &Step) -> bool {
    !matches!(step.action, Action::AwaitSandbox { .. })
}

/// Steps are in topological order, so one pass from the end finds the longest ways.
fn ranks(plan: &Plan, next: &[Next]) -> Vec<u32> {
    let mut rank = vec![0; plan.steps.len()];
    for (position, step) in plan.steps.iter().enumerate().rev() {
        let Next { hard, soft } = &next[position];
        let longest = hard.iter().chain(soft).map(|&next| rank[next]).max().unwrap_or(0);
        rank[position] = longest + weight(&step.action);
    }
    rank
}

/// How long an action takes beside others, roughly.
const fn weight(action: &Action) -> u32 {
    match action {
        Action::PullImage { .. } => 40,
        Action::StartSandbox { .. } | Action::AwaitSandbox { .. } => 20,
        Action::StopSandbox { .. } => 5,
        Action::CreateSandbox { .. } | Action::CreateVolume { .. } | Action::GrowVolume { .. } => 2,
        Action::UpdateSandbox { .. }
        | Action::RemoveSandbox { .. }
        | Action::UpdateVolume { .. }
        | Action::RemoveVolume => 1,
    }
}

async fn within(work: impl Future<Output = End>, step: &Step, limit: Option<Duration>) -> End {
    let Some(after) = limit else { return work.await };
    match tokio::time::timeout(after, work).await {
        Ok(end) => end,
        Err(_) => End::Failed(match &step.resource {
            ResourceId::Sandbox(sandbox) => HostError::TimedOut { sandbox: sandbox.clone(), after },
            ResourceId::Image(_) | ResourceId::Volume(_) => {
                HostError::failed(format!("not ready after {} ms", after.as_millis()))
            }
        }),
    }
}
