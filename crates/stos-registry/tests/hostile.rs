// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a registry that breaks its promises leads to: one error kind each, bounded in bytes and in time.

mod common;

use std::io::Read;
use std::time::{Duration, Instant};

use common::*;
use stos_registry::{ClientOptions, Error};
use stos_spec::manifest::MANIFEST_MAX;
use stos_spec::media_type::OCI_MANIFEST;
use stos_spec::{BlobDigest, Descriptor};
use stos_testkit::registry::{Fault, Rule};

/// Lets a registry do `faults` to blobs, and gives the error that follows.
#[track_caller]
fn layer_error(faults: &[Fault]) -> Error {
    layer_error_with(faults, &insecure())
}

#[track_caller]
fn layer_error_with(faults: &[Fault], options: &ClientOptions) -> Error {
    let registry = plain();
    let rule = faults.iter().fold(Rule::on("/blobs/"), |rule, fault| rule.fault(fault.clone()));
    registry.add_rule(rule);
    let started = Instant::now();
    let error = fetch_layer(&client_at(&registry.address(), options)).expect_err("a hostile registry");
    // Less than by the limits that there are anyway.
    assert!(started.elapsed() < Duration::from_secs(25), "{error} took {:?}", started.elapsed());
    assert!(error.to_string().contains(&layer().digest.to_string()), "{error} names what was asked for");
    error
}

#[track_caller]
fn manifest_error(faults: &[Fault], target: &str, expected: Option<&Descriptor>) -> Error {
    let registry = plain();
    let rule = faults.iter().fold(Rule::on("/manifests/"), |rule, fault| rule.fault(fault.clone()));
    registry.add_rule(rule);
    client(&registry).fetch_manifest(REPOSITORY, target, expected).expect_err("a hostile registry")
}

const SIZE: u64 = LAYER.len() as u64;

#[test]
fn more_bytes_than_promised_are_refused() {
    // Announced: before a byte is read.
    for fault in [Fault::Extra(1), Fault::ContentLength(SIZE + 1), Fault::ContentLength(u64::MAX)] {
        let error = layer_error(&[fault]);
        assert!(matches!(error, Error::SizeMismatch { expected: SIZE, found, .. } if found > SIZE), "{error}");
    }
    // Not announced: with the first byte too many.
    for framing in [Fault::Chunked, Fault::UntilClose] {
        let error = layer_error(&[Fault::Extra(1), framing]);
        assert!(matches!(error, Error::TooLong { expected: SIZE, .. }), "{error}");
    }
    let error = layer_error(&[Fault::Endless]);
    assert!(matches!(error, Error::TooLong { expected: SIZE, .. }), "{error}");
}

#[test]
fn no_byte_beyond_the_promise_is_given() {
    let registry = plain();
    registry.add_rule(Rule::on("/blobs/").fault(Fault::Endless));
    let mut reader = client(&registry).open_blob(REPOSITORY, &layer()).unwrap();
    let (bytes, error) = drain(&mut reader);
    assert_eq!(bytes, LAYER);
    assert!(matches!(error, Some(Error::TooLong { .. })));
    // The failure stays: no end, no bytes.
    for _ in 0..2 {
        let again = reader.read(&mut [0; 100]).unwrap_err();
        assert!(Error::from_io(&again).is_some());
    }
}

#[test]
fn fewer_bytes_than_promised_are_refused() {
    let error = layer_error(&[Fault::ContentLength(SIZE - 1)]);
    assert!(matches!(error, Error::SizeMismatch { expected: SIZE, found, .. } if found == SIZE - 1), "{error}");
    for faults in [
        &[Fault::Truncate(10)][..],
        &[Fault::Truncate(10), Fault::Chunked],
        &[Fault::Truncate(10), Fault::UntilClose],
        &[Fault::Reset(10)],
        &[Fault::Reset(10), Fault::Chunked],
    ] {
        let error = layer_error(faults);
        let is_right = match &error {
            Error::Truncated { expected: Some(SIZE), found, .. } => *found <= 10,
            // What a reset leaves behind depends on what had been received before it.
            Error::Interrupted { found, .. } => *found <= 10,
            _ => false,
        };
        assert!(is_right && error.is_transient(), "{faults:?}: {error}");
    }
    let error = layer_error(&[Fault::Status(200, Vec::new(), b"short".to_vec()), Fault::Chunked]);
    assert!(matches!(error, Error::Truncated { expected: Some(SIZE), found: 5, .. }), "{error}");
}

