// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The networks of one container while it runs.
//!
//! ```text
//! ROOT/networks/ID/
//!   ns               its network namespace, mounted here; it outlives the container's processes, so that nothing goes unseen
//!   networks.json    what netavark was asked for: written before it is, so whatever is left can be taken down
//!   status.json      what it has made
//!   request          netavark's input, locked (flock(2)) by each netavark for as long as it runs: one that has lost its caller is waited for
//! ```
//!
//! There is such a directory exactly as long as there may be an interface, an address, a rule or a name of the container. All is made and
//! taken down under the [`NetworkLock`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use stos_store::files::{self, Durability};
use stos_sys::interface::keep_hardware_address;
use stos_sys::mount::{attach, detach, open_tree_clone};
use stos_sys::process::clone::unshare;
use stos_sys::rooted::filesystem_magic;

use crate::directory::NetworkDirectory;
use crate::error::{Error, Result};
use crate::host;
use crate::leases::{Holder, Leases};
use crate::lock::NetworkLock;
use crate::netavark::{Connection, Netavark, NetavarkOptions, Status, read_status};
use crate::ports::PortMapping;

/// How long who answers for names may take until it listens.
const NAMES_PATIENCE: Duration = Duration::from_secs(1);

/// The kind of filesystem that namespaces are of (`NSFS_MAGIC`, linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// What a container's networks are to be.
#[derive(Debug, Clone)]
pub struct SandboxRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its network namespace, as a path.
    pub namespace: &'a Path,
    /// Its part in each network, by the network's name.
    pub networks: &'a BTreeMap<String, Connection>,
    /// The host's ports that lead into it.
    pub ports: &'a [PortMapping],
    /// Whom its names that no container has are asked of.
    pub dns_servers: &'a [IpAddr],
}

/// What there is of a container's networks.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// What netavark was asked for, with the addresses that were given.
    pub options: NetavarkOptions,
    /// What it has made.
    pub status: Status,
}

impl Sandbox {
    /// Takes a network out of it, and gives what netavark is asked to take down; `None` where it is not there.
    fn take_out(&mut self, network: &str) -> Option<NetavarkOptions> {
        self.status.remove(network);
        let (connection, info) =
            self.options.networks.remove(network).zip(self.options.network_info.remove(network))?;
        Some(NetavarkOptions {
            networks: BTreeMap::from([(network.to_owned(), connection)]),
            network_info: BTreeMap::from([(network.to_owned(), info)]),
            ..self.options.clone()
        })
    }
}

/// The networks of all containers of a ROOT.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    /// The networks' configurations.
    directory: NetworkDirectory,
    /// ROOT/networks.
    root: PathBuf,
    /// netavark's, and where addresses are given.
    run_dir: PathBuf,
    /// netavark, where it is not where it is looked for.
    netavark: Option<PathBuf>,
}

impl Sandboxes {
    /// Those below `root`.
    pub fn new(directory: NetworkDirectory, root: PathBuf, run_dir: PathBuf, netavark: Option<PathBuf>) -> Self {
        Self { directory, root, run_dir, netavark }
    }

    /// The same networks, for others than containers: what there is of theirs lies below `root`.
    #[must_use]
    pub fn below(self, root: PathBuf) -> Self {
        Self { root, ..self }
    }

    /// Gives the networks' configurations.
    pub fn directory(&self) -> &NetworkDirectory {
        &self.directory
    }

    /// Finds netavark.
    ///
    /// # Errors
    /// [`Error::NoNetavark`].
    pub fn netavark(&self) -> Result<Netavark> {
        Netavark::find(self.netavark.as_deref())
    }

    /// Removes a network, and what is remembered of its addresses. The lock is held since it is known that nobody uses it.
    ///
    /// # Errors
    /// [`Error::DefaultNetwork`]; what the filesystem says.
    pub fn remove_network(&self, name: &str, lock: &NetworkLock) -> Result<()> {
        self.directory.remove(name, lock)?;
        Leases::forget(&self.run_dir, name)
    }

