// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers that need no unpacking: pulled, found in the store, refused; and what becomes of them.

mod scene;

use std::fs;
use std::path::Path;

use scene::{IMAGE, REF, Scene, chains, code, image, option};
use stos_engine::image::list_images;
use stos_engine::options::PullOptions;
use stos_engine::pull::{Silent, pull_image_from_registry};
use stos_engine::registries::{ConnectionOptions, RegistryConfig};
use stos_snapshotter::api::snapshots::Kind;
use stos_testkit::guard::Need;
use stos_testkit::registry::{Fault, Rule};
use tonic::Code;

const TWO: [(&str, &str); 2] = [("low", "of the low layer"), ("high", "of the high layer")];

fn pull(scene: &Scene, reference: &str) {
    let connection = ConnectionOptions { tls_verify: Some(false), ..ConnectionOptions::default() };
    let options = PullOptions { registries: RegistryConfig::new(connection), ..PullOptions::default() };
    pull_image_from_registry(&scene.engine(), &reference.parse().unwrap(), &options, &Silent).unwrap();
    scene.registry.take_requests();
}

fn image_names(scene: &Scene) -> Vec<String> {
    let images = list_images(&scene.engine()).unwrap();
    images.into_iter().filter_map(|image| image.repository).collect()
}

fn blob_requests(scene: &Scene) -> usize {
    scene.registry.take_requests().iter().filter(|request| request.contains("/blobs/")).count()
}

#[test]
fn an_image_is_pulled_once_and_all_of_its_containers_stand_on_one_mount() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let image = image(&TWO);
    let reference = scene.serve(&image, "app");
    let (codes, top) = scene.unpack(&image, Some(&reference));
    assert_eq!(codes, [Code::AlreadyExists; 2]);
    assert_eq!(blob_requests(&scene), 3, "the configuration and each layer, once");
    assert_eq!(image_names(&scene), [reference.trim_end_matches(":1")], "the command line has it too");
    let info = scene.stat(&top).unwrap();
    assert_eq!((info.kind(), info.labels[IMAGE].as_str()), (Kind::Committed, reference.as_str()));
    assert!(scene.usage(&top).unwrap().size > 0);
    assert!(scene.mounted().is_empty(), "nobody uses it yet");

    let one = scene.prepare("one", &top, &[]).unwrap();
    let two = scene.prepare("two", &top, &[]).unwrap();
    let lower = option(&one, "lowerdir");
    assert_eq!(lower, option(&two, "lowerdir"));
    assert!(!lower.contains(':'), "one directory, whatever the number of layers: {lower}");
    assert_ne!(option(&one, "upperdir"), option(&two, "upperdir"));
    assert_eq!(scene.mounted().len(), 1);
    assert_eq!(fs::read_to_string(Path::new(&lower).join("low")).unwrap(), TWO[0].1);
    assert_eq!(fs::read_to_string(Path::new(&lower).join("high")).unwrap(), TWO[1].1);
    let view = scene.view("view", &top).unwrap();
    assert_eq!((view[0].r#type.as_str(), view[0].source.as_str()), ("bind", lower.as_str()));

    let own = scene.usage("one").unwrap();
    assert_eq!(own.inodes, 1, "only what is its own counts: {own:?}");
    for key in ["one", "view"] {
        scene.remove(key).unwrap();
    }
    scene.cleanup();
    assert_eq!(scene.mounted().len(), 1, "the other one uses it");
    scene.remove("two").unwrap();
    scene.cleanup();
    assert!(scene.mounted().is_empty(), "nobody does any more");
    assert_eq!(image_names(&scene).len(), 1, "containerd still has the image");

    for name in scene.names(&[]).into_iter().rev().collect::<Vec<_>>() {
        // Parents go last.
        if scene.remove(&name).is_err() {
            continue;
        }
    }
    for name in scene.names(&[]) {
        scene.remove(&name).unwrap();
    }
    scene.cleanup();
    assert!(image_names(&scene).is_empty(), "it came for containerd, and goes with it");
    assert_eq!(fs::read_dir(scene.data_root().join("layers/sha256")).unwrap().count(), 0);
}

#[test]
fn many_layers_that_are_directories_can_be_mounted() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::with_dirs();
    let names: Vec<String> = (0..60).map(|number| format!("file-{number}")).collect();
    let layers: Vec<_> = names.iter().map(|name| (name.as_str(), "text")).collect();
    let image = image(&layers);
    let (codes, top) = scene.unpack(&image, Some(&scene.serve(&image, "app")));
    assert!(codes.iter().all(|code| *code == Code::AlreadyExists), "{codes:?}");
    let mounts = scene.prepare("one", &top, &[]).unwrap();
    let options = mounts[0].options.join(",");
    assert!(options.len() < 4096, "{options}");
    let target = scene.dir.path().join("run/target");
    fs::create_dir(&target).unwrap();
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(&target);
    assert!(mount.status().unwrap().success(), "{options}");
    for name in [&names[0], &names[59]] {
        assert_eq!(fs::read_to_string(target.join(name)).unwrap(), "text");
    }
    fs::write(target.join("new"), "x").unwrap();
    assert!(std::process::Command::new("umount").arg(&target).status().unwrap().success());
    let high = scene.prepare("few", &chains(&image)[2], &[]).unwrap();
    assert!(option(&high, "lowerdir").contains(':'), "as long as they fit they are stacked once: {high:?}");
}

