// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong with networks.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use stos_sys::SysError;

use crate::subnet::Subnet;

/// Why a network could not be made, changed or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value has a form that it cannot have.
    #[error("{what} {value:?}: {reason}")]
    Value {
        /// What it is: a subnet, a network's name.
        what: &'static str,
        /// As it was given.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// There is no such network.
    #[error("no such network: {0:?}")]
    NoSuchNetwork(String),
    /// More than one network's id begins so.
    #[error("{query:?} may mean any of the networks {candidates:?}")]
    Ambiguous {
        /// What was typed.
        query: String,
        /// The names of those that fit.
        candidates: Vec<String>,
    },
    /// The name is taken.
    #[error("network {0:?} exists already")]
    Exists(String),
    /// Containers use it.
    #[error("network {network} is used by container{} {}", if containers.len() == 1 { "" } else { "s" }, containers.join(", "))]
    InUse {
        /// The network's name.
        network: String,
        /// The names of the containers.
        containers: Vec<String>,
    },
    /// The default network is always there.
    #[error("the default network {0:?} cannot be removed")]
    DefaultNetwork(String),
    /// Another network, or the host, has addresses of this subnet.
    #[error("subnet {subnet} overlaps {other}, which {holder}")]
    SubnetTaken {
        /// The one that was asked for.
        subnet: Subnet,
        /// The one that is there.
        other: Subnet,
        /// Whose that is, as the end of a sentence.
        holder: String,
    },
    /// All subnets of the pools are taken.
    #[error(
        "no free subnet is left between 10.89.0.0 and 10.255.255.0: other networks and the host's routes take all of them"
    )]
    NoFreeSubnet,
    /// An address is another container's.
    #[error("network {network}: the address {address} is taken by container {holder}")]
    AddressTaken {
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
        /// The id of the container that has it, or what else does.
        holder: String,
    },
    /// An address is in no subnet of its network, or is none that a container can have.
    #[error("network {network}: a container cannot have the address {address}: {reason}")]
    BadAddress {
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
        /// Why not.
        reason: String,
    },
    /// No address is left.
    #[error("network {network}: every address from {first} to {last} is taken")]
    NoFreeAddress {
        /// The network.
        network: String,
        /// The lowest that could be given.
        first: IpAddr,
        /// The highest.
        last: IpAddr,
    },
    /// A port of the host is taken.
    #[error("cannot publish {port}: {address}:{number} cannot be bound: {source}")]
    PortTaken {
        /// The mapping, as a person writes it.
        port: String,
        /// The host's address.
        address: IpAddr,
        /// The host's port.
        number: u16,
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
    /// More ports than files may be open.
    #[error("cannot publish {0}: each port takes an open file, and no process may have so many")]
    TooManyPorts(String),
    /// The program that makes networks is not there.
    #[error("netavark, the program that makes the networks of containers, is not installed: looked for it in {}", looked_in.join(", "))]
    NoNetavark {
        /// The directories.
        looked_in: Vec<String>,
    },
    /// netavark says that it cannot.
    #[error("netavark cannot {action} the networks {networks}: {reason}")]
    Netavark {
        /// What was asked of it.
        action: &'static str,
        /// The networks' names.
        networks: String,
        /// What it said.
        reason: String,
    },
    /// netavark has answered something else than what was asked for.
    #[error("netavark's answer is not understood: {reason}: {answer:?}")]
    NetavarkAnswer {
        /// What is wrong.
        reason: String,
        /// What it printed, cut.
        answer: String,
    },
    /// A container's networks are set up already.
    #[error("the networks of container {0} are there already")]
    SandboxExists(String),
    /// A container has no part in a network.
    #[error("container {container} is not connected to network {network}")]
    NotConnected {
        /// The container's name.
        container: String,
        /// The network's.
        network: String,
    },
    /// A container has a part in a network already.
    #[error("container {container} is connected to network {network} already")]
    Connected {
        /// The container's name.
        container: String,
        /// The network's.
        network: String,
    },
    /// A file or directory.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A file that has another form than its kind.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A record.
    #[error(transparent)]
    Store(#[from] stos_store::Error),
    /// A system call.
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// The result of an operation on networks.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A value that has a form which it cannot have.
    pub fn value(what: &'static str, value: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Value { what, value: value.into(), reason: reason.into() }
    }

    /// Gives a closure for `map_err` that says what was tried with which file.
    pub(crate) fn io<E: Into<std::io::Error>>(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// Gives what to do, where there is advice.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoNetavark { .. } => {
                "install it (Debian: `apt-get install netavark aardvark-dns`), or use --network none or host"
            }
            Self::NoSuchNetwork(_) => "`stos network ls` lists them, `stos network create` makes one",
            Self::InUse { .. } => {
                "delete or disconnect these first, or remove them along with it: `stos network rm -f`"
            }
            Self::SubnetTaken { .. } => "choose another --subnet, or leave it out: a free one is found",
            Self::PortTaken { .. } => {
                "`ss -ltnup` shows who has it; without a host's port, as in `-p 80`, a free one is found"
            }
            Self::TooManyPorts(_) => "a higher hard limit of open files allows for more: `ulimit -Hn` shows it",
            Self::AddressTaken { .. } => "choose another --ip, or leave it out: a free one is found",
            _ => return None,
        })
    }
}
