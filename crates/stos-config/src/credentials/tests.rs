// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Looking up, from files and helpers. Storing is tested in `tests/login.rs`.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use rustix::process::Pid;

use super::*;

/// A system with a home, files of credentials, and helpers.
struct System(TempDir);

impl System {
    fn new(files: &[(&str, &str)]) -> Self {
        let system = Self(tempfile::tempdir().unwrap());
        fs::create_dir(system.path("home")).unwrap();
        for (path, text) in files {
            system.put(path, text);
        }
        system
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Installs a helper. Another process writes it: a file that this one has open for writing, even for a moment, could not be
    /// run by another thread's child (ETXTBSY).
    fn helper(&self, name: &str, script: &str) {
        use std::io::Write;
        let path = self.path("bin").join(format!("docker-credential-{name}"));
        fs::create_dir_all(self.path("bin")).unwrap();
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"]).arg(path).stdin(std::process::Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        shell.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
    }

    fn environment(&self) -> Environment {
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        Environment::new(self.0.path(), 0).with("HOME", self.path("home")).with("PATH", path)
    }

    fn find_with(&self, options: CredentialOptions, key: &str) -> Result<Found, Error> {
        let environment = self.environment();
        let registries = Registries::load(&environment)?;
        Credentials::new(&environment, &registries, options).find(&key.parse().unwrap())
    }

    fn find(&self, key: &str) -> Result<Found, Error> {
        self.find_with(CredentialOptions::default(), key)
    }

    /// `USER:PASSWORD @ key of the file`, or what it is instead.
    fn told(&self, key: &str) -> String {
        let Some(credential) = self.find(key).unwrap().credential else { return "none".to_owned() };
        let login = match &credential.login {
            Login::Password { user, password } => format!("{user}:{}", password.expose()),
            Login::IdentityToken { user, token } => format!("{user:?} token {}", token.expose()),
        };
        match &credential.source {
            CredentialSource::File(place) => format!("{login} @ {}", place.key),
            CredentialSource::Helper { program, server, .. } => format!("{login} @ {program} {server}"),
            CredentialSource::CommandLine => login,
        }
    }
}

const PODMAN: &str = "run/containers/0/auth.json";
const DOCKER: &str = "home/.docker/config.json";

fn basic(login: &str) -> String {
    format!(r#"{{"auth": "{}"}}"#, STANDARD.encode(login))
}

fn auths(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> = entries.iter().map(|(key, login)| format!("{key:?}: {}", basic(login))).collect();
    format!(r#"{{"auths": {{{}}}}}"#, entries.join(", "))
}

#[test]
fn the_most_specific_key_is_taken() {
    let file = auths(&[
        ("r.example", "host:1"),
        ("r.example/ns", "ns:2"),
        ("r.example/ns/repo", "repo:3"),
        ("r.example:5000", "port:4"),
        ("docker.io/library", "lib:5"),
        ("https://index.docker.io/v1/", "hub:6"),
        ("https://old.example/v2/", "old:7"),
    ]);
    let system = System::new(&[(PODMAN, &file)]);
    for (key, expected) in [
        ("r.example", r#"host:1 @ auths["r.example"]"#),
        ("r.example/x/y", r#"host:1 @ auths["r.example"]"#),
        ("r.example/ns", r#"ns:2 @ auths["r.example/ns"]"#),
        ("r.example/ns/other", r#"ns:2 @ auths["r.example/ns"]"#),
        ("r.example/nsx", r#"host:1 @ auths["r.example"]"#),
        ("r.example/ns/repo", r#"repo:3 @ auths["r.example/ns/repo"]"#),
        ("r.example:5000/ns/repo", r#"port:4 @ auths["r.example:5000"]"#),
        ("r.example:6000/ns", "none"),
        ("docker.io/library/alpine", r#"lib:5 @ auths["docker.io/library"]"#),
        ("docker.io/team/x", r#"hub:6 @ auths["https://index.docker.io/v1/"]"#),
        ("old.example/x", r#"old:7 @ auths["https://old.example/v2/"]"#),
        ("sub.r.example/x", "none"),
        ("example/x", "none"),
    ] {
        let Ok(parsed) = key.parse::<CredentialKey>() else {
            assert_eq!(expected, "none");
            continue;
        };
        assert_eq!(system.told(parsed.as_str()), expected, "{key}");
    }
    let image = "r.example/ns/repo:1".parse().unwrap();
    assert_eq!(CredentialKey::of(&image).as_str(), "r.example/ns/repo");
}

#[test]
fn the_first_file_that_has_one_decides() {
    let files = [
        "run/containers/0/auth.json",
        "home/.config/containers/auth.json",
        DOCKER,
        "home/.dockercfg",
        "etc/containers/auth.json",
    ];
    let system = System::new(&[]);
    for (number, path) in files.iter().enumerate().rev() {
        let text = match path.ends_with(".dockercfg") {
            true => format!(r#"{{"https://r.example/v1/": {}}}"#, basic(&format!("u:{number}"))),
            false => auths(&[("r.example", &format!("u:{number}"))]),
        };
        let path = system.put(path, text);
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let told = system.told("r.example/ns/x");
        assert!(told.starts_with(&format!("u:{number} @ ")), "{told}");
    }
    // One that has nothing for the registry, or is empty, lets the next one speak.
    system.put(files[0], "");
    system.put(files[1], r#"{"auths": null, "credHelpers": null, "unknown": [1]}"#);
    assert!(system.told("r.example").starts_with("u:2"));
}

#[test]
fn a_named_file_is_the_only_one() {
    let system =
        System::new(&[(PODMAN, &auths(&[("r.example", "podman:1")])), ("a.json", &auths(&[("a.example", "a:1")]))]);
    let option = |path: PathBuf| CredentialOptions { authfile: Some(path), ..CredentialOptions::default() };
    let found = system.find_with(option(system.path("a.json")), "a.example").unwrap();
    assert!(found.credential.is_some());
    assert_eq!(system.find_with(option(system.path("a.json")), "r.example").unwrap(), Found::default());
    let missing = system.find_with(option("/no/such".into()), "r.example");
    assert!(matches!(missing, Err(Error::NotThere { named_by: "--authfile", .. })));
    // A variable may name a file that the first login will make.
    let environment = system.environment().with("REGISTRY_AUTH_FILE", "/no/such");
    let credentials = Credentials::new(&environment, &Registries::default(), CredentialOptions::default());
    assert_eq!(credentials.find(&"r.example".parse().unwrap()).unwrap(), Found::default());
}

#[test]
fn entries_come_in_many_forms() {
    let unpadded = STANDARD.encode("u:pw").trim_end_matches('=').to_owned();
    let wrapped = format!("{}\\n{}", &STANDARD.encode("user:pass")[..4], &STANDARD.encode("user:pass")[4..]);
    for (entry, expected) in [
        (basic("u:p:w"), "u:p:w"),
        (basic("u:"), "u:"),
        (basic(":p"), ":p"),
        (basic("u:p\0\0"), "u:p"),
        (basic("ü:ß"), "ü:ß"),
        (format!(r#"{{"auth": "{unpadded}"}}"#), "u:pw"),
        (format!(r#"{{"auth": "{wrapped}"}}"#), "user:pass"),
        (r#"{"username": "u", "password": "p"}"#.into(), "u:p"),
        (format!(r#"{{"username": "x", "password": "y", "auth": "{}"}}"#, STANDARD.encode("u:p")), "u:p"),
        (r#"{"identitytoken": "t"}"#.into(), "None token t"),
        (format!(r#"{{"auth": "{}", "identitytoken": "t"}}"#, STANDARD.encode("u:")), "Some(\"u\") token t"),
        ("{}".into(), "none"),
        (r#"{"auth": ""}"#.into(), "none"),
        (r#"{"auth": null, "email": "x"}"#.into(), "none"),
        (basic("no colon"), "none"),
        ("null".into(), "none"),
    ] {
        let system = System::new(&[(PODMAN, &format!(r#"{{"auths": {{"r.example": {entry}}}}}"#))]);
        let told = system.told("r.example");
        assert_eq!(told.split(" @ ").next(), Some(expected), "{entry}");
    }
    let odd = System::new(&[(PODMAN, &format!(r#"{{"auths": {{"r.example": {}}}}}"#, basic("hunter2")))]);
    let passed_over = odd.find("r.example").unwrap().passed_over;
    assert!(matches!(&passed_over[..], [PassedOver::NoColon(place)] if place.key == r#"auths["r.example"]"#));
    assert!(!passed_over[0].to_string().contains("hunter2"));
}

#[test]
fn what_is_broken_is_an_error_that_shows_nothing() {
    let entry = |entry: &str| format!(r#"{{"auths": {{"r.example": {entry}}}}}"#);
    for text in [
        "hunter2".to_owned(),
        r#"{"auths": {"r.example": {"auth": "hunter2"#.into(),
        r#"["hunter2"]"#.into(),
        r#"{"auths": "hunter2"}"#.into(),
        r#"{"auths": {}, "auths": {"r.example": {"auth": "hunter2"}}}"#.into(),
        r#"{"auths": {"r.example": {"auth": "hunter2"}, "r.example": {}}}"#.into(),
        r#"{"credHelpers": {"r.example": "../hunter2/x"}}"#.replace("hunter2", "y"),
        r#"{"credHelpers": {"r.example": 7}}"#.into(),
        r#"{"credHelpers": ["hunter2"]}"#.into(),
        r#"{"credsStore": {}}"#.into(),
        entry(r#""hunter2""#),
        entry(r#"{"auth": 7}"#),
        entry(r#"{"auth": "hunter2!"}"#),
        entry(&format!(r#"{{"auth": "{}"}}"#, STANDARD.encode([b'u', b':', 0xff]))),
        entry(r#"{"identitytoken": ["hunter2"]}"#),
        format!("\u{feff}{}", auths(&[("r.example", "u:hunter2")])),
        r#"{"auths":"#.repeat(5000),
        format!(r#"{{"x": "{}"}}"#, "x".repeat(2 << 20)),
    ] {
        let system = System::new(&[(PODMAN, &text)]);
        let error = system.find("r.example").unwrap_err();
        let shown = format!("{error} {error:?}");
        let start = &text[..text.len().min(80)];
        assert!(!shown.contains("hunter2") && shown.contains("auth.json"), "{start}: {shown}");
    }
    let system = System::new(&[]);
    system.put(PODMAN, b"{\"auths\": {\"r.example\": {\"auth\": \"\xff\"}}}");
    assert!(matches!(system.find("r.example"), Err(Error::Syntax { .. })));
    // Another registry's broken entry harms no one.
    let other = entry(r#"{"auth": "!"}"#).replace("r.example", "other.example");
    assert_eq!(System::new(&[(PODMAN, &other)]).told("r.example"), "none");
}

#[test]
fn the_systems_file_is_for_root_alone() {
    let system = System::new(&[("etc/containers/auth.json", &auths(&[("r.example", "u:p")]))]);
    fs::set_permissions(system.path("etc/containers/auth.json"), std::os::unix::fs::PermissionsExt::from_mode(0o640))
        .unwrap();
    let error = system.find("r.example").unwrap_err();
    assert!(matches!(error, Error::ReadableByOthers { mode: 0o640, .. }), "{error}");
}

const ANSWER: &str =
    r#"read server; printf '{"ServerURL": "%s", "Username": "%s", "Secret": "s%s"}' "$server" "$server" "$1""#;

#[test]
fn helpers_are_asked_for_their_registries() {
    let system = System::new(&[(
        DOCKER,
        r#"{"credHelpers": {"r.example:5000": "one", "https://index.docker.io/v1/": "one"}, "auths": {"r.example:5000": {"auth": "dTpw"}}, "credsStore": "two"}"#,
    )]);
    system.helper("one", ANSWER);
    system.helper("two", ANSWER);
    for (key, expected) in [
        ("r.example:5000/ns/x", "r.example:5000:sget @ docker-credential-one r.example:5000"),
        ("docker.io/team/x", "https://index.docker.io/v1/:sget @ docker-credential-one https://index.docker.io/v1/"),
        ("other.example/x", "other.example:sget @ docker-credential-two other.example"),
    ] {
        assert_eq!(system.told(key), expected);
    }
}

#[test]
fn an_entry_comes_before_docker_s_store() {
    let system =
        System::new(&[(DOCKER, r#"{"auths": {"r.example": {"auth": "dTpw"}, "s.example": {}}, "credsStore": "two"}"#)]);
    system.helper("two", ANSWER);
    assert_eq!(system.told("r.example"), r#"u:p @ auths["r.example"]"#);
    assert_eq!(system.told("s.example"), "s.example:sget @ docker-credential-two s.example");
    assert_eq!(
        system.told("docker.io"),
        "https://index.docker.io/v1/:sget @ docker-credential-two https://index.docker.io/v1/"
    );
}

#[test]
fn the_helpers_of_registries_conf_are_asked_in_order() {
    let conf = r#"credential-helpers = ["none", "containers-auth.json", "last", "never"]"#;
    let system = System::new(&[("etc/containers/registries.conf", conf), (PODMAN, &auths(&[("r.example", "file:p")]))]);
    system.helper("none", "echo credentials not found in native keychain; exit 1");
    system.helper("last", ANSWER);
    assert!(system.told("r.example/ns").starts_with("file:p"));
    assert_eq!(system.told("s.example/ns"), "s.example:sget @ docker-credential-last s.example");
    // A helper that fails is told only where no other has anything.
    system.helper("none", "echo broken >&2; exit 1");
    assert!(system.told("r.example/ns").starts_with("file:p"));
    system.helper("last", "echo credentials not found in native keychain; exit 1");
    system.helper("never", "echo credentials not found in native keychain; exit 1");
    assert!(matches!(system.find("s.example"), Err(Error::HelperFailed { program, .. }) if program.ends_with("-none")));
}

/// What a helper's answer comes to.
fn answered(script: &str) -> Result<Option<Login>, Error> {
    let system = System::new(&[(PODMAN, r#"{"credHelpers": {"r.example": "h"}}"#)]);
    system.helper("h", script);
    let options = CredentialOptions { helper_limit: Duration::from_secs(20), ..CredentialOptions::default() };
    Ok(system.find_with(options, "r.example")?.credential.map(|credential| credential.login))
}

#[test]
fn answers_are_read() {
    let token = Login::IdentityToken { user: None, token: "t".into() };
    assert_eq!(answered(r#"echo '{"Username": "<token>", "Secret": "t"}'"#).unwrap(), Some(token));
    for script in [
        r#"echo '{"Username": "", "Secret": ""}'"#,
        "echo '{}'",
        "printf 'credentials not found in native keychain'; exit 1",
        "echo credentials not found in native keychain >&2; exit 1",
    ] {
        assert_eq!(answered(script).unwrap(), None, "{script}");
    }
    // It is no matter to whom the server's name is told, and whether a stream is closed.
    let login = Some(Login::Password { user: "u".into(), password: "p".into() });
    assert_eq!(answered(r#"exec <&-; echo '{"Username": "u", "Secret": "p"}'"#).unwrap(), login);
    assert_eq!(answered(r#"exec 2>&-; cat >/dev/null; echo '{"Username": "u", "Secret": "p"}'"#).unwrap(), login);
}

#[test]
fn a_helper_that_fails_says_why() {
    for (script, expected) in [
        ("echo 'no keychain' >&2; exit 3", "(exit status: 3): no keychain"),
        ("echo 'on stdout'; exit 1", "(exit status: 1): on stdout"),
        ("exit 1", "(exit status: 1): it says nothing"),
        (r#"echo '{"Secret": "hunter2"}'; exit 1"#, "(exit status: 1): it says nothing"),
        ("printf 'a\\033[2Jb' >&2; exit 1", r"(exit status: 1): a\u{1b}[2Jb"),
        ("kill -9 $$", "(signal: 9 (SIGKILL)): it says nothing"),
        ("yes words | head -c 100000 >&2; exit 1", "…"),
    ] {
        let error = answered(script).unwrap_err();
        assert!(matches!(error, Error::HelperFailed { verb: "get", .. }), "{script}: {error}");
        let text = error.to_string();
        assert!(
            text.starts_with("docker-credential-h get failed for r.example ") && text.ends_with(expected),
            "{text}"
        );
        assert!(text.len() < 1000 && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn an_answer_that_is_none_is_an_error_that_shows_nothing() {
    for script in [
        "echo hunter2",
        "true",
        r#"echo '["hunter2"]'"#,
        r#"echo '{"Username": "u", "Secret": ["hunter2"]}'"#,
        r#"echo '{"Username": "u", "Secret": "hunter2", "Secret": "x"}'"#,
        "yes hunter2",
        "yes hunter2 | head -c 70000",
    ] {
        let error = answered(script).unwrap_err();
        assert!(matches!(error, Error::HelperAnswer { .. }), "{script}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[test]
fn a_helper_that_does_not_end_is_ended() {
    let system = System::new(&[(PODMAN, r#"{"credHelpers": {"r.example": "h"}}"#)]);
    system.helper("h", "sleep 1000 & echo $$ $! > \"$HOME/pids\"; wait");
    // On a busy machine a second may end before the shell has begun.
    let pids = [1, 5, 30].into_iter().find_map(|seconds| {
        let options = CredentialOptions { helper_limit: Duration::from_secs(seconds), ..CredentialOptions::default() };
        let error = system.find_with(options, "r.example").unwrap_err();
        assert!(matches!(error, Error::HelperTimeout { verb: "get", .. }), "{error}");
        fs::read_to_string(system.path("home/pids")).ok().filter(|pids| pids.ends_with('\n'))
    });
    let pids = pids.unwrap();
    let (pid, other) = pids.trim().split_once(' ').unwrap();
    // It is gone, and has been waited for.
    assert!(!Path::new("/proc").join(pid).exists());
    // So is what it has started, unless the tests run on a terminal: then that is in their own process group.
    let is_over = || match fs::read_to_string(format!("/proc/{other}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    if helper::is_on_terminal() {
        rustix::process::kill_process(Pid::from_raw(other.parse().unwrap()).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
    }
    while !is_over() {
        std::thread::yield_now();
    }
}

#[test]
fn what_a_helper_leaves_behind_is_not_waited_for() {
    let system = System::new(&[(PODMAN, r#"{"credHelpers": {"r.example": "h"}}"#)]);
    system.helper("h", "sleep 1000 & echo $! > \"$HOME/pid\"\necho '{\"Username\": \"u\", \"Secret\": \"p\"}'");
    assert!(system.told("r.example").starts_with("u:p"));
    let pid = fs::read_to_string(system.path("home/pid")).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_helper_that_is_missing_is_named() {
    let system = System::new(&[(PODMAN, r#"{"credHelpers": {"r.example": "no-such"}}"#)]);
    let error = system.find("r.example").unwrap_err();
    let Error::HelperMissing { program, named_by } = &error else { panic!("{error}") };
    assert_eq!((program.as_str(), named_by.key.as_str()), ("docker-credential-no-such", r#"credHelpers["r.example"]"#));
    // A store that came with a configuration from elsewhere is no reason to fail.
    let system = System::new(&[(DOCKER, r#"{"credsStore": "desktop"}"#)]);
    let found = system.find("r.example").unwrap();
    assert!(found.credential.is_none());
    assert!(
        matches!(&found.passed_over[..], [PassedOver::StoreMissing { program, .. }] if program == "docker-credential-desktop")
    );
}

#[test]
fn a_store_that_fails_is_passed_over() {
    let system = System::new(&[
        (DOCKER, r#"{"credsStore": "s", "credHelpers": {"own.example": "s"}}"#),
        ("home/.dockercfg", &format!(r#"{{"late.example": {}}}"#, basic("u:p"))),
    ]);
    for (script, said) in [
        ("echo 'no bus' >&2; exit 1", "docker-credential-s get failed for r.example (exit status: 1): no bus"),
        ("echo hunter2", "docker-credential-s get for r.example: expected a JSON object"),
        ("yes hunter2", "docker-credential-s get for r.example: expected at most 64 KiB"),
    ] {
        system.helper("s", script);
        let found = system.find("r.example/x").unwrap();
        let [passed_over @ PassedOver::StoreFailed { place, .. }] = &found.passed_over[..] else { panic!("{found:?}") };
        assert_eq!((found.credential, place.key.as_str()), (None, "credsStore"));
        let told = passed_over.to_string();
        assert!(
            told.contains("config.json: credsStore: ") && told.contains(said) && !told.contains("hunter2"),
            "{told}"
        );
        // Other files are looked at, and who is named for a registry must answer.
        assert!(system.told("late.example").starts_with("u:p"));
        assert!(system.find("own.example").is_err());
    }
}

#[test]
fn a_helper_that_cannot_be_run_is_told() {
    let system = System::new(&[(PODMAN, r#"{"credHelpers": {"r.example": "h"}}"#)]);
    let path = system.put("bin/docker-credential-h", "#!/no/such/interpreter\n");
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let error = system.find("r.example").unwrap_err();
    assert!(matches!(&error, Error::HelperStart { program, .. } if program == "docker-credential-h"), "{error}");
}

#[test]
fn nothing_shows_a_secret() {
    let system = System::new(&[(PODMAN, &auths(&[("r.example", "u:hunter2")]))]);
    let found = system.find("r.example").unwrap();
    assert!(!format!("{found:?}").contains("hunter2"));
    let Some(Credential { source, .. }) = found.credential else { panic!() };
    assert_eq!(source.to_string(), format!("{}: auths[\"r.example\"]", system.path(PODMAN).display()));
}
