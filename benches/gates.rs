//! Gates that do not depend on the machine: instruction counts of parse → lower → plan, and how
//! close the executor comes to an ideal schedule, in virtual time. Prints one table and exits with
//! 1 when a gate fails.
//!
//! A count is that of a child process under callgrind which reads a Sandboxfile and what exists
//! (one line per sandbox) and plans, start-up of the process included.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a program that measures and prints"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use msb::manifest::{Inputs, Loader, Source, load, select};
use msb::plan::{
    Desired, DesiredImage, ObservedSandbox, ObservedState, Plan, PlanOptions, canonical_json, plan,
    spec_hash,
};
use msb::reconcile::{ExecuteOptions, FakeHost, Silent, execute};
use msb::spec::{
    Condition, Dependency, Image, ImageSource, Name, Origins, Project, SandboxSpec, Status,
};

/// The argument that makes this program a child.
const CHILD: &str = "--child";

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The random graphs of the schedule gate.
const SCHEDULES: u64 = 20;
const SCHEDULE_NODES: usize = 100;
const SCHEDULE_SLOTS: usize = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, child, folder] = arguments.as_slice()
        && child == CHILD
    {
        return child_main(Path::new(folder));
    }
    match gates() {
        Ok(rows) => print(&rows),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Row {
    figure: String,
    value: f64,
    gate: f64,
    aim: f64,
    unit: &'static str,
}

fn print(rows: &[Row]) -> ExitCode {
    let width = rows.iter().map(|row| row.figure.chars().count()).max().unwrap_or(0);
    println!("{:width$}  {:>9}  {:>9}  {:>9}", "figure", "value", "gate", "aim");
    let mut good = true;
    for Row { figure, value, gate, aim, unit } in rows {
        let verdict = match (value <= gate, value <= aim) {
            (false, _) => "FAILED",
            (true, false) => "ok",
            (true, true) => "ok, aim reached",
        };
        good &= value <= gate;
        println!(
            "{figure:width$}  {value:>8.2}{unit}  {gate:>8.2}{unit}  {aim:>8.2}{unit}  {verdict}"
        );
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn gates() -> io::Result<Vec<Row>> {
    let row = |figure: &str, value, gate, aim, unit| Row {
        figure: figure.to_owned(),
        value,
        gate,
        aim,
        unit,
    };
    let flat = |count| instructions(&sandboxfile(count, false));
    let (ten, hundred, thousand) = (flat(10)?, flat(100)?, flat(1000)?);
    let ladder = instructions(&sandboxfile(2000, true))? / flat(2000)?;
    let mut schedules: Vec<f64> = (0..SCHEDULES).map(schedule).collect();
    schedules.sort_by(f64::total_cmp);
    let median = schedules[schedules.len() / 2];
    let worst = schedules[schedules.len() - 1];
    Ok(vec![
        row("instructions, plan of 10", ten / 1e6, 8.0, 4.0, "M"),
        row("instructions, plan of 100", hundred / 1e6, 30.0, 15.0, "M"),
        row("instructions, plan of 1,000", thousand / 1e6, 250.0, 100.0, "M"),
        row("instructions(1,000) / (100)", thousand / hundred, 11.0, 10.0, "x"),
        row("ladder of 2,000 / flat 2,000", ladder, 1.5, 1.1, "x"),
        row("schedule / ideal, median of 20 graphs", median, 1.10, 1.03, "x"),
        row("schedule / ideal, worst of 20 graphs", worst, 1.10, 1.03, "x"),
    ])
}

/// A Sandboxfile of `count` sandboxes: independent, or in layers of two that depend on both of the
/// layer before.
fn sandboxfile(count: usize, ladder: bool) -> String {
    let mut text = "name = \"bench\"\n".to_owned();
    for position in 0..count {
        let layer = position / 2 * 2;
        write!(
            text,
            "\n[sandbox.s{position:05}]\n\
             image = \"registry.example.com/team/app:1.2\"\n\
             memory = \"512MiB\"\n\
             cpus = 2\n\
             env = {{ PORT = \"8080\", MODE = \"production\" }}\n\
             cmd = [\"serve\", \"--port\", \"8080\"]\n"
        )
        .expect("memory");
        if ladder && layer > 0 {
            let (left, right) = (layer - 2, layer - 1);
            writeln!(text, "depends_on = [\"s{left:05}\", \"s{right:05}\"]").expect("memory");
        }
    }
    text
}

struct NoFiles;

impl Loader for NoFiles {
    fn load(&self, _path: &str) -> io::Result<Option<String>> {
        Ok(None)
    }
}

fn read_project(text: &str) -> io::Result<(Project, Origins)> {
    let file =
        Source { path: "Sandboxfile".to_owned(), dir: "/bench".to_owned(), text: Arc::from(text) };
    let parsed = load(Inputs {
        files: &[file],
        loader: &NoFiles,
        env: &|_| None,
        project_name: None,
        env_files: &[],
    });
    let problem = parsed.diagnostics.first().map(|diagnostic| diagnostic.message().to_owned());
    let project = parsed.project.ok_or_else(|| io::Error::other(problem.unwrap_or_default()))?;
    Ok((project, parsed.origins))
}

/// Instructions of a child that plans the project of a Sandboxfile which has been brought up.
fn instructions(text: &str) -> io::Result<f64> {
    let folder = tempfile::tempdir()?;
    let (project, _) = read_project(text)?;
    let mut observed = String::new();
    for (name, spec) in &project.sandboxes {
        writeln!(observed, "{name}\t{}\t{}", spec_hash(spec), canonical_json(spec))
            .expect("memory");
    }
    fs::write(folder.path().join("Sandboxfile"), text)?;
    fs::write(folder.path().join("observed"), observed)?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .arg(CHILD)
        .arg(folder.path())
        .output()
        .map_err(|error| {
            io::Error::other(format!("valgrind (apt-get install valgrind): {error}"))
        })?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(io::Error::other(format!("the child failed:\n{report}")));
    }
    let collected = report.lines().find_map(|line| line.split_once("Collected :"));
    collected
        .and_then(|(_, count)| count.trim().parse().ok())
        .ok_or_else(|| io::Error::other(format!("no count in:\n{report}")))
}

fn child_main(folder: &Path) -> ExitCode {
    match child(folder) {
        Ok(plan) if plan.is_empty() => ExitCode::SUCCESS,
        Ok(plan) => {
            eprintln!("not a no-op:\n{plan}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn child(folder: &Path) -> io::Result<Plan> {
    let text = fs::read_to_string(folder.join("Sandboxfile"))?;
    let (project, origins) = read_project(&text)?;
    let stored = fs::read_to_string(folder.join("observed"))?;
    let mut observed = ObservedState::default();
    for line in stored.lines() {
        let mut fields = line.splitn(3, '\t');
        let mut field = || fields.next().ok_or_else(|| io::Error::other("a short line"));
        let name = field()?.parse().map_err(io::Error::other)?;
        let sandbox = ObservedSandbox {
            id: "0123456789ab".to_owned(),
            spec_hash: field()?.parse().map_err(io::Error::other)?,
            spec_json: field()?.into(),
            image_digest: Some(DIGEST.to_owned()),
            status: Status::Running,
            health: None,
            exit_code: None,
            protect: false,
            origin_file: None,
        };
        observed.sandboxes.insert(name, sandbox);
    }
    let selected = select(&project, &[], &[]).map_err(io::Error::other)?;
    let known = || DesiredImage::Known { digest: DIGEST.to_owned() };
    let images = project.sandboxes.keys().map(|name| (name.clone(), known())).collect();
    let desired =
        Desired { project: &project, origins: &origins, selected: &selected, images: &images };
    plan(&desired, &observed, &PlanOptions::default()).map_err(io::Error::other)
}

/// A small generator of the xorshift family: the graphs are the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The time that executing a random project takes, over the longer of its critical path and its
/// work divided by the slots.
fn schedule(seed: u64) -> f64 {
    let mut random = Random(seed * 0x9e37_79b9 + 0x1234_5678_9abc);
    let source = ImageSource::Oci("app".to_owned());
    let name = |position: usize| Name::new(format!("s{position:03}")).expect("a valid name");
    let mut sandboxes = BTreeMap::new();
    let mut boots: BTreeMap<String, u64> = BTreeMap::new();
    let mut finish: Vec<u64> = Vec::new();
    for position in 0..SCHEDULE_NODES {
        let mut spec = SandboxSpec::new(Image { source: source.clone(), platform: None });
        let mut ready = 0;
        for _ in 0..random.below(4).min(position as u64) {
            let below = random.below(position as u64) as usize;
            let dependency =
                Dependency { condition: Condition::Started, required: true, restart: false };
            spec.depends_on.insert(name(below), dependency);
            ready = ready.max(finish[below]);
        }
        let boot = 500 + random.below(9_500);
        finish.push(ready + boot);
        boots.insert(format!("start sandbox {}", name(position)), boot);
        sandboxes.insert(name(position), spec);
    }
    let work: u64 = boots.values().sum();
    let critical = finish.into_iter().max().unwrap_or(0);
    let ideal = critical.max(work / SCHEDULE_SLOTS as u64);
    let project = Project {
        name: name(0),
        root: "/bench".to_owned(),
        sandboxes,
        volumes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        registries: BTreeMap::new(),
    };
    virtual_time(&project, boots) / ideal as f64
}

/// Milliseconds that bringing up a project takes on a clock that jumps to the next event.
fn virtual_time(project: &Project, boots: BTreeMap<String, u64>) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let delay =
            move |title: &str| Duration::from_millis(boots.get(title).copied().unwrap_or(0));
        let host = FakeHost::with_delay(move |step| delay(&step.title()));
        let (selected, origins) = (project.sandboxes.keys().cloned().collect(), Origins::default());
        let images = host.images(project);
        let desired = Desired { project, origins: &origins, selected: &selected, images: &images };
        let plan = plan(&desired, &ObservedState::default(), &PlanOptions::default());
        let plan = plan.expect("a plan");
        let options = ExecuteOptions { parallelism: SCHEDULE_SLOTS, ..ExecuteOptions::default() };
        let start = tokio::time::Instant::now();
        let outcome = execute(&plan, &host, &options, &mut Silent).await;
        assert!(outcome.succeeded(&plan), "{:?}", outcome.errors);
        start.elapsed().as_millis() as f64
    })
}
