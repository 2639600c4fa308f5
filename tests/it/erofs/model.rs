//! Random layers against a model: layers applied bottom first, entry by entry, to a map of paths. The
//! product does it the other way round, so agreement is not by construction.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::build;
use super::tarball::Tar;

/// One entry of a random layer.
#[derive(Clone, Debug)]
enum Op {
    Dir(u16),
    /// Length and seed of the contents.
    File(usize, u8),
    Symlink(String),
    Device(u32),
    Link(String),
    Whiteout,
    Opaque,
}

/// A path and what happens to it.
type Step = (String, Op);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Dir(u16),
    /// Number of the inode.
    Leaf(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Inode {
    File(Vec<u8>),
    Symlink(String),
    Device(u32),
}

#[derive(Default)]
struct Model {
    nodes: BTreeMap<String, Node>,
    inodes: Vec<Inode>,
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn is_below(path: &str, dir: &str) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn contents(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at / 700 % 250).unwrap() ^ seed).collect()
}

impl Model {
    fn remove(&mut self, path: &str) {
        self.nodes.retain(|other, _| other != path && !is_below(other, path));
    }

    /// Missing parents, and parents that are no directories, become directories.
    fn imply(&mut self, path: &str) {
        for parent in parents(path) {
            if !matches!(self.nodes.get(parent), Some(Node::Dir(_))) {
                self.nodes.insert(parent.into(), Node::Dir(0o755));
            }
        }
    }

    /// Applies a layer and returns its archive. Steps that no archive may contain are left out.
    fn layer(&mut self, steps: &[Step]) -> Vec<u8> {
        // Which paths this layer itself makes, and whether they are directories.
        let mut own: BTreeMap<&str, bool> = BTreeMap::new();
        let mut valid: Vec<&Step> = Vec::new();
        for step @ (path, op) in steps {
            let last = if matches!(op, Op::Opaque) { own.get(path.as_str()) } else { None };
            if parents(path).any(|parent| own.get(parent) == Some(&false)) || last == Some(&false) {
                continue;
            }
            for parent in parents(path) {
                own.insert(parent, true);
            }
            match op {
                Op::Dir(_) | Op::Opaque => {
                    own.insert(path, true);
                }
                Op::File(..) | Op::Symlink(_) | Op::Device(_) | Op::Link(_) => {
                    own.retain(|other, _| !is_below(other, path));
                    own.insert(path, false);
                }
                Op::Whiteout => {}
            }
            valid.push(step);
        }
        // Whiteouts are about what was there before the layer.
        for (path, op) in &valid {
            match op {
                Op::Whiteout => self.remove(path),
                Op::Opaque => self.nodes.retain(|other, _| !is_below(other, path)),
                _ => {}
            }
        }
        valid.into_iter().fold(Tar::new(), |tar, (path, op)| self.step(tar, path, op)).end()
    }

    fn step(&mut self, tar: Tar, path: &str, op: &Op) -> Tar {
        if let Op::Link(target) = op
            && !matches!(self.nodes.get(target), Some(Node::Leaf(_)))
        {
            // Not in the archive, but its parents were counted as the layer's own.
            let Some((parent, _)) = path.rsplit_once('/') else { return tar };
            self.imply(path);
            return tar.file(&format!("{parent}/.wh..wh.nothing"), "").dir_if_implied(self, parent);
        }
        let linked = match op {
            Op::Link(target) => self.nodes.get(target).cloned(),
            _ => None,
        };
        self.imply(path);
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let leaf = |model: &mut Self, node: Node| {
            model.remove(path);
            model.nodes.insert(path.into(), node);
        };
        match op {
            Op::Dir(mode) => {
                self.nodes.insert(path.into(), Node::Dir(*mode));
                tar.dir(path, *mode)
            }
            Op::Whiteout => tar.file(&format!("{parent}/.wh.{name}"), ""),
            Op::Opaque => {
                self.imply(&format!("{path}/x"));
                tar.file(&format!("{path}/.wh..wh..opq"), "")
            }
            Op::Link(target) => {
                leaf(self, linked.unwrap());
                tar.link(path, target)
            }
            Op::File(length, seed) => {
                let bytes = contents(*length, *seed);
                let node = self.inode(Inode::File(bytes.clone()));
                leaf(self, node);
                tar.file(path, bytes)
            }
            Op::Symlink(target) => {
                let node = self.inode(Inode::Symlink(target.clone()));
                leaf(self, node);
                tar.symlink(path, target)
            }
            Op::Device(minor) => {
                let node = self.inode(Inode::Device(*minor));
                leaf(self, node);
                tar.device(path, b'3', 1, *minor)
            }
        }
    }

    fn inode(&mut self, inode: Inode) -> Node {
        self.inodes.push(inode);
        Node::Leaf(self.inodes.len() - 1)
    }
}

impl Tar {
    /// An entry for a directory as the model has it.
    fn dir_if_implied(self, model: &Model, path: &str) -> Self {
        match model.nodes.get(path) {
            Some(Node::Dir(mode)) => self.dir(path, *mode),
            _ => self,
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "-d"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0_u16..8).prop_map(|bits| Op::Dir(0o700 | bits)),
        4 => (prop::sample::select(vec![0, 1, 512, 513, 4096, 9000, 1 << 20]), any::<u8>())
            .prop_map(|(length, seed)| Op::File(length, seed)),
        1 => "[a-z]{1,80}".prop_map(Op::Symlink),
        1 => (0_u32..300).prop_map(Op::Device),
        3 => path().prop_map(Op::Link),
        2 => Just(Op::Whiteout),
        1 => Just(Op::Opaque),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn layers_top_first_are_layers_bottom_first(
        layers in prop::collection::vec(prop::collection::vec((path(), op()), 0..12), 1..5)
    ) {
        let mut model = Model::default();
        let tars: Vec<_> = layers.iter().map(|steps| model.layer(steps)).collect();
        let built = build(&tars);
        let expected: BTreeSet<&str> = model.nodes.keys().map(String::as_str).collect();
        let found = built.paths();
        prop_assert_eq!(expected, found.iter().map(String::as_str).collect::<BTreeSet<_>>());
        let mut numbers: BTreeMap<usize, u64> = BTreeMap::new();
        for (path, node) in &model.nodes {
            let stat = built.at(path);
            let id = match node {
                Node::Dir(mode) => {
                    prop_assert_eq!(stat.mode, 0o040_000 | mode, "{}", path);
                    continue;
                }
                Node::Leaf(id) => *id,
            };
            // Names share an inode exactly when they do so in the model.
            prop_assert_eq!(*numbers.entry(id).or_insert(stat.nid), stat.nid, "{}", path);
            let inode = match stat.mode >> 12 {
                0o10 => Inode::File(built.image.contents(stat).unwrap()),
                0o12 => Inode::Symlink(built.text(path)),
                _ => Inode::Device((stat.rdev & 0xff) | ((stat.rdev >> 12) & !0xff)),
            };
            prop_assert!(inode == model.inodes[id], "{}", path);
        }
        let distinct: BTreeSet<_> = numbers.values().collect();
        prop_assert_eq!(distinct.len(), numbers.len());
    }
}
