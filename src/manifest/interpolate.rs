//! Variables in values: `$V`, `${V}`, `${V:-d}`, `${V-d}`, `${V:?err}`, `${V?err}`, `${V:+x}`,
//! `${V+x}`, nested, `$$`.
//!
//! With a colon an empty variable counts as unset. The value of a variable is not expanded again.

use std::ops::Range;

use super::limits::{MAX_INTERPOLATION_DEPTH, MAX_VALUE_BYTES};

/// What is wrong, and where in the text. Values of variables are never part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) range: Range<usize>,
    pub(crate) kind: FaultKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// A variable without a value and without a default.
    Unset(String),
    /// `${V:?err}`, with `err` as written.
    Required(String, String),
    /// `${` without `}`.
    Open,
    /// `${…}` that does not start with a name, or has an unknown operator after it.
    Malformed,
    /// A `$` before anything else.
    Dollar,
    /// Defaults in defaults, too deep.
    Depth,
    /// The value became too long.
    Length,
}

/// Expands `text`; `lookup` gives the value of a variable.
pub(crate) fn expand(
    text: &str,
    lookup: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<String, Vec<Fault>> {
    let mut expander = Expander { lookup, faults: Vec::new(), out: String::new() };
    expander.run(text, 0, 0);
    if expander.faults.is_empty() { Ok(expander.out) } else { Err(expander.faults) }
}

struct Expander<'l> {
    lookup: &'l mut dyn FnMut(&str) -> Option<String>,
    faults: Vec<Fault>,
    out: String,
}

impl Expander<'_> {
    /// Expands `text`, which starts at byte `base` of the whole.
    fn run(&mut self, text: &str, base: usize, depth: usize) {
        let mut at = 0;
        while let Some(dollar) = text[at..].find('$') {
            self.push(&text[at..at + dollar], base + at);
            let start = at + dollar;
            at = start + self.one(&text[start..], base + start, depth);
        }
        self.push(&text[at..], base + at);
    }

    /// Expands what starts with the `$` that `text` starts with; returns its length.
    fn one(&mut self, text: &str, base: usize, depth: usize) -> usize {
        let rest = &text[1..];
        if rest.starts_with('$') {
            self.push("$", base);
            return 2;
        }
        if let Some(inner) = rest.strip_prefix('{') {
            let Some(close) = closing_brace(inner) else {
                self.fault(base..base + text.len(), FaultKind::Open);
                return text.len();
            };
            let length = close + 3;
            self.braced(&inner[..close], base..base + length, depth);
            return length;
        }
        let name = name_len(rest);
        if name == 0 {
            self.fault(base..base + 1, FaultKind::Dollar);
            return 1;
        }
        let range = base..base + 1 + name;
        match (self.lookup)(&rest[..name]) {
            Some(value) => self.push(&value, base),
            None => self.fault(range, FaultKind::Unset(rest[..name].to_owned())),
        }
        1 + name
    }

    /// Expands `${inner}`, which lies at `range`.
    fn braced(&mut self, inner: &str, range: Range<usize>, depth: usize) {
        let name_end = name_len(inner);
        let (name, operator) = inner.split_at(name_end);
        let (colon, operator) = match operator.strip_prefix(':') {
            Some(operator) => (true, operator),
            None => (false, operator),
        };
        let word = operator.get(1..).unwrap_or("");
        let word_base = range.start + 2 + (inner.len() - word.len());
        if name.is_empty() || (colon && operator.is_empty()) {
            return self.fault(range, FaultKind::Malformed);
        }
        let value = (self.lookup)(name).filter(|value| !(colon && value.is_empty()));
        match (operator.chars().next(), value) {
            (None, Some(value)) | (Some('-' | '?'), Some(value)) => self.push(&value, range.start),
            (None, None) => self.fault(range, FaultKind::Unset(name.to_owned())),
            (Some('?'), None) => {
                self.fault(range, FaultKind::Required(name.to_owned(), word.to_owned()));
            }
            (Some('-'), None) | (Some('+'), Some(_)) => {
                if depth >= MAX_INTERPOLATION_DEPTH {
                    return self.fault(range, FaultKind::Depth);
                }
                self.run(word, word_base, depth + 1);
            }
            (Some('+'), None) => {}
            (Some(_), _) => self.fault(range, FaultKind::Malformed),
        }
    }

    fn push(&mut self, text: &str, at: usize) {
        if self.out.len() + text.len() > MAX_VALUE_BYTES {
            if !self.faults.iter().any(|fault| fault.kind == FaultKind::Length) {
                self.fault(at..at + 1, FaultKind::Length);
            }
            return;
        }
        self.out.push_str(text);
    }

    fn fault(&mut self, range: Range<usize>, kind: FaultKind) {
        self.faults.push(Fault { range, kind });
    }
}

