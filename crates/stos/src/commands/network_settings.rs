// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `inspect` says of the network of a container or a pod, under podman's names.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use stos_engine::container::ContainerRecord;
use stos_engine::namespaces::NamespaceKind;
use stos_engine::networking::Networking;
use stos_engine::pods::{self, PodRecord};
use stos_engine::{Engine, Network};
use stos_network::netavark::NetworkStatus;
use stos_network::ports::{ContainerPorts, PortMapping};
use stos_network::sandbox::Sandboxes;

use crate::failure::Failure;

/// Gives `NetworkSettings`: with a pod's network the pod's.
pub fn settings(engine: &Engine, record: &ContainerRecord) -> Result<Value, Failure> {
    let exposed = &record.networking.exposed;
    if let Some(pod) = pod_with_network(engine, record) {
        return pod_settings(engine, &pod, exposed);
    }
    let sandboxes = (record.network == Network::Bridge).then(|| engine.sandboxes());
    of(sandboxes.as_ref(), record.id.as_str(), record.id.short(), &record.networking, exposed)
}

/// Gives the same of a pod.
pub fn of_pod(engine: &Engine, pod: &PodRecord) -> Result<Value, Failure> {
    pod_settings(engine, pod, &[])
}

/// Gives the pod whose network a container has. One that cannot be read says nothing.
pub fn pod_with_network(engine: &Engine, record: &ContainerRecord) -> Option<PodRecord> {
    record.pod.as_ref().filter(|pod| pod.joins.contains(&NamespaceKind::Network))?;
    pods::of_container(engine, record).ok().flatten()
}

/// Gives the host's ports that lead into a container, or into its pod.
pub fn published(engine: &Engine, record: &ContainerRecord) -> Vec<PortMapping> {
    match pod_with_network(engine, record) {
        Some(pod) => pod.networking.ports,
        None => record.networking.ports.clone(),
    }
}

fn pod_settings(engine: &Engine, pod: &PodRecord, exposed: &[ContainerPorts]) -> Result<Value, Failure> {
    of(Some(&engine.pod_sandboxes()), pod.id.as_str(), pod.id.short(), &pod.networking, exposed)
}

/// Of what is recorded, and of what there is now where there can be anything.
fn of(
    sandboxes: Option<&Sandboxes>,
    id: &str,
    short_id: &str,
    networking: &Networking,
    exposed: &[ContainerPorts],
) -> Result<Value, Failure> {
    let read = |sandboxes: &Sandboxes| sandboxes.read(id).map_err(stos_engine::Error::from);
    let sandbox = sandboxes.map(read).transpose()?.flatten();
    let mut networks = Map::new();
    for part in &networking.networks {
        let now = sandbox.as_ref().and_then(|sandbox| Some((sandbox, sandbox.status.get(&part.network)?)));
        let mut endpoint = endpoint(now.map(|(_, status)| status));
        let id =
            now.and_then(|(sandbox, _)| sandbox.options.network_info.get(&part.network)).map(|info| info.id.as_str());
        endpoint["NetworkID"] = json!(id.unwrap_or(&part.network));
        let names = [short_id.to_owned()];
        endpoint["Aliases"] = part.connection.aliases.iter().chain(&names).cloned().collect();
        networks.insert(part.network.clone(), endpoint);
    }
    // As podman has it: of several networks none is the container's.
    let only = networks.values().next().filter(|_| networks.len() == 1).cloned();
    let mut settings = only.unwrap_or_else(|| endpoint(None));
    if let Some(own) = settings.as_object_mut() {
        own.retain(|key, _| !["NetworkID", "Aliases"].contains(&key.as_str()));
    }
    settings["Ports"] = ports(exposed, &networking.ports);
    settings["Networks"] = networks.into();
    let namespace = sandboxes.filter(|_| sandbox.is_some()).map(|sandboxes| sandboxes.namespace(id));
    settings["SandboxKey"] = namespace.map_or_else(|| json!(""), |path| json!(path));
    Ok(settings)
}

/// What a container has in one network.
fn endpoint(status: Option<&NetworkStatus>) -> Value {
    let addresses: Vec<_> = status.into_iter().flat_map(NetworkStatus::addresses).collect();
    let of = |is_ipv4: bool| {
        let found = addresses.iter().find_map(|address| {
            let (own, bits) = address.parts()?;
            (own.is_ipv4() == is_ipv4).then_some((own.to_string(), bits, address.gateway))
        });
        let (own, bits, gateway) = found.unwrap_or_default();
        (own, bits, gateway.as_ref().map(IpAddr::to_string).unwrap_or_default())
    };
    let (v4, v6) = (of(true), of(false));
    let mac =
        status.and_then(|status| status.interfaces.as_ref()?.values().next()).map(|interface| &interface.mac_address);
    json!({
        "IPAddress": v4.0, "IPPrefixLen": v4.1, "Gateway": v4.2,
        "GlobalIPv6Address": v6.0, "GlobalIPv6PrefixLen": v6.1, "IPv6Gateway": v6.2,
        "MacAddress": mac.map_or("", String::as_str),
    })
}

/// Each port that a container has, with the host's ports that lead there; `null` for none.
fn ports(exposed: &[ContainerPorts], published: &[PortMapping]) -> Value {
    let mut ports = Map::new();
    for exposed in exposed {
        for port in exposed.each() {
            ports.insert(format!("{port}/{}", exposed.protocol.name()), Value::Null);
        }
    }
    for mapping in published {
        for (own, host) in mapping.pairs() {
            let places = ports.entry(format!("{own}/{}", mapping.protocol.name())).or_insert(Value::Null);
            let place = json!({"HostIp": mapping.host_address(), "HostPort": host.to_string()});
            match places {
                Value::Array(places) => places.push(place),
                none => *none = json!([place]),
            }
        }
    }
    ports.into()
}
