//! From checked tables to `spec`.
//!
//! Shapes have been checked before: a value of a wrong shape has been reported and is skipped here
//! without a word. What is found here needs more than one value: missing and dangling references,
//! things that exclude each other, limits of the spec.

pub(super) mod mounts;
pub(super) mod network;
pub(super) mod ports;
pub(super) mod resources;
pub(super) mod sandbox;

use std::collections::{BTreeMap, HashMap};

use crate::spec::{Name, SecretFrom};

use super::check;
use super::dotenv::Variable;
use super::keys::TableDef;
use super::path;
use super::report::{Files, Problem, Sink, Span};
use super::tree::{Node, Table};

/// What a reference names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Template,
    Sandbox,
    Volume,
    Secret,
    Network,
}

impl Kind {
    /// The word, and the table that declares one.
    pub(crate) const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Template => ("template", "templates"),
            Self::Sandbox => ("sandbox", "sandbox"),
            Self::Volume => ("volume", "volume"),
            Self::Secret => ("secret", "secret"),
            Self::Network => ("network", "network"),
        }
    }
}

/// The declared names, with where they are declared.
pub(crate) type Declared = BTreeMap<Kind, BTreeMap<Name, Span>>;

/// The variables of an env file, in the text with this number.
pub(crate) type EnvFile = std::rc::Rc<(u32, Vec<Variable>)>;

/// What lowering reads and writes.
pub(crate) struct Lower<'a> {
    pub(crate) files: &'a Files,
    pub(crate) sink: &'a mut Sink,
    pub(crate) declared: &'a Declared,
    /// `[network.NAME]` tables.
    pub(crate) networks: &'a BTreeMap<Name, Node>,
    /// Env files of sandboxes by absolute path.
    pub(crate) env_files: &'a HashMap<String, EnvFile>,
    /// Places that later checks between sandboxes point at.
    pub(crate) edges: Vec<Edge>,
    pub(crate) host_ports: Vec<HostPortUse>,
    pub(crate) volume_uses: Vec<VolumeUse>,
    /// Where variables of env files are set, by sandbox.
    pub(crate) env_places: HashMap<Name, BTreeMap<String, (u32, u32)>>,
}

/// A dependency as written.
pub(crate) struct Edge {
    pub(crate) from: Name,
    pub(crate) to: Name,
    pub(crate) span: Span,
}

/// A fixed host port as written.
pub(crate) struct HostPortUse {
    pub(crate) sandbox: Name,
    pub(crate) bind: std::net::IpAddr,
    pub(crate) port: u16,
    pub(crate) span: Span,
}

/// A mount of a declared volume as written.
pub(crate) struct VolumeUse {
    pub(crate) sandbox: Name,
    pub(crate) volume: Name,
    pub(crate) readonly: bool,
    pub(crate) span: Span,
}

impl<'a> Lower<'a> {
    pub(crate) fn new(
        files: &'a Files,
        sink: &'a mut Sink,
        declared: &'a Declared,
        networks: &'a BTreeMap<Name, Node>,
        env_files: &'a HashMap<String, EnvFile>,
    ) -> Self {
        Self {
            files,
            sink,
            declared,
            networks,
            env_files,
            edges: Vec::new(),
            host_ports: Vec::new(),
            volume_uses: Vec::new(),
            env_places: HashMap::new(),
        }
    }

    pub(crate) fn report(&mut self, problem: Problem) {
        self.sink.add(self.files, problem);
    }

    /// The table of `node`, complete as `def` wants it.
    pub(crate) fn open<'n>(&mut self, node: &'n Node, def: &TableDef) -> Option<&'n Table> {
        let table = node.as_table()?;
        if !def.whole {
            check::complete(self.files, self.sink, table, node.span, def);
        }
        Some(table)
    }

    /// A host path of `node`, absolute.
    pub(crate) fn host_path(&self, node: &Node) -> Option<String> {
        let text = node.as_str()?;
        Some(path::absolute(&self.files.of(node.span).dir, text))
    }

    /// The declared thing that `node` names.
    pub(crate) fn reference(&mut self, node: &Node, kind: Kind) -> Option<Name> {
        let shown = node.shown(self.files);
        self.resolve(node.as_str()?, &shown, node.span, kind)
    }

    /// The declared thing that is called `text` in the file of `span`.
    pub(crate) fn resolve(
        &mut self,
        text: &str,
        shown: &str,
        span: Span,
        kind: Kind,
    ) -> Option<Name> {
        let local = Name::new(text).ok()?;
        let namespace = self.files.of(span).namespace.as_ref();
        let name = match namespace {
            None => local,
            Some(namespace) => local.within(namespace).ok()?,
        };
        let known = self.declared.get(&kind);
        if known.is_some_and(|known| known.contains_key(&name)) {
            return Some(name);
        }
        let (word, table) = kind.words();
        let mut problem = Problem::new(span, format!("no {word} is called `{shown}`"))
            .label(format!("this {word} is not declared"));
        if !self.sink.is_full() {
            let prefix = namespace.map(|namespace| format!("{namespace}/"));
            let names =
                known.into_iter().flat_map(BTreeMap::keys).filter_map(|name| match &prefix {
                    None => Some(name.as_str()),
                    Some(prefix) => name.as_str().strip_prefix(prefix.as_str()),
                });
            problem = problem
                .suggest(shown, names, || Some(format!("declare it with `[{table}.{shown}]`")));
        }
        self.sink.add_missing(self.files, problem);
        None
    }

    /// `{ env | file | command }`.
    pub(crate) fn source(&mut self, node: &Node) -> Option<SecretFrom> {
        let table = self.open(node, &super::keys::SOURCE)?;
        let entry = table
            .entries
            .iter()
            .find(|entry| matches!(entry.key.as_str(), "env" | "file" | "command"))?;
        Some(match entry.key.as_str() {
            "env" => SecretFrom::Env(entry.node.as_str()?.to_owned()),
            "file" => SecretFrom::File(self.host_path(&entry.node)?),
            _ => SecretFrom::Command(strings(&entry.node)?),
        })
    }
}

/// A list of strings.
pub(crate) fn strings(node: &Node) -> Option<Vec<String>> {
    node.as_list()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

/// A table of strings.
pub(crate) fn string_map(node: &Node) -> BTreeMap<String, String> {
    let Some(table) = node.as_table() else { return BTreeMap::new() };
    let pair = |entry: &super::tree::Entry| {
        entry.node.as_str().map(|text| (entry.key.clone(), text.to_owned()))
    };
    table.entries.iter().filter_map(pair).collect()
}

/// The value of a string that parses.
pub(crate) fn parsed<T: std::str::FromStr>(node: &Node) -> Option<T> {
    node.as_str()?.parse().ok()
}

/// A string that is a word of an enum of `spec`.
pub(crate) fn word<T: serde::de::DeserializeOwned>(node: &Node) -> Option<T> {
    use serde::de::IntoDeserializer as _;
    let text: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        node.as_str()?.into_deserializer();
    T::deserialize(text).ok()
}
