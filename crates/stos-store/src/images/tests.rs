// SPDX-License-Identifier: Apache-2.0 OR MIT
use super::*;

fn record(name: &str, content: &str) -> ImageRecord {
    ImageRecord {
        reference: Some(name.parse().unwrap()),
        manifest: Descriptor::new("application/json", BlobDigest::of(content.as_bytes()), content.len() as u64),
        image_id: BlobDigest::of(format!("config of {content}").as_bytes()),
        index_digest: Some(BlobDigest::of(format!("index of {content}").as_bytes())),
        pulled: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn store_with(records: &[ImageRecord]) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    records.iter().for_each(|record| store.put_image(record).unwrap());
    (dir, store)
}

fn find(store: &Store, text: &str) -> Result<BlobDigest> {
    store.find_image(&ImageSelector::new(text)).map(|image| image.manifest.digest)
}

#[test]
fn images_are_found_by_name_short_name_digest_and_id() {
    let deb = record("127.0.0.1:5000/team/deb:12", "deb");
    let (_dir, store) = store_with(&[deb.clone(), record("quay.io/a/sci:2", "sci")]);
    let digest = deb.manifest.digest;
    for text in [
        "127.0.0.1:5000/team/deb:12".to_owned(),
        "deb:12".to_owned(),
        "team/deb:12".to_owned(),
        format!("127.0.0.1:5000/team/deb@{digest}"),
        format!("127.0.0.1:5000/team/deb@{}", deb.index_digest.unwrap()),
        deb.image_id.short(),
        deb.image_id.to_string(),
    ] {
        assert_eq!(find(&store, &text).expect(&text), digest, "{text}");
    }
    for text in ["deb:13", "quay.io/deb:12", "zz", "", "sha256:"] {
        assert!(matches!(find(&store, text), Err(Error::NoSuchImage(_))), "{text}");
    }
}

#[test]
fn only_a_damaged_or_lost_index_is_replaced() {
    let (dir, store) = store_with(&[record("a.example/x:1", "x")]);
    let other = ImageRecord { reference: None, ..record("a.example/y:1", "y") };
    let path = dir.path().join("images/index.json");
    store.replace_damaged_index(std::slice::from_ref(&other)).unwrap();
    assert_eq!(store.images().unwrap(), [record("a.example/x:1", "x")], "it can be read");
    for is_removed in [false, true] {
        if is_removed {
            std::fs::remove_file(&path).unwrap()
        } else {
            std::fs::write(&path, "{").unwrap()
        }
        // Nobody takes it for an empty one.
        let refused = [
            store.images().map(drop),
            store.foreign_manifests().map(drop),
            store.put_image(&other),
            store.remove_images(|_| true),
        ];
        assert!(refused.iter().all(|result| matches!(result, Err(Error::Damaged { .. }))), "{refused:?}");
        assert_eq!(store.is_index_lost(), !path.exists());
        store.replace_damaged_index(std::slice::from_ref(&other)).unwrap();
        assert_eq!(store.images().unwrap(), std::slice::from_ref(&other));
    }
    let (dir, empty) = store_with(&[]);
    assert!(!empty.is_index_lost() && empty.images().unwrap().is_empty(), "there never was one");
    // A crash in the first write: the mark comes last.
    empty.put_image(&other).unwrap();
    std::fs::remove_file(dir.path().join("images/oci-layout")).unwrap();
    assert!(!empty.is_index_lost() && empty.images().unwrap().len() == 1);
}

#[test]
fn an_entry_that_was_ours_is_never_taken_for_another_tool_s() {
    let (sound, hit) = (record("a.example/x:1", "x"), record("b.example/y:2", "y"));
    let (dir, store) = store_with(&[sound.clone(), hit.clone()]);
    let path = dir.path().join("images/index.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let [id, digest] = [hit.image_id, hit.manifest.digest].map(|digest| digest.to_string());
    let found = |record: &ImageRecord| ImageRecord { reference: None, ..record.clone() };
    for (from, to, keeps_name) in [
        ("dev.stos.image.id", "dev.stos.imagf.id", true),
        (id.as_str(), &format!("{}g", &id[..id.len() - 1]), true),
        ("b.example/y:2", "b.EXAMPLE/Y:2", false),
        (digest.as_str(), &format!("{}g", &digest[..digest.len() - 1]), false),
    ] {
        // The last place is that of the second entry.
        let at = good.rfind(from).unwrap();
        std::fs::write(&path, format!("{}{to}{}", &good[..at], &good[at + from.len()..])).unwrap();
        let error = store.images().unwrap_err();
        assert!(matches!(&error, Error::Damaged { .. }), "{to}: {error}");
        assert!(store.remove_images(|_| true).is_err(), "{to}");
        // A stray manifest that no entry means comes back only where it is unknown which is missing.
        let stray = record("c.example/z:3", "z");
        store.replace_damaged_index(&[found(&sound), found(&hit), found(&stray)]).unwrap();
        let images = store.images().unwrap();
        assert_eq!(images[0], sound, "{to}");
        let name = keeps_name.then(|| hit.reference.clone()).flatten();
        assert_eq!((images[1].reference.clone(), images[1].manifest.digest), (name, hit.manifest.digest), "{to}");
        assert_eq!(images.len(), if to.starts_with("sha256") && !keeps_name { 3 } else { 2 }, "{to}");
    }
}

#[test]
fn a_short_name_of_two_images_is_ambiguous() {
    let (_dir, store) = store_with(&[record("a.example/deb:12", "a"), record("b.example/deb:12", "b")]);
    assert!(matches!(find(&store, "deb:12"), Err(Error::AmbiguousImage { candidates, .. }) if candidates.len() == 2));
}

#[test]
fn a_moved_tag_leaves_the_old_image_without_a_name() {
    let (_dir, store) = store_with(&[record("a.example/x:1", "old"), record("a.example/x:1", "new")]);
    assert_eq!(find(&store, "a.example/x:1").unwrap(), BlobDigest::of(b"new"));
    let images = store.images().unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(images[0].reference, None);
    store.put_image(&record("a.example/x:1", "new")).unwrap();
    assert_eq!(store.images().unwrap().len(), 2);
    store.remove_images(|image| image.reference.is_none()).unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
}

#[test]
fn manifests_of_one_configuration_are_one_image_by_its_id() {
    let named = record("a.example/x:1", "gzip");
    let plain = Descriptor::new("application/json", BlobDigest::of(b"plain"), 5);
    let unnamed = ImageRecord { reference: None, manifest: plain, ..named.clone() };
    let (_dir, store) = store_with(&[unnamed.clone(), named.clone()]);
    assert_eq!(store.images().unwrap().len(), 2);
    for text in [named.image_id.to_string(), named.image_id.short()] {
        assert_eq!(find(&store, &text).unwrap(), named.manifest.digest, "{text}");
    }
    store.remove_images(|image| image.reference.is_some()).unwrap();
    assert_eq!(find(&store, &named.image_id.short()).unwrap(), unnamed.manifest.digest);
}

#[test]
fn names_go_and_the_image_stays() {
    let names = ["a.example/x:1", "a.example/x:2", "a.example/y:1"];
    let (_dir, store) = store_with(&[]);
    store.put_images(&names.map(|name| record(name, "x"))).unwrap();
    store.put_image(&record("a.example/z:1", "z")).unwrap();
    let id = record(names[0], "x").image_id;
    let gone = store.untag_image(id, |name| name.tag() == Some("1")).unwrap();
    assert_eq!(gone.iter().map(ToString::to_string).collect::<Vec<_>>(), [names[0], names[2]]);
    assert_eq!(store.images().unwrap().len(), 2, "no entry without a name beside one with a name");
    assert_eq!(store.untag_image(id, |_| true).unwrap().len(), 1);
    assert_eq!(store.untag_image(id, |_| true).unwrap(), []);
    let images = store.images().unwrap();
    assert_eq!(images.iter().filter(|image| image.image_id == id && image.reference.is_none()).count(), 1);
    assert_eq!(find(&store, "z:1").unwrap(), BlobDigest::of(b"z"), "another image keeps its name");
    let unnamed = ImageRecord { reference: None, ..record(names[0], "x") };
    store.put_images(&[unnamed.clone(), unnamed]).unwrap();
    assert_eq!(store.images().unwrap().len(), 2);
}

#[test]
fn an_image_pulled_by_its_short_and_by_its_full_name_is_one() {
    let full = "docker.io/library/x:1";
    for second in ["same", "moved"] {
        let (_dir, store) = store_with(&[record("x:1", "same"), record(full, second), record("x:1", second)]);
        let images = store.images().unwrap();
        let named: Vec<_> = images.iter().filter(|image| image.reference.is_some()).collect();
        assert_eq!(named.len(), 1, "{images:?}");
        assert_eq!(named[0].manifest.digest, BlobDigest::of(second.as_bytes()));
        assert_eq!(images.len(), if second == "same" { 1 } else { 2 }, "a moved tag leaves the old image");
        assert_eq!(find(&store, "x:1").unwrap(), find(&store, full).unwrap());
    }
}

#[test]
fn what_other_tools_wrote_is_kept_word_for_word() {
    let (dir, store) = store_with(&[record("a.example/x:1", "x")]);
    let path = dir.path().join("images/index.json");
    let digest = BlobDigest::of(b"theirs");
    let theirs = serde_json::json!({"mediaType": "a/b", "digest": digest, "size": 6, "artifactType": "c/d",
        "annotations": {"org.opencontainers.image.ref.name": "theirs"}});
    let odd = serde_json::json!({"digest": "sha512:00"});
    let mut index: Value = files::read_json(&path).unwrap().unwrap();
    index["manifests"].as_array_mut().unwrap().extend([theirs.clone(), odd.clone()]);
    index["annotations"] = serde_json::json!({"who": "they"});
    std::fs::write(&path, index.to_string()).unwrap();
    store.put_image(&record("a.example/y:1", "y")).unwrap();
    store.remove_images(|image| image.manifest.digest == BlobDigest::of(b"x")).unwrap();
    let index: Value = files::read_json(&path).unwrap().unwrap();
    let entries = index["manifests"].as_array().unwrap();
    assert!(entries.contains(&theirs) && entries.contains(&odd) && entries.len() == 3, "{index}");
    assert_eq!(index["annotations"]["who"], "they");
    assert_eq!(store.images().unwrap().len(), 1);
    assert_eq!(store.foreign_manifests().unwrap(), [digest]);
    // Not even a list of tools that write no media type, or null for no entries, is taken for damage.
    for none in ["[]", "null"] {
        std::fs::write(&path, format!(r#"{{"schemaVersion": 2, "manifests": {none}}}"#)).unwrap();
        assert!(store.images().unwrap().is_empty(), "{none}");
        store.put_image(&record("a.example/z:1", "z")).unwrap();
        assert_eq!(store.images().unwrap().len(), 1, "{none}");
    }
}

#[test]
fn a_damaged_index_is_named() {
    let (dir, store) = store_with(&[record("a.example/x:1", "x")]);
    std::fs::write(dir.path().join("images/index.json"), b"{").unwrap();
    let error = store.images().unwrap_err();
    assert!(matches!(&error, Error::Damaged { .. }) && error.to_string().contains("index.json"), "{error}");
}

#[test]
fn an_index_that_could_not_be_read_again_is_not_written() {
    let (dir, store) = store_with(&[record("a.example/x:1", "x")]);
    let path = dir.path().join("images/index.json");
    let before = std::fs::read(&path).unwrap();
    let many: Vec<_> = (0..3000).map(|number| record(&format!("a.example/x:{number}"), "x")).collect();
    let error = store.put_images(&many).unwrap_err();
    assert!(matches!(error, Error::RecordTooLarge { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(store.images().unwrap().len(), 1);
    store.put_images(&many[..1000]).unwrap();
    assert_eq!(store.images().unwrap().len(), 1000);
}

#[test]
fn records_that_come_together_are_put_one_after_the_other() {
    let nameless = |content: &str| ImageRecord { reference: None, ..record("a.example/x:1", content) };
    let (one, two) = ("a.example/x:1", "a.example/x:2");
    let (_dir, together) = store_with(&[record(one, "old"), nameless("y")]);
    let records = [record(one, "new"), record(two, "old"), record(one, "y"), record(two, "old"), nameless("z")];
    together.put_images(&records).unwrap();
    let (_dir, apart) = store_with(&[record(one, "old"), nameless("y")]);
    records.iter().for_each(|record| apart.put_image(record).unwrap());
    let images = together.images().unwrap();
    assert_eq!(images, apart.images().unwrap());
    assert_eq!(images, [nameless("new"), record(one, "y"), record(two, "old"), nameless("z")]);
}
