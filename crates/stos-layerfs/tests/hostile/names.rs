// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names that leave the root, name nothing, are too long, or are no text.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};
use stos_erofs::TarProblem;
use stos_testkit::tar_builder::{Entry, Format, RawHeader};

use super::case::{Aim, Case, Problem, Sight, directory, file, gone, names, node, refusal, sight, symlink, tar};

const LAYER_SPEC: &str = "image-spec, layer.md, Layer Changesets: paths are relative to the root";

/// The root of an image is the root of its names.
pub fn absolute_name(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::file(aim.absolute("secret"), "attacked"));
    Case::shown("CVE-2021-32804, absolute names", [layer], [file(aim.inside("secret"), "attacked")]).attack()
}

pub fn absolute_name_of_a_directory(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::directory(aim.absolute("dir")).mode(0o777));
    let sights = [node(aim.inside("dir"), "mode 777", |node| node.mode == 0o777)];
    Case::shown("CVE-2021-32804, absolute names", [layer], sights).attack()
}

pub fn absolute_name_of_a_symlink(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::symlink(aim.absolute("secret"), "attacked"));
    Case::shown(LAYER_SPEC, [layer], [symlink(aim.inside("secret"), "attacked")]).attack()
}

pub fn absolute_name_of_a_fifo(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::fifo(aim.absolute("new")));
    Case::shown(LAYER_SPEC, [layer], [node(aim.inside("new"), "a FIFO", |node| node.kind == "fifo")]).attack()
}

fn parent(name: String) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::ParentComponent { what: "name", .. }), "\"..\"");
    Case::refused("Zip Slip; CVE-2001-1267 of GNU tar", [tar().entry(Entry::file(name, "attacked"))], kind)
}

pub fn parent_component_first(aim: &Aim) -> Case {
    parent(aim.upward("secret")).attack()
}

pub fn parent_component_of_the_neighbour(_: &Aim) -> Case {
    parent("../canary/secret".into()).attack()
}

pub fn parent_component_within(_: &Aim) -> Case {
    parent("d/./../../canary/secret".into()).attack()
}

pub fn parent_component_after_a_slash(_: &Aim) -> Case {
    parent("/..".into())
}

pub fn parent_component_that_stays_inside(_: &Aim) -> Case {
    parent("d/../f".into())
}

pub fn parent_component_last(_: &Aim) -> Case {
    parent("d/..".into())
}

pub fn parent_component_of_a_directory(aim: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::ParentComponent { what: "name", .. }), "\"..\"");
    let layer = tar().entry(Entry::directory(aim.upward("dir")).mode(0o777));
    Case::refused("CVE-2026-33056, by a name instead of a link", [layer], kind).attack()
}

/// Cut at 100 bytes the name would be another one: here the GNU and PAX names say where it goes.
pub fn parent_component_in_a_long_name(aim: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::ParentComponent { what: "name", .. }), "\"..\"");
    let layer = tar().entry(Entry::file(aim.upward("dir/file"), "attacked").format(Format::Gnu));
    Case::refused("Zip Slip in a GNU long name", [layer], kind).attack()
}

/// The header is harmless, and PAX wins.
pub fn parent_component_in_pax_alone(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::ParentComponent { what: "name", .. }), "\"..\"");
    let layer = tar().entry(Entry::file("harmless", "attacked").pax("path", "../canary/secret"));
    Case::refused("POSIX.1-2001 pax: an extended header overrides", [layer], kind).attack()
}

pub fn empty_name(_: &Aim) -> Case {
    let layer = tar().raw_entry(&RawHeader::ustar(""), b"");
    Case::refused(
        "POSIX.1-1988: a pathname has a character",
        [layer],
        refusal!(Problem::Tar(TarProblem::EmptyName), "empty name"),
    )
}

pub fn empty_name_of_a_directory(_: &Aim) -> Case {
    let layer = tar().raw_entry(&RawHeader::ustar("").kind(b'5').set(100, b"0000700\0").checksum(), b"");
    let sights = [node("", "mode 700", |node| node.mode == 0o700), names(&[])];
    Case::shown("docker/cli#7111: an empty name is the root", [layer], sights)
}

