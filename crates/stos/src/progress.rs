// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A bar for each layer, on a terminal only.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use stos_engine::pull::{PullProgress, Silent};
use stos_spec::BlobDigest;

/// Gives what shows a pull: bars where stderr is a terminal and `quiet` is not asked for, else nothing.
pub fn reporter(quiet: bool) -> Box<dyn PullProgress> {
    if quiet || !std::io::stderr().is_terminal() {
        return Box::new(Silent);
    }
    Box::new(Bars {
        all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)),
        layers: Mutex::default(),
    })
}

struct Bars {
    all: MultiProgress,
    layers: Mutex<HashMap<BlobDigest, ProgressBar>>,
}

impl Bars {
    fn with_layers<T>(&self, act: impl FnOnce(&mut HashMap<BlobDigest, ProgressBar>) -> T) -> T {
        act(&mut self.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn style(template: &str) -> ProgressStyle {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
    }
}

impl PullProgress for Bars {
    fn layer_started(&self, blob: BlobDigest, size: u64) {
        let bar = self.all.add(ProgressBar::new(size));
        bar.set_style(Self::style("{prefix} [{bar:40}] {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} {eta:>4}"));
        bar.set_prefix(blob.short());
        self.with_layers(|layers| layers.insert(blob, bar));
    }

    fn layer_advanced(&self, blob: BlobDigest, count: u64) {
        self.with_layers(|layers| layers.get(&blob).inspect(|bar| bar.inc(count)).is_some());
    }

    fn layer_done(&self, blob: BlobDigest, was_present: bool) {
        let bar = self.with_layers(|layers| layers.remove(&blob)).unwrap_or_else(|| self.all.add(ProgressBar::new(0)));
        bar.set_style(Self::style("{prefix} {msg}"));
        bar.set_prefix(blob.short());
        bar.finish_with_message(if was_present { "already there" } else { "done" });
    }
}
