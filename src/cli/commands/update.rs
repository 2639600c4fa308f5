//! `msb update`: what image references mean, asked anew and written to the lock file.

use std::collections::BTreeSet;

use crate::cli::args::{Global, Update};
use crate::cli::error::{CliError, Exit};
use crate::cli::lockfile::{Resolved, change, images, path_of, resolve};
use crate::cli::project;
use crate::cli::ui::Ui;
use crate::image::{Digest, ImageRef, Pins, Platform, pinnable};
use crate::spec::{Image, Name};

/// How many digits of a digest are shown.
const SHORT: usize = 12;

pub(crate) fn run(ui: &Ui, global: &Global, args: &Update) -> Result<Exit, CliError> {
    let loaded = project::load(ui, global)?;
    let Some(path) = path_of(&loaded) else {
        let message = "a Sandboxfile from standard input has no lock file";
        return Err(CliError::message(Exit::Usage, message));
    };
    let all: BTreeSet<Name> = loaded.project.sandboxes.keys().cloned().collect();
    let named: BTreeSet<Name> = args.names.iter().cloned().collect();
    if let Some(unknown) = named.difference(&all).next() {
        let message = format!("there is no sandbox `{unknown}` in the Sandboxfile");
        return Err(CliError::message(Exit::Usage, message));
    }
    let anew = named.is_empty();
    let references = |names| -> BTreeSet<ImageRef> {
        images(&loaded, names).into_iter().filter_map(|(_, image)| pinnable(image)).collect()
    };
    let declared = references(&all);
    let chosen = if anew { declared.clone() } else { references(&named) };
    // For every platform that any sandbox states, so that nothing stated is lost.
    let wanted: Vec<&Image> = images(&loaded, &all)
        .into_iter()
        .filter(|(_, image)| pinnable(image).is_some_and(|reference| chosen.contains(&reference)))
        .map(|(_, image)| image)
        .collect();
    let found = resolve(&loaded, &wanted)?;
    let mut changes = Vec::new();
    let body = |pins: &mut Pins| {
        for (reference, digests) in &found {
            pins.set(reference.clone(), digests.clone());
        }
    };
    let before = if args.dry_run {
        crate::cli::lockfile::LockFile::read(&loaded)?.pins().cloned().unwrap_or_default()
    } else {
        change(&path, anew, body)?
    };
    describe(&before, &found, &mut changes);
    if anew {
        let gone = before.iter().filter(|(reference, _)| !declared.contains(reference));
        changes.extend(gone.map(|(reference, _)| format!("{reference}: removed, nothing uses it")));
    }
    for change in &changes {
        ui.say(change);
    }
    if changes.is_empty() {
        ui.say("no changes");
    } else if !args.dry_run {
        ui.say(&format!("wrote {}; `msb plan` shows what follows", path.display()));
    }
    Ok(Exit::Ok)
}

/// What is different about the references that were asked for.
fn describe(before: &Pins, found: &Resolved, changes: &mut Vec<String>) {
    for (reference, digests) in found {
        for (platform, digest) in digests {
            let old = before.of(reference).and_then(|old| old.get(platform));
            changes.extend(described(reference, platform, old, digest));
        }
        let old = before.of(reference).into_iter().flatten();
        let gone = old.filter(|(platform, _)| !digests.contains_key(platform));
        changes.extend(gone.map(|(platform, _)| format!("{reference} ({platform}): removed")));
    }
}

fn described(
    reference: &ImageRef,
    platform: &Platform,
    old: Option<&Digest>,
    new: &Digest,
) -> Option<String> {
    let short = |digest: &Digest| digest.hex().chars().take(SHORT).collect::<String>();
    match old {
        Some(old) if old == new => None,
        Some(old) => Some(format!("{reference} ({platform}): {} -> {}", short(old), short(new))),
        None => Some(format!("{reference} ({platform}): {}", short(new))),
    }
}
