//! Cuts what is to be done into steps and puts the edges between them.
//!
//! Which edges between sandboxes there are (`x` depends on `y`):
//!
//! | earlier | later | |
//! |---|---|---|
//! | start of `y`, or its awaited condition | start of `x` | soft where the dependency is not required |
//! | the same | stop of `x` | so that `x` serves until its own turn; not where anything below `x` stops |
//! | stop of `x` | stop of `y` | soft; hard where `x` is stopped only because `y` starts anew |
//! | pull for `y` | stop of `x` | where both stop: no stop for a replacement that cannot come |
//!
//! The second row is what could close a circle with the third, hence its exception: `early` is
//! true of a sandbox below which something stops. Early stops wait for nothing but pulls and other
//! early stops, which lie further up; everything else points down.

use std::collections::BTreeMap;

use crate::spec::{Condition, Image, Millis, Name, Origins, ResourceId, VolumeSpec};

use super::graph::{Draft, DraftId, Drafts, Follows};
use super::node::{Node, Work};
use super::{Action, Cause};

/// The steps of one sandbox.
#[derive(Clone, Copy, Default)]
pub(super) struct Track {
    pull: Option<DraftId>,
    pub(super) stop: Option<DraftId>,
    remove: Option<DraftId>,
    update: Option<DraftId>,
    create: Option<DraftId>,
    pub(super) start: Option<DraftId>,
    awaits: [Option<DraftId>; 3],
}

impl Track {
    /// The first step that changes anything about the sandbox.
    fn first(&self) -> Option<DraftId> {
        self.stop.or(self.remove).or(self.update).or(self.create).or(self.start)
    }
}

/// What holds for all sandboxes.
pub(super) struct Frame<'a> {
    /// Where things are declared.
    pub(super) origins: &'a Origins,
    /// Declared volumes that do not exist.
    pub(super) missing_volumes: BTreeMap<&'a Name, &'a VolumeSpec>,
    pub(super) wait: bool,
    pub(super) grace: Option<Millis>,
}

/// Adds the steps of `nodes`, in `order`, and returns them by node.
pub(super) fn assemble(
    nodes: &[Node<'_>],
    order: &[usize],
    frame: &Frame<'_>,
    drafts: &mut Drafts,
) -> Vec<Track> {
    let mut assembly = Assembly {
        nodes,
        frame,
        drafts,
        tracks: vec![Track::default(); nodes.len()],
        early: vec![false; nodes.len()],
        pulls: BTreeMap::new(),
        volumes: BTreeMap::new(),
    };
    for &position in order {
        assembly.early[position] = assembly.is_early(&nodes[position]);
        if nodes[position].acted {
            assembly.own_steps(position);
            assembly.edges(position);
        }
    }
    assembly.tracks
}

struct Assembly<'n, 'a, 'd> {
    nodes: &'n [Node<'a>],
    frame: &'n Frame<'a>,
    drafts: &'d mut Drafts,
    tracks: Vec<Track>,
    early: Vec<bool>,
    pulls: BTreeMap<(String, Option<String>, Option<String>), DraftId>,
    volumes: BTreeMap<&'a Name, DraftId>,
}

impl<'a> Assembly<'_, 'a, '_> {
    fn is_early(&self, node: &Node<'_>) -> bool {
        node.links.iter().any(|link| {
            let below = &self.nodes[link.to];
            self.early[link.to]
                || below.stops()
                || below.yields()
                || (link.restart && below.new_run() && node.yields())
        })
    }

