//! Volumes, secrets and registries.

use crate::manifest::image;
use crate::manifest::keys::{REGISTRY, SECRET, VOLUME};
use crate::manifest::report::Problem;
use crate::manifest::tree::{Entry, Node, Table};
use crate::spec::{RegistrySpec, SecretSpec, ViolationAction, VolumeKind, VolumeSpec};

use super::network::lower_case;
use super::{Lower, parsed, string_map, word};

impl Lower<'_> {
    pub(crate) fn volume(&mut self, node: &Node) -> Option<VolumeSpec> {
        let table = self.open(node, &VOLUME)?;
        let value = |key: &str| table.get(key).map(|entry| &entry.node);
        let flag = |key: &str| value(key).and_then(Node::as_bool).unwrap_or(false);
        let quota: Option<crate::spec::ByteSize> = value("quota").and_then(parsed);
        if let (Some(quota), Some(node)) = (quota, value("quota"))
            && quota < crate::spec::SandboxSpec::MIN_DISK
        {
            let least = crate::spec::SandboxSpec::MIN_DISK;
            self.report(
                Problem::new(node.span, "the quota is too small for a file system")
                    .help(format!("write at least `\"{least}\"`")),
            );
        }
        let kind = value("kind").and_then(word).unwrap_or_default();
        self.check_volume(table, kind);
        Some(VolumeSpec {
            kind,
            quota,
            labels: value("labels").map(string_map).unwrap_or_default(),
            protect: flag("protect"),
            external: flag("external"),
        })
    }

    fn check_volume(&mut self, table: &Table, kind: VolumeKind) {
        let external = table.get("external").and_then(|entry| entry.node.as_bool());
        if external == Some(true) {
            for entry in table.entries.iter().filter(|entry| entry.key != "external") {
                let message = format!("an external volume has its own `{}`", entry.key);
                let problem = Problem::new(entry.key_span, message)
                    .label("of no effect")
                    .help("`msb volume create` states it; remove it here");
                self.report(problem);
            }
        } else if let (VolumeKind::Dir, Some(quota)) = (kind, table.get("quota")) {
            let problem = Problem::new(quota.key_span, "a directory cannot be held to a quota")
                .label("`kind = \"dir\"`")
                .help("remove it, or write `kind = \"disk\"`, whose size is a hard limit");
            self.report(problem);
        }
    }

    pub(crate) fn secret(&mut self, node: &Node) -> Option<SecretSpec> {
        let table = self.open(node, &SECRET)?;
        let value = |key: &str| table.get(key).map(|entry| &entry.node);
        let allow_hosts = value("allow_hosts").map(lower_case).unwrap_or_default();
        let patterns = value("allow_host_patterns").map(lower_case).unwrap_or_default();
        let lists = ["allow_hosts", "allow_host_patterns"];
        if allow_hosts.is_empty()
            && patterns.is_empty()
            && let Some(list) = lists.iter().find_map(|key| table.get(key))
            && list.node.as_list().is_some_and(<[Node]>::is_empty)
        {
            self.report(
                Problem::new(list.node.span, "the secret may go to no host")
                    .label("empty")
                    .help("name at least one host in `allow_hosts` or `allow_host_patterns`"),
            );
        }
        let from = value("from").and_then(|node| self.source(node));
        let env = value("env")?.as_str()?.to_owned();
        let placeholder = match value("placeholder") {
            Some(node) => node.as_str()?.to_owned(),
            None => format!("$MSB_{env}"),
        };
        Some(SecretSpec {
            env,
            from: from?,
            allow_hosts,
            allow_host_patterns: patterns,
            placeholder,
            require_tls: value("require_tls").and_then(Node::as_bool).unwrap_or(true),
            on_violation: value("on_violation")
                .and_then(word::<ViolationAction>)
                .unwrap_or_default(),
        })
    }

    pub(crate) fn registry(&mut self, entry: &Entry) -> Option<RegistrySpec> {
        let table = self.open(&entry.node, &REGISTRY)?;
        let value = |key: &str| table.get(key).map(|entry| &entry.node);
        let insecure = value("insecure").and_then(Node::as_bool).unwrap_or(false);
        if insecure && !image::is_loopback(&entry.key) {
            let span = value("insecure").map_or(entry.key_span, |node| node.span);
            self.report(
                Problem::new(span, "plain HTTP is for registries on loopback only")
                    .help("remove `insecure`, or reach the registry through `localhost`"),
            );
        }
        Some(RegistrySpec {
            username: value("username").and_then(Node::as_str).map(str::to_owned),
            password: value("password").and_then(|node| self.source(node)),
            insecure,
        })
    }
}