#[test]
fn other_bytes_are_refused() {
    let registry = plain();
    registry.add_rule(Rule::on("/v2/").fault(Fault::Corrupt));
    let client = client(&registry);
    let error = client.fetch_blob_bytes(REPOSITORY, &layer(), 1000).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { expected, .. } if expected == layer().digest), "{error}");
    let digest = BlobDigest::of(manifest("1").as_bytes());
    // By tag it is the registry's own header that tells.
    for target in ["1", &digest.to_string()] {
        let error = client.fetch_manifest(REPOSITORY, target, None).unwrap_err();
        assert!(
            matches!(error, Error::DigestMismatch { expected, found, .. } if expected == digest && found != digest)
        );
    }
}

#[test]
fn a_body_that_stands_still_is_given_up() {
    for faults in [
        &[Fault::Stall(10)][..],
        &[Fault::Stall(0), Fault::Chunked],
        &[Fault::Trickle(1, Duration::from_millis(400)), Fault::Chunked],
    ] {
        let error = layer_error_with(faults, &quick_insecure());
        assert!(matches!(error, Error::Stalled { .. }) && error.is_transient(), "{faults:?}: {error}");
    }
    let registry = plain();
    registry.add_rule(Rule::on("/manifests/").fault(Fault::Stall(10)));
    let options = set(quick_insecure(), |options| options.timeouts.stall = Duration::from_secs(3));
    let client = client_at(&registry.address(), &options);
    let error = client.fetch_manifest(REPOSITORY, "1", None).unwrap_err();
    assert!(matches!(error, Error::Stalled { found: 10, recent: 0, .. }), "{error}");
}

#[test]
fn a_slow_body_that_moves_is_no_stall() {
    let fetch = |slowness: u32| {
        let registry = plain();
        // 44 pauses of 30 ms: longer than the limit in all, but no wait is.
        registry.add_rule(Rule::on("/blobs/").fault(Fault::Trickle(1, slowness * Duration::from_millis(30))));
        let options = set(quick_insecure(), |options| {
            (options.timeouts.stall, options.timeouts.stall_bytes) = (slowness * Duration::from_secs(1), 2);
        });
        fetch_layer(&client_at(&registry.address(), &options))
    };
    // A busy machine may itself stand still for the limit.
    assert_eq!(fetch(1).or_else(|_| fetch(5)).or_else(|_| fetch(20)).unwrap(), LAYER);
}

#[test]
fn a_document_has_a_time_in_all() {
    let registry = plain();
    registry.add_rule(Rule::on("/manifests/").fault(Fault::Trickle(1, Duration::from_millis(30))));
    let options = set(quick_insecure(), |options| {
        (options.timeouts.stall_bytes, options.timeouts.document) = (2, Duration::from_millis(200));
    });
    let error = client_at(&registry.address(), &options).fetch_manifest(REPOSITORY, "1", None).unwrap_err();
    let is_right = |found: u64| found < manifest("1").len() as u64;
    assert!(matches!(error, Error::Stalled { found, recent, .. } if found == recent && is_right(found)), "{error}");
}

#[test]
fn a_header_that_does_not_come_is_given_up() {
    let options = set(insecure(), |options| options.timeouts.response = Duration::from_secs(1));
    let error = layer_error_with(&[Fault::SlowHeader(Duration::from_millis(200))], &options);
    assert!(matches!(error, Error::Timeout { .. }) && error.is_transient(), "{error}");
}

