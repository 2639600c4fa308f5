//! `Sandboxfile.lock`: which content each image reference of a project means.
//!
//! ```toml
//! version = 1
//!
//! [image."docker.io/library/postgres:16"]
//! "linux/amd64" = "sha256:…"
//! ```
//!
//! References are normalised, everything is sorted, so that a change shows as the lines that
//! changed. Digests are those of image manifests, one a platform.

use std::collections::BTreeMap;
use std::fmt;

use toml::{Table, Value};

use super::cache::platform_of;
use super::digest::{Digest, InvalidDigest};
use super::platform::{InvalidPlatform, Platform};
use super::reference::{ImageRef, InvalidReference};
use crate::spec::{Image, ImageSource};

/// The version of the format that this build writes, and the newest that it reads.
const VERSION: i64 = 1;

const HEADER: &str = "\
# Which content the image references of the Sandboxfile mean. `msb update` writes this file;
# commit it, and `msb up --locked` runs what it says or nothing.
";

/// The content that references mean, by platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    images: BTreeMap<ImageRef, BTreeMap<Platform, Digest>>,
}

/// Why a text is no lock file.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// It is not TOML.
    #[error("not TOML: {0}")]
    Syntax(Box<toml::de::Error>),
    /// A newer version of msb wrote it.
    #[error("a newer version of msb wrote it (format {found}, this version knows {VERSION})")]
    Newer {
        /// Its format.
        found: i64,
    },
    /// A key that is missing or has no business there.
    #[error("{0}")]
    Key(String),
    /// A reference that makes no sense.
    #[error("`{text}`: {source}")]
    Reference {
        /// The key.
        text: String,
        /// Why.
        source: InvalidReference,
    },
    /// A platform that makes no sense.
    #[error("image `{image}`: {source}")]
    Platform {
        /// Whose.
        image: String,
        /// Why.
        source: InvalidPlatform,
    },
    /// A digest that makes no sense.
    #[error("image `{image}`, {platform}: {source}")]
    Digest {
        /// Whose.
        image: String,
        /// For which platform.
        platform: String,
        /// Why.
        source: InvalidDigest,
    },
}

impl Pins {
    /// Reads the text of a lock file.
    pub fn parse(text: &str) -> Result<Self, PinsError> {
        let table: Table = text.parse().map_err(|error| PinsError::Syntax(Box::new(error)))?;
        match table.get("version") {
            Some(Value::Integer(VERSION)) => {}
            Some(Value::Integer(found)) if *found > VERSION => {
                return Err(PinsError::Newer { found: *found });
            }
            Some(_) | None => {
                return Err(PinsError::Key(format!("`version = {VERSION}` is missing")));
            }
        }
        let mut pins = Self::default();
        for (key, value) in &table {
            match (key.as_str(), value) {
                ("version", _) => {}
                ("image", Value::Table(images)) => {
                    for (reference, digests) in images {
                        pins.read_image(reference, digests)?;
                    }
                }
                (key, _) => return Err(PinsError::Key(format!("`{key}` has no meaning here"))),
            }
        }
        Ok(pins)
    }

    fn read_image(&mut self, text: &str, digests: &Value) -> Result<(), PinsError> {
        let image = text.to_owned();
        let parsed = text.parse::<ImageRef>();
        let reference =
            parsed.map_err(|source| PinsError::Reference { text: image.clone(), source })?;
        let Value::Table(digests) = digests else {
            return Err(PinsError::Key(format!("image `{text}` is no table of digests")));
        };
        for (platform, digest) in digests {
            let key = platform.parse().map_err(|source| {
                let image = image.clone();
                PinsError::Platform { image, source }
            })?;
            let digest = digest.as_str().unwrap_or_default().parse().map_err(|source| {
                PinsError::Digest { image: image.clone(), platform: platform.clone(), source }
            })?;
            self.images.entry(reference.clone()).or_default().insert(key, digest);
        }
        Ok(())
    }

    /// What `image` means. None where it is not stated, and for what needs no statement: a reference
    /// with a digest, and files.
    pub fn get(&self, image: &Image) -> Option<&Digest> {
        let reference = pinnable(image)?;
        self.images.get(&reference)?.get(&platform_of(image).ok()?)
    }

    /// The digests of a reference.
    pub fn of(&self, reference: &ImageRef) -> Option<&BTreeMap<Platform, Digest>> {
        self.images.get(reference)
    }

    /// States what a reference means; of platforms that are not given, what was stated stays.
    pub fn add(&mut self, reference: ImageRef, digests: BTreeMap<Platform, Digest>) {
        self.images.entry(reference).or_default().extend(digests);
    }

