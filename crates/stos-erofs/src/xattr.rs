// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Extended attributes: which ones a layer may bring, and how an image stores them.

use crate::error::{TarProblem, printable};

/// The longest attribute name in bytes (`XATTR_NAME_MAX`).
const MAX_NAME: usize = 255;
/// The largest value that an EROFS entry can hold.
pub(crate) const MAX_VALUE: usize = u16::MAX as usize;
/// The largest body of inline attributes: the inode counts them in 4-byte units, in 16 bits.
pub(crate) const MAX_BODY: usize = 12 + 4 * (u16::MAX as usize - 1);

/// An attribute's namespace; the number is EROFS's name index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Namespace {
    /// `user.`
    User = 1,
    /// `system.posix_acl_access`; the rest of the name is empty.
    AccessAcl = 2,
    /// `system.posix_acl_default`; the rest of the name is empty.
    DefaultAcl = 3,
    /// `trusted.`
    Trusted = 4,
    /// `security.`
    Security = 6,
}

impl Namespace {
    pub(crate) fn from_index(index: u8) -> Option<Self> {
        Some(match index {
            1 => Self::User,
            2 => Self::AccessAcl,
            3 => Self::DefaultAcl,
            4 => Self::Trusted,
            6 => Self::Security,
            _ => return None,
        })
    }
}

/// An extended attribute as an image stores it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// The namespace.
    pub namespace: Namespace,
    /// The name after the namespace's prefix; at most 255 bytes.
    pub name: Vec<u8>,
    /// The value; at most 65,535 bytes.
    pub value: Vec<u8>,
}

/// Whose attribute it is, for those that only some types of files may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    Directory,
    Symlink,
    Other,
}

/// Decides about one attribute of a tar: `None` where it is dropped.
///
/// Dropped are other namespaces than user, trusted, security and the two ACLs; `trusted.overlay.*` and
/// `user.overlay.*`, which overlayfs would obey; `security.selinux`, a label of the machine that made the tar; a
/// default ACL of something else than a directory, any ACL of a symbolic link: the kernel has none there.
pub(crate) fn admit(full: &[u8], value: &[u8], holder: Holder) -> Result<Option<Xattr>, TarProblem> {
    let Some((namespace, name)) = split_name(full) else { return Ok(None) };
    let dropped = match namespace {
        Namespace::User | Namespace::Trusted => name.starts_with(b"overlay."),
        Namespace::Security => name == b"selinux",
        Namespace::AccessAcl => holder == Holder::Symlink,
        Namespace::DefaultAcl => holder != Holder::Directory,
    };
    if dropped {
        return Ok(None);
    }
    let refuse = |reason| Err(TarProblem::Xattr { name: printable(full), reason });
    if full.len() > MAX_NAME {
        return refuse("name longer than 255 bytes");
    }
    if full.contains(&0) {
        return refuse("NUL in the name");
    }
    if value.len() > MAX_VALUE {
        return refuse("value longer than 65,535 bytes");
    }
    if matches!(namespace, Namespace::AccessAcl | Namespace::DefaultAcl) && !is_binary_acl(value) {
        return refuse("not a POSIX ACL in binary form, version 2");
    }
    Ok(Some(Xattr { namespace, name: name.to_vec(), value: value.to_vec() }))
}

/// Sorts a file's attributes into their stored order and checks that they fit one inode.
pub(crate) fn finish(xattrs: &mut [Xattr]) -> Result<(), TarProblem> {
    xattrs.sort();
    if body_len(xattrs) > MAX_BODY {
        let name = xattrs.last().map(|xattr| printable(&xattr.name)).unwrap_or_default();
        return Err(TarProblem::Xattr { name, reason: "all of the file's attributes together exceed 262,148 bytes" });
    }
    Ok(())
}

fn split_name(full: &[u8]) -> Option<(Namespace, &[u8])> {
    match full {
        b"system.posix_acl_access" => return Some((Namespace::AccessAcl, b"")),
        b"system.posix_acl_default" => return Some((Namespace::DefaultAcl, b"")),
        _ => {}
    }
    let prefixes: [(&[u8], Namespace); 3] =
        [(b"user.", Namespace::User), (b"trusted.", Namespace::Trusted), (b"security.", Namespace::Security)];
    prefixes
        .into_iter()
        .find_map(|(prefix, namespace)| full.strip_prefix(prefix).map(|rest| (namespace, rest)))
        .filter(|(_, rest)| !rest.is_empty())
}

