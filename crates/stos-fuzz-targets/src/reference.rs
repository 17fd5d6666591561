// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Image references.

use stos_spec::ImageRef;

use crate::check_message;

/// Reads a reference.
///
/// What is accepted is, written out in full, a reference by the grammar of the distribution project
/// (`reference/regexp.go`), with two extensions: `_` within a host's labels, which real hosts have, and `sha256` as the only digest. It reads
/// again as itself, and as JSON too.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed: ImageRef = match text.parse() {
        Ok(parsed) => parsed,
        Err(error) => return check_message(&error),
    };
    let full = parsed.to_string();
    assert!(is_full_reference(&full), "{full:?}");
    let again: ImageRef = full.parse().unwrap();
    assert_eq!((&again, again.to_string()), (&parsed, full.clone()));
    assert!(!again.is_short(), "{full:?}");
    assert_eq!(parsed.is_short(), parsed.short_name().is_some());
    if let Some(short) = parsed.short_name() {
        assert!(parsed.may_mean(&again), "{full:?}");
        assert!(text.strip_prefix("docker://").unwrap_or(text).starts_with(short), "{text:?}");
    }
    assert_eq!(parsed.name(), format!("{}/{}", parsed.registry(), parsed.repository()));
    let named = parsed.digest().map(|digest| digest.to_string()).or(parsed.tag().map(str::to_owned));
    assert_eq!(Some(parsed.target()), named, "neither tag nor digest");
    let json = serde_json::to_string(&parsed).unwrap();
    assert_eq!(serde_json::from_str::<ImageRef>(&json).unwrap(), parsed);
}

/// `domain/path[:tag][@sha256:hex]`.
fn is_full_reference(text: &str) -> bool {
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    let (domain, rest) = rest.split_once('/').unwrap_or(("", rest));
    let (path, tag) = rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
    is_domain(domain)
        && domain.len() + path.len() <= 255
        && path.split('/').all(is_path_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(|digest| {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 128 && bytes.next().is_some_and(is_word) && bytes.all(|byte| is_word(byte) || b".-".contains(&byte))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (("[", address), port.strip_prefix(':').or(port.is_empty().then_some("1"))),
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (("", host), Some(port)),
            None => (("", domain), Some("1")),
        },
    };
    let host_fits = match host {
        ("[", address) => address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.'),
        (_, name) => name.split('.').all(|label| {
            let ends = [label.chars().next(), label.chars().next_back()];
            label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
                && ends.iter().all(|end| end.is_some_and(|c| c != '-'))
        }),
    };
    host_fits && port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, as an automaton.
fn is_path_component(text: &str) -> bool {
    let mut join = String::new();
    let mut after_word = false;
    for c in text.chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            let joins = join.is_empty()
                || after_word && ([".", "_", "__"].contains(&join.as_str()) || !join.contains(['.', '_']));
            if !joins {
                return false;
            }
            join.clear();
            after_word = true;
        } else if ['.', '_', '-'].contains(&c) {
            join.push(c);
        } else {
            return false;
        }
    }
    after_word && join.is_empty()
}
