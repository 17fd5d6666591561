// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one process that stands beside a container: the parent of its init.
//!
//! Single-threaded from beginning to end. It writes the container's output to its log and to its clients, owns its terminal, passes
//! signals on where it is attached, records how the process ended by one rename, and removes a container that goes with its process. If it is
//! killed the container lives on, and its exit code is unknown.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use stos_layerfs::Integrity;
use stos_network::ports::ReservedPorts;
use stos_runtime::launch::Connect;
use stos_runtime::{
    CgroupRequest, Gate, Identity, Inherited, Init, Launch, Mode as OwnerMode, ProcessRecord, RootSource, RunState,
    RuntimeConfig, launch, planned_cgroup,
};
use stos_store::Lock;
use stos_store::files::{self, Durability};
use stos_sys::mount::MountPlan;
use stos_sys::process::pidfd::{self, Ended};
use stos_sys::signals::{OF_CHILDREN_AND_SIZE, OF_STREAMS, SignalFd, of_foreground};

use crate::Engine;
use crate::attach::Size;
use crate::attach::clients::Clients;
use crate::container::{ContainerRecord, ContainerState, ExitRecord, is_gone, now, run_id, state};
use crate::create::container_mount_plan;
use crate::error::{Error, Result};
use crate::filesystem::restore_own_files;
use crate::image_volumes;
use crate::journal::{End, Status};
use crate::lifecycle::{
    MONITOR_PATIENCE, START_INTERVAL, clear_run_state, life_lock, remove_locked, remove_stopped, with_life_lock,
};
use crate::log::{LOG_MAX, LogWriter};
use crate::namespaces::{self, HeldNamespace};
use crate::networking::{Connecting, tear_down};
use crate::pods;
use crate::relay::{Relay, is_ready, send_rest, wait};
use crate::streams::Streams;
use crate::user_namespace::UserNamespace;
use crate::volumes;

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

/// How long a container has lived when its monitor begins to listen: a short life needs no socket.
const LISTEN_AFTER: Duration = Duration::from_millis(50);

/// How often a terminal is looked at that nobody has open, and clients that there was no room for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Starts the container and stays with it until its process has ended.
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
    let prepared = Monitor::prepare(engine, record, attachment);
    let running = prepared.and_then(|monitor| monitor.start(started));
    let ended = running.and_then(Running::watch);
    if record.auto_remove {
        // Whatever happened, it goes with its process; but for one that somebody else has started.
        match remove_stopped(engine, record) {
            Ok(()) | Err(Error::ContainerState { .. }) => {}
            Err(error) => tracing::warn!(container = %record.name, %error, "the container could not be removed"),
        }
    } else {
        volumes::memory::release(engine, record);
    }
    if let Err(error) = pods::member_ended(engine, record) {
        tracing::warn!(container = %record.name, %error, "its pod could not be stopped");
    }
    let ended = ended?;
    // At the very end: who does not read must not keep the container from its own.
    let EndedRun { exit, mut relays, mut clients, signals } = ended;
    if let Err(error) = clients.finish(exit.exit_code, &signals).and_then(|()| send_rest(&mut relays, &signals)) {
        tracing::warn!(container = %record.name, %error, "the last output could not be passed on");
    }
    Ok(exit)
}

struct Monitor<'a> {
    engine: &'a Engine,
    record: &'a ContainerRecord,
    attachment: Attachment,
    config: RuntimeConfig,
    run: RunState,
    log: LogWriter,
    /// The container's root.
    plan: MountPlan,
    /// Those of other containers and of its pod that it joins; closed when it has.
    namespaces: Vec<HeldNamespace>,
    /// The host's ports that lead into it.
    ports: ReservedPorts,
}

