// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One endpoint, as it is spoken to: over the protocol that it turns out to speak, with what it wants for authorization.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};

use stos_spec::text::cut;
use ureq::http::Method;
use ureq::http::header::{HeaderName, HeaderValue};

use crate::authorize::{Answered, Authorizer};
use crate::credential::Authorization;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::exchange::{Answer, Ask, exchange, follow, redirect_target, send_payload};
use crate::options::ClientOptions;
use crate::token::Scope;
use crate::transport::{Payload, Transport};
use crate::url::{Scheme, Url};

/// One endpoint, as it is spoken to. Threads may share it.
pub(crate) struct Remote {
    endpoint: Endpoint,
    transport: Transport,
    authorizer: Authorizer,
    /// Which protocol has answered, as one of `Speaks`.
    speaks: AtomicU8,
}

/// Repository and path of what is below no repository: the root of the interface.
pub(crate) const ROOT: (&str, &str) = ("", "");

/// Which protocol a registry speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Speaks {
    /// Nobody knows, and none is required: HTTPS comes first, and plain HTTP after it. On this host itself it is the other way
    /// round, unless a proxy leads there: nothing passes a wire, and a failed handshake is a round trip more.
    Unknown = 0,
    Https = 1,
    Http = 2,
}

impl Speaks {
    fn scheme(self) -> Scheme {
        if self == Self::Http { Scheme::Http } else { Scheme::Https }
    }
}

/// A request by its path below a repository as it is called here.
pub(crate) struct Wanted<'a> {
    pub(crate) method: Method,
    pub(crate) repository: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(HeaderName, HeaderValue)],
    pub(crate) scope: &'a Scope,
    /// What is sent, for methods that send something.
    pub(crate) body: Option<&'a [u8]>,
}

impl Wanted<'_> {
    fn payload(&self) -> Payload<'_> {
        self.body.map_or(Payload::None, Payload::Bytes)
    }
}

impl Remote {
    pub(crate) fn new(endpoint: Endpoint, options: &ClientOptions) -> Result<Self, Error> {
        let speaks = if endpoint.tls_verify { Speaks::Https } else { Speaks::Unknown };
        Ok(Self {
            transport: Transport::new(&endpoint, options)?,
            authorizer: Authorizer::new(&endpoint),
            speaks: AtomicU8::new(speaks as u8),
            endpoint,
        })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Tells whether a request for this is likely to be challenged.
    pub(crate) fn may_be_challenged(&self, scope: &Scope) -> bool {
        self.authorizer.may_be_challenged(scope)
    }

    fn speaks(&self) -> Speaks {
        match self.speaks.load(Ordering::Relaxed) {
            1 => Speaks::Https,
            2 => Speaks::Http,
            _ => Speaks::Unknown,
        }
    }

    /// Gives the address of `path` below a repository of the user's, by the name that it has here.
    pub(crate) fn url_of(&self, repository: &str, path: &str) -> Result<Url, Error> {
        self.url(self.speaks().scheme(), self.name_here(repository), path)
    }

    /// Gives the name that a repository of the user's has here.
    pub(crate) fn name_here<'a>(&'a self, repository: &'a str) -> &'a str {
        self.endpoint.repository.as_deref().unwrap_or(repository)
    }

    fn url(&self, scheme: Scheme, repository: &str, path: &str) -> Result<Url, Error> {
        if (repository, path) == ROOT {
            return Ok(Url::new(scheme, self.endpoint.address(), "/v2/"));
        }
        check_repository(repository)?;
        Ok(Url::new(scheme, self.endpoint.address(), &format!("/v2/{repository}/{path}")))
    }

    /// Asks, over the protocol that is spoken here, with what is wanted for authorization, and follows redirects.
    pub(crate) fn get(&self, wanted: &Wanted<'_>) -> Result<Answer, Error> {
        let kept = self.authorizer.kept(wanted.scope);
        let ask = Ask { method: wanted.method.clone(), headers: wanted.headers, authorization: kept.as_ref() };
        let first = self.first_answer(wanted, &ask)?;
        let url = first.url.clone();
        let answer = follow(&self.transport, first, &ask)?;
        match self.challenged(answer, &url, wanted.scope, kept.as_ref())? {
            Answered::With(authorization) => {
                exchange(&self.transport, &url, &Ask { authorization: Some(&authorization), ..ask })
            }
            Answered::Refused(answer) => Ok(answer),
        }
    }

    /// Sends to an address that this endpoint gave for it, redirects not followed. What authorizes it goes to this
    /// endpoint's own origin: an upload may be elsewhere, and that host learns nothing of us.
    pub(crate) fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        scope: &Scope,
        payload: Payload<'_>,
    ) -> Result<Answer, Error> {
        let origin = Url::new(self.speaks().scheme(), self.endpoint.address(), "/");
        let kept = self.authorizer.kept(scope);
        let ask = Ask { method, headers, authorization: kept.as_ref() };
        // What comes from a reader is gone once it has been sent.
        let again = match &payload {
            Payload::None => Some(Payload::None),
            Payload::Bytes(bytes) => Some(Payload::Bytes(bytes)),
            Payload::Reader(..) => None,
        };
        let answer = send_payload(&self.transport, url, &origin, &ask, payload)?;
        let Some(payload) = again else { return Ok(answer) };
        match self.challenged(answer, &origin, scope, kept.as_ref())? {
            Answered::With(authorization) => {
                let ask = Ask { authorization: Some(&authorization), ..ask };
                send_payload(&self.transport, url, &origin, &ask, payload)
            }
            Answered::Refused(answer) => Ok(answer),
        }
    }

