//! One pull, from the source to the bootable file.
//!
//! ```text
//! resolve ─▶ lock the digest ─▶ here already? ─yes─▶ row
//!                                   │no
//!                  configuration ─▶ downloads, several at a time, top layer first
//!                                       │ each as soon as it begins to arrive
//!                                       ▼
//!                  build in a thread: unpack, check diff ids, lay over, write EROFS to tmp/
//!                                       ▼
//!                  sync ─▶ rename into place ─▶ row
//!
//! The compressed layers stay: another image with the same layer does not download it again, and
//! `msb images save` writes the image as it came.
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::auth::RegistryAccess;
use super::build::{self, build_image};
use super::cache::{ImageCache, ImageRecord, platform_of, source_key};
use super::config::{self, ConfigFile};
use super::digest::Digest;
use super::disk;
use super::download::{Downloader, Layer, blob_file, fetch, remove};
use super::error::{Reason, printable};
use super::hold::hold_file;
use super::http::HttpRegistry;
use super::layer::{LayerError, Limits};
use super::leftovers::sweep;
use super::local::LocalImage;
use super::lock::FileLock;
use super::platform::Platform;
use super::progress::{LayerInfo, Progress, ProgressEvent};
use super::removal::crash_point;
use super::rows::SourceKey;
use super::source::Registry;
use super::tree;
use super::unpack::{LayerReader, Source, Task, Unpacking};
use super::wire::{self, Descriptor, Resolved};
use crate::spec::{Image, ImageSource};
use crate::store::ImageDocuments;

/// The source of an image.
fn open_source(
    cache: &ImageCache,
    image: &Image,
    access: &RegistryAccess,
) -> Result<Box<dyn Registry>, Reason> {
    Ok(match &image.source {
        ImageSource::Oci(text) => {
            Box::new(HttpRegistry::new(text.parse()?, access, &cache.limits)?)
        }
        ImageSource::Dir(text) => Box::new(LocalImage::in_dir(text, &cache.limits)?),
        ImageSource::Archive(text) => Box::new(LocalImage::in_archive(text, &cache.limits)?),
        ImageSource::Disk { .. } => return Err(Reason::NotAnImage("a disk image")),
    })
}

/// The directory whose files the image is.
pub(super) fn tree_of(image: &Image) -> Option<&Path> {
    match &image.source {
        ImageSource::Dir(text) => tree::root(text),
        ImageSource::Oci(_) | ImageSource::Archive(_) | ImageSource::Disk { .. } => None,
    }
}

/// Which image the source names.
pub(super) async fn digest(
    cache: &ImageCache,
    image: &Image,
    access: &RegistryAccess,
) -> Result<Digest, Reason> {
    if let Some(root) = tree_of(image) {
        return tree::digest(root);
    }
    if let Some(disk) = disk::look(image)? {
        return Ok(disk.digest);
    }
    let wanted = platform_of(image)?;
    let source = open_source(cache, image, access)?;
    Ok(wire::resolve(&*source, &wanted, &cache.limits).await?.digest)
}

/// Which images the source names: for the image's platform, and for the others of guests.
pub(super) async fn digests(
    cache: &ImageCache,
    image: &Image,
    access: &RegistryAccess,
) -> Result<BTreeMap<Platform, Digest>, Reason> {
    let wanted = platform_of(image)?;
    let source = open_source(cache, image, access)?;
    wire::resolve_all(&*source, &wanted, &Platform::guests(), &cache.limits).await
}

/// Makes the image that the source names exist, and the source point to it.
pub(super) async fn pull(
    cache: &ImageCache,
    image: &Image,
    access: &RegistryAccess,
    progress: Arc<dyn Progress>,
) -> Result<ImageRecord, Reason> {
    if let Some(root) = tree_of(image) {
        return tree::pull(cache, image, root, progress).await;
    }
    if let Some(disk) = disk::look(image)? {
        return disk.pull(cache, image, progress).await;
    }
    let wanted = platform_of(image)?;
    // Taken before the source is read: an archive that changes meanwhile is read again.
    let key = source_key(image)?;
    progress.event(ProgressEvent::Resolving);
    let source = open_source(cache, image, access)?;
    take(cache, &*source, &wanted, Some(&key), false, &progress).await
}

