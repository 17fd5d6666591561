// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a hostile or broken registry does: faults, and the rules that say where and how often.

use std::io::{self, Read};
use std::time::Duration;

use crate::registry::http::{Framing, Reply, Request};
use crate::registry::storage::Storage;

/// One way in which an answer is wrong. Several may be put together: each changes the answer that the last one left.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fault {
    /// Another answer altogether: status, headers, body.
    Status(u16, Vec<(String, String)>, Vec<u8>),
    /// A header is replaced, or taken away.
    Header(&'static str, Option<String>),
    /// The first byte of the body is another; its size stays.
    Corrupt,
    /// So many bytes too many, announced as well.
    Extra(u64),
    /// The body never ends, and is sent in chunks.
    Endless,
    /// The connection ends after so many bytes of the body.
    Truncate(u64),
    /// The connection is reset after so many bytes of the body.
    Reset(u64),
    /// Nothing more comes after so many bytes of the body.
    Stall(u64),
    /// So many bytes of the body come at a time, with a pause after each.
    Trickle(usize, Duration),
    /// The body is sent in chunks, without `Content-Length`.
    Chunked,
    /// The body ends with the connection, without `Content-Length`.
    UntilClose,
    /// `Content-Length` says this, whatever is sent.
    ContentLength(u64),
    /// Whoever asks for a part of a blob gets the whole.
    IgnoreRange,
    /// Nothing comes for so long, and then the answer.
    Late(Duration),
    /// The header comes byte by byte, with a pause after each.
    SlowHeader(Duration),
    /// These bytes are sent instead of an HTTP answer, and the connection ends.
    Raw(Vec<u8>),
    /// Of all uploads only so many bytes are kept.
    CutUploads(u64),
    /// After this answer the tag names another manifest, which is there under its digest.
    MoveTag(String, String, String),
}

impl Fault {
    /// An error as registries word it.
    pub fn status(status: u16) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"HOSTILE","message":"status {status}"}}]}}"#);
        Self::Status(status, vec![("content-type".into(), "application/json".into())], body.into_bytes())
    }

    /// A redirect (307).
    pub fn redirect(location: impl Into<String>) -> Self {
        Self::Status(307, vec![("location".into(), location.into())], b"elsewhere".to_vec())
    }

    /// A 401 with this `WWW-Authenticate`.
    pub fn challenge(challenge: impl Into<String>) -> Self {
        Self::Status(401, vec![("www-authenticate".into(), challenge.into())], Vec::new())
    }

    /// A 200 with this body.
    pub fn body(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Status(200, Vec::new(), bytes.into())
    }

    pub(super) fn apply(&self, reply: &mut Reply, storage: &mut Storage) {
        let nothing = || -> Box<dyn Read + Send> { Box::new(io::empty()) };
        match self {
            Self::Status(status, headers, body) => {
                *reply = Reply::new(*status).with_bytes(body.clone());
                reply.headers.extend(headers.iter().cloned());
            }
            Self::Header(name, value) => {
                reply.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
                reply.headers.extend(value.iter().map(|value| ((*name).to_owned(), value.clone())));
            }
            Self::Corrupt => {
                let body = std::mem::replace(&mut reply.body, nothing());
                reply.body = Box::new(Corrupted { body, is_done: false });
            }
            Self::Extra(count) => {
                let body = std::mem::replace(&mut reply.body, nothing());
                reply.body = Box::new(body.chain(io::repeat(b'+').take(*count)));
                if let Framing::Length(length) = &mut reply.framing {
                    *length += count;
                }
            }
            Self::Endless => {
                let body = std::mem::replace(&mut reply.body, nothing());
                reply.body = Box::new(body.chain(io::repeat(b'+')));
                reply.framing = Framing::Chunked;
            }
            Self::Truncate(after) => reply.cut.truncate_after = Some(*after),
            Self::Reset(after) => (reply.cut.truncate_after, reply.cut.is_reset) = (Some(*after), true),
            Self::Stall(after) => reply.cut.stall_after = Some(*after),
            Self::Trickle(bytes, pause) => reply.cut.trickle = Some((*bytes, *pause)),
            Self::Chunked => reply.framing = Framing::Chunked,
            Self::UntilClose => reply.framing = Framing::UntilClose,
            Self::ContentLength(length) => reply.framing = Framing::Length(*length),
            // The request was answered so: see `without_range`.
            Self::IgnoreRange => {}
            Self::Late(pause) => reply.cut.start_pause = Some(*pause),
            Self::SlowHeader(pause) => reply.cut.header_pause = Some(*pause),
            Self::Raw(bytes) => reply.raw = Some(bytes.clone()),
            Self::CutUploads(size) => storage.cut_uploads(*size),
            Self::MoveTag(repository, tag, digest) => storage.move_tag(repository, tag, digest),
        }
    }
}

struct Corrupted {
    body: Box<dyn Read + Send>,
    is_done: bool,
}

impl Read for Corrupted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read(buffer)?;
        if n > 0 && !self.is_done {
            buffer[0] ^= 1;
            self.is_done = true;
        }
        Ok(n)
    }
}

/// Where faults happen, and how often.
#[derive(Debug, Clone)]
pub struct Rule {
    method: Option<&'static str>,
    part: String,
    skip: u32,
    times: Option<u32>,
    faults: Vec<Fault>,
}

impl Rule {
    /// Matches requests whose path and query contain `part`.
    pub fn on(part: impl Into<String>) -> Self {
        Self { method: None, part: part.into(), skip: 0, times: None, faults: Vec::new() }
    }

    /// Matches only requests of this method.
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Lets the first so many matching requests pass.
    pub fn after(mut self, requests: u32) -> Self {
        self.skip = requests;
        self
    }

    /// Applies to so many requests only.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Adds a fault.
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    fn matches(&self, request: &Request) -> bool {
        self.method.is_none_or(|method| method == request.method) && request.target.contains(&self.part)
    }

    fn take_turn(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        match &mut self.times {
            Some(0) => false,
            Some(times) => {
                *times -= 1;
                true
            }
            None => true,
        }
    }
}

/// Takes the wish for a part out of a request, where a fault wants that.
pub(super) fn without_range(faults: &[Fault], request: &mut Request) {
    if faults.iter().any(|fault| matches!(fault, Fault::IgnoreRange)) {
        request.headers.retain(|(name, _)| name != "range");
    }
}

/// Gives the faults of all rules that match, and counts them.
pub(super) fn matching(rules: &mut [Rule], request: &Request) -> Vec<Fault> {
    let matching = rules.iter_mut().filter(|rule| rule.matches(request));
    matching.filter_map(|rule| rule.take_turn().then(|| rule.faults.clone())).flatten().collect()
}
