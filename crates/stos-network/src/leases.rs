// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which container has which address.
//!
//! ```text
//! RUN-DIR/stos-leases/NETWORK/
//!   10.89.0.7                a file for each address that is given: the container's id, and where its networks are recorded
//!   last-10.89.0.0_24        the address that was given last: the next one comes after it, so that none comes back at once
//! ```
//!
//! All of it under the [`NetworkLock`]. RUN-DIR goes with the boot, as the containers' network namespaces do. A lease whose container's
//! record is gone is nobody's: it is taken over when its turn comes. What podman has given on a network with names is known from the
//! list that both give aardvark-dns.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use stos_store::files;

use crate::config::{NetworkConfig, SubnetConfig};
use crate::error::{Error, Result};
use crate::lock::NetworkLock;
use crate::subnet;

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The container's id.
    pub container: String,
    /// The directory that is there as long as its networks are.
    pub sandbox: PathBuf,
}

/// The addresses of one network.
#[derive(Debug)]
pub struct Leases<'a> {
    directory: PathBuf,
    network: &'a NetworkConfig,
    /// Those of others than us, with the id of who has each.
    foreign: Vec<(IpAddr, String)>,
}

impl<'a> Leases<'a> {
    /// Opens those of `network`.
    pub fn open(run_dir: &Path, network: &'a NetworkConfig, _lock: &NetworkLock) -> Self {
        let directory = run_dir.join("stos-leases").join(&network.name);
        let names = fs::read_to_string(run_dir.join("aardvark-dns").join(&network.name)).unwrap_or_default();
        let foreign = names.lines().skip(1).flat_map(addresses_of_names).collect();
        Self { directory, network, foreign }
    }

    /// Forgets a network that is gone.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn forget(run_dir: &Path, network: &str) -> Result<()> {
        Ok(files::remove_tree(&run_dir.join("stos-leases").join(network))?)
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.directory.join(address.to_string())
    }

    /// Gives who has an address; a lease whose holder is gone is none, and is removed.
    fn holder(&self, address: IpAddr) -> Result<Option<Holder>> {
        let path = self.path(address);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let foreign = self.foreign.iter().find(|(other, _)| *other == address);
                return Ok(
                    foreign.map(|(_, container)| Holder { container: container.clone(), sandbox: PathBuf::new() })
                );
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        // Cut short where its writer was killed: then nothing was made of it.
        let holder = text
            .strip_suffix('\n')
            .and_then(|text| text.split_once('\n'))
            .map(|(container, sandbox)| Holder { container: container.to_owned(), sandbox: sandbox.into() });
        match holder {
            Some(holder) if holder.sandbox.is_dir() => Ok(Some(holder)),
            _ => {
                files::remove_file(&path)?;
                Ok(None)
            }
        }
    }

    fn write(&self, address: IpAddr, holder: &Holder) -> Result<()> {
        fs::create_dir_all(&self.directory).map_err(Error::io("make", &self.directory))?;
        let path = self.path(address);
        let text = format!("{}\n{}\n", holder.container, holder.sandbox.display());
        fs::write(&path, text).map_err(Error::io("write", &path))
    }

    /// Gives a container an address of each subnet: that of `wanted` that lies there, or a free one. In the order of the subnets.
    ///
    /// # Errors
    /// [`Error::BadAddress`], [`Error::AddressTaken`], [`Error::NoFreeAddress`]; those that were given until then are freed again.
    pub fn give(&self, holder: &Holder, wanted: &[IpAddr]) -> Result<Vec<IpAddr>> {
        self.check(wanted)?;
        if !self.network.gives_addresses() {
            return Ok(wanted.to_vec());
        }
        let mut given = Vec::new();
        for subnet in &self.network.subnets {
            let address = match wanted.iter().find(|address| subnet.subnet.contains(**address)) {
                Some(&address) => self.take(address, holder).map(|()| address),
                None => self.find_free(subnet),
            };
            let taken = address.and_then(|address| self.write(address, holder).map(|()| address));
            match taken {
                Ok(address) => given.push(address),
                Err(error) => {
                    self.free(&holder.container)?;
                    return Err(error);
                }
            }
        }
        Ok(given)
    }

    /// Refuses addresses that no container of the network can have.
    ///
    /// # Errors
    /// [`Error::BadAddress`].
    pub fn check(&self, wanted: &[IpAddr]) -> Result<()> {
        check_addresses(self.network, wanted)
    }

    /// Refuses an address that another container has. The same one has it where it was not taken down whole, or was killed before it
    /// recorded what it has.
    fn take(&self, address: IpAddr, holder: &Holder) -> Result<()> {
        match self.holder(address)? {
            None => Ok(()),
            Some(found) if found.container == holder.container => Ok(()),
            Some(found) => {
                let network = self.network.name.clone();
                let holder = found.container.chars().take(12).collect();
                Err(Error::AddressTaken { network, address, holder })
            }
        }
    }

    fn find_free(&self, subnet: &SubnetConfig) -> Result<IpAddr> {
        let (first, last) = subnet.range();
        let none_is_free = || Error::NoFreeAddress { network: self.network.name.clone(), first, last };
        if first > last || first.is_ipv4() != last.is_ipv4() {
            // As somebody may have written it: no way round would come back to where it began.
            return Err(none_is_free());
        }
        let pointer = self.directory.join(format!("last-{}", subnet.subnet.to_string().replace('/', "_")));
        let before = fs::read_to_string(&pointer).ok().and_then(|text| text.trim().parse::<IpAddr>().ok());
        let start = before.map(subnet::next).filter(|start| (first..=last).contains(start)).unwrap_or(first);
        let mut candidate = start;
        loop {
            if subnet.gateway != Some(candidate) && self.holder(candidate)?.is_none() {
                fs::create_dir_all(&self.directory).map_err(Error::io("make", &self.directory))?;
                fs::write(&pointer, candidate.to_string()).map_err(Error::io("write", &pointer))?;
                return Ok(candidate);
            }
            candidate = if candidate == last { first } else { subnet::next(candidate) };
            if candidate == start {
                return Err(none_is_free());
            }
        }
    }

    /// Frees what a container has.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn free(&self, container: &str) -> Result<()> {
        for name in files::list_names(&self.directory)? {
            let Ok(address) = name.parse::<IpAddr>() else { continue };
            if self.holder(address)?.is_some_and(|holder| holder.container == container) {
                files::remove_file(&self.path(address))?;
            }
        }
        Ok(())
    }
}

