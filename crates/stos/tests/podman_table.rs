// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `docs/podman.md` says which of podman's options there are: held against what each command says of itself.

use std::process::Command;

use stos_testkit::environment;
use stos_testkit::guard::Need;

const TABLE: &str = include_str!("../../../docs/podman.md");

/// The options in a cell.
fn options(cell: &str) -> Vec<&str> {
    cell.split('`').filter(|word| word.starts_with("--")).collect()
}

/// What a command's help names at the beginning of a line, and the other names of each; `None` where there is no such command.
fn known(command: &str) -> Option<Vec<String>> {
    let mut help = Command::new(environment::stos());
    let help = help.args(command.split(' ')).arg("--help").output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    let is_option = |char: char| char.is_ascii_alphanumeric() || char == '-';
    let mut found = Vec::new();
    for line in text.lines().map(str::trim_start).filter(|line| line.starts_with('-') || line.contains("[alias")) {
        for word in line.split(|char| !is_option(char)).filter(|word| word.starts_with("--")) {
            found.push(word.to_owned());
        }
    }
    help.status.success().then_some(found)
}

#[test]
fn the_table_of_podman_s_options_is_true() {
    stos_testkit::require!(Need::Binary);
    let (mut rows, mut false_ones) = (0, Vec::new());
    for line in TABLE.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [command, same, otherwise, missing] = cells[..] else { panic!("four cells in {line}") };
        let command = command.trim_matches('`');
        rows += 1;
        let Some(known) = known(command) else {
            if missing != "the command" {
                false_ones.push(format!("there is no {command}"));
            }
            continue;
        };
        let has = |option: &str| known.iter().any(|known| known == option);
        let lacks = options(same).into_iter().chain(options(otherwise)).filter(|option| !has(option));
        false_ones.extend(lacks.map(|option| format!("{command} has no {option}")));
        let there = options(missing).into_iter().filter(|option| has(option));
        false_ones.extend(there.map(|option| format!("{command} has {option}")));
        if missing == "the command" {
            false_ones.push(format!("there is {command}"));
        }
    }
    assert!(rows > 80, "{rows}");
    assert!(false_ones.is_empty(), "{false_ones:#?}");
}
