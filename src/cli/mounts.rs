//! Sources of binds: looked at before anything is stopped for them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::manifest::Diagnostic;
use crate::spec::{GuestPath, MountSource, Name, Origins};
use crate::supervisor::{BindError, check_bind};

use super::error::CliError;
use super::project::{Loaded, invalid, report};
use super::ui::Ui;

/// Reports the binds of the selected sandboxes that cannot be mounted.
pub(crate) fn check(ui: &Ui, loaded: &Loaded, selected: &BTreeSet<Name>) -> Result<(), CliError> {
    let mut found = Vec::new();
    for (name, spec) in loaded.project.sandboxes.iter().filter(|(name, _)| selected.contains(name))
    {
        for (at, mount) in &spec.volumes {
            if let MountSource::Bind { path, create } = &mount.source
                && let Err(error) = check_bind(Path::new(path), *create)
            {
                found.push(diagnostic(name, at, &error, &loaded.origins));
            }
        }
    }
    report(ui, &found);
    if found.is_empty() { Ok(()) } else { Err(invalid(&found)) }
}

fn diagnostic(sandbox: &Name, at: &GuestPath, error: &BindError, origins: &Origins) -> Diagnostic {
    let mut message = format!("`{at}` of sandbox `{sandbox}` cannot be mounted: {error}");
    if let Some(source) = std::error::Error::source(error) {
        message.push_str(&format!(": {source}"));
    }
    let mut diagnostic = Diagnostic::error(message);
    if let Some(help) = error.help() {
        diagnostic = diagnostic.with_help(help);
    }
    match origins.locate(&format!("sandbox.{sandbox}.volumes.{at}.bind")) {
        Some((text, offset)) => diagnostic.at_key(&text, offset),
        None => diagnostic,
    }
}
