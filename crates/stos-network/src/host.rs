// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What this host has of networks already: interfaces, and addresses that lead somewhere.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

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

/// Waits until somebody listens at an address for questions of names; `false` where nobody does after `patience`. Of IPv6 nothing is known.
pub fn listens_for_names(address: IpAddr, patience: Duration) -> bool {
    let IpAddr::V4(address) = address else { return true };
    let deadline = Instant::now() + patience;
    loop {
        let sockets = fs::read_to_string("/proc/net/udp").unwrap_or_default();
        if sockets.lines().any(|line| is_name_server(line, address)) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(2));
    }
}

/// Reads a line of `/proc/net/udp`: a number, the local address as the machine has it, its port, and more; all in hexadecimal digits.
fn is_name_server(line: &str, address: Ipv4Addr) -> bool {
    let local = line.split_whitespace().nth(1).and_then(|local| local.split_once(':'));
    let Some((local, port)) = local else { return false };
    let local = u32::from_str_radix(local, 16).map(u32::from_be).map(Ipv4Addr::from_bits);
    port == "0035" && local.is_ok_and(|local| local == address || local.is_unspecified())
}

/// Gives an address of this host that others reach it by; its loopback where it is reached by nobody.
pub fn own_address() -> IpAddr {
    let unspecified: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    // Addresses for documentation (RFC 5737, RFC 3849): no packet is sent, but the kernel chooses what one would come from.
    let others: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    let chosen = unspecified.into_iter().zip(others).find_map(|(own, other)| {
        let socket = UdpSocket::bind((own, 0)).ok()?;
        socket.connect((other, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    chosen.unwrap_or(Ipv4Addr::LOCALHOST.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_for_names_is_found() {
        let line = " 1337: 0100590A:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2";
        let address = Ipv4Addr::new(10, 89, 0, 1);
        if cfg!(target_endian = "little") {
            assert!(is_name_server(line, address) && is_name_server(&line.replace("0100590A", "00000000"), address));
        }
        assert!(!is_name_server(&line.replace(":0035", ":0036"), address));
        assert!(!is_name_server(line, Ipv4Addr::new(10, 89, 0, 2)) && !is_name_server("", address));
        assert!(!listens_for_names(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)), Duration::ZERO));
    }

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
