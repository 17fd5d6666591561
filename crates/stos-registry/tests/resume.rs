// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A blob goes on where its connection broke; what lies about where it goes on is refused.

mod common;

use std::io::Read;
use std::time::Duration;

use common::*;
use stos_registry::{BlobReader, ClientOptions, Error};
use stos_spec::{BlobDigest, Descriptor, DigestHasher};
use stos_testkit::proxy::{self, Proxy};
use stos_testkit::registry::{Auth, Blob, Fault, Registry, Rule};

const SIZE: u64 = LAYER.len() as u64;

/// Opens the layer at a registry that is asked again.
fn open(registry: &Registry) -> BlobReader {
    open_with(registry, &patient())
}

fn open_with(registry: &Registry, options: &ClientOptions) -> BlobReader {
    client_at(&registry.address(), options).open_blob(REPOSITORY, &layer()).unwrap()
}

/// Breaks the first answer as `fault` says, and does `rest` to the second one.
fn broken_once(fault: Fault, rest: &[Fault]) -> Registry {
    let registry = plain();
    registry.add_rule(Rule::on("/blobs/").times(1).fault(fault));
    registry.add_rule(rest.iter().fold(Rule::on("/blobs/").after(1), |rule, fault| rule.fault(fault.clone())));
    registry
}

/// Gives the error that the rest of a broken blob ends with.
#[track_caller]
fn rest_error(rest: &[Fault]) -> Error {
    let registry = broken_once(Fault::Truncate(10), rest);
    let mut reader = open(&registry);
    let (bytes, error) = drain(&mut reader);
    let error = error.unwrap_or_else(|| panic!("{rest:?}: it ended well"));
    assert!(LAYER.starts_with(&bytes) && bytes.len() >= 10, "{rest:?}");
    assert!(Error::from_io(&reader.read(&mut [0; 9]).unwrap_err()).is_some(), "the failure stays");
    assert_eq!(registry.requests().len(), 2, "{rest:?}: {error} is final");
    error
}

fn ranges(registry: &Registry) -> Vec<Option<String>> {
    registry.requests().iter().map(|request| request.header("range").map(str::to_owned)).collect()
}

#[test]
fn a_broken_blob_goes_on_with_the_next_byte() {
    for faults in [
        &[Fault::Truncate(10)][..],
        &[Fault::Truncate(10), Fault::Chunked],
        &[Fault::Truncate(10), Fault::UntilClose],
        &[Fault::Reset(10)],
    ] {
        let registry = plain();
        registry.add_rule(faults.iter().fold(Rule::on("/blobs/"), |rule, fault| rule.fault(fault.clone())));
        let mut reader = open(&registry);
        assert_eq!(drain(&mut reader).0, LAYER, "{faults:?}");
        // Of a reset it is open how much of the ten bytes was received before it.
        assert!(reader.resumes() >= 4, "{faults:?}");
        assert_eq!((reader.received(), reader.wire_bytes()), (SIZE, SIZE), "no byte came twice");
        if faults.len() == 1 && matches!(faults[0], Fault::Truncate(_)) {
            let expected = [None, Some(10), Some(20), Some(30), Some(40)];
            assert_eq!(ranges(&registry), expected.map(|at| at.map(|at| format!("bytes={at}-"))));
            let etag = format!("\"{}\"", layer().digest);
            let conditions: Vec<_> =
                registry.requests().iter().map(|request| request.header("if-range").map(str::to_owned)).collect();
            assert!(conditions[0].is_none() && conditions[1..].iter().all(|found| found.as_deref() == Some(&*etag)));
        }
    }
}

#[test]
fn progress_costs_no_tries_and_no_waits() {
    let registry = plain();
    // One byte a connection: 44 of them, with a wait between two that would take for ever.
    registry.add_rule(Rule::on("/blobs/").fault(Fault::Truncate(1)));
    let options = set(patient(), |options| {
        (options.retry.tries, options.retry.first_wait) = (2, Duration::from_secs(3600));
    });
    let mut reader = open_with(&registry, &options);
    assert_eq!(drain(&mut reader).0, LAYER);
    assert_eq!(u64::from(reader.resumes()), SIZE - 1);
}

