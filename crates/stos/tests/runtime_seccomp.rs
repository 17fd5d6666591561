// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `linux.seccomp` by runc's command line: what a container's calls are answered.
//!
//! The containers run a program that each test assembles: it makes the calls it is told and prints what they gave, and nothing
//! else, so a profile may deny whatever else there is.

mod runtime_scene;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use runtime_scene::{Bundle, Output, Runtime};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::require;

const X86_64: Need<'static> = Need::Condition(
    cfg!(target_arch = "x86_64"),
    "an x86_64 machine: the program under the filter is assembled for it",
);

/// What 128 and SIGSYS give.
const BAD_CALL: i32 = 159;

/// Calls that a program may make at any time, whatever their arguments, and that change nothing.
const GETUID: u64 = 102;
const GETGID: u64 = 104;
const GETEUID: u64 = 107;
const GETEGID: u64 = 108;
const GETPPID: u64 = 110;
const GETPGRP: u64 = 111;
const UNSHARE: u64 = 272;
/// A number that no kernel has.
const NEVER: u64 = 0x1000;
const X32_BIT: u64 = 0x4000_0000;

/// A static program for x86_64: makes calls, one after the other, writes what each gave to its standard output as
/// little-endian 64-bit numbers, and exits with 0.
struct Program {
    code: Vec<u8>,
    results: u64,
}

impl Program {
    fn new() -> Self {
        // sub rsp, 4096; mov r12, rsp: where the results go.
        Self { code: vec![0x48, 0x81, 0xec, 0, 0x10, 0, 0, 0x49, 0x89, 0xe4], results: 0 }
    }

    fn syscall(&mut self, number: u64, args: &[u64]) {
        // mov into rdi, rsi, rdx, r10, r8, r9.
        let registers = [[0x48, 0xbf], [0x48, 0xbe], [0x48, 0xba], [0x49, 0xba], [0x49, 0xb8], [0x49, 0xb9]];
        for (register, value) in registers.iter().zip(args.iter().chain(std::iter::repeat(&0))) {
            self.code.extend(register);
            self.code.extend(value.to_le_bytes());
        }
        self.code.extend([0x48, 0xb8]); // mov rax
        self.code.extend(number.to_le_bytes());
        self.code.extend([0x0f, 0x05]);
    }

    fn store(mut self) -> Self {
        // mov [r12], rax; add r12, 8
        self.code.extend([0x49, 0x89, 0x04, 0x24, 0x49, 0x83, 0xc4, 0x08]);
        self.results += 1;
        self
    }

    /// Makes a call.
    fn call(mut self, number: u64, args: &[u64]) -> Self {
        self.syscall(number, args);
        self.store()
    }

    /// Makes a call of i386, whose first argument is `arg`.
    fn call_32(mut self, number: u32, arg: u32) -> Self {
        self.code.push(0xbb); // mov ebx
        self.code.extend(arg.to_le_bytes());
        self.code.push(0xb8); // mov eax
        self.code.extend(number.to_le_bytes());
        self.code.extend([0xcd, 0x80, 0x48, 0x98]); // int 0x80; cdqe
        self.store()
    }

    /// Puts the program into a bundle, as its command.
    fn into(mut self, bundle: &Bundle) {
        const WRITE: u64 = 1;
        const EXIT_GROUP: u64 = 231;
        self.syscall(WRITE, &[1, 0, self.results * 8]);
        // Before the `syscall` of that: mov rsi, rsp.
        let at = self.code.len() - 2;
        self.code.splice(at..at, [0x48, 0x89, 0xe6]);
        self.syscall(EXIT_GROUP, &[0]);
        let size = (120 + self.code.len()) as u64;
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // an executable for x86_64
        for value in [0x40_0078_u64, 64, 0] {
            file.extend(value.to_le_bytes()); // entry, program headers, section headers
        }
        file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
        file.extend([1, 0, 0, 0, 5, 0, 0, 0]); // load, readable and executable
        for value in [0, 0x40_0000, 0x40_0000, size, size, 0x1000] {
            file.extend(value.to_le_bytes());
        }
        file.extend(&self.code);
        let written = bundle.dir.join("calls");
        fs::write(&written, file).unwrap();
        runtime_scene::copy_program(written, bundle.rootfs("calls"));
        fs::set_permissions(bundle.rootfs("calls"), Permissions::from_mode(0o755)).unwrap();
        bundle.set("/process/args", json!(["/calls"]));
    }
}

