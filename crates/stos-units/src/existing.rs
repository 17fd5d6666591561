// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The service of a container that is there, as podman-generate-systemd(1) makes one.

use crate::unit_file::UnitText;
use crate::words;

/// What the service is to be.
#[derive(Debug, Clone)]
pub struct Existing<'a> {
    /// stos, and its options that say where the container is.
    pub program: &'a [String],
    /// The container, by its name or its id.
    pub container: &'a str,
    /// `container-web`, the service's name without its end.
    pub service: &'a str,
    /// Whether the manager gives the container a cgroup to make its own in.
    pub delegates: bool,
    /// Seconds that the container has to end in, if not its own.
    pub stop_timeout: Option<u64>,
    /// Seconds that it has by itself.
    pub own_stop_timeout: u64,
    /// `Restart=`: `on-failure` and its like.
    pub restart: &'a str,
    /// `RestartSec=`, seconds.
    pub restart_sec: Option<u64>,
    /// `TimeoutStartSec=`, seconds.
    pub start_timeout: Option<u64>,
    /// Units that are wanted, and that it comes after; by default the network.
    pub wants: &'a [String],
    /// Units that it comes after.
    pub after: &'a [String],
    /// Units that it needs.
    pub requires: &'a [String],
    /// `NAME=VALUE` of the environment that stos runs in.
    pub environment: &'a [String],
}

/// Seconds that the manager waits longer for the end than the container has.
const STOP_MARGIN: u64 = 60;

/// What a restart policy of systemd's may be (systemd.service(5)).
pub const RESTARTS: [&str; 7] = ["no", "always", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort"];

impl Existing<'_> {
    /// The unit file.
    pub fn text(&self) -> String {
        let mut text = UnitText::default();
        text.add("Unit", "Description", format!("stos {}.service", self.service));
        text.add("Unit", "Documentation", "man:podman-generate-systemd(1)");
        for (key, units) in [("Wants", self.wants), ("After", self.after)] {
            text.add("Unit", key, "network-online.target");
            units.iter().for_each(|unit| text.add("Unit", key, unit));
        }
        self.requires.iter().for_each(|unit| text.add("Unit", "Requires", unit));
        for variable in self.environment {
            text.add("Service", "Environment", words::join([words::percents_doubled(variable).as_str()]));
        }
        text.add("Service", "Type", "notify");
        text.add("Service", "NotifyAccess", "all");
        if self.delegates {
            text.add("Service", "Delegate", "yes");
        }
        text.add("Service", "KillMode", "mixed");
        text.add("Service", "Restart", self.restart);
        if let Some(seconds) = self.restart_sec {
            text.add("Service", "RestartSec", seconds.to_string());
        }
        if let Some(seconds) = self.start_timeout {
            text.add("Service", "TimeoutStartSec", seconds.to_string());
        }
        let seconds = self.stop_timeout.unwrap_or(self.own_stop_timeout).saturating_add(STOP_MARGIN);
        text.add("Service", "TimeoutStopSec", seconds.to_string());
        text.add("Service", "ExecStart", self.command(&["start", "--attach", "--sdnotify=conmon"]));
        let time = self.stop_timeout.map(|seconds| seconds.to_string());
        let stop = ["stop", "--ignore"].into_iter().chain(time.iter().flat_map(|time| ["--time", time]));
        text.add("Service", "ExecStop", self.command(&stop.collect::<Vec<_>>()));
        text.add("Install", "WantedBy", "default.target");
        text.to_string()
    }

    fn command(&self, verb: &[&str]) -> String {
        let (program, places) =
            self.program.split_first().map_or(("stos", &[][..]), |(first, rest)| (first.as_str(), rest));
        let words = places.iter().map(String::as_str).chain(verb.iter().copied()).chain([self.container]);
        // A $ means nothing in a program's path.
        format!("{} {}", words::join([words::percents_doubled(program).as_str()]), words::join_literally(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_is_started_in_the_foreground() {
        let program = ["/a$b/stos", "--data-root", "/data $ 100%"].map(str::to_owned);
        let units = ["a.service".to_owned()];
        let existing = Existing {
            program: &program,
            container: "web",
            service: "container-web",
            delegates: false,
            stop_timeout: Some(10),
            own_stop_timeout: 30,
            restart: "on-failure",
            restart_sec: Some(3),
            start_timeout: None,
            wants: &[],
            after: &units,
            requires: &[],
            environment: &["A=b $c 5%".to_owned()],
        };
        assert_eq!(
            existing.text(),
            "[Unit]\nDescription=stos container-web.service\nDocumentation=man:podman-generate-systemd(1)\n\
             Wants=network-online.target\nAfter=network-online.target\nAfter=a.service\n\n\
             [Service]\nEnvironment=\"A=b $c 5%%\"\nType=notify\nNotifyAccess=all\nKillMode=mixed\nRestart=on-failure\n\
             RestartSec=3\nTimeoutStopSec=70\n\
             ExecStart=/a$b/stos --data-root \"/data $$ 100%%\" start --attach --sdnotify=conmon web\n\
             ExecStop=/a$b/stos --data-root \"/data $$ 100%%\" stop --ignore --time 10 web\n\n\
             [Install]\nWantedBy=default.target\n"
        );
        let own = Existing { stop_timeout: None, ..existing }.text();
        assert!(own.contains("\nTimeoutStopSec=90\n") && own.contains(" stop --ignore web\n"), "{own}");
    }
}
