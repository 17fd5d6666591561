// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ranges of ids that /etc/subuid and /etc/subgid give a user (subuid(5)).

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use stos_sys::process::user_namespace::IdMapping;

use super::ids::IdSet;
use super::{AUTO_USER, UserNamespaceError};
use crate::error::Result;

const USERS: &str = "/etc/subuid";
const GROUPS: &str = "/etc/subgid";

/// The ids that are to be given to containers, of users and of groups.
pub(super) fn of_auto() -> Result<[IdSet; 2]> {
    let read = |path| ranges(Path::new(path), AUTO_USER).map(IdSet::of);
    Ok([read(USERS)?, read(GROUPS)?])
}

/// Where the ids of users and of groups come from, for an error.
pub(super) const PLACES: [&str; 2] = [USERS, GROUPS];

/// Maps all ids that the files give the two users, from 0 on inside: those of users, and those of groups.
///
/// # Errors
/// [`UserNamespaceError::NoRange`]; [`stos_store::Error::Io`] where a file cannot be read.
pub fn ranges_of(user: &str, group: &str) -> Result<[Vec<IdMapping>; 2]> {
    let read = |path, name| -> Result<Vec<IdMapping>> {
        let ids = IdSet::of(ranges(Path::new(path), name)?);
        // The file may give more than fits.
        let count = ids.len().min(u64::from(u32::MAX));
        Ok(IdSet::of([(0, count)]).map_to(&ids))
    };
    Ok([read(USERS, user)?, read(GROUPS, group)?])
}

/// Reads the ranges of a user, by its name or its number: pairs of first and end.
fn ranges(path: &Path, user: &str) -> Result<Vec<(u64, u64)>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        other => other.map_err(stos_store::Error::io("read", path))?,
    };
    let found = parse(&text, user);
    if found.is_empty() {
        return Err(UserNamespaceError::NoRange { path: path.to_owned(), user: user.to_owned() }.into());
    }
    Ok(found)
}

/// Lines are `user:first:count`. What is none is skipped, as shadow's tools do.
fn parse(text: &str, user: &str) -> Vec<(u64, u64)> {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let (name, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        if name != user || fields.next().is_some() {
            return None;
        }
        let (first, count): (u32, u64) = (first.parse().ok()?, count.parse().ok()?);
        // The last number is none.
        let end = (u64::from(first).checked_add(count)?).min(u64::from(u32::MAX));
        Some((u64::from(first), end)).filter(|(first, end)| first < end)
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_user_s_ranges_are_read() {
        let text = "# a comment\nalice:1:5\ncontainers:2147483647:2147483648\n\ncontainers:100000:65536 \nbad\n\
                    containers:x:1\ncontainers:5:0\ncontainers:1:1:1\n1000:7:2";
        assert_eq!(parse(text, "containers"), [(2_147_483_647, 4_294_967_295), (100_000, 165_536)]);
        assert_eq!(parse(text, "1000"), [(7, 9)]);
        assert!(parse(text, "bob").is_empty());
    }

    #[test]
    fn who_has_none_is_named_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subuid");
        let no_range =
            |error| matches!(error, Error::UserNamespace(UserNamespaceError::NoRange { user, .. }) if user == "me");
        assert!(no_range(ranges(&path, "me").unwrap_err()));
        std::fs::write(&path, "you:1:1\n").unwrap();
        assert!(no_range(ranges(&path, "me").unwrap_err()));
        assert_eq!(ranges(&path, "you").unwrap(), [(1, 2)]);
        let error = ranges(dir.path(), "me").unwrap_err().to_string();
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
    }
}
