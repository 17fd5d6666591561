// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What full verification of the backend `dirs` finds: whatever a restore or a disk does to an unpacked layer, or to the corrections
//! on top of a stack.

mod fixture;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use fixture::Fixture;
use stos_layerfs::{BackendKind, Chain, Error, Integrity};
use stos_spec::DiffId;
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, TarBuilder, file_capability, posix_acl};

/// A layer with what is easily lost: links, times, attributes, and files that have no name in it.
fn rich() -> Vec<u8> {
    let base = TarBuilder::new()
        .entry(Entry::directory("d").mtime(1_000_000, 0).xattr("user.mark", b"1"))
        .entry(Entry::file("d/f", "content").mtime(2_000_000, 0))
        .entry(Entry::hard_link("d/g", "d/f"))
        .entry(Entry::file("d/twin", "content").mtime(2_000_000, 0))
        .entry(Entry::symlink("s", "d").mtime(3_000_000, 0))
        .entry(Entry::fifo("fifo").mtime(4_000_000, 0))
        .entry(Entry::file("lost", "of an orphan").mtime(5_000_000, 0).mode(0o640))
        .entry(Entry::file("lost", "of what stands there"));
    base.finish()
}

/// The number of the entry whose file is an orphan.
const ORPHAN: &str = "orphans/6";

struct Scene {
    fixture: Fixture,
    layers: Vec<DiffId>,
}

impl Scene {
    fn new(tars: &[Vec<u8>]) -> Self {
        let fixture = Fixture::of(BackendKind::Dirs);
        let layers = tars.iter().map(|tar| fixture.add(tar).unwrap()).collect();
        Self { fixture, layers }
    }

    fn prove(&self) -> stos_layerfs::Result<Chain> {
        self.fixture.layerfs.ensure_sound_chain(&self.layers, Integrity::Full)
    }

    fn layer(&self, number: usize) -> PathBuf {
        self.fixture.layerfs.dirs().layer_dir(self.layers[number])
    }

    fn top(&self) -> PathBuf {
        let chain = self.fixture.layerfs.ensure_sound_chain(&self.layers, Integrity::None).unwrap();
        self.fixture.layerfs.dirs().chain_dir(chain.chain_id()).join("top")
    }
}

fn set_time(path: &Path, seconds: u64, nanoseconds: u32) {
    let time = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    File::open(path).unwrap().set_modified(time).unwrap();
}

fn set_attribute(path: &Path, name: &std::ffi::CStr, value: &[u8]) {
    stos_sys::xattr::set(File::open(path).unwrap(), name, value).unwrap();
}

/// Makes a copy of a hard link, with all its metadata, as a restore without hard links does.
fn unlink_copy(path: &Path) {
    let (stat, bytes) = (fs::metadata(path).unwrap(), fs::read(path).unwrap());
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, stat.permissions()).unwrap();
    set_time(path, stat.mtime() as u64, stat.mtime_nsec() as u32);
}

