// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs;

use stos_spec::BlobDigest;
use tempfile::TempDir;

use super::*;

/// A system with a root and a home, and files in them.
struct System {
    directory: TempDir,
    user: u32,
}

const MAIN: &str = "etc/containers/registries.conf";
const USERS: &str = "home/.config/containers/registries.conf";

impl System {
    fn new(files: &[(&str, &str)]) -> Self {
        let system = Self { directory: tempfile::tempdir().unwrap(), user: 0 };
        for (path, text) in files {
            let path = system.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        system
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn environment(&self) -> Environment {
        Environment::new(self.directory.path(), self.user).with("HOME", self.path("home"))
    }

    fn load(&self) -> Registries {
        Registries::load(&self.environment()).unwrap()
    }
}

fn main(text: &str) -> Registries {
    System::new(&[(MAIN, text)]).load()
}

/// The error of a main file, without the directory of its test.
fn error(text: impl AsRef<[u8]>) -> String {
    let system = System::new(&[(MAIN, "")]);
    fs::write(system.path(MAIN), text).unwrap();
    let error = Registries::load(&system.environment()).unwrap_err().to_string();
    error.replace(system.path(MAIN).to_str().unwrap(), "CONF")
}

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

/// `insecure? role reference`, one for each endpoint.
fn routed(registries: &Registries, text: &str) -> Vec<String> {
    let told = |endpoint: &Endpoint| {
        let insecure = if endpoint.insecure { "insecure " } else { "" };
        format!("{insecure}{:?} {}", endpoint.role, endpoint.reference)
    };
    registries.route(&image(text)).unwrap().endpoints.iter().map(told).collect()
}

fn candidates(registries: &Registries, text: &str) -> Vec<String> {
    registries.candidates(&image(text)).unwrap().iter().map(|candidate| candidate.reference.to_string()).collect()
}

#[test]
fn nothing_configured_means_the_image_itself() {
    let none = System::new(&[]).load();
    let route = none.route(&image("quay.io/a:1")).unwrap();
    assert_eq!(route.endpoints.len(), 1);
    assert_eq!((route.endpoints[0].role, route.endpoints[0].place.as_ref()), (Role::Registry, None));
    assert!(none.credential_helpers().is_none() && none.table("quay.io").is_none());
}

#[test]
fn the_manuals_example() {
    let registries = main(
        r#"
        unqualified-search-registries = ["example.com"]
        [[registry]]
        prefix = "example.com/foo"
        insecure = false
        blocked = false
        location = "internal-registry-for-example.com/bar"
        [[registry.mirror]]
        location = "example-mirror-0.local/mirror-for-foo"
        [[registry.mirror]]
        location = "example-mirror-1.local/mirrors/foo"
        insecure = true
        [[registry]]
        location = "registry.com"
        [[registry.mirror]]
        location = "mirror.registry.com"
        "#,
    );
    let expected = [
        "Mirror example-mirror-0.local/mirror-for-foo/image:latest",
        "insecure Mirror example-mirror-1.local/mirrors/foo/image:latest",
        "Registry internal-registry-for-example.com/bar/image:latest",
    ];
    assert_eq!(routed(&registries, "example.com/foo/image:latest"), expected);
    let expected = ["Mirror mirror.registry.com/image:latest", "Registry registry.com/image:latest"];
    assert_eq!(routed(&registries, "registry.com/image:latest"), expected);
    assert_eq!(routed(&registries, "example.com/food:1"), ["Registry example.com/food:1"]);
    let place = registries.route(&image("registry.com/a")).unwrap().endpoints[0].place.clone().unwrap();
    assert_eq!((place.key.as_str(), place.line), ("registry[1].mirror[0]", Some(15)));
}

#[test]
fn the_longest_prefix_is_taken() {
    let registries = main(
        r#"
        registry = [
            { location = "a.example" },
            { prefix = "a.example/ns", location = "b.example" },
            { prefix = "a.example/ns/repo", location = "c.example/r" },
            { prefix = "a.example/ns/repo:1", location = "d.example/r:2" },
            { prefix = "*.example", location = "e.example" },
            { prefix = "*.wild.test" },
            { prefix = "x.wild.test", insecure = true },
            { prefix = "docker.io/library", location = "hub.local/mirror" },
            { prefix = "hub.test", location = "docker.io" },
        ]"#,
    );
    for (text, expected) in [
        ("a.example/other:1", "Registry a.example/other:1"),
        ("a.example/ns/x:1", "Registry b.example/x:1"),
        ("a.example/ns/repo:3", "Registry c.example/r:3"),
        ("a.example/ns/repo:1", "Registry d.example/r:2"),
        ("a.example:5000/ns/x:1", "Registry e.example:5000/ns/x:1"),
        ("z.y.example/x:1", "Registry e.example/x:1"),
        ("y.wild.test:5000/x:1", "Registry y.wild.test:5000/x:1"),
        ("x.wild.test/x:1", "insecure Registry x.wild.test/x:1"),
        ("alpine:3", "Registry hub.local/mirror/alpine:3"),
        ("docker.io/team/app:3", "Registry docker.io/team/app:3"),
        ("hub.test/alpine:3", "Registry docker.io/library/alpine:3"),
    ] {
        assert_eq!(routed(&registries, text), [expected], "{text}");
    }
    assert!(registries.table("x.wild.test").unwrap().insecure);
    assert_eq!(registries.table("a.example/ns/repo").unwrap().prefix, "a.example/ns/repo");
}

#[test]
fn mirrors_serve_what_they_are_said_to() {
    let registries = main(
        r#"
        [[registry]]
        location = "a.example"
        mirror = [
            { location = "all.example", proxy = "http://u:hunter2@p:3128" },
            { location = "tags.example", pull-from-mirror = "tag-only" },
            { location = "digests.example", pull-from-mirror = "digest-only" },
        ]
        [[registry]]
        location = "b.example"
        mirror-by-digest-only = true
        mirror = [{ location = "m.example" }]
        "#,
    );
    let digest = BlobDigest::of(b"");
    let expected = ["Mirror all.example/x:1", "Mirror tags.example/x:1", "Registry a.example/x:1"];
    assert_eq!(routed(&registries, "a.example/x:1"), expected);
    let expected = ["all.example", "digests.example"].map(|host| format!("Mirror {host}/x@{digest}"));
    let found = routed(&registries, &format!("a.example/x@{digest}"));
    assert_eq!(found[..2], expected);
    assert_eq!(found[2], format!("Registry a.example/x@{digest}"));
    // With both, the digest decides.
    assert_eq!(routed(&registries, &format!("a.example/x:1@{digest}"))[..2], expected);
    assert_eq!(routed(&registries, "b.example/x:1"), ["Registry b.example/x:1"]);
    let route = registries.route(&image("b.example/x:1")).unwrap();
    assert!(matches!(&route.passed_over[..], [(endpoint, WhyNot::Reference)] if endpoint.serves == Serves::DigestOnly));
    assert_eq!(routed(&registries, &format!("b.example/x@{digest}")).len(), 2);
    let shown = format!("{:?}", registries.route(&image("a.example/x:1")).unwrap());
    assert!(shown.contains("http://…@p:3128") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn blocked_names_file_and_prefix() {
    let system = System::new(&[(MAIN, "[[registry]]\nprefix = 'evil.example/ns'\nblocked = true\n")]);
    let registries = system.load();
    let error = registries.route(&image("evil.example/ns/x:1")).unwrap_err();
    let Error::Blocked { prefix, place, .. } = &error else { panic!("{error}") };
    assert_eq!((prefix.as_str(), &place.file, place.line), ("evil.example/ns", &system.path(MAIN), Some(1)));
    assert!(registries.destination(&image("evil.example/ns/x:1")).is_err());
    assert!(registries.route(&image("evil.example/other:1")).is_ok());
}

#[test]
fn no_name_leads_to_what_is_blocked() {
    let registries = main(
        "[[registry]]\nlocation = 'evil.example'\nblocked = true\n\
         [[registry]]\nlocation = 'a.example'\nmirror = [{ location = 'evil.example/m' }, { location = 'good.example' }]\n\
         [[registry]]\nprefix = 'b.example'\nlocation = 'evil.example'\nblocked = true\n\
         [[registry]]\nprefix = 'c.example'\nlocation = 'evil.example/ns'\n",
    );
    assert_eq!(routed(&registries, "a.example/x:1"), ["Mirror good.example/x:1", "Registry a.example/x:1"]);
    let route = registries.route(&image("a.example/x:1")).unwrap();
    assert!(matches!(&route.passed_over[..], [(_, WhyNot::Blocked(place))] if place.key == "registry[0]"));
    for text in ["b.example/x:1", "c.example/x:1", "evil.example/x:1"] {
        assert!(matches!(registries.route(&image(text)), Err(Error::Blocked { .. })), "{text}");
    }
}

#[test]
fn a_push_goes_where_the_name_says() {
    let registries = main(
        "[[registry]]\nprefix = 'a.example'\nlocation = 'b.example'\ninsecure = true\nmirror = [{ location = 'c.example' }]",
    );
    let endpoint = registries.destination(&image("a.example/x:1")).unwrap();
    assert_eq!((endpoint.reference.to_string().as_str(), endpoint.insecure), ("a.example/x:1", true));
}

#[test]
fn a_location_that_makes_no_reference_is_an_error() {
    let digest = BlobDigest::of(b"");
    for (prefix, location, text) in [
        ("a.example", "b.example/UPPER", "a.example/x:1".to_owned()),
        ("a.example", "no-host", "a.example/x:1".to_owned()),
        ("a.example/x:1", "b.example/x", "a.example/x:1".to_owned()),
        ("*.example", "b.example/ns", "a.example:5000/x:1".to_owned()),
        (
            &format!("a.example/x@{digest}"),
            &format!("b.example/x@{}", BlobDigest::of(b"other")),
            format!("a.example/x@{digest}"),
        ),
    ] {
        let registries = main(&format!("[[registry]]\nprefix = '{prefix}'\nlocation = '{location}'\n"));
        let error = registries.route(&image(&text)).unwrap_err();
        assert!(matches!(error, Error::Rewrite { .. }), "{prefix} {location}: {error}");
    }
}

#[test]
fn later_files_replace_what_earlier_ones_say() {
    let system = System::new(&[
        (
            MAIN,
            "unqualified-search-registries = ['a.example', 'b.example']\nshort-name-mode = 'enforcing'\ncredential-helpers = ['one']\n\
          [aliases]\nx = 'a.example/x'\ny = 'a.example/y'\n\
          [[registry]]\nlocation = 'a.example'\ninsecure = true\nmirror = [{ location = 'm.example' }]\n[[registry]]\nlocation = 'k.example'\n",
        ),
        ("etc/containers/registries.conf.d/20.conf", "unqualified-search-registries = ['d.example']\n"),
        (
            "etc/containers/registries.conf.d/10.conf",
            "unqualified-search-registries = ['c.example']\n[aliases]\nx = ''\n[[registry]]\nlocation = 'a.example'\n",
        ),
        ("etc/containers/registries.conf.d/99.ignored", "broken"),
        ("etc/containers/registries.conf.d/sub/1.conf", "broken"),
        ("home/.config/containers/registries.conf.d/1.conf", "short-name-mode = ''\n[aliases]\ny = 'user.example/y'\n"),
    ]);
    let registries = system.load();
    assert_eq!(routed(&registries, "a.example/i:1"), ["Registry a.example/i:1"]);
    assert!(registries.table("k.example").is_some());
    assert_eq!(candidates(&registries, "x"), ["d.example/x:latest"]);
    assert_eq!(candidates(&registries, "y:2"), ["user.example/y:2"]);
    assert_eq!(registries.credential_helpers().unwrap().0, ["one"]);
    let origin = &registries.candidates(&image("x")).unwrap()[0].origin;
    assert_eq!(origin.file(), Some(system.path("etc/containers/registries.conf.d/20.conf").as_path()));
}

#[test]
fn which_files_are_read() {
    let search = |host: &str| format!("unqualified-search-registries = ['{host}']\n");
    let (main, user, named) = (search("main.example"), search("user.example"), search("named.example"));
    let drop_in = "[[registry]]\nlocation = 'drop-in.example'\n";
    let system = System::new(&[
        (MAIN, &main),
        (USERS, &user),
        ("named.conf", &named),
        ("etc/containers/registries.conf.d/1.conf", drop_in),
    ]);
    // The system's drop-ins go with the system's file.
    let registries = system.load();
    assert_eq!(candidates(&registries, "x"), ["user.example/x:latest"]);
    assert!(registries.table("drop-in.example").is_none());
    let variable = system.environment().with("CONTAINERS_REGISTRIES_CONF", system.path("named.conf"));
    let registries = Registries::load(&variable).unwrap();
    assert_eq!(candidates(&registries, "x"), ["named.example/x:latest"]);
    assert!(registries.table("drop-in.example").is_some());
    let elsewhere = system.environment().with("XDG_CONFIG_HOME", system.path("elsewhere"));
    assert_eq!(candidates(&Registries::load(&elsewhere).unwrap(), "x"), ["main.example/x:latest"]);
    let missing = system.environment().with("CONTAINERS_REGISTRIES_CONF", "/no/such");
    assert!(matches!(Registries::load(&missing), Err(Error::NotThere { named_by: "CONTAINERS_REGISTRIES_CONF", .. })));
    // A link whose target has gone is as good as no file.
    fs::remove_file(system.path(USERS)).unwrap();
    std::os::unix::fs::symlink("/no/such", system.path(USERS)).unwrap();
    assert_eq!(candidates(&system.load(), "x"), ["main.example/x:latest"]);
}

#[test]
fn short_names_without_configuration_are_of_docker_hub() {
    let shortnames = "[aliases]\nfedora = 'registry.fedoraproject.org/fedora'\n";
    let drop_in = "etc/containers/registries.conf.d/000-shortnames.conf";
    for registries in [System::new(&[]).load(), System::new(&[(drop_in, shortnames)]).load()] {
        assert_eq!(candidates(&registries, "alpine"), ["docker.io/library/alpine:latest"]);
        assert_eq!(candidates(&registries, "library/alpine:3"), ["docker.io/library/alpine:3"]);
        assert_eq!(candidates(&registries, "quay.io/a"), ["quay.io/a:latest"]);
        assert_eq!(registries.candidates(&image("a")).unwrap()[0].origin, CandidateOrigin::Default);
    }
    let aliased = System::new(&[(drop_in, shortnames)]).load();
    assert_eq!(candidates(&aliased, "fedora:40"), ["registry.fedoraproject.org/fedora:40"]);
    for files in [vec![(MAIN, "")], vec![(drop_in, "unqualified-search-registries = []\n")]] {
        let error = System::new(&files).load().candidates(&image("alpine")).unwrap_err();
        assert!(matches!(error, Error::ShortNameUnresolved { .. }), "{error}");
    }
}

#[test]
fn short_names_are_searched_in_order() {
    let text = "unqualified-search-registries = ['a.example', 'docker.io/', 'localhost:5000']\n";
    let digest = BlobDigest::of(b"");
    let expected = ["a.example/x:1", "docker.io/library/x:1", "localhost:5000/x:1"];
    for mode in ["", "short-name-mode = 'permissive'\n", "short-name-mode = 'disabled'\n"] {
        assert_eq!(candidates(&main(&format!("{text}{mode}")), "x:1"), expected);
    }
    let of_digest = candidates(&main(text), &format!("ns/x@{digest}"));
    assert_eq!(of_digest[1], format!("docker.io/ns/x@{digest}"));
    let enforcing = main(&format!("{text}short-name-mode = 'enforcing'\n"));
    let Err(Error::ShortNameAmbiguous { name, registries, place }) = enforcing.candidates(&image("x")) else {
        panic!()
    };
    assert_eq!((name.as_str(), registries.len(), place.line), ("x", 3, Some(2)));
    // One is not ambiguous.
    let one = main("unqualified-search-registries = ['a.example']\nshort-name-mode = 'enforcing'\n");
    assert_eq!(candidates(&one, "x"), ["a.example/x:latest"]);
}

#[test]
fn a_name_that_is_too_long_for_a_registry_is_an_error() {
    let registries = main(&format!("unqualified-search-registries = ['{}.example']\n", "h".repeat(60)));
    let error = registries.candidates(&image(&"a".repeat(200))).unwrap_err();
    assert!(matches!(error, Error::Reference(_)), "{error}");
}

#[test]
fn recorded_aliases_win() {
    let recorded = "[aliases]\nx = 'recorded.example/x'\n";
    let configured = "unqualified-search-registries = ['s.example']\n[aliases]\nx = 'configured.example/x'\nalpine = 'docker.io/alpine'\n";
    let mut system = System::new(&[
        (MAIN, configured),
        ("var/cache/containers/short-name-aliases.conf", recorded),
        ("home/.cache/containers/short-name-aliases.conf", "[aliases]\nx = ''\n"),
    ]);
    assert_eq!(candidates(&system.load(), "x:1"), ["recorded.example/x:1"]);
    assert_eq!(candidates(&system.load(), "alpine"), ["docker.io/library/alpine:latest"]);
    system.user = 1000;
    assert_eq!(candidates(&system.load(), "x:1"), ["s.example/x:1"]);
}

#[test]
fn version_1_is_refused() {
    let text = "[registries.search]\nregistries = ['docker.io']\n";
    assert!(error(text).starts_with("CONF:1: registries: expected registries.conf of version 2"));
    let system = System::new(&[("etc/containers/registries.conf.d/1.conf", text)]);
    let error = Registries::load(&system.environment()).unwrap_err();
    assert!(matches!(error, Error::OldFormat { .. }) && error.hint().unwrap().contains("[[registry]]"));
}

#[test]
fn what_is_wrong_is_told_with_line_and_key() {
    for (text, expected) in [
        ("unqualified-search-registries = 'a'", "CONF:1: unqualified-search-registries: expected a list, found a text"),
        (
            "unqualified-search-registries = ['a.b', 'a']",
            "CONF:1: unqualified-search-registries[1]: expected a host, and maybe a port, found \"a\"",
        ),
        (
            "unqualified-search-registries = ['https://a.b']",
            "CONF:1: unqualified-search-registries[0]: expected a host, and maybe a port, found \"https://a.b\"",
        ),
        (
            "\nshort-name-mode = 'ask'",
            "CONF:2: short-name-mode: expected enforcing, permissive or disabled, found \"ask\"",
        ),
        (
            "credential-helpers = ['../x']",
            "CONF:1: credential-helpers[0]: expected the end of a program's name after docker-credential-, found \"../x\"",
        ),
        ("registry = 1", "CONF:1: registry: expected a list, found a number"),
        ("[[registry]]\nblocked = true", "CONF:1: registry[0].prefix or location is missing"),
        ("[[registry]]\nlocation = 7", "CONF:2: registry[0].location: expected a text, found a number"),
        (
            "[[registry]]\nlocation = 'https://u:hunter2@a.b'",
            "CONF:2: registry[0].location: expected no scheme: HOST[:PORT][/NAMESPACE…], found \"a.b\"",
        ),
        (
            "[[registry]]\nlocation = 'u:hunter2@a.b'",
            "CONF:2: registry[0].location: expected no user: HOST[:PORT][/NAMESPACE…], found \"a.b\"",
        ),
        (
            "[[registry]]\nprefix = 'u:hunt/er2@a.b/c'",
            "CONF:2: registry[0].prefix: expected no user: HOST[:PORT][/NAMESPACE…], found \"a.b/c\"",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\nmirror = [{ location = 'u:hunter2@sha256:5000/a' }]",
            "CONF:3: registry[0].mirror[0].location: expected no user: HOST[:PORT][/NAMESPACE…], found \"sha256:5000/a\"",
        ),
        (
            "unqualified-search-registries = ['u:hunter2@a.b']",
            "CONF:1: unqualified-search-registries[0]: expected a host, and maybe a port, found \"a.b\"",
        ),
        (
            "[aliases]\na = 'u:hunter2@b.c/d'",
            "CONF:2: aliases.a: expected a registry and a repository, without tag and digest, found \"b.c/d\"",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\ninsecure = 'yes'",
            "CONF:3: registry[0].insecure: expected true or false, found a text",
        ),
        (
            "[[registry]]\nprefix = '*.a.b:5000'",
            "CONF:2: registry[0].prefix: expected HOST[:PORT][/NAMESPACE…][:TAG or @DIGEST], or *.DOMAIN, found \"*.a.b:5000\"",
        ),
        (
            "[[registry]]\nprefix = 'a.*.b'\nlocation = 'c.d'",
            "CONF:2: registry[0].prefix: expected HOST[:PORT][/NAMESPACE…][:TAG or @DIGEST], or *.DOMAIN, found \"a.*.b\"",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\ninsecure = true",
            "CONF:3: registry[0].mirror[0].location is missing",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\nmirror = [{ location = 'c.d', pull-from-mirror = 'never' }]",
            "CONF:3: registry[0].mirror[0].pull-from-mirror: expected all, digest-only or tag-only, found \"never\"",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\nproxy = 'u:hunter2@p'",
            "CONF:3: registry[0].proxy: expected SCHEME://HOST[:PORT]",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\nproxy = 'gopher://u:hunter2@p'",
            "CONF:3: registry[0].proxy: expected http, https, socks5 or socks5h as its scheme",
        ),
        (
            "[aliases]\n'a:1' = 'b.c/d'",
            "CONF:2: aliases[\"a:1\"]: expected a name without registry, tag and digest as the key, found \"a:1\"",
        ),
        (
            "[aliases]\na = 'b.c/d:1'",
            "CONF:2: aliases.a: expected a registry and a repository, without tag and digest, found \"b.c/d:1\"",
        ),
        (
            "[aliases]\na = 'd'",
            "CONF:2: aliases.a: expected a registry and a repository, without tag and digest, found \"d\"",
        ),
    ] {
        assert_eq!(error(text), expected);
    }
    let kinds = |text| Registries::load(&System::new(&[(MAIN, text)]).environment()).unwrap_err();
    let both = "[[registry]]\nlocation = 'a.b'\nmirror-by-digest-only = true\nmirror = [{ location = 'c.d', pull-from-mirror = 'all' }]";
    assert!(matches!(kinds(both), Error::Conflict { .. }));
    let insecure = "[[registry]]\nlocation = 'a.b'\n[[registry]]\nprefix = 'c.d'\nlocation = 'a.b'\ninsecure = true";
    assert!(matches!(kinds(insecure), Error::Conflict { .. }));
    assert!(matches!(kinds("[[registry]]\nlocation = 'a.b'\npull-from-mirror = 'all'"), Error::UnknownKey { .. }));
    assert!(matches!(kinds("a = 1\na = 2"), Error::Syntax { .. }));
}

#[test]
fn hostile_files_are_bounded() {
    assert!(error(vec![b'#'; 2 << 20]).contains("at most 1048576 bytes"));
    assert_eq!(error(b"a = '\xff'"), "CONF:1: expected UTF-8");
    assert!(error(format!("a = {}", "[".repeat(100_000))).starts_with("CONF:1: "));
    assert!(error("[a]\n".repeat(1000)).starts_with("CONF:2: "));
    // A great many tables and prefixes are merely long.
    let many: String = (0..20_000).map(|number| format!("[[registry]]\nlocation='h{number}.example'\n")).collect();
    assert!(main(&many).table("h19999.example").is_some());
    // A byte order mark, and lines that end as on Windows.
    let odd =
        main("\u{feff}unqualified-search-registries = ['a.example']\r\n[[registry]]\r\nlocation = 'b.example/'\r\n");
    assert!(odd.table("b.example").is_some());
}

#[test]
fn of_two_tables_with_one_prefix_the_first_counts() {
    let twice = main(
        "[[registry]]\nprefix = 'a.b'\nlocation = 'first.example'\n[[registry]]\nprefix = 'a.b'\nlocation = 'second.example'\n",
    );
    assert_eq!(routed(&twice, "a.b/x:1"), ["Registry first.example/x:1"]);
}

#[test]
fn keys_that_no_one_reads_are_told() {
    let registries = main(
        "unqualified = []\nadditional-layer-store-auth-helper = 'x'\n[[registry]]\nlocation = 'a.b'\ninsecur = true\nmirror = [{ location = 'c.d', x = 1 }]\n",
    );
    let keys: Vec<&str> = registries.unknown_keys().iter().map(|place| place.key.as_str()).collect();
    assert_eq!(keys, ["unqualified", "registry[0].insecur", "registry[0].mirror[0].x"]);
}
