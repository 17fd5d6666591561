// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's place in ROOT: taken before a start, and freed after one that has failed.

use std::time::Instant;

use stos_runtime::{CgroupRequest, Mode as OwnerMode, ProcessRecord, RunState, RuntimeConfig, planned_cgroup};
use stos_store::Lock;

use super::Turn;
use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, is_gone, run_id, state};
use crate::error::{Error, Result};
use crate::filesystem::ensure_own_files;
use crate::lifecycle::{MONITOR_PATIENCE, START_INTERVAL, clear_run_state, remove_locked, with_life_lock};
use crate::networking::tear_down;
use crate::restart::{is_still_ours, note_start};

/// Takes the container's place in ROOT. One whose process has ended is waited for while its monitor writes that down, and one
/// that another start has taken until there is a process: that start may fail, and only then is it ours to try.
///
/// `config` is the container's, where the caller has it.
pub(super) fn claim_when_settled(
    engine: &Engine,
    record: &ContainerRecord,
    config: Option<RuntimeConfig>,
    cgroup: &CgroupRequest,
    turn: Turn,
) -> Result<(RuntimeConfig, RunState)> {
    let deadline = Instant::now() + MONITOR_PATIENCE;
    let mut config = config;
    loop {
        match with_life_lock(engine, &record.id, |lock| claim(engine, record, config.take(), cgroup, lock, turn)) {
            Err(error @ Error::ContainerState { .. }) => {
                let is_settled = match state(engine, &record.id)? {
                    ContainerState::Running(run) => match &run.init {
                        Some(init) => init.is_alive()? || Instant::now() >= deadline,
                        None => false,
                    },
                    _ => Instant::now() >= deadline,
                };
                if is_settled {
                    return Err(error);
                }
                std::thread::sleep(START_INTERVAL);
            }
            other => return other,
        }
    }
}

/// The caller holds the container's lock, so of two starts one wins; without one it is gone.
pub(super) fn claim(
    engine: &Engine,
    record: &ContainerRecord,
    config: Option<RuntimeConfig>,
    cgroup: &CgroupRequest,
    lock: Option<&Lock>,
    turn: Turn,
) -> Result<(RuntimeConfig, RunState)> {
    // Looked at under the lock: whoever stopped it before has said so, and whoever does so after finds that it runs.
    if turn == Turn::Again && (lock.is_none() || !is_still_ours(engine, &record.id)?) {
        return Err(Error::NotAwaited(record.name.to_string()));
    }
    if lock.is_none() {
        return Err(Error::NoSuchContainer(record.name.to_string()));
    }
    if let ContainerState::Running(_) = state(engine, &record.id)? {
        return Err(already_running(record));
    }
    if record.auto_remove && is_gone(engine, record)? {
        remove_locked(engine, &record.id, Some(record), lock)?;
        return Err(Error::NoSuchContainer(record.name.to_string()));
    }
    // What is still in ROOT is of a monitor that was killed, and its process has ended.
    clear_run_state(engine, &record.id, Some(record))?;
    let dir = engine.store.container_dir(&record.id);
    let config = match config {
        Some(config) => config,
        None => RuntimeConfig::load(&dir).map_err(stos_runtime::Error::from)?,
    };
    ensure_own_files(engine, record, config.spec().hostname().as_deref())?;
    let id = run_id(&record.id);
    let run = RunState {
        version: stos_runtime::state::STATE_VERSION,
        oci_version: config.spec().version().clone(),
        // Before there is a process: should we be killed right after, it is found by its cgroups.
        cgroup: planned_cgroup(&id, &config, cgroup)?,
        id,
        mode: OwnerMode::Image,
        creator: ProcessRecord::of_caller()?,
        init: None,
        rootfs: dir.join("rootfs"),
        bundle: dir,
        created: jiff::Timestamp::now(),
        annotations: record.labels.clone(),
        owner: String::new(),
        hooks: stos_runtime::hooks::Hooks::default(),
    };
    match engine.run_states().claim(&run) {
        Err(stos_runtime::Error::Exists { .. }) => return Err(already_running(record)),
        other => other?,
    };
    if let Err(error) = note_start(engine, record, turn == Turn::Again) {
        tracing::warn!(container = %record.name, %error, "its restart policy may not be followed");
    }
    Ok((config, run))
}

