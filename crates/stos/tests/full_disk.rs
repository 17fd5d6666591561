// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A disk that is full to a few blocks or inodes, at every command: what cannot be done is told, nothing that was there is lost,
//! and once there is room again everything works.

mod sandbox;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sandbox::shell::Shell;
use sandbox::{Hub, Output, Sandbox, output, tool};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// A small ext4 of the test's own.
struct Disk(PathBuf);

impl Disk {
    /// Mounts one at `place`, where all of `bytes` can be used, and so many inodes.
    fn new(place: PathBuf, bytes: u64, inodes: u32) -> Self {
        let image = place.with_extension("ext4");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        tool("mkfs.ext4", &["-q", "-m", "0", "-b", "4096", "-N", &inodes.to_string(), image.to_str().unwrap()]);
        fs::create_dir(&place).unwrap();
        tool("mount", &["-o", "loop", image.to_str().unwrap(), place.to_str().unwrap()]);
        Self(place)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all of the disk but so many blocks of 4 KiB.
    fn fill_blocks(&self, free: u64) {
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        let taken = disk.f_bavail.saturating_sub(free) * 4096;
        let file = File::create(self.filler()).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken).unwrap();
    }

    /// Takes all inodes but so many.
    fn fill_inodes(&self, free: u64) {
        fs::create_dir(self.filler()).unwrap();
        let count = rustix::fs::statvfs(&self.0).unwrap().f_favail.saturating_sub(free);
        (0..count).for_each(|number| drop(File::create(self.filler().join(number.to_string())).unwrap()));
    }

