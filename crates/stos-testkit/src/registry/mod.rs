// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Registries for tests: a plain one, and hostile ones that break one promise each.
//!
//! [`Registry`] is a small threaded HTTP/1.1 server on loopback with what a pull and a push need of the OCI distribution
//! specification. It keeps blobs in memory or serves them from an OCI layout, can ask for a bearer token or a password,
//! can speak TLS with a CA of its own, and writes down every request. A [`Rule`] makes some of its answers wrong:
//!
//! ```
//! use stos_testkit::registry::{Fault, Options, Registry, Rule};
//! let registry = Registry::start(Options::default());
//! registry.add_rule(Rule::on("/blobs/").times(1).fault(Fault::Truncate(10)));
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`fault`] | rules and faults |
//! | `http` | requests and answers on the wire |
//! | `routes` | the distribution API |
//! | `storage` | blobs, manifests, uploads |
//! | `auth` | tokens and passwords |
//! | `tls` | the CA and the certificate |

mod auth;
pub mod fault;
mod http;
mod routes;
mod storage;
pub(crate) mod tls;

#[cfg(test)]
mod tests;

use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

pub use auth::{Auth, Bearer, Tokens};
pub use fault::{Fault, Rule};
pub use storage::Blob;
pub use tls::ClientAuthority;

use crate::registry::http::{Connection, Request};
use crate::registry::storage::Storage;
use crate::registry::tls::Tls;

/// How a registry is started.
#[derive(Debug, Default)]
pub struct Options {
    /// Whether it speaks TLS, with a certificate by a CA of its own.
    pub tls: bool,
    /// The names in its certificate; without any `localhost` and `127.0.0.1`.
    pub certificate_names: Vec<String>,
    /// Whose clients alone may connect, where TLS is spoken: those with a certificate of this authority.
    pub clients: Option<ClientAuthority>,
    /// Whom it answers.
    pub auth: Auth,
    /// The smallest chunk of an upload that it says it takes, in bytes.
    pub chunk_min: Option<u64>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// How many bytes it brought.
    pub body_size: u64,
    /// Which connection brought it, counted from 0.
    pub connection: usize,
}

impl RequestRecord {
    /// Gives the first header of a name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A running registry. When it is dropped its connections break and its threads end.
#[derive(Debug)]
pub struct Registry {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    tls: Option<Tls>,
    auth: Auth,
    chunk_min: Option<u64>,
    storage: Mutex<Storage>,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<RequestRecord>>,
    stop: Stop,
}

/// A wait that ends when the registry does, or is in a hurry.
#[derive(Debug, Default)]
struct Stop {
    stopped: Mutex<bool>,
    hurries: AtomicBool,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stop {
    /// Waits so long, or for ever, and tells whether the registry has ended meanwhile.
    fn wait(&self, time: Option<Duration>) -> bool {
        let stopped = lock(&self.stopped);
        let goes_on = |stopped: &mut bool| !*stopped && !self.hurries.load(Ordering::Relaxed);
        match time {
            Some(time) => *self.changed.wait_timeout_while(stopped, time, goes_on).expect("not poisoned").0,
            None => *self.changed.wait_while(stopped, |stopped| !*stopped).expect("not poisoned"),
        }
    }

    fn is_set(&self) -> bool {
        *lock(&self.stopped)
    }

    fn set(&self) {
        *lock(&self.stopped) = true;
        self.changed.notify_all();
    }

    fn hurry(&self) {
        let stopped = lock(&self.stopped);
        self.hurries.store(true, Ordering::Relaxed);
        drop(stopped);
        self.changed.notify_all();
    }
}

impl Registry {
    /// Starts a registry on a free port of loopback.
    ///
    /// # Panics
    /// Where no port can be had.
    pub fn start(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let shared = Arc::new(Shared {
            address: listener.local_addr().expect("a bound socket has an address"),
            tls: options.tls.then(|| Tls::new(options.certificate_names, options.clients.as_ref())),
            auth: options.auth,
            chunk_min: options.chunk_min,
            storage: Mutex::default(),
            rules: Mutex::default(),
            requests: Mutex::default(),
            stop: Stop::default(),
        });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { shared, acceptor: Some(acceptor) }
    }

    /// Gives `host:port`, to stand before a repository in a reference.
    pub fn address(&self) -> String {
        self.shared.address.to_string()
    }

    /// Gives `http://host:port` or `https://host:port`.
    pub fn base_url(&self) -> String {
        self.shared.base_url()
    }

    /// Gives the CA's certificate in DER, where TLS is spoken.
    pub fn ca_der(&self) -> Option<&[u8]> {
        self.shared.tls.as_ref().map(Tls::ca_der)
    }

    /// Gives the CA's certificate in PEM, where TLS is spoken.
    pub fn ca_pem(&self) -> Option<&str> {
        self.shared.tls.as_ref().map(Tls::ca_pem)
    }

