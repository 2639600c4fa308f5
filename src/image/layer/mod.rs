//! Image layers: reading tar archives and laying them over one another, top layer first.

mod error;
mod limits;

pub use error::LayerError;
pub use limits::Limits;
