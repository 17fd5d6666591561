// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().fold(Environment::new("/", 0), |environment, (name, value)| environment.with(name, value))
}

/// Which variable's proxy is taken for a target, or why none.
fn choice(variables: &[(&str, &str)], scheme: Scheme, host: &str) -> String {
    match Proxies::of(&environment(variables)).choose(scheme, host) {
        Ok(ProxyChoice::NoneSet) => "none".to_owned(),
        Ok(ProxyChoice::Loopback) => "loopback".to_owned(),
        Ok(ProxyChoice::Excepted { variable, entry }) => format!("{variable} {entry}"),
        Ok(ProxyChoice::Through { proxy, variable }) => format!("{variable} {proxy}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_scheme_and_the_spelling_decide() {
    use Scheme::{Http, Https};
    let all =
        [("HTTP_PROXY", "a"), ("http_proxy", "b"), ("HTTPS_PROXY", "c"), ("https_proxy", "d"), ("ALL_PROXY", "e")];
    for (variables, scheme, expected) in [
        (&all[..0], Https, "none"),
        (&all, Http, "HTTP_PROXY http://a:80"),
        (&all, Https, "HTTPS_PROXY http://c:80"),
        (&all[1..], Http, "http_proxy http://b:80"),
        (&all[3..], Https, "https_proxy http://d:80"),
        (&all[3..], Http, "ALL_PROXY http://e:80"),
        (&all[..2], Https, "none"),
        (&[("HTTPS_PROXY", ""), ("all_proxy", "socks5h://s")], Https, "all_proxy socks5://s:1080"),
        (&[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "a")], Http, "none"),
        (&[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "a"), ("http_proxy", "b")], Http, "http_proxy http://b:80"),
        (&[("REQUEST_METHOD", "GET"), ("HTTPS_PROXY", "a")], Https, "HTTPS_PROXY http://a:80"),
    ] {
        assert_eq!(choice(variables, scheme, "r.example"), expected, "{variables:?}");
    }
}

#[test]
fn exceptions_follow_go() {
    for (list, host, expected) in [
        ("*", "r.example", Some("*")),
        (" * ", "10.1.2.3", Some("*")),
        ("example.com", "example.com", Some("example.com")),
        ("example.com", "a.example.com:5000", Some("example.com")),
        ("EXAMPLE.com", "a.Example.COM", Some("example.com")),
        ("example.com", "notexample.com", None),
        ("ample.com", "example.com", None),
        (".example.com", "example.com", None),
        (".example.com", "a.example.com", Some(".example.com")),
        ("*.example.com", "a.b.example.com", Some("*.example.com")),
        ("*.example.com", "example.com", None),
        ("example.com:443", "example.com", Some("example.com:443")),
        ("example.com:5000", "example.com", None),
        ("example.com:5000", "example.com:5000", Some("example.com:5000")),
        ("10.0.0.0/8", "10.200.0.1:5000", Some("10.0.0.0/8")),
        ("10.0.0.0/8", "11.0.0.1", None),
        ("0.0.0.0/0", "11.0.0.1", Some("0.0.0.0/0")),
        ("0.0.0.0/0", "r.example", None),
        ("0.0.0.0/0", "[fd00::1]", None),
        ("fd00::/8", "[fd12::1]:5000", Some("fd00::/8")),
        ("::/0", "[fd12::1]", Some("::/0")),
        ("10.0.0.1", "10.0.0.1", Some("10.0.0.1")),
        ("10.0.0.1:5000", "10.0.0.1", None),
        ("10.0.0.1:5000", "10.0.0.1:5000", Some("10.0.0.1:5000")),
        ("10.0.0.1", "[::ffff:10.0.0.1]", Some("10.0.0.1")),
        ("fd00::1", "[fd00::1]:5000", Some("fd00::1")),
        ("[fd00::1]:5000", "[fd00::1]:5000", Some("[fd00::1]:5000")),
        ("[fd00::1]:5000", "[fd00::1]", None),
        ("10.0.0.0/33, 10.0.0.0/x, ., :80, ,host:x", "10.0.0.1", None),
        ("host:x,.,,r.example", "r.example", Some("r.example")),
    ] {
        let found = choice(&[("HTTPS_PROXY", "p"), ("NO_PROXY", list)], Scheme::Https, host);
        let expected = expected.map_or("HTTPS_PROXY http://p:80".to_owned(), |entry| format!("NO_PROXY {entry}"));
        assert_eq!(found, expected, "{list} {host}");
    }
    let lower = [("https_proxy", "p"), ("no_proxy", "r.example")];
    assert_eq!(choice(&lower, Scheme::Https, "r.example"), "no_proxy r.example");
}

#[test]
fn this_machine_is_never_proxied() {
    for host in ["localhost", "LOCALHOST:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "[::ffff:127.0.0.1]"] {
        assert_eq!(choice(&[("ALL_PROXY", "p")], Scheme::Http, host), "loopback", "{host}");
    }
    assert_eq!(choice(&[("ALL_PROXY", "p")], Scheme::Http, "a.localhost"), "ALL_PROXY http://p:80");
}

#[test]
fn addresses_are_read() {
    let proxy = ProxyAddress::parse("https://us%65r:p%40ss:w@[fd00::1]:8443/path").unwrap();
    assert_eq!((proxy.scheme, proxy.host.as_str(), proxy.port), (ProxyScheme::Https, "[fd00::1]", 8443));
    assert_eq!(proxy.user.as_deref(), Some("user"));
    assert_eq!(proxy.password.as_ref().unwrap().expose(), "p@ss:w");
    assert_eq!(format!("{proxy} {proxy:?}"), "https://…@[fd00::1]:8443 ProxyAddress(https://…@[fd00::1]:8443)");
    for (text, expected) in [
        ("proxy", "http://proxy:80"),
        ("proxy:3128", "http://proxy:3128"),
        ("HTTP://proxy:/", "http://proxy:80"),
        ("https://proxy", "https://proxy:443"),
        ("socks5://10.0.0.1", "socks5://10.0.0.1:1080"),
        ("user@proxy", "http://…@proxy:80"),
    ] {
        assert_eq!(ProxyAddress::parse(text).unwrap().to_string(), expected);
    }
}

#[test]
fn what_is_no_proxy_is_an_error_that_shows_nothing() {
    let long = format!("http://u:hunter2@{}", "x/".repeat(500_000));
    for text in [
        "ftp://u:hunter2@proxy",
        "http://u:hunter2@",
        "http://u:hunter2@proxy:x",
        "http://u:hunter2@proxy:0",
        "http://u:hunter2@proxy:65536",
        "http://u:hunter2@[::1",
        "http://u:hunter2%zz@proxy",
        "http://u:hunter2%ff@proxy",
        "http://u:hunter2@pro xy",
        "http://",
    ] {
        let found = choice(&[("HTTPS_PROXY", text)], Scheme::Https, "r.example");
        assert!(found.starts_with("HTTPS_PROXY is no proxy: expected ") && !found.contains("hunter2"), "{found}");
        // Where it would not be used it harms no one.
        assert_eq!(choice(&[("HTTPS_PROXY", text)], Scheme::Https, "localhost"), "loopback");
    }
    assert_eq!(choice(&[("HTTPS_PROXY", &long)], Scheme::Https, "r.example"), "HTTPS_PROXY http://…@x:80");
    let shown = format!("{:?}", Proxies::of(&environment(&[("HTTPS_PROXY", "http://u:hunter2@p")])));
    assert_eq!(shown, r#"Proxies { http: None, https: Some("HTTPS_PROXY") }"#);
}
