// SPDX-License-Identifier: Apache-2.0 OR MIT
//! In which forms a layer is kept, how each looks, and what it takes of the disk.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, statat};
use serde::Serialize;
use stos_spec::DiffId;
use stos_sys::rooted::Root;

use crate::LayerFs;
use crate::backend::{BackendKind, Kept};
use crate::error::{Error, Result};

/// How a layer looks, by its record and a few stats: nothing is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// As it was when it was proved.
    Intact,
    /// A seal does not hold, or a file is missing: it is proved anew before it is used.
    Changed,
    /// Its record cannot be read: as good as no layer.
    Damaged,
}

/// A form in which a layer is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerForm {
    /// Who keeps it.
    pub backend: BackendKind,
    /// How it looks.
    pub state: LayerState,
    /// Its directory.
    pub path: PathBuf,
    /// Its record; `None` where that is damaged.
    pub kept: Option<Kept>,
}

impl LayerFs {
    /// Tells in which forms a layer is kept, damaged ones too; none where the layer is not there.
    pub fn forms_of(&self, layer: DiffId) -> Result<Vec<LayerForm>> {
        let mut forms = Vec::new();
        for (backend, path) in
            [(BackendKind::Erofs, self.store().layer_dir(layer)), (BackendKind::Dirs, self.dirs().layer_dir(layer))]
        {
            if std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
                continue;
            }
            let kept = self.backend(backend).kept(layer)?;
            let state = match kept {
                None => LayerState::Damaged,
                Some(_) if self.backend(backend).is_layer_intact(layer)? => LayerState::Intact,
                Some(_) => LayerState::Changed,
            };
            forms.push(LayerForm { backend, state, path, kept });
        }
        Ok(forms)
    }
}

impl LayerForm {
    /// Gives how many bytes it takes of the disk: blocks that are allocated, each file once, however many names it has.
    pub fn disk_bytes(&self) -> Result<u64> {
        disk_bytes(&self.path)
    }
}

/// Gives how many bytes a file or a directory takes of the disk: blocks that are allocated, each file once, however many names
/// it has.
pub fn disk_bytes(path: &Path) -> Result<u64> {
    let metadata = std::fs::symlink_metadata(path).map_err(Error::io("stat", path))?;
    if !metadata.is_dir() {
        return Ok(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
    }
    let mut usage = Usage { bytes: 0, seen: HashSet::new() };
    // A path in `diff` may be as long as a path can be, so it has a root of its own.
    usage.add_tree(path, |name| name == b"diff")?;
    let diff = path.join("diff");
    if diff.is_dir() {
        usage.add_tree(&diff, |_| false)?;
    }
    Ok(usage.bytes)
}

/// Counts what is allocated.
struct Usage {
    bytes: u64,
    /// The files with several names.
    seen: HashSet<(u64, u64)>,
}

impl Usage {
    fn add_tree(&mut self, root_path: &Path, leave_out: impl Fn(&[u8]) -> bool) -> Result<()> {
        let root = Root::open(root_path)?;
        let mut pending = vec![Vec::new()];
        while let Some(path) = pending.pop() {
            let directory = root.open_directory(crate::dirs::as_path(&path))?;
            self.add(&directory, c".", root_path)?;
            let names = Dir::read_from(&directory).map_err(Error::io("list", root_path))?;
            for entry in names {
                let entry = entry.map_err(Error::io("list", root_path))?;
                let name = entry.file_name();
                let bytes = name.to_bytes();
                if matches!(bytes, b"." | b"..") || path.is_empty() && leave_out(bytes) {
                    continue;
                }
                if self.add(&directory, name, root_path)? == FileType::Directory {
                    pending.push(if path.is_empty() {
                        bytes.to_vec()
                    } else {
                        [&path, b"/".as_slice(), bytes].concat()
                    });
                }
            }
        }
        Ok(())
    }

    /// Adds one inode, unless it is a directory, which adds itself when it is listed.
    fn add(&mut self, directory: &OwnedFd, name: &std::ffi::CStr, root: &Path) -> Result<FileType> {
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(Error::io("stat a file in", root))?;
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let is_counted = match file_type {
            FileType::Directory => name == c".",
            _ => stat.st_nlink < 2 || self.seen.insert((stat.st_dev, stat.st_ino)),
        };
        if is_counted {
            self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        Ok(file_type)
    }
}
