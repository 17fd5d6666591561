// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finding and executing the command, and saying exactly what is missing where it cannot be.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat};
use rustix::io::Errno;
use stos_sys::SysError;
use stos_sys::process::exec::prepare;

use super::Step;
use crate::accounts::Account;
use crate::config::ProcessSettings;
use crate::init_error::InitError;
use crate::launch::Inherited;

/// Where commands are looked for when the environment has no PATH (as podman's containers have it).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that is there and may be executed.
#[derive(Debug)]
pub(super) struct Command {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Finds the command as the user that it will run as.
pub(super) fn find(process: &ProcessSettings, account: &Account, inherited: &Inherited) -> Step<Command> {
    let mut env = process.env.clone();
    tell_sockets(&mut env, inherited);
    if let Some(home) = &account.home {
        let variable = [b"HOME=", home.as_slice()].concat();
        env.extend(CString::new(variable));
    }
    let name = process.args.first().map(|name| name.as_bytes()).unwrap_or_default();
    let shown = String::from_utf8_lossy(name).into_owned();
    let found = if name.contains(&b'/') {
        let path = PathBuf::from(OsStr::from_bytes(name));
        check(&shown, &path)?;
        path
    } else {
        search(&shown, name, &env)?
    };
    let path = CString::new(found.into_os_string().into_vec())
        .map_err(|_| InitError::NotExecutable { command: shown, reason: "its path holds a NUL byte".to_owned() })?;
    Ok(Command { path, args: process.args.clone(), env })
}

/// Tells a process of its sockets, as sd_listen_fds(3) reads it. The pid is the one that it has in its own namespace.
fn tell_sockets(env: &mut Vec<CString>, inherited: &Inherited) {
    if inherited.listening == 0 {
        return;
    }
    let mut set = |name: &str, value: &[u8]| {
        let start = [name.as_bytes(), b"="].concat();
        env.retain(|variable| !variable.as_bytes().starts_with(&start));
        env.extend(CString::new([&start, value].concat()));
    };
    set("LISTEN_FDS", inherited.listening.to_string().as_bytes());
    set("LISTEN_PID", std::process::id().to_string().as_bytes());
    if let Some(names) = &inherited.names {
        set("LISTEN_FDNAMES", names.as_bytes());
    }
}

fn search(shown: &str, name: &[u8], env: &[CString]) -> Step<PathBuf> {
    let given = env.iter().find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="));
    let list = given.unwrap_or(DEFAULT_PATH.as_bytes());
    let mut denied = None;
    for directory in list.split(|byte| *byte == b':') {
        // An empty entry is the working directory, as execvp(3) has it.
        let directory = if directory.is_empty() { b"." } else { directory };
        let path = Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(name));
        match check(shown, &path) {
            Ok(()) if !name.is_empty() => return Ok(path),
            // The first that is there and may not be executed tells more than "not found", unless a later one runs.
            Err(error @ InitError::NotExecutable { .. }) if !name.is_empty() => denied = denied.or(Some(error)),
            _ => {}
        }
    }
    let path = String::from_utf8_lossy(list).into_owned();
    Err(denied.unwrap_or(InitError::CommandNotInPath { command: shown.to_owned(), path }))
}

/// Whether `path` is a file that the process may execute.
fn check(shown: &str, path: &Path) -> Step {
    let not_executable =
        |reason: &str| InitError::NotExecutable { command: shown.to_owned(), reason: reason.to_owned() };
    match rustix::fs::stat(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => {
            return Err(InitError::CommandMissing { command: shown.to_owned(), missing: first_missing(path) });
        }
        Err(Errno::ACCESS) => {
            return Err(not_executable("permission denied: a directory on its path may not be entered"));
        }
        Err(errno) => {
            return Err(not_executable(&SysError::new("stat", path.display().to_string(), errno).to_string()));
        }
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            return Err(not_executable("permission denied: it is a directory"));
        }
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
            return Err(not_executable("permission denied: it is not a regular file"));
        }
        Ok(_) => {}
    }
    match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(Errno::ACCESS) => {
            Err(not_executable("permission denied: it may not be executed, or its filesystem is mounted noexec"))
        }
        Err(errno) => Err(not_executable(&SysError::new("faccessat2", path.display().to_string(), errno).to_string())),
    }
}

/// The first part of `path` that does not exist; where all parts do, a symlink dangles and the whole is named.
fn first_missing(path: &Path) -> PathBuf {
    let mut so_far = PathBuf::new();
    for part in path.components() {
        so_far.push(part);
        if rustix::fs::lstat(&so_far).is_err() {
            return so_far;
        }
    }
    path.to_owned()
}