fn root(layer: Entry) -> Case {
    let sights = [node("", "mode 751 of 3:4", |node| (node.mode, node.uid, node.gid) == (0o751, 3, 4)), names(&[])];
    Case::shown(LAYER_SPEC, [tar().entry(layer.mode(0o751).owner(3, 4))], sights)
}

pub fn dot_is_the_root(_: &Aim) -> Case {
    root(Entry::of_kind(b'5', "."))
}

pub fn dot_slash_is_the_root(_: &Aim) -> Case {
    root(Entry::directory("./"))
}

pub fn slash_is_the_root(_: &Aim) -> Case {
    root(Entry::directory("/"))
}

fn not_the_root(source: &'static str, entry: Entry) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::RootNotDirectory { .. }), "expected a directory");
    Case::refused(source, [tar().entry(entry).entry(Entry::file("file", "attacked"))], kind)
}

pub fn dot_as_a_file(_: &Aim) -> Case {
    not_the_root(LAYER_SPEC, Entry::file(".", "attacked"))
}

/// A root that is a link elsewhere leads all later entries there.
pub fn cve_2021_29136_dot_as_a_symlink(aim: &Aim) -> Case {
    not_the_root("CVE-2021-29136", Entry::symlink(".", aim.absolute("dir"))).attack()
}

pub fn cve_2021_29136_slash_as_a_symlink(aim: &Aim) -> Case {
    not_the_root("CVE-2021-29136", Entry::symlink("./", aim.upward("dir"))).attack()
}

pub fn dot_as_a_fifo(_: &Aim) -> Case {
    not_the_root(LAYER_SPEC, Entry::fifo("./"))
}

pub fn component_of_255_bytes(_: &Aim) -> Case {
    let name = "n".repeat(255);
    Case::shown("Linux, NAME_MAX", [tar().entry(Entry::file(&name, "1"))], [file(&name, "1")])
}

pub fn component_of_256_bytes(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::ComponentTooLong { found: 256 }), "256 bytes");
    Case::refused("Linux, NAME_MAX", [tar().entry(Entry::file("n".repeat(256), ""))], kind)
}

/// Beyond what a system call takes at once: it can be reached step by step alone.
pub fn path_of_4096_bytes(_: &Aim) -> Case {
    let path = format!("deep/{}/{}", vec!["d".repeat(255); 15].join("/"), "n".repeat(4096 - 5 - 15 * 256));
    assert_eq!(path.len(), 4096);
    Case::shown("Linux, PATH_MAX", [tar().entry(Entry::file(&path, "far"))], [reached(path, b"far")])
}

/// Deeper than any name can say: a symlink is half of the way. Then all of it goes by one entry.
pub fn path_of_7000_bytes_through_a_symlink(_: &Aim) -> Case {
    let half = vec!["d".repeat(255); 14].join("/");
    let layer =
        tar().entry(Entry::symlink("s", format!("deep/{half}"))).entry(Entry::file(format!("s/{half}/f"), "far"));
    let sights = [reached(format!("deep/{half}/{half}/f"), b"far"), names(&["s"])];
    Case::shown("Linux, PATH_MAX; path_resolution(7)", [layer], sights)
}

pub fn path_of_7000_bytes_that_is_replaced(_: &Aim) -> Case {
    let half = vec!["d".repeat(255); 14].join("/");
    let layer =
        || tar().entry(Entry::symlink("s", format!("t/{half}"))).entry(Entry::file(format!("s/{half}/f"), "far"));
    let layers =
        [layer().entry(Entry::file("t", "1")), tar().whiteout("t"), layer(), tar().entry(Entry::file("t", "2"))];
    Case::shown("Linux, PATH_MAX; path_resolution(7)", layers, [names(&["s", "t"]), file("t", "2")])
}

fn reached(path: String, data: &'static [u8]) -> Sight {
    sight(move |view| {
        let failed = |error: rustix::io::Errno| format!("a component of {} bytes' path: {error}", path.len());
        let mut at = OwnedFd::from(File::open(view.point).unwrap());
        for component in path.split('/') {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            at = openat(&at, component, flags, Mode::empty()).map_err(failed)?;
        }
        let found = std::io::read_to_string(File::from(at)).unwrap();
        if found.as_bytes() == data { Ok(()) } else { Err(format!("expected other data than {found:?}")) }
    })
}

