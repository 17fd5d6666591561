// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Volumes: made, filled, shared, used, and removed only when nobody has them.

mod sandbox;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use sandbox::on_both_backends;
use sandbox::shell::{Shell, eventually};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// An image with a directory of all kinds of files, `/data`.
fn data() -> ImageBuilder {
    let tar = TarBuilder::new()
        .entry(Entry::directory("data").mode(0o2750).owner(7, 8))
        .entry(Entry::file("data/f", "first\n").mode(0o4640).owner(1000, 7))
        .entry(Entry::hard_link("data/g", "data/f"))
        .entry(Entry::symlink("data/out", "/etc/passwd"))
        .entry(Entry::directory("data/sub").mode(0o711))
        .entry(Entry::file("data/sub/deep", "deep\n"))
        .entry(Entry::directory("empty"))
        .finish();
    ImageBuilder::new().layer(Layer::gzip(tar))
}

fn scene() -> Shell {
    Shell::of(&data())
}

fn files(shell: &Shell, volume: &str) -> PathBuf {
    shell.sandbox.data_root().join("volumes").join(volume).join("_data")
}

/// The volumes that there are, sorted.
fn volumes(shell: &Shell) -> Vec<String> {
    shell.sandbox.ok(&["volume", "ls", "-q"]).lines().map(str::to_owned).collect()
}

/// A command that fails: its exit code, and what it says.
#[track_caller]
fn fails(shell: &Shell, arguments: &[&str], code: u8, said: &str) {
    let output = shell.sandbox.run(arguments);
    assert_eq!(output.code, i32::from(code), "{arguments:?}: {}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains(said), "{arguments:?}: {}", output.stderr);
}

#[test]
fn volumes_are_made_listed_inspected_and_removed_as_podman_does() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    assert_eq!(sandbox.ok(&["volume", "create", "one", "--label", "a=b", "-l", "c"]), "one\n");
    let drawn = sandbox.ok(&["volume", "create"]);
    assert_eq!(drawn.trim().len(), 64);
    fails(&shell, &["volume", "create", "one"], 125, "volume with name one already exists: volume already exists");
    assert_eq!(sandbox.ok(&["volume", "create", "--ignore", "one"]), "one\n");
    assert_eq!(sandbox.ok(&["volume", "inspect", "--format", "{{.Labels.a}}", "one"]), "b\n", "it is the old one");
    let shown = sandbox.json(&["volume", "inspect", "on"]);
    assert_eq!(
        (&shown[0]["Name"], &shown[0]["Driver"], &shown[0]["Scope"]),
        (&json!("one"), &json!("local"), &json!("local"))
    );
    assert_eq!(shown[0]["Mountpoint"], json!(fs::canonicalize(files(&shell, "one")).unwrap()));
    assert_eq!(shown[0]["Labels"], json!({"a": "b", "c": ""}));
    let table = sandbox.ok(&["volume", "ls", "--filter", "label=a"]);
    assert_eq!(table, "DRIVER  VOLUME NAME\nlocal   one\n");
    assert_eq!(sandbox.ok(&["volume", "ls", "-n", "--filter", "name=one"]), "local  one\n");
    let rows = sandbox.ok(&["volume", "ls", "--filter", "label=a", "--format", "table {{.Name}}\t{{.Driver}}"]);
    assert_eq!(rows, "VOLUME NAME  DRIVER\none          local\n");
    assert_eq!(sandbox.json(&["volume", "ls", "--format", "json"]).as_array().unwrap().len(), 2);
    for (name, code) in [("one", 0), ("two", 1), ("a/b", 1)] {
        assert_eq!(sandbox.run(&["volume", "exists", name]).code, code, "{name}");
    }
    assert_eq!(sandbox.ok(&["volume", "rm", "one", drawn.trim()]), format!("one\n{drawn}"));
    assert_eq!(volumes(&shell), [""; 0]);
    fails(&shell, &["volume", "rm", "one"], 1, "no volume with name \"one\" found: no such volume");
    assert_eq!(sandbox.ok(&["volume", "rm", "-f", "one"]), "");
}

