// SPDX-License-Identifier: Apache-2.0 OR MIT
//! pull, images, inspect and rmi: what they print, what they fetch, and what they leave.

mod sandbox;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use sandbox::{Hub, Sandbox, tool};
use serde_json::json;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Dialect, Image, ImageBuilder, Layer, digest};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// The bound that a pull keeps, whatever the image's size.
const PEAK_MAX: u64 = 96 << 20;

fn tar(name: &str, data: &str) -> Vec<u8> {
    TarBuilder::new().entry(Entry::directory("etc")).entry(Entry::file(format!("etc/{name}"), data)).finish()
}

/// An image of two layers: a base that is always the same, and a top that is not.
fn two_layers(top: &str) -> Image {
    let base = Layer::gzip(tar("base", "the same for all"));
    ImageBuilder::new().layer(base).layer(Layer::gzip(tar("top", top))).command(&["/bin/sh"]).build()
}

#[test]
fn digests_are_those_of_skopeo_and_layers_are_shared() {
    let images = ["deb:12", "sci:2", "many:100"];
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("skopeo"));
    stos_testkit::require!(Need::Image(images[0]), Need::Image(images[1]), Need::Image(images[2]));
    let sandbox = Sandbox::new();
    let registry = DockerRegistry::start_over_cache().unwrap();
    let mut layers = 0;
    for image in images {
        let reference = format!("{}/{image}", registry.address());
        let source = format!("docker://{reference}");
        let expected = tool("skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &source]);
        assert_eq!(sandbox.pull(&reference), expected.trim());
        layers += sandbox.json(&["inspect", image])[0]["layers"].as_array().unwrap().len();
    }
    // All three stand on deb:12's layer.
    assert_eq!((layers, sandbox.names("layers/sha256").len()), (105, 103));
}

#[test]
fn zstd_layers_and_sparse_files_are_pulled_and_run() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("skopeo"), Need::Tool("docker-registry"));
    let sandbox = Sandbox::new();
    let registry = DockerRegistry::start(&sandbox.path("registry")).unwrap();
    let data = [b's'; 5000];
    let sparse = TarBuilder::new().sparse_pax("sparse", 1 << 30, &[(1 << 29, &data)]).finish();
    let programs = rootfs::host_programs(&["sh", "stat", "tail", "head", "sha256sum"]).unwrap();
    let image = ImageBuilder::new().layer(Layer::plain(programs)).layer(Layer::plain(sparse)).build();
    image.write_layout(&sandbox.path("layout"), "it").unwrap();
    let reference = format!("{}/zstd:1", registry.address());
    let (from, to) = (format!("oci:{}:it", sandbox.path("layout").display()), format!("docker://{reference}"));
    let zstd = ["--dest-compress-format=zstd", "--dest-tls-verify=false"];
    tool("skopeo", &[&["copy"], &zstd[..], &[&from, &to]].concat());
    let manifest = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &to]);
    assert_eq!(manifest.matches("application/vnd.oci.image.layer.v1.tar+zstd").count(), 2, "{manifest}");
    sandbox.pull(&reference);
    let script = "stat -c %s /sparse; tail -c +536870912 /sparse | head -c 5002 | sha256sum";
    let found = sandbox.ok(&["run", "--rm", &reference, "sh", "-c", script]);
    let expected = digest(&[&b"\0"[..], &data, b"\0"].concat());
    assert_eq!(found, format!("1073741824\n{}  -\n", expected.trim_start_matches("sha256:")));
}

#[test]
fn a_pull_keeps_within_its_memory() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Image("sci:2"));
    let sandbox = Sandbox::new();
    let registry = DockerRegistry::start_over_cache().unwrap();
    let reference = format!("{}/sci:2", registry.address());
    let mut pull = sandbox.command();
    pull.args(["pull", "-q", "--tls-verify=false", &reference]).stdout(Stdio::null());
    let mut pull = pull.spawn().unwrap();
    // The kernel keeps the peak itself; the last look is at most a millisecond before the end.
    let status = PathBuf::from(format!("/proc/{}/status", pull.id()));
    let mut peak = 0;
    let result = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kilobytes.unwrap_or(0) << 10);
        match pull.try_wait().unwrap() {
            Some(result) => break result,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    assert!(result.success());
    assert!(peak > 1 << 20 && peak <= PEAK_MAX, "peak of {peak} bytes, at most {PEAK_MAX}");
}

