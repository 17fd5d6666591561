// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `stos image prune`: which images go, which are spared, and what it asks.

mod sandbox;

use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sandbox::shell::{Shell, eventually};
use sandbox::{Hub, Output, Sandbox, on_both_backends, output};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer, digest};
use stos_testkit::registry::{Fault, Rule};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn layer_tar(name: &str) -> Vec<u8> {
    TarBuilder::new().entry(Entry::file(name, name.repeat(20_000))).finish()
}

fn layer(name: &str) -> Layer {
    Layer::plain(layer_tar(name))
}

/// An image of a layer that all have and one of its own, made at a time and with a label.
fn image(top: &str, created: &str, label: &str) -> Image {
    let builder = ImageBuilder::new().layer(layer("base")).layer(layer(top)).set("/created", json!(created));
    builder.set("/config/Labels", json!({"kind": label})).build()
}

fn plain(top: &str) -> Image {
    image(top, "2024-01-01T00:00:00Z", "x")
}

fn id(image: &Image) -> String {
    image.config.digest.clone()
}

/// The IDs that `images` lists, sorted, each once.
fn ids(sandbox: &Sandbox) -> Vec<String> {
    let images = sandbox.json(&["images", "--format", "json"]);
    let mut ids: Vec<String> =
        images.as_array().unwrap().iter().map(|image| image["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    ids
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

/// Pulls `old` under a name, then `new` under the same: the old one has none any more.
fn replace(sandbox: &Sandbox, hub: &Hub, name: &str, old: &Image, new: &Image) {
    for image in [old, new] {
        sandbox.pull(&hub.serve(image, name, "1"));
    }
}

fn answered(sandbox: &Sandbox, arguments: &[&str], answer: &str) -> Output {
    let mut stos = sandbox.command();
    stos.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut stos = stos.spawn().unwrap();
    // Who has been refused reads nothing.
    let _ = stos.stdin.take().unwrap().write_all(answer.as_bytes());
    let output = stos.wait_with_output().unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn images_without_a_name_go_and_what_only_they_reached() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let (old, new) = (plain("old"), plain("new"));
        replace(&sandbox, &hub, "app", &old, &new);
        let before = sandbox.json(&["system", "df", "--format", "json"]);
        let unique = |id: &str| {
            let images = before["images"].as_array().unwrap();
            images.iter().find(|image| image["id"] == id).unwrap()["unique_size"].as_u64().unwrap()
        };
        let output = sandbox.run(&["image", "prune", "--force"]);
        assert_eq!((output.code, output.stdout), (0, format!("{}\n", id(&old))), "{}", output.stderr);
        let freed = sandbox.run(&["image", "prune", "--force", "--format", "json"]);
        assert_eq!(freed.stdout.parse::<Value>().unwrap(), json!({"untagged": [], "deleted": [], "freed": 0}));
        assert_eq!(ids(&sandbox), [id(&new)]);
        let layers = sandbox.ok(&["layer", "ls", "-q"]);
        assert!(
            layers.contains(&digest(&layer_tar("base"))) && !layers.contains(&digest(&layer_tar("old"))),
            "{layers}"
        );
        let after = sandbox.json(&["system", "df", "--format", "json"]);
        let size = |usage: &Value| usage["summary"]["images"]["size"].as_u64().unwrap();
        assert_eq!(size(&before) - size(&after), unique(&id(&old)));
        assert!(output.stderr.starts_with("Freed: "), "{}", output.stderr);
        sandbox.ok(&["image", "mount", "app:1"]);
        sandbox.ok(&["image", "unmount", "app:1"]);
    });
}

#[test]
fn images_that_are_mounted_or_named_are_spared() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let [other, mounted, named, dangling] = ["other", "mounted", "named", "dangling"].map(plain);
    sandbox.pull(&hub.serve(&other, "other", "1"));
    sandbox.pull(&hub.serve(&mounted, "mounted", "1"));
    sandbox.ok(&["image", "mount", "mounted:1"]);
    replace(&sandbox, &hub, "app", &dangling, &named);
    sandbox.ok(&["untag", "mounted:1"]);
    assert_eq!(sandbox.ok(&["image", "prune", "-f"]), format!("{}\n", id(&dangling)));
    assert_eq!(ids(&sandbox), sorted(vec![id(&other), id(&mounted), id(&named)]));
    let gone = sandbox.json(&["image", "prune", "-a", "-f", "--format", "json"]);
    let names = ["other", "app"].map(|name| json!(format!("{}/{name}:1", hub.registry.address())));
    assert_eq!((&gone["untagged"], &gone["deleted"]), (&json!(names), &json!([id(&other), id(&named)])));
    assert!(gone["freed"].as_u64().unwrap() > 40_000, "{gone}");
    assert_eq!(ids(&sandbox), [id(&mounted)]);
    sandbox.ok(&["image", "unmount", &id(&mounted)]);
    sandbox.ok(&["image", "prune", "-f"]);
    assert!(ids(&sandbox).is_empty());
    for area in ["layers/sha256", "chains/sha256", "images/blobs/sha256", "staging"] {
        assert_eq!(sandbox.names(area), Vec::<String>::new(), "{area}");
    }
}

