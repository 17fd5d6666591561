// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Networks of containers that are there: who uses which, connecting and disconnecting, removing networks.

use std::collections::BTreeSet;
use std::time::Duration;

use stos_network::Error as NetworkError;
use stos_network::config::{DEFAULT_NETWORK, NetworkConfig};
use stos_network::lock::NetworkLock;
use stos_network::sandbox::Sandbox;

use super::files::tell_files;
use super::{NetworkOption, NetworkPart, named, names_of, part};
use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, list, record, state};
use crate::error::{Error, Result};
use crate::lifecycle::{delete, stop, with_life_lock};
use crate::options::Network;
use crate::pods::{self, Attempts, PodRecord};

/// Tells whether a network is the one that is always there.
pub fn is_default(network: &NetworkConfig) -> bool {
    network.name == DEFAULT_NETWORK
}

/// Lists the containers of this store that have a part in a network, whatever they do: for those who only look. One whose record cannot be
/// read is told in the log.
///
/// # Errors
/// Where the store cannot be read.
pub fn users(engine: &Engine, network: &str) -> Result<Vec<ContainerRecord>> {
    let mut users = Vec::new();
    for (id, record) in list(engine)? {
        match record {
            Ok(record) if record.networking.has_part_in(network) => users.push(record),
            Ok(_) => {}
            Err(error) => tracing::warn!(container = %id, %error, "which networks it uses is not known"),
        }
    }
    Ok(users)
}

/// Whoever has a part in any network.
struct Users {
    containers: Vec<ContainerRecord>,
    pods: Vec<PodRecord>,
}

impl Users {
    /// Finds them, for who is about to remove a network: who holds the lock knows that no other comes.
    ///
    /// # Errors
    /// Where a record cannot be read: what it uses is unknown.
    fn find(engine: &Engine, _lock: &NetworkLock) -> Result<Self> {
        // No `list`: what that removes is taken down under the same lock.
        let ids = engine.store.containers()?;
        let containers = ids.iter().filter_map(|id| record(engine, id).transpose()).collect::<Result<Vec<_>>>()?;
        let pods = pods::list(engine)?.into_iter().map(|(_, pod)| pod).collect::<Result<Vec<_>>>()?;
        Ok(Self { containers, pods })
    }

    fn of(mut self, network: &str) -> Self {
        self.containers.retain(|user| user.networking.has_part_in(network));
        self.pods.retain(|user| user.networking.has_part_in(network));
        self
    }

    fn networks(&self) -> BTreeSet<String> {
        let networkings =
            self.containers.iter().map(|user| &user.networking).chain(self.pods.iter().map(|user| &user.networking));
        networkings.flat_map(|networking| &networking.networks).map(|part| part.network.clone()).collect()
    }

    fn names(&self) -> Vec<String> {
        let names = self.containers.iter().map(|user| &user.name).chain(self.pods.iter().map(|pod| &pod.name));
        names.map(ToString::to_string).collect()
    }

    /// Deletes them: containers are asked to end first.
    fn delete(self, engine: &Engine) -> Result<()> {
        for user in &self.containers {
            match stop(engine, user, PATIENCE).and_then(|_| delete(engine, user, true)) {
                // It has gone with its process.
                Err(Error::NoSuchContainer(_)) => {}
                other => other?,
            }
        }
        self.pods.iter().try_for_each(|pod| pods::remove(engine, pod, true, None))
    }
}

/// How long a container is given to end when it goes with its network, as with a volume.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes sure that the networks are there which a record is about to name: while this is held, nobody removes one. The default network is
/// always there.
///
/// # Errors
/// [`NetworkError::NoSuchNetwork`].
pub(crate) fn hold(engine: &Engine, parts: &[NetworkPart]) -> Result<Option<NetworkLock>> {
    let named: Vec<_> = parts.iter().map(|part| &part.network).filter(|name| *name != DEFAULT_NETWORK).collect();
    if named.is_empty() {
        return Ok(None);
    }
    let lock = NetworkLock::wait()?;
    let sandboxes = engine.sandboxes();
    for name in named {
        sandboxes.directory().named(name)?;
    }
    Ok(Some(lock))
}

/// Removes a network, and gives its name. Where containers or pods use it that is refused, or with `force` they are deleted first, as podman
/// does.
///
/// # Errors
/// [`NetworkError::InUse`], [`NetworkError::NoSuchNetwork`], [`NetworkError::DefaultNetwork`].
pub fn remove(engine: &Engine, query: &str, force: bool) -> Result<String> {
    let sandboxes = engine.sandboxes();
    let NetworkConfig { name, .. } = sandboxes.directory().find(query)?;
    if name == DEFAULT_NETWORK {
        return Err(NetworkError::DefaultNetwork(name).into());
    }
    // What should have gone with its process uses nothing.
    list(engine)?;
    loop {
        let lock = NetworkLock::wait()?;
        let users = Users::find(engine, &lock)?.of(&name);
        let names = users.names();
        if names.is_empty() {
            sandboxes.remove_network(&name, &lock)?;
            return Ok(name);
        }
        // Who goes takes it for what is to be taken down.
        drop(lock);
        if !force {
            return Err(NetworkError::InUse { network: name, containers: names }.into());
        }
        users.delete(engine)?;
    }
}

