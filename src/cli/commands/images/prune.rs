//! `msb images prune`.

use super::{label, store};
use crate::cli::args::{Prune, size};
use crate::cli::engine::lock;
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;
use crate::image::{Prunable, PruneOptions, prunable, prune};

pub(super) fn run(ui: &Ui, args: &Prune) -> Result<Exit, CliError> {
    let store = store()?;
    let options = PruneOptions { all: args.all, layers: args.layers };
    let found = prunable(&lock(&store), options)?;
    if args.dry_run {
        ui.data(&described(&found))?;
        return Ok(Exit::Ok);
    }
    // Without `--all` nothing goes that anything names.
    if args.all && !args.yes && !found.images.is_empty() {
        ui.always(described(&found).trim_end());
        ui.confirm("`--yes` answers yes; `--dry-run` shows what would go")?;
    }
    // Also where nothing was found: locks of killed commands are not worth being told.
    let done = prune(&store, &found)?;
    if found.is_empty() {
        ui.say("nothing to remove");
        return Ok(Exit::Ok);
    }
    for kept in done.kept {
        ui.warn(&format!("{kept}; it stays"));
    }
    let count = done.images.len();
    let plural = if count == 1 { "" } else { "s" };
    ui.say(&format!("{count} image{plural} removed, {} freed", size(done.bytes)));
    Ok(Exit::Ok)
}

/// What would go, one a line.
fn described(found: &Prunable) -> String {
    let mut lines: Vec<String> = found
        .images
        .iter()
        .map(|image| format!("image {} ({})", label(image), size(image.disk_bytes)))
        .collect();
    for (count, what) in [(found.layers.len(), "layer"), (found.files.len(), "leftover file")] {
        if count > 0 {
            lines.push(format!("{count} {what}{}", if count == 1 { "" } else { "s" }));
        }
    }
    lines.push(format!("{} in all\n", size(found.bytes)));
    lines.join("\n")
}
