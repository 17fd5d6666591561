// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The run state of a container: what a reboot may lose.
//!
//! ```text
//! ROOT/
//!   containers/<id>/state.json     RunState, of both modes
//!   containers/<id>/config.json    the configuration that it was created from (bundle mode)
//!   containers/<id>/exec.fifo      while created and not started (bundle mode)
//!   containers/<id>/notify/       where it says that it is ready, if its creator has a service manager (bundle mode)
//!   staging/<pid>-<start>-<n>/     a directory on its way in or out of containers/
//!   tombstones                     ids that bundle mode deleted
//! ```
//!
//! An id is taken by one rename of a staged directory into `containers/` (`RENAME_NOREPLACE`): of two creates one wins, and
//! no reader sees a directory without its `state.json`. Records are replaced by rename. Nothing is synced: ROOT does not
//! outlive the boot.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stos_sys::SysError;

use crate::cgroup::CgroupRecord;
use crate::error::{Error, Result};
use crate::gate;
use crate::hooks::{HookState, Hooks};
use crate::id::ContainerId;
use crate::launch::ProcessRecord;

/// The version of `state.json` that this code writes and reads.
pub const STATE_VERSION: u32 = 1;

/// Which mode owns a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A bundle and an id, as runc has it.
    Bundle,
    /// An image's container, whose lasting record is elsewhere.
    Image,
}

/// The run state of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunState {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// The `ociVersion` of its configuration.
    pub oci_version: String,
    /// Its id.
    pub id: ContainerId,
    /// Whose it is.
    pub mode: Mode,
    /// Who makes it: while this process lives and there is no init, the container is being created.
    pub creator: ProcessRecord,
    /// Its first process, once there is one.
    pub init: Option<ProcessRecord>,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root, absolute.
    pub rootfs: PathBuf,
    /// When it was created.
    pub created: Timestamp,
    /// `annotations` of its configuration.
    pub annotations: BTreeMap<String, String>,
    /// Its cgroups, once there are any.
    pub cgroup: CgroupRecord,
    /// The user who created it.
    pub owner: String,
    /// Hooks of later commands: poststart and poststop.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

/// What a container is doing (runtime.md, "State").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its first process is being set up.
    Creating,
    /// Its first process waits for the start.
    Created,
    /// Its command runs.
    Running,
    /// It is frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// The state of a container as `runc state` and `runc list` print it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OciState {
    /// The version of the specification.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// The id.
    pub id: String,
    /// The first process; 0 when stopped.
    pub pid: i32,
    /// What it is doing.
    pub status: Status,
    /// The bundle.
    pub bundle: PathBuf,
    /// The root.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: Timestamp,
    /// Annotations, where there are any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The user who created it; empty for root, as runc has it.
    pub owner: String,
}

impl RunState {
    /// What the container is doing now. `directory` is its run directory.
    pub fn status(&self, directory: &Path) -> Result<Status> {
        let Some(init) = &self.init else {
            return Ok(if self.creator.is_alive()? { Status::Creating } else { Status::Stopped });
        };
        Ok(if init.is_alive()? { self.status_of_live(directory) } else { Status::Stopped })
    }

    /// The same, where its first process is known to be alive.
    pub(crate) fn status_of_live(&self, directory: &Path) -> Status {
        // A frozen one is paused, started or not: it reads no byte of a start.
        match (self.cgroup.is_frozen(), gate::is_closed(directory)) {
            (true, _) => Status::Paused,
            (false, true) => Status::Created,
            (false, false) => Status::Running,
        }
    }

    /// The state as hooks are told it.
    pub fn to_hooks(&self, status: Status) -> HookState<'_> {
        let pid = if status == Status::Stopped { None } else { self.init.as_ref() };
        HookState {
            oci_version: &self.oci_version,
            id: self.id.as_str(),
            status,
            pid: pid.map_or(0, |init| init.pid),
            bundle: &self.bundle,
            annotations: self.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        }
    }

    /// The state as runc prints it.
    pub fn to_oci(&self, status: Status) -> OciState {
        let pid = match (&self.init, status) {
            (Some(init), Status::Created | Status::Running | Status::Paused) => init.pid,
            _ => 0,
        };
        OciState {
            oci_version: self.oci_version.clone(),
            id: self.id.to_string(),
            pid,
            status,
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            created: self.created,
            annotations: self.annotations.clone(),
            owner: self.owner.clone(),
        }
    }
}

