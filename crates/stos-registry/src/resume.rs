// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A blob over as many connections as it takes: what has arrived is never asked for again, where the server can help it.
//!
//! ```text
//! GET blob                                     ─► bytes 0…N-1, and the connection breaks
//! GET blob, Range: bytes=N-, If-Range: ETag    ─► 206: the bytes from N on
//!                                              ─► 200: all of it once more; N bytes are thrown away
//!                                              ─► anything else is an error
//! ```
//!
//! So whoever hashes and inflates the blob notices nothing. Nothing here proves that the second connection goes on with the same
//! blob: `Content-Range` and `ETag` have to agree, and that is the server's word. The digest proves it, which who reads works out.
//!
//! **Budget.** A connection that brought a byte is followed by the next one at once, however often. One that brought none counts
//! as a try that has failed ([`RetryPolicy`](crate::RetryPolicy)), and so does one that stood still
//! ([`Timeouts::stall`](crate::Timeouts)), unless [`Timeouts::stall_bytes`](crate::Timeouts) came since the last that counted;
//! those also give the tries back. There is no limit to the time that a blob takes in all, but the stall limit also holds over
//! connections that break one after the other. Of a server that knows no parts at most so many times the blob's size is thrown
//! away as there are tries.
//!
//! **Mirrors.** A blob goes on at the endpoint that began it. Where that one is given up, which of a mirror is when it cannot be
//! asked again at once (see `order`), the next one is asked for the rest.

use std::fmt;
use std::io::{self, Read};
use std::time::Instant;

use stos_spec::Descriptor;
use stos_spec::text::cut;
use ureq::http::header::{self, HeaderName, HeaderValue};
use ureq::http::{HeaderMap, Method};

use crate::blob::{Bound, BoundedBody};
use crate::client::{blob_path, get};
use crate::error::Error;
use crate::exchange::Answer;
use crate::options::Timeouts;
use crate::order::Order;
use crate::remote::Remote;
use crate::retry::Attempts;
use crate::url::ShownUrl;

/// A blob as it arrives from the registry.
///
/// It gives the bytes of the wire, never decoded, and ends with `Ok(0)` only after exactly the descriptor's size. A body
/// that is longer fails with the first byte too many. Where a connection breaks, ends early or stands still, another one goes on
/// with the byte after the last, as this module says. The error of what cannot go on is an [`Error`], found with
/// [`Error::from_io`], and stays: a reader that has failed never gives bytes or `Ok(0)` again. **The bytes are not verified**:
/// who reads them hashes them.
///
/// Read until `Ok(0)`: only then is it known that nothing follows, and the connection free for the next request.
pub struct BlobReader {
    blob: Blob,
    /// Who has the turn gives the blob; the others may go on with it.
    order: Order,
    body: BoundedBody,
    /// The tries at the endpoint that has the turn.
    attempts: Attempts,
    /// What the server calls these bytes, if it is good for a comparison.
    validator: Option<HeaderValue>,
    state: State,
    /// How much was there when the body was opened.
    opened_at: u64,
    /// How much was there when a try last counted as failed, or a stall did not.
    counted_at: u64,
    /// What came in earlier bodies, what was thrown away included.
    earlier_wire_bytes: u64,
    wasted: u64,
    resumes: u32,
    opened: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

impl BlobReader {
    /// Opens a blob at the first endpoint that gives it.
    pub(crate) fn open(mut order: Order, repository: &str, descriptor: &Descriptor) -> Result<Self, Error> {
        let opened = Instant::now();
        let blob = Blob { repository: repository.to_owned(), descriptor: descriptor.clone() };
        let Opened { body, validator, .. } =
            order.ask(repository, |_| Ok(blob_path(descriptor)), |remote, _| blob.open(remote))?;
        let attempts = order.attempts(repository, &blob_path(descriptor))?;
        Ok(Self {
            blob,
            order,
            body,
            attempts,
            validator,
            state: State::Open,
            opened_at: 0,
            counted_at: 0,
            earlier_wire_bytes: 0,
            wasted: 0,
            resumes: 0,
            opened,
        })
    }

    /// Gives how many bytes have been read.
    pub fn received(&self) -> u64 {
        self.body.received()
    }

    /// Gives how many bytes there are in all: the descriptor's size.
    pub fn size(&self) -> u64 {
        self.blob.descriptor.size
    }

    /// Gives where the blob comes from, after redirects.
    pub fn url(&self) -> &ShownUrl {
        self.body.url()
    }

    /// Gives how often another connection has gone on where the last one broke.
    pub fn resumes(&self) -> u32 {
        self.resumes
    }

