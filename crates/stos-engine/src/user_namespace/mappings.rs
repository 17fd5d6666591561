// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which mappings can be: what the kernel would refuse is told by its option (user_namespaces(7)).

use stos_sys::process::user_namespace::{IdMapping, IdMappings, own_mappings};

use super::ids::IdSet;
use crate::error::{Error, Result};

/// More lines a mapping cannot have.
const LINES: usize = 340;

/// The highest id; the one above means none.
const LAST: u64 = u32::MAX as u64 - 1;

/// A mapping as it is asked for.
pub(super) fn shown(ids: &IdMapping) -> String {
    format!("{}:{}:{}", ids.container, ids.host, ids.size)
}

/// Refuses mappings that the kernel would: empty ones, too many, ids that are none, ids that are mapped twice, inside or outside, and
/// ids that the caller's own user namespace does not have. `users` is the option that those of users come from; those of groups come
/// from `--gidmap` where that is `--uidmap`.
///
/// # Errors
/// [`Error::Option`].
pub fn check_mappings(users: &'static str, ids: &IdMappings) -> Result<()> {
    let groups = if users == "--uidmap" { "--gidmap" } else { users };
    let own = own_mappings()?;
    check(users, &ids.users, &IdSet::inside(&own.users))?;
    check(groups, &ids.groups, &IdSet::inside(&own.groups))
}

fn check(option: &'static str, mappings: &[IdMapping], own: &IdSet) -> Result<()> {
    let refused = |value: String, reason: String| Err(Error::Option { option, value, reason });
    if mappings.len() > LINES {
        return refused(format!("{} ranges", mappings.len()), format!("a user namespace has {LINES} at most"));
    }
    for (number, ids) in mappings.iter().enumerate() {
        let one = std::slice::from_ref(ids);
        let fits = |first: u32| u64::from(first) + u64::from(ids.size) <= LAST + 1;
        if ids.size == 0 || !fits(ids.container) || !fits(ids.host) {
            return refused(shown(ids), format!("expected at least one id, and ids from 0 to {LAST}"));
        }
        for (side, set) in [("inside", IdSet::inside as fn(&[IdMapping]) -> IdSet), ("outside", IdSet::outside)] {
            let is_apart = |other: &&IdMapping| set(one).without(&set(std::slice::from_ref(other))) == set(one);
            if let Some(other) = mappings[..number].iter().find(|other| !is_apart(other)) {
                return refused(shown(ids), format!("it has ids {side} that {} has too", shown(other)));
            }
        }
        if !own.contains(&IdSet::outside(one)) {
            let reason = "the user namespace that stos runs in has no such ids outside (/proc/self/uid_map)".to_owned();
            return refused(shown(ids), reason);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_refuse_is_told() {
        let own = IdSet::of([(0, 1_000_000)]);
        let said = |ranges: &[(u32, u32, u32)]| {
            let ids: Vec<_> =
                ranges.iter().map(|&(container, host, size)| IdMapping { container, host, size }).collect();
            check("--uidmap", &ids, &own).map_err(|error| error.to_string()).err().unwrap_or_default()
        };
        assert_eq!(said(&[(0, 100_000, 65_536), (70_000, 0, 1)]), "");
        for (ranges, expected) in [
            (&[(0, 0, 0)][..], "--uidmap \"0:0:0\": expected at least one id"),
            (&[(u32::MAX, 0, 1)], "expected at least one id, and ids from 0 to 4294967294"),
            (&[(0, u32::MAX - 1, 2)], "ids from 0 to 4294967294"),
            (&[(0, 100, 10), (5, 200, 1)], "--uidmap \"5:200:1\": it has ids inside that 0:100:10 has too"),
            (&[(0, 100, 10), (10, 109, 1)], "--uidmap \"10:109:1\": it has ids outside that 0:100:10"),
            (&[(0, 999_999, 2)], "--uidmap \"0:999999:2\": the user namespace that stos runs in"),
        ] {
            assert!(said(ranges).contains(expected), "{ranges:?}: {}", said(ranges));
        }
        let many: Vec<_> = (0..341).map(|number| (number, number, 1)).collect();
        assert!(said(&many).contains("340 at most") && said(&many[1..]).is_empty());
    }

    #[test]
    fn groups_are_told_by_their_own_option() {
        let good = vec![IdMapping { container: 0, host: 0, size: 1 }];
        let bad = vec![IdMapping { container: 0, host: 0, size: 0 }];
        let ids = IdMappings { users: good, groups: bad };
        let said = |option| check_mappings(option, &ids).unwrap_err().to_string();
        assert!(
            said("--uidmap").starts_with("--gidmap \"0:0:0\"") && said("--userns").starts_with("--userns \"0:0:0\"")
        );
    }
}
