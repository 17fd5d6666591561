// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The group `pod`. Exit codes are podman's: 125 for what fails, but 1 for a pod that is not there to be removed or to be told of.

mod inspect;
mod list;

pub(super) use inspect::inspect_pod;

use std::fs;

use stos_engine::pods::{self, Attempts, PodError, PodRecord};
use stos_engine::prune::PruneFilter;
use stos_engine::{Engine, Error};
use stos_store::PodId;

use super::images::prune::is_answered_yes;
use super::life::{patience, patience_with};
use super::{each, logs, report, stats, top};
use crate::cli::{
    Global, Logs, Pod, PodCreate, PodExists, PodKill, PodLogs, PodPrune, PodRm, PodStats, PodStop, PodTop, Stats,
    WhichPods,
};
use crate::failure::Failure;
use crate::{pod_options, table, target};

/// Runs a command of the group.
pub fn run(global: &Global, command: Pod) -> Result<u8, Failure> {
    let done = match command {
        Pod::Create(args) => create(global, &args),
        Pod::Ls(args) => list::list(global, &args),
        Pod::Inspect(args) => inspect::inspect(global, &args),
        Pod::Start(args) => start(global, &args.which),
        Pod::Stop(args) => stop(global, &args),
        Pod::Restart(args) => restart(global, &args.which),
        Pod::Kill(args) => kill(global, &args),
        Pod::Pause(args) => for_each(global, &args.which, pods::pause),
        Pod::Unpause(args) => for_each(global, &args.which, pods::unpause),
        Pod::Logs(args) => show_logs(global, &args),
        Pod::Top(args) => show_processes(global, &args),
        Pod::Stats(args) => show_usage(global, &args),
        Pod::Rm(args) => remove(global, &args),
        Pod::Prune(args) => prune(global, &args),
        Pod::Exists(args) => exists(global, &args),
    };
    done.map_err(|failure| failure.with_exit_code(125))
}

/// Makes a pod and prints its id.
fn create(global: &Global, args: &PodCreate) -> Result<u8, Failure> {
    let options = pod_options::pod(global, args)?;
    let engine = target::engine(global)?;
    if let Some(path) = &args.pod_id_file {
        // As podman does: another's is not written over.
        if path.exists() {
            let text =
                format!("pod-id-file {}: it exists. Ensure another pod is not using it or delete it", path.display());
            return Err(Failure::message(text, 125));
        }
        fs::write(path, "")
            .map_err(|error| Failure::message(format!("--pod-id-file {}: {error}", path.display()), 125))?;
    }
    let made = pods::create_pod(&engine, &options);
    if let Some(path) = &args.pod_id_file {
        let written = match &made {
            Ok(pod) => fs::write(path, pod.id.as_str()),
            Err(_) => fs::remove_file(path),
        };
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "the id of the pod could not be written");
        }
    }
    table::print_line(made?.id)?;
    Ok(0)
}

/// The pods that are meant, as they were typed.
fn queries(engine: &Engine, which: &WhichPods) -> Result<Vec<String>, Failure> {
    if which.all {
        return Ok(engine.store().pods()?.iter().map(PodId::to_string).collect());
    }
    let of_files = which.pod_id_file.iter().map(|path| pod_options::read_id("pod", "--pod-id-file", path));
    let of_files = of_files.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(which.pods.iter().cloned().chain(of_files).collect())
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Pod(PodError::NotFound(_)))
}

/// Finds each pod and does it to that. One that is gone is passed over where `ignore` says so, or all are meant.
fn do_to_each(
    global: &Global,
    which: &WhichPods,
    ignore: bool,
    mut act: impl FnMut(&Engine, &str, &PodRecord) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let engine = target::engine(global)?;
    let may_be_gone = ignore || which.all;
    Ok(each(global, &queries(&engine, which)?, |query| match pods::find(&engine, query) {
        Ok(pod) => act(&engine, query, &pod).map_err(|failure| failure.with_exit_code(125)),
        Err(error) if may_be_gone && is_missing(&error) => Ok(()),
        Err(error) => Err(Failure::from(error).with_exit_code(125)),
    }))
}

/// Tells what failed of one pod; where nothing did prints what says so.
fn settle(global: &Global, attempts: Attempts, done: impl std::fmt::Display) -> Result<(), Failure> {
    let mut failures: Vec<_> = attempts.failed.into_iter().map(Failure::of_container).collect();
    let Some(last) = failures.pop() else { return Ok(table::print_line(done)?) };
    failures.iter().for_each(|failure| failure.report(global));
    Err(last)
}

fn for_each(
    global: &Global,
    which: &WhichPods,
    act: fn(&Engine, &PodRecord) -> stos_engine::Result<Attempts>,
) -> Result<u8, Failure> {
    do_to_each(global, which, false, |engine, _, pod| settle(global, act(engine, pod)?, &pod.id))
}

fn start(global: &Global, which: &WhichPods) -> Result<u8, Failure> {
    do_to_each(global, which, false, |engine, query, pod| settle(global, pods::start(engine, pod)?, query))
}

fn stop(global: &Global, args: &PodStop) -> Result<u8, Failure> {
    do_to_each(global, &args.which, args.ignore, |engine, query, pod| {
        settle(global, pods::stop(engine, pod, |record| patience_with(record, args.time))?, query)
    })
}

