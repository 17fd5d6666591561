// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a push asks of a registry, and what it makes of the answers.

mod common;

use std::io::{self, Read};

use common::*;
use stos_registry::{Credential, Endpoint, Error, Registry, Role, Upload, UploadOptions, UploadStart};
use stos_spec::media_type::OCI_MANIFEST;
use stos_spec::{BlobDigest, Descriptor};
use stos_testkit::docker_registry::{self, DockerRegistry, DockerRegistryOptions};
use stos_testkit::guard::Need;
use stos_testkit::registry::{self, Auth, Fault, Options, Rule};

fn login() -> Credential {
    Credential::password("user", "s3cret")
}

fn empty(tls: bool, auth: Auth) -> registry::Registry {
    registry::Registry::start(Options { tls, auth, ..Options::default() })
}

fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::new("application/octet-stream", BlobDigest::of(bytes), bytes.len() as u64)
}

fn whole() -> UploadOptions {
    UploadOptions::default()
}

fn chunks(size: u64) -> UploadOptions {
    let mut options = UploadOptions::default();
    options.chunk = Some(size);
    options
}

fn begin(client: &Registry, descriptor: &Descriptor) -> Upload {
    match client.begin_upload(REPOSITORY, descriptor, None).unwrap() {
        UploadStart::Started(upload) => *upload,
        UploadStart::Mounted => panic!("nothing was to be mounted"),
    }
}

fn push(client: &Registry, mut bytes: &[u8], options: &UploadOptions) -> Result<(), Error> {
    begin(client, &blob(bytes)).send(&mut bytes, options)
}

/// Gives method and path of all requests so far, `Content-Range` and the body's size with them.
fn take_steps(registry: &registry::Registry) -> Vec<String> {
    let steps = registry.requests().into_iter().map(|request| {
        let range = request.header("content-range").unwrap_or("-").to_owned();
        format!("{} {} {range} {}", request.method, request.target, request.body_size)
    });
    let steps = steps.collect();
    registry.take_requests();
    steps
}

#[test]
fn a_blob_is_pushed_once() {
    for (tls, auth) in [
        (false, Auth::Open),
        (true, Auth::Open),
        (true, Auth::bearer()),
        (true, Auth::bearer_for("user", "s3cret")),
        (true, Auth::Basic("user".into(), "s3cret".into())),
    ] {
        let registry = empty(tls, auth);
        let client = client_with(&registry, login());
        for (bytes, options) in [(&b"a blob"[..], whole()), (b"", whole()), (b"a second", chunks(3)), (b"x", chunks(9))]
        {
            assert!(!client.has_blob(REPOSITORY, &blob(bytes)).unwrap());
            push(&client, bytes, &options).unwrap();
            assert!(client.has_blob(REPOSITORY, &blob(bytes)).unwrap());
            assert_eq!(registry.blob(&blob(bytes).digest.to_string()).unwrap(), bytes);
        }
        let digest = client.put_manifest(REPOSITORY, "1", OCI_MANIFEST, manifest("1").as_bytes()).unwrap();
        client.put_manifest(REPOSITORY, &digest.to_string(), OCI_MANIFEST, manifest("1").as_bytes()).unwrap();
        let kept = registry.manifest(REPOSITORY, "1").unwrap();
        assert_eq!(kept, (OCI_MANIFEST.to_owned(), manifest("1").into_bytes()));
    }
}

