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
    /// The refresh token that buys one as well, by POST.
    pub identity_token: Option<String>,
    /// Whether tokens can be had by POST alone (OAuth 2).
    pub is_post_only: bool,
    /// The realm of its challenges, where it is not its own `/token`.
    pub realm: Option<String>,
    /// What its tokens begin with, instead of `token-`.
    pub prefix: Option<String>,
    /// Those that it has given out.
    pub tokens: Tokens,
}

/// The tokens that have been given out, and the scopes of each; an empty list is good for all.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<String, Vec<String>>>);

impl Auth {
    /// Asks for bearer tokens, which everyone can get.
    pub fn bearer() -> Self {
        Self::Bearer(Bearer::default())
    }

    /// Asks for bearer tokens, which this user with this password can get.
    pub fn bearer_for(user: &str, password: &str) -> Self {
        Self::Bearer(Bearer { login: Some((user.to_owned(), password.to_owned())), ..Bearer::default() })
    }

    /// Asks for bearer tokens, and sends who has none to `realm`.
    pub fn bearer_of(realm: impl Into<String>) -> Self {
        Self::Bearer(Bearer { realm: Some(realm.into()), ..Bearer::default() })
    }

    pub(super) fn accept(&self, token: &str) {
        if let Self::Bearer(bearer) = self {
            lock(&bearer.tokens.0).insert(token.to_owned(), Vec::new());
        }
    }

    pub(super) fn expire(&self) {
        if let Self::Bearer(bearer) = self {
            lock(&bearer.tokens.0).clear();
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

    /// Tells whether a request that has passed may also read `repository`.
    pub(super) fn may_read(&self, request: &Request, repository: &str) -> bool {
        let shown = request.header("authorization").unwrap_or_default();
        match self {
            Self::Open | Self::Basic(..) => true,
            Self::Bearer(bearer) => bearer.is_enough(shown, &format!("repository:{repository}:pull")),
        }
    }

    /// Answers a request to `/token`.
    pub(super) fn give_token(&self, request: &Request) -> Reply {
        let Self::Bearer(bearer) = self else { return Reply::new(404) };
        match request.method.as_str() {
            "GET" if bearer.is_post_only => Reply::new(405),
            "GET" => bearer.answer_get(request),
            "POST" if bearer.is_post_only || bearer.identity_token.is_some() => bearer.answer_post(request),
            _ => Reply::new(404),
        }
    }
}

impl Bearer {
    fn answer_get(&self, request: &Request) -> Reply {
        let shown = request.header("authorization").unwrap_or_default();
        if self.login.as_ref().is_some_and(|(user, password)| !is_login(shown, user, password)) {
            return unauthorized("Basic realm=\"token\"");
        }
        self.give("token", request.queries("scope"))
    }

    fn answer_post(&self, request: &Request) -> Reply {
        let field = |name| request.form(name).unwrap_or_default();
        let is_granted = match field("grant_type").as_str() {
            "refresh_token" => self.identity_token.as_ref() == Some(&field("refresh_token")),
            "password" => self
                .login
                .as_ref()
                .is_none_or(|(user, password)| (user, password) == (&field("username"), &field("password"))),
            _ => false,
        };
        if !is_granted || field("client_id").is_empty() {
            return unauthorized("Basic realm=\"token\"");
        }
        self.give("access_token", field("scope").split(' ').map(str::to_owned).collect())
    }

    fn give(&self, name: &str, scopes: Vec<String>) -> Reply {
        let scopes: Vec<String> = scopes.into_iter().filter(|scope| !scope.is_empty()).collect();
        let mut tokens = lock(&self.tokens.0);
        let token = format!("{}{}", self.prefix.as_deref().unwrap_or("token-"), tokens.len() + 1);
        // Who asks for no scope gets a token for nothing.
        tokens.insert(token.clone(), if scopes.is_empty() { vec!["none".to_owned()] } else { scopes });
        let body = serde_json::json!({name: token, "expires_in": 300}).to_string();
        Reply::new(200).with_header("content-type", "application/json").with_bytes(body.into_bytes())
    }

    /// Tells whether a token that is shown is good for a scope. "…:pull,push" is good for "…:pull".
    fn is_enough(&self, shown: &str, scope: &str) -> bool {
        let token = shown.strip_prefix("Bearer ").unwrap_or_default();
        let held = |scopes: &Vec<String>| scopes.is_empty() || scopes.iter().any(|held| held.starts_with(scope));
        lock(&self.tokens.0).get(token).is_some_and(held)
    }

    fn check(&self, shown: &str, method: &str, base_url: &str, repository: Option<&str>) -> Result<(), Reply> {
        let actions = if matches!(method, "GET" | "HEAD") { "pull" } else { "pull,push" };
        let scope = repository.map(|name| format!("repository:{name}:{actions}"));
        if self.is_enough(shown, scope.as_deref().unwrap_or_default()) {
            return Ok(());
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
