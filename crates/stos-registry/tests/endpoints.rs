// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mirrors and registries in order, and the ways to them: client certificates, authorities, proxies.

mod common;

use std::sync::Arc;

use common::*;
use stos_registry::{
    ClientIdentity, ClientOptions, Credential, Destination, Endpoint, Error, Proxies, Proxy, ProxyFailure, Registry,
    Role, Serves,
};
use stos_spec::media_type::OCI_MANIFEST;
use stos_spec::{BlobDigest, Descriptor};
use stos_testkit::http_proxy::{HttpProxy, ProxyOptions};
use stos_testkit::registry::{self, Auth, ClientAuthority, Fault, Options, Rule};

fn both(mirror: &registry::Registry, registry: &registry::Registry) -> Registry {
    over(vec![mirror_endpoint(mirror), endpoint(registry, Role::Registry)])
}

fn digest() -> String {
    BlobDigest::of(manifest("1").as_bytes()).to_string()
}

#[test]
fn a_mirror_that_has_the_image_is_enough() {
    let (mirror, registry) = (mirror(true, Auth::Open), registry(true, Auth::Open));
    let client = both(&mirror, &registry);
    assert_eq!(client.host(), registry.address());
    let fetched = client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    assert_eq!(fetched.bytes.get(), manifest("1").as_bytes());
    assert_eq!(fetch_layer(&client).unwrap(), LAYER);
    // By the name that it has there.
    let blob = format!("GET /v2/mirrors/app/blobs/{}", layer().digest);
    assert_eq!(mirror.take_requests(), ["GET /v2/mirrors/app/manifests/1", &blob]);
    assert!(registry.requests().is_empty());
}

#[test]
fn a_mirror_that_fails_is_passed_over_with_a_warning() {
    let registry = registry(true, Auth::Open);
    let cases = [
        ("not found", Fault::status(404)),
        ("unauthorized", Fault::status(401)),
        ("denied", Fault::status(403)),
        ("status 502", Fault::status(502)),
        ("found sha256:", Fault::Corrupt),
        ("HTTP", Fault::Raw(b"SSH-2.0\r\n\r\n".to_vec())),
        ("ended early", Fault::Truncate(3)),
        ("found more", Fault::Endless),
    ];
    for (reason, fault) in cases {
        let mirror = mirror(true, Auth::Open);
        mirror.add_rule(Rule::on("/manifests/").fault(fault));
        let client = both(&mirror, &registry);
        let (fetched, trace) = Trace::of(|| client.fetch_manifest(REPOSITORY, &digest(), None));
        assert_eq!(fetched.unwrap().bytes.get(), manifest("1").as_bytes(), "{reason}");
        let warning = trace.lines().find(|line| line.contains("WARN")).unwrap();
        assert!(warning.contains(&mirror.address()) && warning.contains("passed over"), "{warning}");
        assert!(warning.contains(reason), "{reason}: {warning}");
        // What belongs to the image is asked of who gave it; the mirror is left alone.
        let before = mirror.requests().len();
        assert_eq!(fetch_layer(&client).unwrap(), LAYER);
        assert_eq!(mirror.requests().len(), before);
    }
}

#[test]
fn a_mirror_that_cannot_be_reached_is_passed_over() {
    let registry = registry(true, Auth::Open);
    let gone = Endpoint::new("127.0.0.1:1", Role::Mirror);
    let untrusted = mirror(true, Auth::Open);
    let mut unverifiable = mirror_endpoint(&untrusted);
    unverifiable.extra_roots.clear();
    let client =
        over(vec![with_root(gone, &registry), with_root(unverifiable, &registry), endpoint(&registry, Role::Registry)]);
    let (fetched, trace) = Trace::of(|| client.fetch_manifest(REPOSITORY, "1", None));
    fetched.unwrap();
    let warnings: Vec<_> = trace.lines().filter(|line| line.contains("passed over")).collect();
    assert!(warnings[0].contains("127.0.0.1:1") && warnings[1].contains("TLS with"), "{warnings:?}");
    assert!(untrusted.requests().is_empty());
}

/// Some authority at least, so that TLS can be tried where the machine trusts none.
fn with_root(mut endpoint: Endpoint, registry: &registry::Registry) -> Endpoint {
    endpoint.extra_roots.push(registry.ca_der().unwrap().to_vec());
    endpoint
}

