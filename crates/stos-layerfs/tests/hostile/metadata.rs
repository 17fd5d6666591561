// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kinds of files, owners, modes, times, attributes, sparse files, sizes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use stos_erofs::TarProblem;
use stos_testkit::tar_builder::{Entry, Format, RawHeader, TarBuilder, file_capability, posix_acl};
use stos_testkit::tree::Node;

use super::case::{Aim, Case, Problem, Sight, file, gone, names, node, refusal, sight, tar};

fn number(layer: TarBuilder, source: &'static str, says: &str) -> Case {
    Case::refused(source, [layer], refusal!(Problem::Tar(TarProblem::Number { .. }), says))
}

fn attribute(path: &'static str, name: &'static str, value: impl AsRef<[u8]>) -> Sight {
    let value = value.as_ref().to_vec();
    node(path, "an attribute of another value", move |node| node.xattrs.get(name.as_bytes()) == Some(&value))
}

pub fn devices_and_fifos(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::char_device("null", 1, 3).mode(0o622))
        .entry(Entry::block_device("disk", 4095, 1_048_575).owner(0, 6))
        .entry(Entry::fifo("fifo").mode(0o600));
    let sights = [
        node("null", "1:3", |node| (node.kind, node.device, node.mode) == ("char device", (1, 3), 0o622)),
        node("disk", "4095:1048575", |node| {
            (node.kind, node.device, node.gid) == ("block device", (4095, 1_048_575), 6)
        }),
        node("fifo", "a FIFO", |node| (node.kind, node.mode) == ("fifo", 0o600)),
    ];
    Case::shown("image-spec, layer.md, File Types", [layer], sights)
}

pub fn device_numbers_beyond_the_kernel_s(_: &Aim) -> Case {
    number(tar().entry(Entry::char_device("d", 4096, 0)), "Linux, MINORBITS: 12 and 20 bits", "devmajor")
}

/// No tar has sockets: GNU tar skips them, and no type is theirs.
pub fn socket(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::UnknownType { found: 's' }), "unknown type");
    Case::refused("image-spec, layer.md, File Types: sockets", [tar().entry(Entry::of_kind(b's', "socket"))], kind)
}

/// GNU tar unpacks these as files; a renamed file (`N`) or a volume's continuation (`M`) would be one it is not.
pub fn unknown_types(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::UnknownType { found: 'M' }), "unknown type");
    Case::refused("Go archive/tar, Header.Typeflag", [tar().entry(Entry::of_kind(b'M', "part"))], kind)
}

pub fn setuid_setgid_and_sticky(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::file("both", "x").mode(0o6755).owner(7, 8))
        .entry(Entry::directory("tmp").mode(0o3777).owner(9, 10))
        .entry(Entry::file("types", "").mode(0o104_755));
    let sights = [
        node("both", "mode 6755 of 7:8", |node| (node.mode, node.uid, node.gid) == (0o6755, 7, 8)),
        node("tmp", "mode 3777 of 9:10", |node| (node.mode, node.uid) == (0o3777, 9)),
        node("types", "mode 4755, the type's bits aside", |node| node.mode == 0o4755),
    ];
    Case::shown("image-spec, layer.md, File Attributes: mode; chown(2) takes setuid away", [layer], sights)
}

/// The mode of a file that cannot even be read by its owner must not stop what comes after.
pub fn directories_that_nobody_may_enter(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::directory("d").mode(0))
        .entry(Entry::file("d/f", "1").mode(0))
        .entry(Entry::directory("d/e").mode(0o111));
    Case::shown(
        "image-spec, layer.md, File Attributes: mode",
        [layer],
        [file("d/f", "1"), node("d", "mode 0", |node| node.mode == 0)],
    )
}

pub fn file_capabilities(_: &Aim) -> Case {
    let capability = file_capability(1 << 10);
    let mut of_namespace = file_capability(1 << 12);
    of_namespace[3] = 3;
    of_namespace.extend(1000_u32.to_le_bytes());
    let layer = tar()
        .entry(Entry::file("two", "x").mode(0o755).owner(3, 3).xattr("security.capability", &capability))
        .entry(Entry::file("three", "x").xattr("security.capability", &of_namespace));
    let sights =
        [attribute("two", "security.capability", capability), attribute("three", "security.capability", of_namespace)];
    Case::shown("capabilities(7), revisions 2 and 3", [layer], sights)
}

pub fn file_capabilities_that_are_none(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::Xattr { .. }), "security.capability");
    let layer = tar().entry(Entry::file("f", "").xattr("security.capability", b"\x01\0\0\x02short"));
    Case::refused("Linux, get_vfs_caps_from_disk: the file could not be executed", [layer], kind)
}

