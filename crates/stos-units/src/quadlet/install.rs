// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The links of `[Install]`: `systemctl enable` has no generated units to work on, so the generator makes them.

use std::path::PathBuf;

use super::{Source, keys, template};
use crate::error::Result;
use crate::unit_file::Entry;

/// A symbolic link, in the directory of the unit files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Where it is: `multi-user.target.wants/web.service`.
    pub path: PathBuf,
    /// What is in it: `../web.service`.
    pub target: String,
}

/// What each key makes beside the unit that it names.
const WANTED: [(&str, &str); 3] = [("WantedBy", "wants"), ("RequiredBy", "requires"), ("UpheldBy", "upholds")];

/// The links of a file whose service is `service`.
pub(super) fn links(source: &Source, service: &str) -> Result<Vec<Link>> {
    const SECTION: &str = "Install";
    let mut links = Vec::new();
    for entry in source.unit.all(SECTION, "Alias") {
        for alias in names(entry)? {
            links.push(Link { path: PathBuf::from(alias), target: service.to_owned() });
        }
    }
    // A template is started as one of its instances, or not at all.
    let instance = match template(service.trim_end_matches(".service")) {
        Some((name, "")) => match source.unit.last(SECTION, "DefaultInstance") {
            Some(entry) => format!("{name}@{}.service", single(entry)?),
            None => return Ok(links),
        },
        _ => service.to_owned(),
    };
    for (key, directory) in WANTED {
        for entry in source.unit.all(SECTION, key) {
            for by in names(entry)? {
                let path = PathBuf::from(format!("{by}.{directory}")).join(&instance);
                links.push(Link { path, target: format!("../{service}") });
            }
        }
    }
    Ok(links)
}

/// Names of units, none of them a path.
fn names(entry: &Entry) -> Result<Vec<String>> {
    let names = keys::split(entry)?;
    match names.iter().find(|name| name.contains('/') || [".", ".."].contains(&name.as_str())) {
        Some(name) => Err(entry.refuse(format!("expected names of units, found {name:?}"))),
        None => Ok(names),
    }
}

fn single(entry: &Entry) -> Result<String> {
    match &*names(entry)? {
        [name] => Ok(name.clone()),
        _ => Err(entry.refuse("expected one name")),
    }
}
