// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Secrets of the command line, and who else can read it: everyone, in `/proc/PID/cmdline`, for as long as the process lives.
//! The monitor of a container that runs in the background lives as long as that.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use stos_config::Secret;

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
    let (start, end) = command_line(&fs::read_to_string("/proc/self/stat")?).ok_or(io::ErrorKind::InvalidData)?;
    let memory = File::options().read(true).write(true).open("/proc/self/mem")?;
    let mut words = vec![0; usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?];
    memory.read_exact_at(&mut words, start)?;
    for at in places(&words, secret) {
        memory.write_all_at(&vec![b'x'; secret.len()], start + at as u64)?;
    }
    Ok(())
}

/// Gives where the command line begins and ends in memory: `arg_start` and `arg_end` of proc_pid_stat(5), fields 48 and 49.
fn command_line(stat: &str) -> Option<(u64, u64)> {
    // The name of the program, the second field, may have blanks and parentheses.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(45);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
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

    #[test]
    fn the_command_line_is_where_the_kernel_says() {
        let (start, end) = command_line(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert_eq!(end - start, fs::read("/proc/self/cmdline").unwrap().len() as u64);
        let fields: Vec<_> = (3..53).map(|number| number.to_string()).collect();
        assert_eq!(command_line(&format!("7 (a) b) {}", fields.join(" "))), Some((48, 49)));
        assert_eq!(command_line("7 (a) S 1"), None);
    }
}
