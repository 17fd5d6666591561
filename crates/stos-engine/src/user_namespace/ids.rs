// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sets of ids, as ranges.

use stos_sys::process::user_namespace::IdMapping;

/// A set of ids: ranges of first and end, sorted, none empty, none touching another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct IdSet(Vec<(u64, u64)>);

impl IdSet {
    /// Gathers ranges of first and end.
    pub(super) fn of(ranges: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|(first, end)| first < end).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (first, end) in sorted {
            match merged.last_mut() {
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((first, end)),
            }
        }
        Self(merged)
    }

    /// The ids inside.
    pub(super) fn inside(mappings: &[IdMapping]) -> Self {
        Self::of(mappings.iter().map(|ids| (u64::from(ids.container), u64::from(ids.container) + u64::from(ids.size))))
    }

    /// The ids outside.
    pub(super) fn outside(mappings: &[IdMapping]) -> Self {
        Self::of(mappings.iter().map(|ids| (u64::from(ids.host), u64::from(ids.host) + u64::from(ids.size))))
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|(first, end)| end - first).sum()
    }

    /// What is left of this without those of `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(mut first, end) in &self.0 {
            for &(taken, taken_end) in &other.0 {
                if taken < end && taken_end > first {
                    left.push((first, taken.max(first)));
                    first = taken_end;
                }
            }
            if first < end {
                left.push((first, end));
            }
        }
        Self::of(left)
    }

    /// Whether all of `other` are in this.
    pub(super) fn contains(&self, other: &Self) -> bool {
        other.without(self).0.is_empty()
    }

    /// Gives `count` of them: the first range that has so many, else the first ones of all; `None` where there are fewer.
    pub(super) fn take(&self, count: u64) -> Option<Self> {
        if let Some(&(first, _)) = self.0.iter().find(|(first, end)| end - first >= count) {
            return Some(Self::of([(first, first + count)]));
        }
        let mut left = count;
        let mut taken = Vec::new();
        for &(first, end) in &self.0 {
            let part = left.min(end - first);
            taken.push((first, first + part));
            left -= part;
        }
        (left == 0).then(|| Self::of(taken))
    }

    /// Maps the ids of this, inside, to as many of `host`, in their order. Both lie below 2³².
    pub(super) fn map_to(&self, host: &Self) -> Vec<IdMapping> {
        let (mut inside, mut outside) = (self.0.iter().copied(), host.0.iter().copied());
        let (mut own, mut other) = (inside.next(), outside.next());
        let mut mappings = Vec::new();
        while let (Some((first, end)), Some((host, host_end))) = (own, other) {
            let count = (end - first).min(host_end - host);
            let number = |id: u64| u32::try_from(id).unwrap_or(u32::MAX);
            mappings.push(IdMapping { container: number(first), host: number(host), size: number(count) });
            own = Some((first + count, end)).filter(|(first, end)| first < end).or_else(|| inside.next());
            other = Some((host + count, host_end)).filter(|(host, end)| host < end).or_else(|| outside.next());
        }
        mappings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> IdSet {
        IdSet::of(ranges.iter().copied())
    }

    #[test]
    fn sets_are_added_and_taken_from() {
        assert_eq!(set(&[(5, 7), (1, 3), (3, 4), (6, 9), (2, 2)]), set(&[(1, 4), (5, 9)]));
        let all = set(&[(0, 10), (20, 30)]);
        for (taken, left) in [
            (&[][..], &[(0, 10), (20, 30)][..]),
            (&[(0, 40)], &[]),
            (&[(3, 5), (7, 22), (29, 31)], &[(0, 3), (5, 7), (22, 29)]),
            (&[(10, 20)], &[(0, 10), (20, 30)]),
        ] {
            assert_eq!(all.without(&set(taken)), set(left), "{taken:?}");
        }
        assert_eq!((all.len(), set(&[]).len()), (20, 0));
        assert!(all.contains(&set(&[(2, 3), (29, 30)])) && !all.contains(&set(&[(9, 11)])));
    }

    #[test]
    fn one_range_is_taken_where_there_is_one() {
        let free = set(&[(0, 4), (10, 20), (30, 40)]);
        assert_eq!(free.take(10), Some(set(&[(10, 20)])));
        assert_eq!(free.take(3), Some(set(&[(0, 3)])));
        assert_eq!(free.take(12), Some(set(&[(0, 4), (10, 18)])));
        assert_eq!(free.take(24), Some(free.clone()));
        assert_eq!(free.take(25), None);
    }

    #[test]
    fn ids_are_mapped_in_their_order() {
        let mapping = |container, host, size| IdMapping { container, host, size };
        let mapped = set(&[(0, 5), (8, 10)]).map_to(&set(&[(100, 103), (200, 204)]));
        assert_eq!(mapped, [mapping(0, 100, 3), mapping(3, 200, 2), mapping(8, 202, 2)]);
    }
}
