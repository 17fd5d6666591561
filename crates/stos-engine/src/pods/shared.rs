// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the containers of a pod share: made by whoever starts the first of them, and taken down when the pod stops.
//!
//! All is made and taken down under the pod's lock. `state.json` is there before anything else, and says that all is whole last: of what a
//! killed maker has left, whoever comes next makes nothing but room.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};
use stos_network::ports::{ReservedPorts, reserve};
use stos_network::sandbox::{SandboxRequest, is_namespace};
use stos_runtime::ProcessRecord;
use stos_runtime::pause::{Pause, PauseRequest, start_pause};
use stos_store::files::{self, Durability};
use stos_store::{ContainerName, Lock, PodId};
use stos_sys::SysError;
use stos_sys::mount::{FsParameter, attach, detach, new_filesystem, open_tree_clone};
use stos_sys::process::clone::thread_count;
use stos_sys::process::{identity, pidfd};

use super::status::{has_running_members, members};
use super::{ExitPolicy, PodError, PodRecord, gone, record};
use crate::Engine;
use crate::container::{ContainerRecord, now};
use crate::error::{Error, Result};
use crate::namespaces::{HeldNamespace, NamespaceKind};
use crate::networking::{OwnFiles, names_of, write_again};
use crate::options::Network;

const KILL: i32 = 9;
/// How long the infra process may take to go after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long a thread that has ended may still be counted.
const THREAD_PATIENCE: Duration = Duration::from_secs(1);
/// How much of `hosts` is read, in bytes.
const HOSTS_MAX: u64 = 1 << 20;
/// How large the shared memory may be: podman's default.
const SHM_SIZE: &str = "65536k";

/// The contents of `state.json`: what there is of a pod now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Up {
    /// The DATA-ROOT that the pod is in: others may share ROOT.
    pub store: PathBuf,
    /// The boot that it belongs to.
    pub boot_id: String,
    /// When it was started (RFC 3339); `None` as long as not all is there.
    pub started: Option<String>,
    /// The process that holds what mounts cannot.
    pub infra: Option<ProcessRecord>,
}

fn place(engine: &Engine, id: &PodId) -> PathBuf {
    engine.shared_dir().join(id.as_str())
}

fn state_path(engine: &Engine, id: &PodId) -> PathBuf {
    place(engine, id).join("state.json")
}

/// Tells that a pod was started once.
pub(super) fn was_started(engine: &Engine, id: &PodId) -> bool {
    engine.store.pod_dir(id).join("started").exists()
}

/// Reads what is written of a pod. What cannot be read says nothing.
fn read(engine: &Engine, id: &PodId) -> Result<Option<Up>> {
    match files::read_json(&state_path(engine, id)) {
        Err(stos_store::Error::Damaged { .. }) => Ok(None),
        other => Ok(other?),
    }
}

fn write(engine: &Engine, id: &PodId, up: &Up) -> Result<()> {
    // A reboot takes all of it.
    let (path, scratch) = (state_path(engine, id), place(engine, id));
    Ok(files::replace(&path, &scratch, &files::to_json(up), Durability::Volatile)?)
}

/// Gives what there is of a pod, where that is whole: its infra process lives, where it has one.
pub(super) fn up(engine: &Engine, id: &PodId) -> Result<Option<Up>> {
    let Some(up) = read(engine, id)?.filter(|up| up.started.is_some()) else { return Ok(None) };
    let lives = up.infra.as_ref().map_or(Ok(true), ProcessRecord::is_alive)?;
    Ok((lives && up.boot_id == identity::boot_id()?).then_some(up))
}

