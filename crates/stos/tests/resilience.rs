// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A network that misbehaves, and people who press Ctrl-C.

mod sandbox;

use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use sandbox::shell::eventually;
use sandbox::{Hub, Sandbox, on_both_backends};
use serde_json::Value;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::proxy::{self, Proxy};
use stos_testkit::registry::{Fault, Rule};
use stos_testkit::require;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// Bytes that do not get smaller.
fn noise(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

fn layer(name: &str, size: usize) -> Layer {
    Layer::gzip(TarBuilder::new().entry(Entry::file(name, noise(size)).mode(0o755)).finish())
}

fn image(sizes: &[usize]) -> Image {
    let layers = sizes.iter().enumerate().map(|(number, size)| layer(&format!("file-{number}"), *size));
    layers.fold(ImageBuilder::new(), ImageBuilder::layer).build()
}

/// Reads the events of a trace.
fn events(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn with_message<'a>(events: &'a [Value], message: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["msg"] == message).collect()
}

#[test]
fn a_way_that_breaks_after_each_64_kib_brings_an_image_once() {
    require!(Need::Root);
    on_both_backends(|| {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let image = image(&[3 << 20, 1 << 20, 100]);
        hub.serve(&image, "app", "1");
        let way = proxy::Options { reset_after: Some(64 << 10), ..proxy::Options::default() };
        let proxy = Proxy::start(hub.registry.address(), way);
        let log = sandbox.path("log");
        let reference = format!("{}/app:1", proxy.address());
        let log_options = ["--debug", "--log-format", "json", "--log", log.to_str().unwrap()];
        sandbox.ok(&[&log_options[..], &["pull", "--tls-verify=false", &reference]].concat());
        assert!(proxy.connections() > 64, "{}", proxy.connections());
        let events = events(&log);
        let bodies = with_message(&events, "body received");
        let ingested = with_message(&events, "layer ingested");
        let ingested = if ingested.is_empty() { with_message(&events, "layer unpacked") } else { ingested };
        assert_eq!(ingested.len(), image.layers.len(), "each layer went through once");
        let mut resumes = 0;
        for layer in &image.layers {
            let size = layer.size;
            let body = bodies.iter().find(|body| body["url"].as_str().unwrap().contains(&layer.digest)).unwrap();
            assert_eq!((body["bytes"].as_u64(), body["wire_bytes"].as_u64()), (Some(size), Some(size)), "{body}");
            assert!(ingested.iter().any(|event| event["blob_bytes"] == size), "{ingested:?}");
            resumes += body["resumes"].as_u64().unwrap();
        }
        assert!(resumes > 60, "{resumes}");
        assert_eq!(sandbox.names("staging"), [""; 0]);
        sandbox.ok(&["create", "--verify=full", "--pull=never", &reference, "/file-0"]);
    });
}

#[test]
fn a_real_registry_behind_a_way_that_breaks_after_each_5_mb_brings_a_real_image_once() {
    require!(Need::Root, Need::Tool("docker-registry"), Need::Image("sci:2"));
    let sandbox = Sandbox::new();
    let registry = DockerRegistry::start_over_cache().unwrap();
    let way = proxy::Options { reset_after: Some(5_000_000), ..proxy::Options::default() };
    let proxy = Proxy::start(registry.address(), way);
    let log = sandbox.path("log");
    let log_options = ["--debug", "--log-format", "json", "--log", log.to_str().unwrap()];
    let reference = format!("{}/sci:2", proxy.address());
    let digest = sandbox.ok(&[&log_options[..], &["pull", "--tls-verify=false", &reference]].concat());
    assert_eq!(Some(digest.trim().to_owned()), environment::image_digest("sci:2"));
    let events = events(&log);
    let bodies = with_message(&events, "body received");
    for layer in with_message(&events, "layer ingested") {
        let body = bodies.iter().find(|body| body["bytes"] == layer["blob_bytes"]).unwrap();
        assert_eq!(body["bytes"], body["wire_bytes"], "{body}");
    }
    let resumes: u64 = bodies.iter().map(|body| body["resumes"].as_u64().unwrap()).sum();
    assert!(resumes > 10, "{resumes}");
}

