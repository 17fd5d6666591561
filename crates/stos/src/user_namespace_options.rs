// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Options about whose users a container has, read into the engine's types.

use anyhow::{Context, bail};
use stos_engine::user_namespace::{AutoOptions, UserNamespaceOptions, ranges_of};
use stos_sys::process::user_namespace::{IdMapping, IdMappings};

use crate::cli::UserNamespaceArgs;

/// Reads whose users a container is to have.
pub fn user_namespace(args: &UserNamespaceArgs) -> anyhow::Result<UserNamespaceOptions> {
    let mapped = mappings(args)?;
    let text = args.userns.as_deref().unwrap_or_default();
    let (mode, rest) = text.split_once(':').map_or((text, None), |(mode, rest)| (mode, Some(rest)));
    match (mode, rest, mapped) {
        ("" | "private", None, Some(mappings)) => Ok(UserNamespaceOptions::Mapped(mappings)),
        (_, _, Some(_)) => {
            bail!("--userns {text:?} and --uidmap, --gidmap, --subuidname or --subgidname exclude each other")
        }
        ("" | "host", None, None) => Ok(UserNamespaceOptions::Host),
        ("auto", rest, None) => auto(text, rest).map(UserNamespaceOptions::Auto),
        ("keep-id", rest, None) => keep_id(text, rest),
        ("container", Some(other), None) if !other.is_empty() => Ok(UserNamespaceOptions::Container(other.to_owned())),
        ("private", None, None) => {
            bail!("--userns \"private\" needs a mapping\nhint: give --uidmap CONTAINER:HOST:SIZE, or --userns auto")
        }
        ("nomap", None, None) => {
            bail!(
                "--userns \"nomap\" is for callers that are not root: root's own id is mapped by none of the others either"
            )
        }
        ("ns", Some(_), None) => bail!(
            "--userns {text:?} is not supported: the ids of a namespace at a path may change with whoever made it\nhint: \
             --userns container:CONTAINER joins that of a container"
        ),
        _ => bail!("--userns {text:?}: expected host, auto, private, keep-id or container:CONTAINER"),
    }
}

/// Reads the mappings that are given one by one; `None` where there are none.
fn mappings(args: &UserNamespaceArgs) -> anyhow::Result<Option<IdMappings>> {
    let (uid_name, gid_name) = (args.subuidname.as_ref(), args.subgidname.as_ref());
    if args.uidmap.is_empty() && args.gidmap.is_empty() && uid_name.is_none() && gid_name.is_none() {
        return Ok(None);
    }
    // What is said of one kind alone counts for both: podman's rule.
    let (uids, gids) = match (args.uidmap.as_slice(), args.gidmap.as_slice()) {
        (uids, []) => (uids, uids),
        ([], gids) => (gids, gids),
        both => both,
    };
    let [mut users, mut groups] = match (uid_name.or(gid_name), gid_name.or(uid_name)) {
        (Some(user), Some(group)) => ranges_of(user, group)?,
        _ => [Vec::new(), Vec::new()],
    };
    let read = |option: &str, texts: &[String]| -> anyhow::Result<Vec<IdMapping>> {
        texts.iter().map(|text| mapping(text).with_context(|| format!("{option} {text:?}"))).collect()
    };
    users.extend(read("--uidmap", uids)?);
    groups.extend(read("--gidmap", gids)?);
    Ok(Some(IdMappings { users, groups }))
}

/// Reads `CONTAINER:HOST[:SIZE]`; one id without a size.
fn mapping(text: &str) -> anyhow::Result<IdMapping> {
    // No sign: podman's `+` means something else.
    let number = |field: &str| field.bytes().all(|byte| byte.is_ascii_digit()).then(|| field.parse().ok()).flatten();
    let fields = text.split(':').map(number).collect::<Option<Vec<u32>>>();
    match fields.as_deref() {
        Some(&[container, host]) => Ok(IdMapping { container, host, size: 1 }),
        Some(&[container, host, size]) => Ok(IdMapping { container, host, size }),
        _ => bail!("expected CONTAINER:HOST[:SIZE], three numbers"),
    }
}

/// Gives the fields of `key=value,key=value`.
fn fields<'a>(text: &str, rest: Option<&'a str>) -> anyhow::Result<Vec<(&'a str, &'a str)>> {
    let fields = rest.into_iter().flat_map(|rest| rest.split(','));
    fields
        .map(|field| field.split_once('=').with_context(|| format!("--userns {text:?}: {field:?}: expected KEY=VALUE")))
        .collect()
}

