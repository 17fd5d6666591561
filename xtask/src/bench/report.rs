// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a run has found: tables for people, `bench/results.json`, and the part of `docs/performance.md` between its two marks, with
//! drawings beside it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::book::{Book, Row, Unit};
use super::plot::{self, Bars, Line};
use super::{bare_start, containers, inside, limits, network, pulls, scale, snapshotter, space, targets};

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// The groups in the order of the report, with their headings and what is to be known of them.
const GROUPS: [(&str, &str, &str); 11] = [
    (pulls::GROUP, "Cold pulls", "Until the engine says that it is done, until all of it is on disk, and the removal."),
    (network::GROUP, "Pulls of what is there, and pushes", ""),
    (
        containers::GROUP,
        "Containers, one at a time",
        "crun and runc run a bundle that is ready: umoci has unpacked it beforehand.",
    ),
    (scale::GROUP, "Many containers", ""),
    (scale::LAYERS, "Many layers", ""),
    (inside::GROUP, "Within containers", ""),
    (space::GROUP, "Memory, disk, page cache", ""),
    (
        snapshotter::GROUP,
        "Under containerd",
        "`ctr` of one release of containerd throughout; only the snapshotter differs, and `containerd stos` has stos's.",
    ),
    (
        limits::GROUP,
        "The limit",
        "The parts of a pull, each alone and by a process of its own, layers side by side; all of them at once, as a pull has to, and that without \
         inflating; and a program that starts a container and does nothing that it need not. What a pull needs of the processors is the sum of its parts' CPU, the registry's with that of the download, divided by \
         their number.",
    ),
    (
        limits::PROCESSORS,
        "Who had the processors",
        "During a pull by stos, the time of all processors. What other machines had is what the hypervisor gave to others of its guests \
         (`steal`): no program here can have it, and the limit does not count it.",
    ),
    (limits::STAGES, "Where the time goes", "stos's own stages, as its log tells them."),
];

/// What the targets' last column says.
const AT_BEST: &str = "The last column is what programs come to here that do only what cannot be left out: a pull that receives, inflates, \
     hashes and writes, all at once, and looks at nothing; with `isal` the same with nothing to inflate; and stos's own first start with what \
     a bare start takes longer beside others.";

/// All of it as text, for the terminal and for the documentation.
pub fn text(book: &Book) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "| | |\n|---|---|");
    for (name, value) in &book.facts {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    let _ = writeln!(text, "\n### What is wanted\n\n{AT_BEST}\n\n{}", targets_table(book));
    for (group, heading, about) in GROUPS {
        let rows: Vec<&Row> = book.rows.iter().filter(|row| row.group == group).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(text, "### {heading}\n");
        if !about.is_empty() {
            let _ = writeln!(text, "{about}\n");
        }
        let has_ratios = ![limits::GROUP, limits::PROCESSORS, limits::STAGES].contains(&group);
        let _ = writeln!(text, "{}", table(&rows, has_ratios));
    }
    if let Some(multiples) = multiples(book) {
        let _ = writeln!(text, "### Multiples of the limit\n\n{multiples}");
    }
    if !book.notes.is_empty() {
        let _ = writeln!(text, "### What could not be measured\n");
        for note in &book.notes {
            let why = note.why.lines().next_back().unwrap_or_default();
            let _ = writeln!(text, "- {}, {}: `{}`", note.engine, note.what, why.replace('`', "'"));
        }
    }
    text
}

fn targets_table(book: &Book) -> String {
    let mut table = String::from("| | wanted | found | holds | at best |\n|---|---|---|---|---|\n");
    for target in targets::all(book) {
        let [found, at_best] = [target.found, target.at_best].map(|it| it.map_or_else(|| "–".to_owned(), precise));
        let _ = writeln!(table, "| {} | {} | {found} | {} | {at_best} |", target.what, target.wanted, target.verdict());
    }
    table
}