pub fn access_control_lists(_: &Aim) -> Case {
    let acl = posix_acl(&[(1, 6, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]);
    let layer = tar()
        .entry(Entry::file("f", "").mode(0o640).xattr("system.posix_acl_access", &acl))
        .entry(Entry::directory("d").xattr("system.posix_acl_default", &acl))
        .entry(
            Entry::file("text", "")
                .mode(0o640)
                .pax("SCHILY.acl.access", "user::rw-,user::r--:1000,group::r--,mask::r--,other::---"),
        );
    let sights = [attribute("f", "system.posix_acl_access", &acl), attribute("d", "system.posix_acl_default", &acl)];
    Case::shown("acl(5)", [layer], sights)
}

pub fn access_control_lists_that_are_none(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::Xattr { .. }), "posix_acl_access");
    let layer = tar().entry(Entry::file("f", "").xattr("system.posix_acl_access", b"\x02\0\0\0junk"));
    Case::refused("Linux, posix_acl_from_xattr: the file could not be opened", [layer], kind)
}

/// Labels are the host's to give.
pub fn selinux_labels(_: &Aim) -> Case {
    let label = "system_u:object_r:shadow_t:s0";
    let layer = tar().entry(Entry::file("f", "").xattr("security.selinux", label).pax("RHT.security.selinux", label));
    // The tree leaves the host's own label out.
    let bare = sight(|view| {
        let mut value = [0; 256];
        match rustix::fs::lgetxattr(view.point.join("f"), "security.selinux", &mut value) {
            Ok(length) if value[..length].starts_with(b"system_u:object_r:shadow_t") => Err("the tar's label".into()),
            _ => Ok(()),
        }
    });
    Case::shown("selinux(8): labels are the host's policy", [layer], [bare, file("f", "")])
}

/// Linux has no such attributes on links and devices, and overlayfs could not copy such a file up.
pub fn user_attributes_where_none_can_be(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::symlink("s", "t").xattr("user.a", "1"))
        .entry(Entry::fifo("p").xattr("user.a", "1"))
        .entry(Entry::char_device("c", 1, 3).xattr("user.a", "1"))
        .entry(Entry::file("f", "").xattr("user.a", "1").xattr("system.nonsense", "1").xattr("nonsense", "1"));
    let none = |path| node(path, "no attributes", |node: &Node| node.xattrs.is_empty());
    let one = node("f", "user.a alone", |node| node.xattrs.keys().eq([&b"user.a"[..]]));
    Case::shown("xattr(7), extended user attributes", [layer], [none("s"), none("p"), none("c"), one])
}

pub fn large_ids(_: &Aim) -> Case {
    let most = u64::from(u32::MAX) - 1;
    let layer = tar()
        .entry(Entry::file("pax", "").owner(most, 3_000_000_000))
        .entry(Entry::file("gnu", "").owner(3_000_000_000, most).format(Format::Gnu));
    let sights = [
        node("pax", "its owner", move |node| (u64::from(node.uid), node.gid) == (most, 3_000_000_000)),
        node("gnu", "its owner", move |node| (node.uid, u64::from(node.gid)) == (3_000_000_000, most)),
    ];
    Case::shown("Linux, 32-bit ids; POSIX.1-2001 pax: uid", [layer], sights)
}

/// `(uid_t)-1` is no id: chown(2) would leave the owner as it is.
pub fn id_of_all_ones(_: &Aim) -> Case {
    number(tar().entry(Entry::file("f", "").owner(u64::from(u32::MAX), 0)), "chown(2), an id of -1", "4294967294")
}

/// Cut to 32 bits it would be root's.
pub fn id_that_overflows_to_root(_: &Aim) -> Case {
    number(
        tar().entry(Entry::file("f", "").mode(0o4755).owner(1 << 32, 0)),
        "as CVE-2024-40635: an id that overflows is root's",
        "4294967294",
    )
}

pub fn negative_id(_: &Aim) -> Case {
    let layer = tar().raw_entry(&RawHeader::ustar("f").set(108, &[0xff; 8]).checksum(), b"");
    number(layer, "GNU tar, base-256: negative numbers", "uid")
}

