// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The seccomp profile of containers from images that ask for no other: which system calls they may make.
//!
//! It lets through and denies what podman 5.8's profile does (`seccomp.json` of containers-common), or less: a call that is in no table
//! is not there (ENOSYS), so that programs fall back to an older one; a call that a program may rightly believe to be there is not
//! permitted (EPERM). Calls that a capability is for are let through where the container has it.

use std::borrow::Cow;

use stos_sys::process::credentials::capability_bit;

use super::prepared;

/// Calls that every container may make. Those that need a capability, or a namespace of the caller's own, the kernel judges.
#[rustfmt::skip]
const ALLOWED: &[&str] = &[
    // Sockets, but for socket(2) itself.
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recv",
    "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg", "sendto", "setsockopt",
    "shutdown", "socketcall", "socketpair",
    // System V IPC and POSIX message queues.
    "ipc", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend",
    "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop",
    "semtimedop", "semtimedop_time64", "shmat", "shmctl", "shmdt", "shmget",
    // Clocks and timers.
    "adjtimex", "alarm", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64",
    "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "getitimer",
    "gettimeofday", "nanosleep", "setitimer", "time", "timer_create", "timer_delete", "timer_getoverrun",
    "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime",
    "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times",
    // Signals.
    "kill", "pause", "pidfd_send_signal", "restart_syscall", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
    "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo", "sigaltstack", "signal", "signalfd", "signalfd4", "sigprocmask", "sigreturn", "tgkill",
    "tkill",
    // Users, groups and capabilities.
    "capget", "capset", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups",
    "getgroups32", "getresgid", "getresgid32", "getresuid", "getresuid32", "getuid", "getuid32", "setfsgid",
    "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setregid",
    "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setuid",
    "setuid32",
    // Scheduling and limits.
    "get_mempolicy", "getcpu", "getpriority", "getrlimit", "getrusage", "ioprio_get", "ioprio_set", "mbind",
    "membarrier", "prlimit64", "rseq", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
    "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam",
    "sched_setscheduler", "sched_yield", "set_mempolicy", "setpriority", "setrlimit", "ugetrlimit",
    // Memory.
    "brk", "madvise", "memfd_create", "memfd_secret", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mmap2",
    "mprotect", "mremap", "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free",
    "pkey_mprotect", "process_mrelease", "remap_file_pages",
    // Processes, threads and namespaces.
    "arch_prctl", "arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "clone", "clone3",
    "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_time64", "get_robust_list",
    "get_thread_area", "getpgid", "getpgrp", "getpid", "getppid", "getsid", "gettid", "keyctl",
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "modify_ldt", "pidfd_getfd",
    "pidfd_open", "prctl", "process_vm_readv", "process_vm_writev", "ptrace", "seccomp", "setns", "set_robust_list",
    "set_thread_area", "set_tid_address", "set_tls", "setpgid", "setsid", "unshare", "vfork", "wait4", "waitid",
    "waitpid",
    // Mounts: the kernel asks for CAP_SYS_ADMIN by itself, of the caller's own user namespace.
    "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree",
    "pivot_root", "umount", "umount2",
    // Waiting for descriptors, and asynchronous input and output.
    "_newselect", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2",
    "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "fanotify_init", "fanotify_mark",
    "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy",
    "io_getevents", "io_setup", "io_submit", "poll", "ppoll", "ppoll_time64", "pselect6", "pselect6_time64",
    "select",
    // The machine: the kernel asks for a capability by itself where one is due.
    "getrandom", "reboot", "sysinfo", "syslog", "uname",
    // Files and directories.
    "_llseek", "access", "chdir", "chmod", "chown", "chown32", "close", "close_range", "copy_file_range",
    "creat", "dup", "dup2", "dup3", "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate",
    "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl", "fcntl64",
    "fdatasync", "fgetxattr", "flistxattr", "flock", "fremovexattr", "fsetxattr", "fstat", "fstat64",
    "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futimesat", "getcwd", "getdents",
    "getdents64", "getxattr", "ioctl", "lchown", "lchown32", "lgetxattr", "link", "linkat", "listxattr",
    "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "lstat64", "mkdir", "mkdirat", "mknod",
    "mknodat", "name_to_handle_at", "newfstatat", "open", "openat", "openat2", "pipe", "pipe2", "pread64",
    "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat",
    "readv", "removexattr", "rename", "renameat", "renameat2", "rmdir", "sendfile", "sendfile64", "setxattr",
    "splice", "stat", "stat64", "statfs", "statfs64", "statx", "symlink", "symlinkat", "sync",
    "sync_file_range", "sync_file_range2", "syncfs", "tee", "truncate", "truncate64", "umask", "unlink",
    "unlinkat", "utime", "utimensat", "utimensat_time64", "utimes", "write", "writev",
];

