//! The files of a running sandbox, as its workload sees them and with the rights of its root.
//!
//! ```no_run
//! # async fn example(home: &msb::home::Home, id: &str) -> Result<(), msb::client::FsError> {
//! use msb::client::SandboxFs;
//!
//! let fs = SandboxFs::new(home, id);
//! fs.write("/etc/motd", "hello").await?;
//! for entry in fs.list("/etc").await? {
//!     println!("{} {:?} {}", entry.path.display(), entry.metadata.kind, entry.metadata.size);
//! }
//! fs.copy_to_host("/var/log", "logs").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Paths in the sandbox are absolute; relative ones start at `/`. Each operation is one request to
//! the sandbox's supervisor and one session with its agent, of which a sandbox has 128 at a time.
//! Dropping a future ends its operation: what is being written is then as it was.
//!
//! Everything that a sandbox answers is untrusted: texts may hold control characters (see
//! [`FsError`]), names any bytes but `/` and NUL.

mod error;
mod stream;
mod tar;
mod transfer;

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use msb_protocol::{
    Frame, FsEntry as WireEntry, FsKind, FsMetadata as WireMetadata, FsPath, FsReply, FsRequest,
    FsWrite, read_frame,
};
use tokio::net::UnixStream;

pub use error::FsError;
pub use msb_protocol::{FsErrorKind, FsKind as FsEntryKind};
pub use stream::{FsReader, FsWriter};
pub use transfer::{CopyEvent, CopyOptions};

use crate::home::Home;
use crate::supervisor::ControlClient;

/// What [`SandboxFs::read`] reads at most, in bytes; [`SandboxFs::read_stream`] has no limit.
pub const MAX_READ_BYTES: u64 = 1 << 30;
/// Entries that [`SandboxFs::list`] returns at most.
pub const MAX_LIST_ENTRIES: usize = 1 << 20;

/// The files of one sandbox.
#[derive(Clone, Debug)]
pub struct SandboxFs {
    client: ControlClient,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsMetadata {
    /// What it is.
    pub kind: FsEntryKind,
    /// Its size in bytes.
    pub size: u64,
    /// Permission bits, with setuid, setgid and sticky; no type.
    pub mode: u32,
    /// Whether its owner may not write to it.
    pub readonly: bool,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was modified, in milliseconds since the Unix epoch.
    pub modified: Option<i64>,
    /// When it was made, in milliseconds since the Unix epoch, where the file system knows.
    pub created: Option<i64>,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsEntry {
    /// The path of the directory and the name in it.
    pub path: PathBuf,
    /// What is known of it, links not followed.
    pub metadata: FsMetadata,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Write in place, from this byte on, making the file where it is missing. Without it the file
    /// is replaced as a whole once everything has arrived.
    pub offset: Option<u64>,
    /// Its permission bits; none keeps those of the file that is replaced, or else is 0644.
    pub mode: Option<u32>,
    /// Return only when the contents are on the sandbox's disk.
    pub sync: bool,
}

/// Which bytes of a file are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The first one.
    pub offset: u64,
    /// How many; none is all to the end.
    pub length: Option<u64>,
}

impl SandboxFs {
    /// The files of the sandbox with this id. Connects nothing yet.
    pub fn new(home: &Home, id: &str) -> Self {
        Self { client: ControlClient::new(home, id) }
    }

    /// The contents of a file, at most [`MAX_READ_BYTES`]. Links are followed.
    pub async fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, FsError> {
        let path = path.as_ref();
        let mut reader = self.read_stream(path, ReadOptions::default()).await?;
        let mut contents = Vec::new();
        while let Some(bytes) = reader.next().await? {
            if (contents.len() + bytes.len()) as u64 > MAX_READ_BYTES {
                return Err(FsError::TooLarge { path: path.into(), limit: MAX_READ_BYTES });
            }
            contents.extend_from_slice(bytes);
        }
        Ok(contents)
    }

    /// As [`SandboxFs::read`], of a file that is UTF-8 text.
    pub async fn read_string(&self, path: impl AsRef<Path>) -> Result<String, FsError> {
        let path = path.as_ref();
        let contents = self.read(path).await?;
        String::from_utf8(contents)
            .map_err(|error| FsError::NotText { path: path.into(), source: error.utf8_error() })
    }

    /// The contents of a file as they arrive, links followed.
    pub async fn read_stream(
        &self,
        path: impl AsRef<Path>,
        options: ReadOptions,
    ) -> Result<FsReader, FsError> {
        let ReadOptions { offset, length } = options;
        let request = FsRequest::Read { path: wire(path), offset, length };
        Ok(FsReader::new(self.client.fs(request).await?))
    }

    /// Replaces a file by one with these contents, making the directories above it. Whoever reads
    /// it sees the old contents or the new ones, never a part.
    pub async fn write(
        &self,
        path: impl AsRef<Path>,
        contents: impl AsRef<[u8]>,
    ) -> Result<(), FsError> {
        let mut writer = self.write_stream(path, WriteOptions::default()).await?;
        writer.write(contents.as_ref()).await?;
        writer.finish().await
    }

    /// Writes a file piece by piece. Nothing is replaced until [`FsWriter::finish`]; dropping the
    /// writer leaves everything as it was, unless an offset was given.
    pub async fn write_stream(
        &self,
        path: impl AsRef<Path>,
        options: WriteOptions,
    ) -> Result<FsWriter, FsError> {
        let WriteOptions { offset, mode, sync } = options;
        let request = FsRequest::Write(FsWrite { path: wire(path), offset, mode, sync });
        Ok(FsWriter::new(self.client.fs(request).await?))
    }

