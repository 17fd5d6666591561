// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whom the client trusts: TLS, plain HTTP, redirects, token servers; and who gets to see a token.

mod common;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use stos_registry::Error;
use stos_testkit::registry::{Auth, Fault, Options, Registry, Rule};

#[test]
fn an_unknown_authority_is_refused() {
    let registry = registry(true, Auth::Open);
    let error = fetch_layer(&client_at(&registry.address(), &strict())).unwrap_err();
    assert!(matches!(&error, Error::Tls { host, .. } if *host == registry.address()), "{error}");
    assert!(error.hint().unwrap().contains("--tls-verify=false") && !error.is_transient());
    assert!(registry.requests().is_empty());
    // Without verification the same certificate does, and HTTPS it stays.
    assert_eq!(fetch_layer(&client_at(&registry.address(), &insecure())).unwrap(), LAYER);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let names = vec!["registry.example".to_owned()];
    let registry = Registry::start(Options { tls: true, certificate_names: names, ..Options::default() });
    let error = fetch_layer(&client_at(&registry.address(), &trusting(&registry))).unwrap_err();
    assert!(matches!(error, Error::Tls { .. }) && error.to_string().contains("registry.example"), "{error}");
    assert!(registry.requests().is_empty());
}

#[test]
fn plain_http_is_never_used_unasked() {
    let registry = plain();
    let error = fetch_layer(&client_at(&registry.address(), &strict())).unwrap_err();
    assert!(matches!(&error, Error::HttpInsteadOfHttps { host } if *host == registry.address()), "{error}");
    assert!(error.hint().unwrap().contains("--tls-verify=false"));
    assert!(registry.requests().is_empty());
}

#[test]
fn plain_http_is_remembered() {
    let registry = plain();
    let client = client(&registry);
    for _ in 0..3 {
        fetch_layer(&client).unwrap();
    }
    // On this host it is what is tried first, so that one connection serves all.
    let connections: Vec<_> = registry.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0, 0]);
}

/// Listens before `registry`, and keeps the first byte of each connection: 22 is a TLS handshake's, which is passed on.
fn listen_before(registry: &Registry) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (behind, seen) = (registry.address(), Arc::<Mutex<Vec<u8>>>::default());
    let first_bytes = seen.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut byte = [0];
            let Ok(1) = client.peek(&mut byte) else { continue };
            first_bytes.lock().unwrap().push(byte[0]);
            let Ok(server) = TcpStream::connect(&behind) else { return };
            let ways = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
            for (mut from, mut to) in ways.into_iter().filter(|_| byte[0] == 22) {
                thread::spawn(move || {
                    drop(std::io::copy(&mut from, &mut to));
                    drop(to.shutdown(Shutdown::Write));
                });
            }
        }
    });
    (address, seen)
}

#[test]
fn only_the_registry_itself_tells_that_it_speaks_http() {
    // The registry answers over TLS, and sends us to hosts that do not.
    let registry = registry(true, Auth::bearer());
    let (address, first_bytes) = listen_before(&registry);
    let closed = "https://127.0.0.1:1/x";
    for fault in [Fault::redirect(closed), Fault::challenge(format!("Bearer realm={closed}"))] {
        let client = client_at(&address, &insecure());
        registry.add_rule(Rule::on("/blobs/").fault(fault));
        let error = fetch_layer(&client).unwrap_err();
        assert!(matches!(&error, Error::Unreachable { host, .. } if host == "127.0.0.1:1"), "{error}");
        // HTTPS it stays, and the token does not go out in clear.
        registry.clear_rules();
        assert_eq!(fetch_layer(&client).unwrap(), LAYER);
        registry.add_rule(Rule::on("/blobs/").fault(Fault::redirect(closed)));
        drop(fetch_layer(&client).unwrap_err());
        registry.clear_rules();
    }
    // In clear each client has asked once, before anybody answered.
    let first_bytes = first_bytes.lock().unwrap();
    let (first, in_clear) = (first_bytes[0], first_bytes.iter().filter(|byte| **byte != 22).count());
    assert!(first == b'G' && in_clear == 2 && first_bytes.len() == 4, "{first_bytes:?}");
}