    /// Adds a blob, and gives its digest. All repositories have all blobs.
    pub fn put_blob(&self, blob: impl Into<Blob>) -> String {
        lock(&self.shared.storage).put_blob(blob.into())
    }

    /// Adds a manifest under its digest, and under `tag` if there is one. Gives the digest.
    pub fn put_manifest(&self, repository: &str, tag: Option<&str>, media_type: &str, bytes: &[u8]) -> String {
        lock(&self.shared.storage).put_manifest(repository, tag, media_type, bytes)
    }

    /// Serves an OCI image layout under `repository`: its blobs from their files, its references as tags.
    ///
    /// # Errors
    /// Where a file is missing or no JSON.
    pub fn serve_layout(&self, directory: &Path, repository: &str) -> io::Result<()> {
        lock(&self.shared.storage).serve_layout(directory, repository)
    }

    /// Gives a manifest's media type and bytes, as pushed or put.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<(String, Vec<u8>)> {
        lock(&self.shared.storage).manifest(repository, reference).map(|found| (found.0.clone(), found.1.to_vec()))
    }

    /// Gives a blob's bytes.
    ///
    /// # Panics
    /// Where its file cannot be read.
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        let blob = lock(&self.shared.storage).blob(digest).cloned()?;
        let mut bytes = Vec::new();
        blob.read_from(0).and_then(|mut body| body.read_to_end(&mut bytes)).expect("a readable blob");
        Some(bytes)
    }

    /// Tells whether there is a blob of that digest.
    pub fn has_blob(&self, digest: &str) -> bool {
        lock(&self.shared.storage).blob(digest).is_some()
    }

    /// Makes some answers wrong. Rules apply in the order in which they were added, all that match.
    pub fn add_rule(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Takes all rules back.
    pub fn clear_rules(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Sends at once what is slow, from now on: pauses are over.
    pub fn hurry(&self) {
        self.shared.stop.hurry();
    }

    /// Accepts a bearer token that another server has given out, for whatever it is shown.
    pub fn accept_token(&self, token: &str) {
        self.shared.auth.accept(token);
    }

    /// Forgets all tokens, as if their time were over.
    pub fn expire_tokens(&self) {
        self.shared.auth.expire();
    }

    /// Gives all requests so far.
    pub fn requests(&self) -> Vec<RequestRecord> {
        lock(&self.shared.requests).clone()
    }

    /// Gives all requests so far as `METHOD /path`, and forgets them.
    pub fn take_requests(&self) -> Vec<String> {
        let taken = std::mem::take(&mut *lock(&self.shared.requests));
        taken.into_iter().map(|request| format!("{} {}", request.method, request.target)).collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.stop.set();
        // The acceptor looks at the flag when it is woken; where nobody can wake it, it has ended already.
        drop(TcpStream::connect(self.shared.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl Shared {
    fn base_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    fn record(&self, request: &Request, connection: usize) {
        lock(&self.requests).push(RequestRecord {
            method: request.method.clone(),
            target: request.target.clone(),
            headers: request.headers.clone(),
            body_size: request.body.len() as u64,
            connection,
        });
    }
}

/// Serves each connection on a thread of its own. At the end all of them are broken and joined.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut served: Vec<(Weak<TcpStream>, JoinHandle<()>)> = Vec::new();
    for stream in listener.incoming() {
        if shared.stop.is_set() {
            break;
        }
        let Ok(stream) = stream.map(Arc::new) else { continue };
        let number = served.len();
        let weak = Arc::downgrade(&stream);
        let thread = std::thread::spawn({
            let shared = Arc::clone(shared);
            move || serve(stream, number, &shared)
        });
        served.push((weak, thread));
    }
    for (stream, thread) in served {
        if let Some(stream) = stream.upgrade() {
            // Where the peer has closed it already, it is as broken as it should be.
            drop(stream.shutdown(Shutdown::Both));
        }
        drop(thread.join());
    }
}

fn serve(stream: Arc<TcpStream>, number: usize, shared: &Shared) {
    // A peer that goes away ends the connection; what a test expects of it is checked on the other side.
    let Ok(mut connection) = Connection::new(stream, shared.tls.as_ref()) else { return };
    while let Ok(Some(mut request)) = connection.read_request() {
        shared.record(&request, number);
        let faults = fault::matching(&mut lock(&shared.rules), &request);
        fault::without_range(&faults, &mut request);
        let mut reply = routes::answer(shared, &request);
        for fault in faults {
            fault.apply(&mut reply, &mut lock(&shared.storage));
        }
        let is_last = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        match connection.send(reply, &request.method, &shared.stop) {
            Ok(true) if !is_last => {}
            _ => break,
        }
    }
}
