// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The network of a container: what may be asked of it, what is recorded of it, and what is made of that.
//!
//! | module | what it does |
//! |---|---|
//! | here | from options to a record |
//! | `files` | `/etc/hosts` and `/etc/resolv.conf` |
//! | `start` | networks at a start, and their end |
//! | `change` | networks of containers that are there: connect, disconnect, who uses which |
//!
//! Addresses, rules and names are [`stos_network`]'s. The record says what a container is to have at each start; what it has now is in
//! ROOT, and goes when it ends.

mod change;
mod files;
mod start;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_network::config::DEFAULT_NETWORK;
use stos_network::create::is_interface_name;
use stos_network::directory::{CONFIG_DIR, NetworkDirectory};
use stos_network::leases::check_addresses;
use stos_network::netavark::Connection;
use stos_network::ports::{ContainerPorts, PortMapping, Protocol, choose_ports};
use stos_network::sandbox::{Sandbox, Sandboxes};
use stos_network::subnet::MacAddress;

use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::{Error, Result};
use crate::options::{CreateOptions, Network};

pub(crate) use change::hold;
pub use change::{connect, disconnect, is_default, prune, remove, users};
pub(crate) use files::{OwnFiles, shared_files, write_again, write_own_file};
pub(crate) use start::{Connecting, tear_down};

/// netavark's run directory, which podman has too.
const RUN_DIR: &str = "/run/containers/networks";

/// Where networks are configured, and what makes them, where it is not as podman has it.
#[derive(Debug, Clone, Default)]
pub struct NetworkPlaces {
    /// The directory of the networks' configurations.
    pub config_dir: Option<PathBuf>,
    /// The program netavark.
    pub netavark: Option<PathBuf>,
}

/// A part in a network that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkOption {
    /// The network's name or id.
    pub network: String,
    /// The addresses that the container is to have there.
    pub ips: Vec<IpAddr>,
    /// Its hardware address.
    pub mac: Option<MacAddress>,
    /// Its further names.
    pub aliases: Vec<String>,
    /// Its interface's name.
    pub interface: Option<String>,
}

/// Whom names are asked of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsOptions {
    /// Servers, instead of the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<IpAddr>,
    /// Domains that names are looked for in, instead of the host's; `.` for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<String>,
    /// Options (resolv.conf(5)), instead of the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Whether the image's own `/etc/resolv.conf` stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_image: bool,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// The names.
    pub names: Vec<String>,
    /// The address; `None` for the host's, as the container reaches it.
    pub address: Option<IpAddr>,
}

/// What may be asked of a container's network, besides its kind.
#[derive(Debug, Clone, Default)]
pub struct NetworkingOptions {
    /// With [`Network::Bridge`]: its networks; none for the default one.
    pub networks: Vec<NetworkOption>,
    /// With [`Network::Container`]: whose network it has.
    pub container: Option<String>,
    /// With [`Network::Path`]: the network namespace.
    pub namespace: Option<PathBuf>,
    /// Ports of the host that lead into it.
    pub ports: Vec<PortMapping>,
    /// Whether every port that the image or [`expose`](Self::expose) names gets one of the host's.
    pub publish_all: bool,
    /// Ports that it has, besides those that the image names.
    pub expose: Vec<ContainerPorts>,
    /// Further lines of `/etc/hosts`.
    pub add_hosts: Vec<HostEntry>,
    /// Whether the image's own `/etc/hosts` stays.
    pub no_hosts: bool,
    /// Whom names are asked of.
    pub dns: DnsOptions,
}

/// What is recorded of a container's network, besides its kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Networking {
    /// Its part in each network, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkPart>,
    /// The network namespace that it joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<PathBuf>,
    /// Ports of the host that lead into it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// Ports that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<ContainerPorts>,
    /// Further lines of `/etc/hosts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_hosts: Vec<HostEntry>,
    /// Whether the image's own `/etc/hosts` stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_hosts: bool,
    /// Whom names are asked of.
    #[serde(default, skip_serializing_if = "DnsOptions::is_default")]
    pub dns: DnsOptions,
}

/// A container's part in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPart {
    /// The network's name.
    pub network: String,
    /// What it has there.
    #[serde(flatten)]
    pub connection: Connection,
}

