// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Extended attributes: which ones a layer may bring, and how an image stores them.

use crate::acl;
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
    /// Gives what a name of the namespace begins with; of the two ACLs the whole name.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::User => "user.",
            Self::AccessAcl => "system.posix_acl_access",
            Self::DefaultAcl => "system.posix_acl_default",
            Self::Trusted => "trusted.",
            Self::Security => "security.",
        }
    }

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

impl Xattr {
    /// Gives the name as system calls take it.
    pub fn full_name(&self) -> Vec<u8> {
        [self.namespace.prefix().as_bytes(), &self.name].concat()
    }

    /// Takes an attribute of a file by its full name, if a tar of the file is to have it: `None` for what [`crate::TarIndexer`]
    /// would drop whatever the file, overlayfs's own attributes and SELinux labels above all.
    pub fn of_file(full: &[u8], value: Vec<u8>) -> Option<Self> {
        let (namespace, name) = split_name(full)?;
        let is_dropped = match namespace {
            Namespace::User | Namespace::Trusted => name.starts_with(b"overlay."),
            Namespace::Security => name == b"selinux",
            Namespace::AccessAcl | Namespace::DefaultAcl => acl::is_empty(&value),
        };
        (!is_dropped).then(|| Self { namespace, name: name.to_vec(), value })
    }
}

/// Whose attribute it is, for those that only some types of files may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    Directory,
    Regular,
    Symlink,
    /// A device or FIFO.
    Special,
}