impl Command {
    /// Executes the command, right after `last`: nothing is allocated in between. Returns only an error.
    pub(super) fn execute(self, last: impl FnOnce() -> Step) -> Step<Infallible> {
        let prepared = prepare(&self.path, &self.args, &self.env);
        last()?;
        match prepared.execute() {
            Ok(never) => Ok(never),
            Err(error) => Err(self.explain(&error)),
        }
    }

    fn explain(&self, error: &SysError) -> InitError {
        let command = self.args.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let path = Path::new(OsStr::from_bytes(self.path.as_bytes()));
        match error.errno {
            // The file was there a moment ago: what is missing is what interprets it.
            Errno::NOENT => match interpreter(path) {
                Some(interpreter) => InitError::InterpreterMissing { command, interpreter },
                None => InitError::CommandMissing { command, missing: path.to_owned() },
            },
            Errno::NOEXEC => InitError::NotExecutable {
                command,
                reason: "it is neither a program for this machine nor a script that starts with #!".to_owned(),
            },
            _ => InitError::NotExecutable { command, reason: error.to_string() },
        }
    }
}

/// What interprets the file: of a script the program behind `#!`, of an ELF program its dynamic linker.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let mut head = Vec::new();
    (&file).take(4096).read_to_end(&mut head).ok()?;
    script_interpreter(&head).or_else(|| {
        let (offset, size) = elf_interpreter_at(&head)?;
        let mut name = vec![0; size.min(4096)];
        file.read_exact_at(&mut name, offset).ok()?;
        let name = name.split(|byte| *byte == 0).next()?;
        Some(PathBuf::from(OsStr::from_bytes(name)))
    })
}

fn script_interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let name = line.split(|byte| matches!(byte, b' ' | b'\t')).find(|part| !part.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(name)))
}

/// Offset and size of the interpreter's name in a 64-bit little-endian ELF file (program header PT_INTERP).
fn elf_interpreter_at(head: &[u8]) -> Option<(u64, usize)> {
    const PT_INTERP: u32 = 3;
    let u64_at = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let u16_at = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    // 0x7f ELF, class 2 (64-bit), data 1 (little-endian).
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64_at(32)?).ok()?;
    let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    (0..count).find_map(|index| {
        let at = table.checked_add(index.checked_mul(size)?)?;
        if u32_at(at)? != PT_INTERP {
            return None;
        }
        Some((u64_at(at.checked_add(8)?)?, usize::try_from(u64_at(at.checked_add(32)?)?).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn interpreters_are_named() {
        assert_eq!(script_interpreter(b"#! /usr/bin/env python3\nx"), Some("/usr/bin/env".into()));
        assert_eq!(script_interpreter(b"#!/bin/sh"), Some("/bin/sh".into()));
        assert_eq!(script_interpreter(b"#!\n"), None);
        assert_eq!(elf_interpreter_at(b"\x7fELF\x02\x01"), None);
        let own = interpreter(Path::new("/bin/sh"));
        if cfg!(all(target_arch = "x86_64", target_env = "gnu")) {
            assert_eq!(own, Some("/lib64/ld-linux-x86-64.so.2".into()));
        }
    }

    #[test]
    fn the_missing_part_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        std::fs::create_dir(dir.path().join("a")).unwrap();
        assert_eq!(first_missing(&path), dir.path().join("a/b"));
        let found = check("x", &path);
        assert_eq!(found, Err(InitError::CommandMissing { command: "x".into(), missing: dir.path().join("a/b") }));
        assert!(matches!(check("x", dir.path()), Err(InitError::NotExecutable { .. })));
    }

    #[test]
    fn path_is_searched_in_order_and_denials_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        for (place, mode) in [("one", 0o644), ("two", 0o755)] {
            let file = dir.path().join(place).join("tool");
            std::fs::create_dir(dir.path().join(place)).unwrap();
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = |names: &[&str]| {
            let list: Vec<_> = names.iter().map(|name| dir.path().join(name).display().to_string()).collect();
            vec![CString::new(format!("PATH={}", list.join(":"))).unwrap()]
        };
        assert_eq!(search("tool", b"tool", &path(&["none", "one", "two"])), Ok(dir.path().join("two/tool")));
        assert!(matches!(search("tool", b"tool", &path(&["one"])), Err(InitError::NotExecutable { .. })));
        assert!(matches!(search("tool", b"tool", &path(&["none"])), Err(InitError::CommandNotInPath { .. })));
        assert!(matches!(search("", b"", &path(&["two"])), Err(InitError::CommandNotInPath { .. })));
    }
}
