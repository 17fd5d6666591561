// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From names to numbers: what a filter answers to each call of each architecture.
//!
//! Where rules meet in one call, it is as libseccomp has it (`db_rule_add` of its `db.c`): a rule without conditions counts before
//! all that have some, wherever it stands. Of several without conditions the first counts, and so it is with conditions.
//! A rule with the default answer is no rule, and a name that an architecture does not have is none there: so has runc it.

use std::collections::BTreeMap;

use super::profile::{Abi, Condition, Operator, Profile, Rule, answer};
use super::syscalls::X32_BIT;

/// What the filter answers to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// This, whatever the arguments.
    Always(u32),
    /// What the first clause that holds says; the default where none does.
    When(Vec<Clause>),
}

/// Conditions of which all must hold, and the answer then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clause {
    pub conditions: Vec<Condition>,
    pub answer: u32,
    /// Whether the arguments have 64 bits.
    pub is_wide: bool,
}

/// Decisions for all numbers: each counts from its number up to the next one's. The first number is 0, and neighbours differ.
pub(super) type Ranges = Vec<(u32, Decision)>;

/// The decisions for the architecture that the kernel calls `audit`: of one ABI, or of x86_64 and x32.
pub(super) fn ranges(profile: &Profile, audit: u32) -> Ranges {
    let mut ranges = Ranges::new();
    let mut push = |from: u32, decision: Decision| {
        // What was decided last holds from there on.
        ranges.pop_if(|(last, _)| *last == from);
        if ranges.last().is_none_or(|(_, same)| *same != decision) {
            ranges.push((from, decision));
        }
    };
    let has_x32 = profile.abis.contains(&Abi::X32);
    for abi in profile.abis.iter().copied().filter(|abi| abi.audit() == audit) {
        let (calls, highest) = calls(profile, abi);
        let base = if abi == Abi::X32 { X32_BIT } else { 0 };
        push(base, Decision::Always(profile.default));
        for (number, decision) in calls {
            push(number, decision);
            push(number + 1, Decision::Always(profile.default));
        }
        if let Some(highest) = highest.filter(|_| denies(profile.default)) {
            push(highest + 1, Decision::Always(answer::NO_SUCH_CALL));
        }
        if abi == Abi::X86_64 && !has_x32 {
            push(X32_BIT, Decision::Always(answer::KILL_THREAD));
            // What a tracer puts in place of a call that is not to be made: no call at all, and no x32 one.
            push(u32::MAX, Decision::Always(profile.default));
        }
    }
    ranges
}

/// Whether calls that are newer than the profile get ENOSYS in place of its default answer, so that programs fall back to
/// older ones: as runc has it (`libcontainer/seccomp/patchbpf`). A tracer and a log see them as they are.
fn denies(default: u32) -> bool {
    !matches!(default & answer::ACTION, answer::ALLOW | answer::LOG | answer::TRACE)
}

/// The calls that rules are about, and the highest number that any rule names.
fn calls(profile: &Profile, abi: Abi) -> (BTreeMap<u32, Decision>, Option<u32>) {
    let mut calls = BTreeMap::new();
    let mut highest = None;
    for rule in &profile.rules {
        for call in &rule.calls {
            let found = call.number(abi);
            highest = highest.max(found);
            if rule.answer == profile.default {
                continue;
            }
            if let Some(found) = found {
                add(&mut calls, found, rule, abi);
            }
            if abi == Abi::X86 {
                add_multiplexed(&mut calls, call.name(), rule, profile.default);
            }
        }
    }
    (calls, highest)
}

fn add(calls: &mut BTreeMap<u32, Decision>, number: u32, rule: &Rule, abi: Abi) {
    if rule.alternatives.is_empty() {
        match calls.get(&number) {
            Some(Decision::Always(_)) => {}
            _ => drop(calls.insert(number, Decision::Always(rule.answer))),
        }
    }
    for conditions in &rule.alternatives {
        let clause = Clause { conditions: conditions.clone(), answer: rule.answer, is_wide: abi.is_wide() };
        add_clause(calls, number, clause);
    }
}

