//! What a guest can do, in terms of its nodes and handles.

mod attributes;
mod data;
mod directories;
mod names;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuser::{FileAttr, FileType, INodeNo};
use msb_protocol::FilesPreamble;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::handles::Handles;
use super::host::{self, Descriptors, Result, Stat};
use super::limits::{MAX_HANDLES, MAX_NODE_DESCRIPTORS, MAX_NODES, RESERVED_DESCRIPTORS};
use super::nodes::{self, Held, Nodes, Place, ROOT, Way};
use super::owner::{Owner, Owners};
use super::{Share, ShareKind};
use crate::runtime::shared_at;

pub(super) use attributes::{Changes, Time};
pub(super) use data::Opened;

/// How long a guest may believe what it was told: as long as an edit on the host may be unseen.
const FRESH: Duration = Duration::from_secs(1);
/// Least number of descriptors with which a server starts.
const MIN_DESCRIPTORS: usize = 2 * RESERVED_DESCRIPTORS;

/// The shares, opened.
#[derive(Debug)]
pub(super) struct Shares(Vec<Opening>);

#[derive(Debug)]
struct Opening {
    root: Arc<OwnedFd>,
    readonly: bool,
    kind: ShareKind,
}

impl Shares {
    /// Takes hold of `shares`, in the jail or, where there is none, where they are. Errors name the
    /// one that cannot be served.
    pub(super) fn open(shares: &[Share]) -> std::result::Result<Self, String> {
        let jailed = shared_at(0).symlink_metadata().is_ok();
        let mut opened = Vec::with_capacity(shares.len());
        for (number, share) in shares.iter().enumerate() {
            let at = if jailed { shared_at(number) } else { share.path.clone() };
            let named =
                |error: Errno| format!("{}: {}", share.path.display(), std::io::Error::from(error));
            opened.push(open_share(share, &at).map_err(named)?);
        }
        Ok(Self(opened))
    }
}

fn open_share(share: &Share, at: &Path) -> Result<Opening> {
    let root = rustix::fs::open(at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = host::stat(&root)?;
    match share.kind {
        ShareKind::Files if stat.is_file() || stat.is_dir() => {}
        ShareKind::Disk if stat.is_file() => {}
        _ => return Err(Errno::NOTSUP),
    }
    Ok(Opening { root: Arc::new(root), readonly: share.readonly, kind: share.kind })
}

/// The server of one guest.
#[derive(Debug)]
pub(super) struct Server {
    shares: Vec<Opening>,
    roots: Vec<Arc<OwnedFd>>,
    nodes: Mutex<Nodes>,
    handles: Handles,
    all: Descriptors,
    owners: Owners,
}

/// What a guest is told of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) attr: FileAttr,
    /// When the file was made to which the number belongs.
    pub(super) generation: u64,
    /// How long to believe the attributes.
    pub(super) fresh: Duration,
}

/// Who asks, in the guest.
pub(super) type Caller = Owner;

impl Server {
    /// With as many nodes and handles as this process can have descriptors.
    pub(super) fn new(
        shares: Shares,
        all: Descriptors,
        preamble: FilesPreamble,
        descriptors: usize,
    ) -> Self {
        let some = descriptors.max(MIN_DESCRIPTORS) - RESERVED_DESCRIPTORS;
        let nodes = Nodes::new(MAX_NODES, (some / 2).min(MAX_NODE_DESCRIPTORS));
        let roots = shares.0.iter().map(|share| Arc::clone(&share.root)).collect();
        Self {
            shares: shares.0,
            roots,
            nodes: Mutex::new(nodes),
            handles: Handles::new((some / 2).min(MAX_HANDLES)),
            all,
            owners: Owners::new(preamble),
        }
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of a node, which is not the directory of the shares.
    fn held(&self, id: u64) -> Result<Held> {
        let way = self.nodes().way(id, &self.roots)?;
        match way {
            Way::Held(held) => Ok(held),
            Way::Walk(from, steps) => {
                let found = nodes::walk(&from, steps)?;
                let fd = found.last().map(|(_, fd)| Arc::clone(fd)).ok_or(Errno::STALE)?;
                self.nodes().found(found);
                Ok(Held { fd, share: from.share })
            }
        }
    }

    /// The same for something that is about to be changed.
    fn writable(&self, id: u64) -> Result<Held> {
        if id == ROOT {
            return Err(Errno::PERM);
        }
        let held = self.held(id)?;
        self.may_write(held.share)?;
        match self.kind(held.share) {
            ShareKind::Files => Ok(held),
            ShareKind::Disk => Err(Errno::PERM),
        }
    }

    fn may_write(&self, share: usize) -> Result<()> {
        let readonly = self.shares.get(share).is_none_or(|share| share.readonly);
        if readonly { Err(Errno::ROFS) } else { Ok(()) }
    }

    fn kind(&self, share: usize) -> ShareKind {
        self.shares.get(share).map_or(ShareKind::Disk, |share| share.kind)
    }

    /// Tells the guest of a file, and notes that it was told.
    fn entry(&self, place: Place, fd: Arc<OwnedFd>) -> Result<Entry> {
        let stat = host::stat(&fd)?;
        let share = place.share;
        let owner = self.owners.of(&self.all, fd.as_fd(), &stat);
        let (id, generation) = self.nodes().add(place, &stat, fd)?;
        Ok(Entry { generation, ..self.described(id, share, &stat, owner) })
    }

    fn described(&self, id: u64, share: usize, stat: &Stat, owner: Owner) -> Entry {
        let fresh = match self.kind(share) {
            ShareKind::Files => FRESH,
            ShareKind::Disk => Duration::ZERO,
        };
        Entry { attr: attr(id, stat, owner), generation: stat.born, fresh }
    }

    /// Forgets a node.
    pub(super) fn forget(&self, id: u64, times: u64) {
        self.nodes().forget(id, times);
    }

    /// Where in the directory of the shares.
    fn root_place(share: usize) -> Place {
        Place { share, parent: ROOT, name: OsString::from(share.to_string()) }
    }
}

fn attr(id: u64, stat: &Stat, (uid, gid): Owner) -> FileAttr {
    FileAttr {
        ino: INodeNo(id),
        size: stat.size,
        blocks: stat.blocks,
        atime: stat.atime,
        mtime: stat.mtime,
        ctime: stat.ctime,
        crtime: stat.ctime,
        kind: kind(stat.mode),
        perm: u16::try_from(stat.mode & 0o7777).unwrap_or(0),
        nlink: stat.nlink,
        uid,
        gid,
        rdev: stat.rdev,
        blksize: stat.blksize,
        flags: 0,
    }
}

fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}
