//! `msb df`: what msb keeps on the disk.

use serde_json::json;

use crate::cli::args::{Format, Formatted, disk_size, size};
use crate::cli::error::{CliError, Exit};
use crate::cli::project;
use crate::cli::ui::{Table, Tone, Ui};
use crate::home::Home;
use crate::image::{DiskUsage, PruneOptions, disk_usage, list, prunable};
use crate::reconcile::list_volumes;
use crate::store::Store;

/// One kind of thing.
struct Kind {
    name: &'static str,
    /// Where counting makes sense.
    count: Option<usize>,
    used: DiskUsage,
    /// What `msb images prune --all`, or `msb volume prune`, would free.
    reclaimable: u64,
}

pub(crate) fn run(ui: &Ui, args: &Formatted) -> Result<Exit, CliError> {
    let kinds = kinds()?;
    match args.format {
        Format::Text => {
            let mut table = Table::new(&["KIND", "COUNT", "SIZE", "RECLAIMABLE"]);
            for kind in &kinds {
                table.row([
                    (kind.name.to_owned(), Tone::Plain),
                    (kind.count.map_or_else(|| "-".to_owned(), |n| n.to_string()), Tone::Plain),
                    (disk_size(kind.used), Tone::Plain),
                    (size(kind.reclaimable), Tone::Plain),
                ]);
            }
            ui.table(&table)?;
            for (command, volumes) in [("images prune --all", false), ("volume prune", true)] {
                let frees =
                    |kind: &Kind| kind.reclaimable > 0 && (kind.name == "volumes") == volumes;
                let what: Vec<&str> =
                    kinds.iter().filter(|kind| frees(kind)).map(|kind| kind.name).collect();
                if !what.is_empty() {
                    ui.say(&format!(
                        "`msb {command}` frees what is reclaimable of {}",
                        what.join(", ")
                    ));
                }
            }
        }
        Format::Json => ui.json(&json!({
            "schema": "msb.df/1",
            "kinds": kinds.iter().map(|kind| json!({
                "kind": kind.name,
                "count": kind.count,
                "disk_bytes": kind.used.bytes,
                "disk_complete": kind.used.complete,
                "reclaimable_bytes": kind.reclaimable,
            })).collect::<Vec<_>>(),
        }))?,
    }
    Ok(Exit::Ok)
}

fn kinds() -> Result<Vec<Kind>, CliError> {
    let home = project::home()?;
    let (images, sandboxes, volumes, found) = match Store::open_read_only(&home)? {
        Some(store) => {
            let found = prunable(&store, PruneOptions { all: true, layers: false })?;
            (list(&store)?, store.all_sandboxes()?, list_volumes(&store)?, Some(found))
        }
        None => (Vec::new(), Vec::new(), Vec::new(), None),
    };
    let unused: u64 = found.iter().flat_map(|found| &found.images).map(|i| i.disk_bytes).sum();
    let layers = found.as_ref().map_or(0, |found| {
        found.layers.iter().map(|name| disk_usage(&home.blobs().join(name))).sum()
    });
    let files = || found.iter().flat_map(|found| &found.files);
    let (layer_files, other): (Vec<_>, Vec<_>) =
        files().partition(|file| file.starts_with(home.patches()));
    let unpatched = layer_files.into_iter().map(|file| disk_usage(file)).sum();
    let stale = other.into_iter().map(|file| disk_usage(file)).sum();
    let blobs = std::fs::read_dir(home.blobs()).map_or(0, |entries| {
        entries
            .flatten()
            .filter(|entry| entry.path().extension().is_none_or(|e| e != "lock"))
            .count()
    });
    let image_bytes = images.iter().map(|image| image.disk_bytes).sum();
    let (blob_bytes, sandbox_bytes) = (disk_usage(&home.blobs()), disk_usage(&home.sandboxes()));
    let patches = std::fs::read_dir(home.patches()).map_or(0, |entries| entries.flatten().count());
    let patch_bytes = disk_usage(&home.patches());
    let (mut in_volumes, mut unmounted) = (DiskUsage { bytes: 0, complete: true }, 0);
    for info in &volumes {
        let used = info.disk_usage();
        in_volumes.bytes += used.bytes;
        in_volumes.complete &= used.complete;
        if info.users.is_empty() && !info.row.protect {
            unmounted += used.bytes;
        }
    }
    let known = image_bytes + blob_bytes + patch_bytes + sandbox_bytes;
    let rest = outside_volumes(&home).saturating_sub(known);
    let kind = |name, count, bytes, reclaimable| {
        let used = DiskUsage { bytes, complete: true };
        Kind { name, count, used, reclaimable }
    };
    Ok(vec![
        kind("images", Some(images.len()), image_bytes, unused),
        kind("layers", Some(blobs), blob_bytes, layers),
        kind("patches", Some(patches), patch_bytes, unpatched),
        kind("sandboxes", Some(sandboxes.len()), sandbox_bytes, 0),
        Kind {
            name: "volumes",
            count: Some(volumes.len()),
            used: in_volumes,
            reclaimable: unmounted,
        },
        kind("other", None, rest, stale),
    ])
}

/// All of the home but the volumes, in which guests have made what there is.
fn outside_volumes(home: &Home) -> u64 {
    let entries = std::fs::read_dir(home.root()).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| *path != home.volumes());
    paths.map(|path| disk_usage(&path)).sum()
}
