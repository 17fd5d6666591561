// SPDX-License-Identifier: Apache-2.0 OR MIT
use super::*;
use crate::media_type::*;
use serde_json::{Value, json};

fn blob(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": BlobDigest::of(b"x").to_string(), "size": 1})
}

fn manifest() -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob(OCI_CONFIG), "layers": [blob(OCI_LAYER_GZIP)]})
}

fn parse(value: &Value, header: Option<&str>) -> Result<ManifestDocument, ManifestError> {
    ManifestDocument::parse(value.to_string().as_bytes(), header)
}

fn with(mut value: Value, key: &str, field: Value) -> Value {
    value[key] = field;
    value
}

#[test]
fn a_manifest_is_read() {
    let ManifestDocument::Image(image) = parse(&manifest(), Some(OCI_MANIFEST)).unwrap() else { panic!() };
    assert_eq!(image.layers[0].compression, LayerCompression::Gzip);
    assert_eq!(image.compressed_size(), 1);
    let docker = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": blob(DOCKER_CONFIG),
        "layers": [blob(DOCKER_LAYER_GZIP), blob(DOCKER_LAYER)]});
    let ManifestDocument::Image(image) = parse(&docker, Some("application/json")).unwrap() else { panic!() };
    assert_eq!(image.layers[1].compression, LayerCompression::None);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let both = with(manifest(), "manifests", json!([]));
    assert!(matches!(parse(&both, None), Err(ManifestError::Ambiguous { .. })));
    assert!(matches!(parse(&manifest(), Some(OCI_INDEX)), Err(ManifestError::Ambiguous { .. })));
    let wrong_name = with(manifest(), "mediaType", json!(OCI_INDEX));
    assert!(matches!(parse(&wrong_name, None), Err(ManifestError::Ambiguous { .. })));
    let neither = json!({"schemaVersion": 2});
    assert!(matches!(parse(&neither, None), Err(ManifestError::Ambiguous { .. })));
    let odd = with(manifest(), "mediaType", json!("text/plain"));
    assert!(matches!(parse(&odd, None), Err(ManifestError::UnknownMediaType { .. })));
    for no_name in ["5", "[]", "{\"a\":1}"] {
        let odd = with(manifest(), "mediaType", serde_json::from_str(no_name).unwrap());
        let error = parse(&odd, None).unwrap_err();
        assert!(matches!(&error, ManifestError::UnknownMediaType { found } if found == no_name), "{error}");
    }
}

#[test]
fn no_name_stands_twice() {
    let text = manifest().to_string();
    let layers = json!([blob(OCI_LAYER)]).to_string();
    for (case, document) in [
        ("layers", text.replacen('{', &format!("{{\"layers\":{layers},"), 1)),
        ("digest", text.replacen("\"digest\"", "\"digest\":\"sha256:0\",\"digest\"", 1)),
        ("x", text.replacen('{', "{\"X\":1,\"x\":2,", 1)),
    ] {
        let error = ManifestDocument::parse(document.as_bytes(), None).unwrap_err();
        let ManifestError::DuplicateName { name } = &error else { panic!("{case}: {error}") };
        assert!(name.eq_ignore_ascii_case(case), "{case}: {name}");
    }
    let noted = with(manifest(), "annotations", json!({"a": "1", "A": "2"}));
    assert!(parse(&noted, None).is_ok());
}

#[test]
fn names_are_written_in_their_own_case() {
    let text = manifest().to_string();
    let other = json!([blob(OCI_LAYER)]).to_string();
    for (document, wrong, right) in [
        (text.replacen('{', &format!("{{\"Manifests\":{other},"), 1), "Manifests", "manifests"),
        (text.replacen("\"layers\"", &format!("\"Layers\":{other},\"layers\""), 1), "Layers", "layers"),
        (text.replacen("\"digest\"", "\"DIGEST\":\"sha256:0\",\"digest\"", 1), "DIGEST", "digest"),
        (text.replacen('{', "{\"MediaType\":\"x\",", 1), "MediaType", "mediaType"),
    ] {
        let error = ManifestDocument::parse(document.as_bytes(), None).unwrap_err();
        let ManifestError::NameCase { found, expected } = &error else { panic!("{wrong}: {error}") };
        assert_eq!((found.as_str(), *expected), (wrong, right));
    }
    let entries = json!({"schemaVersion": 2, "manifests": [with(entry("x", None), "Platform", json!({}))]});
    assert!(matches!(parse(&entries, None), Err(ManifestError::NameCase { expected: "platform", .. })));
}