#[test]
fn a_registry_that_is_not_there_is_unreachable() {
    // A port that is closed, and that nobody is given meanwhile.
    let address = "127.0.0.1:1";
    for options in [strict(), insecure()] {
        let error = fetch_layer(&client_at(address, &options)).unwrap_err();
        assert!(matches!(&error, Error::Unreachable { host, .. } if *host == address), "{error}");
        assert!(error.is_transient() && error.to_string().contains(address), "{error}");
    }
}

#[test]
fn a_handshake_that_does_not_end_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = set(strict(), |options| options.timeouts.connect = Duration::from_millis(300));
    let started = Instant::now();
    let error = fetch_layer(&client_at(&address, &options)).unwrap_err();
    assert!(matches!(&error, Error::Unreachable { source, .. } if source.kind() == std::io::ErrorKind::TimedOut));
    assert!(started.elapsed() < Duration::from_secs(60), "{error}");
}

#[test]
fn bad_options_are_told() {
    let reference = "localhost/a".parse().unwrap();
    for user_agent in ["", "a\r\nb", "ä"] {
        let options = set(strict(), |options| options.user_agent = user_agent.into());
        let error = stos_registry::Registry::new(&reference, &options).unwrap_err();
        assert!(matches!(error, Error::BadOption { option: "user_agent", .. }), "{error}");
    }
    let options = set(strict(), |options| options.extra_roots.push(b"no certificate".to_vec()));
    let error = fetch_layer(&client_at("127.0.0.1:1", &options)).unwrap_err();
    assert!(matches!(error, Error::BadOption { option: "extra_roots", .. }), "{error}");
}

#[test]
fn docker_hub_is_asked_where_it_answers() {
    let host = |text: &str| {
        let client = stos_registry::Registry::new(&text.parse().unwrap(), &strict()).unwrap();
        client.host().to_owned()
    };
    assert_eq!(host("alpine"), "registry-1.docker.io");
    assert_eq!(host("quay.io/a/b"), "quay.io");
}

#[test]
fn a_token_does_not_follow_a_redirect() {
    let registry = registry(false, Auth::bearer());
    let other = plain();
    let target = format!("{}/v2/{REPOSITORY}/blobs/{}?signature=s3cret", other.base_url(), layer().digest);
    registry.add_rule(Rule::on("/blobs/").after(1).fault(Fault::redirect(target)));
    assert_eq!(fetch_layer(&client(&registry)).unwrap(), LAYER);
    // The registry saw the token, the other host nothing of it.
    assert!(registry.requests().iter().any(|request| request.header("authorization").is_some()));
    assert_eq!(other.requests().len(), 1);
    assert_eq!(other.requests()[0].header("authorization"), None);
    // What the other host refuses names its address without the signature.
    other.add_rule(Rule::on("/").fault(Fault::status(403)));
    let error = fetch_layer(&client(&registry)).unwrap_err();
    let text = all_text(&error);
    assert!(text.contains(&other.address()) && !text.contains("s3cret") && !text.contains("token-"), "{text}");
}

#[test]
fn a_token_stays_through_a_redirect_within_the_registry() {
    let registry = registry(false, Auth::bearer());
    let client = client(&registry);
    client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    let target = format!("/v2/{REPOSITORY}/blobs/{}", layer().digest);
    registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::redirect(target)));
    assert_eq!(fetch_layer(&client).unwrap(), LAYER);
}

#[test]
fn another_host_may_not_ask_for_a_token() {
    let registry = plain();
    let other = plain();
    let realm = format!("Bearer realm=\"{}/token\"", other.base_url());
    other.add_rule(Rule::on("/stolen").fault(Fault::challenge(realm)));
    registry.add_rule(Rule::on("/blobs/").fault(Fault::redirect(format!("{}/stolen", other.base_url()))));
    let error = fetch_layer(&client(&registry)).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert_eq!(other.take_requests(), ["GET /stolen"]);
}