/// Frees a place in ROOT after a start that failed, whose cause is the one to tell.
pub(super) fn give_up(engine: &Engine, record: &ContainerRecord, run: &RunState) {
    let freed = tear_down(engine, &record.id, Some(record.network));
    if let Err(error) = freed.and_then(|()| Ok(engine.run_states().release(&run.id)?)) {
        tracing::warn!(container = %run.id, %error, "the state of a failed start stays");
    }
}

fn already_running(record: &ContainerRecord) -> Error {
    Error::ContainerState {
        action: "start",
        container: record.name.to_string(),
        state: "running".to_owned(),
        expected: "created or stopped",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;
    use stos_spec::{BlobDigest, ChainId, DiffId};
    use stos_store::{ContainerId, files};

    use super::*;
    use crate::container::now;
    use crate::restart::{end_for_good, restarts};
    use crate::service::RestartPolicy;

    fn created(engine: &Engine, auto_remove: bool) -> ContainerRecord {
        let (id, layers) = (ContainerId::random(), [DiffId::of(b"")]);
        let record: ContainerRecord = serde_json::from_value(json!({
            "version": 1, "id": id, "name": "test", "image": "x", "image_id": BlobDigest::of(b""),
            "manifest": BlobDigest::of(b""), "layers": layers, "chain": ChainId::of_layers(&layers), "created": now(), "command": ["x"],
            "user": "0", "labels": {}, "stop_signal": 15, "network": "none", "auto_remove": auto_remove,
        }))
        .unwrap();
        let config = json!({
            "ociVersion": "1.2.0", "root": {"path": "rootfs"},
            "process": {"args": ["x"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "linux": {"cgroupsPath": format!("/stos-{id}"), "namespaces": [{"type": "mount"}]},
        });
        let dir = engine.store.container_dir(&id);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("container.json"), files::to_json(&record)).unwrap();
        std::fs::write(dir.join("config.json"), files::to_json(&config)).unwrap();
        record
    }

    #[test]
    fn a_claim_names_the_cgroups_before_there_is_a_process() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        let record = created(&engine, false);
        let nowhere = CgroupRequest::default();
        let claim =
            || with_life_lock(&engine, &record.id, |lock| claim(&engine, &record, None, &nowhere, lock, Turn::First));
        let (_, run) = claim().unwrap();
        let found = engine.run_states().read(&run.id).unwrap();
        assert_eq!((&found.init, &found), (&None, &run));
        assert_eq!(found.cgroup.path, Path::new(&format!("stos-{}", record.id)));
        let places = found.cgroup.directories.iter().map(|directory| &directory.path);
        assert!(places.clone().count() > 0 && places.clone().all(|place| place.ends_with(&found.cgroup.path)));
        // While the claimer lives it is being started.
        assert!(matches!(claim(), Err(Error::ContainerState { .. })));
        std::fs::remove_dir_all(engine.store.container_dir(&record.id)).unwrap();
        assert!(matches!(claim(), Err(Error::NoSuchContainer(_))));
    }

    #[test]
    fn what_was_stopped_is_not_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        let mut record = created(&engine, false);
        record.service.restart = RestartPolicy::Always;
        std::fs::write(engine.record_path(&record.id), files::to_json(&record)).unwrap();
        let claim = |turn| {
            let claimed = with_life_lock(&engine, &record.id, |lock| {
                claim(&engine, &record, None, &CgroupRequest::default(), lock, turn)
            });
            claimed.map(|(_, run)| engine.run_states().release(&run.id).unwrap())
        };
        claim(Turn::First).unwrap();
        claim(Turn::Again).unwrap();
        end_for_good(&engine, &record.id).unwrap();
        assert!(matches!(claim(Turn::Again), Err(Error::NotAwaited(_))));
        assert!(restarts(&engine, &record.id).unwrap().unwrap().stopped_by_user);
        // Somebody may.
        claim(Turn::First).unwrap();
        std::fs::remove_dir_all(engine.store.container_dir(&record.id)).unwrap();
        assert!(matches!(claim(Turn::Again), Err(Error::NotAwaited(_))));
    }

    #[test]
    fn a_container_that_goes_with_its_process_is_not_started_twice() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        let record = created(&engine, true);
        // As its monitor left it that was killed.
        std::fs::write(engine.log_path(&record.id), "").unwrap();
        let nowhere = CgroupRequest::default();
        let claimed =
            with_life_lock(&engine, &record.id, |lock| claim(&engine, &record, None, &nowhere, lock, Turn::First));
        assert!(matches!(claimed, Err(Error::NoSuchContainer(_))));
        assert!(!engine.store.container_dir(&record.id).exists());
    }
}
