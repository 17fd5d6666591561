// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pushes (distribution-spec, "Push"): blobs that are there already, mounted from another repository, or sent whole or in
//! chunks; and manifests.
//!
//! A push goes to the registry itself and never to a mirror. Where an upload goes is the registry's to say, in a `Location`
//! after each step: it may be relative, its query belongs to it, and on another host it gets the bytes and nothing of what
//! authorizes us.

use std::fmt;
use std::io::{self, Read};

use stos_spec::text::cut;
use stos_spec::{BlobDigest, Descriptor};
use ureq::http::header::{self, HeaderName, HeaderValue};
use ureq::http::{HeaderMap, Method};

use crate::client::{Registry, Target, blob_path, content_digest};
use crate::error::Error;
use crate::exchange::{Answer, redirect_target, refuse_downgrade};
use crate::remote::{Remote, Wanted};
use crate::token::Scope;
use crate::transport::Payload;
use crate::url::Url;

/// How often a chunk is sent without the registry having more afterwards.
const TRIES_MAX: u32 = 3;

/// The registry's word on how small a chunk may be (distribution-spec, "Pushing a blob in chunks").
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// The largest chunk that a registry can make us keep in memory, in bytes.
const CHUNK_MAX: u64 = 256 << 20;

/// How a blob is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UploadOptions {
    /// Sends chunks of so many bytes, each kept in memory until the registry has it, so that one that got lost is sent
    /// again. A registry may want larger ones. `None` sends the blob in one request, which every registry takes.
    pub chunk: Option<u64>,
}

/// What comes of asking for an upload.
#[derive(Debug)]
pub enum UploadStart {
    /// The repository has the blob now: the registry took it from the other one.
    Mounted,
    /// The blob is to be sent.
    Started(Box<Upload>),
}

/// An upload that has begun. The registry forgets one that is dropped, in its own time.
pub struct Upload {
    registry: Registry,
    descriptor: Descriptor,
    scope: Scope,
    /// Where the next request goes.
    url: Url,
    /// The smallest chunk that the registry takes, in bytes.
    chunk_min: u64,
}

impl Registry {
    /// Asks whether the repository has a blob, so that it need not be sent.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::SizeMismatch`] where the registry has something of another size by that digest.
    pub fn has_blob(&self, repository: &str, descriptor: &Descriptor) -> Result<bool, Error> {
        let remote = self.registry_itself("a push")?;
        let repository = remote.name_here(repository);
        let (path, scope) = (blob_path(descriptor), Scope::push(repository));
        let wanted = Wanted { method: Method::HEAD, repository, path: &path, headers: &[], scope: &scope, body: None };
        let answer = remote.get(&wanted)?;
        if answer.status() == 404 {
            answer.discard(remote.transport());
            return Ok(false);
        }
        let answer = answer.success(remote.transport())?;
        let url = answer.url.shown();
        if let Some(found) = number(answer.headers(), &header::CONTENT_LENGTH).filter(|found| *found != descriptor.size)
        {
            return Err(Error::SizeMismatch { url, expected: descriptor.size, found });
        }
        check_digest(&answer, descriptor.digest)?;
        Ok(true)
    }

