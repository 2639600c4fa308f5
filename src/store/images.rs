//! Images in the cache, and what references meant when they were last resolved.

use rusqlite::{OptionalExtension, Row, params};

use super::{Store, StoreError, Writer, now_ms};

/// An image that has been built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    /// Digest of its manifest (`sha256:…`).
    pub digest: String,
    /// What it says about how it is run, as JSON.
    pub config_json: String,
    /// Size of its bootable file in bytes.
    pub size_bytes: u64,
}

/// What the source of an image said about it, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDocuments {
    /// Its manifest; the image's digest is the digest of this.
    pub manifest: Vec<u8>,
    /// Its configuration.
    pub config: Vec<u8>,
}

/// An image with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDetail {
    /// The image.
    pub image: ImageRow,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// What its source said; none where an earlier version stored it.
    pub documents: Option<ImageDocuments>,
}

/// What a reference meant when it was last resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRefRow {
    /// The normalised reference or path.
    pub reference: String,
    /// The platform that was asked for.
    pub platform: String,
    /// The manifest digest of the image.
    pub digest: String,
}

/// A sandbox whose disk belongs to an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageUser {
    /// Its project.
    pub project: String,
    /// Its name in the project.
    pub sandbox: String,
}

impl ImageRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { digest: row.get(0)?, config_json: row.get(1)?, size_bytes: row.get(2)? })
    }
}

impl Store {
    /// The image that `reference` named last for `platform`.
    pub fn image_by_ref(
        &self,
        reference: &str,
        platform: &str,
    ) -> Result<Option<ImageRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(
                    "SELECT image.digest, config_json, size_bytes FROM image_ref JOIN image USING (digest)
                     WHERE reference = ?1 AND platform = ?2",
                )?
                .query_row([reference, platform], ImageRow::read)
                .optional()
        };
        self.sql("read an image reference", read())
    }

    /// The image with that manifest digest.
    pub fn image(&self, digest: &str) -> Result<Option<ImageRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(
                    "SELECT digest, config_json, size_bytes FROM image WHERE digest = ?1",
                )?
                .query_row([digest], ImageRow::read)
                .optional()
        };
        self.sql("read an image", read())
    }

    /// All images with all that is known of them, by digest.
    pub fn images(&self) -> Result<Vec<ImageDetail>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(
                    "SELECT digest, config_json, size_bytes, created_ms, manifest, config
                     FROM image ORDER BY digest",
                )?
                .query_map([], |row| {
                    let documents = match (row.get(4)?, row.get(5)?) {
                        (Some(manifest), Some(config)) => Some(ImageDocuments { manifest, config }),
                        _ => None,
                    };
                    Ok(ImageDetail {
                        image: ImageRow::read(row)?,
                        created_ms: row.get(3)?,
                        documents,
                    })
                })?
                .collect()
        };
        self.sql("read the images", read())
    }

    /// What all references meant when they were last resolved.
    pub fn image_refs(&self) -> Result<Vec<ImageRefRow>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(
                    "SELECT reference, platform, digest FROM image_ref ORDER BY reference, platform",
                )?
                .query_map([], |row| {
                    Ok(ImageRefRow {
                        reference: row.get(0)?,
                        platform: row.get(1)?,
                        digest: row.get(2)?,
                    })
                })?
                .collect()
        };
        self.sql("read the image references", read())
    }
}

