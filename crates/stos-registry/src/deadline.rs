// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An end to what the HTTP library does in one call: however often the other side sends a byte of something that nobody counts
//! (trailers, a proxy's answer), a call that gives nothing returns in time.
//!
//! The library limits each wait for bytes, and knows no limit for many of them. It waits on the thread that called it, so the end is
//! that thread's affair, and [`Limits`] looks at it below TLS, before each wait. It stands on `ureq::unversioned`.

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

use ureq::Timeout;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport as Wire};

thread_local! {
    static END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Does something within which this thread waits for no connection any longer than `limit`, all in all.
pub(crate) fn within<T>(limit: Duration, act: impl FnOnce() -> T) -> T {
    let outer = END.get();
    let own = Instant::now().checked_add(limit);
    END.set(match (own, outer) {
        (Some(own), Some(outer)) => Some(own.min(outer)),
        (own, outer) => own.or(outer),
    });
    let result = act();
    END.set(outer);
    result
}

/// Puts an end to the waits of each connection that is made.
#[derive(Debug)]
pub(crate) struct Limits;

impl<In: Wire> Connector<In> for Limits {
    type Out = Limited<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, wire: Option<In>) -> Result<Option<Limited<In>>, ureq::Error> {
        Ok(wire.map(Limited))
    }
}

/// A connection whose waits have an end.
pub(crate) struct Limited<W>(W);

impl<W: Wire> Wire for Limited<W> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if let Some(end) = END.get() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ureq::Error::Timeout(Timeout::PerRead));
            }
            if timeout.after > left.into() {
                (timeout.after, timeout.reason) = (left.into(), Timeout::PerRead);
            }
        }
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

impl<W> fmt::Debug for Limited<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Limited")
    }
}
