// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs;

use stos_spec::BlobDigest;

use super::*;

fn parse(text: &str) -> Result<Policy, Error> {
    Policy::parse(Path::new("/p"), text.as_bytes())
}

fn docker(text: &str) -> PolicyImage {
    PolicyImage::Docker(text.parse().unwrap())
}

/// The place of the requirements that apply.
fn place(policy: &Policy, image: &PolicyImage) -> String {
    policy.decision(image).place.unwrap().key
}

const ACCEPT: &str = r#"[{"type": "insecureAcceptAnything"}]"#;
const REJECT: &str = r#"[{"type": "reject"}]"#;

#[test]
fn the_most_specific_scope_applies() {
    let scopes = [
        "",
        "docker.io",
        "docker.io/library",
        "r.example:5000",
        "r.example:5000/ns/a",
        "r.example:5000/ns/a:1",
        "*.example",
        "*.wild.test",
        "x.wild.test",
    ];
    let scopes: Vec<String> = scopes.iter().map(|scope| format!("{scope:?}: {ACCEPT}")).collect();
    let policy = parse(&format!(
        r#"{{"default": {REJECT}, "transports": {{
            "docker": {{{}}},
            "oci": {{"/a/b": {ACCEPT}, "/a": {ACCEPT}}},
            "dir": {{"": {ACCEPT}}},
            "atomic": {{"anything at all": {REJECT}}}
        }}}}"#,
        scopes.join(",")
    ))
    .unwrap();
    let digest = BlobDigest::of(b"");
    for (image, expected) in [
        ("quay.io/x", r#"transports.docker[""]"#),
        ("alpine:3", r#"transports.docker["docker.io/library"]"#),
        ("docker.io/team/x", r#"transports.docker["docker.io"]"#),
        ("r.example:5000/ns/a:1", r#"transports.docker["r.example:5000/ns/a:1"]"#),
        ("r.example:5000/ns/a:2", r#"transports.docker["r.example:5000/ns/a"]"#),
        (&format!("r.example:5000/ns/a:1@{digest}"), r#"transports.docker["r.example:5000/ns/a"]"#),
        ("r.example:5000/ns/ab:1", r#"transports.docker["r.example:5000"]"#),
        ("r.example/ns/a:1", r#"transports.docker["*.example"]"#),
        ("x.r.example:9/a", r#"transports.docker["*.example"]"#),
        ("x.wild.test/a", r#"transports.docker["x.wild.test"]"#),
        ("x.wild.test:5000/a", r#"transports.docker["*.wild.test"]"#),
        ("wild.test/a", r#"transports.docker[""]"#),
    ] {
        assert_eq!(place(&policy, &docker(image)), expected, "{image}");
    }
    for (image, expected) in [
        (PolicyImage::Oci("/a/b/c".into()), r#"transports.oci["/a/b"]"#),
        (PolicyImage::Oci("/a/bc".into()), r#"transports.oci["/a"]"#),
        (PolicyImage::Oci("/".into()), "default"),
        (PolicyImage::Dir("/a".into()), r#"transports.dir[""]"#),
        (PolicyImage::OciArchive("/a/b".into()), "default"),
        (PolicyImage::DockerArchive, "default"),
    ] {
        assert_eq!(place(&policy, &image), expected, "{image}");
    }
}

#[test]
fn verdicts_need_every_requirement() {
    const SIGNED: &str = r#"{"type": "sigstoreSigned", "keyPath": "/k"}"#;
    const BY: &str = r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}"#;
    let accept = r#"{"type": "insecureAcceptAnything"}"#;
    let reject = r#"{"type": "reject"}"#;
    let told = |requirements: &[&str]| {
        let policy = parse(&format!(r#"{{"default": [{}]}}"#, requirements.join(","))).unwrap();
        match policy.decision(&docker("a.b/c")).verdict() {
            Ok(Verdict::Accept) => "accept".to_owned(),
            Ok(Verdict::Signed(signed)) => format!("{} signed", signed.len()),
            Err(Error::Rejected { place, .. }) => format!("rejected by {}", place.key),
            Err(Error::UnsupportedRequirement { place, .. }) => format!("unsupported {}", place.key),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(told(&[accept]), "accept");
    assert_eq!(told(&[accept, SIGNED]), "1 signed");
    assert_eq!(told(&[SIGNED, SIGNED, accept]), "2 signed");
    assert_eq!(told(&[accept, reject]), "rejected by default[1]");
    assert_eq!(told(&[BY, reject, SIGNED]), "rejected by default[1]");
    assert_eq!(told(&[accept, BY]), "unsupported default[1]");
    assert_eq!(told(&[SIGNED, BY]), "unsupported default[1]");
}

#[test]
fn no_file_accepts_and_a_file_decides() {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    };
    let environment = Environment::new(root.path(), 0).with("HOME", root.path().join("home"));
    let file = |environment: &Environment, option: Option<&Path>| {
        Policy::load(environment, option).unwrap().file().map(Path::to_owned)
    };
    let none = Policy::load(&environment, None).unwrap();
    assert_eq!(none, Policy::accept_anything());
    let decision = none.decision(&PolicyImage::DockerArchive);
    assert_eq!((decision.verdict().unwrap(), decision.place), (Verdict::Accept, None));
    let text = format!(r#"{{"default": {REJECT}}}"#);
    for path in
        ["usr/share/containers/policy.json", "etc/containers/policy.json", "home/.config/containers/policy.json"]
    {
        let path = put(path, &text);
        assert_eq!(file(&environment, None), Some(path));
    }
    let variable = put("variable.json", &text);
    let environment = environment.with("CONTAINERS_POLICY_CONF", &variable);
    assert_eq!(file(&environment, None), Some(variable));
    let option = put("option.json", &text);
    assert_eq!(file(&environment, Some(&option)), Some(option));
    let missing = Policy::load(&environment, Some(Path::new("/no/such")));
    assert!(matches!(missing, Err(Error::NotThere { named_by: "--signature-policy", .. })));
    let missing = Policy::load(&environment.with("CONTAINERS_POLICY_CONF", "/no/such"), None);
    assert!(matches!(missing, Err(Error::NotThere { named_by: "CONTAINERS_POLICY_CONF", .. })));
}

#[test]
fn a_path_that_cannot_be_read_is_no_absent_policy() {
    let root = tempfile::tempdir().unwrap();
    let environment = Environment::new(root.path(), 0);
    fs::create_dir_all(root.path().join("etc/containers/policy.json")).unwrap();
    assert!(matches!(Policy::load(&environment, None), Err(Error::NotAFile { .. })));
}

#[test]
fn the_manuals_requirements_are_read() {
    let policy = parse(
        r#"{"default": [{"type": "reject"}], "transports": {"docker": {
            "a.b/full": [{"type": "sigstoreSigned", "keyPath": "/k.pub"}],
            "a.b/several": [{"type": "sigstoreSigned", "keyPaths": ["/1", "2"], "signedIdentity": {"type": "matchRepository"}}],
            "a.b/data": [{"type": "sigstoreSigned", "keyData": "AAEC", "signedIdentity": {"type": "exactReference", "dockerReference": "busybox:1"}}],
            "a.b/datas": [{"type": "sigstoreSigned", "keyDatas": ["AAEC", "AwQF"], "signedIdentity": {"type": "exactRepository", "dockerRepository": "v.x/y"}}],
            "a.b/remap": [{"type": "sigstoreSigned", "keyPath": "/k", "signedIdentity": {"type": "remapIdentity", "prefix": "a.b:5000", "signedPrefix": "v.x/ns"}}]
        }}}"#,
    )
    .unwrap();
    let signed = |name: &str| {
        let image = docker(&format!("a.b/{name}:1"));
        let Verdict::Signed(signed) = policy.decision(&image).verdict().unwrap() else { panic!("{name}") };
        (signed[0].keys.clone(), signed[0].identity.clone())
    };
    let paths = |paths: &[&str]| SigstoreKeys::Paths(paths.iter().map(PathBuf::from).collect());
    assert_eq!(signed("full"), (paths(&["/k.pub"]), SignedIdentity::MatchRepoDigestOrExact));
    assert_eq!(signed("several"), (paths(&["/1", "2"]), SignedIdentity::MatchRepository));
    let reference = "docker.io/library/busybox:1".parse().unwrap();
    assert_eq!(signed("data"), (SigstoreKeys::Data(vec![vec![0, 1, 2]]), SignedIdentity::ExactReference(reference)));
    let repository = SignedIdentity::ExactRepository("v.x/y".into());
    assert_eq!(signed("datas"), (SigstoreKeys::Data(vec![vec![0, 1, 2], vec![3, 4, 5]]), repository));
    let remap = SignedIdentity::RemapIdentity { prefix: "a.b:5000".into(), signed_prefix: "v.x/ns".into() };
    assert_eq!(signed("remap").1, remap);
}

#[test]
fn what_cannot_be_checked_is_never_a_pass() {
    let fulcio = r#""fulcio": {"caPath": "/c", "oidcIssuer": "https://i", "subjectEmail": "a@b"}"#;
    for requirement in [
        r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": ["/k"], "signedIdentity": {"type": "matchExact"}}"#
            .to_owned(),
        r#"{"type": "signedBy", "keyType": "GPGKeys", "keyData": "AAEC"}"#.to_owned(),
        r#"{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchRepository"}}"#.to_owned(),
        r#"{"type": "sigstoreSigned", "keyPath": "/k", "rekorPublicKeyPath": "/r"}"#.to_owned(),
        r#"{"type": "sigstoreSigned", "keyPath": "/k", "rekorPublicKeyDatas": ["AAEC"]}"#.to_owned(),
        format!(r#"{{"type": "sigstoreSigned", {fulcio}, "rekorPublicKeyData": "AAEC"}}"#),
        r#"{"type": "sigstoreSigned", "pki": {"caRootsPath": "/c", "subjectHostname": "h"}}"#.to_owned(),
    ] {
        let policy = parse(&format!(r#"{{"default": [{requirement}]}}"#)).unwrap();
        let verdict = policy.decision(&docker("a.b/c")).verdict();
        let Err(error @ Error::UnsupportedRequirement { .. }) = verdict else { panic!("{requirement}: {verdict:?}") };
        assert!(error.hint().is_some());
    }
}

#[test]
fn a_policy_is_read_strictly() {
    let default = |requirement: &str| format!(r#"{{"default": [{requirement}]}}"#);
    let signed = |fields: &str| default(&format!(r#"{{"type": "sigstoreSigned", {fields}}}"#));
    let scope = |transport: &str, scope: &str| {
        format!(r#"{{"default": {ACCEPT}, "transports": {{"{transport}": {{"{scope}": {ACCEPT}}}}}}}"#)
    };
    for text in [
        String::new(),
        "null".into(),
        "[]".into(),
        "{}".into(),
        r#"{"default": []}"#.into(),
        r#"{"default": null}"#.into(),
        r#"{"default": {"type": "reject"}}"#.into(),
        format!(r#"{{"default": {ACCEPT}, "transport": {{}}}}"#),
        format!(r#"{{"default": {ACCEPT}, "transports": null}}"#),
        format!(r#"{{"default": {ACCEPT}, "default": {ACCEPT}}}"#),
        format!(r#"{{"default": {ACCEPT}, "transports": {{"docker": {{"": []}}}}}}"#),
        format!(r#"{{"default": {ACCEPT}, "transports": {{"docker": {{"": {ACCEPT}, "": {REJECT}}}}}}}"#),
        format!(r#"{{"default": {ACCEPT}, "transports": {{"docker": {{}}, "docker": {{}}}}}}"#),
        format!(r#"{{"default": {ACCEPT}}} {{}}"#),
        format!("\u{feff}{{\"default\": {ACCEPT}}}"),
        scope("docker-archive", "x"),
        scope("dir", "relative"),
        scope("dir", "/"),
        scope("oci", "/a/../b"),
        scope("oci-archive", "/a/"),
        default("{}"),
        default(r#"{"type": 1}"#),
        default(r#"{"type": "Reject"}"#),
        default(r#"{"type": "reject", "x": 1}"#),
        default(r#"{"type": "reject", "type": "insecureAcceptAnything"}"#),
        signed(r#""signedIdentity": {"type": "matchExact"}"#),
        signed(r#""keyPath": "/k", "keyData": "AAEC""#),
        signed(r#""keyPath": """#),
        signed(r#""keyPath": null"#),
        signed(r#""keyPaths": []"#),
        signed(r#""keyData": "AAE""#),
        signed(r#""keyData": """#),
        signed(r#""keyPath": "/k", "keypath": "/k""#),
        signed(r#""keyPath": "/k", "rekorPublicKeyPath": "/r", "rekorPublicKeyData": "AAEC""#),
        signed(r#""fulcio": {"caPath": "/c", "oidcIssuer": "i", "subjectEmail": "e"}"#),
        signed(r#""fulcio": {"caPath": "/c"}, "rekorPublicKeyPath": "/r""#),
        signed(r#""pki": {"caRootsPath": "/c"}"#),
        signed(r#""pki": {"caRootsPath": "/c", "caRootsData": "AAEC", "subjectEmail": "e"}"#),
        signed(r#""keyPath": "/k", "signedIdentity": {}"#),
        signed(r#""keyPath": "/k", "signedIdentity": {"type": "matchAll"}"#),
        signed(r#""keyPath": "/k", "signedIdentity": {"type": "matchExact", "x": 1}"#),
        signed(r#""keyPath": "/k", "signedIdentity": {"type": "exactReference", "dockerReference": "a.b/c"}"#),
        signed(r#""keyPath": "/k", "signedIdentity": {"type": "exactRepository"}"#),
        signed(
            r#""keyPath": "/k", "signedIdentity": {"type": "remapIdentity", "prefix": "a.b/c:1", "signedPrefix": "d.e"}"#,
        ),
        signed(r#""keyPath": "/k", "signedIdentity": {"type": "remapIdentity", "prefix": "a.b"}"#),
        default(r#"{"type": "signedBy", "keyPath": "/k"}"#),
        default(r#"{"type": "signedBy", "keyType": "PGP", "keyPath": "/k"}"#),
        default(r#"{"type": "signedBy", "keyType": "GPGKeys"}"#),
        default(r#"{"type": "signedBaseLayer"}"#),
        "[".repeat(300_000),
    ] {
        let result = parse(&text);
        assert!(result.is_err(), "{text}");
    }
    assert!(Policy::parse(Path::new("/p"), b"{\"default\": \xff}").is_err());
    let told = parse(&signed(r#""keyPath": "/k", "signedIdentity": {"type": "matchExact", "x": 1}"#)).unwrap_err();
    assert_eq!(told.to_string(), "/p: default[0].signedIdentity.x is not known here: expected type");
}

#[test]
fn keys_are_read_where_they_are() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("k.pub");
    fs::write(&path, "key").unwrap();
    let place = Place::key(Path::new("/p"), "default[0]");
    let read = SigstoreKeys::Paths(vec![path.clone()]).read(&place).unwrap();
    assert_eq!(read, [(Place::file(&path), b"key".to_vec())]);
    let data = SigstoreKeys::Data(vec![b"key".to_vec()]).read(&place).unwrap();
    assert_eq!(data, [(place.clone(), b"key".to_vec())]);
    let missing = SigstoreKeys::Paths(vec![root.path().join("none")]).read(&place);
    assert!(matches!(missing, Err(Error::NotThere { named_by: "the policy", .. })));
}

#[test]
fn a_scope_that_is_no_path_is_refused_whatever_it_begins_with() {
    for transport in ["dir", "oci", "oci-archive"] {
        let text = format!(r#"{{"default":[{{"type":"reject"}}],"transports":{{"{transport}":{{"ä/b":[]}}}}}}"#);
        let error = Policy::parse(Path::new("policy.json"), text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("an absolute path") && error.contains("ä/b"), "{error}");
    }
}
