// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files in, services out.

use std::path::PathBuf;

use super::*;

fn source(name: &str, text: &str) -> Source {
    let file = PathBuf::from("/etc/stos/quadlet").join(name);
    Source { unit: UnitFile::parse(&file, text).unwrap(), file }
}

fn convert_one(name: &str, text: &str) -> Result<Service> {
    let others = [
        source("data.volume", "[Volume]\n"),
        source("own.network", "[Network]\nNetworkName=own\n"),
        source("db.container", "[Container]\nImage=x\nContainerName=db\n"),
        source("other.container", "[Container]\nImage=x\nServiceName=svc\n"),
        source("t@.container", "[Container]\nImage=x\n"),
        source("t@y.container", "[Container]\nImage=x\n"),
        source("parts.volume", "[Volume]\nVolumeName=%N.%p.%i%H%%N\n"),
        source("its.network", "[Network]\nNetworkName=%j\n"),
    ];
    let source = source(name, text);
    convert(&source, &Siblings::of(&others), "/usr/bin/stos")
}

fn text(name: &str, file: &str) -> String {
    convert_one(name, file).unwrap().text
}

fn line<'a>(text: &'a str, key: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("{key} in {text}"))
}

fn refused(name: &str, file: &str) -> String {
    convert_one(name, file).unwrap_err().to_string()
}

#[test]
fn a_container_becomes_a_service_whose_process_it_is() {
    let service = convert_one(
        "web.container",
        "[Unit]\nDescription=Web\n\n[Container]\nImage=registry.example/web:1\nExec=serve 'a b' $X\n\n[Install]\nWantedBy=multi-user.target\n",
    )
    .unwrap();
    assert_eq!(service.name, "web.service");
    assert_eq!(
        service.text,
        "[Unit]\nDescription=Web\nWants=network-online.target\nAfter=network-online.target\n\
         SourcePath=/etc/stos/quadlet/web.container\n\n\
         [X-Container]\nImage=registry.example/web:1\nExec=serve 'a b' $X\n\n[Install]\nWantedBy=multi-user.target\n\n\
         [Service]\nType=notify\nNotifyAccess=all\nDelegate=yes\nKillMode=mixed\n\
         ExecStart=/usr/bin/stos run --name systemd-%N --replace --rm --cgroups=split --sdnotify=conmon registry.example/web:1 \
         serve \"a b\" $X\n\
         ExecStop=/usr/bin/stos stop --ignore systemd-%N\n\
         ExecStopPost=-/usr/bin/stos rm --force --ignore --volumes systemd-%N\nSyslogIdentifier=%N\n"
    );
    assert_eq!(
        service.links,
        [Link { path: "multi-user.target.wants/web.service".into(), target: "../web.service".to_owned() }]
    );
}

