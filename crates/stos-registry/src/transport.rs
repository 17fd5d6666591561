// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sockets and TLS: one request, one response, and what their errors mean. Redirects are not followed here.

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::request::Builder;
use ureq::http::{Method, Request, Response, header};
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, RustlsConnector, TcpConnector};
use ureq::{Agent, Body, SendBody, Timeout};

use crate::deadline::Limits;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::options::ClientOptions;
use crate::proxy::{Destination, Proxy, ProxyConnector, Refusal};
use crate::tls::Trust;
use crate::url::{Scheme, Url};

/// The most of a response's header that is read, in bytes.
const HEADER_MAX: usize = 64 << 10;

/// How many connections to one host may wait for their next request.
const IDLE_CONNECTIONS: usize = 8;

/// Connections to any host, kept alive between requests.
pub(crate) struct Transport {
    options: ClientOptions,
    endpoint: Endpoint,
    trust: Trust,
    agents: Mutex<Agents>,
}

#[derive(Default)]
struct Agents {
    /// Made at the first request of their kind: the certificates are read only where HTTPS is spoken.
    of_kind: Vec<(AgentKind, Agent)>,
    /// One that is made afterwards sends nothing either.
    is_shut_down: bool,
}

/// What tells agents apart.
#[derive(PartialEq, Eq)]
struct AgentKind {
    scheme: Scheme,
    /// Whether the client certificate is shown.
    is_identified: bool,
    proxy: Option<Proxy>,
}