#[test]
fn redirects_end() {
    let registry = plain();
    registry.add_rule(Rule::on("/").fault(Fault::redirect("/again")));
    let error = fetch_layer(&client(&registry)).unwrap_err();
    assert!(matches!(error, Error::TooManyRedirects { limit: 5, .. }), "{error}");
    assert_eq!(registry.requests().len(), 6);
}

#[test]
fn redirects_to_nowhere_are_refused() {
    let registry = plain();
    for location in ["", "ftp://x/", "file:///etc/passwd", "https://", "//", "http://u:p@127.0.0.1/", "javascript:x"] {
        registry.clear_rules();
        registry.add_rule(Rule::on("/blobs/").fault(Fault::redirect(location)));
        let error = fetch_layer(&client(&registry)).unwrap_err();
        assert!(matches!(error, Error::BadRedirect { .. }), "{location}: {error}");
        assert!(!all_text(&error).contains("u:p"), "{error}");
    }
    registry.clear_rules();
    registry.add_rule(Rule::on("/blobs/").fault(Fault::status(307)));
    assert!(matches!(fetch_layer(&client(&registry)), Err(Error::BadRedirect { .. })), "no Location at all");
}

#[test]
fn https_stays_https() {
    let registry = registry(true, Auth::Open);
    let plain = plain();
    let client = client(&registry);
    registry.add_rule(Rule::on("/blobs/").fault(Fault::redirect(format!("{}/x", plain.base_url()))));
    let error = fetch_layer(&client).unwrap_err();
    assert!(matches!(&error, Error::Downgrade { target, .. } if target.as_str().starts_with("http://")), "{error}");
    assert!(error.hint().is_some());
    registry.clear_rules();
    registry.add_rule(Rule::on("/v2/").fault(Fault::challenge(format!("Bearer realm={}/token", plain.base_url()))));
    let error = fetch_layer(&client).unwrap_err();
    assert!(matches!(error, Error::Downgrade { .. }), "{error}");
    assert!(plain.requests().is_empty());
    // Who asked for no verification gets none.
    registry.clear_rules();
    let target = format!("{}/v2/{REPOSITORY}/blobs/{}", plain.base_url(), layer().digest);
    registry.add_rule(Rule::on("/blobs/").fault(Fault::redirect(target)));
    assert_eq!(fetch_layer(&client_at(&registry.address(), &insecure())).unwrap(), LAYER);
}

#[test]
fn a_token_is_asked_for_once_per_repository() {
    let registry = registry(false, Auth::bearer());
    let client = client(&registry);
    fetch_layer(&client).unwrap();
    let blob = format!("GET /v2/team/app/blobs/{}", layer().digest);
    let token = "GET /token?service=testkit&scope=repository:team/app:pull";
    assert_eq!(registry.take_requests(), [blob.as_str(), token, blob.as_str()]);
    fetch_layer(&client).unwrap();
    assert_eq!(registry.take_requests(), [blob.as_str()]);
    drop(client.fetch_manifest("team/other", "1", None).unwrap_err());
    assert_eq!(registry.take_requests()[1], "GET /token?service=testkit&scope=repository:team/other:pull");
    // A token that is no longer good is asked for anew, once.
    registry.expire_tokens();
    fetch_layer(&client).unwrap();
    assert_eq!(registry.take_requests(), [blob.as_str(), token, blob.as_str()]);
}

#[test]
fn a_token_may_come_from_another_host() {
    let issuer = plain();
    let answer = r#"{"access_token":"foreign","issued_at":"2026-01-01T00:00:00Z"}"#;
    issuer.add_rule(Rule::on("/issue").fault(Fault::body(answer)));
    let registry = registry(false, Auth::bearer_of(format!("{}/issue", issuer.base_url())));
    registry.accept_token("foreign");
    assert_eq!(fetch_layer(&client(&registry)).unwrap(), LAYER);
    assert_eq!(issuer.take_requests(), ["GET /issue?service=testkit&scope=repository:team/app:pull"]);
}

