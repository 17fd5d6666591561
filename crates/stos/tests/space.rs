// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The disk's room before a pull: what cannot fit is refused before anything of it is fetched, what fits is not.

mod sandbox;

use std::fs::File;
use std::path::{Path, PathBuf};

use sandbox::{Hub, Output, Sandbox, on_both_backends, output, stable, tool};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// A small ext4 with a data root on it, mounted until the test ends.
struct Disk {
    mounted_on: PathBuf,
    sandbox: Sandbox,
    hub: Hub,
}

impl Disk {
    fn new(size: u64, inodes: u64) -> Self {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let (image, mounted_on) = (sandbox.path("disk"), sandbox.path("mounted"));
        File::create(&image).unwrap().set_len(size).unwrap();
        std::fs::create_dir(&mounted_on).unwrap();
        let (device, count) = (image.to_str().unwrap(), inodes.to_string());
        tool("mkfs.ext4", &["-q", "-m", "0", "-O", "^has_journal", "-N", &count, device]);
        tool("mount", &["-o", "loop", device, mounted_on.to_str().unwrap()]);
        let disk = Self { mounted_on, sandbox, hub };
        // It makes the store, and takes a lease.
        assert_eq!(disk.run(&["layer", "ls"]).code, 0);
        disk
    }

    fn data_root(&self) -> PathBuf {
        self.mounted_on.join("data")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        output(self.sandbox.command_on(&self.data_root()).args(arguments))
    }

