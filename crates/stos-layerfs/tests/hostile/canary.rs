// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tree outside the store that attacks aim at, and how to tell that it was not touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use stos_testkit::environment;
use stos_testkit::tree::{Options, Tree};

/// A directory of a case's own: the canary, and room for stores beside it.
pub struct World {
    dir: tempfile::TempDir,
}

/// All that can be known of it without changing it.
pub struct Snapshot {
    tree: Tree,
    /// Of each path: filesystem, inode, number of links, time of the last change of the inode. A chmod to the same mode is seen,
    /// and so is a hard link from elsewhere.
    inodes: BTreeMap<Vec<u8>, [i64; 5]>,
}

impl World {
    pub fn new() -> Self {
        let world = Self { dir: environment::scratch() };
        let canary = world.canary();
        fs::create_dir_all(canary.join("dir/deep")).unwrap();
        for (name, mode) in [("secret", 0o600), ("Cargo.toml", 0o644), ("dir/file", 0o640), ("dir/deep/file", 0o444)] {
            fs::write(canary.join(name), format!("the canary's {name}\n")).unwrap();
            fs::set_permissions(canary.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(canary.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("secret", canary.join("link")).unwrap();
        symlink("dir", canary.join("dirlink")).unwrap();
        world
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn canary(&self) -> PathBuf {
        self.path().join("canary")
    }

    /// Room for a store, beside the canary.
    pub fn room(&self) -> tempfile::TempDir {
        tempfile::Builder::new().prefix("store-").tempdir_in(self.path()).unwrap()
    }

    /// Reads everything but what lies in `except`, a name.
    pub fn snapshot(&self, except: &str) -> Snapshot {
        let tree = Tree::read(self.path(), &Options { exclude: &[except], ..Options::default() }).unwrap();
        let inode = |path: &Vec<u8>| {
            let stat = fs::symlink_metadata(self.path().join(std::ffi::OsStr::from_bytes(path))).unwrap();
            [stat.dev() as i64, stat.ino() as i64, stat.nlink() as i64, stat.ctime(), stat.ctime_nsec()]
        };
        let inodes = tree.nodes.keys().map(|path| (path.clone(), inode(path))).collect();
        Snapshot { tree, inodes }
    }
}

impl Snapshot {
    pub fn is_same(&self, now: &Self) -> bool {
        self.tree.differences(&now.tree).is_empty() && self.inodes == now.inodes
    }

    /// Panics with what has changed, if anything has.
    #[track_caller]
    pub fn assert_untouched(&self, now: &Self, who: &str) {
        let changes: Vec<_> = self.tree.differences(&now.tree).iter().map(ToString::to_string).collect();
        assert!(changes.is_empty(), "{who} changed the canary:\n{}", changes.join("\n"));
        for (path, inode) in &self.inodes {
            assert_eq!(Some(inode), now.inodes.get(path), "{who} touched the canary's /{}", path.escape_ascii());
        }
    }
}
