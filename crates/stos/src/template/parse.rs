// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the text of a template to what it says.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::Value;

use super::{Result, error};

/// How deep conditions, lists, brackets and what is given on by `|` may lie in each other.
const DEPTH: usize = 50;

/// The functions that there are.
pub(super) const FUNCTIONS: [&str; 12] =
    ["json", "index", "len", "join", "split", "lower", "upper", "print", "println", "not", "eq", "ne"];

/// A template that has been read.
#[derive(Debug, Clone)]
pub struct Template(Vec<Node>);

/// A part of one.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// Text as it is.
    Text(String),
    /// What is evaluated.
    Action(Expression),
    /// `{{if}}`.
    If {
        /// What decides.
        condition: Expression,
        /// What is shown if it holds.
        then: Vec<Node>,
        /// What is shown else.
        otherwise: Vec<Node>,
    },
    /// `{{range}}`.
    Range {
        /// A list, or a map, of which the values count.
        list: Expression,
        /// What is shown of each.
        body: Vec<Node>,
        /// What is shown where there is none.
        otherwise: Vec<Node>,
    },
}

/// What gives a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// It says itself which.
    Literal(Value),
    /// The way to a field; empty for all of it.
    Field(Vec<String>),
    /// A function, or a field that is given arguments.
    Call {
        /// Its name.
        function: String,
        /// What it is given.
        arguments: Vec<Expression>,
    },
}

impl Template {
    /// Reads one.
    ///
    /// # Errors
    /// For what is no template, or uses what there is not.
    pub fn parse(text: &str) -> Result<Self> {
        let mut pieces = pieces(text)?.into_iter();
        match nodes(&mut pieces, 0)? {
            (nodes, None) => Ok(Self(nodes)),
            (_, Some(keyword)) => error(format!("unexpected {{{{{keyword}}}}}")),
        }
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.0
    }
}

enum Piece {
    Text(String),
    Action(String),
}

/// Cuts a template at its braces.
fn pieces(text: &str) -> Result<Vec<Piece>> {
    let (mut pieces, mut rest, mut trims) = (Vec::new(), text, false);
    loop {
        let Some((before, after)) = rest.split_once("{{") else {
            pieces.push(Piece::Text(unescape(trim_start(rest, trims))));
            return Ok(pieces);
        };
        let Some(end) = end_of_action(after) else { return error("{{ without }}") };
        let (mut action, next) = (&after[..end], &after[end + 2..]);
        let mut before = trim_start(before, trims);
        if let Some(trimmed) = action.strip_prefix("- ") {
            (action, before) = (trimmed, before.trim_end());
        }
        trims = false;
        if let Some(trimmed) = action.strip_suffix(" -") {
            (action, trims) = (trimmed, true);
        }
        pieces.push(Piece::Text(unescape(before)));
        pieces.push(Piece::Action(action.trim().to_owned()));
        rest = next;
    }
}

fn trim_start(text: &str, trims: bool) -> &str {
    if trims { text.trim_start() } else { text }
}

/// Where `}}` stands that is in no string.
fn end_of_action(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some('"') if c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    // A string without its end is told of where it is read.
    text.find("}}")
}

/// `\t` and `\n`, which a shell passes on as they are.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// Reads up to the end, or to an `end` or `else` that belongs to somebody above, which is given too.
fn nodes(pieces: &mut std::vec::IntoIter<Piece>, depth: usize) -> Result<(Vec<Node>, Option<String>)> {
    check_depth(depth)?;
    let mut found = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                if !text.is_empty() {
                    found.push(Node::Text(text));
                }
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
        match word {
            "end" | "else" => return Ok((found, Some(action))),
            "if" | "range" => found.push(block(word, rest, pieces, depth)?),
            _ if action.starts_with("/*") && action.ends_with("*/") => {}
            _ => found.push(Node::Action(expression(&action)?)),
        }
    }
    Ok((found, None))
}

fn block(word: &str, of_what: &str, pieces: &mut std::vec::IntoIter<Piece>, depth: usize) -> Result<Node> {
    let of_what = expression(of_what)?;
    let (body, ended) = nodes(pieces, depth + 1)?;
    let otherwise = match ended.as_deref() {
        Some("end") => Vec::new(),
        Some("else") => match nodes(pieces, depth + 1)? {
            (otherwise, Some(end)) if end == "end" => otherwise,
            _ => return error(format!("{{{{{word}}}}} without {{{{end}}}}")),
        },
        Some(other) => match other.strip_prefix("else").map(str::trim).and_then(|rest| rest.strip_prefix("if ")) {
            // Its end is ours too.
            Some(condition) => vec![block("if", condition, pieces, depth + 1)?],
            None => return error(format!("unexpected {{{{{other}}}}}")),
        },
        None => return error(format!("{{{{{word}}}}} without {{{{end}}}}")),
    };
    Ok(match word {
        "if" => Node::If { condition: of_what, then: body, otherwise },
        _ => Node::Range { list: of_what, body, otherwise },
    })
}

