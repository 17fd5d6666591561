// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A store with a small image of two layers, and ways to damage it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

use crate::sandbox::{Hub, Output, Sandbox};

/// A sandbox with an image whose command is a file that only `create` looks at.
pub struct Scene {
    pub sandbox: Sandbox,
    pub hub: Hub,
    /// `registry/app:1`.
    pub reference: String,
    pub image: Image,
    pub manifest: String,
    pub config: String,
    pub chain: String,
    /// Of each layer the diffID and the blob.
    pub layers: Vec<(String, String)>,
}

pub fn image(top: &str) -> Image {
    let base = TarBuilder::new()
        .entry(Entry::directory("bin"))
        .entry(Entry::file("bin/app", "an application ".repeat(300)).mode(0o755))
        .entry(Entry::hard_link("bin/other", "bin/app"))
        .finish();
    let top = TarBuilder::new()
        .entry(Entry::directory("etc"))
        .entry(Entry::file("etc/top", top.repeat(400)))
        .entry(Entry::hard_link("etc/app", "bin/app"))
        .finish();
    let builder = ImageBuilder::new().layer(Layer::gzip(base)).layer(Layer::plain(top));
    builder.command(&["/bin/app"]).build()
}

impl Scene {
    pub fn new() -> Self {
        Self::pulled(&[])
    }

