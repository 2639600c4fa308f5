//! What is wanted, as the planner sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::spec::{Name, Origins, Project, SandboxSpec};

use super::SpecHash;

/// The declared state, the part of it that is asked for, and what its images resolve to.
#[derive(Clone, Copy, Debug)]
pub struct Desired<'a> {
    /// The whole project, whatever the profiles say.
    pub project: &'a Project,
    /// Where its values were written.
    pub origins: &'a Origins,
    /// The sandboxes asked for: named or of an active profile, with what they depend on.
    pub selected: &'a BTreeSet<Name>,
    /// What the images of sandboxes resolve to; one that is absent counts as
    /// [`DesiredImage::Missing`].
    pub images: &'a BTreeMap<Name, DesiredImage>,
}

/// What the image of a sandbox resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredImage {
    /// Content that is in the cache.
    Known {
        /// The manifest digest, `sha256:…`.
        digest: String,
    },
    /// Content whose digest a registry told, and which must be pulled.
    Remote {
        /// The manifest digest, `sha256:…`.
        digest: String,
    },
    /// Content that is not in the cache; the pull tells its digest.
    Missing,
}

impl DesiredImage {
    /// The digest, where it is known.
    pub fn digest(&self) -> Option<&str> {
        match self {
            Self::Known { digest } | Self::Remote { digest } => Some(digest),
            Self::Missing => None,
        }
    }
}

/// A spec that a step carries, with its hash. `Debug` shows the hash only: environment values stay
/// out of every rendering of a plan.
#[derive(Clone, PartialEq, Eq)]
pub struct PlannedSpec {
    spec: Arc<SandboxSpec>,
    hash: SpecHash,
}

impl PlannedSpec {
    /// Joins a spec with its hash.
    pub fn new(spec: Arc<SandboxSpec>, hash: SpecHash) -> Self {
        Self { spec, hash }
    }

    /// The hash of the spec.
    pub fn hash(&self) -> SpecHash {
        self.hash
    }

    /// The spec, shared.
    pub fn share(&self) -> Arc<SandboxSpec> {
        Arc::clone(&self.spec)
    }
}

impl Deref for PlannedSpec {
    type Target = SandboxSpec;

    fn deref(&self) -> &SandboxSpec {
        &self.spec
    }
}

impl fmt::Debug for PlannedSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlannedSpec({})", self.hash)
    }
}
