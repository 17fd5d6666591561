// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How registries are configured, and what comes of it: mirrors, locations, short names, certificates, proxies; and that
//! `registry explain` tells what is then done.

mod sandbox;

use std::fs;
use std::path::PathBuf;

use sandbox::{Hub, Output, Sandbox, output};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::http_proxy::{HttpProxy, ProxyOptions};
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::registry::{Auth, ClientAuthority, Fault, Options, Rule};
use stos_testkit::require;
use stos_testkit::tar_builder::{Entry, TarBuilder};

const PASSWORD: &str = "s3cret-pass";

fn image(text: &str) -> Image {
    let tar = TarBuilder::new().entry(Entry::file("f", text).mode(0o755)).finish();
    ImageBuilder::new().layer(Layer::gzip(tar)).command(&["/f"]).build()
}

/// Gives an address at which nobody listens. A port that was free a moment ago may be another test's by now.
fn nobody() -> String {
    "127.0.0.1:1".to_owned()
}

/// A registry with options of its own that serves one image as `1`.
fn hub(options: Options, image: &Image, repository: &str) -> Hub {
    let hub = Hub::with(options);
    hub.serve(image, repository, "1");
    hub
}

/// Writes the sandbox's `registries.conf`.
fn configure(sandbox: &Sandbox, text: &str) {
    fs::create_dir_all(sandbox.home()).unwrap();
    fs::write(sandbox.home().join("registries.conf"), text).unwrap();
}