#[test]
fn what_a_volume_cannot_be_is_refused_and_leaves_nothing() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    shell.says(&[], ":");
    let before = shell.sandbox.listing();
    for (arguments, said) in [
        (&["volume", "create", "a/b"][..], "names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*"),
        (&["volume", "create", "-d", "foo", "v"], "no volume plugin with name foo available"),
        (&["volume", "create", "-o", "foo=bar", "v"], "invalid mount option foo for driver 'local': invalid argument"),
        (&["volume", "create", "-o", "type=nfs", "-o", "device=h:/x", "v"], "type=nfs"),
        (&["volume", "create", "-o", "size=1m", "v"], "size"),
        (&["volume", "create", "-o", "type=bind", "-o", "device=/no/such", "v"], "/no/such"),
        (&["volume", "ls", "--filter", "foo=bar"], "\"foo\" is an invalid volume filter"),
        (&["volume", "ls", "--filter", "dangling=x"], "must be true or false"),
        (&["volume", "inspect"], "provide one or more volume names or use --all"),
        (&["volume", "inspect", "none"], "no such volume"),
        (&["volume", "rm"], "choose either one or more volumes or all"),
        (&["create", "-v", "v:rel", "shell:1"], "invalid container path \"rel\", must be an absolute path"),
        (&["create", "-v=-v:/x", "shell:1"], "names must match"),
        (&["create", "-v", "v:/x:bogus", "shell:1"], "bogus: invalid mount option"),
        (&["create", "-v", "v:/x", "-v", "w:/x", "shell:1"], "duplicate mount destination"),
        (&["create", "-v", "v:/x", "--tmpfs", "/x", "shell:1"], "duplicate mount destination"),
        (&["create", "--mount", "type=volume,src=v,dst=/x,bogus=1", "shell:1"], "bogus: invalid mount option"),
        (&["create", "--mount", "type=glob,src=/x,dst=/x", "shell:1"], "type \"glob\" is not supported"),
        (&["create", "--mount", "type=image,src=none:1,dst=/x", "shell:1"], "none:1"),
        (&["create", "--volumes-from", "none", "shell:1"], "looking up container \"none\" for volumes-from"),
        // What fails after the volumes were made takes them back.
        (&["create", "-v", "v:/x", "-u", "nobody-here", "shell:1"], "nobody-here"),
        (&["create", "-v", "v:/x", "-v", "/y", "--sysctl", "kernel.panic=1", "shell:1"], "kernel.panic"),
    ] {
        fails(&shell, arguments, 125, said);
        before.assert_same(&without_empty(&shell));
    }
}

/// The store's listing, but for the directory of volumes where none is in it.
fn without_empty(shell: &Shell) -> stos_testkit::tree::Tree {
    let mut tree = shell.sandbox.listing();
    let has_volumes = tree.nodes.keys().any(|path| path.starts_with(b"volumes/"));
    tree.nodes.retain(|path, _| has_volumes || path != b"volumes");
    tree
}

#[test]
fn an_empty_volume_gets_the_image_s_files_once() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        let shell = scene();
        shell.sandbox.ok(&["volume", "create", "before"]);
        let script = "stat -c '%n %a %u %g %h' /data /data/f /data/g /data/sub; cat /data/sub/deep";
        let expected = "/data 2750 7 8 3\n/data/f 4640 1000 7 2\n/data/g 4640 1000 7 2\n/data/sub 711 0 0 2\ndeep\n";
        for volume in ["before", "new"] {
            assert_eq!(shell.says(&["-v", &format!("{volume}:/data")], script), expected, "{volume}");
            assert_eq!(fs::read_link(files(&shell, volume).join("out")).unwrap(), PathBuf::from("/etc/passwd"));
        }
        // What was changed stays, and what was removed does not come back.
        shell.says(&["-v", "new:/elsewhere"], "rm -r /elsewhere/*");
        assert_eq!(shell.says(&["-v", "new:/data"], "ls /data"), "");
        assert_eq!(shell.says(&["-v", "no:/data:nocopy"], "ls /data"), "");
        assert_eq!(
            shell.says(&["--mount", "src=no,dst=/data"], "ls /data"),
            "f\ng\nout\nsub\n",
            "the first use with a copy"
        );
        shell.says(&["-v", "own:/empty"], "echo own > /empty/own");
        assert_eq!(shell.says(&["-v", "own:/data"], "ls /data"), "own\n");
        let refused = shell.run(&["-v", "own:/data:ro"], "echo x > /data/x");
        assert!(refused.code != 0 && refused.stderr.contains("Read-only"), "{}", refused.stderr);
        assert!(shell.sandbox.names("staging").is_empty());
    });
}

