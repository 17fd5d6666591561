// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands about the host and the store.

pub mod check;
mod df;
mod gc;
pub mod info;
pub mod interrupt;
mod prune;

use crate::cli::{Global, System};
use crate::failure::Failure;

/// Runs a command of the group `system`.
pub fn run(global: &Global, command: System) -> Result<u8, Failure> {
    match command {
        System::Info(args) => info::info(global, &args),
        System::Df(args) => df::df(global, &args),
        System::Gc(args) => gc::gc(global, &args),
        System::Prune(args) => prune::prune(global, &args),
        System::Check(args) => check::check(global, &args),
        System::Man(args) => super::command_line::man(&args),
        System::Sweep(args) => interrupt::sweep(global, &args),
    }
}
