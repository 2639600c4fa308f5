//! Making a tree.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use msb_protocol::{FsPath, MAX_TREE_DEPTH, Node, TreeItem};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat,
    fchmod, fchown, futimens, linkat, mkdirat, openat2, renameat, renameat_with, symlinkat,
    utimensat,
};
use rustix::io::Errno;

use crate::frames::{Incoming, Input};
use crate::place::{Place, Target};
use crate::temporary::{NewFile, rename_over, with_name};
use crate::{Event, TransferError, Watch};

/// The longest name, in bytes.
const MAX_NAME: usize = 255;
/// The longest target of a link, in bytes.
const MAX_TARGET: usize = 4095;
/// Read, write and enter, for those whom the mode names.
const PERMISSIONS: u32 = 0o777;
/// Those, and setuid, setgid and sticky.
const ALL_BITS: u32 = 0o7777;
const NANOS: u32 = 1_000_000_000;

/// What a tree may bring along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Owners are those of the source; else what is made is the caller's.
    pub owners: bool,
    /// Setuid, setgid and sticky bits are taken over.
    pub special_bits: bool,
}

/// Makes the tree that `input` brings at `target`. After a failure nothing that is incomplete is
/// left, but what was complete stays.
pub fn receive<R: Read>(
    input: &mut Input<R>,
    target: Target<'_>,
    policy: Policy,
    watch: &mut Watch<'_>,
) -> Result<(), TransferError> {
    let first = item(input)?;
    let place = match &first {
        TreeItem::Dir(_) => target.find(true)?,
        TreeItem::File { .. } | TreeItem::Symlink { .. } => target.find(false)?,
        TreeItem::Failed(failure) => return Err(TransferError::Peer(failure.clone())),
        _ => return Err(TransferError::Protocol("a tree that begins with no root")),
    };
    let mut receiver = Receiver { place, policy, watch, levels: Vec::new() };
    let received = receiver.root(first, input);
    if received.is_err() {
        receiver.abandon();
    }
    received
}

fn item<R: Read>(input: &mut Input<R>) -> Result<TreeItem, TransferError> {
    match input.part()? {
        Incoming::Item(item) => Ok(item),
        Incoming::Data(_) => Err(TransferError::Protocol("contents of no file")),
    }
}

struct Receiver<'a, 'w> {
    place: Place,
    policy: Policy,
    watch: &'a mut Watch<'w>,
    /// The directories that are open, from the root on.
    levels: Vec<Level>,
}

/// A directory that is being filled.
struct Level {
    fd: OwnedFd,
    name: Vec<u8>,
    /// The attributes that it gets in the end; none where it existed.
    node: Option<Node>,
    /// The name that it has until then; none where it has its own.
    temporary: Option<String>,
    /// Whether it is in, or is, a directory under a temporary name: nobody sees what is in it.
    unseen: bool,
}

impl Receiver<'_, '_> {
    fn root<R: Read>(
        &mut self,
        mut first: TreeItem,
        input: &mut Input<R>,
    ) -> Result<(), TransferError> {
        match (self.place.name.clone(), &mut first) {
            (None, _) => {
                let fd = self.place.dir.try_clone();
                let fd = fd.map_err(|error| TransferError::local(&self.place.shown, error))?;
                let name = Vec::new();
                self.levels.push(Level { fd, name, node: None, temporary: None, unseen: false });
            }
            (
                Some(name),
                TreeItem::Dir(node) | TreeItem::File { node, .. } | TreeItem::Symlink { node, .. },
            ) => {
                node.name = FsPath(name);
                self.item(first, input)?;
            }
            (Some(_), _) => return Err(TransferError::Protocol("a tree that begins with no root")),
        }
        while !self.levels.is_empty() {
            let next = item(input)?;
            self.item(next, input)?;
        }
        loop {
            match item(input)? {
                TreeItem::Finished => return Ok(()),
                TreeItem::Failed(failure) => return Err(TransferError::Peer(failure)),
                TreeItem::Skipped { path, why } => self.skipped(&path, &why),
                _ => return Err(TransferError::Protocol("something behind the root")),
            }
        }
    }

    fn item<R: Read>(&mut self, item: TreeItem, input: &mut Input<R>) -> Result<(), TransferError> {
        match item {
            TreeItem::Dir(node) => return self.enter(node),
            TreeItem::File { node, size } => self.file(&node, size, input)?,
            TreeItem::Symlink { node, target } => self.symlink(&node, &target.0)?,
            TreeItem::HardLink { name, to } => self.hard_link(&name.0, &to)?,
            TreeItem::End => self.leave()?,
            TreeItem::Skipped { path, why } => {
                self.skipped(&path, &why);
                return Ok(());
            }
            TreeItem::Failed(failure) => return Err(TransferError::Peer(failure)),
            TreeItem::Hole(_) => return Err(TransferError::Protocol("a hole in no file")),
            TreeItem::Finished => return Err(TransferError::Protocol("the root is not complete")),
        }
        (self.watch)(Event::Entry);
        Ok(())
    }

