// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is wanted of stos, as ratios of one run, and whether it holds.

use super::book::Book;
use super::{bare_start, containers, inside, limits, pulls, scale, snapshotter};

/// One thing that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// What is compared.
    pub what: String,
    /// The bound.
    pub wanted: Bound,
    /// What this run has found; `None` where it was not measured.
    pub found: Option<f64>,
    /// What a program finds that does only what cannot be left out; `None` where there is none, or it was not measured.
    pub at_best: Option<f64>,
}

/// A bound that something has to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
        }
    }
}

impl Target {
    fn at_best(self, at_best: Option<f64>) -> Self {
        Self { at_best, ..self }
    }

    /// Whether it holds; `None` where it was not measured.
    pub fn holds(&self) -> Option<bool> {
        self.found.map(|found| match self.wanted {
            Bound::AtMost(bound) => found <= bound,
            Bound::AtLeast(bound) => found >= bound,
        })
    }

    /// `yes`, `no`, or that it was not measured.
    pub fn verdict(&self) -> &'static str {
        match self.holds() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not measured",
        }
    }
}

/// The engines that pull, beside stos.
const PEERS: [&str; 4] = ["podman", "containerd overlayfs", "containerd erofs", "skopeo+umoci"];

/// All that is wanted, with what was found.
pub fn all(book: &Book) -> Vec<Target> {
    let mut targets = pulls_of(book);
    targets.extend(lives(book));
    targets.extend(sizes(book));
    targets.extend(under_containerd(book));
    targets
}

fn at_most(what: &str, bound: f64, found: Option<f64>) -> Target {
    Target { what: what.to_owned(), wanted: Bound::AtMost(bound), found, at_best: None }
}

fn at_least(what: &str, bound: f64, found: Option<f64>) -> Target {
    Target { what: what.to_owned(), wanted: Bound::AtLeast(bound), found, at_best: None }
}

/// One row's median by another's.
fn ratio(book: &Book, of: (&str, &str, &str), to: (&str, &str, &str)) -> Option<f64> {
    let (of, to) = (book.median(of.0, of.1, of.2)?, book.median(to.0, to.1, to.2)?);
    (to > 0.0).then_some(of / to)
}

/// A median of a pull by the best of the peers'; of other engines those that have it.
fn to_best(book: &Book, what: &str, median: Option<f64>) -> Option<f64> {
    let best = PEERS.iter().filter_map(|peer| book.median(pulls::GROUP, what, peer)).reduce(f64::min)?;
    Some(median? / best)
}

fn pulls_of(book: &Book) -> Vec<Target> {
    let sci = "sci:2 gzip";
    let [(at_once, _), (uninflated, _)] = limits::AT_ONCE;
    let least = |what: &str, how: &str| book.median(limits::GROUP, what, how);
    let against = |engine: &str, how: &str, peer: &str, name: &str, bound: f64| {
        let peer = book.median(pulls::GROUP, sci, peer);
        let to_peer = |median: Option<f64>| Some(median? / peer?);
        let found = to_peer(book.median(pulls::GROUP, sci, engine));
        at_most(&format!("cold pull of sci:2: {name}"), bound, found).at_best(to_peer(least(sci, how)))
    };
    // Whatever inflates faster still has all the rest to do.
    let mut targets = vec![
        against("stos", at_once, "containerd overlayfs", "stos ÷ containerd", 0.33),
        against("stos", at_once, "podman", "stos ÷ podman", 0.24),
        against("stos isal", uninflated, "containerd overlayfs", "stos, isal ÷ containerd", 0.26),
        against("stos isal", uninflated, "podman", "stos, isal ÷ podman", 0.18),
    ];
    let limit = limits::of_pull(book, sci);
    let to_limit = |median: Option<f64>| Some(median? / limit?);
    let found = to_limit(book.median(limits::GROUP, sci, "stos"));
    targets.push(at_most("cold pull of sci:2: stos ÷ its limit", 1.25, found).at_best(to_limit(least(sci, at_once))));
    let mut to_peers = |name: &str, what: &str, bound: f64| {
        // stos says that it is done when the image is durable; what the others have not written by then is not held against them.
        let found = to_best(book, what, book.median(pulls::GROUP, what, "stos"));
        let target = at_most(&format!("cold pull of {name}: stos ÷ the best peer"), bound, found);
        targets.push(target.at_best(to_best(book, what, least(what, at_once))));
    };
    for (name, what) in [("deb:12", "deb:12 gzip"), ("many:100", "many:100 gzip"), ("wide:8, 1 GB", "wide:8 gzip")] {
        to_peers(name, what, 1.0);
    }
    for (_, what) in pulls::IMAGES.into_iter().filter(|(_, what)| what.ends_with("zstd")) {
        to_peers(what, what, 0.45);
    }
    let peak = book.median(super::space::GROUP, "peak memory of a pull of sci:2", "stos");
    targets.push(at_most("peak memory of a pull of sci:2, MB", 64.0, peak));
    targets
}