#[test]
fn an_image_of_the_store_needs_no_registry_and_stays() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let image = image(&TWO);
    let reference = scene.serve(&image, "app");
    pull(&scene, &reference);
    let (codes, top) = scene.unpack(&image, None);
    assert_eq!(codes, [Code::AlreadyExists; 2]);
    let (again, same) = scene.unpack(&image, Some(&reference));
    assert_eq!((again, same), (codes, top.clone()), "another namespace of containerd gets the same snapshots");
    assert!(scene.registry.take_requests().is_empty());
    scene.remove(&top).unwrap();
    scene.remove(&chains(&image)[0]).unwrap();
    scene.cleanup();
    assert_eq!(image_names(&scene).len(), 1, "a person has pulled it");
}

#[test]
fn after_a_reboot_the_image_is_mounted_again() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let image = image(&TWO);
    let reference = scene.serve(&image, "app");
    let (_, top) = scene.unpack(&image, Some(&reference));
    let mounts = scene.prepare("one", &top, &[]).unwrap();
    let lower = option(&mounts, "lowerdir");
    assert!(std::process::Command::new("umount").arg(&lower).status().unwrap().success());
    let scene = scene.restarted();
    assert!(scene.mounted().is_empty());
    assert_eq!(scene.mounts("one").unwrap(), mounts);
    assert!(Path::new(&lower).join("high").exists());
}

#[test]
fn a_mount_whose_snapshots_went_before_a_crash_goes_after_it() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let image = image(&TWO);
    pull(&scene, &scene.serve(&image, "app"));
    let (_, top) = scene.unpack(&image, None);
    scene.prepare("one", &top, &[]).unwrap();
    for name in ["one", &top, &chains(&image)[0]] {
        scene.remove(name).unwrap();
    }
    let scene = scene.restarted();
    assert_eq!(scene.mounted().len(), 1);
    scene.cleanup();
    assert!(scene.mounted().is_empty());
    assert_eq!(image_names(&scene).len(), 1, "a person has pulled it");
}

#[test]
fn what_cannot_be_pulled_is_unpacked_and_not_asked_for_again_at_once() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let image = image(&TWO);
    let reference = scene.serve(&image, "app");
    scene.registry.add_rule(Rule::on("/manifests/").fault(Fault::status(404)));
    let (codes, top) = scene.unpack(&image, Some(&reference));
    assert_eq!(codes, [Code::Ok; 2]);
    let asked = scene.registry.take_requests();
    let manifests = asked.iter().filter(|request| request.contains("/manifests/")).count();
    assert_eq!(manifests, 1, "{asked:?}");
    let lower = option(&scene.prepare("one", &top, &[]).unwrap(), "lowerdir");
    assert_eq!(lower.split(':').count(), 2, "{lower}");
    assert!(scene.mounted().is_empty());

    // The configuration is read again: there is reason to try it once more.
    scene.registry.clear_rules();
    scene.snapshotter.set_settings(scene::settings());
    let (codes, _) = scene.unpack(&image, Some(&reference));
    assert_eq!(codes, [Code::AlreadyExists; 2]);
}

