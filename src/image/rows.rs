//! The two tables behind the cache: which digest a source named last, and what an image is.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::digest::Digest;

/// An image that has been built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    /// Digest of its manifest.
    pub digest: Digest,
    /// [`super::ImageConfig`] as JSON.
    pub config_json: String,
    /// Name of the bootable file within the image directory.
    pub file: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// The error of a database.
pub type RowsError = Box<dyn std::error::Error + Send + Sync>;

/// Where image rows are kept. A source key is a reference or path with the platform, made by the
/// cache; several keys may name one image.
pub trait ImageRows: Send + Sync {
    /// The image that `key` named last.
    fn by_source(&self, key: &str) -> Result<Option<ImageRow>, RowsError>;

    /// The image with that manifest digest.
    fn by_digest(&self, digest: &Digest) -> Result<Option<ImageRow>, RowsError>;

    /// Stores the image and that `key` names it, both or neither.
    fn put(&self, key: &str, row: &ImageRow) -> Result<(), RowsError>;
}

/// Rows in memory, for programs that keep no state and for tests.
#[derive(Debug, Default)]
pub struct MemoryRows(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    sources: BTreeMap<String, Digest>,
    images: BTreeMap<Digest, ImageRow>,
}

impl MemoryRows {
    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ImageRows for MemoryRows {
    fn by_source(&self, key: &str) -> Result<Option<ImageRow>, RowsError> {
        let tables = self.tables();
        Ok(tables.sources.get(key).and_then(|digest| tables.images.get(digest)).cloned())
    }

    fn by_digest(&self, digest: &Digest) -> Result<Option<ImageRow>, RowsError> {
        Ok(self.tables().images.get(digest).cloned())
    }

    fn put(&self, key: &str, row: &ImageRow) -> Result<(), RowsError> {
        let mut tables = self.tables();
        tables.sources.insert(key.to_owned(), row.digest.clone());
        tables.images.insert(row.digest.clone(), row.clone());
        Ok(())
    }
}
