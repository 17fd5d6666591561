// SPDX-License-Identifier: Apache-2.0 OR MIT
//! For tests only: what must hold for any bytes, one function for each fuzz target.
//!
//! | function | what it is given | what must hold |
//! |---|---|---|
//! | [`reference()`] | an image reference | what is accepted keeps the grammar of the distribution project, and reads again as itself |
//! | [`manifest()`] | a manifest or an index | what is accepted is what a plain JSON reader finds there, and keeps the rules |
//! | [`config()`] | an image configuration | no image makes a `config.json` that the runtime refuses |
//! | [`tar_index()`] | a layer | one index whatever the pieces; the tar can be made again |
//! | [`index_reader()`] | a `layer.index` | each entry keeps the rules, and nothing that is merged from it panics |
//! | [`image_header()`] | the head of an `image.erofs` | an error, or what the bytes say |
//! | [`merge()`] | several layers | the image is what the model says |
//! | [`erofs()`] | several layers | the kernel shows what the model says, and `fsck.erofs` finds nothing |
//! | [`erofs_tar()`] | a layer | the kernel shows what the image's bytes say, and `fsck.erofs` finds nothing |
//! | [`challenge()`] | a `WWW-Authenticate` | bounded, normalised, reads again as itself |
//! | [`accounts()`] | `User`, `/etc/passwd`, `/etc/group` | the account is what the model says |
//! | [`registries_conf()`] | a `registries.conf` | an error that moves no cursor, or routes |
//! | [`policy_json()`] | a `policy.json` | an error that moves no cursor, or a decision |
//! | [`auth_json()`] | an `auth.json` | an error that moves no cursor, or a login |
//! | [`seccomp()`] | a seccomp profile | an error, or a program that the kernel takes |
//!
//! `fuzz/` makes a libFuzzer binary of each; `tests/seeds.rs` runs each over the inputs that the repository keeps in
//! `fuzz/seeds`, so that they hold in every test run.
//!
//! A target that fails panics: that is how a fuzzer is told.

mod accounts;
mod challenge;
mod config;
mod erofs;
mod files;
mod index;
mod kernel;
mod layers;
mod manifest;
mod reference;
mod seccomp;
mod tar;

pub use accounts::accounts;
pub use challenge::challenge;
pub use config::config;
pub use erofs::{erofs, erofs_tar};
pub use files::{auth_json, policy_json, registries_conf};
pub use index::{image_header, index_reader};
pub use layers::merge;
pub use manifest::manifest;
pub use reference::reference;
pub use seccomp::seccomp;
pub use tar::tar_index;

/// A target's name, which is that of its function, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 15] = [
    ("accounts", accounts),
    ("auth_json", auth_json),
    ("challenge", challenge),
    ("config", config),
    ("erofs", erofs),
    ("erofs_tar", erofs_tar),
    ("image_header", image_header),
    ("index_reader", index_reader),
    ("manifest", manifest),
    ("merge", merge),
    ("policy_json", policy_json),
    ("reference", reference),
    ("registries_conf", registries_conf),
    ("seccomp", seccomp),
    ("tar_index", tar_index),
];

/// An error and its causes, shown as they are; none of it may move a terminal's cursor or go on without end.
fn check_message(error: &dyn std::error::Error) {
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.len() < 16 << 10, "{} bytes of a message", text.len());
        next = error.source();
    }
}
