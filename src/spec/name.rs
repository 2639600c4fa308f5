//! Names of sandboxes, volumes, secrets and projects.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name: one or more segments joined by `/` (an included project adds a segment).
///
/// A segment is 1 to 63 characters of `a-z`, `0-9`, `-` and `_`, and starts and ends with a letter
/// or digit, so that it is a valid DNS label but for the underscore. The whole name is at most
/// [`Name::MAX_LEN`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The name, or a segment of it, has no characters.
    #[error("a name must not be empty")]
    Empty,
    /// A segment is longer than 63 bytes or the name longer than [`Name::MAX_LEN`].
    #[error("a name has at most 63 characters a segment and {} in all", Name::MAX_LEN)]
    TooLong,
    /// A character that no name may hold.
    #[error("`{0}` is not allowed in a name: use a-z, 0-9, `-` and `_`")]
    Character(char),
    /// A segment starts or ends with `-` or `_`.
    #[error("a name starts and ends with a letter or a digit")]
    Edge,
}

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 128;
    const MAX_SEGMENT: usize = 63;

    /// Checks `text`.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let text = text.into();
        if text.len() > Self::MAX_LEN {
            return Err(InvalidName::TooLong);
        }
        for segment in text.split('/') {
            check_segment(segment)?;
        }
        Ok(Self(text))
    }

    /// A name made from `text`: what no name may hold becomes `-` or is cut off, and nothing left
    /// becomes `x`.
    pub fn generated(text: &str) -> Self {
        let plain = |c: char| {
            let c = c.to_ascii_lowercase();
            if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }
        };
        let text: String = text.chars().map(plain).take(Self::MAX_SEGMENT).collect();
        let text = text.trim_matches('-');
        Self(if text.is_empty() { "x".to_owned() } else { text.to_owned() })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment: the name as it is written in its own file.
    pub fn local(&self) -> Self {
        Self(self.0.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// The name below `namespace`: `infra` + `db` = `infra/db`.
    pub fn within(&self, namespace: &Name) -> Result<Self, InvalidName> {
        Self::new(format!("{namespace}/{self}"))
    }

    /// The default host name: the segments in reverse order joined by `.`, with `_` as `-`
    /// (`infra/my_db` = `my-db.infra`).
    pub fn hostname(&self) -> String {
        let mut segments: Vec<_> = self.0.split('/').collect();
        segments.reverse();
        segments.join(".").replace('_', "-")
    }
}

fn check_segment(segment: &str) -> Result<(), InvalidName> {
    if segment.is_empty() {
        return Err(InvalidName::Empty);
    }
    if segment.len() > Name::MAX_SEGMENT {
        return Err(InvalidName::TooLong);
    }
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if let Some(bad) = segment.chars().find(|&c| !(is_plain(c) || c == '-' || c == '_')) {
        return Err(InvalidName::Character(bad));
    }
    if segment.starts_with(['-', '_']) || segment.ends_with(['-', '_']) {
        return Err(InvalidName::Edge);
    }
    Ok(())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_segments_and_refuses_the_rest() {
        for good in ["db", "my_db-2", "infra/db", "0"] {
            assert_eq!(Name::new(good).map(String::from), Ok(good.to_owned()));
        }
        assert_eq!(Name::new(""), Err(InvalidName::Empty));
        assert_eq!(Name::new("a//b"), Err(InvalidName::Empty));
        assert_eq!(Name::new("Db"), Err(InvalidName::Character('D')));
        assert_eq!(Name::new("-db"), Err(InvalidName::Edge));
        assert_eq!(Name::new("a".repeat(64)), Err(InvalidName::TooLong));
        assert_eq!(Name::new("../x"), Err(InvalidName::Character('.')));
    }

    #[test]
    fn generated_names_are_names() {
        for text in ["", "--", "My Dir/ü", &"a".repeat(99), "-x-"] {
            let name = Name::generated(text);
            assert_eq!(Name::new(name.as_str()), Ok(name));
        }
    }

    #[test]
    fn hostname_reverses_the_namespace() {
        assert_eq!(Name::new("infra/my_db").map(|n| n.hostname()), Ok("my-db.infra".to_owned()));
    }
}