    /// Asks for an upload of a blob; or, where it stands in the repository `from` of the same registry, for that one to be
    /// mounted. A registry that cannot or will not mount it takes an upload.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn begin_upload(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        from: Option<&str>,
    ) -> Result<UploadStart, Error> {
        let remote = self.registry_itself("a push")?;
        let repository = remote.name_here(repository);
        if let Some(from) = from {
            // The name is to be one before it stands in an address.
            remote.url_of(from, "")?;
            let path = format!("blobs/uploads/?mount={}&from={from}", descriptor.digest);
            match self.start_upload(remote, repository, descriptor, &path, Scope::mount(repository, from)) {
                Err(error) if is_refusal(&error) => {
                    tracing::debug!(from, digest = %descriptor.digest, %error, "not mounted, to be sent");
                }
                started => return started,
            }
        }
        self.start_upload(remote, repository, descriptor, "blobs/uploads/", Scope::push(repository))
    }

    fn start_upload(
        &self,
        remote: &Remote,
        repository: &str,
        descriptor: &Descriptor,
        path: &str,
        scope: Scope,
    ) -> Result<UploadStart, Error> {
        let wanted = Wanted { method: Method::POST, repository, path, headers: &[], scope: &scope, body: Some(&[]) };
        let answer = remote.ask(&wanted)?;
        if answer.status() == 201 && path.contains("?mount=") {
            check_digest(&answer, descriptor.digest)?;
            answer.discard(remote.transport());
            return Ok(UploadStart::Mounted);
        }
        let answer = answer.expect(202, remote.transport())?;
        let url = next_location(remote, &answer)?.ok_or_else(|| Error::BadHeader {
            url: answer.url.shown(),
            name: "Location",
            found: String::new(),
            expected: "where to send the blob",
        })?;
        let chunk_min = number(answer.headers(), &HeaderName::from_static(CHUNK_MIN_LENGTH)).unwrap_or(0);
        answer.discard(remote.transport());
        // What is sent from here on is the one repository's affair.
        let scope = Scope::push(repository);
        Ok(UploadStart::Started(Box::new(Upload {
            registry: self.clone(),
            descriptor: descriptor.clone(),
            scope,
            url,
            chunk_min,
        })))
    }

    /// Puts a manifest or an index under `target`, a tag or its own digest. Gives its digest.
    ///
    /// What it refers to must be there: registries refuse it otherwise.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::DigestMismatch`] where `target` is another digest than the bytes have, before any request.
    pub fn put_manifest(
        &self,
        repository: &str,
        target: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<BlobDigest, Error> {
        let remote = self.registry_itself("a push")?;
        let target = Target::parse(target)?;
        let (path, found) = (format!("manifests/{target}"), BlobDigest::of(bytes));
        if let Some(expected) = target.digest().filter(|digest| *digest != found) {
            return Err(Error::DigestMismatch { url: remote.url_of(repository, &path)?.shown(), expected, found });
        }
        let media_type = HeaderValue::from_str(media_type)
            .map_err(|_| Error::BadName { what: "the media type", found: cut(media_type) })?;
        let headers = [(header::CONTENT_TYPE, media_type)];
        let repository = remote.name_here(repository);
        let (method, scope) = (Method::PUT, Scope::push(repository));
        let wanted = Wanted { method, repository, path: &path, headers: &headers, scope: &scope, body: Some(bytes) };
        let answer = remote.ask(&wanted)?.expect(201, remote.transport())?;
        check_digest(&answer, found)?;
        answer.discard(remote.transport());
        Ok(found)
    }
}

impl Upload {
    /// Sends the blob: exactly the descriptor's size, or it fails. That it has the descriptor's digest is checked by the
    /// registry, and its word on that by us.
    ///
    /// In one request nothing can be sent twice, so a connection that breaks is the end of it.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Content`] and [`Error::ContentSize`] where `content` fails or has another size;
    /// [`Error::UploadStuck`].
    pub fn send(mut self, content: &mut dyn Read, options: &UploadOptions) -> Result<(), Error> {
        let registry = self.registry.clone();
        let remote = registry.registry_itself("a push")?;
        let size = self.descriptor.size;
        let mut content = Content { inner: content, size, at: 0, failure: None };
        let answer = match options.chunk {
            Some(chunk) if size > 0 => {
                let chunk = chunk.max(1).max(self.chunk_min).min(CHUNK_MAX);
                self.send_chunks(remote, &mut content, chunk).and_then(|()| self.finish(remote, Payload::Bytes(&[])))
            }
            _ => self.send_whole(remote, &mut content),
        };
        // Why the content failed matters more than what that did to the request.
        if let Some(failure) = content.failure {
            return Err(failure.into_error(&self.url));
        }
        let answer = answer?;
        check_digest(&answer, self.descriptor.digest)?;
        answer.discard(remote.transport());
        Ok(())
    }

