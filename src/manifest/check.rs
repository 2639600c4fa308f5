//! Checks the shape of a file against the table of keys: unknown keys, types, forms of strings and
//! which keys go together. The JSON schema is made from the same table, so both agree.

use super::keys::{Rule, TableDef, Text, Ty, either};
use super::report::{Files, Problem, Sink, Span};
use super::tree::{Node, Table, Value};

/// Checks one file; `complete` checks are left to whoever knows what it is merged with.
pub(crate) struct Checker<'a> {
    pub(crate) files: &'a Files,
    pub(crate) sink: &'a mut Sink,
}

impl Checker<'_> {
    pub(crate) fn table(&mut self, table: &Table, span: Span, def: &TableDef) {
        for entry in &table.entries {
            match def.key(&entry.key) {
                Some(key) => self.value(&entry.node, &key.ty, &entry.key),
                None => self.unknown(&entry.key, entry.key_span, def),
            }
        }
        if def.whole {
            complete(self.files, self.sink, table, span, def);
        } else {
            exclusive(self.files, self.sink, table, def);
        }
    }

    fn unknown(&mut self, key: &str, span: Span, def: &TableDef) {
        let known = || def.keys.iter().map(|key| key.name);
        let problem = Problem::new(span, format!("unknown key `{}`", key.escape_debug()))
            .label(format!("not a key of {}", def.name))
            .suggest(key, known(), || {
                let words: Vec<_> = known().map(|key| format!("`{key}`")).collect();
                Some(format!("keys of {} are {}", def.name, words.join(", ")))
            });
        // After a broken table header its keys seem to stand at the top of the file.
        if def.path.is_empty() {
            self.sink.add_missing(self.files, problem);
        } else {
            self.sink.add(self.files, problem);
        }
    }

    /// Checks the value of the key `name`.
    fn value(&mut self, node: &Node, ty: &Ty, name: &str) {
        match (&node.value, ty) {
            (Value::Broken, _) => {}
            (_, Ty::Any(types)) => match types.iter().find(|ty| takes(ty, node)) {
                Some(ty) => self.value(node, ty, name),
                None => self.wrong_type(node, ty, name),
            },
            (Value::Table(table), Ty::Table(def)) => self.table(table, node.span, def),
            (Value::Table(table), Ty::Map(keys, value)) => {
                for entry in &table.entries {
                    if let Err(why) = (keys.check)(&entry.key) {
                        self.bad_key(&entry.key, entry.key_span, keys, &why);
                    }
                    self.value(&entry.node, value, &entry.key);
                }
            }
            (Value::List(items), Ty::List(item, min)) => {
                if items.len() < *min {
                    let problem = Problem::new(node.span, format!("`{name}` must not be empty"))
                        .label("has no items");
                    self.sink.add(self.files, problem);
                }
                for node in items {
                    self.value(node, item, name);
                }
            }
            (Value::String(text, from_variable), Ty::Text(form)) => {
                if let Err(why) = (form.check)(text) {
                    self.bad_text(node, form, name, (!from_variable).then_some(why));
                }
            }
            (Value::String(text, _), Ty::Word(words)) => {
                if !words.contains(&text.as_str()) {
                    self.bad_word(node, words, name, text);
                }
            }
            (_, Ty::Int(min, max)) if takes(ty, node) => {
                if !node.as_int().is_some_and(|value| (*min..=*max).contains(&value)) {
                    let label = match &node.value {
                        Value::String(..) => "after its variables are expanded",
                        _ => "out of range",
                    };
                    let problem =
                        Problem::new(node.span, format!("`{name}` must be {}", ty.words()));
                    self.sink.add(self.files, problem.label(label));
                }
            }
            (_, Ty::Bool | Ty::True) if takes(ty, node) => {
                if node.as_bool().is_none_or(|value| !value && matches!(ty, Ty::True)) {
                    let problem =
                        Problem::new(node.span, format!("`{name}` must be {}", ty.words()));
                    self.sink.add(self.files, problem);
                }
            }
            _ => self.wrong_type(node, ty, name),
        }
    }

    fn bad_key(&mut self, key: &str, span: Span, form: &Text, why: &str) {
        let message = format!("`{}` is not {}: {why}", key.escape_debug(), form.name);
        let mut problem = Problem::new(span, message);
        if let Some(help) = form.help {
            problem = problem.help(help);
        }
        self.sink.add(self.files, problem);
    }

    fn bad_text(&mut self, node: &Node, form: &Text, name: &str, why: Option<String>) {
        let why = why.map_or(String::new(), |why| format!(": {why}"));
        let mut problem = Problem::new(node.span, format!("`{name}` is not {}{why}", form.name));
        if matches!(node.value, Value::String(_, true)) {
            problem = problem.label("after its variables are expanded");
        }
        // A number without its unit: show it with one.
        let bare = node.as_str().and_then(|text| text.trim().parse().ok());
        let help = match (form.bare, bare, &node.value) {
            (Some(spell), Some(number), Value::String(_, false)) => {
                Some(format!("write `{}`", spell(number)))
            }
            _ => form.help.map(str::to_owned),
        };
        if let Some(help) = help {
            problem = problem.help(help);
        }
        self.sink.add(self.files, problem);
    }

    fn bad_word(&mut self, node: &Node, words: &[&str], name: &str, text: &str) {
        let ty = either(words.iter().map(|word| format!("`\"{word}\"`")));
        let problem = Problem::new(node.span, format!("`{name}` must be {ty}"));
        // What a variable holds is not compared with anything in the message.
        let found = if matches!(node.value, Value::String(_, true)) { "" } else { text };
        let problem = problem.suggest(found, words.iter().copied(), || None);
        self.sink.add(self.files, problem);
    }

    fn wrong_type(&mut self, node: &Node, ty: &Ty, name: &str) {
        let problem = Problem::new(
            node.span,
            format!("`{name}` must be {}, not {}", ty.words(), node.kind()),
        );
        let problem = match (&node.value, spelling(ty), ty) {
            (Value::Integer(Some(number)), Some(spell), _) if *number >= 0 => {
                let what = if spell(*number).contains(char::is_alphabetic) {
                    "a number without a unit"
                } else {
                    "a bare number"
                };
                problem.label(what).help(format!("write `{}`", spell(*number)))
            }
            (Value::String(text, false), _, Ty::Int(..)) if text.trim().parse::<i64>().is_ok() => {
                problem.label("a string").help(format!("write `{}` without quotes", text.trim()))
            }
            (Value::String(text, false), _, Ty::Bool) if text.parse::<bool>().is_ok() => {
                problem.label("a string").help(format!("write `{text}` without quotes"))
            }
            (Value::String(text, false), _, Ty::List(..)) => problem
                .label("a string")
                .help(format!("write `[\"{}\"]`", text.replace('"', "\\\""))),
            (Value::Bool(value), Some(_), _) => problem.help(format!("write `\"{value}\"`")),
            (Value::Float, Some(_), _) => {
                problem.help(format!("write `\"{}\"`", self.files.slice(node.span)))
            }
            _ => match ty.as_table().and_then(TableDef::spelling) {
                Some(spelling) => {
                    problem.label(node.kind()).help(format!("write a table: {spelling}"))
                }
                None => problem.label(node.kind()),
            },
        };
        self.sink.add(self.files, problem);
    }
}

