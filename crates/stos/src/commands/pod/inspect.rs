// SPDX-License-Identifier: Apache-2.0 OR MIT
//! pod inspect: all that is known of pods, under podman's names.

use serde_json::{Map, Value, json};
use stos_engine::pods::{PodRecord, PodView, find, look};
use stos_engine::{Engine, Network};
use stos_network::ports::PortMapping;

use super::list::podman_state;
use crate::cli::{Global, PodInspect};
use crate::commands::images::inspect_each;
use crate::commands::network_settings;
use crate::failure::Failure;
use crate::target;

/// Prints them.
pub fn inspect(global: &Global, args: &PodInspect) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    inspect_each(global, &args.format, &args.pods, &mut |query| {
        let pod = find(&engine, query).map_err(|error| Failure::from(error).with_exit_code(125))?;
        inspect_pod(&engine, pod)
    })
}

/// All that is known of one pod.
pub fn inspect_pod(engine: &Engine, pod: PodRecord) -> Result<Value, Failure> {
    document(engine, &look(engine, pod)?)
}

fn document(engine: &Engine, view: &PodView) -> Result<Value, Failure> {
    let (pod, networking) = (&view.record, &view.record.networking);
    let containers = view.members.iter().map(|member| {
        json!({"Id": member.record.id, "Name": member.record.name, "State": podman_state(member.state.status())})
    });
    let networks: Vec<_> = networking.networks.iter().map(|part| &part.network).collect();
    let first = networking.networks.first().map(|part| &part.connection);
    let hosts = networking.add_hosts.iter().map(|entry| {
        let address = entry.address.map_or_else(|| "host-gateway".to_owned(), |address| address.to_string());
        format!("{}:{address}", entry.names.join(";"))
    });
    let infra = view.up.as_ref().and_then(|up| up.infra.as_ref());
    Ok(json!({
        "Id": pod.id,
        "Name": pod.name,
        "Namespace": "",
        "Created": pod.created,
        "CreateCommand": pod.command,
        "ExitPolicy": pod.exit_policy.name(),
        "State": view.status().name(),
        "Hostname": pod.hostname,
        "Labels": pod.labels,
        "CreateInfra": pod.infra,
        // Nothing of the pod is a container but its containers; the process is there where one must hold something.
        "InfraContainerID": "",
        "InfraPid": infra.map_or(0, |process| process.pid),
        "InfraConfig": {
            "HostNetwork": pod.network == Network::Host,
            "PortBindings": port_bindings(&networking.ports),
            "StaticIP": first.and_then(|part| part.static_ips.first()).map_or_else(String::new, ToString::to_string),
            "StaticMAC": first.and_then(|part| part.static_mac.as_ref()).map_or_else(String::new, ToString::to_string),
            "NoManageResolvConf": networking.dns.of_image,
            "DNSServer": networking.dns.servers,
            "DNSSearch": networking.dns.searches,
            "DNSOption": networking.dns.options,
            "NoManageHosts": networking.no_hosts,
            "HostAdd": hosts.collect::<Vec<_>>(),
            "Networks": networks,
        },
        "NetworkSettings": network_settings::of_pod(engine, pod)?,
        "SharedNamespaces": pod.shares.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        "NumContainers": view.members.len(),
        "Containers": containers.collect::<Vec<_>>(),
    }))
}

/// Each port of the pod, with the host's ports that lead there.
fn port_bindings(ports: &[PortMapping]) -> Value {
    let mut bindings = Map::new();
    for mapping in ports {
        for (own, host) in mapping.pairs() {
            let places = bindings.entry(format!("{own}/{}", mapping.protocol.name())).or_insert_with(|| json!([]));
            if let Value::Array(places) = places {
                places.push(json!({"HostIp": mapping.host_ip, "HostPort": host.to_string()}));
            }
        }
    }
    bindings.into()
}
