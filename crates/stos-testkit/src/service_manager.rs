// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A service manager's end of sd_notify(3): what it is told, one datagram after the other.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// How long a word may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Listens for what services say.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: String,
}

impl ServiceManager {
    /// Listens at a path, which is not there yet.
    pub fn at(path: &Path) -> Self {
        Self::of(UnixDatagram::bind(path).unwrap(), path.to_str().unwrap().to_owned())
    }

    /// Listens under a name that is no file's.
    pub fn named(name: &str) -> Self {
        let address = SocketAddr::from_abstract_name(name).unwrap();
        Self::of(UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
    }

    fn of(socket: UnixDatagram, address: String) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, address }
    }

    /// What services find in `NOTIFY_SOCKET`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it is told next. A descriptor that comes along is closed: a barrier is passed.
    pub fn hears(&self) -> String {
        let mut datagram = [0; 4096];
        let length = self.socket.recv(&mut datagram).expect("a notification");
        String::from_utf8_lossy(&datagram[..length]).into_owned()
    }

    /// Whether there is nothing that it has not heard.
    pub fn hears_nothing(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let nothing = self.socket.recv(&mut [0; 4096]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        nothing
    }
}