#[test]
fn a_token_that_is_refused_is_not_tried_for_ever() {
    let issuer = plain();
    issuer.add_rule(Rule::on("/issue").fault(Fault::body(r#"{"token":"s3cret"}"#)));
    let registry = registry(false, Auth::bearer_of(format!("{}/issue", issuer.base_url())));
    let error = fetch_layer(&client(&registry)).unwrap_err();
    assert!(matches!(&error, Error::Unauthorized { message, .. } if message.as_str().contains("UNAUTHORIZED")));
    assert!(error.hint().is_some() && !all_text(&error).contains("s3cret"));
    assert_eq!((registry.requests().len(), issuer.requests().len()), (2, 1));
}

#[test]
fn a_registry_that_wants_a_password_says_so() {
    let basic = Auth::Basic("user".into(), "password".into());
    for auth in [basic, Auth::bearer_of("")] {
        let registry = registry(false, auth);
        let error = fetch_layer(&client(&registry)).unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. } | Error::BadChallenge { .. }), "{error}");
        assert_eq!(registry.requests().len(), 1);
    }
}

#[test]
fn odd_challenges_are_followed_or_refused() {
    let registry = plain();
    let realm = format!("{}/issue", registry.base_url());
    registry.add_rule(Rule::on("/issue").fault(Fault::body(r#"{"token":"x"}"#)));
    for challenge in [
        format!("Bearer realm={realm}"),
        format!("bearer  Realm = \"{realm}\" service=x"),
        format!("Negotiate, Basic realm=\"x, Bearer\", Bearer realm=\"{realm}\","),
        format!("Bearer realm=\"{realm}"),
    ] {
        registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::challenge(&challenge)));
        assert_eq!(fetch_layer(&client(&registry)).unwrap(), LAYER, "{challenge}");
    }
    for (challenge, is_bad) in [
        ("Bearer", true),
        ("Bearer realm=\"/issue\"", true),
        ("Bearer realm=\"file:///etc/passwd\"", true),
        ("Bearer realm=\"http://user:password@127.0.0.1/\"", true),
        ("Basic realm=\"x\"", false),
        ("Nonsense \"\\", false),
        ("", false),
    ] {
        registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::challenge(challenge)));
        let error = fetch_layer(&client(&registry)).unwrap_err();
        let is_right = if is_bad {
            matches!(error, Error::BadChallenge { .. })
        } else {
            matches!(error, Error::Unauthorized { .. })
        };
        assert!(is_right, "{challenge}: {error}");
        assert!(!all_text(&error).contains("password"), "{error}");
    }
}

#[test]
fn a_broken_token_server_is_told() {
    let registry = registry(false, Auth::bearer());
    let with = |fault: Fault| {
        registry.clear_rules();
        registry.add_rule(Rule::on("/token").fault(fault));
        let error = fetch_layer(&client_at(&registry.address(), &quick_insecure())).unwrap_err();
        assert!(error.to_string().contains("/token"), "{error}");
        assert!(!all_text(&error).contains("s3cret"), "{error:?}");
        error
    };
    assert!(matches!(with(Fault::status(401)), Error::Unauthorized { .. }));
    assert!(matches!(with(Fault::status(403)), Error::Denied { .. }));
    assert!(matches!(with(Fault::status(429)), Error::TooManyRequests { .. }));
    assert!(matches!(with(Fault::status(500)), Error::Server { status: 500, .. }));
    for body in
        ["", "s3cret", "{}", "{\"token\": 5}", "{\"token\": \"s3cret\\u0000\"}", "{\"token\": \"s3cret\\r\\nx: y\"}"]
    {
        assert!(matches!(with(Fault::body(body)), Error::BadToken { .. }), "{body}");
    }
    assert!(matches!(with(Fault::Endless), Error::TooLong { .. }));
    assert!(matches!(with(Fault::Stall(3)), Error::Stalled { .. }));
    assert!(matches!(with(Fault::redirect("/token")), Error::TooManyRedirects { .. }));
}
