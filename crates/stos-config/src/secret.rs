// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What must not be shown: passwords, tokens, private keys.

use std::fmt;

use zeroize::Zeroize;

/// A value that `Debug` does not show, that has no `Display`, and that is overwritten when it is dropped.
///
/// Only [`Secret::expose`] gives it out. Copies that others made before (a parser's, a pipe's) are not overwritten.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T: Zeroize = String>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes a value that must not be shown.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Gives the value, to be sent or stored.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::from("hunter2");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(…) Some(Secret(…))");
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(format!("{:?}", Secret::new(vec![1_u8, 2])), "Secret(…)");
    }
}
