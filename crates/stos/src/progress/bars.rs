// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A bar for each layer that is under way, and one for all; above them a line for each layer that is done, which stays.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use stos_engine::pull::{Announced, PullProgress};
use stos_spec::BlobDigest;

use super::tally::Tally;
use super::ticker::Ticker;
use super::{Shown, plain, text};

/// How often bars are drawn, each second.
const HZ: u8 = 10;
/// What the bar of all layers is called: as wide as a short digest.
const ALL: &str = "all layers  ";

/// The bars that are on the terminal now.
static ON_TERMINAL: Mutex<Option<MultiProgress>> = Mutex::new(None);

fn on_terminal() -> MutexGuard<'static, Option<MultiProgress>> {
    ON_TERMINAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stderr for the log: what is written goes above the bars, where there are any, and leaves them whole.
#[derive(Debug, Clone, Copy)]
pub struct LogBesideBars;

impl Write for LogBesideBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bars = on_terminal().clone();
        match bars {
            Some(bars) => bars.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Shows progress in bars.
pub struct Bars {
    all: MultiProgress,
    state: Arc<Mutex<State>>,
    ticker: OnceLock<Ticker>,
}

struct State {
    tally: Tally,
    layers: HashMap<BlobDigest, ProgressBar>,
    /// The last line: of all layers that are not there yet.
    total: Option<ProgressBar>,
}

impl Bars {
    pub fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(HZ));
        let state = State { tally: Tally::new(Instant::now()), layers: HashMap::new(), total: None };
        Self { all, state: Arc::new(Mutex::new(state)), ticker: OnceLock::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bars of layers that stand still are drawn too: their rate falls.
    fn start_ticker(&self) {
        let state = Arc::clone(&self.state);
        let tick = move || {
            let state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.layers.values().chain(&state.total).for_each(ProgressBar::tick);
        };
        self.ticker.get_or_init(|| Ticker::start(Duration::from_secs(1) / u32::from(HZ), tick));
    }

    /// Writes a line above the bars, which stays.
    fn print(&self, line: &str) {
        // With stderr closed there is nobody to tell.
        let _ = self.all.println(text::cut(line, width()));
    }
}

/// Gives how many columns a line may have: the last one stays free, for some terminals break a line that fills it.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(80) - 1
}

/// A bar whose line is made for the width that the terminal has when it is drawn.
fn style(name: String) -> ProgressStyle {
    let line = move |state: &ProgressState, out: &mut dyn fmt::Write| {
        let (received, rate) = (state.pos(), state.per_sec());
        let position = text::Position { received, size: state.len().unwrap_or(0), rate };
        // It is written to memory.
        let _ = out.write_str(&position.line(&name, width()));
    };
    ProgressStyle::with_template("{line}").unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("line", line)
}

impl PullProgress for Bars {
    fn resolved(&self, image: &Announced<'_>) {
        *on_terminal() = Some(self.all.clone());
        self.start_ticker();
        let mut state = self.state();
        state.tally.announce(image, Instant::now());
        let expected = state.tally.expected();
        let total = state.total.get_or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(0));
            bar.set_style(style(ALL.to_owned()));
            bar
        });
        total.set_length(expected);
    }

    fn layer_started(&self, blob: BlobDigest, size: u64) {
        let mut state = self.state();
        let lost = state.tally.start(blob, size, Instant::now());
        if let Some(bar) = state.layers.remove(&blob) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
        let bar = match &state.total {
            Some(total) => {
                total.dec(lost);
                self.all.insert_before(total, ProgressBar::new(size))
            }
            None => self.all.add(ProgressBar::new(size)),
        };
        bar.set_style(style(blob.short()));
        state.layers.insert(blob, bar);
    }

    fn layer_advanced(&self, blob: BlobDigest, count: u64) {
        let mut state = self.state();
        state.tally.advance(blob, count);
        state.layers.get(&blob).into_iter().chain(&state.total).for_each(|bar| bar.inc(count));
    }

    fn layer_done(&self, blob: BlobDigest, was_present: bool) {
        let mut state = self.state();
        let line = plain::layer_line(&mut state.tally, blob, was_present, Instant::now());
        if let Some(total) = &state.total {
            total.set_length(state.tally.expected());
        }
        if let Some(bar) = state.layers.remove(&blob) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
        self.print(&line);
    }

    fn merge_started(&self) {
        if let Some(total) = &self.state().total {
            let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            total.set_style(style);
            total.set_message("merging layers");
        }
    }

    fn done(&self) {
        let state = self.state();
        let line = plain::summary(&state.tally.summary(Instant::now()));
        if let Some(total) = &state.total {
            total.finish_and_clear();
        }
        self.print(&line);
    }
}

impl Shown for Bars {}

impl Drop for Bars {
    /// Of what is under way nothing stays.
    fn drop(&mut self) {
        drop(self.ticker.take());
        *on_terminal() = None;
        let mut state = self.state();
        state.layers.drain().map(|(_, bar)| bar).for_each(|bar| bar.finish_and_clear());
        if let Some(total) = state.total.take() {
            total.finish_and_clear();
        }
        // With stderr closed there is nobody to tell.
        let _ = self.all.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::testing::{announced, blob};
    use super::*;

    #[test]
    fn a_layer_that_starts_again_has_one_bar_and_counts_once() {
        let (one, two) = (blob("1"), blob("2"));
        let bars = Bars::new();
        announced(&[(one, 100), (two, 7)], |image| bars.resolved(image));
        bars.layer_started(two, 7);
        bars.layer_advanced(two, 7);
        for received in [60, 100] {
            bars.layer_started(one, 100);
            bars.layer_advanced(one, received);
        }
        let state = bars.state();
        assert_eq!(state.total.as_ref().unwrap().position(), 107);
        assert_eq!((state.layers.len(), state.layers[&one].position()), (2, 100));
    }
}