#[test]
fn a_registry_that_asks_to_wait_is_waited_for() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let reference = hub.serve(&image(&[1000]), "app", "1");
    let busy = || Rule::on("/manifests/").fault(Fault::status(429));
    let wait = |seconds: &str| Fault::Header("retry-after", Some(seconds.to_owned()));
    hub.registry.add_rule(busy().times(1).fault(wait("1")));
    let started = Instant::now();
    sandbox.pull(&reference);
    assert!(started.elapsed() >= Duration::from_secs(1), "it came back too early");
    hub.registry.add_rule(busy().fault(wait("7200")));
    let output = sandbox.run(&["pull", "--tls-verify=false", &reference]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("7200 s") && output.stderr.contains("hint:"), "{}", output.stderr);
}

#[test]
fn a_registry_that_only_fails_is_given_up_and_leaves_nothing() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let reference = hub.serve(&image(&[1000, 2000]), "app", "1");
    hub.registry.add_rule(Rule::on("/blobs/").fault(Fault::status(503)));
    sandbox.run(&["pull", "--tls-verify=false", "--retry=0", &reference]);
    let before = sandbox.listing();
    let output = sandbox.run(&["pull", "--tls-verify=false", "--retry=1", &reference]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("status 503") && output.stderr.contains("2 tries"), "{}", output.stderr);
    before.assert_same(&sandbox.listing());
    // Without further tries one is all there is.
    hub.registry.take_requests();
    let output = sandbox.run(&["pull", "--tls-verify=false", "--retry=0", &reference]);
    assert!(output.stderr.contains("status 503") && !output.stderr.contains("tries"), "{}", output.stderr);
    assert_eq!(hub.take_blob_requests().len(), 1);
    // And by default it is five; the waits between them are told.
    let output = sandbox.run(&["pull", "--tls-verify=false", &reference]);
    assert!(output.stderr.contains("5 tries") && output.stderr.contains("trying again"), "{}", output.stderr);
    assert_eq!(hub.take_blob_requests().len(), 5);
    // What is told is where it was asked, which was begun before anyone knew that it speaks no TLS.
    hub.registry.add_rule(Rule::on("/manifests/").fault(Fault::status(503)));
    let output = sandbox.run(&["pull", "--tls-verify=false", "--retry=2", &reference]);
    let told = format!("url={}/v2/app/manifests/1 ", hub.registry.address());
    assert!(output.stderr.contains(&told) && !output.stderr.contains("https://"), "{}", output.stderr);
}

#[test]
fn a_tag_that_moves_in_between_changes_nothing() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let (first, second) = (image(&[1000]), image(&[2000]));
    let index = Image::index(stos_testkit::image_builder::Dialect::Oci, &[&first]);
    hub.serve(&second, "app", "other");
    let reference = hub.serve_index(&index, &[&first], "app", "1");
    let moves = Fault::MoveTag("app".into(), "1".into(), second.manifest.digest.clone());
    hub.registry.add_rule(Rule::on("/manifests/1").fault(moves));
    hub.registry.take_requests();
    assert_eq!(sandbox.pull(&reference), first.manifest.digest);
    let by_tag = |request: &String| request.ends_with("/manifests/1");
    assert_eq!(hub.registry.take_requests().iter().filter(|request| by_tag(request)).count(), 1);
    assert_eq!(sandbox.pull(&reference), second.manifest.digest);
}

#[test]
fn jobs_say_how_many_layers_come_at_a_time() {
    require!(Need::Root);
    let hub = Hub::new();
    let reference = hub.serve(&image(&[1000, 2000, 3000, 4000]), "app", "1");
    hub.registry.add_rule(Rule::on("/blobs/").fault(Fault::Late(Duration::from_secs(1))));
    let connections = |jobs: &str| {
        let sandbox = Sandbox::new();
        hub.registry.take_requests();
        sandbox.ok(&["pull", "--tls-verify=false", "--jobs", jobs, &reference]);
        let mut used: Vec<_> = hub.registry.requests().iter().map(|request| request.connection).collect();
        used.sort_unstable();
        used.dedup();
        used.len()
    };
    assert_eq!(connections("1"), 1);
    let several = connections("4");
    assert!((2..=4).contains(&several), "{several}");
    for jobs in ["0", "65", "many"] {
        let output = Sandbox::new().run(&["pull", "--jobs", jobs, &reference]);
        assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{jobs}");
    }
}

