//! What a pull tells while it works; the command line draws it.

use super::digest::Digest;

/// Takes the events of one pull, from several threads. Must not block.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: ProgressEvent<'_>);
}

/// What happened. `layer` counts from 0, lowest layer first.
#[derive(Clone, Debug)]
pub enum ProgressEvent<'a> {
    /// The source is asked which image the reference names.
    Resolving,
    /// Another process makes the same image; this one waits for it.
    Waiting,
    /// The image is known, and what it consists of.
    Resolved {
        /// The manifest's digest.
        digest: &'a Digest,
        /// The layers, lowest first.
        layers: &'a [LayerInfo],
    },
    /// `bytes` of the compressed layer are here, counted from its start: after a resumed
    /// download the first event does not start at 0, after a failed one it may go back.
    Downloading {
        /// Which layer.
        layer: usize,
        /// How much is here, of [`LayerInfo::size_bytes`].
        bytes: u64,
    },
    /// The connection broke; the download continues where it stopped.
    Retrying {
        /// Which layer.
        layer: usize,
        /// Counts from 1.
        attempt: u32,
    },
    /// The layer is here and its digest is right.
    Downloaded {
        /// Which layer.
        layer: usize,
    },
    /// `bytes` of the compressed layer went into the image.
    Building {
        /// Which layer.
        layer: usize,
        /// How much, of [`LayerInfo::size_bytes`].
        bytes: u64,
    },
    /// `bytes` of the files of a directory went into the image, of `total`.
    Reading {
        /// How much.
        bytes: u64,
        /// Of how much.
        total: u64,
    },
    /// The layer is in the image and its diff id is right.
    Built {
        /// Which layer.
        layer: usize,
    },
    /// The image has its final name.
    Done {
        /// Size of the bootable file in bytes.
        size_bytes: u64,
        /// Whether nothing had to be downloaded.
        cached: bool,
    },
}

/// A layer as the manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Digest of the compressed layer.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// Takes events and does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn event(&self, _event: ProgressEvent<'_>) {}
}
