// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `system check` says of containers: records, directories, names, and files that were replaced below one that runs.

mod health_scene;
mod sandbox;

use std::fs;
use std::os::unix::fs::symlink;

use health_scene::{Damage, check_in, damage, findings};
use sandbox::shell::Shell;
use serde_json::{Value, json};
use stos_testkit::guard::Need;

/// The only finding of a report.
#[track_caller]
fn only(report: &Value) -> Value {
    let found = findings(report);
    assert_eq!(found.len(), 1, "{report:#}");
    found[0].1.clone()
}

#[test]
fn what_a_container_is_made_of_is_looked_at() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let id = sandbox.ok(&["create", "--name", "web", "shell:1", "echo"]);
    let place = format!("containers/{}", id.trim());
    let dir = sandbox.data_root().join(&place);
    // What nothing else has is named, with a way out, and stays.
    for file in ["config.json", "container.json"] {
        let good = fs::read(dir.join(file)).unwrap();
        for how in [Damage::Empty, Damage::Cut, Damage::Remove] {
            damage(&dir.join(file), how);
            let (code, report) = check_in(sandbox, &[]);
            let finding = only(&report);
            assert_eq!((code, &finding["path"]), (1, &json!(format!("{place}/{file}"))), "{report:#}");
            assert_eq!(finding["outcome"]["state"], "found");
            let (code, report) = check_in(sandbox, &["--repair"]);
            let outcome = &only(&report)["outcome"];
            assert_eq!((code, &outcome["state"]), (1, &json!("stays")), "{report:#}");
            assert!(outcome["why"].as_str().unwrap().contains("delete"), "{report:#}");
            fs::write(dir.join(file), &good).unwrap();
        }
    }
    // What is empty when nothing runs is made again.
    damage(&dir.join("work"), Damage::Remove);
    let (code, report) = check_in(sandbox, &[]);
    assert_eq!((code, &only(&report)["path"]), (1, &json!(format!("{place}/work"))));
    assert_eq!(check_in(sandbox, &["--repair"]).0, 0);
    assert_eq!(check_in(sandbox, &[]).1["objects"], json!([]));
    sandbox.ok(&["start", "-a", "web"]);
    damage(&dir.join("upper"), Damage::Remove);
    let (code, report) = check_in(sandbox, &["--repair"]);
    assert_eq!((code, &only(&report)["outcome"]["state"]), (1, &json!("stays")));
    sandbox.ok(&["delete", "web"]);
    assert_eq!(check_in(sandbox, &["--full"]).1["objects"], json!([]));
}

#[test]
fn a_record_that_contradicts_its_place_or_itself_is_damaged_and_nothing_is_made_for_it() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let id = sandbox.ok(&["create", "--name", "web", "shell:1", "echo"]).trim().to_owned();
    let path = sandbox.data_root().join("containers").join(&id).join("container.json");
    let good = fs::read(&path).unwrap();
    let other = |digits: &str| digits.chars().rev().collect::<String>();
    for key in ["id", "chain", "layers"] {
        let mut record: Value = serde_json::from_slice(&good).unwrap();
        record[key] = match key {
            "id" => json!(other(&id)),
            "chain" => json!(format!("sha256:{}", other(record[key].as_str().unwrap().trim_start_matches("sha256:")))),
            _ => json!([]),
        };
        fs::write(&path, record.to_string()).unwrap();
        let (code, report) = check_in(sandbox, &[]);
        let finding = only(&report);
        assert_eq!((code, &finding["problem"]), (1, &json!("unreadable")), "{key}: {report:#}");
        assert_eq!(finding["path"], json!(format!("containers/{id}/container.json")), "{key}");
        let (code, report) = check_in(sandbox, &["--repair"]);
        assert_eq!((code, &only(&report)["outcome"]["state"]), (1, &json!("stays")), "{key}: {report:#}");
        assert_eq!((sandbox.names("containers"), sandbox.names("names")), (vec![id.clone()], vec!["web".to_owned()]));
        assert_ne!(sandbox.run(&["start", "web"]).code, 0, "{key}");
        assert_ne!(sandbox.run(&["system", "gc"]).code, 0, "{key}: nobody knows what it needs");
    }
    fs::write(&path, good).unwrap();
    assert_eq!(check_in(sandbox, &["--full"]).1["objects"], json!([]));
}

