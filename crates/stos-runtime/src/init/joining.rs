// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A further process in a container that is there, from the clone to its command.
//!
//! It was born in the container's pid namespace and v2 cgroup. It brings nothing of the host along that the container could use:
//! no descriptor (CVE-2024-21626), no working directory, no keyring; and until execve(2) no process of the container may trace
//! it or read its `/proc` (CVE-2016-9962).

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use stos_sys::process::attributes::set_affinity;
use stos_sys::process::clone::set_namespace;
use stos_sys::process::credentials::{set_dumpable, set_ids};
use stos_sys::rooted::Root;

use super::{
    Channel, Restriction, Step, close_descriptors, command, credentials, detach_from_caller, isolation, lsm,
    outlive_launch, run_and_report, streams, terminal, wait_for_start,
};
use crate::accounts;
use crate::cgroup::JoinedCgroups;
use crate::config::settings::namespace;
use crate::config::{RuntimeConfig, Settings};
use crate::init_error::InitError;
use crate::launch::{Identity, Inherited, Stdio, pid_flag};
use crate::seccomp::listener::{ContainerOfFilter, prepare};

/// What a further process needs.
pub(crate) struct Joining<'a> {
    /// The container's configuration, with its `process` in place of the container's.
    pub(crate) config: &'a RuntimeConfig,
    /// The container's first process.
    pub(crate) init: BorrowedFd<'a>,
    /// Its standard streams.
    pub(crate) stdio: &'a Stdio,
    /// Whom it runs as.
    pub(crate) identity: Identity<'a>,
    /// Descriptors that it gets.
    pub(crate) inherited: &'a Inherited,
    /// What the agent of a seccomp listener is told of the container.
    pub(crate) container: &'a ContainerOfFilter,
}

/// Runs the child's half of an exec. Ends in the command, or in a report over `pipe` and exit code 1.
pub(crate) fn run(joining: &Joining<'_>, cgroups: &JoinedCgroups, pipe: OwnedFd) -> ! {
    run_and_report(Channel::new(pipe, None), |channel| set_up(joining, cgroups, channel))
}

fn set_up(joining: &Joining<'_>, cgroups: &JoinedCgroups, channel: &mut Channel) -> Step<Infallible> {
    let settings = joining.config.settings();
    let process = &settings.process;
    let affinity = &settings.attributes.exec_affinity;
    detach_from_caller(channel, true)?;
    streams::take(joining.stdio)?;
    run_on(&affinity.initial)?;
    isolation::enter_cgroups(cgroups.v1(), false)?;
    run_on(&affinity.last)?;
    isolation::set_oom_score(process)?;
    // Before there are limits: it is a file.
    let shared_bit = prepare(settings.seccomp.as_ref())?;
    if settings.has_user_namespace() {
        // Root of a user namespace has no power over hard limits.
        credentials::set_limits(process)?;
    }
    let labels = lsm::Labels::open(settings)?;
    enter_namespaces(joining.init, settings)?;
    let socket = match joining.stdio {
        Stdio::Terminal { socket } => Some(socket.as_fd()),
        _ => None,
    };
    let kept = socket.into_iter().chain(shared_bit.as_ref().map(AsFd::as_fd));
    close_descriptors(channel, &labels, kept, joining.inherited.count())?;
    // From here on no path and no descriptor leads to the host, but for the socket that the terminal goes over.
    let root = Root::open(Path::new("/")).map_err(InitError::step("enter the root"))?;
    if let Some(socket) = socket {
        terminal::open(&root, process, socket)?;
    }
    let account = accounts::resolve(&root, joining.identity, process)?;
    credentials::enter_existing_directory(&root, &process.cwd)?;
    streams::give_to(joining.stdio, account.uid)?;
    drop(root);
    close_descriptors(channel, &labels, shared_bit.as_ref().map(AsFd::as_fd), joining.inherited.count())?;
    // What confines the container's own process confines this one, in the order of `super::set_up`: `settings` is the container's
    // but for `process`.
    credentials::set_attributes(&settings.attributes)?;
    labels.apply()?;
    credentials::become_user(settings, &account)?;
    let command = command::find(process, &account, joining.inherited)?;
    outlive_launch(channel)?;
    wait_for_start(None, channel)?;
    let container = || joining.container.clone();
    let mut restriction = Restriction::new(settings, shared_bit, &container);
    command.execute(|| restriction.apply(channel))
}

/// Keeps the process on some processors, where that is asked for.
fn run_on(cpus: &[u32]) -> Step {
    if cpus.is_empty() {
        return Ok(());
    }
    set_affinity(cpus).map_err(InitError::step("set process.execCPUAffinity"))
}

/// Enters all namespaces that the container has of its own, and with its mount namespace its root, in one call (setns(2) of a
/// pidfd, Linux 5.8). The pid namespace it was born in.
fn enter_namespaces(init: BorrowedFd<'_>, settings: &Settings) -> Step {
    let step = || InitError::step("enter the container's namespaces");
    let flags = namespaces(settings);
    let all = i32::try_from(flags).unwrap_or_default() & !pid_flag();
    set_namespace(init, all).map_err(step())?;
    if flags & namespace::USER != 0 {
        // The ids of the host have no name there.
        set_ids(0, 0, &[]).map_err(step())?;
    }
    // New credentials made the process what /proc/sys/fs/suid_dumpable says.
    set_dumpable(false).map_err(step())
}

/// The namespaces that the container has of its own, or has joined, as `CLONE_NEW*` bits.
pub(crate) fn namespaces(settings: &Settings) -> u64 {
    let joined = settings.joined_namespaces.iter().map(|joined| u64::from(joined.flag.cast_unsigned()));
    let cgroup = if settings.new_cgroup_namespace { namespace::CGROUP } else { 0 };
    joined.fold(settings.new_namespaces | cgroup, |all, flag| all | flag)
}
