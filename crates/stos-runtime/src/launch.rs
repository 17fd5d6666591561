// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a checked `config.json` to a container's first process.
//!
//! [`launch`] is the caller's half: cgroups, the clone, and the wait for the child's report. The child's half is `init`.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use stos_spec::UserSpec;
use stos_sys::SysError;
use stos_sys::mount::MountPlan;
use stos_sys::process::clone::{CloneError, CloneOptions, Cloned, clone_process, set_namespace, thread_count};
use stos_sys::process::{binary, identity, pidfd};

use crate::cgroup::{
    CgroupPlace, CgroupRecord, CgroupRequest, MadeCgroups, Scope, Wishes, default_rules, limits, mounted_hierarchies,
    systemd::Unit,
};
use crate::config::{RuntimeConfig, settings::namespace};
use crate::conversation::{self, Conversation};
use crate::error::{Error, Result};
use crate::gate::GateEnd;
use crate::given_mount::GivenMount;
use crate::id::ContainerId;
use crate::init;
use crate::init_error::InitError;
use crate::seccomp::listener::{Processes, serve, take_request};
use crate::sources::{DescriptorRoom, HostSources};

/// Everything that a launch needs.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The container's id; names its cgroup where the bundle does not.
    pub id: &'a ContainerId,
    /// The bundle's directory: relative bind sources start there.
    pub bundle: &'a Path,
    /// The checked `config.json`.
    pub config: &'a RuntimeConfig,
    /// What becomes the container's root.
    pub root: RootSource<'a>,
    /// The descriptors 0, 1 and 2 of the container.
    pub stdio: Stdio,
    /// Whom the container runs as.
    pub identity: Identity<'a>,
    /// Where its cgroups go.
    pub cgroup: CgroupRequest,
    /// Whether its command runs at once.
    pub gate: Gate<'a>,
    /// Descriptors of the caller's caller that it gets.
    pub inherited: Inherited,
    /// Whether it gets a session keyring of its own; else it has the caller's.
    pub new_keyring: bool,
    /// Whether the first process is an init, which reaps and passes signals on, and the command is that one's child.
    pub has_init: bool,
    /// What the caller has mounted already, for binds whose source is a name of theirs.
    pub given: &'a [GivenMount],
    /// Connects its network namespace, before a setting of the kernel or a mount is made there.
    pub connect: Option<Connect<'a>>,
}

/// What connects a container's network namespace, whose path it is given, while the first process waits in it. The caller keeps why it
/// could not be done.
#[derive(Clone, Copy)]
pub struct Connect<'a>(pub &'a dyn Fn(&Path) -> std::result::Result<(), NotConnected>);

impl std::fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connect")
    }
}

/// The network namespace could not be connected, and the container is not to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotConnected;

/// Descriptors that a process gets beside its standard streams, from 3 on: first those of socket activation (sd_listen_fds(3)), then
/// further ones. They must be the caller's caller's ([`stos_sys::process::clone::check_inherited`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inherited {
    /// How many sockets there are; the process finds the number in LISTEN_FDS, and its own pid in LISTEN_PID.
    pub listening: u32,
    /// LISTEN_FDNAMES, where the sockets have names.
    pub names: Option<CString>,
    /// How many more follow.
    pub preserved: u32,
}

impl Inherited {
    /// How many there are.
    pub fn count(&self) -> u32 {
        self.listening.saturating_add(self.preserved)
    }
}

/// What becomes a container's root.
#[derive(Debug, Clone)]
pub enum RootSource<'a> {
    /// A directory of the host, with what is mounted below it.
    Directory(PathBuf),
    /// A plan, mounted in the container's own mount namespace alone.
    Plan(&'a MountPlan),
}

