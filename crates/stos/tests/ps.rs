// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ps as podman has it: which containers, in what order, how they look; and templates of inspect and images.

mod sandbox;

use sandbox::Output;
use sandbox::shell::Shell;
use serde_json::json;
use stos_testkit::guard::Need;

/// A container that runs, one that has ended, one that was never started.
fn three() -> Shell {
    let shell = Shell::new();
    let create = |command: &[&str], name: &str, label: &str, script: &str| {
        let options = ["--name", name, "--label", label, "shell:1", "sh", "-c", script];
        shell.sandbox.run(&[command, &options].concat())
    };
    assert_eq!(create(&["run", "-d", "-v", "/srv:/data"], "one", "kind=a", "sleep 1000").code, 0);
    assert_eq!(create(&["run", "--network", "host"], "two", "kind=b", "exit 3").code, 3);
    assert_eq!(create(&["create"], "three", "other", ":").code, 0);
    shell
}

fn ps(shell: &Shell, options: &[&str]) -> Output {
    shell.sandbox.run(&[&["ps"], options].concat())
}

fn names(shell: &Shell, options: &[&str]) -> String {
    let shown = ps(shell, &[&["--format", "{{.Names}}"], options].concat());
    assert_eq!(shown.code, 0, "{options:?}: {}", shown.stderr);
    shown.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn containers_are_chosen_as_podman_chooses_them() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = three();
    let id = shell.sandbox.json(&["inspect", "two"])[0]["id"].as_str().unwrap().to_owned();
    let image = shell.sandbox.json(&["inspect", "shell:1"])[0]["id"].as_str().unwrap()[7..20].to_owned();
    for (options, expected) in [
        (&[][..], "one"),
        (&["-a"], "one two three"),
        (&["-l"], "three"),
        (&["-n", "2"], "two three"),
        (&["-n", "9", "--sort", "names"], "one three two"),
        (&["-a", "--sort", "status"], "three two one"),
        (&["--filter", "status=exited"], "two"),
        (&["-f", "status=stopped", "-f", "status=created"], "two three"),
        (&["-a", "-f", "label=kind"], "one two"),
        (&["-a", "-f", "label=kind=b"], "two"),
        (&["-a", "-f", "label!=kind"], "three"),
        (&["-a", "-f", "label=kind", "-f", "label=other"], ""),
        (&["-a", "-f", "name=^t", "-f", "status=created"], "three"),
        (&["-a", "-f", "name=o"], "one two"),
        (&["-a", "-f", &format!("id={}", &id[..8])], "two"),
        (&["-a", "-f", "exited=3"], "two"),
        (&["-a", "-f", "exited=0"], ""),
        (&["-a", "-f", "before=two"], "one"),
        (&["-a", "-f", "since=two"], "three"),
        (&["-a", "-f", "ancestor=shell:1"], "one two three"),
        (&["-a", "-f", &format!("ancestor={image}")], "one two three"),
        (&["-a", "-f", "ancestor=other"], ""),
        (&["-a", "-f", "volume=/data"], "one"),
        (&["-a", "-f", "volume=/srv:/data"], "one"),
        (&["-a", "-f", "volume=/srv:/other"], ""),
        (&["-a", "-f", "network=host"], "two"),
        (&["-a", "-f", "until=1h"], ""),
    ] {
        assert_eq!(names(&shell, options), expected, "{options:?}");
    }
    shell.sandbox.ok(&["pause", "one"]);
    assert_eq!(names(&shell, &[]), "", "podman's list of those that run has none that is paused");
    assert_eq!(names(&shell, &["-f", "status=paused"]), "one");
    for refused in [
        &["-f", "status=asleep"][..],
        &["-f", "exited=x"],
        &["-f", "colour=red"],
        &["-f", "name"],
        &["-f", "before=nobody"],
        &["-f", "until=soon"],
        &["-q", "-s"],
        &["-l", "-n", "1"],
        &["--sort", "colour"],
        &["--format", "{{.Colour}}", "-a"],
        &["--format", "{{.ID"],
        &["-a", "one"],
        &["-f", "status=exited", "one"],
    ] {
        assert_eq!(ps(&shell, refused).code, 1, "{refused:?}");
    }
    assert!(ps(&shell, &["-f", "json", "one"]).stdout.starts_with('['), "runc's -f");
}

