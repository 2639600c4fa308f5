//! Puts the units together: names, templates, defaults, lowering, and checks across sandboxes.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::spec::{
    Name, OriginChildren, OriginNode, Origins, Project, RegistrySpec, SandboxSpec, SecretSpec,
};

use super::graph;
use super::keys::SANDBOX;
use super::limits::{MAX_DECLARATIONS, MAX_EXTENDS_DEPTH, MAX_MERGED_VALUES, MAX_SANDBOXES};
use super::lower::{Declared, Kind, Lower};
use super::merge;
use super::report::{Problem, Span};
use super::source::{Inputs, Parsed};
use super::tree::{Entry, Node, Table, Value};
use super::unit::Session;
use super::volumes;

/// The name of a project whose directory's name gives none.
const FALLBACK_NAME: &str = "project";
/// Hex digits of the directory's hash in a default project name.
const HASH_DIGITS: usize = 6;
/// Characters of the directory's name in a default project name.
const MAX_DIR_NAME: usize = 40;

/// A named table and the unit that declares it.
struct Declaration {
    name: Name,
    unit: usize,
    entry: Entry,
}

/// Where variables of env files are set, by sandbox.
type EnvPlaces = HashMap<Name, BTreeMap<String, (u32, u32)>>;

/// All declarations of the project.
#[derive(Default)]
struct Everything {
    declared: Declared,
    sandboxes: Vec<Declaration>,
    templates: BTreeMap<Name, Node>,
    volumes: Vec<Declaration>,
    secrets: Vec<Declaration>,
    networks: BTreeMap<Name, Node>,
    registries: Vec<Entry>,
    /// `[defaults]` by unit.
    defaults: Vec<Option<Table>>,
}

pub(crate) fn assemble(mut session: Session<'_>) -> Parsed {
    let name = project_name(&session).unwrap_or_else(|| default_name(&session.inputs));
    let mut all = collect(&mut session);
    merge_sandboxes(&mut session, &mut all);
    for sandbox in &all.sandboxes {
        let entry = sandbox.entry.node.as_table().and_then(|table| table.get("env_file"));
        if let Some(entry) = entry {
            session.load_sandbox_env_files(&entry.node);
        }
    }
    let consulted = session.take_consulted();
    let Session { inputs, files, mut sink, env_files, variables, .. } = session;
    let mut lower = Lower::new(&files, &mut sink, &all.declared, &all.networks, &env_files);
    let mut project = Project {
        name,
        root: inputs.files.first().map(|file| file.dir.clone()).unwrap_or_default(),
        sandboxes: BTreeMap::new(),
        volumes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        registries: BTreeMap::new(),
    };
    lower_resources(&mut lower, &all, &mut project);
    for sandbox in &all.sandboxes {
        let Some(table) = sandbox.entry.node.as_table() else { continue };
        if let Some(spec) = lower.sandbox(&sandbox.name, table, sandbox.entry.key_span) {
            check_secrets(&mut lower, table, &spec, &project.secrets);
            project.sandboxes.insert(sandbox.name.clone(), spec);
        }
    }
    lower.check_host_ports();
    graph::check(&mut lower, &project.sandboxes);
    volumes::check(&mut lower, &mut project);
    let env_places = std::mem::take(&mut lower.env_places);
    let project = (sink.errors == 0).then_some(project);
    let origins = Origins::new(files.texts(), origins(all, env_places));
    Parsed {
        project,
        diagnostics: sink.into_diagnostics(),
        origins,
        inputs: consulted,
        variables: variables.into_iter().collect(),
    }
}

/// The name given from outside, else the main file's.
fn project_name(session: &Session<'_>) -> Option<Name> {
    if let Some(name) = session.inputs.project_name {
        return Some(name.clone());
    }
    let entry = session.units.first()?.root.get("name")?;
    Name::new(entry.node.as_str()?).ok()
}

/// The directory's name with a short hash of its path, so that two checkouts are two projects.
fn default_name(inputs: &Inputs<'_>) -> Name {
    let dir = inputs.files.first().map_or("", |file| file.dir.as_str());
    let base: String = dir
        .rsplit('/')
        .next()
        .unwrap_or("")
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(MAX_DIR_NAME)
        .collect();
    let base = base.trim_matches('-');
    let base = if base.is_empty() { FALLBACK_NAME } else { base };
    let hash = blake3::hash(dir.as_bytes()).to_hex();
    Name::generated(&format!("{base}-{}", &hash[..HASH_DIGITS]))
}

