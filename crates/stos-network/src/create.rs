// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A new network: what is left open is chosen, what is asked for is checked, then it is there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use serde_json::Map;
use stos_store::files::random_hex;

use crate::config::{DHCP, HOST_LOCAL, LeaseRange, NetworkConfig, SubnetConfig};
use crate::directory::{NetworkDirectory, is_name};
use crate::error::{Error, Result};
use crate::host;
use crate::lock::NetworkLock;
use crate::subnet::Subnet;

/// Names that mean a container's network otherwise.
const MODES: [&str; 9] = ["none", "host", "bridge", "private", "slirp4netns", "pasta", "container", "ns", "default"];

/// The longest name of an interface in bytes (`IFNAMSIZ` with its NUL).
const INTERFACE_MAX: usize = 15;

/// What is asked of a new network.
#[derive(Debug, Clone, Default)]
pub struct NewNetwork {
    /// Its name; without one it gets `podmanN`.
    pub name: Option<String>,
    /// Its driver; without one it is a bridge.
    pub driver: Option<String>,
    /// The bridge's name, or the host's interface.
    pub interface: Option<String>,
    /// Its subnets; without any a free one is found.
    pub subnets: Vec<Subnet>,
    /// A gateway for each of those, in their order.
    pub gateways: Vec<IpAddr>,
    /// Which addresses are given, for each of those: `ADDRESS/BITS` or `FIRST-LAST`.
    pub ranges: Vec<String>,
    /// Whether no way leads out.
    pub internal: bool,
    /// Whether it has IPv6 too.
    pub ipv6: bool,
    /// Whether containers do not find each other by name.
    pub disable_dns: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Who gives addresses: `host-local`, `dhcp` or `none`.
    pub ipam_driver: Option<String>,
}

/// Makes a network.
///
/// # Errors
/// [`Error::Exists`], [`Error::SubnetTaken`], [`Error::NoFreeSubnet`], and [`Error::Value`] for whatever cannot be so. Nothing is there then.
pub fn create_network(directory: &NetworkDirectory, wish: &NewNetwork) -> Result<NetworkConfig> {
    if let Some(name) = &wish.name {
        check_name(name)?;
    }
    let lock = NetworkLock::wait()?;
    let others = directory.load()?;
    if let Some(name) = wish.name.as_ref().filter(|name| others.contains_key(*name)) {
        return Err(Error::Exists(name.clone()));
    }
    let name = wish.name.clone().unwrap_or_else(|| free_name(|name| others.contains_key(name)));
    let network = match wish.driver.as_deref().unwrap_or("bridge") {
        "bridge" => bridge(name, wish, &others)?,
        driver @ ("macvlan" | "ipvlan") => vlan(name, driver, wish)?,
        other => return Err(Error::value("driver", other, "expected bridge, macvlan or ipvlan")),
    };
    directory.add(&network, &lock)?;
    Ok(network)
}

fn check_name(name: &str) -> Result<()> {
    if MODES.contains(&name) {
        return Err(Error::value("network name", name, "it means another kind of network, as in --network"));
    }
    if !is_name(name) {
        let reason = "expected at most 200 letters, digits, '_', '.' and '-', a letter or digit first";
        return Err(Error::value("network name", name, reason));
    }
    Ok(())
}

/// Gives the first of `podman1`, `podman2` … that is free.
fn free_name(is_taken: impl Fn(&str) -> bool) -> String {
    let mut names = (1_u32..).map(|number| format!("podman{number}"));
    names.find(|name| !is_taken(name)).unwrap_or_else(|| unreachable!("there are more numbers than networks"))
}

/// Tells whether the kernel and ip-link(8) take a text as the name of an interface.
pub fn is_interface_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    (1..=INTERFACE_MAX).contains(&name.len()) && name.bytes().all(is_good) && name != "." && name != ".."
}

fn check_interface(name: &str) -> Result<()> {
    if is_interface_name(name) {
        return Ok(());
    }
    Err(Error::value(
        "interface name",
        name,
        "expected 1 to 15 characters without spaces, '/', ':' and '%' (ip-link(8))",
    ))
}

