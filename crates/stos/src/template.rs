// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--format` templates: what of Go's text/template people write there, evaluated over JSON.
//!
//! | what | example |
//! |---|---|
//! | a field, also of a field | `{{.ID}}`, `{{.State.Status}}`, `{{.Labels.key}}` |
//! | all of it | `{{.}}`, `{{json .}}` |
//! | functions, also one after the other | `{{index .Labels "a.b"}}`, `{{.Names \| upper}}`, `{{join .Command " "}}` |
//! | conditions and lists | `{{if .Pid}}…{{else}}…{{end}}`, `{{range .Mounts}}{{.}}{{end}}` |
//! | less space around | `{{- .ID -}}` |
//! | in the text between | `\t`, `\n` |
//!
//! A field is found by its name, or else by one that differs only in case and underscores: podman's `.State.ExitCode` is our
//! `state.exit_code`. Where both are there it is the one that has the rest of the path. There are no variables, and no templates in templates.

mod parse;

use std::fmt::Write;

use serde_json::Value;

pub use parse::{Expression, Node, Template};

/// Why a template is refused, or cannot be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--format: {0}")]
pub struct TemplateError(String);

type Result<T, E = TemplateError> = std::result::Result<T, E>;

fn error<T>(text: impl Into<String>) -> Result<T> {
    Err(TemplateError(text.into()))
}

/// What a template is evaluated over.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// What `.` is.
    pub document: Value,
    /// Fields that look otherwise than in the document, for people.
    pub shown: Value,
}

impl Template {
    /// Evaluates it.
    ///
    /// # Errors
    /// For a field that the document does not have, and for an argument that a function cannot take.
    pub fn render(&self, context: &Context) -> Result<String> {
        let mut out = String::new();
        let dot = Dot { value: &context.document, shown: &context.shown, is_root: true };
        render(self.nodes(), dot, &mut out)?;
        Ok(out)
    }
}

#[derive(Clone, Copy)]
struct Dot<'a> {
    value: &'a Value,
    shown: &'a Value,
    is_root: bool,
}

fn render(nodes: &[Node], dot: Dot<'_>, out: &mut String) -> Result<()> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Action(expression) => out.push_str(&show(&evaluate(expression, dot)?)),
            Node::If { condition, then, otherwise } => {
                let is_true = is_true(&evaluate(condition, dot)?);
                render(if is_true { then } else { otherwise }, dot, out)?;
            }
            Node::Range { list, body, otherwise } => {
                let items = items(evaluate(list, dot)?)?;
                if items.is_empty() {
                    render(otherwise, dot, out)?;
                }
                for item in &items {
                    render(body, Dot { value: item, shown: &Value::Null, is_root: false }, out)?;
                }
            }
        }
    }
    Ok(())
}

fn items(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Object(map) => Ok(map.into_iter().map(|(_, value)| value).collect()),
        Value::Null => Ok(Vec::new()),
        other => error(format!("range can't go over {}", show(&other))),
    }
}

fn evaluate(expression: &Expression, dot: Dot<'_>) -> Result<Value> {
    match expression {
        Expression::Literal(value) => Ok(value.clone()),
        Expression::Field(path) => field(path, dot),
        Expression::Call { function, arguments } => {
            let arguments = arguments.iter().map(|argument| evaluate(argument, dot)).collect::<Result<Vec<_>>>()?;
            call(function, &arguments)
        }
    }
}

fn field(path: &[String], dot: Dot<'_>) -> Result<Value> {
    let Some(first) = path.first() else { return Ok(dot.value.clone()) };
    if let Some(found) = descend(dot.shown, path).or_else(|| descend(dot.value, path)) {
        return Ok(found.clone());
    }
    let is_known = [dot.shown, dot.value].into_iter().any(|value| !children(value, first).is_empty());
    if is_known || !dot.is_root {
        return Ok(Value::Null);
    }
    let names = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
    let mut known: Vec<String> = names(dot.value);
    known.extend(names(dot.shown));
    known.sort();
    known.dedup();
    error(format!("there is no field .{first}: expected one of {}", known.join(", ")))
}

/// Follows a path. Where a name means several fields it is that in which the rest of the path is.
fn descend<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    children(value, first).into_iter().find_map(|child| descend(child, rest))
}

/// What a name may mean: the field of that very name, then those that differ only in case and underscores.
fn children<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    let Some(map) = value.as_object() else { return Vec::new() };
    let plain = |name: &str| name.replace('_', "").to_ascii_lowercase();
    let exact = map.get(name);
    let others = map.iter().filter(|(key, _)| *key != name && plain(key) == plain(name)).map(|(_, value)| value);
    exact.into_iter().chain(others).collect()
}

