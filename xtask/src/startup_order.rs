// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask startup-order`: which functions the commands that are called often run through, for the linker.
//!
//! The kernel maps a program 64 KiB at a time, when one of its pages is first needed. A command runs through a tenth of the program, and
//! where the linker puts that tenth together it is mapped in far fewer pieces (`docs/adr/0013-startup-order.md`). Each command is run step by
//! step (`PTRACE_SINGLESTEP`), its children too; the addresses it has been at are looked up among the symbols of the program, and these become a
//! linker script, `crates/stos/startup.ld`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use stos_testkit::environment::{scratch, tool};
use stos_testkit::shell::through_shell;

use crate::faults::tracer::ended_is_fine;
use crate::place::Place;
use crate::process::{output, step};
use crate::small_images;
use crate::workspace::{Metadata, binary_under_test};

/// The script, from the workspace's root.
const SCRIPT: &str = "crates/stos/startup.ld";
/// A name without its hash stands for all functions of that name where they have no more than so many bytes beside those that run, and a
/// third of these; else the name has its hash.
const SPARE: u64 = 256;
/// All functions of a name without its hash follow behind those that run, where they have no more than so many bytes beside these. In a build whose
/// hashes are others they stand for those that run.
const FOLLOWING: u64 = 16 << 10;
/// Before a function's name in that of its section.
const PREFIX: &str = "      .text.";
/// The same of what the compiler takes for cold. GNU ld takes minutes over one pattern for both, whose wildcard comes so early.
const COLD_PREFIX: &str = "      .text.unlikely.";
/// The size of one on x86-64.
const HUGE_PAGE: u64 = 2 << 20;
/// Below this share of functions that are there the script is of another program.
const LEAST_KNOWN: f64 = 0.6;

const HEAD: &str = "\
/* SPDX-License-Identifier: Apache-2.0 OR MIT
   Written by `cargo xtask startup-order`: what the commands that are called often run through lies together, and it and the constants on
   huge pages (docs/adr/0013-startup-order.md, 0015-startup-in-huge-pages.md). */

/* Where the program is entered: far from what it asks to have in huge pages. */
SECTIONS
{
  .text.stos_entry : { *(.text.stos_entry) }
}
INSERT AFTER .fini;

SECTIONS
{
  .rodata : ALIGN(CONSTANT(MAXPAGESIZE))
  {
    stos_constants = .;
    *(.rodata .rodata.*)
    . = ALIGN(CONSTANT(MAXPAGESIZE));
    stos_constants_end = .;
  }
}
INSERT AFTER .eh_frame;

