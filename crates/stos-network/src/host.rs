// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What this host has of networks already: interfaces, and addresses that lead somewhere.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::subnet::Subnet;

/// Lists the names of the interfaces.
pub fn interfaces() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Lists the subnets that the host has routes to, each with its interface. A default route leads everywhere and counts for nothing;
/// nor does the loopback's.
pub fn routes() -> Vec<(Subnet, String)> {
    let read = |path: &str| fs::read_to_string(Path::new("/proc/net").join(path)).unwrap_or_default();
    let v4 = read("route").lines().skip(1).filter_map(route_v4).collect::<Vec<_>>();
    let v6 = read("ipv6_route").lines().filter_map(route_v6).collect::<Vec<_>>();
    v4.into_iter().chain(v6).filter(|(subnet, name)| subnet.prefix() > 0 && name != "lo").collect()
}

/// Reads a line of `/proc/net/route`: interface, destination, gateway, five further columns, mask; numbers as the machine has them.
fn route_v4(line: &str) -> Option<(Subnet, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok().map(u32::from_be);
    let (destination, mask) = (number(1)?, number(7)?);
    let prefix = u8::try_from(mask.leading_ones()).ok()?;
    Some((Subnet::of(IpAddr::V4(Ipv4Addr::from_bits(destination)), prefix)?, (*words.first()?).to_owned()))
}

/// Reads a line of `/proc/net/ipv6_route`: destination, its bits, seven further columns, interface. Link-local and multicast routes
/// are every interface's.
fn route_v6(line: &str) -> Option<(Subnet, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let address = Ipv6Addr::from_bits(u128::from_str_radix(words.first()?, 16).ok()?);
    let prefix = u8::from_str_radix(words.get(1)?, 16).ok()?;
    let is_everywhere = address.is_unicast_link_local() || address.is_multicast() || address.is_loopback();
    (!is_everywhere).then_some((Subnet::of(IpAddr::V6(address), prefix)?, (*words.last()?).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read() {
        let line = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        if cfg!(target_endian = "little") {
            assert_eq!(route_v4(line).unwrap(), ("192.0.2.0/24".parse().unwrap(), "eth0".to_owned()));
        }
        let line = "fd000001000000000000000000000000 40 00000000000000000000000000000000 00 \
                    00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0";
        assert_eq!(route_v6(line).unwrap(), ("fd00:1::/64".parse().unwrap(), "eth0".to_owned()));
        let local = line.replace("fd000001", "fe800000");
        assert_eq!(route_v6(&local), None);
        assert!(route_v4("").is_none() && route_v6("").is_none());
        assert!(routes().iter().all(|(subnet, name)| subnet.prefix() > 0 && name != "lo"));
    }
}