/// Makes the image that the source has for `wanted` exist, and `key` point to it. With
/// `keep_local`, layers that are in local files are stored too.
pub(super) async fn take(
    cache: &ImageCache,
    source: &dyn Registry,
    wanted: &Platform,
    key: Option<&SourceKey>,
    keep_local: bool,
    progress: &Arc<dyn Progress>,
) -> Result<ImageRecord, Reason> {
    let resolved = wire::resolve(source, wanted, &cache.limits).await?;
    let layers: Vec<_> = resolved
        .manifest
        .layers
        .iter()
        .map(|layer| LayerInfo { digest: layer.digest.clone(), size_bytes: layer.size_bytes })
        .collect();
    progress.event(ProgressEvent::Resolved { digest: &resolved.digest, layers: &layers });

    let made = match cache.row(&resolved.digest)? {
        Some(record) => Made::found(record),
        None => {
            let job = Job { cache, source, wanted, keep_local, progress };
            job.make_whole(&resolved).await.inspect_err(|reason| {
                // What is a file elsewhere need not be kept to be continued.
                if keep_local || reason.is_final() {
                    let names = layers.iter().flat_map(|layer| part_names(layer.digest.hex()));
                    let _ = sweep(&cache.home, &*cache.rows, &names.collect(), false);
                }
            })?
        }
    };
    crash_point("image-before-row");
    cache.hold(&made.record.file)?;
    cache.name(key, &made.record, made.documents.as_ref())?;
    let (size_bytes, cached) = (made.record.size_bytes, made.cached);
    progress.event(ProgressEvent::Done { size_bytes, cached });
    Ok(made.record)
}

/// What a stored layer is called, whole and in part.
fn part_names(hex: &str) -> [String; 2] {
    [hex.to_owned(), format!("{hex}.part")]
}

/// An image that is there, but for its row.
struct Made {
    record: ImageRecord,
    /// Whether the file was there already.
    cached: bool,
    documents: Option<ImageDocuments>,
    /// Of the image; held until the row is there, so that whoever waits for it finds the row.
    _lock: Option<FileLock>,
    /// Its layers; held as long, so that nobody takes them for layers of no image.
    _layers: Vec<Arc<File>>,
}

impl Made {
    /// One that has a row.
    fn found(record: ImageRecord) -> Self {
        Self { record, cached: true, documents: None, _lock: None, _layers: Vec::new() }
    }
}

/// One image from one source.
struct Job<'a> {
    cache: &'a ImageCache,
    source: &'a dyn Registry,
    wanted: &'a Platform,
    keep_local: bool,
    progress: &'a Arc<dyn Progress>,
}

