//! `msb config`: check the Sandboxfile and print its canonical form.

use serde_json::json;

use crate::cli::args::{Config, Format, Global};
use crate::cli::error::{CliError, Exit};
use crate::cli::project;
use crate::cli::ui::Ui;
use crate::manifest::{self, Explanation};

pub(crate) fn run(ui: &Ui, global: &Global, args: &Config) -> Result<Exit, CliError> {
    if let Some(key) = &args.explain {
        return explain(ui, key, args.format);
    }
    let loaded = project::load(ui, global)?;
    match args.format {
        Format::Text => ui.data(&manifest::canonical_toml(&loaded.project))?,
        Format::Json => ui.json(&json!({
            "schema": "msb.config/1",
            "project": loaded.project,
        }))?,
    }
    Ok(Exit::Ok)
}

fn explain(ui: &Ui, key: &str, format: Format) -> Result<Exit, CliError> {
    let Some(found) = manifest::explain(key) else {
        let message = format!("the Sandboxfile has no key `{key}`");
        let hint = match manifest::closest_key(key) {
            Some(close) => format!("did you mean `{close}`?"),
            None => "write it as in the file, such as `sandbox.web.memory` or `memory`".to_owned(),
        };
        return Err(CliError::message(Exit::Failed, message).hint(hint));
    };
    match format {
        Format::Text => ui.data(&text(&found))?,
        Format::Json => ui.json(&json!({
            "schema": "msb.explain/1",
            "key": found.path,
            "type": found.kind,
            "default": found.default,
            "meaning": found.meaning,
            "supported": found.supported,
            "keys": found.keys,
        }))?,
    }
    Ok(Exit::Ok)
}

fn text(found: &Explanation) -> String {
    let default = found.default.as_ref().map_or_else(String::new, |d| format!("default  {d}\n"));
    let later = if found.supported { "" } else { "\nNot carried out by this version yet.\n" };
    let keys = if found.keys.is_empty() {
        String::new()
    } else {
        let path = found.path.as_str();
        let keys = found.keys.join(", ");
        format!("\nIts keys (`msb config --explain {path}.KEY` tells more): {keys}\n")
    };
    let (path, kind, meaning) = (&found.path, &found.kind, &found.meaning);
    format!("{path}\ntype     {kind}\n{default}\n{meaning}\n{later}{keys}")
}
