//! The file server: what a guest sees of host directories and files.
//!
//! ```text
//! guest                                            host
//! kernel ─▶ /dev/fuse ─▶ agent ─▶ port `files` ─▶ VM process ─▶ socket ─▶ msb __files ─▶ shares
//! ```
//!
//! The agent passes FUSE messages on as they are; the server is a process of its own that holds the
//! shares and nothing else. Everything that arrives is hostile.
//!
//! # The stream
//!
//! [`spawn`] takes one end of a stream, [`crate::runtime`] gives the VM the other. From the guest
//! come a [`msb_protocol::FilesPreamble`] and FUSE requests; replies go back. Each message begins
//! with its length, is at least 40 (requests) or 16 (replies) and at most [`MAX_MESSAGE`] bytes
//! long: whoever reads `/dev/fuse` must offer no larger buffer, and no smaller one than the 128 KiB
//! and 80 bytes of the largest request. The first request must be `INIT`. There are no
//! notifications. The server ends with its stream, on `DESTROY`, and when something arrives that no
//! kernel sends.
//!
//! # The file system
//!
//! The root directory (node 1) is virtual and cannot be changed. It has one entry for each share,
//! by its number in decimal: a directory, or a regular file. The mount options must be
//! `rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=131072`: the
//! guest's kernel judges permissions, by the owners that it is told.
//!
//! - **Names, and that there are none, and attributes are believed for one second**, the attributes of
//!   disks not at all. Contents that a guest has in its cache are used again when neither time nor
//!   size has changed.
//! - **Numbers of inodes** are those of the host, so that tools recognise files.
//! - **Mounts** below a shared directory are shared, as they are when the server is started.
//! - **A single file** is shared as it is when the server is started: an editor that saves by
//!   renaming makes another one, which the guest does not see.
//! - **Owners**: see `owner`. **Limits**: see `limits`.

mod bridge;
mod config;
mod fuse;
mod handles;
mod host;
mod limits;
mod nodes;
mod owner;
mod process;
mod serve;

pub use config::{Share, ShareKind};
pub use limits::MAX_MESSAGE;
pub use process::{FileServer, WORD, run, spawn, spawn_program};
