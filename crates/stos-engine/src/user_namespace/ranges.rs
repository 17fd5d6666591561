// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--userns auto`: a range for each container that no other one has.
//!
//! podman's rules (containers/storage, `userns.go`): ids of the user `containers`, as many as the image's highest user or group
//! needs, 1024 at least and 65536 at most.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use stos_store::{ContainerId, files};
use stos_sys::process::user_namespace::{IdMapping, IdMappings};
use stos_sys::rooted::Root;

use super::ids::IdSet;
use super::{AUTO_USER, AutoOptions, Request, UserNamespaceError, subordinate};
use crate::Engine;
use crate::error::{Error, Result};

/// How many ids a container has at least (containers/storage, `AutoUserNsMinSize`).
const SIZE_MIN: u64 = 1024;
/// How many it has at most, unless it is told a size (`AutoUserNsMaxSize`).
const SIZE_MAX: u64 = 65536;
/// `nobody`, whom nearly every image has, counts for nothing.
const NOBODY: u64 = 65534;
/// How much of a file of accounts is read.
const FILE_MAX: u64 = 16 << 20;

/// Gives a range. The caller holds the lock.
pub(super) fn give(engine: &Engine, auto: &AutoOptions, request: &Request<'_>) -> Result<IdMappings> {
    let size = match auto.size {
        Some(size) => u64::from(size),
        None => size_for(request)?,
    };
    let pools = subordinate::of_auto()?;
    let used = used(engine)?;
    let given = match map(auto, size, &pools, &used) {
        Err(Error::UserNamespace(UserNamespaceError::NoneFree { .. })) => {
            // What should have gone with its process may still have one: this look takes it away.
            crate::container::list(engine)?;
            map(auto, size, &pools, &self::used(engine)?)
        }
        other => other,
    }?;
    super::check_mappings(super::USERNS, &given)?;
    Ok(given)
}

fn map(auto: &AutoOptions, size: u64, pools: &[IdSet; 2], used: &IdMappings) -> Result<IdMappings> {
    let one = |at: usize, asked: &[IdMapping], used: &[IdMapping]| -> Result<Vec<IdMapping>> {
        let inside = IdSet::of([(0, size)]).without(&IdSet::inside(asked));
        let free = pools[at].without(&IdSet::outside(used)).without(&IdSet::outside(asked));
        let none_free = || UserNamespaceError::NoneFree {
            path: subordinate::PLACES[at].into(),
            user: AUTO_USER.to_owned(),
            needed: inside.len(),
            free: free.len(),
        };
        let mut mappings = inside.map_to(&free.take(inside.len()).ok_or_else(none_free)?);
        mappings.extend_from_slice(asked);
        Ok(mappings)
    };
    Ok(IdMappings {
        users: one(0, &auto.mappings.users, &used.users)?,
        groups: one(1, &auto.mappings.groups, &used.groups)?,
    })
}

/// How many ids a container needs that is told no size.
fn size_for(request: &Request<'_>) -> Result<u64> {
    let (uid, gid, groups) = request.user;
    let of_user = [uid, gid].iter().chain(groups).map(|id| u64::from(*id) + 1).max().unwrap_or(0);
    let image = Root::open(request.image)?;
    let of_files = size_of_accounts(&image, "/etc/passwd", &[2, 3]).max(size_of_accounts(&image, "/etc/group", &[2]));
    let needed = SIZE_MIN.max(of_user).max(of_files);
    if needed > SIZE_MAX {
        return Err(UserNamespaceError::TooLarge { needed, max: SIZE_MAX }.into());
    }
    Ok(needed)
}

/// One more than the highest number in these fields of a file of the image. One that cannot be read has none.
fn size_of_accounts(image: &Root, path: &str, fields: &[usize]) -> u64 {
    let mut bytes = Vec::new();
    let Ok(file) = image.open_to_read(Path::new(path)) else { return 0 };
    if std::fs::File::from(file).take(FILE_MAX).read_to_end(&mut bytes).is_err() {
        return 0;
    }
    let numbers = bytes.split(|byte| *byte == b'\n').flat_map(|line| {
        let line: Vec<_> = line.split(|byte| *byte == b':').collect();
        let is_nobody = matches!(line.first(), Some(&(b"nobody" | b"nogroup")));
        let number = move |field: &usize| std::str::from_utf8(line.get(*field)?).ok()?.parse::<u32>().ok();
        fields.iter().filter(move |_| !is_nobody).filter_map(number).map(u64::from).collect::<Vec<_>>()
    });
    numbers.filter(|id| *id != NOBODY).map(|id| id + 1).max().unwrap_or(0)
}

/// All ids that containers have, of both kinds.
///
/// # Errors
/// Where neither a container's record nor its configuration can be read: nobody knows which ids it has, and it may run.
fn used(engine: &Engine) -> Result<IdMappings> {
    let mut all = IdMappings::default();
    for id in engine.store().containers()? {
        if let Some(ids) = used_by(engine, &id)? {
            all.users.extend(ids.users);
            all.groups.extend(ids.groups);
        }
    }
    Ok(all)
}

