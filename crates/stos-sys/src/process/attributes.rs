// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How the kernel treats the calling thread: scheduling, input and output, personality.

use rustix::io::Errno;

use crate::error::{Result, SysError, last_errno};

/// `struct sched_attr` of sched_setattr(2) in its first version (48 bytes), without its size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerAttributes {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For the policies other and batch.
    pub nice: i32,
    /// For the policies fifo and rr.
    pub priority: u32,
    /// For the policy deadline, in nanoseconds.
    pub runtime: u64,
    /// For the policy deadline, in nanoseconds.
    pub deadline: u64,
    /// For the policy deadline, in nanoseconds.
    pub period: u64,
}

/// Sets the scheduling policy of the calling thread (sched_setattr(2), Linux 3.14).
pub fn set_scheduler(attributes: SchedulerAttributes) -> Result<()> {
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let SchedulerAttributes { policy, flags, nice, priority, runtime, deadline, period } = attributes;
    let size = u32::try_from(size_of::<SchedAttr>()).unwrap_or_default();
    let attr = SchedAttr { size, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: `attr` is the kernel's `struct sched_attr` of version 0, with its own size in it, and outlives the call; 0 is
    // the caller, and there are no flags.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attr), 0) } == 0 {
        return Ok(());
    }
    Err(SysError::new("sched_setattr", format!("{attributes:?}"), last_errno()))
}

/// Sets the class (1 real-time, 2 best effort, 3 idle) and the priority of the calling thread's input and output (ioprio_set(2)).
pub fn set_io_priority(class: u8, priority: u16) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let value = libc::c_int::from(class) << IOPRIO_CLASS_SHIFT | libc::c_int::from(priority);
    // SAFETY: ioprio_set takes plain integers.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) } == 0 {
        return Ok(());
    }
    Err(SysError::new("ioprio_set", format!("class {class}, priority {priority}"), last_errno()))
}

/// Sets the execution domain of the calling process (personality(2)): 0 is Linux, 8 Linux for 32-bit programs.
pub fn set_personality(domain: u32) -> Result<()> {
    // SAFETY: personality takes a plain integer.
    if unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(domain)) } >= 0 {
        return Ok(());
    }
    Err(SysError::new("personality", format!("{domain:#x}"), last_errno()))
}

/// Lets the calling thread run on these processors alone (sched_setaffinity(2)).
pub fn set_affinity(cpus: &[u32]) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    for &cpu in cpus {
        let cpu = usize::try_from(cpu).ok().filter(|cpu| *cpu < rustix::thread::CpuSet::MAX_CPU);
        set.set(cpu.ok_or_else(|| SysError::new("sched_setaffinity", format!("{cpus:?}"), Errno::INVAL))?);
    }
    rustix::thread::sched_setaffinity(None, &set).map_err(SysError::at("sched_setaffinity", || format!("{cpus:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_what_was_asked() {
        let error = set_scheduler(SchedulerAttributes { policy: 99, ..SchedulerAttributes::default() }).unwrap_err();
        assert_eq!((error.call, error.errno), ("sched_setattr", Errno::INVAL));
        assert!(error.arguments.contains("policy: 99"), "{error}");
        assert_eq!(set_io_priority(7, 0).unwrap_err().errno, Errno::INVAL);
        assert_eq!(set_affinity(&[]).unwrap_err().errno, Errno::INVAL);
        assert_eq!(set_affinity(&[u32::MAX]).unwrap_err().errno, Errno::INVAL);
    }
}
