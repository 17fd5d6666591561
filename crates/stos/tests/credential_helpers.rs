// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Credential helpers that fail, hang, or are asked by a command that ends.

mod sandbox;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use sandbox::shell::eventually;
use sandbox::{Hub, Output, Sandbox, output};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::registry::{Auth, Options};
use stos_testkit::require;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// A registry that gives everyone a token for its image, and its reference.
fn registry() -> (Hub, String) {
    let hub = Hub::with(Options { auth: Auth::bearer(), ..Options::default() });
    let tar = TarBuilder::new().entry(Entry::file("f", "x")).finish();
    let reference = hub.serve(&ImageBuilder::new().layer(Layer::gzip(tar)).command(&["/f"]).build(), "team/app", "1");
    (hub, reference)
}

/// A sandbox with the helper `test`, whose file docker's configuration is to be.
fn sandbox(script: &str, configuration: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let (helper, file) = (sandbox.path("bin/docker-credential-test"), sandbox.home().join(".docker/config.json"));
    for path in [&helper, &file] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
    }
    fs::write(&file, configuration).unwrap();
    // Another process writes it: a file that this one has open for writing could not be run by another thread's child (ETXTBSY).
    let mut shell = Command::new("sh");
    shell.args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", script]).arg(&helper);
    assert_eq!(output(&mut shell).code, 0);
    sandbox
}

fn command(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let mut stos = sandbox.command();
    let path = format!("{}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap());
    stos.env("PATH", path).args(arguments);
    stos
}

fn run(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    output(&mut command(sandbox, arguments))
}

#[test]
fn a_store_that_fails_keeps_nobody_from_what_everyone_may_have() {
    require!(Need::Root, Need::Binary);
    let (hub, reference) = registry();
    let sandbox = sandbox("echo 'no session bus' >&2; exit 1", "{\"credsStore\": \"test\"}");
    let pulled = run(&sandbox, &["pull", "--tls-verify=false", &reference]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    for word in ["docker-credential-test", "no session bus", "config.json: credsStore"] {
        assert!(pulled.stderr.contains(word), "{word}: {}", pulled.stderr);
    }
    let explained = run(&sandbox, &["registry", "explain", &reference]);
    assert!(explained.stdout.contains("no session bus"), "{}", explained.stdout);
    // Who stores in it is told.
    let file = sandbox.home().join(".docker/config.json");
    let arguments = ["login", "--tls-verify=false", "-u", "u", "-p", "p", "--authfile", file.to_str().unwrap()];
    let login = run(&sandbox, &[&arguments[..], &[&hub.registry.address()]].concat());
    assert!(login.code == 1 && login.stderr.contains("docker-credential-test store failed"), "{login:?}");
    // Who is named for the registry itself must answer.
    let address = hub.registry.address();
    fs::write(&file, format!("{{\"credHelpers\": {{\"{address}\": \"test\"}}}}")).unwrap();
    let failed = run(&sandbox, &["pull", "--tls-verify=false", "--authfile", file.to_str().unwrap(), &reference]);
    assert!(failed.code == 1 && failed.stderr.contains("docker-credential-test get failed"), "{failed:?}");
}

#[test]
fn a_helper_ends_with_the_command_that_a_signal_ends() {
    require!(Need::Root, Need::Binary);
    let (hub, reference) = registry();
    let address = hub.registry.address();
    for (arguments, signal) in [
        (&["pull", "--tls-verify=false", &reference][..], "TERM"),
        (&["pull", "--tls-verify=false", &reference], "KILL"),
        (&["login", "--tls-verify=false", "-u", "u", "-p", "p", &address], "INT"),
    ] {
        let script = "echo $$ > \"$HOME/pid.new\"; mv \"$HOME/pid.new\" \"$HOME/pid\"; exec sleep 1000";
        let sandbox = sandbox(script, "{\"credsStore\": \"test\"}");
        let mut stos = command(&sandbox, arguments).stderr(Stdio::null()).spawn().unwrap();
        let file = sandbox.home().join("pid");
        eventually("the helper runs", || file.exists());
        let helper = fs::read_to_string(&file).unwrap();
        let helper = Path::new("/proc").join(helper.trim()).join("stat");
        let sleeps = || fs::read_to_string(&helper).is_ok_and(|it| it.contains("(sleep) ") && !it.contains(") Z "));
        eventually("it sleeps", sleeps);
        assert_eq!(output(Command::new("kill").args(["-s", signal, &stos.id().to_string()])).code, 0);
        assert!(!stos.wait().unwrap().success());
        eventually("the helper has ended", || !sleeps());
    }
}
