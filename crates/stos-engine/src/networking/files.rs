// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf` of a container.
//!
//! They are made where the container is used first, by a start or a copy, so its creation need not. Those of a container with networks are
//! written at each start: its addresses may be others then. They are written in place, for a container that shares its network has the
//! same files mounted.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use stos_network::host::own_address;
use stos_network::sandbox::Sandbox;
use stos_store::Error as StoreError;

use super::Networking;
use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::Result;
use crate::namespaces::seen_hostname;
use crate::options::Network;

/// Where systemd-resolved lists whom it asks itself: in `/etc/resolv.conf` it names only itself, which no other network namespace reaches.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What the files of a container say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnFiles<'a> {
    /// Its host name.
    pub hostname: &'a str,
    /// The kind of its network.
    pub network: Network,
    /// What is recorded of it besides.
    pub networking: &'a Networking,
    /// What it has of networks now, and its name there.
    pub now: Option<(&'a Sandbox, &'a str)>,
}

impl OwnFiles<'_> {
    /// The files that a container brings itself, mounted over those of its image.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names = vec!["hostname"];
        let shares_files = self.network == Network::Container;
        if !shares_files && !self.networking.no_hosts {
            names.push("hosts");
        }
        if !shares_files && self.network != Network::None && !self.networking.dns.of_image {
            names.push("resolv.conf");
        }
        names
    }

    fn text(&self, name: &str) -> String {
        match name {
            "hostname" => format!("{}\n", self.hostname),
            "hosts" => self.hosts(),
            _ => self.resolv_conf(),
        }
    }

    fn hosts(&self) -> String {
        let of_host = match self.network {
            Network::Host | Network::Bridge | Network::Path => fs::read_to_string("/etc/hosts").unwrap_or_default(),
            Network::None | Network::Container => String::new(),
        };
        self.hosts_over(&of_host)
    }

    /// What was asked for comes first, for the first line with a name counts; then the host's lines, then the container's own.
    fn hosts_over(&self, of_host: &str) -> String {
        let gateway = self.gateway();
        let own: Vec<&str> = match self.now {
            Some((_, name)) if name != self.hostname => vec![self.hostname, name],
            _ => vec![self.hostname],
        };
        let has_addresses = self.network == Network::Bridge;
        let is_ours = |word: &str| has_addresses && (own.contains(&word) || word.ends_with(".containers.internal"));
        let kept: Vec<&str> = of_host.lines().filter(|line| !names_of_line(line).any(is_ours)).collect();
        let has_name = |sought: &str| kept.iter().any(|line| names_of_line(line).any(|name| name == sought));
        let mut text = String::new();
        // A string takes whatever is written to it.
        for entry in &self.networking.add_hosts {
            let names = entry.names.join(" ");
            match entry.address.or(gateway).or_else(|| self.own_address()) {
                Some(address) => drop(writeln!(text, "{address}\t{names}")),
                // One with networks has none before it starts.
                None if self.now.is_none() => {}
                None => tracing::warn!(names, "no network of its leads to the host: host-gateway is no address there"),
            }
        }
        for line in &kept {
            let _ = writeln!(text, "{line}");
        }
        if !has_name("localhost") {
            text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        }
        match self.now {
            Some((sandbox, _)) => {
                let addresses = sandbox.status.values().flat_map(|network| network.addresses());
                for (address, _) in addresses.filter_map(stos_network::netavark::InterfaceAddress::parts) {
                    let _ = writeln!(text, "{address}\t{}", own.join(" "));
                }
            }
            None if !has_addresses && !has_name(self.hostname) => {
                let _ = writeln!(text, "127.0.1.1\t{}", self.hostname);
            }
            None => {}
        }
        if let Some(gateway) = gateway {
            let _ = writeln!(text, "{gateway}\thost.containers.internal host.docker.internal");
        }
        text
    }

    /// The host's address, as the container reaches it.
    fn gateway(&self) -> Option<IpAddr> {
        let (sandbox, _) = self.now?;
        let leads_out = sandbox
            .status
            .iter()
            .filter(|(name, _)| !sandbox.options.network_info.get(*name).is_some_and(|network| network.internal));
        leads_out.flat_map(|(_, network)| network.addresses()).find_map(|address| address.gateway)
    }

    /// The host's address for a container that has the host's network.
    fn own_address(&self) -> Option<IpAddr> {
        (self.network == Network::Host).then(own_address)
    }

    fn resolv_conf(&self) -> String {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let of_host = read("/etc/resolv.conf");
        let stays_here = matches!(self.network, Network::Host | Network::Path);
        if stays_here {
            return self.resolv_conf_over(&of_host, &of_host);
        }
        let is_only_local = nameservers(&of_host).all(|server| server.is_loopback());
        let servers = if is_only_local && Path::new(RESOLVED).exists() { read(RESOLVED) } else { of_host.clone() };
        self.resolv_conf_over(&servers, &of_host)
    }

    /// `servers` and `rest` are what the host has of nameservers, and of domains and options.
    fn resolv_conf_over(&self, servers: &str, rest: &str) -> String {
        let dns = &self.networking.dns;
        let stays_here = matches!(self.network, Network::Host | Network::Path);
        if stays_here && dns.is_default() {
            return rest.to_owned();
        }
        let networks = || self.now.iter().flat_map(|(sandbox, _)| sandbox.status.values());
        let named: Vec<IpAddr> =
            networks().flat_map(|network| network.dns_server_ips.iter().flatten().copied()).collect();
        let servers: Vec<IpAddr> = match (named.is_empty(), dns.servers.is_empty()) {
            (false, _) => named,
            (true, false) => dns.servers.clone(),
            // The container's loopback is not the host's.
            (true, true) => nameservers(servers).filter(|server| stays_here || !server.is_loopback()).collect(),
        };
        let words = |key: &str| {
            let lines = rest.lines().filter_map(|line| line.trim().strip_prefix(key));
            lines
                .filter(|rest| rest.starts_with([' ', '\t']))
                .flat_map(str::split_whitespace)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let searches = match dns.searches.as_slice() {
            [] => {
                let ours = networks().flat_map(|network| network.dns_search_domains.iter().flatten().cloned());
                ours.chain(words("search")).collect()
            }
            given => given.iter().filter(|domain| *domain != ".").cloned().collect::<Vec<_>>(),
        };
        let options = if dns.options.is_empty() { words("options") } else { dns.options.clone() };
        let mut text = String::new();
        for (key, words) in [("search", searches), ("options", options)] {
            if !words.is_empty() {
                let _ = writeln!(text, "{key} {}", words.join(" "));
            }
        }
        for server in servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        text
    }
}

