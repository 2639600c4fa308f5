//! What must hold of planning and executing, on machines and projects made at random.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::plan::{
    Action, ChangeClass, Desired, ObservedVolume, Plan, PlanError, PlanOptions, WithheldReason,
    plan, spec_hash,
};
use crate::spec::{
    ByteSize, Condition, Dependency, GuestPath, HealthCheck, Image, ImageSource, Millis, Mount,
    MountSource, Name, Origins, Patch, Probe, Project, ResourceId, SandboxKind, SandboxSpec,
    Status, VolumeKind, VolumeSpec,
};

use super::{ExecuteOptions, FakeHost, Host, Outcome, Silent, StepState, execute};

/// Stands for a value that must not be shown.
const SECRET: &str = "s3cr3t";

fn name(position: usize) -> Name {
    Name::new(format!("s{position:02}")).unwrap()
}

/// How to make one sandbox that depends on some of those before it.
#[derive(Clone, Debug)]
struct Shape {
    job: bool,
    health: bool,
    image: u8,
    links: Vec<(Index, Condition, bool, bool)>,
    /// Which of [`VOLUMES`] it mounts.
    volumes: BTreeSet<usize>,
}

/// Volumes of every project: the second is protected, the last external.
const VOLUMES: usize = 4;
const PROTECTED: usize = 1;
const EXTERNAL: usize = 3;

fn volume(position: usize) -> Name {
    Name::new(format!("v{position}")).unwrap()
}

fn shape(restart: bool) -> impl Strategy<Value = Shape> {
    let condition =
        prop_oneof![Just(Condition::Started), Just(Condition::Healthy), Just(Condition::Completed)];
    let restarts = if restart { any::<bool>().boxed() } else { Just(false).boxed() };
    let link = (any::<Index>(), condition, prop::bool::weighted(0.8), restarts);
    let volumes = prop::collection::btree_set(0..VOLUMES, 0..3);
    (prop::bool::weighted(0.3), any::<bool>(), 0..3u8, vec(link, 0..4), volumes).prop_map(
        |(job, health, image, links, volumes)| {
            let health = health && !job;
            Shape { job, health, image, links, volumes }
        },
    )
}

fn shapes(restart: bool) -> impl Strategy<Value = Vec<Shape>> {
    vec(shape(restart), 1..9)
}

fn project(shapes: &[Shape]) -> Project {
    let mut sandboxes: BTreeMap<Name, SandboxSpec> = BTreeMap::new();
    for (position, shape) in shapes.iter().enumerate() {
        let source = ImageSource::Oci(format!("image{}", shape.image));
        let mut spec = SandboxSpec::new(Image { source, platform: None });
        spec.kind = if shape.job { SandboxKind::Job } else { SandboxKind::Service };
        spec.env = [("TOKEN".to_owned(), SECRET.to_owned())].into();
        spec.healthcheck = shape.health.then(|| HealthCheck {
            probe: Probe::Exec(vec!["true".to_owned()]),
            interval: Millis::from_secs(1),
            timeout: Millis::from_secs(1),
            retries: 1,
            start_period: Millis::from_secs(0),
        });
        for &position in &shape.volumes {
            let path = GuestPath::new(&format!("/v{position}")).unwrap();
            let external = position == EXTERNAL;
            let source = MountSource::Named { volume: volume(position), external };
            spec.volumes.insert(path, Mount { source, readonly: false });
        }
        for (index, condition, required, restart) in &shape.links {
            if position == 0 {
                break;
            }
            let to = name(index.index(position));
            // What the manifest holds a Sandboxfile to.
            let other = &sandboxes[&to];
            let condition = match condition {
                Condition::Completed if other.kind != SandboxKind::Job => Condition::Started,
                Condition::Healthy if other.healthcheck.is_none() => Condition::Started,
                condition => *condition,
            };
            let dependency = Dependency { condition, required: *required, restart: *restart };
            spec.depends_on.insert(to, dependency);
        }
        sandboxes.insert(name(position), spec);
    }
    Project {
        name: Name::new("shop").unwrap(),
        root: "/shop".to_owned(),
        sandboxes,
        volumes: (0..VOLUMES).map(|position| (volume(position), volume_spec(position))).collect(),
        secrets: BTreeMap::new(),
        registries: BTreeMap::new(),
    }
}

