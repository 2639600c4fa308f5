//! Image references: `[registry/]name[:tag][@digest]`, normalised.
//!
//! The grammar is the one of the distribution project: without a registry the name is Docker
//! Hub's, there a name without a slash is in `library/`, and without tag and digest the tag is
//! `latest`. The parser is written by hand because the cached path runs it for every sandbox of a
//! project and compiling the usual regular expression costs more than everything else there; a
//! test holds it against `oci-client`'s.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, InvalidDigest};

/// A parsed and normalised reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// Nothing in front of the tag or digest.
    #[error("the image name is empty")]
    Empty,
    /// Letters that a repository name may not have.
    #[error("the image name must be lower case: `{0}`")]
    UpperCase(String),
    /// Something else that a repository name may not have.
    #[error(
        "`{0}` is not an image name: components of a-z and 0-9, separated inside by `.`, `_` or `-`, joined by `/`"
    )]
    Name(String),
    /// The repository is too long.
    #[error("the image name is longer than {MAX_NAME} characters")]
    TooLong,
    /// The part before the first slash is no `host[:port]`.
    #[error("`{0}` is not a registry: expected host[:port]")]
    Registry(String),
    /// The part after the colon.
    #[error("`{0}` is not a tag: up to {MAX_TAG} of A-Z, a-z, 0-9, `_`, `.` and `-`")]
    Tag(String),
    /// The part after the at sign.
    #[error("the digest after `@` is wrong: {0}")]
    Digest(InvalidDigest),
}

/// The longest repository name, as in the distribution specification.
const MAX_NAME: usize = 255;
/// The longest tag, as in the distribution specification.
const MAX_TAG: usize = 128;
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_OLD: &str = "index.docker.io";
const DOCKER_HUB_API: &str = "registry-1.docker.io";
const DEFAULT_TAG: &str = "latest";

impl ImageRef {
    /// The registry as named: `docker.io`, `host[:port]`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The `host[:port]` that serves the API: Docker Hub's differs from its name.
    pub fn api_host(&self) -> &str {
        if self.registry == DOCKER_HUB { DOCKER_HUB_API } else { &self.registry }
    }

    /// The repository within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only where a digest is.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that pins the content.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What the manifest endpoint is asked for: the digest if there is one, else the tag.
    pub fn selector(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// The same repository and tag with the content of `digest`.
    #[must_use]
    pub fn pinned(self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self }
    }

    /// Whether `host[:port]`, as a Sandboxfile names a registry, is this reference's.
    pub fn is_of(&self, registry: &str) -> bool {
        canonical_registry(registry) == self.registry
    }
}

fn canonical_registry(host: &str) -> &str {
    match host {
        DOCKER_HUB_OLD | DOCKER_HUB_API => DOCKER_HUB,
        other => other,
    }
}

impl FromStr for ImageRef {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(InvalidReference::Digest)?)),
            None => (text, None),
        };
        let (registry, path) = split_registry(rest)?;
        let (repository, tag) = match path.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(check_tag(tag)?.to_owned())),
            Some(_) | None => (path, None),
        };
        check_repository(repository)?;
        let official = registry == DOCKER_HUB && !repository.contains('/');
        let repository =
            if official { format!("library/{repository}") } else { repository.to_owned() };
        if repository.len() > MAX_NAME {
            return Err(InvalidReference::TooLong);
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// The registry is what stands before the first slash, if it looks like a host.
fn split_registry(text: &str) -> Result<(&str, &str), InvalidReference> {
    let Some((first, rest)) = text.split_once('/') else { return Ok((DOCKER_HUB, text)) };
    if !(first.contains(['.', ':', '[']) || first == "localhost") {
        return Ok((DOCKER_HUB, text));
    }
    if !is_host(first) {
        return Err(InvalidReference::Registry(first.to_owned()));
    }
    Ok((canonical_registry(first), rest))
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
            return rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        }
        Some(_) => return false,
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

fn check_tag(tag: &str) -> Result<&str, InvalidReference> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if valid { Ok(tag) } else { Err(InvalidReference::Tag(tag.to_owned())) }
}

