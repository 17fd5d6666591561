// SPDX-License-Identifier: Apache-2.0 OR MIT
//! POSIX ACLs: the kernel's binary form, a little-endian version 2, then entries of tag u16, permissions u16, id u32;
//! and the text that tars have.

const VERSION: [u8; 4] = 2u32.to_le_bytes();
const ENTRY_LEN: usize = 8;
/// What stands for the id where the tag has none, and so is none (`ACL_UNDEFINED_ID`).
const NO_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// An ACL of mode 0754, for tests.
#[cfg(test)]
pub(crate) const MINIMAL: &[u8] =
    b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";

/// One that says more than a mode does: 0754 with a mask that leaves the group to write.
#[cfg(test)]
pub(crate) const WITH_MASK: &[u8] =
    b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x10\0\x02\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";

/// What Linux makes of a valid ACL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Acl {
    /// The ACL as Linux gives it back: who is no named user or group has no id (`posix_acl_to_xattr`).
    pub(crate) value: Vec<u8>,
    /// The nine permission bits that it gives its file as an access ACL: a mask's, where there is one, are the group's.
    pub(crate) permissions: u16,
    /// Whether those bits say all that it says (`posix_acl_equiv_mode`): then a file has no access ACL, but that mode.
    pub(crate) is_mode: bool,
}

/// Reads a valid ACL.
///
/// # Errors
/// As [`check`].
pub(crate) fn read(value: &[u8]) -> Result<Acl, &'static str> {
    check(value)?;
    let mut acl = Acl { value: value.to_vec(), permissions: 0, is_mode: true };
    for entry in acl.value[VERSION.len()..].chunks_exact_mut(ENTRY_LEN) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        match tag {
            USER_OBJ => acl.permissions |= permissions << 6,
            GROUP_OBJ => acl.permissions |= permissions << 3,
            MASK => acl.permissions = acl.permissions & !0o070 | permissions << 3,
            OTHER => acl.permissions |= permissions,
            _ => {}
        }
        acl.is_mode &= matches!(tag, USER_OBJ | GROUP_OBJ | OTHER);
        if !matches!(tag, USER | GROUP) {
            entry[4..].copy_from_slice(&NO_ID.to_le_bytes());
        }
    }
    Ok(acl)
}

/// Tells whether it has no entries, which to the kernel is no ACL.
pub(crate) fn is_empty(value: &[u8]) -> bool {
    value.is_empty() || value == VERSION
}

/// Checks an ACL as the kernel does when a file is opened (`posix_acl_from_xattr`) and when overlayfs copies it up
/// (`posix_acl_valid`); a file whose stored ACL breaks the first cannot be opened at all.
///
/// # Errors
/// What is wrong with it.
fn check(value: &[u8]) -> Result<(), &'static str> {
    let entries = value.strip_prefix(&VERSION).filter(|entries| entries.len().is_multiple_of(ENTRY_LEN));
    let entries = entries.ok_or("not a POSIX ACL in binary form, version 2")?;
    let (mut last, mut named) = (0, false);
    for entry in entries.chunks_exact(ENTRY_LEN) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let follows = match tag {
            USER_OBJ => last == 0,
            USER => matches!(last, USER_OBJ | USER),
            GROUP_OBJ => matches!(last, USER_OBJ | USER),
            GROUP => matches!(last, GROUP_OBJ | GROUP),
            MASK => matches!(last, GROUP_OBJ | GROUP),
            OTHER => last == MASK || (!named && last == GROUP_OBJ),
            _ => return Err("an ACL entry of an unknown tag"),
        };
        if !follows {
            return Err(
                "ACL entries other than the owner's, users', the group's, groups', mask, others', in that order",
            );
        }
        if permissions > 7 {
            return Err("an ACL entry with permissions above 7");
        }
        if matches!(tag, USER | GROUP) {
            named = true;
            if id == NO_ID {
                return Err("an ACL entry of a user or group without id");
            }
        }
        last = tag;
    }
    if last == OTHER { Ok(()) } else { Err("an ACL without an entry for others") }
}

