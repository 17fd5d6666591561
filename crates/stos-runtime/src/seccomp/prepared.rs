// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Texts of the default profile, and their filters compiled already, for the capabilities that most containers have.
//!
//! A container's `config.json` holds the whole profile, for it is a bundle like any other. To read and compile that takes as long as
//! several of a start's other steps together, so its text is known again, left unread, and its filter taken from here. What differs by
//! a byte is read and compiled as any profile is.
//!
//! The files are made by this module's test: `STOS_WRITE_FILTERS=1 cargo test -p stos-runtime prepared`.

use std::ops::Range;

use stos_sys::process::credentials::capability_bit;
use stos_sys::seccomp::{Instruction, flag};

use super::Filter;

/// podman's default set (containers-common, `default_capabilities`), which is ours.
const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// A profile whose text and filter are at hand.
struct Prepared {
    capabilities: &'static [&'static str],
    text: &'static str,
    program: &'static [u8],
}

macro_rules! prepared {
    ($machine:literal, $name:literal, $capabilities:expr) => {
        Prepared {
            capabilities: $capabilities,
            text: include_str!(concat!("prepared/", $machine, "-", $name, ".json")),
            program: include_bytes!(concat!("prepared/", $machine, "-", $name, ".bpf")),
        }
    };
}

/// The profiles for this machine: of the default set, and of none (`--cap-drop all`).
#[cfg(target_arch = "x86_64")]
static PREPARED: [Prepared; 2] = [prepared!("x86_64", "default", DEFAULT), prepared!("x86_64", "none", &[])];
#[cfg(target_arch = "aarch64")]
static PREPARED: [Prepared; 2] = [prepared!("aarch64", "default", DEFAULT), prepared!("aarch64", "none", &[])];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static PREPARED: [Prepared; 0] = [];

/// How every text of the default profile begins.
const BEGINNING: &[u8] = br#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_"#;

/// Finds, in the bytes of a `config.json`, an object that is a default profile whose filter is at hand: where it stands, and the
/// filter. What else the bytes say, and whether the object is the container's profile at all, is the caller's to know.
pub(crate) fn find(config: &[u8]) -> Option<(Range<usize>, Filter)> {
    let braces = config.iter().enumerate().filter(|(_, byte)| **byte == b'{').map(|(at, _)| at);
    let start = braces.into_iter().find(|at| config[*at..].starts_with(BEGINNING))?;
    // Of the same beginning none is another's beginning: each ends with its last brace.
    let found = PREPARED.iter().find(|known| config[start..].starts_with(known.text.as_bytes()))?;
    Some((start..start + found.text.len(), filter(found.program)))
}

/// Gives the filter of a default profile's text, where it is at hand.
pub(crate) fn filter_of(text: &str) -> Option<Filter> {
    PREPARED.iter().find(|known| known.text == text).map(|known| filter(known.program))
}

/// Gives the text of the default profile for the capabilities `mask`, where it is at hand.
pub(super) fn text_of(capabilities: u64) -> Option<&'static str> {
    PREPARED.iter().find(|known| mask(known.capabilities) == capabilities).map(|known| known.text)
}

fn mask(capabilities: &[&str]) -> u64 {
    capabilities.iter().filter_map(|name| capability_bit(name)).fold(0, |mask, bit| mask | bit)
}

/// The filter of a program as its file has it: `struct sock_filter` after `struct sock_filter`, little-endian.
fn filter(program: &[u8]) -> Filter {
    let (instructions, _) = program.as_chunks::<8>();
    let program = instructions.iter().map(|&[code_low, code_high, jump_true, jump_false, a, b, c, d]| Instruction {
        code: u16::from_le_bytes([code_low, code_high]),
        jump_true,
        jump_false,
        operand: u32::from_le_bytes([a, b, c, d]),
    });
    Filter { program: program.collect(), flags: flag::SPEC_ALLOW, listener: None }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::compile::compile;
    use super::super::default_profile::{AARCH64, X86_64, default_profile, profile_for};
    use super::super::profile::{Abi, Profile};
    use super::*;

    /// Compiles a profile for a machine that may be another than this.
    fn program(architectures: &[&str], abis: &[Abi], capabilities: u64) -> Vec<u8> {
        let text = profile_for(architectures, capabilities);
        let mut profile = Profile::of(&serde_json::from_str(&text).unwrap()).unwrap();
        profile.abis = abis.to_vec();
        let bytes = |it: &Instruction| {
            let ([a, b], [c, d, e, f]) = (it.code.to_le_bytes(), it.operand.to_le_bytes());
            [a, b, it.jump_true, it.jump_false, c, d, e, f]
        };
        compile(&profile).iter().flat_map(bytes).collect()
    }

    #[test]
    fn prepared_programs_are_those_of_the_profile() {
        for (machine, architectures, abis) in [
            ("x86_64", X86_64, &[Abi::X86_64, Abi::X32, Abi::X86][..]),
            ("aarch64", AARCH64, &[Abi::Aarch64, Abi::Arm]),
        ] {
            for (name, capabilities) in [("default", DEFAULT), ("none", &[])] {
                let program = program(architectures, abis, mask(capabilities));
                let text = profile_for(architectures, mask(capabilities)).into_bytes();
                let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/seccomp/prepared");
                for (ending, bytes) in [("bpf", program), ("json", text)] {
                    let path = directory.join(format!("{machine}-{name}.{ending}"));
                    if std::env::var_os("STOS_WRITE_FILTERS").is_some() {
                        std::fs::write(&path, &bytes).unwrap();
                    }
                    assert!(std::fs::read(&path).unwrap() == bytes, "{} is of another profile", path.display());
                }
            }
        }
    }

    #[test]
    fn a_default_profile_is_known_again_to_the_byte() {
        for known in &PREPARED {
            let text = default_profile(mask(known.capabilities));
            let config = format!(r#"{{"a": {{}}, "seccomp": {text}, "z": 1}}"#);
            let (range, found) = find(config.as_bytes()).unwrap();
            assert_eq!(&config[range], text);
            assert!(found == Filter::of(&serde_json::from_str(&text).unwrap()).unwrap());
            assert!(filter_of(&text) == Some(found) && filter_of(&text[1..]).is_none());
            assert!(find(config.replace("\"read\"", "\"raed\"").as_bytes()).is_none());
            assert!(find(&text.as_bytes()[..text.len() - 1]).is_none());
        }
        assert!(find(b"{}").is_none() && find(b"").is_none());
        // A set of capabilities whose filter is not at hand.
        assert!(find(default_profile(u64::MAX).as_bytes()).is_none());
    }
}
