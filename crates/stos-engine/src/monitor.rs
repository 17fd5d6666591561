// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one process that stands beside a container: the parent of its init.
//!
//! Single-threaded from beginning to end. It writes the container's output to its log and to its clients, owns its terminal, passes
//! signals on where it is attached, records how the process ended by one rename, and removes a container that goes with its process. If it is
//! killed the container lives on, and its exit code is unknown.

mod again;
mod claim;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use stos_layerfs::Integrity;
use stos_network::ports::ReservedPorts;
use stos_runtime::launch::{Connect, NotConnected};
use stos_runtime::{
    CgroupRequest, Gate, Identity, Init, Launch, ProcessRecord, RootSource, RunState, RuntimeConfig, launch,
};
use stos_store::files::{self, Durability};
use stos_sys::mount::MountPlan;
use stos_sys::process::clone::keep_over_exec;
use stos_sys::process::pidfd::{self, Ended};
use stos_sys::signals::{OF_CHILDREN_AND_SIZE, OF_STREAMS, SignalFd, of_foreground};

use crate::Engine;
use crate::attach::Size;
use crate::attach::clients::Clients;
use crate::container::{ContainerRecord, ExitRecord, now};
use crate::create::container_mount_plan;
use crate::error::{Error, Result};
use crate::health::action::Ending;
use crate::health::checker::Checker;
use crate::image_volumes;
use crate::journal::{End, Status};
use crate::lifecycle::{life_lock, remove_stopped};
use crate::log::Log;
use crate::namespaces::{self, HeldNamespace};
use crate::networking::{Connecting, tear_down};
use crate::pods;
use crate::relay::{Relay, is_ready, send_rest, wait};
use crate::restart::{self, Because};
use crate::service::{LogDriver, OnFailure};
use crate::streams::Streams;
use crate::unit::Notifying;
use crate::volumes;

use again::restart_while_asked;
use claim::{claim_when_settled, give_up};

/// What the monitor is connected to, beside the log and the clients that attach later.
#[derive(Debug)]
pub enum Attachment {
    /// Nothing of the caller's.
    Detached {
        /// The socket of a client that has started the container and waits for its session to begin.
        first: Option<OwnedFd>,
        /// The first size of a terminal.
        size: Option<Size>,
    },
    /// The caller's standard output and error too; and its input where that is wanted. Signals are passed on. For containers without a
    /// terminal.
    Attached {
        /// Whether the container reads the caller's standard input.
        stdin: bool,
    },
}

impl Attachment {
    /// Gives what a later life has of it: nobody waits for that one to begin.
    fn again(&self) -> impl Fn() -> Self + use<> {
        let stdin = match self {
            Self::Detached { .. } => None,
            Self::Attached { stdin } => Some(*stdin),
        };
        move || stdin.map_or(Self::Detached { first: None, size: None }, |stdin| Self::Attached { stdin })
    }
}

/// How long a container has lived when its monitor begins to listen: a short life needs no socket.
const LISTEN_AFTER: Duration = Duration::from_millis(50);

/// How often a terminal is looked at that nobody has open, and clients that there was no room for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Starts the container and stays with it until its process has ended; where that is to be started again ([`crate::restart`]), until it is no
/// more.
///
/// `started` is called when the command has been executed. The caller must be single-threaded and run from a protected
/// binary ([`stos_runtime::protect_binary`]). On an error before the start nothing of it is left running; a container that
/// goes with its process is gone then too. Once the process has run, how it ended is the result: what could not be written
/// down or removed then is a warning.
pub fn run_container(
    engine: &Engine,
    record: &ContainerRecord,
    attachment: Attachment,
    started: impl FnOnce(&ProcessRecord),
) -> Result<ExitRecord> {
    let again = attachment.again();
    let mut ended = live(engine, record, attachment, Turn::First, started);
    if let Ok(ended) = &mut ended
        && let Err(error) = restart_while_asked(engine, record, &again, ended)
    {
        tracing::error!(container = %record.name, %error, "its restart policy cannot be followed any more");
    }
    if record.auto_remove {
        // Whatever happened, it goes with its process; but for one that somebody else has started.
        match remove_stopped(engine, record) {
            Ok(()) | Err(Error::ContainerState { .. }) => {}
            Err(error) => tracing::warn!(container = %record.name, %error, "the container could not be removed"),
        }
    } else {
        // Before its pod is looked at, which stays while any of its containers is awaited.
        if let Err(error) = restart::leave(engine, &record.id) {
            tracing::warn!(container = %record.name, %error, "it looks as if it would be started again");
        }
        volumes::memory::release(engine, record);
    }
    if let Err(error) = pods::member_ended(engine, record) {
        tracing::warn!(container = %record.name, %error, "its pod could not be stopped");
    }
    let ended = ended?;
    // At the very end: who does not read must not keep the container from its own.
    let EndedRun { exit, mut relays, mut clients, signals, .. } = ended;
    if let Err(error) = clients.finish(exit.exit_code, &signals).and_then(|()| send_rest(&mut relays, &signals)) {
        tracing::warn!(container = %record.name, %error, "the last output could not be passed on");
    }
    Ok(exit)
}