impl DnsOptions {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Networking {
    /// Whether it has a part in a network.
    pub(crate) fn has_part_in(&self, network: &str) -> bool {
        self.networks.iter().any(|part| part.network == network)
    }

    /// Tells whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Gives the networks of all containers of ROOT.
pub fn sandboxes(places: &NetworkPlaces, root: &Path) -> Sandboxes {
    let config_dir = places.config_dir.clone().unwrap_or_else(|| CONFIG_DIR.into());
    // Addresses belong to the networks: where those are others, so are these.
    let run_dir = if places.config_dir.is_some() { root.join("netavark") } else { RUN_DIR.into() };
    Sandboxes::new(NetworkDirectory::new(config_dir), root.join("networks"), run_dir, places.netavark.clone())
}

impl Engine {
    /// Takes networks from elsewhere than podman does.
    pub fn with_networks(self, places: NetworkPlaces) -> Self {
        Self { networks: places, ..self }
    }

    /// Gives the networks of all containers.
    pub fn sandboxes(&self) -> Sandboxes {
        sandboxes(&self.networks, &self.root)
    }

    /// Reads what networks a container has now; `None` where it has none of its own.
    ///
    /// # Errors
    /// Where what is recorded of that is damaged.
    pub fn sandbox(&self, record: &ContainerRecord) -> Result<Option<Sandbox>> {
        match record.network {
            Network::Bridge => Ok(self.sandboxes().read(record.id.as_str())?),
            _ => Ok(None),
        }
    }
}

/// The longest name of DNS, in bytes (RFC 1035, section 2.3.4).
const ALIAS_MAX: usize = 253;

/// Tells whether a text is a host's name of at most `longest` bytes.
pub fn is_host_name(text: &str, longest: usize) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=longest).contains(&text.len()) && text.bytes().all(is_good)
}

fn refused(option: &'static str, value: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Option { option, value: value.into(), reason: reason.into() }
}

/// Refuses what cannot be, before anything is fetched: networks that are not there, addresses that nobody can have, options that do not go
/// together.
pub(crate) fn check(engine: &Engine, options: &CreateOptions) -> Result<()> {
    let asked = &options.networking;
    if asked.no_hosts && !asked.add_hosts.is_empty() {
        return Err(refused(
            "--add-host",
            asked.add_hosts[0].names.join(";"),
            "there is no /etc/hosts of ours with --no-hosts",
        ));
    }
    if matches!(options.network, Network::None | Network::Path)
        && let Some(entry) = asked.add_hosts.iter().find(|entry| entry.address.is_none())
    {
        let reason =
            "the address of the host is not known in a network namespace that is not made here, or has no network";
        return Err(refused("--add-host", format!("{}:host-gateway", entry.names.join(";")), reason));
    }
    let has_dns = !asked.dns.is_default();
    match options.network {
        Network::None if has_dns => {
            return Err(refused("--dns", "", "it has no network to ask anybody (--network none)"));
        }
        Network::Container if has_dns || asked.no_hosts || !asked.add_hosts.is_empty() => {
            let reason = "with --network container: it has the other's /etc/hosts and /etc/resolv.conf";
            return Err(refused("--dns, --add-host and --no-hosts", "", reason));
        }
        Network::Path => {
            let path = asked.namespace.clone().unwrap_or_default();
            std::fs::metadata(&path)
                .map_err(|error| refused("--network ns", path.display().to_string(), error.to_string()))?;
        }
        Network::Bridge => {
            engine.sandboxes().netavark()?;
            parts(engine, asked)?;
        }
        _ => {}
    }
    Ok(())
}