/// A row for each thing, a column for each engine; medians, and with `has_ratios` how many times stos's they are.
fn table(rows: &[&Row], has_ratios: bool) -> String {
    let (mut things, mut engines) = (Vec::new(), Vec::new());
    for row in rows {
        if !things.contains(&&row.what) {
            things.push(&row.what);
        }
        if !engines.contains(&&row.engine) {
            engines.push(&row.engine);
        }
    }
    let mut table =
        format!("| | {} |\n|---|", engines.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" | "));
    table.push_str(&"---|".repeat(engines.len()));
    table.push('\n');
    for thing in things {
        let find = |engine: &str| rows.iter().find(|row| row.what == *thing && row.engine == engine);
        let base = find("stos").map(|row| row.median).filter(|median| has_ratios && *median > 0.0);
        let cell = |engine: &&String| match (find(engine), base) {
            (None, _) => "–".to_owned(),
            (Some(row), Some(base)) if *engine != "stos" => {
                format!("{} ({} ×)", value(row), precise(row.median / base))
            }
            (Some(row), _) => value(row),
        };
        let _ = writeln!(table, "| {thing} | {} |", engines.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    table
}

/// stos's times as multiples of what the machine allows.
fn multiples(book: &Book) -> Option<String> {
    let mut table = String::from("| | limit | stos | |\n|---|---|---|---|\n");
    let mut add = |what: &str, limit: f64, found: f64| {
        let (shown, own) = (milliseconds(limit), milliseconds(found));
        let _ = writeln!(table, "| {what} | {shown} | {own} | {} × |", precise(found / limit));
    };
    let mut has_any = false;
    for (_, what) in pulls::IMAGES {
        if let (Some(limit), Some(found)) = (limits::of_pull(book, what), book.median(limits::GROUP, what, "stos")) {
            add(&format!("cold pull of {what}"), limit, found);
            has_any = true;
        }
    }
    let bare = book.median(limits::GROUP, limits::START, bare_start::NAME);
    if let (Some(limit), Some(found)) = (bare, book.median(limits::GROUP, limits::START, "stos")) {
        add("run --rm true", limit, found);
        has_any = true;
    }
    has_any.then_some(table)
}

fn value(row: &Row) -> String {
    match row.unit {
        Unit::Milliseconds => milliseconds(row.median),
        Unit::Megabytes => format!("{} MB", precise(row.median)),
        Unit::Count => format!("{}", row.median),
    }
}

fn milliseconds(value: f64) -> String {
    if value >= 1000.0 { format!("{:.2} s", value / 1000.0) } else { format!("{} ms", precise(value)) }
}

/// Three digits, as far as they say something.
fn precise(value: f64) -> String {
    match value.abs() {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Writes the results as JSON, and into the documentation beside them.
pub fn write(book: &Book, results: &Path) -> anyhow::Result<()> {
    let root = results.parent().and_then(Path::parent).context("a workspace")?;
    fs::create_dir_all(results.parent().context("a directory")?)?;
    book.save(results)?;
    let drawings = root.join("docs/performance");
    fs::create_dir_all(&drawings)?;
    let mut body = String::new();
    for (name, title, svg) in drawings_of(book) {
        fs::write(drawings.join(format!("{name}.svg")), svg)?;
        let _ = writeln!(body, "![{title}](performance/{name}.svg)\n");
    }
    body.push_str(&text(book));
    let path = root.join("docs/performance.md");
    let page = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    fs::write(&path, between_marks(&page, &body)?)?;
    eprintln!("written: {} and {}", results.display(), path.display());
    Ok(())
}

fn between_marks(page: &str, body: &str) -> anyhow::Result<String> {
    let (before, rest) = page.split_once(BEGIN).context("docs/performance.md has no mark of the begin")?;
    let (_, after) = rest.split_once(END).context("docs/performance.md has no mark of the end")?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", body.trim()))
}

/// The drawings that there are samples for: file name, title, SVG.
fn drawings_of(book: &Book) -> Vec<(&'static str, &'static str, String)> {
    let all_pulls: Vec<&str> = pulls::IMAGES.iter().map(|(_, what)| *what).collect();
    let lives = ["create", "run --rm true", "run --rm echo, first byte", "exec", "stop", "delete"];
    let mut drawings = Vec::new();
    for (name, title, group, things) in [
        ("pulls", "Cold pull, until it is done (median; only stos's is durable by then)", pulls::GROUP, &*all_pulls),
        ("containers", "A container's life (median)", containers::GROUP, &lives),
    ] {
        let groups = bars_of(book, group, things);
        if !groups.is_empty() {
            drawings.push((name, title, plot::bars(title, &groups, milliseconds)));
        }
    }
    for (name, title, below, group, prefix, suffix) in [
        (
            "scale",
            "run --rm true beside containers that run (median)",
            "containers that run",
            scale::GROUP,
            "run --rm true beside ",
            " that run",
        ),
        (
            "layers",
            "run --rm true by the image's layers (median)",
            "layers",
            scale::LAYERS,
            "run --rm true, ",
            " layers",
        ),
    ] {
        let lines = lines_of(book, group, prefix, suffix);
        if !lines.is_empty() {
            drawings.push((name, title, plot::lines(title, below, &lines, milliseconds)));
        }
    }
    drawings
}

fn bars_of(book: &Book, group: &str, things: &[&str]) -> Vec<Bars> {
    let bars = |thing: &&str| {
        let rows = book.rows.iter().filter(|row| row.group == group && row.what == **thing);
        let values: Vec<_> = rows.map(|row| (row.engine.clone(), row.median)).collect();
        (!values.is_empty()).then(|| Bars { label: (*thing).to_owned(), values })
    };
    things.iter().filter_map(bars).collect()
}

/// The engines' medians over the number between a row's first and last words.
fn lines_of(book: &Book, group: &str, prefix: &str, suffix: &str) -> Vec<Line> {
    let mut lines = Vec::<Line>::new();
    for row in book.rows.iter().filter(|row| row.group == group) {
        let number = row.what.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix)).map(str::parse);
        let Some(Ok(number)) = number else { continue };
        match lines.iter_mut().find(|line| line.name == row.engine) {
            Some(line) => line.points.push((number, row.median)),
            None => lines.push(Line { name: row.engine.clone(), points: vec![(number, row.median)] }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        let mut book = Book::default();
        book.facts.insert("kernel".into(), "6.18".into());
        book.add(pulls::GROUP, "deb:12 gzip", "stos", Unit::Milliseconds, 500.0);
        book.add(pulls::GROUP, "deb:12 gzip", "podman", Unit::Milliseconds, 2000.0);
        book.add(pulls::GROUP, "deb:12 gzip, rmi", "podman", Unit::Milliseconds, 3.0);
        for (count, time) in [(10, 20.0), (1, 10.0)] {
            let what = format!("run --rm true beside {count} that run");
            book.add(scale::GROUP, &what, "stos", Unit::Milliseconds, time);
        }
        book
    }

    #[test]
    fn a_table_has_medians_and_ratios() {
        let text = text(&book());
        assert!(text.contains("| deb:12 gzip | 500 ms | 2.00 s (4.00 ×) |"), "{text}");
        assert!(text.contains("| deb:12 gzip, rmi | – | 3.00 ms |"), "{text}");
        assert!(text.contains("| kernel | 6.18 |") && text.contains("| not measured |"), "{text}");
        assert!(!text.contains("Many layers") && !text.contains("could not be measured"), "{text}");
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([1.234, 12.34, 123.4, 0.05].map(precise), ["1.23", "12.3", "123", "0.05"]);
        assert_eq!(milliseconds(1234.0), "1.23 s");
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        assert_eq!(between_marks(&page, "new\n").unwrap(), format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert!(between_marks("no marks", "new").is_err());
    }

    #[test]
    fn everything_is_written() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("docs")).unwrap();
        fs::write(root.path().join("docs/performance.md"), format!("# P\n{BEGIN}{END}\n")).unwrap();
        let results = root.path().join("bench/results.json");
        write(&book(), &results).unwrap();
        assert_eq!(Book::load(&results).unwrap(), book());
        let page = fs::read_to_string(root.path().join("docs/performance.md")).unwrap();
        assert!(page.contains("![Cold pull") && page.contains("deb:12 gzip"), "{page}");
        let drawn = fs::read_to_string(root.path().join("docs/performance/scale.svg")).unwrap();
        assert!(drawn.contains("polyline"), "{drawn}");
    }

    #[test]
    fn points_of_a_line_are_in_order() {
        let lines = lines_of(&book(), scale::GROUP, "run --rm true beside ", " that run");
        assert_eq!(lines[0].points, [(1.0, 10.0), (10.0, 20.0)]);
    }
}