#[test]
fn a_copy_that_was_cut_short_is_completed_at_the_next_use() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = scene();
    shell.says(&["-v", "v:/data"], ":");
    // As a crash leaves it: the record says that it has begun, one name has come, the directory is as it was made.
    let record = shell.sandbox.data_root().join("volumes/v/volume.json");
    let text = fs::read_to_string(&record).unwrap();
    assert!(text.contains("\"copy_up\": \"done\""), "{text}");
    fs::write(&record, text.replace("\"done\"", "\"begun\"")).unwrap();
    fs::remove_dir_all(files(&shell, "v").join("sub")).unwrap();
    fs::set_permissions(files(&shell, "v"), fs::Permissions::from_mode(0o755)).unwrap();
    // One who wants no copy gets none.
    assert_eq!(shell.says(&["-v", "v:/data:nocopy"], "ls /data"), "f\ng\nout\n");
    assert_eq!(shell.says(&["-v", "v:/data"], "cat /data/sub/deep; stat -c %a /data"), "deep\n2750\n");
    assert!(fs::read_to_string(&record).unwrap().contains("\"copy_up\": \"done\""));
}

#[test]
fn a_volume_that_a_container_has_is_not_removed() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let id = sandbox.ok(&["create", "--name", "c", "-v", "v:/x", "shell:1", "sleep", "1000"]);
    let said = format!("volume v is being used by the following container(s): {}: volume is being used", id.trim());
    fails(&shell, &["volume", "rm", "v"], 2, &said);
    fails(&shell, &["volume", "rm", "--all"], 2, &said);
    assert_eq!(sandbox.ok(&["volume", "prune", "--force"]), "");
    sandbox.ok(&["start", "c"]);
    fails(&shell, &["volume", "rm", "v"], 2, &said);
    assert_eq!(sandbox.ok(&["volume", "rm", "-f", "-t", "0", "v"]), "v\n");
    assert!(volumes(&shell).is_empty() && sandbox.names("containers").is_empty());
    // One whose record cannot be read may use any.
    sandbox.ok(&["volume", "create", "v"]);
    let id = sandbox.ok(&["create", "--name", "c", "shell:1"]);
    fs::write(sandbox.data_root().join("containers").join(id.trim()).join("container.json"), "{").unwrap();
    fails(&shell, &["volume", "rm", "v"], 125, "may use any volume");
    assert_eq!(sandbox.run(&["volume", "prune", "-f"]).code, 125);
    sandbox.ok(&["rm", "-f", id.trim()]);
    sandbox.ok(&["volume", "rm", "v"]);
}

#[test]
fn a_removal_and_a_creation_at_once_leave_no_container_without_its_volume() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    shell.says(&[], ":");
    for round in 0..6 {
        let name = format!("c{round}");
        std::thread::scope(|scope| {
            let creation =
                scope.spawn(|| sandbox.run(&["create", "--name", &name, "-v", "b:/b", "-v", "a:/a", "shell:1"]));
            let other = scope.spawn(|| sandbox.run(&["create", "-v", "a:/a", "-v", "b:/b", "shell:1"]));
            while !(creation.is_finished() && other.is_finished()) {
                for command in [&["volume", "rm", "a", "b"][..], &["volume", "prune", "-f"]] {
                    sandbox.run(command);
                }
            }
            for created in [creation, other] {
                let created = created.join().unwrap();
                assert_eq!(created.code, 0, "{}", created.stderr);
            }
        });
        assert_eq!(volumes(&shell), ["a", "b"]);
        sandbox.ok(&["start", "-a", &name]);
        sandbox.ok(&["rm", "--all"]);
        sandbox.ok(&["volume", "rm", "--all"]);
    }
    assert!(sandbox.names("staging").is_empty() && sandbox.names("volumes").is_empty());
}

