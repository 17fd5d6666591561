// SPDX-License-Identifier: Apache-2.0 OR MIT
//! execve(2), and the loopback of a new network namespace.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::{Result, SysError, last_errno};

/// A list of strings as execve(2) takes it.
pub(crate) fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// A program and its arguments, as execve(2) takes them.
#[derive(Debug)]
pub struct Prepared<'a> {
    path: &'a CStr,
    argv: &'a [CString],
    argv_pointers: Vec<*const libc::c_char>,
    env_pointers: Vec<*const libc::c_char>,
}

/// Prepares the execution of `path`, so that nothing is allocated when it comes.
pub fn prepare<'a>(path: &'a CStr, argv: &'a [CString], env: &'a [CString]) -> Prepared<'a> {
    Prepared { path, argv, argv_pointers: pointers(argv), env_pointers: pointers(env) }
}

impl Prepared<'_> {
    /// Replaces the calling process, by that one system call. Returns only on failure.
    pub fn execute(&self) -> Result<Infallible> {
        // SAFETY: both lists end in a null pointer and hold NUL-terminated strings, which are borrowed for as long as this.
        unsafe { libc::execve(self.path.as_ptr(), self.argv_pointers.as_ptr(), self.env_pointers.as_ptr()) };
        Err(SysError::new("execve", format!("{:?}, {:?}", self.path, self.argv), last_errno()))
    }
}

/// Brings the loopback interface of the calling process's network namespace up: a new one has it down.
pub fn bring_loopback_up() -> Result<()> {
    let failed = |call: &'static str| SysError::at(call, || "lo, IFF_UP".to_owned());
    let socket =
        socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(failed("socket"))?;
    // SAFETY: all-zero bytes are a valid `ifreq`: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads a `struct ifreq`, which outlives the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if answer == 0 {
        return Ok(());
    }
    Err(failed("ioctl")(last_errno()))
}

/// Makes a C string, or says with EINVAL that `what` holds a NUL byte.
pub fn c_string(what: &'static str, bytes: &[u8]) -> Result<CString> {
    CString::new(bytes)
        .map_err(|_| SysError::new(what, String::from_utf8_lossy(bytes).replace('\0', "\\0"), Errno::INVAL))
}
