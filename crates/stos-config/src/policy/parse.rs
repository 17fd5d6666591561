// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `policy.json`, read strictly.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Requirement, SignedIdentity, SigstoreKeys, SigstoreSigned};
use crate::document::{Fields, Item};
use crate::error::Error;
use crate::names::{Written, is_registry};

type Scopes = BTreeMap<String, Vec<Requirement>>;

/// Reads the document: the default requirements, and those of transports and scopes.
pub(super) fn policy(item: &Item<'_>) -> Result<(Vec<Requirement>, BTreeMap<String, Scopes>), Error> {
    let top = item.table()?;
    top.only(&["default", "transports"])?;
    let default = requirements(&top.required("default")?)?;
    let mut transports = BTreeMap::new();
    if let Some(item) = top.get("transports") {
        for (transport, item) in item.table()?.iter() {
            let mut scopes = Scopes::new();
            for (scope, item) in item.table()?.iter() {
                check_scope(transport, scope, &item)?;
                scopes.insert(scope.to_owned(), requirements(&item)?);
            }
            transports.insert(transport.to_owned(), scopes);
        }
    }
    Ok((default, transports))
}

/// Checks a scope as the transports upstream do. Those that stos does not have keep their scopes unchecked.
fn check_scope(transport: &str, scope: &str, item: &Item<'_>) -> Result<(), Error> {
    let is_path = || {
        let components_are_plain = |rest: &str| rest.split('/').all(|part| !matches!(part, "" | "." | ".."));
        scope.strip_prefix('/').is_some_and(components_are_plain)
    };
    match transport {
        _ if scope.is_empty() => Ok(()),
        "docker-archive" => Err(item.unfit("no scope but \"\" for docker-archive", scope)),
        "dir" | "oci" | "oci-archive" if !is_path() => {
            Err(item.unfit("an absolute path without \".\", \"..\" and empty parts, and not / alone", scope))
        }
        _ => Ok(()),
    }
}

fn requirements(item: &Item<'_>) -> Result<Vec<Requirement>, Error> {
    let list = item.list()?;
    if list.is_empty() {
        return Err(item.unfit("at least one requirement", "[]"));
    }
    list.iter().map(requirement).collect()
}

fn requirement(item: &Item<'_>) -> Result<Requirement, Error> {
    let fields = item.table()?;
    let kind = fields.required("type")?;
    match kind.text()? {
        "insecureAcceptAnything" => fields.only(&["type"]).map(|()| Requirement::InsecureAcceptAnything),
        "reject" => fields.only(&["type"]).map(|()| Requirement::Reject(item.place())),
        "signedBy" => signed_by(item, &fields),
        "signedBaseLayer" => {
            fields.only(&["type", "baseLayerIdentity"])?;
            identity(&fields.required("baseLayerIdentity")?)?;
            Ok(Requirement::Unsupported { what: "signedBaseLayer", place: item.place() })
        }
        "sigstoreSigned" => sigstore_signed(item, &fields),
        other => Err(kind.unfit("insecureAcceptAnything, reject, signedBy, signedBaseLayer or sigstoreSigned", other)),
    }
}

/// Reads simple signing with GPG keys, to know that it is right; it is not checked here.
fn signed_by(item: &Item<'_>, fields: &Fields<'_>) -> Result<Requirement, Error> {
    fields.only(&["type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"])?;
    let kind = fields.required("keyType")?;
    match kind.text()? {
        "GPGKeys" | "signedByGPGKeys" | "X509Certificates" | "signedByX509CAs" => {}
        other => return Err(kind.unfit("GPGKeys", other)),
    }
    one_of(item, fields, &["keyPath", "keyPaths", "keyData"], "exactly one of keyPath, keyPaths, keyData")?;
    keys(fields, ["keyPath", "keyPaths"], ["keyData", "keyDatas"])?;
    fields.get("signedIdentity").map(|item| identity(&item)).transpose()?;
    Ok(Requirement::Unsupported { what: "a simple signing signature (signedBy)", place: item.place() })
}

