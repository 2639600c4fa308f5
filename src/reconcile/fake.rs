//! A machine in memory, for tests of plans and of what executes them.
//!
//! It does what a [`Step`] says, checks what a real machine would suffer from (a start whose image
//! is not in the cache or whose dependencies are not ready, a removal of what runs), can be told to
//! fail, and can lose power at any point of any step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::plan::{
    Action, DesiredImage, ObservedSandbox, ObservedState, ObservedVolume, PlannedSpec, Step,
    canonical_json,
};
use crate::spec::{
    Condition, Health, ImageSource, MountSource, Name, Project, ResourceId, SandboxKind,
    SandboxSpec, Status,
};

use super::{Host, HostError, ProgressHandle, StepOutput};

/// How long a step takes, in virtual time.
type Delay = Box<dyn Fn(&Step) -> Duration + Send + Sync>;

/// A machine in memory.
#[derive(Default)]
pub struct FakeHost {
    machine: Mutex<Machine>,
    delay: Option<Delay>,
}

/// The state of a [`FakeHost`], for tests to look at and to change.
#[derive(Default)]
pub struct Machine {
    /// Sandboxes that exist.
    pub sandboxes: BTreeMap<Name, FakeSandbox>,
    /// Volumes that exist.
    pub volumes: BTreeMap<Name, ObservedVolume>,
    /// Volumes that belong to no project.
    pub standalone: BTreeMap<Name, ObservedVolume>,
    /// Digests in the cache.
    pub cached: BTreeSet<String>,
    /// What a reference resolves to where that is not derived from its text.
    pub registry: BTreeMap<String, String>,
    /// Exit codes of jobs; 0 for those not listed.
    pub exit_codes: BTreeMap<Name, i32>,
    /// Sandboxes whose health check fails.
    pub unhealthy: BTreeSet<Name>,
    /// Titles of steps that fail, such as `start sandbox db`.
    pub failing: BTreeSet<String>,
    /// Titles of the steps that had an effect, in order.
    pub log: Vec<String>,
    /// What a real machine would have suffered from.
    pub violations: Vec<String>,
    /// Half-made things that a crash left behind, by title of the step.
    pub debris: BTreeSet<String>,
    journal: BTreeSet<String>,
    serial: u64,
    next_id: u64,
    /// Crash points that are passed before the power fails.
    power: Option<usize>,
    dead: bool,
}

/// A sandbox of a [`FakeHost`].
#[derive(Clone, Debug)]
pub struct FakeSandbox {
    /// What the planner sees.
    pub observed: ObservedSandbox,
    /// Its spec.
    pub spec: Arc<SandboxSpec>,
    /// How many times it was started.
    pub runs: u32,
    /// The serial of the machine when its last run began.
    pub started_at: u64,
    /// The hash of the spec that its run was started with or told about.
    pub run_hash: Option<crate::plan::SpecHash>,
}

#[derive(Debug, thiserror::Error)]
enum FakeError {
    #[error("the power failed")]
    Dead,
    #[error("told to fail")]
    Told,
    #[error("{0}")]
    Impossible(String),
}

impl FakeHost {
    /// An empty machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// A machine whose steps take as long as `delay` says; needs tokio's clock.
    pub fn with_delay(delay: impl Fn(&Step) -> Duration + Send + Sync + 'static) -> Self {
        Self { machine: Mutex::default(), delay: Some(Box::new(delay)) }
    }

    /// The state, to look at and to change.
    pub fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the images of a project resolve to, as far as the cache knows.
    pub fn images(&self, project: &Project) -> BTreeMap<Name, DesiredImage> {
        let machine = self.machine();
        let resolve = |spec: &SandboxSpec| {
            let digest = machine.digest(&spec.image.source);
            if machine.cached.contains(&digest) {
                DesiredImage::Known { digest }
            } else {
                DesiredImage::Missing
            }
        };
        project.sandboxes.iter().map(|(name, spec)| (name.clone(), resolve(spec))).collect()
    }
}

impl Machine {
    /// Lets the power fail once `points` more crash points have been passed. Every step has
    /// several, before, in and after its effect.
    pub fn fail_power_after(&mut self, points: usize) {
        self.power = Some(points);
    }

    /// Puts the power back, and tells whether it had failed. What ran keeps running.
    pub fn restore_power(&mut self) -> bool {
        self.power = None;
        std::mem::take(&mut self.dead)
    }

    /// Ends a sandbox out of order.
    pub fn crash(&mut self, name: &Name) {
        if let Some(sandbox) = self.sandboxes.get_mut(name) {
            sandbox.observed.status = Status::Crashed;
            sandbox.observed.health = None;
        }
    }

