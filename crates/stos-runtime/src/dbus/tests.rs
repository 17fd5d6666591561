// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The client against a peer that speaks from a script, and against dbus-daemon.

use std::io::BufReader;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use stos_testkit::guard::Need;
use stos_testkit::require;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

const METHOD: Method<'_> = Method { destination: "a.b", path: "/c", interface: "d.e", member: "F" };

/// A message in the other byte order, as a peer may have it: its kind, header fields that are text or a number, and text.
fn big_endian(kind: u8, fields: &[(u8, &str, &str)], reply_serial: u32, body: &[&str]) -> Vec<u8> {
    let align = |bytes: &mut Vec<u8>, to: usize| bytes.resize(bytes.len().next_multiple_of(to), 0);
    let text = |bytes: &mut Vec<u8>, text: &str| {
        align(bytes, 4);
        bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend(text.as_bytes());
        bytes.push(0);
    };
    let mut head = vec![5, 1, b'u', 0];
    head.extend(reply_serial.to_be_bytes());
    for (code, kind, value) in fields {
        align(&mut head, 8);
        head.extend([*code, 1, kind.as_bytes()[0], 0]);
        match *kind {
            "g" => {
                head.push(u8::try_from(value.len()).unwrap());
                head.extend(value.bytes().chain([0]));
            }
            _ => text(&mut head, value),
        }
    }
    let mut values = Vec::new();
    body.iter().for_each(|value| text(&mut values, value));
    let mut message = vec![b'B', kind, 0, 1];
    message.extend(u32::try_from(values.len()).unwrap().to_be_bytes());
    message.extend(9_u32.to_be_bytes());
    message.extend(u32::try_from(head.len()).unwrap().to_be_bytes());
    message.extend(head);
    align(&mut message, 8);
    message.extend(values);
    message
}

/// A peer that takes one connection: it answers the authentication with `said`, then each message that it gets with the next of
/// `answers`.
fn peer(path: &Path, said: &'static str, answers: Vec<Vec<u8>>) -> thread::JoinHandle<Vec<Vec<u8>>> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let line = |reader: &mut BufReader<UnixStream>| {
            let mut line = String::new();
            io::BufRead::read_line(reader, &mut line).unwrap();
            line
        };
        assert_eq!(line(&mut reader), "\0AUTH EXTERNAL 30\r\n");
        (&stream).write_all(said.as_bytes()).unwrap();
        if !said.starts_with("OK") {
            return Vec::new();
        }
        assert_eq!(line(&mut reader), "BEGIN\r\n");
        let mut got = Vec::new();
        for answer in answers {
            let mut fixed = [0; FIXED];
            reader.read_exact(&mut fixed).unwrap();
            let mut message = fixed.to_vec();
            message.resize(message_length(&fixed).unwrap(), 0);
            reader.read_exact(&mut message[FIXED..]).unwrap();
            got.push(message);
            (&stream).write_all(&answer).unwrap();
        }
        got
    })
}

fn connect(path: &Path, is_bus: bool) -> Result<Connection> {
    Connection::open(&format!("unix:path={}", path.display()), is_bus, Instant::now() + PATIENCE)
}

fn signal(sender: &str, said: &str) -> Vec<u8> {
    big_endian(4, &[(1, "o", "/o"), (2, "s", "i.j"), (3, "s", "Said"), (7, "s", sender), (8, "g", "s")], 0, &[said])
}

#[test]
fn a_reply_and_the_signal_before_it_are_told_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let reply = |serial, text| big_endian(2, &[(7, "s", ":1.5"), (8, "g", "s")], serial, &[text]);
    // The signal comes before the reply, as systemd may have it, and an impostor's before that.
    let answers =
        [signal(":1.66", "forged"), signal(":1.5", "true"), reply(77, "another's"), reply(2, "ours")].concat();
    let server = peer(&path, "OK 0123\r\n", vec![reply(1, ":1.7"), answers]);
    let mut connection = connect(&path, true).unwrap();
    let found = connection.call(METHOD, Writer::default().string("x")).unwrap();
    assert_eq!(found.values("s").unwrap().text().unwrap(), "ours");
    let heard = connection.signal(&found, ("i.j", "Said"), |it| Ok(Some(it.values("s")?.text()?))).unwrap();
    assert_eq!(heard, "true");
    let got = server.join().unwrap();
    let members: Vec<_> = got.iter().map(|bytes| Message::parse(bytes).unwrap().unwrap().member).collect();
    assert_eq!(members, ["Hello", "F"]);
}

