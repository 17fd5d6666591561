// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--change`: an instruction of a Dockerfile, applied to an image configuration (Dockerfile reference; podman-commit(1)).

use serde_json::{Map, Value, json};
use stos_spec::UserSpec;
use stos_spec::text::cut;

use super::{ConfigDocument, object_in};
use crate::error::{Error, Result};

/// Applies `changes` in their order. One that cannot be read fails all of them: the document is as it was.
///
/// `INSTRUCTION VALUE`, or `INSTRUCTION=VALUE` as podman takes it; the instruction in any case. A JSON array is the exec
/// form of `CMD` and `ENTRYPOINT`, anything else the shell form. `ENTRYPOINT` clears the image's own `CMD`, unless a
/// change sets one.
pub fn apply_changes(config: &mut ConfigDocument, changes: &[String]) -> Result<()> {
    let mut changed = config.clone();
    let mut sets_cmd = false;
    for change in changes {
        let refuse = |reason| Error::Option { option: "--change", value: cut(change), reason };
        let (instruction, value) = split_change(change).map_err(refuse)?;
        if instruction == "ENTRYPOINT" && !sets_cmd {
            changed.process().remove("Cmd");
        }
        sets_cmd |= instruction == "CMD";
        apply_change(changed.process(), &instruction, value).map_err(refuse)?;
        // What no image may have is told now, by the change that says it, not when a layer has been written.
        changed.check().map_err(|error| refuse(error.to_string()))?;
    }
    *config = changed;
    Ok(())
}

/// Gives the instruction in upper case, and what follows it.
fn split_change(change: &str) -> std::result::Result<(String, &str), String> {
    let change = change.trim();
    let at = change.find(char::is_whitespace).or_else(|| change.find('='));
    let at = at.ok_or("expected INSTRUCTION VALUE")?;
    let value = change[at..].strip_prefix('=').unwrap_or(&change[at..]).trim();
    if change.contains('\0') {
        return Err("it holds a NUL byte".to_owned());
    }
    Ok((change[..at].trim().to_ascii_uppercase(), value))
}

fn apply_change(process: &mut Map<String, Value>, instruction: &str, value: &str) -> std::result::Result<(), String> {
    if value.is_empty() && !matches!(instruction, "CMD" | "ENTRYPOINT" | "USER") {
        return Err("expected a value after the instruction".to_owned());
    }
    match instruction {
        "CMD" => set(process, "Cmd", json!(command(value))),
        "ENTRYPOINT" => set(process, "Entrypoint", json!(command(value))),
        "ENV" => {
            for (name, value) in pairs(value)? {
                set_environment(process, &name, &value);
            }
        }
        "LABEL" => {
            let labels = object_in(process, "Labels");
            labels.extend(pairs(value)?.into_iter().map(|(key, value)| (key, Value::String(value))));
        }
        "EXPOSE" => {
            let ports = value.split_whitespace().map(port).collect::<std::result::Result<Vec<_>, _>>()?;
            object_in(process, "ExposedPorts").extend(ports.into_iter().map(|port| (port, json!({}))));
        }
        "VOLUME" => {
            let volumes = exec_form(value).unwrap_or_else(|| value.split_whitespace().map(str::to_owned).collect());
            object_in(process, "Volumes").extend(volumes.into_iter().map(|path| (path, json!({}))));
        }
        "STOPSIGNAL" => {
            stos_runtime::parse_signal(value).map_err(|error| error.to_string())?;
            set(process, "StopSignal", json!(value));
        }
        "USER" => {
            value.parse::<UserSpec>().map_err(|error| error.to_string())?;
            set(process, "User", json!(value));
        }
        "WORKDIR" => {
            let current = process.get("WorkingDir").and_then(Value::as_str).unwrap_or_default();
            let path = working_dir(current, value);
            set(process, "WorkingDir", json!(path));
        }
        _ => {
            return Err("expected CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR".to_owned());
        }
    }
    Ok(())
}

fn set(process: &mut Map<String, Value>, key: &str, value: Value) {
    process.insert(key.to_owned(), value);
}

/// A JSON array of texts.
fn exec_form(value: &str) -> Option<Vec<String>> {
    value.starts_with('[').then(|| serde_json::from_str(value).ok()).flatten()
}

/// The exec form as it is, nothing as no command, anything else for a shell.
fn command(value: &str) -> Vec<String> {
    match exec_form(value) {
        Some(words) => words,
        None if value.is_empty() => Vec::new(),
        None => vec!["/bin/sh".to_owned(), "-c".to_owned(), value.to_owned()],
    }
}

fn set_environment(process: &mut Map<String, Value>, name: &str, value: &str) {
    let entry = Value::String(format!("{name}={value}"));
    if !process.get("Env").is_some_and(Value::is_array) {
        process.insert("Env".to_owned(), json!([]));
    }
    let Some(Value::Array(entries)) = process.get_mut("Env") else { return };
    let is_same = |other: &Value| other.as_str().and_then(|text| text.split_once('=')).is_some_and(|(n, _)| n == name);
    match entries.iter().position(is_same) {
        Some(at) => entries[at] = entry,
        None => entries.push(entry),
    }
}

/// `80`, `53/udp`, `8000-8010/tcp`; the protocol is TCP unless it says otherwise.
fn port(text: &str) -> std::result::Result<String, String> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    if is_port(first) && is_port(last) && matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Ok(format!("{numbers}/{protocol}"));
    }
    Err(format!("{:?} is no port: expected NUMBER[-NUMBER][/tcp|/udp|/sctp]", cut(text)))
}

/// A relative directory lies in the one before it.
fn working_dir(current: &str, value: &str) -> String {
    if value.starts_with('/') {
        return value.to_owned();
    }
    format!("/{}/{value}", current.trim_matches('/')).replacen("//", "/", 1)
}

