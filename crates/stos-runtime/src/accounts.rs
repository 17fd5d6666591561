// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Users and groups, looked up in the files that the container itself sees.
//!
//! The files are the image's: they may be symlinks (followed inside the root), FIFOs (refused, never waited for), or endless
//! (CVE-2024-9676). Numbers are read with a bound, so that none overflows to root (CVE-2024-40635).

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;
use stos_spec::UserSpec;
use stos_spec::user::{ID_MAX, Principal};
use stos_sys::rooted::{Root, file_type};

use crate::config::ProcessSettings;
use crate::init_error::InitError;
use crate::launch::Identity;

type Step<T = ()> = Result<T, InitError>;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// More than any real account file has: 100,000 users take 6 MB.
const FILE_MAX: u64 = 32 << 20;

/// As many groups as the kernel lets a process have (`NGROUPS_MAX`, setgroups(2)).
const GROUPS_MAX: usize = 65_536;

/// Whom the command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home directory, where the environment gives none.
    pub home: Option<Vec<u8>>,
}

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    home: Vec<u8>,
}

/// Finds out whom the command runs as. `home` is what HOME becomes, where the environment gives none.
pub(crate) fn resolve(root: &Root, identity: Identity<'_>, process: &ProcessSettings) -> Result<Account, InitError> {
    let needs_home = !process.env.iter().any(|variable| variable.as_bytes().starts_with(b"HOME="));
    let mut account = match identity {
        Identity::FromSpec => {
            let groups = process.additional_gids.clone();
            // Nobody asked for the file: where it cannot be read (masked, say), home is what it is without an entry.
            let entry = if needs_home { find_user(root, &Principal::Id(process.uid)).ok().flatten() } else { None };
            Account { uid: process.uid, gid: process.gid, groups, home: entry.map(|user| user.home) }
        }
        Identity::LookUp(user) => look_up_account(root, user)?,
    };
    let home = account.home.take().filter(|home| !home.is_empty());
    account.home = needs_home.then(|| home.unwrap_or_else(|| b"/".to_vec()));
    Ok(account)
}

/// Looks a user up in the account files inside `root`.
///
/// The rules of docker and podman: a number needs no entry, a name does; groups from `/etc/group` come with a user that
/// has an entry and for whom no group is given.
pub fn look_up_account(root: &Root, asked: &UserSpec) -> Result<Account, InitError> {
    let user = find_user(root, &asked.user)?;
    let uid = match (&asked.user, &user) {
        (_, Some(user)) => user.uid,
        (Principal::Id(id), None) => *id,
        (Principal::Name(name), None) => return Err(unknown("user", name, PASSWD)),
    };
    let home = user.as_ref().map(|user| user.home.clone());
    let (gid, groups) = match (&asked.group, &user) {
        (Some(Principal::Id(id)), _) => (*id, Vec::new()),
        (Some(Principal::Name(name)), _) => (find_group(root, name)?, Vec::new()),
        (None, Some(user)) => (user.gid, groups_of(root, &user.name)?),
        (None, None) => (0, Vec::new()),
    };
    Ok(Account { uid, gid, groups, home })
}

/// Gives the name of the user in the account files inside `root`; `None` where they have none, or cannot be read.
pub fn user_name(root: &Root, uid: u32) -> Option<String> {
    let user = find_user(root, &Principal::Id(uid)).ok().flatten()?;
    Some(String::from_utf8_lossy(&user.name).into_owned())
}

/// Gives the name of the group in the account files inside `root`; `None` as [`user_name`].
pub fn group_name(root: &Root, gid: u32) -> Option<String> {
    let mut found = None;
    each_line(root, GROUP, |line| {
        found = parse_group(line)
            .filter(|(_, id, _)| *id == gid)
            .map(|(name, _, _)| String::from_utf8_lossy(name).into_owned());
        found.is_none()
    })
    .ok()?;
    found
}

fn unknown(what: &str, name: &str, file: &str) -> InitError {
    InitError::NoSuchPrincipal { what: what.to_owned(), name: name.to_owned(), file: file.to_owned() }
}

