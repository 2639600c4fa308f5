//! `msb pull`: images, without anything being started.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::cli::args::{Global, Pull};
use crate::cli::engine;
use crate::cli::error::{CliError, Exit};
use crate::cli::interrupt::{self, OnInterrupt};
use crate::cli::lockfile::LockFile;
use crate::cli::progress::{Drawing, seconds};
use crate::cli::project::{self, Loaded};
use crate::cli::ui::Ui;
use crate::image::{ImageCache, ImageRef, Platform, RegistryAccess};
use crate::plan::{Action, Cause, Plan, Step, StepId, Summary};
use crate::reconcile::{ExecuteOptions, RealHost, StepState, execute};
use crate::spec::{Image, ImageSource, Name, Origin, PullPolicy, ResourceId};
use crate::store::Store;

/// An image to get.
struct Wanted {
    image: Image,
    origin: Option<Origin>,
    /// What it is, as the lock file states it.
    digest: Option<String>,
}

pub(crate) fn run(ui: &Ui, global: &Global, args: &Pull) -> Result<Exit, CliError> {
    let loaded = load(ui, global, args)?;
    let wanted = wanted(ui, global, args, &loaded)?;
    if wanted.is_empty() {
        ui.say("nothing to pull");
        return Ok(Exit::Ok);
    }
    let plan = plan(&loaded, wanted);
    let home = project::home()?;
    let store = Arc::new(Mutex::new(Store::open(&home)?));
    let images = ImageCache::new(home, Arc::clone(&store) as _).holding();
    let access = RegistryAccess::new(&loaded.project.registries, |name| std::env::var(name).ok());
    let host = RealHost::new(store, images, access, None, &loaded.project, loaded.files.clone());
    let runtime = interrupt::runtime()?;
    let watch = OnInterrupt::Cancel.watch(&runtime);
    let begun = Instant::now();
    let outcome = runtime.block_on(async {
        let options = ExecuteOptions { cancel: watch.begin_steps(), ..ExecuteOptions::default() };
        execute(&plan, &host, &options, &mut Drawing::new(ui, &plan)).await
    });
    let count = outcome.states.iter().filter(|state| **state == StepState::Done).count();
    let plural = if count == 1 { "" } else { "s" };
    ui.say(&format!("{count} image{plural} in {}", seconds(begun.elapsed())));
    let failed = !outcome.errors.is_empty();
    for (_, error) in outcome.errors {
        ui.error(&CliError::from(error));
    }
    Ok(match (outcome.interrupted, failed) {
        (true, _) => Exit::Interrupted,
        (false, true) => Exit::Failed,
        (false, false) => Exit::Ok,
    })
}

/// The project. References need none, and use the registries of one that is there.
fn load(ui: &Ui, global: &Global, args: &Pull) -> Result<Loaded, CliError> {
    if !args.names.is_empty() && project::files(global).is_err() && global.files.is_empty() {
        let name = Name::new("images").map_err(|error| CliError::new(Exit::Failed, error))?;
        return Ok(engine::undeclared(global.project.clone().unwrap_or(name)));
    }
    project::load(ui, global)
}

fn wanted(ui: &Ui, global: &Global, args: &Pull, loaded: &Loaded) -> Result<Vec<Wanted>, CliError> {
    let sandboxes = &loaded.project.sandboxes;
    let mut named: Vec<Name> = Vec::new();
    let mut wanted: Vec<Wanted> = Vec::new();
    for text in &args.names {
        match text.parse::<Name>().ok().filter(|name| sandboxes.contains_key(name)) {
            Some(name) => named.push(name),
            None => add(&mut wanted, by_reference(text, args.platform.as_ref())?, None, None),
        }
    }
    if args.platform.is_some() && (args.names.is_empty() || !named.is_empty()) {
        let message = "`--platform` is for references: sandboxes state the platform of their image";
        return Err(CliError::message(Exit::Usage, message));
    }
    let selected = match (args.names.is_empty(), named.is_empty()) {
        (true, _) => project::select(ui, loaded, &[], global)?,
        (false, true) => return Ok(wanted),
        (false, false) => named.into_iter().collect(),
    };
    let mut lock = LockFile::read(loaded)?;
    if args.locked {
        lock.require(ui, loaded, &selected)?;
    } else {
        lock = lock.complete(ui, loaded, &selected)?;
    }
    let locked = lock.locked(loaded, &selected);
    for name in &selected {
        let Some(spec) = sandboxes.get(name) else { continue };
        if spec.pull_policy == PullPolicy::Never {
            ui.say(&format!("{name}: skipped, its pull policy is `never`"));
        } else if matches!(spec.image.source, ImageSource::Disk { .. }) {
            ui.say(&format!("{name}: skipped, a disk image is used where it is"));
        } else {
            let origin = loaded.origins.get(&format!("sandbox.{name}.image"));
            let digest = locked.iter().find(|(image, _)| *image == spec.image);
            let digest = digest.map(|(_, digest)| digest.clone());
            add(&mut wanted, spec.image.clone(), origin, digest);
        }
    }
    Ok(wanted)
}

fn by_reference(text: &str, platform: Option<&Platform>) -> Result<Image, CliError> {
    let parsed = text.parse::<ImageRef>();
    parsed.map_err(|error| CliError::message(Exit::Usage, format!("`{text}`: {error}")))?;
    let source = ImageSource::Oci(text.to_owned());
    Ok(Image { source, platform: platform.map(ToString::to_string) })
}

fn add(wanted: &mut Vec<Wanted>, image: Image, origin: Option<Origin>, digest: Option<String>) {
    if !wanted.iter().any(|other| other.image == image && other.digest == digest) {
        wanted.push(Wanted { image, origin, digest });
    }
}

/// Pulls and nothing else; none needs another.
fn plan(loaded: &Loaded, wanted: Vec<Wanted>) -> Plan {
    let steps = (1..).zip(wanted).map(|(number, Wanted { image, origin, digest })| Step {
        id: StepId(number),
        resource: ResourceId::Image(image.source.to_string()),
        action: Action::PullImage { image, policy: PullPolicy::Always, digest },
        cause: Cause::Requested,
        origin,
        needs: Vec::new(),
        after: Vec::new(),
        needs_confirmation: false,
        optional: false,
    });
    Plan {
        project: loaded.project.name.clone(),
        serial: 0,
        steps: steps.collect(),
        orphans: Vec::new(),
        withheld: Vec::new(),
        summary: Summary::default(),
    }
}
