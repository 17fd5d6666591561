// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Processes: how one is cloned, watched, recognised again, and given its credentials.
//!
//! | module | what it is |
//! |---|---|
//! | [`child`] | children that are other programs, and how long they live |
//! | [`clone`] | clone3(2) out of a single-threaded process, and what the child resets |
//! | [`pidfd`] | waiting for a process and signalling it by descriptor |
//! | [`reaper`] | a first process that reaps, and passes signals on to its one child |
//! | [`credentials`] | capabilities, ids, groups, limits |
//! | [`filesystem_ids`] | the ids that count for files, for a moment |
//! | [`identity`] | start time and boot id: what tells a process from a later one of the same number |
//! | [`binary`] | the view of our own binary that a container cannot write |
//! | [`attributes`] | scheduling, input and output, personality |
//! | [`user_namespace`] | mappings of ids |
//! | [`exec`] | execve(2), and the loopback of a new network namespace |

pub mod attributes;
pub mod binary;
pub mod child;
pub mod clone;
pub mod credentials;
pub mod exec;
pub mod filesystem_ids;
pub mod identity;
pub mod pidfd;
pub mod reaper;
pub mod user_namespace;