/// A container's standard streams.
#[derive(Debug, Default)]
pub enum Stdio {
    /// The caller's own; pipes among them are given to the container's user too.
    #[default]
    Inherit,
    /// These; pipes among them are given to the container's user, so that it can open `/dev/stdout` again.
    Descriptors {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal from the container's own devpts, whose master is sent over this socket ([`crate::console`]).
    Terminal {
        /// A connected Unix socket.
        socket: OwnedFd,
    },
}

/// Whom a container runs as.
#[derive(Debug, Clone, Copy)]
pub enum Identity<'a> {
    /// The numbers in `process.user`.
    FromSpec,
    /// A user and maybe a group, looked up at each start in the `/etc/passwd` and `/etc/group` that the container then sees.
    /// Takes the place of uid, gid and additionalGids.
    LookUp(&'a UserSpec),
}

/// When the container's command runs.
#[derive(Debug, Clone, Copy)]
pub enum Gate<'a> {
    /// At once: [`launch`] returns when it does, or why it cannot.
    Open,
    /// When [`crate::gate::open_gate`] is called on this directory: [`launch`] returns when all is set up, and the process
    /// stays once [`Init::confirm`] is called.
    Held(&'a Path),
}

/// A container's first process. Dropping it changes nothing, but for one behind a gate that was not confirmed.
#[derive(Debug)]
pub struct Init {
    /// Its number and how it is known again.
    pub process: ProcessRecord,
    /// A descriptor of it, close-on-exec.
    pub pidfd: OwnedFd,
    /// Its cgroups.
    pub cgroup: CgroupRecord,
    /// For one behind a gate: where it is told to stay.
    confirmation: Option<OwnedFd>,
}

impl Init {
    /// Lets a process behind a gate outlive the caller. Until then it ends when the caller does, or when this is dropped:
    /// a process that nobody has recorded could not be found again.
    pub fn confirm(&mut self) -> Result<()> {
        let Some(pipe) = self.confirmation.take() else { return Ok(()) };
        rustix::io::write(&pipe, b"+").map(drop).map_err(|errno| {
            Error::sys("confirm the container's first process")(SysError::new("write", "a pipe", errno))
        })
    }
}

/// A process, so recorded that a later one of the same number, or after a reboot, is not mistaken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Its number in the caller's pid namespace.
    pub pid: i32,
    /// When it started, in clock ticks since the boot.
    pub start_time: u64,
    /// The boot that it belongs to.
    pub boot_id: String,
}

impl ProcessRecord {
    /// Records the calling process.
    pub fn of_caller() -> Result<Self> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self::of(pid)?.ok_or(Error::InitDied { ended: None })
    }

    /// Records the process `pid`; `None` where there is none.
    pub fn of(pid: i32) -> Result<Option<Self>> {
        let stage = "record a process";
        let Some(stat) = identity::process_stat(pid).map_err(Error::sys(stage))? else { return Ok(None) };
        let boot_id = identity::boot_id().map_err(Error::sys(stage))?;
        Ok(Some(Self { pid, start_time: stat.start_time, boot_id: boot_id.to_owned() }))
    }

    /// Whether this very process still runs: same boot, same start, and no zombie.
    pub fn is_alive(&self) -> Result<bool> {
        let stage = "look for a process";
        let Some(stat) = identity::process_stat(self.pid).map_err(Error::sys(stage))? else { return Ok(false) };
        let same = stat.start_time == self.start_time && !stat.is_dead;
        Ok(same && identity::boot_id().map_err(Error::sys(stage))? == self.boot_id)
    }

    /// Opens a descriptor of this very process; `None` where it is gone.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return Ok(None) };
        let Some(fd) = pidfd::open(pid).map_err(Error::sys("open a process"))? else { return Ok(None) };
        // Checked after it was opened: the number cannot be reused while the descriptor's process is the right one.
        Ok(self.is_alive()?.then_some(fd))
    }
}

/// Starts a container's first process.
///
/// With [`Gate::Open`] success means that the command has been executed; with [`Gate::Held`] that all is set up and the
/// process waits. On any error the process and its cgroups are gone. The new process is the caller's child: who does not
/// reap it leaves that to its own parent.
///
/// Refuses a caller with more than one thread, and one whose binary a container could write
/// ([`protect_binary`]).
pub fn launch(launch: Launch<'_>) -> Result<Init> {
    check_caller()?;
    check_stdio(launch.config, &launch.stdio)?;
    check_listener(launch.config)?;
    let (cgroups, mut scope) = create_cgroups(&launch)?;
    match clone_init(&launch, &cgroups, scope.as_mut()) {
        Ok((process, pidfd, confirmation)) => {
            let cgroup = scope.map_or_else(|| cgroups.into_record(), Scope::into_record);
            Ok(Init { process, pidfd, cgroup, confirmation })
        }
        Err(error) => {
            let oom_kills = || scope.as_ref().map_or_else(|| cgroups.record().oom_kills(), Scope::oom_kills);
            let killed = matches!(error, Error::InitDied { .. }) && oom_kills() > 0;
            // The cause counts.
            drop(match scope {
                Some(scope) => scope.discard(),
                None => cgroups.record().discard(),
            });
            Err(if killed { Error::InitOutOfMemory } else { error })
        }
    }
}

