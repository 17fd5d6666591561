// SPDX-License-Identifier: Apache-2.0 OR MIT
//! seccomp(2): loading a filter of classic BPF, and handing its notification descriptor to another process.

use std::ffi::CStr;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use crate::error::{Result, SysError, last_errno};

/// `SECCOMP_FILTER_FLAG_*` of linux/seccomp.h.
pub mod flag {
    /// All threads of the process get the filter.
    pub const TSYNC: u32 = 1 << 0;
    /// What the filter does not allow is logged.
    pub const LOG: u32 = 1 << 1;
    /// Speculative stores may be bypassed.
    pub const SPEC_ALLOW: u32 = 1 << 2;
    /// The call gives a descriptor that notifications are read from.
    pub const NEW_LISTENER: u32 = 1 << 3;
    /// A thread that cannot get the filter is told by ESRCH; TSYNC wants it beside NEW_LISTENER (Linux 5.7).
    pub const TSYNC_ESRCH: u32 = 1 << 4;
    /// A process whose notification has been received can only be killed (Linux 5.19).
    pub const WAIT_KILLABLE_RECV: u32 = 1 << 5;
}

/// One instruction of classic BPF: `struct sock_filter` of linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Class, size, mode, operation.
    pub code: u16,
    /// How many instructions a jump skips where its condition holds.
    pub jump_true: u8,
    /// And where it does not.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

const SET_MODE_FILTER: libc::c_uint = 1;

/// Puts the calling thread under `program` (`SECCOMP_SET_MODE_FILTER`); it can never be taken off.
///
/// Needs no_new_privs or CAP_SYS_ADMIN in the thread's user namespace: EACCES. With [`flag::NEW_LISTENER`] it gives the
/// descriptor that notifications are read from, close-on-exec: the lowest number that is free. On success it has made that one
/// system call and no other.
pub fn load(program: &[Instruction], flags: u32) -> Result<Option<OwnedFd>> {
    let shown = || format!("SECCOMP_SET_MODE_FILTER, {flags:#x}, {} instructions", program.len());
    let length = match u16::try_from(program.len()) {
        Ok(length) if program.len() <= MAX_INSTRUCTIONS => length,
        _ => return Err(SysError::new("seccomp", shown(), Errno::INVAL)),
    };
    // The kernel reads the program and does not write to it.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: `Instruction` has the layout of `sock_filter`; the program outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    match RawFd::try_from(answer) {
        // SAFETY: the kernel gave a new descriptor (close-on-exec), which nobody else owns.
        Ok(fd @ 0..) if flags & flag::NEW_LISTENER != 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Ok(0) => Ok(None),
        _ => Err(SysError::new("seccomp", shown(), last_errno())),
    }
}

/// Whether the kernel knows the filter flags `flags`. Nothing is loaded.
pub fn knows_flags(flags: u32) -> bool {
    let nowhere = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: a null program is EFAULT; flags are looked at before it.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, nowhere) };
    answer != 0 && last_errno() == Errno::FAULT
}

/// A bit that two processes share, for one that may make no system call while it waits.
#[derive(Debug)]
pub struct SharedBit {
    memory: OwnedFd,
    page: NonNull<AtomicU32>,
}

/// More than the bit needs: the least that mmap(2) gives on any machine is one page.
const SHARED_SIZE: usize = 4096;

