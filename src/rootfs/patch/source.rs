//! Files and trees of the project that patches copy.
//!
//! A source is read twice: a scan hashes it, which is what a plan compares, and the layer is made of
//! what has the same hashes, or not at all.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::error::Problem;
use super::limits::{MAX_DEPTH, MAX_ENTRIES, MAX_FILE_BYTES, MAX_TOTAL_BYTES};
use crate::spec::Patch;

/// Permission bits that are copied: a set-id bit of the host means nothing in the guest.
const COPIED_MODE: u32 = 0o777;

/// The directory that sources are opened beneath.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    dir: OwnedFd,
}

/// What a source holds.
#[derive(Debug)]
pub struct Scan {
    /// Of names, types, modes and contents: 64 lower-case hex digits. Times and owners are not part
    /// of it.
    pub digest: String,
    /// Where it was found, relative to the root.
    base: PathBuf,
    /// Parents before what they hold.
    pub(super) entries: Vec<Entry>,
}

/// One file, directory or link of a source.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its path below the source; empty for the source itself.
    pub(super) path: Vec<u8>,
    pub(super) what: What,
    pub(super) mode: u16,
    pub(super) mtime: i64,
    pub(super) mtime_nsec: u32,
    inode: u64,
    /// As `stat` told it before anything was read.
    stat_size: u64,
    stat_mode: u32,
}

/// A file or directory that a digest depends on, as it was before it was read.
#[derive(Debug)]
pub struct Watched {
    /// Where.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// Time of last modification, in seconds since 1970.
    pub mtime: i64,
    /// Its nanoseconds.
    pub mtime_nsec: u32,
    /// Inode number.
    pub inode: u64,
    /// Type and permissions.
    pub mode: u32,
}

/// What kind of entry.
#[derive(Debug)]
pub(super) enum What {
    Dir,
    File { size: u64, hash: blake3::Hash },
    Symlink(Vec<u8>),
}

impl Root {
    /// Opens the directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), dir })
    }

    /// Looks at the source of a patch; `None` for patches without one.
    pub fn scan(&self, patch: &Patch) -> Result<Option<Scan>, Problem> {
        match patch {
            Patch::CopyFile { source, .. } => self.scan_file(source).map(Some),
            Patch::CopyDir { source, .. } => self.scan_dir(source).map(Some),
            Patch::Text { .. }
            | Patch::Mkdir { .. }
            | Patch::Append { .. }
            | Patch::Symlink { .. }
            | Patch::Remove { .. } => Ok(None),
        }
    }

    /// What the digest of a scan depends on: when none of it has changed, it has not either.
    pub fn watched<'a>(&'a self, scan: &'a Scan) -> impl Iterator<Item = Watched> + 'a {
        // A link that is made anew changes its directory.
        let solid = scan.entries.iter().filter(|entry| !matches!(entry.what, What::Symlink(_)));
        solid.map(|entry| Watched {
            path: self.shown(scan, entry),
            size: entry.stat_size,
            mtime: entry.mtime,
            mtime_nsec: entry.mtime_nsec,
            inode: entry.inode,
            mode: entry.stat_mode,
        })
    }

    fn scan_file(&self, source: &str) -> Result<Scan, Problem> {
        let base = self.relative(source)?;
        let shown = Path::new(source);
        let found = self.look(&base, OFlags::empty(), shown)?;
        if !is(&found, FileType::RegularFile) {
            return Err(Problem::NotAFile(shown.to_owned()));
        }
        let mut scanner = Scanner::default();
        let file = self.open_file(&base, ResolveFlags::BENEATH, shown)?;
        scanner.file(file, &[], shown)?;
        Ok(scanner.finish(base))
    }

    fn scan_dir(&self, source: &str) -> Result<Scan, Problem> {
        let base = self.relative(source)?;
        let shown = Path::new(source);
        if !is(&self.look(&base, OFlags::empty(), shown)?, FileType::Directory) {
            return Err(Problem::NotADirectory(shown.to_owned()));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = self.open_beneath(&base, flags, ResolveFlags::BENEATH, shown)?;
        let mut scanner = Scanner::default();
        scanner.dir(dir, &[], shown, 0)?;
        Ok(scanner.finish(base))
    }

    /// `source` as seen from here.
    fn relative(&self, source: &str) -> Result<PathBuf, Problem> {
        match Path::new(source).strip_prefix(&self.path) {
            Ok(relative) if relative.as_os_str().is_empty() => Ok(PathBuf::from(".")),
            Ok(relative) => Ok(relative.to_owned()),
            Err(_) => Err(Problem::Outside(source.into())),
        }
    }

    fn look(&self, path: &Path, flags: OFlags, shown: &Path) -> Result<Stat, Problem> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        let found = self.open_beneath(path, flags, ResolveFlags::BENEATH, shown)?;
        rustix::fs::fstat(found).map_err(|errno| unreadable(shown, errno))
    }

    fn open_beneath(
        &self,
        path: &Path,
        flags: OFlags,
        resolve: ResolveFlags,
        shown: &Path,
    ) -> Result<OwnedFd, Problem> {
        let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve) {
                Ok(fd) => return Ok(fd),
                // A directory on the way was renamed meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::XDEV) => return Err(Problem::Outside(shown.to_owned())),
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    return Err(Problem::NoSource(shown.to_owned()));
                }
                Err(errno) => return Err(unreadable(shown, errno)),
            }
        }
    }

    fn open_file(
        &self,
        path: &Path,
        resolve: ResolveFlags,
        shown: &Path,
    ) -> Result<OwnedFd, Problem> {
        self.open_beneath(path, reading(), resolve, shown)
    }

    /// Opens a file of a scan once more. Its contents are compared with those of the scan by who
    /// reads them.
    pub(super) fn reopen(&self, scan: &Scan, entry: &Entry) -> Result<File, Problem> {
        let path = scan.host_path(entry);
        let shown = self.path.join(&path);
        let changed = || Problem::Changed(shown.clone());
        // Links on the way to the source itself are followed; there are none below it.
        let file = self.open_file(&path, ResolveFlags::empty(), &shown).map_err(|_| changed())?;
        let found = rustix::fs::fstat(&file).map_err(|errno| unreadable(&shown, errno))?;
        if is(&found, FileType::RegularFile) { Ok(file.into()) } else { Err(changed()) }
    }

    /// Where an entry of a scan is on the host.
    pub(super) fn shown(&self, scan: &Scan, entry: &Entry) -> PathBuf {
        self.path.join(scan.host_path(entry))
    }
}

