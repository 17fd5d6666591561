// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whiteouts of every form, where they may stand and where they lead.

use stos_erofs::TarProblem;
use stos_testkit::tar_builder::{Entry, TarBuilder};

use super::case::{Aim, Case, Problem, directory, file, gone, names, node, refusal, symlink, tar};

const SPEC: &str = "image-spec, layer.md, Whiteouts";
const OPAQUE_SPEC: &str = "image-spec, layer.md, Opaque Whiteout";

/// What the whiteouts remove.
fn base() -> TarBuilder {
    tar()
        .entry(Entry::directory("d").mode(0o750))
        .entry(Entry::file("d/a", "a"))
        .entry(Entry::file("d/s/b", "b"))
        .entry(Entry::file("f", "f"))
}

/// containerd removed nothing when it unpacked layers side by side, each as if it were the first.
pub fn containerd_13030_whiteout_of_a_layer_by_itself(_: &Aim) -> Case {
    let layers = [base(), tar().whiteout("f"), tar().whiteout("d/a").entry(Entry::file("d/c", "c"))];
    Case::shown("containerd#13030", layers, [names(&["d", "d/c", "d/s", "d/s/b"])])
}

/// And nothing of them is to be seen where they are the first.
pub fn containerd_13030_whiteouts_of_a_first_layer(_: &Aim) -> Case {
    let layer = tar().whiteout("x").whiteout("d/y").opaque("d").opaque("e").entry(Entry::file("d/a", "a"));
    Case::shown(
        "containerd#13030",
        [layer],
        [file("d/a", "a"), gone("x"), gone("d/y"), gone(".wh.x"), gone("d/.wh..wh..opq")],
    )
}

pub fn opaque_root_of_a_first_layer(_: &Aim) -> Case {
    let layer = tar().entry(Entry::file("a", "a")).entry(Entry::file(".wh..wh..opq", ""));
    Case::shown("containerd#13030", [layer], [names(&["a"])])
}

pub fn whiteout_before_its_siblings(_: &Aim) -> Case {
    let layers = [base(), tar().whiteout("d/a").entry(Entry::file("d/n", "n"))];
    Case::shown(SPEC, layers, [names(&["d", "d/n", "d/s", "d/s/b", "f"])])
}

pub fn whiteout_after_its_siblings(_: &Aim) -> Case {
    let layers = [base(), tar().entry(Entry::file("d/n", "n")).whiteout("d/a").whiteout("f")];
    Case::shown(SPEC, layers, [names(&["d", "d/n", "d/s", "d/s/b"])])
}

/// It acts on lower layers only, wherever it stands.
pub fn whiteout_before_the_same_name(_: &Aim) -> Case {
    Case::shown(SPEC, [base(), tar().whiteout("f").entry(Entry::file("f", "new"))], [file("f", "new")])
}

pub fn whiteout_after_the_same_name(_: &Aim) -> Case {
    Case::shown(SPEC, [base(), tar().entry(Entry::file("f", "new")).whiteout("f")], [file("f", "new")])
}

pub fn opaque_before_its_siblings(_: &Aim) -> Case {
    let layers = [base(), tar().opaque("d").entry(Entry::file("d/n", "n"))];
    Case::shown(OPAQUE_SPEC, layers, [names(&["d", "d/n", "f"])])
}

pub fn opaque_after_its_siblings(_: &Aim) -> Case {
    let layers = [base(), tar().entry(Entry::file("d/n", "n")).entry(Entry::file("d/s/m", "m")).opaque("d")];
    Case::shown(OPAQUE_SPEC, layers, [names(&["d", "d/n", "d/s", "d/s/m", "f"])])
}

pub fn opaque_root(_: &Aim) -> Case {
    let layers = [base(), tar().entry(Entry::file("n", "n")).entry(Entry::file(".wh..wh..opq", ""))];
    Case::shown(OPAQUE_SPEC, layers, [names(&["n"])])
}

pub fn whiteout_of_a_missing_name(_: &Aim) -> Case {
    let layers = [base(), tar().whiteout("none").whiteout("none/deeper").whiteout("d/none").whiteout("d/s/none/n")];
    Case::shown("container2wasm#257: a whiteout of nothing", layers, [names(&["d", "d/a", "d/s", "d/s/b", "f"])])
}

/// Builders leave them where a directory has become a file.
pub fn whiteout_below_a_file(_: &Aim) -> Case {
    let layers =
        [base(), tar().whiteout("f/x").entry(Entry::file("d/a/.wh..wh..opq", "")).entry(Entry::file("n", "n"))];
    Case::shown("containerd#4659", layers, [file("f", "f"), file("d/a", "a"), file("n", "n")])
}

