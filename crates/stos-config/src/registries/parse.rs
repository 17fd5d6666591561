// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One file of `registries.conf`.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Alias, Mirror, Registries, Serves, ShortNameMode, Table};
use crate::credentials::is_helper_name;
use crate::document::{Fields, Item, Node};
use crate::error::Error;
use crate::names::{Written, is_registry, without_user};
use crate::place::Place;
use crate::proxy::ProxyAddress;

const TOP: [&str; 6] = [
    "registry",
    "unqualified-search-registries",
    "short-name-mode",
    "aliases",
    "credential-helpers",
    // It tells another program of credentials when layers are mounted remotely; there is nothing here that it could tell.
    "additional-layer-store-auth-helper",
];
const TABLE: [&str; 7] = ["prefix", "location", "insecure", "proxy", "blocked", "mirror", "mirror-by-digest-only"];
const MIRROR: [&str; 4] = ["location", "insecure", "proxy", "pull-from-mirror"];

/// Reads one file. Its `main` is not set.
pub(super) fn file(path: &Path, bytes: &[u8]) -> Result<Registries, Error> {
    let node = Node::of_toml(path, bytes)?;
    let top = node.item(path).table()?;
    if let Some(old) = top.get("registries") {
        return Err(Error::OldFormat { place: old.place() });
    }
    let mut read = Registries { unknown: top.unknown(&TOP), ..Registries::default() };
    if let Some(item) = top.get("unqualified-search-registries") {
        read.search = Some((texts(&item, search_registry)?, item.place()));
    }
    if let Some(item) = top.get("credential-helpers") {
        read.helpers = Some((texts(&item, helper)?, item.place()));
    }
    if let Some(item) = top.get("short-name-mode") {
        read.mode = mode(&item)?.map(|mode| (mode, item.place()));
    }
    if let Some(item) = top.get("aliases") {
        read.aliases = aliases(&item)?;
    }
    if let Some(item) = top.get("registry") {
        let mut locations = Locations::default();
        for item in item.list()? {
            let table = table(&item, &mut read)?;
            locations.agree(&table)?;
            // Of two tables with one prefix upstream takes the first.
            read.tables.entry(table.prefix.clone()).or_insert(table);
        }
    }
    Ok(read)
}

fn texts(list: &Item<'_>, check: fn(&Item<'_>) -> Result<String, Error>) -> Result<Vec<String>, Error> {
    list.list()?.iter().map(check).collect()
}

fn search_registry(item: &Item<'_>) -> Result<String, Error> {
    let text = item.text()?.trim_end_matches('/');
    match is_registry(text) {
        true => Ok(text.to_owned()),
        false => Err(item.unfit("a host, and maybe a port", without_user(text))),
    }
}

fn helper(item: &Item<'_>) -> Result<String, Error> {
    let name = item.text()?;
    match is_helper_name(name) {
        true => Ok(name.to_owned()),
        false => Err(item.unfit("the end of a program's name after docker-credential-", name)),
    }
}

fn mode(item: &Item<'_>) -> Result<Option<ShortNameMode>, Error> {
    match item.text()? {
        "" => Ok(None),
        "enforcing" => Ok(Some(ShortNameMode::Enforcing)),
        "permissive" => Ok(Some(ShortNameMode::Permissive)),
        "disabled" => Ok(Some(ShortNameMode::Disabled)),
        other => Err(item.unfit("enforcing, permissive or disabled", other)),
    }
}

/// Reads a table of short names and what they stand for.
pub(super) fn aliases(item: &Item<'_>) -> Result<BTreeMap<String, Alias>, Error> {
    let alias = |(name, item): (&str, Item<'_>)| {
        let is_short = |written: &Written| written.is_name_only() && written.reference.is_short();
        if !Written::parse(name).is_ok_and(|written| is_short(&written)) {
            return Err(item.unfit("a name without registry, tag and digest as the key", name));
        }
        let text = item.text()?;
        let is_full = |written: &Written| written.is_name_only() && !written.reference.is_short();
        let target = match Written::parse(text) {
            _ if text.is_empty() => None,
            Ok(written) if is_full(&written) => Some(written.reference.name()),
            _ => return Err(item.unfit("a registry and a repository, without tag and digest", without_user(text))),
        };
        Ok((name.to_owned(), Alias { target, place: item.place() }))
    };
    item.table()?.iter().map(alias).collect()
}