    fn pull(&self, reference: &str, more: &[&str]) -> Output {
        self.run(&[&["pull", "-q", "--tls-verify=false"], more, &[reference]].concat())
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.mounted_on).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Runs what must be refused for want of room, and makes sure that nothing came and nothing changed.
    #[track_caller]
    fn refused(&self, code: i32, arguments: &[&str], what: &str) {
        let before = stable(&self.data_root());
        self.hub.registry.take_requests();
        let output = self.run(arguments);
        assert_eq!(output.code, code, "{}", output.stderr);
        assert!(output.stderr.contains("needs at least ") && output.stderr.contains(what), "{}", output.stderr);
        assert!(output.stderr.contains("hint: `stos system gc`"), "{}", output.stderr);
        let requests = self.hub.registry.take_requests();
        let blobs = requests.iter().filter(|request| request.contains("/blobs/")).count();
        assert!(blobs <= 1, "the configuration, and no layer: {requests:?}");
        before.assert_same(&stable(&self.data_root()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The data root is not where the sandbox looks for mounts and containers.
        for mount in self.sandbox.mounts("").iter().rev() {
            drop(stos_sys::mount::detach(mount));
        }
    }
}

/// Bytes that no compression makes smaller.
fn noise(length: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

fn tar(size: u64, seed: u64) -> Vec<u8> {
    TarBuilder::new().entry(Entry::file(format!("f{seed}"), noise(size, seed))).finish()
}

fn image(layers: Vec<Layer>) -> Image {
    layers.into_iter().fold(ImageBuilder::new(), ImageBuilder::layer).command(&["/x"]).build()
}

/// How large the disk is in most of these: much more than the smallest filesystem takes for itself.
const SIZE: u64 = 24 << 20;

fn needs() -> [Need<'static>; 4] {
    [Need::Root, Need::Binary, Need::Tool("mkfs.ext4"), Need::Tool("mount")]
}

#[test]
fn what_cannot_fit_is_refused_before_it_is_fetched() {
    if !stos_testkit::guard::met(&needs()) {
        return;
    }
    on_both_backends(|| {
        let disk = Disk::new(SIZE, 1000);
        let free = disk.free();
        let gzip = disk.hub.serve(&image(vec![Layer::gzip(tar(free, 1))]), "gzip", "1");
        let plain = disk.hub.serve(&image(vec![Layer::plain(tar(free, 1))]), "plain", "1");
        let halves = (1..4).map(|seed| Layer::gzip(tar(free * 2 / 5, seed))).collect();
        let halves = disk.hub.serve(&image(halves), "halves", "1");
        for reference in [&gzip, &plain, &halves] {
            disk.refused(1, &["pull", "--tls-verify=false", reference], "bytes");
            disk.refused(1, &["pull", "--tls-verify=false", reference], reference);
        }
        disk.refused(125, &["create", "--tls-verify=false", &gzip], &gzip);
        // The same from a layout, which says sizes too.
        let layout = disk.sandbox.path("layout");
        image(vec![Layer::plain(tar(free, 1))]).write_layout(&layout, "it").unwrap();
        disk.refused(1, &["pull", &format!("oci:{}:it", layout.display())], "bytes");
    });
}

#[test]
fn what_just_fits_comes() {
    if !stos_testkit::guard::met(&needs()) {
        return;
    }
    on_both_backends(|| {
        let disk = Disk::new(SIZE, 1000);
        // A tenth stays free while a layer comes, and each brings a little more than its files.
        let layers = vec![Layer::gzip(tar(disk.free() / 2, 1)), Layer::plain(tar(disk.free() * 3 / 10, 2))];
        let reference = disk.hub.serve(&image(layers.clone()), "fits", "1");
        let output = disk.pull(&reference, &[]);
        assert_eq!(output.code, 0, "{}", output.stderr);

        // Layers that are there need no room, however large.
        let free = disk.free();
        let shared = [layers, vec![Layer::gzip(tar(free / 3, 3))]].concat();
        let output = disk.pull(&disk.hub.serve(&image(shared), "shared", "1"), &[]);
        assert_eq!(output.code, 0, "{}", output.stderr);
    });
}

#[test]
fn kept_blobs_need_room_of_their_own() {
    if !stos_testkit::guard::met(&needs()) {
        return;
    }
    on_both_backends(|| {
        let disk = Disk::new(SIZE, 1000);
        let reference = disk.hub.serve(&image(vec![Layer::gzip(tar(disk.free() * 3 / 5, 1))]), "app", "1");
        disk.refused(1, &["pull", "--keep-blobs", "--tls-verify=false", &reference], "bytes");
        let output = disk.pull(&reference, &[]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        // The layer is there, and its blob alone does not fit either.
        disk.refused(1, &["pull", "--keep-blobs", "--tls-verify=false", &reference], "bytes");
        let output = disk.pull(&reference, &[]);
        assert_eq!(output.code, 0, "{}", output.stderr);
    });
}

#[test]
fn inodes_are_counted_too() {
    if !stos_testkit::guard::met(&needs()) {
        return;
    }
    on_both_backends(|| {
        let disk = Disk::new(SIZE, 200);
        let layers = |count| image((0..count).map(|seed| Layer::gzip(tar(10, seed))).collect());
        let many = disk.hub.serve(&layers(60), "many", "1");
        disk.refused(1, &["pull", "--tls-verify=false", &many], "inodes");
        let output = disk.pull(&disk.hub.serve(&layers(15), "few", "1"), &[]);
        assert_eq!(output.code, 0, "{}", output.stderr);
    });
}

#[test]
fn an_archive_is_judged_by_the_sizes_that_it_tells() {
    if !stos_testkit::guard::met(&needs()) {
        return;
    }
    let disk = Disk::new(SIZE, 1000);
    let other = Sandbox::new();
    let reference = disk.hub.serve(&image(vec![Layer::gzip(tar(disk.free(), 1))]), "app", "1");
    other.pull(&reference);
    let (archive, unpacked) = (other.path("app.tar"), other.path("unpacked"));
    other.ok(&["save", "-o", text(&archive), &reference]);
    disk.refused(1, &["load", "-q", "-i", text(&archive)], &reference);
    // Of a compressed layer a docker-archive tells neither digest nor size: it is met when it is read.
    std::fs::create_dir(&unpacked).unwrap();
    tool("tar", &["-C", text(&unpacked), "-xf", text(&archive)]);
    let is_layer = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "tar");
    let mut files = std::fs::read_dir(&unpacked).unwrap().map(|entry| entry.unwrap().path());
    let layer = files.find(is_layer).unwrap();
    tool("gzip", &["-1", "-n", text(&layer)]);
    std::fs::rename(layer.with_extension("tar.gz"), &layer).unwrap();
    let before = stable(&disk.data_root());
    let output = disk.run(&["load", "-q", "-i", text(&unpacked)]);
    assert_eq!(output.code, 1);
    assert!(!output.stderr.contains("needs at least") && output.stderr.contains("hint: "), "{}", output.stderr);
    before.assert_same(&stable(&disk.data_root()));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
