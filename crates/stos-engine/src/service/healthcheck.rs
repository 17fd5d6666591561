// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The options of health checks, put over what the image says.

use serde::{Deserialize, Serialize};
use stos_spec::Healthcheck;

use crate::error::{Error, Result};

const SECOND: i64 = 1_000_000_000;

/// Interval and timeout of a check where nothing is said, in nanoseconds: podman's.
const DEFAULT_TIME: i64 = 30 * SECOND;

/// How many failures in a row make a container unhealthy, where nothing is said.
const DEFAULT_RETRIES: i64 = 3;

/// What is done when a container has become unhealthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Nothing: it is told.
    #[default]
    None,
    /// It is killed.
    Kill,
    /// It is stopped and started again.
    Restart,
    /// It is stopped.
    Stop,
}

impl OnFailure {
    /// podman's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Stop => "stop",
        }
    }
}

/// What is asked of health checks. Times are nanoseconds; what is `None` is as the image has it, and else podman's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthOptions {
    /// The command, as [`Healthcheck::test`] has it.
    pub test: Option<Vec<String>>,
    /// From the end of a check to the next; 0: none is made unless somebody asks for it.
    pub interval: Option<i64>,
    /// How long a check may take.
    pub timeout: Option<i64>,
    /// How long after the start failures do not count.
    pub start_period: Option<i64>,
    /// How many failures in a row make it unhealthy.
    pub retries: Option<u32>,
    /// Whether there is none, whatever the image says.
    pub disabled: bool,
    /// What is done when it has become unhealthy.
    pub on_failure: OnFailure,
}

impl HealthOptions {
    /// The first of the options that make sense with a check only.
    fn given(&self) -> Option<&'static str> {
        let given = [
            ("--health-interval", self.interval.is_some()),
            ("--health-timeout", self.timeout.is_some()),
            ("--health-start-period", self.start_period.is_some()),
            ("--health-retries", self.retries.is_some()),
        ];
        given.iter().find(|(_, is_given)| *is_given).map(|(option, _)| *option)
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse =
            |option, value: String, reason: &str| Err(Error::Option { option, value, reason: reason.to_owned() });
        if self.disabled && self.test.is_some() {
            return refuse("--no-healthcheck", "true".to_owned(), "not together with --health-cmd");
        }
        if self.retries == Some(0) {
            return refuse("--health-retries", "0".to_owned(), "expected a number greater than 0");
        }
        if self.timeout == Some(0) {
            return refuse("--health-timeout", "0".to_owned(), "expected a time greater than 0, such as 30s");
        }
        Ok(())
    }

    /// Gives the check of a container, with every default filled in; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Option`] where something is asked of a check that there is not.
    pub fn decide(&self, of_image: Option<&Healthcheck>) -> Result<Option<Healthcheck>> {
        if self.disabled {
            return Ok(None);
        }
        // A time below zero says as little as none.
        let image = of_image.cloned().unwrap_or_default();
        let test = self.test.clone().unwrap_or(image.test);
        let said = |own: Option<i64>, image: i64, default: i64| own.unwrap_or(if image > 0 { image } else { default });
        let check = Healthcheck {
            test,
            interval: said(self.interval, image.interval, DEFAULT_TIME),
            timeout: said(self.timeout, image.timeout, DEFAULT_TIME),
            start_period: said(self.start_period, image.start_period, 0),
            start_interval: image.start_interval.max(0),
            retries: said(self.retries.map(i64::from), image.retries, DEFAULT_RETRIES),
        };
        if check.command().is_some() {
            return Ok(Some(check));
        }
        match self.given().filter(|_| self.test.is_none()) {
            Some(option) => {
                let reason = "there is no health check: the image has none, and --health-cmd is not given".to_owned();
                Err(Error::Option { option, value: String::new(), reason })
            }
            None => Ok(None),
        }
    }
}