#[test]
fn the_steps_are_those_of_the_specification() {
    let registry = empty(true, Auth::bearer());
    let client = client_with(&registry, login());
    let bytes = b"0123456789";
    let digest = blob(bytes).digest;
    assert!(!client.has_blob(REPOSITORY, &blob(bytes)).unwrap());
    push(&client, bytes, &whole()).unwrap();
    client.put_manifest(REPOSITORY, "1", OCI_MANIFEST, b"{}").unwrap();
    let head = format!("HEAD /v2/team/app/blobs/{digest} - 0");
    // One token does for all of it.
    let token = "GET /token?account=user&service=testkit&scope=repository:team/app:pull%2Cpush - 0";
    let put = format!("PUT /v2/team/app/blobs/uploads/upload-1?digest={digest} - 10");
    let expected =
        [&head, token, &head, "POST /v2/team/app/blobs/uploads/ - 0", &put, "PUT /v2/team/app/manifests/1 - 2"];
    assert_eq!(take_steps(&registry), expected);
    push(&client, bytes, &chunks(4)).unwrap();
    let upload = "/v2/team/app/blobs/uploads/upload-2";
    let expected = [
        "POST /v2/team/app/blobs/uploads/ - 0".to_owned(),
        format!("PATCH {upload} 0-3 4"),
        format!("PATCH {upload} 4-7 4"),
        format!("PATCH {upload} 8-9 2"),
        format!("PUT {upload}?digest={digest} - 0"),
    ];
    assert_eq!(take_steps(&registry), expected);
}

#[test]
fn a_registrys_least_chunk_is_kept_to() {
    let registry = registry::Registry::start(Options { chunk_min: Some(7), ..Options::default() });
    let client = client(&registry);
    client.has_blob(REPOSITORY, &layer()).unwrap();
    registry.take_requests();
    push(&client, b"0123456789", &chunks(2)).unwrap();
    let sizes: Vec<u64> = registry.requests().iter().map(|request| request.body_size).collect();
    assert_eq!(sizes, [0, 7, 3, 0]);
}

#[test]
fn a_blob_of_another_repository_is_mounted() {
    for auth in [Auth::Open, Auth::bearer()] {
        let registry = registry(true, auth);
        let client = client_with(&registry, login());
        let mounted = client.begin_upload(REPOSITORY, &layer(), Some("other/app")).unwrap();
        assert!(matches!(mounted, UploadStart::Mounted));
        let requests = registry.take_requests();
        let post = format!("POST /v2/team/app/blobs/uploads/?mount={}&from=other/app", layer().digest);
        assert_eq!((&requests[0], requests.last().unwrap()), (&post, &post));
        if requests.len() > 1 {
            let scopes = "scope=repository:team/app:pull%2Cpush&scope=repository:other/app:pull";
            assert_eq!(requests[1], format!("GET /token?account=user&service=testkit&{scopes}"));
        }
        let error = client.begin_upload(REPOSITORY, &layer(), Some("other/app?x")).unwrap_err();
        assert!(matches!(error, Error::BadName { .. }), "{error}");
    }
}

#[test]
fn what_cannot_be_mounted_is_sent() {
    let bytes = b"not there yet";
    let started = |registry: &registry::Registry| {
        let client = client_with(registry, login());
        match client.begin_upload(REPOSITORY, &blob(bytes), Some("other/app")).unwrap() {
            UploadStart::Started(upload) => upload.send(&mut &bytes[..], &whole()).unwrap(),
            UploadStart::Mounted => panic!("there is nothing to mount"),
        }
        assert_eq!(registry.blob(&blob(bytes).digest.to_string()).unwrap(), bytes);
        registry.take_requests()
    };
    // The registry takes an upload in its place (202): no second request is needed.
    let registry = empty(true, Auth::Open);
    assert_eq!(started(&registry).len(), 2);
    // It refuses in some other way, or the token server does.
    for status in [400, 401, 403, 404, 405, 500, 501] {
        let registry = empty(true, Auth::Open);
        registry.add_rule(Rule::on("mount=").fault(Fault::status(status)));
        assert_eq!(started(&registry).len(), 3, "{status}");
    }
    let registry = empty(true, Auth::bearer());
    registry.add_rule(Rule::on("scope=repository:other").fault(Fault::status(403)));
    started(&registry);
    // Where it can be reached for nothing else either, that is told.
    let registry = empty(true, Auth::Open);
    registry.add_rule(Rule::on("/uploads/").fault(Fault::status(500)));
    let error = client(&registry).begin_upload(REPOSITORY, &blob(bytes), Some("other/app")).unwrap_err();
    assert!(matches!(error, Error::Server { status: 500, .. }), "{error}");
}

