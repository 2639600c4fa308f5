//! Text from a guest, made safe for a terminal.

use std::borrow::Cow;

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

fn is_unsafe(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
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
}
