// SPDX-License-Identifier: Apache-2.0 OR MIT
//! login, logout: podman's, in words and effect.

use stos_config::credentials::{CredentialKey, Found, Login as KnownLogin};
use stos_engine::registries::{self, RegistryConfig};

use crate::cli::{Login, Logout};
use crate::failure::Failure;
use crate::{options, process_list, prompt, table};

/// Has a registry verify a user and a password, and stores them.
pub fn login(args: &Login) -> Result<u8, Failure> {
    args.password.iter().for_each(process_list::hide);
    let registries = options::registries(&args.connection);
    let key = key(&registries, args.registry.as_deref())?;
    let known = registries.stored_login(&key)?;
    if args.get_login {
        return print_user(&key, &known);
    }
    let known = known.credential.map(|credential| credential.login);
    if args.username.is_none() && args.password.is_none() && is_still_valid(&registries, &key, known.as_ref())? {
        return Ok(0);
    }
    let usual = known.as_ref().and_then(user_of);
    let user = match &args.username {
        Some(user) => user.clone(),
        None => prompt::user(usual, "give --username, and --password-stdin or --password")?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => prompt::piped_password()?,
        None => prompt::password("Password: ", "give it with --password-stdin")?,
    };
    registries.verify_login(&key, &KnownLogin::Password { user: user.clone(), password: password.clone() })?;
    let location = registries.store_login(&key, &user, &password)?;
    tracing::info!(%key, %location, "logged in");
    table::print_line("Login Succeeded!")?;
    Ok(0)
}

/// Gives the registry that is meant.
fn key(registries: &RegistryConfig, named: Option<&str>) -> Result<CredentialKey, Failure> {
    match named {
        Some(named) => Ok(named.parse().map_err(stos_engine::Error::RegistryConfig)?),
        None => Ok(registries.default_registry()?),
    }
}

fn user_of(login: &KnownLogin) -> Option<&str> {
    match login {
        KnownLogin::Password { user, .. } => Some(user),
        KnownLogin::IdentityToken { user, .. } => user.as_deref(),
    }
}

fn print_user(key: &CredentialKey, known: &Found) -> Result<u8, Failure> {
    match known.credential.as_ref().and_then(|credential| user_of(&credential.login)) {
        Some(user) => table::print_line(stos_spec::text::escape(user))?,
        None => {
            let error = stos_config::Error::NotLoggedIn { key: key.to_string() };
            return Err(stos_engine::Error::RegistryConfig(error).into());
        }
    }
    Ok(0)
}

/// Tells whether what is stored is enough, and says so.
fn is_still_valid(
    registries: &RegistryConfig,
    key: &CredentialKey,
    known: Option<&KnownLogin>,
) -> Result<bool, Failure> {
    let Some(known) = known else { return Ok(false) };
    table::print_line(format!("Authenticating with existing credentials for {key}"))?;
    match registries.verify_login(key, known) {
        Ok(()) => {
            table::print_line(format!("Existing credentials are valid. Already logged in to {}", key.registry()))?;
            Ok(true)
        }
        Err(stos_engine::Error::LoginRefused { .. }) => {
            table::print_line("Existing credentials are invalid, please enter valid username and password")?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes what is stored for one registry, or for all.
pub fn logout(args: &Logout) -> Result<u8, Failure> {
    let authfile = args.authfile.clone();
    let registries =
        RegistryConfig::new(registries::ConnectionOptions { authfile, ..registries::ConnectionOptions::default() });
    if args.all {
        registries.logout_all()?;
        table::print_line("Removed login credentials for all registries")?;
        return Ok(0);
    }
    let key = key(&registries, args.registry.as_deref())?;
    for location in registries.logout(&key)? {
        tracing::info!(%key, %location, "logged out");
    }
    table::print_line(format!("Removed login credentials for {key}"))?;
    Ok(0)
}
