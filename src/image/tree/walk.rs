//! A walk over a host directory that never leaves it: every name is opened relative to the directory
//! that holds it, links are not followed, and other file systems are not entered.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::image::error::Reason;
use crate::image::layer::Limits;

/// The most that time stamps of a file system lag behind the clock: one tick of a slow kernel, twice.
const TICK: Duration = Duration::from_millis(20);

/// What was found under a name.
pub(super) struct Entry<'a> {
    /// Below the root; empty for the root itself.
    pub(super) path: &'a [u8],
    /// The directory that holds it, and its name there; for the root itself, the root and `.`.
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
    pub(super) stat: Stat,
}

/// Sees every entry, directories before what they hold, names in order.
pub(super) trait Visit {
    fn entry(&mut self, entry: &Entry<'_>, shown: &Path) -> Result<(), Reason>;
}

/// Says what is wrong with a path.
pub(super) fn wrong(path: &Path, problem: &'static str) -> Reason {
    Reason::Tree { path: path.to_owned(), problem }
}

/// It is not what it was a moment ago.
pub(super) fn changed(path: &Path) -> Reason {
    wrong(path, "it changed while it was read")
}

pub(super) fn unreadable(path: &Path, error: impl Into<io::Error>) -> Reason {
    Reason::File { what: "cannot be read", path: path.to_owned(), source: error.into() }
}

/// Walks over everything below `root`.
pub(super) fn walk(root: &Path, limits: &Limits, visit: &mut dyn Visit) -> Result<(), Reason> {
    let dir = rustix::fs::open(root, directory(), Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => Reason::NoSuchPath(root.to_owned()),
        errno => unreadable(root, errno),
    })?;
    let stat = rustix::fs::fstat(&dir).map_err(|errno| unreadable(root, errno))?;
    visit.entry(&Entry { path: &[], dir: dir.as_fd(), name: c".", stat }, root)?;
    let mut walk = Walk { device: stat.st_dev, entries: 1, limits, visit };
    walk.dir(dir, &mut Vec::new(), &mut root.to_owned(), 1)
}

const fn directory() -> OFlags {
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC)
}

struct Walk<'a> {
    device: u64,
    entries: u64,
    limits: &'a Limits,
    visit: &'a mut dyn Visit,
}

impl Walk<'_> {
    fn dir(
        &mut self,
        dir: OwnedFd,
        path: &mut Vec<u8>,
        shown: &mut PathBuf,
        depth: usize,
    ) -> Result<(), Reason> {
        for name in self.names(&dir, shown)? {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            shown.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.entry(&dir, &name, path, shown, depth)?;
            shown.pop();
            path.truncate(length);
        }
        Ok(())
    }

    fn names(&mut self, dir: &OwnedFd, shown: &Path) -> Result<Vec<CString>, Reason> {
        let fail = |errno: Errno| unreadable(shown, errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            names.push(name);
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(wrong(shown, "the image would have too many files"));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn entry(
        &mut self,
        dir: &OwnedFd,
        name: &CStr,
        path: &mut Vec<u8>,
        shown: &mut PathBuf,
        depth: usize,
    ) -> Result<(), Reason> {
        if depth > self.limits.depth {
            return Err(wrong(shown, "too many directories in one another"));
        }
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|errno| gone(shown, errno))?;
        if stat.st_dev != self.device {
            return Err(wrong(shown, "another file system is mounted there; unmount it"));
        }
        self.visit.entry(&Entry { path, dir: dir.as_fd(), name, stat }, shown)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(());
        }
        let child = open(dir.as_fd(), name, directory()).map_err(|errno| gone(shown, errno))?;
        let opened = rustix::fs::fstat(&child).map_err(|errno| unreadable(shown, errno))?;
        if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(changed(shown));
        }
        self.dir(child, path, shown, depth + 1)
    }
}

/// Opens a name of a directory for reading, without a trace in its time of access where that is
/// allowed.
fn open(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only its owner may.
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        opened => opened,
    }
}

/// An error about what was there when its directory was read.
fn gone(path: &Path, errno: Errno) -> Reason {
    match errno {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO => changed(path),
        errno => unreadable(path, errno),
    }
}

