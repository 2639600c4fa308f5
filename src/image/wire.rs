//! Manifests and indexes as they come over the wire: parsed, checked, reduced to what is used.

use std::collections::BTreeMap;

use oci_client::manifest::{ImageIndexEntry, OciDescriptor, OciImageIndex, OciImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::digest::Digest;
use super::error::{Reason, printable};
use super::limits::TransferLimits;
use super::platform::{Platform, canonical_architecture};
use super::source::Registry;

/// What a manifest says about a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    /// What messages call it: `layer sha256:…`.
    pub(super) what: String,
}

/// The manifest of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    /// Lowest first.
    pub(super) layers: Vec<Descriptor>,
}

/// A manifest with its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) digest: Digest,
    pub(super) manifest: Manifest,
    /// The manifest as it came.
    pub(super) bytes: Vec<u8>,
}

enum Document {
    Manifest(Manifest),
    Index(Vec<Entry>),
}

struct Entry {
    digest: Digest,
    platform: Option<Platform>,
    /// Whether it says that it is an index in turn.
    is_index: bool,
}

/// Which of the documents it is. One with the parts of both could be read differently by others
/// and is refused.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// How deep indexes of indexes go.
const MAX_DEPTH: u32 = 4;

/// The manifest of the image for `wanted` that the source's reference names.
pub(super) async fn resolve(
    source: &dyn Registry,
    wanted: &Platform,
    limits: &TransferLimits,
) -> Result<Resolved, Reason> {
    let bytes = source.manifest(None).await?;
    follow(source, bytes, wanted, limits).await
}

/// The digests of the images that the source's reference names: for `wanted`, and where it names an
/// index, for those of `others` that are in it.
pub(super) async fn resolve_all(
    source: &dyn Registry,
    wanted: &Platform,
    others: &[Platform],
    limits: &TransferLimits,
) -> Result<BTreeMap<Platform, Digest>, Reason> {
    let bytes = source.manifest(None).await?;
    let own = Digest::of(&bytes);
    let entries = match parse(&bytes, limits).map_err(|problem| document(&own, problem))? {
        Document::Manifest(_) => return Ok(BTreeMap::from([(wanted.clone(), own)])),
        Document::Index(entries) => entries,
    };
    let mut digests = BTreeMap::new();
    let others = others.iter().filter(|other| *other != wanted);
    for platform in std::iter::once(wanted).chain(others) {
        let entry = match choose(&entries, platform) {
            Err(Reason::NoPlatform { .. }) if platform != wanted => continue,
            entry => entry?,
        };
        let digest = if entry.is_index || entry.platform.is_none() {
            match follow(source, bytes.clone(), platform, limits).await {
                Err(Reason::NoPlatform { .. }) if platform != wanted => continue,
                resolved => resolved?.digest,
            }
        } else {
            entry.digest.clone()
        };
        digests.insert(platform.clone(), digest);
    }
    Ok(digests)
}

/// The manifest of the image for `wanted` in the document `bytes`.
async fn follow(
    source: &dyn Registry,
    mut bytes: Vec<u8>,
    wanted: &Platform,
    limits: &TransferLimits,
) -> Result<Resolved, Reason> {
    for _ in 0..MAX_DEPTH {
        let own = Digest::of(&bytes);
        match parse(&bytes, limits).map_err(|problem| document(&own, problem))? {
            Document::Manifest(manifest) => {
                return Ok(Resolved { digest: own, manifest, bytes });
            }
            Document::Index(entries) => {
                let digest = choose(&entries, wanted)?.digest.clone();
                bytes = source.manifest(Some(&digest)).await?;
            }
        }
    }
    Err(document(&Digest::of(&bytes), "indexes nest too deep".to_owned()))
}

