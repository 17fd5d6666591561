// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who gets a credential: the registry that it belongs to, its own token server, and nobody else.

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::*;
use stos_registry::{Credential, CredentialFailure, Credentials, Endpoint, Error, Registry, Role};
use stos_testkit::registry::{self, Auth, Bearer, Fault, Options, Rule};

const USER: &str = "us3r";
const PASSWORD: &str = "s3cret-pass";
const TOKEN: &str = "s3cret-identity";

fn login() -> Credential {
    Credential::password(USER, PASSWORD)
}

/// What the login looks like on the wire.
fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

fn wants_password() -> Auth {
    Auth::Basic(USER.into(), PASSWORD.into())
}

fn wants_token() -> Auth {
    Auth::bearer_for(USER, PASSWORD)
}

/// A token server that is no registry of ours, with tokens that `registry` takes.
fn issuer(tls: bool, auth: Auth) -> registry::Registry {
    registry::Registry::start(Options { tls, auth, ..Options::default() })
}

/// Tells whether anything that a registry was sent holds the credential, whatever the header.
fn has_seen_login(registry: &registry::Registry) -> bool {
    registry.requests().iter().any(|request| {
        let text = format!("{} {:?}", request.target, request.headers);
        [PASSWORD, TOKEN, &basic()["Basic ".len()..]].iter().any(|secret| text.contains(secret))
    })
}

fn has_authorization(registry: &registry::Registry) -> bool {
    header_of_all(registry, "authorization").iter().any(|header| header != "-")
}

#[test]
fn a_password_goes_to_who_asks_for_it() {
    for tls in [true, false] {
        let registry = registry(tls, wants_password());
        let source = Counted::new(login());
        let client = client_with(&registry, source.clone());
        client.fetch_manifest(REPOSITORY, "1", None).unwrap();
        assert_eq!(fetch_layer(&client).unwrap(), LAYER);
        // Once asked for it is sent unasked, for the whole of the registry.
        assert_eq!(header_of_all(&registry, "authorization"), ["-".to_owned(), basic(), basic()]);
        assert_eq!(source.count(), 1);
    }
}

#[test]
fn a_source_that_is_not_needed_is_not_asked() {
    let registry = registry(true, Auth::Open);
    let source = Counted::new(login());
    let client = client_with(&registry, source.clone());
    client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    assert_eq!((source.count(), has_authorization(&registry)), (0, false));
    // And where many threads need it at once, once.
    let registry = self::registry(true, wants_token());
    let source = Counted::new(login());
    let client = client_with(&registry, source.clone());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(fetch_layer(&client).unwrap(), LAYER));
        }
    });
    assert_eq!(source.count(), 1);
}

#[test]
fn a_wrong_password_is_sent_once() {
    let registry = registry(true, Auth::Basic(USER.into(), "another".into()));
    let client = client_with(&registry, login());
    let error = fetch_layer(&client).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert_eq!(header_of_all(&registry, "authorization"), ["-".to_owned(), basic()]);
    // Nor twice in the next request.
    fetch_layer(&client).unwrap_err();
    assert_eq!(registry.requests().len(), 3);
    // A token server that refuses it is named.
    let registry = self::registry(true, Auth::bearer_for(USER, "another"));
    let error = fetch_layer(&client_with(&registry, login())).unwrap_err();
    assert!(matches!(&error, Error::Unauthorized { url, .. } if url.as_str().ends_with("/token?…")), "{error}");
}

#[test]
fn a_token_is_bought_with_the_password() {
    let registry = registry(true, wants_token());
    let client = client_with(&registry, login());
    client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    fetch_layer(&client).unwrap();
    let token = "Bearer token-1".to_owned();
    assert_eq!(header_of_all(&registry, "authorization"), ["-".to_owned(), basic(), token.clone(), token]);
    let asked = "GET /token?account=us3r&service=testkit&scope=repository:team/app:pull";
    assert_eq!(registry.take_requests()[1], asked);
    // One that is no longer good is bought anew, once.
    registry.expire_tokens();
    fetch_layer(&client).unwrap();
    assert_eq!(registry.take_requests().len(), 3);
}

