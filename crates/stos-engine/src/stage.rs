// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Times the stages of a command, and says what each took.

use std::time::Instant;

/// Runs one stage inside a span of its name, and says at its end how long it took and how many bytes it concerned.
///
/// `bytes` is asked of a success; a stage without bytes says 0. A failure is not logged here: it is returned.
pub(crate) fn stage<T, E>(
    name: &'static str,
    bytes: impl FnOnce(&T) -> u64,
    run: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let span = tracing::info_span!("stage", stage = name);
    let _entered = span.enter();
    let started = Instant::now();
    let result = run()?;
    let ms = started.elapsed().as_secs_f64() * 1000.0;
    tracing::info!(stage = name, bytes = bytes(&result), ms = (ms * 1000.0).round() / 1000.0, "stage done");
    Ok(result)
}

/// For stages that concern no bytes.
pub(crate) fn no_bytes<T>(_: &T) -> u64 {
    0
}