/// Decides about one attribute of a tar: `None` where it is dropped.
///
/// Dropped are other namespaces than user, trusted, security and the two ACLs; `trusted.overlay.*` and
/// `user.overlay.*`, which overlayfs would obey; `security.selinux`, a label of the machine that made the tar; an
/// empty ACL, which is none; and what the kernel knows on some types of files only: `user.` of others than regular
/// files and directories (overlayfs could not copy such a file up), a default ACL of something else than a directory,
/// any ACL of a symbolic link.
pub(crate) fn admit(full: &[u8], value: &[u8], holder: Holder) -> Result<Option<Xattr>, TarProblem> {
    let Some((namespace, name)) = split_name(full) else { return Ok(None) };
    let overlay = name.starts_with(b"overlay.");
    let dropped = match namespace {
        Namespace::User => overlay || !matches!(holder, Holder::Directory | Holder::Regular),
        Namespace::Trusted => overlay,
        Namespace::Security => name == b"selinux",
        Namespace::AccessAcl => holder == Holder::Symlink || acl::is_empty(value),
        Namespace::DefaultAcl => holder != Holder::Directory || acl::is_empty(value),
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
    match namespace {
        Namespace::AccessAcl | Namespace::DefaultAcl => {
            if let Err(reason) = acl::check(value) {
                return refuse(reason);
            }
        }
        Namespace::Security if name == b"capability" && !is_file_capability(value) => {
            return refuse("neither 12, 20 nor 24 bytes of file capabilities of revision 1, 2 or 3");
        }
        _ => {}
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

/// The kernel's `get_vfs_caps_from_disk`: the revision is the first little-endian word's upper byte, and says the length.
/// A file whose capabilities break this cannot be executed at all.
fn is_file_capability(value: &[u8]) -> bool {
    matches!((value.get(3), value.len()), (Some(1), 12) | (Some(2), 20) | (Some(3), 24))
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

/// Decodes what [`encode_body`] wrote.
pub(crate) fn decode_body(body: &[u8]) -> Vec<Xattr> {
    let mut xattrs = Vec::new();
    let mut rest = body.get(12..).unwrap_or_default();
    while let [name_len, namespace, low, high, fields @ ..] = rest {
        let Some(namespace) = Namespace::from_index(*namespace) else { break };
        let (name, after) = fields.split_at(usize::from(*name_len));
        let value = &after[..usize::from(u16::from_le_bytes([*low, *high]))];
        xattrs.push(Xattr { namespace, name: name.to_vec(), value: value.to_vec() });
        let len = (4 + name.len() + value.len()).next_multiple_of(4);
        rest = &rest[len..];
    }
    xattrs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_kept_or_dropped() {
        use Namespace::*;
        let cases: &[(&str, Option<(Namespace, &str)>)] = &[
            ("user.mime_type", Some((User, "mime_type"))),
            ("user.overlay.opaque", None),
            ("user.overlayish", Some((User, "overlayish"))),
            ("trusted.x", Some((Trusted, "x"))),
            ("trusted.overlay.redirect", None),
            ("security.ima", Some((Security, "ima"))),
            ("security.selinux", None),
            ("security.selinux2", Some((Security, "selinux2"))),
            ("system.nfs4_acl", None),
            ("com.apple.quarantine", None),
            ("user.", None),
            ("user", None),
        ];
        for (name, expected) in cases {
            let found = admit(name.as_bytes(), b"v", Holder::Regular).unwrap();
            let expected =
                expected.map(|(namespace, name)| Xattr { namespace, name: name.into(), value: b"v".to_vec() });
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn a_tar_of_a_file_has_what_an_image_would_keep() {
        let kept = |name: &str| Xattr::of_file(name.as_bytes(), b"v".to_vec()).map(|xattr| xattr.name);
        assert_eq!(kept("user.a"), Some(b"a".to_vec()));
        assert_eq!(kept("security.capability"), Some(b"capability".to_vec()));
        for name in ["trusted.overlay.opaque", "user.overlay.opaque", "security.selinux", "system.nfs4_acl", "user."] {
            assert_eq!(kept(name), None, "{name}");
        }
        assert!(Xattr::of_file(b"system.posix_acl_access", acl::MINIMAL.to_vec()).is_some());
        assert!(Xattr::of_file(b"system.posix_acl_access", acl::MINIMAL[..4].to_vec()).is_none());
    }

    #[test]
    fn attributes_are_kept_where_the_kernel_has_them() {
        use Holder::*;
        let acl = acl::MINIMAL;
        let cases: &[(&str, &[u8], &[Holder])] = &[
            ("user.x", b"v", &[Directory, Regular]),
            ("trusted.x", b"v", &[Directory, Regular, Symlink, Special]),
            ("security.x", b"v", &[Directory, Regular, Symlink, Special]),
            ("system.posix_acl_access", acl, &[Directory, Regular, Special]),
            ("system.posix_acl_default", acl, &[Directory]),
            ("system.posix_acl_access", b"", &[]),
            ("system.posix_acl_default", &acl[..4], &[]),
        ];
        for (name, value, expected) in cases {
            let mut kept = vec![Directory, Regular, Symlink, Special];
            kept.retain(|holder| admit(name.as_bytes(), value, *holder).unwrap().is_some());
            assert_eq!(kept, *expected, "{name}");
        }
        let refused = admit(b"system.posix_acl_access", b"user::rwx,group::r-x", Regular).unwrap_err();
        assert!(matches!(refused, TarProblem::Xattr { .. }), "{refused}");
    }

    #[test]
    fn file_capabilities_have_the_length_of_their_revision() {
        for len in 0..32 {
            for revision in 0..5 {
                let mut value = vec![0; len];
                if let Some(byte) = value.get_mut(3) {
                    *byte = revision;
                }
                let valid = matches!((revision, len), (1, 12) | (2, 20) | (3, 24));
                assert_eq!(admit(b"security.capability", &value, Holder::Regular).is_ok(), valid, "{revision} {len}");
            }
        }
        assert!(admit(b"security.capability2", b"v", Holder::Regular).is_ok());
    }

    #[test]
    fn lengths_are_bounded() {
        let name = |len: usize| [&b"user."[..], &vec![b'n'; len - 5]].concat();
        assert!(admit(&name(255), &[0; 65_535], Holder::Regular).unwrap().is_some());
        assert!(admit(&name(256), b"", Holder::Regular).is_err());
        assert!(admit(b"user.a", &[0; 65_536], Holder::Regular).is_err());
        assert!(admit(b"user.a\0b", b"", Holder::Regular).is_err());
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