/// What is sent with a request.
pub(crate) enum Payload<'a> {
    None,
    /// Bytes that are at hand, and may be none.
    Bytes(&'a [u8]),
    /// So many bytes of a reader. One that ends early must fail instead: the library would wait for the rest.
    Reader(&'a mut dyn Read, u64),
}

impl Transport {
    /// Checks the options. Nothing is opened or read yet.
    pub(crate) fn new(endpoint: &Endpoint, options: &ClientOptions) -> Result<Self, Error> {
        let agent = &options.user_agent;
        if agent.is_empty() || !agent.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(Error::BadOption { option: "user_agent", found: agent.clone(), expected: "visible ASCII" });
        }
        endpoint.check()?;
        let mut options = options.clone();
        options.tls_verify = endpoint.tls_verify;
        let roots = [options.extra_roots.as_slice(), &endpoint.extra_roots].concat();
        Ok(Self { options, endpoint: endpoint.clone(), trust: Trust::new(roots), agents: Mutex::default() })
    }

    /// Breaks all connections, those in use too: who waits for one of them fails, and so does who wants another one.
    pub(crate) fn shut_down(&self) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.is_shut_down = true;
        agents.of_kind.iter().for_each(|(_, agent)| agent.clone().shutdown());
    }

    /// Gives the options, as they are for this endpoint.
    pub(crate) fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// Sends one request, and gives its response whatever the status.
    pub(crate) fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: &[(header::HeaderName, header::HeaderValue)],
        payload: Payload<'_>,
    ) -> Result<Response<Body>, Error> {
        let bad = |error: ureq::http::Error| Error::Protocol { url: url.shown(), reason: error.to_string() };
        let mut request = Request::builder().method(method.clone()).uri(url.to_uri().map_err(bad)?);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let agent = self.agent(url)?;
        let patience = match payload {
            Payload::None => self.options.timeouts.response,
            Payload::Bytes(_) | Payload::Reader(..) => self.options.timeouts.commit,
        };
        let answer = match payload {
            Payload::None => agent.run(request.body(()).map_err(bad)?),
            Payload::Bytes(mut bytes) => {
                let size = bytes.len() as u64;
                self.send_body(&agent, request, &mut bytes, size).map_err(bad)?
            }
            Payload::Reader(reader, size) => self.send_body(&agent, request, reader, size).map_err(bad)?,
        };
        answer.map_err(|error| self.explain(error, url, patience))
    }

    /// Sends a body. A registry may take its time before it says what it thinks of it.
    fn send_body(
        &self,
        agent: &Agent,
        request: Builder,
        reader: &mut dyn Read,
        size: u64,
    ) -> Result<Result<Response<Body>, ureq::Error>, ureq::http::Error> {
        // Said even of nothing: servers refuse a request that leaves it open (411).
        let request = request.header(header::CONTENT_LENGTH, size).body(SendBody::from_reader(reader))?;
        let commit = Some(self.options.timeouts.commit);
        // That one wait for the header may be as long, too.
        let request = agent.configure_request(request).timeout_recv_response(commit).timeout_per_read(commit);
        Ok(agent.run(request.build()))
    }

    fn proxy(&self, url: &Url) -> Result<Option<Proxy>, Error> {
        let Some(proxies) = &self.endpoint.proxies else { return Ok(None) };
        let (host, port) = url.host_and_port();
        let chosen = proxies.proxy(Destination { is_https: url.scheme() == Scheme::Https, host, port });
        chosen.map_err(|failure| Error::NoProxy { host: url.authority().to_owned(), source: failure.into() })
    }

    /// Tells whether a request goes through a proxy.
    pub(crate) fn is_through_proxy(&self, url: &Url) -> bool {
        // Where that cannot be told the request fails, and says so.
        !matches!(self.proxy(url), Ok(None))
    }

    /// Gives the proxy that a request has gone through.
    fn proxy_used(&self, url: &Url) -> Option<Proxy> {
        self.proxy(url).ok().flatten()
    }

    /// Tells what a proxy has refused.
    pub(crate) fn proxy_refused(&self, url: &Url, refusal: Refusal) -> Error {
        let proxy = self.proxy_used(url).map_or_else(|| "on the way".to_owned(), |proxy| proxy.shown());
        let Refusal { reason, status } = refusal;
        Error::Proxy { proxy, host: url.authority().to_owned(), reason, status }
    }

    fn agent(&self, url: &Url) -> Result<Agent, Error> {
        let home = Url::new(Scheme::Https, self.endpoint.address(), "/");
        let kind = AgentKind {
            scheme: url.scheme(),
            is_identified: self.endpoint.identity.is_some() && url.is_same_origin(&home),
            proxy: self.proxy(url)?,
        };
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, agent)) = agents.of_kind.iter().find(|(known, _)| *known == kind) {
            return Ok(agent.clone());
        }
        let tls = match kind.scheme {
            Scheme::Https => {
                let identity = self.endpoint.identity.as_ref().filter(|_| kind.is_identified);
                self.trust.config(self.options.tls_verify, identity)?
            }
            Scheme::Http => TlsConfig::default(),
        };
        let config = self.config(tls);
        let agent = match &kind.proxy {
            None => {
                let wire = Connector::<()>::chain(TcpConnector::default(), Limits);
                Agent::with_parts(config, wire.chain(RustlsConnector::default()), DefaultResolver::default())
            }
            Some(proxy) => self.agent_through(proxy, config)?,
        };
        if agents.is_shut_down {
            agent.clone().shutdown();
        }
        agents.of_kind.push((kind, agent.clone()));
        Ok(agent)
    }

    fn agent_through(&self, proxy: &Proxy, config: Config) -> Result<Agent, Error> {
        // Its password is worth verifying whom it goes to, whatever is wanted of the registry.
        let tls = if proxy.is_https() { self.trust.config(true, None)? } else { TlsConfig::default() };
        let (connector, resolver) = ProxyConnector::new(proxy, self.config(tls)).map_err(|_| Error::BadOption {
            option: "proxy",
            found: proxy.shown(),
            expected: "a URL",
        })?;
        Ok(Agent::with_parts(config, connector.chain(RustlsConnector::default()), resolver))
    }

    fn config(&self, tls: TlsConfig) -> Config {
        let timeouts = &self.options.timeouts;
        Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // Proxies are ours: see `proxy`.
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
            .timeout_per_write(Some(timeouts.stall))
            .max_response_header_size(HEADER_MAX)
            .max_idle_connections(2 * IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .build()
    }

    /// Tells what the library's error means of a request whose answer was waited for with so much patience.
    fn explain(&self, error: ureq::Error, url: &Url, patience: Duration) -> Error {
        let host = || match self.proxy_used(url) {
            Some(proxy) => format!("{} through the proxy {proxy}", url.authority()),
            None => url.authority().to_owned(),
        };
        let timeouts = &self.options.timeouts;
        let unreachable = |source| Error::Unreachable { host: host(), source };
        match error {
            ureq::Error::Io(error) => match error.downcast::<rustls::Error>() {
                Ok(error) => explain_tls(error, host()),
                Err(error) => match error.downcast::<Refusal>() {
                    Ok(refusal) => self.proxy_refused(url, refusal),
                    Err(error) if is_unknown_host(&error) => {
                        unreachable(io::Error::new(io::ErrorKind::NotFound, error.to_string()))
                    }
                    // A peer that ends the connection within a handshake, or resets it, says no more than that.
                    Err(error) => unreachable(error),
                },
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
            ureq::Error::Timeout(Timeout::PerRead) => {
                Error::Timeout { url: url.shown(), limit: timeouts.stall.max(patience) }
            }
            ureq::Error::Timeout(Timeout::PerWrite) => Error::Timeout { url: url.shown(), limit: timeouts.stall },
            ureq::Error::Timeout(Timeout::RecvResponse) => Error::Timeout { url: url.shown(), limit: patience },
            ureq::Error::Timeout(_) => Error::Timeout { url: url.shown(), limit: timeouts.response },
            ureq::Error::LargeResponseHeader(..) => {
                Error::Protocol { url: url.shown(), reason: format!("its header is larger than {HEADER_MAX} bytes") }
            }
            other => Error::Protocol { url: url.shown(), reason: other.to_string() },
        }
    }
}

/// Tells whether a name has no address, and will have none in a minute: what the resolver says of EAI_NONAME and EAI_NODATA, by
/// glibc's words and musl's, for the standard library keeps no more of it. EAI_AGAIN is another matter.
fn is_unknown_host(error: &io::Error) -> bool {
    const WORDS: [&str; 4] = [
        "Name or service not known",
        "No address associated with hostname",
        "Name does not resolve",
        "Name has no usable address",
    ];
    let said = error.to_string();
    let reason = said.strip_prefix("failed to lookup address information: ");
    reason.is_some_and(|reason| WORDS.contains(&reason))
}

fn explain_tls(error: rustls::Error, host: String) -> Error {
    match error {
        // "HTTP/1.1 400" begins with no TLS record's type.
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => Error::HttpInsteadOfHttps { host },
        error => Error::Tls { host, source: Box::new(error) },
    }
}
