//! The two tables behind the cache: which digest a source named last, and what an image is.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::{Durability, ImageDocuments, ImageRow, Store, StoreError};

/// What identifies a source: a normalised reference or a path, and the platform asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceKey {
    /// The reference or path, and for a file the state in which it was read.
    pub reference: String,
    /// The platform.
    pub platform: String,
}

/// Where image rows are kept: the store behind a mutex, or memory.
pub trait ImageRows: Send + Sync {
    /// The image that the source named last.
    fn by_source(&self, key: &SourceKey) -> Result<Option<ImageRow>, StoreError>;

    /// The image with that manifest digest.
    fn by_digest(&self, digest: &str) -> Result<Option<ImageRow>, StoreError>;

    /// Stores the image and, with a key, that the source names it: both or neither. Without
    /// `documents`, only for an image that is stored: another process may have removed it.
    fn put(
        &self,
        key: Option<&SourceKey>,
        row: &ImageRow,
        documents: Option<&ImageDocuments>,
    ) -> Result<(), StoreError>;

    /// Gives the manifests of all images to `body`. Nobody stores an image before it returns.
    fn alone_with_manifests(&self, body: &mut dyn FnMut(&[Vec<u8>])) -> Result<(), StoreError>;
}

impl ImageRows for Mutex<Store> {
    fn by_source(&self, key: &SourceKey) -> Result<Option<ImageRow>, StoreError> {
        lock(self).image_by_ref(&key.reference, &key.platform)
    }

    fn by_digest(&self, digest: &str) -> Result<Option<ImageRow>, StoreError> {
        lock(self).image(digest)
    }

    fn put(
        &self,
        key: Option<&SourceKey>,
        row: &ImageRow,
        documents: Option<&ImageDocuments>,
    ) -> Result<(), StoreError> {
        // A lost row costs one request to the registry: the file is found again by its digest.
        lock(self).write(Durability::Relaxed, |writer| {
            if documents.is_none() && !writer.has_image(&row.digest)? {
                return Ok(());
            }
            writer.put_image(row, documents)?;
            match key {
                Some(key) => writer.put_image_ref(&key.reference, &key.platform, &row.digest),
                None => Ok(()),
            }
        })
    }

    fn alone_with_manifests(&self, body: &mut dyn FnMut(&[Vec<u8>])) -> Result<(), StoreError> {
        lock(self).write(Durability::Relaxed, |writer| {
            body(&writer.image_manifests()?);
            Ok(())
        })
    }
}

/// Rows in memory, for programs that keep no state and where there is no database yet.
#[derive(Debug, Default)]
pub struct MemoryRows(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    sources: BTreeMap<SourceKey, String>,
    images: BTreeMap<String, ImageRow>,
    manifests: BTreeMap<String, Vec<u8>>,
}

impl ImageRows for MemoryRows {
    fn by_source(&self, key: &SourceKey) -> Result<Option<ImageRow>, StoreError> {
        let tables = lock(&self.0);
        Ok(tables.sources.get(key).and_then(|digest| tables.images.get(digest)).cloned())
    }

    fn by_digest(&self, digest: &str) -> Result<Option<ImageRow>, StoreError> {
        Ok(lock(&self.0).images.get(digest).cloned())
    }

    fn put(
        &self,
        key: Option<&SourceKey>,
        row: &ImageRow,
        documents: Option<&ImageDocuments>,
    ) -> Result<(), StoreError> {
        let mut tables = lock(&self.0);
        if documents.is_none() && !tables.images.contains_key(&row.digest) {
            return Ok(());
        }
        if let Some(key) = key {
            tables.sources.insert(key.clone(), row.digest.clone());
        }
        if let Some(documents) = documents {
            tables.manifests.insert(row.digest.clone(), documents.manifest.clone());
        }
        tables.images.insert(row.digest.clone(), row.clone());
        Ok(())
    }

    fn alone_with_manifests(&self, body: &mut dyn FnMut(&[Vec<u8>])) -> Result<(), StoreError> {
        let tables = lock(&self.0);
        let manifests: Vec<_> = tables.manifests.values().cloned().collect();
        body(&manifests);
        Ok(())
    }
}

/// A panic elsewhere leaves no row half written: statements are transactions.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
