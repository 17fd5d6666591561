// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a container is looked after while nobody looks: what is asked of a new one, and what its record says.
//!
//! | module | what it is |
//! |---|---|
//! | [`healthcheck`] | the options of health checks, put over what the image says |
//! | [`policy`] | when a container is started again |
//! | [`logging`] | where its output goes |
//! | [`update`] | its policy changes |

pub mod healthcheck;
pub mod logging;
pub mod policy;
pub mod update;

use serde::{Deserialize, Serialize};
use stos_spec::Healthcheck;

pub use self::healthcheck::{HealthOptions, OnFailure};
pub use self::logging::{LogChoice, LogDriver};
pub use self::policy::RestartPolicy;
use crate::error::{Error, Result};

/// How long a container may take to end before it is killed, in seconds, where nothing else is said.
pub const STOP_TIMEOUT: u64 = 10;

/// What is asked of a new container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    /// How its health is checked.
    pub health: HealthOptions,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// How long it may take to end, in seconds.
    pub stop_timeout: Option<u64>,
    /// Where its output goes.
    pub log: LogChoice,
}

/// What a container's record says of it. What nobody asked for is left out: records of old read the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// How its health is checked, with every default filled in; `None` where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// What is done when it has become unhealthy.
    #[serde(skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
    /// When it is started again.
    #[serde(skip_serializing_if = "is_default")]
    pub restart: RestartPolicy,
    /// How long it may take to end, in seconds; [`STOP_TIMEOUT`] where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u64>,
    /// Where its output goes.
    #[serde(skip_serializing_if = "is_default")]
    pub log: LogChoice,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Service {
    /// Tells whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How long it may take to end, in seconds.
    pub fn stop_timeout(&self) -> u64 {
        self.stop_timeout.unwrap_or(STOP_TIMEOUT)
    }

    /// Whether its monitor may start it a second time.
    pub fn may_restart(&self) -> bool {
        self.restart != RestartPolicy::No || self.on_failure == OnFailure::Restart
    }
}

impl ServiceOptions {
    /// Checks what can be told before there is an image.
    ///
    /// # Errors
    /// [`Error::Option`] for what contradicts itself or this host cannot do.
    pub fn check(&self, auto_remove: bool, has_terminal: bool) -> Result<()> {
        self.health.check()?;
        self.restart.check(auto_remove)?;
        self.log.check(has_terminal)
    }

    /// Decides for a container of an image with this health check.
    ///
    /// # Errors
    /// [`Error::Option`] for options of a health check where there is none.
    pub fn decide(&self, of_image: Option<&Healthcheck>) -> Result<Service> {
        let healthcheck = self.health.decide(of_image)?;
        let on_failure = self.health.on_failure;
        if healthcheck.is_none() && on_failure != OnFailure::None {
            let reason = "cannot set an on-failure action without a health check".to_owned();
            return Err(Error::Option { option: "--health-on-failure", value: on_failure.name().to_owned(), reason });
        }
        let Self { restart, stop_timeout, log, .. } = self.clone();
        Ok(Service { healthcheck, on_failure, restart, stop_timeout, log })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_for_is_nothing_said() {
        let service = ServiceOptions::default().decide(None).unwrap();
        assert!(service.is_default() && !service.may_restart());
        assert_eq!(serde_json::to_string(&service).unwrap(), "{}");
        assert_eq!(serde_json::from_str::<Service>("{}").unwrap(), service);
        assert_eq!(service.stop_timeout(), STOP_TIMEOUT);
    }

    #[test]
    fn an_action_on_failure_needs_a_check() {
        let health = HealthOptions { on_failure: OnFailure::Kill, ..HealthOptions::default() };
        let options = ServiceOptions { health, ..ServiceOptions::default() };
        assert!(matches!(options.decide(None), Err(Error::Option { option: "--health-on-failure", .. })));
        let image = Healthcheck { test: vec!["CMD".into(), "x".into()], ..Healthcheck::default() };
        assert_eq!(options.decide(Some(&image)).unwrap().on_failure, OnFailure::Kill);
    }
}
