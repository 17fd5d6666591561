// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pushes (distribution-spec, "Push"): blobs that are there already, mounted from another repository, or sent whole or in
//! chunks; and manifests.
//!
//! A push goes to the registry itself and never to a mirror. What may pass is tried again, as for a pull: nothing here does harm
//! when it is done twice. How a blob is sent is told in [`upload`](crate::upload).

use std::io::{self, Read};

use stos_spec::text::cut;
use stos_spec::{BlobDigest, Descriptor, DigestHasher};
use ureq::http::header::{self, HeaderName, HeaderValue};
use ureq::http::{HeaderMap, Method};

use crate::client::{Registry, Target, blob_path, content_digest};
use crate::error::Error;
use crate::exchange::Answer;
use crate::remote::{Remote, Wanted, check_repository};
use crate::retry::{Attempts, Cancel, retry};
use crate::token::Scope;
use crate::upload::{Session, Upload, UploadOptions, UploadStart, next_location};
use crate::url::ShownUrl;

/// The registry's word on how small a chunk may be (distribution-spec, "Pushing a blob in chunks").
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// Something that can be sent, and sent again from its beginning.
pub type Reopen<'a> = dyn Fn() -> io::Result<Box<dyn Read + 'a>> + 'a;

impl Registry {
    /// Asks whether the repository has a blob, so that it need not be sent.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::SizeMismatch`] where the registry has something of another size by that digest.
    pub fn has_blob(&self, repository: &str, descriptor: &Descriptor) -> Result<bool, Error> {
        let remote = self.registry_itself("a push")?;
        let here = remote.name_here(repository);
        let (path, scope) = (blob_path(descriptor), Scope::push(here));
        self.again(remote, repository, &path, || {
            let (method, repository) = (Method::HEAD, here);
            let answer =
                remote.get(&Wanted { method, repository, path: &path, headers: &[], scope: &scope, body: None })?;
            if answer.status() == 404 {
                answer.discard(remote.transport());
                return Ok(false);
            }
            let answer = answer.success(remote.transport())?;
            let (url, length) = (answer.url.shown(), number(answer.headers(), &header::CONTENT_LENGTH));
            if let Some(found) = length.filter(|found| *found != descriptor.size) {
                return Err(Error::SizeMismatch { url, expected: descriptor.size, found });
            }
            check_digest(&answer, descriptor.digest)?;
            Ok(true)
        })
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
        let started = |session| UploadStart::Started(Box::new(Upload::new(session, descriptor.clone())));
        if let Some(from) = from {
            match self.mount(repository, descriptor, from) {
                Ok(None) => return Ok(UploadStart::Mounted),
                Ok(Some(session)) => return Ok(started(session)),
                Err(error @ (Error::Cancelled { .. } | Error::BadName { .. })) => return Err(error),
                // Whatever keeps it from being mounted: where it keeps it from being sent too, that will be told.
                Err(error) => tracing::debug!(from, digest = %descriptor.digest, %error, "not mounted, to be sent"),
            }
        }
        self.begin_session(repository).map(started)
    }

    /// Sends a blob that can be read again: in one request, which every registry takes; where that fails in a way that may pass,
    /// in chunks, of which none is lost that has arrived.
    ///
    /// # Errors
    /// As [`Upload::send`].
    pub fn push_blob(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        started: Option<Box<Upload>>,
        open: &Reopen<'_>,
        chunk: u64,
    ) -> Result<(), Error> {
        let begin = || self.begin_session(repository).map(|session| Upload::new(session, descriptor.clone()));
        let mut upload = started.map_or_else(begin, |upload| Ok(*upload))?;
        let url = upload.shown_url();
        let (mut attempts, cancel) = (self.attempts(url.clone())?, self.cancel_flag());
        let (mut options, mut takes_chunks, mut was_refused) = (UploadOptions::default(), true, false);
        loop {
            match upload.send(&mut *opened(open, &url)?, &options) {
                Ok(()) => return Ok(()),
                Err(error) if options.chunk.is_some() && takes_no_chunks(&error) => takes_chunks = false,
                // What comes from a reader cannot answer a challenge; a chunk can.
                Err(Error::Unauthorized { .. }) if options.chunk.is_none() && !was_refused => was_refused = true,
                Err(error) => {
                    attempts.wait_after(error, cancel)?;
                    // The answer alone may have been lost.
                    if self.has_blob(repository, descriptor)? {
                        return Ok(());
                    }
                }
            }
            tracing::info!(%url, takes_chunks, "the blob is sent again");
            options.chunk = takes_chunks.then_some(chunk);
            upload = begin()?;
        }
    }

