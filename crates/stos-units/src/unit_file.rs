// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files of sections, keys and values (systemd.syntax(7)): read and written.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// `Key=Value`, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value, continued lines joined by a space.
    pub value: String,
    /// The file.
    pub file: PathBuf,
    /// The line that it begins on, from 1 on.
    pub line: usize,
}

impl Entry {
    /// Makes the error that this value cannot be.
    pub(crate) fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::Value {
            file: self.file.clone(),
            line: self.line,
            key: self.key.clone(),
            value: self.value.clone(),
            reason: reason.into(),
        }
    }

    /// Reads yes, true, on, 1 and their opposites, in any case (systemd.syntax(7)).
    pub(crate) fn boolean(&self) -> Result<bool> {
        match self.value.to_ascii_lowercase().as_str() {
            "1" | "yes" | "y" | "true" | "t" | "on" => Ok(true),
            "0" | "no" | "n" | "false" | "f" | "off" => Ok(false),
            _ => Err(self.refuse("expected yes or no")),
        }
    }
}

/// `[Name]` with its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, without the brackets.
    pub name: String,
    /// What stands in it, in order.
    pub entries: Vec<Entry>,
}

/// A file's sections, in order; those of one name are one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFile {
    sections: Vec<Section>,
}

impl UnitFile {
    /// Reads `text`, which is what `file` has.
    ///
    /// # Errors
    /// [`Error::Syntax`] for a line that is no section, no entry and no comment.
    pub fn parse(file: &Path, text: &str) -> Result<Self> {
        let mut unit = Self::default();
        unit.append(file, text)?;
        Ok(unit)
    }

    /// Reads a further file after this one, such as a drop-in.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn append(&mut self, file: &Path, text: &str) -> Result<()> {
        let syntax = |line, reason: String| Error::Syntax { file: file.to_owned(), line, reason };
        let mut section = None;
        for (line, text) in logical_lines(text) {
            let text = text.trim();
            if let Some(name) = text.strip_prefix('[') {
                let name = name.strip_suffix(']').filter(|name| !name.is_empty() && !name.contains(['[', ']']));
                let name = name.ok_or_else(|| syntax(line, format!("expected [SECTION], found {text:?}")))?;
                section = Some(self.section_mut(name));
                continue;
            }
            let Some((key, value)) = text.split_once('=') else {
                return Err(syntax(line, format!("expected KEY=VALUE or [SECTION], found {text:?}")));
            };
            let (key, value) = (key.trim(), value.trim());
            if key.is_empty() || key.contains(char::is_whitespace) {
                return Err(syntax(line, format!("expected a key before the =, found {key:?}")));
            }
            let Some(at) = section else {
                return Err(syntax(line, format!("{key}= stands before any [SECTION]")));
            };
            let entry = Entry { key: key.to_owned(), value: value.to_owned(), file: file.to_owned(), line };
            self.sections[at].entries.push(entry);
        }
        Ok(())
    }

    fn section_mut(&mut self, name: &str) -> usize {
        let found = self.sections.iter().position(|section| section.name == name);
        found.unwrap_or_else(|| {
            self.sections.push(Section { name: name.to_owned(), entries: Vec::new() });
            self.sections.len() - 1
        })
    }

    /// The sections, in the order of their first lines.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// All entries of a section; none where there is no such section.
    pub fn entries(&self, section: &str) -> &[Entry] {
        self.sections.iter().find(|found| found.name == section).map_or(&[], |found| &found.entries)
    }

    /// The last entry of a key, which is what counts for keys that have one value; `None` too where that is empty.
    pub fn last(&self, section: &str, key: &str) -> Option<&Entry> {
        self.entries(section).iter().rfind(|entry| entry.key == key).filter(|entry| !entry.value.is_empty())
    }

    /// All entries of a key that counts several times. An empty value forgets those before it.
    pub fn all(&self, section: &str, key: &str) -> Vec<&Entry> {
        let mut found = Vec::new();
        for entry in self.entries(section).iter().filter(|entry| entry.key == key) {
            match entry.value.is_empty() {
                true => found.clear(),
                false => found.push(entry),
            }
        }
        found
    }
}

/// A unit that is written: sections with lines, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitText {
    sections: Vec<(String, Vec<(String, String)>)>,
}

impl UnitText {
    /// Adds a line at the end of a section, which is made where there is none.
    pub fn add(&mut self, section: &str, key: &str, value: impl Into<String>) {
        let line = (key.to_owned(), value.into());
        match self.sections.iter_mut().find(|(name, _)| name == section) {
            Some((_, lines)) => lines.push(line),
            None => self.sections.push((section.to_owned(), vec![line])),
        }
    }

