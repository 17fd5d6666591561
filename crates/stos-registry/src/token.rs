// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bearer tokens: what they are to allow, what a token server answers, and how long they are kept.
//!
//! The rules are those of distribution's "Token Authentication Specification" and "Oauth2 Token Authentication".

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::credential::Authorization;
use crate::error::Error;
use crate::url::ShownUrl;

/// The largest answer of a token server, in bytes.
pub(crate) const ANSWER_MAX: u64 = 1 << 20;

/// The longest token that is sent, in bytes: real ones have 1–4 thousand, and a request's header is bounded.
const TOKEN_MAX: usize = 32 << 10;

/// How long a token lives at least: servers that say less, or nothing, mean this (distribution's token specification).
const LIFE_MIN: Duration = Duration::from_secs(60);

/// How long before its end a token is no longer used.
const MARGIN: Duration = Duration::from_secs(10);

/// What a request needs to be allowed: one or more of `repository:NAME:ACTIONS` (distribution, "Token Scope
/// Documentation").
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    words: Vec<String>,
    writes: bool,
}

impl Scope {
    /// Nothing but being known: what a login asks for.
    pub(crate) fn login() -> Self {
        Self { words: Vec::new(), writes: false }
    }

    /// Reading a repository.
    pub(crate) fn pull(repository: &str) -> Self {
        Self { words: vec![format!("repository:{repository}:pull")], writes: false }
    }

    /// Reading and writing a repository.
    pub(crate) fn push(repository: &str) -> Self {
        Self { words: vec![format!("repository:{repository}:pull,push")], writes: true }
    }

    /// Writing a repository with what another has.
    pub(crate) fn mount(repository: &str, from: &str) -> Self {
        let mut scope = Self::push(repository);
        scope.words.extend(Self::pull(from).words);
        scope
    }

    /// Gives what to ask a token server for, after a challenge that names a scope, or none.
    ///
    /// For a request that only reads, the registry's word stands: it knows what it wants to see. A challenge to the first
    /// request of a push knows of that one alone, so there ours stands, and the registry's where ours does not cover it.
    pub(crate) fn to_ask<'a>(&'a self, challenged: Option<&'a str>) -> Vec<&'a str> {
        let challenged: Vec<&str> = challenged.map(|words| words.split_whitespace().collect()).unwrap_or_default();
        if !self.writes && !challenged.is_empty() {
            return challenged;
        }
        let ours = self.words.iter().map(String::as_str);
        let others = challenged.into_iter().filter(|word| !self.words.iter().any(|ours| covers(ours, word)));
        ours.chain(others).collect()
    }
}

/// Tells whether one scope allows all that the other does: the same resource, and at least its actions.
fn covers(scope: &str, other: &str) -> bool {
    let (Some((resource, actions)), Some((other_resource, other_actions))) =
        (scope.rsplit_once(':'), other.rsplit_once(':'))
    else {
        return scope == other;
    };
    let has = |action| actions.split(',').any(|ours| ours == action);
    resource == other_resource && other_actions.split(',').all(has)
}

/// A secret. It is never shown.
#[derive(Clone)]
pub(crate) struct Token {
    authorization: Authorization,
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
        let authorization = Authorization::bearer(&token).ok_or_else(|| bad("the token is no header"))?;
        let seconds = answer.expires_in.filter(|seconds| seconds.is_finite()).unwrap_or(0.0).clamp(0.0, 86_400.0);
        let life = Duration::from_secs_f64(seconds).max(LIFE_MIN);
        Ok(Self { authorization, expires: Instant::now() + life })
    }

    /// Gives what to send.
    pub(crate) fn authorization(&self) -> Authorization {
        self.authorization.clone()
    }
}

/// Tokens by what they allow.
#[derive(Debug, Default)]
pub(crate) struct TokenCache(Mutex<HashMap<Scope, Token>>);

impl TokenCache {
    /// Gives the token for a scope, if it has one that lives long enough.
    pub(crate) fn get(&self, scope: &Scope) -> Option<Token> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(scope).filter(|token| token.expires > Instant::now() + MARGIN).cloned()
    }

    /// Tells whether there was a token for a scope that is no longer used.
    pub(crate) fn is_over(&self, scope: &Scope) -> bool {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(scope).is_some_and(|token| token.expires <= Instant::now() + MARGIN)
    }

    /// Keeps a token for a scope.
    pub(crate) fn put(&self, scope: &Scope, token: Token) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.clone(), token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::Url;

    fn shown() -> ShownUrl {
        Url::parse("https://r.example/v2/a/manifests/1").unwrap().shown()
    }

    #[test]
    fn scopes_are_asked_for_as_needed() {
        let (pull, push, mount) = (Scope::pull("a/b"), Scope::push("a/b"), Scope::mount("a/b", "c"));
        let login = Scope::login();
        for (scope, challenged, expected) in [
            (&login, None, ""),
            (&login, Some("registry:catalog:*"), "registry:catalog:*"),
            (&pull, None, "repository:a/b:pull"),
            (&pull, Some(""), "repository:a/b:pull"),
            (&pull, Some("repository:x/a/b:pull"), "repository:x/a/b:pull"),
            (&pull, Some("repository:a/b:pull registry:catalog:*"), "repository:a/b:pull registry:catalog:*"),
            (&push, None, "repository:a/b:pull,push"),
            (&push, Some("repository:a/b:pull"), "repository:a/b:pull,push"),
            (&push, Some("repository:a/b:push,pull"), "repository:a/b:pull,push"),
            (&push, Some("repository:a/b:delete"), "repository:a/b:pull,push repository:a/b:delete"),
            (&mount, None, "repository:a/b:pull,push repository:c:pull"),
            (&mount, Some("repository:c:pull odd"), "repository:a/b:pull,push repository:c:pull odd"),
        ] {
            assert_eq!(scope.to_ask(challenged).join(" "), expected, "{challenged:?}");
        }
    }

    #[test]
    fn answers_are_read_and_kept_secret() {
        let header = |body: &str| {
            let token = Token::parse(body.as_bytes(), &shown());
            token.map(|token| token.authorization().header().to_str().unwrap().to_owned())
        };
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
        let token = Token::parse(br#"{"token":"secret"}"#, &shown()).unwrap();
        assert!(!format!("{token:?} {:?}", token.authorization().header()).contains("secret"));
    }

    #[test]
    fn a_token_is_used_until_shortly_before_its_end() {
        let cache = TokenCache::default();
        let (a, b) = (Scope::pull("a"), Scope::push("a"));
        let mut token = Token::parse(br#"{"token":"x","expires_in":-5}"#, &shown()).unwrap();
        cache.put(&a, token.clone());
        assert!(cache.get(&a).is_some() && cache.get(&b).is_none());
        token.expires = Instant::now() + MARGIN;
        cache.put(&a, token);
        assert!(cache.get(&a).is_none());
        assert!(cache.is_over(&a) && !cache.is_over(&b));
    }
}
