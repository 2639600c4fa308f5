//! Mounts and patches.

use std::collections::BTreeMap;

use crate::manifest::keys::MOUNT;
use crate::manifest::report::{Problem, Span};
use crate::manifest::tree::Node;
use crate::spec::{GuestPath, Mount, MountSource, Name, Patch};

use super::{Kind, Lower, VolumeUse, parsed};

/// Where the guest's agent keeps what is its own, scripts among it.
const AGENTS: &str = "/.msb";

/// Permission bits as octal text.
fn mode(node: &Node) -> Option<u32> {
    u32::from_str_radix(node.as_str()?, 8).ok()
}

impl Lower<'_> {
    pub(super) fn mounts(&mut self, node: &Node, sandbox: &Name) -> BTreeMap<GuestPath, Mount> {
        let mut mounts = BTreeMap::new();
        let mut places: BTreeMap<GuestPath, Span> = BTreeMap::new();
        let Some(table) = node.as_table() else { return mounts };
        for entry in &table.entries {
            let mount = self.mount(&entry.node);
            let Ok(target) = GuestPath::new(&entry.key) else { continue };
            if target.is_root() {
                let problem = Problem::new(entry.key_span, "nothing can be mounted on `/`")
                    .help("the root comes from `image`");
                self.report(problem);
                continue;
            }
            if GuestPath::new(AGENTS).is_ok_and(|own| target.is_within(&own)) {
                let problem = Problem::new(entry.key_span, format!("`{target}` cannot be mounted"));
                self.report(problem.label(format!("the guest mounts its own {AGENTS}")));
            }
            if let Some(first) = places.insert(target.clone(), entry.key_span) {
                let problem = Problem::new(entry.key_span, format!("`{target}` is mounted twice"))
                    .label("the same path, written differently")
                    .also(first, "first here");
                self.report(problem);
            }
            if let Some(mount) = mount {
                if let MountSource::Named { volume, .. } = &mount.source {
                    let (sandbox, volume) = (sandbox.clone(), volume.clone());
                    let (readonly, span) = (mount.readonly, entry.key_span);
                    self.volume_uses.push(VolumeUse { sandbox, volume, readonly, span });
                }
                mounts.insert(target, mount);
            }
        }
        mounts
    }

    fn mount(&mut self, node: &Node) -> Option<Mount> {
        let table = self.open(node, &MOUNT)?;
        let value = |key: &str| table.get(key).map(|entry| &entry.node);
        let flag = |key: &str| value(key).and_then(Node::as_bool).unwrap_or(false);
        let source = if let Some(bind) = value("bind") {
            MountSource::Bind { path: self.host_path(bind)?, create: flag("create") }
        } else if let Some(named) = value("named") {
            MountSource::Named { volume: self.reference(named, Kind::Volume)?, external: false }
        } else {
            value("tmpfs")?;
            let size: Option<crate::spec::ByteSize> = value("size").and_then(parsed);
            if let (Some(0), Some(node)) = (size.map(|size| size.bytes()), value("size")) {
                self.report(Problem::new(node.span, "a tmpfs of size 0 holds nothing"));
            }
            MountSource::Tmpfs { size, mode: value("mode").and_then(mode) }
        };
        Some(Mount { source, readonly: flag("readonly") })
    }

    /// Refuses what no guest would see.
    fn check_target(&mut self, kind: &str, node: &Node) {
        let Some(path) = parsed::<GuestPath>(node) else { return };
        if path.is_root() && !matches!(kind, "mkdir" | "copy_dir") {
            let problem = Problem::new(node.span, format!("a `{kind}` patch cannot be about `/`"));
            self.report(problem.help("name a file below it"));
        }
        for mounted in ["/dev", "/proc", "/sys", AGENTS] {
            if GuestPath::new(mounted).is_ok_and(|mounted| path.is_within(&mounted)) {
                let problem = Problem::new(node.span, format!("`{path}` cannot be patched"));
                let problem = problem.label(format!("the guest mounts its own {mounted}"));
                self.report(problem.help("patch another path"));
            }
        }
    }

    pub(super) fn patch(&mut self, node: &Node) -> Option<Patch> {
        let table = node.as_table()?;
        let value = |key: &str| table.get(key).map(|entry| &entry.node);
        let guest = |key: &str| value(key).and_then(parsed::<GuestPath>);
        let content = || value("content").and_then(Node::as_str).map(str::to_owned);
        let replace = value("replace").and_then(Node::as_bool).unwrap_or(false);
        let mode = value("mode").and_then(mode);
        let kinds = ["text", "mkdir", "append", "copy_file", "copy_dir", "symlink", "remove"];
        let kind = kinds.into_iter().find(|kind| value(kind).is_some())?;
        let allowed: &[&str] = match kind {
            "text" => &["content", "mode", "replace"],
            "mkdir" => &["mode"],
            "append" => &["content"],
            "copy_file" => &["to", "mode", "replace"],
            "copy_dir" => &["to", "replace"],
            "symlink" => &["at", "replace"],
            _ => &[],
        };
        for entry in &table.entries {
            let key = entry.key.as_str();
            if !kinds.contains(&key) && !allowed.contains(&key) {
                let message = format!("a `{kind}` patch has no `{key}`");
                self.report(Problem::new(entry.key_span, message));
            }
        }
        let target = match kind {
            "copy_file" | "copy_dir" => "to",
            "symlink" => "at",
            kind => kind,
        };
        self.check_target(kind, value(target)?);
        Some(match kind {
            "text" => Patch::Text { path: guest(kind)?, content: content()?, mode, replace },
            "mkdir" => Patch::Mkdir { path: guest(kind)?, mode },
            "append" => Patch::Append { path: guest(kind)?, content: content()? },
            "copy_file" => {
                let source = self.host_path(value(kind)?)?;
                Patch::CopyFile { source, to: guest("to")?, mode, replace, digest: None }
            }
            "copy_dir" => {
                let source = self.host_path(value(kind)?)?;
                Patch::CopyDir { source, to: guest("to")?, replace, digest: None }
            }
            "symlink" => {
                let target = value(kind)?.as_str()?.to_owned();
                Patch::Symlink { target, at: guest("at")?, replace }
            }
            _ => Patch::Remove { path: guest(kind)? },
        })
    }
}
