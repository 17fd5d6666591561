// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Users and groups in the files of a container.

use std::fs;

use stos_runtime::accounts::{group_name, user_name};
use stos_runtime::look_up_account;
use stos_spec::UserSpec;
use stos_spec::user::{ID_MAX, Principal};
use stos_sys::rooted::Root;
use tempfile::TempDir;

use crate::check_message;

/// Looks a `User` up: the input is that, `/etc/passwd` and `/etc/group`, with a NUL between.
///
/// The account is what a plain reader of the two files finds, and no number is beyond [`ID_MAX`]: nobody becomes root by a
/// number that overflows or a line that is none.
pub fn accounts(data: &[u8]) {
    thread_local!(static ROOT: (TempDir, Root) = new_root());
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (user, passwd, group) = (next(), next(), next());
    let asked = match String::from_utf8_lossy(user).parse::<UserSpec>() {
        Ok(asked) => asked,
        Err(error) => return check_message(&error),
    };
    ROOT.with(|(dir, root)| {
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        fs::write(dir.path().join("etc/group"), group).unwrap();
        let expected = expected(&asked, passwd, group);
        match look_up_account(root, &asked) {
            Ok(found) => {
                assert_eq!(Some((found.uid, found.gid, found.groups.clone(), found.home)), expected);
                assert!(found.groups.iter().chain([&found.uid, &found.gid]).all(|id| *id <= ID_MAX));
            }
            Err(error) => {
                check_message(&error);
                assert_eq!(expected, None);
            }
        }
        let name_of = |lines: &[Line<'_>], id| {
            let found = lines.iter().find(|line| line.id == id);
            found.map(|line| String::from_utf8_lossy(line.name).into_owned())
        };
        for id in [0, 1000] {
            assert_eq!(user_name(root, id), name_of(&users(passwd), id));
            assert_eq!(group_name(root, id), name_of(&lines(group, 2), id));
        }
    });
}

fn new_root() -> (TempDir, Root) {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

/// A line of either file that counts.
struct Line<'a> {
    name: &'a [u8],
    id: u32,
    fields: Vec<&'a [u8]>,
}

fn id(field: &[u8]) -> Option<u32> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let number = field.iter().try_fold(0_u64, |sum, byte| sum.checked_mul(10)?.checked_add(digit(byte)?));
    number.filter(|number| !field.is_empty() && *number <= u64::from(ID_MAX)).map(|number| number as u32)
}

fn lines(file: &[u8], id_at: usize) -> Vec<Line<'_>> {
    let line = |line| {
        let fields: Vec<&[u8]> = <[u8]>::split(line, |byte| *byte == b':').collect();
        let id = id(fields.get(id_at)?)?;
        (!fields[0].is_empty()).then(|| Line { name: fields[0], id, fields })
    };
    file.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn users(passwd: &[u8]) -> Vec<Line<'_>> {
    lines(passwd, 2).into_iter().filter(|line| line.fields.get(3).copied().and_then(id).is_some()).collect()
}

type Expected = (u32, u32, Vec<u32>, Option<Vec<u8>>);

/// The rules of docker and podman, once more.
fn expected(asked: &UserSpec, passwd: &[u8], group: &[u8]) -> Option<Expected> {
    let (users, groups) = (users(passwd), lines(group, 2));
    let user = users.iter().find(|line| match &asked.user {
        Principal::Id(id) => line.id == *id,
        Principal::Name(name) => line.name == name.as_bytes(),
    });
    let uid = match (&asked.user, user) {
        (Principal::Id(id), _) => *id,
        (Principal::Name(_), user) => user?.id,
    };
    let home = user.map(|line| line.fields.get(5).copied().unwrap_or_default().to_vec());
    match (&asked.group, user) {
        (Some(Principal::Id(gid)), _) => Some((uid, *gid, Vec::new(), home)),
        (Some(Principal::Name(name)), _) => {
            let gid = groups.iter().find(|line| line.name == name.as_bytes())?.id;
            Some((uid, gid, Vec::new(), home))
        }
        (None, None) => Some((uid, 0, Vec::new(), home)),
        (None, Some(user)) => {
            let mut further = Vec::new();
            for line in &groups {
                let members = line.fields.get(3).copied().unwrap_or_default();
                let is_member = members.split(|byte| *byte == b',').any(|member| member == user.name);
                if is_member && !further.contains(&line.id) {
                    further.push(line.id);
                }
            }
            Some((uid, id(user.fields[3])?, further, home))
        }
    }
}
