// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An event, and the line that it is written as.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use crate::container::ContainerRecord;

/// How long a line is at most, in bytes, with its newline.
pub const LINE_MAX: usize = 4096;

/// How long a name in it is at most, in bytes as JSON has it. What is longer is cut.
const TEXT_MAX: usize = 1024;

/// What each line begins with, and nothing within one: in its strings a quotation mark stands behind a backslash.
const BEGINNING: &[u8] = br#"{"time":""#;

/// What of a line is kept for its end, behind the labels.
const END_ROOM: usize = br#"},"left_out":18446744073709551615}"#.len() + 1;

/// What has happened, in podman's words (libpod/events).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Somebody takes part in the container's session.
    Attach,
    /// What the process of the container had in ROOT is gone.
    Cleanup,
    /// An image was made of the container.
    Commit,
    /// The container was created.
    Create,
    /// The container's process has ended.
    Died,
    /// A further process runs in the container.
    Exec,
    /// Such a process has ended.
    ExecDied,
    /// The container's tree was written as a tar.
    Export,
    /// The container's health was checked.
    HealthStatus,
    /// A root filesystem became the image.
    Import,
    /// A signal was sent to the container.
    Kill,
    /// The image was read from an archive or a directory.
    Load,
    /// The image was mounted.
    Mount,
    /// The container was frozen.
    Pause,
    /// The image came from a registry.
    Pull,
    /// The image went to a registry.
    Push,
    /// The container or the image is gone.
    Remove,
    /// The container has another name.
    Rename,
    /// The container was stopped and started again.
    Restart,
    /// The image was written to an archive or a directory.
    Save,
    /// The container's process runs.
    Start,
    /// The container was asked to end, and has.
    Stop,
    /// The image has a further name.
    Tag,
    /// A mount of the image was taken back.
    Unmount,
    /// The container goes on.
    Unpause,
    /// A name was taken away from the image.
    Untag,
    /// Limits of the container have changed.
    Update,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::Attach,
        Self::Cleanup,
        Self::Commit,
        Self::Create,
        Self::Died,
        Self::Exec,
        Self::ExecDied,
        Self::Export,
        Self::HealthStatus,
        Self::Import,
        Self::Kill,
        Self::Load,
        Self::Mount,
        Self::Pause,
        Self::Pull,
        Self::Push,
        Self::Remove,
        Self::Rename,
        Self::Restart,
        Self::Save,
        Self::Start,
        Self::Stop,
        Self::Tag,
        Self::Unmount,
        Self::Unpause,
        Self::Untag,
        Self::Update,
    ];

    /// Gives podman's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::Cleanup => "cleanup",
            Self::Commit => "commit",
            Self::Create => "create",
            Self::Died => "died",
            Self::Exec => "exec",
            Self::ExecDied => "exec_died",
            Self::Export => "export",
            Self::HealthStatus => "health_status",
            Self::Import => "import",
            Self::Kill => "kill",
            Self::Load => "loadfromarchive",
            Self::Mount => "mount",
            Self::Pause => "pause",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::Restart => "restart",
            Self::Save => "save",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Tag => "tag",
            Self::Unmount => "unmount",
            Self::Unpause => "unpause",
            Self::Untag => "untag",
            Self::Update => "update",
        }
    }
}

/// What it has happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Container, Self::Image];

    /// Gives podman's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
        }
    }
}

/// An event that has been read. Its words may be those of a later version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Event {
    /// When it was written.
    pub time: Timestamp,
    /// What it has happened to: [`Kind::word`].
    #[serde(rename = "type")]
    pub kind: String,
    /// What has happened: [`Status::word`].
    pub status: String,
    /// The container's id, or the image ID without its algorithm.
    pub id: String,
    /// The container's name; of an image see [`Engine::note_image`](crate::Engine::note_image).
    #[serde(default)]
    pub name: String,
    /// The container's image as it was named.
    #[serde(default)]
    pub image: String,
    /// The container's labels, as many as the line had room for.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How many labels it had no room for.
    #[serde(default)]
    pub left_out: u64,
    /// How the process ended, where that is known.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// Whether the kernel ended a process of the container for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// How the container was after a check of its health; else empty.
    #[serde(default)]
    pub health: String,
    /// How many checks in a row had failed then.
    #[serde(default)]
    pub failing_streak: u32,
}

