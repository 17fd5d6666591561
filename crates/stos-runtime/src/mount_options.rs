// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The option strings of a mount in `config.json`, as flags and parameters (config.md, "Linux mount options").

use stos_sys::mount::{FsParameter, Propagation};

/// `MOUNT_ATTR_*` of mount_setattr(2).
mod attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    pub const ATIME_MASK: u64 = 0x70;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Every attribute but those of access times: what a remount replaces.
pub const REPLACED_BY_REMOUNT: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;

/// Attributes to set and to clear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` bits to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` bits to clear first.
    pub clear: u64,
}

impl Attributes {
    fn change(&mut self, set: u64, clear: u64) {
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear | (set & attr::ATIME_MASK);
    }

    /// Whether nothing changes.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// The options of one mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `Some(recursive)` for `bind` and `rbind`.
    pub bind: Option<bool>,
    /// The mount that is at the destination already is changed.
    pub remount: bool,
    /// For the mount itself.
    pub attributes: Attributes,
    /// For the mount and all below it (`rro` and its kin).
    pub recursive: Attributes,
    /// Propagation, and whether it counts for what is below too; in the order given.
    pub propagation: Vec<(Propagation, bool)>,
    /// `Some(recursive)` for `idmap` and `ridmap`: the mount shows ids as mapped.
    pub map_ids: Option<bool>,
    /// `tmpcopyup`: a new tmpfs begins with what it hides.
    pub copy_up: bool,
    /// What the filesystem itself takes.
    pub parameters: Vec<FsParameter>,
}

/// An option that is known and not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub String);

/// An option that changes attributes: bits to set and bits to clear.
fn attribute(name: &str) -> Option<(u64, u64)> {
    Some(match name {
        "ro" => (attr::RDONLY, 0),
        "rw" => (0, attr::RDONLY),
        "nosuid" => (attr::NOSUID, 0),
        "suid" => (0, attr::NOSUID),
        "nodev" => (attr::NODEV, 0),
        "dev" => (0, attr::NODEV),
        "noexec" => (attr::NOEXEC, 0),
        "exec" => (0, attr::NOEXEC),
        "nodiratime" => (attr::NODIRATIME, 0),
        "diratime" => (0, attr::NODIRATIME),
        "nosymfollow" => (attr::NOSYMFOLLOW, 0),
        "symfollow" => (0, attr::NOSYMFOLLOW),
        // One of three states; the kernel wants the whole field cleared before any is set. Relative is zero.
        "noatime" => (attr::NOATIME, attr::ATIME_MASK),
        "strictatime" => (attr::STRICTATIME, attr::ATIME_MASK),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, attr::ATIME_MASK),
        _ => return None,
    })
}

fn propagation(name: &str) -> Option<(Propagation, bool)> {
    let bare = name.strip_prefix('r').filter(|rest| !rest.is_empty());
    let kind = |name| match name {
        "private" => Some(Propagation::Private),
        "slave" => Some(Propagation::Slave),
        "shared" => Some(Propagation::Shared),
        "unbindable" => Some(Propagation::Unbindable),
        _ => None,
    };
    kind(name).map(|kind| (kind, false)).or_else(|| kind(bare?).map(|kind| (kind, true)))
}

/// Names of options that say something about attributes, propagation, or the mount itself, sorted (features.md, "mountOptions").
pub fn names() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().flat_map(|name| [(*name).to_owned(), format!("r{name}")]);
    let kinds = ["private", "slave", "shared", "unbindable"];
    let propagation = kinds.iter().flat_map(|name| [(*name).to_owned(), format!("r{name}")]);
    let others = ["bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup"]
        .iter()
        .chain(&HOLDS_ANYWAY)
        .map(|name| (*name).to_owned());
    let mut names: Vec<_> = attributes.chain(propagation).chain(others).collect();
    names.sort();
    names
}

/// Options of which [`attribute`] knows what they change.
const ATTRIBUTES: [&str; 18] = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "nodiratime",
    "diratime",
    "nosymfollow",
    "symfollow",
    "noatime",
    "strictatime",
    "relatime",
    "atime",
    "norelatime",
    "nostrictatime",
];

/// What is so anyway: the kernel's own default, and a wish about its log.
const HOLDS_ANYWAY: [&str; 7] = ["defaults", "async", "loud", "silent", "nomand", "noiversion", "nolazytime"];