impl Writer<'_> {
    /// Records an image whose bootable file has its final name. Without `documents`, those that
    /// are stored stay.
    pub fn put_image(
        &self,
        image: &ImageRow,
        documents: Option<&ImageDocuments>,
    ) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached(
                    "INSERT INTO image (digest, config_json, size_bytes, created_ms, manifest, config)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (digest) DO UPDATE SET
                         config_json = excluded.config_json, size_bytes = excluded.size_bytes,
                         manifest = coalesce(excluded.manifest, manifest),
                         config = coalesce(excluded.config, config)",
                )?
                .execute(params![
                    image.digest,
                    image.config_json,
                    image.size_bytes,
                    now_ms(),
                    documents.map(|documents| &documents.manifest),
                    documents.map(|documents| &documents.config),
                ])
        };
        self.sql("write an image", write()).map(drop)
    }

    /// Records that `reference` names the image `digest` for `platform`.
    pub fn put_image_ref(
        &self,
        reference: &str,
        platform: &str,
        digest: &str,
    ) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached(
                    "INSERT INTO image_ref (reference, platform, digest, resolved_ms) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (reference, platform) DO UPDATE SET
                         digest = excluded.digest, resolved_ms = excluded.resolved_ms",
                )?
                .execute(params![reference, platform, digest, now_ms()])
        };
        self.sql("write an image reference", write()).map(drop)
    }

    /// The manifests of all images.
    pub fn image_manifests(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached("SELECT manifest FROM image WHERE manifest IS NOT NULL")?
                .query_map([], |row| row.get(0))?
                .collect()
        };
        self.sql("read the images", read())
    }

    /// The sandboxes whose disks belong to the image `digest`, by project and name.
    pub fn image_users(&self, digest: &str) -> Result<Vec<ImageUser>, StoreError> {
        let read = || {
            self.conn
                .prepare_cached(
                    "SELECT project, name FROM sandbox WHERE image_digest = ?1
                     ORDER BY project, name",
                )?
                .query_map([digest], |row| {
                    Ok(ImageUser { project: row.get(0)?, sandbox: row.get(1)? })
                })?
                .collect()
        };
        self.sql("read the sandboxes", read())
    }

    /// Whether the image `digest` has a row.
    pub fn has_image(&self, digest: &str) -> Result<bool, StoreError> {
        let read =
            || self.conn.prepare_cached("SELECT 1 FROM image WHERE digest = ?1")?.exists([digest]);
        self.sql("read an image", read())
    }

    /// How many references name the image `digest`.
    pub fn count_image_refs(&self, digest: &str) -> Result<usize, StoreError> {
        let read = || {
            self.conn
                .prepare_cached("SELECT count(*) FROM image_ref WHERE digest = ?1")?
                .query_row([digest], |row| row.get(0))
        };
        self.sql("read the image references", read())
    }

    /// Forgets the image `digest` and what names it.
    pub fn remove_image(&self, digest: &str) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached("DELETE FROM image_ref WHERE digest = ?1")?
                .execute([digest])?;
            self.conn.prepare_cached("DELETE FROM image WHERE digest = ?1")?.execute([digest])
        };
        self.sql("remove an image", write()).map(drop)
    }

    /// Forgets what `reference` names for `platform`.
    pub fn remove_image_ref(&self, reference: &str, platform: &str) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached("DELETE FROM image_ref WHERE reference = ?1 AND platform = ?2")?
                .execute([reference, platform])
        };
        self.sql("remove an image reference", write()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use crate::store::Durability;

    #[test]
    fn references_move() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(&Home::at(dir.path()))?;
        let image = |digest: &str| ImageRow {
            digest: digest.to_owned(),
            config_json: "{}".to_owned(),
            size_bytes: 4096,
        };
        for digest in ["sha256:a", "sha256:b"] {
            store.write(Durability::Relaxed, |writer| {
                writer.put_image(&image(digest), None)?;
                writer.put_image_ref("r", "linux/amd64", digest)
            })?;
            assert_eq!(store.image_by_ref("r", "linux/amd64")?, Some(image(digest)));
        }
        assert_eq!(store.image("sha256:a")?, Some(image("sha256:a")));
        assert_eq!(store.image("sha256:c")?, None);
        assert_eq!(store.image_by_ref("r", "linux/arm64")?, None);
        Ok(())
    }

    #[test]
    fn documents_stay_and_a_removed_image_takes_its_references()
    -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(&Home::at(dir.path()))?;
        let row = ImageRow {
            digest: "sha256:a".to_owned(),
            config_json: "{}".to_owned(),
            size_bytes: 4096,
        };
        let documents = ImageDocuments { manifest: b"m".to_vec(), config: b"c".to_vec() };
        let refs = || store.image_refs().map(|refs| refs.len());
        for documents in [None, Some(&documents), None] {
            store.write(Durability::Relaxed, |writer| {
                writer.put_image(&row, documents)?;
                writer.put_image_ref("r", "linux/amd64", &row.digest)?;
                writer.put_image_ref("s", "linux/amd64", &row.digest)
            })?;
        }
        let images = store.images()?;
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].image, row);
        assert_eq!(images[0].documents, Some(documents));
        assert_eq!(refs()?, 2);
        store.write(Durability::Relaxed, |writer| {
            assert_eq!(writer.image_manifests()?, [b"m"]);
            assert_eq!(writer.count_image_refs(&row.digest)?, 2);
            assert!(writer.has_image(&row.digest)? && !writer.has_image("sha256:b")?);
            writer.remove_image_ref("r", "linux/amd64")
        })?;
        assert_eq!(refs()?, 1);
        store.write(Durability::Relaxed, |writer| writer.remove_image(&row.digest))?;
        assert_eq!((refs()?, store.images()?.len()), (0, 0));
        Ok(())
    }
}
