// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When a request is tried again, how long is waited before, and when it is given up.
//!
//! What may pass is tried again ([`Error::is_transient`]): a connection that cannot be made or breaks, silence, and the statuses
//! 408, 429, 500, 502, 503 and 504. Waits double from try to try and are jittered, so that clients that failed together do not
//! come back together. Where the server says when to come back, in `Retry-After`, that is when (RFC 9110, 10.2.3).

use std::hash::{BuildHasher, RandomState};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use ureq::http::{HeaderMap, header};

use crate::error::Error;
use crate::url::ShownUrl;

/// From this on a wait is told as a warning: somebody may sit before the terminal.
const LONG_WAIT: Duration = Duration::from_secs(5);

/// How often, and how patiently, a request is tried again.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How many tries in all, one after the other, may bring nothing. 1 sends nothing a second time, and resumes no blob.
    pub tries: u32,
    /// The wait before the second try; each further one is twice as long. Up to half of a wait is left off at random.
    pub first_wait: Duration,
    /// The longest wait that the doubling leads to.
    pub longest_wait: Duration,
    /// The longest wait that a server may ask for: where it asks for more the request has failed.
    pub retry_after_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// Gives the wait after so many tries that have failed. `chance` is a random number.
    fn wait(&self, failed: u32, chance: u64) -> Duration {
        let doubled = self.first_wait.saturating_mul(1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX));
        let whole = doubled.min(self.longest_wait);
        whole / 2 + part(whole / 2, chance)
    }
}

/// Gives a random part of a time.
fn part(whole: Duration, chance: u64) -> Duration {
    whole.mul_f64(chance as f64 / u64::MAX as f64)
}

/// Gives a random number. The keys of the standard library's hasher come from the kernel, which is more than a jitter needs.
fn chance() -> u64 {
    RandomState::new().hash_one(0)
}

/// The tries of one request, or of one blob.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: RetryPolicy,
    /// Without its scheme, which may be learned meanwhile.
    url: ShownUrl,
    /// What may pass is waited out; else the first failure is the last.
    is_patient: bool,
    failed: u32,
    waited: Duration,
}

impl Attempts {
    pub(crate) fn new(policy: &RetryPolicy, url: ShownUrl) -> Self {
        let url = url.without_scheme();
        Self { policy: policy.clone(), url, is_patient: true, failed: 0, waited: Duration::ZERO }
    }

    /// For who has somebody else to ask: the first failure is the last.
    pub(crate) fn without_waits(self) -> Self {
        Self { is_patient: false, ..self }
    }

    /// Tells whether anything may be sent a second time.
    pub(crate) fn may_repeat(&self) -> bool {
        self.policy.tries > 1
    }

    /// Gives how many bytes may be received in vain of something that has `size`.
    pub(crate) fn waste(&self, size: u64) -> u64 {
        size.saturating_mul(u64::from(self.policy.tries))
    }

    /// Forgets what has failed: something has been achieved since.
    pub(crate) fn refill(&mut self) {
        self.failed = 0;
        self.waited = Duration::ZERO;
    }

    /// Counts a try that has failed: gives how long to wait before the next one, or the error that the request ends with.
    pub(crate) fn count(&mut self, error: Error) -> Result<Duration, Error> {
        // What has been tried often enough already is not tried often enough once more.
        let is_final = !error.is_transient() || matches!(error, Error::GaveUp { .. });
        if is_final || !self.is_patient || !self.may_repeat() {
            return Err(error);
        }
        let asked = error.retry_after();
        if let Some(asked) = asked.filter(|asked| *asked > self.policy.retry_after_max) {
            return Err(Error::WaitTooLong { asked, limit: self.policy.retry_after_max, last: Box::new(error) });
        }
        self.failed += 1;
        if self.failed >= self.policy.tries {
            return Err(Error::GaveUp { tries: self.failed, waited: self.waited, last: Box::new(error) });
        }
        let wait = match asked {
            // Not before, and not all at once.
            Some(asked) => asked + part(self.policy.first_wait, chance()),
            None => self.policy.wait(self.failed, chance()),
        };
        self.tell(&error, wait);
        self.waited += wait;
        Ok(wait)
    }

    fn tell(&self, error: &Error, wait: Duration) {
        let (url, attempt, wait_ms) = (&self.url, self.failed + 1, wait.as_millis() as u64);
        // A hiccup is nobody's concern; what makes people wait is.
        if self.failed > 1 || wait >= LONG_WAIT {
            tracing::warn!(%url, attempt, wait_ms, %error, "trying again");
        } else {
            tracing::info!(%url, attempt, wait_ms, %error, "trying again");
        }
    }

    /// Counts a try that has failed, and waits for the next one.
    ///
    /// # Errors
    /// What the request ends with.
    pub(crate) fn wait_after(&mut self, error: Error, cancel: &Cancel) -> Result<(), Error> {
        if cancel.is_set() {
            return Err(Error::Cancelled { url: self.url.clone() });
        }
        let wait = self.count(error)?;
        if cancel.wait(wait) { Err(Error::Cancelled { url: self.url.clone() }) } else { Ok(()) }
    }
}

/// Tries until it succeeds, or is to be given up.
pub(crate) fn retry<T>(
    mut attempts: Attempts,
    cancel: &Cancel,
    mut attempt: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => attempts.wait_after(error, cancel)?,
        }
    }
}