/// The names in a line of hosts(5).
fn names_of_line(line: &str) -> impl Iterator<Item = &str> {
    line.split('#').next().unwrap_or_default().split_whitespace().skip(1)
}

/// Reads the servers of a resolv.conf(5).
fn nameservers(text: &str) -> impl Iterator<Item = IpAddr> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        // An address of one link has its name behind it.
        words.next()?.split('%').next()?.parse().ok()
    })
}

/// Writes one of a container's own files in `dir`, where it is missing or empty. It is `owner`'s, a uid and gid of the host; root's, where
/// that is `None`.
pub(crate) fn write_own_file(dir: &Path, name: &str, own: OwnFiles<'_>, owner: Option<(u32, u32)>) -> Result<()> {
    let path = dir.join(name);
    let mut opened = fs::OpenOptions::new();
    opened.write(true).create(true).truncate(true).mode(0o600);
    let mut file = opened.open(&path).map_err(StoreError::io("create", &path))?;
    // The container's processes read it, whoever they run as.
    file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(StoreError::io("chmod", &path))?;
    if let Some((uid, gid)) = owner {
        fchown(&file, Some(uid), Some(gid)).map_err(StoreError::io("chown", &path))?;
    }
    // Last, and no part of it stays: one that is not empty counts as whole.
    file.write_all(own.text(name).as_bytes()).map_err(|error| {
        let _ = file.set_len(0);
        StoreError::io("write", &path)(error).into()
    })
}

/// Those of a container's own files that one which has its network has mounted too, with their places.
pub(crate) fn shared_files(engine: &Engine, owner: &ContainerRecord) -> Vec<(&'static str, PathBuf)> {
    let own = OwnFiles { hostname: "", network: owner.network, networking: &owner.networking, now: None };
    let dir = engine.store.container_dir(&owner.id);
    own.names().into_iter().filter(|name| *name != "hostname").map(|name| (name, dir.join(name))).collect()
}

/// Writes hosts and resolv.conf again, in place, for what a container has now.
pub(crate) fn write_again(dir: &Path, own: OwnFiles<'_>) -> Result<()> {
    for name in own.names().into_iter().filter(|name| *name != "hostname") {
        let path = dir.join(name);
        fs::write(&path, own.text(name)).map_err(StoreError::io("write", &path))?;
    }
    Ok(())
}

