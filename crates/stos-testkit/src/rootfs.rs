// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A small root filesystem made of this machine's own shell, some tools, and the libraries that they need.
//!
//! So a test or a demo has a real container without a network and without a build tool: any Linux has `sh` and `ldd`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment;
use crate::tar_builder::{Entry, TarBuilder};

/// The tools that [`host_shell`] puts beside `sh`, where the host has them.
pub const TOOLS: [&str; 19] = [
    "cat", "cp", "df", "echo", "env", "grep", "head", "hostname", "id", "ln", "ls", "mkdir", "mv", "rm", "sleep",
    "stat", "test", "touch", "uname",
];

/// A layer tar with `/bin/sh` and [`TOOLS`], their libraries, `/etc/passwd` with root and user (1000), `/tmp`, and
/// mount points for `/proc`, `/sys` and `/dev`.
///
/// # Errors
/// Where the host has no `sh`, or a file cannot be read.
pub fn host_shell() -> io::Result<Vec<u8>> {
    host_programs(&TOOLS)
}

/// As [`host_shell`], with `sh` and the given programs; those that the host lacks are left out.
///
/// # Errors
/// As [`host_shell`].
pub fn host_programs(names: &[&str]) -> io::Result<Vec<u8>> {
    let shell =
        environment::tool("sh").ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this host has no sh"))?;
    let mut files = vec![(PathBuf::from("bin/sh"), shell.clone())];
    let mut libraries = shared_libraries(&shell)?;
    for name in names {
        if let Some(program) = environment::tool(name) {
            libraries.extend(shared_libraries(&program)?);
            files.push((Path::new("bin").join(name), program));
        }
    }
    files.extend(libraries.into_iter().map(|path| (path.strip_prefix("/").unwrap_or(&path).to_owned(), path)));
    tar_of(&files)
}

fn tar_of(files: &[(PathBuf, PathBuf)]) -> io::Result<Vec<u8>> {
    let fixed = ["dev", "etc", "proc", "root", "sys", "tmp", "home/user"].map(PathBuf::from);
    let parents = files.iter().filter_map(|(path, _)| path.parent()).chain(fixed.iter().map(PathBuf::as_path));
    let directories: BTreeSet<&Path> =
        parents.flat_map(Path::ancestors).filter(|path| !path.as_os_str().is_empty()).collect();
    let mut tar = TarBuilder::new();
    for directory in directories {
        let entry = Entry::directory(directory.to_string_lossy().as_bytes());
        tar.push(&match directory.to_str() {
            Some("tmp") => entry.mode(0o1777),
            Some("root") => entry.mode(0o700),
            Some("home/user") => entry.owner(1000, 1000),
            _ => entry,
        });
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n";
    tar.push(&Entry::file("etc/passwd", passwd));
    tar.push(&Entry::file("etc/group", "root:x:0:\nuser:x:1000:\n"));
    for (path, source) in files {
        tar.push(&Entry::file(path.to_string_lossy().as_bytes(), fs::read(source)?).mode(0o755));
    }
    Ok(tar.finish())
}

/// The libraries of a program and its loader, as `ldd` finds them; none for a static program or a script.
fn shared_libraries(program: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output()?;
    Ok(parse_ldd(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads lines `libc.so.6 => /lib/…/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn parse_ldd(text: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let place = line.split_once("=>").map_or(line, |(_, place)| place);
        place.split_whitespace().next().filter(|word| word.starts_with('/')).map(PathBuf::from)
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Need;

    #[test]
    fn ldd_lines_are_read() {
        let text = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\t\
                    libgone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text), expected.into_iter().collect());
        assert!(parse_ldd("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn the_shell_runs_in_its_own_root() {
        crate::require!(Need::Root, Need::Tool("chroot"), Need::Tool("ldd"));
        let directory = tempfile::tempdir().unwrap();
        tar::Archive::new(host_shell().unwrap().as_slice()).unpack(directory.path()).unwrap();
        let script = "cd /tmp && touch f && ls && id -u && test -d /proc && head -c 4 /etc/passwd";
        let output = Command::new("chroot").arg(directory.path()).args(["/bin/sh", "-c", script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "f\n0\nroot", "{output:?}");
    }
}
