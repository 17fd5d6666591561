// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a store holds, as it says itself, and whether that is what commands had reported as done.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::place::Roots;

/// Images and containers of a store.
#[derive(Clone, Default)]
pub struct Ledger {
    /// By name, or by id where there is none: what `inspect` says.
    pub images: BTreeMap<String, Value>,
    /// By id.
    pub containers: BTreeMap<String, Container>,
}

/// One container.
#[derive(Clone, PartialEq)]
pub struct Container {
    /// What `inspect` says, but for its state.
    pub inspected: Value,
    /// Its status, and how it ended.
    pub state: Value,
    /// `container.json` and `config.json`.
    pub files: [String; 2],
}

/// One command that has succeeded.
pub struct Step {
    /// For people.
    pub words: String,
    /// How many events the disk had seen when it began.
    pub begun: usize,
    /// The same when it had returned.
    pub ended: usize,
    /// What there was then.
    pub ledger: Ledger,
}

impl Ledger {
    /// Asks a store.
    pub fn read(roots: &Roots) -> anyhow::Result<Self> {
        let listed = |arguments: &[&str]| -> anyhow::Result<Vec<Value>> {
            serde_json::from_str(&roots.ok(arguments)?).with_context(|| arguments.join(" "))
        };
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a list without a name or an id");
        let mut ledger = Self::default();
        for image in listed(&["images", "--format", "json"])? {
            let name = match (image["repository"].as_str(), image["tag"].as_str()) {
                (Some(repository), Some(tag)) => format!("{repository}:{tag}"),
                _ => text(&image["id"])?,
            };
            ledger.images.insert(name, Value::Null);
        }
        for container in listed(&["list", "--format", "json"])? {
            let id = text(&container["id"])?;
            let directory = roots.data_root().join("containers").join(&id);
            let file = |name| {
                std::fs::read_to_string(directory.join(name)).with_context(|| format!("{name} of container {id}"))
            };
            let files = [file("container.json")?, file("config.json")?];
            ledger.containers.insert(id, Container { inspected: Value::Null, state: Value::Null, files });
        }
        let names = ledger.images.keys().chain(ledger.containers.keys()).map(String::as_str);
        let arguments: Vec<&str> = std::iter::once("inspect").chain(names).collect();
        if arguments.len() > 1 {
            let mut inspected = listed(&arguments)?.into_iter();
            ledger.images.values_mut().zip(inspected.by_ref()).for_each(|(image, value)| *image = value);
            for (container, mut value) in ledger.containers.values_mut().zip(inspected) {
                container.state = value["state"].take();
                // The same in podman's words.
                value["State"].take();
                container.inspected = value;
            }
        }
        Ok(ledger)
    }
}

/// Which of the steps had returned when the disk had seen `position` events, and which was under way then.
pub fn moment(steps: &[Step], position: usize) -> (&Step, Option<&Step>) {
    let after = steps.partition_point(|step| step.ended <= position).max(1);
    (&steps[after - 1], steps.get(after).filter(|step| step.begun < position))
}

/// Fails where something is not there that the steps before `position` had made, or is not as they had made it, or where something is
/// there that no step had made. What a step under way makes or takes may be there or not; what had been removed may be there again,
/// as it was.
pub fn judge(found: &Ledger, steps: &[Step], position: usize) -> anyhow::Result<()> {
    let (done, under_way) = moment(steps, position);
    let past = || steps.iter().take_while(|step| step.ended <= position).map(|step| &step.ledger);
    let next = under_way.map(|step| &step.ledger);
    let images = past().map(|ledger| &ledger.images).collect();
    compare("image", &found.images, &done.ledger.images, next.map(|next| &next.images), images)?;
    let documents = |ledger: &Ledger| -> BTreeMap<String, (Value, [String; 2])> {
        let pair = |(id, container): (&String, &Container)| {
            (id.clone(), (container.inspected.clone(), container.files.clone()))
        };
        ledger.containers.iter().map(pair).collect()
    };
    let past: Vec<_> = past().map(documents).collect();
    let next_documents = next.map(documents);
    compare("container", &documents(found), &documents(&done.ledger), next_documents.as_ref(), past.iter().collect())?;
    for (id, container) in &found.containers {
        let Some(promised) = done.ledger.containers.get(id) else { continue };
        let changes = next.is_some_and(|next| next.containers.get(id).is_none_or(|next| next.state != promised.state));
        // One that ran has ended with the machine, and nobody knows how.
        let is_at_rest = ["created", "stopped"].iter().any(|status| promised.state["status"] == *status);
        ensure!(
            changes || !is_at_rest || container.state == promised.state,
            "container {id} was {}, and is {}",
            promised.state,
            container.state
        );
    }
    Ok(())
}

