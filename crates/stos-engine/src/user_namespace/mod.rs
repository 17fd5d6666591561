// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose users a container has: the host's, or those of a user namespace of its own (user_namespaces(7)).
//!
//! | module | what it is |
//! |---|---|
//! | `subordinate` | the ranges of ids that /etc/subuid and /etc/subgid give a user |
//! | `ids` | sets of ids |
//! | `ranges` | `auto`: a range for each container that no other one has |
//! | `mappings` | which mappings can be |
//!
//! No file of an image or of a container is changed for it: layers and the container's own directories are mounted with mapped ids
//! (`stos_sys::mapped_overlay`), and keep on disk the ids that the container sees. So what reads them there, `diff`, `commit` and
//! `export`, needs to know nothing of it.
//!
//! **Lock.** `locks/user-ids`, from the look at the records of all containers until the record of the new one is there. A range is
//! free again when its container's record is gone.

mod ids;
mod mappings;
mod ranges;
mod subordinate;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_erofs::Metadata;
use stos_spec::UserSpec;
use stos_store::ContainerId;
use stos_sys::process::user_namespace::{IdMapping, IdMappings, own_mappings, to_container, to_host};

use crate::Engine;
use crate::container::find;
use crate::error::{Error, Result};
use crate::namespaces::{NamespaceKind, NamespaceOf, NamespaceOptions};

pub use mappings::check_mappings;
pub use subordinate::ranges_of;

/// Whose ranges `auto` takes, as podman has it (containers/storage, `RootAutoUserNsUser`).
pub const AUTO_USER: &str = "containers";

/// The lock under which ranges are given.
const LOCK: &str = "user-ids";

/// The option that most of this is about.
const USERNS: &str = "--userns";

/// Why a container cannot have the users that it is to have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserNamespaceError {
    /// A user has no subordinate ids.
    #[error("{} has no range of ids for the user {user}", path.display())]
    NoRange {
        /// /etc/subuid or /etc/subgid.
        path: PathBuf,
        /// The user.
        user: String,
    },
    /// All that a user has are given to containers.
    #[error("{needed} ids are needed, and of those that {} gives the user {user} only {free} are free", path.display())]
    NoneFree {
        /// /etc/subuid or /etc/subgid.
        path: PathBuf,
        /// The user.
        user: String,
        /// How many ids the container needs.
        needed: u64,
        /// How many no container has.
        free: u64,
    },
    /// The image has users beyond what a namespace of this kind has.
    #[error(
        "the image's ids need a user namespace of {needed}, and --userns auto gives {max} at most unless it is told a size"
    )]
    TooLarge {
        /// How many ids there would be.
        needed: u64,
        /// How many there are at most.
        max: u64,
    },
    /// The user has an id that the container does not.
    #[error("the user namespace has no {kind} {id}, and the container's user is to have it")]
    Unmapped {
        /// `uid` or `gid`.
        kind: &'static str,
        /// The id in the container.
        id: u32,
    },
}

impl UserNamespaceError {
    /// Gives what to do about it, where there is advice.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoRange { path, user } => {
                Some(format!("add a line to {} such as {user}:2147483648:1073741824", path.display()))
            }
            Self::NoneFree { path, .. } => Some(format!(
                "remove containers, ask for fewer with --userns auto:size=N, or add a line to {}",
                path.display()
            )),
            Self::TooLarge { needed, .. } => Some(format!("--userns auto:size={needed}")),
            Self::Unmapped { .. } => Some("map it too, or choose another user with --user".to_owned()),
        }
    }
}

/// Whose users a new container has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum UserNamespaceOptions {
    /// The host's.
    #[default]
    Host,
    /// Its own, of a range that no other container has.
    Auto(AutoOptions),
    /// Its own, with these mappings.
    Mapped(IdMappings),
    /// Its own, with the ids of the caller's namespace as they are; without a user of its own it runs as these.
    KeepId {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// Another container's.
    Container(String),
}

/// What is asked of a range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AutoOptions {
    /// How many ids there are; `None` for as many as the image needs.
    pub size: Option<u32>,
    /// Mappings that are there too. None of their ids, inside or outside, is in the range.
    pub mappings: IdMappings,
}

/// What is recorded of a container's users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// How its mappings came about.
    pub mode: UserNamespaceMode,
    /// Its mappings.
    #[serde(flatten)]
    pub mappings: IdMappings,
}

/// How a container's mappings came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserNamespaceMode {
    /// From a range that no other container has.
    Auto,
    /// As they were asked for.
    Private,
    /// All ids as they are.
    KeepId,
    /// They are another container's, whose namespace is joined.
    Container,
}

