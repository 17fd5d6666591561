// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `remove_image`: what goes with an image, and what other tools keep in the same layout.

mod fixture;

use std::fs;

use fixture::{Fixture, blob, builder};
use serde_json::{Value, json};
use stos_engine::image::remove_image;
use stos_spec::{BlobDigest, Verified};
use stos_testkit::guard::Need;

impl Fixture {
    /// Keeps a blob, as another tool would.
    fn put(&self, bytes: &[u8]) -> BlobDigest {
        let blob = Verified::trust(bytes.to_vec());
        self.engine.store().put_blob(&blob).unwrap();
        blob.digest()
    }

    fn put_json(&self, document: &Value) -> BlobDigest {
        self.put(document.to_string().as_bytes())
    }

    /// Adds an entry of another tool to the index.
    fn list(&self, digest: BlobDigest) {
        let path = self.data_root().join("images/index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let entry = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1});
        index["manifests"].as_array_mut().unwrap().push(entry);
        fs::write(path, index.to_string()).unwrap();
    }

    fn has(&self, digest: BlobDigest) -> bool {
        self.engine.store().blob_path(digest).exists()
    }
}

#[test]
fn what_another_tool_keeps_of_the_same_image_stays() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let image = builder().build();
    let reference = fixture.serve(&image, "1");
    fixture.pull(&reference).unwrap();
    // As it has copied the image into our layout, its layers too.
    let layers: Vec<_> = image.layers.iter().map(|layer| fixture.put(layer.bytes.as_ref().unwrap())).collect();
    fixture.list(blob(&image.manifest.digest));
    let stray = fixture.put(b"stray");
    fixture.pull(&fixture.serve(&image, "2")).unwrap();
    remove_image(&fixture.engine, &reference, false).unwrap();
    assert!(layers.iter().all(|layer| fixture.has(*layer)) && !fixture.has(stray), "while ours has a name");
    remove_image(&fixture.engine, &fixture.reference("2"), false).unwrap();
    let kept = layers.into_iter().chain([blob(&image.manifest.digest), blob(&image.config.digest)]);
    assert!(kept.into_iter().all(|digest| fixture.has(digest)), "once ours is gone");
    assert_eq!(fixture.names("layers/sha256"), [""; 0]);
}

#[test]
fn a_document_that_we_could_not_use_keeps_what_it_names() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let odd = |digest: BlobDigest| json!({"mediaType": "a/b", "digest": digest, "size": 1, "annotations": null});
    let [config, layer, extra, base] = [&b"config"[..], b"layer", b"extra", b"base"].map(|bytes| fixture.put(bytes));
    let subject = fixture.put_json(&json!({"schemaVersion": 2, "layers": [odd(base)]}));
    let manifest = fixture.put_json(&json!({
        "schemaVersion": 2, "config": odd(config), "blobs": [odd(extra)], "subject": odd(subject),
        "layers": [odd(layer), {"mediaType": "a/b", "digest": format!("sha512:{}", "0".repeat(128)), "size": 1}],
    }));
    let mut of_platform = odd(manifest);
    of_platform["platform"] = json!({"architecture": "amd64"});
    fixture.pull(&fixture.serve(&builder().build(), "1")).unwrap();
    fixture.list(fixture.put_json(&json!({"schemaVersion": 2, "manifests": [of_platform]})));
    fixture.list(fixture.put(b"[]"));
    remove_image(&fixture.engine, &fixture.reference("1"), false).unwrap();
    for (name, digest) in [
        ("config", config),
        ("layer", layer),
        ("extra", extra),
        ("base", base),
        ("subject", subject),
        ("manifest", manifest),
    ] {
        assert!(fixture.has(digest), "{name}");
    }

    // One that cannot be read may lead anywhere: nothing goes.
    let [unread, stray] = [&b" {\"manifests\": [}"[..], b"stray"].map(|bytes| fixture.put(bytes));
    fixture.list(unread);
    fixture.pull(&fixture.reference("1")).unwrap();
    remove_image(&fixture.engine, &fixture.reference("1"), false).unwrap();
    assert!(fixture.has(stray));
}

#[test]
fn an_image_is_gone_where_not_all_that_it_needed_can_go() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let image = builder().build();
    let reference = fixture.serve(&image, "1");
    fixture.pull(&reference).unwrap();
    // No file, so no file that can be removed.
    fs::create_dir(fixture.engine.store().blob_path(BlobDigest::of(b"x"))).unwrap();
    let removed = remove_image(&fixture.engine, &reference, false).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec![reference], vec![blob(&image.config.digest)]));
    assert!(fixture.engine.store().images().unwrap().is_empty());
}
