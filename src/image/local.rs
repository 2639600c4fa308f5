//! Images in files: OCI layout directories, the same in a tar archive, and what `docker save`
//! wrote before it used that layout.
//!
//! A path may end in `#tag` to choose one of several images. Nothing is unpacked: members of an
//! archive are read in place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use serde::Deserialize;
use serde_json::{Value, json};

use super::digest::Digest;
use super::error::{Reason, printable};
use super::limits::{ARCHIVE_MEMBERS, TransferLimits};
use super::reference::ImageRef;
use super::source::{Blob, FilePart, Registry};
use super::wire::Descriptor;

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
const DOCKER_MANIFEST: &str = "manifest.json";
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
pub(super) const FULL_NAME: &str = "io.containerd.image.name";
const MAX_LINKS: u32 = 8;

/// Where files are: a directory or an archive.
enum Files {
    Dir(PathBuf),
    Archive { path: PathBuf, file: Arc<File>, members: BTreeMap<String, Member> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Member {
    File { offset: u64, size_bytes: u64 },
    Link(String),
}

/// An image in files.
pub(super) struct LocalImage {
    files: Arc<Files>,
    limits: TransferLimits,
    top: Top,
}

/// One of the images in a place, for those who take all of them.
pub(super) struct Named {
    /// What messages call it.
    pub(super) label: String,
    /// What names it, where that is a whole reference.
    pub(super) reference: Option<ImageRef>,
    pub(super) image: LocalImage,
}

enum Top {
    /// The image or index of `index.json` that was chosen.
    Blob(Digest),
    /// Several that may be one image for several platforms.
    Index(Vec<u8>),
    /// A manifest made from a `manifest.json`, and where its blobs are.
    Made { manifest: Vec<u8>, blobs: BTreeMap<Digest, String> },
}

/// Splits `path#tag`, unless a file of the whole name exists.
pub(super) fn split_tag(text: &str) -> (&Path, Option<&str>) {
    match text.rsplit_once('#') {
        Some((path, tag)) if !tag.is_empty() && !Path::new(text).exists() => {
            (Path::new(path), Some(tag))
        }
        Some(_) | None => (Path::new(text), None),
    }
}

impl LocalImage {
    /// The image in the layout directory `text`.
    pub(super) fn in_dir(text: &str, limits: &TransferLimits) -> Result<Self, Reason> {
        let (root, tag) = split_tag(text);
        let files = Arc::new(Files::layout(root)?);
        let top = layout_top(&files, tag, limits)?;
        Ok(Self { files, limits: limits.clone(), top })
    }

    /// The image in the archive `text`.
    pub(super) fn in_archive(text: &str, limits: &TransferLimits) -> Result<Self, Reason> {
        let (path, tag) = split_tag(text);
        let files = Arc::new(Files::scan(path, open_archive(path)?)?);
        let top = match files.is_layout()? {
            true => layout_top(&files, tag, limits)?,
            false => docker_top(&files, tag, limits)?,
        };
        Ok(Self { files, limits: limits.clone(), top })
    }

    fn read_manifest(&self, digest: Option<&Digest>) -> Result<Vec<u8>, Reason> {
        let digest = match (digest, &self.top) {
            (Some(digest), _) | (None, Top::Blob(digest)) => digest,
            (None, Top::Index(bytes) | Top::Made { manifest: bytes, .. }) => {
                return Ok(bytes.clone());
            }
        };
        let what = format!("manifest {digest}");
        let bytes = self.files.read(&blob_path(digest), self.limits.manifest_bytes, &what)?;
        let got = Digest::of(&bytes);
        if got == *digest { Ok(bytes) } else { Err(Reason::DigestMismatch { what, got }) }
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Blob, Reason> {
        let path = match &self.top {
            Top::Made { blobs, .. } => blobs.get(&blob.digest).cloned(),
            Top::Blob(_) | Top::Index(_) => None,
        };
        let path = path.unwrap_or_else(|| blob_path(&blob.digest));
        let part = self.files.open(&path)?.ok_or_else(|| self.files.missing(&path))?;
        if part.size_bytes < blob.size_bytes {
            return Err(Reason::Truncated {
                what: blob.what.clone(),
                expected_bytes: blob.size_bytes,
                got_bytes: part.size_bytes,
            });
        }
        if part.size_bytes > blob.size_bytes {
            return Err(super::http::too_large(&blob.what, blob.size_bytes));
        }
        Ok(Blob::File(part))
    }
}

impl Registry for LocalImage {
    fn manifest<'a>(
        &'a self,
        digest: Option<&'a Digest>,
    ) -> BoxFuture<'a, Result<Vec<u8>, Reason>> {
        ready(self.read_manifest(digest)).boxed()
    }

    fn blob<'a>(&'a self, blob: &'a Descriptor, _from: u64) -> BoxFuture<'a, Result<Blob, Reason>> {
        ready(self.open_blob(blob)).boxed()
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Whether a directory is an image layout.
pub(super) fn is_layout(root: &Path) -> bool {
    [MARKER, INDEX].iter().all(|name| root.join(name).is_file())
}

/// All images of a layout directory, or those with a tag.
pub(super) fn all_in_dir(
    root: &Path,
    tag: Option<&str>,
    limits: &TransferLimits,
) -> Result<Vec<Named>, Reason> {
    all_in_layout(&Arc::new(Files::layout(root)?), tag, limits)
}

/// All images of an archive, or those with a tag. `path` is what messages call it.
pub(super) fn in_archive_file(
    path: &Path,
    file: File,
    tag: Option<&str>,
    limits: &TransferLimits,
) -> Result<Vec<Named>, Reason> {
    let files = Arc::new(Files::scan(path, file)?);
    if files.is_layout()? {
        return all_in_layout(&files, tag, limits);
    }
    let saved = docker_images(&files, limits)?;
    let mut all = Vec::new();
    for image in &saved {
        let names = image.names().iter().filter(|name| tag.is_none_or(|tag| is_tag(name, tag)));
        let mut names: Vec<Option<&String>> = names.map(Some).collect();
        if names.is_empty() && tag.is_none() {
            names.push(None);
        }
        for name in names {
            let top = docker_image(&files, image, limits)?;
            all.push(named(&files, name.cloned(), top, limits));
        }
    }
    if all.is_empty() {
        return Err(files.nothing(tag, &docker_names(&saved)));
    }
    Ok(all)
}

fn all_in_layout(
    files: &Arc<Files>,
    tag: Option<&str>,
    limits: &TransferLimits,
) -> Result<Vec<Named>, Reason> {
    let entries = layout_entries(files, limits)?;
    let mut groups: BTreeMap<Option<String>, Vec<&Value>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| tag.is_none_or(|tag| has_tag(entry, tag))) {
        groups.entry(full_name(entry)).or_default().push(entry);
    }
    if groups.is_empty() {
        return Err(files.nothing(tag, &layout_names(&entries)));
    }
    let groups = groups.into_iter();
    groups.map(|(name, entries)| Ok(named(files, name, top_of(&entries)?, limits))).collect()
}

/// A name of a place is a reference where it is more than a tag.
fn named(files: &Arc<Files>, name: Option<String>, top: Top, limits: &TransferLimits) -> Named {
    let label = name.as_deref().map_or_else(|| files.path().display().to_string(), printable);
    let whole = name.filter(|name| name.contains(['/', ':', '@']));
    let reference = whole.and_then(|name| name.parse().ok());
    Named {
        label,
        reference,
        image: LocalImage { files: files.clone(), limits: limits.clone(), top },
    }
}

fn annotation(entry: &Value, key: &str) -> Option<String> {
    entry["annotations"][key].as_str().map(str::to_owned)
}

fn full_name(entry: &Value) -> Option<String> {
    annotation(entry, FULL_NAME).or_else(|| annotation(entry, REF_NAME))
}

fn has_tag(entry: &Value, tag: &str) -> bool {
    [REF_NAME, FULL_NAME].iter().any(|key| annotation(entry, key).is_some_and(|name| name == tag))
}

/// The names in an `index.json`, sorted.
fn layout_names(entries: &[Value]) -> Vec<String> {
    let names: BTreeSet<String> = entries.iter().filter_map(full_name).collect();
    names.into_iter().collect()
}

/// The entries of `index.json`.
fn layout_entries(files: &Files, limits: &TransferLimits) -> Result<Vec<Value>, Reason> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Value>,
    }
    let wrong = |problem: String| Reason::Document { what: INDEX.to_owned(), problem };
    let bytes = files.read(INDEX, limits.manifest_bytes, INDEX)?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    if index.manifests.len() > limits.index_entries {
        return Err(wrong(format!("more than {} images", limits.index_entries)));
    }
    Ok(index.manifests)
}

