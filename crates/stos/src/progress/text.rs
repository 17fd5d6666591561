// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Amounts, rates and times for people, and lines that fit a terminal.

use std::time::Duration;

/// The widest bar, in columns.
const BAR_MAX: usize = 40;
/// A bar that is narrower says nothing.
const BAR_MIN: usize = 8;

/// Gives an amount of bytes in three digits: powers of 1,000, as podman and docker have it.
pub fn bytes(count: u64) -> String {
    scaled(count as f64, count)
}

fn scaled(value: f64, exact: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if value < 999.5 {
        return format!("{exact} B");
    }
    let (mut value, mut unit) = (value / 1000.0, 0);
    // What would be rounded to four digits is one of the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Gives a rate, in bytes a second. What is no number, as of no time at all, is none.
pub fn rate(per_second: f64) -> String {
    if !per_second.is_finite() || per_second < 0.0 {
        return "- B/s".to_owned();
    }
    format!("{}/s", scaled(per_second, per_second as u64))
}

/// Gives how fast `count` bytes came in `took`, in bytes a second; infinite where no time has passed.
pub fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Gives how long something took.
pub fn took(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 9.95 => format!("{seconds:.1} s"),
        _ => whole(time.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)),
    }
}

fn whole(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Gives how long `remaining` bytes will take at this rate, in bytes a second; `-` where nobody can say.
pub fn left(remaining: u64, per_second: f64) -> String {
    /// Who has to wait for four days knows enough.
    const MAX: f64 = 360_000.0;
    let seconds = remaining as f64 / per_second;
    if (0.0..MAX).contains(&seconds) { whole(seconds.ceil() as u64) } else { "-".to_owned() }
}

/// How far something has come.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    /// Bytes that have come.
    pub received: u64,
    /// All its bytes; 0 where nobody has said how many.
    pub size: u64,
    /// Bytes a second.
    pub rate: f64,
}

impl Position {
    /// Gives how much of it has come, in per cent; 0 of an unknown size.
    pub fn percent(&self) -> u64 {
        let percent = u128::from(self.received) * 100 / u128::from(self.size.max(1));
        if self.size == 0 { 0 } else { u64::try_from(percent.min(100)).unwrap_or(100) }
    }

    /// Gives how long the rest will take.
    pub fn left(&self) -> String {
        if self.size == 0 { "-".to_owned() } else { left(self.size.saturating_sub(self.received), self.rate) }
    }

    /// Gives a line about it that is at most `width` columns wide: with a bar where there is room for one, then amounts, then a
    /// percentage alone.
    pub fn line(&self, name: &str, width: usize) -> String {
        let (rate, left) = (rate(self.rate), self.left());
        let received = bytes(self.received);
        if self.size == 0 {
            return cut(&format!("{name} {received:>7} {rate:>9}"), width);
        }
        let amounts = format!("{received:>7}/{:7} {rate:>9} {left:>10} left", bytes(self.size));
        let spare = width.saturating_sub(name.len() + amounts.len() + 4);
        if spare >= BAR_MIN {
            return format!("{name} [{}] {amounts}", self.bar(spare.min(BAR_MAX)));
        }
        for line in [format!("{name} {amounts}"), format!("{name} {:>3} % {rate} {left} left", self.percent())] {
            if line.len() <= width {
                return line;
            }
        }
        cut(&format!("{name} {:>3} %", self.percent()), width)
    }

    fn bar(&self, columns: usize) -> String {
        let full = u128::from(self.received.min(self.size)) * columns as u128 / u128::from(self.size.max(1));
        let full = usize::try_from(full).unwrap_or(columns);
        let tip = if full < columns { ">" } else { "" };
        format!("{:columns$}", format!("{}{tip}", "=".repeat(full)))
    }
}

/// Cuts a line to `width` columns.
pub fn cut(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_three_digits() {
        for (count, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_995, "10.0 kB"),
            (99_950, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (28_234_567, "28.2 MB"),
            (1_280_000_000, "1.28 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!(rate(1_250_000.0), "1.25 MB/s");
        assert_eq!(rate(12.9), "12 B/s");
        assert_eq!(rate(0.0), "0 B/s");
        for none in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(rate(none), "- B/s");
        }
    }

    #[test]
    fn times_are_as_exact_as_they_are_useful() {
        let said = |seconds| took(Duration::from_secs_f64(seconds));
        assert_eq!(said(0.04), "0.0 s");
        assert_eq!(said(9.94), "9.9 s");
        assert_eq!(said(9.96), "10 s");
        assert_eq!(said(61.0), "1 min 01 s");
        assert_eq!(said(7_384.0), "2 h 03 min");
        assert_eq!(per_second(3_000, Duration::from_millis(1500)), 2000.0);
        assert_eq!(left(1000, 400.0), "3 s");
        assert_eq!(left(0, 400.0), "0 s");
        for unknown in [0.0, f64::NAN, -1.0, 0.000_1] {
            assert_eq!(left(1000, unknown), "-", "{unknown}");
        }
    }

    #[test]
    fn a_line_fits_whatever_the_width() {
        let position = Position { received: 12_000_000, size: 48_000_000, rate: 2_000_000.0 };
        let line = |width| position.line("0123456789ab", width);
        assert_eq!(
            line(120),
            "0123456789ab [==========>                             ] 12.0 MB/48.0 MB 2.00 MB/s       18 s left"
        );
        assert_eq!(line(80), "0123456789ab [=====>                 ] 12.0 MB/48.0 MB 2.00 MB/s       18 s left");
        assert_eq!(line(60), "0123456789ab 12.0 MB/48.0 MB 2.00 MB/s       18 s left");
        assert_eq!(line(40), "0123456789ab  25 % 2.00 MB/s 18 s left");
        assert_eq!(line(20), "0123456789ab  25 %");
        assert_eq!(line(5), "01234");
        let slow = Position { received: 1, size: 999_999_999_999, rate: 3_000_000.0 };
        let odd = Position { received: u64::MAX, size: 1, rate: f64::NAN };
        let unknown = Position { received: 5_000_000, size: 0, rate: 1_000_000.0 };
        for width in 0..200 {
            for position in [position, slow, odd, unknown] {
                let line = position.line("0123456789ab", width);
                assert!(line.chars().count() <= width && !line.contains('\n'), "{width}: {line:?}");
            }
        }
        assert_eq!(unknown.line("x", 80), "x 5.00 MB 1.00 MB/s");
        assert_eq!((odd.percent(), unknown.percent(), unknown.left().as_str()), (100, 0, "-"));
        let full = Position { received: 8, size: 8, rate: 8.0 };
        assert!(full.line("x", 100).contains("[========================================]"));
    }
}
