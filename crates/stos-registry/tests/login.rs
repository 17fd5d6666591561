// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a registry accepts a credential: asked once, of the registry itself.

mod common;

use common::*;
use stos_registry::{Credential, Endpoint, Error, Registry, Role};
use stos_testkit::registry::{self, Auth, Bearer, Fault, Options, Rule};

const USER: &str = "us3r";
const PASSWORD: &str = "s3cret-pass";

fn check(registry: &registry::Registry, password: &str) -> Result<(), Error> {
    client_with(registry, Credential::password(USER, password)).check_credential()
}

#[test]
fn a_right_password_is_accepted_and_a_wrong_one_is_not() {
    for tls in [true, false] {
        for auth in [Auth::Basic(USER.into(), PASSWORD.into()), Auth::bearer_for(USER, PASSWORD)] {
            let registry = registry(tls, auth);
            check(&registry, PASSWORD).unwrap();
            assert_eq!(registry.take_requests()[0], "GET /v2/");
            let error = check(&registry, "wrong").unwrap_err();
            assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
            assert!(registry.take_requests().len() <= 2, "what is refused is not sent twice");
        }
    }
    // Who asks nobody accepts everyone.
    check(&registry(true, Auth::Open), "anything").unwrap();
}

#[test]
fn an_identity_token_is_checked_too() {
    let bearer = |token: &str| Auth::Bearer(Bearer { identity_token: Some(token.into()), ..Bearer::default() });
    let registry = registry(true, bearer("right"));
    let with = |token| client_with(&registry, Credential::identity_token(token)).check_credential();
    with("right").unwrap();
    assert!(matches!(with("wrong"), Err(Error::Unauthorized { .. })));
}

#[test]
fn mirrors_are_not_asked() {
    let (mirror, registry) = (plain(), registry(false, Auth::Basic(USER.into(), PASSWORD.into())));
    let endpoint = |registry: &registry::Registry, role| {
        let mut endpoint = Endpoint::new(registry.address(), role);
        endpoint.tls_verify = false;
        endpoint.credentials = Some(std::sync::Arc::new(Credential::password(USER, PASSWORD)));
        endpoint
    };
    let [first, itself] = [endpoint(&mirror, Role::Mirror), endpoint(&registry, Role::Registry)];
    Registry::over(vec![first.clone(), itself], &quick()).unwrap().check_credential().unwrap();
    assert!(mirror.requests().is_empty());
    let error = Registry::over(vec![first], &quick()).unwrap().check_credential().unwrap_err();
    assert!(matches!(error, Error::NoEndpoint { .. }), "{error}");
}

/// An anonymous token would let anyone pass.
#[test]
fn a_credential_that_is_kept_back_proves_nothing() {
    let issuer = registry::Registry::start(Options { auth: Auth::bearer(), ..Options::default() });
    // Another name of the same machine is another host.
    let realm = format!("{}/token", issuer.base_url().replace("127.0.0.1", "localhost"));
    let registry = registry(false, Auth::bearer_of(realm));
    let error = check(&registry, PASSWORD).unwrap_err();
    assert!(matches!(error, Error::BadCredential { .. }) && !error.to_string().contains(PASSWORD), "{error}");
    assert!(issuer.requests().is_empty());
}

#[test]
fn what_else_goes_wrong_is_told() {
    let registry = plain();
    for (status, is_it) in [(404, "not found"), (500, "status 500"), (403, "denied")] {
        registry.clear_rules();
        registry.add_rule(Rule::on("/v2/").fault(Fault::status(status)));
        let error = check(&registry, PASSWORD).unwrap_err().to_string();
        assert!(error.contains(is_it), "{error}");
    }
}