/// Makes sure of all that the containers of a pod share. The caller holds the pod's lock.
pub(super) fn ensure_up(engine: &Engine, pod: &PodRecord, _lock: &Lock) -> Result<Option<Up>> {
    if !pod.infra {
        return Ok(None);
    }
    let known = read(engine, &pod.id)?.filter(|up| up.started.is_some());
    if let Some(known) = known
        && known.boot_id == identity::boot_id()?
        && all_are_mounted(engine, pod)
    {
        let lives = known.infra.as_ref().map_or(Ok(false), ProcessRecord::is_alive)?;
        if lives || !pod.needs_process() {
            return Ok(Some(known));
        }
        // It was killed, and has let go of the ports; with a pid namespace's first process all others of it have gone. The rest is there, and
        // containers may be in it: also where processes are shared, for each may have those of its own or of the host.
        settle_threads()?;
        return hold_by_process(engine, pod, known, &reserve_ports(engine, pod)?).map(Some);
    }
    lower(engine, &pod.id)?;
    let raised = raise(engine, pod);
    if raised.is_err()
        && let Err(error) = lower(engine, &pod.id)
    {
        tracing::warn!(pod = %pod.name, %error, "what was made of it stays");
    }
    raised.map(Some)
}

fn all_are_mounted(engine: &Engine, pod: &PodRecord) -> bool {
    let place = place(engine, &pod.id);
    pod.pinned().all(|kind| is_namespace(&place.join(kind.name())))
        && (!pod.shares(NamespaceKind::Ipc) || is_mount(&place.join("shm")))
        && (!pod.has_networks() || engine.pod_sandboxes().read(pod.id.as_str()).is_ok_and(|sandbox| sandbox.is_some()))
}

/// Whether another filesystem begins at a directory.
fn is_mount(path: &Path) -> bool {
    let device = |path: &Path| path.symlink_metadata().ok().map(|metadata| metadata.dev());
    device(path).is_some_and(|own| path.parent().and_then(device) != Some(own))
}

fn raise(engine: &Engine, pod: &PodRecord) -> Result<Up> {
    settle_threads()?;
    let place = place(engine, &pod.id);
    files::ensure_directory(&place)?;
    let (store, boot_id) = (engine.store.root().to_owned(), identity::boot_id()?.to_owned());
    let up = Up { store, boot_id, started: None, infra: None };
    write(engine, &pod.id, &up)?;
    let ports = reserve_ports(engine, pod)?;
    pin_namespaces(pod, &place)?;
    if pod.shares(NamespaceKind::Ipc) {
        mount_shared_memory(&place.join("shm"))?;
    }
    connect(engine, pod, &place)?;
    let up = Up { started: Some(now()), ..up };
    let up = match pod.needs_process() {
        true => hold_by_process(engine, pod, up, &ports)?,
        false => {
            write(engine, &pod.id, &up)?;
            up
        }
    };
    let marker = engine.store.pod_dir(&pod.id).join("started");
    File::create(&marker).map_err(stos_store::Error::io("create", &marker))?;
    Ok(up)
}

/// Takes the host's ports, before anything is made of the network.
fn reserve_ports(engine: &Engine, pod: &PodRecord) -> Result<ReservedPorts> {
    if !pod.has_networks() {
        return Ok(ReservedPorts::default());
    }
    let sandboxes = engine.pod_sandboxes();
    let mut has_ipv6 = false;
    for part in &pod.networking.networks {
        has_ipv6 |= sandboxes.directory().named(&part.network)?.ipv6_enabled;
    }
    Ok(reserve(&pod.networking.ports, has_ipv6)?)
}

/// Makes the namespaces that mounts can hold, and mounts them. A process is born into them, and ends when that is done.
fn pin_namespaces(pod: &PodRecord, place: &Path) -> Result<()> {
    let flags = pod.pinned().fold(0, |flags, kind| flags | kind.flag());
    if flags == 0 {
        return Ok(());
    }
    let request = PauseRequest { namespaces: flags, hostname: &pod.hostname, ..PauseRequest::default() };
    let born = start_pause(&request)?;
    for kind in pod.pinned() {
        let target = place.join(kind.name());
        drop(files::create_new(&target)?);
        let namespace = PathBuf::from(format!("/proc/{}/ns/{}", born.process.pid, kind.name()));
        attach(open_tree_clone(&namespace, false)?.as_fd(), &target)?;
    }
    Ok(())
}

fn mount_shared_memory(target: &Path) -> Result<()> {
    files::ensure_directory(target)?;
    let parameters = [("source", "shm"), ("mode", "1777"), ("size", SHM_SIZE)];
    let parameters = parameters.map(|(key, value)| FsParameter::String(key.to_owned(), value.to_owned()));
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(attach(new_filesystem("tmpfs", &parameters, attributes)?.as_fd(), target)?)
}