impl UserNamespace {
    /// The host's numbers of the container's root.
    pub fn root(&self) -> (u32, u32) {
        self.mappings.root().unwrap_or_else(|| unreachable!("mappings without root are refused"))
    }
}

/// What becomes of the options when the image is known.
pub(crate) struct Request<'a> {
    pub(crate) options: &'a UserNamespaceOptions,
    /// Where the image is mounted.
    pub(crate) image: &'a Path,
    /// uid, gid and further groups of the container's user.
    pub(crate) user: (u32, u32, &'a [u32]),
}

impl UserNamespaceOptions {
    /// Refuses what cannot be, before anything is fetched for it.
    ///
    /// # Errors
    /// [`Error::Option`] by option and value, [`UserNamespaceError::NoRange`], [`Error::NoSuchContainer`].
    pub fn check(&self, engine: &Engine, namespaces: &NamespaceOptions) -> Result<()> {
        match self {
            Self::Host => return Ok(()),
            Self::Auto(auto) => {
                check_mappings(USERNS, &auto.mappings)?;
                subordinate::of_auto()?;
            }
            Self::Mapped(ids) => {
                check_mappings("--uidmap", ids)?;
                check_has_root(ids)?;
            }
            Self::KeepId { .. } => {}
            Self::Container(query) => drop(find(engine, query)?),
        }
        self.check_joins(namespaces)
    }

    /// A procfs, and a queue's filesystem, is mounted only by who has power over the namespace that it shows.
    fn check_joins(&self, namespaces: &NamespaceOptions) -> Result<()> {
        let is_of = |of: &NamespaceOf| match (self, of) {
            (Self::Container(own), NamespaceOf::Container(other)) => own == other,
            (_, NamespaceOf::Container(_)) => false,
            _ => true,
        };
        for (option, of) in [("--pid", &namespaces.pid), ("--ipc", &namespaces.ipc)] {
            if let (false, NamespaceOf::Container(other)) = (is_of(of), of) {
                let reason = format!(
                    "a container with users of its own cannot mount what belongs to another's: it needs --userns container:{other} too"
                );
                return Err(Error::Option { option, value: format!("container:{other}"), reason });
            }
        }
        Ok(())
    }

    /// Whom the container runs as where nobody is named: `None` for the image's user.
    pub(crate) fn default_user(&self) -> Option<UserSpec> {
        match self {
            Self::KeepId { uid, gid } => format!("{uid}:{gid}").parse().ok(),
            _ => None,
        }
    }

    /// Whether a range is given, so that nobody else may be given one until the record is there.
    fn takes_range(&self) -> bool {
        matches!(self, Self::Auto(_))
    }

    /// Does what ends in a new container's record, while nobody else is given a range.
    pub(crate) fn guarded<T>(&self, engine: &Engine, make: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.takes_range() { engine.store().with_lock(LOCK, make) } else { make() }
    }

    /// The container whose user namespace is joined.
    pub(crate) fn joined(&self, engine: &Engine) -> Result<Option<(NamespaceKind, ContainerId)>> {
        let Self::Container(query) = self else { return Ok(None) };
        let other = find(engine, query)?;
        // One with the host's users shares those with everybody.
        Ok(other.user_namespace.is_some().then_some((NamespaceKind::User, other.id)))
    }
}

impl Request<'_> {
    /// Decides on a container's mappings; `None` for the host's users. Where a range is given the caller holds the lock
    /// ([`UserNamespaceOptions::guarded`]).
    pub(crate) fn decide(&self, engine: &Engine) -> Result<Option<UserNamespace>> {
        let decided = match self.options {
            UserNamespaceOptions::Host => return Ok(None),
            UserNamespaceOptions::Auto(auto) => {
                let mappings = ranges::give(engine, auto, self)?;
                check_has_root(&mappings)?;
                UserNamespace { mode: UserNamespaceMode::Auto, mappings }
            }
            UserNamespaceOptions::Mapped(ids) => {
                UserNamespace { mode: UserNamespaceMode::Private, mappings: ids.clone() }
            }
            UserNamespaceOptions::KeepId { .. } => {
                let same = |ids: Vec<IdMapping>| ids.into_iter().map(|ids| IdMapping { host: ids.container, ..ids });
                let own = own_mappings()?;
                let mappings = IdMappings { users: same(own.users).collect(), groups: same(own.groups).collect() };
                UserNamespace { mode: UserNamespaceMode::KeepId, mappings }
            }
            UserNamespaceOptions::Container(query) => match find(engine, query)?.user_namespace {
                Some(other) => UserNamespace { mode: UserNamespaceMode::Container, ..other },
                None => return Ok(None),
            },
        };
        self.check_user(&decided.mappings)?;
        Ok(Some(decided))
    }

    fn check_user(&self, ids: &IdMappings) -> Result<()> {
        let (uid, gid, more) = self.user;
        let groups = std::iter::once(&gid).chain(more).map(|gid| ("gid", &ids.groups, *gid));
        for (kind, mappings, id) in std::iter::once(("uid", &ids.users, uid)).chain(groups) {
            if to_host(mappings, id).is_none() {
                return Err(UserNamespaceError::Unmapped { kind, id }.into());
            }
        }
        Ok(())
    }
}

