//! The same things done to a share and to a directory have the same results.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};

use super::client::*;

/// A name of one of few directories, and one of few names in it.
type Place = (usize, usize);

const DIRS: [&str; 4] = ["", "a", "b", "a/b"];
const NAMES: [&str; 4] = ["a", "b", "f", "g"];

#[derive(Clone, Debug)]
enum Op {
    Mkdir(Place, u32),
    Create(Place, u32, i32),
    Mkfifo(Place, u32),
    Symlink(Place, &'static str),
    Link(Place, Place),
    Unlink(Place),
    Rmdir(Place),
    Rename(Place, Place, u32),
    Write(Place, u64, Vec<u8>),
    Append(Place, Vec<u8>),
    Read(Place, u64, u32),
    Truncate(Place, u64),
    Chmod(Place, u32),
    Times(Place, i64, u32),
    Allocate(Place, i32, u64, u64),
    SetXattr(Place, &'static str, Vec<u8>),
    GetXattr(Place, &'static str),
    RemoveXattr(Place, &'static str),
    Readlink(Place),
    List(usize),
    Stat(Place),
}

fn op() -> impl Strategy<Value = Op> {
    use Op::*;
    let place = || (0..DIRS.len(), 0..NAMES.len());
    let mode = || 0_u32..0o1000;
    let data = || prop::collection::vec(any::<u8>(), 0..300);
    let xattr = || prop_oneof![Just("user.a"), Just("user.long.name")];
    let exclusive = prop_oneof![Just(0), Just(libc::O_EXCL)];
    let time = (-(1_i64 << 30)..1 << 32, 0_u32..1_000_000_000);
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let allocation = prop_oneof![
        Just(0),
        Just(libc::FALLOC_FL_KEEP_SIZE),
        Just(hole),
        Just(libc::FALLOC_FL_ZERO_RANGE)
    ];
    prop_oneof![
        3 => (place(), mode()).prop_map(|(at, mode)| Mkdir(at, mode | 0o700)),
        4 => (place(), mode(), exclusive).prop_map(|(at, mode, flags)| Create(at, mode, flags)),
        1 => (place(), mode()).prop_map(|(at, mode)| Mkfifo(at, mode)),
        1 => (place(), prop_oneof![Just("none"), Just("../none"), Just("/none")])
            .prop_map(|(at, target)| Symlink(at, target)),
        2 => (place(), place()).prop_map(|(from, to)| Link(from, to)),
        2 => place().prop_map(Unlink),
        1 => place().prop_map(Rmdir),
        4 => (place(), place(), 0_u32..3).prop_map(|(from, to, flags)| Rename(from, to, flags)),
        3 => (place(), 0_u64..10_000, data()).prop_map(|(at, offset, data)| Write(at, offset, data)),
        1 => (place(), data()).prop_map(|(at, data)| Append(at, data)),
        2 => (place(), 0_u64..10_000, 0_u32..5000).prop_map(|(at, from, size)| Read(at, from, size)),
        2 => (place(), 0_u64..20_000).prop_map(|(at, size)| Truncate(at, size)),
        2 => (place(), mode()).prop_map(|(at, mode)| Chmod(at, mode)),
        1 => (place(), time).prop_map(|(at, (seconds, nanos))| Times(at, seconds, nanos)),
        1 => (place(), allocation, 0_u64..9000, 0_u64..9000)
            .prop_map(|(at, mode, offset, length)| Allocate(at, mode, offset, length)),
        1 => (place(), xattr(), data()).prop_map(|(at, name, value)| SetXattr(at, name, value)),
        1 => (place(), xattr()).prop_map(|(at, name)| GetXattr(at, name)),
        1 => (place(), xattr()).prop_map(|(at, name)| RemoveXattr(at, name)),
        1 => place().prop_map(Readlink),
        1 => (0..DIRS.len()).prop_map(List),
        1 => place().prop_map(Stat),
    ]
}

/// What an operation gives, or the number of its error.
type Outcome = Result<Vec<u8>, i32>;

/// The kernel of a guest looks before it asks: whether something is there, and what it is.
struct Guest {
    client: Client,
}

impl Guest {
    fn dir(&mut self, dir: usize) -> Result<u64, i32> {
        let mut at = self.client.share(0);
        for name in DIRS[dir].split('/').filter(|name| !name.is_empty()) {
            let found = self.client.lookup(at, name)?;
            match found.mode & libc::S_IFMT {
                libc::S_IFDIR => at = found.node,
                // It leads nowhere.
                libc::S_IFLNK => return Err(libc::ENOENT),
                _ => return Err(libc::ENOTDIR),
            }
        }
        Ok(at)
    }

    fn at(&mut self, (dir, name): Place) -> Result<Attr, i32> {
        let dir = self.dir(dir)?;
        self.client.lookup(dir, NAMES[name])
    }

    /// A regular file, opened.
    fn file(&mut self, at: Place, flags: i32) -> Result<(u64, u64), i32> {
        let found = self.at(at)?;
        match found.mode & libc::S_IFMT {
            libc::S_IFREG => Ok((found.node, self.client.open(found.node, flags)?)),
            libc::S_IFDIR => Err(libc::EISDIR),
            libc::S_IFLNK => Err(libc::ELOOP),
            _ => Err(libc::ENXIO),
        }
    }

    fn entry(&mut self, op: u32, (dir, name): Place, body: Body) -> Outcome {
        let dir = self.dir(dir)?;
        if self.client.lookup(dir, NAMES[name]).is_ok() {
            return Err(libc::EEXIST);
        }
        self.client.call(op, dir, &body.0).map(|_| Vec::new())
    }

    fn apply(&mut self, op: &Op) -> Outcome {
        let nothing = |_| Vec::new();
        let body = Body::default;
        match op.clone() {
            Op::Mkdir(at, mode) => self.entry(MKDIR, at, body().n32(mode).n32(0).name(NAMES[at.1])),
            Op::Mkfifo(at, mode) => {
                let mode = mode | libc::S_IFIFO;
                self.entry(MKNOD, at, body().n32(mode).n32(0).n64(0).name(NAMES[at.1]))
            }
            Op::Symlink(at, target) => {
                self.entry(SYMLINK, at, body().name(NAMES[at.1]).name(target))
            }
            Op::Create(at, mode, flags) => {
                let dir = self.dir(at.0)?;
                if let Ok(found) = self.client.lookup(dir, NAMES[at.1]) {
                    if flags & libc::O_EXCL != 0 {
                        return Err(libc::EEXIST);
                    }
                    if !matches!(found.mode & libc::S_IFMT, libc::S_IFREG) {
                        return self.file(at, libc::O_WRONLY).map(|_| Vec::new());
                    }
                }
                let flags = libc::O_WRONLY | libc::O_CREAT | flags;
                let (attr, handle) = self.client.create(dir, NAMES[at.1], flags, mode)?;
                self.client.release(RELEASE, attr.node, handle).map(nothing)
            }
            Op::Link(from, to) => {
                let found = self.at(from)?;
                let dir = self.dir(to.0)?;
                if is_dir(found.mode) && self.client.lookup(dir, NAMES[to.1]).is_err() {
                    return Err(libc::EPERM);
                }
                self.entry(LINK, to, body().n64(found.node).name(NAMES[to.1]))
            }
            Op::Unlink(at) => {
                let dir = self.dir(at.0)?;
                self.client.remove(UNLINK, dir, NAMES[at.1]).map(nothing)
            }
            Op::Rmdir(at) => {
                let dir = self.dir(at.0)?;
                self.client.remove(RMDIR, dir, NAMES[at.1]).map(nothing)
            }
            Op::Rename(from, to, flags) => {
                let (dir, newdir) = (self.dir(from.0)?, self.dir(to.0)?);
                let (name, newname) = (NAMES[from.1].as_bytes(), NAMES[to.1].as_bytes());
                self.client.rename((dir, name), (newdir, newname), flags).map(nothing)
            }
            Op::Write(at, offset, data) => {
                let (node, handle) = self.file(at, libc::O_WRONLY)?;
                let written = self.client.write(node, handle, offset, &data);
                self.client.release(RELEASE, node, handle)?;
                written.map(|length| length.to_le_bytes().to_vec())
            }
            Op::Append(at, data) => {
                let (node, handle) = self.file(at, libc::O_WRONLY | libc::O_APPEND)?;
                let written = self.client.write(node, handle, 0, &data);
                self.client.release(RELEASE, node, handle)?;
                written.map(|length| length.to_le_bytes().to_vec())
            }
            Op::Read(at, offset, size) => {
                let (node, handle) = self.file(at, libc::O_RDONLY)?;
                let read = self.client.read(node, handle, offset, size);
                self.client.release(RELEASE, node, handle)?;
                read
            }
            Op::Allocate(at, mode, offset, length) => {
                let (node, handle) = self.file(at, libc::O_RDWR)?;
                let body = body().n64(handle).n64(offset).n64(length);
                let body = body.n32(mode.cast_unsigned()).n32(0);
                let done = self.client.call(FALLOCATE, node, &body.0);
                self.client.release(RELEASE, node, handle)?;
                done
            }
            other => self.attributes(&other),
        }
    }

    fn attributes(&mut self, op: &Op) -> Outcome {
        let nothing = |_| Vec::new();
        match op.clone() {
            Op::Truncate(at, size) => {
                let found = self.at(at)?;
                match found.mode & libc::S_IFMT {
                    libc::S_IFREG => {}
                    libc::S_IFDIR => return Err(libc::EISDIR),
                    libc::S_IFLNK => return Err(libc::ELOOP),
                    _ => return Err(libc::EINVAL),
                }
                let set = Set { size: Some(size), ..Set::default() };
                self.client.setattr(found.node, &set).map(nothing_of)
            }
            Op::Chmod(at, mode) => {
                let found = self.at(at)?;
                if found.mode & libc::S_IFMT == libc::S_IFLNK {
                    return Err(libc::ELOOP);
                }
                let set = Set { mode: Some(mode), ..Set::default() };
                self.client.setattr(found.node, &set).map(nothing_of)
            }
            Op::Times(at, seconds, nanos) => {
                let found = self.at(at)?;
                let set = Set { mtime: Some((seconds, nanos)), ..Set::default() };
                self.client.setattr(found.node, &set).map(nothing_of)
            }
            Op::SetXattr(at, name, value) => {
                let found = self.at(at)?;
                self.client.setxattr(found.node, name, &value).map(nothing)
            }
            Op::GetXattr(at, name) => {
                let found = self.at(at)?;
                self.client.getxattr(found.node, name)
            }
            Op::RemoveXattr(at, name) => {
                let found = self.at(at)?;
                self.client.remove(REMOVEXATTR, found.node, name).map(nothing)
            }
            Op::Readlink(at) => {
                let found = self.at(at)?;
                self.client.call(READLINK, found.node, &[])
            }
            Op::List(dir) => {
                let dir = self.dir(dir)?;
                let plain = self.client.list(READDIR, dir)?;
                assert_eq!(plain, self.client.list(READDIRPLUS, dir)?);
                Ok(plain.into_iter().flat_map(|(name, ..)| [name, vec![0]].concat()).collect())
            }
            Op::Stat(at) => {
                let found = self.at(at)?;
                assert_eq!(self.client.getattr(found.node), Ok(found));
                let size = if is_dir(found.mode) { 0 } else { found.size };
                let nlink = if is_dir(found.mode) { 0 } else { found.nlink };
                Ok(format!("{:o} {size} {nlink}", found.mode).into_bytes())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn nothing_of(_: Attr) -> Vec<u8> {
    Vec::new()
}

fn is_dir(mode: u32) -> bool {
    mode & libc::S_IFMT == libc::S_IFDIR
}

/// The same with the paths of a directory.
fn on_host(root: &Path, op: &Op) -> Outcome {
    let path = |(dir, name): Place| root.join(DIRS[dir]).join(NAMES[name]);
    let open = |at: Place, flags: OFlags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(path(at), flags, Mode::empty())?;
        let kind = rustix::fs::fstat(&file)?.st_mode & libc::S_IFMT;
        match kind {
            libc::S_IFREG => Ok(file),
            libc::S_IFDIR => Err(rustix::io::Errno::ISDIR),
            _ => Err(rustix::io::Errno::NXIO),
        }
    };
    let mode = Mode::from_raw_mode;
    let done = || -> rustix::io::Result<Vec<u8>> {
        match op.clone() {
            Op::Mkdir(at, bits) => rustix::fs::mkdir(path(at), mode(bits))?,
            Op::Mkfifo(at, bits) => {
                let kind = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(CWD, path(at), kind, mode(bits), 0)?;
            }
            Op::Symlink(at, target) => rustix::fs::symlink(target, path(at))?,
            Op::Create(at, bits, flags) => {
                let flags = OFlags::from_bits_retain(flags.cast_unsigned());
                let flags = flags | OFlags::CREATE | OFlags::WRONLY;
                let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::open(path(at), flags, mode(bits)).map(drop)?;
            }
            Op::Link(from, to) => {
                rustix::fs::linkat(CWD, path(from), CWD, path(to), AtFlags::empty())?;
            }
            Op::Unlink(at) => rustix::fs::unlink(path(at))?,
            Op::Rmdir(at) => rustix::fs::rmdir(path(at))?,
            Op::Rename(from, to, flags) => {
                let flags = RenameFlags::from_bits_retain(flags);
                rustix::fs::renameat_with(CWD, path(from), CWD, path(to), flags)?;
            }
            Op::Write(at, offset, data) => {
                let file = open(at, OFlags::WRONLY)?;
                let length = rustix::io::pwrite(&file, &data, offset)?;
                return Ok(u32::try_from(length).unwrap().to_le_bytes().to_vec());
            }
            Op::Append(at, data) => {
                let file = open(at, OFlags::WRONLY | OFlags::APPEND)?;
                let length = rustix::io::write(&file, &data)?;
                return Ok(u32::try_from(length).unwrap().to_le_bytes().to_vec());
            }
            Op::Read(at, offset, size) => {
                let mut data = vec![0; size as usize];
                let length = rustix::io::pread(open(at, OFlags::RDONLY)?, &mut data, offset)?;
                data.truncate(length);
                return Ok(data);
            }
            Op::Allocate(at, bits, offset, length) => {
                let bits = FallocateFlags::from_bits_retain(bits.cast_unsigned());
                rustix::fs::fallocate(open(at, OFlags::RDWR)?, bits, offset, length)?;
            }
            Op::Truncate(at, size) => {
                let found = rustix::fs::lstat(path(at))?;
                match found.st_mode & libc::S_IFMT {
                    libc::S_IFLNK => return Err(rustix::io::Errno::LOOP),
                    libc::S_IFIFO => return Err(rustix::io::Errno::INVAL),
                    _ => rustix::fs::ftruncate(open(at, OFlags::WRONLY)?, size)?,
                }
            }
            Op::Chmod(at, bits) => {
                if rustix::fs::lstat(path(at))?.st_mode & libc::S_IFMT == libc::S_IFLNK {
                    return Err(rustix::io::Errno::LOOP);
                }
                rustix::fs::chmod(path(at), mode(bits))?;
            }
            Op::Times(at, seconds, nanos) => {
                let omit = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
                let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
                let times = rustix::fs::Timestamps { last_access: omit, last_modification: time };
                rustix::fs::utimensat(CWD, path(at), &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Op::SetXattr(at, name, value) => {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::lsetxattr(path(at), name, &value, flags)?;
            }
            Op::GetXattr(at, name) => {
                let mut value = vec![0; 1000];
                let length = rustix::fs::lgetxattr(path(at), name, &mut value)?;
                value.truncate(length);
                return Ok(value);
            }
            Op::RemoveXattr(at, name) => rustix::fs::lremovexattr(path(at), name)?,
            Op::Readlink(at) => {
                return rustix::fs::readlink(path(at), Vec::new()).map(CString::into_bytes);
            }
            Op::List(dir) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let dir = rustix::fs::open(root.join(DIRS[dir]), flags, Mode::empty())?;
                let mut names: Vec<_> = rustix::fs::Dir::read_from(dir.as_fd())?
                    .map(|entry| entry.unwrap().file_name().to_bytes_with_nul().to_vec())
                    .filter(|name| name != b".\0" && name != b"..\0")
                    .collect();
                names.sort();
                return Ok(names.concat());
            }
            Op::Stat(at) => {
                let found = rustix::fs::lstat(path(at))?;
                let (size, nlink) =
                    if is_dir(found.st_mode) { (0, 0) } else { (found.st_size, found.st_nlink) };
                return Ok(format!("{:o} {size} {nlink}", found.st_mode).into_bytes());
            }
        }
        Ok(Vec::new())
    };
    done().map_err(rustix::io::Errno::raw_os_error)
}

/// Everything about the files below a directory that should be alike.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else if meta.is_file() {
                format!("{} {}", meta.nlink(), blake3::hash(&fs::read(&path).unwrap()))
            } else {
                String::new()
            };
            if meta.is_dir() {
                open.push(path.clone());
            }
            let name = path.strip_prefix(root).unwrap().display().to_string();
            all.insert(name, format!("{:o} {content}", meta.permissions().mode()));
        }
    }
    all
}

#[test]
fn a_share_is_as_good_as_a_directory() {
    // For the directory; the server has none.
    rustix::process::umask(Mode::empty());
    let mut runner = TestRunner::new(Config { cases: 100, ..Config::default() });
    runner
        .run(&prop::collection::vec(op(), 1..120), |ops| {
            let (shared, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let mut guest = Guest { client: Client::start(vec![files(shared.path())]) };
            for op in &ops {
                let (ours, theirs) = (guest.apply(op), on_host(plain.path(), op));
                prop_assert_eq!(&ours, &theirs, "{:?}", op);
            }
            prop_assert_eq!(tree(shared.path()), tree(plain.path()));
            Ok(())
        })
        .unwrap();
}
