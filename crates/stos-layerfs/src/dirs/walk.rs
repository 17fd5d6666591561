// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Walks through directories on disk that may lie deeper than Linux takes a path in one piece: what is still to be read is kept by
//! names, for whole paths could take 4,096 bytes each and more.

use std::fs::{self, ReadDir};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use stos_store::Error as StoreError;
use stos_sys::rooted::Root;

use super::inode::{Place, as_path, refused};
use crate::error::Result;

/// The directories that have been found, the first being the root.
pub(super) struct Walk {
    /// The number of the parent, and the name.
    found: Vec<(usize, Box<[u8]>)>,
    pending: Vec<usize>,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self { found: vec![(0, Box::default())], pending: vec![0] }
    }

    /// Gives the next directory that is to be read.
    pub(super) fn next(&mut self) -> Option<usize> {
        self.pending.pop()
    }

    /// Adds a directory that was found in `parent`.
    pub(super) fn add(&mut self, parent: usize, name: &[u8]) {
        self.pending.push(self.found.len());
        self.found.push((parent, name.into()));
    }

    /// Gives the path of a name in a directory; of the directory itself where the name is empty.
    pub(super) fn path(&self, mut directory: usize, name: &[u8]) -> Vec<u8> {
        let mut names = Vec::from_iter((!name.is_empty()).then_some(name));
        while directory != 0 {
            let (parent, name) = &self.found[directory];
            names.push(name);
            directory = *parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

/// Lists an open directory.
pub(super) fn list(directory: impl AsFd, path: &[u8]) -> std::result::Result<ReadDir, StoreError> {
    let place = Place { dir: directory.as_fd(), name: as_path(b""), path };
    fs::read_dir(place.in_proc()).map_err(refused("list", path))
}

/// Gives how many names an open directory has.
pub(super) fn count(directory: impl AsFd, path: &[u8]) -> std::result::Result<u64, StoreError> {
    let mut names = 0;
    for entry in list(directory, path)? {
        entry.map_err(refused("list", path))?;
        names += 1;
    }
    Ok(names)
}

/// Gives how many names a tree has, its root included.
pub(super) fn count_tree(root: &Root) -> Result<u64> {
    let mut names = 1;
    let mut walk = Walk::new();
    while let Some(directory) = walk.next() {
        let path = walk.path(directory, b"");
        for entry in list(root.open_directory(as_path(&path))?, &path)? {
            let entry = entry.map_err(refused("list", &path))?;
            names += 1;
            if entry.file_type().map_err(refused("stat a name in", &path))?.is_dir() {
                walk.add(directory, &entry.file_name().into_vec());
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_together_of_names() {
        let mut walk = Walk::new();
        assert_eq!((walk.next(), walk.next()), (Some(0), None));
        walk.add(0, b"a");
        walk.add(1, b"b");
        assert_eq!((walk.path(0, b""), walk.path(0, b"x")), (b"".to_vec(), b"x".to_vec()));
        assert_eq!((walk.path(2, b""), walk.path(2, b"x")), (b"a/b".to_vec(), b"a/b/x".to_vec()));
        assert_eq!((walk.next(), walk.next(), walk.next()), (Some(2), Some(1), None));
    }
}
