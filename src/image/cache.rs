//! Images on this machine, named by the digest of their manifest.
//!
//! A source (a reference, a layout or archive path, with the platform) maps to a digest in the
//! database; the digest maps to one bootable file, `images/erofs/HEX.vN.erofs`. The cached path
//! is one row and one stat. Files get their names by rename when they are complete and on disk,
//! so what has a name is whole; a row is written after the file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::auth::RegistryAccess;
use super::config::ImageConfig;
use super::digest::Digest;
use super::disk;
use super::error::{ImageError, Reason};
use super::hold::Holds;
use super::limits::TransferLimits;
use super::local::split_tag;
use super::platform::Platform;
use super::progress::Progress;
use super::pull;
use super::reference::{ImageRef, InvalidReference};
use super::rows::{ImageRows, SourceKey};
use super::tree;
use crate::home::Home;
use crate::spec::{DiskFormat, Image, ImageSource, PullPolicy};
use crate::store::{ImageDocuments, ImageRow, StoreError};

/// An image that is ready to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// Digest of its manifest: its identity.
    pub digest: String,
    /// What it says about how it is run.
    pub config: ImageConfig,
    /// The bootable file; never written again.
    pub file: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How it holds a disk with a file system of any kind; none: it is an EROFS file.
    pub disk: Option<DiskFormat>,
}

/// Images on this machine.
#[derive(Clone)]
pub struct ImageCache {
    pub(super) home: Home,
    pub(super) rows: Arc<dyn ImageRows>,
    pub(super) limits: TransferLimits,
    holds: Option<Arc<Holds>>,
}

/// Version of the bootable files: a file made by another version is made again.
pub(super) const BUILD_VERSION: u32 = 1;

impl ImageCache {
    /// The images below `home`, whose directories exist, with `rows` as their index.
    pub fn new(home: Home, rows: Arc<dyn ImageRows>) -> Self {
        Self { home, rows, limits: TransferLimits::default(), holds: None }
    }

    /// The same with other limits on what is pulled.
    #[must_use]
    pub fn with_limits(self, limits: TransferLimits) -> Self {
        Self { limits, ..self }
    }

    /// The same for a process that is going to use what it finds: no other removes an image that
    /// this cache, or a clone of it, has found or made, as long as one of them lives.
    #[must_use]
    pub fn holding(self) -> Self {
        Self { holds: Some(Arc::default()), ..self }
    }

    /// The image as it is on this machine, if it is. One row and one stat for a reference, no
    /// network; a layout directory is asked what its tag names (two small reads), an archive
    /// counts as cached while its time stamp, size and inode are those of the last pull, and so does a
    /// directory of files with those of all that is in it.
    pub fn cached(&self, image: &Image) -> Result<Option<ImageRecord>, ImageError> {
        self.find(image).map_err(|reason| ImageError::new(&image.source, reason))
    }

    /// The image with that manifest digest, if it is on this machine.
    pub fn by_digest(&self, digest: &str) -> Result<Option<ImageRecord>, ImageError> {
        let found = digest
            .parse::<Digest>()
            .ok()
            .map(|digest| self.row(&digest))
            .transpose()
            .map_err(|reason| ImageError::new(digest, reason))?;
        Ok(found.flatten())
    }

    /// Whether [`ImageCache::ensure`] would ask a registry.
    pub fn needs_network(&self, image: &Image, policy: PullPolicy) -> Result<bool, ImageError> {
        Ok(match (&image.source, policy) {
            (ImageSource::Oci(_), PullPolicy::Always) => true,
            (ImageSource::Oci(_), PullPolicy::IfMissing) => self.cached(image)?.is_none(),
            (ImageSource::Oci(_), PullPolicy::Never)
            | (ImageSource::Dir(_) | ImageSource::Archive(_) | ImageSource::Disk { .. }, _) => {
                false
            }
        })
    }

    /// The image under a pull policy: from the cache, or pulled. The policy is about registries;
    /// layouts and archives are files and always read when they changed.
    pub async fn ensure(
        &self,
        image: &Image,
        policy: PullPolicy,
        access: &RegistryAccess,
        progress: Arc<dyn Progress>,
    ) -> Result<ImageRecord, ImageError> {
        let is_remote = matches!(image.source, ImageSource::Oci(_));
        if policy != PullPolicy::Always
            && let Some(record) = self.cached(image)?
        {
            return Ok(record);
        }
        if policy == PullPolicy::Never && is_remote {
            return Err(ImageError::new(&image.source, Reason::NotCached));
        }
        self.pull(image, access, progress).await
    }

