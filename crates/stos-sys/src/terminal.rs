// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A terminal whose modes are changed for a while, and given back also where a signal ends the process meanwhile.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicPtr, Ordering};

use rustix::io::Errno;

use crate::error::{Result, SysError, last_errno};

/// The modes that a terminal has, which it gets back when this is dropped, or before one of some signals does what it does.
///
/// One at a time: the process has one terminal to ask on.
#[derive(Debug)]
pub struct RestoreTerminal(());

/// What the handler needs.
struct Kept {
    terminal: RawFd,
    modes: libc::termios,
    /// What each of the signals did before.
    actions: Vec<(libc::c_int, libc::sigaction)>,
}

/// What is to be restored. A handler may look at it at any time, so none is ever freed: they are few, one for each password.
static KEPT: AtomicPtr<Kept> = AtomicPtr::new(std::ptr::null_mut());

impl RestoreTerminal {
    /// Keeps the modes of a terminal that stays open, from now on also from `signals`. One that is ignored stays so.
    ///
    /// # Errors
    /// `ENOTTY` where it is no terminal; `EBUSY` where one is kept already.
    pub fn keep(terminal: BorrowedFd<'static>, signals: &[i32]) -> Result<Self> {
        let terminal = terminal.as_raw_fd();
        // SAFETY: all-zero bytes are a valid `termios`.
        let mut modes: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `modes` outlives the call, which fills it.
        if unsafe { libc::tcgetattr(terminal, &raw mut modes) } != 0 {
            return Err(SysError::new("tcgetattr", terminal.to_string(), last_errno()));
        }
        let actions: Vec<_> = signals.iter().map(|&signal| Ok((signal, action_of(signal)?))).collect::<Result<_>>()?;
        let actions = actions.into_iter().filter(|(_, action)| action.sa_sigaction != libc::SIG_IGN).collect();
        let kept = Box::into_raw(Box::new(Kept { terminal, modes, actions }));
        if KEPT.compare_exchange(std::ptr::null_mut(), kept, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: nobody else has seen the pointer.
            drop(unsafe { Box::from_raw(kept) });
            return Err(SysError::new("tcgetattr", format!("{terminal}, kept twice"), Errno::BUSY));
        }
        // Dropped where a handler cannot be set, it takes back those before.
        let restore = Self(());
        // SAFETY: what was stored is never freed nor changed.
        let Kept { actions, .. } = unsafe { &*kept };
        actions.iter().try_for_each(|(signal, _)| set_handler(*signal, actions))?;
        Ok(restore)
    }
}

impl Drop for RestoreTerminal {
    fn drop(&mut self) {
        let kept = KEPT.load(Ordering::Acquire);
        // SAFETY: the pointer is null or to what is never freed nor changed.
        let Some(Kept { terminal, modes, actions }) = (unsafe { kept.as_ref() }) else { return };
        // SAFETY: `modes` outlives the call. A terminal that is gone needs no restoring.
        unsafe { libc::tcsetattr(*terminal, libc::TCSANOW, &raw const *modes) };
        for (signal, action) in actions {
            // SAFETY: the action is one that the kernel gave for this signal.
            unsafe { libc::sigaction(*signal, &raw const *action, std::ptr::null_mut()) };
        }
        KEPT.store(std::ptr::null_mut(), Ordering::Release);
    }
}

fn action_of(signal: i32) -> Result<libc::sigaction> {
    // SAFETY: all-zero bytes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is changed, and `action` outlives the call.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } != 0 {
        return Err(SysError::new("sigaction", format!("{signal}"), last_errno()));
    }
    Ok(action)
}

/// Has [`restore_and_go_on`] called on a signal, with all others of `actions` blocked.
fn set_handler(signal: i32, actions: &[(libc::c_int, libc::sigaction)]) -> Result<()> {
    // SAFETY: all-zero bytes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = restore_and_go_on as extern "C" fn(libc::c_int) as usize;
    for (other, _) in actions {
        // SAFETY: an all-zero set is an empty one; a number that is no signal changes nothing.
        unsafe { libc::sigaddset(&raw mut action.sa_mask, *other) };
    }
    // SAFETY: the handler calls nothing that is not async-signal-safe (signal-safety(7)).
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(SysError::new("sigaction", format!("{signal}, a handler"), last_errno()));
    }
    Ok(())
}

/// The handler: gives the terminal its modes, the signal its action of before, and sends it once more. It is blocked until this returns.
extern "C" fn restore_and_go_on(signal: libc::c_int) {
    // SAFETY: the pointer is null or to what is never freed nor changed.
    let kept = unsafe { KEPT.load(Ordering::Acquire).as_ref() };
    if let Some(kept) = kept {
        // SAFETY: tcsetattr is async-signal-safe, and `modes` outlives the call.
        unsafe { libc::tcsetattr(kept.terminal, libc::TCSANOW, &raw const kept.modes) };
        if let Some((_, action)) = kept.actions.iter().find(|(kept, _)| *kept == signal) {
            // SAFETY: sigaction is async-signal-safe, and the action is one that the kernel gave for this signal.
            unsafe { libc::sigaction(signal, &raw const *action, std::ptr::null_mut()) };
        }
    }
    // SAFETY: raise is async-signal-safe.
    unsafe { libc::raise(signal) };
}