#[test]
fn a_refresh_token_is_posted() {
    let auth = Auth::Bearer(Bearer { identity_token: Some(TOKEN.into()), ..Bearer::default() });
    let registry = registry(true, auth);
    let client = client_with(&registry, Credential::identity_token(TOKEN));
    assert_eq!(fetch_layer(&client).unwrap(), LAYER);
    let requests = registry.requests();
    assert_eq!((requests[1].method.as_str(), requests[1].target.as_str()), ("POST", "/token"));
    assert_eq!(requests[1].header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(requests[1].header("authorization"), None);
    assert_eq!(requests[2].header("authorization"), Some("Bearer token-1"));
    // It is good for a token server and for nothing else.
    let registry = self::registry(true, wants_password());
    let error = fetch_layer(&client_with(&registry, Credential::identity_token(TOKEN))).unwrap_err();
    assert!(matches!(error, Error::BadCredential { .. }), "{error}");
    assert!(!has_seen_login(&registry));
}

#[test]
fn a_token_server_that_wants_oauth_gets_it() {
    let auth = Bearer { login: Some((USER.into(), PASSWORD.into())), is_post_only: true, ..Bearer::default() };
    let registry = registry(true, Auth::Bearer(auth));
    assert_eq!(fetch_layer(&client_with(&registry, login())).unwrap(), LAYER);
    let requests: Vec<String> = registry.take_requests();
    assert!(requests[1].starts_with("GET /token?") && requests[2] == "POST /token", "{requests:?}");
}

#[test]
fn a_realm_elsewhere_is_the_registrys_own_over_tls() {
    let issuer = issuer(
        true,
        Auth::Bearer(Bearer {
            login: Some((USER.into(), PASSWORD.into())),
            prefix: Some("foreign-".into()),
            ..Bearer::default()
        }),
    );
    let realm = format!("{}/token", issuer.base_url().replace("127.0.0.1", "localhost"));
    let registry = registry(true, Auth::bearer_of(realm));
    registry.accept_token("foreign-1");
    let mut endpoint = with(endpoint(&registry, Role::Registry), login());
    endpoint.extra_roots.push(issuer.ca_der().unwrap().to_vec());
    assert_eq!(fetch_layer(&over(vec![endpoint])).unwrap(), LAYER);
    // The password went to the token server alone, and the token to the registry alone.
    assert_eq!(header_of_all(&issuer, "authorization"), [basic()]);
    assert_eq!(header_of_all(&registry, "authorization"), ["-", "Bearer foreign-1"]);
}

/// Asks a registry without verification whose realm is `issuer`, by the name `host`.
fn ask_unverified(registry_tls: bool, issuer: &registry::Registry, host: &str) -> Result<Vec<u8>, Error> {
    let realm = format!("{}/token", issuer.base_url().replace("127.0.0.1", host));
    let registry = registry(registry_tls, Auth::bearer_of(realm));
    registry.accept_token("token-1");
    let mut endpoint = with(endpoint(&registry, Role::Registry), login());
    endpoint.tls_verify = false;
    fetch_layer(&over(vec![endpoint]))
}

#[test]
fn an_unverified_registry_cannot_send_the_password_elsewhere() {
    for (registry_tls, issuer_tls, host, gets_it) in [
        (false, false, "localhost", false),
        (false, true, "localhost", false),
        (true, true, "localhost", false),
        (true, false, "127.0.0.1", false),
        (false, false, "127.0.0.1", true),
        (true, true, "127.0.0.1", true),
    ] {
        // For everyone's images the way is open.
        let issuer = issuer(issuer_tls, Auth::bearer());
        let (fetched, trace) = Trace::of(|| ask_unverified(registry_tls, &issuer, host));
        assert_eq!(fetched.unwrap(), LAYER);
        assert_eq!(has_seen_login(&issuer), gets_it, "{registry_tls} {issuer_tls} {host}");
        assert_eq!(trace.contains("it gets no credential"), !gets_it, "{trace}");
        let account = issuer.requests()[0].target.contains("account=");
        assert_eq!(account, gets_it, "nor is the user named");
    }
}

#[test]
fn verified_https_names_no_plain_token_server() {
    let issuer = issuer(false, Auth::bearer());
    let registry = registry(true, Auth::bearer_of(format!("{}/token", issuer.base_url())));
    let error = fetch_layer(&client_with(&registry, login())).unwrap_err();
    assert!(matches!(error, Error::Downgrade { .. }), "{error}");
    assert!(issuer.requests().is_empty() && !has_seen_login(&registry));
}

#[test]
fn no_redirect_gets_a_credential() {
    for auth in [wants_password(), wants_token()] {
        let registry = registry(true, auth);
        // The same host, another port; it asks for the password in its turn (CVE-2020-15157).
        let other = self::registry(true, wants_password());
        let target = format!("{}/v2/{REPOSITORY}/blobs/{}", other.base_url(), layer().digest);
        registry.add_rule(Rule::on("/blobs/").after(1).fault(Fault::redirect(target)));
        let mut endpoint = with(endpoint(&registry, Role::Registry), login());
        endpoint.extra_roots.push(other.ca_der().unwrap().to_vec());
        let client = over(vec![endpoint]);
        for _ in 0..2 {
            let error = fetch_layer(&client).unwrap_err();
            assert!(matches!(&error, Error::Unauthorized { url, .. } if url.as_str().contains(&other.address())));
        }
        assert!(has_authorization(&registry) && !has_authorization(&other));
        assert_eq!(other.requests().len(), 2, "the challenge is not answered");
    }
}

#[test]
fn a_redirect_names_no_token_server() {
    let registry = registry(true, Auth::Open);
    let issuer = issuer(true, Auth::bearer());
    let other = self::registry(true, Auth::bearer_of(format!("{}/token", issuer.base_url())));
    let target = format!("{}/v2/{REPOSITORY}/blobs/{}", other.base_url(), layer().digest);
    registry.add_rule(Rule::on("/blobs/").fault(Fault::redirect(target)));
    let mut endpoint = with(endpoint(&registry, Role::Registry), login());
    for trusted in [&issuer, &other] {
        endpoint.extra_roots.push(trusted.ca_der().unwrap().to_vec());
    }
    let error = fetch_layer(&over(vec![endpoint])).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert!(issuer.requests().is_empty() && !has_authorization(&other));
}

#[test]
fn a_redirect_to_plain_http_gets_nothing() {
    let plain = registry(false, wants_password());
    let target = format!("{}/v2/{REPOSITORY}/blobs/{}", plain.base_url(), layer().digest);
    let registry = registry(true, wants_password());
    registry.add_rule(Rule::on("/blobs/").after(1).fault(Fault::redirect(target)));
    let error = fetch_layer(&client_with(&registry, login())).unwrap_err();
    assert!(matches!(error, Error::Downgrade { .. }) && plain.requests().is_empty(), "{error}");
    // Nor where nothing is verified.
    let mut endpoint = with(endpoint(&registry, Role::Registry), login());
    endpoint.tls_verify = false;
    let error = fetch_layer(&over(vec![endpoint])).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert!(!plain.requests().is_empty() && !has_authorization(&plain));
}

#[test]
fn a_token_server_cannot_pass_the_password_on() {
    let other = issuer(true, wants_token());
    for (credential, method) in [(login(), "GET"), (Credential::identity_token(TOKEN), "POST")] {
        let registry = registry(true, wants_token());
        let target = format!("{}/token", other.base_url());
        registry.add_rule(Rule::on("/token").method(method).fault(Fault::redirect(target)));
        let mut endpoint = with(endpoint(&registry, Role::Registry), credential);
        endpoint.extra_roots.push(other.ca_der().unwrap().to_vec());
        let error = fetch_layer(&over(vec![endpoint])).unwrap_err();
        let is_right = matches!(error, Error::Unauthorized { .. } | Error::UnexpectedStatus { status: 307, .. });
        assert!(is_right, "{error}");
    }
    // The GET was followed, without what authorizes it; the POST was not.
    assert_eq!(other.requests().len(), 1);
    assert!(!has_seen_login(&other));
}

#[test]
fn a_token_rather_than_the_password() {
    let registry = registry(true, wants_token());
    let both = format!("Basic realm=\"x\", Bearer realm=\"{}/token\",service=\"testkit\"", registry.base_url());
    registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::challenge(both)));
    assert_eq!(fetch_layer(&client_with(&registry, login())).unwrap(), LAYER);
    assert_eq!(header_of_all(&registry, "authorization"), ["-".to_owned(), basic(), "Bearer token-1".to_owned()]);
}

