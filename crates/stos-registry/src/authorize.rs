// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Answers a registry that wants to know who asks: with a password where it wants one, else with a token.
//!
//! **Who gets the credential.** The endpoint itself, where it challenges with `Basic`. And its realm, where it challenges
//! with `Bearer`: the token server is whatever the registry names, for that is how Docker Hub (`auth.docker.io`), GitLab and
//! others are built, and podman, docker and containerd follow it. Its word counts as far as the connection that brought it:
//!
//! - over verified TLS any realm with verified TLS is the registry's own;
//! - without verification (`--tls-verify=false`, `insecure`) anyone on the way could have named the realm, so only the same
//!   host is; and a challenge that came over TLS sends no credential over plain HTTP.
//!
//! A realm that is not the registry's own is asked for an anonymous token. Challenges of other hosts, to which the
//! registry or its redirects have led, are not answered at all (CVE-2020-15157): see [`Remote`](crate::remote::Remote).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use ureq::http::{HeaderMap, HeaderValue, Method, header};

use crate::blob::Bound;
use crate::challenge::{Challenge, parse_challenges};
use crate::credential::{AskedOnce, Authorization, Credential};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::exchange::{Answer, Ask, exchange, refuse_downgrade, send_payload};
use crate::token::{ANSWER_MAX, Scope, Token, TokenCache};
use crate::transport::{Payload, Transport};
use crate::url::{Scheme, Url, form, without_secrets};

/// What a token server is told that we are (distribution, "Oauth2 Token Authentication": `client_id`).
const CLIENT_ID: &str = "stos";

/// What one endpoint has been told, and is told again.
pub(crate) struct Authorizer {
    host: String,
    credential: AskedOnce,
    tokens: TokenCache,
    /// The password, once the endpoint has asked for it.
    basic: Mutex<Option<Authorization>>,
    /// Whether it has asked for anything.
    has_answered: AtomicBool,
}

/// What comes of a challenge.
pub(crate) enum Answered {
    /// The request may be repeated with this.
    With(Authorization),
    /// It stays refused.
    Refused(Answer),
}

impl Authorizer {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        let credential = AskedOnce::new(endpoint.credentials.clone());
        let (tokens, basic, has_answered) = (TokenCache::default(), Mutex::default(), AtomicBool::new(false));
        Self { host: endpoint.host.clone(), credential, tokens, basic, has_answered }
    }

    /// Gives what is known to be wanted, so that the endpoint need not ask for it.
    pub(crate) fn kept(&self, scope: &Scope) -> Option<Authorization> {
        let token = self.tokens.get(scope).map(|token| token.authorization());
        token.or_else(|| self.basic.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Tells whether a request for this is likely to be challenged: a token was had for it and is no longer good, or there was none,
    /// and others were wanted.
    pub(crate) fn may_be_challenged(&self, scope: &Scope) -> bool {
        self.tokens.is_over(scope) || self.has_answered.load(Ordering::Relaxed) && self.kept(scope).is_none()
    }

    /// Answers the challenge of `refused`, a 401 of the endpoint itself, to a request that carried `sent`.
    pub(crate) fn answer(
        &self,
        transport: &Transport,
        refused: Answer,
        scope: &Scope,
        sent: Option<&Authorization>,
    ) -> Result<Answered, Error> {
        let wanted = match Wanted::pick(refused.headers(), &refused.url)? {
            Some(wanted) => wanted,
            None => return Ok(Answered::Refused(refused)),
        };
        self.has_answered.store(true, Ordering::Relaxed);
        match wanted {
            Wanted::Basic => match self.basic()? {
                // What has been refused once is not sent twice.
                Some(authorization) if Some(&authorization) != sent => {
                    refused.discard(transport);
                    *self.basic.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization.clone());
                    Ok(Answered::With(authorization))
                }
                _ => Ok(Answered::Refused(refused)),
            },
            Wanted::Bearer(server) => {
                refuse_downgrade(transport, &refused.url, &server.realm)?;
                let challenger = refused.url.clone();
                refused.discard(transport);
                let credential = self.credential_for(transport, &challenger, &server.realm, scope)?;
                let token = self.fetch_token(transport, &server, scope, credential.as_ref())?;
                self.tokens.put(scope, token.clone());
                Ok(Answered::With(token.authorization()))
            }
        }
    }

    fn basic(&self) -> Result<Option<Authorization>, Error> {
        match self.credential.get(&self.host)? {
            Some(credential) => self.basic_of(&credential).map(Some),
            None => Ok(None),
        }
    }

    fn basic_of(&self, credential: &Credential) -> Result<Authorization, Error> {
        let bad = |reason| Error::BadCredential { host: self.host.clone(), reason };
        match credential {
            Credential::Password { username, password } => {
                Authorization::basic(username, password).ok_or_else(|| bad("a user's name cannot have a colon"))
            }
            Credential::IdentityToken(_) => {
                Err(bad("a user and a password are asked for, and an identity token is all there is"))
            }
        }
    }

    /// Gives the credential, if `realm` may have it. A login fails if not: an anonymous token would prove nothing.
    fn credential_for(
        &self,
        transport: &Transport,
        challenger: &Url,
        realm: &Url,
        scope: &Scope,
    ) -> Result<Option<Credential>, Error> {
        let credential = self.credential.get(&self.host)?;
        if credential.is_some() && !is_own_realm(transport.options().tls_verify, challenger, realm) {
            if *scope == Scope::login() {
                let reason = "an unverified connection names a token server elsewhere, which gets no credential";
                return Err(Error::BadCredential { host: self.host.clone(), reason });
            }
            let (host, realm) = (&self.host, realm.shown());
            tracing::warn!(%host, %realm, "an unverified connection names a token server elsewhere: it gets no credential");
            return Ok(None);
        }
        Ok(credential)
    }

    fn fetch_token(
        &self,
        transport: &Transport,
        server: &TokenServer,
        scope: &Scope,
        credential: Option<&Credential>,
    ) -> Result<Token, Error> {
        let scopes = scope.to_ask(server.scope.as_deref());
        let answer = match credential {
            Some(Credential::IdentityToken(token)) => {
                let grant = [("grant_type", "refresh_token"), ("refresh_token", token.expose())];
                server.post(transport, &scopes, &grant)?
            }
            Some(credential @ Credential::Password { username, password }) => {
                let authorization = self.basic_of(credential)?;
                let answer = server.get(transport, &scopes, Some((username.expose(), &authorization)))?;
                match answer.status() {
                    // All servers are to know GET; one that knows OAuth 2 alone is asked in its own way.
                    404 | 405 => {
                        answer.discard(transport);
                        let (username, password) = (username.expose(), password.expose());
                        let grant = [("grant_type", "password"), ("username", username), ("password", password)];
                        server.post(transport, &scopes, &grant)?
                    }
                    _ => answer,
                }
            }
            None => server.get(transport, &scopes, None)?,
        };
        let shown = answer.url.shown();
        let body = answer.body(transport, Bound::AtMost(ANSWER_MAX))?.read_all()?;
        Token::parse(&body, &shown)
    }
}