    /// Sends what nobody has hashed yet, as it is made: in chunks of so many bytes. Gives its digest and its size.
    ///
    /// A registry that takes no chunks gets it in one request, made a second time: its digest is part of that.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Content`] where `open`, or what it gives, fails.
    pub fn push_stream(
        &self,
        repository: &str,
        media_type: &str,
        open: &Reopen<'_>,
        chunk: u64,
    ) -> Result<Descriptor, Error> {
        let session = self.begin_session(repository)?;
        let url = session.url.shown();
        let describe = |(digest, size)| Descriptor::new(media_type, digest, size);
        if session.takes_chunks() {
            match session.send_stream(&mut *opened(open, &url)?, chunk) {
                Err(error) if takes_no_chunks(&error) => tracing::info!(%url, %error, "the registry takes no chunks"),
                sent => return sent.map(describe),
            }
        }
        let descriptor = describe(hash(&mut *opened(open, &url)?, &url, self.cancel_flag())?);
        self.push_blob(repository, &descriptor, None, open, chunk)?;
        Ok(descriptor)
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
        let (path, found) = (target.path_at(remote)?, BlobDigest::of(bytes));
        if let Some(expected) = target.digest().filter(|digest| *digest != found) {
            return Err(Error::DigestMismatch { url: remote.url_of(repository, &path)?.shown(), expected, found });
        }
        let media_type = HeaderValue::from_str(media_type)
            .map_err(|_| Error::BadName { what: "the media type", found: cut(media_type) })?;
        let headers = [(header::CONTENT_TYPE, media_type)];
        let here = remote.name_here(repository);
        let scope = Scope::push(here);
        self.again(remote, repository, &path, || {
            let (method, repository) = (Method::PUT, here);
            let body = Some(bytes);
            let wanted = Wanted { method, repository, path: &path, headers: &headers, scope: &scope, body };
            let answer = remote.ask(&wanted)?.expect(201, remote.transport())?;
            check_digest(&answer, found)?;
            answer.discard(remote.transport());
            Ok(found)
        })
    }

    fn begin_session(&self, repository: &str) -> Result<Session, Error> {
        let remote = self.registry_itself("a push")?;
        let here = remote.name_here(repository);
        let path = "blobs/uploads/";
        let scope = Scope::push(here);
        self.again(remote, repository, path, || {
            let answer = start_upload(remote, here, path, &scope)?.expect(202, remote.transport())?;
            self.session_of(remote, repository, scope.clone(), answer)
        })
    }

    /// Asks for a blob to be mounted; gives an upload where that is what the registry has begun instead.
    fn mount(&self, repository: &str, descriptor: &Descriptor, from: &str) -> Result<Option<Session>, Error> {
        let remote = self.registry_itself("a push")?;
        let here = remote.name_here(repository);
        check_repository(from)?;
        let path = format!("blobs/uploads/?mount={}&from={from}", descriptor.digest);
        let scope = Scope::mount(here, from);
        let answer = start_upload(remote, here, &path, &scope)?;
        if answer.status() == 201 {
            check_digest(&answer, descriptor.digest)?;
            answer.discard(remote.transport());
            return Ok(None);
        }
        let answer = answer.expect(202, remote.transport())?;
        self.session_of(remote, repository, scope, answer).map(Some)
    }

    /// Takes an upload that has begun. What was allowed then is what its other requests need.
    fn session_of(&self, remote: &Remote, repository: &str, scope: Scope, answer: Answer) -> Result<Session, Error> {
        let url = next_location(remote, &answer)?.ok_or_else(|| Error::BadHeader {
            url: answer.url.shown(),
            name: "Location",
            found: String::new(),
            expected: "where to send the blob",
        })?;
        let chunk_min = number(answer.headers(), &HeaderName::from_static(CHUNK_MIN_LENGTH)).unwrap_or(0);
        answer.discard(remote.transport());
        let (registry, repository) = (self.clone(), repository.to_owned());
        Ok(Session { registry, repository, scope, url, chunk_min })
    }

    /// Does what does no harm when it is done twice until it succeeds, or is to be given up.
    fn again<T>(
        &self,
        remote: &Remote,
        repository: &str,
        path: &str,
        attempt: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let url = remote.url_of(repository, path)?.shown();
        retry(self.attempts(url)?, self.cancel_flag(), attempt)
    }

    fn attempts(&self, url: ShownUrl) -> Result<Attempts, Error> {
        Ok(Attempts::new(&self.registry_itself("a push")?.transport().options().retry, url))
    }
}

fn start_upload(remote: &Remote, repository: &str, path: &str, scope: &Scope) -> Result<Answer, Error> {
    remote.ask(&Wanted { method: Method::POST, repository, path, headers: &[], scope, body: Some(&[]) })
}

fn opened<'a>(open: &Reopen<'a>, url: &ShownUrl) -> Result<Box<dyn Read + 'a>, Error> {
    open().map_err(|source| Error::Content { url: url.clone(), source })
}

fn hash(content: &mut dyn Read, url: &ShownUrl, cancel: &Cancel) -> Result<(BlobDigest, u64), Error> {
    let (mut hasher, mut size, mut buffer) = (DigestHasher::default(), 0, vec![0; 256 << 10]);
    loop {
        match content.read(&mut buffer) {
            _ if cancel.is_set() => return Err(Error::Cancelled { url: url.clone() }),
            Ok(0) => return Ok((BlobDigest::from_bytes(hasher.finish()), size)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Content { url: url.clone(), source }),
        }
    }
}

/// Tells whether a registry has refused a chunk as such: some take a blob in one request only.
fn takes_no_chunks(error: &Error) -> bool {
    match error {
        Error::UnexpectedStatus { status, .. } => matches!(status, 400 | 405 | 411 | 413 | 415 | 416),
        Error::Server { status, .. } => *status == 501,
        Error::UploadStuck { last, .. } => takes_no_chunks(last),
        _ => false,
    }
}

/// Compares the digest that the registry announces, if it does.
pub(crate) fn check_digest(answer: &Answer, expected: BlobDigest) -> Result<(), Error> {
    let url = answer.url.shown();
    match content_digest(answer.headers(), &url)? {
        Some(found) if found != expected => Err(Error::DigestMismatch { url, expected, found }),
        _ => Ok(()),
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}