#[test]
fn every_key_of_the_tables_comes_out() {
    let start = |entries: &str| {
        let text = text("a.container", &format!("[Container]\nImage=i\n{entries}\n"));
        let start = line(&text, "ExecStart");
        let (_, options) = start.split_once("--sdnotify=").unwrap();
        options.split_once(' ').unwrap().1.trim_end_matches(" i").trim_end_matches('i').to_owned()
    };
    for (entries, options) in [
        ("Environment=A=1 \"B=two words\"\nEnvironment=C=3", "--env=A=1 \"--env=B=two words\" --env=C=3"),
        ("Environment=A=1\nEnvironment=\nEnvironment=B=2", "--env=B=2"),
        ("AddCapability=NET_ADMIN SYS_TIME", "--cap-add=NET_ADMIN --cap-add=SYS_TIME"),
        ("PublishPort=8080:80\nPublishPort=127.0.0.1::443", "--publish=8080:80 --publish=127.0.0.1::443"),
        ("ReadOnly=yes\nRunInit=no\nReadOnlyTmpfs=no", "--read-only --read-only-tmpfs=false --init=false"),
        ("ReadOnly=no", ""),
        ("Mask=/a:/b\nSeccompProfile=/p.json", "--security-opt=mask=/a:/b --security-opt=seccomp=/p.json"),
        (
            "Mask=/a \"/b c\"\nMask=/d\nUnmask=/e:/f\nUnmask=ALL",
            "--security-opt=mask=/a \"--security-opt=mask=/b c\" --security-opt=mask=/d --security-opt=unmask=/e:/f \
             --security-opt=unmask=ALL",
        ),
        ("UIDMap=0:1:2 2:9:1\nGIDMap=0:1:2 2:9:1", "--gidmap=0:1:2 --gidmap=2:9:1 --uidmap=0:1:2 --uidmap=2:9:1"),
        ("LogOpt=tag=a path=/b", "--log-opt=tag=a --log-opt=path=/b"),
        (
            "Mount=type=image,src=i:1,dst=/i\nMount=type=bind,src=/x.image,dst=/x\nMount=type=tmpfs,dst=/a \"type=bind,src=./b c,dst=/c\"",
            "--mount=type=image,src=i:1,dst=/i --mount=type=bind,src=/x.image,dst=/x --mount=type=tmpfs,dst=/a \"--mount=type=bind,src=/etc/stos/quadlet/b c,dst=/c\"",
        ),
        (
            "AddDevice=/dev/a -/no/such \"/dev/b\"\nEnvironmentFile=a.env \"/b c\"",
            "--device=/dev/a --device=/dev/b --env-file=/etc/stos/quadlet/a.env \"--env-file=/b c\"",
        ),
        ("User=u\nGroup=g", "--user=u:g"),
        ("NoNewPrivileges=true\nVolatileTmp=1", "--security-opt=no-new-privileges --tmpfs=/tmp:rw,size=512M,mode=1777"),
        ("AddDevice=/dev/null:/dev/a\nAddDevice=-/no/such", "--device=/dev/null:/dev/a"),
        ("EnvironmentFile=./a.env\nEnvironmentFile=%h/b", "--env-file=/etc/stos/quadlet/a.env --env-file=%h/b"),
        ("HealthCmd=curl -f localhost\nHealthRetries=2", "\"--health-cmd=curl -f localhost\" --health-retries=2"),
        ("PodmanArgs=--cpus 2 --memory-swap=1g", "--cpus 2 --memory-swap=1g"),
        ("Volume=/srv/x:/x:ro\nVolume=/anonymous", "--volume=/srv/x:/x:ro --volume=/anonymous"),
        ("Volume=../up:/x", "--volume=/etc/stos/up:/x"),
        ("Network=host", "--network=host"),
        ("LogDriver=none\nUlimit=nofile=1:2\nTimezone=local", "--log-driver=none --tz=local --ulimit=nofile=1:2"),
    ] {
        assert_eq!(start(entries), options, "{entries}");
    }
}

#[test]
fn files_are_called_by_their_names_and_come_first() {
    let text = text(
        "a.container",
        "[Container]\nImage=i\nVolume=data.volume:/data:ro\nNetwork=own.network:ip=10.1.2.3\nMount=type=volume,src=data.volume,dst=/b\n",
    );
    let start = line(&text, "ExecStart");
    for option in
        ["--volume=systemd-data:/data:ro", "--network=own:ip=10.1.2.3", "--mount=type=volume,src=systemd-data,dst=/b"]
    {
        assert!(start.contains(option), "{option} in {start}");
    }
    for unit in ["data-volume.service", "own-network.service"] {
        assert!(text.contains(&format!("Requires={unit}\nAfter={unit}\n")), "{text}");
    }
    let joined = self::text("a.container", "[Container]\nImage=i\nNetwork=db.container\n");
    assert!(line(&joined, "ExecStart").contains("--network=container:db ") && joined.contains("After=db.service"));
    assert_eq!(
        refused("a.container", "[Container]\nImage=i\nVolume=other.volume:/x\n"),
        "/etc/stos/quadlet/a.container: other.volume is missing"
    );
}