    /// Adds the steps of one sandbox and the edges among them.
    fn own_steps(&mut self, position: usize) {
        let node = &self.nodes[position];
        let volumes: Vec<DraftId> =
            node.volumes.iter().filter_map(|name| self.volume(name)).collect();
        if node.work == Work::Keep {
            self.await_if_asked(position);
            return;
        }
        let mut track = Track { pull: self.pull(node), ..Track::default() };
        let id = node.observed.map(|observed| observed.id.clone());
        if let Some(id) = id.clone().filter(|_| node.stops()) {
            let grace = self.frame.grace;
            track.stop = Some(self.add(node, Action::StopSandbox { id, grace }));
        }
        if let Some(id) = id.clone().filter(|_| node.work == Work::Replace) {
            let remove = self.add(node, Action::RemoveSandbox { id });
            // Protected and forced by name.
            let protect = node.observed.is_some_and(|observed| observed.protect);
            self.drafts.get_mut(remove).needs_confirmation = protect;
            track.remove = Some(remove);
        }
        match (node.work, &node.spec, id) {
            (Work::Create | Work::Replace, Some(spec), _) => {
                let action = Action::CreateSandbox {
                    spec: spec.clone(),
                    image_digest: node.image_digest.clone(),
                    origin_file: node.origin_file(),
                };
                track.create = Some(self.add(node, action));
            }
            (_, Some(spec), Some(id)) => {
                let action = Action::UpdateSandbox {
                    id,
                    spec: spec.clone(),
                    live: node.is_live() && !node.new_run(),
                    origin_file: node.origin_file(),
                };
                let cause = node.spec_cause.clone().unwrap_or_else(|| node.cause.clone());
                let draft = Draft::new(action, sandbox(node), cause).at(node.origin.clone());
                track.update = Some(self.drafts.add(draft));
            }
            _ => {}
        }
        if node.new_run() {
            let id = node.observed.map(|observed| observed.id.clone());
            let id = id.filter(|_| track.create.is_none());
            track.start = Some(self.add(node, Action::StartSandbox { id }));
        }
        self.chain(track);
        for volume in volumes {
            self.drafts.need(Some(volume), track.create.or(track.start));
        }
        self.tracks[position] = track;
        self.await_if_asked(position);
    }

    /// Orders the steps of one sandbox.
    fn chain(&mut self, track: Track) {
        let mut last = None;
        let steps = [track.stop, track.remove, track.update, track.create, track.start];
        for step in steps.into_iter().flatten() {
            self.drafts.need(last, Some(step));
            last = Some(step);
        }
        // A live update and the rows before a first run need no image.
        let needing = if track.start.is_some() { track.stop.or(track.remove) } else { None };
        self.drafts.need(track.pull, needing.or(track.create).or(track.start));
    }

    fn add(&mut self, node: &Node<'_>, action: Action) -> DraftId {
        let draft = Draft::new(action, sandbox(node), node.cause.clone());
        self.drafts.add(draft.at(node.origin.clone()))
    }

    /// The pull that a sandbox needs, shared by all that need the same content.
    fn pull(&mut self, node: &Node<'_>) -> Option<DraftId> {
        let need = node.image.as_ref()?;
        let Image { source, platform } = &need.image;
        let key = (source.to_string(), platform.clone(), need.digest.clone());
        let (drafts, origins) = (&mut *self.drafts, self.frame.origins);
        let id = self.pulls.entry(key).or_insert_with(|| {
            let action = Action::PullImage {
                image: need.image.clone(),
                policy: need.policy,
                digest: need.digest.clone(),
            };
            let resource = ResourceId::Image(source.to_string());
            let origin = origins.get(&format!("sandbox.{}.image", node.name));
            drafts.add(Draft::new(action, resource, Cause::Missing).at(origin))
        });
        Some(*id)
    }

    /// The creation of a volume that does not exist, shared by all that mount it.
    fn volume(&mut self, name: &Name) -> Option<DraftId> {
        let (name, spec) = self.frame.missing_volumes.get_key_value(name)?;
        let (drafts, origins) = (&mut *self.drafts, self.frame.origins);
        let id = self.volumes.entry(name).or_insert_with(|| {
            let action = Action::CreateVolume { spec: (*spec).clone() };
            let resource = ResourceId::Volume((*name).clone());
            let origin = origins.get(&format!("volume.{name}"));
            drafts.add(Draft::new(action, resource, Cause::Missing).at(origin))
        });
        Some(*id)
    }

