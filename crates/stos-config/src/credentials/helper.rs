// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Credential helpers: `docker-credential-NAME get|store|erase|list` (the protocol of docker/docker-credential-helpers).
//!
//! A helper has the process's environment, bounded time, and bounded output. What it says on stderr, else on stdout, is
//! in the error where it fails; an answer of a helper that succeeds is never shown.
//!
//! Nobody's helper goes on when nobody wants its answer: one that takes too long is killed with what it has started, and one whose caller
//! ends by a signal gets SIGTERM. On a terminal it stays in the caller's process group: in another one the terminal would stop it when it
//! asks a person there, and Ctrl-C would not reach it. There what it has started is reached by Ctrl-C, and not by the time limit.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, getpgrp, kill_process_group, pidfd_open};
use rustix::termios::tcgetpgrp;
use stos_sys::process::child::end_with_caller;
use zeroize::Zeroizing;

use super::{Credential, CredentialSource, Login};
use crate::document::Node;
use crate::environment::Environment;
use crate::error::{Error, message};
use crate::place::Place;
use crate::secret::Secret;

/// The most bytes of an answer.
const ANSWER_MAX: usize = 64 << 10;
/// How much of what a helper says on stderr is kept.
const MESSAGE_MAX: usize = 4 << 10;
/// What all helpers say on stdout, with a failure, when they have nothing (`credentials/error.go` of that repository).
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Tells whether a text can be the end of a helper's name: no path, nothing that a terminal would act on.
pub fn is_helper_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    !name.is_empty() && name.len() <= 100 && name.chars().all(is_plain)
}

/// A helper that may be asked.
pub(super) struct Helper<'a> {
    environment: &'a Environment,
    limit: Duration,
    program: String,
    named_by: Place,
}

/// How a helper ended.
struct Finished {
    status: ExitStatus,
    stdout: Zeroizing<Vec<u8>>,
    stderr: Vec<u8>,
}

impl<'a> Helper<'a> {
    pub(super) fn new(environment: &'a Environment, limit: Duration, name: &str, named_by: Place) -> Self {
        Self { environment, limit, program: format!("docker-credential-{name}"), named_by }
    }

    /// Asks for a login.
    pub(super) fn get(&self, server: &str) -> Result<Option<Credential>, Error> {
        let Some(answer) = self.ask("get", server, server.as_bytes())? else { return Ok(None) };
        let unfit = || self.unfit("get", server, "a JSON object with the texts Username and Secret");
        let login = login(&self.program, &answer).map_err(|_| unfit())?;
        let source = CredentialSource::Helper {
            program: self.program.clone(),
            server: server.to_owned(),
            named_by: self.named_by.clone(),
        };
        Ok(login.map(|login| Credential { login, source }))
    }

    /// Stores a login.
    pub(super) fn store(&self, server: &str, user: &str, password: &Secret) -> Result<(), Error> {
        let text = |text: &str| Zeroizing::new(serde_json::Value::from(text).to_string());
        let input = Zeroizing::new(format!(
            "{{\"ServerURL\":{},\"Username\":{},\"Secret\":{}}}",
            *text(server),
            *text(user),
            *text(password.expose())
        ));
        match self.ask("store", server, input.as_bytes())? {
            Some(_) => Ok(()),
            None => Err(self.unfit("store", server, "that it stores credentials")),
        }
    }

    /// Removes a login. Tells whether there was one, as far as the helper says.
    pub(super) fn erase(&self, server: &str) -> Result<bool, Error> {
        Ok(self.ask("erase", server, server.as_bytes())?.is_some())
    }

    /// Lists the registries that it has logins of.
    pub(super) fn list(&self) -> Result<Vec<String>, Error> {
        const EVERYTHING: &str = "all registries";
        let Some(answer) = self.ask("list", EVERYTHING, b"")? else { return Ok(Vec::new()) };
        let servers = Node::of_json(Path::new(&self.program), &answer).and_then(|node| {
            Ok(node.item(Path::new(&self.program)).table()?.iter().map(|(name, _)| name.to_owned()).collect())
        });
        servers.map_err(|_| self.unfit("list", EVERYTHING, "a JSON object of registries and names"))
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    fn unfit(&self, verb: &'static str, server: &str, expected: &'static str) -> Error {
        Error::HelperAnswer { program: self.program.clone(), verb, server: server.to_owned(), expected }
    }

    /// Runs the helper. `None` where it says that it has nothing.
    fn ask(&self, verb: &'static str, server: &str, input: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let Some(path) = self.environment.program(&self.program) else {
            return Err(Error::HelperMissing { program: self.program.clone(), named_by: self.named_by.clone() });
        };
        let finished = self.run(&path, verb, server, input)?;
        if finished.status.success() {
            return Ok(Some(finished.stdout));
        }
        let says = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim() == NOT_FOUND;
        if says(&finished.stdout) || says(&finished.stderr) {
            return Ok(None);
        }
        // Helpers write their errors to stdout. An answer would be JSON, and may hold a secret.
        let stdout = finished.stdout.trim_ascii();
        let spoken = match finished.stderr.trim_ascii() {
            b"" if !stdout.contains(&b'{') => &stdout[..stdout.len().min(MESSAGE_MAX)],
            stderr => stderr,
        };
        Err(Error::HelperFailed {
            program: self.program.clone(),
            verb,
            server: server.to_owned(),
            status: finished.status.to_string(),
            message: message(spoken),
        })
    }

