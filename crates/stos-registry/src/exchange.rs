// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One request and its redirects, followed by hand: so what authorizes stays with the registry, and HTTPS stays HTTPS.

use std::time::{Duration, Instant};

use ureq::Body;
use ureq::http::header::{self, HeaderName, HeaderValue};
use ureq::http::{HeaderMap, Method, Response};

use crate::blob::{Bound, BoundedBody};
use crate::credential::Authorization;
use crate::error::Error;
use crate::message::{MESSAGE_MAX, RegistryMessage};
use crate::options::Timeouts;
use crate::proxy::Refusal;
use crate::retry::retry_after;
use crate::transport::{Payload, Transport};
use crate::url::{Scheme, Url, without_secrets};

/// How long is waited for the rest of a body that nobody needs: one that comes later costs its connection.
const UNNEEDED: Duration = Duration::from_secs(3);

/// How many redirects are followed.
const REDIRECTS_MAX: usize = 5;

/// What is asked for, without the address.
#[derive(Clone)]
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) headers: &'a [(HeaderName, HeaderValue)],
    pub(crate) authorization: Option<&'a Authorization>,
}

/// A response that is no redirect, and the address that gave it.
pub(crate) struct Answer {
    pub(crate) url: Url,
    pub(crate) response: Response<Body>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn is_redirect(&self) -> bool {
        matches!(self.status(), 301 | 302 | 303 | 307 | 308)
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Gives the body, if the status is 200.
    pub(crate) fn body(self, transport: &Transport, bound: Bound) -> Result<BoundedBody, Error> {
        let answer = self.success(transport)?;
        BoundedBody::open(answer.response, answer.url.shown(), bound, &transport.options().timeouts)
    }

    /// Passes if the status is 200, and else gives the error that the status means.
    pub(crate) fn success(self, transport: &Transport) -> Result<Self, Error> {
        self.expect(200, transport)
    }

    /// Passes if the status is `expected`, and else gives the error that the status means.
    ///
    /// Where something was sent, any 2xx is success: registries vary.
    pub(crate) fn expect(self, expected: u16, transport: &Transport) -> Result<Self, Error> {
        let is_success = match expected {
            200 => self.status() == 200,
            _ => self.response.status().is_success(),
        };
        if is_success { Ok(self) } else { Err(self.refusal(expected, transport)) }
    }

    /// Gives the error that a status other than the expected one means.
    pub(crate) fn refusal(self, expected: u16, transport: &Transport) -> Error {
        let (status, url) = (self.status(), self.url.shown());
        let retry_after = retry_after(self.headers());
        let (address, response) = (self.url, self.response);
        let message = message(response, &address, transport);
        match status {
            401 => Error::Unauthorized { url, message },
            403 => Error::Denied { url, message },
            404 => Error::NotFound { url, message },
            407 => transport.proxy_refused(&address, Refusal::of_status(407)),
            429 => Error::TooManyRequests { url, retry_after, message },
            500..=599 => Error::Server { url, status, retry_after, message },
            _ => Error::UnexpectedStatus { url, expected, status, message },
        }
    }

    /// Reads what is left of a small body, so that its connection serves the next request.
    pub(crate) fn discard(self, transport: &Transport) {
        // Where it is not small or does not come, the connection is closed instead.
        drop(message(self.response, &self.url, transport));
    }
}

fn message(response: Response<Body>, url: &Url, transport: &Transport) -> RegistryMessage {
    let timeouts = &transport.options().timeouts;
    let timeouts = Timeouts { document: timeouts.document.min(UNNEEDED), ..timeouts.clone() };
    let body = BoundedBody::open(response, url.shown(), Bound::AtMost(MESSAGE_MAX), &timeouts);
    // The status has the say; a body that breaks off has nothing to add.
    body.and_then(BoundedBody::read_all).map(|bytes| RegistryMessage::parse(&bytes)).unwrap_or_default()
}

/// Sends a request and follows its redirects. What authorizes it goes to the origin of `start` and to no other.
pub(crate) fn exchange(transport: &Transport, start: &Url, ask: &Ask<'_>) -> Result<Answer, Error> {
    follow(transport, send(transport, start, start, ask)?, ask)
}

/// Follows the redirects of a first answer. What authorizes the request goes to its origin and to no other.
pub(crate) fn follow(transport: &Transport, first: Answer, ask: &Ask<'_>) -> Result<Answer, Error> {
    let start = first.url.clone();
    let mut answer = first;
    for _ in 0..REDIRECTS_MAX {
        if !answer.is_redirect() {
            return Ok(answer);
        }
        let next = redirect_target(&answer)?;
        refuse_downgrade(transport, &answer.url, &next)?;
        tracing::debug!(from = %answer.url.shown(), to = %next.shown(), "redirected");
        answer.discard(transport);
        answer = send(transport, &next, &start, ask)?;
    }
    if answer.is_redirect() {
        return Err(Error::TooManyRedirects { url: start.shown(), limit: REDIRECTS_MAX });
    }
    Ok(answer)
}

/// Refuses what would go from verified HTTPS to plain HTTP.
pub(crate) fn refuse_downgrade(transport: &Transport, url: &Url, next: &Url) -> Result<(), Error> {
    if transport.options().tls_verify && next.scheme() == Scheme::Http {
        return Err(Error::Downgrade { url: url.shown(), target: next.shown() });
    }
    Ok(())
}

/// Sends one request to `url`, with what authorizes it if that has the origin of `start`.
pub(crate) fn send(transport: &Transport, url: &Url, start: &Url, ask: &Ask<'_>) -> Result<Answer, Error> {
    send_payload(transport, url, start, ask, Payload::None)
}

/// As [`send`], with something to send.
pub(crate) fn send_payload(
    transport: &Transport,
    url: &Url,
    start: &Url,
    ask: &Ask<'_>,
    payload: Payload<'_>,
) -> Result<Answer, Error> {
    let mut headers = ask.headers.to_vec();
    if let Some(authorization) = ask.authorization.filter(|_| url.is_same_origin(start)) {
        headers.push((header::AUTHORIZATION, authorization.header()));
    }
    let started = Instant::now();
    let response = transport.send(&ask.method, url, &headers, payload)?;
    let milliseconds = started.elapsed().as_millis() as u64;
    let status = response.status().as_u16();
    tracing::debug!(method = %ask.method, url = %url.shown(), status, ms = milliseconds, "request");
    Ok(Answer { url: url.clone(), response })
}

/// Gives where the `Location` of an answer leads.
pub(crate) fn redirect_target(answer: &Answer) -> Result<Url, Error> {
    let header = answer.headers().get(header::LOCATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let location = String::from_utf8_lossy(header);
    answer.url.join(&location).map_err(|reason| Error::BadRedirect {
        url: answer.url.shown(),
        location: without_secrets(&location),
        reason,
    })
}
