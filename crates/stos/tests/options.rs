// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The options of create and run: what each gives the container, and which values it refuses.

mod sandbox;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use sandbox::shell::Shell;
use sandbox::{Output, output};
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// `create OPTIONS shell:1 true`, which must leave DATA-ROOT as it was.
#[track_caller]
fn refused(shell: &Shell, options: &[&str]) -> Output {
    let before = shell.sandbox.listing();
    let output = shell.sandbox.run(&[&["create"], options, &["shell:1", "sh"]].concat());
    assert_ne!(output.code, 0, "{options:?} was accepted");
    before.assert_same(&shell.sandbox.listing());
    output
}

#[track_caller]
fn refused_with_125(shell: &Shell, options: &[&str], said: &str) {
    let output = refused(shell, options);
    assert_eq!(output.code, 125, "{options:?}: {}", output.stderr);
    assert!(output.stderr.contains(said), "{options:?}: {}", output.stderr);
}

#[test]
fn names_are_checked_and_belong_to_one() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let id = shell.sandbox.ok(&["create", "--name", "mine", "shell:1"]);
    refused_with_125(&shell, &["--name", "mine"], &id.trim()[..12]);
    for name in ["", ".", "..", "a/b", "../x", "-x", "a b", "ä"] {
        refused_with_125(&shell, &[&format!("--name={name}")], "--name");
    }
    assert_eq!(shell.sandbox.names("names"), ["mine"]);
    shell.sandbox.ok(&["delete", "mine"]);
    shell.sandbox.ok(&["create", "--name", "mine", "shell:1"]);
}

#[test]
fn a_container_is_found_by_id_name_and_beginning() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let ids: Vec<_> = (0..17).map(|_| shell.sandbox.ok(&["create", "shell:1"]).trim().to_owned()).collect();
    // 17 ids have 16 first digits: two of them begin alike.
    let shared = (0..16).map(|digit| format!("{digit:x}")).find(|digit| {
        let count = ids.iter().filter(|id| id.starts_with(digit.as_str())).count();
        count > 1
    });
    let ambiguous = shell.sandbox.run(&["state", &shared.unwrap()]);
    assert_eq!(ambiguous.code, 1);
    assert!(ambiguous.stderr.contains("may mean any of"), "{}", ambiguous.stderr);
    let state = shell.sandbox.json(&["state", &ids[3][..20]]);
    assert_eq!(state["id"], json!(ids[3]));
    let name = state["annotations"]["dev.stos.name"].as_str().unwrap();
    assert_eq!(shell.sandbox.json(&["state", name])["id"], json!(ids[3]));
    for nothing in ["", "no-such", "../names", "0000000000000000000000000000000000000000000000000000000000000000"] {
        let output = shell.sandbox.run(&["state", nothing]);
        assert_eq!(output.code, 1, "{nothing:?}: {}", output.stdout);
    }
}

#[test]
fn pull_follows_its_policy() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let reference = format!("{}/shell:1", shell.hub.registry.address());
    let newer = ImageBuilder::new().layer(Layer::plain(rootfs::host_shell().unwrap())).command(&["echo", "newer"]);
    shell.hub.serve(&newer.build(), "shell", "1");
    let run = |pull: &str| {
        shell.hub.registry.take_requests();
        let ran = sandbox.ok(&["run", "--rm", "--tls-verify=false", "--pull", pull, &reference, "sh", "-c", "ls /srv"]);
        (ran, shell.hub.registry.take_requests().len())
    };
    assert_eq!(run("never"), ("data\n".to_owned(), 0));
    assert_eq!(run("missing"), ("data\n".to_owned(), 0));
    // The layers are known: manifest and configuration come, no layer does.
    shell.hub.registry.take_requests();
    assert_eq!(
        sandbox.ok(&[
            "run",
            "--rm",
            "--tls-verify=false",
            "--pull",
            "always",
            &reference,
            "sh",
            "-c",
            "test -e /srv || echo newer"
        ]),
        "newer\n"
    );
    let layer = &shell.image.diff_ids[0];
    let fetched = shell.hub.take_blob_requests();
    assert!(!fetched.is_empty() && !fetched.iter().any(|blob| blob.contains(layer)), "{fetched:?}");
    sandbox.ok(&["rmi", "--force", &reference]);
    let missing = sandbox.run(&["run", "--rm", "--pull", "never", &reference, "true"]);
    assert_eq!(missing.code, 125);
    assert!(missing.stderr.contains("hint:"), "{}", missing.stderr);
    assert_eq!(sandbox.ok(&["run", "--rm", "--tls-verify=false", &reference]), "newer\n");
}

