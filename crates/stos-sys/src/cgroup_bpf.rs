// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device rules of cgroup v2: a `BPF_PROG_TYPE_CGROUP_DEVICE` program, assembled from rules as data (Linux 4.15).
//!
//! Rules count in order, each for the accesses it names, as cgroup v1's `devices.allow` and `devices.deny` do: the last rule
//! that names a device and an access decides it. What no rule names is denied.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{Result, SysError, last_errno};

/// What kind of device a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Both kinds.
    Any,
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceAccess {
    /// Read it.
    pub read: bool,
    /// Write it.
    pub write: bool,
    /// Make nodes of it.
    pub mknod: bool,
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether the rule gives or takes.
    pub allow: bool,
    /// The kind of device.
    pub kind: DeviceKind,
    /// The major number; `None` for all.
    pub major: Option<u32>,
    /// The minor number; `None` for all.
    pub minor: Option<u32>,
    /// What the rule gives or takes.
    pub access: DeviceAccess,
}

impl DeviceAccess {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, mknod: true };

    /// What is in this or in `other`.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { read: self.read | other.read, write: self.write | other.write, mknod: self.mknod | other.mknod }
    }

    /// What is in this and not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self { read: self.read & !other.read, write: self.write & !other.write, mknod: self.mknod & !other.mknod }
    }

    /// `BPF_DEVCG_ACC_*` bits.
    fn bits(self) -> i32 {
        i32::from(self.mknod) | i32::from(self.read) << 1 | i32::from(self.write) << 2
    }
}

/// One eBPF instruction, as the kernel takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    /// Destination register in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Opcodes of linux/bpf.h, composed: class | operation | source.
const LOAD_32: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const AND_IMMEDIATE: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K, 32-bit
const SHIFT_RIGHT_IMMEDIATE: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K, 32-bit
const MOVE_IMMEDIATE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const MOVE_REGISTER: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const JUMP_UNLESS_EQUAL: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
const JUMP_IF_EQUAL: u8 = 0x16; // BPF_JMP32 | BPF_JEQ | BPF_K
const EXIT: u8 = 0x95;

const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// The accesses asked for and not yet decided.
const ASKED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