/// Tells whether a token server is the registry's own, so that it gets the credential: see the module.
fn is_own_realm(is_verified: bool, challenger: &Url, realm: &Url) -> bool {
    if is_verified {
        return realm.scheme() == Scheme::Https;
    }
    let is_downgrade = challenger.scheme() == Scheme::Https && realm.scheme() == Scheme::Http;
    realm.is_same_host(challenger) && !is_downgrade
}

/// What a challenge wants.
#[derive(Debug)]
enum Wanted {
    Basic,
    Bearer(TokenServer),
}

/// The token server that a challenge names.
#[derive(Debug)]
struct TokenServer {
    realm: Url,
    service: Option<String>,
    scope: Option<String>,
}

impl Wanted {
    /// Picks what can be followed among the `WWW-Authenticate` headers of `url`: a token rather than the password.
    ///
    /// `None` where the registry asks for something else, or for nothing.
    fn pick(headers: &HeaderMap, url: &Url) -> Result<Option<Self>, Error> {
        let mut rejected = None;
        let mut is_basic = false;
        for value in headers.get_all(header::WWW_AUTHENTICATE) {
            for challenge in parse_challenges(&String::from_utf8_lossy(value.as_bytes())) {
                match challenge.scheme.as_str() {
                    "bearer" => match TokenServer::of(&challenge) {
                        Ok(server) => return Ok(Some(Self::Bearer(server))),
                        Err(reason) => {
                            let challenge = shown_challenge(&challenge);
                            rejected = rejected.or(Some(Error::BadChallenge { url: url.shown(), challenge, reason }));
                        }
                    },
                    "basic" => is_basic = true,
                    _ => {}
                }
            }
        }
        match rejected {
            _ if is_basic => Ok(Some(Self::Basic)),
            Some(error) => Err(error),
            None => Ok(None),
        }
    }
}

/// Shows where a challenge leads: of its parameters the realm alone, and that without secrets.
fn shown_challenge(challenge: &Challenge) -> String {
    let realm = challenge.parameter("realm").map(|realm| format!(" realm={}", without_secrets(realm)));
    format!("{}{}", challenge.scheme, realm.unwrap_or_default())
}

