// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP proxies: `CONNECT` for HTTPS (RFC 9110, 9.3.6), the absolute form for plain HTTP (RFC 9112, 3.2.2).
//!
//! The HTTP library tunnels everything through `CONNECT`, which many proxies allow to port 443 only, and would show a
//! client certificate to a proxy that is spoken to over TLS. So the way through a proxy is ours, below the library.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use stos_spec::text::cut;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, RustlsConnector, TcpConnector, Transport as Wire,
};

use crate::credential::{Authorization, Secret};
use crate::deadline::{Limits, within};
use crate::error::Error;
use crate::url::{Scheme, Url};

/// The most of a proxy's answer to `CONNECT` that is read, in bytes.
const ANSWER_MAX: usize = 16 << 10;

/// Where a connection is to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination<'a> {
    /// Whether HTTPS is to be spoken there.
    pub is_https: bool,
    /// The host, an IPv6 address in brackets.
    pub host: &'a str,
    /// The port.
    pub port: u16,
}

/// What a choice of proxies fails with. Its words reach people, so they must hold no secret.
pub type ProxyFailure = Box<dyn StdError + Send + Sync>;

/// Which proxy leads where: what `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say, for instance.
///
/// Each connection is asked about by itself, for a redirect or a token server may lie on the other side of `NO_PROXY`.
pub trait Proxies: Send + Sync {
    /// Gives the proxy to `destination`; `None` where the way is direct.
    ///
    /// # Errors
    /// Where there should be one and it cannot be used. Nothing is asked of the destination then.
    fn proxy(&self, destination: Destination<'_>) -> Result<Option<Proxy>, ProxyFailure>;
}

/// One proxy for everything.
impl Proxies for Proxy {
    fn proxy(&self, _: Destination<'_>) -> Result<Option<Proxy>, ProxyFailure> {
        Ok(Some(self.clone()))
    }
}

/// A proxy. Its user and password are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    url: Url,
    authorization: Option<Authorization>,
}

impl Proxy {
    /// Makes a proxy of its parts: `host` may have a port, an IPv6 address stands in brackets; `login` is a user and a
    /// password, as they are.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub fn new(is_https: bool, host: &str, login: Option<(Secret, Secret)>) -> Result<Self, Error> {
        let bad = |expected| Error::BadOption { option: "proxy", found: cut(host), expected };
        let scheme = if is_https { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{host}")).map_err(|_| bad("a host, and maybe a port"))?;
        let basic =
            |(user, password)| Authorization::basic(&user, &password).ok_or_else(|| bad("a user without a colon"));
        Ok(Self { url, authorization: login.map(basic).transpose()? })
    }

    /// Tells whether the proxy itself is spoken to over TLS.
    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == Scheme::Https
    }

    /// Gives scheme, host and port, as people may see them.
    pub(crate) fn shown(&self) -> String {
        self.url.shown().as_str().trim_end_matches('/').to_owned()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.authorization.is_some() { "…@" } else { "" };
        write!(f, "Proxy({user}{self})")
    }
}

/// Looks up the proxy instead of the host: that one's name is the proxy's business.
#[derive(Debug)]
pub(crate) struct ProxyResolver {
    uri: Uri,
    inner: DefaultResolver,
}

impl Resolver for ProxyResolver {
    fn resolve(&self, _: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.inner.resolve(&self.uri, config, timeout)
    }
}

/// Connects through a proxy. What follows it in the chain speaks TLS with the host where that is wanted.
#[derive(Debug)]
pub(crate) struct ProxyConnector {
    proxy: Proxy,
    uri: Uri,
    /// How the proxy itself is spoken to: verified where it speaks TLS, and without a client certificate.
    config: Config,
    tls: RustlsConnector,
}

impl ProxyConnector {
    /// Gives what an agent needs to go through `proxy`.
    pub(crate) fn new(proxy: &Proxy, config: Config) -> Result<(Self, ProxyResolver), ureq::http::Error> {
        let uri = proxy.url.to_uri()?;
        let resolver = ProxyResolver { uri: uri.clone(), inner: DefaultResolver::default() };
        Ok((Self { proxy: proxy.clone(), uri, config, tls: RustlsConnector::default() }, resolver))
    }
}

impl Connector<()> for ProxyConnector {
    type Out = Box<dyn Wire>;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        let to_proxy = ConnectionDetails {
            uri: &self.uri,
            addrs: details.addrs.clone(),
            config: &self.config,
            request_level: false,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: Arc::clone(&details.current_time),
            run_connector: Arc::clone(&details.run_connector),
            register_shutdown: Arc::clone(&details.register_shutdown),
        };
        let tcp = Connector::<()>::chain(TcpConnector::default(), Limits).connect(&to_proxy, None)?;
        let Some(wire) = self.tls.connect(&to_proxy, tcp)? else { return Ok(None) };
        let wire: Box<dyn Wire> = Box::new(wire);
        let authority = details.uri.authority().map(ToString::to_string).unwrap_or_default();
        let authorization = self.proxy.authorization.as_ref().map(Authorization::header);
        let authorization =
            authorization.as_ref().map(|header| String::from_utf8_lossy(header.as_bytes()).into_owned());
        if details.needs_tls() {
            let host = details.uri.host().unwrap_or_default();
            let port = details.uri.port_u16().unwrap_or(Scheme::Https.default_port());
            let open = || open_tunnel(wire, details.timeout, &format!("{host}:{port}"), authorization.as_deref());
            // The library counts each wait by itself.
            let wire =
                if details.timeout.after.is_not_happening() { open() } else { within(*details.timeout.after, open) }?;
            return Ok(Some(Box::new(Tunnel(wire))));
        }
        Ok(Some(Box::new(AbsoluteForm { wire, authority, authorization, is_request: true })))
    }
}