    /// The entries of a directory, at most [`MAX_LIST_ENTRIES`], in no order.
    pub async fn list(&self, path: impl AsRef<Path>) -> Result<Vec<FsEntry>, FsError> {
        let path = path.as_ref();
        let mut stream = self.client.fs(FsRequest::List { path: wire(path) }).await?;
        let (mut entries, mut buffer) = (Vec::new(), Vec::new());
        loop {
            match reply(&mut stream, &mut buffer).await? {
                FsReply::Entries(some) => {
                    if !some.iter().all(|entry| msb_transfer::is_name(&entry.name.0)) {
                        return Err(FsError::Broken("a name that is none"));
                    }
                    if entries.len() + some.len() > MAX_LIST_ENTRIES {
                        let limit = MAX_LIST_ENTRIES as u64;
                        return Err(FsError::TooLarge { path: path.into(), limit });
                    }
                    entries.extend(some.into_iter().map(|entry| FsEntry::at(path, entry)));
                }
                FsReply::Done => return Ok(entries),
                _ => return Err(FsError::UNEXPECTED),
            }
        }
    }

    /// Makes a directory and those above it; one that exists is fine.
    pub async fn mkdir(&self, path: impl AsRef<Path>) -> Result<(), FsError> {
        self.ask(FsRequest::MakeDir { path: wire(path) }).await
    }

    /// Removes a directory with all that is in it. Links are removed, not followed.
    pub async fn remove_dir(&self, path: impl AsRef<Path>) -> Result<(), FsError> {
        self.ask(FsRequest::RemoveDir { path: wire(path) }).await
    }

    /// Removes a file, a link or anything else but a directory.
    pub async fn remove(&self, path: impl AsRef<Path>) -> Result<(), FsError> {
        self.ask(FsRequest::Remove { path: wire(path) }).await
    }

    /// Copies one file within the sandbox, keeping its mode and holes, replacing what is at `to` and
    /// making the directories above it. Links are followed.
    pub async fn copy(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), FsError> {
        self.ask(FsRequest::Copy { from: wire(from), to: wire(to) }).await
    }

    /// Gives a file or a directory another path in the same file system, replacing a file that is
    /// there and making the directories above it.
    pub async fn rename(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<(), FsError> {
        self.ask(FsRequest::Rename { from: wire(from), to: wire(to) }).await
    }

    /// What is at `path`, a link not followed.
    pub async fn stat(&self, path: impl AsRef<Path>) -> Result<FsMetadata, FsError> {
        self.look(path.as_ref(), false).await
    }

    /// What is at `path`, or what a link there leads to.
    pub async fn stat_followed(&self, path: impl AsRef<Path>) -> Result<FsMetadata, FsError> {
        self.look(path.as_ref(), true).await
    }

    /// Whether there is anything at `path`, a link not followed.
    pub async fn exists(&self, path: impl AsRef<Path>) -> Result<bool, FsError> {
        match self.stat(path).await {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                Some(FsErrorKind::NotFound | FsErrorKind::NotADirectory) => Ok(false),
                _ => Err(error),
            },
        }
    }

    async fn look(&self, path: &Path, follow: bool) -> Result<FsMetadata, FsError> {
        let mut stream = self.client.fs(FsRequest::Stat { path: wire(path), follow }).await?;
        match reply(&mut stream, &mut Vec::new()).await? {
            FsReply::Metadata(metadata) => Ok(metadata.into()),
            _ => Err(FsError::UNEXPECTED),
        }
    }

    async fn ask(&self, request: FsRequest) -> Result<(), FsError> {
        let mut stream = self.client.fs(request).await?;
        done(&mut stream, &mut Vec::new()).await
    }
}

impl FsEntry {
    fn at(dir: &Path, entry: WireEntry) -> Self {
        let name = std::ffi::OsString::from_vec(entry.name.0);
        // A name that is a path would not stay in the directory.
        let name = Path::new(&name).file_name().unwrap_or_default();
        Self { path: dir.join(name), metadata: entry.metadata.into() }
    }
}

impl From<WireMetadata> for FsMetadata {
    fn from(metadata: WireMetadata) -> Self {
        let WireMetadata { kind, size, mode, uid, gid, modified_ms, created_ms } = metadata;
        let mode = mode & 0o7777;
        let readonly = mode & 0o200 == 0 && kind != FsKind::Symlink;
        Self { kind, size, mode, readonly, uid, gid, modified: modified_ms, created: created_ms }
    }
}

fn wire(path: impl AsRef<Path>) -> FsPath {
    path.as_ref().as_os_str().as_bytes().into()
}

/// The next reply; a failure is an error.
async fn reply(stream: &mut UnixStream, buffer: &mut Vec<u8>) -> Result<FsReply, FsError> {
    match read_frame(stream, buffer).await? {
        Some(frame @ Frame::Message(_)) => match frame.message()? {
            FsReply::Failed(failure) => Err(failure.into()),
            reply => Ok(reply),
        },
        Some(Frame::Data { .. }) => Err(FsError::UNEXPECTED),
        None => Err(FsError::Gone),
    }
}

async fn done(stream: &mut UnixStream, buffer: &mut Vec<u8>) -> Result<(), FsError> {
    match reply(stream, buffer).await? {
        FsReply::Done => Ok(()),
        _ => Err(FsError::UNEXPECTED),
    }
}
