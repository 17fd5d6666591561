// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers as services: readiness, sockets, cgroups below the caller's; and the units that say so, which systemd itself checks.
//!
//! systemd need not run here: the manager's socket is the test's own, and units are read by `systemd-analyze verify`.

mod sandbox;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use sandbox::output;
use sandbox::shell::{Shell, eventually};
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::service_manager::ServiceManager;

/// A command line of `words`, with the manager's address.
fn told(shell: &Shell, manager: &ServiceManager, words: &[&str]) -> Command {
    let mut command = shell.sandbox.command();
    command.args(words).env("NOTIFY_SOCKET", manager.address()).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Reads on until who tells that may end.
fn hears_of(manager: &ServiceManager, pid: u32) {
    assert_eq!(manager.hears(), "READY=1\n");
    assert_eq!(manager.hears(), format!("MAINPID={pid}\n"));
    assert_eq!(manager.hears(), "BARRIER=1");
}

#[test]
fn the_manager_hears_of_the_start_or_of_the_container_s_own_word() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let manager = ServiceManager::at(&shell.sandbox.path("manager"));
    let script =
        "trap 'exit 7' TERM; test -w $NOTIFY_SOCKET && echo > /told; echo > /begun; while :; do sleep 0.05; done";
    for (mode, its_own) in [("conmon", false), ("container", true)] {
        let name = format!("web-{mode}");
        let words = ["run", "--name", &name, "--sdnotify", mode, "shell:1", "sh", "-c", script];
        let mut run = told(&shell, &manager, &words).spawn().unwrap();
        if its_own {
            eventually("it has a socket", || has(&shell, &name, "/told"));
            assert!(manager.hears_nothing());
            let pid = &shell.sandbox.json(&["state", &name])["pid"];
            let inside = format!("/proc/{pid}/root/run/notify/notify.sock");
            let say = |text: &[u8]| {
                std::os::unix::net::UnixDatagram::unbound().unwrap().send_to(text, &inside).unwrap();
            };
            say(b"STATUS=soon");
            say(b"READY=1\nMAINPID=1");
        }
        // The monitor, which ends with the container and has its exit code.
        hears_of(&manager, run.id());
        eventually("it takes signals", || has(&shell, &name, "/begun"));
        kill(run.id());
        assert_eq!(run.wait().unwrap().code(), Some(7), "{mode}");
        assert!(manager.hears_nothing());
    }
    // Nobody else waits.
    let quiet =
        told(&shell, &manager, &["run", "--rm", "--sdnotify", "ignore", "shell:1", "sh", "-c", "exit 3"]).status();
    assert_eq!(quiet.unwrap().code(), Some(3));
    assert!(manager.hears_nothing());
}

/// Whether a container that runs has a file.
fn has(shell: &Shell, container: &str, path: &str) -> bool {
    shell.sandbox.run(&["exec", container, "sh", "-c", &format!("test -e {path}")]).code == 0
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

#[test]
fn a_container_in_the_background_is_told_of_before_the_command_ends() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let manager = ServiceManager::named(&format!("stos-test-units-{}", std::process::id()));
    shell.sandbox.ok(&["create", "--name", "bg", "shell:1", "sleep", "1000"]);
    let mut start = told(&shell, &manager, &["start", "--sdnotify=conmon", "bg"]).spawn().unwrap();
    assert_eq!(manager.hears(), "READY=1\n");
    let main = manager.hears();
    let main = main.trim().strip_prefix("MAINPID=").unwrap().to_owned();
    assert_eq!(start.try_wait().unwrap(), None, "it waits until all of that is read");
    assert_eq!(manager.hears(), "BARRIER=1");
    assert!(start.wait().unwrap().success());
    let comm = fs::read_to_string(format!("/proc/{main}/comm")).unwrap();
    assert_eq!(comm.trim(), "stos");
    shell.sandbox.ok(&["rm", "-f", "bg"]);
}

#[test]
fn a_manager_that_is_gone_keeps_no_container_from_running() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let mut run = shell.sandbox.command();
    run.args(["run", "--rm", "--sdnotify=conmon", "shell:1", "echo", "runs"]).env("NOTIFY_SOCKET", "/no/such/socket");
    let ran = output(&mut run);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "runs\n"));
    assert!(ran.stderr.contains("nobody can be told that the container is ready"), "{}", ran.stderr);
}