fn volume_spec(position: usize) -> VolumeSpec {
    VolumeSpec {
        kind: VolumeKind::Disk,
        quota: Some(ByteSize::from_mib(64)),
        labels: BTreeMap::new(),
        protect: position == PROTECTED,
        external: position == EXTERNAL,
    }
}

/// A machine with the volume that is external to every project.
fn new_host() -> FakeHost {
    let host = FakeHost::new();
    let standalone = ObservedVolume {
        kind: VolumeKind::Dir,
        quota: None,
        labels: BTreeMap::new(),
        protect: false,
    };
    host.machine().standalone.insert(volume(EXTERNAL), standalone);
    host
}

/// Edits of volumes: each grows, and gets a label.
fn edit_volumes(project: &mut Project, positions: &[usize]) {
    for position in positions {
        let Some(spec) = project.volumes.get_mut(&volume(*position)) else { continue };
        spec.quota = spec.quota.map(|quota| ByteSize::from_mib(quota.mib() + 64));
        spec.labels.insert("edited".to_owned(), "yes".to_owned());
    }
}

/// One edit of a Sandboxfile.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Label,
    Memory,
    Secret,
    Image,
    Patch,
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        Just(Edit::Label),
        Just(Edit::Memory),
        Just(Edit::Secret),
        Just(Edit::Image),
        Just(Edit::Patch)
    ]
}

impl Edit {
    fn class(self) -> ChangeClass {
        match self {
            Self::Label => ChangeClass::Live,
            Self::Memory | Self::Secret => ChangeClass::Restart,
            Self::Image | Self::Patch => ChangeClass::Replace,
        }
    }

    fn apply(self, spec: &mut SandboxSpec) {
        match self {
            Self::Label => {
                spec.labels.insert("edited".to_owned(), "yes".to_owned());
            }
            Self::Memory => spec.memory = crate::spec::ByteSize::from_mib(spec.memory.mib() + 64),
            Self::Secret => {
                spec.env.insert("OTHER".to_owned(), format!("{SECRET}-2"));
            }
            Self::Image => spec.image.source = ImageSource::Oci("edited".to_owned()),
            Self::Patch => spec.patches.push(Patch::Text {
                path: "/etc/key".parse().unwrap(),
                content: SECRET.to_owned(),
                mode: None,
                replace: true,
            }),
        }
    }
}

/// One thing that happens to a machine behind the planner's back.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash,
    Stop,
    Vanish,
    ImageMoves,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![Just(Fault::Crash), Just(Fault::Stop), Just(Fault::Vanish), Just(Fault::ImageMoves)]
}