#[test]
fn an_upload_goes_on_where_the_registry_is() {
    let bytes = b"0123456789";
    let digest = blob(bytes).digest.to_string();
    let upload = "/v2/team/app/blobs/uploads/upload-1";
    let cases: [(&str, Vec<Fault>, Vec<String>); 4] = [
        // The chunk arrived and the answer did not: nothing is sent twice.
        (
            "lost answer",
            vec![Fault::Raw(Vec::new())],
            vec![format!("GET {upload} - 0"), format!("PATCH {upload} 8-9 2")],
        ),
        (
            "part of it kept",
            vec![Fault::CutUploads(6), Fault::status(503)],
            vec![format!("GET {upload} - 0"), format!("PATCH {upload} 6-7 2"), format!("PATCH {upload} 8-9 2")],
        ),
        (
            "nothing of it kept, and out of step",
            vec![Fault::CutUploads(4), Fault::Header("range", Some("0-7".into()))],
            vec![
                format!("PATCH {upload} 8-9 2"),
                format!("GET {upload} - 0"),
                // Where it is lies before this chunk, which is all that is left of it.
            ],
        ),
        (
            "said at once",
            vec![Fault::CutUploads(6), Fault::Header("range", Some("bytes=0-5".into()))],
            vec![format!("PATCH {upload} 6-7 2"), format!("PATCH {upload} 8-9 2")],
        ),
    ];
    for (name, faults, expected) in cases {
        let registry = empty(false, Auth::Open);
        let client = client(&registry);
        client.has_blob(REPOSITORY, &layer()).unwrap();
        let rule = faults.into_iter().fold(Rule::on("/uploads/").method("PATCH").after(1).times(1), Rule::fault);
        registry.add_rule(rule);
        registry.take_requests();
        let pushed = push(&client, bytes, &chunks(4));
        let mut steps = vec![
            "POST /v2/team/app/blobs/uploads/ - 0".to_owned(),
            format!("PATCH {upload} 0-3 4"),
            format!("PATCH {upload} 4-7 4"),
        ];
        steps.extend(expected);
        if name.starts_with("nothing") {
            let error = pushed.unwrap_err();
            assert!(matches!(&error, Error::BadHeader { name: "Range", found, .. } if found == "0-3"), "{error}");
        } else {
            pushed.unwrap();
            assert_eq!(registry.blob(&digest).unwrap(), bytes, "{name}");
            steps.push(format!("PUT {upload}?digest={digest} - 0"));
        }
        assert_eq!(take_steps(&registry), steps, "{name}");
    }
}

