// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container as a list shows it, under podman's names.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde_json::{Value, json};
use stos_engine::container::{self, ContainerRecord, ContainerState};
use stos_engine::health::{self, HealthStatus};
use stos_engine::networking::Networking;
use stos_engine::restart;
use stos_engine::service::RestartPolicy;
use stos_engine::volumes::mounts_from_outside;
use stos_engine::{Engine, Network, pods};
use stos_network::ports::PortMapping;
use stos_runtime::lifecycle::list_bundles;
use stos_runtime::state::OciState;

use crate::cli::Global;
use crate::commands::network_settings::pod_with_network;
use crate::failure::Failure;
use crate::{table, target};

/// How many characters of a command are shown.
const COMMAND_SHOWN: usize = 17;

/// What is looked up only where somebody wants it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub mounts: bool,
    pub size: bool,
    pub pods: bool,
}

/// A line of the list.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    pub id: String,
    pub name: String,
    /// The image as it was named; a bundle's directory.
    pub image: String,
    pub image_id: String,
    pub command: Vec<String>,
    pub created: Option<Timestamp>,
    /// `created`, `running`, `paused`, `exited`; `unknown` where a record cannot be read.
    pub state: &'static str,
    pub started: Option<Timestamp>,
    pub exited: Option<Timestamp>,
    pub exit_code: Option<i32>,
    pub pid: i32,
    pub labels: BTreeMap<String, String>,
    /// Source and destination of what is mounted in it from outside.
    pub mounts: Vec<(String, String)>,
    pub networks: Vec<String>,
    /// The id and the name of its pod; empty for none.
    pub pod: (String, String),
    pub ports: Vec<PortMapping>,
    pub auto_remove: bool,
    pub is_bundle: bool,
    /// What its health checks have found, where it has any: podman's word.
    pub health: Option<HealthStatus>,
    /// podman's name of its restart policy, with the number of retries; of a bundle's container none.
    pub restart_policy: Option<RestartPolicy>,
    pub should_start_on_boot: bool,
    /// What it has written, and what its image's layers have besides, in bytes.
    pub size: Option<(u64, u64)>,
}

/// Gives the containers that fit, those of image mode first. What is measured is measured for them alone.
pub(super) fn rows(global: &Global, wanted: Wanted, fits: &mut dyn FnMut(&Row) -> bool) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    let mut known = HashSet::new();
    if global.data_root.is_dir() {
        let engine = target::reader(global)?;
        for (id, record) in container::list(&engine)? {
            let mut row = match &record {
                Ok(record) => of_image(&engine, record, wanted)?,
                Err(error) => {
                    tracing::warn!(container = %id, %error, "its record cannot be read");
                    Row { id: id.to_string(), state: "unknown", ..Row::default() }
                }
            };
            known.insert(row.id.clone());
            if !fits(&row) {
                continue;
            }
            if let (true, Ok(record)) = (wanted.size, &record) {
                row.size = Some(size(&engine, record)?);
            }
            rows.push(row);
        }
    }
    let bundles = list_bundles(&target::run_states(global), |id| known.contains(id.as_str()))?;
    rows.extend(bundles.into_iter().map(of_bundle).filter(|row| fits(row)));
    Ok(rows)
}

