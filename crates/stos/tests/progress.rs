// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a pull is shown: bars on a terminal, lines in a log, JSON for programs, nothing with `-q`.

mod sandbox;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use sandbox::screen::on_terminal;
use sandbox::{Hub, Output, Sandbox};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Blob, Fault as ImageFault, Image, ImageBuilder, Layer};
use stos_testkit::proxy::{self, Proxy};
use stos_testkit::registry::{Fault, Rule};
use stos_testkit::require;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// A layer of so many bytes, all of them different from any other's.
fn layer(name: &str, size: usize) -> Layer {
    let tar = TarBuilder::new().entry(Entry::file(name, name.repeat(size / name.len() + 1)).mode(0o755)).finish();
    Layer::plain(tar)
}

/// The same as a tar, of bytes that do not get smaller.
fn noise_tar(name: &str, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    TarBuilder::new().entry(Entry::file(name, bytes)).finish()
}

fn builder(sizes: &[usize]) -> ImageBuilder {
    let layers = sizes.iter().enumerate().map(|(number, size)| layer(&format!("file-{number}"), *size));
    layers.fold(ImageBuilder::new(), ImageBuilder::layer).command(&["/file-0"])
}

fn short(digest: &str) -> &str {
    &digest["sha256:".len()..][..12]
}

fn pull(sandbox: &Sandbox, options: &[&str], reference: &str) -> Output {
    sandbox.run(&[&["pull", "--tls-verify=false"], options, &[reference]].concat())
}

/// Reads the events among the lines, and gives the other lines.
fn events(stderr: &str) -> (Vec<Value>, Vec<&str>) {
    let (objects, others): (Vec<_>, Vec<_>) = stderr.lines().partition(|line| line.starts_with('{'));
    (objects.into_iter().map(|line| serde_json::from_str(line).unwrap()).collect(), others)
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

fn named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name).collect()
}

#[test]
fn a_log_has_a_line_for_each_event() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = builder(&[300_000, 1000]).build();
    let reference = hub.serve(&image, "app", "1");
    let pulled = pull(&sandbox, &[], &reference);
    assert_eq!((pulled.code, pulled.stdout.trim()), (0, image.manifest.digest.as_str()));
    // A layer that takes long has lines of its own.
    let lines: Vec<_> = pulled.stderr.lines().filter(|line| !line.contains(" %), ")).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines[0].starts_with(&format!("{reference}: {}, linux/amd64, 2 layers, 30", image.manifest.digest)));
    for layer in &image.layers {
        let line = lines[1..3].iter().find(|line| line.starts_with(&format!("{}: ", short(&layer.digest)))).unwrap();
        assert!(line.contains("kB in ") && line.ends_with("B/s"), "{line}");
    }
    assert!(lines[3].starts_with("layers merged in "), "{lines:?}");
    assert!(lines[4].starts_with("done: 30") && lines[4].ends_with("B/s"), "{lines:?}");

    let again = pull(&sandbox, &["--progress=plain"], &reference);
    for layer in &image.layers {
        assert!(again.stderr.contains(&format!("{}: already there\n", short(&layer.digest))), "{}", again.stderr);
    }
    assert!(again.stderr.ends_with("; 2 of 2 layers already there\n"), "{}", again.stderr);
}

#[test]
fn create_and_run_tell_of_a_pull_and_of_nothing_else() {
    require!(Need::Root);
    let hub = Hub::new();
    let image = builder(&[1000]).build();
    let reference = hub.serve(&image, "app", "1");
    for command in ["create", "run"] {
        let sandbox = Sandbox::new();
        let first = sandbox.run(&[command, "--tls-verify=false", &reference]);
        assert!(first.stderr.starts_with(&format!("{reference}: {}", image.manifest.digest)), "{}", first.stderr);
        assert!(first.stderr.contains("\ndone: "), "{}", first.stderr);
        let second = sandbox.run(&["create", "--tls-verify=false", &reference]);
        assert_eq!((second.code, second.stderr.as_str()), (0, ""), "the image is there");
        let events_of = |words: &[&str]| {
            let output = sandbox.run(&[&["create", "--tls-verify=false", "--progress=json"], words].concat());
            events(&output.stderr).0
        };
        assert!(events_of(&[&reference]).is_empty());
        assert_eq!(names(&events_of(&["--pull=always", &reference])).last(), Some(&"done"));
        let failed = events_of(&["--workdir=/x", "--user=nobody-at-all", &reference]);
        assert_eq!(names(&failed), ["failed"], "{failed:?}");
    }
}

