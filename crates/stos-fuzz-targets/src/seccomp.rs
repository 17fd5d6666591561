// SPDX-License-Identifier: Apache-2.0 OR MIT
//! seccomp profiles.

use std::fs;

use stos_engine::CreateOptions;
use stos_engine::networking::Networking;
use stos_engine::security::Seccomp;
use stos_engine::spec::{Confinement, NetworkPlan, ProcessPlan, runtime_config};
use stos_runtime::RuntimeConfig;
use stos_sys::seccomp::{Instruction, MAX_INSTRUCTIONS};
use tempfile::TempDir;

use crate::check_message;

/// Reads a profile as `--security-opt seccomp=FILE` does, and compiles it as a start does.
///
/// It is refused by a message that moves no cursor, or makes a program that the kernel takes (`bpf_check_classic` and
/// `seccomp_check_filter`): no longer than that may be, each jump within it and forward, each load a word of
/// `seccomp_data`, and an answer at the end of every path.
pub fn seccomp(data: &[u8]) {
    thread_local!(static SCRATCH: TempDir = TempDir::new().unwrap());
    let path = SCRATCH.with(|scratch| scratch.path().join("profile.json"));
    fs::write(&path, data).unwrap();
    let mut options = CreateOptions::default();
    options.security.seccomp = Seccomp::File(path);
    let confinement = match Confinement::of(&options.security) {
        Ok(confinement) => confinement,
        Err(error) => return check_message(&error),
    };
    let process =
        ProcessPlan { args: vec!["x".into()], env: vec![], cwd: "/".into(), ids: (0, 0, vec![]), stop_signal: None };
    let networking = Networking::default();
    let network = NetworkPlan { networking: &networking, shared: &[] };
    let config = runtime_config(&process, &options, network, &[], &confinement, "id", "host").unwrap();
    match RuntimeConfig::from_json(&confinement.text(&config)) {
        Ok(read) => check_program(read.settings().seccomp.as_ref().unwrap().instructions()),
        Err(error) => {
            check_message(&error);
            // The profile is what is wrong, and nothing else.
            RuntimeConfig::from_json(config.to_string().as_bytes()).unwrap();
        }
    }
}

/// Codes of linux/bpf_common.h.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMPS: [u16; 3] = [0x15, 0x25, 0x35];
const RETURN: u16 = 0x06;

fn check_program(program: &[Instruction]) {
    assert!((1..=MAX_INSTRUCTIONS).contains(&program.len()), "{} instructions", program.len());
    for (at, Instruction { code, jump_true, jump_false, operand }) in program.iter().copied().enumerate() {
        // Of what comes after: an instruction that is no answer is never the last.
        let rest = program.len() - at - 1;
        let reaches = |skipped: usize| assert!(skipped < rest, "{at}: a jump over {skipped} of {rest}");
        match code {
            LOAD => {
                assert!(operand % 4 == 0 && operand < 64, "{at}: a load of {operand}");
                reaches(0);
            }
            AND => reaches(0),
            JUMP => reaches(operand as usize),
            code if JUMPS.contains(&code) => {
                reaches(jump_true.into());
                reaches(jump_false.into());
            }
            RETURN => {}
            code => panic!("{at}: {code:#x}"),
        }
    }
}