/// How a program ended, what its calls gave, and what was said besides.
struct Answers {
    code: i32,
    given: Vec<i64>,
    said: String,
}

fn run(runtime: &Runtime, bundle: &Bundle) -> Answers {
    let id = runtime.id("seccomp");
    let ran = runtime.command().args(["run", "--bundle"]).arg(&bundle.dir).arg(id).output().unwrap();
    let given = ran.stdout.chunks_exact(8).map(|number| i64::from_le_bytes(number.try_into().unwrap())).collect();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    Answers { code: ran.status.code().unwrap_or(-1), given, said }
}

/// Runs a program under a profile to its end.
fn run_under(profile: Value, program: Program) -> Answers {
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&[]);
    program.into(&bundle);
    bundle.set("/linux/seccomp", profile);
    run(&runtime, &bundle)
}

#[track_caller]
fn assert_given(answers: &Answers, expected: &[i64]) {
    assert_eq!((answers.code, answers.given.as_slice()), (0, expected), "{}", answers.said);
}

fn allow_but(syscalls: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": syscalls})
}

fn errno(names: &[&str], errno: u32, args: Value) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args})
}

fn arg(index: u32, op: &str, value: u64, two: u64) -> Value {
    json!({"index": index, "op": format!("SCMP_CMP_{op}"), "value": value, "valueTwo": two})
}

