// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One upload (distribution-spec, "Pushing blobs"): a blob on its way, whole or in chunks.
//!
//! Where it goes is the registry's to say, in a `Location` after each step: it may be relative, its query belongs to it, and on
//! another host it gets the bytes and nothing of what authorizes us.

use std::fmt;
use std::io::{self, Read};

use stos_spec::text::cut;
use stos_spec::{BlobDigest, Descriptor, DigestHasher};
use ureq::http::Method;
use ureq::http::header::{self, HeaderValue};

use crate::client::Registry;
use crate::error::Error;
use crate::exchange::{Answer, redirect_target, refuse_downgrade};
use crate::push::check_digest;
use crate::remote::Remote;
use crate::retry::{Attempts, retry};
use crate::token::Scope;
use crate::transport::Payload;
use crate::url::{ShownUrl, Url};

/// How often in a row a registry may take a chunk and have no more afterwards, or refuse it as out of step.
const TRIES_MAX: u32 = 3;

/// The largest chunk that a registry can make us keep in memory, in bytes. One that wants larger ones gets the blob whole.
const CHUNK_MAX: u64 = 32 << 20;

/// How much of a chunk is read before anybody looks whether it is still wanted, in bytes.
const PIECE: u64 = 1 << 20;

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
    session: Session,
    descriptor: Descriptor,
}

/// An upload of which nobody has said yet what it is.
pub(crate) struct Session {
    pub(crate) registry: Registry,
    /// As the user calls it.
    pub(crate) repository: String,
    pub(crate) scope: Scope,
    /// Where the next request goes.
    pub(crate) url: Url,
    /// The smallest chunk that the registry takes, in bytes.
    pub(crate) chunk_min: u64,
}

impl Upload {
    pub(crate) fn new(session: Session, descriptor: Descriptor) -> Self {
        Self { session, descriptor }
    }

    pub(crate) fn shown_url(&self) -> ShownUrl {
        self.session.url.shown()
    }

    /// Sends the blob: exactly the descriptor's size, or it fails. That it has the descriptor's digest is checked by the
    /// registry, and its word on that by us.
    ///
    /// In one request nothing can be sent twice, so a connection that breaks is the end of it.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Content`] and [`Error::ContentSize`] where `content` fails or has another size;
    /// [`Error::UploadStuck`].
    pub fn send(self, content: &mut dyn Read, options: &UploadOptions) -> Result<(), Error> {
        let Self { mut session, descriptor } = self;
        let registry = session.registry.clone();
        let remote = registry.registry_itself("a push")?;
        let mut content = Content { inner: content, size: descriptor.size, at: 0, failure: None };
        let sent = match options.chunk {
            Some(chunk) if descriptor.size > 0 && session.takes_chunks() => session
                .send_chunks(remote, &mut content, chunk)
                .and_then(|()| session.finish_chunks(remote, &descriptor)),
            _ => session.send_whole(remote, &mut content, descriptor.digest),
        };
        // Why the content failed matters more than what that did to the request.
        match content.failure {
            Some(failure) => Err(failure.into_error(&session.url)),
            None => sent,
        }
    }
}

impl Upload {
    /// Tells the registry that nothing will come, so that it need not keep the upload. It may keep it all the same.
    pub fn abandon(self) {
        let Self { session: Session { registry, scope, url, .. }, .. } = self;
        let sent = registry.registry_itself("a push").and_then(|remote| {
            let answer = remote.send(Method::DELETE, &url, &[], &scope, Payload::None)?;
            answer.discard(remote.transport());
            Ok(())
        });
        if let Err(error) = sent {
            tracing::debug!(url = %url.shown(), %error, "the upload is left to the registry");
        }
    }
}

impl Session {
    /// Sends what is read until its end, in chunks, and gives what it was.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Content`] where `content` fails.
    pub(crate) fn send_stream(mut self, content: &mut dyn Read, chunk: u64) -> Result<(BlobDigest, u64), Error> {
        let registry = self.registry.clone();
        let remote = registry.registry_itself("a push")?;
        let (mut hasher, mut at, mut buffer) = (DigestHasher::default(), 0, Vec::new());
        loop {
            self.read_chunk(content, self.chunk_of(chunk), &mut buffer)?;
            if buffer.is_empty() {
                break;
            }
            hasher.update(&buffer);
            self.send_chunk(remote, at, &buffer)?;
            at += buffer.len() as u64;
        }
        let digest = BlobDigest::from_bytes(hasher.finish());
        self.finish_chunks(remote, &Descriptor::new("application/octet-stream", digest, at))?;
        Ok((digest, at))
    }

    /// Tells whether the registry takes chunks that we can keep in memory.
    pub(crate) fn takes_chunks(&self) -> bool {
        self.chunk_min <= CHUNK_MAX
    }

    /// Gives how large a chunk is to be, where so much is wanted.
    fn chunk_of(&self, wanted: u64) -> u64 {
        wanted.max(1).max(self.chunk_min)
    }

