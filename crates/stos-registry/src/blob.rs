// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bodies as they arrive: bounded in size, and in the time that they may stand still.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Response, header};
use ureq::{Body, BodyReader};

use crate::deadline::within;
use crate::error::Error;
use crate::options::Timeouts;
use crate::url::ShownUrl;

/// How many bytes a body may and must have.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// Exactly so many.
    Exact(u64),
    /// At most so many.
    AtMost(u64),
}

impl Bound {
    fn limit(self) -> u64 {
        match self {
            Self::Exact(size) | Self::AtMost(size) => size,
        }
    }
}

/// A response's body with its bounds.
pub(crate) struct BoundedBody {
    reader: BodyReader<'static>,
    url: ShownUrl,
    bound: Bound,
    /// The size that the header announces.
    announced: Option<u64>,
    /// Where in the whole the body begins.
    start: u64,
    /// How much of the whole is there: what came before the body, and of it so far.
    received: u64,
    pace: Pace,
    /// It was too slow when it last moved: told when more is wanted, for what came then has been handed out.
    slow: Option<Slow>,
    state: State,
    opened: Instant,
    /// How long one read may take that gives nothing.
    stall: Duration,
    /// How long reading all of it at once may take.
    document: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

impl BoundedBody {
    /// Takes a response's body. Fails at once where its `Content-Length` contradicts `bound`.
    pub(crate) fn open(
        response: Response<Body>,
        url: ShownUrl,
        bound: Bound,
        timeouts: &Timeouts,
    ) -> Result<Self, Error> {
        Self::open_at(0, response, url, bound, timeouts)
    }

    /// Takes a response's body that begins at `start` of the whole, which `bound` is about. Errors count from its beginning.
    pub(crate) fn open_at(
        start: u64,
        response: Response<Body>,
        url: ShownUrl,
        bound: Bound,
        timeouts: &Timeouts,
    ) -> Result<Self, Error> {
        let announced = content_length(response.headers()).map(|length| length.saturating_add(start));
        match (bound, announced) {
            (Bound::Exact(expected), Some(found)) if expected != found => {
                return Err(Error::SizeMismatch { url, expected, found });
            }
            (Bound::AtMost(expected), Some(found)) if found > expected => return Err(Error::TooLong { url, expected }),
            _ => {}
        }
        let pace = Pace::new(timeouts);
        let reader = response.into_body().into_reader();
        let (state, opened, received, slow) = (State::Open, Instant::now(), start, None);
        let Timeouts { stall, document, .. } = *timeouts;
        Ok(Self { reader, url, bound, announced, start, received, pace, slow, state, opened, stall, document })
    }

    /// Gives where the body comes from.
    pub(crate) fn url(&self) -> &ShownUrl {
        &self.url
    }

    /// Gives how much of the whole is there.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Gives how many bytes came of the body itself.
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.received - self.start
    }

    /// Gives how many bytes of the whole are missing.
    pub(crate) fn missing(&self) -> u64 {
        self.bound.limit() - self.received
    }

    /// Goes on measuring where an earlier body of the same whole has stopped, after `waited` without either.
    pub(crate) fn continue_pace(&mut self, earlier: &Self, waited: Duration) {
        self.pace.recent = earlier.pace.recent;
        self.pace.waited = earlier.pace.waited + waited;
    }

