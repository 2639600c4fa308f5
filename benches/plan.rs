//! Wall time of the planner alone: a project in which nothing changed, and one that is new.

use std::collections::{BTreeMap, BTreeSet};

use msb::plan::{
    Desired, DesiredImage, ObservedSandbox, ObservedState, Plan, PlanOptions, canonical_json, plan,
    spec_hash,
};
use msb::spec::{
    Condition, Dependency, Image, ImageSource, Name, Origins, Project, SandboxSpec, Status,
};

fn main() {
    divan::main();
}

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// How the sandboxes of a project depend on each other.
#[derive(Clone, Copy)]
enum Graph {
    /// Not at all.
    Flat,
    /// Layers of two, each sandbox on both of the layer before: as many paths as 2 to the layers.
    Ladder,
}

struct World {
    project: Project,
    selected: BTreeSet<Name>,
    images: BTreeMap<Name, DesiredImage>,
    observed: ObservedState,
    origins: Origins,
}

fn name(position: usize) -> Name {
    Name::new(format!("s{position:05}")).expect("a valid name")
}

fn world(graph: Graph, count: usize, exists: bool) -> World {
    let mut sandboxes = BTreeMap::new();
    for position in 0..count {
        let source = ImageSource::Oci("registry.example.com/team/app:1.2".to_owned());
        let mut spec = SandboxSpec::new(Image { source, platform: None });
        spec.env = [("PORT".to_owned(), "8080".to_owned())].into();
        spec.cmd = Some(vec!["serve".to_owned(), "--port".to_owned(), "8080".to_owned()]);
        let layer = position / 2 * 2;
        if matches!(graph, Graph::Ladder) && layer > 0 {
            for below in [layer - 2, layer - 1] {
                let dependency =
                    Dependency { condition: Condition::Started, required: true, restart: false };
                spec.depends_on.insert(name(below), dependency);
            }
        }
        sandboxes.insert(name(position), spec);
    }
    let mut observed = ObservedState::default();
    for (name, spec) in sandboxes.iter().filter(|_| exists) {
        let sandbox = ObservedSandbox {
            id: "0123456789ab".to_owned(),
            spec_json: canonical_json(spec).into(),
            spec_hash: spec_hash(spec),
            image_digest: Some(DIGEST.to_owned()),
            status: Status::Running,
            health: None,
            exit_code: None,
            protect: false,
            origin_file: None,
        };
        observed.sandboxes.insert(name.clone(), sandbox);
    }
    let known = || DesiredImage::Known { digest: DIGEST.to_owned() };
    World {
        selected: sandboxes.keys().cloned().collect(),
        images: sandboxes.keys().map(|name| (name.clone(), known())).collect(),
        project: Project {
            name: Name::new("bench").expect("a valid name"),
            root: "/bench".to_owned(),
            sandboxes,
            volumes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            registries: BTreeMap::new(),
        },
        observed,
        origins: Origins::default(),
    }
}

fn make_plan(world: &World) -> Plan {
    let desired = Desired {
        project: &world.project,
        origins: &world.origins,
        selected: &world.selected,
        images: &world.images,
    };
    plan(&desired, &world.observed, &PlanOptions::default()).expect("a plan")
}

#[divan::bench(args = [10, 100, 1000])]
fn unchanged_flat(bencher: divan::Bencher<'_, '_>, count: usize) {
    let world = world(Graph::Flat, count, true);
    bencher.bench_local(|| make_plan(&world));
}

#[divan::bench(args = [10, 100, 1000, 2000])]
fn unchanged_ladder(bencher: divan::Bencher<'_, '_>, count: usize) {
    let world = world(Graph::Ladder, count, true);
    bencher.bench_local(|| make_plan(&world));
}

#[divan::bench(args = [10, 100, 1000])]
fn new_ladder(bencher: divan::Bencher<'_, '_>, count: usize) {
    let world = world(Graph::Ladder, count, false);
    bencher.bench_local(|| make_plan(&world));
}
