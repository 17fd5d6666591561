// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask setup`: makes this machine able to run every test. What is there already is left alone.
//!
//! All but Debian's packages goes to one cache directory per user ([`environment::cache`]); deleting it undoes it.

mod debian;
mod erofs_utils;
mod images;
pub mod peers;

use std::fs::{self, File};
use std::time::Instant;

use anyhow::Context;
use stos_testkit::environment;
use stos_testkit::guard::Need;

/// Sets up what the tests need, and with `with_peers` the other engines. Two runs at once wait for each other.
pub fn run(with_peers: bool) -> anyhow::Result<()> {
    anyhow::ensure!(Need::Root.unmet().is_none(), "setup installs packages and makes root filesystems: run it as root");
    let start = Instant::now();
    let cache = environment::cache();
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let lock = File::create(cache.join("lock"))?;
    lock.lock().context("waiting for another setup")?;
    debian::install_tools(&cache)?;
    erofs_utils::ensure(&cache)?;
    images::ensure(&cache)?;
    if with_peers {
        peers::ensure(&cache)?;
    }
    eprintln!("setup: all is in place in {} ({:.1} s)", cache.display(), start.elapsed().as_secs_f64());
    Ok(())
}
