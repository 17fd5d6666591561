// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pushes to a registry over plain HTTP: the smallest client that the distribution spec allows (monolithic uploads),
//! one connection for each request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{Blob, Image};

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The connection broke, or what came was no HTTP.
    #[error("{request}: {source}")]
    Io {
        /// Method and path.
        request: String,
        /// The cause.
        source: io::Error,
    },
    /// The registry answered with another status than the specification names.
    #[error("{request}: expected status {expected}, found {found}: {body}")]
    Status {
        /// Method and path.
        request: String,
        /// The status of success.
        expected: u16,
        /// The status that came.
        found: u16,
        /// What the registry said.
        body: String,
    },
}

impl Image {
    /// Pushes the image to `address` (`host:port`) as `repository:tag`, blobs first. Blobs that are missing by a fault are
    /// left out; a real registry refuses an image whose bytes are not what its digests say.
    ///
    /// # Errors
    /// [`PushError`], at the first request that fails.
    pub fn push(&self, address: &str, repository: &str, tag: &str) -> Result<(), PushError> {
        for blob in self.blobs() {
            push_blob(address, repository, blob)?;
        }
        push_manifest(address, repository, tag, &self.manifest)
    }

    /// Pushes an index over `images` as `repository:tag`, the images first, each under its digest.
    ///
    /// # Errors
    /// As [`Image::push`].
    pub fn push_index(
        index: &Blob,
        images: &[&Image],
        address: &str,
        repository: &str,
        tag: &str,
    ) -> Result<(), PushError> {
        for image in images {
            image.push(address, repository, &image.manifest.digest)?;
        }
        push_manifest(address, repository, tag, index)
    }
}

/// Pushes one blob, unless the registry has it already.
///
/// # Errors
/// As [`Image::push`].
pub fn push_blob(address: &str, repository: &str, blob: &Blob) -> Result<(), PushError> {
    let Some(bytes) = &blob.bytes else { return Ok(()) };
    let there = request(address, "HEAD", &format!("/v2/{repository}/blobs/{}", blob.digest), None)?;
    if there.status == 200 {
        return Ok(());
    }
    let started =
        request(address, "POST", &format!("/v2/{repository}/blobs/uploads/"), Some(("", b"")))?.expect(202)?;
    let location = started.location.as_deref().unwrap_or_default();
    // Location may be absolute or relative, and may carry a query of its own (distribution-spec, "Pushing blobs").
    let path = location.strip_prefix("http://").map_or(location, |rest| &rest[rest.find('/').unwrap_or(rest.len())..]);
    let separator = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{separator}digest={}", blob.digest);
    request(address, "PUT", &path, Some(("application/octet-stream", bytes)))?.expect(201).map(drop)
}

/// Pushes a manifest or an index under a tag or a digest.
///
/// # Errors
/// As [`Image::push`].
pub fn push_manifest(address: &str, repository: &str, reference: &str, manifest: &Blob) -> Result<(), PushError> {
    let bytes = manifest.bytes.as_deref().unwrap_or_default();
    let path = format!("/v2/{repository}/manifests/{reference}");
    request(address, "PUT", &path, Some((&manifest.media_type, bytes)))?.expect(201).map(drop)
}

struct Answer {
    request: String,
    status: u16,
    location: Option<String>,
    body: String,
}

impl Answer {
    fn expect(self, expected: u16) -> Result<Self, PushError> {
        if self.status == expected {
            return Ok(self);
        }
        Err(PushError::Status { request: self.request, expected, found: self.status, body: self.body })
    }
}

fn request(address: &str, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Result<Answer, PushError> {
    let request = format!("{method} {path}");
    exchange(address, &request, body).map_err(|source| PushError::Io { request, source })
}

fn exchange(address: &str, request: &str, body: Option<(&str, &[u8])>) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut head = format!("{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    if let Some((kind, bytes)) = body {
        if !kind.is_empty() {
            head += &format!("Content-Type: {kind}\r\n");
        }
        head += &format!("Content-Length: {}\r\n", bytes.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(body.map_or(&[], |(_, bytes)| bytes))?;
    read_answer(request, BufReader::new(stream))
}

fn read_answer(request: &str, mut stream: impl BufRead) -> io::Result<Answer> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let mut location = None;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("location")
        {
            location = Some(value.trim().to_owned());
        }
    }
    let mut body = Vec::new();
    stream.take(4096).read_to_end(&mut body)?;
    let body = String::from_utf8_lossy(&body).trim().to_owned();
    Ok(Answer { request: request.to_owned(), status, location, body })
}