#[test]
fn a_registry_that_is_not_there_is_125() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let before = shell.sandbox.listing();
    // Nobody listens there. One that was free a moment ago may be another test's by now.
    let gone = "127.0.0.1:1/app:1";
    let output = shell.sandbox.run(&["create", "--tls-verify=false", gone]);
    assert_eq!(output.code, 125, "{}", output.stderr);
    assert!(output.stderr.contains(gone), "{}", output.stderr);
    before.assert_same(&shell.sandbox.listing());
}

#[test]
fn another_platform_is_refused_or_fetched() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    refused_with_125(&shell, &["--pull=never", "--platform", "linux/s390x"], "linux/s390x");
    refused_with_125(&shell, &["--platform", "plan9"], "plan9");
    refused_with_125(&shell, &["--platform", "//"], "platform");
}

#[test]
fn verify_looks_as_closely_as_it_is_told() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for how in ["sealed", "full", "none"] {
        shell.says(&["--verify", how], ":");
    }
    refused_with_125(&shell, &["--verify", "hard"], "hard");
    // Bytes change and size and times stay: silent rot, which the seal cannot see.
    let tar = shell.sandbox.layer_dir(&shell.image.diff_ids[1]).join("layer.tar");
    let metadata = fs::metadata(&tar).unwrap();
    let mut bytes = fs::read(&tar).unwrap();
    let at = bytes.windows(14).position(|window| window == b"from the image").unwrap();
    bytes[at] ^= 0x20;
    fs::write(&tar, &bytes).unwrap();
    let damaged = shell.sandbox.run(&["create", "--verify", "none", "shell:1"]);
    assert_eq!(damaged.code, 0, "{}", damaged.stderr);
    for how in ["full", "sealed"] {
        let found = shell.sandbox.run(&["create", "--verify", how, "shell:1"]);
        assert_eq!(found.code, 125, "{how}");
        assert!(found.stderr.contains(&shell.image.diff_ids[1]), "{}", found.stderr);
    }
    bytes[at] ^= 0x20;
    fs::write(&tar, &bytes).unwrap();
    assert_eq!(fs::metadata(&tar).unwrap().ino(), metadata.ino());
    // Right again, though its times differ: hashed once and sealed again.
    shell.says(&["--verify", "sealed"], ":");
}

#[test]
fn the_environment_is_put_together() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::of(&ImageBuilder::new().environment(&["FROM=image", "SPACE= a b "]));
    let env = |options: &[&str]| shell.says(options, "env").lines().map(str::to_owned).collect::<Vec<_>>();
    let plain = env(&[]);
    for entry in
        ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "FROM=image", "SPACE= a b "]
    {
        assert!(plain.iter().any(|line| line == entry), "{entry}: {plain:?}");
    }
    let id = shell.says(&[], "hostname; echo $HOSTNAME");
    let (hostname, variable) = id.trim().split_once('\n').unwrap();
    assert!(hostname == variable && hostname.len() == 12, "{id}");
    // Nothing of ours gets in, but what is passed on by name.
    let run = |names: &[&str]| {
        let mut run = shell.sandbox.command();
        run.env("STOS_TEST_PASSED", "on").args(["run", "--rm"]);
        run.args(names.iter().flat_map(|name| ["-e", name]));
        output(run.args(["shell:1", "env"])).stdout
    };
    assert!(!run(&[]).contains("STOS_TEST"));
    assert!(run(&["STOS_TEST_PASSED", "STOS_TEST_NOT_SET"]).contains("STOS_TEST_PASSED=on\n"));
    assert!(!run(&["STOS_TEST_NOT_SET"]).contains("STOS_TEST_NOT_SET"));
    assert!(
        env(&["-e", "EMPTY=", "-e", "A=b=c"])
            .iter()
            .filter(|line| ["EMPTY=", "A=b=c"].contains(&line.as_str()))
            .count()
            == 2
    );
    assert!(env(&["-e", "HOME=/elsewhere"]).contains(&"HOME=/elsewhere".to_owned()));
    refused_with_125(&shell, &["-e", "=x"], "=x");
    refused_with_125(&shell, &["-e", ""], "expected NAME");
    refused_with_125(&shell, &["--env-file", "/no/such/file"], "/no/such/file");
    let list = shell.sandbox.path("list");
    for (bad, said) in [(&b"=x"[..], "expected NAME"), (b"A=\xff", "utf-8"), (b"A=\0", "NUL")] {
        fs::write(&list, [b"GOOD=1\n# comment\n", bad].concat()).unwrap();
        let refused = refused(&shell, &["--env-file", list.to_str().unwrap()]);
        assert!(refused.stderr.contains(&format!("{} line 3: ", list.display())), "{}", refused.stderr);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    let mut odd = shell.sandbox.command();
    odd.env("ODD", std::ffi::OsStr::from_bytes(b"\xff")).args(["create", "-e", "ODD", "shell:1"]);
    let odd = output(&mut odd);
    assert_eq!(odd.code, 125);
    assert!(odd.stderr.contains("ODD") && odd.stderr.contains("unicode"), "{}", odd.stderr);
}

