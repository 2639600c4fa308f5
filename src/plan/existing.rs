//! `start` and `restart`: runs of what exists, as it was made.

use std::collections::BTreeSet;

use crate::spec::{Name, SandboxKind};

use super::node::{ImageNeed, Link, Node, Outline, Work, not_running};
use super::up::{Decided, sorted};
use super::{Cause, Desired, DesiredImage, Intent, ObservedState, PlanError, PlanOptions};

/// Decides for every sandbox that exists.
pub(super) fn decide<'a>(
    desired: &Desired<'a>,
    observed: &'a ObservedState,
    options: &PlanOptions,
) -> Result<Decided<'a>, PlanError> {
    let names: Vec<&Name> = observed.sandboxes.keys().collect();
    let mut nodes = Vec::with_capacity(names.len());
    let mut outlines = Vec::with_capacity(names.len());
    for (name, sandbox) in &observed.sandboxes {
        let outline = Outline::read(name, sandbox)?;
        let mut node = Node::new(name, Some(sandbox));
        node.is_job = outline.kind == SandboxKind::Job;
        node.has_healthcheck = outline.healthcheck.is_some();
        for (dependency, how) in &outline.depends_on {
            if let Ok(to) = names.binary_search(&dependency) {
                let (condition, required) = (how.condition, how.required);
                node.links.push(Link { to, condition, required, restart: how.restart });
            }
        }
        nodes.push(node);
        outlines.push(outline);
    }
    let order = sorted(&nodes)?;
    for position in targets(desired, &names, &outlines, options)? {
        nodes[position].acted = true;
    }
    let restart = options.intent == Intent::Restart;
    for &position in &order {
        decide_one(&mut nodes, position, options, restart);
        let node = &mut nodes[position];
        if node.new_run() {
            node.image = image_need(desired, node, &outlines[position]);
        }
    }
    Ok(Decided { nodes, order, withheld: Vec::new() })
}

fn decide_one(nodes: &mut [Node<'_>], position: usize, options: &PlanOptions, restart: bool) {
    let node = &nodes[position];
    let Some(observed) = node.observed else { return };
    let named = options.names.contains(node.name);
    let follows = |node: &Node<'_>| {
        let mut links = node.links.iter().filter(|link| link.restart);
        links.find(|link| nodes[link.to].work == Work::Restart).map(|link| link.to)
    };
    let (work, cause) = if !node.acted {
        // What says so restarts with what it depends on.
        match follows(node).filter(|_| restart && !options.no_deps && node.is_live()) {
            Some(to) => {
                let dependency = nodes[to].name.clone();
                (Work::Restart, Cause::DependencyReplaced { dependency })
            }
            None => return,
        }
    } else if restart && node.is_live() {
        (Work::Restart, Cause::Requested)
    } else if let Some(cause) = not_running(observed, node.is_job) {
        (Work::Start, if named { Cause::Requested } else { cause })
    } else if named && node.completed() {
        (Work::Start, Cause::Requested)
    } else {
        return;
    };
    let node = &mut nodes[position];
    (node.acted, node.work, node.cause) = (true, work, cause);
}

/// The sandboxes the command is about: those named, with what they depend on for `start`;
/// otherwise those selected.
fn targets(
    desired: &Desired<'_>,
    names: &[&Name],
    outlines: &[Outline],
    options: &PlanOptions,
) -> Result<BTreeSet<usize>, PlanError> {
    let find = |name: &Name| match names.binary_search(&name) {
        Ok(position) => Ok(position),
        Err(_) if desired.project.sandboxes.contains_key(name) => {
            Err(PlanError::NotCreated { name: name.clone() })
        }
        Err(_) => {
            Err(PlanError::Unknown { name: name.clone(), project: desired.project.name.clone() })
        }
    };
    let mut found = BTreeSet::new();
    if options.names.is_empty() {
        let selected = desired.selected.iter();
        found.extend(selected.filter_map(|name| names.binary_search(&name).ok()));
        return Ok(found);
    }
    let mut open: Vec<usize> = options.names.iter().map(find).collect::<Result<_, _>>()?;
    while let Some(position) = open.pop() {
        if !found.insert(position) || options.no_deps || options.intent == Intent::Restart {
            continue;
        }
        for (dependency, how) in &outlines[position].depends_on {
            match names.binary_search(&dependency) {
                Ok(position) => open.push(position),
                Err(_) if how.required => {
                    return Err(PlanError::NotCreated { name: dependency.clone() });
                }
                Err(_) => {}
            }
        }
    }
    Ok(found)
}

/// The image of a disk that exists, where it is not known to be in the cache.
fn image_need(desired: &Desired<'_>, node: &Node<'_>, outline: &Outline) -> Option<ImageNeed> {
    let disk = node.observed?.image_digest.clone();
    let cached = match desired.images.get(node.name) {
        Some(DesiredImage::Known { .. }) => true,
        // The reference of an edited file says nothing about the disk's image.
        Some(DesiredImage::Remote { digest }) => disk.as_ref() != Some(digest),
        Some(DesiredImage::Missing) | None => {
            let declared = desired.project.sandboxes.get(node.name);
            declared.is_none_or(|spec| spec.image != outline.image)
        }
    };
    (!cached).then(|| ImageNeed {
        image: outline.image.clone(),
        policy: outline.pull_policy,
        digest: disk,
    })
}
