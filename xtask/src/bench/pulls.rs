// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cold pulls: nothing of the image is there, and no page of the engine's disk in memory; the registry's storage is in the page cache, and
//! so is the engine's program.

use std::fs::File;
use std::time::Instant;

use super::book::Book;
use super::engines::{Act, Engine};
use super::stand::{Stand, perform};

/// The images that are pulled, with the names of their rows.
pub const IMAGES: [(&str, &str); 8] = [
    ("deb:12", "deb:12 gzip"),
    ("sci:2", "sci:2 gzip"),
    ("many:100", "many:100 gzip"),
    ("wide:8", "wide:8 gzip"),
    ("deb:12-zstd", "deb:12 zstd"),
    ("sci:2-zstd", "sci:2 zstd"),
    ("many:100-zstd", "many:100 zstd"),
    ("wide:8-zstd", "wide:8 zstd"),
];

/// The group of the rows.
pub const GROUP: &str = "pulls";

/// Each round pulls with every engine once, and removes the image again.
pub fn measure(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    for (image, what) in IMAGES {
        if stand.settings.is_quick && !["deb:12", "deb:12-zstd"].contains(&image) {
            continue;
        }
        let reference = stand.image(image);
        for _ in 0..stand.settings.rounds {
            for engine in stand.engines_for(Act::Pull(&reference)) {
                pull(stand, book, engine, image, what)?;
            }
        }
    }
    Ok(())
}

fn pull(stand: &Stand, book: &mut Book, engine: &dyn Engine, image: &str, what: &str) -> anyhow::Result<()> {
    let (name, reference) = (engine.name(), stand.image(image));
    stand.drop_image(engine, &reference)?;
    stand.chill(engine, image)?;
    let Some((sample, durable)) = book.attempt(GROUP, what, name, || {
        let sample = perform(engine, Act::Pull(&reference))?;
        // stos says that it is done only when the image outlasts a power cut, the others say nothing of it.
        let start = Instant::now();
        nix::unistd::syncfs(File::open(&stand.settings.disk)?)?;
        Ok((sample, sample.wall + start.elapsed()))
    })?
    else {
        return Ok(());
    };
    book.add_time(GROUP, what, name, sample.wall);
    book.add_time(GROUP, &format!("{what}, durable"), name, durable);
    if engine.daemon().is_none() {
        book.add_time(GROUP, &format!("{what}, CPU"), name, sample.cpu);
    }
    let removal = format!("{what}, rmi");
    if let Some(sample) = book.attempt(GROUP, &removal, name, || perform(engine, Act::RemoveImage(&reference)))? {
        book.add_time(GROUP, &removal, name, sample.wall);
    }
    Ok(())
}