/// ext4 holds 1901 to 2446: the `dirs` backend shows the nearest time that its filesystem has, `erofs` the tar's.
pub fn times_before_and_after_all(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::file("half", "").mtime(-2, 500_000_000))
        .entry(Entry::file("fine", "").mtime(1_700_000_000, 123_456_789))
        .entry(Entry::file("negative", "").mtime(-1_000_000_000, 0).format(Format::Gnu))
        .entry(Entry::file("old", "").mtime(-(1 << 40), 0))
        .entry(Entry::file("huge", "").mtime(1 << 40, 1))
        .entry(Entry::directory("d").mtime(-5_000_000_000, 0));
    let sights = [
        node("half", "-1.5 s", |node| node.mtime == (-2, 500_000_000)),
        node("fine", "its nanoseconds", |node| node.mtime == (1_700_000_000, 123_456_789)),
        node("negative", "1938", |node| node.mtime == (-1_000_000_000, 0)),
        node("old", "long ago", |node| node.mtime.0 <= -(1 << 31)),
        node("huge", "a later century", |node| node.mtime.0 > (1 << 33)),
    ];
    Case::shown("POSIX.1-2001 pax, mtime; GNU tar, base-256", [layer], sights)
}

pub fn time_beyond_63_bits(_: &Aim) -> Case {
    number(
        tar().entry(Entry::file("f", "").pax("mtime", "99999999999999999999")),
        "POSIX.1-2001 pax, mtime",
        "PAX mtime",
    )
}

/// What the sparse cases show: data, a hole, data, a hole.
fn sparse_file() -> Vec<u8> {
    [&b"first"[..], &vec![0; 65_536 - 5], b"second", &vec![0; 40_000]].concat()
}

const SEGMENTS: [(u64, &[u8]); 2] = [(0, b"first"), (65_536, b"second")];
/// One of the builder's: name, size, segments.
type SparseForm = fn(TarBuilder, &str, u64, &[(u64, &[u8])]) -> TarBuilder;

const SPARSE: &str = "GNU tar manual, Sparse Formats";

fn sparse(layer: SparseForm) -> Case {
    let whole = sparse_file();
    let layer = layer(tar(), "s", whole.len() as u64, &SEGMENTS).entry(Entry::file("after", "1"));
    Case::shown(SPARSE, [layer], [file("s", whole), file("after", "1"), names(&["after", "s"])])
}

pub fn sparse_gnu(_: &Aim) -> Case {
    sparse(TarBuilder::sparse_gnu)
}

pub fn sparse_pax_0_0(_: &Aim) -> Case {
    sparse(TarBuilder::sparse_pax_0_0)
}

pub fn sparse_pax_0_1(_: &Aim) -> Case {
    sparse(TarBuilder::sparse_pax_0_1)
}

pub fn sparse_pax_1_0(_: &Aim) -> Case {
    sparse(TarBuilder::sparse_pax)
}

/// 9 GiB of hole, and a byte at the end of it.
fn huge(layer: SparseForm) -> Case {
    const SIZE: u64 = 9 << 30;
    let layer = layer(tar(), "deep", SIZE, &[(1 << 33, b"x"), (SIZE - 1, b"y")]);
    let reads = sight(|view| {
        let file = File::open(view.point.join("deep")).map_err(|error| error.to_string())?;
        let byte = |at| {
            let mut byte = [9];
            file.read_at(&mut byte, at).map(|count| (count, byte[0])).unwrap_or_default()
        };
        let found = (file.metadata().unwrap().len(), byte(1 << 33), byte(5 << 30), byte(SIZE - 1));
        let expected = (SIZE, (1, b'x'), (1, 0), (1, b'y'));
        if found == expected { Ok(()) } else { Err(format!("expected {expected:?}, found {found:?}")) }
    });
    Case::shown("POSIX.1-1988: 8 GiB is more than an octal size holds", [layer], [reads])
}

/// In the old form all numbers of the map are the header's: base-256 beyond 8 GiB.
pub fn sparse_gnu_of_9_gib(_: &Aim) -> Case {
    fn gnu(tar: TarBuilder, name: &str, size: u64, segments: &[(u64, &[u8])]) -> TarBuilder {
        let base_256 = |value: u64| [&[0x80, 0, 0, 0][..], &value.to_be_bytes()].concat();
        let mut header = RawHeader::ustar(name).gnu().size(segments.len() as u64).set(483, &base_256(size));
        for (slot, (offset, data)) in segments.iter().enumerate() {
            header = header.set(386 + 24 * slot, &base_256(*offset)).set(398 + 24 * slot, &base_256(data.len() as u64));
        }
        tar.raw_entry(&header.kind(b'S'), &segments.iter().flat_map(|(_, data)| data.to_vec()).collect::<Vec<_>>())
    }
    huge(gnu)
}

pub fn sparse_pax_0_0_of_9_gib(_: &Aim) -> Case {
    huge(TarBuilder::sparse_pax_0_0)
}

pub fn sparse_pax_0_1_of_9_gib(_: &Aim) -> Case {
    huge(TarBuilder::sparse_pax_0_1)
}

