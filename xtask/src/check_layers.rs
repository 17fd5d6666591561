// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask check-layers`: arrows between our crates point down only, and no wall has a hole.
//!
//! The floors are those of the table in `crates/README.md`, which is thereby kept true.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::Context;

use crate::workspace::{Metadata, Package};

/// (who, must never see, why): also through others.
const WALLS: [(&str, &[&str], &str); 4] = [
    ("stos-registry", &["stos-store", "stos-layerfs"], "the registry never sees the disk"),
    ("stos-config", &["stos-registry", "ureq", "rustls"], "what reads the configuration never speaks to a network"),
    (
        "stos-runtime",
        &["stos-registry", "stos-store", "stos-layerfs", "stos-erofs", "stos-engine"],
        "the runtime never sees images",
    ),
    ("stos-network", &["stos-registry", "stos-layerfs", "stos-runtime"], "networks never see images or the runtime"),
];

/// The floor of the crates that are not shipped.
const DEVELOPMENT: &str = "dev";

/// Checks the workspace.
pub fn run() -> anyhow::Result<()> {
    let metadata = Metadata::load()?;
    let path = metadata.workspace_root.join("crates/README.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let faults = faults(&metadata.packages, &floors(&text));
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// Reads rows `| F1 | `stos-store` | … |` into crate → floor.
fn floors(text: &str) -> BTreeMap<String, String> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let (floor, name) = (cells.next()?, cells.next()?);
        let known = floor == DEVELOPMENT || floor.strip_prefix('F').is_some_and(|digits| digits.parse::<u8>().is_ok());
        known.then(|| (name.trim_matches('`').to_owned(), floor.to_owned()))
    };
    text.lines().filter_map(row).collect()
}

fn faults(packages: &[Package], floors: &BTreeMap<String, String>) -> Vec<String> {
    let members: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut faults = Vec::new();
    for name in members.iter().filter(|name| !floors.contains_key(**name)) {
        faults.push(format!("{name} stands on no floor: give it a row in crates/README.md"));
    }
    for name in floors.keys().filter(|name| !members.contains(name.as_str())) {
        faults.push(format!("crates/README.md has a row for {name}, which is no member of the workspace"));
    }
    for package in packages {
        faults.extend(package_faults(package, floors));
    }
    for (who, never, why) in WALLS {
        let seen = reachable(who, packages);
        let through = never.iter().filter(|crate_name| seen.contains(**crate_name));
        faults.extend(through.map(|crate_name| format!("{who} sees {crate_name}: {why}")));
    }
    faults
}

/// Normal and build dependencies must point down. Dev-dependencies may point to the testkit too, and never up.
fn package_faults(package: &Package, floors: &BTreeMap<String, String>) -> Vec<String> {
    let name = &package.name;
    let Some(floor) = floors.get(name) else { return Vec::new() };
    let ours = package.dependencies.iter().filter_map(|dependency| Some((dependency, floors.get(&dependency.name)?)));
    ours.filter_map(|(dependency, below)| {
        let for_tests = dependency.kind.as_deref() == Some("dev");
        let allowed = match (floor.as_str(), below.as_str()) {
            (DEVELOPMENT, DEVELOPMENT) => {
                ["xtask", "stos-fuzz-targets"].contains(&name.as_str()) && dependency.name == "stos-testkit"
            }
            (DEVELOPMENT, _) => true,
            (_, DEVELOPMENT) => for_tests && dependency.name == "stos-testkit",
            (floor, below) => below < floor,
        };
        let kind = dependency.kind.as_deref().map_or(String::new(), |kind| format!(" ({kind}-dependency)"));
        (!allowed)
            .then(|| format!("{name} ({floor}) depends on {} ({below}){kind}: arrows only point down", dependency.name))
    })
    .collect()
}

/// All members that `from` is built with, directly or through others.
fn reachable<'a>(from: &'a str, packages: &'a [Package]) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(name) = open.pop() {
        let Some(package) = packages.iter().find(|package| package.name == name) else { continue };
        let needed = package.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev"));
        for dependency in needed {
            if seen.insert(dependency.name.as_str()) {
                open.push(&dependency.name);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    const HOUSE: &str = "\
| floor | crate | what lives there |
|---|---|---|
| F0 | `stos-spec` | types |
| F1 | `stos-registry` | client |
| F1 | `stos-store` | disk |
| F2 | `stos-layerfs` | layers |
| F2 | `stos-runtime` | bundles |
| F3 | `stos-engine` | story |
| dev | `stos-testkit` | tests |
| dev | `xtask` | door |
";

    /// The house with normal arrows `(from, to)`, and dev arrows where `to` begins with `dev:`.
    fn found(arrows: &[(&str, &str)]) -> Vec<String> {
        let floors = floors(HOUSE);
        let packages: Vec<Package> = floors
            .keys()
            .map(|name| Package {
                name: name.clone(),
                dependencies: arrows
                    .iter()
                    .filter(|(from, _)| from == name)
                    .map(|(_, to)| Dependency {
                        name: to.trim_start_matches("dev:").into(),
                        kind: to.starts_with("dev:").then(|| "dev".into()),
                    })
                    .collect(),
            })
            .collect();
        faults(&packages, &floors)
    }

    #[test]
    fn the_table_is_read() {
        assert_eq!(floors(HOUSE).len(), 8);
        assert_eq!(floors(HOUSE)["stos-layerfs"], "F2");
    }

    #[test]
    fn arrows_down_are_fine() {
        let arrows = [
            ("stos-engine", "stos-layerfs"),
            ("stos-engine", "stos-spec"),
            ("stos-layerfs", "stos-store"),
            ("stos-layerfs", "serde"),
            ("stos-layerfs", "dev:stos-testkit"),
            ("xtask", "stos-testkit"),
        ];
        assert_eq!(found(&arrows), [] as [&str; 0]);
    }

    #[test]
    fn each_wrong_arrow_is_named() {
        for (from, to) in [
            ("stos-store", "stos-layerfs"),
            ("stos-layerfs", "stos-runtime"),
            ("stos-spec", "dev:stos-store"),
            ("stos-engine", "stos-testkit"),
            ("stos-engine", "dev:xtask"),
            ("stos-testkit", "xtask"),
        ] {
            let faults = found(&[(from, to)]);
            assert_eq!(faults.len(), 1, "{from} → {to}: {faults:?}");
            assert!(faults[0].starts_with(from) && faults[0].contains(to.trim_start_matches("dev:")), "{faults:?}");
        }
    }

    #[test]
    fn walls_hold_through_others() {
        // Down by floors, and a hole in a wall all the same.
        assert_eq!(
            found(&[("stos-runtime", "stos-store")]),
            ["stos-runtime sees stos-store: the runtime never sees images"]
        );
        let faults = found(&[("stos-registry", "stos-spec"), ("stos-spec", "stos-store")]);
        let expected = "stos-registry sees stos-store: the registry never sees the disk";
        assert!(faults.iter().any(|fault| fault == expected), "{faults:?}");
    }

    #[test]
    fn the_table_and_the_workspace_agree() {
        let floors = floors(HOUSE);
        let stranger = Package { name: "stos-new".into(), dependencies: Vec::new() };
        let faults = faults(&[stranger], &floors);
        assert!(faults[0].starts_with("stos-new stands on no floor"), "{faults:?}");
        assert_eq!(faults.iter().filter(|fault| fault.contains("no member")).count(), floors.len());
    }
}