    fn skipped(&mut self, path: &FsPath, why: &str) {
        (self.watch)(Event::Skipped { path: &path.0, why });
    }

    /// The directory that is being filled, and whether nobody sees what is in it.
    fn dir(&self) -> (BorrowedFd<'_>, bool) {
        match self.levels.last() {
            Some(level) => (level.fd.as_fd(), level.unseen),
            None => (self.place.dir.as_fd(), false),
        }
    }

    /// An error about `name` in the directory that is being filled.
    fn fail(&self, name: &[u8], error: impl Into<std::io::Error>) -> TransferError {
        let mut path = self.place.shown.clone();
        if !self.levels.is_empty() {
            // The name of the root is a part of the place.
            let names = self.levels.iter().skip(1).map(|level| OsStr::from_bytes(&level.name));
            path.extend(names);
            path.push(OsStr::from_bytes(name));
        }
        TransferError::local(path, error)
    }

    fn enter(&mut self, node: Node) -> Result<(), TransferError> {
        let name = checked(&node.name.0)?.to_vec();
        if self.levels.len() >= MAX_TREE_DEPTH {
            return Err(TransferError::Protocol("directories are nested too deeply"));
        }
        let (dir, unseen) = self.dir();
        let (fd, new, temporary) = match beneath(dir, &name) {
            Ok(fd) => (fd, false, None),
            Err(Errno::NOENT) if unseen => {
                let made = mkdirat(dir, &name[..], Mode::RWXU).and_then(|()| beneath(dir, &name));
                (made.map_err(|errno| self.fail(&name, errno))?, true, None)
            }
            Err(Errno::NOENT) => {
                let make = |name: &str| mkdirat(dir, name, Mode::RWXU);
                let made = with_name(make).map_err(|error| self.fail(&name, error))?;
                let fd = beneath(dir, made.0.as_bytes());
                (fd.map_err(|errno| self.fail(&name, errno))?, true, Some(made.0))
            }
            // A link is not entered, whatever it leads to.
            Err(Errno::LOOP) => return Err(self.fail(&name, Errno::NOTDIR)),
            Err(errno) => return Err(self.fail(&name, errno)),
        };
        let unseen = unseen || temporary.is_some();
        self.levels.push(Level { fd, name, node: new.then_some(node), temporary, unseen });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), TransferError> {
        let Some(level) = self.levels.last() else {
            return Err(TransferError::Protocol("an end of nothing"));
        };
        if let Some(node) = &level.node {
            let done = self.attributes(level.fd.as_fd(), node);
            done.map_err(|errno| self.fail(b"", errno))?;
        }
        if let Some(temporary) = &level.temporary {
            let above = self.levels.len().checked_sub(2).and_then(|above| self.levels.get(above));
            let above = above.map_or(self.place.dir.as_fd(), |above| above.fd.as_fd());
            let name = &level.name[..];
            let flags = RenameFlags::NOREPLACE;
            let named = match renameat_with(above, temporary.as_str(), above, name, flags) {
                // Not on this file system. What is there is replaced if it is an empty directory.
                Err(Errno::INVAL) => renameat(above, temporary.as_str(), above, name),
                named => named,
            };
            named.map_err(|errno| self.fail(b"", errno))?;
        }
        self.levels.pop();
        Ok(())
    }

