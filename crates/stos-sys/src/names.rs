// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How names of hosts are looked up.

use crate::error::Result;

/// Looks names of hosts up in `/etc/hosts`, then by DNS as `/etc/resolv.conf` says, whatever `/etc/nsswitch.conf` asks for.
///
/// For a program that is linked statically: both services are in glibc itself (since 2.34), while any other (`mymachines`,
/// `mdns`) would be a shared library, which needs the very glibc that the program was linked with. Call it before any thread is
/// started. Does nothing with another C library.
pub fn look_up_hosts_by_ourselves() -> Result<()> {
    #[cfg(target_env = "gnu")]
    {
        // nss.h; the libc crate does not have it.
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const libc::c_char, services: *const libc::c_char) -> libc::c_int;
        }
        // SAFETY: both are NUL-terminated, and are read during the call only.
        if unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) } != 0 {
            return Err(crate::SysError::new("nss_configure_lookup", "hosts, files dns", crate::error::last_errno()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::ToSocketAddrs;

    #[test]
    fn names_are_found_in_the_file_of_hosts() {
        super::look_up_hosts_by_ourselves().unwrap();
        let found: Vec<_> = ("localhost", 80).to_socket_addrs().unwrap().collect();
        assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
        assert!(("no-such-host.invalid", 80).to_socket_addrs().is_err());
    }
}
