// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits of processes (setrlimit(2)): what a container's first process gets, and its descendants after it.

use std::fs;

use serde_json::{Value, json};
use stos_sys::process::credentials::{LIMIT_NAMES, capability_bit, limit, permitted_capabilities};

use crate::error::{Error, Result};

/// One limit, or all of the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UlimitOption {
    /// `host`: every limit as the caller has it.
    Host,
    /// One limit.
    One {
        /// Its name as podman has it: `nofile` for RLIMIT_NOFILE.
        name: String,
        /// The limit that counts.
        soft: UlimitValue,
        /// How far the process may raise it.
        hard: UlimitValue,
    },
}

/// The value of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UlimitValue {
    /// -1: as much as the caller may have.
    Most,
    /// So much.
    Of(u64),
}

/// Gives `process.rlimits`. The last of each name counts.
///
/// # Errors
/// [`Error::Option`] for a limit that is not known, a soft one above its hard one, and one that we may not grant: without
/// CAP_SYS_RESOURCE no hard limit rises, and with it none of open files above `fs.nr_open` (proc_sys_fs(5)).
pub(super) fn grant(asked: &[UlimitOption]) -> Result<Vec<Value>> {
    let mut granted: Vec<(String, u64, u64)> = Vec::new();
    for option in asked {
        match option {
            UlimitOption::Host => {
                for (name, _) in LIMIT_NAMES {
                    if let Some((soft, hard)) = limit(name) {
                        set(&mut granted, name, soft, hard);
                    }
                }
            }
            UlimitOption::One { name, soft, hard } => {
                let (name, soft, hard) = grant_one(name, *soft, *hard)?;
                set(&mut granted, &name, soft, hard);
            }
        }
    }
    Ok(granted.iter().map(|(name, soft, hard)| json!({"type": name, "soft": soft, "hard": hard})).collect())
}

fn set(granted: &mut Vec<(String, u64, u64)>, name: &str, soft: u64, hard: u64) {
    granted.retain(|(known, _, _)| known != name);
    granted.push((name.to_owned(), soft, hard));
}

fn grant_one(name: &str, soft: UlimitValue, hard: UlimitValue) -> Result<(String, u64, u64)> {
    let known = format!("RLIMIT_{}", name.to_ascii_uppercase());
    let refuse = |reason: String| Err(Error::Option { option: "--ulimit", value: name.to_owned(), reason });
    let Some((_, own)) = limit(&known) else {
        let names: Vec<_> =
            LIMIT_NAMES.iter().map(|(name, _)| name.trim_start_matches("RLIMIT_").to_lowercase()).collect();
        return refuse(format!("expected one of {}", names.join(", ")));
    };
    let value = |value| match value {
        UlimitValue::Most => own,
        UlimitValue::Of(value) => value,
    };
    let (soft, hard) = (value(soft), value(hard));
    if soft > hard {
        return refuse(format!("the soft limit {} is above the hard limit {}", shown(soft), shown(hard)));
    }
    let may_raise = permitted_capabilities()? & capability_bit("SYS_RESOURCE").unwrap_or(0) != 0;
    if hard > own && !may_raise {
        return refuse(format!(
            "{} is above our own hard limit {}, and CAP_SYS_RESOURCE is missing",
            shown(hard),
            shown(own)
        ));
    }
    if known == "RLIMIT_NOFILE"
        && let Some(most) = nr_open().filter(|most| hard > *most)
    {
        return refuse(format!("{} is above fs.nr_open, {most}", shown(hard)));
    }
    Ok((known, soft, hard))
}

fn nr_open() -> Option<u64> {
    fs::read_to_string("/proc/sys/fs/nr_open").ok()?.trim().parse().ok()
}

fn shown(value: u64) -> String {
    if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, soft: u64, hard: u64) -> UlimitOption {
        UlimitOption::One { name: name.to_owned(), soft: UlimitValue::Of(soft), hard: UlimitValue::Of(hard) }
    }

    #[test]
    fn the_last_of_each_name_counts() {
        let granted = grant(&[one("core", 0, 0), one("nofile", 7, 8), one("nofile", 5, 6)]).unwrap();
        let expected = [
            json!({"type": "RLIMIT_CORE", "soft": 0, "hard": 0}),
            json!({"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}),
        ];
        assert_eq!(granted, expected);
        let host = grant(&[UlimitOption::Host, one("nofile", 5, 6)]).unwrap();
        assert_eq!(host.len(), LIMIT_NAMES.len());
        assert_eq!(host.last(), Some(&expected[1]));
    }

    #[test]
    fn the_most_is_what_we_may_have() {
        let most = UlimitOption::One { name: "nofile".into(), soft: UlimitValue::Of(1), hard: UlimitValue::Most };
        assert_eq!(grant(&[most]).unwrap()[0]["hard"], json!(limit("RLIMIT_NOFILE").unwrap().1));
    }

    #[test]
    fn what_cannot_be_granted_is_told_by_name() {
        for (option, said) in [
            (one("bogus", 1, 1), "--ulimit \"bogus\": expected one of cpu, "),
            (one("nofile", 5, 2), "--ulimit \"nofile\": the soft limit 5 is above the hard limit 2"),
            (one("nofile", 1, u64::MAX), "--ulimit \"nofile\": unlimited is above "),
        ] {
            let refused = grant(&[option]).unwrap_err().to_string();
            assert!(refused.starts_with(said), "{refused}");
        }
    }
}
