// SPDX-License-Identifier: Apache-2.0 OR MIT
//! netavark: where it is, what it is asked, what it answers.
//!
//! It is a program: `netavark --config RUN-DIR --rootless=false --aardvark-binary PATH setup|teardown NAMESPACE`, with [`NetavarkOptions`]
//! as JSON on its input. It prints what it has made ([`Status`]), or `{"error": …}` and fails.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use stos_spec::text::escape;
use stos_sys::process::child::block_no_signals;

use crate::config::NetworkConfig;
use crate::error::{Error, Result};
use crate::ports::PortMapping;
use crate::subnet::MacAddress;

/// Where podman's helpers are, in the order that podman looks (containers.conf(5), `helper_binaries_dir`).
const DIRECTORIES: [&str; 4] =
    ["/usr/local/libexec/podman", "/usr/local/lib/podman", "/usr/libexec/podman", "/usr/lib/podman"];

/// How much of an answer is quoted, in characters.
const QUOTED: usize = 300;

/// A container's part in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The interface's name in the container.
    pub interface_name: String,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub static_ips: Vec<IpAddr>,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub static_mac: Option<MacAddress>,
    /// Its further names in the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// What netavark reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetavarkOptions {
    /// The container's id.
    pub container_id: String,
    /// Its name, by which others find it.
    pub container_name: String,
    /// The host's ports that lead into it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// Whom its names that no container has are asked of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_servers: Vec<IpAddr>,
    /// Its part in each network, by the network's name.
    pub networks: BTreeMap<String, Connection>,
    /// Those networks.
    pub network_info: BTreeMap<String, NetworkConfig>,
}

/// What netavark has made, by the network's name.
pub type Status = BTreeMap<String, NetworkStatus>;

/// What it has made in one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// In which domains names are looked for.
    #[serde(default)]
    pub dns_search_domains: Option<Vec<String>>,
    /// Who knows the names.
    #[serde(default)]
    pub dns_server_ips: Option<Vec<IpAddr>>,
    /// The container's interfaces, by their names.
    #[serde(default)]
    pub interfaces: Option<BTreeMap<String, InterfaceStatus>>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its hardware address.
    pub mac_address: String,
    /// Its addresses.
    #[serde(default)]
    pub subnets: Option<Vec<InterfaceAddress>>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAddress {
    /// By which the way leads out.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// ADDRESS/BITS.
    pub ipnet: String,
}

impl InterfaceAddress {
    /// Gives the address and its subnet's bits.
    pub fn parts(&self) -> Option<(IpAddr, u8)> {
        let (address, bits) = self.ipnet.split_once('/')?;
        Some((address.parse().ok()?, bits.parse().ok()?))
    }
}

impl NetworkStatus {
    /// Gives each address that the container has there.
    pub fn addresses(&self) -> impl Iterator<Item = &InterfaceAddress> {
        self.interfaces.iter().flat_map(BTreeMap::values).flat_map(|interface| interface.subnets.iter().flatten())
    }
}

/// The program, and the one that knows names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netavark {
    program: PathBuf,
    aardvark: Option<PathBuf>,
}

impl Netavark {
    /// Finds both: `given`, or where podman looks for it. aardvark-dns is looked for beside it first; names can be done without.
    ///
    /// # Errors
    /// [`Error::NoNetavark`].
    pub fn find(given: Option<&Path>) -> Result<Self> {
        let search: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
        let places = DIRECTORIES.iter().map(PathBuf::from).chain(search);
        let in_places = |name: &str| places.clone().map(|place| place.join(name)).find(|file| is_program(file));
        let program = match given {
            Some(path) if is_program(path) => path.to_owned(),
            Some(path) => return Err(Error::NoNetavark { looked_in: vec![path.display().to_string()] }),
            None => in_places("netavark").ok_or_else(|| {
                let mut looked_in: Vec<_> = DIRECTORIES.map(str::to_owned).to_vec();
                looked_in.push("$PATH".to_owned());
                Error::NoNetavark { looked_in }
            })?,
        };
        let beside = program.parent().map(|place| place.join("aardvark-dns")).filter(|file| is_program(file));
        Ok(Self { aardvark: beside.or_else(|| in_places("aardvark-dns")), program })
    }

    /// Tells whether containers can find each other by name.
    pub fn knows_names(&self) -> bool {
        self.aardvark.is_some()
    }