#[test]
fn without_progress_the_tries_end() {
    for fault in [Fault::Truncate(0), Fault::status(503), Fault::Raw(Vec::new())] {
        let registry = broken_once(Fault::Truncate(10), std::slice::from_ref(&fault));
        let (bytes, error) = drain(&mut open(&registry));
        assert_eq!(bytes, &LAYER[..10], "{fault:?}");
        assert!(matches!(error, Some(Error::GaveUp { tries: 5, .. })), "{fault:?}: {error:?}");
        assert_eq!(registry.requests().len(), 6, "{fault:?}");
    }
}

#[test]
fn a_server_that_is_busy_in_between_is_waited_for() {
    let registry = plain();
    registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::Truncate(10)));
    registry.add_rule(Rule::on("/blobs/").after(1).times(2).fault(Fault::status(503)));
    let mut reader = open(&registry);
    assert_eq!(drain(&mut reader).0, LAYER);
    assert_eq!((reader.resumes(), registry.requests().len()), (1, 4));
}

#[test]
fn who_sends_nothing_a_second_time_does_not_resume() {
    let registry = broken_once(Fault::Truncate(10), &[]);
    let (bytes, error) = drain(&mut open_with(&registry, &insecure()));
    assert_eq!(bytes, &LAYER[..10]);
    assert!(matches!(error, Some(Error::Truncated { found: 10, .. })), "{error:?}");
}

#[test]
fn a_server_without_parts_sends_all_again() {
    let registry = broken_once(Fault::Truncate(10), &[Fault::IgnoreRange]);
    let mut reader = open(&registry);
    assert_eq!(drain(&mut reader).0, LAYER);
    assert_eq!((reader.resumes(), reader.received(), reader.wire_bytes()), (1, SIZE, SIZE + 10));
}

#[test]
fn what_comes_in_vain_is_bounded() {
    let registry = plain();
    registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::Truncate(30)));
    // Each connection brings one byte more than the last one, and thirty and more that were there.
    for (number, bytes) in (31..44).enumerate() {
        let rule = Rule::on("/blobs/").after(number as u32 + 1).times(1);
        registry.add_rule(rule.fault(Fault::IgnoreRange).fault(Fault::Truncate(bytes)));
    }
    let mut reader = open(&registry);
    let (bytes, error) = drain(&mut reader);
    assert!(LAYER.starts_with(&bytes), "{bytes:?}");
    assert!(
        matches!(error, Some(Error::NoParts { wasted, .. }) if wasted > 5 * SIZE && wasted < 6 * SIZE),
        "{error:?}"
    );
}

#[test]
fn a_part_that_is_not_the_rest_is_refused() {
    let range = |text: &str| Fault::Header("content-range", Some(text.into()));
    for text in ["bytes 0-43/44", "bytes 11-43/44", "bytes 10-42/44", "bytes 10-43/45", "bytes 10-99/44", "nonsense"] {
        let error = rest_error(&[range(text)]);
        assert!(matches!(error, Error::WrongPart { .. }), "{text}: {error}");
        let said = error.to_string();
        assert!(said.contains("bytes 10-43/44") && said.contains(&format!("{text:?}")), "{said}");
    }
    let error = rest_error(&[Fault::Header("content-range", None)]);
    assert!(matches!(&error, Error::WrongPart { found, .. } if found.starts_with("no Content-Range")), "{error}");
    // A part where all was asked for is none at all.
    let registry = plain();
    registry.add_rule(Rule::on("/blobs/").fault(Fault::Status(206, Vec::new(), LAYER.to_vec())));
    let error = fetch_layer(&client_at(&registry.address(), &patient())).unwrap_err();
    assert!(matches!(error, Error::UnexpectedStatus { status: 206, .. }), "{error}");
}

#[test]
fn a_server_that_has_less_than_it_said_is_refused() {
    let range = vec![("content-range".to_owned(), "bytes */5".to_owned())];
    let error = rest_error(&[Fault::Status(416, range, Vec::new())]);
    let is_right = matches!(&error, Error::WrongPart { expected, found, .. }
        if expected.contains("bytes 10-43/44") && found.contains("bytes */5") && found.contains("416"));
    assert!(is_right, "{error}");
}

