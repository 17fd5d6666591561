// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Volumes go: by name, with the container that they were made for, or because no container uses them.

use std::time::Duration;

use stos_store::{Lock, Staging, VolumeName, VolumeRecord};

use super::{VolumeError, VolumeFilter, memory, users};
use crate::Engine;
use crate::container::{self, ContainerRecord};
use crate::error::{Error, Result};
use crate::lifecycle;
use crate::pods::Attempts;

/// How a volume is removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Whether containers that use it go first; `Some` says how long one that runs is asked to end before it is killed.
    pub force: Option<Duration>,
}

/// Removes a volume.
///
/// # Errors
/// [`VolumeError::InUse`] where a container has it; with `force` such containers are removed first. [`VolumeError::NotFound`].
pub fn remove_volume(engine: &Engine, name: &VolumeName, options: RemoveOptions) -> Result<()> {
    // What should have gone with its process uses nothing.
    container::list(engine)?;
    loop {
        let lock = engine.store.lock_volume(name)?.ok_or_else(|| VolumeError::NotFound(name.to_string()))?;
        let containers = users(engine)?.remove(name).unwrap_or_default();
        if containers.is_empty() {
            return take(engine, name, &lock).map(drop);
        }
        drop(lock);
        let Some(patience) = options.force else {
            let containers = containers.iter().map(ToString::to_string).collect();
            return Err(VolumeError::InUse { volume: name.to_string(), containers }.into());
        };
        for id in containers {
            let Some(record) = container::record(engine, &id)? else { continue };
            lifecycle::stop(engine, &record, patience)?;
            match lifecycle::delete(engine, &record, true) {
                // It has gone with its process.
                Err(Error::NoSuchContainer(_)) => {}
                other => other?,
            }
        }
    }
}

/// Takes a volume that nobody uses out of the store. The caller holds its lock.
fn take(engine: &Engine, name: &VolumeName, lock: &Lock) -> Result<Option<Staging>> {
    memory::unmount(engine, name)?;
    Ok(engine.store.take_volume(name, lock)?)
}

/// A volume that has gone because no container uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedVolume {
    /// Its name.
    pub name: VolumeName,
    /// What became free, in bytes.
    pub bytes: u64,
}

/// Removes the volumes that no container uses, where they fit all filters, and tells what could not be removed. One that somebody is just
/// about to use stays.
///
/// # Errors
/// [`VolumeError::UnknownUser`] where a container's record cannot be read: it may use any of them. Nothing is removed then.
pub fn prune_volumes(engine: &Engine, filters: &[VolumeFilter]) -> Result<(Vec<PrunedVolume>, Attempts)> {
    container::list(engine)?;
    users(engine)?;
    let (mut pruned, mut attempts) = (Vec::new(), Attempts::default());
    for name in engine.store.volumes()? {
        match prune_one(engine, &name, filters) {
            Ok(one) => pruned.extend(one),
            Err(error) => attempts.failed.push(error),
        }
    }
    Ok((pruned, attempts))
}

fn prune_one(engine: &Engine, name: &VolumeName, filters: &[VolumeFilter]) -> Result<Option<PrunedVolume>> {
    let Some(lock) = engine.store.try_lock_volume(name)? else { return Ok(None) };
    if users(engine)?.contains_key(name) || !fits(engine, name, filters) {
        return Ok(None);
    }
    let Some(taken) = take(engine, name, &lock)? else { return Ok(None) };
    let bytes = stos_store::usage::measure_tree(taken.path()).map_or(0, |usage| usage.bytes());
    Ok(Some(PrunedVolume { name: name.clone(), bytes }))
}

/// A volume whose record cannot be read fits nothing; but what a power cut has left of one that nobody had named, of a container that
/// nothing of is synced, is nobody's.
fn fits(engine: &Engine, name: &VolumeName, filters: &[VolumeFilter]) -> bool {
    match engine.store.volume(name) {
        Ok(Some(record)) => filters.iter().all(|filter| filter.fits(&record, false)),
        Ok(None) => false,
        Err(_) if name.looks_random() && filters.is_empty() => true,
        Err(error) => {
            tracing::warn!(volume = %name, %error, "it stays, for no filter can tell");
            false
        }
    }
}

/// Removes the volumes that were made for a container which has gone, but for those that another container has. What fails is told.
pub(crate) fn remove_anonymous(engine: &Engine, container: &ContainerRecord) {
    for used in &container.volumes {
        if let Err(error) = remove_one_anonymous(engine, &used.name) {
            tracing::warn!(volume = %used.name, %error, "the container's volume stays: `stos volume rm` removes it");
        }
    }
}

fn remove_one_anonymous(engine: &Engine, name: &VolumeName) -> Result<()> {
    // Who holds it makes a container that has it.
    let Some(lock) = engine.store.try_lock_volume(name)? else { return Ok(()) };
    let is_anonymous = match engine.store.volume(name) {
        Ok(record) => record.is_some_and(|record: VolumeRecord| record.anonymous),
        Err(_) => name.looks_random(),
    };
    if is_anonymous && !users(engine)?.contains_key(name) {
        take(engine, name, &lock)?;
    }
    Ok(())
}
