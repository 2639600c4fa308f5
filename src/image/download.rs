//! Blobs from a source into files.
//!
//! ```text
//! images/blobs/HEX.part   what has arrived; kept when the connection breaks, continued later
//! images/blobs/HEX        all of it, with the right digest; kept while an image has this layer
//! images/blobs/HEX.lock   held by whoever writes or removes the two
//! ```
//!
//! What begins to arrive over the network can be read from then on, and its end when it has the right
//! digest; what an earlier process left must be whole first.
//!
//! A whole blob has a shared lock on it from when a pull finds or makes it until the image has its
//! row, so that nobody takes it for one that no image has.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::digest::{Digest, Hasher};
use super::error::Reason;
use super::growing::{Feed, Growing};
use super::http::{collect, is_transient, too_large};
use super::limits::TransferLimits;
use super::lock::FileLock;
use super::progress::{Progress, ProgressEvent};
use super::removal::crash_point;
use super::source::{Blob, ByteStream, FilePart, Registry};
use super::wire::Descriptor;

/// Chunks between the network and the thread that hashes and writes them.
const QUEUE: usize = 64;
/// An attempt that brought this many bytes does not count as failed.
const ATTEMPT_WORTH_BYTES: u64 = 1 << 20;
/// How often progress is told, in bytes.
const PROGRESS_STEP_BYTES: u64 = 256 << 10;
const READ_BYTES: usize = 256 << 10;

/// A layer that is here.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) part: FilePart,
    /// Whether its digest has been checked; else the reader has to.
    pub(super) verified: bool,
    /// While it arrives; it ends when its digest has been checked.
    pub(super) growing: Option<Arc<Growing>>,
}

/// Downloads the layers of one image.
pub(super) struct Downloader<'a> {
    pub(super) source: &'a dyn Registry,
    pub(super) dir: PathBuf,
    pub(super) limits: &'a TransferLimits,
    pub(super) progress: &'a dyn Progress,
    /// Whether layers that are files already are stored too.
    pub(super) keep_local: bool,
    /// The stored layers, locked against removal.
    pub(super) holds: Mutex<Vec<Arc<File>>>,
}

/// A small blob, in memory, with the right digest.
pub(super) async fn fetch(
    source: &dyn Registry,
    blob: &Descriptor,
    limits: &TransferLimits,
) -> Result<Vec<u8>, Reason> {
    let mut attempt = 1;
    let bytes = loop {
        match fetch_once(source, blob).await {
            Ok(bytes) => break bytes,
            Err(reason) if attempt < limits.attempts && is_transient(&reason) => attempt += 1,
            Err(reason) => return Err(reason),
        }
    };
    let got = Digest::of(&bytes);
    if got != blob.digest {
        return Err(Reason::DigestMismatch { what: blob.what.clone(), got });
    }
    Ok(bytes)
}

async fn fetch_once(source: &dyn Registry, blob: &Descriptor) -> Result<Vec<u8>, Reason> {
    let bytes = match source.blob(blob, 0).await? {
        Blob::Stream { body, .. } => match collect(body, blob.size_bytes, &blob.what).await {
            Err(Reason::TooLarge { .. }) => return Err(too_large(&blob.what, blob.size_bytes)),
            other => other?,
        },
        Blob::File(part) => {
            let mut bytes = Vec::new();
            part.reader().read_to_end(&mut bytes).map_err(|source| Reason::File {
                what: "cannot be read",
                path: PathBuf::from(&blob.what),
                source,
            })?;
            bytes
        }
    };
    if (bytes.len() as u64) < blob.size_bytes {
        return Err(truncated(blob, bytes.len() as u64));
    }
    Ok(bytes)
}

fn truncated(blob: &Descriptor, got_bytes: u64) -> Reason {
    Reason::Truncated { what: blob.what.clone(), expected_bytes: blob.size_bytes, got_bytes }
}

/// The name of a blob in the directory of blobs.
pub(super) fn blob_file(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(digest.hex())
}

/// A `.part` file with the state of its digest.
struct Part {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    len: u64,
    /// Who reads what arrives.
    feed: Option<Feed>,
    /// Here, so that it is held until the writing thread has ended, also when the pull was dropped.
    _lock: Arc<FileLock>,
}

