//! Graphs: in which order sandboxes depend on each other, and steps on steps.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use petgraph::Direction;
use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use crate::spec::{Origin, ResourceId};

use super::{Action, Cause, Step, StepId};

/// Sorts `count` nodes so that each comes after those it depends on (`edges` are pairs of a node
/// and one it depends on), or says which nodes form a cycle, each depending on the next.
pub(super) fn dependency_order(
    count: usize,
    edges: &[(usize, usize)],
) -> Result<Vec<usize>, Vec<usize>> {
    let graph = dependency_graph(count, edges);
    let order = sorted(&graph);
    if order.len() < count {
        return Err(find_cycle(&graph));
    }
    Ok(order.into_iter().map(NodeIndex::index).collect())
}

/// Kahn's algorithm. Of the nodes that could come next the one added first does, so that the
/// result follows the order of names and of the steps of a sandbox. Shorter than the graph where
/// that has a cycle.
fn sorted<N, E>(graph: &DiGraph<N, E>) -> Vec<NodeIndex> {
    let mut waiting = vec![0_usize; graph.node_count()];
    for edge in graph.edge_references() {
        waiting[edge.target().index()] += 1;
    }
    let ready = graph.node_indices().filter(|id| waiting[id.index()] == 0);
    let mut ready: BinaryHeap<_> = ready.map(Reverse).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(Reverse(id)) = ready.pop() {
        order.push(id);
        for next in graph.neighbors(id) {
            waiting[next.index()] -= 1;
            if waiting[next.index()] == 0 {
                ready.push(Reverse(next));
            }
        }
    }
    order
}

/// Those of `edges` that lie on no cycle. Stored specs of different ages may contradict each
/// other, which must not keep a sandbox from being stopped.
pub(super) fn without_cycles(count: usize, edges: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    let graph = dependency_graph(count, &edges);
    let component = components(&graph);
    edges.into_iter().filter(|&(from, to)| component[from] != component[to]).collect()
}

fn dependency_graph(count: usize, edges: &[(usize, usize)]) -> DiGraph<(), ()> {
    let mut graph = DiGraph::with_capacity(count, edges.len());
    for _ in 0..count {
        graph.add_node(());
    }
    for &(dependent, dependency) in edges {
        graph.add_edge(NodeIndex::new(dependency), NodeIndex::new(dependent), ());
    }
    graph
}

/// The number of the strongly connected component of each node.
fn components(graph: &DiGraph<(), ()>) -> Vec<usize> {
    let mut component = vec![0; graph.node_count()];
    for (number, nodes) in kosaraju_scc(graph).into_iter().enumerate() {
        for node in nodes {
            component[node.index()] = number;
        }
    }
    component
}

/// Within a component of more than one node every node depends on another one of it, so walking
/// from any of them comes back to a node seen before.
fn find_cycle(graph: &DiGraph<(), ()>) -> Vec<usize> {
    let component = components(graph);
    let dependency_within = |node: NodeIndex| {
        graph
            .neighbors_directed(node, Direction::Incoming)
            .filter(|other| component[other.index()] == component[node.index()])
            .min()
    };
    let Some(start) = graph.node_indices().find(|&node| dependency_within(node).is_some()) else {
        return Vec::new();
    };
    let mut position = vec![None; graph.node_count()];
    let mut path = Vec::new();
    let mut node = start;
    while position[node.index()].is_none() {
        position[node.index()] = Some(path.len());
        path.push(node.index());
        node = dependency_within(node).unwrap_or(node);
    }
    path.split_off(position[node.index()].unwrap_or(0))
}

/// How a step follows another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// Only where it succeeded.
    Success,
    /// Wherever it ended.
    End,
}

/// A step without its number.
pub(super) struct Draft {
    pub(super) action: Action,
    pub(super) resource: ResourceId,
    pub(super) cause: Cause,
    pub(super) origin: Option<Origin>,
    pub(super) needs_confirmation: bool,
    pub(super) optional: bool,
}

impl Draft {
    pub(super) fn new(action: Action, resource: ResourceId, cause: Cause) -> Self {
        let (needs_confirmation, optional) = (false, false);
        Self { action, resource, cause, origin: None, needs_confirmation, optional }
    }