/// Connects the pod to its networks, and writes the files that its containers share.
fn connect(engine: &Engine, pod: &PodRecord, place: &Path) -> Result<()> {
    if !pod.shares(NamespaceKind::Network) || !matches!(pod.network, Network::None | Network::Bridge) {
        return Ok(());
    }
    let sandbox = match pod.has_networks() {
        true => {
            let networks = pod.networking.networks.iter();
            let networks = networks.map(|part| (part.network.clone(), names_of(part, pod.id.short()))).collect();
            let request = SandboxRequest {
                id: pod.id.as_str(),
                name: pod.name.as_str(),
                namespace: &place.join(NamespaceKind::Network.name()),
                networks: &networks,
                ports: &pod.networking.ports,
                dns_servers: &pod.networking.dns.servers,
            };
            Some(engine.pod_sandboxes().set_up(&request)?)
        }
        false => None,
    };
    let own = OwnFiles {
        hostname: &pod.hostname,
        network: pod.network,
        networking: &pod.networking,
        now: sandbox.as_ref().map(|sandbox| (sandbox, pod.name.as_str())),
    };
    write_again(&engine.store.pod_dir(&pod.id), own)
}

/// Starts the infra process: with a pid namespace it is the first process there, and the host's ports are its own.
fn hold_by_process(engine: &Engine, pod: &PodRecord, up: Up, ports: &ReservedPorts) -> Result<Up> {
    let place = place(engine, &pod.id);
    let held: Vec<_> = ports.descriptors().collect();
    let namespaces = if pod.shares(NamespaceKind::Pid) { NamespaceKind::Pid.flag() } else { 0 };
    let request = PauseRequest { namespaces, hostname: &pod.hostname, held: &held, stays_at: Some(&place) };
    let infra: Pause = start_pause(&request)?;
    let up = Up { infra: Some(infra.process.clone()), ..up };
    // Before it outlives us, so that it is found.
    write(engine, &pod.id, &up)?;
    infra.confirm()?;
    Ok(up)
}

