//! Images: resolve a reference to content named by digest, and make it bootable.
#![allow(clippy::disallowed_methods, reason = "this module reads and writes the image cache")]
#![allow(dead_code, reason = "the transport follows")]

mod auth;
pub mod build;
mod cache;
mod config;
mod digest;
pub mod erofs;
mod error;
pub mod layer;
mod limits;
mod platform;
mod progress;
mod reference;
mod rows;

pub use auth::{AuthError, RegistryAccess};
pub use cache::{ImageCache, ImageRecord};
pub use config::ImageConfig;
pub use digest::{Digest, InvalidDigest};
pub use error::{ImageError, Reason, TransportError};
pub use limits::TransferLimits;
pub use platform::{InvalidPlatform, Platform};
pub use progress::{LayerInfo, NoProgress, Progress, ProgressEvent};
pub use reference::{ImageRef, InvalidReference};
pub use rows::{ImageRows, MemoryRows, SourceKey};
