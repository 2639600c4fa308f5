//! Sources of patches: read before planning, so that a changed source is a changed spec.

use std::collections::BTreeSet;
use std::path::Path;

use crate::manifest::Diagnostic;
use crate::reconcile::HostError;
use crate::rootfs::patch::{PatchError, Root};
use crate::spec::{Name, Origins, Patch, Project};

use super::error::CliError;
use super::fingerprint::FileStamp;
use super::project::{Loaded, invalid, report};
use super::ui::Ui;

/// Writes into the patches of the selected sandboxes what their sources hold, and reports those that
/// cannot be read.
pub(crate) fn read(
    ui: &Ui,
    loaded: &mut Loaded,
    selected: &BTreeSet<Name>,
) -> Result<(), CliError> {
    let copies = |name: &Name| {
        let spec = loaded.project.sandboxes.get(name);
        spec.is_some_and(|spec| {
            let mut patches = spec.patches.iter();
            patches.any(|patch| matches!(patch, Patch::CopyFile { .. } | Patch::CopyDir { .. }))
        })
    };
    if !selected.iter().any(copies) {
        return Ok(());
    }
    let root = Root::open(Path::new(&loaded.project.root))?;
    let mut stamps = Vec::new();
    let wrong = read_sources(&root, &mut loaded.project, selected, &mut stamps);
    loaded.stamps.extend(stamps);
    let found: Vec<Diagnostic> = wrong
        .into_iter()
        .map(|(sandbox, error)| diagnostic(&sandbox, error, &loaded.origins))
        .collect();
    report(ui, &found);
    if found.is_empty() { Ok(()) } else { Err(invalid(&found)) }
}

fn read_sources(
    root: &Root,
    project: &mut Project,
    selected: &BTreeSet<Name>,
    stamps: &mut Vec<FileStamp>,
) -> Vec<(Name, PatchError)> {
    let mut wrong = Vec::new();
    for name in selected {
        let Some(spec) = project.sandboxes.get_mut(name) else { continue };
        for (index, patch) in spec.patches.iter_mut().enumerate() {
            match root.scan(patch) {
                Ok(Some(scan)) => {
                    stamps.extend(root.watched(&scan).filter_map(|w| FileStamp::of_source(&w)));
                    patch.set_digest(scan.digest);
                }
                Ok(None) => {}
                Err(problem) => wrong.push((name.clone(), PatchError { index, problem })),
            }
        }
    }
    wrong
}

/// What is wrong with a patch, at its place.
pub(crate) fn diagnostic(sandbox: &Name, error: PatchError, origins: &Origins) -> Diagnostic {
    let PatchError { index, problem } = error;
    let mut diagnostic =
        Diagnostic::error(format!("the patch of sandbox `{sandbox}` cannot be applied: {problem}"));
    if let Some(help) = problem.help() {
        diagnostic = diagnostic.with_help(help);
    }
    match origins.locate(&format!("sandbox.{sandbox}.patches.{index}")) {
        Some((text, offset)) => diagnostic.at_key(&text, offset),
        None => diagnostic,
    }
}

/// Reports layers that could not be made; then nothing is changed.
pub(crate) fn check(ui: &Ui, origins: &Origins, wrong: Vec<HostError>) -> Result<(), CliError> {
    let mut found = Vec::new();
    for error in wrong {
        match error {
            HostError::Patch { sandbox, source } => {
                found.push(diagnostic(&sandbox, source, origins));
            }
            other => return Err(other.into()),
        }
    }
    report(ui, &found);
    if found.is_empty() { Ok(()) } else { Err(invalid(&found)) }
}
