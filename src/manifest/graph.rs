//! What can only be seen across sandboxes: dependency cycles and conditions that cannot come true.

use std::collections::{BTreeMap, HashMap};

use crate::spec::{Condition, Name, SandboxKind, SandboxSpec};

use super::lower::{Edge, Lower};
use super::report::{Problem, Span};

/// The most cycles that are described.
const MAX_CYCLES: usize = 20;

/// A way from sandbox to sandbox: where it goes and where that is stated.
type Step = (usize, Span);

pub(crate) fn check(lower: &mut Lower<'_>, sandboxes: &BTreeMap<Name, SandboxSpec>) {
    let edges = std::mem::take(&mut lower.edges);
    check_conditions(lower, sandboxes, &edges);
    let names: Vec<&Name> = edges.iter().flat_map(|edge| [&edge.from, &edge.to]).collect();
    let mut ids: HashMap<&Name, usize> = HashMap::new();
    let mut by_id: Vec<&Name> = Vec::new();
    for name in names {
        ids.entry(name).or_insert_with(|| {
            by_id.push(name);
            by_id.len() - 1
        });
    }
    let mut next: Vec<Vec<Step>> = vec![Vec::new(); by_id.len()];
    for edge in &edges {
        next[ids[&edge.from]].push((ids[&edge.to], edge.span));
    }
    for cycle in cycles(&next) {
        report_cycle(lower, &cycle, &by_id);
    }
}

fn check_conditions(
    lower: &mut Lower<'_>,
    sandboxes: &BTreeMap<Name, SandboxSpec>,
    edges: &[Edge],
) {
    for edge in edges {
        let (Some(from), Some(to)) = (sandboxes.get(&edge.from), sandboxes.get(&edge.to)) else {
            continue;
        };
        let Some(dependency) = from.depends_on.get(&edge.to) else { continue };
        let problem = match dependency.condition {
            Condition::Healthy if to.healthcheck.is_none() => {
                Problem::new(edge.span, format!("`{}` can never become healthy", edge.to))
                    .label("it has no health check")
                    .help("give it a `healthcheck`, or depend on `\"started\"`")
            }
            Condition::Completed if to.kind != SandboxKind::Job => {
                Problem::new(edge.span, format!("`{}` never completes", edge.to))
                    .label("it is a service")
                    .help("make it `kind = \"job\"`, or depend on `\"started\"`")
            }
            Condition::Started | Condition::Healthy | Condition::Completed => continue,
        };
        lower.report(problem);
    }
}

/// Cycles, one for each edge that closes one in a depth-first walk.
fn cycles(next: &[Vec<Step>]) -> Vec<Vec<Step>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        OnPath,
        Done,
    }
    let mut seen = vec![Seen::No; next.len()];
    let mut found = Vec::new();
    for root in 0..next.len() {
        if seen[root] != Seen::No {
            continue;
        }
        // Where the walk is: a node, how it was reached, and its next edge.
        let mut path: Vec<(usize, Span, usize)> = vec![(root, Span::default(), 0)];
        seen[root] = Seen::OnPath;
        while let Some((node, _, at)) = path.last_mut() {
            let Some((to, span)) = next[*node].get(*at).copied() else {
                seen[*node] = Seen::Done;
                path.pop();
                continue;
            };
            *at += 1;
            match seen[to] {
                Seen::Done => {}
                Seen::No => {
                    seen[to] = Seen::OnPath;
                    path.push((to, span, 0));
                }
                Seen::OnPath if found.len() < MAX_CYCLES => {
                    let start = path.iter().position(|(node, ..)| *node == to).unwrap_or(0);
                    let mut cycle: Vec<Step> =
                        path[start + 1..].iter().map(|(node, span, _)| (*node, *span)).collect();
                    cycle.push((to, span));
                    found.push(cycle);
                }
                Seen::OnPath => {}
            }
        }
    }
    found
}

fn report_cycle(lower: &mut Lower<'_>, cycle: &[Step], names: &[&Name]) {
    let Some((last, _)) = cycle.last() else { return };
    let start = names[*last];
    let way: Vec<_> = [start].into_iter().chain(cycle.iter().map(|(to, _)| names[*to])).collect();
    let text = way.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" -> ");
    let message = if cycle.len() == 1 {
        format!("`{start}` depends on itself")
    } else {
        format!("dependency cycle: {text}")
    };
    let edges = way.windows(2).zip(cycle);
    let mut labels =
        edges.map(|(pair, (_, span))| (*span, format!("`{}` depends on `{}`", pair[0], pair[1])));
    let Some((span, label)) = labels.next() else { return };
    let problem = Problem::new(span, message).label(label).help("remove one of these dependencies");
    let problem = labels.fold(problem, |problem, (span, label)| problem.also(span, label));
    lower.report(problem);
}
