//! What health checks without a command connect to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where a probe connects to in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Tried in order; one that accepts is enough.
    pub addresses: Vec<SocketAddr>,
    /// What is asked for there; none is a connection alone.
    pub http: Option<HttpGet>,
}

/// A request of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    /// Host and port as in the URL.
    pub host: String,
    /// Path and query, from the `/` on.
    pub path: String,
}

/// A text that is no target of a probe; says why, to go after "it is not …:".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidProbe(&'static str);

impl ProbeTarget {
    /// From a port or `host:port`.
    pub fn tcp(text: &str) -> Result<Self, InvalidProbe> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
        Ok(Self { addresses: addresses(host, port)?, http: None })
    }

    /// From a URL without TLS, whose port is 80 where it says none.
    pub fn http(url: &str) -> Result<Self, InvalidProbe> {
        if url.starts_with("https://") {
            return Err(InvalidProbe("TLS is for `exec` with a client of the image"));
        }
        let rest = url.strip_prefix("http://");
        let rest = rest.ok_or(InvalidProbe("it starts with `http://` and a host"))?;
        if !rest.chars().all(|c| c.is_ascii_graphic() && c != '#') {
            return Err(InvalidProbe("it holds a character that a URL does not"));
        }
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(at);
        let slash = if path.starts_with('/') { "" } else { "/" };
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port),
            _ => (host, "80"),
        };
        let http = HttpGet { host: host.to_owned(), path: format!("{slash}{path}") };
        Ok(Self { addresses: addresses(name, port)?, http: Some(http) })
    }
}

/// A guest asks nobody for names, so `localhost` and addresses are all there is.
fn addresses(host: &str, port: &str) -> Result<Vec<SocketAddr>, InvalidProbe> {
    let plain = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| plain && *port > 0);
    let port = port.ok_or(InvalidProbe("a port is a number from 1 to 65535"))?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let hosts = match bare {
        Some(host) => host.parse::<Ipv6Addr>().ok().map(|ip| vec![IpAddr::V6(ip)]),
        None if host == "localhost" => {
            Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
        }
        None => host.parse::<Ipv4Addr>().ok().map(|ip| vec![IpAddr::V4(ip)]),
    };
    let hosts = hosts.ok_or(InvalidProbe("its host is `localhost` or an address of the guest"))?;
    Ok(hosts.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(target: Result<ProbeTarget, InvalidProbe>) -> String {
        match target {
            Err(error) => error.to_string(),
            Ok(target) => {
                let addresses: Vec<_> = target.addresses.iter().map(ToString::to_string).collect();
                let http = target.http.map(|get| format!(" GET {} {}", get.host, get.path));
                addresses.join(" ") + &http.unwrap_or_default()
            }
        }
    }

    #[test]
    fn a_port_alone_is_the_guests_own() {
        for (text, expected) in [
            ("5432", "127.0.0.1:5432 [::1]:5432"),
            ("localhost:80", "127.0.0.1:80 [::1]:80"),
            ("10.0.0.2:80", "10.0.0.2:80"),
            ("[::1]:80", "[::1]:80"),
            ("db:80", "its host is `localhost` or an address of the guest"),
            ("::1:80", "its host is `localhost` or an address of the guest"),
            ("0", "a port is a number from 1 to 65535"),
            ("+80", "a port is a number from 1 to 65535"),
            ("65536", "a port is a number from 1 to 65535"),
            ("", "a port is a number from 1 to 65535"),
        ] {
            assert_eq!(shown(ProbeTarget::tcp(text)), expected, "{text}");
        }
    }

    #[test]
    fn a_url_is_a_host_and_what_to_ask_for() {
        for (text, expected) in [
            ("http://localhost", "127.0.0.1:80 [::1]:80 GET localhost /"),
            ("http://127.0.0.1:8080/a?b=/c", "127.0.0.1:8080 GET 127.0.0.1:8080 /a?b=/c"),
            ("http://[::1]?q", "[::1]:80 GET [::1] /?q"),
            ("http://[::1]:81/x", "[::1]:81 GET [::1]:81 /x"),
            ("https://localhost/", "TLS is for `exec` with a client of the image"),
            ("http://localhost/a b", "it holds a character that a URL does not"),
            ("http://localhost/\r\nX: y", "it holds a character that a URL does not"),
            ("http://user@localhost/", "its host is `localhost` or an address of the guest"),
            ("localhost:80", "it starts with `http://` and a host"),
        ] {
            assert_eq!(shown(ProbeTarget::http(text)), expected, "{text}");
        }
    }
}
