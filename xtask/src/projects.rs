//! The example plugins in JavaScript and Python: built and tested as their READMEs say, by the built binary.
//!
//! What they are built with is installed beside them, where git ignores it: by npm from the lock file, by pip into an
//! environment of the project. Where Node.js or Python is missing, their examples are left out with a line that says so.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::process::{is_installed, root, run, target_dir};

/// Installs the tools, builds every project and runs its tests.
pub fn test() -> anyhow::Result<()> {
    let binary = target_dir()?.join("debug").join("eventstream");
    let folder = root().join("plugins");
    let mut projects: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    projects.sort();
    for project in projects {
        let is_ready = if project.join("package.json").is_file() {
            install_js(&project)?
        } else if project.join("pyproject.toml").is_file() {
            install_python(&project)?
        } else {
            continue;
        };
        if is_ready {
            run(Command::new(&binary).args(["plugin", "test"]).arg(&project).current_dir(root()))?;
        } else {
            eprintln!("NOT TESTED: {}", project.display());
        }
    }
    Ok(())
}

fn install_js(project: &Path) -> anyhow::Result<bool> {
    if !is_installed("npm") {
        eprintln!("npm is not installed: install Node.js 18 or later to test the plugins in JavaScript");
        return Ok(false);
    }
    let tool = project.join("node_modules/.bin/componentize-qjs");
    if !tool.exists() {
        run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(project))?;
    }
    Ok(true)
}

fn install_python(project: &Path) -> anyhow::Result<bool> {
    if !is_installed("python3") {
        eprintln!("python3 is not installed: install Python 3.10 or later to test the plugins in Python");
        return Ok(false);
    }
    if !project.join(".venv/bin/componentize-py").exists() {
        run(Command::new("python3").args(["-m", "venv", ".venv"]).current_dir(project))
            .context("making an environment failed; on Debian it needs `apt-get install python3-venv`")?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"];
        run(Command::new(project.join(".venv/bin/python")).args(install).current_dir(project))?;
    }
    Ok(true)
}