#[test]
fn layers_that_were_unpacked_can_have_layers_of_the_store_above_them_and_below() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let image = image(&[("a", "1"), ("b", "2"), ("c", "3")]);
    let reference = scene.serve(&image, "app");
    let chains = chains(&image);
    // The lowest is unpacked, as if the first pull had failed.
    let fs_of = |mounts: &[stos_snapshotter::api::types::Mount]| mounts[0].source.clone();
    let low = scene.prepare("low-key", "", &[]).unwrap();
    fs::write(Path::new(&fs_of(&low)).join("a"), "1").unwrap();
    scene.commit("low", "low-key").unwrap();
    let labels = [(REF, chains[1].as_str()), (IMAGE, reference.as_str())];
    assert_eq!(code(scene.prepare("middle-key", "low", &labels)), Code::AlreadyExists);
    let middle = chains[1].clone();
    assert_eq!(scene.stat(&middle).unwrap().parent, "low");
    let lower = option(&scene.prepare("one", &middle, &[]).unwrap(), "lowerdir");
    assert!(!lower.contains(':') && Path::new(&lower).join("a").exists(), "the chain is whole by itself: {lower}");

    // The highest is unpacked over them.
    let high = scene.prepare("high-key", &middle, &[]).unwrap();
    assert_eq!(option(&high, "lowerdir"), lower);
    let upper = option(&high, "upperdir");
    scene.commit("high", "high-key").unwrap();
    assert_eq!(option(&scene.prepare("two", "high", &[]).unwrap(), "lowerdir"), format!("{upper}:{lower}"));
}

#[test]
fn labels_that_do_not_hold_lead_to_unpacking() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let (real, other) = (image(&TWO), image(&[("another", "image")]));
    let reference = scene.serve(&real, "app");
    let chain = chains(&other)[0].clone();
    scene.cleanup();
    scene.prepare("other", "", &[(REF, &chain), (IMAGE, &reference)]).unwrap();
    assert_eq!(image_names(&scene).len(), 1);
    scene.cleanup();
    assert!(image_names(&scene).is_empty(), "what was pulled in vain goes");
    for odd in ["", "::", "oci:/etc", "host/Upper:1"] {
        scene.prepare(&format!("odd {odd}"), "", &[(REF, &chain), (IMAGE, odd)]).unwrap();
    }
    // The image is right, but what the layer is to stand on is another one's.
    pull(&scene, &reference);
    let high = chains(&real)[1].clone();
    scene.prepare("on nothing", "", &[(REF, &high)]).unwrap();
    pull(&scene, &scene.serve(&other, "other"));
    assert_eq!(code(scene.prepare("x", "", &[(REF, &chain)])), Code::AlreadyExists);
    scene.prepare("on another", &chain, &[(REF, &high)]).unwrap();
}

#[test]
fn what_containerd_unpacks_without_asking_becomes_the_stores_where_it_has_it() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let image = image(&TWO);
    pull(&scene, &scene.serve(&image, "app"));
    let mut parent = String::new();
    for (number, chain) in chains(&image).into_iter().enumerate() {
        let key = format!("default/{number}/extract-12-ab {chain}");
        let mounts = scene.prepare(&key, &parent, &[]).unwrap();
        let own = match mounts[0].r#type.as_str() {
            "bind" => mounts[0].source.clone(),
            _ => option(&mounts, "upperdir"),
        };
        parent = format!("default/1{number}/{chain}");
        scene.commit(&parent, &key).unwrap();
        scene.cleanup();
        assert!(!Path::new(&own).exists(), "it takes no place twice");
    }
    let lower = option(&scene.prepare("one", &parent, &[]).unwrap(), "lowerdir");
    assert!(!lower.contains(':') && Path::new(&lower).join("high").exists(), "{lower}");
    // What a person commits by such a name is what a person has written.
    let chain = chains(&image)[0].clone();
    let mine = scene.prepare("mine", "", &[]).unwrap();
    fs::write(Path::new(&mine[0].source).join("mine"), "x").unwrap();
    scene.commit(&chain, "mine").unwrap();
    assert_eq!(scene.view("look", &chain).unwrap()[0].source, mine[0].source);
}