/// Ends the waits of all who share a client.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl Cancel {
    pub(crate) fn set(&self) {
        *self.flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.flag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits so long, or until it is set; tells whether it is.
    fn wait(&self, time: Duration) -> bool {
        let flag = self.flag.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(flag, time, |flag| !*flag);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Reads `Retry-After`: seconds, or a date. A date counts from the server's own `Date`, where that can be read, so that clocks
/// need not agree; one that has passed asks for no wait.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let value = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = text(header::DATE).and_then(http_date).unwrap_or_else(Timestamp::now);
    let wait = http_date(value)?.duration_since(now);
    Some(wait.try_into().unwrap_or(Duration::ZERO))
}

/// Reads a date in any of the three forms that a recipient must know (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"].iter().find_map(|format| {
        let time = strtime::parse(format, text).ok()?.to_datetime().ok()?;
        Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::Url;

    const SECOND: Duration = Duration::from_secs(1);

    fn url() -> ShownUrl {
        Url::parse("https://r.example/v2/a/blobs/x").unwrap().shown()
    }

    fn busy(retry_after: Option<Duration>) -> Error {
        Error::Server { url: url(), status: 503, retry_after, message: Default::default() }
    }

    fn attempts(tries: u32) -> Attempts {
        Attempts::new(&RetryPolicy { tries, ..RetryPolicy::default() }, url())
    }

    #[test]
    fn waits_double_up_to_a_limit_and_half_of_each_is_chance() {
        let policy = RetryPolicy::default();
        for (failed, least, most) in
            [(1, 250, 500), (2, 500, 1000), (3, 1000, 2000), (7, 15_000, 30_000), (99, 15_000, 30_000)]
        {
            let at = |chance| policy.wait(failed, chance).as_millis();
            assert_eq!((at(0), at(u64::MAX)), (least, most), "{failed}");
        }
        let waits: Vec<_> = (0..20).map(|_| policy.wait(1, chance())).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]), "no jitter at all: {waits:?}");
    }

    #[test]
    fn what_passes_is_tried_so_often_and_then_told_with_its_last_cause() {
        let mut attempts = attempts(3);
        for most in [SECOND / 2, SECOND] {
            let wait = attempts.count(busy(None)).unwrap();
            assert!(wait >= most / 2 && wait <= most, "{wait:?}");
        }
        let error = attempts.count(busy(None)).unwrap_err();
        assert!(matches!(&error, Error::GaveUp { tries: 3, last, .. } if matches!(**last, Error::Server { .. })));
        let said = error.to_string();
        assert!(said.contains("status 503") && said.contains("3 tries"), "{said}");
        // It is not tried again as a whole.
        attempts.refill();
        assert!(matches!(attempts.count(error), Err(Error::GaveUp { tries: 3, .. })));
    }

    #[test]
    fn what_was_achieved_gives_the_tries_back() {
        let mut attempts = attempts(2);
        for _ in 0..10 {
            attempts.count(busy(None)).unwrap();
            attempts.refill();
        }
    }

    #[test]
    fn what_does_not_pass_and_what_may_not_be_repeated_is_told_as_it_is() {
        let error = Error::Downgrade { url: url(), target: url() };
        assert!(matches!(attempts(5).count(error), Err(Error::Downgrade { .. })));
        for mut attempts in [attempts(0), attempts(1), attempts(5).without_waits()] {
            assert!(matches!(attempts.count(busy(None)), Err(Error::Server { .. })));
        }
    }

    #[test]
    fn the_server_says_when_unless_that_is_too_late() {
        let wait = attempts(5).count(busy(Some(7 * SECOND))).unwrap();
        assert!(wait >= 7 * SECOND && wait <= 8 * SECOND, "{wait:?}");
        let error = attempts(5).count(busy(Some(3600 * SECOND))).unwrap_err();
        assert!(
            matches!(&error, Error::WaitTooLong { asked, limit, .. } if (asked.as_secs(), limit.as_secs()) == (3600, 60))
        );
        let said = error.to_string();
        assert!(said.contains("3600 s") && said.contains("60 s") && said.contains("status 503"), "{said}");
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let read = |value: &str, date: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            headers.insert(header::DATE, date.parse().unwrap());
            retry_after(&headers).map(|wait| wait.as_secs())
        };
        let date = "Wed, 21 Oct 2026 07:28:00 GMT";
        for (value, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2026 07:30:05 GMT", Some(125)),
            ("Wednesday, 21-Oct-26 07:30:05 GMT", Some(125)),
            ("Wed Oct 21 07:30:05 2026", Some(125)),
            ("Wed, 21 Oct 2026 07:27:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("Wed, 41 Oct 2026 07:30:05 GMT", None),
            ("", None),
        ] {
            assert_eq!(read(value, date), expected, "{value:?}");
        }
        // Without a date of the server's own ours counts.
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT", "yesterday"), Some(0));
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn a_wait_ends_when_it_is_cancelled() {
        let cancel = Cancel::default();
        assert!(!cancel.wait(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| attempts(5).wait_after(busy(Some(50 * SECOND)), &cancel));
            cancel.set();
            assert!(matches!(waits.join().unwrap(), Err(Error::Cancelled { .. })));
        });
        let cancelled = attempts(5).wait_after(busy(None), &cancel);
        assert!(matches!(cancelled, Err(Error::Cancelled { url }) if url.as_str() == "r.example/v2/a/blobs/x"));
    }

    #[test]
    fn it_is_tried_until_it_succeeds() {
        let policy = RetryPolicy { first_wait: Duration::ZERO, ..RetryPolicy::default() };
        let mut sent = 0;
        let answer = retry(Attempts::new(&policy, url()), &Cancel::default(), || {
            sent += 1;
            if sent < 4 { Err(busy(None)) } else { Ok(sent) }
        });
        assert_eq!(answer.unwrap(), 4);
    }
}
