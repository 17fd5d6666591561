// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands as a shell executes them.

use std::process::{Command, Stdio};

/// A command as a shell executes it after `script`, which may open descriptors, set variables or stop itself for it. It has the command's
/// arguments and environment, and no input.
pub fn through_shell(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{script}; exec \"$@\"")).arg("sh").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null());
    shell
}
