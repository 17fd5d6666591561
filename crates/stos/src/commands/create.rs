// SPDX-License-Identifier: Apache-2.0 OR MIT
//! create, run, start, restart.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::FlockOperation;
use stos_engine::container::{self, ContainerRecord, ContainerState};
use stos_engine::create::create_container_from_image;
use stos_engine::journal::Status;
use stos_engine::lifecycle::{self, start_detached};
use stos_engine::monitor::{Attachment, run_container};
use stos_engine::pull::PullProgress;
use stos_engine::{CreateOptions, Engine, pods};

use super::attach::{self, Manner};
use super::life::{only_image_mode, patience_with};
use super::system::interrupt;
use super::{bundle, each, is_running, named_or_all, ps};
use crate::cli::{BundleOptions, Create, Global, ImageOptions, ProgressOptions, Restart, Run, SessionOptions, Start};
use crate::failure::Failure;
use crate::progress::{self, Reporter};
use crate::target::{self, Target};
use crate::{options, pod_options, table, unit_options};

/// Creates a container, from a bundle where one is given or stos is called as a runtime.
pub fn create(global: &Global, args: &Create) -> Result<u8, Failure> {
    if let Some(dir) = bundle::directory(global, &args.bundle) {
        return bundle::create(global, &args.what, &dir, &args.bundle);
    }
    refuse_bundle_options(&args.bundle)?;
    if args.bundle.preserve_fds > 0 {
        return Err(Failure::message("--preserve-fds is for what is started: run, or bundle mode", 125));
    }
    let id_file = IdFile::claim(global, args.image_options.unit.cidfile.as_deref())?;
    let record = reporter(&args.progress)?.watch(|progress| {
        let engine = target::engine(global).map_err(as_container_failure)?;
        in_new_pod(global, &engine, &args.image_options, |own| {
            let options = read_options(global, own, args.what.command(), args.rm)?;
            create_from_image(global, &engine, args.what.subject(), &options, progress)
        })
    })?;
    id_file.write(&record)?;
    table::print_line(&record.id)?;
    Ok(0)
}

/// The file that a container's id goes to, locked until that is in it.
struct IdFile<'a>(Option<(&'a Path, File)>);

impl<'a> IdFile<'a> {
    /// Makes it, empty; or takes over one that is there and whose container is not.
    fn claim(global: &Global, path: Option<&'a Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self(None)) };
        let failure = |error: std::io::Error| Self::failure(path, &error);
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failure)?;
        if Self::is_used(global, &mut file).map_err(as_container_failure)? {
            let hint = "another container uses it; remove it if none does";
            return Err(Failure::message(format!("--cidfile {}: {hint}", path.display()), 125));
        }
        file.set_len(0).map_err(failure)?;
        Ok(Self(Some((path, file))))
    }

    /// Whether a command that makes a container has it, or what is in it is anything but the id of a container that is gone.
    fn is_used(global: &Global, file: &mut File) -> Result<bool, Failure> {
        // The lock goes with a command that was killed, and leaves the file empty.
        if rustix::fs::flock(&*file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(true);
        }
        let mut text = String::new();
        // No more than an id needs: it may be any file.
        if file.take(stos_engine::unit::ID_FILE_MAX).read_to_string(&mut text).is_err() {
            return Ok(true);
        }
        let text = text.trim_end();
        if text.is_empty() {
            return Ok(false);
        }
        let Ok(id) = text.parse() else { return Ok(true) };
        Ok(container::record(&target::engine(global)?, &id)?.is_some())
    }

    fn failure(path: &Path, error: &std::io::Error) -> Failure {
        Failure::message(format!("--cidfile {}: {error}", path.display()), 125)
    }

    /// Puts the id in it.
    fn write(mut self, record: &ContainerRecord) -> Result<(), Failure> {
        match self.0.take() {
            Some((path, file)) => {
                file.write_all_at(record.id.as_str().as_bytes(), 0).map_err(|error| Self::failure(path, &error))
            }
            None => Ok(()),
        }
    }
}

impl Drop for IdFile<'_> {
    /// Without a container there is no id.
    fn drop(&mut self) {
        if let Some((path, _)) = &self.0 {
            drop(std::fs::remove_file(path));
        }
    }
}

