// SPDX-License-Identifier: Apache-2.0 OR MIT
//! containerd's filters (containerd, pkg/filters, the grammar in parser.go): which snapshots a caller wants to hear of.
//!
//! ```text
//! filter   := [ selector { ',' selector } ]        all of them hold; an empty one fits everything
//! selector := path [ ( '==' | '!=' | '~=' ) value ]   without a value: the field is there
//! path     := field { '.' field }
//! field    := quoted | letter { letter | digit | '_' }
//! value    := quoted | anything up to a space or a comma
//! ```
//!
//! Fields of a snapshot: `name`, `parent`, `kind`, `labels.KEY`. Quoted is a Go string; after `~=` also `/…/` and `|…|`.

use regex::Regex;
use stos_store::{SnapshotKind, SnapshotRecord};

use crate::error::{Error, Result};

/// Several filters, one of which must fit.
#[derive(Debug, Default)]
pub struct Filters(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Reads filters. None, or an empty one, fits everything.
    ///
    /// # Errors
    /// [`Error::Invalid`] of the first that is none.
    pub fn parse(texts: &[String]) -> Result<Self> {
        let read = |text: &String| {
            let refuse = |reason: String| Error::Invalid { what: format!("filter {text:?}"), reason };
            Reader { rest: text }.filter().map_err(refuse)
        };
        texts.iter().map(read).collect::<Result<_>>().map(Self)
    }

    /// Tells whether a snapshot is wanted.
    pub fn fits(&self, snapshot: &SnapshotRecord) -> bool {
        self.0.is_empty() || self.0.iter().any(|filter| filter.iter().all(|selector| selector.fits(snapshot)))
    }
}

impl Selector {
    fn fits(&self, snapshot: &SnapshotRecord) -> bool {
        let value = self.field(snapshot);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(expected) => value == Some(expected),
            // What is not there is unlike anything but nothing.
            Test::NotEqual(expected) => value.unwrap_or_default() != expected,
            Test::Matches(regex) => regex.is_match(value.unwrap_or_default()),
        }
    }

    fn field<'a>(&self, snapshot: &'a SnapshotRecord) -> Option<&'a str> {
        let (first, rest) = self.path.split_first()?;
        match first.as_str() {
            "name" => Some(snapshot.name.as_str()),
            // It is there, and empty, where there is none: so containerd asks for the lowest layer.
            "parent" => Some(snapshot.parent.as_deref().unwrap_or_default()),
            "kind" => Some(kind_name(snapshot.kind)),
            "labels" => snapshot.labels.get(&rest.join(".")).map(String::as_str),
            _ => None,
        }
    }
}

/// Gives the word that filters have for a kind.
fn kind_name(kind: SnapshotKind) -> &'static str {
    match kind {
        SnapshotKind::View => "view",
        SnapshotKind::Active => "active",
        SnapshotKind::Committed => "committed",
    }
}

type Read<T> = std::result::Result<T, String>;

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn filter(mut self) -> Read<Vec<Selector>> {
        let mut selectors = Vec::new();
        self.skip_spaces();
        if self.rest.is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            self.skip_spaces();
            match self.rest.strip_prefix(',') {
                Some(rest) => self.rest = rest,
                None if self.rest.is_empty() => return Ok(selectors),
                None => return Err(format!("expected ',' or its end at {:?}", self.rest)),
            }
            self.skip_spaces();
        }
    }

    fn selector(&mut self) -> Read<Selector> {
        let mut path = vec![self.field()?];
        while let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            path.push(self.field()?);
        }
        self.skip_spaces();
        let Some(operator) = ["==", "!=", "~="].into_iter().find(|operator| self.rest.starts_with(operator)) else {
            return Ok(Selector { path, test: Test::Present });
        };
        self.rest = &self.rest[operator.len()..];
        self.skip_spaces();
        let value = self.value(operator == "~=")?;
        let test = match operator {
            "==" => Test::Equal(value),
            "!=" => Test::NotEqual(value),
            _ => Test::Matches(Regex::new(&value).map_err(|error| error.to_string())?),
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Read<String> {
        if self.rest.starts_with('"') {
            return self.quoted('"');
        }
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (field, rest) = self.rest.split_at(end);
        if !field.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(format!("expected a field at {:?}", self.rest));
        }
        self.rest = rest;
        Ok(field.to_owned())
    }

    fn value(&mut self, is_regex: bool) -> Read<String> {
        match self.rest.chars().next() {
            Some(quote @ '"') => return self.quoted(quote),
            Some(quote @ ('/' | '|')) if is_regex => return self.quoted(quote),
            _ => {}
        }
        let end = self.rest.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at(end);
        if value.is_empty() {
            return Err(format!("expected a value at {:?}", self.rest));
        }
        self.rest = rest;
        Ok(value.to_owned())
    }

    /// Reads up to the closing quote. In `"` the escapes are Go's; in the others a backslash keeps the quote alone.
    fn quoted(&mut self, quote: char) -> Read<String> {
        let mut text = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[1 + at + c.len_utf8()..];
                    return Ok(text);
                }
                '\\' if quote == '"' => text.push(escape(&mut chars)?),
                '\\' => match chars.next() {
                    Some((_, c)) if c == quote => text.push(c),
                    Some((_, c)) => text.extend(['\\', c]),
                    None => break,
                },
                c => text.push(c),
            }
        }
        Err("a quoted text without an end".to_owned())
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }
}

