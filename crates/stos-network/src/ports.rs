// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ports of the host that lead into a container.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{
    AddressFamily, Protocol as SocketProtocol, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl FromStr for Protocol {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|one| one.name().eq_ignore_ascii_case(text)).ok_or(())
    }
}

/// Ports of a container: `80`, `80/udp`, `8000-8010/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerPorts {
    /// The lowest.
    pub first: u16,
    /// How many.
    pub count: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

impl ContainerPorts {
    /// Tells whether a port is among them.
    pub fn contains(&self, port: u16, protocol: Protocol) -> bool {
        self.protocol == protocol
            && port >= self.first
            && u32::from(port) < u32::from(self.first) + u32::from(self.count)
    }

    /// Each of them.
    pub fn each(&self) -> impl Iterator<Item = u16> + use<> {
        let Self { first, count, .. } = *self;
        (0..count).map(move |at| first.saturating_add(at))
    }
}

impl FromStr for ContainerPorts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::value("port", text, reason);
        let (ports, protocol) = split_protocol(text).ok_or_else(|| bad("the protocol is not tcp, udp or sctp"))?;
        let (first, count) =
            range(ports).ok_or_else(|| bad("expected PORT[-PORT][/PROTOCOL] with ports from 1 to 65535"))?;
        Ok(Self { first, count, protocol })
    }
}

fn split_protocol(text: &str) -> Option<(&str, Protocol)> {
    match text.split_once('/') {
        Some((ports, protocol)) => Some((ports, protocol.parse().ok()?)),
        None => Some((text, Protocol::Tcp)),
    }
}

/// Reads `80` or `80-90`: the lowest, and how many.
fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| is_number && *port > 0)
    };
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            Some((first, last.checked_sub(first)?.checked_add(1)?))
        }
        None => Some((port(text)?, 1)),
    }
}

/// Ports of the host that lead to as many of a container, in netavark's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The host's address; empty for all.
    pub host_ip: String,
    /// The lowest port of the container.
    pub container_port: u16,
    /// The lowest port of the host; 0 where a free one is yet to be found.
    pub host_port: u16,
    /// How many.
    pub range: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

impl fmt::Display for PortMapping {
    /// As podman lists it: `0.0.0.0:8080->80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |first: u16| match self.range {
            1 => first.to_string(),
            count => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
        };
        let address = self.host_address();
        let colon = if address.is_ipv6() { format!("[{address}]:") } else { format!("{address}:") };
        let (host, container) = (ports(self.host_port), ports(self.container_port));
        write!(f, "{colon}{host}->{container}/{}", self.protocol.name())
    }
}

impl FromStr for PortMapping {
    type Err = Error;

    /// Reads `[[IP:][HOST]:]CONTAINER[/PROTOCOL]`, where HOST and CONTAINER may be ranges of one size.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::value("--publish", text, reason);
        let (rest, protocol) = split_protocol(text).ok_or_else(|| bad("the protocol is not tcp, udp or sctp"))?;
        let (before, container) = match rest.rsplit_once(':') {
            Some((before, container)) => (Some(before), container),
            None => (None, rest),
        };
        let (address, host) = match before.map(|before| before.rsplit_once(':').unwrap_or(("", before))) {
            Some((address, host)) => (address, host),
            None => ("", ""),
        };
        let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
        let host_ip = match bare {
            "" => String::new(),
            bare => bare.parse::<IpAddr>().map_err(|_| bad("the part before the ports is no IP address"))?.to_string(),
        };
        let numbers =
            || bad("expected [[IP:][HOST]:]CONTAINER[/PROTOCOL] with ports from 1 to 65535, or ranges FIRST-LAST");
        let (container_port, count) = range(container).ok_or_else(numbers)?;
        let host_port = match host {
            "" => 0,
            host => {
                let (first, host_count) = range(host).ok_or_else(numbers)?;
                if host_count != count {
                    return Err(bad("the ranges of the host's and the container's ports have different sizes"));
                }
                first
            }
        };
        Ok(Self { host_ip, container_port, host_port, range: count, protocol })
    }
}

impl PortMapping {
    /// The host's address; all of IPv4 where none is said.
    pub fn host_address(&self) -> IpAddr {
        self.host_ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Each port of the container with that of the host.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let Self { container_port, host_port, range, .. } = *self;
        (0..range).map(move |at| (container_port.saturating_add(at), host_port.saturating_add(at)))
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (own, others) = (self.host_address(), other.host_address());
        // A socket of IPv6 takes nothing of IPv4 (`IPV6_V6ONLY`); a mapping without an address may stand for both.
        let meet = self.host_ip.is_empty()
            || other.host_ip.is_empty()
            || own.is_ipv4() == others.is_ipv4() && (own == others || own.is_unspecified() || others.is_unspecified());
        let end = |mapping: &Self| u32::from(mapping.host_port) + u32::from(mapping.range);
        let (one, two) = (u32::from(self.host_port), u32::from(other.host_port));
        self.protocol == other.protocol && meet && one < end(other) && two < end(self)
    }
}

