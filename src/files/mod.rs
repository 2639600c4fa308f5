//! The file server: what a guest sees of host directories and files.
//!
//! ```text
//! guest                                            host
//! kernel ─▶ /dev/fuse ─▶ agent ─▶ port `files` ─▶ VM process ─▶ socket ─▶ msb __files ─▶ shares
//! ```
//!
//! The agent passes FUSE messages on as they are; the server is a process of its own that holds the
//! shares and nothing else. Everything that arrives is hostile.

mod config;

pub use config::{Share, ShareKind};
