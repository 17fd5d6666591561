// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The options of the driver `local`, the only one there is: podman's (podman-volume-create(1), "--opt").
//!
//! Without `type` a volume is a directory of the store. With `bind` it shows a directory of the host; with `tmpfs` it is a filesystem in
//! memory, which lives as long as a container has it mounted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stos_sys::mount::FsParameter;

use super::VolumeError;
use crate::limits::{MOUNT_WORDS, TMPFS_KEYS};

/// What the files of a volume are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A directory of the store.
    Own,
    /// A directory or file of the host.
    Host {
        /// Its path.
        device: PathBuf,
        /// Whether what is mounted below it comes along.
        recursive: bool,
        /// Options of the mount.
        words: Vec<String>,
    },
    /// A filesystem in memory.
    Memory {
        /// What it takes itself.
        parameters: Vec<FsParameter>,
        /// Options of each mount of it.
        words: Vec<String>,
    },
}

/// All that the options of a volume say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalOptions {
    pub backing: Backing,
    /// Whom its directory belongs to, where that is said.
    pub owner: (Option<u32>, Option<u32>),
    /// Whether an image's files are copied into it at its first use.
    pub copies_up: bool,
}

/// Options that podman has and that would need quotas of the filesystem.
const QUOTAS: [&str; 3] = ["size", "inodes", "noquota"];

impl LocalOptions {
    /// Reads them. That a device of the host is there is looked at by who makes the volume, and by each start.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, VolumeError> {
        let (mut kind, mut device, mut given) = (None, None, Vec::new());
        let mut read = Self { backing: Backing::Own, owner: (None, None), copies_up: true };
        for (key, value) in options {
            match key.to_ascii_lowercase().as_str() {
                "type" => kind = Some(value.as_str()),
                "device" => device = Some(value.as_str()),
                "o" => given.extend(value.split(',').filter(|word| !word.is_empty())),
                "uid" => read.owner.0 = Some(id(key, value)?),
                "gid" => read.owner.1 = Some(id(key, value)?),
                "copy" => read.copies_up = true,
                "nocopy" => read.copies_up = false,
                quota if QUOTAS.contains(&quota) => return Err(no_quota(key)),
                _ => return Err(VolumeError::UnknownOption(key.clone())),
            }
        }
        read.backing = match kind.map(str::to_ascii_lowercase).as_deref() {
            Some("tmpfs") => memory(&mut read, &given)?,
            Some("bind" | "none") => host(&mut read, kind == Some("bind"), device, &given)?,
            None if device.is_none() => {
                for word in given {
                    read.common(word)?;
                }
                Backing::Own
            }
            None => return Err(wrong("device", device.unwrap_or_default(), "it needs a type: bind or tmpfs")),
            Some(other) => return Err(wrong("type", other, "expected bind, none or tmpfs")),
        };
        Ok(read)
    }

    /// Reads a word of `o` that says something of the volume itself.
    fn common(&mut self, word: &str) -> Result<(), VolumeError> {
        match word.split_once('=').unwrap_or((word, "")) {
            ("uid", value) => self.owner.0 = Some(id("uid", value)?),
            ("gid", value) => self.owner.1 = Some(id("gid", value)?),
            ("copy", "") => self.copies_up = true,
            ("nocopy", "") => self.copies_up = false,
            (key, _) if QUOTAS.contains(&key) => return Err(no_quota(word)),
            _ => return Err(wrong("o", word, "expected uid=N, gid=N, copy or nocopy, for the volume has no type")),
        }
        Ok(())
    }
}

fn memory(read: &mut LocalOptions, given: &[&str]) -> Result<Backing, VolumeError> {
    let (mut parameters, mut words) = (Vec::new(), Vec::new());
    for word in given {
        match word.split_once('=') {
            Some((key, value)) if TMPFS_KEYS.contains(&key) && !value.is_empty() => {
                parameters.push(FsParameter::String(key.to_owned(), value.to_owned()));
            }
            None if MOUNT_WORDS.contains(word) => words.push((*word).to_owned()),
            None if matches!(*word, "copy" | "nocopy") => read.common(word)?,
            _ => return Err(wrong("o", word, "it is no option of a tmpfs that is supported")),
        }
    }
    for (key, id) in [("uid", read.owner.0), ("gid", read.owner.1)] {
        parameters.extend(id.map(|id| FsParameter::String(key.to_owned(), id.to_string())));
    }
    Ok(Backing::Memory { parameters, words })
}

