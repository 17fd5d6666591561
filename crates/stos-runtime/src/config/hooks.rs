// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the launch honours of `hooks`.

use oci_spec::runtime::Spec;

use super::ConfigError;
use crate::hooks::{Hook, Hooks, is_path};

/// Takes the hooks of `spec`. Whether a program exists is seen when it is its turn: one of the container's may come with a mount.
pub(super) fn of(spec: &Spec) -> Result<Hooks, ConfigError> {
    let Some(asked) = spec.hooks() else { return Ok(Hooks::default()) };
    #[allow(deprecated, reason = "engines still use prestart")]
    let prestart = asked.prestart();
    Ok(Hooks {
        prestart: list("prestart", prestart.as_deref())?,
        create_runtime: list("createRuntime", asked.create_runtime().as_deref())?,
        create_container: list("createContainer", asked.create_container().as_deref())?,
        start_container: list("startContainer", asked.start_container().as_deref())?,
        poststart: list("poststart", asked.poststart().as_deref())?,
        poststop: list("poststop", asked.poststop().as_deref())?,
    })
}

fn list(kind: &str, hooks: Option<&[oci_spec::runtime::Hook]>) -> Result<Vec<Hook>, ConfigError> {
    hooks.unwrap_or_default().iter().enumerate().map(|(at, hook)| read(&format!("hooks.{kind}[{at}]"), hook)).collect()
}

fn read(name: &str, hook: &oci_spec::runtime::Hook) -> Result<Hook, ConfigError> {
    if !is_path(hook.path()) {
        return Err(ConfigError::invalid(format!("{name}.path"), "an absolute path", hook.path()));
    }
    let timeout = match hook.timeout() {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds @ 1..) => Some(seconds),
            // config.md: "timeout MUST be greater than zero".
            _ => return Err(ConfigError::invalid(format!("{name}.timeout"), "more than 0", seconds)),
        },
    };
    let args = hook.args().clone().unwrap_or_default();
    let env = hook.env().clone().unwrap_or_default();
    if let Some(text) = args.iter().chain(&env).find(|text| text.contains('\0')) {
        return Err(ConfigError::invalid(name, "strings without NUL bytes", text));
    }
    // A variable without a name can be no variable.
    if let Some(text) = env.iter().find(|text| text.starts_with('=') || !text.contains('=')) {
        return Err(ConfigError::invalid(format!("{name}.env"), "KEY=VALUE", text));
    }
    Ok(Hook { path: hook.path().clone(), args, env, timeout })
}