    /// With further options of `pull`.
    pub fn pulled(options: &[&str]) -> Self {
        let (sandbox, hub, image) = (Sandbox::new(), Hub::new(), image("above "));
        let reference = hub.serve(&image, "app", "1");
        sandbox.ok(&[&["pull", "-q", "--tls-verify=false"], options, &[&reference]].concat());
        let inspected = sandbox.json(&["inspect", "app:1"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let layers = inspected[0]["layers"].as_array().unwrap();
        let layers = layers.iter().map(|layer| (text(&layer["diff_id"]), text(&layer["blob"]))).collect();
        let (manifest, config) = (text(&inspected[0]["digest"]), text(&inspected[0]["id"]));
        let chain = text(&inspected[0]["chain_id"]);
        hub.registry.take_requests();
        Self { sandbox, hub, reference, image, manifest, config, chain, layers }
    }

    /// A path below DATA-ROOT, in which `BASE`, `TOP`, `CHAIN`, `MANIFEST` and `CONFIG` stand for their digits.
    pub fn path(&self, template: &str) -> PathBuf {
        self.sandbox.data_root().join(self.filled(template))
    }

    /// The same as `check` names it.
    pub fn filled(&self, template: &str) -> String {
        let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
        template
            .replace("BASE", &hex(&self.layers[0].0))
            .replace("TOP", &hex(&self.layers[1].0))
            .replace("CHAIN", &hex(&self.chain))
            .replace("MANIFEST", &hex(&self.manifest))
            .replace("CONFIG", &hex(&self.config))
    }

    /// `system check OPTIONS`, and what it found.
    pub fn check(&self, options: &[&str]) -> (i32, Value) {
        check_in(&self.sandbox, options)
    }

    /// Looks at every byte, and wants nothing to be found.
    #[track_caller]
    pub fn assert_clean(&self, what: &str) {
        let (code, report) = self.check(&["--full"]);
        assert_eq!((code, &report["objects"]), (0, &serde_json::json!([])), "{what}: {report:#}");
    }

    /// `system check --repair OPTIONS` over the test's registry.
    pub fn repair(&self, options: &[&str]) -> (i32, Value) {
        self.check(&[&["--repair", "--tls-verify=false"], options].concat())
    }

    pub fn pull(&self) -> Output {
        self.sandbox.run(&["pull", "-q", "--tls-verify=false", &self.reference])
    }

    /// Creates a container and removes it again.
    pub fn create(&self, options: &[&str]) -> Output {
        let created = self.sandbox.run(&[&["create", "--pull=never"], options, &["app:1"]].concat());
        if created.code == 0 {
            self.sandbox.ok(&["delete", created.stdout.trim()]);
        }
        created
    }

    /// What was asked of the registry since the last time, each path after the repository.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.hub.registry.take_requests();
        let asked = requests.iter().filter_map(|request| request.strip_prefix("GET /v2/")?.split_once('/'));
        asked.map(|(_, rest)| rest.to_owned()).collect()
    }
}

/// `system check OPTIONS` of a sandbox, and what it found.
pub fn check_in(sandbox: &Sandbox, options: &[&str]) -> (i32, Value) {
    let output = sandbox.run(&[&["system", "check", "--format", "json"], options].concat());
    let report = serde_json::from_str(&output.stdout);
    (output.code, report.unwrap_or_else(|error| panic!("{error}: {}{}", output.stdout, output.stderr)))
}

/// All findings, each with its object.
pub fn findings(report: &Value) -> Vec<(Value, Value)> {
    let objects = report["objects"].as_array().unwrap().iter();
    let each = |object: &Value| {
        let findings = object["findings"].as_array().unwrap().clone();
        findings.into_iter().map(|finding| (object.clone(), finding)).collect::<Vec<_>>()
    };
    objects.flat_map(each).collect()
}

/// How a file is damaged.
#[derive(Debug, Clone, Copy)]
pub enum Damage {
    /// One byte is another one.
    Flip(u64),
    /// The same, and nothing but its bytes shows it.
    Rot(u64),
    /// It ends too early.
    Cut,
    /// Nothing is left in it.
    Empty,
    /// It is gone, be it a file or a directory.
    Remove,
    /// A directory has a file more.
    Add,
}

pub fn damage(path: &Path, damage: Damage) {
    let open = || File::options().read(true).write(true).open(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    match damage {
        Damage::Flip(at) => flip(&open(), at),
        Damage::Rot(at) => rot(path, at),
        Damage::Cut => {
            let file = open();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
        Damage::Empty => open().set_len(0).unwrap(),
        Damage::Remove if path.is_dir() => fs::remove_dir_all(path).unwrap(),
        Damage::Remove => fs::remove_file(path).unwrap(),
        Damage::Add => fs::write(path.join("added"), "not the layer's").unwrap(),
    }
}

fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Changes a byte, and writes into all records what the file's times are now: what rot that nothing wrote looks like.
fn rot(path: &Path, at: u64) {
    use std::os::unix::fs::MetadataExt;
    let before = fs::metadata(path).unwrap();
    flip(&File::options().read(true).write(true).open(path).unwrap(), at);
    let after = fs::metadata(path).unwrap();
    let data_root = path.ancestors().find(|dir| dir.join("stos.json").exists()).unwrap();
    for record in records_below(data_root) {
        let mut json: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        if renew(&mut json, before.ino(), &after) {
            fs::write(&record, json.to_string()).unwrap();
        }
    }
}

fn records_below(data_root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in ["layers/sha256", "chains/sha256", "dirs/layers/sha256", "dirs/chains/sha256"] {
        let Ok(entries) = fs::read_dir(data_root.join(directory)) else { continue };
        for entry in entries {
            let names =
                ["layer.json", "chain.json", "stack.json"].map(|name| entry.as_ref().unwrap().path().join(name));
            found.extend(names.into_iter().filter(|path| path.exists()));
        }
    }
    found
}

/// Renews the times of every seal of an inode.
fn renew(json: &mut Value, inode: u64, now: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    match json {
        Value::Object(members) => {
            let mut renewed = false;
            if members.get("inode") == Some(&serde_json::json!(inode)) {
                members.insert("mtime".to_owned(), serde_json::json!([now.mtime(), now.mtime_nsec()]));
                members.insert("ctime".to_owned(), serde_json::json!([now.ctime(), now.ctime_nsec()]));
                renewed = true;
            }
            members.values_mut().fold(renewed, |so_far, value| renew(value, inode, now) || so_far)
        }
        Value::Array(values) => {
            values.iter_mut().filter_map(|value| renew(value, inode, now).then_some(())).count() > 0
        }
        _ => false,
    }
}
