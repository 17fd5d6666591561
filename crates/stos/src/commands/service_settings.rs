// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `inspect` says of how a container is looked after, under podman's names.

use serde_json::{Map, Value, json};
use stos_engine::container::{ContainerRecord, ContainerState};
use stos_engine::service::LogDriver;
use stos_engine::{Engine, health, restart};

use crate::failure::Failure;
use crate::table;

/// Adds it to what is shown of a container: keys of `State`, `Config` and `HostConfig`, and `RestartCount`.
pub fn add(
    shown: &mut Value,
    engine: &Engine,
    record: &ContainerRecord,
    state: &ContainerState,
) -> Result<(), Failure> {
    let service = &record.service;
    let mut of_state = state_of(state);
    if let Some(health) = health::health(engine, record, state)? {
        of_state["Health"] = serde_json::to_value(health)?;
    }
    let process = &shown["config"]["process"];
    let entrypoint = record.entrypoint.as_deref().unwrap_or_default();
    let mut config = json!({
        "Hostname": shown["config"]["hostname"],
        "User": record.user.to_string(),
        "Env": process["env"],
        "Cmd": record.command.get(entrypoint.len()..).unwrap_or_default(),
        "Entrypoint": entrypoint,
        "Image": record.image,
        "WorkingDir": process["cwd"],
        "Labels": record.labels,
        "StopSignal": stos_runtime::signal_name(record.stop_signal),
        "Tty": record.streams.tty,
        "OpenStdin": record.streams.interactive,
        "StopTimeout": service.stop_timeout(),
    });
    if let Some(check) = &service.healthcheck {
        config["Healthcheck"] = serde_json::to_value(check)?;
        config["HealthcheckOnFailureAction"] = json!(service.on_failure.name());
    }
    let own = engine.store().container_dir(&record.id).join("log");
    let path = service.log.file(&own);
    // podman's form: without a limit it is below zero.
    let size = match (path.is_some(), service.log.max_size()) {
        (false, _) => "0B".to_owned(),
        (true, u64::MAX) => "-1B".to_owned(),
        (true, bytes) => table::size(bytes).replace(' ', ""),
    };
    let host_config = json!({
        "AutoRemove": record.auto_remove,
        "LogConfig": {
            "Type": service.log.driver.name(),
            "Config": null,
            "Path": path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            "Tag": service.log.tag.as_deref().unwrap_or_default(),
            "Size": size,
        },
        "RestartPolicy": {"Name": service.restart.name(), "MaximumRetryCount": service.restart.retries()},
    });
    for (key, more) in [("State", of_state), ("Config", config), ("HostConfig", host_config)] {
        merge(shown, key, more);
    }
    let restarts = restart::restarts(engine, &record.id)?.unwrap_or_default();
    shown["RestartCount"] = json!(restarts.count);
    if service.log.driver != LogDriver::default() || service.log.path.is_some() {
        shown["log_path"] = json!(path);
    }
    Ok(())
}

fn state_of(state: &ContainerState) -> Value {
    let (pid, started, exit) = match state {
        ContainerState::Running(run) => {
            let pid = run.init.as_ref().map_or(0, |init| init.pid);
            (pid, Some(format!("{:.9}", run.created)), None)
        }
        ContainerState::Exited(exit) => (0, Some(exit.started.clone()), Some(exit)),
        ContainerState::Created | ContainerState::Stopped => (0, None, None),
    };
    // podman calls exited what the runtime specification calls stopped.
    let status = match state.status() {
        "stopped" => "exited",
        other => other,
    };
    json!({
        "Status": status,
        "Running": matches!(status, "running" | "paused"),
        "Paused": status == "paused",
        "OOMKilled": exit.is_some_and(|exit| exit.oom_killed),
        "Pid": pid,
        "ExitCode": exit.map_or(0, |exit| exit.exit_code),
        "StartedAt": started,
        "FinishedAt": exit.map(|exit| &exit.finished),
    })
}

/// Puts the keys of `more` into the object `key`.
fn merge(shown: &mut Value, key: &str, more: Value) {
    let Some(shown) = shown.as_object_mut() else { return };
    let object = shown.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}
