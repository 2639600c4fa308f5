//! From a project to a plan, and from a plan to a changed machine: what `up`, `down`, `start`,
//! `stop`, `restart` and `rm` share.
//!
//! ```text
//! look (read-only) → plan → nothing to do? done, without a lease, a commit or a process
//!                         → lease → recover → look again → plan → ask → execute → report
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use crate::home::Home;
use crate::image::{ImageCache, RegistryAccess};
use crate::manifest::Diagnostic;
use crate::plan::{
    Action, Desired, Intent, ObservedState, Plan, PlanError, PlanOptions, Step, VolumeProblem, plan,
};
use crate::reconcile::{
    BootParts, ExecuteOptions, Host, HostError, Outcome, RealHost, StepState, execute, is_one_off,
    known_images, observe,
};
use crate::spec::{Image, ImageSource, Millis, Name, Origins, Project, PullPolicy, ResourceId};
use crate::store::{Holder, Lease, Store};
use crate::supervisor::{self, Owner};

use super::args::{Global, Machine};
use super::error::{CliError, Exit};
use super::interrupt::{self, OnInterrupt, Watch};
use super::progress::{Drawing, summary};
use super::project::{self, Loaded};
use super::ui::Ui;
use super::{last_words, machine, patches};

/// What a command wants done.
pub(crate) struct Request<'a> {
    /// As the lease says it, such as `msb up`.
    pub(crate) command: &'static str,
    pub(crate) loaded: &'a Loaded,
    pub(crate) selected: BTreeSet<Name>,
    pub(crate) options: PlanOptions,
    pub(crate) machine: Machine,
    /// What images are, as the lock file states it.
    pub(crate) locked: Vec<(Image, String)>,
    pub(crate) lock_timeout: Millis,
    pub(crate) wait_timeout: Option<Millis>,
    pub(crate) dry_run: bool,
    pub(crate) yes: bool,
    /// Makes the fingerprint of a complete run, where it can have one.
    pub(crate) fingerprint: Option<&'a Fingerprinter<'a>>,
    /// A sandbox that lives no longer than [`Done::owner`].
    pub(crate) owned: Option<Name>,
}

/// See [`super::fingerprint::make`].
pub(crate) type Fingerprinter<'a> =
    dyn Fn(&Home, &SharedStore) -> Result<Option<String>, CliError> + 'a;

/// What became of it.
pub(crate) struct Done {
    pub(crate) exit: Exit,
    /// Sandboxes that were started.
    pub(crate) started: BTreeSet<Name>,
    pub(crate) interrupted: bool,
    /// Of [`Request::owned`], where it was started.
    pub(crate) owner: Option<Owner>,
}

/// A store that is shared with the image cache.
pub(crate) type SharedStore = Arc<Mutex<Store>>;

pub(crate) fn lock(store: &SharedStore) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A project of which nothing is known but its name: for `-p NAME` without a Sandboxfile.
pub(crate) fn undeclared(name: Name) -> Loaded {
    let project = Project {
        name,
        root: String::new(),
        sandboxes: BTreeMap::new(),
        volumes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        registries: BTreeMap::new(),
    };
    Loaded {
        project,
        origins: Origins::default(),
        files: Vec::new(),
        stamps: Vec::new(),
        variables: Vec::new(),
    }
}

/// The project of a command that works without a Sandboxfile where `-p` names the project. Says
/// whether there was a file.
pub(crate) fn load_or_name(ui: &Ui, global: &Global) -> Result<(Loaded, bool), CliError> {
    match (&global.project, project::load(ui, global)) {
        (_, Ok(loaded)) => Ok((loaded, true)),
        (Some(name), Err(error)) if error.exit == Exit::InvalidFile => {
            Ok((undeclared(name.clone()), false))
        }
        (_, Err(error)) => Err(error),
    }
}

/// What exists and what would be done, without touching anything.
pub(crate) struct Look {
    pub(crate) home: Home,
    pub(crate) plan: Plan,
    /// A command that changed the project was killed.
    pub(crate) unfinished: bool,
}

