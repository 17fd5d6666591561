// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A minimal runtime command line over the library, as the test binary runs it for each step of a test.
//!
//! It speaks the part of runc's that the tests need, and `launch`, which is what the engine does.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stos_runtime::lifecycle::{self, CreateOptions};
use stos_runtime::{
    CgroupRequest, ContainerId, Error, Gate, Identity, Launch, RootSource, RuntimeConfig, StateDirectory, Stdio, launch,
};
use stos_sys::mount::{MountPlan, UpperDirs};
use stos_sys::process::pidfd;

/// Runs one command. `arguments` are those after the marker that tells the test binary to be a runtime.
pub fn run(arguments: &[String]) -> ExitCode {
    if let Err(error) = stos_runtime::protect_binary() {
        return fail(&error);
    }
    match command(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    // Nothing is left to be told where stderr is closed.
    drop(writeln!(std::io::stderr(), "{error}"));
    ExitCode::from(error.exit_code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn command(arguments: &[String]) -> Result<u8, Error> {
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let root = StateDirectory::new(value("--root").unwrap_or("/run/stos-test"));
    let operands: Vec<&str> = operands(arguments);
    let (name, rest) = operands.split_first().expect("a command");
    let id = || rest.first().expect("an id").parse::<ContainerId>();
    let bundle = PathBuf::from(value("--bundle").unwrap_or("."));
    match *name {
        "create" => {
            let pid_file = value("--pid-file").map(Path::new);
            lifecycle::create(&root, &id()?, create_options(&bundle, pid_file))?;
        }
        "start" => lifecycle::start(&root, &id()?)?,
        "run" => return run_attached(&root, &id()?, &bundle),
        "state" => show(&lifecycle::state(&root, &id()?)?),
        "list" => show(&lifecycle::list_bundles(&root, |_| false)?),
        "kill" => {
            let signal = stos_runtime::parse_signal(rest.get(1).copied().unwrap_or("TERM"))?;
            lifecycle::kill(&root, &id()?, signal, has("--all"))?;
        }
        "delete" => lifecycle::delete(&root, &id()?, has("--force"))?,
        "launch" => {
            return launch_attached(
                &id()?,
                &bundle,
                value("--user"),
                value("--upper").map(Path::new),
                value("--pipe").is_some(),
            );
        }
        other => panic!("unknown command {other}"),
    }
    Ok(0)
}

/// What is neither a flag nor a flag's value.
fn operands(arguments: &[String]) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--all" | "--force" => {}
            flag if flag.starts_with("--") => drop(rest.next()),
            operand => found.push(operand),
        }
    }
    found
}

fn show(value: &impl serde::Serialize) {
    let mut text = serde_json::to_string(value).expect("JSON");
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes()).expect("stdout");
}

fn create_options<'a>(bundle: &'a Path, pid_file: Option<&'a Path>) -> CreateOptions<'a> {
    let (console, inherited) = (stos_runtime::Console::None, stos_runtime::Inherited::default());
    CreateOptions {
        bundle,
        pid_file,
        console,
        inherited,
        new_keyring: true,
        pidfd_socket: None,
        notifies: false,
        systemd_cgroup: false,
    }
}

/// create, start, wait, delete, as `run` of any runtime does.
fn run_attached(root: &StateDirectory, id: &ContainerId, bundle: &Path) -> Result<u8, Error> {
    lifecycle::create(root, id, create_options(bundle, None))?;
    let init = root.read(id)?.init.expect("a created container has a first process").open()?;
    let started = lifecycle::start(root, id);
    let code = match (&started, init) {
        (Ok(()), Some(init)) => pidfd::wait(init.as_fd()).expect("wait").code(),
        _ => 1,
    };
    lifecycle::delete(root, id, true)?;
    started.map(|()| u8::try_from(code).unwrap_or(255))
}

/// A launch as the engine does it: no run state, a gate that is open, a root from a plan, a user that is looked up.
fn launch_attached(
    id: &ContainerId,
    bundle: &Path,
    user: Option<&str>,
    upper: Option<&Path>,
    pipe: bool,
) -> Result<u8, Error> {
    let config = RuntimeConfig::load(bundle)?;
    let rootfs = bundle.join("rootfs");
    let user = user.map(|user| user.parse().expect("a user"));
    let plan = upper.map(|upper| MountPlan {
        lowers: vec![rootfs.clone()],
        upper: Some(UpperDirs { upper: upper.join("upper"), work: upper.join("work"), volatile: true }),
        ids: None,
    });
    let duplicate = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().expect("dup");
    let (mut stdio, mut output) = (Stdio::Inherit, None);
    if pipe {
        let (read, write) = std::io::pipe().expect("pipe");
        output = Some(read);
        let (stdout, stderr) = (duplicate(write.as_fd()), duplicate(write.as_fd()));
        stdio = Stdio::Descriptors { stdin: duplicate(std::io::stdin().as_fd()), stdout, stderr };
    }
    let init = launch(Launch {
        id,
        bundle,
        config: &config,
        root: plan.as_ref().map_or(RootSource::Directory(rootfs), RootSource::Plan),
        stdio,
        identity: user.as_ref().map_or(Identity::FromSpec, Identity::LookUp),
        cgroup: CgroupRequest::default(),
        gate: Gate::Open,
        inherited: stos_runtime::Inherited::default(),
        new_keyring: true,
        has_init: false,
        given: &[],
        connect: None,
    })?;
    if let Some(mut output) = output {
        std::io::copy(&mut output, &mut std::io::stdout()).expect("copy");
    }
    let ended = pidfd::wait(init.pidfd.as_fd()).expect("wait");
    lifecycle::end(&init.cgroup, None)?;
    Ok(u8::try_from(ended.code()).unwrap_or(255))
}
