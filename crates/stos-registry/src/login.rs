// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a registry accepts a credential: asked at the root of its interface (distribution-spec, "Determining Support").

use ureq::http::Method;

use crate::client::Registry;
use crate::error::Error;
use crate::remote::{ROOT, Wanted};
use crate::token::Scope;

impl Registry {
    /// Asks the registry itself, no mirror, whether it knows who asks: `GET /v2/`, its challenge answered with the
    /// endpoint's credential.
    ///
    /// A registry that challenges nobody accepts everyone. As for podman and docker, a token server that gives out a token is
    /// enough; whether that opens one repository or another is seen when it is asked for.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Unauthorized`] where the credential is refused.
    pub fn check_credential(&self) -> Result<(), Error> {
        let (repository, path) = ROOT;
        let remote = self.registry_itself("a login")?;
        let scope = Scope::login();
        let wanted = Wanted { method: Method::GET, repository, path, headers: &[], scope: &scope, body: None };
        let answer = remote.get(&wanted)?.success(remote.transport())?;
        answer.discard(remote.transport());
        Ok(())
    }
}
