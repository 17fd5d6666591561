// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a container's health is checked: the `Healthcheck` of an image configuration (Docker's image specification 1.2, "HEALTHCHECK"; the
//! OCI's has the name reserved).

use serde::{Deserialize, Serialize};

use crate::bounded::List;

/// What an image configuration, and a container's record, say of health checks. Times are nanoseconds; 0 and what is not there say
/// nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]`, `["CMD-SHELL", …]`; empty: nothing is said of the command.
    #[serde(deserialize_with = "words")]
    pub test: Vec<String>,
    /// From the end of a check to the next.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub interval: i64,
    /// How long a check may take.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub timeout: i64,
    /// How long after the start failures do not count.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub start_period: i64,
    /// The interval of that time, while the container is not healthy yet.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub start_interval: i64,
    /// How many failures in a row make it unhealthy.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub retries: i64,
}

/// Docker writes `null` where it has nothing to say.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn words<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<List<String>>::deserialize(deserializer)?.unwrap_or_default().0)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Healthcheck {
    /// What is executed for a check, as podman has it; `None` where there is none. The shell is the container's `/bin/sh`; a first word
    /// that is no key is the command's own.
    pub fn command(&self) -> Option<Vec<String>> {
        let (first, rest) = self.test.split_first()?;
        match first.as_str() {
            "" | "NONE" => None,
            "CMD" if rest.is_empty() => None,
            "CMD" => Some(rest.to_vec()),
            "CMD-SHELL" => Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.join(" ")]),
            _ => Some(self.test.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(test: &[&str]) -> Healthcheck {
        Healthcheck { test: test.iter().map(|&word| word.to_owned()).collect(), ..Healthcheck::default() }
    }

    #[test]
    fn a_command_is_read_as_podman_reads_it() {
        assert_eq!(of(&["CMD", "true", "x"]).command().unwrap(), ["true", "x"]);
        assert_eq!(of(&["CMD-SHELL", "exit 1", "|| x"]).command().unwrap(), ["/bin/sh", "-c", "exit 1 || x"]);
        assert_eq!(of(&["/bin/true", "x"]).command().unwrap(), ["/bin/true", "x"]);
        for test in [&[][..], &[""], &["NONE"], &["NONE", "x"], &["CMD"]] {
            assert_eq!(of(test).command(), None, "{test:?}");
        }
    }

    #[test]
    fn what_is_null_or_missing_says_nothing() {
        let read = |text: &str| serde_json::from_str::<Healthcheck>(text);
        assert_eq!(read("{}").unwrap(), Healthcheck::default());
        assert_eq!(read(r#"{"Test": null, "Interval": null, "Retries": null}"#).unwrap(), Healthcheck::default());
        let found = read(r#"{"Test": ["CMD", "x"], "Interval": 5, "StartInterval": 7, "Retries": 2}"#).unwrap();
        assert_eq!((found.interval, found.start_interval, found.retries), (5, 7, 2));
        assert_eq!(
            serde_json::to_string(&found).unwrap(),
            r#"{"Test":["CMD","x"],"Interval":5,"StartInterval":7,"Retries":2}"#
        );
        assert!(read(r#"{"Test": "x"}"#).is_err() && read(r#"{"Interval": "5s"}"#).is_err());
    }
}