fn base(name: String, driver: &str, interface: String, wish: &NewNetwork) -> NetworkConfig {
    NetworkConfig {
        name,
        id: random_hex::<32>(),
        driver: driver.to_owned(),
        network_interface: interface,
        created: jiff::Timestamp::now().to_string(),
        subnets: Vec::new(),
        ipv6_enabled: wish.ipv6,
        internal: wish.internal,
        dns_enabled: !wish.disable_dns,
        labels: wish.labels.clone(),
        options: BTreeMap::new(),
        ipam_options: BTreeMap::new(),
        other: Map::new(),
    }
}

type Networks = BTreeMap<String, NetworkConfig>;

fn bridge(name: String, wish: &NewNetwork, others: &Networks) -> Result<NetworkConfig> {
    let options = bridge_options(&wish.options)?;
    let interface = match wish.interface.as_ref().or(options.bridge.as_ref()) {
        Some(interface) => {
            check_interface(interface)?;
            if let Some(other) = others.values().find(|other| other.network_interface == *interface) {
                let reason = format!("it is the bridge of network {}", other.name);
                return Err(Error::value("interface name", interface, reason));
            }
            interface.clone()
        }
        None => {
            let live = host::interfaces();
            let is_taken = |name: &str| {
                live.iter().any(|live| live == name) || others.values().any(|other| other.network_interface == name)
            };
            free_name(is_taken)
        }
    };
    let mut network = NetworkConfig { options: options.kept, ..base(name, "bridge", interface, wish) };
    match wish.ipam_driver.as_deref() {
        None | Some(HOST_LOCAL) => {
            network.subnets = subnets(wish, &used(others))?;
            network.ipam_options.insert("driver".to_owned(), HOST_LOCAL.to_owned());
        }
        Some("none") if wish.subnets.is_empty() => {
            network.ipam_options.insert("driver".to_owned(), "none".to_owned());
            network.dns_enabled = false;
        }
        Some("none") => {
            return Err(Error::value("IPAM driver", "none", "it gives no addresses, and a subnet is given"));
        }
        Some(other) => return Err(Error::value("IPAM driver", other, "a bridge's is host-local or none")),
    }
    network.ipv6_enabled |= network.subnets.iter().any(|subnet| !subnet.subnet.is_ipv4());
    // Without a way out and without names nobody needs the host.
    if network.internal && !network.dns_enabled && wish.gateways.is_empty() {
        network.subnets.iter_mut().for_each(|subnet| subnet.gateway = None);
    }
    Ok(network)
}

/// What the options of a bridge say.
#[derive(Default)]
struct BridgeOptions {
    kept: BTreeMap<String, String>,
    bridge: Option<String>,
}

/// Checks a bridge's options; docker's words for some of them are understood too.
fn bridge_options(asked: &BTreeMap<String, String>) -> Result<BridgeOptions> {
    let mut options = BridgeOptions::default();
    for (key, value) in asked {
        let key = match key.as_str() {
            "com.docker.network.driver.mtu" => "mtu",
            "com.docker.network.bridge.name" => {
                options.bridge = Some(value.clone());
                continue;
            }
            other => other,
        };
        let checked = match key {
            "mtu" => whole(key, value, 0..=u32::from(u16::MAX))?,
            "vlan" => whole(key, value, 0..=4094)?,
            "metric" => whole(key, value, 0..=u32::MAX)?,
            "isolate" if value == "strict" => value.clone(),
            "isolate" | "no_default_route" => boolean(key, value)?,
            "vrf" => {
                check_interface(value)?;
                value.clone()
            }
            other => {
                let reason = "expected mtu, vlan, metric, isolate, no_default_route or vrf";
                return Err(Error::value("option of a bridge", other, reason));
            }
        };
        options.kept.insert(key.to_owned(), checked);
    }
    Ok(options)
}

fn whole(key: &str, value: &str, range: std::ops::RangeInclusive<u32>) -> Result<String> {
    match value.parse::<u32>() {
        Ok(number) if range.contains(&number) => Ok(number.to_string()),
        _ => {
            let reason = format!("expected a whole number from {} to {}", range.start(), range.end());
            Err(Error::value("network option", format!("{key}={value}"), reason))
        }
    }
}

/// netavark reads these two words alone; podman takes Go's others for them.
fn boolean(key: &str, value: &str) -> Result<String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".to_owned()),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".to_owned()),
        _ => Err(Error::value("network option", format!("{key}={value}"), "expected true or false")),
    }
}

