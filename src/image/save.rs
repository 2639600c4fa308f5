//! Images into one archive: an OCI image layout in tar, with a `manifest.json` for programs that
//! read what `docker save` wrote before it used layouts.
//!
//! Manifest, configuration and layers go out as they came, so the image keeps its digest. The same
//! images make the same bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::digest::{Digest, Hasher};
use super::inventory::StoredImage;
use super::reference::ImageRef;
use super::wire;
use crate::home::Home;

/// An image to be written, and the references under which.
#[derive(Debug)]
pub struct ToSave<'a> {
    /// The image.
    pub image: &'a StoredImage,
    /// Its names in the archive; may be none.
    pub names: Vec<ImageRef>,
}

/// Why images cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// An earlier version of msb stored it, without its documents.
    #[error("image {0} was stored by an earlier version of msb, which kept no layers")]
    NoDocuments(Digest),
    /// It was made of a directory's files, or of a disk image.
    #[error("image {0} was made of a directory or a disk, and has no layers")]
    NoLayers(Digest),
    /// A layer has been removed, or is not what it was.
    #[error("layer {layer} of image {image} is not kept on this machine")]
    NoLayer {
        /// The image.
        image: Digest,
        /// The layer.
        layer: Digest,
    },
    /// A layer is not what it was.
    #[error("{path}: the layer has been damaged")]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// A layer cannot be read.
    #[error("{path}: cannot read the layer")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
}

/// Where the bytes of a blob are.
enum Content {
    Bytes(Vec<u8>),
    File { path: PathBuf, file: File, size_bytes: u64 },
}

/// Writes the images to `out`, after it is known that all of them can be written. Flushes nothing.
pub fn save(home: &Home, images: &[ToSave<'_>], out: impl Write) -> Result<(), SaveError> {
    let mut blobs: BTreeMap<Digest, Content> = BTreeMap::new();
    let (mut index, mut docker) = (Vec::new(), Vec::new());
    for ToSave { image, names } in images {
        let missing = || SaveError::NoDocuments(image.digest.clone());
        let documents = image.detail.documents.as_ref().ok_or_else(missing)?;
        if [super::tree::DOCUMENT, super::disk::DOCUMENT].contains(&&*documents.manifest) {
            return Err(SaveError::NoLayers(image.digest.clone()));
        }
        for layer in wire::layers(&documents.manifest) {
            let content = open_layer(home, image, &layer.digest, layer.size_bytes)?;
            blobs.insert(layer.digest, content);
        }
        index.extend(descriptors(image, names, &documents.manifest));
        docker.push(docker_entry(names, &documents.manifest, &documents.config));
        blobs.insert(Digest::of(&documents.config), Content::Bytes(documents.config.clone()));
        blobs.insert(image.digest.clone(), Content::Bytes(documents.manifest.clone()));
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE,
        "manifests": index,
    });
    let mut tar = tar::Builder::new(out);
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", index.to_string().as_bytes())?;
    append(&mut tar, "manifest.json", Value::Array(docker).to_string().as_bytes())?;
    for (digest, content) in blobs {
        let name = format!("blobs/sha256/{}", digest.hex());
        match content {
            Content::Bytes(bytes) => append(&mut tar, &name, &bytes)?,
            Content::File { path, file, size_bytes } => {
                let mut reader = Hashed { file: &file, hasher: Hasher::default(), failed: false };
                let written = write_member(&mut tar, &name, size_bytes, &mut reader);
                match written {
                    Err(source) if reader.failed => return Err(SaveError::Read { path, source }),
                    Err(source) => return Err(SaveError::Write(source)),
                    Ok(()) if reader.hasher.finish() != digest => {
                        return Err(SaveError::Damaged { path });
                    }
                    Ok(()) => {}
                }
            }
        }
    }
    tar.into_inner().map(drop).map_err(SaveError::Write)
}

/// Opens a layer and keeps others from removing it.
fn open_layer(
    home: &Home,
    image: &StoredImage,
    layer: &Digest,
    size_bytes: u64,
) -> Result<Content, SaveError> {
    let path = home.blobs().join(layer.hex());
    let missing = || SaveError::NoLayer { image: image.digest.clone(), layer: layer.clone() };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(source) => return Err(SaveError::Read { path, source }),
    };
    let locked = file.lock_shared().and_then(|()| file.metadata());
    match locked {
        Ok(meta) if meta.len() == size_bytes => Ok(Content::File { path, file, size_bytes }),
        Ok(_) => Err(missing()),
        Err(source) => Err(SaveError::Read { path, source }),
    }
}

/// What `index.json` says about an image: one entry a name.
fn descriptors(image: &StoredImage, names: &[ImageRef], manifest: &[u8]) -> Vec<Value> {
    let document: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let media_type =
        document["mediaType"].as_str().unwrap_or(oci_client::manifest::OCI_IMAGE_MEDIA_TYPE);
    let mut entry = json!({
        "mediaType": media_type,
        "digest": image.digest,
        "size": manifest.len(),
    });
    if let Some(platform) = &image.platform {
        entry["platform"] = json!({ "architecture": platform.architecture, "os": platform.os });
        if let Some(variant) = &platform.variant {
            entry["platform"]["variant"] = json!(variant);
        }
    }
    if names.is_empty() {
        return vec![entry];
    }
    let named = names.iter().map(|name| {
        let mut entry = entry.clone();
        entry["annotations"] = json!({
            super::local::FULL_NAME: name.to_string(),
            super::local::REF_NAME: name.tag().unwrap_or(name.repository()),
        });
        entry
    });
    named.collect()
}

/// What `manifest.json` says about an image.
fn docker_entry(names: &[ImageRef], manifest: &[u8], config: &[u8]) -> Value {
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let layers: Vec<String> =
        wire::layers(manifest).iter().map(|layer| path(&layer.digest)).collect();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    json!({ "Config": path(&Digest::of(config)), "RepoTags": names, "Layers": layers })
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<(), SaveError> {
    write_member(tar, name, bytes.len() as u64, bytes).map_err(SaveError::Write)
}

fn write_member(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    size_bytes: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, content)
}

/// Hashes what is read, and knows whether it was the reading that failed.
struct Hashed<'a> {
    file: &'a File,
    hasher: Hasher,
    failed: bool,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read(buffer).inspect_err(|_| self.failed = true)?;
        self.hasher.update(&buffer[..got]);
        Ok(got)
    }
}
