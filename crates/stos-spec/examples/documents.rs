// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads a manifest and a configuration, the same each time: `cargo xtask guard` counts the instructions of the functions with `guarded` in
//! their names.

use stos_spec::{ImageConfig, ManifestDocument};

/// The layers of the image.
const LAYERS: usize = 100;

fn main() {
    let digest = |number: usize| format!("sha256:{number:064x}");
    let descriptor = |kind: &str, number: usize| {
        format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{}","size":{number}}}"#, digest(number))
    };
    let layers: Vec<String> = (1..=LAYERS).map(|number| descriptor("layer.v1.tar+gzip", number)).collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
        descriptor("config.v1+json", 7),
        layers.join(",")
    );
    let diff_ids: Vec<String> = (1..=LAYERS).map(|number| format!("\"{}\"", digest(number))).collect();
    let history: Vec<String> = (1..=LAYERS).map(|number| format!(r#"{{"created_by":"RUN step {number}"}}"#)).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["sh"],"Env":["PATH=/bin","A=1"],"User":"1000:1000"}},"rootfs":{{"type":"layers","diff_ids":[{}]}},"history":[{}]}}"#,
        diff_ids.join(","),
        history.join(",")
    );
    guarded_manifest(manifest.as_bytes());
    guarded_config(config.as_bytes());
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[inline(never)]
fn guarded_manifest(bytes: &[u8]) {
    let document = ManifestDocument::parse(bytes, Some(MANIFEST));
    assert!(document.is_ok(), "{document:?}");
}

#[inline(never)]
fn guarded_config(bytes: &[u8]) {
    let config = ImageConfig::parse(bytes);
    assert!(config.is_ok(), "{config:?}");
}
