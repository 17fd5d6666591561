// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where save writes: files, directories and streams of the user's, which may be full, mounted, linked or in use.

mod sandbox;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use sandbox::{Hub, Sandbox, output, tool};
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn image() -> Image {
    let layer = |name: &str| TarBuilder::new().entry(Entry::file(name, name.repeat(100_000)).mode(0o755)).finish();
    ImageBuilder::new().layer(Layer::gzip(layer("low"))).layer(Layer::gzip(layer("high"))).command(&["/low"]).build()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn tmpfs(path: &Path, size: &str) {
    fs::create_dir(path).unwrap();
    tool("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "none", text(path)]);
}

#[test]
fn a_file_that_is_replaced_keeps_its_mode_and_owner() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let name = hub.serve(&image(), "app", "1");
    sandbox.pull(&name);
    let of = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    let path = sandbox.path("secret.tar");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&path, Some(1000), Some(1001)).unwrap();
    sandbox.ok(&["save", "-o", text(&path), &name]);
    assert_eq!(of(&path), (0o600, 1000, 1001));
    for (umask, expected) in [("000", 0o644), ("022", 0o644), ("077", 0o600)] {
        let path = sandbox.path(umask);
        let script = format!("umask {umask}; exec \"$@\"");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(sandbox.command().get_program()).args(sandbox.command().get_args());
        let said = output(command.args(["save", "-o", text(&path), &name]));
        assert_eq!((said.code, of(&path).0), (0, expected), "{said:?}");
    }
}

#[test]
fn a_full_output_is_no_reason_to_remove_images() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("mount"));
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = image();
    let name = hub.serve(&image, "app", "1");
    sandbox.pull(&name);
    let small = sandbox.path("small");
    tmpfs(&small, "128k");
    fs::create_dir(small.join("layout")).unwrap();
    let mut to_full = sandbox.command();
    to_full.args(["save", &name]).stdout(File::options().write(true).open("/dev/full").unwrap());
    let in_archive = text(&small.join("x.tar")).to_owned();
    let in_directory = text(&small.join("layout")).to_owned();
    for said in [
        output(&mut to_full),
        sandbox.run(&["save", "-o", "/dev/full", &name]),
        sandbox.run(&["layer", "export", "-o", "/dev/full", &image.diff_ids[0]]),
        sandbox.run(&["save", "-o", &in_archive, &name]),
        sandbox.run(&["save", "--format", "oci-dir", "-o", &in_directory, &name]),
    ] {
        assert!(said.code == 1 && said.stderr.contains("No space left"), "{said:?}");
        assert!(!said.stderr.contains("hint: "), "{said:?}");
    }
    assert_eq!((names(&small), names(&small.join("layout"))), (vec!["layout".to_owned()], vec![]));
}

#[test]
fn a_layout_is_written_in_its_place_whatever_leads_there() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("mount"));
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = image();
    let name = hub.serve(&image, "app", "1");
    sandbox.ok(&["pull", "-q", "--tls-verify=false", "--keep-blobs", &name]);
    let (mounted, here, linked) = (sandbox.path("mounted"), sandbox.path("here"), sandbox.path("linked"));
    tmpfs(&mounted, "8m");
    fs::create_dir(&here).unwrap();
    fs::create_dir(&linked).unwrap();
    symlink("linked", sandbox.path("link")).unwrap();
    let inodes = [&mounted, &here, &linked].map(|path| fs::metadata(path).unwrap().ino());
    let save = |target: &Path| {
        let mut command = sandbox.command();
        command.current_dir(&here).args(["save", "-q", "--format", "oci-dir", "-o"]).arg(target).arg(&name);
        output(&mut command)
    };
    for (target, real) in [
        (mounted.as_path(), &mounted),
        (Path::new("."), &here),
        (&sandbox.path("link"), &linked),
        (&sandbox.path("new"), &sandbox.path("new")),
    ] {
        let said = save(target);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{}", target.display());
        assert_eq!(names(real), ["blobs", "index.json", "oci-layout"]);
        assert_eq!(names(&real.join("blobs/sha256")).len(), 4);
        // Not a second time, and not a byte of what is there changes.
        let before = sandbox::stable(real);
        let said = save(target);
        assert!(said.code == 1 && said.stderr.contains("new or empty"), "{said:?}");
        before.assert_same(&sandbox::stable(real));
        sandbox.ok(&["load", "-q", "-i", text(real)]);
    }
    assert_eq!(
        [&mounted, &here, &linked].map(|path| fs::metadata(path).unwrap().ino()),
        inodes,
        "they are what they were"
    );
    // What fails in the middle takes back what it has made.
    let other = Sandbox::new();
    other.pull(&name);
    let tar = other.layer_dir(&image.diff_ids[1]).join("layer.tar");
    let mut bytes = fs::read(&tar).unwrap();
    bytes[600] ^= 1;
    fs::write(&tar, bytes).unwrap();
    fs::create_dir(sandbox.path("empty")).unwrap();
    for target in ["none", "empty"] {
        let said = other.run(&["save", "--format", "oci-dir", "-o", text(&sandbox.path(target)), &name]);
        assert!(said.code == 1 && said.stderr.contains(&image.diff_ids[1]), "{said:?}");
    }
    assert!(!sandbox.path("none").exists() && names(&sandbox.path("empty")).is_empty());
}

