// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a check tells: the objects that it has looked at, and what it has found of each.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use stos_layerfs::{BackendKind, Integrity, Problem};
use stos_spec::BlobDigest;

/// Kinds of objects of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// A file of the store itself, such as `images/index.json`.
    Record,
    /// The index through which an image was found.
    Index,
    /// An image's manifest.
    Manifest,
    /// An image's configuration.
    Configuration,
    /// Any other blob: layers as they came, what other tools have put there.
    Blob,
    /// A layer.
    Layer,
    /// What was made of an image's layers.
    Chain,
    /// A container.
    Container,
    /// A container's name.
    Name,
    /// A snapshot.
    Snapshot,
    /// A volume.
    Volume,
    /// A pod.
    Pod,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "record",
            Self::Index => "index",
            Self::Manifest => "manifest",
            Self::Configuration => "configuration",
            Self::Blob => "blob",
            Self::Layer => "layer",
            Self::Chain => "chain",
            Self::Container => "container",
            Self::Name => "name",
            Self::Snapshot => "snapshot",
            Self::Volume => "volume",
            Self::Pod => "pod",
        })
    }
}

/// An object that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it is.
    pub object: ObjectKind,
    /// Its digest, diffID, chainID, id or name.
    pub id: String,
    /// Which backend's form it is, of layers and chains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendKind>,
    /// What was found; nothing where it is sound.
    pub findings: Vec<Finding>,
}

impl Item {
    pub(super) fn new(object: ObjectKind, id: impl ToString, backend: Option<BackendKind>) -> Self {
        Self { object, id: id.to_string(), backend, findings: Vec::new() }
    }

    /// Tells whether it is sound, by now.
    pub fn is_sound(&self) -> bool {
        !self.findings.iter().any(Finding::is_damage_that_stays)
    }

    /// Says of all findings what became of them.
    pub(super) fn settle(&mut self, outcome: &Outcome) {
        for finding in &mut self.findings {
            finding.outcome = outcome.clone();
        }
    }
}

/// Whether something has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is lost or wrong.
    Damage,
    /// Nothing is; but it is good to know.
    Note,
}

/// What became of a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Outcome {
    /// It was only looked.
    Found,
    /// It is gone, and the object has been looked at again.
    Repaired {
        /// By what.
        how: String,
    },
    /// It could not be repaired.
    Stays {
        /// Why, and what to do.
        why: String,
    },
}

impl Outcome {
    /// Says of damage that stays, of what nothing uses, how it goes.
    pub(super) fn of_garbage(self) -> Self {
        match self {
            Self::Stays { why } => Self::Stays { why: format!("{why}; nothing uses it: `stos system gc` removes it") },
            other => other,
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it is damage.
    pub severity: Severity,
    /// Where, below DATA-ROOT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is wrong; `None` of notes, and of what could not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// The images that need the object, by name, or by ID where they have none.
    pub images: Vec<String>,
    /// The containers that need it, by name.
    pub containers: Vec<String>,
    /// What became of it.
    pub outcome: Outcome,
}

impl Finding {
    /// Tells whether it is damage that is still there.
    pub fn is_damage_that_stays(&self) -> bool {
        self.severity == Severity::Damage && !matches!(self.outcome, Outcome::Repaired { .. })
    }

    pub(super) fn damage(problem: Problem, expected: impl Into<String>, found: impl Into<String>) -> Self {
        let note = Self::note(found);
        Self { severity: Severity::Damage, problem: Some(problem), expected: expected.into(), ..note }
    }

    /// An object that could not be looked at, for which the process or the host is to blame. It is not healthy by that; and
    /// nothing of it is made again.
    pub(super) fn unexamined(error: impl Into<String>) -> Self {
        let note = Self::note(error);
        Self { severity: Severity::Damage, expected: "an object that can be looked at".to_owned(), ..note }
    }

    /// What cannot be read: damage where the disk does not give it, else an object that could not be looked at.
    pub(super) fn unread(expected: impl Into<String>, error: &stos_store::Error) -> Self {
        match error.is_unreadable() {
            true => Self::damage(Problem::Unreadable, expected, error.to_string()),
            false => Self::unexamined(error.to_string()),
        }
    }

    pub(super) fn note(found: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            path: None,
            problem: None,
            expected: String::new(),
            found: found.into(),
            images: Vec::new(),
            containers: Vec::new(),
            outcome: Outcome::Found,
        }
    }

    pub(super) fn at(self, path: impl Into<String>) -> Self {
        Self { path: Some(path.into()), ..self }
    }

    pub(super) fn needed_by(self, users: &Users) -> Self {
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect();
        Self { images: list(&users.images), containers: list(&users.containers), ..self }
    }
}

/// Who needs an object, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Users {
    pub images: BTreeSet<String>,
    pub containers: BTreeSet<String>,
}

impl Users {
    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.containers.is_empty()
    }
}

/// What the check of a store gave.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// Whether every byte was hashed.
    pub full: bool,
    /// Whether nothing is damaged, by now.
    pub healthy: bool,
    /// How many images were looked at.
    pub images: usize,
    /// How many layers, each counted once whatever its forms.
    pub layers: usize,
    /// How many chains.
    pub chains: usize,
    /// How many containers.
    pub containers: usize,
    /// How many volumes.
    pub volumes: usize,
    /// How many pods.
    pub pods: usize,
    /// How many bytes were hashed.
    pub hashed_bytes: u64,
    /// The objects of which something was found.
    pub objects: Vec<Item>,
}

impl CheckReport {
    pub(super) fn new(items: Vec<Item>, images: usize, how: Integrity, hashed_bytes: u64) -> Self {
        let count = |kind| {
            let ids: BTreeSet<&str> =
                items.iter().filter(|item| item.object == kind).map(|item| item.id.as_str()).collect();
            ids.len()
        };
        Self {
            full: how == Integrity::Full,
            healthy: items.iter().all(Item::is_sound),
            images,
            layers: count(ObjectKind::Layer),
            chains: count(ObjectKind::Chain),
            containers: count(ObjectKind::Container),
            volumes: count(ObjectKind::Volume),
            pods: count(ObjectKind::Pod),
            hashed_bytes,
            objects: items.into_iter().filter(|item| !item.findings.is_empty()).collect(),
        }
    }

    /// Gives what was found, with the objects.
    pub fn findings(&self) -> impl Iterator<Item = (&Item, &Finding)> {
        self.objects.iter().flat_map(|item| item.findings.iter().map(move |finding| (item, finding)))
    }
}

/// What the verification of an image gave.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// The image's name, or its ID where it has none.
    pub image: String,
    /// Its manifest's digest.
    pub digest: BlobDigest,
    /// Whether every byte was hashed.
    pub full: bool,
    /// Whether all of it is sound.
    pub sound: bool,
    /// How many bytes were hashed.
    pub hashed_bytes: u64,
    /// Its objects.
    pub objects: Vec<Item>,
}
