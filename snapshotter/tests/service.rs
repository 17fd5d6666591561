// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The service without images of the store: snapshots that are written to, committed, read and removed; and what callers may not do.

mod scene;

use std::fs;
use std::path::Path;

use scene::{Scene, code, option};
use stos_snapshotter::api::snapshots::Kind;
use stos_testkit::guard::Need;
use tonic::Code;

#[test]
fn what_is_written_can_be_stood_on_read_and_removed() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let mounts = scene.prepare("low-key", "", &[("a", "b")]).unwrap();
    assert_eq!((mounts[0].r#type.as_str(), mounts[0].options.join(",")), ("bind", "rw,rbind".to_owned()));
    let low = mounts[0].source.clone();
    fs::write(Path::new(&low).join("file"), vec![1; 10_000]).unwrap();
    std::os::unix::fs::chown(&low, Some(7), Some(8)).unwrap();
    assert_eq!(scene.stat("low-key").unwrap().kind(), Kind::Active);
    let usage = scene.usage("low-key").unwrap();
    assert!(usage.size >= 10_000 && usage.inodes == 2, "{usage:?}");
    scene.commit("low", "low-key").unwrap();
    assert_eq!(code(scene.stat("low-key")), Code::NotFound);
    let info = scene.stat("low").unwrap();
    assert_eq!((info.kind(), info.parent.as_str()), (Kind::Committed, ""));
    assert_eq!(info.labels.keys().collect::<Vec<_>>(), ["committed"], "labels are replaced, not kept");
    assert_eq!(scene.usage("low").unwrap(), usage);

    let mounts = scene.prepare("high-key", "low", &[]).unwrap();
    assert_eq!((mounts[0].r#type.as_str(), option(&mounts, "lowerdir")), ("overlay", low.clone()));
    let upper = option(&mounts, "upperdir");
    let metadata = fs::metadata(&upper).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((metadata.uid(), metadata.gid()), (7, 8), "its root is like the one below");
    assert_eq!(scene.mounts("high-key").unwrap(), mounts);
    scene.commit("high", "high-key").unwrap();
    assert_eq!(option(&scene.view("look", "high").unwrap(), "lowerdir"), format!("{upper}:{low}"));
    assert_eq!(scene.view("look at low", "low").unwrap()[0].source, low);

    assert_eq!(scene.names(&["kind==committed"]), ["high", "low"]);
    assert_eq!(scene.names(&["kind==view,parent==low"]), ["look at low"]);
    for (name, expected) in [("low", Code::FailedPrecondition), ("high", Code::FailedPrecondition)] {
        assert_eq!(code(scene.remove(name)), expected, "{name}");
    }
    for name in ["look", "look at low", "high", "low"] {
        scene.remove(name).unwrap();
    }
    scene.cleanup();
    assert!(scene.names(&[]).is_empty() && !Path::new(&low).exists());
    assert_eq!(fs::read_dir(scene.data_root().join("staging")).unwrap().count(), 0);
}

#[test]
fn what_callers_may_not_do_has_the_code_that_containerd_expects() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    scene.prepare("active", "", &[]).unwrap();
    scene.prepare("other", "", &[]).unwrap();
    scene.prepare("base-key", "", &[]).unwrap();
    scene.commit("base", "base-key").unwrap();
    scene.view("view", "base").unwrap();
    let long = "x".repeat(4096);
    let odd = "sha256:odd";
    for (what, got) in [
        ("stat of nothing", scene.stat("none").map(drop)),
        ("mounts of nothing", scene.mounts("none").map(drop)),
        ("usage of nothing", scene.usage("none").map(drop)),
        ("removal of nothing", scene.remove("none")),
        ("commit of nothing", scene.commit("new", "none")),
        ("update of nothing", scene.update("none", &[], &[]).map(drop)),
        ("prepare on nothing", scene.prepare("new", "none", &[]).map(drop)),
        ("view of nothing", scene.view("new", "none").map(drop)),
        ("its own parent", scene.prepare("self", "self", &[]).map(drop)),
    ] {
        assert_eq!(code(got), Code::NotFound, "{what}");
    }
    for (what, got) in [
        ("a key that is taken", scene.prepare("active", "", &[]).map(drop)),
        ("a name that is taken", scene.view("base", "").map(drop)),
        ("commit to a name that is taken", scene.commit("base", "active")),
        ("commit to its own key", scene.commit("active", "active")),
    ] {
        assert_eq!(code(got), Code::AlreadyExists, "{what}");
    }
    for (what, got) in [
        ("commit of a view", scene.commit("new", "view")),
        ("double commit", scene.commit("new", "base")),
        ("removal of a parent", scene.remove("base")),
        ("mounts of what is committed", scene.mounts("base").map(drop)),
    ] {
        assert_eq!(code(got), Code::FailedPrecondition, "{what}");
    }
    for (what, got) in [
        ("no key", scene.prepare("", "", &[]).map(drop)),
        ("no name", scene.commit("", "active")),
        ("a parent that is written to", scene.prepare("new", "active", &[]).map(drop)),
        ("a parent that is a view", scene.view("new", "view").map(drop)),
        ("a label that is too long", scene.prepare("new", "", &[("k", &long)]).map(drop)),
        ("a label that is too long, later", scene.update("active", &[("k", &long)], &[]).map(drop)),
        ("a mask of what never changes", scene.update("active", &[], &["parent"]).map(drop)),
        ("no filter", scene.list(&["kind=="]).map(drop)),
    ] {
        assert_eq!(code(got), Code::InvalidArgument, "{what}");
    }
    // A chain that is none is unpacked as any other layer.
    scene.prepare("odd", "", &[(scene::REF, odd)]).unwrap();
    assert_eq!(scene.names(&[]), ["active", "base", "odd", "other", "view"], "nothing is lost, nothing came");
}

#[test]
fn labels_are_changed_as_the_mask_says() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    scene.prepare("x", "", &[("a", "1"), ("b", "2")]).unwrap();
    let labels = |info: stos_snapshotter::api::snapshots::Info| info.labels;
    let changed = scene.update("x", &[("a", "3"), ("c", "4")], &["labels.a", "labels.b"]).unwrap();
    assert_eq!(labels(changed), scene::map(&[("a", "3")]), "b has no value any more, and c is not in the mask");
    assert_eq!(labels(scene.update("x", &[("d", "5")], &["labels"]).unwrap()), scene::map(&[("d", "5")]));
    let before = scene.stat("x").unwrap();
    let after = scene.update("x", &[("e", "6")], &[]).unwrap();
    assert_eq!(labels(after.clone()), scene::map(&[("e", "6")]));
    assert_eq!(after.created_at, before.created_at);
    assert_ne!(after.updated_at, before.updated_at);
    assert_eq!(scene.restarted().stat("x").unwrap(), after);
}

#[test]
fn a_restart_loses_nothing_and_one_process_serves_a_store() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    scene.prepare("low-key", "", &[]).unwrap();
    scene.commit("low", "low-key").unwrap();
    let mounts = scene.prepare("high", "low", &[("a", "b")]).unwrap();
    scene.remove("high").unwrap();
    let again = scene.prepare("high", "low", &[("a", "b")]).unwrap();
    assert_ne!(mounts, again, "a directory is never used twice");
    let before = scene.list(&[]).unwrap();
    let scene = scene.restarted();
    assert_eq!(scene.list(&[]).unwrap(), before);
    assert_eq!(scene.mounts("high").unwrap(), again);
    assert_eq!(code(scene.remove("low")), Code::FailedPrecondition);
    let store = stos_store::Store::open(&scene.data_root()).unwrap();
    let refused = stos_snapshotter::metadata::Metadata::open_within(&store, std::time::Duration::ZERO);
    assert!(matches!(refused, Err(stos_snapshotter::Error::Served { .. })), "{refused:?}");
}