    /// Has it do `action` (`setup` or `teardown`) in a network namespace. `input` holds the options, from its beginning; the process has
    /// it open, with whatever lock is on it, until it has ended.
    ///
    /// # Errors
    /// [`Error::Netavark`] with what it said.
    pub(crate) fn run(
        &self,
        action: &'static str,
        run_dir: &Path,
        namespace: &Path,
        input: File,
        networks: impl FnOnce() -> String,
    ) -> Result<Vec<u8>> {
        // Files and no pipes: aardvark-dns, which it leaves behind, keeps nobody waiting for their end.
        let (mut output, mut errors) = (in_memory()?, in_memory()?);
        let shared = |file: &File| file.try_clone().map_err(Error::io("share", "a file in memory"));
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(run_dir).arg("--rootless=false");
        command.arg("--aardvark-binary").arg(self.aardvark.as_deref().unwrap_or(Path::new("")));
        command.arg(action).arg(namespace).current_dir("/");
        command.stdin(input).stdout(Stdio::from(shared(&output)?)).stderr(Stdio::from(shared(&errors)?));
        // A monitor blocks signals for itself; aardvark-dns, which lives on, is told of new names by one.
        block_no_signals(&mut command);
        let status = command.status().map_err(Error::io("run", &self.program))?;
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
            read.map(|_| bytes).map_err(Error::io("read", "what netavark has printed"))
        };
        let (said, warned) = (read(&mut output)?, read(&mut errors)?);
        if status.success() {
            return Ok(said);
        }
        let reason = reason(&said, &warned).unwrap_or_else(|| status.to_string());
        Err(Error::Netavark {
            action: if action == "setup" { "make" } else { "take down" },
            networks: networks(),
            reason,
        })
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn in_memory() -> Result<File> {
    let made = memfd_create("netavark", MemfdFlags::CLOEXEC);
    made.map(File::from).map_err(Error::io("make", "a file in memory"))
}

fn quoted(bytes: &[u8]) -> String {
    escape(String::from_utf8_lossy(bytes).trim()).chars().take(QUOTED).collect()
}

/// Finds why it failed: in its answer, or in what it complained of.
fn reason(said: &[u8], warned: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Failure {
        error: String,
    }
    let told = serde_json::from_slice::<Failure>(said).ok().map(|failure| quoted(failure.error.as_bytes()));
    told.or_else(|| Some(quoted(warned)))
        .filter(|text| !text.is_empty())
        .or_else(|| Some(quoted(said)))
        .filter(|text| !text.is_empty())
}

/// Reads what it has made.
///
/// # Errors
/// [`Error::NetavarkAnswer`], also where one of the networks is missing.
pub(crate) fn read_status(answer: &[u8], options: &NetavarkOptions) -> Result<Status> {
    let bad = |reason: String| Error::NetavarkAnswer { reason, answer: quoted(answer) };
    let status: Status = serde_json::from_slice(answer).map_err(|error| bad(error.to_string()))?;
    match options.networks.keys().find(|name| !status.contains_key(*name)) {
        Some(name) => Err(bad(format!("it says nothing of network {name}"))),
        None => Ok(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> NetavarkOptions {
        let connection = Connection { interface_name: "eth0".into(), ..Connection::default() };
        NetavarkOptions {
            container_id: "a".into(),
            container_name: "one".into(),
            port_mappings: vec!["127.0.0.1:8080:80".parse().unwrap()],
            dns_servers: Vec::new(),
            networks: BTreeMap::from([("podman".to_owned(), connection)]),
            network_info: BTreeMap::from([("podman".to_owned(), NetworkConfig::default_network())]),
        }
    }

    #[test]
    fn what_it_reads_has_its_form() {
        let value = serde_json::to_value(options()).unwrap();
        let port = serde_json::json!({
            "host_ip": "127.0.0.1", "container_port": 80, "host_port": 8080, "range": 1, "protocol": "tcp",
        });
        assert_eq!(value["port_mappings"][0], port);
        assert_eq!(value["networks"]["podman"], serde_json::json!({"interface_name": "eth0"}));
        assert_eq!(value["network_info"]["podman"]["network_interface"], "podman0");
    }

    #[test]
    fn what_it_says_is_understood() {
        let text = br#"{"podman":{"dns_search_domains":[],"dns_server_ips":[],"interfaces":{"eth0":{
            "mac_address":"02:00:00:00:00:01","subnets":[{"gateway":"10.88.0.1","ipnet":"10.88.0.2/16"}]}}}}"#;
        let status = read_status(text, &options()).unwrap();
        let address = status["podman"].addresses().next().unwrap();
        assert_eq!(address.parts(), Some(("10.88.0.2".parse().unwrap(), 16)));
        assert!(matches!(read_status(b"{}", &options()), Err(Error::NetavarkAnswer { .. })));
        assert!(matches!(read_status(b"what", &options()), Err(Error::NetavarkAnswer { .. })));
        assert_eq!(reason(br#"{"error":"no iptables"}"#, b"warning").unwrap(), "no iptables");
        assert_eq!(reason(b"", b"thread panicked\n").unwrap(), "thread panicked");
        assert_eq!(reason(b"", b""), None);
    }

    #[test]
    fn one_that_is_not_there_is_told_with_where_it_was_looked_for() {
        let error = Netavark::find(Some(Path::new("/no/netavark"))).unwrap_err();
        assert!(error.to_string().ends_with("/no/netavark") && error.hint().unwrap().contains("apt-get install"));
    }
}