    fn run(&self, path: &Path, verb: &'static str, server: &str, input: &[u8]) -> Result<Finished, Error> {
        let failed = |source| Error::HelperStart { program: self.program.clone(), source };
        let deadline = Instant::now() + self.limit;
        let mut command = Command::new(path);
        command.arg(verb).env_clear().envs(self.environment.variables());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running::start(&mut command).map_err(failed)?;
        let mut pipes = Pipes::of(&mut child.process).map_err(failed)?;
        let ended = pidfd_open(child.pid(), PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
        let mut input = input;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (program, server) = (self.program.clone(), server.to_owned());
                return Err(Error::HelperTimeout { program, verb, server, limit: self.limit });
            }
            let has_ended = pipes.wait(&ended, left).map_err(failed)?;
            pipes.feed(&mut input).map_err(failed)?;
            pipes.drain().map_err(failed)?;
            if pipes.answer.len() > ANSWER_MAX {
                return Err(self.unfit(verb, server, "at most 64 KiB"));
            }
            if has_ended {
                let status = child.finish().map_err(failed)?;
                return Ok(Finished { status, stdout: pipes.answer, stderr: pipes.message });
            }
        }
    }
}

fn login(program: &str, answer: &[u8]) -> Result<Option<Login>, Error> {
    let path = Path::new(program);
    let node = Node::of_json(path, answer)?;
    let fields = node.item(path).table()?;
    let text = |name: &str| fields.set(name).map(|item| item.text()).transpose().map(Option::unwrap_or_default);
    let (user, secret) = (text("Username")?, text("Secret")?);
    Ok(match user {
        "" if secret.is_empty() => None,
        "<token>" => Some(Login::IdentityToken { user: None, token: Secret::from(secret) }),
        user => Some(Login::Password { user: user.to_owned(), password: Secret::from(secret) }),
    })
}

/// A child that does not outlive its caller's interest.
struct Running {
    process: Child,
    /// Whether it leads a process group of its own.
    has_group: bool,
    has_ended: bool,
}

impl Running {
    fn start(command: &mut Command) -> std::io::Result<Self> {
        let has_group = !is_on_terminal();
        if has_group {
            command.process_group(0);
        }
        // This thread waits for it.
        end_with_caller(command);
        Ok(Self { process: command.spawn()?, has_group, has_ended: false })
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Waits for its end. What it leaves behind on purpose, as an agent that keeps a password, goes on.
    fn finish(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.process.wait()?;
        self.has_ended = true;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // Its number, and so its group's, is its own until it has been waited for.
        if self.has_group {
            let _ = kill_process_group(self.pid(), Signal::KILL);
        }
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Tells whether a person may be asked: whether this process is in the foreground of a terminal.
pub(super) fn is_on_terminal() -> bool {
    let foreground = |terminal: File| tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp());
    File::open("/dev/tty").is_ok_and(foreground)
}

/// A child's standard streams, none of which is waited for alone: a helper may close or keep any of them.
struct Pipes {
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    answer: Zeroizing<Vec<u8>>,
    message: Vec<u8>,
}

impl Pipes {
    fn of(child: &mut Child) -> std::io::Result<Self> {
        let pipe = |fd: Option<OwnedFd>| -> std::io::Result<Option<File>> {
            let Some(fd) = fd else { return Ok(None) };
            fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
            Ok(Some(File::from(fd)))
        };
        Ok(Self {
            stdin: pipe(child.stdin.take().map(OwnedFd::from))?,
            stdout: pipe(child.stdout.take().map(OwnedFd::from))?,
            stderr: pipe(child.stderr.take().map(OwnedFd::from))?,
            answer: Zeroizing::new(Vec::with_capacity(4096)),
            message: Vec::new(),
        })
    }

    /// Waits until a stream can move or the child has ended, and tells whether it has.
    fn wait(&self, ended: &OwnedFd, limit: Duration) -> std::io::Result<bool> {
        let mut fds = vec![PollFd::new(ended, PollFlags::IN)];
        fds.extend(self.stdin.as_ref().map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::OUT)));
        let outputs = self.stdout.iter().chain(&self.stderr);
        fds.extend(outputs.map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)));
        let timeout = Timespec::try_from(limit).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok(!fds[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what the helper takes. One that does not read its input is its own matter.
    fn feed(&mut self, input: &mut &[u8]) -> std::io::Result<()> {
        while let (Some(stdin), false) = (&mut self.stdin, input.is_empty()) {
            match stdin.write(input) {
                Ok(written) => *input = &input[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => *input = &[],
                Err(error) => return Err(error),
            }
        }
        self.stdin = None;
        Ok(())
    }

    fn drain(&mut self) -> std::io::Result<()> {
        let answer = &mut self.answer;
        read_some(&mut self.stdout, |bytes| answer.extend_from_slice(bytes))?;
        let message = &mut self.message;
        read_some(&mut self.stderr, |bytes| {
            let room = MESSAGE_MAX.saturating_sub(message.len());
            message.extend_from_slice(&bytes[..bytes.len().min(room)]);
        })
    }
}

/// Reads what is there, but no more at once than an answer may be: another process may write on and on.
fn read_some(pipe: &mut Option<File>, mut take: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut buffer = Zeroizing::new([0; 4096]);
    let mut total = 0;
    while let (Some(file), true) = (&mut *pipe, total <= ANSWER_MAX) {
        match file.read(&mut buffer[..]) {
            Ok(0) => *pipe = None,
            Ok(count) => {
                take(&buffer[..count]);
                total += count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
