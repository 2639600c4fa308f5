//! `stop`, `down`, `rm`, and orphans: what ends, dependents first.

use std::collections::{BTreeMap, BTreeSet};

use crate::spec::{Millis, Name, ResourceId};

use super::graph::{Draft, DraftId, Drafts, Follows, without_cycles};
use super::node::Outline;
use super::{
    Action, Cause, Desired, Intent, ObservedSandbox, ObservedState, Orphan, PlanError, PlanOptions,
    Summary, Withheld, WithheldReason,
};

/// A sandbox that ends.
struct Ending<'a> {
    name: &'a Name,
    observed: &'a ObservedSandbox,
    outline: Option<Outline>,
    cause: Cause,
    removes: bool,
    /// It is protected and was named.
    confirms: bool,
    stop: Option<DraftId>,
    remove: Option<DraftId>,
}

impl<'a> Ending<'a> {
    fn new(name: &'a Name, observed: &'a ObservedSandbox, cause: Cause) -> Self {
        // What cannot be read has no order, and is no reason to let it run.
        let outline = Outline::read(name, observed).ok();
        Self {
            name,
            observed,
            outline,
            cause,
            removes: false,
            confirms: false,
            stop: None,
            remove: None,
        }
    }
}

/// Everything that a plan gathers beside its steps.
#[derive(Default)]
pub(super) struct Aside {
    pub(super) orphans: Vec<Orphan>,
    pub(super) withheld: Vec<Withheld>,
    pub(super) summary: Summary,
}

/// Adds the steps of `stop`, `down` and `rm`.
pub(super) fn teardown(
    desired: &Desired<'_>,
    observed: &ObservedState,
    options: &PlanOptions,
    drafts: &mut Drafts,
    aside: &mut Aside,
) -> Result<(), PlanError> {
    check_names(desired, observed, options)?;
    let mut endings = Vec::new();
    for (name, sandbox) in &observed.sandboxes {
        let named = options.names.contains(name);
        let declared = desired.project.sandboxes.contains_key(name);
        if !declared && options.intent != Intent::Stop {
            let removed = named || (options.remove_orphans && options.names.is_empty());
            let removed = removed && (named || !sandbox.protect);
            aside.orphans.push(Orphan {
                name: name.clone(),
                file: sandbox.origin_file.clone(),
                removed,
            });
        }
        let asked = if options.names.is_empty() {
            declared || options.remove_orphans || matches!(options.intent, Intent::Remove { .. })
        } else {
            named
        };
        if !asked {
            continue;
        }
        let cause = if declared || named { Cause::Requested } else { Cause::NotDeclared };
        let mut ending = Ending::new(name, sandbox, cause);
        ending.confirms = sandbox.protect && named;
        match options.intent {
            Intent::Remove { force } => {
                if sandbox.is_live() && !force {
                    if named {
                        let status = sandbox.status;
                        return Err(PlanError::StillRuns { name: name.clone(), status });
                    }
                    continue;
                }
                ending.removes = true;
            }
            Intent::Down { .. } => ending.removes = true,
            Intent::Up | Intent::Start | Intent::Stop | Intent::Restart => {}
        }
        if ending.removes && sandbox.protect && !named {
            ending.removes = false;
            aside.withheld.push(protected(name, ending.cause.clone()));
            if matches!(options.intent, Intent::Remove { .. }) {
                continue;
            }
        }
        endings.push(ending);
    }
    add_steps(&mut endings, options.grace, drafts, aside);
    order_stops(&mut endings, drafts);
    if let Intent::Down { volumes: true } = options.intent {
        remove_volumes(desired, observed, options, &endings, drafts, aside);
    }
    Ok(())
}

/// Lists orphans, and adds the steps of those that `up` removes. `stopping` tells, by name, the
/// stop of a declared sandbox whose earlier form depended on others.
pub(super) fn orphans(
    desired: &Desired<'_>,
    observed: &ObservedState,
    options: &PlanOptions,
    stopping: &BTreeMap<&Name, (DraftId, &[Name])>,
    drafts: &mut Drafts,
    aside: &mut Aside,
) -> Result<(), PlanError> {
    let declared = &desired.project.sandboxes;
    if options.remove_orphans
        && declared.is_empty()
        && !observed.sandboxes.is_empty()
        && !options.allow_empty
    {
        return Err(PlanError::WouldEmpty { count: observed.sandboxes.len() });
    }
    let mut endings = Vec::new();
    for (name, sandbox) in &observed.sandboxes {
        if declared.contains_key(name) {
            continue;
        }
        let removed = options.remove_orphans && !sandbox.protect;
        let file = sandbox.origin_file.clone();
        aside.orphans.push(Orphan { name: name.clone(), file, removed });
        if removed {
            let mut ending = Ending::new(name, sandbox, Cause::NotDeclared);
            ending.removes = true;
            endings.push(ending);
        } else if options.remove_orphans {
            aside.withheld.push(protected(name, Cause::NotDeclared));
        }
    }
    add_steps(&mut endings, options.grace, drafts, aside);
    order_stops(&mut endings, drafts);
    let stops: BTreeMap<&Name, DraftId> =
        endings.iter().filter_map(|ending| Some((ending.name, ending.stop?))).collect();
    for (stop, dependencies) in stopping.values() {
        for orphan in dependencies.iter().filter_map(|name| stops.get(name)) {
            drafts.order(*stop, *orphan, Follows::End);
        }
    }
    Ok(())
}