#[test]
fn what_is_neither_image_nor_index_is_told_by_its_media_type() {
    let artifact = "application/vnd.oci.artifact.manifest.v1+json";
    let document = json!({"mediaType": artifact, "artifactType": "a/b", "blobs": [blob("a/b")]});
    for header in [None, Some(artifact)] {
        let error = parse(&document, header).unwrap_err();
        assert!(matches!(&error, ManifestError::UnknownMediaType { found } if found == artifact), "{error}");
    }
    // Of schema 1, by whatever name it comes.
    for media_type in [
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    ] {
        let one = json!({"schemaVersion": 1, "mediaType": media_type, "fsLayers": [], "history": []});
        for header in [None, Some(media_type), Some("application/json")] {
            let error = parse(&one, header).unwrap_err();
            assert!(matches!(&error, ManifestError::SchemaVersion { found } if found == "1"), "{error}");
        }
        let error = parse(&manifest(), Some(media_type)).unwrap_err();
        assert!(matches!(error, ManifestError::Ambiguous { .. }), "announced as schema 1: {error}");
    }
    let nothing = json!({"config": blob(OCI_CONFIG), "layers": [blob(OCI_LAYER)]});
    let error = parse(&nothing, None).unwrap_err();
    assert!(matches!(&error, ManifestError::SchemaVersion { found } if found == "missing"), "{error}");
}