pub fn whiteout_below_what_has_become_a_file(_: &Aim) -> Case {
    let layers = [base(), tar().entry(Entry::file("d", "now a file")).whiteout("d/a").whiteout("d/s/b")];
    Case::shown("containerd#4659", layers, [file("d", "now a file"), names(&["d", "f"])])
}

pub fn whiteout_then_the_directory_again(_: &Aim) -> Case {
    let layers = [base(), tar().whiteout("d").entry(Entry::directory("d").mode(0o700)).entry(Entry::file("d/n", "n"))];
    let again = node("d", "mode 700", |node| node.mode == 0o700);
    Case::shown(SPEC, layers, [names(&["d", "d/n", "f"]), again])
}

pub fn the_directory_again_then_its_whiteout(_: &Aim) -> Case {
    let layers = [base(), tar().entry(Entry::directory("d").mode(0o700)).entry(Entry::file("d/n", "n")).whiteout("d")];
    Case::shown(SPEC, layers, [names(&["d", "d/n", "f"])])
}

/// With a parent that no entry names, so that it would be merged with what is removed.
pub fn whiteout_then_a_file_below(_: &Aim) -> Case {
    let layers = [base(), tar().whiteout("d").entry(Entry::file("d/s/n", "n"))];
    Case::shown(SPEC, layers, [names(&["d", "d/s", "d/s/n", "f"])])
}

pub fn whiteouts_within_an_opaque_directory(_: &Aim) -> Case {
    let layers =
        [base(), tar().opaque("d").whiteout("d/a").whiteout("d/none").whiteout("d/s/b").entry(Entry::file("d/n", "n"))];
    Case::shown(OPAQUE_SPEC, layers, [file("d/n", "n"), gone("d/a"), gone("d/s/b")])
}

pub fn opaque_within_an_opaque_directory(_: &Aim) -> Case {
    let layers = [base(), tar().opaque("d").entry(Entry::file("d/s/n", "n")).opaque("d/s")];
    Case::shown(OPAQUE_SPEC, layers, [names(&["d", "d/s", "d/s/n", "f"])])
}

pub fn whiteout_then_a_third_layer(_: &Aim) -> Case {
    let layers = [base(), tar().whiteout("d"), tar().entry(Entry::file("d/n", "n"))];
    Case::shown(SPEC, layers, [names(&["d", "d/n", "f"])])
}

fn nameless(name: &str) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::WhiteoutName { .. }), "a whiteout of");
    Case::refused(SPEC, [base(), tar().entry(Entry::file(name, ""))], kind)
}

pub fn whiteout_of_no_name(_: &Aim) -> Case {
    nameless("d/.wh.")
}

/// It would remove the directory that it stands in.
pub fn whiteout_of_dot(_: &Aim) -> Case {
    nameless("d/.wh..")
}

/// It would remove that one's parent: of the root, what lies beside it.
pub fn whiteout_of_dot_dot(_: &Aim) -> Case {
    nameless(".wh...")
}

pub fn whiteout_with_a_parent_component(_: &Aim) -> Case {
    let kind = refusal!(Problem::Tar(TarProblem::ParentComponent { what: "name", .. }), "\"..\"");
    Case::refused("Zip Slip by a whiteout", [tar().entry(Entry::file("../.wh.canary", ""))], kind).attack()
}

pub fn whiteout_through_a_symlink(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::symlink("s", aim.absolute(""))).whiteout("s/secret").whiteout("s/dir");
    Case::shown("image-spec, layer.md, Whiteouts; path_resolution(7)", [layer], [symlink("s", aim.absolute(""))])
        .attack()
}

pub fn whiteout_through_a_symlink_of_a_lower_layer(aim: &Aim) -> Case {
    let layers = [tar().entry(Entry::symlink("s", aim.upward("dir"))), tar().whiteout("s/deep")];
    Case::shown("image-spec, layer.md, Whiteouts; path_resolution(7)", layers, [symlink("s", aim.upward("dir"))])
        .attack()
}

pub fn opaque_through_a_symlink(aim: &Aim) -> Case {
    let layer = tar().entry(Entry::symlink("s", aim.absolute("dir"))).opaque("s");
    Case::shown("docker/cli#7111: an opaque marker removes by path", [layer], [symlink("s", aim.absolute("dir"))])
        .attack()
}

/// Within the image a whiteout goes where its parent leads.
pub fn whiteout_through_a_symlink_inside(_: &Aim) -> Case {
    let layers = [base().entry(Entry::symlink("l", "/d")), tar().whiteout("l/a").whiteout("l/s")];
    Case::shown(SPEC, layers, [names(&["d", "f", "l"]), symlink("l", "/d")])
}

/// Whatever its type: what it points at is not its business.
pub fn whiteout_that_is_a_symlink(aim: &Aim) -> Case {
    let layers =
        [base(), tar().entry(Entry::symlink(".wh.f", aim.absolute("secret"))).entry(Entry::hard_link("d/.wh.a", "f"))];
    Case::shown(SPEC, layers, [names(&["d", "d/s", "d/s/b"])])
}

