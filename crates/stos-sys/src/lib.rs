// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel, as stos uses it. All unsafe code of the workspace lives here, with `SAFETY:` on each block, but for the program's
//! entry (`stos/src/entry.rs`).
//!
//! | module | what it is |
//! |---|---|
//! | [`error`] | a failed system call with its arguments |
//! | [`mount`] | fsopen, fsconfig, fsmount, open_tree, move_mount; EROFS mounts |
//! | [`overlay`] | overlay mounts, on kernels new and old; the [`overlay::MountPlan`] |
//! | [`mapped_overlay`] | overlay mounts of layers with mapped ids |
//! | [`rooted`] | paths inside a container's root, resolved by `openat2` on descriptors |
//! | [`xattr`] | extended attributes on descriptors |
//! | [`inherited`] | sockets that whoever started us has made |
//! | [`interface`] | network interfaces |
//! | [`names`] | how names of hosts are looked up |
//! | [`signals`] | signals as something to read |
//! | [`terminal`] | a terminal whose modes are given back whatever comes |
//! | [`mod@sync`] | write-behind and durability |
//! | [`probe`] | what this kernel can do, found by trying |
//! | [`process`] | clone3, pidfds, single-thread check, capabilities, rlimits, the read-only view of our own binary |
//! | [`cgroup_bpf`] | the device rules of cgroup v2 |
//! | `igzip` | inflating by ISA-L, with the feature `isal` |
//! | [`sha256`] | two hashes at a time, by the processor's instructions |
//! | [`mod@seccomp`] | loading a filter, and handing on its notification descriptor |
//!
//! It stands on nothing of ours and knows nothing of images or containers.
#![allow(unsafe_code)]

pub mod cgroup_bpf;
pub mod error;
#[cfg(feature = "isal")]
pub mod igzip;
pub mod inherited;
pub mod interface;
pub mod mapped_overlay;
pub mod mount;
pub mod names;
pub mod overlay;
pub mod probe;
pub mod process;
pub mod rooted;
pub mod seccomp;
pub mod sha256;
pub mod signals;
pub mod sync;
pub mod terminal;
pub mod xattr;

pub use error::SysError;
