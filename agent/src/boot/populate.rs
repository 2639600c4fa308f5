//! The first use of a volume: it takes over what the image has at its mount point.
//!
//! A volume without entries (beside `lost+found`) is new. What is copied into it becomes visible in
//! steps that can be cut off anywhere and are finished, or begun anew, at the next boot:
//!
//! ```text
//! empty ──▶ .msb-new/ fills ──▶ synced, renamed to .msb-ready/ ──▶ its entries move up ──▶ used
//!                └ removed at the next boot             └ moved up at the next boot
//! ```

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec, Timestamps,
    Uid, XattrFlags, chownat, fchmod, fchown, lgetxattr, linkat, llistxattr, lsetxattr, mkdirat,
    mknodat, openat, openat2, readlinkat, renameat_with, statat, symlinkat, syncfs, utimensat,
};
use rustix::io::Errno;

use crate::log;

/// What is being copied.
const NEW: &str = ".msb-new";
/// What has been copied and moves up.
const READY: &str = ".msb-ready";
/// What an empty ext4 file system has.
const LOST_FOUND: &str = "lost+found";
/// Directories inside each other, at most: each holds two descriptors open.
const MAX_DEPTH: usize = 200;
/// The longest list of names, or value, of extended attributes that Linux has.
const XATTR_MAX: usize = 64 << 10;

/// Copies what the image has in the directory `image` to the root `volume` of a new volume, with its
/// owners, modes, times, extended attributes and links; finishes what was cut off.
pub(super) fn populate(image: BorrowedFd<'_>, volume: BorrowedFd<'_>) -> io::Result<()> {
    let volume = reopen(volume)?;
    if let Some(ready) = open_dir(&volume, READY)? {
        return finish(&volume, &ready);
    }
    let remains = path(&volume, OsStr::new(NEW));
    match fs::remove_dir_all(&remains) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if names(&volume)?.iter().any(|name| name != LOST_FOUND) {
        return Ok(());
    }
    let image = reopen(image)?;
    mkdirat(&volume, NEW, Mode::RWXU)?;
    let Some(new) = open_dir(&volume, NEW)? else { return Err(io::ErrorKind::NotFound.into()) };
    Copy { linked: BTreeMap::new(), root: new.as_fd() }.directory(&image, &new, 0)?;
    syncfs(&new)?;
    renameat_with(&volume, NEW, &volume, READY, RenameFlags::NOREPLACE)?;
    finish(&volume, &new)
}

/// Moves the entries of `ready` up, and makes the volume what `ready` is. A name that is taken is one
/// that the volume's users made, and stays theirs.
fn finish(volume: &OwnedFd, ready: &OwnedFd) -> io::Result<()> {
    for name in names(ready)? {
        match renameat_with(ready, &name, volume, &name, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    attributes(ready, volume)?;
    fs::remove_dir_all(path(volume, OsStr::new(READY)))
}

struct Copy<'a> {
    /// Files with several names by device and inode, with the path of the first copy.
    linked: BTreeMap<(u64, u64), PathBuf>,
    /// Where everything is copied to.
    root: BorrowedFd<'a>,
}

impl Copy<'_> {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            let text = format!("directories lie inside each other more than {MAX_DEPTH} times");
            return Err(io::Error::other(text));
        }
        for name in names(from)? {
            self.entry(from, to, &name, depth).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", name.display()))
            })?;
        }
        attributes(from, to)
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &OsStr,
        depth: usize,
    ) -> io::Result<()> {
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
            let inner = match openat2(from, name, DIR, Mode::empty(), beneath) {
                // Something is mounted there, which the image does not have.
                Err(Errno::XDEV) => return Ok(()),
                opened => opened?,
            };
            mkdirat(to, name, Mode::RWXU)?;
            let copy = openat(to, name, DIR, Mode::empty())?;
            return self.directory(&inner, &copy, depth + 1);
        }
        let several = stat.st_nlink > 1;
        if several && let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
            return Ok(linkat(self.root, first, to, name, AtFlags::empty())?);
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut source = File::from(openat(from, name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut copy = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
                io::copy(&mut source, &mut copy)?;
            }
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?;
                symlinkat(target.as_c_str(), to, name)?;
            }
            _ => match mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev) {
                // Directories of the host have no devices.
                Err(Errno::PERM) => {
                    log::line(&format!("{}: not copied into the volume", name.display()));
                    return Ok(());
                }
                made => made?,
            },
        }
        entry_attributes(from, to, name, &stat)?;
        if several {
            let copied = fs::read_link(number(to))?;
            let root = fs::read_link(number(&self.root))?;
            if let Ok(inside) = copied.strip_prefix(&root) {
                self.linked.insert((stat.st_dev, stat.st_ino), inside.join(name));
            }
        }
        Ok(())
    }
}

const DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory that is open by its path only.
fn reopen(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(openat(dir, ".", DIR, Mode::empty())?)
}

