//! The tree of changes: what the layer will hold, over an image that is only looked at.
//!
//! A directory that both have is copied up with the image's attributes and knows the image's names,
//! so that a look at the tree is a look at what the guest will see. A directory without a lower one
//! hides whatever the image has under its name.

use std::collections::BTreeMap;

use super::error::Problem;
use super::limits::{MAX_DEPTH, MAX_ENTRIES, MAX_SYMLINKS};
use super::lower::{Lower, Stat};
use crate::image::erofs::{Attr, MAX_NAME_BYTES};

/// One name of a path.
pub(super) type Name = Box<[u8]>;

/// Longest path in bytes (`PATH_MAX` without its NUL).
const MAX_PATH_BYTES: usize = 4095;
/// What a name of the layer stands for.
#[derive(Debug)]
pub(super) enum Node {
    Dir(Dir),
    File(Attr, Vec<Part>),
    Symlink(Attr, Vec<u8>),
    Whiteout,
}

/// A directory of the layer.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) attr: Attr,
    /// The image's entries, where this is merged with a directory of the image.
    pub(super) lower: Option<BTreeMap<Name, u64>>,
    pub(super) entries: BTreeMap<Name, Node>,
}

/// Where bytes of a file come from.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Bytes(Vec<u8>),
    /// A whole file of the image.
    Image(Stat),
    /// Entry of the scan of a patch.
    Source {
        patch: usize,
        entry: usize,
        size: u64,
    },
}

impl Part {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Image(stat) => stat.size,
            Self::Source { size, .. } => *size,
        }
    }
}

/// What the guest will see under a path.
#[derive(Debug)]
pub(super) enum Seen {
    Nothing,
    Dir,
    Symlink(Vec<u8>),
    /// A regular file.
    File,
    /// A device, pipe or socket of the image.
    Special,
}

/// The changes so far.
#[derive(Debug)]
pub(super) struct Tree<'i> {
    image: &'i Lower,
    pub(super) root: Dir,
    entries: usize,
    /// The time of directories that are made, in seconds since 1970.
    now: i64,
}

