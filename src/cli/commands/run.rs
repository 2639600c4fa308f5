//! `msb run`: a command in a sandbox of its own, made like one of the project's; or a script of one.
//!
//! A first word that the Sandboxfile has as a script of the sandbox is that script. It is run in the
//! sandbox itself where that runs, else as any other command.
//!
//! The sandbox of a command is made, with what it depends on, by the same plan as `up` makes them. It runs nothing
//! of its own; the command is an exec session in it. It lives no longer than this command, however
//! that ends, and what a killed one leaves behind the next change of the project removes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::cli::args::{Global, InGuest, Machine, Run};
use crate::cli::engine::{self, Done, Request};
use crate::cli::error::{CliError, Exit};
use crate::cli::lockfile::LockFile;
use crate::cli::project::{self, Loaded};
use crate::cli::ui::Ui;
use crate::cli::{interactive, interrupt, patches};
use crate::client::ExecConfig;
use crate::home::Home;
use crate::image::ImageCache;
use crate::plan::{Intent, PlanOptions};
use crate::reconcile::{self, ONE_OFF};
use crate::spec::{Hooks, Lifecycle, Millis, Name, RestartPolicy, SandboxKind, SandboxSpec};
use crate::store::{SandboxRow, Store};
use crate::supervisor::{self, ControlClient, ImageDefaults};

pub(crate) fn run(ui: &Ui, global: &Global, args: &Run) -> Result<Exit, CliError> {
    let mut loaded = project::load(ui, global)?;
    project::select(ui, &loaded, std::slice::from_ref(&args.name), global)?;
    let Some(model) = loaded.project.sandboxes.get(&args.name).cloned() else {
        return Err(CliError::message(Exit::Usage, format!("there is no sandbox `{}`", args.name)));
    };
    if let Some(script) = script(&model, args)
        && let Some(row) = live(&loaded, &args.name)?
    {
        check_script(ui, &row, &model, script)?;
        // Their directory is the first in `PATH`.
        let config = ExecConfig::new(script).args(&args.argv[1..]);
        return super::exec::run(ui, &row, config, &args.guest);
    }
    if args.guest.detach {
        let message = "`run` cannot leave its command running: the sandbox ends with it";
        return Err(CliError::message(Exit::Usage, message)
            .hint("`msb up` has sandboxes that stay, and `msb exec -d` commands in them"));
    }
    let name = unused_name(&args.name)?;
    loaded.project.sandboxes.insert(name.clone(), one_off(&model, args.no_deps));
    let selected = project::select(ui, &loaded, std::slice::from_ref(&name), global)?;
    project::refuse_unsupported(ui, &loaded, &selected)?;
    patches::read(ui, &mut loaded, &selected)?;
    let lock = LockFile::read(&loaded)?;
    let request = Request {
        locked: lock.locked(&loaded, &selected),
        options: PlanOptions { names: BTreeSet::from([name.clone()]), ..PlanOptions::default() },
        machine: args.machine.clone(),
        owned: Some(name.clone()),
        ..request(&loaded, selected, args.lock_timeout)
    };
    let exit = match engine::run(ui, &request) {
        Ok(Some(Done { exit: Exit::Ok, owner, .. })) => {
            let exit = command(ui, &loaded, &name, &model, args);
            drop(owner);
            exit
        }
        Ok(Some(done)) => Ok(done.exit),
        Ok(None) => Err(CliError::message(Exit::Failed, format!("sandbox `{name}` was not made"))),
        Err(error) => Err(error),
    };
    if let Err(error) = remove(ui, &loaded, &name, args.lock_timeout) {
        ui.error(&error);
    }
    exit
}

/// The script that the command line names.
fn script<'a>(model: &SandboxSpec, args: &'a Run) -> Option<&'a str> {
    let word = args.argv.first().filter(|_| args.entrypoint.is_none())?;
    model.scripts.contains_key(word).then_some(word)
}

/// The row of the sandbox itself, where that runs.
fn live(loaded: &Loaded, name: &Name) -> Result<Option<SandboxRow>, CliError> {
    let Some(store) = Store::open_read_only(&project::home()?)? else { return Ok(None) };
    let row = row(&store, loaded, name).ok();
    Ok(row.filter(|row| row.status.is_live()))
}

/// A sandbox runs with the scripts that it was last given.
fn check_script(
    ui: &Ui,
    row: &SandboxRow,
    model: &SandboxSpec,
    script: &str,
) -> Result<(), CliError> {
    let spec: Result<SandboxSpec, _> = serde_json::from_str(&row.spec_json);
    let given = spec.map_err(|error| CliError::new(Exit::Failed, error))?.scripts;
    let name = &row.name;
    match given.get(script) {
        None => {
            let message = format!("sandbox `{name}` runs without the script `{script}`");
            return Err(CliError::message(Exit::Failed, message)
                .hint(format!("`msb up {name}` brings it what the Sandboxfile says")));
        }
        given if given != model.scripts.get(script) => ui.warn(&format!(
            "the script `{script}` has been edited: this is the one before, `msb up {name}` brings the other"
        )),
        Some(_) => {}
    }
    Ok(())
}