fn lives(book: &Book) -> Vec<Target> {
    let group = containers::GROUP;
    let of = |what: &str, peer: &str| ratio(book, (group, what, "stos"), (group, what, peer));
    let large = ratio(book, (group, "create of sci:2", "umoci+crun"), (group, "create of sci:2", "stos"));
    let apart = containers::create_apart(book);
    let to_podman = apart.and_then(|apart| Some(apart / book.median(group, "create", "podman")?));
    let first = "run --rm echo, first byte";
    vec![
        at_most(
            "create, flushes apart, above a program that does nothing, ms",
            2.0,
            containers::create_above_nothing(book),
        ),
        at_most("create: number of flushes", 4.0, book.median(group, "create, flushes", "stos")),
        at_most("create, flushes apart: stos ÷ podman", 0.08, to_podman),
        at_least("create of sci:2: umoci and crun ÷ stos", 1000.0, large),
        at_most("image to first byte of output: stos ÷ crun's run of a ready bundle", 1.0, of(first, "crun")),
        at_most("image to first byte of output: stos ÷ podman", 0.08, of(first, "podman")),
    ]
}

fn sizes(book: &Book) -> Vec<Target> {
    let (many, one) = (scale::beside(1000), scale::beside(1));
    let beside = |count: &str, engine: &str| book.median(scale::GROUP, count, engine);
    let run = ratio(book, (scale::GROUP, &many, "stos"), (scale::GROUP, &one, "stos"));
    // What every start takes longer there, stos's first has to take longer too.
    let bare = beside(&many, bare_start::NAME).zip(beside(&one, bare_start::NAME)).map(|(many, one)| many - one);
    let at_best = bare.zip(beside(&one, "stos")).map(|(longer, first)| (first + longer) / first);
    let (deep, flat) = (scale::with("run --rm true", 300), scale::with("run --rm true", 1));
    let layers = ratio(book, (scale::LAYERS, &deep, "stos"), (scale::LAYERS, &flat, "stos"));
    // A rate: the peer's time by ours.
    let read = |what: &str| ratio(book, (inside::GROUP, what, "containerd overlayfs"), (inside::GROUP, what, "stos"));
    vec![
        at_most("run beside 1,000 that run ÷ beside one", 1.2, run).at_best(at_best),
        at_most("run of 300 layers ÷ of one", 1.3, layers),
        at_least("reads within, warm: rate ÷ overlay's on ext4 directories", 0.95, read("warm read")),
        at_least("reads within, cold: rate ÷ overlay's on ext4 directories", 1.2, read("cold read")),
    ]
}

fn under_containerd(book: &Book) -> Vec<Target> {
    let group = snapshotter::GROUP;
    let own = |what: &str| book.median(group, what, snapshotter::OURS);
    let to_better = |what: &str| {
        let better = snapshotter::PEERS.iter().filter_map(|peer| book.median(group, what, peer)).reduce(f64::min)?;
        Some(own(what)? / better)
    };
    let hundredth = own(snapshotter::LAST).zip(own(snapshotter::FIRST)).map(|(last, first)| last / first);
    vec![
        at_most(
            "cold pull of sci:2 by containerd: stos ÷ the better of its snapshotters",
            0.4,
            to_better(snapshotter::PULL),
        ),
        at_most("its first container, from nothing: stos ÷ the better of them", 0.5, to_better(snapshotter::READY)),
        at_most("by containerd with stos: the 100th container ÷ the first", 1.0, hundredth),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::book::Unit;

    #[test]
    fn what_was_not_measured_has_no_verdict() {
        let targets = all(&Book::default());
        assert!(targets.len() > 15);
        assert!(targets.iter().all(|target| target.verdict() == "not measured"));
    }

    #[test]
    fn ratios_are_held_against_their_bounds() {
        let mut book = Book::default();
        let mut add =
            |group: &str, what: &str, engine: &str, sample| book.add(group, what, engine, Unit::Milliseconds, sample);
        add(pulls::GROUP, "sci:2 gzip", "stos", 2.0);
        add(pulls::GROUP, "sci:2 gzip", "podman", 10.0);
        add(pulls::GROUP, "deb:12 gzip", "stos", 5.0);
        add(pulls::GROUP, "deb:12 gzip", "podman", 9.0);
        add(pulls::GROUP, "deb:12 gzip", "skopeo+umoci", 4.0);
        add(inside::GROUP, "cold read", "stos", 2.0);
        add(inside::GROUP, "cold read", "containerd overlayfs", 3.0);
        let targets = all(&book);
        let verdict = |what: &str| targets.iter().find(|target| target.what.starts_with(what)).unwrap().verdict();
        assert_eq!(verdict("cold pull of sci:2: stos ÷ podman"), "yes");
        assert_eq!(verdict("cold pull of deb:12"), "no");
        assert_eq!(verdict("reads within, cold"), "yes");
        assert_eq!(verdict("reads within, warm"), "not measured");
        assert_eq!(Bound::AtLeast(0.95).to_string(), "≥ 0.95");
    }
}