#[test]
fn a_working_directory_is_made_inside() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    assert_eq!(shell.says(&["-w", "/made/deep"], "pwd; stat -c %a:%u /made /made/deep"), "/made/deep\n755:0\n755:0\n");
    let inside = format!("/escape/stos-cwd-{}", std::process::id());
    // /escape leads out of the image by its text; as a container sees it it is its own /tmp.
    assert_eq!(shell.says(&["-w", &inside], "test -d /tmp/stos-cwd-* && echo inside"), "inside\n");
    assert!(!Path::new("/tmp").join(inside.trim_start_matches("/escape/")).exists());
    refused_with_125(&shell, &["-w", "relative"], "relative");
    let file = shell.run(&["-w", "/srv/data"], ":");
    assert!((125..=127).contains(&file.code), "{}: {}", file.code, file.stderr);
    assert!(file.stderr.contains("/srv/data"), "{}", file.stderr);
}

#[test]
fn users_are_numbers_or_names_of_the_image() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for (user, expected) in [
        ("0", "0:0"),
        ("1000", "1000:1000"),
        ("user", "1000:1000"),
        ("user:root", "1000:0"),
        ("user:7", "1000:7"),
        ("4242", "4242:0"),
        ("4242:user", "4242:1000"),
        ("4294967294:4294967294", "4294967294:4294967294"),
    ] {
        assert_eq!(shell.says(&["-u", user], "echo $(id -u):$(id -g)").trim(), expected, "{user}");
    }
    assert_eq!(shell.says(&["-u", "user"], "echo $HOME"), "/home/user\n");
    assert_eq!(shell.says(&["-u", "4242"], "echo $HOME"), "/\n");
    for user in ["nobody-here", "user:no-such-group", "4294967295", "4294967296", "18446744073709551616", "-1", ":1"] {
        refused_with_125(&shell, &[&format!("--user={user}")], "user");
    }
}

#[test]
fn the_entrypoint_is_replaced_as_podman_does() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::of(&ImageBuilder::new().entrypoint(&["echo", "entry"]));
    let run = |options: &[&str], command: &[&str]| {
        shell.sandbox.ok(&[&["run", "--rm"], options, &["shell:1"], command].concat())
    };
    assert_eq!(run(&[], &[]), "entry /bin/sh\n");
    assert_eq!(run(&[], &["-l", "--rm", "--", "x"]), "entry -l --rm -- x\n", "what follows the image is the command's");
    assert_eq!(run(&["--entrypoint", "id"], &["-u"]), "0\n");
    assert_eq!(run(&["--entrypoint", "[\"echo\",\"a b\"]"], &["c"]), "a b c\n");
    assert_eq!(run(&["--entrypoint", ""], &["echo", "none"]), "none\n");
    let word = shell.sandbox.run(&["create", "--entrypoint", "[", "shell:1"]);
    assert_eq!(word.code, 127, "one word, as podman has it: {}", word.stderr);
    let nothing = shell.sandbox.run(&["create", "--entrypoint", "", "shell:1"]);
    assert_eq!(nothing.code, 125);
    assert!(nothing.stderr.contains("hint:"), "{}", nothing.stderr);
}

#[test]
fn hostnames_and_labels_are_checked() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::of(&ImageBuilder::new().set("/config/Labels", json!({"from": "image", "both": "image"})));
    for hostname in ["", "a b", "a/b", &"x".repeat(65)] {
        refused_with_125(&shell, &["--hostname", hostname], "--hostname");
    }
    refused_with_125(&shell, &["--label", "=value"], "--label");
    shell.sandbox.ok(&[
        "create",
        "--name",
        "labelled",
        "-l",
        "both=option",
        "--label",
        "key=a=b",
        "-l",
        "bare",
        "shell:1",
    ]);
    let labels = &shell.sandbox.json(&["inspect", "labelled"])[0]["labels"];
    assert_eq!(*labels, json!({"from": "image", "both": "option", "key": "a=b", "bare": ""}));
    assert_eq!(
        shell
            .says(&["--hostname", "web-1.x"], "cat /etc/hosts")
            .lines()
            .filter(|line| line.ends_with("web-1.x"))
            .count(),
        1
    );
}