    /// Gives how many bytes of bodies came over the wire: more than [`received`](Self::received) where a server sent
    /// what was there already.
    pub fn wire_bytes(&self) -> u64 {
        self.earlier_wire_bytes + self.body.wire_bytes()
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if buffer.is_empty() || self.state == State::Ended {
            return Ok(0);
        }
        loop {
            match self.body.read_some(buffer) {
                Ok(0) => break,
                Ok(n) => return Ok(n),
                Err(error) if self.state == State::Failed => return Err(error),
                // A body without a length, whose connection breaks when all is there: nothing is missing, and nothing followed.
                Err(error) if error.is_transient() && self.body.missing() == 0 => break,
                Err(error) => self.resume(error).inspect_err(|_| self.state = State::Failed)?,
            }
        }
        self.state = State::Ended;
        self.tell();
        Ok(0)
    }

    /// Says what the blob took.
    fn tell(&self) {
        let (bytes, wire_bytes, resumes) = (self.received(), self.wire_bytes(), self.resumes);
        let ms = self.opened.elapsed().as_millis() as u64;
        tracing::debug!(url = %self.url(), bytes, wire_bytes, resumes, ms, "body received");
    }

    /// Goes on over another connection, unless `cause` is none that passes, or has been there too often.
    fn resume(&mut self, cause: Error) -> Result<(), Error> {
        if !cause.is_transient() || !self.attempts.may_repeat() {
            return Err(cause);
        }
        let is_stall = matches!(cause, Error::Stalled { .. });
        if self.is_free(is_stall) && !self.order.cancel_flag().is_set() {
            let (url, attempt, at) = (self.url(), self.resumes + 2, self.received());
            tracing::info!(%url, attempt, at, wait_ms = 0, error = %cause, "going on after a break");
        } else {
            self.wait_or_pass_over(cause)?;
        }
        loop {
            match self.reopen(is_stall) {
                Ok(()) => return Ok(()),
                Err(error) => self.wait_or_pass_over(error)?,
            }
        }
    }

    /// Tells whether what came since is worth another connection at once, and gives the tries back where it is worth those.
    fn is_free(&mut self, is_stall: bool) -> bool {
        let received = self.received();
        let is_much = received - self.counted_at >= self.timeouts().stall_bytes.max(1);
        if is_much {
            self.attempts.refill();
            self.counted_at = received;
        }
        is_much || (!is_stall && received > self.opened_at)
    }

    fn timeouts(&self) -> &Timeouts {
        &self.order.remote().transport().options().timeouts
    }

    /// Waits for the next try, or gives the endpoint up and goes on to the next one.
    fn wait_or_pass_over(&mut self, error: Error) -> Result<(), Error> {
        self.counted_at = self.received();
        let Err(error) = self.attempts.wait_after(error, self.order.cancel_flag()) else { return Ok(()) };
        self.order.pass_over(error)?;
        self.attempts = self.order.attempts(&self.blob.repository, &blob_path(&self.blob.descriptor))?;
        // What one server calls these bytes says nothing about what another one does.
        self.validator = None;
        Ok(())
    }

    fn reopen(&mut self, is_stall: bool) -> Result<(), Error> {
        let started = Instant::now();
        let at = self.received();
        let Opened { mut body, validator, is_whole } =
            self.blob.open_at(self.order.remote(), at, self.validator.as_ref())?;
        if !is_stall {
            body.continue_pace(&self.body, started.elapsed());
        }
        if is_whole {
            let thrown_away = self.throw_away(&mut body, at);
            if thrown_away.is_err() {
                self.earlier_wire_bytes += body.wire_bytes();
            }
            thrown_away?;
        }
        if is_whole || at == 0 {
            self.validator = None;
        }
        self.validator = self.validator.take().or(validator);
        self.earlier_wire_bytes += self.body.wire_bytes();
        self.body = body;
        self.opened_at = at;
        self.resumes += 1;
        Ok(())
    }

    /// Reads what is there already: `count` bytes at the beginning of a body.
    fn throw_away(&mut self, body: &mut BoundedBody, count: u64) -> Result<(), Error> {
        let mut buffer = vec![0; 64 << 10];
        while body.received() < count {
            let room = usize::try_from(count - body.received()).unwrap_or(usize::MAX).min(buffer.len());
            self.wasted += body.read_some(&mut buffer[..room])? as u64;
            if self.wasted > self.attempts.waste(self.size()) {
                return Err(Error::NoParts { url: body.url().clone(), wasted: self.wasted });
            }
        }
        Ok(())
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_some(buffer).map_err(io::Error::from)
    }
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (received, resumes) = (self.received(), self.resumes);
        f.debug_struct("BlobReader")
            .field("url", self.url())
            .field("received", &received)
            .field("resumes", &resumes)
            .finish_non_exhaustive()
    }
}

/// A blob, by the name that its repository has for the user.
struct Blob {
    repository: String,
    descriptor: Descriptor,
}

/// A body of a blob.
struct Opened {
    body: BoundedBody,
    validator: Option<HeaderValue>,
    /// It begins with the blob's first byte, although another was asked for.
    is_whole: bool,
}

impl Blob {
    fn ask(&self, remote: &Remote, headers: &[(HeaderName, HeaderValue)]) -> Result<Answer, Error> {
        get(remote, Method::GET, &self.repository, &blob_path(&self.descriptor), headers)
    }