/// The layers that a stored manifest names, lowest first; none where it makes no sense.
pub(super) fn layers(manifest: &[u8]) -> Vec<Descriptor> {
    match parse(manifest, &TransferLimits::default()) {
        Ok(Document::Manifest(manifest)) => manifest.layers,
        Ok(Document::Index(_)) | Err(_) => Vec::new(),
    }
}

fn document(digest: &Digest, problem: String) -> Reason {
    Reason::Document { what: format!("manifest {digest}"), problem }
}

fn choose<'a>(entries: &'a [Entry], wanted: &Platform) -> Result<&'a Entry, Reason> {
    let offered = entries.iter().filter_map(|entry| Some((entry, entry.platform.as_ref()?)));
    if let Some(index) = wanted.choose(offered.clone().map(|(_, platform)| platform))
        && let Some((entry, _)) = offered.clone().nth(index)
    {
        return Ok(entry);
    }
    // A sole image without a platform: its configuration says what it is for.
    if let [entry @ Entry { platform: None, .. }] = entries {
        return Ok(entry);
    }
    let offered = offered.map(|(_, platform)| printable(&platform.to_string())).collect();
    Err(Reason::NoPlatform { wanted: wanted.to_string(), offered })
}

fn parse(bytes: &[u8], limits: &TransferLimits) -> Result<Document, String> {
    let wrong = |error: serde_json::Error| {
        format!("not an image manifest: {}", printable(&error.to_string()))
    };
    let shape: Shape = serde_json::from_slice(bytes).map_err(wrong)?;
    if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
        return Err("a manifest of schema version 1, which is obsolete".to_owned());
    }
    if shape.schema_version != Some(2) {
        return Err("`schemaVersion` is not 2".to_owned());
    }
    match (shape.manifests, shape.config.is_some() || shape.layers.is_some()) {
        (Some(_), true) => Err("both an index and a manifest".to_owned()),
        (Some(_), false) => index(&serde_json::from_slice(bytes).map_err(wrong)?, limits),
        (None, _) => manifest(&serde_json::from_slice(bytes).map_err(wrong)?, limits),
    }
}

fn index(index: &OciImageIndex, limits: &TransferLimits) -> Result<Document, String> {
    check_media_type(
        index.media_type.as_deref(),
        &[
            oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE,
            oci_client::manifest::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
        ],
    )?;
    if index.manifests.len() > limits.index_entries {
        return Err(format!("more than {} images", limits.index_entries));
    }
    index.manifests.iter().map(entry).collect::<Result<_, _>>().map(Document::Index)
}

fn entry(entry: &ImageIndexEntry) -> Result<Entry, String> {
    let digest = entry.digest.parse().map_err(|error| format!("a digest is wrong: {error}"))?;
    let platform = entry.platform.as_ref().map(|platform| Platform {
        os: platform.os.to_string().to_ascii_lowercase(),
        architecture: canonical_architecture(&platform.architecture.to_string()).to_owned(),
        variant: platform.variant.clone().filter(|variant| !variant.is_empty()),
    });
    let is_index = [
        oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE,
        oci_client::manifest::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    ]
    .contains(&entry.media_type.as_str());
    Ok(Entry { digest, platform, is_index })
}

