//! `up`: what each declared sandbox needs to be as declared.

use std::sync::Arc;

use crate::spec::{ImageSource, Name, ResourceId, SandboxKind, SandboxSpec};

use super::diff::{Difference, IMAGE_DIGEST, Ignored, diff};
use super::graph::dependency_order;
use super::hash::hash_with;
use super::node::{ImageNeed, Link, Node, Work, not_running, volumes_of};
use super::{
    Cause, ChangeClass, Desired, DesiredImage, ObservedSandbox, ObservedState, PlanError,
    PlanOptions, PlannedSpec, SpecHash, Withheld, WithheldReason,
};

/// Sandboxes in dependency order of `order`, with what is to be done.
pub(super) struct Decided<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    /// Positions in `nodes`, dependencies first.
    pub(super) order: Vec<usize>,
    pub(super) withheld: Vec<Withheld>,
}

/// Decides for every declared sandbox.
pub(super) fn decide<'a>(
    desired: &Desired<'a>,
    observed: &'a ObservedState,
    options: &PlanOptions,
) -> Result<Decided<'a>, PlanError> {
    let sandboxes = &desired.project.sandboxes;
    check_names(desired, options)?;
    let names: Vec<&Name> = sandboxes.keys().collect();
    let mut nodes = Vec::with_capacity(names.len());
    let mut existing = observed.sandboxes.iter().peekable();
    for (name, spec) in sandboxes {
        while existing.next_if(|(other, _)| *other < name).is_some() {}
        let found = existing.next_if(|(other, _)| *other == name).map(|(_, sandbox)| sandbox);
        let mut node = Node::new(name, found);
        node.links = links(&names, spec);
        node.is_job = spec.kind == SandboxKind::Job;
        node.has_healthcheck = spec.healthcheck.is_some();
        node.acted = options.replace.contains(name)
            || if options.no_deps {
                options.names.contains(name)
            } else {
                desired.selected.contains(name)
            };
        nodes.push(node);
    }
    let order = sorted(&nodes)?;
    let specs: Vec<&SandboxSpec> = sandboxes.values().collect();
    let mut decider = Decider { desired, options, withheld: Vec::new(), buffer: Vec::new() };
    for &position in &order {
        if nodes[position].acted {
            decider.sandbox(&mut nodes, position, specs[position])?;
        }
    }
    Ok(Decided { nodes, order, withheld: decider.withheld })
}