pub fn whiteout_with_data(_: &Aim) -> Case {
    let layers = [base(), tar().entry(Entry::file(".wh.f", "data ".repeat(300))).entry(Entry::file("n", "n"))];
    Case::shown("image-spec, layer.md, Whiteouts: an empty file", layers, [gone("f"), file("n", "n"), gone(".wh.f")])
}

pub fn metadata_of_aufs(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::directory(".wh..wh.plnk"))
        .entry(Entry::file(".wh..wh.plnk/1.2", "x"))
        .entry(Entry::file(".wh..wh.aufs", ""))
        .entry(Entry::file("f", "f"));
    Case::shown("moby, pkg/archive: WhiteoutMetaPrefix is skipped", [layer], [names(&["f"])])
}

/// A name like a whiteout's in the middle of a path is a name.
pub fn directory_called_like_a_whiteout(_: &Aim) -> Case {
    let layers = [base(), tar().entry(Entry::file(".wh.d/n", "n"))];
    Case::shown(SPEC, layers, [file("d/a", "a"), file(".wh.d/n", "n")])
}

pub fn device_0_0_is_a_whiteout(_: &Aim) -> Case {
    let layers = [base(), tar().entry(Entry::char_device("f", 0, 0)).entry(Entry::char_device("d/s/none", 0, 0))];
    Case::shown("Linux, overlayfs.rst, whiteouts", layers, [names(&["d", "d/a", "d/s", "d/s/b"])])
}

pub fn device_0_0_of_a_first_layer(_: &Aim) -> Case {
    let layer =
        tar().entry(Entry::file("a", "a")).entry(Entry::char_device("x", 0, 0)).entry(Entry::block_device("b", 0, 0));
    let block = node("b", "a block device 0:0", |node| (node.kind, node.device) == ("block device", (0, 0)));
    Case::shown("Linux, overlayfs.rst, whiteouts", [layer], [names(&["a", "b"]), block])
}

/// overlayfs would show another tree under this name, of the host's lower layers.
pub fn overlay_redirect(aim: &Aim) -> Case {
    let moved = Entry::directory("m")
        .xattr("trusted.overlay.redirect", aim.absolute("dir"))
        .xattr("user.overlay.redirect", b"/d")
        .xattr("trusted.overlay.origin", b"\0\xfb\x1d\x00");
    let bare = node("m", "no attributes", |node| node.xattrs.is_empty());
    Case::shown("Linux, overlayfs.rst, redirect_dir", [base(), tar().entry(moved)], [bare, gone("m/file"), gone("m/a")])
}

/// An attribute is no marker: only the tar's own form hides.
pub fn overlay_opaque(_: &Aim) -> Case {
    let hidden = Entry::directory("d").xattr("trusted.overlay.opaque", b"y").xattr("user.overlay.opaque", b"y");
    let bare = node("d", "no attributes", |node| node.xattrs.is_empty());
    Case::shown("Linux, overlayfs.rst, opaque directories", [base(), tar().entry(hidden)], [file("d/a", "a"), bare])
}

/// Data of a file that is said to lie elsewhere.
pub fn overlay_metacopy(aim: &Aim) -> Case {
    let empty = Entry::file("f", "")
        .xattr("trusted.overlay.metacopy", b"")
        .xattr("trusted.overlay.redirect", aim.absolute("secret"));
    let bare = node("f", "no attributes", |node| node.xattrs.is_empty());
    Case::shown("Linux, overlayfs.rst, metacopy", [base(), tar().entry(empty)], [file("f", ""), bare])
}

/// Linux 6.7 takes an empty file with this attribute for a whiteout, in a directory whose opaque is `x`.
pub fn overlay_whiteout_attribute(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::directory("d").xattr("trusted.overlay.opaque", b"x").xattr("user.overlay.opaque", b"x"))
        .entry(Entry::file("d/a", "").xattr("trusted.overlay.whiteout", b"").xattr("user.overlay.whiteout", b"y"));
    Case::shown(
        "Linux, overlayfs.rst, nested whiteouts",
        [base(), layer],
        [file("d/a", ""), directory("d/s"), file("d/s/b", "b")],
    )
}

/// What an escaped attribute would become in a nested overlay, dropped as well.
pub fn overlay_escaped_attribute(_: &Aim) -> Case {
    let layer = tar()
        .entry(Entry::directory("d").xattr("trusted.overlay.overlay.opaque", b"y").xattr("trusted.overlays", b"kept"));
    let kept = node("d", "trusted.overlays alone", |node| node.xattrs.keys().eq([&b"trusted.overlays"[..]]));
    Case::shown("Linux, overlayfs.rst, nested overlayfs xattrs", [base(), layer], [file("d/a", "a"), kept])
}
