//! From what a program wants to a changed machine: the same plan and the same steps as `msb up`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::machine::{boot_parts, executable};
use super::{Client, Error, MachineError};
use crate::image::{ImageCache, Login, RegistryAccess};
use crate::plan::{Desired, Intent, Plan, PlanError, PlanOptions, plan};
use crate::reconcile::{BootParts, ExecuteOptions, Host, RealHost, Silent, execute, known_images};
use crate::rootfs::patch::{PatchError, Root};
use crate::spec::{Image, Name, Origins, Project, PullPolicy, SandboxSpec};
use crate::store::{Holder, Lease, Store};
use crate::supervisor::{self, Owner};

/// How long another program may be changing the project.
const LEASE_TIMEOUT: Duration = Duration::from_secs(600);
/// Where a program's files are: anywhere. It is trusted with what it says itself.
const ROOT: &str = "/";

/// What is to be done to one sandbox.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) name: Name,
    /// Which one of that name is meant; another is not found.
    pub(super) id: Option<String>,
    pub(super) intent: Intent,
    /// What is declared, to make it.
    pub(super) spec: Option<SandboxSpec>,
    /// Whether one of that name may exist, and goes.
    pub(super) replace: bool,
    /// Whether it lives no longer than the owner that is returned.
    pub(super) attached: bool,
    /// For the registry of its image.
    pub(super) login: Option<Login>,
}

impl Client {
    /// Carries a change out. Goes on to its end, whoever waits for it.
    pub(super) async fn change(&self, change: Change) -> Result<Option<Owner>, Error> {
        let this = self.clone();
        let runtime = tokio::runtime::Handle::current();
        // Leases and the store block; and a change that was begun is finished.
        let work = move || runtime.block_on(this.carry_out(change));
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(Error::System(std::io::Error::other(error))))
    }

    async fn carry_out(&self, mut change: Change) -> Result<Option<Owner>, Error> {
        let machine = match change.intent {
            Intent::Up | Intent::Start | Intent::Restart => Some(self.boot_parts()?),
            Intent::Down { .. } | Intent::Stop | Intent::Remove { .. } => None,
        };
        if let Some(spec) = &mut change.spec {
            read_patches(spec)?;
        }
        let store = Arc::new(Mutex::new(Store::open(&self.home)?));
        let project = self.desired(&change);
        let images = ImageCache::new(self.home.clone(), Arc::clone(&store) as _).holding();
        let access = RegistryAccess::new(&project.registries, |name| std::env::var(name).ok());
        let access = access.with_login(change.login.take());
        let host = RealHost::new(
            Arc::clone(&store),
            images.clone(),
            access.clone(),
            machine,
            &project,
            Vec::new(),
        );
        let host = host.owning(change.attached.then(|| change.name.clone()));
        let (_lease, host) = self.lease(&store, host, &change.name).await?;
        host.recover(&project.name).await?;
        let mut resolved: Vec<(Image, String)> = Vec::new();
        if let Some(spec) = change.spec.as_ref().filter(|s| s.pull_policy == PullPolicy::Always) {
            resolved.push((spec.image.clone(), images.refresh(&spec.image, &access).await?));
        }
        let plan = make_plan(&host, &project, &change, &images, &resolved).await?;
        if let Some(error) = host.make_layers(&plan).await.into_iter().next() {
            return Err(error.into());
        }
        let outcome = execute(&plan, &host, &ExecuteOptions::default(), &mut Silent).await;
        host.settle(project.name.as_str(), false, None)?;
        match outcome.errors.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok(host.take_owner(&change.name)),
        }
    }

    fn boot_parts(&self) -> Result<BootParts, MachineError> {
        let executable = self.executable.clone().or_else(executable);
        let executable = Some(executable.ok_or(MachineError::Executable)?);
        Ok(boot_parts(&self.home, self.driver, false, executable)?.0)
    }

    fn desired(&self, change: &Change) -> Project {
        let sandboxes = change.spec.iter().map(|spec| (change.name.clone(), spec.clone()));
        Project {
            name: self.project.clone(),
            root: ROOT.to_owned(),
            sandboxes: sandboxes.collect(),
            volumes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            registries: BTreeMap::new(),
        }
    }

    /// The lease of the project. Sandboxes of programs know nothing of each other: for those it is
    /// that of the one sandbox, so that others are changed at the same time.
    async fn lease(
        &self,
        store: &Mutex<Store>,
        host: RealHost,
        name: &Name,
    ) -> Result<(Lease, RealHost), Error> {
        let me = supervisor::own(String::new())?;
        let holder = Holder {
            pid: me.pid,
            start_time: me.start_time,
            boot_id: me.boot_id,
            command: "a program".to_owned(),
            acquired_ms: 0,
        };
        let project = self.project.as_str();
        let timeout = Some(LEASE_TIMEOUT);
        if self.project != Project::library() {
            let lease = Lease::acquire(&lock(store), project, &holder, timeout, |_| {})?;
            return Ok((lease, host));
        }
        // Who is alone clears up after all who were killed.
        let alone = Lease::try_acquire(&lock(store), project, &holder)?;
        if alone.is_some() {
            host.recover(&self.project).await?;
        }
        drop(alone);
        let lease = Lease::acquire_sandbox(&lock(store), project, name.as_str(), &holder, timeout)?;
        Ok((lease, host.only(Some(name.clone()))))
    }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn make_plan(
    host: &RealHost,
    project: &Project,
    change: &Change,
    images: &ImageCache,
    resolved: &[(Image, String)],
) -> Result<Plan, Error> {
    let observed = host.observe(project).await?;
    let is_meant = |id: &String| change.id.as_ref().is_none_or(|meant| meant == id);
    let existing = observed.sandboxes.get(&change.name).filter(|sandbox| is_meant(&sandbox.id));
    match (change.intent, existing) {
        (Intent::Up, Some(_)) if !change.replace => {
            return Err(Error::AlreadyExists(change.name.clone()));
        }
        (Intent::Up, _) | (_, Some(_)) => {}
        (_, None) => return Err(Error::NotFound(change.name.to_string())),
    }
    if let (Intent::Start, Some(sandbox)) = (change.intent, existing)
        && sandbox.is_live()
    {
        return Err(Error::StillRunning { name: change.name.clone(), status: sandbox.status });
    }
    let selected = BTreeSet::from([change.name.clone()]);
    let images = known_images(project, &selected, images, resolved)?;
    let origins = Origins::default();
    let desired = Desired { project, origins: &origins, selected: &selected, images: &images };
    let replace = if change.replace { selected.clone() } else { BTreeSet::new() };
    let options = PlanOptions {
        intent: change.intent,
        names: selected.clone(),
        replace,
        ..PlanOptions::default()
    };
    plan(&desired, &observed, &options).map_err(|error| match error {
        PlanError::StillRuns { name, status } => Error::StillRunning { name, status },
        error => error.into(),
    })
}

/// Writes into the patches what their sources hold, so that a changed source is a changed spec.
fn read_patches(spec: &mut SandboxSpec) -> Result<(), Error> {
    let root = Root::open(ROOT.as_ref())?;
    for (index, patch) in spec.patches.iter_mut().enumerate() {
        match root.scan(patch) {
            Ok(Some(scan)) => patch.set_digest(scan.digest),
            Ok(None) => {}
            Err(problem) => return Err(PatchError { index, problem }.into()),
        }
    }
    Ok(())
}

/// The store of `client`, if there is one: nothing is made for a question.
pub(super) fn store(client: &Client) -> Result<Option<Store>, Error> {
    Ok(Store::open_read_only(&client.home)?)
}