/// Whether somebody has started a container, or its monitor starts it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Again,
}

/// One life of a container.
fn live(
    engine: &Engine,
    record: &ContainerRecord,
    attachment: Attachment,
    turn: Turn,
    started: impl FnOnce(&ProcessRecord),
) -> Result<EndedRun> {
    Monitor::prepare(engine, record, attachment, turn)?.start(started)?.watch()
}

struct Monitor<'a> {
    engine: &'a Engine,
    record: &'a ContainerRecord,
    attachment: Attachment,
    config: RuntimeConfig,
    run: RunState,
    log: Log,
    /// The container's root.
    plan: MountPlan,
    /// Those of other containers and of its pod that it joins; closed when it has.
    namespaces: Vec<HeldNamespace>,
    /// The host's ports that lead into it.
    ports: ReservedPorts,
    /// Where its cgroups go.
    cgroup: CgroupRequest,
    notifying: Notifying,
}

impl<'a> Monitor<'a> {
    /// Claims the container's place in ROOT, and makes sure of its layers.
    fn prepare(engine: &'a Engine, record: &'a ContainerRecord, attachment: Attachment, turn: Turn) -> Result<Self> {
        let (config, proved) = match engine.take_just_created(&record.id) {
            Some(created) => (Some(created.config), Some(created.chain)),
            None => (None, None),
        };
        let cgroup = record.unit.cgroup(record)?;
        let (mut config, run) = claim_when_settled(engine, record, config, &cgroup, turn)?;
        let prepared = (|| {
            let notifying = Notifying::begin(engine, record, &run.bundle, &mut config)?;
            let mut namespaces = namespaces::open(engine, &record.joins)?;
            namespaces.extend(pods::open_namespaces(engine, record)?);
            namespaces.iter().for_each(|held| config.join_namespace(held.flag(), held.path()));
            let chain = match proved {
                Some(chain) => chain,
                None => {
                    let layerfs = &engine.layerfs;
                    let chain = layerfs.ensure_sound_chain_of(record.backend, &record.layers, Integrity::Sealed)?;
                    layerfs.ensure_chain_mounted(&chain)?;
                    chain
                }
            };
            let plan = container_mount_plan(engine, record, &chain)?;
            Ok::<_, Error>((Log::open(engine, record)?, plan, namespaces, notifying))
        })();
        match prepared {
            Ok((log, plan, namespaces, notifying)) => {
                let ports = ReservedPorts::default();
                Ok(Self { engine, record, attachment, config, run, log, plan, namespaces, ports, cgroup, notifying })
            }
            Err(error) => {
                give_up(engine, record, &run);
                Err(error)
            }
        }
    }