    /// Lists the ids of the containers that have networks now.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn ids(&self) -> Result<Vec<String>> {
        Ok(files::list_names(&self.root)?)
    }

    /// Gives the path of a container's network namespace, which is there while it runs.
    pub fn namespace(&self, id: &str) -> PathBuf {
        self.place(id).join("ns")
    }

    fn place(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Tells whether a container has networks now, or may have.
    pub fn exists(&self, id: &str) -> bool {
        self.place(id).symlink_metadata().is_ok()
    }

    /// Reads what a container has now; `None` where it has no networks, or netavark has not answered yet.
    ///
    /// # Errors
    /// Where a record is damaged.
    pub fn read(&self, id: &str) -> Result<Option<Sandbox>> {
        let place = self.place(id);
        let (options, status) =
            (files::read_json(&place.join("networks.json"))?, files::read_json(&place.join("status.json"))?);
        Ok(options.zip(status).map(|(options, status)| Sandbox { options, status }))
    }

    /// Connects a container's network namespace to its networks.
    ///
    /// # Errors
    /// Whatever it is, nothing is left of it then.
    pub fn set_up(&self, request: &SandboxRequest<'_>) -> Result<Sandbox> {
        let netavark = self.netavark()?;
        let lock = NetworkLock::wait()?;
        let place = self.place(request.id);
        if self.exists(request.id) {
            // Of a life whose end nobody saw.
            self.take_down(request.id, &lock)?;
        }
        files::ensure_directory(&place)?;
        let made = (|| {
            let namespace = place.join("ns");
            drop(files::create_new(&namespace)?);
            attach(open_tree_clone(request.namespace, false)?.as_fd(), &namespace)?;
            let (networks, network_info) = self.give_addresses(request.id, request.networks, &lock)?;
            let options = NetavarkOptions {
                container_id: request.id.to_owned(),
                container_name: request.name.to_owned(),
                port_mappings: request.ports.to_vec(),
                dns_servers: request.dns_servers.to_vec(),
                networks,
                network_info,
            };
            if !netavark.knows_names() && options.network_info.values().any(|network| network.dns_enabled) {
                tracing::warn!("aardvark-dns is not installed: containers do not find each other by name");
            }
            self.write(&place, "networks.json", &options)?;
            let status = self.ask(&netavark, "setup", request.id, &options)?;
            settle(&netavark, &options);
            let status = read_status(&status, &options)?;
            self.write(&place, "status.json", &status)?;
            Ok(Sandbox { options, status })
        })();
        if made.is_err()
            && let Err(left) = self.take_down(request.id, &lock)
        {
            tracing::warn!(container = %request.id, error = %left, "what was made of its networks stays");
        }
        made
    }

    /// Chooses the addresses of a container, and reads its networks.
    fn give_addresses(
        &self,
        id: &str,
        wanted: &BTreeMap<String, Connection>,
        lock: &NetworkLock,
    ) -> Result<(BTreeMap<String, Connection>, BTreeMap<String, crate::config::NetworkConfig>)> {
        let holder = Holder { container: id.to_owned(), sandbox: self.place(id) };
        let (mut networks, mut infos) = (BTreeMap::new(), BTreeMap::new());
        let mut give = || {
            for (name, connection) in wanted {
                let network = self.directory.named(name)?;
                let static_ips = Leases::open(&self.run_dir, &network, lock).give(&holder, &connection.static_ips)?;
                networks.insert(name.clone(), Connection { static_ips, ..connection.clone() });
                infos.insert(name.clone(), network);
            }
            Ok(())
        };
        let given = give();
        if given.is_err() {
            for network in infos.values() {
                Leases::open(&self.run_dir, network, lock).free(id)?;
            }
        }
        given.map(|()| (networks, infos))
    }

    fn write<T: serde::Serialize>(&self, place: &Path, name: &str, value: &T) -> Result<()> {
        // A reboot takes the networks too.
        Ok(files::replace(&place.join(name), place, &files::to_json(value), Durability::Volatile)?)
    }

    /// Asks netavark, when no other one is at work on this container's networks any more.
    fn ask(&self, netavark: &Netavark, action: &'static str, id: &str, options: &NetavarkOptions) -> Result<Vec<u8>> {
        let path = self.place(id).join("request");
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(Error::io("open", &path))?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("lock", &path)(errno)),
            }
        }
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&files::to_json(options)));
        written.and_then(|()| file.rewind()).map_err(Error::io("write", &path))?;
        fs::create_dir_all(&self.run_dir).map_err(Error::io("make", &self.run_dir))?;
        let networks = || options.networks.keys().cloned().collect::<Vec<_>>().join(", ");
        netavark.run(action, &self.run_dir, &self.namespace(id), file, networks)
    }

    /// Takes down a container's networks: its interfaces, addresses, rules and names, and its namespace. `false` where it has none.
    ///
    /// # Errors
    /// What the filesystem says. What netavark cannot take down is warned of: the rest goes all the same, as with podman.
    pub fn tear_down(&self, id: &str) -> Result<bool> {
        if !self.exists(id) {
            return Ok(false);
        }
        self.take_down(id, &NetworkLock::wait()?)?;
        Ok(true)
    }

    fn take_down(&self, id: &str, lock: &NetworkLock) -> Result<()> {
        let place = self.place(id);
        let namespace = place.join("ns");
        let options = match files::read_json::<NetavarkOptions>(&place.join("networks.json")) {
            Ok(options) => options,
            Err(error) => {
                tracing::warn!(container = %id, %error, "what networks it has is unknown: rules of theirs may stay");
                None
            }
        };
        if let Some(options) = options {
            let taken = self.netavark().and_then(|netavark| {
                if replace_lost_namespace(&namespace)? {
                    // What it does not find there it leaves on the host's side, too: so it finds all of it again first.
                    self.ask(&netavark, "setup", id, &options)?;
                }
                self.ask(&netavark, "teardown", id, &options)
            });
            if let Err(error) = taken {
                tracing::warn!(container = %id, %error, "netavark has left something");
            }
            for network in options.network_info.values() {
                Leases::open(&self.run_dir, network, lock).free(id)?;
            }
        }
        if is_namespace(&namespace) {
            detach(&namespace)?;
        }
        Ok(files::remove_tree(&place)?)
    }

    /// Connects a container that runs to a further network. What somebody who was killed has left of that is taken down first.
    ///
    /// # Errors
    /// [`Error::NotConnected`] where it has no networks; whatever else it is, it is connected as before then, but not to this one.
    pub fn connect(&self, id: &str, network: &str, connection: &Connection) -> Result<Sandbox> {
        let netavark = self.netavark()?;
        let lock = NetworkLock::wait()?;
        let mut now = self.read(id)?.ok_or_else(|| not_connected(id, network))?;
        if let Some(left) = now.take_out(network) {
            self.take_one_down(id, &netavark, &left, &now, &lock)?;
        }
        let wanted = BTreeMap::from([(network.to_owned(), connection.clone())]);
        let (networks, network_info) = self.give_addresses(id, &wanted, &lock)?;
        let before = now.clone();
        now.options.networks.extend(networks.clone());
        now.options.network_info.extend(network_info.clone());
        let one = NetavarkOptions { networks, network_info, ..now.options.clone() };
        let place = self.place(id);
        let made = (|| {
            self.write(&place, "networks.json", &now.options)?;
            now.status.extend(read_status(&self.ask(&netavark, "setup", id, &one)?, &one)?);
            settle(&netavark, &one);
            self.write(&place, "status.json", &now.status)
        })();
        if let Err(error) = made {
            self.take_one_down(id, &netavark, &one, &before, &lock)?;
            return Err(error);
        }
        Ok(now)
    }

    /// Disconnects a container that runs from a network. One that it is not connected to is none the less gone.
    ///
    /// # Errors
    /// [`Error::NotConnected`] where it has no networks.
    pub fn disconnect(&self, id: &str, network: &str) -> Result<Sandbox> {
        let netavark = self.netavark()?;
        let lock = NetworkLock::wait()?;
        let mut now = self.read(id)?.ok_or_else(|| not_connected(id, network))?;
        if let Some(one) = now.take_out(network) {
            self.take_one_down(id, &netavark, &one, &now, &lock)?;
        }
        Ok(now)
    }

    /// Takes down `one` network of a container; `rest` is what it has then.
    fn take_one_down(
        &self,
        id: &str,
        netavark: &Netavark,
        one: &NetavarkOptions,
        rest: &Sandbox,
        lock: &NetworkLock,
    ) -> Result<()> {
        if let Err(error) = self.ask(netavark, "teardown", id, one) {
            tracing::warn!(container = %id, %error, "netavark has left something");
        }
        for network in one.network_info.values() {
            Leases::open(&self.run_dir, network, lock).free(id)?;
        }
        let place = self.place(id);
        self.write(&place, "networks.json", &rest.options)?;
        self.write(&place, "status.json", &rest.status)
    }
}