/// ROOT, as far as the runtime uses it.
#[derive(Debug, Clone)]
pub struct StateDirectory {
    root: PathBuf,
}

fn io_failed(stage: &'static str, call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let shown = path.display().to_string();
    move |error| Error::sys(stage)(SysError::new(call, shown, Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

impl StateDirectory {
    /// Uses `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// ROOT itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The run directory of `id`.
    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Takes the id of `state` by making its run directory with its record, or says [`Error::Exists`].
    pub fn claim(&self, state: &RunState) -> Result<PathBuf> {
        let stage = "claim the container's id";
        let containers = self.root.join("containers");
        make_private_dir(&containers)?;
        self.sweep_staging()?;
        let staged = self.staged_name()?;
        make_private_dir(&staged)?;
        let target = self.container(&state.id);
        let claimed = write_record(&staged, state).and_then(|()| {
            match renameat_with(CWD, &staged, CWD, &target, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(()),
                Err(Errno::EXIST | Errno::NOTEMPTY) => Err(Error::Exists { id: state.id.to_string() }),
                Err(errno) => Err(Error::sys(stage)(SysError::new("renameat2", target.display().to_string(), errno))),
            }
        });
        if let Err(error) = claimed {
            fs::remove_dir_all(&staged).map_err(io_failed(stage, "unlink", &staged))?;
            return Err(error);
        }
        Ok(target)
    }

    /// Keeps the configuration that a container of bundle mode is created from.
    pub fn keep_config(&self, id: &ContainerId, config: &[u8]) -> Result<()> {
        let path = self.container(id).join("config.json");
        fs::write(&path, config).map_err(io_failed("keep the container's configuration", "write", &path))
    }

    /// Reads the configuration that a container was created from: of image mode it is the bundle's.
    pub fn config(&self, state: &RunState) -> Result<Vec<u8>> {
        let directory = match state.mode {
            Mode::Bundle => self.container(&state.id),
            Mode::Image => state.bundle.clone(),
        };
        let path = directory.join("config.json");
        fs::read(&path).map_err(io_failed("read the container's configuration", "read", &path))
    }

    /// Replaces the record of a container that exists.
    pub fn update(&self, state: &RunState) -> Result<()> {
        write_record(&self.container(&state.id), state)
    }

    /// Reads the record of `id`; [`Error::NotFound`] where there is none.
    pub fn read(&self, id: &ContainerId) -> Result<RunState> {
        let path = self.container(id).join("state.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NAMETOOLONG)) => {
                return Err(Error::NotFound { id: id.to_string() });
            }
            Err(error) => return Err(io_failed("read the container's state", "read", &path)(error)),
        };
        let unreadable = |reason: String| Error::Record { path: path.clone(), reason };
        let state: RunState = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        if state.version != STATE_VERSION {
            return Err(unreadable(format!("expected version {STATE_VERSION}, found {}", state.version)));
        }
        if state.id != *id {
            return Err(unreadable(format!("expected the state of {id}, found that of {}", state.id)));
        }
        Ok(state)
    }

    /// Ids of all containers with a run state, of both modes, sorted.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        let containers = self.root.join("containers");
        let failed = || io_failed("list containers", "readdir", &containers);
        let entries = match fs::read_dir(&containers) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed()(error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed())?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse().ok()));
        }
        ids.sort();
        Ok(ids)
    }

    /// Waits for the right to free `id`, as long as the descriptor lives; [`Error::NotFound`] where there is no such container.
    ///
    /// It is the lock (flock(2)) of the run directory: with it nobody else frees the id, so what is read is what is freed. One
    /// that was freed meanwhile is not found, though the id may be another's by then.
    pub fn lock(&self, id: &ContainerId) -> Result<OwnedFd> {
        let path = self.container(id);
        let failed = |call: &'static str| {
            let shown = path.display().to_string();
            move |errno| Error::sys("lock the container's state")(SysError::new(call, shown, errno))
        };
        let not_found = || Error::NotFound { id: id.to_string() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(&path, flags, rustix::fs::Mode::empty()) {
            Err(Errno::NOENT | Errno::NAMETOOLONG) => return Err(not_found()),
            other => other.map_err(failed("open"))?,
        };
        flock(&directory, FlockOperation::LockExclusive).map_err(failed("flock"))?;
        let locked = rustix::fs::fstat(&directory).map_err(failed("fstat"))?;
        match rustix::fs::stat(&path) {
            Ok(found) if (found.st_dev, found.st_ino) == (locked.st_dev, locked.st_ino) => Ok(directory),
            // It was freed while we waited, and another has the id by now.
            Ok(_) | Err(Errno::NOENT) => Err(not_found()),
            Err(errno) => Err(failed("stat")(errno)),
        }
    }

    /// Frees the id by one rename, then removes its run directory. What is gone is no error.
    pub fn release(&self, id: &ContainerId) -> Result<()> {
        let stage = "remove the container's state";
        let staged = self.staged_name()?;
        let path = self.container(id);
        make_private_dir(&self.staging())?;
        match fs::rename(&path, &staged) {
            Ok(()) => fs::remove_dir_all(&staged).map_err(io_failed(stage, "unlink", &staged)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_failed(stage, "rename", &path)(error)),
        }
    }

    /// A name in staging that no other process and no other call of this one uses.
    fn staged_name(&self) -> Result<PathBuf> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own = ProcessRecord::of_caller()?;
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(self.staging().join(format!("{}-{}-{next}", own.pid, own.start_time)))
    }

    /// Removes what dead processes left in staging.
    fn sweep_staging(&self) -> Result<()> {
        let staging = self.staging();
        make_private_dir(&staging)?;
        for entry in fs::read_dir(&staging).map_err(io_failed("sweep staging", "readdir", &staging))? {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name();
            let mut numbers = name.to_str().unwrap_or_default().split('-');
            let pid = numbers.next().and_then(|pid| pid.parse::<i32>().ok());
            let start_time = numbers.next().and_then(|start| start.parse::<u64>().ok());
            let alive = match (pid, start_time) {
                // One that is dead stays in the process table until its parent asks for it: nobody does where that is a busy init.
                (Some(pid), Some(start)) => match ProcessRecord::of(pid)? {
                    Some(found) => found.start_time == start && found.is_alive()?,
                    None => false,
                },
                _ => false,
            };
            if !alive {
                match fs::remove_dir_all(entry.path()) {
                    Ok(()) => {}
                    // Somebody else sweeps too.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(io_failed("sweep staging", "unlink", &entry.path())(error)),
                }
            }
        }
        Ok(())
    }
}