/// Calls that no container may make and that are there: the kernel has them, and what they reach is the host's or ill guarded.
#[rustfmt::skip]
const DENIED: &[&str] = &[
    "bdflush", "cachestat", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "io_pgetevents",
    "io_pgetevents_time64", "kexec_file_load", "kexec_load", "map_shadow_stack", "migrate_pages", "move_pages",
    "nfsservctl", "nice", "oldfstat", "oldlstat", "oldolduname", "oldstat", "olduname", "sgetmask", "ssetmask",
    "swapoff", "swapon", "sysfs", "uselib", "userfaultfd", "ustat", "vm86", "vm86old", "vmsplice",
];

/// Calls that are for those who have one of some capabilities; the others get EPERM.
struct Guarded {
    capabilities: &'static [&'static str],
    calls: &'static [&'static str],
}

#[rustfmt::skip]
const GUARDED: &[Guarded] = &[
    Guarded { capabilities: &["BPF", "SYS_ADMIN"], calls: &["bpf"] },
    Guarded { capabilities: &["DAC_READ_SEARCH"], calls: &["open_by_handle_at"] },
    Guarded { capabilities: &["PERFMON"], calls: &["perf_event_open"] },
    Guarded {
        capabilities: &["SYS_ADMIN"],
        calls: &["lookup_dcookie", "quotactl", "quotactl_fd", "setdomainname", "sethostname"],
    },
    Guarded { capabilities: &["SYS_CHROOT"], calls: &["chroot"] },
    Guarded {
        capabilities: &["SYS_MODULE"],
        calls: &["delete_module", "finit_module", "init_module", "query_module"],
    },
    Guarded { capabilities: &["SYS_PACCT"], calls: &["acct"] },
    Guarded { capabilities: &["SYS_PTRACE"], calls: &["kcmp", "process_madvise"] },
    Guarded { capabilities: &["SYS_RAWIO"], calls: &["ioperm", "iopl"] },
    Guarded {
        capabilities: &["SYS_TIME"],
        calls: &["clock_settime", "clock_settime64", "settimeofday", "stime"],
    },
    Guarded { capabilities: &["SYS_TTY_CONFIG"], calls: &["vhangup"] },
];

/// Personalities (personality(2)) that only change how a program sees the machine: PER_LINUX, PER_LINUX32, both with UNAME26, and the
/// question for the current one. Others turn protections off, such as the randomized address space.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const AF_NETLINK: u32 = 16;
const AF_VSOCK: u32 = 40;
const NETLINK_AUDIT: u32 = 9;
const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSYS: u32 = 38;

/// Architectures whose calls a machine takes, its own first.
pub(super) const X86_64: &[&str] = &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
pub(super) const AARCH64: &[&str] = &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];

/// Gives the profile of a container whose bounding set is `capabilities` (capability N is bit N), as the JSON text of a `linux.seccomp`
/// for this machine's architectures.
///
/// Of the same capabilities it is the same text: the commonest are at hand, with their filters, and the runtime knows them again.
pub fn default_profile(capabilities: u64) -> Cow<'static, str> {
    if let Some(text) = prepared::text_of(capabilities) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(profile_for(if cfg!(target_arch = "aarch64") { AARCH64 } else { X86_64 }, capabilities))
}