/// Gives what is recorded of a new container's network, with each port of the host chosen. `exposed` is what its image names.
pub(crate) fn decide(engine: &Engine, options: &CreateOptions, exposed: &[String]) -> Result<Networking> {
    let asked = &options.networking;
    let mut ports_of_image = Vec::new();
    for text in exposed {
        match text.parse::<ContainerPorts>() {
            Ok(ports) => ports_of_image.push(ports),
            Err(error) => tracing::warn!(%error, "the image exposes a port that is none"),
        }
    }
    let exposed: BTreeSet<ContainerPorts> = ports_of_image.into_iter().chain(asked.expose.iter().copied()).collect();
    let mut networking = Networking {
        namespace: asked.namespace.clone(),
        exposed: exposed.into_iter().collect(),
        add_hosts: asked.add_hosts.clone(),
        no_hosts: asked.no_hosts,
        dns: asked.dns.clone(),
        ..Networking::default()
    };
    if options.network != Network::Bridge {
        if !asked.ports.is_empty() || asked.publish_all {
            tracing::warn!("no port is published: the container has no network of its own to lead one into");
        }
        return Ok(networking);
    }
    networking.networks = parts(engine, asked)?;
    networking.ports.clone_from(&asked.ports);
    if asked.publish_all {
        let is_published = |port, protocol| {
            let leads_there =
                |mapping: &PortMapping| mapping.protocol == protocol && mapping.pairs().any(|(own, _)| own == port);
            asked.ports.iter().any(leads_there)
        };
        let of = |port, protocol| PortMapping {
            host_ip: String::new(),
            container_port: port,
            host_port: 0,
            range: 1,
            protocol,
        };
        let each: BTreeSet<(u16, Protocol)> =
            networking.exposed.iter().flat_map(|ports| ports.each().map(|port| (port, ports.protocol))).collect();
        networking.ports.extend(
            each.into_iter()
                .filter(|(port, protocol)| !is_published(*port, *protocol))
                .map(|(port, protocol)| of(port, protocol)),
        );
    }
    choose_ports(&mut networking.ports)?;
    Ok(networking)
}

/// Puts together a container's part in each network, and names the interfaces that have no name yet.
fn parts(engine: &Engine, asked: &NetworkingOptions) -> Result<Vec<NetworkPart>> {
    let directory = engine.sandboxes().directory().clone();
    let default = [NetworkOption { network: DEFAULT_NETWORK.to_owned(), ..NetworkOption::default() }];
    let wanted = if asked.networks.is_empty() { &default[..] } else { &asked.networks };
    let mut parts: Vec<NetworkPart> = Vec::new();
    for option in wanted {
        let part = part(&directory, option, &parts)?;
        if parts.iter().any(|other| other.network == part.network) {
            return Err(refused("--network", &option.network, "the container has a part in it already"));
        }
        let taken: Vec<_> = wanted.iter().filter_map(|other| other.interface.clone()).collect();
        parts.push(named(part, &parts, &taken)?);
    }
    Ok(parts)
}

/// A container's part in one network, as it is asked for; `others` are those that it has.
fn part(directory: &NetworkDirectory, option: &NetworkOption, others: &[NetworkPart]) -> Result<NetworkPart> {
    let network = directory.find(&option.network)?;
    check_addresses(&network, &option.ips)?;
    if let Some(alias) = option.aliases.iter().find(|alias| !is_host_name(alias, ALIAS_MAX)) {
        // They are words in a list of names, where another letter would end one.
        let reason = format!("expected 1 to {ALIAS_MAX} letters, digits, '-', '.' and '_'");
        return Err(refused("--network-alias", alias, reason));
    }
    if let Some(name) = &option.interface {
        if !is_interface_name(name) || name == "lo" {
            return Err(refused(
                "interface_name",
                name,
                "expected 1 to 15 characters without '/', ':' and '%', and not lo",
            ));
        }
        if others.iter().any(|other| other.connection.interface_name == *name) {
            return Err(refused("interface_name", name, "the container has an interface of this name already"));
        }
    }
    let connection = Connection {
        interface_name: option.interface.clone().unwrap_or_default(),
        static_ips: option.ips.clone(),
        static_mac: option.mac,
        aliases: option.aliases.clone(),
    };
    Ok(NetworkPart { network: network.name, connection })
}

/// Names the interface `ethN`, the first that is free, where it has no name.
fn named(mut part: NetworkPart, others: &[NetworkPart], taken: &[String]) -> Result<NetworkPart> {
    if part.connection.interface_name.is_empty() {
        let is_free = |name: &String| {
            !taken.contains(name) && others.iter().all(|other| other.connection.interface_name != *name)
        };
        let mut names = (0..4096).map(|number| format!("eth{number}"));
        let free = names.find(is_free);
        part.connection.interface_name =
            free.ok_or_else(|| refused("--network", &part.network, "no interface's name is left"))?;
    }
    Ok(part)
}