fn make_private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_failed(
        "make a directory of the run state",
        "mkdir",
        path,
    ))
}

fn write_record(directory: &Path, state: &RunState) -> Result<()> {
    let stage = "write the container's state";
    let (path, staged) = (directory.join("state.json"), directory.join("state.json.new"));
    let mut json =
        serde_json::to_vec(state).map_err(|error| Error::Record { path: path.clone(), reason: error.to_string() })?;
    json.push(b'\n');
    fs::write(&staged, json).map_err(io_failed(stage, "write", &staged))?;
    fs::rename(&staged, &path).map_err(io_failed(stage, "rename", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(id: &str) -> RunState {
        RunState {
            version: STATE_VERSION,
            oci_version: "1.2.0".into(),
            id: id.parse().unwrap(),
            mode: Mode::Bundle,
            creator: ProcessRecord::of_caller().unwrap(),
            init: None,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: Timestamp::UNIX_EPOCH,
            annotations: BTreeMap::new(),
            cgroup: CgroupRecord::default(),
            owner: String::new(),
            hooks: Hooks::default(),
        }
    }

    #[test]
    fn an_id_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = StateDirectory::new(dir.path());
        root.claim(&state("a")).unwrap();
        assert!(matches!(root.claim(&state("a")), Err(Error::Exists { id }) if id == "a"));
        assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
        assert_eq!(root.ids().unwrap(), ["a".parse().unwrap()]);
        root.release(&"a".parse().unwrap()).unwrap();
        root.release(&"a".parse().unwrap()).unwrap();
        assert!(matches!(root.read(&"a".parse().unwrap()), Err(Error::NotFound { .. })));
        root.claim(&state("a")).unwrap();
    }

    #[test]
    fn who_waits_to_free_a_container_does_not_free_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let root = StateDirectory::new(dir.path());
        let id: ContainerId = "a".parse().unwrap();
        let path = root.claim(&state("a")).unwrap();
        let held = root.lock(&id).unwrap();
        let inode = rustix::fs::fstat(&held).unwrap().st_ino;
        let waits = || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&format!(":{inode} ")))
        };
        std::thread::scope(|scope| {
            let second = scope.spawn(|| root.lock(&id));
            while !waits() && !second.is_finished() {
                std::thread::yield_now();
            }
            root.release(&id).unwrap();
            root.claim(&state("a")).unwrap();
            drop(held);
            assert!(matches!(second.join().unwrap(), Err(Error::NotFound { .. })));
        });
        assert!(path.join("state.json").exists() && root.lock(&id).is_ok());
    }

    #[test]
    fn of_many_claims_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let root = StateDirectory::new(dir.path());
        let won: Vec<bool> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| root.claim(&state("a")).is_ok())).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
        assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    }

    #[test]
    fn damaged_and_foreign_records_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = StateDirectory::new(dir.path());
        let path = root.claim(&state("a")).unwrap();
        fs::write(path.join("state.json"), "{").unwrap();
        assert!(
            matches!(root.read(&"a".parse().unwrap()), Err(Error::Record { path: p, .. }) if p.ends_with("a/state.json"))
        );
        let mut other = state("a");
        other.version = 99;
        root.update(&other).unwrap();
        assert!(root.read(&"a".parse().unwrap()).unwrap_err().to_string().contains("found 99"));
        let long = "x".repeat(1024).parse().unwrap();
        assert!(matches!(root.read(&long), Err(Error::NotFound { .. })));
    }

    #[test]
    fn what_the_dead_left_in_staging_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let root = StateDirectory::new(dir.path());
        let own = ProcessRecord::of_caller().unwrap();
        let (dead, odd, ours) = ("1-0-0".to_owned(), "odd".to_owned(), format!("{}-{}-99", own.pid, own.start_time));
        let mut ended = std::process::Command::new("true").stdin(std::process::Stdio::null()).spawn().unwrap();
        let zombie = ProcessRecord::of(ended.id().cast_signed()).unwrap().unwrap();
        while zombie.is_alive().unwrap() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let zombie = format!("{}-{}-0", zombie.pid, zombie.start_time);
        for name in [&dead, &odd, &ours, &zombie] {
            fs::create_dir_all(dir.path().join("staging").join(name)).unwrap();
        }
        root.claim(&state("a")).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path().join("staging")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [ours.as_str()]);
        ended.wait().unwrap();
    }

    #[test]
    fn a_container_whose_creator_died_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = state("a");
        assert_eq!(state.status(dir.path()).unwrap(), Status::Creating);
        state.creator.start_time -= 1;
        assert_eq!(state.status(dir.path()).unwrap(), Status::Stopped);
        state.init = Some(ProcessRecord::of_caller().unwrap());
        assert_eq!(state.status(dir.path()).unwrap(), Status::Running);
        fs::write(dir.path().join("exec.fifo"), "").unwrap();
        assert_eq!(state.status(dir.path()).unwrap(), Status::Created);
        let json = serde_json::to_value(state.to_oci(Status::Stopped)).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner"];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!((&json["pid"], &json["status"]), (&0.into(), &"stopped".into()));
    }
}
