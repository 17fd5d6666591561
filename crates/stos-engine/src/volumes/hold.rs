// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The volumes of a container that is being made: made where they are missing, filled, and held until its record is there.

use std::collections::BTreeMap;
use std::path::Path;

use stos_store::files::Durability;
use stos_store::{CopyUp, Lock, VolumeName, VolumeRecord};

use super::copy_up::ImageFiles;
use super::driver::{Backing, LocalOptions};
use super::plan::{PlannedVolume, UsedVolume, VolumeOption};
use super::{VolumeError, make, users};
use crate::Engine;
use crate::container::now;
use crate::error::Result;

/// What a container's volumes are made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HoldRequest<'a> {
    /// Those that are asked for, and those of the image.
    pub wanted: &'a [VolumeOption],
    /// Where the image's chain is mounted.
    pub image_root: &'a Path,
    /// Of those that are the container's own.
    pub durability: Durability,
}

/// Volumes that nobody can remove as long as this is held. Dropped without [`keep`](Self::keep), those that were made for it go again.
#[derive(Debug)]
pub(crate) struct HeldVolumes {
    engine: Engine,
    locks: BTreeMap<VolumeName, Lock>,
    made: Vec<VolumeName>,
    planned: Vec<PlannedVolume>,
}

impl HeldVolumes {
    /// Makes and fills them. Their locks are taken in the order of their names, so of two creations none waits for the other in a circle.
    pub fn take(engine: &Engine, request: &HoldRequest<'_>) -> Result<Self> {
        let mut held = Self { engine: engine.clone(), locks: BTreeMap::new(), made: Vec::new(), planned: Vec::new() };
        let wanted: Vec<(VolumeName, &VolumeOption)> = request
            .wanted
            .iter()
            .map(|volume| (volume.name.clone().unwrap_or_else(VolumeName::random), volume))
            .collect();
        let mut first: BTreeMap<&VolumeName, &VolumeOption> = BTreeMap::new();
        for (name, volume) in &wanted {
            first.entry(name).or_insert(volume);
        }
        let mut backings = BTreeMap::new();
        for (name, volume) in first {
            backings.insert(name, held.hold(name, volume, request)?);
        }
        for (number, (name, volume)) in wanted.iter().enumerate() {
            let used = UsedVolume {
                name: name.clone(),
                target: volume.target.display().to_string(),
                read_only: volume.read_only,
                subpath: volume.subpath.clone(),
                options: volume.options.clone(),
                in_memory: false,
            };
            held.planned.push(PlannedVolume::on(&backings[name], used, number));
        }
        Ok(held)
    }

    /// Gives them in the order in which they were asked for.
    pub fn planned(&self) -> &[PlannedVolume] {
        &self.planned
    }

    /// Lets go of them: the container's record names them now.
    pub fn keep(mut self) {
        self.made.clear();
    }

    /// Makes sure of one volume and takes its lock.
    fn hold(&mut self, name: &VolumeName, volume: &VolumeOption, request: &HoldRequest<'_>) -> Result<Backing> {
        let find = || ImageFiles::find(request.image_root, &volume.target);
        loop {
            if let Some(lock) = self.engine.store.lock_volume(name)? {
                let record = self.engine.store.volume(name)?.ok_or_else(|| VolumeError::NotFound(name.to_string()))?;
                self.locks.insert(name.clone(), lock);
                let options = LocalOptions::parse(&record.options)?;
                let is_wanted = volume.copies_up && volume.subpath.is_none() && options.backing == Backing::Own;
                if is_wanted
                    && record.copy_up != CopyUp::Done
                    && let Some(files) = find()?
                    && (!files.is_empty || options.owner == (None, None))
                {
                    files.copy_into(&self.engine, &record, options.owner)?;
                }
                return Ok(options.backing);
            }
            if volume.must_exist {
                return Err(VolumeError::NotFound(name.to_string()).into());
            }
            let mut record = VolumeRecord::new(name.clone(), now());
            record.anonymous = volume.name.is_none();
            let durability = if record.anonymous { request.durability } else { Durability::Durable };
            let files = if volume.copies_up && volume.subpath.is_none() { find()? } else { None };
            if make(&self.engine, record, files.as_ref(), durability)? {
                self.made.push(name.clone());
            }
        }
    }
}

impl Drop for HeldVolumes {
    fn drop(&mut self) {
        for name in std::mem::take(&mut self.made) {
            // One that was made and not locked is another's by now, or nobody's: then it is whole.
            let Some(lock) = self.locks.remove(&name) else { continue };
            // Between the two somebody may have begun to use it.
            let is_used = users(&self.engine).map_or(true, |users| users.contains_key(&name));
            if is_used {
                continue;
            }
            if let Err(error) = self.engine.store.take_volume(&name, &lock) {
                tracing::warn!(volume = %name, %error, "the volume that was made for the container stays");
            }
        }
    }
}