#[test]
fn an_upload_that_does_not_get_on_is_given_up() {
    for (fault, tries, patches) in [
        (Fault::status(416), 1, 3),
        (Fault::Header("range", Some("0-0".into())), 1, 0),
        (Fault::status(503), 4, 4),
        (Fault::Raw(Vec::new()), 4, 4),
        (Fault::status(503), 1, 1),
    ] {
        let registry = empty(false, Auth::Open);
        let client = client_at(&registry.address(), &set(patient(), |options| options.retry.tries = tries));
        client.has_blob(REPOSITORY, &layer()).unwrap();
        let is_late = patches == 0;
        let rule = Rule::on("/uploads/").method("PATCH").fault(Fault::CutUploads(0)).fault(fault.clone());
        registry.add_rule(if is_late { rule.after(1) } else { rule });
        registry.take_requests();
        let error = push(&client, b"0123456789", &chunks(4)).unwrap_err();
        if is_late {
            // Of what had arrived nothing is there any more.
            assert!(matches!(&error, Error::BadHeader { name: "Range", .. }), "{error}");
            continue;
        }
        match (&error, tries) {
            (Error::UploadStuck { at: 0, tries: 3, .. }, _) => assert_eq!(patches, 3),
            // As everywhere: what may pass is tried as often as was asked for, and not at all with `--retry 0`.
            (Error::GaveUp { tries: 4, .. }, 4) | (Error::Server { status: 503, .. }, 1) => {}
            _ => panic!("{fault:?}: {error}"),
        }
        assert_eq!(registry.requests().len(), 1 + 2 * patches, "a POST, and so often a PATCH and a GET");
    }
    let registry = empty(false, Auth::Open);
    let busy = client_at(&registry.address(), &patient());
    busy.has_blob(REPOSITORY, &layer()).unwrap();
    let later = Fault::Status(429, vec![("retry-after".into(), "3600".into())], Vec::new());
    registry.add_rule(Rule::on("/uploads/").method("PATCH").fault(Fault::CutUploads(0)).fault(later));
    let error = push(&busy, b"0123456789", &chunks(4)).unwrap_err();
    assert!(matches!(&error, Error::WaitTooLong { .. }), "{error}");
    // What will not pass is not tried again.
    for status in [400, 403, 404, 413, 501] {
        let registry = empty(false, Auth::Open);
        let client = client(&registry);
        client.has_blob(REPOSITORY, &layer()).unwrap();
        registry.add_rule(Rule::on("/uploads/").method("PATCH").fault(Fault::status(status)));
        registry.take_requests();
        push(&client, b"0123456789", &chunks(4)).unwrap_err();
        assert_eq!(registry.requests().len(), 2, "{status}");
    }
    // Nor is a range believed that cannot be.
    for range in ["0-99", "5-7", "x", "0-", "0-18446744073709551615"] {
        let registry = empty(false, Auth::Open);
        let client = client(&registry);
        client.has_blob(REPOSITORY, &layer()).unwrap();
        let wrong = Fault::Header("range", Some(range.to_owned()));
        registry.add_rule(Rule::on("/uploads/").method("PATCH").fault(wrong));
        let error = push(&client, b"0123456789", &chunks(4)).unwrap_err();
        assert!(matches!(error, Error::BadHeader { name: "Range", .. }), "{range}: {error}");
    }
}

#[test]
fn a_token_that_ends_within_an_upload_is_renewed() {
    /// Lets the tokens of a registry expire when the content has been read so far.
    struct Expiring<'a>(&'a [u8], &'a registry::Registry, usize);
    impl Read for Expiring<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.len() == self.2 {
                self.1.expire_tokens();
            }
            let n = buffer.len().min(2).min(self.0.len());
            self.0.read(&mut buffer[..n])
        }
    }
    let registry = empty(true, Auth::bearer());
    let client = client_with(&registry, login());
    let bytes = b"0123456789";
    let upload = begin(&client, &blob(bytes));
    registry.take_requests();
    upload.send(&mut Expiring(bytes, &registry, 6), &chunks(4)).unwrap();
    assert_eq!(registry.blob(&blob(bytes).digest.to_string()).unwrap(), bytes);
    let steps: Vec<String> = registry.take_requests().iter().map(|it| it[..it.find(' ').unwrap()].to_owned()).collect();
    assert_eq!(steps, ["PATCH", "PATCH", "GET", "PATCH", "PATCH", "PUT"]);
}