pub fn path_of_4097_bytes(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::PathTooLong { what: "name", found: 4097, .. }), "4096");
    let path = format!("deep/{}/{}", vec!["d".repeat(255); 15].join("/"), "n".repeat(4097 - 5 - 15 * 256));
    Case::refused("Linux, PATH_MAX", [tar().entry(Entry::file(path, ""))], kind)
}

pub fn symlink_target_of_4096_bytes(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::PathTooLong { what: "symbolic link target", .. }), "4095");
    Case::refused("symlink(2), ENAMETOOLONG", [tar().entry(Entry::symlink("s", "t/".repeat(2048)))], kind)
}

pub fn names_that_are_not_utf_8(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::file(b"latin-\xe9\xff", "1"))
        .entry(Entry::directory(b"\x80"))
        .entry(Entry::file(b"\x80/\xc3\x28", "2").format(Format::Gnu))
        .entry(Entry::symlink(b"\xfe", b"\xff/\xff"))
        .entry(Entry::file("new\nline \x1b[31m", "3"));
    let sights = [
        file(b"latin-\xe9\xff", "1"),
        file(b"\x80/\xc3\x28", "2"),
        symlink(b"\xfe", b"\xff/\xff"),
        file("new\nline \x1b[31m", "3"),
    ];
    Case::shown("Linux, path_resolution(7): names are bytes", [layer], sights)
}

/// As v7 wrote directories.
pub fn trailing_slash_of_a_file(_: &Aim) -> Case {
    let layer = tar().entry(Entry::file("d//", "")).entry(Entry::file("d/f", "1"));
    Case::shown(
        "GNU tar manual, Standard Format: a trailing slash is a directory",
        [layer],
        [directory("d"), file("d/f", "1")],
    )
}

/// To follow it would be to change what it points at.
pub fn trailing_slash_of_a_symlink(aim: &Aim) -> Case {
    let target = aim.absolute("dir");
    let layer = tar().entry(Entry::symlink("s", &target)).entry(Entry::symlink("s//", &target));
    Case::shown(LAYER_SPEC, [layer], [symlink("s", target), names(&["s"])])
}

pub fn slashes_and_dots(_: &Aim) -> Case {
    let layer = tar().entry(Entry::file(".//./a//./f", "1")).entry(Entry::file("//b///f", "2"));
    Case::shown(LAYER_SPEC, [layer], [file("a/f", "1"), file("b/f", "2"), names(&["a", "a/f", "b", "b/f"])])
}

fn nul(entry: Entry) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::PaxRecord { .. }), "NUL");
    Case::refused("Go archive/tar, validPAXRecord: names and keywords have no NUL", [tar().entry(entry)], kind)
}

/// A checker may see one name and `open` another: what stands before the NUL.
pub fn nul_in_a_pax_path(_: &Aim) -> Case {
    nul(Entry::file("f", "attacked").pax("path", b"../canary/secret\0.jpg"))
}

pub fn nul_in_a_pax_link_target(aim: &Aim) -> Case {
    nul(Entry::symlink("s", "t").pax("linkpath", [aim.absolute("secret").as_bytes(), b"\0t"].concat()))
}

pub fn nul_in_a_sparse_name(_: &Aim) -> Case {
    nul(Entry::file("f", "").pax("GNU.sparse.name", b"g\0h"))
}

pub fn nul_in_an_attribute_name(_: &Aim) -> Case {
    nul(Entry::file("f", "").pax(b"SCHILY.xattr.user.a\0b", "1"))
}

pub fn nul_in_an_attribute_value(_: &Aim) -> Case {
    let layer = tar().entry(Entry::file("f", "").xattr("user.binary", b"\0=\n\xff\0"));
    let sights = [node("f", "the value", |node| {
        node.xattrs.get(&b"user.binary"[..]).is_some_and(|value| value == b"\0=\n\xff\0")
    })];
    Case::shown("Go archive/tar, validPAXRecord: values may have one", [layer], sights)
}

/// A NUL ends the header's own field; what follows is not read.
pub fn nul_in_a_header_name(_: &Aim) -> Case {
    let layer = tar().raw_entry(&RawHeader::ustar(b"f\0../../canary/secret"), b"");
    Case::shown("POSIX.1-1988: names end at the first NUL", [layer], [names(&["f"]), gone("canary")])
}
