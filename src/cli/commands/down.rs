//! `msb down`: stop and remove.

use crate::cli::args::{Down, Global, Machine};
use crate::cli::engine::{self, Request};
use crate::cli::error::{CliError, Exit};
use crate::cli::filter;
use crate::cli::ui::Ui;
use crate::plan::{Intent, PlanOptions};

pub(crate) fn run(ui: &Ui, global: &Global, args: &Down) -> Result<Exit, CliError> {
    let (loaded, declared) = engine::load_or_name(ui, global)?;
    let Some(names) = filter::names(&loaded.project.name, &args.names, &args.filter)? else {
        ui.say("nothing to remove");
        return Ok(Exit::Ok);
    };
    let request = Request {
        command: "msb down",
        selected: loaded.project.sandboxes.keys().cloned().collect(),
        loaded: &loaded,
        options: PlanOptions {
            intent: Intent::Down { volumes: args.volumes },
            names,
            // Without a file nothing is declared, and all of the project is meant.
            remove_orphans: args.remove_orphans || !declared,
            allow_empty: true,
            grace: args.timeout,
            ..PlanOptions::default()
        },
        machine: Machine::default(),
        locked: Vec::new(),
        lock_timeout: args.lock_timeout,
        wait_timeout: None,
        dry_run: args.dry_run,
        // Removal is what was asked for; volumes are another matter.
        yes: args.yes || !args.volumes,
        fingerprint: None,
        owned: None,
    };
    match engine::run(ui, &request)? {
        None => {
            if !args.dry_run {
                ui.say("nothing to remove");
            }
            Ok(Exit::Ok)
        }
        Some(done) => Ok(done.exit),
    }
}
