// SPDX-License-Identifier: Apache-2.0 OR MIT
//! login and logout, and where credentials come from otherwise: who gets one, who does not, and that nobody sees it.

mod sandbox;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use sandbox::{Hub, Output, Sandbox, output};
use serde_json::{Value, json};
use stos_testkit::docker_registry::{DockerRegistry, DockerRegistryOptions, HTPASSWD, PASSWORD, USER};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::registry::{Auth, Fault, Options, Registry, Rule};
use stos_testkit::require;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// [`USER`] and [`PASSWORD`] as they are in a file of credentials.
const AUTH: &str = "c3Rvczpjb3JyZWN0IGhvcnNl";

fn image(text: &str) -> Image {
    let tar = TarBuilder::new().entry(Entry::file("f", text).mode(0o755)).finish();
    ImageBuilder::new().layer(Layer::gzip(tar)).command(&["/f"]).build()
}

/// A registry that lets in [`USER`] alone, and serves one image as `team/app:1`.
fn registry(auth: Auth) -> (Hub, Image) {
    let (hub, image) = (Hub::with(Options { auth, ..Options::default() }), image("x"));
    hub.serve(&image, "team/app", "1");
    (hub, image)
}

fn wants_password() -> Auth {
    Auth::Basic(USER.into(), PASSWORD.into())
}

