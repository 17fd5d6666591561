// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When a process comes under its seccomp filter.
//!
//! As late as can be: between the filter and execve(2) there is one call at most, so that a profile need not allow what only the
//! setup does. Earlier, as runc has it always,
//!
//! - before `startContainer` hooks, which are under the filter as the command is: what starts a program is judged too;
//! - before a created container waits in a pid namespace that is not its own alone: whoever shares it and may trace would have a
//!   process without a filter, and with the capability that is kept for loading one. The profile must then allow the wait: read(2),
//!   write(2), close(2).

use stos_sys::seccomp::SharedBit;

use super::{Channel, Step, credentials};
use crate::config::Settings;
use crate::seccomp::listener::{ContainerOfFilter, install};

/// A filter that is not loaded yet, or is.
pub(super) struct Restriction<'a> {
    settings: &'a Settings,
    shared_bit: Option<SharedBit>,
    container: &'a dyn Fn() -> ContainerOfFilter,
    is_applied: bool,
}

impl<'a> Restriction<'a> {
    /// `shared_bit` is what [`prepare`](crate::seccomp::listener::prepare) gives; `container` is what an agent is told.
    pub(super) fn new(
        settings: &'a Settings,
        shared_bit: Option<SharedBit>,
        container: &'a dyn Fn() -> ContainerOfFilter,
    ) -> Self {
        Self { settings, shared_bit, container, is_applied: false }
    }

    /// Puts the process under its filter, and gives up what was kept for that; once.
    pub(super) fn apply(&mut self, channel: &Channel) -> Step {
        let Some(filter) = self.settings.seccomp.as_ref().filter(|_| !self.is_applied) else { return Ok(()) };
        install(filter, self.shared_bit.take(), self.container, |line| channel.write(line))?;
        self.is_applied = true;
        credentials::drop_kept(self.settings)
    }
}
