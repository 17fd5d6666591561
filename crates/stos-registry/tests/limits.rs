// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Servers and proxies that take their time with what nobody counts, and what their answers mean for the next request.

mod common;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use stos_registry::{Endpoint, Error, Proxy, Role};
use stos_testkit::registry::{Auth, Fault, Rule};

/// Longer than any limit of these tests, and shorter than a person's patience.
const TOO_LONG: Duration = Duration::from_secs(20);

/// Listens on loopback and gives each connection, numbered from 0, to `serve`, in a thread of its own.
fn listen(serve: impl Fn(usize, TcpStream) -> io::Result<()> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let serve = Arc::clone(&serve);
            // Ends with its client.
            thread::spawn(move || drop(serve(number, stream)));
        }
    });
    address
}

/// Reads a request's head and gives its first line.
fn read_head(stream: &TcpStream) -> io::Result<String> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    Ok(first)
}

/// Sends the same again and again, until the client has gone.
fn forever(mut stream: TcpStream, bytes: &[u8], pause: Duration) -> io::Result<()> {
    loop {
        stream.write_all(bytes)?;
        thread::sleep(pause);
    }
}

/// Copies both ways, until one end is over.
fn pass_on(client: TcpStream, to: &str) -> io::Result<()> {
    let server = TcpStream::connect(to)?;
    let (mut from, mut into) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        drop(io::copy(&mut from, &mut into));
        drop(into.shutdown(Shutdown::Write));
    });
    let (mut from, mut into) = (server, client);
    io::copy(&mut from, &mut into)?;
    into.shutdown(Shutdown::Write)
}

#[test]
fn trailers_without_end_end() {
    let address = listen(|_, mut stream| {
        read_head(&stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")?;
        forever(stream, b"x-more: y\r\n", Duration::from_millis(10))
    });
    let started = Instant::now();
    let options = set(quick_insecure(), |options| options.timeouts.document = Duration::from_millis(600));
    let error = client_at(&address, &options).fetch_manifest(REPOSITORY, "1", None).unwrap_err();
    // A server may also send more of them than the library takes.
    assert!(matches!(error, Error::Stalled { .. } | Error::Protocol { .. }), "{error}");
    let error = fetch_layer(&client_at(&address, &quick_insecure())).unwrap_err();
    assert!(started.elapsed() < TOO_LONG, "{error}");
}

#[test]
fn a_proxy_that_answers_byte_by_byte_is_given_up() {
    let address = listen(|_, stream| {
        read_head(&stream)?;
        forever(stream, b"H", Duration::from_millis(50))
    });
    let registry = registry(true, Auth::Open);
    let mut endpoint = endpoint(&registry, Role::Registry);
    endpoint.proxies = Some(Arc::new(Proxy::new(false, &address, None).unwrap()));
    let options = set(once(), |options| options.timeouts.connect = Duration::from_millis(500));
    let started = Instant::now();
    let error = fetch_layer(&stos_registry::Registry::over(vec![endpoint], &options).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. } | Error::Unreachable { .. }), "{error}");
    assert!(started.elapsed() < TOO_LONG && registry.requests().is_empty());
}

#[test]
fn a_body_that_nobody_needs_holds_nothing_up() {
    let registry = plain();
    let target = format!("{}/v2/{REPOSITORY}/blobs/{}", registry.base_url(), layer().digest);
    let redirect = format!("HTTP/1.1 307 Elsewhere\r\nlocation: {target}\r\ncontent-length: 60000\r\n\r\n");
    let refusal = "HTTP/1.1 404 Not Found\r\ncontent-length: 60000\r\n\r\n";
    for (answer, is_redirect) in [(redirect.as_str(), true), (refusal, false)] {
        let answer = answer.to_owned();
        let address = listen(move |_, mut stream| {
            read_head(&stream)?;
            stream.write_all(answer.as_bytes())?;
            forever(stream, b"xx", Duration::from_millis(10))
        });
        let started = Instant::now();
        match fetch_layer(&client_at(&address, &insecure())) {
            Ok(bytes) => assert!(is_redirect && bytes == LAYER),
            Err(error) => assert!(!is_redirect && matches!(error, Error::NotFound { .. }), "{error}"),
        }
        assert!(started.elapsed() < TOO_LONG);
    }
}

