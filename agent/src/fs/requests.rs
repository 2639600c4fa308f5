//! What a helper does, with calls that block.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use msb_protocol::{
    Frame, FsEntry, FsKind, FsMetadata, FsPath, FsPut, FsReply, FsRequest, FsWrite, MAX_DATA,
    MAX_ENTRIES,
};
use msb_transfer::{Input, NewFile, Output, Policy, Target, TransferError, copy_file};

/// Permission bits, setuid, setgid and sticky.
const MODE: u32 = 0o7777;
/// The mode of a new file.
const NEW_FILE: u32 = 0o644;

/// Serves one request; whether it was done.
pub(super) fn serve(socket: &UnixStream, request: FsRequest) -> bool {
    let mut output = Output::new(socket);
    let reply = match request {
        FsRequest::Get { path, follow } => {
            let source = resolve(&path);
            return msb_transfer::send(&source, follow, &mut output, &mut |_| {}).is_ok();
        }
        FsRequest::Put(put) => self::put(socket, &put),
        FsRequest::Write(write) => self::write(socket, &write),
        FsRequest::List { path } => list(&resolve(&path), &mut output),
        FsRequest::Read { path, offset, length } => {
            read(&resolve(&path), offset, length, &mut output)
        }
        single => self::single(single),
    };
    let reply = reply.unwrap_or_else(|error| FsReply::Failed(error.failure()));
    let is_done = !matches!(reply, FsReply::Failed(_));
    output.message(&reply).and_then(|()| output.flush()).is_ok() && is_done
}

type Result<T> = std::result::Result<T, TransferError>;

fn resolve(path: &FsPath) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(&path.0))
}

/// Names the file of an error.
fn at<T>(path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|error| TransferError::local(path, error))
}

/// Requests that carry no data.
fn single(request: FsRequest) -> Result<FsReply> {
    match request {
        FsRequest::Stat { path, follow } => {
            let path = resolve(&path);
            let found = if follow { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
            return Ok(FsReply::Metadata(metadata(&at(&path, found)?)));
        }
        FsRequest::MakeDir { path } => {
            let path = resolve(&path);
            at(&path, fs::create_dir_all(&path))?;
        }
        FsRequest::Remove { path } => {
            let path = resolve(&path);
            at(&path, fs::remove_file(&path))?;
        }
        FsRequest::RemoveDir { path } => {
            let path = resolve(&path);
            if !at(&path, fs::symlink_metadata(&path))?.is_dir() {
                return at(&path, Err(io::ErrorKind::NotADirectory.into()));
            }
            at(&path, fs::remove_dir_all(&path))?;
        }
        FsRequest::Rename { from, to } => {
            let (from, to) = (resolve(&from), resolve(&to));
            make_parent(&to)?;
            at(&from, fs::rename(&from, &to))?;
        }
        FsRequest::Copy { from, to } => copy(&resolve(&from), &resolve(&to))?,
        FsRequest::List { .. }
        | FsRequest::Read { .. }
        | FsRequest::Write(_)
        | FsRequest::Get { .. }
        | FsRequest::Put(_) => {}
    }
    Ok(FsReply::Done)
}

fn metadata(found: &fs::Metadata) -> FsMetadata {
    let ms = |time: io::Result<std::time::SystemTime>| {
        let time = time.ok()?;
        let ms = |time: std::time::Duration| i64::try_from(time.as_millis()).ok();
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => ms(after),
            Err(before) => ms(before.duration()).map(|ms| -ms),
        }
    };
    let kind = match found.file_type() {
        kind if kind.is_file() => FsKind::File,
        kind if kind.is_dir() => FsKind::Directory,
        kind if kind.is_symlink() => FsKind::Symlink,
        _ => FsKind::Other,
    };
    FsMetadata {
        kind,
        size: found.len(),
        mode: found.mode() & MODE,
        uid: found.uid(),
        gid: found.gid(),
        modified_ms: ms(found.modified()),
        created_ms: ms(found.created()),
    }
}

fn list(path: &Path, output: &mut Output<&UnixStream>) -> Result<FsReply> {
    let mut entries = Vec::new();
    for entry in at(path, fs::read_dir(path))? {
        let entry = at(path, entry)?;
        let metadata = entry.metadata().map_or(UNKNOWN, |found| metadata(&found));
        entries.push(FsEntry { name: entry.file_name().as_bytes().into(), metadata });
        if entries.len() == MAX_ENTRIES {
            output.message(&FsReply::Entries(std::mem::take(&mut entries)))?;
        }
    }
    if !entries.is_empty() {
        output.message(&FsReply::Entries(entries))?;
    }
    Ok(FsReply::Done)
}

