// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes one EROFS image of tars, the lowest layer first: `tar2erofs IMAGE TAR...`. Prints the tars to mount it with,
//! one path a line, in the order of the `device=` options.

use std::error::Error;
use std::fs::File;
use std::io::{Write, stderr, stdout};
use std::time::Instant;

use sha2::{Digest, Sha256};
use stos_erofs::{LayerInput, Merger, index_tar};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let image = arguments.next().ok_or("usage: tar2erofs IMAGE TAR...")?;
    let tars: Vec<_> = arguments.collect();
    let mut merger = Merger::new();
    for tar in &tars {
        let mut hash = Sha256::new();
        std::io::copy(&mut File::open(tar)?, &mut hash)?;
        let start = Instant::now();
        let (index, summary) = index_tar(File::open(tar)?, Vec::new())?;
        let indexed = start.elapsed();
        if summary.extra_bytes > 0 {
            return Err(format!("{tar:?}: it has sparse files, whose data no tar holds as they are").into());
        }
        merger.add_layer(
            LayerInput { tag: hash.finalize().into(), tar_bytes: summary.tar_bytes, extra_bytes: 0 },
            &*index,
        )?;
        writeln!(stderr(), "{tar:?}: {summary:?}, indexed in {indexed:?}, merged in {:?}", start.elapsed() - indexed)?;
    }
    let start = Instant::now();
    let summary = merger.write(File::create(image)?)?;
    writeln!(stderr(), "{} inodes, {} bytes, written in {:?}", summary.inodes, summary.bytes, start.elapsed())?;
    for device in summary.devices {
        writeln!(stdout(), "{}", tars[device.layer].display())?;
    }
    Ok(())
}
