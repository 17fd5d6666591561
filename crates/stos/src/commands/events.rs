// SPDX-License-Identifier: Apache-2.0 OR MIT
//! events: what happens to containers from images and to images; or, of one container of either mode, runc's lines.

use std::io::{self, ErrorKind, Write};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use serde::Serialize;
use serde_json::{Value, json};
use stos_engine::journal::event::Kind;
use stos_engine::journal::{Event, Filters, Reader, Start};
use stos_runtime::events;
use stos_spec::text::escape;
use stos_sys::SysError;

use crate::cli::{Events, Global};
use crate::failure::Failure;
use crate::table;
use crate::target::{self, run_state};
use crate::template::{Context, Template};

/// Tells what happens.
pub fn events(global: &Global, args: &Events) -> Result<u8, Failure> {
    match &args.container {
        Some(container) => watch_one(global, args, container),
        None if global.bundle_mode => Err(Failure::message("events: expected a container", 1)),
        None => watch_all(global, args),
    }
}

/// Tells what a container uses, and when it runs out of memory, a JSON object a line.
fn watch_one(global: &Global, args: &Events, container: &str) -> Result<u8, Failure> {
    let (states, id) = run_state(global, container, "watch")?;
    if args.stats {
        table::print_line(serde_json::to_string(&events::stats(&states, &id)?)?)?;
        return Ok(0);
    }
    events::watch(&states, &id, args.interval, |event| {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let mut out = io::stdout().lock();
        match out.write_all(&line).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            // Who reads us has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error),
        }
    })?;
    Ok(0)
}

/// How an event looks.
enum View {
    /// podman's line for people.
    Line { whole_ids: bool },
    /// podman's JSON object.
    Json,
    /// What a template makes of it.
    Template(Template),
}

fn watch_all(global: &Global, args: &Events) -> Result<u8, Failure> {
    let view = match args.format.as_deref() {
        None => View::Line { whole_ids: args.no_trunc },
        Some("json") => View::Json,
        Some(text) => View::Template(Template::parse(text)?),
    };
    for word in args.filters.iter().filter_map(|filter| filter.unknown_word()) {
        tracing::warn!(word, "no event of stos has this word: the filter fits none");
    }
    let filters = Filters { filters: args.filters.clone(), since: args.since, until: args.until };
    let begins_now = args.stream && args.since.is_none() && args.until.is_none();
    let start = if begins_now { Start::Now } else { Start::Oldest };
    let mut reader = Reader::open(&target::reader(global)?, start, args.stream)?;
    let timer = args.until.filter(|_| args.stream).map(timer).transpose()?;
    loop {
        // Asked before what is there is read, so that what happened until then is told.
        let is_last = !args.stream || args.until.is_some_and(|until| until <= Timestamp::now());
        match print(&mut reader, &filters, &view)? {
            // Who reads us has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(0),
            printed => printed?,
        }
        if is_last || !wait(&reader, timer.as_ref())? {
            return Ok(0);
        }
    }
}

/// Prints what is new and fits.
fn print(reader: &mut Reader, filters: &Filters, view: &View) -> Result<io::Result<()>, Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut failed = None;
    let read = reader.read(&mut |event| {
        if !filters.fit(event) {
            return Ok(());
        }
        match view.show(event) {
            Ok(line) => writeln!(out, "{line}"),
            Err(failure) => {
                failed = Some(failure);
                Err(ErrorKind::Other.into())
            }
        }
    })?;
    match failed {
        Some(failure) => Err(failure),
        None => Ok(read.and_then(|()| out.flush())),
    }
}

/// A clock that is ready at a time of day, also where somebody sets the machine's clock.
fn timer(at: Timestamp) -> Result<rustix::fd::OwnedFd, Failure> {
    let failed = |errno| SysError::new("timerfd_create", "CLOCK_REALTIME", errno);
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC).map_err(failed)?;
    // Zero would be never; what is past is told at once by the time of day.
    let seconds = at.as_second().max(0);
    let value = Timespec { tv_sec: seconds, tv_nsec: at.subsec_nanosecond().max(1).into() };
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let when = Itimerspec { it_interval: never, it_value: value };
    let failed = |errno| SysError::new("timerfd_settime", at.to_string(), errno);
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &when).map_err(failed)?;
    Ok(timer)
}

/// Waits until something has happened or it is time to end; tells whether somebody still reads us.
fn wait(reader: &Reader, timer: Option<&rustix::fd::OwnedFd>) -> Result<bool, Failure> {
    let mut fds =
        vec![PollFd::from_borrowed_fd(rustix::stdio::stdout(), PollFlags::empty()), PollFd::new(reader, PollFlags::IN)];
    fds.extend(timer.map(|timer| PollFd::new(timer, PollFlags::IN)));
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(fds[0].revents().is_empty()),
        Err(errno) => Err(errno.into()),
    }
}

/// An event as podman's `--format json` has it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct JsonEvent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    container_exit_code: Option<i32>,
    /// podman has none: it tells that elsewhere.
    #[serde(rename = "OOMKilled", skip_serializing_if = "std::ops::Not::not")]
    oom_killed: bool,
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    image: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    status: &'a str,
    /// Seconds since 1970.
    #[serde(rename = "time")]
    time: i64,
    /// Nanoseconds since 1970.
    #[serde(rename = "timeNano")]
    time_nano: i128,
    r#type: &'a str,
    #[serde(rename = "health_status", skip_serializing_if = "str::is_empty")]
    health_status: &'a str,
    /// A container's labels; of an image `null`.
    attributes: Value,
}

impl View {
    fn show(&self, event: &Event) -> Result<String, Failure> {
        Ok(match self {
            Self::Line { whole_ids } => line(event, *whole_ids),
            Self::Json => serde_json::to_string(&json_event(event))?,
            Self::Template(template) => template.render(&context(event))?,
        })
    }
}

