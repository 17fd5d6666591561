// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A registry with its mirrors: its manifests, configurations and blobs (distribution-spec, "Pull").
//!
//! Manifests are asked of each endpoint in order, as containers-registries.conf(5) has it: the first that gives what was
//! asked for has the word. What belongs to a manifest is asked first of the endpoint that gave it. One that fails, in
//! whatever way, is passed over with a warning; when all have failed the registry's own error says what the others did.
//! What may pass is waited out at the registry itself alone: see `order`.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use stos_spec::manifest::MANIFEST_MAX;
use stos_spec::media_type::ACCEPTED_MANIFESTS;
use stos_spec::text::cut;
use stos_spec::{BlobDigest, Descriptor, DigestError, ImageRef, Verified};
use ureq::http::header::{self, HeaderName, HeaderValue};
use ureq::http::{HeaderMap, Method};

use crate::blob::Bound;
use crate::endpoint::{Endpoint, Role};
use crate::error::Error;
use crate::exchange::Answer;
use crate::options::ClientOptions;
use crate::order::Order;
use crate::remote::{Remote, Wanted};
use crate::resume::BlobReader;
use crate::retry::Cancel;
use crate::token::Scope;
use crate::url::ShownUrl;

/// The header in which a registry says what it thinks that it sends.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Stands for no endpoint.
const NONE: usize = usize::MAX;

static ACCEPT_MANIFESTS: LazyLock<[(HeaderName, HeaderValue); 1]> = LazyLock::new(|| {
    let words = HeaderValue::from_str(&ACCEPTED_MANIFESTS.join(", ")).expect("media types are ASCII");
    [(header::ACCEPT, words)]
});

/// A client for one registry and its mirrors. Clones share connections and tokens; threads may share one.
///
/// It opens nothing before the first request. Requests block the calling thread and start no other. Repositories are
/// called as the user calls them: what an endpoint calls them is its own affair. What may pass is tried again, as
/// [`RetryPolicy`](crate::RetryPolicy) says.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    remotes: Vec<Remote>,
    /// Which of them gave the last manifest, or `NONE`.
    giver: AtomicUsize,
    /// Ends the waits between tries.
    cancel: Cancel,
}

/// A manifest or an index as the registry keeps it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FetchedManifest {
    /// Its bytes. Asked for by digest they have that digest; asked for by tag the registry's word is all there is, and
    /// the digest is the one that the bytes have.
    pub bytes: Verified<Vec<u8>>,
    /// What the registry calls them.
    pub content_type: Option<String>,
}

