//! What each action of a plan does.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};

use crate::image::{ImageError, ImageRecord};
use crate::plan::{Action, PlannedSpec, Step, canonical_json};
use crate::rootfs;
use crate::spec::{Condition, Image, ImageSource, Millis, Name, SandboxSpec, Status};
use crate::store::{Event, RunIdentity, SandboxRow, SandboxUpdate, StoreError, Writer};
use crate::supervisor::{self, ControlClient, LaunchConfig, SandboxPaths, StatusEvent};

use super::super::adopt::Record;
use super::super::journal;
use super::super::pull::Meter;
use super::super::{HostError, Progress, ProgressHandle, StepOutput};
use super::{RealHost, StepError, crash_point};

impl RealHost {
    pub(super) async fn pull(
        &self,
        step: &Step,
        progress: &ProgressHandle,
    ) -> Result<StepOutput, HostError> {
        let Action::PullImage { image, policy, digest } = &step.action else {
            return Err(HostError::failed(StepError::Unsupported("this step")));
        };
        if let Some(digest) = digest
            && let Some(record) = self.stored(image, digest).map_err(HostError::failed)?
        {
            self.make_layers_of(image, &record, progress).await?;
            return Ok(StepOutput::ALREADY);
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
                if !matches!(image.source, ImageSource::Oci(_)) {
                    let path = image.source.to_string();
                    return Err(HostError::failed(StepError::SourceChanged(path)));
                }
                let found = record.digest;
                Err(HostError::failed(StepError::ImageMoved { found, needed: needed.clone() }))
            }
            Some(_) | None => {
                self.make_layers_of(image, &record, progress).await?;
                Ok(StepOutput::default())
            }
        }
    }

    /// The image `digest` that `image` names, if it is here. Only its own file says what a disk image is.
    pub(super) fn stored(
        &self,
        image: &Image,
        digest: &str,
    ) -> Result<Option<ImageRecord>, ImageError> {
        match image.source {
            ImageSource::Disk { .. } => {
                Ok(self.images.cached(image)?.filter(|record| record.digest == digest))
            }
            ImageSource::Oci(_) | ImageSource::Dir(_) | ImageSource::Archive(_) => {
                self.images.by_digest(digest)
            }
        }
    }

    /// The image `digest` of a spec. A disk image has no other place than its own.
    fn image_of(&self, spec: &SandboxSpec, digest: &str) -> Result<ImageRecord, HostError> {
        let ImageSource::Disk { path, .. } = &spec.image.source else { return self.image(digest) };
        let record = self.images.cached(&spec.image).map_err(HostError::failed)?;
        match record {
            Some(record) if record.digest == digest => Ok(record),
            Some(_) => Err(HostError::failed(StepError::SourceChanged(path.clone()))),
            None => Err(HostError::failed(StepError::ImageGone(path.clone()))),
        }
    }

    fn image(&self, digest: &str) -> Result<ImageRecord, HostError> {
        let record = self.images.by_digest(digest).map_err(HostError::failed)?;
        record.ok_or_else(|| HostError::failed(StepError::ImageGone(digest.to_owned())))
    }

    pub(super) async fn create(
        &self,
        step: &Step,
        name: &Name,
        spec: &PlannedSpec,
        (digest, origin_file): (Option<&str>, Option<&str>),
        progress: &ProgressHandle,
    ) -> Result<StepOutput, HostError> {
        let image = match digest {
            Some(digest) => self.image_of(spec, digest)?,
            None => {
                let cached = self.images.cached(&spec.image).map_err(HostError::failed)?;
                let gone = || StepError::ImageGone(spec.image.source.to_string());
                cached.ok_or_else(|| HostError::failed(gone()))?
            }
        };
        self.make_layer(name, spec, &image, Some(progress)).await?;
        let id = self.begun_id(step)?;
        let record = self.record(name, spec, Some(&image.digest), origin_file);
        self.make_disk(&id, name, spec, &image, &record)?;
        crash_point("create-before-row");
        let made = self.write(|w| {
            w.create_sandbox(&record.as_new(&id))?;
            self.record_event(w, name, &id, "created")
        });
        made.inspect_err(|_| {
            // Without a row nobody would find it again.
            let _ = fs::remove_dir_all(self.home.sandbox(&id));
        })?;
        Ok(StepOutput::default())
    }

    fn record_event(
        &self,
        writer: &Writer<'_>,
        name: &Name,
        id: &str,
        kind: &str,
    ) -> Result<(), StoreError> {
        let (project, sandbox) = (self.project.as_str(), Some(name.as_str()));
        let event = Event { project, sandbox, sandbox_id: Some(id), kind, detail: None };
        writer.add_event(&event).map(drop)
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
    fn make_disk(
        &self,
        id: &str,
        name: &Name,
        spec: &SandboxSpec,
        image: &ImageRecord,
        record: &Record,
    ) -> Result<(), HostError> {
        let fail = |path: &PathBuf, what, source| {
            HostError::failed(StepError::File { path: path.clone(), what, source })
        };
        let made = self.home.tmp().join(id);
        let home = self.home.sandbox(id);
        fs::create_dir_all(&made).map_err(|e| fail(&made, "make the directory", e))?;
        let paths = SandboxPaths::new(&self.home, id);
        let place = |path: PathBuf| made.join(path.file_name().unwrap_or_default());
        let fill = || {
            self.link_patches(name, spec, image, &place(paths.patches()))?;
            if !writes_to_image(spec) {
                let upper = place(paths.upper());
                rootfs::create_disk(&upper, spec.disk).map_err(HostError::failed)?;
            }
            record.write(&made).map_err(|source| fail(&made, "write the record", source))
        };
        fill().inspect_err(|_| {
            let _ = fs::remove_dir_all(&made);
        })?;
        crash_point("create-before-rename");
        fs::rename(&made, &home).map_err(|e| fail(&home, "make the directory", e))
    }

    pub(super) async fn start(
        &self,
        name: &Name,
        id: Option<&str>,
        progress: &ProgressHandle,
    ) -> Result<StepOutput, HostError> {
        let row = self.row(name, id)?;
        let already = row.status.is_live();
        if !already {
            let config = self.launch_config(name, &row, progress).await?;
            if self.owned().contains_key(name) {
                let launched = supervisor::launch_attached(&self.home, &config).await;
                let (_, owner) = launched.map_err(HostError::failed)?;
                self.owned().insert(name.clone(), Some(owner));
            } else {
                supervisor::launch(&self.home, &config).await.map_err(HostError::failed)?;
            }
        }
        progress.report(Progress::Phase("booting"));
        crash_point("start-launched");
        let event = supervisor::wait_until(&self.home, &row.id, |event| event.started).await;
        let event = event.map_err(HostError::failed)?;
        // A job may be through before anybody looks.
        if event.started || (event.status == Status::Stopped && event.error.is_none()) {
            return Ok(StepOutput { already, notice: None });
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
        self.image_of(spec, digest)
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
        let image_record = self.disk_image(&spec, digest, progress).await?;
        let volumes = self.volume_places(&spec)?;
        let paths = SandboxPaths::new(&self.home, &row.id);
        let (upper, patches) = (paths.upper(), paths.patches());
        let has_upper = !writes_to_image(&spec);
        if !patches.exists() {
            self.make_layer(name, &spec, &image_record, Some(progress)).await?;
        }
        if !(if has_upper { upper.exists() } else { paths.dir().exists() }) {
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
            self.make_disk(&row.id, name, &spec, &image_record, &record)?;
        }
        if !patches.exists() {
            self.link_patches(name, &spec, &image_record, &patches)?;
        }
        let image = supervisor::ImageDefaults {
            entrypoint: image_record.config.entrypoint,
            cmd: image_record.config.cmd,
            env: image_record.config.env,
            workdir: image_record.config.workdir,
            user: image_record.config.user,
            stop_signal: image_record.config.stop_signal,
        };
        Ok(LaunchConfig {
            id: row.id.clone(),
            project: self.project.to_string(),
            name: name.clone(),
            patch_file: (!spec.patches.is_empty()).then_some(patches),
            spec,
            image,
            driver: machine.driver.to_owned(),
            kernel: machine.kernel.clone(),
            boot_disk: machine.boot_disk.clone(),
            image_format: image_record.disk.unwrap_or_default(),
            image_file: Some(image_record.file),
            upper: has_upper.then_some(upper),
            volumes,
            boot_timeout_ms: supervisor::DEFAULT_BOOT_TIMEOUT_MS,
            require_jail: machine.require_jail,
            executable: machine.executable.clone(),
            local_agent: None,
        })
    }

    pub(super) async fn wait_for(
        &self,
        name: &Name,
        condition: Condition,
    ) -> Result<StepOutput, HostError> {
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

    pub(super) async fn stop(
        &self,
        name: &Name,
        id: &str,
        grace: Option<Millis>,
    ) -> Result<StepOutput, HostError> {
        let row = match self.row(name, Some(id)) {
            Ok(row) if row.status.is_live() => row,
            Ok(_) | Err(_) => return Ok(StepOutput::ALREADY),
        };
        let asked = ControlClient::new(&self.home, id).stop(grace.map(Millis::ms)).await;
        supervisor::ControlError::or_ends(asked).map_err(HostError::failed)?;
        let ended = supervisor::wait_until(&self.home, id, |_| false).await;
        ended.map_err(HostError::failed)?;
        if let Some(run) = &row.run {
            process_end(run).await.map_err(HostError::failed)?;
        }
        Ok(StepOutput::default())
    }

    pub(super) fn remove(&self, name: &Name, id: &str) -> Result<StepOutput, HostError> {
        let existing = self.lock().sandbox_by_id(id).map_err(HostError::failed)?;
        let already = existing.is_none();
        if existing.is_some() {
            if self.row(name, Some(id))?.status.is_live() {
                return Err(HostError::failed(StepError::StillRuns(name.clone())));
            }
            self.write(|w| {
                w.remove_sandbox(id)?;
                self.record_event(w, name, id, "removed")
            })?;
        }
        crash_point("remove-after-row");
        self.remove_files(id)?;
        Ok(StepOutput { already, notice: None })
    }

    fn remove_files(&self, id: &str) -> Result<(), HostError> {
        let removed = journal::remove_sandbox(&self.home, id);
        removed.map_err(|(path, source)| {
            HostError::failed(StepError::File { path, what: "remove the directory", source })
        })
    }

    pub(super) async fn update(
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
}

/// Whether the guest writes to its image, and has no disk of its own.
const fn writes_to_image(spec: &SandboxSpec) -> bool {
    matches!(spec.image.source, ImageSource::Disk { writable: true, .. })
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
