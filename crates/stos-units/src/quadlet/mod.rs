// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Quadlet files, podman's (podman-systemd.unit(5)): `.container`, `.volume` and `.network` become services.
//!
//! | module | what it is |
//! |---|---|
//! | `keys` | keys that are options of a command, by tables |
//! | `container`, `objects` | what becomes of each kind |
//! | `install` | the links of `[Install]`, which systemd does not make for generated units |
//!
//! A key is honoured or refused by its line: none is overlooked. Sections that are systemd's go into the service as they are.

mod container;
mod install;
mod keys;
mod objects;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use install::Link;

use crate::error::{Error, Result};
use crate::unit_file::{Entry, UnitFile, UnitText};
use crate::words;

/// A Quadlet file with its drop-ins.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where it lies.
    pub file: PathBuf,
    /// What it says.
    pub unit: UnitFile,
}

/// What a file is about, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `.container`
    Container,
    /// `.volume`
    Volume,
    /// `.network`
    Network,
}

impl Kind {
    /// The kind of a file; `None` for others.
    pub fn of(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()? {
            "container" => Some(Self::Container),
            "volume" => Some(Self::Volume),
            "network" => Some(Self::Network),
            _ => None,
        }
    }

    /// The section that is about it.
    fn section(self) -> &'static str {
        match self {
            Self::Container => "Container",
            Self::Volume => "Volume",
            Self::Network => "Network",
        }
    }

    /// The key of that section with the object's name.
    fn name_key(self) -> &'static str {
        match self {
            Self::Container => "ContainerName",
            Self::Volume => "VolumeName",
            Self::Network => "NetworkName",
        }
    }

    /// What follows the file's name in its service's.
    fn suffix(self) -> &'static str {
        match self {
            Self::Container => "",
            Self::Volume => "-volume",
            Self::Network => "-network",
        }
    }
}

/// A service, as it is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `web.service`
    pub name: String,
    /// The unit file.
    pub text: String,
    /// Links that make it start, in the directory of the unit files.
    pub links: Vec<Link>,
}

/// What files call each other by: `data.volume`.
#[derive(Debug, Default)]
pub struct Siblings(BTreeMap<String, Sibling>);

/// What a file's name stands for in another.
#[derive(Debug, Clone)]
struct Sibling {
    /// The object's name; `None` where only its own unit knows it.
    object: Option<String>,
    /// `data-volume.service`
    service: String,
}

impl Siblings {
    /// The names of all of them.
    pub fn of<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Self {
        let named = sources.into_iter().filter_map(|source| {
            let kind = Kind::of(&source.file)?;
            let name = source.file.file_name()?.to_str()?.to_owned();
            Some((name, Sibling { object: name_elsewhere(source, kind), service: service_name(source, kind) }))
        });
        Self(named.collect())
    }
}

/// Where a file is read.
struct Scene<'a> {
    source: &'a Source,
    kind: Kind,
    siblings: &'a Siblings,
    /// stos.
    program: &'a str,
}

/// Makes the service of a Quadlet file. `program` is the path of stos.
///
/// # Errors
/// The first thing that is wrong with the file, by its line.
pub fn convert(source: &Source, siblings: &Siblings, program: &str) -> Result<Service> {
    let kind = Kind::of(&source.file).ok_or_else(|| Error::Kind { file: source.file.clone() })?;
    check_service_name(source, kind)?;
    // A $ means nothing in a program's path.
    let program = &words::percents_doubled(program);
    let scene = Scene { source, kind, siblings, program };
    let mut text = UnitText::default();
    let says_no = scene.quadlet_default()?;
    for section in source.unit.sections() {
        let own = [kind.section(), "Quadlet"].contains(&section.name.as_str());
        let name = if own { format!("X-{}", section.name) } else { section.name.clone() };
        text.copy(&source.unit, &section.name, &name);
    }
    if !says_no {
        text.add("Unit", "Wants", "network-online.target");
        text.add("Unit", "After", "network-online.target");
    }
    text.add("Unit", "SourcePath", words::percents_doubled(&source.file.display().to_string()));
    match kind {
        Kind::Container => container::convert(&scene, &mut text)?,
        Kind::Volume => objects::volume(&scene, &mut text)?,
        Kind::Network => objects::network(&scene, &mut text)?,
    }
    let name = service_name(source, kind);
    Ok(Service { links: install::links(source, &name)?, name, text: text.to_string() })
}

