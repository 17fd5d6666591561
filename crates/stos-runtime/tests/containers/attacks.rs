// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an image, a bundle or a container may try, each with where the field learned it.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use rustix::fs::{Mode, OFlags};
use serde_json::json;

use crate::features::tests;
use crate::fixture::{Bundle, MARKER, Outcome, wait_until};

tests![
    mount_targets_do_not_leave_the_root,
    bind_sources_are_the_hosts,
    proc_is_not_a_symlink,
    procfs_is_not_covered,
    a_masked_path_that_is_a_symlink,
    dev_null_of_the_image_is_no_mask,
    a_device_name_that_is_taken,
    descriptors_do_not_leak,
    a_command_behind_a_descriptor,
    a_working_directory_outside,
    a_working_directory_by_descriptor,
    the_binary_cannot_be_written,
    passwd_is_a_fifo_or_huge,
    the_session_keyring_is_new,
];

/// CVE-2021-30465: a mount target that is a symlink out of the root.
fn mount_targets_do_not_leave_the_root() {
    let bundle = Bundle::new("true");
    let outside = bundle.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, bundle.rootfs().join("absolute")).unwrap();
    symlink("../outside", bundle.rootfs().join("relative")).unwrap();
    bundle.mount("/relative/new", "tmpfs", "tmpfs", &[]);
    // Both resolve inside the root, and are made there: never through them on the host.
    bundle.run().ok();
    assert!(!outside.join("new").exists() && bundle.rootfs().join("outside/new").is_dir());
    let absolute = Bundle::new("true");
    let host = tempfile::tempdir().unwrap();
    symlink(host.path(), absolute.rootfs().join("link")).unwrap();
    absolute.mount("/link/made", "tmpfs", "tmpfs", &[]);
    drop(absolute.run());
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

/// A bind's source whose `..` reach the top, where the container's root lies by then: what is there must not count, nor where a
/// symlink of the image points.
fn bind_sources_are_the_hosts() {
    let bundle = Bundle::new("cat /etc/hostname /seen/file /again");
    let of_host = |name: &str| bundle.path().join(name);
    for (dir, content) in [("data", "data\n"), ("secret", "secret\n")] {
        fs::create_dir(of_host(dir)).unwrap();
        fs::write(of_host(dir).join("file"), content).unwrap();
    }
    let relative = bundle.path().strip_prefix("/").unwrap();
    let ups = "../".repeat(relative.components().count());
    symlink(format!("{ups}{}/data", relative.display()), of_host("link")).unwrap();
    // The image shows something else at the same places.
    let decoy = bundle.rootfs().join(relative);
    fs::create_dir_all(&decoy).unwrap();
    symlink(of_host("secret"), decoy.join("data")).unwrap();
    fs::write(bundle.rootfs().join("etc/hostname"), "the image's\n").unwrap();
    bundle.mount("/etc/hostname", "bind", "/tmp/../etc/hostname", &["bind"]);
    bundle.mount("/seen", "bind", "link", &["rbind"]);
    bundle.mount("/again", "bind", &format!("{}/link/file", bundle.path().display()), &["bind"]);
    let host = fs::read_to_string("/etc/hostname").unwrap();
    assert_eq!(bundle.run().ok(), format!("{host}data\ndata"));
}

/// CVE-2019-19921, CVE-2023-27561: `/proc` of the image is a symlink, so masks cover something else.
fn proc_is_not_a_symlink() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new("true");
        fs::remove_dir(bundle.rootfs().join(name)).unwrap();
        fs::create_dir(bundle.rootfs().join("decoy")).unwrap();
        symlink("/decoy", bundle.rootfs().join(name)).unwrap();
        let error = bundle.run().failed(1);
        assert!(error.contains(&format!("\"/{name}\"")), "{error}");
    }
}

