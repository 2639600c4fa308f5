//! A project as a Sandboxfile, with everything merged and resolved.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::spec::{
    Image, ImageSource, Mount, MountSource, Patch, PortMapping, Project, RegistrySpec,
    RestartPolicy, SandboxSpec, SecretSpec, VolumeSpec,
};

/// Lists longer than this are written over several lines.
const LINE: usize = 100;

/// A Sandboxfile that declares exactly `project`. Paths are absolute; profiles, sandboxes that are
/// not selected and defaults are all there.
pub fn canonical_toml(project: &Project) -> String {
    let mut out = String::new();
    line(&mut out, "name", &Value::from(project.name.as_str()));
    for (name, spec) in &project.sandboxes {
        table(&mut out, "sandbox", name.as_str(), &sandbox(spec));
    }
    for (name, spec) in &project.volumes {
        table(&mut out, "volume", name.as_str(), &volume(spec));
    }
    for (name, spec) in &project.secrets {
        table(&mut out, "secret", name.as_str(), &secret(spec));
    }
    for (host, spec) in &project.registries {
        table(&mut out, "registry", host, &registry(spec));
    }
    out
}

/// The serialized form; the types of `spec` always have one.
fn tree(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn object(value: &impl Serialize) -> Map<String, Value> {
    match tree(value) {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn sandbox(spec: &SandboxSpec) -> Map<String, Value> {
    let mut map = object(spec);
    map.insert("image".into(), image(&spec.image));
    map.insert("restart".into(), restart(spec.restart).into());
    if !spec.volumes.is_empty() {
        let mounts = spec.volumes.iter().map(|(path, m)| (path.to_string(), mount(m)));
        map.insert("volumes".into(), Value::Object(mounts.collect()));
    }
    if !spec.patches.is_empty() {
        map.insert("patches".into(), spec.patches.iter().map(patch).collect());
    }
    if !spec.ports.is_empty() {
        map.insert("ports".into(), spec.ports.iter().map(port).collect());
    }
    let rules = map.get_mut("network").and_then(|network| network.get_mut("rules"));
    for (rule, declared) in
        rules.and_then(Value::as_array_mut).into_iter().flatten().zip(&spec.network.rules)
    {
        if let Some((first, last)) = declared.port {
            rule["port"] = Value::from(format!("{first}-{last}"));
        }
    }
    map
}

fn image(image: &Image) -> Value {
    let mut map = Map::new();
    match &image.source {
        ImageSource::Oci(text) => map.insert("oci".into(), text.as_str().into()),
        ImageSource::Dir(path) => map.insert("dir".into(), path.as_str().into()),
        ImageSource::Archive(path) => map.insert("archive".into(), path.as_str().into()),
        ImageSource::Disk { path, fstype, partition, writable } => {
            map.extend(partition.map(|number| ("partition".to_owned(), number.into())));
            map.extend(fstype.as_ref().map(|text| ("fstype".to_owned(), text.as_str().into())));
            map.insert("writable".into(), (*writable).into());
            map.insert("disk".into(), path.as_str().into())
        }
    };
    match &image.platform {
        Some(platform) => {
            map.insert("platform".into(), platform.as_str().into());
        }
        None => {
            if let ImageSource::Oci(text) = &image.source {
                return Value::from(text.as_str());
            }
        }
    }
    Value::Object(map)
}

fn restart(policy: RestartPolicy) -> String {
    match policy {
        RestartPolicy::No => "no".to_owned(),
        RestartPolicy::Always => "always".to_owned(),
        RestartPolicy::OnFailure { max: None } => "on-failure".to_owned(),
        RestartPolicy::OnFailure { max: Some(max) } => format!("on-failure:{max}"),
        RestartPolicy::UnlessStopped => "unless-stopped".to_owned(),
    }
}

fn octal(mode: u32) -> Value {
    Value::from(format!("{mode:04o}"))
}

fn mount(mount: &Mount) -> Value {
    let mut map = Map::new();
    match &mount.source {
        MountSource::Bind { path, create } => {
            map.insert("bind".into(), path.as_str().into());
            map.insert("create".into(), (*create).into());
        }
        MountSource::Named { volume, .. } => {
            map.insert("named".into(), volume.as_str().into());
        }
        MountSource::Tmpfs { size, mode } => {
            map.insert("tmpfs".into(), true.into());
            map.extend(size.map(|size| ("size".to_owned(), size.to_string().into())));
            map.extend(mode.map(|mode| ("mode".to_owned(), octal(mode))));
        }
    }
    map.insert("readonly".into(), mount.readonly.into());
    Value::Object(map)
}

fn patch(patch: &Patch) -> Value {
    let mut map = object(patch);
    let kind = match map.remove("kind") {
        Some(Value::String(kind)) => kind,
        _ => String::new(),
    };
    let subject = match patch {
        Patch::CopyFile { .. } | Patch::CopyDir { .. } => "source",
        Patch::Symlink { .. } => "target",
        Patch::Text { .. } | Patch::Mkdir { .. } | Patch::Append { .. } | Patch::Remove { .. } => {
            "path"
        }
    };
    let subject = map.remove(subject).unwrap_or_default();
    match map.get("mode").and_then(Value::as_u64).and_then(|mode| u32::try_from(mode).ok()) {
        Some(mode) => map.insert("mode".into(), octal(mode)),
        None => map.remove("mode"),
    };
    let mut whole = Map::from_iter([(kind, subject)]);
    whole.extend(map);
    Value::Object(whole)
}

fn port(port: &PortMapping) -> Value {
    tree(port)
}

fn volume(spec: &VolumeSpec) -> Map<String, Value> {
    let mut map = object(spec);
    if spec.external {
        // Everything else is stated where it was made.
        map.retain(|key, _| key == "external");
    }
    map
}

fn secret(spec: &SecretSpec) -> Map<String, Value> {
    object(spec)
}

fn registry(spec: &RegistrySpec) -> Map<String, Value> {
    object(spec)
}

/// A key that is a table of its own where it is not small.
const TABLES: [&str; 4] = ["env", "labels", "volumes", "network"];

fn table(out: &mut String, section: &str, name: &str, map: &Map<String, Value>) {
    let header = format!("{section}.{}", key(name));
    let _ = write!(out, "\n[{header}]\n");
    let is_table =
        |entry: &(&String, &Value)| TABLES.contains(&entry.0.as_str()) && entry.1.is_object();
    for (name, value) in map.iter().filter(|entry| !is_table(entry)) {
        line(out, name, value);
    }
    for (name, value) in map.iter().filter(is_table) {
        let Some(inner) = value.as_object().filter(|inner| !inner.is_empty()) else { continue };
        let _ = write!(out, "\n[{header}.{}]\n", key(name));
        for (name, value) in inner {
            line(out, name, value);
        }
    }
}

fn line(out: &mut String, name: &str, value: &Value) {
    if value.is_null() {
        return;
    }
    let text = inline(value);
    let is_long = text.len() + name.len() > LINE;
    match value.as_array().filter(|items| is_long && !items.is_empty()) {
        None => {
            let _ = writeln!(out, "{} = {text}", key(name));
        }
        Some(items) => {
            let _ = writeln!(out, "{} = [", key(name));
            for item in items {
                let _ = writeln!(out, "  {},", inline(item));
            }
            let _ = writeln!(out, "]");
        }
    }
}

/// A key, in quotes where it needs them.
fn key(name: &str) -> String {
    let is_bare = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if is_bare { name.to_owned() } else { quoted(name, false) }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => quoted(text, true),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let entries: Vec<_> = map
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| format!("{} = {}", key(name), inline(value)))
                .collect();
            if entries.is_empty() {
                "{}".to_owned()
            } else {
                format!("{{ {} }}", entries.join(", "))
            }
        }
    }
}

/// A basic string; in values a `$` is doubled, so that it is no variable.
fn quoted(text: &str, is_value: bool) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '$' if is_value => out.push_str("$$"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
