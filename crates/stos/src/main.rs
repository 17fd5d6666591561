// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line of stos: from an image reference to a running container.
//!
//! | module | what it is |
//! |---|---|
//! | `cli` | the words of the command line |
//! | `commands` | what each command does, a file each |
//! | `target` | which container an argument means: of bundle mode or of image mode |
//! | `options`, `mount_options` | options of a container, read into the engine's types; `network_options` those of its network, `pod_options` of its pod, `unit_options` of it as a service |
//! | `failure` | errors with their chain, a hint and an exit code |
//! | `logging` | where the trace goes |
//! | `process_list` | secrets of the command line, hidden from who lists processes |
//! | `prompt` | users and passwords, asked for on a terminal |
//! | `progress` | bars on a terminal, lines or JSON elsewhere |
//! | `entry` | where the kernel enters the program |
//! | `table` | columns for people |
//! | `template` | `--format` templates, evaluated over JSON |
//!
//! Results go to stdout, everything else to stderr. Image mode talks to `stos-engine`, bundle mode to `stos-runtime` alone:
//! it never opens DATA-ROOT.

// The linker reads it: with another one the program is linked again.
const _: &str = include_str!("../startup.ld");

mod cli;
mod commands;
#[cfg(stos_entry)]
mod entry;
mod failure;
mod logging;
mod mount_options;
mod network_options;
mod options;
mod pod_options;
mod process_list;
mod progress;
mod prompt;
mod security_options;
mod table;
mod target;
mod template;
mod unit_options;
mod user_namespace_options;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Id, Parser};
use stos_sys::signals::set_default_action;

use crate::cli::{BundleOptions, Cli, Command, Container, Generate, Pod, Rootless, System};
use crate::failure::Failure;

fn main() -> ExitCode {
    if may_launch(std::env::args_os().skip(1)) {
        // As early as it can be: the program may begin again. Where this fails, `prepare` says so in the command's own way.
        let _ = stos_runtime::protect_binary();
    }
    let words = own_words();
    let (mut cli, given) = match cli::read(&words) {
        Ok(read) => read,
        Err(error) => return refuse(&error),
    };
    cli.global.bundle_mode = is_called_by_another_name();
    let global = cli.global.clone();
    // An engine reads in the log also why nothing was begun. Where that is the log itself there is none.
    let prepared = prepare(&cli, &given).inspect_err(|_| drop(logging::start(&global)));
    match prepared.and_then(|()| commands::run(cli)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.report(&global);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Our command line. Under the name of a generator systemd calls us as one (systemd.generator(7)).
fn own_words() -> Vec<OsString> {
    let mut words: Vec<_> = std::env::args_os().collect();
    let name = words.first().map(std::path::Path::new).and_then(std::path::Path::file_name);
    if name.is_some_and(|name| name.as_encoded_bytes().ends_with(b"-generator")) {
        words.splice(1..1, ["generate", "quadlet"].map(OsString::from));
    }
    words
}

/// Says what is wrong with the command line, or shows the help that was asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    // With the stream closed there is nobody to tell.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    log_refusal(error, &arguments);
    ExitCode::from(if is_called_by_another_name() { 1 } else { usage_exit_code(&arguments) })
}

/// Writes into the log what is wrong with a command line: an engine that asks for more than there is reads it there, and would else take
/// an older error for this one.
fn log_refusal(error: &clap::Error, arguments: &[String]) {
    let value = |name: &str| {
        arguments.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(name)? {
            "" => arguments.get(at + 1).map(String::as_str),
            rest => rest.strip_prefix('='),
        })
    };
    let Some(log) = value("--log") else { return };
    let format = value("--log-format").unwrap_or("text");
    let Ok(cli) = Cli::try_parse_from(["stos", "--log", log, "--log-format", format, "features"]) else { return };
    if logging::start(&cli.global).is_ok() {
        let said = error.to_string();
        tracing::error!("{}", said.lines().next().unwrap_or_default().trim_start_matches("error: "));
    }
}

