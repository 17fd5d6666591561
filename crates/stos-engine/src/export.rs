// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's whole tree as one tar: its image and its changes, without what is mounted in it.
//!
//! The two trees are read side by side, as overlayfs would show them, and no overlay is mounted for it: a second one over the
//! upper directory of a container that runs would be undefined (Documentation/filesystems/overlayfs.rst, "Sharing and
//! copying layers").

use std::io::{BufWriter, Write};
use std::path::Path;

use stos_erofs::{Names, TarWriter};
use stos_store::Objects;

use crate::Engine;
use crate::changes::layer::TreeWriter;
use crate::changes::{ContainerTrees, Mode, MountPoints, Walk, check_is_there};
use crate::container::ContainerRecord;
use crate::error::Result;
use crate::journal::Status;
use crate::save::output::OutputFile;

/// How much of the tar is written at once.
const BUFFER: usize = 256 << 10;

/// Writes the tree of a container as a tar to the file `path`, which is there whole and durable, or as it was before. What is no
/// regular file, a device or a pipe, is written to as it is.
pub fn export_container_to(engine: &Engine, container: &ContainerRecord, path: &Path) -> Result<()> {
    let mut file = OutputFile::create(path, "--output")?;
    write_tree(engine, container, &mut file)?;
    file.commit()?;
    engine.note(Status::Export, container);
    Ok(())
}

/// Writes the tree of a container as a tar into `out`. The container may run meanwhile.
///
/// It is written in pieces of 256 KiB. The tar is no layer: a file may be called `.wh.x` in it. Mount points are there, empty.
pub fn export_container(engine: &Engine, container: &ContainerRecord, out: impl Write) -> Result<()> {
    write_tree(engine, container, out)?;
    engine.note(Status::Export, container);
    Ok(())
}

fn write_tree(engine: &Engine, container: &ContainerRecord, out: impl Write) -> Result<()> {
    let _lease = engine.store.lease_of(&Objects::of_layers(&container.layers))?;
    let trees = ContainerTrees::open(engine, container)?;
    let out = TarWriter::with_names(BufWriter::with_capacity(BUFFER, out), Names::Free);
    let mut tar = TreeWriter::new(out, format!("container {}", container.name), false);
    let walk = Walk::new(trees.upper, Some(trees.lower), Mode::Union, MountPoints::default());
    walk.run(&mut |event| tar.write(event))?;
    check_is_there(engine, container)?;
    tar.finish().map(drop)
}