/// The names by which others of a network find a container or a pod, besides its own: those that are asked for, and its short id.
pub(crate) fn names_of(part: &NetworkPart, short_id: &str) -> Connection {
    let mut connection = part.connection.clone();
    connection.aliases.push(short_id.to_owned());
    connection
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> (tempfile::TempDir, Engine) {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        let places = NetworkPlaces { config_dir: Some(dir.path().join("networks")), netavark: None };
        (dir, engine.with_networks(places))
    }

    fn bridge(networking: NetworkingOptions) -> CreateOptions {
        CreateOptions { network: Network::Bridge, networking, ..CreateOptions::default() }
    }

    #[test]
    fn interfaces_get_the_names_that_are_free() {
        let (_dir, engine) = engine();
        for name in ["a", "b"] {
            let wish = stos_network::create::NewNetwork { name: Some(name.into()), ..Default::default() };
            stos_network::create::create_network(engine.sandboxes().directory(), &wish).unwrap();
        }
        let option = |name: &str, interface: Option<&str>| NetworkOption {
            network: name.into(),
            interface: interface.map(str::to_owned),
            ..NetworkOption::default()
        };
        let networks = vec![option("podman", None), option("a", Some("eth0")), option("b", None)];
        let decided = decide(&engine, &bridge(NetworkingOptions { networks, ..Default::default() }), &[]).unwrap();
        let names: Vec<_> = decided.networks.iter().map(|part| part.connection.interface_name.as_str()).collect();
        assert_eq!(names, ["eth1", "eth0", "eth2"]);
        for networks in [
            vec![option("a", None), option("a", None)],
            vec![option("none-such", None)],
            vec![option("a", Some("x")), option("b", Some("x"))],
            vec![option("a", Some("much-too-long-a-name"))],
        ] {
            assert!(decide(&engine, &bridge(NetworkingOptions { networks, ..Default::default() }), &[]).is_err());
        }
        let bad = NetworkOption { ips: vec!["192.0.2.1".parse().unwrap()], ..option("podman", None) };
        let error =
            decide(&engine, &bridge(NetworkingOptions { networks: vec![bad], ..Default::default() }), &[]).unwrap_err();
        assert!(error.to_string().contains("10.88.0.0/16"), "{error}");
    }

    #[test]
    fn all_ports_that_are_exposed_are_published_once() {
        let (_dir, engine) = engine();
        let asked = NetworkingOptions {
            ports: vec!["127.0.0.1::80".parse().unwrap()],
            publish_all: true,
            expose: vec!["5000-5001/udp".parse().unwrap()],
            ..NetworkingOptions::default()
        };
        let decided = decide(&engine, &bridge(asked), &["80/tcp".into(), "443".into(), "x".into()]).unwrap();
        let shown: Vec<_> = decided.ports.iter().map(|port| (port.container_port, port.protocol.name())).collect();
        assert_eq!(shown, [(80, "tcp"), (443, "tcp"), (5000, "udp"), (5001, "udp")]);
        assert!(decided.ports.iter().all(|port| port.host_port > 0));
        let record = serde_json::to_string(&decided).unwrap();
        assert_eq!(serde_json::from_str::<Networking>(&record).unwrap(), decided);
        assert!(decide(&engine, &CreateOptions::default(), &[]).unwrap().is_default());
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let (_dir, engine) = engine();
        let hosts = vec![HostEntry { names: vec!["a".into()], address: None }];
        let dns = DnsOptions { servers: vec!["9.9.9.9".parse().unwrap()], ..DnsOptions::default() };
        for (network, networking) in [
            (Network::None, NetworkingOptions { dns: dns.clone(), ..Default::default() }),
            (Network::Container, NetworkingOptions { dns, ..Default::default() }),
            (Network::Container, NetworkingOptions { add_hosts: hosts.clone(), ..Default::default() }),
            (Network::Host, NetworkingOptions { add_hosts: hosts, no_hosts: true, ..Default::default() }),
            (Network::Path, NetworkingOptions { namespace: Some("/no/such".into()), ..Default::default() }),
        ] {
            let options = CreateOptions { network, networking, ..CreateOptions::default() };
            assert!(matches!(check(&engine, &options), Err(Error::Option { .. })), "{network:?}");
        }
    }
}