/* The C library's code has sections without names; commands run through much of it. */
SECTIONS
{
  .text.startup_path : ALIGN(CONSTANT(MAXPAGESIZE))
  {
    stos_startup_path = .;
    *(
";
const MIDDLE: &str = "      .text.main
    )
    *libc.a:*(.text .text.*)
    *(
";
const TAIL: &str = "    )
    stos_startup_path_end = ALIGN(CONSTANT(MAXPAGESIZE));
  }
}
INSERT BEFORE .text;
";

/// Runs the commands and writes the script.
pub fn run() -> anyhow::Result<()> {
    let binary = binary_under_test()?;
    let functions = Functions::of(&symbols(&binary)?)?;
    let seen = step("running commands step by step", || run_commands(&binary, &functions))?;
    let patterns = Patterns::of(&functions, &seen);
    let path = Metadata::load()?.workspace_root.join(SCRIPT);
    fs::write(&path, patterns.script())?;
    let bytes: u64 = seen.iter().map(|at| functions.0[at].size).sum();
    println!("{}: {} functions of {} KiB in {} patterns", path.display(), seen.len(), bytes / 1024, patterns.ran.len());
    Ok(())
}

/// Fails where the script is that of another program: its functions have other names by now.
pub fn check(binary: &Path) -> anyhow::Result<()> {
    let script = fs::read_to_string(Metadata::load()?.workspace_root.join(SCRIPT))?;
    let symbols = symbols(binary)?;
    let functions = Functions::of(&symbols)?;
    let there: BTreeSet<_> = functions.0.values().filter_map(|function| without_hash(&function.name)).collect();
    // Each name is there twice, once with this prefix.
    let named: BTreeSet<_> = script.lines().filter_map(|line| line.strip_prefix(COLD_PREFIX)).collect();
    let is_known = |name: &&&str| without_hash(name).is_some_and(|name| there.contains(&name));
    let share = named.iter().filter(is_known).count() as f64 / named.len().max(1) as f64;
    println!("{:<32} {:>11.0} %", format!("functions of {SCRIPT}"), share * 100.0);
    anyhow::ensure!(share >= LEAST_KNOWN, "{SCRIPT} is of another program: `cargo xtask startup-order` writes it anew");
    HugePages::of(&symbols)?.check()
}

/// What the program asks to have in huge pages, by the symbols that the script makes.
#[derive(Debug)]
struct HugePages {
    constants: Range<u64>,
    startup_path: Range<u64>,
    entry: u64,
}

impl HugePages {
    fn of(symbols: &str) -> anyhow::Result<Self> {
        let find = |name: &str| {
            let line = symbols.lines().find(|line| line.split_whitespace().next_back() == Some(name));
            let address = line.and_then(|line| u64::from_str_radix(line.split_whitespace().next()?, 16).ok());
            address.with_context(|| format!("the program has no symbol {name}"))
        };
        Ok(Self {
            constants: find("stos_constants")?..find("stos_constants_end")?,
            startup_path: find("stos_startup_path")?..find("stos_startup_path_end")?,
            entry: find("stos_entry")?,
        })
    }

    /// Fails where a part does not fill huge pages, or the entry is so near that the kernel reads of a part what it reads of the entry.
    fn check(&self) -> anyhow::Result<()> {
        for part in [&self.constants, &self.startup_path] {
            let is_whole = [part.start, part.end].iter().all(|address| address.is_multiple_of(HUGE_PAGE));
            let is_apart = self.entry + HUGE_PAGE <= part.start || part.end + HUGE_PAGE <= self.entry;
            anyhow::ensure!(is_whole && is_apart && !part.is_empty(), "not in huge pages, or entered there: {self:x?}");
        }
        Ok(())
    }
}

/// What nm(1) says of the symbols of a program.
fn symbols(binary: &Path) -> anyhow::Result<String> {
    let mut nm = Command::new(tool("nm").context("nm is not installed")?);
    output(nm.args(["--print-size", "--defined-only"]).arg(binary))
}

struct Function {
    name: String,
    size: u64,
}

/// The functions of a program by their address.
struct Functions(BTreeMap<u64, Function>);

impl Functions {
    /// Those among its symbols; it is loaded where it was linked.
    fn of(symbols: &str) -> anyhow::Result<Self> {
        let functions: BTreeMap<_, _> = symbols.lines().filter_map(function).collect();
        anyhow::ensure!(!functions.is_empty(), "the program has no symbols");
        Ok(Self(functions))
    }

    /// The function at an address: by its own one.
    fn find(&self, address: u64) -> Option<u64> {
        let (start, function) = self.0.range(..=address).next_back()?;
        (address < start + function.size).then_some(*start)
    }
}

/// Reads a line of nm: `00000000007ee6c0 00000000000000a2 T name`.
fn function(line: &str) -> Option<(u64, Function)> {
    let mut words = line.split_whitespace();
    let (address, size, kind, name) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let is_code = matches!(kind, "t" | "T" | "w" | "W");
    is_code.then_some((number(address)?, Function { name: name.to_owned(), size: number(size)? }))
}

/// Runs what users and engines call often, and gives the functions that ran.
fn run_commands(binary: &Path, functions: &Functions) -> anyhow::Result<BTreeSet<u64>> {
    let directory = scratch();
    let layout = directory.path().join("layout");
    small_images::image(&small_images::base()?, "text").write_layout(&layout, "shell")?;
    let place = Place::new(binary.to_owned())?;
    place.ok(&["pull", "--quiet", &format!("oci:{}:shell", layout.display())])?;
    let id = place.ok(&["images", "--quiet"])?;
    let image = id.trim();
    // The first one mounts the image.
    place.ok(&["run", "--rm", image, "true"])?;
    let commands: [&[&str]; 8] = [
        &["create", "--name", "one", image, "sleep", "1000"],
        &["start", "one"],
        &["exec", "one", "true"],
        &["ps"],
        &["state", "one"],
        &["stop", "--time", "0", "one"],
        &["rm", "one"],
        &["run", "--rm", image, "true"],
    ];
    let mut seen = BTreeSet::new();
    for words in commands {
        step_through(&place.stos(words), functions, &mut seen).with_context(|| words.join(" "))?;
    }
    Ok(seen)
}

/// Runs a command to its end, with all its children and threads, one instruction at a time. What it has started in the background goes on as
/// it likes then.
fn step_through(command: &Command, functions: &Functions, seen: &mut BTreeSet<u64>) -> anyhow::Result<()> {
    let child = through_shell("kill -STOP $$", command).stdout(Stdio::null()).spawn()?;
    let first = Pid::from_raw(i32::try_from(child.id())?);
    // It has stopped itself, so that nothing of it is missed.
    waitpid(first, Some(WaitPidFlag::WUNTRACED))?;
    let options = Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(first, options).context("PTRACE_SEIZE")?;
    kill(first, Signal::SIGCONT)?;
    let (mut code, mut live) = (None, BTreeSet::from([first]));
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Err(Errno::ECHILD) => break,
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let Some(pid) = status.pid() else { continue };
        match status {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                live.remove(&pid);
                if let WaitStatus::Exited(_, ended) = status
                    && pid == first
                {
                    code = Some(ended);
                    // A container's monitor and its process may wait for long: they stop for this, and are let go of.
                    live.iter().try_for_each(|pid| ended_is_fine(ptrace::interrupt(*pid)))?;
                }
            }
            status if code.is_some() => ended_is_fine(ptrace::detach(pid, signal(status)))?,
            status => {
                live.insert(pid);
                if let Ok(registers) = ptrace::getregs(pid) {
                    seen.extend(functions.find(registers.rip));
                }
                ended_is_fine(ptrace::step(pid, signal(status)))?;
            }
        }
    }
    anyhow::ensure!(code == Some(0), "it ended with {code:?}");
    Ok(())
}