/// Whether the agent of a seccomp profile can be there: better told before anything is made than by a container that ends at
/// its start.
pub(crate) fn check_listener(config: &RuntimeConfig) -> Result<()> {
    let filter = config.settings().seccomp.as_ref();
    let Some(listener) = filter.and_then(|filter| filter.listener()) else { return Ok(()) };
    let failed = |errno| {
        let shown = listener.path.display().to_string();
        Error::sys("look for linux.seccomp.listenerPath")(SysError::new("stat", shown, errno))
    };
    let stat = rustix::fs::stat(&listener.path).map_err(failed)?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Socket => Ok(()),
        _ => Err(failed(Errno::NOTSOCK)),
    }
}

/// Checks that the caller may clone a process for a container.
pub(crate) fn check_caller() -> Result<()> {
    let stage = "prepare the container";
    let threads = thread_count().map_err(Error::sys(stage))?;
    if threads != 1 {
        return Err(CloneError::ManyThreads { threads }.into());
    }
    if is_protected(stage)? { Ok(()) } else { Err(Error::UnprotectedBinary) }
}

/// Whether the binary lies on a read-only mount. Once it does it stays so: what was asked is not asked again.
fn is_protected(stage: &'static str) -> Result<bool> {
    static IS_PROTECTED: AtomicBool = AtomicBool::new(false);
    if !IS_PROTECTED.load(Ordering::Relaxed) {
        IS_PROTECTED.store(binary::protected_self().map_err(Error::sys(stage))?, Ordering::Relaxed);
    }
    Ok(IS_PROTECTED.load(Ordering::Relaxed))
}

/// Whether `process.terminal` and the streams say the same.
pub(crate) fn check_stdio(config: &RuntimeConfig, stdio: &Stdio) -> Result<()> {
    match (config.settings().process.terminal, stdio) {
        (true, Stdio::Terminal { .. }) | (false, Stdio::Inherit | Stdio::Descriptors { .. }) => Ok(()),
        (true, _) => Err(Error::NoConsoleSocket),
        (false, Stdio::Terminal { .. }) => Err(Error::NoTerminal),
    }
}

/// Makes the calling program run from a read-only view of its binary, unless it does: in place, or else by executing it again.
///
/// Call it first thing in `main`, before any thread is started, in every program that calls [`launch`]. Arguments, environment and
/// pid stay.
pub fn protect_binary() -> Result<()> {
    let stage = "execute the binary from a read-only view";
    if is_protected(stage)? || (binary::protect_in_place().is_ok() && is_protected(stage)?) {
        return Ok(());
    }
    let c_string = |text: std::ffi::OsString| {
        use std::os::unix::ffi::OsStringExt;
        stos_sys::process::exec::c_string("execveat", &text.into_vec()).map_err(Error::sys(stage))
    };
    let argv = std::env::args_os().map(c_string).collect::<Result<Vec<_>>>()?;
    let env = std::env::vars_os().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        c_string(key)
    });
    match binary::exec_from_read_only_view(&argv, &env.collect::<Result<Vec<_>>>()?) {
        Ok(never) => match never {},
        Err(error) => Err(Error::sys(stage)(error)),
    }
}

/// Where a container's cgroups go: as requested, as its configuration says, or `stos-<id>`.
fn cgroup_place(id: &ContainerId, config: &RuntimeConfig, request: &CgroupRequest) -> CgroupPlace {
    match request.path.clone().or_else(|| config.settings().cgroups_path.clone()) {
        Some(path) => CgroupPlace { path, exclusive: false, first: None },
        None => CgroupPlace { path: PathBuf::from(format!("stos-{id}")), exclusive: true, first: None },
    }
}

/// The unit that a container becomes where systemd makes its cgroups.
fn unit(id: &ContainerId, config: &RuntimeConfig) -> Result<Unit> {
    let path = config.spec().linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    Ok(Unit::parse(&path.map(|path| path.to_string_lossy()).unwrap_or_default(), id.as_str())?)
}

/// The cgroups that a launch is about to make, for a record that is written before it: should the caller be killed between
/// the two, the container's processes are found all the same.
pub fn planned_cgroup(id: &ContainerId, config: &RuntimeConfig, request: &CgroupRequest) -> Result<CgroupRecord> {
    let hierarchies = mounted_hierarchies()?;
    if request.by_systemd {
        let unit = unit(id, config)?;
        return Ok(CgroupRecord {
            unit: Some(unit.name.clone()),
            ..CgroupRecord::planned(&hierarchies, &unit.cgroup())
        });
    }
    Ok(CgroupRecord::planned(&hierarchies, &cgroup_place(id, config, request).path))
}

