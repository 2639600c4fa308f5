//! Image layers: reading tar archives and laying them over one another, top layer first.
//!
//! ```text
//! reader ─▶ Archive (headers, PAX, GNU, sparse) ─▶ Merge ─▶ contents ─▶ erofs::Sink ─▶ image file
//!                                                    │
//!                              tree of this layer ◀──┴──▶ tree of all layers above ─▶ erofs::write_tree
//! ```
//!
//! Archives are hostile. No path of an archive is ever a path of the host, everything that grows has a
//! limit ([`Limits`]), and an error names the layer, the entry and what is wrong with it.

mod archive;
mod error;
mod header;
mod limits;
mod merge;
mod overlay;
mod path;
mod pax;
mod source;

pub use error::{LayerError, Problem};
pub use limits::Limits;

pub(super) use merge::Merge;