/// The id that stands for all that have no name in a user namespace (proc_sys_kernel(5), `overflowuid`: its default).
const NOBODY: u32 = 65534;

/// Gives a file the owner that `ids` have for the host's numbers; without any it keeps them.
pub(crate) fn numbered_inside(metadata: Metadata, ids: &IdMappings) -> Metadata {
    if ids.users.is_empty() && ids.groups.is_empty() {
        return metadata;
    }
    let (uid, gid) = (to_container(&ids.users, metadata.uid), to_container(&ids.groups, metadata.gid));
    Metadata { uid: uid.unwrap_or(NOBODY), gid: gid.unwrap_or(NOBODY), ..metadata }
}

/// A container is set up by its own root.
fn check_has_root(ids: &IdMappings) -> Result<()> {
    for (option, mappings) in [("--uidmap", &ids.users), ("--gidmap", &ids.groups)] {
        if to_host(mappings, 0).is_none() {
            let value = mappings.iter().map(mappings::shown).collect::<Vec<_>>().join(" ");
            let reason = "id 0 must be mapped: the container's root sets it up".to_owned();
            return Err(Error::Option { option, value, reason });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> (tempfile::TempDir, Engine) {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        (dir, engine)
    }

    fn mapped(users: &[(u32, u32, u32)]) -> UserNamespaceOptions {
        let ids: Vec<_> = users.iter().map(|&(container, host, size)| IdMapping { container, host, size }).collect();
        UserNamespaceOptions::Mapped(IdMappings { users: ids.clone(), groups: ids })
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let (_dir, engine) = engine();
        let own = NamespaceOptions::default();
        let said = |options: &UserNamespaceOptions| options.check(&engine, &own).unwrap_err().to_string();
        mapped(&[(0, 100_000, 10)]).check(&engine, &own).unwrap();
        assert!(said(&mapped(&[(1, 100_000, 10)])).starts_with("--uidmap \"1:100000:10\": id 0"));
        let other = UserNamespaceOptions::Container("web".to_owned());
        assert!(matches!(other.check(&engine, &own), Err(Error::NoSuchContainer(name)) if name == "web"));
        let pids = NamespaceOptions { pid: NamespaceOf::Container("web".to_owned()), ..NamespaceOptions::default() };
        let error = mapped(&[(0, 1, 1)]).check(&engine, &pids).unwrap_err().to_string();
        assert!(error.starts_with("--pid \"container:web\": "), "{error}");
        UserNamespaceOptions::Host.check(&engine, &pids).unwrap();
    }

    #[test]
    fn who_has_no_id_there_is_refused() {
        let (dir, engine) = engine();
        let options = mapped(&[(0, 100_000, 10)]);
        let decide = |user| Request { options: &options, image: dir.path(), user }.decide(&engine);
        let decided = decide((9, 0, &[3])).unwrap().unwrap();
        assert_eq!((decided.mode, decided.root()), (UserNamespaceMode::Private, (100_000, 100_000)));
        for (user, kind) in [((10, 0, &[][..]), "uid 10"), ((0, 11, &[]), "gid 11"), ((0, 0, &[12]), "gid 12")] {
            let error = decide(user).unwrap_err().to_string();
            assert!(error.contains(kind), "{error}");
        }
    }

    #[test]
    fn a_record_says_how_ids_are_mapped() {
        let ids = vec![IdMapping { container: 0, host: 5, size: 7 }];
        let mappings = IdMappings { users: ids.clone(), groups: ids };
        let record = UserNamespace { mode: UserNamespaceMode::KeepId, mappings };
        let json = serde_json::to_value(&record).unwrap();
        let range = serde_json::json!([{"container": 0, "host": 5, "size": 7}]);
        assert_eq!(json, serde_json::json!({"mode": "keep-id", "users": range, "groups": range}));
        assert_eq!(serde_json::from_value::<UserNamespace>(json).unwrap(), record);
    }
}