#[test]
fn a_proxy_that_is_overloaded_is_asked_again() {
    let registry = registry(true, Auth::bearer());
    let behind = registry.address();
    let address = listen(move |number, mut stream| {
        let head = read_head(&stream)?;
        if number < 2 || !head.starts_with("CONNECT ") {
            return stream.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        stream.write_all(b"HTTP/1.1 200 Yes\r\n\r\n")?;
        pass_on(stream, &behind)
    });
    for tls_verify in [true, false] {
        let mut endpoint = Endpoint::new(registry.address(), Role::Registry);
        endpoint.tls_verify = tls_verify;
        endpoint.extra_roots = vec![registry.ca_der().unwrap().to_vec()];
        endpoint.proxies = Some(Arc::new(Proxy::new(false, &address, None).unwrap()));
        // Without verification too: what is busy has not said that there is no TLS.
        let options = set(patient(), |options| options.tls_verify = tls_verify);
        let client = stos_registry::Registry::over(vec![endpoint.clone()], &options).unwrap();
        assert_eq!(fetch_layer(&client).unwrap(), LAYER);
    }
    let busy = listen(|_, mut stream| {
        read_head(&stream)?;
        stream.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    });
    let mut endpoint = endpoint(&registry, Role::Registry);
    endpoint.proxies = Some(Arc::new(Proxy::new(false, &busy, None).unwrap()));
    let error = fetch_layer(&over(vec![endpoint])).unwrap_err();
    assert!(matches!(&error, Error::Proxy { status: Some(503), .. }) && error.is_transient(), "{error}");
}

#[test]
fn a_server_that_sends_plain_http_to_https_is_spoken_to_over_tls() {
    // Both on one port, as nginx has it (`error_page 497`), and with a login, which the TLS side asks for.
    let registry = registry(true, Auth::bearer_for("user", "s3cret"));
    let behind = registry.address();
    let in_clear = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&in_clear);
    let address = listen(move |_, mut stream| {
        let mut first = [0];
        stream.peek(&mut first)?;
        if first[0] == 22 {
            return pass_on(stream, &behind);
        }
        count.fetch_add(1, Ordering::Relaxed);
        let head = read_head(&stream)?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let host = stream.local_addr()?;
        let answer = format!("HTTP/1.1 301 Moved\r\nlocation: https://{host}{path}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes())?;
        stream.read(&mut first).map(drop)
    });
    let mut endpoint =
        with(Endpoint::new(address, Role::Registry), stos_registry::Credential::password("user", "s3cret"));
    endpoint.tls_verify = false;
    assert_eq!(fetch_layer(&over(vec![endpoint])).unwrap(), LAYER);
    assert_eq!(in_clear.load(Ordering::Relaxed), 1, "what it speaks is remembered");
}

#[test]
fn a_name_that_nobody_has_does_not_pass() {
    // `.invalid` is nobody's (RFC 6761).
    let error = fetch_layer(&client_at("registry.invalid", &once())).unwrap_err();
    let Error::Unreachable { source, .. } = &error else { panic!("{error}") };
    // A machine that has no resolver, or cannot reach it, says that it may pass.
    let is_final = !source.to_string().contains("Temporary failure") && !source.to_string().contains("Try again");
    assert_eq!(is_final, !error.is_transient(), "{error}");
}

#[test]
fn no_address_moves_the_cursor() {
    let registry = plain();
    registry.add_rule(Rule::on("/blobs/").fault(Fault::redirect("/x\u{9b}2J\u{202e}evil")));
    registry.add_rule(Rule::on("evil").fault(Fault::status(503)));
    let error = fetch_layer(&client(&registry)).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("503") && said.contains("evil"), "{said}");
    assert!(!said.contains('\u{9b}') && !said.contains('\u{202e}'), "{said:?}");
}
