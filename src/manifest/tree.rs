//! The tree of one file: the TOML document with spans and with variables expanded.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::interpolate::{self, FaultKind};
use super::limits::{MAX_EXPANDED_BYTES, MAX_INTERPOLATION_DEPTH, MAX_VALUE_BYTES};
use super::report::{Files, Problem, Sink, Span};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Could not be read; an error has been reported.
    Broken,
    /// A string, and whether a variable is in it: then its text is not for diagnostics.
    String(String, bool),
    /// An integer, none when it does not fit.
    Integer(Option<i64>),
    Float,
    Bool(bool),
    Datetime,
    List(Vec<Node>),
    Table(Table),
}

/// Entries in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) node: Node,
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at))
    }
}

impl Node {
    pub(crate) fn as_str(&self) -> Option<&str> {
        if let Value::String(text, _) = &self.value { Some(text) } else { None }
    }

    pub(crate) fn as_table(&self) -> Option<&Table> {
        if let Value::Table(table) = &self.value { Some(table) } else { None }
    }

    pub(crate) fn as_list(&self) -> Option<&[Node]> {
        if let Value::List(list) = &self.value { Some(list) } else { None }
    }

    /// An integer, or a string that became one through a variable.
    pub(crate) fn as_int(&self) -> Option<i64> {
        match &self.value {
            Value::Integer(value) => *value,
            Value::String(text, true) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// A boolean, or a string that became one through a variable.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        match &self.value {
            Value::Bool(value) => Some(*value),
            Value::String(text, true) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// What kind of value it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Broken => "something unreadable",
            Value::String(..) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float => "a float",
            Value::Bool(_) => "a boolean",
            Value::Datetime => "a date",
            Value::List(_) => "an array",
            Value::Table(_) => "a table",
        }
    }

    /// The text of a string for messages: as written where a variable is in it, since the value of
    /// a variable may be a secret.
    pub(crate) fn shown(&self, files: &Files) -> String {
        match &self.value {
            Value::String(text, false) => text.escape_debug().to_string(),
            _ => files.slice(self.span).trim_matches('"').to_owned(),
        }
    }
}

/// Turns parsed TOML into a tree.
pub(crate) struct Builder<'a> {
    pub(crate) file: u32,
    pub(crate) files: &'a Files,
    pub(crate) sink: &'a mut Sink,
    pub(crate) lookup: &'a mut dyn FnMut(&str) -> Option<String>,
    /// Bytes that interpolation has made in this run.
    pub(crate) expanded: &'a mut usize,
}

impl Builder<'_> {
    pub(crate) fn table(&mut self, table: &DeTable<'_>) -> Table {
        let entries = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().to_string(),
                key_span: self.span(key.span()),
                node: self.node(value),
            })
            .collect();
        Table { entries }
    }

    pub(crate) fn node(&mut self, value: &Spanned<DeValue<'_>>) -> Node {
        let range = value.span();
        let span = self.span(range.clone());
        let value = match value.get_ref() {
            // The parser's stand-in for a value that it could not read.
            DeValue::Integer(_) if range.is_empty() => Value::Broken,
            DeValue::String(text) => self.string(text, span),
            DeValue::Integer(value) => {
                Value::Integer(i64::from_str_radix(value.as_str(), value.radix()).ok())
            }
            DeValue::Float(_) => Value::Float,
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.node(item)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Node { span, value }
    }

    fn span(&self, range: Range<usize>) -> Span {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Span { file: self.file, start: narrow(range.start), end: narrow(range.end) }
    }

    fn string(&mut self, text: &str, span: Span) -> Value {
        let is_basic = self.files.slice(span).starts_with('"');
        if !is_basic || !text.contains('$') {
            return Value::String(text.to_owned(), false);
        }
        match interpolate::expand(text, self.lookup) {
            Ok(value) => {
                *self.expanded += value.len();
                if *self.expanded > MAX_EXPANDED_BYTES {
                    let message = "variables make the file too large";
                    let help =
                        format!("all values together have at most {MAX_EXPANDED_BYTES} bytes");
                    self.sink.add(self.files, Problem::new(span, message).help(help));
                    return Value::Broken;
                }
                Value::String(value, true)
            }
            Err(faults) => {
                for fault in faults {
                    let place = self.within(text, span, fault.range);
                    self.sink.add(self.files, problem(place, fault.kind));
                }
                Value::Broken
            }
        }
    }

    /// The place of `range` of the decoded `text` in the source, or of the whole string where
    /// escapes make that unclear.
    fn within(&self, text: &str, span: Span, range: Range<usize>) -> Span {
        let raw = self.files.slice(span);
        let quote = if raw.starts_with("\"\"\"") { 3 } else { 1 };
        let found = raw.get(quote..).and_then(|body| {
            let length = text.len();
            let lead = (0..=2).find(|lead| body.get(*lead..*lead + length) == Some(text))?;
            Some(quote + lead)
        });
        let Some(lead) = found else { return span };
        let at = |offset: usize| {
            span.start.saturating_add(u32::try_from(lead + offset).unwrap_or(u32::MAX))
        };
        Span { file: span.file, start: at(range.start), end: at(range.end) }
    }
}

fn problem(span: Span, kind: FaultKind) -> Problem {
    let literal = "write `$$` for a dollar sign, or put the value in single quotes";
    match kind {
        FaultKind::Unset(name) => Problem::new(span, format!("the variable `{name}` is not set"))
            .label("not in the environment and in no env file")
            .help(format!("set it, give it a default with `${{{name}:-…}}`, or {literal}")),
        FaultKind::Required(name, why) if why.is_empty() => {
            Problem::new(span, format!("the variable `{name}` is required"))
                .label("not set, or empty")
        }
        FaultKind::Required(name, why) => {
            Problem::new(span, format!("the variable `{name}` is required: {why}"))
                .label("not set, or empty")
        }
        FaultKind::Open => {
            Problem::new(span, "`${` is not closed").label("no `}` follows").help(literal)
        }
        FaultKind::Malformed => {
            Problem::new(span, "this is not a variable reference").help(format!(
                "write `${{NAME}}`, or `${{NAME:-default}}`, `:?message`, `:+value`; {literal}"
            ))
        }
        FaultKind::Dollar => {
            Problem::new(span, "`$` is not followed by the name of a variable").help(literal)
        }
        FaultKind::Depth => Problem::new(span, "defaults are nested too deep")
            .help(format!("at most {MAX_INTERPOLATION_DEPTH} levels are read")),
        FaultKind::Length => Problem::new(span, "variables make the value too long")
            .help(format!("a value has at most {MAX_VALUE_BYTES} bytes")),
    }
}