/// Takes the units apart into declarations with full names.
fn collect(session: &mut Session<'_>) -> Everything {
    let mut all = Everything::default();
    let units = std::mem::take(&mut session.units);
    for (at, unit) in units.into_iter().enumerate() {
        let mut root = unit.root;
        let namespace = unit.namespace.as_ref();
        all.defaults.push(root.remove("defaults").and_then(|entry| match entry.node.value {
            Value::Table(table) => Some(table),
            _ => None,
        }));
        let mut declare = |kind: Kind, all: &mut Everything| {
            let (_, key) = kind.words();
            let Some(table) = root.remove(key) else { return Vec::new() };
            let Value::Table(table) = table.node.value else { return Vec::new() };
            let entries = table.entries.into_iter();
            entries
                .filter_map(|entry| {
                    let name = declare(session, &mut all.declared, kind, &entry, namespace)?;
                    Some(Declaration { name, unit: at, entry })
                })
                .collect()
        };
        let sandboxes = declare(Kind::Sandbox, &mut all);
        all.sandboxes.extend(sandboxes);
        let volumes = declare(Kind::Volume, &mut all);
        all.volumes.extend(volumes);
        let secrets = declare(Kind::Secret, &mut all);
        all.secrets.extend(secrets);
        let templates = declare(Kind::Template, &mut all);
        all.templates.extend(templates.into_iter().map(|d| (d.name, d.entry.node)));
        let networks = declare(Kind::Network, &mut all);
        all.networks.extend(networks.into_iter().map(|d| (d.name, d.entry.node)));
        if let Some(Value::Table(table)) = root.remove("registry").map(|entry| entry.node.value) {
            all.registries.extend(table.entries);
        }
    }
    all
}

/// Records a declaration under its full name; none when it is no name or a repetition.
fn declare(
    session: &mut Session<'_>,
    declared: &mut Declared,
    kind: Kind,
    entry: &Entry,
    namespace: Option<&Name>,
) -> Option<Name> {
    let (word, _) = kind.words();
    let local = Name::new(entry.key.as_str()).ok()?;
    let name = match namespace.map(|namespace| local.within(namespace)) {
        None => local,
        Some(Ok(name)) => name,
        Some(Err(error)) => {
            let problem = Problem::new(entry.key_span, format!("the name is too long: {error}"));
            session.sink.add(&session.files, problem);
            return None;
        }
    };
    let known = declared.entry(kind).or_default();
    let most = if kind == Kind::Sandbox { MAX_SANDBOXES } else { MAX_DECLARATIONS };
    if known.len() >= most {
        let problem = Problem::new(entry.key_span, format!("there are more than {most} of a kind"))
            .label(format!("one {word} too many"));
        session.sink.add(&session.files, problem);
        return None;
    }
    if let Some(first) = known.get(&name) {
        let problem =
            Problem::new(entry.key_span, format!("the {word} `{name}` is declared twice"))
                .also(*first, "first declared here")
                .help("rename one, or include the file under a name with `as`");
        session.sink.add(&session.files, problem);
        return None;
    }
    known.insert(name.clone(), entry.key_span);
    Some(name)
}

/// Lays every sandbox over its template and the defaults of its file.
fn merge_sandboxes(session: &mut Session<'_>, all: &mut Everything) {
    let mut sandboxes = std::mem::take(&mut all.sandboxes);
    let mut bases = Bases { memo: HashMap::new(), all };
    let mut copied = 0_usize;
    for sandbox in &mut sandboxes {
        let Value::Table(own) = &mut sandbox.entry.node.value else { continue };
        let extends = own.remove("extends");
        let errors = session.sink.errors;
        let base = bases.base(session, sandbox.unit, extends.as_ref().map(|e| &e.node));
        if let (true, None, Some(extends)) =
            (session.sink.errors > errors, own.get("image"), &extends)
        {
            // The image may be the template's: its absence is a consequence.
            let node = Node { span: extends.node.span, value: Value::Broken };
            let (key, key_span) = ("image".to_owned(), extends.key_span);
            own.entries.push(Entry { key, key_span, node });
        }
        if base.0.entries.is_empty() {
            own.remove("unset");
            continue;
        }
        copied = copied.saturating_add(base.1);
        if copied > MAX_MERGED_VALUES {
            let help =
                format!("defaults and templates are copied at most {MAX_MERGED_VALUES} values");
            let problem =
                Problem::new(sandbox.entry.key_span, "templates make the project too large");
            session.sink.add(&session.files, problem.help(help));
            break;
        }
        let mut merged = base.0.clone();
        merge::tables(&mut merged, std::mem::take(own), &SANDBOX);
        merged.remove("unset");
        *own = merged;
    }
    all.sandboxes = sandboxes;
}

/// A merged table and how many values it holds.
type Base = Rc<(Table, usize)>;

