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
    // The format characters U+200B–U+200F, U+2028–U+202E and U+2066–U+2069 reorder or hide text.
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_cut_and_escaped() {
        assert_eq!(shown("a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}ä"), r"a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}ä");
        assert_eq!(shown("plain"), "plain");
        let long = shown(&"ä".repeat(1000));
        assert_eq!(long, format!("{}…", "ä".repeat(SHOWN_MAX)));
        assert_eq!(cut(&"\0".repeat(SHOWN_MAX)), "\0".repeat(SHOWN_MAX));
        assert!(matches!(escape("ä b"), Cow::Borrowed("ä b")));
    }
}
