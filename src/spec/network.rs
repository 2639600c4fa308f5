//! Network policy, published ports and TLS interception, as declared.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Name;

/// The network of one sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// The preset; none when `rules` are stated or nothing is (which means `public-only`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<NetworkPreset>,
    /// Ordered rules; the first match decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<PolicyRule>,
    /// What happens when no rule matches; default deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_action: Option<Action>,
    /// Sandboxes it may connect to, beside those of `depends_on`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connect: Vec<Name>,
    /// Names that do not resolve (exact, lower case).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub block_domains: Vec<String>,
    /// Suffixes that do not resolve, apex included (lower case, with the leading dot).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub block_domain_suffixes: Vec<String>,
    /// Drop private answers for public names; default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_rebind_protection: Option<bool>,
    /// The most connections at a time; default 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// TLS interception; on when present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
}

/// A preset policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkPreset {
    /// No network device at all.
    None,
    /// Everything but loopback, private, link-local, metadata, multicast and reserved ranges.
    PublicOnly,
    /// Everything.
    AllowAll,
}

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Let it pass.
    Allow,
    /// Refuse it, quickly and visibly.
    Deny,
}

/// Which way a connection goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the guest.
    #[default]
    Outbound,
    /// To the guest.
    Inbound,
}

/// The transport that a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP for IPv4.
    Icmpv4,
    /// ICMP for IPv6.
    Icmpv6,
}

/// One rule. `destination` is validated text: `*`, an address or CIDR, a domain, `.suffix`, a
/// group (`loopback`, `private`, `link-local`, `metadata`, `multicast`), `host` or `sandbox:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// What a match does.
    pub action: Action,
    /// What it matches.
    pub destination: String,
    /// Only this transport.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Transport>,
    /// Only these ports, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<(u16, u16)>,
    /// Which way.
    #[serde(default)]
    pub direction: Direction,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The port on the host.
    pub host: HostPort,
    /// The port in the guest.
    pub guest: u16,
    /// The host address that listens; default 127.0.0.1.
    pub bind: IpAddr,
}

/// A port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostPort {
    /// A free one, kept across restarts.
    Auto,
    /// This one.
    #[serde(untagged)]
    Fixed(u16),
}

/// TLS interception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSpec {
    /// Domains (exact, or `*.suffix`) that are passed through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bypass: Vec<String>,
    /// Whether upstream certificates are verified; default true.
    pub verify_upstream: bool,
    /// TCP ports that are intercepted; default 443.
    pub intercepted_ports: Vec<u16>,
    /// Whether UDP on the intercepted ports is denied; default true.
    pub block_quic: bool,
    /// Host path of a CA certificate (PEM), together with `ca_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<String>,
    /// Host path of its key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_key: Option<String>,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(port) => write!(f, "{port}"),
        }
    }
}
