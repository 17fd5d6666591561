// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process's terminal, from the container's own devpts.
//!
//! Nothing is looked up twice: the master is opened below a directory that is devpts for sure, the slave comes from the master
//! (TIOCGPTPEER, Linux 4.13), and what is bound to `/dev/console` is that very slave. A path such as `/dev/pts/0` would be the
//! container's to replace (CVE-2025-52565).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::{Winsize, tcsetwinsize};
use stos_sys::SysError;
use stos_sys::mount::{attach_at, open_tree_clone_at};
use stos_sys::rooted::{DEVPTS_MAGIC, MountPoint, Root, filesystem_magic};

use super::{Step, streams};
use crate::config::ProcessSettings;
use crate::console;
use crate::init_error::InitError;

const DEVPTS: &str = "/dev/pts";
const CONSOLE: &str = "/dev/console";

fn step() -> impl FnOnce(SysError) -> InitError {
    InitError::step("open process.terminal")
}

/// Opens a terminal, sends its master over `socket`, and makes it the process's standard streams and controlling terminal. The
/// process leads a session that has none.
pub(super) fn open(root: &Root, process: &ProcessSettings, socket: BorrowedFd<'_>) -> Step {
    let failed = |call: &'static str| move |errno| step()(SysError::new(call, "a terminal", errno));
    let master = open_master(root)?;
    unlockpt(&master).map_err(failed("ioctl TIOCSPTLCK"))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(failed("ioctl TIOCGPTPEER"))?;
    if let Some((height, width)) = process.console_size {
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).map_err(failed("ioctl TIOCSWINSZ"))?;
    }
    console::send(socket, master.as_fd()).map_err(step())?;
    drop(master);
    let slave = streams::above(slave.as_fd()).map_err(step())?;
    ioctl_tiocsctty(&slave).map_err(failed("ioctl TIOCSCTTY"))?;
    dup2_stdin(&slave).map_err(failed("dup2"))?;
    dup2_stdout(&slave).map_err(failed("dup2"))?;
    dup2_stderr(&slave).map_err(failed("dup2"))
}

/// Inside devpts no name can be made by anybody but the kernel, so what must be checked is the directory.
fn open_master(root: &Root) -> Step<OwnedFd> {
    let directory = root.resolve_without_symlinks(Path::new(DEVPTS)).map_err(step())?;
    if filesystem_magic(directory.as_fd()).map_err(step())? != DEVPTS_MAGIC {
        return Err(InitError::NotProtected { path: DEVPTS.into(), expected: "devpts".to_owned() });
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&directory, "ptmx", flags, Mode::empty()).map_err(|errno| step()(SysError::new("openat", "ptmx", errno)))
}

/// Binds the terminal, which is standard input, to `/dev/console`. A symlink there is refused: it would decide what is covered.
pub(super) fn bind_console(root: &Root) -> Step {
    let failed = || InitError::step("bind process.terminal to /dev/console");
    let target = root.ensure_mount_point_without_symlinks(Path::new(CONSOLE), MountPoint::File).map_err(failed())?;
    let view = open_tree_clone_at(rustix::stdio::stdin(), Path::new(""), false, false).map_err(failed())?;
    attach_at(view.as_fd(), target.as_fd()).map_err(failed())
}
