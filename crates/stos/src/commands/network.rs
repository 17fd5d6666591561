// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The group `network`, and port.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::anyhow;
use serde_json::{Value, json};
use stos_engine::networking::{self, NetworkOption};
use stos_engine::prune::PruneFilter;
use stos_engine::{Engine, container, pods};
use stos_network::config::NetworkConfig;
use stos_network::create::{NewNetwork, create_network};

use super::images::inspect_each;
use super::images::prune::is_answered_yes;
use super::life::only_image_mode;
use super::network_settings::published;
use super::{each, report};
use crate::cli::{
    Global, Network, NetworkConnect, NetworkCreate, NetworkDisconnect, NetworkExists, NetworkInspect, NetworkLs,
    NetworkPrune, NetworkRm, Port,
};
use crate::failure::Failure;
use crate::target::Target;
use crate::template::{Context, Template};
use crate::{table, target};

/// podman's exit code for a network that containers use.
const IN_USE: u8 = 2;

/// Runs a command of the group.
pub fn run(global: &Global, command: Network) -> Result<u8, Failure> {
    match command {
        Network::Create(args) => create(global, args),
        Network::Ls(args) => list(global, &args),
        Network::Inspect(args) => inspect(global, &args),
        Network::Rm(args) => remove(global, &args),
        Network::Prune(args) => prune(global, &args),
        Network::Exists(args) => exists(global, &args),
        Network::Connect(args) => connect(global, args),
        Network::Disconnect(args) => disconnect(global, &args),
    }
}

fn failed(error: stos_network::Error) -> Failure {
    stos_engine::Error::from(error).into()
}

fn pairs(option: &str, texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |text: &String| match text.split_once('=') {
        Some(("", _)) | None if option == "--opt" => Err(anyhow!("{option} {text:?}: expected NAME=VALUE").into()),
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        None if !text.is_empty() => Ok((text.clone(), String::new())),
        _ => Err(anyhow!("{option} {text:?}: expected KEY=VALUE").into()),
    };
    texts.iter().map(pair).collect()
}

/// Makes a network and prints its name.
fn create(global: &Global, args: NetworkCreate) -> Result<u8, Failure> {
    let directory = target::sandboxes(global).directory().clone();
    let wish = NewNetwork {
        labels: pairs("--label", &args.label)?,
        options: pairs("--opt", &args.opt)?,
        name: args.name.clone(),
        driver: args.driver,
        interface: args.interface_name,
        subnets: args.subnet,
        gateways: args.gateway,
        ranges: args.ip_range,
        internal: args.internal,
        ipv6: args.ipv6,
        disable_dns: args.disable_dns,
        ipam_driver: args.ipam_driver,
    };
    let name = match create_network(&directory, &wish) {
        Ok(network) => network.name,
        Err(stos_network::Error::Exists(name)) if args.ignore => name,
        Err(error) => return Err(failed(error)),
    };
    table::print_line(name)?;
    Ok(0)
}

fn list(global: &Global, args: &NetworkLs) -> Result<u8, Failure> {
    let template = match args.format.as_str() {
        "table" | "json" | "{{json .}}" => None,
        text => Some(Template::parse(text.strip_prefix("table ").unwrap_or(text))?),
    };
    let filters = args.filters.iter().map(|text| Filter::read(text)).collect::<Result<Vec<_>, _>>()?;
    let mut networks: Vec<_> = target::sandboxes(global).directory().load().map_err(failed)?.into_values().collect();
    networks.retain(|network| filters.iter().all(|filter| filter.fits(network)));
    let shown_id =
        |network: &NetworkConfig| if args.no_trunc { network.id.clone() } else { network.id[..12].to_owned() };
    let row = |network: &NetworkConfig| vec![shown_id(network), network.name.clone(), network.driver.clone()];
    let header = |header: &[&str], rows: &[Vec<String>]| {
        table::print_under(if args.noheading { None } else { Some(header) }, rows)
    };
    match (&template, args.format.as_str()) {
        (None, "table") if args.quiet => table::print_lines(networks.iter().map(|network| &network.name))?,
        (None, "table") => {
            header(&["NETWORK ID", "NAME", "DRIVER"], &networks.iter().map(row).collect::<Vec<_>>())?;
        }
        (None, _) => table::print_json(&networks)?,
        (Some(template), format) => {
            let mut lines = Vec::new();
            for network in &networks {
                let labels =
                    network.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
                let shown = json!({
                    "ID": shown_id(network), "Name": network.name, "Driver": network.driver, "Labels": labels,
                    "Created": network.created, "Internal": network.internal, "IPv6Enabled": network.ipv6_enabled,
                    "DNSEnabled": network.dns_enabled, "NetworkInterface": network.network_interface,
                });
                lines.push(template.render(&Context { document: serde_json::to_value(network)?, shown })?);
            }
            if !format.starts_with("table ") {
                lines.iter().try_for_each(table::print_line)?;
                return Ok(0);
            }
            let rows: Vec<Vec<String>> =
                lines.iter().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
            let names = template.header(&[("ID", "NETWORK ID")]);
            header(&names.split('\t').collect::<Vec<_>>(), &rows)?;
        }
    }
    Ok(0)
}

