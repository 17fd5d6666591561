// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which containers a list or a prune takes: podman's `--filter KEY=VALUE` (podman-ps(1), "--filter").

use jiff::Timestamp;
use stos_engine::container;
use stos_engine::health::HealthStatus;
use stos_engine::service::RestartPolicy;
use stos_engine::times::read_time;
use stos_store::ImageSelector;

use super::row::Row;
use crate::cli::Global;
use crate::failure::Failure;
use crate::target;

/// What `health` may be: podman's words, and what is said of a container without a monitor.
const HEALTH: [&str; 6] = ["none", "starting", "healthy", "unhealthy", "stopped", "unknown"];

const STATES: [&str; 6] = ["created", "running", "paused", "exited", "stopped", "unknown"];

/// What must hold. Of one key any value will do, but of labels all must.
#[derive(Debug, Default)]
pub(super) struct Filters {
    ids: Vec<String>,
    names: Vec<String>,
    labels: Vec<(String, Option<String>)>,
    not_labels: Vec<(String, Option<String>)>,
    states: Vec<String>,
    exit_codes: Vec<i32>,
    /// What image ids begin with, or are.
    ancestors: Vec<String>,
    before: Vec<Timestamp>,
    since: Vec<Timestamp>,
    until: Vec<Timestamp>,
    volumes: Vec<String>,
    networks: Vec<String>,
    health: Vec<String>,
    policies: Vec<String>,
    start_on_boot: Vec<bool>,
    pods: Vec<String>,
}

impl Filters {
    /// Reads them.
    ///
    /// # Errors
    /// For a key that is none, a value that it cannot have, and a container to compare with that there is not.
    pub fn read(global: &Global, texts: &[String]) -> Result<Self, Failure> {
        let mut filters = Self::default();
        for text in texts {
            filters.add(global, text)?;
        }
        Ok(filters)
    }

    fn add(&mut self, global: &Global, text: &str) -> Result<(), Failure> {
        let refuse = |reason: &str| Failure::message(format!("--filter {text:?}: {reason}"), 1);
        let Some((key, value)) = text.split_once('=') else { return Err(refuse("expected KEY=VALUE")) };
        let owned = || value.to_owned();
        let label = || match value.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (value.to_owned(), None),
        };
        match key {
            "id" => self.ids.push(value.to_ascii_lowercase()),
            "name" => self.names.push(owned()),
            "label" => self.labels.push(label()),
            "label!" => self.not_labels.push(label()),
            "status" if STATES.contains(&value) => self.states.push(owned()),
            "status" => return Err(refuse(&format!("expected one of {}", STATES.join(", ")))),
            "exited" => self.exit_codes.push(value.parse().map_err(|_| refuse("expected an exit code"))?),
            "ancestor" => self.ancestors.push(image_id(global, value)?),
            "before" => self.before.push(created(global, value)?),
            "since" => self.since.push(created(global, value)?),
            "until" => {
                let time = read_time(value, Timestamp::now());
                self.until.push(time.ok_or_else(|| refuse("expected a time such as 2026-01-31T12:00:00Z or 24h"))?);
            }
            "volume" => self.volumes.push(owned()),
            "network" => self.networks.push(owned()),
            "health" if HEALTH.contains(&value) => self.health.push(owned()),
            "health" => return Err(refuse(&format!("expected one of {}", HEALTH.join(", ")))),
            "restart-policy" => match value.parse::<RestartPolicy>() {
                Ok(_) => self.policies.push(owned()),
                Err(reason) => return Err(refuse(&reason)),
            },
            "should-start-on-boot" => {
                self.start_on_boot.push(value.parse().map_err(|_| refuse("expected true or false"))?);
            }
            "pod" => self.pods.push(owned()),
            _ => {
                return Err(refuse(
                    "expected id, name, label, label!, status, exited, ancestor, before, since, until, volume, network, pod, health, restart-policy or should-start-on-boot",
                ));
            }
        }
        Ok(())
    }

    /// Whether what is mounted decides.
    pub fn need_mounts(&self) -> bool {
        !self.volumes.is_empty()
    }

    /// Whether it decides of which pod they are.
    pub fn need_pods(&self) -> bool {
        !self.pods.is_empty()
    }

    /// Whether what they do is asked for.
    pub fn ask_for_status(&self) -> bool {
        !self.states.is_empty()
    }

    /// Whether a container fits.
    pub fn fit(&self, row: &Row) -> bool {
        let has = |(key, value): &(String, Option<String>)| {
            row.labels.get(key).is_some_and(|own| value.as_ref().is_none_or(|value| value == own))
        };
        let created = |fits: &dyn Fn(Timestamp) -> bool| row.created.is_some_and(fits);
        any(&self.ids, |id| row.id.starts_with(id))
            && any(&self.names, |name| name_fits(name, &row.name))
            && self.labels.iter().all(has)
            && (self.not_labels.is_empty() || !self.not_labels.iter().all(has))
            && any(&self.states, |state| row.state == if state == "stopped" { "exited" } else { state })
            && any(&self.exit_codes, |code| row.exit_code == Some(*code))
            && any(&self.ancestors, |id| !row.image_id.is_empty() && row.image_id.starts_with(id))
            // The earliest of several counts.
            && self.before.iter().min().is_none_or(|time| created(&|own| own < *time))
            && self.since.iter().min().is_none_or(|time| created(&|own| own > *time))
            && self.until.iter().min().is_none_or(|time| created(&|own| own < *time))
            && any(&self.volumes, |volume| is_mounted(volume, row))
            && any(&self.health, |health| row.health.map_or("none", HealthStatus::word) == health)
            && any(&self.policies, |policy| row.restart_policy.is_some_and(|own| fits_policy(own, policy)))
            && any(&self.start_on_boot, |wanted| row.should_start_on_boot == *wanted)
            && any(&self.networks, |network| row.networks.iter().any(|own| own == network))
            && any(&self.pods, |pod| is_of_pod(pod, row))
    }
}

