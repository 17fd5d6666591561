// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images that nobody uses go, and what only they reached.
//!
//! Who uses an image is looked at while nobody can begin to: under the right to sweep where no other command is at work, and
//! with no mount changing. Where one is at work the same is decided as by `rmi`: a pull has no image yet, and a container that is
//! just being made keeps its layers and documents, though its image may have gone. Names are looked at where the index is
//! changed: an image that has got one meanwhile stays.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use jiff::Timestamp;
use serde::Serialize;
use stos_spec::{BlobDigest, ImageConfig};
use stos_store::ImageRecord;

use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::{Error, Result};
use crate::gc::sweep_after_removal;
use crate::image::load_image;
use crate::image_mount::lock_mounted_images;
use crate::journal::Status;
use crate::times::read_time;

/// Which images go.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Those with names too, where no container uses them.
    pub all: bool,
    /// All of these must hold.
    pub filters: Vec<PruneFilter>,
}

/// What must hold for an image that goes. One whose configuration cannot be read fits none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PruneFilter {
    /// It was made before this, as its configuration says. One that does not say when was not.
    Until(Timestamp),
    /// It has this label, with this value where one is given.
    Label(Label),
    /// It has not.
    NotLabel(Label),
}

/// A label, and perhaps its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its key.
    pub key: String,
    /// Its value; `None` for any.
    pub value: Option<String>,
}

impl FromStr for PruneFilter {
    type Err = Error;

    /// Reads `until=TIME`, `label=KEY[=VALUE]` or `label!=KEY[=VALUE]`, where TIME is an RFC 3339 timestamp, seconds since 1970,
    /// or a duration such as `10m` or `1h30m` before now (podman-image-prune(1)).
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |reason: String| Error::Option { option: "--filter", value: text.to_owned(), reason };
        let Some((key, value)) = text.split_once('=') else {
            return Err(refuse("expected FILTER=VALUE".to_owned()));
        };
        match key {
            "until" => read_time(value, Timestamp::now()).map(Self::Until).ok_or_else(|| {
                refuse(
                    "expected a timestamp such as 2026-01-31T12:00:00Z, or a duration such as 10m or 1h30m".to_owned(),
                )
            }),
            "label" => Ok(Self::Label(Label::new(value))),
            "label!" => Ok(Self::NotLabel(Label::new(value))),
            other => Err(refuse(format!("expected until, label or label!, found {other:?}"))),
        }
    }
}

impl Label {
    pub(crate) fn new(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) => Self { key: key.to_owned(), value: Some(value.to_owned()) },
            None => Self { key: text.to_owned(), value: None },
        }
    }

    pub(crate) fn is_of(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(&self.key).is_some_and(|own| self.value.as_ref().is_none_or(|value| value == own))
    }
}

impl PruneFilter {
    fn fits(&self, config: &ImageConfig) -> bool {
        self.holds_of(config.created.as_deref(), &config.labels)
    }

    /// Tells whether it holds for a container: when that was created, and its own labels, the image's among them.
    pub fn fits_container(&self, container: &ContainerRecord) -> bool {
        self.holds_of(Some(&container.created), &container.labels)
    }

    /// Tells whether it holds for something that was made at a time, where that is known, and has labels.
    pub fn holds_of(&self, created: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Until(time) => {
                let created = created.and_then(|text| text.parse::<Timestamp>().ok());
                created.is_some_and(|created| created < *time)
            }
            Self::Label(label) => label.is_of(labels),
            Self::NotLabel(label) => !label.is_of(labels),
        }
    }
}

/// What a prune did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Pruned {
    /// The names that are gone.
    pub untagged: Vec<String>,
    /// The images (IDs) that are gone.
    pub deleted: Vec<BlobDigest>,
    /// How many bytes of the disk became free. Fewer than the images took where others share their layers, and none while another
    /// command is at work: then they become free with a later sweep.
    pub freed: u64,
}

