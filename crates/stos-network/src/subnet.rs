// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Subnets and hardware addresses, as networks are described with them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A range of addresses that begin with the same bits: `10.89.0.0/24`, `fd00:1::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Subnet {
    /// The lowest address.
    network: IpAddr,
    prefix: u8,
}

/// An address as a number, so that both families count alike.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of a number, in the family of `like`.
fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        // What does not fit is no address of the family: the highest one stands for it.
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

fn bits(like: IpAddr) -> u8 {
    if like.is_ipv4() { 32 } else { 128 }
}

/// Gives the address after this one; the highest is followed by itself.
pub fn next(of: IpAddr) -> IpAddr {
    address(number(of).saturating_add(1), of)
}

impl Subnet {
    /// Takes the subnet of `prefix` bits that `member` lies in; `None` for more bits than the family has.
    pub fn of(member: IpAddr, prefix: u8) -> Option<Self> {
        let host_bits = u32::from(bits(member).checked_sub(prefix)?);
        let network = number(member).checked_shr(host_bits).unwrap_or(0).checked_shl(host_bits).unwrap_or(0);
        Some(Self { network: address(network, member), prefix })
    }

    /// Tells whether it is one of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }

    /// How many leading bits its addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Its lowest address: the network's own.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Its highest address; with IPv4 the one that reaches all.
    pub fn highest(&self) -> IpAddr {
        let host_bits = u32::from(bits(self.network) - self.prefix);
        let hosts = 1_u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
        address(number(self.network) | hosts, self.network)
    }

    /// The lowest address that a machine can have.
    pub fn first_host(&self) -> IpAddr {
        next(self.network)
    }

    /// The highest address that a machine can have.
    pub fn last_host(&self) -> IpAddr {
        match self.highest() {
            IpAddr::V4(highest) => Ipv4Addr::from_bits(highest.to_bits().saturating_sub(1)).into(),
            highest @ IpAddr::V6(_) => highest,
        }
    }

    /// Tells whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::of(address, self.prefix.min(bits(address))).is_some_and(|found| found == *self)
    }

    /// Tells whether a machine can have an address of it: neither the network's own nor the one that reaches all.
    pub fn has_host(&self, address: IpAddr) -> bool {
        self.contains(address) && (self.first_host()..=self.last_host()).contains(&address)
    }

    /// Tells whether any address lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The subnet of the same size that follows; `None` behind the last.
    pub fn following(&self) -> Option<Self> {
        let after = next(self.highest());
        (after > self.highest()).then(|| Self::of(after, self.prefix)).flatten()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    /// Reads `ADDRESS/BITS`; bits of the address behind those are dropped, as podman does.
    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let (address, prefix) = text.split_once('/')?;
            Self::of(address.parse().ok()?, prefix.parse().ok()?)
        };
        read().ok_or_else(|| Error::value("subnet", text, "expected ADDRESS/BITS, such as 10.89.5.0/24 or fd00:5::/64"))
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// A hardware address of six bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MacAddress([u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason| Error::value("hardware address", text, reason);
        let digits: Vec<_> = text.split([':', '-']).map(|part| (part.len(), u8::from_str_radix(part, 16))).collect();
        let read = |(length, byte): &(usize, std::result::Result<u8, _>)| match byte {
            Ok(byte) if *length == 2 => Some(*byte),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = digits.iter().map(read).collect();
        let bytes: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
        match bytes {
            // The lowest bit of the first byte: no machine's own (IEEE 802).
            Some(bytes) if bytes[0] & 1 == 1 => Err(bad("it is a multicast address, which no machine can have")),
            Some(bytes) => Ok(Self(bytes)),
            None => Err(bad("expected six bytes, such as 92:d0:c6:0a:29:33")),
        }
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for MacAddress {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_read_and_written() {
        for (text, written) in [
            ("10.89.0.0/24", "10.89.0.0/24"),
            ("10.89.0.77/24", "10.89.0.0/24"),
            ("fd00:1:2::5/64", "fd00:1:2::/64"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.0.0.1/32", "10.0.0.1/32"),
        ] {
            assert_eq!(subnet(text).to_string(), written);
        }
        for text in ["", "10.89.0.0", "10.89.0.0/33", "10.89.0/24", "fd00::/129", "x/24", "10.0.0.0/-1"] {
            let said = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(said.starts_with("subnet ") && said.contains("expected ADDRESS/BITS"), "{said}");
        }
    }

    #[test]
    fn hosts_lie_between_both_ends() {
        let small = subnet("10.89.0.0/24");
        assert_eq!((small.first_host(), small.last_host()), (ip("10.89.0.1"), ip("10.89.0.254")));
        assert!(small.has_host(ip("10.89.0.254")) && !small.has_host(ip("10.89.0.255")));
        assert!(!small.has_host(ip("10.89.0.0")) && !small.has_host(ip("10.89.1.1")) && !small.has_host(ip("fd00::1")));
        let large = subnet("fd00::/64");
        assert_eq!(large.last_host(), ip("fd00::ffff:ffff:ffff:ffff"));
        assert_eq!(subnet("0.0.0.0/0").highest(), ip("255.255.255.255"));
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let one = subnet("10.89.0.0/24");
        let two = one.following().unwrap();
        assert_eq!(two, subnet("10.89.1.0/24"));
        assert!(!one.overlaps(&two) && one.overlaps(&subnet("10.88.0.0/15")) && subnet("10.88.0.0/15").overlaps(&one));
        assert!(!one.overlaps(&subnet("fd00::/8")));
        assert_eq!(subnet("255.255.255.0/24").following(), None);
    }

    #[test]
    fn hardware_addresses_are_a_machine_s() {
        assert_eq!("92:D0:c6:0a:29:33".parse::<MacAddress>().unwrap().to_string(), "92:d0:c6:0a:29:33");
        for text in
            ["", "92:d0:c6:0a:29", "92:d0:c6:0a:29:3", "92:d0:c6:0a:29:33:44", "zz:d0:c6:0a:29:33", "01:00:5e:0:0:1"]
        {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
        assert!("01:00:5e:00:00:01".parse::<MacAddress>().unwrap_err().to_string().contains("multicast"));
    }
}