pub(super) fn profile_for(architectures: &[&str], capabilities: u64) -> String {
    let has = |names: &[&str]| names.iter().filter_map(|name| capability_bit(name)).any(|bit| capabilities & bit != 0);
    let (mut allowed, mut denied) = (ALLOWED.to_vec(), DENIED.to_vec());
    for group in GUARDED {
        if has(group.capabilities) { &mut allowed } else { &mut denied }.extend(group.calls);
    }
    let mut text = Text(String::with_capacity(10 << 10));
    text.0.push_str(&format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":{ENOSYS},"architectures":"#));
    text.names(architectures);
    text.0.push_str(r#","syscalls":["#);
    text.rule(&allowed, None, &[]);
    text.rule(&denied, Some(EPERM), &[]);
    for personality in PERSONALITIES {
        text.rule(&["personality"], None, &[(0, "EQ", personality)]);
    }
    // The machine's other virtual machines and its hypervisor are none of a container's business.
    text.rule(&["socket"], Some(EPERM), &[(0, "EQ", AF_VSOCK)]);
    if !has(&["AUDIT_WRITE"]) {
        // As from a kernel without auditing: programs that audit, such as sudo and sshd, go on without (EPERM would end them).
        text.rule(&["socket"], Some(EINVAL), &[(0, "EQ", AF_NETLINK), (2, "EQ", NETLINK_AUDIT)]);
        text.rule(&["socket"], None, &[(0, "EQ", AF_NETLINK), (2, "NE", NETLINK_AUDIT)]);
        text.rule(&["socket"], None, &[(0, "NE", AF_NETLINK)]);
    } else {
        text.rule(&["socket"], None, &[(0, "NE", AF_VSOCK)]);
    }
    // The last comma.
    text.0.pop();
    text.0.push_str("]}");
    text.0
}

/// JSON on its way. Names are of letters, digits and '_': nothing in them is escaped.
struct Text(String);

impl Text {
    fn names(&mut self, names: &[&str]) {
        for (at, name) in names.iter().enumerate() {
            self.0.push_str(if at == 0 { "[\"" } else { "\",\"" });
            self.0.push_str(name);
        }
        self.0.push_str("\"]");
    }

    /// Allows calls, or gives them an errno: where all arguments (place, comparison, value) are so.
    fn rule(&mut self, calls: &[&str], errno: Option<u32>, arguments: &[(u8, &str, u32)]) {
        self.0.push_str(r#"{"names":"#);
        self.names(calls);
        match errno {
            None => self.0.push_str(r#","action":"SCMP_ACT_ALLOW""#),
            Some(errno) => self.0.push_str(&format!(r#","action":"SCMP_ACT_ERRNO","errnoRet":{errno}"#)),
        }
        for (at, (index, operator, value)) in arguments.iter().enumerate() {
            self.0.push_str(if at == 0 { r#","args":["# } else { "," });
            self.0.push_str(&format!(r#"{{"index":{index},"value":{value},"op":"SCMP_CMP_{operator}"}}"#));
        }
        self.0.push_str(if arguments.is_empty() { "}," } else { "]}," });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use stos_testkit::guard::Need;
    use stos_testkit::require;

    use super::super::Filter;
    use super::super::profile::{Abi, answer};
    use super::super::syscalls::{TABLE, number};
    use super::super::tests::{PODMAN, on, profile_of_podman};
    use super::*;

    const ENOSYS_ANSWER: u32 = answer::ERRNO | ENOSYS;
    const EPERM_ANSWER: u32 = answer::ERRNO | EPERM;
    const NATIVE: Abi = if cfg!(target_arch = "aarch64") { Abi::Aarch64 } else { Abi::X86_64 };

    fn filter(capabilities: u64) -> Filter {
        Filter::of(&serde_json::from_str(&default_profile(capabilities)).unwrap()).unwrap()
    }

    fn bits(names: &[&str]) -> u64 {
        names.iter().map(|name| capability_bit(name).unwrap()).sum()
    }

    #[test]
    fn every_call_is_known_and_named_once() {
        let mut names: Vec<_> = ALLOWED.iter().chain(DENIED).copied().collect();
        names.extend(GUARDED.iter().flat_map(|group| group.calls));
        names.sort_unstable();
        assert_eq!(names.windows(2).find(|pair| pair[0] == pair[1]), None);
        let unknown: Vec<_> = names.iter().filter(|name| !TABLE.iter().any(|(known, _)| known == *name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert!(GUARDED.iter().flat_map(|group| group.capabilities).all(|name| capability_bit(name).is_some()));
    }

    #[test]
    fn a_capability_brings_its_calls_and_no_others() {
        for group in GUARDED {
            for capability in group.capabilities {
                let (with, without) = (filter(bits(&[capability])), filter(!bits(group.capabilities)));
                for call in group.calls {
                    if number(call, NATIVE).is_some() {
                        assert_eq!(on(&with, NATIVE, call, &[]), answer::ALLOW, "{capability} {call}");
                        assert_eq!(on(&without, NATIVE, call, &[]), EPERM_ANSWER, "{capability} {call}");
                    }
                }
            }
        }
        for (filter, audit) in [(filter(0), answer::ERRNO | EINVAL), (filter(u64::MAX), answer::ALLOW)] {
            assert_eq!(on(&filter, NATIVE, "socket", &[40, 1, 0]), EPERM_ANSWER);
            assert_eq!(on(&filter, NATIVE, "socket", &[16, 3, 9]), audit);
            assert_eq!(on(&filter, NATIVE, "socket", &[16, 3, 0]), answer::ALLOW);
            assert_eq!(on(&filter, NATIVE, "socket", &[2, 1, 6]), answer::ALLOW);
            assert_eq!(on(&filter, NATIVE, "personality", &[0x2_0008]), answer::ALLOW);
            // ADDR_NO_RANDOMIZE.
            assert_eq!(on(&filter, NATIVE, "personality", &[0x004_0000]), ENOSYS_ANSWER);
            for (call, expected) in [("kexec_load", EPERM_ANSWER), ("io_uring_setup", ENOSYS_ANSWER)] {
                assert_eq!(on(&filter, NATIVE, call, &[]), expected, "{call}");
            }
        }
    }

    /// What an argument may be that some rule looks at, and what none looks at.
    const ARGUMENTS: [[u64; 3]; 9] = [
        [0, 0, 0],
        [2, 1, 6],
        [8, 0, 0],
        [16, 3, 9],
        [16, 3, 0],
        [40, 1, 0],
        [0x2_0000, 0, 0],
        [0x2_0008, 0, 0],
        [0x4_0000, 0, 0],
    ];

    /// What podman 5.8 lets through, and the older profile of Debian 12 does not.
    const LATER: [&str; 2] = ["fanotify_init", "fchmodat2"];

    #[test]
    fn what_podman_s_profile_denies_is_denied() {
        require!(
            Need::Condition(std::path::Path::new(PODMAN).exists(), "podman's seccomp.json"),
            Need::Condition(cfg!(target_arch = "x86_64"), "an x86_64 machine")
        );
        let theirs: Value = profile_of_podman();
        let theirs = Filter::of(&serde_json::from_value(theirs).unwrap()).unwrap();
        let ours = filter(0);
        for (name, _) in TABLE {
            for abi in [Abi::X86_64, Abi::X32, Abi::X86] {
                if LATER.contains(&name) || number(name, abi).is_none() {
                    continue;
                }
                for arguments in ARGUMENTS {
                    if on(&ours, abi, name, &arguments) == answer::ALLOW {
                        assert_eq!(on(&theirs, abi, name, &arguments), answer::ALLOW, "{abi:?} {name} {arguments:x?}");
                    }
                }
            }
        }
    }
}
