//! `msb start`, `stop`, `restart` and `rm`: what exists, as it was made.

use crate::cli::args::{Global, Machine, Names, Restart, Rm, Start, Stop};
use crate::cli::engine::{self, Request};
use crate::cli::error::{CliError, Exit};
use crate::cli::filter;
use crate::cli::ui::Ui;
use crate::plan::{Intent, PlanOptions};
use crate::spec::Millis;

/// What one of them does.
struct Wanted {
    command: &'static str,
    intent: Intent,
    machine: Machine,
    grace: Option<Millis>,
    yes: bool,
}

pub(crate) fn start(ui: &Ui, global: &Global, args: &Start) -> Result<Exit, CliError> {
    let machine = args.machine.clone();
    let wanted = Wanted { machine, ..wanted("msb start", Intent::Start) };
    run(ui, global, &args.target, wanted)
}

pub(crate) fn stop(ui: &Ui, global: &Global, args: &Stop) -> Result<Exit, CliError> {
    let wanted = Wanted { grace: args.timeout, ..wanted("msb stop", Intent::Stop) };
    run(ui, global, &args.target, wanted)
}

pub(crate) fn restart(ui: &Ui, global: &Global, args: &Restart) -> Result<Exit, CliError> {
    let (machine, grace) = (args.machine.clone(), args.stop.timeout);
    let wanted = Wanted { machine, grace, ..wanted("msb restart", Intent::Restart) };
    run(ui, global, &args.stop.target, wanted)
}

pub(crate) fn rm(ui: &Ui, global: &Global, args: &Rm) -> Result<Exit, CliError> {
    let intent = Intent::Remove { force: args.stop };
    let wanted = Wanted { yes: args.yes, ..wanted("msb rm", intent) };
    run(ui, global, &args.target, wanted)
}

fn wanted(command: &'static str, intent: Intent) -> Wanted {
    Wanted { command, intent, machine: Machine::default(), grace: None, yes: true }
}

fn run(ui: &Ui, global: &Global, args: &Names, wanted: Wanted) -> Result<Exit, CliError> {
    let (loaded, _) = engine::load_or_name(ui, global)?;
    let Some(names) = filter::names(&loaded.project.name, &args.names, &args.filter)? else {
        ui.say("nothing to do");
        return Ok(Exit::Ok);
    };
    let request = Request {
        command: wanted.command,
        selected: loaded.project.sandboxes.keys().cloned().collect(),
        loaded: &loaded,
        options: PlanOptions {
            intent: wanted.intent,
            names,
            grace: wanted.grace,
            ..PlanOptions::default()
        },
        machine: wanted.machine,
        locked: Vec::new(),
        lock_timeout: args.lock_timeout,
        wait_timeout: None,
        dry_run: false,
        yes: wanted.yes,
        fingerprint: None,
        owned: None,
    };
    match engine::run(ui, &request)? {
        None => {
            ui.say("nothing to do");
            Ok(Exit::Ok)
        }
        Some(done) => Ok(done.exit),
    }
}
