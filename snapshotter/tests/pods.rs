// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods as a kubelet runs them, by the CRI plugin of a real containerd ([`scene::node`]), on the host's network.
#![expect(clippy::print_stderr, reason = "how far it came, shown where it fails")]

mod scene;

use std::time::Duration;

use scene::cri::{Cri, Pod, RUNNING};
use scene::node::{Node, image_with, on_each_release};

/// How many pods run at once.
const PODS: usize = 100;
/// How many callers start them.
const CALLERS: usize = 4;
/// How often somebody is killed.
const KILLS: u32 = 20;
/// How far apart the moments are, within what is done meanwhile.
const STEP: Duration = Duration::from_millis(90);

#[track_caller]
fn expect<T>(node: &Node, what: &str, got: Result<T, tonic::Status>) -> T {
    got.unwrap_or_else(|status| panic!("{what}: {status:?}\n{}", node.log()))
}

impl Node {
    /// Ends all pods, whatever has become of them.
    fn end_all_pods(&self, cri: &Cri) {
        for sandbox in cri.sandboxes().unwrap() {
            expect(self, "stopping", cri.stop_sandbox(&sandbox));
            expect(self, "removing", cri.remove_sandbox(&sandbox));
        }
        assert!(cri.containers().unwrap().is_empty());
    }

    fn remove_images(&self, cri: &Cri, names: &[&str]) {
        for name in names {
            expect(self, name, cri.remove_image(&self.image_name(name)));
        }
        self.eventually("end of the images", |node| node.snapshots() == 0 && node.images() == 0);
    }

    /// The process of a container.
    fn pid(&self, container: &str) -> i32 {
        let tasks = self.ok(&["-n", "k8s.io", "tasks", "ls"]);
        let row = tasks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|row| row[0] == container);
        row.and_then(|row| row[1].parse().ok()).unwrap_or_else(|| panic!("no {container} in {tasks}"))
    }
}

#[test]
fn a_pod_has_all_its_calls() {
    on_each_release(|node: Node| {
        let (cri, app) = (node.cri(), node.reference());
        expect(&node, "pull", cri.pull(&app));
        let sandbox = expect(&node, "RunPodSandbox", cri.run_sandbox("one"));
        // The other image begins with its layer.
        assert_eq!((node.images(), node.snapshots_by_kind()), (1, (2, 1)), "nothing is pulled for the pause");
        let container = expect(&node, "CreateContainer", cri.create(&sandbox, "one", &app, &["sleep", "100000"]));
        expect(&node, "StartContainer", cri.start(&container));
        let said = expect(&node, "ExecSync", cri.exec(&container, &["cat", "/greeting"]));
        assert_eq!(said, (0, "hello\n".to_owned()));
        let write = ["sh", "-c", "echo mine > /mine; rm /greeting; ls /greeting || exit 7"];
        assert_eq!(expect(&node, "ExecSync", cri.exec(&container, &write)).0, 7);
        assert_eq!((node.mounts("erofs"), node.mounts("overlay")), (2, 2), "{:?}", node.mounts_by_kind());

        // Another container of the same image sees nothing of it, and one that ends leaves its output.
        let other = expect(&node, "second pod", cri.run_sandbox("two"));
        let words = ["cat", "/greeting"];
        let short = expect(&node, "CreateContainer", cri.create(&other, "two", &app, &words));
        expect(&node, "StartContainer", cri.start(&short));
        node.eventually("output", |node| {
            let log = std::fs::read_to_string(node.path("logs/two/main.log")).unwrap_or_default();
            log.contains("stdout F hello")
        });
        assert_eq!(node.mounts("erofs"), 2, "one an image, whatever the number of containers");
        let image = expect(&node, "ImageStatus", cri.image(&app)).unwrap();
        assert!(image.size > 0 && image.repo_tags == [app.clone()], "{image:?}");
        let disks = expect(&node, "ImageFsInfo", cri.image_filesystems());
        assert_eq!(disks.len(), 1, "{disks:?}");

        // As a kubelet does, more than once; also after the removal.
        expect(&node, "StopPodSandbox", cri.stop_sandbox(&sandbox));
        for (pod, sandbox) in [(&container, &sandbox), (&short, &other)] {
            expect(&node, "ending", cri.end_pod(&Pod { sandbox: sandbox.clone(), container: pod.clone() }));
        }
        expect(&node, "RemovePodSandbox", cri.remove_sandbox(&sandbox));
        node.assert_no_container_is_left();
        assert_eq!((node.images(), node.snapshots()), (1, 2), "images stay");
        node.remove_images(&cri, &["app", "pause"]);
    });
}