/// What cannot be looked at.
const UNKNOWN: FsMetadata = FsMetadata {
    kind: FsKind::Other,
    size: 0,
    mode: 0,
    uid: 0,
    gid: 0,
    modified_ms: None,
    created_ms: None,
};

fn read(
    path: &Path,
    offset: u64,
    length: Option<u64>,
    output: &mut Output<&UnixStream>,
) -> Result<FsReply> {
    let mut file = at(path, File::open(path))?;
    if offset > 0 {
        at(path, file.seek(SeekFrom::Start(offset)))?;
    }
    let mut left = length.unwrap_or(u64::MAX);
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(MAX_DATA);
        let count = output.data(1, wanted, |space| {
            loop {
                match file.read(space) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => return at(path, read),
                }
            }
        })?;
        if count == 0 {
            break;
        }
        left -= count as u64;
    }
    Ok(FsReply::Done)
}

fn write(socket: &UnixStream, request: &FsWrite) -> Result<FsReply> {
    let path = resolve(&request.path);
    make_parent(&path)?;
    let mut input = Input::new(socket);
    match request.offset {
        Some(offset) => {
            let mode = request.mode.unwrap_or(NEW_FILE);
            let options = OpenOptions::new().write(true).create(true).mode(mode).open(&path);
            let file = at(&path, options)?;
            take(&mut input, &path, &file, offset)?;
            if request.sync {
                at(&path, file.sync_all())?;
            }
        }
        None => {
            let (new, existing) = beside(&path)?;
            take(&mut input, &path, new.file(), 0)?;
            let kept = existing.as_ref().map_or(NEW_FILE, MetadataExt::mode);
            let mode = request.mode.unwrap_or(kept);
            finish(&path, new, mode & MODE, existing.as_ref(), request.sync)?;
        }
    }
    Ok(FsReply::Done)
}

/// Writes the host's data, up to the empty frame that ends them.
fn take(input: &mut Input<&UnixStream>, path: &Path, file: &File, mut offset: u64) -> Result<()> {
    loop {
        match input.frame()? {
            Frame::Data { fd: 0, bytes: [] } => return Ok(()),
            Frame::Data { fd: 0, bytes } => {
                at(path, file.write_all_at(bytes, offset))?;
                offset = offset.saturating_add(bytes.len() as u64);
            }
            Frame::Data { .. } | Frame::Message(_) => {
                return Err(TransferError::Protocol("something else than contents"));
            }
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let source = at(from, File::open(from))?;
    let found = at(from, source.metadata())?;
    if found.is_dir() {
        return at(from, Err(io::ErrorKind::IsADirectory.into()));
    }
    make_parent(to)?;
    let (new, existing) = beside(to)?;
    at(to, copy_file(&source, new.file()))?;
    finish(to, new, found.mode() & MODE, existing.as_ref(), false)
}

/// A file that takes the place of what is at `path`, or of what a link there leads to; and what is
/// there.
fn beside(path: &Path) -> Result<(NewFile, Option<fs::Metadata>)> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let existing = fs::symlink_metadata(&target).ok();
    if existing.as_ref().is_some_and(fs::Metadata::is_dir) {
        return at(path, Err(io::ErrorKind::IsADirectory.into()));
    }
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return at(path, Err(io::ErrorKind::InvalidInput.into()));
    };
    let dir = at(path, File::open(parent))?;
    let new = at(path, NewFile::beside(dir.as_fd(), name.as_bytes()))?;
    Ok((new, existing.filter(fs::Metadata::is_file)))
}

fn finish(
    path: &Path,
    new: NewFile,
    mode: u32,
    existing: Option<&fs::Metadata>,
    sync: bool,
) -> Result<()> {
    let file = new.file();
    if let Some(existing) = existing {
        // First: a change of the owner clears setuid and setgid.
        at(path, fchown(file, Some(existing.uid()), Some(existing.gid())))?;
    }
    at(path, file.set_permissions(fs::Permissions::from_mode(mode)))?;
    if sync {
        at(path, file.sync_all())?;
    }
    at(path, new.finish())?;
    if sync && let Some(parent) = path.parent() {
        at(path, File::open(parent).and_then(|dir| dir.sync_all()))?;
    }
    Ok(())
}

fn put(socket: &UnixStream, request: &FsPut) -> Result<FsReply> {
    let path = resolve(&request.path);
    let name = OsStr::from_bytes(&request.name.0);
    let target = Target { path: &path, name, contents: request.contents };
    let policy = Policy { owners: request.archive, special_bits: request.archive };
    msb_transfer::receive(&mut Input::new(socket), target, policy, &mut |_| {})?;
    Ok(FsReply::Done)
}

/// Makes the directories above `path`.
fn make_parent(path: &Path) -> Result<()> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    at(
        path,
        made.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
            _ => error,
        }),
    )
}
