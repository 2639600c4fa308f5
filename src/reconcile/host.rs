//! The real machine: the store, the image cache, disks and supervisors.
//!
//! Every action leaves things as they were or done, however it is interrupted:
//!
//! ```text
//! create   journal(id) → disk in tmp/ID → rename to sandboxes/ID → row            (one commit)
//! remove   journal(id) → row goes (one commit) → sandboxes/ID goes
//! start    the supervisor writes its own status; a second start finds it alive
//! ```
//!
//! Volumes likewise: `super::volumes`. [`RealHost::recover`] looks at what the journal names: a
//! directory without a row is removed, be it half made or half removed; nothing else can be half done.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::home::Home;
use crate::image::{ImageCache, RegistryAccess};
use crate::plan::{Action, ObservedState, Step, StepId};
use crate::runtime::Kernel;
use crate::spec::{Name, Project, ResourceId, SandboxSpec};
use crate::store::{Durability, JournalState, SandboxRow, Store, StoreError, Writer};
use crate::supervisor::{self, Owner};

use super::journal::{self, Entry};
use super::observe::observe;
use super::one_off::is_one_off;
use super::{Host, HostError, ProgressHandle, StepOutput, crash_point};

mod patches;
mod steps;
mod volumes;

/// What boots a guest on this machine.
#[derive(Clone, Debug)]
pub struct BootParts {
    /// The driver's name.
    pub driver: &'static str,
    /// The guest kernel; without paths where the driver needs none.
    pub kernel: Kernel,
    /// The disk that the agent boots from; none where the driver needs none.
    pub boot_disk: Option<PathBuf>,
    /// Whether nothing may start when a layer of its jail is missing.
    pub require_jail: bool,
    /// The `msb` that runs supervisors; none is this program.
    pub executable: Option<PathBuf>,
}

/// The machine that plans are executed on.
pub struct RealHost {
    home: Home,
    project: Name,
    root: String,
    files: Vec<String>,
    store: Arc<Mutex<Store>>,
    images: ImageCache,
    access: RegistryAccess,
    machine: Option<BootParts>,
    /// Steps that were begun: their journal row, and the id of the sandbox that they make.
    begun: Mutex<BTreeMap<StepId, (i64, Option<String>)>>,
    /// Sandboxes that are going to be made, and whose layers of patches wait for their images.
    unpatched: Mutex<Vec<(Name, Arc<SandboxSpec>)>>,
    /// The one sandbox that this may change, where others change others meanwhile.
    only: Option<Name>,
    /// Sandboxes that are started for an owner, and their owners once they are.
    owned: Mutex<BTreeMap<Name, Option<Owner>>>,
}