#[test]
fn a_volume_that_cannot_be_pruned_keeps_none_of_the_rest() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    for name in ["a", "b", "c"] {
        sandbox.ok(&["volume", "create", name]);
    }
    let held = sandbox.data_root().join("volumes/b");
    let held = held.to_str().unwrap();
    sandbox::tool("mount", &["--bind", held, held]);
    let pruned = sandbox.run(&["volume", "prune", "-f"]);
    sandbox::tool("umount", &[held]);
    assert_eq!((pruned.code, pruned.stdout.as_str()), (1, "a\nc\n"), "{pruned:?}");
    assert!(pruned.stderr.contains("/b"), "{pruned:?}");
    assert_eq!(sandbox.ok(&["volume", "prune", "-f"]), "b\n");
}

#[test]
fn nobody_s_volumes_go_with_their_container_and_named_ones_stay() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::of(&data().set("/config/Volumes", json!({"/data": {}})));
    let sandbox = &shell.sandbox;
    assert_eq!(shell.says(&["-v", "/mine", "-v", "named:/n"], "cat /data/f; echo x > /mine/x"), "first\n");
    assert_eq!(volumes(&shell), ["named"], "--rm takes those that nobody has named");
    sandbox.ok(&["create", "--name", "kept", "shell:1"]);
    sandbox.ok(&["rm", "kept"]);
    let left = volumes(&shell);
    assert_eq!(left.len(), 2, "rm alone leaves them");
    assert_eq!(sandbox.ok(&["volume", "ls", "-q", "--filter", "anonymous=true"]).lines().count(), 1);
    sandbox.ok(&["volume", "prune", "-f", "--filter", "anonymous=true"]);
    sandbox.ok(&["create", "--name", "c", "-v", "/mine", "-v", "named:/n", "shell:1"]);
    // Another container keeps what is the first one's.
    sandbox.ok(&["create", "--name", "d", "--volumes-from", "c", "shell:1", "cat", "/data/f"]);
    sandbox.ok(&["rm", "-v", "c"]);
    assert_eq!(volumes(&shell).len(), 3);
    assert_eq!(sandbox.run(&["start", "-a", "d"]).stdout, "first\n");
    sandbox.ok(&["container", "rm", "-v", "d"]);
    assert_eq!(volumes(&shell), ["named"]);
}

#[test]
fn volumes_of_another_container_are_where_that_has_them() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = scene();
    let sandbox = &shell.sandbox;
    let host = sandbox.path("host");
    fs::create_dir(&host).unwrap();
    let bind = format!("{}:/host", host.display());
    sandbox.ok(&["create", "--name", "c", "-v", "v:/data", "-v", "w:/w:ro", "-v", &bind, "shell:1"]);
    let says = |options: &[&str], script: &str| shell.says(options, script);
    assert_eq!(says(&["--volumes-from", "c"], "cat /data/f; echo host > /host/x; echo v > /data/own"), "first\n");
    assert_eq!(fs::read_to_string(host.join("x")).unwrap(), "host\n");
    for script in ["echo > /data/x", "echo > /host/y"] {
        assert_ne!(shell.run(&["--volumes-from", "c:ro"], script).code, 0, "{script}");
    }
    assert_ne!(shell.run(&["--volumes-from", "c"], "echo > /w/x").code, 0, "as the other has it");
    assert_eq!(says(&["--volumes-from", "c:rw"], "echo > /w/x; ls /w"), "x\n");
    assert_eq!(
        says(&["--volumes-from", "c", "-v", "other:/data"], "ls /data"),
        "f\ng\nout\nsub\n",
        "what is named counts more"
    );
    fails(&shell, &["create", "--volumes-from", "c:bogus", "shell:1"], 125, "invalid option \"bogus\" specified");
}