#[test]
fn what_is_no_http_is_refused() {
    for raw in ["SSH-2.0-OpenSSH\r\n\r\n", "HTTP/9.9 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"] {
        let error = layer_error(&[Fault::Raw(raw.into())]);
        assert!(matches!(error, Error::Protocol { .. }), "{raw}: {error}");
    }
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 44\r\ncontent-length: 45\r\n\r\n";
    assert!(matches!(layer_error(&[Fault::Raw(twice.into())]), Error::Protocol { .. }));
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(200 << 10));
    assert!(matches!(layer_error(&[Fault::Raw(endless.into())]), Error::Protocol { .. }));
    let bad_chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    assert!(matches!(layer_error(&[Fault::Raw(bad_chunk.into())]), Error::Protocol { .. }));
}

#[test]
fn each_status_has_its_error() {
    let seconds = |text: &str| Fault::Header("retry-after", Some(text.into()));
    let error = layer_error(&[Fault::status(404)]);
    assert!(matches!(&error, Error::NotFound { message, .. } if message.as_str() == "status 404 (HOSTILE)"), "{error}");
    assert!(matches!(layer_error(&[Fault::status(401)]), Error::Unauthorized { .. }));
    assert!(matches!(layer_error(&[Fault::status(403)]), Error::Denied { .. }));
    let error = layer_error(&[Fault::status(429), seconds("7")]);
    assert!(matches!(error, Error::TooManyRequests { retry_after: Some(Duration { .. }), .. }), "{error}");
    assert!(error.to_string().contains("7 s") && error.is_transient(), "{error}");
    let error = layer_error(&[Fault::status(429), seconds("Wed, 21 Oct 2015 07:28:00 GMT")]);
    assert!(matches!(error, Error::TooManyRequests { retry_after: Some(Duration::ZERO), .. }), "{error}");
    for odd in ["-1", "soon", "Wed, 41 Oct 2026 07:28:00 GMT", ""] {
        let error = layer_error(&[Fault::status(429), seconds(odd)]);
        assert!(matches!(error, Error::TooManyRequests { retry_after: None, .. }), "{odd}");
    }
    let error = layer_error(&[Fault::status(503), seconds("1")]);
    assert!(matches!(error, Error::Server { status: 503, retry_after: Some(_), .. }) && error.is_transient());
    assert!(!layer_error(&[Fault::status(501)]).is_transient());
    assert!(layer_error(&[Fault::status(408)]).is_transient());
    // A part, or nothing, is not what was asked for.
    for status in [204, 206, 304, 400, 418] {
        let error = layer_error(&[Fault::status(status)]);
        assert!(matches!(error, Error::UnexpectedStatus { status: found, .. } if found == status), "{status}: {error}");
    }
}

#[test]
fn a_failure_that_passes_does_not_stick() {
    let registry = plain();
    registry.add_rule(Rule::on("/blobs/").times(2).fault(Fault::status(502)));
    let client = client(&registry);
    for _ in 0..2 {
        assert!(matches!(fetch_layer(&client), Err(Error::Server { status: 502, .. })));
    }
    assert_eq!(fetch_layer(&client).unwrap(), LAYER);
}

#[test]
fn an_error_body_is_bounded_and_harmless() {
    let shout = "\u{1b}[31m".to_owned() + &"no ".repeat(1000);
    let body = serde_json::json!({"errors": [{"code": "X", "message": shout}]}).to_string();
    let error = layer_error(&[Fault::Status(403, Vec::new(), body.into_bytes())]);
    assert!(!error.to_string().contains('\u{1b}') && error.to_string().len() < 1000, "{error}");
    for fault in [Fault::Endless, Fault::Stall(3), Fault::Truncate(3)] {
        let error = layer_error_with(&[Fault::status(403), fault], &quick_insecure());
        assert!(matches!(error, Error::Denied { .. }), "{error}");
    }
}

