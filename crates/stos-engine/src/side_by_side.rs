// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Several things at a time, until one fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// One thing more than there are processors, so that one may wait for the network; and a bound on what that takes. Asked for only
/// where there is something to do, for it reads the limits of the caller's cgroup.
pub(crate) fn default_jobs() -> usize {
    const MAX: usize = 8;
    std::thread::available_parallelism().map_or(MAX, |processors| processors.get() + 1).min(MAX)
}

/// Does `work` for each item of a queue, `jobs` at a time and the first ones first. Gives what came of each, in their order.
///
/// # Errors
/// What failed first. `cancel` is called then, to end what the others are at: how they fail is not told.
pub(crate) fn side_by_side<T: Sync, R: Send>(
    queue: &[T],
    jobs: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
    cancel: impl Fn() + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let results: Vec<Mutex<Option<R>>> = queue.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = queue.get(at) else { break };
            match work(item) {
                Ok(result) => *results[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(result),
                Err(error) => {
                    // The first failure is the one to tell: it is kept before the others learn of it.
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    cancel();
                    next.store(queue.len(), Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, queue.len().max(1)) {
            scope.spawn(work);
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => {
            Ok(results.into_iter().filter_map(|it| it.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn everything_is_done_in_its_order() {
        let squares = side_by_side(&[1, 2, 3, 4, 5], 3, |number| Ok(number * number), || panic!("nothing failed"));
        assert_eq!(squares.unwrap(), [1, 4, 9, 16, 25]);
        assert_eq!(side_by_side(&[0; 0], 3, |_| Ok(()), || ()).unwrap(), []);
    }

    #[test]
    fn the_first_failure_is_told_and_ends_the_others() {
        let is_cancelled = AtomicBool::new(false);
        let begun = AtomicUsize::new(0);
        let work = |number: &usize| {
            begun.fetch_add(1, Ordering::Relaxed);
            let wait = || {
                while !is_cancelled.load(Ordering::Relaxed) {
                    std::thread::yield_now()
                }
            };
            match number {
                1 => Err(Error::NoDefaultRegistry),
                _ => {
                    wait();
                    Err::<(), _>(Error::NoCommand)
                }
            }
        };
        let error =
            side_by_side(&[0, 1, 2, 3, 4, 5], 2, work, || is_cancelled.store(true, Ordering::Relaxed)).unwrap_err();
        assert!(matches!(error, Error::NoDefaultRegistry), "{error}");
        assert_eq!(begun.into_inner(), 2, "nothing begins after a failure");
    }
}
