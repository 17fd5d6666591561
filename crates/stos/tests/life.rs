// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers from images, from create to delete: what they see, how they end, and that nothing of them stays.

mod sandbox;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use rustix::fs::FlockOperation;
use sandbox::output;
use sandbox::shell::{Shell, cgroups_of, eventually};
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::ImageBuilder;

#[test]
fn a_life_from_create_to_delete_leaves_only_the_image_s_mount() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    // Once, so that what stays for good (locks, the image's mount) is there before.
    sandbox.ok(&["run", "--rm", "shell:1", "sh", "-c", ":"]);
    let (before, mounts) = (sandbox.listing(), sandbox.mounts(""));
    let run_before = sandbox.run_listing();
    let id = sandbox.ok(&["create", "--name", "life", "shell:1", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    let id = id.trim();
    assert_eq!((id.len(), shell.status("life").as_str()), (64, "created"));
    assert_eq!(sandbox.ok(&["start", "life"]), "life\n");
    assert_eq!(sandbox.ok(&["wait", "life"]), "7\n");
    assert_eq!(shell.status(&id[..12]), "stopped");
    let logs = sandbox.run(&["logs", "life"]);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out\n", "err\n"));
    let list = sandbox.json(&["list", "--format", "json"]);
    assert_eq!((&list[0]["name"], &list[0]["exit_code"]), (&json!("life"), &json!(7)));
    sandbox.ok(&["delete", "life"]);
    assert_eq!(sandbox.run(&["state", "life"]).code, 1);
    before.assert_same(&sandbox.listing());
    run_before.assert_same(&sandbox.run_listing());
    assert_eq!(sandbox.mounts(""), mounts);
    assert_eq!((mounts.len(), sandbox.mounts("erofs").len()), (1, 1));
    assert_eq!(cgroups_of(id), Vec::<String>::new());
}

#[test]
fn options_reach_the_container() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell =
        Shell::of(&ImageBuilder::new().environment(&["FROM=image", "BOTH=image"]).working_dir("/srv").user("user"));
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "from the host\n").unwrap();
    let list = host.path().join("list");
    fs::write(&list, "# a comment\nBOTH=file\nTHIRD=file\n").unwrap();
    let says = |options: &[&str], script: &str| shell.says(options, script);
    assert_eq!(says(&[], "id -u; id -g; pwd; echo $HOME $FROM"), "1000\n1000\n/srv\n/home/user image\n");
    assert_eq!(says(&["-u", "0", "-w", "/new/dir"], "id -u; pwd"), "0\n/new/dir\n");
    assert_eq!(says(&["-u", "1234:5678"], "id -u; id -g"), "1234\n5678\n");
    let env = ["--env-file", list.to_str().unwrap(), "-e", "THIRD=option"];
    assert_eq!(says(&env, "echo $FROM $BOTH $THIRD"), "image file option\n");
    assert_eq!(says(&["--hostname", "named"], "hostname; echo $HOSTNAME; cat /etc/hostname"), "named\nnamed\nnamed\n");
    assert_ne!(shell.run(&["--read-only", "-u", "0"], "touch /x").code, 0);
    assert_eq!(says(&["-u", "0"], "touch /x && echo written"), "written\n");
    let source = host.path().display();
    let (ro, rw) = (format!("{source}:/mnt/deep:ro"), format!("type=bind,src={source},dst=/mnt/deep"));
    assert_eq!(
        says(&["-u", "0", "-v", &ro], "cat /mnt/deep/file; touch /mnt/deep/x || echo refused"),
        "from the host\nrefused\n"
    );
    says(&["-u", "0", "--mount", &rw], "touch /mnt/deep/new");
    assert!(host.path().join("new").exists());
    // A mount point below a symlink that leads out stays inside.
    let escape = format!("{source}:/escape/stos-test-inside");
    assert_eq!(says(&["-u", "0", "-v", &escape], "cat /tmp/stos-test-inside/file"), "from the host\n");
    assert!(!std::path::Path::new("/tmp/stos-test-inside").exists());
    assert_eq!(says(&["--entrypoint", "[\"echo\", \"one\"]"], ""), "one sh -c \n");
    assert_eq!(says(&["-u", "0"], "ls /sys/class/net").trim(), "lo");
    // Other tests may make and remove some between the two looks.
    eventually("its interfaces are the host's", || {
        let interfaces = says(&["-u", "0", "--network", "host"], "ls /sys/class/net");
        interfaces.lines().count() == fs::read_dir("/sys/class/net").unwrap().count()
    });
    assert!(shell.run(&[], "cat /etc/resolv.conf").code != 0);
    assert_eq!(says(&[], "cat; echo end"), "end\n", "standard input is empty");
}

