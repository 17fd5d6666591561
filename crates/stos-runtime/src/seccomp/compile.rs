// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From decisions to classic BPF. Pure.
//!
//! The program looks at the architecture, then finds the range of the call's number by halves, about seven comparisons for the
//! profiles of engines, then compares arguments where the decision asks for them: as two halves of 32 bits, for that is all
//! that classic BPF can load. Conditional jumps reach 255 instructions; where a half is longer, an unconditional one goes on.

use stos_sys::seccomp::Instruction;

use super::decisions::{Clause, Decision, ranges};
use super::profile::{Condition, Operator, Profile, answer};

// Opcodes of linux/bpf_common.h, composed: class | size or operation | mode or source.
pub(super) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(super) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(super) const JUMP_GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// struct seccomp_data of linux/seccomp.h: nr, arch, instruction_pointer, args[6].
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

type Code = Vec<Instruction>;

fn plain(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

/// Makes the program of a profile. It may be longer than the kernel takes.
pub(super) fn compile(profile: &Profile) -> Code {
    let mut audits: Vec<_> = profile.abis.iter().map(|abi| abi.audit()).collect();
    audits.dedup();
    let mut program = vec![plain(LOAD, ARCHITECTURE)];
    for audit in audits {
        let ranges = ranges(profile, audit);
        let mut section = vec![plain(LOAD, NUMBER)];
        section.extend(search(&ranges, profile.default));
        program.extend(unless(JUMP_EQUAL, audit, false, section.len()));
        program.extend(section);
    }
    // A call of an architecture that is not meant to be there: as libseccomp answers it.
    program.push(plain(RETURN, answer::KILL_THREAD));
    program
}

/// Jumps over the next `length` instructions where the comparison gives `skips_if`.
fn unless(code: u16, operand: u32, skips_if: bool, length: usize) -> Code {
    match (u8::try_from(length), skips_if) {
        (Ok(jump_true), true) => vec![Instruction { code, jump_true, jump_false: 0, operand }],
        (Ok(jump_false), false) => vec![Instruction { code, jump_true: 0, jump_false, operand }],
        (Err(_), skips_if) => {
            let (jump_true, jump_false) = if skips_if { (0, 1) } else { (1, 0) };
            // A program of that length is refused when it is made into a filter.
            let far = u32::try_from(length).unwrap_or(u32::MAX);
            vec![Instruction { code, jump_true, jump_false, operand }, plain(JUMP, far)]
        }
    }
}

/// Finds the decision for the number in the accumulator. Every path through it ends in an answer.
fn search(ranges: &[(u32, Decision)], default: u32) -> Code {
    match ranges {
        [] => vec![plain(RETURN, default)],
        [(_, Decision::Always(answer))] => vec![plain(RETURN, *answer)],
        [(_, Decision::When(clauses))] => {
            let mut code: Code = clauses.iter().flat_map(compare_all).collect();
            code.push(plain(RETURN, default));
            code
        }
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let below = search(low, default);
            let mut code = unless(JUMP_GREATER_OR_EQUAL, high[0].0, true, below.len());
            code.extend(below);
            code.extend(search(high, default));
            code
        }
    }
}

/// Where an instruction of a comparison goes on.
#[derive(Clone, Copy)]
enum Next {
    /// With the next one.
    Instruction,
    /// The condition holds.
    Holds,
    /// It does not, and so neither does its clause.
    Fails,
}

type Step = (u16, u32, Next, Next);

/// Answers where all conditions of `clause` hold, else goes on behind.
///
/// At most six conditions of six steps: every jump is short.
fn compare_all(clause: &Clause) -> Code {
    let conditions: Vec<Vec<Step>> = clause.conditions.iter().map(|it| compare(it, clause.is_wide)).collect();
    let length: usize = conditions.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Code::with_capacity(length);
    for steps in conditions {
        let end = code.len() + steps.len();
        for (opcode, operand, if_true, if_false) in steps {
            let at = code.len() + 1;
            let distance = |next| match next {
                Next::Instruction => 0,
                Next::Holds => u8::try_from(end - at).unwrap_or(u8::MAX),
                Next::Fails => u8::try_from(length - at).unwrap_or(u8::MAX),
            };
            let (jump_true, jump_false) = (distance(if_true), distance(if_false));
            code.push(Instruction { code: opcode, jump_true, jump_false, operand });
        }
    }
    code.push(plain(RETURN, clause.answer));
    code
}

/// The steps of one comparison; it holds where they end.
fn compare(condition: &Condition, is_wide: bool) -> Vec<Step> {
    use Next::{Fails, Holds, Instruction as On};
    let place = ARGUMENTS + 8 * u32::from(condition.argument);
    let halves = |value: u64| (value as u32, (value >> 32) as u32);
    let (low, high) = halves(condition.value);
    // Little-endian, as all architectures of the table are.
    let (load_low, load_high) = ((LOAD, place, On, On), (LOAD, place + 4, On, On));
    let mut steps = Vec::with_capacity(6);
    let ordered = |steps: &mut Vec<Step>, greater: Next, less: Next| {
        if is_wide {
            steps.extend([load_high, (JUMP_GREATER, high, greater, On), (JUMP_EQUAL, high, On, less)]);
        }
        steps.push(load_low);
    };
    match condition.operator {
        Operator::Equal => {
            if is_wide {
                steps.extend([load_high, (JUMP_EQUAL, high, On, Fails)]);
            }
            steps.extend([load_low, (JUMP_EQUAL, low, On, Fails)]);
        }
        Operator::NotEqual => {
            if is_wide {
                steps.extend([load_high, (JUMP_EQUAL, high, On, Holds)]);
            }
            steps.extend([load_low, (JUMP_EQUAL, low, Fails, On)]);
        }
        Operator::Greater => {
            ordered(&mut steps, Holds, Fails);
            steps.push((JUMP_GREATER, low, On, Fails));
        }
        Operator::GreaterOrEqual => {
            ordered(&mut steps, Holds, Fails);
            steps.push((JUMP_GREATER_OR_EQUAL, low, On, Fails));
        }
        Operator::Less => {
            ordered(&mut steps, Fails, Holds);
            steps.push((JUMP_GREATER_OR_EQUAL, low, Fails, On));
        }
        Operator::LessOrEqual => {
            ordered(&mut steps, Fails, Holds);
            steps.push((JUMP_GREATER, low, Fails, On));
        }
        Operator::Masked(mask) => {
            let (low_mask, high_mask) = halves(mask);
            if is_wide && high_mask != 0 {
                steps.extend([load_high, (AND, high_mask, On, On), (JUMP_EQUAL, high, On, Fails)]);
            }
            if low_mask != 0 {
                steps.extend([load_low, (AND, low_mask, On, On), (JUMP_EQUAL, low, On, Fails)]);
            }
        }
    }
    steps
}