#[test]
fn a_second_pull_fetches_no_blob_and_a_shared_layer_comes_once() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let one = two_layers("1");
    let reference = hub.serve(&one, "team/app", "1");
    assert_eq!(sandbox.pull(&reference), one.manifest.digest);
    let mut fetched = hub.take_blob_requests();
    let mut expected: Vec<_> = one.blobs().map(|blob| blob.digest.clone()).collect();
    fetched.sort();
    expected.sort();
    assert_eq!(fetched, expected);

    assert_eq!(sandbox.pull(&reference), one.manifest.digest);
    assert_eq!(hub.take_blob_requests(), Vec::<String>::new());

    let two = two_layers("2");
    sandbox.pull(&hub.serve(&two, "team/app", "2"));
    let mut fetched = hub.take_blob_requests();
    fetched.sort();
    let mut expected = vec![two.config.digest.clone(), two.layers[1].digest.clone()];
    expected.sort();
    assert_eq!(fetched, expected);
    assert_eq!(sandbox.names("staging"), Vec::<String>::new());
}

#[test]
fn what_an_image_says_moves_no_cursor() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let clear = "\u{1b}[2J";
    let builder = ImageBuilder::new().layer(Layer::gzip(rootfs::host_shell().unwrap()));
    let image = builder.clone().command(&["/bin/sh", clear]).set("/created", json!(clear)).build();
    let reference = hub.serve(&image, "odd", "1");
    sandbox.pull(&reference);
    sandbox.ok(&["create", &reference]);
    for table in [sandbox.ok(&["images"]), sandbox.ok(&["list"])] {
        assert!(table.lines().count() == 2 && !table.contains('\u{1b}'), "{table:?}");
    }
    let other = builder.platform(clear, "amd64", "").build();
    let refused = sandbox.run(&["pull", "--tls-verify=false", &hub.serve(&other, "odd", "2")]);
    assert!(refused.code == 1 && !refused.stderr.contains('\u{1b}'), "{}", refused.stderr);
}

#[test]
fn an_image_need_not_say_its_variant() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = ImageBuilder::new().layer(Layer::gzip(tar("base", "")));
    let reference = hub.serve(&image.platform("linux", "arm", "").build(), "arm", "6");
    sandbox.ok(&["pull", "--tls-verify=false", "--platform", "linux/arm/v6", &reference]);
}

#[test]
fn every_media_type_and_compression_gives_the_same_layer() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let layer = rootfs::host_shell().unwrap();
    let forms = [Layer::plain(layer.clone()), Layer::gzip(layer.clone()), Layer::gzip_members(layer.clone(), 100_000)];
    for dialect in [Dialect::Oci, Dialect::Docker] {
        for (number, form) in forms.iter().enumerate() {
            let image = ImageBuilder::new().dialect(dialect).layer(form.clone()).command(&["sh"]).build();
            let reference = hub.serve(&image, &format!("form/{number}"), "1");
            assert_eq!(sandbox.pull(&reference), image.manifest.digest, "{dialect:?} {number}");
            assert_eq!(sandbox.names("layers/sha256"), [digest(&layer)[7..].to_owned()]);
            assert_eq!(sandbox.json(&["inspect", &reference])[0]["media_type"], dialect.manifest());
            assert_eq!(sandbox.ok(&["run", "--rm", &reference, "echo", "42"]), "42\n", "{dialect:?} {number}");
            // The next form is fetched again.
            sandbox.ok(&["rmi", &reference]);
            assert!(hub.take_blob_requests().contains(&image.layers[0].digest));
        }
    }
}

#[test]
fn a_layer_may_come_twice() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let empty = Layer::gzip(TarBuilder::new().finish());
    let shell = Layer::gzip(rootfs::host_shell().unwrap());
    let again = Layer::gzip(tar("again", "once more"));
    let removal = Layer::gzip(TarBuilder::new().whiteout("etc/again").finish());
    let layers = [&empty, &shell, &empty, &again, &removal, &again, &empty];
    let image = layers.iter().fold(ImageBuilder::new(), |image, layer| image.layer((*layer).clone())).build();
    let reference = hub.serve(&image, "twice", "1");
    sandbox.pull(&reference);
    let mut fetched = hub.take_blob_requests();
    fetched.retain(|digest| *digest != image.config.digest);
    fetched.sort();
    let fetched_once = fetched.windows(2).all(|pair| pair[0] != pair[1]);
    assert!(fetched_once && fetched.len() == 4, "{fetched:?}");
    assert_eq!(sandbox.names("layers/sha256").len(), 4);
    assert_eq!(sandbox.json(&["inspect", &reference])[0]["layers"].as_array().unwrap().len(), 7);
    assert_eq!(sandbox.ok(&["run", "--rm", &reference, "cat", "/etc/again"]), "once more");
}