#[test]
fn an_image_of_a_container_is_spared_by_all_until_that_is_gone() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        let shell = Shell::new();
        let sandbox = &shell.sandbox;
        sandbox.ok(&["create", "--name", "it", "shell:1", "echo", "alive"]);
        sandbox.ok(&["untag", "shell:1"]);
        assert_eq!(sandbox.ok(&["image", "prune", "-a", "-f"]), "");
        assert_eq!(ids(sandbox).len(), 1);
        assert_eq!(sandbox.ok(&["start", "-a", "it"]), "alive\n");
        sandbox.ok(&["delete", "it"]);
        assert_eq!(sandbox.ok(&["image", "prune", "-f"]), format!("{}\n", id(&shell.image)));
    });
}

#[test]
fn a_container_that_cannot_be_read_keeps_all() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let id = shell.sandbox.ok(&["create", "shell:1"]);
    let record = shell.sandbox.data_root().join("containers").join(id.trim()).join("container.json");
    std::fs::write(&record, "{").unwrap();
    let output = shell.sandbox.run(&["image", "prune", "-a", "-f"]);
    assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{}", output.stderr);
    assert!(output.stderr.contains("container.json") && output.stderr.contains("hint: "), "{}", output.stderr);
    assert_eq!(ids(&shell.sandbox).len(), 1);
}

#[test]
fn it_asks_unless_forced() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    sandbox.pull(&hub.serve(&plain("a"), "a", "1"));
    for (answer, all) in [("n\n", true), ("\n", true), ("no, yes\n", false)] {
        let arguments = if all { &["image", "prune", "-a"][..] } else { &["image", "prune"] };
        let output = answered(&sandbox, arguments, answer);
        assert_eq!((output.code, output.stdout.as_str()), (0, ""), "{answer:?}: {}", output.stderr);
        let what = if all { "all images without at least one container" } else { "all dangling images" };
        assert!(output.stderr.starts_with(&format!("WARNING! This command removes {what}")), "{}", output.stderr);
        assert!(output.stderr.ends_with("Are you sure you want to continue? [y/N] "), "{}", output.stderr);
    }
    let silent = answered(&sandbox, &["image", "prune", "-a"], "");
    assert_eq!((silent.code, silent.stdout.as_str()), (1, ""));
    assert!(silent.stderr.contains("--force"), "{}", silent.stderr);
    assert_eq!(ids(&sandbox).len(), 1, "nothing was removed until now");
    let yes = answered(&sandbox, &["image", "prune", "-a"], "y\n");
    assert_eq!((yes.code, yes.stdout), (0, format!("{}\n", id(&plain("a")))), "{}", yes.stderr);
}

