// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A disk that remembers: one file of a FUSE file system, kept in memory, whose writes and flushes are logged in their order.
//!
//! A loop device over that file turns each flush of its file system into an fsync(2) of the file (`lo_req_flush` in
//! drivers/block/loop.c), and has no writes that are durable by themselves (FUA), which the kernel then makes of a write and a flush.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};

/// The unit in which memory is taken, in bytes.
const PAGE: usize = 4096;
/// The most that one call writes of an image, in bytes.
const CHUNK: usize = 1 << 20;
/// How long a flush takes, as that of a disk does: whoever reports something before its flush has returned is then found out.
const FLUSH: Duration = Duration::from_millis(5);
/// What the file is called.
const NAME: &str = "disk";
const INODE: INodeNo = INodeNo(2);
/// How long the kernel may keep names and attributes: they never change.
const FOREVER: Duration = Duration::from_secs(86_400);

/// Bytes by their place; what was never written, or is zero, takes no room.
#[derive(Clone, Default)]
pub struct Pages(BTreeMap<u64, Box<[u8]>>);

impl Pages {
    /// Puts bytes at an offset.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let count = (PAGE - within).min(bytes.len() - done);
            let page = self.0.entry(at / PAGE as u64).or_insert_with(|| vec![0; PAGE].into());
            page[within..within + count].copy_from_slice(&bytes[done..done + count]);
            if **page == [0; PAGE] {
                self.0.remove(&(at / PAGE as u64));
            }
            done += count;
        }
    }

    /// Gives the bytes at an offset.
    pub fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        for (&number, page) in self.0.range(offset / PAGE as u64..(offset + size as u64).div_ceil(PAGE as u64)) {
            let start = number * PAGE as u64;
            let (from, to) = (start.max(offset), (start + PAGE as u64).min(offset + size as u64));
            let source = &page[(from - start) as usize..(to - start) as usize];
            bytes[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
        }
        bytes
    }

    /// Tells whether these bytes stand anywhere, from the beginning of a page on.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        self.0.values().any(|page| page.starts_with(bytes))
    }

    /// Writes all of it into an empty file, with holes for the rest.
    pub fn write_to(&self, file: &File) -> io::Result<()> {
        let mut run: Vec<u8> = Vec::with_capacity(CHUNK);
        let mut start = 0;
        for (&number, page) in &self.0 {
            let offset = number * PAGE as u64;
            if start + run.len() as u64 != offset || run.len() >= CHUNK {
                file.write_all_at(&run, start)?;
                run.clear();
                start = offset;
            }
            run.extend_from_slice(page);
        }
        file.write_all_at(&run, start)
    }
}

/// What the disk was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes for a place, in bytes from the beginning. Durable only after the next flush.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// All that was written before is durable when this has returned.
    Flush,
}

/// What there is, and how it came about.
#[derive(Default)]
struct State {
    pages: Pages,
    base: Pages,
    log: Vec<Event>,
}

/// The file, served as long as this lives.
pub struct Disk {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    session: Option<BackgroundSession>,
}

/// The disk's contents when its log begins, and the log.
pub struct Record {
    /// Its size in bytes.
    pub size: u64,
    /// What it held.
    pub base: Pages,
    /// What it was told since.
    pub log: Vec<Event>,
}

impl Disk {
    /// Mounts a file system with an empty disk of so many bytes at `point`, which only this process sees where its mounts are private.
    pub fn serve(point: &Path, size: u64) -> anyhow::Result<Self> {
        let state = Arc::<Mutex<State>>::default();
        let served = Served { state: state.clone(), size };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("stos-power-cut".to_owned())];
        let session = fuser::spawn_mount(served, point, &config).context("mounting a FUSE file system")?;
        Ok(Self { state, path: point.join(NAME), session: Some(session) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets the log: it begins with what is on the disk now.
    pub fn begin_log(&self) {
        let mut state = lock(&self.state);
        state.base = state.pages.clone();
        state.log.clear();
    }

    /// How many events there are.
    pub fn position(&self) -> usize {
        lock(&self.state).log.len()
    }

    /// Tells whether the bytes would be there after a power cut now that loses everything since the last flush.
    pub fn has_flushed(&self, bytes: &[u8]) -> bool {
        let state = lock(&self.state);
        let flushed = state.log.iter().rposition(|event| *event == Event::Flush).unwrap_or(0);
        let written = |event: &Event| matches!(event, Event::Write { bytes: all, .. } if all.chunks(PAGE).any(|page| page.starts_with(bytes)));
        state.base.holds(bytes) || state.log[..flushed].iter().any(written)
    }

    /// Ends the file system, which nothing may use any more, and gives what was logged.
    pub fn into_record(mut self, size: u64) -> anyhow::Result<Record> {
        if let Some(session) = self.session.take() {
            session.umount_and_join().context("unmounting the FUSE file system")?;
        }
        let mut state = lock(&self.state);
        Ok(Record { size, base: std::mem::take(&mut state.base), log: std::mem::take(&mut state.log) })
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the kernel asks.
struct Served {
    state: Arc<Mutex<State>>,
    size: u64,
}

impl Served {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_directory = inode == INodeNo::ROOT;
        FileAttr {
            ino: inode,
            size: if is_directory { 0 } else { self.size },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_directory { FileType::Directory } else { FileType::RegularFile },
            perm: if is_directory { 0o700 } else { 0o600 },
            nlink: if is_directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: PAGE as u32,
        }
    }
}

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A write of the block layer comes as one; a kernel that takes less says so.
        let _ = config.set_max_write(CHUNK as u32);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&FOREVER, &self.attributes(INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match size {
            Some(_) => reply.error(Errno::EPERM),
            None => reply.attr(&FOREVER, &self.attributes(inode)),
        }
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Nothing is to lie between the loop device and the log.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = u64::from(size).min(self.size.saturating_sub(offset));
        let bytes = lock(&self.state).pages.read(offset, size as usize);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if offset + data.len() as u64 > self.size {
            return reply.error(Errno::ENOSPC);
        }
        let mut state = lock(&self.state);
        state.pages.write(offset, data);
        state.log.push(Event::Write { offset, bytes: data.to_owned() });
        drop(state);
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // Nothing is promised before it is done, and who does not wait for that is to be seen.
        std::thread::sleep(FLUSH);
        lock(&self.state).log.push(Event::Flush);
        reply.ok();
    }

    /// Of close(2), which makes nothing durable.
    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_give_back_what_was_written() {
        let mut pages = Pages::default();
        pages.write(4000, &[1; 200]);
        pages.write(12_288, &[2; 4096]);
        assert_eq!(pages.read(3999, 202), [&[0][..], &[1; 200], &[0]].concat());
        assert_eq!(pages.read(12_287, 2), [0, 2]);
        assert!(pages.holds(&[2; 10]) && !pages.holds(&[1; 200]));
        pages.write(12_288, &[0; 4096]);
        assert_eq!(pages.0.len(), 2, "zeros take no room");
        let file = tempfile::tempfile().unwrap();
        file.set_len(20_000).unwrap();
        pages.write_to(&file).unwrap();
        let mut found = vec![9; 20_000];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, pages.read(0, 20_000));
    }
}
