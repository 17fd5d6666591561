// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The front door for developers: `cargo xtask COMMAND`.
//!
//! | module | command |
//! |---|---|
//! | [`demo`] | from an image reference to a running container, stage by stage, on this machine alone |
//! | [`setup`] | what the tests need: Debian's tools, erofs-utils, the real images; with `--peers` the other engines |
//! | [`mod@test`] | setup, the release build, every test |
//! | [`mod@bench`] | stos beside the other engines, and the limit beside it: pulls, containers, layers, memory |
//! | [`guard`] | system calls and instructions, held against the recorded ones |
//! | [`startup_order`] | the functions that commands start with, for the linker |
//! | [`engines`] | the newest podman and containerd with stos as their runtime; the lifecycle suite on runc and crun |
//! | [`runtimes`] | `run` and `exec` of a bundle beside crun's and runc's |
//! | [`confinement`] | what today's podman lets a container do, held against ours or recorded for the tests |
//! | [`podman_day`] | what today's podman answers to the lines of a user's day, held against the test's or recorded |
//! | [`soak`] | commands against each other on one store, for minutes |
//! | [`kills`] | SIGKILL at moments spread over a pull, a create, a delete and a removal |
//! | [`power_cut`] | the disk as a power cut would leave it, at each of its flushes and between |
//! | [`fuzz`] | the fuzz targets, built and run |
//! | [`check`] | formatting, lints, floors, documentation, licences |
//! | [`syscall_table`] | the system calls that seccomp profiles may name, from the kernel's headers |
//! | [`check_layers`] | the floors and walls of `crates/README.md` |
//!
//! [`process`] runs programs, [`hierarchy`] mounts what crun needs of cgroups, [`place`] holds roots of their own, [`small_images`] makes images, [`workspace`] knows where things are.

