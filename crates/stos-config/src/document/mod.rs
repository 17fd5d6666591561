// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One tree for TOML, JSON and YAML, and one walker over it whose errors name file, line and key.
//!
//! The libraries' own conversions to Rust types quote what they refuse, and what stands in these files may be a
//! password: so they only parse here. What is refused here is named by its kind (`a number`), never by its text.

pub(crate) mod json;
mod toml;
mod yaml;

use std::collections::BTreeSet;
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::Error;
use crate::place::Place;

/// A value, and the line where it begins.
pub(crate) struct Node {
    value: Value,
    line: Option<usize>,
}

enum Value {
    Null,
    Bool(bool),
    /// What no field here is: a number, a date. The text says which.
    Other(&'static str),
    Text(Zeroizing<String>),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing (null)",
            Self::Bool(_) => "true or false",
            Self::Other(kind) => kind,
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    /// Parses TOML. A byte order mark is skipped, as upstream does.
    pub(crate) fn of_toml(file: &Path, bytes: &[u8]) -> Result<Self, Error> {
        toml::parse(file, text(file, bytes)?)
    }

    /// Parses JSON (RFC 8259): one value, nothing after it, at most 127 levels.
    pub(crate) fn of_json(file: &Path, bytes: &[u8]) -> Result<Self, Error> {
        if bytes.starts_with(b"\xef\xbb\xbf") {
            let reason = "it begins with a byte order mark, which JSON does not have".to_owned();
            return Err(Error::Syntax { place: Place::line(file, 1), reason });
        }
        json::parse(file, text(file, bytes)?)
    }

    /// Parses one YAML document of mappings, lists and scalars: no aliases, at most 16 levels.
    pub(crate) fn of_yaml(file: &Path, bytes: &[u8]) -> Result<Self, Error> {
        yaml::parse(file, text(file, bytes)?)
    }

    /// Begins a walk.
    pub(crate) fn item<'a>(&'a self, file: &'a Path) -> Item<'a> {
        Item { node: self, file, key: String::new() }
    }
}

fn text<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        Error::Syntax { place: Place::line(file, line), reason: "expected UTF-8".to_owned() }
    })
}

/// A node, and how the walk came to it.
#[derive(Clone)]
pub(crate) struct Item<'a> {
    node: &'a Node,
    file: &'a Path,
    key: String,
}

impl<'a> Item<'a> {
    pub(crate) fn place(&self) -> Place {
        Place { file: self.file.to_owned(), line: self.node.line, key: self.key.clone() }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.node.value, Value::Null)
    }

    /// Makes the error for a text of the wrong form. `found` is shown: never a secret.
    pub(crate) fn unfit(&self, expected: &'static str, found: &str) -> Error {
        Error::Value { place: self.place(), expected, found: stos_spec::text::cut(found) }
    }

    fn wrong(&self, expected: &'static str) -> Error {
        Error::Type { place: self.place(), expected, found: self.node.value.kind() }
    }

    pub(crate) fn text(&self) -> Result<&'a str, Error> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.wrong("a text")),
        }
    }

    pub(crate) fn boolean(&self) -> Result<bool, Error> {
        match self.node.value {
            Value::Bool(value) => Ok(value),
            _ => Err(self.wrong("true or false")),
        }
    }

    pub(crate) fn list(&self) -> Result<Vec<Item<'a>>, Error> {
        let Value::List(nodes) = &self.node.value else { return Err(self.wrong("a list")) };
        let item = |(index, node)| Item { node, file: self.file, key: format!("{}[{index}]", self.key) };
        Ok(nodes.iter().enumerate().map(item).collect())
    }

    /// Gives the fields of a table. A name that stands twice is an error: nobody can tell which one is meant.
    pub(crate) fn table(&self) -> Result<Fields<'a>, Error> {
        let Value::Table(entries) = &self.node.value else { return Err(self.wrong("a table")) };
        let fields = Fields { entries, table: self.clone() };
        let mut seen = BTreeSet::new();
        match entries.iter().find(|(name, _)| !seen.insert(name)) {
            Some((name, node)) => Err(Error::Duplicate { place: fields.item(name, node).place() }),
            None => Ok(fields),
        }
    }
}