#[test]
fn a_record_that_is_damaged_keeps_the_others_from_nothing() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    scene.prepare("low-key", "", &[]).unwrap();
    scene.commit("low", "low-key").unwrap();
    scene.prepare("high", "low", &[]).unwrap();
    fs::write(scene.data_root().join("snapshots/1/snapshot.json"), "{").unwrap();
    let scene = scene.restarted();
    assert_eq!(scene.names(&[]), ["high"]);
    assert_eq!(code(scene.mounts("high")), Code::NotFound, "its parent is missing");
    let own = scene.prepare("new", "", &[]).unwrap();
    assert!(own[0].source.ends_with("snapshots/3/fs"), "no number is used twice: {own:?}");
    scene.cleanup();
    assert!(scene.data_root().join("snapshots/1/fs").exists(), "what cannot be read is kept");
}

#[test]
fn parents_that_form_a_circle_on_disk_are_refused_and_harm_nobody_else() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    for (name, parent) in [("a", ""), ("b", "a"), ("apart", "")] {
        scene.prepare("key", parent, &[]).unwrap();
        scene.commit(name, "key").unwrap();
    }
    scene.prepare("open", "b", &[]).unwrap();
    // No call makes one.
    let path = scene.data_root().join("snapshots/1/snapshot.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(record["name"], "a");
    record["parent"] = "b".into();
    fs::write(&path, record.to_string()).unwrap();
    let scene = scene.restarted();
    assert_eq!(code(scene.prepare("new", "b", &[])), Code::FailedPrecondition);
    assert_eq!(code(scene.view("new", "a")), Code::FailedPrecondition);
    assert_eq!(code(scene.mounts("open")), Code::FailedPrecondition);
    assert_eq!(code(scene.remove("a")), Code::FailedPrecondition);
    scene.cleanup();
    scene.remove("open").unwrap();
    scene.prepare("of another", "apart", &[]).unwrap();
    scene.cleanup();
    assert_eq!(scene.names(&[]), ["a", "apart", "b", "of another"]);
}
