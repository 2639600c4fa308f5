//! Env files.
//!
//! One `NAME=value` a line, with an optional `export` before it. Blank lines and lines that start
//! with `#` are skipped. A value is
//! - bare: up to ` #` or the end of the line, without surrounding blanks;
//! - in single quotes: literal, over several lines if need be;
//! - in double quotes: the same with `\n`, `\r`, `\t`, `\"`, `\\` and `\$` as escapes.
//!
//! Nothing is expanded. A name that is set twice has its last value.

use std::ops::Range;

use super::limits::MAX_ENV_FILE_VARIABLES;

/// One variable; `at` is where its name starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) at: usize,
}

/// What is wrong, and where. The text of a value is never part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) range: Range<usize>,
    pub(crate) message: &'static str,
    pub(crate) help: &'static str,
}

/// Parses an env file; variables of lines that are right are returned beside the faults.
pub(crate) fn parse(text: &str) -> (Vec<Variable>, Vec<Fault>) {
    let mut variables = Vec::new();
    let mut faults = Vec::new();
    let mut at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    while at < text.len() {
        if variables.len() >= MAX_ENV_FILE_VARIABLES {
            faults.push(Fault {
                range: at..at,
                message: "the env file has too many variables",
                help: "an env file holds at most 10000 variables",
            });
            break;
        }
        at = match line(text, at) {
            Ok((variable, next)) => {
                variables.extend(variable);
                next
            }
            Err(fault) => {
                let next = line_end(text, fault.range.start);
                faults.push(fault);
                next
            }
        };
    }
    (variables, faults)
}

/// The end of the line that holds `at`, behind its newline.
fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

/// Reads the line (or quoted lines) at `start`; returns where the next one starts.
fn line(text: &str, start: usize) -> Result<(Option<Variable>, usize), Fault> {
    let end = line_end(text, start);
    let content = &text[start..end];
    let trimmed = content.trim();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return Ok((None, end));
    }
    let mut at = start + (content.len() - content.trim_start().len());
    if let Some(rest) = text[at..end].strip_prefix("export") {
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        if blanks > 0 {
            at += "export".len() + blanks;
        }
    }
    let fault = |range, message, help| Err(Fault { range, message, help });
    let line = at..start + content.trim_end().len();
    let Some(equals) = text[at..end].find('=') else {
        return fault(line, "the line sets no variable", "write `NAME=value`");
    };
    let name = text[at..at + equals].trim_end();
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '\'';
    if name.is_empty() || !name.chars().all(plain) {
        return fault(at..at + equals, "this is not a name of a variable", "write `NAME=value`");
    }
    let variable = |value: String| Some(Variable { name: name.to_owned(), value, at });
    let value_at = at + equals + 1;
    let value_at = value_at + text[value_at..end].len()
        - text[value_at..end].trim_start_matches([' ', '\t']).len();
    let Some(quote @ ('"' | '\'')) = text[value_at..].chars().next() else {
        let value = text[value_at..end].trim_end();
        let value = value.find(" #").map_or(value, |comment| value[..comment].trim_end());
        let value = if value.starts_with('#') { "" } else { value };
        return Ok((variable(value.to_owned()), end));
    };
    let Some((value, close)) = quoted(&text[value_at + 1..], quote) else {
        return fault(
            value_at..value_at + 1,
            "the quote is not closed",
            "close it with the same quote",
        );
    };
    let after = value_at + 1 + close;
    let next = line_end(text, after);
    let tail = text[after..next].trim();
    if !tail.is_empty() && !tail.starts_with('#') {
        let help = "put the whole value in the quotes";
        return fault(after..after + tail.len(), "there is text after the quoted value", help);
    }
    Ok((variable(value), next))
}

/// The value up to `quote`, and where the text behind the quote starts.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((value, at + 1));
        }
        if quote == '\'' || c != '\\' {
            value.push(c);
            continue;
        }
        match chars.next()?.1 {
            'n' => value.push('\n'),
            'r' => value.push('\r'),
            't' => value.push('\t'),
            escaped @ ('"' | '\\' | '$') => value.push(escaped),
            other => {
                value.push('\\');
                value.push(other);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values() {
        let text = "\u{feff}# comment\nA=1\nexport B = two words # tail\n\nC='a # b\nc'\nD=\"x\\n\\\"\\$Y\" # z\r\nE=\nF=#no\nG=a#b\nexport=x\nA=2";
        let (variables, faults) = parse(text);
        let got: Vec<_> = variables.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
        assert_eq!(
            got,
            [
                ("A", "1"),
                ("B", "two words"),
                ("C", "a # b\nc"),
                ("D", "x\n\"$Y"),
                ("E", ""),
                ("F", ""),
                ("G", "a#b"),
                ("export", "x"),
                ("A", "2"),
            ]
        );
        assert_eq!(faults, []);
        assert_eq!(&text[variables[1].at..][..1], "B");
    }

    #[test]
    fn faults_keep_the_other_lines() {
        let (variables, faults) = parse("A\n=b\nB=1\nC='x' y\nD=\"open");
        assert_eq!(variables.len(), 1);
        let got: Vec<_> = faults.iter().map(|f| f.message).collect();
        assert_eq!(
            got,
            [
                "the line sets no variable",
                "this is not a name of a variable",
                "there is text after the quoted value",
                "the quote is not closed",
            ]
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "[A-C=#'\"\\\\ \nü$]{0,60}") {
            let _ = parse(&text);
        }
    }
}
