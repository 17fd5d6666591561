// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--volume`, `--mount` and `--volumes-from`, read as podman reads them (podman-run(1)).

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use stos_engine::MountOption;
use stos_engine::image_volumes::ImageMountOption;
use stos_engine::limits::TmpfsOption;
use stos_engine::volumes::{VolumeOption, VolumesFrom};
use stos_store::VolumeName;

use crate::cli::parse_tmpfs;

/// All that is to be mounted.
#[derive(Debug, Default)]
pub struct Mounts {
    /// Of the host.
    pub binds: Vec<MountOption>,
    /// Volumes.
    pub volumes: Vec<VolumeOption>,
    /// In memory.
    pub tmpfs: Vec<TmpfsOption>,
    /// Images.
    pub images: Vec<ImageMountOption>,
}

impl Mounts {
    /// Reads what was given as `--volume` and as `--mount`.
    pub fn read(volumes: &[String], mounts: &[String]) -> anyhow::Result<Self> {
        let mut read = Self::default();
        for text in volumes {
            read.add_volume(text).with_context(|| format!("--volume {text:?}"))?;
        }
        for text in mounts {
            read.add_mount(text).with_context(|| format!("--mount {text:?}"))?;
        }
        Ok(read)
    }

    /// Reads `[SOURCE:]TARGET[:OPTIONS]`: a path of the host, or a volume's name.
    fn add_volume(&mut self, text: &str) -> anyhow::Result<()> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts.as_slice() {
            [target] => (None, *target, ""),
            [source, target] => (Some(*source), *target, ""),
            [source, target, options] => (Some(*source), *target, *options),
            _ => bail!("expected [SOURCE:]TARGET[:OPTIONS]"),
        };
        let words: Vec<&str> = options.split(',').filter(|word| !word.is_empty()).collect();
        let source = match source {
            Some(path) if path.starts_with(['/', '.']) => {
                let mut bind = bind(path, target)?;
                words.iter().try_for_each(|word| bind_word(&mut bind, word))?;
                self.binds.push(bind);
                return Ok(());
            }
            other => other,
        };
        let mut volume = volume(source, target)?;
        words.iter().try_for_each(|word| volume_word(&mut volume, word))?;
        self.volumes.push(volume);
        Ok(())
    }

    /// Reads `type=TYPE,KEY=VALUE,…`.
    fn add_mount(&mut self, text: &str) -> anyhow::Result<()> {
        let fields: Vec<Field<'_>> = text.split(',').filter(|field| !field.is_empty()).map(Field::new).collect();
        let last =
            |keys: &[&str]| fields.iter().rev().find(|field| keys.contains(&field.key)).and_then(|field| field.value);
        let kind = last(&["type"]).unwrap_or("volume");
        let (source, target) = (last(SOURCE), last(TARGET));
        let target = target.ok_or_else(|| anyhow!("must set volume destination: dst is missing"))?;
        let mut rest = fields.iter().filter(|field| ![&["type"][..], SOURCE, TARGET].concat().contains(&field.key));
        match kind {
            "bind" => {
                let mut mount = bind(source.ok_or_else(|| anyhow!("src is missing"))?, target)?;
                rest.try_for_each(|field| bind_field(&mut mount, field))?;
                self.binds.push(mount);
            }
            "volume" => {
                let mut mount = volume(source, target)?;
                rest.try_for_each(|field| volume_field(&mut mount, field))?;
                self.volumes.push(mount);
            }
            "tmpfs" => {
                if fields.iter().any(|field| SOURCE.contains(&field.key)) {
                    bail!("\"src\" option not supported for \"tmpfs\" mount types");
                }
                let options = rest.map(tmpfs_field).collect::<anyhow::Result<Vec<_>>>()?;
                self.tmpfs.push(parse_tmpfs(&format!("{target}:{}", options.join(","))).map_err(anyhow::Error::msg)?);
            }
            "image" => {
                let image = source.filter(|source| !source.is_empty()).ok_or_else(|| anyhow!("src is missing"))?;
                let target = parse_target(target)?;
                let mut mount = ImageMountOption { image: image.to_owned(), target, writable: false, subpath: None };
                rest.try_for_each(|field| image_field(&mut mount, field))?;
                self.images.push(mount);
            }
            "glob" | "devpts" | "ramfs" | "artifact" => {
                bail!("type {kind:?} is not supported: expected bind, image, tmpfs or volume")
            }
            other => bail!("invalid filesystem type {other:?}: expected bind, image, tmpfs or volume"),
        }
        Ok(())
    }
}