fn protected(name: &Name, cause: Cause) -> Withheld {
    Withheld {
        resource: ResourceId::Sandbox(name.clone()),
        cause,
        reason: WithheldReason::ProtectedRemove,
        origin: None,
    }
}

fn check_names(
    desired: &Desired<'_>,
    observed: &ObservedState,
    options: &PlanOptions,
) -> Result<(), PlanError> {
    let project = desired.project;
    let known =
        |name: &Name| observed.sandboxes.contains_key(name) || project.sandboxes.contains_key(name);
    match options.names.iter().find(|name| !known(name)) {
        Some(name) => Err(PlanError::Unknown { name: name.clone(), project: project.name.clone() }),
        None => Ok(()),
    }
}

fn add_steps(
    endings: &mut [Ending<'_>],
    grace: Option<Millis>,
    drafts: &mut Drafts,
    aside: &mut Aside,
) {
    for ending in endings {
        let resource = ResourceId::Sandbox(ending.name.clone());
        let id = &ending.observed.id;
        let mut add = |action: Action, confirm: bool| {
            let mut draft = Draft::new(action, resource.clone(), ending.cause.clone());
            draft.needs_confirmation = confirm;
            drafts.add(draft)
        };
        if ending.observed.is_live() {
            ending.stop = Some(add(Action::StopSandbox { id: id.clone(), grace }, false));
        }
        if ending.removes {
            let remove = add(Action::RemoveSandbox { id: id.clone() }, ending.confirms);
            ending.remove = Some(remove);
        }
        drafts.need(ending.stop, ending.remove);
        match (ending.stop, ending.remove) {
            (_, Some(_)) => aside.summary.remove += 1,
            (Some(_), None) => aside.summary.stop += 1,
            (None, None) => aside.summary.unchanged += 1,
        }
    }
}

/// A sandbox stops once those that depend on it have ended, well or not: one that cannot be
/// stopped does not keep the others running.
fn order_stops(endings: &mut [Ending<'_>], drafts: &mut Drafts) {
    let position: BTreeMap<&Name, usize> =
        endings.iter().enumerate().map(|(position, ending)| (ending.name, position)).collect();
    let mut edges = Vec::new();
    for (dependent, ending) in endings.iter().enumerate() {
        let outline = ending.outline.iter();
        for name in outline.flat_map(|outline| outline.depends_on.keys()) {
            edges.extend(position.get(name).map(|&dependency| (dependent, dependency)));
        }
    }
    for (dependent, dependency) in without_cycles(endings.len(), edges) {
        if let (Some(earlier), Some(later)) = (endings[dependent].stop, endings[dependency].stop) {
            drafts.order(earlier, later, Follows::End);
        }
    }
}

/// Removes the declared volumes that exist, and with orphans those that are not declared, but for
/// those that are protected, external, or mounted by a sandbox that stays. With names, only declared
/// ones that the named sandboxes mount.
fn remove_volumes(
    desired: &Desired<'_>,
    observed: &ObservedState,
    options: &PlanOptions,
    endings: &[Ending<'_>],
    drafts: &mut Drafts,
    aside: &mut Aside,
) {
    let mut users: BTreeMap<&Name, Vec<DraftId>> = BTreeMap::new();
    let mut removed = BTreeSet::new();
    for ending in endings {
        let Some(remove) = ending.remove else { continue };
        removed.insert(ending.name);
        for volume in ending.outline.iter().flat_map(Outline::volumes) {
            users.entry(volume).or_default().push(remove);
        }
    }
    let mut kept = BTreeSet::new();
    for (name, sandbox) in &observed.sandboxes {
        if !removed.contains(name)
            && let Ok(outline) = Outline::read(name, sandbox)
        {
            kept.extend(outline.volumes().cloned());
        }
    }
    for (name, volume) in &observed.volumes {
        let spec = desired.project.volumes.get(name);
        let mounted = users.get(name);
        let asked = match spec {
            Some(spec) => !spec.external && (options.names.is_empty() || mounted.is_some()),
            None => options.remove_orphans && options.names.is_empty(),
        };
        if !asked {
            continue;
        }
        let resource = ResourceId::Volume(name.clone());
        let reason = if volume.protect || spec.is_some_and(|spec| spec.protect) {
            Some(WithheldReason::ProtectedRemove)
        } else if kept.contains(name) {
            Some(WithheldReason::VolumeInUse)
        } else {
            None
        };
        if let Some(reason) = reason {
            let origin = desired.origins.get(&format!("volume.{name}"));
            aside.withheld.push(Withheld { resource, cause: Cause::Requested, reason, origin });
            continue;
        }
        let mut draft = Draft::new(Action::RemoveVolume, resource, Cause::Requested);
        draft.needs_confirmation = true;
        let remove = drafts.add(draft);
        for user in mounted.into_iter().flatten() {
            drafts.order(*user, remove, Follows::Success);
        }
    }
}
