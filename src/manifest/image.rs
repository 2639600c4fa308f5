//! How an image is written.

/// File name endings of disk images.
const DISK_ENDINGS: [&str; 4] = [".qcow2", ".raw", ".vmdk", ".img"];
/// File name endings of archives.
const ARCHIVE_ENDINGS: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".tar.zst"];
/// The longest repository name in a reference, after the distribution specification.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// What a string says of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Reference,
    Dir,
    Archive,
    Disk,
}

/// Tells by its form what `text` names.
pub(crate) fn written(text: &str) -> Written {
    let is_path = text.starts_with('/')
        || text.starts_with("./")
        || text.starts_with("../")
        || text == "."
        || text == "..";
    let ends = |endings: &[&str]| endings.iter().any(|ending| text.ends_with(ending));
    match is_path {
        false => Written::Reference,
        true if ends(&DISK_ENDINGS) => Written::Disk,
        true if ends(&ARCHIVE_ENDINGS) => Written::Archive,
        true => Written::Dir,
    }
}

/// Checks the string form of an image.
pub(crate) fn check(text: &str) -> Result<(), String> {
    if text.starts_with('~') {
        return Err("`~` is not expanded".to_owned());
    }
    match written(text) {
        Written::Reference => reference(text),
        Written::Dir | Written::Archive | Written::Disk => {
            if text.contains(|c: char| c.is_whitespace() || c == '\0') {
                return Err("it holds blanks; write `{ dir = … }` for such a path".to_owned());
            }
            Ok(())
        }
    }
}

/// Checks an OCI reference: `[host[:port]/]name[:tag][@digest]`.
pub(crate) fn reference(text: &str) -> Result<(), String> {
    let error = |why: &str| Err(why.to_owned());
    if text.is_empty() {
        return error("it is empty");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[name_start..].split_once(':') {
        Some((last, tag)) => (&rest[..name_start + last.len()], Some(tag)),
        None => (rest, None),
    };
    if let Some(digest) = digest {
        let hex = digest.strip_prefix("sha256:").unwrap_or("");
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return error("after `@` comes `sha256:` and 64 lower-case hex digits");
        }
    }
    let tag_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if tag.is_some_and(|tag| {
        tag.is_empty()
            || tag.len() > MAX_TAG
            || tag.starts_with(['.', '-'])
            || !tag.chars().all(tag_plain)
    }) {
        return error("its tag is not one: letters, digits, `_`, `.` and `-`, at most 128");
    }
    repository(name)
}

fn repository(name: &str) -> Result<(), String> {
    if let Some((scheme, _)) = name.split_once("://") {
        return Err(format!("a URL is none: leave out `{scheme}://`"));
    }
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':', '[']) || host == "localhost" => {
            (Some(host), path)
        }
        _ => (None, name),
    };
    if let Some(host) = host {
        registry_host(host).map_err(|why| format!("its registry is not one: {why}"))?;
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let component = |part: &str| {
        part.starts_with(plain)
            && part.ends_with(plain)
            && part.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-'))
    };
    if path.len() > MAX_NAME || !path.split('/').all(component) {
        return Err("its name has lower-case letters, digits, `.`, `_`, `-` and `/`".to_owned());
    }
    Ok(())
}

/// Checks `host[:port]`.
pub(crate) fn registry_host(text: &str) -> Result<(), String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err("its port is not a number from 1 to 65535".to_owned());
    }
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.contains('_') && super::keys::kinds::domain(host).is_ok(),
    };
    if is_host { Ok(()) } else { Err("it is not a host name or an address".to_owned()) }
}

/// Whether a registry host is on this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for good in [
            "postgres:16",
            "localhost:5000/a/b_c:v1",
            "registry.example/o/r",
            "[::1]:5000/a",
            &digest,
        ] {
            assert_eq!(reference(good), Ok(()), "{good}");
        }
        for bad in ["", "Postgres", "a:", "a:.x", "a b", "a@sha256:12", "x:y/a", "a//b", "/a", "é"]
        {
            assert!(reference(bad).is_err(), "{bad}");
        }
        let url = reference("https://registry.example/o/r").unwrap_err();
        assert_eq!(url, "a URL is none: leave out `https://`");
    }

    #[test]
    fn forms() {
        assert_eq!(written("python:3.12"), Written::Reference);
        assert_eq!(written("./d"), Written::Dir);
        assert_eq!(written("../i.tar"), Written::Archive);
        assert_eq!(written("/x/disk.qcow2"), Written::Disk);
        assert!(
            is_loopback("127.0.0.1:5000") && is_loopback("[::1]:1") && is_loopback("localhost")
        );
        assert!(!is_loopback("registry.example.com"));
    }
}
