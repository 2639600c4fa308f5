//! Keys that are decoded, checked and planned, but that this version does not carry out.
//!
//! `up` refuses a sandbox that uses one: a key that is silently left out would be worse than none.

use crate::spec::{Name, NetworkPreset, NetworkSpec, Origins, Project, ReplaceOrder, SandboxSpec};

use super::Diagnostic;

/// An error for each key of a selected sandbox that this version does not carry out.
pub fn unsupported<'a>(
    project: &Project,
    selected: impl Iterator<Item = &'a Name>,
    origins: &Origins,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for name in selected {
        let Some(spec) = project.sandboxes.get(name) else { continue };
        for (key, what) in keys(spec) {
            found.push(diagnostic(name, &key, what, origins));
        }
    }
    found
}

fn diagnostic(name: &Name, key: &str, what: Option<&str>, origins: &Origins) -> Diagnostic {
    let what = what.map_or(String::new(), |what| format!(" = {what}"));
    let message =
        format!("`{key}{what}` of the sandbox `{name}` is not supported by this version yet");
    let diagnostic = Diagnostic::error(message).with_help(
        "remove it, or leave the sandbox out by naming others; `msb plan` and `msb config` read it",
    );
    match origins.locate(&format!("sandbox.{name}.{key}")) {
        Some((text, offset)) => diagnostic.at_key(&text, offset),
        None => diagnostic,
    }
}

type Found = (String, Option<&'static str>);

fn keys(spec: &SandboxSpec) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut note = |used: bool, key: &str, what| {
        if used {
            found.push((key.to_owned(), what));
        }
    };
    note(!spec.ports.is_empty(), "ports", None);
    note(!spec.secrets.is_empty(), "secrets", None);
    note(!spec.watch.is_empty(), "watch", None);
    note(spec.replicas != 1, "replicas", Some("more than 1"));
    let start_first = spec.lifecycle.replace == ReplaceOrder::StartFirst;
    note(start_first, "lifecycle.replace", Some("\"start-first\""));
    found.extend(network_keys(&spec.network));
    found
}

fn network_keys(network: &NetworkSpec) -> Vec<Found> {
    let policy = match network.policy {
        None | Some(NetworkPreset::None) => None,
        Some(NetworkPreset::PublicOnly) => Some("\"public-only\""),
        Some(NetworkPreset::AllowAll) => Some("\"allow-all\""),
    };
    let used = [
        ("policy", policy.is_some()),
        ("rules", !network.rules.is_empty()),
        ("default_action", network.default_action.is_some()),
        ("connect", !network.connect.is_empty()),
        ("block_domains", !network.block_domains.is_empty()),
        ("block_domain_suffixes", !network.block_domain_suffixes.is_empty()),
        ("dns_rebind_protection", network.dns_rebind_protection.is_some()),
        ("max_connections", network.max_connections.is_some()),
        ("tls", network.tls.is_some()),
    ];
    let name = |key: &str| (format!("network.{key}"), if key == "policy" { policy } else { None });
    used.into_iter().filter(|(_, used)| *used).map(|(key, _)| name(key)).collect()
}
