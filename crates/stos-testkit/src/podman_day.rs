// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Command lines of a podman user's day, with what podman prints: a file of blocks, a shell that runs them, and what is compared.
//!
//! `$ COMMAND` is followed by what it prints, each line behind `| `, and its exit code where that is not 0. Of `~ COMMAND` only the exit
//! code counts: what it prints is each engine's own. Lines are run in one shell, in order, with `podman` a function of it.

use std::fmt::Write as _;

/// One command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As a person types it.
    pub command: String,
    /// Whether what it prints is compared.
    pub is_compared: bool,
    /// What podman has answered, made comparable.
    pub expected: String,
}

/// Reads a file; lines that begin with `#` and empty ones count nothing.
pub fn parse(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for text in text.lines() {
        let line =
            |command: &str, is_compared| Line { command: command.to_owned(), is_compared, expected: String::new() };
        if let Some(command) = text.strip_prefix("$ ") {
            lines.push(line(command, true));
        } else if let Some(command) = text.strip_prefix("~ ") {
            lines.push(line(command, false));
        } else if let (Some(answer), Some(line)) = (text.strip_prefix('|'), lines.last_mut()) {
            line.expected.push_str(answer.strip_prefix(' ').unwrap_or(answer));
            line.expected.push('\n');
        }
    }
    lines
}

/// The file with other answers; comments stay where they are.
pub fn with_answers(text: &str, answers: &[String]) -> String {
    let (mut file, mut answers) = (String::new(), answers.iter());
    for line in text.lines().filter(|line| !line.starts_with('|')) {
        file.push_str(line);
        file.push('\n');
        if line.starts_with("$ ") || line.starts_with("~ ") {
            for line in answers.next().into_iter().flat_map(|answer| answer.lines()) {
                let _ = writeln!(file, "| {line}");
            }
        }
    }
    file
}

/// The shell script of all lines. `prelude` says what `podman` is.
pub fn script(lines: &[Line], prelude: &str) -> String {
    let mut script = format!("{prelude}\n");
    for line in lines {
        // A line of its own for the mark, whatever the command ends with.
        let _ = writeln!(script, "{{ {}\n}} </dev/null; printf '\\n\\001%d\\n' $?", line.command);
    }
    script
}

/// What each line has answered, made comparable; fewer where the shell has ended before.
pub fn answers(lines: &[Line], stdout: &str, registry: &str) -> Vec<String> {
    let mut answers = Vec::new();
    let mut rest = stdout;
    for line in lines {
        let Some((said, after)) = rest.split_once("\n\u{1}") else { break };
        let (code, after) = after.split_once('\n').unwrap_or((after, ""));
        rest = after;
        let said = if line.is_compared { comparable(said, registry) } else { String::new() };
        let mut answer: String = said.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        if code != "0" {
            let _ = writeln!(answer, "(exit {code})");
        }
        answers.push(answer);
    }
    answers
}

/// Puts words for what no two runs have alike: ids and digests, the registry's address.
fn comparable(text: &str, registry: &str) -> String {
    let text = text.replace(registry, "REGISTRY");
    let mut found = String::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        let digits = rest.bytes().take_while(|byte| is_digit(byte)).count();
        // 12 digits are the short form of an id, 64 the long one.
        match digits {
            12 | 64 => {
                // podman shows a digest as an ID, without its algorithm.
                found.truncate(found.strip_suffix("sha256:").map_or(found.len(), str::len));
                found.push_str("ID");
            }
            0 => {
                let next = rest.chars().next().map_or(1, char::len_utf8);
                found.push_str(&rest[..next]);
                rest = &rest[next..];
                continue;
            }
            count => found.push_str(&rest[..count]),
        }
        rest = &rest[digits..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# a comment\n$ podman ps -q\n| ID\n\n~ podman info\n$ false\n| (exit 1)\n";

    #[test]
    fn a_file_is_read_and_written_again() {
        let lines = parse(FILE);
        assert_eq!(lines.len(), 3);
        assert_eq!((lines[0].command.as_str(), lines[0].expected.as_str()), ("podman ps -q", "ID\n"));
        assert!(lines[0].is_compared && !lines[1].is_compared && lines[1].expected.is_empty());
        let answers: Vec<_> = lines.iter().map(|line| line.expected.clone()).collect();
        assert_eq!(with_answers(FILE, &answers), FILE);
    }

    #[test]
    fn a_shell_runs_them_and_what_it_says_is_taken_apart() {
        let lines = parse("$ podman one\n$ podman two; exit_with 3\n~ podman three\n");
        let prelude = "podman() { echo \"$1 0123456789ab at host:1/x\"; }; exit_with() { return \"$1\"; }";
        let script = script(&lines, prelude);
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let answers = answers(&lines, &said, "host:1");
        assert_eq!(answers, ["one ID at REGISTRY/x\n", "two ID at REGISTRY/x\n(exit 3)\n", ""]);
    }

    #[test]
    fn only_whole_ids_are_put_in_words() {
        let id = "0123456789ab";
        assert_eq!(comparable(&format!("sha256:{}{} x", id.repeat(5), "beef"), "r"), "ID x");
        assert_eq!(comparable("abc 123 é 0123456789", "r"), "abc 123 é 0123456789");
    }
}