    /// Edges to the sandboxes that this one depends on.
    fn edges(&mut self, position: usize) {
        let node = &self.nodes[position];
        let track = self.tracks[position];
        // What makes way: the stop, or the removal of a job's result before what it worked on.
        let down = track.stop.or(track.remove.filter(|_| node.yields()));
        for link in &node.links {
            let below = &self.nodes[link.to];
            if !below.acted {
                continue;
            }
            if let Some(start) = track.start {
                let ready = self.ready(link.to, link.condition, node.name, link.required);
                let follows = if link.required { Follows::Success } else { Follows::End };
                if let Some(ready) = ready {
                    self.drafts.order(ready, start, follows);
                    if let Some(down) = down.filter(|_| !self.early[position]) {
                        self.drafts.order(ready, down, follows);
                    }
                }
            }
            let Some(down) = down.filter(|_| below.new_run()) else { continue };
            let other = self.tracks[link.to];
            if node.yields() && link.restart {
                self.drafts.need(Some(down), other.first());
                self.drafts.need(other.pull, Some(down));
            } else if let Some(stop) = other.stop {
                self.drafts.order(down, stop, Follows::End);
                self.drafts.need(other.pull.filter(|_| link.required), Some(down));
            }
        }
    }

    /// The step after which a condition holds; none: it holds already.
    fn ready(
        &mut self,
        position: usize,
        condition: Condition,
        by: &Name,
        required: bool,
    ) -> Option<DraftId> {
        let node = &self.nodes[position];
        let start = self.tracks[position].start;
        if start.is_some() && condition == Condition::Started {
            return start;
        }
        if start.is_none() && node.satisfies(condition) {
            return None;
        }
        let id = self.awaiting(position, condition, Cause::Awaited { by: Vec::new() });
        let draft = self.drafts.get_mut(id);
        draft.optional &= !required;
        if let Cause::Awaited { by: names } = &mut draft.cause {
            if names.is_empty() {
                let path = format!("sandbox.{by}.depends_on.{}", node.name);
                draft.origin = self.frame.origins.get(&path);
            }
            names.push(by.clone());
        }
        Some(id)
    }

    fn awaiting(&mut self, position: usize, condition: Condition, cause: Cause) -> DraftId {
        let slot = condition as usize;
        if let Some(id) = self.tracks[position].awaits[slot] {
            return id;
        }
        let resource = sandbox(&self.nodes[position]);
        let mut draft = Draft::new(Action::AwaitSandbox { condition }, resource, cause);
        draft.optional = true;
        let id = self.drafts.add(draft);
        let track = self.tracks[position];
        self.drafts.need(track.start.or(track.update), Some(id));
        self.tracks[position].awaits[slot] = Some(id);
        id
    }

    /// With `--wait`, every sandbox is waited for. One that an earlier command left starting is
    /// waited for as long as its own start would have been.
    fn await_if_asked(&mut self, position: usize) {
        let node = &self.nodes[position];
        let started = self.tracks[position].start.is_some();
        if !started
            && let Some(observed) = node.observed.filter(|_| !node.satisfies(Condition::Started))
        {
            let cause = Cause::NotRunning { status: observed.status, exit_code: None };
            let id = self.awaiting(position, Condition::Started, cause);
            self.drafts.get_mut(id).optional = false;
        }
        let condition = if node.is_job {
            Condition::Completed
        } else if node.has_healthcheck {
            Condition::Healthy
        } else {
            return;
        };
        if self.frame.wait && (started || !node.satisfies(condition)) {
            let id = self.awaiting(position, condition, Cause::Requested);
            self.drafts.get_mut(id).optional = false;
        }
    }
}

fn sandbox(node: &Node<'_>) -> ResourceId {
    ResourceId::Sandbox(node.name.clone())
}
