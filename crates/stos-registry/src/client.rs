// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One registry: its manifests, configurations and blobs (distribution-spec, "Pull").

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, LazyLock};

use stos_spec::manifest::MANIFEST_MAX;
use stos_spec::media_type::ACCEPTED_MANIFESTS;
use stos_spec::text::cut;
use stos_spec::{BlobDigest, Descriptor, DigestError, ImageRef, Verified};
use ureq::http::header::{self, HeaderName, HeaderValue};
use ureq::http::{HeaderMap, Method};

use crate::blob::Bound;
use crate::error::Error;
use crate::exchange::{Answer, Ask, exchange, follow, refuse_downgrade, send};
use crate::options::ClientOptions;
use crate::resume::BlobReader;
use crate::retry::{Attempts, Cancel, retry};
use crate::token::{ANSWER_MAX, Token, TokenCache, pull_scope, token_url};
use crate::transport::Transport;
use crate::url::{Scheme, ShownUrl, Url};

/// The header in which a registry says what it thinks that it sends.
const CONTENT_DIGEST: &str = "docker-content-digest";

static ACCEPT_MANIFESTS: LazyLock<[(HeaderName, HeaderValue); 1]> = LazyLock::new(|| {
    let words = HeaderValue::from_str(&ACCEPTED_MANIFESTS.join(", ")).expect("media types are ASCII");
    [(header::ACCEPT, words)]
});

/// A client for one registry. Clones share connections and tokens; threads may share one.
///
/// It opens nothing before the first request. Requests block the calling thread and start no other. What may pass is tried
/// again, as [`RetryPolicy`](crate::RetryPolicy) says.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    /// Where the registry listens: a host, and maybe a port.
    host: String,
    transport: Transport,
    tokens: TokenCache,
    /// Which protocol has answered, as one of `Speaks`.
    speaks: AtomicU8,
    /// Ends the waits between tries.
    cancel: Cancel,
}

/// Which protocol a registry speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Speaks {
    /// Nobody knows: HTTPS comes first, and without verification plain HTTP after it.
    Unknown = 0,
    Https = 1,
    Http = 2,
}

impl Speaks {
    fn scheme(self) -> Scheme {
        if self == Self::Http { Scheme::Http } else { Scheme::Https }
    }
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
    /// Makes a client for the registry of `reference`. No request is made yet.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub fn new(reference: &ImageRef, options: &ClientOptions) -> Result<Self, Error> {
        // Docker Hub answers under another name than it has (docker's own rule).
        let host = match reference.registry() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let speaks = if options.tls_verify { Speaks::Https } else { Speaks::Unknown };
        let inner = Inner {
            host: host.to_owned(),
            transport: Transport::new(options)?,
            tokens: TokenCache::default(),
            speaks: AtomicU8::new(speaks as u8),
            cancel: Cancel::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Gives where the registry listens: a host, and maybe a port.
    pub fn host(&self) -> &str {
        &self.inner.host
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
        let attempts = self.attempts(repository, &format!("manifests/{target}"))?;
        retry(attempts, self.cancel_flag(), || self.fetch_manifest_once(repository, &target, expected))
    }

    fn fetch_manifest_once(
        &self,
        repository: &str,
        target: &Target<'_>,
        expected: Option<&Descriptor>,
    ) -> Result<FetchedManifest, Error> {
        let path = format!("manifests/{target}");
        let answer = self.get(Method::GET, repository, &path, &*ACCEPT_MANIFESTS)?.success(self.transport())?;
        let url = answer.url.shown();
        let announced = content_digest(answer.headers(), &url)?;
        let content_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.map(str::to_owned);
        let bound = match expected {
            Some(descriptor) if descriptor.size <= MANIFEST_MAX => Bound::Exact(descriptor.size),
            Some(_) => return Err(Error::TooLong { url, expected: MANIFEST_MAX }),
            None => Bound::AtMost(MANIFEST_MAX),
        };
        let bytes = answer.body(self.transport(), bound)?.read_all()?;
        let digests = [target.digest(), expected.map(|descriptor| descriptor.digest), announced];
        let bytes = verify_all(bytes, &digests).map_err(|error| Error::of_digest(error, url))?;
        Ok(FetchedManifest { bytes, content_type })
    }

    /// Asks which manifest `target`, a tag or a digest, names now. One request, and no body where the registry can.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::NotFound`] for an unknown tag, digest or repository.
    pub fn resolve_digest(&self, repository: &str, target: &str) -> Result<BlobDigest, Error> {
        let target = Target::parse(target)?;
        let attempts = self.attempts(repository, &format!("manifests/{target}"))?;
        retry(attempts, self.cancel_flag(), || self.resolve_digest_once(repository, &target))
    }

    fn resolve_digest_once(&self, repository: &str, wanted: &Target<'_>) -> Result<BlobDigest, Error> {
        let answer = self.get(Method::HEAD, repository, &format!("manifests/{wanted}"), &*ACCEPT_MANIFESTS)?;
        // A registry without HEAD, or without the header, is asked for the manifest itself.
        if answer.status() == 405 {
            return Ok(self.fetch_manifest_once(repository, wanted, None)?.bytes.digest());
        }
        let answer = answer.success(self.transport())?;
        let url = answer.url.shown();
        match (content_digest(answer.headers(), &url)?, wanted.digest()) {
            (Some(found), Some(expected)) if found != expected => Err(Error::DigestMismatch { url, expected, found }),
            (Some(found), _) => Ok(found),
            (None, _) => Ok(self.fetch_manifest_once(repository, wanted, None)?.bytes.digest()),
        }
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
            let url = self.url(self.speaks().scheme(), repository, &blob_path(descriptor))?.shown();
            return Err(Error::TooLong { url, expected: max });
        }
        let reader = self.open_blob(repository, descriptor)?;
        let url = reader.url().clone();
        let bytes = reader.read_all()?;
        Verified::check(bytes, descriptor, url.as_str()).map_err(|error| Error::of_digest(error, url))
    }