fn find_user(root: &Root, asked: &Principal) -> Step<Option<User>> {
    let mut found = None;
    each_line(root, PASSWD, |line| {
        let user = parse_user(line).filter(|user| match asked {
            Principal::Id(id) => user.uid == *id,
            Principal::Name(name) => user.name == name.as_bytes(),
        });
        found = user;
        found.is_none()
    })?;
    Ok(found)
}

fn find_group(root: &Root, asked: &str) -> Step<u32> {
    let mut found = None;
    each_line(root, GROUP, |line| {
        found = parse_group(line).filter(|(name, _, _)| *name == asked.as_bytes()).map(|(_, gid, _)| gid);
        found.is_none()
    })?;
    found.ok_or_else(|| unknown("group", asked, GROUP))
}

fn groups_of(root: &Root, user: &[u8]) -> Step<Vec<u32>> {
    let (mut groups, mut known) = (Vec::new(), HashSet::new());
    each_line(root, GROUP, |line| {
        if let Some((_, gid, members)) = parse_group(line)
            && members.split(|byte| *byte == b',').any(|member| member == user)
            && known.insert(gid)
        {
            groups.push(gid);
        }
        groups.len() <= GROUPS_MAX
    })?;
    if groups.len() > GROUPS_MAX {
        let reason = format!("user {:?} is in more than {GROUPS_MAX} groups", String::from_utf8_lossy(user));
        return Err(InitError::AccountFile { file: GROUP.to_owned(), reason });
    }
    Ok(groups)
}

/// `name:password:uid:gid:gecos:home:shell`. A line that is none is skipped, as getpwent(3) does.
fn parse_user(line: &[u8]) -> Option<User> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_vec();
    let (uid, gid) = (number(fields.nth(1)?)?, number(fields.next()?)?);
    let home = fields.nth(1).unwrap_or_default().to_vec();
    Some(User { name, uid, gid, home })
}

