// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How much of each layer has come, and how long it took.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use stos_engine::pull::Announced;
use stos_spec::BlobDigest;

/// All layers of a command.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    merge_started: Instant,
    layers: HashMap<BlobDigest, Layer>,
    received: u64,
    present: usize,
    done: usize,
}

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// Its bytes; 0 where nobody has said how many.
    pub size: u64,
    /// Those that have come.
    pub received: u64,
    /// When it was asked for; `None` before.
    pub started: Option<Instant>,
    /// When it was last told of, and how much had come then.
    pub told: (Instant, u64),
    end: Option<End>,
}

/// How a layer came to be in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Fetched,
    Present,
}

/// What has become of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// How many bytes came; of one that was there, how many it has. 0 where nobody has said how many.
    pub bytes: u64,
    /// How long they took.
    pub took: Duration,
}

/// What has become of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// How many layers there are.
    pub layers: usize,
    /// How many were there.
    pub present: usize,
    /// How many bytes came.
    pub received: u64,
    /// How long all took, from the first image's announcement on.
    pub took: Duration,
}

impl Tally {
    /// Makes an empty one.
    pub fn new(now: Instant) -> Self {
        Self { started: now, merge_started: now, layers: HashMap::new(), received: 0, present: 0, done: 0 }
    }

    /// Learns what is going to come, and gives how many bytes that is: a layer that an image has twice comes once.
    pub fn announce(&mut self, image: &Announced<'_>, now: Instant) -> u64 {
        if self.layers.is_empty() {
            self.started = now;
        }
        let mut own = HashMap::new();
        for &(blob, size) in image.layers {
            self.layers.entry(blob).or_insert(Layer { size, received: 0, started: None, told: (now, 0), end: None });
            own.insert(blob, size);
        }
        sum(own.into_values())
    }

    /// Gives how many bytes come, or have come, of all layers that were not there before, as far as is known.
    pub fn expected(&self) -> u64 {
        let layers = self.layers.values().filter(|layer| layer.end != Some(End::Present));
        sum(layers.map(|layer| layer.size))
    }

    /// A layer has been asked for, maybe once more. Gives how many bytes of it count no longer, for they come again.
    pub fn start(&mut self, blob: BlobDigest, size: u64, now: Instant) -> u64 {
        let layer = Layer { size, received: 0, started: Some(now), told: (now, 0), end: None };
        let before = self.layers.insert(blob, layer).filter(|layer| layer.end.is_none());
        let lost = before.map_or(0, |layer| layer.received);
        self.received -= lost;
        lost
    }

    /// More of a layer has come. Gives the layer, unless nobody knows it.
    pub fn advance(&mut self, blob: BlobDigest, count: u64) -> Option<&mut Layer> {
        let layer = self.layers.get_mut(&blob)?;
        layer.received += count;
        self.received += count;
        Some(layer)
    }

    /// A layer is in the store.
    pub fn finish(&mut self, blob: BlobDigest, was_present: bool, now: Instant) -> Finished {
        self.done += 1;
        self.present += usize::from(was_present);
        let Some(layer) = self.layers.get_mut(&blob) else { return Finished { bytes: 0, took: Duration::ZERO } };
        layer.end = Some(if was_present { End::Present } else { End::Fetched });
        let took = layer.started.map_or(Duration::ZERO, |started| now.saturating_duration_since(started));
        Finished { bytes: if was_present { layer.size } else { layer.received.max(layer.size) }, took }
    }

    /// Gives the layers that are on their way, those that were asked for first at the front.
    pub fn under_way(&mut self) -> Vec<(BlobDigest, &mut Layer)> {
        let layers = self.layers.iter_mut().map(|(blob, layer)| (*blob, layer));
        let mut layers: Vec<_> = layers.filter(|(_, layer)| layer.started.is_some() && layer.end.is_none()).collect();
        layers.sort_by_key(|(blob, layer)| (layer.started, *blob));
        layers
    }

    /// The merge begins.
    pub fn start_merge(&mut self, now: Instant) {
        self.merge_started = now;
    }

    /// Gives how long the merge has taken.
    pub fn merge_took(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.merge_started)
    }

    /// Gives what has become of all.
    pub fn summary(&self, now: Instant) -> Summary {
        Summary {
            layers: self.done,
            present: self.present,
            received: self.received,
            took: now.saturating_duration_since(self.started),
        }
    }
}

/// Sizes are what a manifest claims.
fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

#[cfg(test)]
pub(super) mod testing {
    use stos_spec::{BlobDigest, Platform};

    use super::*;

    pub fn blob(text: &str) -> BlobDigest {
        BlobDigest::of(text.as_bytes())
    }

    /// Announces an image of these layers to `act`.
    pub fn announced<T>(layers: &[(BlobDigest, u64)], act: impl FnOnce(&Announced<'_>) -> T) -> T {
        let (name, platform) = ("a.example/app:1".parse().unwrap(), Platform::new("linux", "amd64", None));
        let (manifest, image_id) = (Some(blob("manifest")), blob("config"));
        act(&Announced { image: Some(&name), manifest, image_id, platform: &platform, layers })
    }

    #[test]
    fn what_comes_again_counts_once() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let (one, two) = (blob("1"), blob("2"));
        let mut tally = Tally::new(start);
        announced(&[(one, 100), (two, 7)], |image| tally.announce(image, start));
        assert_eq!(tally.start(one, 100, start), 0);
        tally.start(two, 7, start);
        tally.advance(one, 60);
        tally.advance(two, 7);
        assert_eq!(tally.start(one, 100, after(5)), 60);
        assert_eq!(tally.advance(one, 100).unwrap().received, 100);
        assert_eq!(tally.finish(one, false, after(7)), Finished { bytes: 100, took: Duration::from_secs(2) });
        tally.finish(two, false, after(7));
        assert_eq!(tally.summary(after(7)).received, 107);
    }

    #[test]
    fn layers_are_counted_once_and_timed_from_when_they_were_asked_for() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let (one, two) = (blob("1"), blob("2"));
        let mut tally = Tally::new(start);
        let bytes = announced(&[(one, 100), (two, 7), (one, 100)], |image| tally.announce(image, after(1)));
        assert_eq!(bytes, 107);
        let bytes = announced(&[(one, 100)], |image| tally.announce(image, after(2)));
        assert_eq!((bytes, tally.expected()), (100, 107), "images share a layer");
        assert!(tally.under_way().is_empty());
        tally.start(one, 100, after(2));
        assert_eq!(tally.advance(one, 60).unwrap().received, 60);
        assert!(tally.advance(blob("3"), 60).is_none());
        assert_eq!(tally.under_way().len(), 1);
        assert_eq!(tally.finish(two, true, after(3)), Finished { bytes: 7, took: Duration::ZERO });
        assert_eq!(tally.expected(), 100);
        tally.advance(one, 40);
        assert_eq!(tally.finish(one, false, after(6)), Finished { bytes: 100, took: Duration::from_secs(4) });
        assert!(tally.under_way().is_empty());
        let expected = Summary { layers: 2, present: 1, received: 100, took: Duration::from_secs(6) };
        assert_eq!(tally.summary(after(7)), expected);
        let huge = [(blob("4"), u64::MAX), (blob("5"), u64::MAX)];
        assert_eq!(announced(&huge, |image| tally.announce(image, after(7))), u64::MAX);
        assert_eq!(tally.expected(), u64::MAX);
        tally.start_merge(after(7));
        assert_eq!(tally.merge_took(after(9)), Duration::from_secs(2));
    }
}
