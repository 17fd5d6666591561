// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The processes of one container, as runc lists them.

use std::process::Command;

use stos_runtime::lifecycle;

use crate::cli::{Global, Ps};
use crate::failure::Failure;
use crate::table;
use crate::target::run_state;

/// What is shown of each process, unless it is told.
const PS_OPTIONS: &str = "-ef";

/// Lists the processes of a container; as JSON their numbers alone.
pub(super) fn list(global: &Global, args: &Ps, query: &str, options: &[String]) -> Result<u8, Failure> {
    if let Some(option) = args.option_of_list() {
        return Err(Failure::message(format!("ps: {option} is for the list of containers"), 1));
    }
    let is_json = match (args.format.as_deref(), args.filters.as_slice()) {
        (None, []) | (Some("table"), []) => false,
        (Some("json"), []) => true,
        // runc's `-f`.
        (None, [format]) if format == "table" => false,
        (None, [format]) if format == "json" => true,
        _ => return Err(Failure::message("ps: of a container's processes expected --format table or json", 1)),
    };
    show(global, query, options, is_json)
}

/// Shows them with these options of ps(1).
pub fn show(global: &Global, query: &str, options: &[String], is_json: bool) -> Result<u8, Failure> {
    let (states, id) = run_state(global, query, "list the processes of")?;
    let pids = lifecycle::processes(&states, &id)?;
    if is_json {
        table::print_line(serde_json::to_string(&pids)?)?;
        return Ok(0);
    }
    let default = [PS_OPTIONS.to_owned()];
    let options = if options.is_empty() { &default } else { options };
    let shown = Command::new("ps")
        .args(options)
        .output()
        .map_err(|error| Failure::message(format!("ps {}: {error}", options.join(" ")), 1))?;
    if !shown.status.success() {
        let said = String::from_utf8_lossy(&shown.stderr).trim().to_owned();
        return Err(Failure::message(format!("ps {}: {said}", options.join(" ")), 1));
    }
    let text = String::from_utf8_lossy(&shown.stdout);
    let lines = lines_of(&text, &pids)
        .ok_or_else(|| Failure::message(format!("ps {}: expected a column PID", options.join(" ")), 1))?;
    table::print_line(lines.join("\n"))?;
    Ok(0)
}

/// The header, and the lines of `pids`; `None` where no column names a process's number.
///
/// ps(1) aligns numbers to the right, so a line's number ends where its header does. Where a wide cell has pushed it aside it is
/// found by counting, as runc does it.
fn lines_of<'a>(shown: &'a str, pids: &[i32]) -> Option<Vec<&'a str>> {
    let mut lines = shown.lines();
    let header = lines.next()?;
    let column = header.split_whitespace().position(|name| name == "PID")?;
    let end = words(header).find(|(word, _)| *word == "PID")?.1;
    let is_ours = |line: &&str| {
        let aligned = words(line).find(|(_, at)| *at == end).and_then(|(word, _)| word.parse::<i32>().ok());
        let counted = || line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        aligned.or_else(counted).is_some_and(|number| pids.contains(&number))
    };
    Some(std::iter::once(header).chain(lines.filter(is_ours)).collect())
}

/// Each word, and after how many characters of the line it ends.
fn words(line: &str) -> impl Iterator<Item = (&str, usize)> {
    let start = line.as_ptr() as usize;
    line.split_whitespace().map(move |word| {
        let end = word.as_ptr() as usize - start + word.len();
        (word, line[..end].chars().count())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_ps_shows_the_container_s_lines_stay() {
        let shown = "UID  PID  PPID CMD\nroot   1     0 init\nroot  12     1 sh -c 1\nroot 112     1 x 12\n";
        assert_eq!(lines_of(shown, &[12]).unwrap(), ["UID  PID  PPID CMD", "root  12     1 sh -c 1"]);
        let shown = "COMMAND     PID\nsleep 12      7\nsleep 1 2    12\n";
        assert_eq!(lines_of(shown, &[12]).unwrap(), ["COMMAND     PID", "sleep 1 2    12"]);
        let shown = "USER    PID\na-long-name  12\n";
        assert_eq!(lines_of(shown, &[12]).unwrap().len(), 2);
        assert_eq!(lines_of("COMMAND\ninit\n", &[1]), None);
        assert_eq!(lines_of("", &[1]), None);
    }
}
