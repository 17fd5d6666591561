// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is tried again, how often, and what is not.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use stos_registry::{ClientOptions, Error, Registry};
use stos_spec::media_type::OCI_MANIFEST;
use stos_spec::{BlobDigest, Descriptor};
use stos_testkit::proxy::{self, Proxy};
use stos_testkit::registry::{self, Auth, Fault, Rule};

/// Asks for everything that a pull asks for.
fn pull(client: &Registry) -> Result<(), Error> {
    let digest = client.fetch_manifest(REPOSITORY, "1", None)?.bytes.digest();
    let descriptor = Descriptor::new(OCI_MANIFEST, digest, manifest("1").len() as u64);
    let fetched = client.fetch_manifest(REPOSITORY, &digest.to_string(), Some(&descriptor))?;
    assert_eq!(fetched.bytes.get(), manifest("1").as_bytes());
    assert_eq!(client.fetch_config(REPOSITORY, &layer(), 1000)?.get(), LAYER);
    assert_eq!(fetch_layer(client)?, LAYER);
    Ok(())
}

fn patient_client(registry: &registry::Registry) -> Registry {
    client_at(&registry.address(), &patient())
}

fn fail_often(registry: &registry::Registry, times: u32, faults: &[Fault]) {
    for part in ["/manifests/", "/blobs/"] {
        let rule = Rule::on(part).times(times);
        registry.add_rule(faults.iter().fold(rule, |rule, fault| rule.fault(fault.clone())));
    }
}

#[test]
fn what_passes_is_tried_until_it_has_passed() {
    for status in [408, 429, 500, 502, 503, 504] {
        let registry = plain();
        fail_often(&registry, 4, &[Fault::status(status)]);
        pull(&patient_client(&registry)).unwrap_or_else(|error| panic!("{status}: {error}"));
        // Four tries that fail, and one that does not, for the first manifest and the first blob; then one for each of the second.
        assert_eq!(registry.requests().len(), 12, "{status}");
    }
}

#[test]
fn broken_answers_are_asked_for_again() {
    for faults in
        [&[Fault::Raw(Vec::new())][..], &[Fault::Reset(0)], &[Fault::Truncate(5)], &[Fault::Reset(5), Fault::Chunked]]
    {
        let registry = plain();
        fail_often(&registry, 3, faults);
        let client = patient_client(&registry);
        pull(&client).unwrap_or_else(|error| panic!("{faults:?}: {error}"));
        assert_eq!(client.fetch_manifest(REPOSITORY, "1", None).unwrap().bytes.get(), manifest("1").as_bytes());
    }
}

#[test]
fn what_does_not_pass_is_given_up_after_its_tries() {
    let registry = plain();
    registry.add_rule(Rule::on("/v2/").fault(Fault::status(503)));
    let client = patient_client(&registry);
    let errors = [
        client.fetch_manifest(REPOSITORY, "1", None).unwrap_err(),
        client.fetch_config(REPOSITORY, &layer(), 1000).unwrap_err(),
        fetch_layer(&client).unwrap_err(),
    ];
    for error in &errors {
        assert!(
            matches!(error, Error::GaveUp { tries: 5, last, .. } if matches!(**last, Error::Server { status: 503, .. }))
        );
        let said = error.to_string();
        assert!(said.contains("status 503") && said.contains("5 tries in a row"), "{said}");
        assert!(said.contains("/v2/team/app/"), "{said}");
    }
    assert_eq!(registry.requests().len(), 15);
}

#[test]
fn a_registry_that_is_not_there_is_tried_again() {
    // A port that is closed, and that nobody is given meanwhile.
    let address = "127.0.0.1:1";
    let error = fetch_layer(&client_at(address, &patient())).unwrap_err();
    assert!(matches!(&error, Error::GaveUp { last, .. } if matches!(**last, Error::Unreachable { .. })), "{error}");
    assert!(error.to_string().contains(address), "{error}");
}

