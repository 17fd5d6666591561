// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A session with a container from an image: its output comes here, what is typed goes there, and keys leave it.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::{stderr, stdin, stdout};
use stos_engine::Engine;
use stos_engine::attach::{DetachKeys, Event, KeyScanner, Session, code_after_loss, connect};
use stos_engine::container::ContainerRecord;
use stos_engine::lifecycle::start_with_session;
use stos_engine::log::Stream;
use stos_sys::signals::{OF_CHILDREN_AND_SIZE, OF_STREAMS, SignalFd, of_foreground, unblock};

use super::own_streams::{Output, Typing};
use super::own_terminal::{ENDING, RawTerminal, own_size};
use crate::cli::{Attach, Global, SessionOptions};
use crate::failure::Failure;
use crate::target::{self, Target};

const WINCH: i32 = OF_CHILDREN_AND_SIZE[1];

/// How somebody takes part in a session.
pub struct Manner {
    /// Whether what is typed goes to the container, where that takes it.
    pub input: bool,
    /// The keys that leave it, where there are any.
    pub keys: Option<DetachKeys>,
    /// Whether signals go to the container instead of ending us.
    pub passes_signals: bool,
}

impl Manner {
    /// As the options say. Without a terminal there are keys only where they are asked for: what is piped in may hold them.
    pub fn new(input: bool, options: &SessionOptions, has_terminal: bool) -> Self {
        let default = has_terminal.then(DetachKeys::default);
        Self { input, keys: options.detach_keys.clone().or(default), passes_signals: options.passes_signals() }
    }
}

/// Attaches to a container that runs.
pub fn attach(global: &Global, args: &Attach) -> Result<u8, Failure> {
    let failed = |failure: Failure| failure.with_exit_code(125);
    let target = match &args.container {
        Some(query) => target::find_to_read(global, query),
        None => target::latest(global),
    };
    match target.map_err(failed)? {
        Target::Bundle(_, id) => {
            Err(Failure::message(format!("container {id} is a bundle's: its streams were given to create"), 125))
        }
        Target::Image(engine, record) => {
            let manner = Manner::new(!args.no_stdin, &args.session, true);
            attach_to(&engine, &record, manner)
        }
    }
}

/// Attaches to a container that runs.
pub fn attach_to(engine: &Engine, record: &ContainerRecord, manner: Manner) -> Result<u8, Failure> {
    let signals = signals(&manner)?;
    let mut session = connect(engine, record).map_err(Failure::of_container)?;
    if let Some((rows, columns)) = own_size().filter(|_| session.has_terminal()) {
        // A size that changes has programs draw themselves again, who would else show nothing to a newcomer.
        session.resize((rows.saturating_add(1), columns));
        session.resize((rows, columns));
    }
    follow(engine, record, session, manner, &signals)
}

/// Starts a container with us as its first client.
pub fn start(engine: &Engine, record: &ContainerRecord, manner: Manner) -> Result<u8, Failure> {
    // Before anything runs, so that no signal is lost.
    let signals = signals(&manner)?;
    let session = start_with_session(engine, record, own_size()).map_err(Failure::of_container)?;
    follow(engine, record, session, manner, &signals)
}

/// Those that are passed on, and a terminal's new size.
fn signals(manner: &Manner) -> Result<SignalFd, Failure> {
    Ok(if manner.passes_signals { SignalFd::new(&of_foreground())? } else { SignalFd::new(&[WINCH])? })
}

