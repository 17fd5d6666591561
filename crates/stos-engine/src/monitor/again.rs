// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lives of a container after the first.

use std::borrow::Cow;
use std::time::Duration;

use super::{Attachment, EndedRun, Turn, live};
use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::{Error, Result};
use crate::journal::Status;
use crate::restart::{Because, Row, await_next_life};
use crate::volumes;

/// Starts a container again that has ended, as long as that is wanted. What its last life was is in `last`.
pub(super) fn restart_while_asked(
    engine: &Engine,
    record: &ContainerRecord,
    attachment: &dyn Fn() -> Attachment,
    last: &mut EndedRun,
) -> Result<()> {
    let (mut row, mut current) = (Row::new(last.lived), Cow::Borrowed(record));
    let (mut exit_code, mut because) = (last.exit.exit_code, last.because);
    while let Some(delay) = row.decide(engine, &current, exit_code, because)? {
        last.part_with_readers()?;
        volumes::memory::release(engine, &current);
        engine.close_journal();
        match await_next_life(engine, &record.id, delay, &mut |time| last.is_interrupted(time))? {
            Some(record) => current = Cow::Owned(record),
            None => return Ok(()),
        }
        match live(engine, &current, attachment(), Turn::Again, |_| engine.note(Status::Restart, &current)) {
            Ok(ended) => {
                (exit_code, because) = (ended.exit.exit_code, ended.because);
                row.end_life(ended.lived);
                *last = ended;
            }
            Err(error) if is_somebody_s(&error, &current) => return Ok(()),
            Err(error) => {
                tracing::error!(container = %current.name, %error, "it cannot be started again");
                (exit_code, because) = (error.exit_code(), Because::Itself);
                row.end_life(Duration::ZERO);
            }
        }
    }
    Ok(())
}

/// Whether a container was not started again because somebody else has stopped it meanwhile, started it or removed it. What is said of a
/// container that it joins is another matter: that may run again soon.
fn is_somebody_s(error: &Error, record: &ContainerRecord) -> bool {
    match error {
        Error::NotAwaited(_) => true,
        Error::ContainerState { action: "start", container, .. } => container == record.name.as_str(),
        Error::NoSuchContainer(name) => name == record.name.as_str(),
        _ => false,
    }
}
