// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Signals by name and by number.

use crate::error::Error;

/// Names of signals 1 to 31 on Linux, without `SIG`.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// The first real-time signal that a program may use: glibc keeps 32 and 33 for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of the signal `text`: a number from 1 to 64, or a name with or without `SIG`, in any case, among them
/// `RTMIN+n` and `RTMAX-n`.
pub fn parse_signal(text: &str) -> Result<i32, Error> {
    let unknown = || Error::Signal { text: text.to_owned() };
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RTMAX).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(at + 1).map_err(|_| unknown());
    }
    let offset = |rest: &str, sign| if rest.is_empty() { Some(0) } else { rest.strip_prefix(sign)?.parse::<u8>().ok() };
    let number = match name {
        "IOT" => Some(6),
        "CLD" => Some(17),
        "POLL" => Some(29),
        _ => name.strip_prefix("RTMIN").and_then(|rest| offset(rest, '+')).map(|up| RTMIN + i32::from(up)).or_else(
            || name.strip_prefix("RTMAX").and_then(|rest| offset(rest, '-')).map(|down| RTMAX - i32::from(down)),
        ),
    };
    number.filter(|number| (1..=RTMAX).contains(number)).ok_or_else(unknown)
}

/// The name of a signal, `SIGTERM` for 15; a real-time one as `SIGRTMIN+n`.
pub fn signal_name(number: i32) -> String {
    match usize::try_from(number).ok().and_then(|at| NAMES.get(at.checked_sub(1)?)) {
        Some(name) => format!("SIG{name}"),
        None if (RTMIN..=RTMAX).contains(&number) => format!("SIGRTMIN+{}", number - RTMIN),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        let cases = [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("64", 64),
            ("SIGSYS", 31),
            ("CLD", 17),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("IOT", 6),
        ];
        for (text, number) in cases {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in ["", "0", "65", "-9", "SIG", "SIGNONE", "RTMIN+31", "RTMAX-64", "RTMIN-1", "9 ", "KILL\0"] {
            assert!(matches!(parse_signal(text), Err(Error::Signal { .. })), "{text:?}");
        }
    }

    #[test]
    fn names_are_given_back() {
        assert_eq!(
            (signal_name(15), signal_name(37), signal_name(99)),
            ("SIGTERM".into(), "SIGRTMIN+3".into(), "99".into())
        );
    }
}