    fn start(mut self, started: impl FnOnce(&ProcessRecord)) -> Result<Running<'a>> {
        let is_attached = match &self.attachment {
            Attachment::Attached { .. } => true,
            Attachment::Detached { first, .. } => first.is_some(),
        };
        let launched = self.launch();
        self.namespaces.clear();
        let Launched { init, signals, relays, clients } = match launched {
            Ok(launched) => launched,
            Err(error) => {
                // Nothing ran: the container is what it was before, created or ended as it did the last time.
                if let Err(left) = self.log.discard_empty() {
                    tracing::warn!(error = %left, "cannot remove the empty log");
                }
                give_up(self.engine, self.record, &self.run);
                return Err(error);
            }
        };
        self.run.init = Some(init.process.clone());
        self.run.cgroup = init.cgroup.clone();
        if let Err(error) = self.record_start() {
            // Without its record nobody would find the process again.
            if let Err(left) = stos_runtime::lifecycle::end(&init.cgroup, Some(&init.process)) {
                tracing::warn!(container = %self.record.id, error = %left, "the process could not be ended again");
            }
            give_up(self.engine, self.record, &self.run);
            return Err(error);
        }
        self.engine.note(Status::Start, self.record);
        if is_attached {
            self.engine.note(Status::Attach, self.record);
        }
        let passes_signals = matches!(self.attachment, Attachment::Attached { .. });
        self.notifying.started(!passes_signals);
        started(&init.process);
        tracing::info!(container = %self.record.id, pid = init.process.pid, "started");
        let (started, began) = (now(), Instant::now());
        let listens_at = began + LISTEN_AFTER;
        let checker = Checker::begin(self.engine, self.record, &self.run, listens_at);
        let (listens_at, ending) = (Some(listens_at), None);
        Ok(Running {
            monitor: self,
            init,
            signals,
            relays,
            clients,
            passes_signals,
            listens_at,
            checker,
            ending,
            started,
            began,
        })
    }

    /// Forgets how the container ended the last time, then records its process: in this order, so that a short life is never
    /// taken for the last one's end.
    fn record_start(&self) -> Result<()> {
        if !self.record.auto_remove {
            files::remove_file(&self.engine.exit_path(&self.record.id))?;
        }
        Ok(self.engine.run_states().update(&self.run)?)
    }

    fn launch(&mut self) -> Result<Launched> {
        let passes_through = self.record.service.log.driver == LogDriver::Passthrough;
        let streams = Streams::open(self.record.streams, &self.attachment, passes_through)?;
        if let Attachment::Detached { size: Some(size), .. } = self.attachment {
            self.config.set_console_size(size);
        }
        // Blocked before the clone, so that no signal is lost; the runtime unblocks them in the child.
        let signals: Vec<_> =
            of_foreground().into_iter().filter(|signal| !OF_CHILDREN_AND_SIZE.contains(signal)).collect();
        let signals = SignalFd::new(&signals)?;
        let mut given: Vec<_> = self.namespaces.iter_mut().filter_map(HeldNamespace::take_mount).collect();
        given.extend(volumes::memory::open_given(self.engine, self.record)?);
        given.extend(image_volumes::open_given(self.engine, self.record)?);
        let connecting = Connecting::begin(self.engine, self.record)?;
        let inherited = &self.engine.caller.inherited;
        keep_over_exec(inherited.count(), true)?;
        let connect = |namespace: &Path| {
            // The container has them by now; the programs that make networks must not.
            keep_over_exec(inherited.count(), false).map_err(|_| NotConnected)?;
            connecting.as_ref().map_or(Ok(()), |connecting| connecting.connect(namespace))
        };
        let launched = launch(Launch {
            id: &self.run.id,
            bundle: &self.run.bundle,
            config: &self.config,
            root: RootSource::Plan(&self.plan),
            stdio: streams.of_container,
            identity: Identity::LookUp(&self.record.user),
            cgroup: self.cgroup.clone(),
            gate: Gate::Open,
            inherited: inherited.clone(),
            new_keyring: true,
            has_init: self.record.init,
            given: &given,
            connect: connecting.as_ref().map(|_| Connect(&connect)),
        });
        let init = match launched {
            Ok(init) => init,
            Err(error) => {
                return Err(connecting.and_then(|connecting| connecting.take_failure()).unwrap_or(error.into()));
            }
        };
        self.ports = connecting.map(Connecting::into_ports).unwrap_or_default();
        let opened = streams.of_monitor.open().and_then(|(relays, input)| {
            let first = match &mut self.attachment {
                Attachment::Detached { first, .. } => first.take(),
                Attachment::Attached { .. } => None,
            };
            Ok((relays, Clients::new(self.record.streams, input, first)?))
        });
        match opened {
            Ok((relays, clients)) => Ok(Launched { init, signals, relays, clients }),
            Err(error) => {
                drop(stos_runtime::lifecycle::end(&init.cgroup, Some(&init.process)));
                Err(error)
            }
        }
    }
}

/// A container's first process, and all that comes from it and goes to it.
struct Launched {
    init: Init,
    signals: SignalFd,
    relays: Vec<Relay>,
    clients: Clients,
}

/// A container that runs, and all that comes from it.
struct Running<'a> {
    monitor: Monitor<'a>,
    init: Init,
    signals: SignalFd,
    relays: Vec<Relay>,
    clients: Clients,
    passes_signals: bool,
    /// When the monitor begins to listen; `None` when it has.
    listens_at: Option<Instant>,
    /// Its health checks, where it has any.
    checker: Option<Checker<'a>>,
    /// Where its monitor has decided to end it.
    ending: Option<Ending>,
    started: String,
    began: Instant,
}