    fn send_whole(&mut self, remote: &Remote, content: &mut Content<'_>) -> Result<Answer, Error> {
        if content.size == 0 {
            // Where something follows the failure is told instead, and a blob of another digest is refused anyway.
            drop(content.expect_end());
            return self.finish(remote, Payload::Bytes(&[]));
        }
        if remote.is_token_over(&self.scope) {
            // What comes from a reader is sent once, so the token is renewed first. What the answer says is of no matter.
            drop(self.ask_status(remote));
        }
        let size = content.size;
        self.finish(remote, Payload::Reader(content, size))
    }

    fn finish(&self, remote: &Remote, payload: Payload<'_>) -> Result<Answer, Error> {
        let url = self.url.clone().with_query(&[("digest", &self.descriptor.digest.to_string())]);
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
        remote.send(Method::PUT, &url, &headers, &self.scope, payload)?.expect(201, remote.transport())
    }

    fn send_chunks(&mut self, remote: &Remote, content: &mut Content<'_>, chunk: u64) -> Result<(), Error> {
        let size = self.descriptor.size;
        let mut at = 0;
        let mut buffer = Vec::new();
        while at < size {
            buffer.clear();
            let left = chunk.min(size - at);
            let read = io::Read::by_ref(content).take(left).read_to_end(&mut buffer);
            read.map_err(|source| Error::Content { url: self.url.shown(), source })?;
            self.send_chunk(remote, at, &buffer)?;
            at += buffer.len() as u64;
        }
        Ok(())
    }

    /// Sends bytes until the registry has them all, each time from where it says that it is.
    fn send_chunk(&mut self, remote: &Remote, start: u64, bytes: &[u8]) -> Result<(), Error> {
        let end = start + bytes.len() as u64;
        let (mut at, mut tries) = (start, 0);
        while at < end {
            let rest = &bytes[usize::try_from(at - start).unwrap_or(bytes.len())..];
            let (has, failure) = match self.patch(remote, at, rest) {
                Ok(has) => (has, None),
                Err(error) if can_go_on(&error) => {
                    tracing::debug!(url = %self.url.shown(), at, %error, "asking how far the upload is");
                    (self.ask_status(remote).unwrap_or(at), Some(error))
                }
                Err(error) => return Err(error),
            };
            if !(start..=end).contains(&has) {
                let (url, found) = (self.url.shown(), format!("0-{}", has.saturating_sub(1)));
                return Err(Error::BadHeader { url, name: "Range", found, expected: "a range that ends in the chunk" });
            }
            tries = if has > at { 0 } else { tries + 1 };
            if tries == TRIES_MAX {
                let url = self.url.shown();
                let last = Box::new(failure.unwrap_or(Error::ContentSize {
                    url: url.clone(),
                    expected: end - start,
                    found: Some(has - start),
                }));
                return Err(Error::UploadStuck { url, at, tries, last });
            }
            at = has;
        }
        Ok(())
    }

    /// Sends one chunk; gives how many bytes the registry has then.
    fn patch(&mut self, remote: &Remote, at: u64, bytes: &[u8]) -> Result<u64, Error> {
        let end = at + bytes.len() as u64;
        let range = HeaderValue::try_from(format!("{at}-{}", end - 1)).expect("digits are a header");
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
            (header::CONTENT_RANGE, range),
        ];
        let answer = remote.send(Method::PATCH, &self.url, &headers, &self.scope, Payload::Bytes(bytes))?;
        let answer = answer.expect(202, remote.transport())?;
        let has = range_end(&answer)?.map_or(end, |last| last + 1);
        self.go_to_next(remote, answer)?;
        Ok(has)
    }

    /// Asks how many bytes the registry has (distribution-spec: `GET` on the upload, 204 with a `Range`).
    fn ask_status(&mut self, remote: &Remote) -> Result<u64, Error> {
        let answer = remote.send(Method::GET, &self.url, &[], &self.scope, Payload::None)?;
        let answer = answer.expect(204, remote.transport())?;
        let has = match range_end(&answer)? {
            // So says an upload that has just begun, though a range cannot be empty.
            None | Some(0) => 0,
            Some(last) => last + 1,
        };
        self.go_to_next(remote, answer)?;
        Ok(has)
    }

    fn go_to_next(&mut self, remote: &Remote, answer: Answer) -> Result<(), Error> {
        if let Some(url) = next_location(remote, &answer)? {
            self.url = url;
        }
        answer.discard(remote.transport());
        Ok(())
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("url", &self.url).field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

/// Tells whether a mount is merely refused, so that an upload may do.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::Unauthorized { .. } | Error::Denied { .. } | Error::NotFound { .. } => true,
        Error::UnexpectedStatus { status, .. } => matches!(status, 400..=499),
        _ => false,
    }
}

