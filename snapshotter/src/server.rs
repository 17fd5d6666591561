// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections: those of containerd, HTTP/2 on a unix socket; those of who reads metrics, HTTP/1. And their end.

use std::convert::Infallible;
use std::future::Future;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::api::snapshots::snapshots_server::SnapshotsServer;
use crate::error::{Error, Result};
use crate::listen::bind;
use crate::service::Service;
use crate::snapshots::Snapshotter;

/// How long a removal may be followed by others before one clean-up does for all of them.
const GATHERING: Duration = Duration::from_millis(100);
/// How long what could not be cleaned up waits for the next try, at first and at most: each waits twice as long as the one before, for
/// where something is damaged none of them helps.
const RETRIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(64));
/// How long to wait where no connection can be taken, for want of descriptors above all.
const BREATH: Duration = Duration::from_millis(100);

/// How many may ask for metrics at once, how long each may take for its question, and for all of it: nobody else waits for one who
/// never ends.
const METRICS: (usize, Duration, Duration) = (32, Duration::from_secs(5), Duration::from_secs(10));

/// Serves containerd until `stop` says so, then waits up to `patience` for calls that are under way. Tells whether all of them ended.
pub async fn serve(
    listener: UnixListener,
    service: Service,
    stop: watch::Receiver<bool>,
    patience: impl Fn() -> Duration,
) -> bool {
    let service = SnapshotsServer::new(service);
    // Each connection holds a sender: with the last one the channel ends.
    let (alive, mut ended) = mpsc::channel::<()>(1);
    let mut stopping = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = told(&mut stopping) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (service, stop, alive) = (service.clone(), stop.clone(), alive.clone());
                tokio::spawn(async move {
                    connection(stream, service, stop).await;
                    drop(alive);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
    drop(alive);
    tokio::time::timeout(patience(), ended.recv()).await.is_ok()
}

/// Resolves when the end has been told.
async fn told(stop: &mut watch::Receiver<bool>) {
    // Without a sender nobody can tell any more, which is an end too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: SnapshotsServer<Service>,
    mut stop: watch::Receiver<bool>,
) {
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    let done = tokio::select! {
        done = &mut connection => done,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Cleans up after removals, once for those that come together, and again where something was left because another command was at work.
/// It never ends.
pub async fn clean_after(removals: Arc<Notify>, snapshotter: Arc<Snapshotter>) {
    let mut retry = None;
    loop {
        match retry {
            None => removals.notified().await,
            // Whichever comes first.
            Some(patience) => drop(tokio::time::timeout(patience, removals.notified()).await),
        }
        tokio::time::sleep(GATHERING).await;
        let snapshotter = Arc::clone(&snapshotter);
        let cleaned = tokio::task::spawn_blocking(move || snapshotter.clean()).await;
        tracing::debug!(?cleaned, "cleaned up");
        let is_partial = cleaned.is_ok_and(|cleaned| cleaned.is_partial);
        retry = is_partial.then(|| retry.map_or(RETRIES.0, |patience| (patience * 2).min(RETRIES.1)));
    }
}

/// Tells metrics at `address`, `HOST:PORT` or `unix:PATH`, as long as the process runs.
///
/// # Errors
/// [`Error::Listen`].
pub async fn serve_metrics(address: &str, snapshotter: Arc<Snapshotter>) -> Result<()> {
    let refuse = |source| Error::Listen { address: address.to_owned(), source };
    match address.strip_prefix("unix:") {
        Some(path) => {
            let listener = bind(Path::new(path)).and_then(|listener| {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener)
            });
            let listener = listener.map_err(refuse)?;
            tokio::spawn(async move { tell(|| async { Ok(listener.accept().await?.0) }, snapshotter).await });
        }
        None => {
            let places = address.to_socket_addrs().map_err(refuse)?.collect::<Vec<_>>();
            let listener = TcpListener::bind(places.as_slice()).await.map_err(refuse)?;
            tokio::spawn(async move { tell(|| async { Ok(listener.accept().await?.0) }, snapshotter).await });
        }
    }
    Ok(())
}

async fn tell<S, F>(accept: impl Fn() -> F, snapshotter: Arc<Snapshotter>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = std::io::Result<S>>,
{
    let (count, question, whole) = METRICS;
    let places = Arc::new(Semaphore::new(count));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection for metrics");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let snapshotter = Arc::clone(&snapshotter);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let answer = metrics(request.method(), request.uri().path(), &snapshotter);
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(async move {
            let _place = place;
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(question).keep_alive(false);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(whole, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics ended"),
                Err(_) => tracing::debug!("a connection for metrics took too long"),
            }
        });
    }
}

fn metrics(method: &Method, path: &str, snapshotter: &Snapshotter) -> http::Response<Full<Bytes>> {
    let (status, text) = match (method, path) {
        (&Method::GET, "/metrics") => (StatusCode::OK, snapshotter.metrics.text(snapshotter)),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = http::Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}
