// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What must be right after a power cut.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, ensure};

use super::ledger::{Ledger, judge};
use super::scenario::{PROOF, Played, SAYS, World, id_of};
use super::stand::{self, Format, Loop};
use crate::place::{Roots, detach_below};

/// What the first command after a cut is: any must work.
const FIRST: [&[&str]; 4] = [&["images"], &["ps", "--all"], &["system", "check"], &["system", "gc"]];

/// Mounts the disk, whose journal is replayed, and fails where something is not as the commands that had returned when the disk had seen
/// `position` events had left it. `number` chooses what comes first.
pub fn check(
    world: &World,
    format: &Format,
    layerfs: &str,
    image: &Path,
    played: &Played,
    position: usize,
    number: usize,
) -> anyhow::Result<()> {
    let mount = Loop::attach(image)?.mount(format, &world.mount_point()).context("the file system")?;
    let (roots, root) = world.roots(layerfs)?;
    let result = examine(world, &roots, played, position, number);
    if result.is_err() {
        let _ = roots.run(&["stop", "--all", "--time", "0"]);
    }
    detach_below(root.path());
    let unmounted = mount.unmount().and_then(|()| stand::wait_until_detached(image));
    result.and(unmounted)
}

fn examine(world: &World, roots: &Roots, played: &Played, position: usize, number: usize) -> anyhow::Result<()> {
    roots.ok(FIRST[number % FIRST.len()]).context("the first command")?;
    roots.ok(&["system", "check", "--full"]).context("the check before anything else")?;
    let found = Ledger::read(roots)?;
    judge(&found, &played.steps, position)?;
    prove_images(roots, &found, played)?;
    prove_containers(roots, &found)?;
    roots.ok(&["system", "gc"])?;
    roots.check().context("the check after the sweep")?;
    roots.check_locks()?;
    let left = roots.run_names("staging")?;
    ensure!(left.is_empty(), "ROOT's staging holds {left:?}");
    begin_anew(world, roots).context("new things")
}

/// A container of each image sees its files.
fn prove_images(roots: &Roots, found: &Ledger, played: &Played) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for (name, image) in found.images.iter().filter(|(_, image)| seen.insert(id_of(image))) {
        let said = roots.ok(&["run", "--rm", name, "sh", "-c", PROOF]).with_context(|| format!("image {name}"))?;
        // One that no snapshot has seen was removed by the command that followed, which does not happen here.
        let expected = played.proofs.get(&id_of(image)).with_context(|| format!("image {name} is unknown"))?;
        ensure!(said == *expected, "a container of image {name} said {said:?} instead of {expected:?}");
    }
    Ok(())
}

/// Each container can be started, and does what it was made for.
fn prove_containers(roots: &Roots, found: &Ledger) -> anyhow::Result<()> {
    for (id, container) in &found.containers {
        let name = &container.inspected["name"];
        match container.inspected["labels"][SAYS].as_str() {
            Some(expected) => {
                let said = roots.ok(&["start", "--attach", id]).with_context(|| format!("container {name}"))?;
                ensure!(said == expected, "container {name} said {said:?} instead of {expected:?}");
            }
            None => {
                roots.ok(&["start", id]).with_context(|| format!("container {name}"))?;
                roots.ok(&["stop", "--ignore", "--time", "0", id])?;
            }
        }
    }
    Ok(())
}

/// The store takes new things.
fn begin_anew(world: &World, roots: &Roots) -> anyhow::Result<()> {
    roots.ok(&["pull", "--quiet", "--tls-verify=false", &world.new])?;
    roots.ok(&["create", "--name", "new", &world.new, "cat", "/srv/marker"])?;
    let said = roots.ok(&["start", "--attach", "new"])?;
    ensure!(said == "new\n", "a new container said {said:?}");
    let said = roots.ok(&["run", "--rm", &world.new, "cat", "/srv/symlink"])?;
    ensure!(said == "new\n", "a new container said {said:?}");
    roots.check()
}
