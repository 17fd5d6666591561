// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Network interfaces of the calling process's network namespace (netdevice(7)).

use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::{Result, SysError, last_errno};

/// Brings the loopback interface of the calling process's network namespace up: a new one has it down.
pub fn bring_loopback_up() -> Result<()> {
    let mut request = request("lo")?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    ask(&mut request, "lo", &[("SIOCSIFFLAGS", libc::SIOCSIFFLAGS)])
}

/// Gives an interface the hardware address that it has, for good. A bridge without an address that was set takes the lowest of its ports'
/// each time that one comes or goes (net/bridge/br_stp_if.c, `br_stp_recalculate_bridge_id`); whoever knows it by the one before loses it.
///
/// # Errors
/// ENODEV where there is no such interface; EPERM.
pub fn keep_hardware_address(name: &str) -> Result<()> {
    // The first writes what the second reads.
    let both = [("SIOCGIFHWADDR", libc::SIOCGIFHWADDR), ("SIOCSIFHWADDR", libc::SIOCSIFHWADDR)];
    ask(&mut request(name)?, name, &both)
}

/// A request about an interface that asks for nothing yet.
fn request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    if name.len() >= request.ifr_name.len() {
        return Err(SysError::new("ioctl", name, Errno::NODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// Makes ioctls of netdevice(7), each with the same request.
fn ask(request: &mut libc::ifreq, name: &str, calls: &[(&'static str, libc::Ioctl)]) -> Result<()> {
    let failed = |call: &'static str| SysError::at(call, || name.to_owned());
    let socket =
        socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(failed("socket"))?;
    for (word, number) in calls {
        // SAFETY: all of them take a `struct ifreq`, which outlives the call.
        if unsafe { libc::ioctl(socket.as_raw_fd(), *number, &raw mut *request) } != 0 {
            return Err(failed(word)(last_errno()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_told() {
        for name in ["no-such-link", "a-name-that-is-too-long-for-an-interface"] {
            let error = keep_hardware_address(name).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(error.errno, Errno::NODEV);
        }
    }
}
