// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `linux.seccomp`, checked (config-linux.md, "Seccomp", of runtime-spec 1.2).

use std::path::PathBuf;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as FilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use stos_sys::seccomp::flag;

use super::syscalls::NamedCall;
use crate::config::ConfigError;

/// `SECCOMP_RET_*` of linux/seccomp.h: what a filter answers.
pub(super) mod answer {
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const KILL_THREAD: u32 = 0;
    pub const TRAP: u32 = 0x0003_0000;
    pub const ERRNO: u32 = 0x0005_0000;
    pub const NOTIFY: u32 = 0x7fc0_0000;
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
    /// Without the data in the low half.
    pub const ACTION: u32 = 0xffff_0000;
    /// The call is not there.
    pub const NO_SUCH_CALL: u32 = ERRNO | 38;
}

/// A way to make system calls, with numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Abi {
    X86_64,
    X32,
    X86,
    Aarch64,
    Arm,
}

impl Abi {
    #[cfg(test)]
    pub(super) const ALL: [Self; 5] = [Self::X86_64, Self::X32, Self::X86, Self::Aarch64, Self::Arm];

    /// The architecture that this was built for; `None` where its numbers are in no table.
    const NATIVE: Option<Self> = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
        Some(Self::X86_64)
    } else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
        Some(Self::Aarch64)
    } else {
        None
    };

    /// The kernel's name for it in `seccomp_data.arch` (`AUDIT_ARCH_*`); x32 is told by a bit of the number alone.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 64 bits. Of the others only the low 32 are compared, x32 among them, as libseccomp does.
    pub(super) fn is_wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }

    fn of(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchNative => Self::NATIVE,
            Arch::ScmpArchX86_64 => Some(Self::X86_64),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            _ => None,
        }
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// The bits of the mask are those of the value.
    Masked(u64),
}

/// What one argument of a call must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// Its place, 0 to 5.
    pub argument: u8,
    pub operator: Operator,
    pub value: u64,
}

/// One entry of `syscalls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// Those of its names that are known; of others runc says no more than a line in the debug log.
    pub calls: Vec<NamedCall>,
    /// What the filter answers.
    pub answer: u32,
    /// All of one list must hold, of any list; no list where the rule is for all calls of these names.
    pub alternatives: Vec<Vec<Condition>>,
}

/// A checked profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    /// What the filter answers to a call that no rule is about.
    pub default: u32,
    /// The native one and those of `architectures`, each once.
    pub abis: Vec<Abi>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    pub rules: Vec<Rule>,
    /// Where notifications go, if any rule asks for them.
    pub listener: Option<Listener>,
}

/// Who answers the notifications of `SCMP_ACT_NOTIFY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// `listenerPath`: a stream socket of the host.
    pub path: PathBuf,
    /// `listenerMetadata`, for the other side.
    pub metadata: Option<String>,
}

const KEY: &str = "linux.seccomp";

impl Profile {
    /// Checks `profile`.
    pub(super) fn of(profile: &LinuxSeccomp) -> Result<Self, ConfigError> {
        let default =
            answer(|| format!("{KEY}.defaultErrnoRet"), profile.default_action(), profile.default_errno_ret())?;
        let entries = profile.syscalls().as_deref().unwrap_or_default().iter().enumerate();
        let rules = entries.map(|(at, entry)| rule(at, entry)).collect::<Result<Vec<_>, _>>()?;
        let notifies = [default].into_iter().chain(rules.iter().map(|rule| rule.answer)).any(|it| it == answer::NOTIFY);
        let listener = listener(profile, notifies)?;
        let flags = flags(profile, listener.is_some());
        Ok(Self { default, abis: abis(profile)?, flags, rules, listener })
    }
}

fn abis(profile: &LinuxSeccomp) -> Result<Vec<Abi>, ConfigError> {
    let Some(native) = Abi::NATIVE else {
        return Err(ConfigError::unsupported(format!("{KEY} on {}", std::env::consts::ARCH)));
    };
    // The native one is always there, named or not, as libseccomp has it.
    let mut abis = vec![native];
    for arch in profile.architectures().iter().flatten() {
        abis.push(Abi::of(*arch).ok_or_else(|| ConfigError::unsupported(format!("{KEY}.architectures {arch}")))?);
    }
    abis.sort_unstable();
    abis.dedup();
    Ok(abis)
}

/// Where no flags are given, not even none, it is SPEC_ALLOW, as runc and crun have it.
fn flags(profile: &LinuxSeccomp, listens: bool) -> u32 {
    let Some(given) = profile.flags() else { return flag::SPEC_ALLOW | if listens { flag::NEW_LISTENER } else { 0 } };
    let mut flags = given.iter().fold(0, |flags, given| {
        flags
            | match given {
                FilterFlag::SeccompFilterFlagLog => flag::LOG,
                FilterFlag::SeccompFilterFlagTsync => flag::TSYNC,
                FilterFlag::SeccompFilterFlagSpecAllow => flag::SPEC_ALLOW,
                FilterFlag::SeccompFilterFlagWaitKillableRecv => flag::WAIT_KILLABLE_RECV,
            }
    });
    if listens {
        flags |= flag::NEW_LISTENER;
        if flags & flag::TSYNC != 0 {
            flags |= flag::TSYNC_ESRCH;
        }
    } else {
        // It says how one waits for notifications; there are none, and the kernel refuses it so.
        flags &= !flag::WAIT_KILLABLE_RECV;
    }
    flags
}