#[test]
fn json_is_one_object_a_line_in_order() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = builder(&[3 << 20, 1000]).build();
    hub.serve(&image, "app", "1");
    let slow = proxy::Options { bytes_per_second: Some(512 << 10), ..proxy::Options::default() };
    let proxy = Proxy::start(hub.registry.address(), slow);
    let reference = format!("{}/app:1", proxy.address());
    let pulled = pull(&sandbox, &["--progress=json"], &reference);
    assert_eq!((pulled.code, pulled.stdout.trim()), (0, image.manifest.digest.as_str()), "{}", pulled.stderr);
    let (events, others) = events(&pulled.stderr);
    assert!(others.is_empty(), "{others:?}");
    let total: u64 = image.layers.iter().map(|layer| layer.size).sum();
    let first = &events[0];
    assert_eq!(first["event"], "resolved");
    assert_eq!(
        (&first["image"], &first["manifest"]),
        (&reference.clone().into(), &image.manifest.digest.clone().into())
    );
    assert_eq!((&first["image_id"], &first["platform"]), (&image.config.digest.clone().into(), &"linux/amd64".into()));
    assert_eq!((first["layers"].as_u64(), first["bytes"].as_u64()), (Some(2), Some(total)));
    assert_eq!(names(&events[events.len() - 3..]), ["merge-start", "merged", "done"]);
    let done = events.last().unwrap();
    assert_eq!((done["bytes"].as_u64(), done["present"].as_u64()), (Some(total), Some(0)));
    for layer in &image.layers {
        let own: Vec<Value> = events.iter().filter(|event| event["layer"] == layer.digest).cloned().collect();
        assert_eq!((names(&own)[0], names(&own)[own.len() - 1]), ("layer-start", "layer-done"));
        let end = own.last().unwrap();
        assert_eq!((end["present"].as_bool(), end["bytes"].as_u64()), (Some(false), Some(layer.size)));
        let mut counts: Vec<_> =
            named(&own, "layer-progress").iter().map(|event| event["bytes"].as_u64().unwrap()).collect();
        assert!(own[..own.len() - 1].iter().all(|event| event["total"].as_u64() == Some(layer.size)), "{own:?}");
        assert!(layer.size < 1 << 20 || counts.len() >= 2, "a slow layer is told of: {own:?}");
        counts.push(layer.size);
        assert!(counts.is_sorted(), "{counts:?}");
    }
    let again = pull(&sandbox, &["--progress=json"], &reference);
    let (events, _) = self::events(&again.stderr);
    assert_eq!(names(&events), ["resolved", "layer-done", "layer-done", "merge-start", "merged", "done"]);
    assert!(named(&events, "layer-done").iter().all(|event| event["present"] == true));
    assert_eq!(events[5]["present"], 2);
}

#[test]
fn the_last_event_of_a_failure_is_failed() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let bad = builder(&[1000, 2000]).fault(ImageFault::LayerBytes(1)).build();
    let reference = hub.serve(&bad, "app", "1");
    let missing = format!("{}/none:1", hub.registry.address());
    for (reference, first) in [(reference.as_str(), "resolved"), (&missing, "failed"), ("A//b", "failed")] {
        for (command, code) in [("pull", 1), ("create", 125)] {
            let output = sandbox.run(&[command, "--tls-verify=false", "--progress=json", reference]);
            assert_eq!((output.code, output.stdout.as_str()), (code, ""), "{command} {reference}");
            let (events, others) = events(&output.stderr);
            let names = names(&events);
            assert_eq!((names[0], names[names.len() - 1]), (first, "failed"), "{command} {reference}");
            assert_eq!(names.iter().filter(|name| **name == "failed").count(), 1);
            let message = events.last().unwrap()["message"].as_str().unwrap();
            assert!(others[0] == format!("Error: {message}"), "{others:?}");
        }
    }
}

#[test]
fn a_digest_file_that_cannot_be_written_is_told_and_the_digest_too() {
    require!(Need::Root);
    let (sandbox, hub, there) = (Sandbox::new(), Hub::new(), Hub::new());
    let image = builder(&[1000]).build();
    let from = hub.serve(&image, "app", "1");
    sandbox.ok(&["pull", "--tls-verify=false", "--keep-blobs", &from]);
    let to = format!("{}/copy:1", there.registry.address());
    let push = |file: &str| {
        let options = ["push", "--tls-verify=false", "--progress=json", "--digestfile", file, &from, &to];
        sandbox.run(&options)
    };
    for file in [sandbox.path("none/digest"), sandbox.path("")] {
        let said = push(file.to_str().unwrap());
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{}", said.stderr);
        assert_eq!(names(&events(&said.stderr).0), ["failed"]);
        assert!(said.stderr.contains(file.to_str().unwrap().trim_end_matches('/')), "{}", said.stderr);
        assert_eq!(there.registry.take_requests(), Vec::<String>::new(), "nothing is sent");
    }
    // That a disk is full is known only then.
    let said = push("/dev/full");
    assert_eq!((said.code, said.stdout.trim()), (1, image.manifest.digest.as_str()), "{}", said.stderr);
    let (events, _) = events(&said.stderr);
    assert_eq!(names(&events)[events.len() - 2..], ["done", "failed"]);
    assert!(there.registry.manifest("copy", "1").is_some());
}