#[test]
fn manifests_are_bounded() {
    let error = manifest_error(&[Fault::Endless], "1", None);
    assert!(matches!(error, Error::TooLong { expected: MANIFEST_MAX, .. }), "{error}");
    let error = manifest_error(&[Fault::ContentLength(MANIFEST_MAX + 1)], "1", None);
    assert!(matches!(error, Error::TooLong { expected: MANIFEST_MAX, .. }), "{error}");
    let bytes = manifest("1");
    let digest = BlobDigest::of(bytes.as_bytes());
    let expected = Descriptor::new(OCI_MANIFEST, digest, bytes.len() as u64 - 1);
    let error = manifest_error(&[], &digest.to_string(), Some(&expected));
    assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
    let huge = Descriptor::new(OCI_MANIFEST, digest, MANIFEST_MAX + 1);
    let error = manifest_error(&[], &digest.to_string(), Some(&huge));
    assert!(matches!(error, Error::TooLong { .. }), "{error}");
    let error = manifest_error(&[Fault::Truncate(20)], "1", None);
    assert!(matches!(error, Error::Truncated { found: 20, .. }), "{error}");
    let error = manifest_error(&[], "no-such-tag", None);
    assert!(matches!(&error, Error::NotFound { message, .. } if message.as_str().contains("MANIFEST_UNKNOWN")));
}

#[test]
fn a_blob_beyond_the_callers_bound_is_not_asked_for() {
    let registry = plain();
    let error = client(&registry).fetch_blob_bytes(REPOSITORY, &layer(), SIZE - 1).unwrap_err();
    assert!(matches!(error, Error::TooLong { expected, .. } if expected == SIZE - 1), "{error}");
    assert!(registry.requests().is_empty());
}

#[test]
fn a_wrong_digest_header_is_refused() {
    let header = |text: &str| Fault::Header("docker-content-digest", Some(text.into()));
    let other = BlobDigest::of(b"other");
    let error = manifest_error(&[header(&other.to_string())], "1", None);
    assert!(matches!(error, Error::DigestMismatch { expected, .. } if expected == other), "{error}");
    let error = manifest_error(&[header("sha256:../../etc/passwd")], "1", None);
    assert!(matches!(error, Error::BadHeader { .. }), "{error}");
    let registry = plain();
    let digest = BlobDigest::of(manifest("1").as_bytes());
    // An algorithm that we do not know proves nothing either way.
    registry.add_rule(Rule::on("/manifests/").fault(header(&format!("sha512:{}", "0".repeat(128)))));
    let fetched = client(&registry).fetch_manifest(REPOSITORY, "1", None).unwrap();
    assert_eq!(fetched.bytes.digest(), digest);
}

#[test]
fn a_wrong_content_type_is_handed_on() {
    let registry = plain();
    registry.add_rule(Rule::on("/manifests/").fault(Fault::Header("content-type", Some("text/html".into()))));
    let fetched = client(&registry).fetch_manifest(REPOSITORY, "1", None).unwrap();
    assert_eq!(fetched.content_type.as_deref(), Some("text/html"));
}

#[test]
fn a_tag_that_moves_is_caught_by_its_digest() {
    let registry = plain();
    let second = registry.put_manifest(REPOSITORY, None, OCI_MANIFEST, manifest("2").as_bytes());
    let moves = Fault::MoveTag(REPOSITORY.into(), "1".into(), second.clone());
    registry.add_rule(Rule::on("/manifests/").times(1).fault(moves));
    let client = client(&registry);
    let resolved = client.fetch_manifest(REPOSITORY, "1", None).unwrap().bytes.digest();
    // By digest the image that was resolved still comes; by tag the other one does, and its bytes say so.
    let digest = resolved.to_string();
    assert_eq!(client.fetch_manifest(REPOSITORY, &digest, None).unwrap().bytes.digest(), resolved);
    assert_eq!(client.fetch_manifest(REPOSITORY, "1", None).unwrap().bytes.digest().to_string(), second);
    let expected = Descriptor::new(OCI_MANIFEST, resolved, manifest("1").len() as u64);
    let error = client.fetch_manifest(REPOSITORY, "1", Some(&expected)).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}