fn auto(text: &str, rest: Option<&str>) -> anyhow::Result<AutoOptions> {
    let mut auto = AutoOptions::default();
    for (key, value) in fields(text, rest)? {
        let place = || format!("--userns {text:?}: {key}={value}");
        match key {
            "size" => match value.parse() {
                Ok(size @ 1..) => auto.size = Some(size),
                _ => bail!("{}: expected how many ids", place()),
            },
            "uidmapping" => auto.mappings.users.push(mapping(value).with_context(place)?),
            "gidmapping" => auto.mappings.groups.push(mapping(value).with_context(place)?),
            _ => bail!("{}: expected size, uidmapping or gidmapping", place()),
        }
    }
    Ok(auto)
}

fn keep_id(text: &str, rest: Option<&str>) -> anyhow::Result<UserNamespaceOptions> {
    let (mut uid, mut gid) = (0, 0);
    for (key, value) in fields(text, rest)? {
        let place = || format!("--userns {text:?}: {key}={value}");
        match key {
            "uid" => uid = value.parse().with_context(place)?,
            "gid" => gid = value.parse().with_context(place)?,
            _ => bail!("{}: expected uid or gid", place()),
        }
    }
    Ok(UserNamespaceOptions::KeepId { uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(userns: Option<&str>, uidmap: &[&str], gidmap: &[&str]) -> UserNamespaceArgs {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        UserNamespaceArgs {
            userns: userns.map(str::to_owned),
            uidmap: words(uidmap),
            gidmap: words(gidmap),
            subuidname: None,
            subgidname: None,
        }
    }

    fn range(container: u32, host: u32, size: u32) -> Vec<IdMapping> {
        vec![IdMapping { container, host, size }]
    }

    #[test]
    fn modes_are_podman_s() {
        let read = |text| user_namespace(&args(Some(text), &[], &[]));
        assert_eq!(read("").unwrap(), UserNamespaceOptions::Host);
        assert_eq!(read("host").unwrap(), UserNamespaceOptions::Host);
        assert_eq!(read("auto").unwrap(), UserNamespaceOptions::Auto(AutoOptions::default()));
        let mappings = IdMappings { users: range(5, 6, 7), groups: range(8, 9, 1) };
        let auto = AutoOptions { size: Some(4096), mappings };
        assert_eq!(read("auto:size=4096,uidmapping=5:6:7,gidmapping=8:9").unwrap(), UserNamespaceOptions::Auto(auto));
        assert_eq!(read("keep-id").unwrap(), UserNamespaceOptions::KeepId { uid: 0, gid: 0 });
        assert_eq!(read("keep-id:uid=200,gid=210").unwrap(), UserNamespaceOptions::KeepId { uid: 200, gid: 210 });
        assert_eq!(read("container:web").unwrap(), UserNamespaceOptions::Container("web".to_owned()));
    }

    #[test]
    fn what_is_said_of_one_kind_counts_for_both() {
        let both = IdMappings { users: range(0, 100_000, 10), groups: range(0, 100_000, 10) };
        for args in [
            args(None, &["0:100000:10"], &[]),
            args(None, &[], &["0:100000:10"]),
            args(Some("private"), &["0:100000:10"], &[]),
        ] {
            assert_eq!(user_namespace(&args).unwrap(), UserNamespaceOptions::Mapped(both.clone()));
        }
        let apart = user_namespace(&args(None, &["0:1:2"], &["0:3:4"])).unwrap();
        let apart_ids = IdMappings { users: range(0, 1, 2), groups: range(0, 3, 4) };
        assert_eq!(apart, UserNamespaceOptions::Mapped(apart_ids));
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for text in [
            "some",
            "keep",
            "private",
            "nomap",
            "auto:",
            "auto:size",
            "auto:size=0",
            "auto:size=x",
            "auto:uidmapping=1",
            "auto:what=1",
            "keep-id:uid=x",
            "keep-id:size=5",
            "container:",
            "ns:/proc/1/ns/user",
            "host:x",
        ] {
            let error = user_namespace(&args(Some(text), &[], &[])).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--userns {text:?}")), "{error}");
        }
        for text in ["", "1", "a:b:c", "1:2:3:4", "-1:0:1", "0:4294967296:1", "+0:1:1", "0:@1:1"] {
            let error = user_namespace(&args(None, &[text], &[])).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--uidmap {text:?}")), "{error}");
        }
        let error = user_namespace(&args(Some("auto"), &["0:1:1"], &[])).unwrap_err().to_string();
        assert!(error.contains("exclude each other"), "{error}");
    }
}
