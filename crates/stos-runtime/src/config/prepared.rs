// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A `config.json` whose `linux.seccomp` need not be read: its filter is at hand.

use std::borrow::Cow;

use serde_json::Value;

use super::ConfigError;
use crate::seccomp::{Filter, prepared};

/// What stands in place of the profile while the rest is read; no profile is a string.
const MARK: &str = "a default profile";

/// Reads the bytes of a `config.json`. Where its `linux.seccomp` is a profile whose filter is prepared, it is taken out and the filter
/// given instead.
pub(super) fn read(
    bytes: &[u8],
    read: impl Fn(&[u8]) -> serde_json::Result<Value>,
) -> Result<(Value, Option<Filter>), ConfigError> {
    let found = prepared::find(bytes);
    let short = match &found {
        Some((range, _)) => {
            let mark = format!("\"{MARK}\"");
            Cow::Owned([&bytes[..range.start], mark.as_bytes(), &bytes[range.end..]].concat())
        }
        None => Cow::Borrowed(bytes),
    };
    let mut raw = read(&short)?;
    let Some((_, filter)) = found else { return Ok((raw, None)) };
    // It may stand anywhere, and be followed by another: what counts is what is read.
    if raw.pointer("/linux/seccomp").and_then(Value::as_str) != Some(MARK) {
        return Ok((read(bytes)?, None));
    }
    if let Some(linux) = raw.get_mut("linux").and_then(Value::as_object_mut) {
        linux.remove("seccomp");
    }
    Ok((raw, Some(filter)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::config::{ProcessChanges, RuntimeConfig};
    use crate::seccomp::Filter;
    use crate::seccomp::default_profile::default_profile;

    /// A configuration with `text` as its linux.seccomp, and `more` members behind it.
    fn config(text: &str, more: &str) -> Vec<u8> {
        let config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "linux": {"namespaces": [{"type": "mount"}]},
        });
        config.to_string().replace(r#""linux":{"#, &format!(r#""linux":{{"seccomp":{text}{more},"#)).into_bytes()
    }

    fn filter(text: &str) -> Option<Filter> {
        Some(Filter::of(&serde_json::from_str(text).unwrap()).unwrap())
    }

    #[test]
    fn a_prepared_filter_is_that_of_the_profile_for_a_container_and_for_a_further_process() {
        let text = default_profile(0);
        let config = config(&text, "");
        let changes = ProcessChanges { args: vec!["ls".into()], ..ProcessChanges::default() };
        let read = RuntimeConfig::from_json(&config).unwrap();
        assert!(read.spec().linux().as_ref().unwrap().seccomp().is_none(), "it was read in vain");
        assert!(read.settings().seccomp == filter(&text));
        assert!(RuntimeConfig::of_exec(&config, &changes).unwrap().settings().seccomp == filter(&text));
    }

    #[test]
    fn what_counts_is_the_container_s_own_profile() {
        let (default, other) = (default_profile(0), r#"{"defaultAction":"SCMP_ACT_LOG"}"#);
        let seccomp =
            |text: &str, more: &str| RuntimeConfig::from_json(&config(text, more)).unwrap().settings().seccomp.clone();
        // Of a key that is there twice the last counts.
        assert!(seccomp(&default, &format!(r#","seccomp":{other}"#)) == filter(other));
        assert!(seccomp(other, &format!(r#","seccomp":{default}"#)) == filter(&default));
        assert!(seccomp(other, &format!(r#","unknown":{default}"#)) == filter(other));
        assert!(seccomp("null", &format!(r#","unknown":{default}"#)).is_none());
        assert!(seccomp(&default_profile(u64::MAX), "") == filter(&default_profile(u64::MAX)));
    }
}