fn used_by(engine: &Engine, id: &ContainerId) -> Result<Option<IdMappings>> {
    #[derive(Deserialize)]
    struct Recorded {
        user_namespace: Option<IdMappings>,
    }
    let dir = engine.store().container_dir(id);
    match files::read_json::<Recorded>(&dir.join("container.json")) {
        Ok(Some(record)) => return Ok(record.user_namespace),
        Ok(None) if !dir.exists() => return Ok(None),
        Ok(None) | Err(stos_store::Error::Damaged { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    // What it runs with says the same.
    Ok(files::read_json::<Configured>(&dir.join("config.json"))?.and_then(Configured::into_mappings))
}

/// The mappings in a config.json.
#[derive(Debug, Deserialize)]
struct Configured {
    linux: ConfiguredLinux,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfiguredLinux {
    #[serde(default)]
    uid_mappings: Vec<ConfiguredMapping>,
    #[serde(default)]
    gid_mappings: Vec<ConfiguredMapping>,
}

#[derive(Debug, Deserialize)]
struct ConfiguredMapping {
    #[serde(rename = "containerID")]
    container: u32,
    #[serde(rename = "hostID")]
    host: u32,
    size: u32,
}

impl Configured {
    fn into_mappings(self) -> Option<IdMappings> {
        let read = |list: Vec<ConfiguredMapping>| {
            list.into_iter().map(|ids| IdMapping { container: ids.container, host: ids.host, size: ids.size }).collect()
        };
        let mappings = IdMappings { users: read(self.linux.uid_mappings), groups: read(self.linux.gid_mappings) };
        Some(mappings).filter(|mappings| !mappings.users.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stos_store::ContainerId;

    use super::*;
    use crate::user_namespace::UserNamespaceOptions;

    fn ids(ranges: &[(u32, u32, u32)]) -> Vec<IdMapping> {
        ranges.iter().map(|&(container, host, size)| IdMapping { container, host, size }).collect()
    }

    fn pools(ranges: &[(u64, u64)]) -> [IdSet; 2] {
        [IdSet::of(ranges.iter().copied()), IdSet::of(ranges.iter().copied())]
    }

    #[test]
    fn ranges_are_those_that_nobody_has() {
        let auto = AutoOptions::default();
        let used = IdMappings { users: ids(&[(0, 1000, 100)]), groups: vec![] };
        let given = map(&auto, 50, &pools(&[(1000, 2000)]), &used).unwrap();
        assert_eq!((given.users, given.groups), (ids(&[(0, 1100, 50)]), ids(&[(0, 1000, 50)])));
        let error = map(&auto, 950, &pools(&[(1000, 2000)]), &used).unwrap_err();
        let Error::UserNamespace(UserNamespaceError::NoneFree { path, needed, free, .. }) = error else {
            panic!("{error}")
        };
        assert_eq!((path, needed, free), ("/etc/subuid".into(), 950, 900));
    }

    #[test]
    fn what_is_asked_for_too_is_left_out_of_the_range() {
        let mappings = IdMappings { users: ids(&[(5, 1001, 1)]), groups: vec![] };
        let auto = AutoOptions { size: None, mappings };
        let given = map(&auto, 10, &pools(&[(1000, 1020)]), &IdMappings::default()).unwrap();
        assert_eq!(given.users, ids(&[(0, 1002, 5), (6, 1007, 4), (5, 1001, 1)]));
        assert_eq!(given.groups, ids(&[(0, 1000, 10)]));
    }

    #[test]
    fn the_size_is_what_the_image_and_the_user_need() {
        let dir = tempfile::tempdir().unwrap();
        let size = |user: (u32, u32, &[u32])| {
            size_for(&Request { options: &UserNamespaceOptions::Host, image: dir.path(), user })
        };
        assert_eq!(size((0, 0, &[])).unwrap(), 1024);
        assert_eq!(size((5000, 0, &[7000])).unwrap(), 7001);
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(
            dir.path().join("etc/passwd"),
            "root:x:0:0::/:\nweb:x:2000:3000::/:\nnobody:x:60000:1::/:\nx:x:65534:65534\n",
        )
        .unwrap();
        assert_eq!(size((0, 0, &[])).unwrap(), 3001);
        std::fs::write(dir.path().join("etc/group"), "nogroup:x:50000:\nmany:x:65535:a,b\n").unwrap();
        assert_eq!(size((0, 0, &[])).unwrap(), 65536);
        assert!(matches!(
            size((65_536, 0, &[])),
            Err(Error::UserNamespace(UserNamespaceError::TooLarge { needed: 65_537, max: 65_536 }))
        ));
    }

    #[test]
    fn a_damaged_record_hides_no_range() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        let container = |record: &str, config: &str| {
            let dir = engine.store().container_dir(&ContainerId::random());
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("container.json"), record).unwrap();
            std::fs::write(dir.join("config.json"), config).unwrap();
            dir
        };
        let recorded = json!({"user_namespace": {"mode": "auto", "users": [{"container": 0, "host": 7, "size": 1}], "groups": []}});
        container(&recorded.to_string(), "{");
        container("{}", "{");
        let mapping = json!([{"containerID": 0, "hostID": 9, "size": 2}]);
        container("{", &json!({"linux": {"uidMappings": mapping, "gidMappings": mapping}}).to_string());
        let found = used(&engine).unwrap();
        let mut users = found.users;
        users.sort_by_key(|ids| ids.host);
        assert_eq!((users, found.groups), (ids(&[(0, 7, 1), (0, 9, 2)]), ids(&[(0, 9, 2)])));
        let lost = container("", "");
        assert!(used(&engine).unwrap_err().to_string().contains(lost.file_name().unwrap().to_str().unwrap()));
    }
}