#[test]
fn a_location_may_be_of_any_form() {
    let bytes = b"a blob";
    let digest = blob(bytes).digest;
    let registry = empty(true, Auth::bearer());
    let absolute = format!("{}/v2/team/app/blobs/uploads/upload-1?_state=a%2Fb&x", registry.base_url());
    let (rooted, relative) = ("/v2/team/app/blobs/uploads/upload-2?_state=x", "upload-3");
    for (number, location) in [(1, absolute.as_str()), (2, rooted), (3, relative)] {
        registry.clear_rules();
        let changed = Fault::Header("location", Some(location.to_owned()));
        registry.add_rule(Rule::on("/uploads/").method("POST").fault(changed));
        push(&client_with(&registry, login()), bytes, &whole()).unwrap();
        let last = registry.take_requests().pop().unwrap();
        let query = match number {
            1 => "?_state=a%2Fb&x&",
            2 => "?_state=x&",
            _ => "?",
        };
        assert_eq!(last, format!("PUT /v2/team/app/blobs/uploads/upload-{number}{query}digest={digest}"));
    }
    // Each answer may move it on.
    registry.clear_rules();
    registry
        .add_rule(Rule::on("/uploads/").method("PATCH").fault(Fault::Header("location", Some("upload-4?n=2".into()))));
    push(&client_with(&registry, login()), bytes, &chunks(4)).unwrap();
    let last = registry.take_requests().pop().unwrap();
    assert_eq!(last, format!("PUT /v2/team/app/blobs/uploads/upload-4?n=2&digest={digest}"));
    for (location, expected) in
        [(None, "header"), (Some("ftp://x/"), "redirect"), (Some("http://127.0.0.1:1/"), "plain")]
    {
        registry.clear_rules();
        let changed = Fault::Header("location", location.map(str::to_owned));
        registry.add_rule(Rule::on("/uploads/").method("POST").fault(changed));
        let error = client_with(&registry, login()).begin_upload(REPOSITORY, &blob(bytes), None).unwrap_err();
        let is_right = match expected {
            "header" => matches!(error, Error::BadHeader { name: "Location", .. }),
            "redirect" => matches!(error, Error::BadRedirect { .. }),
            _ => matches!(error, Error::Downgrade { .. }),
        };
        assert!(is_right, "{location:?}: {error}");
    }
}

#[test]
fn an_upload_elsewhere_gets_the_bytes_and_no_authorization() {
    let bytes = b"a blob";
    for auth in [Auth::bearer_for("user", "s3cret"), Auth::Basic("user".into(), "s3cret".into())] {
        for options in [whole(), chunks(4)] {
            let (other, wants_auth) =
                (empty(true, Auth::Open), empty(true, Auth::Basic("user".into(), "s3cret".into())));
            for (host, is_open) in [(&other, true), (&wants_auth, false)] {
                let auth = match &auth {
                    Auth::Basic(user, password) => Auth::Basic(user.clone(), password.clone()),
                    _ => Auth::bearer_for("user", "s3cret"),
                };
                let registry = empty(true, auth);
                let mut endpoint = with(endpoint(&registry, Role::Registry), login());
                endpoint.extra_roots.push(host.ca_der().unwrap().to_vec());
                let client = over(vec![endpoint]);
                // An upload of its own, so that there is one of that name.
                let theirs = format!("{}/v2/x/blobs/uploads/upload-1?sig=s3cret-sig", host.base_url());
                if is_open {
                    let mut start = Endpoint::new(host.address(), Role::Registry);
                    start.extra_roots = vec![host.ca_der().unwrap().to_vec()];
                    begin(&over(vec![start]), &blob(bytes));
                }
                let there = Fault::Header("location", Some(theirs));
                registry.add_rule(Rule::on("/uploads/").method("POST").fault(there));
                let pushed = push(&client, bytes, &options);
                assert!(header_of_all(&registry, "authorization").iter().any(|header| header != "-"));
                assert!(header_of_all(host, "authorization").iter().all(|header| header == "-"));
                match pushed {
                    Ok(()) => assert!(is_open && host.has_blob(&blob(bytes).digest.to_string())),
                    Err(error) => {
                        assert!(!is_open && matches!(error, Error::Unauthorized { .. }), "{error}");
                        assert!(!all_text(&error).contains("s3cret"), "{error}");
                    }
                }
            }
        }
    }
}

/// Content that fails after some bytes.
struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other("the disk is gone"));
        }
        let n = buffer.len().min(self.0);
        buffer[..n].fill(b'x');
        self.0 -= n;
        Ok(n)
    }
}