    fn open(&self, remote: &Remote) -> Result<Opened, Error> {
        self.whole(remote, self.ask(remote, &[])?.success(remote.transport())?, false)
    }

    /// Asks for the bytes from `at` on.
    fn open_at(&self, remote: &Remote, at: u64, validator: Option<&HeaderValue>) -> Result<Opened, Error> {
        if at == 0 {
            return self.open(remote);
        }
        let range = HeaderValue::try_from(format!("bytes={at}-")).expect("digits are ASCII");
        let mut headers = vec![(header::RANGE, range)];
        headers.extend(validator.map(|validator| (header::IF_RANGE, validator.clone())));
        let answer = self.ask(remote, &headers)?;
        match answer.status() {
            206 => self.part(remote, answer, at, validator),
            200 => self.whole(remote, answer, true),
            416 => Err(self.wrong_part(&answer, at)),
            _ => Err(answer.refusal(206, remote.transport())),
        }
    }

    fn whole(&self, remote: &Remote, answer: Answer, is_whole: bool) -> Result<Opened, Error> {
        let validator = strong_etag(answer.headers());
        let body = answer.body(remote.transport(), Bound::Exact(self.descriptor.size))?;
        Ok(Opened { body, validator, is_whole })
    }

    fn part(&self, remote: &Remote, answer: Answer, at: u64, expected: Option<&HeaderValue>) -> Result<Opened, Error> {
        if !is_rest(answer.headers(), at, self.descriptor.size) {
            return Err(self.wrong_part(&answer, at));
        }
        let validator = strong_etag(answer.headers());
        if let (Some(expected), Some(found)) = (expected, &validator)
            && expected != found
        {
            let text = |value: &HeaderValue| cut(&String::from_utf8_lossy(value.as_bytes()));
            let (expected, found) = (text(expected), text(found));
            return Err(Error::Changed { url: answer.url.shown(), expected, found });
        }
        let bound = Bound::Exact(self.descriptor.size);
        let timeouts = &remote.transport().options().timeouts;
        let body = BoundedBody::open_at(at, answer.response, answer.url.shown(), bound, timeouts)?;
        Ok(Opened { body, validator, is_whole: false })
    }

    fn wrong_part(&self, answer: &Answer, at: u64) -> Error {
        let size = self.descriptor.size;
        let header = answer.headers().get(header::CONTENT_RANGE).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let range = header.map_or_else(|| "no Content-Range".to_owned(), |text| format!("{:?}", cut(&text)));
        let expected = format!("\"bytes {at}-{}/{size}\" with status 206", size.saturating_sub(1));
        Error::WrongPart {
            url: answer.url.shown(),
            expected,
            found: format!("{range} with status {}", answer.status()),
        }
    }
}

/// Tells whether `Content-Range` says that the body is the rest from `at` on of `size` bytes (RFC 9110, 14.4). That is what was
/// asked for: a server that can send parts has no reason to send another one.
fn is_rest(headers: &HeaderMap, at: u64, size: u64) -> bool {
    let read = || {
        let (range, all) = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.trim().split_once('/')?;
        let (unit, range) = range.split_once(' ')?;
        let (first, last) = range.trim().split_once('-')?;
        let is_size = all.trim() == "*" || all.trim().parse() == Ok(size);
        let is_range = first.parse() == Ok(at) && last.parse::<u64>().ok()?.checked_add(1) == Some(size);
        Some(unit.eq_ignore_ascii_case("bytes") && is_range && is_size)
    };
    read().unwrap_or(false)
}

/// Gives the `ETag`, if it is a strong one: only such a one says that bytes are the same (RFC 9110, 8.8.3.2 and 13.1.5).
fn strong_etag(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(header::ETAG)?;
    let is_strong = value.len() >= 2 && value.as_bytes().starts_with(b"\"") && value.as_bytes().ends_with(b"\"");
    is_strong.then(|| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rest_is_the_rest() {
        let is_right = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
            is_rest(&headers, 10, 44)
        };
        for text in ["bytes 10-43/44", "Bytes 10-43/*", " bytes  10-43/44 "] {
            assert!(is_right(text), "{text}");
        }
        for text in [
            "bytes 11-43/44",
            "bytes 10-44/44",
            "bytes 10-42/44",
            "bytes 10-43/45",
            "bytes 0-43/44",
            "bytes */44",
            "lines 10-43/44",
            "bytes 10-18446744073709551615/44",
            "10-43/44",
            "bytes=10-43/44",
            "",
        ] {
            assert!(!is_right(text), "{text}");
        }
        assert!(!is_rest(&HeaderMap::new(), 10, 44));
    }

    #[test]
    fn only_strong_etags_count() {
        let etag = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ETAG, text.parse().unwrap());
            strong_etag(&headers).is_some()
        };
        assert!(etag("\"sha256:00\"") && etag("\"\""));
        for text in ["W/\"x\"", "x", "\"", "\"x", ""] {
            assert!(!etag(text), "{text}");
        }
    }
}