    /// Opens a blob to be read as it arrives. See [`BlobReader`] for what is checked there and what is not.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::SizeMismatch`] where the registry announces another size than the descriptor says.
    pub fn open_blob(&self, repository: &str, descriptor: &Descriptor) -> Result<BlobReader, Error> {
        BlobReader::open(self.clone(), repository, descriptor)
    }

    /// Ends all work of this client and its clones: requests, bodies and waits under way fail soon, with no further try. For who
    /// has no use for the rest any more.
    pub fn cancel(&self) {
        self.inner.cancel.set();
        self.inner.transport.shut_down();
    }

    /// Asks for a blob, or with a `Range` among the headers for a part of it. Whatever the status, that is the answer.
    pub(crate) fn ask_for_blob(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Answer, Error> {
        self.get(Method::GET, repository, &blob_path(descriptor), headers)
    }

    /// Begins to count the tries for something of a repository.
    pub(crate) fn attempts(&self, repository: &str, path: &str) -> Result<Attempts, Error> {
        let url = self.url(self.speaks().scheme(), repository, path)?.shown();
        Ok(Attempts::new(&self.transport().options().retry, url))
    }

    pub(crate) fn cancel_flag(&self) -> &Cancel {
        &self.inner.cancel
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    fn speaks(&self) -> Speaks {
        match self.inner.speaks.load(Ordering::Relaxed) {
            1 => Speaks::Https,
            2 => Speaks::Http,
            _ => Speaks::Unknown,
        }
    }

    fn url(&self, scheme: Scheme, repository: &str, path: &str) -> Result<Url, Error> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        let has_dots = repository.split('/').any(|part| part.is_empty() || part == "." || part == "..");
        if has_dots || !repository.bytes().all(is_word) {
            return Err(Error::BadName { what: "the repository", found: cut(repository) });
        }
        Ok(Url::new(scheme, &self.inner.host, &format!("/v2/{repository}/{path}")))
    }

    /// Asks the registry, over the protocol that it speaks, with a token where it wants one.
    fn get(
        &self,
        method: Method,
        repository: &str,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Answer, Error> {
        let scope = pull_scope(repository);
        let kept = self.inner.tokens.get(&scope);
        let ask = Ask { method, headers, token: kept.as_ref() };
        let first = self.first_answer(repository, path, &ask)?;
        let url = first.url.clone();
        let answer = follow(self.transport(), first, &ask)?;
        // Only the registry itself may ask for a token: not a host that it redirects to.
        if answer.status() != 401 || !answer.url.is_same_origin(&url) {
            return Ok(answer);
        }
        let challenges = answer.headers().get_all(header::WWW_AUTHENTICATE);
        let Some(token_url) = token_url(challenges.iter(), &scope, &answer.url)? else {
            return Ok(answer);
        };
        refuse_downgrade(self.transport(), &answer.url, &token_url)?;
        answer.discard(self.transport());
        let token = self.fetch_token(&token_url)?;
        self.inner.tokens.put(&scope, token.clone());
        exchange(self.transport(), &url, &Ask { token: Some(&token), ..ask })
    }

    /// Gives what the registry's own host answers, redirects included.
    ///
    /// This alone tells which protocol it speaks: where a redirect leads, or a token server, may fail as it likes.
    fn first_answer(&self, repository: &str, path: &str, ask: &Ask<'_>) -> Result<Answer, Error> {
        // Once: another thread may learn it meanwhile.
        let speaks = self.speaks();
        let url = self.url(speaks.scheme(), repository, path)?;
        let first = send(self.transport(), &url, &url, ask);
        if speaks != Speaks::Unknown {
            return first;
        }
        let error = match first {
            Err(error) if is_no_https(&error) => error,
            answered => {
                self.learn(Speaks::Https);
                return answered;
            }
        };
        tracing::debug!(host = self.host(), %error, "no HTTPS, trying plain HTTP");
        let url = self.url(Scheme::Http, repository, path)?;
        // Nobody has answered yet, so no token is this host's; none goes out in clear.
        match send(self.transport(), &url, &url, &Ask { token: None, ..ask.clone() }) {
            // Both failed: the first tells more, unless all it says is that HTTP was to be tried.
            Err(second) if is_no_https(&second) => {
                let said_http = matches!(error, Error::HttpInsteadOfHttps { .. });
                Err(if said_http { second } else { error })
            }
            answered if self.learn(Speaks::Http) => answered,
            // Meanwhile another thread has had an answer over TLS.
            _ => Err(error),
        }
    }

    /// Keeps which protocol the registry speaks; gives whether that is it, for the first word counts.
    fn learn(&self, found: Speaks) -> bool {
        let (unknown, found) = (Speaks::Unknown as u8, found as u8);
        let known = self.inner.speaks.compare_exchange(unknown, found, Ordering::Relaxed, Ordering::Relaxed);
        known.map_or_else(|known| known == found, |_| true)
    }

    fn fetch_token(&self, url: &Url) -> Result<Token, Error> {
        let accept = [(header::ACCEPT, HeaderValue::from_static("application/json"))];
        let ask = Ask { method: Method::GET, headers: &accept, token: None };
        let answer = exchange(self.transport(), url, &ask)?;
        let shown = answer.url.shown();
        let body = answer.body(self.transport(), Bound::AtMost(ANSWER_MAX))?.read_all()?;
        Token::parse(&body, &shown)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("host", &self.inner.host).finish_non_exhaustive()
    }
}

pub(crate) fn blob_path(descriptor: &Descriptor) -> String {
    format!("blobs/{}", descriptor.digest)
}

/// Tells whether HTTPS failed below HTTP, so that a registry without verification may be asked without it.
fn is_no_https(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::Tls { .. } | Error::HttpInsteadOfHttps { .. })
}

/// Reads `Docker-Content-Digest`. An algorithm that we do not know contradicts nothing.
fn content_digest(headers: &HeaderMap, url: &ShownUrl) -> Result<Option<BlobDigest>, Error> {
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
enum Target<'a> {
    Tag(&'a str),
    Digest(BlobDigest),
}

impl<'a> Target<'a> {
    fn parse(text: &'a str) -> Result<Self, Error> {
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_tag = (1..=128).contains(&text.len()) && text.bytes().all(is_word) && !text.starts_with(['.', '-']);
        if is_tag { Ok(Self::Tag(text)) } else { Err(Error::BadName { what: "the tag or digest", found: cut(text) }) }
    }

    fn digest(&self) -> Option<BlobDigest> {
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
