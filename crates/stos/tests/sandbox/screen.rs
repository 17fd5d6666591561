// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A terminal: what a program's bytes look like on it.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Output, output};

/// What a terminal of so many columns shows, line by line, as ECMA-48 and xterm have it: a line that is full breaks at the next
/// character, not before.
pub struct Screen {
    columns: usize,
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Every line that was ever shown, when it was left or erased.
    pub seen: Vec<String>,
}

impl Screen {
    /// Shows `text` on an empty terminal that never scrolls.
    ///
    /// # Panics
    /// Where it holds a control sequence that no test has needed yet.
    pub fn show(text: &str, columns: usize) -> Self {
        let mut screen = Self { columns, lines: vec![Vec::new()], row: 0, column: 0, seen: Vec::new() };
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '\r' => screen.leave(0),
                '\n' => screen.feed(),
                '\u{1b}' => {
                    assert_eq!(rest.next(), Some('['), "a control sequence");
                    let mut number = String::new();
                    let last = rest.by_ref().find(|c| {
                        if !c.is_ascii_alphabetic() {
                            number.push(*c);
                        }
                        c.is_ascii_alphabetic()
                    });
                    screen.control(last.unwrap(), &number);
                }
                c => screen.put(c),
            }
        }
        screen.leave(0);
        screen
    }

    /// Gives what is shown, without the blanks at the ends of lines and without empty lines.
    pub fn text(&self) -> Vec<String> {
        let lines = self.lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    }

    fn control(&mut self, last: char, number: &str) {
        let count: usize = if number.is_empty() { 1 } else { number.parse().unwrap() };
        match (last, number) {
            ('A', _) => {
                self.leave(self.column);
                self.row = self.row.saturating_sub(count);
            }
            ('B', _) => {
                self.leave(self.column);
                (0..count).for_each(|_| self.down());
            }
            ('K', "2") => {
                self.leave(self.column);
                self.lines[self.row].clear();
            }
            ('K', "" | "0") => {
                self.leave(self.column);
                self.lines[self.row].truncate(self.column);
            }
            other => panic!("ESC [ {other:?}"),
        }
    }

    fn put(&mut self, c: char) {
        if self.column == self.columns {
            self.feed();
            self.column = 0;
        }
        let line = &mut self.lines[self.row];
        line.resize(line.len().max(self.column + 1), ' ');
        line[self.column] = c;
        self.column += 1;
    }

    fn leave(&mut self, column: usize) {
        let line: String = self.lines[self.row].iter().collect();
        if !line.trim().is_empty() {
            self.seen.push(line.trim_end().to_owned());
        }
        self.column = column;
    }

    fn feed(&mut self) {
        self.leave(self.column);
        self.down();
    }

    fn down(&mut self) {
        self.row += 1;
        if self.row == self.lines.len() {
            self.lines.push(Vec::new());
        }
    }
}

/// Runs a command whose stderr is a terminal of so many columns, which script(1) makes. Gives what it printed, what it said there,
/// and what that looks like.
pub fn on_terminal(command: &Command, columns: usize, scratch: &Path) -> (Output, Screen) {
    let (stdout, typescript) = (scratch.join("stdout"), scratch.join("typescript"));
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
    let mut line = format!("stty cols {columns} rows 50; exec env");
    let (set, unset): (Vec<_>, Vec<_>) = command.get_envs().partition(|(_, value)| value.is_some());
    for (name, _) in unset {
        write!(line, " -u {}", name.to_str().unwrap()).unwrap();
    }
    for (name, value) in set {
        write!(line, " {}={}", name.to_str().unwrap(), quoted(value.unwrap())).unwrap();
    }
    for word in std::iter::once(command.get_program()).chain(command.get_args()) {
        write!(line, " {}", quoted(word)).unwrap();
    }
    write!(line, " > {}", quoted(stdout.as_os_str())).unwrap();
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--return", "--log-out"]).arg(&typescript).arg("--command").arg(&line);
    let said = output(script.env("TERM", "xterm").env("SHELL", "/bin/sh").stdin(std::process::Stdio::null()));
    let text = said.stdout;
    let screen = Screen::show(&text, columns);
    (Output { code: said.code, stdout: fs::read_to_string(&stdout).unwrap(), stderr: text }, screen)
}
