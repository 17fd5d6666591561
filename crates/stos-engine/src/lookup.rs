// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Users and commands, looked up inside an image before a container is made from it.
//!
//! Both are looked up again at each start, in the container's own view: what is found here only tells mistakes early.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, fstat};
use stos_spec::UserSpec;
use stos_sys::rooted::Root;

use crate::error::{Error, Result};

/// Finds uid, gid and further groups of a user, by the image's `/etc/passwd` and `/etc/group` where it is a name.
pub fn look_up_user(root: &Root, user: &UserSpec) -> Result<(u32, u32, Vec<u32>)> {
    match stos_runtime::look_up_account(root, user) {
        Ok(account) => Ok((account.uid, account.gid, account.groups)),
        Err(error) => Err(Error::User { user: user.to_string(), reason: error.to_string() }),
    }
}

/// Looks for the command that a container would run, and says what is missing: which part of its path, or which
/// interpreter.
pub fn check_command(root: &Root, command: &str, cwd: &str, env: &[String]) -> Result<()> {
    if command.contains('/') {
        let path = Path::new("/").join(cwd.trim_start_matches('/')).join(command);
        let missing = |path: &Path| format!("{} does not exist in the image", first_missing(root, path).display());
        return match check_file(root, command, &path)? {
            true => Ok(()),
            false => Err(Error::CommandNotFound { command: command.to_owned(), reason: missing(&path) }),
        };
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let mut denied = None;
    for dir in path.split(':') {
        let candidate = Path::new("/").join(dir.trim_start_matches('/')).join(command);
        match check_file(root, command, &candidate) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // Found, and it cannot be run: what a shell tells, if no later directory has a better one.
            Err(error @ Error::CommandNotExecutable { .. }) => denied = denied.or(Some(error)),
            // The start would take this file too, and fail.
            Err(error @ Error::InterpreterMissing { .. }) => return Err(error),
            Err(_) => {}
        }
    }
    let reason = format!("it is in no directory of PATH={path}");
    Err(denied.unwrap_or_else(|| Error::CommandNotFound { command: command.to_owned(), reason }))
}

/// Tells whether a file is there; one that is and cannot be run is refused.
fn check_file(root: &Root, command: &str, path: &Path) -> Result<bool> {
    let unusable = |reason: &str| Error::CommandNotExecutable {
        command: command.to_owned(),
        reason: format!("{} {reason}", path.display()),
    };
    let Ok(found) = root.resolve(path) else { return Ok(false) };
    let stat = fstat(&found).map_err(stos_sys::SysError::at("fstat", || path.display().to_string()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(unusable("is not a file"));
    }
    if stat.st_mode & 0o111 == 0 {
        return Err(unusable("is not executable"));
    }
    match script_interpreter(root, path) {
        Some(interpreter) if root.resolve(&interpreter).is_err() => {
            Err(Error::InterpreterMissing { command: command.to_owned(), interpreter })
        }
        _ => Ok(true),
    }
}

/// Gives the first part of `path` that is not there.
fn first_missing(root: &Root, path: &Path) -> PathBuf {
    let mut so_far = PathBuf::from("/");
    for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        so_far.push(part);
        if root.resolve(&so_far).is_err() {
            break;
        }
    }
    so_far
}

/// Gives the interpreter that a script names in its first line (execve(2), "Interpreter scripts").
fn script_interpreter(root: &Root, path: &Path) -> Option<PathBuf> {
    let file = root.open_to_read(path).ok()?;
    let mut head = Vec::new();
    std::fs::File::from(file).take(256).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let word = line.split(|byte| b" \t".contains(byte)).find(|word| !word.is_empty())?;
    Some(PathBuf::from(std::ffi::OsStr::new(std::str::from_utf8(word).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn image() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        std::fs::create_dir(&bin).unwrap();
        for (name, text, mode) in [
            ("good", "x", 0o755),
            ("plain", "x", 0o644),
            ("script", "#! /bin/good -x\n", 0o755),
            ("lost", "#!/no/sh", 0o755),
        ] {
            std::fs::write(bin.join(name), text).unwrap();
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("/bin/good", bin.join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../bin/sh", bin.join("out")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "app:x:7:8::/home:/bin/sh\n").unwrap();
        std::fs::write(dir.path().join("etc/group"), "more:x:9:app\n").unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn commands_are_found_or_what_is_missing_is_said() {
        let (_dir, root) = image();
        let env = ["PATH=/sbin:/bin".to_owned()];
        let check = |command: &str| check_command(&root, command, "/bin", &env);
        for command in ["good", "/bin/good", "./good", "script", "link"] {
            check(command).expect(command);
        }
        let told = |command: &str| check(command).unwrap_err().to_string();
        assert!(told("none").contains("no directory of PATH=/sbin:/bin"));
        assert!(told("/bin/no/deeper").contains("/bin/no does not exist"));
        let lost = check("lost").unwrap_err();
        assert!(
            matches!(&lost, Error::InterpreterMissing { interpreter, .. } if interpreter == Path::new("/no/sh")),
            "{lost}"
        );
        // A directory of that name is like any other.
        check_command(&root, "good", "/", &["PATH=/opt/interpreter:/bin".to_owned()]).unwrap();
        // A symlink cannot lead out of the image to the host's shell.
        assert!(matches!(check("/bin/out"), Err(Error::CommandNotFound { .. })));
        for command in ["plain", "/bin"] {
            assert!(matches!(check(command), Err(Error::CommandNotExecutable { .. })), "{command}");
        }
    }

    #[test]
    fn users_are_found_by_number_and_by_name() {
        let (_dir, root) = image();
        let look = |user: &str| look_up_user(&root, &user.parse().unwrap());
        assert_eq!(look("app").unwrap(), (7, 8, vec![9]));
        assert_eq!(look("1000:1000").unwrap(), (1000, 1000, vec![]));
        let error = look("nobody-here").unwrap_err();
        assert!(matches!(&error, Error::User { user, .. } if user == "nobody-here"), "{error}");
    }
}