impl Event {
    /// Reads a line. Where it begins with what is none, an event at its end is found all the same: a write may have been cut short.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let parse = |text: &[u8]| serde_json::from_slice(text).ok();
        parse(line).or_else(|| {
            let last = line.windows(BEGINNING.len()).rposition(|window| window == BEGINNING)?;
            parse(&line[last..])
        })
    }
}

/// An event that is to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft<'a> {
    pub kind: Kind,
    pub status: Status,
    pub id: &'a str,
    pub name: &'a str,
    pub image: &'a str,
    pub labels: Option<&'a BTreeMap<String, String>>,
    pub exit_code: Option<i32>,
    pub oom_killed: bool,
    /// The status after a check of its health, and the failing streak; else empty.
    pub health: (&'a str, u32),
}

impl<'a> Draft<'a> {
    /// What has happened to a container, and nothing more of it.
    pub fn of_container(status: Status, record: &'a ContainerRecord) -> Self {
        Self {
            kind: Kind::Container,
            status,
            id: record.id.as_str(),
            name: record.name.as_str(),
            image: &record.image,
            labels: Some(&record.labels),
            exit_code: None,
            oom_killed: false,
            health: ("", 0),
        }
    }

    /// Gives its line, of at most [`LINE_MAX`] bytes.
    pub fn line(&self, time: Timestamp) -> Vec<u8> {
        let mut line = Vec::with_capacity(512);
        line.extend_from_slice(BEGINNING);
        line.extend_from_slice(format!("{time:.9}\",\"type\":\"{}\"", self.kind.word()).as_bytes());
        for (key, text) in [("status", self.status.word()), ("id", self.id), ("name", self.name), ("image", self.image)]
        {
            if !text.is_empty() {
                line.extend_from_slice(format!(",\"{key}\":").as_bytes());
                line.extend_from_slice(&json(bounded(text)));
            }
        }
        if let Some(code) = self.exit_code {
            line.extend_from_slice(format!(",\"exit_code\":{code}").as_bytes());
        }
        if self.oom_killed {
            line.extend_from_slice(b",\"oom_killed\":true");
        }
        if let (status @ ("starting" | "healthy" | "unhealthy"), streak) = self.health {
            line.extend_from_slice(format!(",\"health\":\"{status}\",\"failing_streak\":{streak}").as_bytes());
        }
        self.add_labels(&mut line);
        line.extend_from_slice(b"}\n");
        line
    }

    fn add_labels(&self, line: &mut Vec<u8>) {
        let Some(labels) = self.labels.filter(|labels| !labels.is_empty()) else { return };
        line.extend_from_slice(b",\"labels\":{");
        let (mut is_first, mut left_out) = (true, 0);
        for (key, value) in labels {
            // Long ones are not put into JSON to be measured: that makes nothing shorter.
            let entry = (key.len() + value.len() < LINE_MAX).then(|| [json(key), json(value)].join(&b':'));
            match entry.filter(|entry| line.len() + 1 + entry.len() + END_ROOM <= LINE_MAX) {
                Some(entry) => {
                    line.extend_from_slice(if is_first { b"" } else { b"," });
                    line.extend_from_slice(&entry);
                    is_first = false;
                }
                None => left_out += 1,
            }
        }
        line.push(b'}');
        if left_out > 0 {
            line.extend_from_slice(format!(",\"left_out\":{left_out}").as_bytes());
        }
    }
}

fn json(text: &str) -> Vec<u8> {
    serde_json::Value::from(text).to_string().into_bytes()
}