/// Chooses from `index.json`.
fn layout_top(files: &Files, tag: Option<&str>, limits: &TransferLimits) -> Result<Top, Reason> {
    let entries = layout_entries(files, limits)?;
    let names = layout_names(&entries);
    if tag.is_none() && names.len() > 1 {
        return Err(files.selection("it holds several images".to_owned(), &names));
    }
    let chosen: Vec<&Value> =
        entries.iter().filter(|entry| tag.is_none_or(|tag| has_tag(entry, tag))).collect();
    if chosen.is_empty() {
        return Err(files.nothing(tag, &names));
    }
    top_of(&chosen)
}

/// What entries of one name mean together.
fn top_of(entries: &[&Value]) -> Result<Top, Reason> {
    if let [entry] = entries {
        let digest = entry["digest"].as_str().unwrap_or_default();
        return digest.parse().map(Top::Blob).map_err(|error| Reason::Document {
            what: INDEX.to_owned(),
            problem: format!("a digest is wrong: {error}"),
        });
    }
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    Ok(Top::Index(index.to_string().into_bytes()))
}

/// An image as `docker save` described it before it used the layout.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Saved {
    fn names(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

fn docker_names(images: &[Saved]) -> Vec<String> {
    images.iter().flat_map(Saved::names).cloned().collect()
}

fn is_tag(name: &str, tag: &str) -> bool {
    name == tag || name.rsplit_once(':').is_some_and(|name| name.1 == tag)
}

/// The images of `manifest.json`.
fn docker_images(files: &Files, limits: &TransferLimits) -> Result<Vec<Saved>, Reason> {
    let wrong = |problem: String| Reason::Document { what: DOCKER_MANIFEST.to_owned(), problem };
    let bytes = files.read(DOCKER_MANIFEST, limits.manifest_bytes, DOCKER_MANIFEST)?;
    let images: Vec<Saved> = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    if images.len() > limits.index_entries {
        return Err(wrong(format!("more than {} images", limits.index_entries)));
    }
    Ok(images)
}

/// Chooses from `manifest.json`.
fn docker_top(files: &Files, tag: Option<&str>, limits: &TransferLimits) -> Result<Top, Reason> {
    let images = docker_images(files, limits)?;
    let names = docker_names(&images);
    let image = match (tag, &images[..]) {
        (None, [image]) => image,
        (None, _) => {
            let problem = format!("it holds {} images", images.len());
            return Err(files.selection(problem, &names));
        }
        (Some(tag), all) => all
            .iter()
            .find(|image| image.names().iter().any(|name| is_tag(name, tag)))
            .ok_or_else(|| files.nothing(Some(tag), &names))?,
    };
    docker_image(files, image, limits)
}

/// Makes a manifest of what `docker save` wrote. Its layers are plain tar archives, so their digests
/// are the diff ids.
fn docker_image(files: &Files, image: &Saved, limits: &TransferLimits) -> Result<Top, Reason> {
    let wrong = |problem: String| Reason::Document { what: DOCKER_MANIFEST.to_owned(), problem };
    let config = files.read(&image.config, limits.config_bytes, "the image configuration")?;
    let diff_ids = super::config::parse(&config).map_err(wrong)?.diff_ids;
    if diff_ids.len() != image.layers.len() {
        return Err(wrong("it has another number of layers than the configuration".to_owned()));
    }
    let digest = Digest::of(&config);
    let mut blobs = BTreeMap::from([(digest.clone(), image.config.clone())]);
    let mut layers = Vec::new();
    for (diff_id, path) in diff_ids.into_iter().zip(&image.layers) {
        let size_bytes = files.open(path)?.ok_or_else(|| files.missing(path))?.size_bytes;
        layers.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": diff_id, "size": size_bytes,
        }));
        blobs.insert(diff_id, path.clone());
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": oci_client::manifest::OCI_IMAGE_MEDIA_TYPE,
        "config": {
            "mediaType": oci_client::manifest::IMAGE_CONFIG_MEDIA_TYPE,
            "digest": digest, "size": config.len(),
        },
        "layers": layers,
    });
    Ok(Top::Made { manifest: manifest.to_string().into_bytes(), blobs })
}

