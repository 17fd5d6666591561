// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses: `http` and `https` only, without user information, shown without their query.

use std::fmt;

use stos_spec::text::{self, cut};
use ureq::http::Uri;
use ureq::http::uri::Authority;

/// The longest address that is followed, in bytes: presigned ones have 1–3 thousand.
const URL_MAX: usize = 16 << 10;

/// The protocol below HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Gives the port where none is written.
    pub(crate) fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// An address that a request may go to.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    scheme: Scheme,
    /// Lower case, without a user.
    authority: String,
    /// Begins with a slash; no fragment.
    path_and_query: String,
}

impl Url {
    /// Makes an address on `authority` (a host, and maybe a port) from a path that needs no escapes.
    pub(crate) fn new(scheme: Scheme, authority: &str, path: &str) -> Self {
        Self { scheme, authority: authority.to_ascii_lowercase(), path_and_query: path.to_owned() }
    }

    /// Reads an absolute address. The error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("expected an absolute URL")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err("expected the scheme https or http"),
        };
        Self::with_scheme(scheme, rest)
    }

    fn with_scheme(scheme: Scheme, rest: &str) -> Result<Self, &'static str> {
        if rest.len() > URL_MAX {
            return Err("the URL is too long");
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("a user in a URL is not sent anywhere");
        }
        let parsed: Authority = authority.parse().map_err(|_| "the host is not valid")?;
        // The library leaves out a port that is no number up to 65535, instead of refusing it.
        let port = match authority.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => Some(port),
            _ => None,
        };
        let port_is_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if parsed.host().is_empty() || !port_is_good {
            return Err("the host is not valid");
        }
        let path_and_query = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let url = Self { scheme, authority: authority.to_ascii_lowercase(), path_and_query };
        url.to_uri().map_err(|_| "the URL has characters that need escapes")?;
        Ok(url)
    }

    /// Resolves a `Location` against this address (RFC 9110, 10.2.2), dot segments left as they are.
    pub(crate) fn join(&self, location: &str) -> Result<Self, &'static str> {
        let location = location.trim();
        let has_scheme = location.split_once(':').is_some_and(|(scheme, _)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        });
        if location.is_empty() {
            return Err("it is empty");
        }
        if has_scheme {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::with_scheme(self.scheme, rest);
        }
        let path = self.path();
        let directory = &path[..path.rfind('/').unwrap_or(0)];
        match location.as_bytes()[0] {
            b'/' => Self::with_scheme(self.scheme, &format!("{}{location}", self.authority)),
            b'?' => Self::with_scheme(self.scheme, &format!("{}{path}{location}", self.authority)),
            _ => Self::with_scheme(self.scheme, &format!("{}{directory}/{location}", self.authority)),
        }
    }

    /// Adds query parameters, escaped.
    pub(crate) fn with_query(mut self, parameters: &[(&str, &str)]) -> Self {
        if !parameters.is_empty() {
            self.path_and_query.push(if self.path_and_query.contains('?') { '&' } else { '?' });
            self.path_and_query.push_str(&form(parameters));
        }
        self
    }

    /// Gives the protocol.
    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Gives host and port as written.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or("/")
    }

    /// Gives the host, and the port, written or not.
    pub(crate) fn host_and_port(&self) -> (&str, u16) {
        match self.authority.rsplit_once(':') {
            // The colon of `[::1]` is not a port's.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(0)),
            _ => (&self.authority, self.scheme.default_port()),
        }
    }

    /// Tells whether both addresses have one scheme, host and port: whether one may see the other's secrets.
    pub(crate) fn is_same_origin(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.host_and_port() == other.host_and_port()
    }

    /// Tells whether both addresses have one host, whatever their schemes and ports.
    pub(crate) fn is_same_host(&self, other: &Self) -> bool {
        self.host_and_port().0 == other.host_and_port().0
    }

    /// Gives the address as the HTTP library takes it.
    pub(crate) fn to_uri(&self) -> Result<Uri, ureq::http::Error> {
        Uri::builder()
            .scheme(self.scheme.as_str())
            .authority(self.authority.as_str())
            .path_and_query(self.path_and_query.as_str())
            .build()
    }

    /// Gives the address as people may see it.
    pub(crate) fn shown(&self) -> ShownUrl {
        let query = if self.path_and_query.contains('?') { "?…" } else { "" };
        let text = format!("{}://{}{}{query}", self.scheme.as_str(), self.authority, self.path());
        // Redirects name any path they like.
        ShownUrl(text::escape(&text).into_owned())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown().fmt(f)
    }
}

/// An address as people may see it: without its query, for presigned addresses carry their secret there.
#[derive(Clone, PartialEq, Eq)]
pub struct ShownUrl(String);

