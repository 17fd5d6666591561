// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Capabilities, ids, groups and limits of the calling thread, which in a cloned child is the whole process.

use rustix::io::Errno;
use rustix::process::{Gid, Pid, Resource, Rlimit, Uid, prlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{Result, SysError, last_errno};

/// The five capability sets (capabilities(7)), as bit masks: capability N is bit N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilityMasks {
    /// What execve(2) can ever give.
    pub bounding: u64,
    /// What is checked.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What passes execve(2) into files that inherit it.
    pub inheritable: u64,
    /// What passes execve(2) of any file.
    pub ambient: u64,
}

/// Capability names by number, as `linux/capability.h` has them, without `CAP_`.
pub const CAPABILITY_NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The bit of the capability `name`, with or without `CAP_`; `None` where there is no such capability.
pub fn capability_bit(name: &str) -> Option<u64> {
    let bare = name.strip_prefix("CAP_").unwrap_or(name);
    CAPABILITY_NAMES.iter().position(|known| *known == bare).map(|number| 1 << number)
}

/// The capabilities that the calling thread may hand on: its permitted set.
pub fn permitted_capabilities() -> Result<u64> {
    let sets = rustix::thread::capabilities(None).map_err(SysError::at("capget", String::new))?;
    Ok(sets.permitted.bits())
}

/// Drops everything outside `bounding` from the bounding set. Needs CAP_SETPCAP, so it comes before the ids change.
///
/// What the set does not hold is dropped all the same; numbers beyond the kernel's last capability end the walk.
pub fn limit_bounding_set(bounding: u64) -> Result<()> {
    for number in (0..64_u32).filter(|number| bounding & (1 << number) == 0) {
        // SAFETY: PR_CAPBSET_DROP takes plain integers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) } == 0 {
            continue;
        }
        return match last_errno() {
            // The kernel knows no capability of this number, nor any above.
            Errno::INVAL => Ok(()),
            errno => Err(SysError::new("prctl", format!("PR_CAPBSET_DROP, {number}"), errno)),
        };
    }
    Ok(())
}

/// Sets effective, permitted, inheritable and ambient capabilities, in the order that the kernel allows.
pub fn set_capability_sets(masks: CapabilityMasks) -> Result<()> {
    drop_capabilities(masks)?;
    ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    for number in (0..64).filter(|number| masks.ambient & (1 << number) != 0) {
        ambient(libc::PR_CAP_AMBIENT_RAISE, number)?;
    }
    Ok(())
}

/// Sets effective, permitted and inheritable capabilities, by one system call; the ambient ones stay as far as they may.
pub fn drop_capabilities(masks: CapabilityMasks) -> Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(masks.effective),
        permitted: CapabilitySet::from_bits_retain(masks.permitted),
        inheritable: CapabilitySet::from_bits_retain(masks.inheritable),
    };
    rustix::thread::set_capabilities(None, sets).map_err(SysError::at("capset", || format!("{masks:x?}")))
}

fn ambient(operation: libc::c_int, number: libc::c_ulong) -> Result<()> {
    // SAFETY: PR_CAP_AMBIENT takes plain integers.
    if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, operation as libc::c_ulong, number, 0, 0) } == 0 {
        return Ok(());
    }
    Err(SysError::new("prctl", format!("PR_CAP_AMBIENT, {operation}, {number}"), last_errno()))
}

/// Changes groups and all three user and group ids of the calling thread, keeping its permitted capabilities.
///
/// The ids must not be `u32::MAX`, which setresuid(2) takes for "leave as it is": EINVAL.
pub fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    let shown = || format!("uid={uid}, gid={gid}, groups={groups:?}");
    if uid == u32::MAX || gid == u32::MAX || groups.contains(&u32::MAX) {
        return Err(SysError::new("setresuid", shown(), Errno::INVAL));
    }
    rustix::thread::set_keep_capabilities(true).map_err(SysError::at("prctl", || "PR_SET_KEEPCAPS, 1".into()))?;
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).map_err(SysError::at("setgroups", shown))?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(group, group, group).map_err(SysError::at("setresgid", shown))?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(SysError::at("setresuid", shown))?;
    rustix::thread::set_keep_capabilities(false).map_err(SysError::at("prctl", || "PR_SET_KEEPCAPS, 0".into()))
}