#[test]
fn refusals_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none");
    assert!(matches!(connect(&path, true), Err(DBusError::Connect { .. })));
    let path = dir.path().join("stranger");
    let server = peer(&path, "REJECTED EXTERNAL\r\n", Vec::new());
    assert!(matches!(connect(&path, true), Err(DBusError::Refused { said }) if said.starts_with("REJECTED")));
    server.join().unwrap();
    let path = dir.path().join("error");
    let error = big_endian(3, &[(4, "s", "x.No"), (8, "g", "s")], 1, &["not so"]);
    let server = peer(&path, "OK 0\r\n", vec![error, vec![b'x'; FIXED]]);
    let mut connection = connect(&path, false).unwrap();
    let refused = connection.call(METHOD, Writer::default()).unwrap_err();
    assert!(refused.is_reply("x.No") && refused.to_string() == "F: x.No: not so", "{refused}");
    assert!(matches!(connection.call(METHOD, Writer::default()), Err(DBusError::Malformed { .. })));
    server.join().unwrap();
    assert!(matches!(connection.call(METHOD, Writer::default()), Err(DBusError::Io { .. })));
}

#[test]
fn nothing_is_waited_for_beyond_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("silent");
    let _listener = UnixListener::bind(&path).unwrap();
    let address = format!("unix:path={}", path.display());
    let late = Connection::open(&address, true, Instant::now() + Duration::from_millis(20)).unwrap_err();
    assert!(
        matches!(&late, DBusError::Io { call: "read", source } if source.kind() == io::ErrorKind::TimedOut),
        "{late}"
    );
}

/// A dbus-daemon, ended with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It is ours, and nothing of it is to stay.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_real_bus_is_understood() {
    require!(Need::Tool("dbus-daemon"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let started = Command::new("dbus-daemon")
        .args(["--session", "--nofork", "--nopidfile", "--print-address"])
        .arg(format!("--address=unix:path={}", path.display()))
        .stdout(Stdio::piped())
        .spawn();
    let mut daemon = Daemon(started.unwrap());
    let mut line = String::new();
    io::BufRead::read_line(&mut BufReader::new(daemon.0.stdout.take().unwrap()), &mut line).unwrap();
    let mut connection = connect(&path, true).unwrap();
    connection.listen("type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged'").unwrap();
    let owner = connection.call(bus("GetNameOwner"), Writer::default().string("org.freedesktop.DBus")).unwrap();
    assert_eq!(owner.values("s").unwrap().text().unwrap(), "org.freedesktop.DBus");
    // Another who comes is told of by a signal.
    let _other = connect(&path, true).unwrap();
    let look = |it: &Message| Ok(Some(it.values("sss")?.text()?));
    let name = connection.signal(&owner, ("org.freedesktop.DBus", "NameOwnerChanged"), look).unwrap();
    assert!(name.starts_with(":1."), "{name}");
    let strange = connection.call(METHOD, Writer::default()).unwrap_err();
    assert!(strange.is_reply("org.freedesktop.DBus.Error.ServiceUnknown"), "{strange}");
    let refused = connection.call(bus("AddMatch"), Writer::default().string("what='x'")).unwrap_err();
    assert!(refused.is_reply("org.freedesktop.DBus.Error.MatchRuleInvalid"), "{refused}");
    // Properties go through a bus that checks each message.
    let properties = [("A".to_owned(), Value::Texts(vec!["x".into()])), ("B".into(), Value::Set(vec![1, 2, 3]))];
    let values = Writer::default().string("u").boolean(true).properties(&properties).no_units();
    let strange = connection.call(METHOD, values).unwrap_err();
    assert!(strange.is_reply("org.freedesktop.DBus.Error.ServiceUnknown"), "{strange}");
}