fn check_depth(depth: usize) -> Result<()> {
    if depth > DEPTH { error(format!("nested deeper than {DEPTH}")) } else { Ok(()) }
}

fn expression(text: &str) -> Result<Expression> {
    let mut words = Words { chars: text.chars().peekable() };
    let found = words.pipeline(0)?;
    match words.chars.next() {
        None => Ok(found),
        Some(c) => error(format!("unexpected {c:?} in {text:?}")),
    }
}

struct Words<'a> {
    chars: Peekable<Chars<'a>>,
}

impl Words<'_> {
    fn skip_space(&mut self) {
        while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
    }

    /// Commands, each given what the one before it gave as its last argument.
    fn pipeline(&mut self, depth: usize) -> Result<Expression> {
        check_depth(depth)?;
        let mut found = self.command(None, depth)?;
        for depth in depth.. {
            self.skip_space();
            if self.chars.next_if_eq(&'|').is_none() {
                break;
            }
            // What came before lies in it.
            check_depth(depth)?;
            found = self.command(Some(found), depth)?;
        }
        Ok(found)
    }

    fn command(&mut self, last: Option<Expression>, depth: usize) -> Result<Expression> {
        let mut operands = Vec::new();
        let function = self.function()?;
        loop {
            self.skip_space();
            match self.chars.peek() {
                None | Some('|' | ')') => break,
                Some(_) => operands.push(self.operand(depth)?),
            }
        }
        operands.extend(last);
        match (function, operands.len()) {
            (Some(function), _) => Ok(Expression::Call { function, arguments: operands }),
            (None, 0) => error("expected a field or a function between {{ and }}"),
            (None, 1) => Ok(operands.remove(0)),
            (None, _) => match &operands[0] {
                Expression::Field(path) => {
                    let function = path.last().cloned().unwrap_or_default();
                    Ok(Expression::Call { function, arguments: operands })
                }
                _ => error("expected a function before arguments"),
            },
        }
    }

    fn function(&mut self) -> Result<Option<String>> {
        self.skip_space();
        if !self.chars.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
            return Ok(None);
        }
        let name = self.name();
        match name.as_str() {
            name if FUNCTIONS.contains(&name) => Ok(Some(name.to_owned())),
            name => error(format!("there is no function {name:?}: expected one of {}", FUNCTIONS.join(", "))),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }

    fn operand(&mut self, depth: usize) -> Result<Expression> {
        match self.chars.next() {
            Some('.') => Ok(Expression::Field(self.path())),
            Some('(') => {
                let found = self.pipeline(depth + 1)?;
                match self.chars.next() {
                    Some(')') => Ok(found),
                    _ => error("expected )"),
                }
            }
            Some(quote @ ('"' | '`')) => Ok(Expression::Literal(Value::String(self.string(quote)?))),
            Some(c) if c.is_ascii_digit() || c == '-' => {
                let digits = format!("{c}{}", self.name());
                match digits.parse::<i64>() {
                    Ok(number) => Ok(Expression::Literal(number.into())),
                    Err(_) => error(format!("expected a number, found {digits:?}")),
                }
            }
            Some(c) if c.is_alphabetic() => match format!("{c}{}", self.name()).as_str() {
                "true" => Ok(Expression::Literal(true.into())),
                "false" => Ok(Expression::Literal(false.into())),
                name => error(format!("unexpected {name:?}: expected a field, a string or a number")),
            },
            Some(c) => error(format!("unexpected {c:?}")),
            None => error("expected a field, a string or a number"),
        }
    }

    fn path(&mut self) -> Vec<String> {
        let mut path = Vec::new();
        loop {
            let name = self.name();
            if name.is_empty() {
                return path;
            }
            path.push(name);
            if self.chars.next_if_eq(&'.').is_none() {
                return path;
            }
        }
    }

    fn string(&mut self, quote: char) -> Result<String> {
        let mut text = String::new();
        loop {
            match self.chars.next() {
                None => return error("a string without its end"),
                Some(c) if c == quote => return Ok(text),
                Some('\\') if quote == '"' => match self.chars.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(c @ ('"' | '\\')) => text.push(c),
                    _ => return error("in a string: expected \\n, \\t, \\\" or \\\\"),
                },
                Some(c) => text.push(c),
            }
        }
    }
}