/// A shell that does `set`, and becomes the command.
fn through(set: &str, command: &Command) -> Command {
    let mut through = Command::new("sh");
    through.args(["-c", set, "sh"]).arg(command.get_program()).args(command.get_args());
    through.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    through
}

/// A socket as the standard input of one child: one that all may inherit would be kept by those of other tests.
fn as_input(listener: &TcpListener) -> Stdio {
    OwnedFd::from(listener.try_clone().unwrap()).into()
}

#[test]
fn the_sockets_of_the_unit_are_the_container_s() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let set = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=web; exec \"$@\"";
    for extra in [&["--rm"][..], &["--detach", "--name", "bg"]] {
        let mut stos = shell.sandbox.command();
        stos.args(
            [
                &["run"],
                extra,
                &["shell:1", "sh", "-c", "echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; ls /proc/self/fd"],
            ]
            .concat(),
        );
        let mut said = output(through(set, &stos).stdin(as_input(&listener)));
        assert_eq!(said.code, 0, "{}", said.stderr);
        if extra[0] == "--detach" {
            shell.sandbox.ok(&["wait", "bg"]);
            said = shell.sandbox.run(&["logs", "bg"]);
        }
        // 4 is the directory that ls reads.
        assert_eq!(said.stdout, "1 1 web\n0\n1\n2\n3\n4\n", "{extra:?}");
    }
    // Without the variables nothing of the caller's gets in.
    let mut plain = shell.sandbox.command();
    plain.args(["run", "--rm", "shell:1", "ls", "/proc/self/fd"]);
    assert_eq!(output(&mut plain).stdout, "0\n1\n2\n3\n");
}

#[test]
fn a_socket_lives_as_long_as_its_container() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let set = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
    let mut stos = shell.sandbox.command();
    // A container without any network: only the socket leads in.
    stos.args(["run", "--rm", "--name", "server", "--network", "none", "shell:1", "sleep", "1000"]);
    let mut run = through(set, &stos).stdin(as_input(&listener)).spawn().unwrap();
    eventually("it runs", || has(&shell, "server", "/"));
    drop(listener);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"x").unwrap();
    shell.sandbox.ok(&["rm", "-f", "server"]);
    run.wait().unwrap();
    eventually("the socket is closed", || TcpStream::connect(address).is_err());
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
}

/// Cgroups of the test's own, as a service manager delegates them; gone when dropped.
struct Unit(String);

impl Unit {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let unit = Self(format!("stos-test-unit-{}-{number}", std::process::id()));
        for directory in unit.directories() {
            fs::create_dir_all(&directory).unwrap();
        }
        unit
    }

    fn directories(&self) -> Vec<PathBuf> {
        let hierarchies = stos_runtime::mounted_hierarchies().unwrap();
        hierarchies.iter().map(|hierarchy| hierarchy.mount_point.join(&self.0)).collect()
    }

    /// A command that runs in it.
    fn command(&self, command: &Command) -> Command {
        let enter: String = self
            .directories()
            .iter()
            // A cpuset without processors and memory takes nobody.
            .map(|directory| {
                let shown = directory.display();
                format!(
                    "for f in cpuset.cpus cpuset.mems; do [ ! -f {shown}/$f ] || [ -n \"$(cat {shown}/$f)\" ] || \
                     cat {shown}/../$f > {shown}/$f; done; echo $$ > {shown}/cgroup.procs; "
                )
            })
            .collect();
        through(&format!("{enter} exec \"$@\""), command)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        for directory in self.directories() {
            let below = fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path());
            below.filter(|path| path.is_dir()).for_each(|path| drop(fs::remove_dir(path)));
            drop(fs::remove_dir(&directory));
        }
    }
}

