// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Extended attributes: which ones a layer may bring, and how an image stores them.

use crate::acl;
use crate::error::{MergeProblem, TarProblem, printable};

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

    /// Takes the attributes of a file, by full names, that a tar of the file is to have, sorted: without what
    /// [`crate::TarIndexer`] would drop whatever the file, overlayfs's own attributes and SELinux labels above all.
    ///
    /// # Errors
    /// [`TarProblem::Xattr`] for one that no index takes, and where they take too much together. Linux allows values of 65,536
    /// bytes (`XATTR_SIZE_MAX`), one more than an image can hold.
    pub fn of_file<N: AsRef<[u8]>>(
        attributes: impl IntoIterator<Item = (N, Vec<u8>)>,
    ) -> Result<Vec<Self>, TarProblem> {
        let mut kept = Vec::new();
        for (full, value) in attributes {
            let full = full.as_ref();
            let Some((namespace, name)) = split_name(full) else { continue };
            let is_dropped = match namespace {
                Namespace::User | Namespace::Trusted => name.starts_with(b"overlay."),
                Namespace::Security => name == b"selinux",
                Namespace::AccessAcl | Namespace::DefaultAcl => acl::is_empty(&value),
            };
            if !is_dropped {
                check_lengths(full, &value)?;
                kept.push(Self { namespace, name: name.to_vec(), value });
            }
        }
        finish(&mut kept)?;
        Ok(kept)
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

/// Decides about one attribute of a tar: `None` where it is dropped. `mode` is the file's.
///
/// Dropped are other namespaces than user, trusted, security and the two ACLs; `trusted.overlay.*` and
/// `user.overlay.*`, which overlayfs would obey; `security.selinux`, a label of the machine that made the tar; an
/// empty ACL, which is none; and what the kernel knows on some types of files only: `user.` of others than regular
/// files and directories (overlayfs could not copy such a file up), a default ACL of something else than a directory,
/// any ACL of a symbolic link.
///
/// The rest is what a file has on which Linux has set it, so that it is the same wherever it is kept: an access ACL sets the
/// mode's permission bits, and is dropped where it says no more than they do (`posix_acl_update_mode`); file capabilities
/// take the form in which they are read (see [`file_capability`]).
pub(crate) fn admit(full: &[u8], value: &[u8], holder: Holder, mode: &mut u16) -> Result<Option<Xattr>, TarProblem> {
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
    check_lengths(full, value)?;
    let value = match namespace {
        Namespace::AccessAcl | Namespace::DefaultAcl => match acl::read(value) {
            Err(reason) => return refuse(reason),
            Ok(acl) => {
                if namespace == Namespace::AccessAcl {
                    *mode = *mode & !0o777 | acl.permissions;
                    if acl.is_mode {
                        return Ok(None);
                    }
                }
                acl.value
            }
        },
        Namespace::Security if name == b"capability" => match file_capability(value) {
            Some(value) => value,
            None => {
                return refuse(
                    "not file capabilities of revision 1, 2 or 3 in 12, 20 or 24 bytes with no unknown flag",
                );
            }
        },
        _ => value.to_vec(),
    };
    Ok(Some(Xattr { namespace, name: name.to_vec(), value }))
}

fn check_lengths(full: &[u8], value: &[u8]) -> Result<(), TarProblem> {
    let reason = match () {
        () if full.len() > MAX_NAME => "name longer than 255 bytes",
        () if full.contains(&0) => "NUL in the name",
        () if value.len() > MAX_VALUE => "value longer than 65,535 bytes",
        () => return Ok(()),
    };
    Err(TarProblem::Xattr { name: printable(full), reason })
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

/// Brings file capabilities into the form in which Linux gives them back; `None` for what it refuses to set
/// (`cap_convert_nscap`) or, of revision 1, to execute (`get_vfs_caps_from_disk`).
///
/// The first little-endian word has the revision in its upper byte, and as its only flag that they are effective. Revision 1
/// holds capabilities 0 to 31, and can no longer be set or read: revision 2 with none above says the same. Of revision 3 the
/// last word is the root of a user namespace; that of the host's is what revision 2 means, and is given back so
/// (`cap_inode_getsecurity`); 2³² − 1 is no user.
fn file_capability(value: &[u8]) -> Option<Vec<u8>> {
    let (&[flags, 0, 0, revision], sets) = value.split_first_chunk()? else { return None };
    if flags > 1 {
        return None;
    }
    let of_revision_2 = |sets: &[u8]| [&[flags, 0, 0, 2], sets].concat();
    match (revision, sets.len()) {
        (1, 8) => Some(of_revision_2(&[sets, &[0; 8]].concat())),
        (2, 16) => Some(value.to_vec()),
        (3, 20) => match sets[16..] {
            [0, 0, 0, 0] => Some(of_revision_2(&sets[..16])),
            [0xff, 0xff, 0xff, 0xff] => None,
            _ => Some(value.to_vec()),
        },
        _ => None,
    }
}

/// The bytes that the attributes take after their inode; 0 for none.
pub(crate) fn body_len(xattrs: &[Xattr]) -> usize {
    if xattrs.is_empty() {
        return 0;
    }
    12 + xattrs.iter().map(|xattr| (4 + xattr.name.len() + xattr.value.len()).next_multiple_of(4)).sum::<usize>()
}

/// Encodes the attributes as they stand after their inode: a 12-byte header (no filter, no shared ones), then entries.
///
/// # Errors
/// [`MergeProblem::TooMany`] where they exceed what an inode can have; never of those that come through [`admit`], an
/// [`crate::IndexReader`] or [`Xattr::of_file`].
pub(crate) fn encode_body(xattrs: &[Xattr], out: &mut Vec<u8>) -> Result<(), MergeProblem> {
    if xattrs.is_empty() {
        return Ok(());
    }
    let too_many = |what, limit: usize| MergeProblem::TooMany { what, limit: limit as u64 };
    if body_len(xattrs) > MAX_BODY {
        return Err(too_many("bytes of attributes of one file", MAX_BODY));
    }
    out.extend_from_slice(&[0; 12]);
    for xattr in xattrs {
        let start = out.len();
        let name_len =
            u8::try_from(xattr.name.len()).map_err(|_| too_many("bytes of an attribute's name", MAX_NAME))?;
        let value_len = u16::try_from(xattr.value.len()).map_err(|_| too_many("bytes of an attribute", MAX_VALUE))?;
        out.extend_from_slice(&[name_len, xattr.namespace as u8]);
        out.extend_from_slice(&value_len.to_le_bytes());
        out.extend_from_slice(&xattr.name);
        out.extend_from_slice(&xattr.value);
        out.resize(start + (out.len() - start).next_multiple_of(4), 0);
    }
    Ok(())
}

/// Decodes what [`encode_body`] wrote; of anything else those attributes that are whole.
pub(crate) fn decode_body(body: &[u8]) -> Vec<Xattr> {
    let mut xattrs = Vec::new();
    let mut rest = body.get(12..).unwrap_or_default();
    while let [name_len, namespace, low, high, fields @ ..] = rest {
        let Some(namespace) = Namespace::from_index(*namespace) else { break };
        let Some((name, after)) = fields.split_at_checked(usize::from(*name_len)) else { break };
        let Some(value) = after.get(..usize::from(u16::from_le_bytes([*low, *high]))) else { break };
        xattrs.push(Xattr { namespace, name: name.to_vec(), value: value.to_vec() });
        let len = (4 + name.len() + value.len()).next_multiple_of(4);
        rest = rest.get(len..).unwrap_or_default();
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
            let found = admit(name.as_bytes(), b"v", Holder::Regular, &mut 0).unwrap();
            let expected =
                expected.map(|(namespace, name)| Xattr { namespace, name: name.into(), value: b"v".to_vec() });
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn a_tar_of_a_file_has_what_an_image_would_keep() {
        let names = ["trusted.overlay.opaque", "user.overlay.opaque", "security.selinux", "system.nfs4_acl", "user."];
        let all = ["user.b", "user.a", "security.capability"].iter().chain(&names).map(|name| (name, b"v".to_vec()));
        let kept = Xattr::of_file(all).unwrap();
        let kept: Vec<_> = kept.into_iter().map(|xattr| xattr.full_name()).collect();
        assert_eq!(kept, [&b"user.a"[..], b"user.b", b"security.capability"]);
        let acls = |value: &[u8]| Xattr::of_file([("system.posix_acl_access", value.to_vec())]).unwrap().len();
        assert_eq!((acls(acl::MINIMAL), acls(&acl::MINIMAL[..4])), (1, 0));
    }

    #[test]
    fn a_file_on_disk_may_have_more_than_an_image_can_hold() {
        let of = |len: usize, names: &[&str]| Xattr::of_file(names.iter().map(|name| (name, vec![0; len])));
        let long = format!("user.{}", "n".repeat(251));
        assert!(of(65_535, &["user.a", "user.b", "user.c"]).is_ok());
        let cases: [(usize, &[&str], &str); 3] = [
            (65_536, &["user.a"], "longer than 65,535"),
            (0, &[&long], "longer than 255"),
            (65_535, &["user.a", "user.b", "user.c", "user.d"], "together"),
        ];
        for (len, names, expected) in cases {
            let problem = of(len, names).unwrap_err();
            assert!(matches!(problem, TarProblem::Xattr { reason, .. } if reason.contains(expected)), "{problem}");
        }
        // What is left out for its name may be as large as it likes.
        assert_eq!(of(65_536, &["trusted.overlay.origin", "security.selinux"]), Ok(Vec::new()));
    }

    #[test]
    fn no_body_makes_the_codec_panic() {
        let of = |name: usize, value: usize| {
            let namespace = Namespace::User;
            encode_body(&[Xattr { namespace, name: vec![b'n'; name], value: vec![0; value] }], &mut Vec::new())
        };
        assert!(of(255, 65_535).is_ok());
        for (name, value) in [(256, 0), (1, 65_536), (1, 1 << 20)] {
            assert!(matches!(of(name, value), Err(MergeProblem::TooMany { .. })), "{name} {value}");
        }
        let xattrs = [1, 2].map(|tail| Xattr { namespace: Namespace::User, name: vec![tail], value: vec![7; 6] });
        let mut body = Vec::new();
        encode_body(&xattrs, &mut body).unwrap();
        assert_eq!(decode_body(&body), xattrs);
        for len in 0..body.len() {
            let found = decode_body(&body[..len]);
            assert!(xattrs.starts_with(&found), "{len}");
            for byte in 0..len {
                let mut body = body[..len].to_vec();
                body[byte] = 0xff;
                drop(decode_body(&body));
            }
        }
    }

    #[test]
    fn attributes_are_kept_where_the_kernel_has_them() {
        use Holder::*;
        let minimal = acl::MINIMAL;
        let acl = acl::WITH_MASK;
        let cases: &[(&str, &[u8], &[Holder])] = &[
            ("user.x", b"v", &[Directory, Regular]),
            ("trusted.x", b"v", &[Directory, Regular, Symlink, Special]),
            ("security.x", b"v", &[Directory, Regular, Symlink, Special]),
            ("system.posix_acl_access", acl, &[Directory, Regular, Special]),
            ("system.posix_acl_access", minimal, &[]),
            ("system.posix_acl_default", acl, &[Directory]),
            ("system.posix_acl_default", minimal, &[Directory]),
            ("system.posix_acl_access", b"", &[]),
            ("system.posix_acl_default", &acl[..4], &[]),
        ];
        for (name, value, expected) in cases {
            let mut kept = vec![Directory, Regular, Symlink, Special];
            kept.retain(|holder| admit(name.as_bytes(), value, *holder, &mut 0).unwrap().is_some());
            assert_eq!(kept, *expected, "{name}");
        }
        let refused = admit(b"system.posix_acl_access", b"user::rwx,group::r-x", Regular, &mut 0).unwrap_err();
        assert!(matches!(refused, TarProblem::Xattr { .. }), "{refused}");
    }

    #[test]
    fn an_access_acl_sets_the_mode_and_no_other_does() {
        let mode_after = |name: &str, value: &[u8], holder| {
            let mut mode = 0o4711;
            admit(name.as_bytes(), value, holder, &mut mode).unwrap();
            mode
        };
        let (access, default) = ("system.posix_acl_access", "system.posix_acl_default");
        assert_eq!(mode_after(access, acl::MINIMAL, Holder::Regular), 0o4754);
        assert_eq!(mode_after(access, acl::WITH_MASK, Holder::Special), 0o4724);
        assert_eq!(mode_after(access, acl::MINIMAL, Holder::Symlink), 0o4711);
        assert_eq!(mode_after(access, b"", Holder::Regular), 0o4711);
        assert_eq!(mode_after(default, acl::MINIMAL, Holder::Directory), 0o4711);
        assert_eq!(mode_after("user.a", acl::MINIMAL, Holder::Regular), 0o4711);
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
                let found = admit(b"security.capability", &value, Holder::Regular, &mut 0);
                assert_eq!(found.is_ok(), valid, "{revision} {len}");
            }
        }
        assert!(admit(b"security.capability2", b"v", Holder::Regular, &mut 0).is_ok());
    }

    #[test]
    fn file_capabilities_take_the_form_in_which_linux_reads_them() {
        let value = |revision: u8, flags: u8, sets: &[u32]| {
            let sets: Vec<u8> = sets.iter().flat_map(|word| word.to_le_bytes()).collect();
            [&[flags, 0, 0, revision][..], &sets].concat()
        };
        let two = value(2, 1, &[1, 2, 3, 4]);
        let of_1000 = value(3, 0, &[1, 2, 3, 4, 1000]);
        let cases = [
            (value(1, 1, &[1, 2]), Some(value(2, 1, &[1, 2, 0, 0]))),
            (value(1, 0, &[1, 2]), Some(value(2, 0, &[1, 2, 0, 0]))),
            (two.clone(), Some(two.clone())),
            (value(3, 1, &[1, 2, 3, 4, 0]), Some(two.clone())),
            (of_1000.clone(), Some(of_1000)),
            (value(3, 0, &[1, 2, 3, 4, u32::MAX]), None),
            (value(2, 2, &[1, 2, 3, 4]), None),
            ([&[1, 1, 0, 2], &two[4..]].concat(), None),
        ];
        for (value, expected) in cases {
            assert_eq!(file_capability(&value), expected, "{value:02x?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let name = |len: usize| [&b"user."[..], &vec![b'n'; len - 5]].concat();
        let admit = |full: &[u8], value: &[u8]| admit(full, value, Holder::Regular, &mut 0);
        assert!(admit(&name(255), &[0; 65_535]).unwrap().is_some());
        assert!(admit(&name(256), b"").is_err());
        assert!(admit(b"user.a", &[0; 65_536]).is_err());
        assert!(admit(b"user.a\0b", b"").is_err());
        let large = |tail: u8| Xattr { namespace: Namespace::User, name: vec![tail], value: vec![0; 65_535] };
        assert!(finish(&mut [large(1), large(2), large(3)]).is_ok());
        assert!(finish(&mut [large(1), large(2), large(3), large(4)]).is_err());
    }

    #[test]
    fn the_body_is_padded_to_four_bytes() {
        let xattrs = [Xattr { namespace: Namespace::User, name: b"abc".to_vec(), value: b"12".to_vec() }];
        let mut body = Vec::new();
        encode_body(&xattrs, &mut body).unwrap();
        assert_eq!(body.len(), body_len(&xattrs));
        assert_eq!(body[12..], [3, 1, 2, 0, b'a', b'b', b'c', b'1', b'2', 0, 0, 0]);
    }
}
