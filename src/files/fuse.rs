//! FUSE requests to operations, and their results to replies.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::host;
use super::limits::{MAX_IO, MAX_NAME};
use super::serve::{Changes, Entry, Opened, Server, Time};

/// What is asked of the guest's kernel, if it has it. Not among them: a cache of writes, with which
/// the host would not see what the guest has written.
const WANTED: [InitFlags; 7] = [
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
];
/// How long a name may be believed, and that there is none.
const NAME_FRESH: Duration = Duration::from_secs(1);

thread_local! {
    /// What is read on its way to the guest.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_IO]);
}

/// A server that is spoken to by FUSE.
#[derive(Debug)]
pub(super) struct Fuse(pub(super) Server);

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

fn caller(request: &Request) -> (u32, u32) {
    (request.uid(), request.gid())
}

fn clamped(size: u32) -> usize {
    usize::try_from(size).unwrap_or(MAX_IO).min(MAX_IO)
}

fn time(time: TimeOrNow) -> Time {
    match time {
        TimeOrNow::Now => Time::Now,
        TimeOrNow::SpecificTime(time) => Time::At(time),
    }
}

fn keeping(opened: Opened) -> FopenFlags {
    if opened.unchanged { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

fn answer(reply: ReplyEmpty, result: host::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_entry(reply: ReplyEntry, result: host::Result<Entry>) {
    match result {
        Ok(entry) => {
            let generation = Generation(entry.generation);
            reply.entry_with_ttls(&entry.fresh, &NAME_FRESH, &entry.attr, generation);
        }
        Err(error) => reply.error(errno(error)),
    }
}

/// What a name is told to be that is not there: node 0.
fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn answer_attr(reply: ReplyAttr, result: host::Result<Entry>) {
    match result {
        Ok(entry) => reply.attr(&entry.fresh, &entry.attr),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_written(reply: ReplyWrite, result: host::Result<usize>) {
    match result {
        Ok(length) => reply.written(u32::try_from(length).unwrap_or(0)),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_xattr(reply: ReplyXattr, result: host::Result<Vec<u8>>, size: u32) {
    match result {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > clamped(size) => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

#[rustfmt::skip]
#[allow(clippy::too_many_arguments, reason = "the interface of the crate")]
impl Filesystem for Fuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED {
            // What it has not is done without.
            let _ = config.add_capabilities(flag);
        }
        let size = u32::try_from(MAX_IO).unwrap_or(u32::MAX);
        let _ = config.set_max_write(size);
        let _ = config.set_max_readahead(size);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.lookup(parent.0, name) {
            // Programs look for the same in many places: that it is not there is worth knowing.
            Err(rustix::io::Errno::NOENT) => {
                reply.entry_with_ttls(&Duration::ZERO, &NAME_FRESH, &absent(), Generation(0));
            }
            found => answer_entry(reply, found),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.0.forget(ino.0, nlookup);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        answer_attr(reply, self.0.getattr(ino.0, fh.map(|fh| fh.0)));
    }

    fn setattr(
        &self, _: &Request, ino: INodeNo, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>,
        size: Option<u64>, atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>,
        _: Option<SystemTime>, fh: Option<FileHandle>, _: Option<SystemTime>,
        _: Option<SystemTime>, _: Option<SystemTime>, _: Option<BsdFileFlags>, reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(time), mtime.map(time));
        let changes = Changes { mode, uid, gid, size, atime, mtime };
        answer_attr(reply, self.0.setattr(ino.0, fh.map(|fh| fh.0), &changes));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: u32,
        reply: ReplyEntry,
    ) {
        answer_entry(reply, self.0.mknod(caller(request), parent.0, name, mode));
    }

    fn mkdir(
        &self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32,
        reply: ReplyEntry,
    ) {
        answer_entry(reply, self.0.mkdir(caller(request), parent.0, name, mode));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.0.unlink(parent.0, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.0.rmdir(parent.0, name));
    }

    fn symlink(
        &self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry,
    ) {
        answer_entry(reply, self.0.symlink(caller(request), parent.0, name, target));
    }

    fn rename(
        &self, _: &Request, parent: INodeNo, name: &OsStr, newparent: INodeNo, newname: &OsStr,
        flags: RenameFlags, reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name), (newparent.0, newname));
        answer(reply, self.0.rename(from, to, flags.bits()));
    }

    fn link(
        &self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry,
    ) {
        answer_entry(reply, self.0.link(ino.0, newparent.0, newname));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.0.open(ino.0, flags.0) {
            Ok(opened) => reply.opened(FileHandle(opened.handle), keeping(opened)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn create(
        &self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, flags: i32,
        reply: ReplyCreate,
    ) {
        match self.0.create(caller(request), parent.0, name, mode, flags) {
            Ok((entry, opened)) => {
                let handle = FileHandle(opened.handle);
                let generation = Generation(entry.generation);
                reply.created(&entry.fresh, &entry.attr, generation, handle, keeping(opened));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, size: u32, _: OpenFlags,
        _: Option<LockOwner>, reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let buffer = buffer.get_mut(..clamped(size)).unwrap_or_default();
            match self.0.read(ino.0, fh.0, offset, buffer) {
                Ok(length) => reply.data(buffer.get(..length).unwrap_or_default()),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn write(
        &self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, data: &[u8], _: WriteFlags,
        _: OpenFlags, _: Option<LockOwner>, reply: ReplyWrite,
    ) {
        answer_written(reply, self.0.write(ino.0, fh.0, offset, data));
    }

    fn release(
        &self, _: &Request, ino: INodeNo, fh: FileHandle, _: OpenFlags, _: Option<LockOwner>,
        _: bool, reply: ReplyEmpty,
    ) {
        answer(reply, self.0.release(ino.0, fh.0));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Nothing is held back here: the guest's kernel need not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self, _: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty,
    ) {
        answer(reply, self.0.fsync(ino.0, fh.0, datasync));
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.opendir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(
        &self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory,
    ) {
        let mut size = 0;
        let read = self.0.readdir((ino.0, fh.0), offset, false, |entry| {
            size += ENTRY + entry.name.len();
            let full = size > MAX_IO;
            Ok(full || reply.add(INodeNo(entry.number), entry.next, entry.kind, &entry.name))
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut size = 0;
        let read = self.0.readdir((ino.0, fh.0), offset, true, |listed| {
            let before = size;
            size += ENTRY_PLUS + listed.name.len();
            if size > MAX_IO {
                return Ok(true);
            }
            let entry = if listed.is_dots() {
                self.0.getattr(ino.0, None).map(Some)
            } else {
                self.0.listed_entry(ino.0, &listed)
            };
            let Some(entry) = (match entry {
                // What is there already is told; the error when it is the first.
                Err(_) if before > 0 => return Ok(true),
                other => other?,
            }) else { return Ok(false) };
            let generation = Generation(entry.generation);
            let full = reply.add(
                entry.attr.ino, listed.next, &listed.name, &entry.fresh, &entry.attr, generation,
            );
            if full && !listed.is_dots() {
                self.0.forget(entry.attr.ino.0, 1);
            }
            Ok(full)
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn releasedir(
        &self, _: &Request, ino: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty,
    ) {
        answer(reply, self.0.releasedir(ino.0, fh.0));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.0.fsyncdir(ino.0, fh.0));
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        match self.0.statfs(ino.0) {
            Ok(stat) => reply.statfs(
                stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_files, stat.f_ffree,
                short(stat.f_bsize), short(stat.f_namemax.min(MAX_NAME as u64)),
                short(stat.f_frsize),
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setxattr(
        &self, _: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _: u32,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.0.setxattr(ino.0, name, value, flags));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        answer_xattr(reply, self.0.getxattr(ino.0, name), size);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer_xattr(reply, self.0.listxattr(ino.0), size);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.0.removexattr(ino.0, name));
    }

    fn access(&self, _: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        answer(reply, self.0.access(ino.0, mask.contains(AccessFlags::W_OK)));
    }

    fn fallocate(
        &self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32,
        reply: ReplyEmpty,
    ) {
        answer(reply, self.0.fallocate(ino.0, fh.0, (offset, length), mode));
    }

    fn lseek(
        &self, _: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32,
        reply: ReplyLseek,
    ) {
        match self.0.lseek(ino.0, fh.0, offset, whence) {
            Ok(offset) => reply.offset(offset.cast_signed()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn copy_file_range(
        &self, _: &Request, ino_in: INodeNo, fh_in: FileHandle, offset_in: u64, ino_out: INodeNo,
        fh_out: FileHandle, offset_out: u64, len: u64, flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (from, to) = ((ino_in.0, fh_in.0, offset_in), (ino_out.0, fh_out.0, offset_out));
        answer_written(reply, self.0.copy(from, to, len));
    }
}

/// What an entry of a directory takes beside its name, with padding.
const ENTRY: usize = 24 + 7;
/// The same with attributes.
const ENTRY_PLUS: usize = 152 + 7;
