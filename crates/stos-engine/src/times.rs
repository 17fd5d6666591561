// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Points in time as people write them.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};

/// Reads a point in time: an RFC 3339 timestamp, a date or a date and time (UTC), seconds since 1970 with or without a part, or how
/// long before `now` it was, such as `10m` or `1h30m`.
pub fn read_time(text: &str, now: Timestamp) -> Option<Timestamp> {
    read_absolute(text).or_else(|| now.checked_sub(read_duration(text)?).ok())
}

/// The same for a time that is yet to come: a duration counts from `now` on, as podman has it for `--until`.
pub fn read_time_ahead(text: &str, now: Timestamp) -> Option<Timestamp> {
    read_absolute(text).or_else(|| now.checked_add(read_duration(text)?).ok())
}

fn read_absolute(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).ok();
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        let since = SignedDuration::try_from_secs_f64(text.parse().ok()?).ok()?;
        return Timestamp::UNIX_EPOCH.checked_add(since).ok();
    }
    // Of a duration nothing is a date.
    let date = text.parse::<civil::DateTime>().ok()?;
    TimeZone::UTC.to_timestamp(date).ok()
}

/// Reads a duration as Go writes it: numbers with units, one after the other (time.ParseDuration).
pub fn read_duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut sum = SignedDuration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let count: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        rest = &rest[unit..];
        sum = sum.checked_add(SignedDuration::try_from_secs_f64(count * seconds).ok()?)?;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_points_or_durations() {
        let now: Timestamp = "2026-02-01T00:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z"),
            ("2026-01-31T12:00:00", "2026-01-31T12:00:00Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("86400", "1970-01-02T00:00:00Z"),
            ("86400.5", "1970-01-02T00:00:00.5Z"),
            ("10m", "2026-01-31T23:50:00Z"),
            ("1h30m", "2026-01-31T22:30:00Z"),
        ] {
            assert_eq!(read_time(text, now), Some(expected.parse().unwrap()), "{text}");
        }
        assert_eq!(read_time_ahead("10m", now), Some("2026-02-01T00:10:00Z".parse().unwrap()));
        assert_eq!(read_time_ahead("86400", now), Some("1970-01-02T00:00:00Z".parse().unwrap()));
        for text in ["", "soon", "10", "m", "1.2.3", "10x", "-"] {
            assert_eq!(read_time(text, now).is_some(), text == "10", "{text}");
        }
    }
}
