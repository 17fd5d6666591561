// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What goes wrong while commits, exports and imports are made: nothing is lost, and it is told by name.

mod sandbox;

use std::fs;

use sandbox::Sandbox;
use sandbox::shell::Shell;
use stos_testkit::guard::Need;

/// The tree that no index and no tar can hold: nested too deep for a path.
const TOO_DEEP: &str = "echo x > /first; p=d/d/d/d/d/d/d/d/d/d; i=0; while [ $i -lt 230 ]; do mkdir -p $p; cd $p; i=$((i+1)); done";

#[test]
fn an_export_that_fails_leaves_the_file_that_was_there() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox: &Sandbox = &shell.sandbox;
    sandbox.ok(&["run", "--name", "c", "shell:1", "sh", "-c", TOO_DEEP]);
    let (dir, tar) = (sandbox.path("exports"), sandbox.path("exports/c.tar"));
    fs::create_dir(&dir).unwrap();
    fs::write(&tar, "of yesterday").unwrap();
    let refused = sandbox.run(&["export", "-o", tar.to_str().unwrap(), "c"]);
    assert!(refused.code == 1 && refused.stderr.contains("nested more than"), "{refused:?}");
    assert_eq!(fs::read_to_string(&tar).unwrap(), "of yesterday");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing beside it");
    assert_eq!(sandbox.run(&["export", "-o", "/dev/full", "c"]).code, 1);
    assert_eq!(sandbox.run(&["export", "-o", dir.to_str().unwrap(), "c"]).code, 1, "a directory");

    sandbox.ok(&["run", "--name", "d", "shell:1", "sh", "-c", ": > /new"]);
    sandbox.ok(&["export", "-o", tar.to_str().unwrap(), "d"]);
    assert!(sandbox::tool("tar", &["-tf", tar.to_str().unwrap()]).lines().any(|name| name == "new"));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}
