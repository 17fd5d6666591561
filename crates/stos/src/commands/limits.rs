// SPDX-License-Identifier: Apache-2.0 OR MIT
//! pause, resume, update, events, ps: what containers of either mode may use, and what they use.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use stos_engine::limits::time_of_cpus;
use stos_engine::limits::update::{UpdateOptions, update};
use stos_runtime::config::resources_from_json;
use stos_runtime::{events, lifecycle};

use super::{each, list};
use crate::cli::{Events, Format, Global, Limits, List, Pause, Ps, Resume, Update};
use crate::failure::Failure;
use crate::table;
use crate::target::{self, Target, run_state};

/// What `ps` shows of each process, unless it is told.
const PS_OPTIONS: &str = "-ef";

/// Freezes containers.
pub fn pause(global: &Global, args: &Pause) -> Result<u8, Failure> {
    Ok(each(global, &args.containers, |query| {
        let (states, id) = run_state(global, query, "pause")?;
        Ok(lifecycle::pause(&states, &id)?)
    }))
}

/// Lets frozen containers go on.
pub fn resume(global: &Global, args: &Resume) -> Result<u8, Failure> {
    Ok(each(global, &args.containers, |query| {
        let (states, id) = run_state(global, query, "resume")?;
        Ok(lifecycle::resume(&states, &id)?)
    }))
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
        Target::Bundle(states, id) => lifecycle::update(&states, &id, &resources)?,
        Target::Image(engine, record) => {
            let asked = UpdateOptions { resources: serde_json::to_value(&resources)?, cpus: args.limits.cpus };
            update(&engine, &record, &asked)?;
            table::print_line(&record.id)?;
        }
    }
    Ok(0)
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

/// Tells what a container uses, and when it runs out of memory, a JSON object a line.
pub fn events(global: &Global, args: &Events) -> Result<u8, Failure> {
    let (states, id) = run_state(global, &args.container, "watch")?;
    if args.stats {
        table::print_line(serde_json::to_string(&events::stats(&states, &id)?)?)?;
        return Ok(0);
    }
    events::watch(&states, &id, args.interval, |event| {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let mut out = io::stdout().lock();
        match out.write_all(&line).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            // Who reads us has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error),
        }
    })?;
    Ok(0)
}

/// Lists containers, or the processes of one.
pub fn ps(global: &Global, args: &Ps) -> Result<u8, Failure> {
    let Some((query, options)) = args.words.split_first() else {
        if global.bundle_mode {
            return Err(Failure::message("ps: expected the id of a container", 1));
        }
        return list::list(global, &List { quiet: args.quiet, format: args.format });
    };
    if args.quiet {
        return Err(Failure::message("ps: --quiet is for the list of containers", 1));
    }
    let (states, id) = run_state(global, query, "list the processes of")?;
    let pids = lifecycle::processes(&states, &id)?;
    if args.format == Format::Json {
        table::print_line(serde_json::to_string(&pids)?)?;
        return Ok(0);
    }
    let default = [PS_OPTIONS.to_owned()];
    let options = if options.is_empty() { &default } else { options };
    let shown = Command::new("ps")
        .args(options)
        .output()
        .map_err(|error| Failure::message(format!("ps {}: {error}", options.join(" ")), 1))?;
    if !shown.status.success() {
        let said = String::from_utf8_lossy(&shown.stderr).trim().to_owned();
        return Err(Failure::message(format!("ps {}: {said}", options.join(" ")), 1));
    }
    let text = String::from_utf8_lossy(&shown.stdout);
    let lines = lines_of(&text, &pids)
        .ok_or_else(|| Failure::message(format!("ps {}: expected a column PID", options.join(" ")), 1))?;
    table::print_line(lines.join("\n"))?;
    Ok(0)
}

/// The header, and the lines of `pids`; `None` where no column names a process's number.
///
/// ps(1) aligns numbers to the right, so a line's number ends where its header does. Where a wide cell has pushed it aside it is
/// found by counting, as runc does it.
fn lines_of<'a>(shown: &'a str, pids: &[i32]) -> Option<Vec<&'a str>> {
    let mut lines = shown.lines();
    let header = lines.next()?;
    let column = header.split_whitespace().position(|name| name == "PID")?;
    let end = words(header).find(|(word, _)| *word == "PID")?.1;
    let is_ours = |line: &&str| {
        let aligned = words(line).find(|(_, at)| *at == end).and_then(|(word, _)| word.parse::<i32>().ok());
        let counted = || line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        aligned.or_else(counted).is_some_and(|number| pids.contains(&number))
    };
    Some(std::iter::once(header).chain(lines.filter(is_ours)).collect())
}

/// Each word, and after how many characters of the line it ends.
fn words(line: &str) -> impl Iterator<Item = (&str, usize)> {
    let start = line.as_ptr() as usize;
    line.split_whitespace().map(move |word| {
        let end = word.as_ptr() as usize - start + word.len();
        (word, line[..end].chars().count())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_ps_shows_the_container_s_lines_stay() {
        let shown = "UID  PID  PPID CMD\nroot   1     0 init\nroot  12     1 sh -c 1\nroot 112     1 x 12\n";
        assert_eq!(lines_of(shown, &[12]).unwrap(), ["UID  PID  PPID CMD", "root  12     1 sh -c 1"]);
        let shown = "COMMAND     PID\nsleep 12      7\nsleep 1 2    12\n";
        assert_eq!(lines_of(shown, &[12]).unwrap(), ["COMMAND     PID", "sleep 1 2    12"]);
        let shown = "USER    PID\na-long-name  12\n";
        assert_eq!(lines_of(shown, &[12]).unwrap().len(), 2);
        assert_eq!(lines_of("COMMAND\ninit\n", &[1]), None);
        assert_eq!(lines_of("", &[1]), None);
    }
}