#[test]
fn quiet_is_quiet_and_what_cannot_be_shown_is_refused() {
    require!(Need::Root);
    let hub = Hub::new();
    let image = builder(&[1000]).build();
    let reference = hub.serve(&image, "app", "1");
    for silence in ["-q", "--quiet", "--progress=none"] {
        for command in ["pull", "create"] {
            let output = Sandbox::new().run(&[command, "--tls-verify=false", silence, &reference]);
            assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{command} {silence}");
        }
    }
    let sandbox = Sandbox::new();
    for (command, code) in [("pull", 1), ("create", 125), ("run", 125)] {
        for options in [&["--progress=bars"][..], &["-q", "--progress=json"], &["--progress=tty"]] {
            let output = sandbox.run(&[&[command, "--tls-verify=false"], options, &[&reference]].concat());
            assert_eq!((output.code, output.stdout.as_str()), (code, ""), "{command} {options:?}");
            assert!(output.stderr.contains("--progress"), "{command} {options:?}: {}", output.stderr);
        }
    }
    assert!(hub.registry.take_requests().iter().filter(|request| request.contains("/manifests/")).count() <= 6);
    let bundle = sandbox.run(&["create", "--bundle", "/nowhere", "--progress=json", "id"]);
    assert!(bundle.code == 1 && bundle.stderr.contains("--progress is for containers from images"), "{bundle:?}");
}