/// Plans without writing anything.
pub(crate) fn look(
    ui: &Ui,
    loaded: &Loaded,
    selected: &BTreeSet<Name>,
    options: &PlanOptions,
    locked: &[(Image, String)],
) -> Result<Look, CliError> {
    let home = project::home()?;
    let store = Store::open_read_only(&home)?.map(|store| Arc::new(Mutex::new(store)));
    let (mut observed, unfinished) = match &store {
        Some(store) => {
            let store = lock(store);
            let open = store.open_journal(loaded.project.name.as_str())?;
            (observe(Some(&store), &loaded.project.name)?, !open.is_empty())
        }
        None => (ObservedState::default(), false),
    };
    hide_one_offs(&mut observed, (options.intent, &loaded.project));
    let cache = store.map(|store| ImageCache::new(home.clone(), store as _));
    let plan = make_plan(ui, loaded, selected, options, &observed, cache.as_ref(), locked)?;
    Ok(Look { home, plan, unfinished })
}

fn make_plan(
    ui: &Ui,
    loaded: &Loaded,
    selected: &BTreeSet<Name>,
    options: &PlanOptions,
    observed: &ObservedState,
    cache: Option<&ImageCache>,
    resolved: &[(Image, String)],
) -> Result<Plan, CliError> {
    let images = match (cache, options.intent) {
        (Some(cache), Intent::Up) => known_images(&loaded.project, selected, cache, resolved)?,
        _ => BTreeMap::new(),
    };
    let desired =
        Desired { project: &loaded.project, origins: &loaded.origins, selected, images: &images };
    plan(&desired, observed, options).map_err(|error| volume_error(ui, loaded, error))
}

/// An error about a declared volume is shown at its line.
fn volume_error(ui: &Ui, loaded: &Loaded, error: PlanError) -> CliError {
    let (Some(help), PlanError::Volume { name, problem }) = (error.volume_help(), &error) else {
        return error.into();
    };
    let key = match problem {
        VolumeProblem::Missing => format!("volume.{name}.external"),
        VolumeProblem::Twice { sandbox, at } => format!("sandbox.{sandbox}.volumes.{at}.named"),
        VolumeProblem::Kind { .. } => format!("volume.{name}.kind"),
    };
    let diagnostic = Diagnostic::error(error.to_string()).with_help(help);
    let diagnostic = match loaded.origins.locate(&key) {
        Some((text, offset)) => diagnostic.at_key(&text, offset),
        None => diagnostic,
    };
    let found = [diagnostic];
    project::report(ui, &found);
    project::invalid(&found)
}

/// Carries a request out. `None`: there was nothing to do, or only a look was wanted.
pub(crate) fn run(ui: &Ui, request: &Request<'_>) -> Result<Option<Done>, CliError> {
    run_with(ui, request, OnInterrupt::Cancel)
}

/// [`run`] with another reaction to Ctrl-C.
pub(crate) fn run_with(
    ui: &Ui,
    request: &Request<'_>,
    on_interrupt: OnInterrupt,
) -> Result<Option<Done>, CliError> {
    let always = always_pulled(request);
    let look = look(ui, request.loaded, &request.selected, &request.options, &request.locked)?;
    if request.dry_run {
        ui.data(&look.plan.to_string())?;
        return Ok(None);
    }
    if look.plan.is_empty() && !look.unfinished && always.is_empty() {
        say_withheld(ui, &look.plan);
        if request.options.intent == Intent::Up {
            remember_directories(request)?;
        }
        return Ok(None);
    }
    // What is missing for running anything is said before anything is touched.
    let machine = needed_machine(ui, request, &look.home, &look.plan, !always.is_empty())?;
    let store = Store::open(&look.home)?;
    let runtime = interrupt::runtime()?;
    let watch = on_interrupt.watch(&runtime);
    runtime.block_on(change(ui, request, store, machine, &always, watch)).map(Some)
}