#[test]
fn what_cannot_be_looked_at_keeps_nothing_else_from_its_turn() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let create = |name: &str| sandbox.ok(&["create", "--name", name, "shell:1", "echo"]).trim().to_owned();
    let [state, config, work] = ["state", "config", "work"].map(create);
    let dir = |id: &str| sandbox.data_root().join("containers").join(id);
    let run = sandbox.root().join("containers").join(&state);
    fs::create_dir_all(&run).unwrap();
    fs::write(run.join("state.json"), "").unwrap();
    damage(&dir(&config).join("config.json"), Damage::Remove);
    fs::create_dir(dir(&config).join("config.json")).unwrap();
    let file = "0".repeat(64);
    fs::write(dir(&file), "").unwrap();
    fs::write(sandbox.data_root().join("names/file"), "").unwrap();
    fs::create_dir(sandbox.data_root().join("names/directory")).unwrap();
    damage(&dir(&work).join("work"), Damage::Remove);
    for repairs in [false, true] {
        let (code, report) = check_in(sandbox, if repairs { &["--repair"] } else { &[] });
        let found = findings(&report);
        let of = |id: &str| {
            let finding = found.iter().find(|(item, _)| item["id"] == json!(id));
            &finding.unwrap_or_else(|| panic!("{id}: {report:#}")).1
        };
        assert_eq!((code, found.len()), (1, 6), "{report:#}");
        for (id, said) in [(&state, "state.json"), (&config, "config.json"), (&file, "container.json")] {
            let finding = of(id);
            assert_eq!((&finding["severity"], &finding["problem"]), (&json!("damage"), &Value::Null), "{report:#}");
            assert!(finding["found"].as_str().unwrap().contains(said), "{report:#}");
            assert_eq!(finding["outcome"]["state"], "found", "{report:#}");
        }
        for (name, outcome) in [("file", "repaired"), ("directory", "stays")] {
            let expected = (&json!("note"), &json!(if repairs { outcome } else { "found" }));
            assert_eq!((&of(name)["severity"], &of(name)["outcome"]["state"]), expected, "{report:#}");
        }
        let expected = (&json!("missing"), &json!(if repairs { "repaired" } else { "found" }));
        assert_eq!((&of(&work)["problem"], &of(&work)["outcome"]["state"]), expected, "{report:#}");
    }
    fs::remove_dir_all(&run).unwrap();
    fs::remove_file(dir(&file)).unwrap();
    fs::remove_dir(sandbox.data_root().join("names/directory")).unwrap();
    sandbox.ok(&["delete", "config"]);
    assert_eq!(check_in(sandbox, &["--full"]).1["objects"], json!([]));
    // A name that is a file is taken away by a sweep too.
    fs::write(sandbox.data_root().join("names/file"), "").unwrap();
    sandbox.ok(&["system", "gc"]);
    assert_eq!(sandbox.names("names"), ["state", "work"]);
}

#[test]
fn a_record_of_another_version_is_no_damage() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let id = shell.sandbox.ok(&["create", "--name", "newer", "shell:1", "echo"]);
    let record = shell.sandbox.data_root().join("containers").join(id.trim()).join("container.json");
    let good = fs::read(&record).unwrap();
    fs::write(&record, "{\"version\": 2}").unwrap();
    let (code, report) = check_in(&shell.sandbox, &["--repair"]);
    let finding = only(&report);
    assert_eq!((code, &finding["severity"]), (0, &json!("note")));
    assert!(finding["found"].as_str().unwrap().contains("version 2"));
    fs::write(&record, good).unwrap();
}

#[test]
fn half_of_a_container_that_goes_with_its_process_is_no_damage() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let id = shell.sandbox.ok(&["create", "--rm", "--name", "going", "shell:1", "echo"]);
    let dir = shell.sandbox.data_root().join("containers").join(id.trim());
    // As a power cut leaves it: nothing of such a container is synced.
    let exit = json!({"exit_code": 0, "signal": null, "oom_killed": false, "started": "2026-01-31T12:00:00Z",
        "finished": "2026-01-31T12:00:01Z"});
    fs::write(dir.join("exit.json"), exit.to_string()).unwrap();
    for name in ["work", "upper"] {
        damage(&dir.join(name), Damage::Remove);
    }
    for (arguments, outcome) in [(&[][..], "found"), (&["--repair"], "repaired")] {
        let (code, report) = check_in(&shell.sandbox, arguments);
        let finding = only(&report);
        assert_eq!((code, &finding["severity"], &finding["outcome"]["state"]), (0, &json!("note"), &json!(outcome)));
    }
    assert_eq!((shell.sandbox.names("containers"), shell.sandbox.names("names")), (vec![], vec![]));
}

#[test]
fn one_that_goes_with_its_process_and_whose_state_cannot_be_read_stops_no_check() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let id = shell.sandbox.ok(&["create", "--rm", "--name", "going", "shell:1", "echo"]);
    let run = shell.sandbox.root().join("containers").join(id.trim());
    fs::create_dir_all(&run).unwrap();
    fs::write(run.join("state.json"), "").unwrap();
    let (code, report) = check_in(&shell.sandbox, &[]);
    assert!(only(&report)["found"].as_str().unwrap().contains("state.json") && code == 1, "{report:#}");
    fs::remove_dir_all(&run).unwrap();
    assert_eq!(check_in(&shell.sandbox, &[]).1["objects"], json!([]));
}

