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
//! [`RealHost::recover`] looks at what the journal names: a directory without a row is removed, be
//! it half made or half removed; nothing else can be half done.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags};

use crate::home::Home;
use crate::image::{ImageCache, ImageRecord, RegistryAccess};
use crate::plan::{Action, ObservedState, PlannedSpec, Step, StepId, canonical_json};
use crate::rootfs;
use crate::spec::{Condition, ImageSource, Millis, Name, Project, ResourceId, SandboxSpec, Status};
use crate::store::{
    Durability, JournalState, RunIdentity, SandboxRow, SandboxUpdate, Store, StoreError, Writer,
};
use crate::supervisor::{self, ControlClient, LaunchConfig, SandboxPaths, StatusEvent};

use super::adopt::Record;
use super::observe::observe;
use super::pull::Meter;
use super::{Host, HostError, Progress, ProgressHandle, StepOutput};

/// What boots a guest on this machine.
#[derive(Clone, Debug)]
pub struct BootParts {
    /// The driver's name.
    pub driver: &'static str,
    /// The guest kernel; empty where the driver needs none.
    pub kernel: PathBuf,
    /// The disk that the agent boots from; none where the driver needs none.
    pub boot_disk: Option<PathBuf>,
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
        }
    }

    /// Closes the books of a run: its journal goes, and with `forget` the project too, once it has
    /// no sandboxes. A `fingerprint` says what the state now depends on.
    pub fn settle(
        &self,
        project: &str,
        forget: bool,
        fingerprint: Option<&str>,
    ) -> Result<(), StoreError> {
        self.lock().write(Durability::Relaxed, |w| {
            w.clear_journal(project)?;
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

    async fn pull(&self, step: &Step, progress: &ProgressHandle) -> Result<StepOutput, HostError> {
        let Action::PullImage { image, policy, digest } = &step.action else {
            return Err(HostError::failed(StepError::Unsupported("this step")));
        };
        if let Some(digest) = digest
            && self.images.by_digest(digest).map_err(HostError::failed)?.is_some()
        {
            return Ok(StepOutput { already: true });
        }
        let meter = Arc::new(Meter::new(progress.clone()));
        let record = match digest {
            Some(digest) => {
                self.images.ensure_digest(image, digest, *policy, &self.access, meter).await
            }
            None => self.images.ensure(image, *policy, &self.access, meter).await,
        };
        let record = record.map_err(HostError::failed)?;
        match digest {
            Some(needed) if *needed != record.digest => {
                let found = record.digest;
                Err(HostError::failed(StepError::ImageMoved { found, needed: needed.clone() }))
            }
            Some(_) | None => Ok(StepOutput::default()),
        }
    }

    fn image(&self, digest: &str) -> Result<ImageRecord, HostError> {
        let record = self.images.by_digest(digest).map_err(HostError::failed)?;
        record.ok_or_else(|| HostError::failed(StepError::ImageGone(digest.to_owned())))
    }

    fn create(
        &self,
        step: &Step,
        name: &Name,
        spec: &PlannedSpec,
        digest: Option<&str>,
        origin_file: Option<&str>,
    ) -> Result<StepOutput, HostError> {
        let record = match digest {
            Some(digest) => self.image(digest)?,
            None => {
                let cached = self.images.cached(&spec.image).map_err(HostError::failed)?;
                let gone = || StepError::ImageGone(spec.image.source.to_string());
                cached.ok_or_else(|| HostError::failed(gone()))?
            }
        };
        let id = self.begun().get(&step.id).and_then(|(_, id)| id.clone());
        let id = match id {
            Some(id) => id,
            None => supervisor::new_id().map_err(HostError::failed)?,
        };
        let record = self.record(name, spec, Some(&record.digest), origin_file);
        self.make_disk(&id, spec, &record)?;
        crash_point("create-before-row");
        self.write(|w| w.create_sandbox(&record.as_new(&id))).inspect_err(|_| {
            // Without a row nobody would find it again.
            let _ = fs::remove_dir_all(self.home.sandbox(&id));
        })?;
        Ok(StepOutput::default())
    }

    fn record(
        &self,
        name: &Name,
        spec: &PlannedSpec,
        image_digest: Option<&str>,
        origin_file: Option<&str>,
    ) -> Record {
        Record {
            project: self.project.to_string(),
            root: self.root.clone(),
            files: self.files.clone(),
            name: name.to_string(),
            spec_json: canonical_json(spec),
            spec_hash: spec.hash().to_string(),
            image_digest: image_digest.map(str::to_owned),
            origin_file: origin_file.map(str::to_owned),
            protect: spec.lifecycle.protect,
            driver: self.machine.as_ref().map(|machine| machine.driver.to_owned()),
        }
    }

    /// The directory of a sandbox with its writable disk and its record, under its name once it is
    /// whole.
    fn make_disk(&self, id: &str, spec: &SandboxSpec, record: &Record) -> Result<(), HostError> {
        let fail = |path: &PathBuf, what, source| {
            HostError::failed(StepError::File { path: path.clone(), what, source })
        };
        let made = self.home.tmp().join(id);
        let home = self.home.sandbox(id);
        fs::create_dir_all(&made).map_err(|e| fail(&made, "make the directory", e))?;
        let disk =
            made.join(SandboxPaths::new(&self.home, id).upper().file_name().unwrap_or_default());
        rootfs::create_upper(&disk, spec.disk).map_err(|error| {
            let _ = fs::remove_dir_all(&made);
            HostError::failed(error)
        })?;
        record.write(&made).map_err(|source| {
            let _ = fs::remove_dir_all(&made);
            fail(&made, "write the record", source)
        })?;
        crash_point("create-before-rename");
        fs::rename(&made, &home).map_err(|e| fail(&home, "make the directory", e))
    }

    async fn start(
        &self,
        name: &Name,
        id: Option<&str>,
        progress: &ProgressHandle,
    ) -> Result<StepOutput, HostError> {
        let row = self.row(name, id)?;
        let already = row.status.is_live();
        if !already {
            let config = self.launch_config(name, &row, progress).await?;
            supervisor::launch(&self.home, &config).await.map_err(HostError::failed)?;
        }
        progress.report(Progress::Phase("booting"));
        crash_point("start-launched");
        let event = supervisor::wait_until(&self.home, &row.id, |event| event.started).await;
        let event = event.map_err(HostError::failed)?;
        // A job may be through before anybody looks.
        if event.started || (event.status == Status::Stopped && event.error.is_none()) {
            return Ok(StepOutput { already });
        }
        Err(Self::ended(name, &event))
    }

    /// The image that the disk of a sandbox belongs to. Pulled where it is gone from the cache, which
    /// a plan cannot know of an image that the Sandboxfile names no more.
    async fn disk_image(
        &self,
        spec: &SandboxSpec,
        digest: &str,
        progress: &ProgressHandle,
    ) -> Result<ImageRecord, HostError> {
        if let (ImageSource::Oci(_), Ok(None)) = (&spec.image.source, self.images.by_digest(digest))
        {
            let meter = Arc::new(Meter::new(progress.clone()));
            let policy = spec.pull_policy;
            let image = &spec.image;
            let record = self.images.ensure_digest(image, digest, policy, &self.access, meter);
            return record.await.map_err(HostError::failed);
        }
        self.image(digest)
    }

    async fn launch_config(
        &self,
        name: &Name,
        row: &SandboxRow,
        progress: &ProgressHandle,
    ) -> Result<LaunchConfig, HostError> {
        let machine =
            self.machine.as_ref().ok_or(StepError::NoMachine).map_err(HostError::failed)?;
        let spec: SandboxSpec = serde_json::from_str(&row.spec_json).map_err(|source| {
            HostError::failed(StepError::StoredSpec { name: name.clone(), source })
        })?;
        let digest = row.image_digest.as_deref().unwrap_or_default();
        let record = self.disk_image(&spec, digest, progress).await?;
        let upper = SandboxPaths::new(&self.home, &row.id).upper();
        if !upper.exists() {
            // Somebody removed the directory; the sandbox starts on an empty disk.
            let record = Record {
                project: row.project.clone(),
                root: self.root.clone(),
                files: self.files.clone(),
                name: row.name.clone(),
                spec_json: row.spec_json.to_string(),
                spec_hash: row.spec_hash.clone(),
                image_digest: row.image_digest.clone(),
                origin_file: row.origin_file.clone(),
                protect: row.protect,
                driver: row.driver.clone(),
            };
            self.make_disk(&row.id, &spec, &record)?;
        }
        let image = supervisor::ImageDefaults {
            entrypoint: record.config.entrypoint,
            cmd: record.config.cmd,
            env: record.config.env,
            workdir: record.config.workdir,
            user: record.config.user,
            stop_signal: record.config.stop_signal,
        };
        Ok(LaunchConfig {
            id: row.id.clone(),
            project: self.project.to_string(),
            name: name.clone(),
            spec,
            image,
            driver: machine.driver.to_owned(),
            kernel: machine.kernel.clone(),
            boot_disk: machine.boot_disk.clone(),
            image_file: Some(record.file),
            upper: Some(upper),
            boot_timeout_ms: supervisor::DEFAULT_BOOT_TIMEOUT_MS,
            executable: None,
            local_agent: None,
        })
    }

    async fn wait_for(&self, name: &Name, condition: Condition) -> Result<StepOutput, HostError> {
        let row = self.row(name, None)?;
        let event = supervisor::wait_until(&self.home, &row.id, |event| match condition {
            Condition::Started => event.started,
            Condition::Healthy => {
                matches!(
                    event.health,
                    Some(crate::spec::Health::Healthy | crate::spec::Health::Unhealthy)
                )
            }
            Condition::Completed => false,
        });
        let event = event.await.map_err(HostError::failed)?;
        supervisor::catch_up(&self.lock(), &event).map_err(HostError::failed)?;
        let holds = match condition {
            Condition::Started => event.started,
            Condition::Healthy => {
                if event.health == Some(crate::spec::Health::Unhealthy) {
                    let output = event.probe_output.or(event.error).unwrap_or_default();
                    return Err(HostError::Unhealthy { sandbox: name.clone(), output });
                }
                event.health == Some(crate::spec::Health::Healthy) && !event.has_ended()
            }
            Condition::Completed => event.status == Status::Stopped && event.exit_code == Some(0),
        };
        if holds { Ok(StepOutput::default()) } else { Err(Self::ended(name, &event)) }
    }

    /// The error of a run that ended before it was what it should become.
    fn ended(name: &Name, event: &StatusEvent) -> HostError {
        let sandbox = name.clone();
        match (event.status, event.exit_code) {
            (Status::Stopped, Some(code)) => {
                let reason = event.error.clone().unwrap_or_default();
                HostError::Exited { sandbox, code, reason }
            }
            _ => {
                let reason = event.error.clone().unwrap_or_else(|| event.status.to_string());
                HostError::Crashed { sandbox, reason }
            }
        }
    }

    async fn stop(
        &self,
        name: &Name,
        id: &str,
        grace: Option<Millis>,
    ) -> Result<StepOutput, HostError> {
        let row = match self.row(name, Some(id)) {
            Ok(row) if row.status.is_live() => row,
            Ok(_) | Err(_) => return Ok(StepOutput { already: true }),
        };
        match ControlClient::new(&self.home, id).stop(grace.map(Millis::ms)).await {
            Ok(())
            | Err(
                supervisor::ControlError::NotRunning
                | supervisor::ControlError::Gone
                | supervisor::ControlError::Denied(supervisor::DeniedReason::Stopping),
            ) => {}
            Err(error) => return Err(HostError::failed(error)),
        }
        let ended = supervisor::wait_until(&self.home, id, |_| false).await;
        ended.map_err(HostError::failed)?;
        if let Some(run) = &row.run {
            process_end(run).await.map_err(HostError::failed)?;
        }
        Ok(StepOutput::default())
    }

    fn remove(&self, name: &Name, id: &str) -> Result<StepOutput, HostError> {
        let existing = self.lock().sandbox_by_id(id).map_err(HostError::failed)?;
        let already = existing.is_none();
        if existing.is_some() {
            if self.row(name, Some(id))?.status.is_live() {
                return Err(HostError::failed(StepError::StillRuns(name.clone())));
            }
            self.write(|w| w.remove_sandbox(id))?;
        }
        crash_point("remove-after-row");
        self.remove_files(id)?;
        Ok(StepOutput { already })
    }

    fn remove_files(&self, id: &str) -> Result<(), HostError> {
        for dir in [self.home.sandbox(id), self.home.tmp().join(id)] {
            match fs::remove_dir_all(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let what = "remove the directory";
                    return Err(HostError::failed(StepError::File { path: dir, what, source }));
                }
            }
        }
        let _ = fs::remove_file(self.home.socket(id));
        Ok(())
    }

    async fn update(
        &self,
        name: &Name,
        id: &str,
        spec: &PlannedSpec,
        live: bool,
        origin_file: Option<&str>,
    ) -> Result<StepOutput, HostError> {
        let row = self.row(name, Some(id))?;
        if live && row.status.is_live() {
            let told = ControlClient::new(&self.home, id).update((**spec).clone()).await;
            told.map_err(HostError::failed)?;
        }
        let mut record = self.record(name, spec, row.image_digest.as_deref(), origin_file);
        record.driver = row.driver;
        let dir = self.home.sandbox(id);
        record.write(&dir).map_err(|source| {
            HostError::failed(StepError::File { path: dir, what: "write the record", source })
        })?;
        let update = SandboxUpdate {
            spec_json: &record.spec_json,
            spec_hash: &record.spec_hash,
            image_digest: record.image_digest.as_deref(),
            origin_file,
            protect: record.protect,
        };
        self.write(|w| w.update_sandbox(id, &update))?;
        Ok(StepOutput::default())
    }

    async fn act(&self, step: &Step, progress: &ProgressHandle) -> Result<StepOutput, HostError> {
        let name = match &step.resource {
            ResourceId::Sandbox(name) => name,
            ResourceId::Image(_) => return self.pull(step, progress).await,
            ResourceId::Volume(_) => {
                return Err(HostError::failed(StepError::Unsupported("a volume")));
            }
        };
        match &step.action {
            Action::CreateSandbox { spec, image_digest, origin_file } => {
                self.create(step, name, spec, image_digest.as_deref(), origin_file.as_deref())
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
            | Action::GrowVolume { .. }
            | Action::RemoveVolume => Err(HostError::failed(StepError::Unsupported("this step"))),
        }
    }
}

/// Waits until the process of a run has ended.
async fn process_end(run: &RunIdentity) -> io::Result<()> {
    let Some(process) = supervisor::open_process(run)? else { return Ok(()) };
    let wait = move || {
        let mut poll = [PollFd::new(&process, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut poll, None) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno)),
            }
        }
    };
    tokio::task::spawn_blocking(wait).await.map_err(io::Error::other)?
}

