// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Text that others have written, made fit to be shown: hostile documents hold terminal escapes, and megabytes of them.

use std::borrow::Cow;

/// The most of a foreign text that is shown, in characters.
pub const SHOWN_MAX: usize = 400;

/// Cuts a text to [`SHOWN_MAX`] characters: for what is then shown in quotes (`{:?}` escapes).
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Escapes what could move a terminal's cursor, or hide or reorder what follows.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(must_be_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if must_be_escaped(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}

/// Cuts and escapes: for what is shown as it is, without quotes.
pub fn shown(text: &str) -> String {
    escape(&cut(text)).into_owned()
}

fn must_be_escaped(c: char) -> bool {
    // The format characters reorder text, or are not seen: U+061C, U+200E, U+200F, U+202A–U+202E and U+2066–U+2069 (UAX #9,
    // "Explicit Directional Formatting Characters" and "Implicit"), U+200B–U+200D, U+2060–U+2064 and U+FEFF; U+2028 and U+2029
    // break lines.
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_cut_and_escaped() {
        assert_eq!(shown("a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}ä"), r"a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}ä");
        assert_eq!(shown("plain"), "plain");
        let unseen =
            ['\u{61c}', '\u{200b}', '\u{200f}', '\u{2028}', '\u{202a}', '\u{2060}', '\u{2064}', '\u{2069}', '\u{feff}'];
        for c in unseen {
            assert_eq!(shown(&format!("a{c}b")), format!("a{}b", c.escape_unicode()));
        }
        let long = shown(&"ä".repeat(1000));
        assert_eq!(long, format!("{}…", "ä".repeat(SHOWN_MAX)));
        assert_eq!(cut(&"\0".repeat(SHOWN_MAX)), "\0".repeat(SHOWN_MAX));
        assert!(matches!(escape("ä b"), Cow::Borrowed("ä b")));
    }
}
