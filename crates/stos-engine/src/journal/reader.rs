// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What has happened, and what happens.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use stos_sys::SysError;

use super::event::{Event, LINE_MAX};
use super::writer::{Identity, ensure_directory, identity, identity_at, newest, older};
use crate::Engine;
use crate::error::Result;

/// How long a line may be that is kept in memory while its end has not come, in bytes. It is none of ours then.
const UNFINISHED_MAX: usize = 16 * LINE_MAX;

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest event that is told.
    Oldest,
    /// With what happens from now on.
    Now,
}

/// Who takes what is read.
pub type Take<'a> = &'a mut dyn FnMut(&Event) -> io::Result<()>;

/// Reads the events of a store.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    /// The generation before the one that is read: read first; and from then on kept open, for who was about to write there.
    past: Option<Generation>,
    current: Option<Generation>,
    /// inotify(7), for those who follow.
    notice: Option<OwnedFd>,
    /// The directory that is watched.
    watched: Option<Identity>,
}

/// A file of lines, read up to somewhere.
#[derive(Debug)]
struct Generation {
    file: BufReader<File>,
    identity: Identity,
    /// A line whose end has not come.
    unfinished: Vec<u8>,
}

impl Reader {
    /// Begins to read the events of the engine's store. With `follows` [`Reader::as_fd`] tells when there is something new to read.
    pub fn open(engine: &Engine, start: Start, follows: bool) -> Result<Self> {
        Self::at(engine.journal.directory(), start, follows)
    }

    pub(super) fn at(directory: &Path, start: Start, follows: bool) -> Result<Self> {
        let mut reader =
            Self { directory: directory.to_owned(), past: None, current: None, notice: None, watched: None };
        if follows {
            let failed = |errno| SysError::new("inotify_init1", "", errno);
            reader.notice = Some(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?);
            // Before anything is looked at, so that nothing happens in between.
            reader.watch()?;
        }
        reader.begin(start).map_err(reader.failed("read"))?;
        Ok(reader)
    }

    /// Hands everything that is there and was not handed before to `take`.
    ///
    /// # Errors
    /// What `take` says, as it says it, in the inner result.
    pub fn read(&mut self, take: Take<'_>) -> Result<io::Result<()>> {
        if self.clear_notice()? && identity_at(&self.directory).map_err(self.failed("stat"))? != self.watched {
            self.watch()?;
        }
        let mut taken = Ok(());
        let mut take = |event: &Event| {
            taken = take(event);
            if taken.is_ok() { Ok(()) } else { Err(ErrorKind::Other.into()) }
        };
        let read = self.read_files(&mut take);
        if taken.is_ok() {
            read.map_err(self.failed("read"))?;
        }
        Ok(taken)
    }

    fn begin(&mut self, start: Start) -> io::Result<()> {
        // In this order a generation that is put aside meanwhile is one of the two.
        let current = Generation::open(&newest(&self.directory))?;
        let past = Generation::open(&older(&self.directory))?;
        self.past = past.filter(|past| current.as_ref().is_none_or(|current| current.identity != past.identity));
        self.current = current;
        if start == Start::Now {
            for generation in [&mut self.past, &mut self.current].into_iter().flatten() {
                generation.file.seek(SeekFrom::End(0))?;
            }
        }
        Ok(())
    }

    fn read_files(&mut self, take: Take<'_>) -> io::Result<()> {
        loop {
            // Who has the past one open still may write there, and its next line here: that is not read before the other.
            let end = self.current.as_ref().map(Generation::len).transpose()?;
            if let Some(past) = &mut self.past {
                past.drain(take)?;
            }
            if let Some((current, end)) = self.current.as_mut().zip(end) {
                current.drain_to(end, take)?;
            }
            if !self.advance(take)? {
                return Ok(());
            }
        }
    }

    /// Goes on to the next generation where there is one. What is read by then has been drained, but may have grown since.
    fn advance(&mut self, take: Take<'_>) -> io::Result<bool> {
        let Some(next) = Generation::open(&newest(&self.directory))? else { return Ok(false) };
        let known = self.current.as_ref().map(|current| current.identity);
        if known == Some(next.identity) {
            return Ok(false);
        }
        let between = Generation::open(&older(&self.directory))?;
        let last = self.current.replace(next);
        let was_known = |other: &Generation| {
            [&self.past, &last, &self.current].into_iter().flatten().any(|known| known.identity == other.identity)
        };
        // One that came and was put aside since the last look.
        let between = between.filter(|between| !was_known(between));
        // Of these, each but the last has no name any more: what is written there from now on is written again elsewhere.
        let before = [self.past.take(), last, between].into_iter().flatten();
        for mut generation in before {
            generation.drain(take)?;
            self.past = Some(generation);
        }
        Ok(true)
    }

