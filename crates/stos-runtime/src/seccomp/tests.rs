// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compiled filters, run as the kernel runs them, against what the profile says.

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};
use stos_sys::seccomp::{Instruction, flag};
use stos_testkit::guard::Need;
use stos_testkit::require;

use super::compile::{AND, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD, RETURN};
use super::profile::{Abi, answer};
use super::syscalls::{TABLE, X32_BIT, number};
use super::{Filter, MAX_INSTRUCTIONS, features};
use crate::config::ConfigError;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ENOSYS: u32 = answer::ERRNO | 38;
const EPERM: u32 = answer::ERRNO | 1;

/// A system call, as a filter sees it.
#[derive(Debug, Clone, Copy)]
struct Call {
    audit: u32,
    number: u32,
    args: [u64; 6],
}

/// Runs a program as the kernel would, with the few instructions that the compiler uses.
fn run(program: &[Instruction], call: Call) -> u32 {
    let mut data = [0_u8; 64];
    data[..4].copy_from_slice(&call.number.to_le_bytes());
    data[4..8].copy_from_slice(&call.audit.to_le_bytes());
    for (at, arg) in call.args.iter().enumerate() {
        data[16 + 8 * at..24 + 8 * at].copy_from_slice(&arg.to_le_bytes());
    }
    let (mut accumulator, mut at) = (0, 0);
    loop {
        // Jumps only go forward: this ends, or leaves the program and panics.
        let Instruction { code, jump_true, jump_false, operand } = program[at];
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { jump_true } else { jump_false });
        match code {
            LOAD => {
                let from = operand as usize;
                assert_eq!(from % 4, 0);
                accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            }
            AND => accumulator &= operand,
            JUMP => at += operand as usize,
            JUMP_EQUAL => jump(accumulator == operand),
            JUMP_GREATER => jump(accumulator > operand),
            JUMP_GREATER_OR_EQUAL => jump(accumulator >= operand),
            RETURN => return operand,
            other => panic!("{other:#x}"),
        }
    }
}

fn parsed(profile: &Value) -> LinuxSeccomp {
    serde_json::from_value(profile.clone()).unwrap()
}

fn filter(profile: &Value) -> Filter {
    Filter::of(&parsed(profile)).unwrap()
}

fn refusal(profile: &Value) -> String {
    match Filter::of(&parsed(profile)) {
        Ok(_) => "taken".to_owned(),
        Err(ConfigError::Invalid { name, expected, .. }) => format!("{name}: {expected}"),
        Err(other) => other.to_string(),
    }
}

fn ask(filter: &Filter, name: &str, args: &[u64]) -> u32 {
    on(filter, Abi::X86_64, name, args)
}

pub(super) fn on(filter: &Filter, abi: Abi, name: &str, args: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    run(&filter.program, Call { audit: abi.audit(), number: number(name, abi).unwrap(), args: all })
}

/// A stream of numbers that is the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Values that meet: small ones, and those around the limits of both halves.
    fn value(&mut self) -> u64 {
        let edges = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, (1 << 32) + 1, u64::MAX - 1, u64::MAX];
        match self.below(4) {
            0 => self.next(),
            _ => self.one(&edges),
        }
    }
}

const ACTIONS: [(&str, u32); 7] = [
    ("SCMP_ACT_KILL", answer::KILL_THREAD),
    ("SCMP_ACT_KILL_PROCESS", answer::KILL_PROCESS),
    ("SCMP_ACT_TRAP", answer::TRAP),
    ("SCMP_ACT_ERRNO", answer::ERRNO),
    ("SCMP_ACT_TRACE", answer::TRACE),
    ("SCMP_ACT_LOG", answer::LOG),
    ("SCMP_ACT_ALLOW", answer::ALLOW),
];

const OPERATORS: [&str; 7] = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];

/// Names that i386 has no second way to call.
fn plain_names() -> Vec<&'static str> {
    let multiplexed = |name: &str| {
        ["sock", "sem", "msg", "shm", "send", "recv", "accept", "ipc"].iter().any(|part| name.starts_with(part))
            || ["bind", "connect", "listen", "getsockname", "getpeername", "shutdown", "setsockopt", "getsockopt"]
                .contains(&name)
    };
    TABLE.iter().map(|(name, _)| *name).filter(|name| !multiplexed(name)).collect()
}