/// The limits that setrlimit(2) knows, by their names.
pub const LIMIT_NAMES: [(&str, Resource); 16] = [
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_STACK", Resource::Stack),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
];

/// Gives the caller's soft and hard limit; `u64::MAX` means unlimited. `None` where there is no limit of that name.
pub fn limit(name: &str) -> Option<(u64, u64)> {
    let (_, resource) = LIMIT_NAMES.iter().find(|(known, _)| *known == name)?;
    let found = rustix::process::getrlimit(*resource);
    Some((found.current.unwrap_or(u64::MAX), found.maximum.unwrap_or(u64::MAX)))
}

/// Sets a limit of the process `pid` (`None`: the caller); `u64::MAX` means unlimited.
///
/// EPERM says that `hard` is above the present one and the caller lacks CAP_SYS_RESOURCE; the error names the limit.
pub fn set_limit(pid: Option<Pid>, name: &str, soft: u64, hard: u64) -> Result<()> {
    let shown = || format!("{name}, soft={soft}, hard={hard}");
    let Some((_, resource)) = LIMIT_NAMES.iter().find(|(known, _)| *known == name) else {
        return Err(SysError::new("prlimit", shown(), Errno::INVAL));
    };
    let bound = |value| (value != u64::MAX).then_some(value);
    let new = Rlimit { current: bound(soft), maximum: bound(hard) };
    prlimit(pid, *resource, new).map(drop).map_err(SysError::at("prlimit", shown))
}

/// Makes execve(2) of the calling thread and its children never give a privilege.
pub fn set_no_new_privileges() -> Result<()> {
    rustix::thread::set_no_new_privs(true).map_err(SysError::at("prctl", || "PR_SET_NO_NEW_PRIVS, 1".into()))
}

/// Makes orphaned descendants of the caller become its children.
pub fn become_subreaper() -> Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes plain integers.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } == 0 {
        return Ok(());
    }
    Err(SysError::new("prctl", "PR_SET_CHILD_SUBREAPER, 1", last_errno()))
}

/// Whether others may trace the caller and read its `/proc` (`PR_SET_DUMPABLE`); execve(2) sets it anew.
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes plain integers.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0) } == 0 {
        return Ok(());
    }
    Err(SysError::new("prctl", format!("PR_SET_DUMPABLE, {dumpable}"), last_errno()))
}

/// The signal that the caller gets when its parent ends (`PR_SET_PDEATHSIG`), 0 for none.
pub fn set_parent_death_signal(signal: libc::c_int) -> Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes plain integers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0, 0, 0) } == 0 {
        return Ok(());
    }
    Err(SysError::new("prctl", format!("PR_SET_PDEATHSIG, {signal}"), last_errno()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_numbers_of_the_kernel() {
        for (name, number) in [("CAP_CHOWN", 0), ("SYS_ADMIN", 21), ("CAP_SETFCAP", 31), ("CAP_CHECKPOINT_RESTORE", 40)]
        {
            assert_eq!(capability_bit(name), Some(1 << number), "{name}");
        }
        assert_eq!(capability_bit("CAP_NONE"), None);
        assert_eq!(capability_bit("cap_chown"), None);
    }

    #[test]
    fn the_id_that_means_no_change_is_refused() {
        for (uid, gid, groups) in [(u32::MAX, 0, &[][..]), (0, u32::MAX, &[]), (0, 0, &[u32::MAX])] {
            assert_eq!(set_ids(uid, gid, groups).unwrap_err().errno, Errno::INVAL);
        }
    }

    #[test]
    fn a_refused_limit_is_named() {
        let error = set_limit(None, "RLIMIT_NOFILE", 9, 8).unwrap_err();
        assert!(error.arguments.contains("RLIMIT_NOFILE, soft=9, hard=8"), "{error}");
        assert_eq!(set_limit(None, "RLIMIT_WISHES", 1, 1).unwrap_err().errno, Errno::INVAL);
        assert!(limit("RLIMIT_NOFILE").is_some_and(|(soft, hard)| soft <= hard) && limit("RLIMIT_WISHES").is_none());
    }
}
