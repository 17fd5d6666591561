// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Children that are other programs, and how long they live.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the program get SIGTERM when the thread that starts it ends, however that comes about: the process is killed, returns, or another
/// thread of it executes a program (`PR_SET_PDEATHSIG` is about the thread, prctl(2)). So the thread must be one that waits for the
/// program.
///
/// What the program starts itself gets no signal. Nor does a program that gains privileges when it is executed.
pub fn end_with_caller(command: &mut Command) {
    let caller = std::process::id();
    let ask = move || {
        // SAFETY: PR_SET_PDEATHSIG takes plain integers, and prctl is a system call alone.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as libc::c_ulong, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: getppid takes nothing and cannot fail.
        if unsafe { libc::getppid() }.cast_unsigned() != caller {
            // It was over before the signal could be asked for.
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls that are async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// Has the program begin with no signal blocked, whatever its caller has blocked for itself: the mask outlives execve(2).
pub fn block_no_signals(command: &mut Command) {
    let unblock = || {
        // SAFETY: all-zero bytes are a valid `sigset_t`, which is empty; the old mask is not asked for.
        let set = unsafe {
            let none: libc::sigset_t = std::mem::zeroed();
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes a system call that is async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(unblock) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Child;

    fn sleeper() -> Child {
        let mut command = Command::new("sleep");
        end_with_caller(command.arg("1000"));
        command.spawn().unwrap()
    }

    #[test]
    fn a_child_ends_with_the_thread_that_has_started_it() {
        let mut child = std::thread::spawn(sleeper).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn a_child_whose_thread_lives_goes_on() {
        let mut child = sleeper();
        // Another thread's end is none of its concern.
        std::thread::spawn(|| {}).join().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