fn random_profile(random: &mut Random) -> Value {
    let names = plain_names();
    // Few names in some profiles, so that rules meet in one call.
    let pool: Vec<_> = (0..random.one(&[3, 40, 400])).map(|_| random.one(&names)).collect();
    let with_errno = |random: &mut Random, action: &str, entry: &mut Value, key: &str| {
        if matches!(action, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE") && random.below(2) == 0 {
            entry[key] = json!(random.below(100));
        }
    };
    let syscalls: Vec<Value> = (0..random.below(30))
        .map(|_| {
            let names: Vec<_> = (0..=random.below(20)).map(|_| random.one(&pool)).collect();
            let (action, _) = random.one(&ACTIONS);
            let count = [0, 0, 1, 2, 3, 6][random.below(6)];
            let args: Vec<_> = (0..count)
                .map(|place| {
                    // Now and then one argument is named twice.
                    let index = if random.below(10) == 0 { 0 } else { place };
                    let op = format!("SCMP_CMP_{}", random.one(&OPERATORS));
                    json!({"index": index, "value": random.value(), "valueTwo": random.value(), "op": op})
                })
                .collect();
            let mut entry = json!({"names": names, "action": action, "args": args});
            with_errno(random, action, &mut entry, "errnoRet");
            entry
        })
        .collect();
    let (action, _) = random.one(&ACTIONS);
    let architectures = random.one(&[
        &[][..],
        &["SCMP_ARCH_X86_64"],
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        &["SCMP_ARCH_X32"],
    ]);
    let mut profile = json!({"defaultAction": action, "architectures": architectures, "syscalls": syscalls});
    with_errno(random, action, &mut profile, "defaultErrnoRet");
    profile
}

/// What the profile's own words say of a call, by going through them one after the other.
fn model(profile: &Value, native: Abi, call: Call) -> u32 {
    let action = |entry: &Value, key: &str, errno: &str| {
        let (_, found) = ACTIONS.iter().find(|(name, _)| entry[key] == json!(name)).unwrap();
        let data = entry.get(errno).map_or(1, |errno| errno.as_u64().unwrap() as u32);
        if matches!(*found, answer::ERRNO | answer::TRACE) { found | data } else { *found }
    };
    let default = action(profile, "defaultAction", "defaultErrnoRet");
    let listed = |name: &str| profile["architectures"].as_array().unwrap().contains(&json!(name));
    let abi = match call.audit {
        X86_64 if call.number >= X32_BIT && !listed("SCMP_ARCH_X32") => {
            let nothing = native == Abi::X86_64 && call.number == u32::MAX;
            return if nothing { default } else { answer::KILL_THREAD };
        }
        X86_64 if call.number >= X32_BIT => Abi::X32,
        X86_64 if native == Abi::X86_64 || listed("SCMP_ARCH_X86_64") => Abi::X86_64,
        I386 if listed("SCMP_ARCH_X86") => Abi::X86,
        audit if audit == Abi::Aarch64.audit() && (native == Abi::Aarch64 || listed("SCMP_ARCH_AARCH64")) => {
            Abi::Aarch64
        }
        audit if audit == Abi::Arm.audit() && listed("SCMP_ARCH_ARM") => Abi::Arm,
        _ => return answer::KILL_THREAD,
    };
    let entries = profile["syscalls"].as_array().unwrap();
    let names = |entry: &Value| -> Vec<String> { serde_json::from_value(entry["names"].clone()).unwrap() };
    let highest = entries.iter().flat_map(&names).filter_map(|name| number(&name, abi)).max();
    let strict =
        !["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"].map(Value::from).contains(&profile["defaultAction"]);
    if highest.is_some_and(|highest| strict && call.number > highest) {
        return ENOSYS;
    }
    let about: Vec<_> = entries
        .iter()
        .filter(|entry| names(entry).iter().any(|name| number(name, abi) == Some(call.number)))
        .map(|entry| (entry["args"].as_array().unwrap(), action(entry, "action", "errnoRet")))
        .filter(|(_, action)| *action != default)
        .collect();
    if let Some((_, action)) = about.iter().find(|(args, _)| args.is_empty()) {
        return *action;
    }
    let holds = |arg: &Value| {
        let cut = |value: u64| if matches!(abi, Abi::X86_64 | Abi::Aarch64) { value } else { value & 0xffff_ffff };
        let number = |key: &str| cut(arg[key].as_u64().unwrap());
        let (given, value, two) =
            (cut(call.args[arg["index"].as_u64().unwrap() as usize]), number("value"), number("valueTwo"));
        match arg["op"].as_str().unwrap().trim_start_matches("SCMP_CMP_") {
            "EQ" => given == value,
            "NE" => given != value,
            "LT" => given < value,
            "LE" => given <= value,
            "GT" => given > value,
            "GE" => given >= value,
            "MASKED_EQ" => given & value == two & value,
            other => panic!("{other}"),
        }
    };
    let matches = |args: &Vec<Value>| {
        let twice = (0..6).any(|place| args.iter().filter(|arg| arg["index"] == json!(place)).count() > 1);
        if twice { args.iter().any(holds) } else { args.iter().all(holds) }
    };
    about.iter().find(|(args, _)| matches(args)).map_or(default, |(_, action)| *action)
}