/// Defaults and templates merged, once for each pair of unit and template.
struct Bases<'e> {
    memo: HashMap<(usize, Option<Name>), Base>,
    all: &'e Everything,
}

impl Bases<'_> {
    fn base(&mut self, session: &mut Session<'_>, unit: usize, extends: Option<&Node>) -> Base {
        // The templates from the sandbox on, up to one that is merged already.
        let mut chain: Vec<(Name, Span)> = Vec::new();
        let mut next = extends;
        let mut known = None;
        while let Some(node) = next {
            let Some(name) = template(session, &self.all.declared, &self.all.networks, node) else {
                break;
            };
            if let Some(at) = chain.iter().position(|(seen, _)| *seen == name) {
                report_template_cycle(session, &chain[at..], &name, node.span);
                break;
            }
            if chain.len() >= MAX_EXTENDS_DEPTH {
                let help = format!("at most {MAX_EXTENDS_DEPTH} templates extend one another");
                let problem = Problem::new(node.span, "templates are nested too deep").help(help);
                session.sink.add(&session.files, problem);
                break;
            }
            if let Some(memo) = self.memo.get(&(unit, Some(name.clone()))) {
                known = Some(memo.clone());
                break;
            }
            let table = self.all.templates.get(&name).and_then(Node::as_table);
            next = table.and_then(|table| table.get("extends")).map(|entry| &entry.node);
            chain.push((name, node.span));
        }
        let mut base = known.unwrap_or_else(|| self.defaults(unit));
        for (name, _) in chain.into_iter().rev() {
            let mut merged = base.0.clone();
            if let Some(table) = self.all.templates.get(&name).and_then(Node::as_table) {
                merge::tables(&mut merged, table.clone(), &SANDBOX);
                merged.remove("unset");
                merged.remove("extends");
            }
            let size = values(&merged);
            base = Rc::new((merged, size));
            self.memo.insert((unit, Some(name)), base.clone());
        }
        base
    }

    fn defaults(&mut self, unit: usize) -> Base {
        let all = self.all;
        let base = self.memo.entry((unit, None)).or_insert_with(|| {
            let table = all.defaults.get(unit).cloned().flatten().unwrap_or_default();
            let size = values(&table);
            Rc::new((table, size))
        });
        base.clone()
    }
}

/// How many values a table holds.
fn values(table: &Table) -> usize {
    fn of(node: &Node) -> usize {
        match &node.value {
            Value::Table(table) => 1 + values(table),
            Value::List(items) => 1 + items.iter().map(of).sum::<usize>(),
            _ => 1,
        }
    }
    table.entries.iter().map(|entry| of(&entry.node)).sum()
}

fn template(
    session: &mut Session<'_>,
    declared: &Declared,
    networks: &BTreeMap<Name, Node>,
    node: &Node,
) -> Option<Name> {
    let Session { files, sink, env_files, .. } = session;
    let mut lower = Lower::new(files, sink, declared, networks, env_files);
    lower.reference(node, Kind::Template)
}

fn report_template_cycle(
    session: &mut Session<'_>,
    chain: &[(Name, Span)],
    last: &Name,
    span: Span,
) {
    let names = chain.iter().map(|(name, _)| name).chain([last]);
    let text = names.map(Name::as_str).collect::<Vec<_>>().join(" -> ");
    let problem = Problem::new(span, format!("templates extend one another: {text}"))
        .label("closes the cycle")
        .help("remove one `extends`");
    session.sink.add(&session.files, problem);
}

fn lower_resources(lower: &mut Lower<'_>, all: &Everything, project: &mut Project) {
    for volume in &all.volumes {
        if let Some(spec) = lower.volume(&volume.entry.node) {
            project.volumes.insert(volume.name.clone(), spec);
        }
    }
    for secret in &all.secrets {
        if let Some(spec) = lower.secret(&secret.entry.node) {
            project.secrets.insert(secret.name.clone(), spec);
        }
    }
    for network in all.networks.values() {
        // Shared ones are looked at even where no sandbox uses them.
        lower.network_table(network);
    }
    let mut first: BTreeMap<&str, (Span, RegistrySpec)> = BTreeMap::new();
    for entry in &all.registries {
        let Some(spec) = lower.registry(entry) else { continue };
        if let Some((span, other)) = first.get(entry.key.as_str()) {
            if *other != spec {
                let message = format!("the registry `{}` is declared twice", entry.key);
                let problem = Problem::new(entry.key_span, message)
                    .label("with other credentials")
                    .also(*span, "first declared here");
                lower.report(problem);
            }
            continue;
        }
        project.registries.insert(entry.key.clone(), spec.clone());
        first.insert(&entry.key, (entry.key_span, spec));
    }
}

