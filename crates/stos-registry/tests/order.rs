// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose failures are waited out where there are mirrors, and where a blob goes on when its mirror is given up.

mod common;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use stos_registry::{ClientOptions, Credential, Endpoint, Error, PassedOver, Registry, Role};
use stos_testkit::registry::{self, Auth, Fault, Rule};

const SIZE: u64 = LAYER.len() as u64;

fn plain_mirror() -> registry::Registry {
    mirror(false, Auth::Open)
}

fn both(mirror: &registry::Registry, registry: &registry::Registry, options: &ClientOptions) -> Registry {
    Registry::over(vec![mirror_endpoint(mirror), endpoint(registry, Role::Registry)], options).unwrap()
}

/// Options with which a wait would be for ever: what ends well has not waited.
fn no_waits() -> ClientOptions {
    set(patient(), |options| options.retry.first_wait = Duration::from_secs(3600))
}

fn fail(registry: &registry::Registry, part: &str, times: u32, status: u16) {
    registry.add_rule(Rule::on(part).times(times).fault(Fault::status(status)));
}

#[test]
fn a_mirror_that_fails_in_passing_is_passed_over_at_once() {
    for fault in [Fault::status(503), Fault::status(429), Fault::Raw(Vec::new()), Fault::Truncate(0)] {
        let (mirror, registry) = (plain_mirror(), plain());
        mirror.add_rule(Rule::on("/v2/").fault(fault.clone()));
        let client = both(&mirror, &registry, &no_waits());
        client.fetch_manifest(REPOSITORY, "1", None).unwrap();
        assert_eq!((mirror.requests().len(), registry.requests().len()), (1, 1), "{fault:?}");
    }
    let registry = plain();
    let mut gone = Endpoint::new("127.0.0.1:1", Role::Mirror);
    gone.tls_verify = false;
    let client = Registry::over(vec![gone, endpoint(&registry, Role::Registry)], &no_waits()).unwrap();
    client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    assert_eq!(fetch_layer(&client).unwrap(), LAYER);
}

#[test]
fn the_registrys_failures_are_waited_out() {
    let (mirror, registry) = (plain_mirror(), plain());
    fail(&mirror, "/manifests/", 99, 503);
    fail(&registry, "/manifests/", 4, 503);
    both(&mirror, &registry, &patient()).fetch_manifest(REPOSITORY, "1", None).unwrap();
    assert_eq!((mirror.requests().len(), registry.requests().len()), (1, 5));
    // At last it is given up, and both are told.
    fail(&registry, "/manifests/", 99, 502);
    let error = both(&mirror, &registry, &patient()).fetch_manifest(REPOSITORY, "1", None).unwrap_err();
    let Error::AllEndpoints { last, passed } = &error else { panic!("{error}") };
    assert!(matches!(&**last, Error::GaveUp { tries: 5, .. }), "{error}");
    assert_eq!((passed[0].role, passed[0].reason.as_str()), (Role::Mirror, "the server failed with status 503"));
    assert!(error.is_transient());
}

#[test]
fn a_registry_that_gave_the_manifest_is_waited_for_before_a_mirror_is_asked() {
    let (mirror, registry) = (plain_mirror(), plain());
    fail(&mirror, "/v2/", 99, 404);
    let client = both(&mirror, &registry, &patient());
    client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    mirror.take_requests();
    fail(&registry, "/blobs/", 4, 503);
    assert_eq!(fetch_layer(&client).unwrap(), LAYER);
    assert!(mirror.requests().is_empty());
    // The mirror, which is asked last, is asked once; the error is still the registry's.
    fail(&registry, "/blobs/", 99, 503);
    let error = client.fetch_blob_bytes(REPOSITORY, &layer(), 1000).unwrap_err();
    let Error::AllEndpoints { last, passed } = &error else { panic!("{error}") };
    assert!(matches!(&**last, Error::GaveUp { tries: 5, .. }), "{error}");
    let host = mirror.address();
    assert_eq!(*passed, [PassedOver { role: Role::Mirror, host, reason: "not found".into() }]);
    assert_eq!(mirror.requests().len(), 1);
}

#[test]
fn of_mirrors_alone_the_last_one_is_waited_for() {
    let (first, second) = (plain_mirror(), plain_mirror());
    fail(&first, "/v2/", 99, 503);
    fail(&second, "/manifests/", 4, 503);
    let endpoints = vec![mirror_endpoint(&first), mirror_endpoint(&second)];
    Registry::over(endpoints, &patient()).unwrap().fetch_manifest(REPOSITORY, "1", None).unwrap();
    assert_eq!((first.requests().len(), second.requests().len()), (1, 5));
}

/// Gives a mirror that breaks a blob after ten bytes, and then does `rest`.
fn breaking(rest: &[Fault]) -> registry::Registry {
    let mirror = plain_mirror();
    mirror.add_rule(Rule::on("/blobs/").times(1).fault(Fault::Truncate(10)));
    mirror.add_rule(rest.iter().fold(Rule::on("/blobs/").after(1), |rule, fault| rule.fault(fault.clone())));
    mirror
}

