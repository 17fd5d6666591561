// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Networks at a start, and their end.

use std::cell::RefCell;
use std::path::Path;

use stos_network::ports::{ReservedPorts, reserve};
use stos_network::sandbox::SandboxRequest;
use stos_runtime::launch::NotConnected;
use stos_store::ContainerId;

use super::files::tell_files;
use super::names_of;
use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::{Error, Result};
use crate::options::Network;

/// A container whose networks are made while its first process waits in its network namespace.
pub(crate) struct Connecting<'a> {
    engine: &'a Engine,
    record: &'a ContainerRecord,
    ports: ReservedPorts,
    /// Why it could not be done.
    failure: RefCell<Option<Error>>,
}

impl<'a> Connecting<'a> {
    /// Takes the host's ports of a container with networks; `None` for one without.
    ///
    /// # Errors
    /// [`stos_network::Error::PortTaken`].
    pub fn begin(engine: &'a Engine, record: &'a ContainerRecord) -> Result<Option<Self>> {
        if record.network != Network::Bridge {
            return Ok(None);
        }
        let directory = engine.sandboxes().directory().clone();
        let mut has_ipv6 = false;
        for part in &record.networking.networks {
            has_ipv6 |= directory.named(&part.network)?.ipv6_enabled;
        }
        let ports = reserve(&record.networking.ports, has_ipv6)?;
        Ok(Some(Self { engine, record, ports, failure: RefCell::new(None) }))
    }

    /// Connects the network namespace, and tells the container's files what it has become.
    pub fn connect(&self, namespace: &Path) -> std::result::Result<(), NotConnected> {
        self.try_connect(namespace).map_err(|error| {
            *self.failure.borrow_mut() = Some(error);
            NotConnected
        })
    }

    fn try_connect(&self, namespace: &Path) -> Result<()> {
        let (engine, record) = (self.engine, self.record);
        let networks = record.networking.networks.iter();
        let networks = networks.map(|part| (part.network.clone(), names_of(part, record.id.short()))).collect();
        let request = SandboxRequest {
            id: record.id.as_str(),
            name: record.name.as_str(),
            namespace,
            networks: &networks,
            ports: &record.networking.ports,
            dns_servers: &record.networking.dns.servers,
        };
        let sandbox = engine.sandboxes().set_up(&request)?;
        tell_files(engine, record, &sandbox)
    }

    /// Gives why it could not be done, where that is why a launch has failed.
    pub fn take_failure(&self) -> Option<Error> {
        self.failure.borrow_mut().take()
    }

    /// Gives the host's ports, to be held for as long as the container has them.
    pub fn into_ports(self) -> ReservedPorts {
        self.ports
    }
}

/// Takes down what a container has of networks, where it may have any: it has ended, or does not start. `network` is what its record says,
/// where that can be read.
///
/// # Errors
/// What the filesystem says.
pub(crate) fn tear_down(engine: &Engine, id: &ContainerId, network: Option<Network>) -> Result<()> {
    if network.is_none_or(|network| network == Network::Bridge) {
        engine.sandboxes().tear_down(id.as_str())?;
    }
    Ok(())
}
