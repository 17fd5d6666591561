// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What tests of pods need beside networks.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::host::{Host, busybox};
use super::shell::eventually;

/// What pods need beside networks.
pub trait Pods {
    /// Makes a pod, and gives its id.
    fn pod(&self, options: &[&str]) -> String;
    /// Runs a script in a container of a pod, with busybox at hand.
    fn in_pod(&self, pod: &str, name: &str, script: &str);
    /// What a pod does.
    fn pod_status(&self, pod: &str) -> String;
    /// The number of the infra process; 0 for none.
    fn infra(&self, pod: &str) -> i64;
    /// Fails where anything is left of any pod: beside what networks leave a record or a name.
    fn assert_no_pod_is_left(&self);
    /// Fails where a record or a name is left of any pod or container.
    fn assert_nothing_is_recorded(&self);
}

impl Pods for Host {
    #[track_caller]
    fn pod(&self, options: &[&str]) -> String {
        self.ok(&[&["pod", "create"], options].concat()).trim().to_owned()
    }

    #[track_caller]
    fn in_pod(&self, pod: &str, name: &str, script: &str) {
        let tools = busybox();
        let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
        let words = [&["run", "-d", "--pod", pod, "--name", name], tools.as_slice(), &["shell:1", "sh", "-c", script]];
        self.ok(&words.concat());
    }

    #[track_caller]
    fn pod_status(&self, pod: &str) -> String {
        self.ok(&["pod", "inspect", "--format", "{{.State}}", pod]).trim().to_owned()
    }

    #[track_caller]
    fn infra(&self, pod: &str) -> i64 {
        self.json(&["pod", "inspect", pod])[0]["InfraPid"].as_i64().unwrap()
    }

    #[track_caller]
    fn assert_no_pod_is_left(&self) {
        self.assert_nothing_is_left();
        self.assert_nothing_is_recorded();
    }

    #[track_caller]
    fn assert_nothing_is_recorded(&self) {
        let sandbox = &self.shell.sandbox;
        // A monitor may still be deleting what it has removed.
        for directory in ["pods", "names", "containers", "staging"] {
            eventually(&format!("nothing is in {directory}"), || sandbox.names(directory).is_empty());
        }
    }
}

/// A script that ends when it is asked to.
pub const SLEEP: &str = "trap 'exit 0' TERM; while true; do sleep 1000 & wait; done";

/// Kills a process, and waits until it is gone.
pub fn kill(pid: i64) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    let is_gone = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with(['Z', 'X']))
    };
    eventually("the process is gone", is_gone);
}

/// The parent of a process.
pub fn parent(pid: i64) -> i64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

/// Kills a container's process, and its monitor before.
pub fn kill_with_monitor(host: &Host, name: &str) {
    let pid = host.json(&["state", name])["pid"].as_i64().unwrap();
    kill(parent(pid));
    kill(pid);
    eventually("it has ended", || host.shell.status(name) == "stopped");
}