#[test]
fn lengths_that_do_not_add_up_are_refused() {
    for (length, found) in [(SIZE - 10 + 1, SIZE + 1), (SIZE - 10 - 1, SIZE - 1), (SIZE, SIZE + 10), (0, 10)] {
        let error = rest_error(&[Fault::ContentLength(length)]);
        assert!(matches!(error, Error::SizeMismatch { expected: SIZE, found: said, .. } if said == found), "{error}");
    }
    let error = rest_error(&[Fault::Extra(1), Fault::Chunked]);
    assert!(matches!(error, Error::TooLong { expected: SIZE, .. }), "{error}");
    let error = rest_error(&[Fault::IgnoreRange, Fault::Extra(1)]);
    assert!(matches!(error, Error::SizeMismatch { expected: SIZE, .. }), "{error}");
}

#[test]
fn another_blob_in_between_is_noticed() {
    let etag = |text: &str| Fault::Header("etag", Some(text.into()));
    let error = rest_error(&[etag("\"other\"")]);
    let digest = layer().digest.to_string();
    let is_right =
        matches!(&error, Error::Changed { expected, found, .. } if expected.contains(&digest) && found == "\"other\"");
    assert!(is_right, "{error}");
    // A weak one says nothing about bytes, and none says nothing at all: the digest decides.
    for rest in [etag("W/\"other\""), Fault::Header("etag", None)] {
        let registry = broken_once(Fault::Truncate(10), &[rest]);
        assert_eq!(drain(&mut open(&registry)).0, LAYER);
    }
    // A server that finds its own ETag changed sends all of it, as RFC 9110 (13.1.5) has it. That is hashed as well.
    let registry = plain();
    let first = Rule::on("/blobs/").times(1).fault(etag("\"before\"")).fault(Fault::Truncate(10));
    registry.add_rule(first);
    let mut reader = open(&registry);
    assert_eq!(drain(&mut reader).0, LAYER);
    assert_eq!(reader.wire_bytes(), SIZE + 10);
    assert_eq!(registry.requests()[1].header("if-range"), Some("\"before\""));
}

#[test]
fn bytes_that_differ_show_in_the_digest() {
    let registry = broken_once(Fault::Truncate(10), &[Fault::Corrupt]);
    let (bytes, error) = drain(&mut open(&registry));
    assert!(error.is_none() && bytes.len() == LAYER.len() && bytes != LAYER);
    registry.clear_rules();
    registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::Truncate(10)));
    registry.add_rule(Rule::on("/blobs/").after(1).fault(Fault::Corrupt));
    let error = client_at(&registry.address(), &patient()).fetch_blob_bytes(REPOSITORY, &layer(), 1000).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}

#[test]
fn a_stall_is_a_break() {
    let options = set(patient(), |options| {
        (options.timeouts.stall, options.timeouts.stall_bytes) = (Duration::from_millis(500), 8);
    });
    // Ten bytes and silence, each time: ten are enough for the limit of eight, so all of it comes.
    let registry = plain();
    registry.add_rule(Rule::on("/blobs/").fault(Fault::Stall(10)));
    let mut reader = open_with(&registry, &options);
    assert_eq!(drain(&mut reader).0, LAYER);
    assert!(reader.resumes() >= 4, "{}", reader.resumes());
    // Two bytes and silence are too few: the tries end.
    let registry = plain();
    registry.add_rule(Rule::on("/blobs/").fault(Fault::Stall(1)));
    let (bytes, error) = drain(&mut open_with(&registry, &options));
    assert!(matches!(&error, Some(Error::GaveUp { tries: 5, last, .. }) if matches!(**last, Error::Stalled { .. })));
    assert!(bytes.len() <= 5, "{error:?}");
}

#[test]
fn what_came_too_slowly_is_kept() {
    // A byte each 200 ms where 40 are wanted each 400 ms: too slow, and then the rest at once.
    let registry = broken_once(Fault::Trickle(1, Duration::from_millis(200)), &[]);
    let options = set(patient(), |options| {
        (options.timeouts.stall, options.timeouts.stall_bytes) = (Duration::from_millis(400), 40);
    });
    let mut reader = open_with(&registry, &options);
    assert_eq!(drain(&mut reader).0, LAYER);
    assert!(reader.resumes() >= 1);
    assert_eq!(reader.wire_bytes(), SIZE);
    // Never at once: the tries end, and not a byte is lost or doubled until then.
    registry.clear_rules();
    registry.add_rule(Rule::on("/blobs/").fault(Fault::Trickle(1, Duration::from_millis(200))));
    let options = set(options, |options| options.retry.tries = 3);
    let (bytes, error) = drain(&mut open_with(&registry, &options));
    assert!(matches!(&error, Some(Error::GaveUp { last, .. }) if matches!(**last, Error::Stalled { .. })), "{error:?}");
    assert!(LAYER.starts_with(&bytes) && bytes.len() < LAYER.len(), "{}", bytes.len());
}