    fn watch(&mut self) -> Result<()> {
        let Some(notice) = &self.notice else { return Ok(()) };
        ensure_directory(&self.directory).map_err(self.failed("make"))?;
        // Writing to a file of the directory counts whatever that is called by now.
        let changes = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        // That a directory is gone its own watch tells only when nobody has a file of it open.
        let absence = WatchFlags::DELETE | WatchFlags::MOVED_FROM;
        let watches = self.directory.ancestors().zip([changes, absence, absence]);
        for (directory, flags) in watches {
            inotify::add_watch(notice.as_fd(), directory, flags | WatchFlags::ONLYDIR)
                .map_err(SysError::at("inotify_add_watch", || directory.display().to_string()))?;
        }
        self.watched = identity_at(&self.directory).map_err(self.failed("stat"))?;
        Ok(())
    }

    /// Forgets the notices that have come, and tells whether a directory may be gone.
    fn clear_notice(&self) -> Result<bool> {
        let Some(notice) = &self.notice else { return Ok(false) };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut notices = inotify::Reader::new(notice, &mut buffer);
        let gone = ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::IGNORED | ReadFlags::QUEUE_OVERFLOW;
        let mut may_be_gone = false;
        loop {
            match notices.next() {
                Ok(event) => may_be_gone |= event.events().intersects(gone),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(may_be_gone),
                Err(errno) => return Err(SysError::new("read", "inotify", errno).into()),
            }
        }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> stos_store::Error {
        stos_store::Error::io(action, self.directory.clone())
    }
}

impl AsFd for Reader {
    /// Gives what is ready when there is something new to read.
    ///
    /// # Panics
    /// Of a reader that does not follow.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notice.as_ref().expect("it follows").as_fd()
    }
}

impl Generation {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => {
                let identity = identity(&file.metadata()?);
                Ok(Some(Self { file: BufReader::new(file), identity, unfinished: Vec::new() }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.get_ref().metadata()?.len())
    }

    fn drain(&mut self, take: Take<'_>) -> io::Result<()> {
        self.drain_to(u64::MAX, take)
    }

