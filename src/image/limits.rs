//! Everything from a registry is hostile input with a limit.

use std::time::Duration;

/// Bounds of one pull. [`TransferLimits::default`] is what the product uses.
#[derive(Clone, Debug)]
pub struct TransferLimits {
    /// The largest manifest or index, in bytes. The specification asks for at least 4 MiB.
    pub manifest_bytes: u64,
    /// The largest image configuration, in bytes.
    pub config_bytes: u64,
    /// The most images of an index.
    pub index_entries: usize,
    /// The most layers of an image.
    pub layers: usize,
    /// The largest compressed layer, in bytes.
    pub layer_bytes: u64,
    /// The largest sum of compressed layers, in bytes.
    pub image_bytes: u64,
    /// The largest sum of unpacked layers, in bytes: where a decompression bomb ends.
    pub unpacked_bytes: u64,
    /// The most layers downloaded at a time.
    pub parallel_downloads: usize,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long an answer, or [`TransferLimits::idle_bytes`] of a body, may take. There is no
    /// limit on the whole: a large image on a slow line must arrive.
    pub idle_timeout: Duration,
    /// What must arrive within [`TransferLimits::idle_timeout`] for a body not to count as stalled.
    pub idle_bytes: u64,
    /// How often one request is sent, with what it already has, before it counts as failed.
    pub attempts: u32,
    /// Wait before the second attempt; doubled for each further one.
    pub backoff: Duration,
    /// The most redirects that one request follows.
    pub redirects: u32,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Default for TransferLimits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 * MIB,
            config_bytes: 8 * MIB,
            index_entries: 1_000,
            layers: 512,
            layer_bytes: 16 * GIB,
            image_bytes: 32 * GIB,
            unpacked_bytes: 64 * GIB,
            parallel_downloads: 4,
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            idle_bytes: KIB,
            attempts: 5,
            backoff: Duration::from_millis(250),
            redirects: 5,
        }
    }
}

/// The largest answer of a token endpoint, in bytes.
pub(super) const TOKEN_BYTES: u64 = MIB;
/// The largest error body that is read for its message, in bytes.
pub(super) const ERROR_BODY_BYTES: u64 = 64 * KIB;
/// The longest wait that a server may ask for with `Retry-After`.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(20);
/// The largest output of a credential helper or password command, in bytes.
pub(super) const COMMAND_OUTPUT_BYTES: u64 = 64 * KIB;
/// How long a credential helper or password command may run.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest Docker credential configuration, in bytes.
pub(super) const DOCKER_CONFIG_BYTES: u64 = 4 * MIB;
/// The most members of an image archive.
pub(super) const ARCHIVE_MEMBERS: usize = 20_000;