#[test]
fn an_archive_is_shown_too_and_its_layers_have_no_promised_size() {
    require!(Need::Root);
    let sandbox = Sandbox::new();
    // Compressed layers of a docker-archive: nothing of them but the diffID is promised.
    let layers = [Layer::gzip(noise_tar("a", 700_000)), Layer::gzip(noise_tar("b", 1000))];
    let image = layers.into_iter().fold(ImageBuilder::new(), ImageBuilder::layer).build();
    let content = |blob: &Blob| blob.bytes.clone().unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": ["a.example/app:1"], "Layers": ["a", "b"]}]);
    let tar = TarBuilder::new()
        .entry(Entry::file("config.json", content(&image.config)))
        .entry(Entry::file("a", content(&image.layers[0])))
        .entry(Entry::file("b", content(&image.layers[1])))
        .entry(Entry::file("manifest.json", manifest.to_string()))
        .finish();
    let archive = sandbox.path("app.tar");
    std::fs::write(&archive, tar).unwrap();
    let archive = archive.to_str().unwrap();
    let other = Sandbox::new();
    let loaded = other.run(&["load", "-i", archive, "--progress=json"]);
    assert_eq!(loaded.code, 0, "{}", loaded.stderr);
    let (events, others) = events(&loaded.stderr);
    assert!(others.is_empty(), "{others:?}");
    assert_eq!((names(&events)[0], events[0]["manifest"].is_null()), ("resolved", true));
    let starts = named(&events, "layer-start");
    assert!(starts.len() == 2 && starts.iter().all(|event| event["total"].is_null()), "{events:?}");
    let ends = named(&events, "layer-done");
    let bytes: u64 = ends.iter().map(|event| event["bytes"].as_u64().unwrap()).sum();
    assert_eq!(bytes, image.layers.iter().map(|layer| layer.size).sum::<u64>());
    assert_eq!(events.last().unwrap()["bytes"], bytes);
    let quiet = Sandbox::new().run(&["load", "-q", "-i", archive]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    let failed = Sandbox::new().run(&["load", "--progress=json", "-i", "/nowhere"]);
    assert_eq!((failed.code, names(&self::events(&failed.stderr).0)), (1, vec!["failed"]));
}

/// A pull over a narrow line on a terminal of so many columns, after which the terminal shows what it should.
fn pull_on_terminal(columns: usize, variables: &[(&str, &str)]) -> (Image, Vec<String>, Vec<String>) {
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = builder(&[3 << 20, 1 << 20]).build();
    hub.serve(&image, "app", "1");
    // Slow enough to be seen by who stands still for a while.
    let slow = proxy::Options { bytes_per_second: Some(1 << 20), ..proxy::Options::default() };
    let proxy = Proxy::start(hub.registry.address(), slow);
    let mut command = sandbox.command();
    command.envs(variables.iter().copied());
    command.args(["pull", "--tls-verify=false", &format!("{}/app:1", proxy.address())]);
    let (output, screen) = on_terminal(&command, columns, &sandbox.path(""));
    assert_eq!((output.code, output.stdout.trim()), (0, image.manifest.digest.as_str()), "{}", output.stderr);
    let text = screen.text();
    (image, text, screen.seen)
}

/// What stays: a line for each layer, and one for all.
#[track_caller]
fn assert_stays(image: &Image, text: &[String]) {
    assert_eq!(text.len(), image.layers.len() + 1, "{text:#?}");
    for layer in &image.layers {
        assert!(text.iter().any(|line| line.starts_with(&format!("{}: ", short(&layer.digest)))), "{text:#?}");
    }
    assert!(text.last().unwrap().starts_with("done: "), "{text:#?}");
}

#[test]
fn bars_on_a_terminal_have_a_rate_and_the_time_left() {
    require!(Need::Root, Need::Tool("script"));
    let (image, text, seen) = pull_on_terminal(100, &[]);
    assert_stays(&image, &text);
    let starts = image.layers.iter().map(|layer| short(&layer.digest)).chain(["all layers"]);
    for start in starts {
        let is_bar = |line: &&String| line.starts_with(start) && line.contains("[=") && line.contains("=>");
        let bar = seen.iter().filter(is_bar).find(|line| line.contains("B/s") && line.ends_with(" s left"));
        assert!(bar.is_some(), "{start}: {seen:#?}");
    }
}

#[test]
fn a_narrow_terminal_breaks_no_line() {
    require!(Need::Root, Need::Tool("script"));
    for columns in [40, 20] {
        let (image, text, seen) = pull_on_terminal(columns, &[]);
        assert_stays(&image, &text);
        assert!(seen.iter().any(|line| line.starts_with("all layers") && line.contains('%')), "{seen:#?}");
        let known = |line: &&String| {
            let starts = image.layers.iter().map(|layer| short(&layer.digest));
            starts.chain(["all layers", "merging layers", "done: "]).any(|start| line.starts_with(start))
        };
        let broken: Vec<_> = seen.iter().filter(|line| !known(line)).collect();
        assert!(broken.is_empty(), "{broken:#?}");
    }
}

#[test]
fn the_log_goes_above_the_bars_and_both_stay_whole() {
    require!(Need::Root, Need::Tool("script"));
    let (image, text, seen) = pull_on_terminal(200, &[("STOS_LOG", "info")]);
    let (log, shown): (Vec<_>, Vec<_>) = text.into_iter().partition(|line| line.contains(" INFO "));
    assert_stays(&image, &shown);
    for stage in ["resolve", "layers", "index", "commit"] {
        let of_stage = format!("stage done stage=\"{stage}\"");
        assert!(log.iter().any(|line| line.contains(&of_stage) && line.contains(" ms=")), "{stage}: {log:#?}");
    }
    assert!(seen.iter().any(|line| line.starts_with("all layers")), "{seen:#?}");
}

#[test]
fn a_terminal_that_cannot_move_its_cursor_gets_lines() {
    require!(Need::Root, Need::Tool("script"));
    let (image, mut text, seen) = pull_on_terminal(200, &[("TERM", "dumb")]);
    // A layer that takes long has lines of its own.
    text.retain(|line| !line.contains(" %), "));
    assert_eq!(text.len(), image.layers.len() + 3, "{text:#?}");
    assert!(!seen.iter().any(|line| line.contains("[=")), "{seen:#?}");
}

#[test]
fn bars_of_what_fails_go() {
    require!(Need::Root, Need::Tool("script"));
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let bad = builder(&[2 << 20]).fault(ImageFault::LayerBytes(0)).build();
    let reference = hub.serve(&bad, "app", "1");
    hub.registry.add_rule(Rule::on("/blobs/").after(1).fault(Fault::Trickle(128 << 10, Duration::from_millis(250))));
    let mut command = sandbox.command();
    command.args(["pull", "--tls-verify=false", &reference]);
    let (output, screen) = on_terminal(&command, 200, &sandbox.path(""));
    assert_eq!(output.code, 1);
    let text = screen.text();
    assert!(text[0].starts_with("Error: ") && !text.iter().any(|line| line.contains(" left")), "{text:#?}");
    assert!(screen.seen.iter().any(|line| line.starts_with(short(&bad.layers[0].digest))), "{:#?}", screen.seen);
}

#[test]
fn a_layer_that_takes_long_is_told_of_in_a_log_although_nothing_comes() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = builder(&[600_000]).build();
    let reference = hub.serve(&image, "app", "1");
    hub.registry.add_rule(Rule::on(&image.layers[0].digest).fault(Fault::Stall(400_000)));
    let mut command = sandbox.command();
    command.args(["pull", "--tls-verify=false", &reference]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let start = format!("{}: 262 kB of ", short(&image.layers[0].digest));
    let line = lines.find(|line| line.starts_with(&start));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.unwrap().contains(" (43 %), "));
}