impl Downloader<'_> {
    /// Gets layer `index`, which `taker` is given when it can be read.
    pub(super) async fn layer(
        &self,
        index: usize,
        blob: &Descriptor,
        taker: oneshot::Sender<Layer>,
    ) -> Result<(), Reason> {
        let mut taker = Some(taker);
        let layer = self.whole_layer(index, blob, &mut taker).await?;
        if let Some(taker) = taker {
            // The build has ended if nobody takes it, and says why.
            let _ = taker.send(layer);
        }
        Ok(())
    }

    /// Gets layer `index`; where `taker` is taken, it has it already.
    async fn whole_layer(
        &self,
        index: usize,
        blob: &Descriptor,
        taker: &mut Option<oneshot::Sender<Layer>>,
    ) -> Result<Layer, Reason> {
        let path = blob_file(&self.dir, &blob.digest);
        let lock = Arc::new(FileLock::acquire(path.with_extension("lock"), || {}).await?);
        if let Some(part) = open_whole(&path, blob).await? {
            self.progress.event(ProgressEvent::Downloaded { layer: index });
            self.hold(&path, &part)?;
            return Ok(Layer { part, verified: true, growing: None });
        }
        let part_path = path.with_extension("part");
        let mut part = resume(part_path.clone(), blob.size_bytes, lock.clone()).await?;
        let mut resumed = part.len > 0;
        loop {
            let taker = if resumed { &mut None } else { &mut *taker };
            part = match self.transfer(index, blob, part, taker).await? {
                Transfer::Local(part) => {
                    return Ok(Layer { part, verified: false, growing: None });
                }
                Transfer::Done(part) => part,
            };
            let got = part.hasher.clone().finish();
            if got == blob.digest {
                break;
            }
            remove(&part.path);
            if !resumed {
                return Err(Reason::DigestMismatch { what: blob.what.clone(), got });
            }
            // What an earlier process left may be what is wrong: once more from the start.
            resumed = false;
            part = resume(part_path.clone(), blob.size_bytes, lock.clone()).await?;
        }
        fs::rename(&part.path, &path)
            .map_err(|e| file_error(&part.path, "cannot be renamed", e))?;
        crash_point("layer-stored");
        self.progress.event(ProgressEvent::Downloaded { layer: index });
        let file = File::open(&path).map_err(|e| file_error(&path, "cannot be opened", e))?;
        let whole = FilePart { file: Arc::new(file), offset: 0, size_bytes: blob.size_bytes };
        self.hold(&path, &whole)?;
        if let Some(feed) = part.feed.take() {
            feed.complete();
        }
        Ok(Layer { part: whole, verified: true, growing: None })
    }

    /// Keeps a stored layer. Called under the lock of the blob, so it has not been removed.
    fn hold(&self, path: &Path, part: &FilePart) -> Result<(), Reason> {
        part.file.lock_shared().map_err(|e| file_error(path, "cannot be locked", e))?;
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).push(part.file.clone());
        Ok(())
    }

    /// Fills the part to its size, over as many connections as it takes.
    async fn transfer(
        &self,
        index: usize,
        blob: &Descriptor,
        mut part: Part,
        taker: &mut Option<oneshot::Sender<Layer>>,
    ) -> Result<Transfer, Reason> {
        let mut failures = 0;
        while part.len < blob.size_bytes || blob.size_bytes == 0 {
            let before = part.len;
            let reason = match self.source.blob(blob, part.len).await {
                Ok(Blob::File(local)) if self.keep_local => {
                    let part = part.restart()?;
                    let copy = spawn_blocking(move || part.copy(local));
                    let part = copy.await.map_err(|_| Reason::Cancelled)??;
                    return Ok(Transfer::Done(part));
                }
                Ok(Blob::File(local)) => {
                    drop(part.file);
                    remove(&part.path);
                    return Ok(Transfer::Local(local));
                }
                Ok(Blob::Stream { start, body }) => {
                    if start < part.len {
                        // What has been read of it cannot be taken back, but is here for another try.
                        if part.feed.is_some() {
                            return Err(Reason::StartedOver { what: blob.what.clone() });
                        }
                        part = part.restart()?;
                    }
                    if let Some(taker) = taker.take() {
                        let _ = taker.send(part.growing_layer(blob)?);
                    }
                    let (rest, outcome) = self.receive(index, blob, part, body).await?;
                    part = rest;
                    match outcome {
                        Ok(()) if part.len == blob.size_bytes => break,
                        Ok(()) => truncated(blob, part.len),
                        Err(reason) => reason,
                    }
                }
                Err(reason) => reason,
            };
            if !is_transient(&reason) {
                remove(&part.path);
                return Err(reason);
            }
            failures = if part.len >= before + ATTEMPT_WORTH_BYTES { 1 } else { failures + 1 };
            if failures >= self.limits.attempts {
                return Err(reason);
            }
            self.progress.event(ProgressEvent::Retrying { layer: index, attempt: failures });
            tokio::time::sleep(self.limits.backoff.saturating_mul(1 << (failures - 1).min(6)))
                .await;
        }
        Ok(Transfer::Done(part))
    }

    /// Takes one body. The outer error is ours (a full disk), the inner one the other side's.
    async fn receive(
        &self,
        index: usize,
        blob: &Descriptor,
        part: Part,
        mut body: ByteStream,
    ) -> Result<(Part, Result<(), Reason>), Reason> {
        let mut len = part.len;
        let mut told = len;
        let (queue, chunks) = mpsc::channel(QUEUE);
        let writer = spawn_blocking(move || part.write(chunks));
        let tell = |bytes| self.progress.event(ProgressEvent::Downloading { layer: index, bytes });
        tell(len);
        let outcome = loop {
            let chunk = match body.next().await {
                None => break Ok(()),
                Some(Err(reason)) => break Err(reason),
                Some(Ok(chunk)) => chunk,
            };
            len += chunk.len() as u64;
            if len > blob.size_bytes {
                break Err(too_large(&blob.what, blob.size_bytes));
            }
            if queue.send(chunk).await.is_err() {
                // The writer says why it ended.
                break Ok(());
            }
            if len - told >= PROGRESS_STEP_BYTES {
                told = len;
                tell(len);
            }
        };
        drop(queue);
        let part = writer.await.map_err(|_| Reason::Cancelled)??;
        tell(part.len);
        Ok((part, outcome))
    }
}