#[test]
fn nothing_is_made_of_layers_of_which_a_lower_one_is_damaged() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let image = image(&TWO);
    pull(&scene, &scene.serve(&image, "app"));
    let tar = scene.data_root().join("layers/sha256").join(image.diff_ids[0].trim_start_matches("sha256:"));
    let tar = tar.join("layer.tar");
    let mut bytes = fs::read(&tar).unwrap();
    bytes[600] ^= 1;
    fs::remove_file(&tar).unwrap();
    fs::write(&tar, bytes).unwrap();
    // containerd asks, and does not.
    for (name, labelled) in [("asked", true), ("not asked", false)] {
        let mut parent = String::new();
        for chain in chains(&image) {
            let key = format!("{name}/1/extract-1-a {chain}");
            let labels: &[_] = if labelled { &[(REF, chain.as_str())] } else { &[] };
            scene.prepare(&key, &parent, labels).unwrap();
            parent = format!("{name}/2/{chain}");
            scene.commit(&parent, &key).unwrap();
        }
        let lower = option(&scene.prepare(name, &parent, &[]).unwrap(), "lowerdir");
        assert_eq!(lower.split(':').count(), 2, "{lower}");
    }
}

#[test]
fn what_the_policy_refuses_is_not_unpacked_either() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let policy = scene.dir.path().join("policy.json");
    fs::write(&policy, r#"{"default": [{"type": "reject"}]}"#).unwrap();
    let mut settings = scene::settings();
    settings.registry.signature_policy = Some(policy);
    scene.snapshotter.set_settings(settings);
    let image = image(&TWO);
    let reference = scene.serve(&image, "app");
    let labels = [(REF, chains(&image)[0].clone()), (IMAGE, reference)];
    let labels = labels.each_ref().map(|(key, value)| (*key, value.as_str()));
    for _ in 0..2 {
        assert_eq!(code(scene.prepare("key", "", &labels)), Code::PermissionDenied);
    }
    assert!(scene.names(&[]).is_empty());
}

#[test]
fn what_needs_a_signature_is_not_unpacked_unseen() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let policy = scene.dir.path().join("policy.json");
    fs::write(&policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
    let mut settings = scene::settings();
    settings.registry.signature_policy = Some(policy.clone());
    scene.snapshotter.set_settings(settings.clone());
    let image = image(&TWO);
    let reference = scene.serve(&image, "app");
    scene.registry.add_rule(Rule::on("/manifests/").fault(Fault::status(404)));
    let chain = chains(&image)[0].clone();
    let labels = [(REF, chain.as_str()), (IMAGE, reference.as_str())];
    scene.prepare("accepted", "", &labels).unwrap();
    // The pull's failure is still remembered.
    let key = stos_testkit::signing::Signer::new().public_pem();
    let required = serde_json::json!({"type": "sigstoreSigned", "keyPath": scene.dir.path().join("key.pub")});
    fs::write(scene.dir.path().join("key.pub"), key).unwrap();
    fs::write(&policy, serde_json::json!({"default": [required]}).to_string()).unwrap();
    let refused = scene.prepare("key", "", &labels).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("requires a signature"), "{refused:?}");
    settings.pull.enabled = false;
    scene.snapshotter.set_settings(settings.clone());
    assert_eq!(code(scene.prepare("key", "", &labels)), Code::PermissionDenied);
    fs::remove_file(&policy).unwrap();
    assert_eq!(code(scene.prepare("key", "", &labels)), Code::PermissionDenied, "what cannot be read refuses all");
    assert_eq!(scene.names(&[]), ["accepted"]);
    settings.registry.signature_policy = None;
    scene.snapshotter.set_settings(settings);
    scene.prepare("key", "", &labels).unwrap();
}

#[test]
fn images_stay_where_that_is_asked_for() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let mut settings = scene::settings();
    settings.images.keep = true;
    scene.snapshotter.set_settings(settings);
    let image = image(&[("a", "1")]);
    let reference = scene.serve(&image, "app");
    let (_, top) = scene.unpack(&image, Some(&reference));
    scene.remove(&top).unwrap();
    scene.cleanup();
    assert_eq!(image_names(&scene).len(), 1);
}

/// Removes all snapshots and cleans up.
fn remove_all(scene: &Scene) {
    while let [_, ..] = scene.names(&[]).as_slice() {
        // Parents go last.
        scene.names(&[]).iter().for_each(|name| drop(scene.remove(name)));
    }
    scene.cleanup();
}

