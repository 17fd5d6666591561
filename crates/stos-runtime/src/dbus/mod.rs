// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A blocking D-Bus client that starts no thread: as much of the protocol as a runtime needs that asks systemd for a unit.
//!
//! | module | what it is |
//! |---|---|
//! | `wire` | messages as bytes |
//! | `address` | where a bus listens |
//!
//! A connection is a Unix socket, authenticated by the kernel's word for our user (SASL EXTERNAL): to the system's bus, or to systemd
//! itself, which speaks the same without a bus. Everything ends by a deadline.

mod address;
mod wire;

use std::collections::VecDeque;
use std::env;
use std::io::{self, Read, Write};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

pub use wire::Value;
pub(crate) use wire::{Message, Method, Writer};

use wire::{FIXED, Kind, message_length};

/// The variable that names the system's bus.
const ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";

/// The bus where nothing else is said (systemd and dbus-daemon have it there; the specification's `/var/run` is a link to it).
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";

/// systemd's own socket, for root alone, which is there before any bus is.
const SYSTEMD: &str = "unix:path=/run/systemd/private";

/// How many signals are kept that come while a reply is waited for.
const MOST_SIGNALS: usize = 1024;

/// Why something could not be had over D-Bus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DBusError {
    /// An address without a Unix socket in it.
    #[error("{ADDRESS}: expected unix:path=… or unix:abstract=…, found {text:?}")]
    Address {
        /// The address.
        text: String,
    },
    /// There is no connection to the bus.
    #[error("connect to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke, or nothing came until the deadline.
    #[error("{call}: {source}")]
    Io {
        /// The failed call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The bus does not take us for who we are.
    #[error("the bus refuses our user: {said:?}")]
    Refused {
        /// Its answer.
        said: String,
    },
    /// What was read breaks the protocol.
    #[error("the peer breaks the D-Bus protocol: {what}")]
    Malformed {
        /// How.
        what: String,
    },
    /// The peer answered with an error.
    #[error("{member}: {name}: {text}")]
    Reply {
        /// The method.
        member: String,
        /// The error's name.
        name: String,
        /// What it says.
        text: String,
    },
}

impl DBusError {
    fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed { what: what.into() }
    }

    fn short() -> Self {
        Self::malformed("a message ends too early")
    }

    fn io(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { call, source }
    }

    /// Whether it is an answer of this name.
    pub(crate) fn is_reply(&self, sought: &str) -> bool {
        matches!(self, Self::Reply { name, .. } if name == sought)
    }
}

type Result<T> = std::result::Result<T, DBusError>;

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    deadline: Instant,
    serial: u32,
    signals: VecDeque<Message>,
    /// Whether a bus stands between: then each message says truly who has sent it.
    is_bus: bool,
}

impl Connection {
    /// Connects to the system's bus: the one that the environment names, or the usual one, or else systemd's own socket. All that is
    /// done over the connection must be done in `patience`.
    pub(crate) fn system(patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        if let Some(text) = env::var_os(ADDRESS).filter(|text| !text.is_empty()) {
            return Self::open(&text.to_string_lossy(), true, deadline);
        }
        match Self::open(SYSTEM_BUS, true, deadline) {
            Err(failed @ DBusError::Connect { .. }) => Self::open(SYSTEMD, false, deadline).map_err(|_| failed),
            other => other,
        }
    }

    fn open(text: &str, is_bus: bool, deadline: Instant) -> Result<Self> {
        let mut failed = DBusError::Address { text: text.to_owned() };
        for address in address::parse(text)? {
            match Self::connect(&address, is_bus, deadline) {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn connect(address: &SocketAddr, is_bus: bool, deadline: Instant) -> Result<Self> {
        let stream = UnixStream::connect_addr(address)
            .map_err(|source| DBusError::Connect { address: format!("{address:?}"), source })?;
        let mut connection = Self { stream, deadline, serial: 0, signals: VecDeque::new(), is_bus };
        connection.authenticate()?;
        if is_bus {
            connection.call(bus("Hello"), Writer::default())?;
        }
        Ok(connection)
    }

    /// "Authentication Protocol": our uid, in decimal digits, in hex; the kernel tells the peer whether it is true.
    fn authenticate(&mut self) -> Result<()> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let said = self.line()?;
        if !said.starts_with("OK ") {
            return Err(DBusError::Refused { said });
        }
        self.send(b"BEGIN\r\n")
    }

    fn line(&mut self) -> Result<String> {
        const LONGEST: usize = 1024;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() >= LONGEST {
                return Err(DBusError::malformed("a line that does not end"));
            }
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
    }

    /// What is left until the deadline: never zero, which would mean for ever.
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.set_write_timeout(Some(self.left())).map_err(DBusError::io("setsockopt"))?;
        self.stream.write_all(bytes).map_err(DBusError::io("write"))
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            if Instant::now() >= self.deadline {
                return Err(DBusError::io("read")(io::ErrorKind::TimedOut.into()));
            }
            self.stream.set_read_timeout(Some(self.left())).map_err(DBusError::io("setsockopt"))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(DBusError::io("read")(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => buffer = &mut buffer[count..],
                // Before the deadline, or at it: the loop tells.
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(DBusError::io("read")(error)),
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Message> {
        loop {
            let mut fixed = [0; FIXED];
            self.fill(&mut fixed)?;
            let mut bytes = fixed.to_vec();
            bytes.resize(message_length(&fixed)?, 0);
            self.fill(&mut bytes[FIXED..])?;
            if let Some(message) = Message::parse(&bytes)? {
                return Ok(message);
            }
        }
    }

    /// Calls a method and gives its reply. Signals that come before are kept.
    pub(crate) fn call(&mut self, method: Method<'_>, values: Writer) -> Result<Message> {
        self.serial += 1;
        let serial = self.serial;
        self.send(&values.into_call(serial, method))?;
        loop {
            let message = self.next()?;
            match message.kind {
                Kind::Return if message.reply_serial == serial => return Ok(message),
                Kind::Error if message.reply_serial == serial => {
                    let (member, text) = (method.member.to_owned(), message.error_text());
                    return Err(DBusError::Reply { member, name: message.error_name, text });
                }
                Kind::Signal if self.signals.len() < MOST_SIGNALS => self.signals.push_back(message),
                // A call of ours that nobody waits for any more, or one to us: we offer nothing.
                _ => {}
            }
        }
    }

    /// Has a bus pass on the signals of `rule`; systemd's own socket has all.
    pub(crate) fn listen(&mut self, rule: &str) -> Result<()> {
        if self.is_bus {
            self.call(bus("AddMatch"), Writer::default().string(rule))?;
        }
        Ok(())
    }

    /// Waits for the signal that `look` takes, of the sender of `reply`: on a bus anybody may send one.
    pub(crate) fn signal<T>(
        &mut self,
        reply: &Message,
        (interface, member): (&str, &str),
        mut look: impl FnMut(&Message) -> Result<Option<T>>,
    ) -> Result<T> {
        loop {
            let message = match self.signals.pop_front() {
                Some(message) => message,
                None => self.next()?,
            };
            let is_sought = message.kind == Kind::Signal && message.interface == interface && message.member == member;
            let is_theirs = !self.is_bus || message.sender == reply.sender;
            if is_sought
                && is_theirs
                && let Some(found) = look(&message)?
            {
                return Ok(found);
            }
        }
    }
}

fn bus(member: &str) -> Method<'_> {
    Method {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member,
    }
}

#[cfg(test)]
mod tests;
