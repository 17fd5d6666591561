// SPDX-License-Identifier: Apache-2.0 OR MIT
//! systemd, asked over D-Bus for a container's scope: org.freedesktop.systemd1(5).

use std::path::Path;
use std::time::Duration;

use super::systemd::Unit;
use crate::dbus::{Connection, DBusError, Message, Method, Value, Writer};
use crate::error::{Error, Result};

/// There as long as systemd runs the machine (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// How long systemd may take for what it is asked; runc's too.
const PATIENCE: Duration = Duration::from_secs(30);

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

const JOBS: &str = "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// Refuses where systemd does not run the machine.
pub(crate) fn check_booted() -> Result<()> {
    let is_there = std::fs::symlink_metadata(Path::new(BOOTED)).is_ok_and(|found| found.is_dir());
    if is_there { Ok(()) } else { Err(Error::NoSystemd { path: BOOTED.into() }) }
}

/// A connection to systemd.
#[derive(Debug)]
pub(crate) struct Manager {
    bus: Connection,
    version: u32,
}

fn failed(doing: &'static str, unit: &str) -> impl FnOnce(DBusError) -> Error {
    move |source| Error::Systemd { doing, unit: unit.to_owned(), source }
}

impl Manager {
    /// Connects. `unit` is what it is for.
    pub(crate) fn connect(unit: &str) -> Result<Self> {
        check_booted()?;
        Self::connect_bus().map_err(failed("reach systemd", unit))
    }

    fn connect_bus() -> std::result::Result<Self, DBusError> {
        let mut bus = Connection::system(PATIENCE)?;
        let get = Method { interface: "org.freedesktop.DBus.Properties", ..manager("Get") };
        let reply = bus.call(get, Writer::default().string(MANAGER).string("Version"))?;
        let version = version(&reply.values("v")?.text_variant()?);
        Ok(Self { bus, version })
    }

    /// systemd's version; 0 where it is none.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// Has a scope made, and waits until it is. One of the name that has failed before is taken away.
    pub(crate) fn start(&mut self, unit: &Unit, properties: &[(&'static str, Value)]) -> Result<()> {
        self.start_once(unit, properties)
            .or_else(|error| {
                if !error.is_reply("org.freedesktop.systemd1.UnitExists") {
                    return Err(error);
                }
                // Where it does not go the second answer says so.
                drop(self.reset(&unit.name));
                self.start_once(unit, properties)
            })
            .map_err(failed("start", &unit.name))
            .and_then(|outcome| match outcome.as_str() {
                "done" => Ok(()),
                _ => Err(Error::SystemdJob { unit: unit.name.clone(), outcome }),
            })
    }

    fn start_once(
        &mut self,
        unit: &Unit,
        properties: &[(&'static str, Value)],
    ) -> std::result::Result<String, DBusError> {
        let values = Writer::default().string(&unit.name).string("replace").properties(&owned(properties)).no_units();
        self.job("StartTransientUnit", values)
    }

    /// Changes properties of a unit, until the next boot.
    pub(crate) fn set(&mut self, unit: &str, properties: &[(&'static str, Value)]) -> Result<()> {
        let values = Writer::default().string(unit).boolean(true).properties(&owned(properties));
        self.bus.call(manager("SetUnitProperties"), values).map(drop).map_err(failed("change", unit))
    }

    /// Stops a unit, and waits until it is gone; one that is gone already is no error.
    pub(crate) fn stop(&mut self, unit: &str) -> Result<()> {
        let gone = "org.freedesktop.systemd1.NoSuchUnit";
        match self.job("StopUnit", Writer::default().string(unit).string("replace")) {
            Ok(_) => {}
            Err(error) if error.is_reply(gone) => return Ok(()),
            Err(error) => return Err(failed("stop", unit)(error)),
        }
        // Only one that has failed is left, and most have not.
        match self.reset(unit) {
            Err(error) if !error.is_reply(gone) => Err(failed("reset", unit)(error)),
            _ => Ok(()),
        }
    }

    fn reset(&mut self, unit: &str) -> std::result::Result<(), DBusError> {
        self.bus.call(manager("ResetFailedUnit"), Writer::default().string(unit)).map(drop)
    }

    /// Calls a method that queues a job, and waits for the job's end: gives how it ended.
    fn job(&mut self, member: &str, values: Writer) -> std::result::Result<String, DBusError> {
        self.bus.listen(JOBS)?;
        let reply = self.bus.call(manager(member), values)?;
        let job = reply.values("o")?.text()?;
        let look = |signal: &Message| {
            let mut values = signal.values("uoss")?;
            let (_, removed, _, outcome) = (values.u32()?, values.text()?, values.text()?, values.text()?);
            Ok((removed == job).then_some(outcome))
        };
        self.bus.signal(&reply, (MANAGER, "JobRemoved"), look)
    }
}

fn manager(member: &str) -> Method<'_> {
    Method { destination: SERVICE, path: OBJECT, interface: MANAGER, member }
}

fn owned(properties: &[(&'static str, Value)]) -> Vec<(String, Value)> {
    properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// The number of `v252.38-1` and `252`.
fn version(text: &str) -> u32 {
    let digits = text.trim_start_matches('v');
    let end = digits.find(|it: char| !it.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        for (text, expected) in [("252.38-1~deb12u1", 252), ("v245.4-1.fc32", 245), ("249", 249), ("", 0), ("v", 0)] {
            assert_eq!(version(text), expected, "{text}");
        }
    }
}