    /// States what a reference means, and nothing else about it.
    pub fn set(&mut self, reference: ImageRef, digests: BTreeMap<Platform, Digest>) {
        self.images.insert(reference, digests);
    }

    /// Everything that is stated.
    pub fn iter(&self) -> impl Iterator<Item = (&ImageRef, &BTreeMap<Platform, Digest>)> {
        self.images.iter()
    }
}

/// The reference of an image that a registry resolves; none where there is nothing to be resolved,
/// or no valid reference.
pub fn pinnable(image: &Image) -> Option<ImageRef> {
    let ImageSource::Oci(text) = &image.source else { return None };
    text.parse::<ImageRef>().ok().filter(|reference| reference.digest().is_none())
}

/// The text of the file.
impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}version = {VERSION}")?;
        for (reference, digests) in &self.images {
            // References, platforms and digests need no escapes in a TOML string.
            writeln!(f, "\n[image.\"{reference}\"]")?;
            for (platform, digest) in digests {
                writeln!(f, "\"{platform}\" = \"{digest}\"")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn platforms(digests: &[(&str, &str)]) -> BTreeMap<Platform, Digest> {
        digests.iter().map(|(name, text)| (name.parse().unwrap(), digest(text))).collect()
    }

    #[test]
    fn the_text_is_sorted_and_read_back() {
        let mut pins = Pins::default();
        pins.set(
            "python:3.12".parse().unwrap(),
            platforms(&[("linux/arm64", "b"), ("linux/amd64", "a")]),
        );
        pins.set("127.0.0.1:5000/app".parse().unwrap(), platforms(&[("linux/amd64", "c")]));
        pins.add("python:3.12".parse().unwrap(), platforms(&[("linux/arm64", "d")]));
        let text = pins.to_string();
        expect![[r#"
            # Which content the image references of the Sandboxfile mean. `msb update` writes this file;
            # commit it, and `msb up --locked` runs what it says or nothing.
            version = 1

            [image."127.0.0.1:5000/app:latest"]
            "linux/amd64" = "sha256:2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6"

            [image."docker.io/library/python:3.12"]
            "linux/amd64" = "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
            "linux/arm64" = "sha256:18ac3e7343f016890c510e93f935261169d9e3f565436429830faf0934f4f8e4"
        "#]]
        .assert_eq(&text);
        assert_eq!(Pins::parse(&text).unwrap(), pins);
        let image = |text: &str, platform: Option<&str>| Image {
            source: ImageSource::Oci(text.to_owned()),
            platform: platform.map(str::to_owned),
        };
        assert_eq!(pins.get(&image("python:3.12", Some("linux/arm64"))), Some(&digest("d")));
        assert_eq!(
            pins.get(&image("docker.io/python:3.12", Some("linux/amd64"))),
            Some(&digest("a"))
        );
        assert_eq!(pins.get(&image("python:3.13", Some("linux/amd64"))), None);
        assert_eq!(pins.get(&image("python:3.12", Some("linux/s390x"))), None);
        let pinned = format!("python:3.12@{}", digest("x"));
        assert_eq!(pins.get(&image(&pinned, Some("linux/amd64"))), None);
    }

    #[test]
    fn what_makes_no_sense() {
        let error = |text: &str| Pins::parse(text).unwrap_err().to_string();
        assert!(error("<<<<<<< HEAD\nversion = 1\n").starts_with("not TOML: "));
        expect!["`version = 1` is missing"].assert_eq(&error(""));
        expect!["`version = 1` is missing"].assert_eq(&error("version = \"1\""));
        expect!["a newer version of msb wrote it (format 2, this version knows 1)"]
            .assert_eq(&error("version = 2\nwhatever = true"));
        expect!["`images` has no meaning here"].assert_eq(&error("version = 1\n[images]"));
        expect!["`image` has no meaning here"].assert_eq(&error("version = 1\nimage = 3"));
        expect!["image `a` is no table of digests"]
            .assert_eq(&error("version = 1\nimage.a = \"sha256:0\""));
        expect!["`A`: the image name must be lower case: `A`"]
            .assert_eq(&error("version = 1\n[image.A]"));
        expect!["image `a`: `linux` is not a platform: expected os/arch[/variant], for instance linux/amd64"]
            .assert_eq(&error("version = 1\n[image.a]\nlinux = \"sha256:0\""));
        assert!(
            error("version = 1\n[image.a]\n\"linux/amd64\" = \"sha256:0\"").contains("linux/amd64")
        );
        assert!(error("version = 1\n[image.a]\n\"linux/amd64\" = 1").contains("linux/amd64"));
    }
}