#[test]
fn an_index_gives_the_image_of_the_platform() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    for dialect in [Dialect::Oci, Dialect::Docker] {
        let build = |arch: &str, variant: &str| {
            let layer = Layer::gzip(tar("arch", arch));
            ImageBuilder::new().dialect(dialect).platform("linux", arch, variant).layer(layer).build()
        };
        let foreign = [build("riscv64", ""), build("s390x", ""), build("arm", "v7")];
        let own = ImageBuilder::new().dialect(dialect).layer(Layer::gzip(tar("arch", "own"))).build();
        let images = [&foreign[0], &own, &foreign[1], &foreign[2]];
        let index = Image::index(dialect, &images);
        let reference = hub.serve_index(&index, &images, "multi", "1");
        hub.take_blob_requests();
        assert_eq!(sandbox.pull(&reference), own.manifest.digest);
        let mut fetched = hub.take_blob_requests();
        fetched.sort();
        let mut expected: Vec<_> = own.blobs().map(|blob| blob.digest.clone()).collect();
        expected.sort();
        assert_eq!(fetched, expected, "only what the platform needs is fetched");
        assert_eq!(sandbox.json(&["inspect", &reference])[0]["index_digest"], index.digest);

        let platform = ["pull", "--tls-verify=false", "--platform", "linux/arm/v7"];
        let by_digest = format!("{}/multi@{}", hub.registry.address(), index.digest);
        assert_eq!(sandbox.ok(&[&platform[..], &[&by_digest]].concat()).trim(), foreign[2].manifest.digest);
        sandbox.ok(&["rmi", &by_digest]);
        sandbox.ok(&["rmi", &reference]);
        assert_eq!(sandbox.names("layers/sha256"), Vec::<String>::new());
    }
}

#[test]
fn who_has_read_enough_has_no_complaint() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    for arguments in [&["images"][..], &["images", "--format", "json"], &["layer", "ls"], &["system", "info"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = sandbox.command().args(arguments).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{arguments:?}: {said}");
    }
}

#[test]
fn images_and_inspect_say_what_was_pulled() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    assert_eq!(sandbox.ok(&["images"]), "REPOSITORY  TAG  IMAGE ID  CREATED  SIZE\n");
    assert_eq!(sandbox.json(&["images", "--format", "json"]), json!([]));
    let image = two_layers("1");
    let reference = hub.serve(&image, "team/app", "1");
    sandbox.pull(&reference);

    let name = format!("{}/team/app", hub.registry.address());
    let id = &image.config.digest;
    let table = sandbox.ok(&["images"]);
    let words: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words[..3], [&*name, "1", &id[7..19]]);
    assert_eq!(sandbox.ok(&["images", "-q"]).trim(), &id[7..19]);

    let listed = &sandbox.json(&["images", "--format", "json"])[0];
    let size = tar("base", "the same for all").len() + tar("top", "1").len();
    let expected = json!({ "repository": name, "tag": "1", "digest": image.manifest.digest, "id": id, "layers": 2,
        "size": size, "created": "2024-01-01T00:00:00Z" });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&listed[key], value, "{key}");
    }

    let short = id[7..13].to_owned();
    for query in
        [&*reference, "app:1", "team/app:1", id, &id[7..], &short, &format!("{name}@{}", image.manifest.digest)]
    {
        let found = &sandbox.json(&["inspect", query])[0];
        assert_eq!(found["id"], **id, "{query}");
        assert_eq!(found["digest"], image.manifest.digest, "{query}");
        let layers = found["layers"].as_array().unwrap();
        for ((layer, blob), diff_id) in layers.iter().zip(&image.layers).zip(&image.diff_ids) {
            assert_eq!((&layer["diff_id"], &layer["blob"]), (&json!(diff_id), &json!(blob.digest)), "{query}");
            assert_eq!(layer["compressed_size"], blob.size);
        }
        assert_eq!(layers.len(), 2);
        assert_eq!(found["config"]["config"]["Cmd"], json!(["/bin/sh"]), "{query}");
    }
    for missing in ["app:2", "other", "0000000000", &digest(b"no image")] {
        let output = sandbox.run(&["inspect", missing]);
        assert_eq!((output.code, &*output.stdout), (1, "[]\n"), "{missing}");
        assert!(output.stderr.contains(missing), "{}", output.stderr);
    }
    let mixed = sandbox.run(&["inspect", "app:2", "app:1"]);
    let found: serde_json::Value = serde_json::from_str(&mixed.stdout).unwrap();
    assert_eq!((mixed.code, &found[0]["id"], found.as_array().unwrap().len()), (1, &json!(id), 1));
}

#[test]
fn a_short_name_that_two_images_have_is_refused() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let (one, two) = (two_layers("1"), two_layers("2"));
    for (image, repository) in [(&one, "a/app"), (&two, "b/app")] {
        sandbox.pull(&hub.serve(image, repository, "1"));
    }
    let output = sandbox.run(&["inspect", "app:1"]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("a/app:1") && output.stderr.contains("b/app:1"), "{}", output.stderr);
    assert_eq!(sandbox.json(&["inspect", "b/app:1"])[0]["id"], two.config.digest);
}

