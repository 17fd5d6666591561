// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A line for each event, for a log.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use stos_engine::pull::{Announced, PullProgress};
use stos_spec::BlobDigest;

use super::tally::{Summary, Tally};
use super::ticker::Ticker;
use super::{Shown, text, write_line};

/// How often a layer that is under way is told of: a log shows that there is life, and stays short.
const PERIOD: Duration = Duration::from_secs(10);

/// Shows progress in lines.
pub struct Plain {
    tally: Arc<Mutex<Tally>>,
    ticker: OnceLock<Ticker>,
}

impl Plain {
    pub fn new() -> Self {
        Self { tally: Arc::new(Mutex::new(Tally::new(Instant::now()))), ticker: OnceLock::new() }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_ticker(&self) {
        let tally = Arc::clone(&self.tally);
        // More often than it has anything to say, so that no layer waits for two periods.
        let tick = move || {
            let lines = due(&mut tally.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
            lines.into_iter().for_each(write_line);
        };
        self.ticker.get_or_init(|| Ticker::start(PERIOD / 20, tick));
    }
}

impl PullProgress for Plain {
    fn resolved(&self, image: &Announced<'_>) {
        self.start_ticker();
        let bytes = self.tally().announce(image, Instant::now());
        write_line(announcement(image, bytes));
    }

    fn layer_started(&self, blob: BlobDigest, size: u64) {
        self.tally().start(blob, size, Instant::now());
    }

    fn layer_advanced(&self, blob: BlobDigest, count: u64) {
        self.tally().advance(blob, count);
    }

    fn layer_done(&self, blob: BlobDigest, was_present: bool) {
        write_line(layer_line(&mut self.tally(), blob, was_present, Instant::now()));
    }

    fn merge_started(&self) {
        self.tally().start_merge(Instant::now());
    }

    fn merge_done(&self) {
        let took = self.tally().merge_took(Instant::now());
        write_line(format!("layers merged in {}", text::took(took)));
    }

    fn done(&self) {
        write_line(summary(&self.tally().summary(Instant::now())));
    }
}

impl Shown for Plain {}

/// What is going to come.
fn announcement(image: &Announced<'_>, bytes: u64) -> String {
    let name = image.image.map_or_else(|| "image without a name".to_owned(), ToString::to_string);
    let digest = image.manifest.unwrap_or(image.image_id);
    let count = image.layers.len();
    let layers = if count == 1 { "layer" } else { "layers" };
    let bytes = if bytes == 0 { String::new() } else { format!(", {}", text::bytes(bytes)) };
    format!("{name}: {digest}, {}, {count} {layers}{bytes}", image.platform)
}

/// What has become of a layer.
pub(super) fn layer_line(tally: &mut Tally, blob: BlobDigest, was_present: bool, now: Instant) -> String {
    let done = tally.finish(blob, was_present, now);
    if was_present {
        return format!("{}: already there", blob.short());
    }
    let rate = text::rate(text::per_second(done.bytes, done.took));
    format!("{}: {} in {}, {rate}", blob.short(), text::bytes(done.bytes), text::took(done.took))
}

/// What has become of all.
pub(super) fn summary(all: &Summary) -> String {
    let there = match (all.present, all.layers) {
        (0, _) => String::new(),
        (present, layers) => format!("; {present} of {layers} layers already there"),
    };
    let rate = text::rate(text::per_second(all.received, all.took));
    format!("done: {} in {}, {rate}{there}", text::bytes(all.received), text::took(all.took))
}

/// Gives a line for each layer that has been under way for another period, with the rate of that period.
fn due(tally: &mut Tally, now: Instant) -> Vec<String> {
    let mut lines = Vec::new();
    for (blob, layer) in tally.under_way() {
        let (at, received) = layer.told;
        let since = now.saturating_duration_since(at);
        if since < PERIOD {
            continue;
        }
        layer.told = (now, layer.received);
        let rate = text::per_second(layer.received - received, since);
        let position = text::Position { received: layer.received, size: layer.size, rate };
        let (name, received, rate) = (blob.short(), text::bytes(layer.received), text::rate(rate));
        lines.push(match layer.size {
            0 => format!("{name}: {received}, {rate}"),
            size => {
                let (size, percent, left) = (text::bytes(size), position.percent(), position.left());
                format!("{name}: {received} of {size} ({percent} %), {rate}, {left} left")
            }
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::tally::testing::{announced, blob};
    use super::*;

    #[test]
    fn an_image_is_told_in_one_line() {
        let line = announced(&[(blob("1"), 1_500_000), (blob("2"), 0)], |image| announcement(image, 1_500_000));
        let manifest = blob("manifest");
        assert_eq!(line, format!("a.example/app:1: {manifest}, linux/amd64, 2 layers, 1.50 MB"));
        let line =
            announced(&[(blob("1"), 0)], |image| announcement(&Announced { image: None, manifest: None, ..*image }, 0));
        assert_eq!(line, format!("image without a name: {}, linux/amd64, 1 layer", blob("config")));
    }

    #[test]
    fn a_layer_is_told_of_every_ten_seconds_and_when_it_is_done() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let (one, two) = (blob("1"), blob("2"));
        let mut tally = Tally::new(start);
        tally.start(one, 100_000_000, start);
        tally.start(two, 0, after(5));
        tally.advance(one, 20_000_000);
        tally.advance(two, 3_000_000);
        assert!(due(&mut tally, after(9)).is_empty());
        let short = one.short();
        assert_eq!(due(&mut tally, after(10)), [format!("{short}: 20.0 MB of 100 MB (20 %), 2.00 MB/s, 40 s left")]);
        assert!(due(&mut tally, after(11)).is_empty(), "told already");
        assert_eq!(due(&mut tally, after(15)), [format!("{}: 3.00 MB, 300 kB/s", two.short())]);
        // It stands still: the rate is that of the last period.
        assert_eq!(due(&mut tally, after(20)), [format!("{short}: 20.0 MB of 100 MB (20 %), 0 B/s, - left")]);
        tally.advance(one, 80_000_000);
        assert_eq!(layer_line(&mut tally, one, false, after(25)), format!("{short}: 100 MB in 25 s, 4.00 MB/s"));
        assert_eq!(layer_line(&mut tally, two, true, after(25)), format!("{}: already there", two.short()));
        assert!(due(&mut tally, after(60)).is_empty());
        assert_eq!(summary(&tally.summary(after(25))), "done: 103 MB in 25 s, 4.12 MB/s; 1 of 2 layers already there");
    }
}
