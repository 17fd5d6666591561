// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sockets and TLS: one request, one response, and what their errors mean. Redirects are not followed here.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use ureq::http::{Method, Request, Response, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Timeout};

use crate::error::Error;
use crate::options::ClientOptions;
use crate::url::{Scheme, Url};

/// The most of a response's header that is read, in bytes.
const HEADER_MAX: usize = 64 << 10;

/// How many connections to one host may wait for their next request.
const IDLE_CONNECTIONS: usize = 8;

/// Connections to any host, kept alive between requests.
pub(crate) struct Transport {
    options: ClientOptions,
    /// Made at the first request: the certificates are read only where HTTPS is spoken.
    secure: Mutex<Option<Agent>>,
    plain: Mutex<Option<Agent>>,
}

impl Transport {
    /// Checks the options. Nothing is opened or read yet.
    pub(crate) fn new(options: &ClientOptions) -> Result<Self, Error> {
        let agent = &options.user_agent;
        if agent.is_empty() || !agent.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(Error::BadOption { option: "user_agent", found: agent.clone(), expected: "visible ASCII" });
        }
        Ok(Self { options: options.clone(), secure: Mutex::default(), plain: Mutex::default() })
    }

    /// Breaks all connections, those in use too: who waits for one of them fails.
    pub(crate) fn shut_down(&self) {
        for slot in [&self.secure, &self.plain] {
            let agent = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
            agent.into_iter().for_each(Agent::shutdown);
        }
    }

    /// Gives the options.
    pub(crate) fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// Sends one request without a body, and gives its response whatever the status.
    pub(crate) fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: &[(header::HeaderName, header::HeaderValue)],
    ) -> Result<Response<Body>, Error> {
        let uri = url.to_uri().map_err(|error| Error::Protocol { url: url.shown(), reason: error.to_string() })?;
        let mut request = Request::builder().method(method.clone()).uri(uri);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request =
            request.body(()).map_err(|error| Error::Protocol { url: url.shown(), reason: error.to_string() })?;
        self.agent(url.scheme())?.run(request).map_err(|error| self.explain(error, url))
    }

    fn agent(&self, scheme: Scheme) -> Result<Agent, Error> {
        let slot = match scheme {
            Scheme::Https => &self.secure,
            Scheme::Http => &self.plain,
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = &*slot {
            return Ok(agent.clone());
        }
        let tls = match scheme {
            Scheme::Https => self.tls()?,
            Scheme::Http => TlsConfig::default(),
        };
        let timeouts = &self.options.timeouts;
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(self.options.user_agent.as_str())
            // A blob's digest is that of the bytes on the wire: nothing on the way may encode them.
            .accept_encoding("identity")
            .timeout_connect(Some(timeouts.connect))
            .timeout_send_request(Some(timeouts.response))
            .timeout_recv_response(Some(timeouts.response))
            .timeout_per_read(Some(timeouts.stall))
            .max_response_header_size(HEADER_MAX)
            .max_idle_connections(2 * IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .build();
        Ok(slot.insert(Agent::new_with_config(config)).clone())
    }

    fn tls(&self) -> Result<TlsConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
        if !self.options.tls_verify {
            // The roots are not asked, but the library wants a set.
            let none = RootCerts::new_with_certs(&[]);
            return Ok(builder.disable_verification(true).root_certs(none).build());
        }
        let system = rustls_native_certs::load_native_certs();
        let mut roots: Vec<_> = system.certs.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
        for root in &self.options.extra_roots {
            // The library would leave out what it cannot read, and the user would wonder.
            rustls::RootCertStore::empty().add(root.as_slice().into()).map_err(|error| Error::BadOption {
                option: "extra_roots",
                found: error.to_string(),
                expected: "certificates in DER",
            })?;
            roots.push(Certificate::from_der(root).to_owned());
        }
        if roots.is_empty() {
            let reason = system.errors.first().map_or_else(|| "none are installed".to_owned(), ToString::to_string);
            return Err(Error::NoRoots { reason });
        }
        Ok(builder.root_certs(RootCerts::new_with_certs(&roots)).build())
    }

    fn explain(&self, error: ureq::Error, url: &Url) -> Error {
        let host = || url.authority().to_owned();
        let timeouts = &self.options.timeouts;
        let unreachable = |source| Error::Unreachable { host: host(), source };
        match error {
            ureq::Error::Io(error) => match error.downcast::<rustls::Error>() {
                Ok(error) => explain_tls(error, host()),
                // A peer that ends the connection within a handshake, or resets it, says no more than that.
                Err(error) => unreachable(error),
            },
            ureq::Error::Rustls(error) => explain_tls(error, host()),
            ureq::Error::Tls(reason) => Error::Tls { host: host(), source: reason.into() },
            ureq::Error::TlsRequired => Error::Tls { host: host(), source: "TLS is required".into() },
            ureq::Error::HostNotFound => {
                unreachable(io::Error::new(io::ErrorKind::NotFound, "the host's name has no address"))
            }
            ureq::Error::ConnectionFailed => unreachable(io::Error::other("the connection failed")),
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                let reason = format!("no connection within {} s", timeouts.connect.as_secs_f32());
                unreachable(io::Error::new(io::ErrorKind::TimedOut, reason))
            }
            ureq::Error::Timeout(Timeout::PerRead) => Error::Timeout { url: url.shown(), limit: timeouts.stall },
            ureq::Error::Timeout(_) => Error::Timeout { url: url.shown(), limit: timeouts.response },
            ureq::Error::LargeResponseHeader(..) => {
                Error::Protocol { url: url.shown(), reason: format!("its header is larger than {HEADER_MAX} bytes") }
            }
            other => Error::Protocol { url: url.shown(), reason: other.to_string() },
        }
    }
}

fn explain_tls(error: rustls::Error, host: String) -> Error {
    match error {
        // "HTTP/1.1 400" begins with no TLS record's type.
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => Error::HttpInsteadOfHttps { host },
        error => Error::Tls { host, source: Box::new(error) },
    }
}
