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
//! | `terminal` | a terminal from the container's devpts |
//! | `command` | finding and executing the command |
//! | `joining` | a further process in a container that is there |
//!
//! It is single-threaded and cloned from a single-threaded process, so it may allocate. It never returns into its caller's
//! code.

mod cgroup_view;
mod command;
mod copy_up;
mod credentials;
mod devices;
mod isolation;
mod joining;
mod lsm;
mod protect;
mod rootfs;
pub(crate) mod stage;
mod terminal;

pub(crate) use joining::{Joining, namespaces, run as run_joining};

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use stos_sys::SysError;
use stos_sys::process::clone::{close_all_but, exit_now, join_new_session_keyring, reset_signals};
use stos_sys::process::credentials::{set_dumpable, set_parent_death_signal};
use stos_sys::process::user_namespace::become_namespace_root;
use stos_sys::rooted::{PIPEFS_MAGIC, filesystem_magic};

use crate::accounts;
use crate::cgroup::MadeCgroups;
use crate::config::Settings;
use crate::conversation::{DONE, HOOKS, LIMITS, PREPARE, SCOPE, hook_state};
use crate::gate::GateEnd;
use crate::hooks::{self, HookKind};
use crate::init_error::InitError;
use crate::launch::{FAILED, Launch, READY, Stdio};
use crate::seccomp::listener::{ContainerOfFilter, install};
use crate::sources::HostSources;
use crate::state::Status;

pub(crate) use devices::DEFAULT_DEVICES;
pub(crate) use rootfs::mount_error;

type Step<T = ()> = Result<T, InitError>;

/// What the child has of its launch.
pub(crate) struct Child<'a> {
    pub launch: &'a Launch<'a>,
    pub cgroups: &'a MadeCgroups,
    /// Where it waits for the start.
    pub gate: Option<GateEnd>,
    /// What the launch has taken from the host for it.
    pub sources: Option<HostSources>,
    /// Whether the process between has made it ([`stage`]): it is in the namespaces that are joined, and waits to be known.
    pub is_sibling: bool,
}

/// Runs the child's half of a launch. Ends in the container's command, or in a report and exit code 1.
pub(crate) fn run(child: Child<'_>, channel: Channel) -> ! {
    run_and_report(channel, |channel| set_up(child, channel))
}

/// Runs a cloned process, which ends in a command, or in a report and exit code 1.
fn run_and_report(mut channel: Channel, set_up: impl FnOnce(&mut Channel) -> Step<std::convert::Infallible>) -> ! {
    let outcome = catch_unwind(AssertUnwindSafe(|| set_up(&mut channel)));
    let error = match outcome {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => error,
        Err(panic) => {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            InitError::Panicked { message: message.unwrap_or_default() }
        }
    };
    channel.report(&error);
    exit_now(1)
}

/// Where reports and requests go: the launch's pipe, and after the gate its result FIFO. And where answers come from.
pub(crate) struct Channel {
    pipe: Option<OwnedFd>,
    answers: Option<OwnedFd>,
}

impl Channel {
    pub(crate) fn new(pipe: OwnedFd, answers: Option<OwnedFd>) -> Self {
        Self { pipe: Some(pipe), answers }
    }

    fn write(&self, mut bytes: &[u8]) -> Result<(), SysError> {
        let Some(pipe) = &self.pipe else { return Ok(()) };
        while !bytes.is_empty() {
            match rustix::io::write(pipe, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(SysError::new("write", "the launch's pipe", errno)),
            }
        }
        Ok(())
    }

    /// Has the launch do something, and waits until it is done. Where it fails, it tells its own caller, and this process ends.
    fn ask(&self, request: u8) -> Step {
        self.write(&[request]).map_err(InitError::step("ask the launch"))?;
        self.wait_for_answer()
    }

