// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The CNCF distribution server, as Debian packages it, is pulled from as our own registry is.

mod common;

use common::*;
use stos_registry::Error;
use stos_spec::manifest::MANIFEST_MAX;
use stos_spec::{BlobDigest, Descriptor, ManifestDocument, Verified};
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Dialect, ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

#[test]
fn the_real_registry_is_pulled_from() {
    stos_testkit::require!(Need::Tool("docker-registry"));
    let storage = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(storage.path()).unwrap();
    let client = client_at(registry.address(), &insecure());
    for dialect in [Dialect::Oci, Dialect::Docker] {
        let tar = TarBuilder::new().entry(Entry::file("hello", "hi")).finish();
        let image = ImageBuilder::new().dialect(dialect).layer(Layer::gzip(tar)).build();
        image.push(registry.address(), REPOSITORY, "1").unwrap();
        let fetched = client.fetch_manifest(REPOSITORY, "1", None).unwrap();
        assert_eq!(fetched.bytes.digest().to_string(), image.manifest.digest);
        let document = ManifestDocument::parse(fetched.bytes.get(), fetched.content_type.as_deref()).unwrap();
        let ManifestDocument::Image(manifest) = document else { panic!("an image's manifest") };
        client.fetch_config(REPOSITORY, &manifest.config, MANIFEST_MAX).unwrap();
        let layer = &manifest.layers[0].descriptor;
        let (bytes, error) = drain(&mut client.open_blob(REPOSITORY, layer).unwrap());
        assert!(error.is_none());
        Verified::check(bytes, layer, "layer").unwrap();
    }
    let error = client.fetch_manifest(REPOSITORY, "2", None).unwrap_err();
    assert!(matches!(&error, Error::NotFound { message, .. } if message.as_str().contains("MANIFEST_UNKNOWN")));
    let missing = Descriptor::new("x", BlobDigest::of(b"missing"), 7);
    let error = client.fetch_blob_bytes(REPOSITORY, &missing, 7).unwrap_err();
    assert!(matches!(&error, Error::NotFound { message, .. } if message.as_str().contains("BLOB_UNKNOWN")));
    // Go's server, too, is recognized as one without TLS.
    let strict = client_at(registry.address(), &strict());
    let error = strict.fetch_manifest(REPOSITORY, "1", None).unwrap_err();
    assert!(matches!(error, Error::HttpInsteadOfHttps { .. }), "{error}");
}
