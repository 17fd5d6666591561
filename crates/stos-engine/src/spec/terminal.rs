// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a terminal changes in a container's configuration.

use serde_json::{Value, json};

use crate::attach::StreamOptions;

/// The kind of terminal that a container's is, where neither image nor user says another: podman's and docker's.
const TERM: &str = "TERM=xterm";

/// Gives the variables of a container with such streams, before all others.
pub(super) fn environment(streams: StreamOptions) -> Option<String> {
    streams.tty.then(|| TERM.to_owned())
}

/// Sets `process.terminal` of a configuration.
pub(super) fn apply(config: &mut Value, streams: StreamOptions) {
    config["process"]["terminal"] = json!(streams.tty);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_to_the_runtime_and_to_programs() {
        for tty in [false, true] {
            let streams = StreamOptions { tty, interactive: true };
            let mut config = json!({"process": {"cwd": "/"}});
            apply(&mut config, streams);
            assert_eq!(config["process"], json!({"cwd": "/", "terminal": tty}));
            assert_eq!(environment(streams).is_some(), tty);
        }
    }
}
