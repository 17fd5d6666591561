// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `NO_PROXY`: what is reached directly.

use std::net::{IpAddr, Ipv6Addr};

/// The entries of `NO_PROXY`, separated by commas. White space around one does not count, and neither does case.
///
/// | entry | what it excepts |
/// |---|---|
/// | `*` | everything |
/// | `example.com` | the host and all below it |
/// | `.example.com`, `*.example.com` | all below it, not itself |
/// | `10.0.0.1`, `fd00::1`, `[fd00::1]` | the address, not names that lead to it |
/// | `10.0.0.0/8`, `fd00::/8` | the addresses |
/// | any of the first five with `:PORT` | that port alone; an IPv6 address in brackets |
///
/// What is none of these excepts nothing, as in Go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoProxy(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    text: String,
    rule: Rule,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    All,
    Network(IpAddr, u32),
    Address(IpAddr),
    /// The domain with a dot before it, and whether the host of that name counts too.
    Domain(String, bool),
}

/// A host that is to be reached.
pub(super) struct Target {
    name: String,
    address: Option<IpAddr>,
    port: u16,
}

impl Target {
    /// Takes a name or an address, in brackets or not.
    pub(super) fn new(name: &str, port: u16) -> Self {
        let name = name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let address = name.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        Self { name, address, port }
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.name == "localhost" || self.address.is_some_and(|address| address.is_loopback())
    }
}

impl NoProxy {
    /// Reads a list.
    pub fn parse(text: &str) -> Self {
        Self(text.split(',').filter_map(|entry| Entry::parse(&entry.trim().to_ascii_lowercase())).collect())
    }

    /// Gives the entry that excepts a target.
    pub(super) fn entry_for(&self, target: &Target) -> Option<&str> {
        self.0.iter().find(|entry| entry.excepts(target)).map(|entry| entry.text.as_str())
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        let entry = |rule, port| Some(Self { text: text.to_owned(), rule, port });
        if text == "*" {
            return entry(Rule::All, None);
        }
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            return entry(Rule::Network(address, bits.parse().ok().filter(|&bits| bits <= most)?), None);
        }
        // An IPv6 address without brackets has colons and no port.
        if let Ok(address) = text.parse::<IpAddr>() {
            return entry(Rule::Address(address.to_canonical()), None);
        }
        let (host, port) = match crate::names::split_port(text) {
            (host, Some(port)) => (host, Some(port.parse().ok()?)),
            (host, None) => (host, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return entry(Rule::Address(address.to_canonical()), port);
        }
        let domain = host.strip_prefix('*').filter(|domain| domain.starts_with('.')).unwrap_or(host);
        match domain.strip_prefix('.') {
            _ if domain.is_empty() || domain == "." => None,
            Some(_) => entry(Rule::Domain(domain.to_owned(), false), port),
            None => entry(Rule::Domain(format!(".{domain}"), true), port),
        }
    }

    fn excepts(&self, target: &Target) -> bool {
        let fits = match (&self.rule, target.address) {
            (Rule::All, _) => true,
            (Rule::Network(network, bits), Some(address)) => contains(*network, *bits, address),
            (Rule::Address(wanted), Some(address)) => *wanted == address,
            (Rule::Domain(domain, itself), None) => {
                target.name.ends_with(domain.as_str()) || *itself && target.name == domain[1..]
            }
            _ => false,
        };
        fits && self.port.is_none_or(|port| port == target.port)
    }
}

/// Tells whether an address begins with a network's bits. An IPv4 address is in no IPv6 network.
fn contains(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            Ipv6Addr::to_bits(network) & mask == Ipv6Addr::to_bits(address) & mask
        }
        _ => false,
    }
}