/// Reads `KEY=VALUE KEY="VALUE WITH SPACES"`, or `KEY VALUE WITH SPACES`, the old form of one pair.
fn pairs(text: &str) -> std::result::Result<Vec<(String, String)>, String> {
    let words = words(text)?;
    let first = words.first().map(String::as_str).unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).ok_or("expected KEY=VALUE")?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some(("", _)) | None => Err(format!("{:?}: expected KEY=VALUE", cut(word))),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
    };
    words.iter().map(pair).collect()
}

/// Splits at spaces that are neither quoted nor escaped, and takes quotes and backslashes away.
fn words(text: &str) -> std::result::Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', quote) if quote != Some('\'') => {
                let next = characters.next().ok_or("it ends in a backslash")?;
                // Within double quotes a backslash escapes only what would else mean something.
                let is_kept = quote.is_some() && !matches!(next, '"' | '\\' | '$');
                word.get_or_insert_default().extend(is_kept.then_some('\\').into_iter().chain([next]));
            }
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stos_spec::Platform;

    fn changed(base: &Value, changes: &[&str]) -> Result<Value> {
        let mut config = ConfigDocument::new(&Platform::host(), "2024-01-01T00:00:00Z");
        *config.process() = base.as_object().unwrap().clone();
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        apply_changes(&mut config, &changes)?;
        Ok(Value::Object(config.process().clone()))
    }

    #[test]
    fn each_instruction_changes_its_field() {
        for (change, expected) in [
            ("CMD [\"a\", \"b c\"]", json!({"Cmd": ["a", "b c"]})),
            ("cmd a b", json!({"Cmd": ["/bin/sh", "-c", "a b"]})),
            ("CMD [a", json!({"Cmd": ["/bin/sh", "-c", "[a"]})),
            ("CMD=/bin/x", json!({"Cmd": ["/bin/sh", "-c", "/bin/x"]})),
            ("CMD []", json!({"Cmd": []})),
            ("ENTRYPOINT [\"/e\"]", json!({"Entrypoint": ["/e"]})),
            ("ENV A=b C=\"d e\" F='g\\h' I=j\\ k", json!({"Env": ["A=b", "C=d e", "F=g\\h", "I=j k"]})),
            ("ENV A b  c", json!({"Env": ["A=b  c"]})),
            ("ENV A=", json!({"Env": ["A="]})),
            ("LABEL a.b=c \"x y\"=z", json!({"Labels": {"a.b": "c", "x y": "z"}})),
            ("EXPOSE 80 53/UDP", json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}}})),
            ("EXPOSE 8000-8010", json!({"ExposedPorts": {"8000-8010/tcp": {}}})),
            ("VOLUME /a /b", json!({"Volumes": {"/a": {}, "/b": {}}})),
            ("VOLUME [\"/a b\"]", json!({"Volumes": {"/a b": {}}})),
            ("STOPSIGNAL SIGQUIT", json!({"StopSignal": "SIGQUIT"})),
            ("USER 1000:games", json!({"User": "1000:games"})),
            ("WORKDIR srv", json!({"WorkingDir": "/srv"})),
            ("WORKDIR /srv", json!({"WorkingDir": "/srv"})),
        ] {
            assert_eq!(changed(&json!({}), &[change]).unwrap(), expected, "{change}");
        }
    }

    #[test]
    fn changes_stand_on_what_is_there() {
        let base = json!({"Env": ["A=1", "B=2"], "Labels": {"a": "b"}, "Volumes": null, "WorkingDir": "/x",
            "Cmd": ["c"], "Healthcheck": {"Test": ["NONE"]}});
        let made = changed(&base, &["ENV B=3 C=4", "LABEL c=d", "VOLUME /v", "WORKDIR y"]).unwrap();
        let expected = json!({"Env": ["A=1", "B=3", "C=4"], "Labels": {"a": "b", "c": "d"}, "Volumes": {"/v": {}},
            "WorkingDir": "/x/y", "Cmd": ["c"], "Healthcheck": {"Test": ["NONE"]}});
        assert_eq!(made, expected);
        assert_eq!(changed(&base, &["ENTRYPOINT e"]).unwrap()["Cmd"], Value::Null, "an entrypoint has its own command");
        assert_eq!(changed(&base, &["CMD [\"x\"]", "ENTRYPOINT e"]).unwrap()["Cmd"], json!(["x"]));
    }

    #[test]
    fn what_is_no_change_is_refused_with_its_text() {
        for change in [
            "",
            "CMD",
            "ENV",
            "ENV =x",
            "ENV A",
            "ENV A=\"b",
            "ENV A=b c",
            "ENV A=b\\",
            "LABEL x",
            "EXPOSE x",
            "EXPOSE 70000",
            "EXPOSE 80/icmp",
            "EXPOSE +80",
            "STOPSIGNAL NONE",
            "USER 4294967296",
            "RUN x",
            "ONBUILD RUN x",
            "FROM x",
            "WORKDIR ",
            "VOLUME data",
            "VOLUME /a/../b",
            "VOLUME /",
            "ENV A=b\0",
        ] {
            match changed(&json!({}), &[change]) {
                Err(Error::Option { option: "--change", value, .. }) => assert_eq!(value, change),
                other => panic!("{change:?}: {other:?}"),
            }
        }
        let mut config = ConfigDocument::new(&Platform::host(), "2024-01-01T00:00:00Z");
        let before = config.clone();
        assert!(apply_changes(&mut config, &["USER 1".to_owned(), "RUN x".to_owned()]).is_err());
        assert_eq!(config, before, "all of them or none");
    }
}