    /// Adds a line unless the section has one of the key.
    pub fn add_default(&mut self, section: &str, key: &str, value: impl Into<String>) {
        if self.get(section, key).is_none() {
            self.add(section, key, value);
        }
    }

    /// The last value of a key.
    pub fn get(&self, section: &str, key: &str) -> Option<&str> {
        let (_, lines) = self.sections.iter().find(|(name, _)| name == section)?;
        lines.iter().rfind(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    /// Copies a section as it stands in a file.
    pub fn copy(&mut self, from: &UnitFile, section: &str, name: &str) {
        for entry in from.entries(section) {
            self.add(name, &entry.key, &entry.value);
        }
    }
}

impl fmt::Display for UnitText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, lines)) in self.sections.iter().enumerate() {
            if number > 0 {
                f.write_char('\n')?;
            }
            writeln!(f, "[{name}]")?;
            for (key, value) in lines {
                writeln!(f, "{key}={value}")?;
            }
        }
        Ok(())
    }
}

/// Lines without comments and empty ones, continued ones joined by a space, each with the number of its first. A comment within a
/// continued line is left out of it.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut is_continued = false;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with(['#', ';']) || (!is_continued && trimmed.is_empty()) {
            continue;
        }
        // As systemd reads it: the last one counts, unless another before it makes it a backslash.
        let escapes = line.bytes().rev().take_while(|byte| *byte == b'\\').count();
        let (part, continues) = match line.strip_suffix('\\') {
            Some(part) if escapes % 2 == 1 => (part, true),
            _ => (line, false),
        };
        match lines.last_mut().filter(|_| is_continued) {
            Some((_, joined)) => {
                joined.push(' ');
                joined.push_str(part);
            }
            None => lines.push((number + 1, part.to_owned())),
        }
        is_continued = continues;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<UnitFile> {
        UnitFile::parse(Path::new("a.container"), text)
    }

    #[test]
    fn sections_keys_and_continued_lines_are_read() {
        let unit = parse(
            "# comment\n[Unit]\nDescription = a thing \n\n[Container]\nExec=one \\\n# within\n  two\\\n three\n; too\n\
             Label=a\nLabel=\nLabel=b\n[Unit]\nAfter=x\n[Path]\nA=end\\\\\nB=three\\\\\\\nmore",
        )
        .unwrap();
        assert_eq!(unit.last("Unit", "Description").unwrap().value, "a thing");
        assert_eq!(unit.last("Unit", "After").unwrap().value, "x");
        let exec = unit.last("Container", "Exec").unwrap();
        assert_eq!((exec.value.as_str(), exec.line), ("one    two  three", 6));
        let labels: Vec<_> = unit.all("Container", "Label").into_iter().map(|entry| entry.value.as_str()).collect();
        assert_eq!(labels, ["b"]);
        assert_eq!(unit.last("Path", "A").unwrap().value, r"end\\");
        assert_eq!(unit.last("Path", "B").unwrap().value, r"three\\ more");
        assert_eq!(unit.sections().len(), 3);
        assert!(unit.entries("Service").is_empty() && unit.last("Service", "Type").is_none());
    }

    #[test]
    fn what_is_no_line_is_named_with_its_number() {
        for (text, said) in [
            ("[Unit]\nnothing\n", "a.container:2: expected KEY=VALUE or [SECTION], found \"nothing\""),
            ("\nA=b", "a.container:2: A= stands before any [SECTION]"),
            ("[Unit\n", "a.container:1: expected [SECTION], found \"[Unit\""),
            ("[]\n", "a.container:1: expected [SECTION], found \"[]\""),
            ("[a]b]\n", "a.container:1: expected [SECTION], found \"[a]b]\""),
            ("[Unit]\n=x\n", "a.container:2: expected a key before the =, found \"\""),
            ("[Unit]\na b=x\n", "a.container:2: expected a key before the =, found \"a b\""),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn booleans_are_systemds() {
        let read = |value: &str| parse(&format!("[C]\nA={value}")).unwrap().entries("C")[0].boolean();
        assert!(read("Yes").unwrap() && read("1").unwrap() && !read("off").unwrap());
        assert_eq!(read("maybe").unwrap_err().to_string(), "a.container:2: A=maybe: expected yes or no");
    }

    #[test]
    fn a_unit_is_written_section_by_section() {
        let mut text = UnitText::default();
        text.add("Unit", "After", "a");
        text.add("Service", "Type", "notify");
        text.add("Unit", "After", "b");
        text.add_default("Service", "Type", "oneshot");
        text.add_default("Service", "Delegate", "yes");
        assert_eq!(text.to_string(), "[Unit]\nAfter=a\nAfter=b\n\n[Service]\nType=notify\nDelegate=yes\n");
        assert_eq!(text.get("Unit", "After"), Some("b"));
    }
}