fn any<T>(values: &[T], fits: impl FnMut(&T) -> bool) -> bool {
    values.is_empty() || values.iter().any(fits)
}

/// A name fits whatever the number of retries is.
fn fits_policy(own: RestartPolicy, wanted: &str) -> bool {
    own.name() == wanted || wanted.parse() == Ok(own)
}

/// A part of the name; with `^` from its beginning, with `$` to its end. podman takes regular expressions.
fn name_fits(wanted: &str, name: &str) -> bool {
    match (wanted.strip_prefix('^'), wanted.strip_suffix('$')) {
        (Some(rest), Some(_)) => rest.strip_suffix('$') == Some(name),
        (Some(start), None) => name.starts_with(start),
        (None, Some(end)) => name.ends_with(end),
        (None, None) => name.contains(wanted),
    }
}

/// The pod's name, or the beginning of its id.
fn is_of_pod(wanted: &str, row: &Row) -> bool {
    let (id, name) = &row.pod;
    !id.is_empty() && !wanted.is_empty() && (name == wanted || id.starts_with(wanted))
}

/// `DESTINATION`, or `SOURCE:DESTINATION`; or a source alone.
fn is_mounted(wanted: &str, row: &Row) -> bool {
    row.mounts.iter().any(|(source, destination)| match wanted.split_once(':') {
        Some((from, to)) => from == source && to == destination,
        None => wanted == destination || wanted == source,
    })
}

/// The ID of an image of the store; of another what is taken for the beginning of one.
fn image_id(global: &Global, name: &str) -> Result<String, Failure> {
    if global.data_root.is_dir() {
        match target::reader(global)?.store().find_image(&ImageSelector::new(name)) {
            Ok(image) => return Ok(image.image_id.hex()),
            Err(stos_store::Error::NoSuchImage(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(name.strip_prefix("sha256:").unwrap_or(name).to_owned())
}

fn created(global: &Global, query: &str) -> Result<Timestamp, Failure> {
    match target::find_to_read(global, query)? {
        target::Target::Bundle(states, id) => Ok(states.read(&id)?.created),
        target::Target::Image(engine, record) => match record.created.parse() {
            Ok(time) => Ok(time),
            Err(_) => Err(container::find(&engine, query).map_or_else(Failure::from, |record| {
                Failure::message(format!("container {}: {:?} is no time", record.name, record.created), 1)
            })),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_in_part_or_whole() {
        for (wanted, fits) in
            [("we", true), ("^web", true), ("^eb", false), ("eb$", true), ("^web$", true), ("^we$", false)]
        {
            assert_eq!(name_fits(wanted, "web"), fits, "{wanted}");
        }
    }

    #[test]
    fn a_pod_is_named_or_begun() {
        let row = Row { pod: ("abc".into(), "web".into()), ..Row::default() };
        for (wanted, fits) in [("web", true), ("ab", true), ("we", false), ("", false)] {
            assert_eq!(is_of_pod(wanted, &row), fits, "{wanted}");
        }
        assert!(!is_of_pod("web", &Row::default()));
    }

    #[test]
    fn labels_must_all_be_there_and_of_other_keys_any_value_will_do() {
        let row = Row {
            labels: [("a".into(), "1".into()), ("b".into(), "2".into())].into(),
            id: "ab".into(),
            state: "exited",
            ..Row::default()
        };
        let label = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        let fits = |filters: Filters| filters.fit(&row);
        assert!(fits(Filters { labels: vec![label("a", None), label("b", Some("2"))], ..Filters::default() }));
        assert!(!fits(Filters { labels: vec![label("a", None), label("b", Some("3"))], ..Filters::default() }));
        assert!(!fits(Filters { not_labels: vec![label("a", None)], ..Filters::default() }));
        assert!(fits(Filters {
            ids: vec!["x".into(), "a".into()],
            states: vec!["stopped".into()],
            ..Filters::default()
        }));
        assert!(fits(Filters { health: vec!["none".into()], start_on_boot: vec![false], ..Filters::default() }));
        assert!(!fits(Filters { policies: vec!["always".into()], ..Filters::default() }), "a bundle has no policy");
        assert!(fits_policy(RestartPolicy::OnFailure { retries: 3 }, "on-failure"));
        assert!(!fits_policy(RestartPolicy::OnFailure { retries: 3 }, "on-failure:2"));
        assert!(!fits(Filters { ancestors: vec![String::new()], ..Filters::default() }), "a bundle has no image");
    }
}
