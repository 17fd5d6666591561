// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When a container is started again that has ended.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// podman's policies (podman-run(1), `--restart`). A container that somebody has stopped is not started again by any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// Not at all.
    #[default]
    No,
    /// Whenever it has ended.
    Always,
    /// Where it has ended with another code than 0.
    OnFailure {
        /// How often, at most; 0 for no limit.
        retries: u32,
    },
    /// As `always`; but at a boot not one that somebody has stopped before.
    UnlessStopped,
}

impl RestartPolicy {
    /// podman's name, without a number of retries.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Always => "always",
            Self::OnFailure { .. } => "on-failure",
            Self::UnlessStopped => "unless-stopped",
        }
    }

    /// How often it starts a container again, at most; 0 for no limit.
    pub fn retries(self) -> u32 {
        match self {
            Self::OnFailure { retries } => retries,
            _ => 0,
        }
    }

    /// Whether a container is to be started again that has ended with this code, and was started again so often.
    pub fn asks_for_restart(self, exit_code: i32, count: u32) -> bool {
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure { retries } => exit_code != 0 && (retries == 0 || count < retries),
        }
    }

    /// # Errors
    /// [`Error::Option`] for a container that goes with its process and has a policy under which that never happens.
    pub(super) fn check(self, auto_remove: bool) -> Result<()> {
        if !auto_remove || matches!(self, Self::No | Self::OnFailure { .. }) {
            return Ok(());
        }
        let reason = "the --rm option conflicts with --restart, unless that is no or on-failure".to_owned();
        Err(Error::Option { option: "--restart", value: self.to_string(), reason })
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.retries() {
            0 => f.write_str(self.name()),
            retries => write!(f, "{}:{retries}", self.name()),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a valid restart policy: expected no, always, on-failure[:N] or unless-stopped");
        match text.split_once(':') {
            None => match text {
                "" | "no" | "never" => Ok(Self::No),
                "always" => Ok(Self::Always),
                "on-failure" => Ok(Self::OnFailure { retries: 0 }),
                "unless-stopped" => Ok(Self::UnlessStopped),
                _ => Err(wrong()),
            },
            Some(("on-failure", retries)) if retries.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Self::OnFailure { retries: retries.parse().map_err(|_| wrong())? })
            }
            Some(_) => Err(wrong()),
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_and_told_as_podman_does() {
        for (text, policy, shown) in [
            ("", RestartPolicy::No, "no"),
            ("never", RestartPolicy::No, "no"),
            ("always", RestartPolicy::Always, "always"),
            ("unless-stopped", RestartPolicy::UnlessStopped, "unless-stopped"),
            ("on-failure", RestartPolicy::OnFailure { retries: 0 }, "on-failure"),
            ("on-failure:0", RestartPolicy::OnFailure { retries: 0 }, "on-failure"),
            ("on-failure:3", RestartPolicy::OnFailure { retries: 3 }, "on-failure:3"),
        ] {
            assert_eq!(text.parse(), Ok(policy), "{text}");
            assert_eq!(policy.to_string(), shown);
        }
        for text in ["sometimes", "on-failure:", "on-failure:x", "on-failure:-1", "on-failure:+1", "always:3", "No"] {
            assert!(text.parse::<RestartPolicy>().unwrap_err().contains("is not a valid restart policy"), "{text}");
        }
    }

    #[test]
    fn only_what_failed_is_retried_on_failure_and_only_so_often() {
        let twice = RestartPolicy::OnFailure { retries: 2 };
        assert!(twice.asks_for_restart(1, 0) && twice.asks_for_restart(137, 1));
        assert!(!twice.asks_for_restart(0, 0) && !twice.asks_for_restart(1, 2));
        assert!(RestartPolicy::OnFailure { retries: 0 }.asks_for_restart(1, 1000));
        assert!(RestartPolicy::Always.asks_for_restart(0, 1000) && RestartPolicy::UnlessStopped.asks_for_restart(0, 0));
        assert!(!RestartPolicy::No.asks_for_restart(1, 0));
    }

    #[test]
    fn what_goes_with_its_process_is_not_kept_alive() {
        for policy in [RestartPolicy::Always, RestartPolicy::UnlessStopped] {
            assert!(policy.check(true).is_err() && policy.check(false).is_ok());
        }
        RestartPolicy::OnFailure { retries: 3 }.check(true).unwrap();
    }
}
