//! Operations on files of the host, each by a descriptor and at most one name.
//!
//! What the guest names is held by descriptors that can do nothing ([`child`]). To do something
//! with a file it is addressed through `/proc/self/fd`, which leads to that file and never to what
//! has taken its name meanwhile; no link is followed.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, StatxTimestamp, Timestamps, XattrFlags,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::limits::{MAX_NAME, MAX_XATTR};

/// What an operation gives, or why it fails.
pub(super) type Result<T> = std::result::Result<T, Errno>;

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) dev: u64,
    pub(super) ino: u64,
    /// Type and permissions.
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) blocks: u64,
    pub(super) blksize: u32,
    pub(super) rdev: u32,
    pub(super) atime: SystemTime,
    pub(super) mtime: SystemTime,
    pub(super) ctime: SystemTime,
    /// When it was made, in nanoseconds; tells it from an older file with the same number. 0 where
    /// the file system does not know.
    pub(super) born: u64,
}

impl Stat {
    pub(super) fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind() == libc::S_IFREG
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }
}

/// Asks about an open file.
pub(super) fn stat(fd: impl AsFd) -> Result<Stat> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let found = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted)?;
    let born = found.stx_btime;
    Ok(Stat {
        dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        mode: u32::from(found.stx_mode),
        nlink: found.stx_nlink,
        uid: found.stx_uid,
        gid: found.stx_gid,
        size: found.stx_size,
        blocks: found.stx_blocks,
        blksize: found.stx_blksize,
        rdev: u32::try_from(rustix::fs::makedev(found.stx_rdev_major, found.stx_rdev_minor))
            .unwrap_or(u32::MAX),
        atime: time(found.stx_atime),
        mtime: time(found.stx_mtime),
        ctime: time(found.stx_ctime),
        born: born.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000) + u64::from(born.tv_nsec),
    })
}

fn time(of: StatxTimestamp) -> SystemTime {
    let seconds = Duration::from_secs(of.tv_sec.unsigned_abs());
    let time = if of.tv_sec < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    let nanoseconds = Duration::from_nanos(u64::from(of.tv_nsec));
    time.and_then(|time| time.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
}

/// Refuses what is not the name of one entry of a directory.
pub(super) fn checked(name: &OsStr) -> Result<&OsStr> {
    match name.as_bytes() {
        bytes if bytes.len() > MAX_NAME => Err(Errno::NAMETOOLONG),
        b"" | b"." | b".." => Err(Errno::INVAL),
        bytes if bytes.contains(&b'/') || bytes.contains(&0) => Err(Errno::INVAL),
        _ => Ok(name),
    }
}

/// Takes hold of the entry `name` of a directory, whatever it is: the descriptor opens nothing.
pub(super) fn child(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    rustix::fs::openat2(
        dir,
        checked(name)?,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Makes and opens a new regular file in a directory.
pub(super) fn create(dir: impl AsFd, name: &OsStr, flags: OFlags, mode: u32) -> Result<OwnedFd> {
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, checked(name)?, flags, Mode::from_raw_mode(mode))
}

/// The files of this process by the numbers of their descriptors; its working directory, too.
#[derive(Debug)]
pub(super) struct Descriptors(OwnedFd);

impl Descriptors {
    /// Opens it and goes there, for the calls that know paths only.
    pub(super) fn enter() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
        rustix::process::fchdir(&dir)?;
        Ok(Self(dir))
    }

    /// Opens a regular file or directory that is held by `fd`; nothing else is ever opened.
    pub(super) fn open(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.0, DecInt::from_fd(fd).as_c_str(), flags, Mode::empty())
    }

    /// Takes hold of what is open, as [`child`] does.
    pub(super) fn hold(&self, fd: BorrowedFd<'_>) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat(&self.0, DecInt::from_fd(fd).as_c_str(), flags, Mode::empty())
    }

    pub(super) fn chmod(&self, fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
        let (path, mode) = (DecInt::from_fd(fd), Mode::from_raw_mode(mode));
        rustix::fs::chmodat(&self.0, path.as_c_str(), mode, AtFlags::empty())
    }

    pub(super) fn set_times(&self, fd: BorrowedFd<'_>, times: &Timestamps) -> Result<()> {
        let path = DecInt::from_fd(fd);
        rustix::fs::utimensat(&self.0, path.as_c_str(), times, AtFlags::empty())
    }

    /// Gives the file a further name.
    pub(super) fn link(&self, fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let path = DecInt::from_fd(fd);
        let (name, follow) = (checked(name)?, AtFlags::SYMLINK_FOLLOW);
        rustix::fs::linkat(&self.0, path.as_c_str(), dir, name, follow)
    }

    /// The value of an extended attribute, at most [`MAX_XATTR`] bytes.
    pub(super) fn xattr(&self, fd: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<u8>> {
        let path = DecInt::from_fd(fd);
        let mut value = vec![0; MAX_XATTR];
        let length = rustix::fs::getxattr(path.as_c_str(), name, &mut value)?;
        value.truncate(length);
        Ok(value)
    }

    /// A short value, into `buffer`.
    pub(super) fn short_xattr(
        &self,
        fd: BorrowedFd<'_>,
        name: &CStr,
        buffer: &mut [u8],
    ) -> Result<usize> {
        rustix::fs::getxattr(DecInt::from_fd(fd).as_c_str(), name, buffer)
    }

    pub(super) fn set_xattr(
        &self,
        fd: BorrowedFd<'_>,
        name: &OsStr,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        rustix::fs::setxattr(DecInt::from_fd(fd).as_c_str(), name, value, flags)
    }

    pub(super) fn remove_xattr(&self, fd: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        rustix::fs::removexattr(DecInt::from_fd(fd).as_c_str(), name)
    }

    /// The names of all extended attributes, each with a zero behind it.
    pub(super) fn xattrs(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
        let mut names = vec![0; MAX_XATTR];
        let length = rustix::fs::listxattr(DecInt::from_fd(fd).as_c_str(), &mut names)?;
        names.truncate(length);
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_entries_are_names() {
        for wrong in ["", ".", "..", "/", "a/b", "/a", "a/", "a\0b", "\0"] {
            assert_eq!(checked(OsStr::new(wrong)), Err(Errno::INVAL), "{wrong:?}");
        }
        assert_eq!(checked(OsStr::new(&"a".repeat(256))), Err(Errno::NAMETOOLONG));
        for fine in ["...", "..a", " ", "\n", "a"] {
            assert!(checked(OsStr::new(fine)).is_ok(), "{fine:?}");
        }
        assert!(checked(OsStr::from_bytes(&[0xff, 0x80])).is_ok());
        assert!(checked(OsStr::new(&"a".repeat(255))).is_ok());
    }

    #[test]
    fn times_before_the_epoch_are_exact() {
        let at = |tv_sec, tv_nsec| {
            let mut stamp =
                rustix::fs::statx(rustix::fs::CWD, c"/", AtFlags::empty(), StatxFlags::BASIC_STATS)
                    .unwrap()
                    .stx_atime;
            stamp.tv_sec = tv_sec;
            stamp.tv_nsec = tv_nsec;
            time(stamp)
        };
        assert_eq!(at(-1, 250_000_000), UNIX_EPOCH - Duration::from_millis(750));
        assert_eq!(at(1, 5), UNIX_EPOCH + Duration::new(1, 5));
    }
}