/// The directory `name` in `dir`, if there is one.
fn open_dir(dir: &OwnedFd, name: &str) -> io::Result<Option<OwnedFd>> {
    match openat(dir, name, DIR, Mode::empty()) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A path to an open file.
fn number(file: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A path to the entry `name` of an open directory.
fn path(dir: &OwnedFd, name: &OsStr) -> PathBuf {
    number(dir).join(name)
}

fn names(dir: &OwnedFd) -> io::Result<Vec<std::ffi::OsString>> {
    fs::read_dir(number(dir))?.map(|entry| Ok(entry?.file_name())).collect()
}

/// Gives the directory `to` what `from` has beside its entries.
fn attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    xattrs(&path(from, OsStr::new(".")), &path(to, OsStr::new(".")))?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(rustix::fs::futimens(to, &times(&stat))?)
}

/// Gives the entry `name`, which is no directory, what it has beside its content.
fn entry_attributes(from: &OwnedFd, to: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        // The host cannot note the owner of anything but a file or a directory.
        Err(Errno::PERM) if kind != FileType::RegularFile => {}
        changed => changed?,
    }
    // After the owner, whose change takes capabilities and set-user-id bits away.
    xattrs(&path(from, name), &path(to, name))?;
    if kind != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    Ok(utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0)),
        last_modification: time(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    }
}

/// Copies extended attributes; those that the volume cannot have are left out.
fn xattrs(from: &PathBuf, to: &PathBuf) -> io::Result<()> {
    let mut list = vec![0_u8; XATTR_MAX];
    let length = match llistxattr(from, &mut list) {
        Err(Errno::NOTSUP) => return Ok(()),
        length => length?,
    };
    for name in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let name = CString::from(name);
        let mut value = vec![0_u8; XATTR_MAX];
        let length = match lgetxattr(from, &name, &mut value) {
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            length => length?,
        };
        match lsetxattr(to, &name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("deep/er")).unwrap();
        fs::write(at("deep/er/file"), "content").unwrap();
        fs::set_permissions(at("deep/er/file"), PermissionsExt::from_mode(0o4711)).unwrap();
        fs::hard_link(at("deep/er/file"), at("same")).unwrap();
        symlink("/nowhere/else", at("link")).unwrap();
        mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o620), 0)
            .unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o1750)).unwrap();
        dir
    }

    fn fill(image: &Path, volume: &Path) -> io::Result<()> {
        let (image, volume) = (File::open(image)?, File::open(volume)?);
        populate(image.as_fd(), volume.as_fd())
    }

    /// Paths with mode, size, links and target.
    fn list(root: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        let mut open = vec![root.to_owned()];
        while let Some(path) = open.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            let target = fs::read_link(&path).unwrap_or_default();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let size = if meta.is_dir() { 0 } else { meta.len() };
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            let times = (meta.mtime(), meta.mtime_nsec());
            lines.push(format!("{name} {:o} {size} {links} {target:?} {times:?}", meta.mode()));
            if meta.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        lines.sort();
        lines
    }

    #[test]
    fn a_new_volume_is_as_the_image() {
        let (image, volume) = (image(), tempfile::tempdir().unwrap());
        fs::create_dir(volume.path().join(LOST_FOUND)).unwrap();
        fill(image.path(), volume.path()).unwrap();
        fs::remove_dir(volume.path().join(LOST_FOUND)).unwrap();
        let (mut expected, mut found) = (list(image.path()), list(volume.path()));
        // Something moved into the root since it had its time.
        (expected[0], found[0]) = (String::new(), String::new());
        assert_eq!(found, expected);
        let mode = fs::metadata(volume.path()).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o1750);
    }

    #[test]
    fn a_volume_that_is_used_stays_as_it_is() {
        let (image, volume) = (image(), tempfile::tempdir().unwrap());
        fs::write(volume.path().join("mine"), "").unwrap();
        let before = list(volume.path());
        fill(image.path(), volume.path()).unwrap();
        assert_eq!(list(volume.path()), before);
    }

    #[test]
    fn what_was_cut_off_is_finished_or_begun_anew() {
        let (image, volume) = (image(), tempfile::tempdir().unwrap());
        let at = |name: &str| volume.path().join(name);
        fs::create_dir_all(at(NEW).join("half")).unwrap();
        fill(image.path(), volume.path()).unwrap();
        assert!(!at(NEW).exists() && !at(READY).exists() && !at("half").exists());
        assert!(at("deep/er/file").exists());

        // Cut off while entries moved up: what is up stays, whatever the image has.
        let volume = tempfile::tempdir().unwrap();
        let at = |name: &str| volume.path().join(name);
        fs::create_dir(at(READY)).unwrap();
        fs::set_permissions(at(READY), PermissionsExt::from_mode(0o700)).unwrap();
        fs::write(at("up"), "moved").unwrap();
        fs::write(at(READY).join("up"), "again").unwrap();
        fs::write(at(READY).join("down"), "still").unwrap();
        fill(image.path(), volume.path()).unwrap();
        assert_eq!(fs::read_to_string(at("up")).unwrap(), "moved");
        assert_eq!(fs::read_to_string(at("down")).unwrap(), "still");
        assert!(!at(READY).exists() && !at("deep").exists());
        assert_eq!(fs::metadata(volume.path()).unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_link_named_as_the_copy_leads_nowhere() {
        let (image, volume) = (image(), tempfile::tempdir().unwrap());
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        symlink(outside.path(), volume.path().join(READY)).unwrap();
        fill(image.path(), volume.path()).unwrap();
        assert_eq!(list(volume.path()).len(), 2);
        assert_eq!(list(outside.path()).len(), 2);
    }
}
