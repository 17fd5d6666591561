// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images whose files are traps for whoever makes containers of them: nothing of them takes effect on the host.

mod sandbox;

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use sandbox::shell::Shell;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// An image of this machine's shell with these files too, or instead.
fn with_files(entries: Vec<Entry>) -> Shell {
    let tar = entries.into_iter().fold(TarBuilder::new(), TarBuilder::entry).finish();
    let mut shell = Shell::new();
    let builder = ImageBuilder::new().layer(Layer::gzip(rootfs::host_shell().unwrap())).layer(Layer::plain(tar));
    shell.image = builder.command(&["/bin/sh"]).build();
    shell.sandbox.pull(&shell.hub.serve(&shell.image, "shell", "1"));
    shell
}

/// Where the image is mounted on the host.
fn image_root(shell: &Shell) -> PathBuf {
    let chains = shell.sandbox.root().join("chains");
    let mut found = fs::read_dir(chains).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.join("trap").exists()).unwrap()
}

/// Opening a device can be all that it takes: a watchdog starts, and the machine with it anew.
#[test]
fn a_device_of_an_image_is_none_on_the_host() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(|| {
        let shell = with_files(vec![Entry::char_device("trap", 1, 3).mode(0o666)]);
        assert_eq!(shell.says(&[], "echo x > /trap; echo done"), "done\n", "it may be used where it is a container's");
        let opened = fs::File::open(image_root(&shell).join("trap"));
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn account_files_that_are_devices_are_refused() {
    stos_testkit::require!(Need::Root, Need::Binary);
    for (file, user) in [("etc/passwd", "root"), ("etc/group", "0:root")] {
        let shell = with_files(vec![Entry::directory("etc"), Entry::char_device(file, 1, 3).mode(0o666)]);
        let refused = shell.run(&["--user", user], "true");
        let said = format!("/{file} cannot be read: expected a regular file, found CharacterDevice");
        assert!(refused.code == 125 && refused.stderr.contains(&said), "{}", refused.stderr);
    }
}

/// Devices are made where the image leads, were they not looked for at /dev.
#[test]
fn no_symlink_of_an_image_leads_a_mount_over_dev() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = with_files(vec![Entry::symlink("data", "dev"), Entry::symlink("deep", "/dev/deep")]);
    let host = shell.sandbox.path("host");
    fs::create_dir(&host).unwrap();
    let bind = format!("{}:/data", host.display());
    for options in [&["-v", &bind][..], &["-v", &bind, "--device", "/dev/zero:/dev/new"], &["--tmpfs", "/data"]] {
        let refused = shell.run(options, "true");
        let said = "mount at \"/data\" refused: it would cover /dev";
        assert!(refused.code == 125 && refused.stderr.contains(said), "{options:?}: {}", refused.stderr);
    }
    assert_eq!(fs::read_dir(&host).unwrap().count(), 0);
    // Below it something of the host's may lie.
    shell.says(&["-v", &format!("{}:/deep", host.display())], "echo x > /dev/deep/new && echo x > /dev/null");
    assert_eq!(fs::read_dir(&host).unwrap().count(), 1);
}

#[test]
fn no_symlink_of_an_image_leads_a_filesystem_in_memory_to_copy_the_kernel_s_files() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let places = [("data", "/sys"), ("kernel", "/sys/kernel"), ("tmp", "/sys/fs")];
    let shell = with_files(places.iter().map(|(name, target)| Entry::symlink(name, target)).collect());
    for (options, place) in
        [(&["--tmpfs", "/data"][..], "/data"), (&["--tmpfs", "/kernel"], "/kernel"), (&["--read-only"], "/tmp")]
    {
        let refused = shell.run(options, "true");
        let said = format!("mount at {place:?} refused: what the kernel has there cannot be copied");
        assert!(refused.code == 125 && refused.stderr.contains(&said), "{options:?}: {}", refused.stderr);
    }
    shell.says(&["--tmpfs", "/kernel:notmpcopyup"], "echo x > /sys/kernel/new");
}
