//! Scenario scripts: a Sandboxfile, edits and accidents, plans and what executing them does on a
//! machine in memory, each with the expected text below it.
//!
//! A script is a sequence of sections. A section starts with `== COMMAND ARGUMENTS`; what follows
//! is the command's input (`file`, `edit`) or the output expected of it. Text before the first
//! section says what the scenario is about. `UPDATE_EXPECT=1` rewrites the expected output.
//!
//! | command | |
//! |---|---|
//! | `file` | the Sandboxfile |
//! | `edit` | `-line` replaced by the `+line`s after it; `+line`s alone go to the end |
//! | `plan`, `json` | the plan of `up` with the same arguments, as text or JSON |
//! | `up`, `down`, `start`, `stop`, `restart`, `rm` | plan and execute; steps with their ends |
//! | `ps` | what exists |
//! | `finish` | jobs that run end |
//! | `exit NAME CODE`, `unhealthy NAME`, `well NAME` | how a job ends, a health check turns out |
//! | `crash NAME`, `move IMAGE`, `fail TITLE`, `fix` | accidents; `fix` ends all `fail`s |
//! | `source PATH TEXT` | the file or tree that patches copy from PATH holds something else |
//! | `power N` | the next command loses power at its N-th crash point |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use msb::manifest::{Inputs, Loader, Source, load, select};
use msb::plan::{Desired, Intent, ObservedState, Plan, PlanError, PlanOptions, plan};
use msb::reconcile::{Event, ExecuteOptions, FakeHost, Host, Reporter, execute};
use msb::spec::{Name, Origins, Patch, Project};

/// Fewer scripts than this means that some are not found.
const MIN_SCRIPTS: usize = 16;

struct NoFiles;

impl Loader for NoFiles {
    fn load(&self, _path: &str) -> io::Result<Option<String>> {
        Ok(None)
    }
}

/// A section of a script.
struct Section {
    header: String,
    body: String,
}

fn parse(text: &str) -> (String, Vec<Section>) {
    let mut preface = String::new();
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("== "), sections.last_mut()) {
            (Some(header), _) => {
                sections.push(Section { header: header.to_owned(), body: String::new() });
            }
            (None, Some(section)) => section.body += &format!("{line}\n"),
            (None, None) => preface += &format!("{line}\n"),
        }
    }
    (preface, sections)
}

fn render(preface: &str, sections: &[Section]) -> String {
    let mut text = preface.to_owned();
    for (position, section) in sections.iter().enumerate() {
        let body = section.body.trim_end();
        let gap = if body.is_empty() { "" } else { "\n" };
        let next = if position + 1 < sections.len() { "\n" } else { "" };
        writeln!(text, "== {}{gap}{body}{next}", section.header).unwrap();
    }
    text
}

/// What a scenario acts on.
struct World {
    host: FakeHost,
    file: String,
    /// What sources of patches hold, by path.
    sources: BTreeMap<String, String>,
}

/// A parsed command line of a section.
#[derive(Default)]
struct Arguments {
    options: PlanOptions,
    profiles: Vec<Name>,
}

fn arguments(command: &str, words: &[&str]) -> Arguments {
    let mut found = Arguments::default();
    let mut volumes = false;
    let mut force = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || name(words.next().expect("a value"));
        match *word {
            "--replace" => {
                let name = value();
                found.options.replace.insert(name);
            }
            "--again" => {
                let name = value();
                found.options.again.insert(name);
            }
            "--profile" => found.profiles.push(value()),
            "--no-deps" => found.options.no_deps = true,
            "--remove-orphans" => found.options.remove_orphans = true,
            "--allow-empty" => found.options.allow_empty = true,
            "--wait" => found.options.wait = true,
            "-v" => volumes = true,
            "--force" => force = true,
            other => {
                found.options.names.insert(name(other));
            }
        }
    }
    found.options.intent = match command {
        "down" => Intent::Down { volumes },
        "start" => Intent::Start,
        "stop" => Intent::Stop,
        "restart" => Intent::Restart,
        "rm" => Intent::Remove { force },
        _ => Intent::Up,
    };
    found
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

