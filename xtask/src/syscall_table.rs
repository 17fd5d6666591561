// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask syscall-table`: the names and numbers of system calls that the runtime's seccomp filters know.
//!
//! The numbers are facts of the kernel's `unistd` headers, which the crate `linux-raw-sys` carries for every architecture:
//! this reads its `src/ARCH/general.rs`. What its kernel version does not have yet is in [`LATER`].

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

/// The columns of the table, as `linux-raw-sys` names them.
const COLUMNS: [&str; 5] = ["x86_64", "x32", "x86", "aarch64", "arm"];

/// The bit that all numbers of x32 have; the table has them without it.
const X32_BIT: u32 = 0x4000_0000;

/// Calls that are newer than the headers of linux-raw-sys 0.12.1 (Linux 6.17): column, name, number.
const LATER: [(usize, &str, u32); 1] = [(0, "uprobe", 336)];

/// Prints the table made from the sources of `linux-raw-sys` in `directory`.
pub fn run(directory: &Path) -> anyhow::Result<()> {
    let mut rows: BTreeMap<String, [Option<u32>; 5]> = BTreeMap::new();
    for (column, architecture) in COLUMNS.iter().enumerate() {
        let path = directory.join("src").join(architecture).join("general.rs");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let found: Vec<_> = text.lines().filter_map(constant).collect();
        ensure!(found.len() > 300, "{}: only {} system calls", path.display(), found.len());
        for (name, number) in found {
            rows.entry(name.to_owned()).or_default()[column] = Some(number & !X32_BIT);
        }
    }
    for (column, name, number) in LATER {
        rows.entry(name.to_owned()).or_default()[column] = Some(number);
    }
    print!("{}", render(&rows));
    Ok(())
}

/// The name and number of a line like `pub const __NR_read: u32 = 0;`. ARM has a few of its own, `__ARM_NR_set_tls`.
fn constant(line: &str) -> Option<(&str, u32)> {
    let (name, number) = line.strip_prefix("pub const __")?.split_once(": u32 = ")?;
    let name = name.strip_prefix("NR_").or_else(|| name.strip_prefix("ARM_NR_"))?;
    let is_call = !name.starts_with(|first: char| first.is_ascii_uppercase());
    Some((name, number.strip_suffix(';')?.parse().ok()?)).filter(|_| is_call)
}

fn render(rows: &BTreeMap<String, [Option<u32>; 5]>) -> String {
    let mut text = String::new();
    for (name, numbers) in rows {
        let shown = numbers.map(|number| number.map_or("NO".to_owned(), |number| number.to_string()));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    (\"{name}\", [{}]),", shown.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_other_constants_are_not() {
        assert_eq!(constant("pub const __NR_read: u32 = 0;"), Some(("read", 0)));
        assert_eq!(constant("pub const __NR__llseek: u32 = 140;"), Some(("_llseek", 140)));
        assert_eq!(constant("pub const __ARM_NR_set_tls: u32 = 983045;"), Some(("set_tls", 983_045)));
        for other in ["pub const __NR_SYSCALL_BASE: u32 = 0;", "pub const SA_NODEFER: u32 = 1;", "pub type __u8 = u8;"]
        {
            assert_eq!(constant(other), None, "{other}");
        }
        let rows = BTreeMap::from([("read".to_owned(), [Some(0), Some(0), Some(3), None, Some(3)])]);
        assert_eq!(render(&rows), "    (\"read\", [0, 0, 3, NO, 3]),\n");
    }
}
