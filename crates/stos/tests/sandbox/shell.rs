// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A sandbox whose store has an image of this machine's shell.

use std::process::Command;
use std::time::{Duration, Instant};

use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

use super::{Hub, Output, Sandbox, output};

/// A sandbox with an image of this machine's shell in its store, called `shell`.
pub struct Shell {
    /// Where the image is.
    pub sandbox: Sandbox,
    /// The registry that it came from.
    pub hub: Hub,
    /// The image itself.
    pub image: Image,
}

impl Shell {
    /// With an image whose configuration says nothing but the command.
    pub fn new() -> Self {
        Self::of(&ImageBuilder::new())
    }

    /// With an image of this configuration.
    pub fn of(builder: &ImageBuilder) -> Self {
        let odd = TarBuilder::new()
            .entry(Entry::directory("srv"))
            .entry(Entry::file("srv/data", "from the image\n").owner(1000, 1000))
            .entry(Entry::file("bin/plain", "no program\n").mode(0o644))
            .entry(Entry::file("bin/lost", "#!/no/interpreter\n").mode(0o755))
            .entry(Entry::symlink("escape", "../../../../../tmp"))
            .finish();
        let builder = builder.clone().layer(Layer::gzip(rootfs::host_shell().unwrap())).layer(Layer::plain(odd));
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let image = builder.command(&["/bin/sh"]).build();
        sandbox.pull(&hub.serve(&image, "shell", "1"));
        Self { sandbox, hub, image }
    }

    /// `run --rm OPTIONS shell:1 sh -c SCRIPT`.
    pub fn run(&self, options: &[&str], script: &str) -> Output {
        self.sandbox.run(&[&["run", "--rm"], options, &["shell:1", "sh", "-c", script]].concat())
    }

    /// The same, and gives what it printed.
    #[track_caller]
    pub fn says(&self, options: &[&str], script: &str) -> String {
        let output = self.run(options, script);
        assert_eq!(output.code, 0, "{options:?} {script:?}: {}", output.stderr);
        output.stdout
    }

    /// Gives a container's state.
    pub fn status(&self, container: &str) -> String {
        self.sandbox.json(&["state", container])["status"].as_str().unwrap().to_owned()
    }
}

/// Waits until `condition` holds; an upper bound, not a pace.
#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Directories of all cgroup hierarchies whose name has `id` in it.
pub fn cgroups_of(id: &str) -> Vec<String> {
    let found = output(Command::new("find").args([
        "/sys/fs/cgroup",
        "-maxdepth",
        "3",
        "-type",
        "d",
        "-name",
        &format!("*{id}*"),
    ]));
    found.stdout.lines().map(str::to_owned).collect()
}