    /// Asks the source which image it names, and gets what of it is not on this machine.
    ///
    /// Several processes or tasks that pull one image do the work once. Dropping the future stops
    /// the downloads; what has arrived is kept for the next try.
    pub async fn pull(
        &self,
        image: &Image,
        access: &RegistryAccess,
        progress: Arc<dyn Progress>,
    ) -> Result<ImageRecord, ImageError> {
        pull::pull(self, image, access, progress)
            .await
            .map_err(|reason| ImageError::new(&image.source, reason))
    }

    /// The digest of the image that the source names now; asks the registry, downloads nothing.
    pub async fn resolve(
        &self,
        image: &Image,
        access: &RegistryAccess,
    ) -> Result<String, ImageError> {
        match pull::digest(self, image, access).await {
            Ok(digest) => Ok(digest.into()),
            Err(reason) => Err(ImageError::new(&image.source, reason)),
        }
    }

    /// The digests of the images that the source names now: for the platform of `image`, and where
    /// the source has several, for each that guests can have. Downloads nothing.
    pub async fn resolve_for_all(
        &self,
        image: &Image,
        access: &RegistryAccess,
    ) -> Result<BTreeMap<Platform, Digest>, ImageError> {
        let digests = pull::digests(self, image, access).await;
        digests.map_err(|reason| ImageError::new(&image.source, reason))
    }

    /// [`ImageCache::resolve`], and when that image is on this machine the source names it from
    /// here on: [`ImageCache::cached`] finds what the registry told last.
    pub async fn refresh(
        &self,
        image: &Image,
        access: &RegistryAccess,
    ) -> Result<String, ImageError> {
        let digest = self.resolve(image, access).await?;
        if let Some(record) = self.by_digest(&digest)?
            && self.cached(image)?.is_none_or(|cached| cached.digest != digest)
        {
            let named = source_key(image).and_then(|key| self.name(Some(&key), &record, None));
            named.map_err(|reason| ImageError::new(&image.source, reason))?;
        }
        Ok(digest)
    }

    /// The image of `digest`, which `image` named when it was asked last: from the cache under any
    /// policy, else pulled. A registry is asked for the digest itself, wherever the tag has moved.
    /// A layout or an archive gives what it names, so the caller compares digests.
    pub async fn ensure_digest(
        &self,
        image: &Image,
        digest: &str,
        policy: PullPolicy,
        access: &RegistryAccess,
        progress: Arc<dyn Progress>,
    ) -> Result<ImageRecord, ImageError> {
        if let Some(record) = self.by_digest(digest)? {
            return Ok(record);
        }
        let ImageSource::Oci(text) = &image.source else {
            return self.ensure(image, policy, access, progress).await;
        };
        let fail = |reason| ImageError::new(&image.source, reason);
        if policy == PullPolicy::Never {
            return Err(fail(Reason::NotCached));
        }
        let wanted = digest.parse().map_err(InvalidReference::Digest);
        let pinned = text.parse().and_then(|named: ImageRef| Ok(named.pinned(wanted?)));
        let pinned = pinned.map_err(|error| fail(Reason::Reference(error)))?;
        let source = ImageSource::Oci(pinned.to_string());
        let pinned = Image { source, platform: image.platform.clone() };
        let record = pull::pull(self, &pinned, access, progress).await.map_err(fail)?;
        // `if-missing` keeps what the tag was; `always` has just been told.
        if policy == PullPolicy::Always || self.cached(image)?.is_none() {
            let key = source_key(image).map_err(fail)?;
            self.name(Some(&key), &record, None).map_err(fail)?;
        }
        Ok(record)
    }

    /// Stores the image and, with a key, that the source names it.
    pub(super) fn name(
        &self,
        key: Option<&SourceKey>,
        record: &ImageRecord,
        documents: Option<&ImageDocuments>,
    ) -> Result<(), Reason> {
        let config_json = serde_json::to_string(&record.config).map_err(io::Error::from);
        let config_json = config_json.map_err(|source| Reason::Build { source: source.into() })?;
        let size_bytes = record.size_bytes;
        let row = ImageRow { digest: record.digest.clone(), config_json, size_bytes };
        self.rows.put(key, &row, documents).map_err(rows_error)
    }

    /// The image of a directory in its present state.
    pub(super) fn cached_tree(
        &self,
        image: &Image,
        root: &Path,
    ) -> Result<Option<ImageRecord>, Reason> {
        let row = self.rows.by_source(&tree::key(image, root)?).map_err(rows_error)?;
        self.record(row)
    }