fn add_clause(calls: &mut BTreeMap<u32, Decision>, number: u32, clause: Clause) {
    if let Decision::When(clauses) = calls.entry(number).or_insert_with(|| Decision::When(Vec::new())) {
        clauses.push(clause);
    }
}

/// On i386 many calls can also be made through socketcall(2) and ipc(2), with their number there as the first argument.
///
/// Their other arguments are behind a pointer, where no filter sees them. Of a rule with conditions only one that is stricter
/// than the default counts here, and for all such calls: what cannot be looked at is not let through.
fn add_multiplexed(calls: &mut BTreeMap<u32, Decision>, name: &str, rule: &Rule, default: u32) {
    let strictness = |answer: u32| (answer & answer::ACTION).cast_signed();
    if !rule.alternatives.is_empty() && strictness(rule.answer) >= strictness(default) {
        return;
    }
    let Ok(found) = MULTIPLEXED.binary_search_by_key(&name, |(known, _, _)| known) else { return };
    let (_, multiplexer, place) = MULTIPLEXED[found];
    // ipc(2) has a version in the high half, which the kernel cuts off.
    let condition = Condition { argument: 0, operator: Operator::Masked(0xffff), value: place };
    add_clause(calls, multiplexer, Clause { conditions: vec![condition], answer: rule.answer, is_wide: false });
}

/// Numbers of i386.
const SOCKETCALL: u32 = 102;
const IPC: u32 = 117;

/// Calls that i386 can make through another one, which that is, and their number there: `SYS_*` of linux/net.h, and those of
/// linux/ipc.h. Sorted by name.
#[rustfmt::skip]
const MULTIPLEXED: [(&str, u32, u64); 32] = [
    ("accept", SOCKETCALL, 5),
    ("accept4", SOCKETCALL, 18),
    ("bind", SOCKETCALL, 2),
    ("connect", SOCKETCALL, 3),
    ("getpeername", SOCKETCALL, 7),
    ("getsockname", SOCKETCALL, 6),
    ("getsockopt", SOCKETCALL, 15),
    ("listen", SOCKETCALL, 4),
    ("msgctl", IPC, 14),
    ("msgget", IPC, 13),
    ("msgrcv", IPC, 12),
    ("msgsnd", IPC, 11),
    ("recv", SOCKETCALL, 10),
    ("recvfrom", SOCKETCALL, 12),
    ("recvmmsg", SOCKETCALL, 19),
    ("recvmsg", SOCKETCALL, 17),
    ("semctl", IPC, 3),
    ("semget", IPC, 2),
    ("semop", IPC, 1),
    ("semtimedop", IPC, 4),
    ("send", SOCKETCALL, 9),
    ("sendmmsg", SOCKETCALL, 20),
    ("sendmsg", SOCKETCALL, 16),
    ("sendto", SOCKETCALL, 11),
    ("setsockopt", SOCKETCALL, 14),
    ("shmat", IPC, 21),
    ("shmctl", IPC, 24),
    ("shmdt", IPC, 22),
    ("shmget", IPC, 23),
    ("shutdown", SOCKETCALL, 13),
    ("socket", SOCKETCALL, 1),
    ("socketpair", SOCKETCALL, 8),
];

#[cfg(test)]
mod tests {
    use super::super::syscalls::number;
    use super::*;

    #[test]
    fn multiplexed_calls_are_sorted_and_known() {
        assert!(MULTIPLEXED.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(MULTIPLEXED.iter().all(|(name, ..)| Abi::ALL.iter().any(|abi| number(name, *abi).is_some())));
        assert_eq!((number("socketcall", Abi::X86), number("ipc", Abi::X86)), (Some(SOCKETCALL), Some(IPC)));
    }
}
