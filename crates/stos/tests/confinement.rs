// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a container may not do by default: whatever a podman container may not. A program in the container tries every system call,
//! looks at the kernel's files and at the devices, and its answers are held against those that podman gave
//! (`data/podman-default.txt`, made by `cargo xtask confinement --record`; or, with `cargo xtask confinement`, gives beside it).

mod sandbox;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandbox::{Hub, Sandbox, output};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

const X86_64: Need<'static> =
    Need::Condition(cfg!(target_arch = "x86_64"), "an x86_64 machine: podman's answers are of one");
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

/// A sandbox with an image of the program alone, called `probe:1`.
fn probe() -> (Sandbox, Hub) {
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let program = sandbox.path("probe");
    let compiled =
        output(Command::new("cc").args(["-O1", "-static", "-o"]).arg(&program).arg(format!("{DATA}/confinement.c")));
    assert_eq!(compiled.code, 0, "{}", compiled.stderr);
    let tar = TarBuilder::new().entry(Entry::file("probe", std::fs::read(&program).unwrap()).mode(0o755)).finish();
    let image = ImageBuilder::new().layer(Layer::plain(tar)).command(&["/probe"]).build();
    sandbox.pull(&hub.serve(&image, "probe", "1"));
    (sandbox, hub)
}

/// Answers by what was tried.
type Answers = BTreeMap<String, String>;

fn answers(text: &str) -> Answers {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let answers = lines.map(|line| {
        // The last words are the answer: one, or "denied" and an error's name.
        let (rest, last) = line.rsplit_once(' ').unwrap();
        let (what, answer) = match rest.strip_suffix(" denied") {
            Some(what) => (what, format!("denied {last}")),
            None => (rest, last.to_owned()),
        };
        (what.to_owned(), answer)
    });
    answers.collect()
}

fn of_podman() -> Answers {
    let live = std::env::var_os("STOS_PODMAN_ANSWERS").map(PathBuf::from);
    let path = live.unwrap_or_else(|| Path::new(DATA).join("podman-default.txt"));
    answers(&std::fs::read_to_string(path).unwrap())
}

/// How far something goes: nothing is more than what is denied or hidden.
fn reach(answer: &str) -> u8 {
    match answer {
        "hidden" | "killed" => 0,
        answer if answer.starts_with("denied") => 0,
        "read-only" => 1,
        _ => 2,
    }
}

/// What `ours` may and podman's may not.
fn excess(ours: &Answers, podman: &Answers) -> Vec<String> {
    let set = |answers: &Answers, key: &str| u64::from_str_radix(&answers[key], 16).unwrap();
    let mut excess = Vec::new();
    for (what, answer) in ours {
        let (kind, _) = what.split_once(' ').unwrap();
        let is_more = match (kind, podman.get(what)) {
            ("status", Some(_)) if what.starts_with("status Cap") => set(ours, what) & !set(podman, what) != 0,
            // NoNewPrivs and the mode of seccomp: more is stricter.
            ("status", Some(theirs)) => answer < theirs,
            ("node", theirs) => theirs != Some(answer),
            (_, Some(theirs)) => reach(answer) > reach(theirs),
            // Files that the kernel of the record does not have.
            (_, None) => false,
        };
        if is_more {
            excess.push(format!("{what}: {answer}, podman: {:?}", podman.get(what)));
        }
    }
    excess
}

#[test]
fn what_podman_denies_a_container_is_denied() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("cc"), X86_64);
    let (sandbox, _hub) = probe();
    let (ours, podman) = (answers(&sandbox.ok(&["run", "--rm", "probe:1"])), of_podman());
    let calls = |answers: &Answers| answers.keys().filter(|what| what.starts_with("call ")).count();
    assert_eq!(calls(&ours), calls(&podman), "every call was tried");
    assert_eq!(excess(&ours, &podman), Vec::<String>::new());
}

#[test]
fn the_comparison_finds_what_is_not_denied() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("cc"), X86_64);
    let (sandbox, _hub) = probe();
    let podman = of_podman();
    let found = |options: &[&str]| {
        let ours = answers(&sandbox.ok(&[&["run", "--rm"], options, &["probe:1"]].concat()));
        excess(&ours, &podman).join("\n")
    };
    let unconfined = found(&["--security-opt", "seccomp=unconfined"]);
    for what in ["status Seccomp: 0", "meant personality-no-randomize: passes", "call x86_64 425: passes"] {
        assert!(unconfined.contains(what), "{what}\n{unconfined}");
    }
    let unmasked = found(&["--security-opt", "unmask=ALL"]);
    for what in ["path /proc/sys: open", "path /proc/keys: open"] {
        assert!(unmasked.contains(what), "{what}\n{unmasked}");
    }
    assert!(found(&["--cap-add", "mknod"]).contains("status CapEff"));
    let privileged = found(&["--privileged"]);
    for what in ["status CapBnd", "node /dev/kmsg", "path /sys/kernel: open", "meant unshare-newns: passes"] {
        assert!(privileged.contains(what), "{what}\n{privileged}");
    }
}

#[test]
fn a_container_without_capabilities_may_do_less() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("cc"), X86_64);
    let (sandbox, _hub) = probe();
    let hardened = [
        "run",
        "--rm",
        "--cap-drop",
        "all",
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        "mask=/proc/meminfo",
        "probe:1",
    ];
    let ours = answers(&sandbox.ok(&hardened));
    // landlock_restrict_self(2), which takes the caller's rights away, is for those who can gain none.
    let more: Vec<_> = excess(&ours, &of_podman()).into_iter().filter(|it| !it.contains(" 446: ")).collect();
    assert_eq!(more, Vec::<String>::new());
    for (what, answer) in [
        ("status CapBnd", "0000000000000000"),
        ("status NoNewPrivs", "1"),
        ("status Seccomp", "2"),
        ("meant chroot", "denied EPERM"),
        ("path /proc/meminfo", "hidden"),
    ] {
        assert_eq!(ours[what], answer, "{what}");
    }
}
