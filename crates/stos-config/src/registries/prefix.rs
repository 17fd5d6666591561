// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which prefixes a reference has (containers-registries.conf(5), "Choosing a `[[registry]]` TOML table").

use crate::names::split_port;

/// Gives how many bytes of `name` a prefix covers, where it is one. `name` begins with a host.
///
/// `*.example.com` covers the host without its port, which is what upstream puts a location in place of. A prefix that
/// is a host without a port is no prefix of the same host with one: upstream takes it for one by an accident that it
/// asks not to rely on.
pub(super) fn matched(name: &str, prefix: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let (host, _) = split_port(name.split('/').next().unwrap_or_default());
        return (host.len() > domain.len() && host.ends_with(domain)).then_some(host.len());
    }
    let rest = name.strip_prefix(prefix)?;
    let continues = match rest.as_bytes().first() {
        None | Some(b'/') => true,
        Some(b':' | b'@') => prefix.contains('/'),
        Some(_) => false,
    };
    continues.then_some(prefix.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_separators() {
        for (name, prefix, expected) in [
            ("example.com/a/b:1", "example.com", Some(11)),
            ("example.com/a/b:1", "example.com/a", Some(13)),
            ("example.com/a/b:1", "example.com/a/b", Some(15)),
            ("example.com/a/b:1", "example.com/a/b:1", Some(17)),
            ("example.com/a/b@sha256:0", "example.com/a/b", Some(15)),
            ("example.com/a/b:1", "example.com/a/b:", None),
            ("example.com/a/b:12", "example.com/a/b:1", None),
            ("example.com/ab", "example.com/a", None),
            ("example.com.evil/a", "example.com", None),
            ("example.com:5000/a", "example.com", None),
            ("example.com:5000/a", "example.com:5000", Some(16)),
            ("example.com:50000/a", "example.com:5000", None),
            ("example.com", "example.com", Some(11)),
            ("a.example.com/x", "*.example.com", Some(13)),
            ("a.b.example.com:5000/x", "*.example.com", Some(15)),
            ("a.example.com.example.com/x", "*.example.com", Some(25)),
            ("example.com/x", "*.example.com", None),
            ("aexample.com/x", "*.example.com", None),
            ("a.example.com.evil/x", "*.example.com", None),
            ("evil/a.example.com", "*.example.com", None),
        ] {
            assert_eq!(matched(name, prefix), expected, "{name} {prefix}");
        }
    }
}