/// The exit code of a command line that cannot be read: 125 where image mode's create, run, start, exec or attach was meant, whose other
/// codes are the process's, or healthcheck, whose are its result, or one of the group pod; 1 for everything else.
fn usage_exit_code(arguments: &[String]) -> u8 {
    let mut words = arguments.iter().map(String::as_str);
    let mut cli = Cli::command();
    // Else a command knows its options only when it is chosen.
    cli.build();
    let (_, name) = read_options(&cli, &mut words);
    let Some(name @ ("create" | "run" | "start" | "exec" | "attach" | "healthcheck" | "pod")) = name else { return 1 };
    // What follows the image is its command's, `-b` too.
    let options = cli.find_subcommand(name).map(|command| read_options(command, &mut words).0);
    if options.unwrap_or_default().iter().any(|option| option == "bundle") { 1 } else { 125 }
}

/// Reads options of `command` up to the first word that is none: gives their long names, and that word.
fn read_options<'a>(
    command: &clap::Command,
    words: &mut impl Iterator<Item = &'a str>,
) -> (Vec<String>, Option<&'a str>) {
    let mut names = Vec::new();
    let find = |fits: &dyn Fn(&clap::Arg) -> bool| command.get_arguments().find(|argument| fits(argument));
    let takes_next = |argument: &clap::Arg| argument.get_action().takes_values() && !argument.is_require_equals_set();
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            names.push(name.to_owned());
            if value.is_none() && find(&|argument| argument.get_long() == Some(name)).is_some_and(takes_next) {
                words.next();
            }
        } else if let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.is_empty()) {
            for (at, short) in cluster.char_indices() {
                let Some(argument) = find(&|argument| argument.get_short() == Some(short)) else { continue };
                names.extend(argument.get_long().map(str::to_owned));
                if takes_next(argument) {
                    if at + short.len_utf8() == cluster.len() {
                        words.next();
                    }
                    break;
                }
            }
        } else {
            return (names, Some(word));
        }
    }
    (names, None)
}

/// Commands that start a container's process, or may.
const LAUNCHES: [&str; 5] = ["run", "start", "restart", "exec", "healthcheck"];

/// Tells whether a command line may start a container's process, by its words alone: to be wrong costs a millisecond.
fn may_launch(words: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<_> = words.collect();
    let has = |sought: &str| words.iter().any(|word| word == sought);
    let names_bundle = |word: &OsString| {
        let word = word.as_encoded_bytes();
        word.starts_with(b"-b") || word.starts_with(b"--bundle")
    };
    // From an image nothing runs before `start`.
    let creates = has("create") && (is_called_by_another_name() || words.iter().any(names_bundle));
    let is_launch = |word: &OsString| LAUNCHES.iter().any(|launch| word == launch);
    // `generate` writes down where this program lies, which one that has begun again does not know.
    let first = words.iter().find(|word| is_launch(word) || *word == "generate");
    creates || first.is_some_and(is_launch)
}

/// Tells whether stos is called through a symlink of another name, as engines call a runtime.
fn is_called_by_another_name() -> bool {
    let name = std::env::args_os().next().map(std::path::PathBuf::from);
    let name = name.as_deref().and_then(std::path::Path::file_name).and_then(|name| name.to_str());
    name.is_some_and(|name| !name.starts_with("stos") && !name.ends_with("-generator"))
}

/// Refuses wishes about all commands that cannot be fulfilled. systemd's cgroups are wished for when they are made.
fn refuse_unsupported(cli: &Cli, of_image: bool) -> Result<(), Failure> {
    if cli.global.rootless == Rootless::True {
        return Err(Failure::message("--rootless true is not supported: errors of cgroups are never overlooked", 1));
    }
    if cli.global.systemd_cgroup && of_image && matches!(cli.command, Command::Create(_) | Command::Run(_)) {
        return Err(Failure::message(
            "--systemd-cgroup is for bundles: an image's container has cgroups of stos's own",
            1,
        ));
    }
    Ok(())
}