impl Registry {
    /// Makes a client for the registry of `reference`, without mirrors and anonymous. No request is made yet.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub fn new(reference: &ImageRef, options: &ClientOptions) -> Result<Self, Error> {
        Self::over(vec![Endpoint::of(reference, options)], options)
    }

    /// Makes a client for endpoints that are asked in this order. No request is made yet.
    ///
    /// An endpoint's own word on TLS counts, and not that of `options`.
    ///
    /// # Errors
    /// [`Error::BadOption`]; [`Error::NoEndpoint`] where there is none.
    pub fn over(endpoints: Vec<Endpoint>, options: &ClientOptions) -> Result<Self, Error> {
        if endpoints.is_empty() {
            return Err(Error::NoEndpoint { what: "anything" });
        }
        let remotes: Result<Vec<_>, _> = endpoints.into_iter().map(|it| Remote::new(it, options)).collect();
        let inner = Inner { remotes: remotes?, giver: AtomicUsize::new(NONE), cancel: Cancel::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Gives where the registry itself listens: a host, and maybe a port. Of mirrors alone it is the last.
    pub fn host(&self) -> &str {
        let remotes = &self.inner.remotes;
        let registry = remotes.iter().find(|remote| remote.endpoint().role == Role::Registry);
        registry.or(remotes.last()).map_or("", |remote| remote.endpoint().address())
    }

    /// Fetches the manifest or index that `target`, a tag or a digest, names.
    ///
    /// Asked for by digest, or with a descriptor `expected`, the bytes are those or it fails. At most
    /// [`MANIFEST_MAX`] bytes are read, or the descriptor's size where that is less.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::NotFound`] for an unknown tag, digest or repository.
    pub fn fetch_manifest(
        &self,
        repository: &str,
        target: &str,
        expected: Option<&Descriptor>,
    ) -> Result<FetchedManifest, Error> {
        let target = Target::parse(target)?;
        self.ask_for_manifest(repository, &target, |remote, path| {
            fetch_manifest(remote, repository, path, &target, expected)
        })
    }

    /// Fetches the manifest under a tag that belongs to another manifest, as that of its signatures (`sha256-HEX.sig`). It is asked for
    /// where that one's blobs are, whatever an endpoint is asked for by tag, and has the same name everywhere.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::NotFound`] where there is none.
    pub fn fetch_attached(&self, repository: &str, tag: &str) -> Result<FetchedManifest, Error> {
        let target = Target::parse(tag)?;
        self.order_for_blob()?.ask(
            repository,
            |_| Ok(format!("manifests/{target}")),
            |remote, path| fetch_manifest(remote, repository, path, &target, None),
        )
    }

    /// Fetches an image's configuration whole: at most `max` bytes, verified.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::TooLong`] where the descriptor's size is beyond `max`, before any request.
    pub fn fetch_config(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        max: u64,
    ) -> Result<Verified<Vec<u8>>, Error> {
        self.fetch_blob_bytes(repository, descriptor, max)
    }

    /// Fetches a blob whole: at most `max` bytes, verified. For layers there is [`open_blob`](Self::open_blob).
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::TooLong`] where the descriptor's size is beyond `max`, before any request.
    pub fn fetch_blob_bytes(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        max: u64,
    ) -> Result<Verified<Vec<u8>>, Error> {
        if descriptor.size > max {
            let url = self.inner.remotes[0].url_of(repository, &blob_path(descriptor))?.shown();
            return Err(Error::TooLong { url, expected: max });
        }
        self.order_for_blob()?.ask(
            repository,
            |_| Ok(blob_path(descriptor)),
            |remote, path| {
                let answer = get(remote, Method::GET, repository, path, &[])?;
                let body = answer.body(remote.transport(), Bound::Exact(descriptor.size))?;
                let url = body.url().clone();
                let bytes = body.read_all()?;
                Verified::check(bytes, descriptor, url.as_str()).map_err(|error| Error::of_digest(error, url))
            },
        )
    }

    /// Opens a blob to be read as it arrives. See [`BlobReader`] for what is checked there and what is not.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::SizeMismatch`] where the registry announces another size than the descriptor says.
    pub fn open_blob(&self, repository: &str, descriptor: &Descriptor) -> Result<BlobReader, Error> {
        BlobReader::open(self.order_for_blob()?, repository, descriptor)
    }

    /// Ends all work of this client and its clones: requests, bodies and waits under way fail soon, with no further try. For who
    /// has no use for the rest any more.
    pub fn cancel(&self) {
        self.inner.cancel.set();
        self.inner.remotes.iter().for_each(|remote| remote.transport().shut_down());
    }

    pub(crate) fn cancel_flag(&self) -> &Cancel {
        &self.inner.cancel
    }

    pub(crate) fn remote(&self, index: usize) -> &Remote {
        &self.inner.remotes[index]
    }

    /// Gives the endpoint that is no mirror, for what mirrors are not asked for.
    pub(crate) fn registry_itself(&self, what: &'static str) -> Result<&Remote, Error> {
        let registry = self.inner.remotes.iter().find(|remote| remote.endpoint().role == Role::Registry);
        registry.ok_or(Error::NoEndpoint { what })
    }

    /// Asks for a manifest, and keeps who gave it.
    fn ask_for_manifest<T>(
        &self,
        repository: &str,
        target: &Target<'_>,
        ask: impl Fn(&Remote, &str) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut order = self.order_for_manifest(target.digest().is_some())?;
        let found = order.ask(repository, |remote| target.path_at(remote), ask)?;
        self.inner.giver.store(order.index(), Ordering::Relaxed);
        Ok(found)
    }

    /// Gives the endpoints to ask for a manifest: who gave the last one, and then in order.
    fn order_for_manifest(&self, is_by_digest: bool) -> Result<Order, Error> {
        self.order("manifest", |index| self.remote(index).endpoint().serves(is_by_digest))
    }

    /// Gives the endpoints to ask for a blob: who gave the manifest, whatever it is asked for, and then those that are
    /// asked by digest.
    fn order_for_blob(&self) -> Result<Order, Error> {
        let giver = self.inner.giver.load(Ordering::Relaxed);
        self.order("blob", |index| index == giver || self.remote(index).endpoint().serves(true))
    }

    fn order(&self, what: &'static str, is_asked: impl Fn(usize) -> bool) -> Result<Order, Error> {
        let giver = self.inner.giver.load(Ordering::Relaxed);
        let mut indexes: Vec<usize> = (0..self.inner.remotes.len()).filter(|index| is_asked(*index)).collect();
        indexes.sort_by_key(|index| *index != giver);
        Order::new(self.clone(), indexes, what)
    }
}

