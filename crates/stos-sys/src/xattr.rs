// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Extended attributes, never through a symlink.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use crate::error::{Result, SysError};

/// Lists the names of the extended attributes of an open file, in the kernel's order. A filesystem without extended
/// attributes has none.
pub fn list(file: impl AsFd) -> Result<Vec<CString>> {
    let file = file.as_fd();
    let bytes = match read_growing(|buffer| flistxattr(file, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other.map_err(SysError::at("flistxattr", || proc_path(file)))?,
    };
    Ok(split_names(&bytes))
}

/// Reads one extended attribute of an open file; `None` where it has no such attribute.
pub fn get(file: impl AsFd, name: &CStr) -> Result<Option<Vec<u8>>> {
    let file = file.as_fd();
    match read_growing(|buffer| fgetxattr(file, name, buffer)) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(SysError::new("fgetxattr", format!("{name:?}"), errno)),
    }
}

/// Lists the names of the extended attributes of whatever `file` refers to, a descriptor opened with `O_PATH`: a symlink or a
/// device too, which are not followed and not opened. Goes through `/proc`.
pub fn list_by_path(file: impl AsFd) -> Result<Vec<CString>> {
    let path = proc_path(file.as_fd());
    let bytes = match read_growing(|buffer| rustix::fs::listxattr(path.as_str(), buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other.map_err(SysError::at("listxattr", || path.clone()))?,
    };
    Ok(split_names(&bytes))
}

/// Reads one extended attribute likewise; `None` where there is no such attribute.
pub fn get_by_path(file: impl AsFd, name: &CStr) -> Result<Option<Vec<u8>>> {
    let path = proc_path(file.as_fd());
    match read_growing(|buffer| rustix::fs::getxattr(path.as_str(), name, buffer)) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(SysError::new("getxattr", format!("{path}, {name:?}"), errno)),
    }
}

fn proc_path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Sets one extended attribute of an open file.
pub fn set(file: impl AsFd, name: &CStr, value: &[u8]) -> Result<()> {
    fsetxattr(file, name, value, XattrFlags::empty())
        .map_err(SysError::at("fsetxattr", || format!("{name:?}, {} bytes", value.len())))
}

/// Removes one extended attribute of an open file.
pub fn remove(file: impl AsFd, name: &CStr) -> Result<()> {
    fremovexattr(file, name).map_err(SysError::at("fremovexattr", || format!("{name:?}")))
}

/// The same three for what stands at `name` in the open directory `dir`, whatever it is, a symlink itself included: most kinds
/// of file cannot be opened for this, so it goes through the directory's entry in `/proc`.
pub mod at {
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};

    use rustix::fs::{lgetxattr, llistxattr, lsetxattr};

    use super::*;

    fn path(dir: BorrowedFd<'_>, name: &Path) -> PathBuf {
        Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)
    }

    /// Lists the names of the extended attributes.
    pub fn list(dir: BorrowedFd<'_>, name: &Path) -> Result<Vec<CString>> {
        let path = path(dir, name);
        match read_growing(|buffer| llistxattr(&path, buffer)) {
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            other => Ok(split_names(&other.map_err(SysError::at("llistxattr", || shown(name)))?)),
        }
    }

    /// Reads one extended attribute; `None` where there is none of that name.
    pub fn get(dir: BorrowedFd<'_>, name: &Path, attribute: &CStr) -> Result<Option<Vec<u8>>> {
        let path = path(dir, name);
        match read_growing(|buffer| lgetxattr(&path, attribute, buffer)) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(SysError::new("lgetxattr", format!("{}, {attribute:?}", shown(name)), errno)),
        }
    }

    /// Sets one extended attribute.
    pub fn set(dir: BorrowedFd<'_>, name: &Path, attribute: &CStr, value: &[u8]) -> Result<()> {
        lsetxattr(path(dir, name), attribute, value, XattrFlags::empty())
            .map_err(SysError::at("lsetxattr", || format!("{}, {attribute:?}, {} bytes", shown(name), value.len())))
    }

    fn shown(name: &Path) -> String {
        name.as_os_str().as_bytes().escape_ascii().to_string()
    }
}

fn split_names(bytes: &[u8]) -> Vec<CString> {
    let names = bytes.split_inclusive(|&byte| byte == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    names.map(CStr::to_owned).collect()
}

/// Reads with a buffer that grows until the answer fits: its size may change between two calls.
fn read_growing(mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(count) => {
                buffer.truncate(count);
                return Ok(buffer);
            }
            // XATTR_LIST_MAX and XATTR_SIZE_MAX are both 64 KiB.
            Err(Errno::RANGE) if buffer.len() < 128 << 10 => buffer.resize(buffer.len() * 4, 0),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symlink_s_own_attributes_are_reached_through_its_directory() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        std::os::unix::fs::symlink("/no/where", dir.path().join("link")).unwrap();
        let file = std::fs::File::open(dir.path()).unwrap();
        let (dir, link) = (file.as_fd(), std::path::Path::new("link"));
        if let Err(error) = at::set(dir, link, c"trusted.x", b"1") {
            assert_eq!(error.errno, Errno::OPNOTSUPP, "{error}");
            return;
        }
        assert_eq!(at::get(dir, link, c"trusted.x").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(at::get(dir, link, c"trusted.y").unwrap(), None);
        assert!(at::list(dir, link).unwrap().contains(&c"trusted.x".to_owned()));
        let error = at::set(dir, std::path::Path::new("none"), c"trusted.x", b"").unwrap_err();
        assert!(error.errno == Errno::NOENT && error.to_string().contains("none"), "{error}");
    }

    #[test]
    fn attributes_are_set_read_listed_and_removed() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let big = vec![7_u8; 2000];
        if let Err(error) = set(&file, c"user.big", &big) {
            assert_eq!(error.errno, Errno::OPNOTSUPP, "{error}");
            return;
        }
        assert_eq!(get(&file, c"user.big").unwrap().as_deref(), Some(big.as_slice()));
        assert_eq!(get(&file, c"user.none").unwrap(), None);
        assert!(list(&file).unwrap().contains(&c"user.big".to_owned()));
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let path = rustix::fs::open(proc_path(file.as_fd()), flags, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(get_by_path(&path, c"user.big").unwrap().as_deref(), Some(big.as_slice()));
        assert!(list_by_path(&path).unwrap().contains(&c"user.big".to_owned()));
        remove(&file, c"user.big").unwrap();
        assert_eq!(get(&file, c"user.big").unwrap(), None);
    }
}
