// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lines are appended, and generations follow each other.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, OFlags, flock};
use stos_spec::BlobDigest;

use super::event::Draft;

/// How large a generation grows before the next one begins, in bytes; it may be larger by a line of each writer. podman's `file`
/// logger has the same by default (containers.conf(5), `events_logfile_max_size`).
pub const MAX: u64 = 1_000_000;

/// How often a line is written again that went to a file that nobody can find any more.
const TRIES: u32 = 8;

/// Where the events of a store are told.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    max: u64,
    /// What was opened last, and its identity. Open descriptors keep inode numbers from coming back.
    held: Mutex<Option<(File, Identity)>>,
    has_failed: AtomicBool,
}

/// A file, whatever it is called: device and inode.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(metadata: &std::fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Gives the file that is called so.
pub(super) fn identity_at(path: &Path) -> io::Result<Option<Identity>> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(identity(&metadata))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives the newest generation.
pub(super) fn newest(directory: &Path) -> PathBuf {
    directory.join("log")
}

/// Gives the generation before it.
pub(super) fn older(directory: &Path) -> PathBuf {
    directory.join("log.1")
}

/// Makes the directory, for root alone as ROOT's run states are.
pub(super) fn ensure_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

impl Journal {
    /// The journal in ROOT of the store at `data_root`. Nothing is opened or made yet.
    pub fn new(root: &Path, data_root: &Path) -> Self {
        let store = BlobDigest::of(data_root.as_os_str().as_encoded_bytes()).hex();
        Self::at(root.join("events").join(&store[..16]), MAX)
    }

    pub fn at(directory: PathBuf, max: u64) -> Self {
        Self { directory, max, held: Mutex::new(None), has_failed: AtomicBool::new(false) }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes an event. What keeps it from that is logged, the first time.
    pub fn note(&self, draft: &Draft<'_>) {
        let line = draft.line(Timestamp::now());
        if let Err(error) = self.append(&line)
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(directory = %self.directory.display(), %error, "events cannot be told");
        }
    }

    /// Closes the file until there is something to write again. Who lives on for long would keep a generation on the disk that nobody can
    /// find any more.
    pub fn close(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn append(&self, line: &[u8]) -> io::Result<()> {
        let path = newest(&self.directory);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..TRIES {
            let mut file = match held.take() {
                Some((file, known)) if identity_at(&path)? == Some(known) => file,
                _ => self.open(&path)?,
            };
            write_at_once(&mut file, line)?;
            let after = file.metadata()?;
            if after.nlink() == 0 {
                // It was put aside twice or removed before the line came.
                continue;
            }
            if after.size() > self.max {
                self.put_aside(identity(&after))?;
            }
            *held = Some((file, identity(&after)));
            return Ok(());
        }
        Err(io::Error::new(ErrorKind::NotFound, "the file is removed again and again"))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        match options.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ensure_directory(&self.directory)?;
                options.open(path)
            }
            other => other,
        }
    }

    /// Renames a generation that is full; once, whoever else finds it so. Its lock belongs to a descriptor of our own: the one that lines
    /// are written by may be shared with the process that started us.
    fn put_aside(&self, full: Identity) -> io::Result<()> {
        let path = newest(&self.directory);
        let own = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if identity(&own.metadata()?) != full {
            return Ok(());
        }
        match flock(&own, FlockOperation::NonBlockingLockExclusive) {
            // Who holds it does the same.
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            locked => locked?,
        }
        if identity_at(&path)? == Some(full) {
            std::fs::rename(&path, older(&self.directory))?;
        }
        Ok(())
    }
}

