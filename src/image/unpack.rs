//! From a compressed layer to the bytes of its tar archive.
//!
//! ```text
//! file, perhaps still growing ─▶ [sha256 if not checked yet] ─▶ inflate ─┬─▶ bounded queue ─▶ Read (tar ─▶ EROFS)
//!            one thread a layer                    └─▶ sha256 in a second thread ─▶ diff id
//! ```
//!
//! The layer after the one that is read is unpacked ahead, as far as its queue holds it.
//!
//! The end of the stream is told only after the digests fit, so that who reads to the end has
//! what the image says.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use bytes::{Buf as _, Bytes};
use tokio::sync::oneshot;

use super::digest::{Digest, Hasher};
use super::download::Layer;
use super::error::Reason;
use super::growing::Growing;
use super::progress::{Progress, ProgressEvent};
use super::source::PartReader;
use super::wire::Descriptor;

const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait for the hash.
const HASH_QUEUE: usize = 8;
/// Chunks that wait for the reader, which may have another layer to read first.
const QUEUE: usize = 64;
const PROGRESS_STEP_BYTES: u64 = 1 << 20;

/// What the layers of one build share.
pub(super) struct Unpacking {
    /// Why the build failed, where a reader knows it: its own error type cannot say.
    failure: Mutex<Option<Reason>>,
    unpacked_bytes: AtomicU64,
    limit_bytes: u64,
    progress: Arc<dyn Progress>,
}

impl Unpacking {
    pub(super) fn new(limit_bytes: u64, progress: Arc<dyn Progress>) -> Arc<Self> {
        let (failure, unpacked_bytes) = (Mutex::new(None), AtomicU64::new(0));
        Arc::new(Self { failure, unpacked_bytes, limit_bytes, progress })
    }

    /// The first failure.
    pub(super) fn take_failure(&self) -> Option<Reason> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, reason: Reason) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }
}

/// One layer to be unpacked.
pub(super) struct Task {
    pub(super) index: usize,
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
}

enum Message {
    Chunk(Bytes),
    /// Everything came and is right.
    End,
}

/// The bytes of a layer's tar archive.
pub(super) struct LayerReader {
    chunks: Option<Receiver<Message>>,
    current: Bytes,
    source: Source,
    index: usize,
    shared: Arc<Unpacking>,
}

/// What a reader reads, once it has come.
#[derive(Clone, Default)]
pub(super) struct Source(Arc<OnceLock<Option<Arc<Growing>>>>);

impl Source {
    /// Waits until it has come in full; says whether it has.
    pub(super) fn is_whole(&self) -> bool {
        self.0.get().is_some_and(|growing| growing.as_ref().is_none_or(|g| g.is_whole()))
    }
}

impl LayerReader {
    /// Unpacks the layer that `coming` brings, from then on.
    pub(super) fn start(
        task: Task,
        coming: oneshot::Receiver<Layer>,
        shared: Arc<Unpacking>,
    ) -> Self {
        let (queue, chunks) = sync_channel(QUEUE);
        let (in_thread, digest, index) = (shared.clone(), task.blob.digest.clone(), task.index);
        let source = Source::default();
        let told = source.clone();
        let work = move || {
            // The download knows why it did not come.
            let Ok(layer) = coming.blocking_recv() else {
                return in_thread.fail(Reason::Cancelled);
            };
            let _ = told.0.set(layer.growing.clone());
            match task.run(layer, &in_thread, &queue) {
                Ok(true) => drop(queue.send(Message::End)),
                // The reader has gone: its build failed for a reason of its own.
                Ok(false) => {}
                // Something else may have come than was asked for; the download knows that too.
                Err(_) if !told.is_whole() => in_thread.fail(Reason::Cancelled),
                Err(reason) => in_thread.fail(reason),
            }
        };
        if let Err(source) = thread::Builder::new().name("layer".to_owned()).spawn(work) {
            shared.fail(Reason::Decompress { layer: digest, source });
        }
        Self { chunks: Some(chunks), current: Bytes::new(), source, index, shared }
    }