#[test]
fn the_manager_is_told_as_the_file_says() {
    let with = |entries: &str, service: &str| {
        text("a.container", &format!("[Container]\nImage=i\n{entries}\n[Service]\n{service}\n"))
    };
    assert!(line(&with("Notify=yes", ""), "ExecStart").contains("--sdnotify=container"));
    assert!(line(&with("Notify=healthy", ""), "ExecStart").contains("--sdnotify=healthy"));
    let oneshot = with("", "Type=oneshot\nRemainAfterExit=yes");
    assert!(!oneshot.contains("sdnotify") && !oneshot.contains("NotifyAccess") && line(&oneshot, "Type") == "oneshot");
    assert_eq!(line(&with("StopTimeout=100", ""), "TimeoutStopSec"), "120");
    assert_eq!(line(&with("StopTimeout=100", "TimeoutStopSec=7"), "TimeoutStopSec"), "7");
    assert_eq!(line(&with("ReloadCmd=kill -HUP 1", ""), "ExecReload"), "/usr/bin/stos exec systemd-%N kill -HUP 1");
    let reload = with("ReloadSignal=HUP\nGlobalArgs=--root /r", "");
    assert_eq!(line(&reload, "ExecReload"), "/usr/bin/stos --root /r kill --signal HUP systemd-%N");
    assert_eq!(line(&reload, "ExecStop"), "/usr/bin/stos --root /r stop --ignore systemd-%N");
    assert!(with("CgroupsMode=enabled", "").contains("--cgroups=enabled "));
    let quiet = text("a.container", "[Container]\nImage=i\n[Quadlet]\nDefaultDependencies=no\n");
    assert!(!quiet.contains("network-online"));
}

#[test]
fn volumes_and_networks_are_made_once() {
    let volume =
        convert_one("data.volume", "[Volume]\nLabel=a=1 b=false\nType=tmpfs\nOptions=size=1m,uid=5\nCopy=no\nUser=7\n")
            .unwrap();
    assert_eq!(volume.name, "data-volume.service");
    assert_eq!(
        line(&volume.text, "ExecStart"),
        "/usr/bin/stos volume create --ignore --label=a=1 --label=b=false --opt=type=tmpfs --opt=o=size=1m,uid=5 --uid=7 \
         --opt=nocopy=true systemd-data"
    );
    assert!(volume.text.contains("Type=oneshot\nRemainAfterExit=yes\n"));
    let network = convert_one(
        "own.network",
        "[Network]\nNetworkName=own\nSubnet=10.5.0.0/24\nInternal=yes\nIPv6=no\nNetworkDeleteOnStop=yes\nServiceName=net\n",
    )
    .unwrap();
    assert_eq!(network.name, "net.service");
    assert_eq!(
        line(&network.text, "ExecStart"),
        "/usr/bin/stos network create --ignore --subnet=10.5.0.0/24 --internal own"
    );
    assert_eq!(line(&network.text, "ExecStopPost"), "-/usr/bin/stos network rm own");
}

#[test]
fn names_mean_the_same_in_other_units() {
    for (entry, option) in [
        ("Network=other.container", "--network=container:systemd-svc"),
        ("Network=t@y.container", "--network=container:systemd-t_y"),
        ("Volume=parts.volume:/x", "--volume=parts-volume.parts-volume.%H%%N:/x"),
    ] {
        let text = text("a.container", &format!("[Container]\nImage=i\n{entry}\n"));
        assert!(line(&text, "ExecStart").ends_with(&format!(" {option} i")), "{text}");
    }
    for (entry, name) in [("Network=t@.container", "t@.container"), ("Network=its.network", "its.network")] {
        let said = refused("a.container", &format!("[Container]\nImage=i\n{entry}\n"));
        let reason = format!("a.container:3: {entry}: expected a name in {name} that means the same in other units");
        assert!(said.ends_with(&reason), "{said}");
    }
    for name in ["../x", ".x", "a b", "%H"] {
        let said = refused("a.container", &format!("[Container]\nImage=i\nServiceName={name}\n"));
        assert!(said.ends_with(&format!("a.container:3: ServiceName={name}: expected the name of a unit")), "{said}");
    }
}

#[test]
fn percents_of_paths_are_no_specifiers() {
    let source = source("100%/a%.volume", "[Volume]\n");
    let text = convert(&source, &Siblings::default(), "/a%b$/stos").unwrap().text;
    assert_eq!(line(&text, "SourcePath"), "/etc/stos/quadlet/100%%/a%%.volume");
    assert_eq!(line(&text, "ExecStart"), "/a%%b$/stos volume create --ignore systemd-a%%");
    let text = self::text("100%/a.container", "[Container]\nImage=i\nVolume=./x-%H:/x\n");
    assert!(line(&text, "ExecStart").contains("--volume=/etc/stos/quadlet/100%%/x-%H:/x "), "{text}");
}

