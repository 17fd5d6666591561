// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A TCP proxy before any server, which makes the way to it worse: connections that are reset, latency, a narrow line.
//!
//! It passes bytes on and looks at none, so TLS goes through. It counts what the server sends and how often clients come.
//!
//! ```
//! use stos_testkit::proxy::{Options, Proxy};
//! use stos_testkit::registry::{self, Registry};
//! let registry = Registry::start(registry::Options::default());
//! let proxy = Proxy::start(registry.address(), Options { reset_after: Some(64 << 10), ..Options::default() });
//! let reference = format!("{}/app:1", proxy.address());
//! ```

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How much is passed on at once, in bytes.
const CHUNK: usize = 16 << 10;
/// How many chunks wait between reader and writer of each direction of a connection.
const CHUNKS: usize = 4;
/// How many do where there is latency: what is on the way then is no reason to stop reading.
const CHUNKS_ON_THE_WAY: usize = 1024;

/// What is wrong with the way.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Each connection is reset when so many bytes of the server's have gone to the client.
    pub reset_after: Option<u64>,
    /// How long each byte takes, each way. That a connection is made takes no time.
    pub latency: Duration,
    /// How many bytes a second go to the client over one connection.
    pub bytes_per_second: Option<u64>,
}

/// A running proxy. When it is dropped its connections break and its threads end.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    server: String,
    options: Mutex<Options>,
    connections: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    is_stopped: AtomicBool,
}

impl Proxy {
    /// Starts a proxy on a free port of loopback, before `server`: `host:port`.
    ///
    /// # Panics
    /// Where no port can be had.
    pub fn start(server: impl Into<String>, options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let shared = Arc::new(Shared {
            address: listener.local_addr().expect("a bound socket's address"),
            server: server.into(),
            options: Mutex::new(options),
            connections: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { shared, acceptor: Some(acceptor) }
    }

    /// Gives `host:port`, to be used instead of the server's.
    pub fn address(&self) -> String {
        self.shared.address.to_string()
    }

    /// Changes the way for connections that come from now on.
    pub fn set_options(&self, options: Options) {
        *self.shared.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
    }

    /// Gives how many connections clients have made.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Gives how many bytes have gone to clients.
    pub fn bytes_to_clients(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Gives how many bytes have gone to the server.
    pub fn bytes_to_server(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        // The acceptor looks at the flag when it is woken; where nobody can wake it, it has ended already.
        drop(TcpStream::connect(self.shared.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

/// Serves each connection on threads of its own. At the end all of them are broken and joined.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut served: Vec<([Weak<TcpStream>; 2], JoinHandle<()>)> = Vec::new();
    for client in listener.incoming() {
        if shared.is_stopped.load(Ordering::Relaxed) {
            break;
        }
        let Ok(client) = client.map(Arc::new) else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        // A server that is not there ends the connection: that is what its client would see.
        let Ok(server) = TcpStream::connect(&shared.server).map(Arc::new) else { continue };
        let ends = [Arc::downgrade(&client), Arc::downgrade(&server)];
        let thread = std::thread::spawn({
            let shared = Arc::clone(shared);
            move || serve(&client, &server, &shared)
        });
        served.push((ends, thread));
        served.retain(|(_, thread)| !thread.is_finished());
    }
    for (ends, thread) in served {
        for end in ends.iter().filter_map(Weak::upgrade) {
            // Where the peer has closed it already, it is as broken as it should be.
            drop(end.shutdown(Shutdown::Both));
        }
        drop(thread.join());
    }
}

/// Passes bytes on both ways until both are over, or the connection is reset.
fn serve(client: &Arc<TcpStream>, server: &Arc<TcpStream>, shared: &Shared) {
    let options = shared.options.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for end in [client, server] {
        // Without it small messages would wait for each other, which is not what is asked for.
        drop(end.set_nodelay(true));
    }
    let up = Way { limit: None, rate: None, latency: options.latency, count: &shared.received };
    let limit = options.reset_after;
    let down = Way { limit, rate: options.bytes_per_second, latency: options.latency, count: &shared.sent };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            up.pass(client, server);
            // The server may have something to say yet.
            drop(server.shutdown(Shutdown::Write));
        });
        if down.pass(server, client) {
            // An end that lingers for no time is a reset, and what was not sent yet is lost.
            let _ = rustix::net::sockopt::set_socket_linger(&**client, Some(Duration::ZERO));
            drop(client.shutdown(Shutdown::Read));
            drop(server.shutdown(Shutdown::Both));
        } else {
            drop(client.shutdown(Shutdown::Write));
        }
    });
}

/// One direction of a connection.
struct Way<'a> {
    limit: Option<u64>,
    rate: Option<u64>,
    latency: Duration,
    count: &'a AtomicU64,
}

impl Way<'_> {
    /// Passes on what comes until it ends, or `limit` is reached: tells whether that is why.
    fn pass(&self, from: &TcpStream, to: &TcpStream) -> bool {
        let (sender, receiver) = sync_channel(if self.latency.is_zero() { CHUNKS } else { CHUNKS_ON_THE_WAY });
        std::thread::scope(|scope| {
            scope.spawn(move || read_all(from, &sender));
            let is_limit = self.write_all(receiver, to);
            if is_limit {
                // The reader would wait for a server that has no reason to say more.
                drop(from.shutdown(Shutdown::Read));
            }
            is_limit
        })
    }

