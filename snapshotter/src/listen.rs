// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sockets: made, or inherited from systemd (sd_listen_fds(3)); and the word to systemd that we are ready (sd_notify(3)).

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use stos_store::files;

use crate::error::{Error, Result};

/// The socket on which containerd is served; the file of one that was made here goes with it.
#[derive(Debug)]
pub struct ServiceSocket {
    listener: UnixListener,
    /// Of one that was made here.
    path: Option<PathBuf>,
}

impl ServiceSocket {
    /// Takes the socket that systemd has made, if there is one. To be asked before anything else is opened: it is known by its number.
    ///
    /// # Errors
    /// [`Error::Listen`] where what was passed is no unix socket.
    pub fn inherited() -> Result<Option<Self>> {
        let Some(inherited) = stos_sys::inherited::listening_sockets().into_iter().next() else { return Ok(None) };
        let listener = UnixListener::from(inherited);
        listener.local_addr().map_err(|source| Error::Listen { address: "what LISTEN_FDS says".into(), source })?;
        Ok(Some(Self { listener, path: None }))
    }

    /// Makes a socket at `address`, for root alone. One that a process has left is replaced.
    ///
    /// # Errors
    /// [`Error::Listen`], also where somebody answers at `address`.
    pub fn make(address: &Path) -> Result<Self> {
        let refuse = |source| Error::Listen { address: address.display().to_string(), source };
        Ok(Self { listener: bind(address).map_err(refuse)?, path: Some(address.to_owned()) })
    }

    /// Gives the socket for tokio.
    pub fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    }
}

impl Drop for ServiceSocket {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // One that is left is replaced by the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Makes a socket for root alone.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        files::ensure_directory(parent).map_err(io::Error::other)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there"));
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there")),
            Err(_) => std::fs::remove_file(path)?,
        },
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Says a word to systemd, if it has started us: `READY=1`, `RELOADING=1`, `STOPPING=1`.
pub fn notify(word: &str) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(address.as_encoded_bytes(), word) {
        tracing::warn!(%error, word, "systemd cannot be told");
    }
}

fn send(address: &[u8], word: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(address)))?,
    };
    UnixDatagram::unbound()?.send_to_addr(word.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_socket_is_roots_alone_and_one_that_was_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/s.sock");
        drop(bind(&path).unwrap());
        assert!(path.exists(), "left");
        let listener = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "mine").unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn systemd_hears_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_encoded_bytes(), "READY=1").unwrap();
        let mut heard = [0; 16];
        let count = socket.recv(&mut heard).unwrap();
        assert_eq!(&heard[..count], b"READY=1");
        assert!(send(b"@no such socket of stos", "READY=1").is_err());
    }
}
