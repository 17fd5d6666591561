// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A machine that goes down takes processes, mounts and mostly ROOT with it; what is in DATA-ROOT starts again.

mod sandbox;

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use sandbox::on_both_backends;
use sandbox::shell::{Shell, cgroups_of, eventually};
use serde_json::{Value, json};
use stos_testkit::guard::Need;

fn kill(pid: &Value) {
    let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let is_gone = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with(['Z', 'X']))
    };
    eventually("the process is gone", is_gone);
}

/// Replaces every value of a key, wherever it stands.
fn set_all(value: &mut Value, key: &str, new: &Value) {
    match value {
        Value::Object(members) => {
            members
                .iter_mut()
                .for_each(|(name, value)| if name == key { *value = new.clone() } else { set_all(value, key, new) });
        }
        Value::Array(values) => values.iter_mut().for_each(|value| set_all(value, key, new)),
        _ => {}
    }
}

/// Ends the container as a power cut does: nobody writes anything down, its cgroups and all mounts are gone. ROOT is gone too, or
/// on a disk it tells of another boot.
fn reboot(shell: &Shell, id: &str, keeps_root: bool) {
    let sandbox = &shell.sandbox;
    let path = sandbox.root().join("containers").join(id).join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    kill(&state["creator"]["pid"]);
    kill(&state["init"]["pid"]);
    for cgroup in cgroups_of(id) {
        // Of several hierarchies mounted at one place, the first has removed it.
        eventually("its cgroup can be removed", || fs::remove_dir(&cgroup).is_ok() || !Path::new(&cgroup).exists());
    }
    for mount in sandbox.mounts("").iter().rev() {
        stos_sys::mount::detach(mount).unwrap();
    }
    if keeps_root {
        // The numbers are those of living processes of this boot.
        set_all(&mut state, "boot_id", &json!("8d4a02b8-0000-4000-8000-5f7a5a2f6f2c"));
        let own = std::process::id();
        (state["creator"]["pid"], state["init"]["pid"]) = (json!(own), json!(own));
        fs::write(path, state.to_string()).unwrap();
    } else {
        fs::remove_dir_all(sandbox.root()).unwrap();
    }
}

#[test]
fn containers_are_stopped_after_a_reboot_and_start_again_with_what_they_had_written() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        for keeps_root in [false, true] {
            let shell = Shell::new();
            let sandbox = &shell.sandbox;
            let script = "test -e /kept && echo again; touch /kept; sleep 1000";
            let id = sandbox.ok(&["run", "-d", "--name", "web", "shell:1", "sh", "-c", script]);
            let gone = sandbox.ok(&["run", "-d", "--rm", "--name", "volatile", "shell:1", "sleep", "1000"]);
            let never = sandbox.ok(&["create", "--name", "never", "shell:1", "sh", "-c", "true"]);
            eventually("it has written", || {
                sandbox.data_root().join("containers").join(id.trim()).join("upper/kept").exists()
            });
            // ROOT goes with the last of them.
            reboot(&shell, gone.trim(), true);
            reboot(&shell, id.trim(), keeps_root);
            let list = sandbox.json(&["list", "--format", "json"]);
            let mut lines: Vec<_> =
                list.as_array().unwrap().iter().map(|line| (line["name"].clone(), line["status"].clone())).collect();
            lines.sort_by_key(|(name, _)| name.to_string());
            assert_eq!(json!(lines), json!([["never", "created"], ["web", "stopped"]]), "{keeps_root}");
            assert_eq!(sandbox.run(&["kill", "web"]).code, 1, "nobody of this boot is hit");
            assert_eq!(sandbox.run(&["wait", "web"]).code, 1, "its code is unknown");
            sandbox.ok(&["start", "web", "never"]);
            eventually("it has seen what it had written", || sandbox.ok(&["logs", "web"]).contains("again"));
            assert_eq!(sandbox.ok(&["wait", "never"]), "0\n");
            sandbox.ok(&["delete", "--force", "web", never.trim()]);
            assert!(sandbox.names("containers").is_empty() && sandbox.names("names").is_empty());
        }
    });
}
