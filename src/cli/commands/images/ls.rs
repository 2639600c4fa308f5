//! `msb images ls`.

use serde_json::{Value, json};

use super::{platform, short, stored};
use crate::cli::args::{Format, Formatted, size};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::{Table, Tone, Ui};
use crate::image::{StoredImage, saving_bytes};

pub(super) fn run(ui: &Ui, args: &Formatted) -> Result<Exit, CliError> {
    let images = stored()?;
    match args.format {
        Format::Text => text(ui, &images)?,
        Format::Json => ui.json(&json!({
            "schema": "msb.images/1",
            "images": images.iter().map(summary).collect::<Vec<_>>(),
            "saving_bytes": saving_bytes(&images),
        }))?,
    }
    Ok(Exit::Ok)
}

fn text(ui: &Ui, images: &[StoredImage]) -> Result<(), CliError> {
    let mut rows: Vec<(String, &StoredImage)> = Vec::new();
    for image in images {
        if image.names.is_empty() {
            rows.push(("-".to_owned(), image));
        }
        rows.extend(image.names.iter().map(|name| (name.reference.clone(), image)));
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let heads = ["IMAGE", "PLATFORM", "DIGEST", "SIZE", "LAYERS", "SHARED", "USED BY"];
    let mut table = Table::new(&heads);
    for (name, image) in rows {
        let users = match image.users.len() {
            0 => ("-".to_owned(), Tone::Dim),
            n => (n.to_string(), Tone::Plain),
        };
        table.row([
            (name, Tone::Plain),
            (platform(image), Tone::Plain),
            (short(&image.digest), Tone::Dim),
            (size(image.disk_bytes), Tone::Plain),
            (size(image.layer_bytes()), Tone::Plain),
            (size(image.shared_bytes()), Tone::Plain),
            users,
        ]);
    }
    ui.table(&table)?;
    let saving = saving_bytes(images);
    if saving > 0 {
        ui.say(&format!(
            "layers that images have in common are stored once: {} saved",
            size(saving)
        ));
    }
    Ok(())
}

/// What a listing says about an image, as JSON.
pub(super) fn summary(image: &StoredImage) -> Value {
    json!({
        "digest": image.digest,
        "names": image.names.iter().map(|name| json!({
            "name": name.reference,
            "platform": name.platform,
        })).collect::<Vec<_>>(),
        "platform": image.platform.as_ref().map(ToString::to_string),
        "disk_bytes": image.disk_bytes,
        "layer_bytes": image.layer_bytes(),
        "shared_bytes": image.shared_bytes(),
        "pulled_ms": image.pulled_ms,
        "used_by": image.users.iter().map(|user| json!({
            "project": user.project,
            "sandbox": user.sandbox,
        })).collect::<Vec<_>>(),
    })
}
