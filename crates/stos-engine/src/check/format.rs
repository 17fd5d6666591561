// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `stos.json`: who may use the store. Where it cannot be read nobody can tell, so nothing else is written before it is made again.

use stos_layerfs::Problem;

use crate::Engine;

use super::report::{Finding, Item, ObjectKind, Outcome};

/// Where the format stands.
const FORMAT: &str = "stos.json";

/// Tells whether the format is damaged, and writes it anew if that was asked for and nothing says that another version made the
/// store. Then the second is the engine over the store as it can be used again.
pub(super) fn examine_format(engine: &Engine, repairs: bool) -> Option<(Item, Option<Engine>)> {
    let reason = engine.store.format_damage()?;
    let mut item = Item::new(ObjectKind::Record, FORMAT, None);
    item.findings.push(Finding::damage(Problem::Unreadable, "the store's format", reason).at(FORMAT));
    if !repairs {
        return Some((item, None));
    }
    match engine.store.rewrite_format() {
        Ok(store) => {
            item.settle(&Outcome::Repaired { how: "written anew, as this version of stos writes it".to_owned() });
            let layerfs = engine.layerfs.reopened(store.clone(), &engine.root);
            Some((item, Some(Engine { store, layerfs, ..engine.clone() })))
        }
        Err(error) => {
            let then = "nothing is repaired before it can be read; where this version of stos wrote the store, remove that file";
            item.settle(&Outcome::Stays { why: format!("{error}; {then}") });
            Some((item, None))
        }
    }
}