#[test]
fn templates_are_linked_by_an_instance() {
    let file = "[Container]\nImage=i\n[Install]\nWantedBy=a.target\nAlias=b.service\n";
    let plain = convert_one("t@.container", file).unwrap();
    assert!(line(&plain.text, "ExecStart").contains("--name systemd-%p_%i "));
    assert_eq!(plain.links, [Link { path: "b.service".into(), target: "t@.service".to_owned() }]);
    let with = convert_one("t@.container", &format!("{file}DefaultInstance=x\n")).unwrap();
    assert_eq!(with.links[1], Link { path: "a.target.wants/t@x.service".into(), target: "../t@.service".to_owned() });
    let instance = convert_one("t@y.container", file).unwrap();
    assert_eq!(instance.links[1].path, PathBuf::from("a.target.wants/t@y.service"));
}

#[test]
fn what_is_wrong_is_named_by_its_line() {
    let place = "/etc/stos/quadlet/a.container";
    for (file, said) in [
        ("[Container]\nExec=x\n", format!("{place}: Image= of [Container] is missing")),
        ("[Container]\nImage=\n", format!("{place}: Image= of [Container] is missing")),
        ("[Container]\nImage=i\nimagge=x\n", format!("{place}:3: imagge= of [Container] is not known: Image= perhaps")),
        ("[Container]\nImage=i\nNonsense=x\n", format!("{place}:3: Nonsense= of [Container] is not known")),
        (
            "[Container]\nImage=i\nSecret=x\n",
            format!(
                "{place}:3: Secret= of [Container] is not known: there are no secrets; EnvironmentFile= or Volume= bring in a file"
            ),
        ),
        (
            "[Container]\nImage=i.build\n",
            format!("{place}:2: Image=i.build: expected the name of an image: there are no .build files"),
        ),
        (
            "[Container]\nImage=i\nMount=type=image,source=x.image,dst=/x\n",
            format!(
                "{place}:3: Mount=type=image,source=x.image,dst=/x: expected the name of an image: there are no .image files"
            ),
        ),
        (
            "[Container]\nImage=i\nHealthStartupCmd=x\n",
            format!(
                "{place}:3: HealthStartupCmd= of [Container] is not known: there is one health check; HealthStartPeriod= says how \
                 long its failures do not count"
            ),
        ),
        ("[Container]\nImage=i\nExec=a 'b\n", format!("{place}:3: Exec=a 'b: a ' has no end")),
        ("[Container]\nImage=i\nReadOnly=so\n", format!("{place}:3: ReadOnly=so: expected yes or no")),
        ("[Container]\nImage=i\nNotify=so\n", format!("{place}:3: Notify=so: expected yes, no or healthy")),
        ("[Container]\nImage=i\nGroup=g\n", format!("{place}:3: Group=g: a group needs a User=")),
        ("[Container]\nImage=i\nStopTimeout=x\n", format!("{place}:3: StopTimeout=x: expected seconds")),
        (
            "[Container]\nImage=i\nReloadCmd=a\nReloadSignal=b\n",
            format!("{place}:4: ReloadSignal=b: there is a ReloadCmd= already"),
        ),
        (
            "[Container]\nImage=i\n[Service]\nType=simple\n",
            format!("{place}:4: Type=simple: expected notify or oneshot"),
        ),
        (
            "[Container]\nImage=i\n[Service]\nKillMode=none\n",
            format!("{place}:4: KillMode=none: expected mixed or control-group"),
        ),
        ("[Container]\nImage=i\n[Quadlet]\nX=1\n", format!("{place}:4: X= of [Quadlet] is not known")),
        (
            "[Container]\nImage=i\n[Install]\nWantedBy=../x\n",
            format!("{place}:4: WantedBy=../x: expected names of units, found \"../x\""),
        ),
    ] {
        assert_eq!(refused("a.container", file), said);
    }
    assert!(refused("a.kube", "").ends_with("a.kube: expected a .container, .volume or .network file"));
    assert!(refused("a.network", "[Network]\nDNS=1.1.1.1\n").contains("servers are a container's"));
}