struct Broken;

impl Credentials for Broken {
    fn credential(&self) -> Result<Option<Credential>, CredentialFailure> {
        Err("docker-credential-x ended with 1".into())
    }
}

struct Nobody;

impl Credentials for Nobody {
    fn credential(&self) -> Result<Option<Credential>, CredentialFailure> {
        Ok(None)
    }
}

#[test]
fn what_is_wrong_with_a_credential_is_told() {
    let registry = registry(true, wants_password());
    let error = fetch_layer(&client_with(&registry, Broken)).unwrap_err();
    assert!(matches!(&error, Error::NoCredential { host, .. } if *host == registry.address()), "{error}");
    assert!(error.to_string().ends_with(": docker-credential-x ended with 1"), "{error}");
    let error = fetch_layer(&client_with(&registry, Credential::password("a:b", PASSWORD))).unwrap_err();
    assert!(matches!(error, Error::BadCredential { .. }), "{error}");
    let error = fetch_layer(&client_with(&registry, Nobody)).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert!(!has_authorization(&registry));
}

/// Runs whatever shows or fails, and gives all of it as text.
fn everything_shown(client: &Registry, endpoint: &Endpoint) -> String {
    let mut text = format!("{client:?} {endpoint:?} {:?}", endpoint.proxies.is_some());
    for result in [
        fetch_layer(client).map(drop),
        client.fetch_manifest(REPOSITORY, "1", None).map(drop),
        client.fetch_manifest(REPOSITORY, "missing", None).map(drop),
        client.has_blob(REPOSITORY, &layer()).map(drop),
        client.begin_upload(REPOSITORY, &layer(), Some("other/app")).map(drop),
        client.put_manifest(REPOSITORY, "2", "application/x", b"{}").map(drop),
    ] {
        if let Err(error) = result {
            text.push_str(&all_text(&error));
            text.push_str(&format!("{:?}", error.hint()));
        }
    }
    text
}

