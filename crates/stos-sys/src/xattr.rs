// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Extended attributes, never through a symlink.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use crate::error::{Result, SysError};

/// Lists the names of the extended attributes of an open file, in the kernel's order. A filesystem without extended
/// attributes has none.
pub fn list(file: impl AsFd) -> Result<Vec<CString>> {
    let file = file.as_fd();
    let bytes = match read_growing(|buffer| flistxattr(file, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other.map_err(SysError::at("flistxattr", String::new))?,
    };
    let names = bytes.split_inclusive(|&byte| byte == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    Ok(names.map(CStr::to_owned).collect())
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

/// Sets one extended attribute of an open file.
pub fn set(file: impl AsFd, name: &CStr, value: &[u8]) -> Result<()> {
    fsetxattr(file, name, value, XattrFlags::empty())
        .map_err(SysError::at("fsetxattr", || format!("{name:?}, {} bytes", value.len())))
}

/// Removes one extended attribute of an open file.
pub fn remove(file: impl AsFd, name: &CStr) -> Result<()> {
    fremovexattr(file, name).map_err(SysError::at("fremovexattr", || format!("{name:?}")))
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
        remove(&file, c"user.big").unwrap();
        assert_eq!(get(&file, c"user.big").unwrap(), None);
    }
}
