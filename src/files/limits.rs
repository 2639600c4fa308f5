//! What one guest can make its file server hold.

/// The longest message in either direction, in bytes: a read or write of [`MAX_IO`] with its
/// headers, rounded up. A longer one ends the server.
pub const MAX_MESSAGE: usize = MAX_IO + 4096;
/// The largest read and write, in bytes.
pub(super) const MAX_IO: usize = 128 << 10;
/// The shortest message, a header.
pub(super) const MIN_MESSAGE: usize = 40;
/// Names in a directory, in bytes.
pub(super) const MAX_NAME: usize = 255;
/// Names of extended attributes, in bytes.
pub(super) const MAX_XATTR_NAME: usize = 255;
/// Values of extended attributes, and lists of their names, in bytes.
pub(super) const MAX_XATTR: usize = 64 << 10;
/// Files and directories that a guest has looked up and not forgotten. Each takes some three hundred
/// bytes here; a guest takes a kilobyte of its own memory for each.
pub(super) const MAX_NODES: usize = 1 << 20;
/// Descriptors that are held for them; the others are found again by their names.
pub(super) const MAX_NODE_DESCRIPTORS: usize = 16 << 10;
/// Files and directories that a guest has open.
pub(super) const MAX_HANDLES: usize = 16 << 10;
/// Descriptors for everything else.
pub(super) const RESERVED_DESCRIPTORS: usize = 256;
/// A node is found again by at most this many names.
pub(super) const MAX_DEPTH: usize = 2048;
/// The most that one request copies between files, in bytes; it may be asked again.
pub(super) const MAX_COPY: u64 = 16 << 20;
/// Requests that are worked on at the same time.
pub(super) const THREADS: usize = 4;