/// A network that is one of the host's interfaces, shared.
fn vlan(name: String, driver: &str, wish: &NewNetwork) -> Result<NetworkConfig> {
    let (mut interface, mut kept) = (wish.interface.clone().unwrap_or_default(), BTreeMap::new());
    let modes: &[&str] = match driver {
        "macvlan" => &["bridge", "private", "vepa", "passthru"],
        _ => &["l2", "l3", "l3s"],
    };
    for (key, value) in &wish.options {
        let checked = match (key.as_str(), driver) {
            ("parent", _) => {
                interface.clone_from(value);
                continue;
            }
            ("mode", _) if modes.contains(&value.as_str()) => value.clone(),
            ("mode", _) => return Err(Error::value("mode", value, format!("expected one of {}", modes.join(", ")))),
            ("mtu", _) => whole(key, value, 0..=u32::from(u16::MAX))?,
            ("metric", _) => whole(key, value, 0..=u32::MAX)?,
            ("no_default_route", _) => boolean(key, value)?,
            ("bclim", "macvlan") if value.parse::<i32>().is_ok() => value.clone(),
            (other, _) => {
                let reason = format!(
                    "expected parent, mode, mtu, metric, no_default_route{}",
                    if driver == "macvlan" { " or bclim" } else { "" }
                );
                return Err(Error::value("option of this driver", other, reason));
            }
        };
        kept.insert(key.clone(), checked);
    }
    if !interface.is_empty() && !host::interfaces().contains(&interface) {
        return Err(Error::value("parent interface", interface, "the host has no such interface"));
    }
    let ipam = match (wish.ipam_driver.as_deref(), wish.subnets.is_empty()) {
        (None | Some(HOST_LOCAL), false) => HOST_LOCAL,
        (None | Some(DHCP), true) if driver == "macvlan" => DHCP,
        (None | Some(DHCP), true) => {
            return Err(Error::value(
                "driver",
                driver,
                "its interfaces share one hardware address, so no DHCP server can give addresses: give a --subnet",
            ));
        }
        (Some(HOST_LOCAL), true) => return Err(Error::value("IPAM driver", HOST_LOCAL, "it needs a --subnet")),
        (Some("none"), true) => "none",
        (Some(other), _) => {
            return Err(Error::value(
                "IPAM driver",
                other,
                "expected host-local with a subnet, or dhcp or none without",
            ));
        }
    };
    let mut network = NetworkConfig { options: kept, dns_enabled: false, ..base(name, driver, interface, wish) };
    // The host's own subnet is what such a network is in.
    if ipam == HOST_LOCAL {
        network.subnets = subnets(wish, &[])?;
    }
    network.ipv6_enabled |= network.subnets.iter().any(|subnet| !subnet.subnet.is_ipv4());
    network.ipam_options.insert("driver".to_owned(), ipam.to_owned());
    Ok(network)
}

/// The subnets that are taken, and by whom.
fn used(others: &Networks) -> Vec<(Subnet, String)> {
    let of = |network: &NetworkConfig| {
        let holder = format!("network {} has", network.name);
        network.subnets.iter().map(|subnet| (subnet.subnet, holder.clone())).collect::<Vec<_>>()
    };
    let bridges = others.values().filter(|other| other.driver == "bridge").flat_map(of);
    let routes = host::routes().into_iter().map(|(subnet, name)| (subnet, format!("the host reaches by {name}")));
    bridges.chain(routes).collect()
}

