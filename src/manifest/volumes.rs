//! What can only be seen of volumes and sandboxes together: which volumes are external, and disks
//! that would be mounted by two at once.

use std::collections::BTreeMap;

use crate::spec::{Condition, MountSource, Name, Project, SandboxSpec, VolumeKind, VolumeSpec};

use super::lower::{Lower, VolumeUse};
use super::report::Problem;

pub(crate) fn check(lower: &mut Lower<'_>, project: &mut Project) {
    let uses = std::mem::take(&mut lower.volume_uses);
    let volumes = &project.volumes;
    for spec in project.sandboxes.values_mut() {
        for mount in spec.volumes.values_mut() {
            if let MountSource::Named { volume, external } = &mut mount.source {
                *external = volumes.get(volume).is_some_and(|spec| spec.external);
            }
        }
    }
    let is_disk = |spec: &VolumeSpec| spec.kind == VolumeKind::Disk && !spec.external;
    for (name, _) in project.volumes.iter().filter(|(_, spec)| is_disk(spec)) {
        let users: Vec<&VolumeUse> = uses.iter().filter(|used| used.volume == *name).collect();
        for (at, second) in users.iter().enumerate() {
            let clash = |first: &&&VolumeUse| clash(first, second, &project.sandboxes);
            if let Some(first) = users[..at].iter().find(clash) {
                lower.report(problem(first, second));
            }
        }
    }
}

/// Whether two mounts of a disk exclude each other and may be wanted at one time.
fn clash(first: &VolumeUse, second: &VolumeUse, sandboxes: &BTreeMap<Name, SandboxSpec>) -> bool {
    if first.sandbox == second.sandbox {
        return true;
    }
    if first.readonly && second.readonly {
        return false;
    }
    let (Some(a), Some(b)) = (sandboxes.get(&first.sandbox), sandboxes.get(&second.sandbox)) else {
        return false;
    };
    let alternatives = !a.profiles.is_empty()
        && !b.profiles.is_empty()
        && a.profiles.iter().all(|profile| !b.profiles.contains(profile));
    !alternatives
        && !starts_after(&first.sandbox, &second.sandbox, sandboxes)
        && !starts_after(&second.sandbox, &first.sandbox, sandboxes)
}

/// Whether `later` starts only once `earlier`, a job, has completed.
fn starts_after(later: &Name, earlier: &Name, sandboxes: &BTreeMap<Name, SandboxSpec>) -> bool {
    let mut open = vec![later];
    let mut seen = Vec::new();
    while let Some(name) = open.pop() {
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        let Some(spec) = sandboxes.get(name) else { continue };
        for (below, how) in &spec.depends_on {
            if below == earlier && how.condition == Condition::Completed {
                return true;
            }
            open.push(below);
        }
    }
    false
}

fn problem(first: &VolumeUse, second: &VolumeUse) -> Problem {
    let volume = &second.volume;
    if first.sandbox == second.sandbox {
        let message = format!("`{}` mounts the disk `{volume}` twice", second.sandbox);
        return Problem::new(second.span, message)
            .also(first.span, "mounted here already")
            .help("mount it once, above what needs it, or give it `kind = \"dir\"`");
    }
    let message = format!("the disk `{volume}` is mounted by two sandboxes that may run at once");
    let how = |used: &VolumeUse| if used.readonly { "reading" } else { "writing" };
    Problem::new(second.span, message)
        .label(format!("for {} by `{}`", how(second), second.sandbox))
        .also(first.span, format!("for {} by `{}`", how(first), first.sandbox))
        .help(
            "give the volume `kind = \"dir\"` to share it, mount it `readonly` in both, \
             or let one depend on the other's being `\"completed\"`",
        )
}
