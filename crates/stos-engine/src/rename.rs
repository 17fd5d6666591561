// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container gets another name.
//!
//! Its record decides what it is called; the symlink in `names/` leads there. So the new symlink is made first, then the record is
//! replaced by one rename, and then the old symlink goes, all under the container's own lock. Whenever that is cut short the
//! container is found by one name: a symlink whose container is called otherwise leads nowhere, and goes when somebody asks for
//! that name or wants it.

use stos_store::{ContainerId, ContainerName, Lock};

use crate::Engine;
use crate::container::{ContainerRecord, record};
use crate::create::check_name_is_free;
use crate::error::{Error, Result};
use crate::journal::Status;
use crate::lifecycle::with_life_lock;

/// Gives a container another name. It may run meanwhile: nothing in it changes.
///
/// # Errors
/// [`stos_store::Error::NameTaken`] where a container has the name, be it this one.
pub fn rename_container(engine: &Engine, container: &ContainerRecord, name: &ContainerName) -> Result<()> {
    check_name_is_free(engine, name)?;
    with_life_lock(engine, &container.id, |lock| {
        let is_gone = || Error::NoSuchContainer(container.name.to_string());
        let found = if lock.is_some() { record(engine, &container.id)? } else { None };
        let current = found.ok_or_else(is_gone)?;
        engine.store.claim_name(name, &current.id)?;
        let renamed = ContainerRecord { name: name.clone(), ..current.clone() };
        if let Err(error) = engine.replace_record(&renamed) {
            // After the rename only the sync can have failed: then it is called so.
            if record(engine, &current.id).ok().flatten().is_none_or(|now| now.name != *name) {
                engine.store.release_name(name, &current.id)?;
            }
            return Err(error);
        }
        engine.store.release_name(&current.name, &current.id)?;
        engine.note(Status::Rename, &renamed);
        Ok(())
    })
}

/// Frees a name whose symlink leads to a container that is called otherwise: a rename was cut short.
pub(crate) fn free_stale_name(engine: &Engine, name: &ContainerName) -> Result<()> {
    let Some(id) = engine.store.container_named(name.as_str())? else { return Ok(()) };
    if !is_called_otherwise(engine, &id, name) {
        return Ok(());
    }
    // A rename that is under way holds it: then the name is what it makes of it.
    with_life_lock(engine, &id, |_| release_if_stale(engine, &id, name))
}

/// The same where nobody is at work on the container; one that is busy is left alone.
pub(crate) fn try_free_stale_name(engine: &Engine, id: &ContainerId, name: &ContainerName) -> Result<()> {
    match Lock::try_directory(&engine.store.container_dir(id))? {
        Some(_lock) => release_if_stale(engine, id, name),
        None => Ok(()),
    }
}

fn release_if_stale(engine: &Engine, id: &ContainerId, name: &ContainerName) -> Result<()> {
    if is_called_otherwise(engine, id, name) {
        tracing::info!(container = %id, %name, "a rename was cut short: its other name is free");
        engine.store.release_name(name, id)?;
    }
    Ok(())
}

/// A record that cannot be read has no say.
fn is_called_otherwise(engine: &Engine, id: &ContainerId, name: &ContainerName) -> bool {
    record(engine, id).ok().flatten().is_some_and(|record| record.name != *name)
}
