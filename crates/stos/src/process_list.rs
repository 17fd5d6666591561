// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Secrets of the command line, and who else can read it: everyone, in `/proc/PID/cmdline`, for as long as the process lives.
//! The monitor of a container that runs in the background lives as long as that.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use stos_config::Secret;
use stos_sys::process::identity::caller_areas;

/// The options that have a secret, as they stand before it in one word.
const BEFORE: [&[u8]; 5] = [b"", b"--creds=", b"--password=", b"-p", b"-p="];

/// Overwrites a secret where the command line of this process has it. A moment remains in which it could be read.
///
/// What cannot be overwritten stays, which is where everything was without this.
pub fn hide(secret: &Secret) {
    if let Err(error) = overwrite(secret.expose().as_bytes()) {
        tracing::debug!(%error, "the command line cannot be overwritten");
    }
}

fn overwrite(secret: &[u8]) -> io::Result<()> {
    let Range { start, end } = caller_areas().map_err(|error| io::Error::from(error.errno))?.arguments;
    let memory = File::options().read(true).write(true).open("/proc/self/mem")?;
    let mut words = vec![0; usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?];
    memory.read_exact_at(&mut words, start)?;
    for at in places(&words, secret) {
        memory.write_all_at(&vec![b'x'; secret.len()], start + at as u64)?;
    }
    Ok(())
}

/// Gives where a secret stands among words that end with NUL: as a word, or after its option.
fn places(words: &[u8], secret: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    for word in words.split(|byte| *byte == 0) {
        let before = word.strip_suffix(secret).filter(|before| BEFORE.contains(before));
        found.extend(before.map(|before| at + before.len()));
        at += word.len() + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_where_an_option_has_it() {
        let words = b"stos\0pull\0--creds\0u:p\0--creds=u:p\0-pu:p\0xu:p\0u:p.example/x\0";
        assert_eq!(places(words, b"u:p"), [18, 30, 36]);
        assert_eq!(places(b"stos\0login\0-p\0s\0", b"s"), [14]);
        // One `=` after a short option is not of its value.
        assert_eq!(places(b"stos\0login\0-p=s\0-p==s\0", b"s"), [14]);
        assert_eq!(places(b"-p==s\0", b"=s"), [3]);
        assert_eq!(places(b"", b"x"), [0; 0]);
    }
}