impl<'a> Monitor<'a> {
    /// Claims the container's place in ROOT, and makes sure of its layers.
    fn prepare(engine: &'a Engine, record: &'a ContainerRecord, attachment: Attachment) -> Result<Self> {
        let (config, proved) = match engine.take_just_created(&record.id) {
            Some(created) => (Some(created.config), Some(created.chain)),
            None => (None, None),
        };
        let (mut config, run) = claim_when_settled(engine, record, config)?;
        let prepared = (|| {
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
            Ok::<_, Error>((LogWriter::open(&engine.log_path(&record.id), LOG_MAX)?, plan, namespaces))
        })();
        match prepared {
            Ok((log, plan, namespaces)) => {
                let ports = ReservedPorts::default();
                Ok(Self { engine, record, attachment, config, run, log, plan, namespaces, ports })
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
        started(&init.process);
        tracing::info!(container = %self.record.id, pid = init.process.pid, "started");
        let passes_signals = matches!(self.attachment, Attachment::Attached { .. });
        let now = (now(), Instant::now());
        Ok(Running {
            monitor: self,
            init,
            signals,
            relays,
            clients,
            passes_signals,
            listens_at: Some(now.1 + LISTEN_AFTER),
            started: now.0,
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
        let streams = Streams::open(self.record.streams, &self.attachment)?;
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
        let connect = |namespace: &Path| connecting.as_ref().map_or(Ok(()), |connecting| connecting.connect(namespace));
        let launched = launch(Launch {
            id: &self.run.id,
            bundle: &self.run.bundle,
            config: &self.config,
            root: RootSource::Plan(&self.plan),
            stdio: streams.of_container,
            identity: Identity::LookUp(&self.record.user),
            cgroup: CgroupRequest::default(),
            gate: Gate::Open,
            inherited: Inherited::default(),
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

/// Takes the container's place in ROOT. One whose process has ended is waited for while its monitor writes that down, and one
/// that another start has taken until there is a process: that start may fail, and only then is it ours to try.
///
/// `config` is the container's, where the caller has it.
fn claim_when_settled(
    engine: &Engine,
    record: &ContainerRecord,
    config: Option<RuntimeConfig>,
) -> Result<(RuntimeConfig, RunState)> {
    let deadline = Instant::now() + MONITOR_PATIENCE;
    let mut config = config;
    loop {
        match with_life_lock(engine, &record.id, |lock| claim(engine, record, config.take(), lock)) {
            Err(error @ Error::ContainerState { .. }) => {
                let is_settled = match state(engine, &record.id)? {
                    ContainerState::Running(run) => match &run.init {
                        Some(init) => init.is_alive()? || Instant::now() >= deadline,
                        None => false,
                    },
                    _ => Instant::now() >= deadline,
                };
                if is_settled {
                    return Err(error);
                }
                std::thread::sleep(START_INTERVAL);
            }
            other => return other,
        }
    }
}

/// The caller holds the container's lock, so of two starts one wins; without one it is gone.
fn claim(
    engine: &Engine,
    record: &ContainerRecord,
    config: Option<RuntimeConfig>,
    lock: Option<&Lock>,
) -> Result<(RuntimeConfig, RunState)> {
    if lock.is_none() {
        return Err(Error::NoSuchContainer(record.name.to_string()));
    }
    if let ContainerState::Running(_) = state(engine, &record.id)? {
        return Err(already_running(record));
    }
    if record.auto_remove && is_gone(engine, record)? {
        remove_locked(engine, &record.id, Some(record), lock)?;
        return Err(Error::NoSuchContainer(record.name.to_string()));
    }
    // What is still in ROOT is of a monitor that was killed, and its process has ended.
    clear_run_state(engine, &record.id, Some(record))?;
    let dir = engine.store.container_dir(&record.id);
    let config = match config {
        Some(config) => config,
        None => {
            let config = RuntimeConfig::load(&dir).map_err(stos_runtime::Error::from)?;
            let root = record.user_namespace.as_ref().map(UserNamespace::root);
            let network = (record.network, &record.networking);
            restore_own_files(&dir, || namespaces::seen_hostname(engine, record), network, root)?;
            config
        }
    };
    let id = run_id(&record.id);
    let run = RunState {
        version: stos_runtime::state::STATE_VERSION,
        oci_version: config.spec().version().clone(),
        // Before there is a process: should we be killed right after, it is found by its cgroups.
        cgroup: planned_cgroup(&id, &config, &CgroupRequest::default())?,
        id,
        mode: OwnerMode::Image,
        creator: ProcessRecord::of_caller()?,
        init: None,
        rootfs: dir.join("rootfs"),
        bundle: dir,
        created: jiff::Timestamp::now(),
        annotations: record.labels.clone(),
        owner: String::new(),
        hooks: stos_runtime::hooks::Hooks::default(),
    };
    match engine.run_states().claim(&run) {
        Err(stos_runtime::Error::Exists { .. }) => Err(already_running(record)),
        Err(error) => Err(error.into()),
        Ok(_) => Ok((config, run)),
    }
}

/// Frees a place in ROOT after a start that failed, whose cause is the one to tell.
fn give_up(engine: &Engine, record: &ContainerRecord, run: &RunState) {
    let freed = tear_down(engine, &record.id, Some(record.network));
    if let Err(error) = freed.and_then(|()| Ok(engine.run_states().release(&run.id)?)) {
        tracing::warn!(container = %run.id, %error, "the state of a failed start stays");
    }
}

fn already_running(record: &ContainerRecord) -> Error {
    Error::ContainerState {
        action: "start",
        container: record.name.to_string(),
        state: "running".to_owned(),
        expected: "created or stopped",
    }
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
    started: String,
}

/// A container that has run: how it ended, and what the caller and the clients have not read yet.
struct EndedRun {
    exit: ExitRecord,
    relays: Vec<Relay>,
    clients: Clients,
    signals: SignalFd,
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
            self.listen_in_time();
            while let Some(signal) = self.signals.next_signal()? {
                if self.passes_signals && !OF_STREAMS.contains(&signal) {
                    pidfd::send_signal(self.init.pidfd.as_fd(), signal)?;
                }
            }
            if ready.init
                && let Some(ended) = pidfd::try_wait(self.init.pidfd.as_fd())?
            {
                break ended;
            }
        };
        // Its processes are gone with it: what they wrote is in the pipes.
        for relay in &mut self.relays {
            relay.drain(&mut self.monitor.log, &mut self.clients, &mut buffer);
        }
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
        if let Err(error) = self.monitor.settle(&exit, &self.init) {
            tracing::warn!(container = %self.monitor.record.name, %error, "its end could not be written down");
        }
        tracing::info!(container = %self.monitor.record.id, exit_code = exit.exit_code, "ended");
        Ok(EndedRun { exit, relays: self.relays, clients: self.clients, signals: self.signals })
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
        let soonest = until_listening.into_iter().chain(until_look).min()?;
        Timespec::try_from(soonest).ok()
    }

    /// Waits until output, room for it, a client, a signal or the end of the process is there, or it is time for something.
    fn wait_for_something(&mut self) -> Result<Ready> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.init.pidfd, PollFlags::IN)];
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
    relays: [bool; 2],
    clients: Vec<PollFlags>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stos_spec::{BlobDigest, ChainId, DiffId};
    use stos_store::ContainerId;

    use super::*;

    fn created(engine: &Engine, auto_remove: bool) -> ContainerRecord {
        let (id, layers) = (ContainerId::random(), [DiffId::of(b"")]);
        let record: ContainerRecord = serde_json::from_value(json!({
            "version": 1, "id": id, "name": "test", "image": "x", "image_id": BlobDigest::of(b""),
            "manifest": BlobDigest::of(b""), "layers": layers, "chain": ChainId::of_layers(&layers), "created": now(), "command": ["x"],
            "user": "0", "labels": {}, "stop_signal": 15, "network": "none", "auto_remove": auto_remove,
        }))
        .unwrap();
        let config = json!({
            "ociVersion": "1.2.0", "root": {"path": "rootfs"},
            "process": {"args": ["x"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "linux": {"cgroupsPath": format!("/stos-{id}"), "namespaces": [{"type": "mount"}]},
        });
        let dir = engine.store.container_dir(&id);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("container.json"), files::to_json(&record)).unwrap();
        std::fs::write(dir.join("config.json"), files::to_json(&config)).unwrap();
        record
    }

    #[test]
    fn a_claim_names_the_cgroups_before_there_is_a_process() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        let record = created(&engine, false);
        let claim = || with_life_lock(&engine, &record.id, |lock| claim(&engine, &record, None, lock));
        let (_, run) = claim().unwrap();
        let found = engine.run_states().read(&run.id).unwrap();
        assert_eq!((&found.init, &found), (&None, &run));
        assert_eq!(found.cgroup.path, Path::new(&format!("stos-{}", record.id)));
        let places = found.cgroup.directories.iter().map(|directory| &directory.path);
        assert!(places.clone().count() > 0 && places.clone().all(|place| place.ends_with(&found.cgroup.path)));
        // While the claimer lives it is being started.
        assert!(matches!(claim(), Err(Error::ContainerState { .. })));
        std::fs::remove_dir_all(engine.store.container_dir(&record.id)).unwrap();
        assert!(matches!(claim(), Err(Error::NoSuchContainer(_))));
    }

    #[test]
    fn a_container_that_goes_with_its_process_is_not_started_twice() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        let record = created(&engine, true);
        // As its monitor left it that was killed.
        std::fs::write(engine.log_path(&record.id), "").unwrap();
        let claimed = with_life_lock(&engine, &record.id, |lock| claim(&engine, &record, None, lock));
        assert!(matches!(claimed, Err(Error::NoSuchContainer(_))));
        assert!(!engine.store.container_dir(&record.id).exists());
    }
}
