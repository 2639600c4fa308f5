//! `msb up`: make the machine match the Sandboxfile.

use std::collections::BTreeSet;

use crate::cli::args::{Global, Selection, Up};
use crate::cli::attached::Attached;
use crate::cli::engine::{self, Done, Fingerprinter, Request};
use crate::cli::error::{CliError, Exit};
use crate::cli::fingerprint;
use crate::cli::interrupt::Listening;
use crate::cli::lockfile::LockFile;
use crate::cli::mounts;
use crate::cli::patches;
use crate::cli::project::{self, Loaded};
use crate::cli::ui::Ui;
use crate::plan::{Intent, PlanOptions};
use crate::spec::Name;

pub(crate) fn run(ui: &Ui, global: &Global, args: &Up) -> Result<Exit, CliError> {
    if is_plain(args) && unchanged(global, args) {
        ui.say("no changes");
        return Ok(Exit::Ok);
    }
    let mut loaded = project::load(ui, global)?;
    let selected = selected(ui, &loaded, &args.selection, global)?;
    if let Some(name) = args.exit_code_from.as_ref().filter(|name| !selected.contains(*name)) {
        let message = format!("`--exit-code-from {name}`: there is no such sandbox to bring up");
        return Err(CliError::message(Exit::Usage, message));
    }
    mounts::check(ui, &loaded, &selected)?;
    patches::read(ui, &mut loaded, &selected)?;
    let mut lock = LockFile::read(&loaded)?;
    if args.selection.locked {
        lock.require(ui, &loaded, &selected)?;
    } else if !args.dry_run {
        lock = lock.complete(ui, &loaded, &selected)?;
    }
    let fingerprint: &Fingerprinter<'_> = &|home, store| {
        fingerprint::make(home, store, &loaded, &lock, &selected, global, &args.selection)
    };
    let begun_ms = crate::store::now_ms();
    let request = Request {
        command: "msb up",
        loaded: &loaded,
        selected: selected.clone(),
        options: PlanOptions {
            again: args.exit_code_from.iter().cloned().collect(),
            ..options(&args.selection, &selected, args.wait)
        },
        machine: args.machine.clone(),
        locked: lock.locked(&loaded, &selected),
        lock_timeout: args.lock_timeout,
        wait_timeout: args.wait.then_some(args.wait_timeout),
        dry_run: args.dry_run,
        yes: args.yes,
        fingerprint: Some(fingerprint),
        owned: None,
    };
    let attached = !(args.detach || args.wait || args.dry_run);
    // An interrupt between the last step and the first log line is not lost.
    let listening = attached.then(Listening::begin).transpose()?;
    let done = engine::run(ui, &request)?;
    if done.is_none() && !args.dry_run {
        ui.say("no changes");
    }
    let Some(listening) = listening else {
        return Ok(done.map_or(Exit::Ok, |done| done.exit));
    };
    let nothing = BTreeSet::new();
    let attached = Attached {
        loaded: &loaded,
        args,
        selected: &selected,
        started: done.as_ref().map_or(&nothing, |done| &done.started),
        since_ms: begun_ms,
    };
    match &done {
        Some(Done { exit: Exit::Ok, .. }) | None => attached.follow(ui, listening),
        Some(Done { interrupted: true, exit, .. }) => attached.stop(ui).map(|()| *exit),
        Some(done) => attached.give_up(ui, done.exit),
    }
}

/// Whether all that is wanted is that things are as declared.
fn is_plain(args: &Up) -> bool {
    args.detach && !args.wait && !args.dry_run && !args.selection.replace
}

/// The fast path. Whatever goes wrong on it goes wrong on the long way too, and is told there.
fn unchanged(global: &Global, args: &Up) -> bool {
    let holds = || -> Result<bool, CliError> {
        let files = project::files(global)?;
        fingerprint::holds(&project::home()?, &files, global, &args.selection)
    };
    holds().unwrap_or(false)
}

/// The sandboxes that are meant, once everything that they use is known to be carried out.
pub(super) fn selected(
    ui: &Ui,
    loaded: &Loaded,
    selection: &Selection,
    global: &Global,
) -> Result<BTreeSet<Name>, CliError> {
    let closure = project::select(ui, loaded, &selection.names, global)?;
    let selected =
        if selection.no_deps { selection.names.iter().cloned().collect() } else { closure };
    project::refuse_unsupported(ui, loaded, &selected)?;
    Ok(selected)
}

pub(super) fn options(selection: &Selection, selected: &BTreeSet<Name>, wait: bool) -> PlanOptions {
    let names: BTreeSet<Name> = selection.names.iter().cloned().collect();
    let replace = match (selection.replace, names.is_empty()) {
        (false, _) => BTreeSet::new(),
        (true, true) => selected.clone(),
        (true, false) => names.clone(),
    };
    PlanOptions {
        intent: Intent::Up,
        names,
        replace,
        no_deps: selection.no_deps,
        remove_orphans: selection.remove_orphans,
        allow_empty: selection.allow_empty,
        again: BTreeSet::new(),
        wait,
        grace: None,
    }
}
