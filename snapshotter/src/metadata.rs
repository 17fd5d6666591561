// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The snapshots, in memory and on disk.
//!
//! The disk is what counts: `DATA-ROOT/snapshots` is read once, at the start, and each change is on it before it is seen here. One
//! process holds the directory locked, so nobody else changes it. Changes come one after the other; who only looks waits for none.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use stos_store::files::{self, Durability};
use stos_store::{Lock, SnapshotKind, SnapshotRecord, Staging, Store};

use crate::error::{Error, Result};

/// How long to wait for a snapshotter that is about to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The number of its directory.
    pub number: u64,
    /// What is written down of it.
    pub record: Arc<SnapshotRecord>,
}

/// All snapshots of a store.
#[derive(Debug)]
pub struct Metadata {
    store: Store,
    state: RwLock<State>,
    /// Held by who changes something.
    writer: Mutex<()>,
    /// Keeps other snapshotters from the store.
    _held: Lock,
}

#[derive(Debug, Default)]
struct State {
    by_name: BTreeMap<String, Snapshot>,
    /// How many snapshots stand on one, by its name.
    children: HashMap<String, usize>,
    last_number: u64,
}

impl State {
    fn put(&mut self, snapshot: Snapshot) {
        self.last_number = self.last_number.max(snapshot.number);
        if let Some(parent) = &snapshot.record.parent {
            *self.children.entry(parent.clone()).or_default() += 1;
        }
        self.by_name.insert(snapshot.record.name.clone(), snapshot);
    }

    fn take(&mut self, name: &str) {
        let Some(parent) = self.by_name.remove(name).and_then(|taken| taken.record.parent.clone()) else { return };
        if let Some(count) = self.children.get_mut(&parent) {
            *count -= 1;
            if *count == 0 {
                self.children.remove(&parent);
            }
        }
    }

    fn get(&self, name: &str) -> Result<&Snapshot> {
        self.by_name.get(name).ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    fn check_is_new(&self, name: &str, parent: Option<&str>) -> Result<()> {
        if self.by_name.contains_key(name) {
            return Err(Error::AlreadyExists(name.to_owned()));
        }
        let Some(parent) = parent else { return Ok(()) };
        match self.get(parent)?.record.kind {
            SnapshotKind::Committed => Ok(()),
            _ => Err(Error::invalid("parent", format!("snapshot {parent} is not committed"))),
        }
    }
}

impl Metadata {
    /// Takes the store for this process, and reads its snapshots. A record that cannot be read is told in the log and kept.
    ///
    /// # Errors
    /// [`Error::Served`] where another process has the store.
    pub fn open(store: &Store) -> Result<Self> {
        Self::open_within(store, PATIENCE)
    }

    /// The same for who waits that long for a snapshotter that is about to end.
    ///
    /// # Errors
    /// [`Error::Served`].
    pub fn open_within(store: &Store, patience: Duration) -> Result<Self> {
        let dir = store.ensure_snapshots_dir()?;
        let held = hold(&dir, patience)?;
        let mut state = State::default();
        for (number, record) in store.snapshots()? {
            match record {
                Ok(record) => state.put(Snapshot { number, record: Arc::new(record) }),
                Err(source) => {
                    state.last_number = state.last_number.max(number);
                    tracing::error!(error = %Error::Damaged { number, source }, "a snapshot is damaged: it stays where it is");
                }
            }
        }
        Ok(Self { store: store.clone(), state: RwLock::new(state), writer: Mutex::default(), _held: held })
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, name: &str) -> Result<Snapshot> {
        self.read(|state| state.get(name).cloned())
    }

    /// The same after what is being changed now: until then a snapshot that goes is still here, and its files are not.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get_settled(&self, name: &str) -> Result<Snapshot> {
        let _writer = self.writer();
        self.get(name)
    }

    /// Gives all snapshots, sorted by name.
    pub fn all(&self) -> Vec<Snapshot> {
        self.read(|state| state.by_name.values().cloned().collect())
    }