#[test]
fn whatever_a_restore_loses_of_a_layer_is_found() {
    stos_testkit::require!(Need::Root, Need::Tool("touch"));
    type Damage = fn(&Path);
    let cases: [(&str, &str, Damage); 15] = [
        ("a hard link is a copy", "diff/d", |layer| {
            in_place(&layer.join("diff/d"), || unlink_copy(&layer.join("diff/d/g")))
        }),
        ("a file is a hard link to its twin", "diff/d", |layer| {
            in_place(&layer.join("diff/d"), || {
                fs::remove_file(layer.join("diff/d/twin")).unwrap();
                fs::hard_link(layer.join("diff/d/f"), layer.join("diff/d/twin")).unwrap();
            });
        }),
        ("a file's time", "diff/d/", |layer| set_time(&layer.join("diff/d/f"), 7, 0)),
        ("a time's nanoseconds", "diff/d/", |layer| set_time(&layer.join("diff/d/f"), 2_000_000, 1)),
        ("a directory's time", "diff/d", |layer| set_time(&layer.join("diff/d"), 7, 0)),
        ("a symlink's time", "diff/s", |layer| touch(&layer.join("diff/s"))),
        ("a FIFO's time", "diff/fifo", |layer| touch(&layer.join("diff/fifo"))),
        ("one more capability", "diff/d/", |layer| {
            set_attribute(&layer.join("diff/d/f"), c"security.capability", &file_capability(1 << 21));
        }),
        ("one more attribute", "diff/d", |layer| set_attribute(&layer.join("diff/d"), c"user.more", b"1")),
        ("a directory where a file was", "diff/lost", |layer| {
            fs::remove_file(layer.join("diff/lost")).unwrap();
            fs::create_dir(layer.join("diff/lost")).unwrap();
        }),
        ("an orphan's mode", ORPHAN, |layer| {
            fs::set_permissions(layer.join(ORPHAN), fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("an orphan's owner", ORPHAN, |layer| lchown(layer.join(ORPHAN), Some(7), None).unwrap()),
        ("an orphan's time", ORPHAN, |layer| set_time(&layer.join(ORPHAN), 7, 0)),
        ("an orphan's length", ORPHAN, |layer| {
            let stat = fs::metadata(layer.join(ORPHAN)).unwrap();
            File::options().append(true).open(layer.join(ORPHAN)).unwrap().set_len(stat.len() + 1).unwrap();
        }),
        ("one more orphan", "orphans", |layer| fs::write(layer.join("orphans/99"), "").unwrap()),
    ];
    for (case, place, damage) in cases {
        let scene = Scene::new(&[rich()]);
        scene.prove().unwrap();
        damage(&scene.layer(0));
        let error = scene.prove().unwrap_err();
        let Error::DamagedLayer { path, expected, found, .. } = &error else { panic!("{case}: {error}") };
        assert!(path.to_str().unwrap().contains(place) && expected != found, "{case}: {error}");
    }
}

/// Changes something in a directory and puts the directory's time back.
fn in_place(directory: &Path, change: impl FnOnce()) {
    let stat = fs::metadata(directory).unwrap();
    change();
    set_time(directory, stat.mtime() as u64, stat.mtime_nsec() as u32);
}

fn touch(path: &Path) {
    let touched = std::process::Command::new("touch").args(["-h", "-d", "@7"]).arg(path).status();
    assert!(touched.unwrap().success());
}

#[test]
fn what_a_filesystem_cannot_hold_is_no_damage() {
    stos_testkit::require!(Need::Root);
    let minimal = posix_acl(&[(1, 6, u32::MAX), (4, 4, u32::MAX), (32, 4, u32::MAX)]);
    let other = posix_acl(&[(1, 7, u32::MAX), (2, 6, 5), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)]);
    let tar = TarBuilder::new()
        .entry(Entry::file("old", "").mtime(-5_000_000_000, 0))
        .entry(Entry::file("new", "").mtime(1 << 40, 0))
        .entry(Entry::symlink("link", "old").mtime(-5_000_000_000, 0))
        .entry(Entry::directory("dir").mtime(1 << 40, 0).xattr("system.posix_acl_default", &other))
        .entry(Entry::file("same", "").mode(0o640).xattr("system.posix_acl_access", &minimal))
        .entry(Entry::file("acl", "").mode(0o600).xattr("system.posix_acl_access", &other))
        .entry(Entry::fifo("fifo").mode(0o600).xattr("system.posix_acl_access", &other))
        .finish();
    let scene = Scene::new(&[tar]);
    scene.prove().unwrap();
    set_time(&scene.layer(0).join("diff/old"), 7, 0);
    let error = scene.prove().unwrap_err();
    assert!(matches!(&error, Error::DamagedLayer { path, .. } if path.ends_with("old")), "{error}");
}

#[test]
fn deep_trees_of_many_directories_are_proved_and_read() {
    stos_testkit::require!(Need::Root);
    let name = "n".repeat(200);
    let deep = (0..19).map(|_| name.as_str()).collect::<Vec<_>>().join("/");
    let mut tar = TarBuilder::new().entry(Entry::directory(&*deep)).entry(Entry::symlink("s", &deep));
    for number in 0..300 {
        tar = tar.entry(Entry::file(format!("s/{name}/{number}/f"), format!("{number}")));
    }
    let scene = Scene::new(&[tar.finish()]);
    scene.prove().unwrap();
}

/// The tars of a stack with a correction of every kind.
fn corrected() -> [Vec<u8>; 3] {
    let base = TarBuilder::new()
        .entry(Entry::directory("d").mtime(1_000_000, 0).mode(0o750))
        .entry(Entry::file("d/a", "below"))
        .entry(Entry::symlink("s", "d"))
        .entry(Entry::directory("e"))
        .entry(Entry::symlink("t", "e"))
        .entry(Entry::file("f", "twice").mtime(2_000_000, 0))
        .entry(Entry::directory("w"))
        .entry(Entry::file("w/a", ""))
        .entry(Entry::file("w/b", ""))
        .entry(Entry::symlink("x", "w"))
        .finish();
    let upper = TarBuilder::new()
        .whiteout("s/a")
        .entry(Entry::file("s/b", "in it"))
        .entry(Entry::hard_link("h", "t"))
        .entry(Entry::symlink("h/link", "target").mtime(3_000_000, 0))
        .entry(Entry::char_device("h/null", 1, 3))
        .entry(Entry::hard_link("first", "f"))
        .whiteout("x/a")
        .finish();
    [base.clone(), upper, TarBuilder::new().entry(Entry::file("own", "")).finish()]
}

#[test]
fn whatever_a_restore_loses_of_corrections_is_found_and_made_again() {
    stos_testkit::require!(Need::Root, Need::Tool("touch"));
    let [base, upper, own] = corrected();
    // The base twice: the file `f` of the upper one is another than `first`, of the lower one.
    let twice = TarBuilder::new().entry(Entry::file("f", "twice").mtime(2_000_000, 0)).finish();
    let linked = TarBuilder::new().entry(Entry::hard_link("first", "f")).finish();
    type Damages = [(&'static str, fn(&Path))];
    let stacks: [(Vec<Vec<u8>>, &Damages); 3] = [
        (
            vec![base.clone(), upper.clone()],
            &[
                ("opaque", |top| {
                    stos_sys::xattr::remove(File::open(top.join("d")).unwrap(), c"trusted.overlay.opaque").unwrap();
                }),
                ("opaque where it is not", |top| set_attribute(&top.join("w"), c"trusted.overlay.opaque", b"y")),
                ("a directory's attribute", |top| set_attribute(&top.join("d"), c"user.more", b"1")),
                ("a directory's time", |top| set_time(&top.join("d"), 7, 0)),
                ("a directory's mode", |top| {
                    fs::set_permissions(top.join("d"), fs::Permissions::from_mode(0o700)).unwrap()
                }),
                ("a symlink's target", |top| {
                    in_place(&top.join("e"), || {
                        fs::remove_file(top.join("e/link")).unwrap();
                        symlink("TARGET", top.join("e/link")).unwrap();
                    })
                }),
                ("a symlink's time", |top| touch(&top.join("e/link"))),
                ("a device", |top| {
                    in_place(&top.join("e"), || {
                        fs::remove_file(top.join("e/null")).unwrap();
                        fs::write(top.join("e/null"), "").unwrap();
                    })
                }),
                ("a hard link", |top| in_place(&top.join("d"), || unlink_copy(&top.join("d/b")))),
                ("a whiteout", |top| {
                    in_place(&top.join("w"), || {
                        fs::remove_file(top.join("w/a")).unwrap();
                        fs::write(top.join("w/a"), "").unwrap();
                    })
                }),
                ("the root's mode", |top| fs::set_permissions(top, fs::Permissions::from_mode(0o700)).unwrap()),
            ],
        ),
        (
            vec![twice.clone(), linked, twice],
            &[
                ("a copy's data", |top| {
                    let stat = fs::metadata(top.join("first")).unwrap();
                    fs::write(top.join("first"), "TWICE").unwrap();
                    set_time(&top.join("first"), stat.mtime() as u64, 0);
                }),
                ("a copy's time", |top| set_time(&top.join("first"), 7, 0)),
                ("a copy's mode", |top| {
                    fs::set_permissions(top.join("first"), fs::Permissions::from_mode(0o600)).unwrap()
                }),
                ("a copy's attribute", |top| set_attribute(&top.join("first"), c"user.more", b"1")),
            ],
        ),
        (
            vec![own],
            &[
                ("the mode of a root without corrections", |top| {
                    fs::set_permissions(top, fs::Permissions::from_mode(0o700)).unwrap();
                }),
                ("its time", |top| set_time(top, 7, 0)),
                ("its attributes", |top| set_attribute(top, c"user.more", b"1")),
            ],
        ),
    ];
    for (tars, damages) in stacks {
        let scene = Scene::new(&tars);
        let good = scene.fixture.see_layers(&scene.layers).unwrap();
        for (case, damage) in damages {
            let top = scene.top();
            let before = fs::metadata(&top).unwrap();
            scene.prove().unwrap();
            assert_eq!(fs::metadata(&top).unwrap().ino(), before.ino(), "{case}: what is right stays");
            damage(&top);
            scene.prove().unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_ne!(fs::metadata(&top).unwrap().ino(), before.ino(), "{case}");
            assert!(good.differences(&scene.fixture.see_layers(&scene.layers).unwrap()).is_empty(), "{case}");
        }
    }
}

#[test]
fn a_sparse_file_that_is_seen_twice_costs_its_data_alone() {
    stos_testkit::require!(Need::Root);
    let twice = TarBuilder::new().sparse_pax("f", 1 << 40, &[(1 << 39, b"data".as_slice())]).finish();
    let linked = TarBuilder::new().entry(Entry::hard_link("first", "f")).finish();
    let scene = Scene::new(&[twice.clone(), linked, twice]);
    scene.prove().unwrap();
    let stat = fs::metadata(scene.top().join("first")).unwrap();
    assert!(stat.len() == 1 << 40 && stat.blocks() * 512 < 1 << 20, "{stat:?}");
    scene.prove().unwrap();
}

#[test]
fn a_file_that_can_have_no_more_names_is_copied() {
    stos_testkit::require!(Need::Root);
    let base = TarBuilder::new().entry(Entry::file("f", "content").mtime(1_000_000, 0)).finish();
    let upper = TarBuilder::new().entry(Entry::hard_link("d/g", "f")).entry(Entry::hard_link("d/h", "f")).finish();
    let scene = Scene::new(&[base, upper]);
    let names = scene.fixture.data_root().join("more names");
    fs::create_dir(&names).unwrap();
    let file = scene.layer(0).join("diff/f");
    // ext4: 65,000.
    let refused = (0..70_000).find(|number| fs::hard_link(&file, names.join(number.to_string())).is_err());
    if refused.is_none() {
        // This filesystem gives a file as many names as it likes.
        return;
    }
    scene.prove().unwrap();
    let top = scene.top();
    let stat = |name: &str| fs::metadata(top.join(name)).unwrap();
    let original = fs::metadata(&file).unwrap();
    assert_ne!(stat("d/g").ino(), original.ino());
    assert_eq!((stat("d/g").ino(), stat("d/g").nlink()), (stat("d/h").ino(), 2));
    assert_eq!((stat("d/g").mtime(), stat("d/g").mode()), (original.mtime(), original.mode()));
    let inode = fs::metadata(&top).unwrap().ino();
    scene.prove().unwrap();
    assert_eq!(fs::metadata(&top).unwrap().ino(), inode, "a copy is right where no link can be");
    // Where one can be, it is made.
    fs::remove_dir_all(&names).unwrap();
    scene.prove().unwrap();
    assert_eq!(stat("d/g").ino(), original.ino());
    assert_eq!(fs::read(top.join("d/h")).unwrap(), b"content");
}

#[test]
fn acls_of_the_data_root_are_none_of_a_layer_s() {
    stos_testkit::require!(Need::Root);
    let dir = stos_testkit::environment::scratch();
    let acl = posix_acl(&[(1, 7, u32::MAX), (2, 7, 5), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)]);
    set_attribute(dir.path(), c"system.posix_acl_default", &acl);
    let [base, upper, _] = corrected();
    let fixture = Fixture::at(dir, BackendKind::Dirs);
    let layers = [&rich(), &base, &upper].map(|tar| fixture.add(tar).unwrap()).to_vec();
    let scene = Scene { fixture, layers };
    scene.prove().unwrap();
    let mut pending = vec![scene.layer(0).join("diff"), scene.layer(0).join("orphans/6"), scene.top()];
    while let Some(path) = pending.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        if stat.is_dir() || stat.is_file() {
            let names = stos_sys::xattr::list(File::open(&path).unwrap()).unwrap();
            assert!(!names.iter().any(|name| name.to_bytes().starts_with(b"system.")), "{path:?}: {names:?}");
        }
    }
}