/// Reads the options of one mount. What is neither flag nor propagation is handed to the filesystem.
pub fn parse(options: &[String]) -> Result<MountOptions, Refused> {
    let mut parsed = MountOptions::default();
    for option in options {
        let name = option.as_str();
        if let Some((set, clear)) = attribute(name) {
            parsed.attributes.change(set, clear);
        } else if let Some((set, clear)) = name.strip_prefix('r').and_then(attribute) {
            parsed.recursive.change(set, clear);
        } else if let Some(found) = propagation(name) {
            parsed.propagation.push(found);
        } else {
            other(&mut parsed, name)?;
        }
    }
    if parsed.bind.is_some() || parsed.remount {
        // mount(2) would drop these without a word.
        if let Some(parameter) = parsed.parameters.first() {
            return Err(Refused(parameter.to_string()));
        }
    }
    Ok(parsed)
}

fn other(parsed: &mut MountOptions, name: &str) -> Result<(), Refused> {
    match name {
        "bind" => parsed.bind = parsed.bind.or(Some(false)),
        "rbind" => parsed.bind = Some(true),
        "remount" => parsed.remount = true,
        _ if HOLDS_ANYWAY.contains(&name) => {}
        "idmap" => parsed.map_ids = parsed.map_ids.or(Some(false)),
        "ridmap" => parsed.map_ids = Some(true),
        "tmpcopyup" => parsed.copy_up = true,
        // crun's own: never as if they were not there.
        "copy-symlink" | "dest-nofollow" | "src-nofollow" => {
            return Err(Refused(name.to_owned()));
        }
        _ if name.starts_with("idmap=") || name.starts_with("ridmap=") => return Err(Refused(name.to_owned())),
        _ => parsed.parameters.push(match name.split_once('=') {
            Some((key, value)) => FsParameter::String(key.to_owned(), value.to_owned()),
            None => FsParameter::Flag(name.to_owned()),
        }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<MountOptions, Refused> {
        parse(&text.split(',').map(ToOwned::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_and_parameters_are_told_apart() {
        let tmpfs = of("nosuid,strictatime,mode=755,size=65536k").unwrap();
        assert_eq!(tmpfs.attributes, Attributes { set: attr::NOSUID | attr::STRICTATIME, clear: attr::ATIME_MASK });
        let expected = [("mode", "755"), ("size", "65536k")].map(|(k, v)| FsParameter::String(k.into(), v.into()));
        assert_eq!(tmpfs.parameters, expected);
        assert_eq!(of("newinstance").unwrap().parameters, [FsParameter::Flag("newinstance".into())]);
    }

    #[test]
    fn every_name_is_understood() {
        for name in names() {
            let parsed = parse(&["bind".to_owned(), name.clone()]).unwrap();
            assert!(parsed.parameters.is_empty(), "{name}");
        }
        assert!(ATTRIBUTES.iter().all(|name| attribute(name).is_some()));
    }

    #[test]
    fn the_last_of_two_opposites_counts() {
        assert_eq!(of("ro,rw").unwrap().attributes, Attributes { set: 0, clear: attr::RDONLY });
        assert_eq!(of("rw,ro").unwrap().attributes, Attributes { set: attr::RDONLY, clear: 0 });
        assert_eq!(of("noatime,strictatime").unwrap().attributes.set, attr::STRICTATIME);
        assert_eq!(of("noatime,relatime").unwrap().attributes, Attributes { set: 0, clear: attr::ATIME_MASK });
    }

    #[test]
    fn binds_and_propagation() {
        let bind = of("rbind,ro,rprivate,slave").unwrap();
        assert_eq!((bind.bind, bind.attributes.set), (Some(true), attr::RDONLY));
        assert_eq!(bind.propagation, [(Propagation::Private, true), (Propagation::Slave, false)]);
        let recursive = of("rbind,rro,rnosuid").unwrap();
        assert!(recursive.attributes.is_empty());
        assert_eq!(recursive.recursive.set, attr::RDONLY | attr::NOSUID);
        assert_eq!(of("bind,remount,ro").unwrap().bind, Some(false));
        assert_eq!(of("rbind,idmap").unwrap().map_ids, Some(false));
        assert_eq!(of("rbind,ridmap,idmap").unwrap().map_ids, Some(true));
        let copied = of("tmpcopyup,mode=1777").unwrap();
        assert!(copied.copy_up && copied.parameters.len() == 1);
        assert_eq!(of("relatime").unwrap().recursive, Attributes::default());
    }

    #[test]
    fn what_would_be_dropped_is_refused_by_name() {
        for (options, name) in [
            ("bind,size=1m", "size=1m"),
            ("bind,src-nofollow", "src-nofollow"),
            ("rbind,idmap=uids=0-1-2", "idmap=uids=0-1-2"),
            ("remount,mode=700", "mode=700"),
        ] {
            assert_eq!(of(options), Err(Refused(name.to_owned())), "{options}");
        }
    }
}
