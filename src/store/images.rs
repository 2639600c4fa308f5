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
}

impl Writer<'_> {
    /// Records an image whose bootable file has its final name.
    pub fn put_image(&self, image: &ImageRow) -> Result<(), StoreError> {
        let write = || {
            self.conn
                .prepare_cached(
                    "INSERT INTO image (digest, config_json, size_bytes, created_ms) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (digest) DO UPDATE SET
                         config_json = excluded.config_json, size_bytes = excluded.size_bytes",
                )?
                .execute(params![image.digest, image.config_json, image.size_bytes, now_ms()])
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
                writer.put_image(&image(digest))?;
                writer.put_image_ref("r", "linux/amd64", digest)
            })?;
            assert_eq!(store.image_by_ref("r", "linux/amd64")?, Some(image(digest)));
        }
        assert_eq!(store.image("sha256:a")?, Some(image("sha256:a")));
        assert_eq!(store.image("sha256:c")?, None);
        assert_eq!(store.image_by_ref("r", "linux/arm64")?, None);
        Ok(())
    }
}