/// Removes images that have no name, that no container and no snapshot uses and nobody has mounted; with `all` also those with names. All of them
/// by one change of the index. Then removes what nothing reaches any more.
///
/// # Errors
/// A container or a snapshot whose record cannot be read: which image it uses is not known.
pub fn prune_images(engine: &Engine, options: &PruneOptions) -> Result<Pruned> {
    let fitting = fitting_images(engine, &options.filters)?;
    // No other command is at work, or it is none of those that add something.
    let right = engine.store.try_sweep_right()?;
    let (mounted, mounts) = lock_mounted_images(engine)?;
    let containers = crate::container::records(engine)?;
    let of_containers = containers.iter().flat_map(|container| container.needed_images().map(|image| image.image_id));
    let used: BTreeSet<BlobDigest> = of_containers.chain(mounted).collect();
    let chains = engine.store.snapshot_roots()?.chains;
    let is_of_snapshot = |image: &ImageRecord| {
        // One that cannot be read has no snapshots that could be mounted.
        let chain = || load_image(engine, image.clone()).ok()?.chain_id().ok();
        !chains.is_empty() && chain().is_some_and(|chain| chains.contains(&chain))
    };
    let goes = |image: &ImageRecord| {
        (options.all || image.reference.is_none())
            && !used.contains(&image.image_id)
            && !is_of_snapshot(image)
            && fitting.as_ref().is_none_or(|fitting| fitting.contains(&image.manifest.digest))
    };
    let gone = std::cell::RefCell::new(Vec::new());
    engine.store.remove_images(|image| {
        let goes = goes(image);
        if goes {
            gone.borrow_mut().push(image.clone());
        }
        goes
    })?;
    drop((mounts, right));
    let mut pruned = Pruned::default();
    for image in gone.into_inner() {
        if let Some(name) = image.reference.as_ref().map(ToString::to_string) {
            engine.note_image(Status::Untag, image.image_id, &name);
            pruned.untagged.push(name);
        }
        if !pruned.deleted.contains(&image.image_id) {
            pruned.deleted.push(image.image_id);
        }
    }
    // An entry without a name of an image that has another one.
    let left = engine.store.images()?;
    pruned.deleted.retain(|id| left.iter().all(|image| image.image_id != *id));
    pruned.deleted.iter().for_each(|id| engine.note_image(Status::Remove, *id, ""));
    pruned.freed = sweep_after_removal(engine).bytes;
    Ok(pruned)
}

/// Gives the manifests of the images that fit all filters; `None` where there are no filters.
fn fitting_images(engine: &Engine, filters: &[PruneFilter]) -> Result<Option<BTreeSet<BlobDigest>>> {
    if filters.is_empty() {
        return Ok(None);
    }
    let mut fitting = BTreeSet::new();
    for record in engine.store.images()? {
        let (digest, id) = (record.manifest.digest, record.image_id);
        match load_image(engine, record) {
            Ok(image) if filters.iter().all(|filter| filter.fits(&image.config)) => {
                fitting.insert(digest);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, image = %id, "the image is damaged: it stays, for no filter can tell"),
        }
    }
    Ok(Some(fitting))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_timestamp_or_a_duration_ago() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2025-06-01T12:00:00Z", "2025-06-01T12:00:00Z"),
            ("2025-06-01T12:00:00+02:00", "2025-06-01T10:00:00Z"),
            ("86400", "1970-01-02T00:00:00Z"),
            ("24h", "2026-01-01T00:00:00Z"),
            ("1h30m", "2026-01-01T22:30:00Z"),
            ("1.5h", "2026-01-01T22:30:00Z"),
            ("90s500ms", "2026-01-01T23:58:29.5Z"),
        ] {
            assert_eq!(read_time(text, now), Some(expected.parse().unwrap()), "{text}");
        }
        for text in ["", "h", "1d", "10m ago", "1h30", ".", "1e3s", "-1h", "99999999999999999999h", "yesterday"] {
            assert_eq!(read_time(text, now), None, "{text}");
        }
    }

    #[test]
    fn filters_are_podmans_and_others_are_refused_by_name() {
        let label = |key: &str, value: Option<&str>| Label { key: key.to_owned(), value: value.map(str::to_owned) };
        for (text, expected) in [
            ("label=a", PruneFilter::Label(label("a", None))),
            ("label=a=b=c", PruneFilter::Label(label("a", Some("b=c")))),
            ("label!=a", PruneFilter::NotLabel(label("a", None))),
            ("label!=a=", PruneFilter::NotLabel(label("a", Some("")))),
            ("until=0", PruneFilter::Until(Timestamp::UNIX_EPOCH)),
        ] {
            assert_eq!(text.parse::<PruneFilter>().unwrap(), expected, "{text}");
        }
        for (text, said) in [("dangling=true", "\"dangling\""), ("label", "FILTER=VALUE"), ("until=soon", "10m")] {
            let error = text.parse::<PruneFilter>().unwrap_err();
            assert!(matches!(error, Error::Option { option: "--filter", .. }), "{text}");
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
    }
}
