// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a client talks to its registry.

use std::time::Duration;

use crate::retry::RetryPolicy;

/// How a client talks to its registry.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Whether certificates are verified and plain HTTP is refused. With `false` HTTPS is tried without verification,
    /// and then plain HTTP, as podman does; of loopback plain HTTP first. An [`Endpoint`](crate::Endpoint) has its own word in this.
    pub tls_verify: bool,
    /// Certificates of authorities that are trusted besides the system's and an endpoint's, each in DER.
    pub extra_roots: Vec<Vec<u8>>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// How often to try again.
    pub retry: RetryPolicy,
    /// The `User-Agent`, in visible ASCII.
    pub user_agent: String,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            tls_verify: true,
            extra_roots: Vec::new(),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            user_agent: concat!("stos/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// How long to wait for what, in one try. None of them limits the whole of a blob that is read as it arrives.
///
/// Looking up a host's name is bounded by the system's resolver alone (`resolv.conf`): a limit of ours would need a
/// thread that could outlive the request.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Timeouts {
    /// For a connection to stand, TLS included.
    pub connect: Duration,
    /// For the whole of a response's header, however slowly it comes.
    pub response: Duration,
    /// For the header of the answer to what was sent with a body: a registry may check and move a whole blob before it
    /// answers.
    pub commit: Duration,
    /// For a body to move, either way: no single wait may be longer.
    pub stall: Duration,
    /// How many bytes must come within each [`stall`](Self::stall) spent waiting, so that a trickle ends too.
    pub stall_bytes: u64,
    /// For the whole of a body that is read at once: a manifest, a configuration, a token.
    pub document: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            response: Duration::from_secs(30),
            commit: Duration::from_secs(300),
            stall: Duration::from_secs(60),
            stall_bytes: 4096,
            document: Duration::from_secs(300),
        }
    }
}