    /// Asks as [`get`](Self::get) does, redirects not followed: for what changes something here.
    pub(crate) fn ask(&self, wanted: &Wanted<'_>) -> Result<Answer, Error> {
        let kept = self.authorizer.kept(wanted.scope);
        let ask = Ask { method: wanted.method.clone(), headers: wanted.headers, authorization: kept.as_ref() };
        let answer = self.first_answer(wanted, &ask)?;
        let url = answer.url.clone();
        match self.challenged(answer, &url, wanted.scope, kept.as_ref())? {
            Answered::With(authorization) => {
                let ask = Ask { authorization: Some(&authorization), ..ask };
                send_payload(&self.transport, &url, &url, &ask, wanted.payload())
            }
            Answered::Refused(answer) => Ok(answer),
        }
    }

    /// Answers a 401 of this endpoint itself. One of a host that it redirects to stays as it is.
    fn challenged(
        &self,
        answer: Answer,
        origin: &Url,
        scope: &Scope,
        sent: Option<&Authorization>,
    ) -> Result<Answered, Error> {
        if answer.status() != 401 || !answer.url.is_same_origin(origin) {
            return Ok(Answered::Refused(answer));
        }
        self.authorizer.answer(&self.transport, answer, scope, sent)
    }

    /// Gives what the endpoint's own host answers, before redirects.
    ///
    /// This alone tells which protocol it speaks: where a redirect leads, or a token server, may fail as it likes.
    fn first_answer(&self, wanted: &Wanted<'_>, ask: &Ask<'_>) -> Result<Answer, Error> {
        // Once: another thread may learn it meanwhile.
        let speaks = self.speaks();
        if speaks != Speaks::Unknown {
            return self.send_first(speaks, wanted, ask);
        }
        let plain = self.url(Scheme::Http, wanted.repository, wanted.path)?;
        let passes_no_wire = is_this_host(self.endpoint.address()) && !self.transport.is_through_proxy(&plain);
        let (guess, other) = if passes_no_wire { (Speaks::Http, Speaks::Https) } else { (Speaks::Https, Speaks::Http) };
        // Nobody has answered yet, so nothing that is kept is this host's; nothing goes out in clear.
        let ask = Ask { authorization: None, ..ask.clone() };
        let first = self.send_first(guess, wanted, &ask);
        if !may_speak(other, &first) {
            // Of a proxy that does not lead there just now nothing is learned.
            if !matches!(first, Err(Error::Proxy { .. })) {
                self.learn(guess);
            }
            return first;
        }
        if let Err(error) = &first {
            let (host, next) = (self.endpoint.address(), other.scheme());
            tracing::debug!(host, %error, ?next, "the other protocol is tried");
        }
        match (self.send_first(other, wanted, &ask), first) {
            (Err(second), first) if is_no_answer(&second) => self.settle(guess, first, second),
            (answered, _) if self.learn(other) => answered,
            // Meanwhile another thread has had an answer over the first.
            (_, first) => first,
        }
    }

