// SPDX-License-Identifier: Apache-2.0 OR MIT
//! With a real containerd, 1.6 or 2.x ([`scene::node`]): what `ctr` and the CRI's image service pull lies in the store, and containers
//! run from it.

mod scene;

use std::process::Command;

use scene::node::{Node, image, on_each_release};

impl Node {
    /// The id of a container. runc's directory and the cgroups are those of all nodes of this machine.
    fn id(&self, name: &str) -> String {
        format!("{name}-{}", self.registry.address().rsplit(':').next().unwrap_or_default())
    }

    /// Runs a container to its end, and one that goes on; looks into it, also after the snapshotter was killed; and removes it.
    fn run_containers(&mut self) {
        let (reference, one, two) = (self.reference(), self.id("one"), self.id("two"));
        let said = self.ok(&["run", "--rm", "--net-host", "--snapshotter=stos", &reference, &one, "cat", "/greeting"]);
        assert_eq!(said, "hello\n");
        self.ok(&["run", "-d", "--net-host", "--snapshotter=stos", &reference, &two, "sleep", "1000"]);
        self.ok(&["task", "exec", "--exec-id=a", &two, "sh", "-c", "echo mine > /mine"]);
        assert_eq!(self.mounts("erofs").max(1), 1, "one mount, where the image is the store's");
        self.restart_snapshotter();
        assert_eq!(self.ok(&["task", "exec", "--exec-id=b", &two, "cat", "/mine", "/greeting"]), "mine\nhello\n");
        let usage = ["snapshots", "--snapshotter=stos", "usage", &two];
        // containerd connects anew after a while.
        self.eventually("connection", |node| node.ctr(&usage).status.success());
        let usage = self.ok(&usage);
        assert!(usage.lines().nth(1).is_some_and(|line| line.starts_with(&two)), "{usage}");
        // A container that was killed ends with 137, and ctr with it.
        self.ctr(&["task", "rm", "--force", &two]);
        self.ok(&["container", "rm", &two]);
        self.assert_no_container_is_left();
    }

    /// The uppermost committed snapshot of the image.
    fn top(&self) -> String {
        let listed = self.ok(&["snapshots", "--snapshotter=stos", "ls"]);
        let rows = listed.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        // KEY PARENT KIND; the lowest has no parent.
        let found = rows.filter(|row| row.len() == 3 && row[2] == "Committed").map(|row| row[0].to_owned()).next();
        found.unwrap_or_else(|| panic!("{listed}"))
    }

    /// Writes to a snapshot of its own, commits it, stands another one on it, and has containerd tell what was written.
    fn commit(&self) {
        let top = self.top();
        let of_snapshots = |arguments: &[&str]| self.ok(&[&["snapshots", "--snapshotter=stos"], arguments].concat());
        let target = self.path("target");
        std::fs::create_dir(&target).unwrap();
        let mounted = |key: &str, script: &str| {
            // containerd prints the command that mounts it.
            let mount = of_snapshots(&["mounts", target.to_str().unwrap(), key]);
            let script = format!("{mount}\n{script}\numount {}", target.display());
            let done = Command::new("sh").arg("-ec").arg(script).current_dir(self.dir.path()).output().unwrap();
            assert!(done.status.success(), "{mount}: {done:?}");
            String::from_utf8(done.stdout).unwrap()
        };
        of_snapshots(&["prepare", "work", &top]);
        assert_eq!(mounted("work", "echo mine > target/mine; rm target/greeting; cat target/mine"), "mine\n");
        of_snapshots(&["commit", "mine", "work"]);
        // Unlike a view, containerd keeps that until it is removed.
        of_snapshots(&["prepare", "look", "mine"]);
        assert_eq!(mounted("look", "cat target/mine; test ! -e target/greeting"), "mine\n");
        let diff = self.ctr(&["snapshots", "--snapshotter=stos", "diff", "mine"]);
        assert!(diff.status.success(), "{diff:?}");
        std::fs::write(self.path("diff.tar.gz"), diff.stdout).unwrap();
        let list = Command::new("tar").arg("-tzf").arg(self.path("diff.tar.gz")).output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        assert!(["mine", ".wh.greeting"].iter().all(|name| list.lines().any(|line| line == *name)), "{list}");
        assert!(!self.ctr(&["snapshots", "--snapshotter=stos", "rm", "mine"]).status.success(), "one stands on it");
        of_snapshots(&["rm", "look"]);
        of_snapshots(&["rm", "mine"]);
        self.collect();
        self.eventually("end of the snapshots", |node| node.snapshots() == 2);
    }

    /// Pushes the image under another name, has containerd forget it, and pulls that.
    fn push(&self) {
        let other = self.image_name("pushed");
        self.ok(&["images", "tag", &self.reference(), &other]);
        self.ok(&["images", "push", "--plain-http", &other]);
        self.ok(&["images", "rm", &other]);
        self.ok(&["images", "pull", "--plain-http", "--snapshotter=stos", &other]);
        let said = self.ok(&[
            "run",
            "--rm",
            "--net-host",
            "--snapshotter=stos",
            &other,
            &self.id("three"),
            "cat",
            "/greeting",
        ]);
        assert_eq!(said, "hello\n");
        self.ok(&["images", "rm", "--sync", &other]);
    }
}

#[test]
fn ctr_pulls_runs_and_removes() {
    on_each_release(|mut node: Node| {
        node.ok(&["images", "pull", "--plain-http", "--snapshotter=stos", &node.reference()]);
        assert_eq!(node.snapshots(), 2);
        assert_eq!(node.images(), usize::from(!node.is_old), "1.6 does not say which image it is");
        node.run_containers();
        node.commit();
        // To the registry that it came from: that has the layers, which containerd has not.
        node.push();
        node.remove_image();
        node.eventually("end of the image", |node| node.images() == 0);
    });
}

#[test]
fn what_containerd_unpacks_itself_runs_is_committed_and_pushed() {
    on_each_release(|mut node: Node| {
        let mut pull = vec!["images", "pull", "--plain-http", "--snapshotter=stos"];
        // Later ones ask the snapshotter first unless the client does it all.
        pull.extend(Some("--local").filter(|_| !node.is_old));
        let reference = node.reference();
        pull.push(&reference);
        node.ok(&pull);
        assert_eq!((node.images(), node.snapshots()), (0, 2));
        node.run_containers();
        assert_eq!(node.mounts("erofs"), 0);
        node.commit();
        node.push();
        // Neither what nobody refers to goes, nor what an image needs.
        node.ok(&["content", "prune", "references"]);
        assert_eq!(node.snapshots(), 2);
        if node.is_old {
            node.remove_image();
        } else {
            node.ok(&["images", "prune", "--all"]);
            node.eventually("end of the snapshots", |node| node.snapshots() == 0);
        }
        node.assert_no_container_is_left();
    });
}

#[test]
fn the_cri_plugin_pulls_by_the_snapshotter() {
    on_each_release(|node: Node| {
        let (cri, reference) = (node.cri(), node.reference());
        let pulled = cri.pull(&reference).unwrap_or_else(|status| panic!("{status:?}: {}", node.log()));
        assert!(pulled.starts_with("sha256:"), "{pulled}");
        assert_eq!((node.images(), node.snapshots()), (1, 2), "the store has it: {}", node.log());
        let content = node.ok(&["-n", "k8s.io", "content", "ls", "-q"]);
        for layer in image().layers {
            assert!(!content.contains(&layer.digest), "containerd has downloaded no layer: {content}");
        }
        cri.remove_image(&reference).unwrap();
        node.eventually("end of the image", |node| node.snapshots() == 0 && node.images() == 0);
    });
}
