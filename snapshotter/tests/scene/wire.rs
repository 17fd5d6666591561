// SPDX-License-Identifier: Apache-2.0 OR MIT
//! gRPC over a unix socket, as a client.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stos_snapshotter::api::snapshots::snapshots_client::SnapshotsClient;
use tonic::body::Body;
use tonic::{Code, Status};

/// A connection as tonic's clients want one.
pub struct Channel(SendRequest<Body>);

impl Channel {
    /// Connects to who listens at `socket`.
    pub async fn connect(socket: &Path) -> Result<Self, Status> {
        let unavailable = |error: &dyn std::fmt::Display| Status::new(Code::Unavailable, error.to_string());
        let stream = tokio::net::UnixStream::connect(socket).await.map_err(|error| unavailable(&error))?;
        let made = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| unavailable(&error))?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }
}

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Where the server is, for who wants a URI.
fn origin() -> http::Uri {
    http::Uri::from_static("http://localhost")
}

/// A client of the snapshots service.
pub async fn snapshots(socket: &Path) -> SnapshotsClient<Channel> {
    SnapshotsClient::with_origin(Channel::connect(socket).await.unwrap(), origin())
}

/// Calls a method of any service, on a connection of its own.
pub fn call<Q, A>(socket: &Path, method: &str, request: Q) -> Result<A, Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    block_on(async {
        let mut grpc = tonic::client::Grpc::with_origin(Channel::connect(socket).await?, origin());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = method.parse::<http::uri::PathAndQuery>().unwrap();
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        Ok(grpc.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    })
}

/// Does it in this thread.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
