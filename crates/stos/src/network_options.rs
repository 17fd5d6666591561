// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Options about a container's network, read into the engine's types.

use std::net::IpAddr;

use anyhow::{anyhow, bail};
use stos_engine::Network;
use stos_engine::networking::{DnsOptions, HostEntry, NetworkOption, NetworkPlaces, NetworkingOptions};
use stos_network::config::DEFAULT_NETWORK;
use stos_network::netavark::Netavark;

use crate::cli::{NetworkArgs, NetworkPlacesArgs};

/// Reads where networks are.
pub fn places(args: &NetworkPlacesArgs) -> NetworkPlaces {
    NetworkPlaces { config_dir: args.network_config_dir.clone(), netavark: args.netavark.clone() }
}

/// Reads what a container's network is to be.
pub fn networking(args: &NetworkArgs, places: &NetworkPlacesArgs) -> anyhow::Result<(Network, NetworkingOptions)> {
    let mut options = NetworkingOptions {
        ports: args.publish.clone(),
        publish_all: args.publish_all,
        expose: args.expose.clone(),
        add_hosts: args.add_host.iter().map(|text| host_entry(text)).collect::<anyhow::Result<_>>()?,
        no_hosts: args.no_hosts,
        dns: dns(args)?,
        ..NetworkingOptions::default()
    };
    let network = match args.network.as_slice() {
        [] => default_network(args, places)?,
        [text] => read_mode(text, &mut options)?,
        several => {
            for text in several {
                match read_mode(text, &mut options)? {
                    Network::Bridge => {}
                    other => bail!("--network {text:?}: {} can only be given alone", other.name()),
                }
            }
            Network::Bridge
        }
    };
    add_to_networks(args, network, &mut options)?;
    Ok((network, options))
}

/// podman's default, where there is what makes it. What asks for it is told where there is not.
fn default_network(args: &NetworkArgs, places: &NetworkPlacesArgs) -> anyhow::Result<Network> {
    match Netavark::find(places.netavark.as_deref()) {
        Ok(_) => Ok(Network::Bridge),
        Err(error) if asks_for_networks(args).is_some() || places.netavark.is_some() => {
            Err(stos_engine::Error::from(error).into())
        }
        Err(_) => Ok(Network::None),
    }
}

/// Gives the first option that only a container with networks of its own can have.
fn asks_for_networks(args: &NetworkArgs) -> Option<&'static str> {
    let given = [
        ("--publish", !args.publish.is_empty()),
        ("--publish-all", args.publish_all),
        ("--ip", args.ip.is_some()),
        ("--ip6", args.ip6.is_some()),
        ("--mac-address", args.mac_address.is_some()),
        ("--network-alias", !args.network_alias.is_empty()),
    ];
    given.iter().find(|(_, is_given)| *is_given).map(|(option, _)| *option)
}

/// Reads one `--network`.
fn read_mode(text: &str, options: &mut NetworkingOptions) -> anyhow::Result<Network> {
    let (word, rest) = text.split_once(':').map_or((text, None), |(word, rest)| (word, Some(rest)));
    match (word, rest) {
        ("none", None) => return Ok(Network::None),
        ("host", None) => return Ok(Network::Host),
        ("container", Some(container)) if !container.is_empty() => {
            options.container = Some(container.to_owned());
            return Ok(Network::Container);
        }
        ("ns", Some(path)) if path.starts_with('/') => {
            options.namespace = Some(path.into());
            return Ok(Network::Path);
        }
        ("container" | "ns" | "none" | "host", _) => {
            bail!("--network {text:?}: expected none, host, container:CONTAINER or ns:/PATH")
        }
        ("slirp4netns" | "pasta", _) => {
            bail!("--network {text:?} is for containers without root's rights, which there are none of here")
        }
        _ => {}
    }
    match rest {
        Some(rest) => options.networks.push(network_option(text, word, rest)?),
        None => {
            for name in text.split(',') {
                let name = network_name(name);
                if name.is_empty() {
                    bail!("--network {text:?}: a name is empty");
                }
                options.networks.push(NetworkOption { network: name.to_owned(), ..NetworkOption::default() });
            }
        }
    }
    Ok(Network::Bridge)
}

