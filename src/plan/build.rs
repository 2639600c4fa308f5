//! The planner's entry: from an intent to a finished plan.

use std::collections::{BTreeMap, BTreeSet};

use crate::spec::{Name, ResourceId, VolumeSpec};

use super::assemble::{Frame, Track, assemble};
use super::graph::{Draft, Drafts};
use super::node::{Node, Work};
use super::teardown::{Aside, orphans, teardown};
use super::up::Decided;
use super::{
    Action, Cause, ChangeClass, Desired, FieldChange, Intent, ObservedState, Plan, PlanError,
    PlanOptions, Summary, Withheld, WithheldReason, existing, up,
};

/// Decides what must change. Pure: see the module.
///
/// Takes time linear in the sandboxes, their edges and what differs between them (times a
/// logarithm for look-ups by name).
///
/// # Errors
/// See [`PlanError`]; nothing has been done then.
pub fn plan(
    desired: &Desired<'_>,
    observed: &ObservedState,
    options: &PlanOptions,
) -> Result<Plan, PlanError> {
    let mut drafts = Drafts::default();
    let mut aside = Aside::default();
    match options.intent {
        Intent::Up => plan_up(desired, observed, options, &mut drafts, &mut aside)?,
        Intent::Start | Intent::Restart => {
            let decided = existing::decide(desired, observed, options)?;
            let frame = Frame {
                origins: desired.origins,
                missing_volumes: BTreeMap::new(),
                wait: options.wait,
                grace: options.grace,
            };
            assemble(&decided.nodes, &decided.order, &frame, &mut drafts);
            count(&decided.nodes, &mut aside.summary);
        }
        Intent::Down { .. } | Intent::Stop | Intent::Remove { .. } => {
            teardown(desired, observed, options, &mut drafts, &mut aside)?;
        }
    }
    let steps = drafts.finish().map_err(|left| PlanError::Cycle { cycle: sandboxes(left) })?;
    Ok(Plan {
        project: desired.project.name.clone(),
        serial: observed.serial,
        steps,
        orphans: aside.orphans,
        withheld: aside.withheld,
        summary: aside.summary,
    })
}

fn plan_up(
    desired: &Desired<'_>,
    observed: &ObservedState,
    options: &PlanOptions,
    drafts: &mut Drafts,
    aside: &mut Aside,
) -> Result<(), PlanError> {
    let Decided { nodes, order, withheld } = up::decide(desired, observed, options)?;
    aside.withheld = withheld;
    let mounted: BTreeSet<&Name> =
        nodes.iter().flat_map(|node| node.volumes.iter().copied()).collect();
    let missing_volumes = volumes(desired, observed, &mounted, drafts, aside);
    let frame = Frame {
        origins: desired.origins,
        missing_volumes,
        wait: options.wait,
        grace: options.grace,
    };
    let tracks = assemble(&nodes, &order, &frame, drafts);
    count(&nodes, &mut aside.summary);
    let stopping = nodes
        .iter()
        .zip(&tracks)
        .filter_map(|(node, track): (_, &Track)| {
            Some((node.name, (track.stop?, node.old_dependencies.as_slice())))
        })
        .collect();
    orphans(desired, observed, options, &stopping, drafts, aside)
}

/// Grows the volumes that are mounted, and returns those that do not exist.
fn volumes<'a>(
    desired: &Desired<'a>,
    observed: &ObservedState,
    mounted: &BTreeSet<&Name>,
    drafts: &mut Drafts,
    aside: &mut Aside,
) -> BTreeMap<&'a Name, &'a VolumeSpec> {
    let mut missing = BTreeMap::new();
    for (name, spec) in &desired.project.volumes {
        if spec.external || !mounted.contains(name) {
            continue;
        }
        let Some(found) = observed.volumes.get(name) else {
            missing.insert(name, spec);
            continue;
        };
        let (Some(old), Some(new)) = (found.quota, spec.quota) else { continue };
        if old == new {
            continue;
        }
        let resource = ResourceId::Volume(name.clone());
        let origin = desired.origins.get(&format!("volume.{name}.quota"));
        let grows = new > old;
        let change = FieldChange {
            path: "quota".to_owned(),
            old: Some(old.to_string()),
            new: Some(new.to_string()),
            class: if grows { ChangeClass::Live } else { ChangeClass::Replace },
            origin: origin.clone(),
        };
        let cause = Cause::SpecChanged { changes: [change].into() };
        if grows {
            drafts.add(Draft::new(Action::GrowVolume { quota: new }, resource, cause).at(origin));
        } else {
            let reason = WithheldReason::VolumeShrink;
            aside.withheld.push(Withheld { resource, cause, reason, origin });
        }
    }
    missing
}

fn count(nodes: &[Node<'_>], summary: &mut Summary) {
    for node in nodes.iter().filter(|node| node.acted) {
        let field = match node.work {
            Work::Keep => &mut summary.unchanged,
            Work::Update => &mut summary.update,
            Work::Start => &mut summary.start,
            Work::Restart => &mut summary.restart,
            Work::Replace => &mut summary.replace,
            Work::Create => &mut summary.create,
        };
        *field += 1;
    }
}

fn sandboxes(resources: Vec<ResourceId>) -> Vec<Name> {
    let names = resources.into_iter().filter_map(|resource| match resource {
        ResourceId::Sandbox(name) => Some(name),
        ResourceId::Image(_) | ResourceId::Volume(_) => None,
    });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}
