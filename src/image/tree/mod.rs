//! Images that are a directory of this machine: read, never written, made into one EROFS file.
//!
//! ```text
//! names, inodes, sizes, times ─▶ fingerprint ─ known? ─▶ row       no file is read
//!                                    │new
//!                     read, hashed, into an image ─▶ fingerprint as before? ─▶ rename ─▶ row
//! ```
//!
//! The digest says what a guest would find: names, types, permissions, owners, extended attributes,
//! contents and links. Times are not part of it.

mod read;
mod walk;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::task::spawn_blocking;

use self::read::Reading;
use self::walk::Fingerprint;
use super::cache::{ImageCache, ImageRecord, platform_of};
use super::config::ImageConfig;
use super::digest::Digest;
use super::erofs::Builder;
use super::error::Reason;
use super::layer::Limits;
use super::local::{is_layout, split_tag};
use super::lock::FileLock;
use super::progress::{NoProgress, Progress, ProgressEvent};
use super::pull::{Output, image_lock};
use super::removal::crash_point;
use super::rows::SourceKey;
use crate::spec::Image;
use crate::store::ImageDocuments;

/// What the rows of these images begin with.
const PREFIX: &str = "tree:";
/// What stands where other images have a manifest: there is none, and no layers.
pub(super) const DOCUMENT: &[u8] = br#"{"mediaType":"application/vnd.msb.directory.v1+json"}"#;
/// And a configuration: it says nothing.
const CONFIG: &[u8] = br#"{"rootfs":{}}"#;
/// How often a tree is waited for whose last change may be followed by one of the same time.
const MAX_WAITS: usize = 5;

/// The root file system that an image of the form `{ dir = text }` is, unless it is a layout.
pub(super) fn root(text: &str) -> Option<&Path> {
    let (path, tag) = split_tag(text);
    (tag.is_none() && walk::is_dir(path) && !is_layout(path)).then_some(path)
}

/// What identifies the tree in its present state.
pub(super) fn key(image: &Image, root: &Path) -> Result<SourceKey, Reason> {
    let fingerprint = Fingerprint::of(root, &Limits::default())?;
    Ok(named(root, &fingerprint, platform_of(image)?.to_string()))
}

fn named(root: &Path, fingerprint: &Fingerprint, platform: String) -> SourceKey {
    SourceKey { reference: format!("{PREFIX}{} {}", root.display(), fingerprint.text), platform }
}

/// The path that a row's name states, and whether the tree is as it was then. `None` for rows of
/// other images.
pub(super) fn parse(reference: &str) -> Option<(&str, bool)> {
    let (path, then) = reference.strip_prefix(PREFIX)?.rsplit_once(' ')?;
    let now = Fingerprint::of(Path::new(path), &Limits::default());
    Some((path, now.is_ok_and(|now| now.text == then)))
}

/// The digest of the tree as it is. Reads every file, once per state and process.
pub(super) fn digest(root: &Path) -> Result<Digest, Reason> {
    static KNOWN: OnceLock<Mutex<BTreeMap<(PathBuf, String), Digest>>> = OnceLock::new();
    let known = || KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let limits = Limits::default();
    let fingerprint = settled(root, &limits)?;
    let key = (root.to_owned(), fingerprint.text.clone());
    if let Some(digest) = known().get(&key) {
        return Ok(digest.clone());
    }
    let digest = read(root, &fingerprint, None, Path::new(""), &limits, &NoProgress)?;
    known().insert(key, digest.clone());
    Ok(digest)
}

/// The fingerprint of a tree, once a further change is sure to make another one.
fn settled(root: &Path, limits: &Limits) -> Result<Fingerprint, Reason> {
    let mut fingerprint = Fingerprint::of(root, limits)?;
    for _ in 0..MAX_WAITS {
        let Some(left) = fingerprint.unsettled() else { break };
        std::thread::sleep(left);
        fingerprint = Fingerprint::of(root, limits)?;
    }
    Ok(fingerprint)
}