fn disturb(host: &FakeHost, project: &Project, faults: &[(Index, Fault)]) {
    let mut machine = host.machine();
    for (index, fault) in faults {
        let name = name(index.index(project.sandboxes.len()));
        match fault {
            Fault::Crash => machine.crash(&name),
            Fault::Stop => {
                if let Some(found) = machine.sandboxes.get_mut(&name)
                    && found.observed.is_live()
                {
                    found.observed.status = Status::Stopped;
                    found.observed.exit_code = Some(1);
                }
            }
            Fault::Vanish => {
                machine.sandboxes.remove(&name);
            }
            Fault::ImageMoves => {
                let reference = project.sandboxes[&name].image.source.to_string();
                let digest = format!("sha256:moved-{reference}");
                machine.cached.insert(digest.clone());
                machine.registry.insert(reference, digest);
            }
        }
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn make_plan(host: &FakeHost, project: &Project, options: &PlanOptions) -> Plan {
    let observed = run(host.observe(project)).unwrap();
    let images = host.images(project);
    let selected: BTreeSet<Name> = project.sandboxes.keys().cloned().collect();
    let origins = Origins::default();
    let desired = Desired { project, origins: &origins, selected: &selected, images: &images };
    plan(&desired, &observed, options).unwrap()
}

fn run_plan(host: &FakeHost, plan: &Plan, parallelism: usize) -> Outcome {
    let options = ExecuteOptions { parallelism, ..ExecuteOptions::default() };
    run(execute(plan, host, &options, &mut Silent))
}

fn up(host: &FakeHost, project: &Project) -> (Plan, Outcome) {
    run(host.recover(&project.name)).unwrap();
    let plan = make_plan(host, project, &PlanOptions::default());
    let outcome = run_plan(host, &plan, 3);
    (plan, outcome)
}

/// The machine is what the project says. `restarts`: the dependencies have been what they are for
/// as long as the sandboxes exist, so that each has followed the restarts of what it depends on.
fn check_converged(
    host: &FakeHost,
    project: &Project,
    restarts: bool,
) -> Result<(), TestCaseError> {
    let again = make_plan(host, project, &PlanOptions::default());
    prop_assert!(again.is_empty(), "not converged:\n{again}");
    let machine = host.machine();
    prop_assert_eq!(&machine.violations, &Vec::<String>::new());
    for spec in project.sandboxes.values() {
        for mount in spec.volumes.values() {
            let MountSource::Named { volume, external: false } = &mount.source else { continue };
            let (wanted, found) = (&project.volumes[volume], &machine.volumes[volume]);
            prop_assert_eq!((found.quota, &found.labels), (wanted.quota, &wanted.labels));
            prop_assert_eq!(found.protect, wanted.protect);
        }
    }
    prop_assert!(machine.debris.is_empty(), "left over: {:?}", machine.debris);
    for (name, spec) in &project.sandboxes {
        let found = &machine.sandboxes[name];
        prop_assert_eq!(found.observed.spec_hash, spec_hash(spec));
        let digest = machine.digest(&spec.image.source);
        prop_assert_eq!(found.observed.image_digest.as_ref(), Some(&digest));
        if spec.kind == SandboxKind::Job && !found.observed.is_live() {
            prop_assert_eq!(found.observed.exit_code, Some(0));
            continue;
        }
        prop_assert_eq!(found.observed.status, Status::Running);
        prop_assert_eq!(found.run_hash, Some(found.observed.spec_hash));
        for (to, _) in spec.depends_on.iter().filter(|(_, how)| how.restart && restarts) {
            let since = machine.sandboxes[to].started_at;
            prop_assert!(found.started_at > since, "{} missed the restart of {}", name, to);
        }
    }
    Ok(())
}

/// Every step comes after those it waits for, and each of the sandbox's own in its order.
fn check_sorted(plan: &Plan) -> Result<(), TestCaseError> {
    for (position, step) in plan.steps.iter().enumerate() {
        prop_assert_eq!(step.id.index(), position);
        for earlier in step.needs.iter().chain(&step.after) {
            prop_assert!(*earlier < step.id);
        }
    }
    Ok(())
}

fn check_no_secret(plan: &Plan) -> Result<(), TestCaseError> {
    let json = serde_json::to_string(plan).unwrap();
    for text in [plan.to_string(), json, format!("{plan:?}")] {
        prop_assert!(!text.contains(SECRET), "{text}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn converges_from_any_state(
        before in shapes(true), after in shapes(true), same in any::<bool>(),
        faults in vec((any::<Index>(), fault()), 0..4),
        edits in vec((any::<Index>(), edit()), 0..4), grown in vec(0..EXTERNAL, 0..3),
    ) {
        let host = new_host();
        let old = project(&before);
        let (first, outcome) = up(&host, &old);
        check_sorted(&first)?;
        prop_assert!(outcome.succeeded(&first), "{:?}", outcome.errors);
        check_converged(&host, &old, true)?;
        disturb(&host, &old, &faults);
        let mut new = if same { old } else { project(&after) };
        edit_volumes(&mut new, &grown);
        for (index, edit) in edits {
            let name = name(index.index(new.sandboxes.len()));
            edit.apply(new.sandboxes.get_mut(&name).unwrap());
        }
        let (second, outcome) = up(&host, &new);
        check_sorted(&second)?;
        check_no_secret(&second)?;
        prop_assert!(outcome.succeeded(&second), "{second}{:?}", outcome.errors);
        check_converged(&host, &new, same)?;
    }

    #[test]
    fn converges_after_a_crash_at_any_point(
        before in shapes(true), after in shapes(true), same in any::<bool>(),
        faults in vec((any::<Index>(), fault()), 0..4),
        edits in vec((any::<Index>(), edit()), 0..5),
        crashes in vec(0..60usize, 1..4), grown in vec(0..EXTERNAL, 0..3),
    ) {
        let host = new_host();
        let old = project(&before);
        up(&host, &old);
        disturb(&host, &old, &faults);
        let mut new = if same { old } else { project(&after) };
        edit_volumes(&mut new, &grown);
        for (index, edit) in edits {
            let name = name(index.index(new.sandboxes.len()));
            edit.apply(new.sandboxes.get_mut(&name).unwrap());
        }
        for points in crashes {
            host.machine().fail_power_after(points);
            let (plan, outcome) = up(&host, &new);
            let failed = host.machine().restore_power();
            prop_assert_eq!(!failed, outcome.succeeded(&plan));
        }
        let (last, outcome) = up(&host, &new);
        prop_assert!(outcome.succeeded(&last), "{last}{:?}", outcome.errors);
        check_converged(&host, &new, same)?;
    }

    #[test]
    fn only_dependents_of_a_failed_step_are_skipped(
        shapes in shapes(true), failing in vec(any::<Index>(), 1..4), edited in any::<bool>(),
    ) {
        let host = new_host();
        let mut project = project(&shapes);
        if edited {
            up(&host, &project);
            project.sandboxes.values_mut().for_each(|spec| Edit::Image.apply(spec));
        }
        let plan = make_plan(&host, &project, &PlanOptions::default());
        for index in failing {
            let title = index.get(&plan.steps).title();
            host.machine().failing.insert(title);
        }
        let outcome = run_plan(&host, &plan, 2);
        for (step, state) in plan.steps.iter().zip(&outcome.states) {
            let able = step.needs.iter().all(|id| outcome.states[id.index()] == StepState::Done);
            let expected = match (able, host.machine().failing.contains(&step.title())) {
                (false, _) => StepState::Skipped,
                (true, true) => StepState::Failed,
                (true, false) => StepState::Done,
            };
            prop_assert_eq!(*state, expected, "{}", step);
        }
        host.machine().failing.clear();
        // A soft dependency that failed is no violation of what was asked for.
        host.machine().violations.clear();
        let (again, outcome) = up(&host, &project);
        prop_assert!(outcome.succeeded(&again));
        check_converged(&host, &project, true)?;
    }

    #[test]
    fn edits_change_what_was_edited_by_class(
        shapes in shapes(false), edits in vec((any::<Index>(), edit()), 1..5),
    ) {
        let host = new_host();
        let mut project = project(&shapes);
        up(&host, &project);
        host.machine().finish_jobs();
        let mut expected: BTreeMap<Name, ChangeClass> = BTreeMap::new();
        for (index, edit) in edits {
            let name = name(index.index(project.sandboxes.len()));
            edit.apply(project.sandboxes.get_mut(&name).unwrap());
            let class = expected.entry(name).or_insert(ChangeClass::Live);
            *class = (*class).max(edit.class());
        }
        let plan = make_plan(&host, &project, &PlanOptions::default());
        let mut found: BTreeMap<Name, ChangeClass> = BTreeMap::new();
        for step in &plan.steps {
            let ResourceId::Sandbox(name) = &step.resource else { continue };
            let class = match step.action {
                Action::UpdateSandbox { .. } => ChangeClass::Live,
                Action::StartSandbox { .. } | Action::StopSandbox { .. } => ChangeClass::Restart,
                Action::CreateSandbox { .. } | Action::RemoveSandbox { .. } => ChangeClass::Replace,
                _ => continue,
            };
            let entry = found.entry(name.clone()).or_insert(class);
            *entry = (*entry).max(class);
        }
        prop_assert_eq!(found, expected, "{}", plan);
    }

    #[test]
    fn teardown_ends_dependents_first_and_leaves_nothing(shapes in shapes(true)) {
        let host = new_host();
        let project = project(&shapes);
        up(&host, &project);
        host.machine().log.clear();
        let options =
            PlanOptions { intent: crate::plan::Intent::Down { volumes: true }, ..PlanOptions::default() };
        let plan = make_plan(&host, &project, &options);
        check_sorted(&plan)?;
        let outcome = run_plan(&host, &plan, 4);
        prop_assert!(outcome.succeeded(&plan));
        let machine = host.machine();
        prop_assert!(machine.sandboxes.is_empty());
        // Only what is protected or nobody's stays.
        let mounted = shapes.iter().any(|shape| shape.volumes.contains(&PROTECTED));
        let kept: Vec<&Name> = machine.volumes.keys().collect();
        let expected = volume(PROTECTED);
        prop_assert_eq!(kept, if mounted { vec![&expected] } else { Vec::new() });
        prop_assert!(machine.standalone.contains_key(&volume(EXTERNAL)));
        prop_assert_eq!(&machine.violations, &Vec::<String>::new());
        let stopped = |name: &Name| {
            machine.log.iter().position(|title| *title == format!("stop sandbox {name}"))
        };
        for (name, spec) in &project.sandboxes {
            for dependency in spec.depends_on.keys() {
                if let (Some(dependent), Some(dependency)) = (stopped(name), stopped(dependency)) {
                    prop_assert!(dependent < dependency);
                }
            }
        }
    }
}

#[test]
fn a_protected_sandbox_is_neither_replaced_nor_removed_unasked() {
    let host = FakeHost::new();
    let shape =
        Shape { job: false, health: false, image: 0, links: Vec::new(), volumes: BTreeSet::new() };
    let mut project = project(&[shape]);
    let db = name(0);
    project.sandboxes.get_mut(&db).unwrap().lifecycle.protect = true;
    up(&host, &project);
    Edit::Image.apply(project.sandboxes.get_mut(&db).unwrap());
    let plan = make_plan(&host, &project, &PlanOptions::default());
    assert!(plan.is_empty());
    assert_eq!(plan.withheld[0].reason, WithheldReason::ProtectedReplace);
    let named = PlanOptions { replace: [db.clone()].into(), ..PlanOptions::default() };
    assert_eq!(make_plan(&host, &project, &named).summary.replace, 1);
    project.sandboxes.clear();
    let orphans = PlanOptions { remove_orphans: true, allow_empty: true, ..PlanOptions::default() };
    let plan = make_plan(&host, &project, &orphans);
    assert!(plan.is_empty());
    assert_eq!(plan.withheld[0].reason, WithheldReason::ProtectedRemove);
}

#[test]
fn an_interrupted_run_finishes_what_runs_and_starts_no_more() {
    let shape =
        |links| Shape { job: false, health: true, image: 0, links, volumes: BTreeSet::new() };
    let project = project(&[shape(Vec::new()), shape(Vec::new()), shape(Vec::new())]);
    let options = ExecuteOptions { parallelism: 1, ..ExecuteOptions::default() };
    let cancel = options.cancel.clone();
    let host = FakeHost::with_delay(move |step| {
        if step.title() == "create sandbox s01" {
            cancel.cancel();
        }
        std::time::Duration::ZERO
    });
    let plan = make_plan(&host, &project, &PlanOptions::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let outcome = runtime.block_on(execute(&plan, &host, &options, &mut Silent));
    assert!(outcome.interrupted && !outcome.succeeded(&plan));
    let log = host.machine().log.clone();
    assert_eq!(log.last().map(String::as_str), Some("create sandbox s01"));
    assert!(outcome.states.iter().all(|s| matches!(s, StepState::Done | StepState::Interrupted)));
}

#[test]
fn an_await_ends_at_its_limit_and_its_dependents_are_skipped() {
    let shape =
        |health, links| Shape { job: false, health, image: 0, links, volumes: BTreeSet::new() };
    let mut project = project(&[shape(true, Vec::new()), shape(false, Vec::new())]);
    let dependency = Dependency { condition: Condition::Healthy, required: true, restart: false };
    project.sandboxes.get_mut(&name(1)).unwrap().depends_on.insert(name(0), dependency);
    let host = FakeHost::with_delay(|step| match step.action {
        Action::AwaitSandbox { .. } => std::time::Duration::from_secs(61),
        _ => std::time::Duration::from_secs(120),
    });
    let plan = make_plan(&host, &project, &PlanOptions::default());
    let limit = std::time::Duration::from_secs(60);
    let options = ExecuteOptions { wait_timeout: Some(limit), ..ExecuteOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let outcome = runtime.block_on(execute(&plan, &host, &options, &mut Silent));
    let errors: Vec<_> =
        outcome.failures(&plan).map(|(step, error)| format!("{}: {error}", step.title())).collect();
    let expected = "await sandbox s00 healthy: sandbox `s00` was not ready after 60000 ms";
    assert_eq!(errors, [expected]);
    assert_eq!(outcome.states.last(), Some(&StepState::Skipped));
}

/// A program may spawn the executor as a task.
#[test]
fn the_executor_can_move_between_threads() {
    fn check<T: Send>(_: &T) {}
    let host = FakeHost::new();
    let plan = make_plan(&host, &project(&[]), &PlanOptions::default());
    let (options, mut silent) = (ExecuteOptions::default(), Silent);
    let future = execute(&plan, &host, &options, &mut silent);
    check(&future);
    assert!(run(future).succeeded(&plan));
}

#[test]
fn a_cycle_is_named() {
    let mut project = project(&[]);
    let source = ImageSource::Oci("x".to_owned());
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let mut spec = SandboxSpec::new(Image { source: source.clone(), platform: None });
        let dependency =
            Dependency { condition: Condition::Started, required: true, restart: false };
        spec.depends_on.insert(name(to), dependency);
        project.sandboxes.insert(name(from), spec);
    }
    let selected = project.sandboxes.keys().cloned().collect();
    let (origins, images) = (Origins::default(), BTreeMap::new());
    let desired =
        Desired { project: &project, origins: &origins, selected: &selected, images: &images };
    let error = plan(&desired, &Default::default(), &PlanOptions::default()).unwrap_err();
    assert!(matches!(error, PlanError::Cycle { .. }));
    assert_eq!(
        error.to_string(),
        "sandboxes depend on each other in a cycle: s00 -> s01 -> s02 -> s00"
    );
}

/// The longest way through a project whose starts take as long as `boots` says.
fn critical_path(project: &Project, boots: &BTreeMap<Name, u64>) -> u64 {
    let mut end: BTreeMap<&Name, u64> = BTreeMap::new();
    for (name, spec) in &project.sandboxes {
        let ready = spec.depends_on.keys().map(|below| end[below]).max().unwrap_or(0);
        end.insert(name, ready + boots[name]);
    }
    end.into_values().max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// No list schedule takes longer than the critical path and the work by the slots together; a
    /// plan that waits where it need not does.
    #[test]
    fn nothing_waits_that_need_not(
        shapes in vec(shape(false), 20..60), slots in 1..9usize, boots in vec(1..1000u64, 60),
    ) {
        let mut shapes = shapes;
        for shape in &mut shapes {
            (shape.job, shape.health) = (false, false);
            shape.volumes.clear();
        }
        let project = project(&shapes);
        let boots: BTreeMap<Name, u64> = project.sandboxes.keys().cloned().zip(boots).collect();
        let titles: BTreeMap<String, u64> =
            boots.iter().map(|(name, boot)| (format!("start sandbox {name}"), *boot)).collect();
        let host = FakeHost::with_delay(move |step| {
            std::time::Duration::from_millis(titles.get(&step.title()).copied().unwrap_or(0))
        });
        let plan = make_plan(&host, &project, &PlanOptions::default());
        let options = ExecuteOptions { parallelism: slots, ..ExecuteOptions::default() };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let took = runtime.block_on(async {
            let start = tokio::time::Instant::now();
            let outcome = execute(&plan, &host, &options, &mut Silent).await;
            assert!(outcome.succeeded(&plan));
            start.elapsed().as_millis()
        });
        let critical = critical_path(&project, &boots);
        let share = boots.values().sum::<u64>() / slots as u64;
        // Steps that take no time still end on the next tick of the clock.
        let ticks = 4 * plan.steps.len() as u64;
        prop_assert!(took <= u128::from(critical + share + ticks), "{took} of {critical} + {share}");
    }
}