fn attributes(event: &Event) -> Value {
    if event.kind == Kind::Container.word() { json!(event.labels) } else { Value::Null }
}

fn json_event(event: &Event) -> JsonEvent<'_> {
    JsonEvent {
        container_exit_code: event.exit_code,
        oom_killed: event.oom_killed,
        id: &event.id,
        image: &event.image,
        name: &event.name,
        status: &event.status,
        time: event.time.as_second(),
        time_nano: event.time.as_nanosecond(),
        r#type: &event.kind,
        health_status: &event.health,
        attributes: attributes(event),
    }
}

/// The same for templates, which may use what an event has not.
fn context(event: &Event) -> Context {
    let document = json!({
        "ContainerExitCode": event.exit_code, "HealthStatus": event.health, "OOMKilled": event.oom_killed, "ID": event.id, "Image": event.image,
        "Name": event.name, "Status": event.status, "Time": event.time.as_second(),
        "TimeNano": i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX), "Type": event.kind,
        "Attributes": event.labels,
    });
    Context { document, shown: Value::Null }
}

/// `TIME TYPE STATUS ID (image=…, name=…, LABEL=…)` of a container, `TIME TYPE STATUS ID NAME` of an image.
fn line(event: &Event, whole_ids: bool) -> String {
    let time = event.time.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC");
    let id = if whole_ids { &event.id } else { event.id.get(..12).unwrap_or(&event.id) };
    let Event { kind, status, name, image, .. } = event;
    let text = match kind == Kind::Container.word() {
        true => {
            let labels: String = event.labels.iter().map(|(key, value)| format!(", {key}={value}")).collect();
            let health = Some(&event.health).filter(|health| !health.is_empty());
            let health = health.map_or_else(String::new, |health| {
                format!(", health_status={health}, health_failing_streak={}", event.failing_streak)
            });
            format!("{time} {kind} {status} {id} (image={image}, name={name}{health}{labels})")
        }
        false => format!("{time} {kind} {status} {id} {name}"),
    };
    // Some of it is an image's own words.
    escape(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event {
        Event::parse(text.as_bytes()).unwrap()
    }

    fn of_container() -> Event {
        event(
            r#"{"time":"2026-01-31T12:00:00.120Z","type":"container","status":"died","id":"0123456789abcdef","name":"web","image":"x:1","labels":{"a":"b\n","c":"d"},"exit_code":137,"oom_killed":true}"#,
        )
    }

    fn of_image() -> Event {
        event(r#"{"time":"2026-01-31T12:00:00Z","type":"image","status":"pull","id":"0123","name":"x:1"}"#)
    }

    #[test]
    fn lines_are_podman_s() {
        let whole = View::Line { whole_ids: true };
        assert_eq!(
            whole.show(&of_container()).unwrap(),
            "2026-01-31 12:00:00.12 +0000 UTC container died 0123456789abcdef (image=x:1, name=web, a=b\\n, c=d)"
        );
        assert_eq!(whole.show(&of_image()).unwrap(), "2026-01-31 12:00:00 +0000 UTC image pull 0123 x:1");
        let health = event(
            r#"{"time":"2026-01-31T12:00:00Z","type":"container","status":"health_status","id":"01","name":"web","image":"x:1","labels":{"a":"b"},"health":"unhealthy","failing_streak":2}"#,
        );
        let line = whole.show(&health).unwrap();
        assert!(
            line.ends_with(
                "health_status 01 (image=x:1, name=web, health_status=unhealthy, health_failing_streak=2, a=b)"
            ),
            "{line}"
        );
        assert!(
            View::Json
                .show(&health)
                .unwrap()
                .contains("\"Type\":\"container\",\"health_status\":\"unhealthy\",\"Attributes\"")
        );
        let short = View::Line { whole_ids: false };
        assert!(short.show(&of_container()).unwrap().contains(" died 0123456789ab (image"));
        assert!(short.show(&of_image()).unwrap().contains(" pull 0123 "));
    }

    #[test]
    fn json_is_podman_s() {
        assert_eq!(
            View::Json.show(&of_container()).unwrap(),
            "{\"ContainerExitCode\":137,\"OOMKilled\":true,\"ID\":\"0123456789abcdef\",\"Image\":\"x:1\",\"Name\":\"web\",\
             \"Status\":\"died\",\"time\":1769860800,\"timeNano\":1769860800120000000,\"Type\":\"container\",\
             \"Attributes\":{\"a\":\"b\\n\",\"c\":\"d\"}}"
        );
        assert_eq!(
            View::Json.show(&of_image()).unwrap(),
            "{\"ID\":\"0123\",\"Name\":\"x:1\",\"Status\":\"pull\",\"time\":1769860800,\"timeNano\":1769860800000000000,\
             \"Type\":\"image\",\"Attributes\":null}"
        );
    }

    #[test]
    fn templates_have_every_field() {
        let show = |text: &str, event: &Event| View::Template(Template::parse(text).unwrap()).show(event);
        let all = "{{.Time}} {{.TimeNano}} {{.Type}} {{.Status}} {{.ID}} {{.Name}} {{.Image}} {{.ContainerExitCode}} {{.OOMKilled}} {{.Attributes.c}}";
        assert_eq!(
            show(all, &of_container()).unwrap(),
            "1769860800 1769860800120000000 container died 0123456789abcdef web x:1 137 true d"
        );
        assert_eq!(
            show(all, &of_image()).unwrap(),
            "1769860800 1769860800000000000 image pull 0123 x:1  <no value> false <no value>"
        );
        assert!(show("{{.Nothing}}", &of_image()).unwrap_err().to_string().contains("no field .Nothing"));
    }
}
