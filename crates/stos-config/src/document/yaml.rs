// SPDX-License-Identifier: Apache-2.0 OR MIT
//! YAML into the tree, event by event, so that depth is bounded before anything nests and no alias multiplies anything.

use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use zeroize::Zeroizing;

use super::{Node, Value};
use crate::error::Error;
use crate::place::Place;

const DEPTH_MAX: usize = 16;

/// A collection that is not closed yet: its line, what it has, and in a mapping the key that waits for its value.
struct Open {
    line: usize,
    has: Has,
}

enum Has {
    List(Vec<Node>),
    Table(Vec<(String, Node)>, Option<String>),
}

pub(super) fn parse(file: &Path, text: &str) -> Result<Node, Error> {
    let syntax =
        |line: usize, reason: &str| Error::Syntax { place: Place::line(file, line), reason: reason.to_owned() };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    let mut open: Vec<Open> = Vec::new();
    let mut whole = None;
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        // The scanner's message says what it expected, and may name an anchor or a tag: it is not repeated.
        let (event, span) = event.map_err(|error| syntax(error.marker().line(), "expected YAML"))?;
        let line = span.start.line();
        let done = match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(syntax(line, "expected one document, found more"));
                }
                None
            }
            Event::Alias(_) => return Err(syntax(line, "expected no alias (*)")),
            Event::Scalar(text, style, _, _) => Some(Node { value: scalar(&text, style), line: Some(line) }),
            Event::SequenceStart(..) => {
                open.push(Open { line, has: Has::List(Vec::new()) });
                None
            }
            Event::MappingStart(..) => {
                open.push(Open { line, has: Has::Table(Vec::new(), None) });
                None
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(Open::close),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => None,
        };
        if open.len() > DEPTH_MAX {
            return Err(syntax(line, "expected at most 16 levels"));
        }
        let Some(node) = done else { continue };
        match open.last_mut().map(|open| &mut open.has) {
            None => whole = Some(node),
            Some(Has::List(items)) => items.push(node),
            Some(Has::Table(entries, key)) => match (key.take(), node.value) {
                (Some(name), value) => entries.push((name, Node { value, line: node.line })),
                (None, Value::Text(text)) => *key = Some(text.to_string()),
                (None, _) => return Err(syntax(line, "expected a text as a key")),
            },
        }
    }
    Ok(whole.unwrap_or(Node { value: Value::Null, line: None }))
}

impl Open {
    fn close(self) -> Node {
        let value = match self.has {
            Has::List(items) => Value::List(items),
            Has::Table(entries, _) => Value::Table(entries),
        };
        Node { value, line: Some(self.line) }
    }
}

/// Resolves a plain scalar as yaml.v3 does for a field that is a bool: also `yes`, `no`, `on`, `off`.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    let is_one_of = |words: [&str; 3]| {
        words.iter().any(|word| {
            let capital = format!("{}{}", word[..1].to_uppercase(), &word[1..]);
            text == *word || text == capital || text == word.to_uppercase()
        })
    };
    match text {
        _ if style != ScalarStyle::Plain => Value::Text(Zeroizing::new(text.to_owned())),
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        _ if is_one_of(["true", "yes", "on"]) => Value::Bool(true),
        _ if is_one_of(["false", "no", "off"]) => Value::Bool(false),
        _ => Value::Text(Zeroizing::new(text.to_owned())),
    }
}