/// How an integer is written where `ty` wants a string.
fn spelling(ty: &Ty) -> Option<fn(i64) -> String> {
    match ty {
        Ty::Text(form) => form.bare,
        Ty::Any(types) => types.iter().find_map(spelling),
        Ty::Word(_)
        | Ty::Int(..)
        | Ty::Bool
        | Ty::True
        | Ty::List(..)
        | Ty::Map(..)
        | Ty::Table(_) => None,
    }
}

/// Whether the TOML type of `node` is the one of `ty`.
fn takes(ty: &Ty, node: &Node) -> bool {
    match (&node.value, ty) {
        (_, Ty::Any(types)) => types.iter().any(|ty| takes(ty, node)),
        (Value::String(..), Ty::Text(_) | Ty::Word(_))
        | (Value::String(_, true) | Value::Integer(_), Ty::Int(..))
        | (Value::String(_, true) | Value::Bool(_), Ty::Bool | Ty::True)
        | (Value::List(_), Ty::List(..))
        | (Value::Table(_), Ty::Map(..) | Ty::Table(_)) => true,
        _ => false,
    }
}

/// Reports keys that exclude each other.
fn exclusive(files: &Files, sink: &mut Sink, table: &Table, def: &TableDef) {
    for keys in def.exclusive() {
        let mut present = table.entries.iter().filter(|entry| keys.contains(&entry.key.as_str()));
        let (Some(first), Some(second)) = (present.next(), present.next()) else { continue };
        let message = format!("`{}` and `{}` exclude each other", first.key, second.key);
        let problem = Problem::new(second.key_span, message)
            .label(format!("{} has one of them", def.name))
            .also(first.key_span, "the other one");
        sink.add(files, problem);
    }
}

/// Checks that `table`, which nothing is merged into any more, has what it needs.
pub(crate) fn complete(files: &Files, sink: &mut Sink, table: &Table, span: Span, def: &TableDef) {
    exclusive(files, sink, table, def);
    let has = |key: &str| table.get(key).is_some();
    let list =
        |keys: &[&str]| keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" or ");
    for rule in def.rules {
        let missing = match rule {
            Rule::Required(key) if !has(key) => {
                Problem::new(span, format!("{} needs `{key}`", def.name))
            }
            Rule::ExactlyOne(keys) | Rule::AnyOf(keys) if !keys.iter().any(|key| has(key)) => {
                Problem::new(span, format!("{} needs {}", def.name, list(keys)))
            }
            Rule::Together(one, other) if has(one) != has(other) => {
                let (there, gone) = if has(one) { (one, other) } else { (other, one) };
                let at = table.get(there).map_or(span, |entry| entry.key_span);
                Problem::new(at, format!("`{there}` needs `{gone}` beside it"))
            }
            Rule::Needs(key, needed) if has(key) && !has(needed) => {
                let at = table.get(key).map_or(span, |entry| entry.key_span);
                Problem::new(at, format!("`{key}` needs `{needed}` beside it"))
            }
            _ => continue,
        };
        sink.add_missing(files, missing);
    }
}
