//! Compose for microVMs: a Sandboxfile declares sandboxes, `msb up` makes the machine match it.
//!
//! `docs/architecture.md` draws the layers; a test holds the imports against it.

pub mod cli;
pub mod client;
pub mod files;
pub mod home;
pub mod image;
pub mod manifest;
pub mod plan;
pub mod reconcile;
pub mod rootfs;
pub mod runtime;
pub mod spec;
pub mod store;
pub mod supervisor;