/// Positions of nodes, dependencies first.
pub(super) fn sorted(nodes: &[Node<'_>]) -> Result<Vec<usize>, PlanError> {
    let edges: Vec<_> = nodes
        .iter()
        .enumerate()
        .flat_map(|(from, node)| node.links.iter().map(move |link| (from, link.to)))
        .collect();
    dependency_order(nodes.len(), &edges).map_err(|cycle| PlanError::Cycle {
        cycle: cycle.into_iter().map(|position| nodes[position].name.clone()).collect(),
    })
}

fn check_names(desired: &Desired<'_>, options: &PlanOptions) -> Result<(), PlanError> {
    let project = desired.project;
    let mut named = options.names.iter().chain(&options.replace);
    match named.find(|name| !project.sandboxes.contains_key(name)) {
        Some(name) => Err(PlanError::Unknown { name: name.clone(), project: project.name.clone() }),
        None => Ok(()),
    }
}

fn links(names: &[&Name], spec: &SandboxSpec) -> Vec<Link> {
    let found = spec.depends_on.iter().filter_map(|(name, dependency)| {
        let to = names.binary_search(&name).ok()?;
        Some(Link {
            to,
            condition: dependency.condition,
            required: dependency.required,
            restart: dependency.restart,
        })
    });
    found.collect()
}

struct Decider<'d, 'a> {
    desired: &'d Desired<'a>,
    options: &'d PlanOptions,
    withheld: Vec<Withheld>,
    buffer: Vec<u8>,
}

/// What is different about a sandbox, and what acting on that takes.
struct Due {
    class: ChangeClass,
    cause: Cause,
}

impl<'a> Decider<'_, 'a> {
    /// Decides for one sandbox; those it depends on have been decided.
    fn sandbox(
        &mut self,
        nodes: &mut [Node<'a>],
        position: usize,
        spec: &'a SandboxSpec,
    ) -> Result<(), PlanError> {
        let hash = hash_with(spec, &mut self.buffer);
        let node = &mut nodes[position];
        node.volumes = volumes_of(spec).collect();
        match node.observed {
            None => self.create(node, spec, hash),
            Some(observed) => {
                self.existing(node, spec, hash, observed)?;
                self.follow(nodes, position, spec, hash);
            }
        }
        self.prepare(&mut nodes[position], spec);
        Ok(())
    }

    fn create(&mut self, node: &mut Node<'a>, spec: &SandboxSpec, hash: SpecHash) {
        node.work = Work::Create;
        node.cause = Cause::Missing;
        node.spec = Some(PlannedSpec::new(Arc::new(spec.clone()), hash));
    }

    fn existing(
        &mut self,
        node: &mut Node<'a>,
        spec: &SandboxSpec,
        hash: SpecHash,
        observed: &ObservedSandbox,
    ) -> Result<(), PlanError> {
        let difference = if hash == observed.spec_hash {
            None
        } else {
            Some(diff(node.name, &observed.spec_json, spec, hash, self.desired.origins)?)
        };
        let (due, planned) = self.due(node, spec, observed, difference)?;
        let idle = not_running(observed, node.is_job && !self.options.again.contains(node.name));
        let class = due.as_ref().map(|due| due.class);
        let due_cause = due.map(|due| due.cause);
        node.work = match class {
            Some(ChangeClass::Replace) => Work::Replace,
            Some(ChangeClass::Restart) if node.is_live() => Work::Restart,
            Some(ChangeClass::Restart) => Work::Start,
            _ if idle.is_some() => Work::Start,
            Some(ChangeClass::Live) => Work::Update,
            None => Work::Keep,
        };
        let run_cause = match class {
            Some(ChangeClass::Live) | None => idle,
            Some(ChangeClass::Restart | ChangeClass::Replace) => None,
        };
        if due_cause.is_some() {
            node.spec = planned.or_else(|| {
                (node.work == Work::Replace).then(|| PlannedSpec::new(Arc::new(spec.clone()), hash))
            });
        }
        node.spec_cause = due_cause.clone();
        if let Some(cause) = run_cause.or(due_cause) {
            node.cause = cause;
        }
        Ok(())
    }

    /// What is due for a sandbox that exists, and the spec to write where that differs.
    fn due(
        &mut self,
        node: &mut Node<'a>,
        spec: &SandboxSpec,
        observed: &ObservedSandbox,
        difference: Option<Difference>,
    ) -> Result<(Option<Due>, Option<PlannedSpec>), PlanError> {
        let forced = self.options.replace.contains(node.name);
        let new_digest = self.desired.images.get(node.name).and_then(DesiredImage::digest);
        let old_digest = observed.image_digest.as_deref();
        let (mut changes, planned) = match difference {
            Some(found) => {
                node.old_dependencies = found.old_dependencies;
                (found.changes, Some(found.spec))
            }
            None => (Vec::new(), None),
        };
        if new_digest.is_some() && new_digest == old_digest {
            let same_content = |path: &str| path == "image" || path.starts_with("image.");
            for change in changes.iter_mut().filter(|change| same_content(&change.path)) {
                change.class = ChangeClass::Live;
            }
        }
        let class = changes.iter().map(|change| change.class).max();
        let moved = match (old_digest, new_digest) {
            (Some(old), Some(new)) if old != new => {
                !Ignored::new(node.name, &spec.lifecycle.ignore)?.covers(IMAGE_DIGEST)
            }
            _ => false,
        };
        let spec_changed = |changes: Vec<_>| Cause::SpecChanged { changes: changes.into() };
        let due = if class == Some(ChangeClass::Replace) {
            Due { class: ChangeClass::Replace, cause: spec_changed(changes) }
        } else if moved {
            let text = |digest: Option<&str>| digest.unwrap_or_default().to_owned();
            let path = match &spec.image.source {
                ImageSource::Oci(_) => None,
                local => Some(local.to_string()),
            };
            let cause = Cause::ImageMoved { old: text(old_digest), new: text(new_digest), path };
            Due { class: ChangeClass::Replace, cause }
        } else if forced {
            Due { class: ChangeClass::Replace, cause: Cause::Forced }
        } else if let Some(class) = class {
            Due { class, cause: spec_changed(changes) }
        } else {
            return Ok((None, None));
        };
        if due.class == ChangeClass::Replace && spec.lifecycle.protect && !forced {
            self.withhold(node.name, due.cause);
            return Ok((None, None));
        }
        Ok((Some(due), planned))
    }

    fn withhold(&mut self, name: &Name, cause: Cause) {
        self.withheld.push(Withheld {
            resource: ResourceId::Sandbox(name.clone()),
            cause,
            reason: WithheldReason::ProtectedReplace,
            origin: self.desired.origins.get(&format!("sandbox.{name}")),
        });
    }

    /// A sandbox that would stay as it is restarts with what it depends on, where it says so. A
    /// completed job keeps its result unless what it worked on has a new disk.
    fn follow(
        &mut self,
        nodes: &mut [Node<'a>],
        position: usize,
        spec: &SandboxSpec,
        hash: SpecHash,
    ) {
        let node = &nodes[position];
        if node.new_run() {
            return;
        }
        let completed = node.completed();
        let renewed = |work: Work| match work {
            Work::Create | Work::Replace => true,
            Work::Start | Work::Restart => !completed,
            Work::Keep | Work::Update => false,
        };
        let mut following = node.links.iter().filter(|link| link.restart);
        let Some(link) = following.find(|link| renewed(nodes[link.to].work)) else { return };
        let cause = Cause::DependencyReplaced { dependency: nodes[link.to].name.clone() };
        let node = &mut nodes[position];
        if !completed {
            node.work = Work::Restart;
        } else if spec.lifecycle.protect {
            self.withhold(node.name, cause);
            return;
        } else {
            node.work = Work::Replace;
            let planned = || PlannedSpec::new(Arc::new(spec.clone()), hash);
            node.spec = Some(node.spec.take().unwrap_or_else(planned));
        }
        node.cause = cause;
    }

    /// What its steps carry beside the spec.
    fn prepare(&mut self, node: &mut Node<'a>, spec: &SandboxSpec) {
        if node.work == Work::Keep {
            return;
        }
        node.origin = self.desired.origins.get(&format!("sandbox.{}", node.name));
        let resolved = self.desired.images.get(node.name).unwrap_or(&DesiredImage::Missing);
        let need = |digest: Option<String>| ImageNeed {
            image: spec.image.clone(),
            policy: spec.pull_policy,
            digest,
        };
        match node.work {
            Work::Create | Work::Replace => {
                node.image_digest = resolved.digest().map(str::to_owned);
                node.image = match resolved {
                    DesiredImage::Known { .. } => None,
                    DesiredImage::Remote { .. } | DesiredImage::Missing => {
                        Some(need(node.image_digest.clone()))
                    }
                };
            }
            Work::Start | Work::Restart => {
                let disk = node.observed.and_then(|observed| observed.image_digest.clone());
                node.image = match resolved {
                    DesiredImage::Known { .. } => None,
                    DesiredImage::Remote { digest } if disk.as_ref() == Some(digest) => {
                        Some(need(disk))
                    }
                    // A change of the reference that is withheld or ignored: the disk belongs to
                    // the content of another one.
                    DesiredImage::Remote { .. } => None,
                    DesiredImage::Missing => Some(need(disk)),
                };
            }
            Work::Keep | Work::Update => {}
        }
    }
}