const SOURCE: &[&str] = &["src", "source"];
const TARGET: &[&str] = &["dst", "destination", "target"];

/// Words of attributes that a mount may have or not.
const ATTRIBUTES: [&str; 6] = ["suid", "nosuid", "dev", "nodev", "exec", "noexec"];
const PROPAGATION: [&str; 8] =
    ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];

/// `KEY`, or `KEY=VALUE`.
struct Field<'a> {
    text: &'a str,
    key: &'a str,
    value: Option<&'a str>,
}

impl<'a> Field<'a> {
    fn new(text: &'a str) -> Self {
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
        Self { text, key, value }
    }

    fn is_true(&self) -> anyhow::Result<bool> {
        match self.value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(anyhow!("{}={other}: expected true or false", self.key)),
        }
    }

    fn value(&self) -> anyhow::Result<&'a str> {
        self.value.filter(|value| !value.is_empty()).ok_or_else(|| anyhow!("{}: expected a value", self.key))
    }
}

/// What podman knows and stos does not do, by name.
fn unsupported(word: &str) -> Option<&'static str> {
    Some(match word {
        "z" | "Z" | "relabel" => "stos gives no SELinux labels",
        "U" | "chown" => "no file of a mount is given to others: volumes show the container's own numbers anyway",
        "O" => "there is no overlay over what is mounted",
        "idmap" => "numbers of users are not mapped: volumes show the container's own anyway",
        "consistency" | "cached" | "delegated" | "consistent" => "it is for other systems",
        _ => return None,
    })
}

fn refuse(word: &str) -> anyhow::Error {
    let key = word.split('=').next().unwrap_or(word);
    match unsupported(key) {
        Some(reason) => anyhow!("option {word:?} is not supported: {reason}"),
        None => anyhow!("{key}: invalid mount option"),
    }
}

/// A word that both a bind and a volume may have. Of two that contradict each other the last counts.
fn common_word(options: &mut Vec<String>, word: &str) -> bool {
    let is_known = ATTRIBUTES.contains(&word) || PROPAGATION.contains(&word);
    if is_known {
        let is_against = |other: &String| {
            let bare = |word: &str| word.strip_prefix("no").unwrap_or(word).to_owned();
            bare(other) == bare(word) || (PROPAGATION.contains(&word) && PROPAGATION.contains(&other.as_str()))
        };
        options.retain(|other| !is_against(other));
        options.push(word.to_owned());
    }
    is_known
}

fn bind_word(mount: &mut MountOption, word: &str) -> anyhow::Result<()> {
    match word {
        "ro" => mount.read_only = true,
        "rw" => mount.read_only = false,
        "rbind" => mount.recursive = true,
        "bind" => mount.recursive = false,
        word if common_word(&mut mount.options, word) => {}
        "copy" | "nocopy" => bail!("option {word:?} is for volumes, not for paths of the host"),
        word => return Err(refuse(word)),
    }
    Ok(())
}

fn volume_word(mount: &mut VolumeOption, word: &str) -> anyhow::Result<()> {
    match word {
        "ro" => mount.read_only = true,
        "rw" => mount.read_only = false,
        "copy" => mount.copies_up = true,
        "nocopy" => mount.copies_up = false,
        // A volume is one directory: nothing is mounted below it.
        "bind" | "rbind" => {}
        word if common_word(&mut mount.options, word) => {}
        word => return Err(refuse(word)),
    }
    Ok(())
}

