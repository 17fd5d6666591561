// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `stos system df`: to the byte what du counts, and whose each byte is.

mod sandbox;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use sandbox::shell::{Shell, eventually};
use sandbox::{Hub, Sandbox, on_backend, on_both_backends, tool};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer, digest};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn du(path: &Path) -> u64 {
    // Of several hard links du counts the first that it meets, as df does, so only whole trees can be compared.
    let text = tool("du", &["-s", "-B1", path.to_str().unwrap()]);
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn sum(list: &Value, key: &str) -> u64 {
    list.as_array().unwrap().iter().map(|entry| number(&entry[key])).sum()
}

/// What `system df` says, once it has been compared with du and with itself.
#[track_caller]
fn df(sandbox: &Sandbox) -> Value {
    let usage = sandbox.json(&["system", "df", "--format", "json"]);
    assert_eq!(number(&usage["total"]), du(&sandbox.data_root()), "{usage}");
    let rows = ["images", "containers", "volumes", "snapshots", "unused", "other"]
        .map(|row| number(&usage["summary"][row]["size"]));
    assert_eq!(rows.iter().sum::<u64>(), number(&usage["total"]), "{usage}");
    let kinds = ["layers", "chains", "blobs", "containers", "volumes", "snapshots", "other"]
        .map(|kind| number(&usage["kinds"][kind]));
    assert_eq!(kinds.iter().sum::<u64>(), number(&usage["total"]), "{usage}");
    assert_eq!(sum(&usage["layers"], "size"), kinds[0]);
    assert_eq!(sum(&usage["containers"], "size"), kinds[3]);
    for image in usage["images"].as_array().unwrap() {
        assert_eq!(number(&image["size"]), number(&image["shared_size"]) + number(&image["unique_size"]), "{image}");
    }
    usage
}

/// The entry of a list whose `key` is `value`.
fn entry<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|entry| entry[key] == value);
    found.unwrap_or_else(|| panic!("no {value} in {list}"))
}

/// Bytes that no compression makes smaller.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

fn layer(name: &str, size: usize) -> Layer {
    let file = Entry::file(name, noise(size, name.len() as u64 + u64::from(name.as_bytes()[0])));
    Layer::gzip(TarBuilder::new().entry(file).finish())
}

#[test]
fn the_sum_is_what_du_says_whatever_the_store_holds() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("du"));
    on_both_backends(|| {
        let odd = TarBuilder::new()
            .entry(Entry::directory("d"))
            .entry(Entry::file("d/one", noise(20_000, 1)))
            .entry(Entry::hard_link("d/two", "d/one"))
            .entry(Entry::file([b'n', 0xff, b'\n'], "a hostile name"))
            .sparse_pax("d/sparse", 1 << 24, &[(1 << 23, &[b's'; 5000])])
            .finish();
        // A link to a file of the layer below: with directories, one more name of the same inode elsewhere.
        let link = TarBuilder::new().entry(Entry::hard_link("d/three", "d/one")).finish();
        let shell = Shell::of(
            &ImageBuilder::new()
                .layer(Layer::gzip(odd))
                .layer(Layer::gzip(link))
                .set("/config/Volumes", json!({"/d": {}})),
        );
        let sandbox = &shell.sandbox;
        df(sandbox);
        sandbox.ok(&["create", "--name", "made", "shell:1"]);
        let fill = "head -c 300000 /dev/zero >/big; ln /big /again; echo x >/d/own; echo said";
        sandbox.ok(&["run", "--name", "ran", "shell:1", "sh", "-c", fill]);
        sandbox.ok(&["run", "-d", "--name", "runs", "shell:1", "sh", "-c", "echo up; exec sleep 1000"]);
        // Files that only the blob area, the index and others' hands make.
        sandbox.ok(&[
            "pull",
            "-q",
            "--keep-blobs",
            "--tls-verify=false",
            &format!("{}/shell:1", shell.hub.registry.address()),
        ]);
        let foreign = sandbox.data_root().join("images/blobs/sha256").join("0".repeat(64));
        fs::write(&foreign, noise(9000, 2)).unwrap();
        fs::write(sandbox.data_root().join("layers/sha256/none of ours"), noise(5000, 3)).unwrap();
        let holes = File::create(sandbox.data_root().join("left")).unwrap();
        holes.set_len(1 << 32).unwrap();
        holes.write_all_at(b"x", 1 << 31).unwrap();
        // Its log grows by that.
        eventually("it is up", || sandbox.ok(&["logs", "runs"]) == "up\n");
        let usage = df(sandbox);
        for container in usage["containers"].as_array().unwrap() {
            let dir = sandbox.data_root().join("containers").join(container["id"].as_str().unwrap());
            assert_eq!(number(&container["size"]), du(&dir), "{container}");
        }
        let containers = &usage["summary"]["containers"];
        assert_eq!((&containers["total"], &containers["active"]), (&json!(3), &json!(1)));
        let runs = number(&entry(&usage["containers"], "name", "runs")["size"]);
        assert_eq!(number(&containers["reclaimable"]), number(&containers["size"]) - runs);
        assert_eq!(usage["summary"]["unused"]["total"], json!(1), "the blob that nobody names: {usage}");
    });
}

