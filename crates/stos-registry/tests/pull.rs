// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a pull asks of a registry that keeps its promises.

mod common;

use std::io::Read;

use common::*;
use stos_registry::{Error, Registry};
use stos_spec::media_type::OCI_MANIFEST;
use stos_spec::{BlobDigest, Descriptor};
use stos_testkit::registry::{Auth, Fault, Rule};

fn pull(client: &Registry) {
    let fetched = client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    let bytes = fetched.bytes.get().clone();
    assert_eq!(bytes, manifest("1").as_bytes());
    assert_eq!(fetched.content_type.as_deref(), Some(OCI_MANIFEST));
    let digest = fetched.bytes.digest();
    let descriptor = Descriptor::new(OCI_MANIFEST, digest, bytes.len() as u64);
    let again = client.fetch_manifest(REPOSITORY, &digest.to_string(), Some(&descriptor)).unwrap();
    assert_eq!(again.bytes.get(), &bytes);
    assert_eq!(client.fetch_blob_bytes(REPOSITORY, &layer(), 1000).unwrap().get(), LAYER);
    assert_eq!(client.fetch_config(REPOSITORY, &layer(), 1000).unwrap().get(), LAYER);
    assert_eq!(fetch_layer(client).unwrap(), LAYER);
}

#[test]
fn an_image_is_pulled() {
    for (tls, auth) in [(false, Auth::Open), (true, Auth::Open), (false, Auth::bearer()), (true, Auth::bearer())] {
        let registry = registry(tls, auth);
        pull(&client(&registry));
    }
}

#[test]
fn one_connection_serves_all_requests() {
    let registry = registry(true, Auth::bearer());
    pull(&client(&registry));
    assert!(registry.requests().iter().all(|request| request.connection == 0), "{:?}", registry.requests());
    // Neither errors nor redirects cost a connection.
    registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::status(503)));
    registry.add_rule(Rule::on("/blobs/").after(1).times(1).fault(Fault::redirect("/v2/other/blobs/x")));
    let client = client(&registry);
    for _ in 0..3 {
        drop(fetch_layer(&client));
    }
    let connections: Vec<_> = registry.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections.iter().max(), Some(&1), "{connections:?}");
}

#[test]
fn requests_say_what_they_should() {
    let registry = plain();
    let client = client(&registry);
    client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    fetch_layer(&client).unwrap();
    let requests = registry.requests();
    assert_eq!(requests.len(), 2, "neither a ping nor a second try");
    let accept = requests[0].header("accept").unwrap();
    assert!(
        accept.starts_with("application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, ")
    );
    assert!(accept.ends_with("application/vnd.docker.distribution.manifest.v2+json"));
    for request in &requests {
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        assert!(request.header("user-agent").unwrap().starts_with("stos/"));
        assert_eq!(request.header("authorization"), None);
    }
}

#[test]
fn a_body_needs_no_content_length() {
    let registry = plain();
    let client = client(&registry);
    for framing in [Fault::Chunked, Fault::UntilClose] {
        registry.add_rule(Rule::on("/v2/").fault(framing));
        pull(&client);
        registry.clear_rules();
    }
}

#[test]
fn a_clone_shares_connections_and_tokens_with_threads() {
    let registry = registry(false, Auth::bearer());
    let client = client(&registry);
    client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let client = client.clone();
            scope.spawn(move || assert_eq!(fetch_layer(&client).unwrap(), LAYER));
        }
    });
    let tokens = registry.take_requests().iter().filter(|request| request.contains("/token")).count();
    assert_eq!(tokens, 1);
}

#[test]
fn no_thread_is_left_behind() {
    const NAME: &str = "client-alone";
    let registry = registry(true, Auth::bearer());
    let options = trusting(&registry);
    // A name instead of a number, so that the resolver has something to do.
    let client = client_at(&registry.address().replace("127.0.0.1", "localhost"), &options);
    let requests = std::thread::Builder::new().name(NAME.into()).spawn(move || {
        client.fetch_manifest(REPOSITORY, "1", None).unwrap();
        fetch_layer(&client).unwrap();
        // A thread inherits the name of the one that starts it, so that other tests' threads do not count.
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
        names.filter(|name| name.trim() == NAME).count()
    });
    assert_eq!(requests.unwrap().join().unwrap(), 1);
}

#[test]
fn names_that_are_no_names_are_not_asked_for() {
    let registry = plain();
    let client = client(&registry);
    for target in ["", "../x", "a/b", "a?b", "sha256:12", "sha512:00", "-x"] {
        let error = client.fetch_manifest(REPOSITORY, target, None).unwrap_err();
        assert!(matches!(error, Error::BadName { .. }), "{target}: {error}");
    }
    for repository in ["", "a//b", "../x", "a/../b", "a?b", "a b", "a%2fb"] {
        let error = client.open_blob(repository, &layer()).unwrap_err();
        assert!(matches!(error, Error::BadName { .. }), "{repository}: {error}");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_reader_stays_at_its_end() {
    let registry = plain();
    let mut reader = client(&registry).open_blob(REPOSITORY, &layer()).unwrap();
    assert_eq!(reader.size(), LAYER.len() as u64);
    assert_eq!(reader.read(&mut []).unwrap(), 0);
    assert_eq!(drain(&mut reader).0, LAYER);
    assert_eq!(reader.received(), reader.size());
    assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
    assert!(reader.url().as_str().starts_with("http://127.0.0.1:"));
}

#[test]
fn an_empty_blob_is_read() {
    let registry = plain();
    registry.put_blob("");
    let empty = Descriptor::new("x", BlobDigest::of(b""), 0);
    let client = client(&registry);
    assert_eq!(client.fetch_blob_bytes(REPOSITORY, &empty, 0).unwrap().get(), b"");
    registry.add_rule(Rule::on("/blobs/").fault(Fault::Chunked));
    assert_eq!(client.fetch_blob_bytes(REPOSITORY, &empty, 0).unwrap().get(), b"");
}