impl Scene<'_> {
    /// The entries of the section that is about the object.
    fn section(&self) -> &'static str {
        self.kind.section()
    }

    fn unit(&self) -> &UnitFile {
        &self.source.unit
    }

    /// What the file's name stands for in an entry, and that the service needs it.
    fn sibling(&self, entry: &Entry, name: &str, text: &mut UnitText) -> Result<String> {
        let found = self.siblings.0.get(name);
        let found = found.ok_or_else(|| Error::Missing { file: self.source.file.clone(), what: name.to_owned() })?;
        text.add("Unit", "Requires", &found.service);
        text.add("Unit", "After", &found.service);
        let only_there = || entry.refuse(format!("expected a name in {name} that means the same in other units"));
        found.object.clone().ok_or_else(only_there)
    }

    /// Whether the dependencies that every service gets are not wanted.
    fn quadlet_default(&self) -> Result<bool> {
        for entry in self.unit().entries("Quadlet") {
            if entry.key != "DefaultDependencies" {
                return Err(keys::unknown(entry, "Quadlet", None));
            }
        }
        match self.unit().last("Quadlet", "DefaultDependencies") {
            Some(entry) => Ok(!entry.boolean()?),
            None => Ok(false),
        }
    }
}

/// The part of a file's name before its kind.
fn stem(source: &Source) -> String {
    source.file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether it is a template, `NAME@.container`, or an instance of one: `NAME@INSTANCE.container`.
fn template(stem: &str) -> Option<(&str, &str)> {
    stem.split_once('@')
}

/// What the object is called, in words of systemd's where only that knows it.
fn object_name(source: &Source, kind: Kind) -> String {
    let named = source.unit.last(kind.section(), kind.name_key());
    named.map_or_else(|| default_name(source, kind), |entry| entry.value.clone())
}

fn default_name(source: &Source, kind: Kind) -> String {
    let stem = stem(source);
    match (kind, template(&stem)) {
        (Kind::Container, Some(_)) => "systemd-%p_%i".to_owned(),
        (Kind::Container, None) => "systemd-%N".to_owned(),
        (Kind::Volume | Kind::Network, _) => format!("systemd-{}", words::percents_doubled(&stem)),
    }
}

/// The same in other units: specifiers (systemd.unit(5)) for parts of its service's name are replaced. `None` where one is left that
/// means something else there.
fn name_elsewhere(source: &Source, kind: Kind) -> Option<String> {
    let service = service_name(source, kind);
    let plain = service.trim_end_matches(".service");
    let (prefix, instance) = template(plain).map_or((plain, None), |(prefix, instance)| (prefix, Some(instance)));
    let is_template = instance == Some("");
    let mut name = String::new();
    let object = object_name(source, kind);
    let mut rest = object.chars();
    while let Some(char) = rest.next() {
        let part = match (char, rest.as_str().chars().next()) {
            ('%', Some('p')) => prefix,
            ('%', Some('n' | 'N' | 'i')) if is_template => return None,
            ('%', Some('n')) => &service,
            ('%', Some('N')) => plain,
            ('%', Some('i')) => instance.unwrap_or_default(),
            ('%', Some('c' | 'f' | 'I' | 'j' | 'J' | 'P' | 'r' | 'R' | 'y' | 'Y') | None) => return None,
            ('%', Some(other)) => {
                name.extend(['%', other]);
                rest.next();
                continue;
            }
            (other, _) => {
                name.push(other);
                continue;
            }
        };
        name.push_str(&words::percents_doubled(part));
        rest.next();
    }
    Some(name)
}

/// What is said of a `ServiceName=` that systemd reads no unit of (systemd.unit(5)).
fn check_service_name(source: &Source, kind: Kind) -> Result<()> {
    let is_of_name = |char: char| char.is_ascii_alphanumeric() || ":-_.\\@".contains(char);
    match source.unit.last(kind.section(), "ServiceName") {
        Some(entry) if entry.value.starts_with('.') || !entry.value.chars().all(is_of_name) => {
            Err(entry.refuse("expected the name of a unit"))
        }
        _ => Ok(()),
    }
}

fn service_name(source: &Source, kind: Kind) -> String {
    let named = source.unit.last(kind.section(), "ServiceName");
    let name = named.map_or_else(|| format!("{}{}", stem(source), kind.suffix()), |entry| entry.value.clone());
    format!("{name}.service")
}
