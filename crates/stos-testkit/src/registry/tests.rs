// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The registry serves what it was given, by other people's clients.

use std::io::Read;
use std::process::Command;

use super::*;
use crate::guard::Need;
use crate::image_builder::{Dialect, Image, ImageBuilder, Layer};
use crate::tar_builder::{Entry, TarBuilder};

fn image() -> Image {
    let layer = |text: &str| Layer::gzip(TarBuilder::new().entry(Entry::file("file", text)).finish());
    ImageBuilder::new().layer(layer("one")).layer(layer("two")).build()
}

/// Runs skopeo, and gives what it prints.
fn skopeo(registry: &Registry, arguments: &[&str]) -> String {
    let certificates = tempfile::tempdir().unwrap();
    if let Some(pem) = registry.ca_pem() {
        std::fs::write(certificates.path().join("ca.crt"), pem).unwrap();
    }
    let mut command = Command::new("skopeo");
    command.arg(arguments[0]);
    match arguments[0] {
        "copy" => {
            for side in ["src", "dest"] {
                command.arg(format!("--{side}-cert-dir={}", certificates.path().display()));
                command.arg(format!("--{side}-tls-verify={}", registry.ca_pem().is_some()));
            }
        }
        _ => {
            command.arg(format!("--cert-dir={}", certificates.path().display()));
            command.arg(format!("--tls-verify={}", registry.ca_pem().is_some()));
        }
    }
    let output = command.args(&arguments[1..]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn skopeo_pushes_and_pulls() {
    crate::require!(Need::Tool("skopeo"));
    let directory = tempfile::tempdir().unwrap();
    let image = image();
    image.write_layout(directory.path(), "v1").unwrap();
    let basic = || Auth::Basic("user".into(), "password".into());
    for (tls, auth, login) in [
        (false, Auth::Open, &[][..]),
        (true, Auth::Open, &[]),
        (true, Auth::bearer(), &[]),
        (true, basic(), &["user:password"]),
    ] {
        let registry = Registry::start(Options { tls, auth, ..Options::default() });
        let there = format!("docker://{}/a/b:v1", registry.address());
        let here = format!("oci:{}:v1", directory.path().display());
        let back = format!("oci:{}:again", directory.path().display());
        let with = |name: &str| login.iter().map(|login| format!("--{name}={login}")).collect::<Vec<_>>();
        let run = |command: &str, login: Vec<String>, rest: &[&str]| {
            let login = login.iter().map(String::as_str);
            let arguments: Vec<&str> = [command].into_iter().chain(login).chain(rest.iter().copied()).collect();
            skopeo(&registry, &arguments)
        };
        run("copy", with("dest-creds"), &["-q", "--preserve-digests", &here, &there]);
        assert_eq!(registry.manifest("a/b", "v1").map(|found| found.1), image.manifest.bytes);
        assert!(image.blobs().all(|blob| blob.digest == image.manifest.digest || registry.has_blob(&blob.digest)));
        let digest = run("inspect", with("creds"), &["--format={{.Digest}}", &there]);
        assert_eq!(digest.trim(), image.manifest.digest);
        assert!(run("list-tags", with("creds"), &[there.strip_suffix(":v1").unwrap()]).contains("\"v1\""));
        run("copy", with("src-creds"), &["-q", &there, &back]);
    }
}

#[test]
fn our_own_pushes_arrive_and_a_layout_is_served() {
    let registry = Registry::start(Options::default());
    let image = image();
    image.push(&registry.address(), "a", "1").unwrap();
    assert_eq!(registry.manifest("a", "1").map(|found| found.1), image.manifest.bytes);
    assert!(registry.requests().iter().all(|request| request.target.starts_with("/v2/")));

    let directory = tempfile::tempdir().unwrap();
    let index = Image::index(Dialect::Oci, &[&image]);
    Image::write_index_layout(&index, &[&image], directory.path(), "2").unwrap();
    let other = Registry::start(Options::default());
    other.serve_layout(directory.path(), "b").unwrap();
    assert_eq!(other.manifest("b", "2").map(|found| found.1), index.bytes);
    assert_eq!(other.manifest("b", &image.manifest.digest).map(|found| found.1), image.manifest.bytes);
    assert!(image.blobs().all(|blob| other.has_blob(&blob.digest)));
}

#[test]
fn a_part_of_a_blob_can_be_had() {
    let registry = Registry::start(Options::default());
    let url = format!("{}/v2/a/blobs/{}", registry.base_url(), registry.put_blob("0123456789"));
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
    let client = ureq::Agent::new_with_config(config.build());
    let ask = |range: &str, etag: Option<&str>| {
        let request = client.get(&url).header("Range", range);
        let request = if let Some(etag) = etag { request.header("If-Range", etag) } else { request };
        let mut answer = request.call().unwrap();
        let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let headers = (header("content-range"), header("etag"));
        (answer.status().as_u16(), headers, answer.body_mut().read_to_string().unwrap())
    };
    let get = |range: &str| {
        let (status, _, body) = ask(range, None);
        (status, body)
    };
    assert_eq!(get(""), (200, "0123456789".into()));
    assert_eq!(get("bytes=7-"), (206, "789".into()));
    let (status, (range, etag), _) = ask("bytes=10-", None);
    assert_eq!((status, range.as_deref(), etag), (416, Some("bytes */10"), None));
    let (_, (range, etag), _) = ask("bytes=7-", None);
    assert_eq!(range.as_deref(), Some("bytes 7-9/10"));
    assert_eq!(ask("bytes=7-", etag.as_deref()).0, 206);
    assert_eq!(ask("bytes=7-", Some("\"other\"")).0, 200);
    registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::IgnoreRange));
    assert_eq!(get("bytes=7-"), (200, "0123456789".into()));
    registry.add_rule(Rule::on("/blobs/").fault(Fault::Extra(2)).fault(Fault::Corrupt).fault(Fault::Chunked));
    assert_eq!(get(""), (200, "1123456789++".into()));
}

#[test]
fn a_pattern_can_be_read_from_anywhere() {
    let pattern = Blob::Pattern(20_000);
    let mut whole = Vec::new();
    pattern.read_from(0).unwrap().read_to_end(&mut whole).unwrap();
    let mut rest = Vec::new();
    pattern.read_from(9_001).unwrap().read_to_end(&mut rest).unwrap();
    assert_eq!((whole.len(), &whole[9_001..]), (20_000, &rest[..]));
    assert_ne!(whole[..4096], whole[4096..8192]);
}

#[test]
fn the_end_breaks_what_is_still_open() {
    let registry = Registry::start(Options::default());
    let url = format!("/v2/a/blobs/{}", registry.put_blob("0123456789"));
    registry.add_rule(Rule::on("/blobs/").fault(Fault::Stall(3)));
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    std::io::Write::write_all(&mut stream, format!("GET {url} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    // All that the fault lets through has come before the registry ends.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n012") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    drop(registry);
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest));
    assert!(rest.is_empty(), "{rest:?}");
}
