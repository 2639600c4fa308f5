//! Patches: what a Sandboxfile changes in an image, as a read-only layer over it.
//!
//! ```text
//! sources of the project ──scan──▶ digests, part of the spec ─────────────────┐
//! image, disk ────look────▶ tree of changes ──write──▶ images/patches/KEY.vN.erofs
//!                                                          └─ hard link ─▶ sandboxes/ID/patches.erofs
//! ```
//!
//! The layer is an EROFS file whose whiteouts and opaque directories overlayfs understands; the guest
//! mounts it between the image and the writable disk, so that nothing is applied to a disk twice. It is
//! named by a hash of all that it is made of: the image's digest, the patches and the digests of their
//! sources. Sandboxes with equal patches on one image share it. Each holds it by a hard link, and one
//! that only its own name holds is garbage. A disk image, which a layer may lie over too, is looked at by
//! `ext4::view`; other file systems of disks are refused.
//!
//! Paths are walked in the guest's tree as it will be: parents that are symbolic links are followed
//! within it, `..` in their targets ends at its root, and nothing on the host is ever reached by a
//! path of the guest. `mkdir`, `append` and `copy_dir` follow a link at the end of a path too; the
//! others are about the link itself. Missing parents are made with mode 0755. Files of a layer belong
//! to root.
//!
//! Sources are opened beneath the project directory (`openat2`, `RESOLVE_BENEATH`); a symbolic link
//! in a copied tree is copied, never followed.

mod apply;
mod error;
mod layer;
mod limits;
mod lower;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod write;

pub use error::{LayerError, PatchError, Problem};
pub use layer::{Base, ensure, link};
pub use limits::{MAX_DEPTH, MAX_ENTRIES, MAX_FILE_BYTES, MAX_TOTAL_BYTES};
pub use source::{Root, Scan, Watched};