    /// Lets every job that runs end, with its scripted exit code.
    pub fn finish_jobs(&mut self) {
        let jobs: Vec<Name> = self
            .sandboxes
            .iter()
            .filter(|(_, job)| job.spec.kind == SandboxKind::Job)
            .filter(|(_, job)| job.observed.status == Status::Running)
            .map(|(name, _)| name.clone())
            .collect();
        jobs.iter().for_each(|name| self.finish_job(name));
    }

    /// The digest of an image.
    pub fn digest(&self, source: &ImageSource) -> String {
        let reference = source.to_string();
        let derived = || format!("sha256:{}", blake3::hash(reference.as_bytes()));
        self.registry.get(&reference).cloned().unwrap_or_else(derived)
    }

    fn finish_job(&mut self, name: &Name) {
        let code = self.exit_codes.get(name).copied().unwrap_or(0);
        if let Some(job) = self.sandboxes.get_mut(name) {
            job.observed.status = Status::Stopped;
            job.observed.exit_code = Some(code);
        }
    }

    /// A point at which the power may fail.
    fn crash_point(&mut self) -> Result<(), HostError> {
        match &mut self.power {
            Some(0) => self.dead = true,
            Some(left) => *left -= 1,
            None => {}
        }
        if self.dead { Err(HostError::failed(FakeError::Dead)) } else { Ok(()) }
    }

    fn violate(&mut self, what: String) -> HostError {
        self.violations.push(what.clone());
        HostError::failed(FakeError::Impossible(what))
    }

    fn apply(&mut self, step: &Step) -> Result<StepOutput, HostError> {
        self.crash_point()?;
        let title = step.title();
        if self.failing.contains(&title) {
            return Err(HostError::failed(FakeError::Told));
        }
        if step.action.is_journaled() && !self.journal.contains(&title) {
            return Err(self.violate(format!("{title}: not in the journal")));
        }
        match &step.resource {
            ResourceId::Image(_) => self.apply_image(step)?,
            ResourceId::Sandbox(name) => self.apply_sandbox(step, name, &title)?,
            ResourceId::Volume(name) => self.apply_volume(step, name, &title)?,
        }
        self.serial += 1;
        self.log.push(title);
        self.crash_point()?;
        Ok(StepOutput::default())
    }

    fn apply_image(&mut self, step: &Step) -> Result<(), HostError> {
        let Action::PullImage { image, digest, .. } = &step.action else { return Ok(()) };
        let digest = digest.clone().unwrap_or_else(|| self.digest(&image.source));
        self.crash_point()?;
        self.cached.insert(digest);
        Ok(())
    }

    fn apply_volume(&mut self, step: &Step, name: &Name, title: &str) -> Result<(), HostError> {
        match &step.action {
            Action::CreateVolume { spec } => {
                if self.volumes.contains_key(name) || spec.external {
                    return Err(self.violate(format!("{title}: it exists or is external")));
                }
                self.debris.insert(title.to_owned());
                self.crash_point()?;
                let volume = ObservedVolume {
                    kind: spec.kind,
                    quota: spec.size(),
                    labels: spec.labels.clone(),
                    protect: spec.protect,
                };
                self.volumes.insert(name.clone(), volume);
                self.debris.remove(title);
            }
            Action::UpdateVolume { spec } => {
                let Some(volume) = self.volumes.get_mut(name) else {
                    return Err(self.violate(format!("{title}: it does not exist")));
                };
                (volume.labels, volume.protect) = (spec.labels.clone(), spec.protect);
            }
            Action::GrowVolume { quota } => match self.volumes.get_mut(name) {
                Some(volume) if volume.quota.is_some_and(|old| old <= *quota) => {
                    volume.quota = Some(*quota);
                }
                _ => return Err(self.violate(format!("{title}: it does not exist or shrinks"))),
            },
            _ => {
                let user = self.sandboxes.iter().find(|(_, sandbox)| sandbox.mounts(name));
                if let Some((user, _)) = user {
                    let what = format!("{title}: {user} mounts it");
                    return Err(self.violate(what));
                }
                if self.volumes.get(name).is_none_or(|volume| volume.protect) {
                    return Err(self.violate(format!("{title}: it is protected or gone")));
                }
                self.debris.insert(title.to_owned());
                self.crash_point()?;
                self.volumes.remove(name);
                self.debris.remove(title);
            }
        }
        Ok(())
    }

