// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An unpacker with every fault of the field: it joins names to paths, follows what stands there, believes the header.
//!
//! It proves that the attacks of the table are attacks. It goes nowhere but below the world that it is given.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};

pub struct Naive<'a> {
    /// Beyond this nothing is done.
    pub world: &'a Path,
    pub root: PathBuf,
    /// Where link targets are looked for that the root has not.
    pub working_directory: PathBuf,
}

struct Header<'a> {
    kind: u8,
    name: PathBuf,
    link: PathBuf,
    mode: u32,
    data: &'a [u8],
}

impl Naive<'_> {
    /// Unpacks as far as it gets.
    pub fn unpack(&self, tar: &[u8]) {
        let mut rest = tar;
        let (mut name, mut link) = (None, None);
        while let Some((block, after)) = rest.split_at_checked(512).filter(|(block, _)| block[0] != 0) {
            let size = octal(&block[124..136]) as usize;
            let Some(data) = after.get(..size) else { return };
            rest = after.get(size.next_multiple_of(512)..).unwrap_or_default();
            match block[156] {
                b'x' => {
                    name = pax(data, "path").or(name);
                    link = pax(data, "linkpath").or(link);
                }
                b'L' => name = Some(text(data)),
                b'K' => link = Some(text(data)),
                kind => {
                    let header = Header {
                        kind,
                        name: name.take().unwrap_or_else(|| text(&block[..100])),
                        link: link.take().unwrap_or_else(|| text(&block[157..257])),
                        mode: octal(&block[100..108]) as u32,
                        data,
                    };
                    // What cannot be done is left out, as many do.
                    drop(self.entry(&header));
                }
            }
        }
    }

    fn entry(&self, header: &Header<'_>) -> io::Result<()> {
        let path = self.path(&header.name)?;
        let parent = path.parent().unwrap_or(self.world);
        if let Some(removed) = path.file_name().and_then(|name| name.to_str()?.strip_prefix(".wh.")) {
            return match removed {
                ".wh..opq" => fs::read_dir(parent)?.try_for_each(|entry| remove(&entry?.path())),
                removed => remove(&parent.join(removed)),
            };
        }
        fs::create_dir_all(parent)?;
        match header.kind {
            b'1' => self.hard_link(&header.link, &path)?,
            b'2' => {
                drop(remove(&path));
                return symlink(&header.link, &path);
            }
            b'5' => fs::create_dir_all(&path)?,
            b'6' => mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0)?,
            _ => fs::write(&path, header.data)?,
        }
        // Never left out, and so a link's target gets it too.
        fs::set_permissions(&path, fs::Permissions::from_mode(header.mode))
    }

    fn hard_link(&self, target: &Path, path: &Path) -> io::Result<()> {
        let own = self.path(target)?;
        let target = if fs::symlink_metadata(&own).is_ok() { own } else { self.working_directory.join(target) };
        fs::hard_link(target, path)
    }

    /// Joins a name to the root, and sees to it that no more than the world is at stake.
    fn path(&self, name: &Path) -> io::Result<PathBuf> {
        let path: PathBuf = self.root.join(name).components().collect();
        // The root may have become a link: what it is called is not where it is.
        let parents =
            path.ancestors().skip(usize::from(path != self.root)).find_map(|parent| parent.canonicalize().ok());
        match parents {
            Some(parent) if parent.starts_with(self.world) => Ok(path),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn text(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    std::ffi::OsStr::from_bytes(&field[..end]).into()
}

fn octal(field: &[u8]) -> u64 {
    field.iter().take_while(|byte| byte.is_ascii_digit()).fold(0, |value, byte| value * 8 + u64::from(byte - b'0'))
}

/// The value of a keyword: names of this table have no newlines.
fn pax(records: &[u8], keyword: &str) -> Option<PathBuf> {
    let start = format!(" {keyword}=");
    let at = records.windows(start.len()).position(|window| window == start.as_bytes())? + start.len();
    records[at..].split(|&byte| byte == b'\n').next().map(text)
}