#[test]
fn a_blob_goes_on_where_it_began() {
    let mirror = plain_mirror();
    mirror.add_rule(Rule::on("/blobs/").fault(Fault::Truncate(10)));
    let registry = plain();
    let client = both(&mirror, &registry, &no_waits());
    let mut reader = client.open_blob(REPOSITORY, &layer()).unwrap();
    assert_eq!((drain(&mut reader).0, reader.resumes()), (LAYER.to_vec(), 4));
    assert!(mirror.requests().iter().all(|request| request.target.contains(THERE)));
    assert!(registry.requests().is_empty());
}

#[test]
fn a_blob_of_a_mirror_that_is_given_up_goes_on_elsewhere() {
    let wrong_part = Fault::Header("content-range", Some("bytes 0-43/44".into()));
    let changed = Fault::Header("etag", Some("\"other\"".into()));
    for rest in [Fault::status(503), Fault::status(404), Fault::Raw(Vec::new()), wrong_part, changed] {
        let (mirror, registry) = (breaking(std::slice::from_ref(&rest)), plain());
        let mut reader = both(&mirror, &registry, &no_waits()).open_blob(REPOSITORY, &layer()).unwrap();
        let (bytes, error) = drain(&mut reader);
        assert!(error.is_none() && bytes == LAYER, "{rest:?}: {error:?}");
        assert_eq!((reader.received(), reader.wire_bytes()), (SIZE, SIZE), "{rest:?}");
        assert_eq!(mirror.requests().len(), 2, "{rest:?}");
        // By the name that it has there, and without what the mirror called its bytes.
        let asked = ["range", "if-range"].map(|name| header_of_all(&registry, name).concat());
        assert_eq!(asked, ["bytes=10-", "-"], "{rest:?}");
        let blob = format!("GET /v2/{REPOSITORY}/blobs/{}", layer().digest);
        assert_eq!(registry.take_requests(), [blob.as_str()], "{rest:?}");
    }
}

#[test]
fn who_goes_on_may_know_no_parts_and_may_break_too() {
    let (mirror, registry) = (breaking(&[Fault::status(503)]), plain());
    registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::IgnoreRange).fault(Fault::Truncate(20)));
    let mut reader = both(&mirror, &registry, &no_waits()).open_blob(REPOSITORY, &layer()).unwrap();
    assert_eq!(drain(&mut reader).0, LAYER);
    assert_eq!((reader.resumes(), reader.wire_bytes()), (2, SIZE + 10));
    // What the second server calls its bytes counts from there on.
    let etag = format!("\"{}\"", layer().digest);
    assert_eq!(registry.requests()[1].header("if-range"), Some(etag.as_str()));
    // Its failures are waited out; when it is given up as well both are told.
    let (mirror, registry) = (breaking(&[Fault::status(503)]), plain());
    fail(&registry, "/blobs/", 99, 502);
    let (bytes, error) = drain(&mut both(&mirror, &registry, &patient()).open_blob(REPOSITORY, &layer()).unwrap());
    let Some(Error::AllEndpoints { last, passed }) = &error else { panic!("{error:?}") };
    assert!(matches!(&**last, Error::GaveUp { tries: 5, .. }) && passed[0].role == Role::Mirror, "{error:?}");
    assert_eq!((bytes.as_slice(), registry.requests().len()), (&LAYER[..10], 5));
}

#[test]
fn who_goes_on_gets_its_own_credential_and_the_mirror_does_not() {
    let mirror = breaking(&[Fault::status(401)]);
    let registry = registry(false, Auth::Basic("user".into(), "password".into()));
    let source = Counted::new(Credential::password("user", "password"));
    let endpoints = vec![mirror_endpoint(&mirror), with(endpoint(&registry, Role::Registry), source.clone())];
    let client = Registry::over(endpoints, &no_waits()).unwrap();
    assert_eq!(fetch_layer(&client).unwrap(), LAYER);
    assert_eq!((header_of_all(&mirror, "authorization"), source.count()), (vec!["-".to_owned(); 2], 1));
    // The request that answers the challenge asks for the same part.
    assert_eq!(header_of_all(&registry, "range"), ["bytes=10-", "bytes=10-"]);
}

#[test]
fn who_cancels_does_not_go_on_elsewhere() {
    let (mirror, registry) = (plain_mirror(), plain());
    mirror.add_rule(Rule::on("/blobs/").fault(Fault::Stall(10)));
    let client = Arc::new(both(&mirror, &registry, &patient()));
    let mut reader = client.open_blob(REPOSITORY, &layer()).unwrap();
    reader.read_exact(&mut [0; 10]).unwrap();
    let work = std::thread::spawn(move || drain(&mut reader));
    client.cancel();
    let (bytes, error) = work.join().unwrap();
    assert!(bytes.is_empty() && matches!(error, Some(Error::Cancelled { .. })), "{error:?}");
    // A client that has been told to stop asks nobody.
    mirror.take_requests();
    for error in [
        client.fetch_manifest(REPOSITORY, "1", None).unwrap_err(),
        client.fetch_blob_bytes(REPOSITORY, &layer(), 1000).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    }
    assert!(mirror.requests().is_empty() && registry.requests().is_empty());
}