// A command for people: its output is its purpose.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod check;
mod check_layers;
mod check_named_tests;
mod confinement;
mod coverage;
mod demo;
mod engines;
#[cfg(target_arch = "x86_64")]
mod faults;
mod fuzz;
mod guard;
mod hierarchy;
mod kills;
mod place;
mod podman_day;
mod power_cut;
mod process;
mod runtimes;
mod setup;
mod small_images;
mod soak;
#[cfg(target_arch = "x86_64")]
mod startup_order;
mod syscall_table;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developers' commands of stos.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Pull, validate, create and run an image made from this machine's own shell (root)
    Demo,
    /// Install what the tests need and make the real test images; a second run is instant (root, Debian)
    Setup {
        /// Also install the newest podman, containerd, crun, runc, umoci and skopeo, in a root of their own
        #[arg(long)]
        peers: bool,
    },
    /// Run a command in the root that `setup --peers` made; the host's / is /host there (root)
    InPeers {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Set up, build the release binary, run every test of the workspace (root)
    Test {
        /// Passed on to `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure stos beside the engines that `setup --peers` installed: medians and ratios of one run (root)
    Bench(bench::Options),
    /// Count system calls and instructions, and fail where they have risen by more than 5 % over bench/guard.json (root)
    Guard {
        /// Write the file anew for this kind of host
        #[arg(long)]
        record: bool,
    },
    /// Run commands step by step, and write the functions that they run through into crates/stos/startup.ld (root, x86_64)
    #[cfg(target_arch = "x86_64")]
    StartupOrder,
    /// The newest podman and containerd with stos as their runtime, and the lifecycle suite on today's runc and crun (root)
    Engines,
    /// Measure `run` and `exec` of a bundle beside the crun and runc that `setup --peers` installed: medians and ratios (root)
    Runtimes {
        /// How many of each
        #[arg(long, default_value_t = 40)]
        rounds: usize,
        /// In the peers' root already: where everything is
        #[arg(long, hide = true)]
        inside: Option<std::path::PathBuf>,
    },
    /// Hold what a container may do by default against the podman that `setup --peers` installed (root)
    Confinement {
        /// Record podman's answers for the tests instead
        #[arg(long)]
        record: bool,
    },
    /// Hold what podman answers to the lines of a user's day against what the test of stos expects (root)
    PodmanDay {
        /// Record its answers instead
        #[arg(long)]
        record: bool,
    },
    /// Run the tests instrumented: lines executed by crate, and public functions that no test executes
    Coverage {
        /// The libraries' own tests alone, and nothing where llvm-cov would have to be installed first
        #[arg(long)]
        quick: bool,
        /// Run none: tell again what the last run has counted
        #[arg(long, conflicts_with = "quick")]
        report: bool,
    },
    /// Let each file-system call of each command go wrong: killed, or failed as on a full or broken disk (root, x86_64)
    #[cfg(target_arch = "x86_64")]
    Faults {
        /// One error at each point instead of all
        #[arg(long)]
        quick: bool,
        /// podman and containerd instead, at so many points of each command
        #[arg(long, value_name = "POINTS", conflicts_with = "quick")]
        peers: Option<usize>,
        /// Tell each fault, and what had come of it
        #[arg(long, conflicts_with = "peers")]
        verbose: bool,
        /// These commands alone, or peers
        only: Vec<String>,
    },
    /// Pull, create, run, remove and sweep against each other on one store: no command may fail (root)
    Soak {
        /// For how long
        #[arg(long, default_value_t = 5)]
        minutes: u64,
    },
    /// SIGKILL spread over a pull, a create, a delete and a removal: the next command must work and find everything right (root)
    Kills {
        /// At how many moments of each
        #[arg(long, default_value_t = 50)]
        moments: u32,
    },
    /// Cut the power at each flush of a disk and in between: what a command had reported as done must be there (root)
    PowerCut {
        /// About 60 cuts of each file system instead of all
        #[arg(long)]
        quick: bool,
        /// What decides which unflushed writes are lost; printed, and by default another each time
        #[arg(long)]
        seed: Option<u64>,
        /// These file systems alone
        only: Vec<String>,
    },
    /// Run the fuzz targets of fuzz/, each for so long, and print the totals (the target erofs as root)
    Fuzz {
        /// For how many seconds each
        #[arg(long, default_value_t = 120)]
        seconds: u64,
        /// How many side by side; without it one for each processor
        #[arg(long)]
        jobs: Option<usize>,
        /// These targets alone
        only: Vec<String>,
    },
    /// Formatting, lints, floors, documentation; licences where cargo-deny is installed
    Check,
    /// Fail where a crate depends on one that it must not see
    CheckLayers,
    /// Print the rows of `stos-runtime`'s table of system calls, made from the sources of the crate linux-raw-sys
    SyscallTable {
        /// The directory of those sources, as cargo unpacks them
        sources: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Demo => demo::run(),
        Task::Setup { peers } => setup::run(peers),
        Task::InPeers { command } => setup::peers::enter(&command),
        Task::Test { arguments } => test::run(&arguments),
        Task::Bench(options) => bench::run(&options),
        Task::Guard { record } => guard::run(record),
        #[cfg(target_arch = "x86_64")]
        Task::StartupOrder => startup_order::run(),
        Task::Engines => engines::run(),
        Task::Runtimes { rounds, inside: None } => runtimes::run(rounds),
        Task::Runtimes { rounds, inside: Some(work) } => runtimes::measure(&work, rounds),
        Task::Confinement { record } => confinement::run(record),
        Task::PodmanDay { record } => podman_day::run(record),
        #[cfg(target_arch = "x86_64")]
        Task::Faults { peers: Some(points), only, .. } => faults::run_peers(points, &only),
        #[cfg(target_arch = "x86_64")]
        Task::Faults { quick, verbose, only, peers: None } => faults::run(faults::Options { quick, verbose }, &only),
        Task::Coverage { quick, report } => coverage::run(quick, report),
        Task::Soak { minutes } => soak::run(minutes),
        Task::Kills { moments } => kills::run(moments),
        Task::PowerCut { quick, seed, only } => power_cut::run(quick, seed, &only),
        Task::Fuzz { seconds, jobs, only } => fuzz::run(seconds, jobs, &only),
        Task::Check => check::run(),
        Task::CheckLayers => check_layers::run(),
        Task::SyscallTable { sources } => syscall_table::run(&sources),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