fn table(item: &Item<'_>, read: &mut Registries) -> Result<Table, Error> {
    let fields = item.table()?;
    read.unknown.extend(fields.unknown(&TABLE));
    // It says of a mirror when it is asked; upstream refuses it here.
    if let Some(item) = fields.get("pull-from-mirror") {
        return Err(Error::UnknownKey { place: item.place(), known: &TABLE });
    }
    let location = location(&fields, "location")?;
    let prefix = match (self::location(&fields, "prefix")?, &location) {
        (Some(prefix), _) => prefix,
        (None, Some(location)) => location.clone(),
        (None, None) => return Err(Error::Missing { place: item.place(), key: "prefix or location" }),
    };
    if let Some(item) = fields.get("prefix").filter(|_| !is_prefix(&prefix)) {
        return Err(item.unfit("HOST[:PORT][/NAMESPACE…][:TAG or @DIGEST], or *.DOMAIN", &prefix));
    }
    let by_digest_only = flag(&fields, "mirror-by-digest-only")?;
    let mut mirrors = Vec::new();
    if let Some(list) = fields.get("mirror") {
        for item in list.list()? {
            read.unknown.extend(item.table()?.unknown(&MIRROR));
            mirrors.push(mirror(&item, by_digest_only.then(|| fields.get("mirror-by-digest-only")).flatten())?);
        }
    }
    Ok(Table {
        prefix,
        location,
        insecure: flag(&fields, "insecure")?,
        proxy: proxy(&fields)?,
        blocked: flag(&fields, "blocked")?,
        mirrors,
        place: item.place(),
    })
}

fn mirror(item: &Item<'_>, by_digest_only: Option<Item<'_>>) -> Result<Mirror, Error> {
    let fields = item.table()?;
    let Some(location) = location(&fields, "location")? else {
        return Err(Error::Missing { place: item.place(), key: "location" });
    };
    let pull = fields.get("pull-from-mirror");
    let serves = match pull.as_ref().map(Item::text).transpose()? {
        None | Some("") if by_digest_only.is_some() => Serves::DigestOnly,
        None | Some("" | "all") => Serves::All,
        Some("digest-only") => Serves::DigestOnly,
        Some("tag-only") => Serves::TagOnly,
        Some(other) => return Err(pull.unwrap_or(item.clone()).unfit("all, digest-only or tag-only", other)),
    };
    match (pull.filter(|pull| pull.text().is_ok_and(|text| !text.is_empty())), by_digest_only) {
        (Some(pull), Some(other)) => Err(Error::Conflict {
            place: pull.place(),
            other: other.place(),
            reason: "pull-from-mirror and mirror-by-digest-only exclude each other",
        }),
        _ => Ok(Mirror {
            location,
            insecure: flag(&fields, "insecure")?,
            proxy: proxy(&fields)?,
            serves,
            place: item.place(),
        }),
    }
}

/// Reads a location or prefix; slashes at its end do not count, and empty is as good as not there.
fn location(fields: &Fields<'_>, name: &str) -> Result<Option<String>, Error> {
    let Some(item) = fields.get(name) else { return Ok(None) };
    let text = item.text()?.trim_end_matches('/');
    if text.contains("://") {
        return Err(item.unfit("no scheme: HOST[:PORT][/NAMESPACE…]", without_user(text)));
    }
    if has_user(text) {
        return Err(item.unfit("no user: HOST[:PORT][/NAMESPACE…]", without_user(text)));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// Tells whether an `@` stands where it begins no digest: what is before it may be a user and a password.
fn has_user(text: &str) -> bool {
    let is_digest = |after: &str| ["sha256:", "sha384:", "sha512:"].iter().any(|name| after.starts_with(name));
    let host = text.split('/').next().unwrap_or_default();
    host.contains('@') || text.rsplit_once('@').is_some_and(|(_, after)| !is_digest(after))
}

fn is_prefix(text: &str) -> bool {
    match text.strip_prefix("*.") {
        Some(domain) => !domain.is_empty() && !domain.contains(['/', '@', ':', '*']),
        // A host alone need not look like one: upstream takes any.
        None => !text.contains('*') && !text.starts_with('/'),
    }
}

fn flag(fields: &Fields<'_>, name: &str) -> Result<bool, Error> {
    fields.get(name).map_or(Ok(false), |item| item.boolean())
}

fn proxy(fields: &Fields<'_>) -> Result<Option<ProxyAddress>, Error> {
    let Some(item) = fields.get("proxy") else { return Ok(None) };
    let address =
        |text: &str| ProxyAddress::parse(text).map_err(|expected| Error::BadSecret { place: item.place(), expected });
    match item.text()? {
        "" => Ok(None),
        // A scheme is required here (containers-registries.conf(5), `proxy`), though not in the environment.
        text if !text.contains("://") => {
            Err(Error::BadSecret { place: item.place(), expected: "SCHEME://HOST[:PORT]" })
        }
        text => address(text).map(Some),
    }
}

/// What the tables of one file say of each location.
#[derive(Default)]
struct Locations(BTreeMap<String, (bool, bool, Place)>);

impl Locations {
    /// Tables that lead to one place must agree on what is allowed there; upstream refuses the file otherwise.
    fn agree(&mut self, table: &Table) -> Result<(), Error> {
        let location = table.location.as_ref().unwrap_or(&table.prefix).clone();
        let here = (table.insecure, table.blocked, table.place.clone());
        let (insecure, blocked, other) = self.0.entry(location).or_insert(here);
        if (*insecure, *blocked) == (table.insecure, table.blocked) {
            return Ok(());
        }
        Err(Error::Conflict {
            place: table.place.clone(),
            other: other.clone(),
            reason: "two tables of one location differ in insecure or blocked",
        })
    }
}