enum Transfer {
    Done(Part),
    Local(FilePart),
}

impl Part {
    /// The layer that this becomes, to be read from here on.
    fn growing_layer(&mut self, blob: &Descriptor) -> Result<Layer, Reason> {
        let file = self.file.try_clone();
        let file = file.map_err(|e| file_error(&self.path, "cannot be opened", e))?;
        let part = FilePart { file: Arc::new(file), offset: 0, size_bytes: blob.size_bytes };
        let feed = Feed::default();
        feed.grown(self.len);
        let growing = Some(self.feed.insert(feed).growing());
        Ok(Layer { part, verified: true, growing })
    }

    fn restart(mut self) -> Result<Self, Reason> {
        self.file.set_len(0).map_err(|e| file_error(&self.path, "cannot be emptied", e))?;
        self.hasher = Hasher::default();
        self.len = 0;
        Ok(self)
    }

    /// Hashes and appends what comes, in a thread of its own.
    fn write(mut self, mut chunks: mpsc::Receiver<Bytes>) -> Result<Self, Reason> {
        while let Some(chunk) = chunks.blocking_recv() {
            self.append(&chunk)?;
        }
        Ok(self)
    }

    /// Hashes and appends a local blob. Blocks.
    fn copy(mut self, local: FilePart) -> Result<Self, Reason> {
        let mut reader = local.reader();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(self),
                Ok(got) => self.append(&buffer[..got])?,
                Err(error) => {
                    remove(&self.path);
                    return Err(file_error(&self.path, "cannot be copied", error));
                }
            }
        }
    }

    fn append(&mut self, chunk: &[u8]) -> Result<(), Reason> {
        if let Err(error) = self.file.write_all(chunk) {
            // On a full disk what is kept for later is in the way.
            remove(&self.path);
            return Err(file_error(&self.path, "cannot be written", error));
        }
        self.len += chunk.len() as u64;
        if let Some(feed) = &self.feed {
            feed.grown(self.len);
        }
        self.hasher.update(chunk);
        Ok(())
    }
}

/// The blob under its final name, if it is there in full. It may have been there for a long time,
/// and through a power cut, so it is read; one that has become another is removed.
async fn open_whole(path: &Path, blob: &Descriptor) -> Result<Option<FilePart>, Reason> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(path, "cannot be opened", error)),
    };
    let part = FilePart { file: Arc::new(file), offset: 0, size_bytes: blob.size_bytes };
    if is_whole(&part, &blob.digest).await {
        return Ok(Some(part));
    }
    remove(path);
    Ok(None)
}

/// Whether the file is the blob with that digest.
async fn is_whole(part: &FilePart, digest: &Digest) -> bool {
    let size_bytes = part.size_bytes;
    if !part.file.metadata().is_ok_and(|meta| meta.len() == size_bytes) {
        return false;
    }
    let copy = FilePart { file: part.file.clone(), offset: 0, size_bytes };
    let hash = move || {
        let mut hasher = Hasher::default();
        io::copy(&mut copy.reader(), &mut hasher).map(|_| hasher.finish())
    };
    spawn_blocking(hash).await.is_ok_and(|got| got.is_ok_and(|got| got == *digest))
}

/// Opens what an earlier try left, and hashes it.
async fn resume(path: PathBuf, size_bytes: u64, lock: Arc<FileLock>) -> Result<Part, Reason> {
    let open = move || {
        let file = File::options().create(true).read(true).append(true).mode(0o600).open(&path);
        let mut file = file.map_err(|e| file_error(&path, "cannot be made", e))?;
        let mut read = || -> io::Result<(Hasher, u64)> {
            let (mut hasher, mut len) = (Hasher::default(), 0_u64);
            if file.metadata()?.len() > size_bytes {
                file.set_len(0)?;
            }
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let got = file.read(&mut buffer)?;
                if got == 0 {
                    return Ok((hasher, len));
                }
                hasher.update(&buffer[..got]);
                len += got as u64;
            }
        };
        let (hasher, len) = read().map_err(|e| file_error(&path, "cannot be read", e))?;
        Ok(Part { path, file, hasher, len, feed: None, _lock: lock })
    };
    spawn_blocking(open).await.map_err(|_| Reason::Cancelled)?
}

/// A file that may be gone already, or that cannot be helped.
pub(super) fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

fn file_error(path: &Path, what: &'static str, source: io::Error) -> Reason {
    Reason::File { what, path: path.to_owned(), source }
}
