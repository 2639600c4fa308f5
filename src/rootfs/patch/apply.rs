//! What each kind of patch does to the tree of changes.

use super::error::Problem;
use super::limits::{MAX_FILE_BYTES, MAX_TARGET_BYTES};
use super::source::{Entry, Scan, What};
use super::tree::{Name, Node, Part, Seen, Tree, shown};
use crate::image::erofs::Attr;
use crate::spec::Patch;

/// Mode of files, where none is stated.
const FILE_MODE: u16 = 0o644;
/// Files that every guest has, whatever its image holds: the agent makes what is missing.
const GUEST_FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// Applies the patch number `index`, whose source holds what `scan` says; `now` is the time of what it
/// writes, in seconds since 1970.
pub(super) fn apply(
    tree: &mut Tree<'_>,
    index: usize,
    patch: &Patch,
    scan: Option<&Scan>,
    now: i64,
) -> Result<(), Problem> {
    let path = patch.target().as_str().as_bytes();
    match patch {
        Patch::Text { content, mode, replace, .. } => {
            let file = Node::File(written(*mode, now), vec![text(content)]);
            let names = tree.resolve(path, false)?;
            put(tree, &names, file, *replace)
        }
        Patch::Mkdir { mode, .. } => {
            let names = tree.resolve(path, true)?;
            mkdir(tree, &names, mode.map(bits))
        }
        Patch::Append { content, .. } => append(tree, path, content, now),
        Patch::CopyFile { mode, replace, .. } => {
            let Some((number, entry)) = scan.and_then(|scan| Some((0, scan.entries.first()?)))
            else {
                return Err(Problem::NoDigest);
            };
            let names = tree.resolve(path, false)?;
            copy(tree, &names, (index, number), entry, mode.map(bits), *replace)
        }
        Patch::CopyDir { replace, .. } => {
            copy_dir(tree, path, index, scan.ok_or(Problem::NoDigest)?, *replace)
        }
        Patch::Symlink { target, replace, .. } => {
            let attr = Attr { mtime: now, ..Attr::mode(0o777) };
            let link = link(attr, target.as_bytes())?;
            let names = tree.resolve(path, false)?;
            put(tree, &names, link, *replace)
        }
        Patch::Remove { .. } => {
            let names = tree.resolve(path, false)?;
            match tree.see(&names)? {
                // What is not there is as wanted.
                Seen::Nothing => Ok(()),
                Seen::Dir | Seen::Symlink(_) | Seen::File | Seen::Special => tree.remove(&names),
            }
        }
    }
}

fn bits(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

fn written(mode: Option<u32>, now: i64) -> Attr {
    Attr { mtime: now, ..Attr::mode(mode.map_or(FILE_MODE, bits)) }
}

fn text(content: &str) -> Part {
    Part::Bytes(content.as_bytes().to_vec())
}

fn link(attr: Attr, target: &[u8]) -> Result<Node, Problem> {
    if target.is_empty() || target.len() > MAX_TARGET_BYTES || target.contains(&0) {
        return Err(Problem::BadTarget);
    }
    Ok(Node::Symlink(attr, target.to_owned()))
}

/// Puts what is no directory where nothing is, or with `replace` no directory.
fn put(tree: &mut Tree<'_>, names: &[Name], node: Node, replace: bool) -> Result<(), Problem> {
    match tree.see(names)? {
        Seen::Nothing => {}
        Seen::Dir => return Err(Problem::IsDirectory(shown(names))),
        Seen::Symlink(_) | Seen::File | Seen::Special if !replace => {
            return Err(Problem::Exists(shown(names)));
        }
        Seen::Symlink(_) | Seen::File | Seen::Special => {}
    }
    tree.put(names, node)
}

/// Makes a directory where there is none, and gives it a mode where one is stated.
fn mkdir(tree: &mut Tree<'_>, names: &[Name], mode: Option<u16>) -> Result<(), Problem> {
    match (tree.see(names)?, mode) {
        (Seen::Dir, None) => {}
        (Seen::Dir | Seen::Nothing, mode) => {
            let dir = tree.dir(names)?;
            dir.attr.mode = mode.unwrap_or(dir.attr.mode);
        }
        (Seen::Symlink(_) | Seen::File | Seen::Special, _) => {
            return Err(Problem::NotAGuestDirectory(shown(names)));
        }
    }
    Ok(())
}

fn append(tree: &mut Tree<'_>, path: &[u8], content: &str, now: i64) -> Result<(), Problem> {
    let names = tree.resolve(path, true)?;
    let (mut attr, mut parts) = match (tree.file(&names)?, tree.see(&names)?) {
        (Some(file), _) => file,
        (None, Seen::Nothing) if GUEST_FILES.iter().any(|file| file.as_bytes() == path) => {
            (Attr::mode(FILE_MODE), Vec::new())
        }
        (None, Seen::Nothing) => return Err(Problem::NoGuestFile(shown(&names))),
        (None, Seen::Dir) => return Err(Problem::IsDirectory(shown(&names))),
        (None, _) => return Err(Problem::NotAGuestFile(shown(&names))),
    };
    parts.push(text(content));
    if parts.iter().map(Part::size).sum::<u64>() > MAX_FILE_BYTES {
        return Err(Problem::FileTooLarge(shown(&names)));
    }
    attr.mtime = now;
    attr.mtime_nsec = 0;
    tree.put(&names, Node::File(attr, parts))
}

fn attr_of(entry: &Entry, mode: Option<u16>) -> Attr {
    Attr {
        mtime: entry.mtime,
        mtime_nsec: entry.mtime_nsec,
        ..Attr::mode(mode.unwrap_or(entry.mode))
    }
}

/// Copies a file or link; `number` is the place of the entry in the scan of the patch.
fn copy(
    tree: &mut Tree<'_>,
    names: &[Name],
    (patch, number): (usize, usize),
    entry: &Entry,
    mode: Option<u16>,
    replace: bool,
) -> Result<(), Problem> {
    let attr = attr_of(entry, mode);
    let node = match &entry.what {
        What::File { size, .. } => {
            Node::File(attr, vec![Part::Source { patch, entry: number, size: *size }])
        }
        What::Symlink(target) => link(attr, target)?,
        What::Dir => return Err(Problem::IsDirectory(shown(names))),
    };
    put(tree, names, node, replace)
}

/// Copies a tree to where nothing is, or with `replace` over a directory that keeps what the tree has
/// not. Directories that are there keep their modes.
fn copy_dir(
    tree: &mut Tree<'_>,
    to: &[u8],
    index: usize,
    scan: &Scan,
    replace: bool,
) -> Result<(), Problem> {
    let base = tree.resolve(to, true)?;
    if matches!(tree.see(&base)?, Seen::Dir) && !replace {
        return Err(Problem::Exists(shown(&base)));
    }
    let base = base.join(&b'/');
    for (number, entry) in scan.entries.iter().enumerate() {
        let path = [base.as_slice(), b"/", &entry.path].concat();
        if !matches!(entry.what, What::Dir) {
            let names = tree.resolve(&path, false)?;
            copy(tree, &names, (index, number), entry, None, true)?;
            continue;
        }
        let names = tree.resolve(&path, true)?;
        match tree.see(&names)? {
            Seen::Dir => {
                tree.dir(&names)?;
            }
            Seen::Nothing => tree.dir(&names)?.attr = attr_of(entry, None),
            Seen::Symlink(_) | Seen::File | Seen::Special => {
                return Err(Problem::NotAGuestDirectory(shown(&names)));
            }
        }
    }
    Ok(())
}