fn bind_field(mount: &mut MountOption, field: &Field<'_>) -> anyhow::Result<()> {
    match (field.key, field.value) {
        ("ro" | "readonly", _) => mount.read_only = field.is_true()?,
        ("rw", _) => mount.read_only = !field.is_true()?,
        ("bind-nonrecursive", _) => mount.recursive = !field.is_true()?,
        ("bind-propagation", _) => add_propagation(&mut mount.options, field)?,
        (word, None) if word != "bind" && word != "rbind" => bind_word(mount, word)?,
        _ => return Err(refuse(field.text)),
    }
    Ok(())
}

fn volume_field(mount: &mut VolumeOption, field: &Field<'_>) -> anyhow::Result<()> {
    match (field.key, field.value) {
        ("ro" | "readonly", _) => mount.read_only = field.is_true()?,
        ("rw", _) => mount.read_only = !field.is_true()?,
        ("nocopy" | "volume-nocopy", _) => mount.copies_up = !field.is_true()?,
        ("subpath" | "volume-subpath", _) => mount.subpath = Some(subpath(field.value()?)?),
        ("bind-propagation", _) => add_propagation(&mut mount.options, field)?,
        ("notmpcopyup" | "tmpcopyup", _) => {
            bail!("{:?} option not supported for \"volume\" mount types: nocopy is", field.key)
        }
        (word, None) if word != "bind" && word != "rbind" => volume_word(mount, word)?,
        _ => return Err(refuse(field.text)),
    }
    Ok(())
}

fn image_field(mount: &mut ImageMountOption, field: &Field<'_>) -> anyhow::Result<()> {
    match field.key {
        "rw" | "readwrite" => mount.writable = field.is_true()?,
        "ro" | "readonly" => mount.writable = !field.is_true()?,
        "subpath" => mount.subpath = Some(subpath(field.value()?)?),
        _ => return Err(refuse(field.text)),
    }
    Ok(())
}

/// Gives an option as `--tmpfs` has it.
fn tmpfs_field(field: &Field<'_>) -> anyhow::Result<String> {
    Ok(match (field.key, field.value) {
        ("ro" | "readonly", _) => if field.is_true()? { "ro" } else { "rw" }.to_owned(),
        ("rw", _) => if field.is_true()? { "rw" } else { "ro" }.to_owned(),
        ("tmpfs-size", _) => format!("size={}", field.value()?),
        ("tmpfs-mode", _) => format!("mode={}", field.value()?),
        ("tmpcopyup" | "notmpcopyup", None) => field.key.to_owned(),
        ("bind-propagation", _) => propagation(field)?.to_owned(),
        (word, None) if ATTRIBUTES.contains(&word) || PROPAGATION.contains(&word) => word.to_owned(),
        _ => return Err(refuse(field.text)),
    })
}

fn propagation<'a>(field: &Field<'a>) -> anyhow::Result<&'a str> {
    let value = field.value()?;
    if PROPAGATION.contains(&value) {
        return Ok(value);
    }
    bail!("{}: expected one of {}", field.text, PROPAGATION.join(", "))
}

fn add_propagation(options: &mut Vec<String>, field: &Field<'_>) -> anyhow::Result<()> {
    let word = propagation(field)?;
    common_word(options, word);
    Ok(())
}

/// A path in a volume or an image, without what leads up.
fn subpath(text: &str) -> anyhow::Result<PathBuf> {
    let path = text.trim_matches('/');
    if path.is_empty() || path.contains('\0') || path.split('/').any(|part| part == "..") {
        bail!("subpath {text:?}: expected a path in it, without \"..\"");
    }
    Ok(path.into())
}