fn of_image(engine: &Engine, record: &ContainerRecord, wanted: Wanted) -> Result<Row, Failure> {
    let time = |text: &str| text.parse::<Timestamp>().ok();
    // Whose network it has.
    let pod = pod_with_network(engine, record);
    let mut row = Row {
        id: record.id.to_string(),
        name: record.name.to_string(),
        image: record.image.clone(),
        image_id: record.image_id.hex(),
        command: record.command.clone(),
        created: time(&record.created),
        labels: record.labels.clone(),
        networks: networks(
            pod.as_ref().map_or((record.network, &record.networking), |pod| (pod.network, &pod.networking)),
        ),
        ports: pod.as_ref().map_or(&record.networking, |pod| &pod.networking).ports.clone(),
        auto_remove: record.auto_remove,
        ..Row::default()
    };
    let state = container::state(engine, &record.id);
    row.state = state.as_ref().map_or("unknown", |state| podman_state(state.status()));
    row.restart_policy = Some(record.service.restart);
    if let Ok(state) = &state {
        row.health = health::health(engine, record, state)?.map(|health| health.status);
    }
    row.should_start_on_boot = restart::should_start_on_boot(engine, record)?;
    match state {
        // One that is damaged keeps none of the rest from being seen.
        Err(error) => tracing::warn!(container = %record.name, %error, "what it does cannot be read"),
        Ok(ContainerState::Running(run)) => {
            row.pid = run.init.as_ref().map_or(0, |init| init.pid);
            row.started = Some(run.created);
        }
        Ok(ContainerState::Exited(exit)) => {
            row.exit_code = Some(exit.exit_code);
            (row.started, row.exited) = (time(&exit.started), time(&exit.finished));
        }
        Ok(ContainerState::Created | ContainerState::Stopped) => {}
    }
    if wanted.mounts {
        row.mounts = mounts(engine, record)?;
    }
    if let (true, Some(membership)) = (wanted.pods, &record.pod) {
        let name = pods::record(engine, &membership.id).ok().flatten().map(|pod| pod.name.to_string());
        row.pod = (membership.id.to_string(), name.unwrap_or_default());
    }
    Ok(row)
}

/// The names of its networks, or the word for what it has instead.
fn networks((network, networking): (Network, &Networking)) -> Vec<String> {
    match network {
        Network::Bridge => networking.networks.iter().map(|part| part.network.clone()).collect(),
        other => vec![other.name().to_owned()],
    }
}

/// What is mounted in it from outside: a volume's source is its name.
fn mounts(engine: &Engine, record: &ContainerRecord) -> Result<Vec<(String, String)>, Failure> {
    let mounts = mounts_from_outside(engine, record)?.into_iter();
    Ok(mounts.map(|mount| (mount.name.map_or(mount.source, |name| name.to_string()), mount.destination)).collect())
}

fn size(engine: &Engine, record: &ContainerRecord) -> Result<(u64, u64), Failure> {
    let written = stos_store::usage::measure_tree(&engine.store().container_dir(&record.id).join("upper"))?;
    let mut layers = 0_u64;
    for &layer in &record.layers {
        layers = layers.saturating_add(engine.layerfs().kept(layer)?.map_or(0, |kept| kept.tar_bytes));
    }
    Ok((written.bytes(), layers))
}

fn of_bundle(state: OciState) -> Row {
    Row {
        id: state.id.clone(),
        name: state.id,
        image: state.bundle.display().to_string(),
        created: Some(state.created),
        state: podman_state(&state.status.to_string()),
        started: (state.pid != 0).then_some(state.created),
        pid: state.pid,
        labels: state.annotations.into_iter().collect(),
        is_bundle: true,
        ..Row::default()
    }
}

/// podman calls exited what the runtime specification calls stopped.
fn podman_state(status: &str) -> &'static str {
    match status {
        "created" | "creating" => "created",
        "running" => "running",
        "paused" => "paused",
        _ => "exited",
    }
}

impl Row {
    pub fn shown_id(&self, whole: bool) -> String {
        let short = if whole || self.is_bundle { None } else { self.id.get(..12) };
        short.unwrap_or(&self.id).to_owned()
    }

    pub fn shown_pod_id(&self, whole: bool) -> &str {
        if whole { &self.pod.0 } else { self.pod.0.get(..12).unwrap_or(&self.pod.0) }
    }

    pub fn shown_command(&self, whole: bool) -> String {
        let command = self.command.join(" ");
        match command.char_indices().nth(COMMAND_SHOWN) {
            Some((end, _)) if !whole => format!("{}...", &command[..end]),
            _ => command,
        }
    }

    pub fn created_human(&self) -> String {
        self.created.map_or_else(String::new, |created| table::ago(&created.to_string()))
    }