/// Tells whether a chunk that failed may be sent again, from where the registry says that it is.
fn can_go_on(error: &Error) -> bool {
    error.is_transient() || matches!(error, Error::UnexpectedStatus { status: 416, .. })
}

/// Gives where the upload goes on, where the answer says so.
fn next_location(remote: &Remote, answer: &Answer) -> Result<Option<Url>, Error> {
    if !answer.headers().contains_key(header::LOCATION) {
        return Ok(None);
    }
    let next = redirect_target(answer)?;
    refuse_downgrade(remote.transport(), &answer.url, &next)?;
    Ok(Some(next))
}

/// Compares the digest that the registry announces, if it does.
fn check_digest(answer: &Answer, expected: BlobDigest) -> Result<(), Error> {
    let url = answer.url.shown();
    match content_digest(answer.headers(), &url)? {
        Some(found) if found != expected => Err(Error::DigestMismatch { url, expected, found }),
        _ => Ok(()),
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Reads the last byte of `Range: 0-N`, as registries write it, or `bytes=0-N`, as the specification once did.
fn range_end(answer: &Answer) -> Result<Option<u64>, Error> {
    let Some(value) = answer.headers().get(header::RANGE) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let range = text.trim().strip_prefix("bytes=").unwrap_or(text.trim());
    match range.strip_prefix("0-").and_then(|end| end.parse().ok()).filter(|end| *end < u64::MAX) {
        Some(end) => Ok(Some(end)),
        None => {
            let (url, name, found) = (answer.url.shown(), "Range", cut(&text));
            Err(Error::BadHeader { url, name, found, expected: "a range from 0" })
        }
    }
}

/// What is to be sent: exactly so many bytes. An end that comes early or late is a failure, told before the last byte is
/// given, and so before the registry has it all.
struct Content<'a> {
    inner: &'a mut dyn Read,
    size: u64,
    at: u64,
    failure: Option<ContentFailure>,
}

enum ContentFailure {
    Read(io::Error),
    Size { expected: u64, found: Option<u64> },
}

impl ContentFailure {
    fn into_error(self, url: &Url) -> Error {
        let url = url.shown();
        match self {
            Self::Read(source) => Error::Content { url, source },
            Self::Size { expected, found } => Error::ContentSize { url, expected, found },
        }
    }
}

impl Content<'_> {
    /// Sees that nothing follows.
    fn expect_end(&mut self) -> io::Result<()> {
        if self.read_inner(&mut [0])? > 0 {
            self.failure = Some(ContentFailure::Size { expected: self.size, found: None });
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }

    fn read_inner(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let again = io::Error::from(error.kind());
                    self.failure = Some(ContentFailure::Read(error));
                    return Err(again);
                }
                read => return read,
            }
        }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size - self.at;
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.read_inner(&mut buffer[..room])?;
        self.at += n as u64;
        if n == 0 {
            self.failure = Some(ContentFailure::Size { expected: self.size, found: Some(self.at) });
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.at == self.size {
            self.expect_end()?;
        }
        Ok(n)
    }
}
