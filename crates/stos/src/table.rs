// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Columns for people, JSON for programs.

use std::io::{self, Write};

use stos_spec::text::escape;

/// Prints rows under a header, each column as wide as its widest cell.
pub fn print(header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    unless_nobody_reads(io::stdout().lock().write_all(render(header, rows).as_bytes()))
}

/// Gives rows under a header as [`print()`] prints them.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    // Some cells are an image's own words.
    let shown = |cell: &String| escape(cell).into_owned();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(shown).collect()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    };
    line(header.to_vec());
    rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
    text
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
    let mut out = io::stdout().lock();
    let printed = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from);
    unless_nobody_reads(printed.and_then(|()| writeln!(out)))
}

/// Prints one line.
pub fn print_line(text: impl std::fmt::Display) -> io::Result<()> {
    unless_nobody_reads(writeln!(io::stdout().lock(), "{text}"))
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