fn put(sandbox: &Sandbox, path: &str, text: &str) -> PathBuf {
    let path = sandbox.home().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

/// Runs it with something on standard input.
fn with_input(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Nothing that was said holds the password, in whatever form.
#[track_caller]
fn hides_password(output: &Output) {
    for secret in [PASSWORD, AUTH] {
        assert!(!format!("{}{}", output.stdout, output.stderr).contains(secret), "{output:?}");
    }
}

#[test]
fn the_real_registry_lets_in_who_is_logged_in() {
    require!(Need::Root, Need::Binary, Need::Tool("docker-registry"), Need::Tool("skopeo"));
    let sandbox = Sandbox::new();
    let storage = tempfile::tempdir().unwrap();
    let image = image("x");
    image.push(DockerRegistry::start(storage.path()).unwrap().address(), "team/app", "1").unwrap();
    let options = DockerRegistryOptions { htpasswd: Some(HTPASSWD), tls: true, read_only: false };
    let registry = DockerRegistry::start_with(storage.path(), options).unwrap();
    let (certs, address) = (sandbox.certs(registry.ca_pem()), registry.address());
    let certs = certs.as_str();
    let reference = format!("{address}/team/app:1");
    let pull = |more: &[&str]| sandbox.run(&[&["--debug", "pull", "--cert-dir", certs, &reference], more].concat());
    let login = |arguments: &[&str], input: &str| {
        with_input(
            sandbox.command().args(["--debug", "login", "--cert-dir", certs]).args(arguments).arg(address),
            input,
        )
    };

    let anonymous = pull(&[]);
    assert!(anonymous.code == 1 && anonymous.stderr.contains("stos login"), "{}", anonymous.stderr);
    let auth_file = sandbox.home().join("run/containers/auth.json");
    let wrong = login(&["-u", USER, "--password-stdin"], "wrong pass\n");
    assert!(wrong.code == 1 && wrong.stderr.contains("does not accept this login"), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("hint: check the user") && !wrong.stderr.contains("wrong pass"), "{}", wrong.stderr);
    assert!(!auth_file.exists(), "what is refused is not stored");

    let good = login(&["-u", USER, "--password-stdin"], &format!("{PASSWORD}\n"));
    assert_eq!((good.code, good.stdout.as_str()), (0, "Login Succeeded!\n"), "{}", good.stderr);
    assert_eq!(fs::metadata(&auth_file).unwrap().permissions().mode() & 0o777, 0o600);
    let stored: Value = serde_json::from_slice(&fs::read(&auth_file).unwrap()).unwrap();
    assert_eq!(stored, json!({"auths": {address: {"auth": AUTH}}}));
    let user = sandbox.run(&["login", "--get-login", address]);
    assert_eq!((user.code, user.stdout.trim()), (0, USER));
    let again = login(&[], "");
    assert!(again.code == 0 && again.stdout.contains("Existing credentials are valid"), "{again:?}");
    let pulled = pull(&[]);
    assert_eq!((pulled.code, pulled.stdout.trim()), (0, image.manifest.digest.as_str()), "{}", pulled.stderr);
    // skopeo takes what stos has stored.
    let inspected = sandbox::tool(
        "skopeo",
        &["inspect", "--authfile", auth_file.to_str().unwrap(), "--cert-dir", certs, &format!("docker://{reference}")],
    );
    assert!(inspected.contains(&image.manifest.digest));

    let out = sandbox.run(&["logout", address]);
    assert_eq!((out.code, out.stdout), (0, format!("Removed login credentials for {address}\n")));
    assert_eq!(pull(&[]).code, 1);
    let nothing = sandbox.run(&["logout", address]);
    assert!(nothing.code == 1 && nothing.stderr.contains("not logged in"), "{}", nothing.stderr);
    assert_eq!(sandbox.run(&["login", "--get-login", address]).code, 1);
    // With its own password for one command; and with the one on the command line stored in a file of the user's choice.
    let given = pull(&["--creds", &format!("{USER}:{PASSWORD}")]);
    assert_eq!(given.code, 0, "{}", given.stderr);
    let file = sandbox.path("my-auth.json");
    let named = login(&["-u", USER, "-p", PASSWORD, "--authfile", file.to_str().unwrap()], "");
    assert_eq!(named.code, 0, "{}", named.stderr);
    assert_eq!(pull(&["--authfile", file.to_str().unwrap()]).code, 0);
    assert_eq!(sandbox.run(&["logout", "--all", "--authfile", file.to_str().unwrap()]).code, 0);
    assert_eq!(pull(&["--authfile", file.to_str().unwrap()]).code, 1);
    for output in [&wrong, &good, &user, &again, &pulled, &given, &named] {
        hides_password(output);
    }
}

#[test]
fn a_credential_is_found_wherever_people_keep_it() {
    require!(Need::Root, Need::Binary);
    for auth in [wants_password(), Auth::bearer_for(USER, PASSWORD)] {
        let (registry_hub, image) = registry(auth);
        let registry = &registry_hub.registry;
        let address = registry.address();
        let reference = format!("{address}/team/app:1");
        let auths = |key: &str| format!("{{\"auths\": {{\"{key}\": {{\"auth\": \"{AUTH}\"}}}}}}");
        let creds = format!("{USER}:{PASSWORD}");
        type Prepare<'a> = &'a dyn Fn(&Sandbox);
        let helper = |sandbox: &Sandbox| {
            write_helper(sandbox, "test", &format!("{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}"))
        };
        let cases: [(&str, Prepare<'_>, &[&str]); 7] = [
            ("run/containers/auth.json", &|it| drop(put(it, "run/containers/auth.json", &auths(&address))), &[]),
            (
                ".config/containers/auth.json: auths",
                &|it| drop(put(it, ".config/containers/auth.json", &auths(&format!("{address}/team")))),
                &[],
            ),
            (
                ".docker/config.json: auths",
                &|it| drop(put(it, ".docker/config.json", &auths(&format!("https://{address}/v1/")))),
                &[],
            ),
            (
                "docker-credential-test",
                &|it| {
                    helper(it);
                    put(it, ".docker/config.json", &format!("{{\"credHelpers\": {{\"{address}\": \"test\"}}}}"));
                },
                &[],
            ),
            (
                "docker-credential-test",
                &|it| {
                    helper(it);
                    put(it, "registries.conf", "credential-helpers = [\"test\", \"containers-auth.json\"]\n");
                },
                &[],
            ),
            ("mine.json: auths", &|it| drop(put(it, "mine.json", &auths(&address))), &["--authfile", "mine.json"]),
            ("--creds", &|_| {}, &["--creds", &creds]),
        ];
        for (source, prepare, options) in cases {
            let sandbox = Sandbox::new();
            let run = |command: &[&str]| {
                let mut stos = sandbox.command();
                let path = format!("{}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap());
                stos.current_dir(sandbox.home()).env("PATH", path).args(command).args(options);
                output(stos.args(["--tls-verify=false", &reference]))
            };
            fs::create_dir_all(sandbox.home()).unwrap();
            let refused = if source == "--creds" {
                None
            } else {
                Some(output(sandbox.command().args(["pull", "--tls-verify=false", &reference])))
            };
            assert!(refused.is_none_or(|refused| refused.code == 1 && refused.stderr.contains("unauthorized")));
            prepare(&sandbox);
            let told = run(&["registry", "explain"]);
            assert!(told.stdout.contains(source), "{source}: {}{}", told.stdout, told.stderr);
            let pulled = run(&["--debug", "pull"]);
            assert_eq!(
                (pulled.code, pulled.stdout.trim()),
                (0, image.manifest.digest.as_str()),
                "{source}: {}",
                pulled.stderr
            );
            for output in [&told, &pulled] {
                hides_password(output);
            }
        }
    }
}

/// Installs a credential helper that has `answer` for everyone. Another process writes it: a file that this one has open for
/// writing could not be run by another thread's child (ETXTBSY).
fn write_helper(sandbox: &Sandbox, name: &str, answer: &str) {
    let directory = sandbox.path("bin");
    fs::create_dir_all(&directory).unwrap();
    let script = format!("#!/bin/sh\ncat > /dev/null\necho '{answer}'\n");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(directory.join(format!("docker-credential-{name}")));
    assert_eq!(with_input(&mut shell, &script).code, 0);
}

#[test]
fn what_cannot_be_had_is_told_and_not_skipped() {
    require!(Need::Root, Need::Binary);
    let (registry_hub, _) = registry(wants_password());
    let registry = &registry_hub.registry;
    let address = registry.address();
    let reference = format!("{address}/team/app:1");
    for (text, words) in [
        (
            format!("{{\"credHelpers\": {{\"{address}\": \"no-such\"}}}}"),
            &["docker-credential-no-such", "config.json", "hint: install"][..],
        ),
        ("{\"auths\": 1}".to_owned(), &["config.json", "auths"]),
        (format!("{{\"auths\": {{\"{address}\": {{\"auth\": \"{}\"}}}}}}", &AUTH[1..]), &["config.json", "auth"]),
    ] {
        let sandbox = Sandbox::new();
        put(&sandbox, ".docker/config.json", &text);
        let failed = sandbox.run(&["--debug", "pull", "--tls-verify=false", &reference]);
        assert!(failed.code == 1 && words.iter().all(|word| failed.stderr.contains(word)), "{text}: {}", failed.stderr);
        let told = sandbox.run(&["registry", "explain", &reference]);
        assert!(told.stdout.contains("cannot be had"), "{}", told.stdout);
        for output in [&failed, &told] {
            assert!(!format!("{}{}", output.stdout, output.stderr).contains(&AUTH[1..]), "{output:?}");
        }
    }
    let sandbox = Sandbox::new();
    let failed = sandbox.run(&["pull", "--authfile", "/no/such", "--tls-verify=false", &reference]);
    assert!(failed.code == 1 && failed.stderr.contains("/no/such"), "{}", failed.stderr);
}

#[test]
fn the_credential_of_the_command_line_goes_to_no_mirror_and_no_location() {
    require!(Need::Root, Need::Binary);
    let (mirror_hub, _) = registry(wants_password());
    let mirror = &mirror_hub.registry;
    let (other_hub, image) = registry(wants_password());
    let other = &other_hub.registry;
    let sandbox = Sandbox::new();
    let hosts = [mirror.address(), other.address()];
    let [host, there] = &hosts;
    let table = |location: &str| {
        format!(
            "[[registry]]\nprefix = \"{there}\"\nlocation = \"{location}\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"{host}\"\ninsecure = true\n"
        )
    };
    put(&sandbox, "registries.conf", &table(there));
    let reference = format!("{there}/team/app:1");
    let creds = format!("{USER}:{PASSWORD}");
    let asks =
        |registry: &Registry| registry.requests().iter().any(|request| request.header("authorization").is_some());
    assert_eq!(sandbox.ok(&["pull", "--creds", &creds, &reference]).trim(), image.manifest.digest);
    assert_eq!((asks(mirror), asks(other)), (false, true));
    assert!(mirror.requests().iter().any(|request| request.method == "GET"), "it was asked all the same");
    // And where the registry's own location leads elsewhere, that is told.
    let elsewhere = format!("[[registry]]\nprefix = \"r.example\"\nlocation = \"{host}\"\ninsecure = true\n");
    put(&sandbox, "registries.conf", &elsewhere);
    let refused = sandbox.run(&["--debug", "pull", "--creds", &creds, "r.example/team/app:1"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("--creds is for the registry that was named"),
        "{}",
        refused.stderr
    );
    assert!(!asks(mirror));
    hides_password(&refused);
}

#[test]
fn options_that_make_no_sense_are_refused_and_show_nothing() {
    require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let creds = format!("{USER}:{PASSWORD}");
    let address_with_user = format!("https://{creds}@r.example/");
    for (arguments, code, said) in [
        (&["pull", "--creds", &format!(":{PASSWORD}"), "r.example/x"][..], 1, "--creds"),
        (&["run", "--creds", &format!(":{PASSWORD}"), "r.example/x"], 125, "--creds"),
        (&["pull", "--creds", USER, "r.example/x"], 1, "hint: give it as --creds USER:PASSWORD"),
        (&["create", "--creds", USER, "r.example/x"], 125, "hint: give it as --creds USER:PASSWORD"),
        (&["pull", "--creds", &creds, "--creds", &creds, "r.example/x"], 1, "--creds"),
        (&["pull", "--creds", &creds, "--no-such", "r.example/x"], 1, "--no-such"),
        (&["login", "-p", PASSWORD, "--password-stdin", "-u", USER, "r.example"], 1, "--password-stdin"),
        (&["login", "-p", PASSWORD, "r.example"], 1, "--username"),
        (&["login", "-u", USER, "r.example"], 1, "--password-stdin"),
        (&["login", "--password-stdin", "r.example"], 1, "--username"),
        (&["login", "-u", USER, "--password-stdin", "r.example"], 1, "without a password"),
        (&["login", "-u", "a:b", "-p", PASSWORD, "r.example/x:1"], 1, "HOST"),
        (&["login"], 1, "hint: name the registry"),
        (&["logout"], 1, "hint: name the registry"),
        (&["logout", "--all", "r.example"], 1, "--all"),
        (&["login", &address_with_user], 1, "HOST"),
        (&["login", &address_with_user["https://".len()..]], 1, "HOST"),
    ] {
        let refused = sandbox.run(arguments);
        assert!(refused.code == code && refused.stderr.contains(said), "{arguments:?}: {refused:?}");
        hides_password(&refused);
    }
    // Without a registry the first that is searched is meant, and what another tool has stored is not removed.
    put(&sandbox, "registries.conf", "unqualified-search-registries = [\"r.example\", \"s.example\"]\n");
    put(&sandbox, ".docker/config.json", &format!("{{\"auths\": {{\"r.example\": {{\"auth\": \"{AUTH}\"}}}}}}"));
    assert_eq!(sandbox.ok(&["login", "--get-login"]).trim(), USER);
    let kept = sandbox.run(&["logout"]);
    assert!(
        kept.code == 1 && kept.stderr.contains(".docker/config.json") && kept.stderr.contains("hint:"),
        "{}",
        kept.stderr
    );
    sandbox.ok(&["logout", "--authfile", sandbox.home().join(".docker/config.json").to_str().unwrap()]);
    assert_eq!(sandbox.run(&["login", "--get-login"]).code, 1);
}

#[test]
fn who_lists_processes_sees_no_password() {
    require!(Need::Root, Need::Binary);
    let (registry_hub, _) = registry(wants_password());
    let registry = &registry_hub.registry;
    registry.add_rule(Rule::on("/v2/").fault(Fault::SlowHeader(Duration::from_secs(10))));
    let sandbox = Sandbox::new();
    let (address, creds) = (registry.address(), format!("{USER}:{PASSWORD}"));
    let short = format!("-p={PASSWORD}");
    let (joined, reference) = (format!("--creds={creds}"), format!("{address}/team/app:1"));
    for (arguments, hidden) in [
        (&["login", "--tls-verify=false", "-u", USER, "-p", PASSWORD, &address][..], PASSWORD),
        (&["login", "--tls-verify=false", "-u", USER, &short, &address], PASSWORD),
        (&["pull", "--tls-verify=false", "--creds", &creds, &reference], &creds),
        (&["run", "--tls-verify=false", &joined, &reference], &creds),
    ] {
        registry.take_requests();
        let mut child = sandbox.command().args(arguments).spawn().unwrap();
        while registry.requests().is_empty() {
            assert_eq!(child.try_wait().unwrap(), None, "{arguments:?}");
            std::thread::yield_now();
        }
        let seen = fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let seen = String::from_utf8(seen).unwrap();
        assert!(seen.contains(&"x".repeat(hidden.len())) && !seen.contains(PASSWORD), "{seen:?}");
    }
}

/// A terminal of its own (script(1)), on which the command asks.
struct Terminal {
    script: std::process::Child,
    seen: String,
}

impl Terminal {
    fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let stos = sandbox.command();
        let words = [stos.get_program()].into_iter().chain(stos.get_args()).map(|word| word.to_str().unwrap());
        let line: Vec<_> = words.chain(arguments.iter().copied()).collect();
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-f", "-E", "always", "-c", &line.join(" "), "/dev/null"]);
        for (name, value) in stos.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self { script, seen: String::new() }
    }

    /// Waits for a question, and types.
    fn answer(&mut self, question: &str, keys: &str) {
        let from = self.seen.len();
        while !self.seen[from..].contains(question) {
            let mut byte = [0];
            let count = self.script.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert_eq!(count, 1, "no question {question:?} in {:?}", self.seen);
            self.seen.push(char::from(byte[0]));
        }
        self.script.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Sends a signal to the command, and to nobody else on the terminal.
    fn signal(&self, sandbox: &Sandbox, signal: &str) {
        let stos = sandbox.command().get_program().to_owned();
        let root = sandbox.data_root();
        let is_it = |process: &std::path::Path| {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words.next() == Some(stos.as_encoded_bytes())
                && words.any(|word| word == root.as_os_str().as_encoded_bytes())
        };
        let mut processes = fs::read_dir("/proc").unwrap().map(|process| process.unwrap().path());
        let found = processes.find(|process| is_it(process)).unwrap();
        let pid = found.file_name().unwrap().to_str().unwrap();
        assert_eq!(output(Command::new("kill").args(["-s", signal, pid])).code, 0);
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = Vec::new();
        self.script.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        let status = self.script.wait().unwrap();
        (status.code(), self.seen + &String::from_utf8_lossy(&rest))
    }
}

#[test]
fn on_a_terminal_it_asks_and_the_password_is_not_seen() {
    require!(Need::Root, Need::Binary, Need::Tool("script"));
    let (registry_hub, image) = registry(wants_password());
    let registry = &registry_hub.registry;
    let address = registry.address();
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::start(&sandbox, &["login", "--tls-verify=false", &address]);
    terminal.answer("Username: ", &format!("{USER}\n"));
    terminal.answer("Password: ", &format!("wrong\u{15}{PASSWORD}X\u{7f}\n"));
    let (code, seen) = terminal.end();
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("Login Succeeded!") && !seen.contains(PASSWORD) && !seen.contains("wrong"), "{seen:?}");
    assert_eq!(sandbox.ok(&["login", "--get-login", &address]).trim(), USER);
    sandbox.ok(&["logout", &address]);
    let reference = format!("{address}/team/app:1");
    let pull = ["pull", "--tls-verify=false", "--creds", USER, &reference];
    let mut terminal = Terminal::start(&sandbox, &pull);
    terminal.answer("Password of stos: ", &format!("{PASSWORD}\n"));
    let (code, seen) = terminal.end();
    assert!(code == Some(0) && seen.contains(&image.manifest.digest) && !seen.contains(PASSWORD), "{seen:?}");
    // A name that is stored is shown as text.
    let stored =
        put(&sandbox, "odd.json", &format!("{{\"auths\": {{\"{address}\": {{\"auth\": \"YRtbMkpiOng=\"}}}}}}"));
    let login = ["login", "--tls-verify=false", "--authfile", stored.to_str().unwrap(), &address];
    let mut terminal = Terminal::start(&sandbox, &login);
    terminal.answer("Username (a\\u{1b}[2Jb): ", "\n");
    terminal.answer("Password: ", "\u{3}");
    assert!(!terminal.end().1.contains("\u{1b}[2J"));
    // Ctrl-C ends it, and gives the terminal back as it was: stty tells.
    let mut terminal = Terminal::start(&sandbox, &[&pull[..], &["; echo code=$?; stty -a"]].concat());
    terminal.answer("Password of stos: ", "corr\u{3}");
    let (_, seen) = terminal.end();
    assert!(
        seen.contains("code=130") && seen.contains(" echo ") && seen.contains(" icanon") && !seen.contains("corr"),
        "{seen:?}"
    );
}

#[test]
fn a_signal_at_the_question_leaves_a_terminal_that_shows_what_is_typed() {
    require!(Need::Root, Need::Binary, Need::Tool("script"));
    let sandbox = Sandbox::new();
    for (command, question) in [
        (&["login", "-u", USER, "r.example"][..], "Password: "),
        // This one becomes another program then.
        (&["pull", "--creds", USER, "r.example/x"], "Password of stos: "),
    ] {
        for (signal, code) in [("HUP", 129), ("INT", 130), ("QUIT", 131), ("TERM", 143)] {
            let mut terminal = Terminal::start(&sandbox, &[command, &["; echo code=$?; stty -a"]].concat());
            terminal.answer(question, "");
            terminal.signal(&sandbox, signal);
            let (_, seen) = terminal.end();
            for expected in [&format!("code={code}"), " echo ", " icanon"] {
                assert!(seen.contains(expected), "{command:?} {signal} {expected:?}: {seen:?}");
            }
        }
    }
}