/// Makes an ACL of the text that `tar --acls` (one entry a line), star and bsdtar (with commas, and with the id as a
/// fourth field) write: `user::rwx,user:lp:r--:7,group::r-x,mask::r-x,other::r--`.
///
/// Gives `None` where the text is no valid ACL, or names a user or group without its number: whose number it is, only
/// the machine that made the tar knew.
pub(crate) fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    for line in text.split(|byte| matches!(byte, b',' | b'\n')) {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
        if !line.is_empty() {
            entries.push(text_entry(line)?);
        }
    }
    // The tags are numbered in the order in which they must stand.
    entries.sort_unstable();
    let mut value = VERSION.to_vec();
    for (tag, id, permissions) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    check(&value).ok().map(|()| value)
}

/// Reads `tag:qualifier:permissions` and perhaps `:id` into tag, id and permissions.
fn text_entry(line: &[u8]) -> Option<(u16, u32, u16)> {
    let mut fields = line.split(|&byte| byte == b':');
    let (tag, qualifier, permissions) = (fields.next()?, fields.next()?, fields.next()?);
    let number = fields.next().unwrap_or(qualifier);
    let (tag, id) = match (tag, qualifier) {
        (b"user" | b"u", b"") => (USER_OBJ, NO_ID),
        (b"group" | b"g", b"") => (GROUP_OBJ, NO_ID),
        (b"mask" | b"m", b"") => (MASK, NO_ID),
        (b"other" | b"o", b"") => (OTHER, NO_ID),
        (b"user" | b"u", _) => (USER, str::from_utf8(number).ok()?.parse().ok()?),
        (b"group" | b"g", _) => (GROUP, str::from_utf8(number).ok()?.parse().ok()?),
        _ => return None,
    };
    let permissions = permissions.iter().try_fold(0, |all, &letter| match letter {
        b'r' => Some(all | 4),
        b'w' => Some(all | 2),
        b'x' => Some(all | 1),
        b'-' => Some(all),
        _ => None,
    })?;
    Some((tag, id, permissions))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tag, permissions, id.
    type Entry = (u16, u16, u32);

    fn acl(entries: &[Entry]) -> Vec<u8> {
        let mut value = VERSION.to_vec();
        for (tag, permissions, id) in entries {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&permissions.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    #[test]
    fn what_the_kernel_takes_is_accepted_and_nothing_else() {
        const OWNER: Entry = (USER_OBJ, 7, NO_ID);
        const TEAM: Entry = (GROUP_OBJ, 5, NO_ID);
        const LIMIT: Entry = (MASK, 5, NO_ID);
        const REST: Entry = (OTHER, 4, NO_ID);
        const U: Entry = (USER, 6, 7);
        const G: Entry = (GROUP, 6, 7);
        let good: &[&[Entry]] = &[
            &[OWNER, TEAM, REST],
            &[OWNER, TEAM, LIMIT, REST],
            &[OWNER, U, TEAM, LIMIT, REST],
            &[OWNER, TEAM, G, LIMIT, REST],
            &[OWNER, U, (USER, 0, 0), TEAM, G, G, LIMIT, REST],
        ];
        for entries in good {
            assert_eq!(check(&acl(entries)), Ok(()), "{entries:?}");
        }
        assert_eq!(MINIMAL, acl(good[0]));
        let order = "in that order";
        let bad: &[(&[Entry], &str)] = &[
            (&[], "others"),
            (&[OWNER], "others"),
            (&[OWNER, TEAM], "others"),
            (&[OWNER, TEAM, LIMIT], "others"),
            (&[OWNER, TEAM, REST, REST], order),
            (&[TEAM, OWNER, REST], order),
            (&[OWNER, OWNER, TEAM, REST], order),
            (&[OWNER, REST], order),
            (&[OWNER, TEAM, U, LIMIT, REST], order),
            (&[OWNER, G, TEAM, LIMIT, REST], order),
            (&[OWNER, TEAM, LIMIT, G, REST], order),
            // Without a mask named entries would have no limit.
            (&[OWNER, U, TEAM, REST], order),
            (&[OWNER, TEAM, G, REST], order),
            (&[OWNER, TEAM, (OTHER, 8, NO_ID)], "above 7"),
            (&[OWNER, (USER, 7, NO_ID), TEAM, LIMIT, REST], "without id"),
            (&[OWNER, TEAM, (GROUP, 7, NO_ID), LIMIT, REST], "without id"),
            (&[OWNER, (3, 7, 7), TEAM, REST], "unknown tag"),
        ];
        for (entries, expected) in bad {
            let reason = check(&acl(entries)).unwrap_err();
            assert!(reason.contains(expected), "{entries:?}: {reason}");
        }
        for bytes in
            [&b"user::rwx,group::r-x"[..], &[1, 0, 0, 0], &MINIMAL[..MINIMAL.len() - 1], &[MINIMAL, b"x"].concat()]
        {
            assert_eq!(check(bytes), Err("not a POSIX ACL in binary form, version 2"), "{bytes:?}");
        }
    }

    #[test]
    fn an_acl_gives_its_file_the_mode_that_linux_would() {
        const OWNER: Entry = (USER_OBJ, 6, NO_ID);
        const TEAM: Entry = (GROUP_OBJ, 5, NO_ID);
        const REST: Entry = (OTHER, 1, NO_ID);
        let cases: &[(&[Entry], u16, bool)] = &[
            (&[OWNER, TEAM, REST], 0o651, true),
            (&[OWNER, TEAM, (MASK, 2, NO_ID), REST], 0o621, false),
            (&[OWNER, (USER, 7, 7), TEAM, (MASK, 4, NO_ID), REST], 0o641, false),
            (&[OWNER, TEAM, (GROUP, 7, 7), (MASK, 0, NO_ID), REST], 0o601, false),
        ];
        for &(entries, permissions, is_mode) in cases {
            let value = acl(entries);
            assert_eq!(read(&value), Ok(Acl { value, permissions, is_mode }), "{entries:?}");
        }
        let with_ids = acl(&[(USER_OBJ, 6, 1), (USER, 7, 7), (GROUP_OBJ, 5, 2), (MASK, 4, 3), (OTHER, 1, 4)]);
        assert_eq!(read(&with_ids).unwrap().value, acl(cases[2].0), "the ids of those that have none");
        assert!(read(&acl(&[OWNER])).is_err());
    }

    #[test]
    fn texts_of_all_tars_are_read_where_they_have_numbers() {
        let expected = acl(&[
            (USER_OBJ, 7, NO_ID),
            (USER, 4, 7),
            (USER, 0, 1234),
            (GROUP_OBJ, 5, NO_ID),
            (GROUP, 6, 8),
            (MASK, 5, NO_ID),
            (OTHER, 4, NO_ID),
        ]);
        let good = [
            "user::rwx\nuser:7:r--\nuser:1234:---\ngroup::r-x\ngroup:8:rw-\nmask::r-x\nother::r--\n",
            "user::rwx,user:lp:r--:7,user:x:---:1234,group::r-x,group:mail:rw-:8,mask::r-x,other::r--",
            "group:8:rw-\t#effective:r--,o::r,m::rx,g::r-x,u:1234:,u:7:r, u::rwx",
        ];
        for text in good {
            assert_eq!(from_text(text.as_bytes()).as_ref(), Some(&expected), "{text}");
        }
        assert_eq!(from_text(b"user::rwx,group::r-x,other::r--").as_deref(), Some(MINIMAL));
        let bad = [
            "",
            "user::rwx",
            "user::rwx,user:lp:r--,group::r-x,mask::r-x,other::r--",
            "user::rwx,user:lp:r--:lp,group::r-x,mask::r-x,other::r--",
            "user::rwx,user:4294967295:r--,group::r-x,mask::r-x,other::r--",
            "user::rwx,user:7:r--,group::r-x,other::r--",
            "user::rwx,group::r-x,other::r-q",
            "user::rwx,group::r-x,other",
            "user::rwx,group::r-x,other:7:r--",
            "owner@:rwx::allow",
        ];
        for text in bad {
            assert_eq!(from_text(text.as_bytes()), None, "{text}");
        }
    }
}