/// Assembles the program of `rules`. Pure.
///
/// It looks at the rules from the last to the first. An allowing rule takes its accesses off what is asked, and nothing
/// left means yes; a denying rule that names any of what is left means no.
pub fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }, access_type = access << 16 | kind.
    let mut program = vec![
        instruction(LOAD_32, KIND, CONTEXT, 0, 0),
        instruction(AND_IMMEDIATE, KIND, 0, 0, 0xffff),
        instruction(LOAD_32, ASKED, CONTEXT, 0, 0),
        instruction(SHIFT_RIGHT_IMMEDIATE, ASKED, 0, 0, 16),
        instruction(LOAD_32, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_32, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(assemble_rule(rule));
    }
    program.extend([instruction(MOVE_IMMEDIATE, ANSWER, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

fn assemble_rule(rule: &DeviceRule) -> Vec<Instruction> {
    let mut tests = Vec::new();
    match rule.kind {
        DeviceKind::Any => {}
        DeviceKind::Block => tests.push((KIND, 1)),
        DeviceKind::Character => tests.push((KIND, 2)),
    }
    tests.extend(rule.major.map(|major| (MAJOR, major.cast_signed())));
    tests.extend(rule.minor.map(|minor| (MINOR, minor.cast_signed())));
    let decide = if rule.allow {
        vec![
            instruction(AND_IMMEDIATE, ASKED, 0, 0, !rule.access.bits() & 7),
            instruction(JUMP_UNLESS_EQUAL, ASKED, 0, 2, 0),
            instruction(MOVE_IMMEDIATE, ANSWER, 0, 0, 1),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    } else {
        vec![
            instruction(MOVE_REGISTER, ANSWER, ASKED, 0, 0),
            instruction(AND_IMMEDIATE, ANSWER, 0, 0, rule.access.bits()),
            instruction(JUMP_IF_EQUAL, ANSWER, 0, 2, 0),
            instruction(MOVE_IMMEDIATE, ANSWER, 0, 0, 0),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    };
    let length = tests.len() + decide.len();
    let jumps = tests.iter().enumerate().map(|(at, (register, value))| {
        let beyond = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
        instruction(JUMP_UNLESS_EQUAL, *register, 0, beyond, *value)
    });
    jumps.chain(decide).collect()
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Loads a program and gives its descriptor. Needs CAP_BPF and CAP_NET_ADMIN or CAP_SYS_ADMIN.
pub fn load(program: &[Instruction]) -> Result<OwnedFd> {
    #[repr(C)]
    struct LoadAttributes {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    let shown = || format!("BPF_PROG_LOAD, CGROUP_DEVICE, {} instructions", program.len());
    let count = u32::try_from(program.len()).map_err(|_| SysError::new("bpf", shown(), rustix::io::Errno::TOOBIG))?;
    let attributes = LoadAttributes {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: count,
        insns: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the attributes are the head of `union bpf_attr` for this command; what they point to outlives the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, std::ptr::from_ref(&attributes), size_of::<LoadAttributes>())
    };
    match i32::try_from(answer) {
        // SAFETY: the kernel gave a new descriptor (close-on-exec), which nobody else owns.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(SysError::new("bpf", shown(), last_errno())),
    }
}

/// Attaches a loaded program to the cgroup v2 directory `cgroup`. It goes with the cgroup.
pub fn attach(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> Result<()> {
    #[repr(C)]
    struct AttachAttributes {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
    }
    let attributes = AttachAttributes {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the attributes are the head of `union bpf_attr` for this command and outlive the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, std::ptr::from_ref(&attributes), size_of::<AttachAttributes>())
    };
    if answer == 0 {
        return Ok(());
    }
    Err(SysError::new("bpf", format!("BPF_PROG_ATTACH, {}, CGROUP_DEVICE", cgroup.as_raw_fd()), last_errno()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::io::Errno;

    use super::*;

    /// What a cgroup is asked: kind, major, minor, access bits.
    type Question = (i32, u32, u32, i32);

    /// Runs a program as the kernel would, with the few instructions that the assembler uses.
    fn run(program: &[Instruction], (kind, major, minor, access): Question) -> bool {
        let context = [(access << 16 | kind).cast_unsigned(), major, minor];
        let mut registers = [0_u64; 6];
        let mut at = 0;
        // Jumps only go forward, so no program takes more steps than it has instructions.
        while at < program.len() {
            let Instruction { code, registers: pair, offset, immediate } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            let low = registers[to] as u32;
            let mut jump = |taken: bool| at = if taken { at + usize::try_from(offset).unwrap() } else { at };
            match code {
                LOAD_32 => registers[to] = context[usize::try_from(offset).unwrap() / 4].into(),
                AND_IMMEDIATE => registers[to] = (low & immediate.cast_unsigned()).into(),
                SHIFT_RIGHT_IMMEDIATE => registers[to] = (low >> immediate).into(),
                MOVE_IMMEDIATE => registers[to] = i64::from(immediate).cast_unsigned(),
                MOVE_REGISTER => registers[to] = registers[from],
                JUMP_UNLESS_EQUAL => jump(low != immediate.cast_unsigned()),
                JUMP_IF_EQUAL => jump(low == immediate.cast_unsigned()),
                EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
        panic!("the program does not end");
    }

    const READ: DeviceAccess = DeviceAccess { read: true, write: false, mknod: false };
    const WRITE: DeviceAccess = DeviceAccess { read: false, write: true, mknod: false };

    fn rule(allow: bool, kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: DeviceAccess) -> DeviceRule {
        DeviceRule { allow, kind, major, minor, access }
    }

    #[test]
    fn rules_decide_in_order_and_by_access() {
        let deny_all = rule(false, DeviceKind::Any, None, None, DeviceAccess::ALL);
        let null = rule(true, DeviceKind::Character, Some(1), Some(3), DeviceAccess::ALL);
        let terminals = rule(true, DeviceKind::Character, Some(136), None, READ);
        let also_write = rule(true, DeviceKind::Character, Some(136), None, WRITE);
        let not_nine = rule(false, DeviceKind::Character, Some(136), Some(9), WRITE);
        let rules = assemble(&[deny_all, null, terminals, also_write, not_nine]);
        let cases: &[(Question, bool)] = &[
            ((2, 1, 3, 7), true),
            ((1, 1, 3, 2), false), // a block device of the same numbers
            ((2, 1, 5, 2), false),
            ((2, 136, 4, 6), true), // two rules give it together
            ((2, 136, 4, 1), false),
            ((2, 136, 9, 2), true),
            ((2, 136, 9, 6), false),
        ];
        for (question, expected) in cases {
            assert_eq!(run(&rules, *question), *expected, "{question:?}");
        }
    }

    #[test]
    fn a_later_denial_of_all_wins_and_nothing_is_allowed_without_rules() {
        let allow = rule(true, DeviceKind::Any, None, None, DeviceAccess::ALL);
        let deny = DeviceRule { allow: false, ..allow };
        assert!(run(&assemble(&[deny, allow]), (1, 8, 0, 7)));
        assert!(!run(&assemble(&[allow, deny]), (1, 8, 0, 1)));
        assert!(!run(&assemble(&[]), (2, 1, 3, 2)));
    }

    #[test]
    fn the_kernel_takes_what_is_assembled() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let rules = [
            rule(false, DeviceKind::Any, None, None, DeviceAccess::ALL),
            rule(true, DeviceKind::Character, Some(1), Some(3), READ),
            rule(true, DeviceKind::Block, None, Some(u32::MAX), WRITE),
        ];
        match load(&assemble(&rules)) {
            Ok(_) => {}
            // A kernel or a sandbox without bpf(2) is no fault of the program.
            Err(error) if matches!(error.errno, Errno::PERM | Errno::NOSYS) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// A cgroup v2 directory of this test's own; `None` where there is no v2 tree, or no right to it.
    fn own_cgroup() -> Option<std::path::PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
        let tree = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?.split(' ').nth(1)?.to_owned();
        let path = std::path::Path::new(&tree).join(format!("stos-sys-test-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        Some(path)
    }

    #[test]
    fn an_attached_program_holds() {
        let Some(path) = own_cgroup() else { return };
        let cgroup = std::fs::File::open(&path).unwrap();
        let null = rule(true, DeviceKind::Character, Some(1), Some(3), DeviceAccess::ALL);
        let attached = load(&assemble(&[null])).and_then(|program| attach(program.as_fd(), cgroup.as_fd()));
        let script =
            format!(": >/dev/null; echo 0 >{}/cgroup.procs; : </dev/null && echo null; : </dev/zero", path.display());
        let output = std::process::Command::new("sh").arg("-c").arg(script).output();
        std::fs::remove_dir(&path).unwrap();
        match attached {
            Ok(()) => {
                let output = output.unwrap();
                assert_eq!(output.stdout, b"null\n");
                assert!(String::from_utf8_lossy(&output.stderr).contains("Operation not permitted"), "{output:?}");
            }
            // A kernel without CONFIG_CGROUP_BPF, or a sandbox without bpf(2).
            Err(error) => {
                assert!(matches!(error.errno, Errno::PERM | Errno::NOSYS | Errno::INVAL), "{error}");
            }
        }
    }
}