/// Length of the variable name at the start of `text`.
fn name_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_') {
        return 0;
    }
    bytes.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count()
}

/// Where the `}` of an already open `${` is.
fn closing_brace(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 1_usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'$' if bytes.get(at + 1) == Some(&b'$') => at += 1,
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                depth += 1;
                at += 1;
            }
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) -> Result<String, Vec<Fault>> {
        expand(text, &mut |name| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            "D" => Some("$A".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn operators() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$A ${A}$A", "a aa"),
            ("$$A $$", "$A $"),
            ("$D", "$A"),
            ("${X:-d}${EMPTY:-d}${EMPTY-d}${A:-d}", "dda"),
            ("${X-d}", "d"),
            ("${A:+x}${EMPTY:+x}${EMPTY+x}${X+x}", "xx"),
            ("${X:-${Y:-${A}}}", "a"),
            ("${X:-a}b}", "ab}"),
            ("${X:-$$}}", "$}"),
            ("${X:-ü$A}", "üa"),
            ("${A:?must}", "a"),
            ("${EMPTY?must}.", "."),
        ] {
            assert_eq!(check(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn faults_say_where() {
        let one = |text: &str| check(text).unwrap_err().remove(0);
        let unset = |name: &str| FaultKind::Unset(name.to_owned());
        assert_eq!(one("x$X"), Fault { range: 1..3, kind: unset("X") });
        assert_eq!(one("x${X}"), Fault { range: 1..5, kind: unset("X") });
        assert_eq!(one("${Y:-ab${X}}"), Fault { range: 7..11, kind: unset("X") });
        assert_eq!(
            one("${EMPTY:?set it}"),
            Fault { range: 0..16, kind: FaultKind::Required("EMPTY".into(), "set it".into()) }
        );
        assert_eq!(one("a${X").kind, FaultKind::Open);
        assert_eq!(one("${1}").kind, FaultKind::Malformed);
        assert_eq!(one("${A:}").kind, FaultKind::Malformed);
        assert_eq!(one("${A!x}").kind, FaultKind::Malformed);
        assert_eq!(one("cost: 5$").kind, FaultKind::Dollar);
        assert_eq!(check("$X $Y").unwrap_err().len(), 2);
    }

    #[test]
    fn is_bounded() {
        let deep = format!("{}x{}", "${X:-".repeat(40), "}".repeat(40));
        assert_eq!(check(&deep).unwrap_err()[0].kind, FaultKind::Depth);
        let big = "b".repeat(MAX_VALUE_BYTES);
        let long = expand("$B$B", &mut |_| Some(big.clone())).unwrap_err();
        assert_eq!(long.len(), 1);
        assert_eq!(long[0].kind, FaultKind::Length);
    }

    proptest! {
        #[test]
        fn never_panics(text in "[$\\{\\}:?+\\-A-Cü ]{0,40}") {
            let _ = check(&text);
        }

        #[test]
        fn without_dollar_nothing_changes(text in "[^$]*") {
            prop_assert_eq!(check(&text), Ok(text));
        }
    }
}
