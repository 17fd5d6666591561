// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Volumes: directories that containers share and that outlast them, as podman has them (podman-volume(1)).
//!
//! | module | what it is |
//! |---|---|
//! | `plan` | which volumes a new container has, and how each is mounted |
//! | `hold` | they are made, filled, and held until the container is there |
//! | `copy_up`, `copy_tree` | what the image has at a volume's place goes into the volume |
//! | `driver` | the options of the driver `local` |
//! | `memory` | volumes in memory, and directories in volumes, opened at each start |
//! | `inspect` | what is mounted in a container, to be shown |
//! | `remove` | volumes go |
//!
//! Where they lie and who locks what: [`stos_store::volumes`].

mod copy_tree;
mod copy_up;
mod driver;
mod error;
mod hold;
mod inspect;
pub(crate) mod memory;
mod plan;
mod remove;

use std::collections::BTreeMap;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use serde::Serialize;
use stos_store::files::Durability;
use stos_store::{ContainerId, CopyUp, VolumeName, VolumeRecord};

use crate::Engine;
use crate::container;
use crate::error::{Error, Result};
use crate::prune::Label;
use copy_up::ImageFiles;
use driver::{Backing, LocalOptions};

pub use error::VolumeError;
pub(crate) use hold::{HeldVolumes, HoldRequest};
pub use inspect::{ShownMount, mounts_from_outside};
pub(crate) use plan::{GIVEN, with_volumes_of_others};
pub use plan::{PlannedVolume, UsedVolume, VolumeOption, VolumesFrom};
pub(crate) use remove::remove_anonymous;
pub use remove::{PrunedVolume, RemoveOptions, prune_volumes, remove_volume};

/// The driver of every volume.
pub const DRIVER: &str = "local";

/// A volume that is to be made.
#[derive(Debug, Clone, Default)]
pub struct VolumeRequest {
    /// Its name; without one it gets one.
    pub name: Option<VolumeName>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Whether one that is there will do.
    pub ignore: bool,
}

/// Makes a volume, durably, and gives its name.
///
/// # Errors
/// [`VolumeError::Exists`]; [`VolumeError::UnknownOption`] and [`VolumeError::Option`] for what the driver cannot do.
pub fn create_volume(engine: &Engine, request: VolumeRequest) -> Result<VolumeName> {
    let options = LocalOptions::parse(&request.options)?;
    if let Backing::Host { device, .. } = &options.backing
        && let Err(error) = std::fs::metadata(device)
    {
        let reason = format!("{}: {error}", device.display());
        return Err(VolumeError::Option { option: "device".to_owned(), reason }.into());
    }
    let name = request.name.unwrap_or_else(VolumeName::random);
    let mut record = VolumeRecord::new(name.clone(), container::now());
    (record.labels, record.options) = (request.labels, request.options);
    if !options.copies_up {
        record.copy_up = CopyUp::Done;
    }
    if !make(engine, record, None, Durability::Durable)? && !request.ignore {
        return Err(VolumeError::Exists(name.to_string()).into());
    }
    Ok(name)
}

/// Makes a volume, with an image's files in it where there are any; `false` where there is one of that name.
fn make(engine: &Engine, mut record: VolumeRecord, files: Option<&ImageFiles>, durability: Durability) -> Result<bool> {
    let staged = engine.store.stage_volume()?;
    if let Some(files) = files {
        files.copy_to(&staged.data())?;
        if !files.is_empty {
            record.copy_up = CopyUp::Done;
        }
    }
    let (user, group) = LocalOptions::parse(&record.options)?.owner;
    if user.is_some() || group.is_some() {
        chown(staged.data(), user, group).map_err(stos_store::Error::io("chown", staged.data()))?;
    }
    Ok(engine.store.commit_volume(staged, &record, durability, files.is_some())?)
}

/// Gives the containers that have each volume: those that no record names are used by nobody.
///
/// # Errors
/// [`VolumeError::UnknownUser`] where a record cannot be read.
pub(crate) fn users(engine: &Engine) -> Result<BTreeMap<VolumeName, Vec<ContainerId>>> {
    let mut users: BTreeMap<VolumeName, Vec<ContainerId>> = BTreeMap::new();
    for id in engine.store.containers()? {
        let unknown = |source: Error| VolumeError::UnknownUser { container: id.to_string(), source: Box::new(source) };
        let Some(record) = container::record(engine, &id).map_err(unknown)? else { continue };
        for used in record.volumes {
            let containers = users.entry(used.name).or_default();
            if !containers.contains(&id) {
                containers.push(id.clone());
            }
        }
    }
    Ok(users)
}

/// All that is known of a volume, under podman's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// [`DRIVER`].
    pub driver: &'static str,
    /// Where its files are on the host.
    pub mountpoint: PathBuf,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// podman's word for a volume of one machine.
    pub scope: &'static str,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Whether it was made for one container and named by nobody.
    pub anonymous: bool,
    /// How many containers that run have it mounted.
    pub mount_count: usize,
    /// Whether an empty one would still get an image's files.
    pub needs_copy_up: bool,
}

