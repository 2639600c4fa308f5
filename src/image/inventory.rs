//! Which images are on this machine, what they share and who uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::cache::{image_file, stamp};
use super::config::{self, ImageConfig};
use super::digest::Digest;
use super::disk;
use super::local::split_tag;
use super::platform::Platform;
use super::reference::ImageRef;
use super::rows::SourceKey;
use super::tree;
use super::wire;
use crate::home::Home;
use crate::store::{ImageDetail, ImageUser, Store, StoreError};

/// The part of a bound on entries that directories may be whose turn is yet to come.
const WAITING_SHARE: usize = 16;

/// An image on this machine.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// Digest of its manifest.
    pub digest: Digest,
    /// What names it: references, and paths as `dir:PATH` and `archive:PATH`.
    pub names: Vec<SourceKey>,
    /// What it was made for, where it says so.
    pub platform: Option<Platform>,
    /// What it says about how it is run.
    pub config: ImageConfig,
    /// The bootable file, where it is there.
    pub file: Option<PathBuf>,
    /// What the bootable file takes on the disk, in bytes.
    pub disk_bytes: u64,
    /// Its layers, lowest first. None are known of an image that an earlier version stored.
    pub layers: Vec<StoredLayer>,
    /// When it came to this machine, in milliseconds since the Unix epoch.
    pub pulled_ms: i64,
    /// The sandboxes whose disks belong to it.
    pub users: Vec<ImageUser>,
    /// Its manifest and configuration, where they are known.
    pub(super) detail: ImageDetail,
    /// How many rows name it, those of paths that are gone among them.
    pub(super) name_rows: usize,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLayer {
    /// Digest of the compressed layer.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether it is kept on this machine.
    pub is_stored: bool,
    /// How many images of this machine have it, this one among them.
    pub images: usize,
}

impl StoredImage {
    /// The compressed layers that are kept, in bytes; a layer counts once.
    pub fn layer_bytes(&self) -> u64 {
        self.distinct_layers().map(|layer| layer.size_bytes).sum()
    }

    /// Those that other images have too, in bytes.
    pub fn shared_bytes(&self) -> u64 {
        self.distinct_layers().filter(|layer| layer.images > 1).map(|layer| layer.size_bytes).sum()
    }

    fn distinct_layers(&self) -> impl Iterator<Item = &StoredLayer> {
        let mut seen = BTreeSet::new();
        self.layers.iter().filter(move |layer| layer.is_stored && seen.insert(&layer.digest))
    }
}

/// All images of this machine, by digest.
pub fn list(store: &Store) -> Result<Vec<StoredImage>, StoreError> {
    let home = store.home();
    let mut names: BTreeMap<String, Vec<SourceKey>> = BTreeMap::new();
    for row in store.image_refs()? {
        let key = SourceKey { reference: row.reference, platform: row.platform };
        names.entry(row.digest).or_default().push(key);
    }
    let mut users: BTreeMap<String, Vec<ImageUser>> = BTreeMap::new();
    for row in store.all_sandboxes()? {
        let Some(digest) = row.image_digest else { continue };
        let user = ImageUser { project: row.project, sandbox: row.name };
        users.entry(digest).or_default().push(user);
    }
    let mut images = Vec::new();
    for detail in store.images()? {
        let Ok(digest) = detail.image.digest.parse::<Digest>() else { continue };
        let names = names.remove(&detail.image.digest).unwrap_or_default();
        let users = users.remove(&detail.image.digest).unwrap_or_default();
        images.push(stored(home, digest, names, users, detail));
    }
    count_shared(&mut images);
    Ok(images)
}

/// What `images` save by having layers in common, in bytes of compressed layers.
pub fn saving_bytes(images: &[StoredImage]) -> u64 {
    let mut layers: BTreeMap<&Digest, u64> = BTreeMap::new();
    let each: u64 = images.iter().map(StoredImage::layer_bytes).sum();
    for layer in images.iter().flat_map(StoredImage::distinct_layers) {
        layers.insert(&layer.digest, layer.size_bytes);
    }
    each - layers.values().sum::<u64>()
}

fn stored(
    home: &Home,
    digest: Digest,
    names: Vec<SourceKey>,
    users: Vec<ImageUser>,
    detail: ImageDetail,
) -> StoredImage {
    let file = image_file(home, &digest);
    let meta = fs::metadata(&file).ok().filter(fs::Metadata::is_file);
    let documents = detail.documents.as_ref();
    let platform = documents.and_then(|documents| config::parse(&documents.config).ok()?.platform);
    let layers = documents.map_or_else(Vec::new, |documents| wire::layers(&documents.manifest));
    let layers = layers
        .into_iter()
        .map(|layer| StoredLayer {
            is_stored: is_stored(home, &layer.digest, layer.size_bytes),
            digest: layer.digest,
            size_bytes: layer.size_bytes,
            images: 1,
        })
        .collect();
    StoredImage {
        name_rows: names.len(),
        digest,
        names: names.into_iter().filter_map(current).collect(),
        platform,
        config: serde_json::from_str(&detail.image.config_json).unwrap_or_default(),
        disk_bytes: meta.as_ref().map_or(0, |meta| meta.blocks() * 512),
        file: meta.map(|_| file),
        layers,
        pulled_ms: detail.created_ms,
        users,
        detail,
    }
}