fn compare<T: PartialEq + Debug>(
    kind: &str,
    found: &BTreeMap<String, T>,
    done: &BTreeMap<String, T>,
    next: Option<&BTreeMap<String, T>>,
    past: Vec<&BTreeMap<String, T>>,
) -> anyhow::Result<()> {
    for (name, promised) in done {
        let there = found.get(name);
        let is_right = there == Some(promised) || next.is_some_and(|next| next.get(name) == there);
        let Some(there) = there else {
            ensure!(is_right, "{kind} {name} is gone");
            continue;
        };
        ensure!(is_right, "{kind} {name} has changed: {}", difference(promised, there));
    }
    for (name, there) in found.iter().filter(|(name, _)| !done.contains_key(*name)) {
        let is_known = past.iter().copied().chain(next).any(|ledger| ledger.get(name) == Some(there));
        ensure!(is_known, "{kind} {name} is as no command had made it: {}", difference(&"", there));
    }
    Ok(())
}

/// Shows from where on two documents differ.
fn difference(promised: &dyn Debug, there: &dyn Debug) -> String {
    const SHOWN: usize = 200;
    let (promised, there) = (format!("{promised:?}"), format!("{there:?}"));
    let same = promised.chars().zip(there.chars()).take_while(|(one, other)| one == other).count();
    let part = |text: &str| text.chars().skip(same.saturating_sub(SHOWN / 4)).take(SHOWN).collect::<String>();
    format!("expected …{}…, found …{}…", part(&promised), part(&there))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ledger(images: &[(&str, u32)], state: Option<&str>) -> Ledger {
        let containers = state.map(|status| {
            let files = ["record".to_owned(), "configuration".to_owned()];
            ("c".to_owned(), Container { inspected: Value::Null, state: json!({ "status": status }), files })
        });
        Ledger {
            images: images.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect(),
            containers: containers.into_iter().collect(),
        }
    }

    fn steps() -> Vec<Step> {
        let step = |begun, ended, ledger| Step { words: String::new(), begun, ended, ledger };
        vec![
            step(0, 0, Ledger::default()),
            step(0, 10, ledger(&[("a", 1)], Some("created"))),
            step(12, 20, ledger(&[("a", 2)], Some("stopped"))),
            step(20, 30, ledger(&[], Some("running"))),
        ]
    }

    #[test]
    fn while_a_command_is_under_way_the_old_and_the_new_are_right() {
        let steps = steps();
        for state in [Some("created"), Some("stopped")] {
            judge(&ledger(&[("a", 1)], state), &steps, 15).unwrap();
            judge(&ledger(&[("a", 2)], state), &steps, 15).unwrap();
        }
        assert!(judge(&ledger(&[], Some("created")), &steps, 15).is_err());
        assert!(judge(&ledger(&[("a", 3)], Some("created")), &steps, 15).is_err());
        assert!(judge(&ledger(&[("a", 1)], None), &steps, 15).is_err());
        judge(&ledger(&[], None), &steps, 5).unwrap();
    }

    #[test]
    fn what_was_reported_is_there_and_what_was_removed_may_be() {
        let steps = steps();
        judge(&ledger(&[("a", 2)], Some("stopped")), &steps, 20).unwrap();
        let error = judge(&ledger(&[("a", 1)], Some("stopped")), &steps, 20).unwrap_err().to_string();
        assert!(error.contains("a has changed: expected …Number(2)…, found …Number(1)…"), "{error}");
        assert!(judge(&ledger(&[], Some("stopped")), &steps, 20).unwrap_err().to_string().contains("a is gone"));
        assert!(judge(&ledger(&[("a", 2)], Some("created")), &steps, 20).is_err(), "its end is forgotten");
        // Between two commands only what the first had made is right.
        assert!(judge(&ledger(&[("a", 2)], Some("created")), &steps, 12).is_err());
        judge(&ledger(&[], Some("stopped")), &steps, 30).unwrap();
        judge(&ledger(&[("a", 1)], Some("stopped")), &steps, 30).unwrap();
        assert!(judge(&ledger(&[("b", 1)], Some("stopped")), &steps, 30).is_err(), "made by nobody");
        let mut other = ledger(&[], Some("stopped"));
        other.containers.get_mut("c").unwrap().files[1].clear();
        assert!(judge(&other, &steps, 30).is_err(), "an empty config.json");
    }
}