fn listener(profile: &LinuxSeccomp, notifies: bool) -> Result<Option<Listener>, ConfigError> {
    let path = profile.listener_path().as_ref().filter(|path| !path.as_os_str().is_empty());
    let metadata = profile.listener_metadata().as_ref().filter(|metadata| !metadata.is_empty());
    match (path, notifies) {
        (None, _) if metadata.is_some() => {
            Err(ConfigError::invalid(format!("{KEY}.listenerMetadata"), "a listenerPath beside it", metadata))
        }
        (None, true) => {
            Err(ConfigError::invalid(format!("{KEY}.listenerPath"), "a path, for SCMP_ACT_NOTIFY is used", path))
        }
        (Some(path), true) if !path.is_absolute() => {
            Err(ConfigError::invalid(format!("{KEY}.listenerPath"), "an absolute path", path))
        }
        (Some(path), true) => Ok(Some(Listener { path: path.clone(), metadata: metadata.cloned() })),
        // "If the SCMP_ACT_NOTIFY action is not used this value is ignored."
        (_, false) => Ok(None),
    }
}

fn rule(at: usize, entry: &LinuxSyscall) -> Result<Rule, ConfigError> {
    let key = |name: &str| format!("{KEY}.syscalls[{at}].{name}");
    let names = entry.names();
    if names.is_empty() || names.iter().any(String::is_empty) {
        return Err(ConfigError::invalid(key("names"), "at least one name, none empty", names));
    }
    let conditions = entry.args().as_deref().unwrap_or_default().iter().map(|arg| condition(&key("args"), arg));
    let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
    let repeated = (0..6).any(|place| conditions.iter().filter(|it| it.argument == place).count() > 1);
    let alternatives = match conditions.len() {
        0 => Vec::new(),
        // Several about one argument are alternatives, each by itself: so runc and crun read it, for it could never all hold.
        _ if repeated => conditions.into_iter().map(|condition| vec![condition]).collect(),
        _ => vec![conditions],
    };
    let answer = answer(|| key("errnoRet"), entry.action(), entry.errno_ret())?;
    let calls = names.iter().filter_map(|name| {
        let call = NamedCall::find(name);
        if call.is_none() {
            tracing::debug!(name, "a system call that is not known is left out of the seccomp filter");
        }
        call
    });
    Ok(Rule { calls: calls.collect(), answer, alternatives })
}

fn condition(key: &str, arg: &LinuxSeccompArg) -> Result<Condition, ConfigError> {
    let argument = u8::try_from(arg.index()).ok().filter(|place| *place < 6);
    let argument = argument.ok_or_else(|| ConfigError::invalid(key, "an index from 0 to 5", arg.index()))?;
    let operator = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => Operator::Equal,
        LinuxSeccompOperator::ScmpCmpNe => Operator::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => Operator::Less,
        LinuxSeccompOperator::ScmpCmpLe => Operator::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpGt => Operator::Greater,
        LinuxSeccompOperator::ScmpCmpGe => Operator::GreaterOrEqual,
        // seccomp_rule_add(3): what is compared are the masked argument and the masked value.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let value = arg.value_two().unwrap_or_default() & arg.value();
            return Ok(Condition { argument, operator: Operator::Masked(arg.value()), value });
        }
    };
    Ok(Condition { argument, operator, value: arg.value() })
}

/// What the filter answers for an action. EPERM where an errno may be given and is not, as runc and crun have it; one for an
/// action that has none "MUST" be an error.
fn answer(key: impl Fn() -> String, action: Action, errno: Option<u32>) -> Result<u32, ConfigError> {
    const EPERM: u32 = 1;
    // MAX_ERRNO of the kernel, which would take a larger one for this; a tracer gets any 16 bits.
    let data = |most: u32| match errno.unwrap_or(EPERM) {
        errno if errno <= most => Ok(errno),
        errno => Err(ConfigError::invalid(key(), format!("0 to {most}"), errno)),
    };
    let answer = match action {
        Action::ScmpActErrno => return Ok(answer::ERRNO | data(4095)?),
        Action::ScmpActTrace => return Ok(answer::TRACE | data(0xffff)?),
        Action::ScmpActKill | Action::ScmpActKillThread => answer::KILL_THREAD,
        Action::ScmpActKillProcess => answer::KILL_PROCESS,
        Action::ScmpActTrap => answer::TRAP,
        Action::ScmpActNotify => answer::NOTIFY,
        Action::ScmpActLog => answer::LOG,
        Action::ScmpActAllow => answer::ALLOW,
    };
    match errno {
        None => Ok(answer),
        Some(errno) => Err(ConfigError::invalid(key(), format!("none, for {action} has no errno"), errno)),
    }
}