    fn read_chunk(&self, content: &mut dyn Read, size: u64, buffer: &mut Vec<u8>) -> Result<(), Error> {
        buffer.clear();
        while (buffer.len() as u64) < size {
            if self.registry.cancel_flag().is_set() {
                return Err(Error::Cancelled { url: self.url.shown() });
            }
            let left = PIECE.min(size - buffer.len() as u64);
            match content.take(left).read_to_end(buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(source) => return Err(Error::Content { url: self.url.shown(), source }),
            }
        }
        Ok(())
    }

    fn send_whole(&mut self, remote: &Remote, content: &mut Content<'_>, digest: BlobDigest) -> Result<(), Error> {
        let payload = match content.size {
            0 => {
                // Where something follows the failure is told instead, and a blob of another digest is refused anyway.
                drop(content.expect_end());
                Payload::Bytes(&[])
            }
            size => {
                if remote.may_be_challenged(&self.scope) {
                    // What comes from a reader is sent once, so a token is had first. What the answer says is of no matter.
                    drop(self.ask_status(remote));
                }
                Payload::Reader(content, size)
            }
        };
        self.finish(remote, digest, payload)
    }

    fn finish(&self, remote: &Remote, digest: BlobDigest, payload: Payload<'_>) -> Result<(), Error> {
        let url = self.url.clone().with_query(&[("digest", &digest.to_string())]);
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
        let answer = remote.send(Method::PUT, &url, &headers, &self.scope, payload)?.expect(201, remote.transport())?;
        check_digest(&answer, digest)?;
        answer.discard(remote.transport());
        Ok(())
    }

    /// Ends an upload of which every chunk has arrived. One try may have done so though its answer was lost: the upload is gone
    /// then, and the blob is there.
    fn finish_chunks(&self, remote: &Remote, blob: &Descriptor) -> Result<(), Error> {
        let attempts = Attempts::new(&remote.transport().options().retry, self.url.shown());
        let mut was_tried = false;
        retry(attempts, self.registry.cancel_flag(), || {
            let is_again = std::mem::replace(&mut was_tried, true);
            match self.finish(remote, blob.digest, Payload::Bytes(&[])) {
                Err(Error::NotFound { .. }) if is_again && self.registry.has_blob(&self.repository, blob)? => Ok(()),
                finished => finished,
            }
        })
    }

    fn send_chunks(&mut self, remote: &Remote, content: &mut Content<'_>, chunk: u64) -> Result<(), Error> {
        let (mut at, mut buffer) = (0, Vec::new());
        while at < content.size {
            let left = self.chunk_of(chunk).min(content.size - at);
            self.read_chunk(content, left, &mut buffer)?;
            self.send_chunk(remote, at, &buffer)?;
            at += buffer.len() as u64;
        }
        Ok(())
    }

    /// Sends bytes until the registry has them all, each time from where it says that it is.
    fn send_chunk(&mut self, remote: &Remote, start: u64, bytes: &[u8]) -> Result<(), Error> {
        let end = start + bytes.len() as u64;
        let mut attempts = Attempts::new(&remote.transport().options().retry, self.url.shown());
        let (mut at, mut stuck) = (start, 0);
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
            if has > at {
                (at, stuck) = (has, 0);
                attempts.refill();
                continue;
            }
            at = has;
            match failure {
                Some(error) if error.is_transient() => attempts.wait_after(error, self.registry.cancel_flag())?,
                failure => {
                    stuck += 1;
                    if stuck == TRIES_MAX {
                        return Err(self.is_stuck(at, start, end, failure));
                    }
                    // Quay tells one byte more than it has.
                    at -= u64::from(failure.is_some() && at > start);
                }
            }
        }
        Ok(())
    }

    fn is_stuck(&self, at: u64, start: u64, end: u64, failure: Option<Error>) -> Error {
        let url = self.url.shown();
        let missing = || Error::ContentSize { url: url.clone(), expected: end - start, found: Some(at - start) };
        let last = Box::new(failure.unwrap_or_else(missing));
        Error::UploadStuck { url, at, tries: TRIES_MAX, last }
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
        let Self { session, descriptor } = self;
        f.debug_struct("Upload").field("url", &session.url).field("descriptor", descriptor).finish_non_exhaustive()
    }
}

/// Tells whether a chunk that failed may be sent again, from where the registry says that it is.
fn can_go_on(error: &Error) -> bool {
    error.is_transient() || matches!(error, Error::UnexpectedStatus { status: 416, .. })
}

/// Gives where the upload goes on, where the answer says so.
pub(crate) fn next_location(remote: &Remote, answer: &Answer) -> Result<Option<Url>, Error> {
    if !answer.headers().contains_key(header::LOCATION) {
        return Ok(None);
    }
    let next = redirect_target(answer)?;
    refuse_downgrade(remote.transport(), &answer.url, &next)?;
    Ok(Some(next))
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