/// The signal that a stopped process is to get; those of the tracing are ours.
fn signal(status: WaitStatus) -> Option<Signal> {
    match status {
        WaitStatus::Stopped(_, signal) if !matches!(signal, Signal::SIGTRAP | Signal::SIGSTOP) => Some(signal),
        _ => None,
    }
}

/// The name of a function without what hangs on the compiler and on the versions of crates: a pattern of sections' names. `None` for a name
/// that is not Rust's.
fn without_hash(name: &str) -> Option<String> {
    if name.starts_with("_ZN") {
        // `…17h` and 16 digits, `E`, and what the optimiser has added.
        let end = name.rfind("17h")?;
        return Some(format!("{}17h*", &name[..end]));
    }
    // `Cs`, the crate's hash, `_`.
    let rest = name.strip_prefix("_R")?;
    let (rest, added) = without_number(rest);
    let mut parts = rest.split("Cs");
    let mut pattern = format!("_R{}", parts.next()?);
    for part in parts {
        let rest = part.split_once('_').map_or("", |(_, rest)| rest);
        write!(pattern, "Cs*_{rest}").ok()?;
    }
    Some(pattern + added)
}

/// A name without the optimiser's own number behind it, which is another one each time, and the wildcard that stands for it.
fn without_number(name: &str) -> (&str, &'static str) {
    name.split_once(".llvm.").map_or((name, ""), |(name, _)| (name, "*"))
}

/// Names of functions, as patterns.
#[derive(Default)]
struct Patterns {
    /// Of those that ran: without their hashes where those alone have such a name, or nearly.
    ran: BTreeSet<String>,
    /// Of those too where others have such a name, without their hashes.
    following: BTreeSet<String>,
}

