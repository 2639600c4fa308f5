//! What a run of a plan looks like while it happens.
//!
//! On a terminal each resource that is worked on has a live line (phase, bytes, elapsed time);
//! what is finished scrolls away above. Off a terminal there is one plain line a state change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::plan::{Action, Plan, Step};
use crate::reconcile::{Event, Outcome, Progress, Reporter, StepState};
use crate::spec::{Condition, Name, ResourceId};

use super::args::size;
use super::escape::escape;
use super::ui::{Tone, Ui};

/// Draws the events of one run.
pub(crate) struct Drawing<'a> {
    ui: &'a Ui,
    live: BTreeMap<ResourceId, Live>,
    /// Told once, however many of its steps are.
    skipped: BTreeSet<ResourceId>,
    width: usize,
}

struct Live {
    bar: ProgressBar,
    phase: String,
    since: Instant,
}

impl<'a> Drawing<'a> {
    pub(crate) fn new(ui: &'a Ui, plan: &Plan) -> Self {
        let width = plan.steps.iter().map(|step| label(&step.resource).chars().count()).max();
        Self { ui, live: BTreeMap::new(), skipped: BTreeSet::new(), width: width.unwrap_or(0) }
    }

    fn started(&mut self, step: &Step) {
        let phase = doing(&step.action);
        if !self.ui.is_live() && is_slow(&step.action) {
            self.line(step, phase, "", Tone::Plain);
        }
        let live = self.live.entry(step.resource.clone()).or_insert_with(|| Live {
            bar: self.ui.live_line(&format!("{:1$}", label(&step.resource), self.width)),
            phase: String::new(),
            since: Instant::now(),
        });
        phase.clone_into(&mut live.phase);
        live.since = Instant::now();
        live.bar.set_message(phase.to_owned());
    }

    fn progress(&mut self, step: &Step, progress: &Progress) {
        let Some(live) = self.live.get_mut(&step.resource) else { return };
        match progress {
            Progress::Phase(phase) => {
                let is_new = live.phase != *phase;
                (*phase).clone_into(&mut live.phase);
                live.bar.set_message((*phase).to_owned());
                let takes_minutes = matches!(step.action, Action::PullImage { .. });
                if is_new && takes_minutes && !self.ui.is_live() {
                    self.line(step, phase, "", Tone::Plain);
                }
            }
            Progress::Bytes { done, total } => {
                let total = total.map_or_else(String::new, |total| format!(" of {}", size(total)));
                live.bar.set_message(format!("{} {}{total}", live.phase, size(*done)));
            }
        }
    }

    fn ended(&mut self, step: &Step, word: &str, detail: &str, tone: Tone) {
        let elapsed = match self.live.remove(&step.resource) {
            Some(live) => {
                live.bar.finish_and_clear();
                live.since.elapsed()
            }
            None => Duration::ZERO,
        };
        let time = if is_slow(&step.action) && tone == Tone::Good {
            format!(" in {}", seconds(elapsed))
        } else {
            String::new()
        };
        self.line(step, word, &format!("{time}{detail}"), tone);
    }

    fn line(&self, step: &Step, word: &str, detail: &str, tone: Tone) {
        let name = label(&step.resource);
        self.ui.say_toned(&format!("{name:width$}  {word}{detail}", width = self.width), tone);
    }
}

impl Reporter for Drawing<'_> {
    fn report(&mut self, event: Event<'_>) {
        match event {
            Event::StepStarted { step } => self.started(step),
            Event::Progress { step, progress } => self.progress(step, &progress),
            Event::StepDone { step, output } => {
                let more = output.notice.as_deref().map(|notice| format!(", {}", escape(notice)));
                self.ended(step, done(&step.action), &more.unwrap_or_default(), Tone::Good);
            }
            Event::StepFailed { step, error } => {
                let first = error.to_string();
                let first = first.lines().next().unwrap_or_default();
                let first = escape(first);
                self.ended(step, "failed", &format!(": {first}"), Tone::Bad);
            }
            Event::StepSkipped { step, because } => {
                if !self.skipped.insert(step.resource.clone()) {
                    return;
                }
                let why = because.map_or_else(
                    || ": interrupted".to_owned(),
                    |other| format!(": {} failed or was skipped", other.resource),
                );
                self.ended(step, "skipped", &why, Tone::Busy);
            }
        }
    }
}

fn label(resource: &ResourceId) -> String {
    match resource {
        ResourceId::Sandbox(name) => name.to_string(),
        ResourceId::Image(_) | ResourceId::Volume(_) => resource.to_string(),
    }
}

const fn doing(action: &Action) -> &'static str {
    match action {
        Action::PullImage { .. } => "resolving",
        Action::CreateSandbox { .. } | Action::CreateVolume { .. } => "creating",
        Action::UpdateSandbox { .. } | Action::UpdateVolume { .. } | Action::GrowVolume { .. } => {
            "updating"
        }
        Action::StartSandbox { .. } => "starting",
        Action::AwaitSandbox { condition: Condition::Started } => "waiting until started",
        Action::AwaitSandbox { condition: Condition::Healthy } => "waiting until healthy",
        Action::AwaitSandbox { condition: Condition::Completed } => "waiting until completed",
        Action::StopSandbox { .. } => "stopping",
        Action::RemoveSandbox { .. } | Action::RemoveVolume => "removing",
    }
}

