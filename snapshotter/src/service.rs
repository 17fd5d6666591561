// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The service: requests in, [`Snapshotter`] below. What it does blocks, so each call has a thread.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use prost_types::Timestamp;
use tokio::sync::{Notify, watch};
use tonic::codegen::tokio_stream::{self, Stream};
use tonic::{Code, Request, Response, Status};

use crate::api::snapshots::snapshots_server::Snapshots;
use crate::api::snapshots::*;
use crate::error::{Error, Result};
use crate::metadata::Snapshot;
use crate::snapshots::Snapshotter;

/// How many snapshots one message of a list has: as many as containerd sends (plugins/services/snapshots).
const PER_MESSAGE: usize = 100;

/// Serves a [`Snapshotter`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    /// `None` until the store is open.
    snapshotter: watch::Receiver<Option<Arc<Snapshotter>>>,
    removals: Arc<Notify>,
}

type Answer<T> = std::result::Result<Response<T>, Status>;

impl Service {
    /// Serves `snapshotter`; `removals` is told when something was removed or pulled in vain, and there is something to clean up.
    pub fn new(snapshotter: Arc<Snapshotter>, removals: Arc<Notify>) -> Self {
        Self::opening(watch::channel(Some(snapshotter)).1, removals)
    }

    /// The same of a snapshotter that is still being opened: calls wait for it. To sweep what a crash has left may take longer than
    /// containerd waits for an answer to its connection, so that is answered before.
    pub fn opening(snapshotter: watch::Receiver<Option<Arc<Snapshotter>>>, removals: Arc<Notify>) -> Self {
        Self { snapshotter, removals }
    }

    async fn opened(&self) -> std::result::Result<Arc<Snapshotter>, Status> {
        let mut snapshotter = self.snapshotter.clone();
        let opened = snapshotter.wait_for(Option::is_some).await.ok().and_then(|opened| opened.clone());
        opened.ok_or_else(|| Status::unavailable("the store could not be opened"))
    }

    /// Does a call in a thread of its own, and counts it. It goes on where the caller does not wait.
    async fn call<T: Send + 'static>(
        &self,
        method: &'static str,
        work: impl FnOnce(&Snapshotter) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, Status> {
        let snapshotter = self.opened().await?;
        let done = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let done = work(&snapshotter).map_err(|error| answer(method, error));
            let code = done.as_ref().map_or_else(Status::code, |_| Code::Ok);
            snapshotter.metrics.count_request(method, code, started.elapsed());
            done
        });
        done.await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
    }
}

/// Makes an error an answer, and tells in the log what is our own fault.
fn answer(method: &'static str, error: Error) -> Status {
    let status = Status::from(error);
    match status.code() {
        Code::Internal | Code::DataLoss => tracing::error!(method, error = status.message(), "failed"),
        code => tracing::debug!(method, ?code, error = status.message(), "refused"),
    }
    status
}

fn optional(name: String) -> Option<String> {
    Some(name).filter(|name| !name.is_empty())
}

/// Gives a snapshot as the API tells of it.
fn info(snapshot: &Snapshot) -> Info {
    let record = &snapshot.record;
    let kind = match record.kind {
        stos_store::SnapshotKind::View => Kind::View,
        stos_store::SnapshotKind::Active => Kind::Active,
        stos_store::SnapshotKind::Committed => Kind::Committed,
    };
    Info {
        name: record.name.clone(),
        parent: record.parent.clone().unwrap_or_default(),
        kind: kind.into(),
        created_at: timestamp(&record.created),
        updated_at: timestamp(&record.updated),
        labels: record.labels.clone(),
    }
}

/// Reads a time of a record; one that is none, which we do not write, is the epoch.
fn timestamp(text: &str) -> Option<Timestamp> {
    let time = text.parse::<jiff::Timestamp>().unwrap_or_default();
    Some(Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

#[tonic::async_trait]
impl Snapshots for Service {
    type ListStream = Pin<Box<dyn Stream<Item = std::result::Result<ListSnapshotsResponse, Status>> + Send>>;

    async fn prepare(&self, request: Request<PrepareSnapshotRequest>) -> Answer<PrepareSnapshotResponse> {
        let PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let work = move |it: &Snapshotter| it.prepare(&key, optional(parent).as_deref(), labels);
        let mounts = self.call("Prepare", work).await;
        // A pull may have been in vain.
        if self.opened().await?.has_lost_layers() {
            self.removals.notify_one();
        }
        Ok(Response::new(PrepareSnapshotResponse { mounts: mounts? }))
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Answer<ViewSnapshotResponse> {
        let ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let work = move |it: &Snapshotter| it.view(&key, optional(parent).as_deref(), labels);
        Ok(Response::new(ViewSnapshotResponse { mounts: self.call("View", work).await? }))
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Answer<MountsResponse> {
        let MountsRequest { key, .. } = request.into_inner();
        Ok(Response::new(MountsResponse { mounts: self.call("Mounts", move |it| it.mounts(&key)).await? }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Answer<()> {
        let CommitSnapshotRequest { name, key, labels, .. } = request.into_inner();
        self.call("Commit", move |it| it.commit(&name, &key, labels)).await.map(Response::new)
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Answer<()> {
        let RemoveSnapshotRequest { key, .. } = request.into_inner();
        self.call("Remove", move |it| it.remove(&key)).await?;
        self.removals.notify_one();
        Ok(Response::new(()))
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Answer<StatSnapshotResponse> {
        let StatSnapshotRequest { key, .. } = request.into_inner();
        let found = self.call("Stat", move |it| it.stat(&key)).await?;
        Ok(Response::new(StatSnapshotResponse { info: Some(info(&found)) }))
    }

    async fn update(&self, request: Request<UpdateSnapshotRequest>) -> Answer<UpdateSnapshotResponse> {
        let UpdateSnapshotRequest { info: wanted, update_mask, .. } = request.into_inner();
        let Info { name, labels, .. } = wanted.unwrap_or_default();
        let mask = update_mask.unwrap_or_default().paths;
        let changed = self.call("Update", move |it| it.update(&name, labels, &mask)).await?;
        Ok(Response::new(UpdateSnapshotResponse { info: Some(info(&changed)) }))
    }

    async fn list(&self, request: Request<ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let ListSnapshotsRequest { filters, .. } = request.into_inner();
        let found = self.call("List", move |it| it.list(&filters)).await?;
        let messages: Vec<_> = found
            .chunks(PER_MESSAGE)
            .map(|part| Ok(ListSnapshotsResponse { info: part.iter().map(info).collect() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Answer<UsageResponse> {
        let UsageRequest { key, .. } = request.into_inner();
        let usage = self.call("Usage", move |it| it.usage(&key)).await?;
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Ok(Response::new(UsageResponse { size: number(usage.bytes), inodes: number(usage.inodes) }))
    }

    async fn cleanup(&self, _request: Request<CleanupRequest>) -> Answer<()> {
        let cleaned = self.call("Cleanup", |it| Ok(it.clean())).await?;
        tracing::debug!(?cleaned, "cleaned up");
        Ok(Response::new(()))
    }
}
