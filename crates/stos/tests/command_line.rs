// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line as shells, man(1) and people meet it.

mod sandbox;

use std::fs;
use std::process::Command;

use sandbox::{Output, Sandbox, output};
use stos_testkit::environment::tool;
use stos_testkit::guard::Need;
use stos_testkit::require;

/// The screen that a help text fits: what a terminal has that fills a laptop's.
const ROWS: usize = 60;
const COLUMNS: usize = 100;

/// The names of the commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let list = help.split_once("Commands:\n").map_or("", |(_, list)| list).split("\n\n").next().unwrap_or_default();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// All commands, each with the words that lead to it.
fn commands(sandbox: &Sandbox) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut left = vec![Vec::new()];
    while let Some(words) = left.pop() {
        let help = sandbox.ok(&[words.as_slice(), &["--help".to_owned()]].concat());
        left.extend(listed(&help).into_iter().map(|name| [words.as_slice(), &[name]].concat()));
        found.push(words);
    }
    found
}

#[test]
fn each_command_s_help_fits_a_screen_and_has_an_example() {
    require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let all = commands(&sandbox);
    assert!(all.len() > 50, "{all:?}");
    for words in all {
        let help = sandbox.ok(&[words.as_slice(), &["--help".to_owned()]].concat());
        // A group of commands has its examples in the commands.
        assert!(help.contains("Example") || !listed(&help).is_empty(), "{words:?} has no example");
        let widest = help.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= COLUMNS, "{words:?}: {widest} columns");
        // What is needed every day: `--help` has the rest too. The list of all commands is as long as there are commands.
        let short = sandbox.ok(&[words.as_slice(), &["-h".to_owned()]].concat());
        assert!(words.is_empty() || short.lines().count() <= ROWS, "{words:?}: {} lines", short.lines().count());
    }
}

/// What bash completes after `line`, by the script in `file`.
fn completed(file: &str, line: &[&str]) -> Output {
    let script = r#"source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _stos stos "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; printf '%s\n' "${COMPREPLY[@]}""#;
    output(Command::new("bash").args(["-euc", script, "bash", file]).args(line))
}

#[test]
fn bash_completes_commands_and_options() {
    require!(Need::Root, Need::Binary, Need::Tool("bash"));
    let sandbox = Sandbox::new();
    let path = sandbox.path("completion");
    let file = path.to_str().unwrap();
    assert_eq!(sandbox.ok(&["completion", "--file", file, "bash"]), "");
    assert_eq!(sandbox.ok(&["completion", "bash"]), fs::read_to_string(&path).unwrap());
    for (line, expected) in [
        (&["stos", "pu"][..], "pull\npush\n"),
        (&["stos", "run", "--netw"], "--network\n"),
        (&["stos", "image", "prun"], "prune\n"),
        (&["stos", "system", "inf"], "info\n"),
    ] {
        let found = completed(file, line);
        assert!(found.code == 0 && found.stdout.contains(expected), "{line:?}: {found:?}");
    }
    let refused = sandbox.run(&["completion", "-f", "/no/such/directory/stos", "bash"]);
    assert!(refused.code == 1 && refused.stderr.contains("/no/such/directory/stos"), "{refused:?}");
}

#[test]
fn scripts_of_other_shells_have_no_mistakes() {
    require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    for (shell, mark) in [("zsh", "#compdef stos"), ("fish", "complete -c stos")] {
        let path = sandbox.path(shell);
        sandbox.ok(&["completion", "-f", path.to_str().unwrap(), shell]);
        let script = fs::read_to_string(&path).unwrap();
        assert!(script.contains(mark) && script.contains("prune"), "{shell}");
        // The shell itself is asked where it is installed.
        if let Some(program) = tool(shell) {
            let checked = output(Command::new(program).arg("-n").arg(&path));
            assert_eq!((checked.code, checked.stderr.as_str()), (0, ""), "{shell}");
        }
    }
}

#[test]
fn each_command_has_a_manual_page() {
    require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let directory = sandbox.path("man");
    sandbox.ok(&["system", "man", directory.to_str().unwrap()]);
    for words in commands(&sandbox) {
        let name = [&["stos".to_owned()], words.as_slice()].concat().join("-");
        let path = directory.join(format!("{name}.1"));
        let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        for part in [".TH ", ".SH NAME", ".SH SYNOPSIS", "Example"] {
            assert!(page.contains(part) || page.contains(".SH SUBCOMMANDS"), "{name}: no {part}");
        }
        if let Some(groff) = tool("groff") {
            let checked = output(Command::new(groff).args(["-man", "-ww", "-z", "-Tutf8"]).arg(&path));
            assert_eq!((checked.code, checked.stderr.as_str()), (0, ""), "{name}");
        }
    }
    let refused = sandbox.run(&["system", "man", "/proc/none"]);
    assert!(refused.code == 1 && refused.stderr.contains("/proc/none"), "{refused:?}");
}