#[test]
fn layers_say_how_they_are_compressed() {
    use crate::media_type::{DOCKER_LAYER_ZSTD, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
    for (media_type, expected) in [
        (OCI_LAYER, LayerCompression::None),
        (OCI_LAYER_GZIP, LayerCompression::Gzip),
        (OCI_LAYER_ZSTD, LayerCompression::Zstd),
        (DOCKER_LAYER_ZSTD, LayerCompression::Zstd),
    ] {
        let value = with(manifest(), "layers", json!([blob(media_type)]));
        let ManifestDocument::Image(parsed) = parse(&value, None).unwrap() else { panic!("{media_type}") };
        assert_eq!(parsed.layers[0].compression, expected, "{media_type}");
    }
}

#[test]
fn each_rule_has_its_own_error() {
    let one = with(manifest(), "schemaVersion", json!(1));
    assert!(matches!(parse(&one, None), Err(ManifestError::SchemaVersion { found }) if found == "1"));
    let artifact = with(manifest(), "config", blob("application/vnd.oci.empty.v1+json"));
    assert!(matches!(parse(&artifact, None), Err(ManifestError::Artifact { artifact_type: None, .. })));
    let typed = with(artifact, "artifactType", json!("a/chart"));
    let error = parse(&typed, None).unwrap_err();
    assert!(error.to_string().contains("of type \"a/chart\"") && error.to_string().contains("oci.empty"), "{error}");
    // A type beside an image's configuration takes nothing from the image.
    assert!(parse(&with(manifest(), "artifactType", json!("a/b")), None).is_ok());
    let empty = with(manifest(), "layers", json!([]));
    assert!(matches!(parse(&empty, None), Err(ManifestError::LayerCount { found: 0 })));
    let many = with(manifest(), "layers", Value::Array(vec![blob(OCI_LAYER); LAYERS_MAX + 1]));
    assert!(matches!(parse(&many, None), Err(ManifestError::LayerCount { .. })));
    let kind_of_layer = |media_type: &str| {
        let value = with(manifest(), "layers", json!([blob(OCI_LAYER), blob(media_type)]));
        match parse(&value, None).unwrap_err() {
            ManifestError::ForeignLayer { number: 2, found, .. } if found == media_type => "foreign",
            ManifestError::EncryptedLayer { number: 2, found, .. } if found == media_type => "encrypted",
            ManifestError::UnknownLayer { number: 2, found, .. } if found == media_type => "unknown",
            other => panic!("{media_type}: {other}"),
        }
    };
    for (media_type, expected) in [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", "foreign"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "foreign"),
        ("application/vnd.oci.image.layer.v1.tar+encrypted", "encrypted"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+encrypted", "encrypted"),
        ("application/vnd.oci.image.layer.v1.tar+xz", "unknown"),
        ("application/vnd.in-toto+json", "unknown"),
        (OCI_CONFIG, "unknown"),
        (OCI_MANIFEST, "unknown"),
        ("", "unknown"),
    ] {
        assert_eq!(kind_of_layer(media_type), expected, "{media_type}");
    }
    let mut path = manifest();
    path["layers"][0]["digest"] = json!("sha256:../../etc/passwd");
    assert!(matches!(parse(&path, None), Err(ManifestError::Digest { .. })));
    assert!(matches!(ManifestDocument::parse(b"{", None), Err(ManifestError::Json { .. })));
    let deep = [vec![b'['; 5000], vec![b']'; 5000]].concat();
    assert!(matches!(ManifestDocument::parse(&deep, None), Err(ManifestError::TooDeep)));
    let deep_inside =
        manifest().to_string().replacen('{', &format!("{{\"x\":{}1{},", "[".repeat(200), "]".repeat(200)), 1);
    assert!(matches!(ManifestDocument::parse(deep_inside.as_bytes(), None), Err(ManifestError::TooDeep)));
    let large = vec![b' '; MANIFEST_MAX as usize + 1];
    assert!(matches!(ManifestDocument::parse(&large, None), Err(ManifestError::TooLarge { .. })));
    let negative = manifest().to_string().replace("\"size\":1", "\"size\":-1");
    assert!(matches!(ManifestDocument::parse(negative.as_bytes(), None), Err(ManifestError::Json { .. })));
}

fn entry(text: &str, platform: Option<(&str, &str)>) -> Value {
    let mut value = blob(OCI_MANIFEST);
    value["digest"] = json!(BlobDigest::of(text.as_bytes()).to_string());
    if let Some((os, architecture)) = platform {
        value["platform"] = json!({"os": os, "architecture": architecture});
    }
    value
}

fn index(entries: &[Value]) -> ImageIndex {
    let value = json!({"schemaVersion": 2, "manifests": entries});
    let ManifestDocument::Index(index) = parse(&value, None).unwrap() else { panic!() };
    index
}

#[test]
fn the_platform_decides() {
    let index = index(&[
        entry("attestation", Some(("unknown", "unknown"))),
        entry("arm", Some(("linux", "arm64"))),
        entry("pc", Some(("linux", "x86_64"))),
        entry("pc again", Some(("linux", "amd64"))),
    ]);
    let picked = index.select(&Platform::new("linux", "amd64", None)).unwrap();
    assert_eq!(picked.digest, BlobDigest::of(b"pc"));
    let error = index.select(&Platform::new("linux", "s390x", None)).unwrap_err();
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    assert!(error.to_string().ends_with("linux/amd64, linux/arm64"), "{error}");
}

#[test]
fn a_manifest_is_recorded_under_a_type_of_manifests() {
    let nameless = with(manifest(), "mediaType", Value::Null);
    for (document, header, expected) in [
        (manifest(), Some("text/plain"), OCI_MANIFEST),
        (with(manifest(), "mediaType", json!(DOCKER_MANIFEST)), Some(OCI_MANIFEST), DOCKER_MANIFEST),
        (
            nameless.clone(),
            Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
            DOCKER_MANIFEST,
        ),
        (nameless.clone(), Some("text/plain\u{1b}[2J"), OCI_MANIFEST),
        (nameless, None, OCI_MANIFEST),
    ] {
        let ManifestDocument::Image(image) = parse(&document, header).unwrap() else { panic!() };
        assert_eq!(image.media_type, expected, "{header:?}");
    }
}

#[test]
fn errors_are_short_and_move_no_cursor() {
    let long = format!("\u{1b}[2J{}", "x".repeat(1 << 20));
    let mut layer = manifest();
    layer["layers"][0]["mediaType"] = json!(long);
    let mut size = manifest();
    size["layers"][0]["size"] = json!(long);
    for document in [
        with(manifest(), "schemaVersion", json!(long)),
        with(manifest(), "mediaType", json!(long)),
        with(manifest(), "mediaType", json!([long])),
        with(manifest(), "mediaType", json!(format!("{OCI_INDEX};{long}"))),
        with(manifest(), "config", blob(&long)),
        layer,
        size,
    ] {
        let error = parse(&document, None).unwrap_err().to_string();
        assert!(error.len() < 1500 && !error.contains('\u{1b}'), "{} bytes: {error}", error.len());
    }
    let odd = with(entry("x", None), "platform", json!({"os": "linux", "architecture": long}));
    let error = index(&[odd]).select(&Platform::host()).unwrap_err().to_string();
    assert!(error.len() < 1500 && !error.contains('\u{1b}'), "{} bytes: {error}", error.len());
    let many: Vec<Value> = (0..1000).map(|number| entry("x", Some(("linux", format!("a{number}").as_str())))).collect();
    let error = index(&many).select(&Platform::host()).unwrap_err().to_string();
    assert!(error.len() < 600, "{error}");
}

#[test]
fn an_entry_that_cannot_be_read_keeps_nobody_from_another() {
    let odd_platform = with(entry("x", None), "platform", json!({"os": "linux", "architecture": "rva22 (preview)"}));
    let odd_digest = with(entry("x", Some(("linux", "arm64"))), "digest", json!("sha512:00"));
    let index = index(&[odd_platform, odd_digest, entry("pc", Some(("linux", "amd64")))]);
    let picked = index.select(&Platform::new("linux", "amd64", None)).unwrap();
    assert_eq!(picked.digest, BlobDigest::of(b"pc"));
    let error = index.select(&Platform::new("linux", "arm64", None)).unwrap_err();
    assert!(matches!(&error, ManifestError::Platform { what, .. } if what == "manifest 1 of the index"), "{error}");
}

#[test]
fn an_index_of_one_image_needs_no_platform() {
    let host = Platform::host();
    assert!(index(&[entry("only", None)]).select(&host).is_ok());
    assert!(index(&[entry("one", None), entry("two", None)]).select(&host).is_err());
    assert!(index(&[]).select(&host).is_err());
    let attested = index(&[entry("attestation", Some(("unknown", "unknown"))), entry("only", None)]);
    assert_eq!(attested.select(&host).unwrap().digest, BlobDigest::of(b"only"));
}