#[test]
fn rmi_removes_what_nothing_else_needs() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let shell = Layer::gzip(rootfs::host_shell().unwrap());
    let build = |top: &str| {
        let top = Layer::gzip(tar("top", top));
        ImageBuilder::new().layer(shell.clone()).layer(top).command(&["cat", "/etc/top"]).build()
    };
    let (one, two) = (build("1"), build("2"));
    let references = [hub.serve(&one, "app", "1"), hub.serve(&two, "app", "2")];
    for (reference, output) in references.iter().zip(["1", "2"]) {
        sandbox.pull(reference);
        assert_eq!(sandbox.ok(&["run", "--rm", reference]), output);
    }
    assert_eq!((sandbox.names("layers/sha256").len(), sandbox.names("chains/sha256").len()), (3, 2));
    assert_eq!(sandbox.mounts("erofs").len(), 2);

    let printed = sandbox.ok(&["rmi", &references[0]]);
    assert_eq!(printed, format!("Untagged: {}\nDeleted: {}\n", references[0], one.config.digest));
    let mut kept: Vec<_> = two.diff_ids.iter().map(|id| id[7..].to_owned()).collect();
    kept.sort();
    assert_eq!(sandbox.names("layers/sha256"), kept);
    assert_eq!((sandbox.names("chains/sha256").len(), sandbox.mounts("erofs").len()), (1, 1));
    assert_eq!(sandbox.ok(&["run", "--rm", "--pull", "never", &references[1]]), "2", "the other image still runs");

    sandbox.ok(&["rmi", "app:2"]);
    for directory in ["layers/sha256", "chains/sha256", "images/blobs/sha256", "staging"] {
        assert_eq!(sandbox.names(directory), Vec::<String>::new(), "{directory}");
    }
    assert_eq!(sandbox.mounts(""), Vec::<PathBuf>::new());
    assert_eq!(fs::read_dir(sandbox.root().join("chains")).unwrap().count(), 0);
    assert_eq!(sandbox.run(&["rmi", "app:2"]).code, 1);
}

#[test]
fn an_image_in_use_or_with_other_names_is_kept() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let layer = Layer::gzip(rootfs::host_shell().unwrap());
    let image = ImageBuilder::new().layer(layer).command(&["echo", "still here"]).build();
    let references = [hub.serve(&image, "app", "1"), hub.serve(&image, "app", "latest")];
    references.iter().for_each(|reference| drop(sandbox.pull(reference)));

    // By its ID it has two names; one of them alone can go.
    let output = sandbox.run(&["rmi", &image.config.digest]);
    assert_eq!(output.code, 1);
    assert!(references.iter().all(|reference| output.stderr.contains(reference)), "{}", output.stderr);
    assert_eq!(sandbox.ok(&["rmi", &references[1]]), format!("Untagged: {}\n", references[1]));
    assert_eq!(sandbox.names("layers/sha256").len(), 1);

    let id = sandbox.ok(&["create", "--name", "keeper", "app:1"]).trim().to_owned();
    let output = sandbox.run(&["rmi", "app:1"]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("keeper"), "{}", output.stderr);
    assert_eq!(sandbox.json(&["images", "--format", "json"]).as_array().unwrap().len(), 1);

    // With force the name goes, and the layers stay as long as the container.
    sandbox.ok(&["rmi", "--force", "app:1"]);
    assert_eq!(sandbox.json(&["images", "--format", "json"]), json!([]));
    assert_eq!(sandbox.names("layers/sha256").len(), 1);
    assert_eq!(sandbox.ok(&["start", "-a", "keeper"]), "still here\n");
    sandbox.ok(&["delete", &id]);
}

#[test]
fn a_tag_that_moves_takes_its_name_along() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let (old, new) = (two_layers("old"), two_layers("new"));
    let reference = hub.serve(&old, "app", "1");
    sandbox.pull(&reference);
    hub.serve(&new, "app", "1");
    assert_eq!(sandbox.pull(&reference), new.manifest.digest);
    assert_eq!(sandbox.json(&["inspect", &reference])[0]["id"], new.config.digest);
    let found = &sandbox.json(&["inspect", &old.config.digest])[0];
    assert_eq!((&found["id"], &found["name"]), (&json!(old.config.digest), &json!(null)));
    assert!(sandbox.ok(&["images"]).contains("<none>"));
    assert_eq!(sandbox.ok(&["rmi", &old.config.digest]), format!("Deleted: {}\n", old.config.digest));
    assert_eq!(sandbox.names("layers/sha256").len(), 2);
}
