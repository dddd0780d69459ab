//! What the system's package manager installs: programs that the tasks need and that cargo does not bring.
//!
//! Nothing is installed that would ask for a password: as root, by a manager that needs no root, or by a `sudo` that asks
//! for none. In every other case the error says what a person can do.

use std::process::Command;

use anyhow::{Context, bail};

use crate::process::{is_installed, output, run};

/// For each package manager, what it is called with, one step after the other.
pub type Installers = [(&'static str, &'static [&'static [&'static str]]); 5];

/// Installs by the first package manager that there is.
///
/// # Errors
/// There is none, it may not be used, or it failed: in each case with `how`, what to do by hand.
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