#[test]
fn mounts_have_podman_s_keys() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = scene();
    let options = |mount: &str, target: &str| {
        let table = shell.says(&["--mount", mount], "cat /proc/self/mounts");
        let line =
            table.lines().find(|line| line.split(' ').nth(1) == Some(target)).unwrap_or_else(|| panic!("{table}"));
        let fields: Vec<_> = line.split(' ').collect();
        format!("{} {}", fields[2], fields[3])
    };
    let has = |found: &str, wanted: &[&str]| wanted.iter().all(|word| found.split([' ', ',']).any(|own| own == *word));
    for (mount, wanted) in [
        ("type=volume,source=v,destination=/m", &["rw", "nosuid", "nodev"][..]),
        ("src=v,target=/m,readonly", &["ro", "nosuid", "nodev"]),
        ("src=v,dst=/m,rw=false,noexec", &["ro", "noexec"]),
        ("type=tmpfs,dst=/m,tmpfs-size=1m,tmpfs-mode=700", &["tmpfs", "rw", "size=1024k", "mode=700"]),
        ("type=tmpfs,dst=/m,ro", &["tmpfs", "ro"]),
        ("type=bind,src=/tmp,dst=/m,ro,bind-propagation=rslave", &["ro"]),
    ] {
        let found = options(mount, "/m");
        assert!(has(&found, wanted), "{mount}: {found}");
    }
    assert!(!has(&options("src=v,dst=/m,suid,dev", "/m"), &["nosuid"]));
    assert_eq!(shell.says(&["--mount", "type=tmpfs,dst=/data,notmpcopyup"], "ls /data"), "");
    assert_eq!(shell.says(&["--mount", "type=volume,dst=/data"], "cat /data/f"), "first\n");
    assert_eq!(volumes(&shell), ["v"]);
}

#[test]
fn a_directory_in_a_volume_is_mounted_and_leads_nowhere_else() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = scene();
    let sandbox = &shell.sandbox;
    shell.says(&["-v", "v:/data"], "mkdir -p /data/a/b; echo in > /data/a/b/x");
    // As a container may leave them.
    for (link, to) in [("link", "/a/b"), ("up", "../../../../../etc")] {
        symlink(to, files(&shell, "v").join(link)).unwrap();
    }
    for subpath in ["a/b", "link"] {
        assert_eq!(
            shell.says(&["--mount", &format!("src=v,dst=/m,subpath={subpath}")], "cat /m/x"),
            "in\n",
            "{subpath}"
        );
    }
    let inside = shell.run(&["--mount", "src=v,dst=/m,subpath=up"], "ls /m");
    assert!(inside.code == 127 || inside.code == 125, "{inside:?}");
    assert!(inside.stderr.contains("subpath \"up\" is not in it"), "{}", inside.stderr);
    sandbox.ok(&["create", "--name", "c", "--mount", "src=v,dst=/m,subpath=a/b", "shell:1", "cat", "/m/in"]);
    let text = sandbox.path("text");
    fs::write(&text, "copied\n").unwrap();
    sandbox.ok(&["cp", text.to_str().unwrap(), "c:/m/in"]);
    assert_eq!(sandbox.run(&["start", "-a", "c"]).stdout, "copied\n");
    assert_eq!(fs::read_to_string(files(&shell, "v").join("a/b/in")).unwrap(), "copied\n");
    let source = sandbox.ok(&["inspect", "-f", "{{range .Mounts}}{{.Source}}{{end}}", "c"]);
    assert!(source.trim().ends_with("volumes/v/_data/a/b"), "{source}");
}

