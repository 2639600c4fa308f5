//! Why an image cannot be had, and what helps.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::auth::{AuthError, host_of, is_loopback};
use super::digest::Digest;
use super::platform::InvalidPlatform;
use super::reference::InvalidReference;
use crate::store::StoreError;

/// An image that could not be had: which one, and why.
#[derive(Debug)]
pub struct ImageError {
    /// The image as the user wrote it.
    pub image: String,
    /// What went wrong.
    pub reason: Box<Reason>,
}

/// What went wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The reference has no valid form.
    #[error("{0}")]
    Reference(InvalidReference),
    /// The platform has no valid form.
    #[error("{0}")]
    Platform(InvalidPlatform),
    /// This kind of source is not an OCI image.
    #[error("{0} is not an OCI image")]
    NotAnImage(&'static str),
    /// The directory has no `oci-layout` and `index.json`.
    #[error("not an OCI image layout (`oci-layout` and `index.json` are missing)")]
    NotALayout(PathBuf),
    /// The Sandboxfile names a directory or an archive that is not there.
    #[error("there is no such file or directory")]
    NoSuchPath(PathBuf),
    /// The archive is of no known form.
    #[error("{path}: not an image archive: {problem}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Several images, or none of that name.
    #[error("{path}: {problem}; it holds {}", list(available))]
    Selection {
        /// The layout or archive.
        path: PathBuf,
        /// What was asked for.
        problem: String,
        /// The tags that exist.
        available: Vec<String>,
    },
    /// The pull policy forbids asking the registry.
    #[error("not in the cache, and the pull policy is `never`")]
    NotCached,
    /// The index has no image for the platform.
    #[error("there is no image for {wanted}, only for {}", list(offered))]
    NoPlatform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// The image is for another platform than asked for.
    #[error("the image is for {image}, not for {wanted}")]
    OtherPlatform {
        /// The image's.
        image: String,
        /// What was asked for.
        wanted: String,
    },
    /// `insecure` with a registry elsewhere.
    #[error("{registry}: `insecure` is for registries on loopback addresses only")]
    InsecureNotLoopback {
        /// The registry.
        registry: String,
    },
    /// Credentials could not be read.
    #[error("the credentials for {registry} cannot be read")]
    Credentials {
        /// The registry.
        registry: String,
        /// Why.
        source: AuthError,
    },
    /// The registry refused the credentials, or there are none.
    #[error("{registry}: access denied with {credentials}{}", detail(message))]
    Denied {
        /// The registry.
        registry: String,
        /// Where the credentials came from, in words.
        credentials: String,
        /// What the registry said.
        message: String,
    },
    /// The registry asks for a kind of authentication that is not known.
    #[error("{registry}: the authentication challenge makes no sense: {problem}")]
    Challenge {
        /// The registry.
        registry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No such manifest or blob.
    #[error("{registry}: {what} not found{}", detail(message))]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What the registry said.
        message: String,
    },
    /// Another status than success.
    #[error("{registry}: {what}: the registry answered {status}{}", detail(message))]
    Status {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said.
        message: String,
    },
    /// No connection, or it broke.
    #[error("{registry}: {what}: the connection failed")]
    Transport {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// Why.
        source: TransportError,
    },
    /// Too little came for too long.
    #[error("{registry}: {what}: stalled, less than {idle_bytes} bytes in {secs} s")]
    Stalled {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What should have come.
        idle_bytes: u64,
        /// In how many seconds.
        secs: u64,
    },
    /// A redirect that is not followed.
    #[error("{registry}: {what}: the redirect to {target} is refused: {problem}")]
    Redirect {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// Where to: scheme, host and port, without path and query (they may hold signatures).
        target: String,
        /// Why not.
        problem: &'static str,
    },
    /// More bytes than announced or allowed.
    #[error("{what} is larger than {limit_bytes} bytes, {whose}")]
    TooLarge {
        /// What was read.
        what: String,
        /// Where reading stopped.
        limit_bytes: u64,
        /// Whose limit that is: "the size in its manifest" or "the most that is accepted".
        whose: &'static str,
    },
    /// Fewer bytes than announced.
    #[error("{what} ends after {got_bytes} bytes; its manifest says {expected_bytes}")]
    Truncated {
        /// What was read.
        what: String,
        /// What was announced.
        expected_bytes: u64,
        /// What came.
        got_bytes: u64,
    },
    /// The content is not what its name says.
    #[error("{what} has other content than its digest says: got {got}")]
    DigestMismatch {
        /// What was read, with its digest.
        what: String,
        /// The digest of what came.
        got: Digest,
    },
    /// A manifest, index or configuration that makes no sense.
    #[error("{what}: {problem}")]
    Document {
        /// Which document, with its digest.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The unpacked layer is not what the configuration says.
    #[error("layer {layer} unpacks to other content than the image says: {got}, not {expected}")]
    DiffIdMismatch {
        /// The compressed layer.
        layer: Digest,
        /// The configuration's diff id.
        expected: Digest,
        /// What came out.
        got: Digest,
    },
    /// The layer cannot be decompressed.
    #[error("layer {layer} cannot be unpacked")]
    Decompress {
        /// The compressed layer.
        layer: Digest,
        /// Why.
        source: io::Error,
    },
    /// The layers unpack to more than is accepted.
    #[error("layer {layer} is refused: the image unpacks to more than {limit_bytes} bytes")]
    Unpacked {
        /// The layer that went over.
        layer: Digest,
        /// The limit.
        limit_bytes: u64,
    },
    /// Something about a disk image.
    #[error("{path}: {problem}")]
    Disk {
        /// Which file of it.
        path: PathBuf,
        /// What.
        problem: String,
    },
    /// Something about a directory whose files are the image.
    #[error("{path}: {problem}")]
    Tree {
        /// Where in it.
        path: PathBuf,
        /// What.
        problem: &'static str,
    },
    /// The bootable image cannot be made from the layers.
    #[error("the image cannot be built from its layers")]
    Build {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the state directory, or of the layout or archive.
    #[error("{path}: {what}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database.
    #[error("the image table cannot be used")]
    Rows {
        /// Why.
        source: StoreError,
    },
    /// A blob comes from its start again, when some of it has been unpacked.
    #[error("{what}: the registry begins it again and again")]
    StartedOver {
        /// Which blob.
        what: String,
    },
    /// A thread of this process ended early.
    #[error("the work was cancelled")]
    Cancelled,
}

impl Reason {
    /// Whether nothing that came is of use to another try: the image is wrong, or there is no room.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::DigestMismatch { .. }
            | Self::DiffIdMismatch { .. }
            | Self::Truncated { .. }
            | Self::TooLarge { .. }
            | Self::Document { .. }
            | Self::Decompress { .. }
            | Self::Unpacked { .. }
            | Self::Build { .. } => true,
            Self::File { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// An error of the HTTP client.
#[derive(Debug)]
pub struct TransportError(reqwest::Error);

impl TransportError {
    /// Takes the address out: what was asked for stands in the error around it, and addresses of
    /// redirects hold signatures.
    pub(super) fn new(error: reqwest::Error) -> Self {
        Self(error.without_url())
    }

    /// Whether there was no connection at all.
    pub(super) fn is_connect(&self) -> bool {
        self.0.is_connect()
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_timeout() {
            return f.write_str("no answer in time");
        }
        // The innermost error says it best ("connection refused").
        let mut inner: &dyn std::error::Error = &self.0;
        while let Some(source) = inner.source() {
            inner = source;
        }
        write!(f, "{inner}")
    }
}

impl std::error::Error for TransportError {}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image {}: {}", self.image, self.reason)
    }
}

impl std::error::Error for ImageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.reason)
    }
}