    fn apply_sandbox(&mut self, step: &Step, name: &Name, title: &str) -> Result<(), HostError> {
        match &step.action {
            Action::CreateSandbox { spec, image_digest, origin_file } => {
                self.create(name, title, spec, image_digest.as_ref(), origin_file.as_ref())
            }
            Action::UpdateSandbox { id, spec, live, origin_file } => {
                self.crash_point()?;
                let found = self.existing(name, Some(id), title)?;
                // It may have ended meanwhile, but nothing may have started it.
                if found.observed.is_live() && !*live {
                    let what = format!("{title}: it is {}", found.observed.status);
                    return Err(self.violate(what));
                }
                if *live {
                    found.run_hash = Some(spec.hash());
                }
                found.write(spec, origin_file.as_ref());
                Ok(())
            }
            Action::StartSandbox { id } => self.start(name, id.as_deref(), title),
            Action::AwaitSandbox { condition } => self.wait(name, *condition),
            Action::StopSandbox { id, .. } => {
                self.existing(name, Some(id), title)?.observed.status = Status::Draining;
                self.crash_point()?;
                let found = self.existing(name, Some(id), title)?;
                found.observed.status = Status::Stopped;
                found.observed.exit_code = Some(143);
                found.observed.health = None;
                Ok(())
            }
            Action::RemoveSandbox { id } => {
                let found = self.existing(name, Some(id), title)?;
                if found.observed.is_live() {
                    return Err(self.violate(format!("{title}: it runs")));
                }
                self.debris.insert(title.to_owned());
                self.crash_point()?;
                self.sandboxes.remove(name);
                self.debris.remove(title);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn existing(
        &mut self,
        name: &Name,
        id: Option<&str>,
        title: &str,
    ) -> Result<&mut FakeSandbox, HostError> {
        let found = self.sandboxes.get(name).map(|sandbox| sandbox.observed.id.clone());
        match (found, id) {
            (None, _) => Err(self.violate(format!("{title}: it does not exist"))),
            (Some(found), Some(id)) if found != id => {
                Err(self.violate(format!("{title}: it is {found}, not {id}")))
            }
            _ => self.sandboxes.get_mut(name).ok_or(HostError::failed(FakeError::Dead)),
        }
    }

    fn create(
        &mut self,
        name: &Name,
        title: &str,
        spec: &PlannedSpec,
        digest: Option<&String>,
        origin_file: Option<&String>,
    ) -> Result<(), HostError> {
        if self.sandboxes.contains_key(name) {
            return Err(self.violate(format!("{title}: it exists")));
        }
        let digest = digest.cloned().unwrap_or_else(|| self.digest(&spec.image.source));
        if !self.cached.contains(&digest) {
            return Err(self.violate(format!("{title}: its image is not in the cache")));
        }
        self.debris.insert(title.to_owned());
        self.crash_point()?;
        self.next_id += 1;
        let observed = ObservedSandbox {
            id: format!("{:012x}", self.next_id),
            spec_json: canonical_json(spec).into(),
            spec_hash: spec.hash(),
            image_digest: Some(digest),
            status: Status::Created,
            health: None,
            exit_code: None,
            protect: spec.lifecycle.protect,
            origin_file: origin_file.cloned(),
        };
        let sandbox =
            FakeSandbox { observed, spec: spec.share(), runs: 0, started_at: 0, run_hash: None };
        self.sandboxes.insert(name.clone(), sandbox);
        self.debris.remove(title);
        Ok(())
    }

    fn start(&mut self, name: &Name, id: Option<&str>, title: &str) -> Result<(), HostError> {
        let found = self.existing(name, id, title)?;
        if found.observed.is_live() {
            return Err(self.violate(format!("{title}: it runs")));
        }
        let (spec, digest) = (Arc::clone(&found.spec), found.observed.image_digest.clone());
        if digest.is_none_or(|digest| !self.cached.contains(&digest)) {
            return Err(self.violate(format!("{title}: its image is not in the cache")));
        }
        for (dependency, how) in &spec.depends_on {
            if how.required && !self.holds(dependency, how.condition) {
                let what = format!("{title}: {dependency} is not {}", how.condition);
                self.violations.push(what);
            }
        }
        for mount in spec.volumes.values() {
            let MountSource::Named { volume, external } = &mount.source else { continue };
            let there = if *external {
                self.standalone.contains_key(&volume.local())
            } else {
                self.volumes.contains_key(volume)
            };
            if !there {
                return Err(self.violate(format!("{title}: there is no volume {volume}")));
            }
        }
        let serial = self.serial;
        let found = self.existing(name, id, title)?;
        found.observed.status = Status::Starting;
        found.observed.exit_code = None;
        found.started_at = serial;
        self.crash_point()?;
        let found = self.existing(name, id, title)?;
        found.observed.status = Status::Running;
        found.observed.health = spec.healthcheck.as_ref().map(|_| Health::Starting);
        found.runs += 1;
        found.run_hash = Some(found.observed.spec_hash);
        Ok(())
    }

    fn holds(&self, name: &Name, condition: Condition) -> bool {
        let Some(sandbox) = self.sandboxes.get(name) else { return false };
        let observed = &sandbox.observed;
        match condition {
            Condition::Started => !matches!(observed.status, Status::Created | Status::Starting),
            Condition::Healthy => {
                observed.status == Status::Running
                    && (sandbox.spec.healthcheck.is_none()
                        || observed.health == Some(Health::Healthy))
            }
            Condition::Completed => {
                observed.status == Status::Stopped && observed.exit_code == Some(0)
            }
        }
    }

    fn wait(&mut self, name: &Name, condition: Condition) -> Result<(), HostError> {
        match condition {
            Condition::Started => {
                if let Some(found) = self.sandboxes.get_mut(name)
                    && found.observed.status == Status::Starting
                {
                    found.observed.status = Status::Running;
                    found.observed.health =
                        found.spec.healthcheck.as_ref().map(|_| Health::Starting);
                    found.run_hash = Some(found.observed.spec_hash);
                }
            }
            Condition::Healthy => {
                let unhealthy = self.unhealthy.contains(name);
                if let Some(found) = self.sandboxes.get_mut(name) {
                    let verdict = if unhealthy { Health::Unhealthy } else { Health::Healthy };
                    if found.observed.status == Status::Starting {
                        found.observed.status = Status::Running;
                    }
                    found.observed.health = found.spec.healthcheck.as_ref().map(|_| verdict);
                }
                if unhealthy {
                    let (sandbox, output) = (name.clone(), "probe failed".to_owned());
                    return Err(HostError::Unhealthy { sandbox, output });
                }
            }
            Condition::Completed => {
                self.finish_job(name);
                let code = self.exit_codes.get(name).copied().unwrap_or(0);
                if code != 0 {
                    return Err(HostError::Exited {
                        sandbox: name.clone(),
                        code,
                        reason: String::new(),
                    });
                }
            }
        }
        Ok(())
    }
}

impl FakeSandbox {
    /// Whether it mounts the project's volume `name`.
    fn mounts(&self, name: &Name) -> bool {
        let is_it = |source: &MountSource| matches!(source, MountSource::Named { volume, external: false } if volume == name);
        self.spec.volumes.values().any(|mount| is_it(&mount.source))
    }

    fn write(&mut self, spec: &PlannedSpec, origin_file: Option<&String>) {
        self.spec = spec.share();
        self.observed.spec_json = canonical_json(spec).into();
        self.observed.spec_hash = spec.hash();
        self.observed.protect = spec.lifecycle.protect;
        self.observed.origin_file = origin_file.cloned();
    }
}

impl Host for FakeHost {
    async fn recover(&self, _project: &Name) -> Result<(), HostError> {
        let mut machine = self.machine();
        let open = std::mem::take(&mut machine.journal);
        machine.debris.retain(|title| !open.contains(title));
        Ok(())
    }

    async fn observe(&self, _project: &Project) -> Result<ObservedState, HostError> {
        let machine = self.machine();
        let sandboxes = machine.sandboxes.iter();
        Ok(ObservedState {
            serial: machine.serial,
            sandboxes: sandboxes.map(|(name, s)| (name.clone(), s.observed.clone())).collect(),
            volumes: machine.volumes.clone(),
            standalone: machine.standalone.clone(),
        })
    }

    async fn begin(&self, steps: &[&Step]) -> Result<(), HostError> {
        let mut machine = self.machine();
        machine.crash_point()?;
        machine.journal.extend(steps.iter().map(|step| step.title()));
        Ok(())
    }

    async fn apply(
        &self,
        step: &Step,
        _progress: &ProgressHandle,
    ) -> Result<StepOutput, HostError> {
        if let Some(delay) = &self.delay {
            tokio::time::sleep(delay(step)).await;
        }
        self.machine().apply(step)
    }

    async fn finish(&self, steps: &[(&Step, bool)]) -> Result<(), HostError> {
        let mut machine = self.machine();
        machine.crash_point()?;
        for (step, _) in steps {
            let title = step.title();
            machine.journal.remove(&title);
            if machine.debris.remove(&title) {
                machine.violations.push(format!("{title}: left something half made"));
            }
        }
        Ok(())
    }
}
