//! What is asked of the text of the code: lints and documentation, without running any of it.
//!
//! They go on beside the tests, which wait for servers most of the time, with a low priority and in a target folder of
//! their own: cargo lets one command at a time use a target folder.

use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow, bail};

use crate::guests::{WORKSPACES, guest_cargo};
use crate::process::{cargo, describe, is_installed, run, target_dir};

/// Formatting, which takes a moment.
pub fn formatting() -> anyhow::Result<()> {
    run(&mut cargo("", &["fmt", "--all", "--check"]))?;
    WORKSPACES.iter().try_for_each(|workspace| run(&mut cargo(workspace.path, &["fmt", "--all", "--check"])))
}

/// Everything else, under way.
pub struct Lints(JoinHandle<anyhow::Result<()>>);

impl Lints {
    /// Begins.
    pub fn start() -> anyhow::Result<Self> {
        let commands = commands()?;
        Ok(Self(std::thread::spawn(move || commands.into_iter().try_for_each(pass))))
    }

    /// Waits for the end, and says what the first one that did not pass has to say.
    pub fn finish(self) -> anyhow::Result<()> {
        self.0.join().unwrap_or_else(|_| Err(anyhow!("the thread of the lints panicked")))
    }
}

fn commands() -> anyhow::Result<Vec<Command>> {
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

fn pass(command: Command) -> anyhow::Result<()> {
    let line = describe(&command);
    eprintln!("+ {line}, beside the tests");
    let output =
        of_low_priority(command).stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    eprintln!("`{line}` passed");
    Ok(())
}

/// The same command behind `nice`, where there is such a program.
fn of_low_priority(command: Command) -> Command {
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
