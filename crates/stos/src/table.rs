// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Columns for people, JSON for programs.

use std::io::{self, Write};

use stos_spec::text::escape;

/// Prints rows under a header, each column as wide as its widest cell.
pub fn print(header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    print_under(Some(header), rows)
}

/// The same, where there may be no header.
pub fn print_under(header: Option<&[&str]>, rows: &[Vec<String>]) -> io::Result<()> {
    print_lines(lines(header, rows))
}

/// Prints lines, of cells with tabs between, as rows; under a header of that form where there is one.
pub fn print_cells(header: Option<&str>, lines: &[String]) -> io::Result<()> {
    let cells = |line: &str| line.trim_end_matches('\n').split('\t').map(str::to_owned).collect::<Vec<_>>();
    let header = header.map(cells);
    let header: Option<Vec<&str>> = header.as_ref().map(|cells| cells.iter().map(String::as_str).collect());
    let rows: Vec<_> = lines.iter().map(|line| cells(line)).collect();
    print_under(header.as_deref(), &rows)
}

/// Gives rows under a header as [`print()`] prints them.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    lines(Some(header), rows).iter().flat_map(|line| [line, "\n"]).collect()
}

fn lines(header: Option<&[&str]>, rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).chain(header.map(<[&str]>::len)).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for (width, cell) in widths.iter_mut().zip(header.unwrap_or_default()) {
        *width = cell.chars().count();
    }
    // Some cells are an image's own words.
    let shown = |cell: &String| escape(cell).into_owned();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(shown).collect()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    header.map(|header| line(header.to_vec())).into_iter().chain(rows).collect()
}

/// Writes to stdout, in few large pieces.
fn write(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    unless_nobody_reads(write(&mut out).and_then(|()| out.flush()))
}

/// Who has read enough, as `head` does, has no complaint.
fn unless_nobody_reads(printed: io::Result<()>) -> io::Result<()> {
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Prints a value as JSON, indented.
pub fn print_json(value: &impl serde::Serialize) -> io::Result<()> {
    write(|out| {
        serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
        writeln!(out)
    })
}

/// Prints one line.
pub fn print_line(text: impl std::fmt::Display) -> io::Result<()> {
    unless_nobody_reads(writeln!(io::stdout().lock(), "{text}"))
}

/// Prints lines, all at once.
pub fn print_lines(lines: impl IntoIterator<Item = impl std::fmt::Display>) -> io::Result<()> {
    write(|out| lines.into_iter().try_for_each(|line| writeln!(out, "{line}")))
}

/// Gives a size as people read it: powers of 1,000, as podman.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.3} {}", UNITS[unit]).replace(".000", "") }
}

/// Gives a time as people read it: how long ago. What is no time is given as it is.
pub fn ago(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return time.to_owned() };
    let seconds = jiff::Timestamp::now().as_second().saturating_sub(then.as_second()).max(0);
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        86400..2_592_000 => (seconds / 86400, "day"),
        2_592_000..31_536_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_for_people() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_500), "1.500 kB");
        assert_eq!(size(1_280_000_000), "1.280 GB");
        assert_eq!(ago("no time"), "no time");
        assert!(ago("1970-01-01T00:00:00Z").ends_with("years ago"));
        assert_eq!(ago(&jiff::Timestamp::now().to_string()), "0 seconds ago");
    }
}