/// Takes part in a session until it ends, or is left.
fn follow(
    engine: &Engine,
    record: &ContainerRecord,
    session: Session,
    manner: Manner,
    signals: &SignalFd,
) -> Result<u8, Failure> {
    unblock(&OF_STREAMS)?;
    let ending: &[i32] = if manner.passes_signals { &[] } else { &ENDING };
    let input = manner.input && session.takes_input();
    let raw = if input && session.has_terminal() { RawTerminal::of_stdin(ending)? } else { None };
    let mut follower = Follower {
        session,
        typing: Typing::new(KeyScanner::new(&manner.keys.unwrap_or_else(DetachKeys::none)), input),
        outputs: [Output::new(stdout()), Output::new(stderr())],
        skipped: 0,
        end: None,
    };
    let left = follower.run(signals);
    drop(raw);
    let (skipped, end) = (follower.skipped, follower.end);
    if skipped > 0 {
        tracing::warn!(container = %record.name, bytes = skipped, "output came faster than it was read here, and is missing; the log has it");
    }
    left?;
    match end {
        None => Ok(0),
        // 0 to 255 by waitid(2), or 128 and a signal of at most 64.
        Some(End::Exited(code)) => Ok(u8::try_from(code).unwrap_or(255)),
        Some(End::Lost) => {
            let code = code_after_loss(engine, record).map_err(Failure::of_container)?;
            tracing::warn!(container = %record.name, "its last output was not read in time, and is missing; the log has it");
            Ok(u8::try_from(code).unwrap_or(255))
        }
    }
}

/// How a session has ended.
#[derive(Clone, Copy)]
enum End {
    Exited(i32),
    Lost,
}

struct Follower {
    session: Session,
    typing: Typing,
    outputs: [Output; 2],
    skipped: u64,
    end: Option<End>,
}

impl Follower {
    /// Returns when the session has ended and its output is written, or when it is left.
    fn run(&mut self, signals: &SignalFd) -> Result<(), Failure> {
        loop {
            if self.end.is_none() && !self.is_behind() {
                self.receive()?;
            }
            if self.end.is_some() && !self.is_behind() {
                return Ok(());
            }
            let is_typed = self.wait(signals)?;
            while let Some(signal) = signals.next_signal()? {
                if self.end.is_some() && !OF_CHILDREN_AND_SIZE.contains(&signal) {
                    // There is no process any more to pass it on to.
                    return Ok(());
                }
                self.take_signal(signal)?;
            }
            if is_typed && self.type_on() {
                return Ok(());
            }
            self.session.flush();
            self.outputs.iter_mut().for_each(Output::flush);
        }
    }

    fn is_behind(&self) -> bool {
        self.outputs.iter().any(Output::is_pending)
    }

    /// Waits until there is something to do; tells whether something is typed.
    fn wait(&self, signals: &SignalFd) -> Result<bool, Failure> {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        let reads = self.typing.is_open() && self.end.is_none() && !self.session.is_pending();
        if reads {
            fds.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
        if self.end.is_none() {
            let output = if self.is_behind() { PollFlags::empty() } else { PollFlags::IN };
            let input = if self.session.is_pending() { PollFlags::OUT } else { PollFlags::empty() };
            if !(output | input).is_empty() {
                fds.push(PollFd::from_borrowed_fd(self.session.as_fd(), output | input));
            }
        }
        let behind = self.outputs.iter().filter(|output| output.is_pending());
        fds.extend(behind.map(|output| PollFd::from_borrowed_fd(output.stream(), PollFlags::OUT)));
        match poll(&mut fds, None) {
            Ok(_) => Ok(reads && !fds[1].revents().is_empty()),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn take_signal(&mut self, signal: i32) -> Result<(), Failure> {
        if signal == WINCH {
            if let Some(size) = own_size().filter(|_| self.session.has_terminal()) {
                self.session.resize(size);
            }
        } else if !OF_CHILDREN_AND_SIZE.contains(&signal) && !OF_STREAMS.contains(&signal) {
            self.session.send_signal(signal)?;
        }
        Ok(())
    }

    /// Types what there is, and tells whether the keys that leave were among it.
    fn type_on(&mut self) -> bool {
        let mut typed = Vec::new();
        let is_left = self.typing.read(&mut typed);
        if !typed.is_empty() {
            self.session.send_input(&typed);
        }
        if !self.typing.is_open() {
            self.session.end_input();
        }
        is_left
    }

    fn receive(&mut self) -> Result<(), Failure> {
        let Self { session, outputs: [out, err], skipped, end, .. } = self;
        session.receive(&mut |event| match event {
            Event::Output(Stream::Stdout, bytes) => out.write(bytes),
            Event::Output(Stream::Stderr, bytes) => err.write(bytes),
            Event::Skipped(count) => *skipped += count,
            Event::Exited(code) => *end = Some(End::Exited(code)),
            Event::Lost => *end = Some(End::Lost),
        })?;
        Ok(())
    }
}