#[test]
fn what_images_share_is_told_from_what_is_their_own() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("du"));
    on_both_backends(|| {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let build = |top: &str| ImageBuilder::new().layer(layer("base", 400_000)).layer(layer(top, 100_000)).build();
        for name in ["one", "two"] {
            sandbox.pull(&hub.serve(&build(name), name, "1"));
        }
        sandbox.ok(&["tag", "one:1", "one:again"]);
        sandbox.pull(&hub.serve(&ImageBuilder::new().layer(layer("alone", 50_000)).build(), "alone", "1"));
        let usage = df(&sandbox);
        let images = usage["images"].as_array().unwrap();
        assert_eq!(images.len(), 3, "names of one image are one image");
        let by_name = |name: &str| {
            let has = |image: &&Value| {
                image["names"].as_array().unwrap().iter().any(|own| own.as_str().unwrap().contains(name))
            };
            images.iter().find(has).unwrap()
        };
        let layers = &usage["layers"];
        let base = layers.as_array().unwrap().iter().find(|layer| layer["images"] == 2).unwrap();
        assert!(number(&base["size"]) > 400_000);
        for name in ["/one:", "/two:"] {
            let image = by_name(name);
            assert_eq!(image["shared_size"], base["size"], "{image}");
            assert!((100_000..200_000).contains(&number(&image["unique_size"])), "{image}");
        }
        assert_eq!(
            (&by_name("/alone:")["shared_size"], &by_name("/alone:")["names"][0]),
            (&json!(0), &json!(format!("{}/alone:1", hub.registry.address())))
        );
        let all: u64 = images.iter().map(|image| number(&image["unique_size"])).sum::<u64>() + number(&base["size"]);
        assert_eq!(number(&usage["summary"]["images"]["size"]), all);
        assert_eq!(number(&usage["summary"]["images"]["reclaimable"]), all, "no container uses any");

        // What an image in use shares with others cannot be had back; a mounted one is in use.
        sandbox.ok(&["image", "mount", "two:1"]);
        let images = &df(&sandbox)["summary"]["images"];
        let expected = ["/one:", "/alone:"].map(|name| number(&by_name(name)["unique_size"])).iter().sum::<u64>();
        assert_eq!((images["active"].clone(), number(&images["reclaimable"])), (json!(1), expected));
        sandbox.ok(&["image", "unmount", "two:1"]);

        let table = sandbox.ok(&["system", "df"]);
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
        assert_eq!(
            words.iter().skip(1).map(|line| line[0]).collect::<Vec<_>>(),
            ["Images", "Containers", "Local", "Unused", "Other", "Total"]
        );
        assert_eq!((words[1][1], words[1][2], *words[1].last().unwrap()), ("3", "0", "(100%)"));
        let verbose = sandbox.ok(&["system", "df", "-v"]);
        assert!(verbose.starts_with(&table[..20]) && verbose.contains("UNIQUE SIZE"), "{verbose}");
        let again = verbose.lines().filter(|line| line.contains("/one")).count();
        assert_eq!(again, 2, "a line for each name: {verbose}");
    });
}

#[test]
fn a_removal_frees_what_was_told() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("du"));
    on_both_backends(|| {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let build = |top: &str| ImageBuilder::new().layer(layer("base", 300_000)).layer(layer(top, 100_000)).build();
        for name in ["one", "two"] {
            sandbox.pull(&hub.serve(&build(name), name, "1"));
        }
        let before = df(&sandbox);
        let has = |image: &&Value| image["names"][0].as_str().unwrap().contains("/one:");
        let unique = number(&before["images"].as_array().unwrap().iter().find(has).unwrap()["unique_size"]);
        sandbox.ok(&["rmi", "one:1"]);
        let after = df(&sandbox);
        assert_eq!(number(&before["summary"]["images"]["size"]) - number(&after["summary"]["images"]["size"]), unique);
        // Not the last byte: the index of images has become shorter.
        assert!(number(&before["total"]) - number(&after["total"]) >= unique);
        assert_eq!(after["summary"]["unused"]["size"], json!(0));
    });
}

#[test]
fn what_was_replaced_below_a_container_that_runs_is_unused_when_it_has_stopped() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("du"));
    on_backend("dirs", || {
        let shell = Shell::new();
        let sandbox = &shell.sandbox;
        sandbox.ok(&["run", "-d", "--name", "web", "shell:1", "sleep", "1000"]);
        let layers = sandbox.data_root().join("dirs/layers/sha256");
        let layer = layers.join(&sandbox.names("dirs/layers/sha256")[0]);
        fs::write(layer.join("diff/bin/sh"), "damaged").unwrap();
        sandbox.ok(&["system", "check", "--repair", "--full", "--tls-verify=false"]);
        assert_eq!(sandbox.names("dirs/old").len(), 1);
        assert_eq!(df(sandbox)["summary"]["unused"]["total"], json!(0));
        sandbox.ok(&["stop", "-t", "0", "web"]);
        let unused = &df(sandbox)["summary"]["unused"];
        assert!(unused["total"] == json!(1) && number(&unused["reclaimable"]) > 0, "{unused}");
        sandbox.ok(&["system", "gc"]);
        assert_eq!(df(sandbox)["summary"]["unused"]["total"], json!(0));
    });
}