    /// What it reads.
    pub(super) fn source(&self) -> Source {
        self.source.clone()
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.current.is_empty() {
            let Some(chunks) = &self.chunks else { return Ok(0) };
            match chunks.recv() {
                Ok(Message::Chunk(chunk)) => self.current = chunk,
                Ok(Message::End) => {
                    self.chunks = None;
                    self.shared.progress.event(ProgressEvent::Built { layer: self.index });
                }
                Err(_) => return Err(io::Error::other("the layer could not be unpacked")),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl Task {
    /// Unpacks everything into the queue; `false` when nobody reads it.
    fn run(
        self,
        layer: Layer,
        shared: &Arc<Unpacking>,
        queue: &SyncSender<Message>,
    ) -> Result<bool, Reason> {
        let (to_hash, hashed) = sync_channel::<Bytes>(HASH_QUEUE);
        let name = thread::Builder::new().name("diff-id".to_owned());
        let hash = name
            .spawn(move || {
                let mut hasher = Hasher::default();
                hashed.iter().for_each(|chunk| hasher.update(&chunk));
                hasher.finish()
            })
            .map_err(|source| self.broken(source))?;
        let compressed = Compressed {
            inner: layer.part.growing_reader(layer.growing),
            hasher: (!layer.verified).then(Hasher::default),
            position: 0,
            told: 0,
            layer: self.index,
            shared: shared.clone(),
        };
        let mut decoder = Decoder::new(compressed).map_err(|source| self.broken(source))?;
        loop {
            let chunk = read_chunk(&mut decoder).map_err(|source| self.broken(source))?;
            if chunk.is_empty() {
                break;
            }
            let size = chunk.len() as u64;
            if shared.unpacked_bytes.fetch_add(size, Ordering::Relaxed) + size > shared.limit_bytes
            {
                let limit_bytes = shared.limit_bytes;
                return Err(Reason::Unpacked { layer: self.blob.digest, limit_bytes });
            }
            if to_hash.send(chunk.clone()).is_err() || queue.send(Message::Chunk(chunk)).is_err() {
                return Ok(false);
            }
        }
        drop(to_hash);
        self.check_compressed(decoder.into_inner())?;
        let got = hash.join().map_err(|_| Reason::Cancelled)?;
        if got != self.diff_id {
            let (layer, expected) = (self.blob.digest, self.diff_id);
            return Err(Reason::DiffIdMismatch { layer, expected, got });
        }
        Ok(true)
    }

    /// The digest of the compressed layer, which is checked here where it came from a local file, and
    /// by the download otherwise.
    fn check_compressed(&self, mut compressed: Compressed) -> Result<(), Reason> {
        // Only at its end is one that is still arriving known to be right.
        io::copy(&mut compressed, &mut io::sink()).map_err(|source| self.broken(source))?;
        let got = compressed.hasher.take().map(Hasher::finish);
        match got {
            Some(got) if got != self.blob.digest => {
                Err(Reason::DigestMismatch { what: self.blob.what.clone(), got })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn broken(&self, source: io::Error) -> Reason {
        Reason::Decompress { layer: self.blob.digest.clone(), source }
    }
}

/// Fills a chunk, short only at the end.
fn read_chunk(from: &mut impl Read) -> io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    from.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
    Ok(chunk.into())
}

/// The compressed bytes: counted, and hashed if nobody has.
struct Compressed {
    inner: PartReader,
    hasher: Option<Hasher>,
    position: u64,
    told: u64,
    layer: usize,
    shared: Arc<Unpacking>,
}

impl Read for Compressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.position += count as u64;
        let is_end = count == 0 && self.told < self.position;
        if self.position - self.told >= PROGRESS_STEP_BYTES || is_end {
            self.told = self.position;
            let event = ProgressEvent::Building { layer: self.layer, bytes: self.position };
            self.shared.progress.event(event);
        }
        Ok(count)
    }
}

/// The compression is read off the first bytes: media types in the wild are wrong about it.
enum Decoder {
    Plain(Input),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Input>>),
    Zstd(zstd::stream::read::Decoder<'static, Input>),
}

/// The first bytes, which have been looked at, and the rest.
type Input = BufReader<io::Chain<Cursor<Vec<u8>>, Compressed>>;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

impl Decoder {
    fn new(mut compressed: Compressed) -> io::Result<Self> {
        let mut start = Vec::new();
        // One read may bring less of what is still arriving.
        compressed.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut start)?;
        let compression = start.clone();
        let input =
            BufReader::with_capacity(CHUNK_BYTES, io::Read::chain(Cursor::new(start), compressed));
        Ok(if compression.starts_with(&GZIP_MAGIC) {
            Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input)))
        } else if compression.starts_with(&ZSTD_MAGIC) {
            Self::Zstd(zstd::stream::read::Decoder::with_buffer(input)?)
        } else {
            Self::Plain(input)
        })
    }

