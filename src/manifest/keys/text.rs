//! Forms of strings: how they are checked, and the same as a pattern for the JSON schema.

/// A form of string.
pub(crate) struct Text {
    /// In words, with an example where that helps: "a size such as `\"512MiB\"`".
    pub(crate) name: &'static str,
    /// A regular expression that every string of this form matches; where none can tell, the
    /// pattern accepts more than `check`.
    pub(crate) pattern: Option<&'static str>,
    /// A regular expression that no string of this form matches.
    pub(crate) reject: Option<&'static str>,
    pub(crate) max_len: Option<usize>,
    /// Says what is wrong with a text, in words that fit after "it is not …:".
    pub(crate) check: fn(&str) -> Result<(), String>,
    /// What to write for a bare integer.
    pub(crate) bare: Option<fn(i64) -> String>,
    pub(crate) help: Option<&'static str>,
}

/// The forms.
pub(crate) mod kinds {
    use std::net::IpAddr;

    use crate::spec::{ByteSize, GuestPath, Millis, Name, ProbeTarget, Signal};

    use super::Text;

    const fn form(name: &'static str, check: fn(&str) -> Result<(), String>) -> Text {
        Text { name, pattern: None, reject: None, max_len: None, check, bare: None, help: None }
    }

    const fn pattern(
        name: &'static str,
        pattern: &'static str,
        check: fn(&str) -> Result<(), String>,
    ) -> Text {
        Text { pattern: Some(pattern), ..form(name, check) }
    }

    fn anything(_: &str) -> Result<(), String> {
        Ok(())
    }

    fn not_empty(text: &str) -> Result<(), String> {
        if text.is_empty() { Err("it is empty".to_owned()) } else { no_nul(text) }
    }

    fn no_nul(text: &str) -> Result<(), String> {
        if text.contains('\0') { Err("it holds a NUL character".to_owned()) } else { Ok(()) }
    }

    fn parses<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(), String> {
        text.parse::<T>().map(|_| ()).map_err(|error| error.to_string())
    }

    fn require(holds: bool, otherwise: &str) -> Result<(), String> {
        if holds { Ok(()) } else { Err(otherwise.to_owned()) }
    }

