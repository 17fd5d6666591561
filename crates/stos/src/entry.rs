// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the kernel enters the program: before the C library's start it asks for the constants, and for what commands run through, in huge pages.
//!
//! The linker has put both at the start of one, in the file as in memory (`startup.ld`). The kernel reads a program in pieces of some pages,
//! keeps each page for itself, and maps sixteen at a fault; what it holds in one folio it maps by one. It has to be asked before the first
//! page of such a piece is read, for what is in the page cache stays there as it was read: so this lies far from what it asks for. Why, and
//! how much it is: `docs/adr/0015-startup-in-huge-pages.md`.

#![allow(unsafe_code)]

// madvise(2) is a hint that changes no byte. A kernel without huge pages refuses it, which is not looked at; from a file system without
// them the same is read in small pages. It clobbers registers that hold nothing yet but %rdx, which `_start` takes for a function to call
// at the end unless it is 0, as the kernel has set it. It is asked twice, for not every linker has the constants before the code.
core::arch::global_asm!(
    ".pushsection .text.stos_entry, \"ax\", @progbits",
    ".globl stos_entry",
    ".type stos_entry, @function",
    "stos_entry:",
    "mov eax, {madvise}",
    "lea rdi, [rip + stos_constants]",
    "lea rsi, [rip + stos_constants_end]",
    "sub rsi, rdi",
    "mov edx, {huge}",
    "syscall",
    "mov eax, {madvise}",
    "lea rdi, [rip + stos_startup_path]",
    "lea rsi, [rip + stos_startup_path_end]",
    "sub rsi, rdi",
    "mov edx, {huge}",
    "syscall",
    "xor edx, edx",
    "jmp _start",
    ".size stos_entry, . - stos_entry",
    ".popsection",
    madvise = const libc::SYS_madvise,
    huge = const libc::MADV_HUGEPAGE,
);