#[test]
fn a_hundred_pods_leave_nothing() {
    on_each_release(|node: Node| {
        let (cri, app) = (node.cri(), node.reference());
        expect(&node, "pull", cri.pull(&app));
        let started = std::time::Instant::now();
        let pods: Vec<Pod> = std::thread::scope(|scope| {
            let caller = |first: usize| {
                let (node, cri, app) = (&node, &cri, &app);
                scope.spawn(move || {
                    let run = |number: usize| {
                        let pod = expect(node, "starting", cri.run_pod(&format!("pod-{number}"), app));
                        assert_eq!(expect(node, "exec", cri.exec(&pod.container, &["cat", "/greeting"])).1, "hello\n");
                        pod
                    };
                    (first..PODS).step_by(CALLERS).map(run).collect::<Vec<_>>()
                })
            };
            let callers: Vec<_> = (0..CALLERS).map(caller).collect();
            callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
        });
        eprintln!("{PODS} pods started within {:?}", started.elapsed());
        assert_eq!(cri.containers().unwrap().iter().filter(|container| container.state == RUNNING).count(), PODS);
        assert_eq!(node.snapshots_by_kind(), (2, 2 * PODS));
        assert_eq!((node.mounts("erofs"), node.mounts("overlay")), (2, 2 * PODS), "{:?}", node.mounts_by_kind());
        std::thread::scope(|scope| {
            for part in pods.chunks(PODS.div_ceil(CALLERS)) {
                let (node, cri) = (&node, &cri);
                scope.spawn(move || part.iter().for_each(|pod| expect(node, "ending", cri.end_pod(pod))));
            }
        });
        node.assert_no_container_is_left();
        node.remove_images(&cri, &["app", "pause"]);
        eprintln!("gone within {:?}", started.elapsed());
    });
}

/// What goes on while somebody is killed. What fails of it is of no account, only what it leaves is.
fn work(cri: &Cri, name: &str, app: &str, other: &str) {
    let done = (|| {
        cri.pull(other)?;
        let pod = cri.run_pod(name, app)?;
        cri.exec(&pod.container, &["cat", "/greeting"])?;
        cri.end_pod(&pod)?;
        cri.remove_image(other)
    })();
    if let Err(status) = done {
        eprintln!("{name}: {:?}", status.code());
    }
}

#[test]
fn killed_at_twenty_moments_no_container_and_no_image_is_lost() {
    on_each_release(|mut node: Node| {
        let (cri, app, other) = (node.cri(), node.reference(), node.image_name("other"));
        image_with("other", "of the other\n").push(node.registry.address(), "other", "1").unwrap();
        expect(&node, "pull", cri.pull(&app));
        let steady = expect(&node, "steady", cri.run_pod("steady", &app));
        expect(&node, "writing", cri.exec(&steady.container, &["sh", "-c", "echo mine > /mine"]));
        let pid = node.pid(&steady.container);
        for round in 0..KILLS {
            let kills_containerd = round % 2 == 1;
            std::thread::scope(|scope| {
                let worker = scope.spawn(|| work(&cri, &format!("round-{round}"), &app, &other));
                std::thread::sleep(STEP * (round / 2));
                match kills_containerd {
                    true => node.restart_containerd(),
                    false => node.restart_snapshotter(),
                }
                worker.join().unwrap();
            });
            let who = if kills_containerd { "containerd" } else { "the snapshotter" };
            node.eventually("CRI", |_| cri.images().is_ok() && cri.containers().is_ok());
            let containers = cri.containers().unwrap();
            let found = containers.iter().find(|container| container.id == steady.container);
            assert_eq!(found.map(|found| found.state), Some(RUNNING), "{round}, {who}: {}", node.log());
            assert_eq!(node.pid(&steady.container), pid, "{round}, {who}");
            let said = expect(&node, who, cri.exec(&steady.container, &["cat", "/mine", "/greeting"]));
            assert_eq!(said, (0, "mine\nhello\n".to_owned()), "{round}, {who}");
            for name in ["app", "pause"] {
                let image = expect(&node, who, cri.image(&node.image_name(name)));
                assert!(image.is_some(), "{round}, {who}: {name} is lost: {}", node.log());
            }
            // Of what is there, without a pull. containerd connects anew after a while.
            let id = format!("round-{round}");
            let run =
                ["-n", "k8s.io", "run", "--rm", "--net-host", "--snapshotter=stos", &app, &id, "cat", "/greeting"];
            node.eventually("container of the image", |node| {
                let output = node.ctr(&run);
                // What the first try has left is in the way of the next one.
                output.status.success() && output.stdout == b"hello\n" || {
                    node.ctr(&["-n", "k8s.io", "containers", "rm", &id]);
                    false
                }
            });
        }
        node.end_all_pods(&cri);
        node.give_up_leases();
        expect(&node, "removal", cri.remove_image(&other));
        // Of a sandbox that it was about to start a containerd that is killed may leave the shim, and knows nothing of it later.
        node.assert_no_snapshot_is_left();
        let left = node.processes();
        eprintln!("{} processes left by containerd", left.len());
        node.remove_images(&cri, &["app", "pause"]);
        // The snapshotter may still be about to delete what it has taken away.
        node.eventually("sweep of staging", |node| std::fs::read_dir(node.path("data/staging")).unwrap().count() == 0);
    });
}