/// Gives the subnets of a network: those that are asked for, and for each family that is wanted and missing a free one.
fn subnets(wish: &NewNetwork, used: &[(Subnet, String)]) -> Result<Vec<SubnetConfig>> {
    let mut chosen = wish.subnets.clone();
    for (at, subnet) in chosen.iter().enumerate() {
        check_subnet(*subnet)?;
        let own = chosen[..at].iter().map(|other| (*other, "is given too".to_owned()));
        if let Some((other, holder)) = used.iter().cloned().chain(own).find(|(other, _)| other.overlaps(subnet)) {
            return Err(Error::SubnetTaken { subnet: *subnet, other, holder });
        }
    }
    let is_taken = |subnet: &Subnet| used.iter().any(|(other, _)| other.overlaps(subnet));
    let has = |ipv4: bool| wish.subnets.iter().any(|subnet| subnet.is_ipv4() == ipv4);
    if wish.subnets.is_empty() || (wish.ipv6 && !has(true)) {
        chosen.insert(0, free_ipv4(is_taken)?);
    }
    if wish.ipv6 && !has(false) {
        chosen.push(free_ipv6(is_taken));
    }
    for (count, what) in [(wish.gateways.len(), "gateway"), (wish.ranges.len(), "IP range")] {
        if count > wish.subnets.len() {
            return Err(Error::value(
                what,
                count.to_string(),
                format!("there must be no more of them than subnets, which are {}", wish.subnets.len()),
            ));
        }
    }
    // What was chosen for the other family stands before those that were given, or behind.
    let before = chosen.len() - wish.subnets.len() - usize::from(wish.ipv6 && !has(false));
    let given = |at: usize| at.checked_sub(before).filter(|at| *at < wish.subnets.len());
    let configure = |(at, subnet): (usize, Subnet)| {
        let gateway = given(at).and_then(|at| wish.gateways.get(at)).copied();
        let range = given(at).and_then(|at| wish.ranges.get(at)).map(|text| lease_range(subnet, text)).transpose()?;
        if let Some(gateway) = gateway.filter(|gateway| !subnet.has_host(*gateway)) {
            return Err(Error::value(
                "gateway",
                gateway.to_string(),
                format!("it is no machine's address in {subnet}"),
            ));
        }
        let gateway = Some(gateway.unwrap_or_else(|| subnet.first_host()));
        Ok(SubnetConfig { subnet, gateway, lease_range: range, other: Map::new() })
    };
    chosen.into_iter().enumerate().map(configure).collect()
}

/// Refuses a subnet without room for the host and a container.
fn check_subnet(subnet: Subnet) -> Result<()> {
    let (most, all) = if subnet.is_ipv4() { (30, "32") } else { (126, "128") };
    if (1..=most).contains(&subnet.prefix()) {
        return Ok(());
    }
    Err(Error::value(
        "subnet",
        subnet.to_string(),
        format!("expected 1 to {most} of {all} bits: the host and a container need an address each"),
    ))
}

/// Reads `ADDRESS/BITS` or `FIRST-LAST`.
fn lease_range(subnet: Subnet, text: &str) -> Result<LeaseRange> {
    let bad = |reason: &str| Error::value("IP range", text, reason);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => {
            let read = |text: &str| text.parse::<IpAddr>().map_err(|_| bad("expected ADDRESS/BITS or FIRST-LAST"));
            (read(first)?, read(last)?)
        }
        None => {
            let range: Subnet = text.parse().map_err(|_| bad("expected ADDRESS/BITS or FIRST-LAST"))?;
            let highest = range.highest();
            // podman's rule: the lowest address of a range is left out as if it were a subnet's own.
            (range.first_host(), if subnet.has_host(highest) { highest } else { range.last_host() })
        }
    };
    if first > last {
        return Err(bad("its last address comes before its first"));
    }
    if !subnet.has_host(first) || !subnet.has_host(last) {
        return Err(Error::value("IP range", text, format!("it does not lie in the subnet {subnet}")));
    }
    Ok(LeaseRange { start_ip: Some(first), end_ip: Some(last) })
}

/// podman's pools: all /24 from 10.89.0.0 to 10.255.255.0.
fn free_ipv4(is_taken: impl Fn(&Subnet) -> bool) -> Result<Subnet> {
    let mut candidate = Subnet::of(IpAddr::from([10, 89, 0, 0]), 24);
    while let Some(subnet) = candidate.filter(|subnet| subnet.network() <= IpAddr::from([10, 255, 255, 0])) {
        if !is_taken(&subnet) {
            return Ok(subnet);
        }
        candidate = subnet.following();
    }
    Err(Error::NoFreeSubnet)
}

/// A random /64 of fd00::/8 (RFC 4193).
fn free_ipv6(is_taken: impl Fn(&Subnet) -> bool) -> Subnet {
    loop {
        let random = u128::from_str_radix(&random_hex::<7>(), 16).unwrap_or_default();
        let address = Ipv6Addr::from_bits((0xfd_u128 << 120) | (random << 64));
        if let Some(subnet) = Subnet::of(IpAddr::V6(address), 64).filter(|subnet| !is_taken(subnet)) {
            return subnet;
        }
    }
}

#[cfg(test)]
mod tests;