    /// Reads all of it, within the time for a document.
    pub(crate) fn read_all(mut self) -> Result<Vec<u8>, Error> {
        // What a header announces is no reason to reserve that much.
        let capacity = self.announced.unwrap_or(0).min(self.bound.limit()).min(64 << 10);
        let mut bytes = Vec::with_capacity(usize::try_from(capacity).unwrap_or(0));
        let mut buffer = [0; 16 << 10];
        loop {
            let left = self.document.saturating_sub(self.opened.elapsed());
            let read = within(left, || self.read_some(&mut buffer));
            let waited = self.opened.elapsed();
            match read {
                Ok(0) => {
                    let ms = waited.as_millis() as u64;
                    tracing::debug!(url = %self.url, bytes = self.received, ms, "document received");
                    return Ok(bytes);
                }
                Ok(_) | Err(Error::Stalled { .. }) if waited >= self.document => {
                    return Err(self.stalled(Slow { recent: self.received, waited }));
                }
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads some of it; 0 at its end. Where it has failed once it always fails.
    pub(crate) fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if buffer.is_empty() || self.state == State::Ended {
            return Ok(0);
        }
        let result = match self.state {
            // The cause has been told; what follows can only be that the rest is missing.
            State::Failed => Err(self.truncated()),
            _ => self.read_open(buffer),
        };
        match &result {
            Ok(0) => self.state = State::Ended,
            Ok(_) => {}
            Err(_) => self.state = State::Failed,
        }
        result
    }

    fn read_open(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let left = self.missing();
        if let Some(slow) = self.slow.take().filter(|_| left > 0) {
            return Err(self.stalled(slow));
        }
        let mut probe = [0];
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let window = if room == 0 { &mut probe[..] } else { &mut buffer[..room] };
        let started = Instant::now();
        let n = loop {
            match within(self.stall, || self.reader.read(window)) {
                Ok(n) => break n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain(error, started.elapsed())),
            }
        };
        if n > 0 && left == 0 {
            return Err(Error::TooLong { url: self.url.clone(), expected: self.bound.limit() });
        }
        if n == 0 && left > 0 && matches!(self.bound, Bound::Exact(_)) {
            return Err(self.truncated());
        }
        self.received += n as u64;
        self.slow = self.pace.check(n as u64, started.elapsed()).err().filter(|_| n > 0);
        Ok(n)
    }

    fn truncated(&self) -> Error {
        let expected = match self.bound {
            Bound::Exact(size) => Some(size),
            Bound::AtMost(_) => self.announced,
        };
        Error::Truncated { url: self.url.clone(), expected, found: self.received }
    }

    /// Words that the body is too slow.
    pub(crate) fn stalled(&self, slow: Slow) -> Error {
        Error::Stalled { url: self.url.clone(), found: self.received, recent: slow.recent, waited: slow.waited }
    }

    fn explain(&self, error: io::Error, waited: Duration) -> Error {
        let (url, found) = (self.url.clone(), self.received);
        match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
            Some(ureq::Error::Timeout(_)) => self.stalled(Slow { recent: 0, waited }),
            Some(other) => Error::Protocol { url, reason: other.to_string() },
            None => match error.kind() {
                // The library reports a reset as an end, too.
                io::ErrorKind::UnexpectedEof => self.truncated(),
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => self.stalled(Slow { recent: 0, waited }),
                _ => Error::Interrupted { url, found, source: error },
            },
        }
    }
}

/// Gives the announced size. The library has refused lengths that contradict each other or are no numbers.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.split(',').next()?.trim().parse().ok()
}

/// Measures what arrives in the time spent waiting for it. Time that the reader's owner takes does not count.
struct Pace {
    window: Duration,
    least: u64,
    waited: Duration,
    recent: u64,
}

/// What a wait has brought.
pub(crate) struct Slow {
    pub(crate) recent: u64,
    pub(crate) waited: Duration,
}

impl Pace {
    fn new(timeouts: &Timeouts) -> Self {
        Self { window: timeouts.stall, least: timeouts.stall_bytes, waited: Duration::ZERO, recent: 0 }
    }

    fn check(&mut self, bytes: u64, waited: Duration) -> Result<(), Slow> {
        self.waited += waited;
        self.recent += bytes;
        if self.waited < self.window {
            return Ok(());
        }
        let slow = Slow { recent: self.recent, waited: self.waited };
        (self.waited, self.recent) = (Duration::ZERO, 0);
        if slow.recent < self.least { Err(slow) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_counts_waiting_only() {
        let second = Duration::from_secs(1);
        let timeouts = Timeouts { stall: 10 * second, stall_bytes: 100, ..Timeouts::default() };
        let mut pace = Pace::new(&timeouts);
        for _ in 0..9 {
            assert!(pace.check(10, second).is_ok());
        }
        assert!(pace.check(10, second).is_ok(), "100 bytes in 10 s are enough");
        for _ in 0..9 {
            assert!(pace.check(9, second).is_ok());
        }
        let slow = pace.check(9, second).unwrap_err();
        assert_eq!((slow.recent, slow.waited), (90, 10 * second));
    }
}
