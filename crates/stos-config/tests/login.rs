// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `login` and `logout`: files, helpers, and skopeo on the other side of both.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use stos_config::credentials::{CredentialOptions, Credentials, Location, Login};
use stos_config::registries::Registries;
use stos_config::{Environment, Error, Secret};
use stos_testkit::docker_registry::{DockerRegistry, DockerRegistryOptions};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::{environment, require};
use tempfile::TempDir;

const PODMAN: &str = "run/containers/0/auth.json";

/// A system with a home, and helpers that keep what they store in files.
struct System(TempDir);

impl System {
    fn new() -> Self {
        let system = Self(tempfile::tempdir().unwrap());
        fs::create_dir(system.path("home")).unwrap();
        system
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// Installs a helper that keeps each request in `home/NAME/SERVER`, as it came. Another process writes it: a file that this
    /// one has open for writing could not be run by another thread's child (ETXTBSY).
    fn helper(&self, name: &str) {
        let script = format!(
            "#!/bin/sh\nd=\"$HOME/{name}\"; mkdir -p \"$d\"; key() {{ echo \"$1\" | tr / _; }}\n\
             case $1 in\n\
             store) i=$(cat); s=${{i#*:\\\"}}; printf '%s\\n' \"$i\" > \"$d/$(key \"${{s%%\\\"*}}\")\";;\n\
             get) f=\"$d/$(key \"$(cat)\")\"; test -e \"$f\" || {{ echo credentials not found in native keychain; exit 1; }}; cat \"$f\";;\n\
             erase) f=\"$d/$(key \"$(cat)\")\"; test -e \"$f\" || {{ echo credentials not found in native keychain; exit 1; }}; rm \"$f\";;\n\
             list) cd \"$d\"; printf '{{'; for f in *; do test -e \"$f\" && printf '%s\"%s\": \"u\"' \"$c\" \"$f\" && c=,; done; echo '}}';;\n\
             esac\n"
        );
        let path = self.path("bin").join(format!("docker-credential-{name}"));
        fs::create_dir_all(self.path("bin")).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"]).arg(path).stdin(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
    }

    fn environment(&self) -> Environment {
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        Environment::new(self.0.path(), 0).with("HOME", self.path("home")).with("PATH", path)
    }

    fn credentials_with(&self, authfile: Option<PathBuf>) -> Credentials {
        let environment = self.environment();
        let options = CredentialOptions { authfile, ..CredentialOptions::default() };
        Credentials::new(&environment, &Registries::load(&environment).unwrap(), options)
    }

    fn credentials(&self) -> Credentials {
        self.credentials_with(None)
    }

    fn login(&self, key: &str, user: &str, password: &str) -> Result<Location, Error> {
        self.credentials().login(&key.parse()?, user, &Secret::from(password))
    }

    fn logout(&self, key: &str) -> Result<Vec<Location>, Error> {
        self.credentials().logout(&key.parse()?)
    }

    /// `USER:PASSWORD`, or nothing.
    fn found(&self, key: &str) -> Option<String> {
        found(&self.credentials(), key)
    }
}

fn found(credentials: &Credentials, key: &str) -> Option<String> {
    match credentials.find(&key.parse().unwrap()).unwrap().credential?.login {
        Login::Password { user, password } => Some(format!("{user}:{}", password.expose())),
        login => panic!("{login:?}"),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_login_is_found_again() {
    let system = System::new();
    let location = system.login("r.example", "u", "p:\"\\ß\n").unwrap();
    assert_eq!(location, Location::File(system.path(PODMAN)));
    assert_eq!(system.found("r.example/ns/x").as_deref(), Some("u:p:\"\\ß\n"));
    assert_eq!(mode(&system.path(PODMAN)), 0o600);
    assert_eq!(mode(&system.path("run/containers/0")), 0o700);
    system.login("r.example/ns", "n", "q").unwrap();
    system.login("r.example", "u", "new").unwrap();
    assert_eq!(system.found("r.example/ns/x").as_deref(), Some("n:q"));
    assert_eq!(system.found("r.example/y").as_deref(), Some("u:new"));
    // Nothing but the file is left there.
    assert_eq!(fs::read_dir(system.path("run/containers/0")).unwrap().count(), 1);
    assert_eq!(system.logout("r.example/ns").unwrap(), [Location::File(system.path(PODMAN))]);
    assert_eq!(system.found("r.example/ns/x").as_deref(), Some("u:new"));
    assert!(matches!(system.logout("r.example/ns"), Err(Error::NotLoggedIn { .. })));
}

#[test]
fn what_is_no_login_is_refused() {
    let system = System::new();
    for user in ["", "a:b"] {
        assert!(matches!(system.login("r.example", user, "p"), Err(Error::Creds)));
    }
    assert!(matches!(system.login("r.example/x:1", "u", "p"), Err(Error::LoginKey { .. })));
    assert!(matches!(system.logout("r.example"), Err(Error::NotLoggedIn { .. })));
    assert!(!system.path("run").exists());
}

#[test]
fn everything_else_is_kept_word_for_word() {
    let other = r#"{ "auth":"b3RoZXI6cHc=" ,"email" : "é\u00e9", "n": 1.000000000000000000000000001, "deep": [[[{"a" : 1.50}]]] }"#;
    let system = System::new();
    system.put(
        PODMAN,
        &format!("{{\"HttpHeaders\": {{\"b\":1, \"a\": 2.0}},\n \"auths\": {{\"o.example\": {other}, \"r.example\": {{\"auth\": \"eDp5\", \"identitytoken\": \"old\"}}}}, \"psFormat\":\"table {{{{.ID}}}}\\\\t\"}}"),
    );
    system.login("r.example", "u", "p").unwrap();
    let expected = format!(
        "{{\n\t\"HttpHeaders\": {{\"b\":1, \"a\": 2.0}},\n\t\"auths\": {{\n\t\t\"o.example\": {other},\n\t\t\"r.example\": {{\n\t\t\t\"auth\": \"dTpw\"\n\t\t}}\n\t}},\n\t\"psFormat\": \"table {{{{.ID}}}}\\\\t\"\n}}"
    );
    assert_eq!(system.text(PODMAN), expected);
    system.logout("r.example").unwrap();
    assert_eq!(system.text(PODMAN), expected.replace(",\n\t\t\"r.example\": {\n\t\t\t\"auth\": \"dTpw\"\n\t\t}", ""));
    system.credentials().logout_all().unwrap();
    assert!(system.text(PODMAN).contains("\"auths\": {},") && system.text(PODMAN).contains("HttpHeaders"));
}

#[test]
fn a_file_that_is_broken_is_left_alone() {
    let hostile = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for text in ["hunter2", "[]", r#"{"auths": ["hunter2"]}"#, r#"{"auths": {"a": {}, "a": {}}}"#, &hostile] {
        let system = System::new();
        system.put(PODMAN, text);
        for error in [system.login("r.example", "u", "hunter2").unwrap_err(), system.logout("r.example").unwrap_err()] {
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        assert_eq!(system.text(PODMAN), text);
        assert_eq!(fs::read_dir(system.path("run/containers/0")).unwrap().count(), 1);
    }
    let system = System::new();
    system.put(PODMAN, " \n");
    system.login("r.example", "u", "p").unwrap();
    assert_eq!(system.found("r.example").as_deref(), Some("u:p"));
}

#[test]
fn links_are_written_through() {
    let system = System::new();
    for (target, link) in [("vault/there.json", "there"), ("vault/new.json", "new")] {
        fs::create_dir_all(system.path("vault")).unwrap();
        symlink(system.path("hop"), system.path(link)).unwrap();
        fs::remove_file(system.path("hop")).unwrap_or_default();
        // A relative link, through another one.
        symlink(target, system.path("hop")).unwrap();
        if link == "there" {
            system.put(target, r#"{"auths": {"o.example": {}}}"#);
        }
        let credentials = system.credentials_with(Some(system.path(link)));
        credentials.login(&"r.example".parse().unwrap(), "u", &"p".into()).unwrap();
        assert!(system.path(link).is_symlink() && system.path("hop").is_symlink());
        assert!(!system.path(target).is_symlink() && system.text(target).contains("dTpw"));
        assert_eq!(found(&credentials, "r.example").as_deref(), Some("u:p"));
    }
    symlink("loop", system.path("loop")).unwrap();
    let credentials = system.credentials_with(Some(system.path("loop")));
    assert!(credentials.login(&"r.example".parse().unwrap(), "u", &"p".into()).is_err());
}

#[test]
fn owner_stays_and_mode_does_not() {
    require!(Need::Root);
    let system = System::new();
    let path = system.put(PODMAN, "{}");
    std::os::unix::fs::chown(&path, Some(1234), Some(2345)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    system.login("r.example", "u", "p").unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.uid(), found.gid(), mode(&path)), (1234, 2345, 0o600));
}

#[test]
fn logins_at_once_lose_nothing() {
    let system = System::new();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let system = &system;
            scope.spawn(move || system.login(&format!("r{number}.example"), "u", &number.to_string()).unwrap());
        }
    });
    for number in 0..8 {
        assert_eq!(system.found(&format!("r{number}.example")), Some(format!("u:{number}")));
    }
}

#[test]
fn the_runtime_directory_must_be_there() {
    let system = System::new();
    let environment = system.environment().with("XDG_RUNTIME_DIR", "/no/such");
    let credentials = Credentials::new(&environment, &Registries::default(), CredentialOptions::default());
    let error = credentials.login(&"r.example".parse().unwrap(), "u", &"p".into()).unwrap_err();
    assert!(matches!(error, Error::NoRuntimeDirectory { .. }) && error.hint().is_some());
}

#[test]
fn a_directory_that_cannot_be_written_is_told() {
    let system = System::new();
    system.put("file", "");
    let credentials = system.credentials_with(Some(system.path("file/auth.json")));
    let error = credentials.login(&"r.example".parse().unwrap(), "u", &"hunter2".into()).unwrap_err();
    assert!(matches!(error, Error::Write { .. }) && !error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn docker_hub_is_logged_out_of_under_all_its_names() {
    let system = System::new();
    system.put(
        PODMAN,
        r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "docker.io/team": {"auth": "dTpw"}}}"#,
    );
    system.login("docker.io", "v", "q").unwrap();
    assert_eq!(system.found("docker.io/library/x").as_deref(), Some("v:q"));
    system.logout("index.docker.io").unwrap();
    assert_eq!((system.found("docker.io"), system.found("docker.io/team/x")), (None, Some("u:p".to_owned())));
}

#[test]
fn a_registrys_helper_keeps_its_login() {
    let system = System::new();
    system.helper("one");
    let text = r#"{"credHelpers": {"r.example": "one"}}"#;
    system.put(PODMAN, text);
    let location = system.login("r.example", "u", "p\"\\").unwrap();
    assert_eq!(location, Location::Helper("docker-credential-one".into()));
    assert_eq!(system.text(PODMAN), text);
    assert_eq!(
        system.text("home/one/r.example"),
        "{\"ServerURL\":\"r.example\",\"Username\":\"u\",\"Secret\":\"p\\\"\\\\\"}\n"
    );
    assert_eq!(system.found("r.example/x").as_deref(), Some("u:p\"\\"));
    assert!(system.login("o.example", "u", "p").is_ok() && system.text(PODMAN).contains("o.example"));
    assert_eq!(system.logout("r.example").unwrap(), std::slice::from_ref(&location));
    assert!(matches!(system.logout("r.example"), Err(Error::NotLoggedIn { .. })));
    // All of it goes, and the configuration stays.
    system.login("r.example", "u", "p").unwrap();
    assert_eq!(system.credentials().logout_all().unwrap(), [location, Location::File(system.path(PODMAN))]);
    assert!(system.text(PODMAN).contains("\"credHelpers\": {\"r.example\": \"one\"}"));
    assert_eq!((system.found("r.example"), system.found("o.example")), (None, None));
}

#[test]
fn dockers_store_keeps_logins_and_the_file_their_keys() {
    let system = System::new();
    system.helper("two");
    system.put("a.json", r#"{"credsStore": "two", "auths": {"docker.io": {"auth": "b2xkOm9sZA=="}}}"#);
    let credentials = system.credentials_with(Some(system.path("a.json")));
    let location = credentials.login(&"r.example:5000".parse().unwrap(), "u", &"p".into()).unwrap();
    assert_eq!(location, Location::Helper("docker-credential-two".into()));
    assert!(system.text("a.json").contains("\"r.example:5000\": {}"));
    credentials.login(&"docker.io".parse().unwrap(), "v", &"q".into()).unwrap();
    assert!(system.path("home/two/https:__index.docker.io_v1_").exists());
    // The login that stood in the file would have been found before it.
    assert_eq!(found(&credentials, "docker.io/library/x").as_deref(), Some("v:q"));
    assert!(!system.text("a.json").contains("auth\":"));
    let namespaced = credentials.login(&"r.example:5000/ns".parse().unwrap(), "u", &"p".into());
    assert!(matches!(namespaced, Err(Error::NamespaceInHelper { .. })));
    let removed = credentials.logout(&"docker.io".parse().unwrap()).unwrap();
    assert_eq!(removed, [location, Location::File(system.path("a.json"))]);
    assert_eq!(found(&credentials, "docker.io"), None);
    credentials.logout_all().unwrap();
    assert_eq!(found(&credentials, "r.example:5000"), None);
}

#[test]
fn the_helpers_of_registries_conf_come_first() {
    let system = System::new();
    system.helper("one");
    system.put("etc/containers/registries.conf", r#"credential-helpers = ["no-such", "one", "containers-auth.json"]"#);
    assert_eq!(system.login("r.example", "u", "p").unwrap(), Location::Helper("docker-credential-one".into()));
    // Helpers keep no namespaces; the file does.
    assert_eq!(system.login("r.example/ns", "n", "q").unwrap(), Location::File(system.path(PODMAN)));
    // A helper that is missing could keep a login, so it is told.
    assert!(matches!(system.logout("r.example"), Err(Error::HelperMissing { .. })));
    system.login("r.example", "u", "p").unwrap();
    let removed = system.credentials().logout_all().unwrap();
    assert_eq!(removed, [Location::Helper("docker-credential-one".into()), Location::File(system.path(PODMAN))]);
    assert!(!system.path("home/one/r.example").exists());
}

/// What `htpasswd -B` makes of [`PASSWORD`], with the least cost.
const HTPASSWD: &str = "user:$2b$04$bRPv18zxmfa00WiMYZ7B3OqUmEK7T7ef8RkCd9CypsJAqVFswPfCu\n";
const PASSWORD: &str = "s3cret:with/odd\"chars";

fn skopeo(system: &System) -> Command {
    let mut skopeo = Command::new(environment::tool("skopeo").unwrap());
    skopeo.env("HOME", system.path("home")).env_remove("XDG_RUNTIME_DIR").env_remove("REGISTRY_AUTH_FILE");
    skopeo
}

/// Runs it, and gives whether it succeeded and what it said.
fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn skopeo_and_stos_read_each_others_files() {
    require!(Need::Tool("skopeo"), Need::Tool("docker-registry"));
    let system = System::new();
    let options = DockerRegistryOptions { htpasswd: Some(HTPASSWD), ..DockerRegistryOptions::default() };
    let registry = DockerRegistry::start_with(&system.path("storage"), options).unwrap();
    let host = registry.address();
    let (ours, theirs) = (system.path("ours.json"), system.path("theirs.json"));

    // Ours, read by skopeo: it pushes and reads with it, and cannot without.
    let image =
        ImageBuilder::new().layer(Layer::gzip(TarBuilder::new().entry(Entry::file("f", "data")).finish())).build();
    image.write_layout(&system.path("layout"), "1").unwrap();
    let target = format!("docker://{host}/team/app:1");
    let copy = |authfile: &Path| {
        let mut skopeo = skopeo(&system);
        skopeo.args(["--insecure-policy", "copy", "--dest-tls-verify=false", "--authfile"]).arg(authfile);
        run(skopeo.arg(format!("oci:{}:1", system.path("layout").display())).arg(&target))
    };
    let credentials = system.credentials_with(Some(ours.clone()));
    for key in [format!("{host}/other"), host.to_owned()] {
        let key = key.parse().unwrap();
        credentials.login(&key, "user", &if key.as_str() == host { PASSWORD } else { "wrong" }.into()).unwrap();
    }
    let empty = system.put("empty.json", "{}");
    let (pushed, said) = copy(&empty);
    assert!(!pushed && said.contains("authentication required"), "{said}");
    let (pushed, said) = copy(&ours);
    assert!(pushed, "{said}");
    let inspect = |authfile: &Path| {
        run(skopeo(&system).args(["inspect", "--tls-verify=false", "--authfile"]).arg(authfile).arg(&target))
    };
    assert!(inspect(&ours).0);

    // The namespace's login is more specific, to both of us.
    credentials.login(&format!("{host}/team").parse().unwrap(), "user", &"wrong".into()).unwrap();
    assert!(!inspect(&ours).0);
    assert_eq!(found(&credentials, &format!("{host}/team/app")).as_deref(), Some("user:wrong"));
    credentials.logout(&format!("{host}/team").parse().unwrap()).unwrap();
    assert!(inspect(&ours).0);
    let who =
        |authfile: &Path| run(skopeo(&system).args(["login", "--get-login", "--authfile"]).arg(authfile).arg(host));
    assert_eq!(who(&ours), (true, "user\n".to_owned()));

    // Theirs, read and changed by us, and read by skopeo again.
    let (logged_in, said) = run(skopeo(&system)
        .args(["login", "--tls-verify=false", "-u", "user", "-p", PASSWORD, "--authfile"])
        .arg(&theirs)
        .arg(host));
    assert!(logged_in, "{said}");
    let credentials = system.credentials_with(Some(theirs.clone()));
    assert_eq!(found(&credentials, &format!("{host}/team/app")), Some(format!("user:{PASSWORD}")));
    credentials.login(&"r.example".parse().unwrap(), "u", &"p".into()).unwrap();
    assert!(inspect(&theirs).0);
    let (logged_out, said) = run(skopeo(&system).args(["logout", "--authfile"]).arg(&theirs).arg("r.example"));
    assert!(logged_out, "{said}");
    assert_eq!(found(&credentials, "r.example"), None);
    credentials.logout(&host.parse().unwrap()).unwrap();
    assert!(!inspect(&theirs).0 && !who(&theirs).0);

    // For one entry we write what skopeo writes.
    let entry = |text: &str| text.split_whitespace().collect::<String>();
    let (a, b) = (system.path("a.json"), system.path("b.json"));
    system.credentials_with(Some(a.clone())).login(&host.parse().unwrap(), "user", &PASSWORD.into()).unwrap();
    let login = ["login", "--tls-verify=false", "-u", "user", "-p", PASSWORD, "--authfile"];
    assert!(run(skopeo(&system).args(login).arg(&b).arg(host)).0);
    assert_eq!(entry(&fs::read_to_string(a).unwrap()), entry(&fs::read_to_string(b).unwrap()));
}
