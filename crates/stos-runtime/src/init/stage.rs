// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process between the launch and the first process, for namespaces that can only be entered by a child.
//!
//! - A time namespace takes its offsets before the first process is in it (time_namespaces(7)): who makes it stays outside.
//! - Namespaces by path that are the host's are joined with the host's privileges, and a user namespace ends these. So they come first;
//!   what the host's root may not join belongs to the user namespace and is joined from there.
//! - What is new shall belong to a user namespace that is joined: it is made there, by clone3(2).
//!
//! It makes the first process its sibling, tells the launch its number, and ends.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use stos_sys::SysError;
use stos_sys::process::clone::{CloneError, CloneOptions, Cloned, clone_process, exit_now, set_namespace, unshare};
use stos_sys::process::credentials::{set_dumpable, set_parent_death_signal};

use super::{Channel, Child, Step, isolation, run as run_init};
use crate::config::Settings;
use crate::config::settings::namespace;
use crate::conversation::{PREPARE, SUCCESSOR};
use crate::init_error::{InitError, SysFailure};
use crate::launch::pid_flag;

/// Whether a container needs it.
pub(crate) fn is_needed(settings: &Settings) -> bool {
    let joins_user = joins(settings, namespace::USER);
    let makes_user = settings.new_namespaces & namespace::USER != 0;
    joins_user || (makes_user && !settings.joined_namespaces.is_empty()) || !settings.time_offsets.is_empty()
}

fn joins(settings: &Settings, flag: u64) -> bool {
    settings.joined_namespaces.iter().any(|joined| joined.flag as u64 == flag)
}

/// Makes the first process, whose half is [`super::run`].
pub(crate) fn run(child: Child<'_>, mut channel: Channel) -> ! {
    match make_first_process(&child, &mut channel) {
        Ok(Cloned::Child) => run_init(Child { is_sibling: true, ..child }, channel),
        Ok(Cloned::Parent { pid, .. }) => {
            let mut message = vec![SUCCESSOR];
            message.extend(pid.as_raw_nonzero().get().to_le_bytes());
            // With the launch gone the first process ends as well: it gets no answer.
            drop(channel.write(&message));
            exit_now(0)
        }
        Err(error) => {
            channel.report(&error);
            exit_now(1)
        }
    }
}

fn make_first_process(child: &Child<'_>, channel: &mut Channel) -> Step<Cloned> {
    let settings = child.launch.config.settings();
    let step = || InitError::step("enter the container's namespaces");
    set_parent_death_signal(rustix::process::Signal::KILL.as_raw()).map_err(step())?;
    set_dumpable(false).map_err(step())?;
    let opened = isolation::open_namespaces(settings, |flag| flag as u64 != namespace::MOUNT)?;
    let (users, others): (Vec<_>, Vec<_>) = opened.into_iter().partition(|(flag, _)| *flag as u64 == namespace::USER);
    let left = join_what_may_be(others)?;
    for (flag, user) in &users {
        set_namespace(user.as_fd(), *flag).map_err(InitError::step("join the user namespace"))?;
    }
    let early = settings.new_namespaces & (namespace::USER | time_with_offsets(settings));
    if early != 0 {
        unshare(i32::try_from(early).unwrap_or_default()).map_err(step())?;
    }
    channel.ask(PREPARE)?;
    for (flag, namespace) in &left {
        set_namespace(namespace.as_fd(), *flag).map_err(InitError::step("join a namespace"))?;
    }
    let namespaces = settings.new_namespaces & !early;
    clone_process(CloneOptions { namespaces, cgroup: child.cgroups.v2(), as_sibling: true }).map_err(
        |error| match error {
            CloneError::Sys(error) => InitError::step("start the container's first process")(error),
            other => {
                let reason = SysFailure {
                    call: "clone3".into(),
                    arguments: other.to_string(),
                    errno: Errno::INVAL.raw_os_error(),
                };
                InitError::Step { stage: "start the container's first process".into(), reason }
            }
        },
    )
}

fn time_with_offsets(settings: &Settings) -> u64 {
    if settings.time_offsets.is_empty() { 0 } else { namespace::TIME }
}

type Opened = Vec<(i32, OwnedFd)>;

/// Joins the namespaces that the caller's privileges suffice for, and gives the others. A pid namespace is the children's alone.
fn join_what_may_be(all: Opened) -> Step<Opened> {
    let mut left = Vec::new();
    for (flag, namespace) in all {
        match set_namespace(namespace.as_fd(), flag) {
            Ok(()) => {}
            Err(SysError { errno: Errno::PERM, .. }) => left.push((flag, namespace)),
            Err(error) => {
                let what = if flag == pid_flag() { "join the pid namespace" } else { "join a namespace" };
                return Err(InitError::step(what)(error));
            }
        }
    }
    Ok(left)
}
