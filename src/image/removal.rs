//! Images and layers that go.
//!
//! ```text
//! image   lock of its digest ─▶ lock its file against use ─▶ no sandbox has it? row goes ─▶ file
//! layer   nobody stores an image ─▶ no image has it? its name goes ─▶ file
//! ```
//!
//! Killed in between, a file without a row is left: the next pull takes it over, the next prune
//! removes it. A row never names what is gone, and a sandbox's image is never touched.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cache::{BUILD_VERSION, parse_file_name};
use super::digest::Digest;
use super::error::Reason;
use super::hold::{Free, lock_free};
use super::inventory::{StoredImage, list};
use super::leftovers::{
    clean_locks, for_each_name, half_made, is_gone_blob, is_half_made_layer, is_unused_layer,
    layers_of, remove_half_made_layer, sweep,
};
use super::lock::FileLock;
use super::pull::image_lock;
use super::rows::SourceKey;
use crate::home::Home;
use crate::store::{Durability, ImageUser, Store, StoreError};

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Sandboxes, running or not, have disks that belong to it.
    #[error("image {image} is used by {}", users(used_by))]
    InUse {
        /// Its digest.
        image: String,
        /// Who.
        used_by: Vec<ImageUser>,
    },
    /// Another process makes it or is about to use it.
    #[error("image {image} is being used by another msb")]
    Busy {
        /// Its digest.
        image: String,
    },
    /// A file could not be locked or removed.
    #[error("{path}: cannot remove the image")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its lock could not be taken.
    #[error("the image cannot be locked")]
    Lock(#[source] Reason),
    /// The database.
    #[error("the image table cannot be used")]
    Store(#[from] StoreError),
}

fn users(users: &[ImageUser]) -> String {
    let names: Vec<_> =
        users.iter().map(|user| format!("{}/{}", user.project, user.sandbox)).collect();
    format!("sandbox{} {}", if names.len() == 1 { "" } else { "es" }, names.join(", "))
}

/// What [`prunable`] takes for removable.
#[derive(Clone, Copy, Debug, Default)]
pub struct PruneOptions {
    /// Images that have a name too, where no sandbox uses them.
    pub all: bool,
    /// Layers of images that stay too.
    pub layers: bool,
}

/// What can be removed.
#[derive(Debug, Default)]
pub struct Prunable {
    /// Images that no sandbox uses.
    pub images: Vec<StoredImage>,
    /// Blobs: layers that no image has, and parts of layers.
    pub layers: BTreeSet<String>,
    /// Other files: bootable files of earlier versions or without a row, layers of patches that no
    /// sandbox has, and half-made ones.
    pub files: Vec<PathBuf>,
    /// What they take on the disk, in bytes.
    pub bytes: u64,
    options: PruneOptions,
}

impl Prunable {
    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.layers.is_empty() && self.files.is_empty()
    }
}

/// What can be removed of `store`'s images, as of now. Removes nothing.
pub fn prunable(store: &Store, options: PruneOptions) -> Result<Prunable, StoreError> {
    let home = store.home();
    let (go, stay): (Vec<_>, Vec<_>) = list(store)?.into_iter().partition(|image| {
        image.users.is_empty() && (options.all || image.names.is_empty() || image.file.is_none())
    });
    let manifests: Vec<Vec<u8>> = stay
        .iter()
        .filter_map(|image| Some(image.detail.documents.as_ref()?.manifest.clone()))
        .collect();
    let kept = if options.layers { BTreeSet::new() } else { layers_of(&manifests) };
    let mut found = Prunable { options, ..Prunable::default() };
    for_each_name(&home.blobs(), |name, path| {
        if !name.ends_with(".lock") && !kept.contains(name) {
            found.layers.insert(name.to_owned());
            found.bytes += size_on_disk(path);
        }
    });
    let (known, live) = (digests(&stay, &go), live_digests(store)?);
    for_each_name(&home.erofs(), |name, path| {
        if is_stale(name, &known, &live) {
            found.bytes += size_on_disk(path);
            found.files.push(path.to_owned());
        }
    });
    for_each_name(&home.tmp(), |name, path| {
        if half_made(name).is_some() || is_gone_blob(name) || is_half_made_layer(name) {
            found.bytes += size_on_disk(path);
            found.files.push(path.to_owned());
        }
    });
    for_each_name(&home.patches(), |_, path| {
        if is_unused_layer(path) {
            found.bytes += size_on_disk(path);
            found.files.push(path.to_owned());
        }
    });
    found.bytes += go.iter().map(|image| image.disk_bytes).sum::<u64>();
    found.images = go;
    Ok(found)
}

fn digests<'a>(stay: &'a [StoredImage], go: &'a [StoredImage]) -> BTreeSet<&'a Digest> {
    stay.iter().chain(go).map(|image| &image.digest).collect()
}

/// The images of sandboxes that run, and of all sandboxes.
struct InUse {
    live: BTreeSet<String>,
    all: BTreeSet<String>,
}

fn live_digests(store: &Store) -> Result<InUse, StoreError> {
    let (mut live, mut all) = (BTreeSet::new(), BTreeSet::new());
    for row in store.all_sandboxes()? {
        let Some(digest) = row.image_digest else { continue };
        if row.status.is_live() {
            live.insert(digest.clone());
        }
        all.insert(digest);
    }
    Ok(InUse { live, all })
}

/// Whether a bootable file is of an earlier version and nothing runs from it, or of no image.
fn is_stale(name: &str, known: &BTreeSet<&Digest>, used: &InUse) -> bool {
    let Some((digest, version)) = parse_file_name(name) else { return false };
    match version {
        BUILD_VERSION => !known.contains(&digest) && !used.all.contains(digest.as_str()),
        // A restart within the run opens the file again; the next run has one of this version.
        0..BUILD_VERSION => !used.live.contains(digest.as_str()),
        // A later version of msb made it.
        _ => false,
    }
}

