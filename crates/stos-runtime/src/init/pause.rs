// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process that only waits, from the clone to its wait: the half of [`crate::pause`] that is cloned.
//!
//! It may be the first process of a pid namespace that containers share, and executes nothing, so it has nothing that they could use: an
//! empty root in a mount namespace of its own, no capability, no descriptor but those that it is to hold, and nobody may trace it or read
//! its `/proc` who lacks CAP_SYS_PTRACE in the host's user namespace. No signal ends it but SIGKILL, which the kernel keeps from the first
//! process of a pid namespace where it comes from within.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use stos_sys::SysError;
use stos_sys::interface::bring_loopback_up;
use stos_sys::mount::{FsParameter, attach, enter_private_namespace, new_filesystem};
use stos_sys::process::clone::exit_now;
use stos_sys::process::credentials::{CapabilityMasks, limit_bounding_set, set_capability_sets, set_no_new_privileges};
use stos_sys::process::reaper::{block_all_signals, close_streams, serve_orphans};

use super::{Channel, Step, detach_from_caller, outlive_launch, reaper, run_and_report};
use crate::config::settings::namespace;
use crate::gate::read_byte;
use crate::init_error::InitError;
use crate::launch::READY;
use crate::pause::PauseRequest;

/// Runs the child's half. Ends when nobody confirms it, or when it is killed; or in a report over `pipe` and exit code 1.
pub(crate) fn run(request: &PauseRequest<'_>, confirmed: OwnedFd, pipe: OwnedFd) -> ! {
    run_and_report(Channel::new(pipe, None), |channel| set_up(request, confirmed, channel))
}

fn set_up(request: &PauseRequest<'_>, confirmed: OwnedFd, channel: &mut Channel) -> Step<Infallible> {
    detach_from_caller(channel, true)?;
    if request.namespaces & namespace::UTS != 0 {
        let failed = |errno| SysError::new("sethostname", request.hostname, errno);
        rustix::system::sethostname(request.hostname.as_bytes())
            .map_err(|errno| InitError::step("set the host name")(failed(errno)))?;
    }
    if request.namespaces & namespace::NETWORK != 0 {
        bring_loopback_up().map_err(InitError::step("bring the loopback up"))?;
    }
    if let Some(place) = request.stays_at {
        leave_host(request, place, &confirmed, channel)?;
    }
    outlive_launch(channel)?;
    channel.write(&[READY]).map_err(step())?;
    channel.lead_to(None);
    if !read_byte(&confirmed, "the caller's pipe").map_err(step())? {
        exit_now(0);
    }
    drop(confirmed);
    close_streams();
    match serve_orphans().map_err(step())? {}
}

fn step() -> impl FnOnce(SysError) -> InitError {
    InitError::step("wait")
}

/// Gives up all that leads to the host, but for what it is to hold.
fn leave_host(request: &PauseRequest<'_>, place: &Path, confirmed: &OwnedFd, channel: &Channel) -> Step {
    reaper::forget_caller(c"stos-pause")?;
    let failed = || InitError::step("leave the host");
    enter_empty_root(place).map_err(failed())?;
    let kept: Vec<BorrowedFd<'_>> = request.held.iter().copied().chain([confirmed.as_fd()]).collect();
    channel.close_all_but(0, &kept).map_err(failed())?;
    set_no_new_privileges().map_err(failed())?;
    limit_bounding_set(0).map_err(failed())?;
    set_capability_sets(CapabilityMasks::default()).map_err(failed())?;
    block_all_signals().map_err(failed())
}

/// Makes an empty directory the root, which nobody can write; `place` is where it is mounted, in a mount namespace of its own.
fn enter_empty_root(place: &Path) -> Result<(), SysError> {
    enter_private_namespace()?;
    let mode = FsParameter::String("mode".to_owned(), "0555".to_owned());
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = new_filesystem("tmpfs", &[mode], attributes)?;
    attach(root.as_fd(), place)?;
    let failed = |call| move |errno| SysError::new(call, "\".\"", errno);
    rustix::process::fchdir(&root).map_err(failed("fchdir"))?;
    // Old and new root at one place: the old one lies on top, and is the one that is detached.
    rustix::process::pivot_root(".", ".").map_err(failed("pivot_root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("umount2"))?;
    rustix::process::chdir("/").map_err(failed("chdir"))
}
