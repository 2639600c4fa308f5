//! The tree of one layer, and laying one tree over another.
//!
//! Within a layer, entries are applied in the order of the archive, a later one over an earlier one of
//! the same path. A whiteout or opaque marker hides what lower layers have, never its own layer's
//! entries, wherever in the archive it stands. Between layers:
//!
//! ```text
//!  upper \ lower   nothing      directory                  anything else    whiteout
//!  nothing         –            lower                      lower            whiteout
//!  directory       upper        merged, upper's attributes  upper, opaque    upper, opaque
//!  anything else   upper        upper                      upper            upper
//!  whiteout        whiteout     whiteout                   whiteout         whiteout
//! ```
//!
//! A directory that a layer only implies (an entry below it, none for itself) takes its attributes from
//! the next lower layer that has the directory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::image::erofs::{Attr, InodeId};

/// A name in a path.
pub(super) type Name = Box<[u8]>;

/// A directory of a layer, or of several that were merged.
#[derive(Debug, Default)]
pub(super) struct LayerDir {
    /// `None` while only implied.
    pub(super) attr: Option<Attr>,
    /// Nothing of lower layers shows through.
    pub(super) opaque: bool,
    pub(super) entries: BTreeMap<Name, LayerNode>,
}

/// What a layer has under a name.
#[derive(Debug, Default)]
pub(super) struct LayerNode {
    /// Whatever lower layers have under this name is hidden.
    pub(super) whiteout: bool,
    pub(super) what: What,
}

/// What a layer shows under a name.
#[derive(Debug, Default)]
pub(super) enum What {
    /// Nothing: the node is only a whiteout.
    #[default]
    Nothing,
    Dir(LayerDir),
    Leaf(InodeId),
}

/// What a layer says about a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing; lower layers decide.
    Nothing,
    /// That there is none, whatever lower layers have.
    Hidden,
    Dir,
    Leaf(InodeId),
}

impl LayerNode {
    /// Makes this a directory, keeping it if it is one.
    pub(super) fn make_dir(&mut self) -> &mut LayerDir {
        if !matches!(self.what, What::Dir(_)) {
            // The file that was here has replaced what lower layers have.
            self.whiteout |= matches!(self.what, What::Leaf(_));
            self.what = What::Dir(LayerDir::default());
        }
        match &mut self.what {
            What::Dir(dir) => dir,
            What::Nothing | What::Leaf(_) => unreachable!("made a directory above"),
        }
    }

    /// Lays this over `lower`.
    fn cover(&mut self, lower: LayerNode) {
        if self.whiteout {
            return;
        }
        match (&mut self.what, lower.what) {
            (What::Dir(upper), What::Dir(dir)) => {
                upper.cover(dir);
                self.whiteout = lower.whiteout;
            }
            (What::Dir(_), What::Nothing | What::Leaf(_)) => self.whiteout = true,
            (What::Leaf(_) | What::Nothing, _) => {}
        }
    }
}

impl LayerDir {
    /// Lays this over `lower`.
    pub(super) fn cover(&mut self, lower: LayerDir) {
        // Opaque is about entries: the directory is still the one that lower layers describe.
        if self.attr.is_none() {
            self.attr = lower.attr;
        }
        if self.opaque {
            return;
        }
        self.opaque = lower.opaque;
        if self.entries.is_empty() {
            self.entries = lower.entries;
            return;
        }
        for (name, node) in lower.entries {
            match self.entries.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(node);
                }
                Entry::Occupied(mut upper) => upper.get_mut().cover(node),
            }
        }
    }

    /// What is said about `path`, taken literally: no symlink is followed.
    pub(super) fn find(&self, path: &[Name]) -> Found {
        let mut dir = self;
        let mut hidden = self.opaque;
        for (index, name) in path.iter().enumerate() {
            let Some(node) = dir.entries.get(name) else {
                return if hidden { Found::Hidden } else { Found::Nothing };
            };
            hidden |= node.whiteout;
            match &node.what {
                What::Nothing => return Found::Hidden,
                What::Leaf(id) if index + 1 == path.len() => return Found::Leaf(*id),
                What::Leaf(_) => return Found::Hidden,
                What::Dir(child) => {
                    dir = child;
                    hidden |= child.opaque;
                }
            }
        }
        Found::Dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.as_bytes().into()
    }

    fn leaf(id: usize) -> LayerNode {
        LayerNode { whiteout: false, what: What::Leaf(InodeId(id)) }
    }

    fn whiteout() -> LayerNode {
        LayerNode { whiteout: true, what: What::Nothing }
    }

    fn dir(mode: Option<u16>, entries: Vec<(&str, LayerNode)>) -> LayerNode {
        let entries = entries.into_iter().map(|(text, node)| (name(text), node)).collect();
        let attr = mode.map(Attr::mode);
        LayerNode { whiteout: false, what: What::Dir(LayerDir { attr, opaque: false, entries }) }
    }

    fn merged(upper: LayerNode, lower: LayerNode) -> String {
        fn show(node: &LayerNode, out: &mut String) {
            out.push_str(if node.whiteout { "!" } else { "" });
            match &node.what {
                What::Nothing => {}
                What::Leaf(id) => out.push_str(&id.0.to_string()),
                What::Dir(dir) => {
                    let mode = dir.attr.as_ref().map_or(0, |attr| attr.mode);
                    out.push_str(&format!("{mode:o}{{"));
                    for (name, node) in &dir.entries {
                        out.push_str(&format!("{}:", String::from_utf8_lossy(name)));
                        show(node, out);
                        out.push(' ');
                    }
                    out.push('}');
                }
            }
        }
        let mut upper = upper;
        upper.cover(lower);
        let mut out = String::new();
        show(&upper, &mut out);
        out
    }

    #[test]
    fn the_table_of_the_module() {
        let upper_dir = || dir(Some(0o700), vec![("u", leaf(1))]);
        let lower_dir = || dir(Some(0o755), vec![("l", leaf(2))]);
        assert_eq!(merged(upper_dir(), lower_dir()), "700{l:2 u:1 }");
        assert_eq!(merged(dir(None, vec![]), lower_dir()), "755{l:2 }");
        assert_eq!(merged(upper_dir(), leaf(3)), "!700{u:1 }");
        assert_eq!(merged(upper_dir(), whiteout()), "!700{u:1 }");
        assert_eq!(merged(leaf(4), lower_dir()), "4");
        assert_eq!(merged(leaf(4), leaf(5)), "4");
        assert_eq!(merged(whiteout(), lower_dir()), "!");
        assert_eq!(merged(whiteout(), leaf(5)), "!");
    }

    #[test]
    fn what_is_hidden_stays_hidden() {
        let mut top = dir(None, vec![("a", dir(None, vec![])), ("b", leaf(1)), ("c", whiteout())]);
        top.cover(dir(None, vec![("a", leaf(2))]));
        let What::Dir(top) = top.what else { panic!() };
        let find =
            |path: &[&str]| top.find(&path.iter().map(|part| name(part)).collect::<Vec<_>>());
        assert_eq!(find(&["a"]), Found::Dir);
        assert_eq!(find(&["a", "x"]), Found::Hidden);
        assert_eq!(find(&["b"]), Found::Leaf(InodeId(1)));
        assert_eq!(find(&["b", "x"]), Found::Hidden);
        assert_eq!(find(&["c"]), Found::Hidden);
        assert_eq!(find(&["d"]), Found::Nothing);
        assert_eq!(find(&["d", "x"]), Found::Nothing);
    }
}
