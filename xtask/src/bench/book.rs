// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What has been measured: samples by group, thing and engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::interrupt;

/// What a sample counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Millions of bytes.
    #[serde(rename = "MB")]
    Megabytes,
    /// Things.
    Count,
}

/// All samples of one thing by one engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which part of the benchmark.
    pub group: String,
    /// What was done.
    pub what: String,
    /// By whom.
    pub engine: String,
    /// What the samples count.
    pub unit: Unit,
    /// The middle one of the samples.
    pub median: f64,
    /// In the order in which they were taken.
    pub samples: Vec<f64>,
}

/// Why something could not be measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which part of the benchmark.
    pub group: String,
    /// What was tried.
    pub what: String,
    /// By whom.
    pub engine: String,
    /// What it said.
    pub why: String,
}

/// The results of one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Book {
    /// Machine, kernel, versions.
    pub facts: BTreeMap<String, String>,
    /// What was measured, in the order of the first samples.
    pub rows: Vec<Row>,
    /// What was not.
    pub notes: Vec<Note>,
}

impl Book {
    /// Reads what [`Book::save`] has written.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Writes it as JSON, one row a line: a change of one number changes one line.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let lines = |values: Vec<serde_json::Result<String>>| -> serde_json::Result<String> {
            let values = values.into_iter().collect::<serde_json::Result<Vec<_>>>()?;
            Ok(values.iter().map(|value| format!("\n    {value}")).collect::<Vec<_>>().join(","))
        };
        let rows = lines(self.rows.iter().map(serde_json::to_string).collect())?;
        let notes = lines(self.notes.iter().map(serde_json::to_string).collect())?;
        let facts = serde_json::to_string(&self.facts)?;
        let text = format!("{{\n  \"facts\": {facts},\n  \"rows\": [{rows}\n  ],\n  \"notes\": [{notes}\n  ]\n}}\n");
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// Takes the parts that a later run has measured, and keeps the others.
    pub fn update(&mut self, later: Self) {
        let parts: BTreeSet<_> = later.rows.iter().map(|row| row.group.clone()).collect();
        self.rows.retain(|row| !parts.contains(&row.group));
        self.notes.retain(|note| !parts.contains(&note.group));
        self.rows.extend(later.rows);
        self.notes.extend(later.notes);
        self.facts.extend(later.facts);
    }

    /// Takes one sample.
    pub fn add(&mut self, group: &str, what: &str, engine: &str, unit: Unit, sample: f64) {
        // What no clock or counter can tell apart is no digit worth keeping.
        let sample = (sample * 1000.0).round() / 1000.0;
        let found = self.rows.iter_mut().find(|row| row.group == group && row.what == what && row.engine == engine);
        if let Some(row) = found {
            row.samples.push(sample);
            row.median = median(&row.samples);
        } else {
            let (group, what, engine) = (group.to_owned(), what.to_owned(), engine.to_owned());
            self.rows.push(Row { group, what, engine, unit, median: sample, samples: vec![sample] });
        }
    }

    /// Takes a time.
    pub fn add_time(&mut self, group: &str, what: &str, engine: &str, time: Duration) {
        self.add(group, what, engine, Unit::Milliseconds, time.as_secs_f64() * 1000.0);
    }

    /// The median of a thing by an engine; `None` where it was not measured.
    pub fn median(&self, group: &str, what: &str, engine: &str) -> Option<f64> {
        let is_it = |row: &&Row| row.group == group && row.what == what && row.engine == engine;
        self.rows.iter().find(is_it).map(|row| row.median)
    }

    /// Whether the engine could not do the thing before.
    pub fn has_failed(&self, group: &str, what: &str, engine: &str) -> bool {
        self.notes.iter().any(|note| note.group == group && note.what == what && note.engine == engine)
    }

    /// Gives what `work` gives. Where it fails, an engine of others is noted with the reason and asked for it no more; that stos fails is a
    /// failure of the benchmark.
    pub fn attempt<T>(
        &mut self,
        group: &str,
        what: &str,
        engine: &str,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        if self.has_failed(group, what, engine) {
            return Ok(None);
        }
        interrupt::check()?;
        match work() {
            Ok(value) => Ok(Some(value)),
            Err(error) if engine.starts_with("stos") => Err(error.context(format!("{engine}: {what}"))),
            Err(error) => {
                let why = format!("{error:#}");
                eprintln!("  {engine}: {what}: {why}");
                let [group, what, engine] = [group, what, engine].map(str::to_owned);
                self.notes.push(Note { group, what, engine, why });
                Ok(None)
            }
        }
    }
}

/// The middle one; 0 where there is none. Of an even number the greater of the two in the middle.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 4.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_book_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.json");
        let mut book = Book::default();
        book.save(&path).unwrap();
        assert_eq!(Book::load(&path).unwrap(), book);
        book.facts.insert("kernel".into(), "6.18".into());
        for sample in [3.0, 1.00049, 2.0] {
            book.add("pulls", "deb:12", "stos", Unit::Megabytes, sample);
        }
        book.add_time("pulls", "deb:12", "podman", Duration::from_micros(1500));
        book.attempt("pulls", "deb:12", "runc", || -> anyhow::Result<()> { anyhow::bail!("no \"quotes\"") }).unwrap();
        book.save(&path).unwrap();
        assert_eq!(Book::load(&path).unwrap(), book);
        assert_eq!(book.rows[0].samples, [3.0, 1.0, 2.0]);
        assert_eq!(book.median("pulls", "deb:12", "stos"), Some(2.0));
        assert_eq!(book.median("pulls", "deb:12", "podman"), Some(1.5));
        assert_eq!(book.median("pulls", "deb:12", "runc"), None);
    }

    #[test]
    fn a_later_run_replaces_the_parts_that_it_has_measured() {
        let (mut book, mut later) = (Book::default(), Book::default());
        book.add("pulls", "deb:12", "stos", Unit::Count, 1.0);
        book.add("scale", "run", "stos", Unit::Count, 2.0);
        later.add("scale", "run", "stos", Unit::Count, 3.0);
        later.facts.insert("date".into(), "later".into());
        book.update(later);
        assert_eq!(book.median("pulls", "deb:12", "stos"), Some(1.0));
        assert_eq!(book.rows.iter().filter(|row| row.group == "scale").count(), 1);
        assert_eq!((book.median("scale", "run", "stos"), book.facts["date"].as_str()), (Some(3.0), "later"));
    }

    #[test]
    fn another_engine_may_fail_and_ours_may_not() {
        let mut book = Book::default();
        let fail = || -> anyhow::Result<()> { anyhow::bail!("no") };
        assert!(book.attempt("g", "w", "podman", fail).unwrap().is_none());
        assert!(book.has_failed("g", "w", "podman"));
        let asked_again = book.attempt("g", "w", "podman", || -> anyhow::Result<()> { panic!("asked again") });
        assert!(asked_again.unwrap().is_none());
        assert!(book.attempt("g", "w", "stos", fail).is_err());
        assert_eq!(book.attempt("g", "w", "stos", || Ok(7)).unwrap(), Some(7));
    }
}
