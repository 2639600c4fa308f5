//! `msb doctor`: what this machine has, what it lacks, and how to get it.

use std::io;

use serde_json::{Value, json};

use crate::cli::args::{Format, Formatted};
use crate::cli::error::{CliError, Exit};
use crate::cli::project;
use crate::cli::ui::{Tone, Ui};
use crate::home::Home;
use crate::runtime::{self, Capabilities, DriverChoice, Qemu, Unavailable, setup};
use crate::store::Store;
use crate::supervisor::JailLayer;

/// One thing that was looked at.
struct Check {
    what: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do about it.
    help: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// It works, not as well as it could.
    Worse,
    Missing,
}

pub(crate) fn run(ui: &Ui, args: &Formatted) -> Result<Exit, CliError> {
    let home = project::home()?;
    home.create()?;
    let mut checks = vec![state_directory(&home), store(&home)];
    checks.extend(drivers(&home));
    checks.push(kernel(&home));
    let jail = match jail(&home).transpose() {
        Ok(layers) => layers,
        Err(error) => {
            let help = Some("VMs cannot be started here".to_owned());
            let found = format!("cannot be tried: {error}");
            checks.push(Check { what: "jail", state: State::Missing, found, help });
            None
        }
    };
    match args.format {
        Format::Text => {
            checks.extend(jail.iter().flatten().map(layer));
            text(ui, &checks)?;
        }
        Format::Json => ui.json(&json!({
            "schema": "msb.doctor/1",
            "checks": checks.iter().map(document).collect::<Vec<_>>(),
            "jail": jail,
        }))?,
    }
    let missing = checks.iter().any(|check| check.state == State::Missing);
    Ok(if missing { Exit::RuntimeMissing } else { Exit::Ok })
}

fn text(ui: &Ui, checks: &[Check]) -> Result<(), CliError> {
    for check in checks {
        let (word, tone) = match check.state {
            State::Good => ("ok", Tone::Good),
            State::Worse => ("note", Tone::Busy),
            State::Missing => ("missing", Tone::Bad),
        };
        ui.toned_data(&format!("{word:8}"), tone)?;
        ui.data(&format!("{:16}{}\n", check.what, check.found))?;
        if let Some(help) = &check.help {
            ui.data(&format!("{:24}{help}\n", ""))?;
        }
    }
    Ok(())
}

fn document(check: &Check) -> Value {
    let state = match check.state {
        State::Good => "ok",
        State::Worse => "note",
        State::Missing => "missing",
    };
    json!({ "what": check.what, "state": state, "found": check.found, "help": check.help })
}

fn state_directory(home: &Home) -> Check {
    let found = home.root().display().to_string();
    Check { what: "state directory", state: State::Good, found, help: None }
}

fn store(home: &Home) -> Check {
    let what = "store";
    match Store::open_read_only(home).and_then(|store| match store {
        Some(store) => store.projects().map(|projects| projects.len()),
        None => Ok(0),
    }) {
        Ok(count) => {
            let plural = if count == 1 { "" } else { "s" };
            Check {
                what,
                state: State::Good,
                found: format!("{count} project{plural}"),
                help: None,
            }
        }
        Err(error) => Check {
            what,
            state: State::Missing,
            found: CliError::from(error).chain().join(": "),
            help: None,
        },
    }
}

fn drivers(home: &Home) -> Vec<Check> {
    let probed = |choice| runtime::driver(choice, home).and_then(|chosen| chosen.driver.probe());
    let krun = probed(DriverChoice::Krun);
    let qemu = probed(DriverChoice::Qemu);
    // One of them is enough.
    let without = if krun.is_ok() || qemu.is_ok() { State::Worse } else { State::Missing };
    let check = |what, probed| match probed {
        Ok(Capabilities { version, .. }) => {
            Check { what, state: State::Good, found: version, help: None }
        }
        Err(Unavailable { reason, help }) => {
            Check { what, state: without, found: reason, help: Some(help) }
        }
    };
    let mut checks = vec![check("krun", krun), check("qemu", qemu)];
    if let Ok(qemu) = Qemu::find(home) {
        checks.push(match qemu.emulation() {
            None => Check {
                what: "KVM",
                state: State::Good,
                found: "runs guests".to_owned(),
                help: None,
            },
            Some(because) => Check {
                what: "KVM",
                state: State::Worse,
                found: because.to_owned(),
                help: Some(
                    "guests are emulated: slower, and a weaker boundary than with KVM".to_owned(),
                ),
            },
        });
    }
    checks
}

/// How a VM is confined, by really confining a program. Without a driver there is nothing to say.
fn jail(home: &Home) -> Option<io::Result<Vec<JailLayer>>> {
    let chosen = runtime::driver(DriverChoice::Auto, home).ok()?;
    Some(runtime::jail::trial(&*chosen.driver).map(|report| JailLayer::all(&report)))
}

fn layer(layer: &JailLayer) -> Check {
    let (state, found) = match &layer.reason {
        None => (State::Good, layer.layer.clone()),
        Some(reason) => (State::Worse, format!("{}: not available: {reason}", layer.layer)),
    };
    Check { what: "jail", state, found, help: None }
}

fn kernel(home: &Home) -> Check {
    let what = "guest kernel";
    match setup::status(home) {
        Ok(status) => {
            let found = super::setup::describe(&status);
            Check { what, state: State::Good, found, help: None }
        }
        Err(error) => Check {
            what,
            state: State::Missing,
            help: super::setup::hint(&error).map(str::to_owned),
            found: CliError::from(error).chain().join(": "),
        },
    }
}