fn request(loaded: &Loaded, selected: BTreeSet<Name>, lock_timeout: Millis) -> Request<'_> {
    Request {
        command: "msb run",
        loaded,
        selected,
        options: PlanOptions::default(),
        machine: Machine::default(),
        locked: Vec::new(),
        lock_timeout,
        wait_timeout: None,
        dry_run: false,
        yes: true,
        fingerprint: None,
        owned: None,
    }
}

fn unused_name(model: &Name) -> Result<Name, CliError> {
    let id = supervisor::new_id()?;
    let name = Name::new(format!("{model}-run-{id}"));
    Ok(name.unwrap_or_else(|_| Name::generated(&format!("run-{id}"))))
}

/// A sandbox like `model` that idles.
fn one_off(model: &SandboxSpec, no_deps: bool) -> SandboxSpec {
    let mut spec = SandboxSpec {
        kind: SandboxKind::Service,
        entrypoint: Some(Vec::new()),
        cmd: None,
        healthcheck: None,
        restart: RestartPolicy::No,
        ports: Vec::new(),
        profiles: Vec::new(),
        replicas: 1,
        hooks: Hooks::default(),
        lifecycle: Lifecycle::default(),
        watch: Vec::new(),
        ..model.clone()
    };
    spec.labels.insert(ONE_OFF.to_owned(), "1".to_owned());
    if no_deps {
        spec.depends_on.clear();
    }
    spec
}

fn command(
    ui: &Ui,
    loaded: &Loaded,
    name: &Name,
    model: &SandboxSpec,
    args: &Run,
) -> Result<Exit, CliError> {
    let home = project::home()?;
    let store = Store::open(&home)?;
    let row = row(&store, loaded, name)?;
    let argv = argv(&home, store, row.image_digest.as_deref(), model, args)?;
    let Some((program, rest)) = argv.split_first() else {
        let message = format!("sandbox `{}` has no command: give one", args.name);
        return Err(CliError::message(Exit::Usage, message));
    };
    let config = ExecConfig::new(program).args(rest);
    let flags = InGuest { detach_keys: Default::default(), ..args.guest.clone() };
    let runtime = interrupt::runtime()?;
    let exit = runtime.block_on(interactive::run(ui, &home, &row.id, config, &flags));
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    exit
}

fn row(store: &Store, loaded: &Loaded, name: &Name) -> Result<SandboxRow, CliError> {
    let rows = reconcile::rows(store, loaded.project.name.as_str())?;
    let gone = || CliError::message(Exit::Failed, format!("sandbox `{name}` has gone"));
    rows.into_iter().find(|row| row.name == name.as_str()).ok_or_else(gone)
}

/// What is run: the words of the command line after the entrypoint, else what the model runs.
fn argv(
    home: &Home,
    store: Store,
    digest: Option<&str>,
    model: &SandboxSpec,
    args: &Run,
) -> Result<Vec<String>, CliError> {
    let images = ImageCache::new(home.clone(), Arc::new(Mutex::new(store)) as _);
    let config = match digest {
        Some(digest) => images.by_digest(digest)?.map(|image| image.config),
        None => None,
    };
    let image = config.map_or_else(ImageDefaults::default, |config| ImageDefaults {
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        ..ImageDefaults::default()
    });
    let mut spec = model.clone();
    if script(model, args).is_some() {
        spec.entrypoint = Some(Vec::new());
    }
    if let Some(program) = &args.entrypoint {
        spec.entrypoint = Some(vec![program.clone()]);
        spec.cmd = None;
    }
    if !args.argv.is_empty() {
        spec.cmd = Some(args.argv.clone());
    }
    Ok(supervisor::workload_argv(&spec, &image))
}

/// Nothing of it is worth keeping, so that it is killed.
fn remove(ui: &Ui, loaded: &Loaded, name: &Name, lock: Millis) -> Result<(), CliError> {
    let home = project::home()?;
    let Some(store) = Store::open_read_only(&home)? else { return Ok(()) };
    let Ok(row) = row(&store, loaded, name) else { return Ok(()) };
    drop(store);
    interrupt::runtime()?.block_on(async {
        // One that has ended is what is wanted.
        let _ = ControlClient::new(&home, &row.id).kill().await;
    });
    let options = PlanOptions {
        intent: Intent::Remove { force: true },
        names: BTreeSet::from([name.clone()]),
        ..PlanOptions::default()
    };
    let selected = BTreeSet::from([name.clone()]);
    engine::run(ui, &Request { options, ..request(loaded, selected, lock) }).map(drop)
}