/// What must hold for a volume that is listed or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeFilter {
    /// Its name has this in it.
    Name(String),
    /// It has this label.
    Label(Label),
    /// It has not.
    NotLabel(Label),
    /// No container has it, or one has.
    Dangling(bool),
    /// Its driver is this.
    Driver(String),
    /// It was made for one container and named by nobody, or it was not.
    Anonymous(bool),
    /// It was made before this.
    Until(jiff::Timestamp),
}

impl std::str::FromStr for VolumeFilter {
    type Err = Error;

    /// Reads `name=`, `label=`, `label!=`, `dangling=`, `driver=`, `anonymous=` or `until=` (podman-volume-ls(1)).
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |reason: String| Error::Option { option: "--filter", value: text.to_owned(), reason };
        let Some((key, value)) = text.split_once('=') else {
            return Err(refuse("expected FILTER=VALUE".to_owned()));
        };
        let boolean = |value: &str| match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(refuse(format!("{value:?} is not a valid value for the {key:?} filter - must be true or false"))),
        };
        Ok(match key {
            "name" => Self::Name(value.to_owned()),
            "label" => Self::Label(Label::new(value)),
            "label!" => Self::NotLabel(Label::new(value)),
            "dangling" => Self::Dangling(boolean(value)?),
            "driver" => Self::Driver(value.to_owned()),
            "anonymous" => Self::Anonymous(boolean(value)?),
            "until" => Self::Until(
                crate::times::read_time(value, jiff::Timestamp::now())
                    .ok_or_else(|| refuse("expected a time such as 2026-01-31T12:00:00Z or 24h".to_owned()))?,
            ),
            other => {
                return Err(refuse(format!(
                    "{other:?} is an invalid volume filter: expected name, label, label!, dangling, driver, anonymous or until"
                )));
            }
        })
    }
}

impl VolumeFilter {
    fn fits(&self, record: &VolumeRecord, is_used: bool) -> bool {
        match self {
            Self::Name(part) => record.name.as_str().contains(part.as_str()),
            Self::Label(label) => label.is_of(&record.labels),
            Self::NotLabel(label) => !label.is_of(&record.labels),
            Self::Dangling(wanted) => *wanted != is_used,
            Self::Driver(driver) => driver == DRIVER,
            Self::Anonymous(wanted) => *wanted == record.anonymous,
            Self::Until(time) => record.created.parse::<jiff::Timestamp>().is_ok_and(|created| created < *time),
        }
    }

    /// Whether another value of the same key will do as well: of labels all must be there.
    fn is_one_of_several(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Driver(_))
    }
}

/// Lists the volumes that fit, sorted by name. Of one key any value will do, of different keys all must hold. One whose record cannot be
/// read is told in the log.
pub fn list_volumes(engine: &Engine, filters: &[VolumeFilter]) -> Result<Vec<Volume>> {
    let users = known_users(engine);
    let mut volumes = Vec::new();
    for name in engine.store.volumes()? {
        let record = match engine.store.volume(&name) {
            Ok(Some(record)) => record,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(volume = %name, %error, "its record cannot be read");
                continue;
            }
        };
        let is_used = users.contains_key(&name);
        let fits = |filter: &VolumeFilter| filter.fits(&record, is_used);
        let fitting = filters.iter().all(|one| {
            let kind = std::mem::discriminant(one);
            match one.is_one_of_several() {
                true => filters.iter().filter(|other| std::mem::discriminant(*other) == kind).any(fits),
                false => fits(one),
            }
        });
        if fitting {
            volumes.push(describe(engine, record, users.get(&name).map_or(&[], Vec::as_slice)));
        }
    }
    Ok(volumes)
}

/// Who has which volume, as far as records can be read: for those who only look.
fn known_users(engine: &Engine) -> BTreeMap<VolumeName, Vec<ContainerId>> {
    users(engine).unwrap_or_else(|error| {
        tracing::warn!(%error, "which volumes are used is not known");
        BTreeMap::new()
    })
}

fn describe(engine: &Engine, record: VolumeRecord, containers: &[ContainerId]) -> Volume {
    let runs = |id: &&ContainerId| matches!(container::state(engine, id), Ok(container::ContainerState::Running(_)));
    Volume {
        mountpoint: engine.store.volume_data(&record.name),
        driver: DRIVER,
        created_at: record.created,
        labels: record.labels,
        scope: "local",
        anonymous: record.anonymous,
        mount_count: containers.iter().filter(runs).count(),
        needs_copy_up: record.copy_up != CopyUp::Done,
        options: record.options,
        name: record.name,
    }
}