    /// Any text.
    pub(crate) static ANY: Text = Text {
        bare: Some(|value| format!("\"{value}\"")),
        reject: Some(r"\x00"),
        ..form("a string", no_nul)
    };
    /// Any text, NUL characters too: content of files.
    pub(crate) static CONTENT: Text = form("a string", anything);
    pub(crate) static NOT_EMPTY: Text = Text {
        reject: Some(r"\x00"),
        bare: Some(|value| format!("\"{value}\"")),
        ..pattern("a string that is not empty", "^[^\\x00]", not_empty)
    };
    pub(crate) static NAME: Text = Text {
        max_len: Some(Name::MAX_LEN),
        ..pattern(
            "a name",
            r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?(/[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?)*$",
            parses::<Name>,
        )
    };
    pub(crate) static SIZE: Text = Text {
        bare: Some(|value| format!("\"{value}MiB\"")),
        help: Some("units are `B`, `KiB`, `MiB`, `GiB` and `TiB`"),
        ..pattern(
            "a size such as `\"512MiB\"`",
            r"^\s*[0-9]+\s*(B|KiB|MiB|GiB|TiB)\s*$",
            parses::<ByteSize>,
        )
    };
    pub(crate) static DURATION: Text = Text {
        bare: Some(|value| format!("\"{value}s\"")),
        help: Some("units are `ms`, `s`, `m`, `h` and `d`"),
        ..pattern(
            "a duration such as `\"30s\"`",
            r"^\s*([0-9]+\s*(ms|s|m|h|d)\s*)+$",
            parses::<Millis>,
        )
    };
    pub(crate) static GUEST_PATH: Text = Text {
        reject: Some(r"\x00|(^|/)\.\.(/|$)"),
        max_len: Some(GuestPath::MAX_LEN),
        help: Some("write the path from `/` on, without `..`"),
        ..pattern("an absolute path in the guest", "^/", parses::<GuestPath>)
    };
    pub(crate) static HOST_PATH: Text = Text {
        reject: Some(r"\x00|^~"),
        help: Some("paths are absolute or relative to the file that states them"),
        ..pattern("a path of the host", "^[^\\x00]", |text| {
            require(!text.starts_with('~'), "`~` is not expanded").and_then(|()| not_empty(text))
        })
    };
    pub(crate) static IMAGE: Text = Text {
        reject: Some(r"\s|\x00"),
        ..pattern(
            "an image such as `\"python:3.12\"` or `\"./rootfs\"`",
            "^[^~]",
            crate::manifest::image::check,
        )
    };
    pub(crate) static OCI: Text = Text {
        reject: Some(r"\s|\x00"),
        ..pattern(
            "an image reference such as `\"python:3.12\"`",
            r"^[a-zA-Z0-9\[]",
            crate::manifest::image::reference,
        )
    };
    pub(crate) static PLATFORM: Text = pattern(
        "a platform such as `\"linux/amd64\"`",
        "^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?$",
        |text| {
            let parts: Vec<_> = text.split('/').collect();
            let plain = |part: &&str| {
                !part.is_empty()
                    && part
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            };
            let unscored = !parts.first().is_some_and(|os| os.contains('_'))
                && !parts.get(2).is_some_and(|variant| variant.contains('_'));
            require(
                (2..=3).contains(&parts.len()) && parts.iter().all(plain) && unscored,
                "it has the form os/architecture",
            )
        },
    );
    pub(crate) static SIGNAL: Text = Text {
        bare: Some(|value| format!("\"{value}\"")),
        ..pattern(
            "a signal such as `\"SIGTERM\"`",
            r"^(([Ss][Ii][Gg])?[A-Za-z]+[0-9]?|([Ss][Ii][Gg])?[Rr][Tt][Mm][Ii][Nn]\+[0-9]+|[0-9]+)$",
            parses::<Signal>,
        )
    };
    pub(crate) static MODE: Text = Text {
        bare: Some(|value| format!("\"{value:04o}\"")),
        ..pattern("permission bits such as `\"0644\"`", "^0?[0-7]{3,4}$", |text| {
            let digits = text.bytes().all(|b| (b'0'..=b'7').contains(&b));
            let fits = matches!(text.len(), 3 | 4) || (text.len() == 5 && text.starts_with('0'));
            require(digits && fits, "it has three or four octal digits")
        })
    };
    pub(crate) static USER: Text = Text {
        bare: Some(|value| format!("\"{value}\"")),
        ..pattern(
            "a user such as `\"postgres\"` or `\"1000:1000\"`",
            r"^[^:\s\x00]+(:[^:\s\x00]+)?$",
            |text| {
                let parts: Vec<_> = text.split(':').collect();
                let plain = |part: &&str| {
                    !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c == '\0')
                };
                require(parts.len() <= 2 && parts.iter().all(plain), "it has the form user[:group]")
            },
        )
    };
    pub(crate) static HOSTNAME: Text = Text {
        max_len: Some(64),
        ..pattern(
            "a host name",
            r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$",
            |text| {
                require(text.len() <= 64, "it has more than 64 characters")?;
                require(
                    !text.contains('_') && domain(text).is_ok(),
                    "its labels have letters, digits and `-`",
                )
            },
        )
    };
    pub(crate) static ENV_NAME: Text = Text {
        reject: Some(r"[=\x00]"),
        ..pattern("a variable name", r"^[^=\x00]", |text| {
            require(!text.contains('='), "it holds a `=`").and_then(|()| not_empty(text))
        })
    };
    pub(crate) static SCRIPT_NAME: Text =
        pattern("a script name", "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", |text| {
            crate::spec::check_script_name(text).map_err(str::to_owned)
        });
    #[cfg(test)]
    const PORT: &str =
        "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
    pub(crate) static PORT_MAPPING: Text = Text {
        bare: Some(|value| format!("\"{value}:{value}\"")),
        help: Some(
            "write `\"HOST:GUEST\"`, `\"auto:GUEST\"` or `\"ADDRESS:HOST:GUEST\"`, with ports from 1 to 65535",
        ),
        ..pattern(
            "a port mapping such as `\"8080:80\"`",
            r"^(\[[0-9a-fA-F:.]+\]:|[0-9.]+:)?(auto|([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])):([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$",
            |text| crate::manifest::lower::ports::parse(text).map(|_| ()),
        )
    };
    pub(crate) static PORT_RANGE: Text = pattern(
        "a port or range such as `\"443\"` or `\"8000-8999\"`",
        r"^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])(-([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$",
        |text| crate::manifest::lower::ports::range(text).map(|_| ()),
    );
    pub(crate) static ADDRESS: Text =
        pattern("an address such as `\"127.0.0.1\"`", "^[0-9a-fA-F:.]+$", |text| {
            require(text.parse::<IpAddr>().is_ok(), "it is not an IPv4 or IPv6 address")
        });
    pub(crate) static DESTINATION: Text = Text {
        help: Some(
            "write `*`, an address or CIDR, a domain, `.suffix`, a group (`loopback`, `private`, `link-local`, `metadata`, `multicast`), `host` or `sandbox:NAME`",
        ),
        ..pattern(
            "a destination",
            r"^(\*|sandbox:[a-z0-9][a-z0-9_/-]*|[0-9a-fA-F:.]+(/[0-9]{1,3})?|\.?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?)$",
            crate::manifest::lower::network::destination,
        )
    };
    pub(crate) static DOMAIN: Text = Text {
        max_len: Some(253),
        ..pattern(
            "a domain such as `\"example.com\"`",
            r"^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$",
            domain,
        )
    };
    pub(crate) static SUFFIX: Text = Text {
        max_len: Some(254),
        help: Some("write the suffix with its leading dot: `\".ads.example\"`"),
        ..pattern(
            "a domain suffix such as `\".ads.example\"`",
            r"^\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$",
            |text| text.strip_prefix('.').map_or(Err("it has no leading dot".to_owned()), domain),
        )
    };
    pub(crate) static HOST_PATTERN: Text = Text {
        help: Some("write `\"*.\"` and a domain: `\"*.example.com\"`"),
        ..pattern(
            "a host pattern such as `\"*.example.com\"`",
            r"^\*\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$",
            |text| {
                text.strip_prefix("*.")
                    .map_or(Err("it does not start with `*.`".to_owned()), domain)
            },
        )
    };
    pub(crate) static BYPASS: Text = pattern(
        "a domain or a pattern such as `\"*.example.com\"`",
        r"^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$",
        |text| domain(text.strip_prefix("*.").unwrap_or(text)),
    );
    pub(crate) static RESTART: Text = Text {
        help: Some(
            "write `\"no\"`, `\"always\"`, `\"on-failure\"`, `\"on-failure:5\"` or `\"unless-stopped\"`",
        ),
        ..pattern(
            "a restart policy",
            r"^(no|always|on-failure(:[1-9][0-9]{0,8})?|unless-stopped)$",
            |text| crate::manifest::lower::sandbox::restart(text).map(|_| ()),
        )
    };
    pub(crate) static VERSION: Text = pattern(
        "a version requirement such as `\">=0.1\"`",
        r"^[0-9A-Za-z<>=~^*., +-]+$",
        |text| semver::VersionReq::parse(text).map(|_| ()).map_err(|error| error.to_string()),
    );
    pub(crate) static REGISTRY_HOST: Text = Text {
        help: Some("write the host and, if need be, the port: `[registry.\"localhost:5000\"]`"),
        ..pattern(
            "a registry host",
            r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]{1,5})?$",
            crate::manifest::image::registry_host,
        )
    };
    pub(crate) static URL: Text = Text {
        reject: Some(r"[\s\x00]"),
        ..pattern("a URL such as `\"http://localhost:8080/health\"`", "^http://[^/]", |text| {
            ProbeTarget::http(text).map(drop).map_err(|error| error.to_string())
        })
    };
    pub(crate) static TCP_TARGET: Text = Text {
        bare: Some(|value| format!("\"{value}\"")),
        ..pattern(
            "a port or address such as `\"5432\"` or `\"localhost:5432\"`",
            r"^([^\s\x00]+:)?([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$",
            |text| ProbeTarget::tcp(text).map(drop).map_err(|error| error.to_string()),
        )
    };

    pub(crate) static UNSET: Text = form("a key of a sandbox", |text| {
        let first = text.split('.').next().unwrap_or("");
        let known = || crate::manifest::keys::SANDBOX.keys.iter().map(|key| key.name);
        if known().any(|name| name == first && !matches!(name, "unset" | "extends")) {
            return Ok(());
        }
        match crate::manifest::report::closest(first, known()) {
            Some(close) => Err(format!("did you mean `{close}`?")),
            None => Err("it has no such key".to_owned()),
        }
    });

    /// Checks a domain name: labels of letters, digits, `-` and `_`.
    pub(crate) fn domain(text: &str) -> Result<(), String> {
        let edge = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.starts_with(edge)
                && label.ends_with(edge)
                && label.chars().all(|c| edge(c) || c == '-')
        };
        require(text.len() <= 253, "it has more than 253 characters")?;
        require(text.split('.').all(label), "it is not a domain of letters, digits, `-` and `.`")
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn long_patterns_hold_the_port_pattern() {
            for text in [&PORT_MAPPING, &PORT_RANGE, &TCP_TARGET] {
                assert!(text.pattern.is_some_and(|pattern| pattern.contains(PORT)));
            }
        }
    }
}
