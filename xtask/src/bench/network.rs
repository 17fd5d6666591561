// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What hangs on the network: a pull of what is there, and a push.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use stos_testkit::proxy::{self, Proxy};

use super::book::{Book, Unit};
use super::clock;
use super::engines::{Act, Engine};
use super::stand::{Stand, perform};
use super::{disk, space};

/// How long a byte takes to the registry, and one back.
const LATENCY: Duration = Duration::from_millis(50);
/// The group of the rows.
pub const GROUP: &str = "network";

/// Measures both.
pub fn measure(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    present_pulls(stand, book)?;
    pushes(stand, book)
}

/// Pulls an image that is there through a way with latency, and asks for its manifest over a bare socket, in turn.
fn present_pulls(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    for (address, scheme) in [(&stand.settings.registry, "http"), (&stand.settings.tls, "https")] {
        let way = proxy::Options { latency: LATENCY, ..proxy::Options::default() };
        let proxy = Proxy::start(address, way);
        let reference = format!("{}/deb:12", proxy.address());
        let what = format!("pull of deb:12 where it is there, 50 ms each way, {scheme}");
        let mut engines = stand.engines_for(Act::Pull(&reference));
        engines.retain(|engine| ["stos", "podman", "containerd overlayfs"].contains(&engine.name()));
        let pull = |engine: &dyn Engine| -> anyhow::Result<clock::Sample> {
            let trusting = |command: Command| trust(command, engine, stand, scheme);
            let commands = engine.commands(Act::Pull(&reference)).unwrap_or_default();
            clock::time(&mut commands.into_iter().map(trusting).collect::<Vec<_>>())
        };
        for engine in &engines {
            book.attempt(GROUP, &what, engine.name(), || pull(*engine))?;
        }
        for _ in 0..stand.settings.repeats() {
            if scheme == "http" {
                book.add_time(GROUP, &what, "one request", one_request(&proxy.address().to_string())?);
            }
            for engine in &engines {
                if let Some(sample) = book.attempt(GROUP, &what, engine.name(), || pull(*engine))? {
                    book.add_time(GROUP, &what, engine.name(), sample.wall);
                }
            }
        }
        for engine in engines {
            if !book.has_failed(GROUP, &what, engine.name()) {
                perform(engine, Act::RemoveImage(&reference))?;
            }
        }
    }
    Ok(())
}

/// The same command as one that verifies the registry's certificate, where there is one.
fn trust(command: Command, engine: &dyn Engine, stand: &Stand, scheme: &str) -> Command {
    if scheme == "http" {
        return command;
    }
    let mut trusting = Command::new(command.get_program());
    let certificates = stand.settings.certificates.display();
    for word in command.get_args() {
        match word.to_str() {
            Some("--tls-verify=false") => trusting.arg(format!("--cert-dir={certificates}")),
            Some("--plain-http") if engine.daemon().is_some() => {
                // The service that pulls by default takes no certificate from its client.
                trusting.args(["--local", "--tlscacert", &format!("{certificates}/ca.crt")])
            }
            _ => trusting.arg(word),
        };
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => trusting.env(name, value),
            None => trusting.env_remove(name),
        };
    }
    trusting
}

/// A new connection, one request, its answer.
fn one_request(address: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    let accept = "application/vnd.oci.image.manifest.v1+json";
    let head = format!(
        "HEAD /v2/deb/manifests/12 HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let took = start.elapsed();
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "the registry said {answer:?}");
    Ok(took)
}

/// Each round pushes with every engine once, to a registry that has nothing of it.
fn pushes(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    let image = if stand.settings.is_quick { "deb:12" } else { "sci:2" };
    let from = stand.image(image);
    let ways: [(&str, &str, &[&str]); 5] = [
        ("stos", "stos", &["--compress=gzip"]),
        ("stos, zstd", "stos", &["--compress=zstd"]),
        ("stos, not compressed", "stos", &["--compress=none"]),
        ("podman", "podman", &[]),
        ("containerd overlayfs", "containerd overlayfs", &[]),
    ];
    let what = format!("push of {image} to an empty registry");
    for round in 0..stand.settings.rounds {
        for (column, name, options) in &ways {
            let Some(engine) = stand.engine(name) else { continue };
            stand.ensure_image(engine, &from)?;
            let to = format!("{}/round-{round}/{image}", stand.settings.sink);
            let Some(mut commands) = push(engine, &from, &to, options) else { continue };
            empty(stand)?;
            disk::write_back();
            if let Some(sample) = book.attempt(GROUP, &what, column, || clock::time(&mut commands))? {
                book.add_time(GROUP, &what, column, sample.wall);
                let sent = space::disk_use(&stand.settings.sink_storage)?;
                book.add(GROUP, &format!("{what}, sent"), column, Unit::Megabytes, sent as f64 / 1e6);
            }
        }
    }
    empty(stand)
}

/// Takes everything from the registry that may be written to: it looks at its files for each request.
fn empty(stand: &Stand) -> anyhow::Result<()> {
    for entry in fs::read_dir(&stand.settings.sink_storage).into_iter().flatten() {
        fs::remove_dir_all(entry?.path())?;
    }
    Ok(())
}

/// An engine's push. containerd, which keeps what came, sends it as it is.
fn push(engine: &dyn Engine, from: &str, to: &str, options: &[&str]) -> Option<Vec<Command>> {
    // Its words up to the verb are those of its pull.
    let pull = engine.commands(Act::Pull(from))?.into_iter().next()?;
    let mut command = Command::new(pull.get_program());
    for (name, value) in pull.get_envs().filter(|(_, value)| value.is_none()) {
        debug_assert!(value.is_none());
        command.env_remove(name);
    }
    let words = pull.get_args().map(|word| word.to_string_lossy().into_owned());
    command.args(words.take_while(|word| word != "pull"));
    match engine.daemon() {
        Some(_) => command.args(["push", "--plain-http", to, from]),
        None => command.args(["push", "--quiet", "--tls-verify=false"]).args(options).args([from, to]),
    };
    Some(vec![command])
}