    /// Reads what lies before `end`, in bytes.
    fn drain_to(&mut self, end: u64, take: Take<'_>) -> io::Result<()> {
        let position = self.file.stream_position()?;
        let mut file = (&mut self.file).take(end.saturating_sub(position));
        loop {
            let count = file.read_until(b'\n', &mut self.unfinished)?;
            if count == 0 {
                return Ok(());
            }
            if !self.unfinished.ends_with(b"\n") {
                if self.unfinished.len() > UNFINISHED_MAX {
                    self.unfinished.drain(..self.unfinished.len() - LINE_MAX);
                }
                continue;
            }
            let event = Event::parse(&self.unfinished);
            if event.is_none() {
                tracing::debug!(bytes = self.unfinished.len(), "a line of the journal is no event");
            }
            self.unfinished.clear();
            event.as_ref().map_or(Ok(()), &mut *take)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn line(id: &str, time: &str) -> String {
        format!("{{\"time\":\"{time}\",\"type\":\"image\",\"status\":\"tag\",\"id\":\"{id}\"}}\n")
    }

    fn append(path: &Path, bytes: &[u8]) {
        File::options().append(true).create(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    fn write(dir: &Path, id: &str) {
        append(&newest(dir), line(id, "2026-01-01T00:00:00Z").as_bytes());
    }

    fn put_aside(dir: &Path) {
        std::fs::rename(newest(dir), older(dir)).unwrap();
    }

    fn ids(reader: &mut Reader) -> String {
        let mut ids = Vec::new();
        let mut take = |event: &Event| {
            ids.push(event.id.clone());
            Ok(())
        };
        reader.read(&mut take).unwrap().unwrap();
        ids.join(" ")
    }

    fn has_notice(reader: &Reader) -> bool {
        let patience = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(reader, PollFlags::IN)], Some(&patience)).unwrap() == 1
    }

    #[test]
    fn what_is_no_event_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::at(dir.path(), Start::Oldest, false).unwrap();
        append(&newest(dir.path()), b"\n{}\ngarbage \xff\0\n");
        write(dir.path(), "a");
        // Cut short by a full disk.
        append(&newest(dir.path()), &line("lost", "2026-01-01T00:00:00Z").as_bytes()[..40]);
        write(dir.path(), "b");
        // A clock that has stepped back.
        append(&newest(dir.path()), line("c", "2025-12-31T00:00:00Z").as_bytes());
        // Still being written.
        let last = line("d", "2026-01-01T00:00:00Z");
        append(&newest(dir.path()), &last.as_bytes()[..50]);
        assert_eq!(ids(&mut reader), "a b c");
        append(&newest(dir.path()), &last.as_bytes()[50..]);
        assert_eq!(ids(&mut reader), "d");
        append(&newest(dir.path()), &vec![b'x'; 3 * UNFINISHED_MAX]);
        assert_eq!(ids(&mut reader), "");
        assert!(reader.current.as_ref().unwrap().unfinished.len() <= UNFINISHED_MAX + 1);
        write(dir.path(), "e");
        assert_eq!(ids(&mut reader), "e");
    }

    #[test]
    fn who_begins_now_sees_what_comes() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "old");
        put_aside(dir.path());
        write(dir.path(), "new");
        append(&newest(dir.path()), &line("begun", "2026-01-01T00:00:00Z").as_bytes()[..40]);
        let mut reader = Reader::at(dir.path(), Start::Now, true).unwrap();
        assert!(!has_notice(&reader));
        write(dir.path(), "a");
        assert!(has_notice(&reader));
        assert_eq!(ids(&mut reader), "a");
        assert!(!has_notice(&reader));
        // By one who opened it before it was put aside.
        append(&older(dir.path()), line("late", "2026-01-01T00:00:00Z").as_bytes());
        assert!(has_notice(&reader));
        assert_eq!(ids(&mut reader), "late");
    }

    #[test]
    fn generations_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::at(dir.path(), Start::Oldest, true).unwrap();
        write(dir.path(), "a");
        assert_eq!(ids(&mut reader), "a");
        write(dir.path(), "b");
        put_aside(dir.path());
        assert_eq!(ids(&mut reader), "b", "before there is a new one");
        append(&older(dir.path()), line("late", "2026-01-01T00:00:00Z").as_bytes());
        write(dir.path(), "c");
        assert_eq!(ids(&mut reader), "late c");
        // Two changes since the last look: the one between is `log.1`.
        write(dir.path(), "d");
        put_aside(dir.path());
        write(dir.path(), "e");
        put_aside(dir.path());
        write(dir.path(), "f");
        assert_eq!(ids(&mut reader), "d e f");
        assert_eq!(ids(&mut Reader::at(dir.path(), Start::Oldest, false).unwrap()), "e f");
    }

    #[test]
    fn what_is_removed_comes_again() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("events");
        let mut reader = Reader::at(&dir, Start::Now, true).unwrap();
        write(&dir, "a");
        assert_eq!(ids(&mut reader), "a");
        std::fs::remove_file(newest(&dir)).unwrap();
        write(&dir, "b");
        assert!(has_notice(&reader));
        assert_eq!(ids(&mut reader), "b");
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(has_notice(&reader));
        assert_eq!(ids(&mut reader), "");
        write(&dir, "c");
        assert!(has_notice(&reader), "it is watched again");
        assert_eq!(ids(&mut reader), "c");
    }

    #[test]
    fn who_takes_no_more_is_told_so_himself() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a");
        let mut reader = Reader::at(dir.path(), Start::Oldest, false).unwrap();
        let told = reader.read(&mut |_| Err(ErrorKind::BrokenPipe.into())).unwrap();
        assert_eq!(told.unwrap_err().kind(), ErrorKind::BrokenPipe);
        let mut reader = Reader::at(Path::new("/dev/null"), Start::Oldest, false);
        assert!(matches!(&mut reader, Err(crate::Error::Store(stos_store::Error::Io { .. }))), "{reader:?}");
    }
}
