// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask check`: all that can be said without running a test.

use std::process::{Command, Stdio};

use crate::process::Run;
use crate::workspace::cargo;
use crate::{check_layers, process};

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
    check("formatting", &|| component("fmt", || cargo(["fmt", "--all", "--check"]).run()));
    check("lints", &|| {
        let clippy = || cargo(["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"]).run();
        component("clippy", clippy)
    });
    check("documentation", &|| {
        let mut doc = cargo(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
        doc.env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links").run()
    });
    check("licences and sources", &|| {
        component("deny", || cargo(["deny", "check", "licenses", "bans", "sources"]).run())
    });
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Does the work where cargo has the component, and says loudly that it did not where it has not.
fn component(name: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut probe: Command = cargo([name, "--version"]);
    let there = probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success();
    if there {
        return work();
    }
    eprintln!("NOT CHECKED: cargo {name} is not installed");
    Ok(())
}
