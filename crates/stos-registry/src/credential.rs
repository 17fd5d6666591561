// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who asks: passwords and identity tokens, where they come from, and the `Authorization` header that is made of them.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::http::HeaderValue;

use crate::error::Error;

/// A text that is never shown: not by `Debug`, not in an error, not in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Gives the text, to be sent and not to be shown.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a registry knows someone by.
///
/// A user's name is kept secret as well: some registries take a token in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A user and a password: `auth` in podman's `auth.json` and docker's `config.json` (containers-auth.json(5)).
    Password {
        /// The user's name.
        username: Secret,
        /// The password, or a token that stands in its place.
        password: Secret,
    },
    /// A refresh token: `identitytoken` in the same files. It buys bearer tokens (distribution, "Oauth2 Token
    /// Authentication") and is good for nothing else.
    IdentityToken(Secret),
}

impl Credential {
    /// Makes a credential of a user and a password.
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password { username: Secret::new(username), password: Secret::new(password) }
    }

    /// Makes a credential of a refresh token.
    pub fn identity_token(token: impl Into<String>) -> Self {
        Self::IdentityToken(Secret::new(token))
    }
}

/// What a source of credentials fails with. Its words reach people, so they must hold no secret.
pub type CredentialFailure = Box<dyn StdError + Send + Sync>;

/// Where one endpoint's credential comes from: a file, a helper program, the command line.
///
/// It is asked when the endpoint first wants to know who asks, and never again; for many images that is not at all.
pub trait Credentials: Send + Sync {
    /// Gives the credential. `None` is nobody in particular: whoever asks does so anonymously.
    ///
    /// # Errors
    /// Where there should be one and it cannot be had. The request that wanted it fails.
    fn credential(&self) -> Result<Option<Credential>, CredentialFailure>;
}

/// A credential that is at hand.
impl Credentials for Credential {
    fn credential(&self) -> Result<Option<Credential>, CredentialFailure> {
        Ok(Some(self.clone()))
    }
}

/// A source that is asked once: its answer is kept, and so is its failure.
pub(crate) struct AskedOnce {
    source: Option<Arc<dyn Credentials>>,
    answer: Mutex<Option<Result<Option<Credential>, SourceError>>>,
}

impl AskedOnce {
    pub(crate) fn new(source: Option<Arc<dyn Credentials>>) -> Self {
        Self { source, answer: Mutex::default() }
    }

    /// Gives the credential for `host`. Threads that want it at once wait for one answer.
    pub(crate) fn get(&self, host: &str) -> Result<Option<Credential>, Error> {
        let Some(source) = &self.source else { return Ok(None) };
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answer.get_or_insert_with(|| {
            tracing::debug!(host, "the credential is asked for");
            source.credential().map_err(SourceError::from)
        });
        answer.clone().map_err(|source| Error::NoCredential { host: host.to_owned(), source })
    }
}

/// What a source of credentials or of proxies failed with. Clones share the cause.
#[derive(Debug, Clone)]
pub struct SourceError(Arc<dyn StdError + Send + Sync>);

impl SourceError {
    /// Gives the source's own error.
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0
    }
}

impl From<CredentialFailure> for SourceError {
    fn from(failure: CredentialFailure) -> Self {
        Self(failure.into())
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for SourceError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// The value of an `Authorization` header. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Authorization(HeaderValue);

impl Authorization {
    /// Makes `Basic …` (RFC 7617). `None` where the user's name has a colon, which the scheme cannot carry.
    pub(crate) fn basic(username: &Secret, password: &Secret) -> Option<Self> {
        if username.expose().contains(':') {
            return None;
        }
        Self::new("Basic", &STANDARD.encode(format!("{}:{}", username.expose(), password.expose())))
    }

    /// Makes `Bearer …` (RFC 6750). `None` where the token is no header's value.
    pub(crate) fn bearer(token: &str) -> Option<Self> {
        Self::new("Bearer", token)
    }

    fn new(scheme: &str, value: &str) -> Option<Self> {
        let mut header = HeaderValue::try_from(format!("{scheme} {value}")).ok()?;
        header.set_sensitive(true);
        Some(Self(header))
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn nothing_of_a_credential_is_shown() {
        let password = Credential::password("s3cret-user", "s3cret");
        let token = Credential::identity_token("s3cret");
        let header = Authorization::basic(&Secret::new("s3cret"), &Secret::new("s3cret")).unwrap();
        let shown = format!("{password:?} {token:?} {header:?} {:?}", header.header());
        assert!(!shown.contains("s3cret") && !shown.contains("czNjcmV0"), "{shown}");
    }

    #[test]
    fn basic_is_as_the_rfc_has_it() {
        let header = |user: &str, password: &str| {
            let header = Authorization::basic(&Secret::new(user), &Secret::new(password));
            header.map(|header| header.header().to_str().unwrap().to_owned())
        };
        assert_eq!(header("Aladdin", "open sesame").as_deref(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        assert_eq!(header("", "a:b").as_deref(), Some("Basic OmE6Yg=="));
        assert_eq!(header("a:b", "c"), None);
        // What is encoded may be anything.
        assert!(header("a\r\nb", "ä\0").is_some());
        assert!(Authorization::bearer("a\r\nb").is_none());
    }

    struct Counted(AtomicU32, bool);

    impl Credentials for Counted {
        fn credential(&self) -> Result<Option<Credential>, CredentialFailure> {
            self.0.fetch_add(1, Ordering::Relaxed);
            if self.1 { Err("the helper ended with 1".into()) } else { Ok(None) }
        }
    }

    #[test]
    fn a_source_is_asked_once_whatever_it_answers() {
        for fails in [false, true] {
            let source = Arc::new(Counted(AtomicU32::new(0), fails));
            let asked = AskedOnce::new(Some(Arc::<Counted>::clone(&source)));
            for _ in 0..3 {
                let answer = asked.get("r.example");
                assert_eq!(answer.is_err(), fails);
                if let Err(error) = answer {
                    assert_eq!(error.to_string(), "no credential for r.example: the helper ended with 1");
                }
            }
            assert_eq!(source.0.load(Ordering::Relaxed), 1);
        }
        assert_eq!(AskedOnce::new(None).get("r.example").unwrap(), None);
    }
}
