// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of new networks.

use super::*;

fn place() -> (tempfile::TempDir, NetworkDirectory) {
    let dir = tempfile::tempdir().unwrap();
    let directory = NetworkDirectory::new(dir.path().join("networks"));
    (dir, directory)
}

fn named(name: &str) -> NewNetwork {
    NewNetwork { name: Some(name.to_owned()), ..NewNetwork::default() }
}

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn what_is_left_open_is_chosen_as_podman_chooses() {
    let (_dir, directory) = place();
    let one = create_network(&directory, &NewNetwork::default()).unwrap();
    let two = create_network(&directory, &named("two")).unwrap();
    assert_eq!((one.name.as_str(), one.driver.as_str(), one.dns_enabled), ("podman1", "bridge", true));
    assert!(one.network_interface.starts_with("podman") && one.network_interface != two.network_interface);
    let [first, second] = [&one, &two].map(|network| network.subnets[0].subnet);
    assert!(!first.overlaps(&second) && first.prefix() == 24 && first.to_string().starts_with("10."));
    assert_eq!(two.subnets[0].gateway, Some(second.first_host()));
    assert_eq!(directory.find("two").unwrap(), two);
    let both = create_network(&directory, &NewNetwork { ipv6: true, ..named("both") }).unwrap();
    assert!(both.ipv6_enabled && both.subnets[0].subnet.is_ipv4());
    assert!(both.subnets[1].subnet.to_string().starts_with("fd") && both.subnets[1].subnet.prefix() == 64);
}

#[test]
fn the_pool_is_podman_s_and_ends() {
    assert_eq!(free_ipv4(|_| false).unwrap().to_string(), "10.89.0.0/24");
    let low = "10.64.0.0/10".parse::<Subnet>().unwrap();
    assert_eq!(free_ipv4(|subnet| low.overlaps(subnet)).unwrap().to_string(), "10.128.0.0/24");
    assert!(matches!(free_ipv4(|_| true), Err(Error::NoFreeSubnet)));
}

#[test]
fn subnets_gateways_and_ranges_go_together() {
    let (_dir, directory) = place();
    let wish = NewNetwork {
        subnets: vec!["10.231.4.0/24".parse().unwrap()],
        gateways: vec!["10.231.4.254".parse().unwrap()],
        ranges: vec!["10.231.4.128/25".to_owned()],
        ..named("a")
    };
    let made = create_network(&directory, &wish).unwrap();
    let range = made.subnets[0].range();
    assert_eq!(made.subnets[0].gateway.unwrap().to_string(), "10.231.4.254");
    assert_eq!((range.0.to_string(), range.1.to_string()), ("10.231.4.129".into(), "10.231.4.254".into()));
    let refused = |wish: NewNetwork| create_network(&directory, &wish).unwrap_err();
    let overlapping = NewNetwork { subnets: vec!["10.231.0.0/16".parse().unwrap()], ..named("b") };
    let said = refused(overlapping).to_string();
    assert_eq!(said, "subnet 10.231.0.0/16 overlaps 10.231.4.0/24, which network a has");
    let twice = NewNetwork { subnets: vec!["10.232.0.0/16".parse().unwrap(); 2], ..named("b") };
    assert!(matches!(refused(twice), Error::SubnetTaken { .. }));
    for (gateway, range, subnet) in [
        ("10.9.9.9", "", "10.233.0.0/24"),
        ("10.233.0.0", "", "10.233.0.0/24"),
        ("", "10.9.0.0/24", "10.233.0.0/24"),
        ("", "10.233.0.9-10.233.0.3", "10.233.0.0/24"),
        ("", "x", "10.233.0.0/24"),
        ("", "", "10.233.0.0/31"),
        ("", "", "0.0.0.0/0"),
    ] {
        let wish = NewNetwork {
            subnets: vec![subnet.parse().unwrap()],
            gateways: gateway.parse().ok().into_iter().collect(),
            ranges: Some(range.to_owned()).filter(|range| !range.is_empty()).into_iter().collect(),
            ..named("b")
        };
        let error = refused(wish);
        assert!(matches!(error, Error::Value { .. }), "{gateway} {range} {subnet}: {error}");
    }
    let lonely = NewNetwork { gateways: vec!["10.1.1.1".parse().unwrap()], ..named("b") };
    assert!(refused(lonely).to_string().contains("no more of them than subnets"));
    assert!(matches!(directory.named("b"), Err(Error::NoSuchNetwork(_))), "nothing half-made stays");
    // The given gateway is that of the given subnet, wherever the other family's stands.
    let wish = NewNetwork {
        subnets: vec!["fd00:77::/64".parse().unwrap()],
        gateways: vec!["fd00:77::5".parse().unwrap()],
        ipv6: true,
        ..named("c")
    };
    let made = create_network(&directory, &wish).unwrap();
    assert_eq!(made.subnets[1].gateway.unwrap().to_string(), "fd00:77::5");
    assert!(made.subnets[0].subnet.is_ipv4());
}

#[test]
fn options_are_checked_by_name_and_value() {
    let (_dir, directory) = place();
    let with = |driver: &str, pairs: &[(&str, &str)]| {
        let wish = NewNetwork { driver: Some(driver.to_owned()), options: options(pairs), ..NewNetwork::default() };
        create_network(&directory, &wish)
    };
    let made = with("bridge", &[("com.docker.network.driver.mtu", "1400"), ("isolate", "1")]).unwrap();
    assert_eq!(made.options, options(&[("isolate", "true"), ("mtu", "1400")]));
    let made = with("bridge", &[("com.docker.network.bridge.name", "br-x")]).unwrap();
    assert_eq!(made.network_interface, "br-x");
    for (driver, pairs) in [
        ("bridge", &[("mtu", "x")][..]),
        ("bridge", &[("mtu", "70000")]),
        ("bridge", &[("isolate", "maybe")]),
        ("bridge", &[("mode", "l2")]),
        ("bridge", &[("com.docker.network.bridge.name", "br-x")]),
        ("bridge", &[("com.docker.network.bridge.name", "much-too-long-a-name")]),
        ("macvlan", &[("parent", "no-such-if")]),
        ("macvlan", &[("mode", "l2")]),
        ("ipvlan", &[]),
        ("ipvlan", &[("bclim", "1")]),
        ("overlay", &[]),
    ] {
        assert!(matches!(with(driver, pairs), Err(Error::Value { .. })), "{driver} {pairs:?}");
    }
    assert_eq!(with("macvlan", &[("mode", "vepa")]).unwrap().ipam_options["driver"], "dhcp");
}

#[test]
fn names_that_mean_something_else_are_refused() {
    let (_dir, directory) = place();
    for name in ["host", "none", "bridge", "container", "a/b", "", "-x"] {
        assert!(matches!(create_network(&directory, &named(name)), Err(Error::Value { .. })), "{name}");
    }
    create_network(&directory, &named("a")).unwrap();
    assert!(matches!(create_network(&directory, &named("a")), Err(Error::Exists(_))));
    assert!(matches!(create_network(&directory, &named("podman")), Err(Error::Exists(_))));
}