fn volume(name: Option<&str>, target: &str) -> anyhow::Result<VolumeOption> {
    let target = parse_target(target)?;
    let name = name.map(|name| name.parse::<VolumeName>().with_context(|| format!("creating named volume {name:?}")));
    Ok(VolumeOption { name: name.transpose()?, ..VolumeOption::anonymous(target) })
}

fn bind(source: &str, target: &str) -> anyhow::Result<MountOption> {
    if !source.starts_with(['/', '.']) {
        bail!("the source {source:?} is no path of the host\nhint: begin it with / or ./, or use type=volume");
    }
    let target = parse_target(target)?;
    Ok(MountOption {
        source: std::path::absolute(Path::new(source))?,
        target,
        read_only: false,
        recursive: true,
        options: Vec::new(),
    })
}

fn parse_target(target: &str) -> anyhow::Result<PathBuf> {
    if !target.starts_with('/') {
        bail!("invalid container path {target:?}, must be an absolute path");
    }
    if target.split('/').any(|part| part == "..") || target.trim_matches('/').is_empty() || target.contains('\0') {
        bail!("the target {target:?} must be a path below / without \"..\"");
    }
    Ok(PathBuf::from(target.trim_end_matches('/')))
}

/// Reads what was given as `--volumes-from`: `CONTAINER[:OPTIONS]`.
pub fn volumes_from(texts: &[String]) -> anyhow::Result<Vec<VolumesFrom>> {
    texts.iter().map(|text| one_volumes_from(text).with_context(|| format!("--volumes-from {text:?}"))).collect()
}

