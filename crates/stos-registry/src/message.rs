// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a registry says about its own refusal (distribution-spec, "Error Codes").

use std::fmt;

use serde::Deserialize;
use stos_spec::text::shown;

/// The most of an error's body that is read, in bytes.
pub(crate) const MESSAGE_MAX: u64 = 64 << 10;

/// What a registry says about its own refusal: untrusted text, cut, its control characters escaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryMessage(String);

impl RegistryMessage {
    /// Reads the body of a response: `{"errors": [{"code", "message"}]}`, or whatever text it is.
    pub fn parse(body: &[u8]) -> Self {
        let text = match serde_json::from_slice::<Body>(body) {
            Ok(body) => body.describe(),
            // A page for people says nothing in one line.
            Err(_) if body.trim_ascii_start().starts_with(b"<") => String::new(),
            Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
        };
        Self(shown(&text))
    }

    /// Gives the text; empty where the registry said nothing.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Writes `: text`, or nothing, so that an error can simply append it.
impl fmt::Display for RegistryMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.0)
    }
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<Entry>,
    // Token servers and proxies say it in other words.
    #[serde(default)]
    details: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl Body {
    fn describe(self) -> String {
        let entries = self.errors.into_iter().map(|entry| match (entry.code, entry.message) {
            (Some(code), Some(message)) if !message.is_empty() => format!("{message} ({code})"),
            (Some(code), _) => code,
            (None, message) => message.unwrap_or_default(),
        });
        let entries: Vec<String> = entries.filter(|text| !text.is_empty()).collect();
        if !entries.is_empty() {
            return entries.join("; ");
        }
        self.details.or(self.message).or(self.error).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use stos_spec::text::SHOWN_MAX;

    use super::*;

    #[test]
    fn messages_are_read_cut_and_escaped() {
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such tag","detail":{"a":1}}]}"#,
                "no such tag (MANIFEST_UNKNOWN)",
            ),
            (r#"{"errors":[{"code":"DENIED"},{"message":"go away"},{}]}"#, "DENIED; go away"),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            (r#"{"errors":[]}"#, ""),
            (r#"{"errors":[{"message":"a\u001b[2Jb\r\nc\u202ed"}]}"#, r"a\u{1b}[2Jb\r\nc\u{202e}d"),
            ("  404 page not found\n", "404 page not found"),
            ("\n<html><body>nginx</body></html>", ""),
            ("", ""),
        ] {
            assert_eq!(RegistryMessage::parse(body.as_bytes()).as_str(), expected, "{body}");
        }
        assert_eq!(RegistryMessage::parse(&[0xff, 0xfe]).as_str(), "\u{fffd}\u{fffd}");
        let long = RegistryMessage::parse("ä".repeat(1000).as_bytes());
        assert_eq!(long.as_str().chars().count(), SHOWN_MAX + 1);
        assert_eq!(RegistryMessage::parse(b"x").to_string(), ": x");
        assert_eq!(RegistryMessage::default().to_string(), "");
    }
}