fn is_stored(home: &Home, digest: &Digest, size_bytes: u64) -> bool {
    fs::metadata(home.blobs().join(digest.hex())).is_ok_and(|meta| meta.len() == size_bytes)
}

fn count_shared(images: &mut [StoredImage]) {
    let mut counts: BTreeMap<Digest, usize> = BTreeMap::new();
    for image in images.iter() {
        let layers: BTreeSet<&Digest> = image.layers.iter().map(|layer| &layer.digest).collect();
        for layer in layers {
            *counts.entry(layer.clone()).or_default() += 1;
        }
    }
    for layer in images.iter_mut().flat_map(|image| &mut image.layers) {
        layer.images = counts.get(&layer.digest).copied().unwrap_or(1);
    }
}

/// The name as it is shown. None where the path is gone or, for an archive and a directory of files,
/// has become another one: nothing finds the image by it.
fn current(key: SourceKey) -> Option<SourceKey> {
    if let Some(path) = key.reference.strip_prefix("dir:") {
        return split_tag(path).0.exists().then_some(key);
    }
    if let Some(path) = disk::parse(&key.reference) {
        return path.exists().then_some(key);
    }
    if let Some((path, is_same)) = tree::parse(&key.reference) {
        let reference = format!("dir:{path}");
        return is_same.then_some(SourceKey { reference, ..key });
    }
    let Some((text, read)) =
        key.reference.strip_prefix("archive:").and_then(|rest| rest.rsplit_once(' '))
    else {
        return Some(key);
    };
    let is_same = stamp(split_tag(text).0).is_ok_and(|stamp| stamp == read);
    let reference = format!("archive:{text}");
    is_same.then_some(SourceKey { reference, ..key })
}

/// Why a text names no image, or not one.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// None of that name or digest.
    #[error("there is no image `{0}` on this machine")]
    Unknown(String),
    /// A digest cut too short, or a reference for several platforms.
    #[error("`{name}` is {} images: {}", found.len(), found.join(", "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// What it may be.
        found: Vec<String>,
    },
}

/// The fewest digits of a digest that name an image.
const MIN_DIGITS: usize = 4;

/// The image that `name` means: a reference as in a Sandboxfile, a path as [`list`] shows it, or a
/// digest, which may be cut short. With a platform, the one for it. Says by which name it was found;
/// none for a digest.
pub fn find<'a>(
    images: &'a [StoredImage],
    name: &str,
    platform: Option<&Platform>,
) -> Result<(&'a StoredImage, Option<&'a SourceKey>), FindError> {
    let wanted = platform.map(ToString::to_string);
    let reference = name.parse::<ImageRef>().map(|reference| reference.to_string()).ok();
    let named: Vec<(&StoredImage, Option<&SourceKey>)> = images
        .iter()
        .flat_map(|image| image.names.iter().map(move |key| (image, Some(key))))
        .filter(|(_, key)| {
            key.is_some_and(|key| {
                (Some(&key.reference) == reference.as_ref() || key.reference == name)
                    && wanted.as_ref().is_none_or(|wanted| *wanted == key.platform)
            })
        })
        .collect();
    match named[..] {
        [found] => return Ok(found),
        [] => {}
        [..] => {
            let show = |(_, key): &(_, Option<&SourceKey>)| {
                key.map_or_else(String::new, |key| format!("{} ({})", key.reference, key.platform))
            };
            let found = named.iter().map(show).collect();
            return Err(FindError::Ambiguous { name: name.to_owned(), found });
        }
    }
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let is_meant =
        |image: &&StoredImage| digits.len() >= MIN_DIGITS && image.digest.hex().starts_with(digits);
    let by_digest: Vec<&StoredImage> = images.iter().filter(is_meant).collect();
    match by_digest[..] {
        [image] => Ok((image, None)),
        [] => Err(FindError::Unknown(name.to_owned())),
        [..] => {
            let found = by_digest.iter().map(|image| image.digest.to_string()).collect();
            Err(FindError::Ambiguous { name: name.to_owned(), found })
        }
    }
}

/// What a file or a directory with everything below it takes on the disk, in bytes; files with
/// several names once. Symbolic links are not followed, and what cannot be read counts as nothing.
pub fn disk_usage(path: &Path) -> u64 {
    disk_usage_within(path, usize::MAX).bytes
}

/// What of a disk is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUsage {
    /// In bytes.
    pub bytes: u64,
    /// Whether all was counted; else it takes more.
    pub complete: bool,
}

/// The same where others decide what is in the directory: at most `most` entries are counted.
pub fn disk_usage_within(path: &Path, most: usize) -> DiskUsage {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return DiskUsage { bytes: 0, complete: true };
    };
    let mut bytes = meta.blocks() * 512;
    let mut left = if meta.is_dir() { vec![path.to_owned()] } else { Vec::new() };
    let (mut counted, mut seen) = (0, BTreeSet::new());
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            counted += 1;
            // Each directory that waits takes a path of memory.
            if counted > most || left.len() > most / WAITING_SHARE {
                return DiskUsage { bytes, complete: false };
            }
            let Ok(meta) = entry.metadata() else { continue };
            if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    DiskUsage { bytes, complete: true }
}