/// The fields of a table.
pub(crate) struct Fields<'a> {
    entries: &'a [(String, Node)],
    table: Item<'a>,
}

impl<'a> Fields<'a> {
    fn item(&self, name: &str, node: &'a Node) -> Item<'a> {
        Item { node, file: self.table.file, key: joined(&self.table.key, name) }
    }

    pub(crate) fn place(&self) -> Place {
        self.table.place()
    }

    /// Gives a field that is there, also where it is null.
    pub(crate) fn get(&self, name: &str) -> Option<Item<'a>> {
        self.entries.iter().find(|(key, _)| key == name).map(|(name, node)| self.item(name, node))
    }

    /// Gives a field that is there and not null, as Go reads JSON and YAML.
    pub(crate) fn set(&self, name: &str) -> Option<Item<'a>> {
        self.get(name).filter(|item| !item.is_null())
    }

    pub(crate) fn required(&self, name: &'static str) -> Result<Item<'a>, Error> {
        self.get(name).ok_or_else(|| Error::Missing { place: self.place(), key: name })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a str, Item<'a>)> {
        self.entries.iter().map(|(name, node)| (name.as_str(), self.item(name, node)))
    }

    /// Gives the places of what is not in `known`.
    pub(crate) fn unknown(&self, known: &[&str]) -> Vec<Place> {
        self.iter().filter(|(name, _)| !known.contains(name)).map(|(_, item)| item.place()).collect()
    }

    /// Refuses what is not in `known`.
    pub(crate) fn only(&self, known: &'static [&'static str]) -> Result<(), Error> {
        match self.unknown(known).into_iter().next() {
            Some(place) => Err(Error::UnknownKey { place, known }),
            None => Ok(()),
        }
    }
}