#[test]
fn volumes_of_the_host_and_in_memory() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = scene();
    let sandbox = &shell.sandbox;
    let host = sandbox.path("host");
    fs::create_dir(&host).unwrap();
    let device = format!("device={}", host.display());
    sandbox.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "bound"]);
    shell.says(&["-v", "bound:/data"], "ls /data; echo x > /data/x");
    assert_eq!(fs::read_to_string(host.join("x")).unwrap(), "x\n");
    sandbox.ok(&["volume", "create", "-o", "type=bind", "-o", "o=ro", "-o", &device, "read"]);
    assert_ne!(shell.run(&["-v", "read:/data"], "echo > /data/y").code, 0);

    sandbox.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=2m,nodev", "memory"]);
    let mounted = || sandbox.mounts("tmpfs").iter().filter(|path| path.ends_with("memory")).count();
    sandbox.ok(&[
        "run",
        "-d",
        "--name",
        "a",
        "-v",
        "memory:/m",
        "shell:1",
        "sh",
        "-c",
        "echo shared > /m/x; exec sleep 1000",
    ]);
    eventually("it is written", || shell.run(&["-v", "memory:/other"], "cat /other/x").stdout == "shared\n");
    assert!(
        shell
            .says(&["-v", "memory:/m:ro"], "cat /proc/self/mounts")
            .contains("/m tmpfs ro,nosuid,nodev,relatime,size=2048k")
    );
    assert_eq!(mounted(), 1);
    sandbox.ok(&["stop", "-t", "0", "a"]);
    assert_eq!(mounted(), 0, "nobody has it");
    assert_eq!(shell.says(&["-v", "memory:/m"], "ls /m"), "", "it begins anew");
    assert!(fs::read_dir(files(&shell, "memory")).unwrap().next().is_none());
    sandbox.ok(&["rm", "a"]);
    sandbox.ok(&["volume", "rm", "--all"]);
    assert!(host.join("x").exists());
    // An owner of its own.
    sandbox.ok(&["volume", "create", "-o", "o=uid=1000,gid=1000", "owned"]);
    assert_eq!(
        shell.says(&["-v", "owned:/x", "-u", "1000"], "echo > /x/y; stat -c %u:%g /x /x/y"),
        "1000:1000\n1000:1000\n"
    );
}

#[test]
fn an_image_is_mounted_in_a_container_and_kept_for_it() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        let shell = Shell::new();
        let sandbox = &shell.sandbox;
        sandbox.pull(&shell.hub.serve(&data().build(), "files", "1"));
        let mount = "type=image,src=files:1,dst=/i";
        assert_eq!(shell.says(&["--mount", mount], "cat /i/data/f; stat -c %u:%g /i/data"), "first\n7:8\n");
        assert_ne!(shell.run(&["--mount", mount], "echo > /i/data/x").code, 0);
        assert_eq!(shell.says(&["--mount", &format!("{mount},subpath=/data/sub")], "ls /i"), "deep\n");
        sandbox.ok(&[
            "create",
            "--name",
            "c",
            "--mount",
            &format!("{mount},rw=true"),
            "shell:1",
            "sh",
            "-c",
            "cat /i/data/f; echo again > /i/data/f",
        ]);
        assert_eq!(sandbox.run(&["start", "-a", "c"]).stdout, "first\n");
        assert_eq!(sandbox.run(&["start", "-a", "c"]).stdout, "again\n");
        assert_eq!(shell.says(&["--mount", mount], "cat /i/data/f"), "first\n", "what one writes no other sees");
        let users = ["--uidmap", "0:300000:65536", "--mount", mount];
        assert_eq!(shell.says(&users, "stat -c %u:%g /i/data; touch /i/x || echo refused"), "7:8\nrefused\n");
        // The image is in use, and its layers outlive its name.
        fails(&shell, &["rmi", "files:1"], 1, "is used by container c");
        assert_eq!(sandbox.ok(&["image", "prune", "-a", "-f"]), "");
        sandbox.ok(&["rmi", "-f", "files:1"]);
        sandbox.ok(&["system", "gc"]);
        sandbox.ok(&["system", "check"]);
        assert_eq!(sandbox.run(&["start", "-a", "c"]).stdout, "again\n");
        let out = sandbox.path("out");
        sandbox.ok(&["cp", "c:/i/data/f", out.to_str().unwrap()]);
        assert_eq!(fs::read_to_string(&out).unwrap(), "again\n");
        let shown = sandbox.json(&["inspect", "c"])[0]["Mounts"][0].clone();
        assert_eq!(
            (&shown["Type"], &shown["Destination"], &shown["RW"]),
            (&json!("image"), &json!("/i"), &json!(true))
        );
        sandbox.ok(&["rm", "c"]);
        assert!(sandbox.ok(&["system", "gc"]).contains("layer"));
    });
}