fn not_connected(id: &str, network: &str) -> Error {
    Error::NotConnected { container: id.to_owned(), network: network.to_owned() }
}

/// Tells whether a namespace is mounted at a path.
pub fn is_namespace(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| filesystem_magic(file.as_fd()).is_ok_and(|magic| magic == NSFS_MAGIC))
}

/// Makes sure that a network namespace is at `path`; `true` where it is a new one. Where somebody has unmounted it, or the machine went down, a new one stands in for it:
/// netavark wants one, and what is on the host's side is to go all the same.
fn replace_lost_namespace(path: &Path) -> Result<bool> {
    if is_namespace(path) {
        return Ok(false);
    }
    drop(files::create_new(path));
    let target = path.to_owned();
    let made = std::thread::spawn(move || -> Result<()> {
        const CLONE_NEWNET: i32 = 0x4000_0000;
        unshare(CLONE_NEWNET)?;
        Ok(attach(open_tree_clone(Path::new("/proc/thread-self/ns/net"), false)?.as_fd(), &target)?)
    });
    made.join().unwrap_or_else(|_| unreachable!("nothing in it panics"))?;
    Ok(true)
}

/// Completes what a netavark of before 1.5 leaves open: its bridges take another hardware address with each container that comes or goes,
/// so that those which are there do not reach their gateway for a while, nor who answers for names there; and that one may not listen yet.
fn settle(netavark: &Netavark, options: &NetavarkOptions) {
    for network in options.network_info.values().filter(|network| network.driver == "bridge") {
        if let Err(error) = keep_hardware_address(&network.network_interface) {
            tracing::warn!(network = %network.name, %error, "its bridge may change its hardware address");
        }
        if network.dns_enabled && netavark.knows_names() {
            let gateways = network.subnets.iter().filter_map(|subnet| subnet.gateway);
            for gateway in gateways.filter(|gateway| !host::listens_for_names(*gateway, NAMES_PATIENCE)) {
                tracing::warn!(network = %network.name, %gateway, "aardvark-dns does not listen yet");
            }
        }
    }
}
