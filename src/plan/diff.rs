//! The typed difference of two specs.

use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde_json::{Map, Value};

use crate::spec::{Name, Origins, SandboxSpec};

use super::{ChangeClass, FieldChange, PlanError, PlannedSpec, SpecHash};

/// The longest value in a rendering, in characters.
const MAX_SHOWN: usize = 60;

/// What stands for a value that is not shown.
const HIDDEN: &str = "(hidden)";

/// Fields whose values may hold what nobody should read over a shoulder or in a log.
const HIDDEN_FIELDS: &[&str] = &["env", "scripts", "patches"];

/// The field whose items are compared one by one.
const PATCHES: &str = "patches";

/// How many digits of a source's digest are shown.
const DIGEST_DIGITS: usize = 12;

/// The path under which `lifecycle.ignore` names the digest an image resolves to.
pub(super) const IMAGE_DIGEST: &str = "image.digest";

/// The patterns of `lifecycle.ignore`.
pub(super) struct Ignored(Option<GlobSet>);

/// How a desired spec differs from a stored one.
pub(super) struct Difference {
    /// What differs and is not ignored.
    pub(super) changes: Vec<FieldChange>,
    /// The desired spec, with what is ignored as it is stored.
    pub(super) spec: PlannedSpec,
    /// What the stored spec depended on.
    pub(super) old_dependencies: Vec<Name>,
}

impl Ignored {
    pub(super) fn new(sandbox: &Name, patterns: &[String]) -> Result<Self, PlanError> {
        if patterns.is_empty() {
            return Ok(Self(None));
        }
        let invalid = |pattern: &str, error: globset::Error| PlanError::Pattern {
            sandbox: sandbox.clone(),
            pattern: pattern.to_owned(),
            reason: error.kind().to_string(),
        };
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(Glob::new(pattern).map_err(|error| invalid(pattern, error))?);
        }
        Ok(Self(Some(set.build().map_err(|error| invalid("", error))?)))
    }

    /// Whether a pattern matches the path or a path above it.
    pub(super) fn covers(&self, path: &str) -> bool {
        let Some(set) = &self.0 else { return false };
        let above = path.match_indices('.').map(|(end, _)| &path[..end]);
        above.chain([path]).any(|path| set.is_match(path))
    }
}

/// Compares a desired spec with the stored one, whose hash differs.
pub(super) fn diff(
    sandbox: &Name,
    stored: &str,
    desired: &SandboxSpec,
    hash: SpecHash,
    origins: &Origins,
) -> Result<Difference, PlanError> {
    let unreadable = |error: serde_json::Error| PlanError::StoredSpec {
        sandbox: sandbox.clone(),
        reason: error.to_string(),
    };
    let ignored = Ignored::new(sandbox, &desired.lifecycle.ignore)?;
    let old = normalized(stored).map_err(unreadable)?;
    let mut new = serde_json::to_value(desired).map_err(unreadable)?;
    let mut found = Found { changes: Vec::new(), ignored: &ignored, restored: false };
    found.compare("", &old, &mut new);
    let Found { mut changes, restored, .. } = found;
    for change in &mut changes {
        change.origin = origins.get(&format!("sandbox.{sandbox}.{}", change.path));
    }
    let spec = if restored {
        let spec: SandboxSpec = serde_json::from_value(new).map_err(unreadable)?;
        let hash = super::spec_hash(&spec);
        PlannedSpec::new(Arc::new(spec), hash)
    } else {
        PlannedSpec::new(Arc::new(desired.clone()), hash)
    };
    Ok(Difference { changes, spec, old_dependencies: dependency_names(&old) })
}

/// The stored spec with fields that it was written without at their defaults, so that a field
/// added by a later version is not a change. One that is not a spec any more is taken as it is.
fn normalized(stored: &str) -> Result<Value, serde_json::Error> {
    match serde_json::from_str::<SandboxSpec>(stored) {
        Ok(spec) => serde_json::to_value(spec),
        Err(_) => serde_json::from_str(stored),
    }
}

fn dependency_names(spec: &Value) -> Vec<Name> {
    let table = spec.get("depends_on").and_then(Value::as_object);
    table.into_iter().flat_map(Map::keys).filter_map(|name| name.parse().ok()).collect()
}

/// Collects changes while two values are walked side by side.
struct Found<'a> {
    changes: Vec<FieldChange>,
    ignored: &'a Ignored,
    /// Whether `new` was given an old value back.
    restored: bool,
}

