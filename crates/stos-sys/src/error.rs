// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A failed system call, with the arguments that it failed with.

use rustix::io::Errno;

/// A system call that failed: its name, its arguments as a person reads them, and the kernel's answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{call}({arguments}): {errno}")]
#[non_exhaustive]
pub struct SysError {
    /// The system call's name, as in its manual page.
    pub call: &'static str,
    /// Its arguments, as `strace` would print them.
    pub arguments: String,
    /// The kernel's answer.
    pub errno: Errno,
}

impl SysError {
    /// Makes the error of `call(arguments)`.
    pub fn new(call: &'static str, arguments: impl Into<String>, errno: Errno) -> Self {
        Self { call, arguments: arguments.into(), errno }
    }

    /// Gives a closure for `map_err` that fills in call and arguments; the arguments are only formatted on failure.
    pub fn at<F: FnOnce() -> String>(call: &'static str, arguments: F) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::new(call, arguments(), errno)
    }
}

impl From<SysError> for std::io::Error {
    fn from(error: SysError) -> Self {
        Self::new(std::io::Error::from(error.errno).kind(), error)
    }
}

/// The error of the last failed libc call.
pub(crate) fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// The result of a call into the kernel.
pub type Result<T> = std::result::Result<T, SysError>;
