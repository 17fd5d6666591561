// SPDX-License-Identifier: Apache-2.0 OR MIT
//! stats and pod stats: what containers of either mode use, or those of pods.

use std::collections::HashSet;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use stos_engine::container::{self, ContainerState};
use stos_engine::pods::{self, PodView};
use stos_engine::stats::{ContainerUsage, Sampler};
use stos_runtime::RunState;
use stos_runtime::lifecycle::list_bundles;

use crate::cli::{Global, Stats};
use crate::failure::Failure;
use crate::table;
use crate::target::{self, Target};
use crate::template::{Context, Template};

/// Puts the cursor at the top of an empty screen.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// What is told of a container.
#[derive(Serialize)]
struct Line {
    /// The id of its pod, where pods were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    id: String,
    name: String,
    #[serde(flatten)]
    usage: ContainerUsage,
}

/// A container, and its state where it runs.
struct Watched {
    pod: Option<String>,
    id: String,
    name: String,
    run: Option<RunState>,
}

/// How the list looks.
enum Look {
    Table,
    Json,
    /// A line each; with the names of the columns where it begins with `table`.
    Template(Template, bool),
}

impl Look {
    fn of(format: &str) -> Result<Self, Failure> {
        match format {
            "table" => Ok(Self::Table),
            "json" | "{{json .}}" => Ok(Self::Json),
            text => match text.strip_prefix("table ") {
                Some(text) => Ok(Self::Template(Template::parse(text)?, true)),
                None => Ok(Self::Template(Template::parse(text)?, false)),
            },
        }
    }

    fn text(&self, lines: &[Line], args: &Stats, with_pods: bool) -> Result<String, Failure> {
        match self {
            Self::Json if args.no_stream => Ok(serde_json::to_string_pretty(lines)? + "\n"),
            Self::Json => Ok(serde_json::to_string(lines)? + "\n"),
            Self::Table => Ok(table(lines, with_pods, args.no_trunc)),
            Self::Template(template, has_header) => {
                let mut text = String::new();
                if *has_header {
                    text =
                        template.header(&[("PIDs", "PIDS"), ("CPUPerc", "CPU %"), ("MemUsage", "MEM USAGE / LIMIT")])
                            + "\n";
                }
                for line in lines {
                    text.push_str(&template.render(&context(line, args.no_trunc)?)?);
                    text.push('\n');
                }
                Ok(text)
            }
        }
    }
}

/// A line for templates, with podman's names for what its table shows.
fn context(line: &Line, whole_id: bool) -> Result<Context, Failure> {
    let names = ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs", "CPU", "AvgCPU"];
    let pod = line.pod.iter().map(|_| "Pod");
    let cells = pod.chain(names).map(str::to_owned).zip(row(line, whole_id).into_iter().map(Value::from));
    Ok(Context { document: serde_json::to_value(line)?, shown: Value::Object(cells.collect()) })
}

/// Tells what containers use, once or until nobody reads it any more.
pub fn stats(global: &Global, args: &Stats) -> Result<u8, Failure> {
    watch(args, false, &mut || match args.containers.as_slice() {
        [] => all(global, args.all),
        containers => named(global, containers),
    })
}

/// Tells the same of the containers of pods that run; without a pod of all. `args` names no container.
pub fn of_pods(global: &Global, args: &Stats, names: &[String]) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    watch(args, true, &mut || {
        let views = match names {
            [] => pods::look_at_all(&engine)?,
            names => {
                let look = |name: &String| pods::look(&engine, pods::find(&engine, name)?);
                names.iter().map(look).collect::<stos_engine::Result<Vec<PodView>>>()?
            }
        };
        let members = views.into_iter().flat_map(|view| {
            let pod = view.record.id.to_string();
            view.members.into_iter().filter(|member| member.is_running()).map(move |member| Watched {
                pod: Some(pod.clone()),
                id: member.record.id.to_string(),
                name: member.record.name.to_string(),
                run: running(member.state),
            })
        });
        Ok(members.collect())
    })
}

/// Prints what those use that `find` finds, each time anew.
fn watch(
    args: &Stats,
    with_pods: bool,
    find: &mut dyn FnMut() -> Result<Vec<Watched>, Failure>,
) -> Result<u8, Failure> {
    let mut sampler = Sampler::default();
    let look = Look::of(&args.format)?;
    let clears = !args.no_stream && !args.no_reset && matches!(look, Look::Table) && io::stdout().is_terminal();
    loop {
        let lines: Vec<_> = find()?
            .into_iter()
            .map(|Watched { pod, id, name, run }| Line {
                pod,
                id,
                name,
                usage: run.map(|run| sampler.sample(&run)).unwrap_or_default(),
            })
            .collect();
        let text = look.text(&lines, args, with_pods)?;
        let mut out = io::stdout().lock();
        let printed = write!(out, "{}{text}", if clears { CLEAR } else { "" }).and_then(|()| out.flush());
        match printed {
            // Who reads us has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            other => other?,
        }
        if args.no_stream {
            return Ok(0);
        }
        drop(out);
        std::thread::sleep(Duration::from_secs(args.interval.into()));
    }
}