#[test]
fn volumes_are_told_by_inspect_ps_df_and_prune() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = scene();
    let sandbox = &shell.sandbox;
    sandbox.ok(&["create", "--name", "c", "-v", "v:/data:ro", "-v", "/tmp:/t:rslave", "shell:1"]);
    sandbox.ok(&["create", "--name", "d", "-v", "w:/w", "shell:1"]);
    let mounts = sandbox.json(&["inspect", "c"])[0]["Mounts"].clone();
    let source = fs::canonicalize(files(&shell, "v")).unwrap();
    assert_eq!(
        mounts[0],
        json!({"Type": "volume", "Name": "v", "Source": source, "Destination": "/data", "Driver": "local", "Mode": "",
            "Options": ["rbind", "nosuid", "nodev"], "RW": false, "Propagation": "rprivate"})
    );
    assert_eq!(
        (&mounts[1]["Type"], &mounts[1]["RW"], &mounts[1]["Propagation"]),
        (&json!("bind"), &json!(true), &json!("rslave"))
    );
    assert_eq!(mounts.as_array().unwrap().len(), 2);
    for (filter, expected) in [("volume=v", "c\n"), ("volume=/w", "d\n"), ("volume=v:/data", "c\n"), ("volume=x", "")] {
        assert_eq!(sandbox.ok(&["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]), expected, "{filter}");
    }
    sandbox.ok(&["volume", "create", "unused", "--label", "keep"]);
    fs::write(files(&shell, "unused").join("x"), vec![1; 100_000]).unwrap();
    let usage = sandbox.json(&["system", "df", "--format", "json"]);
    let row = &usage["summary"]["volumes"];
    assert_eq!((&row["total"], &row["active"]), (&json!(3), &json!(2)));
    assert!(
        row["reclaimable"].as_u64().unwrap() >= 100_000 && row["reclaimable"].as_u64() < row["size"].as_u64(),
        "{row}"
    );
    let verbose = sandbox.ok(&["system", "df", "-v"]);
    assert!(verbose.contains("Local Volumes  3      2"), "{verbose}");
    assert!(verbose.lines().any(|line| line.starts_with("unused       0")), "{verbose}");
    assert_eq!(sandbox.ok(&["volume", "ls", "-q", "--filter", "dangling=true"]), "unused\n");
    assert_eq!(sandbox.ok(&["volume", "prune", "-f", "--filter", "label!=keep"]), "");
    assert_eq!(sandbox.run(&["volume", "prune"]).code, 125, "nobody answers");
    let pruned = sandbox.run(&["volume", "prune", "-f"]);
    assert_eq!(pruned.stdout, "unused\n");
    assert!(pruned.stderr.starts_with("Freed: 1"), "{}", pruned.stderr);
    // Containers first, so that their volumes can go too.
    assert_eq!(sandbox.ok(&["system", "prune", "-f", "--filter", "label=none"]), "");
    let pruned = sandbox.ok(&["system", "prune", "-f", "--volumes"]);
    assert!(pruned.contains("Deleted Containers\n") && pruned.ends_with("Deleted Volumes\nv\nw\n"), "{pruned}");
    assert!(sandbox.names("containers").is_empty() && sandbox.run(&["image", "exists", "shell:1"]).code == 0);
    assert!(sandbox.ok(&["system", "prune", "-a", "-f"]).starts_with("Deleted Images\n"));
    assert_eq!(sandbox.run(&["image", "exists", "shell:1"]).code, 1);
}

#[test]
fn a_container_with_users_of_its_own_writes_to_its_volumes() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = scene();
    let mapped = ["--uidmap", "0:300000:65536", "-v", "v:/data"];
    let script = "stat -c %u:%g /data /data/f; echo x > /data/x; stat -c %u:%g /data/x";
    assert_eq!(shell.says(&mapped, script), "7:8\n1000:7\n0:8\n");
    let owner = |name: &str| {
        let found = fs::metadata(files(&shell, "v").join(name)).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!((owner("x"), owner("f")), ((0, 8), (1000, 7)), "on disk as the container sees it");
    fs::set_permissions(files(&shell, "v"), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(shell.says(&[&mapped[..], &["-u", "5:6"]].concat(), "echo y > /data/y; stat -c %u:%g /data/y"), "5:6\n");
    for options in [&["--uidmap", "0:500000:65536"][..], &[]] {
        let said = shell.says(&[options, &["-v", "v:/data"]].concat(), "stat -c %u:%g /data/y");
        assert_eq!((said.as_str(), owner("y")), ("5:6\n", (5, 6)), "whatever its ids are outside");
    }
    fails(&shell, &["create", "-v", "v:/data:U", "shell:1"], 125, "\"U\" is not supported");
}

#[test]
fn a_check_knows_volumes() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    sandbox.ok(&["create", "--name", "c", "-v", "lost:/x", "shell:1"]);
    for volume in ["sound", "record", "files"] {
        sandbox.ok(&["volume", "create", volume]);
    }
    sandbox.ok(&["system", "check"]);
    let dir = sandbox.data_root().join("volumes");
    fs::write(dir.join("record/volume.json"), "{").unwrap();
    fs::remove_dir(dir.join("files/_data")).unwrap();
    fs::remove_dir_all(dir.join("lost")).unwrap();
    let checked = sandbox.run(&["system", "check", "--format", "json"]);
    let report: Value = serde_json::from_str(&checked.stdout).unwrap();
    let of = |name: &str| {
        let objects = report["objects"].as_array().unwrap();
        objects.iter().find(|object| object["object"] == "volume" && object["id"] == name).cloned()
    };
    assert!(checked.code != 0 && of("sound").is_none());
    for (name, problem) in [("record", "unreadable"), ("files", "missing"), ("lost", "missing")] {
        let finding = of(name).unwrap_or_else(|| panic!("{name}: {report}"))["findings"][0].clone();
        assert_eq!(finding["problem"], problem, "{name}: {finding}");
    }
    assert_eq!(of("lost").unwrap()["findings"][0]["containers"], json!(["c"]));
    fails(&shell, &["start", "c"], 125, "_data");
    fails(&shell, &["volume", "inspect", "record"], 125, "volume.json is damaged");
    sandbox.ok(&["volume", "rm", "record", "files"]);
    sandbox.ok(&["volume", "create", "lost"]);
    sandbox.ok(&["system", "check"]);
}

#[test]
fn exists_tells_by_its_exit_code() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let empty = sandbox::Sandbox::new();
    for group in ["image", "container", "volume"] {
        assert_eq!(empty.run(&[group, "exists", "x"]).code, 1, "{group}");
    }
    assert!(!empty.data_root().exists(), "who only asks makes no store");
    let shell = Shell::new();
    let id = shell.sandbox.ok(&["create", "--name", "c", "shell:1"]);
    for (group, name, code) in [
        ("image", "shell:1", 0),
        ("image", "shell:2", 1),
        ("container", "c", 0),
        ("container", &id.trim()[..5], 0),
        ("container", "none", 1),
    ] {
        let output = shell.sandbox.run(&[group, "exists", name]);
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (code, "", ""), "{group} {name}");
    }
    assert_eq!(shell.sandbox.run(&["container", "exists", "--external", "none"]).code, 1);
    assert_eq!(shell.sandbox.run(&["image", "exists"]).code, 1, "a line that cannot be read");
}
