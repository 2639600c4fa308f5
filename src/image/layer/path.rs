//! Paths of entries: cut into names, checked, and taken through the symlinks of their layer.
//!
//! A path is only ever a walk through a tree in memory, so nothing can lead outside of the image. As in
//! runtimes that unpack each layer into a directory of its own, a parent that is a symlink of the *same*
//! layer is followed within the image, and a symlink of a lower layer is not: the directory that the
//! entry implies replaces it.

use super::error::{Problem, show};
use super::limits::{MAX_PATH_BYTES, MAX_SYMLINKS};
use super::overlay::{LayerDir, Name, What};
use crate::image::erofs::{InodeId, MAX_NAME_BYTES};

/// What the path of an entry stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// An entry of the tree; no names for the root.
    Entry(Vec<&'a [u8]>),
    /// `.wh.NAME`: hides NAME, the last of these names.
    Whiteout(Vec<&'a [u8]>),
    /// `.wh..wh..opq`: hides everything that lower layers have in this directory.
    Opaque(Vec<&'a [u8]>),
    /// Other `.wh..wh.` names: bookkeeping of an old storage driver.
    Ignored,
}

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Cuts a path into names. A leading `/`, empty names and `.` mean nothing; `..` is refused.
pub(super) fn split(path: &[u8], depth: usize) -> Result<Vec<&[u8]>, Problem> {
    if path.len() > MAX_PATH_BYTES {
        return Err(Problem::PathTooLong);
    }
    if path.is_empty() {
        return Err(Problem::NoName);
    }
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => continue,
            b".." => return Err(Problem::DotDot),
            _ if name.contains(&0) => return Err(Problem::Nul),
            _ if name.len() > MAX_NAME_BYTES => return Err(Problem::NameTooLong),
            _ => names.push(name),
        }
    }
    check_depth(names.len(), depth)?;
    Ok(names)
}

fn check_depth(names: usize, depth: usize) -> Result<(), Problem> {
    if names > depth {
        return Err(Problem::Limit { what: "names in a path", limit: depth as u64 });
    }
    Ok(())
}

/// Tells whiteouts from entries.
pub(super) fn classify(mut names: Vec<&[u8]>) -> Result<Target<'_>, Problem> {
    let Some((&last, parents)) = names.split_last() else { return Ok(Target::Entry(names)) };
    if parents.iter().any(|name| name.starts_with(WHITEOUT_META)) {
        return Ok(Target::Ignored);
    }
    if parents.iter().any(|name| name.starts_with(WHITEOUT)) {
        return Err(Problem::Whiteout);
    }
    if last == OPAQUE {
        names.pop();
        return Ok(Target::Opaque(names));
    }
    if last.starts_with(WHITEOUT_META) {
        return Ok(Target::Ignored);
    }
    match last.strip_prefix(WHITEOUT) {
        None => Ok(Target::Entry(names)),
        Some(b"" | b"." | b"..") => Err(Problem::Whiteout),
        Some(hidden) => {
            names.pop();
            names.push(hidden);
            Ok(Target::Whiteout(names))
        }
    }
}

/// The names of `path` with every symlink among its parents followed. `target` tells the target of an
/// inode that is a symlink.
pub(super) fn resolve<'t>(
    tree: &'t LayerDir,
    path: &[&[u8]],
    depth: usize,
    target: impl Fn(InodeId) -> Option<&'t [u8]>,
) -> Result<Vec<Name>, Problem> {
    let Some((last, parents)) = path.split_last() else { return Ok(Vec::new()) };
    let mut done: Vec<Name> = Vec::with_capacity(path.len());
    let mut todo: Vec<Name> = parents.iter().rev().map(|name| (*name).into()).collect();
    // The directory that `done` names, while the layer has it.
    let mut here = Some(tree);
    let mut followed = 0;
    while let Some(name) = todo.pop() {
        if *name == *b".." {
            done.pop();
            here = walk(tree, &done);
            continue;
        }
        match here.and_then(|dir| dir.entries.get(&name)).map(|node| &node.what) {
            Some(What::Dir(dir)) => here = Some(dir),
            Some(What::Nothing) | None => here = None,
            Some(What::Leaf(id)) => {
                let Some(link) = target(*id) else {
                    done.push(name);
                    return Err(Problem::ParentNotDirectory(show(&done.join(&b'/'))));
                };
                followed += 1;
                if followed > MAX_SYMLINKS {
                    return Err(Problem::SymlinkLoop);
                }
                if link.starts_with(b"/") {
                    done.clear();
                    here = Some(tree);
                }
                let names = link.split(|byte| *byte == b'/').rev();
                let names = names.filter(|name| !matches!(*name, b"" | b"."));
                todo.extend(names.map(Name::from));
                // Every round takes one name off, so this bounds the work too.
                check_depth(todo.len(), depth)?;
                continue;
            }
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(Problem::NameTooLong);
        }
        done.push(name);
    }
    done.push((*last).into());
    check_depth(done.len(), depth)?;
    Ok(done)
}

/// The directory at `names`, if the layer has one there.
fn walk<'t>(tree: &'t LayerDir, names: &[Name]) -> Option<&'t LayerDir> {
    names.iter().try_fold(tree, |dir, name| match &dir.entries.get(name)?.what {
        What::Dir(child) => Some(child),
        What::Nothing | What::Leaf(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &[u8]) -> Result<Target<'_>, Problem> {
        classify(split(path, 10)?)
    }

    #[test]
    fn paths() {
        let entry = |names: &[&'static str]| {
            Ok(Target::Entry(names.iter().map(|name| name.as_bytes()).collect()))
        };
        assert_eq!(target(b"./"), entry(&[]));
        assert_eq!(target(b"/"), entry(&[]));
        assert_eq!(target(b"/a//b/./c/"), entry(&["a", "b", "c"]));
        assert_eq!(target(b".whatever"), entry(&[".whatever"]));
        assert_eq!(target(b"a/.wh.b"), Ok(Target::Whiteout(vec![b"a", b"b"])));
        assert_eq!(target(b"a/.wh..wh..opq"), Ok(Target::Opaque(vec![b"a"])));
        assert_eq!(target(b".wh..wh..opq"), Ok(Target::Opaque(vec![])));
        assert_eq!(target(b".wh..wh.plnk/1.2"), Ok(Target::Ignored));
        assert_eq!(target(b".wh..wh.aufs"), Ok(Target::Ignored));
        for (path, problem) in [
            (b"".as_slice(), Problem::NoName),
            (b"a/../b", Problem::DotDot),
            (b"..", Problem::DotDot),
            (b"a\0b", Problem::Nul),
            (b".wh.", Problem::Whiteout),
            (b".wh...", Problem::Whiteout),
            (b".wh..", Problem::Whiteout),
            (b".wh.a/b", Problem::Whiteout),
            (&[b'x'; 256], Problem::NameTooLong),
            (&b"ab/".repeat(1366), Problem::PathTooLong),
            (b"1/2/3/4/5/6/7/8/9/10/11", Problem::Limit { what: "names in a path", limit: 10 }),
        ] {
            assert_eq!(target(path), Err(problem));
        }
    }
}
