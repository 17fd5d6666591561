// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The notify listener: from the kernel, over whoever starts the process, to the agent behind `listenerPath`.
//!
//! Only the process under the filter gets the descriptor, and there it may make no call that the filter does not allow. So it
//! says beforehand which number the descriptor will have, loads the filter, and waits without a system call; who started it
//! copies the descriptor, sends it on, and lets it go:
//!
//! ```text
//! the process                                  who starts it (launch, start, exec)
//! a Request over its channel               →   connects to listenerPath
//! seccomp(2): the descriptor is there      →   pidfd_getfd(2), sends it with the container process state
//! looks at a bit of shared memory          ←   sets the bit
//! execve(2)
//! ```
//!
//! So no action of the profile stands in the way, and nothing else needs to be allowed, unlike in runc, whose init writes to a pipe
//! in between. An agent that cannot be reached ends the process.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stos_sys::SysError;
use stos_sys::process::pidfd;
use stos_sys::seccomp::{SharedBit, copy_descriptor, send_with_descriptor};

use super::{Filter, Listener};
use crate::error::{Error, Result};
use crate::init_error::InitError;
use crate::launch::ProcessRecord;

/// Starts a [`Request`] on a channel; a newline ends it.
const ASKED: u8 = b'N';

/// How often the process looks at the bit before it gives up on who started it: some seconds on any machine.
const SPINS: u64 = 1 << 32;

/// How long the process may take to load its filter once it has said that it will.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether it has.
const INTERVAL: Duration = Duration::from_micros(50);

const LOAD: &str = "load linux.seccomp";

const STAGE: &str = "hand the seccomp listener to linux.seccomp.listenerPath";

/// What the agent is told of the container, besides process numbers (runtime.md, "State").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerOfFilter {
    /// The version of the specification.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// `creating` for a container's first process, as runc and crun have it, `running` for a later one.
    pub status: String,
    /// The bundle.
    pub bundle: PathBuf,
    /// Annotations, where there are any.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
}

/// What a process asks of who starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The number that the descriptor will have.
    listener: RawFd,
    /// The number of the shared bit.
    bit: RawFd,
    path: PathBuf,
    metadata: Option<String>,
    container: ContainerOfFilter,
}

/// Makes what a filter with a listener needs. To be called before the process has its limits: RLIMIT_FSIZE counts for it too.
pub(crate) fn prepare(filter: Option<&Filter>) -> std::result::Result<Option<SharedBit>, InitError> {
    let listener = filter.and_then(Filter::listener);
    listener.map(|_| SharedBit::create()).transpose().map_err(InitError::step(LOAD))
}

/// Puts the calling process under `filter`, with what [`prepare`] has made for it. Behind this it makes no call but the few that it
/// must: execve(2), and capset(2) where it kept a capability for this.
///
/// `write` tells who starts the process, whose [`follow`](crate::launch::follow) understands it.
pub(crate) fn install(
    filter: &Filter,
    bit: Option<SharedBit>,
    container: impl FnOnce() -> ContainerOfFilter,
    write: impl FnOnce(&[u8]) -> std::result::Result<(), SysError>,
) -> std::result::Result<(), InitError> {
    let step = || InitError::step(LOAD);
    let Some(Listener { path, metadata }) = filter.listener() else {
        return filter.load().map(drop).map_err(step());
    };
    let bit = bit.ok_or_else(|| step()(SysError::new("memfd_create", "nothing prepared", Errno::BADF)))?;
    // The lowest free number; nobody else opens anything here.
    let listener = rustix::io::fcntl_dupfd_cloexec(&bit, 0)
        .map_err(SysError::at("fcntl", || "F_DUPFD_CLOEXEC, 0".to_owned()))
        .map_err(step())?
        .as_raw_fd();
    let request = Request {
        listener,
        bit: bit.as_fd().as_raw_fd(),
        path: path.clone(),
        metadata: metadata.clone(),
        container: container(),
    };
    let failed = |_| SysError::new("write", "the seccomp request", Errno::INVAL);
    let mut line = vec![ASKED];
    serde_json::to_writer(&mut line, &request).map_err(failed).map_err(step())?;
    line.push(b'\n');
    write(&line).map_err(step())?;
    let loaded = filter.load().map_err(step())?;
    let handed_on = bit.spin(SPINS);
    // Both are close-on-exec: to close them now would be a call more.
    std::mem::forget((loaded, bit));
    match handed_on {
        true => Ok(()),
        false => Err(step()(SysError::new("waiting", "nobody has taken the listener", Errno::TIMEDOUT))),
    }
}

/// Takes a whole request out of what a process has said so far, behind the byte that says that it is ready.
pub(crate) fn take_request(report: &mut Vec<u8>, ready: u8) -> Result<Option<Request>> {
    let start = usize::from(report.first() == Some(&ready));
    if report.get(start) != Some(&ASKED) {
        return Ok(None);
    }
    let Some(length) = report[start..].iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let line: Vec<u8> = report.drain(start..=start + length).collect();
    match serde_json::from_slice(&line[1..]) {
        Ok(request) => Ok(Some(request)),
        Err(_) => Err(Error::InitReport { report: String::from_utf8_lossy(&line).into_owned() }),
    }
}

