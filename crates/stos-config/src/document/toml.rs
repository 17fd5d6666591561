// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TOML into the tree.

use std::path::Path;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};
use stos_spec::text::shown;
use zeroize::Zeroizing;

use super::{Node, Value};
use crate::error::Error;
use crate::place::Place;

pub(super) fn parse(file: &Path, text: &str) -> Result<Node, Error> {
    let lines = Lines::of(text);
    // Its `Display` shows the line; its message says only what was expected.
    let table = DeTable::parse(text).map_err(|error| Error::Syntax {
        place: Place::line(file, lines.at(error.span().map_or(0, |span| span.start))),
        reason: shown(error.message()),
    })?;
    Ok(Node { value: Value::Table(entries(table.into_inner(), &lines)), line: None })
}

fn entries(table: DeTable<'_>, lines: &Lines) -> Vec<(String, Node)> {
    table.into_iter().map(|(name, value)| (name.into_inner().into_owned(), node(value, lines))).collect()
}

fn node(value: Spanned<DeValue<'_>>, lines: &Lines) -> Node {
    let line = Some(lines.at(value.span().start));
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(Zeroizing::new(text.into_owned())),
        DeValue::Integer(_) | DeValue::Float(_) => Value::Other("a number"),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(items) => Value::List(items.into_iter().map(|item| node(item, lines)).collect()),
        DeValue::Table(table) => Value::Table(entries(table, lines)),
    };
    Node { value, line }
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|&start| start <= offset)
    }
}