impl ShownUrl {
    /// Gives the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Leaves the scheme out, where nobody knows yet which one will be spoken.
    pub(crate) fn without_scheme(&self) -> Self {
        Self(self.0.split_once("://").map_or(self.0.as_str(), |(_, rest)| rest).to_owned())
    }
}

impl fmt::Display for ShownUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShownUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives an address that cannot be read, cut, as people may see it: without its query and its user.
pub(crate) fn without_secrets(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match text.rsplit_once('@') {
        Some((before, after)) => {
            let scheme = before.find("//").map_or("", |slashes| &before[..slashes + 2]);
            cut(&format!("{scheme}…@{after}"))
        }
        None => cut(text),
    }
}

/// Writes parameters as a query, or as the body of a form, has them.
pub(crate) fn form(parameters: &[(&str, &str)]) -> String {
    let pairs = parameters.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Escapes all but RFC 3986's unreserved characters, and `:` and `/`, which scopes are full of.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn addresses_are_read_or_refused() {
        assert_eq!(url("HTTPS://CDN.example:443/a?b#c").shown().as_str(), "https://cdn.example:443/a?…");
        assert_eq!(url("http://x?y=z").to_uri().unwrap().to_string(), "http://x/?y=z");
        assert_eq!(url("https://[::1]:5000/").authority(), "[::1]:5000");
        for text in [
            "",
            "/path",
            "ftp://x/",
            "file:///etc/passwd",
            "https://",
            "https:///x",
            "https://user:secret@x/",
            "https://x:99999/",
            "https://x:/",
            "https://x y/",
            "https://x/a b",
            "https://x/\r\nX: y",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
        assert!(Url::parse(&format!("https://x/{}", "a".repeat(URL_MAX))).is_err());
    }

    #[test]
    fn locations_are_resolved() {
        let base = url("https://r.example:5000/v2/a/blobs/x?y");
        for (location, expected) in [
            ("https://cdn.example/z", "https://cdn.example/z"),
            ("//cdn.example/z", "https://cdn.example/z"),
            ("/z?q", "https://r.example:5000/z?q"),
            ("z", "https://r.example:5000/v2/a/blobs/z"),
            ("?q", "https://r.example:5000/v2/a/blobs/x?q"),
            (" /a:b/c ", "https://r.example:5000/a:b/c"),
        ] {
            assert_eq!(base.join(location).unwrap().to_uri().unwrap().to_string(), expected, "{location}");
        }
        for location in ["", "javascript:alert(1)", "file:///x", "//", "https:///x"] {
            assert!(base.join(location).is_err(), "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let base = url("https://r.example/a");
        assert!(base.is_same_origin(&url("https://R.example:443/b")));
        for other in ["http://r.example/a", "https://r.example:444/", "https://x.r.example/", "https://r.example.x/"] {
            assert!(!base.is_same_origin(&url(other)), "{other}");
        }
    }

    #[test]
    fn a_host_may_have_many_ports() {
        let base = url("https://r.example/a");
        for (other, is_same) in [
            ("http://R.example:5001/", true),
            ("https://r.example:443", true),
            ("https://auth.r.example/", false),
            ("https://r.example.x/", false),
        ] {
            assert_eq!(base.is_same_host(&url(other)), is_same, "{other}");
        }
        assert!(url("https://[::1]:1/").is_same_host(&url("http://[::1]/")));
    }

    #[test]
    fn parameters_are_escaped() {
        assert_eq!(escape("ä &=%+:/"), "%C3%A4%20%26%3D%25%2B:/");
        assert_eq!(form(&[("a", "b c"), ("d", "&")]), "a=b%20c&d=%26");
    }

    #[test]
    fn what_cannot_be_read_hides_its_secrets_too() {
        for (text, expected) in [
            ("https://user:s3cret@x/a?s3cret#s3cret", "https://…@x/a"),
            ("//user:s3cret@x", "//…@x"),
            ("user:s3cret/@x", "…@x"),
            ("ftp://x/y@z", "ftp://…@z"),
            ("file:///x", "file:///x"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(text), expected);
        }
    }

    #[test]
    fn queries_are_escaped_and_hidden() {
        let url =
            url("https://auth.example/token?a=b").with_query(&[("scope", "repository:a/b:pull,push"), ("x", "&ä")]);
        assert_eq!(
            url.to_uri().unwrap().to_string(),
            "https://auth.example/token?a=b&scope=repository:a/b:pull%2Cpush&x=%26%C3%A4"
        );
        assert_eq!(format!("{url:?}"), "https://auth.example/token?…");
    }
}