fn image_ids(scene: &Scene) -> Vec<String> {
    list_images(&scene.engine()).unwrap().into_iter().map(|image| image.id.to_string()).collect()
}

#[test]
fn what_a_person_has_given_a_name_stays() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let (own, theirs) = (image(&TWO), image(&[("another", "image")]));
    let reference = scene.serve(&own, "app");
    scene.unpack(&own, Some(&reference));
    // The image of containerd gets a further name.
    let further = "localhost/further:1".parse().unwrap();
    stos_engine::tag::tag_image(&scene.engine(), &reference, &[further]).unwrap();
    remove_all(&scene);
    assert_eq!(image_names(&scene), ["localhost/further"], "only the name that its pull has given it goes");
    stos_engine::image::remove_image(&scene.engine(), "localhost/further:1", false).unwrap();

    // Its name is given to another image.
    let other = scene.serve(&theirs, "other");
    pull(&scene, &other);
    scene.unpack(&own, Some(&reference));
    stos_engine::tag::tag_image(&scene.engine(), &other, &[reference.parse().unwrap()]).unwrap();
    stos_engine::image::remove_image(&scene.engine(), &other, false).unwrap();
    let scene = scene.restarted();
    scene.cleanup();
    assert_eq!(image_ids(&scene).len(), 2, "containerd has the one, a person the other");
    remove_all(&scene);
    assert_eq!(image_names(&scene), [reference.trim_end_matches(":1")]);
    let left = list_images(&scene.engine()).unwrap();
    assert_eq!(left[0].layers, 1, "a person's: {left:?}");

    // What an earlier version has written of it says nothing any more.
    let list = format!(r#"[{{"name": "{reference}", "complete": true}}]"#);
    fs::write(scene.data_root().join("snapshots/images.json"), list).unwrap();
    let scene = scene.restarted();
    scene.cleanup();
    assert_eq!(image_ids(&scene).len(), 1);
}

#[test]
fn an_image_whose_tag_has_moved_goes_too_and_the_new_one_stays_while_it_comes() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let (old, new) = (image(&TWO), image(&[("new", "low"), ("newer", "high")]));
    let reference = scene.serve(&old, "app");
    scene.unpack(&old, Some(&reference));
    scene.serve(&new, "app");
    let low = chains(&new)[0].clone();
    assert_eq!(code(scene.prepare("low", "", &[(REF, &low), (IMAGE, &reference)])), Code::AlreadyExists);
    let scene = scene.restarted();
    scene.cleanup();
    assert_eq!(image_ids(&scene).len(), 2, "containerd has had only one of its layers");
    scene.registry.take_requests();
    let (codes, top) = scene.unpack(&new, Some(&reference));
    assert_eq!(codes, [Code::AlreadyExists; 2]);
    assert!(scene.registry.take_requests().is_empty());
    for chain in chains(&old).iter().rev() {
        scene.remove(chain).unwrap();
    }
    scene.cleanup();
    assert_eq!(image_ids(&scene).len(), 1, "the old one has no name, and goes all the same");
    scene.prepare("one", &top, &[]).unwrap();
    remove_all(&scene);
    assert!(image_ids(&scene).is_empty());
}

#[test]
fn the_store_is_swept_only_of_what_no_snapshot_needs() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let image = image(&TWO);
    let reference = scene.serve(&image, "app");
    let (_, top) = scene.unpack(&image, Some(&reference));
    scene.prepare("one", &top, &[]).unwrap();
    // A person removes the image: what stands on it stays.
    stos_engine::image::remove_image(&scene.engine(), &reference, true).unwrap();
    stos_engine::gc::collect_garbage(&scene.engine(), false, stos_engine::gc::GC_PATIENCE).unwrap();
    let lower = option(&scene.mounts("one").unwrap(), "lowerdir");
    assert!(Path::new(&lower).join("high").exists());
    scene.prepare("two", &top, &[]).unwrap();
    for key in ["one", "two", &top, &chains(&image)[0]] {
        scene.remove(key).unwrap();
    }
    scene.cleanup();
    assert_eq!(fs::read_dir(scene.data_root().join("layers/sha256")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(scene.data_root().join("chains/sha256")).unwrap().count(), 0);
}