/// Adds a name to a path: `a.b`, and `a["b/c"]` where it is no plain word.
fn joined(path: &str, name: &str) -> String {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_plain = !name.is_empty() && name.bytes().all(is_word);
    match (path.is_empty(), is_plain) {
        (true, true) => name.to_owned(),
        (false, true) => format!("{path}.{name}"),
        (_, false) => format!("{path}[{name:?}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parse = fn(&Path, &[u8]) -> Result<Node, Error>;

    fn error(parse: Parse, text: &[u8]) -> String {
        parse(Path::new("/f"), text).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn lines_and_keys_are_told() {
        let file = Path::new("/f");
        let told = |node: Node| {
            let table = node.item(file).table().unwrap();
            let list = table.get("a").unwrap().list().unwrap();
            list[1].table().unwrap().get("b/c").unwrap().boolean().unwrap_err().to_string()
        };
        let toml = Node::of_toml(file, b"[[a]]\n[[a]]\n\"b/c\" = 'hunter2'\n").unwrap();
        assert_eq!(told(toml), r#"/f:3: a[1]["b/c"]: expected true or false, found a text"#);
        let json = Node::of_json(file, br#"{"a": [0, {"b/c": 7}]}"#).unwrap();
        assert_eq!(told(json), r#"/f: a[1]["b/c"]: expected true or false, found a number"#);
        let yaml = Node::of_yaml(file, b"a:\n- 0\n- b/c:\n    [x]\n").unwrap();
        assert_eq!(told(yaml), r#"/f:4: a[1]["b/c"]: expected true or false, found a list"#);
    }

    #[test]
    fn broken_text_is_an_error_without_it() {
        for (parse, text, expected) in [
            (Node::of_toml as Parse, &b"a = 1\nb = hunter2\n"[..], "/f:2: "),
            (Node::of_toml, b"password = \"hunter2", "/f:1: "),
            (Node::of_json, b"{\n\"auth\": hunter2}", "/f:2: "),
            (Node::of_json, b"{\"auth\": \"hunter2", "/f:1: "),
            (Node::of_json, b"{\"auth\": \"hunter2\"} hunter2", "/f:1: "),
            (Node::of_json, b"", "/f:1: "),
            (Node::of_yaml, b"a: 'hunter2", "/f:"),
            (Node::of_yaml, b"a: [hunter2\nb: {", "/f:"),
            (Node::of_toml, b"a = 1\n# \xff\n", "/f:2: expected UTF-8"),
            (Node::of_json, b"{\n\n\"\xff\"", "/f:3: expected UTF-8"),
            (Node::of_yaml, b"a: \xc3", "/f:1: expected UTF-8"),
        ] {
            let error = error(parse, text);
            assert!(error.starts_with(expected) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn byte_order_marks() {
        assert!(Node::of_toml(Path::new("/f"), b"\xef\xbb\xbfa = 1").is_ok());
        assert!(Node::of_yaml(Path::new("/f"), b"\xef\xbb\xbfa: 1").is_ok());
        assert_eq!(
            error(Node::of_json, b"\xef\xbb\xbf{}"),
            "/f:1: it begins with a byte order mark, which JSON does not have"
        );
    }

    #[test]
    fn depth_is_bounded() {
        for depth in [200, 100_000, 500_000] {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            assert!(error(Node::of_json, format!("{open}{close}").as_bytes()).contains("recursion limit"));
            assert!(error(Node::of_json, open.as_bytes()).contains("recursion limit"));
            assert!(!error(Node::of_yaml, open.as_bytes()).is_empty());
            assert!(!error(Node::of_toml, format!("a = {open}{close}").as_bytes()).is_empty());
            assert!(!error(Node::of_toml, format!("a = {open}").as_bytes()).is_empty());
            assert!(!error(Node::of_toml, format!("a{} = 1", ".a".repeat(depth)).as_bytes()).is_empty());
            assert!(!error(Node::of_json, r#"{"a":"#.repeat(depth).as_bytes()).is_empty());
            assert!(!error(Node::of_yaml, "- ".repeat(depth).as_bytes()).is_empty());
        }
    }

    #[test]
    fn yaml_has_few_levels_and_no_aliases() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Node::of_yaml(Path::new("/f"), nested(16).as_bytes()).is_ok());
        assert_eq!(error(Node::of_yaml, nested(17).as_bytes()), "/f:1: expected at most 16 levels");
        assert_eq!(error(Node::of_yaml, b"a: &x [1]\nb: *x\n"), "/f:2: expected no alias (*)");
        assert_eq!(error(Node::of_yaml, b"a: 1\n---\nb: 1\n"), "/f:2: expected one document, found more");
        assert_eq!(error(Node::of_yaml, b"[a]: 1\n"), "/f:1: expected a text as a key");
        assert!(Node::of_yaml(Path::new("/f"), b"").unwrap().item(Path::new("/f")).is_null());
    }

    #[test]
    fn a_name_that_stands_twice_is_refused() {
        let twice = |node: Result<Node, Error>| match node {
            Ok(node) => node.item(Path::new("/f")).table().map(|_| ()).unwrap_err(),
            Err(error) => error,
        };
        let json = twice(Node::of_json(Path::new("/f"), br#"{"a": 1, "\u0061": 2}"#));
        assert_eq!(json.to_string(), "/f: a stands there twice");
        let yaml = twice(Node::of_yaml(Path::new("/f"), b"a: 1\nb: 2\na: 3\n"));
        assert_eq!(yaml.to_string(), "/f:3: a stands there twice");
        let toml = twice(Node::of_toml(Path::new("/f"), b"a = 1\na = 2\n"));
        assert!(toml.to_string().starts_with("/f:2: "), "{toml}");
    }

    #[test]
    fn fields_are_looked_up() {
        let file = Path::new("/f");
        let node = Node::of_json(file, br#"{"a": null, "b": true, "": "x"}"#).unwrap();
        let table = node.item(file).table().unwrap();
        assert!(table.get("a").is_some() && table.set("a").is_none() && table.set("b").is_some());
        assert_eq!(table.get("").unwrap().place().key, r#"[""]"#);
        assert_eq!(table.required("c").map(|_| ()).unwrap_err().to_string(), "/f: c is missing");
        assert_eq!(table.only(&["a", ""]).unwrap_err().to_string(), "/f: b is not known here: expected a, ");
    }
}
