// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Entries whose parents are links, files or missing, and things that take each other's place.

use stos_erofs::MergeProblem;
use stos_testkit::tar_builder::{Entry, TarBuilder};

use super::case::{Aim, Case, Problem, directory, file, gone, names, node, refusal, symlink, tar};

const BREAKOUT: &str = "umoci tar_extract_test.go, breakout through a symlink";
const LAYER_SPEC: &str = "image-spec, layer.md, Applying Changesets";

/// Writes `s/file` where `s` leads to the canary's `dir`.
fn through(target: String) -> [TarBuilder; 1] {
    [tar().entry(Entry::symlink("s", target)).entry(Entry::file("s/file", "attacked"))]
}

pub fn parent_is_an_absolute_symlink(aim: &Aim) -> Case {
    let sights = [symlink("s", aim.absolute("dir")), file(aim.inside("dir/file"), "attacked")];
    Case::shown(BREAKOUT, through(aim.absolute("dir")), sights).attack()
}

pub fn parent_is_a_symlink_upwards(aim: &Aim) -> Case {
    let sights = [symlink("s", aim.upward("dir")), file(aim.inside("dir/file"), "attacked")];
    Case::shown(BREAKOUT, through(aim.upward("dir")), sights).attack()
}

pub fn parent_is_a_symlink_of_a_lower_layer(aim: &Aim) -> Case {
    let layers = [
        tar().entry(Entry::symlink("s", aim.upward("dir"))),
        tar().entry(Entry::file("s/file", "attacked").mode(0o777)),
    ];
    Case::shown(BREAKOUT, layers, [file(aim.inside("dir/file"), "attacked"), symlink("s", aim.upward("dir"))]).attack()
}

pub fn grandparent_is_a_symlink(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::symlink("s", aim.absolute(""))).entry(Entry::file("s/dir/deep/new", "attacked"));
    Case::shown(BREAKOUT, [layer], [file(aim.inside("dir/deep/new"), "attacked")]).attack()
}

/// Each link is harmless by itself.
pub fn parents_are_symlinks_one_after_the_other(aim: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::directory("a"))
        .entry(Entry::symlink("a/up", "../b"))
        .entry(Entry::symlink("b", aim.upward("")))
        .entry(Entry::file("a/up/secret", "attacked"));
    Case::shown(BREAKOUT, [layer], [file(aim.inside("secret"), "attacked")]).attack()
}

/// GHSL-2020-261, the shape of its proof: `subdir/parent` is the root, so `..` in it is checked as if it lay one deeper.
pub fn cve_2020_27833_symlink_through_a_symlink(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::directory("subdir"))
        .entry(Entry::symlink("subdir/parent", ".."))
        .entry(Entry::symlink("subdir/parent/escapes", ".."))
        .entry(Entry::symlink("subdir/parent/passwd", "../../etc/passwd"))
        .entry(Entry::file("escapes/canary/secret", "attacked"));
    let sights = [
        symlink("subdir/parent", ".."),
        symlink("escapes", ".."),
        symlink("passwd", "../../etc/passwd"),
        file("canary/secret", "attacked"),
    ];
    Case::shown("CVE-2020-27833", [layer], sights).attack()
}

pub fn cve_2020_27833_out_of_wherever_a_layer_lies(aim: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::directory("subdir"))
        .entry(Entry::symlink("subdir/parent", ".."))
        .entry(Entry::symlink("subdir/parent/escapes", aim.upward("dir")))
        .entry(Entry::file("subdir/parent/escapes/file", "attacked"));
    Case::shown(
        "CVE-2020-27833",
        [layer],
        [symlink("escapes", aim.upward("dir")), file(aim.inside("dir/file"), "attacked")],
    )
    .attack()
}

/// The advisory says no more than a check and a use apart, in containerd 2.1.0. This is the shape of what was new in it, a memory of where
/// parents had led (containerd#11337): `d` is looked up while it is a directory, and used when it is a link.
pub fn cve_2025_47290_parent_becomes_a_symlink(aim: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::directory("d"))
        .entry(Entry::file("d/first", "1"))
        .entry(Entry::symlink("d", aim.absolute("dir")))
        .entry(Entry::file("d/file", "attacked"));
    let sights = [symlink("d", aim.absolute("dir")), gone("d/first"), file(aim.inside("dir/file"), "attacked")];
    Case::shown("CVE-2025-47290", [layer], sights).attack()
}

pub fn cve_2025_47290_grandparent_becomes_a_symlink(aim: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::file("a/dir/first", "1"))
        .entry(Entry::symlink("a", aim.upward("")))
        .entry(Entry::file("a/dir/file", "attacked"));
    let sights =
        [symlink("a", aim.upward("")), file(aim.inside("dir/file"), "attacked"), gone(aim.inside("dir/first"))];
    Case::shown("CVE-2025-47290", [layer], sights).attack()
}

