// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A check looks while others work: what comes and goes meanwhile is no damage, and nobody fails for it.

mod health_scene;
mod sandbox;

use std::sync::atomic::{AtomicUsize, Ordering};

use health_scene::{check_in, findings, image};
use sandbox::shell::Shell;
use stos_testkit::guard::Need;

/// How often each of them does its work.
const ROUNDS: usize = 12;

#[test]
fn nothing_that_comes_and_goes_meanwhile_is_damage() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(|| {
        let shell = Shell::new();
        let sandbox = &shell.sandbox;
        let coming = shell.hub.serve(&image("now and then "), "coming", "1");
        let pull = || {
            sandbox.pull(&coming);
            sandbox.ok(&["rmi", "coming:1"]);
        };
        let create = || {
            sandbox.ok(&["create", "--name", "passing", "shell:1", "echo"]);
            sandbox.ok(&["delete", "passing"]);
        };
        let run = || assert_eq!(sandbox.ok(&["run", "--rm", "shell:1", "echo", "done"]), "done\n");
        let sweep = || {
            sandbox.ok(&["system", "gc"]);
        };
        let works: [&(dyn Fn() + Sync); 4] = [&pull, &create, &run, &sweep];
        let at_work = AtomicUsize::new(works.len());
        std::thread::scope(|scope| {
            for work in works {
                let at_work = &at_work;
                scope.spawn(move || {
                    // Also where it fails, or the check below would never end.
                    let _done = Done(at_work);
                    (0..ROUNDS).for_each(|_| work());
                });
            }
            while at_work.load(Ordering::Relaxed) > 0 {
                let (code, report) = check_in(sandbox, &["--full"]);
                let damage = findings(&report).into_iter().find(|(_, finding)| finding["severity"] == "damage");
                assert_eq!((code, damage), (0, None), "{report:#}");
            }
        });
        sandbox.ok(&["system", "gc"]);
        assert_eq!(check_in(sandbox, &["--full"]).1["objects"], serde_json::json!([]));
        assert!(sandbox.names("staging").is_empty() && sandbox.names("containers").is_empty());
    });
}

/// Counts one down when it goes.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