/// CVE-2019-16884, CVE-2025-52881: a mount over a part of procfs that decides something.
fn procfs_is_not_covered() {
    for destination in ["/proc/self/attr", "/proc/sys", "/proc/1/../self/attr", "/proc/self/fd"] {
        let bundle = Bundle::new("true");
        bundle.mount(destination, "tmpfs", "tmpfs", &[]);
        let error = bundle.run().failed(1);
        assert!(error.contains("refused"), "{destination}: {error}");
    }
    // The container's cgroups cover as much as anything else.
    let cgroups = Bundle::new("true");
    cgroups.mount("/proc/sys/kernel", "cgroup", "cgroup", &["ro"]);
    assert!(cgroups.run().failed(1).contains("refused"));
    let through_link = Bundle::new("true");
    symlink("/proc/sys", through_link.rootfs().join("innocent")).unwrap();
    through_link.mount("/innocent", "tmpfs", "tmpfs", &[]);
    assert!(through_link.run().failed(1).contains("refused"));
    let as_proc = Bundle::with("true", |config| {
        config["mounts"][0] = json!({"destination": "/proc", "type": "tmpfs", "source": "x"})
    });
    assert!(as_proc.run().failed(1).contains("only procfs"));
    let file = Bundle::new("cat /proc/uptime");
    fs::write(file.path().join("uptime"), "1.00 1.00\n").unwrap();
    file.mount("/proc/uptime", "bind", "uptime", &["bind", "ro"]);
    assert_eq!(file.run().ok(), "1.00 1.00");
}

/// A masked path that is a symlink of the image: what it points at is masked, inside the root.
fn a_masked_path_that_is_a_symlink() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "secret").unwrap();
    let bundle = Bundle::with("cat /etc/passwd /etc/link", |config| {
        config["linux"]["maskedPaths"] = json!(["/etc/link", "/out"])
    });
    symlink(secret.path(), bundle.rootfs().join("out")).unwrap();
    assert_eq!(bundle.run().ok(), "");
    assert_eq!(fs::read_to_string(secret.path()).unwrap(), "secret");
}

/// CVE-2025-31133: the container's `/dev/null` is a symlink, and what it points at would be bound over the mask.
fn dev_null_of_the_image_is_no_mask() {
    let bundle = Bundle::with("cat /proc/keys /proc/timer_list", |config| {
        // A /dev of the image's own, with a decoy.
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        config["root"]["readonly"] = json!(false);
    });
    symlink("/proc/sys/kernel/core_pattern", bundle.rootfs().join("dev/null")).unwrap();
    let error = bundle.run().failed(1);
    assert!(error.contains("/dev/null"), "{error}");
}

fn a_device_name_that_is_taken() {
    let bundle = Bundle::with("true", |config| {
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    });
    fs::write(bundle.rootfs().join("dev/zero"), "not a device").unwrap();
    assert!(bundle.run().failed(1).contains("/dev/zero"));
}

/// Runs a command of the runtime from a shell that leaks descriptors of directories, as a careless engine does: they are not
/// close-on-exec.
fn with_leaked_descriptors(bundle: &Bundle, command: &str) -> Outcome {
    let path = bundle.path().display().to_string();
    let command = bundle.command(&[command, "--bundle", &path, &bundle.id]);
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg("exec 7</ 9</etc \"$@\"").arg("sh").arg(program).args(arguments);
    shell.current_dir(bundle.path()).stdin(Stdio::null()).output().unwrap().into()
}

/// CVE-2024-21626: descriptors of the runtime and of its caller.
fn descriptors_do_not_leak() {
    let listing = with_leaked_descriptors(&Bundle::new("ls -l /proc/self/fd"), "run").ok();
    let open: Vec<_> = listing.lines().filter_map(|line| line.split_once(" -> ")?.0.split(' ').next_back()).collect();
    // 3 is ls's own, of the directory that it lists.
    assert_eq!(open, ["0", "1", "2", "3"], "{listing}");
}