#[test]
fn a_read_only_root_still_takes_mounts() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let host = tempfile::tempdir().unwrap();
    let volume = format!("{}:/not/there", host.path().display());
    let script = "touch /x 2>/dev/null || echo root; touch /not/there/x && echo volume; touch /dev/shm/x && echo shm";
    assert_eq!(shell.says(&["--read-only", "-v", &volume], script), "root\nvolume\nshm\n");
    assert!(host.path().join("x").exists());
}

#[test]
fn bind_mounts_show_the_host_s_files_as_asked() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "host\n").unwrap();
    fs::create_dir(host.path().join("dir")).unwrap();
    symlink("file", host.path().join("link")).unwrap();
    let at = |name: &str| host.path().join(name).display().to_string();
    // A file on a file, a file where nothing is, a directory where a directory is, a source that is a symlink.
    let (existing, missing) = (format!("{}:/srv/data", at("file")), format!("{}:/new/file", at("file")));
    let (directory, linked) = (format!("{}:/srv", at("dir")), format!("{}:/l", at("link")));
    assert_eq!(shell.says(&["-v", &existing, "-v", &missing], "cat /srv/data /new/file"), "host\nhost\n");
    assert_eq!(shell.says(&["-v", &directory], "ls /srv; touch /srv/made"), "");
    assert!(host.path().join("dir/made").exists());
    assert_eq!(shell.says(&["-v", &linked], "cat /l"), "host\n");
    // A later mount lies in an earlier one, whatever their order.
    assert_eq!(
        shell.says(&["-v", &format!("{}:/srv/dir/f", at("file")), "-v", &directory], "cat /srv/dir/f"),
        "host\n"
    );
    for (option, writes) in [("ro", false), ("rw", true)] {
        let volume = format!("{}:/srv:{option}", at("dir"));
        assert_eq!(shell.run(&["-v", &volume], "echo x > /srv/written").code == 0, writes, "{option}");
        let mount = format!("type=bind,source={},target=/srv,{option}", at("dir"));
        assert_eq!(shell.run(&["--mount", &mount], "echo x > /srv/written").code == 0, writes, "--mount {option}");
    }
    // Ours stays where /etc is the user's own, unless it would have to be made there.
    fs::create_dir(host.path().join("etc")).unwrap();
    fs::write(host.path().join("etc/hosts"), "host\n").unwrap();
    let etc = format!("{}:/etc:ro", at("etc"));
    let seen = shell.says(&["--hostname", "mine", "-v", &etc], "cat /etc/hosts; test -e /etc/hostname || echo none");
    assert!(seen.contains("mine") && seen.ends_with("none\n"), "{seen}");
    assert_eq!(fs::read_dir(host.path().join("etc")).unwrap().count(), 1);
    // /etc/hosts of one's own takes the place of ours.
    assert_eq!(shell.says(&["-v", &format!("{}:/etc/hosts", at("file"))], "cat /etc/hosts"), "host\n");
}

#[test]
fn a_read_only_bind_is_read_only_below_too() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("mount"), Need::Tool("unshare"));
    let shell = Shell::new();
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("sub")).unwrap();
    // In a mount namespace of its own: a mount below the source.
    let script = format!(
        "mount -t tmpfs tmpfs {source}/sub && exec {stos} --data-root {data} --root {run} run --rm --network none -v {source}:/mnt:ro shell:1 \
         sh -c 'touch /mnt/a || touch /mnt/sub/b || echo refused'",
        source = host.path().display(),
        stos = stos_testkit::environment::stos().display(),
        data = shell.sandbox.data_root().display(),
        run = shell.sandbox.root().display(),
    );
    shell.says(&[], ":");
    let ran = output(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "refused\n"), "{}", ran.stderr);
}