fn refuse_bundle_options(options: &BundleOptions) -> Result<(), Failure> {
    let given = [
        ("--pid-file", options.pid_file.is_some()),
        ("--console-socket", options.console_socket.is_some()),
        ("--no-pivot", options.no_pivot),
        ("--no-new-keyring", options.no_new_keyring),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => Err(Failure::message(format!("{option} is for bundle mode: give a --bundle too"), 125)),
        None => Ok(()),
    }
}

/// Makes the pod that `--pod new:NAME` asks for, where it does, and then the container, whose options `create` is given. Where there comes no
/// container of it the pod goes again.
fn in_new_pod(
    global: &Global,
    engine: &Engine,
    options: &ImageOptions,
    create: impl FnOnce(&ImageOptions) -> Result<ContainerRecord, Failure>,
) -> Result<ContainerRecord, Failure> {
    let asked = pod_options::new_pod(global, options).map_err(|error| as_container_failure(error.into()))?;
    let Some((pod, own)) = asked else { return create(options) };
    let pod = pods::create_pod(engine, &pod).map_err(Failure::of_container)?;
    create(&own).inspect_err(|_| {
        if let Err(error) = pods::remove(engine, &pod, false, None) {
            tracing::warn!(pod = %pod.name, %error, "the pod that was made for it stays");
        }
    })
}

fn read_options(
    global: &Global,
    options: &ImageOptions,
    command: &[String],
    auto_remove: bool,
) -> Result<CreateOptions, Failure> {
    let read = options::create_options(global, options, command, auto_remove);
    read.map_err(|error| match error.downcast::<stos_engine::Error>() {
        // It has advice of its own.
        Ok(error) => Failure::of_container(error),
        Err(error) => Failure::message(format!("{error:#}"), 125),
    })
}

/// Whatever fails before a container's process runs is 125.
fn as_container_failure(failure: Failure) -> Failure {
    failure.with_exit_code(125)
}

fn reporter(options: &ProgressOptions) -> Result<Reporter, Failure> {
    progress::reporter(options).map_err(as_container_failure)
}

fn create_from_image(
    global: &Global,
    engine: &Engine,
    image: &str,
    options: &CreateOptions,
    progress: &dyn PullProgress,
) -> Result<ContainerRecord, Failure> {
    // Until then only: what is launched later has signals of its own.
    let _armed = interrupt::sweep_at_signals(global).map_err(as_container_failure)?;
    create_container_from_image(engine, image, options, progress).map_err(Failure::of_container)
}

/// Creates a container and starts it: attached, or in the background with `--detach`.
pub fn run(global: &Global, args: &Run) -> Result<u8, Failure> {
    if let Some(dir) = bundle::directory(global, &args.bundle) {
        return bundle::run(global, args, &dir);
    }
    refuse_bundle_options(&args.bundle)?;
    if args.keep || args.no_subreaper {
        return Err(Failure::message("--keep and --no-subreaper are for bundle mode: give a --bundle too", 125));
    }
    if let (true, Some(option)) = (args.detach, args.session.given()) {
        return Err(Failure::message(format!("{option} is for the foreground: not with --detach"), 125));
    }
    let id_file = IdFile::claim(global, args.image_options.unit.cidfile.as_deref())?;
    let caller = unit_options::caller(args.bundle.preserve_fds, None)?;
    let (engine, record) = reporter(&args.progress)?.watch(|progress| {
        let engine = target::engine(global).map_err(as_container_failure)?.with_caller(caller);
        let record = in_new_pod(global, &engine, &args.image_options, |own| {
            let options = read_options(global, own, args.what.command(), args.rm)?;
            let options = CreateOptions { starts_at_once: true, ..options };
            create_from_image(global, &engine, args.what.subject(), &options, progress)
        })?;
        Ok((engine, record))
    })?;
    id_file.write(&record)?;
    if args.detach {
        start_detached(&engine, &record).map_err(Failure::of_container)?;
        table::print_line(&record.id)?;
        return Ok(0);
    }
    attached(&engine, &record, record.streams.interactive, &args.session)
}

