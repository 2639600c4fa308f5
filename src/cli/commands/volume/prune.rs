//! `msb volume prune`.

use crate::cli::args::{Global, VolumePrune, disk_size, size};
use crate::cli::error::{CliError, Exit};
use crate::cli::project;
use crate::cli::ui::Ui;
use crate::image::DiskUsage;
use crate::reconcile::{VolumeInfo, prunable_volumes, remove_volume};
use crate::store::Store;

pub(super) fn run(ui: &Ui, global: &Global, args: &VolumePrune) -> Result<Exit, CliError> {
    let store = Store::open(&project::home()?)?;
    let mut found = prunable_volumes(&store)?;
    if let Some(project) = &global.project {
        found.retain(|info| info.row.project.as_deref() == Some(project.as_str()));
    }
    let found: Vec<_> = found.into_iter().map(|info| (info.disk_usage(), info)).collect();
    if args.dry_run {
        for (used, info) in &found {
            ui.data(&format!("volume {} ({})\n", info.row.title(), disk_size(*used)))?;
        }
        return Ok(Exit::Ok);
    }
    if found.is_empty() {
        ui.say("nothing to remove");
        return Ok(Exit::Ok);
    }
    confirm(ui, args.yes, &found)?;
    let (mut removed, mut bytes, mut exit) = (0, 0, Exit::Ok);
    for (used, info) in &found {
        match remove_volume(&store, &info.row) {
            Ok(()) => (removed, bytes) = (removed + 1, bytes + used.bytes),
            Err(error) => {
                ui.error(&error.into());
                exit = Exit::Failed;
            }
        }
    }
    let plural = if removed == 1 { "" } else { "s" };
    ui.say(&format!("{removed} volume{plural} removed, {} freed", size(bytes)));
    Ok(exit)
}

/// Asks before `lost` go.
fn confirm(ui: &Ui, yes: bool, lost: &[(DiskUsage, VolumeInfo)]) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    for (used, info) in lost {
        ui.always(&format!(
            "volume {} ({}) goes, with all that it holds",
            info.row.title(),
            disk_size(*used)
        ));
    }
    ui.confirm("`--yes` answers yes")
}
