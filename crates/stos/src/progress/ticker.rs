// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A thread that does the same from time to time: layers that stand still tell of nothing.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Such a thread. Dropped, it has ended.
pub struct Ticker {
    /// Dropped first, which wakes the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts it. Where there can be no thread nothing ticks: that keeps nothing from its work.
    pub fn start(period: Duration, tick: impl Fn() + Send + 'static) -> Self {
        let (stop, stopped) = channel();
        let work = move || {
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                tick();
            }
        };
        Self { stop: Some(stop), thread: thread::Builder::new().name("progress".to_owned()).spawn(work).ok() }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that has panicked has ended as well.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    #[test]
    fn it_ticks_until_it_is_dropped() {
        let (ticks, ticked) = mpsc::channel();
        let alive = Arc::new(AtomicUsize::new(0));
        let ticker = Ticker::start(Duration::from_millis(1), {
            let alive = Arc::clone(&alive);
            move || {
                alive.fetch_add(1, Ordering::Relaxed);
                let _ = ticks.send(());
            }
        });
        for _ in 0..3 {
            ticked.recv().unwrap();
        }
        drop(ticker);
        // The thread owned the other end of both.
        assert_eq!(Arc::strong_count(&alive), 1);
        assert!(ticked.iter().count() + 3 == alive.load(Ordering::Relaxed));
    }

    #[test]
    fn it_ends_at_once_whatever_its_period() {
        drop(Ticker::start(Duration::from_secs(1_000_000), || {}));
    }
}
