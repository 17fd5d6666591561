// SPDX-License-Identifier: Apache-2.0 OR MIT
//! pod ls: pods as podman lists them.

use serde_json::{Value, json};
use stos_engine::pods::{PodStatus, PodView, look_at_all};
use stos_engine::prune::PruneFilter;

use crate::cli::{Global, PodLs, PodSort};
use crate::failure::Failure;
use crate::template::{Context, Template};
use crate::{table, target};

/// How the headers of some fields differ from their names.
const HEADERS: [(&str, &str); 3] =
    [("ID", "POD ID"), ("InfraID", "INFRA ID"), ("NumberOfContainers", "# OF CONTAINERS")];

/// Lists pods.
pub fn list(global: &Global, args: &PodLs) -> Result<u8, Failure> {
    let template = match args.format.as_str() {
        "table" | "json" | "{{json .}}" => None,
        text => Some(Template::parse(text.strip_prefix("table ").unwrap_or(text))?),
    };
    let filters = args.filters.iter().map(|text| Filter::read(text)).collect::<Result<Vec<_>, _>>()?;
    let mut views = if global.data_root.is_dir() { look_at_all(&target::reader(global)?)? } else { Vec::new() };
    views.retain(|view| fit(&filters, view));
    // podman's order: the newest first.
    views.sort_by(|a, b| (&b.record.created, &b.record.id).cmp(&(&a.record.created, &a.record.id)));
    match args.sort {
        PodSort::Created => {}
        PodSort::Id => views.sort_by(|a, b| a.record.id.cmp(&b.record.id)),
        PodSort::Name => views.sort_by(|a, b| a.record.name.cmp(&b.record.name)),
        PodSort::Status => views.sort_by_key(|view| view.status().name()),
        PodSort::Number => views.sort_by_key(|view| view.members.len()),
    }
    let header = if args.noheadings { None } else { Some(()) };
    match (&template, args.format.as_str()) {
        _ if args.quiet => table::print_lines(views.iter().map(|view| shown_id(view, args.no_trunc)))?,
        (None, "table") => {
            let names = ["POD ID", "NAME", "STATUS", "CREATED", "INFRA ID", "# OF CONTAINERS"];
            let rows: Vec<_> = views.iter().map(|view| row(view, args.no_trunc)).collect();
            table::print_under(header.map(|()| &names[..]), &rows)?;
        }
        (None, _) => table::print_json(&views.iter().map(document).collect::<Vec<_>>())?,
        (Some(template), format) => {
            let context = |view: &PodView| Context { document: document(view), shown: shown(view, args.no_trunc) };
            let lines = views.iter().map(|view| template.render(&context(view))).collect::<Result<Vec<_>, _>>()?;
            if format.starts_with("table ") {
                let names = template.header(&HEADERS);
                table::print_cells(header.map(|()| names.as_str()), &lines)?;
            } else {
                lines.iter().try_for_each(table::print_line)?;
            }
        }
    }
    Ok(0)
}

fn shown_id(view: &PodView, whole: bool) -> String {
    let id = &view.record.id;
    if whole { id.to_string() } else { id.short().to_owned() }
}

fn row(view: &PodView, whole: bool) -> Vec<String> {
    vec![
        shown_id(view, whole),
        view.record.name.to_string(),
        view.status().to_string(),
        table::ago(&view.record.created),
        // There is no infra container: see docs/pods.md.
        String::new(),
        view.members.len().to_string(),
    ]
}

fn networks(view: &PodView) -> Vec<&str> {
    view.record.networking.networks.iter().map(|part| part.network.as_str()).collect()
}

