// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The distribution API: as much of it as a pull and a push need (distribution-spec, "API").

use crate::registry::http::{Reply, Request};
use crate::registry::{Shared, lock};

const DIGEST: &str = "docker-content-digest";

/// Where a request leads.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Base,
    Token,
    Tags(&'a str),
    Manifest(&'a str, &'a str),
    Blob(&'a str, &'a str),
    Uploads(&'a str),
    Upload(&'a str, &'a str),
    Nowhere,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Self {
        let Some(rest) = path.strip_prefix("/v2/") else {
            return match path {
                "/token" => Self::Token,
                "/v2" => Self::Base,
                _ => Self::Nowhere,
            };
        };
        if rest.is_empty() {
            return Self::Base;
        }
        if let Some((repository, id)) = rest.split_once("/blobs/uploads") {
            return match id.trim_matches('/') {
                "" => Self::Uploads(repository),
                id => Self::Upload(repository, id),
            };
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            return Self::Blob(repository, digest);
        }
        if let Some((repository, reference)) = rest.split_once("/manifests/") {
            return Self::Manifest(repository, reference);
        }
        rest.strip_suffix("/tags/list").map_or(Self::Nowhere, Self::Tags)
    }

    fn repository(&self) -> Option<&'a str> {
        match self {
            Self::Tags(name) | Self::Manifest(name, _) | Self::Blob(name, _) => Some(name),
            Self::Uploads(name) | Self::Upload(name, _) => Some(name),
            _ => None,
        }
    }
}

/// Answers a request as the specification asks.
pub(super) fn answer(shared: &Shared, request: &Request) -> Reply {
    let route = Route::of(request.path());
    if route == Route::Token {
        return shared.auth.give_token(request);
    }
    if let Err(refusal) = shared.auth.check(request, &shared.base_url(), route.repository()) {
        return refusal;
    }
    match (request.method.as_str(), route) {
        ("GET" | "HEAD", Route::Base) => json(200, "{}"),
        ("GET", Route::Tags(repository)) => {
            let tags = lock(&shared.storage).tags(repository);
            json(200, &serde_json::json!({"name": repository, "tags": tags}).to_string())
        }
        ("GET" | "HEAD", Route::Manifest(repository, reference)) => get_manifest(shared, repository, reference),
        ("PUT", Route::Manifest(repository, reference)) => put_manifest(shared, request, repository, reference),
        ("GET" | "HEAD", Route::Blob(_, digest)) => get_blob(shared, request, digest),
        ("POST", Route::Uploads(repository)) => start_upload(shared, request, repository),
        ("GET", Route::Upload(repository, id)) => upload_status(shared, repository, id),
        ("PATCH", Route::Upload(repository, id)) => append_upload(shared, request, repository, id),
        ("PUT", Route::Upload(repository, id)) => finish_upload(shared, request, repository, id),
        _ => error(404, "UNSUPPORTED", "no such endpoint"),
    }
}

fn json(status: u16, body: &str) -> Reply {
    Reply::new(status).with_header("content-type", "application/json").with_bytes(body.as_bytes().to_vec())
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    json(status, &serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string())
}

fn get_manifest(shared: &Shared, repository: &str, reference: &str) -> Reply {
    let storage = lock(&shared.storage);
    let Some((media_type, bytes)) = storage.manifest(repository, reference) else {
        return error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    };
    let digest = super::storage::Blob::from(bytes).digest();
    Reply::new(200).with_header("content-type", media_type).with_header(DIGEST, digest).with_bytes(bytes.to_vec())
}

fn put_manifest(shared: &Shared, request: &Request, repository: &str, reference: &str) -> Reply {
    let media_type = request.header("content-type").unwrap_or("application/octet-stream");
    let tag = (!reference.contains(':')).then_some(reference);
    let digest = lock(&shared.storage).put_manifest(repository, tag, media_type, &request.body);
    if tag.is_none() && digest != reference {
        return error(400, "DIGEST_INVALID", "the manifest has another digest");
    }
    Reply::new(201).with_header("location", format!("/v2/{repository}/manifests/{digest}")).with_header(DIGEST, digest)
}