#[test]
fn filters_do_what_their_profiles_say() {
    let native = if cfg!(target_arch = "aarch64") { Abi::Aarch64 } else { Abi::X86_64 };
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    let mut answers = std::collections::BTreeMap::<u32, u32>::new();
    for _ in 0..200 {
        let profile = random_profile(&mut random);
        let filter = match Filter::of(&parsed(&profile)) {
            Ok(filter) => filter,
            Err(ConfigError::Invalid { name, .. }) if name == "linux.seccomp.syscalls" => continue,
            Err(other) => panic!("{other}"),
        };
        for _ in 0..100 {
            let abi = random.one(&Abi::ALL);
            let named = profile["syscalls"].as_array().unwrap();
            let number = match random.below(8) {
                0 => random.next() as u32,
                1 => random.one(&[u32::MAX, X32_BIT, X32_BIT - 1, 469, 470, 1000]),
                2 => random.below(600) as u32,
                // Most calls are ones that the profile names.
                _ if !named.is_empty() => {
                    let names = named[random.below(named.len())]["names"].as_array().unwrap();
                    number(names[random.below(names.len())].as_str().unwrap(), abi).unwrap_or(0)
                }
                _ => number(TABLE[random.below(TABLE.len())].0, abi).unwrap_or(0),
            };
            let audit = if random.below(20) == 0 { random.next() as u32 } else { abi.audit() };
            let call = Call { audit, number, args: std::array::from_fn(|_| random.value()) };
            let expected = model(&profile, native, call);
            assert_eq!(run(&filter.program, call), expected, "{call:x?}\n{profile}");
            *answers.entry(expected & answer::ACTION).or_default() += 1;
        }
    }
    // The calls were not all of one kind.
    assert!(ACTIONS.iter().all(|(_, action)| answers.get(action).is_some_and(|count| *count > 100)), "{answers:x?}");
}

#[test]
fn halves_of_64_bits_are_compared_in_order() {
    let two = 0x0000_0002_0000_0002_u64;
    let around = [0, 1, 2, 3, 0x1_0000_0003, two - 1, two, two + 1, 0x3_0000_0000, u64::MAX];
    for (op, holds) in [
        ("EQ", (|a, b| a == b) as fn(u64, u64) -> bool),
        ("NE", |a, b| a != b),
        ("LT", |a, b| a < b),
        ("LE", |a, b| a <= b),
        ("GT", |a, b| a > b),
        ("GE", |a, b| a >= b),
    ] {
        let args = json!([{"index": 5, "value": two, "op": format!("SCMP_CMP_{op}")}]);
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mmap"], "action": "SCMP_ACT_ERRNO", "args": args}],
        });
        let filter = filter(&profile);
        for given in around {
            let expected = if holds(given, two) { EPERM } else { answer::ALLOW };
            assert_eq!(ask(&filter, "mmap", &[0, 0, 0, 0, 0, given]), expected, "{given:#x} {op}");
        }
    }
}

