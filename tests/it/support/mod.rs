//! What several tests share.

pub(crate) mod liar;
pub(crate) mod oci;
pub(crate) mod pulling;
pub(crate) mod registry;