fn check_repository(name: &str) -> Result<(), InvalidReference> {
    if name.is_empty() {
        return Err(InvalidReference::Empty);
    }
    if name.len() > MAX_NAME {
        return Err(InvalidReference::TooLong);
    }
    if name.split('/').all(is_component) {
        return Ok(());
    }
    if name.split('/').all(|part| is_component(&part.to_ascii_lowercase())) {
        return Err(InvalidReference::UpperCase(name.to_owned()));
    }
    Err(InvalidReference::Name(name.to_owned()))
}

/// `[a-z0-9]+` pieces joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(part: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    if !(bytes.first().is_some_and(alnum) && bytes.last().is_some_and(alnum)) {
        return false;
    }
    bytes.split(alnum).filter(|separator| !separator.is_empty()).all(|separator| {
        matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, want: &Expect) {
        want.assert_eq(&match text.parse::<ImageRef>() {
            Ok(reference) => reference.to_string(),
            Err(error) => format!("error: {error}"),
        });
    }

    #[test]
    fn normal_forms() {
        check("busybox", &expect!["docker.io/library/busybox:latest"]);
        check("library/busybox:1", &expect!["docker.io/library/busybox:1"]);
        check("index.docker.io/me/app", &expect!["docker.io/me/app:latest"]);
        check("localhost/app", &expect!["localhost/app:latest"]);
        check("127.0.0.1:5000/a/b:x", &expect!["127.0.0.1:5000/a/b:x"]);
        check("[::1]:5000/a", &expect!["[::1]:5000/a:latest"]);
        check("test.com:5000", &expect!["docker.io/library/test.com:5000"]);
        let pinned = format!("a.example/b@{}", Digest::of(b""));
        check(
            &pinned,
            &expect![
                "a.example/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
            ],
        );
    }

    #[test]
    fn errors() {
        check("", &expect!["error: the image name is empty"]);
        check(":tag", &expect!["error: the image name is empty"]);
        check("BusyBox", &expect!["error: the image name must be lower case: `BusyBox`"]);
        check(
            "a//b",
            &expect![
                "error: `a//b` is not an image name: components of a-z and 0-9, separated inside by `.`, `_` or `-`, joined by `/`"
            ],
        );
        check("h:99999/a", &expect!["error: `h:99999` is not a registry: expected host[:port]"]);
        check(
            "a:-x",
            &expect!["error: `-x` is not a tag: up to 128 of A-Z, a-z, 0-9, `_`, `.` and `-`"],
        );
        check(
            "a@sha256:00",
            &expect![
                "error: the digest after `@` is wrong: expected `sha256:` and 64 hexadecimal digits"
            ],
        );
        check(&"a".repeat(256), &expect!["error: the image name is longer than 255 characters"]);
    }

    proptest! {
        /// What both parsers accept they read alike, and ours accepts nothing that the other one
        /// refuses (bracketed addresses aside, which the other grammar lacks).
        #[test]
        fn agrees_with_oci_client(text in "([a-zA-Z0-9.-]{1,6}(:[0-9]{1,3})?/)?[a-zA-Z0-9._/-]{1,8}(:[a-zA-Z0-9._-]{0,4})?(@sha256:[0-9a-f]{64})?") {
            let theirs = text.parse::<oci_client::Reference>();
            if let Ok(ours) = text.parse::<ImageRef>() {
                let theirs = theirs.map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
                prop_assert_eq!(ours.to_string(), theirs.whole());
            } else if let Ok(theirs) = theirs {
                // Port 0 is beyond what the other grammar refuses, and upper case that it takes
                // for a host and then does not.
                let is_upper = theirs.repository().bytes().any(|b| b.is_ascii_uppercase());
                prop_assert!(!is_host(theirs.registry()) || is_upper, "{}", text);
            }
        }

        #[test]
        fn normal_form_is_stable(text in "[a-z0-9.:/@-]{0,24}") {
            if let Ok(reference) = text.parse::<ImageRef>() {
                prop_assert_eq!(reference.to_string().parse::<ImageRef>(), Ok(reference));
            }
        }
    }
}
