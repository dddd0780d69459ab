//! Builds an earlier commit, for `cargo xtask bench --against`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::process::{cargo, output, root, run, target_dir};

/// The programs of an earlier commit.
pub struct EarlierBuild {
    /// `release/eventstream`, `release/deps/figures` and `guests` lie below it.
    pub folder: PathBuf,
    /// The start of its commit's name.
    pub commit: String,
}

/// Builds a commit, unless that was done before. Its crates are built in the folder of this one, so that those of third
/// parties are built once.
///
/// # Errors
/// There is no such commit, or it cannot be built.
pub fn build(commit: &str, profile: &str) -> anyhow::Result<EarlierBuild> {
    let named = format!("{commit}^{{commit}}");
    let commit = output(git().args(["rev-parse", "--verify", "--short=10", &named]))?.trim().to_owned();
    let folder = target_dir()?.join("bench").join(format!("{commit}-{profile}"));
    let programs = folder.join("release");
    let (host, figures) = (programs.join("eventstream"), programs.join("deps/figures"));
    if !(host.is_file() && figures.is_file()) {
        let sources = folder.join("sources");
        extract(&commit, &sources)?;
        fs::create_dir_all(programs.join("deps"))?;
        let parts = ["--workspace", "--locked", "--profile", profile, "--bins", "--bench", "figures"];
        let mut build = cargo("", &["build", "--message-format", "json-render-diagnostics"]);
        build.current_dir(&sources).args(parts).env("CARGO_TARGET_DIR", target_dir()?).stderr(Stdio::inherit());
        eprintln!("+ cargo build of {commit}");
        let built = output(&mut build)?;
        copy(&executable(&built, "figures")?, &figures)?;
        copy(&executable(&built, "eventstream")?, &host)?;
        fs::remove_dir_all(&sources)?;
    }
    // The same components for both.
    let guests = folder.join("guests");
    fs::create_dir_all(&guests)?;
    for name in ["idle.wasm", "scripted.wasm"] {
        copy(&target_dir()?.join("guests").join(name), &guests.join(name))?;
    }
    Ok(EarlierBuild { folder, commit })
}

/// Puts the files of a commit into a folder of their own.
fn extract(commit: &str, folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let archive = folder.with_extension("tar");
    run(git().args(["archive", "--format=tar", "--output"]).arg(&archive).arg(commit))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(folder))?;
    Ok(fs::remove_file(&archive)?)
}

/// The program that cargo says it built under this name.
fn executable(messages: &str, name: &str) -> anyhow::Result<PathBuf> {
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        if let (true, Some(path)) = (message["target"]["name"] == name, message["executable"].as_str()) {
            return Ok(path.into());
        }
    }
    bail!("cargo built no program {name:?} of that commit")
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn git() -> Command {
    let mut command = Command::new("git");
    command.current_dir(root());
    command
}
