// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's first process, from the clone to its command. [`set_up`] tells the story in order.
//!
//! | module | what it does |
//! |---|---|
//! | `isolation` | cgroups, joined namespaces, host name, settings of the kernel |
//! | `rootfs` | the root, its mounts, pivot_root |
//! | `cgroup_view` | `/sys/fs/cgroup` as the container sees it |
//! | `devices` | `/dev` |
//! | `protect` | read-only and masked paths |
//! | `stage` | a process between, for namespaces that can only be entered by a child |
//! | `copy_up` | a tmpfs that begins with what it hides |
//! | `lsm` | labels of security modules |
//! | `credentials` | working directory, limits, ids, capabilities |
//! | `streams` | descriptors 0, 1 and 2 |
//! | `channel` | what it says to its launch |
//! | `restriction` | its seccomp filter |
//! | `terminal` | a terminal from the container's devpts |
//! | `reaper` | an init, whose child the command is |
//! | `pause` | a process that only waits |
//! | `command` | finding and executing the command |
//! | `joining` | a further process in a container that is there |
//!
//! It is single-threaded and cloned from a single-threaded process, so it may allocate. It never returns into its caller's
//! code.

mod cgroup_view;
mod channel;
mod command;
mod copy_up;
mod credentials;
mod devices;
mod isolation;
mod joining;
mod lsm;
pub(crate) mod pause;
mod protect;
mod reaper;
mod restriction;
mod rootfs;
pub(crate) mod stage;
pub(crate) mod streams;
mod terminal;

pub(crate) use channel::Channel;
pub(crate) use joining::{Joining, namespaces, run as run_joining};

use std::os::fd::{AsFd, BorrowedFd};

use stos_sys::SysError;
use stos_sys::process::clone::{exit_now, join_new_session_keyring, reset_signals};
use stos_sys::process::credentials::{set_dumpable, set_parent_death_signal};
use stos_sys::process::user_namespace::become_namespace_root;

use crate::accounts;
use crate::cgroup::MadeCgroups;
use crate::config::settings::namespace;
use crate::conversation::{HOOKS, LIMITS, NETWORK, PREPARE, SCOPE, hook_state};
use crate::gate::GateEnd;
use crate::hooks::{self, HookKind};
use crate::init_error::InitError;
use crate::launch::{Launch, READY, Stdio};
use crate::seccomp::listener::{ContainerOfFilter, prepare};
use crate::sources::{DescriptorRoom, HostSources};
use crate::state::Status;

pub(crate) use devices::{DEFAULT_DEVICES, is_default as is_default_device};
pub(crate) use rootfs::mount_error;

use restriction::Restriction;

type Step<T = ()> = Result<T, InitError>;

/// What the child has of its launch.
pub(crate) struct Child<'a> {
    pub launch: &'a Launch<'a>,
    pub cgroups: &'a MadeCgroups,
    /// Where it waits for the start.
    pub gate: Option<GateEnd>,
    /// What the launch has taken from the host for it.
    pub sources: Option<HostSources>,
    /// What it needs for its mounts, and nothing later.
    pub room: Option<DescriptorRoom>,
    /// Whether the process between has made it ([`stage`]): it is in the namespaces that are joined, and waits to be known.
    pub is_sibling: bool,
}

/// Runs the child's half of a launch. Ends in the container's command, or in a report and exit code 1.
pub(crate) fn run(child: Child<'_>, channel: Channel) -> ! {
    run_and_report(channel, |channel| set_up(child, channel))
}

/// Runs a cloned process, which ends in a command, or in a report and exit code 1.
fn run_and_report(mut channel: Channel, set_up: impl FnOnce(&mut Channel) -> Step<std::convert::Infallible>) -> ! {
    match set_up(&mut channel) {
        Ok(never) => match never {},
        Err(error) => channel.report(&error),
    }
    exit_now(1)
}