/// The process under a filter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Filtered<'a> {
    /// By a descriptor of it.
    Held(BorrowedFd<'a>),
    /// To be opened when it asks: most never do.
    Recorded(&'a ProcessRecord),
}

/// The processes that the agent is told of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processes<'a> {
    /// The one under the filter.
    pub filtered: Filtered<'a>,
    /// Its number.
    pub pid: i32,
    /// The number of the container's first process.
    pub init: i32,
}

/// Answers a request: the agent gets the descriptor, and the process may go on. Where that fails it is killed.
///
/// One that ends before its filter is loaded says why over its channel: no error here.
pub(crate) fn serve(request: &Request, processes: Processes<'_>) -> Result<()> {
    let opened;
    let pidfd = match processes.filtered {
        Filtered::Held(held) => held,
        Filtered::Recorded(record) => match record.open()? {
            Some(process) => {
                opened = process;
                opened.as_fd()
            }
            // Gone since it has asked: its number may be another's.
            None => return Ok(()),
        },
    };
    hand_over(request, pidfd, processes).map_err(|error| {
        // The cause counts. It waits for us, and would run under a filter that nobody answers.
        drop(pidfd::send_signal(pidfd, rustix::process::Signal::KILL.as_raw()));
        Error::sys(STAGE)(error)
    })
}

fn hand_over(
    request: &Request,
    pidfd: BorrowedFd<'_>,
    Processes { pid, init, .. }: Processes<'_>,
) -> std::result::Result<(), SysError> {
    let socket = UnixStream::connect(&request.path).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
        SysError::new("connect", request.path.display().to_string(), errno)
    })?;
    let missing = || SysError::new("pidfd_getfd", request.bit.to_string(), Errno::BADF);
    let bit = SharedBit::map(copy_descriptor(pidfd, request.bit)?.ok_or_else(missing)?)?;
    let deadline = Instant::now() + PATIENCE;
    let listener = loop {
        if let Some(listener) = copy_descriptor(pidfd, request.listener)? {
            break listener;
        }
        if pidfd::wait_end(pidfd, Duration::ZERO)? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(SysError::new("pidfd_getfd", request.listener.to_string(), Errno::TIMEDOUT));
        }
        std::thread::sleep(INTERVAL);
    };
    send_with_descriptor(&socket, &process_state(request, pid, init), listener.as_fd())?;
    bit.set();
    Ok(())
}

/// The container process state (runtime-spec, config-linux.md, "The Container Process State").
fn process_state(request: &Request, pid: i32, init: i32) -> Vec<u8> {
    let mut container = json!(request.container);
    container["pid"] = json!(init);
    let mut state = json!({
        "ociVersion": request.container.oci_version,
        "fds": ["seccompFd"],
        "pid": pid,
        "state": container,
    });
    if let Some(metadata) = &request.metadata {
        state["metadata"] = json!(metadata);
    }
    state.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            listener: 4,
            bit: 3,
            path: "/run/agent\n.sock".into(),
            metadata: Some("{}".into()),
            container: ContainerOfFilter {
                oci_version: "1.2.0".into(),
                id: "c".into(),
                status: "creating".into(),
                bundle: "/b".into(),
                annotations: HashMap::from([("k".to_owned(), "v".to_owned())]),
            },
        }
    }

    #[test]
    fn a_request_is_taken_whole_and_leaves_the_rest() {
        for start in [&b""[..], b"+"] {
            let mut line = [start, b"N", &serde_json::to_vec(&request()).unwrap(), b"\n-rest"].concat();
            let mut part = line[..line.len() - 6].to_vec();
            assert_eq!(take_request(&mut part, b'+').unwrap(), None);
            assert_eq!(take_request(&mut line, b'+').unwrap(), Some(request()));
            assert_eq!(line, [start, b"-rest"].concat());
        }
        for other in [&b""[..], b"+", b"-{}", b"+-{}"] {
            assert_eq!(take_request(&mut other.to_vec(), b'+').unwrap(), None);
        }
        assert!(matches!(take_request(&mut b"+N{}\n".to_vec(), b'+'), Err(Error::InitReport { .. })));
    }

    #[test]
    fn another_process_of_its_number_is_not_taken_for_it() {
        let own = ProcessRecord::of_caller().unwrap();
        let serve = |record: &ProcessRecord| {
            serve(&request(), Processes { filtered: Filtered::Recorded(record), pid: record.pid, init: record.pid })
        };
        // Whoever were taken for it would be killed, since nobody listens at the request's path: this test itself.
        serve(&ProcessRecord { start_time: own.start_time - 1, ..own.clone() }).unwrap();
        serve(&ProcessRecord { boot_id: "another".into(), ..own }).unwrap();
        serve(&ProcessRecord { pid: i32::MAX, start_time: 1, boot_id: "another".into() }).unwrap();
    }

    #[test]
    fn the_agent_is_told_what_the_specification_says() {
        let state: serde_json::Value = serde_json::from_slice(&process_state(&request(), 7, 5)).unwrap();
        let expected = json!({
            "ociVersion": "1.2.0",
            "fds": ["seccompFd"],
            "pid": 7,
            "metadata": "{}",
            "state": {
                "ociVersion": "1.2.0", "id": "c", "status": "creating", "pid": 5, "bundle": "/b", "annotations": {"k": "v"},
            },
        });
        assert_eq!(state, expected);
    }
}
