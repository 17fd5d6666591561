// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tests of this crate share: clients for a test's registry, images of two blobs, quick time limits.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Read;
use std::sync::LazyLock;
use std::time::Duration;

use stos_registry::{BlobReader, ClientOptions, Error, Registry};
use stos_spec::media_type::{OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST};
use stos_spec::{BlobDigest, Descriptor, ImageRef};
use stos_testkit::registry::{self, Auth, Options};

/// The repository that the tests use.
pub const REPOSITORY: &str = "team/app";

/// The bytes of the layer that the tests fetch.
pub const LAYER: &[u8] = b"a layer that is long enough to be cut in two";

/// Starts a registry that holds one image, `team/app:1`.
pub fn registry(tls: bool, auth: Auth) -> registry::Registry {
    let registry = registry::Registry::start(Options { tls, auth, ..Options::default() });
    registry.put_blob(LAYER);
    registry.put_manifest(REPOSITORY, Some("1"), OCI_MANIFEST, manifest("1").as_bytes());
    registry
}

/// Starts a registry that speaks plain HTTP with everyone.
pub fn plain() -> registry::Registry {
    registry(false, Auth::Open)
}

/// A manifest over [`LAYER`].
pub fn manifest(config: &str) -> String {
    let blob = |media_type, bytes: &[u8]| Descriptor::new(media_type, BlobDigest::of(bytes), bytes.len() as u64);
    serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob(OCI_CONFIG, config.as_bytes()),
        "layers": [blob(OCI_LAYER_GZIP, LAYER)]})
    .to_string()
}

/// Options that send nothing a second time, so that a test sees what went wrong, and sees it at once.
pub fn once() -> ClientOptions {
    set(ClientOptions::default(), |options| options.retry.tries = 1)
}

/// Options for a registry without TLS that is asked again, as often as by default and without much waiting.
pub fn patient() -> ClientOptions {
    set(ClientOptions::default(), |options| {
        options.tls_verify = false;
        options.retry.first_wait = Duration::from_millis(1);
    })
}

/// Options whose limits are short, for what is to run into them.
pub fn quick() -> ClientOptions {
    let mut options = once();
    options.timeouts.response = Duration::from_secs(1);
    options.timeouts.stall = Duration::from_secs(1);
    options
}

/// Options as they are by default, with one authority at least: a machine without any cannot try TLS at all.
pub fn strict() -> ClientOptions {
    static ROOT: LazyLock<Vec<u8>> = LazyLock::new(|| registry(true, Auth::Open).ca_der().expect("a CA").to_vec());
    set(once(), |options| options.extra_roots = vec![ROOT.clone()])
}

/// Options for a registry without TLS.
pub fn insecure() -> ClientOptions {
    set(once(), |options| options.tls_verify = false)
}

/// Options for a registry without TLS whose limits are short.
pub fn quick_insecure() -> ClientOptions {
    set(quick(), |options| options.tls_verify = false)
}

/// Changes options in an expression.
pub fn set(mut options: ClientOptions, change: impl FnOnce(&mut ClientOptions)) -> ClientOptions {
    change(&mut options);
    options
}

/// Options that trust the registry's own CA.
pub fn trusting(registry: &registry::Registry) -> ClientOptions {
    let root = registry.ca_der().expect("a registry with TLS").to_vec();
    set(once(), |options| options.extra_roots = vec![root])
}

/// A client for `address`.
pub fn client_at(address: &str, options: &ClientOptions) -> Registry {
    let reference: ImageRef = format!("{address}/{REPOSITORY}:1").parse().expect("a reference");
    Registry::new(&reference, options).expect("a client")
}

/// A client for a registry, which verifies where it can.
pub fn client(registry: &registry::Registry) -> Registry {
    let options = if registry.ca_der().is_some() { trusting(registry) } else { insecure() };
    client_at(&registry.address(), &options)
}

/// The descriptor of [`LAYER`].
pub fn layer() -> Descriptor {
    Descriptor::new(OCI_LAYER, BlobDigest::of(LAYER), LAYER.len() as u64)
}

/// Reads a blob to its end, or to its error.
pub fn drain(reader: &mut BlobReader) -> (Vec<u8>, Option<Error>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 7];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return (bytes, None),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) => {
                assert!(Error::from_io(&error).is_some(), "{error:?} carries no error of ours");
                let inner = error.into_inner().expect("our error").downcast::<Error>().expect("our error");
                return (bytes, Some(*inner));
            }
        }
    }
}

/// Opens the layer and reads it to its end, or to its error.
pub fn fetch_layer(client: &Registry) -> Result<Vec<u8>, Error> {
    let mut reader = client.open_blob(REPOSITORY, &layer())?;
    match drain(&mut reader) {
        (bytes, None) => Ok(bytes),
        (_, Some(error)) => Err(error),
    }
}

/// Writes an error and all its causes, as a person may get to see them.
pub fn all_text(error: &Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(" {error} {error:?}"));
        cause = error.source();
    }
    text
}
