//! Installs programs that cargo does not bring, with the package manager of the system.
//!
//! It never asks for a password. It installs as root, with a manager that needs no root, or with a `sudo` that asks for
//! no password. In every other case the error says what a person can do.

use std::process::Command;

use anyhow::{Context, bail};

use crate::process::{is_installed, output, run};

/// The commands of each package manager, one step after the other.
pub type Installers = [(&'static str, &'static [&'static [&'static str]]); 5];

/// Installs with the first package manager that is found.
///
/// # Errors
/// There is none, it needs a password, or it failed. The error contains `how`: what a person can do.
pub fn install(installers: &Installers, how: &str) -> anyhow::Result<()> {
    let found = installers.iter().find(|(name, _)| is_installed(name));
    let (manager, steps) = found.with_context(|| how.to_owned())?;
    let may_write = *manager == "brew" || rustix::process::geteuid().is_root();
    if !may_write && output(Command::new("sudo").args(["-n", "true"])).is_err() {
        bail!("{how}");
    }
    for step in *steps {
        let mut command = if may_write { Command::new(manager) } else { Command::new("sudo") };
        if !may_write {
            command.args(["-n", manager]);
        }
        run(command.args(*step)).with_context(|| how.to_owned())?;
    }
    Ok(())
}
