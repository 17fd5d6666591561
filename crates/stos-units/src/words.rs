// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Values of several words, with quotes and escapes (systemd.service(5), "Command lines").

/// Splits a value at its white space. Quotes, single or double, keep it together and go; `\n`, `\x41` and their like are what they
/// stand for in C, and a word `\;` is a semicolon. `$` and `%` are left as they are, for systemd sees them again.
///
/// # Errors
/// What is wrong, for a quote without its end and for an escape that is none.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        match (char, quote) {
            (char, Some(open)) if char == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            // What separates commands where it stands alone.
            ('\\', None) if word.is_none() && is_semicolon(rest.clone()) => {
                rest.next();
                word = Some(";".to_owned());
            }
            ('\\', _) => word.get_or_insert_default().push(escaped(&mut rest)?),
            (char, None) if char.is_ascii_whitespace() => words.extend(word.take()),
            (char, _) => word.get_or_insert_default().push(char),
        }
    }
    if let Some(open) = quote {
        return Err(format!("a {open} has no end"));
    }
    words.extend(word);
    Ok(words)
}

/// Whether a semicolon comes, and with it the end of the word.
fn is_semicolon(mut rest: impl Iterator<Item = char>) -> bool {
    rest.next() == Some(';') && rest.next().is_none_or(|char| char.is_ascii_whitespace())
}

/// What follows a backslash.
fn escaped(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, String> {
    let escape = rest.next().ok_or("a \\ stands at the end")?;
    let mut number = |digits: usize, radix: u32, first: &str| {
        let mut text = first.to_owned();
        while text.len() < digits {
            let Some(digit) = rest.next_if(|char| char.is_digit(radix)) else { break };
            text.push(digit);
        }
        let value = (text.len() == digits).then(|| u32::from_str_radix(&text, radix).ok()).flatten();
        // A NUL ends a word for the kernel.
        value.filter(|value| *value != 0).and_then(char::from_u32)
    };
    let found = match escape {
        'a' => Some('\u{7}'),
        'b' => Some('\u{8}'),
        'f' => Some('\u{c}'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\u{b}'),
        's' => Some(' '),
        '\\' | '"' | '\'' => Some(escape),
        'x' => number(2, 16, ""),
        'u' => number(4, 16, ""),
        'U' => number(8, 16, ""),
        '0'..='7' => number(3, 8, &escape.to_string()),
        _ => None,
    };
    found.ok_or_else(|| format!("\\{escape} is no escape; a \\ itself is written twice"))
}

/// Writes words so that systemd reads them as they are; `$` and `%` are left to mean what they mean to it.
pub fn join<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// One word, in quotes where it needs them.
fn quote(word: &str) -> String {
    let is_plain = |char: char| !char.is_whitespace() && !char.is_control() && !['"', '\'', '\\'].contains(&char);
    // A lone ; separates commands.
    if !word.is_empty() && word != ";" && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let mut quoted = String::from("\"");
    for char in word.chars() {
        match char {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            control if control.is_control() && control.is_ascii() => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// A text in which systemd finds no specifier (systemd.unit(5)): `%` is doubled.
pub fn percents_doubled(text: &str) -> String {
    text.replace('%', "%%")
}

/// The words of a command of which nothing may mean anything to systemd: `$` is doubled too, which is special in commands alone.
pub fn join_literally<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let doubled: Vec<String> = words.into_iter().map(|word| percents_doubled(word).replace('$', "$$")).collect();
    join(doubled.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_systemd_splits_them() {
        for (text, words) in [
            ("a  b\tc", vec!["a", "b", "c"]),
            ("sh -c 'echo \"$A\" b' x", vec!["sh", "-c", "echo \"$A\" b", "x"]),
            ("A=\"b c\"d '' \"\"", vec!["A=b cd", "", ""]),
            (r#"\x41\101\u00e9\s\"\\ %n"#, vec!["AA\u{e9} \"\\", "%n"]),
            (r"find . -exec ls \; \;", vec!["find", ".", "-exec", "ls", ";", ";"]),
            ("", vec![]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        for (text, said) in [
            ("a 'b", "a ' has no end"),
            ("a\\", "a \\ stands at the end"),
            (r"\q", r"\q is no escape; a \ itself is written twice"),
            (r"a\;", r"\; is no escape; a \ itself is written twice"),
            (r"'\;'", r"\; is no escape; a \ itself is written twice"),
            (r"\x4", r"\x is no escape; a \ itself is written twice"),
            (r"\x00", r"\x is no escape; a \ itself is written twice"),
            (r"\udddd", r"\u is no escape; a \ itself is written twice"),
        ] {
            assert_eq!(split(text).unwrap_err(), said);
        }
    }

    #[test]
    fn what_is_joined_is_split_again() {
        let words =
            ["plain", "", "two words", "it's", "a\"b\\c", "line\nbreak", "\u{1}", "é", ";", "#x", "100%", "$HOME"];
        assert_eq!(split(&join(words)).unwrap(), words);
        assert_eq!(join(["a", "b c", ";"]), "a \"b c\" \";\"");
        assert_eq!(join_literally(["100%", "$HOME x"]), "100%% \"$$HOME x\"");
    }
}
