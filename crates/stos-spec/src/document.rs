// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What every JSON document of others must keep to, whatever it is about: one reading, and a bounded depth.
//!
//! RFC 8259 §4 leaves it open what a name that stands twice in an object means. Some readers take the first, some the last, and
//! Go's `encoding/json`, which podman, docker and containerd use, takes `Layers` for `layers` too, be it alone or beside it. Such a
//! document could be one image when it is looked at or signed, and another one when it runs: CVE-2021-41190 by other means. It is
//! refused, also where the name is one that stos has no use for: another reader may.

mod names;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::text::{cut, shown};

pub(crate) use names::{CONFIG, MANIFEST, Names};

/// How deep values may lie in values. Real documents have a dozen levels; `serde_json`, with which the rest of stos reads them,
/// gives up at 128.
pub(crate) const DEPTH_MAX: usize = 100;

/// The most names that are held at once: those of an object and of the objects that it lies in. It bounds memory, no real document.
const NAMES_MAX: usize = 100_000;

/// Objects whose names are people's own words: they may differ by case alone.
const FREE_NAMES: [&str; 4] = ["annotations", "labels", "volumes", "exposedports"];

/// A document that two readers may take for two, or that none should read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DocumentError {
    /// It is no JSON.
    Json(String),
    /// Values lie in values deeper than [`DEPTH_MAX`].
    TooDeep,
    /// A name stands twice in an object, maybe once in other case. It is cut.
    DuplicateName(String),
    /// A name is one of the document's in other case.
    NameCase {
        /// What stands there. It is cut.
        found: String,
        /// The name.
        expected: &'static str,
    },
}

/// Checks a document that has these names.
pub(crate) fn check(bytes: &[u8], names: &'static Names) -> Result<(), DocumentError> {
    let state = RefCell::new(State { names: 0, found: None });
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let whole = Value { depth: 0, has_free_names: false, names: Some(names), state: &state };
    let read = whole.deserialize(&mut reader).and_then(|()| reader.end());
    read.map_err(|error| {
        let found = state.borrow_mut().found.take();
        found.unwrap_or_else(|| DocumentError::Json(shown(&error.to_string())))
    })
}

struct State {
    /// How many names are held.
    names: usize,
    /// What was found, where that is no matter of JSON.
    found: Option<DocumentError>,
}

/// A value on its way.
#[derive(Clone, Copy)]
struct Value<'a> {
    depth: usize,
    /// If it is an object its names are people's own.
    has_free_names: bool,
    /// The names that it has as an object, where readers know any: of a list, those of what it holds.
    names: Option<&'static Names>,
    state: &'a RefCell<State>,
}

impl Value<'_> {
    fn refuse<E: Error>(self, found: DocumentError) -> E {
        self.state.borrow_mut().found = Some(found);
        E::custom("refused")
    }

    /// Gives what a value in this one is.
    fn inner<E: Error>(self, has_free_names: bool, names: Option<&'static Names>) -> Result<Self, E> {
        match self.depth == DEPTH_MAX {
            true => Err(self.refuse(DocumentError::TooDeep)),
            false => Ok(Self { depth: self.depth + 1, has_free_names, names, ..self }),
        }
    }

    /// Refuses a name that is known here in another case, and gives the names below it.
    fn names_below<E: Error>(self, name: &str, folded: &str) -> Result<Option<&'static Names>, E> {
        match self.names.and_then(|names| names.find(folded)) {
            Some((expected, _)) if expected != name => {
                Err(self.refuse(DocumentError::NameCase { found: cut(name), expected }))
            }
            Some((_, below)) => Ok(below),
            None => Ok(None),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {NAMES_MAX} names in objects that lie in each other")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let item = self.inner(false, self.names)?;
        while items.next_element_seed(item)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = items.next_key::<String>()? {
            if self.state.borrow().names == NAMES_MAX {
                return Err(A::Error::invalid_length(NAMES_MAX + 1, &self));
            }
            let folded = folded(&name);
            let below = self.names_below(&name, &folded)?;
            let has_free_names = FREE_NAMES.contains(&&*folded);
            let key = if self.has_free_names { name.clone() } else { folded.into_owned() };
            if !names.insert(key) {
                return Err(self.refuse(DocumentError::DuplicateName(cut(&name))));
            }
            self.state.borrow_mut().names += 1;
            items.next_value_seed(self.inner(has_free_names, below)?)?;
        }
        self.state.borrow_mut().names -= names.len();
        Ok(())
    }
}