#[test]
fn podmans_options_that_are_true_are_taken_and_the_others_named() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let name = hub.serve(&image(), "app", "1");
    sandbox.pull(&name);
    let path = sandbox.path("x.tar");
    for options in [&["-m"][..], &["--multi-image-archive", "-q"], &["--uncompressed"]] {
        sandbox.ok(&[&["save"], options, &["-o", text(&path), &name]].concat());
        sandbox.ok(&["load", "--quiet", "--input", text(&path)]);
    }
    let directory = sandbox.path("directory");
    let said = sandbox.run(&["save", "--format", "docker-dir", "-o", text(&directory), &name]);
    assert!(said.code == 1 && said.stderr.contains("docker-dir") && !directory.exists(), "{said:?}");
}

#[test]
fn blobs_that_are_to_be_kept_are_fetched_though_the_image_is_there() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = image();
    let name = hub.serve(&image, "app", "1");
    sandbox.pull(&name);
    let kept = || {
        let blob = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
        let names = sandbox.names("images/blobs/sha256");
        image.layers.iter().filter(|layer| names.contains(&blob(&layer.digest))).count()
    };
    let before = sandbox.listing();
    let create = |policy: &str| {
        sandbox.run(&["create", "--tls-verify=false", "--keep-blobs", &format!("--pull={policy}"), "app:1", "/low"])
    };
    let never = create("never");
    assert!(never.code == 125 && never.stderr.contains("--keep-blobs"), "{never:?}");
    assert!(never.stderr.contains("hint: `stos pull --keep-blobs`"), "{never:?}");
    before.assert_same(&sandbox.listing());
    hub.take_blob_requests();
    let missing = create("missing");
    assert_eq!((missing.code, kept()), (0, 2), "{missing:?}");
    assert_eq!(hub.take_blob_requests().len(), 2, "for their blobs");
    // Now nothing is missing.
    assert_eq!((create("missing").code, create("never").code), (0, 0));
    assert_eq!(hub.registry.take_requests(), Vec::<String>::new());
    // Layers that came plain are blobs themselves: what was loaded or imported is asked of nobody.
    let plain = sandbox.path("plain.tar");
    fs::write(&plain, TarBuilder::new().entry(Entry::file("low", "#!/low").mode(0o755)).finish()).unwrap();
    let id = sandbox.ok(&["import", text(&plain), "own:1"]).trim().to_owned();
    sandbox.ok(&["create", "--keep-blobs", "own:1", "/low"]);
    assert_eq!(sandbox.json(&["inspect", "own:1"])[0]["id"], json!(id));
    // One without a name cannot be pulled.
    let other = Sandbox::new();
    other.pull(&name);
    other.ok(&["untag", &name]);
    let said = other.run(&["create", "--keep-blobs", &image.config.digest, "/low"]);
    assert!(said.code == 125 && said.stderr.contains("no name"), "{said:?}");
}
