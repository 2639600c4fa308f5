//! Text from a guest, made safe for a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` with control and direction-changing characters as `\u{…}`; tabs stay. A guest can
/// neither move the cursor nor make a line read differently from what it is.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// JSON with the characters that [`escape`] replaces as JSON's own escapes, which mean the same. Those
/// of ASCII are escaped within strings already, and are layout elsewhere.
pub(crate) fn escape_json(json: &str) -> Cow<'_, str> {
    let is_raw = |c: char| c > '~' && is_unsafe(c);
    if !json.chars().any(is_raw) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_raw(c) {
            // None of them needs two units.
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

fn is_unsafe(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    (c.is_control() && c != '\t') || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_borrowed_and_the_rest_escaped() {
        assert!(matches!(escape("größe\t1"), Cow::Borrowed(_)));
        assert_eq!(escape("a\x1b[31mb\r"), "a\\u{1b}[31mb\\u{d}");
        assert_eq!(escape("x\u{202e}y\u{9b}"), "x\\u{202e}y\\u{9b}");
    }

    #[test]
    fn json_means_the_same_when_it_is_safe() {
        assert!(matches!(escape_json("{\n  \"größe\": 1\n}"), Cow::Borrowed(_)));
        let text = "\u{9b}31m \u{7f}\u{202e}\u{2069} \x1b \u{1f980}";
        let json = serde_json::to_string_pretty(&[text]).unwrap();
        let safe = escape_json(&json);
        assert!(safe.chars().all(|c| c == '\n' || !is_unsafe(c)), "{safe:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), [text]);
    }
}