/// All of it under the names of podman's JSON.
fn document(view: &PodView) -> Value {
    let containers = view.members.iter().map(|member| {
        let (record, status) = (&member.record, podman_state(member.state.status()));
        json!({"Id": record.id, "Names": record.name, "Status": status, "RestartCount": member.restarts})
    });
    json!({
        "Id": view.record.id,
        "Name": view.record.name,
        "Status": view.status().name(),
        "Created": view.record.created,
        "Containers": containers.collect::<Vec<_>>(),
        "InfraId": "",
        "Labels": view.record.labels,
        "Namespace": "",
        "Networks": networks(view),
        "Cgroup": "",
    })
}

/// podman calls exited what the runtime specification calls stopped.
pub(super) fn podman_state(status: &str) -> &str {
    if status == "stopped" { "exited" } else { status }
}

/// Those fields that look otherwise for people.
fn shown(view: &PodView, whole: bool) -> Value {
    let each =
        |of: &dyn Fn(&stos_engine::pods::Member) -> String| view.members.iter().map(of).collect::<Vec<_>>().join(",");
    let labels: Vec<_> = view.record.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    json!({
        "ID": shown_id(view, whole),
        "Created": table::ago(&view.record.created),
        "InfraID": "",
        "NumberOfContainers": view.members.len(),
        "ContainerIds": each(&|member| match whole {
            true => member.record.id.to_string(),
            false => member.record.id.short().to_owned(),
        }),
        "ContainerNames": each(&|member| member.record.name.to_string()),
        "ContainerStatuses": each(&|member| podman_state(member.state.status()).to_owned()),
        "Labels": labels.join(","),
        "Networks": networks(view).join(","),
    })
}

/// Which pods are listed. Of one key any value will do, but of labels all must.
enum Filter {
    Name(String),
    Id(String),
    Status(PodStatus),
    Network(String),
    Other(PruneFilter),
}

impl Filter {
    fn read(text: &str) -> Result<Self, Failure> {
        let refuse = |reason: &str| Failure::message(format!("--filter {text:?}: {reason}"), 125);
        let expected = "expected name, id, label, label!, status, network or until, each with =VALUE";
        let (key, value) = text.split_once('=').ok_or_else(|| refuse(expected))?;
        Ok(match key {
            "name" => Self::Name(value.to_owned()),
            "id" => Self::Id(value.to_ascii_lowercase()),
            "network" => Self::Network(value.to_owned()),
            "status" => {
                let fits = |status: &PodStatus| status.name().eq_ignore_ascii_case(value);
                let names = || PodStatus::ALL.map(|status| status.name().to_ascii_lowercase()).join(", ");
                let found = PodStatus::ALL.into_iter().find(fits);
                Self::Status(found.ok_or_else(|| refuse(&format!("expected one of {}", names())))?)
            }
            "label" | "label!" | "until" => Self::Other(text.parse::<PruneFilter>()?),
            _ => return Err(refuse(expected)),
        })
    }

    fn fits(&self, view: &PodView) -> bool {
        let record = &view.record;
        match self {
            Self::Name(part) => record.name.as_str().contains(part.as_str()),
            Self::Id(start) => record.id.as_str().starts_with(start.as_str()),
            Self::Status(status) => view.status() == *status,
            Self::Network(name) => networks(view).contains(&name.as_str()),
            Self::Other(filter) => filter.holds_of(Some(&record.created), &record.labels),
        }
    }
}

fn fit(filters: &[Filter], view: &PodView) -> bool {
    filters.iter().all(|filter| match filter {
        Filter::Other(_) => filter.fits(view),
        one => {
            let is_alike = |other: &&Filter| std::mem::discriminant(*other) == std::mem::discriminant(one);
            filters.iter().filter(is_alike).any(|filter| filter.fits(view))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read() {
        for text in
            ["name=a", "id=AB", "status=Running", "status=exited", "label=a", "label!=a", "network=n", "until=1h"]
        {
            assert!(Filter::read(text).is_ok(), "{text}");
        }
        for (text, said) in [("status=x", "created, running, degraded"), ("x=y", "name, id"), ("name", "each with")] {
            let refused = Filter::read(text).err().map(|failure| failure.to_string()).unwrap_or_default();
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }
}