fn restart(global: &Global, which: &WhichPods) -> Result<u8, Failure> {
    do_to_each(global, which, false, |engine, _, pod| {
        let mut attempts = pods::stop(engine, pod, |record| patience_with(record, None))?;
        attempts.failed.extend(pods::start(engine, pod)?.failed);
        settle(global, attempts, &pod.id)
    })
}

fn kill(global: &Global, args: &PodKill) -> Result<u8, Failure> {
    let signal = match args.signal.as_str() {
        // None: whether there are processes to signal.
        "0" => 0,
        name => stos_runtime::parse_signal(name)?,
    };
    do_to_each(global, &args.which, false, |engine, _, pod| settle(global, pods::kill(engine, pod, signal)?, &pod.id))
}

/// Prints what the containers of a pod wrote, each line with whose it is.
fn show_logs(global: &Global, args: &PodLogs) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    let view = pods::look(&engine, pods::find(&engine, &args.pod)?)?;
    let members = view.members.iter().map(|member| &member.record);
    let containers: Vec<_> = match &args.container {
        None => members.map(|record| record.id.to_string()).collect(),
        Some(query) => {
            let wanted = stos_engine::container::find(&engine, query)?;
            let found: Vec<_> =
                members.filter(|record| record.id == wanted.id).map(|record| record.id.to_string()).collect();
            if found.is_empty() {
                let text = format!("container {query} is not in pod {}", view.record.name);
                return Err(Failure::message(text, 125));
            }
            found
        }
    };
    let &PodLogs { follow, tail, since, until, timestamps, names, .. } = args;
    logs::logs(global, &Logs { follow, tail, since, until, timestamps, names, containers })
}

/// Shows the processes of all containers of a pod that run, one container after the other.
fn show_processes(global: &Global, args: &PodTop) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    let view = pods::look(&engine, pods::find(&engine, &args.pod)?)?;
    let running = view.members.iter().filter(|member| member.is_running());
    let containers: Vec<_> = running.map(|member| member.record.id.to_string()).collect();
    if containers.is_empty() {
        let (action, pod, expected) =
            ("list the processes of", view.record.name.to_string(), "one with containers that run");
        return Err(Error::from(PodError::State { action, pod, status: view.status().to_string(), expected }).into());
    }
    top::of_all(global, &containers, &args.descriptors, args.format)
}

/// How often what pods use is looked at, in seconds: podman's choice.
const STATS_INTERVAL: u32 = 5;

/// Tells what the containers of pods use; of all pods where none is named.
fn show_usage(global: &Global, args: &PodStats) -> Result<u8, Failure> {
    let &PodStats { no_stream, no_reset, no_trunc, .. } = args;
    let format = args.format.clone();
    let interval = STATS_INTERVAL;
    let args_of_stats = Stats { all: false, format, interval, no_stream, no_reset, no_trunc, containers: Vec::new() };
    stats::of_pods(global, &args_of_stats, &args.pods)
}

/// Removes pods and prints their ids.
fn remove(global: &Global, args: &PodRm) -> Result<u8, Failure> {
    let engine = target::engine(global)?;
    let may_be_gone = args.ignore || args.force || args.which.all;
    Ok(each(global, &queries(&engine, &args.which)?, |query| {
        let removed = match pods::find(&engine, query) {
            Ok(pod) => pods::remove(&engine, &pod, args.force, args.time.map(patience)).map(|()| pod.id),
            Err(Error::Store(stos_store::Error::Damaged { .. })) if args.force => pods::remove_damaged(&engine, query),
            Err(error) => Err(error),
        };
        match removed {
            Ok(id) => Ok(table::print_line(id)?),
            Err(error) if may_be_gone && is_missing(&error) => Ok(()),
            Err(error) => {
                let code = if is_missing(&error) { 1 } else { 125 };
                Err(Failure::from(error).with_exit_code(code))
            }
        }
    }))
}

/// Removes the pods that have ended, and prints their ids. Asks first, unless by force.
fn prune(global: &Global, args: &PodPrune) -> Result<u8, Failure> {
    if !args.force && !is_answered_yes("all stopped/exited pods and their containers")? {
        return Ok(0);
    }
    let (removed, code) = prune_pods(global, &target::engine(global)?, &[])?;
    table::print_lines(&removed)?;
    Ok(code)
}

/// Removes those that fit, and gives their ids and the exit code: what fails for one is told, and keeps no other from its turn.
pub(super) fn prune_pods(
    global: &Global,
    engine: &Engine,
    filters: &[PruneFilter],
) -> Result<(Vec<PodId>, u8), Failure> {
    let fits = |pod: &PodRecord| filters.iter().all(|filter| filter.holds_of(Some(&pod.created), &pod.labels));
    let (removed, attempts) = pods::prune(engine, fits)?;
    Ok((removed, report(global, attempts)))
}

fn exists(global: &Global, args: &PodExists) -> Result<u8, Failure> {
    if !global.data_root.is_dir() {
        return Ok(1);
    }
    match pods::find_id(&target::reader(global)?, &args.pod) {
        Ok(_) => Ok(0),
        Err(error) if is_missing(&error) => Ok(1),
        Err(error) => Err(error.into()),
    }
}
