// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container is started again when it has ended: what its monitor decides then.
//!
//! `restarts.json` in the container's directory says how often that was, whether somebody has stopped the container for good, and
//! which monitor looks after it. It is changed under the container's lock, each time by one rename; containers without a
//! restart policy have none. A monitor that waits for the next start looks whether it is still the one: so `stop`, `kill`
//! and `rm` end the waiting too, and a `start` meanwhile takes the container over.
//!
//! While a monitor waits the container has ended, and is shown so: nothing of it is in ROOT, and its exit code can be asked for.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use stos_runtime::ProcessRecord;
use stos_store::ContainerId;
use stos_store::files::{self, Durability};

use crate::Engine;
use crate::container::{ContainerRecord, record};
use crate::error::{Error, Result};
use crate::lifecycle::with_life_lock;
use crate::service::RestartPolicy;

/// The wait before the first restart of a row; each further one is twice as long (moby, `restartmanager`, whose users expect it).
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// The longest wait.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// A life of this length ends a row of restarts.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// How often a monitor that waits looks whether it still should.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The contents of `restarts.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restarts {
    /// How often its monitor has started it again since somebody started it.
    pub count: u32,
    /// Whether somebody has stopped it since.
    pub stopped_by_user: bool,
    /// The monitor that looks after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<ProcessRecord>,
    /// Whether that one will not start it again, though it may live for a moment.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub has_left: bool,
}

fn path(engine: &Engine, id: &ContainerId) -> std::path::PathBuf {
    engine.store.container_dir(id).join("restarts.json")
}

/// Reads what is known of a container's restarts; `None` where nothing was ever written down.
pub fn restarts(engine: &Engine, id: &ContainerId) -> Result<Option<Restarts>> {
    match files::read_json(&path(engine, id)) {
        // A power cut may have taken it: then nobody waits for anything.
        Err(stos_store::Error::Damaged { path, reason }) => {
            tracing::warn!(path = %path.display(), reason, "what is known of its restarts is lost");
            Ok(None)
        }
        other => Ok(other?),
    }
}

fn write(engine: &Engine, id: &ContainerId, restarts: &Restarts, durability: Durability) -> Result<()> {
    Ok(files::replace(&path(engine, id), &engine.store.staging_area(), &files::to_json(restarts), durability)?)
}

/// Notes that the calling process starts a container: for somebody, or once more by itself. Under the container's lock.
pub(crate) fn note_start(engine: &Engine, record: &ContainerRecord, is_again: bool) -> Result<()> {
    let known = restarts(engine, &record.id)?;
    if !record.service.may_restart() && known.is_none() {
        return Ok(());
    }
    let count = if is_again { known.unwrap_or_default().count.saturating_add(1) } else { 0 };
    let restarts =
        Restarts { count, stopped_by_user: false, monitor: Some(ProcessRecord::of_caller()?), has_left: false };
    write(engine, &record.id, &restarts, Durability::Volatile)
}

/// Notes that a container is to stay ended, before it is ended: whatever its policy says. It outlasts a reboot.
pub(crate) fn end_for_good(engine: &Engine, id: &ContainerId) -> Result<()> {
    // Without a policy there is nothing to note, and nobody is waited for. What a damaged one asks for nobody follows.
    let Ok(Some(record)) = record(engine, id) else { return Ok(()) };
    if !record.service.may_restart() {
        return Ok(());
    }
    with_life_lock(engine, id, |lock| match lock {
        Some(_) => note_stop(engine, &record),
        None => Ok(()),
    })
}

/// The same for who holds the container's lock.
pub(crate) fn note_stop(engine: &Engine, record: &ContainerRecord) -> Result<()> {
    let known = restarts(engine, &record.id)?.unwrap_or_default();
    if known.stopped_by_user {
        return Ok(());
    }
    let durability = if record.auto_remove { Durability::Volatile } else { Durability::Durable };
    write(engine, &record.id, &Restarts { stopped_by_user: true, ..known }, durability)
}

/// The same where the end matters more: that it cannot be noted is told.
pub(crate) fn end_for_good_or_warn(engine: &Engine, id: &ContainerId) {
    if let Err(error) = end_for_good(engine, id) {
        tracing::warn!(container = %id.short(), %error, "cannot note that it is stopped: its restart policy may start it again");
    }
}

/// Notes that the calling monitor looks after a container no more: nobody need wait for that to be started again.
pub(crate) fn leave(engine: &Engine, id: &ContainerId) -> Result<()> {
    // Most have no policy.
    if restarts(engine, id)?.is_none() {
        return Ok(());
    }
    with_life_lock(engine, id, |lock| {
        let known = if lock.is_some() { restarts(engine, id)?.unwrap_or_default() } else { Restarts::default() };
        if known.monitor != Some(ProcessRecord::of_caller()?) {
            return Ok(());
        }
        write(engine, id, &Restarts { has_left: true, ..known }, Durability::Volatile)
    })
}

/// Signals that ask a container for something else than to end.
const OF_WORK: [Signal; 7] =
    [Signal::HUP, Signal::USR1, Signal::USR2, Signal::CONT, Signal::CHILD, Signal::URG, Signal::WINCH];

/// Whether who sends a container this signal wants it to end.
pub(crate) fn is_end(record: &ContainerRecord, signal: i32) -> bool {
    signal == record.stop_signal || (signal != 0 && !OF_WORK.iter().any(|work| work.as_raw() == signal))
}