/// The kernel's `posix_acl_from_xattr`: a little-endian version 2, then entries of tag u16, permissions u16, id u32.
/// A file whose stored ACL breaks this cannot be opened at all.
fn is_binary_acl(value: &[u8]) -> bool {
    const TAGS: [u16; 6] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20];
    let Some(entries) = value.strip_prefix(&2u32.to_le_bytes()) else { return false };
    entries.len().is_multiple_of(8)
        && entries.chunks_exact(8).all(|entry| TAGS.contains(&u16::from_le_bytes([entry[0], entry[1]])))
}

/// The bytes that the attributes take after their inode; 0 for none.
pub(crate) fn body_len(xattrs: &[Xattr]) -> usize {
    if xattrs.is_empty() {
        return 0;
    }
    12 + xattrs.iter().map(|xattr| (4 + xattr.name.len() + xattr.value.len()).next_multiple_of(4)).sum::<usize>()
}

/// Encodes the attributes as they stand after their inode: a 12-byte header (no filter, no shared ones), then entries.
/// The attributes must have come through [`admit`] or an [`crate::IndexReader`], which bound their lengths.
pub(crate) fn encode_body(xattrs: &[Xattr], out: &mut Vec<u8>) {
    if xattrs.is_empty() {
        return;
    }
    out.extend_from_slice(&[0; 12]);
    for xattr in xattrs {
        let start = out.len();
        out.extend_from_slice(&[xattr.name.len() as u8, xattr.namespace as u8]);
        out.extend_from_slice(&(xattr.value.len() as u16).to_le_bytes());
        out.extend_from_slice(&xattr.name);
        out.extend_from_slice(&xattr.value);
        out.resize(start + (out.len() - start).next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl() -> Vec<u8> {
        [&2u32.to_le_bytes()[..], &[1, 0, 7, 0, 0xff, 0xff, 0xff, 0xff]].concat()
    }

    #[test]
    fn namespaces_are_kept_or_dropped() {
        use Namespace::*;
        let cases: &[(&str, Option<(Namespace, &str)>)] = &[
            ("user.mime_type", Some((User, "mime_type"))),
            ("user.overlay.opaque", None),
            ("user.overlayish", Some((User, "overlayish"))),
            ("trusted.x", Some((Trusted, "x"))),
            ("trusted.overlay.redirect", None),
            ("security.capability", Some((Security, "capability"))),
            ("security.selinux", None),
            ("security.selinux2", Some((Security, "selinux2"))),
            ("system.nfs4_acl", None),
            ("com.apple.quarantine", None),
            ("user.", None),
            ("user", None),
        ];
        for (name, expected) in cases {
            let found = admit(name.as_bytes(), b"v", Holder::Other).unwrap();
            let expected =
                expected.map(|(namespace, name)| Xattr { namespace, name: name.into(), value: b"v".to_vec() });
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn acls_must_be_binary_version_2_and_where_the_kernel_has_them() {
        let access = b"system.posix_acl_access";
        let default = b"system.posix_acl_default";
        assert!(admit(access, &acl(), Holder::Other).unwrap().is_some());
        assert!(admit(access, &acl(), Holder::Symlink).unwrap().is_none());
        assert!(admit(default, &acl(), Holder::Directory).unwrap().is_some());
        assert!(admit(default, &acl(), Holder::Other).unwrap().is_none());
        let mut cut = acl();
        cut.pop();
        for bad in [&b"user::rwx,group::r-x"[..], &[], &[1, 0, 0, 0], &cut, &[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]] {
            let error = admit(access, bad, Holder::Other).unwrap_err();
            assert!(matches!(error, TarProblem::Xattr { reason, .. } if reason.contains("version 2")), "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let name = |len: usize| [&b"user."[..], &vec![b'n'; len - 5]].concat();
        assert!(admit(&name(255), &[0; 65_535], Holder::Other).unwrap().is_some());
        assert!(admit(&name(256), b"", Holder::Other).is_err());
        assert!(admit(b"user.a", &[0; 65_536], Holder::Other).is_err());
        assert!(admit(b"user.a\0b", b"", Holder::Other).is_err());
        let large = |tail: u8| Xattr { namespace: Namespace::User, name: vec![tail], value: vec![0; 65_535] };
        assert!(finish(&mut [large(1), large(2), large(3)]).is_ok());
        assert!(finish(&mut [large(1), large(2), large(3), large(4)]).is_err());
    }

    #[test]
    fn the_body_is_padded_to_four_bytes() {
        let xattrs = [Xattr { namespace: Namespace::User, name: b"abc".to_vec(), value: b"12".to_vec() }];
        let mut body = Vec::new();
        encode_body(&xattrs, &mut body);
        assert_eq!(body.len(), body_len(&xattrs));
        assert_eq!(body[12..], [3, 1, 2, 0, b'a', b'b', b'c', b'1', b'2', 0, 0, 0]);
    }
}