#[test]
fn the_stall_limit_holds_over_connections_that_break() {
    // A byte, a pause, and a break, again and again: each connection is quick and brings something, all of them together do not.
    let registry = plain();
    registry.add_rule(Rule::on("/blobs/").fault(Fault::Late(Duration::from_millis(40))).fault(Fault::Truncate(1)));
    let options = set(patient(), |options| {
        (options.timeouts.stall, options.timeouts.stall_bytes, options.retry.tries) =
            (Duration::from_millis(200), 40, 2);
    });
    let (bytes, error) = drain(&mut open_with(&registry, &options));
    assert!(matches!(&error, Some(Error::GaveUp { last, .. }) if matches!(**last, Error::Stalled { .. })), "{error:?}");
    assert!(bytes.len() < 40, "{}", bytes.len());
}

#[test]
fn a_break_behind_the_last_byte_is_the_end() {
    let registry = plain();
    for framing in [Fault::Chunked, Fault::UntilClose] {
        registry.clear_rules();
        registry.add_rule(Rule::on("/blobs/").fault(Fault::Truncate(SIZE)).fault(framing));
        let mut reader = open(&registry);
        assert_eq!((drain(&mut reader).0, reader.resumes()), (LAYER.to_vec(), 0));
    }
}

#[test]
fn a_new_address_is_asked_for_each_time() {
    // As registries do that keep blobs elsewhere: a signed address, good for one connection.
    let registry = plain();
    let store = plain();
    let target = |number| format!("{}/v2/{REPOSITORY}/blobs/{}?signature={number}", store.base_url(), layer().digest);
    for number in 0..3 {
        registry.add_rule(Rule::on("/blobs/").after(number).times(1).fault(Fault::redirect(target(number))));
    }
    store.add_rule(Rule::on("/blobs/").times(2).fault(Fault::Truncate(10)));
    assert_eq!(drain(&mut open(&registry)).0, LAYER);
    let asked: Vec<_> =
        store.requests().iter().map(|request| request.target.split('=').nth(1).map(str::to_owned)).collect();
    assert_eq!(asked, ["0", "1", "2"].map(|number| Some(number.to_owned())));
}

#[test]
fn a_token_that_ends_in_between_is_renewed() {
    let registry = registry(false, Auth::bearer());
    registry.add_rule(Rule::on("/blobs/").after(1).times(1).fault(Fault::Truncate(10)));
    let mut reader = open(&registry);
    reader.read_exact(&mut [0; 5]).unwrap();
    registry.expire_tokens();
    assert_eq!(drain(&mut reader).0, &LAYER[5..]);
}

#[test]
fn a_way_that_breaks_after_each_64_kib_brings_everything_once() {
    const BIG: u64 = 5 << 20;
    for tls in [false, true] {
        let registry = registry(tls, Auth::bearer());
        let digest: BlobDigest = registry.put_blob(Blob::Pattern(BIG)).parse().unwrap();
        let proxy =
            Proxy::start(registry.address(), proxy::Options { reset_after: Some(64 << 10), ..Default::default() });
        let options = if tls { set(trusting(&registry), |options| options.retry = patient().retry) } else { patient() };
        let client = client_at(&proxy.address(), &options);
        assert_eq!(client.fetch_manifest(REPOSITORY, "1", None).unwrap().bytes.get(), manifest("1").as_bytes());
        let mut reader = client.open_blob(REPOSITORY, &Descriptor::new("x", digest, BIG)).unwrap();
        let mut hasher = DigestHasher::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        assert_eq!(BlobDigest::from_bytes(hasher.finish()), digest);
        assert_eq!((reader.received(), reader.wire_bytes()), (BIG, BIG));
        assert!(reader.resumes() > 70, "{}", reader.resumes());
    }
}
