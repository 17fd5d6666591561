// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Anonymous bearer tokens: where to ask for one, what a token server answers, and how long it is kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::HeaderValue;

use crate::challenge::{Challenge, parse_challenges};
use crate::error::Error;
use crate::url::{ShownUrl, Url, without_secrets};

/// The largest answer of a token server, in bytes.
pub(crate) const ANSWER_MAX: u64 = 1 << 20;

/// The longest token that is sent, in bytes: real ones have 1–4 thousand, and a request's header is bounded.
const TOKEN_MAX: usize = 32 << 10;

/// How long a token lives at least: servers that say less, or nothing, mean this (distribution's token specification).
const LIFE_MIN: Duration = Duration::from_secs(60);

/// How long before its end a token is no longer used.
const MARGIN: Duration = Duration::from_secs(10);

/// A secret. It is never shown.
#[derive(Clone)]
pub(crate) struct Token {
    header: HeaderValue,
    expires: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Reads a token server's answer.
    pub(crate) fn parse(body: &[u8], url: &ShownUrl) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<f64>,
        }
        let bad = |reason| Error::BadToken { url: url.clone(), reason };
        // The parser's own words may quote what it read: a secret.
        let answer: Answer = serde_json::from_slice(body).map_err(|_| bad("it is not the JSON that was expected"))?;
        let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token).unwrap_or_default();
        if token.is_empty() {
            return Err(bad("it has neither token nor access_token"));
        }
        if token.len() > TOKEN_MAX || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("the token is too long or not visible ASCII"));
        }
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| bad("the token is no header"))?;
        header.set_sensitive(true);
        let seconds = answer.expires_in.filter(|seconds| seconds.is_finite()).unwrap_or(0.0).clamp(0.0, 86_400.0);
        let life = Duration::from_secs_f64(seconds).max(LIFE_MIN);
        Ok(Self { header, expires: Instant::now() + life })
    }

    /// Gives the `Authorization` header.
    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

/// Tokens by what they allow.
#[derive(Debug, Default)]
pub(crate) struct TokenCache(Mutex<HashMap<String, Token>>);

impl TokenCache {
    /// Gives the token for a scope, if it has one that lives long enough.
    pub(crate) fn get(&self, scope: &str) -> Option<Token> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(scope).filter(|token| token.expires > Instant::now() + MARGIN).cloned()
    }

    /// Keeps a token for a scope.
    pub(crate) fn put(&self, scope: &str, token: Token) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.to_owned(), token);
    }
}

/// Gives the scope of reading a repository.
pub(crate) fn pull_scope(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

/// Picks the bearer challenge among the `WWW-Authenticate` headers of `url`, and makes the token server's address of it.
///
/// `None` where the registry asks for something else, or for nothing: an anonymous user cannot help that. A challenge
/// without a scope means the scope that was needed.
pub(crate) fn token_url<'a>(
    headers: impl Iterator<Item = &'a HeaderValue>,
    scope: &str,
    url: &Url,
) -> Result<Option<Url>, Error> {
    let mut rejected = None;
    for header in headers {
        let text = String::from_utf8_lossy(header.as_bytes());
        for challenge in parse_challenges(&text).iter().filter(|challenge| challenge.scheme == "bearer") {
            match realm(challenge) {
                Ok(realm) => return Ok(Some(with_parameters(realm, challenge, scope))),
                Err(reason) => {
                    let challenge = shown_challenge(challenge);
                    rejected = rejected.or(Some(Error::BadChallenge { url: url.shown(), challenge, reason }));
                }
            }
        }
    }
    rejected.map_or(Ok(None), Err)
}

fn realm(challenge: &Challenge) -> Result<Url, &'static str> {
    Url::parse(challenge.parameter("realm").ok_or("a bearer challenge without a realm")?)
}