impl Files {
    /// A layout directory.
    fn layout(root: &Path) -> Result<Self, Reason> {
        let files = Self::Dir(root.to_owned());
        if files.open(MARKER)?.is_none() || files.open(INDEX)?.is_none() {
            return Err(match root.exists() {
                true => Reason::NotALayout(root.to_owned()),
                false => Reason::NoSuchPath(root.to_owned()),
            });
        }
        Ok(files)
    }

    /// Whether an archive holds a layout, else what `docker save` wrote. Archives of newer engines
    /// hold both; the layout is the one with verified digests.
    fn is_layout(&self) -> Result<bool, Reason> {
        if self.open(MARKER)?.is_some() && self.open(INDEX)?.is_some() {
            return Ok(true);
        }
        if self.open(DOCKER_MANIFEST)?.is_some() {
            return Ok(false);
        }
        let problem = "neither `index.json` nor `manifest.json` is in it".to_owned();
        Err(Reason::Archive { path: self.path().to_owned(), problem })
    }

    /// Notes where the members of an archive are.
    fn scan(path: &Path, file: File) -> Result<Self, Reason> {
        let wrong = |problem: String| Reason::Archive { path: path.to_owned(), problem };
        let mut magic = [0; 2];
        let got = std::os::unix::fs::FileExt::read_at(&file, &mut magic, 0);
        if got.is_ok_and(|n| n == 2) && magic == [0x1f, 0x8b] {
            return Err(wrong("it is compressed as a whole: decompress it first".to_owned()));
        }
        let mut members = BTreeMap::new();
        let bad = |error: io::Error| wrong(printable(&error.to_string()));
        let mut archive = tar::Archive::new(io::BufReader::new(&file));
        for (count, entry) in archive.entries_with_seek().map_err(bad)?.enumerate() {
            if count >= ARCHIVE_MEMBERS {
                return Err(wrong(format!("it has more than {ARCHIVE_MEMBERS} members")));
            }
            let entry = entry.map_err(bad)?;
            let Some(name) = utf8(&entry.path_bytes()) else { continue };
            let kind = entry.header().entry_type();
            let member = if kind.is_file() || kind.is_contiguous() {
                Member::File { offset: entry.raw_file_position(), size_bytes: entry.size() }
            } else if let Some(target) = entry.link_name_bytes().as_deref().and_then(utf8)
                && (kind.is_symlink() || kind.is_hard_link())
            {
                let base = if kind.is_symlink() { parent(&name) } else { "" };
                Member::Link(normal(&format!("{base}/{target}")))
            } else {
                continue;
            };
            members.insert(normal(&name), member);
        }
        drop(archive);
        Ok(Self::Archive { path: path.to_owned(), file: Arc::new(file), members })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Dir(path) | Self::Archive { path, .. } => path,
        }
    }

    /// The file of that relative name, if there is one.
    fn open(&self, name: &str) -> Result<Option<FilePart>, Reason> {
        match self {
            Self::Dir(root) => {
                let path = root.join(name);
                let fail = |source| file_error(&path, source);
                let Some(file) = open(&path).map_err(fail)? else { return Ok(None) };
                let size_bytes = file.metadata().map_err(fail)?.len();
                Ok(Some(FilePart { file: Arc::new(file), offset: 0, size_bytes }))
            }
            Self::Archive { file, members, .. } => {
                let mut name = normal(name);
                for _ in 0..MAX_LINKS {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Member::Link(target)) => name.clone_from(target),
                        Some(Member::File { offset, size_bytes }) => {
                            let file = Arc::clone(file);
                            let (offset, size_bytes) = (*offset, *size_bytes);
                            return Ok(Some(FilePart { file, offset, size_bytes }));
                        }
                    }
                }
                Ok(None)
            }
        }
    }

    fn read(&self, name: &str, limit: u64, what: &str) -> Result<Vec<u8>, Reason> {
        let part = self.open(name)?.ok_or_else(|| self.missing(name))?;
        if part.size_bytes > limit {
            let whose = "the most that is accepted";
            return Err(Reason::TooLarge { what: what.to_owned(), limit_bytes: limit, whose });
        }
        let mut bytes = Vec::new();
        part.reader()
            .read_to_end(&mut bytes)
            .map_err(|e| file_error(&self.path().join(name), e))?;
        Ok(bytes)
    }

    fn missing(&self, name: &str) -> Reason {
        file_error(&self.path().join(printable(name)), io::ErrorKind::NotFound.into())
    }

    /// None of those that are there was meant.
    fn nothing(&self, tag: Option<&str>, names: &[String]) -> Reason {
        let problem =
            tag.map_or_else(|| "it is empty".to_owned(), |tag| format!("there is no `{tag}`"));
        self.selection(problem, names)
    }

    fn selection(&self, problem: String, available: &[String]) -> Reason {
        let available = available.iter().map(|name| printable(name)).collect();
        Reason::Selection { path: self.path().to_owned(), problem: printable(&problem), available }
    }
}

/// Opens an archive.
pub(super) fn open_archive(path: &Path) -> Result<File, Reason> {
    open(path)
        .and_then(|file| file.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(|source| file_error(path, source))
}

/// Opens a regular file; `None` when there is nothing. Never waits for the writer of a pipe.
fn open(path: &Path) -> io::Result<Option<File>> {
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn file_error(path: &Path, source: io::Error) -> Reason {
    Reason::File { what: "cannot be read", path: path.to_owned(), source }
}

fn utf8(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Resolves `.` and `..` within the archive; a name never leaves it, being only a key.
fn normal(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
