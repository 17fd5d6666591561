// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a cloned process says to who has cloned it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use stos_sys::SysError;
use stos_sys::process::clone::{close_all_but, exit_now};

use super::{Step, streams};
use crate::conversation::DONE;
use crate::init_error::InitError;
use crate::launch::FAILED;

/// Where reports and requests go: the launch's pipe, and after the gate its result FIFO. And where answers come from.
pub(crate) struct Channel {
    /// Shared with what tells a panic.
    pipe: Arc<Mutex<Option<OwnedFd>>>,
    answers: Option<OwnedFd>,
}

impl Channel {
    /// Takes the ends of a cloned process. From here on a panic of this process is a report too, and ends it with exit code 1.
    pub(crate) fn new(pipe: OwnedFd, answers: Option<OwnedFd>) -> Self {
        let pipe = Arc::new(Mutex::new(Some(pipe)));
        report_panics(Arc::clone(&pipe));
        Self { pipe, answers }
    }

    fn pipe(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves both ends out of the way of the standard streams.
    pub(super) fn make_room(&mut self) -> Result<(), SysError> {
        let mut pipe = self.pipe();
        let moved = pipe.as_ref().map(|pipe| streams::above(pipe.as_fd())).transpose()?;
        *pipe = moved;
        drop(pipe);
        if let Some(answers) = self.answers.take() {
            self.answers = Some(streams::above(answers.as_fd())?);
        }
        Ok(())
    }

    /// Has nothing more to ask.
    pub(super) fn end_answers(&mut self) {
        self.answers = None;
    }

    /// Says everything to `pipe` from here on, or to nobody.
    pub(super) fn lead_to(&self, pipe: Option<OwnedFd>) {
        *self.pipe() = pipe;
    }

    /// Closes all descriptors but the first `inherited` behind the standard streams, `others`, and its own.
    pub(super) fn close_all_but(&self, inherited: u32, others: &[BorrowedFd<'_>]) -> Result<(), SysError> {
        let pipe = self.pipe();
        let own = pipe.iter().chain(&self.answers).map(AsFd::as_fd);
        let kept: Vec<BorrowedFd<'_>> = own.chain(others.iter().copied()).collect();
        close_all_but(inherited, &kept)
    }

    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), SysError> {
        write_all(self.pipe().as_ref(), bytes)
    }

    /// Has the launch do something, and waits until it is done. Where it fails, it tells its own caller, and this process ends.
    pub(super) fn ask(&self, request: u8) -> Step {
        self.write(&[request]).map_err(InitError::step("ask the launch"))?;
        self.wait_for_answer()
    }

    pub(super) fn wait_for_answer(&self) -> Step {
        let mut byte = [0_u8];
        let Some(answers) = &self.answers else { exit_now(1) };
        loop {
            match rustix::io::read(answers, &mut byte) {
                Ok(1) if byte == [DONE] => return Ok(()),
                Ok(_) => exit_now(1),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(InitError::step("ask the launch")(SysError::new("read", "a pipe", errno))),
            }
        }
    }

    /// Tells the launch why the command cannot run. Where it is gone, nobody is left to be told.
    pub(super) fn report(&self, error: &InitError) {
        drop(self.write(&report_of(error)));
    }
}

fn report_of(error: &InitError) -> Vec<u8> {
    let mut bytes = vec![FAILED];
    match serde_json::to_vec(error) {
        Ok(json) => bytes.extend(json),
        Err(unwritable) => bytes.extend(unwritable.to_string().into_bytes()),
    }
    bytes
}

fn write_all(pipe: Option<&OwnedFd>, mut bytes: &[u8]) -> Result<(), SysError> {
    let Some(pipe) = pipe else { return Ok(()) };
    while !bytes.is_empty() {
        match rustix::io::write(pipe, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("write", "the launch's pipe", errno)),
        }
    }
    Ok(())
}

/// A release aborts when it panics, and nothing can be caught: the report is made where the panic begins.
fn report_panics(pipe: Arc<Mutex<Option<OwnedFd>>>) {
    std::panic::set_hook(Box::new(move |panic| {
        let error = InitError::Panicked { message: message_of(panic) };
        // A panic in the midst of a report could only spoil it.
        if let Ok(pipe) = pipe.try_lock() {
            drop(write_all(pipe.as_ref(), &report_of(&error)));
        }
        exit_now(1)
    }));
}

fn message_of(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let said = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let place = panic.location().map(|place| format!(" ({place})")).unwrap_or_default();
    format!("{}{place}", said.unwrap_or("without a word"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::io::fcntl_dupfd_cloexec;

    use super::*;

    const IS_CLONED: &str = "STOS_TEST_PANICS";

    /// What a panic does ends the process: the test runs itself in another.
    #[test]
    fn a_panic_is_reported() {
        if std::env::var_os(IS_CLONED).is_some() {
            let _channel = Channel::new(fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).unwrap(), None);
            panic!("at the {}", "disco");
        }
        let name = std::thread::current().name().unwrap().to_owned();
        let own = std::env::current_exe().unwrap();
        let ended = Command::new(own).args(["--exact", &name]).env(IS_CLONED, "1").output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        let json = ended.stderr.strip_prefix(&[FAILED]).expect("a report and nothing else");
        let Ok(InitError::Panicked { message }) = serde_json::from_slice(json) else { panic!("{ended:?}") };
        assert!(message.starts_with("at the disco (") && message.contains("channel.rs:"), "{message}");
    }
}