/// Reads what follows a backslash (The Go Programming Language Specification, "Rune literals").
fn escape(chars: &mut std::str::CharIndices<'_>) -> Read<char> {
    let kind = chars.next().map(|(_, c)| c).ok_or("a backslash at the end")?;
    let mut digits = |first: Option<char>, count: usize, radix: u32| {
        let mut text: String = first.into_iter().collect();
        text.extend(chars.by_ref().take(count).map(|(_, c)| c));
        u32::from_str_radix(&text, radix).ok().and_then(char::from_u32).ok_or(format!("\\{kind}{text} is no character"))
    };
    Ok(match kind {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' | '"' | '\'' => kind,
        'x' => digits(None, 2, 16)?,
        'u' => digits(None, 4, 16)?,
        'U' => digits(None, 8, 16)?,
        '0'..='7' => digits(Some(kind), 2, 8)?,
        other => return Err(format!("\\{other} is no escape")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> SnapshotRecord {
        let labels = [("containerd.io/snapshot.ref", "sha256:ab"), ("a.b", "x y"), ("empty", "")];
        SnapshotRecord {
            version: 1,
            name: "default/1/one".to_owned(),
            kind: SnapshotKind::Committed,
            parent: Some("sha256:low".to_owned()),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            created: String::new(),
            updated: String::new(),
            layers: Vec::new(),
            usage: None,
        }
    }

    fn fits(filters: &[&str]) -> bool {
        let texts: Vec<String> = filters.iter().map(ToString::to_string).collect();
        Filters::parse(&texts).unwrap().fits(&snapshot())
    }

    #[test]
    fn filters_fit_as_containerd_says() {
        for (filter, expected) in [
            ("", true),
            ("  ", true),
            ("name==default/1/one", true),
            ("name == default/1/one", true),
            ("name!=default/1/one", false),
            ("kind==committed", true),
            ("kind==active", false),
            ("parent==\"sha256:low\"", true),
            ("labels.\"containerd.io/snapshot.ref\"==sha256:ab,parent==\"sha256:low\"", true),
            ("labels.\"containerd.io/snapshot.ref\"==sha256:ab,parent==other", false),
            ("labels.a.b==\"x y\"", true),
            ("labels.a.b==\"x\\x20y\"", true),
            ("labels.none", false),
            ("labels.none!=x", true),
            ("labels.none!=\"\"", false),
            ("labels.empty!=\"\"", false),
            ("labels.none==\"\"", false),
            ("labels.\"a.b\"", true),
            ("labels.empty", true),
            ("unknown", false),
            ("unknown==x", false),
            ("name~=^default/", true),
            ("name~=/\\/1\\//", true),
            ("name~=|two|", false),
            ("name~=\"one$\"", true),
        ] {
            assert_eq!(fits(&[filter]), expected, "{filter}");
        }
    }

    #[test]
    fn a_snapshot_on_nothing_has_an_empty_parent() {
        let lowest = SnapshotRecord { parent: None, ..snapshot() };
        let filter = "labels.\"containerd.io/snapshot.ref\"==sha256:ab,parent==\"\"".to_owned();
        let filters = Filters::parse(&[filter]).unwrap();
        assert!(filters.fits(&lowest) && !filters.fits(&snapshot()));
    }

    #[test]
    fn one_of_several_is_enough_and_none_fits_all() {
        assert!(fits(&[]));
        assert!(fits(&["kind==view", "kind==committed"]));
        assert!(!fits(&["kind==view", "kind==active"]));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in [
            "==x",
            "name==",
            "name=x",
            "name==x y",
            "name==x,",
            ",",
            "\"",
            "name==\"x",
            "name==\"\\q\"",
            "name~=(",
            "9==x",
            "a.",
            "name==\"\\ud800\"",
            "name~=/x",
        ] {
            let refused = Filters::parse(&[text.to_owned()]);
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{text}: {refused:?}");
        }
    }
}