/// Asks an endpoint for something of a repository that is called so here. Whatever the status, that is the answer.
pub(crate) fn get(
    remote: &Remote,
    method: Method,
    repository: &str,
    path: &str,
    headers: &[(HeaderName, HeaderValue)],
) -> Result<Answer, Error> {
    let repository = remote.name_here(repository);
    remote.get(&Wanted { method, repository, path, headers, scope: &Scope::pull(repository), body: None })
}

fn fetch_manifest(
    remote: &Remote,
    repository: &str,
    path: &str,
    target: &Target<'_>,
    expected: Option<&Descriptor>,
) -> Result<FetchedManifest, Error> {
    let answer = get(remote, Method::GET, repository, path, &*ACCEPT_MANIFESTS)?.success(remote.transport())?;
    let url = answer.url.shown();
    let announced = content_digest(answer.headers(), &url)?;
    let content_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.map(str::to_owned);
    let bound = match expected {
        Some(descriptor) if descriptor.size <= MANIFEST_MAX => Bound::Exact(descriptor.size),
        Some(_) => return Err(Error::TooLong { url, expected: MANIFEST_MAX }),
        None => Bound::AtMost(MANIFEST_MAX),
    };
    let bytes = answer.body(remote.transport(), bound)?.read_all()?;
    let digests = [target.digest(), expected.map(|descriptor| descriptor.digest), announced];
    let bytes = verify_all(bytes, &digests).map_err(|error| Error::of_digest(error, url))?;
    Ok(FetchedManifest { bytes, content_type })
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.inner.remotes.iter().map(Remote::endpoint)).finish()
    }
}

pub(crate) fn blob_path(descriptor: &Descriptor) -> String {
    format!("blobs/{}", descriptor.digest)
}

/// Reads `Docker-Content-Digest`. An algorithm that we do not know contradicts nothing.
pub(crate) fn content_digest(headers: &HeaderMap, url: &ShownUrl) -> Result<Option<BlobDigest>, Error> {
    let Some(value) = headers.get(CONTENT_DIGEST) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    match text.trim().parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(DigestError::UnsupportedAlgorithm { .. }) => Ok(None),
        Err(_) => {
            let (name, expected) = ("Docker-Content-Digest", "a digest");
            Err(Error::BadHeader { url: url.clone(), name, found: cut(&text), expected })
        }
    }
}

/// Accepts bytes that have each of the digests that are known.
fn verify_all(bytes: Vec<u8>, digests: &[Option<BlobDigest>]) -> Result<Verified<Vec<u8>>, DigestError> {
    let verified = Verified::trust(bytes);
    match digests.iter().flatten().find(|digest| **digest != verified.digest()) {
        Some(expected) => {
            let what = "manifest".to_owned();
            Err(DigestError::Mismatch { what, expected: *expected, found: verified.digest() })
        }
        None => Ok(verified),
    }
}

/// What a manifest is asked for by.
pub(crate) enum Target<'a> {
    Tag(&'a str),
    Digest(BlobDigest),
}

impl<'a> Target<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Error> {
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_tag = (1..=128).contains(&text.len()) && text.bytes().all(is_word) && !text.starts_with(['.', '-']);
        if is_tag { Ok(Self::Tag(text)) } else { Err(Error::BadName { what: "the tag or digest", found: cut(text) }) }
    }

    /// Gives what an endpoint is asked for: a tag may have another name there.
    pub(crate) fn path_at(&self, remote: &Remote) -> Result<String, Error> {
        match (self, &remote.endpoint().tag) {
            (Self::Tag(_), Some(tag)) => Ok(format!("manifests/{}", Target::parse(tag)?)),
            _ => Ok(format!("manifests/{self}")),
        }
    }

    pub(crate) fn digest(&self) -> Option<BlobDigest> {
        match self {
            Self::Tag(_) => None,
            Self::Digest(digest) => Some(*digest),
        }
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}