#[test]
fn actions_that_a_program_survives() {
    require!(Need::Root, Need::Binary, X86_64);
    let profile = allow_but(json!([
        errno(&["getpgrp", "no_such_call"], 42, json!([])),
        {"names": ["getppid"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["getuid"], "action": "SCMP_ACT_LOG"},
        {"names": ["getgid"], "action": "SCMP_ACT_TRACE"},
        {"names": ["geteuid"], "action": "SCMP_ACT_ALLOW"},
        errno(&["getegid"], 0, json!([])),
    ]));
    let calls = [GETPGRP, GETPPID, GETUID, GETGID, GETEUID, GETEGID, NEVER];
    let program = calls.iter().fold(Program::new(), |program, call| program.call(*call, &[]));
    // EPERM without an errnoRet; without a tracer SCMP_ACT_TRACE is ENOSYS (seccomp(2)).
    assert_given(&run_under(profile, program), &[-42, -1, 0, -38, 0, 0, -38]);
}

#[test]
fn actions_that_end_it() {
    require!(Need::Root, Need::Binary, X86_64);
    for action in ["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP"] {
        let entry = json!([{"names": ["getpgrp"], "action": format!("SCMP_ACT_{action}")}]);
        let answers = run_under(allow_but(entry), Program::new().call(GETPGRP, &[]));
        assert_eq!((answers.code, answers.given.len()), (BAD_CALL, 0), "{action}: {}", answers.said);
    }
}

#[test]
fn arguments_are_compared_as_64_bits() {
    require!(Need::Root, Need::Binary, X86_64);
    let value = 0x2_0000_0002_u64;
    let given = [0, 2, 0x1_0000_0003, value - 1, value, value + 1, 0x3_0000_0000, u64::MAX];
    type Compare = fn(u64, u64) -> bool;
    let operators: [(&str, u64, &str, Compare); 6] = [
        ("getuid", GETUID, "EQ", |a, b| a == b),
        ("getgid", GETGID, "NE", |a, b| a != b),
        ("geteuid", GETEUID, "LT", |a, b| a < b),
        ("getegid", GETEGID, "LE", |a, b| a <= b),
        ("getppid", GETPPID, "GT", |a, b| a > b),
        ("getpgrp", GETPGRP, "GE", |a, b| a >= b),
    ];
    let (mut program, mut expected, mut entries) = (Program::new(), Vec::new(), Vec::new());
    for (name, call, op, holds) in operators {
        entries.push(errno(&[name], 42, json!([arg(3, op, value, 0)])));
        for given in given {
            program = program.call(call, &[7, 7, 7, given]);
            expected.push(holds(given, value));
        }
    }
    let answers = run_under(allow_but(entries.into()), program);
    assert_eq!(answers.code, 0, "{}", answers.said);
    assert_eq!(answers.given.iter().map(|given| *given == -42).collect::<Vec<_>>(), expected);
}

#[test]
fn conditions_join_and_entries_add() {
    require!(Need::Root, Need::Binary, X86_64);
    let new_user = 0x1000_0000;
    let new_files = 0x400;
    let profile = allow_but(json!([
        // All conditions of one entry.
        errno(&["getuid"], 10, json!([arg(0, "EQ", 1, 0), arg(1, "EQ", 2, 0)])),
        // Any entry of one name.
        errno(&["getgid"], 11, json!([arg(0, "EQ", 1, 0)])),
        errno(&["getgid"], 11, json!([arg(0, "EQ", 2, 0)])),
        // Several conditions on one argument could never all hold: any of them.
        errno(&["geteuid"], 12, json!([arg(0, "EQ", 1, 0), arg(0, "EQ", 2, 0)])),
        // A mask, as engines use it for clone(2) and unshare(2).
        errno(&["unshare"], 13, json!([arg(0, "MASKED_EQ", new_user, new_user)])),
        // One without conditions counts before one with, wherever it stands.
        errno(&["getppid"], 14, json!([arg(0, "EQ", 1, 0)])),
        errno(&["getppid"], 15, json!([])),
    ]));
    let program = Program::new()
        .call(GETUID, &[1, 2])
        .call(GETUID, &[1, 3])
        .call(GETUID, &[2, 2])
        .call(GETGID, &[1])
        .call(GETGID, &[2])
        .call(GETGID, &[3])
        .call(GETEUID, &[1])
        .call(GETEUID, &[2])
        .call(GETEUID, &[3])
        .call(UNSHARE, &[new_user | new_files])
        .call(UNSHARE, &[new_files])
        .call(GETPPID, &[1])
        .call(GETPPID, &[2]);
    assert_given(&run_under(profile, program), &[-10, 0, 0, -11, -11, 0, -12, -12, 0, -13, 0, -15, -15]);
}

#[test]
fn what_is_not_on_the_list_is_denied_and_what_is_newer_is_not_there() {
    require!(Need::Root, Need::Binary, X86_64);
    let path = "/usr/share/containers/seccomp.json";
    require!(Need::Condition(fs::exists(path).unwrap(), "podman's seccomp.json (golang-github-containers-common)"));
    let whole: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let names: Vec<_> = whole["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["action"] == "SCMP_ACT_ALLOW" && entry["args"].as_array().is_none_or(Vec::is_empty))
        .filter(|entry| ["{}", r#"{"arches":["amd64","x32"]}"#].contains(&entry["includes"].to_string().as_str()))
        .flat_map(|entry| entry["names"].as_array().unwrap().clone())
        .collect();
    assert!(names.len() > 300, "what every container may call: {}", names.len());
    let profile = |errno: Value| {
        let mut profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
        });
        profile["defaultErrnoRet"] = errno;
        profile
    };
    let kexec_load = 246;
    let program = || Program::new().call(kexec_load, &[]).call(GETUID, &[]);
    assert_given(&run_under(profile(Value::Null), program()), &[-1, 0]);
    assert_given(&run_under(profile(json!(77)), program()), &[-77, 0]);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "mkdir /tmp/x; ls /tmp; cat /proc/self/status; hostname other"]);
    bundle.set("/linux/seccomp", profile(Value::Null));
    let ran = runtime.run_bundle(&bundle, "shell");
    assert!(ran.stdout.starts_with("x\n") && ran.stdout.contains("Seccomp:\t2\n"), "{}{}", ran.stdout, ran.stderr);
    assert_ne!(ran.code, 0, "sethostname is on no list");
    // ENOSYS of what no profile can know yet is how runc does it; crun has the default action there.
    if !runs_with("crun") {
        assert_given(&run_under(profile(Value::Null), Program::new().call(NEVER, &[])), &[-38]);
    }
}

/// Whether the runtime under test is that other one.
fn runs_with(name: &str) -> bool {
    std::env::var("STOS_TEST_RUNTIME").is_ok_and(|path| path.ends_with(name))
}