impl Job<'_> {
    /// The image, of which each layer may come once more from its start.
    async fn make_whole(&self, resolved: &Resolved) -> Result<Made, Reason> {
        for _ in &resolved.manifest.layers {
            match self.make(resolved).await {
                Err(Reason::StartedOver { .. }) => {}
                made => return made,
            }
        }
        self.make(resolved).await
    }

    /// The image under the lock of its digest.
    async fn make(&self, resolved: &Resolved) -> Result<Made, Reason> {
        let Self { cache, source, wanted, progress, .. } = *self;
        let lock_file = image_lock(&cache.home.blobs(), resolved.digest.hex());
        let lock = FileLock::acquire(lock_file, || progress.event(ProgressEvent::Waiting)).await?;
        if let Some(record) = cache.row(&resolved.digest)? {
            return Ok(Made::found(record));
        }
        let path = cache.file(&resolved.digest);
        // Named, so complete, and its row was lost; where there is a row, the file does not fit it.
        let row = cache.rows.by_digest(resolved.digest.as_str());
        let row = row.map_err(|source| Reason::Rows { source })?;
        let built = fs::metadata(&path).ok().filter(|meta| row.is_none() && meta.is_file());
        // Without a row, its layers are ones of no image to anybody else.
        let kept = built.as_ref().map_or_else(Vec::new, |_| self.stored_layers(resolved));
        super::leftovers::clean(&cache.home, &*cache.rows);
        let bytes = fetch(source, &resolved.manifest.config, &cache.limits).await?;
        let file = checked_config(&bytes, resolved, wanted)?;
        let record = |size_bytes| ImageRecord {
            digest: resolved.digest.to_string(),
            config: file.config.clone(),
            file: path.clone(),
            size_bytes,
            disk: None,
        };
        if let Some(meta) = built {
            let record = record(meta.len());
            let documents =
                Some(ImageDocuments { manifest: resolved.bytes.clone(), config: bytes });
            return Ok(Made { record, cached: true, documents, _lock: Some(lock), _layers: kept });
        }
        let (size_bytes, lock, layers) = self.transfer(resolved, &file, &path, lock).await?;
        let record = record(size_bytes);
        let documents = Some(ImageDocuments { manifest: resolved.bytes.clone(), config: bytes });
        Ok(Made { record, cached: false, documents, _lock: Some(lock), _layers: layers })
    }

    /// The layers that are here, kept from being removed.
    fn stored_layers(&self, resolved: &Resolved) -> Vec<Arc<File>> {
        let blobs = self.cache.home.blobs();
        let layers = resolved.manifest.layers.iter();
        let held = layers.filter_map(|layer| hold_file(&blob_file(&blobs, &layer.digest)).ok()?);
        held.map(Arc::new).collect()
    }

    /// Downloads and builds at the same time: the size of the bootable file, the lock back, and the
    /// stored layers.
    ///
    /// The build holds the lock: one that goes on after its pull was dropped keeps others out until it
    /// has seen that nobody feeds it.
    async fn transfer(
        &self,
        resolved: &Resolved,
        file: &ConfigFile,
        path: &Path,
        lock: FileLock,
    ) -> Result<(u64, FileLock, Vec<Arc<File>>), Reason> {
        let Self { cache, source, progress, keep_local, .. } = *self;
        let layers = &resolved.manifest.layers;
        let mut senders = Vec::new();
        let mut waiting = Vec::new();
        for (index, blob) in layers.iter().enumerate().rev() {
            let (sender, receiver) = oneshot::channel();
            let diff_id = file.diff_ids[index].clone();
            senders.push((index, blob, sender));
            waiting.push((Task { index, blob: blob.clone(), diff_id }, receiver));
        }
        let tmp = cache.home.tmp().join(format!("image-{}.tmp", resolved.digest.hex()));
        let (out, path) = (Output::at(tmp), path.to_owned());
        let shared = Unpacking::new(cache.limits.unpacked_bytes, progress.clone());
        let limits = Limits { total_bytes: cache.limits.unpacked_bytes, ..Limits::default() };
        let build = spawn_blocking(move || {
            // A failed build removes what it wrote before the lock goes.
            let size_bytes = out.build(waiting, &shared, &limits, &path)?;
            Ok::<_, Reason>((size_bytes, lock))
        });

        let downloader = Downloader {
            source,
            dir: cache.home.blobs(),
            limits: &cache.limits,
            progress: &**progress,
            keep_local,
            holds: Mutex::default(),
        };
        let downloads = download_all(&downloader, senders, cache.limits.parallel_downloads);
        // A failed download lets its sender or its feed go, which ends the build; the download knows why.
        let (mut build, mut downloads) = (build, Box::pin(downloads));
        let built = tokio::select! {
            biased;
            downloaded = &mut downloads => {
                let built = build.await;
                downloaded?;
                built
            }
            built = &mut build => {
                if matches!(built, Ok(Err(Reason::Cancelled))) {
                    downloads.as_mut().await?;
                }
                built
            }
        };
        drop(downloads);
        let (size_bytes, lock) = built.map_err(|_| Reason::Cancelled)??;
        let layers = downloader.holds.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((size_bytes, lock, layers))
    }
}

/// Parses the configuration and holds it against the manifest and the platform.
fn checked_config(
    bytes: &[u8],
    resolved: &Resolved,
    wanted: &Platform,
) -> Result<ConfigFile, Reason> {
    let what = &resolved.manifest.config.what;
    let wrong = |problem| Reason::Document { what: what.clone(), problem };
    let file = config::parse(bytes).map_err(wrong)?;
    let layers = resolved.manifest.layers.len();
    if file.diff_ids.len() != layers {
        let ids = file.diff_ids.len();
        return Err(wrong(format!("{ids} diff ids for the {layers} layers of the manifest")));
    }
    match &file.platform {
        Some(platform) if !platform.runs_on(wanted) => Err(Reason::OtherPlatform {
            image: printable(&platform.to_string()),
            wanted: wanted.to_string(),
        }),
        Some(_) | None => Ok(file),
    }
}

type Slot<'a> = (usize, &'a Descriptor, oneshot::Sender<Layer>);

async fn download_all(
    downloader: &Downloader<'_>,
    slots: Vec<Slot<'_>>,
    parallel: usize,
) -> Result<(), Reason> {
    // Made before they are polled: a stream that kept the closure would not be known to be `Send`.
    let downloads: Vec<_> = slots
        .into_iter()
        .map(|(index, blob, sender)| async move { downloader.layer(index, blob, sender).await })
        .collect();
    stream::iter(downloads).buffer_unordered(parallel.max(1)).try_collect().await
}

/// The lock of an image's digest, beside the blobs.
pub(super) fn image_lock(blobs: &Path, hex: &str) -> PathBuf {
    blobs.join(format!("image-{hex}.lock"))
}