impl Found<'_> {
    fn compare(&mut self, path: &str, old: &Value, new: &mut Value) {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => self.compare_tables(path, old, new),
            (old, new) if *old == *new => {}
            (Value::Array(old), Value::Array(new))
                if path == PATCHES && !self.ignored.covers(path) =>
            {
                self.compare_patches(old, new);
            }
            (old, new) if self.ignored.covers(path) => {
                *new = old.clone();
                self.restored = true;
            }
            (old, new) => self.push(path, Some(old), Some(new)),
        }
    }

    fn compare_tables(
        &mut self,
        path: &str,
        old: &Map<String, Value>,
        new: &mut Map<String, Value>,
    ) {
        let below = |key: &str| match path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        for (key, value) in old {
            let path = below(key);
            match new.get_mut(key) {
                Some(new) => self.compare(&path, value, new),
                None if self.ignored.covers(&path) => {
                    new.insert(key.clone(), value.clone());
                    self.restored = true;
                }
                None => self.leaves(&path, value, false),
            }
        }
        let mut ignored = Vec::new();
        for (key, value) in &*new {
            if old.contains_key(key) {
                continue;
            }
            let path = below(key);
            if self.ignored.covers(&path) {
                ignored.push(key.clone());
            } else {
                self.leaves(&path, value, true);
            }
        }
        for key in ignored {
            new.shift_remove(&key);
            self.restored = true;
        }
    }

    /// One change per patch. Of one whose source holds something else, and nothing more, the source
    /// is shown.
    fn compare_patches(&mut self, old: &[Value], new: &[Value]) {
        for index in 0..old.len().max(new.len()) {
            let (old, new) = (old.get(index), new.get(index));
            if old == new {
                continue;
            }
            let path = format!("{PATCHES}.{index}");
            match (old.and_then(source_of), new.and_then(source_of)) {
                (Some((old, before)), Some((new, after))) if old == new && before != after => {
                    self.changes.push(FieldChange {
                        class: ChangeClass::of(&path),
                        path,
                        old: Some(before),
                        new: Some(after),
                        origin: None,
                    });
                }
                _ => self.push(&path, old, new),
            }
        }
    }

    /// One change per leaf of a table that only one side has.
    fn leaves(&mut self, path: &str, value: &Value, added: bool) {
        match value {
            Value::Object(table) if !table.is_empty() && !is_dependency(path) => {
                for (key, value) in table {
                    self.leaves(&format!("{path}.{key}"), value, added);
                }
            }
            _ if self.ignored.covers(path) => {}
            value if added => self.push(path, None, Some(value)),
            value => self.push(path, Some(value), None),
        }
    }

    fn push(&mut self, path: &str, old: Option<&Value>, new: Option<&Value>) {
        let show = |value: Option<&Value>| value.map(|value| shown(path, value));
        self.changes.push(FieldChange {
            path: path.to_owned(),
            old: show(old),
            new: show(new),
            class: ChangeClass::of(path),
            origin: None,
        });
    }
}

/// A patch without the digest of its source, and what says which source that is and what it holds.
fn source_of(patch: &Value) -> Option<(Value, String)> {
    let mut patch = patch.clone();
    let digest = patch.as_object_mut()?.shift_remove("digest")?;
    let source = patch.get("source")?.as_str()?;
    let digits = digest.as_str()?.get(..DIGEST_DIGITS)?;
    let shown = format!("{source} ({digits})");
    Some((patch, shown))
}

/// Whether a path is that of a whole entry of `depends_on`, which its condition stands for.
fn is_dependency(path: &str) -> bool {
    path.strip_prefix("depends_on.").is_some_and(|rest| !rest.contains('.'))
}