/// Whether a monitor looks after this container that may start it again, also while it has ended.
pub fn is_awaited(engine: &Engine, record: &ContainerRecord) -> Result<bool> {
    if !record.service.may_restart() {
        return Ok(false);
    }
    is_still_awaited(record, &restarts(engine, &record.id)?.unwrap_or_default())
}

/// The same for who has read what is known of its lives.
pub(crate) fn is_still_awaited(record: &ContainerRecord, known: &Restarts) -> Result<bool> {
    match known {
        Restarts { stopped_by_user: false, monitor: Some(monitor), has_left: false, .. } => {
            Ok(record.service.may_restart() && monitor.is_alive()?)
        }
        _ => Ok(false),
    }
}

/// Whether a container is to be started after a boot: podman's filter `should-start-on-boot`.
pub fn should_start_on_boot(engine: &Engine, record: &ContainerRecord) -> Result<bool> {
    Ok(match record.service.restart {
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !restarts(engine, &record.id)?.unwrap_or_default().stopped_by_user,
        RestartPolicy::No | RestartPolicy::OnFailure { .. } => false,
    })
}

/// Why a container has ended, as its monitor knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Because {
    /// By itself, or somebody has ended it.
    Itself,
    /// Its monitor has ended it, for good.
    EndedForGood,
    /// Its monitor has ended it, to start it again.
    EndedToRestart,
}

/// What a monitor knows of the restarts in a row.
#[derive(Debug)]
pub(crate) struct Row {
    delay: Duration,
    /// How long the last life was.
    lived: Duration,
}

impl Row {
    /// Begins after a first life of this length.
    pub(crate) fn new(lived: Duration) -> Self {
        Self { delay: FIRST_DELAY, lived }
    }

    /// Goes on after a further life of this length.
    pub(crate) fn end_life(&mut self, lived: Duration) {
        self.lived = lived;
    }

    /// How long to wait before the next life.
    fn next_delay(&mut self) -> Duration {
        if self.lived >= LONG_LIFE {
            self.delay = FIRST_DELAY;
        }
        let delay = self.delay;
        self.delay = (delay * 2).min(LONGEST_DELAY);
        delay
    }

    /// Decides whether a container is started again that has ended with this code, and how long after. `None` where it stays ended: by its
    /// policy, or because somebody wants so, or has started or removed it.
    pub(crate) fn decide(
        &mut self,
        engine: &Engine,
        old: &ContainerRecord,
        exit_code: i32,
        because: Because,
    ) -> Result<Option<Duration>> {
        if because == Because::EndedForGood || (old.auto_remove && !old.service.may_restart()) {
            return Ok(None);
        }
        // Somebody may have changed the policy meanwhile.
        let Some(current) = record(engine, &old.id)? else { return Ok(None) };
        let known = restarts(engine, &old.id)?.unwrap_or_default();
        let policy = current.service.restart;
        let is_asked = because == Because::EndedToRestart || policy.asks_for_restart(exit_code, known.count);
        if !is_asked || !is_ours(&known)? {
            return Ok(None);
        }
        Ok(Some(self.next_delay()))
    }
}

/// Waits until it is time for the next life, and gives the container's record as it is then; `None` where it stays ended after all.
///
/// `is_interrupted` waits for so long, and tells whether its monitor was asked to end meanwhile.
pub(crate) fn await_next_life(
    engine: &Engine,
    id: &ContainerId,
    delay: Duration,
    is_interrupted: &mut dyn FnMut(Duration) -> Result<bool>,
) -> Result<Option<ContainerRecord>> {
    let deadline = Instant::now() + delay;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if is_interrupted(left.min(LOOK_INTERVAL))? {
            return Ok(None);
        }
        let Some(record) = record(engine, id)? else { return Ok(None) };
        if !is_still_ours(engine, id)? {
            return Ok(None);
        }
        if left.is_zero() {
            return Ok(Some(record));
        }
    }
}

/// Whether the calling monitor still is to start this container again.
pub(crate) fn is_still_ours(engine: &Engine, id: &ContainerId) -> Result<bool> {
    is_ours(&restarts(engine, id)?.unwrap_or_default())
}

/// Whether nobody has stopped the container, or taken it over. Where no monitor was written down it was started without a policy.
fn is_ours(known: &Restarts) -> Result<bool> {
    let own = ProcessRecord::of_caller().map_err(Error::from)?;
    Ok(!known.stopped_by_user && known.monitor.as_ref().is_none_or(|monitor| *monitor == own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_of_a_row_is_longer_and_a_long_life_ends_it() {
        let short = Duration::from_secs(1);
        let mut row = Row::new(short);
        let delays: Vec<_> = (0..12).map(|_| row.next_delay().as_millis()).collect();
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[10..], [60_000, 60_000]);
        row.end_life(LONG_LIFE);
        assert_eq!(row.next_delay(), FIRST_DELAY);
        row.end_life(short);
        assert_eq!(row.next_delay(), FIRST_DELAY * 2);
    }

    #[test]
    fn who_is_not_the_monitor_any_more_starts_nothing() {
        let own = ProcessRecord::of_caller().unwrap();
        let known = |stopped_by_user, monitor| Restarts { count: 1, stopped_by_user, monitor, has_left: false };
        assert!(is_ours(&Restarts::default()).unwrap() && is_ours(&known(false, Some(own.clone()))).unwrap());
        assert!(!is_ours(&known(true, Some(own.clone()))).unwrap());
        assert!(!is_ours(&known(false, Some(ProcessRecord { start_time: 0, ..own }))).unwrap());
    }
}