fn get_blob(shared: &Shared, request: &Request, digest: &str) -> Reply {
    let Some(blob) = lock(&shared.storage).blob(digest).cloned() else {
        return error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    let size = blob.size();
    // As the CNCF's registry does: what never changes has its digest for a strong validator.
    let etag = format!("\"{digest}\"");
    let is_same = request.header("if-range").is_none_or(|validator| validator == etag);
    let range = request.header("range").filter(|_| is_same);
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let offset = range.unwrap_or(0);
    if offset > 0 && offset >= size {
        let refusal = error(416, "RANGE_INVALID", "beyond the end of the blob");
        return refusal.with_header("content-range", format!("bytes */{size}"));
    }
    let reply = match range {
        Some(_) => Reply::new(206).with_header("content-range", format!("bytes {offset}-{}/{size}", size - 1)),
        None => Reply::new(200).with_header("accept-ranges", "bytes"),
    };
    let reply = reply.with_header("content-type", "application/octet-stream").with_header("etag", etag);
    let reply = reply.with_header(DIGEST, digest);
    match blob.read_from(offset) {
        Ok(body) => reply.with_body(body, size - offset),
        Err(failure) => error(500, "UNKNOWN", &failure.to_string()),
    }
}

fn accepted(repository: &str, id: &str, size: u64) -> Reply {
    Reply::new(202)
        .with_header("location", format!("/v2/{repository}/blobs/uploads/{id}"))
        .with_header("docker-upload-uuid", id)
        .with_header("range", format!("0-{}", size.saturating_sub(1)))
}

fn created(repository: &str, digest: &str) -> Reply {
    Reply::new(201).with_header("location", format!("/v2/{repository}/blobs/{digest}")).with_header(DIGEST, digest)
}

fn start_upload(shared: &Shared, request: &Request, repository: &str) -> Reply {
    let may_read = request.query("from").is_none_or(|from| shared.auth.may_read(request, &from));
    let mounted = request.query("mount").filter(|digest| may_read && lock(&shared.storage).blob(digest).is_some());
    if let Some(digest) = mounted {
        return created(repository, &digest);
    }
    let id = lock(&shared.storage).start_upload();
    match request.query("digest") {
        Some(_) => finish_upload(shared, request, repository, &id),
        None => {
            let reply = accepted(repository, &id, 0);
            shared.chunk_min.iter().fold(reply, |reply, min| reply.with_header("oci-chunk-min-length", min.to_string()))
        }
    }
}

fn upload_status(shared: &Shared, repository: &str, id: &str) -> Reply {
    match lock(&shared.storage).upload_size(id) {
        Some(size) => Reply { status: 204, ..accepted(repository, id, size) },
        None => error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload"),
    }
}

fn append_upload(shared: &Shared, request: &Request, repository: &str, id: &str) -> Reply {
    // A chunk begins where the last one ended, and is as long as it says.
    if let Some(range) = request.header("content-range") {
        let size = lock(&shared.storage).upload_size(id).unwrap_or(0);
        let expected = format!("{size}-{}", (size + request.body.len() as u64).saturating_sub(1));
        if range != expected {
            return Reply { status: 416, ..accepted(repository, id, size) };
        }
    }
    match lock(&shared.storage).append_upload(id, &request.body) {
        Some(size) => accepted(repository, id, size),
        None => error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload"),
    }
}

fn finish_upload(shared: &Shared, request: &Request, repository: &str, id: &str) -> Reply {
    let digest = request.query("digest").unwrap_or_default();
    let mut storage = lock(&shared.storage);
    if storage.append_upload(id, &request.body).is_none() {
        return error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
    }
    match storage.finish_upload(id, &digest) {
        Some(()) => created(repository, &digest),
        None => error(400, "DIGEST_INVALID", "the upload has another digest"),
    }
}