fn one_volumes_from(text: &str) -> anyhow::Result<VolumesFrom> {
    let (container, options) = text.split_once(':').unwrap_or((text, ""));
    let mut read_only = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = Some(true),
            "rw" => read_only = Some(false),
            "z" => return Err(refuse(option)),
            other => {
                bail!("invalid option {other:?} specified - volumes from another container can only use ro, rw options")
            }
        }
    }
    if container.is_empty() {
        bail!("expected CONTAINER[:ro|rw]");
    }
    Ok(VolumesFrom { container: container.to_owned(), read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume_of(text: &str) -> anyhow::Result<Mounts> {
        Mounts::read(&[text.to_owned()], &[])
    }

    fn mount_of(text: &str) -> anyhow::Result<Mounts> {
        Mounts::read(&[], &[text.to_owned()])
    }

    #[test]
    fn a_path_is_bound_and_a_name_is_a_volume() {
        let bind = volume_of("/a:/b/:ro,rslave").unwrap().binds.remove(0);
        assert_eq!((bind.source, bind.target, bind.read_only), ("/a".into(), "/b".into(), true));
        assert_eq!(bind.options, ["rslave"]);
        assert!(volume_of("./a:/b").unwrap().binds[0].source.is_absolute());
        let named = volume_of("v.1:/b:ro,nocopy,noexec,suid,exec").unwrap().volumes.remove(0);
        assert_eq!((named.name.unwrap().as_str(), named.target), ("v.1", PathBuf::from("/b")));
        assert!(named.read_only && !named.copies_up && !named.must_exist);
        assert_eq!(named.options, ["suid", "exec"], "the last of two counts");
        assert_eq!(volume_of("/b").unwrap().volumes, [VolumeOption::anonymous("/b")]);
        for (text, named) in [
            ("a", "absolute path"),
            ("v:b", "invalid container path \"b\", must be an absolute path"),
            ("/a:/../b", "\"..\""),
            ("/a:/", "below /"),
            ("-v:/b", "names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*"),
            ("a/b:/b", "creating named volume \"a/b\""),
            ("/a:/b:Z", "SELinux"),
            ("v:/b:U", "\"U\" is not supported"),
            ("v:/b:O", "\"O\" is not supported"),
            ("v:/b:idmap", "\"idmap\" is not supported"),
            ("/a:/b:nocopy", "for volumes"),
            ("v:/b:bogus", "bogus: invalid mount option"),
            ("/a:/b:ro:x", "[SOURCE:]TARGET"),
        ] {
            let said = format!("{:#}", volume_of(text).unwrap_err());
            assert!(said.contains(named) && said.contains(&format!("--volume {text:?}")), "{text}: {said}");
        }
    }

    #[test]
    fn mounts_are_read_field_by_field() {
        let bind = mount_of("type=bind,source=/a,target=/b,readonly,bind-propagation=shared").unwrap().binds.remove(0);
        assert!(bind.read_only && bind.recursive && bind.options == ["shared"]);
        assert!(!mount_of("type=bind,src=/a,dst=/b,ro=false").unwrap().binds[0].read_only);
        assert!(!mount_of("type=bind,src=/a,dst=/b,bind-nonrecursive").unwrap().binds[0].recursive);
        let volume = mount_of("src=v,dst=/b,ro,nocopy,subpath=/x/y/").unwrap().volumes.remove(0);
        assert!(volume.read_only && !volume.copies_up && volume.subpath == Some("x/y".into()));
        assert_eq!(mount_of("type=volume,dst=/b").unwrap().volumes, [VolumeOption::anonymous("/b")]);
        let image = mount_of("type=image,src=i:1,dst=/b,rw=true,subpath=/etc").unwrap().images.remove(0);
        assert_eq!((image.image.as_str(), image.writable, image.subpath), ("i:1", true, Some("etc".into())));
        let tmpfs = mount_of("type=tmpfs,dst=/b,tmpfs-size=1m,tmpfs-mode=700,notmpcopyup,ro").unwrap().tmpfs.remove(0);
        assert_eq!((tmpfs.target, tmpfs.options.join(" ")), ("/b".into(), "size=1m mode=700 notmpcopyup ro".into()));
        for (text, named) in [
            ("type=tmpfs,src=/x,dst=/b", "\"src\" option not supported for \"tmpfs\" mount types"),
            ("type=tmpfs,dst=/b,size=1m", "size: invalid mount option"),
            ("src=/a", "must set volume destination"),
            ("type=bind,dst=/b", "src is missing"),
            ("type=bind,src=/a,dst=/b,z", "SELinux"),
            ("type=bind,src=v,dst=/b", "no path of the host"),
            ("type=bind,src=/a,dst=/b,subpath=x", "subpath: invalid mount option"),
            ("type=bind,src=/a,dst=/b,bind-propagation=no", "bind-propagation=no"),
            ("type=volume,src=v,dst=/b,bogus=1", "bogus: invalid mount option"),
            ("type=volume,src=v,dst=/b,ro=x", "expected true or false"),
            ("type=volume,src=v,dst=/b,notmpcopyup", "\"notmpcopyup\" option not supported for \"volume\""),
            ("type=volume,src=v,dst=/b,U=true", "\"U=true\" is not supported"),
            ("type=volume,src=v,dst=/b,subpath=../x", "\"..\""),
            ("type=volume,src=a/b,dst=/b", "names must match"),
            ("type=glob,src=/i,dst=/b", "type \"glob\" is not supported"),
            ("type=image,dst=/b", "src is missing"),
            ("type=image,src=i,dst=/b,nosuid", "nosuid: invalid mount option"),
            ("type=bogus,dst=/b", "invalid filesystem type \"bogus\""),
        ] {
            let said = format!("{:#}", mount_of(text).unwrap_err());
            assert!(said.contains(named), "{text}: {said}");
        }
    }

    #[test]
    fn volumes_of_others_are_read_only_on_request() {
        let of = |text: &str| volumes_from(&[text.to_owned()]).map(|mut read| read.remove(0).read_only);
        assert_eq!((of("c").unwrap(), of("c:ro").unwrap(), of("c:rw").unwrap()), (None, Some(true), Some(false)));
        for text in ["c:bogus", "", ":ro", "c:z"] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
