// SPDX-License-Identifier: Apache-2.0 OR MIT
//! system check, verify: what is damaged, and what became of it.

use stos_engine::check::{CheckOptions, CheckReport, Finding, Item, Outcome, Severity, check_store, verify_image};
use stos_spec::text::escape;

use crate::cli::{Format, Global, SystemCheck, VerifyImage};
use crate::failure::Failure;
use crate::{options, table, target};

/// Looks for damage in the whole store, and repairs it where that was asked for.
pub fn check(global: &Global, args: &SystemCheck) -> Result<u8, Failure> {
    let engine = target::checker(global)?;
    let registries = options::registries(&args.connection);
    let report = check_store(&engine, &CheckOptions { full: args.full, repair: args.repair.then_some(&registries) })?;
    match args.format {
        Format::Json => table::print_json(&report)?,
        Format::Table => {
            for (item, finding) in report.findings() {
                table::print_line(escape(&line(item, finding)))?;
            }
            table::print_line(summary(&report))?;
        }
    }
    if !report.healthy && !args.repair {
        hint("`stos system check --repair` makes again what can be");
    }
    Ok(u8::from(!report.healthy))
}

/// Proves one image.
pub fn verify(global: &Global, args: &VerifyImage) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    let verified = verify_image(&engine, &args.image, args.full)?;
    match args.format {
        Format::Json => table::print_json(&verified)?,
        Format::Table => {
            for item in &verified.objects {
                if item.findings.is_empty() {
                    table::print_line(format!("{}: ok", name(item)))?;
                }
                for finding in &item.findings {
                    table::print_line(escape(&line(item, finding)))?;
                }
            }
            let outcome = if verified.sound { "sound" } else { "damaged" };
            let how = closeness(verified.full);
            table::print_line(format!("{outcome}: {} {} ({how})", escape(&verified.image), verified.digest))?;
        }
    }
    if !verified.sound {
        hint("`stos pull` of it or `stos system check --repair` makes it whole again");
    }
    Ok(u8::from(!verified.sound))
}

fn hint(text: &str) {
    use std::io::Write;
    // With stderr closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "hint: {text}");
}

fn closeness(full: bool) -> &'static str {
    if full { "full" } else { "sealed" }
}

fn name(item: &Item) -> String {
    let backend = item.backend.map(|kind| format!(" ({kind})")).unwrap_or_default();
    format!("{} {}{backend}", item.object, item.id)
}

/// Says on one line what was found: the object, its file, what was expected and found, what became of it, and who needs it.
fn line(item: &Item, finding: &Finding) -> String {
    let mut parts = vec![name(item)];
    parts.extend(finding.path.clone().filter(|path| *path != item.id));
    parts.push(match finding.severity {
        Severity::Damage => format!("expected {}, found {}", finding.expected, finding.found),
        Severity::Note => finding.found.clone(),
    });
    parts.push(match (&finding.outcome, finding.severity) {
        (Outcome::Found, Severity::Damage) => "damaged".to_owned(),
        (Outcome::Found, Severity::Note) => "note".to_owned(),
        (Outcome::Repaired { how }, _) => format!("repaired: {how}"),
        (Outcome::Stays { why }, Severity::Damage) => format!("stays damaged: {why}"),
        (Outcome::Stays { why }, Severity::Note) => format!("stays: {why}"),
    });
    let users = |what: &str, names: &[String]| match names {
        [] => None,
        [name] => Some(format!("{what} {name}")),
        names => Some(format!("{what}s {}", names.join(", "))),
    };
    let users = [users("image", &finding.images), users("container", &finding.containers)];
    let users: Vec<_> = users.into_iter().flatten().collect();
    let users = if users.is_empty() { String::new() } else { format!(" [{}]", users.join("; ")) };
    format!("{}{users}", parts.join(": "))
}

/// Says what was looked at, how closely, and how it is.
fn summary(report: &CheckReport) -> String {
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let looked = [
        count(report.images, "image"),
        count(report.layers, "layer"),
        count(report.chains, "chain"),
        count(report.containers, "container"),
    ];
    let volumes = (report.volumes > 0).then(|| count(report.volumes, "volume"));
    let pods = (report.pods > 0).then(|| count(report.pods, "pod"));
    let looked: Vec<_> = looked.into_iter().chain(volumes).chain(pods).collect();
    let damage = report.findings().filter(|(_, finding)| finding.severity == Severity::Damage).count();
    let stays = report.findings().filter(|(_, finding)| finding.is_damage_that_stays()).count();
    let outcome = match (damage, stays) {
        (0, _) => "healthy".to_owned(),
        (_, 0) => format!("healthy again, {damage} repaired"),
        _ if stays == damage => format!("damaged, {stays} found"),
        _ => format!("damaged, {} repaired, {stays} left", damage - stays),
    };
    format!("{outcome}: {} looked at ({})", looked.join(", "), closeness(report.full))
}