    fn find(&self, image: &Image) -> Result<Option<ImageRecord>, Reason> {
        if let Some(root) = pull::tree_of(image) {
            return self.cached_tree(image, root);
        }
        if let Some(disk) = disk::look(image)? {
            return disk.record(self);
        }
        if matches!(image.source, ImageSource::Dir(_)) {
            // Its files answer at once, so that the future never waits.
            let named = pull::digest(self, image, &RegistryAccess::anonymous()).now_or_never();
            return self.row(&named.ok_or(Reason::Cancelled)??);
        }
        let key = source_key(image)?;
        let row = self.rows.by_source(&key).map_err(rows_error)?;
        self.record(row)
    }

    pub(super) fn row(&self, digest: &Digest) -> Result<Option<ImageRecord>, Reason> {
        let row = self.rows.by_digest(digest.as_str()).map_err(rows_error)?;
        self.record(row)
    }

    /// The record of a row whose file is there in full.
    fn record(&self, row: Option<ImageRow>) -> Result<Option<ImageRecord>, Reason> {
        let Some((row, digest)) = row.and_then(|row| row.digest.parse().ok().map(|d| (row, d)))
        else {
            return Ok(None);
        };
        let file = self.file(&digest);
        let row = match &self.holds {
            None => row,
            Some(_) if !self.hold(&file)? => return Ok(None),
            // As of before it was held, the row may be one that somebody has just removed.
            Some(_) => match self.rows.by_digest(&row.digest).map_err(rows_error)? {
                Some(row) => row,
                None => return Ok(None),
            },
        };
        if !fs::metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() == row.size_bytes) {
            return Ok(None);
        }
        let Ok(config) = serde_json::from_str(&row.config_json) else { return Ok(None) };
        let size_bytes = row.size_bytes;
        Ok(Some(ImageRecord { digest: row.digest, config, file, size_bytes, disk: None }))
    }

    /// Keeps the file from being removed, where that is wanted; says whether it is there.
    pub(super) fn hold(&self, file: &Path) -> Result<bool, Reason> {
        let Some(holds) = &self.holds else { return Ok(true) };
        holds.hold(file).map_err(|source| {
            let what = "the image cannot be locked";
            Reason::File { what, path: file.to_owned(), source }
        })
    }

    /// The final name of an image's bootable file.
    pub(super) fn file(&self, digest: &Digest) -> PathBuf {
        image_file(&self.home, digest)
    }
}

fn rows_error(source: StoreError) -> Reason {
    Reason::Rows { source }
}

/// The final name of the bootable file of the image `digest`.
pub(super) fn image_file(home: &Home, digest: &Digest) -> PathBuf {
    home.erofs().join(format!("{}.v{BUILD_VERSION}.erofs", digest.hex()))
}

/// The digest and the version that the name of a bootable file states.
pub(super) fn parse_file_name(name: &str) -> Option<(Digest, u32)> {
    let (hex, version) = name.strip_suffix(".erofs")?.split_once(".v")?;
    Some((format!("sha256:{hex}").parse().ok()?, version.parse().ok()?))
}

/// The platform that is asked for.
pub(super) fn platform_of(image: &Image) -> Result<Platform, Reason> {
    Ok(match &image.platform {
        Some(text) => text.parse()?,
        None => Platform::host(),
    })
}

/// What identifies a source and the state in which it was read.
pub(super) fn source_key(image: &Image) -> Result<SourceKey, Reason> {
    if let Some(root) = pull::tree_of(image) {
        return tree::key(image, root);
    }
    let reference = match &image.source {
        ImageSource::Oci(text) => text.parse::<ImageRef>()?.to_string(),
        ImageSource::Dir(text) => format!("dir:{text}"),
        ImageSource::Archive(text) => format!("archive:{text} {}", stamp(split_tag(text).0)?),
        ImageSource::Disk { .. } => return Err(Reason::NotAnImage("a disk image")),
    };
    Ok(SourceKey { reference, platform: platform_of(image)?.to_string() })
}

/// Changes when the file does.
pub(super) fn stamp(path: &Path) -> Result<String, Reason> {
    let meta = fs::metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Reason::NoSuchPath(path.to_owned()),
        _ => Reason::File { what: "the archive cannot be read", path: path.to_owned(), source },
    })?;
    Ok(format!("{}.{:09}:{}:{}", meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ino()))
}