/// `name:password:gid:member,member`.
fn parse_group(line: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = number(fields.nth(1)?)?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

fn number(field: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(field).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok().filter(|id| *id <= ID_MAX)
}

/// Calls `take` with each line until it says stop. A file that is not there has no lines.
fn each_line(root: &Root, path: &str, mut take: impl FnMut(&[u8]) -> bool) -> Step {
    let unreadable = |reason: String| InitError::AccountFile { file: path.to_owned(), reason };
    let file = match root.open_to_read(Path::new(path)) {
        Ok(file) => file,
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    match file_type(file.as_fd()).map_err(|error| unreadable(error.to_string()))? {
        FileType::RegularFile => {}
        other => return Err(unreadable(format!("expected a regular file, found {other:?}"))),
    }
    read_lines(BufReader::new(File::from(file).take(FILE_MAX + 1)), take_bounded(&mut take)).map_err(unreadable)
}

fn take_bounded(take: &mut impl FnMut(&[u8]) -> bool) -> impl FnMut(&[u8], u64) -> Result<bool, String> {
    |line, read| {
        if read > FILE_MAX {
            return Err(format!("expected at most {FILE_MAX} bytes"));
        }
        Ok(take(line))
    }
}

fn read_lines(mut file: impl BufRead, mut take: impl FnMut(&[u8], u64) -> Result<bool, String>) -> Result<(), String> {
    let (mut line, mut read) = (Vec::new(), 0);
    loop {
        line.clear();
        match file.read_until(b'\n', &mut line).map_err(|error| error.to_string())? {
            0 => return Ok(()),
            count => read += count as u64,
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if !take(text, read)? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root(passwd: &str, group: &str) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        fs::write(dir.path().join("etc/group"), group).unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    const ROOT_LINE: &str = "root:x:0:0:root:/root:/bin/sh\n";

    #[test]
    fn users_and_groups_are_found() {
        let passwd = format!("{ROOT_LINE}# no user\nweb:x:1000:1001::/srv/web:/bin/sh\n");
        let (_dir, root) = root(&passwd, "web:x:1001:\nadm:x:4:root,web\nlog:x:9:web\nwebs:x:10:webster\n");
        let look = |text: &str| look_up_account(&root, &text.parse().unwrap());
        let account = look("web").unwrap();
        assert_eq!((account.uid, account.gid, account.groups), (1000, 1001, vec![4, 9]));
        assert_eq!(account.home.as_deref(), Some(&b"/srv/web"[..]));
        assert_eq!(look("1000").unwrap().gid, 1001);
        assert_eq!(look("4711").unwrap(), Account { uid: 4711, gid: 0, groups: vec![], home: None });
        let given = look("web:adm").unwrap();
        assert_eq!((given.gid, given.groups), (4, vec![]));
        assert!(matches!(look("nobody"), Err(InitError::NoSuchPrincipal { what, .. }) if what == "user"));
        assert!(matches!(look("web:none"), Err(InitError::NoSuchPrincipal { what, .. }) if what == "group"));
    }

    #[test]
    fn numbers_that_overflow_are_nobody() {
        let (_dir, root) = root("a:x:4294967296:0::/:\nb:x:4294967295:0::/:\nc:x:-1:0::/:\nd:x: 0:0::/:\n", "");
        for name in ["a", "b", "c", "d"] {
            assert!(
                matches!(look_up_account(&root, &name.parse().unwrap()), Err(InitError::NoSuchPrincipal { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn malformed_lines_are_skipped() {
        let (_dir, root) = root("\n:::\nweb\nweb:x\nweb:x:5\nweb:x:5:6\nweb:x:7:8::/h:\n", "\0\nweb:x:\n");
        assert_eq!(look_up_account(&root, &"web".parse().unwrap()).unwrap().uid, 5);
    }

    #[test]
    fn files_that_are_no_files_are_refused_at_once() {
        let (dir, root) = root("", "");
        let passwd = dir.path().join("etc/passwd");
        fs::remove_file(&passwd).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &passwd, FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        assert!(matches!(look_up_account(&root, &"web".parse().unwrap()), Err(InitError::AccountFile { .. })));
        fs::remove_file(&passwd).unwrap();
        fs::create_dir(&passwd).unwrap();
        assert!(matches!(look_up_account(&root, &"0".parse().unwrap()), Err(InitError::AccountFile { .. })));
        fs::remove_dir(&passwd).unwrap();
        // A symlink is followed, inside: the host's own file is out of reach.
        symlink("/../../../../../../../../etc/shadow", &passwd).unwrap();
        assert_eq!(look_up_account(&root, &"0".parse().unwrap()).unwrap().home, None);
        fs::write(dir.path().join("etc/other"), "web:x:12:12::/:\n").unwrap();
        fs::remove_file(&passwd).unwrap();
        symlink("/etc/other", &passwd).unwrap();
        assert_eq!(look_up_account(&root, &"web".parse().unwrap()).unwrap().uid, 12);
    }

    #[test]
    fn more_groups_than_a_process_can_have_are_refused() {
        let groups =
            |count: usize| (1..=count).map(|gid| format!("g:x:{gid}:web\ng:x:{gid}:web\n")).collect::<String>();
        let (_dir, most) = root("web:x:7:8::/:\n", &groups(GROUPS_MAX));
        assert_eq!(look_up_account(&most, &"web".parse().unwrap()).unwrap().groups.len(), GROUPS_MAX);
        let (_dir, more) = root("web:x:7:8::/:\n", &groups(GROUPS_MAX + 1));
        let refused = look_up_account(&more, &"web".parse().unwrap());
        assert!(matches!(refused, Err(InitError::AccountFile { file, .. }) if file == GROUP));
        assert!(look_up_account(&more, &"web:5".parse().unwrap()).unwrap().groups.is_empty());
    }

    #[test]
    fn an_endless_file_is_refused() {
        let (dir, root) = root("", "");
        let file = fs::File::create(dir.path().join("etc/passwd")).unwrap();
        file.set_len(FILE_MAX + 4096).unwrap();
        assert!(matches!(look_up_account(&root, &"web".parse().unwrap()), Err(InitError::AccountFile { .. })));
    }
}