/// CVE-2024-21626, the variant of `process.args`: the command's path, or that of what interprets it, leads through a
/// descriptor of a host's directory that is still open when it is resolved.
fn a_command_behind_a_descriptor() {
    let host = tempfile::tempdir().unwrap();
    let program = host.path().join("program");
    fs::write(&program, "#!/bin/sh\necho escaped\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let numbers = 3..64;
    let link = |bundle: &Bundle, number: i32| {
        let target = format!("/proc/self/fd/{number}/../../../../../../../../..{}", host.path().display());
        symlink(target, bundle.rootfs().join(format!("out{number}"))).unwrap();
    };
    let search: Vec<_> = numbers.clone().map(|number| format!("/out{number}")).collect();
    let by_path = Bundle::with("", |config| {
        config["process"]["args"] = json!(["program"]);
        config["process"]["env"] = json!([format!("PATH={}", search.join(":"))]);
    });
    numbers.clone().for_each(|number| link(&by_path, number));
    for command in ["run", "launch"] {
        for outcome in [with_leaked_descriptors(&by_path, command), by_path.launch(&[]), by_path.run()] {
            assert_eq!(outcome.stdout, "");
            assert!(outcome.failed(127).contains("\"program\" not found in PATH"));
        }
    }
    let by_script = Bundle::with("", |config| config["process"]["args"] = json!(["/bin/script"]));
    // The script's own interpreter is a script: then the kernel takes that one's.
    let (script, inner) = (by_script.rootfs().join("bin/script"), by_script.rootfs().join("bin/inner"));
    fs::write(&script, "#!/bin/inner\n").unwrap();
    fs::write(&inner, "").unwrap();
    for path in [&script, &inner] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for number in numbers {
        link(&by_script, number);
        fs::write(&inner, format!("#!/out{number}/program\n")).unwrap();
        for outcome in [with_leaked_descriptors(&by_script, "run"), by_script.launch(&[])] {
            assert_eq!(outcome.stdout, "", "{number}");
            // 126 where it is the pipe to the launch, which has no parent.
            assert!(matches!(outcome.code, 126 | 127), "{number}: {} {}", outcome.code, outcome.stderr);
        }
    }
}

/// CVE-2024-21626: a working directory that is reached through a descriptor of the runtime.
fn a_working_directory_by_descriptor() {
    for cwd in ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/self/cwd", "/proc/1/root"] {
        let bundle = Bundle::with("pwd; ls", |config| config["process"]["cwd"] = json!(cwd));
        let error = bundle.run().failed(1);
        assert!(error.contains(&format!("working directory {cwd}")), "{error}");
    }
}

fn a_working_directory_outside() {
    let bundle = Bundle::with("pwd", |config| config["process"]["cwd"] = json!("/link/deep"));
    let host = tempfile::tempdir().unwrap();
    symlink(host.path(), bundle.rootfs().join("link")).unwrap();
    assert_eq!(bundle.run().ok(), host.path().join("deep").display().to_string());
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
    let up = Bundle::with("pwd", |config| config["process"]["cwd"] = json!("/../../.."));
    assert_eq!(up.run().ok(), "/");
}

/// CVE-2019-5736: through `/proc/PID/exe` of the first process a container reaches the runtime's binary.
fn the_binary_cannot_be_written() {
    let bundle = Bundle::new("true");
    // A copy, which nothing executes when the container is gone: else "text file busy" would hide what counts.
    let copy = bundle.path().join("runtime");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut create = std::process::Command::new(&copy);
    create
        .arg(MARKER)
        .arg("--root")
        .arg(bundle.root())
        .arg("create")
        .arg("--bundle")
        .arg(bundle.path())
        .arg(&bundle.id);
    assert!(create.stdout(Stdio::null()).stdin(Stdio::null()).status().unwrap().success());
    let pid = bundle.state()["pid"].as_i64().unwrap();
    let link = rustix::fs::open(format!("/proc/{pid}/exe"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    bundle.delete(true).ok();
    let error = fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", link.as_raw_fd())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{error}");
    // By its own path it is as writable as before, once nobody looks at the process any more.
    wait_until("it can be written", || fs::OpenOptions::new().write(true).open(&copy).is_ok());
}

/// CVE-2024-9676: an `/etc/passwd` that never ends, or never answers.
fn passwd_is_a_fifo_or_huge() {
    let fifo = Bundle::new("true");
    let passwd = fifo.rootfs().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&passwd).status().unwrap().success());
    let error = fifo.launch(&["--user", "user"]).failed(1);
    assert!(error.contains("expected a regular file"), "{error}");
    let huge = Bundle::new("true");
    fs::File::create(huge.rootfs().join("etc/passwd")).unwrap().set_len(1 << 40).unwrap();
    assert!(huge.launch(&["--user", "user"]).failed(1).contains("expected at most"));
    let link = Bundle::new("true");
    fs::remove_file(link.rootfs().join("etc/passwd")).unwrap();
    symlink("../../../../../../../etc/passwd", link.rootfs().join("etc/passwd")).unwrap();
    assert!(link.launch(&["--user", "daemon"]).code != 0);
}

/// A container must not read the keys of who started it: another user sees only keyrings that it possesses.
fn the_session_keyring_is_new() {
    let bundle = Bundle::with("cat /proc/keys", |config| {
        config["linux"]["maskedPaths"] = json!([]);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    let before = fs::read_to_string("/proc/keys").unwrap_or_default();
    let output = bundle.run().ok();
    let sessions: Vec<_> =
        output.lines().filter(|line| line.contains("_ses")).filter_map(|line| line.split(' ').next()).collect();
    assert!(!sessions.is_empty(), "{output}");
    for key in sessions {
        assert!(!before.contains(key), "{output}");
    }
}