/// Writes the files of a container again for what it has now.
pub(super) fn tell_files(engine: &Engine, record: &ContainerRecord, sandbox: &Sandbox) -> Result<()> {
    let hostname = seen_hostname(engine, record)?;
    let own = OwnFiles {
        hostname: &hostname,
        network: record.network,
        networking: &record.networking,
        now: Some((sandbox, record.name.as_str())),
    };
    write_again(&engine.store.container_dir(&record.id), own)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{DnsOptions, HostEntry};
    use super::*;

    fn sandbox() -> Sandbox {
        let options = json!({
            "container_id": "a", "container_name": "web",
            "networks": {"inner": {"interface_name": "eth0"}, "outer": {"interface_name": "eth1"}},
            "network_info": {
                "inner": {"name": "inner", "id": "1", "driver": "bridge", "internal": true},
                "outer": {"name": "outer", "id": "2", "driver": "bridge", "dns_enabled": true},
            },
        });
        let interface = |address: &str, gateway: &str| json!({"mac_address": "x", "subnets": [{"ipnet": format!("{address}/24"), "gateway": gateway}]});
        let status = json!({
            "inner": {"interfaces": {"eth0": interface("10.1.0.2", "10.1.0.1")}},
            "outer": {"dns_server_ips": ["10.2.0.1"], "dns_search_domains": ["dns.podman"],
                      "interfaces": {"eth1": interface("10.2.0.2", "10.2.0.1")}},
        });
        Sandbox { options: serde_json::from_value(options).unwrap(), status: serde_json::from_value(status).unwrap() }
    }

    #[test]
    fn hosts_names_the_container_the_host_and_what_was_asked_for() {
        let entry = |name: &str, address: Option<&str>| HostEntry {
            names: vec![name.into()],
            address: address.map(|address| address.parse().unwrap()),
        };
        let networking =
            Networking { add_hosts: vec![entry("db", Some("10.9.9.9")), entry("me", None)], ..Networking::default() };
        let sandbox = sandbox();
        let own = OwnFiles {
            hostname: "h1",
            network: Network::Bridge,
            networking: &networking,
            now: Some((&sandbox, "web")),
        };
        let of_host = "127.0.0.1 localhost h1-not # h1\n192.0.2.9 h1\n192.0.2.8 other\n";
        assert_eq!(
            own.hosts_over(of_host),
            "10.9.9.9\tdb\n10.2.0.1\tme\n127.0.0.1 localhost h1-not # h1\n192.0.2.8 other\n10.1.0.2\th1 web\n\
             10.2.0.2\th1 web\n10.2.0.1\thost.containers.internal host.docker.internal\n"
        );
        let shared = OwnFiles { now: None, network: Network::Host, ..own };
        let mine = format!("{}\tme\n", own_address());
        assert!(shared.hosts_over("").contains(&mine), "{mine}");
        let alone = OwnFiles { now: None, network: Network::None, ..own };
        let text = alone.hosts_over("");
        assert!(
            text.starts_with("10.9.9.9\tdb\n127.0.0.1\tlocalhost\n") && text.ends_with("127.0.1.1\th1\n"),
            "{text}"
        );
    }

    #[test]
    fn resolv_conf_leads_to_who_can_be_reached() {
        let of_host = "# x\nsearch example.org\noptions ndots:2\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n";
        let (sandbox, none) = (sandbox(), Networking::default());
        let text = |networking: &Networking, network, sandbox: Option<&Sandbox>| {
            let now = sandbox.map(|sandbox| (sandbox, "web"));
            OwnFiles { hostname: "h", network, networking, now }.resolv_conf_over(of_host, of_host)
        };
        let named = "search dns.podman example.org\noptions ndots:2\nnameserver 10.2.0.1\n";
        assert_eq!(text(&none, Network::Bridge, Some(&sandbox)), named);
        let plain = "search example.org\noptions ndots:2\nnameserver 192.0.2.1\n";
        assert_eq!(text(&none, Network::Bridge, None), plain);
        assert_eq!(text(&none, Network::Host, None), of_host);
        let dns = DnsOptions {
            servers: vec!["9.9.9.9".parse().unwrap()],
            searches: vec![".".into()],
            options: vec!["edns0".into()],
            of_image: false,
        };
        let asked = Networking { dns, ..Networking::default() };
        assert_eq!(text(&asked, Network::Host, None), "options edns0\nnameserver 9.9.9.9\n");
        assert_eq!(text(&asked, Network::Bridge, Some(&sandbox)), "options edns0\nnameserver 10.2.0.1\n");
    }

    #[test]
    fn which_files_there_are_follows_from_the_network() {
        let networking = Networking::default();
        let names = |network, networking| OwnFiles { hostname: "h", network, networking, now: None }.names();
        assert_eq!(names(Network::None, &networking), ["hostname", "hosts"]);
        assert_eq!(names(Network::Bridge, &networking), ["hostname", "hosts", "resolv.conf"]);
        assert_eq!(names(Network::Container, &networking), ["hostname"]);
        let dns = DnsOptions { of_image: true, ..DnsOptions::default() };
        let without = Networking { no_hosts: true, dns, ..Networking::default() };
        assert_eq!(names(Network::Host, &without), ["hostname"]);
    }
}
