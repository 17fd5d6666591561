// SPDX-License-Identifier: Apache-2.0 OR MIT
//! pause, resume, update: what containers of either mode may use.

use std::io::{self, Read};
use std::path::Path;

use serde_json::{Value, json};
use stos_engine::journal::Status;
use stos_engine::limits::time_of_cpus;
use stos_engine::limits::update::{UpdateOptions, update};
use stos_engine::service::update::update_restart_policy;
use stos_runtime::config::resources_from_json;
use stos_runtime::{ContainerId, StateDirectory, lifecycle};

use super::life::only_image_mode;
use super::{each, named_or_all};
use crate::cli::{Global, Limits, Pause, Resume, Update};
use crate::failure::Failure;
use crate::table;
use crate::target::{self, Target, run_state_of};

/// Freezes containers.
pub fn pause(global: &Global, args: &Pause) -> Result<u8, Failure> {
    let containers = named_or_all(global, &args.containers, args.all, |state| state.status() == "running")?;
    Ok(each(global, &containers, |query| change(global, query, "pause", Status::Pause, lifecycle::pause)))
}

/// Lets frozen containers go on.
pub fn resume(global: &Global, args: &Resume) -> Result<u8, Failure> {
    let containers = named_or_all(global, &args.containers, args.all, |state| state.status() == "paused")?;
    Ok(each(global, &containers, |query| change(global, query, "resume", Status::Unpause, lifecycle::resume)))
}

/// Does one of the two. A container from an image has that noted.
fn change(
    global: &Global,
    query: &str,
    action: &'static str,
    status: Status,
    act: fn(&StateDirectory, &ContainerId) -> stos_runtime::Result<()>,
) -> Result<(), Failure> {
    let target = target::find_to_read(global, query)?;
    let (states, id) = run_state_of(global, &target, action)?;
    act(&states, &id)?;
    if let Target::Image(engine, record) = target {
        engine.note(status, &record);
        table::print_line(query)?;
    }
    Ok(())
}

/// Changes limits of a container: of a bundle's while it runs, of one from an image for its next start too.
pub fn update_one(global: &Global, args: &Update) -> Result<u8, Failure> {
    let intel_rdt =
        [("--l3-cache-schema", &args.limits.l3_cache_schema), ("--mem-bw-schema", &args.limits.mem_bw_schema)];
    if let Some((option, _)) = intel_rdt.iter().find(|(_, schema)| schema.as_ref().is_some_and(|it| !it.is_empty())) {
        return Err(Failure::message(format!("{option} is not supported: as linux.intelRdt of a config.json"), 1));
    }
    let json = match args.resources.as_deref() {
        None => serde_json::to_vec(&resources(&args.limits))?,
        Some(path) if path == Path::new("-") => {
            let mut json = Vec::new();
            io::stdin().read_to_end(&mut json)?;
            json
        }
        Some(path) => std::fs::read(path)
            .map_err(|error| Failure::message(format!("--resources {}: {error}", path.display()), 1))?,
    };
    let resources = resources_from_json(&json).map_err(stos_runtime::Error::from)?;
    match target::find(global, &args.container)? {
        Target::Bundle(_, id) if args.restart.is_some() => return Err(only_image_mode("--restart", &id)),
        Target::Bundle(states, id) => lifecycle::update(&states, &id, &resources)?,
        Target::Image(engine, record) => {
            let resources = serde_json::to_value(&resources)?;
            // A policy alone asks nothing of the cgroups.
            if args.restart.is_none() || asks_for_something(&resources) {
                update(&engine, &record, &UpdateOptions { resources, cpus: args.limits.cpus })?;
            }
            if let Some(policy) = args.restart {
                update_restart_policy(&engine, &record, policy)?;
            }
            table::print_line(&record.id)?;
        }
    }
    Ok(0)
}

/// Whether resources say anything: whether something in them is neither `null` nor empty.
fn asks_for_something(resources: &Value) -> bool {
    match resources {
        Value::Null => false,
        Value::Object(keys) => keys.values().any(asks_for_something),
        _ => true,
    }
}

/// The options as the resources that they stand for.
fn resources(limits: &Limits) -> Value {
    let (quota, period) = limits.cpus.and_then(time_of_cpus).unzip();
    let mut resources = json!({
        "memory": {
            "limit": limits.memory, "reservation": limits.memory_reservation, "swap": limits.memory_swap,
            "kernel": limits.kernel_memory, "kernelTCP": limits.kernel_memory_tcp, "swappiness": limits.memory_swappiness,
        },
        "cpu": {
            "shares": limits.cpu_share, "quota": limits.cpu_quota.or(quota), "period": limits.cpu_period.or(period), "burst": limits.cpu_burst,
            "realtimeRuntime": limits.cpu_rt_runtime, "realtimePeriod": limits.cpu_rt_period, "idle": limits.cpu_idle,
            "cpus": limits.cpuset_cpus, "mems": limits.cpuset_mems,
        },
        "blockIO": {"weight": limits.blkio_weight},
    });
    if let Some(limit) = limits.pids_limit {
        resources["pids"] = json!({"limit": limit});
    }
    resources
}