/// Which networks are listed.
enum Filter {
    Name(String),
    Id(String),
    Driver(String),
    Other(PruneFilter),
}

impl Filter {
    fn read(text: &str) -> Result<Self, Failure> {
        let expected = "expected name, id, driver, label, label! or until, each with =VALUE";
        let (key, value) = text.split_once('=').ok_or_else(|| anyhow!("--filter {text:?}: {expected}"))?;
        Ok(match key {
            "name" => Self::Name(value.to_owned()),
            "id" => Self::Id(value.to_owned()),
            "driver" => Self::Driver(value.to_owned()),
            "label" | "label!" | "until" => Self::Other(text.parse::<PruneFilter>()?),
            _ => return Err(anyhow!("--filter {text:?}: {expected}").into()),
        })
    }

    fn fits(&self, network: &NetworkConfig) -> bool {
        match self {
            Self::Name(part) => network.name.contains(part.as_str()),
            Self::Id(start) => network.id.starts_with(start.as_str()),
            Self::Driver(driver) => network.driver == *driver,
            Self::Other(filter) => filter.holds_of(Some(&network.created), &network.labels),
        }
    }
}

/// Prints all that is known of networks, and of the containers that run in them, under podman's names.
fn inspect(global: &Global, args: &NetworkInspect) -> Result<u8, Failure> {
    let engine = engine_if_any(global)?;
    inspect_each(global, &args.format, &args.networks, &mut |query| {
        let network = target::sandboxes(global).directory().find(query).map_err(failed)?;
        let mut document = serde_json::to_value(&network)?;
        document["containers"] = engine
            .as_ref()
            .map(|engine| containers_of(engine, &network.name))
            .transpose()?
            .unwrap_or_else(|| json!({}));
        Ok(document)
    })
}

/// The engine, where there is a store: networks are there without any.
fn engine_if_any(global: &Global) -> Result<Option<Engine>, Failure> {
    if global.data_root.is_dir() { Ok(Some(target::reader(global)?)) } else { Ok(None) }
}

fn containers_of(engine: &Engine, network: &str) -> Result<Value, Failure> {
    let mut containers = serde_json::Map::new();
    let mut add = |id: &str, name: &stos_store::ContainerName, sandbox: Option<stos_network::sandbox::Sandbox>| {
        let Some(sandbox) = sandbox else { return };
        let interfaces = sandbox.status.get(network).and_then(|status| status.interfaces.clone()).unwrap_or_default();
        containers.insert(id.to_owned(), json!({"name": name, "interfaces": interfaces}));
    };
    for record in networking::users(engine, network)? {
        add(record.id.as_str(), &record.name, engine.sandbox(&record)?);
    }
    let sandboxes = engine.pod_sandboxes();
    for pod in pods::users_of_network(engine, network)? {
        add(pod.id.as_str(), &pod.name, sandboxes.read(pod.id.as_str()).map_err(failed)?);
    }
    Ok(containers.into())
}