#[test]
fn layers_in_both_forms_and_those_that_nothing_reaches() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("du"));
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = ImageBuilder::new().layer(layer("base", 200_000)).layer(layer("top", 100_000)).build();
    sandbox.pull(&hub.serve(&image, "app", "1"));
    let once = df(&sandbox);
    sandbox.ok(&["--layerfs", "dirs", "image", "mount", "app:1"]);
    sandbox.ok(&["image", "unmount", "app:1"]);
    let twice = df(&sandbox);
    for (one, both) in once["layers"].as_array().unwrap().iter().zip(twice["layers"].as_array().unwrap()) {
        assert_eq!(one["diff_id"], both["diff_id"]);
        assert!(number(&both["size"]) > number(&one["size"]) * 19 / 10, "{both}");
        let details = &sandbox.json(&["layer", "inspect", both["diff_id"].as_str().unwrap()])[0];
        assert_eq!(sum(&details["backends"], "disk_bytes"), number(&both["size"]));
    }
    let diff_ids = sandbox.ok(&["layer", "ls", "-q"]);
    let merge: Vec<&str> = ["layer", "merge"].into_iter().chain(diff_ids.lines()).collect();
    let merged = sandbox.ok(&merge);
    let usage = df(&sandbox);
    let size = &entry(&usage["layers"], "diff_id", merged.trim())["size"];
    assert_eq!(usage["summary"]["unused"], json!({"total": 1, "active": 0, "size": size, "reclaimable": size}));
}

#[test]
fn what_cannot_be_read_is_counted_and_told_and_nothing_is_promised_for_it() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("du"));
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let shell = Layer::gzip(rootfs::host_shell().unwrap());
    let image = ImageBuilder::new().layer(shell).command(&["/bin/sh"]).build();
    sandbox.pull(&hub.serve(&image, "app", "1"));
    sandbox.pull(&hub.serve(&ImageBuilder::new().layer(layer("bad", 50_000)).build(), "bad", "1"));
    let id = sandbox.ok(&["create", "--name", "it", "app:1"]);
    let bad = sandbox.json(&["inspect", "bad:1"])[0].clone();
    let config = bad["id"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let blob = sandbox.data_root().join("images/blobs/sha256").join(config);
    let good = fs::read(&blob).unwrap();
    fs::write(&blob, "{").unwrap();
    let usage = df(&sandbox);
    let entry_of = entry(&usage["images"], "id", bad["id"].as_str().unwrap());
    assert_eq!((&entry_of["damaged"], &entry_of["created"]), (&json!(true), &Value::Null));
    assert!(number(&entry_of["size"]) > 0, "its documents are known");
    assert!(number(&usage["summary"]["unused"]["size"]) > 50_000);
    assert_eq!(usage["summary"]["unused"]["reclaimable"], json!(0), "its layer may be needed");
    let output = sandbox.run(&["system", "df", "-v"]);
    assert!(output.stderr.contains(&digest(&good)[7..]), "{}", output.stderr);
    assert!(output.stdout.contains("damaged"), "{}", output.stdout);
    fs::write(&blob, good).unwrap();

    let record = sandbox.data_root().join("containers").join(id.trim()).join("container.json");
    fs::write(&record, "").unwrap();
    let usage = df(&sandbox);
    assert_eq!(usage["containers"][0]["status"], json!("unreadable"));
    assert_eq!(usage["summary"]["images"]["reclaimable"], json!(0));
    assert_eq!(sandbox.run(&["system", "df"]).code, 0);
    sandbox.ok(&["delete", "--force", id.trim()]);
    let images = &df(&sandbox)["summary"]["images"];
    assert_eq!(images["reclaimable"], images["size"]);
}

#[test]
fn a_tree_as_deep_as_a_container_makes_it_is_counted() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("du"));
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    const LEVELS: u64 = 600;
    let shell = Shell::new();
    let id = shell.sandbox.ok(&["create", "shell:1"]);
    let upper = shell.sandbox.data_root().join("containers").join(id.trim()).join("upper");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = openat(CWD, &upper, flags, Mode::empty()).unwrap();
    for _ in 0..LEVELS {
        // One to enter, and one to come back for.
        ["deep", "e"].iter().for_each(|name| mkdirat(&at, *name, Mode::RWXU).unwrap());
        at = openat(&at, "deep", flags, Mode::empty()).unwrap();
    }
    let usage = df(&shell.sandbox);
    assert!(number(&usage["containers"][0]["size"]) > 2 * LEVELS * 4096, "{usage}");
    assert_eq!(shell.sandbox.run(&["system", "df"]).stderr, "");
}