    fn into_inner(self) -> Compressed {
        let input = match self {
            Self::Plain(input) => input,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        input.into_inner().into_inner().1
    }
}

impl Read for Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::image::progress::NoProgress;
    use crate::image::source::FilePart;

    /// Unpacks `stored`: the bytes, or the reason.
    fn unpack(
        stored: &[u8],
        diff_id: Digest,
        verified: bool,
        limit: u64,
    ) -> Result<Vec<u8>, Reason> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(stored).unwrap();
        let size_bytes = stored.len() as u64;
        let part = FilePart { file: Arc::new(file), offset: 0, size_bytes };
        let layer = Layer { part, verified, growing: None };
        let digest = Digest::of(stored);
        let blob = Descriptor { what: format!("layer {digest}"), digest, size_bytes };
        let shared = Unpacking::new(limit, Arc::new(NoProgress));
        let task = Task { index: 0, blob, diff_id };
        let mut bytes = Vec::new();
        let (sender, coming) = oneshot::channel();
        sender.send(layer).unwrap();
        match LayerReader::start(task, coming, shared.clone()).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(_) => Err(shared.take_failure().unwrap()),
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const LIMIT: u64 = 4 << 20;

    #[test]
    fn every_compression() {
        let plain: Vec<u8> = (0..1_000_000_u32).flat_map(|n| [n.to_le_bytes()[0]; 3]).collect();
        let (first, second) = plain.split_at(1_000_003);
        let members = [gzip(first), gzip(second)].concat();
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for stored in [plain.clone(), gzip(&plain), members, zstd] {
            for verified in [true, false] {
                assert!(unpack(&stored, Digest::of(&plain), verified, LIMIT).unwrap() == plain);
            }
        }
        assert_eq!(unpack(b"", Digest::of(b""), true, LIMIT).unwrap(), b"");
    }

    #[test]
    fn what_is_wrong_is_told() {
        let plain = vec![7; 100_000];
        let got = unpack(&gzip(&plain), Digest::of(b"other"), true, LIMIT);
        assert!(matches!(got, Err(Reason::DiffIdMismatch { .. })), "{got:?}");
        let whole = gzip(&plain);
        let got = unpack(&whole[..whole.len() / 2], Digest::of(&plain), true, LIMIT);
        assert!(matches!(got, Err(Reason::Decompress { .. })), "{got:?}");
        let mut corrupt = zstd::encode_all(&plain[..], 1).unwrap();
        corrupt.truncate(corrupt.len() - 1);
        let got = unpack(&corrupt, Digest::of(&plain), true, LIMIT);
        assert!(matches!(got, Err(Reason::Decompress { .. })), "{got:?}");
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 1 << 20);
        let got = unpack(&bomb, Digest::of(b""), true, LIMIT);
        assert!(matches!(got, Err(Reason::Unpacked { limit_bytes: LIMIT, .. })), "{got:?}");
    }
}
