//! Where a declared value was written.
//!
//! Most runs never ask for a place, so a place is kept as a byte offset in a tree that mirrors the
//! file; lines and columns are counted when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

/// A place in a Sandboxfile. Lines and columns count from 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The file, as the user would name it.
    pub file: Arc<str>,
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// A text with its name, which tells line and column of a byte offset.
pub struct SourceText {
    name: Arc<str>,
    text: Arc<str>,
    line_starts: OnceLock<Vec<u32>>,
}

/// A place in the tree of [`Origins`], with the places below it.
#[derive(Clone, Debug, Default)]
pub struct OriginNode {
    /// Index of the text and byte offset in it; none for a table that is only implied.
    pub place: Option<(u32, u32)>,
    /// The places below.
    pub children: OriginChildren,
}

/// The places below a place.
#[derive(Clone, Debug, Default)]
pub enum OriginChildren {
    /// None are kept.
    #[default]
    None,
    /// Items of a list; their path segment is their index.
    List(Vec<OriginNode>),
    /// Entries of a table, sorted by key.
    Table(Vec<(Box<str>, OriginNode)>),
}

/// Places by dotted path of the canonical form: `sandbox.api.env.PORT`, `volume.pgdata.quota`,
/// `sandbox.api` for the table itself, `sandbox.api.ports.0` for the first item of a list. Name
/// segments with `/` and keys with dots stay as they are.
#[derive(Clone, Default)]
pub struct Origins {
    texts: Vec<Arc<SourceText>>,
    root: OriginNode,
    stated: BTreeMap<String, Origin>,
}

impl SourceText {
    /// A text under the name by which the user knows it.
    pub fn new(name: impl Into<Arc<str>>, text: Arc<str>) -> Self {
        Self { name: name.into(), text, line_starts: OnceLock::new() }
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The text.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The place of the byte at `offset` (or of the end, when it lies behind).
    pub fn place(&self, offset: usize) -> Origin {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let starts = self.line_starts.get_or_init(|| line_starts(&self.text));
        let line = starts.partition_point(|start| *start as usize <= offset).max(1);
        let start = starts.get(line - 1).map_or(0, |start| *start as usize);
        let column = self.text[start..offset].chars().count() + 1;
        Origin { file: self.name.clone(), line: clamp(line), column: clamp(column) }
    }
}

fn line_starts(text: &str) -> Vec<u32> {
    let after_newline =
        text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| clamp(at + 1));
    std::iter::once(0).chain(after_newline).collect()
}

fn clamp(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl Origins {
    /// Places given as a tree over `texts`.
    pub fn new(texts: Vec<Arc<SourceText>>, root: OriginNode) -> Self {
        Self { texts, root, stated: BTreeMap::new() }
    }

    /// Records where the value at `path` was written; it wins over the tree.
    pub fn insert(&mut self, path: String, origin: Origin) {
        self.stated.insert(path, origin);
    }

    /// The place of `path`, or of its nearest recorded ancestor.
    pub fn get(&self, path: &str) -> Option<Origin> {
        let mut ancestor = path;
        while !self.stated.is_empty() {
            if let Some(origin) = self.stated.get(ancestor) {
                return Some(origin.clone());
            }
            let Some(dot) = ancestor.rfind('.') else { break };
            ancestor = &ancestor[..dot];
        }
        self.resolve(self.root.find(path)?)
    }

    /// The text and byte offset of `path`, or of its nearest ancestor in the tree.
    pub fn locate(&self, path: &str) -> Option<(Arc<SourceText>, usize)> {
        let (text, offset) = self.root.find(path)?;
        Some((self.texts.get(text as usize)?.clone(), offset as usize))
    }

    fn resolve(&self, (text, offset): (u32, u32)) -> Option<Origin> {
        Some(self.texts.get(text as usize)?.place(offset as usize))
    }

    /// Every recorded place, in order of path.
    pub fn iter(&self) -> impl Iterator<Item = (String, Origin)> {
        let mut all = self.stated.clone();
        self.root.visit("", &mut |path, place| {
            if let (false, Some(origin)) = (all.contains_key(path), self.resolve(place)) {
                all.insert(path.to_owned(), origin);
            }
        });
        all.into_iter()
    }
}

impl OriginNode {
    /// The deepest place on the way to `path`.
    fn find(&self, path: &str) -> Option<(u32, u32)> {
        let below = match &self.children {
            OriginChildren::None => None,
            OriginChildren::List(items) => {
                let (index, rest) = path.split_once('.').unwrap_or((path, ""));
                index.parse().ok().and_then(|index: usize| items.get(index)?.find(rest))
            }
            OriginChildren::Table(entries) => find_entry(entries, path),
        };
        below.or(self.place)
    }

    fn visit(&self, path: &str, each: &mut impl FnMut(&str, (u32, u32))) {
        if let (false, Some(place)) = (path.is_empty(), self.place) {
            each(path, place);
        }
        let join =
            |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match &self.children {
            OriginChildren::None => {}
            OriginChildren::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    item.visit(&join(&index.to_string()), each);
                }
            }
            OriginChildren::Table(entries) => {
                for (key, entry) in entries {
                    entry.visit(&join(key), each);
                }
            }
        }
    }
}

/// The entry whose key is the start of `path` up to one of its dots. Keys may hold dots
/// themselves (registries, file names), so every dot is tried, the last one first.
fn find_entry(entries: &[(Box<str>, OriginNode)], path: &str) -> Option<(u32, u32)> {
    let mut key = path;
    while !key.is_empty() {
        if let Ok(at) = entries.binary_search_by(|(name, _)| (**name).cmp(key)) {
            let rest = path[key.len()..].trim_start_matches('.');
            return entries[at].1.find(rest);
        }
        key = &key[..key.rfind('.')?];
    }
    None
}

impl fmt::Debug for SourceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SourceText").field(&self.name).finish()
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(offset: u32) -> OriginNode {
        OriginNode { place: Some((0, offset)), children: OriginChildren::None }
    }

    fn table(place: Option<(u32, u32)>, entries: Vec<(&str, OriginNode)>) -> OriginNode {
        let entries = entries.into_iter().map(|(key, node)| (key.into(), node)).collect();
        OriginNode { place, children: OriginChildren::Table(entries) }
    }

    #[test]
    fn finds_the_nearest_ancestor_and_keys_with_dots() {
        let text = Arc::new(SourceText::new("f", "a\nü b\nc".into()));
        let ports = OriginNode {
            place: Some((0, 2)),
            children: OriginChildren::List(vec![leaf(5), leaf(7)]),
        };
        let root = table(
            None,
            vec![
                ("registry", table(None, vec![("a.b:1", leaf(7))])),
                (
                    "sandbox",
                    table(None, vec![("x/y", table(Some((0, 0)), vec![("ports", ports)]))]),
                ),
            ],
        );
        let origins = Origins::new(vec![text], root);
        let at = |path: &str| origins.get(path).map(|o| o.to_string());
        assert_eq!(at("sandbox.x/y.env.A").as_deref(), Some("f:1:1"));
        assert_eq!(at("sandbox.x/y.ports.0").as_deref(), Some("f:2:3"));
        assert_eq!(at("sandbox.x/y.ports.9").as_deref(), Some("f:2:1"));
        assert_eq!(at("registry.a.b:1.password").as_deref(), Some("f:3:1"));
        assert_eq!(at("sandbox.z"), None);
        assert_eq!(origins.iter().count(), 5);
    }
}