impl ImageError {
    pub(super) fn new(image: impl fmt::Display, reason: Reason) -> Self {
        Self { image: image.to_string(), reason: Box::new(reason) }
    }

    /// What the user can do, where that is known: one sentence for the help line.
    pub fn help(&self) -> Option<String> {
        Some(match &*self.reason {
            Reason::Reference(_) => {
                "write it as [registry/]name[:tag][@sha256:…], for instance `python:3.12`".into()
            }
            Reason::Platform(_) | Reason::NoPlatform { .. } | Reason::OtherPlatform { .. } => {
                "set `platform` of the image to one that exists and that this machine runs".into()
            }
            Reason::NotCached => "use `pull_policy = \"if-missing\"`, or pull it first".into(),
            Reason::Selection { .. } => "choose one with a `#tag` at the end of the path".into(),
            Reason::InsecureNotLoopback { .. } => {
                "give the registry a TLS certificate, or reach it through a tunnel on 127.0.0.1"
                    .into()
            }
            Reason::Denied { registry, .. } => format!(
                "set `username` and `password` in [registry.\"{registry}\"], or run `docker login {registry}`"
            ),
            Reason::Credentials { registry, .. } => {
                format!(
                    "check `password` in [registry.\"{registry}\"] or the Docker credential configuration"
                )
            }
            Reason::NotFound { .. } => {
                "check the spelling of the name and tag; private images need credentials".into()
            }
            Reason::Transport { registry, source, .. }
                if source.is_connect() && is_loopback(host_of(registry)) =>
            {
                format!(
                    "does it run? if it speaks plain HTTP, set `insecure = true` in [registry.\"{registry}\"]"
                )
            }
            Reason::Transport { .. }
            | Reason::Stalled { .. }
            | Reason::StartedOver { .. } => {
                "check the network and run it again: what has arrived is kept".into()
            }
            Reason::Status { status, .. } if *status == 429 || *status >= 500 => {
                "the registry is overloaded or broken: try again later".into()
            }
            Reason::DigestMismatch { .. }
            | Reason::DiffIdMismatch { .. }
            | Reason::Truncated { .. }
            | Reason::TooLarge { .. }
            | Reason::Document { .. }
            | Reason::Decompress { .. }
            | Reason::Redirect { .. } => {
                "the image or the registry is broken or hostile; nothing of it was kept".into()
            }
            Reason::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "make room on that file system and run it again; `msb df` shows what msb keeps".into()
            }
            Reason::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "who runs msb must be allowed to read every file of an image".into()
            }
            Reason::NoSuchPath(_) => {
                "relative paths start at the directory of the Sandboxfile; write `image = \"name:tag\"` \
                 for an image of a registry"
                    .into()
            }
            Reason::NotALayout(_) => {
                "`skopeo copy docker://… oci:DIR:TAG` makes one; a `#tag` is for layouts, and a \
                 root file system is a directory"
                    .into()
            }
            Reason::Tree { .. } => {
                "nothing was made of the directory; leave it alone while it is read, and try again"
                    .into()
            }
            Reason::NotAnImage(_)
            | Reason::Disk { .. }
            | Reason::Archive { .. }
            | Reason::Challenge { .. }
            | Reason::Status { .. }
            | Reason::Unpacked { .. }
            | Reason::Build { .. }
            | Reason::File { .. }
            | Reason::Rows { .. }
            | Reason::Cancelled => return None,
        })
    }
}

impl From<InvalidReference> for Reason {
    fn from(error: InvalidReference) -> Self {
        Self::Reference(error)
    }
}

impl From<InvalidPlatform> for Reason {
    fn from(error: InvalidPlatform) -> Self {
        Self::Platform(error)
    }
}

/// `": message"`, or nothing.
fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

const MAX_LISTED: usize = 12;

fn list(words: &[String]) -> String {
    if words.is_empty() {
        return "nothing".to_owned();
    }
    let mut text = words[..words.len().min(MAX_LISTED)].join(", ");
    if words.len() > MAX_LISTED {
        text.push_str(", …");
    }
    text
}

/// Makes untrusted text safe to print: one line, no control characters, bounded.
pub(super) fn printable(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    let clean: String =
        text.chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.trim().to_owned()
}
