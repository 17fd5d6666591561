// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The commands that engines call many times a second, read without the words of all others: to put those together takes longer than
//! to read a line.

use std::ffi::OsString;
use std::mem::{ManuallyDrop, forget};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Id};

use super::{Cli, Create, Delete, Exec, Global, Kill, Run, Start, State};

/// Reads a command line, whose first word is the program's name. With it come the options and arguments of its command that stand on
/// the line itself.
///
/// # Errors
/// Those of the whole command line, help that was asked for among them.
pub fn read(words: &[OsString]) -> Result<(Cli, Vec<Id>), clap::Error> {
    // Whatever is unusual about the line is left to the whole: a name can be the value of an option, too.
    let short = words.iter().skip(1).find_map(|word| with_one_command(word.to_str()?));
    if let Some(read) = short.and_then(|short| read_as(short, words).ok()) {
        return Ok(read);
    }
    read_as(Cli::command(), words)
}

fn read_as(command: clap::Command, words: &[OsString]) -> Result<(Cli, Vec<Id>), clap::Error> {
    // Once in a process: to take a hundred options apart again piece by piece is a tenth of what the reading takes.
    let mut command = ManuallyDrop::new(command);
    let mut matches = command.try_get_matches_from_mut(words)?;
    let given = given(&matches);
    let cli = Cli::from_arg_matches_mut(&mut matches);
    forget(matches);
    Ok((cli?, given))
}

/// What stands on the line of the command's options and arguments.
fn given(matches: &ArgMatches) -> Vec<Id> {
    let Some((_, command)) = matches.subcommand() else { return Vec::new() };
    let is_given = |id: &&Id| command.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    command.ids().filter(is_given).cloned().collect()
}

/// The command line with one command alone, where that is one of those called often.
fn with_one_command(name: &str) -> Option<clap::Command> {
    let command = |name: &'static str| clap::Command::new(name);
    let chosen = match name {
        "create" => Create::augment_args(command("create")),
        "start" => Start::augment_args(command("start")),
        "run" => Run::augment_args(command("run")),
        "exec" => Exec::augment_args(command("exec")),
        "state" => State::augment_args(command("state")),
        "kill" => Kill::augment_args(command("kill")),
        "delete" => Delete::augment_args(command("delete")),
        _ => return None,
    };
    Some(Global::augment_args(command("stos")).subcommand(chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        format!("stos {line}").split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn a_line_means_the_same_with_one_command_and_with_all() {
        for line in [
            "--root /r --log l --log-format json create --bundle /b --pid-file p id",
            "create --name x -e A=b image sh -c run",
            "start a b",
            "run --rm -v /a:/b image ls -l --rm",
            "run -it --detach-keys ctrl-a,b --sig-proxy=false image sh -i",
            "exec -dt -l --privileged sh -c exec",
            "exec --process p --detach --pid-file q id",
            "exec -t -e A=b id sh -c exec",
            "--root exec state id",
            "kill --all id KILL",
            "delete --force id",
            "list",
            "rm -f x",
        ] {
            let short = read(&words(line)).unwrap_or_else(|error| panic!("{line}: {error}")).0;
            let whole = read_as(Cli::command(), &words(line)).unwrap().0;
            assert_eq!(format!("{short:?}"), format!("{whole:?}"), "{line}");
        }
        assert!(with_one_command("exec").is_some() && with_one_command("pull").is_none());
    }

    #[test]
    fn what_is_wrong_is_told_as_of_the_whole() {
        for line in ["exec", "exec --help", "run --no-such x", "--help", "--root run nothing"] {
            let short = read(&words(line)).unwrap_err();
            let whole = read_as(Cli::command(), &words(line)).unwrap_err();
            assert_eq!((short.kind(), short.to_string()), (whole.kind(), whole.to_string()), "{line}");
        }
    }
}
