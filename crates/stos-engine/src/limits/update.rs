// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits of a container that exists: of one that runs at once, and of any for its next start.

use serde_json::{Map, Value};
use stos_runtime::RunState;
use stos_runtime::config::resources_from_json;
use stos_store::files::{self, Durability};

use super::machine::Machine;
use super::{object, resources};
use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, state};
use crate::error::{Error, Result};
use crate::journal::Status;
use crate::lifecycle::{not_running, running, with_life_lock};

/// What is asked of an update.
#[derive(Debug, Clone, Default)]
pub struct UpdateOptions {
    /// The limits as `linux.resources` of a config.json: what is `null` or 0 stays as it is, -1 takes a limit away.
    pub resources: Value,
    /// The number of processors that quota and period stand for, where they come from one: for what is said of it.
    pub cpus: Option<f64>,
}

/// Changes limits of a container: all that are asked for, or none. Of one that runs they change at once; its next start has them too.
///
/// Memory without swap changes both, as for a new container. Device rules stay as they are.
///
/// # Errors
/// [`Error::Option`] for what this machine cannot grant; what the kernel refuses ([`stos_runtime::Error`]) leaves everything as it was.
pub fn update(engine: &Engine, record: &ContainerRecord, asked: &UpdateOptions) -> Result<()> {
    let machine = Machine::probe()?;
    resources::check_cpus(asked.cpus, &machine)?;
    // A start that is under way has read its configuration: it is waited for, and then it has cgroups to change.
    running(engine, &record.id)?;
    with_life_lock(engine, &record.id, |lock| {
        if lock.is_none() {
            return Err(Error::NoSuchContainer(record.name.to_string()));
        }
        let run = match state(engine, &record.id)? {
            ContainerState::Running(run) if run.init.is_none() => return Err(not_running("update", engine, record)?),
            ContainerState::Running(run) => Some(run),
            _ => None,
        };
        change(engine, record, asked, run.as_deref(), &machine)?;
        engine.note(Status::Update, record);
        Ok(())
    })
}

fn change(
    engine: &Engine,
    record: &ContainerRecord,
    asked: &UpdateOptions,
    run: Option<&RunState>,
    machine: &Machine,
) -> Result<()> {
    let path = engine.store.container_dir(&record.id).join("config.json");
    let missing = || stos_store::Error::Damaged { path: path.clone(), reason: "it is missing".to_owned() };
    let mut config: Value = files::read_json(&path)?.ok_or_else(missing)?;
    let mut asked = cleaned(&asked.resources);
    let swap_is_given = !asked["memory"]["swap"].is_null();
    resources::complete_swap(&mut asked, swap_is_given, machine);
    let mut kept = config["linux"]["resources"].take();
    let devices = kept.as_object_mut().and_then(|kept| kept.remove("devices"));
    merge(&mut kept, &asked);
    if asked["memory"]["limit"] == -1
        && !swap_is_given
        && let Some(memory) = kept["memory"].as_object_mut()
    {
        // Without a limit of memory there is none of both together either: the runtime takes it away too.
        memory.remove("swap");
    }
    resources::check(&kept, machine)?;
    // For what stays as it is the kernel is not asked again.
    let parsed = resources_from_json(asked.to_string().as_bytes()).map_err(stos_runtime::Error::from)?;
    if let Some(run) = run {
        run.cgroup.update(&parsed)?;
    }
    if let Some(devices) = devices {
        kept["devices"] = devices;
    }
    config["linux"]["resources"] = kept;
    let durability = if record.auto_remove { Durability::Volatile } else { Durability::Durable };
    Ok(files::replace(&path, &engine.store.staging_area(), &files::to_json(&config), durability)?)
}

/// What is really asked for: without `null`, without 0 (which leaves a limit as it is), and without device rules.
fn cleaned(asked: &Value) -> Value {
    let mut cleaned = object();
    for (group, value) in asked.as_object().into_iter().flatten().filter(|(group, _)| *group != "devices") {
        match value {
            Value::Object(keys) => {
                // 0 is a value of its own here (config-linux.md): swappiness, a burst, and that time is not idle.
                let has_zero = |key: &str| ["swappiness", "idle", "burst"].contains(&key);
                let is_asked = |key: &str, value: &Value| {
                    !value.is_null() && (has_zero(key) || value.as_i64() != Some(0)) && value.as_str() != Some("")
                };
                let keys: Map<_, _> = keys
                    .iter()
                    .filter(|(key, value)| is_asked(key, value))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect();
                if !keys.is_empty() {
                    cleaned[group] = Value::Object(keys);
                }
            }
            Value::Null => {}
            other => cleaned[group] = other.clone(),
        }
    }
    cleaned
}

/// Puts each key of `new` in the place of the one that `old` has.
fn merge(old: &mut Value, new: &Value) {
    match new {
        Value::Object(keys) => {
            if !old.is_object() {
                *old = object();
            }
            keys.iter().for_each(|(key, value)| merge(&mut old[key], value));
        }
        other => *old = other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_asked_for_stays() {
        let asked = json!({
            "memory": {"limit": 5, "swap": null, "reservation": 0, "swappiness": 0}, "cpu": {"cpus": "", "quota": -1, "idle": 0},
            "blockIO": {"weight": null}, "devices": [{"allow": true}], "pids": {"limit": -1},
        });
        let asked = cleaned(&asked);
        let expected = json!({
            "memory": {"limit": 5, "swappiness": 0}, "cpu": {"quota": -1, "idle": 0}, "pids": {"limit": -1},
        });
        assert_eq!(asked, expected);
        let mut kept = json!({"memory": {"limit": 1, "reservation": 3}, "hugepageLimits": []});
        merge(&mut kept, &asked);
        assert_eq!(kept["memory"], json!({"limit": 5, "reservation": 3, "swappiness": 0}));
        assert_eq!((&kept["hugepageLimits"], &kept["pids"]), (&json!([]), &json!({"limit": -1})));
        merge(&mut kept, &json!({}));
        assert_eq!(kept["memory"]["limit"], json!(5));
    }
}
