// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The endpoints that one thing is asked of, one after the other.
//!
//! Who fails is passed over, with a warning that names it. What may pass ([`Error::is_transient`]) is waited out, as the
//! [`RetryPolicy`](crate::RetryPolicy) says, at one endpoint alone: the registry itself, or the last one where the registry is
//! not asked. So a mirror that is gone costs one try, and no waits.

use crate::client::Registry;
use crate::endpoint::{Endpoint, Role};
use crate::error::{Error, PassedOver};
use crate::remote::Remote;
use crate::retry::{Attempts, Cancel, retry};

/// The endpoints that one thing is asked of, and who of them has its turn.
pub(crate) struct Order {
    registry: Registry,
    /// Which endpoints, by their index in the client. There is one at least.
    indexes: Vec<usize>,
    /// Where among them whose turn it is stands.
    at: usize,
    /// Where among them the one stands whose failures are waited out.
    patient: usize,
    /// What is asked for, in a word.
    what: &'static str,
    /// How those before `at` have failed.
    failures: Vec<Error>,
}

impl Order {
    /// Puts endpoints in an order.
    ///
    /// # Errors
    /// [`Error::NoEndpoint`] where there is none.
    pub(crate) fn new(registry: Registry, indexes: Vec<usize>, what: &'static str) -> Result<Self, Error> {
        if indexes.is_empty() {
            return Err(Error::NoEndpoint { what });
        }
        let is_registry = |index: &usize| registry.remote(*index).endpoint().role == Role::Registry;
        let patient = indexes.iter().position(is_registry).unwrap_or(indexes.len() - 1);
        Ok(Self { registry, indexes, at: 0, patient, what, failures: Vec::new() })
    }

    /// Gives whose turn it is, by its index in the client.
    pub(crate) fn index(&self) -> usize {
        self.indexes[self.at]
    }

    /// Gives whose turn it is.
    pub(crate) fn remote(&self) -> &Remote {
        self.registry.remote(self.index())
    }

    pub(crate) fn cancel_flag(&self) -> &Cancel {
        self.registry.cancel_flag()
    }

    /// Begins to count the tries for something of a repository, at the endpoint whose turn it is.
    pub(crate) fn attempts(&self, repository: &str, path: &str) -> Result<Attempts, Error> {
        let remote = self.remote();
        let attempts = Attempts::new(&remote.transport().options().retry, remote.url_of(repository, path)?.shown());
        Ok(if self.at == self.patient { attempts } else { attempts.without_waits() })
    }

    /// Asks one after the other for something of a repository, at the path that it has there, until one gives it.
    pub(crate) fn ask<T>(
        &mut self,
        repository: &str,
        path: impl Fn(&Remote) -> Result<String, Error>,
        ask: impl Fn(&Remote, &str) -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            let remote = self.remote();
            let path = path(remote)?;
            let attempts = self.attempts(repository, &path)?;
            match retry(attempts, self.cancel_flag(), || ask(remote, &path)) {
                Ok(answer) => return Ok(answer),
                Err(error) => self.pass_over(error)?,
            }
        }
    }

    /// Goes on to the next endpoint, for the one whose turn it is has failed.
    ///
    /// # Errors
    /// `error`, where no other endpoint would do better. Where all have failed, the registry's own error, or the last one, with
    /// what the others answered.
    pub(crate) fn pass_over(&mut self, error: Error) -> Result<(), Error> {
        if is_ours(&error) {
            return Err(error);
        }
        if self.at + 1 == self.indexes.len() {
            self.failures.push(error);
            return Err(self.all_failed());
        }
        let Endpoint { role, host, .. } = self.remote().endpoint();
        tracing::warn!(%role, %host, what = self.what, %error, "passed over");
        self.failures.push(error);
        self.at += 1;
        Ok(())
    }

    /// Gives the error of an order that has come to its end.
    fn all_failed(&mut self) -> Error {
        let mut failures = std::mem::take(&mut self.failures);
        let last = failures.remove(self.patient);
        if failures.is_empty() {
            return last;
        }
        let others = self.indexes.iter().enumerate().filter(|(at, _)| *at != self.patient);
        let passed = others.zip(failures).map(|((_, index), error)| {
            let Endpoint { role, host, .. } = self.registry.remote(*index).endpoint();
            PassedOver { role: *role, host: host.clone(), reason: error.in_short() }
        });
        Error::AllEndpoints { last: Box::new(last), passed: passed.collect() }
    }
}

/// Tells whether another endpoint would fail in the same way: what is asked for cannot be asked, or is not wanted any more. Certificates
/// and proxies that cannot be used are of one endpoint.
fn is_ours(error: &Error) -> bool {
    matches!(error, Error::BadName { .. } | Error::Cancelled { .. })
}
