//! Documentation of keys, made from the table of keys.

use std::fmt::Write as _;

use super::keys::{DEFAULTS, ROOT, SANDBOX, TableDef, Ty};
use super::report::closest;

/// Documentation of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The key's dotted path with `*` for names: `sandbox.*.healthcheck.interval`.
    pub path: String,
    /// Its type in words.
    pub kind: String,
    /// Its default in words; none when there is none.
    pub default: Option<String>,
    /// What it means.
    pub meaning: String,
    /// Whether `up` carries it out in this version.
    pub supported: bool,
    /// The keys of the table, or of each table, that it is; none where it is not one.
    pub keys: Vec<&'static str>,
}

/// A key whose name is close to that of `key`, for a hint.
pub fn closest_key(key: &str) -> Option<&'static str> {
    let last = key.rsplit('.').next().unwrap_or(key);
    closest(last, SANDBOX.keys.iter().chain(ROOT.keys).map(|key| key.name))
}

/// The documentation of `key`: a dotted path (`sandbox.api.memory`, `volume.*.quota`,
/// `sandbox.api.ports.guest`) or the name of a sandbox's key alone (`memory`).
pub fn explain(key: &str) -> Option<Explanation> {
    let segments: Vec<&str> = key
        .split('.')
        .map(|segment| segment.strip_suffix("[]").unwrap_or(segment))
        .filter(|segment| !segment.is_empty())
        .collect();
    walk(&ROOT, "", &segments).or_else(|| {
        // The name of the sandbox may be left out, and `sandbox` too.
        let rest = segments.strip_prefix(&["sandbox"]).unwrap_or(&segments);
        walk(&SANDBOX, "sandbox.*.", rest)
    })
}

/// Follows `segments` from the keys of `def`, which stands at `prefix`.
fn walk(def: &'static TableDef, prefix: &str, segments: &[&str]) -> Option<Explanation> {
    let (first, rest) = segments.split_first()?;
    let key = def.key(first)?;
    let path = format!("{prefix}{first}");
    if rest.is_empty() {
        let kind = key.ty.words();
        let default = (!key.default.is_empty()).then(|| key.default.replace('`', ""));
        return Some(Explanation {
            path,
            kind: kind.replace('`', ""),
            default,
            meaning: key.doc.replace('`', ""),
            supported: key.supported,
            keys: table_of(&key.ty)
                .map_or_else(Vec::new, |table| table.keys.iter().map(|key| key.name).collect()),
        });
    }
    below(&key.ty, &path, rest)
}

fn below(ty: &'static Ty, path: &str, segments: &[&str]) -> Option<Explanation> {
    if let Some(item) = ty.as_list().filter(|item| item.as_table().is_some()) {
        // The index of an item may be left out.
        let is_index =
            segments.first().is_some_and(|s| *s == "*" || s.bytes().all(|b| b.is_ascii_digit()));
        let rest = if is_index { &segments[1..] } else { segments };
        return walk(item.as_table()?, &format!("{path}[]."), rest);
    }
    if let Some(value) = ty.as_map() {
        // Names may hold dots, so every way of splitting is tried.
        let tries = (1..segments.len()).map(|taken| &segments[taken..]);
        for rest in tries {
            let found = match value.as_table() {
                Some(def) => walk(def, &format!("{path}.*."), rest),
                None => None,
            };
            if found.is_some() {
                return found;
            }
        }
        return None;
    }
    walk(ty.as_table()?, &format!("{path}."), segments)
}

/// The table that a value is, or that each item of it is.
fn table_of(ty: &'static Ty) -> Option<&'static TableDef> {
    ty.as_list().or(ty.as_map()).unwrap_or(ty).as_table()
}

/// The reference section of `docs/sandboxfile.md`.
pub fn markdown() -> String {
    let mut out = String::new();
    let mut pending: Vec<&'static TableDef> = vec![&ROOT];
    let mut done: Vec<&'static str> = Vec::new();
    while !pending.is_empty() {
        let def = pending.remove(0);
        if done.contains(&def.path) {
            continue;
        }
        done.push(def.path);
        section(&mut out, def);
        let tables = def.keys.iter().filter_map(|key| table_of(&key.ty));
        let tables: Vec<_> = tables.filter(|table| !std::ptr::eq(*table, &DEFAULTS)).collect();
        // Depth first: a table of a sandbox comes before those of the file.
        pending.splice(0..0, tables);
    }
    out
}

fn section(out: &mut String, def: &TableDef) {
    let title =
        if def.path.is_empty() { "Top of the file".to_owned() } else { format!("`{}`", def.path) };
    let _ = write!(out, "\n### {title}\n\n{}\n\n", def.doc);
    let _ = writeln!(out, "| key | type | default | meaning |");
    let _ = writeln!(out, "|---|---|---|---|");
    for key in def.keys {
        let later = if key.supported { "" } else { " *(not carried out yet)*" };
        let kind = key.ty.words().replace('|', "\\|");
        let _ = writeln!(out, "| `{}` | {kind} | {} | {}{later} |", key.name, key.default, key.doc);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_path_and_by_name() {
        let path = |key: &str| explain(key).map(|e| e.path);
        assert_eq!(path("memory").as_deref(), Some("sandbox.*.memory"));
        assert_eq!(path("sandbox.api.memory").as_deref(), Some("sandbox.*.memory"));
        assert_eq!(path("healthcheck.interval").as_deref(), Some("sandbox.*.healthcheck.interval"));
        assert_eq!(path("volume.*.quota").as_deref(), Some("volume.*.quota"));
        assert_eq!(path("ports.0.guest").as_deref(), Some("sandbox.*.ports[].guest"));
        assert_eq!(path("sandbox.a.patches.mode").as_deref(), Some("sandbox.*.patches[].mode"));
        assert_eq!(
            path("registry.registry.example.com.username").as_deref(),
            Some("registry.*.username")
        );
        assert_eq!(path("network.tls.bypass").as_deref(), Some("sandbox.*.network.tls.bypass"));
        assert_eq!(path("sandbox.memory").as_deref(), Some("sandbox.*.memory"));
        assert_eq!(path("nothing"), None);
        assert_eq!(path(""), None);
        let memory = explain("memory").unwrap();
        assert_eq!(memory.default.as_deref(), Some("\"512MiB\""));
        assert!(memory.supported && !explain("ports").unwrap().supported);
        assert!(memory.keys.is_empty() && explain("sandbox").unwrap().keys.contains(&"memory"));
        assert_eq!(closest_key("sandbox.a.memroy"), Some("memory"));
    }
}
