// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each command does. A command gives its exit code; a failure carries one of its own.

mod attach;
pub mod bundle;
mod changes;
mod command_line;
mod containers;
mod cp;
mod create;
mod documents;
mod events;
mod exec;
mod exists;
mod foreground;
mod generate;
mod healthcheck;
mod images;
mod layers;
mod life;
mod limits;
mod list;
mod logs;
mod network;
mod network_settings;
mod own_streams;
mod own_terminal;
mod pod;
mod ps;
mod registries;
mod service_settings;
mod stats;
mod system;
mod top;
mod volumes;

use stos_engine::container::{self, ContainerRecord, ContainerState};
use stos_engine::pods::Attempts;
use stos_engine::{Engine, restart};

use crate::cli::{Cli, Command, Global, Refused, Registry};
use crate::failure::Failure;
use crate::target;

/// The containers that are named, or all from images that do what `fits` says, by their ids.
fn named_or_all(
    global: &Global,
    names: &[String],
    all: bool,
    fits: fn(&ContainerState) -> bool,
) -> Result<Vec<String>, Failure> {
    named_or_all_that(global, names, all, |_, _, state| fits(state))
}

/// The containers that are named, or all from images that run, or will again by themselves after a pause.
fn named_or_all_at_work(global: &Global, names: &[String], all: bool) -> Result<Vec<String>, Failure> {
    named_or_all_that(global, names, all, |engine, record, state| {
        is_running(state) || record.is_some_and(|record| restart::is_awaited(engine, record).unwrap_or(false))
    })
}

fn named_or_all_that(
    global: &Global,
    names: &[String],
    all: bool,
    fits: impl Fn(&Engine, Option<&ContainerRecord>, &ContainerState) -> bool,
) -> Result<Vec<String>, Failure> {
    if !all {
        return Ok(names.to_vec());
    }
    if global.bundle_mode {
        return Err(Failure::message("--all without a container is for containers from images", 1));
    }
    let mut ids = Vec::new();
    if global.data_root.is_dir() {
        let engine = target::reader(global)?;
        for (id, record) in container::list(&engine)? {
            // Where it cannot be read, what is done to it says so, and keeps none of the rest from its turn.
            let fits = |state: &_| fits(&engine, record.as_ref().ok(), state);
            if container::state(&engine, &id).as_ref().map_or(true, fits) {
                ids.push(id.to_string());
            }
        }
    }
    Ok(ids)
}

/// Tells whether a container runs, frozen or not.
fn is_running(state: &ContainerState) -> bool {
    matches!(state, ContainerState::Running(_))
}

/// Does it to each of `names`, and gives the exit code of the first failure. A failure is told, and keeps none of the rest from
/// its turn.
fn each(global: &Global, names: &[String], mut act: impl FnMut(&str) -> Result<(), Failure>) -> u8 {
    let mut code = 0;
    for name in names {
        if let Err(failure) = act(name) {
            failure.report(global);
            code = if code == 0 { failure.exit_code() } else { code };
        }
    }
    code
}

/// Tells what failed of several, and gives the exit code.
fn report(global: &Global, attempts: Attempts) -> u8 {
    let code = u8::from(!attempts.failed.is_empty());
    attempts.failed.into_iter().for_each(|error| Failure::from(error).report(global));
    code
}

fn refused(command: &str, args: &Refused) -> Failure {
    let given: String = args.words.iter().map(|word| format!(" {word}")).collect();
    Failure::message(format!("{command}{given}: containers can be neither checkpointed nor restored"), 1)
}

/// Runs the command.
pub fn run(cli: Cli) -> Result<u8, Failure> {
    let global = &cli.global;
    let _armed = if system::interrupt::is_long(&cli.command) {
        Some(system::interrupt::sweep_at_signals(global)?)
    } else {
        None
    };
    match cli.command {
        Command::Pull(args) => images::pull(global, &args),
        Command::Push(args) => images::push::push(global, &args),
        Command::Images(args) => images::list(global, &args),
        Command::Inspect(args) => images::inspect(global, &args),
        Command::Rmi(args) => images::remove(global, &args),
        Command::Verify(args) => system::check::verify(global, &args),
        Command::Tag(args) => images::names::tag(global, &args),
        Command::Untag(args) => images::names::untag(global, &args),
        Command::History(args) => images::history::history(global, &args),
        Command::Save(args) => images::archive::save(global, &args),
        Command::Load(args) => images::archive::load(global, &args),
        Command::Import(args) => images::archive::import(global, &args),
        Command::Image(command) => images::run(global, command),
        Command::Login(args) => registries::login::login(&args),
        Command::Logout(args) => registries::login::logout(&args),
        Command::Registry(Registry::Explain(args)) => registries::explain::explain(&args),
        Command::Create(args) => create::create(global, &args),
        Command::Run(args) => create::run(global, &args),
        Command::Start(args) => create::start(global, &args),
        Command::Attach(args) => attach::attach(global, &args),
        Command::Exec(args) => exec::exec(global, &args),
        Command::Wait(args) => life::wait(global, &args),
        Command::Logs(args) => logs::logs(global, &args),
        Command::State(args) => life::state(global, &args),
        Command::List(args) => list::list(global, &args),
        Command::Ps(args) => ps::ps(global, &args),
        Command::Top(args) => top::top(global, &args),
        Command::Stats(args) => stats::stats(global, &args),
        Command::Pause(args) => limits::pause(global, &args),
        Command::Resume(args) => limits::resume(global, &args),
        Command::Update(args) => limits::update_one(global, &args),
        Command::Events(args) => events::events(global, &args),
        Command::Kill(args) => life::kill(global, &args),
        Command::Stop(args) => life::stop(global, &args),
        Command::Restart(args) => create::restart(global, &args),
        Command::Rename(args) => life::rename(global, &args),
        Command::Delete(args) => life::delete(global, &args),
        Command::Container(command) => containers::run(global, command),
        Command::Cp(args) => cp::cp(global, &args),
        Command::Diff(args) => changes::diff(global, &args),
        Command::Commit(args) => changes::commit(global, &args),
        Command::Export(args) => changes::export(global, &args),
        Command::Healthcheck(command) => healthcheck::run(global, command),
        Command::Volume(command) => volumes::run(global, command),
        Command::Layer(command) => layers::run(global, command),
        Command::Network(command) => network::run(global, command),
        Command::Pod(command) => pod::run(global, command),
        Command::Port(args) => network::port(global, &args),
        Command::Generate(command) => generate::run(global, &command),
        Command::Spec(args) => documents::spec(&args),
        Command::Features(_) => documents::features(),
        Command::Checkpoint(args) => Err(refused("checkpoint", &args)),
        Command::Restore(args) => Err(refused("restore", &args)),
        Command::Completion(args) => command_line::completion(&args),
        Command::Info(args) => system::info::info(global, &args),
        Command::Version(args) => documents::version(&args),
        Command::System(command) => system::run(global, command),
    }
}