impl SharedBit {
    /// Makes one that is not set; close-on-exec.
    pub fn create() -> Result<Self> {
        let name: &CStr = c"stos-seccomp";
        let failed = |call: &'static str| SysError::at(call, || "stos-seccomp".to_owned());
        let memory = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).map_err(failed("memfd_create"))?;
        rustix::fs::ftruncate(&memory, SHARED_SIZE as u64).map_err(failed("ftruncate"))?;
        Self::map(memory)
    }

    /// Maps the one behind a descriptor that another process gave. EINVAL where its size is not that of one.
    pub fn map(memory: OwnedFd) -> Result<Self> {
        let failed =
            |call: &'static str| SysError::at(call, || format!("{SHARED_SIZE}, PROT_READ | PROT_WRITE, MAP_SHARED"));
        let size = rustix::fs::fstat(&memory).map_err(failed("fstat"))?.st_size;
        if size != SHARED_SIZE as i64 {
            return Err(failed("mmap")(Errno::INVAL));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file of that size.
        let page = unsafe {
            use std::os::fd::AsRawFd;
            libc::mmap(std::ptr::null_mut(), SHARED_SIZE, protection, libc::MAP_SHARED, memory.as_raw_fd(), 0)
        };
        match NonNull::new(page) {
            Some(page) if page.as_ptr() != libc::MAP_FAILED => Ok(Self { memory, page: page.cast() }),
            _ => Err(failed("mmap")(last_errno())),
        }
    }

    fn bit(&self) -> &AtomicU32 {
        // SAFETY: the mapping is as long and as aligned as a page, lives as long as this, and is only used as an atomic.
        unsafe { self.page.as_ref() }
    }

    /// Sets it, for both.
    pub fn set(&self) {
        self.bit().store(1, Ordering::Release);
    }

    /// Waits until it is set, without a system call; `false` where it is not after `spins` looks.
    pub fn spin(&self, spins: u64) -> bool {
        for _ in 0..spins {
            if self.bit().load(Ordering::Acquire) == 1 {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }
}

impl AsFd for SharedBit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl Drop for SharedBit {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and nobody can have a reference into it any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), SHARED_SIZE) };
    }
}

/// Copies the descriptor `number` of another process, close-on-exec (pidfd_getfd(2), Linux 5.6). `None` where it has none of
/// that number.
///
/// Needs the right to trace that process.
pub fn copy_descriptor(process: BorrowedFd<'_>, number: RawFd) -> Result<Option<OwnedFd>> {
    match pidfd_getfd(process, number, PidfdGetfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::BADF) => Ok(None),
        Err(errno) => Err(SysError::new("pidfd_getfd", number.to_string(), errno)),
    }
}

/// Sends `bytes` over a Unix socket, and one descriptor with the first of them (`SCM_RIGHTS`).
pub fn send_with_descriptor(socket: impl AsFd, bytes: &[u8], descriptor: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let mut left = bytes;
    loop {
        match sendmsg(&socket, &[IoSlice::new(left)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(sent) => left = &left[sent..],
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(SysError::new("sendmsg", format!("{} bytes, SCM_RIGHTS", left.len()), errno)),
        }
        if left.is_empty() {
            return Ok(());
        }
        // The descriptor went with the first byte.
        ancillary.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn an_instruction_is_the_kernel_s() {
        assert_eq!(size_of::<Instruction>(), size_of::<libc::sock_filter>());
        assert_eq!(align_of::<Instruction>(), align_of::<libc::sock_filter>());
    }

    #[test]
    fn flags_are_asked_for_without_a_filter() {
        assert!(knows_flags(0) && knows_flags(flag::LOG | flag::SPEC_ALLOW));
        assert!(!knows_flags(1 << 30));
    }

    #[test]
    fn a_program_that_is_too_long_is_told_before_the_kernel() {
        let ret = Instruction { code: 0x06, jump_true: 0, jump_false: 0, operand: 0x7fff_0000 };
        let error = load(&vec![ret; MAX_INSTRUCTIONS + 1], 0).unwrap_err();
        assert_eq!((error.call, error.errno), ("seccomp", Errno::INVAL));
    }

    #[test]
    fn a_bit_is_seen_through_both_mappings() {
        let bit = SharedBit::create().unwrap();
        let other = SharedBit::map(rustix::io::fcntl_dupfd_cloexec(&bit, 3).unwrap()).unwrap();
        assert!(!other.spin(10));
        bit.set();
        assert!(other.spin(1));
        let short = rustix::fs::memfd_create("short", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(SharedBit::map(short).unwrap_err().errno, Errno::INVAL);
    }

    #[test]
    fn descriptors_travel() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send_with_descriptor(&here, b"with a file", file.as_fd()).unwrap();
        drop(here);
        let mut text = String::new();
        there.read_to_string(&mut text).unwrap();
        assert_eq!(text, "with a file");
        let own = crate::process::pidfd::open(rustix::process::getpid()).unwrap().unwrap();
        assert!(copy_descriptor(own.as_fd(), file.as_raw_fd()).unwrap().is_some());
        assert!(copy_descriptor(own.as_fd(), 1 << 20).unwrap().is_none());
    }
}