#[test]
fn names_are_given_back_and_those_that_lead_nowhere_go() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let id = sandbox.ok(&["create", "--name", "one", "shell:1", "echo"]);
    let two = sandbox.ok(&["create", "--name", "two", "shell:1", "echo"]);
    let names = sandbox.data_root().join("names");
    let link = |name: &str| fs::read_link(names.join(name)).map(|target| target.to_str().unwrap().to_owned()).ok();
    let good = link("one");
    // Lost; then that of another.
    for wrong in [None, Some(two.trim()), Some("nowhere")] {
        fs::remove_file(names.join("one")).unwrap();
        if let Some(target) = wrong {
            symlink(target, names.join("one")).unwrap();
        }
        let (code, report) = check_in(sandbox, &[]);
        let found = findings(&report);
        assert_eq!((code, &found[0].1["path"]), (1, &json!("names/one")), "{report:#}");
        assert_eq!(link("one").as_deref(), wrong, "it is only looked");
        assert_eq!(check_in(sandbox, &["--repair"]).0, 0);
        assert_eq!((link("one"), &sandbox.json(&["state", "one"])["id"]), (good.clone(), &json!(id.trim())));
        assert_eq!(check_in(sandbox, &[]).1["objects"], json!([]));
    }
    symlink("f".repeat(64), names.join("left")).unwrap();
    let (code, report) = check_in(sandbox, &[]);
    assert_eq!((code, &only(&report)["severity"]), (0, &json!("note")), "a crash leaves it, and it harms nobody");
    assert_eq!(link("left"), Some("f".repeat(64)));
    assert_eq!(check_in(sandbox, &["--repair"]).0, 0);
    assert_eq!(sandbox.names("names"), ["one", "two"]);
}

#[test]
fn what_should_have_gone_with_its_process_is_no_damage() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let id = shell.sandbox.ok(&["create", "--rm", "--name", "gone", "shell:1", "echo"]);
    let record = shell.sandbox.data_root().join("containers").join(id.trim()).join("container.json");
    damage(&record, Damage::Empty);
    let (code, report) = check_in(&shell.sandbox, &[]);
    assert_eq!((code, &only(&report)["severity"]), (0, &json!("note")), "{report:#}");
    assert!(record.exists());
    assert_eq!(check_in(&shell.sandbox, &["--repair"]).0, 0);
    assert!(shell.sandbox.names("containers").is_empty() && shell.sandbox.names("names").is_empty());
}

#[test]
fn a_container_on_files_that_were_replaced_is_named_until_it_is_started_again() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let cases = [
        ("erofs", "chains/sha256", "image.erofs"),
        ("erofs", "layers/sha256", "layer.tar"),
        ("dirs", "dirs/layers/sha256", "layer.rest"),
    ];
    for (backend, parent, file) in cases {
        sandbox::on_backend(backend, || {
            let shell = Shell::new();
            let sandbox = &shell.sandbox;
            sandbox.ok(&["run", "-d", "--name", "web", "shell:1", "sleep", "1000"]);
            assert_eq!(check_in(sandbox, &[]).1["objects"], json!([]));
            let object = sandbox.data_root().join(parent).join(&sandbox.names(parent)[0]);
            damage(&object.join(file), Damage::Flip(60));
            let (code, report) = check_in(sandbox, &["--repair", "--full", "--tls-verify=false"]);
            assert_eq!(code, 0, "{report:#}");
            // Whether or not somebody has mounted the new files meanwhile.
            for mounts_anew in [false, true] {
                if mounts_anew {
                    sandbox.ok(&["run", "--rm", "shell:1", "echo"]);
                }
                let (code, report) = check_in(sandbox, &["--full"]);
                let finding = only(&report);
                assert_eq!(
                    (code, &finding["severity"], &finding["containers"]),
                    (0, &json!("note"), &json!(["web"])),
                    "{file}: {report:#}"
                );
                let said = sandbox.ok(&["system", "check"]);
                assert!(said.contains("stos start") && said.contains("healthy: 1 image"), "{said}");
            }
            sandbox.ok(&["stop", "-t", "0", "web"]);
            assert_eq!(check_in(sandbox, &[]).1["objects"], json!([]));
            sandbox.ok(&["start", "web"]);
            assert_eq!(check_in(sandbox, &[]).1["objects"], json!([]), "{file}");
            sandbox.ok(&["delete", "-f", "web"]);
        });
    }
}
