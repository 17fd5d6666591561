// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--creds USER[:PASSWORD]`.

use super::{Credential, CredentialSource, Login};
use crate::error::Error;
use crate::secret::Secret;

/// A name, and maybe a password, of the command line.
///
/// A command line's parser quotes what it refuses: let it take a [`Secret`] (there is `From<String>`), and parse that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPassword {
    /// The name.
    pub user: String,
    /// The password; without one it is asked for.
    pub password: Option<Secret>,
}

impl UserPassword {
    /// Splits at the first colon: a password may have some, a name has none (RFC 7617).
    ///
    /// # Errors
    /// [`Error::Creds`] where the name is empty.
    pub fn parse(text: &Secret) -> Result<Self, Error> {
        let (user, password) = match text.expose().split_once(':') {
            Some((user, password)) => (user, Some(Secret::from(password))),
            None => (text.expose().as_str(), None),
        };
        if user.is_empty() {
            return Err(Error::Creds);
        }
        Ok(Self { user: user.to_owned(), password })
    }

    /// Makes the credential, with `ask` for a password that was not given.
    ///
    /// # Errors
    /// Those of `ask`.
    pub fn into_credential<E>(self, ask: impl FnOnce(&str) -> Result<Secret, E>) -> Result<Credential, E> {
        let password = match self.password {
            Some(password) => password,
            None => ask(&self.user)?,
        };
        let login = Login::Password { user: self.user, password };
        Ok(Credential { login, source: CredentialSource::CommandLine })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colon_splits() {
        let parse = |text: &str| UserPassword::parse(&Secret::from(text));
        assert_eq!(parse("u:a:b").unwrap(), UserPassword { user: "u".into(), password: Some("a:b".into()) });
        assert_eq!(parse("u:").unwrap().password, Some("".into()));
        assert_eq!(parse("u").unwrap().password, None);
        for text in ["", ":hunter2"] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, Error::Creds) && !error.to_string().contains("hunter2"));
        }
        assert!(!format!("{:?}", parse("u:hunter2").unwrap()).contains("hunter2"));
    }

    #[test]
    fn a_missing_password_is_asked_for() {
        let ask = |user: &str| Ok::<_, ()>(Secret::from(format!("of {user}")));
        let asked = UserPassword::parse(&"u".into()).unwrap().into_credential(ask).unwrap();
        assert_eq!(asked.login, Login::Password { user: "u".into(), password: "of u".into() });
        let given = UserPassword::parse(&"u:p".into()).unwrap().into_credential(|_| Err(())).unwrap();
        assert_eq!(given.source, CredentialSource::CommandLine);
    }
}
