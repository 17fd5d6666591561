// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words about networks: podman's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use stos_network::ports::{ContainerPorts, PortMapping};
use stos_network::subnet::{MacAddress, Subnet};

// Where networks are, before any command.
#[derive(Debug, Clone, Args)]
pub struct NetworkPlacesArgs {
    /// Where networks are configured, podman's too; with a directory of one's own addresses are given in ROOT
    /// [default: /etc/containers/networks]
    #[arg(long, value_name = "DIR", hide_short_help = true, env = "STOS_NETWORK_CONFIG_DIR")]
    pub network_config_dir: Option<PathBuf>,
    /// The program that makes networks [default: where podman looks for it, then in $PATH]
    #[arg(long, value_name = "PATH", hide_short_help = true, env = "STOS_NETAVARK")]
    pub netavark: Option<PathBuf>,
}

// The network of a new container.
#[derive(Debug, Clone, Default, Args)]
pub struct NetworkArgs {
    /// bridge, none, host, container:NAME, ns:PATH or NAME[:ip=...]
    ///
    /// The networks: further options of NAME are mac, alias and interface_name, with commas between; may be repeated. By default
    /// bridge where netavark is installed, else none
    #[arg(long, alias = "net", value_name = "NETWORK", env = "STOS_NETWORK", hide_env = true)]
    pub network: Vec<String>,
    /// Lead the host's ports in: [[IP:][HOST]:]CONTAINER[/PROTOCOL]
    ///
    /// Each of the two may be a range of one size. Without HOST a free port is found
    #[arg(short, long, value_name = "PORTS")]
    pub publish: Vec<PortMapping>,
    /// Lead a free port of the host to each port that the image exposes
    #[arg(short = 'P', long, hide_short_help = true)]
    pub publish_all: bool,
    /// A port that the container has, for --publish-all
    #[arg(long, value_name = "PORT[-PORT][/PROTOCOL]", hide_short_help = true)]
    pub expose: Vec<ContainerPorts>,
    /// A line of /etc/hosts; the address may be host-gateway
    #[arg(long, value_name = "NAME[;NAME]:ADDRESS", hide_short_help = true)]
    pub add_host: Vec<String>,
    /// Leave the image's own /etc/hosts
    #[arg(long, hide_short_help = true)]
    pub no_hosts: bool,
    /// Ask this server for names; `none` leaves the image's own /etc/resolv.conf
    #[arg(long, value_name = "ADDRESS", hide_short_help = true)]
    pub dns: Vec<String>,
    /// Look for names in this domain; `.` for none
    #[arg(long, value_name = "DOMAIN", hide_short_help = true)]
    pub dns_search: Vec<String>,
    /// An option of resolv.conf(5)
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", hide_short_help = true)]
    pub dns_option: Vec<String>,
    /// The container's IPv4 address, where it has one network
    #[arg(long, value_name = "ADDRESS", hide_short_help = true)]
    pub ip: Option<Ipv4Addr>,
    /// The container's IPv6 address, where it has one network
    #[arg(long, value_name = "ADDRESS", hide_short_help = true)]
    pub ip6: Option<Ipv6Addr>,
    /// The container's hardware address, where it has one network
    #[arg(long, value_name = "ADDRESS", hide_short_help = true)]
    pub mac_address: Option<MacAddress>,
    /// A further name by which others find the container in its networks
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub network_alias: Vec<String>,
}

// Deferred: see `Command`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Network {
    /// Make a network
    Create(NetworkCreate),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(NetworkLs),
    /// Show everything about networks, as JSON
    Inspect(NetworkInspect),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(NetworkRm),
    /// Remove networks that no container uses
    Prune(NetworkPrune),
    /// Tell by the exit code whether there is a network
    Exists(NetworkExists),
    /// Connect a container to a further network
    Connect(NetworkConnect),
    /// Disconnect a container from a network
    Disconnect(NetworkDisconnect),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos network create --subnet 10.89.5.0/24 --opt mtu=1400 web")]