/// How often a range of free ports is looked for.
const TRIES: usize = 64;

/// Finds a free port of the host for each mapping that says none, and refuses two that want one port. One that is said twice is one, as with
/// podman.
///
/// # Errors
/// [`Error::PortTaken`] where none is found; [`Error::Value`].
pub fn choose_ports(mappings: &mut Vec<PortMapping>) -> Result<()> {
    let mut said: Vec<PortMapping> = Vec::new();
    for mapping in mappings.drain(..) {
        if mapping.host_port == 0 || !said.contains(&mapping) {
            said.push(mapping);
        }
    }
    *mappings = said;
    for at in 0..mappings.len() {
        if mappings[at].host_port == 0 {
            let mut found = Err(Errno::ADDRINUSE);
            for _ in 0..TRIES {
                let mut tried = mappings[at].clone();
                found = free_port(&tried);
                let Ok(port) = found else { break };
                tried.host_port = port;
                let collides = mappings
                    .iter()
                    .enumerate()
                    .any(|(other, mapping)| other != at && mapping.host_port != 0 && mapping.overlaps(&tried));
                let room = FileRoom::for_ports(tried.range.into());
                if !collides && reserve_one(&tried, false, &room).is_ok() {
                    mappings[at].host_port = port;
                    break;
                }
                found = Err(Errno::ADDRINUSE);
            }
            found.map_err(|source| taken(&mappings[at], mappings[at].host_address(), 0, source))?;
        }
        if let Some(other) = mappings[..at].iter().find(|other| other.overlaps(&mappings[at])) {
            return Err(Error::value(
                "--publish",
                mappings[at].to_string(),
                format!("the same port of the host leads elsewhere: {other}"),
            ));
        }
    }
    Ok(())
}

fn taken(mapping: &PortMapping, address: IpAddr, number: u16, source: Errno) -> Error {
    Error::PortTaken { port: mapping.to_string(), address, number, source }
}

/// Asks the kernel for a free port.
fn free_port(mapping: &PortMapping) -> std::result::Result<u16, Errno> {
    let protocol = if mapping.protocol == Protocol::Udp { Protocol::Udp } else { Protocol::Tcp };
    let socket = bound(protocol, SocketAddr::new(mapping.host_address(), 0))?;
    let address: SocketAddr = getsockname(&socket)?.try_into().map_err(|_| Errno::AFNOSUPPORT)?;
    Ok(address.port())
}

/// Sockets that hold ports of the host: nobody else can take these while they are open. No packet comes to them, for netavark's rules lead it
/// into the container before.
#[derive(Debug, Default)]
pub struct ReservedPorts {
    sockets: Vec<OwnedFd>,
}

impl ReservedPorts {
    /// Gives the sockets: who has one of them open has the port.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd)
    }
}

/// Takes the host's ports of all mappings; of IPv6 too where a mapping says no address and the container `has_ipv6`.
///
/// # Errors
/// [`Error::PortTaken`]; [`Error::TooManyPorts`].
pub fn reserve(mappings: &[PortMapping], has_ipv6: bool) -> Result<ReservedPorts> {
    let mut sockets = Vec::new();
    let room = FileRoom::for_ports(mappings.iter().map(|mapping| usize::from(mapping.range)).sum());
    for mapping in mappings {
        sockets.extend(reserve_one(mapping, has_ipv6, &room)?);
    }
    Ok(ReservedPorts { sockets })
}

/// Room for the sockets of many ports: while it is there, as many files may be open as the hard limit says (`RLIMIT_NOFILE`, getrlimit(2)),
/// and the sockets have numbers above the soft one. What is opened later, and the container, have that one again, whole.
struct FileRoom {
    /// What is put back.
    soft: Option<Rlimit>,
}

impl FileRoom {
    fn for_ports(count: usize) -> Self {
        let limit = getrlimit(Resource::Nofile);
        let is_much = limit.current.is_some_and(|soft| count as u64 > soft / 2) && limit.current != limit.maximum;
        let raised = Rlimit { current: limit.maximum, ..limit };
        Self { soft: Some(limit).filter(|_| is_much && setrlimit(Resource::Nofile, raised).is_ok()) }
    }

    /// Moves a socket above the soft limit.
    fn put(&self, socket: OwnedFd) -> std::result::Result<OwnedFd, Errno> {
        match self.soft.and_then(|limit| limit.current).map(i32::try_from) {
            Some(Ok(first)) => fcntl_dupfd_cloexec(&socket, first),
            _ => Ok(socket),
        }
    }
}

impl Drop for FileRoom {
    fn drop(&mut self) {
        if let Some(limit) = self.soft.take()
            && let Err(error) = setrlimit(Resource::Nofile, limit)
        {
            tracing::warn!(%error, "the limit of open files stays raised");
        }
    }
}