fn call(function: &str, arguments: &[Value]) -> Result<Value> {
    let text = |value: &Value| Value::String(show(value));
    let change = |change: fn(&str) -> String, value: &Value| Value::String(change(&show(value)));
    match (function, arguments) {
        ("json", [value]) => Ok(Value::String(value.to_string())),
        ("len", [Value::Array(items)]) => Ok(items.len().into()),
        ("len", [Value::Object(map)]) => Ok(map.len().into()),
        ("len", [Value::Null]) => Ok(0.into()),
        ("len", [value]) => Ok(show(value).len().into()),
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| index(&value, key)),
        ("join", [Value::Array(items), separator]) => {
            let items: Vec<_> = items.iter().map(show).collect();
            Ok(Value::String(items.join(&show(separator))))
        }
        ("split", [value, separator]) => {
            let value = show(value);
            Ok(value.split(&show(separator)).map(Value::from).collect())
        }
        ("lower", [value]) => Ok(change(|text| text.to_lowercase(), value)),
        ("upper", [value]) => Ok(change(|text| text.to_uppercase(), value)),
        ("print", [value]) => Ok(text(value)),
        ("println", [value]) => Ok(Value::String(format!("{}\n", show(value)))),
        ("not", [value]) => Ok((!is_true(value)).into()),
        ("eq", [first, others @ ..]) if !others.is_empty() => Ok(others.contains(first).into()),
        ("ne", [first, second]) => Ok((first != second).into()),
        (name, _) if parse::FUNCTIONS.contains(&name) => {
            let given: Vec<_> = arguments.iter().map(Value::to_string).collect();
            error(format!(
                "{name} can't take {}",
                if given.is_empty() { "nothing".to_owned() } else { given.join(" ") }
            ))
        }
        // The name stands where a field is called as podman's methods are: `.Label "key"`.
        (_, [map @ Value::Object(_), key]) => index(map, key),
        (name, _) => error(format!(".{name} takes no arguments")),
    }
}

/// Gives what a map or a list has there; of a map nothing where it has not.
fn index(value: &Value, key: &Value) -> Result<Value> {
    match (value, key) {
        (Value::Object(map), key) => Ok(map.get(&show(key)).cloned().unwrap_or_default()),
        (Value::Array(items), key) => {
            let at = key.as_u64().and_then(|at| usize::try_from(at).ok());
            match at.and_then(|at| items.get(at)) {
                Some(item) => Ok(item.clone()),
                None => error(format!("index {key} is none of a list of {}", items.len())),
            }
        }
        (Value::Null, _) => Ok(Value::Null),
        _ => error(format!("index can't look into {}", show(value))),
    }
}

/// Go's truth: neither false, 0, empty nor nothing.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Shows a value as Go prints it: `[a b]`, `map[k:v]`.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut out = "map[".to_owned();
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (at, (key, value)) in entries.into_iter().enumerate() {
                // Writing to a String cannot fail.
                let _ = write!(out, "{}{key}:{}", if at == 0 { "" } else { " " }, show(value));
            }
            out + "]"
        }
        other => other.to_string(),
    }
}

impl Template {
    /// Gives the header of a table whose rows it makes: the name of each field, in capitals. `known` has those that are called
    /// otherwise.
    pub fn header(&self, known: &[(&str, &str)]) -> String {
        let mut out = String::new();
        for node in self.nodes() {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Action(expression) => {
                    let name = first_field(expression).unwrap_or_default();
                    match known.iter().find(|(field, _)| *field == name) {
                        Some((_, header)) => out.push_str(header),
                        None => out.push_str(&spaced(&name)),
                    }
                }
                Node::If { .. } | Node::Range { .. } => {}
            }
        }
        out
    }

    /// Tells whether it may use a field of the document's own.
    pub fn may_use(&self, name: &str) -> bool {
        fn uses(nodes: &[Node], name: &str) -> bool {
            let of = |expression: &Expression| expression.may_use(name);
            nodes.iter().any(|node| match node {
                Node::Text(_) => false,
                Node::Action(expression) => of(expression),
                Node::If { condition: of_what, then: body, otherwise }
                | Node::Range { list: of_what, body, otherwise } => {
                    of(of_what) || uses(body, name) || uses(otherwise, name)
                }
            })
        }
        uses(self.nodes(), name)
    }
}

impl Expression {
    fn may_use(&self, name: &str) -> bool {
        match self {
            Self::Literal(_) => false,
            Self::Field(path) => path.first().is_none_or(|first| first.eq_ignore_ascii_case(name)),
            Self::Call { arguments, .. } => arguments.iter().any(|argument| argument.may_use(name)),
        }
    }
}

fn first_field(expression: &Expression) -> Option<String> {
    match expression {
        Expression::Literal(_) => None,
        Expression::Field(path) => path.first().cloned(),
        Expression::Call { arguments, .. } => arguments.iter().find_map(first_field),
    }
}