/// podman's words for the default network.
fn network_name(word: &str) -> &str {
    if ["bridge", "private", "default"].contains(&word) { DEFAULT_NETWORK } else { word }
}

/// Reads `ip=ADDRESS,mac=ADDRESS,alias=NAME,interface_name=NAME` of one network.
fn network_option(text: &str, name: &str, rest: &str) -> anyhow::Result<NetworkOption> {
    let mut option = NetworkOption { network: network_name(name).to_owned(), ..NetworkOption::default() };
    for field in rest.split(',') {
        match field.split_once('=') {
            Some(("ip" | "ip6", value)) => {
                option.ips.push(value.parse().map_err(|_| anyhow!("--network {text:?}: {value:?} is no IP address"))?);
            }
            Some(("mac", value)) => option.mac = Some(value.parse()?),
            Some(("alias", value)) if !value.is_empty() => option.aliases.push(value.to_owned()),
            Some(("interface_name", value)) => option.interface = Some(value.to_owned()),
            _ => bail!("--network {text:?}: {field:?}: expected ip=, mac=, alias= or interface_name="),
        }
    }
    Ok(option)
}

/// Gives networks what was said of them by options of their own.
fn add_to_networks(args: &NetworkArgs, network: Network, options: &mut NetworkingOptions) -> anyhow::Result<()> {
    if network != Network::Bridge {
        // Ports are only warned of, as podman does.
        return match asks_for_networks(args) {
            Some(option) if !option.starts_with("--publish") => {
                bail!("{option}: the container has no network of its own (--network {})", network.name())
            }
            _ => Ok(()),
        };
    }
    if options.networks.is_empty() {
        options.networks.push(NetworkOption { network: DEFAULT_NETWORK.to_owned(), ..NetworkOption::default() });
    }
    for part in &mut options.networks {
        part.aliases.extend(args.network_alias.iter().cloned());
    }
    let ips: Vec<IpAddr> = args.ip.map(IpAddr::V4).into_iter().chain(args.ip6.map(IpAddr::V6)).collect();
    match options.networks.as_mut_slice() {
        [part] => {
            part.ips.extend(ips);
            part.mac = args.mac_address.or(part.mac);
            Ok(())
        }
        _ if ips.is_empty() && args.mac_address.is_none() => Ok(()),
        _ => bail!(
            "--ip, --ip6 and --mac-address are for one network: give each its own, as in --network NAME:ip=ADDRESS"
        ),
    }
}

/// Reads `NAME[;NAME]:ADDRESS`.
fn host_entry(text: &str) -> anyhow::Result<HostEntry> {
    let bad = || anyhow!("--add-host {text:?}: expected NAME[;NAME]:ADDRESS, or host-gateway as the address");
    let (names, address) = text.split_once(':').ok_or_else(bad)?;
    let names: Vec<String> = names.split(';').map(str::to_owned).collect();
    let is_name = |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !names.iter().all(is_name) {
        return Err(bad());
    }
    let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
    let address = if bare == "host-gateway" { None } else { Some(bare.parse().map_err(|_| bad())?) };
    Ok(HostEntry { names, address })
}