/// Gives a name as Go compares them (`encoding/json`, fold.go): ASCII letters of either case, and the two other characters whose
/// case is an ASCII letter, U+017F and U+212A.
fn folded(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(name);
    }
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    Cow::Owned(name.chars().map(fold).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of names that nobody knows.
    fn check(bytes: &[u8]) -> Result<(), DocumentError> {
        super::check(bytes, &NO_NAMES)
    }

    const NO_NAMES: Names = Names::NONE;

    fn nested(depth: usize) -> [String; 2] {
        [("[", "]"), ("{\"a\":", "}")].map(|(open, close)| format!("{}1{}", open.repeat(depth), close.repeat(depth)))
    }

    #[test]
    fn a_name_stands_once() {
        let duplicate = |text: &str| match check(text.as_bytes()) {
            Err(DocumentError::DuplicateName(name)) => Some(name),
            Ok(()) => None,
            Err(other) => panic!("{text}: {other:?}"),
        };
        for (text, expected) in [
            (r#"{"a":1,"a":1}"#, Some("a")),
            (r#"{"a":1,"b":[{"c":{},"d":null,"c":true}]}"#, Some("c")),
            (r#"{"a":1,"\u0061":2}"#, Some("a")),
            (r#"{"layers":[],"Layers":[]}"#, Some("Layers")),
            ("{\"layers\":[],\"layer\u{17f}\":[]}", Some("layer\u{17f}")),
            ("{\"k\":[],\"\u{212a}\":[]}", Some("\u{212a}")),
            (r#"{"labels":{"a":1,"a":2}}"#, Some("a")),
            // Siblings have names of their own.
            (r#"[{"a":1},{"a":1}]"#, None),
            (r#"{"a":{"a":{"a":1}},"b":{"a":1}}"#, None),
            // So have people: theirs may differ by case.
            (r#"{"config":{"Labels":{"a":1,"A":2}},"annotations":{"b":1,"B":2}}"#, None),
            (r#"{"annotations":{"x":{"b":1,"B":2}}}"#, Some("B")),
        ] {
            assert_eq!(duplicate(text).as_deref(), expected, "{text}");
        }
        let long = "x".repeat(10_000);
        let name = duplicate(&format!("{{\"{long}\":1,\"{long}\":1}}")).unwrap();
        assert!(name.len() < 500, "{}", name.len());
    }

    #[test]
    fn a_known_name_is_written_in_its_own_case() {
        let refused = |text: &str, names| match super::check(text.as_bytes(), names) {
            Err(DocumentError::NameCase { found, expected }) => Some((found, expected)),
            Ok(()) => None,
            Err(other) => panic!("{text}: {other:?}"),
        };
        let name = |found: &str, expected| Some((found.to_owned(), expected));
        for (text, expected) in [
            (r#"{"Manifests":[]}"#, name("Manifests", "manifests")),
            ("{\"manifest\u{17f}\":[]}", name("manifest\u{17f}", "manifests")),
            (r#"{"FSLayers":[]}"#, name("FSLayers", "fsLayers")),
            (r#"{"layers":[{},{"Digest":"x"}]}"#, name("Digest", "digest")),
            (r#"{"manifests":[{"platform":{"OS":"x"}}]}"#, name("OS", "os")),
            (r#"{"subject":{"MediaType":"x"}}"#, name("MediaType", "mediaType")),
            // People's own names, names of other places, and names that nobody knows.
            (r#"{"annotations":{"Digest":"","Config":""},"Digest":"","x":{"Config":{}}}"#, None),
        ] {
            assert_eq!(refused(text, &MANIFEST), expected, "{text}");
        }
        for (text, expected) in [
            (r#"{"config":{"user":"77"}}"#, name("user", "User")),
            (r#"{"config":{"env":[]}}"#, name("env", "Env")),
            ("{\"config\":{\"healthchec\u{212a}\":{}}}", name("healthchec\u{212a}", "Healthcheck")),
            (r#"{"container_config":{"CMD":[]}}"#, name("CMD", "Cmd")),
            (r#"{"Config":{}}"#, name("Config", "config")),
            (r#"{"rootfs":{"Diff_IDs":[]}}"#, name("Diff_IDs", "diff_ids")),
            (r#"{"history":[{"Empty_Layer":true}]}"#, name("Empty_Layer", "empty_layer")),
            (
                r#"{"config":{"Labels":{"user":"","User":""},"Image":"","Volumes":{"/Env":{}}},"image":"","User":"","Size":1}"#,
                None,
            ),
        ] {
            assert_eq!(refused(text, &CONFIG), expected, "{text}");
        }
    }

    #[test]
    fn values_lie_in_values_to_a_bounded_depth() {
        for text in nested(DEPTH_MAX) {
            assert_eq!(check(text.as_bytes()), Ok(()));
        }
        for text in nested(DEPTH_MAX + 1).into_iter().chain(nested(100_000)) {
            assert_eq!(check(text.as_bytes()), Err(DocumentError::TooDeep));
        }
        // Never closed, and deep before that.
        assert_eq!(check("[".repeat(100_000).as_bytes()), Err(DocumentError::TooDeep));
    }

    #[test]
    fn what_is_no_json_is_told_as_such() {
        for text in ["", "{", "[1,]", "{} {}", "\"\u{1}\"", "nul", "{1:2}", "1e999"] {
            assert!(matches!(check(text.as_bytes()), Err(DocumentError::Json(_))), "{text}");
        }
        assert!(matches!(check(b"\"\xff\""), Err(DocumentError::Json(_))));
        for text in ["null", "true", "-1", "1.5e3", "18446744073709551616", " \"\\ud83d\\ude00\" "] {
            assert_eq!(check(text.as_bytes()), Ok(()), "{text}");
        }
    }

    #[test]
    fn names_are_held_to_a_bound() {
        let object = |from: usize, count: usize, last: &str| {
            let names: Vec<_> = (from..from + count).map(|number| format!("\"{number}\":0")).collect();
            format!("{{{},\"last\":{last}}}", names.join(","))
        };
        let half = NAMES_MAX / 2;
        assert_eq!(check(object(0, NAMES_MAX - 1, "0").as_bytes()), Ok(()));
        assert!(matches!(check(object(0, NAMES_MAX, "0").as_bytes()), Err(DocumentError::Json(_))));
        let nested = object(0, half, &object(0, half, "0"));
        assert!(matches!(check(nested.as_bytes()), Err(DocumentError::Json(_))));
        // What has been left is not held.
        let siblings = format!("[{0},{0},{0}]", object(0, half, "0"));
        assert_eq!(check(siblings.as_bytes()), Ok(()));
    }
}
