// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `WWW-Authenticate`.

use stos_registry::challenge::{Challenge, parse_challenges};

/// Reads a `WWW-Authenticate`.
///
/// There are at most 16 challenges and no more text than the header has; schemes and names are in lower case, not empty,
/// and hold none of the characters that separate them. What was read, written in the grammar of RFC 9110, reads again as
/// itself.
pub fn challenge(data: &[u8]) {
    let header = String::from_utf8_lossy(data);
    let challenges = parse_challenges(&header);
    assert!(challenges.len() <= 16);
    let text = |challenge: &Challenge| {
        challenge.scheme.len()
            + challenge.parameters.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    };
    assert!(challenges.iter().map(text).sum::<usize>() <= header.len());
    for challenge in &challenges {
        is_word(&challenge.scheme);
        for (name, _) in &challenge.parameters {
            is_word(name);
            let first = challenge.parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
            assert_eq!(challenge.parameter(name), first.filter(|value| !value.is_empty()));
        }
    }
    let again = challenges.iter().map(written).collect::<Vec<_>>().join(", ");
    if again.len() <= 8 << 10 {
        assert_eq!(parse_challenges(&again), challenges, "{again}");
    }
}

fn is_word(word: &str) {
    assert!(!word.is_empty() && !word.contains([' ', '\t', ',', '=', '"']), "{word:?}");
    assert_eq!(word.to_ascii_lowercase(), word);
}

fn written(challenge: &Challenge) -> String {
    let parameter =
        |(name, value): &(String, String)| format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
    let parameters: Vec<_> = challenge.parameters.iter().map(parameter).collect();
    format!("{} {}", challenge.scheme, parameters.join(", "))
}