#[test]
fn cgroups_are_made_below_the_caller_s_own() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (shell, unit) = (Shell::new(), Unit::new());
    let mut stos = shell.sandbox.command();
    stos.args([
        "run",
        "--rm",
        "--name",
        "in",
        "--cgroups=split",
        "--pids-limit=100",
        "shell:1",
        "cat",
        "/proc/self/cgroup",
    ]);
    // What it sees is below its own root; so it is asked from outside too.
    let ran = output(&mut unit.command(&stos));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let mut stos = shell.sandbox.command();
    stos.args(["run", "--detach", "--name", "out", "--cgroups=split", "-m", "64m", "shell:1", "sleep", "1000"]);
    let ran = output(&mut unit.command(&stos));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let id = ran.stdout.trim();
    let pid = shell.sandbox.json(&["state", "out"])["pid"].to_string();
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let place = format!(":/{}/stos-{id}", unit.0);
    let used = lines.lines().filter(|line| line.ends_with(&place)).count();
    assert_eq!(used, unit.directories().len(), "{lines}");
    assert!(has(&shell, "out", "/"));
    assert!(shell.sandbox.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "out"]).contains("67"));
    shell.sandbox.ok(&["rm", "-f", "out"]);
    for directory in unit.directories() {
        assert!(!directory.join(format!("stos-{id}")).exists());
    }
    // Who is in no cgroup of its own has none to give.
    let lines = fs::read_to_string("/proc/self/cgroup").unwrap();
    if lines.lines().all(|line| line.ends_with(":/")) {
        let refused = shell.sandbox.run(&["run", "--rm", "--cgroups=split", "shell:1", "sh", "-c", ":"]);
        assert_eq!(refused.code, 125);
        assert!(refused.stderr.contains("the caller has no cgroup of its own"), "{}", refused.stderr);
    }
}

#[test]
fn a_name_is_replaced_and_the_id_is_written() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let file = sandbox.path("cid");
    let file = file.to_str().unwrap();
    let run = ["run", "-d", "--name", "web", "--replace", "--cidfile", file, "shell:1", "sleep", "1000"];
    let first = sandbox.ok(&run);
    assert_eq!(fs::read_to_string(file).unwrap(), first.trim());
    let refused = sandbox.run(&run);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("--cidfile") && refused.stderr.contains("another container uses it"));
    assert_eq!(sandbox.json(&["inspect", "web"])[0]["id"], first.trim());
    fs::remove_file(file).unwrap();
    // What cannot be takes nothing from what is there.
    let lost = sandbox.run(&["run", "-d", "--name", "web", "--replace", "--cidfile", file, "shell:1", "/no/such"]);
    assert_eq!(lost.code, 127, "{}", lost.stderr);
    assert!(!Path::new(file).exists());
    let second = sandbox.ok(&run);
    assert_ne!(first, second);
    assert_eq!(sandbox.json(&["inspect", "web"])[0]["id"], second.trim());
    let list = sandbox.ok(&["ps", "-aq", "--no-trunc"]);
    assert_eq!(list, second);
    let unnamed = sandbox.run(&["run", "--replace", "shell:1", "sh", "-c", ":"]);
    assert_eq!(unnamed.code, 125);
    assert!(unnamed.stderr.contains("--name"), "{}", unnamed.stderr);
    // The file names the container, and goes with it; others say nothing of it.
    assert_eq!(sandbox.ok(&["stop", "--time", "0", "--cidfile", file]), second);
    let copy = sandbox.path("copy");
    fs::copy(file, &copy).unwrap();
    assert_eq!(sandbox.ok(&["rm", "-f", "--cidfile", file]), second);
    assert!(!Path::new(file).exists());
    for command in ["stop", "rm"] {
        assert_eq!(sandbox.run(&[command, "--cidfile", file]).code, 125);
        sandbox.ok(&[command, "--ignore", "--cidfile", file]);
        assert_ne!(sandbox.run(&[command, "--cidfile", copy.to_str().unwrap()]).code, 0);
    }
    // Of a container that is gone, and of a command that was killed, it is taken over; no other file is.
    let once = ["run", "--rm", "--cidfile", file, "shell:1", "sh", "-c", ":"];
    fs::copy(&copy, file).unwrap();
    sandbox.ok(&once);
    assert!(!Path::new(file).exists());
    fs::write(file, "").unwrap();
    sandbox.ok(&once);
    // What is no longer its file stays.
    let (directory, mine) = (sandbox.path("ids"), sandbox.path("ids/cid"));
    fs::create_dir(&directory).unwrap();
    let (mine, volume) = (mine.to_str().unwrap(), format!("{}:/ids", directory.display()));
    sandbox.ok(&["run", "--rm", "-v", &volume, "--cidfile", mine, "shell:1", "sh", "-c", "echo mine > /ids/cid"]);
    assert_eq!(fs::read_to_string(mine).unwrap(), "mine\n");
    fs::write(file, "my notes").unwrap();
    assert_eq!(sandbox.run(&once).code, 125);
    assert_eq!(fs::read_to_string(file).unwrap(), "my notes");
}