/// Refuses a sandbox in which two things set one variable, or two secrets share a placeholder.
fn check_secrets(
    lower: &mut Lower<'_>,
    table: &Table,
    spec: &SandboxSpec,
    secrets: &BTreeMap<Name, SecretSpec>,
) {
    let Some(list) = table.get("secrets") else { return };
    let mut seen: Vec<(&Name, &SecretSpec)> = Vec::new();
    for name in &spec.secrets {
        let Some(secret) = secrets.get(name) else { continue };
        if spec.env.contains_key(&secret.env) {
            let own = table.get("env").and_then(|env| env.node.as_table()?.get(&secret.env));
            let span = own.map_or(list.node.span, |entry| entry.key_span);
            let message = format!("`{}` is set by `env` and by the secret `{name}`", secret.env);
            lower.report(Problem::new(span, message).help("remove it from `env`"));
        }
        let clash = seen
            .iter()
            .find(|(_, other)| other.env == secret.env || other.placeholder == secret.placeholder);
        if let Some((other, _)) = clash {
            let message = format!("the secrets `{other}` and `{name}` cannot be told apart");
            let help = "give each its own `env` and `placeholder`";
            let problem = Problem::new(list.node.span, message)
                .label("they have the same variable or placeholder");
            lower.report(problem.help(help));
        }
        seen.push((name, secret));
    }
}

/// The places of everything declared.
fn origins(all: Everything, mut env_places: EnvPlaces) -> OriginNode {
    let mut sandboxes = Vec::new();
    for sandbox in all.sandboxes {
        let span = sandbox.entry.key_span;
        let mut node = origin(sandbox.entry.node);
        node.place = Some((span.file, span.start));
        if let Some(places) = env_places.remove(&sandbox.name) {
            add_env(&mut node, places);
        }
        sandboxes.push((Box::from(sandbox.name.as_str()), node));
    }
    let declared = |list: Vec<Declaration>| {
        let entries = list.into_iter().map(|declaration| {
            let span = declaration.entry.key_span;
            let mut node = origin(declaration.entry.node);
            node.place = Some((span.file, span.start));
            (Box::from(declaration.name.as_str()), node)
        });
        implied(entries.collect())
    };
    let registries = all.registries.into_iter().map(|entry| {
        let place = Some((entry.key_span.file, entry.key_span.start));
        let node = origin(entry.node);
        (entry.key.into_boxed_str(), OriginNode { place, ..node })
    });
    implied(vec![
        (Box::from("sandbox"), implied(sandboxes)),
        (Box::from("volume"), declared(all.volumes)),
        (Box::from("secret"), declared(all.secrets)),
        (Box::from("registry"), implied(registries.collect())),
    ])
}

fn implied(mut entries: Vec<(Box<str>, OriginNode)>) -> OriginNode {
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries.dedup_by(|later, first| later.0 == first.0);
    OriginNode { place: None, children: OriginChildren::Table(entries) }
}

fn origin(node: Node) -> OriginNode {
    let children = match node.value {
        Value::Table(table) => {
            let mut entries: Vec<_> = table
                .entries
                .into_iter()
                .map(|entry| {
                    // The key is what a reader looks for; its value may be lines away.
                    let place = Some((entry.key_span.file, entry.key_span.start));
                    let node = origin(entry.node);
                    (entry.key.into_boxed_str(), OriginNode { place, ..node })
                })
                .collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            OriginChildren::Table(entries)
        }
        Value::List(items) if items.iter().any(|item| item.as_table().is_some()) => {
            OriginChildren::List(items.into_iter().map(origin).collect())
        }
        _ => OriginChildren::None,
    };
    OriginNode { place: Some((node.span.file, node.span.start)), children }
}

/// Adds the variables that come from a sandbox's env files to the places of its `env`.
fn add_env(sandbox: &mut OriginNode, places: BTreeMap<String, (u32, u32)>) {
    let OriginChildren::Table(keys) = &mut sandbox.children else { return };
    let at = match keys.binary_search_by(|(key, _)| (**key).cmp("env")) {
        Ok(at) => at,
        Err(at) => {
            keys.insert(at, (Box::from("env"), implied(Vec::new())));
            at
        }
    };
    let OriginChildren::Table(variables) = &mut keys[at].1.children else { return };
    for (name, place) in places {
        let node = OriginNode { place: Some(place), children: OriginChildren::None };
        variables.push((name.into_boxed_str(), node));
    }
    // Stable: what `env` itself states comes before and wins.
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    variables.dedup_by(|later, first| later.0 == first.0);
}
