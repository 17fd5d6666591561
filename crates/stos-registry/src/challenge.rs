// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads `WWW-Authenticate` (RFC 9110, 11.6.1), as registries really write it: pure, total, linear in the text.

/// The longest header that is read, in bytes.
const HEADER_MAX: usize = 8 << 10;

/// The most challenges that are read from one header.
const CHALLENGES_MAX: usize = 16;

/// One way to authorize a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme, in lower case: `bearer`, `basic`.
    pub scheme: String,
    /// Its parameters; names in lower case, quotes gone, in the order of the header.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Gives the first parameter of a name in lower case; an empty one is none.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// Reads all challenges of a header. What cannot be read is skipped: an odd challenge does not hide a good one.
///
/// Accepted beyond the grammar: missing closing quotes, missing or repeated commas, blanks around `=`, unquoted values
/// with characters that no token has (`realm=https://x/y`), and parameters before any scheme, which are dropped.
pub fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut end = header.len().min(HEADER_MAX);
    while !header.is_char_boundary(end) {
        end -= 1;
    }
    let mut scanner = Scanner { rest: &header[..end] };
    let mut challenges: Vec<Challenge> = Vec::new();
    while let Some(item) = scanner.next_item() {
        match item {
            Item::Parameter(name, value) => {
                if let Some(challenge) = challenges.last_mut() {
                    challenge.parameters.push((name, value));
                }
            }
            Item::Word(_) if challenges.len() == CHALLENGES_MAX => break,
            Item::Word(scheme) => challenges.push(Challenge { scheme, parameters: Vec::new() }),
        }
    }
    challenges
}

enum Item {
    /// A word that is no parameter's name: a scheme, or a `token68`, which no registry uses and nobody asks for.
    Word(String),
    Parameter(String, String),
}

struct Scanner<'a> {
    rest: &'a str,
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

impl Scanner<'_> {
    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &str {
        let end = self.rest.find(|c| !accept(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn next_item(&mut self) -> Option<Item> {
        loop {
            self.take_while(|c| is_blank(c) || c == ',');
            if self.rest.is_empty() {
                return None;
            }
            let name = self.take_while(|c| !is_blank(c) && !",=\"".contains(c)).to_ascii_lowercase();
            let before_blanks = self.rest;
            self.take_while(is_blank);
            if let Some(rest) = self.rest.strip_prefix('=') {
                self.rest = rest;
                self.take_while(is_blank);
                let value = self.value();
                if !name.is_empty() {
                    return Some(Item::Parameter(name, value));
                }
            } else if name.is_empty() {
                // A quote where none belongs: what it encloses is skipped.
                self.value();
            } else {
                self.rest = before_blanks;
                return Some(Item::Word(name));
            }
        }
    }

    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            return self.take_while(|c| !is_blank(c) && c != ',').to_owned();
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return value;
                }
                '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                _ => value.push(c),
            }
        }
        self.rest = "";
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes challenges as `scheme(name=value|…)`, joined by blanks.
    fn read(header: &str) -> String {
        let one = |challenge: Challenge| {
            let parameters = challenge.parameters.iter().map(|(name, value)| format!("{name}={value}"));
            format!("{}({})", challenge.scheme, parameters.collect::<Vec<_>>().join("|"))
        };
        parse_challenges(header).into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn challenges_are_read_as_they_come() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                "bearer(realm=https://auth.docker.io/token|service=registry.docker.io|scope=repository:a/b:pull,push)",
            ),
            ("BEARER Realm=https://x/y?z, Service=s", "bearer(realm=https://x/y?z|service=s)"),
            (r#"Basic realm="r", Bearer realm="https://x""#, "basic(realm=r) bearer(realm=https://x)"),
            (r#"Negotiate, Basic realm="a, Bearer b""#, "negotiate() basic(realm=a, Bearer b)"),
            (r#"Bearer realm="a\"b\\c""#, r#"bearer(realm=a"b\c)"#),
            (r#"Bearer realm="https://x,service=s"#, "bearer(realm=https://x,service=s)"),
            (r#"Bearer realm="x" service="s""#, "bearer(realm=x|service=s)"),
            (r#"  ,, Bearer  realm = "x" ,, service="s",  "#, "bearer(realm=x|service=s)"),
            (r#"Bearer realm="",service="#, "bearer(realm=|service=)"),
            ("Bearer", "bearer()"),
            (r#"realm="x""#, ""),
            (r#"="x" Bearer , =y realm=z"#, "bearer(realm=z)"),
            (r#""Bearer" Basic realm=z"#, "basic(realm=z)"),
            (r#"Bearer realm="x\"#, "bearer(realm=x)"),
            (r#"Bearer realm="ä€""#, "bearer(realm=ä€)"),
            ("", ""),
            ("\"", ""),
            ("=", ""),
            (",", ""),
        ] {
            assert_eq!(read(header), expected, "{header}");
        }
    }

    #[test]
    fn an_empty_parameter_is_none() {
        let challenge = &parse_challenges(r#"Bearer scope="", Scope=b"#)[0];
        assert_eq!(challenge.parameter("scope"), None);
        assert_eq!(challenge.parameter("realm"), None);
    }

    #[test]
    fn any_text_ends_within_its_bounds() {
        let mut state = 1_u32;
        for _ in 0..2000 {
            let text = (0..40).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ['"', '=', ',', ' ', '\\', 'B', 'ä', '\t'][(state >> 24) as usize % 8]
            });
            let text: String = text.collect();
            for challenge in parse_challenges(&text) {
                assert!(!challenge.scheme.is_empty(), "{text}");
            }
        }
        assert_eq!(parse_challenges(&"x ".repeat(100_000)).len(), CHALLENGES_MAX);
        assert_eq!(parse_challenges(&"ä".repeat(HEADER_MAX))[0].scheme.len(), HEADER_MAX);
    }
}
