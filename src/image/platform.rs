//! Which of an index's images is the one for this machine.

use std::fmt;
use std::str::FromStr;

/// `os/arch[/variant]` in the words of the OCI image specification (those of Go).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// Operating system, for instance `linux`.
    pub os: String,
    /// Architecture, for instance `amd64`.
    pub architecture: String,
    /// Variant of the architecture, for instance `v8`.
    pub variant: Option<String>,
}

/// A text is not `os/arch[/variant]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform: expected os/arch[/variant], for instance linux/amd64")]
pub struct InvalidPlatform(pub String);

/// The longest word of a platform.
const MAX_WORD: usize = 32;

impl Platform {
    /// Linux on this machine's architecture: what guests are.
    pub fn host() -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: canonical_architecture(std::env::consts::ARCH).to_owned(),
            variant: None,
        }
    }

    /// Every platform that a guest of some machine has.
    pub(super) fn guests() -> [Self; 2] {
        ["amd64", "arm64"].map(|architecture| Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        })
    }

    /// How well an image for `offered` fits a request for `self`; lower is better, `None` not at
    /// all. A request without variant takes the plain image, else the variant that every machine
    /// of that architecture has, else the highest.
    fn fit(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        match (self.variant.as_deref(), offered.variant.as_deref()) {
            (wanted, got) if wanted == got => Some(0),
            (Some(wanted), None) => (baseline(&self.architecture) == Some(wanted)).then_some(1),
            (None, Some(got)) if baseline(&self.architecture) == Some(got) => Some(1),
            (None, Some(got)) if self.architecture == "arm" => {
                let number = got.trim_start_matches('v').parse::<u32>().unwrap_or(0);
                Some(1_000_u32.saturating_sub(number))
            }
            // Higher levels of amd64 need processors that the guest may not have.
            (Some(_) | None, Some(_)) | (None, None) => None,
        }
    }

    /// The best of `offered` for `self`: its index. The first wins among equals.
    pub fn choose<'a>(&self, offered: impl IntoIterator<Item = &'a Platform>) -> Option<usize> {
        offered
            .into_iter()
            .enumerate()
            .filter_map(|(index, platform)| Some((self.fit(platform)?, index)))
            .min()
            .map(|(_, index)| index)
    }

    /// Whether an image made for `self` runs where `host` runs.
    pub fn runs_on(&self, host: &Self) -> bool {
        self.os == host.os && self.architecture == host.architecture
    }
}

fn baseline(architecture: &str) -> Option<&'static str> {
    match architecture {
        "amd64" => Some("v1"),
        "arm64" => Some("v8"),
        _ => None,
    }
}

/// The name that the specification uses for what others call differently.
pub(super) fn canonical_architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i386" | "i686" => "386",
        "powerpc64le" => "ppc64le",
        other => other,
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('/');
        let mut word = || {
            parts.next().map(|part| {
                let valid = !part.is_empty()
                    && part.len() <= MAX_WORD
                    && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
                valid.then(|| part.to_ascii_lowercase())
            })
        };
        let invalid = || InvalidPlatform(text.to_owned());
        let (Some(Some(os)), Some(Some(arch)), variant, None) = (word(), word(), word(), word())
        else {
            return Err(invalid());
        };
        let variant = variant.map(|variant| variant.ok_or_else(invalid)).transpose()?;
        Ok(Self { os, architecture: canonical_architecture(&arch).to_owned(), variant })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(wanted: &str, offered: &[&str]) -> Option<usize> {
        let offered: Vec<Platform> = offered.iter().map(|p| p.parse().unwrap()).collect();
        wanted.parse::<Platform>().unwrap().choose(&offered)
    }

    #[test]
    fn choice() {
        assert_eq!(choose("linux/amd64", &["linux/arm64", "linux/amd64"]), Some(1));
        assert_eq!(choose("linux/x86_64", &["windows/amd64", "linux/amd64"]), Some(1));
        assert_eq!(choose("linux/amd64", &["linux/amd64/v3", "linux/amd64/v1"]), Some(1));
        assert_eq!(choose("linux/amd64", &["linux/amd64/v3"]), None);
        assert_eq!(choose("linux/arm64", &["linux/arm64/v8"]), Some(0));
        assert_eq!(choose("linux/arm64/v8", &["linux/arm64"]), Some(0));
        assert_eq!(choose("linux/arm", &["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"]), Some(1));
        assert_eq!(choose("linux/arm/v6", &["linux/arm/v7", "linux/arm/v6"]), Some(1));
        assert_eq!(choose("linux/amd64", &[]), None);
    }

    #[test]
    fn text_form() {
        assert_eq!("linux/aarch64/v8".parse::<Platform>().unwrap().to_string(), "linux/arm64/v8");
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
