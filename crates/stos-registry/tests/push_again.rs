// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pushes over a way that breaks, and to registries that do not take everything.

mod common;

use std::io::{self, Read};
use std::time::Duration;

use common::*;
use stos_registry::{Credential, Error, Registry, Role, UploadOptions, UploadStart};
use stos_spec::media_type::OCI_MANIFEST;
use stos_spec::{BlobDigest, Descriptor};
use stos_testkit::registry::{self, Auth, Fault, Options, Rule};

const BYTES: &[u8] = b"0123456789";

fn empty() -> registry::Registry {
    registry::Registry::start(Options::default())
}

fn blob() -> Descriptor {
    Descriptor::new("application/octet-stream", BlobDigest::of(BYTES), BYTES.len() as u64)
}

fn client_of(registry: &registry::Registry) -> Registry {
    client_at(&registry.address(), &patient())
}

fn open() -> io::Result<Box<dyn Read>> {
    Ok(Box::new(BYTES))
}

/// Gives the methods of the requests so far, in their order.
fn methods(registry: &registry::Registry) -> String {
    let requests = registry.take_requests();
    requests.iter().map(|request| request.split(' ').next().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_asked_for_is_asked_again() {
    let registry = empty();
    let client = client_of(&registry);
    registry.add_rule(Rule::on("/v2/").times(2).fault(Fault::status(503)));
    assert!(!client.has_blob(REPOSITORY, &blob()).unwrap());
    assert_eq!(methods(&registry), "HEAD HEAD HEAD");
    registry.add_rule(Rule::on("/uploads/").method("POST").times(2).fault(Fault::Raw(Vec::new())));
    client.push_blob(REPOSITORY, &blob(), None, &open, 4).unwrap();
    assert_eq!(methods(&registry), "POST POST POST PUT");
    registry.add_rule(Rule::on("/manifests/").times(1).fault(Fault::status(429)));
    client.put_manifest(REPOSITORY, "1", OCI_MANIFEST, manifest("1").as_bytes()).unwrap();
    assert_eq!(methods(&registry), "PUT PUT");
    // What does not pass is told at once.
    registry.add_rule(Rule::on("/manifests/").fault(Fault::status(403)));
    let error = client.put_manifest(REPOSITORY, "1", OCI_MANIFEST, b"{}").unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert_eq!(methods(&registry), "PUT");
}

#[test]
fn a_blob_that_broke_off_is_sent_in_chunks() {
    let registry = empty();
    let client = client_of(&registry);
    registry.add_rule(Rule::on("digest=").method("PUT").times(1).fault(Fault::status(502)));
    registry.add_rule(Rule::on("/blobs/sha256").method("HEAD").times(1).fault(Fault::status(404)));
    client.push_blob(REPOSITORY, &blob(), None, &open, 4).unwrap();
    assert_eq!(methods(&registry), "POST PUT HEAD POST PATCH PATCH PATCH PUT");
    assert_eq!(registry.blob(&blob().digest.to_string()).unwrap(), BYTES);
    // Only the answer was lost: the blob is there, and nothing is sent twice.
    let registry = empty();
    let client = client_of(&registry);
    registry.add_rule(Rule::on("digest=").method("PUT").times(1).fault(Fault::Raw(Vec::new())));
    client.push_blob(REPOSITORY, &blob(), None, &open, 4).unwrap();
    assert_eq!(methods(&registry), "POST PUT HEAD");
    // Where nothing is to be tried again it is not.
    let registry = empty();
    let client = client_at(&registry.address(), &insecure());
    registry.add_rule(Rule::on("digest=").method("PUT").times(1).fault(Fault::status(502)));
    let error = client.push_blob(REPOSITORY, &blob(), None, &open, 4).unwrap_err();
    assert!(matches!(error, Error::Server { status: 502, .. }), "{error}");
    assert_eq!(methods(&registry), "POST PUT");
}

#[test]
fn what_nobody_has_hashed_is_sent_as_it_is_made() {
    for chunk in [1, 4, 5, 10, 100] {
        let registry = empty();
        let sent = client_of(&registry).push_stream(REPOSITORY, "text/plain", &open, chunk).unwrap();
        assert_eq!(sent, Descriptor { media_type: "text/plain".into(), ..blob() });
        assert_eq!(registry.blob(&sent.digest.to_string()).unwrap(), BYTES, "{chunk}");
    }
    let registry = empty();
    let nothing = || -> io::Result<Box<dyn Read>> { Ok(Box::new(io::empty())) };
    let sent = client_of(&registry).push_stream(REPOSITORY, "text/plain", &nothing, 4).unwrap();
    assert_eq!((sent.size, registry.blob(&sent.digest.to_string()).unwrap()), (0, Vec::new()));
    // The answer to the last request is lost: the upload is gone when it is sent again, and the blob is there.
    let registry = empty();
    registry.add_rule(Rule::on("digest=").method("PUT").times(1).fault(Fault::Raw(Vec::new())));
    client_of(&registry).push_stream(REPOSITORY, "text/plain", &open, 100).unwrap();
    assert_eq!(methods(&registry), "POST PATCH PUT PUT HEAD");
}

#[test]
fn a_registry_that_takes_no_chunks_gets_it_whole() {
    for status in [400, 405, 416, 501] {
        let registry = empty();
        let refuses = Rule::on("/uploads/").method("PATCH").fault(Fault::CutUploads(0)).fault(Fault::status(status));
        registry.add_rule(refuses);
        let sent = client_at(&registry.address(), &insecure()).push_stream(REPOSITORY, "text/plain", &open, 4).unwrap();
        assert_eq!(registry.blob(&sent.digest.to_string()).unwrap(), BYTES, "{status}");
        let methods = methods(&registry);
        assert!(methods.starts_with("POST PATCH ") && methods.ends_with(" POST PUT"), "{methods}");
    }
}

#[test]
fn after_a_break_a_registry_that_takes_no_chunks_gets_it_whole() {
    let registry = empty();
    registry.add_rule(Rule::on("digest=").method("PUT").times(1).fault(Fault::status(503)));
    registry.add_rule(Rule::on("/blobs/sha256").method("HEAD").times(1).fault(Fault::status(404)));
    registry.add_rule(Rule::on("/uploads/").method("PATCH").fault(Fault::status(405)));
    client_of(&registry).push_blob(REPOSITORY, &blob(), None, &open, 4).unwrap();
    assert_eq!(methods(&registry), "POST PUT HEAD POST PATCH POST PUT");
}

#[test]
fn a_registry_that_wants_huge_chunks_gets_it_whole() {
    let registry = registry::Registry::start(Options { chunk_min: Some(1 << 40), ..Options::default() });
    let client = client_of(&registry);
    let sent = client.push_stream(REPOSITORY, "text/plain", &open, 4).unwrap();
    assert_eq!(registry.blob(&sent.digest.to_string()).unwrap(), BYTES);
    assert!(!methods(&registry).contains("PATCH"));
}

#[test]
fn a_registry_that_counts_one_byte_too_many_is_gone_on_with() {
    // What it has, as Quay tells it, after a chunk that came in part.
    let registry = empty();
    let patches = Rule::on("/uploads/").method("PATCH").times(1);
    registry.add_rule(patches.fault(Fault::CutUploads(3)).fault(Fault::status(503)));
    registry.add_rule(Rule::on("/uploads/").method("GET").fault(Fault::Header("range", Some("0-3".into()))));
    let sent = client_of(&registry).push_stream(REPOSITORY, "text/plain", &open, 100).unwrap();
    assert_eq!(registry.blob(&sent.digest.to_string()).unwrap(), BYTES);
}

#[test]
fn an_upload_that_a_mount_has_begun_is_allowed_what_the_mount_was() {
    // Everyone may read there, so nothing but the mount has wanted a token yet.
    for content in [BYTES.to_vec(), vec![7; 300 << 10]] {
        let registry =
            registry::Registry::start(Options { auth: Auth::bearer_for("user", "s3cret"), ..Options::default() });
        registry.add_rule(Rule::on("/blobs/sha256").method("HEAD").fault(Fault::status(404)));
        let endpoint = with(endpoint(&registry, Role::Registry), Credential::password("user", "s3cret"));
        let client = over(vec![endpoint]);
        let blob = Descriptor::new("x", BlobDigest::of(&content), content.len() as u64);
        assert!(!client.has_blob(REPOSITORY, &blob).unwrap());
        let started = client.begin_upload(REPOSITORY, &blob, Some("other/app")).unwrap();
        let UploadStart::Started(upload) = started else { panic!("there is nothing to mount") };
        upload.send(&mut content.as_slice(), &UploadOptions::default()).unwrap();
        assert_eq!(registry.blob(&blob.digest.to_string()).unwrap(), content);
        // A token that is revoked before its time: what comes from a reader cannot answer, what is sent again can.
        let again = vec![8; 300 << 10];
        let blob = Descriptor::new("x", BlobDigest::of(&again), again.len() as u64);
        let UploadStart::Started(upload) = client.begin_upload(REPOSITORY, &blob, None).unwrap() else { panic!() };
        registry.expire_tokens();
        let open = || -> io::Result<Box<dyn Read + '_>> { Ok(Box::new(again.as_slice())) };
        client.push_blob(REPOSITORY, &blob, Some(upload), &open, 100 << 10).unwrap();
        assert_eq!(registry.blob(&blob.digest.to_string()).unwrap(), again);
    }
}

#[test]
fn a_registry_may_take_its_time_to_answer_what_it_was_sent() {
    let registry = empty();
    registry.add_rule(Rule::on("digest=").method("PUT").fault(Fault::Late(Duration::from_secs(6))));
    let options = set(insecure(), |options| {
        options.timeouts.stall = Duration::from_secs(5);
        options.timeouts.response = Duration::from_secs(5);
    });
    client_at(&registry.address(), &options).push_blob(REPOSITORY, &blob(), None, &open, 4).unwrap();
    let options = set(options, |options| options.timeouts.commit = Duration::from_millis(700));
    let error = client_at(&registry.address(), &options).push_blob(REPOSITORY, &blob(), None, &open, 4).unwrap_err();
    assert!(matches!(&error, Error::Timeout { limit, .. } if limit.as_millis() == 700), "{error}");
}

#[test]
fn a_push_that_nobody_wants_any_more_ends_in_the_middle_of_a_chunk() {
    /// Cancels when it is first read, and never ends.
    struct Endless(Registry);
    impl Read for Endless {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.0.cancel();
            into.fill(7);
            Ok(into.len())
        }
    }
    let registry = empty();
    let client = client_of(&registry);
    let open = || -> io::Result<Box<dyn Read>> { Ok(Box::new(Endless(client.clone()))) };
    let error = client.push_stream(REPOSITORY, "text/plain", &open, u64::MAX).unwrap_err();
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
}

#[test]
fn content_that_fails_is_told_and_leaves_nothing() {
    let registry = empty();
    let client = client_of(&registry);
    let gone = || -> io::Result<Box<dyn Read>> { Err(io::Error::other("the disk is gone")) };
    struct Breaks(bool);
    impl Read for Breaks {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::Error::other("the disk is gone"));
            }
            into[..1].fill(b'0');
            Ok(1)
        }
    }
    let breaks = || -> io::Result<Box<dyn Read>> { Ok(Box::new(Breaks(false))) };
    for open in [&gone as &dyn Fn() -> io::Result<Box<dyn Read>>, &breaks] {
        for error in [
            client.push_blob(REPOSITORY, &blob(), None, open, 2).unwrap_err(),
            client.push_stream(REPOSITORY, "text/plain", open, 2).unwrap_err(),
        ] {
            let Error::Content { source, .. } = &error else { panic!("{error}") };
            assert_eq!(source.to_string(), "the disk is gone");
        }
    }
    assert!(!methods(&registry).contains("PUT PUT"));
    assert!(!registry.has_blob(&blob().digest.to_string()));
}

#[test]
fn who_takes_too_long_over_what_was_sent_is_told_with_that_time() {
    let registry = empty();
    registry.add_rule(Rule::on("/manifests/").fault(Fault::Late(Duration::from_secs(30))));
    let limit = Duration::from_millis(50);
    let options = set(insecure(), |options| options.timeouts.commit = limit);
    let client = client_at(&registry.address(), &options);
    let error = client.put_manifest(REPOSITORY, "1", OCI_MANIFEST, b"{}").unwrap_err();
    assert!(matches!(error, Error::Timeout { limit: found, .. } if found == limit), "{error}");
    // What only asks has less patience.
    let limit = Duration::from_millis(60);
    let options = set(options, |options| options.timeouts.response = limit);
    let error = client_at(&registry.address(), &options).fetch_manifest(REPOSITORY, "1", None).unwrap_err();
    assert!(matches!(error, Error::Timeout { limit: found, .. } if found == limit), "{error}");
}
