//! `msb plan`: what `up` would do, and why.

use crate::cli::args::{Format, Global, Plan};
use crate::cli::engine;
use crate::cli::error::{CliError, Exit};
use crate::cli::lockfile::LockFile;
use crate::cli::mounts;
use crate::cli::patches;
use crate::cli::project;
use crate::cli::ui::Ui;

pub(crate) fn run(ui: &Ui, global: &Global, args: &Plan) -> Result<Exit, CliError> {
    let mut loaded = project::load(ui, global)?;
    let mut selected = project::select(ui, &loaded, &args.selection.names, global)?;
    if args.selection.no_deps {
        selected = args.selection.names.iter().cloned().collect();
    }
    mounts::check(ui, &loaded, &selected)?;
    patches::read(ui, &mut loaded, &selected)?;
    let options = super::up::options(&args.selection, &selected, false);
    let lock = LockFile::read(&loaded)?;
    if args.selection.locked {
        lock.require(ui, &loaded, &selected)?;
    }
    let locked = lock.locked(&loaded, &selected);
    let look = engine::look(ui, &loaded, &selected, &options, &locked)?;
    match args.format {
        Format::Text => ui.data(&look.plan.to_string())?,
        Format::Json => ui.json(&look.plan)?,
    }
    let changes = args.detailed_exitcode && !look.plan.is_empty();
    Ok(if changes { Exit::Changes } else { Exit::Ok })
}