/// Reads what `--health-cmd` is given, as podman does (containers/podman, `pkg/specgenutil`): a JSON array is the words of a command, or
/// those of an image's `Test` where it begins with a key; anything else is a script for the shell; `none` is no check.
pub fn parse_command(text: &str) -> std::result::Result<Vec<String>, String> {
    let wrong = || format!("expected a command, a JSON array of words, or none, found {text:?}");
    if text.contains('\0') {
        return Err(wrong());
    }
    let is_array = text.trim_start().starts_with('[');
    let words: Vec<String> = match serde_json::from_str::<Vec<String>>(text) {
        Ok(words) => words,
        // A script may begin with a bracket: that is test(1).
        Err(_) => return script(text).ok_or_else(wrong),
    };
    let first = words.first().filter(|_| is_array).ok_or_else(wrong)?;
    let rest = || words[1..].to_vec();
    let with = |key: &str, rest: Vec<String>| [vec![key.to_owned()], rest].concat();
    match first.to_ascii_uppercase().as_str() {
        "NONE" => Ok(with("NONE", Vec::new())),
        key @ ("CMD" | "CMD-SHELL") if words.len() > 1 => Ok(with(key, rest())),
        "CMD" | "CMD-SHELL" | "" => Err(wrong()),
        // One word is a script, as podman has it.
        _ if words.len() == 1 => script(first).ok_or_else(wrong),
        _ => Ok(with("CMD", words.clone())),
    }
}

/// Keys may stand before a command that is no array, too.
fn script(text: &str) -> Option<Vec<String>> {
    let (first, rest) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
    match (first.to_ascii_uppercase().as_str(), rest.trim()) {
        ("NONE", _) => Some(vec!["NONE".to_owned()]),
        ("" | "CMD" | "CMD-SHELL", "") => None,
        ("CMD", rest) => Some(std::iter::once("CMD").chain(rest.split_whitespace()).map(str::to_owned).collect()),
        ("CMD-SHELL", rest) => Some(vec!["CMD-SHELL".to_owned(), rest.to_owned()]),
        _ => Some(vec!["CMD-SHELL".to_owned(), text.to_owned()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(test: &[&str]) -> Healthcheck {
        Healthcheck { test: test.iter().map(|&word| word.to_owned()).collect(), ..Healthcheck::default() }
    }

    #[test]
    fn commands_are_read_as_podman_reads_them() {
        for (text, expected) in [
            ("none", &["NONE"][..]),
            ("NONE", &["NONE"]),
            ("curl -f http://x || exit 1", &["CMD-SHELL", "curl -f http://x || exit 1"]),
            ("[ -e /up ]", &["CMD-SHELL", "[ -e /up ]"]),
            ("CMD true x", &["CMD", "true", "x"]),
            ("CMD-SHELL true | x", &["CMD-SHELL", "true | x"]),
            (r#"["true", "a b"]"#, &["CMD", "true", "a b"]),
            (r#"["exit 1"]"#, &["CMD-SHELL", "exit 1"]),
            (r#"["CMD", "true"]"#, &["CMD", "true"]),
            (r#"["cmd-shell", "a b", "c"]"#, &["CMD-SHELL", "a b", "c"]),
            (r#"["NONE", "x"]"#, &["NONE"]),
        ] {
            assert_eq!(parse_command(text).unwrap(), expected, "{text}");
        }
        for text in ["", "  ", "[]", "CMD", "cmd-shell ", r#"["CMD"]"#, r#"[""]"#, "a\0b"] {
            assert!(parse_command(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn options_count_more_than_the_image_and_the_rest_is_podman_s() {
        let decide = |options: HealthOptions, image: Option<&Healthcheck>| options.decide(image).unwrap();
        assert_eq!(decide(HealthOptions::default(), None), None);
        assert_eq!(decide(HealthOptions::default(), Some(&image(&["NONE"]))), None);
        let own = Healthcheck { interval: 5 * SECOND, retries: -1, start_interval: 7, ..image(&["CMD", "x"]) };
        let found = decide(HealthOptions::default(), Some(&own)).unwrap();
        assert_eq!((found.interval, found.timeout, found.start_period), (5 * SECOND, 30 * SECOND, 0));
        assert_eq!((found.retries, found.start_interval), (3, 7));
        let options = HealthOptions { interval: Some(0), retries: Some(1), ..HealthOptions::default() };
        let found = decide(options.clone(), Some(&own)).unwrap();
        assert_eq!((found.interval, found.retries), (0, 1));
        assert!(matches!(options.decide(None), Err(Error::Option { option: "--health-interval", .. })));
        let none = HealthOptions { test: Some(vec!["NONE".into()]), ..options.clone() };
        assert_eq!(decide(none, Some(&own)), None);
        assert_eq!(decide(HealthOptions { disabled: true, ..options }, Some(&own)), None);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let none = HealthOptions::default;
        none().check().unwrap();
        for options in [
            HealthOptions { disabled: true, test: Some(vec!["CMD".into(), "x".into()]), ..none() },
            HealthOptions { retries: Some(0), ..none() },
            HealthOptions { timeout: Some(0), ..none() },
        ] {
            assert!(matches!(options.check(), Err(Error::Option { .. })), "{options:?}");
        }
    }
}
