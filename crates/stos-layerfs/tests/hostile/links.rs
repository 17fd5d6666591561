// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hard links to what is not there yet, to directories, to the host, to lower layers, through symlinks.

use stos_erofs::{MergeProblem, TarProblem};
use stos_testkit::tar_builder::{Entry, TarBuilder};

use super::case::{Aim, Case, Problem, file, gone, linked, names, node, refusal, symlink, tar};

const LINK_SPEC: &str = "image-spec, layer.md, Hardlinks";

fn missing(source: &'static str, layers: impl IntoIterator<Item = TarBuilder>) -> Case {
    let kind = refusal!(Problem::Merge(MergeProblem::LinkTargetMissing { .. }), "which does not exist");
    Case::refused(source, layers, kind)
}

pub fn hard_link_before_its_target(_: &Aim) -> Case {
    missing(LINK_SPEC, [tar().entry(Entry::hard_link("h", "f")).entry(Entry::file("f", ""))])
}

pub fn hard_link_to_nothing(_: &Aim) -> Case {
    missing(LINK_SPEC, [tar().entry(Entry::hard_link("h", "none"))])
}

pub fn hard_link_to_what_a_whiteout_removes(_: &Aim) -> Case {
    missing(LINK_SPEC, [tar().entry(Entry::file("f", "")), tar().whiteout("f").entry(Entry::hard_link("h", "f"))])
}

fn to_directory(layers: impl IntoIterator<Item = TarBuilder>) -> Case {
    let kind = refusal!(Problem::Merge(MergeProblem::LinkTargetDirectory { .. }), "which is a directory");
    Case::refused("link(2), EPERM", layers, kind)
}

pub fn hard_link_to_a_directory(_: &Aim) -> Case {
    to_directory([tar().entry(Entry::directory("d")).entry(Entry::hard_link("h", "d"))])
}

pub fn hard_link_to_a_directory_of_a_lower_layer(_: &Aim) -> Case {
    to_directory([tar().entry(Entry::directory("d")), tar().entry(Entry::hard_link("d/h", "d/"))])
}

/// Then the file is written through the name.
pub fn hard_link_to_an_absolute_path(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::hard_link("h", aim.absolute("secret"))).entry(Entry::file("h", "attacked"));
    missing("CVE-2018-20990, a file after a hard link of its name", [layer]).attack()
}

pub fn hard_link_upwards(aim: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::ParentComponent { what: "hard link target", .. }), "\"..\"");
    let layer = tar().entry(Entry::hard_link("h", aim.upward("secret"))).entry(Entry::file("h", "attacked"));
    Case::refused("CVE-2018-20990, a file after a hard link of its name", [layer], kind).attack()
}

pub fn hard_link_upwards_from_inside(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::ParentComponent { what: "hard link target", .. }), "\"..\"");
    let layer = tar().entry(Entry::directory("d")).entry(Entry::hard_link("h", "d/../../canary/secret"));
    Case::refused("umoci tar_extract_test.go, hard link breakout", [layer.entry(Entry::file("h", "attacked"))], kind)
        .attack()
}

/// oras-go looked where the target lies within the root, then linked what that name means in the working directory. There
/// is one file in both: the tests' working directory has a `Cargo.toml`, and so has the canary.
pub fn cve_2026_50163_hard_link_into_the_working_directory(_: &Aim) -> Case {
    let layer = tar().entry(Entry::hard_link("h", "Cargo.toml")).entry(Entry::file("h", "attacked"));
    missing("CVE-2026-50163", [layer]).attack()
}

/// With a file of that name in the image it is that file.
pub fn cve_2026_50163_hard_link_to_the_image_s_own(_: &Aim) -> Case {
    let layer = tar().entry(Entry::file("Cargo.toml", "own")).entry(Entry::hard_link("h", "Cargo.toml"));
    Case::shown("CVE-2026-50163", [layer], [linked("h", "Cargo.toml"), file("h", "own")])
}

/// containerd linked the symlink and then changed the mode of "the file": chmod follows.
pub fn cve_2021_32760_hard_link_to_a_symlink(aim: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::symlink("s", aim.absolute("secret")))
        .entry(Entry::hard_link("h", "s").mode(0o4777).owner(1, 1).mtime(1, 0));
    let sights = [symlink("h", aim.absolute("secret")), symlink("s", aim.absolute("secret")), linked("s", "h")];
    Case::shown("CVE-2021-32760", [layer], sights).attack()
}