#[test]
fn calls_through_a_multiplexer_follow_the_rules_of_the_call() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["accept", "shmat"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]},
        ],
    });
    let denies = filter(&profile);
    let ask = |filter: &Filter, name: &str, args: &[u64]| on(filter, Abi::X86, name, args);
    assert_eq!(ask(&denies, "socketcall", &[5]), EPERM);
    assert_eq!(ask(&denies, "socketcall", &[4]), answer::ALLOW);
    assert_eq!(ask(&denies, "ipc", &[21]), EPERM);
    assert_eq!(ask(&denies, "ipc", &[1 << 16 | 21]), EPERM, "another version of the call");
    assert_eq!(ask(&denies, "socket", &[2]), answer::ALLOW);
    assert_eq!(ask(&denies, "socketcall", &[1, 0xffff_0000]), answer::ERRNO | 97, "its family cannot be seen");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["bind"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
        ],
    });
    let allows = filter(&profile);
    assert_eq!(ask(&allows, "socketcall", &[2]), answer::ALLOW);
    assert_eq!(ask(&allows, "socketcall", &[1]), EPERM, "its family cannot be seen");
    assert_eq!(ask(&allows, "socket", &[2]), answer::ALLOW);
}

/// Where Debian has podman's own profile (golang-github-containers-common).
pub(super) const PODMAN: &str = "/usr/share/containers/seccomp.json";

/// That profile, reduced to what an engine hands to a runtime.
pub(super) fn profile_of_podman() -> Value {
    let mut profile: Value = serde_json::from_slice(&std::fs::read(PODMAN).unwrap()).unwrap();
    let keep = |entry: &Value| {
        let named = |key: &str| entry["includes"][key].as_array().is_some_and(|list| !list.is_empty());
        !named("caps") && (!named("arches") || entry["includes"]["arches"].to_string().contains("amd64"))
    };
    let entries: Vec<_> = profile["syscalls"].as_array().unwrap().iter().filter(|it| keep(it)).cloned().collect();
    profile["syscalls"] = entries.into();
    profile["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    profile
}

#[test]
fn the_profile_of_podman_compiles_small() {
    require!(Need::Condition(std::path::Path::new(PODMAN).exists(), "podman's seccomp.json"));
    let filter = filter(&profile_of_podman());
    // libseccomp makes about three times as many of it.
    assert!(filter.program.len() < 700, "{}", filter.program.len());
    assert_eq!(filter.flags, flag::SPEC_ALLOW);
    for (name, expected) in [("read", answer::ALLOW), ("openat2", answer::ALLOW), ("kexec_load", EPERM)] {
        assert_eq!(ask(&filter, name, &[]), expected, "{name}");
    }
    assert_eq!(ask(&filter, "personality", &[8]), answer::ALLOW);
    assert_eq!(ask(&filter, "personality", &[9]), ENOSYS);
    assert_eq!(ask(&filter, "socket", &[16, 3, 9]), answer::ERRNO | 22);
    assert_eq!(ask(&filter, "socket", &[2, 1, 6]), answer::ALLOW);
    assert_eq!(ask(&filter, "file_setattr", &[]), ENOSYS);
    // Seven comparisons and what is before them: a call costs no more than that.
    let deepest = (0..600).map(|number| steps(&filter.program, X86_64, number)).max();
    assert!(deepest.unwrap() < 24, "{deepest:?}");
}

/// How many instructions a call takes whose arguments are all 0.
fn steps(program: &[Instruction], audit: u32, number: u32) -> usize {
    let (mut accumulator, mut at, mut count) = (0, 0, 0);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program[at];
        (at, count) = (at + 1, count + 1);
        let holds = match code {
            LOAD => {
                accumulator = [number, audit].get(operand as usize / 4).copied().unwrap_or(0);
                continue;
            }
            AND => {
                accumulator &= operand;
                continue;
            }
            JUMP => {
                at += operand as usize;
                continue;
            }
            JUMP_EQUAL => accumulator == operand,
            JUMP_GREATER => accumulator > operand,
            JUMP_GREATER_OR_EQUAL => accumulator >= operand,
            _ => return count,
        };
        at += usize::from(if holds { jump_true } else { jump_false });
    }
}

