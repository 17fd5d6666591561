// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What went wrong between a registry and us. Addresses are shown without their query, tokens never.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use stos_spec::{BlobDigest, DigestError};

use crate::credential::SourceError;
use crate::endpoint::Role;
use crate::message::RegistryMessage;
use crate::url::ShownUrl;

/// A request that failed. Each variant names where, and what was expected and found.
///
/// [`BlobReader`](crate::BlobReader) hands it out inside an [`io::Error`]: see [`Error::from_io`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection could be made, or it broke before an answer came.
    #[error("cannot reach {host}: {source}")]
    Unreachable {
        /// Host, and port where one was given.
        host: String,
        /// What the system says.
        source: io::Error,
    },
    /// TLS could not be agreed on, or the certificate is not trusted.
    #[error("TLS with {host} failed: {source}")]
    Tls {
        /// Host, and port where one was given.
        host: String,
        /// What the TLS library says.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The server does not speak TLS.
    #[error(
        "{host} does not speak HTTPS: expected a TLS handshake, found something else, as a plain HTTP server sends"
    )]
    HttpInsteadOfHttps {
        /// Host, and port where one was given.
        host: String,
    },
    /// The proxy does not lead there.
    #[error("the proxy {proxy} refuses the way to {host}: {reason}")]
    Proxy {
        /// The proxy: its scheme, host and port.
        proxy: String,
        /// Host, and port where one was given.
        host: String,
        /// What it answered.
        reason: String,
        /// The status of that, where it was HTTP.
        status: Option<u16>,
    },
    /// Which proxy leads there is said in a way that cannot be followed.
    #[error("no way to {host}: {source}")]
    NoProxy {
        /// Host, and port where one was given.
        host: String,
        /// What its source says.
        source: SourceError,
    },
    /// The credential for an endpoint cannot be had.
    #[error("no credential for {host}: {source}")]
    NoCredential {
        /// Host, and port where one was given.
        host: String,
        /// What its source says.
        source: SourceError,
    },
    /// The credential for an endpoint cannot be sent in the way that the endpoint asks for.
    #[error("the credential for {host} cannot be used: {reason}")]
    BadCredential {
        /// Host, and port where one was given.
        host: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Every endpoint that was asked has failed.
    #[error("{last}{}", passed_text(passed))]
    AllEndpoints {
        /// The error of the one that was asked last.
        last: Box<Error>,
        /// Those that were passed over before it, in order.
        passed: Vec<PassedOver>,
    },
    /// No endpoint is there for what is asked.
    #[error("no endpoint is configured for {what}")]
    NoEndpoint {
        /// What is asked for.
        what: &'static str,
    },
    /// No certificate of an authority could be loaded, so none could be trusted.
    #[error("no certificates of authorities to trust: {reason}")]
    NoRoots {
        /// What the loader says.
        reason: String,
    },
    /// An option cannot be used.
    #[error("the option {option} is {found:?}, expected {expected}")]
    BadOption {
        /// Its name.
        option: &'static str,
        /// What was given.
        found: String,
        /// What can be used.
        expected: &'static str,
    },
    /// A repository, tag or digest cannot stand in an address.
    #[error("{what} {found:?} cannot be asked for")]
    BadName {
        /// What it was to be.
        what: &'static str,
        /// What was given.
        found: String,
    },
    /// The answer's header did not come in time.
    #[error("{url}: no answer within {} s", limit.as_secs_f32())]
    Timeout {
        /// What was asked for.
        url: ShownUrl,
        /// How long was waited.
        limit: Duration,
    },
    /// The answer is not HTTP as it should be.
    #[error("{url}: expected an HTTP/1.1 answer: {reason}")]
    Protocol {
        /// What was asked for.
        url: ShownUrl,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The registry does not have it (404).
    #[error("{url}: not found{message}")]
    NotFound {
        /// What was asked for.
        url: ShownUrl,
        /// What the registry says.
        message: RegistryMessage,
    },
    /// The registry wants to know who asks, and an anonymous token is not enough (401).
    #[error("{url}: unauthorized{message}")]
    Unauthorized {
        /// What was asked for.
        url: ShownUrl,
        /// What the registry says.
        message: RegistryMessage,
    },
    /// The registry refuses (403).
    #[error("{url}: denied{message}")]
    Denied {
        /// What was asked for.
        url: ShownUrl,
        /// What the registry says.
        message: RegistryMessage,
    },
    /// The registry wants to be asked less often (429).
    #[error("{url}: too many requests{}{message}", retry_text(*retry_after))]
    TooManyRequests {
        /// What was asked for.
        url: ShownUrl,
        /// How long to wait, where the registry says so.
        retry_after: Option<Duration>,
        /// What the registry says.
        message: RegistryMessage,
    },
    /// The registry failed (5xx).
    #[error("{url}: the server failed with status {status}{message}")]
    Server {
        /// What was asked for.
        url: ShownUrl,
        /// The HTTP status.
        status: u16,
        /// How long to wait, where the registry says so.
        retry_after: Option<Duration>,
        /// What the registry says.
        message: RegistryMessage,
    },
    /// Any other status than the one that was expected.
    #[error("{url}: expected status {expected}, found {status}{message}")]
    UnexpectedStatus {
        /// What was asked for.
        url: ShownUrl,
        /// The status that means success.
        expected: u16,
        /// The HTTP status.
        status: u16,
        /// What the registry says.
        message: RegistryMessage,
    },
    /// Redirects led to redirects.
    #[error("{url}: more than {limit} redirects")]
    TooManyRedirects {
        /// What was asked for at first.
        url: ShownUrl,
        /// How many are followed.
        limit: usize,
    },
    /// A redirect leads nowhere that may be asked.
    #[error("{url}: cannot follow the redirect to {location:?}: {reason}")]
    BadRedirect {
        /// What redirected.
        url: ShownUrl,
        /// Its `Location`, without a user or a query.
        location: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A redirect or a token server would take us from HTTPS to plain HTTP.
    #[error("{url} points to {target}, expected HTTPS")]
    Downgrade {
        /// What pointed there.
        url: ShownUrl,
        /// Where it points.
        target: ShownUrl,
    },
    /// The registry asks for authorization in a way that cannot be followed.
    #[error("{url}: cannot follow the challenge {challenge:?}: {reason}")]
    BadChallenge {
        /// What was asked for.
        url: ShownUrl,
        /// Its scheme and realm, without a user or a query.
        challenge: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The token server's answer holds no token that can be used.
    #[error("{url}: no usable token in the answer: {reason}")]
    BadToken {
        /// The token server.
        url: ShownUrl,
        /// What is wrong with the answer.
        reason: &'static str,
    },
    /// A header that matters cannot be read.
    #[error("{url}: the header {name} is {found:?}, expected {expected}")]
    BadHeader {
        /// What was asked for.
        url: ShownUrl,
        /// The header's name.
        name: &'static str,
        /// What stands there, cut.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// The registry announces or sends another size than the descriptor says.
    #[error("{url}: expected {expected} bytes, found {found}")]
    SizeMismatch {
        /// What was asked for.
        url: ShownUrl,
        /// The descriptor's size.
        expected: u64,
        /// The size announced or sent.
        found: u64,
    },
    /// The body goes on after the size that the descriptor says.
    #[error("{url}: expected {expected} bytes, found more")]
    TooLong {
        /// What was asked for.
        url: ShownUrl,
        /// The descriptor's size, or our limit where there is none.
        expected: u64,
    },
    /// The body ended before the size that the descriptor or the header says.
    #[error("{url}: the body ended early: expected {}, found {found} bytes", expected_text(*expected))]
    Truncated {
        /// What was asked for.
        url: ShownUrl,
        /// The descriptor's or the header's size, where one is known.
        expected: Option<u64>,
        /// How many bytes came.
        found: u64,
    },
    /// The body stopped coming, or came too slowly to count.
    #[error("{url}: stalled after {found} bytes: {} s of waiting brought {recent} bytes", waited.as_secs_f32())]
    Stalled {
        /// What was asked for.
        url: ShownUrl,
        /// How many bytes came in all.
        found: u64,
        /// How many came in the last [`waited`](Self::Stalled::waited).
        recent: u64,
        /// How long was waited for them.
        waited: Duration,
    },
    /// The connection broke within a body.
    #[error("{url}: the connection broke after {found} bytes: {source}")]
    Interrupted {
        /// What was asked for.
        url: ShownUrl,
        /// How many bytes came.
        found: u64,
        /// What the system says.
        source: io::Error,
    },
    /// What was to be sent could not be read.
    #[error("{url}: cannot read what is to be sent: {source}")]
    Content {
        /// Where it was to go.
        url: ShownUrl,
        /// What the reader says.
        source: io::Error,
    },
    /// What was to be sent has another size than its descriptor says.
    #[error("{url}: expected {expected} bytes to send, found {}", found_text(*found))]
    ContentSize {
        /// Where it was to go.
        url: ShownUrl,
        /// The descriptor's size.
        expected: u64,
        /// How many bytes there are; `None` where there are more.
        found: Option<u64>,
    },
    /// An upload does not get on: the registry does not keep what it is sent.
    #[error("{url}: the upload does not get beyond byte {at} after {tries} tries: {last}")]
    UploadStuck {
        /// The upload.
        url: ShownUrl,
        /// How many bytes the registry has.
        at: u64,
        /// How often sending more was tried.
        tries: u32,
        /// What the last try failed with.
        last: Box<Error>,
    },
    /// The rest of a blob was asked for, and something else was answered.
    #[error("{url}: expected the part {expected}, found {found}")]
    WrongPart {
        /// What was asked for.
        url: ShownUrl,
        /// The `Content-Range` that was asked for.
        expected: String,
        /// What was answered.
        found: String,
    },
    /// The rest of a blob was asked for, and what is there now calls itself another one than the beginning was of.
    #[error("{url}: the blob has changed while it was received: expected the ETag {expected:?}, found {found:?}")]
    Changed {
        /// What was asked for.
        url: ShownUrl,
        /// The `ETag` at the beginning.
        expected: String,
        /// The `ETag` of the rest, cut.
        found: String,
    },
    /// The server knows no parts, and its connections break again and again: too much was received in vain.
    #[error("{url}: the connection breaks, and the server only sends the whole again: {wasted} bytes came in vain")]
    NoParts {
        /// What was asked for.
        url: ShownUrl,
        /// How many bytes were thrown away.
        wasted: u64,
    },
    /// It failed again and again, each time in a way that may pass.
    #[error("{last} (given up after {tries} tries in a row and {} s of waiting between them)", waited.as_secs())]
    GaveUp {
        /// How many tries in a row have failed.
        tries: u32,
        /// How long was waited between them.
        waited: Duration,
        /// How the last one failed.
        last: Box<Error>,
    },
    /// The server asks to wait for longer than is waited.
    #[error("{last}: it asks to wait for {} s, longer than the {} s that stos waits", asked.as_secs(), limit.as_secs())]
    WaitTooLong {
        /// How long it asks for.
        asked: Duration,
        /// How long is waited at most.
        limit: Duration,
        /// What the server said.
        last: Box<Error>,
    },
    /// The client was told to stop.
    #[error("{url}: the client was told to stop")]
    Cancelled {
        /// What was asked for.
        url: ShownUrl,
    },
    /// The bytes, or the registry's word about them, have another digest than was asked for.
    #[error("{url}: expected digest {expected}, found {found}")]
    DigestMismatch {
        /// What was asked for.
        url: ShownUrl,
        /// The digest that was asked for or announced.
        expected: BlobDigest,
        /// The digest of the bytes.
        found: BlobDigest,
    },
}

fn retry_text(retry_after: Option<Duration>) -> String {
    retry_after.map(|time| format!(" (try again in {} s)", time.as_secs())).unwrap_or_default()
}

fn found_text(found: Option<u64>) -> String {
    found.map_or_else(|| "more".to_owned(), |found| found.to_string())
}

fn passed_text(passed: &[PassedOver]) -> String {
    let each = passed.iter().map(|endpoint| format!("{} {}: {}", endpoint.role, endpoint.host, endpoint.reason));
    format!(" (also failed: {})", each.collect::<Vec<_>>().join("; "))
}

/// An endpoint that was asked and passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// What it is.
    pub role: Role,
    /// Host, and port where one was given.
    pub host: String,
    /// What went wrong there, in short.
    pub reason: String,
}

fn expected_text(expected: Option<u64>) -> String {
    expected.map_or_else(|| "more".to_owned(), |size| format!("{size} bytes"))
}

impl Error {
    /// Gives what a reader's [`io::Error`] carries, if it is one of ours.
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Gives a hint for people, where there is something that they can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::GaveUp { last, .. } => last.hint(),
            Self::WaitTooLong { .. } => Some("try again when that time has passed"),
            Self::HttpInsteadOfHttps { .. } | Self::Downgrade { .. } => {
                Some("use --tls-verify=false if this registry is meant to be reached without TLS")
            }
            Self::Tls { .. } => Some(
                "put the registry's CA into its directory of certs.d or that of --cert-dir, or use --tls-verify=false",
            ),
            Self::AllEndpoints { last, .. } => last.hint(),
            Self::UploadStuck { last, .. } => last.hint(),
            Self::NoRoots { .. } => Some("install the package ca-certificates"),
            Self::Proxy { .. } => {
                Some("HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment say which proxy leads where")
            }
            Self::Unauthorized { .. } | Self::Denied { .. } => Some(
                "log in to the registry (`stos login`), or check the name: registries also answer so where there is no such \
                 repository",
            ),
            _ => None,
        }
    }

    /// Tells whether the same request may succeed later: the network's troubles and the server's, not its refusals.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => source.kind() != io::ErrorKind::NotFound,
            Self::Timeout { .. }
            | Self::TooManyRequests { .. }
            | Self::Truncated { .. }
            | Self::Stalled { .. }
            | Self::Interrupted { .. } => true,
            Self::AllEndpoints { last, .. } => last.is_transient(),
            // 501 and 505 do not pass.
            Self::Server { status, .. } => matches!(status, 500 | 502 | 503 | 504),
            Self::UnexpectedStatus { status, .. } => *status == 408,
            Self::Proxy { status, .. } => matches!(status, Some(502..=504)),
            Self::GaveUp { .. } => true,
            _ => false,
        }
    }

    /// Says what went wrong without the address, which stands beside it.
    pub(crate) fn in_short(&self) -> String {
        match self {
            Self::Unreachable { source, .. } => format!("unreachable: {source}"),
            Self::Tls { source, .. } => format!("TLS failed: {source}"),
            Self::HttpInsteadOfHttps { .. } => "it does not speak HTTPS".to_owned(),
            Self::Timeout { .. } => "no answer in time".to_owned(),
            Self::NotFound { .. } => "not found".to_owned(),
            Self::Unauthorized { .. } => "unauthorized".to_owned(),
            Self::Denied { .. } => "denied".to_owned(),
            Self::TooManyRequests { .. } => "too many requests".to_owned(),
            Self::Server { status, .. } => format!("the server failed with status {status}"),
            Self::DigestMismatch { expected, found, .. } => format!("expected digest {expected}, found {found}"),
            Self::GaveUp { tries, last, .. } => format!("{}, {tries} times in a row", last.in_short()),
            Self::WaitTooLong { asked, last, .. } => {
                format!("{}, it asks to wait for {} s", last.in_short(), asked.as_secs())
            }
            other => other.to_string(),
        }
    }

    /// Gives how long the server asks to wait, where it does.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { retry_after, .. } | Self::Server { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Gives the kind that a reader's error has.
    fn io_kind(&self) -> io::ErrorKind {
        match self {
            Self::Stalled { .. } | Self::Timeout { .. } => io::ErrorKind::TimedOut,
            Self::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            // A reader would simply try an interrupted read again.
            Self::Interrupted { source, .. } if source.kind() != io::ErrorKind::Interrupted => source.kind(),
            Self::TooLong { .. } | Self::SizeMismatch { .. } | Self::WrongPart { .. } | Self::Changed { .. } => {
                io::ErrorKind::InvalidData
            }
            Self::GaveUp { last, .. } | Self::AllEndpoints { last, .. } => last.io_kind(),
            _ => io::ErrorKind::Other,
        }
    }

    /// Words a digest error of `stos-spec` about what `url` gave.
    pub(crate) fn of_digest(error: DigestError, url: ShownUrl) -> Self {
        match error {
            DigestError::Mismatch { expected, found, .. } => Self::DigestMismatch { url, expected, found },
            DigestError::SizeMismatch { expected, found, .. } => Self::SizeMismatch { url, expected, found },
            other => Self::Protocol { url, reason: other.to_string() },
        }
    }
}

impl From<Error> for io::Error {
    /// Puts the error where [`Error::from_io`] finds it.
    fn from(error: Error) -> Self {
        Self::new(error.io_kind(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_errors_nature_is_that_of_all() {
        let passed =
            |host: &str, reason: &str| PassedOver { role: Role::Mirror, host: host.into(), reason: reason.into() };
        let last = Error::Unreachable { host: "r".into(), source: io::Error::other("reset") };
        let passed = vec![passed("a", "not found"), passed("b:1", "denied")];
        let error = Error::AllEndpoints { last: Box::new(last), passed };
        let text = "cannot reach r: reset (also failed: mirror a: not found; mirror b:1: denied)";
        assert_eq!(error.to_string(), text);
        assert!(error.is_transient() && error.hint().is_none());
        let last = Box::new(Error::NoRoots { reason: "none".into() });
        let error = Error::AllEndpoints { last, passed: Vec::new() };
        assert!(!error.is_transient() && error.hint().is_some());
    }
}