#[test]
fn content_of_another_size_is_not_pushed() {
    let wanted = blob(&[b'x'; 10]);
    for options in [whole(), chunks(4), chunks(5), chunks(100)] {
        let registry = empty(false, Auth::Open);
        let client = client(&registry);
        client.has_blob(REPOSITORY, &layer()).unwrap();
        let send = |content: &mut dyn Read| begin(&client, &wanted).send(content, &options).unwrap_err();
        let error = send(&mut &b"xxxxxxxxx"[..]);
        assert!(matches!(error, Error::ContentSize { expected: 10, found: Some(9), .. }), "{options:?}: {error}");
        let error = send(&mut &b"xxxxxxxxxxx"[..]);
        assert!(matches!(error, Error::ContentSize { expected: 10, found: None, .. }), "{options:?}: {error}");
        let error = send(&mut Failing(7));
        assert!(matches!(&error, Error::Content { source, .. } if source.to_string() == "the disk is gone"), "{error}");
        assert!(!registry.has_blob(&wanted.digest.to_string()));
        // Nothing is where something was to be, and something where nothing.
        let error = begin(&client, &blob(b"")).send(&mut &b"x"[..], &options).unwrap_err();
        assert!(matches!(error, Error::ContentSize { expected: 0, found: None, .. }), "{error}");
        // The client is as good as before.
        push(&client, &[b'x'; 10], &options).unwrap();
    }
}

#[test]
fn a_registry_that_has_other_bytes_is_told() {
    let registry = empty(false, Auth::Open);
    let client = client(&registry);
    client.has_blob(REPOSITORY, &layer()).unwrap();
    // It refuses what has not the digest that it was to have.
    let error = begin(&client, &blob(b"0123456789")).send(&mut &b"012345678x"[..], &whole()).unwrap_err();
    assert!(
        matches!(&error, Error::UnexpectedStatus { expected: 201, status: 400, message, .. }
        if message.as_str().contains("DIGEST_INVALID")),
        "{error}"
    );
    // It says that it has something else.
    let other = BlobDigest::of(b"other").to_string();
    registry.add_rule(Rule::on("digest=").fault(Fault::Header("docker-content-digest", Some(other.clone()))));
    registry.add_rule(Rule::on("/manifests/").fault(Fault::Header("docker-content-digest", Some(other.clone()))));
    registry.add_rule(Rule::on("mount=").fault(Fault::Header("docker-content-digest", Some(other))));
    for options in [whole(), chunks(4)] {
        let error = push(&client, b"0123456789", &options).unwrap_err();
        assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    }
    let error = client.put_manifest(REPOSITORY, "1", OCI_MANIFEST, b"{}").unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    registry.put_blob(LAYER);
    // A mount of something else is none: the blob is to be sent.
    let started = client.begin_upload(REPOSITORY, &layer(), Some("other/app")).unwrap();
    assert!(matches!(started, UploadStart::Started(_)));
    // What it has by that digest has another size.
    let longer = Descriptor::new("x", layer().digest, layer().size + 1);
    let error = client.has_blob(REPOSITORY, &longer).unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
}

#[test]
fn a_manifest_is_put_under_its_own_digest_or_none() {
    let registry = empty(false, Auth::Open);
    let client = client(&registry);
    let other = BlobDigest::of(b"other").to_string();
    let error = client.put_manifest(REPOSITORY, &other, OCI_MANIFEST, b"{}").unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    for (target, media_type) in [("../1", OCI_MANIFEST), ("1", "a\r\nb: c")] {
        let error = client.put_manifest(REPOSITORY, target, media_type, b"{}").unwrap_err();
        assert!(matches!(error, Error::BadName { .. }), "{error}");
    }
    assert!(registry.requests().is_empty());
    // It may be the first thing that a registry without TLS is asked.
    client.put_manifest(REPOSITORY, "1", OCI_MANIFEST, b"{}").unwrap();
    assert!(registry.manifest(REPOSITORY, "1").is_some());
}