fn remove(global: &Global, args: &NetworkRm) -> Result<u8, Failure> {
    let engine = target::engine(global)?;
    Ok(each(global, &args.networks, |query| match networking::remove(&engine, query, args.force) {
        Ok(_) => Ok(table::print_line(query)?),
        Err(error) => {
            let is_used = matches!(&error, stos_engine::Error::Network(stos_network::Error::InUse { .. }));
            Err(Failure::from(error).with_exit_code(if is_used { IN_USE } else { 1 }))
        }
    }))
}

fn prune(global: &Global, args: &NetworkPrune) -> Result<u8, Failure> {
    let filters = args.filters.iter().map(|text| text.parse::<PruneFilter>()).collect::<Result<Vec<_>, _>>()?;
    if !args.force && !is_answered_yes("all networks that no container uses")? {
        return Ok(0);
    }
    let fits =
        |network: &NetworkConfig| filters.iter().all(|filter| filter.holds_of(Some(&network.created), &network.labels));
    let (removed, attempts) = networking::prune(&target::engine(global)?, fits)?;
    table::print_lines(removed)?;
    Ok(report(global, attempts))
}

fn exists(global: &Global, args: &NetworkExists) -> Result<u8, Failure> {
    match target::sandboxes(global).directory().find(&args.network) {
        Ok(_) => Ok(0),
        Err(stos_network::Error::NoSuchNetwork(_)) => Ok(1),
        Err(error) => Err(failed(error)),
    }
}

fn connect(global: &Global, args: NetworkConnect) -> Result<u8, Failure> {
    let Target::Image(engine, record) = target::find(global, &args.container)? else {
        return Err(only_image_mode("network connect", &args.container.parse().map_err(stos_runtime::Error::from)?));
    };
    let option = NetworkOption {
        network: args.network,
        ips: args.ip.map(IpAddr::V4).into_iter().chain(args.ip6.map(IpAddr::V6)).collect(),
        mac: args.mac_address,
        aliases: args.alias,
        interface: None,
    };
    networking::connect(&engine, &record, &option)?;
    Ok(0)
}

fn disconnect(global: &Global, args: &NetworkDisconnect) -> Result<u8, Failure> {
    let Target::Image(engine, record) = target::find(global, &args.container)? else {
        return Err(only_image_mode("network disconnect", &args.container.parse().map_err(stos_runtime::Error::from)?));
    };
    networking::disconnect(&engine, &record, &args.network)?;
    Ok(0)
}

/// Prints which ports of the host lead into a container.
pub fn port(global: &Global, args: &Port) -> Result<u8, Failure> {
    let Some(query) = &args.container else {
        if let Some(engine) = engine_if_any(global)? {
            for record in container::records(&engine)? {
                for (own, host) in lines(&engine, &record) {
                    table::print_line(format_args!("{}\t{own} -> {host}", record.id.short()))?;
                }
            }
        }
        return Ok(0);
    };
    let Target::Image(engine, record) = target::find_to_read(global, query)? else {
        return Err(Failure::message(
            format!("port: {query} is a bundle's container: stos publishes nothing of it"),
            1,
        ));
    };
    let Some(port) = args.port else {
        lines(&engine, &record)
            .iter()
            .try_for_each(|(own, host)| table::print_line(format_args!("{own} -> {host}")))?;
        return Ok(0);
    };
    let wanted = format!("{}/{}", port.first, port.protocol.name());
    let found: Vec<_> =
        lines(&engine, &record).into_iter().filter(|(own, _)| *own == wanted).map(|(_, host)| host).collect();
    if found.is_empty() {
        return Err(Failure::message(format!("container {}: port {wanted} is not published", record.name), 1));
    }
    table::print_lines(found)?;
    Ok(0)
}

/// Each port of a container, or of its pod, with where it leads from.
fn lines(engine: &Engine, record: &container::ContainerRecord) -> Vec<(String, String)> {
    let of = |mapping: &stos_network::ports::PortMapping| {
        let (address, protocol) = (mapping.host_address(), mapping.protocol.name());
        let pairs = mapping.pairs().map(move |(own, host)| {
            (format!("{own}/{protocol}"), std::net::SocketAddr::new(address, host).to_string())
        });
        pairs.collect::<Vec<_>>()
    };
    published(engine, record).iter().flat_map(of).collect()
}
