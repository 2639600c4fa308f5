//! Published ports.

use std::net::{IpAddr, Ipv4Addr};

use crate::manifest::report::Problem;
use crate::manifest::tree::{Node, Value};
use crate::spec::{HostPort, Name, PortMapping};

use super::{HostPortUse, Lower};

/// Listens here unless told otherwise.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A port number.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if plain && port > 0 && !text.starts_with('0') => Ok(port),
        _ => Err("a port is a number from 1 to 65535".to_owned()),
    }
}

/// `443` or `8000-8999`.
pub(crate) fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err("the range ends before it starts".to_owned());
    }
    Ok((first, last))
}

/// `8080:80`, `auto:80` or `127.0.0.1:8080:80`.
pub(crate) fn parse(text: &str) -> Result<PortMapping, String> {
    let form = || "it has the form host:guest".to_owned();
    let (rest, guest) = text.rsplit_once(':').ok_or_else(form)?;
    let guest = port(guest)?;
    let (bind, host) = match rest.rsplit_once(':') {
        None => (LOOPBACK, rest),
        Some((address, host)) => {
            let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
            let address = inner.unwrap_or(address);
            let parsed = address.parse::<IpAddr>().ok().filter(|a| a.is_ipv6() == inner.is_some());
            (parsed.ok_or("the part before the ports is not an address")?, host)
        }
    };
    let host = if host == "auto" { HostPort::Auto } else { HostPort::Fixed(port(host)?) };
    Ok(PortMapping { host, guest, bind })
}

fn number(node: &Node) -> Option<u16> {
    node.as_int().and_then(|value| u16::try_from(value).ok()).filter(|port| *port > 0)
}

/// A mapping in either form; none when it is of a wrong shape.
fn read(node: &Node) -> Option<PortMapping> {
    let table = match &node.value {
        Value::String(text, _) => return parse(text).ok(),
        Value::Table(table) => table,
        _ => return None,
    };
    let host = &table.get("host")?.node;
    let host = match host.as_str() {
        Some("auto") => HostPort::Auto,
        _ => HostPort::Fixed(number(host)?),
    };
    let bind = match table.get("bind") {
        Some(entry) => entry.node.as_str()?.parse().ok()?,
        None => LOOPBACK,
    };
    Some(PortMapping { host, guest: number(&table.get("guest")?.node)?, bind })
}

/// What makes two mappings the same one when files are merged.
pub(crate) fn identity(node: &Node) -> Option<(HostPort, u16)> {
    let mapping = read(node)?;
    Some(match mapping.host {
        HostPort::Auto => (HostPort::Auto, mapping.guest),
        fixed @ HostPort::Fixed(_) => (fixed, 0),
    })
}

impl Lower<'_> {
    pub(super) fn ports(&mut self, node: &Node, sandbox: &Name) -> Vec<PortMapping> {
        let mut ports = Vec::new();
        for item in node.as_list().unwrap_or_default() {
            let Some(mapping) = read(item) else { continue };
            if let HostPort::Fixed(port) = mapping.host {
                let (sandbox, bind) = (sandbox.clone(), mapping.bind);
                self.host_ports.push(HostPortUse { sandbox, bind, port, span: item.span });
            }
            ports.push(mapping);
        }
        ports
    }

    /// Reports host ports that are wanted twice.
    pub(crate) fn check_host_ports(&mut self) {
        let mut uses = std::mem::take(&mut self.host_ports);
        uses.sort_by_key(|used| (used.port, used.span.file, used.span.start));
        for pair in uses.chunk_by(|a, b| a.port == b.port) {
            for (at, used) in pair.iter().enumerate().skip(1) {
                let overlaps = |other: &&HostPortUse| {
                    other.bind == used.bind
                        || other.bind.is_unspecified()
                        || used.bind.is_unspecified()
                };
                let Some(first) = pair[..at].iter().find(overlaps) else { continue };
                if first.span == used.span {
                    let both = format!("`{}` and `{}`", first.sandbox, used.sandbox);
                    self.report(
                        Problem::new(
                            used.span,
                            format!("host port {} is published twice", used.port),
                        )
                        .label(format!("inherited by {both}"))
                        .help("give each its own host port, or use `\"auto:GUEST\"`"),
                    );
                    continue;
                }
                self.report(
                    Problem::new(used.span, format!("host port {} is published twice", used.port))
                        .label(format!("by `{}`", used.sandbox))
                        .also(first.span, format!("and by `{}`", first.sandbox))
                        .help("use another port of the host, or `\"auto:GUEST\"` for a free one"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings() {
        let text =
            |text: &str| parse(text).map(|p| format!("{} {} {}", p.bind, p.host, p.guest)).ok();
        assert_eq!(text("8080:80").as_deref(), Some("127.0.0.1 8080 80"));
        assert_eq!(text("auto:80").as_deref(), Some("127.0.0.1 auto 80"));
        assert_eq!(text("0.0.0.0:1:2").as_deref(), Some("0.0.0.0 1 2"));
        assert_eq!(text("[::1]:1:2").as_deref(), Some("::1 1 2"));
        for bad in
            ["80", "0:80", "80:0", "80:65536", "x:80", "1.2.3:1:2", "::1:1:2", "+1:2", "a:b:c:1"]
        {
            assert_eq!(text(bad), None, "{bad}");
        }
        assert_eq!(range("8000-8999"), Ok((8000, 8999)));
        assert!(range("2-1").is_err());
    }
}