/// Starts a container and stays with it until it has ended, or is left.
///
/// Where nobody can leave it we are its monitor ourselves, which is the shortest way; else that is another process, which lives on.
fn attached(engine: &Engine, record: &ContainerRecord, stdin: bool, options: &SessionOptions) -> Result<u8, Failure> {
    let has_keys = stdin && options.detach_keys.is_some();
    // Who has started it goes when it has ended for the first time; its monitor stays, and starts it again.
    if record.streams.tty || has_keys || !options.passes_signals() || record.service.may_restart() {
        return attach::start(engine, record, Manner::new(stdin, options, record.streams.tty));
    }
    let exit = run_container(engine, record, Attachment::Attached { stdin }, |_| {});
    let exit = exit.map_err(Failure::of_container)?;
    // 0 to 255 by waitid(2), or 128 and a signal of at most 64.
    Ok(u8::try_from(exit.exit_code).unwrap_or(255))
}

/// Starts containers that were created, in either mode.
pub fn start(global: &Global, args: &Start) -> Result<u8, Failure> {
    match args.containers.as_slice() {
        [query] if args.attach || args.interactive => start_attached(global, query, args),
        _ if args.attach || args.interactive => {
            let failure = Failure::message("--attach is for one container: the streams of several would mix", 1);
            Err(as_start_failure(global, failure))
        }
        _ if args.session.given().is_some() => {
            let option = args.session.given().unwrap_or_default();
            Err(as_start_failure(global, Failure::message(format!("{option} is for --attach"), 1)))
        }
        containers => {
            let does_not_run: fn(&_) -> bool = |state| !is_running(state);
            let containers = match args.filters.as_slice() {
                [] => named_or_all(global, containers, args.all, does_not_run),
                filters => ps::ids_that_fit(global, filters, |state| matches!(state, "created" | "exited")),
            };
            let containers = containers.map_err(|failure| as_start_failure(global, failure))?;
            Ok(each(global, &containers, |query| start_one(global, query, args)))
        }
    }
}

/// Stops containers and starts them again; one that does not run is only started (podman-restart(1)).
pub fn restart(global: &Global, args: &Restart) -> Result<u8, Failure> {
    let fits: fn(&_) -> bool = if args.running { is_running } else { |_| true };
    let containers = named_or_all(global, &args.containers, args.all || args.running, fits)?;
    Ok(each(global, &containers, |query| match target::find(global, query)? {
        Target::Bundle(_, id) => Err(only_image_mode("restart", &id)),
        Target::Image(engine, record) => {
            lifecycle::stop(&engine, &record, patience_with(&record, args.time))?;
            if container::record(&engine, &record.id)?.is_none() {
                return Err(Failure::message(format!("container {} went with its process (--rm)", record.name), 125));
            }
            start_detached(&engine, &record).map_err(Failure::of_container)?;
            engine.note(Status::Restart, &record);
            Ok(table::print_line(query)?)
        }
    }))
}

fn start_attached(global: &Global, query: &str, args: &Start) -> Result<u8, Failure> {
    match target::find(global, query).map_err(|failure| as_start_failure(global, failure))? {
        Target::Bundle(_, id) => {
            Err(Failure::message(format!("container {id} is a bundle's: its streams were given to create"), 1))
        }
        Target::Image(engine, record) => {
            let engine = engine.with_caller(unit_options::caller(0, args.sdnotify)?);
            let stdin = args.interactive && record.streams.interactive;
            match container::state(&engine, &record.id).map_err(Failure::of_container)? {
                // What was to be started has been: podman's habit.
                ContainerState::Running(_) => {
                    attach::attach_to(&engine, &record, Manner::new(stdin, &args.session, record.streams.tty))
                }
                _ => attached(&engine, &record, stdin, &args.session),
            }
        }
    }
}

fn start_one(global: &Global, query: &str, args: &Start) -> Result<(), Failure> {
    match target::find(global, query).map_err(|failure| as_start_failure(global, failure))? {
        Target::Bundle(states, id) => bundle::start(&states, &id),
        Target::Image(engine, record) => {
            let engine = engine.with_caller(unit_options::caller(0, args.sdnotify)?);
            start_detached(&engine, &record).map_err(Failure::of_container)?;
            Ok(table::print_line(query)?)
        }
    }
}

fn as_start_failure(global: &Global, failure: Failure) -> Failure {
    failure.with_exit_code(if global.bundle_mode { 1 } else { 125 })
}
