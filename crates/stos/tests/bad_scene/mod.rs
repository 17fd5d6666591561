// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where images that break a promise are pulled, and what must be as before afterwards.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::tree::Tree;

use crate::sandbox::{Hub, Sandbox, stable};

/// A store with one good image and a container of it, a registry, and a tree outside that nobody may touch.
pub struct Scene {
    pub sandbox: Sandbox,
    pub hub: Hub,
    pub shell: Layer,
    pub before: [Tree; 3],
}

impl Scene {
    pub fn new() -> Self {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let shell = Layer::gzip(rootfs::host_programs(&["cat"]).unwrap());
        let good = ImageBuilder::new().layer(shell.clone()).command(&["cat", "/etc/passwd"]).build();
        sandbox.ok(&["create", "--tls-verify=false", "--name", "keeper", &hub.serve(&good, "good", "1")]);
        let canary = sandbox.path("canary");
        fs::create_dir_all(canary.join("directory")).unwrap();
        fs::write(canary.join("file"), "alive").unwrap();
        fs::write(canary.join("directory/file"), "alive").unwrap();
        let mut scene = Self { sandbox, hub, shell, before: [Tree::default(), Tree::default(), Tree::default()] };
        scene.before = scene.now();
        scene
    }

    pub fn canary(&self) -> PathBuf {
        self.sandbox.path("canary")
    }

    pub fn now(&self) -> [Tree; 3] {
        [self.sandbox.data_root(), self.sandbox.root(), self.canary()].map(|path| stable(&path))
    }

    #[track_caller]
    pub fn unchanged(&self, case: &str) {
        for ((before, now), what) in self.before.iter().zip(&self.now()).zip(["DATA-ROOT", "ROOT", "the canary"]) {
            let differences: Vec<_> = before.differences(now).iter().map(ToString::to_string).collect();
            assert!(differences.is_empty(), "{case}: {what} has changed: {differences:#?}");
        }
        assert_eq!(self.sandbox.names("staging"), Vec::<String>::new(), "{case}");
    }

    /// pull, create and run refuse it with their exit codes, say each of `words`, and leave no trace.
    #[track_caller]
    pub fn refused(&self, case: &str, reference: &str, words: &[&str]) {
        self.refused_with(case, reference, &[], words);
    }

    #[track_caller]
    pub fn refused_with(&self, case: &str, reference: &str, options: &[&str], words: &[&str]) {
        self.refused_by(&[("pull", 1), ("create", 125), ("run", 125)], case, reference, options, words);
    }

    /// These commands do, with these exit codes.
    #[track_caller]
    pub fn refused_by(&self, commands: &[(&str, i32)], case: &str, reference: &str, options: &[&str], words: &[&str]) {
        for &(command, code) in commands {
            let arguments = [&[command, "-q", "--tls-verify=false"], options, &[reference]].concat();
            let output = self.sandbox.run(&arguments);
            assert_eq!((output.code, &*output.stdout), (code, ""), "{case}: {command}: {}", output.stderr);
            assert!(output.stderr.starts_with("Error: "), "{case}: {command}: {}", output.stderr);
            for word in words {
                assert!(output.stderr.contains(word), "{case}: {command} does not say {word}: {}", output.stderr);
            }
            self.unchanged(&format!("{case}, {command}"));
        }
    }

    /// Serves an image of the shell and one more layer.
    pub fn serve(&self, top: &Layer) -> (Image, String) {
        let image = ImageBuilder::new().layer(self.shell.clone()).layer(top.clone()).command(&["sh"]).build();
        let reference = self.hub.serve(&image, "bad", "1");
        (image, reference)
    }

    /// Serves a document as `bad:1`, whatever it is.
    pub fn serve_document(&self, media_type: &str, document: &Value) -> String {
        self.serve_text(media_type, &document.to_string())
    }

    /// Serves a text as `bad:1`, whatever it is.
    pub fn serve_text(&self, media_type: &str, text: &str) -> String {
        self.hub.registry.put_manifest("bad", Some("1"), media_type, text.as_bytes());
        format!("{}/bad:1", self.hub.registry.address())
    }
}

/// A layer of one small file.
pub fn small() -> Vec<u8> {
    TarBuilder::new().entry(Entry::file("file", "some data that can be flipped, cut and stretched")).finish()
}