fn sigstore_signed(item: &Item<'_>, fields: &Fields<'_>) -> Result<Requirement, Error> {
    const REKOR: [&str; 4] = ["rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas"];
    fields.only(&[
        "type",
        "keyPath",
        "keyPaths",
        "keyData",
        "keyDatas",
        "fulcio",
        "pki",
        "rekorPublicKeyPath",
        "rekorPublicKeyPaths",
        "rekorPublicKeyData",
        "rekorPublicKeyDatas",
        "signedIdentity",
    ])?;
    let sources = ["keyPath", "keyPaths", "keyData", "keyDatas", "fulcio", "pki"];
    one_of(item, fields, &sources, "exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio, pki")?;
    let keys = keys(fields, ["keyPath", "keyPaths"], ["keyData", "keyDatas"])?;
    let rekor = self::keys(fields, [REKOR[0], REKOR[1]], [REKOR[2], REKOR[3]])?;
    if count(fields, &REKOR) > 1 {
        return Err(item.unfit("at most one of the rekorPublicKey…", "more"));
    }
    let identity = fields.get("signedIdentity").map(|item| identity(&item)).transpose()?.unwrap_or_default();
    let unsupported = |what| Ok(Requirement::Unsupported { what, place: item.place() });
    if let Some(fulcio) = fields.get("fulcio") {
        check_fulcio(&fulcio)?;
        if rekor.is_none() {
            return Err(Error::Missing { place: item.place(), key: "rekorPublicKeyPath (which fulcio needs)" });
        }
    }
    if let Some(pki) = fields.get("pki") {
        check_pki(&pki)?;
    }
    match (keys, rekor) {
        (Some(keys), None) => Ok(Requirement::SigstoreSigned(SigstoreSigned { keys, identity, place: item.place() })),
        (Some(_), Some(_)) => unsupported("a record in a Rekor log (rekorPublicKey…)"),
        (None, _) if fields.get("fulcio").is_some() => unsupported("a certificate of Fulcio (fulcio)"),
        (None, _) => unsupported("a certificate of a public key infrastructure (pki)"),
    }
}

fn check_fulcio(item: &Item<'_>) -> Result<(), Error> {
    let fields = item.table()?;
    fields.only(&["caPath", "caData", "oidcIssuer", "subjectEmail"])?;
    one_of(item, &fields, &["caPath", "caData"], "exactly one of caPath, caData")?;
    texts(&fields)?;
    for key in ["oidcIssuer", "subjectEmail"] {
        fields.required(key)?;
    }
    Ok(())
}

fn check_pki(item: &Item<'_>) -> Result<(), Error> {
    let fields = item.table()?;
    fields.only(&[
        "caRootsPath",
        "caRootsData",
        "caIntermediatesPath",
        "caIntermediatesData",
        "subjectHostname",
        "subjectEmail",
    ])?;
    one_of(item, &fields, &["caRootsPath", "caRootsData"], "exactly one of caRootsPath, caRootsData")?;
    if count(&fields, &["caIntermediatesPath", "caIntermediatesData"]) > 1 {
        return Err(item.unfit("at most one of caIntermediatesPath, caIntermediatesData", "both"));
    }
    if count(&fields, &["subjectEmail", "subjectHostname"]) == 0 {
        return Err(Error::Missing { place: item.place(), key: "subjectEmail or subjectHostname" });
    }
    texts(&fields)
}

fn texts(fields: &Fields<'_>) -> Result<(), Error> {
    fields.iter().try_for_each(|(_, item)| item.text().map(|_| ()))
}

fn count(fields: &Fields<'_>, names: &[&str]) -> usize {
    names.iter().filter(|name| fields.get(name).is_some()).count()
}

fn one_of(item: &Item<'_>, fields: &Fields<'_>, names: &[&str], expected: &'static str) -> Result<(), Error> {
    match count(fields, names) {
        1 => Ok(()),
        0 => Err(item.unfit(expected, "none of them")),
        _ => Err(item.unfit(expected, "more")),
    }
}