/// Refuses addresses that no container of the network can have.
///
/// # Errors
/// [`Error::BadAddress`].
pub fn check_addresses(network: &NetworkConfig, wanted: &[IpAddr]) -> Result<()> {
    for &address in wanted {
        let bad = |reason: String| Error::BadAddress { network: network.name.clone(), address, reason };
        let subnets = network.subnets.iter().map(|subnet| subnet.subnet.to_string()).collect::<Vec<_>>().join(", ");
        match network.subnet_of(address) {
            None if network.subnets.is_empty() => return Err(bad("the network has no subnet of ours".to_owned())),
            None => return Err(bad(format!("it is in none of the network's subnets, {subnets}"))),
            Some(subnet) if subnet.gateway == Some(address) => return Err(bad("it is the gateway's".to_owned())),
            Some(subnet) if !subnet.subnet.has_host(address) => {
                return Err(bad(format!("it is no machine's address in {}", subnet.subnet)));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Reads a line of aardvark-dns's list: the container's id, its IPv4 addresses, its IPv6 addresses, and more; each a list with commas,
/// separated by single spaces, so that one may be empty.
fn addresses_of_names(line: &str) -> Vec<(IpAddr, String)> {
    let mut words = line.split(' ');
    let id = words.next().unwrap_or_default().to_owned();
    let addresses = words.take(2).flat_map(|list| list.split(','));
    addresses.filter_map(|address| Some((address.parse().ok()?, id.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LeaseRange;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn network(range: Option<(&str, &str)>) -> NetworkConfig {
        let mut network = NetworkConfig::default_network();
        network.subnets[0].subnet = "10.99.0.0/29".parse().unwrap();
        network.subnets[0].gateway = Some(ip("10.99.0.1"));
        network.subnets[0].lease_range =
            range.map(|(first, last)| LeaseRange { start_ip: Some(ip(first)), end_ip: Some(ip(last)) });
        network
    }

    #[test]
    fn addresses_go_round_and_come_back_when_they_are_freed() {
        let dir = tempfile::tempdir().unwrap();
        let (network, lock) = (network(None), NetworkLock::wait().unwrap());
        let leases = Leases::open(dir.path(), &network, &lock);
        let holder = |name: &str| {
            let sandbox = dir.path().join(name);
            fs::create_dir_all(&sandbox).unwrap();
            Holder { container: name.to_owned(), sandbox }
        };
        let give = |name: &str, wanted: &[IpAddr]| leases.give(&holder(name), wanted);
        assert_eq!(give("a", &[]).unwrap(), [ip("10.99.0.2")]);
        assert_eq!(give("b", &[]).unwrap(), [ip("10.99.0.3")]);
        leases.free("a").unwrap();
        assert_eq!(give("c", &[]).unwrap(), [ip("10.99.0.4")], "not the one that was freed just now");
        assert_eq!(give("d", &[ip("10.99.0.6")]).unwrap(), [ip("10.99.0.6")]);
        assert_eq!(give("e", &[]).unwrap(), [ip("10.99.0.5")]);
        assert_eq!(give("f", &[]).unwrap(), [ip("10.99.0.2")], "round");
        let full = give("g", &[]).unwrap_err();
        assert!(matches!(full, Error::NoFreeAddress { .. }), "{full}");
        let taken = give("g", &[ip("10.99.0.3")]).unwrap_err();
        assert!(matches!(&taken, Error::AddressTaken { holder, .. } if holder == "b"), "{taken}");
        // One whose record is gone has nothing any more; and one that was cut short is none.
        fs::remove_dir(dir.path().join("b")).unwrap();
        assert_eq!(give("g", &[]).unwrap(), [ip("10.99.0.3")]);
        fs::write(leases.path(ip("10.99.0.4")), "c").unwrap();
        assert_eq!(give("h", &[]).unwrap(), [ip("10.99.0.4")]);
    }

    #[test]
    fn what_no_container_can_have_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (network, lock) = (network(Some(("10.99.0.4", "10.99.0.5"))), NetworkLock::wait().unwrap());
        let leases = Leases::open(dir.path(), &network, &lock);
        let holder = Holder { container: "a".into(), sandbox: dir.path().to_owned() };
        for address in ["10.99.0.0", "10.99.0.1", "10.99.0.7", "10.99.1.2", "fd00::5"] {
            let error = leases.give(&holder, &[ip(address)]).unwrap_err();
            assert!(matches!(error, Error::BadAddress { .. }), "{address}: {error}");
        }
        assert_eq!(leases.give(&holder, &[]).unwrap(), [ip("10.99.0.4")], "the range says which");
        assert_eq!(leases.give(&holder, &[ip("10.99.0.2")]).unwrap(), [ip("10.99.0.2")], "who asks may have others");
    }

    #[test]
    fn what_podman_has_given_is_not_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let (network, lock) = (network(None), NetworkLock::wait().unwrap());
        fs::create_dir(dir.path().join("aardvark-dns")).unwrap();
        let names = "10.99.0.1\nid1 10.99.0.2  one,x\nid2 10.99.0.3,10.99.0.4 fd00::9 two 9.9.9.9\n";
        fs::write(dir.path().join("aardvark-dns").join(&network.name), names).unwrap();
        let leases = Leases::open(dir.path(), &network, &lock);
        let holder = Holder { container: "a".into(), sandbox: dir.path().to_owned() };
        assert_eq!(leases.give(&holder, &[]).unwrap(), [ip("10.99.0.5")]);
        let taken = leases.give(&holder, &[ip("10.99.0.3")]).unwrap_err();
        assert!(matches!(&taken, Error::AddressTaken { holder, .. } if holder == "id2"), "{taken}");
    }

    #[test]
    fn a_container_gets_the_address_again_that_it_has_not_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let (network, lock) = (network(None), NetworkLock::wait().unwrap());
        fs::create_dir(dir.path().join("aardvark-dns")).unwrap();
        fs::write(dir.path().join("aardvark-dns").join(&network.name), "10.99.0.1\na 10.99.0.3  one\n").unwrap();
        let leases = Leases::open(dir.path(), &network, &lock);
        let holder = Holder { container: "a".into(), sandbox: dir.path().to_owned() };
        for address in [ip("10.99.0.3"), ip("10.99.0.4")] {
            for _ in 0..2 {
                assert_eq!(leases.give(&holder, &[address]).unwrap(), [address]);
            }
        }
    }

    #[test]
    fn a_range_that_holds_no_address_is_no_search_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let lock = NetworkLock::wait().unwrap();
        let mut single = network(None);
        single.subnets[0].subnet = "10.99.0.7/32".parse().unwrap();
        for network in [network(Some(("10.99.0.5", "10.99.0.3"))), network(Some(("10.99.0.5", "fd00::3"))), single] {
            let leases = Leases::open(dir.path(), &network, &lock);
            let holder = Holder { container: "a".into(), sandbox: dir.path().to_owned() };
            let full = leases.give(&holder, &[]).unwrap_err();
            assert!(matches!(full, Error::NoFreeAddress { .. }), "{full}");
        }
    }
}