#[test]
fn a_blob_is_had_from_whoever_has_it() {
    let (mirror, registry) = (mirror(true, Auth::Open), registry(true, Auth::Open));
    let client = both(&mirror, &registry);
    client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    mirror.add_rule(Rule::on("/blobs/").times(1).fault(Fault::status(404)));
    assert_eq!(fetch_layer(&client).unwrap(), LAYER);
    let blob = format!("GET /v2/team/app/blobs/{}", layer().digest);
    assert_eq!(registry.take_requests(), [blob.as_str()]);
    // One that lies about the bytes has them only where they are fetched whole.
    mirror.add_rule(Rule::on("/blobs/").times(1).fault(Fault::Corrupt));
    assert_eq!(client.fetch_blob_bytes(REPOSITORY, &layer(), 1000).unwrap().get(), LAYER);
    assert_eq!(registry.take_requests(), [blob.as_str()]);
    assert_eq!(fetch_layer(&client).unwrap(), LAYER);
    assert!(registry.take_requests().is_empty(), "the mirror has the word again");
}

#[test]
fn a_mirror_serves_the_references_that_it_is_there_for() {
    for (serves, target, is_asked) in [
        (Serves::DigestOnly, "1".to_owned(), false),
        (Serves::DigestOnly, digest(), true),
        (Serves::TagOnly, "1".to_owned(), true),
        (Serves::TagOnly, digest(), false),
    ] {
        let (mirror, registry) = (mirror(true, Auth::Open), registry(true, Auth::Open));
        let mut first = mirror_endpoint(&mirror);
        first.serves = serves;
        let client = over(vec![first.clone(), endpoint(&registry, Role::Registry)]);
        client.fetch_manifest(REPOSITORY, &target, None).unwrap();
        assert_eq!(!mirror.requests().is_empty(), is_asked, "{serves:?} {target}");
        // Blobs come from who gave the manifest.
        fetch_layer(&client).unwrap();
        assert_eq!(mirror.requests().len(), 2 * usize::from(is_asked), "{serves:?} {target}");
        if !is_asked {
            let error = over(vec![first]).fetch_manifest(REPOSITORY, &target, None).unwrap_err();
            assert!(matches!(error, Error::NoEndpoint { .. }), "{error}");
        }
    }
}

#[test]
fn when_all_fail_all_are_told() {
    let (mirror, registry) = (mirror(true, Auth::Open), registry(true, Auth::Open));
    mirror.add_rule(Rule::on("/manifests/").fault(Fault::status(503)));
    let client = both(&mirror, &registry);
    let error = client.fetch_manifest(REPOSITORY, "2", None).unwrap_err();
    let Error::AllEndpoints { last, passed } = &error else { panic!("{error}") };
    assert!(matches!(**last, Error::NotFound { .. }));
    assert_eq!((passed[0].role, &passed[0].host), (Role::Mirror, &mirror.address()));
    let text = error.to_string();
    assert!(text.starts_with(&format!("{}/v2/team/app/manifests/2: not found", registry.base_url())), "{text}");
    let told = format!(" (also failed: mirror {}: the server failed with status 503)", mirror.address());
    assert!(text.ends_with(&told), "{text}");
    assert!(!error.is_transient() && error.hint().is_none());
    // One endpoint's error is its own.
    let error = over(vec![endpoint(&registry, Role::Registry)]).fetch_manifest(REPOSITORY, "2", None).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    // What no endpoint can be asked for is asked of none.
    mirror.take_requests();
    let error = client.fetch_manifest(REPOSITORY, "../1", None).unwrap_err();
    assert!(matches!(error, Error::BadName { .. }) && mirror.requests().is_empty(), "{error}");
}

