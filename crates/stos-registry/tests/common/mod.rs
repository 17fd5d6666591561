// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tests of this crate share: clients for a test's registry, images of two blobs, quick time limits.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Read};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use stos_registry::{
    BlobReader, ClientOptions, Credential, CredentialFailure, Credentials, Endpoint, Error, Registry, Role, Secret,
};
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

/// The repository's name at a [`mirror`].
pub const THERE: &str = "mirrors/app";

/// Starts a mirror that holds the tests' image under a name of its own.
pub fn mirror(tls: bool, auth: Auth) -> registry::Registry {
    let mirror = registry(tls, auth);
    mirror.put_manifest(THERE, Some("1"), OCI_MANIFEST, manifest("1").as_bytes());
    mirror
}

/// The endpoint of a [`mirror`].
pub fn mirror_endpoint(mirror: &registry::Registry) -> Endpoint {
    let mut endpoint = endpoint(mirror, Role::Mirror);
    endpoint.repository = Some(THERE.into());
    endpoint
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

/// Options with a short limit for bodies, for what is to run into it. Answers have their time: a machine may stand still for a while.
pub fn quick() -> ClientOptions {
    set(once(), |options| options.timeouts.stall = Duration::from_secs(1))
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

/// An endpoint that is a test's registry, which is verified where it can be.
pub fn endpoint(registry: &registry::Registry, role: Role) -> Endpoint {
    let mut endpoint = Endpoint::new(registry.address(), role);
    endpoint.tls_verify = registry.ca_der().is_some();
    endpoint.extra_roots = registry.ca_der().map(<[u8]>::to_vec).into_iter().collect();
    endpoint
}

/// The same endpoint, with a credential.
pub fn with(mut endpoint: Endpoint, credentials: impl Credentials + 'static) -> Endpoint {
    endpoint.credentials = Some(Arc::new(credentials));
    endpoint
}

/// A client over endpoints, which sends nothing a second time.
pub fn over(endpoints: Vec<Endpoint>) -> Registry {
    Registry::over(endpoints, &once()).expect("a client")
}

/// A client for one registry, with a credential.
pub fn client_with(registry: &registry::Registry, credentials: impl Credentials + 'static) -> Registry {
    over(vec![with(endpoint(registry, Role::Registry), credentials)])
}

/// A source of credentials that counts how often it is asked.
#[derive(Clone)]
pub struct Counted(pub Credential, pub Arc<AtomicU32>);

impl Counted {
    pub fn new(credential: Credential) -> Self {
        Self(credential, Arc::default())
    }

    pub fn count(&self) -> u32 {
        self.1.load(Ordering::Relaxed)
    }
}

impl Credentials for Counted {
    fn credential(&self) -> Result<Option<Credential>, CredentialFailure> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(Some(self.0.clone()))
    }
}

/// Gives the values of a header in all requests that a registry has had; `-` where there is none.
pub fn header_of_all(registry: &registry::Registry, name: &str) -> Vec<String> {
    registry.requests().iter().map(|request| request.header(name).unwrap_or("-").to_owned()).collect()
}

/// Everything that this thread traces, as text.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<u8>>>);

impl Trace {
    /// Runs `run`, and gives what it gives and what it traced.
    pub fn of<T>(run: impl FnOnce() -> T) -> (T, String) {
        let trace = Self::default();
        let writer = trace.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let value = tracing::subscriber::with_default(subscriber, run);
        let bytes = trace.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (value, String::from_utf8(bytes).expect("text"))
    }
}

impl io::Write for Trace {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The way through a proxy, with a user and a password or without.
pub fn proxy_at(url: &str, login: Option<(&str, &str)>) -> stos_registry::Proxy {
    let (scheme, host) = url.split_once("://").expect("a URL");
    let login = login.map(|(user, password)| (Secret::new(user), Secret::new(password)));
    stos_registry::Proxy::new(scheme == "https", host, login).expect("a proxy")
}