impl Patterns {
    fn of(functions: &Functions, seen: &BTreeSet<u64>) -> Self {
        let (mut sizes, mut ran) = (BTreeMap::<_, u64>::new(), BTreeMap::<_, Vec<&Function>>::new());
        for (at, function) in &functions.0 {
            let Some(name) = without_hash(&function.name) else { continue };
            *sizes.entry(name.clone()).or_default() += function.size;
            if seen.contains(at) {
                ran.entry(name).or_default().push(function);
            }
        }
        let mut patterns = Self::default();
        for (name, functions) in ran {
            let size: u64 = functions.iter().map(|function| function.size).sum();
            let beside = sizes[&name] - size;
            if beside <= size / 3 + SPARE {
                patterns.ran.insert(name);
                continue;
            }
            let whole = functions.iter().map(|function| without_number(&function.name));
            patterns.ran.extend(whole.map(|(name, number)| format!("{name}{number}")));
            if beside <= FOLLOWING {
                patterns.following.insert(name);
            }
        }
        patterns
    }

    fn script(&self) -> String {
        let mut script = String::from(HEAD);
        for (patterns, end) in [(&self.ran, MIDDLE), (&self.following, TAIL)] {
            for pattern in patterns {
                for prefix in [PREFIX, COLD_PREFIX] {
                    script.push_str(prefix);
                    script.push_str(pattern);
                    script.push('\n');
                }
            }
            script.push_str(end);
        }
        script
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_hangs_on_the_compiler() {
        for (name, expected) in [
            ("_ZN4stos4main17h2c2201334785539eE", Some("_ZN4stos4main17h*")),
            ("_ZN4stos4main17h2c2201334785539eE.llvm.77", Some("_ZN4stos4main17h*")),
            (
                "_RNvMsl_NtCsjrHSEGnQ3l9_3std2fsNtB5_11OpenOptions5__open",
                Some("_RNvMsl_NtCs*_3std2fsNtB5_11OpenOptions5__open"),
            ),
            ("_RNvMNtCsjrHSEGnQ3l9_3std4timeNtB2_3now.llvm.77", Some("_RNvMNtCs*_3std4timeNtB2_3now*")),
            ("_int_malloc", None),
        ] {
            assert_eq!(without_hash(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn what_is_asked_for_fills_huge_pages() {
        let pages = |startup_path, entry| HugePages { constants: 0x40_0000..0x60_0000, startup_path, entry };
        pages(0x60_0000..0xa0_0000, 0x15e_b319).check().unwrap();
        for (startup_path, entry) in [
            (0x60_0000..0x9f_f000, 0x15e_b319),
            (0x60_1000..0xa0_0000, 0x15e_b319),
            (0x60_0000..0x60_0000, 0x15e_b319),
            (0x80_0000..0xa0_0000, 0x60_0021),
            (0x60_0000..0xa0_0000, 0xa0_0000),
        ] {
            let error = pages(startup_path, entry).check().unwrap_err().to_string();
            assert!(error.contains("huge pages"), "{error}");
        }
    }

    #[test]
    fn a_name_that_many_have_keeps_its_hash() {
        let line = |at: u64, size: u64, name: &str| function(&format!("{at:016x} {size:016x} t {name}"));
        let functions = Functions(
            [
                line(0x1000, 600, "_ZN1a1fE17h0000000000000001E"),
                line(0x2000, 600, "_ZN1a1gE17h0000000000000002E.llvm.7"),
                line(0x3000, 600, "_ZN1a1gE17h0000000000000003E"),
                function("0000000000004000 0000000000000008 D data"),
            ]
            .into_iter()
            .flatten()
            .collect(),
        );
        assert_eq!(functions.find(0x1000 + 599), Some(0x1000));
        assert_eq!((functions.find(0x1000 + 600), functions.find(0xfff)), (None, None));
        let seen = BTreeSet::from([0x1000, 0x2000]);
        let found = Patterns::of(&functions, &seen);
        assert_eq!(Vec::from_iter(&found.ran), ["_ZN1a1fE17h*", "_ZN1a1gE17h0000000000000002E*"]);
        assert_eq!(Vec::from_iter(&found.following), ["_ZN1a1gE17h*"]);
        assert!(found.script().contains("\n      .text._ZN1a1fE17h*\n      .text.unlikely._ZN1a1fE17h*\n"));
    }
}