#[test]
fn nothing_secret_is_shown_traced_or_told() {
    let proxy = stos_testkit::http_proxy::HttpProxy::start(stos_testkit::http_proxy::ProxyOptions {
        login: Some((USER.into(), "s3cret-proxy".into())),
        ..Default::default()
    });
    let through = proxy_at(&proxy.url(), Some((USER, "s3cret-proxy")));
    let refused = proxy_at(&proxy.url(), Some(("x", "s3cret-wrong")));
    let auths: [fn() -> Auth; 4] = [
        || Auth::Basic(USER.into(), PASSWORD.into()),
        || Auth::Basic("other".into(), "other".into()),
        || Auth::Bearer(Bearer { prefix: Some("s3cret-bearer-".into()), ..Bearer::default() }),
        || {
            Auth::Bearer(Bearer {
                prefix: Some("s3cret-bearer-".into()),
                identity_token: Some(TOKEN.into()),
                ..Bearer::default()
            })
        },
    ];
    let mut all = String::new();
    for tls in [true, false] {
        for auth in auths {
            for (credential, proxies) in [
                (login(), None),
                (Credential::identity_token(TOKEN), None),
                (login(), Some(through.clone())),
                (login(), Some(refused.clone())),
            ] {
                for fault in
                    [None, Some(Fault::redirect("https://u:s3cret-url@h/?X-Sig=s3cret-sig")), Some(Fault::Corrupt)]
                {
                    let registry = registry(tls, auth());
                    if let Some(fault) = fault {
                        registry.add_rule(Rule::on("/blobs/").after(1).fault(fault));
                    }
                    let mut endpoint = with(endpoint(&registry, Role::Registry), credential.clone());
                    endpoint.proxies = proxies.clone().map(|proxy| std::sync::Arc::new(proxy) as _);
                    let client = over(vec![endpoint.clone()]);
                    let (shown, trace) = Trace::of(|| everything_shown(&client, &endpoint));
                    all.push_str(&shown);
                    all.push_str(&trace);
                }
            }
        }
    }
    // What is looked through is not nothing.
    assert!(all.contains("/v2/team/app/blobs/") && all.contains("unauthorized") && all.contains("refuses the way"));
    assert!(proxy.requests().iter().any(|line| line.starts_with("CONNECT ")));
    let encoded = STANDARD.encode(format!("{USER}:s3cret-proxy"));
    for secret in ["s3cret", USER, &basic()["Basic ".len()..], &encoded] {
        let found = all.find(secret).map(|at| &all[at.saturating_sub(200)..(at + 50).min(all.len())]);
        assert_eq!(found, None, "{secret}");
    }
}