#[test]
fn signals_zones_and_the_host_s_environment_come_in() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::of(&stos_testkit::image_builder::ImageBuilder::new().environment(&["BOTH=image"]));
    let sandbox = &shell.sandbox;
    let script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    sandbox.ok(&["run", "-d", "--name", "s", "--stop-signal", "USR1", "shell:1", "sh", "-c", script]);
    eventually("it takes the signal", || sandbox.ok(&["logs", "s"]) == "ready\n");
    sandbox.ok(&["stop", "-t", "300", "s"]);
    assert_eq!(sandbox.ok(&["wait", "s"]), "9\n");
    assert_eq!(sandbox.run(&["run", "--stop-signal", "NONE", "shell:1", "sh", "-c", ":"]).code, 125);
    let mut run = sandbox.command();
    run.args(["run", "--rm", "--env-host", "shell:1", "sh", "-c", "echo $BOTH $ONLY"]);
    run.env("BOTH", "host").env("ONLY", "host");
    assert_eq!(output(&mut run).stdout, "image host\n");
    if Path::new("/usr/share/zoneinfo/Asia/Tokyo").exists() {
        assert_eq!(
            shell.says(
                &["--tz", "Asia/Tokyo"],
                "cat /etc/localtime | while read -r line; do test \"$line\" = JST-9 && echo it; done; :"
            ),
            "it\n"
        );
    }
    let wrong = sandbox.run(&["run", "--tz", "No/Such", "shell:1", "sh", "-c", ":"]);
    assert_eq!(wrong.code, 125);
    assert!(wrong.stderr.contains("--tz No/Such"), "{}", wrong.stderr);
}

/// Has systemd read units, and gives what it says of them.
fn verify(directory: &Path, unit: &str) -> (bool, String) {
    let mut command = Command::new("systemd-analyze");
    // Its own search path comes after ours: targets are there.
    command.env("SYSTEMD_UNIT_PATH", format!("{}:", directory.display())).args([
        "verify",
        "--recursive-errors=no",
        "--man=no",
    ]);
    let said = output(command.arg(directory.join(unit)));
    (said.code == 0, said.stderr)
}

#[test]
fn a_container_s_service_is_one_that_systemd_takes() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("systemd-analyze"));
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let script = "trap 'exit 6' TERM; echo > /begun; while :; do sleep 0.05; done";
    let create = ["create", "--name", "web", "--cgroups=split", "--stop-timeout=30", "shell:1", "sh", "-c", script];
    sandbox.ok(&create);
    let directory = sandbox.path("units");
    fs::create_dir(&directory).unwrap();
    let mut generate = sandbox.command();
    generate.args(["generate", "systemd", "--name", "--files", "--restart-sec", "2", "--after", "a.target", "web"]);
    let made = output(generate.current_dir(&directory));
    assert_eq!(made.stdout.trim(), directory.join("container-web.service").to_str().unwrap(), "{}", made.stderr);
    let text = fs::read_to_string(made.stdout.trim()).unwrap();
    for line in [
        "Type=notify",
        "Delegate=yes",
        "RestartSec=2",
        "After=a.target",
        "WantedBy=default.target",
        "TimeoutStopSec=90",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    let (is_good, said) = verify(&directory, "container-web.service");
    assert!(is_good, "{said}");
    // Its commands are those that start and stop it.
    let command = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    };
    let manager = ServiceManager::at(&sandbox.path("manager"));
    let mut main = Unit::new().run_in(command("ExecStart=").env("NOTIFY_SOCKET", manager.address()));
    hears_of(&manager, main.child.id());
    eventually("it takes signals", || has(&shell, "web", "/begun"));
    assert!(command("ExecStop=").stdout(Stdio::null()).status().unwrap().success());
    assert_eq!(main.child.wait().unwrap().code(), Some(6));
    // Its name is no command.
    sandbox.ok(&["rename", "web", "start"]);
    let named = sandbox.ok(&["generate", "systemd", "--name", "start"]);
    assert!(named.contains(&format!("\nExecStart={} ", environment::stos().display())), "{named}");
    for words in [&["generate", "systemd", "none"][..], &["generate", "systemd", "--restart-policy", "so", "start"]] {
        assert_ne!(sandbox.run(words).code, 0);
    }
    sandbox.ok(&["run", "-d", "--rm", "--name", "goes", "shell:1", "sleep", "1000"]);
    let refused = sandbox.run(&["generate", "systemd", "goes"]);
    assert!(refused.code == 125 && refused.stderr.contains("goes with its process"), "{}", refused.stderr);
    sandbox.ok(&["rm", "-f", "goes"]);
}