fn put(sandbox: &Sandbox, path: &str, text: &str) -> PathBuf {
    let path = sandbox.home().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

fn with(sandbox: &Sandbox, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = sandbox.command();
    command.envs(variables.iter().copied()).args(arguments);
    output(&mut command)
}

/// The name of the one image that there is.
#[track_caller]
fn name(sandbox: &Sandbox) -> String {
    let images = sandbox.json(&["images", "--format", "json"]);
    let [image] = images.as_array().unwrap().as_slice() else { panic!("{images}") };
    format!("{}:{}", image["repository"].as_str().unwrap(), image["tag"].as_str().unwrap())
}

fn explain(sandbox: &Sandbox, arguments: &[&str]) -> Value {
    sandbox.json(&[&["registry", "explain", "--format", "json"], arguments].concat())
}

#[test]
fn the_first_mirror_that_has_it_gives_it_and_the_name_stays() {
    require!(Need::Root, Need::Binary);
    let (sandbox, image) = (Sandbox::new(), image("x"));
    let hub = hub(Options::default(), &image, "cache/team/app");
    let mirror = &hub.registry;
    let down = nobody();
    configure(
        &sandbox,
        &format!(
            "[[registry]]\nprefix = \"r.example/team\"\n\
             [[registry.mirror]]\nlocation = \"{down}/cache/team\"\ninsecure = true\n\
             [[registry.mirror]]\nlocation = \"{}/cache/team\"\ninsecure = true\n",
            mirror.address()
        ),
    );
    let pulled = sandbox.run(&["pull", "r.example/team/app:1"]);
    assert_eq!((pulled.code, pulled.stdout.trim()), (0, image.manifest.digest.as_str()), "{}", pulled.stderr);
    // Who was passed over is told, with a reason.
    assert!(pulled.stderr.contains(&down) && pulled.stderr.contains("cannot reach"), "{}", pulled.stderr);
    assert_eq!(name(&sandbox), "r.example/team/app:1");
    // What is there needs one request, wherever it comes from.
    mirror.take_requests();
    sandbox.ok(&["pull", "r.example/team/app:1"]);
    assert_eq!(mirror.take_requests(), ["GET /v2/cache/team/app/manifests/1"]);
    sandbox.ok(&["create", "r.example/team/app:1"]);
    assert!(mirror.take_requests().is_empty());
}

/// One server plays all places, so that its log has their order.
#[test]
fn what_is_explained_is_what_is_done() {
    require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let address = hub.registry.address();
    let mirror = |name: &str, more: &str| {
        format!("[[registry.mirror]]\nlocation = \"{address}/{name}\"\ninsecure = true\n{more}\n")
    };
    let text = [
        "unqualified-search-registries = [\"a.example\", \"b.example\"]\n".to_owned(),
        format!("[[registry]]\nprefix = \"a.example\"\nlocation = \"{address}/a\"\ninsecure = true\n"),
        mirror("one", ""),
        mirror("digests", "pull-from-mirror = \"digest-only\""),
        mirror("tags", "pull-from-mirror = \"tag-only\""),
        mirror("blocked", ""),
        format!("[[registry]]\nlocation = \"{address}/blocked\"\nblocked = true\n"),
        format!("[[registry]]\nprefix = \"b.example/app:1\"\nlocation = \"{address}/b/app:one\"\ninsecure = true\n"),
        format!("[[registry]]\nprefix = \"b.example\"\nlocation = \"{address}/b\"\ninsecure = true\n"),
        "[[registry]]\nlocation = \"c.example\"\nblocked = true\n".to_owned(),
    ];
    configure(&sandbox, &text.concat());
    let digest = format!("sha256:{}", "0".repeat(64));
    for (reference, expected, passed_over) in [
        ("a.example/app:1", &["one/app/manifests/1", "tags/app/manifests/1", "a/app/manifests/1"][..], 2),
        (&format!("a.example/app@{digest}"), &["one/app/DIGEST", "digests/app/DIGEST", "a/app/DIGEST"], 2),
        ("b.example/app:1", &["b/app/manifests/one"], 0),
        ("b.example/app:2", &["b/app/manifests/2"], 0),
        ("app:1", &["one/app/manifests/1", "tags/app/manifests/1", "a/app/manifests/1", "b/app/manifests/one"], 2),
        ("c.example/app", &[], 0),
    ] {
        let explained = explain(&sandbox, &[reference]);
        let candidates = explained["candidates"].as_array().unwrap();
        let endpoints = candidates.iter().flat_map(|candidate| candidate["endpoints"].as_array().unwrap());
        let asked: Vec<_> = endpoints
            .map(|endpoint| {
                assert_eq!((&endpoint["host"], &endpoint["tls"]["verified"]), (&json!(address), &json!(false)));
                let part = |key: &str| endpoint[key].as_str().unwrap().to_owned();
                format!("GET /v2/{}/manifests/{}", part("repository"), part("target"))
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|path| format!("GET /v2/{}", path.replace("DIGEST", &format!("manifests/{digest}"))))
            .collect();
        assert_eq!(asked, expected, "{reference}");
        assert_eq!(candidates[0]["passed_over"].as_array().unwrap().len(), passed_over, "{explained:#}");
        assert_eq!(hub.registry.take_requests(), [""; 0], "to explain is not to ask");
        let pulled = sandbox.run(&["pull", reference]);
        assert_eq!((pulled.code, hub.registry.take_requests()), (1, expected), "{reference}: {}", pulled.stderr);
    }
    // For people it is the same, in words.
    let told = sandbox.ok(&["registry", "explain", "a.example/app:1"]);
    for word in
        ["1  mirror", "2  mirror", "3  registry", "digests only", "it is blocked", "registries.conf:", "insecure"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[test]
fn what_is_blocked_is_not_asked_for() {
    require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let reference = hub.serve(&image("x"), "team/app", "1");
    configure(&sandbox, &format!("[[registry]]\nlocation = \"{}/team\"\nblocked = true\n", hub.registry.address()));
    for command in ["pull", "create", "run"] {
        let refused = sandbox.run(&[command, "--tls-verify=false", &reference]);
        assert!(refused.code != 0 && refused.stderr.contains("blocked") && refused.stderr.contains("registries.conf"));
    }
    assert!(hub.registry.requests().is_empty());
    let told = &explain(&sandbox, &[&reference])["candidates"][0];
    assert!(told["refused"].as_str().unwrap().contains("blocked") && told["endpoints"] == json!([]), "{told:#}");
    let login = sandbox.run(&["login", "-u", "u", "-p", PASSWORD, &format!("{}/team", hub.registry.address())]);
    assert!(login.code == 1 && login.stderr.contains("blocked") && !login.stderr.contains(PASSWORD));
}

#[test]
fn insecure_is_the_registrys_and_the_option_counts_more() {
    require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let reference = hub.serve(&image("x"), "app", "1");
    let verified = sandbox.run(&["pull", &reference]);
    assert!(verified.code == 1 && verified.stderr.contains("--tls-verify=false"), "{}", verified.stderr);
    configure(&sandbox, &format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", hub.registry.address()));
    sandbox.ok(&["pull", &reference]);
    hub.registry.take_requests();
    for option in ["--tls-verify", "--tls-verify=true"] {
        assert_eq!(sandbox.run(&["pull", option, &reference]).code, 1);
        assert_eq!(explain(&sandbox, &[option, &reference])["candidates"][0]["endpoints"][0]["tls"]["verified"], true);
    }
    assert!(hub.registry.requests().is_empty());
}

#[test]
fn a_short_name_is_what_the_configuration_makes_of_it() {
    require!(Need::Root, Need::Binary);
    let (first, second) = (Hub::new(), Hub::new());
    let addresses = [first.registry.address(), second.registry.address()];
    let insecure = addresses.iter().map(|host| format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n"));
    let insecure: String = insecure.collect();
    let (plain, other) = (image("plain"), image("other"));
    second.serve(&plain, "app", "1");
    let full = second.serve(&other, "team/other", "1");
    let search = format!("unqualified-search-registries = [\"{}\", \"{}\"]\n", addresses[0], addresses[1]);
    let alias = format!("[aliases]\n\"thing\" = \"{}/team/other\"\n", addresses[1]);
    let sandbox = Sandbox::new();
    configure(&sandbox, &format!("{search}{alias}{insecure}"));
    // The first that has it; refusals are what many say of what there is not.
    for fault in [Fault::status(404), Fault::status(403), Fault::status(401)] {
        first.registry.clear_rules();
        first.registry.add_rule(Rule::on("/manifests/").fault(fault));
        assert_eq!(sandbox.pull_as_configured("app:1"), plain.manifest.digest);
        assert_eq!(name(&sandbox), format!("{}/app:1", addresses[1]));
    }
    // Any other failure ends it: the image may be there.
    first.registry.clear_rules();
    first.registry.add_rule(Rule::on("/manifests/").fault(Fault::status(500)));
    second.registry.take_requests();
    let failed = sandbox.run(&["pull", "app:1"]);
    assert!(failed.code == 1 && failed.stderr.contains("500"), "{}", failed.stderr);
    assert_eq!(second.registry.take_requests(), [""; 0]);
    // An alias means one image; create knows it again without a request, and may not ask for one.
    first.registry.take_requests();
    let sandbox = Sandbox::new();
    configure(&sandbox, &format!("{search}{alias}{insecure}"));
    let create = |more: &[&str]| sandbox.ok(&[&["create"], more, &["thing:1"]].concat());
    create(&[]);
    assert_eq!((name(&sandbox), first.registry.take_requests().len()), (full, 0));
    second.registry.take_requests();
    create(&[]);
    create(&["--pull=never"]);
    assert_eq!(second.registry.take_requests(), [""; 0]);
}

impl Sandbox {
    #[track_caller]
    fn pull_as_configured(&self, reference: &str) -> String {
        self.ok(&["pull", reference]).trim().to_owned()
    }
}

#[test]
fn short_names_that_lead_nowhere_say_why() {
    require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let address = hub.registry.address();
    let insecure = format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n");
    let search = format!("unqualified-search-registries = [\"{address}\", \"r.example\"]\n");
    let both = format!("{search}[[registry]]\nlocation = \"r.example\"\nblocked = true\n{insecure}");
    for (text, arguments, words) in [
        (String::new(), &["pull", "app"][..], &["short name", "unqualified-search-registries", "hint:"][..]),
        (format!("short-name-mode = \"enforcing\"\n{search}"), &["pull", "app"], &["enforcing", "hint:"]),
        (
            both.clone(),
            &["pull", "app:1"],
            &["no registry that is searched has app:1", "not found", "blocked", "hint:"],
        ),
        (both.clone(), &["pull", "--creds", "u:s3cret-pass", "app"], &["--creds", &address, "hint: name the registry"]),
        (both, &["create", "--creds", "u:s3cret-pass", "app"], &["--creds", "one registry"]),
    ] {
        configure(&sandbox, &text);
        let refused = sandbox.run(arguments);
        assert!(refused.code != 0 && words.iter().all(|word| refused.stderr.contains(word)), "{}", refused.stderr);
        assert!(!refused.stderr.contains(PASSWORD));
    }
    // Without a registry to ask nothing needs to be configured.
    configure(&sandbox, "");
    let never = sandbox.run(&["create", "--pull=never", "app"]);
    assert!(never.code == 125 && never.stderr.contains("--pull=never"), "{}", never.stderr);
}

#[test]
fn a_broken_configuration_is_told_where_it_is_needed() {
    require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    for (text, words) in [
        ("[[registry]]\nlocation = 1\n", &["registries.conf:2", "location"][..]),
        ("[[registry]\n", &["registries.conf:1"]),
        ("[registries.search]\nregistries = [\"x\"]\n", &["version 1", "hint:"]),
    ] {
        configure(&sandbox, text);
        for arguments in
            [&["pull", "r.example/x"][..], &["registry", "explain", "r.example/x"], &["login", "r.example"]]
        {
            let refused = sandbox.run(arguments);
            assert_eq!(refused.code, 1, "{arguments:?}");
            assert!(words.iter().all(|word| refused.stderr.contains(word)), "{arguments:?}: {}", refused.stderr);
        }
        for arguments in [&["images"][..], &["list"], &["system", "df"], &["system", "check", "--repair"]] {
            sandbox.ok(arguments);
        }
    }
    let gone = with(&sandbox, &[("CONTAINERS_REGISTRIES_CONF", "/no/such")], &["pull", "r.example/x"]);
    assert!(gone.code == 1 && gone.stderr.contains("/no/such"), "{}", gone.stderr);
}

#[test]
fn certs_d_says_whom_to_trust_and_what_to_show() {
    require!(Need::Root, Need::Binary);
    let (sandbox, image) = (Sandbox::new(), image("x"));
    let clients = ClientAuthority::new();
    let options = Options { tls: true, clients: Some(clients.clone()), ..Options::default() };
    let hub = hub(options, &image, "app");
    let registry = &hub.registry;
    let reference = format!("{}/app:1", registry.address());
    let unknown = sandbox.run(&["pull", &reference]);
    assert!(unknown.code == 1 && unknown.stderr.contains("TLS with"), "{}", unknown.stderr);
    let directory = format!(".config/containers/certs.d/{}", registry.address());
    put(&sandbox, &format!("{directory}/ca.crt"), registry.ca_pem().unwrap());
    assert_eq!(sandbox.run(&["pull", &reference]).code, 1, "it wants a client certificate");
    put(&sandbox, &format!("{directory}/me.cert"), &clients.certificate_pem);
    let partner = sandbox.run(&["pull", &reference]);
    assert!(partner.stderr.contains("me.key") && partner.stderr.contains("hint:"), "{}", partner.stderr);
    put(&sandbox, &format!("{directory}/me.key"), &clients.key_pem);
    assert_eq!(sandbox.pull_as_configured(&reference), image.manifest.digest);
    let told = &explain(&sandbox, &[&reference])["candidates"][0]["endpoints"][0]["certificates"];
    let path = |name: &str| json!(sandbox.home().join(&directory).join(name));
    let expected = json!({"directory": sandbox.home().join(&directory), "authorities": [path("ca.crt")],
        "client_certificate": path("me.cert"), "client_key": path("me.key")});
    assert_eq!(*told, expected);
    // The option's directory is the only one.
    let elsewhere = Sandbox::new();
    fs::rename(sandbox.home().join(&directory), elsewhere.path("certs")).unwrap();
    elsewhere.ok(&["pull", "--cert-dir", elsewhere.path("certs").to_str().unwrap(), &reference]);
    assert_eq!(sandbox.run(&["pull", "--cert-dir", "/no/such", &reference]).code, 1);
}

#[test]
fn a_mirror_whose_certificates_cannot_be_used_is_passed_over() {
    require!(Need::Root, Need::Binary);
    let (sandbox, image) = (Sandbox::new(), image("x"));
    let hub = hub(Options::default(), &image, "app");
    let (registry, mirror) = (hub.registry.address(), nobody());
    let (clients, others) = (ClientAuthority::new(), ClientAuthority::new());
    let mirrored = format!("insecure = true\n[[registry.mirror]]\nlocation = \"{mirror}\"\n");
    configure(&sandbox, &format!("[[registry]]\nlocation = \"{registry}\"\n{mirrored}"));
    let reference = format!("{registry}/app:1");
    let directory = format!(".config/containers/certs.d/{mirror}");
    let broken = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
    let no_pem = "no certificate";
    for (files, words) in [
        (&[("ca.crt", broken)][..], &["ca.crt", "expected whole X.509 certificates in PEM"][..]),
        (&[("ca.crt", no_pem)], &["ca.crt", "expected a certificate in PEM"]),
        (&[("me.cert", &clients.certificate_pem)], &["me.cert", "me.key", "missing"]),
        // Each is good, and they do not belong together.
        (&[("me.cert", &clients.certificate_pem), ("me.key", &others.key_pem)], &["client key"]),
    ] {
        for (name, text) in files {
            put(&sandbox, &format!("{directory}/{name}"), text);
        }
        let pulled = sandbox.run(&["pull", &reference]);
        assert_eq!((pulled.code, pulled.stdout.trim()), (0, image.manifest.digest.as_str()), "{}", pulled.stderr);
        for word in words.iter().chain(&["passed over", &mirror]) {
            assert!(pulled.stderr.contains(word), "{word}: {}", pulled.stderr);
        }
        if words.len() > 1 {
            let candidate = &explain(&sandbox, &[&reference])["candidates"][0];
            assert_eq!(candidate["endpoints"].as_array().unwrap().len(), 1, "{candidate:#}");
            assert!(candidate["passed_over"][0]["reason"].as_str().unwrap().contains(words[1]), "{candidate:#}");
        }
        fs::remove_dir_all(sandbox.home().join(&directory)).unwrap();
    }
    // The registry's own are needed.
    put(&sandbox, &format!(".config/containers/certs.d/{registry}/ca.crt"), broken);
    let failed = sandbox.run(&["pull", &reference]);
    assert!(failed.code == 1 && failed.stderr.contains(&format!("{registry}/ca.crt: expected")), "{}", failed.stderr);
    assert!(explain(&sandbox, &[&reference])["candidates"][0]["refused"].as_str().unwrap().contains("ca.crt"));
}

/// Loopback is never proxied by the environment, so the registry has a name that the proxy alone knows.
#[test]
fn proxies_of_the_environment_lead_to_registries() {
    require!(Need::Root, Need::Binary);
    let image = image("x");
    for tls in [false, true] {
        let sandbox = Sandbox::new();
        let names = vec!["registry.example".to_owned()];
        let hub = hub(Options { tls, certificate_names: names, ..Options::default() }, &image, "app");
        let registry = &hub.registry;
        let proxy = HttpProxy::start(ProxyOptions {
            login: Some(("user".to_owned(), PASSWORD.to_owned())),
            names: vec![("registry.example:5000".to_owned(), registry.address())],
            ..ProxyOptions::default()
        });
        let url = proxy.url().replace("//", &format!("//user:{PASSWORD}@"));
        let certs = sandbox.certs(registry.ca_pem());
        configure(&sandbox, &format!("[[registry]]\nlocation = \"registry.example:5000\"\ninsecure = {}\n", !tls));
        let variables = [(if tls { "HTTPS_PROXY" } else { "http_proxy" }, url.as_str())];
        let reference = "registry.example:5000/app:1";
        let options = ["--cert-dir", &certs, reference];
        let pulled = with(&sandbox, &variables, &[&["--debug", "pull"], &options[..]].concat());
        assert_eq!((pulled.code, pulled.stdout.trim()), (0, image.manifest.digest.as_str()), "{}", pulled.stderr);
        let expected = if tls { "CONNECT registry.example:5000 " } else { "GET http://registry.example:5000/v2/app/" };
        assert!(proxy.requests().iter().all(|line| line.starts_with(expected)), "{:?}", proxy.requests());
        let told = with(&sandbox, &variables, &[&["registry", "explain"], &options[..]].concat());
        assert!(told.stdout.contains(variables[0].0) && told.stdout.contains(&proxy.url()[7..]), "{}", told.stdout);
        for said in [&pulled.stderr, &told.stdout] {
            assert!(!said.contains(PASSWORD), "{said}");
        }
        // What is excepted is reached directly, which here leads nowhere.
        let asked = proxy.requests().len();
        let excepted = [variables[0], ("NO_PROXY", "10.0.0.0/8,.registry.example,registry.example:5000")];
        assert_eq!(with(&sandbox, &excepted, &[&["pull"], &options[..]].concat()).code, 1);
        assert_eq!(proxy.requests().len(), asked);
        let told = with(&sandbox, &excepted, &["registry", "explain", reference]);
        assert!(told.stdout.contains("NO_PROXY has \"registry.example:5000\""), "{}", told.stdout);
    }
}

#[test]
fn a_proxy_of_one_registry_is_its_own_and_a_bad_one_is_told() {
    require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = image("x");
    let reference = hub.serve(&image, "app", "1");
    let proxy = HttpProxy::start(ProxyOptions::default());
    let table = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", hub.registry.address());
    configure(&sandbox, &format!("{table}proxy = \"{}\"\n", proxy.url()));
    assert_eq!(sandbox.pull_as_configured(&reference), image.manifest.digest);
    let plain = proxy.requests().iter().filter(|line| line.starts_with("GET http://")).count();
    assert_eq!(plain, hub.registry.requests().len());
    let told = &explain(&sandbox, &[&reference])["candidates"][0]["endpoints"][0]["proxy_of_http"];
    assert_eq!(told["proxy"], json!(proxy.url()));
    assert!(told["because"].as_str().unwrap().contains("registries.conf"), "{told}");
    for (variable, value, words) in [
        ("HTTPS_PROXY", "ftp://u:s3cret-pass@p.example", "HTTPS_PROXY is no proxy"),
        ("ALL_PROXY", "socks5://u:s3cret-pass@p.example", "not supported"),
    ] {
        let variables = [(variable, value)];
        let failed = with(&sandbox, &variables, &["pull", "r.example/x"]);
        assert!(failed.code == 1 && failed.stderr.contains(words), "{}", failed.stderr);
        let told = with(&sandbox, &variables, &["registry", "explain", "r.example/x"]);
        assert!(told.stdout.contains(words) && !told.stdout.contains(PASSWORD), "{}", told.stdout);
        assert!(!failed.stderr.contains(PASSWORD), "{}", failed.stderr);
    }
}

#[test]
fn a_repair_goes_where_the_configuration_leads() {
    require!(Need::Root, Need::Binary);
    let (sandbox, image) = (Sandbox::new(), image("x"));
    let hub =
        hub(Options { auth: Auth::Basic("u".into(), PASSWORD.into()), ..Options::default() }, &image, "cache/app");
    let registry = &hub.registry;
    let table = "[[registry]]\nprefix = \"r.example\"\nblocked = false\n";
    let mirror = format!("[[registry.mirror]]\nlocation = \"{}/cache\"\ninsecure = true\n", registry.address());
    configure(&sandbox, &format!("{table}{mirror}"));
    // base64 of u:s3cret-pass
    let auth = format!("{{\"auths\": {{\"{}/cache\": {{\"auth\": \"dTpzM2NyZXQtcGFzcw==\"}}}}}}", registry.address());
    put(&sandbox, "run/containers/auth.json", &auth);
    sandbox.ok(&["pull", "r.example/app:1"]);
    let inspected = sandbox.json(&["inspect", "r.example/app:1"]);
    let layer = sandbox.layer_dir(inspected[0]["layers"][0]["diff_id"].as_str().unwrap());
    for file in ["layer.tar", "layer.json"] {
        fs::remove_file(layer.join(file)).unwrap();
    }
    registry.take_requests();
    let repaired = sandbox.run(&["--debug", "system", "check", "--repair"]);
    assert_eq!(repaired.code, 0, "{}{}", repaired.stdout, repaired.stderr);
    assert!(repaired.stdout.contains("fetched again from r.example/app"), "{}", repaired.stdout);
    assert!(!repaired.stderr.contains(PASSWORD) && !repaired.stderr.contains("dTpzM2"), "{}", repaired.stderr);
    assert!(registry.take_requests().iter().all(|request| request.starts_with("GET /v2/cache/app/blobs/")));
    // Nor is a repair a way around what is blocked.
    fs::remove_file(layer.join("layer.tar")).unwrap();
    configure(&sandbox, "[[registry]]\nlocation = \"r.example\"\nblocked = true\n");
    let refused = sandbox.run(&["system", "check", "--repair"]);
    assert!(refused.code == 1 && refused.stdout.contains("blocked"), "{}", refused.stdout);
}