/// Notes that directories of which only times have changed still are the images that they were, so
/// that the next look at them reads no file.
fn remember_directories(request: &Request<'_>) -> Result<(), CliError> {
    let mut images: Vec<&Image> = Vec::new();
    for name in &request.selected {
        let Some(spec) = request.loaded.project.sandboxes.get(name) else { continue };
        if matches!(spec.image.source, ImageSource::Dir(_)) && !images.contains(&&spec.image) {
            images.push(&spec.image);
        }
    }
    let home = project::home()?;
    let Some(store) = Store::open_read_only(&home)? else { return Ok(()) };
    let cache = ImageCache::new(home.clone(), Arc::new(Mutex::new(store)) as _);
    let mut new = Vec::new();
    for image in images {
        if cache.cached(image)?.is_none() {
            new.push(image);
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    let store = Arc::new(Mutex::new(Store::open(&home)?));
    let cache = ImageCache::new(home, store as _);
    for image in new {
        // Files answer at once, and these have been read a moment ago.
        if let Some(named) = cache.refresh(image, &RegistryAccess::anonymous()).now_or_never() {
            named?;
        }
    }
    Ok(())
}

/// Images that a registry is asked for at every `up`: those of which the lock file says nothing.
fn always_pulled<'a>(request: &Request<'a>) -> Vec<&'a Image> {
    let mut images: Vec<&Image> = Vec::new();
    if request.options.intent == Intent::Up && !request.dry_run {
        for name in &request.selected {
            let Some(spec) = request.loaded.project.sandboxes.get(name) else { continue };
            let asks = spec.pull_policy == PullPolicy::Always
                && matches!(spec.image.source, ImageSource::Oci(_));
            let is_locked = request.locked.iter().any(|(image, _)| *image == spec.image);
            if asks && !is_locked && !images.contains(&&spec.image) {
                images.push(&spec.image);
            }
        }
    }
    images
}

fn needed_machine(
    ui: &Ui,
    request: &Request<'_>,
    home: &Home,
    plan: &Plan,
    may_change: bool,
) -> Result<Option<BootParts>, CliError> {
    let starts = |step: &Step| {
        matches!(step.action, Action::StartSandbox { .. } | Action::CreateSandbox { .. })
    };
    let needed = may_change || plan.steps.iter().any(starts);
    needed.then(|| machine::machine(ui, home, &request.machine)).transpose()
}

async fn change(
    ui: &Ui,
    request: &Request<'_>,
    store: Store,
    machine: Option<BootParts>,
    always: &[&Image],
    watch: Watch,
) -> Result<Done, CliError> {
    let loaded = request.loaded;
    let project = &loaded.project.name;
    let home = store.home().clone();
    let lease = take_lease(ui, request, &store)?;
    let store: SharedStore = Arc::new(Mutex::new(store));
    // What the plan takes for granted stays until the sandboxes have their rows.
    let images = ImageCache::new(home.clone(), Arc::clone(&store) as _).holding();
    let access = RegistryAccess::new(&loaded.project.registries, |name| std::env::var(name).ok());
    let mut resolved = request.locked.clone();
    for image in always {
        ui.say(&format!("image {}: asking the registry", image.source));
        resolved.push(((*image).clone(), images.refresh(image, &access).await?));
    }
    let host = RealHost::new(
        Arc::clone(&store),
        images.clone(),
        access,
        machine,
        &loaded.project,
        loaded.files.clone(),
    );
    let host = host.owning(request.owned.clone());
    host.recover(project).await?;
    let mut observed = host.observe(&loaded.project).await?;
    hide_one_offs(&mut observed, (request.options.intent, &loaded.project));
    let plan = make_plan(
        ui,
        loaded,
        &request.selected,
        &request.options,
        &observed,
        Some(&images),
        &resolved,
    )?;
    say_withheld(ui, &plan);
    patches::check(ui, &loaded.origins, host.make_layers(&plan).await)?;
    confirm(ui, request, &plan)?;
    let options = ExecuteOptions {
        wait_timeout: request.wait_timeout.map(Millis::duration),
        cancel: watch.begin_steps(),
        ..ExecuteOptions::default()
    };
    let begun = Instant::now();
    let outcome = {
        let mut drawing = Drawing::new(ui, &plan);
        execute(&plan, &host, &options, &mut drawing).await
    };
    finish(&host, request, &outcome, &home, &store)?;
    drop(lease);
    let done = report(ui, &home, &store, (&plan, &loaded.origins), outcome, begun.elapsed());
    let owner = request.owned.as_ref().and_then(|name| host.take_owner(name));
    Ok(Done { owner, ..done })
}

fn take_lease(ui: &Ui, request: &Request<'_>, store: &Store) -> Result<Lease, CliError> {
    let me = supervisor::own(String::new())?;
    let holder = Holder {
        pid: me.pid,
        start_time: me.start_time,
        boot_id: me.boot_id,
        command: request.command.to_owned(),
        acquired_ms: 0,
    };
    let project = request.loaded.project.name.as_str();
    let timeout = Some(request.lock_timeout.duration());
    let waiting = |other: Option<&Holder>| {
        let who = other.map_or_else(
            || "another command".to_owned(),
            |holder| format!("`{}` (pid {})", holder.command, holder.pid),
        );
        ui.say(&format!("waiting for {who}, which is changing the project"));
    };
    Ok(Lease::acquire(store, project, &holder, timeout, waiting)?)
}

