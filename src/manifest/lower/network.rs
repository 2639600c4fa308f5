//! Network policies.

use std::net::IpAddr;

use crate::manifest::keys::{NETWORK, TLS, kinds};
use crate::manifest::report::Problem;
use crate::manifest::tree::{Node, Table};
use crate::spec::{Direction, Name, NetworkSpec, PolicyRule, TlsSpec, Transport};

use super::{Kind, Lower, ports, strings, word};

/// Destination groups.
const GROUPS: [&str; 5] = ["loopback", "private", "link-local", "metadata", "multicast"];
const SANDBOX: &str = "sandbox:";

/// Checks the text of a rule's destination.
pub(crate) fn destination(text: &str) -> Result<(), String> {
    if text == "*" || text == "host" || GROUPS.contains(&text) {
        return Ok(());
    }
    if let Some(name) = text.strip_prefix(SANDBOX) {
        return Name::new(name).map(|_| ()).map_err(|error| error.to_string());
    }
    if let Some((address, length)) = text.split_once('/') {
        let Ok(address) = address.parse::<IpAddr>() else {
            return Err("what is before the `/` is not an address".to_owned());
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        return match length.parse::<u8>() {
            Ok(length) if plain && length <= most => host_bits(address, length),
            _ => Err(format!("the prefix length is a number from 0 to {most}")),
        };
    }
    if text.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let last = text.rsplit('.').next().unwrap_or("");
    if text.contains(':') || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it is not an address".to_owned());
    }
    kinds::domain(text.strip_prefix('.').unwrap_or(text))
}

/// Refuses a CIDR whose address has bits behind the prefix: it is most likely a mistake.
fn host_bits(address: IpAddr, length: u8) -> Result<(), String> {
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32_u8),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let behind = if length == 128 { 0 } else { bits << length };
    if behind == 0 || length == width {
        Ok(())
    } else {
        Err(format!("the address has bits behind the first {length}"))
    }
}

impl Lower<'_> {
    /// A network policy in place, or the name of a shared one.
    pub(super) fn network(&mut self, node: &Node) -> Option<NetworkSpec> {
        if node.as_table().is_some() {
            return self.network_table(node);
        }
        if let Some(preset @ ("none" | "public-only" | "allow-all")) = node.as_str()
            && let Ok(name) = Name::new(preset)
            && !self.networks.contains_key(&name)
        {
            let problem = Problem::new(node.span, format!("no network is called `{preset}`"))
                .help(format!("a preset is written `network = {{ policy = \"{preset}\" }}`"));
            self.report(problem);
            return None;
        }
        let name = self.reference(node, Kind::Network)?;
        let networks = self.networks;
        self.network_table(networks.get(&name)?)
    }

    pub(crate) fn network_table(&mut self, node: &Node) -> Option<NetworkSpec> {
        let table = self.open(node, &NETWORK)?;
        let mut spec = NetworkSpec::default();
        for entry in &table.entries {
            let node = &entry.node;
            match entry.key.as_str() {
                "policy" => spec.policy = word(node),
                "default_action" => spec.default_action = word(node),
                "rules" => {
                    let items = node.as_list().unwrap_or_default();
                    spec.rules = items.iter().filter_map(|item| self.rule(item)).collect();
                }
                "connect" => {
                    let items = node.as_list().unwrap_or_default();
                    spec.connect = items
                        .iter()
                        .filter_map(|item| self.reference(item, Kind::Sandbox))
                        .collect();
                }
                "block_domains" => spec.block_domains = lower_case(node),
                "block_domain_suffixes" => spec.block_domain_suffixes = lower_case(node),
                "dns_rebind_protection" => spec.dns_rebind_protection = node.as_bool(),
                "max_connections" => {
                    spec.max_connections = node.as_int().and_then(|n| u32::try_from(n).ok());
                }
                "tls" => spec.tls = self.tls(node),
                _ => {}
            }
        }
        Some(spec)
    }

    fn rule(&mut self, node: &Node) -> Option<PolicyRule> {
        let table = node.as_table()?;
        let value = |key: &str| table.get(key).map(|entry| &entry.node);
        let rule = PolicyRule {
            action: word(value("action")?)?,
            destination: self.destination(value("destination")?)?,
            protocol: value("protocol").and_then(word),
            port: value("port").and_then(|node| match node.as_int() {
                Some(port) => u16::try_from(port).ok().map(|port| (port, port)),
                None => ports::range(node.as_str()?).ok(),
            }),
            direction: value("direction").and_then(word::<Direction>).unwrap_or_default(),
        };
        self.check_rule(&rule, table);
        Some(rule)
    }

    fn destination(&mut self, node: &Node) -> Option<String> {
        let text = node.as_str()?;
        destination(text).ok()?;
        let Some(name) = text.strip_prefix(SANDBOX) else {
            return Some(text.to_ascii_lowercase());
        };
        let shown = node.shown(self.files);
        let shown = shown.strip_prefix(SANDBOX).unwrap_or(&shown).to_owned();
        let name = self.resolve(name, &shown, node.span, Kind::Sandbox)?;
        Some(format!("{SANDBOX}{name}"))
    }

    fn check_rule(&mut self, rule: &PolicyRule, table: &Table) {
        let is_icmp = matches!(rule.protocol, Some(Transport::Icmpv4 | Transport::Icmpv6));
        if let (true, Some(port)) = (is_icmp, table.get("port")) {
            let problem = Problem::new(port.key_span, "ICMP has no ports")
                .help("remove `port`, or choose the protocol `tcp` or `udp`");
            self.report(problem);
        }
    }

    fn tls(&mut self, node: &Node) -> Option<TlsSpec> {
        let table = self.open(node, &TLS)?;
        let value = |key: &str| table.get(key).map(|entry| &entry.node);
        let flag = |key: &str| value(key).and_then(Node::as_bool).unwrap_or(true);
        let ports = value("intercepted_ports").and_then(Node::as_list).map(|items| {
            items.iter().filter_map(|n| n.as_int().and_then(|n| u16::try_from(n).ok())).collect()
        });
        Some(TlsSpec {
            bypass: value("bypass").map(lower_case).unwrap_or_default(),
            verify_upstream: flag("verify_upstream"),
            intercepted_ports: ports.unwrap_or_else(|| vec![443]),
            block_quic: flag("block_quic"),
            ca_cert: value("ca_cert").and_then(|node| self.host_path(node)),
            ca_key: value("ca_key").and_then(|node| self.host_path(node)),
        })
    }
}

/// A list of domains, in lower case.
pub(super) fn lower_case(node: &Node) -> Vec<String> {
    let texts = strings(node).unwrap_or_default();
    texts.into_iter().map(|text| text.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        for good in [
            "*",
            "host",
            "metadata",
            "10.0.0.0/8",
            "1.2.3.4",
            "::1",
            "fd00::/8",
            "example.com",
            ".openai.com",
            "sandbox:infra/db",
            "0.0.0.0/0",
            "1.2.3.4/32",
            "::/0",
            "::1/128",
        ] {
            assert_eq!(destination(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.300",
            "fd00::/129",
            "sandbox:",
            "sandbox:X",
            "a..b",
            "*.x",
            "http://x",
            "1.2.3",
            "x:80",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "fd00::1/8",
        ] {
            assert!(destination(bad).is_err(), "{bad}");
        }
    }
}