/// A container that has run: how it ended, and what the caller and the clients have not read yet.
struct EndedRun {
    exit: ExitRecord,
    relays: Vec<Relay>,
    clients: Clients,
    signals: SignalFd,
    because: Because,
    lived: Duration,
}

impl EndedRun {
    /// Tells who reads the container's output how it has ended, and waits for nobody who reads in a session: another process does.
    fn part_with_readers(&mut self) -> Result<()> {
        send_rest(&mut self.relays, &self.signals)?;
        self.clients.finish_aside(self.exit.exit_code, &self.signals)
    }

    /// Waits for so long, and tells whether the monitor was asked to end meanwhile.
    fn is_interrupted(&self, time: Duration) -> Result<bool> {
        wait(&mut [PollFd::new(&self.signals, PollFlags::IN)], Timespec::try_from(time).ok().as_ref())?;
        Ok(self.signals.next_signal()?.is_some_and(|signal| !OF_STREAMS.contains(&signal)))
    }
}

impl Running<'_> {
    /// Copies output and passes signals on until the process has ended, and writes that down.
    fn watch(mut self) -> Result<EndedRun> {
        let mut buffer = vec![0; 64 << 10];
        let ended = loop {
            let ready = self.wait_for_something()?;
            for (relay, is_ready) in self.relays.iter_mut().zip(ready.relays) {
                if is_ready {
                    relay.step(&mut self.monitor.log, &mut self.clients, &mut buffer);
                }
            }
            self.clients.step(&ready.clients);
            if ready.notified {
                self.monitor.notifying.step()?;
            }
            self.listen_in_time();
            self.look_after_health()?;
            while let Some(signal) = self.signals.next_signal()? {
                self.take_signal(signal)?;
            }
            if ready.init
                && let Some(ended) = pidfd::try_wait(self.init.pidfd.as_fd())?
            {
                break ended;
            }
        };
        // A check that is being made is ended with it.
        drop(self.checker.take());
        // Its processes are gone with it: what they wrote is in the pipes.
        for relay in &mut self.relays {
            relay.drain(&mut self.monitor.log, &mut self.clients, &mut buffer);
        }
        self.monitor.log.finish();
        let exit = ExitRecord {
            exit_code: ended.code(),
            signal: match ended {
                Ended::Signaled(signal) => Some(signal),
                Ended::Exited(_) => None,
            },
            oom_killed: self.init.cgroup.oom_kills() > 0,
            started: self.started,
            finished: now(),
        };
        if let Err(error) = self.monitor.notifying.finish() {
            tracing::warn!(container = %self.monitor.record.name, %error, "whether it was ready is not known");
        }
        if let Err(error) = self.monitor.settle(&exit, &self.init) {
            tracing::warn!(container = %self.monitor.record.name, %error, "its end could not be written down");
        }
        tracing::info!(container = %self.monitor.record.id, exit_code = exit.exit_code, "ended");
        let (because, lived) = (self.ending.map_or(Because::Itself, |ending| ending.because), self.began.elapsed());
        Ok(EndedRun { exit, relays: self.relays, clients: self.clients, signals: self.signals, because, lived })
    }

    /// Passes a signal on where the caller is the container's. Else who ends a monitor, as systemd does at a shutdown, would have it start its
    /// container again right then: that is stopped instead.
    fn take_signal(&mut self, signal: i32) -> Result<()> {
        let (init, record) = (self.init.pidfd.as_fd(), self.monitor.record);
        if self.passes_signals && !OF_STREAMS.contains(&signal) {
            pidfd::send_signal(init, signal)?;
        } else if signal == Signal::TERM.as_raw() && record.service.may_restart() {
            match &mut self.ending {
                // It has been asked to end, perhaps to be started again.
                Some(ending) => ending.because = Because::EndedForGood,
                None => self.ending = Ending::begin(OnFailure::Stop, record, init, &self.init.cgroup)?,
            }
        }
        Ok(())
    }

    /// Makes health checks when it is time, and ends a container that is to be ended where it has become unhealthy.
    fn look_after_health(&mut self) -> Result<()> {
        let (init, cgroup) = (self.init.pidfd.as_fd(), &self.init.cgroup);
        if let Some(action) = self.checker.as_mut().and_then(Checker::step) {
            tracing::warn!(container = %self.monitor.record.name, action = action.name(), "it has become unhealthy");
            self.ending = Ending::begin(action, self.monitor.record, init, cgroup)?;
        }
        if self.checker.as_ref().is_some_and(Checker::is_healthy) {
            self.monitor.notifying.healthy();
        }
        match &mut self.ending {
            Some(ending) => {
                // What ends needs no check any more.
                self.checker = None;
                ending.step(init, cgroup)
            }
            None => Ok(()),
        }
    }

    /// Settles down for a longer life when the container has lived for a moment: begins to listen. Where that cannot be nobody can attach,
    /// which is said; all else goes on.
    fn listen_in_time(&mut self) {
        if self.listens_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.listens_at = None;
        self.monitor.engine.close_journal();
        let directory = self.monitor.engine.run_states().container(&self.monitor.run.id);
        if let Err(error) = self.clients.listen(&directory) {
            tracing::warn!(container = %self.monitor.record.name, %error, "nobody can attach to it");
        }
    }

    /// When something is to be done though nothing has happened.
    fn timeout(&self) -> Option<Timespec> {
        let until_listening = self.listens_at.map(|at| at.saturating_duration_since(Instant::now()));
        let looks_again = self.clients.is_resting() || self.relays.iter().any(Relay::is_hung_up);
        let until_look = looks_again.then_some(LOOK_INTERVAL);
        let of_checker = self.checker.as_ref().and_then(Checker::deadline);
        let of_ending = self.ending.as_ref().and_then(Ending::deadline);
        let of_health = of_checker.into_iter().chain(of_ending);
        let until_health = of_health.map(|at| at.saturating_duration_since(Instant::now()));
        let soonest = until_listening.into_iter().chain(until_look).chain(until_health).min()?;
        Timespec::try_from(soonest).ok()
    }

    /// Waits until output, room for it, a client, a signal or the end of the process is there, or it is time for something.
    fn wait_for_something(&mut self) -> Result<Ready> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.init.pidfd, PollFlags::IN)];
        fds.extend(
            self.checker.as_ref().and_then(Checker::waits_for).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        let notified_at = self.monitor.notifying.waits_for().map(|fd| {
            fds.push(fd);
            fds.len() - 1
        });
        let mut places = [None; 2];
        if !self.clients.is_behind() {
            for (place, relay) in places.iter_mut().zip(&self.relays) {
                if let Some(fd) = relay.waits_for() {
                    *place = Some(fds.len());
                    fds.push(fd);
                }
            }
        }
        let of_clients = fds.len();
        self.clients.add_to(&mut fds);
        wait(&mut fds, self.timeout().as_ref())?;
        let ready = Ready {
            init: is_ready(&fds[1]),
            notified: notified_at.is_some_and(|at| is_ready(&fds[at])),
            relays: places.map(|place| place.is_some_and(|at| is_ready(&fds[at]))),
            clients: fds[of_clients..].iter().map(PollFd::revents).collect(),
        };
        drop(fds);
        self.relays.iter_mut().for_each(Relay::look_again);
        Ok(ready)
    }
}