fn set_up(child: Child<'_>, channel: &mut Channel) -> Step<std::convert::Infallible> {
    let Child { launch, cgroups, gate, sources, room, is_sibling } = child;
    let settings = launch.config.settings();
    detach_from_caller(channel, launch.new_keyring)?;
    if launch.has_init {
        reaper::forget_caller(reaper::NAME)?;
    }
    if is_sibling {
        channel.wait_for_answer()?;
    } else if settings.has_user_namespace() {
        channel.ask(PREPARE)?;
    }
    let found;
    let cgroups = if launch.cgroup.by_systemd {
        channel.ask(SCOPE)?;
        found = cgroups.found();
        &found
    } else {
        cgroups
    };
    isolation::enter_cgroups(cgroups.v1(), settings.new_cgroup_namespace)?;
    isolation::join_namespaces(settings, is_sibling)?;
    streams::take(&launch.stdio)?;
    let labels = lsm::Labels::open(settings)?;
    let tree = rootfs::open(launch, sources)?;
    if settings.has_user_namespace() {
        // Until here the bundle could be reached as who owns it. From here on what is made is the container's root's.
        become_namespace_root().map_err(InitError::step("become root of the user namespace"))?;
        die_with_launch()?;
    }
    if launch.connect.is_some() {
        // Settings of the kernel may be about its interfaces.
        channel.ask(NETWORK)?;
    }
    isolation::separate(settings)?;
    let covers = protect::Covers::open(settings)?;
    let mounted = rootfs::mount_all(launch, cgroups.record(), tree)?;
    drop(room);
    let root = devices::create(mounted, settings)?;
    if let Stdio::Terminal { socket } = &launch.stdio {
        terminal::open(&root, &settings.process, socket.as_fd())?;
        terminal::bind_console(&root)?;
    }
    if settings.hooks.any_before_pivot() {
        channel.ask(HOOKS)?;
        let state = hook_state(launch, Status::Creating, own_pid());
        hooks::run(HookKind::CreateContainer, &settings.hooks.create_container, &state)?;
    }
    protect::paths(&root, settings, covers)?;
    rootfs::pivot(&root, settings)?;
    let account = accounts::resolve(&root, launch.identity, &settings.process)?;
    credentials::enter_working_directory(&root, &settings.process.cwd)?;
    if settings.root_readonly {
        rootfs::make_read_only(&root)?;
    }
    streams::give_to(&launch.stdio, account.uid)?;
    drop(root);
    close_descriptors(channel, &labels, gate.iter().flat_map(GateEnd::descriptors), launch.inherited.count())?;
    // From here on no path and no descriptor leads to the host, and nothing below needs one.
    let shared_bit = prepare(settings.seccomp.as_ref())?;
    if settings.has_user_namespace() && !settings.process.limits.is_empty() {
        channel.ask(LIMITS)?;
    }
    credentials::set_attributes(&settings.attributes)?;
    labels.apply()?;
    credentials::become_user(settings, &account)?;
    let command = command::find(&settings.process, &account, &launch.inherited)?;
    let spec = launch.config.spec();
    let container = || ContainerOfFilter {
        oci_version: spec.version().clone(),
        id: launch.id.to_string(),
        status: "creating".to_owned(),
        bundle: launch.bundle.to_owned(),
        annotations: spec.annotations().clone().unwrap_or_default(),
    };
    let mut restriction = Restriction::new(settings, shared_bit, &container);
    outlive_launch(channel)?;
    if gate.is_some() && settings.new_namespaces & namespace::PID == 0 {
        // Who shares the pid namespace may be able to trace it for as long as it waits.
        restriction.apply(channel)?;
    }
    wait_for_start(gate, channel)?;
    if !settings.hooks.start_container.is_empty() {
        // They are the image's programs, and no more than the command is.
        restriction.apply(channel)?;
        let state = hook_state(launch, Status::Created, own_pid());
        hooks::run(HookKind::StartContainer, &settings.hooks.start_container, &state)?;
    }
    if launch.has_init {
        return reaper::run(command, settings.process.terminal, channel, &mut restriction);
    }
    command.execute(|| restriction.apply(channel))
}

/// The process's number in its own pid namespace: what hooks that run in the container are told (runtime.md, "State").
fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Ends when the launch does, and lets nobody trace it who joins the container meanwhile (CVE-2016-9962). Changed ids undo both, and
/// execve(2) the latter.
fn die_with_launch() -> Step {
    let step = || InitError::step("leave the caller");
    set_parent_death_signal(rustix::process::Signal::KILL.as_raw()).map_err(step())?;
    set_dumpable(false).map_err(step())
}

/// Takes nothing of the caller along but what is meant, and dies with it until all is set up.
fn detach_from_caller(channel: &mut Channel, new_keyring: bool) -> Step {
    let step = || InitError::step("leave the caller");
    die_with_launch()?;
    reset_signals();
    rustix::process::umask(rustix::fs::Mode::empty());
    channel.make_room().map_err(step())?;
    rustix::process::setsid().map_err(|errno| step()(SysError::new("setsid", "", errno)))?;
    if !new_keyring {
        return Ok(());
    }
    match join_new_session_keyring() {
        // A kernel without keyrings has none to leak.
        Err(error) if error.errno == rustix::io::Errno::NOSYS => Ok(()),
        other => other.map_err(step()),
    }
}

/// Closes all descriptors but the standard streams, those that follow and are meant for the process, and the pipes that this process
/// still talks over: those go on execve(2).
fn close_descriptors<'a>(
    channel: &'a Channel,
    labels: &'a lsm::Labels,
    others: impl IntoIterator<Item = BorrowedFd<'a>>,
    inherited: u32,
) -> Step {
    let kept: Vec<BorrowedFd<'_>> = labels.descriptors().chain(others).collect();
    channel.close_all_but(inherited, &kept).map_err(InitError::step("keep the caller's descriptors out"))
}

/// Lives on when the launch ends.
fn outlive_launch(channel: &mut Channel) -> Step {
    channel.end_answers();
    set_parent_death_signal(0).map_err(InitError::step("wait for the start"))
}

/// Says that all is ready, and waits before the gate where there is one.
fn wait_for_start(gate: Option<GateEnd>, channel: &mut Channel) -> Step {
    let step = || InitError::step("wait for the start");
    // With no reader left this write ends us (SIGPIPE): the launch was killed before its end was nothing to us.
    channel.write(&[READY]).map_err(step())?;
    if let Some(gate) = gate {
        channel.lead_to(None);
        if !gate.wait_for_confirmation().map_err(step())? {
            exit_now(1);
        }
        channel.lead_to(Some(gate.wait().map_err(step())?));
        channel.write(&[READY]).map_err(step())?;
    }
    Ok(())
}