impl TokenServer {
    fn of(challenge: &Challenge) -> Result<Self, &'static str> {
        let realm = Url::parse(challenge.parameter("realm").ok_or("a bearer challenge without a realm")?)?;
        let parameter = |name| challenge.parameter(name).map(str::to_owned);
        Ok(Self { realm, service: parameter("service"), scope: parameter("scope") })
    }

    /// Asks with GET, which every token server knows.
    fn get(
        &self,
        transport: &Transport,
        scopes: &[&str],
        login: Option<(&str, &Authorization)>,
    ) -> Result<Answer, Error> {
        let account = login.map(|(user, _)| ("account", user)).filter(|(_, user)| !user.is_empty());
        let service = self.service.as_deref().map(|service| ("service", service));
        let scopes = scopes.iter().map(|scope| ("scope", *scope));
        let parameters: Vec<_> = account.into_iter().chain(service).chain(scopes).collect();
        let url = self.realm.clone().with_query(&parameters);
        let headers = [(header::ACCEPT, HeaderValue::from_static("application/json"))];
        let authorization = login.map(|(_, authorization)| authorization);
        exchange(transport, &url, &Ask { method: Method::GET, headers: &headers, authorization })
    }

    /// Asks with POST, as OAuth 2 has it. Where that is redirected it has failed: the grant goes nowhere else.
    fn post(&self, transport: &Transport, scopes: &[&str], grant: &[(&str, &str)]) -> Result<Answer, Error> {
        let scopes = scopes.join(" ");
        let service = self.service.as_deref().unwrap_or_default();
        let mut parameters = grant.to_vec();
        parameters.extend([("client_id", CLIENT_ID), ("service", service), ("scope", scopes.as_str())]);
        let body = form(&parameters);
        let headers = [
            (header::ACCEPT, HeaderValue::from_static("application/json")),
            (header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")),
        ];
        let ask = Ask { method: Method::POST, headers: &headers, authorization: None };
        send_payload(transport, &self.realm, &self.realm, &ask, Payload::Bytes(body.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn pick(headers: &[&str]) -> Result<String, Error> {
        let mut map = HeaderMap::new();
        for text in headers {
            map.append(header::WWW_AUTHENTICATE, HeaderValue::from_str(text).unwrap());
        }
        let wanted = Wanted::pick(&map, &url("https://r.example/v2/a/manifests/1"))?;
        Ok(match wanted {
            None => "nothing".to_owned(),
            Some(Wanted::Basic) => "basic".to_owned(),
            Some(Wanted::Bearer(server)) => {
                let realm = server.realm.to_uri().unwrap();
                let [service, scope] = [server.service, server.scope].map(Option::unwrap_or_default);
                format!("{realm} {service} {scope}")
            }
        })
    }

    #[test]
    fn what_is_wanted_is_found() {
        for (headers, expected) in [
            (
                &[r#"Bearer realm="https://t.example/t",service="r",scope="repository:b:pull""#][..],
                "https://t.example/t r repository:b:pull",
            ),
            (&[r#"bearer realm="https://t.example""#], "https://t.example/  "),
            (&["Basic realm=x", "Bearer realm=http://t/?a=b"], "http://t/?a=b  "),
            (&["Bearer", "Bearer realm=https://t/"], "https://t/  "),
            (&[r#"Basic realm="Bearer realm=https://x""#], "basic"),
            (&["Bearer realm=/token, Basic"], "basic"),
            (&["Negotiate"], "nothing"),
            (&[], "nothing"),
        ] {
            assert_eq!(pick(headers).unwrap(), expected, "{headers:?}");
        }
        for header in [
            "Bearer",
            "Bearer realm=",
            "Bearer realm=/token",
            "Bearer realm=\"file:///x\"",
            "Bearer realm=\"https://u:p@x/\"",
        ] {
            assert!(matches!(pick(&[header]), Err(Error::BadChallenge { .. })), "{header}");
        }
    }

    #[test]
    fn a_realm_is_the_registrys_own_or_not() {
        for (is_verified, challenger, realm, expected) in [
            (true, "https://registry-1.docker.io/", "https://auth.docker.io/token", true),
            (true, "https://r.example/", "https://r.example/token", true),
            (true, "https://r.example/", "http://r.example/token", false),
            (false, "https://r.example/", "https://r.example:5001/token", true),
            (false, "http://r.example:5000/", "http://r.example:5001/token", true),
            (false, "http://r.example/", "https://r.example/token", true),
            (false, "https://r.example/", "http://r.example/token", false),
            (false, "https://r.example/", "https://auth.r.example/token", false),
            (false, "http://r.example/", "http://evil.example/token", false),
        ] {
            assert_eq!(is_own_realm(is_verified, &url(challenger), &url(realm)), expected, "{challenger} {realm}");
        }
    }
}
