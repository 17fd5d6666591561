// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What happens to containers and images, told in a file that `stos events` reads: podman's events (podman-events(1)).
//!
//! ```text
//! ROOT/events/<store>/log      JSON lines, the newest at the end
//! ROOT/events/<store>/log.1    the generation before it
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `event` | an event, and its line |
//! | `writer` | lines are appended, and generations follow each other |
//! | [`reader`] | what has happened, and what happens |
//! | [`filter`] | which events are shown |
//!
//! **Where.** In ROOT, which a reboot may lose, as podman's `file` logger has it in its `tmpdir` (`/run/libpod/events/events.log` of
//! podman 5.8): events tell what goes on, not what is. What lasts of a container, how it ended above all, is in its own directory. So
//! nothing is synced. Data-roots may share a ROOT; `<store>` tells them apart: 16 digits of the SHA-256 of DATA-ROOT's path.
//!
//! **Writers take no lock.** A line is one write(2) to a file opened with `O_APPEND`, which Linux does not mix with others' (it holds the
//! inode's lock), and it is no longer than [`LINE_MAX`](event::LINE_MAX). A process opens the file once, or
//! again where it has waited for long. Before each line it looks whether that is still what is called `log`, and after it whether it is
//! still called anything: what went to a file that was removed, or put aside twice meanwhile, is written again. So a line may come twice,
//! which takes a writer that stands still for a whole generation; none is lost.
//!
//! **Generations.** Whoever finds the file larger than [`MAX`](writer::MAX) renames it to `log.1`, in place of an older one; the next
//! writer makes a new one. flock(2) on the file that is renamed, by a descriptor of one's own, lets one process do so, once. At
//! most about twice [`MAX`](writer::MAX) stays.
//!
//! **Readers** take no lock either. What does not parse they pass over: the rest of a line that a full disk cut short, and what somebody
//! else wrote there; an event behind such a rest, on the same line, is found. Nothing is concluded from the order of times, for the clock
//! may step back. Who follows keeps the file that was put aside open, for a writer may have been about to write there, and loses only
//! what is put aside twice while nobody reads its output.
//!
//! **When.** An event is written when what it tells has been done, by who did it; a command that fails or changes nothing writes none. So
//! `stop` comes after `died`, and `restart` after `start`, as docker has it. The monitor writes `start`, `attach` of who started the
//! container, `died`, `cleanup` and, of a container that goes with its process, `remove`. Where the monitor was killed nobody saw the end: who
//! clears away what it left (start, stop, rm, a sweep) writes a `died` without an exit code. That nothing can be written keeps no command
//! from its work: it is logged, once.

pub mod event;
pub mod filter;
pub mod reader;
pub(crate) mod writer;

use std::borrow::Cow;

use stos_spec::BlobDigest;

use self::event::{Draft, Kind};
pub use self::event::{Event, Status};
pub use self::filter::Filters;
pub use self::reader::{Reader, Start};
use crate::Engine;
use crate::container::{ContainerRecord, record};

/// How a process ended, as far as that is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct End {
    /// Its exit code, or 128 + the signal that ended it.
    pub exit_code: Option<i32>,
    /// Whether the kernel ended a process of the container for want of memory.
    pub oom_killed: bool,
}

impl Engine {
    /// Notes what happened to a container. `record` says what it is called.
    pub fn note(&self, status: Status, record: &ContainerRecord) {
        self.note_end(status, record, End::default());
    }

    /// The same with how a process of it ended.
    pub fn note_end(&self, status: Status, record: &ContainerRecord, end: End) {
        let End { exit_code, oom_killed } = end;
        self.journal.note(&Draft { exit_code, oom_killed, ..Draft::of_container(status, record) });
    }

    /// Notes how a container is after a check of its health.
    pub(crate) fn note_health(&self, record: &ContainerRecord, health: (&str, u32)) {
        self.journal.note(&Draft { health, ..Draft::of_container(Status::HealthStatus, record) });
    }

    /// Notes what happened to an image. `name` is the name that it happened by or to, or where it was saved to or loaded from.
    pub fn note_image(&self, status: Status, id: BlobDigest, name: &str) {
        self.journal.note(&Draft {
            kind: Kind::Image,
            status,
            id: &id.hex(),
            name,
            image: "",
            labels: None,
            exit_code: None,
            oom_killed: false,
            health: ("", 0),
        });
    }

    /// Closes the file of events. To be called by who is going to wait for long: a descriptor would keep a generation that nobody
    /// can find any more.
    pub fn close_journal(&self) {
        self.journal.close();
    }

    /// Gives a record that was read a while ago as it is now: the container may have another name. Costs a readlink(2) where it has not.
    pub fn renamed<'a>(&self, old: &'a ContainerRecord) -> Cow<'a, ContainerRecord> {
        match self.store.container_named(old.name.as_str()) {
            Ok(Some(id)) if id == old.id => Cow::Borrowed(old),
            _ => record(self, &old.id).ok().flatten().map_or(Cow::Borrowed(old), Cow::Owned),
        }
    }
}