/// `CreatedAt` is `CREATED AT`.
fn spaced(name: &str) -> String {
    let mut out = String::new();
    let mut was_lower = false;
    for c in name.chars() {
        if c.is_uppercase() && was_lower {
            out.push(' ');
        }
        was_lower = c.is_lowercase();
        out.extend(c.to_uppercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context() -> Context {
        let document = json!({
            "Id": "0123456789ab", "Names": ["web"], "Pid": 7, "Labels": {"a": "b", "x.y": "z"}, "Mounts": [],
            "state": {"exit_code": 3, "exit": null}, "Config": {"Image": "x"}, "config": {"args": ["a"]}, "Command": ["sleep", "1"], "Label": {"x.y": "z"},
        });
        Context { document, shown: json!({"Names": "web", "ID": "0123"}) }
    }

    fn rendered(text: &str) -> String {
        Template::parse(text).and_then(|template| template.render(&context())).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn what_people_write_is_evaluated_as_go_does() {
        for (text, expected) in [
            ("plain", "plain"),
            ("{{.ID}} {{.Names}}", "0123 web"),
            (r"{{.ID}}\t{{.Pid}}\n", "0123\t7\n"),
            ("{{ .Labels.a }}", "b"),
            (r#"{{index .Labels "x.y"}} {{.Label "x.y"}} {{index .Labels `none`}}"#, "z z <no value>"),
            ("{{index .Command 1}}", "1"),
            ("{{.State.ExitCode}} {{.state.exit.code}}", "3 <no value>"),
            ("{{.Config.Image}} {{.config.image}} {{.Config.Args}} {{.Config.No}}", "x x [a] <no value>"),
            ("{{.Labels}} {{.Command}}", "map[a:b x.y:z] [sleep 1]"),
            ("{{json .Names}} {{json .Labels}}", r#""web" {"a":"b","x.y":"z"}"#),
            (r#"{{join .Command " "}} {{.Names | upper | lower}} {{len .Command}}"#, "sleep 1 web 2"),
            (r#"{{(index .Command 0) | upper}}{{"a\"b"}}"#, "SLEEPa\"b"),
            ("{{if .Pid}}up{{else}}down{{end}}", "up"),
            ("{{if .Mounts}}some{{else if .Pid}}none{{end}}", "none"),
            ("{{range .Command}}<{{.}}>{{end}}{{range .Mounts}}x{{else}}none{{end}}", "<sleep><1>none"),
            ("a {{- .Pid -}} b", "a7b"),
            (r#"{{split "a,b" ","}} {{if eq .Pid 7}}seven{{end}}{{if not .Mounts}}!{{end}}"#, "[a b] seven!"),
            ("{{/* nothing */}}.", "."),
        ] {
            assert_eq!(rendered(text), expected, "{text}");
        }
        assert!(rendered("{{json .}}").starts_with(r#"{"Command":["sleep","1"]"#));
    }

    #[test]
    fn what_cannot_be_evaluated_is_refused() {
        for (text, said) in [
            ("{{.Nothing}}", "there is no field .Nothing: expected one of Command, Config, ID"),
            ("{{.ID", "{{ without }}"),
            ("{{}}", "expected a field"),
            ("{{nothing .ID}}", "\"nothing\""),
            ("{{if .ID}}", "without {{end}}"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{else}}", "unexpected {{else}}"),
            ("{{index .Command 9}}", "none of a list of 2"),
            ("{{index .ID 9}}", "can't look into 0123"),
            ("{{join .ID}}", "join can't take"),
            ("{{$x}}", "'$'"),
            (r#"{{"open}}"#, "without its end"),
            ("{{(.ID}}", "expected )"),
            ("{{range .ID}}{{end}}", "can't go over 0123"),
            ("{{.ID 1}}", ".ID takes no arguments"),
        ] {
            let shown = rendered(text);
            assert!(shown.starts_with("--format: ") && shown.contains(said), "{text}: {shown}");
        }
    }

    #[test]
    fn a_template_names_its_columns_and_tells_what_it_uses() {
        let template = Template::parse(r"{{.ID}}\t{{.CreatedAt}}\t{{index .Labels `a`}}").unwrap();
        assert_eq!(template.header(&[("ID", "CONTAINER ID")]), "CONTAINER ID\tCREATED AT\tLABELS");
        assert!(template.may_use("labels") && !template.may_use("Mounts"));
        assert!(Template::parse("{{json .}}").unwrap().may_use("Mounts"));
        assert!(Template::parse("{{if .ID}}{{.Mounts}}{{end}}").unwrap().may_use("Mounts"));
    }

    #[test]
    fn deep_nesting_is_refused_before_the_stack_ends() {
        assert!(rendered(&format!("{{{{{}.ID}}}}", "(".repeat(100_000))).contains("nested"));
        assert!(rendered(&format!("{{{{.ID{}}}}}", "|len".repeat(30_000))).contains("nested"));
        assert!(rendered(&"{{if .ID}}".repeat(100_000)).contains("nested"));
    }
}
