//! The planner's entry: from an intent to a finished plan.

use std::collections::{BTreeMap, BTreeSet};

use crate::spec::{Name, ResourceId};

use super::assemble::{Frame, Track, assemble};
use super::graph::Drafts;
use super::node::{Node, Work};
use super::teardown::{Aside, orphans, teardown};
use super::up::Decided;
use super::volumes::volumes;
use super::{Desired, Intent, ObservedState, Plan, PlanError, PlanOptions, Summary, existing, up};

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
    let missing_volumes = volumes(desired, observed, &mounted, drafts, aside)?;
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