#[test]
fn volumes_of_the_image_hold_its_files_and_go_with_the_container_on_request() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::of(&ImageBuilder::new().set("/config/Volumes", json!({"/srv": {}})));
    let sandbox = &shell.sandbox;
    let id = sandbox.ok(&["create", "--name", "v", "shell:1", "sh", "-c", "cat /srv/data && echo more >> /srv/data"]);
    assert_eq!(sandbox.run(&["start", "-a", "v"]).stdout, "from the image\n");
    assert_eq!(sandbox.run(&["start", "-a", "v"]).stdout, "from the image\nmore\n");
    let dir = sandbox.data_root().join("containers").join(id.trim());
    let volumes = sandbox.names("volumes");
    assert_eq!(volumes.len(), 1);
    assert!(sandbox.data_root().join("volumes").join(&volumes[0]).join("_data/data").exists());
    assert!(!dir.join("upper/srv/data").exists());
    sandbox.ok(&["rm", "-v", "v"]);
    assert!(!dir.exists() && sandbox.names("volumes").is_empty());
}

#[test]
fn a_container_is_stopped_killed_and_started_again() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::of(&ImageBuilder::new().set("/config/StopSignal", json!("SIGUSR1")));
    let sandbox = &shell.sandbox;
    let polite = "trap 'exit 3' USR1; echo up; while :; do sleep 0.05; done";
    let id = sandbox.ok(&["run", "-d", "--name", "polite", "shell:1", "sh", "-c", polite]);
    eventually("it is up", || sandbox.ok(&["logs", "polite"]) == "up\n");
    sandbox.ok(&["start", "polite"]);
    assert_eq!(sandbox.run(&["delete", "polite"]).code, 1, "it runs");
    sandbox.ok(&["stop", "-t", "1000", "polite"]);
    assert_eq!(sandbox.ok(&["wait", "polite"]), "3\n");
    sandbox.ok(&["start", "polite"]);
    eventually("it is up again", || sandbox.ok(&["logs", "polite"]) == "up\nup\n");
    sandbox.ok(&["kill", "-s", "KILL", "polite"]);
    assert_eq!(sandbox.ok(&["wait", "polite"]), "137\n");
    sandbox.ok(&[
        "run",
        "-d",
        "--name",
        "deaf",
        "shell:1",
        "sh",
        "-c",
        "trap '' USR1; echo up; while :; do sleep 0.05; done",
    ]);
    eventually("it is up", || sandbox.ok(&["logs", "deaf"]) == "up\n");
    sandbox.ok(&["stop", "-t", "0", "deaf"]);
    assert_eq!(sandbox.ok(&["wait", "deaf"]), "137\n");
    sandbox.ok(&["delete", "-f", "polite", "deaf", "gone-already"]);
    assert_eq!(cgroups_of(id.trim()), Vec::<String>::new());
    assert_eq!(sandbox.names("containers"), Vec::<String>::new());
    assert_eq!(sandbox.names("names"), Vec::<String>::new());
}

