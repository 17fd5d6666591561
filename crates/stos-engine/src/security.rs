// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a user may ask of a new container's confinement, and what of it there is.
//!
//! The defaults are podman's; so are the words and what they mean (podman-run(1), `pkg/specgen/generate/security_linux.go`). What is
//! asked for by name and cannot be had is refused.

use std::path::PathBuf;

use stos_sys::process::credentials::{CAPABILITY_NAMES, capability_bit, permitted_capabilities};

use crate::error::{Error, Result};

/// What a container's root may do: podman's default set (containers-common, `default_capabilities`).
pub const DEFAULT_CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Which system calls a container may make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Seccomp {
    /// Those of our own profile; all, for a privileged container.
    #[default]
    Default,
    /// All.
    Unconfined,
    /// Those of a profile in a file, of the form that podman's and docker's have.
    File(PathBuf),
}

/// How a container is confined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityOptions {
    /// Capabilities over the default ones: names with or without `CAP_`, in any case, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to go without, in the same words.
    pub cap_drop: Vec<String>,
    /// Whether it gets all that we have: capabilities, devices, and /proc and /sys as they are.
    pub privileged: bool,
    /// Its system calls.
    pub seccomp: Seccomp,
    /// Whether its processes gain no rights by executing a file.
    pub no_new_privileges: bool,
    /// The AppArmor profile; `unconfined` for none.
    pub apparmor: Option<String>,
    /// Paths that are hidden too; absolute.
    pub mask: Vec<String>,
    /// Patterns of paths that are neither hidden nor read-only though they are by default; `ALL` for all of them.
    pub unmask: Vec<String>,
    /// More options for the mount of /proc.
    pub proc_options: Vec<String>,
    /// Whether a read-only root has directories in memory that can be written: /run, /tmp, /var/tmp, and /dev and /dev/shm.
    pub read_only_tmpfs: bool,
}

impl Default for SecurityOptions {
    fn default() -> Self {
        Self {
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            privileged: false,
            seccomp: Seccomp::default(),
            no_new_privileges: false,
            apparmor: None,
            mask: Vec::new(),
            unmask: Vec::new(),
            proc_options: Vec::new(),
            read_only_tmpfs: true,
        }
    }
}

/// The capabilities of a container, as bit masks: capability N is bit N.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// What its processes can ever have, and what root has.
    pub bounding: u64,
    /// What another user has: what was asked for, beyond the default.
    pub of_others: u64,
}

impl SecurityOptions {
    /// Decides on the capabilities.
    ///
    /// # Errors
    /// [`Error::Option`] for a name that is none, one that is added and dropped, and one that this process lacks and cannot hand on.
    pub fn capabilities(&self) -> Result<Capabilities> {
        self.capabilities_of(permitted_capabilities()?)
    }

    /// The same for a process that has `ours`.
    fn capabilities_of(&self, ours: u64) -> Result<Capabilities> {
        const ADD: &str = "--cap-add";
        const DROP: &str = "--cap-drop";
        let (added, adds_all) = read(ADD, &self.cap_add)?;
        let (dropped, drops_all) = read(DROP, &self.cap_drop)?;
        let refused = |option, mask: u64, reason: &str| {
            let value = names(mask).join(",");
            Err(Error::Option { option, value, reason: reason.to_owned() })
        };
        if adds_all && drops_all {
            return refused(ADD, u64::MAX, "all capabilities cannot be added and dropped");
        }
        if added & dropped != 0 {
            return refused(ADD, added & dropped, "a capability cannot be added and dropped");
        }
        if added & !ours != 0 {
            return refused(ADD, added & !ours, "this process lacks it, and cannot hand it on");
        }
        let base = match (adds_all || self.privileged, drops_all) {
            (true, false) => ours,
            (_, true) => 0,
            // Nobody has asked for those by name: what we lack of them the container lacks too.
            (false, false) => DEFAULT_CAPABILITIES.iter().filter_map(|name| capability_bit(name)).sum::<u64>() & ours,
        };
        let bounding = (base & !dropped) | added;
        let of_others = if adds_all { bounding } else { added };
        Ok(Capabilities { bounding, of_others })
    }
}

