//! Reads files: the main one with its overrides, what they include, and env files.
//!
//! A file with its overrides is a unit; every inclusion is a unit of its own, with its namespace.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeTable;

use crate::spec::Name;

use super::check::Checker;
use super::dotenv;
use super::keys::ROOT;
use super::limits::{MAX_ENV_FILE_BYTES, MAX_FILE_BYTES, MAX_FILES, MAX_INCLUDE_DEPTH};
use super::lower::EnvFile;
use super::lower::sandbox::env_file_entries;
use super::merge;
use super::path;
use super::report::{Files, Problem, Sink, Span};
use super::source::{Inputs, Source};
use super::tree::{Builder, Node, Table};

/// Variables of env files, for interpolation.
type Scope = Rc<HashMap<String, String>>;

/// A file with its overrides merged, checked against the table of keys.
pub(crate) struct Unit {
    pub(crate) namespace: Option<Name>,
    pub(crate) root: Table,
}

/// Everything that one run reads.
pub(crate) struct Session<'a> {
    pub(crate) inputs: Inputs<'a>,
    pub(crate) files: Files,
    pub(crate) sink: Sink,
    pub(crate) units: Vec<Unit>,
    pub(crate) env_files: HashMap<String, EnvFile>,
    /// Paths asked of the loader, in order, and the same as a set.
    consulted: Vec<String>,
    consulted_set: HashSet<String>,
    pub(crate) variables: BTreeMap<String, Option<String>>,
    expanded: usize,
}

/// How a unit comes to be read.
struct Inclusion<'i> {
    namespace: Option<Name>,
    scope: Scope,
    /// Absolute paths of the files that include it, the main one first.
    chain: &'i [String],
}

impl<'a> Session<'a> {
    pub(crate) fn new(inputs: Inputs<'a>) -> Self {
        Self {
            inputs,
            files: Files::default(),
            sink: Sink::default(),
            units: Vec::new(),
            env_files: HashMap::new(),
            consulted: Vec::new(),
            consulted_set: HashSet::new(),
            variables: BTreeMap::new(),
            expanded: 0,
        }
    }

    /// Reads the given files and everything that they include.
    pub(crate) fn read_all(&mut self) {
        let sources = self.inputs.files;
        let scope = Rc::default();
        self.read(sources, &Inclusion { namespace: None, scope, chain: &[] });
    }

    /// Paths asked of the loader.
    pub(crate) fn take_consulted(&mut self) -> Vec<String> {
        std::mem::take(&mut self.consulted)
    }

    fn report(&mut self, problem: Problem) {
        self.sink.add(&self.files, problem);
    }

    fn read(&mut self, sources: &[Source], inclusion: &Inclusion<'_>) {
        let mut parsed = Vec::new();
        for source in sources {
            let file = self.files.add(
                &source.path,
                source.text.clone(),
                source.dir.clone(),
                inclusion.namespace.clone(),
            );
            parsed.push((file, self.parse(file, &source.text)));
        }
        let scope = self.scope(&parsed, inclusion);
        let mut root = Table::default();
        for (at, (file, table)) in parsed.iter().enumerate() {
            let table = self.build(*file, table.get_ref(), &scope);
            let span = Span { file: *file, start: 0, end: 0 };
            Checker { files: &self.files, sink: &mut self.sink }.table(&table, span, &ROOT);
            self.check_version(&table);
            if at == 0 {
                root = table;
            } else {
                merge::tables(&mut root, table, &ROOT);
            }
        }
        drop(parsed);
        let includes = root.remove("include");
        self.units.push(Unit { namespace: inclusion.namespace.clone(), root });
        let Some(includes) = includes else { return };
        let mut chain = inclusion.chain.to_vec();
        chain.extend(sources.first().map(|source| {
            let file = source.path.rsplit('/').next().unwrap_or("");
            path::absolute(&source.dir, file)
        }));
        for item in includes.node.as_list().unwrap_or_default() {
            self.include(item, inclusion.namespace.as_ref(), &scope, &chain);
        }
    }