const fn done(action: &Action) -> &'static str {
    match action {
        Action::PullImage { .. } => "pulled",
        Action::CreateSandbox { .. } | Action::CreateVolume { .. } => "created",
        Action::UpdateSandbox { .. } | Action::UpdateVolume { .. } => "updated",
        Action::GrowVolume { .. } => "grown",
        Action::StartSandbox { .. } | Action::AwaitSandbox { condition: Condition::Started } => {
            "started"
        }
        Action::AwaitSandbox { condition: Condition::Healthy } => "healthy",
        Action::AwaitSandbox { condition: Condition::Completed } => "completed",
        Action::StopSandbox { .. } => "stopped",
        Action::RemoveSandbox { .. } | Action::RemoveVolume => "removed",
    }
}

/// Whether a step takes long enough to be announced.
const fn is_slow(action: &Action) -> bool {
    matches!(
        action,
        Action::PullImage { .. }
            | Action::StartSandbox { .. }
            | Action::AwaitSandbox { .. }
            | Action::StopSandbox { .. }
    )
}

/// What a run did, by sandbox: `3 started, 1 replaced, 5 unchanged in 1.8 s`.
pub(crate) fn summary(plan: &Plan, outcome: &Outcome, elapsed: Duration) -> String {
    let mut sandboxes: BTreeMap<&Name, Tally> = BTreeMap::new();
    for (step, state) in plan.steps.iter().zip(&outcome.states) {
        if let ResourceId::Sandbox(name) = &step.resource {
            sandboxes.entry(name).or_default().add(&step.action, *state);
        }
    }
    let mut counts: BTreeMap<(u8, &str), usize> = BTreeMap::new();
    for tally in sandboxes.values() {
        if let Some(word) = tally.word() {
            *counts.entry(word).or_default() += 1;
        }
    }
    if plan.summary.unchanged > 0 {
        counts.insert((7, "unchanged"), plan.summary.unchanged);
    }
    let mut parts: Vec<_> = counts.iter().map(|((_, word), n)| format!("{n} {word}")).collect();
    parts.extend(volumes(plan, outcome));
    let what = if parts.is_empty() { "nothing done".to_owned() } else { parts.join(", ") };
    format!("{what} in {}", seconds(elapsed))
}

/// What was done with volumes: `1 volume created`.
fn volumes(plan: &Plan, outcome: &Outcome) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (step, state) in plan.steps.iter().zip(&outcome.states) {
        if matches!(step.resource, ResourceId::Volume(_)) && *state == StepState::Done {
            *counts.entry(done(&step.action)).or_default() += 1;
        }
    }
    let text =
        |(word, n): (&str, usize)| format!("{n} volume{} {word}", if n == 1 { "" } else { "s" });
    counts.into_iter().map(text).collect()
}

/// The steps of one sandbox.
#[derive(Default)]
struct Tally {
    created: bool,
    removed: bool,
    stopped: bool,
    started: bool,
    updated: bool,
    failed: bool,
    skipped: bool,
}

impl Tally {
    fn add(&mut self, action: &Action, state: StepState) {
        match state {
            StepState::Failed => self.failed = true,
            StepState::Skipped | StepState::Interrupted => self.skipped = true,
            StepState::Done => match action {
                Action::CreateSandbox { .. } => self.created = true,
                Action::RemoveSandbox { .. } => self.removed = true,
                Action::StopSandbox { .. } => self.stopped = true,
                Action::StartSandbox { .. } => self.started = true,
                Action::UpdateSandbox { .. } => self.updated = true,
                Action::PullImage { .. }
                | Action::AwaitSandbox { .. }
                | Action::CreateVolume { .. }
                | Action::UpdateVolume { .. }
                | Action::GrowVolume { .. }
                | Action::RemoveVolume => {}
            },
        }
    }

    /// The word, after its place in the sentence. None: it was only waited for.
    const fn word(&self) -> Option<(u8, &'static str)> {
        Some(match self {
            Self { failed: true, .. } => (8, "failed"),
            Self { skipped: true, .. } => (9, "skipped"),
            Self { created: true, removed: true, .. } => (1, "replaced"),
            Self { created: false, removed: true, .. } => (6, "removed"),
            Self { stopped: true, started: true, .. } => (2, "restarted"),
            Self { started: true, .. } => (0, "started"),
            Self { created: true, .. } => (3, "created"),
            Self { stopped: true, .. } => (5, "stopped"),
            Self { updated: true, .. } => (4, "updated"),
            Self { .. } => return None,
        })
    }
}

/// A duration for people, in seconds.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} s", duration.as_secs())
    }
}