#[test]
fn what_a_profile_may_not_say_is_refused_by_name() {
    let with = |key: &str, value: Value| {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        profile[key] = value;
        refusal(&profile)
    };
    let entry = |entry: Value| with("syscalls", json!([entry]));
    assert_eq!(
        with("architectures", json!(["SCMP_ARCH_S390X"])),
        "config.json: linux.seccomp.architectures SCMP_ARCH_S390X is not supported"
    );
    assert!(with("defaultErrnoRet", json!(1)).starts_with("linux.seccomp.defaultErrnoRet: none"));
    assert!(entry(json!({"names": [], "action": "SCMP_ACT_LOG"})).starts_with("linux.seccomp.syscalls[0].names"));
    assert!(entry(json!({"names": [""], "action": "SCMP_ACT_LOG"})).starts_with("linux.seccomp.syscalls[0].names"));
    let errno = json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096});
    assert_eq!(entry(errno), "linux.seccomp.syscalls[0].errnoRet: 0 to 4095");
    let log = json!({"names": ["read"], "action": "SCMP_ACT_LOG", "errnoRet": 1});
    assert!(entry(log).starts_with("linux.seccomp.syscalls[0].errnoRet: none"));
    let args = json!([{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]);
    let place = json!({"names": ["read"], "action": "SCMP_ACT_LOG", "args": args});
    assert_eq!(entry(place), "linux.seccomp.syscalls[0].args: an index from 0 to 5");
    assert!(with("listenerMetadata", json!("x")).starts_with("linux.seccomp.listenerMetadata"));
    let notify = json!({"defaultAction": "SCMP_ACT_NOTIFY"});
    assert!(refusal(&notify).starts_with("linux.seccomp.listenerPath: a path"));
    let notify = json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "agent"});
    assert!(refusal(&notify).starts_with("linux.seccomp.listenerPath: an absolute path"));
}

#[test]
fn a_program_that_is_too_long_is_refused() {
    let args: Vec<_> = (0..6).map(|at| json!({"index": at, "value": 1, "op": "SCMP_CMP_LE"})).collect();
    let entry = json!({"names": ["mmap"], "action": "SCMP_ACT_ALLOW", "args": args});
    let profile = |count: usize| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": vec![entry.clone(); count]});
    assert!(filter(&profile(100)).program.len() < MAX_INSTRUCTIONS);
    assert!(refusal(&profile(200)).starts_with("linux.seccomp.syscalls: rules that fit"));
}

#[test]
fn flags_are_those_of_the_kernel() {
    let with = |flags: Value, notifies: bool| {
        let default = if notifies { "SCMP_ACT_NOTIFY" } else { "SCMP_ACT_ALLOW" };
        let mut profile = json!({"defaultAction": default, "listenerPath": "/run/agent"});
        profile["flags"] = flags;
        filter(&profile).flags
    };
    assert_eq!(with(Value::Null, false), flag::SPEC_ALLOW);
    assert_eq!(with(json!([]), false), 0);
    assert_eq!(with(json!([]), true), flag::NEW_LISTENER);
    assert_eq!(with(json!(["SECCOMP_FILTER_FLAG_LOG"]), false), flag::LOG);
    let wait = json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
    assert_eq!(with(wait.clone(), false), flag::TSYNC);
    let all = flag::TSYNC | flag::TSYNC_ESRCH | flag::WAIT_KILLABLE_RECV | flag::NEW_LISTENER;
    assert_eq!(with(wait, true), all);
}

#[test]
fn features_are_what_profiles_may_say() {
    let features = features();
    for action in features.actions {
        let profile = json!({"defaultAction": action, "listenerPath": "/run/agent"});
        assert_eq!(refusal(&profile), "taken", "{action}");
    }
    for arch in features.archs {
        assert_eq!(refusal(&json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch]})), "taken", "{arch}");
    }
    for flag in &features.known_flags {
        assert_eq!(refusal(&json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [flag]})), "taken", "{flag}");
    }
    for operator in features.operators {
        let args = json!([{"index": 0, "value": 1, "op": operator}]);
        let entry = json!({"names": ["read"], "action": "SCMP_ACT_LOG", "args": args});
        assert_eq!(refusal(&json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry]})), "taken", "{operator}");
    }
    assert!(features.supported_flags.contains(&"SECCOMP_FILTER_FLAG_LOG"));
    assert!(features.supported_flags.iter().all(|flag| features.known_flags.contains(flag)));
}
