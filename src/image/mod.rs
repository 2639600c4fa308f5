//! Images: resolve a reference to content named by digest, and make it bootable.
//!
//! ```text
//! reference ─▶ source (registry, layout directory, archive) ─▶ manifest ─▶ layers ─▶ one EROFS file
//!                                                  cache: rows in the store, files by digest
//! ```
//!
//! [`ImageCache`] is the way in: [`ImageCache::cached`] without network, [`ImageCache::ensure`]
//! under a pull policy, [`ImageCache::pull`] always asks. Whatever comes from a registry, a layout
//! or an archive is hostile: bounded by [`TransferLimits`] and checked against its digest before
//! it gets a name.
#![allow(clippy::disallowed_methods, reason = "this module reads and writes the image cache")]

mod auth;
pub mod build;
mod cache;
mod config;
mod digest;
mod disk;
mod download;
pub mod erofs;
mod error;
mod growing;
mod hold;
mod http;
mod inventory;
pub mod layer;
mod leftovers;
mod limits;
mod load;
mod local;
mod lock;
mod pins;
mod platform;
mod progress;
mod pull;
mod reference;
mod removal;
mod rows;
mod save;
mod source;
mod tree;
mod unpack;
mod wire;

pub use auth::{AuthError, Login, RegistryAccess};
pub use cache::{ImageCache, ImageRecord};
pub use config::ImageConfig;
pub use digest::{Digest, InvalidDigest};
pub use disk::DiskBytes;
pub use error::{ImageError, Reason, TransportError};
pub use inventory::{
    DiskUsage, FindError, StoredImage, StoredLayer, disk_usage, disk_usage_within, find, list,
    saving_bytes,
};
pub use limits::TransferLimits;
pub use load::{LoadSource, LoadedImage};
pub use pins::{Pins, PinsError, pinnable};
pub use platform::{InvalidPlatform, Platform};
pub use progress::{LayerInfo, NoProgress, Progress, ProgressEvent};
pub use reference::{ImageRef, InvalidReference};
pub use removal::{Prunable, PruneOptions, Pruned, RemoveError, prunable, prune, remove, untag};
pub use rows::{ImageRows, MemoryRows, SourceKey};
pub use save::{SaveError, ToSave, save};
