// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The view of our own binary that a container cannot write (CVE-2019-5736).
//!
//! A container's command may be `/proc/self/exe`, which is then our binary; through that link the container could open
//! it for writing. Where the mount that we were executed from is read-only, the kernel refuses with EROFS, and a container
//! cannot change a mount that is in no namespace of its own.
//!
//! There are two ways to such a mount: to execute the binary again from there, or to change in place what the kernel takes for our
//! binary, which spares a second start.

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_void};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags, statvfs};
use rustix::io::Errno;

use super::clone::stat_field;
use super::exec::pointers;
use super::identity::read_small;
use crate::error::{Result, SysError, last_errno};
use crate::mount::{MountChange, change_mount, open_tree_clone};

const SELF_EXE: &str = "/proc/self/exe";

/// Whether the running binary lies on a read-only mount.
pub fn protected_self() -> Result<bool> {
    let vfs = statvfs(SELF_EXE).map_err(SysError::at("statvfs", || SELF_EXE.to_owned()))?;
    Ok(vfs.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// A detached read-only clone of the mount that our binary lies on.
fn read_only_view() -> Result<OwnedFd> {
    let view = open_tree_clone(Path::new(SELF_EXE), false)?;
    change_mount(view.as_fd(), MountChange { set: libc::MOUNT_ATTR_RDONLY, ..MountChange::default() })?;
    Ok(view)
}

/// How many segments a binary may have that is changed in place; ours has four.
const SEGMENTS: usize = 16;

/// A part of the binary as it is mapped, in whole pages.
#[derive(Clone, Copy)]
struct Segment {
    start: usize,
    size: usize,
    /// Where it is in the file.
    offset: i64,
    protection: libc::c_int,
    is_written: bool,
}

/// The running binary as it is mapped.
struct Image {
    segments: [Option<Segment>; SEGMENTS],
    /// Start and size of what is read-only since the start, though it is part of a segment that is written to.
    sealed: Option<(usize, usize)>,
}

/// Makes the kernel take a detached read-only clone of the binary's mount for what we run from (prctl(2), PR_SET_MM_MAP). A caller that
/// is no child of its own alone sees no difference: each page holds what it held.
///
/// The kernel changes that only where no page of the old file is mapped any more. So code and constants are mapped anew from the clone, and
/// what has been written since the start is moved to memory that is no file's. Call it while the process has one thread.
///
/// # Errors
/// Where the kernel lacks CONFIG_CHECKPOINT_RESTORE, or the caller CAP_SYS_ADMIN and CAP_CHECKPOINT_RESTORE, among others. Then all is as
/// before, and [`exec_from_read_only_view`] is left.
pub fn protect_in_place() -> Result<()> {
    let view = read_only_view()?;
    let path = format!("/proc/self/fd/{}", view.as_raw_fd());
    let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(SysError::at("open", || path.clone()))?;
    let Image { segments, sealed } = image()?;
    let map = memory_map(&file)?;
    for segment in segments.iter().flatten() {
        if segment.is_written { take_from_file(segment)? } else { map_anew(segment, &file)? }
    }
    if let Some((start, size)) = sealed {
        // SAFETY: these pages are ours, and nothing is written to them after the start: they were read-only before.
        if unsafe { libc::mprotect(start as *mut c_void, size, libc::PROT_READ) } != 0 {
            return Err(SysError::new("mprotect", format!("{start:#x}, PROT_READ"), last_errno()));
        }
    }
    // SAFETY: the kernel reads the structure during the call; all but the descriptor is what it has told us itself.
    let set = unsafe {
        libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, std::ptr::from_ref(&map), size_of::<MemoryMap>(), 0)
    };
    if set == 0 { Ok(()) } else { Err(SysError::new("prctl", "PR_SET_MM, PR_SET_MM_MAP", last_errno())) }
}

/// The running binary, by its program headers.
fn image() -> Result<Image> {
    let failed = |errno| SysError::new("getauxval", "AT_PHDR", errno);
    // SAFETY: getauxval takes a number.
    let (table, count) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    let (Ok(address), Ok(count)) = (usize::try_from(table), usize::try_from(count)) else {
        return Err(failed(Errno::OVERFLOW));
    };
    if address == 0 {
        return Err(failed(Errno::NOENT));
    }
    // SAFETY: the kernel has mapped that many headers there, and nobody writes to them.
    let headers = unsafe { std::slice::from_raw_parts(address as *const libc::Elf64_Phdr, count) };
    let number = |value: u64| usize::try_from(value).map_err(|_| failed(Errno::OVERFLOW));
    // Where it was loaded, less where it was linked.
    let own = headers.iter().find(|header| header.p_type == libc::PT_PHDR);
    let base = own.map_or(Ok(0), |own| number(own.p_vaddr).map(|linked| address.wrapping_sub(linked)))?;
    let page = rustix::param::page_size();
    let bounds = |header: &libc::Elf64_Phdr, size: u64| -> Result<(usize, usize)> {
        let start = base.wrapping_add(number(header.p_vaddr)?);
        Ok((start - start % page, start.wrapping_add(number(size)?)))
    };
    let mut found = [None; SEGMENTS];
    let mut places = found.iter_mut();
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_filesz > 0) {
        let (start, end) = bounds(header, header.p_filesz)?;
        let size = end.next_multiple_of(page) - start;
        let flag = |flag: u32, protection| if header.p_flags & flag == 0 { 0 } else { protection };
        let protection = flag(libc::PF_R, libc::PROT_READ) | flag(libc::PF_X, libc::PROT_EXEC);
        let offset = number(header.p_offset)?;
        let offset = i64::try_from(offset - offset % page).map_err(|_| failed(Errno::OVERFLOW))?;
        let is_written = header.p_flags & libc::PF_W != 0;
        let place = places.next().ok_or_else(|| failed(Errno::NOBUFS))?;
        *place = Some(Segment { start, size, offset, protection, is_written });
    }
    let sealed = headers.iter().find(|header| header.p_type == libc::PT_GNU_RELRO).map(|header| {
        let (start, end) = bounds(header, header.p_memsz)?;
        // What shares its last page is written to.
        Ok((start, end - end % page - start))
    });
    Ok(Image { segments: found, sealed: sealed.transpose()? })
}