#[test]
fn who_waits_learns_the_code_of_a_container_that_is_gone() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    sandbox.ok(&[
        "run",
        "-d",
        "--rm",
        "--name",
        "brief",
        "shell:1",
        "sh",
        "-c",
        "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done",
    ]);
    let waiter = sandbox.command().args(["wait", "brief"]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("it is up", || sandbox.ok(&["logs", "brief"]) == "up\n");
    // The waiter holds the exit record open before it sleeps.
    let exit = format!("/proc/{}/fd", waiter.id());
    let holds = || {
        fs::read_dir(&exit)
            .unwrap()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.ends_with("exit.json")))
    };
    eventually("the waiter waits", holds);
    sandbox.ok(&["kill", "-s", "TERM", "brief"]);
    let output = waiter.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "5\n");
    // Its monitor removes it when the end is written down.
    eventually("it has gone", || sandbox.names("containers").is_empty());
}

#[test]
fn a_killed_monitor_leaves_the_container_and_says_so() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let id = sandbox.ok(&["run", "-d", "--name", "orphan", "shell:1", "sleep", "1000"]);
    let state = sandbox.root().join("containers").join(id.trim()).join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
    let monitor = i32::try_from(state["creator"]["pid"].as_i64().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(monitor).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    assert_eq!(shell.status("orphan"), "running");
    sandbox.ok(&["kill", "-s", "KILL", "orphan"]);
    let waited = sandbox.run(&["wait", "orphan"]);
    assert_eq!(waited.code, 1);
    assert!(waited.stderr.contains("unknown"), "{}", waited.stderr);
    assert_eq!(shell.status("orphan"), "stopped");
    sandbox.ok(&["start", "orphan"]);
    assert_eq!(shell.status("orphan"), "running");
    sandbox.ok(&["delete", "-f", "orphan"]);
    assert_eq!(cgroups_of(id.trim()), Vec::<String>::new());
}

#[test]
fn of_two_at_once_one_wins() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let at_once = |arguments: &[&str]| {
        let spawn = || sandbox.command().args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let children: Vec<_> = (0..4).map(|_| spawn()).collect();
        children.into_iter().map(|mut child| child.wait().unwrap()).filter(|status| status.success()).count()
    };
    assert_eq!(at_once(&["create", "--name", "one", "shell:1", "sleep", "1000"]), 1);
    assert_eq!(sandbox.names("containers").len(), 1);
    assert_eq!(sandbox.names("staging"), Vec::<String>::new());
    assert_eq!(at_once(&["start", "one"]), 4, "it runs, as each of them wanted");
    let pid = sandbox.json(&["state", "one"])["pid"].as_i64().unwrap();
    assert_eq!(shell.status("one"), "running");
    let procs = cgroups_of(sandbox.json(&["state", "one"])["id"].as_str().unwrap());
    for cgroup in procs {
        let found = fs::read_to_string(format!("{cgroup}/cgroup.procs")).unwrap();
        assert_eq!(found.trim(), pid.to_string(), "{cgroup}");
    }
    sandbox.ok(&["delete", "-f", "one"]);
}

#[test]
fn a_forced_delete_wins_over_a_start() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for _ in 0..3 {
        let id = shell.sandbox.ok(&["create", "--name", "c", "shell:1", "sh", "-c", "while :; do :; done"]);
        // Whoever starts or deletes it waits for this lock; who came first goes first.
        let directory = File::open(shell.sandbox.data_root().join("containers").join(id.trim())).unwrap();
        rustix::fs::flock(&directory, FlockOperation::LockExclusive).unwrap();
        let inode = format!(":{} ", directory.metadata().unwrap().ino());
        let waiting = |count| {
            let is_one = |line: &&str| line.contains("->") && line.contains(&inode);
            eventually("they wait", || {
                fs::read_to_string("/proc/locks").unwrap().lines().filter(is_one).count() == count
            });
        };
        let spawn = |arguments: &[&str]| {
            let mut command = shell.sandbox.command();
            command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let start = spawn(&["start", "c"]);
        waiting(1);
        let delete = spawn(&["delete", "--force", "c"]);
        waiting(2);
        rustix::fs::flock(&directory, FlockOperation::Unlock).unwrap();
        let delete = delete.wait_with_output().unwrap();
        assert!(delete.status.success(), "{}", String::from_utf8_lossy(&delete.stderr));
        drop(start.wait_with_output());
        assert_eq!(shell.sandbox.names("containers"), [""; 0]);
    }
}