/// Each container that was named; one that does not run uses nothing.
fn named(global: &Global, names: &[String]) -> Result<Vec<Watched>, Failure> {
    let find = |query: &String| match target::find_to_read(global, query)? {
        Target::Bundle(states, id) => Ok(bundle(states.read(&id)?)),
        Target::Image(engine, record) => {
            let run = running(container::state(&engine, &record.id)?);
            Ok(Watched { pod: None, id: record.id.to_string(), name: record.name.to_string(), run })
        }
    };
    names.iter().map(find).collect()
}

fn bundle(run: RunState) -> Watched {
    Watched { pod: None, id: run.id.to_string(), name: run.id.to_string(), run: Some(run) }
}

fn running(state: ContainerState) -> Option<RunState> {
    match state {
        ContainerState::Running(run) => Some(*run),
        _ => None,
    }
}

/// All that run; with `stopped` those that do not, too.
fn all(global: &Global, stopped: bool) -> Result<Vec<Watched>, Failure> {
    let mut found = Vec::new();
    let mut known = HashSet::new();
    if !global.bundle_mode && global.data_root.is_dir() {
        let engine = target::reader(global)?;
        for (id, record) in container::list(&engine)? {
            known.insert(id.to_string());
            let Ok(record) = record else { continue };
            let run = match container::state(&engine, &id) {
                Ok(state) => running(state),
                Err(error) => {
                    tracing::warn!(container = %record.name, %error, "what it does cannot be read");
                    continue;
                }
            };
            if run.is_some() || stopped {
                found.push(Watched { pod: None, id: id.to_string(), name: record.name.to_string(), run });
            }
        }
    }
    let states = target::run_states(global);
    for state in list_bundles(&states, |id| known.contains(id.as_str()))? {
        let runs = !matches!(state.status, stos_runtime::Status::Stopped);
        if (runs || stopped)
            && let Ok(id) = state.id.parse()
            && let Ok(run) = states.read(&id)
        {
            found.push(bundle(run));
        }
    }
    Ok(found)
}

fn table(lines: &[Line], with_pods: bool, whole_ids: bool) -> String {
    let rows: Vec<_> = lines.iter().map(|line| row(line, whole_ids)).collect();
    let mut header = vec![
        "ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET IO",
        "BLOCK IO",
        "PIDS",
        "CPU TIME",
        "AVG CPU %",
    ];
    if with_pods {
        // podman's names for the two.
        header.splice(..1, ["POD", "CID"]);
    }
    table::render(&header, &rows)
}

fn shown_id(id: &str, whole: bool) -> String {
    if whole { id } else { id.get(..12).unwrap_or(id) }.to_owned()
}

fn row(line: &Line, whole_id: bool) -> Vec<String> {
    let usage = &line.usage;
    let both = |one, other| format!("{} / {}", table::size(one), table::size(other));
    let network = match (usage.net_input, usage.net_output) {
        (Some(input), Some(output)) => both(input, output),
        _ => "-- / --".to_owned(),
    };
    let cells = [
        shown_id(&line.id, whole_id),
        line.name.clone(),
        format!("{:.2}%", usage.cpu_percent),
        both(usage.mem_usage, usage.mem_limit),
        format!("{:.2}%", usage.mem_percent),
        network,
        both(usage.block_input, usage.block_output),
        usage.pids.to_string(),
        stos_runtime::processes::duration(u128::from(usage.cpu_time)),
        format!("{:.2}%", usage.avg_cpu),
    ];
    line.pod.iter().map(|pod| shown_id(pod, whole_id)).chain(cells).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_podman_has_it() {
        let usage = ContainerUsage {
            cpu_time: 1_500_000_000,
            cpu_percent: 12.345,
            mem_usage: 1000,
            mem_limit: 64_000_000,
            mem_percent: 0.5,
            pids: 3,
            ..ContainerUsage::default()
        };
        let line = Line { pod: None, id: "0123456789abcdef".into(), name: "web".into(), usage };
        let expected =
            ["0123456789ab", "web", "12.35%", "1 kB / 64 MB", "0.50%", "-- / --", "0 B / 0 B", "3", "1.5s", "0.00%"];
        assert_eq!(row(&line, false), expected);
        assert_eq!(row(&line, true)[0], "0123456789abcdef");
        let template = Template::parse("{{.Name}} {{.MemUsage}} {{.CPUPerc}} {{.PIDs}}").unwrap();
        assert_eq!(template.render(&context(&line, false).unwrap()).unwrap(), "web 1 kB / 64 MB 12.35% 3");
        let of_pod = Line {
            pod: Some("abcdef0123456789".into()),
            id: "0".into(),
            name: "web".into(),
            usage: ContainerUsage::default(),
        };
        assert_eq!(row(&of_pod, false)[..2], ["abcdef012345", "0"]);
        assert!(table(&[of_pod], true, false).starts_with("POD           CID  NAME"));
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!(
            (&json["pids"], &json["net_input"], &json["name"]),
            (&3.into(), &serde_json::Value::Null, &"web".into())
        );
    }
}