/// Reads keys: a path, several, the data of one, of several.
fn keys(fields: &Fields<'_>, paths: [&str; 2], data: [&str; 2]) -> Result<Option<SigstoreKeys>, Error> {
    let path = |item: &Item<'_>| match item.text()? {
        "" => Err(item.unfit("a path", "")),
        text => Ok(PathBuf::from(text)),
    };
    let decode = |item: &Item<'_>| {
        let decoded = STANDARD.decode(item.text()?).ok().filter(|bytes| !bytes.is_empty());
        decoded.ok_or(Error::BadSecret { place: item.place(), expected: "base64" })
    };
    if let Some(item) = fields.get(paths[0]) {
        return Ok(Some(SigstoreKeys::Paths(vec![path(&item)?])));
    }
    if let Some(item) = fields.get(paths[1]) {
        return Ok(Some(SigstoreKeys::Paths(several(&item, path)?)));
    }
    if let Some(item) = fields.get(data[0]) {
        return Ok(Some(SigstoreKeys::Data(vec![decode(&item)?])));
    }
    match fields.get(data[1]) {
        Some(item) => Ok(Some(SigstoreKeys::Data(several(&item, decode)?))),
        None => Ok(None),
    }
}

fn several<T>(item: &Item<'_>, read: impl Fn(&Item<'_>) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let keys = item.list()?.iter().map(read).collect::<Result<Vec<T>, Error>>()?;
    if keys.is_empty() { Err(item.unfit("at least one key", "[]")) } else { Ok(keys) }
}

fn identity(item: &Item<'_>) -> Result<SignedIdentity, Error> {
    let fields = item.table()?;
    let kind = fields.required("type")?;
    let plain = |identity| fields.only(&["type"]).map(|()| identity);
    match kind.text()? {
        "matchExact" => plain(SignedIdentity::MatchExact),
        "matchRepoDigestOrExact" => plain(SignedIdentity::MatchRepoDigestOrExact),
        "matchRepository" => plain(SignedIdentity::MatchRepository),
        "exactReference" => {
            fields.only(&["type", "dockerReference"])?;
            let item = fields.required("dockerReference")?;
            match Written::parse(item.text()?) {
                Ok(written) if !written.is_name_only() => Ok(SignedIdentity::ExactReference(written.reference)),
                _ => Err(item.unfit("a reference with a tag or digest", item.text()?)),
            }
        }
        "exactRepository" => {
            fields.only(&["type", "dockerRepository"])?;
            let item = fields.required("dockerRepository")?;
            // As upstream, with a tag or digest too, which does not count.
            match Written::parse(item.text()?) {
                Ok(written) => Ok(SignedIdentity::ExactRepository(written.reference.name())),
                Err(_) => Err(item.unfit("a repository", item.text()?)),
            }
        }
        "remapIdentity" => {
            fields.only(&["type", "prefix", "signedPrefix"])?;
            let (prefix, signed_prefix) = (prefix(&fields, "prefix")?, self::prefix(&fields, "signedPrefix")?);
            Ok(SignedIdentity::RemapIdentity { prefix, signed_prefix })
        }
        other => Err(kind.unfit(
            "matchExact, matchRepoDigestOrExact, matchRepository, exactReference, exactRepository or remapIdentity",
            other,
        )),
    }
}

fn prefix(fields: &Fields<'_>, name: &'static str) -> Result<String, Error> {
    let item = fields.required(name)?;
    let text = item.text()?;
    // A namespace of Docker Hub is written in full, and is no repository of it.
    let is_name = || Written::parse(text).is_ok_and(|written| written.is_name_only() && !written.reference.is_short());
    match is_registry(text) || text.contains('/') && is_name() {
        true => Ok(text.to_owned()),
        false => Err(item.unfit("a host, a namespace or a repository, in full and without tag and digest", text)),
    }
}