#[test]
fn output_is_whole_and_in_order_and_can_be_followed() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; printf 'no end'";
    sandbox.ok(&["run", "-d", "--name", "loud", "shell:1", "sh", "-c", script]);
    let followed = sandbox.ok(&["logs", "-f", "loud"]);
    let expected: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
    assert!(followed == format!("{expected}no end"), "{} bytes", followed.len());
    assert_eq!(sandbox.ok(&["wait", "loud"]), "0\n");
    let attached = shell.says(&[], script);
    assert!(attached == format!("{expected}no end"), "{} bytes", attached.len());
}

#[test]
fn users_are_looked_up_again_at_each_start() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let id = sandbox.ok(&["create", "--name", "who", "-u", "user", "shell:1", "id", "-u"]);
    assert_eq!(sandbox.run(&["start", "-a", "who"]).stdout, "1000\n");
    let upper = sandbox.data_root().join("containers").join(id.trim()).join("upper/etc");
    fs::create_dir_all(&upper).unwrap();
    fs::write(upper.join("passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:2000:2000::/:/bin/sh\n").unwrap();
    assert_eq!(sandbox.run(&["start", "-a", "who"]).stdout, "2000\n");
    fs::write(upper.join("passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    let gone = sandbox.run(&["start", "-a", "who"]);
    assert_eq!(gone.code, 125);
    assert!(gone.stderr.contains("user"), "{}", gone.stderr);
}

#[test]
fn mount_points_leave_their_parents_as_they_were() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let stat = "stat -c '%a %u %g %Y' / /etc /srv";
    let plain = shell.says(&[], stat);
    let mounted =
        shell.says(&["-v", "/tmp:/srv/made/here", "-v", "/etc/hostname:/etc/made-file", "-v", "/tmp:/made-too"], stat);
    assert_eq!(plain, mounted);
}

#[test]
fn each_stage_of_create_is_told_with_its_time() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let created = output(shell.sandbox.command().args(["--log-format", "json", "create", "shell:1"]));
    assert_eq!(created.code, 0, "{}", created.stderr);
    let events = created.stderr.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let stages: Vec<_> =
        events.filter(|event| event["ms"].is_f64()).map(|event| event["stage"].as_str().unwrap().to_owned()).collect();
    let expected =
        ["validate.manifest", "validate.config", "validate.layers", "layerfs", "filesystem", "metadata", "finalize"];
    assert_eq!(stages, expected);
}

#[test]
fn a_further_process_runs_in_a_container_of_an_image() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let (sandbox, name) = (&shell.sandbox, "exec");
    sandbox.ok(&["run", "-d", "--name", name, "-e", "OWN=1", "shell:1", "sleep", "1000"]);
    let said = sandbox.ok(&[
        "exec",
        "-e",
        "MORE=2",
        "-u",
        "user",
        "-w",
        "/srv",
        name,
        "sh",
        "-c",
        "id -u; pwd; echo $OWN $MORE; cat",
    ]);
    assert_eq!(said, "1000\n/srv\n1 2\n");
    for (command, code) in [(&["sh", "-c", "exit 9"][..], 9), (&["no-such"], 127), (&["/bin/plain"], 126)] {
        assert_eq!(sandbox.run(&[&["exec", name], command].concat()).code, code, "{command:?}");
    }
    for (arguments, said) in [
        (&["exec", "--console-socket", "s", name, "true"][..], "--console-socket"),
        (&["exec", "-u", "nobody-there", name, "true"], "nobody-there"),
        (&["exec", name], "command"),
        (&["exec", "no-such-container", "true"], "no-such-container"),
    ] {
        let refused = sandbox.run(arguments);
        assert!(
            refused.code == 125 && refused.stderr.contains(said),
            "{arguments:?}: {} {}",
            refused.code,
            refused.stderr
        );
    }
    sandbox.ok(&["kill", name, "KILL"]);
    sandbox.ok(&["wait", name]);
    assert_eq!(sandbox.run(&["exec", name, "true"]).code, 125);
}