impl Scan {
    fn host_path(&self, entry: &Entry) -> PathBuf {
        if entry.path.is_empty() {
            return self.base.clone();
        }
        self.base.join(std::ffi::OsStr::from_bytes(&entry.path))
    }
}

/// Never waits for a writer and never makes a terminal one's own.
fn reading() -> OFlags {
    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

fn is(stat: &Stat, wanted: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == wanted
}

fn unreadable(path: &Path, error: impl Into<io::Error>) -> Problem {
    Problem::Unreadable { path: path.to_owned(), source: error.into() }
}

/// Walks a source.
#[derive(Default)]
struct Scanner {
    entries: Vec<Entry>,
    bytes: u64,
}

impl Scanner {
    fn add(&mut self, path: &[u8], what: What, stat: &Stat) -> Result<(), Problem> {
        if self.entries.len() >= MAX_ENTRIES {
            return Err(Problem::TooMany);
        }
        self.entries.push(Entry {
            path: path.to_owned(),
            what,
            mode: u16::try_from(stat.st_mode & COPIED_MODE).unwrap_or(0),
            mtime: stat.st_mtime,
            mtime_nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            inode: stat.st_ino,
            stat_size: u64::try_from(stat.st_size).unwrap_or(0),
            stat_mode: stat.st_mode,
        });
        Ok(())
    }

    fn file(&mut self, file: OwnedFd, path: &[u8], shown: &Path) -> Result<(), Problem> {
        let stat = rustix::fs::fstat(&file).map_err(|errno| unreadable(shown, errno))?;
        if !is(&stat, FileType::RegularFile) {
            return Err(Problem::Changed(shown.to_owned()));
        }
        let too_large = || Problem::FileTooLarge(shown.display().to_string());
        if u64::try_from(stat.st_size).is_ok_and(|size| size > MAX_FILE_BYTES) {
            return Err(too_large());
        }
        let mut hasher = blake3::Hasher::new();
        let mut reader = File::from(file).take(MAX_FILE_BYTES + 1);
        let size = io::copy(&mut reader, &mut hasher).map_err(|error| unreadable(shown, error))?;
        if size > MAX_FILE_BYTES {
            return Err(too_large());
        }
        self.bytes += size;
        if self.bytes > MAX_TOTAL_BYTES {
            return Err(Problem::TooLarge);
        }
        self.add(path, What::File { size, hash: hasher.finalize() }, &stat)
    }

    fn dir(
        &mut self,
        dir: OwnedFd,
        path: &[u8],
        shown: &Path,
        depth: usize,
    ) -> Result<(), Problem> {
        if depth > MAX_DEPTH {
            return Err(Problem::TooDeep(shown.display().to_string()));
        }
        let fail = |errno: Errno| unreadable(shown, errno);
        let stat = rustix::fs::fstat(&dir).map_err(fail)?;
        self.add(path, What::Dir, &stat)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
            if self.entries.len() + names.len() > MAX_ENTRIES {
                return Err(Problem::TooMany);
            }
        }
        names.sort_unstable();
        for name in names {
            let mut below = path.to_owned();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name.to_bytes());
            let shown = shown.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.entry(&dir, &name, &below, &shown, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: &OwnedFd,
        name: &std::ffi::CStr,
        path: &[u8],
        shown: &Path,
        depth: usize,
    ) -> Result<(), Problem> {
        let gone = |errno: Errno| match errno {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO => {
                Problem::Changed(shown.to_owned())
            }
            errno => unreadable(shown, errno),
        };
        let dir = dir.as_fd();
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(gone)?;
        let open = |flags| {
            rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(gone)
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(open(reading())?, path, shown),
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                self.dir(open(flags)?, path, shown, depth + 1)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(gone)?;
                self.add(path, What::Symlink(target.into_bytes()), &stat)
            }
            _ => Err(Problem::Special(shown.to_owned())),
        }
    }

    fn finish(self, base: PathBuf) -> Scan {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for entry in &self.entries {
            field(&entry.path);
            match &entry.what {
                What::Dir => field(b"directory"),
                What::File { hash, .. } => {
                    field(b"file");
                    field(hash.as_bytes());
                }
                What::Symlink(target) => {
                    field(b"link");
                    field(target);
                    // The mode of a link says nothing.
                    continue;
                }
            }
            field(&entry.mode.to_le_bytes());
        }
        let digest = hasher.finalize().to_hex().to_string();
        Scan { digest, base, entries: self.entries }
    }
}
