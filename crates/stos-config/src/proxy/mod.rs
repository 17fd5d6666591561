// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Proxies of the environment, by Go's rules (`golang.org/x/net/http/httpproxy`), for podman, skopeo and docker follow them.
//!
//! | variable | what for |
//! |---|---|
//! | `HTTPS_PROXY`, `https_proxy` | targets over HTTPS |
//! | `HTTP_PROXY`, `http_proxy` | targets over HTTP; the upper-case one not where `REQUEST_METHOD` is set, for there a client could have set it (CVE-2016-5385) |
//! | `ALL_PROXY`, `all_proxy` | where there is none for the scheme; curl's habit, not Go's |
//! | `NO_PROXY`, `no_proxy` | which targets are reached directly: [`NoProxy`] |
//!
//! Of two spellings the upper-case one counts first, as in Go; curl reads the lower-case one first. Empty is not set.
//! `localhost` and loopback addresses are never proxied by these; `proxy` of `registries.conf` is asked for and comes before. A proxy that is set and cannot be used is an error where it would
//! be used; Go connects directly.

mod no_proxy;

use std::fmt;

pub use self::no_proxy::NoProxy;
use crate::environment::Environment;
use crate::error::Error;
use crate::names::split_port;
use crate::secret::Secret;

/// How a target is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTPS.
    Https,
}

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyScheme {
    /// HTTP; HTTPS targets through CONNECT.
    Http,
    /// As [`Http`](Self::Http), over TLS.
    Https,
    /// SOCKS 5. Names are looked up by the proxy, as Go and containers-registries.conf(5) have it.
    Socks5,
}

/// A proxy's address. `Debug` and `Display` show no password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    /// How it is spoken to.
    pub scheme: ProxyScheme,
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub host: String,
    /// The port: given, or the scheme's (80, 443, 1080).
    pub port: u16,
    /// Who asks, percent-decoded.
    pub user: Option<String>,
    /// The password, percent-decoded.
    pub password: Option<Secret>,
}

/// Whether a target is reached through a proxy, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyChoice {
    /// No variable names a proxy for it.
    NoneSet,
    /// It is this machine.
    Loopback,
    /// An entry of a variable excepts it.
    Excepted {
        /// `NO_PROXY` or `no_proxy`.
        variable: &'static str,
        /// The entry.
        entry: String,
    },
    /// Through a proxy.
    Through {
        /// The proxy.
        proxy: ProxyAddress,
        /// What names it.
        variable: &'static str,
    },
}

/// The proxies of an environment.
#[derive(Clone)]
pub struct Proxies {
    http: Option<Variable>,
    https: Option<Variable>,
    no_proxy: Option<(&'static str, NoProxy)>,
}

#[derive(Clone)]
struct Variable {
    name: &'static str,
    /// What it names, or what was expected.
    proxy: Result<ProxyAddress, &'static str>,
}

impl Proxies {
    /// Reads the variables.
    pub fn of(environment: &Environment) -> Self {
        let find = |names: &[&'static str]| {
            let found = names.iter().find_map(|name| Some((*name, environment.get(name)?)));
            found.map(|(name, value)| Variable {
                name,
                proxy: value.to_str().ok_or("UTF-8").and_then(ProxyAddress::parse),
            })
        };
        let http: &[&str] = match environment.get("REQUEST_METHOD") {
            Some(_) => &["http_proxy"],
            None => &["HTTP_PROXY", "http_proxy"],
        };
        let all = find(&["ALL_PROXY", "all_proxy"]);
        let no_proxy = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| Some((name, environment.get(name)?)));
        Self {
            http: find(http).or_else(|| all.clone()),
            https: find(&["HTTPS_PROXY", "https_proxy"]).or(all),
            no_proxy: no_proxy.map(|(name, value)| (name, NoProxy::parse(&value.to_string_lossy()))),
        }
    }

    /// Tells how a target is reached. `host` may have a port; an IPv6 address stands in brackets.
    ///
    /// # Errors
    /// [`Error::Proxy`] where the proxy that would be used is none.
    pub fn choose(&self, scheme: Scheme, host: &str) -> Result<ProxyChoice, Error> {
        let (variable, usual) = match scheme {
            Scheme::Http => (&self.http, 80),
            Scheme::Https => (&self.https, 443),
        };
        let Some(variable) = variable else { return Ok(ProxyChoice::NoneSet) };
        let (name, port) = split_port(host);
        let target = no_proxy::Target::new(name, port.and_then(|port| port.parse().ok()).unwrap_or(usual));
        if target.is_loopback() {
            return Ok(ProxyChoice::Loopback);
        }
        if let Some((variable, list)) = &self.no_proxy
            && let Some(entry) = list.entry_for(&target)
        {
            return Ok(ProxyChoice::Excepted { variable, entry: entry.to_owned() });
        }
        match &variable.proxy {
            Ok(proxy) => Ok(ProxyChoice::Through { proxy: proxy.clone(), variable: variable.name }),
            Err(expected) => Err(Error::Proxy { variable: variable.name.to_owned(), expected }),
        }
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |variable: &Option<Variable>| variable.as_ref().map(|variable| variable.name);
        f.debug_struct("Proxies").field("http", &named(&self.http)).field("https", &named(&self.https)).finish()
    }
}

impl ProxyAddress {
    /// Reads `[SCHEME://][USER[:PASSWORD]@]HOST[:PORT][/…]`; without a scheme it is `http`. The path does not count.
    /// On failure gives what was expected, and nothing of the text.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("http", text.trim()));
        let (scheme, usual) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (ProxyScheme::Http, 80),
            "https" => (ProxyScheme::Https, 443),
            "socks5" | "socks5h" => (ProxyScheme::Socks5, 1080),
            _ => return Err("http, https, socks5 or socks5h as its scheme"),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let (host, port) = split_port(host);
        let port = match port {
            None | Some("") => usual,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|&port| port != 0).ok_or("a port from 1 to 65535")?
            }
            Some(_) => return Err("a port from 1 to 65535"),
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_good = match address {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(is_host),
        };
        if !is_good {
            return Err("a host name or address");
        }
        let (user, password) = match user.map(|user| user.split_once(':').map_or((user, None), |(u, p)| (u, Some(p)))) {
            Some((user, password)) => (Some(decoded(user)?), password.map(decoded).transpose()?.map(Secret::from)),
            None => (None, None),
        };
        Ok(Self { scheme, host: host.to_owned(), port, user: user.filter(|user| !user.is_empty()), password })
    }
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Result<String, &'static str> {
    const EXPECTED: &str = "a user and password in percent-encoded UTF-8";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or(EXPECTED);
        bytes.push(match byte {
            b'%' => (digit(rest.next())? * 16 + digit(rest.next())?) as u8,
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| EXPECTED)
}

impl fmt::Display for ProxyAddress {
    /// Writes the address, with `…@` where it has a user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            ProxyScheme::Http => "http",
            ProxyScheme::Https => "https",
            ProxyScheme::Socks5 => "socks5",
        };
        let user = if self.user.is_some() || self.password.is_some() { "…@" } else { "" };
        write!(f, "{scheme}://{user}{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyAddress({self})")
    }
}

#[cfg(test)]
mod tests;
