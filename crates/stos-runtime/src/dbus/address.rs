// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a bus listens (D-Bus Specification, "Server Addresses").

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;

use super::DBusError;

/// Reads `unix:path=P` and `unix:abstract=N`; of several, split by `;`, those that are such.
pub(super) fn parse(text: &str) -> Result<Vec<SocketAddr>, DBusError> {
    let found: Vec<_> = text.split(';').filter_map(parse_one).collect();
    if found.is_empty() { Err(DBusError::Address { text: text.to_owned() }) } else { Ok(found) }
}

fn parse_one(text: &str) -> Option<SocketAddr> {
    let keys = text.strip_prefix("unix:")?;
    keys.split(',').find_map(|pair| match pair.split_once('=')? {
        ("path", value) => {
            SocketAddr::from_pathname(PathBuf::from(std::ffi::OsString::from_vec(unescape(value)?))).ok()
        }
        ("abstract", value) => SocketAddr::from_abstract_name(unescape(value)?).ok(),
        _ => None,
    })
}

/// Undoes `%2c`.
fn unescape(value: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn unix_addresses_are_read_and_others_left() {
        let found = parse("tcp:host=x,port=1;unix:path=/a%20b,guid=0;unix:abstract=c").unwrap();
        assert_eq!(found[0].as_pathname(), Some(Path::new("/a b")));
        assert_eq!(found[1].as_abstract_name(), Some(&b"c"[..]));
        for text in ["", "/a", "unix:", "unix:guid=0", "tcp:host=x", "unix:path=%zz", "unix:path=%2"] {
            assert!(matches!(parse(text), Err(DBusError::Address { .. })), "{text}");
        }
    }
}
