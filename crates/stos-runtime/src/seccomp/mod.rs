// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `linux.seccomp`: which system calls a container's process may make.
//!
//! | module | what it is |
//! |---|---|
//! | `profile` | the key, checked |
//! | `syscalls` | names and numbers |
//! | `decisions` | from the profile to an answer for each number |
//! | `compile` | from those to classic BPF |
//! | [`default_profile`] | the profile of containers from images |
//! | `prepared` | filters of that, compiled already |
//! | [`listener`] | who answers `SCMP_ACT_NOTIFY` |
//!
//! The compiler is ours: what libseccomp and runc make of a profile, without either. podman's default profile (472 names, three
//! architectures) becomes 670 instructions in 0.16 ms (optimized, the least of 2,000), and any call passes at most 19 of
//! them. Files of compiled filters would save little of that, for they are to be found, read and checked: nothing is cached. The
//! filters of our own default profile are compiled when stos is built.

mod compile;
mod decisions;
pub mod default_profile;
pub mod listener;
pub(crate) mod prepared;
mod profile;
mod syscalls;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use oci_spec::runtime::LinuxSeccomp;
use stos_sys::SysError;
use stos_sys::seccomp::{Instruction, MAX_INSTRUCTIONS, flag, knows_flags, load};

pub use profile::Listener;
use profile::Profile;

use crate::config::ConfigError;

/// A compiled profile, to be loaded by the process that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    program: Vec<Instruction>,
    flags: u32,
    listener: Option<Listener>,
}

impl Filter {
    /// Checks and compiles `linux.seccomp`. Names of calls that no architecture of the profile has are told in the debug log.
    pub fn of(profile: &LinuxSeccomp) -> Result<Self, ConfigError> {
        let profile = Profile::of(profile)?;
        let program = compile::compile(&profile);
        if program.len() > MAX_INSTRUCTIONS {
            let expected = format!("rules that fit into {MAX_INSTRUCTIONS} instructions");
            return Err(ConfigError::invalid("linux.seccomp.syscalls", expected, program.len()));
        }
        Ok(Self { program, flags: profile.flags, listener: profile.listener })
    }

    /// Who answers its notifications, where it asks for any.
    pub fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }

    /// The compiled program.
    pub fn instructions(&self) -> &[Instruction] {
        &self.program
    }

    /// Puts the calling thread under the filter, by one system call; gives the descriptor of its notifications where there is a
    /// [`listener`](Self::listener).
    ///
    /// The caller has no_new_privs or CAP_SYS_ADMIN. What it does afterwards, the filter judges.
    pub fn load(&self) -> Result<Option<OwnedFd>, SysError> {
        load(&self.program, self.flags)
    }
}

/// What `features` says of seccomp (features-linux.md of runtime-spec 1.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// The actions that a profile may have.
    pub actions: &'static [&'static str],
    /// The operators of `args`.
    pub operators: &'static [&'static str],
    /// The architectures whose calls are known.
    pub archs: &'static [&'static str],
    /// The flags that a profile may have.
    pub known_flags: Vec<&'static str>,
    /// Those that this kernel takes.
    pub supported_flags: Vec<&'static str>,
}

const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", flag::TSYNC),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", flag::SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_LOG", flag::LOG),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", flag::WAIT_KILLABLE_RECV),
];

/// What of seccomp is honoured, by this build and on this kernel.
pub fn features() -> Features {
    let is_supported = |flag: u32| {
        // The kernel takes this one only beside the other.
        let beside = if flag == flag::WAIT_KILLABLE_RECV { flag::NEW_LISTENER } else { 0 };
        knows_flags(flag | beside)
    };
    Features {
        actions: &[
            "SCMP_ACT_ALLOW",
            "SCMP_ACT_ERRNO",
            "SCMP_ACT_KILL",
            "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL_THREAD",
            "SCMP_ACT_LOG",
            "SCMP_ACT_NOTIFY",
            "SCMP_ACT_TRACE",
            "SCMP_ACT_TRAP",
        ],
        operators: &[
            "SCMP_CMP_EQ",
            "SCMP_CMP_GE",
            "SCMP_CMP_GT",
            "SCMP_CMP_LE",
            "SCMP_CMP_LT",
            "SCMP_CMP_MASKED_EQ",
            "SCMP_CMP_NE",
        ],
        archs: &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
        known_flags: FLAGS.map(|(name, _)| name).to_vec(),
        supported_flags: FLAGS.iter().filter(|(_, flag)| is_supported(*flag)).map(|(name, _)| *name).collect(),
    }
}