/// The same with a whiteout that removes the directory, which then is a link.
pub fn cve_2025_47290_parent_is_removed_by_a_whiteout(aim: &Aim) -> Case {
    let layers = [
        tar().entry(Entry::file("d/first", "1")),
        tar()
            .entry(Entry::file("d/second", "2"))
            .whiteout("d")
            .entry(Entry::symlink("d", aim.absolute("dir")))
            .entry(Entry::file("d/file", "attacked")),
    ];
    let sights = [symlink("d", aim.absolute("dir")), file(aim.inside("dir/file"), "attacked")];
    Case::shown("CVE-2025-47290", layers, sights).attack()
}

/// tar-rs took a link to a directory for the directory, and gave it the entry's mode.
pub fn cve_2026_33056_symlink_then_directory(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::symlink("d", aim.absolute("dir"))).entry(Entry::directory("d").mode(0o777));
    Case::shown("CVE-2026-33056", [layer], [node("d", "a directory of mode 777", is_open), gone(aim.inside("dir"))])
        .attack()
}

pub fn cve_2026_33056_symlink_of_a_lower_layer(aim: &Aim) -> Case {
    let layers = [
        tar().entry(Entry::symlink("d", aim.upward("dir"))),
        tar().entry(Entry::directory("d").mode(0o777).mtime(1, 0)),
    ];
    Case::shown("CVE-2026-33056", layers, [node("d", "a directory of mode 777", is_open), gone(aim.inside("dir"))])
        .attack()
}

/// The mode of a directory that is reached through a link goes to the one inside.
pub fn cve_2026_33056_below_a_symlink(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::symlink("s", aim.absolute(""))).entry(Entry::directory("s/dir").mode(0o777));
    Case::shown("CVE-2026-33056", [layer], [node(aim.inside("dir"), "a directory of mode 777", is_open)]).attack()
}

fn is_open(node: &stos_testkit::tree::Node) -> bool {
    (node.kind, node.mode) == ("directory", 0o777)
}

/// tar-rs's fix of 2018: a file opened where a symlink stands writes to its target.
pub fn file_over_a_symlink(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::symlink("f", aim.absolute("secret"))).entry(Entry::file("f", "attacked"));
    Case::shown("CVE-2018-20990, a file after a link of its name", [layer], [file("f", "attacked"), names(&["f"])])
        .attack()
}

pub fn file_over_a_symlink_of_a_lower_layer(aim: &Aim) -> Case {
    let layers = [tar().entry(Entry::symlink("f", aim.upward("secret"))), tar().entry(Entry::file("f", "attacked"))];
    Case::shown("CVE-2018-20990, a file after a link of its name", layers, [file("f", "attacked"), names(&["f"])])
        .attack()
}

pub fn directory_over_a_symlink_of_a_lower_layer(_: &Aim) -> Case {
    let layers = [
        tar().entry(Entry::file("t/below", "t")).entry(Entry::symlink("l", "t")),
        tar().entry(Entry::directory("l").mode(0o700)).entry(Entry::file("l/new", "1")),
    ];
    let sights = [directory("l"), file("l/new", "1"), file("t/below", "t"), names(&["l", "l/new", "t", "t/below"])];
    Case::shown("image-spec, layer.md, Modifications: another type replaces", layers, sights)
}

pub fn symlink_over_a_directory_of_a_lower_layer(_: &Aim) -> Case {
    let layers = [
        tar().entry(Entry::file("d/below", "1")).entry(Entry::file("t/f", "2")),
        tar().entry(Entry::symlink("d", "t")).entry(Entry::file("d/new", "3")),
    ];
    let sights = [symlink("d", "t"), file("t/new", "3"), names(&["d", "t", "t/f", "t/new"])];
    Case::shown("image-spec, layer.md, Modifications: another type replaces", layers, sights)
}

/// A directory with all below it gives way to a link and comes back empty.
pub fn directory_symlink_directory(aim: &Aim) -> Case {
    let layers = [
        tar().entry(Entry::file("d/one", "1")),
        tar().entry(Entry::symlink("d", aim.absolute("dir"))),
        tar().entry(Entry::file("d/two", "2")).entry(Entry::directory("d")).entry(Entry::file("d/three", "3")),
    ];
    let sights = [directory("d"), file("d/three", "3"), gone("d/one"), gone("d/two"), file(aim.inside("dir/two"), "2")];
    Case::shown(LAYER_SPEC, layers, sights).attack()
}

fn not_a_directory(layers: impl IntoIterator<Item = TarBuilder>) -> Case {
    let kind = refusal!(Problem::Merge(MergeProblem::ParentNotDirectory { .. }), "is not a directory");
    Case::refused("path_resolution(7), ENOTDIR; containerd#4659", layers, kind)
}

pub fn parent_is_a_file(_: &Aim) -> Case {
    not_a_directory([tar().entry(Entry::file("f", "")).entry(Entry::file("f/below", ""))])
}

pub fn parent_is_a_file_of_a_lower_layer(_: &Aim) -> Case {
    not_a_directory([tar().entry(Entry::file("f", "")), tar().entry(Entry::file("f/below", ""))])
}

