//! What the volumes that sandboxes mount need.

use std::collections::{BTreeMap, BTreeSet};

use crate::spec::{GuestPath, Mount, MountSource, Name, ResourceId, VolumeKind, VolumeSpec};

use super::graph::{Draft, Drafts};
use super::teardown::Aside;
use super::{
    Action, Cause, ChangeClass, Desired, FieldChange, ObservedState, ObservedVolume, PlanError,
    VolumeProblem, Withheld, WithheldReason,
};

/// Adds the changes of the volumes that are mounted, and returns those that do not exist. One that
/// nobody mounts is left as it is, or not made.
pub(super) fn volumes<'a>(
    desired: &Desired<'a>,
    observed: &ObservedState,
    mounted: &BTreeSet<&Name>,
    drafts: &mut Drafts,
    aside: &mut Aside,
) -> Result<BTreeMap<&'a Name, &'a VolumeSpec>, PlanError> {
    let mut missing = BTreeMap::new();
    for (name, spec) in &desired.project.volumes {
        if !mounted.contains(name) {
            continue;
        }
        let refused = |problem| PlanError::Volume { name: name.clone(), problem };
        if spec.external {
            let found = observed.standalone.get(&name.local());
            let found = found.ok_or_else(|| refused(VolumeProblem::Missing))?;
            if found.kind == VolumeKind::Disk
                && let Some((sandbox, at)) = second_mount(desired, name)
            {
                return Err(refused(VolumeProblem::Twice { sandbox, at }));
            }
            continue;
        }
        let Some(found) = observed.volumes.get(name) else {
            missing.insert(name, spec);
            continue;
        };
        if found.kind != spec.kind {
            let (found, project) = (found.kind, desired.project.name.clone());
            return Err(refused(VolumeProblem::Kind { found, project }));
        }
        size(desired, name, spec, found, drafts, aside);
        rest(desired, name, spec, found, drafts);
    }
    Ok(missing)
}

/// Where a sandbox mounts the volume that mounts it elsewhere too.
fn second_mount(desired: &Desired<'_>, name: &Name) -> Option<(Name, GuestPath)> {
    desired.project.sandboxes.iter().find_map(|(sandbox, spec)| {
        let is_it = |mount: &Mount| matches!(&mount.source, MountSource::Named { volume, .. } if volume == name);
        let mut mounts = spec.volumes.iter().filter(|(_, mount)| is_it(mount));
        mounts.nth(1).map(|(at, _)| (sandbox.clone(), at.clone()))
    })
}

/// A volume grows and never shrinks.
fn size(
    desired: &Desired<'_>,
    name: &Name,
    spec: &VolumeSpec,
    found: &ObservedVolume,
    drafts: &mut Drafts,
    aside: &mut Aside,
) {
    let (Some(old), Some(new)) = (found.quota, spec.quota) else { return };
    if old == new {
        return;
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

/// Labels and protection are what the row says.
fn rest(
    desired: &Desired<'_>,
    name: &Name,
    spec: &VolumeSpec,
    found: &ObservedVolume,
    drafts: &mut Drafts,
) {
    let text = |labels: &BTreeMap<String, String>| {
        let pairs: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join(" "))
    };
    let fields = [
        ("labels", text(&found.labels), text(&spec.labels)),
        ("protect", Some(found.protect.to_string()), Some(spec.protect.to_string())),
    ];
    let changes: Vec<FieldChange> = fields
        .into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(path, old, new)| {
            let origin = desired.origins.get(&format!("volume.{name}.{path}"));
            FieldChange { path: path.to_owned(), old, new, class: ChangeClass::Live, origin }
        })
        .collect();
    if changes.is_empty() {
        return;
    }
    let origin = desired.origins.get(&format!("volume.{name}"));
    let cause = Cause::SpecChanged { changes: changes.into() };
    let action = Action::UpdateVolume { spec: spec.clone() };
    drafts.add(Draft::new(action, ResourceId::Volume(name.clone()), cause).at(origin));
}