    fn wait_for_answer(&self) -> Step {
        let mut byte = [0_u8];
        let Some(answers) = &self.answers else { exit_now(1) };
        loop {
            match rustix::io::read(answers, &mut byte) {
                Ok(1) if byte == [DONE] => return Ok(()),
                Ok(_) => exit_now(1),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(InitError::step("ask the launch")(SysError::new("read", "a pipe", errno))),
            }
        }
    }

    /// Tells the launch why the command cannot run. Where it is gone, nobody is left to be told.
    fn report(&self, error: &InitError) {
        let mut bytes = vec![FAILED];
        match serde_json::to_vec(error) {
            Ok(json) => bytes.extend(json),
            Err(unwritable) => bytes.extend(unwritable.to_string().into_bytes()),
        }
        drop(self.write(&bytes));
    }
}

fn set_up(child: Child<'_>, channel: &mut Channel) -> Step<std::convert::Infallible> {
    let Child { launch, cgroups, gate, sources, is_sibling } = child;
    let settings = launch.config.settings();
    detach_from_caller(channel, launch.new_keyring)?;
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
    take_stdio(&launch.stdio)?;
    let labels = lsm::Labels::open(settings)?;
    let tree = rootfs::open(launch, sources)?;
    if settings.has_user_namespace() {
        // Until here the bundle could be reached as who owns it. From here on what is made is the container's root's.
        become_namespace_root().map_err(InitError::step("become root of the user namespace"))?;
        die_with_launch()?;
    }
    isolation::separate(settings)?;
    let covers = protect::Covers::open(settings)?;
    let host_pid = isolation::pid_of_host(settings)?;
    let (root, devices) = rootfs::mount_all(launch, cgroups.record(), tree)?;
    devices::create(&root, settings, devices)?;
    if let Stdio::Terminal { socket } = &launch.stdio {
        terminal::open(&root, &settings.process, socket.as_fd())?;
        terminal::bind_console(&root)?;
    }
    if settings.hooks.any_before_pivot() {
        channel.ask(HOOKS)?;
        let state = hook_state(launch, Status::Creating, host_pid);
        hooks::run(HookKind::CreateContainer, &settings.hooks.create_container, &state)?;
    }
    protect::paths(&root, settings, covers)?;
    rootfs::pivot(&root, settings)?;
    let account = accounts::resolve(&root, launch.identity, &settings.process)?;
    credentials::enter_working_directory(&root, &settings.process.cwd)?;
    if settings.root_readonly {
        rootfs::make_read_only(&root)?;
    }
    give_streams_to(&launch.stdio, account.uid)?;
    drop(root);
    close_descriptors(channel, &labels, gate.iter().flat_map(GateEnd::descriptors), launch.inherited.count())?;
    // From here on no path and no descriptor leads to the host, and nothing below needs one.
    if settings.has_user_namespace() && !settings.process.limits.is_empty() {
        channel.ask(LIMITS)?;
    }
    credentials::set_attributes(&settings.attributes)?;
    labels.apply()?;
    credentials::become_user(settings, &account)?;
    let command = command::find(&settings.process, &account, &launch.inherited)?;
    wait_for_start(gate, channel)?;
    let state = hook_state(launch, Status::Created, host_pid);
    hooks::run(HookKind::StartContainer, &settings.hooks.start_container, &state)?;
    let spec = launch.config.spec();
    let container = || ContainerOfFilter {
        oci_version: spec.version().clone(),
        id: launch.id.to_string(),
        status: "creating".to_owned(),
        bundle: launch.bundle.to_owned(),
        annotations: spec.annotations().clone().unwrap_or_default(),
    };
    command.execute(|| restrict(settings, channel, container))
}

