// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Networks of containers that are there: who uses which, connecting and disconnecting, removing networks.

use std::collections::BTreeSet;

use stos_network::Error as NetworkError;
use stos_network::config::{DEFAULT_NETWORK, NetworkConfig};
use stos_network::sandbox::Sandbox;
use stos_store::files::{self, Durability};

use super::files::write_again;
use super::{NetworkOption, OwnFiles, named, names_of, part};
use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, list, record, state};
use crate::error::{Error, Result};
use crate::lifecycle::{delete, with_life_lock};
use crate::namespaces::seen_hostname;
use crate::options::Network;
use crate::pods::{self, PodRecord};

/// Tells whether a network is the one that is always there.
pub fn is_default(network: &NetworkConfig) -> bool {
    network.name == DEFAULT_NETWORK
}

/// Lists the containers of this store that have a part in a network, whatever they do.
///
/// # Errors
/// Where a container's record cannot be read: what it uses is unknown.
pub fn users(engine: &Engine, network: &str) -> Result<Vec<ContainerRecord>> {
    let mut users = Vec::new();
    for (_, record) in list(engine)? {
        let record = record?;
        if record.networking.has_part_in(network) {
            users.push(record);
        }
    }
    Ok(users)
}

/// Removes a network, and gives its name. Where containers or pods use it that is refused, or with `force` they are deleted first, as podman
/// does.
///
/// # Errors
/// [`NetworkError::InUse`], [`NetworkError::NoSuchNetwork`], [`NetworkError::DefaultNetwork`].
pub fn remove(engine: &Engine, query: &str, force: bool) -> Result<String> {
    let directory = engine.sandboxes().directory().clone();
    let network = directory.find(query)?;
    if is_default(&network) {
        return Err(NetworkError::DefaultNetwork(network.name).into());
    }
    let users = users(engine, &network.name)?;
    let pods = pods::users_of_network(engine, &network.name)?;
    if !(force || users.is_empty() && pods.is_empty()) {
        let names = users.iter().map(|user| &user.name).chain(pods.iter().map(|pod| &pod.name));
        let containers = names.map(ToString::to_string).collect();
        return Err(NetworkError::InUse { network: network.name, containers }.into());
    }
    users.iter().try_for_each(|user| delete(engine, user, true))?;
    pods.iter().try_for_each(|pod: &PodRecord| pods::remove(engine, pod, true, None))?;
    engine.sandboxes().remove_network(&network.name)?;
    Ok(network.name)
}

/// Removes the networks that no container and no pod uses and that `fits` says may go, and gives their names.
///
/// # Errors
/// Where it is not known who uses which, or a file cannot be removed.
pub fn prune(engine: &Engine, fits: impl Fn(&NetworkConfig) -> bool) -> Result<Vec<String>> {
    let directory = engine.sandboxes().directory().clone();
    let mut used = BTreeSet::new();
    for (_, record) in list(engine)? {
        used.extend(record?.networking.networks.into_iter().map(|part| part.network));
    }
    for (_, pod) in pods::list(engine)? {
        used.extend(pod?.networking.networks.into_iter().map(|part| part.network));
    }
    let mut removed = Vec::new();
    for network in directory.load()?.into_values() {
        if !is_default(&network) && !used.contains(&network.name) && fits(&network) {
            engine.sandboxes().remove_network(&network.name)?;
            removed.push(network.name);
        }
    }
    Ok(removed)
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
        if parts.iter().any(|other| other.network == added.network) {
            let (container, network) = (current.name.to_string(), added.network);
            return Err(NetworkError::Connected { container, network }.into());
        }
        let added = named(added, parts, &[])?;
        changed.networking.networks.push(added.clone());
        let act = move |engine: &Engine| {
            let sandboxes = engine.sandboxes();
            Ok(sandboxes.connect(container.id.as_str(), &added.network, &names_of(&added, container.id.short()))?)
        };
        Ok((changed, Box::new(act) as Act<'_>))
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
        if !uses(current, &name) {
            let (container, network) = (current.name.to_string(), name.clone());
            return Err(NetworkError::NotConnected { container, network }.into());
        }
        let mut changed = current.clone();
        changed.networking.networks.retain(|part| part.network != name);
        let act = |engine: &Engine| Ok(engine.sandboxes().disconnect(container.id.as_str(), &name)?);
        Ok((changed, Box::new(act) as Act<'_>))
    })
}

fn uses(container: &ContainerRecord, network: &str) -> bool {
    container.networking.networks.iter().any(|part| part.network == network)
}

/// What is done to the networks of a container that runs.
type Act<'a> = Box<dyn FnOnce(&Engine) -> Result<Sandbox> + 'a>;

/// Changes the record of a container, and where it runs what it has now, under its lock. First what it has: of that a failure leaves nothing
/// behind, and the record stays as it was.
fn change<'a>(
    engine: &Engine,
    container: &ContainerRecord,
    decide: impl FnOnce(&ContainerRecord) -> Result<(ContainerRecord, Act<'a>)>,
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
        let (changed, act) = decide(&current)?;
        if let ContainerState::Running(_) = state(engine, &container.id)? {
            let sandbox = act(engine)?;
            let hostname = seen_hostname(engine, &current)?;
            let own = OwnFiles {
                hostname: &hostname,
                network: changed.network,
                networking: &changed.networking,
                now: Some((&sandbox, changed.name.as_str())),
            };
            write_again(&engine.store.container_dir(&container.id), own)?;
        }
        let durability = if current.auto_remove { Durability::Volatile } else { Durability::Durable };
        let path = engine.record_path(&current.id);
        Ok(files::replace(&path, &engine.store.staging_area(), &files::to_json(&changed), durability)?)
    })
}