/// Maps a segment that was never written to from `file`, over itself.
fn map_anew(segment: &Segment, file: &OwnedFd) -> Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let start = segment.start as *mut c_void;
    // SAFETY: what is mapped is what is there, byte for byte, the code of this very function too; the kernel does it in one step.
    let mapped =
        unsafe { libc::mmap(start, segment.size, segment.protection, flags, file.as_raw_fd(), segment.offset) };
    if mapped == start {
        return Ok(());
    }
    Err(SysError::new("mmap", format!("{:#x}, MAP_FIXED", segment.start), last_errno()))
}

/// Moves a segment that is written to into memory that is no file's, at the same place.
fn take_from_file(segment: &Segment) -> Result<()> {
    let failed = |call| SysError::new(call, format!("{:#x}, {} bytes", segment.start, segment.size), last_errno());
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: new memory, wherever the kernel likes.
    let copy = unsafe { libc::mmap(std::ptr::null_mut(), segment.size, protection, flags, -1, 0) };
    if copy == libc::MAP_FAILED {
        return Err(failed("mmap"));
    }
    let start = segment.start as *mut c_void;
    // SAFETY: both are that large. Between the copy and the move nothing is written to the segment: there is no other thread, nothing is
    // allocated, and what is on the stack and in the thread's own storage is not in it.
    let moved = unsafe {
        std::ptr::copy_nonoverlapping(start.cast::<u8>().cast_const(), copy.cast::<u8>(), segment.size);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        libc::mremap(copy, segment.size, segment.size, flags, start)
    };
    if moved == start { Ok(()) } else { Err(failed("mremap")) }
}

/// The kernel's `struct prctl_mm_map`.
#[repr(C)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// What the kernel knows of our memory (proc_pid_stat(5)), with another binary.
fn memory_map(binary: &OwnedFd) -> Result<MemoryMap> {
    let path = "/proc/self/stat";
    let stat = read_small(path)?;
    let field = |number| stat_field(&stat, number).ok_or_else(|| SysError::new("read", path, Errno::INVAL));
    // SAFETY: sbrk of nothing tells where the heap ends.
    let brk = unsafe { libc::sbrk(0) } as u64;
    Ok(MemoryMap {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk,
        start_stack: field(28)?,
        arg_start: field(48)?,
        arg_end: field(49)?,
        env_start: field(50)?,
        env_end: field(51)?,
        auxv: 0,
        auxv_size: 0,
        exe_fd: binary.as_raw_fd().cast_unsigned(),
    })
}

/// Executes the running binary again from a detached read-only clone of its mount, with `argv` and `env`.
///
/// Returns only on failure. Costs about 0.1 ms and an execve(2); a copy in a memfd costs 4.7 ms per 10 MiB. The process
/// keeps its pid. Its name is set again, for execveat(2) names a process after the descriptor before Linux 6.14: call
/// [`name_process`] after.
pub fn exec_from_read_only_view(argv: &[CString], env: &[CString]) -> Result<Infallible> {
    let view = read_only_view()?;
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end in a null pointer and hold NUL-terminated strings that outlive the call; the empty path with
    // AT_EMPTY_PATH means the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            view.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(SysError::new("execveat", "a read-only view of /proc/self/exe, AT_EMPTY_PATH", last_errno()))
}

/// Names the calling process, as ps(1) shows it (15 bytes count).
pub fn name_process(name: &CStr) -> Result<()> {
    rustix::thread::set_name(name).map_err(SysError::at("prctl", || format!("PR_SET_NAME, {name:?}")))
}