#[test]
fn a_mirror_sees_no_credential_but_its_own() {
    let wants = |user: &str| Auth::Basic(user.into(), "password".into());
    let (mirror, registry) = (mirror(true, wants("mirror")), registry(true, wants("registry")));
    let source = |user: &str| Counted::new(Credential::password(user, "password"));
    // Without one of its own it is anonymous there, and passed over.
    let registrys = source("registry");
    let client = over(vec![mirror_endpoint(&mirror), with(endpoint(&registry, Role::Registry), registrys.clone())]);
    client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    assert_eq!(fetch_layer(&client).unwrap(), LAYER);
    assert_eq!((header_of_all(&mirror, "authorization"), registrys.count()), (vec!["-".to_owned()], 1));
    // With one the registry's is not even asked for.
    let (mirrors, registrys) = (source("mirror"), source("registry"));
    let client = over(vec![
        with(mirror_endpoint(&mirror), mirrors.clone()),
        with(endpoint(&registry, Role::Registry), registrys.clone()),
    ]);
    client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    assert_eq!((mirrors.count(), registrys.count()), (1, 0));
    let of_registry = header_of_all(&registry, "authorization");
    let of_mirror = header_of_all(&mirror, "authorization");
    assert!(of_registry.iter().skip(1).all(|header| !of_mirror.contains(header)), "{of_mirror:?}");
}

#[test]
fn endpoints_that_are_none_are_refused() {
    let refused = |endpoints| Registry::over(endpoints, &ClientOptions::default()).unwrap_err();
    assert!(matches!(refused(Vec::new()), Error::NoEndpoint { .. }));
    let bad = Endpoint::new("user:s3cret@r.example", Role::Mirror);
    let error = refused(vec![Endpoint::new("r.example", Role::Registry), bad]);
    assert!(matches!(error, Error::BadOption { option: "host", .. }), "{error}");
    let docker = over(vec![Endpoint::new("m.example", Role::Mirror), Endpoint::new("docker.io", Role::Registry)]);
    assert_eq!(docker.host(), "registry-1.docker.io");
    assert_eq!(over(vec![Endpoint::new("m.example", Role::Mirror)]).host(), "m.example");
}

/// Starts a registry for the clients of an authority alone.
fn for_clients(clients: &ClientAuthority) -> registry::Registry {
    let options = Options { tls: true, clients: Some(clients.clone()), ..Options::default() };
    let registry = registry::Registry::start(options);
    registry.put_blob(LAYER);
    registry
}