    /// With the place that it is about.
    pub(super) fn at(self, origin: Option<Origin>) -> Self {
        Self { origin, ..self }
    }
}

/// Steps being put together.
#[derive(Default)]
pub(super) struct Drafts {
    graph: DiGraph<Draft, Follows>,
}

/// A step of [`Drafts`].
pub(super) type DraftId = NodeIndex;

impl Drafts {
    pub(super) fn add(&mut self, draft: Draft) -> DraftId {
        self.graph.add_node(draft)
    }

    pub(super) fn get_mut(&mut self, id: DraftId) -> &mut Draft {
        &mut self.graph[id]
    }

    /// `later` comes after `earlier`.
    pub(super) fn order(&mut self, earlier: DraftId, later: DraftId, follows: Follows) {
        self.graph.add_edge(earlier, later, follows);
    }

    /// [`Drafts::order`] with [`Follows::Success`], where both exist.
    pub(super) fn need(&mut self, earlier: Option<DraftId>, later: Option<DraftId>) {
        if let (Some(earlier), Some(later)) = (earlier, later) {
            self.order(earlier, later, Follows::Success);
        }
    }

    /// Numbers the steps in topological order; among those that could come next, the one added
    /// first does. Err: the resources of steps that wait for each other.
    pub(super) fn finish(self) -> Result<Vec<Step>, Vec<ResourceId>> {
        let (mut needs, mut after) = (Vec::new(), Vec::new());
        let order = sorted(&self.graph);
        if order.len() < self.graph.node_count() {
            let placed: BTreeSet<_> = order.into_iter().collect();
            let left = self.graph.node_indices().filter(|id| !placed.contains(id));
            return Err(left.map(|id| self.graph[id].resource.clone()).collect());
        }
        let mut numbers = vec![StepId(0); order.len()];
        for (number, id) in (1..).zip(&order) {
            numbers[id.index()] = StepId(number);
        }
        for &id in &order {
            let earlier = |kind: Follows| {
                let edges = self.graph.edges_directed(id, Direction::Incoming);
                let matching = edges.filter(move |edge| *edge.weight() == kind);
                let mut ids: Vec<_> = matching.map(|edge| numbers[edge.source().index()]).collect();
                ids.sort_unstable();
                ids.dedup();
                ids
            };
            let hard = earlier(Follows::Success);
            let mut soft = earlier(Follows::End);
            soft.retain(|id| hard.binary_search(id).is_err());
            needs.push(hard);
            after.push(soft);
        }
        let (nodes, _) = self.graph.into_nodes_edges();
        let mut drafts: Vec<_> = nodes.into_iter().map(|node| Some(node.weight)).collect();
        let drafts = order.iter().filter_map(|id| drafts[id.index()].take());
        let edges = needs.into_iter().zip(after);
        let steps = (1..).zip(drafts.zip(edges)).map(|(number, (draft, (needs, after)))| Step {
            id: StepId(number),
            action: draft.action,
            resource: draft.resource,
            cause: draft.cause,
            origin: draft.origin,
            needs,
            after,
            needs_confirmation: draft.needs_confirmation,
            optional: draft.optional,
        });
        Ok(steps.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first() {
        let order = dependency_order(4, &[(0, 2), (2, 3), (1, 3)]).unwrap();
        let at = |node| order.iter().position(|&n| n == node).unwrap();
        assert!(at(3) < at(2) && at(2) < at(0) && at(3) < at(1));
    }

    #[test]
    fn a_cycle_is_named_without_what_leads_to_it() {
        let edges = [(0, 1), (1, 2), (2, 3), (3, 1), (4, 0)];
        let cycle = dependency_order(5, &edges).unwrap_err();
        assert_eq!(cycle.len(), 3);
        for (i, node) in cycle.iter().enumerate() {
            assert!(edges.contains(&(*node, cycle[(i + 1) % cycle.len()])));
        }
        assert_eq!(dependency_order(1, &[(0, 0)]), Err(vec![0]));
    }

    #[test]
    fn contradicting_edges_are_left_out() {
        assert_eq!(without_cycles(3, vec![(0, 1), (1, 0), (1, 2)]), [(1, 2)]);
    }
}