/// A process in cgroups of a unit.
struct Main {
    child: std::process::Child,
    _unit: Unit,
}

impl Unit {
    fn run_in(self, command: &Command) -> Main {
        let child = self.command(command).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Main { child, _unit: self }
    }
}

#[test]
fn quadlet_files_become_services_that_systemd_takes_and_that_run() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("systemd-analyze"));
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let (source, units) = (sandbox.path("quadlet"), sandbox.path("units"));
    fs::create_dir_all(&source).unwrap();
    fs::create_dir_all(&units).unwrap();
    let places = format!("--data-root {} --root {}", sandbox.data_root().display(), sandbox.root().display());
    fs::write(source.join("data.volume"), format!("[Volume]\nGlobalArgs={places}\nLabel=of=quadlet\n")).unwrap();
    fs::write(
        source.join("web.container"),
        format!(
            "[Unit]\nDescription=Web\n[Container]\nGlobalArgs={places}\nImage=shell:1\nContainerName=web\nNetwork=none\n\
             Volume=data.volume:/data\nEnvironment=A=1 \"B=two words\"\nReadOnly=yes\nStopTimeout=300\n\
             Exec=sh -c 'trap \"exit 5\" TERM; echo \"$$B\" > /data/said; while :; do sleep 0.05; done'\n\
             [Install]\nWantedBy=multi-user.target\n"
        ),
    )
    .unwrap();
    // Called as systemd calls a generator.
    let generator = sandbox.path("stos-system-generator");
    std::os::unix::fs::symlink(environment::stos(), &generator).unwrap();
    let mut generate = Command::new(&generator);
    generate.env("QUADLET_UNIT_DIRS", &source).arg(&units).arg(sandbox.path("early")).arg(sandbox.path("late"));
    let made = output(&mut generate);
    assert_eq!((made.code, made.stdout.as_str(), made.stderr.as_str()), (0, "", ""));
    let wanted = fs::read_link(units.join("multi-user.target.wants/web.service")).unwrap();
    assert_eq!(wanted, Path::new("../web.service"));
    for unit in ["web.service", "data-volume.service"] {
        let (is_good, said) = verify(&units, unit);
        assert!(is_good, "{said}");
    }
    // Run as systemd runs it: by its words, in cgroups of its own, with its sockets.
    let run = |unit: &str, key: &str| {
        let text = fs::read_to_string(units.join(unit)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim_start_matches('-').to_owned();
        let words: Vec<String> = stos_units::words::split(&line).unwrap();
        let words: Vec<String> = words.iter().map(|word| word.replace("$$", "$")).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    };
    assert!(run("data-volume.service", "ExecStart=").stdout(Stdio::null()).status().unwrap().success());
    let manager = ServiceManager::at(&sandbox.path("manager"));
    let mut main = Unit::new().run_in(run("web.service", "ExecStart=").env("NOTIFY_SOCKET", manager.address()));
    hears_of(&manager, main.child.id());
    let volume = sandbox.json(&["volume", "inspect", "systemd-data"]);
    assert_eq!(volume[0]["Labels"]["of"], "quadlet");
    let said = Path::new(volume[0]["Mountpoint"].as_str().unwrap()).join("said");
    eventually("it has written", || fs::read_to_string(&said).is_ok_and(|text| text == "two words\n"));
    assert!(run("web.service", "ExecStop=").stdout(Stdio::null()).status().unwrap().success());
    assert_eq!(main.child.wait().unwrap().code(), Some(5));
    assert!(run("web.service", "ExecStopPost=").status().unwrap().success());
    assert_eq!(sandbox.ok(&["ps", "-aq"]), "");
    // One that is wrong is told of by its line, and keeps no other from its service.
    fs::write(source.join("bad.container"), "[Container]\nImage=x\nNonsense=1\n").unwrap();
    let dry = output(sandbox.command().args(["generate", "quadlet", "--dry-run", "--source"]).arg(&source));
    assert_eq!(dry.code, 1);
    assert!(dry.stderr.contains("bad.container:3: Nonsense= of [Container] is not known"), "{}", dry.stderr);
    assert!(dry.stdout.contains("---web.service---\n[Unit]\nDescription=Web\n"), "{}", dry.stdout);
    assert!(!units.join("bad.service").exists());
}