/// Reads the tree, which has that fingerprint, into an image where one is wanted.
fn read(
    root: &Path,
    fingerprint: &Fingerprint,
    builder: Option<Builder>,
    out: &Path,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<Digest, Reason> {
    let mut reading = Reading::new(builder, out, limits, fingerprint.bytes, progress);
    walk::walk(root, limits, &mut reading)?;
    let digest = reading.finish()?;
    crash_point("tree-read");
    if Fingerprint::of(root, limits)? != *fingerprint {
        return Err(walk::changed(root));
    }
    Ok(digest)
}

/// Makes the image of the tree exist, and the tree in its present state point to it.
pub(super) async fn pull(
    cache: &ImageCache,
    image: &Image,
    root: &Path,
    progress: Arc<dyn Progress>,
) -> Result<ImageRecord, Reason> {
    progress.event(ProgressEvent::Resolving);
    let platform = platform_of(image)?.to_string();
    let blobs = cache.home.blobs();
    // Of the path: what it holds is known at the end.
    let place = Digest::of(root.as_os_str().as_encoded_bytes());
    let waiting = || progress.event(ProgressEvent::Waiting);
    let lock = FileLock::acquire(image_lock(&blobs, place.hex()), waiting).await?;
    if let Some(record) = cache.cached_tree(image, root)? {
        progress.event(ProgressEvent::Done { size_bytes: record.size_bytes, cached: true });
        return Ok(record);
    }
    super::leftovers::clean(&cache.home, &*cache.rows);
    let tmp = cache.home.tmp().join(format!("image-{}.tmp", place.hex()));
    let work = Work { root: root.to_owned(), tmp, lock, progress: progress.clone() };
    let built = spawn_blocking(move || work.build()).await.map_err(|_| Reason::Cancelled)??;

    let waiting = || progress.event(ProgressEvent::Waiting);
    let _same = FileLock::acquire(image_lock(&blobs, built.digest.hex()), waiting).await?;
    let (record, cached) = match cache.row(&built.digest)? {
        Some(record) => (record, true),
        None => {
            let file = cache.file(&built.digest);
            let size_bytes = built.out.publish_as(&built.file, &file)?;
            let config = ImageConfig::default();
            let digest = built.digest.to_string();
            (ImageRecord { digest, config, file, size_bytes, disk: None }, false)
        }
    };
    crash_point("image-before-row");
    cache.hold(&record.file)?;
    let key = named(root, &built.fingerprint, platform);
    let documents = ImageDocuments { manifest: DOCUMENT.to_vec(), config: CONFIG.to_vec() };
    cache.name(Some(&key), &record, Some(&documents))?;
    progress.event(ProgressEvent::Done { size_bytes: record.size_bytes, cached });
    Ok(record)
}

/// One build. It holds the lock: one that goes on after its pull was dropped keeps others out.
struct Work {
    root: PathBuf,
    tmp: PathBuf,
    lock: FileLock,
    progress: Arc<dyn Progress>,
}

/// A complete image without its final name. Dropped, it goes.
struct Built {
    digest: Digest,
    fingerprint: Fingerprint,
    file: File,
    out: Output,
    _lock: FileLock,
}

impl Work {
    fn build(self) -> Result<Built, Reason> {
        let Self { root, tmp, lock, progress } = self;
        let fail = |source| Reason::File { what: "cannot be made", path: tmp.clone(), source };
        let mut options = File::options();
        let options = options.create(true).read(true).write(true).truncate(true).mode(0o600);
        let file = options.open(&tmp).map_err(fail)?;
        let out = Output::at(tmp.clone());
        let builder = file.try_clone().map_err(fail).and_then(|file| {
            Builder::new(file).map_err(|error| Reason::Build { source: error.into() })
        })?;
        let limits = Limits::default();
        let fingerprint = settled(&root, &limits)?;
        let digest = read(&root, &fingerprint, Some(builder), &tmp, &limits, &*progress)?;
        Ok(Built { digest, fingerprint, file, out, _lock: lock })
    }
}

#[cfg(test)]
mod tests;
