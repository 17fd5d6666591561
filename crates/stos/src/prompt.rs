// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Users and passwords, asked for on a terminal: the question on stderr, the answer from standard input.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use anyhow::{Context, bail};
use rustix::stdio::stdin;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
use stos_config::Secret;
use stos_spec::text::shown;
use stos_sys::terminal::RestoreTerminal;

/// The most of an answer that is read, in bytes.
const ANSWER_MAX: usize = 64 << 10;

/// Someone has pressed Ctrl-C at a question.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Asks for a user. An empty answer means `usual`, where there is one.
///
/// # Errors
/// Where standard input ends, or is no terminal: then `otherwise` says what to do.
pub fn user(usual: Option<&str>, otherwise: &str) -> anyhow::Result<String> {
    expect_terminal("the user", otherwise)?;
    // It is from a file or a helper.
    say(&usual.map_or_else(|| "Username: ".to_owned(), |usual| format!("Username ({}): ", shown(usual))));
    let mut answer = String::new();
    let length = io::stdin().lock().take(ANSWER_MAX as u64).read_line(&mut answer).context("cannot read the user")?;
    match (answer.trim(), usual) {
        ("", Some(usual)) if length > 0 => Ok(usual.to_owned()),
        ("", _) => bail!("no user was given"),
        (user, _) => Ok(user.to_owned()),
    }
}

/// Asks for a password, which the terminal does not show.
///
/// # Errors
/// [`Interrupted`]; where standard input ends, or is no terminal: then `otherwise` says what to do.
pub fn password(question: &str, otherwise: &str) -> anyhow::Result<Secret> {
    expect_terminal("the password", otherwise)?;
    let hidden = Hidden::begin().context("cannot hide what is typed")?;
    say(question);
    let answer = typed(io::stdin().lock().bytes());
    drop(hidden);
    say("\n");
    answer
}

/// Reads a password that a program gives: all of standard input but the end of its line.
pub fn piped_password() -> anyhow::Result<Secret> {
    let mut text = zeroize::Zeroizing::new(String::new());
    let length = io::stdin().lock().take(ANSWER_MAX as u64 + 1).read_to_string(&mut text);
    if length.context("cannot read the password from standard input")? > ANSWER_MAX {
        bail!("the password on standard input is longer than {ANSWER_MAX} bytes");
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    match line.strip_suffix('\r').unwrap_or(line) {
        "" => bail!("standard input ended without a password"),
        password => Ok(password.into()),
    }
}

fn expect_terminal(what: &str, otherwise: &str) -> anyhow::Result<()> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    bail!("{what} is missing, and standard input is no terminal to ask on\nhint: {otherwise}")
}

fn say(text: &str) {
    // Whoever cannot be asked can still answer.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The terminal of standard input while it shows nothing and gives each key at once: Ctrl-C too, which else would end the program
/// and leave the terminal so. Dropped, it is as it was; so it is where a signal from elsewhere ends the program.
struct Hidden {
    _restore: RestoreTerminal,
}

impl Hidden {
    fn begin() -> io::Result<Self> {
        // SIGHUP, SIGINT, SIGQUIT, SIGTERM.
        let _restore = RestoreTerminal::keep(stdin(), &[1, 2, 3, 15]).map_err(io::Error::other)?;
        let mut hidden = tcgetattr(stdin())?;
        hidden.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
        hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(stdin(), OptionalActions::Now, &hidden)?;
        Ok(Self { _restore })
    }
}

/// Reads what is typed up to the end of the line, as a terminal would edit it.
fn typed(keys: impl Iterator<Item = io::Result<u8>>) -> anyhow::Result<Secret> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    const BACKSPACE: u8 = 8;
    const KILL: u8 = 21;
    const DELETE: u8 = 127;
    let mut line = zeroize::Zeroizing::new(Vec::new());
    for key in keys {
        match key.context("cannot read the password")? {
            b'\n' | b'\r' => return text(&line),
            END if line.is_empty() => break,
            END => return text(&line),
            INTERRUPT => return Err(Interrupted.into()),
            // A character of several bytes goes as a whole.
            BACKSPACE | DELETE => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            KILL => line.clear(),
            _ if line.len() == ANSWER_MAX => bail!("the password is longer than {ANSWER_MAX} bytes"),
            key => line.push(key),
        }
    }
    bail!("no password was given")
}

fn text(bytes: &[u8]) -> anyhow::Result<Secret> {
    // The error of the conversion would quote it.
    std::str::from_utf8(bytes).map(Secret::from).ok().context("the password is no UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_edited_as_on_a_terminal() {
        for (keys, expected) in [
            ("secret\nmore", Ok("secret")),
            ("secret\r", Ok("secret")),
            ("secret\u{4}", Ok("secret")),
            ("\n", Ok("")),
            ("wrong\u{15}secret\n", Ok("secret")),
            ("\u{7f}secrt\u{8}et\n", Ok("secret")),
            ("sä\u{7f}€\u{7f}ecret\n", Ok("secret")),
            ("secret\u{3}\n", Err("interrupted")),
            ("\u{4}", Err("no password was given")),
            ("secret", Err("no password was given")),
        ] {
            let typed = typed(keys.bytes().map(Ok));
            let typed = typed.map(|secret| secret.expose().clone()).map_err(|error| error.to_string());
            assert_eq!(typed, expected.map(str::to_owned).map_err(str::to_owned), "{keys:?}");
        }
        let error = typed(b"s3cret\xff\n".iter().map(|byte| Ok(*byte))).unwrap_err();
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        assert!(typed(std::iter::repeat_with(|| Ok(b'x'))).is_err());
    }
}
