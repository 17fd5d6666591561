// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lists and maps of foreign JSON, of no more entries than real ones have: `{},` takes three bytes in a document, and a
//! hundred in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The most entries of a list or a map.
pub(crate) const ENTRIES_MAX: usize = 10_000;

/// A list of at most [`ENTRIES_MAX`].
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A map of at most [`ENTRIES_MAX`].
pub(crate) struct Map<V>(pub(crate) BTreeMap<String, V>);

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Entries(PhantomData::<T>)).map(Self)
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Map<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields(PhantomData::<V>)).map(Self)
    }
}

struct Entries<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {ENTRIES_MAX} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            if list.len() == ENTRIES_MAX {
                return Err(A::Error::invalid_length(ENTRIES_MAX + 1, &self));
            }
            list.push(item);
        }
        Ok(list)
    }
}

struct Fields<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Fields<V> {
    type Value = BTreeMap<String, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a map of at most {ENTRIES_MAX} entries")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<BTreeMap<String, V>, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = items.next_entry()? {
            map.insert(key, value);
            if map.len() > ENTRIES_MAX {
                return Err(A::Error::invalid_length(ENTRIES_MAX + 1, &self));
            }
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;

    use super::*;

    #[test]
    fn no_more_entries_than_the_bound() {
        let list = |count| serde_json::from_str::<List<IgnoredAny>>(&format!("[{}]", vec!["{}"; count].join(",")));
        assert_eq!(list(ENTRIES_MAX).ok().map(|list| list.0.len()), Some(ENTRIES_MAX));
        let error = list(ENTRIES_MAX + 1).err().unwrap().to_string();
        assert!(error.contains("expected a list of at most 10000 entries"), "{error}");
        let map = |count| {
            let fields: Vec<String> = (0..count).map(|number| format!("\"{number}\":[]")).collect();
            serde_json::from_str::<Map<IgnoredAny>>(&format!("{{{}}}", fields.join(",")))
        };
        assert_eq!(map(ENTRIES_MAX).ok().map(|map| map.0.len()), Some(ENTRIES_MAX));
        assert!(map(ENTRIES_MAX + 1).is_err());
    }
}