/// Makes the cgroups, or prepares the scope that they will be when there is a process to be in it.
fn create_cgroups(launch: &Launch<'_>) -> Result<(MadeCgroups, Option<Scope>)> {
    let mut rules = launch.config.settings().device_rules.clone();
    rules.extend(default_rules());
    let hierarchies = mounted_hierarchies()?;
    let limits = match &launch.config.settings().resources {
        // Before anything is made, so that nothing is left of what cannot be.
        Some(resources) => limits::plan(resources, &limits::Layout::of(&hierarchies))?,
        None => Vec::new(),
    };
    let wishes = Wishes { rules, limits, owner: launch.config.settings().cgroup_owner() };
    if launch.cgroup.by_systemd {
        let unit = unit(launch.id, launch.config)?;
        let scope = Scope::prepare(unit, launch.id.as_str(), hierarchies, wishes)?;
        return Ok((MadeCgroups::later(scope.planned()), Some(scope)));
    }
    let place = cgroup_place(launch.id, launch.config, &launch.cgroup);
    Ok((MadeCgroups::create(&hierarchies, &place, &wishes)?, None))
}

/// The first process, and for one behind a gate where it is told to stay.
type Cloning = (ProcessRecord, OwnedFd, Option<OwnedFd>);

fn clone_init(launch: &Launch<'_>, cgroups: &MadeCgroups, scope: Option<&mut Scope>) -> Result<Cloning> {
    let stage = "start the container's first process";
    let settings = launch.config.settings();
    let pipe =
        || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::sys(stage)(SysError::new("pipe2", "O_CLOEXEC", errno)));
    let (read_end, write_end) = pipe()?;
    let (gate, confirmation) = match launch.gate {
        Gate::Open => (None, None),
        Gate::Held(directory) => {
            let (confirmed, confirm) = pipe()?;
            (Some(GateEnd::create(directory, confirmed)?), Some(confirm))
        }
    };
    let room = DescriptorRoom::make(settings)?;
    let sources = HostSources::open(launch)?;
    let answers = if scope.is_some() || conversation::is_needed(settings, launch) { Some(pipe()?) } else { None };
    let is_staged = init::stage::is_needed(settings);
    let joined = settings.joined_namespaces.iter().find(|asked| asked.flag == pid_flag() && !is_staged);
    let own_pids = joined.map(|asked| enter_pid_namespace(open_namespace(&asked.path)?.as_fd())).transpose()?;
    let options = CloneOptions { namespaces: settings.new_namespaces, cgroup: cgroups.v2(), as_sibling: false };
    // What stands between makes the namespaces itself, and counts for no limit of the container's.
    let cloned = clone_process(if is_staged { CloneOptions::default() } else { options });
    let is_child = matches!(cloned, Ok(Cloned::Child));
    let back = own_pids
        .as_ref()
        .filter(|_| !is_child)
        .map_or(Ok(()), |own| set_namespace(own.as_fd(), pid_flag()).map_err(Error::sys(stage)));
    let (answers_read, answers_write) = answers.map_or((None, None), |(read, write)| (Some(read), Some(write)));
    match cloned? {
        Cloned::Child => {
            drop((read_end, confirmation, own_pids, answers_write));
            let child = init::Child { launch, cgroups, gate, sources, room, is_sibling: false };
            let channel = init::Channel::new(write_end, answers_read);
            if is_staged { init::stage::run(child, channel) } else { init::run(child, channel) }
        }
        Cloned::Parent { pid, pidfd } => {
            drop((write_end, gate, answers_read, sources));
            drop(room);
            let mut talk = Conversation::new(launch, pid, pidfd, read_end, answers_write, is_staged).with_scope(scope);
            // Before the wait: where the caller ignores SIGCHLD, a short-lived command is gone at once when it ends.
            let process = if is_staged { Ok(None) } else { ProcessRecord::of(pid.as_raw_nonzero().get()) };
            let report = back.and_then(|()| talk.await_report());
            let (pid, pidfd) = talk.into_child();
            let process = if is_staged { ProcessRecord::of(pid.as_raw_nonzero().get()) } else { process };
            match report.and_then(|()| process?.ok_or(Error::InitDied { ended: None })) {
                Ok(process) => Ok((process, pidfd, confirmation)),
                Err(error) => Err(end_failed(&pidfd, error)),
            }
        }
    }
}