pub fn cve_2021_32760_hard_link_to_a_symlink_of_a_lower_layer(aim: &Aim) -> Case {
    let layers = [
        tar().entry(Entry::symlink("s", aim.upward("dir"))),
        tar().entry(Entry::hard_link("h", "s").mode(0o777).xattr("user.attacked", "1")),
    ];
    let sights = [symlink("h", aim.upward("dir")), linked("s", "h"), names(&["h", "s"])];
    Case::shown("CVE-2021-32760", layers, sights).attack()
}

pub fn hard_link_through_a_symlink_to_the_host(aim: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::symlink("s", aim.absolute("dir")))
        .entry(Entry::hard_link("h", "s/file"))
        .entry(Entry::file("h", "attacked"));
    missing("umoci tar_extract_test.go, hard link breakout", [layer]).attack()
}

pub fn hard_link_through_a_symlink_of_a_lower_layer(aim: &Aim) -> Case {
    let layers = [
        tar().entry(Entry::symlink("s", aim.upward(""))),
        tar().entry(Entry::hard_link("h", "s/dir/file")).entry(Entry::file("h", "attacked")),
    ];
    missing("umoci tar_extract_test.go, hard link breakout", layers).attack()
}

/// A new name in the canary for a file of the image.
pub fn hard_link_whose_name_leads_outside(aim: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::file("f", "1"))
        .entry(Entry::symlink("s", aim.absolute("")))
        .entry(Entry::hard_link("s/planted", "f"));
    Case::shown(
        "umoci tar_extract_test.go, hard link breakout",
        [layer],
        [file(aim.inside("planted"), "1"), file("f", "1")],
    )
    .attack()
}

pub fn hard_link_through_a_symlink_inside(_: &Aim) -> Case {
    let layers = [
        tar().entry(Entry::file("d/f", "1")).entry(Entry::symlink("s", "/d")),
        tar().entry(Entry::hard_link("h", "s/f").mode(0o777).owner(9, 9)),
    ];
    let own = node("h", "the metadata of the file", |node| (node.mode, node.uid) == (0o644, 0));
    Case::shown(LINK_SPEC, layers, [linked("h", "d/f"), own])
}

pub fn hard_link_to_a_lower_layer_s_file(_: &Aim) -> Case {
    let layers = [
        tar().entry(Entry::file("f", "1").mode(0o6755).xattr("user.kept", "1")),
        tar().entry(Entry::hard_link("h", "f")).entry(Entry::hard_link("/d/i", "./f")),
    ];
    let kept = node("h", "all of it", |node| node.mode == 0o6755 && node.xattrs.contains_key(&b"user.kept"[..]));
    Case::shown(LINK_SPEC, layers, [linked("h", "f"), linked("d/i", "f"), file("h", "1"), kept])
}

/// The name goes; the file stays.
pub fn hard_link_to_a_lower_layer_s_file_that_goes_then(_: &Aim) -> Case {
    let layers = [tar().entry(Entry::file("f", "1")), tar().entry(Entry::hard_link("h", "f")).entry(Entry::fifo("f"))];
    Case::shown(LINK_SPEC, layers, [file("h", "1"), node("f", "a FIFO", |node| node.kind == "fifo")])
}

pub fn hard_link_to_the_root(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::EmptyTarget { what: "hard link target" }), "empty");
    Case::refused("link(2), ENOENT", [tar().entry(Entry::hard_link("h", "/"))], kind)
}

pub fn symlink_to_nothing(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::EmptyTarget { what: "symbolic link target" }), "empty");
    Case::refused("symlink(2), ENOENT", [tar().entry(Entry::symlink("s", ""))], kind)
}

pub fn hard_link_to_a_device(_: &Aim) -> Case {
    let layer = tar().entry(Entry::char_device("null", 1, 3)).entry(Entry::hard_link("h", "null"));
    let device = node("h", "the device", |node| (node.kind, node.device) == ("char device", (1, 3)));
    Case::shown(LINK_SPEC, [layer], [device, linked("h", "null")])
}

/// A link to itself is a link to nothing, or, over a lower layer, to what it is already.
pub fn hard_link_to_itself(_: &Aim) -> Case {
    missing(LINK_SPEC, [tar().entry(Entry::hard_link("h", "h"))])
}

/// The header says that data follow. It is wrong: those are the next entry.
pub fn hard_link_with_a_size(_: &Aim) -> Case {
    let header = stos_testkit::tar_builder::RawHeader::ustar("h").kind(b'1').link("f").size(512);
    let layer = tar().entry(Entry::file("f", "1")).raw_entry(&header, b"").entry(Entry::file("g", "2"));
    Case::shown("Go archive/tar, isHeaderOnlyType", [layer], [linked("h", "f"), file("g", "2"), gone("i")])
}