/// What a removal did.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Digests of the images that went.
    pub images: Vec<Digest>,
    /// What that freed on the disk, in bytes.
    pub bytes: u64,
    /// What stayed although it was to go, and why.
    pub kept: Vec<RemoveError>,
}

/// Removes what was found, but for what has come into use since.
pub fn prune(store: &Mutex<Store>, found: &Prunable) -> Result<Pruned, StoreError> {
    let home = lock(store).home().clone();
    let mut done = Pruned::default();
    for image in &found.images {
        let names = (!found.options.all).then_some(image.name_rows);
        match remove_image(store, &image.digest, names) {
            Ok(bytes) => {
                done.bytes += bytes;
                done.images.push(image.digest.clone());
            }
            Err(RemoveError::Store(error)) => return Err(error),
            Err(error) => done.kept.push(error),
        }
    }
    for path in &found.files {
        match remove_stale(store, &home, path) {
            Ok(bytes) => done.bytes += bytes,
            Err(RemoveError::Store(error)) => return Err(error),
            Err(error) => done.kept.push(error),
        }
    }
    // An image that another makes has no row yet that says which layers it has.
    let is_busy = done.kept.iter().any(|error| matches!(error, RemoveError::Busy { .. }));
    if !is_busy {
        done.bytes += sweep(&home, store, &found.layers, found.options.layers)?;
    }
    clean_locks(&home);
    Ok(done)
}

/// Removes the image, what names it, and those of its layers that no other image has; what that
/// freed on the disk, in bytes.
pub fn remove(store: &Mutex<Store>, image: &StoredImage) -> Result<u64, RemoveError> {
    let home = lock(store).home().clone();
    let bytes = remove_image(store, &image.digest, None)?;
    let layers = image.layers.iter().map(|layer| layer.digest.hex().to_owned()).collect();
    Ok(bytes + sweep(&home, store, &layers, false)?)
}

/// Forgets that `name` names an image; the image stays.
pub fn untag(store: &Mutex<Store>, name: &SourceKey) -> Result<(), StoreError> {
    lock(store).write(Durability::Relaxed, |writer| {
        writer.remove_image_ref(&name.reference, &name.platform)
    })
}

/// With a number of `names`, only while it has no others.
fn remove_image(
    store: &Mutex<Store>,
    digest: &Digest,
    names: Option<usize>,
) -> Result<u64, RemoveError> {
    let home = lock(store).home().clone();
    let busy = || RemoveError::Busy { image: digest.to_string() };
    let making = FileLock::try_acquire(&image_lock(&home.blobs(), digest.hex()));
    let _making = making.map_err(RemoveError::Lock)?.ok_or_else(busy)?;
    let path = super::cache::image_file(&home, digest);
    let file = lock_free(&path).map_err(|source| file_error(&path, source))?;
    if matches!(file, Free::Held) {
        return Err(busy());
    }
    lock(store).write(Durability::Relaxed, |writer| {
        let used_by = writer.image_users(digest.as_str())?;
        if !used_by.is_empty() {
            return Err(RemoveError::InUse { image: digest.to_string(), used_by });
        }
        let now = writer.count_image_refs(digest.as_str())?;
        if names.is_some_and(|names| now > names) {
            return Err(busy());
        }
        Ok(writer.remove_image(digest.as_str())?)
    })?;
    crash_point("image-row-removed");
    let bytes = match file {
        Free::Locked(_) => unlink(&path)?,
        Free::Missing | Free::Held => 0,
    };
    crash_point("image-removed");
    Ok(bytes)
}

/// Removes a file that is none of an image's.
fn remove_stale(store: &Mutex<Store>, home: &Home, path: &Path) -> Result<u64, RemoveError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if is_gone_blob(name) {
        return unlink(path);
    }
    if is_half_made_layer(name) {
        let bytes = size_on_disk(path);
        let gone = remove_half_made_layer(path).map_err(|source| file_error(path, source))?;
        return Ok(if gone { bytes } else { 0 });
    }
    if path.parent() == Some(&home.patches()) {
        return if is_unused_layer(path) { unlink(path) } else { Ok(0) };
    }
    let digest = parse_file_name(name).map(|(digest, version)| (digest.hex().to_owned(), version));
    let (hex, version) = match (&digest, half_made(name)) {
        (Some((hex, version)), _) => (hex.as_str(), Some(*version)),
        (None, Some(hex)) => (hex, None),
        (None, None) => return Ok(0),
    };
    let busy = || RemoveError::Busy { image: format!("sha256:{hex}") };
    let making = FileLock::try_acquire(&image_lock(&home.blobs(), hex));
    let _making = making.map_err(RemoveError::Lock)?.ok_or_else(busy)?;
    let Free::Locked(_file) = lock_free(path).map_err(|source| file_error(path, source))? else {
        return Err(busy());
    };
    // It may have got a row meanwhile.
    if version == Some(BUILD_VERSION) && lock(store).image(&format!("sha256:{hex}"))?.is_some() {
        return Ok(0);
    }
    unlink(path)
}

/// Removes a file; what it took on the disk.
fn unlink(path: &Path) -> Result<u64, RemoveError> {
    let bytes = size_on_disk(path);
    match fs::remove_file(path) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(file_error(path, source)),
    }
}

fn size_on_disk(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

fn file_error(path: &Path, source: io::Error) -> RemoveError {
    RemoveError::File { path: path.to_owned(), source }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where tests have the process killed.
pub(super) fn crash_point(name: &'static str) {
    fail::fail_point!(name, |_| {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
    let _ = name;
}