    fn empty(&self) {
        let filler = self.filler();
        if filler.is_dir() { fs::remove_dir_all(filler).unwrap() } else { fs::remove_file(filler).unwrap() }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        tool("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}

/// What is tried while there is no room; each may fail.
const COMMANDS: [&[&str]; 12] = [
    &["create", "--name", "new", "shell:1", "sh", "-c", "true"],
    &["start", "--attach", "kept"],
    &["run", "--rm", "shell:1", "sh", "-c", "echo much >/file"],
    &["commit", "kept", "committed:1"],
    &["tag", "shell:1", "tagged:1"],
    &["image", "mount", "shell:1"],
    &["image", "unmount", "shell:1"],
    &["layer", "ls"],
    &["images"],
    &["list"],
    &["system", "df"],
    &["system", "check"],
];

/// Whether a command has succeeded, or has failed and said why.
#[track_caller]
fn assert_told(output: &Output, what: &str) {
    let says_why =
        ["No space left on device", "room", "are free", "no such"].iter().any(|words| output.stderr.contains(words));
    assert!(output.code == 0 || says_why, "{what}: {output:?}");
}

fn sandbox_on<'a>(sandbox: &'a Sandbox, disk: &'a Disk) -> impl Fn(&[&str]) -> Output + 'a {
    move |arguments| output(sandbox.command_on(&disk.0.join("data")).args(arguments))
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Does everything on a disk that `fill` has left too little of, makes room, and looks at what has become of the store.
fn try_all(fill: impl Fn(&Disk, u64), levels: &[u64]) {
    let shell = Shell::new();
    let disk = Disk::new(shell.sandbox.path("disk"), 48 << 20, 2048);
    let run = sandbox_on(&shell.sandbox, &disk);
    let ok = |arguments: &[&str]| {
        let output = run(arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {}", output.stderr);
        output.stdout
    };
    let reference = format!("{}/shell:1", shell.hub.registry.address());
    ok(&["pull", "--tls-verify=false", &reference]);
    ok(&["create", "--name", "kept", "shell:1", "sh", "-c", "echo kept"]);
    let other = ImageBuilder::new().layer(Layer::gzip(
        TarBuilder::new().entry(Entry::file("data", vec![7; 3 << 20])).entry(Entry::file("more", "more")).finish(),
    ));
    let hub = Hub::new();
    let other = hub.serve(&other.build(), "other", "1");
    for &level in levels {
        fill(&disk, level);
        assert_told(&run(&["pull", "--tls-verify=false", &other]), &format!("pull with {level} left"));
        for arguments in COMMANDS {
            assert_told(&run(arguments), &format!("{arguments:?} with {level} left"));
        }
        // What gives space back needs none.
        ok(&["system", "gc"]);
        for removal in
            [&["delete", "--force", "new"][..], &["rmi", "--force", &other], &["rmi", "--force", "committed:1"]]
        {
            assert_told(&run(removal), &format!("{removal:?} with {level} left"));
        }
        disk.empty();
        ok(&["system", "check", "--full"]);
        assert_eq!(ok(&["start", "--attach", "kept"]), "kept\n", "with {level} left before");
        ok(&["system", "gc"]);
        ok(&["system", "check", "--full"]);
        let data = disk.0.join("data");
        assert_eq!(names(&data.join("staging")), [""; 0]);
        assert!(names(&data.join("locks")).iter().all(|name| !name.contains('-')));
        assert!(names(&data.join("containers")).len() <= 2, "the one that is kept, and one that was created");
        drop(run(&["untag", "shell:1", "tagged:1"]));
        drop(run(&["delete", "--force", "new"]));
        drop(run(&["image", "unmount", "--force", "shell:1"]));
    }
    ok(&["delete", "kept"]);
    ok(&["rmi", &reference]);
    ok(&["system", "gc"]);
    assert_eq!(names(&disk.0.join("data/layers/sha256")), [""; 0]);
}

#[test]
fn a_disk_with_few_blocks_left_loses_nothing() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("mkfs.ext4"));
    try_all(Disk::fill_blocks, &[0, 1, 2, 3, 5, 8, 12, 20, 40, 100, 300, 760]);
}

#[test]
fn a_disk_with_few_inodes_left_loses_nothing() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("mkfs.ext4"));
    try_all(Disk::fill_inodes, &[0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20]);
}

#[test]
fn a_log_goes_on_in_whole_lines_when_there_is_room_again() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("mkfs.ext4"));
    let shell = Shell::new();
    let disk = Disk::new(shell.sandbox.path("disk"), 48 << 20, 2048);
    let run = sandbox_on(&shell.sandbox, &disk);
    assert_eq!(run(&["pull", "--tls-verify=false", &format!("{}/shell:1", shell.hub.registry.address())]).code, 0);
    let script = "echo before; while read count; do \
        n=0; while [ $n -lt $count ]; do n=$((n+1)); echo $n; done; echo done; done";
    let mut container = shell.sandbox.command_on(&disk.0.join("data"));
    container.args(["run", "-i", "--name", "c", "shell:1", "sh", "-c", script]);
    let mut container = container.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut asks, mut said) = (container.stdin.take().unwrap(), BufReader::new(container.stdout.take().unwrap()));
    let mut logs = |count: &str| {
        writeln!(asks, "{count}").unwrap();
        let said = said.by_ref().lines().map(Result::unwrap);
        said.take_while(|line| line != "done").count()
    };
    logs("1");
    disk.fill_blocks(0);
    logs("2000");
    disk.empty();
    logs("3");
    drop(asks);
    assert!(container.wait().unwrap().success());
    let id = names(&disk.0.join("data/containers")).remove(0);
    let log = fs::read_to_string(disk.0.join("data/containers").join(id).join("log")).unwrap();
    let time = log.find(' ');
    let is_whole = |line: &str| line.find(' ') == time && line.split(' ').count() == 4;
    assert!(log.ends_with('\n') && log.lines().all(is_whole), "{log}");
    let logged = run(&["logs", "c"]).stdout;
    assert!(logged.starts_with("before\n1\ndone\n1\n") && logged.ends_with("\n1\n2\n3\ndone\n"), "{logged}");
    assert!(!logged.contains("\n2000\n"), "there was no room");
    assert_eq!(run(&["delete", "c"]).code, 0);
}