    /// What it does, as podman says it.
    pub fn status(&self) -> String {
        let ago = |time: Option<Timestamp>| time.map_or_else(String::new, |time| table::ago(&time.to_string()));
        match self.state {
            "running" => {
                let up = format!("Up {}", ago(self.started).trim_end_matches(" ago")).trim_end().to_owned();
                match self.health {
                    Some(health) => format!("{up} ({health})"),
                    None => up,
                }
            }
            "exited" => match self.exit_code {
                Some(code) => format!("Exited ({code}) {}", ago(self.exited)).trim_end().to_owned(),
                // Nobody saw how.
                None => "Exited".to_owned(),
            },
            state => {
                let mut status = state.to_owned();
                status[..1].make_ascii_uppercase();
                status
            }
        }
    }

    pub fn shown_size(&self) -> String {
        let Some((written, layers)) = self.size else { return String::new() };
        format!("{} (virtual {})", table::size(written), table::size(written.saturating_add(layers)))
    }

    /// The host's ports that lead into it, as podman shows them.
    pub fn shown_ports(&self) -> String {
        self.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// All of it under the names of podman's JSON. Times are seconds since 1970.
    pub fn document(&self) -> Value {
        let seconds = |time: Option<Timestamp>| time.map_or(0, Timestamp::as_second);
        let policy = self.restart_policy.map_or_else(String::new, |policy| policy.to_string());
        let mut document = json!({
            "Id": self.id,
            "Names": [self.name],
            "Image": self.image,
            "ImageID": self.image_id,
            "Command": self.command,
            "Created": seconds(self.created),
            "CreatedAt": self.created_human(),
            "State": self.state,
            "Status": self.status(),
            "Exited": self.state == "exited",
            "ExitedAt": seconds(self.exited),
            "ExitCode": self.exit_code.unwrap_or(0),
            "StartedAt": seconds(self.started),
            "Labels": self.labels,
            "Mounts": self.mounts.iter().map(|(_, destination)| destination).collect::<Vec<_>>(),
            "Networks": self.networks,
            "Ports": self.ports,
            "Pid": self.pid,
            "AutoRemove": self.auto_remove,
            "Health": self.health.map_or("", HealthStatus::word),
            "RestartPolicy": policy,
            "Pod": self.pod.0,
            "PodName": self.pod.1,
            "Mode": if self.is_bundle { "bundle" } else { "image" },
        });
        if let Some((written, layers)) = self.size {
            document["Size"] = json!({"rwSize": written, "rootFsSize": written.saturating_add(layers)});
        }
        document
    }

    /// Those fields that look otherwise for people.
    pub fn shown(&self, whole: bool) -> Value {
        let image_id = if whole { None } else { self.image_id.get(..12) };
        json!({
            "ID": self.shown_id(whole),
            "Names": self.name,
            "ImageID": image_id.unwrap_or(&self.image_id),
            "Command": self.shown_command(whole),
            "CreatedAt": self.created.map_or_else(String::new, |time| time.to_string()),
            "CreatedHuman": self.created_human(),
            "RunningFor": self.created_human(),
            "Label": self.labels,
            "Networks": self.networks.join(","),
            "Ports": self.shown_ports(),
            "Size": self.shown_size(),
            "Pod": self.shown_pod_id(whole),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_said_as_podman_says_it() {
        let second_ago = Timestamp::from_second(Timestamp::now().as_second() - 3600).ok();
        let row =
            |state, exit_code| Row { state, exit_code, started: second_ago, exited: second_ago, ..Row::default() };
        for (row, expected) in [
            (row("running", None), "Up 1 hour"),
            (row("exited", Some(3)), "Exited (3) 1 hour ago"),
            (row("exited", None), "Exited"),
            (row("created", None), "Created"),
            (row("paused", None), "Paused"),
            (Row { health: Some(HealthStatus::Healthy), ..row("running", None) }, "Up 1 hour (healthy)"),
            (Row { health: Some(HealthStatus::Stopped), ..row("exited", Some(0)) }, "Exited (0) 1 hour ago"),
        ] {
            assert_eq!(row.status(), expected);
        }
    }

    #[test]
    fn a_long_command_is_cut_between_characters() {
        let row = Row { command: vec!["é".repeat(18)], ..Row::default() };
        assert_eq!(row.shown_command(false), format!("{}...", "é".repeat(17)));
        assert_eq!(row.shown_command(true), "é".repeat(18));
    }
}
