//! `msb images inspect`.

use serde_json::json;

use super::{platform, stored};
use crate::cli::args::{Format, Inspect, size};
use crate::cli::error::{CliError, Exit};
use crate::cli::escape::escape;
use crate::cli::ui::{Tone, Ui};
use crate::image::{StoredImage, StoredLayer, find};

pub(super) fn run(ui: &Ui, args: &Inspect) -> Result<Exit, CliError> {
    let images = stored()?;
    let (image, _) = find(&images, &args.name, args.platform.as_ref())?;
    match args.format {
        Format::Text => text(ui, image)?,
        Format::Json => {
            let mut document = json!({ "schema": "msb.image/1" });
            let details = json!({
                "file": image.file,
                "config": image.config,
                "layers": image.layers.iter().map(|layer| json!({
                    "digest": layer.digest,
                    "size_bytes": layer.size_bytes,
                    "stored": layer.is_stored,
                    "images": layer.images,
                })).collect::<Vec<_>>(),
            });
            for part in [super::ls::summary(image), details] {
                if let (Some(document), serde_json::Value::Object(part)) =
                    (document.as_object_mut(), part)
                {
                    document.extend(part);
                }
            }
            ui.json(&document)?;
        }
    }
    Ok(Exit::Ok)
}

fn text(ui: &Ui, image: &StoredImage) -> Result<(), CliError> {
    let config = &image.config;
    let env: Vec<String> =
        config.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let labels: Vec<String> =
        config.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let names: Vec<String> =
        image.names.iter().map(|name| format!("{} ({})", name.reference, name.platform)).collect();
    let users: Vec<String> =
        image.users.iter().map(|user| format!("{}/{}", user.project, user.sandbox)).collect();
    let file = image.file.as_ref().map(|file| file.display().to_string());
    let one = |text: Option<String>| text.into_iter().collect::<Vec<_>>();
    let parts = [
        ("digest", vec![image.digest.to_string()]),
        ("names", names),
        ("platform", vec![platform(image)]),
        ("used by", users),
        ("file", one(file)),
        ("size", vec![size(image.disk_bytes)]),
        ("layers", image.layers.iter().map(layer).collect()),
        ("entrypoint", one(words(&config.entrypoint))),
        ("cmd", one(words(&config.cmd))),
        ("env", env),
        ("workdir", one(config.workdir.clone())),
        ("user", one(config.user.clone())),
        ("stop signal", one(config.stop_signal.clone())),
        ("volumes", config.volumes.clone()),
        ("ports", config.exposed_ports.clone()),
        ("labels", labels),
    ];
    for (head, lines) in &parts {
        for (index, line) in lines.iter().enumerate() {
            let head = if index == 0 { *head } else { "" };
            ui.toned_data(&format!("{head:12}"), Tone::Dim)?;
            ui.data(&format!("{}\n", escape(line)))?;
        }
    }
    Ok(())
}

fn layer(layer: &StoredLayer) -> String {
    let kept = if layer.is_stored { "" } else { ", not kept" };
    let shared = match layer.images {
        0 | 1 => String::new(),
        n => format!(", in {n} images"),
    };
    format!("{} ({}{kept}{shared})", layer.digest, size(layer.size_bytes))
}

/// A command line as a JSON list, so that words with spaces stay words.
fn words(words: &[String]) -> Option<String> {
    (!words.is_empty()).then(|| serde_json::json!(words).to_string())
}