    fn send_first(&self, speaks: Speaks, wanted: &Wanted<'_>, ask: &Ask<'_>) -> Result<Answer, Error> {
        let url = self.url(speaks.scheme(), wanted.repository, wanted.path)?;
        send_payload(&self.transport, &url, &url, ask, wanted.payload())
    }

    /// Gives what came of the first protocol where the other one has failed: unless all it said is that the other was to be tried,
    /// or less than the other did.
    fn settle(&self, guess: Speaks, first: Result<Answer, Error>, second: Error) -> Result<Answer, Error> {
        match first {
            Ok(answer) => {
                self.learn(guess);
                Ok(answer)
            }
            Err(Error::HttpInsteadOfHttps { .. }) => Err(second),
            Err(_) if matches!(second, Error::Tls { .. }) => Err(second),
            Err(first) => Err(first),
        }
    }

    /// Keeps which protocol the endpoint speaks; gives whether that is it, for the first word counts.
    fn learn(&self, found: Speaks) -> bool {
        let (unknown, found) = (Speaks::Unknown as u8, found as u8);
        let known = self.speaks.compare_exchange(unknown, found, Ordering::Relaxed, Ordering::Relaxed);
        known.map_or_else(|known| known == found, |_| true)
    }
}

/// Refuses what is no repository's name: it stands in addresses.
pub(crate) fn check_repository(name: &str) -> Result<(), Error> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let has_dots = name.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if has_dots || !name.bytes().all(is_word) {
        return Err(Error::BadName { what: "the repository", found: cut(name) });
    }
    Ok(())
}

/// Tells whether what came of one protocol leaves room for the other.
fn may_speak(other: Speaks, answered: &Result<Answer, Error>) -> bool {
    match (other, answered) {
        // What servers say that are asked in clear where they speak TLS: a 400, an alert, or nothing.
        (Speaks::Https, Ok(answer)) => answer.status() == 400 || leads_to_https(answer),
        (Speaks::Https, Err(error)) => is_no_answer(error) || matches!(error, Error::Protocol { .. }),
        (_, Ok(_)) => false,
        (_, Err(error)) => is_no_answer(error),
    }
}

/// Tells whether an answer in clear only says that TLS is spoken here, as many servers have it.
fn leads_to_https(answer: &Answer) -> bool {
    let target = answer.is_redirect().then(|| redirect_target(answer).ok()).flatten();
    target.is_some_and(|url| url.scheme() == Scheme::Https && url.host_and_port().0 == answer.url.host_and_port().0)
}

/// Tells whether a request failed below HTTP. A proxy that is overloaded has not said that there is no way.
fn is_no_answer(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::Tls { .. } | Error::HttpInsteadOfHttps { .. } => true,
        Error::Proxy { .. } => !error.is_transient(),
        _ => false,
    }
}

/// Tells whether an address is of this host itself, by its name alone.
fn is_this_host(address: &str) -> bool {
    let host = match address.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => address,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_known_by_its_name() {
        for address in ["127.0.0.1", "127.9.9.9:5000", "localhost", "LocalHost:80", "[::1]", "[::1]:5000"] {
            assert!(is_this_host(address), "{address}");
        }
        for address in
            ["r.example", "127.0.0.1.example", "128.0.0.1:5000", "[fe80::1]:80", "localhost.example", "10.0.0.1"]
        {
            assert!(!is_this_host(address), "{address}");
        }
    }
}