pub struct NetworkCreate {
    /// The kind: bridge, macvlan or ipvlan [default: bridge]
    #[arg(short, long, value_name = "DRIVER")]
    pub driver: Option<String>,
    /// Addresses of it; may be repeated [default: a free /24 of 10.89.0.0 to 10.255.255.0]
    #[arg(long, value_name = "ADDRESS/BITS")]
    pub subnet: Vec<Subnet>,
    /// The host's address, for each subnet in its order [default: its first]
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Vec<IpAddr>,
    /// Which addresses are given, for each subnet in its order: ADDRESS/BITS or FIRST-LAST
    #[arg(long, value_name = "RANGE")]
    pub ip_range: Vec<String>,
    /// Let no way lead out of it
    #[arg(long)]
    pub internal: bool,
    /// Give it IPv6 too
    #[arg(long)]
    pub ipv6: bool,
    /// Do not let containers find each other by name
    #[arg(long)]
    pub disable_dns: bool,
    /// Set a label
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// An option of the driver: mtu, vlan, metric, isolate, no_default_route, vrf; of macvlan and ipvlan parent and mode too
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub opt: Vec<String>,
    /// The bridge's name; of macvlan and ipvlan the host's interface [default: podmanN]
    #[arg(long, value_name = "NAME")]
    pub interface_name: Option<String>,
    /// Who gives addresses: host-local, dhcp or none
    #[arg(long, value_name = "DRIVER")]
    pub ipam_driver: Option<String>,
    /// Succeed where there is one of this name
    #[arg(long)]
    pub ignore: bool,
    /// Its name [default: podmanN]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos network ls --filter driver=bridge --format '{{.Name}} {{.Driver}}'")]
pub struct NetworkLs {
    /// Print only names
    #[arg(short, long)]
    pub quiet: bool,
    /// Only networks that fit, as KEY=VALUE: name, id, driver, label, until; all must fit
    #[arg(short, long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// How the list looks: table, json, or a template such as '{{.ID}} {{.Name}}' or 'table {{.Name}}\t{{.Driver}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Show ids whole
    #[arg(long)]
    pub no_trunc: bool,
    /// Leave out the header
    #[arg(short, long)]
    pub noheading: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos network inspect --format '{{range .subnets}}{{.subnet}}{{end}}' podman")]
pub struct NetworkInspect {
    /// json, or a template
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    pub format: String,
    /// The networks: names, or beginnings of ids
    #[arg(value_name = "NETWORK", required = true)]
    pub networks: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos network rm web")]
pub struct NetworkRm {
    /// Delete the containers that use it too
    #[arg(short, long)]
    pub force: bool,
    /// The networks
    #[arg(value_name = "NETWORK", required = true)]
    pub networks: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos network prune --force --filter label=test")]
pub struct NetworkPrune {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Only networks made before a time (until=24h), with a label (label=KEY[=VALUE]), or without one (label!=KEY[=VALUE])
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos network exists web || stos network create web")]
pub struct NetworkExists {
    /// The network
    #[arg(value_name = "NETWORK")]
    pub network: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos network connect --alias db web database")]
pub struct NetworkConnect {
    /// Its IPv4 address there
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<Ipv4Addr>,
    /// Its IPv6 address there
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<Ipv6Addr>,
    /// Its hardware address there
    #[arg(long, value_name = "ADDRESS")]
    pub mac_address: Option<MacAddress>,
    /// A further name there
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// The network
    #[arg(value_name = "NETWORK")]
    pub network: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos network disconnect web database")]
pub struct NetworkDisconnect {
    /// Whether it runs or not: that makes no difference here
    #[arg(short, long)]
    pub force: bool,
    /// The network
    #[arg(value_name = "NETWORK")]
    pub network: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos port web\n  stos port web 80/tcp")]
pub struct Port {
    /// Those of all containers
    #[arg(short, long, conflicts_with = "container")]
    pub all: bool,
    /// The container
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    pub container: Option<String>,
    /// Only where this port of the container leads from
    #[arg(value_name = "PORT[/PROTOCOL]")]
    pub port: Option<ContainerPorts>,
}