/// Gives all that is known of a volume.
pub fn inspect_volume(engine: &Engine, query: &str) -> Result<Volume> {
    let name = find_volume(engine, query)?;
    let record = engine.store.volume(&name)?.ok_or_else(|| VolumeError::NotFound(query.to_owned()))?;
    let users = known_users(engine);
    Ok(describe(engine, record, users.get(&name).map_or(&[], Vec::as_slice)))
}

/// Finds a volume by its name, or by the beginning of it where only one begins so.
pub fn find_volume(engine: &Engine, query: &str) -> Result<VolumeName> {
    let names = engine.store.volumes()?;
    let mut fitting: Vec<_> =
        names.iter().filter(|name| !query.is_empty() && name.as_str().starts_with(query)).collect();
    if let Some(at) = fitting.iter().position(|name| name.as_str() == query) {
        fitting = vec![fitting[at]];
    }
    match fitting.as_slice() {
        [name] => Ok((*name).clone()),
        [] => Err(VolumeError::NotFound(query.to_owned()).into()),
        several => {
            let candidates = several.iter().map(ToString::to_string).collect();
            Err(VolumeError::Ambiguous { query: query.to_owned(), candidates }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> (tempfile::TempDir, Engine) {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        (dir, engine)
    }

    fn request(name: &str) -> VolumeRequest {
        VolumeRequest { name: Some(name.parse().unwrap()), ..VolumeRequest::default() }
    }

    fn names(engine: &Engine, filters: &[&str]) -> Vec<String> {
        let filters: Vec<VolumeFilter> = filters.iter().map(|text| text.parse().unwrap()).collect();
        list_volumes(engine, &filters).unwrap().iter().map(|volume| volume.name.to_string()).collect()
    }

    #[test]
    fn volumes_are_made_once_found_and_removed() {
        let (_dir, engine) = scene();
        create_volume(&engine, request("one")).unwrap();
        let error = create_volume(&engine, request("one")).unwrap_err();
        assert_eq!(error.to_string(), "volume with name one already exists: volume already exists");
        create_volume(&engine, VolumeRequest { ignore: true, ..request("one") }).unwrap();
        create_volume(&engine, request("once")).unwrap();
        assert_eq!(find_volume(&engine, "onc").unwrap().as_str(), "once");
        assert!(matches!(find_volume(&engine, "on"), Err(Error::Volume(VolumeError::Ambiguous { .. }))));
        for none in ["", "two"] {
            assert!(matches!(find_volume(&engine, none), Err(Error::Volume(VolumeError::NotFound(_)))));
        }
        let one = "one".parse().unwrap();
        remove_volume(&engine, &one, RemoveOptions::default()).unwrap();
        assert!(remove_volume(&engine, &one, RemoveOptions::default()).is_err());
        assert_eq!(names(&engine, &[]), ["once"]);
        assert_eq!(prune_volumes(&engine, &[]).unwrap().0.len(), 1);
        assert_eq!(stos_store::files::list_names(&engine.store.staging_area()).unwrap(), [""; 0]);
    }

    #[test]
    fn an_owner_and_a_device_are_seen_to_when_it_is_made() {
        use std::os::unix::fs::MetadataExt;
        let (dir, engine) = scene();
        let options = |pairs: &[(&str, &str)]| VolumeRequest {
            options: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..request("v")
        };
        let none = dir.path().join("none").display().to_string();
        for (pairs, named) in [(&[("device", none.as_str()), ("type", "bind")][..], "device"), (&[("x", "y")], "x")] {
            assert!(create_volume(&engine, options(pairs)).unwrap_err().to_string().contains(named));
            assert_eq!(engine.store.volumes().unwrap(), []);
        }
        let name = create_volume(&engine, options(&[("o", "uid=7,gid=8,nocopy")])).unwrap();
        let data = std::fs::metadata(engine.store.volume_data(&name)).unwrap();
        assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (7, 8, 0o755));
        assert!(!inspect_volume(&engine, "v").unwrap().needs_copy_up);
    }

    #[test]
    fn filters_are_podman_s() {
        let (_dir, engine) = scene();
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        create_volume(&engine, VolumeRequest { labels, ..request("web-1") }).unwrap();
        create_volume(&engine, request("db")).unwrap();
        for (filters, expected) in [
            (&["name=web"][..], &["web-1"][..]),
            (&["name=web", "name=db"], &["db", "web-1"]),
            (&["label=a", "label=a=b"], &["web-1"]),
            (&["label=a=c"], &[]),
            (&["label!=a"], &["db"]),
            (&["name=db", "label=a"], &[]),
            (&["dangling=true", "driver=local"], &["db", "web-1"]),
            (&["dangling=false"], &[]),
            (&["anonymous=true"], &[]),
            (&["until=1h"], &[]),
            (&["driver=nfs"], &[]),
        ] {
            assert_eq!(names(&engine, filters), expected, "{filters:?}");
        }
        for wrong in ["foo=bar", "dangling=x", "name", "until=soon"] {
            assert!(wrong.parse::<VolumeFilter>().is_err(), "{wrong}");
        }
    }
}
