// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whom a registry answers: everyone, who shows a token, who knows a password.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::registry::http::{Reply, Request};
use crate::registry::lock;

/// Whom a registry answers.
#[derive(Debug, Default)]
pub enum Auth {
    /// Everyone.
    #[default]
    Open,
    /// Who shows a bearer token of its own `/token`, for the repository in question.
    Bearer(Bearer),
    /// Who gives this user and this password.
    Basic(String, String),
}

/// The tokens of a registry, and who gets one.
#[derive(Debug, Default)]
pub struct Bearer {
    /// The user and the password that a token costs; without them everyone gets one.
    pub login: Option<(String, String)>,
    /// The realm of its challenges, where it is not its own `/token`.
    pub realm: Option<String>,
    /// The tokens, and the scope of each; an empty scope is good for all.
    tokens: Mutex<HashMap<String, String>>,
}

impl Auth {
    /// Asks for bearer tokens, which everyone can get.
    pub fn bearer() -> Self {
        Self::Bearer(Bearer::default())
    }

    /// Asks for bearer tokens, and sends who has none to `realm`.
    pub fn bearer_of(realm: impl Into<String>) -> Self {
        Self::Bearer(Bearer { realm: Some(realm.into()), ..Bearer::default() })
    }

    pub(super) fn accept(&self, token: &str) {
        if let Self::Bearer(bearer) = self {
            lock(&bearer.tokens).insert(token.to_owned(), String::new());
        }
    }

    pub(super) fn expire(&self) {
        if let Self::Bearer(bearer) = self {
            lock(&bearer.tokens).clear();
        }
    }

    /// Passes a request, or gives the 401 for it.
    pub(super) fn check(&self, request: &Request, base_url: &str, repository: Option<&str>) -> Result<(), Reply> {
        let shown = request.header("authorization").unwrap_or_default();
        match self {
            Self::Open => Ok(()),
            Self::Basic(user, password) if is_login(shown, user, password) => Ok(()),
            Self::Basic(..) => Err(unauthorized("Basic realm=\"testkit\"")),
            Self::Bearer(bearer) => bearer.check(shown, &request.method, base_url, repository),
        }
    }

    /// Answers a request to `/token`.
    pub(super) fn give_token(&self, request: &Request) -> Reply {
        let Self::Bearer(bearer) = self else { return Reply::new(404) };
        let shown = request.header("authorization").unwrap_or_default();
        if bearer.login.as_ref().is_some_and(|(user, password)| !is_login(shown, user, password)) {
            return unauthorized("Basic realm=\"token\"");
        }
        let scope = request.query("scope").unwrap_or_default();
        let mut tokens = lock(&bearer.tokens);
        let token = format!("token-{}", tokens.len() + 1);
        // Who asks for no scope gets a token for nothing.
        tokens.insert(token.clone(), if scope.is_empty() { "none".to_owned() } else { scope });
        let body = serde_json::json!({"token": token, "expires_in": 300}).to_string();
        Reply::new(200).with_header("content-type", "application/json").with_bytes(body.into_bytes())
    }
}

impl Bearer {
    fn check(&self, shown: &str, method: &str, base_url: &str, repository: Option<&str>) -> Result<(), Reply> {
        let actions = if matches!(method, "GET" | "HEAD") { "pull" } else { "pull,push" };
        let scope = repository.map(|name| format!("repository:{name}:{actions}"));
        let token = shown.strip_prefix("Bearer ").unwrap_or_default();
        if let Some(held) = lock(&self.tokens).get(token) {
            // "…:pull,push" is good for "…:pull".
            let is_enough = held.is_empty() || scope.as_ref().is_none_or(|scope| held.starts_with(scope.as_str()));
            if is_enough {
                return Ok(());
            }
        }
        let realm = self.realm.clone().unwrap_or_else(|| format!("{base_url}/token"));
        let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
        Err(unauthorized(&format!("Bearer realm=\"{realm}\",service=\"testkit\"{scope}")))
    }
}

fn is_login(shown: &str, user: &str, password: &str) -> bool {
    shown == format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn unauthorized(challenge: &str) -> Reply {
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    Reply::new(401)
        .with_header("www-authenticate", challenge)
        .with_header("content-type", "application/json")
        .with_bytes(body.into())
}