    fn attributes(&self, fd: BorrowedFd<'_>, node: &Node) -> Result<(), Errno> {
        // First: a change of the owner clears setuid and setgid.
        if self.policy.owners {
            fchown(fd, Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)))?;
        }
        let bits = if self.policy.special_bits { ALL_BITS } else { PERMISSIONS };
        fchmod(fd, Mode::from_raw_mode(node.mode & bits))?;
        futimens(fd, &times(node))
    }

    fn file<R: Read>(
        &mut self,
        node: &Node,
        size: u64,
        input: &mut Input<R>,
    ) -> Result<(), TransferError> {
        let name = checked(&node.name.0)?;
        let (dir, unseen) = self.dir();
        let made = if unseen { NewFile::unseen(dir, name) } else { NewFile::beside(dir, name) };
        let made = made.map_err(|error| self.fail(name, error))?;
        self.contents(made.file(), name, size, input)?;
        let complete = self.attributes(made.file().as_fd(), node).map_err(Into::into);
        let complete = complete.and_then(|()| made.finish());
        complete.map_err(|error| self.fail(name, error))
    }

    /// Writes what comes until the end of the file, which must be `size` bytes.
    fn contents<R: Read>(
        &mut self,
        file: &File,
        name: &[u8],
        size: u64,
        input: &mut Input<R>,
    ) -> Result<(), TransferError> {
        let (mut at, mut written) = (0_u64, 0_u64);
        loop {
            let length = match input.part()? {
                Incoming::Data(bytes) => {
                    let length = bytes.len() as u64;
                    if length > size.saturating_sub(at) {
                        return Err(LONGER);
                    }
                    file.write_all_at(bytes, at).map_err(|error| self.fail(name, error))?;
                    written = at + length;
                    (self.watch)(Event::Bytes(length));
                    length
                }
                Incoming::Item(TreeItem::Hole(length)) => length,
                Incoming::Item(TreeItem::End) if at == size => break,
                Incoming::Item(TreeItem::Failed(failure)) => {
                    return Err(TransferError::Peer(failure));
                }
                Incoming::Item(_) => {
                    return Err(TransferError::Protocol("a file is shorter than announced"));
                }
            };
            at = at.checked_add(length).filter(|at| *at <= size).ok_or(LONGER)?;
        }
        if written < size { file.set_len(size).map_err(|e| self.fail(name, e)) } else { Ok(()) }
    }

    fn symlink(&mut self, node: &Node, target: &[u8]) -> Result<(), TransferError> {
        let name = checked(&node.name.0)?;
        if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
            return Err(TransferError::Protocol("a link that leads nowhere"));
        }
        let dir = self.dir().0;
        let make = |temporary: &str| symlinkat(target, dir, temporary);
        let made = with_name(make).and_then(|(temporary, ())| {
            if self.policy.owners {
                let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                let _ = chownat(dir, temporary.as_str(), Some(uid), Some(gid), flags);
            }
            // Not on every file system; a link's time matters to nobody.
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let _ = utimensat(dir, temporary.as_str(), &times(node), flags);
            rename_over(dir, &temporary, name)
        });
        made.map_err(|error| self.fail(name, error))
    }

    fn hard_link(&mut self, name: &[u8], to: &[FsPath]) -> Result<(), TransferError> {
        let name = checked(name)?;
        let Some((last, dirs)) = to.split_last().filter(|_| to.len() <= MAX_TREE_DEPTH) else {
            return Err(TransferError::Protocol("a link to no file"));
        };
        let last = checked(&last.0)?;
        // Directories that are being filled may have other names yet.
        let open = self.levels.get(1..).unwrap_or_default();
        let known = open.iter().zip(dirs).take_while(|(level, dir)| level.name == dir.0).count();
        let Some(start) = self.levels.get(known) else {
            return Err(TransferError::Protocol("a link outside of a directory"));
        };
        let mut from = None;
        for dir in &dirs[known..] {
            let at = from.as_ref().map_or(start.fd.as_fd(), OwnedFd::as_fd);
            let next = beneath(at, checked(&dir.0)?).map_err(|errno| self.fail(name, errno))?;
            from = Some(next);
        }
        let from = from.as_ref().map_or(start.fd.as_fd(), OwnedFd::as_fd);
        let dir = self.dir().0;
        let make = |temporary: &str| linkat(from, last, dir, temporary, AtFlags::empty());
        let made = with_name(make).and_then(|(temporary, ())| rename_over(dir, &temporary, name));
        made.map_err(|error| self.fail(name, error))
    }

    /// Removes the directory that did not become complete.
    fn abandon(&mut self) {
        let Some(at) = self.levels.iter().position(|level| level.temporary.is_some()) else {
            return;
        };
        let above = at.checked_sub(1).and_then(|above| self.levels.get(above));
        let above = above.map_or(self.place.dir.as_fd(), |above| above.fd.as_fd());
        let temporary = self.levels[at].temporary.as_deref().unwrap_or_default();
        let path = PathBuf::from(format!("/proc/self/fd/{}/{temporary}", above.as_raw_fd()));
        if std::fs::remove_dir_all(&path).is_err() {
            open_up(&path);
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

const LONGER: TransferError = TransferError::Protocol("a file is longer than announced");

/// Makes the directories of an abandoned tree, which are the caller's own, removable.
fn open_up(path: &Path) {
    let _ = std::fs::set_permissions(path, Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// Opens the directory `name` in `dir`: one that is there itself, not by a link.
fn beneath(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(dir, name, flags, Mode::empty(), resolve) {
            // Something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
}

/// Whether `name` is one component of a path, and not `.` or `..`.
pub fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && name.len() <= MAX_NAME
        && !name.contains(&b'/')
        && !name.contains(&0)
}

fn checked(name: &[u8]) -> Result<&[u8], TransferError> {
    if is_name(name) { Ok(name) } else { Err(TransferError::Protocol("a name that is none")) }
}

fn times(node: &Node) -> Timestamps {
    let nanos = if node.mtime_ns < NANOS { node.mtime_ns } else { 0 };
    let time = Timespec { tv_sec: node.mtime, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