impl Entry<'_> {
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens a regular file, which is the one that the walk saw. Never waits.
    pub(super) fn open(&self, shown: &Path) -> Result<File, Reason> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open(self.dir, self.name, flags).map_err(|errno| gone(shown, errno))?;
        let file = File::from(file);
        if self.is_same(&file).map_err(|error| unreadable(shown, error))? {
            Ok(file)
        } else {
            Err(changed(shown))
        }
    }

    /// Whether `file` is what the walk saw, as it was then.
    pub(super) fn is_same(&self, file: &File) -> io::Result<bool> {
        let (now, then) = (rustix::fs::fstat(file)?, &self.stat);
        let marks = |stat: &Stat| {
            let changed = (stat.st_ctime, stat.st_ctime_nsec);
            let modified = (stat.st_mtime, stat.st_mtime_nsec);
            (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mode, changed, modified)
        };
        Ok(marks(&now) == marks(then))
    }

    /// The target of a symbolic link.
    pub(super) fn target(&self, shown: &Path) -> Result<Vec<u8>, Reason> {
        let target = rustix::fs::readlinkat(self.dir, self.name, Vec::new());
        Ok(target.map_err(|errno| gone(shown, errno))?.into_bytes())
    }

    /// A path to it that follows no link, for the calls that take nothing else.
    pub(super) fn proc_path(&self) -> CString {
        use std::os::fd::AsRawFd as _;
        let mut path = format!("/proc/self/fd/{}/", self.dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name.to_bytes());
        // A C string holds no zero byte, and neither does the rest.
        CString::new(path).unwrap_or_default()
    }
}

/// What tells whether anything below a directory has changed, without reading a file: names, inodes,
/// types, owners, sizes and times of all entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// 64 lower-case hexadecimal digits.
    pub(super) text: String,
    /// Bytes of all regular files.
    pub(super) bytes: u64,
    /// When the last change was, since 1970.
    newest: Duration,
}

#[derive(Default)]
struct Fingerprinter {
    hasher: blake3::Hasher,
    bytes: u64,
    newest: Duration,
}

impl Visit for Fingerprinter {
    fn entry(&mut self, entry: &Entry<'_>, _: &Path) -> Result<(), Reason> {
        let stat = &entry.stat;
        self.hasher.update(&(entry.path.len() as u64).to_le_bytes()).update(entry.path);
        let numbers = [
            u64::from(stat.st_mode),
            u64::from(stat.st_uid),
            u64::from(stat.st_gid),
            stat.st_dev,
            stat.st_ino,
            stat.st_rdev,
            stat.st_size.cast_unsigned(),
            stat.st_mtime.cast_unsigned(),
            stat.st_mtime_nsec,
            stat.st_ctime.cast_unsigned(),
            stat.st_ctime_nsec,
        ];
        for number in numbers {
            self.hasher.update(&number.to_le_bytes());
        }
        if entry.kind() == FileType::RegularFile {
            self.bytes = self.bytes.saturating_add(stat.st_size.unsigned_abs());
        }
        let at = Duration::new(
            u64::try_from(stat.st_ctime).unwrap_or(0),
            u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
        );
        self.newest = self.newest.max(at);
        Ok(())
    }
}

impl Fingerprint {
    /// That of the tree as it is.
    pub(super) fn of(root: &Path, limits: &Limits) -> Result<Self, Reason> {
        let mut fingerprinter = Fingerprinter::default();
        walk(root, limits, &mut fingerprinter)?;
        let Fingerprinter { hasher, bytes, newest } = fingerprinter;
        Ok(Self { text: hasher.finalize().to_hex().to_string(), bytes, newest })
    }

    /// How long until a further change is sure to have another time than the last one; none when it
    /// is.
    pub(super) fn unsettled(&self) -> Option<Duration> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        // A time in the future is that of another clock.
        TICK.checked_sub(now.checked_sub(self.newest)?).filter(|left| !left.is_zero())
    }
}

/// Whether `path` names something, links followed.
pub(super) fn is_dir(path: &Path) -> bool {
    let found = rustix::fs::statat(CWD, path, AtFlags::empty());
    found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
