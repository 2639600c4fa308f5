//! Paths in the guest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An absolute, normalised path in the guest: no `.`, `..`, doubled or trailing `/`, no NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestPath(String);

/// Why a text is not a [`GuestPath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGuestPath {
    /// Does not start with `/`.
    #[error("a guest path must be absolute")]
    Relative,
    /// Has a `..` component.
    #[error("a guest path must not contain `..`")]
    Parent,
    /// Has a NUL byte.
    #[error("a guest path must not contain a NUL byte")]
    Nul,
    /// Longer than [`GuestPath::MAX_LEN`].
    #[error("a guest path has at most {} bytes", GuestPath::MAX_LEN)]
    TooLong,
}

impl GuestPath {
    /// The longest path, in bytes (`PATH_MAX` less the terminator).
    pub const MAX_LEN: usize = 4095;

    /// Checks and normalises `text`.
    pub fn new(text: &str) -> Result<Self, InvalidGuestPath> {
        if !text.starts_with('/') {
            return Err(InvalidGuestPath::Relative);
        }
        if text.contains('\0') {
            return Err(InvalidGuestPath::Nul);
        }
        if text.len() > Self::MAX_LEN {
            return Err(InvalidGuestPath::TooLong);
        }
        let mut path = String::with_capacity(text.len());
        for component in text.split('/') {
            match component {
                "" | "." => {}
                ".." => return Err(InvalidGuestPath::Parent),
                component => {
                    path.push('/');
                    path.push_str(component);
                }
            }
        }
        if path.is_empty() {
            path.push('/');
        }
        Ok(Self(path))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// Whether `self` is `other` or lies below it.
    pub fn is_within(&self, other: &GuestPath) -> bool {
        other.is_root()
            || self
                .0
                .strip_prefix(&other.0)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for GuestPath {
    type Err = InvalidGuestPath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for GuestPath {
    type Error = InvalidGuestPath;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<GuestPath> for String {
    fn from(path: GuestPath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_and_refuses() {
        assert_eq!(GuestPath::new("//a/./b/").map(String::from), Ok("/a/b".to_owned()));
        assert_eq!(GuestPath::new("/").map(|p| p.is_root()), Ok(true));
        assert_eq!(GuestPath::new("a"), Err(InvalidGuestPath::Relative));
        assert_eq!(GuestPath::new("/a/../b"), Err(InvalidGuestPath::Parent));
        assert_eq!(GuestPath::new("/a\0"), Err(InvalidGuestPath::Nul));
    }
}
