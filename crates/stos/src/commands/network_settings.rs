// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `inspect` says of a container's network, under podman's names.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use stos_engine::Engine;
use stos_engine::container::ContainerRecord;
use stos_network::netavark::NetworkStatus;

use crate::failure::Failure;

/// Gives `NetworkSettings`.
pub fn settings(engine: &Engine, record: &ContainerRecord) -> Result<Value, Failure> {
    let sandbox = engine.sandbox(record)?;
    let mut networks = Map::new();
    for part in &record.networking.networks {
        let now = sandbox.as_ref().and_then(|sandbox| Some((sandbox, sandbox.status.get(&part.network)?)));
        let mut endpoint = endpoint(now.map(|(_, status)| status));
        let id =
            now.and_then(|(sandbox, _)| sandbox.options.network_info.get(&part.network)).map(|info| info.id.as_str());
        endpoint["NetworkID"] = json!(id.unwrap_or(&part.network));
        let names = [record.id.short().to_owned()];
        endpoint["Aliases"] = part.connection.aliases.iter().chain(&names).cloned().collect();
        networks.insert(part.network.clone(), endpoint);
    }
    // As podman has it: of several networks none is the container's.
    let only = networks.values().next().filter(|_| networks.len() == 1).cloned();
    let mut settings = only.unwrap_or_else(|| endpoint(None));
    if let Some(own) = settings.as_object_mut() {
        own.retain(|key, _| !["NetworkID", "Aliases"].contains(&key.as_str()));
    }
    settings["Ports"] = ports(record);
    settings["Networks"] = networks.into();
    let namespace = engine.sandboxes().namespace(record.id.as_str());
    settings["SandboxKey"] = sandbox.map_or_else(|| json!(""), |_| json!(namespace));
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
fn ports(record: &ContainerRecord) -> Value {
    let mut ports = Map::new();
    for exposed in &record.networking.exposed {
        for port in exposed.each() {
            ports.insert(format!("{port}/{}", exposed.protocol.name()), Value::Null);
        }
    }
    for mapping in &record.networking.ports {
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