/// Shows where a challenge leads: of its parameters the realm alone, and that without secrets.
fn shown_challenge(challenge: &Challenge) -> String {
    let realm = challenge.parameter("realm").map(|realm| format!(" realm={}", without_secrets(realm)));
    format!("{}{}", challenge.scheme, realm.unwrap_or_default())
}

fn with_parameters(realm: Url, challenge: &Challenge, scope: &str) -> Url {
    let scope = challenge.parameter("scope").unwrap_or(scope);
    match challenge.parameter("service") {
        Some(service) => realm.with_query(&[("service", service), ("scope", scope)]),
        None => realm.with_query(&[("scope", scope)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Url {
        Url::parse("https://r.example/v2/a/manifests/1").unwrap()
    }

    fn ask(headers: &[&str]) -> Result<Option<String>, Error> {
        let headers: Vec<_> = headers.iter().map(|text| HeaderValue::from_str(text).unwrap()).collect();
        let url = token_url(headers.iter(), "repository:a:pull", &origin())?;
        Ok(url.map(|url| url.to_uri().unwrap().to_string()))
    }

    #[test]
    fn the_token_server_is_found() {
        for (headers, expected) in [
            (
                &[r#"Bearer realm="https://t.example/t",service="r",scope="repository:b:pull""#][..],
                Some("https://t.example/t?service=r&scope=repository:b:pull"),
            ),
            (&[r#"bearer realm="https://t.example""#], Some("https://t.example/?scope=repository:a:pull")),
            (&["Basic realm=x", "Bearer realm=http://t/?a=b"], Some("http://t/?a=b&scope=repository:a:pull")),
            (&["Bearer", "Bearer realm=https://t/"], Some("https://t/?scope=repository:a:pull")),
            (&[r#"Basic realm="Bearer realm=https://x""#], None),
            (&[], None),
        ] {
            assert_eq!(ask(headers).unwrap().as_deref(), expected, "{headers:?}");
        }
        for header in [
            "Bearer",
            "Bearer realm=",
            "Bearer realm=/token",
            "Bearer realm=\"file:///x\"",
            "Bearer realm=\"https://u:p@x/\"",
        ] {
            assert!(matches!(ask(&[header]), Err(Error::BadChallenge { .. })), "{header}");
        }
    }

    #[test]
    fn answers_are_read_and_kept_secret() {
        let url = origin().shown();
        let header =
            |body: &str| Token::parse(body.as_bytes(), &url).map(|token| token.header().to_str().unwrap().to_owned());
        assert_eq!(header(r#"{"token":"abc"}"#).unwrap(), "Bearer abc");
        assert_eq!(header(r#"{"access_token":"abc","expires_in":300}"#).unwrap(), "Bearer abc");
        assert_eq!(header(r#"{"token":"","access_token":"abc"}"#).unwrap(), "Bearer abc");
        for body in
            ["", "[]", "{}", r#"{"token":""}"#, r#"{"token":"a\r\nX: b"}"#, r#"{"token":"a b"}"#, r#"{"token":"ä"}"#]
        {
            assert!(matches!(header(body), Err(Error::BadToken { .. })), "{body}");
        }
        let long = format!(r#"{{"token":"{}"}}"#, "x".repeat(TOKEN_MAX + 1));
        assert!(matches!(header(&long), Err(Error::BadToken { .. })));
        let token = Token::parse(br#"{"token":"secret"}"#, &url).unwrap();
        assert!(!format!("{token:?} {:?}", token.header()).contains("secret"));
    }

    #[test]
    fn a_token_is_used_until_shortly_before_its_end() {
        let cache = TokenCache::default();
        let url = origin().shown();
        let mut token = Token::parse(br#"{"token":"x","expires_in":-5}"#, &url).unwrap();
        cache.put("a", token.clone());
        assert!(cache.get("a").is_some() && cache.get("b").is_none());
        token.expires = Instant::now() + MARGIN;
        cache.put("a", token);
        assert!(cache.get("a").is_none());
    }
}