impl Monitor<'_> {
    /// Writes down how the container ended and frees its place in ROOT, under its lock: whoever starts or deletes it finds
    /// all of that done, or nothing.
    fn settle(&self, exit: &ExitRecord, init: &Init) -> Result<()> {
        // Even without it: what has ended must not look as if it ran.
        let lock = life_lock(self.engine, &self.record.id);
        let recorded = self.record_exit(exit);
        let record = self.engine.renamed(self.record);
        let end = End { exit_code: Some(exit.exit_code), oom_killed: exit.oom_killed };
        self.engine.note_end(Status::Died, &record, end);
        let freed = stos_runtime::lifecycle::end(&init.cgroup, None)
            .map_err(Error::from)
            .and_then(|()| tear_down(self.engine, &record.id, Some(record.network)))
            .and_then(|()| Ok(self.engine.run_states().release(&self.run.id)?));
        if freed.is_ok() && !record.auto_remove {
            self.engine.note(Status::Cleanup, &record);
        }
        recorded.and(freed).and(lock.map(drop))
    }

    fn record_exit(&self, exit: &ExitRecord) -> Result<()> {
        let path = self.engine.exit_path(&self.record.id);
        let json = files::to_json(exit);
        if self.record.auto_remove {
            // In place: who waits holds the file open, and its name goes in a moment.
            return Ok(std::fs::write(&path, &json).map_err(stos_store::Error::io("write", &path))?);
        }
        Ok(files::replace(&path, &self.engine.store.staging_area(), &json, Durability::Durable)?)
    }
}

struct Ready {
    init: bool,
    /// Whether the container may have said that it is ready.
    notified: bool,
    relays: [bool; 2],
    clients: Vec<PollFlags>,
}
