// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The store is the command line's too: what it prunes and collects while snapshots are used and pods run is nothing that these need.
#![expect(clippy::print_stderr, reason = "how far it came, shown where it fails")]

mod scene;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use scene::node::{Node, on_each_release_with};
use scene::{Scene, chains, image, needs_stos, option, run_stos};
use stos_testkit::guard::Need;
use tonic::Code;

/// How often an image comes, is used, and goes.
const ROUNDS: usize = 20;
/// The same where each takes a second.
const POD_ROUNDS: usize = 10;

/// Prunes and collects all the while that `work` goes on, `rounds` times or until both were done half as often; fails where that never
/// comes, or a command fails.
fn while_swept(dir: &Path, rounds: usize, work: impl Fn(usize)) {
    let (ended, count) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                run_stos(dir, &["image", "prune", "--all", "--force"]);
                run_stos(dir, &["system", "gc"]);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        // A panic of the work ends the sweeper too.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let end = End(&ended);
        // Nobody knows which of both is the faster one.
        let is_enough = |done: usize| done >= rounds && count.load(Ordering::Relaxed) as usize >= rounds / 2;
        for round in 0..50 * rounds {
            if is_enough(round) || sweeper.is_finished() {
                break;
            }
            work(round);
        }
        drop(end);
        sweeper.join().unwrap();
    });
    let count = count.into_inner();
    eprintln!("swept {count} times");
    assert!(count as usize >= rounds / 2, "swept only {count} times");
}

#[test]
fn snapshots_that_are_used_keep_what_they_stand_on() {
    stos_testkit::require!(Need::Root, needs_stos());
    let scene = Scene::new();
    let (steady, passing) = (image(&[("low", "1"), ("high", "2")]), image(&[("low", "1"), ("other", "3")]));
    let (steady_name, passing_name) = (scene.serve(&steady, "steady"), scene.serve(&passing, "passing"));
    let (_, top) = scene.unpack(&steady, Some(&steady_name));
    let kept = option(&scene.prepare("kept", &top, &[]).unwrap(), "lowerdir");
    while_swept(scene.dir.path(), ROUNDS, |round| {
        let (codes, top) = scene.unpack(&passing, Some(&passing_name));
        assert_eq!(codes, [Code::AlreadyExists; 2], "round {round}");
        let lower = option(&scene.prepare("passing", &top, &[]).unwrap(), "lowerdir");
        assert_eq!(std::fs::read_to_string(Path::new(&lower).join("other")).unwrap(), "3", "round {round}");
        assert_eq!(std::fs::read_to_string(Path::new(&kept).join("high")).unwrap(), "2", "round {round}");
        assert_eq!(scene.mounts("kept").unwrap()[0].r#type, "overlay");
        scene.remove("passing").unwrap();
        scene.remove(&top).unwrap();
        scene.cleanup();
    });
    assert!(!chains(&steady).is_empty());
    run_stos(scene.dir.path(), &["system", "check", "--full"]);
    assert_eq!(scene.mounted().len(), 1);
}

#[test]
fn pods_that_run_keep_their_images() {
    on_each_release_with(&[needs_stos()], |node: Node| {
        let (cri, app) = (node.cri(), node.reference());
        cri.pull(&app).unwrap();
        let steady = cri.run_pod("steady", &app).unwrap();
        while_swept(node.dir.path(), POD_ROUNDS, |round| {
            cri.pull(&app).unwrap();
            let pod = cri
                .run_pod(&format!("round-{round}"), &app)
                .unwrap_or_else(|status| panic!("{status:?} {}", node.log()));
            for container in [&steady.container, &pod.container] {
                let said = cri.exec(container, &["cat", "/greeting"]).unwrap();
                assert_eq!(said, (0, "hello\n".to_owned()), "round {round}");
            }
            cri.end_pod(&pod).unwrap();
        });
        assert_eq!(node.images(), 1, "snapshots stand on it");
        run_stos(node.dir.path(), &["system", "check", "--full"]);
        cri.end_pod(&steady).unwrap();
        node.assert_no_container_is_left();
    });
}