    fn parse<'t>(&mut self, file: u32, text: &'t str) -> Spanned<DeTable<'t>> {
        let start = Span { file, start: 0, end: 0 };
        if text.len() > MAX_FILE_BYTES {
            let help = format!("a Sandboxfile has at most {} MiB", MAX_FILE_BYTES >> 20);
            self.report(Problem::new(start, "the file is too large").help(help));
            return Spanned::new(0..0, DeTable::new());
        }
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
            let span = error.span().unwrap_or(text.len()..text.len());
            let span = Span { file, start: narrow(span.start), end: narrow(span.end) };
            let found = self.files.slice(span).to_owned();
            self.sink.add_syntax(&self.files, syntax(span, error.message(), &found));
        }
        table
    }

    fn build(&mut self, file: u32, table: &DeTable<'_>, scope: &Scope) -> Table {
        let Self { inputs, files, sink, variables, expanded, .. } = self;
        let mut lookup = |name: &str| {
            if !variables.contains_key(name) {
                variables.insert(name.to_owned(), (inputs.env)(name));
            }
            let own = variables.get(name).cloned().flatten();
            own.or_else(|| scope.get(name).cloned())
        };
        Builder { file, files, sink, lookup: &mut lookup, expanded }.table(table)
    }

    /// Variables that the files may use beside the process's.
    fn scope(
        &mut self,
        parsed: &[(u32, Spanned<DeTable<'_>>)],
        inclusion: &Inclusion<'_>,
    ) -> Scope {
        let mut scope = (*inclusion.scope).clone();
        let given = self.inputs.env_files;
        if inclusion.chain.is_empty() && !given.is_empty() {
            let span = Span::default();
            for path in given {
                self.add_env_file(path, path, span, true, &mut scope);
            }
            return Rc::new(scope);
        }
        for (file, table) in parsed {
            let Some((key, value)) = table.get_ref().get_key_value("env_file") else { continue };
            let alone: DeTable<'_> =
                [(key.clone(), Spanned::new(value.span(), value.get_ref().clone()))]
                    .into_iter()
                    .collect();
            let table = self.build(*file, &alone, &inclusion.scope);
            for entry in &table.entries {
                self.read_env_files(&entry.node, &mut scope);
            }
        }
        Rc::new(scope)
    }

    fn read_env_files(&mut self, node: &Node, scope: &mut HashMap<String, String>) {
        for (item, required, _) in env_file_entries(node) {
            let Some(text) = item.as_str().filter(|text| !text.is_empty()) else { continue };
            let file = self.files.of(item.span);
            let absolute = path::absolute(&file.dir, text);
            let display = path::display(file.text.name(), &item.shown(&self.files));
            self.add_env_file(&absolute, &display, item.span, required, scope);
        }
    }

    fn add_env_file(
        &mut self,
        path: &str,
        display: &str,
        span: Span,
        required: bool,
        scope: &mut HashMap<String, String>,
    ) {
        let Some(file) = self.env_file(path, display, span, required) else { return };
        for variable in &file.1 {
            scope.insert(variable.name.clone(), variable.value.clone());
        }
    }

    /// Loads the env files that a sandbox's `env_file` names.
    pub(crate) fn load_sandbox_env_files(&mut self, node: &Node) {
        self.read_env_files(node, &mut HashMap::new());
    }

    /// The env file at the absolute `path`; it is read once.
    fn env_file(
        &mut self,
        path: &str,
        display: &str,
        span: Span,
        required: bool,
    ) -> Option<EnvFile> {
        if let Some(file) = self.env_files.get(path) {
            return Some(file.clone());
        }
        let text = self.load(path, display, span, required, "env file")?;
        if text.len() > MAX_ENV_FILE_BYTES {
            let help = format!("an env file has at most {} KiB", MAX_ENV_FILE_BYTES >> 10);
            self.report(
                Problem::new(span, format!("the env file `{display}` is too large")).help(help),
            );
            return None;
        }
        let (variables, faults) = dotenv::parse(&text);
        let dir = path::parent(path).to_owned();
        let file = self.files.add(display, Arc::from(text), dir, None);
        for fault in faults {
            let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
            let span =
                Span { file, start: narrow(fault.range.start), end: narrow(fault.range.end) };
            self.report(Problem::new(span, fault.message).help(fault.help));
        }
        let file: EnvFile = Rc::new((file, variables));
        self.env_files.insert(path.to_owned(), file.clone());
        Some(file)
    }

    /// The text of a further file.
    fn load(
        &mut self,
        path: &str,
        display: &str,
        span: Span,
        required: bool,
        what: &str,
    ) -> Option<String> {
        if self.consulted.len() >= MAX_FILES && !self.consulted_set.contains(path) {
            let help = format!("a project has at most {MAX_FILES} files");
            self.report(Problem::new(span, "too many files").help(help));
            return None;
        }
        if self.consulted_set.insert(path.to_owned()) {
            self.consulted.push(path.to_owned());
        }
        match self.inputs.loader.load(path) {
            Ok(Some(text)) => return Some(text),
            Ok(None) if !required => {}
            Ok(None) => {
                let problem = Problem::new(span, format!("the {what} `{display}` does not exist"));
                let problem = match what {
                    "env file" => problem.help(
                        "create it, or write `{ path = \"…\", required = false }` if it may be missing",
                    ),
                    _ => problem.help("paths are relative to the file that states them"),
                };
                self.report(problem);
            }
            Err(error) => {
                let message = format!("the {what} `{display}` cannot be read: {error}");
                self.report(Problem::new(span, message));
            }
        }
        None
    }

    fn include(&mut self, item: &Node, outer: Option<&Name>, scope: &Scope, chain: &[String]) {
        let Some(table) = item.as_table() else { return };
        let Some(stated) = table.get("path").filter(|entry| entry.node.as_str().is_some()) else {
            return;
        };
        let (span, text) = (stated.node.span, stated.node.as_str().unwrap_or(""));
        let file = self.files.of(span);
        let absolute = path::absolute(&file.dir, text);
        let display = path::display(file.text.name(), &stated.node.shown(&self.files));
        if let Some(at) = chain.iter().position(|path| *path == absolute) {
            let names: Vec<_> =
                chain[at..].iter().chain([&absolute]).map(|p| format!("`{p}`")).collect();
            let problem =
                Problem::new(span, "the file includes itself").help(names.join(" includes "));
            return self.report(problem);
        }
        if chain.len() >= MAX_INCLUDE_DEPTH {
            let help = format!("at most {MAX_INCLUDE_DEPTH} files include one another");
            return self.report(Problem::new(span, "includes are nested too deep").help(help));
        }
        let Some(namespace) = self.namespace(table, outer) else { return };
        let Some(text) = self.load(&absolute, &display, span, true, "included file") else {
            return;
        };
        let dir = path::parent(&absolute).to_owned();
        let source = Source { path: display, dir, text: Arc::from(text) };
        self.read(&[source], &Inclusion { namespace, scope: scope.clone(), chain });
    }

    /// The namespace of an include; none when `as` is no name.
    fn namespace(&mut self, include: &Table, outer: Option<&Name>) -> Option<Option<Name>> {
        let Some(entry) = include.get("as") else { return Some(outer.cloned()) };
        let name = entry.node.as_str().and_then(|text| Name::new(text).ok())?;
        let Some(outer) = outer else { return Some(Some(name)) };
        match name.within(outer) {
            Ok(name) => Some(Some(name)),
            Err(error) => {
                self.report(Problem::new(entry.node.span, error.to_string()));
                None
            }
        }
    }

    fn check_version(&mut self, root: &Table) {
        let Some(entry) = root.get("requires") else { return };
        let stated = entry.node.as_str().and_then(|text| semver::VersionReq::parse(text).ok());
        let own = semver::Version::parse(env!("CARGO_PKG_VERSION"));
        let (Some(stated), Ok(own)) = (stated, own) else { return };
        // A pre-release of the required version will do.
        let released = semver::Version::new(own.major, own.minor, own.patch);
        if !stated.matches(&own) && !stated.matches(&released) {
            let problem = Problem::new(entry.node.span, "the file requires another version of msb")
                .label(format!("this is msb {own}"))
                .help("update msb, or relax `requires`");
            self.report(problem);
        }
    }
}

/// A syntax error, with the parser's words made to fit a message.
fn syntax(span: Span, message: &str, found: &str) -> Problem {
    if message == "duplicate key" {
        let key = found.trim_matches(['"', '\'']);
        return Problem::new(span, format!("`{key}` is set twice"))
            .label("set before in the same table")
            .help("remove one of them");
    }
    if message.starts_with("string values must be quoted") {
        if found.trim().is_empty() {
            return Problem::new(span, "a value is missing").label("after the `=`");
        }
        return Problem::new(span, "a string needs quotes")
            .help(format!("write `\"{}\"`", found.escape_debug()));
    }
    Problem::new(span, format!("invalid TOML: {message}"))
}
