//! The one table of keys. It drives the check of every file, the merge of files, the JSON schema,
//! the reference in `docs/sandboxfile.md` and `msb config --explain`.

mod resources;
mod sandbox;
mod text;

pub(crate) use resources::{NETWORK, REGISTRY, ROOT, SECRET, SOURCE, TLS, VOLUME};
pub(crate) use sandbox::{DEFAULTS, HEALTHCHECK, IMAGE, MOUNT, SANDBOX};
pub(crate) use text::{Text, kinds};

/// A table of the file: its keys and how they go together.
pub(crate) struct TableDef {
    /// What it is called in messages: "a mount".
    pub(crate) name: &'static str,
    /// Where it stands, with `*` for names; only for tables with a section in the reference.
    pub(crate) path: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) keys: &'static [Key],
    pub(crate) rules: &'static [Rule],
    /// Merging never adds to it (an item of a list), so that it is complete as written.
    pub(crate) whole: bool,
}

/// A key of a table.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) ty: Ty,
    /// The default in words; empty when there is none.
    pub(crate) default: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) merge: Merge,
    /// Whether `up` carries it out in this version.
    pub(crate) supported: bool,
}

/// What a value may be.
pub(crate) enum Ty {
    /// A string of some form.
    Text(&'static Text),
    /// One of these words.
    Word(&'static [&'static str]),
    /// An integer from the first to the second.
    Int(i64, i64),
    Bool,
    /// `true` and nothing else.
    True,
    /// An array with at least so many items.
    List(&'static Ty, usize),
    /// A table whose keys are names of the user.
    Map(&'static Text, &'static Ty),
    Table(&'static TableDef),
    /// One of several that differ in their TOML type.
    Any(&'static [Ty]),
}

/// How the keys of one table go together.
pub(crate) enum Rule {
    Required(&'static str),
    ExactlyOne(&'static [&'static str]),
    AtMostOne(&'static [&'static str]),
    AnyOf(&'static [&'static str]),
    Together(&'static str, &'static str),
    /// The first only beside the second.
    Needs(&'static str, &'static str),
}

/// What happens to a list when a later file, a template or a sandbox states it again. Tables are
/// merged by key and everything else is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    Replace,
    /// Added at the end.
    Append,
    /// Added at the end unless it is there.
    Union,
    /// Added, in place of one for the same host port.
    Ports,
    /// A list of names is short for a table with these names.
    Dependencies,
}

pub(crate) const fn key(
    name: &'static str,
    ty: Ty,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key { name, ty, default, doc, merge: Merge::Replace, supported: true }
}

impl Key {
    pub(crate) const fn merge(mut self, merge: Merge) -> Self {
        self.merge = merge;
        self
    }

    /// Decoded, but not carried out in this version.
    pub(crate) const fn later(mut self) -> Self {
        self.supported = false;
        self
    }
}

impl TableDef {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Whether templates and defaults are merged into the table and those below it.
    pub(crate) fn is_sandbox(&self) -> bool {
        self.path == SANDBOX.path || self.path == DEFAULTS.path
    }

    /// Keys that exclude each other.
    pub(crate) fn exclusive(&self) -> impl Iterator<Item = &'static [&'static str]> {
        self.rules.iter().filter_map(|rule| match rule {
            Rule::ExactlyOne(keys) | Rule::AtMostOne(keys) => Some(*keys),
            Rule::Required(_) | Rule::AnyOf(_) | Rule::Together(..) | Rule::Needs(..) => None,
        })
    }

    /// How it is written, where one of several keys says what it is: `{ bind = … }` or `{ tmpfs = … }`.
    pub(crate) fn spelling(&self) -> Option<String> {
        let keys = self.rules.iter().find_map(|rule| match rule {
            Rule::ExactlyOne(keys) => Some(*keys),
            _ => None,
        })?;
        Some(either(keys.iter().map(|key| format!("`{{ {key} = … }}`"))))
    }
}

/// `a`, `b` or `c`.
pub(crate) fn either(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<_> = words.collect();
    match (words.pop(), words.is_empty()) {
        (Some(last), false) => format!("{} or {last}", words.join(", ")),
        (last, _) => last.unwrap_or_default(),
    }
}

impl Ty {
    /// The type in words.
    pub(crate) fn words(&self) -> String {
        match self {
            Ty::Text(text) => text.name.to_owned(),
            Ty::Word(words) => either(words.iter().map(|word| format!("`\"{word}\"`"))),
            Ty::Int(min, max) => format!("an integer from {min} to {max}"),
            Ty::Bool => "true or false".to_owned(),
            Ty::True => "`true`".to_owned(),
            Ty::List(item, _) => format!("an array (each item {})", item.words()),
            Ty::Map(key, value) => {
                format!("a table (each key {}, each value {})", key.name, value.words())
            }
            Ty::Table(def) => def.name.to_owned(),
            Ty::Any(types) => types.iter().map(Ty::words).collect::<Vec<_>>().join(", or "),
        }
    }

    /// The table that this is, or may be.
    pub(crate) fn as_table(&self) -> Option<&'static TableDef> {
        self.find(|ty| if let Ty::Table(def) = ty { Some(*def) } else { None })
    }

    /// The type of the values, if this is a table with free keys.
    pub(crate) fn as_map(&self) -> Option<&'static Ty> {
        self.find(|ty| if let Ty::Map(_, value) = ty { Some(*value) } else { None })
    }

    /// The type of the items, if this is a list.
    pub(crate) fn as_list(&self) -> Option<&'static Ty> {
        self.find(|ty| if let Ty::List(item, _) = ty { Some(*item) } else { None })
    }

    /// What `take` gives for this type, or for the first of its alternatives.
    fn find<T>(&self, take: impl Fn(&Ty) -> Option<T> + Copy) -> Option<T> {
        match self {
            Ty::Any(types) => types.iter().find_map(|ty| ty.find(take)),
            other => take(other),
        }
    }
}
