// SPDX-License-Identifier: Apache-2.0 OR MIT
//! top: the processes of a container of either mode.

use serde_json::{Map, Value};
use stos_runtime::processes::{Column, columns, list};

use super::ps::processes::show;
use crate::cli::{Format, Global, Top};
use crate::failure::Failure;
use crate::table;
use crate::target::run_state;

/// Shows the processes of a container as it sees them, and as the host does. Options are ps(1)'s, and then this is `ps`.
pub fn top(global: &Global, args: &Top) -> Result<u8, Failure> {
    let (query, words) = args.container_and_words();
    if words.iter().any(|word| word.starts_with('-')) {
        return show(global, query, words, args.format == Format::Json);
    }
    of_all(global, &[query.to_owned()], words, args.format)
}

/// Shows the processes of all these containers in one table.
pub fn of_all(global: &Global, containers: &[String], words: &[String], format: Format) -> Result<u8, Failure> {
    let columns: Vec<&Column> =
        columns(words).map_err(|unknown| Failure::message(format!("top: {unknown:?} is no descriptor"), 1))?;
    let mut rows = Vec::new();
    for query in containers {
        let (states, id) = run_state(global, query, "list the processes of")?;
        rows.extend(list(&states.read(&id)?, &columns)?);
    }
    match format {
        Format::Table => {
            let header: Vec<_> = columns.iter().map(|column| column.header).collect();
            table::print(&header, &rows)?;
        }
        Format::Json => {
            let object = |row: &Vec<String>| {
                let pairs =
                    columns.iter().zip(row).map(|(column, cell)| (column.name.to_owned(), Value::from(cell.as_str())));
                pairs.collect::<Map<_, _>>()
            };
            table::print_json(&rows.iter().map(object).collect::<Vec<_>>())?;
        }
    }
    Ok(0)
}