/// A step that makes no sense on this machine as it is.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("there is no image with digest {0} in the cache any more")]
    ImageGone(String),
    #[error("the image is {found} by its reference, and the disk fits {needed} only")]
    ImageMoved { found: String, needed: String },
    #[error("sandbox `{0}` does not exist any more")]
    Gone(Name),
    #[error("there is no volume `{0}` any more: `msb up` makes it, unless it is external")]
    NoVolume(Name),
    #[error(
        "{path}: what the volume `{volume}` held is gone: put it back, or `msb volume rm {volume}`"
    )]
    VolumeLost { volume: String, path: PathBuf },
    #[error(
        "{0} has changed, and the sandbox's disk fits what it was; `msb up` replaces the sandbox"
    )]
    SourceChanged(String),
    #[error("sandbox `{0}` still runs")]
    StillRuns(Name),
    #[error("the stored spec of sandbox `{name}` cannot be read")]
    StoredSpec { name: Name, source: serde_json::Error },
    #[error("{0} is not supported by this version yet")]
    Unsupported(&'static str),
    #[error("the plan starts a sandbox and no driver was chosen")]
    NoMachine,
    #[error("{path}: cannot {what}")]
    File { path: PathBuf, what: &'static str, source: io::Error },
}

impl RealHost {
    /// The machine with the state of `store`. Without `machine`, nothing can be started.
    pub fn new(
        store: Arc<Mutex<Store>>,
        images: ImageCache,
        access: RegistryAccess,
        machine: Option<BootParts>,
        project: &Project,
        files: Vec<String>,
    ) -> Self {
        let home = store.lock().unwrap_or_else(PoisonError::into_inner).home().clone();
        Self {
            home,
            project: project.name.clone(),
            root: project.root.clone(),
            files,
            store,
            images,
            access,
            machine,
            begun: Mutex::default(),
            unpatched: Mutex::default(),
            only: None,
            owned: Mutex::default(),
        }
    }

    /// For plans about one sandbox under a lease of its own: what the journal says of others is
    /// left alone.
    #[must_use]
    pub fn only(mut self, name: Option<Name>) -> Self {
        self.only = name;
        self
    }

    /// Has these sandboxes live no longer than what [`RealHost::take_owner`] gives, where this starts
    /// them.
    #[must_use]
    pub fn owning(self, names: impl IntoIterator<Item = Name>) -> Self {
        self.owned().extend(names.into_iter().map(|name| (name, None)));
        self
    }

    /// The owner of a sandbox that this has started for one, once.
    pub fn take_owner(&self, name: &Name) -> Option<Owner> {
        self.owned().remove(name).flatten()
    }

    fn owned(&self) -> MutexGuard<'_, BTreeMap<Name, Option<Owner>>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the books of a run: its journal goes, and with `forget` the project too, once it has
    /// no sandboxes. A `fingerprint` says what the state now depends on.
    pub fn settle(
        &self,
        project: &str,
        forget: bool,
        fingerprint: Option<&str>,
    ) -> Result<(), StoreError> {
        let own: Vec<i64> = self.begun().values().map(|(row, _)| *row).collect();
        self.lock().write(Durability::Relaxed, |w| {
            match self.only {
                Some(_) => w.drop_steps(own)?,
                None => w.clear_journal(project)?,
            }
            if let Some(fingerprint) = fingerprint {
                w.set_fingerprint(project, fingerprint)?;
            }
            if forget {
                w.remove_project_if_empty(project)?;
            }
            Ok(())
        })
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begun(&self) -> MutexGuard<'_, BTreeMap<StepId, (i64, Option<String>)>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(
        &self,
        body: impl FnOnce(&Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, HostError> {
        self.lock().write(Durability::Synced, body).map_err(HostError::failed)
    }

    fn row(&self, name: &Name, id: Option<&str>) -> Result<SandboxRow, HostError> {
        let store = self.lock();
        let row = match id {
            Some(id) => store.sandbox_by_id(id),
            None => store.sandbox(self.project.as_str(), name.as_str()),
        };
        let row = row.map_err(HostError::failed)?;
        let mut row = row.ok_or_else(|| HostError::failed(StepError::Gone(name.clone())))?;
        let boot = supervisor::boot_id().map_err(HostError::failed)?;
        supervisor::interpret(std::slice::from_mut(&mut row), &boot);
        Ok(row)
    }

    /// The id of what a step makes or removes.
    fn id_of(&self, step: &Step) -> Result<Option<String>, HostError> {
        Ok(match (&step.action, &step.resource) {
            (Action::CreateSandbox { .. } | Action::CreateVolume { .. }, _) => {
                Some(supervisor::new_id().map_err(HostError::failed)?)
            }
            (Action::RemoveSandbox { id }, _) => Some(id.clone()),
            (Action::RemoveVolume, ResourceId::Volume(name)) => {
                let row = self.lock().volume(Some(self.project.as_str()), name.as_str());
                row.map_err(HostError::failed)?.map(|row| row.id)
            }
            _ => None,
        })
    }

    /// The id of what `step` makes, as the journal says it.
    fn begun_id(&self, step: &Step) -> Result<String, HostError> {
        match self.begun().get(&step.id).and_then(|(_, id)| id.clone()) {
            Some(id) => Ok(id),
            None => supervisor::new_id().map_err(HostError::failed),
        }
    }

    async fn act(&self, step: &Step, progress: &ProgressHandle) -> Result<StepOutput, HostError> {
        let name = match &step.resource {
            ResourceId::Sandbox(name) => name,
            ResourceId::Image(_) => return self.pull(step, progress).await,
            ResourceId::Volume(name) => {
                return match &step.action {
                    Action::GrowVolume { quota } => self.grow_volume(name, *quota).await,
                    _ => self.volume(step, name),
                };
            }
        };
        match &step.action {
            Action::CreateSandbox { spec, image_digest, origin_file } => {
                let digest_and_file = (image_digest.as_deref(), origin_file.as_deref());
                self.create(step, name, spec, digest_and_file, progress).await
            }
            Action::UpdateSandbox { id, spec, live, origin_file } => {
                self.update(name, id, spec, *live, origin_file.as_deref()).await
            }
            Action::StartSandbox { id } => self.start(name, id.as_deref(), progress).await,
            Action::AwaitSandbox { condition } => self.wait_for(name, *condition).await,
            Action::StopSandbox { id, grace } => self.stop(name, id, *grace).await,
            Action::RemoveSandbox { id } => self.remove(name, id),
            Action::PullImage { .. }
            | Action::CreateVolume { .. }
            | Action::UpdateVolume { .. }
            | Action::GrowVolume { .. }
            | Action::RemoveVolume => Err(HostError::failed(StepError::Unsupported("this step"))),
        }
    }
}

impl Host for RealHost {
    async fn recover(&self, project: &Name) -> Result<(), HostError> {
        let mut open = self.lock().open_journal(project.as_str()).map_err(HostError::failed)?;
        if let Some(only) = &self.only {
            open.retain(|row| journal::is_about(row, only));
        }
        for row in &open {
            journal::undo(&self.lock(), row).map_err(HostError::failed)?;
        }
        if !open.is_empty() {
            self.write(|w| w.drop_steps(open.iter().map(|row| row.id)))?;
        }
        if self.only.is_some() {
            return Ok(());
        }
        // Whoever was to remove them has been killed.
        let rows = super::rows(&self.lock(), project.as_str()).map_err(HostError::failed)?;
        for row in rows.iter().filter(|row| !row.status.is_live() && is_one_off(&row.spec_json)) {
            let name = Name::new(row.name.as_str()).map_err(HostError::failed)?;
            self.remove(&name, &row.id)?;
        }
        Ok(())
    }

    fn observe(
        &self,
        project: &Project,
    ) -> impl Future<Output = Result<ObservedState, HostError>> + Send {
        let observed = observe(Some(&self.lock()), &project.name).map_err(HostError::failed);
        std::future::ready(observed)
    }

    async fn begin(&self, steps: &[&Step]) -> Result<(), HostError> {
        let mut entries = Vec::with_capacity(steps.len());
        for step in steps {
            let entry = Entry {
                action: journal::word(&step.action).to_owned(),
                resource: step.resource.to_string(),
                id: self.id_of(step)?,
            };
            let text = serde_json::to_string(&entry).map_err(HostError::failed)?;
            entries.push((step.id, entry.id, text));
        }
        let rows = self.write(|w| {
            w.put_project(self.project.as_str(), &self.root, &self.files)?;
            let texts = entries.iter().map(|(_, _, text)| text.as_str());
            w.begin_steps(self.project.as_str(), 0, texts)
        })?;
        let mut begun = self.begun();
        for ((step, id, _), row) in entries.into_iter().zip(rows) {
            begun.insert(step, (row, id));
        }
        crash_point("begun");
        Ok(())
    }

    async fn apply(&self, step: &Step, progress: &ProgressHandle) -> Result<StepOutput, HostError> {
        self.act(step, progress).await
    }

    async fn finish(&self, steps: &[(&Step, bool)]) -> Result<(), HostError> {
        let rows: Vec<_> = {
            let begun = self.begun();
            steps.iter().filter_map(|(step, ok)| Some((begun.get(&step.id)?.0, *ok))).collect()
        };
        self.write(|w| {
            for (row, ok) in rows {
                w.close_step(row, if ok { JournalState::Done } else { JournalState::Failed })?;
            }
            Ok(())
        })
    }
}
