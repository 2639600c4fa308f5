//! The hash of a resolved spec: equal hashes mean that nothing was edited.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::spec::SandboxSpec;

/// BLAKE3 (256 bits) of the canonical JSON of a spec, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpecHash([u8; 32]);

/// A text that is not 64 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a spec hash has 64 hex digits, not `{0}`")]
pub struct InvalidSpecHash(String);

/// The canonical JSON of a spec: what the store keeps and what [`spec_hash`] hashes.
pub fn canonical_json(spec: &SandboxSpec) -> String {
    let mut buffer = Vec::new();
    write_json(spec, &mut buffer);
    String::from_utf8(buffer).unwrap_or_default()
}

/// The hash of a spec.
pub fn spec_hash(spec: &SandboxSpec) -> SpecHash {
    hash_with(spec, &mut Vec::with_capacity(1024))
}

/// [`spec_hash`] with a buffer that is reused from one spec to the next.
pub(crate) fn hash_with(spec: &SandboxSpec, buffer: &mut Vec<u8>) -> SpecHash {
    buffer.clear();
    write_json(spec, buffer);
    SpecHash(*blake3::hash(buffer).as_bytes())
}

/// Writing to memory cannot fail, and every map in a spec has string keys.
fn write_json(spec: &SandboxSpec, buffer: &mut Vec<u8>) {
    let written = serde_json::to_writer(buffer, spec);
    debug_assert!(written.is_ok(), "a spec always has a JSON form");
}

impl fmt::Display for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpecHash({self})")
    }
}

impl FromStr for SpecHash {
    type Err = InvalidSpecHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| InvalidSpecHash(text.to_owned()))
    }
}

impl TryFrom<String> for SpecHash {
    type Error = InvalidSpecHash;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpecHash> for String {
    fn from(hash: SpecHash) -> Self {
        hash.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Condition, Dependency, Image, ImageSource, Name};

    #[test]
    fn the_order_of_dependencies_is_no_difference() {
        let hash = |names: [&str; 2]| {
            let image = Image { source: ImageSource::Oci("x".to_owned()), platform: None };
            let mut spec = SandboxSpec::new(image);
            let started =
                Dependency { condition: Condition::Started, required: true, restart: false };
            let named = names.map(|name| (Name::new(name).unwrap(), started.clone()));
            spec.depends_on.extend(named);
            spec_hash(&spec)
        };
        assert_eq!(hash(["a", "b"]), hash(["b", "a"]));
        assert_ne!(hash(["a", "b"]), hash(["a", "c"]));
    }
}
