// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A network's configuration: the JSON that podman, netavark and stos share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::subnet::Subnet;

/// The name of the network that is always there.
pub const DEFAULT_NETWORK: &str = "podman";

/// The id of the default network: that of podman, so that both mean one.
const DEFAULT_ID: &str = "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9";

/// Who gives addresses: netavark's own word for the engine.
pub const HOST_LOCAL: &str = "host-local";
/// A DHCP server of the network outside, asked by netavark's proxy.
pub const DHCP: &str = "dhcp";

/// A network. What is not named here is kept as it is, and given on to netavark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Its name.
    pub name: String,
    /// 64 hexadecimal digits.
    pub id: String,
    /// `bridge`, `macvlan`, `ipvlan`, or a plugin's name.
    pub driver: String,
    /// The bridge; of macvlan and ipvlan the host's interface.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network_interface: String,
    /// When it was made (RFC 3339).
    #[serde(default)]
    pub created: String,
    /// Its subnets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<SubnetConfig>,
    /// Whether it has IPv6.
    #[serde(default)]
    pub ipv6_enabled: bool,
    /// Whether no way leads out of it.
    #[serde(default)]
    pub internal: bool,
    /// Whether containers find each other by name.
    #[serde(default)]
    pub dns_enabled: bool,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Options of its driver.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Who gives addresses, under `driver`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ipam_options: BTreeMap<String, String>,
    /// Whatever else there is.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetConfig {
    /// Its addresses.
    pub subnet: Subnet,
    /// The host's address, by which the way leads out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Which addresses are given to who asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_range: Option<LeaseRange>,
    /// Whatever else there is.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A range of addresses, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeaseRange {
    /// The lowest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ip: Option<IpAddr>,
    /// The highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ip: Option<IpAddr>,
}

impl SubnetConfig {
    /// Gives the lowest and the highest address that is given to who asks for none.
    pub fn range(&self) -> (IpAddr, IpAddr) {
        let range = self.lease_range.clone().unwrap_or_default();
        (range.start_ip.unwrap_or(self.subnet.first_host()), range.end_ip.unwrap_or(self.subnet.last_host()))
    }
}

impl NetworkConfig {
    /// The network that is there where nobody has made one of its name.
    pub fn default_network() -> Self {
        let subnet = Subnet::of(IpAddr::from([10, 88, 0, 0]), 16).unwrap_or_else(|| unreachable!("16 bits of 32"));
        Self {
            name: DEFAULT_NETWORK.to_owned(),
            id: DEFAULT_ID.to_owned(),
            driver: "bridge".to_owned(),
            network_interface: "podman0".to_owned(),
            created: jiff::Timestamp::now().to_string(),
            subnets: vec![SubnetConfig {
                subnet,
                gateway: Some(subnet.first_host()),
                lease_range: None,
                other: Map::new(),
            }],
            ipv6_enabled: false,
            internal: false,
            dns_enabled: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            ipam_options: BTreeMap::from([("driver".to_owned(), HOST_LOCAL.to_owned())]),
            other: Map::new(),
        }
    }

    /// Tells whether we give its containers their addresses; else a DHCP server does, or nobody.
    pub fn gives_addresses(&self) -> bool {
        let driver = self.ipam_options.get("driver").map_or("", String::as_str);
        matches!(driver, "" | HOST_LOCAL) && !self.subnets.is_empty()
    }

    /// Gives the subnet that an address lies in.
    pub fn subnet_of(&self, address: IpAddr) -> Option<&SubnetConfig> {
        self.subnets.iter().find(|subnet| subnet.subnet.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_podman_has_written_is_kept_to_the_last_field() {
        // As podman 5 writes it, with fields that only netavark knows.
        let text = r#"{
            "name": "web", "id": "53ce4390f2adb1681eb1a90ec8b48c49c015e0a8d336c197637e7f65e365fa9e", "driver": "bridge",
            "network_interface": "podman1", "created": "2026-01-31T12:00:00.000000001+01:00",
            "subnets": [{"subnet": "10.89.0.0/24", "gateway": "10.89.0.1",
                         "lease_range": {"start_ip": "10.89.0.10", "end_ip": "10.89.0.20"}}],
            "routes": [{"destination": "10.99.0.0/16", "gateway": "10.89.0.5"}], "network_dns_servers": ["9.9.9.9"],
            "ipv6_enabled": false, "internal": false, "dns_enabled": true, "ipam_options": {"driver": "host-local"}
        }"#;
        let config: NetworkConfig = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&config).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        let range = config.subnets[0].range();
        assert_eq!((range.0.to_string(), range.1.to_string()), ("10.89.0.10".into(), "10.89.0.20".into()));
        assert!(config.gives_addresses() && config.other.contains_key("routes"));
    }

    #[test]
    fn the_default_network_is_podman_s() {
        let network = NetworkConfig::default_network();
        let subnet = &network.subnets[0];
        assert_eq!((network.name.as_str(), network.network_interface.as_str()), ("podman", "podman0"));
        assert_eq!((subnet.subnet.to_string(), subnet.gateway), ("10.88.0.0/16".into(), "10.88.0.1".parse().ok()));
        assert!(!network.dns_enabled && network.id.len() == 64);
    }
}
