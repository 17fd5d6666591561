// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Skips a test whose needs the machine does not meet, with a reason, or fails it where skipping is not allowed.
//!
//! ```
//! use stos_testkit::guard::Need;
//! fn a_test() {
//!     stos_testkit::require!(Need::Root, Need::Tool("umoci"), Need::Image("deb:12"));
//!     // … runs only where all three are there
//! }
//! # if std::env::var_os("STOS_REQUIRED").is_none() { a_test() }
//! ```
//!
//! With `STOS_REQUIRED` set, as in CI, a need that is not met is a panic: a suite that skips everything must not be green.

use std::io::Write;

use crate::environment;

/// Something that a test cannot run without.
#[derive(Clone, Copy, Debug)]
pub enum Need<'a> {
    /// The effective user is root.
    Root,
    /// An executable is there ([`environment::tool`]).
    Tool(&'a str),
    /// A module of Debian's Python is there ([`environment::has_python_module`]).
    PythonModule(&'a str),
    /// The binary under test has been built ([`environment::stos`]).
    Binary,
    /// A real image is in the cache, and `docker-registry` to serve it ([`environment::IMAGES`]).
    Image(&'a str),
    /// Anything that the test has found out itself; the text says what is needed.
    Condition(bool, &'a str),
}

impl Need<'_> {
    /// The reason why the need is not met, or `None` where it is.
    pub fn unmet(&self) -> Option<String> {
        let (met, reason) = match *self {
            Self::Root => (rustix::process::geteuid().is_root(), "root".to_owned()),
            Self::Tool(name) => (environment::tool(name).is_some(), format!("the tool {name} (cargo xtask setup)")),
            Self::PythonModule(name) => {
                (environment::has_python_module(name), format!("the Python module {name} (cargo xtask setup)"))
            }
            Self::Binary => {
                let path = environment::stos();
                (path.is_file(), format!("{} (cargo build --release)", path.display()))
            }
            Self::Image(name) => {
                let there = environment::image_digest(name).is_some() && environment::tool("docker-registry").is_some();
                (there, format!("the image {name} (cargo xtask setup)"))
            }
            Self::Condition(met, reason) => (met, reason.to_owned()),
        };
        (!met).then_some(reason)
    }
}

/// Whether all needs are met. Where not, says so on stderr, past the test harness's capture, and returns `false`.
///
/// # Panics
/// Where a need is not met and `STOS_REQUIRED` is set.
#[track_caller]
pub fn met(needs: &[Need<'_>]) -> bool {
    met_if(needs, environment::is_required())
}

#[track_caller]
fn met_if(needs: &[Need<'_>], required: bool) -> bool {
    let reasons: Vec<String> = needs.iter().filter_map(Need::unmet).collect();
    if reasons.is_empty() {
        return true;
    }
    let reasons = reasons.join(", ");
    assert!(!required, "this test is required ({} is set) and needs {reasons}", environment::REQUIRED);
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: needs {reasons}\n", thread.name().unwrap_or("a test"));
    // Nothing can be done where stderr is closed, and the test's result does not depend on it.
    drop(std::io::stderr().write_all(line.as_bytes()));
    false
}

/// Returns from the test where a `Need` is not met; see [the module](crate::guard).
#[macro_export]
macro_rules! require {
    ($($need:expr),+ $(,)?) => {
        if !$crate::guard::met(&[$($need),+]) {
            return;
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_met() {
        assert!(met(&[Need::Tool("sh"), Need::Condition(true, "nothing")]));
        assert_eq!(Need::Root.unmet().is_none(), rustix::process::geteuid().is_root());
    }

    #[test]
    fn what_is_missing_skips_or_fails() {
        let needs = [Need::Tool("sh"), Need::Tool("no-such-tool"), Need::Condition(false, "a blue moon")];
        assert!(!met_if(&needs, false));
        let message = std::panic::catch_unwind(|| met_if(&needs, true)).unwrap_err();
        let message = message.downcast_ref::<String>().unwrap();
        assert!(message.contains("no-such-tool") && message.contains("a blue moon"), "{message}");
        assert!(Need::Image("no:image").unmet().is_some());
    }

    #[test]
    fn a_skipped_test_returns() {
        fn body(reached: &mut bool, there: bool) {
            if !met_if(&[Need::Condition(there, "a flag")], false) {
                return;
            }
            *reached = true;
        }
        let mut reached = false;
        body(&mut reached, false);
        assert!(!reached);
        body(&mut reached, true);
        assert!(reached);
    }
}
