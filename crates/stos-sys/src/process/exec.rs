// SPDX-License-Identifier: Apache-2.0 OR MIT
//! execve(2).

use std::convert::Infallible;
use std::ffi::{CStr, CString};

use rustix::io::Errno;

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

/// Makes a C string, or says with EINVAL that `what` holds a NUL byte.
pub fn c_string(what: &'static str, bytes: &[u8]) -> Result<CString> {
    CString::new(bytes)
        .map_err(|_| SysError::new(what, String::from_utf8_lossy(bytes).replace('\0', "\\0"), Errno::INVAL))
}