/// Where tests have the process killed.
fn crash_point(name: &'static str) {
    fail::fail_point!(name, |_| {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
    let _ = name;
}

/// What the journal says of a step.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Entry {
    action: String,
    sandbox: String,
    id: Option<String>,
}

impl Host for RealHost {
    async fn recover(&self, project: &Name) -> Result<(), HostError> {
        let open = self.lock().open_journal(project.as_str()).map_err(HostError::failed)?;
        for row in &open {
            let Ok(entry) = serde_json::from_str::<Entry>(&row.step) else { continue };
            let Some(id) = entry.id else { continue };
            if self.lock().sandbox_by_id(&id).map_err(HostError::failed)?.is_none() {
                self.remove_files(&id)?;
            }
        }
        if !open.is_empty() {
            self.write(|w| w.clear_journal(project.as_str()))?;
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
            let id = match &step.action {
                Action::CreateSandbox { .. } => {
                    Some(supervisor::new_id().map_err(HostError::failed)?)
                }
                Action::RemoveSandbox { id } => Some(id.clone()),
                _ => None,
            };
            let entry = Entry {
                action: action_word(&step.action).to_owned(),
                sandbox: step.resource.to_string(),
                id,
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

const fn action_word(action: &Action) -> &'static str {
    match action {
        Action::PullImage { .. } => "pull",
        Action::CreateSandbox { .. } => "create",
        Action::UpdateSandbox { .. } => "update",
        Action::StartSandbox { .. } => "start",
        Action::AwaitSandbox { .. } => "await",
        Action::StopSandbox { .. } => "stop",
        Action::RemoveSandbox { .. } => "remove",
        Action::CreateVolume { .. } => "create-volume",
        Action::GrowVolume { .. } => "grow-volume",
        Action::RemoveVolume => "remove-volume",
    }
}