/// Waits until threads that have ended are none: a process that has others cannot be cloned.
fn settle_threads() -> Result<()> {
    let deadline = Instant::now() + THREAD_PATIENCE;
    while thread_count()? != 1 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Takes down all that there is of a pod, or may be. The caller holds the pod's lock, or the pod is gone.
///
/// # Errors
/// What the kernel and the filesystem say; [`Error::WontDie`].
pub(super) fn lower(engine: &Engine, id: &PodId) -> Result<()> {
    let place = place(engine, id);
    if let Some(infra) = read(engine, id)?.and_then(|up| up.infra)
        && let Some(process) = infra.open()?
    {
        pidfd::send_signal(process.as_fd(), KILL)?;
        if !pidfd::wait_end(process.as_fd(), KILL_PATIENCE)? {
            let container = format!("{}-infra", id.short());
            return Err(Error::WontDie { container, seconds: KILL_PATIENCE.as_secs() });
        }
        // Where it is a child of ours it is reaped; else somebody else does that.
        drop(pidfd::try_wait(process.as_fd()));
    }
    engine.pod_sandboxes().tear_down(id.as_str())?;
    for name in files::list_names(&place)? {
        let path = place.join(name);
        if is_namespace(&path) || (path.is_dir() && is_mount(&path)) {
            detach(&path)?;
        }
    }
    Ok(files::remove_tree(&place)?)
}

/// Takes a pod down where none of its containers runs. The caller holds the pod's lock. Tells whether it is down.
pub(super) fn lower_if_idle(engine: &Engine, id: &PodId) -> Result<bool> {
    if has_running_members(&members(engine, id)?) {
        return Ok(false);
    }
    lower(engine, id)?;
    Ok(true)
}

/// Opens the namespaces that a container has of its pod, whose start makes them where it is the first. The container's place in ROOT is
/// taken already: so who takes the pod down sees that it runs, or has done so before.
///
/// # Errors
/// [`super::PodError::Gone`]; what networks and the kernel say.
pub(crate) fn open_namespaces(engine: &Engine, container: &ContainerRecord) -> Result<Vec<HeldNamespace>> {
    let Some(membership) = &container.pod else { return Ok(Vec::new()) };
    let missing = || gone(container, &membership.id);
    let lock = engine.store.lock_pod(&membership.id)?.ok_or_else(missing)?;
    let pod = record(engine, &membership.id)?.ok_or_else(missing)?;
    let Some(up) = ensure_up(engine, &pod, &lock)? else { return Ok(Vec::new()) };
    if membership.joins.contains(&NamespaceKind::Network) {
        name_in_hosts(engine, &pod, &container.name);
    }
    membership.joins.iter().map(|kind| open_one(engine, &pod, &up, *kind)).collect()
}

fn open_one(engine: &Engine, pod: &PodRecord, up: &Up, kind: NamespaceKind) -> Result<HeldNamespace> {
    let place = place(engine, &pod.id);
    if kind == NamespaceKind::Pid {
        let lost = || Error::from(PodError::InfraLost { pod: pod.name.to_string() });
        let infra = up.infra.as_ref().ok_or_else(lost)?;
        let namespace = open(&PathBuf::from(format!("/proc/{}/ns/pid", infra.pid)))?;
        // Looked at after it was opened: the number is no other process's as long as it is this one that lives.
        return if infra.is_alive()? { Ok(HeldNamespace::of(kind, namespace, None)) } else { Err(lost()) };
    }
    let shm = match kind {
        NamespaceKind::Ipc => Some(open_tree_clone(&place.join("shm"), false)?),
        _ => None,
    };
    Ok(HeldNamespace::of(kind, open(&place.join(kind.name()))?, shm))
}

fn open(path: &Path) -> Result<OwnedFd> {
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    Ok(opened.map_err(SysError::at("open", || path.display().to_string()))?)
}

/// Lets the containers of a pod find each other by name: all of them are at the loopback. They may write to that file themselves, so
/// whatever is in it keeps none of them from its start.
fn name_in_hosts(engine: &Engine, pod: &PodRecord, name: &ContainerName) {
    let path = engine.store.pod_dir(&pod.id).join("hosts");
    if let Err(error) = add_to_hosts(&path, name) {
        tracing::warn!(container = %name, pod = %pod.name, %error, "/etc/hosts: the others of its pod do not find it by its name");
    }
}

fn add_to_hosts(path: &Path, name: &ContainerName) -> io::Result<()> {
    let mut file = match File::options().read(true).append(true).open(path) {
        Ok(file) => file,
        // With --no-hosts there is none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    (&file).take(HOSTS_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > HOSTS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {HOSTS_MAX} bytes")));
    }
    let text = String::from_utf8_lossy(&bytes);
    if text.lines().any(|line| line.split_whitespace().skip(1).any(|word| word == name.as_str())) {
        return Ok(());
    }
    // Where the last line has not ended the name would be its.
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    file.write_all(format!("{end}127.0.0.1\t{name}\n").as_bytes())
}

/// Stops a pod whose last container has ended, where that is its exit policy. The container's own lock is not held.
pub(crate) fn member_ended(engine: &Engine, container: &ContainerRecord) -> Result<()> {
    let Some(membership) = &container.pod else { return Ok(()) };
    let Some(_lock) = engine.store.lock_pod(&membership.id)? else { return Ok(()) };
    match record(engine, &membership.id)? {
        Some(pod) if pod.exit_policy == ExitPolicy::Stop => lower_if_idle(engine, &pod.id).map(drop),
        _ => Ok(()),
    }
}

/// Takes down what is left of pods that are gone, and of those whose exit policy is to stop and whose last monitor was killed; gives their
/// ids. Those that somebody is at work on stay, and so do those of other stores that share ROOT.
pub(crate) fn sweep(engine: &Engine, dry_run: bool) -> Result<Vec<PodId>> {
    let mut swept = Vec::new();
    for name in files::list_names(&engine.shared_dir())? {
        let Ok(id) = name.parse::<PodId>() else { continue };
        if read(engine, &id)?.is_some_and(|up| up.store != engine.store.root()) {
            continue;
        }
        let lock = if engine.store.is_read_only() { None } else { engine.store.try_lock_pod(&id)? };
        let is_gone = !engine.store.pod_dir(&id).exists();
        if !is_gone && lock.is_none() {
            continue;
        }
        let is_idle = || -> Result<bool> {
            // One that cannot be read stays.
            let policy = record(engine, &id).ok().flatten().map(|pod| pod.exit_policy);
            Ok(policy == Some(ExitPolicy::Stop) && !has_running_members(&members(engine, &id)?))
        };
        if !is_gone && !is_idle()? {
            continue;
        }
        if !dry_run {
            lower(engine, &id)?;
        }
        swept.push(id);
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{engine, pod};
    use super::*;

    #[test]
    fn what_a_killed_maker_has_left_is_not_up_and_goes() {
        let (_dir, engine) = engine();
        let web = pod(&engine, "web");
        assert!(up(&engine, &web.id).unwrap().is_none() && !was_started(&engine, &web.id));
        files::ensure_directory(&place(&engine, &web.id)).unwrap();
        let made = Up {
            store: engine.store().root().to_owned(),
            boot_id: identity::boot_id().unwrap().to_owned(),
            started: None,
            infra: None,
        };
        write(&engine, &web.id, &made).unwrap();
        assert!(up(&engine, &web.id).unwrap().is_none());
        let whole = Up { started: Some(now()), ..made.clone() };
        write(&engine, &web.id, &whole).unwrap();
        assert_eq!(up(&engine, &web.id).unwrap(), Some(whole.clone()));
        // Its namespaces are not there, whatever it says.
        assert!(!all_are_mounted(&engine, &web));
        for lost in [
            Up { boot_id: "another".into(), ..whole.clone() },
            Up { infra: Some(ProcessRecord { start_time: 1, ..ProcessRecord::of_caller().unwrap() }), ..whole.clone() },
        ] {
            write(&engine, &web.id, &lost).unwrap();
            assert!(up(&engine, &web.id).unwrap().is_none());
        }
        fs::write(state_path(&engine, &web.id), "{").unwrap();
        assert!(up(&engine, &web.id).unwrap().is_none());
        lower(&engine, &web.id).unwrap();
        assert!(!place(&engine, &web.id).exists());
    }

    #[test]
    fn a_sweep_takes_what_nobody_has_and_nothing_of_another_store() {
        let (_dir, engine) = engine();
        let web = pod(&engine, "web");
        let (lost, others) = (PodId::random(), PodId::random());
        let up = |store: &Path| Up { store: store.into(), boot_id: "x".into(), started: None, infra: None };
        for (id, store) in
            [(&web.id, engine.store().root()), (&lost, engine.store().root()), (&others, Path::new("/other"))]
        {
            files::ensure_directory(&place(&engine, id)).unwrap();
            write(&engine, id, &up(store)).unwrap();
        }
        assert_eq!(sweep(&engine, true).unwrap(), std::slice::from_ref(&lost));
        assert!(place(&engine, &lost).exists());
        assert_eq!(sweep(&engine, false).unwrap(), std::slice::from_ref(&lost));
        assert!(
            !place(&engine, &lost).exists() && place(&engine, &others).exists() && place(&engine, &web.id).exists()
        );
    }

    #[test]
    fn containers_are_named_once_in_the_hosts_of_their_pod() {
        let (_dir, engine) = engine();
        let web = pod(&engine, "web");
        let path = engine.store().pod_dir(&web.id).join("hosts");
        for name in ["db", "db", "web", "d"] {
            name_in_hosts(&engine, &web, &name.parse().unwrap());
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("127.0.0.1\tdb\n127.0.0.1\td\n"), "{text}");
        fs::remove_file(&path).unwrap();
        name_in_hosts(&engine, &web, &"db".parse().unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn whatever_a_container_writes_to_hosts_the_next_one_starts() {
        let dir = tempfile::tempdir().unwrap();
        let (path, name) = (dir.path().join("hosts"), "db".parse().unwrap());
        // Neither text nor an end of the line.
        fs::write(&path, b"# caf\xe9\n10.0.0.1\tother").unwrap();
        add_to_hosts(&path, &name).unwrap();
        add_to_hosts(&path, &name).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"# caf\xe9\n10.0.0.1\tother\n127.0.0.1\tdb\n");
        // More than anybody can read.
        File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(add_to_hosts(&path, &name).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
