// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the monitor does with a container that has become unhealthy, or when it is asked to end itself.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use stos_runtime::CgroupRecord;
use stos_sys::process::pidfd;

use crate::container::ContainerRecord;
use crate::error::Result;
use crate::restart::Because;
use crate::service::OnFailure;

const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// A container that its monitor ends.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) because: Because,
    /// When it is killed that was asked to end; `None` when it has been.
    kill_at: Option<Instant>,
}

impl Ending {
    /// Begins to end a container; `None` where nothing is to be done. `init` is its first process.
    pub(crate) fn begin(
        action: OnFailure,
        record: &ContainerRecord,
        init: BorrowedFd<'_>,
        cgroup: &CgroupRecord,
    ) -> Result<Option<Self>> {
        let because = match action {
            OnFailure::None => return Ok(None),
            OnFailure::Kill | OnFailure::Stop => Because::EndedForGood,
            OnFailure::Restart => Because::EndedToRestart,
        };
        if action == OnFailure::Kill {
            let mut ending = Self { because, kill_at: Some(Instant::now()) };
            ending.step(init, cgroup)?;
            return Ok(Some(ending));
        }
        pidfd::send_signal(init, record.stop_signal)?;
        let patience = Duration::from_secs(record.service.stop_timeout());
        // What is longer than the clock goes is no limit.
        Ok(Some(Self { because, kill_at: Instant::now().checked_add(patience) }))
    }

    /// When something is to be done though nothing has happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.kill_at
    }

    /// Kills it where it has had its time.
    pub(crate) fn step(&mut self, init: BorrowedFd<'_>, cgroup: &CgroupRecord) -> Result<()> {
        if self.kill_at.is_none_or(|at| Instant::now() < at) {
            return Ok(());
        }
        self.kill_at = None;
        pidfd::send_signal(init, KILL)?;
        // A frozen process dies when it thaws.
        Ok(cgroup.thaw()?)
    }
}