/// Starts a command whose first layer stands still, and waits until it does.
fn start_and_stall(sandbox: &Sandbox, hub: &Hub, arguments: &[&str]) -> Child {
    hub.registry.clear_rules();
    hub.registry.add_rule(Rule::on("/blobs/").after(1).fault(Fault::Stall(40_000)));
    hub.registry.take_requests();
    let mut command = sandbox.command();
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    eventually("a layer is on its way", || {
        hub.registry.requests().len() >= 3 && sandbox.data_root().join("staging").is_dir() && {
            let is_list = |name: &String| name.starts_with("lease-");
            !sandbox.names("staging").is_empty() && sandbox.names("locks").iter().any(is_list)
        }
    });
    child
}

fn send(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Waits for the end, which comes soon: the layer would stand still for a minute.
fn ended_by(mut child: Child) -> (Option<i32>, String) {
    let started = Instant::now();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    assert!(started.elapsed() < Duration::from_secs(50), "it did not end at once");
    (status.signal(), said)
}

#[test]
fn a_signal_ends_a_pull_and_leaves_nothing_half_done() {
    require!(Need::Root);
    use rustix::process::Signal;
    on_both_backends(|| {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let reference = hub.serve(&image(&[200_000, 100_000]), "app", "1");
        for (signal, arguments) in [
            (Signal::INT, &["pull", "-q", "--tls-verify=false", &reference][..]),
            (Signal::TERM, &["image", "pull", "-q", "--tls-verify=false", &reference]),
            (Signal::HUP, &["create", "-q", "--tls-verify=false", &reference]),
            (Signal::INT, &["run", "--rm", "-q", "--tls-verify=false", &reference]),
        ] {
            let child = start_and_stall(&sandbox, &hub, arguments);
            send(&child, signal);
            let (by, said) = ended_by(child);
            assert_eq!((by, said.as_str()), (Some(signal.as_raw()), ""), "{arguments:?}");
            // At once, unless the disk is slow: then it takes a moment longer, in the background.
            eventually("nothing is left", || {
                sandbox.names("staging").is_empty() && sandbox.names("locks") == ["lease"]
            });
            for directory in ["layers/sha256", "chains/sha256", "containers", "names"] {
                assert_eq!(sandbox.names(directory), [""; 0], "{arguments:?}");
            }
        }
        hub.registry.clear_rules();
        sandbox.pull(&reference);
    });
}

#[test]
fn a_signal_that_the_caller_ignores_is_ignored() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let reference = hub.serve(&image(&[200_000]), "app", "1");
    hub.registry.add_rule(Rule::on("/blobs/").after(1).times(1).fault(Fault::Late(Duration::from_secs(1))));
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    let real = sandbox.command();
    command.arg(real.get_program()).args(real.get_args()).args(["pull", "--tls-verify=false", &reference]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().unwrap();
    eventually("the layer was asked for", || hub.registry.requests().len() >= 3);
    send(&child, rustix::process::Signal::HUP);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_layer_that_fails_ends_the_others_waits() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = image(&[200_000, 100_000]);
    let reference = hub.serve(&image, "app", "1");
    // One stands still, which would be waited for for a minute; the other one is damaged.
    hub.registry.add_rule(Rule::on(&image.layers[0].digest).fault(Fault::Stall(40_000)));
    hub.registry.add_rule(Rule::on(&image.layers[1].digest).fault(Fault::Late(Duration::from_millis(200))));
    hub.registry.add_rule(Rule::on(&image.layers[1].digest).fault(Fault::Corrupt));
    let started = Instant::now();
    let output = sandbox.run(&["pull", "--tls-verify=false", &reference]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains(&image.layers[1].digest), "{}", output.stderr);
    assert!(started.elapsed() < Duration::from_secs(50), "the layer that stood still was waited for");
    assert_eq!(sandbox.names("staging"), [""; 0]);
}