fn reserve_one(mapping: &PortMapping, has_ipv6: bool, room: &FileRoom) -> Result<Vec<OwnedFd>> {
    let mut addresses = vec![mapping.host_address()];
    if has_ipv6 && mapping.host_ip.is_empty() {
        addresses.push(Ipv6Addr::UNSPECIFIED.into());
    }
    let mut sockets = Vec::new();
    for address in addresses {
        for (_, port) in mapping.pairs() {
            match bound(mapping.protocol, SocketAddr::new(address, port)).and_then(|socket| room.put(socket)) {
                Ok(socket) => sockets.push(socket),
                Err(Errno::MFILE) => return Err(Error::TooManyPorts(mapping.to_string())),
                Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) if mapping.protocol == Protocol::Sctp => {
                    tracing::warn!(%mapping, "this kernel has no SCTP of its own: whether the port is free is unknown");
                }
                Err(errno) => return Err(taken(mapping, address, port, errno)),
            }
        }
    }
    Ok(sockets)
}

fn bound(protocol: Protocol, address: SocketAddr) -> std::result::Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, None),
        Protocol::Udp => (SocketType::DGRAM, None),
        Protocol::Sctp => (SocketType::STREAM, Some(rustix::net::ipproto::SCTP)),
    };
    let number: Option<SocketProtocol> = number;
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, number)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections that have just ended keep nobody from listening.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    if protocol != Protocol::Udp {
        listen(&socket, 1)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(text: &str) -> PortMapping {
        text.parse().unwrap()
    }

    #[test]
    fn mappings_are_read_as_podman_reads_them() {
        for (text, shown) in [
            ("8080:80", "0.0.0.0:8080->80/tcp"),
            ("80", "0.0.0.0:0->80/tcp"),
            (":80", "0.0.0.0:0->80/tcp"),
            ("127.0.0.1:8080:80/udp", "127.0.0.1:8080->80/udp"),
            ("127.0.0.1::80", "127.0.0.1:0->80/tcp"),
            ("[::1]:8080:80/SCTP", "[::1]:8080->80/sctp"),
            ("8000-8009:9000-9009", "0.0.0.0:8000-8009->9000-9009/tcp"),
        ] {
            assert_eq!(mapping(text).to_string(), shown, "{text}");
        }
        for text in [
            "",
            "x",
            "0",
            "80:x",
            "65536",
            "1:2:3",
            "8000-8001:80",
            "80-79",
            "80/icmp",
            "a.b:80:80",
            "80-",
            "+80",
            "1.2.3.4:80",
        ] {
            assert!(text.parse::<PortMapping>().is_err(), "{text}");
        }
        assert_eq!(mapping("8000-8001:80-81").pairs().collect::<Vec<_>>(), [(80, 8000), (81, 8001)]);
        let ports: ContainerPorts = "8000-8002/udp".parse().unwrap();
        assert_eq!(ports.each().collect::<Vec<_>>(), [8000, 8001, 8002]);
        assert!(ports.contains(8002, Protocol::Udp) && !ports.contains(8003, Protocol::Udp));
        assert!("80/x".parse::<ContainerPorts>().is_err() && "".parse::<ContainerPorts>().is_err());
    }

    #[test]
    fn a_port_is_held_by_one() {
        let mut mappings = vec![mapping("127.0.0.1::80"), mapping("127.0.0.1::81-83"), mapping("127.0.0.1::84/udp")];
        choose_ports(&mut mappings).unwrap();
        assert!(mappings.iter().all(|mapping| mapping.host_port > 0));
        let held = reserve(&mappings, false).unwrap();
        let error = reserve(&mappings[1..2], false).unwrap_err();
        assert!(matches!(error, Error::PortTaken { number, .. } if number == mappings[1].host_port), "{error}");
        assert!(reserve(&mappings[2..], false).is_err(), "udp too");
        drop(held);
        drop(reserve(&mappings, false).unwrap());
    }

    #[test]
    fn two_that_want_one_port_are_refused() {
        for (one, two, collide) in [
            ("8080:80", "8080:81", true),
            ("8080:80", "127.0.0.1:8080:81", true),
            ("127.0.0.2:8080:80", "127.0.0.1:8080:81", false),
            ("8080:80", "8080:81/udp", false),
            ("8080-8082:80-82", "8082:1", true),
            ("8080-8082:80-82", "8083:1", false),
            ("0.0.0.0:8080:80", "[::]:8080:80", false),
            ("0.0.0.0:8080:80", "[::1]:8080:81", false),
            ("8080:80", "[::]:8080:81", true),
            ("8080:80", "[::1]:8080:81", true),
            ("[::]:8080:80", "[::1]:8080:81", true),
        ] {
            for (one, two) in [(one, two), (two, one)] {
                let chosen = choose_ports(&mut vec![mapping(one), mapping(two)]);
                assert_eq!(chosen.is_err(), collide, "{one} {two}");
            }
        }
        let mut twice = vec![mapping("8080:80"), mapping("0.0.0.0:8081:80"), mapping("8080:80")];
        choose_ports(&mut twice).unwrap();
        assert_eq!(twice, [mapping("8080:80"), mapping("0.0.0.0:8081:80")]);
    }
}