/// Asks the proxy for a tunnel to `target`.
fn open_tunnel(
    mut wire: Box<dyn Wire>,
    timeout: NextTimeout,
    target: &str,
    authorization: Option<&str>,
) -> Result<Box<dyn Wire>, ureq::Error> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    transmit(&mut *wire, request.as_bytes(), timeout)?;
    loop {
        let is_more = wire.await_input(timeout)?;
        let input = wire.buffers().input();
        if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            let status = status(input);
            wire.buffers().input_consume(end + 4);
            return match status {
                Some(200..=299) => Ok(wire),
                Some(status) => Err(Refusal::of_status(status).into_error()),
                None => Err(Refusal::of("its answer is not HTTP").into_error()),
            };
        }
        if !is_more || input.len() > ANSWER_MAX {
            return Err(Refusal::of("it ended the connection, or its answer has no end").into_error());
        }
    }
}

/// Why a proxy does not lead there.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    /// What it answered, where that was HTTP.
    pub(crate) status: Option<u16>,
}

impl Refusal {
    fn of(reason: &str) -> Self {
        Self { reason: reason.to_owned(), status: None }
    }

    pub(crate) fn of_status(status: u16) -> Self {
        let reason = match status {
            407 => "it wants a user and a password, or others (407)".to_owned(),
            status => format!("it answered {status}"),
        };
        Self { reason, status: Some(status) }
    }

    /// Wraps it for its way through the library.
    fn into_error(self) -> ureq::Error {
        ureq::Error::Io(io::Error::other(self))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl StdError for Refusal {}

/// Reads the status of `HTTP/1.1 200 …`.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

fn transmit(wire: &mut dyn Wire, mut bytes: &[u8], timeout: NextTimeout) -> Result<(), ureq::Error> {
    while !bytes.is_empty() {
        let room = wire.buffers().output();
        let n = room.len().min(bytes.len());
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        room[..n].copy_from_slice(&bytes[..n]);
        wire.transmit_output(n, timeout)?;
        bytes = &bytes[n..];
    }
    Ok(())
}

/// A tunnel: whatever leads to the proxy, to the host nobody speaks TLS yet.
#[derive(Debug)]
struct Tunnel(Box<dyn Wire>);

impl Wire for Tunnel {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }
}

/// A connection to a proxy on which plain HTTP is spoken: each request's target is made absolute, and it is told who asks.
struct AbsoluteForm {
    wire: Box<dyn Wire>,
    authority: String,
    authorization: Option<String>,
    /// Whether what is sent next begins a request: nothing has been sent since the last answer began.
    is_request: bool,
}

impl AbsoluteForm {
    /// Rewrites `GET /path HTTP/1.1` at the beginning of `head`.
    fn absolute(&self, head: &[u8]) -> Option<Vec<u8>> {
        let line_end = head.windows(2).position(|window| window == b"\r\n")? + 2;
        let path = head[..line_end].iter().position(|byte| *byte == b' ')? + 1;
        let mut bytes = Vec::with_capacity(head.len() + 256);
        bytes.extend_from_slice(&head[..path]);
        bytes.extend_from_slice(format!("http://{}", self.authority).as_bytes());
        bytes.extend_from_slice(&head[path..line_end]);
        if let Some(authorization) = &self.authorization {
            bytes.extend_from_slice(format!("Proxy-Authorization: {authorization}\r\n").as_bytes());
        }
        bytes.extend_from_slice(&head[line_end..]);
        Some(bytes)
    }
}

impl fmt::Debug for AbsoluteForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbsoluteForm").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Wire for AbsoluteForm {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.wire.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if !std::mem::take(&mut self.is_request) {
            return self.wire.transmit_output(amount, timeout);
        }
        let head = self.wire.buffers().output()[..amount].to_vec();
        let no_request = || io::Error::new(io::ErrorKind::InvalidData, "a request without a line");
        let head = self.absolute(&head).ok_or_else(no_request)?;
        transmit(&mut *self.wire, &head, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.is_request = true;
        self.wire.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.wire.is_open()
    }

    fn is_tls(&self) -> bool {
        self.wire.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_made_of_its_parts_and_hides_its_password() {
        let login = |user: &str| Some((Secret::new(user), Secret::new("s3:cret")));
        for (is_https, host, login, shown, authorization) in [
            (false, "p.example:3128", None, "http://p.example:3128", None),
            (true, "P.example", None, "https://p.example", None),
            (true, "[::1]:1", login("u@x"), "https://[::1]:1", Some("Basic dUB4OnMzOmNyZXQ=")),
        ] {
            let proxy = Proxy::new(is_https, host, login).unwrap();
            let header = proxy.authorization.as_ref().map(|it| it.header().to_str().unwrap().to_owned());
            assert_eq!((proxy.to_string().as_str(), header.as_deref()), (shown, authorization), "{host}");
            assert!(!format!("{proxy:?}").contains("s3:cret"));
        }
        for (host, user) in [("", "u"), ("p example", "u"), ("u:s3cret@p.example", "u"), ("p.example", "u:s3cret")] {
            let error = Proxy::new(false, host, login(user)).unwrap_err();
            assert!(matches!(error, Error::BadOption { option: "proxy", .. }), "{host} {user}");
            assert!(!user.contains("s3cret") || !error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_status_is_read() {
        for (head, expected) in [
            (&b"HTTP/1.1 200 Connection established\r\n\r\n"[..], Some(200)),
            (b"HTTP/1.0 407\r\n", Some(407)),
            (b"SSH-2.0\r\n", None),
            (b"HTTP/1.1 x\r\n", None),
            (b"\xff 200", None),
            (b"", None),
        ] {
            assert_eq!(status(head), expected);
        }
    }
}
