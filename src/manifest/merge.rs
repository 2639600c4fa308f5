//! Lays a table over another: an override over a file, a sandbox over its template and defaults.
//!
//! Tables are merged by key, scalars are replaced, lists as the table of keys says. Where keys
//! exclude each other (`bind` and `named`), the upper one drops the lower one.

use std::collections::{HashMap, HashSet};

use super::keys::{Merge, TableDef, Ty};
use super::lower::ports;
use super::tree::{Entry, Node, Table, Value};

/// Up to this many entries a scan is faster than an index.
const SCAN: usize = 16;

/// Lays `over` on `base`.
pub(crate) fn tables(base: &mut Table, over: Table, def: &TableDef) {
    if let Some(unset) = over.get("unset").and_then(|entry| entry.node.as_list()) {
        for path in unset.iter().filter_map(Node::as_str) {
            remove(base, path, def);
        }
    }
    for entry in over.entries {
        for group in def.exclusive().filter(|group| group.contains(&entry.key.as_str())) {
            base.entries.retain(|old| old.key == entry.key || !group.contains(&old.key.as_str()));
        }
        let at = base.entries.iter().position(|old| old.key == entry.key);
        let key = def.key(&entry.key);
        place(base, at, entry, key.map(|key| (&key.ty, key.merge)));
    }
}

/// Lays a table with free keys on another; all values are of one type.
fn maps(base: &mut Table, over: Table, value: &Ty) {
    let index: Option<HashMap<String, usize>> = (base.entries.len() > SCAN).then(|| {
        base.entries.iter().enumerate().map(|(at, entry)| (entry.key.clone(), at)).collect()
    });
    for entry in over.entries {
        let at = match &index {
            Some(index) => index.get(&entry.key).copied(),
            None => base.entries.iter().position(|old| old.key == entry.key),
        };
        place(base, at, entry, Some((value, Merge::Replace)));
    }
}

fn place(base: &mut Table, at: Option<usize>, entry: Entry, how: Option<(&Ty, Merge)>) {
    match (at, how) {
        (Some(at), Some((ty, merge))) => {
            let old = &mut base.entries[at];
            old.key_span = entry.key_span;
            values(&mut old.node, entry.node, ty, merge);
        }
        (Some(at), None) => base.entries[at] = entry,
        (None, _) => base.entries.push(entry),
    }
}

fn values(base: &mut Node, over: Node, ty: &Ty, merge: Merge) {
    let span = over.span;
    let old = std::mem::replace(&mut base.value, Value::Broken);
    let (old, new) = match merge {
        Merge::Dependencies => (named(old), named(over.value)),
        Merge::Append => (listed(old, base.span), listed(over.value, span)),
        Merge::Replace | Merge::Union | Merge::Ports => (old, over.value),
    };
    base.span = span;
    base.value = match (old, new) {
        (Value::Table(mut old), Value::Table(new)) => {
            if let Some(value) = ty.as_map() {
                maps(&mut old, new, value);
            } else if let Some(def) = ty.as_table() {
                tables(&mut old, new, def);
            } else {
                old = new;
            }
            Value::Table(old)
        }
        (Value::List(old), Value::List(new)) => Value::List(lists(old, new, merge)),
        (_, new) => new,
    };
}

fn lists(mut base: Vec<Node>, over: Vec<Node>, merge: Merge) -> Vec<Node> {
    match merge {
        Merge::Replace | Merge::Dependencies => over,
        Merge::Append => {
            base.extend(over);
            base
        }
        Merge::Union => {
            let known: HashSet<String> =
                base.iter().filter_map(|node| node.as_str().map(str::to_owned)).collect();
            let is_new = |node: &Node| !node.as_str().is_some_and(|text| known.contains(text));
            base.extend(over.into_iter().filter(is_new));
            base
        }
        Merge::Ports => {
            for node in over {
                let identity = ports::identity(&node);
                let same = |old: &Node| identity.is_some() && ports::identity(old) == identity;
                match base.iter().position(same) {
                    Some(at) => base[at] = node,
                    None => base.push(node),
                }
            }
            base
        }
    }
}

/// `["db"]` as `{ db = "started" }`.
fn named(value: Value) -> Value {
    let Value::List(items) = value else { return value };
    let mut table = Table::default();
    for item in items {
        let Value::String(key, _) = item.value else { continue };
        if table.get(&key).is_none() {
            let node = Node { span: item.span, value: Value::String("started".to_owned(), false) };
            table.entries.push(Entry { key, key_span: item.span, node });
        }
    }
    Value::Table(table)
}

/// `".env"` as `[".env"]`.
fn listed(value: Value, span: super::report::Span) -> Value {
    match value {
        Value::String(..) => Value::List(vec![Node { span, value }]),
        other => other,
    }
}

/// Removes what `path` names: a key, or a key below one (`env.DEBUG`).
fn remove(table: &mut Table, path: &str, def: &TableDef) {
    if table.remove(path).is_some() {
        return;
    }
    let Some((first, rest)) = path.split_once('.') else { return };
    let Some(ty) = def.key(first).map(|key| &key.ty) else { return };
    let Some(entry) = table.entries.iter_mut().find(|entry| entry.key == first) else { return };
    match &mut entry.node.value {
        Value::Table(inner) => match (ty.as_map(), ty.as_table()) {
            (Some(_), _) => {
                inner.remove(rest);
            }
            (None, Some(def)) => remove(inner, rest, def),
            (None, None) => {}
        },
        Value::List(items) => items.retain(|item| item.as_str() != Some(rest)),
        _ => {}
    }
}
