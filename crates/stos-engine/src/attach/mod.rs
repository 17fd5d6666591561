// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clients of a container's monitor: who sees its output, types into it, and goes again while it runs.
//!
//! The monitor listens on the socket [`SOCKET`] of the container's run directory, which is root's alone. A client connects, is told
//! what the container has, and from then on both sides send frames:
//!
//! | module | what it is |
//! |---|---|
//! | `frame` | the frames, and taking a stream apart into them |
//! | `clients` | the monitor's half: many clients, none of which it waits for |
//! | [`session`] | the client's half |
//! | [`keys`] | the keys that end a session and leave the container running |
//!
//! Signals are no frames: a client sends them itself, for what is typed and not read yet would keep them.

pub(crate) mod clients;
pub(crate) mod frame;
pub mod keys;
pub mod session;

use serde::{Deserialize, Serialize};

pub use keys::{DetachKeys, KeyScanner};
pub use session::{Event, Session, code_after_loss, connect};

pub use crate::relay::write_now;

/// The socket's name in the run directory.
pub(crate) const SOCKET: &str = "attach";

/// Rows and columns of a terminal.
pub type Size = (u16, u16);

/// What a container's standard streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamOptions {
    /// One terminal for all three, from the container's own devpts (`--tty`); else output and errors are pipes.
    #[serde(default)]
    pub tty: bool,
    /// Standard input stays open, for whoever attaches (`--interactive`); else it is empty.
    #[serde(default)]
    pub interactive: bool,
}