fn identity(certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> ClientIdentity {
    ClientIdentity { certificates: vec![certificates.into()], key: key.into() }
}

#[test]
fn a_client_certificate_is_shown() {
    let clients = ClientAuthority::new();
    let registry = for_clients(&clients);
    let with_identity = |identity: Option<ClientIdentity>| {
        let mut endpoint = endpoint(&registry, Role::Registry);
        endpoint.identity = identity;
        fetch_layer(&over(vec![endpoint]))
    };
    let error = with_identity(None).unwrap_err();
    assert!(matches!(error, Error::Tls { .. } | Error::Unreachable { .. } | Error::Protocol { .. }), "{error}");
    let good = identity(clients.certificate_der.clone(), clients.key_der.clone());
    assert_eq!(with_identity(Some(good)).unwrap(), LAYER);
    // Another's key, no key, no certificate: told before anything is asked.
    let other = ClientAuthority::new();
    registry.take_requests();
    for identity in [
        identity(clients.certificate_der.clone(), other.key_der.clone()),
        identity(clients.certificate_der.clone(), clients.key_pem.clone()),
        identity(clients.certificate_der.clone(), "nonsense"),
        identity(clients.certificate_der.clone(), [0x30, 1]),
        identity("nonsense", clients.key_der.clone()),
        identity([0x30, 1], clients.key_der.clone()),
    ] {
        let error = with_identity(Some(identity)).unwrap_err();
        assert!(matches!(&error, Error::BadOption { option: "client key", .. }), "{error}");
        assert!(!all_text(&error).contains("PRIVATE KEY"), "{error}");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_client_certificate_is_shown_to_nobody_else() {
    let clients = ClientAuthority::new();
    let (registry, other) = (for_clients(&clients), for_clients(&clients));
    let target = format!("{}/v2/{REPOSITORY}/blobs/{}", other.base_url(), layer().digest);
    registry.add_rule(Rule::on("/blobs/").fault(Fault::redirect(target)));
    let mut first = endpoint(&registry, Role::Registry);
    first.identity = Some(identity(clients.certificate_der.clone(), clients.key_der.clone()));
    first.extra_roots.push(other.ca_der().unwrap().to_vec());
    let error = fetch_layer(&over(vec![first.clone()])).unwrap_err();
    assert!(error.to_string().contains(&other.address()), "{error}");
    assert!(!registry.requests().is_empty() && other.requests().is_empty());
    // It would have been good there.
    first.host = other.address();
    assert_eq!(fetch_layer(&over(vec![first])).unwrap(), LAYER);
}

#[test]
fn authorities_that_cannot_be_used_are_a_mirrors_own_affair() {
    let (mirror, registry) = (registry(true, Auth::Open), registry(true, Auth::Open));
    let good = endpoint(&registry, Role::Registry);
    let with_roots = |endpoint: &Endpoint, roots| {
        let mut endpoint = endpoint.clone();
        endpoint.extra_roots = roots;
        endpoint
    };
    let several = with_roots(&good, vec![der(&mirror), der(&registry)]);
    assert_eq!(fetch_layer(&over(vec![several])).unwrap(), LAYER);
    for root in [&b""[..], b"nonsense", mirror.ca_pem().unwrap().as_bytes(), &[0x30, 1]] {
        let bad = |endpoint: &Endpoint| with_roots(endpoint, vec![root.to_vec()]);
        let error = fetch_layer(&over(vec![bad(&good)])).unwrap_err();
        assert!(matches!(error, Error::BadOption { option: "extra_roots", .. }), "{error}");
        let client = over(vec![bad(&endpoint(&mirror, Role::Mirror)), good.clone()]);
        assert_eq!(fetch_layer(&client).unwrap(), LAYER);
    }
    assert!(mirror.requests().is_empty());
}

fn der(registry: &registry::Registry) -> Vec<u8> {
    registry.ca_der().unwrap().to_vec()
}

fn through(registry: &registry::Registry, proxies: impl Proxies + 'static) -> Endpoint {
    let mut endpoint = endpoint(registry, Role::Registry);
    endpoint.proxies = Some(Arc::new(proxies));
    endpoint
}

/// The way through a proxy for `USER:PASSWORD@`, or for nobody.
fn proxy_url(proxy: &HttpProxy, user: &str) -> Proxy {
    proxy_at(&proxy.url(), user.trim_end_matches('@').split_once(':'))
}

#[test]
fn https_goes_through_a_tunnel_and_http_in_absolute_form() {
    let login = || Some(("user".to_owned(), "s3cret".to_owned()));
    for proxy_tls in [false, true] {
        let proxy = HttpProxy::start(ProxyOptions { login: login(), tls: proxy_tls, ..ProxyOptions::default() });
        let secure = registry(true, Auth::bearer());
        let mut endpoint = through(&secure, proxy_url(&proxy, "user:s3cret@"));
        endpoint.extra_roots.extend(proxy.ca_der().map(<[u8]>::to_vec));
        assert_eq!(fetch_layer(&over(vec![endpoint])).unwrap(), LAYER);
        assert_eq!(proxy.requests(), [format!("CONNECT {} HTTP/1.1", secure.address())]);

        let plain = registry(false, Auth::bearer());
        let mut endpoint = through(&plain, proxy_url(&proxy, "user:s3cret@"));
        endpoint.extra_roots.extend(proxy.ca_der().map(<[u8]>::to_vec));
        let client = over(vec![endpoint]);
        assert_eq!(fetch_layer(&client).unwrap(), LAYER);
        let heads = proxy.heads();
        let blob = format!("GET {}/v2/{REPOSITORY}/blobs/{} HTTP/1.1", plain.base_url(), layer().digest);
        let token = format!("GET {}/token?service=testkit&scope=repository:team/app:pull HTTP/1.1", plain.base_url());
        // TLS is tried first, through a tunnel.
        let lines: Vec<_> = heads[2..].iter().map(|head| head[0].clone()).collect();
        assert_eq!(lines, [blob.clone(), token, blob]);
        // What is the proxy's stays there.
        for registry in [&secure, &plain] {
            assert!(header_of_all(registry, "proxy-authorization").iter().all(|header| header == "-"));
        }
        assert!(heads.iter().all(|head| head.iter().filter(|line| line.starts_with("Proxy-Auth")).count() == 1));
    }
}

#[test]
fn a_push_goes_through_a_proxy() {
    let proxy = HttpProxy::start(ProxyOptions::default());
    let plain = registry(false, Auth::Open);
    let client = over(vec![through(&plain, proxy_url(&proxy, ""))]);
    let bytes = vec![7; 300 << 10];
    let blob = Descriptor::new("x", BlobDigest::of(&bytes), bytes.len() as u64);
    let started = client.begin_upload(REPOSITORY, &blob, None).unwrap();
    let stos_registry::UploadStart::Started(upload) = started else { panic!("{started:?}") };
    upload.send(&mut bytes.as_slice(), &stos_registry::UploadOptions::default()).unwrap();
    assert!(client.has_blob(REPOSITORY, &blob).unwrap());
    assert_eq!(plain.blob(&blob.digest.to_string()).unwrap(), bytes);
}

#[test]
fn a_proxy_that_does_not_lead_there_is_told() {
    let registry = registry(true, Auth::Open);
    let picky = HttpProxy::start(ProxyOptions { login: Some(("u".into(), "p".into())), ..ProxyOptions::default() });
    let error = fetch_layer(&over(vec![through(&registry, proxy_url(&picky, "u:wr0ng@"))])).unwrap_err();
    assert!(matches!(&error, Error::Proxy { proxy, host, .. } if *proxy == picky.url() && *host == registry.address()));
    assert!(error.to_string().contains("(407)") && !all_text(&error).contains("wr0ng"), "{error}");
    // In absolute form the refusal is an answer.
    let plain = self::registry(false, Auth::Open);
    let error = fetch_layer(&over(vec![through(&plain, proxy_url(&picky, ""))])).unwrap_err();
    assert!(matches!(&error, Error::Proxy { proxy, .. } if *proxy == picky.url()), "{error}");
    // One that is not there is named beside the registry.
    let error = fetch_layer(&over(vec![through(&registry, proxy_at("http://127.0.0.1:1", None))])).unwrap_err();
    let expected = format!("cannot reach {} through the proxy http://127.0.0.1:1: ", registry.address());
    assert!(matches!(error, Error::Unreachable { .. }) && error.to_string().starts_with(&expected), "{error}");
    assert!(registry.requests().is_empty() && plain.requests().is_empty());
    // What is no proxy is none.
    let error = fetch_layer(&over(vec![through(&registry, proxy_at(&plain.base_url(), None))])).unwrap_err();
    assert!(matches!(error, Error::Proxy { .. }), "{error}");
}

#[test]
fn plain_http_needs_no_tunnel() {
    let proxy = HttpProxy::start(ProxyOptions { refuses_tunnels: true, ..ProxyOptions::default() });
    let plain = registry(false, Auth::Open);
    assert_eq!(fetch_layer(&over(vec![through(&plain, proxy_url(&proxy, ""))])).unwrap(), LAYER);
    let secure = registry(true, Auth::Open);
    let error = fetch_layer(&over(vec![through(&secure, proxy_url(&proxy, ""))])).unwrap_err();
    assert!(matches!(&error, Error::Proxy { reason, .. } if reason.contains("403")), "{error}");
}

#[test]
fn a_proxy_over_tls_is_verified_whatever_the_registry_is() {
    let proxy = HttpProxy::start(ProxyOptions { tls: true, ..ProxyOptions::default() });
    let (registry, other) = (registry(false, Auth::Open), registry(true, Auth::Open));
    let endpoint = with_root(through(&registry, proxy_url(&proxy, "u:s3cret@")), &other);
    let error = fetch_layer(&over(vec![endpoint])).unwrap_err();
    assert!(matches!(error, Error::Tls { .. }) && error.to_string().contains("through the proxy"), "{error}");
    assert!(proxy.requests().is_empty() && registry.requests().is_empty());
}

/// A proxy for everything but one host and port.
struct Except(Proxy, String);

impl Proxies for Except {
    fn proxy(&self, destination: Destination<'_>) -> Result<Option<Proxy>, ProxyFailure> {
        assert!(destination.is_https);
        Ok((format!("{}:{}", destination.host, destination.port) != self.1).then(|| self.0.clone()))
    }
}

#[test]
fn each_destination_has_a_way_of_its_own() {
    let proxy = HttpProxy::start(ProxyOptions::default());
    let (registry, other) = (registry(true, Auth::Open), registry(true, Auth::Open));
    let target = format!("{}/v2/{REPOSITORY}/blobs/{}", other.base_url(), layer().digest);
    registry.add_rule(Rule::on("/blobs/").fault(Fault::redirect(target)));
    let endpoint = with_root(through(&registry, Except(proxy_url(&proxy, ""), registry.address())), &other);
    assert_eq!(fetch_layer(&over(vec![endpoint])).unwrap(), LAYER);
    assert_eq!(proxy.requests(), [format!("CONNECT {} HTTP/1.1", other.address())]);
}

/// Says that nothing can be reached.
struct Broken;

impl Proxies for Broken {
    fn proxy(&self, _: Destination<'_>) -> Result<Option<Proxy>, ProxyFailure> {
        Err("HTTPS_PROXY is no proxy".into())
    }
}

#[test]
fn a_way_that_cannot_be_told_is_not_replaced_by_another() {
    for tls in [true, false] {
        let registry = registry(tls, Auth::Open);
        let error = fetch_layer(&over(vec![through(&registry, Broken)])).unwrap_err();
        assert!(matches!(error, Error::NoProxy { .. }) && error.to_string().contains("HTTPS_PROXY"), "{error}");
        assert!(registry.requests().is_empty());
    }
}

#[test]
fn a_tag_may_have_another_name_there() {
    let registry = plain();
    let mut endpoint = endpoint(&registry, Role::Registry);
    endpoint.tag = Some("one".to_owned());
    let client = over(vec![endpoint.clone()]);
    client.fetch_manifest(REPOSITORY, "1", None).unwrap_err();
    let digest = layer().digest.to_string();
    client.fetch_manifest(REPOSITORY, &digest, None).unwrap_err();
    let path = |target: &str| format!("/v2/{REPOSITORY}/manifests/{target}");
    let expected = [format!("GET {}", path("one")), format!("GET {}", path(&digest))];
    assert_eq!(registry.take_requests(), expected);
    endpoint.tag = Some("../x".to_owned());
    let error = over(vec![endpoint]).fetch_manifest(REPOSITORY, "1", None).unwrap_err();
    assert!(matches!(error, Error::BadName { .. }), "{error}");
}

#[test]
fn what_is_attached_to_a_manifest_is_asked_of_who_gave_that() {
    const SIGNATURES: &str = "sha256-0.sig";
    for serves in [Serves::All, Serves::DigestOnly] {
        let (mirror, registry) = (mirror(true, Auth::Open), registry(true, Auth::Open));
        let mut first = mirror_endpoint(&mirror);
        (first.serves, first.tag) = (serves, Some("one".to_owned()));
        let client = over(vec![first, endpoint(&registry, Role::Registry)]);
        client.fetch_manifest(REPOSITORY, &digest(), None).unwrap();
        let path = |repository: &str| format!("GET /v2/{repository}/manifests/{SIGNATURES}");
        // Nobody has any; the registry's word counts, and who gave the manifest stays who is asked for the rest.
        mirror.take_requests();
        registry.take_requests();
        let error = client.fetch_attached(REPOSITORY, SIGNATURES).unwrap_err();
        let Error::AllEndpoints { last, .. } = &error else { panic!("{error}") };
        assert!(matches!(**last, Error::NotFound { .. }), "{error}");
        assert_eq!((mirror.take_requests(), registry.take_requests()), (vec![path(THERE)], vec![path(REPOSITORY)]));
        registry.put_manifest(REPOSITORY, Some(SIGNATURES), OCI_MANIFEST, b"{}");
        assert_eq!(client.fetch_attached(REPOSITORY, SIGNATURES).unwrap().bytes.get(), b"{}");
        mirror.put_manifest(THERE, Some(SIGNATURES), OCI_MANIFEST, b"[]");
        assert_eq!(client.fetch_attached(REPOSITORY, SIGNATURES).unwrap().bytes.get(), b"[]");
        let error = client.fetch_attached(REPOSITORY, "../x").unwrap_err();
        assert!(matches!(error, Error::BadName { .. }), "{error}");
    }
}
