// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::thread;

use flate2::read::MultiGzDecoder;

use super::*;
use crate::registry::{self, Registry};
use crate::tar_builder::{Entry, TarBuilder};

fn tar(name: &str) -> Vec<u8> {
    TarBuilder::new().entry(Entry::file(name, "some text, some text, some text")).finish()
}

fn two_layers() -> ImageBuilder {
    ImageBuilder::new().layer(Layer::gzip(tar("a"))).layer(Layer::plain(tar("b")))
}

fn json_of(blob: &Blob) -> Value {
    serde_json::from_slice(blob.bytes.as_ref().unwrap()).unwrap()
}

#[test]
fn an_image_keeps_its_own_promises() {
    for dialect in [Dialect::Oci, Dialect::Docker] {
        let image = two_layers().dialect(dialect).build();
        let (manifest, config) = (json_of(&image.manifest), json_of(&image.config));
        assert_eq!(manifest["config"]["digest"], image.config.digest);
        assert_eq!(manifest["config"]["mediaType"], dialect.config());
        assert_eq!(manifest["layers"][1]["mediaType"], dialect.layer(false));
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&tar("a")), digest(&tar("b"))]));
        for blob in image.blobs().chain([&image.manifest]) {
            let bytes = blob.bytes.as_ref().unwrap();
            assert_eq!((blob.digest.as_str(), blob.size), (digest(bytes).as_str(), bytes.len() as u64));
        }
    }
    assert_eq!(digest(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(two_layers().build().manifest.digest, two_layers().build().manifest.digest);
}

#[test]
fn gzip_members_inflate_to_the_tar() {
    let layer = Layer::gzip_members(tar("a"), 700);
    let mut inflated = Vec::new();
    MultiGzDecoder::new(layer.stored.as_slice()).read_to_end(&mut inflated).unwrap();
    assert_eq!(inflated, tar("a"));
    assert!(layer.stored.windows(3).filter(|three| *three == [0x1f, 0x8b, 8]).count() >= 3);
}

#[test]
fn each_fault_breaks_one_promise() {
    let good = two_layers().build();
    let with = |fault| two_layers().fault(fault).build();

    let image = with(Fault::LayerBytes(0));
    assert_eq!(image.manifest.digest, good.manifest.digest);
    assert_ne!(digest(image.layers[0].bytes.as_ref().unwrap()), image.layers[0].digest);
    assert_eq!(image.layers[0].bytes.as_ref().unwrap().len() as u64, image.layers[0].size);

    let image = with(Fault::LayerTruncated(1));
    assert!((image.layers[1].bytes.as_ref().unwrap().len() as u64) < image.layers[1].size);

    let image = with(Fault::LayerSize(0));
    assert_eq!(json_of(&image.manifest)["layers"][0]["size"], good.layers[0].size + 1);
    assert_eq!(digest(image.layers[0].bytes.as_ref().unwrap()), image.layers[0].digest);

    assert!(with(Fault::LayerMissing(1)).layers[1].bytes.is_none());

    let image = with(Fault::DiffId(1));
    assert_eq!(image.layers[1].digest, good.layers[1].digest);
    assert_ne!(json_of(&image.config)["rootfs"]["diff_ids"][1], image.diff_ids[1].as_str());

    let ids = |fault| json_of(&with(fault).config)["rootfs"]["diff_ids"].as_array().unwrap().len();
    assert_eq!((ids(Fault::DiffIdExtra), ids(Fault::DiffIdLost)), (3, 1));

    let image = with(Fault::ConfigBytes);
    assert_eq!(json_of(&image.config)["os"], "linux");
    assert_ne!(digest(image.config.bytes.as_ref().unwrap()), image.config.digest);
    assert_eq!(json_of(&with(Fault::ConfigSize).manifest)["config"]["size"], good.config.size + 1);

    let image = with(Fault::ManifestBytes);
    assert_eq!(image.manifest.digest, good.manifest.digest);
    assert_ne!(image.manifest.bytes, good.manifest.bytes);
}

#[test]
fn a_config_can_be_set_anywhere() {
    let image = ImageBuilder::new().set("/config/Volumes/~data", json!({})).platform("linux", "arm", "v7").build();
    let config = json_of(&image.config);
    assert_eq!(config["config"]["Volumes"], json!({ "~data": {} }));
    assert_eq!((config["architecture"].as_str(), config["variant"].as_str()), (Some("arm"), Some("v7")));
    let index = json_of(&Image::index(Dialect::Docker, &[&image]));
    assert_eq!(index["manifests"][0]["platform"], json!({ "os": "linux", "architecture": "arm", "variant": "v7" }));
    assert_eq!(index["mediaType"], Dialect::Docker.index());
}

#[test]
fn a_layout_holds_several_tags() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (two_layers().build(), two_layers().user("7").build());
    one.write_layout(directory.path(), "one").unwrap();
    two.write_layout(directory.path(), "two").unwrap();
    two.write_layout(directory.path(), "one").unwrap();
    let index: Value = serde_json::from_slice(&fs::read(directory.path().join("index.json")).unwrap()).unwrap();
    let tags: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap())
        .collect();
    assert_eq!(tags, ["two", "one"]);
    for blob in two.blobs() {
        let path = directory.path().join("blobs/sha256").join(&blob.digest[7..]);
        assert_eq!(&fs::read(path).unwrap(), blob.bytes.as_ref().unwrap());
    }
}

#[test]
fn a_push_says_which_request_failed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        for answer in ["HTTP/1.1 404 Not Found\r\n\r\n", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    match two_layers().build().push(&address, "r", "t") {
        Err(PushError::Status { request, expected: 202, found: 403, body }) => {
            assert_eq!((request.as_str(), body.as_str()), ("POST /v2/r/blobs/uploads/", "no"));
        }
        other => panic!("{other:?}"),
    }
    server.join().unwrap();
    // A port that is closed, and that nobody is given meanwhile.
    assert!(matches!(two_layers().build().push("127.0.0.1:1", "r", "t"), Err(PushError::Io { .. })));
}

#[test]
fn the_testkits_own_registry_takes_an_image_and_an_index() {
    let registry = Registry::start(registry::Options::default());
    let (one, two) = (two_layers().build(), two_layers().platform("linux", "arm64", "v8").build());
    one.push(&registry.address(), "a/b", "1").unwrap();
    let index = Image::index(Dialect::Oci, &[&one, &two]);
    Image::push_index(&index, &[&one, &two], &registry.address(), "a/b", "list").unwrap();
    assert!(one.blobs().chain(two.blobs()).all(|blob| registry.has_blob(&blob.digest)));
    assert_eq!(registry.manifest("a/b", "1").map(|(_, bytes)| bytes), one.manifest.bytes);
    assert_eq!(registry.manifest("a/b", "list").unwrap().0, Dialect::Oci.index());
}
