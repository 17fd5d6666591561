// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask check`: all that can be said without running a test.

use std::process::{Command, Stdio};

use stos_testkit::guard::Need;

use crate::process::Run;
use crate::workspace::{cargo, is_ci};
use crate::{check_layers, check_named_tests, process};

/// Runs every check, also after one has failed, and fails at the end where any has.
pub fn run() -> anyhow::Result<()> {
    let mut failed = Vec::new();
    let mut check = |name: &'static str, work: &dyn Fn() -> anyhow::Result<()>| {
        if let Err(error) = process::step(name, work) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    };
    check("layers", &check_layers::run);
    check("named tests", &check_named_tests::run);
    check("formatting", &|| component("fmt", is_ci(), || cargo(["fmt", "--all", "--check"]).run()));
    for (name, needed, selected) in [
        ("lints", &[][..], &["--workspace"][..]),
        ("lints with isal", &ISAL_TOOLS, &["--package", "stos-sys", "--package", "stos-layerfs", "--features", ISAL]),
    ] {
        check(name, &|| {
            let clippy = || {
                let mut clippy = cargo(["clippy", "--quiet", "--all-targets"]);
                clippy.args(selected).args(["--", "--deny", "warnings"]).run()
            };
            unless_missing(missing_tool(needed), is_ci(), || component("clippy", is_ci(), clippy))
        });
    }
    check("documentation", &|| {
        let mut doc = cargo(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
        doc.env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links").run()
    });
    check("licences and sources", &|| {
        // Rust does not bring it. What is known of vulnerabilities lies in a repository of its own, which not every machine reaches.
        if is_ci() && !is_there("deny")? {
            cargo(["install", "--quiet", "--locked", "--debug", DENY]).run()?;
        }
        component("deny", is_ci(), || {
            cargo(["--quiet", "deny", "--log-level", "error", "check", "licenses", "bans", "sources"]).run()
        })
    });
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// The feature, of the crates that have it.
const ISAL: &str = "stos-sys/isal,stos-layerfs/isal";

/// What ISA-L is built with, which `cargo xtask setup` installs.
const ISAL_TOOLS: [&str; 4] = ["nasm", "autoconf", "automake", "libtoolize"];

/// Not optimised: it is compiled in a minute, and runs for a second.
const DENY: &str = "cargo-deny@0.20.2";

/// Tells whether cargo has a command.
fn is_there(name: &str) -> anyhow::Result<bool> {
    let mut probe: Command = cargo([name, "--version"]);
    Ok(probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
}

/// The first of these programs that is not installed.
fn missing_tool(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| Need::Tool(name).unmet())
}

/// Does the work where cargo has the component.
fn component(name: &str, required: bool, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let missing = if is_there(name)? { None } else { Some(format!("cargo {name}, which is not installed")) };
    unless_missing(missing, required, work)
}

/// Does the work where nothing is missing for it. What is missing is a failure where the work is required, and else said loudly.
fn unless_missing(
    missing: Option<String>,
    required: bool,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(missing) = missing else { return work() };
    anyhow::ensure!(!required, "this needs {missing}");
    eprintln!("NOT CHECKED: this needs {missing}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_and_missing_fails() {
        let work = || anyhow::bail!("there is no such component, so nothing is done");
        assert!(component("no-such-component", true, work).unwrap_err().to_string().ends_with("not installed"));
        component("no-such-component", false, work).unwrap();
        assert_eq!(missing_tool(&["sh", "no-such-tool"]).as_deref(), Some("the tool no-such-tool (cargo xtask setup)"));
        assert_eq!(missing_tool(&["sh"]), None);
    }
}