fn dns(args: &NetworkArgs) -> anyhow::Result<DnsOptions> {
    let of_image = args.dns.iter().any(|server| server == "none");
    if of_image && (args.dns.len() > 1 || !args.dns_search.is_empty() || !args.dns_option.is_empty()) {
        bail!("--dns none leaves the image's own /etc/resolv.conf: nothing else can be said about it");
    }
    let servers = args
        .dns
        .iter()
        .filter(|_| !of_image)
        .map(|server| server.parse().map_err(|_| anyhow!("--dns {server:?}: expected an IP address, or none")));
    let is_word = |text: &&String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if let Some(bad) = args.dns_search.iter().chain(&args.dns_option).find(|text| !is_word(text)) {
        bail!("--dns-search or --dns-option {bad:?}: expected one word");
    }
    Ok(DnsOptions {
        servers: servers.collect::<anyhow::Result<_>>()?,
        searches: args.dns_search.clone(),
        options: args.dns_option.clone(),
        of_image,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn read(line: &str) -> anyhow::Result<(Network, NetworkingOptions)> {
        let words =
            ["stos", "--netavark", "/bin/true", "create"].into_iter().chain(line.split_whitespace()).chain(["image"]);
        let cli = Cli::try_parse_from(words)?;
        let Command::Create(create) = cli.command else { panic!("{line}") };
        networking(&create.image_options.network, &cli.global.networks)
    }

    #[test]
    fn networks_are_read_as_podman_reads_them() {
        for (line, network, names) in [
            ("--network none", Network::None, &[][..]),
            ("--net host", Network::Host, &[]),
            ("--network=bridge", Network::Bridge, &["podman"]),
            ("", Network::Bridge, &["podman"]),
            ("--network a,b --network c:ip=10.1.1.1", Network::Bridge, &["a", "b", "c"]),
            ("--network container:web", Network::Container, &[]),
            ("--network ns:/run/netns/x", Network::Path, &[]),
        ] {
            let (found, options) = read(line).unwrap();
            let found_names: Vec<_> = options.networks.iter().map(|part| part.network.as_str()).collect();
            assert_eq!((found, found_names.as_slice()), (network, names), "{line}");
        }
        let (_, options) =
            read("--network bridge:ip=10.88.0.9,ip6=fd00::9,mac=92:d0:c6:0a:29:33,alias=x,alias=y,interface_name=up0")
                .unwrap();
        let part = &options.networks[0];
        assert_eq!((part.ips.len(), part.aliases.join(" "), part.interface.as_deref()), (2, "x y".into(), Some("up0")));
        let (_, options) = read("--network a --ip 10.1.1.9 --network-alias z --mac-address 92:d0:c6:0a:29:33").unwrap();
        let part = &options.networks[0];
        assert!(part.ips.len() == 1 && part.aliases == ["z"] && part.mac.is_some());
        for line in [
            "--network a --network none",
            "--network host:x",
            "--network container:",
            "--network ns:x",
            "--network pasta",
            "--network a,,b",
            "--network a:ip=x",
            "--network a:colour=red",
            "--network a --network b --ip 10.1.1.1",
            "--network none --ip 10.1.1.1",
            "--network host --network-alias x",
            "--ip x",
            "-p x",
            "--expose 0",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn hosts_and_names_are_read() {
        let (_, options) = read("--add-host a;b:10.1.1.1 --add-host c:[fd00::1] --add-host d:host-gateway --dns 9.9.9.9 --dns-search . --dns-opt ndots:1").unwrap();
        assert_eq!(options.add_hosts[0].names, ["a", "b"]);
        assert_eq!(options.add_hosts[1].address, Some("fd00::1".parse().unwrap()));
        assert_eq!(options.add_hosts[2].address, None);
        assert_eq!((options.dns.servers.len(), options.dns.searches.len(), options.dns.options.len()), (1, 1, 1));
        assert!(read("--dns none").unwrap().1.dns.of_image);
        for line in ["--add-host a", "--add-host :10.1.1.1", "--add-host a:x", "--dns x", "--dns none --dns 9.9.9.9"] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn without_netavark_only_who_asks_for_networks_is_refused() {
        let read = |line: &str| {
            let words = ["stos", "create"].into_iter().chain(line.split_whitespace()).chain(["image"]);
            let Command::Create(create) = Cli::try_parse_from(words).unwrap().command else { panic!("{line}") };
            asks_for_networks(&create.image_options.network)
        };
        assert_eq!(read("--name x"), None);
        assert_eq!(read("-p 80"), Some("--publish"));
        assert_eq!(read("--ip 10.1.1.1"), Some("--ip"));
    }
}