/// Where a build writes, under the lock of the image. Dropped, what it wrote is gone.
pub(super) struct Output {
    tmp: PathBuf,
}

impl Output {
    pub(super) fn at(tmp: PathBuf) -> Self {
        Self { tmp }
    }

    fn build(
        self,
        waiting: Vec<(Task, oneshot::Receiver<Layer>)>,
        shared: &Arc<Unpacking>,
        limits: &Limits,
        path: &Path,
    ) -> Result<u64, Reason> {
        let fail = |what, source| Reason::File { what, path: self.tmp.clone(), source };
        let out = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.tmp)
            .map_err(|e| fail("cannot be made", e))?;
        let own = out.try_clone().map_err(|e| fail("cannot be made", e))?;
        let flusher = Flusher::start(&own);
        let mut begun: Vec<Source> = Vec::new();
        let mut waiting = waiting.into_iter().map(|(task, coming)| {
            let name = task.blob.digest.to_string();
            build::Layer { name, reader: LayerReader::start(task, coming, shared.clone()) }
        });
        let mut ahead = waiting.next();
        let readers = std::iter::from_fn(|| {
            let layer = std::mem::replace(&mut ahead, waiting.next())?;
            begun.push(layer.reader.source());
            Some(layer)
        });
        let built = build_image(readers, out, limits);
        drop(flusher);
        let built = match (shared.take_failure(), built) {
            (Some(reason), Ok(_) | Err(LayerError::Read { .. })) => Err(reason),
            // The download knows what is wrong with what has come in place of a layer.
            (_, Err(_)) if !begun.iter().all(Source::is_whole) => Err(Reason::Cancelled),
            // What is unpacked ahead may be wrong too, and is not what was found first.
            (_, Err(error)) => Err(build_error(error, &self.tmp)),
            (None, Ok(_)) => Ok(()),
        };
        built?;
        self.publish_as(&own, path)
    }

    /// Puts the complete file on the disk and gives it its name.
    pub(super) fn publish_as(&self, own: &File, path: &Path) -> Result<u64, Reason> {
        let fail = |what, source| Reason::File { what, path: self.tmp.clone(), source };
        own.sync_data().map_err(|e| fail("cannot be written", e))?;
        let size_bytes = own.metadata().map_err(|e| fail("cannot be read", e))?.len();
        fs::rename(&self.tmp, path).map_err(|e| fail("cannot be renamed", e))?;
        if let Some(dir) = path.parent() {
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            synced.map_err(|e| fail("its directory cannot be synced", e))?;
        }
        Ok(size_bytes)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Gone after a rename.
        remove(&self.tmp);
    }
}

/// Writes a growing file out while it grows, so that the sync at its end has little left to do.
struct Flusher {
    end: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

const FLUSH_EVERY: Duration = Duration::from_millis(100);
const FLUSH_BYTES: u64 = 32 << 20;

impl Flusher {
    /// Only a help: without the thread, or when a sync fails, the last sync does it all and says
    /// what is wrong.
    fn start(file: &File) -> Self {
        let (end, ended) = mpsc::channel::<()>();
        let thread = file.try_clone().and_then(|file| {
            thread::Builder::new().name("flush".to_owned()).spawn(move || {
                let mut flushed = 0;
                while ended.recv_timeout(FLUSH_EVERY) == Err(RecvTimeoutError::Timeout) {
                    let len = file.metadata().map_or(0, |meta| meta.len());
                    if len >= flushed + FLUSH_BYTES {
                        flushed = len;
                        let _ = file.sync_data();
                    }
                }
            })
        });
        Self { end: Some(end), thread: thread.ok() }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A full disk is told as such; everything else is about the layers.
fn build_error(error: LayerError, tmp: &Path) -> Reason {
    match error {
        LayerError::Write(source) => {
            Reason::File { what: "cannot be written", path: tmp.to_owned(), source }
        }
        other => Reason::Build { source: other.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use crate::image::{MemoryRows, NoProgress};

    /// Executors move pulls between threads.
    #[test]
    fn a_pull_is_send() {
        fn assert_send<T: Send>(_: &T) {}
        let cache = ImageCache::new(Home::at("/nowhere"), Arc::new(MemoryRows::default()));
        let image = Image { source: ImageSource::Oci("busybox".to_owned()), platform: None };
        let access = RegistryAccess::anonymous();
        assert_send(&pull(&cache, &image, &access, Arc::new(NoProgress)));
        assert_send(&cache.resolve(&image, &access));
    }
}