/// The sandboxes of `msb run` are nobody's business but its own, and of who removes everything.
fn hide_one_offs(observed: &mut ObservedState, request: (Intent, &Project)) {
    let (intent, project) = request;
    if !matches!(intent, Intent::Down { .. }) {
        observed.sandboxes.retain(|name, sandbox| {
            project.sandboxes.contains_key(name) || !is_one_off(&sandbox.spec_json)
        });
    }
}

fn say_withheld(ui: &Ui, plan: &Plan) {
    for withheld in &plan.withheld {
        let place = withheld.origin.as_ref().map_or_else(String::new, |o| format!(" ({o})"));
        ui.warn(&format!("{}: {}{place}", withheld.resource, withheld.reason));
    }
    for orphan in plan.orphans.iter().filter(|orphan| !orphan.removed) {
        let file =
            orphan.file.as_deref().map_or_else(String::new, |file| format!(" (from {file})"));
        ui.warn(&format!(
            "sandbox {}{file} is not declared any more; `--remove-orphans` removes it",
            orphan.name
        ));
    }
}

fn confirm(ui: &Ui, request: &Request<'_>, plan: &Plan) -> Result<(), CliError> {
    let steps: Vec<&Step> = plan.needing_confirmation().collect();
    if steps.is_empty() || request.yes {
        return Ok(());
    }
    for step in &steps {
        match step.resource {
            ResourceId::Volume(_) => {
                ui.always(&format!("{} goes, with all that it holds", step.resource));
            }
            ResourceId::Sandbox(_) | ResourceId::Image(_) => {
                ui.always(&format!("{} loses its disk", step.resource));
            }
        }
    }
    ui.confirm("`--yes` answers yes; `--dry-run` shows the plan")
}

/// Closes the books.
fn finish(
    host: &RealHost,
    request: &Request<'_>,
    outcome: &Outcome,
    home: &Home,
    store: &SharedStore,
) -> Result<(), CliError> {
    let project = request.loaded.project.name.as_str();
    let clean = outcome.states.iter().all(|state| *state == StepState::Done);
    let forget = clean && matches!(request.options.intent, Intent::Down { .. });
    let fingerprint = match request.fingerprint {
        Some(make) if clean => make(home, store)?,
        Some(_) | None => None,
    };
    host.settle(project, forget, fingerprint.as_deref())?;
    Ok(())
}

/// Says how it went.
fn report(
    ui: &Ui,
    home: &Home,
    store: &SharedStore,
    (plan, origins): (&Plan, &Origins),
    outcome: Outcome,
    elapsed: Duration,
) -> Done {
    ui.say(&summary(plan, &outcome, elapsed));
    let started = plan
        .steps
        .iter()
        .zip(&outcome.states)
        .filter(|(step, state)| {
            **state == StepState::Done && matches!(step.action, Action::StartSandbox { .. })
        })
        .filter_map(|(step, _)| match &step.resource {
            ResourceId::Sandbox(name) => Some(name.clone()),
            ResourceId::Image(_) | ResourceId::Volume(_) => None,
        })
        .collect();
    let mut exit = if outcome.interrupted { Exit::Interrupted } else { Exit::Ok };
    for (id, error) in outcome.errors {
        let step = plan.step(id);
        let code = exit_of(step, &error);
        if !step.optional && (exit == Exit::Ok || exit == Exit::Failed) {
            exit = code;
        }
        let told = error.to_string();
        match error {
            HostError::Patch { sandbox, source } => {
                ui.diagnostic(&patches::diagnostic(&sandbox, source, origins));
            }
            error => ui.error(&CliError::from(error)),
        }
        if let ResourceId::Sandbox(name) = &step.resource {
            last_words::say(ui, home, store, (&plan.project, name), &told);
        }
    }
    Done { exit, started, interrupted: outcome.interrupted, owner: None }
}

fn exit_of(step: &Step, error: &HostError) -> Exit {
    match error {
        HostError::TimedOut { .. } => Exit::TimedOut,
        HostError::Patch { .. } => Exit::InvalidFile,
        HostError::Unhealthy { .. } => Exit::Dependency,
        HostError::Exited { .. } | HostError::Crashed { .. } => match step.action {
            Action::AwaitSandbox { .. } => Exit::Dependency,
            _ => Exit::Failed,
        },
        HostError::Failed(_) => Exit::Failed,
    }
}