#[test]
fn filters_choose_by_time_and_label() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let old = image("old", "2020-01-01T00:00:00Z", "old");
    let new = image("new", "2100-01-01T00:00:00Z", "new");
    let damaged = image("damaged", "2020-01-01T00:00:00Z", "damaged");
    let all = [("old", &old), ("new", &new), ("damaged", &damaged)];
    let pull = || all.iter().for_each(|(name, image)| drop(sandbox.pull(&hub.serve(image, name, "1"))));
    let damage = || {
        let config = id(&damaged);
        std::fs::write(sandbox.data_root().join("images/blobs/sha256").join(&config[7..]), "{").unwrap();
    };
    for (filters, gone) in [
        (&["until=2021-01-01T00:00:00Z"][..], Some(&old)),
        (&["until=24h"], Some(&old)),
        (&["until=2019-01-01T00:00:00Z"], None),
        (&["label=kind"], None),
        (&["label=kind=new"], Some(&new)),
        (&["label!=kind=old"], Some(&new)),
        (&["label=kind", "until=1h30m"], Some(&old)),
        (&["label=kind=new", "until=1h"], None),
        (&["label!=kind"], None),
    ] {
        pull();
        damage();
        let mut arguments = vec!["image", "prune", "--all", "--force"];
        filters.iter().for_each(|filter| arguments.extend(["--filter", *filter]));
        let mut expected: Vec<String> = gone.map(id).into_iter().collect();
        if filters == ["label=kind"] {
            expected = vec![id(&old), id(&new)];
        }
        let output = sandbox.run(&arguments);
        let said: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
        assert_eq!((output.code, sorted(said)), (0, sorted(expected)), "{filters:?}: {}", output.stderr);
        assert!(output.stderr.contains("the image is damaged"), "it fits no filter: {}", output.stderr);
    }
    for filter in ["dangling=true", "until=soon", "label", "reference=x"] {
        let output = sandbox.run(&["image", "prune", "-f", "--filter", filter]);
        assert_eq!(output.code, 1);
        assert!(output.stderr.contains(filter.split('=').next().unwrap()), "{}", output.stderr);
    }
}

#[test]
fn a_pull_in_flight_is_not_broken() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let old = plain("old");
        sandbox.pull(&hub.serve(&old, "old", "1"));
        sandbox.ok(&["untag", "old:1"]);
        let reference = hub.serve(&plain("new"), "new", "1");
        let top = digest(&layer_tar("new"));
        // Slow enough to be on its way still when all is pruned: else the new image would go too.
        hub.registry.add_rule(Rule::on(&top).fault(Fault::Trickle(2000, Duration::from_millis(400))));
        let mut stos = sandbox.command();
        let mut pull = stos.args(["pull", "-q", "--tls-verify=false", &reference]).spawn().unwrap();
        eventually("a layer is on its way", || !sandbox.names("staging").is_empty());
        // The base is nobody's but the old image's and the pull's.
        assert_eq!(sandbox.ok(&["image", "prune", "-a", "-f"]), format!("{}\n", id(&old)));
        assert!(pull.wait().unwrap().success());
        sandbox.ok(&["image", "mount", "new:1"]);
        sandbox.ok(&["image", "unmount", "new:1"]);
        assert_eq!(ids(&sandbox), [id(&plain("new"))]);
        // What the old one alone reached goes with the next.
        sandbox.ok(&["image", "prune", "-f"]);
        assert_eq!(sandbox.ok(&["layer", "ls", "-q"]).lines().count(), 2);
    });
}

#[test]
fn creates_and_prunes_at_once_break_nothing() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let shell = ImageBuilder::new().layer(Layer::plain(rootfs::host_shell().unwrap())).command(&["/bin/sh"]);
        let reference = hub.serve(&shell.build(), "app", "1");
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let prunes = || {
                while !is_done.load(Ordering::Relaxed) {
                    let output = output(sandbox.command().args(["image", "prune", "-a", "-f"]));
                    assert_eq!(output.code, 0, "{}", output.stderr);
                }
            };
            let pruner = scope.spawn(prunes);
            for number in 0..8 {
                let name = format!("c{number}");
                sandbox.ok(&["create", "-q", "--tls-verify=false", "--name", &name, &reference, "echo", "alive"]);
                // The image is nobody's again, but for the creates that are on their way.
                assert_eq!(sandbox.ok(&["start", "-a", &name]), "alive\n");
                sandbox.ok(&["delete", &name]);
            }
            is_done.store(true, Ordering::Relaxed);
            pruner.join().unwrap();
        });
        sandbox.ok(&["image", "prune", "-a", "-f"]);
        for area in ["layers/sha256", "chains/sha256", "images/blobs/sha256", "staging", "containers", "names"] {
            assert_eq!(sandbox.names(area), Vec::<String>::new(), "{area}");
        }
    });
}