#[test]
fn mounts_that_cannot_be_are_refused() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for (option, value, said) in [
        ("-v", "/no/such:/x", "/no/such"),
        ("-v", "na/med:/x", "names must match"),
        ("-v", "named", "absolute path"),
        ("-v", "/tmp:relative", "relative"),
        ("-v", "/tmp:/../x", ".."),
        ("-v", "/tmp:/", "target"),
        ("-v", "/tmp:/x:z", "\"z\""),
        ("-v", "/tmp:/x:ro:rw", "expected"),
        ("--mount", "type=bind,src=/tmp,dst=/taken/,ro", "duplicate mount destination"),
        ("--mount", "type=bind,src=/no/such,dst=/x", "/no/such"),
        ("--mount", "type=volume,src=named,dst=/taken", "duplicate mount destination"),
        ("--mount", "type=glob,src=/tmp,dst=/x", "glob"),
        ("--mount", "type=bind,src=/tmp", "dst"),
        ("--mount", "type=bind,src=/tmp,dst=/x,colour=red", "colour"),
    ] {
        refused_with_125(&shell, &["-v", "/tmp:/taken", option, value], said);
    }
    // Before anything is fetched.
    shell.hub.registry.take_requests();
    let absent = format!("{}/absent:1", shell.hub.registry.address());
    for options in [["-v", "/no/such:/x"], ["-u", "4294967296"]] {
        let refused = shell.sandbox.run(&[&["create", "--tls-verify=false"], &options[..], &[&absent]].concat());
        assert_eq!(refused.code, 125);
        assert!(refused.stderr.contains(options[1].split(':').next().unwrap()), "{}", refused.stderr);
    }
    assert_eq!(shell.hub.registry.take_requests(), Vec::<String>::new());
}

#[test]
fn targets_through_symlinks_stay_inside() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "host\n").unwrap();
    let name = format!("stos-target-{}", std::process::id());
    let directory = format!("{}:/escape/{name}/deep", host.path().display());
    assert_eq!(shell.says(&["-v", &directory], &format!("cat /tmp/{name}/deep/file")), "host\n");
    let file = format!("{}:/escape/{name}", host.path().join("file").display());
    assert_eq!(shell.says(&["-v", &file], &format!("cat /tmp/{name}")), "host\n");
    assert!(!Path::new("/tmp").join(name).exists());
}

#[test]
fn networks_are_none_or_the_host_s() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let interfaces = shell.says(&[], "cat /proc/net/dev; cat /sys/class/net/lo/flags");
    assert_eq!(interfaces.lines().filter(|line| line.contains(": ")).count(), 1, "{interfaces}");
    let flags = interfaces.lines().last().unwrap().trim_start_matches("0x");
    assert_eq!(u32::from_str_radix(flags, 16).unwrap() & 1, 1, "lo is up (IFF_UP)");
    assert_eq!(shell.says(&[], "test -e /etc/resolv.conf || echo none"), "none\n");
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(shell.says(&["--network", "host"], "cat /etc/resolv.conf"), host);
    let namespace = fs::read_link("/proc/self/ns/net").unwrap();
    let inside = |network: &str| shell.says(&["--network", network], "ls -l /proc/self/ns/net");
    assert!(inside("host").contains(namespace.to_str().unwrap()));
    assert!(!inside("none").contains(namespace.to_str().unwrap()));
    refused_with_125(&shell, &["--network", "pasta"], "pasta");
}

#[test]
fn volumes_of_the_image_are_anonymous() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let top = TarBuilder::new()
        .entry(Entry::directory("vol").mode(0o750).owner(1000, 1000))
        .entry(Entry::file("vol/f", "first\n").mode(0o640).owner(1000, 7))
        .entry(Entry::hard_link("vol/g", "vol/f"))
        .entry(Entry::symlink("vol/out", "/etc/passwd"))
        .finish();
    let builder = ImageBuilder::new()
        .set("/config/Volumes", json!({"/vol": {}, "/fresh/volume/": {}, "/srv": {}}))
        .layer(Layer::gzip(top));
    let shell = Shell::of(&builder);
    let script = "stat -c '%n %a %u %g %h' /vol /vol/f /vol/g; cat /vol/out | head -c 4; stat -c %a /fresh/volume";
    let found = shell.says(&[], script);
    assert_eq!(found, "/vol 750 1000 1000 2\n/vol/f 640 1000 7 2\n/vol/g 640 1000 7 2\nroot755\n");
    // Two containers share nothing, and a mount of the user's takes a volume's place.
    shell.says(&[], "echo changed > /vol/f");
    assert_eq!(shell.says(&[], "cat /vol/f"), "first\n");
    let host = tempfile::tempdir().unwrap();
    let id = shell.sandbox.ok(&["create", "-v", &format!("{}:/vol", host.path().display()), "shell:1"]);
    assert_eq!(shell.sandbox.names("volumes").len(), 2);
    shell.sandbox.ok(&["delete", "--volumes", id.trim()]);
    assert!(shell.sandbox.names("volumes").is_empty() && shell.sandbox.names("containers").is_empty());
    assert!(host.path().exists());
}