/// Writes a line by one write(2), so that no other comes between. Of a disk that is full a part may be written, which readers pass over.
fn write_at_once(file: &mut File, line: &[u8]) -> io::Result<()> {
    loop {
        match file.write(line) {
            Ok(count) if count == line.len() => return Ok(()),
            Ok(_) => return Err(ErrorKind::StorageFull.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Event, Kind, Status};
    use super::super::reader::{Reader, Start};
    use super::*;

    fn note(journal: &Journal, id: &str) {
        journal.note(&Draft {
            kind: Kind::Image,
            status: Status::Tag,
            id,
            name: "x",
            image: "",
            labels: None,
            exit_code: None,
            oom_killed: false,
            health: ("", 0),
        });
    }

    /// The ids of the events that are new to a reader.
    fn ids(reader: &mut Reader) -> Vec<String> {
        let mut ids = Vec::new();
        let mut take = |event: &Event| {
            ids.push(event.id.clone());
            Ok(())
        };
        reader.read(&mut take).unwrap().unwrap();
        ids
    }

    fn all(directory: &Path) -> Vec<String> {
        ids(&mut Reader::at(directory, Start::Oldest, false).unwrap())
    }

    #[test]
    fn two_generations_stay() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("a/b");
        let journal = Journal::at(directory.clone(), 300);
        assert_eq!(all(&directory), [""; 0]);
        (0..20).for_each(|number| note(&journal, &number.to_string()));
        // Three lines of more than 100 bytes each are too many for one.
        let kept = all(&directory);
        assert!((4..=6).contains(&kept.len()) && kept.last().unwrap() == "19", "{kept:?}");
        assert!(std::fs::read_dir(&directory).unwrap().count() <= 2);
        assert_eq!(std::fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(older(&directory)).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn who_has_an_old_generation_open_writes_to_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (Journal::at(dir.path().to_owned(), 300), Journal::at(dir.path().to_owned(), 300));
        note(&old, "old");
        (0..4).for_each(|number| note(&new, &number.to_string()));
        note(&old, "again");
        assert_eq!(all(dir.path()).last().unwrap(), "again");
        assert!(std::fs::read_to_string(newest(dir.path())).unwrap().contains("again"));
        // Removed, and put aside twice.
        std::fs::remove_file(newest(dir.path())).unwrap();
        note(&old, "here");
        assert!(std::fs::read_to_string(newest(dir.path())).unwrap().contains("here"));
        std::fs::remove_dir_all(dir.path()).unwrap();
        note(&old, "there");
        assert_eq!(all(dir.path()), ["there"]);
    }

    #[test]
    fn who_closes_it_opens_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::at(dir.path().to_owned(), MAX);
        journal.close();
        note(&journal, "a");
        assert!(journal.held.lock().unwrap().is_some(), "it is opened once");
        journal.close();
        assert!(journal.held.lock().unwrap().is_none());
        note(&journal, "b");
        assert_eq!(all(dir.path()), ["a", "b"]);
    }

    #[test]
    fn of_several_who_find_it_full_one_puts_it_aside() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::at(dir.path().to_owned(), 1);
        note(&journal, "first");
        let full = identity_at(&older(dir.path())).unwrap().unwrap();
        note(&journal, "second");
        assert_eq!(all(dir.path()), ["second"], "the one before is gone: two generations stay");
        // Who found the first full is too late.
        std::fs::rename(older(dir.path()), newest(dir.path())).unwrap();
        journal.put_aside(full).unwrap();
        assert_eq!(identity_at(&older(dir.path())).unwrap(), None);
        // And who finds it locked leaves it to the other.
        let second = identity_at(&newest(dir.path())).unwrap().unwrap();
        let other = File::open(newest(dir.path())).unwrap();
        flock(&other, FlockOperation::LockExclusive).unwrap();
        journal.put_aside(second).unwrap();
        assert_eq!(identity_at(&newest(dir.path())).unwrap(), Some(second));
        drop(other);
        // What another test has just forked holds the lock too, until it has become its program.
        for _ in 0..6000 {
            journal.put_aside(second).unwrap();
            if identity_at(&older(dir.path())).unwrap() == Some(second) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("nobody puts it aside");
    }

    #[test]
    fn what_cannot_be_written_fails_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let journal = Journal::at(dir.path().join("file/below"), MAX);
        note(&journal, "x");
        assert!(journal.has_failed.load(Ordering::Relaxed));
        // Nor does a symlink lead it elsewhere.
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("log")).unwrap();
        let journal = Journal::at(dir.path().to_owned(), MAX);
        note(&journal, "x");
        assert!(journal.has_failed.load(Ordering::Relaxed) && !dir.path().join("elsewhere").exists());
    }

    #[test]
    fn a_full_disk_is_no_torn_line_but_an_error() {
        let Ok(mut full) = OpenOptions::new().write(true).open("/dev/full") else { return };
        assert!(write_at_once(&mut full, b"line\n").is_err());
    }

    #[test]
    fn many_writers_lose_nothing_while_generations_change() {
        use std::collections::HashSet;
        use std::sync::atomic::AtomicUsize;

        const WRITERS: usize = 8;
        const LINES: usize = 400;
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::at(dir.path(), Start::Now, true).unwrap();
        let (read, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let written = AtomicUsize::new(0);
        // A line may come twice: of a writer that stands still between its look at the file and its write.
        let (mut seen, mut known) = (Vec::new(), HashSet::new());
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (dir, read, written, failed) = (dir.path(), &read, &written, &failed);
                scope.spawn(move || {
                    let journal = Journal::at(dir.to_owned(), 4_000);
                    for number in 0..LINES {
                        // Never a generation ahead of the reader, who would miss what is put aside twice.
                        while written.load(Ordering::SeqCst) > read.load(Ordering::SeqCst) + 20 {
                            if failed.load(Ordering::SeqCst) {
                                return;
                            }
                            std::thread::yield_now();
                        }
                        written.fetch_add(1, Ordering::SeqCst);
                        note(&journal, &format!("{writer}-{number}"));
                    }
                });
            }
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
            while seen.len() < WRITERS * LINES {
                seen.extend(ids(&mut reader).into_iter().filter(|id| known.insert(id.clone())));
                read.store(seen.len(), Ordering::SeqCst);
                if std::time::Instant::now() > deadline {
                    failed.store(true, Ordering::SeqCst);
                    return;
                }
            }
        });
        for writer in 0..WRITERS {
            let of_it = seen.iter().filter(|id| id.starts_with(&format!("{writer}-")));
            let expected: Vec<_> = (0..LINES).map(|number| format!("{writer}-{number}")).collect();
            assert!(of_it.eq(&expected), "each writer's lines come in their order");
        }
    }
}
