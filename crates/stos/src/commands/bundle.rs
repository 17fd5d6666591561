// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bundle mode's create and run. DATA-ROOT is never opened here.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use rustix::event::{PollFd, PollFlags, poll};
use stos_runtime::lifecycle::{self, CreateOptions};
use stos_runtime::{ContainerId, ProcessRecord, Stdio};
use stos_sys::process::pidfd;
use stos_sys::signals::SignalFd;

use crate::cli::{BundleOptions, Global, ImageOptions, What};
use crate::failure::Failure;
use crate::target;

/// Gives the bundle's directory, where bundle mode is meant.
pub fn directory(global: &Global, options: &BundleOptions) -> Option<PathBuf> {
    options.bundle.clone().or_else(|| global.bundle_mode.then(|| PathBuf::from(".")))
}

/// Refuses, by name, options that are for containers from images: `matches` of a create or run that has a bundle.
pub fn refuse_image_options(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((_, given)) = matches.subcommand() else { return Ok(()) };
    let of_images = ImageOptions::augment_args(clap::Command::new("image"));
    let of_images: Vec<_> = of_images.get_arguments().map(|option| option.get_id().as_str()).collect();
    let is_refused = |id: &str| {
        let is_of_image = of_images.contains(&id) || ["rm", "interactive", "progress"].contains(&id);
        is_of_image && given.value_source(id) == Some(ValueSource::CommandLine)
    };
    match given.ids().find(|id| is_refused(id.as_str())) {
        Some(id) => {
            let option = id.as_str().replace('_', "-");
            Err(Failure::message(
                format!("--{option} is for containers from images: a bundle's config.json decides"),
                1,
            ))
        }
        None => Ok(()),
    }
}

/// A bundle says itself what runs: nothing may follow the id.
fn parse_id(what: &What) -> Result<ContainerId, Failure> {
    if let Some(word) = what.command().first() {
        let id = what.subject();
        return Err(Failure::message(
            format!("unexpected {word:?} after the id {id:?}: a bundle has its own command"),
            1,
        ));
    }
    Ok(what.subject().parse::<ContainerId>().map_err(stos_runtime::Error::from)?)
}

/// Creates a container whose first process waits for `start`.
pub fn create(global: &Global, what: &What, bundle: &Path, pid_file: Option<&Path>) -> Result<u8, Failure> {
    let options = CreateOptions { bundle, pid_file, stdio: Stdio::Inherit };
    lifecycle::create(&target::run_states(global), &parse_id(what)?, options)?;
    Ok(0)
}

/// Creates and starts a container; unless detached, stays until it has ended, passes signals on, and deletes it.
pub fn run(global: &Global, what: &What, bundle: &Path, pid_file: Option<&Path>, detach: bool) -> Result<u8, Failure> {
    let id = parse_id(what)?;
    let states = target::run_states(global);
    // Blocked before anything runs, so that a signal during the start is passed on after it.
    let signals = if detach { None } else { Some(SignalFd::new(&[1, 2, 3, 10, 12, 15])?) };
    let options = CreateOptions { bundle, pid_file, stdio: Stdio::Inherit };
    let state = lifecycle::create(&states, &id, options)?;
    let process = ProcessRecord::of(state.pid)?.map(|process| process.open()).transpose()?.flatten();
    if let Err(error) = lifecycle::start(&states, &id) {
        lifecycle::delete(&states, &id, true)?;
        return Err(error.into());
    }
    let (Some(signals), Some(process)) = (signals, process) else { return Ok(0) };
    let ended = loop {
        let mut fds = [PollFd::new(&process, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        while let Some(signal) = signals.next_signal()? {
            pidfd::send_signal(process.as_fd(), signal)?;
        }
        if let Some(ended) = pidfd::try_wait(process.as_fd())? {
            break ended;
        }
    };
    lifecycle::delete(&states, &id, true)?;
    Ok(u8::try_from(ended.code()).unwrap_or(255))
}