fn host(read: &mut LocalOptions, is_bind: bool, device: Option<&str>, given: &[&str]) -> Result<Backing, VolumeError> {
    let device = device.ok_or_else(|| wrong("type", "bind", "it needs a device: the path of a directory"))?;
    if !Path::new(device).is_absolute() || device.contains('\0') {
        return Err(wrong("device", device, "expected an absolute path"));
    }
    let (mut recursive, mut words) = (is_bind.then_some(false), Vec::new());
    for word in given {
        match *word {
            "bind" => recursive = Some(recursive.unwrap_or(false)),
            "rbind" => recursive = Some(true),
            "copy" | "nocopy" => read.common(word)?,
            word if MOUNT_WORDS.contains(&word) => words.push(word.to_owned()),
            word => return Err(wrong("o", word, "it is no option of a bind mount that is supported")),
        }
    }
    let recursive = recursive.ok_or_else(|| wrong("type", "none", "expected o=bind or o=rbind with it"))?;
    Ok(Backing::Host { device: device.into(), recursive, words })
}

fn wrong(option: &str, value: &str, reason: &str) -> VolumeError {
    VolumeError::Option { option: format!("{option}={value}"), reason: reason.to_owned() }
}

fn no_quota(option: &str) -> VolumeError {
    let reason = "quotas of volumes are not supported: a tmpfs has a size".to_owned();
    VolumeError::Option { option: option.to_owned(), reason }
}

fn id(option: &str, value: &str) -> Result<u32, VolumeError> {
    // (uid_t)-1 is no user (chown(2)).
    let id = value.parse().ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| wrong(option, value, "expected a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<LocalOptions, VolumeError> {
        LocalOptions::parse(&options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_volume_is_a_directory_a_bind_or_in_memory() {
        let own = LocalOptions { backing: Backing::Own, owner: (None, None), copies_up: true };
        assert_eq!(parse(&[]).unwrap(), own);
        let owned = LocalOptions { owner: (Some(7), Some(8)), copies_up: false, ..own.clone() };
        assert_eq!(parse(&[("o", "uid=7,gid=8,nocopy")]).unwrap(), owned);
        assert_eq!(parse(&[("uid", "7"), ("gid", "8"), ("nocopy", "")]).unwrap(), owned);
        let host = |recursive, words: &[&str]| Backing::Host {
            device: "/srv".into(),
            recursive,
            words: words.iter().map(|word| (*word).to_owned()).collect(),
        };
        for (kind, given, expected) in [
            ("none", "bind", host(false, &[])),
            ("none", "rbind,ro", host(true, &["ro"])),
            ("bind", "", host(false, &[])),
            ("bind", "noexec", host(false, &["noexec"])),
        ] {
            assert_eq!(parse(&[("type", kind), ("o", given), ("device", "/srv")]).unwrap().backing, expected);
        }
        let memory = parse(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=2m,nodev,uid=7")]).unwrap().backing;
        let string = |key: &str, value: &str| FsParameter::String(key.into(), value.into());
        let parameters = vec![string("size", "2m"), string("uid", "7")];
        assert_eq!(memory, Backing::Memory { parameters, words: vec!["nodev".to_owned()] });
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (options, named) in [
            (&[("foo", "bar")][..], "invalid mount option foo for driver 'local'"),
            (&[("size", "1m")], "size"),
            (&[("o", "size=1m")], "size=1m"),
            (&[("o", "nodev")], "o=nodev"),
            (&[("uid", "x")], "uid=x"),
            (&[("uid", "4294967295")], "uid=4294967295"),
            (&[("type", "nfs"), ("device", "h:/x")], "type=nfs"),
            (&[("device", "/x")], "device=/x"),
            (&[("type", "none"), ("device", "/x")], "o=bind"),
            (&[("type", "bind"), ("device", "x")], "device=x"),
            (&[("type", "bind")], "device"),
            (&[("type", "bind"), ("device", "/x"), ("o", "size=1")], "o=size=1"),
            (&[("type", "tmpfs"), ("o", "lowerdir=/")], "o=lowerdir=/"),
        ] {
            let said = parse(options).unwrap_err().to_string();
            assert!(said.contains(named), "{options:?}: {said}");
        }
    }
}
