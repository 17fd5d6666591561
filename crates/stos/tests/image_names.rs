// SPDX-License-Identifier: Apache-2.0 OR MIT
//! tag, untag, history: names move, images stay, and odd histories are told all the same.

mod sandbox;

use sandbox::{Hub, Sandbox};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn builder(text: &str) -> ImageBuilder {
    let tar = |name: &str| TarBuilder::new().entry(Entry::file(name, text)).finish();
    ImageBuilder::new().layer(Layer::gzip(tar("low"))).layer(Layer::gzip(tar("high")))
}

/// The names and IDs in the list of images.
fn listed(sandbox: &Sandbox) -> Vec<(Value, Value)> {
    let images = sandbox.json(&["images", "--format", "json"]);
    let images = images.as_array().unwrap().iter();
    images.map(|image| (json!([image["repository"], image["tag"]]), image["id"].clone())).collect()
}

#[test]
fn a_name_moves_and_the_image_that_had_it_stays() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let pull = |image: &Image, tag: &str| {
        let reference = hub.serve(image, "app", tag);
        sandbox.pull(&reference);
        reference
    };
    let (one, two) = (builder("one").build(), builder("two").build());
    let (first, second) = (pull(&one, "1"), pull(&two, "2"));

    sandbox.ok(&["tag", &first, "stable", "team/app:x"]);
    let named = |name: &str| sandbox.json(&["inspect", name])[0]["id"].clone();
    assert_eq!((named("stable"), named("app:x")), (json!(one.config.digest), json!(one.config.digest)));
    sandbox.ok(&["image", "tag", &second, "stable"]);
    assert_eq!(named("stable"), json!(two.config.digest));
    assert_eq!(listed(&sandbox).len(), 4);

    // With its last names the image does not go.
    sandbox.ok(&["untag", &first, "team/app:x"]);
    let refused = sandbox.run(&["untag", &first, "stable"]);
    assert!(refused.code == 1 && refused.stderr.contains("has no name docker.io/library/stable:latest"), "{refused:?}");
    sandbox.ok(&["image", "untag", &first]);
    let nameless = (json!([null, null]), json!(one.config.digest));
    assert!(listed(&sandbox).contains(&nameless), "{:?}", listed(&sandbox));
    assert!(sandbox.ok(&["images"]).contains("<none>"));
    assert_eq!(sandbox.names("layers/sha256").len(), 4);
    sandbox.ok(&["tag", &one.config.digest, "again"]);
    assert!(!listed(&sandbox).contains(&nameless), "a new name takes the place of none");

    let digest = format!("app@{}", one.manifest.digest);
    for arguments in [["tag", "again", &digest], ["tag", "none", "x"], ["tag", "again", "A"], ["untag", "none", "x"]] {
        let before = listed(&sandbox);
        assert_eq!(sandbox.run(&arguments).code, 1, "{arguments:?}");
        assert_eq!(listed(&sandbox), before, "{arguments:?}");
    }
    assert_eq!(sandbox.run(&["image", "rm", "again"]).code, 0);
    assert_eq!(sandbox.names("layers/sha256").len(), 2);
}

#[test]
fn a_history_has_a_step_for_each_layer_and_each_that_made_none() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let step =
        |by: &str, empty: bool| json!({"created": "2024-01-01T00:00:00Z", "created_by": by, "empty_layer": empty});
    let long = "x".repeat(100);
    for (tag, history, expected) in [
        ("whole", json!([step(&long, false), step("CMD", true), step("COPY", false)]), json!(["COPY", "CMD", long])),
        ("less", json!([step("ADD", false)]), json!(["", "ADD"])),
        ("more", json!([step("a", false), step("b", false), step("c", false)]), json!(["c", "b", "a"])),
        ("none", json!(null), json!(["", ""])),
    ] {
        let image = builder("x").set("/history", history).build();
        let reference = hub.serve(&image, "app", tag);
        sandbox.pull(&reference);
        let steps = sandbox.json(&["history", "--format", "json", &reference]);
        let told: Vec<&Value> = steps.as_array().unwrap().iter().map(|step| &step["created_by"]).collect();
        assert_eq!(json!(told), expected, "{tag}");
        assert_eq!(steps[0]["id"], json!(image.config.digest));
        let sizes =
            |steps: &Value| steps.as_array().unwrap().iter().map(|step| step["size"].as_u64().unwrap()).sum::<u64>();
        assert_eq!(sizes(&steps), sandbox.json(&["images", "--format", "json"])[0]["size"].as_u64().unwrap(), "{tag}");
    }
    let table = sandbox.ok(&["history", "app:whole"]);
    assert!(table.contains("<missing>") && table.contains("0 B") && table.contains("xxx...") && !table.contains(&long));
    let whole = sandbox.ok(&["image", "history", "--no-trunc", "--human=false", "app:whole"]);
    assert!(whole.contains(&long) && whole.contains("2024-01-01T00:00:00Z") && whole.contains("sha256:"), "{whole}");
    assert_eq!(sandbox.ok(&["history", "-q", "app:whole"]).lines().count(), 3);
    assert_eq!(sandbox.run(&["history", "none"]).code, 1);
}
