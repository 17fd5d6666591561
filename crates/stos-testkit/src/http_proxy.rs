// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An HTTP proxy on loopback: `CONNECT` (RFC 9110, 9.3.6) and requests in absolute form (RFC 9112, 3.2.2).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::{ServerConnection, StreamOwned};

use crate::registry::tls::Tls;

/// How a proxy is started.
#[derive(Debug, Default)]
pub struct ProxyOptions {
    /// The user and the password that it wants.
    pub login: Option<(String, String)>,
    /// Whether it is itself spoken to over TLS, with a certificate by a CA of its own.
    pub tls: bool,
    /// Whether it refuses `CONNECT` with 403, as many do to ports other than 443.
    pub refuses_tunnels: bool,
    /// Names that it knows, as `host:port`, and the addresses that they lead to. Others it looks up.
    pub names: Vec<(String, String)>,
}

/// A running proxy. It ends when this is dropped; tunnels end with their peers.
#[derive(Debug)]
pub struct HttpProxy {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    login: Option<String>,
    tls: Option<Tls>,
    refuses_tunnels: bool,
    names: Vec<(String, String)>,
    heads: Mutex<Vec<Vec<String>>>,
    is_over: Mutex<bool>,
}

impl HttpProxy {
    /// Starts a proxy on a free port of loopback.
    ///
    /// # Panics
    /// Where no port can be had.
    pub fn start(options: ProxyOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let login = options.login.map(|(user, password)| STANDARD.encode(format!("{user}:{password}")));
        let shared = Arc::new(Shared {
            address: listener.local_addr().expect("a bound socket has an address"),
            login: login.map(|login| format!("Basic {login}")),
            tls: options.tls.then(|| Tls::new(Vec::new(), None)),
            refuses_tunnels: options.refuses_tunnels,
            names: options.names,
            heads: Mutex::default(),
            is_over: Mutex::default(),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming() {
                    if *shared.is_over.lock().unwrap_or_else(PoisonError::into_inner) {
                        break;
                    }
                    let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                    // What goes wrong is seen on both sides of the proxy.
                    thread::spawn(move || drop(shared.serve(stream)));
                }
            }
        });
        Self { shared, acceptor: Some(acceptor) }
    }

    /// Gives `http://host:port`, or `https://host:port`.
    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.shared.address)
    }

    /// Gives the CA's certificate in DER, where TLS is spoken.
    pub fn ca_der(&self) -> Option<&[u8]> {
        self.shared.tls.as_ref().map(Tls::ca_der)
    }

    /// Gives the first lines of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.heads().into_iter().map(|head| head[0].clone()).collect()
    }

    /// Gives the heads of all requests so far, as they came, line by line.
    pub fn heads(&self) -> Vec<Vec<String>> {
        self.shared.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        *self.shared.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        drop(TcpStream::connect(self.shared.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

/// Both directions of a connection.
trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let raw = stream.try_clone()?;
        let stream: Box<dyn Duplex> = match &self.tls {
            Some(tls) => {
                let connection = ServerConnection::new(tls.config()).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(connection, stream))
            }
            None => Box::new(stream),
        };
        let mut stream = BufReader::new(stream);
        while let Some(head) = read_head(&mut stream)? {
            self.heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
            if let Some(refusal) = self.refusal(&head) {
                let answer = format!("HTTP/1.1 {refusal} Refused\r\ncontent-length: 0\r\n\r\n");
                send(&mut stream, answer.as_bytes())?;
                continue;
            }
            let mut words = head[0].split(' ');
            let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if method == "CONNECT" {
                let there = self.connect(target)?;
                send(&mut stream, b"HTTP/1.1 200 Connection established\r\n\r\n")?;
                return tunnel(stream, &raw, there);
            }
            let rest = target.strip_prefix("http://").ok_or(io::ErrorKind::InvalidData)?;
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            forward(&mut stream, &head, method, path, self.connect(authority)?)?;
        }
        Ok(())
    }

    fn connect(&self, authority: &str) -> io::Result<TcpStream> {
        let known = self.names.iter().find(|(name, _)| name == authority).map(|(_, address)| address.as_str());
        TcpStream::connect(known.unwrap_or(authority))
    }

    fn refusal(&self, head: &[String]) -> Option<u16> {
        let shown = header(head, "proxy-authorization");
        if self.login.is_some() && shown != self.login.as_deref() {
            return Some(407);
        }
        (self.refuses_tunnels && head[0].starts_with("CONNECT ")).then_some(403)
    }
}

fn header<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let pairs = head[1..].iter().filter_map(|line| line.split_once(':'));
    pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.take(64 << 10).read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" if head.is_empty() => {}
            "" => return Ok(Some(head)),
            line => head.push(line.to_owned()),
        }
    }
}

fn send(stream: &mut BufReader<Box<dyn Duplex>>, bytes: &[u8]) -> io::Result<()> {
    stream.get_mut().write_all(bytes)?;
    stream.get_mut().flush()
}

/// Sends one request on, in origin form and without what was the proxy's, and its answer back, whose length is told.
fn forward(
    stream: &mut BufReader<Box<dyn Duplex>>,
    head: &[String],
    method: &str,
    path: &str,
    mut there: TcpStream,
) -> io::Result<()> {
    let kept = head[1..].iter().filter(|line| !line.to_ascii_lowercase().starts_with("proxy-"));
    let lines: Vec<&str> = kept.map(String::as_str).collect();
    there.write_all(format!("{method} {path} HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n")).as_bytes())?;
    let length = |head: &[String]| header(head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    io::copy(&mut stream.take(length(head)), &mut there)?;
    let mut there = BufReader::new(there);
    let answer = read_head(&mut there)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    send(stream, format!("{}\r\n\r\n", answer.join("\r\n")).as_bytes())?;
    if method != "HEAD" {
        io::copy(&mut there.take(length(&answer)), stream.get_mut())?;
    }
    stream.get_mut().flush()
}

/// Copies both ways until one end is over. By turns, for nobody can read and write TLS at once.
fn tunnel(mut here: BufReader<Box<dyn Duplex>>, raw: &TcpStream, mut there: TcpStream) -> io::Result<()> {
    let turn = Some(Duration::from_millis(2));
    raw.set_read_timeout(turn)?;
    there.set_read_timeout(turn)?;
    there.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match here.read(&mut buffer) {
            Ok(0) => return there.shutdown(Shutdown::Both),
            Ok(n) => there.write_all(&buffer[..n])?,
            Err(error) if is_turn_over(&error) => {}
            Err(error) => return Err(error),
        }
        match there.read(&mut buffer) {
            Ok(0) => return raw.shutdown(Shutdown::Both),
            Ok(n) => send(&mut here, &buffer[..n])?,
            Err(error) if is_turn_over(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_turn_over(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