#[test]
fn the_setup_needs_nothing_of_the_profile() {
    require!(Need::Root, Need::Binary, X86_64);
    let runtime = Runtime::new();
    // Others make calls of their own between the filter and the command.
    if !runtime.is_ours() {
        return;
    }
    for (without, names) in
        [(true, vec!["execve", "write", "exit_group"]), (false, vec!["capset", "execve", "write", "exit_group"])]
    {
        let bundle = runtime.bundle(&[]);
        Program::new().call(GETPGRP, &[]).into(&bundle);
        bundle.set("/process/noNewPrivileges", json!(without));
        let profile = |default: &str| {
            let entries = json!([
                {"names": names, "action": "SCMP_ACT_ALLOW"},
                {"names": ["getpgrp"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42},
            ]);
            json!({"defaultAction": default, "syscalls": entries})
        };
        bundle.set("/linux/seccomp", profile("SCMP_ACT_KILL_PROCESS"));
        assert_given(&run(&runtime, &bundle), &[-42]);
        let id = runtime.started(&bundle, "created");
        runtime.wait_for(&id, "stopped");
    }
}

#[test]
fn a_filter_without_no_new_privileges_leaves_no_capability_behind() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["cat", "/proc/self/status"]);
    bundle.set("/process/noNewPrivileges", json!(false));
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let capabilities =
        json!({"bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]});
    bundle.set("/process/capabilities", capabilities);
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    let ran = runtime.run_bundle(&bundle, "plain");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let line = |key: &str| ran.stdout.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert_eq!((line("Seccomp:").as_str(), line("NoNewPrivs:").as_str()), ("Seccomp:\t2", "NoNewPrivs:\t0"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(line(set).ends_with("0000000000000000"), "{}", line(set));
    }
    assert!(line("CapBnd").ends_with("0000000000000021"), "{}", line("CapBnd"));
}

#[test]
fn calls_of_other_architectures_have_filters_of_their_own_or_end_the_program() {
    require!(Need::Root, Need::Binary, X86_64);
    let (getpgrp_32, getppid_32) = (65, 64);
    let native = allow_but(json!([]));
    let through_32 = run_under(native.clone(), Program::new().call_32(getpgrp_32, 0));
    assert_eq!((through_32.code, through_32.given.len()), (BAD_CALL, 0), "{}", through_32.said);
    let through_x32 = run_under(native, Program::new().call(X32_BIT | GETPGRP, &[]));
    assert_eq!((through_x32.code, through_x32.given.len()), (BAD_CALL, 0), "{}", through_x32.said);
    let mut all = allow_but(json!([
        errno(&["getpgrp"], 42, json!([])),
        // Of 32-bit arguments only 32 bits are compared.
        errno(&["getppid"], 43, json!([arg(0, "EQ", 0xffff_ffff, 0)])),
    ]));
    all["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    let program = Program::new()
        .call_32(getpgrp_32, 0)
        .call(X32_BIT | GETPGRP, &[])
        .call(GETPGRP, &[])
        .call_32(getppid_32, u32::MAX)
        .call_32(getppid_32, 1);
    assert_given(&run_under(all, program), &[-42, -42, -42, -43, 0]);
}

#[test]
fn flags_are_taken() {
    require!(Need::Root, Need::Binary, X86_64);
    // runc takes flags since 1.2; before, it refuses any.
    let flags_of_all = [
        json!([]),
        json!(["SECCOMP_FILTER_FLAG_LOG"]),
        json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
    ];
    for flags in flags_of_all.into_iter().take(if runs_with("runc") { 1 } else { 3 }) {
        let mut profile = allow_but(json!([errno(&["getpgrp"], 42, json!([]))]));
        profile["flags"] = flags.clone();
        let answers = run_under(profile, Program::new().call(GETPGRP, &[]));
        assert_eq!((answers.code, answers.given), (0, vec![-42]), "{flags}: {}", answers.said);
    }
    let mut profile = allow_but(json!([errno(&["getpgrp"], 42, json!([]))]));
    profile["flags"] = json!(["SECCOMP_FILTER_FLAG_WISHES"]);
    let answers = run_under(profile, Program::new());
    assert_ne!(answers.code, 0);
}

/// An agent: takes one connection on the socket `argv[1]`, answers two notifications with 4242 and with errno 99, and prints
/// what came over the connection.
const AGENT: &str = r#"
import array, fcntl, json, os, socket, struct, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
server.settimeout(120)
print("listening", flush=True)
connection, _ = server.accept()
connection.settimeout(120)
sent, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(16))
state = json.loads(sent)
(level, kind, data), = ancillary
assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
listener, = struct.unpack("i", data)
for value, error in (4242, 0), (0, -99):
    request = bytearray(80)
    fcntl.ioctl(listener, 0xc0502100, request)
    ident, = struct.unpack_from("Q", request)
    fcntl.ioctl(listener, 0xc0182101, bytearray(struct.pack("QqiI", ident, value, error, 0)))
assert connection.recv(1) == b"", "one state a connection"
print(json.dumps(state), flush=True)
"#;

fn notify_profile(socket: &std::path::Path, more: Value) -> Value {
    let mut profile = allow_but(json!([{"names": ["getpgrp"], "action": "SCMP_ACT_NOTIFY"}]));
    profile["listenerPath"] = json!(socket);
    profile["listenerMetadata"] = json!("for the agent");
    for (key, value) in more.as_object().into_iter().flatten() {
        profile[key] = value.clone();
    }
    profile
}

fn answered_by_an_agent(no_new_privileges: bool, in_two_steps: bool, more: Value, change: impl FnOnce(&Bundle)) {
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&[]);
    Program::new().call(GETPGRP, &[]).call(GETPGRP, &[]).into(&bundle);
    let socket = runtime.path("agent.sock");
    bundle.set("/linux/seccomp", notify_profile(&socket, more));
    bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
    bundle.set("/annotations", json!({"a.example/key": "value"}));
    change(&bundle);
    let mut agent = Command::new("python3").args(["-c", AGENT]).arg(&socket).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(agent.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "listening\n");
    let (id, given) = if in_two_steps {
        let id = runtime.started(&bundle, "notify");
        runtime.wait_for(&id, "stopped");
        (id.clone(), fs::read(runtime.path(&format!("{id}.out"))).unwrap())
    } else {
        let id = runtime.id("notify");
        let ran = runtime.command().args(["run", "--bundle"]).arg(&bundle.dir).arg(&id).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        (id, ran.stdout)
    };
    let given: Vec<_> = given.chunks_exact(8).map(|number| i64::from_le_bytes(number.try_into().unwrap())).collect();
    assert_eq!(given, [4242, -99]);
    let said = std::io::read_to_string(said).unwrap();
    assert!(agent.wait().unwrap().success(), "{said}");
    let state: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((&state["fds"], &state["metadata"]), (&json!(["seccompFd"]), &json!("for the agent")));
    // crun 1.8 says 0.2.0, whatever the bundle says.
    let versions = if runs_with("crun") { "0." } else { "1." };
    assert!(
        state["pid"].as_i64().unwrap() > 1 && state["ociVersion"].as_str().unwrap().starts_with(versions),
        "{state}"
    );
    let container = &state["state"];
    assert_eq!((&container["id"], &container["status"]), (&json!(id), &json!("creating")));
    assert_eq!(container["pid"], state["pid"]);
    assert_eq!(container["bundle"], json!(bundle.dir.canonicalize().unwrap()));
    assert_eq!(container["annotations"]["a.example/key"], "value");
}

#[test]
fn an_agent_answers_notifications() {
    require!(Need::Root, Need::Binary, X86_64, Need::Tool("python3"));
    for (no_new_privileges, in_two_steps) in [(true, true), (true, false), (false, true), (false, false)] {
        answered_by_an_agent(no_new_privileges, in_two_steps, json!({}), |_| {});
    }
}

/// Before the container waits, before its hooks, and with limits that leave no room for a file.
#[test]
fn an_agent_answers_whenever_the_filter_is_loaded() {
    require!(Need::Root, Need::Binary, X86_64, Need::Tool("python3"));
    if Runtime::new().is_called("crun") {
        // It writes its filter to a file, under the limit.
        return;
    }
    let limit = json!([{"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0}]);
    answered_by_an_agent(false, false, json!({}), |bundle| {
        bundle.set("/process/rlimits", limit);
    });
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo hooked"]});
    answered_by_an_agent(true, true, json!({}), |bundle| {
        bundle.push("/hooks/startContainer", hook);
    });
    answered_by_an_agent(false, true, json!({}), |bundle| {
        bundle.set("/linux/namespaces", without_pids(bundle));
    });
}

/// The namespaces of a bundle, without one for processes.
fn without_pids(bundle: &Bundle) -> Value {
    let mut namespaces = bundle.config()["linux"]["namespaces"].clone();
    namespaces.as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    namespaces
}

/// Who shares its pid namespace may trace it, for as long as it waits.
#[test]
fn a_created_container_waits_with_what_it_will_have() {
    require!(Need::Root, Need::Binary, X86_64);
    let runtime = Runtime::new();
    if runtime.is_called("crun") {
        // With noNewPrivileges it loads the filter after the wait.
        return;
    }
    let neighbour = runtime.started(&runtime.bundle(&["sh", "-c", "while :; do sleep 1; done"]), "neighbour");
    let joined = json!({"type": "pid", "path": format!("/proc/{}/ns/pid", runtime.state(&neighbour)["pid"])});
    for no_new_privileges in [false, true] {
        for pids in [Some(&joined), None] {
            let bundle = runtime.bundle(&["sh", "-c", "mkdir /made 2>/dev/null || echo denied"]);
            bundle.set("/linux/namespaces", without_pids(&bundle));
            if let Some(joined) = pids {
                bundle.push("/linux/namespaces", joined.clone());
            }
            bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
            bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
            bundle.set("/linux/seccomp", allow_but(json!([errno(&["mkdir", "mkdirat"], 1, json!([]))])));
            let id = runtime.id("waits");
            let created = runtime.create(&bundle, &id);
            assert_eq!(created.code, 0, "{}", created.stderr);
            let status = fs::read_to_string(format!("/proc/{}/status", runtime.state(&id)["pid"])).unwrap();
            let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
            assert_eq!((line("Seccomp:").as_str(), line("Uid:").split('\t').next()), ("2", Some("1000")));
            let permitted = u64::from_str_radix(&line("CapPrm:"), 16).unwrap();
            // CAP_KILL, CAP_NET_BIND_SERVICE, CAP_AUDIT_WRITE.
            assert_eq!(permitted & !0x2000_0420, 0, "{status}");
            runtime.ok(&["start", &id]);
            runtime.wait_for(&id, "stopped");
            assert_eq!(runtime.said(&id), "denied\n");
        }
    }
}

#[test]
fn an_agent_is_reached_whatever_the_profile_denies() {
    require!(Need::Root, Need::Binary, X86_64, Need::Tool("python3"));
    if !Runtime::new().is_ours() {
        return;
    }
    let entries = json!([
        {"names": ["getpgrp"], "action": "SCMP_ACT_NOTIFY"},
        {"names": ["execve", "write", "exit_group"], "action": "SCMP_ACT_ALLOW"},
    ]);
    let flags = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"]);
    let more = json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": entries, "flags": flags});
    answered_by_an_agent(true, true, more, |_| {});
}

#[test]
fn without_an_agent_nothing_runs() {
    require!(Need::Root, Need::Binary, X86_64);
    let runtime = Runtime::new();
    let (missing, refusing) = (runtime.path("missing.sock"), runtime.path("refusing.sock"));
    drop(UnixListener::bind(&refusing).unwrap());
    for socket in [missing, refusing] {
        let bundle = runtime.bundle(&["sh", "-c", "echo it runs"]);
        bundle.set("/linux/seccomp", notify_profile(&socket, json!({})));
        let id = runtime.id("alone");
        let created = runtime.create(&bundle, &id);
        let failed: Output = if created.code == 0 { runtime.run(&["start", &id]) } else { created };
        assert_ne!(failed.code, 0);
        assert!(!runtime.is_ours() || failed.stderr.contains(socket.to_str().unwrap()), "{}", failed.stderr);
        if runtime.run(&["state", &id]).code == 0 {
            runtime.wait_for(&id, "stopped");
        }
        assert_eq!(runtime.said(&id), "");
        assert_ne!(runtime.run_bundle(&bundle, "run").code, 0);
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    // runc takes an errno for any action.
    if !runtime.is_ours() {
        return;
    }
    for (profile, said) in [
        (json!({"defaultAction": "SCMP_ACT_WISH"}), "SCMP_ACT_WISH"),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}),
            "linux.seccomp.architectures SCMP_ARCH_S390X",
        ),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}), "linux.seccomp.defaultErrnoRet"),
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "linux.seccomp.listenerPath"),
    ] {
        let bundle = runtime.bundle(&["sh"]);
        bundle.set("/linux/seccomp", profile);
        let refused = runtime.run_bundle(&bundle, "refused");
        assert_ne!(refused.code, 0);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
}