impl World {
    fn run(&mut self, section: &Section) -> Option<String> {
        let words: Vec<&str> = section.header.split_whitespace().collect();
        let (command, rest) = words.split_first().expect("a command");
        let machine = || self.host.machine();
        match (*command, rest) {
            ("file", []) => self.file = section.body.clone(),
            ("edit", []) => self.edit(&section.body),
            ("plan" | "json", rest) => return Some(self.show(command, rest)),
            ("up" | "down" | "start" | "stop" | "restart" | "rm", rest) => {
                return Some(self.act(command, rest));
            }
            ("ps", []) => return Some(self.ps()),
            ("finish", []) => machine().finish_jobs(),
            ("exit", [job, code]) => {
                machine().exit_codes.insert(name(job), code.parse().expect("an exit code"));
            }
            ("unhealthy", [sick]) => {
                machine().unhealthy.insert(name(sick));
            }
            ("well", [sick]) => {
                machine().unhealthy.remove(&name(sick));
            }
            ("crash", [victim]) => machine().crash(&name(victim)),
            ("move", [image]) => {
                let digest = format!("sha256:{}", "f00d".repeat(16));
                machine().cached.insert(digest.clone());
                machine().registry.insert((*image).to_owned(), digest);
            }
            ("fail", title) => {
                machine().failing.insert(title.join(" "));
            }
            ("source", [path, text]) => {
                self.sources.insert((*path).to_owned(), (*text).to_owned());
            }
            ("fix", []) => machine().failing.clear(),
            ("power", [points]) => machine().fail_power_after(points.parse().expect("a number")),
            _ => panic!("unknown command `{}`", section.header),
        }
        None
    }

    fn edit(&mut self, body: &str) {
        let mut at = None;
        for line in body.lines().filter(|line| !line.is_empty()) {
            let mut lines: Vec<&str> = self.file.lines().collect();
            if let Some(old) = line.strip_prefix('-') {
                let found = lines.iter().position(|line| *line == old);
                let found = found.unwrap_or_else(|| panic!("no line `{old}` to edit"));
                lines.remove(found);
                at = Some(found);
            } else if let Some(new) = line.strip_prefix('+') {
                let place = at.unwrap_or(lines.len());
                lines.insert(place, new);
                at = Some(place + 1);
            } else {
                panic!("an edit starts with - or +: {line}");
            }
            self.file = lines.join("\n") + "\n";
        }
    }

    fn project(&self) -> (Project, Origins) {
        let file = Source {
            path: "Sandboxfile".to_owned(),
            dir: "/shop".to_owned(),
            text: Arc::from(self.file.as_str()),
        };
        let project_name = name("shop");
        let parsed = load(Inputs {
            files: &[file],
            loader: &NoFiles,
            env: &|_| None,
            project_name: Some(&project_name),
            env_files: &[],
        });
        let problems: Vec<_> = parsed.diagnostics.iter().map(|d| d.message().to_owned()).collect();
        let mut project =
            parsed.project.unwrap_or_else(|| panic!("{problems:?} in:\n{}", self.file));
        let patches = project.sandboxes.values_mut().flat_map(|spec| &mut spec.patches);
        for patch in patches {
            if let Patch::CopyFile { source, .. } | Patch::CopyDir { source, .. } = &*patch {
                let held = self.sources.get(source).map_or("", String::as_str);
                let digest = blake3::hash(held.as_bytes()).to_hex().to_string();
                patch.set_digest(digest);
            }
        }
        (project, parsed.origins)
    }

    fn plan(&self, arguments: &Arguments) -> Result<Plan, PlanError> {
        let (project, origins) = self.project();
        let names: Vec<Name> = arguments.options.names.iter().cloned().collect();
        let declared = |name: &Name| project.sandboxes.contains_key(name);
        let selected: BTreeSet<Name> = if names.iter().all(declared) {
            select(&project, &names, &arguments.profiles).expect("declared names")
        } else {
            BTreeSet::new()
        };
        let images = self.host.images(&project);
        let observed: ObservedState = block_on(self.host.observe(&project)).expect("a machine");
        let desired =
            Desired { project: &project, origins: &origins, selected: &selected, images: &images };
        plan(&desired, &observed, &arguments.options)
    }