pub fn parent_is_a_fifo(_: &Aim) -> Case {
    not_a_directory([tar().entry(Entry::fifo("f")).entry(Entry::file("f/below", ""))])
}

pub fn parent_is_a_symlink_to_a_file(_: &Aim) -> Case {
    not_a_directory([tar()
        .entry(Entry::file("f", ""))
        .entry(Entry::symlink("s", "f"))
        .entry(Entry::file("s/below", ""))])
}

pub fn parents_are_symlinks_in_a_circle(_: &Aim) -> Case {
    let kind = refusal!(Problem::Merge(MergeProblem::TooManyLinks { .. }), "more than 40 symbolic links");
    let layer = tar().entry(Entry::symlink("x", "y")).entry(Entry::symlink("y", "x")).entry(Entry::file("x/f", ""));
    Case::refused("path_resolution(7), ELOOP", [layer], kind)
}

/// No Linux follows more than 40, and each doubles the time of who follows them by hand.
pub fn parents_are_forty_one_symlinks(_: &Aim) -> Case {
    let kind = refusal!(Problem::Merge(MergeProblem::TooManyLinks { .. }), "more than 40 symbolic links");
    let mut layer = tar().entry(Entry::directory("l0"));
    for number in 1..=41 {
        layer.push(&Entry::symlink(format!("l{number}"), format!("l{}", number - 1)));
    }
    Case::refused("path_resolution(7), ELOOP", [layer.entry(Entry::file("l41/f", ""))], kind)
}

pub fn parent_is_missing(_: &Aim) -> Case {
    let made = |node: &stos_testkit::tree::Node| {
        (node.kind, node.mode, node.uid, node.mtime) == ("directory", 0o755, 0, (0, 0))
    };
    let sights = [file("a/b/f", "1"), node("a", "as no entry says it", made), node("a/b", "as no entry says it", made)];
    Case::shown("containerd#3017: a parent that nobody names is 0755", [tar().entry(Entry::file("a/b/f", "1"))], sights)
}

/// What a lower layer says of a directory holds where the upper one has something below it alone.
pub fn parent_is_missing_in_the_upper_layer(_: &Aim) -> Case {
    let layers =
        [tar().entry(Entry::directory("d").mode(0o1770).owner(5, 6).mtime(7, 8)), tar().entry(Entry::file("d/f", ""))];
    let kept = node("d", "as the lower layer says", |node| {
        (node.mode, node.uid, node.gid, node.mtime) == (0o1770, 5, 6, (7, 8))
    });
    Case::shown("containerd#3017: a parent that nobody names is 0755", layers, [kept, file("d/f", "")])
}

pub fn parent_is_a_dangling_symlink(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::symlink("s", aim.absolute("new/place"))).entry(Entry::file("s/f", "attacked"));
    Case::shown(
        BREAKOUT,
        [layer],
        [symlink("s", aim.absolute("new/place")), file(aim.inside("new/place/f"), "attacked")],
    )
}

pub fn same_name_twice(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::file("f", "not this").mode(0o4755).xattr("user.old", "1"))
        .entry(Entry::file("f", "this").mode(0o600))
        .entry(Entry::fifo("g"))
        .entry(Entry::file("g", "no FIFO"))
        .entry(Entry::file("h", "no link"))
        .entry(Entry::symlink("h", "f"));
    let last = node("f", "the last alone", |node| node.mode == 0o600 && node.xattrs.is_empty());
    Case::shown(
        "GNU tar manual, Appending: the last counts",
        [layer],
        [file("f", "this"), last, file("g", "no FIFO"), symlink("h", "f")],
    )
}

/// Written into the old inode it would change what the other name shows.
pub fn same_name_twice_with_a_hard_link(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::file("f", "kept"))
        .entry(Entry::hard_link("h", "f"))
        .entry(Entry::file("h", "new").mode(0o777));
    let kept = node("f", "one name, mode 644", |node| node.link_group.is_none() && node.mode == 0o644);
    Case::shown("GNU tar manual, Appending: the last counts", [layer], [file("f", "kept"), file("h", "new"), kept])
}

pub fn file_over_a_full_directory(_: &Aim) -> Case {
    let layers =
        [tar().entry(Entry::file("d/a/b", "1")), tar().entry(Entry::file("d/c", "2")).entry(Entry::file("d", "3"))];
    Case::shown("image-spec, layer.md, Modifications: another type replaces", layers, [file("d", "3"), names(&["d"])])
}

pub fn directory_over_a_directory(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::directory("d").mode(0o777).xattr("user.old", "1"))
        .entry(Entry::file("d/f", "1"))
        .entry(Entry::directory("d").mode(0o700).xattr("user.new", "1"));
    let last = node("d", "the last entry's attributes", |node| {
        node.mode == 0o700 && node.xattrs.keys().eq([&b"user.new"[..]])
    });
    Case::shown("image-spec, layer.md, Modifications: attributes are replaced", [layer], [file("d/f", "1"), last])
}