/// Cuts a text so that it takes no more than [`TEXT_MAX`] bytes as JSON.
fn bounded(text: &str) -> &str {
    let (mut text, mut max) = (text, TEXT_MAX - 2);
    loop {
        text = &text[..text.floor_char_boundary(max)];
        if json(text).len() <= TEXT_MAX {
            return text;
        }
        max = text.len() / 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft<'static> {
        Draft {
            kind: Kind::Container,
            status: Status::Died,
            id: "0123",
            name: "web",
            image: "a.example/x:1",
            labels: None,
            exit_code: Some(137),
            oom_killed: true,
            health: ("", 0),
        }
    }

    fn time() -> Timestamp {
        "2026-01-31T12:00:00.123456789Z".parse().unwrap()
    }

    fn text(line: &[u8]) -> &str {
        std::str::from_utf8(line).unwrap()
    }

    #[test]
    fn an_event_is_a_line_and_is_read_again() {
        let labels = BTreeMap::from([("a".to_owned(), "b\"\n".to_owned()), ("c".to_owned(), String::new())]);
        let line = Draft { labels: Some(&labels), ..draft() }.line(time());
        assert_eq!(
            text(&line),
            "{\"time\":\"2026-01-31T12:00:00.123456789Z\",\"type\":\"container\",\"status\":\"died\",\"id\":\"0123\",\
             \"name\":\"web\",\"image\":\"a.example/x:1\",\"exit_code\":137,\"oom_killed\":true,\
             \"labels\":{\"a\":\"b\\\"\\n\",\"c\":\"\"}}\n"
        );
        let event = Event::parse(&line).unwrap();
        assert_eq!((event.time, event.exit_code, event.oom_killed), (time(), Some(137), true));
        assert_eq!((event.labels, event.left_out), (labels, 0));
        let line = Draft { status: Status::HealthStatus, health: ("unhealthy", 3), ..draft() }.line(time());
        let event = Event::parse(&line).unwrap();
        assert_eq!((event.status.as_str(), event.health.as_str()), ("health_status", "unhealthy"));
        assert_eq!(event.failing_streak, 3);
        let image = Draft { kind: Kind::Image, status: Status::Pull, image: "", exit_code: None, ..draft() };
        let image = Draft { oom_killed: false, ..image };
        let line = image.line(time());
        assert!(text(&line).ends_with("\"type\":\"image\",\"status\":\"pull\",\"id\":\"0123\",\"name\":\"web\"}\n"));
    }

    #[test]
    fn a_line_is_bounded_whatever_is_in_it() {
        for long in ["x".repeat(100_000), "\u{1}".repeat(5_000), "ї".repeat(5_000), "\"".repeat(1_022)] {
            let labels = (0..50).map(|at| (format!("{at:02}"), long.clone())).collect::<BTreeMap<_, _>>();
            let mut some = labels.clone();
            some.insert("fits".to_owned(), "yes".to_owned());
            let line = Draft { name: &long, image: &long, labels: Some(&some), ..draft() }.line(time());
            assert!(line.len() <= LINE_MAX, "{}", line.len());
            let event = Event::parse(&line).unwrap();
            assert!(long.starts_with(&event.name) && event.name.len() > 50, "{}", event.name.len());
            assert_eq!(event.labels.get("fits").map(String::as_str), Some("yes"));
            assert_eq!(event.labels.len() as u64 + event.left_out, 51);
        }
        // One byte decides.
        for size in 1..200 {
            let labels = (0..100).map(|at| (format!("{at:03}"), "x".repeat(size))).collect::<BTreeMap<_, _>>();
            let line = Draft { labels: Some(&labels), ..draft() }.line(time());
            assert!(line.len() <= LINE_MAX && Event::parse(&line).is_some(), "{size}");
        }
    }

    #[test]
    fn an_event_behind_a_torn_one_is_found() {
        let line = draft().line(time());
        for cut in 0..line.len() - 1 {
            let torn = [&line[..cut], &line[..]].concat();
            assert_eq!(Event::parse(&torn), Event::parse(&line), "{cut}");
        }
        for garbage in [&b"\n"[..], b"", b"{}\n", b"\xff\0{\n", b"{\"time\":\"x\"}\n", &line[9..]] {
            assert_eq!(Event::parse(garbage), None);
        }
        // What a label says is none.
        let labels = BTreeMap::from([("a".to_owned(), text(&line).to_owned())]);
        let event = Event::parse(&Draft { status: Status::Start, labels: Some(&labels), ..draft() }.line(time()));
        assert_eq!(event.unwrap().status, "start");
    }

    #[test]
    fn words_are_told_apart() {
        let mut words: Vec<_> = Status::ALL.iter().map(|status| status.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Status::ALL.len());
    }
}