    fn show(&self, command: &str, words: &[&str]) -> String {
        match self.plan(&arguments("up", words)) {
            Err(error) => format!("error: {error}\n"),
            Ok(plan) if command == "json" => serde_json::to_string_pretty(&plan).expect("JSON"),
            Ok(plan) => plan.to_string(),
        }
    }

    fn act(&self, command: &str, words: &[&str]) -> String {
        block_on(self.host.recover(&name("shop"))).expect("a journal");
        let arguments = arguments(command, words);
        let plan = match self.plan(&arguments) {
            Err(error) => return format!("error: {error}\n"),
            Ok(plan) => plan,
        };
        let mut lines = Lines(String::new());
        let options = ExecuteOptions { parallelism: 2, ..ExecuteOptions::default() };
        let outcome = block_on(execute(&plan, &self.host, &options, &mut lines));
        let power = if self.host.machine().restore_power() { "the power failed\n" } else { "" };
        let verdict = if outcome.succeeded(&plan) { "succeeded" } else { "failed" };
        let violations = std::mem::take(&mut self.host.machine().violations);
        // Dependencies that are not ready are what `--no-deps` asks for.
        assert!(violations.is_empty() || arguments.options.no_deps, "{violations:?}");
        format!("{}{power}{command} {verdict}: {}\n", lines.0, plan.summary)
    }

    fn ps(&self) -> String {
        let machine = self.host.machine();
        let mut text = String::new();
        for (name, sandbox) in &machine.sandboxes {
            let observed = &sandbox.observed;
            write!(text, "{name} {}", observed.status).unwrap();
            if let Some(code) = observed.exit_code {
                write!(text, " ({code})").unwrap();
            }
            if let Some(health) = observed.health {
                write!(text, " {health}").unwrap();
            }
            let id = observed.id.trim_start_matches('0');
            writeln!(text, ", disk {id}, run {}", sandbox.runs).unwrap();
        }
        text
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// One line for each end of a step.
struct Lines(String);

impl Reporter for Lines {
    fn report(&mut self, event: Event<'_>) {
        let line = match event {
            Event::StepStarted { .. } | Event::Progress { .. } => return,
            Event::StepDone { step, .. } => step.title(),
            Event::StepFailed { step, error } => format!("{}: FAILED: {error}", step.title()),
            Event::StepSkipped { step, because: Some(because) } => {
                format!("{}: skipped, because `{}` failed", step.title(), because.title())
            }
            Event::StepSkipped { step, because: None } => format!("{}: interrupted", step.title()),
        };
        writeln!(self.0, "{line}").unwrap();
    }
}

fn check(path: &Path, update: bool) -> Option<String> {
    let text = fs::read_to_string(path).unwrap();
    let (preface, sections) = parse(&text);
    let mut world = World { host: FakeHost::new(), file: String::new(), sources: BTreeMap::new() };
    let mut actual = Vec::new();
    for section in sections {
        let body = world.run(&section).unwrap_or_else(|| section.body.clone());
        actual.push(Section { header: section.header, body });
    }
    let actual = render(&preface, &actual);
    if actual == text {
        return None;
    }
    if update {
        fs::write(path, actual).unwrap();
        return None;
    }
    let differs = |(a, b): &(&str, &str)| a != b;
    let line = text.lines().zip(actual.lines()).take_while(|pair| !differs(pair)).count() + 1;
    Some(format!("{}:{line} differs; it is:\n{actual}", path.display()))
}

#[test]
fn scenario_scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= MIN_SCRIPTS, "only {} scripts", paths.len());
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let failures: Vec<String> = paths.iter().filter_map(|path| check(path, update)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