/// What comes before the command itself, the log last. `given` is what stands on the line. It fails with the command's own exit code.
fn prepare(cli: &Cli, given: &[Id]) -> Result<(), Failure> {
    let is_bundle = |options: &BundleOptions| commands::bundle::directory(&cli.global, options).is_some();
    // Whether a process is launched here, and whether it is an image's container.
    let (launches, of_image) = match &cli.command {
        // From an image nothing runs before `start`.
        Command::Create(create) => (is_bundle(&create.bundle), !is_bundle(&create.bundle)),
        Command::Run(run) => (true, !is_bundle(&run.bundle)),
        Command::Start(_) | Command::Container(Container::Start(_)) => (true, !cli.global.bundle_mode),
        Command::Restart(_)
        | Command::Container(Container::Restart(_))
        | Command::Pod(Pod::Start(_) | Pod::Restart(_)) => (true, true),
        Command::Exec(_) => (true, !cli.global.bundle_mode),
        Command::Healthcheck(_) => (true, true),
        _ => (false, false),
    };
    let failure_code = match &cli.command {
        Command::Exec(_) if cli.global.bundle_mode => 255,
        _ if of_image => 125,
        _ => 1,
    };
    let prepared = (|| {
        if let (Command::Create(_) | Command::Run(_), false) = (&cli.command, of_image) {
            commands::bundle::refuse_image_options(given)?;
        }
        let needs_root = !matches!(
            cli.command,
            Command::System(System::Info(_) | System::Man(_))
                | Command::Completion(_)
                | Command::Info(_)
                | Command::Version(_)
                | Command::Generate(Generate::Quadlet(_))
                | Command::Features(_)
                | Command::Spec(_)
        );
        refuse_unsupported(cli, of_image)?;
        if needs_root && !rustix::process::geteuid().is_root() {
            return Err(Failure::message("stos must run as root: rootless containers are not supported yet", 1));
        }
        if launches {
            // A caller that ignores it passes that on, and the kernel would forget how a container's process ended.
            set_default_action(rustix::process::Signal::CHILD.as_raw())?;
            // Where `main` has not: before any thread or file.
            stos_runtime::protect_binary()?;
        }
        // An engine's commands ask no registry, and are called often.
        let may_look_up =
            !cli.global.bundle_mode && (!launches || (of_image && matches!(&cli.command, Command::Run(_))));
        if cfg!(target_feature = "crt-static") && may_look_up {
            stos_sys::names::look_up_hosts_by_ourselves()?;
        }
        logging::start(&cli.global)
    })();
    prepared.map_err(|failure: Failure| failure.with_exit_code(failure_code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_launch_is_told_by_words() {
        let may = |line: &str| may_launch(line.split_whitespace().map(OsString::from));
        for line in [
            "run image",
            "--root /x start id",
            "exec id create",
            "container restart id",
            "healthcheck run id",
            "run image generate",
            "create --bundle=/b id",
            "create -b . id",
        ] {
            assert!(may(line), "{line}");
        }
        for line in ["create image", "pull image", "stop id", "list", "generate systemd --name start", ""] {
            assert!(!may(line), "{line}");
        }
    }

    #[test]
    fn a_command_line_that_cannot_be_read_has_the_exit_code_of_its_command() {
        for (line, expected) in [
            ("run --no-such x", 125),
            ("--root create --debug --log-format=json start", 125),
            ("create --bundle=x --name y id", 1),
            ("run -b x --rm id", 1),
            ("run -qbx --rm id", 1),
            ("run --no-such image ls -b", 125),
            ("run --no-such -e -b image", 125),
            ("create --name --bundle image", 125),
            ("start --no-such -b", 125),
            ("attach --detach-keys no c", 125),
            ("healthcheck run", 125),
            ("--root /x pull", 1),
            ("", 1),
        ] {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(usage_exit_code(&words), expected, "{line:?}");
        }
    }
}
