//! Files and trees over the agent protocol: what host and guest do alike, with calls that block.
//!
//! [`send`] reads a tree and writes its items, [`receive`] makes one of them. Both are for a thread
//! or a process of their own; memory is one frame and one level of directories per depth, whatever
//! the tree.
//!
//! What arrives is hostile:
//!
//! - a name is one path component, and every directory is entered by `openat2` from the descriptor
//!   of the one above it, beneath it and without following a link: nothing is made outside of the
//!   target, whoever exchanges directories for links meanwhile;
//! - there is no item for a device, a pipe or a socket; setuid, setgid and sticky bits and owners are
//!   taken over only where the [`Policy`] says so;
//! - depth, names, link targets and frames have limits.
//!
//! Nothing half made has a final name: a file, a link or a whole new directory is made under a
//! temporary name (`.msb-PID-N`) beside it and renamed when it is complete. What is in the way is
//! replaced, except that a directory and anything else never replace each other; a directory that
//! exists keeps its attributes and takes in what is new. A process that is killed leaves its
//! temporary name behind, any other end removes it.
#![allow(clippy::disallowed_methods, reason = "files are what this is about")]

mod error;
mod frames;
mod place;
mod receive;
mod send;
mod sparse;
mod temporary;
#[cfg(test)]
mod tests;

pub use error::TransferError;
pub use frames::{Incoming, Input, Output};
pub use place::Target;
pub use receive::{Policy, is_name, receive};
pub use send::send;
pub use sparse::copy_file;
pub use temporary::NewFile;

/// What happens during a transfer, for whoever watches it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A file, a directory or a link is complete.
    Entry,
    /// That many bytes of contents were moved; holes do not count.
    Bytes(u64),
    /// Something is not transferred as it is.
    Skipped {
        /// Its path, from the root on; hostile where it came from the other side.
        path: &'a [u8],
        /// Why; as hostile.
        why: &'a str,
    },
}

/// Who watches a transfer.
pub type Watch<'a> = dyn FnMut(Event<'_>) + 'a;