#[test]
fn refusals_and_lies_are_not_tried_again() {
    let registry = plain();
    let client = patient_client(&registry);
    let content_digest = |text: String| Fault::Header("docker-content-digest", Some(text));
    for (faults, requests) in [
        (vec![Fault::status(400)], 1),
        (vec![Fault::status(401)], 1),
        (vec![Fault::status(403)], 1),
        (vec![Fault::status(404)], 1),
        (vec![Fault::status(501)], 1),
        (vec![Fault::Corrupt], 1),
        (vec![Fault::Extra(1)], 1),
        (vec![Fault::Extra(1), Fault::Chunked], 1),
        (vec![content_digest(BlobDigest::of(b"other").to_string())], 1),
        (vec![Fault::Raw(b"SSH-2.0-x\r\n\r\n".to_vec())], 1),
    ] {
        registry.clear_rules();
        let rule = Rule::on("/manifests/").method("GET");
        registry.add_rule(faults.iter().fold(rule, |rule, fault| rule.fault(fault.clone())));
        registry.take_requests();
        let digest = BlobDigest::of(manifest("1").as_bytes());
        let descriptor = Descriptor::new(OCI_MANIFEST, digest, manifest("1").len() as u64);
        let error = client.fetch_manifest(REPOSITORY, &digest.to_string(), Some(&descriptor)).unwrap_err();
        assert!(!error.is_transient(), "{faults:?}: {error}");
        assert_eq!(registry.take_requests().len(), requests, "{faults:?}: {error}");
    }
}

#[test]
fn a_certificate_that_is_not_trusted_is_not_tried_again() {
    let registry = registry(true, Auth::Open);
    let proxy = Proxy::start(registry.address(), proxy::Options::default());
    let options = set(strict(), |options| options.retry = patient().retry);
    let error = fetch_layer(&client_at(&proxy.address(), &options)).unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn retry_after_is_waited_for() {
    let registry = plain();
    let wait = |value: &str| Fault::Header("retry-after", Some(value.into()));
    registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::status(429)).fault(wait("1")));
    let started = Instant::now();
    assert_eq!(fetch_layer(&patient_client(&registry)).unwrap(), LAYER);
    assert!(started.elapsed() >= Duration::from_secs(1), "it came back too early");
    // A date that has passed, and seconds that are none, ask for no wait.
    for value in ["Wed, 21 Oct 2015 07:28:00 GMT", "0", "soon"] {
        registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::status(503)).fault(wait(value)));
        assert_eq!(fetch_layer(&patient_client(&registry)).unwrap(), LAYER, "{value}");
    }
}

#[test]
fn a_wait_that_is_too_long_is_refused_at_once() {
    let registry = plain();
    for (value, seconds) in [("61", 61), ("86400", 86_400), ("18446744073709551615", u64::MAX)] {
        registry.clear_rules();
        let wait = Fault::Header("retry-after", Some(value.into()));
        registry.add_rule(Rule::on("/blobs/").fault(Fault::status(429)).fault(wait));
        registry.take_requests();
        let error = fetch_layer(&patient_client(&registry)).unwrap_err();
        let is_right = matches!(&error, Error::WaitTooLong { asked, limit, last }
            if asked.as_secs() == seconds && limit.as_secs() == 60 && matches!(**last, Error::TooManyRequests { .. }));
        assert!(is_right && error.hint().is_some(), "{error}");
        assert_eq!(registry.take_requests().len(), 1);
    }
}

#[test]
fn a_token_server_that_is_busy_is_asked_again() {
    let registry = registry(false, Auth::bearer());
    registry.add_rule(Rule::on("/token").times(2).fault(Fault::status(503)));
    assert_eq!(fetch_layer(&patient_client(&registry)).unwrap(), LAYER);
}

#[test]
fn a_slow_start_is_no_failure() {
    let registry = plain();
    registry.add_rule(Rule::on("/blobs/").fault(Fault::Late(Duration::from_millis(300))));
    assert_eq!(fetch_layer(&client_at(&registry.address(), &insecure())).unwrap(), LAYER);
    // Beyond the limit it is silence, which may pass.
    registry.clear_rules();
    registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::Late(Duration::from_secs(60))));
    let options = set(patient(), |options| options.timeouts.response = Duration::from_secs(2));
    assert_eq!(fetch_layer(&client_at(&registry.address(), &options)).unwrap(), LAYER);
}

#[test]
fn who_cancels_ends_waits_and_bodies() {
    let registry = plain();
    let far = set(patient(), |options| options.retry.first_wait = Duration::from_secs(600));
    let begin = |options: &ClientOptions, fault: Fault| {
        registry.clear_rules();
        registry.add_rule(Rule::on("/blobs/").fault(fault));
        registry.take_requests();
        let client = Arc::new(client_at(&registry.address(), options));
        let work = std::thread::spawn({
            let client = Arc::clone(&client);
            move || fetch_layer(&client)
        });
        while registry.requests().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        client.cancel();
        work.join().unwrap().unwrap_err()
    };
    // Between two tries, and within a body that would stand still for a minute.
    for fault in [Fault::status(503), Fault::Stall(10)] {
        let error = begin(&far, fault.clone());
        assert!(matches!(error, Error::Cancelled { .. }), "{fault:?}: {error}");
    }
}