    /// Writes each chunk when its time has come.
    fn write_all(&self, chunks: Receiver<(Instant, Vec<u8>)>, mut to: &TcpStream) -> bool {
        let mut sent = 0;
        for (came, mut chunk) in chunks {
            std::thread::sleep((came + self.latency).saturating_duration_since(Instant::now()));
            if let Some(limit) = self.limit {
                chunk.truncate(usize::try_from(limit - sent).unwrap_or(usize::MAX));
            }
            if to.write_all(&chunk).is_err() {
                return false;
            }
            sent += chunk.len() as u64;
            self.count.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if self.limit == Some(sent) {
                return true;
            }
            if let Some(rate) = self.rate {
                std::thread::sleep(Duration::from_secs_f64(chunk.len() as f64 / rate as f64));
            }
        }
        false
    }
}

/// Reads until the end or until nobody takes it, and notes when each chunk came.
fn read_all(mut from: &TcpStream, to: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
            Ok(n) if to.send((Instant::now(), buffer[..n].to_vec())).is_err() => return,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{self, Registry};

    fn registry() -> (Registry, String) {
        let registry = Registry::start(registry::Options::default());
        let path = format!("/v2/a/blobs/{}", registry.put_blob(registry::Blob::Pattern(100_000)));
        (registry, path)
    }

    /// Asks over a connection of its own: gives what came, and whether it ended as it should.
    fn get(proxy: &Proxy, path: &str) -> (Vec<u8>, bool) {
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        let is_whole = stream.read_to_end(&mut bytes).is_ok();
        (bytes, is_whole)
    }

    #[test]
    fn bytes_go_through_and_are_counted() {
        let (registry, path) = registry();
        let proxy = Proxy::start(registry.address(), Options::default());
        let (bytes, is_whole) = get(&proxy, &path);
        assert!(is_whole && bytes.starts_with(b"HTTP/1.1 200") && bytes.len() > 100_000);
        assert_eq!((proxy.connections(), proxy.bytes_to_clients()), (1, bytes.len() as u64));
        // Its thread counts them when it has sent them, which may be after the answer.
        let deadline = Instant::now() + Duration::from_secs(60);
        while proxy.bytes_to_server() <= 30 {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn each_connection_is_reset_after_its_bytes() {
        let (registry, path) = registry();
        let proxy = Proxy::start(registry.address(), Options { reset_after: Some(30_000), ..Options::default() });
        for number in 1..=3 {
            let (bytes, is_whole) = get(&proxy, &path);
            assert!(!is_whole && bytes.len() <= 30_000, "{number}: {}", bytes.len());
            assert_eq!((proxy.connections(), proxy.bytes_to_clients()), (number, number * 30_000));
        }
        proxy.set_options(Options::default());
        assert!(get(&proxy, &path).1);
    }

    #[test]
    fn bytes_take_their_time_each_way() {
        let (registry, path) = registry();
        let latency = Duration::from_millis(60);
        let proxy = Proxy::start(registry.address(), Options { latency, ..Options::default() });
        let started = Instant::now();
        assert!(get(&proxy, &path).1);
        assert!(started.elapsed() >= 2 * latency);
        proxy.set_options(Options { bytes_per_second: Some(1_000_000), ..Options::default() });
        let started = Instant::now();
        assert!(get(&proxy, &path).1);
        // 100 kB at 1 MB a second; the pause after the last chunk is nobody's.
        assert!(started.elapsed() >= Duration::from_millis(80));
    }

    #[test]
    fn the_end_breaks_what_is_still_open() {
        let (registry, path) = registry();
        registry.add_rule(registry::Rule::on("/blobs/").fault(registry::Fault::Stall(10)));
        let proxy = Proxy::start(registry.address(), Options::default());
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        stream.read_exact(&mut [0; 20]).unwrap();
        drop(proxy);
        drop(stream.read_to_end(&mut Vec::new()));
    }

    #[test]
    fn a_server_that_is_not_there_ends_the_connection() {
        let proxy = Proxy::start("127.0.0.1:1", Options::default());
        let (bytes, _) = get(&proxy, "/");
        assert!(bytes.is_empty());
    }
}