#[test]
fn a_list_looks_as_it_is_asked_to() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = three();
    let id = shell.sandbox.json(&["inspect", "two"])[0]["id"].as_str().unwrap().to_owned();
    let table = ps(&shell, &["-a"]).stdout;
    let header: Vec<_> =
        table.lines().next().unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(header, ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
    assert!(table.contains("Exited (3) ") && table.contains("Up ") && table.contains("Created"), "{table}");
    assert!(ps(&shell, &["-a", "-s"]).stdout.contains("(virtual "));
    assert_eq!(ps(&shell, &["--noheading"]).stdout.lines().count(), 1);
    let of_two = |format: &str| ps(&shell, &["-f", "name=two", "-f", "status=exited", "--format", format]).stdout;
    assert_eq!(of_two("{{.ID}} {{.State}} {{.ExitCode}}"), format!("{} exited 3\n", &id[..12]));
    assert_eq!(of_two(r#"{{.Labels.kind}}\t{{.Label "kind"}}{{json .Networks}}"#), "b\tb\"host\"\n");
    assert_eq!(of_two(r"table {{.Names}}\t{{.CreatedHuman}}").lines().next().unwrap(), "NAMES  CREATED");
    assert_eq!(ps(&shell, &["-aq", "--no-trunc", "-f", "name=two"]).stdout.trim(), id);
    assert_eq!(ps(&shell, &["-q"]).stdout.trim().len(), 12);
    let rows = shell.sandbox.json(&["ps", "-a", "-s", "--format", "json"]);
    assert_eq!((&rows[0]["Names"], &rows[0]["Mounts"]), (&json!(["one"]), &json!(["/data"])));
    assert_eq!((&rows[1]["Id"], &rows[1]["ExitCode"], &rows[1]["Exited"]), (&json!(id), &json!(3), &json!(true)));
    assert!(rows[0]["Pid"].as_i64().unwrap() > 1 && rows[0]["Size"]["rootFsSize"].as_u64().unwrap() > 0);
}

#[test]
fn inspect_and_images_take_templates() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = three();
    let inspect = |format: &str| shell.sandbox.ok(&["inspect", "-f", format, "two"]);
    assert_eq!(inspect("{{.Name}} {{.State.Status}} {{.State.ExitCode}}"), "two exited 3\n");
    assert_eq!(inspect("{{index .Labels \"kind\"}} {{index .Command 2}}"), "b exit 3\n");
    assert_eq!(inspect("{{range .config.process.args}}<{{.}}>{{end}}"), "<sh><-c><exit 3>\n");
    assert_eq!(shell.sandbox.ok(&["inspect", "--format", "{{.Id}}", "shell:1"]).len(), 72);
    assert_eq!(shell.sandbox.ok(&["image", "inspect", "-f", "{{.Platform.OS}}", "shell:1"]), "linux\n");
    assert_eq!(shell.sandbox.run(&["inspect", "-f", "{{.Nothing}}", "two"]).code, 1);
    assert_eq!(shell.sandbox.run(&["inspect", "-f", "{{", "two"]).code, 1);
    assert!(shell.sandbox.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ends_with("/shell:1\n"));
    assert!(shell.sandbox.ok(&["images", "--format", "table {{.ID}}\\t{{.Size}}"]).starts_with("IMAGE ID"));
    assert_eq!(shell.sandbox.run(&["images", "--format", "{{.Colour}}"]).code, 1);
}

#[test]
fn one_whose_state_is_damaged_hides_no_other() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = three();
    let sandbox = &shell.sandbox;
    let run = |name: &str| {
        sandbox.ok(&["run", "-d", "--name", name, "shell:1", "sh", "-c", "while :; do read line </dev/zero; done"])
    };
    let (damaged, _) = (run("damaged"), run("sound"));
    let state = sandbox.root().join("containers").join(damaged.trim()).join("state.json");
    let whole = std::fs::read(&state).unwrap();
    std::fs::write(&state, &whole[..whole.len() / 2]).unwrap();
    let listed = ps(&shell, &["-a", "--format", "{{.Names}} {{.State}}"]);
    assert!(listed.stdout.contains("damaged unknown\n") && listed.stdout.contains("sound running\n"), "{listed:?}");
    assert!(listed.stderr.contains("state.json"), "{listed:?}");
    let list = sandbox.json(&["list", "--format", "json"]);
    let status =
        |name: &str| list.as_array().unwrap().iter().find(|line| line["name"] == name).unwrap()["status"].clone();
    assert_eq!(status("sound"), "running");
    assert!(list.as_array().unwrap().iter().any(|line| line["id"] == damaged.trim() && line["status"] == "unreadable"));
    assert!(sandbox.ok(&["stats", "--no-stream"]).contains("sound"));
    // What is done to all is done to the rest.
    let stopped = sandbox.run(&["stop", "--all", "--time", "0"]);
    assert!(stopped.code == 1 && stopped.stderr.contains("state.json"), "{stopped:?}");
    assert_eq!(shell.status("sound"), "stopped");
    // Its processes are found all the same.
    let process = serde_json::from_slice::<serde_json::Value>(&whole).unwrap()["init"]["pid"].to_string();
    assert!(std::path::Path::new("/proc").join(&process).exists());
    sandbox.ok(&["delete", "--force", "damaged"]);
    sandbox::shell::eventually("its process is gone", || !std::path::Path::new("/proc").join(&process).exists());
    assert_eq!(ps(&shell, &["-a", "--filter", "name=damaged", "-q"]).stdout, "");
}
