// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a further process needs of its container's configuration: the rest is read over, which spares half the time of reading it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// What is done once, when the container is created. No rule about a process looks at any of it.
const OF_CREATE: Object =
    Object { without: &["mounts", "hooks", "annotations"], below: Some(("linux", &OF_CREATE_ON_LINUX)) };
const OF_CREATE_ON_LINUX: Object = Object {
    without: &["devices", "maskedPaths", "readonlyPaths", "resources", "rootfsPropagation", "sysctl", "timeOffsets"],
    below: None,
};

/// Reads the bytes of a container's `config.json`, which was checked when the container was created.
pub(super) fn by_exec(bytes: &[u8]) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let config = (&OF_CREATE).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(config)
}

/// An object that is read without some of its members.
struct Object {
    without: &'static [&'static str],
    /// A member that is itself read so.
    below: Option<(&'static str, &'static Object)>,
}

impl<'de> DeserializeSeed<'de> for &Object {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Object {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if self.without.contains(&key.as_str()) {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = match self.below {
                Some((name, object)) if name == key => members.next_value_seed(object)?,
                _ => members.next_value()?,
            };
            read.insert(key, value);
        }
        Ok(Value::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_process_needs_is_read_and_no_more() {
        let config = json!({
            "ociVersion": "1.2.0",
            "process": {"args": ["sh"], "mounts": 1},
            "mounts": [{"destination": "/proc"}],
            "hooks": {}, "annotations": {"a": "b"},
            "linux": {"namespaces": [{"type": "pid"}], "seccomp": {"devices": []}, "devices": [], "sysctl": {"a": "b"}},
        });
        let read = by_exec(config.to_string().as_bytes()).unwrap();
        let expected = json!({
            "ociVersion": "1.2.0",
            "process": {"args": ["sh"], "mounts": 1},
            "linux": {"namespaces": [{"type": "pid"}], "seccomp": {"devices": []}},
        });
        assert_eq!(read, expected);
        assert_eq!(by_exec(br#"{"linux": null}"#).unwrap(), json!({"linux": null}));
        for bad in ["[]", "{", "{} {}", r#"{"linux": 1}"#, r#"{"mounts": [}"#] {
            assert!(by_exec(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