/// Removes the networks that no container and no pod uses and that `fits` says may go, and gives their names; and what could not be removed.
///
/// # Errors
/// Where it is not known who uses which: nothing is removed then.
pub fn prune(engine: &Engine, fits: impl Fn(&NetworkConfig) -> bool) -> Result<(Vec<String>, Attempts)> {
    let sandboxes = engine.sandboxes();
    list(engine)?;
    let lock = NetworkLock::wait()?;
    let used = Users::find(engine, &lock)?.networks();
    let (mut removed, mut attempts) = (Vec::new(), Attempts::default());
    for network in sandboxes.directory().load()?.into_values() {
        if !is_default(&network) && !used.contains(&network.name) && fits(&network) {
            match sandboxes.remove_network(&network.name, &lock) {
                Ok(()) => removed.push(network.name),
                Err(error) => attempts.failed.push(error.into()),
            }
        }
    }
    Ok((removed, attempts))
}

/// Connects a container to a further network: at once where it runs, and at each start from then on.
///
/// # Errors
/// [`Error::Option`] for a container that has no networks of its own; [`NetworkError::Connected`]; whatever else it is, nothing has changed then.
pub fn connect(engine: &Engine, container: &ContainerRecord, option: &NetworkOption) -> Result<()> {
    let directory = engine.sandboxes().directory().clone();
    change(engine, container, |current| {
        let mut changed = current.clone();
        let parts = &current.networking.networks;
        let added = part(&directory, option, parts)?;
        if uses(current, &added.network) {
            let (container, network) = (current.name.to_string(), added.network);
            return Err(NetworkError::Connected { container, network }.into());
        }
        let added = named(added, parts, &[])?;
        changed.networking.networks.push(added.clone());
        Ok((changed, Change::Connect(added)))
    })
}

/// Disconnects a container from a network: at once where it runs, and from then on.
///
/// # Errors
/// [`NetworkError::NotConnected`]; [`Error::Option`] for a container that has no networks of its own.
pub fn disconnect(engine: &Engine, container: &ContainerRecord, query: &str) -> Result<()> {
    // A network whose file is gone can be left all the same.
    let name = match engine.sandboxes().directory().find(query) {
        Ok(network) => network.name,
        Err(NetworkError::NoSuchNetwork(_)) if uses(container, query) => query.to_owned(),
        Err(error) => return Err(error.into()),
    };
    change(engine, container, |current| {
        // Who was killed while it connected the container has left the network there, and not in the record.
        let has = |sandbox: Sandbox| sandbox.options.networks.contains_key(&name);
        if !uses(current, &name) && !engine.sandbox(current)?.is_some_and(has) {
            let (container, network) = (current.name.to_string(), name);
            return Err(NetworkError::NotConnected { container, network }.into());
        }
        let mut changed = current.clone();
        changed.networking.networks.retain(|part| part.network != name);
        Ok((changed, Change::Disconnect(name)))
    })
}

fn uses(container: &ContainerRecord, network: &str) -> bool {
    container.networking.has_part_in(network)
}

/// What is done to the networks of a container.
enum Change {
    Connect(NetworkPart),
    Disconnect(String),
}

/// Changes what a container has now, where it runs, and then its record, under its lock.
///
/// The record alone says which networks are its own: where somebody is killed between the two, the same command or its opposite makes
/// both agree again. A connection that fails after the first is taken back.
fn change(
    engine: &Engine,
    container: &ContainerRecord,
    decide: impl FnOnce(&ContainerRecord) -> Result<(ContainerRecord, Change)>,
) -> Result<()> {
    with_life_lock(engine, &container.id, |lock| {
        let found = if lock.is_some() { record(engine, &container.id)? } else { None };
        let current = found.ok_or_else(|| Error::NoSuchContainer(container.name.to_string()))?;
        if current.network != Network::Bridge {
            let reason = "it has no networks of its own: it was created with --network none, host, container or ns, \
                          or in a pod";
            return Err(Error::Option {
                option: "container",
                value: current.name.to_string(),
                reason: reason.to_owned(),
            });
        }
        let (changed, change) = decide(&current)?;
        let runs = matches!(state(engine, &container.id)?, ContainerState::Running(_));
        let (sandboxes, id) = (engine.sandboxes(), container.id.as_str());
        let sandbox = match &change {
            _ if !runs => None,
            Change::Connect(part) => {
                Some(sandboxes.connect(id, &part.network, &names_of(part, container.id.short()))?)
            }
            Change::Disconnect(name) => Some(sandboxes.disconnect(id, name)?),
        };
        let recorded = sandbox
            .map_or(Ok(()), |sandbox| tell_files(engine, &changed, &sandbox))
            .and_then(|()| match &change {
                Change::Connect(part) => hold(engine, std::slice::from_ref(part)),
                Change::Disconnect(_) => Ok(None),
            })
            .and_then(|_held| engine.replace_record(&changed));
        if let (Err(_), true, Change::Connect(part)) = (&recorded, runs, &change) {
            let undone = sandboxes.disconnect(id, &part.network).map_err(Error::from);
            if let Err(error) = undone.and_then(|sandbox| tell_files(engine, &current, &sandbox)) {
                tracing::warn!(container = %current.name, network = %part.network, %error, "it stays connected until it ends");
            }
        }
        recorded
    })
}