    /// Gives a snapshot and what it stands on, itself first.
    ///
    /// # Errors
    /// [`Error::NotFound`] of it; [`Error::Precondition`] where something below it is missing or stands on itself.
    pub fn with_ancestors(&self, name: &str) -> Result<Vec<Snapshot>> {
        self.read(|state| {
            let mut found = vec![state.get(name)?.clone()];
            while let Some(parent) = found.last().and_then(|last| last.record.parent.clone()) {
                let lower = state.by_name.get(&parent);
                let lower =
                    lower.ok_or_else(|| Error::precondition(name, format!("its parent {parent} is missing")))?;
                if found.len() > state.by_name.len() {
                    return Err(Error::precondition(name, "its parents form a circle"));
                }
                found.push(lower.clone());
            }
            Ok(found)
        })
    }

    /// Refuses a new snapshot whose name is taken, or whose parent cannot be one.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::NotFound`] of the parent, [`Error::Invalid`] of one that is not committed.
    pub fn check_is_new(&self, name: &str, parent: Option<&str>) -> Result<()> {
        self.read(|state| state.check_is_new(name, parent))
    }

    /// Makes a snapshot exist, durably, with the directory that was staged for it.
    ///
    /// # Errors
    /// Those of [`check_is_new`](Self::check_is_new): then what was staged goes.
    pub fn insert(&self, record: SnapshotRecord, staged: Staging) -> Result<Snapshot> {
        let path = staged.path().join("snapshot.json");
        files::write_new(&path, &files::to_record(&record, &path)?, Durability::Durable)?;
        let _writer = self.writer();
        self.check_is_new(&record.name, record.parent.as_deref())?;
        let mut number = self.read(|state| state.last_number) + 1;
        // One whose record was lost, or which is none of ours.
        while self.store.snapshot_dir(number).exists() {
            number += 1;
        }
        let target = self.store.snapshot_dir(number);
        if !staged.commit(&target, Durability::Durable)? {
            return Err(Error::precondition(&record.name, format!("{} is in the way", target.display())));
        }
        let snapshot = Snapshot { number, record: Arc::new(record) };
        self.write(|state| state.put(snapshot.clone()));
        Ok(snapshot)
    }

    /// Changes a snapshot's record, durably. `change` refuses what may not be.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::AlreadyExists`] where it gets a name that is taken; those of `change`.
    pub fn change(
        &self,
        name: &str,
        change: impl FnOnce(SnapshotRecord) -> Result<SnapshotRecord>,
    ) -> Result<Snapshot> {
        let _writer = self.writer();
        let Snapshot { number, record } = self.get(name)?;
        let record = change(SnapshotRecord::clone(&record))?;
        if record.name != name && self.read(|state| state.by_name.contains_key(&record.name)) {
            return Err(Error::AlreadyExists(record.name));
        }
        let path = self.directory(number).join("snapshot.json");
        files::replace(&path, &self.store.staging_area(), &files::to_record(&record, &path)?, Durability::Durable)?;
        let snapshot = Snapshot { number, record: Arc::new(record) };
        self.write(|state| {
            state.take(name);
            state.put(snapshot.clone());
        });
        Ok(snapshot)
    }

    /// Removes a snapshot: it is gone, and its files are deleted when what comes back is dropped.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] where something stands on it.
    pub fn remove(&self, name: &str) -> Result<(Snapshot, Option<Staging>)> {
        let _writer = self.writer();
        let snapshot = self.get(name)?;
        if self.read(|state| state.children.contains_key(name)) {
            return Err(Error::precondition(name, "other snapshots stand on it"));
        }
        let path = self.directory(snapshot.number);
        let taken = self.store.take_object(&path)?;
        // Else a power cut may bring it back.
        files::sync_parent(&path)?;
        self.write(|state| state.take(name));
        Ok((snapshot, taken))
    }

    /// Gives the directory of a snapshot.
    pub fn directory(&self, number: u64) -> PathBuf {
        self.store.snapshot_dir(number)
    }
}

fn hold(dir: &std::path::Path, patience: Duration) -> Result<Lock> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(lock) = Lock::try_directory(dir)? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            return Err(Error::Served { path: dir.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