#[test]
fn a_push_goes_to_the_registry_and_no_mirror() {
    let (mirror, registry) = (empty(true, Auth::Open), empty(true, Auth::Open));
    let client = over(vec![endpoint(&mirror, Role::Mirror), endpoint(&registry, Role::Registry)]);
    push(&client, b"a blob", &whole()).unwrap();
    client.put_manifest(REPOSITORY, "1", OCI_MANIFEST, b"{}").unwrap();
    assert!(mirror.requests().is_empty() && registry.manifest(REPOSITORY, "1").is_some());
    let error = over(vec![endpoint(&mirror, Role::Mirror)]).has_blob(REPOSITORY, &layer()).unwrap_err();
    assert!(matches!(error, Error::NoEndpoint { .. }), "{error}");
}

#[test]
fn the_real_registry_takes_a_push_and_gives_it_back() {
    stos_testkit::require!(Need::Tool("docker-registry"));
    let storage = tempfile::tempdir().unwrap();
    let options = DockerRegistryOptions {
        htpasswd: Some(stos_testkit::docker_registry::HTPASSWD),
        tls: true,
        ..DockerRegistryOptions::default()
    };
    let registry = DockerRegistry::start_with(storage.path(), options).unwrap();
    let client_for = |credential: Option<Credential>| {
        let mut endpoint = Endpoint::new(registry.address(), Role::Registry);
        endpoint.extra_roots = vec![registry.ca_der().unwrap().to_vec()];
        match credential {
            Some(credential) => over(vec![with(endpoint, credential)]),
            None => over(vec![endpoint]),
        }
    };
    for credential in [None, Some(Credential::password(docker_registry::USER, "wrong"))] {
        let error = client_for(credential).has_blob(REPOSITORY, &layer()).unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    }
    let client = client_for(Some(Credential::password(docker_registry::USER, docker_registry::PASSWORD)));
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    for (bytes, options) in
        [(LAYER, whole()), (b"1", chunks(10)), (b"", whole()), (&large, chunks(1 << 20)), (&large[1..], whole())]
    {
        assert!(!client.has_blob(REPOSITORY, &blob(bytes)).unwrap());
        push(&client, bytes, &options).unwrap();
        assert!(client.has_blob(REPOSITORY, &blob(bytes)).unwrap());
        assert_eq!(client.fetch_blob_bytes(REPOSITORY, &blob(bytes), 1 << 30).unwrap().get(), bytes);
    }
    let manifest = manifest("1");
    let digest = client.put_manifest(REPOSITORY, "1", OCI_MANIFEST, manifest.as_bytes()).unwrap();
    let fetched = client.fetch_manifest(REPOSITORY, "1", None).unwrap();
    assert_eq!((fetched.bytes.digest(), fetched.bytes.get().as_slice()), (digest, manifest.as_bytes()));
    assert_eq!(fetched.content_type.as_deref(), Some(OCI_MANIFEST));
    // From one repository to another without a byte.
    assert!(!client.has_blob("team/second", &layer()).unwrap());
    let mounted = client.begin_upload("team/second", &layer(), Some(REPOSITORY)).unwrap();
    assert!(matches!(mounted, UploadStart::Mounted));
    assert!(client.has_blob("team/second", &layer()).unwrap());
    // What is not there cannot be mounted, and what has another digest is refused.
    let started = client.begin_upload("team/second", &blob(b"x"), Some("team/nothing")).unwrap();
    let UploadStart::Started(upload) = started else { panic!("there is nothing to mount") };
    let error = upload.send(&mut &b"y"[..], &whole()).unwrap_err();
    assert!(
        matches!(&error, Error::UnexpectedStatus { status: 400, message, .. }
        if message.as_str().contains("DIGEST_INVALID")),
        "{error}"
    );
}
