//! `msb start`, `stop`, `restart` and `rm`: what exists, as it was made.

use crate::cli::args::{Global, Names, Rm, Stop};
use crate::cli::engine::{self, Request};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;
use crate::plan::{Intent, PlanOptions};
use crate::spec::Millis;

pub(crate) fn start(ui: &Ui, global: &Global, args: &Names) -> Result<Exit, CliError> {
    run(ui, global, "msb start", Intent::Start, args, None, true)
}

pub(crate) fn stop(ui: &Ui, global: &Global, args: &Stop) -> Result<Exit, CliError> {
    run(ui, global, "msb stop", Intent::Stop, &args.target, args.timeout, true)
}

pub(crate) fn restart(ui: &Ui, global: &Global, args: &Stop) -> Result<Exit, CliError> {
    run(ui, global, "msb restart", Intent::Restart, &args.target, args.timeout, true)
}

pub(crate) fn rm(ui: &Ui, global: &Global, args: &Rm) -> Result<Exit, CliError> {
    let intent = Intent::Remove { force: args.stop };
    run(ui, global, "msb rm", intent, &args.target, None, args.yes)
}

fn run(
    ui: &Ui,
    global: &Global,
    command: &'static str,
    intent: Intent,
    args: &Names,
    grace: Option<Millis>,
    yes: bool,
) -> Result<Exit, CliError> {
    let (loaded, _) = engine::load_or_name(ui, global)?;
    let request = Request {
        command,
        selected: loaded.project.sandboxes.keys().cloned().collect(),
        loaded: &loaded,
        options: PlanOptions {
            intent,
            names: args.names.iter().cloned().collect(),
            grace,
            ..PlanOptions::default()
        },
        machine: args.machine.clone(),
        locked: Vec::new(),
        lock_timeout: args.lock_timeout,
        wait_timeout: None,
        dry_run: false,
        yes,
        fingerprint: None,
    };
    match engine::run(ui, &request)? {
        None => {
            ui.say("nothing to do");
            Ok(Exit::Ok)
        }
        Some(done) => Ok(done.exit),
    }
}
