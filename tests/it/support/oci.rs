//! Images made by hand: layers from files in memory, manifests, layout directories.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use msb::image::Digest;
use serde_json::{Value, json};

/// How a layer is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// A layer to be.
#[derive(Clone, Debug)]
pub(crate) struct LayerSpec {
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) compression: Compression,
}

/// An image to be.
#[derive(Clone, Debug)]
pub(crate) struct ImageSpec {
    /// Lowest first.
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) architecture: &'static str,
    pub(crate) config: Value,
}

/// Blobs by digest, with the manifests among them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blobs(pub(crate) BTreeMap<String, Vec<u8>>);

/// An image that is made: its manifest and what it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) manifest: Vec<u8>,
    pub(crate) digest: String,
    pub(crate) config: String,
    /// Digests of the stored layers, lowest first.
    pub(crate) layers: Vec<String>,
}

/// The architecture of this machine in the words of images.
pub(crate) fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn layer(compression: Compression, files: &[(&str, &[u8])]) -> LayerSpec {
    let files = files.iter().map(|(name, data)| ((*name).to_owned(), data.to_vec())).collect();
    LayerSpec { files, compression }
}

pub(crate) fn image(layers: Vec<LayerSpec>) -> ImageSpec {
    let config = json!({ "Cmd": ["/bin/hello"], "Env": ["PATH=/bin"] });
    ImageSpec { layers, architecture: host_arch(), config }
}

pub(crate) fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, name, &data[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::Plain => bytes.to_vec(),
        Compression::Gzip => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

/// Bytes that no compression makes smaller; the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(step).take(len).collect()
}

impl Blobs {
    pub(crate) fn add(&mut self, bytes: Vec<u8>) -> String {
        let digest = Digest::of(&bytes).to_string();
        self.0.insert(digest.clone(), bytes);
        digest
    }

    /// Makes `spec` of blobs.
    pub(crate) fn make(&mut self, spec: &ImageSpec) -> Made {
        let tars: Vec<_> = spec.layers.iter().map(|layer| tar(&layer.files)).collect();
        let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
        let config = json!({
            "architecture": spec.architecture, "os": "linux", "config": spec.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let stored: Vec<_> = tars
            .iter()
            .zip(&spec.layers)
            .map(|(tar, layer)| (layer.compression, compress(tar, layer.compression)))
            .collect();
        self.make_of(config.to_string().into_bytes(), &stored)
    }

    /// Makes an image of a configuration and stored layers, whether they fit or not.
    pub(crate) fn make_of(&mut self, config: Vec<u8>, stored: &[(Compression, Vec<u8>)]) -> Made {
        let config_size = config.len();
        let config = self.add(config);
        let mut layers = Vec::new();
        let mut descriptors = Vec::new();
        for (compression, bytes) in stored {
            let suffix = match compression {
                Compression::Plain => "tar",
                Compression::Gzip => "tar+gzip",
                Compression::Zstd => "tar+zstd",
            };
            let digest = self.add(bytes.clone());
            descriptors.push(json!({
                "mediaType": format!("application/vnd.oci.image.layer.v1.{suffix}"),
                "digest": digest, "size": bytes.len(),
            }));
            layers.push(digest);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config, "size": config_size,
            },
            "layers": descriptors,
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = self.add(manifest.clone());
        Made { manifest, digest, config, layers }
    }

    /// An index over images with their architectures.
    pub(crate) fn index(&mut self, images: &[(&str, &Made)]) -> String {
        let manifests: Vec<_> = images
            .iter()
            .map(|(architecture, made)| {
                json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": made.digest, "size": made.manifest.len(),
                    "platform": { "os": "linux", "architecture": architecture },
                })
            })
            .collect();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        self.add(index.to_string().into_bytes())
    }

    /// Writes an image layout whose tags name manifests or indexes.
    pub(crate) fn write_layout(&self, dir: &Path, tags: &[(&str, &str)]) {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        for (digest, bytes) in &self.0 {
            let hex = digest.strip_prefix("sha256:").unwrap();
            fs::write(dir.join("blobs/sha256").join(hex), bytes).unwrap();
        }
        let manifests: Vec<_> = tags
            .iter()
            .map(|(tag, digest)| {
                let bytes = &self.0[*digest];
                let document: Value = serde_json::from_slice(bytes).unwrap();
                json!({
                    "mediaType": document["mediaType"], "digest": digest, "size": bytes.len(),
                    "annotations": { "org.opencontainers.image.ref.name": tag },
                })
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
    }
}