pub fn sparse_pax_1_0_of_9_gib(_: &Aim) -> Case {
    huge(TarBuilder::sparse_pax)
}

/// The name in the map wins over the entry's.
pub fn sparse_name_upwards(aim: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::ParentComponent { what: "name", .. }), "\"..\"");
    Case::refused(
        "Zip Slip in GNU.sparse.name",
        [tar().sparse_pax(&aim.upward("secret"), 9, &[(0, b"attacked")])],
        kind,
    )
}

fn sparse_map(segments: &[(u64, &[u8])], size: u64) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::SparseMap { .. }), "map of a sparse file");
    Case::refused("Go archive/tar, validateSparseEntries", [tar().sparse_pax("s", size, segments)], kind)
}

pub fn sparse_segments_that_overlap(_: &Aim) -> Case {
    sparse_map(&[(0, b"aaaa"), (2, b"bbbb")], 10)
}

pub fn sparse_segments_that_fall(_: &Aim) -> Case {
    sparse_map(&[(8, b"a"), (0, b"b")], 10)
}

pub fn sparse_segment_beyond_the_end(_: &Aim) -> Case {
    sparse_map(&[(0, b"aaaa")], 2)
}

pub fn sparse_offset_that_overflows(_: &Aim) -> Case {
    let records =
        [("GNU.sparse.size", "10"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "18446744073709551615,2")];
    let entry = records.into_iter().fold(Entry::file("s", "ab"), |entry, (key, value)| entry.pax(key, value));
    let kind = refusal!(Problem::Tar(TarProblem::SparseMap { .. } | TarProblem::Number { .. }), "sparse");
    Case::refused("Go archive/tar, validateSparseEntries", [tar().entry(entry)], kind)
}

fn too_short(layer: TarBuilder, source: &'static str) -> Case {
    let kind =
        refusal!(Problem::Tar(TarProblem::Truncated { part: "data", .. }), "expected 9663676416 bytes, found 1024");
    Case::refused(source, [layer], kind)
}

/// The data need not be there for the size to be read.
pub fn size_of_9_gib_in_base_256(_: &Aim) -> Case {
    too_short(tar().raw_entry(&RawHeader::ustar("f").gnu().size(9 << 30), b""), "GNU tar, base-256")
}

pub fn size_of_9_gib_in_pax(_: &Aim) -> Case {
    too_short(tar().entry(Entry::file("f", "").pax("size", "9663676416")), "POSIX.1-2001 pax, size")
}

pub fn size_that_overflows_a_sum(_: &Aim) -> Case {
    number(
        tar().entry(Entry::file("f", "").pax("size", "9223372036854775807")),
        "POSIX.1-2001 pax, size: with its padding more than 63 bits",
        "63 bits",
    )
}

pub fn negative_size(_: &Aim) -> Case {
    let layer = tar().raw_entry(&RawHeader::ustar("f").set(124, &[0xff; 12]).checksum(), b"");
    number(layer, "Go archive/tar, Header.Size", "negative")
}

/// Who believes the header's 0 takes the file's data for entries: an archive within the archive.
pub fn cve_2025_62518_size_in_pax_and_0_in_ustar(aim: &Aim) -> Case {
    let inner =
        tar().entry(Entry::file(aim.absolute("secret"), "attacked")).entry(Entry::file("smuggled", "")).finish();
    let header = RawHeader::ustar("outer.tar").size(0);
    // The builder's own entry of no data gives the PAX header; the header that follows it is made by hand.
    let pax = Entry::file("outer.tar", "").pax("size", inner.len().to_string());
    let mut bytes = tar().entry(pax).finish_unterminated();
    bytes.truncate(bytes.len() - 512);
    let layer = tar().raw(&bytes).raw_entry(&header, &inner).entry(Entry::file("after", "1"));
    let sights = [file("outer.tar", inner), file("after", "1"), gone("smuggled"), names(&["after", "outer.tar"])];
    Case::shown("CVE-2025-62518", [layer], sights).attack()
}

/// And the reverse: what the header says is data are entries.
pub fn cve_2026_33055_0_in_pax_and_size_in_ustar(_: &Aim) -> Case {
    let pax = Entry::file("outer", "").pax("size", "0");
    let mut bytes = tar().entry(pax).finish_unterminated();
    bytes.truncate(bytes.len() - 512);
    let hidden = tar().entry(Entry::file("inner", "")).finish_unterminated();
    let layer = tar().raw(&bytes).raw_entry(&RawHeader::ustar("outer").size(hidden.len() as u64), &hidden);
    Case::shown(
        "CVE-2026-33055",
        [layer.entry(Entry::file("after", "1"))],
        [names(&["after", "inner", "outer"]), file("outer", "")],
    )
}