const JOIN_PIDS: &str = "join the pid namespace";

fn open_namespace(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::sys(JOIN_PIDS)(SysError::new("open", path.display().to_string(), errno)))
}

/// Puts later children of the caller into the pid namespace of `target`, a namespace or a process. Gives the caller's own, to go
/// back to: a process can only be born into a pid namespace.
pub(crate) fn enter_pid_namespace(target: BorrowedFd<'_>) -> Result<OwnedFd> {
    let own = open_namespace(Path::new("/proc/self/ns/pid"))?;
    set_namespace(target, pid_flag()).map_err(Error::sys(JOIN_PIDS))?;
    Ok(own)
}

pub(crate) fn pid_flag() -> i32 {
    i32::try_from(namespace::PID).unwrap_or_default()
}

/// What the first process sends over its pipe: one byte, and after [`FAILED`] the error as JSON. The pipe closes on
/// execve(2), so the end of the stream after [`READY`] is success. Before it there may be requests ([`conversation`]).
pub(crate) const READY: u8 = b'+';
/// See [`READY`].
pub(crate) const FAILED: u8 = b'-';

/// Waits for a process to be ready, to run its command, or to say why it cannot; hands its seccomp listener on meanwhile.
/// `report` is what it has said already.
pub(crate) fn follow(pipe: &mut File, mut report: Vec<u8>, processes: Processes<'_>) -> Result<()> {
    let mut chunk = [0; 4096];
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return read_report(&report),
            Ok(count) => report.extend(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                return Err(Error::sys("wait for the container's first process")(SysError::new(
                    "read", "a pipe", errno,
                )));
            }
        }
        if let Some(request) = take_request(&mut report, READY)? {
            serve(&request, processes)?;
        }
    }
}

/// Kills and reaps a first process that must not stay, and says how it ended where nothing else is known.
pub(crate) fn end_failed(child: &OwnedFd, error: Error) -> Error {
    // It has said its last word, or nothing: it may hang only where the kernel does.
    if let Err(failed) = pidfd::send_signal(child.as_fd(), rustix::process::Signal::KILL.as_raw()) {
        return Error::sys("end a failed process")(failed);
    }
    // Where the caller ignores SIGCHLD there is nothing to reap, and how it ended is unknown.
    let ended = pidfd::wait(child.as_fd()).ok();
    match error {
        Error::InitDied { .. } => Error::InitDied { ended },
        other => other,
    }
}

/// Reads what a first process sent until its pipe closed.
pub(crate) fn read_report(report: &[u8]) -> Result<()> {
    let said = report.strip_prefix(&[READY]).unwrap_or(report);
    match said.split_first() {
        None if report.is_empty() => Err(Error::InitDied { ended: None }),
        None => Ok(()),
        Some((&FAILED, json)) => match serde_json::from_slice::<InitError>(json) {
            Ok(error) => Err(error.into()),
            Err(_) => Err(Error::InitReport { report: String::from_utf8_lossy(json).into_owned() }),
        },
        Some(_) => Err(Error::InitReport { report: String::from_utf8_lossy(said).into_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_told_apart() {
        assert!(matches!(read_report(b""), Err(Error::InitDied { .. })));
        assert!(read_report(b"+").is_ok());
        let error = InitError::NotExecutable { command: "x".into(), reason: "y".into() };
        let mut report = vec![READY, FAILED];
        report.extend(serde_json::to_vec(&error).unwrap());
        assert!(matches!(read_report(&report), Err(Error::Init(found)) if found == error));
        assert!(matches!(read_report(&report[1..]), Err(Error::Init(found)) if found == error));
        assert!(matches!(read_report(b"-{"), Err(Error::InitReport { .. })));
        assert!(matches!(read_report(b"what"), Err(Error::InitReport { .. })));
    }

    #[test]
    fn a_process_is_told_from_its_successors() {
        let own = ProcessRecord::of_caller().unwrap();
        assert!(own.is_alive().unwrap() && own.open().unwrap().is_some());
        let earlier = ProcessRecord { start_time: own.start_time - 1, ..own.clone() };
        assert!(!earlier.is_alive().unwrap() && earlier.open().unwrap().is_none());
        let before_reboot = ProcessRecord { boot_id: "another".into(), ..own };
        assert!(!before_reboot.is_alive().unwrap());
        assert_eq!(ProcessRecord::of(i32::MAX).unwrap(), None);
    }
}