enum At<'t> {
    Layer(&'t Node),
    Root(&'t Dir),
    Image(Stat),
}

/// The path that `names` make.
pub(super) fn shown(names: &[Name]) -> String {
    let mut path = String::new();
    for name in names {
        path.push('/');
        path.push_str(&String::from_utf8_lossy(name));
    }
    if path.is_empty() { "/".to_owned() } else { path }
}

fn merged(image: &Lower, stat: Stat) -> Result<Dir, Problem> {
    Ok(Dir {
        attr: image.attr(stat)?,
        lower: Some(image.names(stat)?.into_iter().collect()),
        entries: BTreeMap::new(),
    })
}

fn is_dir(stat: Stat) -> bool {
    stat.mode >> 12 == 0o4
}

fn is_file(stat: Stat) -> bool {
    stat.mode >> 12 == 0o10
}

impl<'i> Tree<'i> {
    /// No changes to `image`; directories are made at the time `now`.
    pub(super) fn new(image: &'i Lower, now: i64) -> Result<Self, Problem> {
        let root = merged(image, image.root()?)?;
        Ok(Self { image, root, entries: 0, now })
    }

    fn at(&self, names: &[Name]) -> Result<Option<At<'_>>, Problem> {
        let mut at = At::Root(&self.root);
        for name in names {
            let dir = match at {
                At::Root(dir) | At::Layer(Node::Dir(dir)) => dir,
                At::Image(stat) if is_dir(stat) => {
                    let entries = self.image.names(stat)?;
                    let found = entries.binary_search_by(|(other, _)| other.cmp(name));
                    let Ok(index) = found else { return Ok(None) };
                    at = At::Image(self.image.stat(entries[index].1)?);
                    continue;
                }
                At::Image(_) | At::Layer(_) => return Ok(None),
            };
            at = match (dir.entries.get(name), &dir.lower) {
                (Some(node), _) => At::Layer(node),
                (None, Some(lower)) => match lower.get(name) {
                    Some(nid) => At::Image(self.image.stat(*nid)?),
                    None => return Ok(None),
                },
                (None, None) => return Ok(None),
            };
        }
        Ok(Some(at))
    }

    /// What is at `names`, none of which is followed.
    pub(super) fn see(&self, names: &[Name]) -> Result<Seen, Problem> {
        Ok(match self.at(names)? {
            None | Some(At::Layer(Node::Whiteout)) => Seen::Nothing,
            Some(At::Root(_) | At::Layer(Node::Dir(_))) => Seen::Dir,
            Some(At::Layer(Node::File(..))) => Seen::File,
            Some(At::Layer(Node::Symlink(_, target))) => Seen::Symlink(target.clone()),
            Some(At::Image(stat)) => match stat.mode >> 12 {
                0o4 => Seen::Dir,
                0o10 => Seen::File,
                0o12 => Seen::Symlink(self.image.target(stat)?),
                _ => Seen::Special,
            },
        })
    }

    /// The file at `names`: attributes and contents.
    pub(super) fn file(&self, names: &[Name]) -> Result<Option<(Attr, Vec<Part>)>, Problem> {
        Ok(match self.at(names)? {
            Some(At::Layer(Node::File(attr, parts))) => Some((attr.clone(), parts.clone())),
            Some(At::Image(stat)) if is_file(stat) => {
                Some((self.image.attr(stat)?, vec![Part::Image(stat)]))
            }
            _ => None,
        })
    }

    /// The names of `path` with the symbolic links among its parents followed, and with `last` one at
    /// its end. What is not there is taken as it is said.
    pub(super) fn resolve(&self, path: &[u8], last: bool) -> Result<Vec<Name>, Problem> {
        let mut done: Vec<Name> = Vec::new();
        let mut todo: Vec<Name> = Vec::new();
        push_names(&mut todo, path);
        let mut followed = 0;
        while let Some(name) = todo.pop() {
            if *name == *b".." {
                done.pop();
                continue;
            }
            let is_last = todo.is_empty();
            done.push(name);
            match self.see(&done)? {
                Seen::Symlink(target) if last || !is_last => {
                    followed += 1;
                    if followed > MAX_SYMLINKS {
                        return Err(Problem::Loop(shown(&done)));
                    }
                    done.pop();
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    push_names(&mut todo, &target);
                }
                Seen::File | Seen::Special if !is_last => {
                    return Err(Problem::NotAGuestDirectory(shown(&done)));
                }
                Seen::Nothing | Seen::Dir | Seen::Symlink(_) | Seen::File | Seen::Special => {}
            }
            check_length(&done, &todo)?;
        }
        Ok(done)
    }

    /// The directory at `names`, in the layer from here on; it and its parents are made where missing.
    pub(super) fn dir(&mut self, names: &[Name]) -> Result<&mut Dir, Problem> {
        let Self { image, root, entries, now } = self;
        let mut dir = root;
        for (index, name) in names.iter().enumerate() {
            let not_a_dir = || Problem::NotAGuestDirectory(shown(&names[..=index]));
            if !matches!(dir.entries.get(name), Some(Node::Dir(_))) {
                let lower = dir.lower.as_ref().and_then(|lower| lower.get(name));
                let made = match (dir.entries.get(name), lower) {
                    (None, Some(nid)) => {
                        let stat = image.stat(*nid)?;
                        if !is_dir(stat) {
                            return Err(not_a_dir());
                        }
                        merged(image, stat)?
                    }
                    (None | Some(Node::Whiteout), _) => {
                        let attr = Attr { mtime: *now, ..Attr::mode(0o755) };
                        Dir { attr, lower: None, entries: BTreeMap::new() }
                    }
                    (Some(_), _) => return Err(not_a_dir()),
                };
                count(entries)?;
                dir.entries.insert(name.clone(), Node::Dir(made));
            }
            match dir.entries.get_mut(name) {
                Some(Node::Dir(child)) => dir = child,
                _ => return Err(not_a_dir()),
            }
        }
        Ok(dir)
    }

    /// Puts what is no directory at `names`, over whatever is there.
    pub(super) fn put(&mut self, names: &[Name], node: Node) -> Result<(), Problem> {
        let Some((last, parents)) = names.split_last() else {
            return Err(Problem::IsDirectory("/".to_owned()));
        };
        count(&mut self.entries)?;
        self.dir(parents)?.entries.insert(last.clone(), node);
        Ok(())
    }

    /// Removes what is at `names`.
    pub(super) fn remove(&mut self, names: &[Name]) -> Result<(), Problem> {
        let Some((last, parents)) = names.split_last() else {
            return Err(Problem::IsDirectory("/".to_owned()));
        };
        count(&mut self.entries)?;
        let dir = self.dir(parents)?;
        if dir.lower.as_ref().is_some_and(|lower| lower.contains_key(last)) {
            dir.entries.insert(last.clone(), Node::Whiteout);
        } else {
            dir.entries.remove(last);
        }
        Ok(())
    }
}

fn count(entries: &mut usize) -> Result<(), Problem> {
    *entries += 1;
    if *entries > MAX_ENTRIES { Err(Problem::TooMany) } else { Ok(()) }
}

/// Puts the names of `path` on a stack, the first on top.
fn push_names(stack: &mut Vec<Name>, path: &[u8]) {
    let names = path.split(|byte| *byte == b'/').rev();
    stack.extend(names.filter(|name| !matches!(*name, b"" | b".")).map(Name::from));
}

fn check_length(done: &[Name], todo: &[Name]) -> Result<(), Problem> {
    if done.len() + todo.len() > MAX_DEPTH {
        return Err(Problem::TooDeep(shown(done)));
    }
    let bytes: usize = done.iter().map(|name| name.len() + 1).sum();
    if bytes > MAX_PATH_BYTES || done.last().is_some_and(|name| name.len() > MAX_NAME_BYTES) {
        return Err(Problem::TooLong(shown(done)));
    }
    Ok(())
}