/// Puts the process under its seccomp filter, as late as can be: between it and execve(2) there is one call at most, so that a
/// profile need not allow what only the setup does.
fn restrict(settings: &Settings, channel: &Channel, container: impl FnOnce() -> ContainerOfFilter) -> Step {
    let Some(filter) = &settings.seccomp else { return Ok(()) };
    install(filter, container, |line| channel.write(line))?;
    credentials::drop_kept(settings)
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
    // Out of the way of descriptors 0 to 2, which become the container's.
    if let Some(pipe) = channel.pipe.take() {
        channel.pipe = Some(above_stdio(pipe.as_fd()).map_err(step())?);
    }
    if let Some(answers) = channel.answers.take() {
        channel.answers = Some(above_stdio(answers.as_fd()).map_err(step())?);
    }
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

fn above_stdio(fd: BorrowedFd<'_>) -> Result<OwnedFd, SysError> {
    fcntl_dupfd_cloexec(fd, 3).map_err(SysError::at("fcntl", || "F_DUPFD_CLOEXEC, 3".to_owned()))
}

fn take_stdio(stdio: &Stdio) -> Step {
    let Stdio::Descriptors { stdin, stdout, stderr } = stdio else { return Ok(()) };
    let step = || InitError::step("take the standard streams");
    let failed = |errno| step()(SysError::new("dup2", "0, 1, 2", errno));
    // Moved up first: one of them may be 0, 1 or 2 itself.
    let moved = [stdin, stdout, stderr].map(|fd| above_stdio(fd.as_fd()));
    let [stdin, stdout, stderr] = moved;
    dup2_stdin(stdin.map_err(step())?).map_err(failed)?;
    dup2_stdout(stdout.map_err(step())?).map_err(failed)?;
    dup2_stderr(stderr.map_err(step())?).map_err(failed)
}

/// Gives the container's own terminal, and pipes of the engine's, to the container's user, or it could not open `/dev/tty` and
/// `/dev/stdout` again. Files, terminals and named FIFOs of the host keep their owner.
fn give_streams_to(stdio: &Stdio, uid: u32) -> Step {
    let failed = |errno| {
        InitError::step("give the standard streams to the user")(SysError::new("fchown", uid.to_string(), errno))
    };
    match stdio {
        Stdio::Inherit => return Ok(()),
        Stdio::Terminal { .. } => {
            // Its group is devpts's affair.
            let owner = Some(rustix::process::Uid::from_raw(uid));
            return rustix::fs::fchown(rustix::stdio::stdin(), owner, None).map_err(failed);
        }
        Stdio::Descriptors { .. } => {}
    }
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let stat = rustix::fs::fstat(fd).map_err(failed)?;
        let is_fifo = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo;
        let step = || InitError::step("look at the standard streams");
        if is_fifo && stat.st_uid != uid && filesystem_magic(fd).map_err(step())? == PIPEFS_MAGIC {
            rustix::fs::fchown(fd, Some(rustix::process::Uid::from_raw(uid)), None).map_err(failed)?;
        }
    }
    Ok(())
}

/// Closes all descriptors but the standard streams, those that follow and are meant for the process, and the pipes that this process
/// still talks over: those go on execve(2).
fn close_descriptors<'a>(
    channel: &'a Channel,
    labels: &'a lsm::Labels,
    others: impl IntoIterator<Item = BorrowedFd<'a>>,
    inherited: u32,
) -> Step {
    let mut kept: Vec<BorrowedFd<'_>> = channel.pipe.iter().chain(&channel.answers).map(AsFd::as_fd).collect();
    kept.extend(labels.descriptors());
    kept.extend(others);
    close_all_but(inherited, &kept).map_err(InitError::step("keep the caller's descriptors out"))
}

/// Says that all is ready, and waits before the gate where there is one.
fn wait_for_start(gate: Option<GateEnd>, channel: &mut Channel) -> Step {
    let step = || InitError::step("wait for the start");
    set_parent_death_signal(0).map_err(step())?;
    channel.answers = None;
    // With no reader left this write ends us (SIGPIPE): the launch was killed before the signal above was off.
    channel.write(&[READY]).map_err(step())?;
    if let Some(gate) = gate {
        channel.pipe = None;
        if !gate.wait_for_confirmation().map_err(step())? {
            exit_now(1);
        }
        channel.pipe = Some(gate.wait().map_err(step())?);
        channel.write(&[READY]).map_err(step())?;
    }
    Ok(())
}