fn shown(path: &str, value: &Value) -> String {
    let value = value.get("condition").filter(|_| is_dependency(path)).unwrap_or(value);
    let field = path.split('.').next().unwrap_or(path);
    if HIDDEN_FIELDS.contains(&field) {
        return HIDDEN.to_owned();
    }
    let text = match value {
        Value::String(text) if !text.is_empty() && !text.contains(char::is_whitespace) => {
            text.clone()
        }
        value => value.to_string(),
    };
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::plan::testing::{name, service};
    use crate::plan::{canonical_json, spec_hash};

    fn check(old: &SandboxSpec, new: &SandboxSpec, expect: Expect) -> SandboxSpec {
        let hash = spec_hash(new);
        let diff =
            diff(&name("api"), &canonical_json(old), new, hash, &Origins::default()).unwrap();
        let text: String = diff
            .changes
            .iter()
            .map(|c| format!("{} {:?} -> {:?} {}\n", c.path, c.old, c.new, c.class))
            .collect();
        expect.assert_eq(&text);
        assert_eq!(diff.spec.hash(), spec_hash(&diff.spec));
        SandboxSpec::clone(&diff.spec)
    }

    #[test]
    fn leaves_are_compared_one_by_one_and_environment_values_hidden() {
        let mut old = service();
        old.env = [("PORT", "1"), ("GONE", "x")].map(|(k, v)| (k.into(), v.into())).into();
        let mut new = service();
        new.env = [("PORT", "2"), ("NEW", "y")].map(|(k, v)| (k.into(), v.into())).into();
        new.cpus = 2;
        new.cmd = Some(vec!["run".into(), "a b".into()]);
        new.labels = [("why".into(), "because ".repeat(20))].into();
        check(
            &old,
            &new,
            expect![[r#"
            cpus Some("1") -> Some("2") restart
            env.GONE Some("(hidden)") -> None restart
            env.PORT Some("(hidden)") -> Some("(hidden)") restart
            env.NEW None -> Some("(hidden)") restart
            cmd None -> Some("[\"run\",\"a b\"]") restart
            labels.why None -> Some("\"because because because because because because because bec…") live
        "#]],
        );
    }

    #[test]
    fn patches_are_compared_one_by_one() {
        let patches = |config: &str, motd: &str| {
            let copy = crate::spec::Patch::CopyFile {
                source: "/shop/config.json".into(),
                to: "/app/config.json".parse().unwrap(),
                mode: None,
                replace: false,
                digest: Some(config.repeat(64)),
            };
            let text = crate::spec::Patch::Text {
                path: "/etc/motd".parse().unwrap(),
                content: motd.into(),
                mode: None,
                replace: true,
            };
            vec![copy, text]
        };
        let (mut old, mut new) = (service(), service());
        old.patches = patches("a", "hello");
        new.patches = patches("b", "hello");
        let kept = expect![[r#"
            patches.0 Some("/shop/config.json (aaaaaaaaaaaa)") -> Some("/shop/config.json (bbbbbbbbbbbb)") replace
        "#]];
        check(&old, &new, kept);
        new.patches = patches("a", "hello again");
        new.patches.push(crate::spec::Patch::Remove { path: "/etc/issue".parse().unwrap() });
        let hidden = expect![[r#"
            patches.1 Some("(hidden)") -> Some("(hidden)") replace
            patches.2 None -> Some("(hidden)") replace
        "#]];
        check(&old, &new, hidden);
        new.patches = patches("b", "hello");
        new.lifecycle.ignore = vec!["patches".into()];
        old.lifecycle = new.lifecycle.clone();
        assert_eq!(check(&old, &new, expect![[""]]).patches, old.patches);
    }

    #[test]
    fn what_is_ignored_keeps_its_stored_value() {
        let mut old = service();
        old.labels = [("team", "a"), ("gone", "x")].map(|(k, v)| (k.into(), v.into())).into();
        let mut new = service();
        new.labels = [("team", "b"), ("new", "y")].map(|(k, v)| (k.into(), v.into())).into();
        new.lifecycle.ignore = vec!["labels.*".into()];
        old.lifecycle = new.lifecycle.clone();
        let spec = check(&old, &new, expect![[""]]);
        assert_eq!(spec.labels, old.labels);
        new.lifecycle.ignore = vec!["labels".into()];
        old.lifecycle = new.lifecycle.clone();
        new.cpus = 4;
        let spec = check(
            &old,
            &new,
            expect![[r#"
            cpus Some("1") -> Some("4") restart
        "#]],
        );
        assert_eq!((spec.labels, spec.cpus), (old.labels, 4));
    }

    #[test]
    fn a_field_that_was_stored_without_is_no_change() {
        let spec = service();
        let mut stored = serde_json::to_value(&spec).unwrap();
        stored.as_object_mut().unwrap().shift_remove("log_level");
        let hash = spec_hash(&spec);
        let diff =
            diff(&name("api"), &stored.to_string(), &spec, hash, &Origins::default()).unwrap();
        assert!(diff.changes.is_empty());
    }

    #[test]
    fn broken_patterns_and_rows_are_errors() {
        let mut spec = service();
        let diff = |spec: &SandboxSpec, stored: &str| {
            diff(&name("api"), stored, spec, spec_hash(spec), &Origins::default()).map(|_| ())
        };
        assert!(matches!(diff(&spec, "{"), Err(PlanError::StoredSpec { .. })));
        let stored = canonical_json(&spec);
        spec.lifecycle.ignore = vec!["[".into()];
        assert!(matches!(diff(&spec, &stored), Err(PlanError::Pattern { .. })));
    }
}