/// Gives the names of all capabilities that we have: those of a further process that is to have them all (`exec --privileged`).
pub fn all_capabilities() -> Result<Vec<String>> {
    Ok(names(permitted_capabilities()?))
}

/// Reads capabilities: those that are named, and whether all are meant.
fn read(option: &'static str, words: &[String]) -> Result<(u64, bool)> {
    let (mut mask, mut all) = (0, false);
    for word in words {
        let name = word.to_uppercase();
        match capability_bit(&name) {
            Some(bit) => mask |= bit,
            None if name == "ALL" => all = true,
            None => {
                let reason = "there is no such capability".to_owned();
                return Err(Error::Option { option, value: word.clone(), reason });
            }
        }
    }
    Ok((mask, all))
}

/// Gives the names of the capabilities of a mask, sorted by number.
pub(crate) fn names(mask: u64) -> Vec<String> {
    let known = CAPABILITY_NAMES.iter().enumerate().filter(|(number, _)| mask & (1 << number) != 0);
    known.map(|(_, name)| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = (1 << 41) - 1;

    fn asked(add: &[&str], drop: &[&str]) -> SecurityOptions {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        SecurityOptions { cap_add: words(add), cap_drop: words(drop), ..SecurityOptions::default() }
    }

    fn bits(names: &[&str]) -> u64 {
        names.iter().map(|name| capability_bit(name).unwrap()).sum()
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_podman_does() {
        let default = bits(&DEFAULT_CAPABILITIES);
        for (add, drop, bounding, of_others) in [
            (&[][..], &[][..], default, 0),
            (
                &["net_admin"][..],
                &["CAP_chown"][..],
                default - bits(&["CHOWN"]) + bits(&["NET_ADMIN"]),
                bits(&["NET_ADMIN"]),
            ),
            (&["CAP_CHOWN"][..], &[][..], default, bits(&["CHOWN"])),
            (&[][..], &["all"][..], 0, 0),
            (&["KILL"][..], &["ALL"][..], bits(&["KILL"]), bits(&["KILL"])),
            (&["All"][..], &[][..], ALL, ALL),
            (&["all"][..], &["MKNOD"][..], ALL - bits(&["MKNOD"]), ALL - bits(&["MKNOD"])),
        ] {
            let found = asked(add, drop).capabilities_of(ALL).unwrap();
            assert_eq!(found, Capabilities { bounding, of_others }, "{add:?} {drop:?}");
        }
        let privileged = |drop: &[&str]| SecurityOptions { privileged: true, ..asked(&[], drop) };
        assert_eq!(privileged(&[]).capabilities_of(ALL).unwrap(), Capabilities { bounding: ALL, of_others: 0 });
        assert_eq!(privileged(&["ALL"]).capabilities_of(ALL).unwrap().bounding, 0);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (add, drop, named) in [
            (&["NET_ADMN"][..], &[][..], "--cap-add \"NET_ADMN\": there is no such"),
            (&[""][..], &[][..], "--cap-add \"\""),
            (&[][..], &["CAP_"][..], "--cap-drop \"CAP_\""),
            (&["kill"][..], &["CAP_KILL"][..], "--cap-add \"CAP_KILL\": a capability cannot"),
            (&["all"][..], &["all"][..], "--cap-add"),
            (&["MKNOD", "SYS_TIME"][..], &[][..], "--cap-add \"CAP_SYS_TIME\": this process lacks it"),
        ] {
            let error = asked(add, drop).capabilities_of(ALL - bits(&["SYS_TIME"])).unwrap_err().to_string();
            assert!(error.starts_with(named), "{error}");
        }
    }

    #[test]
    fn what_we_lack_is_not_handed_on_by_default() {
        let ours = ALL - bits(&["SYS_CHROOT"]);
        let found = asked(&[], &[]).capabilities_of(ours).unwrap();
        assert_eq!(found.bounding, bits(&DEFAULT_CAPABILITIES) & ours);
        assert_eq!(asked(&["all"], &[]).capabilities_of(ours).unwrap().bounding, ours);
        assert!(all_capabilities().unwrap().iter().all(|name| capability_bit(name).is_some()));
        assert_eq!(names(bits(&["BPF", "CHOWN"])), ["CAP_CHOWN", "CAP_BPF"]);
    }
}
