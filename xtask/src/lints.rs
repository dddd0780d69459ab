//! The checks that run no code of the project: formatting, lints and documentation.
//!
//! Lints and documentation run beside the tests, with a low priority, since tests spend most of their time waiting for
//! servers. They use a target folder of their own, because cargo locks a target folder for one command at a time.

use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow, bail};

use crate::guests::{WORKSPACES, guest_cargo};
use crate::process::{cargo, describe, is_installed, run, target_dir};

/// Checks the formatting; takes a moment.
pub fn check_formatting() -> anyhow::Result<()> {
    run(&mut cargo("", &["fmt", "--all", "--check"]))?;
    WORKSPACES.iter().try_for_each(|workspace| run(&mut cargo(workspace.path, &["fmt", "--all", "--check"])))
}

/// Lints and documentation, running on a thread.
pub struct LintRun(JoinHandle<anyhow::Result<()>>);

impl LintRun {
    /// Starts the commands, one after the other.
    pub fn start() -> anyhow::Result<Self> {
        let commands = build_commands()?;
        Ok(Self(std::thread::spawn(move || commands.into_iter().try_for_each(run_quietly))))
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The first command that failed, with its output.
    pub fn finish(self) -> anyhow::Result<()> {
        self.0.join().unwrap_or_else(|_| Err(anyhow!("the thread of the lints panicked")))
    }
}

fn build_commands() -> anyhow::Result<Vec<Command>> {
    let folder = target_dir()?.join("lints");
    let mut commands = vec![cargo("", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])];
    let mut document = cargo("", &["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
    document.env("RUSTDOCFLAGS", "-D warnings");
    commands.push(document);
    for command in &mut commands {
        command.env("CARGO_TARGET_DIR", &folder);
    }
    for workspace in WORKSPACES {
        let arguments = ["clippy", "--workspace", "--target", workspace.target, "--locked", "--", "-D", "warnings"];
        let mut command = guest_cargo(workspace.path, &arguments)?;
        command.env("CARGO_TARGET_DIR", folder.join("guest-build"));
        commands.push(command);
    }
    if is_installed("cargo-deny") {
        commands.push(cargo("", &["deny", "check", "bans", "licenses", "sources"]));
    }
    Ok(commands)
}

fn run_quietly(command: Command) -> anyhow::Result<()> {
    let line = describe(&command);
    eprintln!("+ {line}, beside the tests");
    let output =
        with_low_priority(command).stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    eprintln!("`{line}` passed");
    Ok(())
}

/// The same command behind `nice`, where there is such a program.
fn with_low_priority(command: Command) -> Command {
    if !is_installed("nice") {
        return command;
    }
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"]).arg(command.get_program()).args(command.get_args());
    nice.current_dir(command.get_current_dir().unwrap_or(std::path::Path::new(".")));
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nice.env(name, value),
            None => nice.env_remove(name),
        };
    }
    nice
}