fn manifest(manifest: &OciImageManifest, limits: &TransferLimits) -> Result<Document, String> {
    check_media_type(
        manifest.media_type.as_deref(),
        &[
            oci_client::manifest::OCI_IMAGE_MEDIA_TYPE,
            oci_client::manifest::IMAGE_MANIFEST_MEDIA_TYPE,
        ],
    )?;
    check_media_type(
        Some(&manifest.config.media_type),
        &[
            oci_client::manifest::IMAGE_CONFIG_MEDIA_TYPE,
            oci_client::manifest::IMAGE_DOCKER_CONFIG_MEDIA_TYPE,
        ],
    )
    .map_err(|problem| format!("{problem} as its configuration: not an image"))?;
    if manifest.layers.len() > limits.layers {
        return Err(format!("more than {} layers", limits.layers));
    }
    let config = descriptor(&manifest.config, "configuration", limits.config_bytes)?;
    let layers = manifest
        .layers
        .iter()
        .map(|layer| {
            if !is_layer(&layer.media_type) {
                let media_type = printable(&layer.media_type);
                return Err(format!("`{media_type}` is not a kind of layer that is known"));
            }
            descriptor(layer, "layer", limits.layer_bytes)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let total = layers.iter().map(|layer| layer.size_bytes).fold(0, u64::saturating_add);
    if total > limits.image_bytes {
        return Err(format!("the layers have more than {} bytes", limits.image_bytes));
    }
    Ok(Document::Manifest(Manifest { config, layers }))
}

fn check_media_type(found: Option<&str>, known: &[&str]) -> Result<(), String> {
    match found {
        Some(found) if !found.is_empty() && !known.contains(&found) => {
            Err(format!("it says it is `{}`", printable(found)))
        }
        Some(_) | None => Ok(()),
    }
}

/// Layers are tar archives; how one is compressed is read off its first bytes.
fn is_layer(media_type: &str) -> bool {
    ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."]
        .iter()
        .any(|prefix| media_type.starts_with(prefix))
        && ["tar", "tar+gzip", "tar.gzip", "tar+zstd", "tar.zstd"]
            .iter()
            .any(|end| media_type.strip_suffix(end).is_some_and(|rest| rest.ends_with('.')))
}

fn descriptor(raw: &OciDescriptor, kind: &str, limit: u64) -> Result<Descriptor, String> {
    let digest: Digest =
        raw.digest.parse().map_err(|error| format!("the digest of a {kind} is wrong: {error}"))?;
    let size_bytes = u64::try_from(raw.size).map_err(|_| format!("a {kind} of negative size"))?;
    if size_bytes > limit {
        return Err(format!("a {kind} of {size_bytes} bytes, more than the {limit} accepted"));
    }
    let what = format!("{kind} {digest}");
    Ok(Descriptor { digest, size_bytes, what })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, want: &Expect) {
        want.assert_eq(&match parse(text.as_bytes(), &TransferLimits::default()) {
            Ok(Document::Manifest(manifest)) => format!("{} layers", manifest.layers.len()),
            Ok(Document::Index(entries)) => format!("{} images", entries.len()),
            Err(problem) => problem,
        });
    }

    fn image(layer_type: &str, size: &str) -> String {
        let digest = Digest::of(b"");
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":2}},
            "layers":[{{"mediaType":"{layer_type}","digest":"{digest}","size":{size}}}]}}"#
        )
    }

    #[test]
    fn documents() {
        check(&image("application/vnd.oci.image.layer.v1.tar+zstd", "1"), &expect!["1 layers"]);
        check(
            &image("application/vnd.docker.image.rootfs.diff.tar.gzip", "0"),
            &expect!["1 layers"],
        );
        check(
            &image("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "1"),
            &expect![
                "`application/vnd.oci.image.layer.v1.tar+gzip+encrypted` is not a kind of layer that is known"
            ],
        );
        check(
            &image("application/vnd.oci.image.layer.v1.tar", "-1"),
            &expect!["a layer of negative size"],
        );
        check(
            &image("application/vnd.oci.image.layer.v1.tar", "999999999999999"),
            &expect!["a layer of 999999999999999 bytes, more than the 17179869184 accepted"],
        );
        check(r#"{"schemaVersion":2,"manifests":[]}"#, &expect!["0 images"]);
        check(
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
            &expect!["both an index and a manifest"],
        );
        check(
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            &expect!["a manifest of schema version 1, which is obsolete"],
        );
        check("<html>", &expect!["not an image manifest: expected value at line 1 column 1"]);
        check("{}", &expect!["`schemaVersion` is not 2"]);
        check(
            r#"{"schemaVersion":2,"mediaType":"text/x","manifests":[]}"#,
            &expect!["it says it is `text/x`"],
        );
    }
}
