//! The example plugins in JavaScript and Python: built and tested as their READMEs say, by the built binary.
//!
//! Their tools are installed next to them, in folders that git ignores: npm uses the lock file, pip an environment of the
//! project. The system's package manager installs Node.js and Python where it can. Where it cannot, the examples of that
//! language are skipped with a line that says so. If `CI` is set, a skipped example is an error.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::process::{is_installed, output, root, run, target_dir};
use crate::system::{self, Installers};

/// The program of a project that `eventstream plugin build` cannot build.
const OWN_BUILD: &str = "build.mjs";
/// The oldest major version of Node.js that the tools support.
const MIN_NODE: u32 = 18;
const NODE: Installers = [
    ("apt-get", &[&["update"], &["install", "--yes", "--no-install-recommends", "nodejs", "npm"]]),
    ("dnf", &[&["install", "--assumeyes", "nodejs", "npm"]]),
    ("apk", &[&["add", "nodejs", "npm"]]),
    ("pacman", &[&["--sync", "--refresh", "--noconfirm", "nodejs", "npm"]]),
    ("brew", &[&["install", "node"]]),
];
const HOW_TO_INSTALL_NODE: &str = "there is no Node.js 18 or later with npm: install it (Debian, Ubuntu: `sudo apt-get install \
    nodejs npm`; Fedora: `sudo dnf install nodejs`; Alpine: `apk add nodejs npm`; Arch: `sudo pacman -S nodejs npm`; macOS: \
    `brew install node`; or from https://nodejs.org)";
const PYTHON: Installers = [
    ("apt-get", &[&["update"], &["install", "--yes", "--no-install-recommends", "python3", "python3-venv"]]),
    ("dnf", &[&["install", "--assumeyes", "python3"]]),
    ("apk", &[&["add", "python3"]]),
    ("pacman", &[&["--sync", "--refresh", "--noconfirm", "python"]]),
    ("brew", &[&["install", "python"]]),
];
const HOW_TO_INSTALL_PYTHON: &str = "there is no Python 3.10 or later with venv: install it (Debian, Ubuntu: `sudo apt-get \
    install python3 python3-venv`; Fedora: `sudo dnf install python3`; Alpine: `apk add python3`; Arch: `sudo pacman -S \
    python`; macOS: `brew install python`)";

/// Installs the tools, builds every project and runs its tests. Returns the names of the projects that were skipped.
pub fn test() -> anyhow::Result<Vec<String>> {
    let binary = target_dir()?.join("debug").join("eventstream");
    let folder = root().join("plugins");
    let mut projects: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    projects.sort();
    let (mut node, mut python) = (None, None);
    let mut left_out = Vec::new();
    for project in projects {
        let is_there = if project.join("package.json").is_file() {
            *node.get_or_insert_with(|| is_usable(ensure_node()))
        } else if project.join("pyproject.toml").is_file() {
            *python.get_or_insert_with(|| is_usable(ensure_python()))
        } else {
            continue;
        };
        if !is_there {
            if std::env::var_os("CI").is_some() {
                bail!("{} cannot be tested; see above", project.display());
            }
            eprintln!("NOT TESTED: {}", project.display());
            left_out.extend(project.file_name().map(|name| name.to_string_lossy().into_owned()));
            continue;
        }
        if project.join("package.json").is_file() { install_js(&project) } else { install_python(&project) }?;
        let mut tests = Command::new(&binary);
        tests.args(["plugin", "test"]).arg(&project).current_dir(root());
        if project.join(OWN_BUILD).is_file() {
            run(Command::new("node").arg(OWN_BUILD).current_dir(&project))?;
            tests.arg("--no-build");
        }
        run(&mut tests)?;
    }
    Ok(left_out)
}

/// Whether a language can be used. If not, prints the reason.
fn is_usable(ensured: anyhow::Result<()>) -> bool {
    ensured.inspect_err(|error| eprintln!("cargo xtask: {error:#}")).is_ok()
}

fn ensure_node() -> anyhow::Result<()> {
    if !has_node() {
        system::install(&NODE, HOW_TO_INSTALL_NODE)?;
    }
    if has_node() { Ok(()) } else { bail!("{HOW_TO_INSTALL_NODE}") }
}

fn ensure_python() -> anyhow::Result<()> {
    if !has_python() {
        system::install(&PYTHON, HOW_TO_INSTALL_PYTHON)?;
    }
    if has_python() { Ok(()) } else { bail!("{HOW_TO_INSTALL_PYTHON}") }
}

fn has_node() -> bool {
    // `v18.19.0`
    let major = output(Command::new("node").arg("--version"))
        .ok()
        .and_then(|version| version.trim().strip_prefix('v')?.split('.').next()?.parse::<u32>().ok());
    major.is_some_and(|major| major >= MIN_NODE) && is_installed("npm")
}

fn has_python() -> bool {
    let program = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))";
    output(Command::new("python3").args(["-c", program])).is_ok()
}

fn install_js(project: &Path) -> anyhow::Result<()> {
    let tool = project.join("node_modules/.bin/componentize-qjs");
    if !tool.exists() {
        run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(project))?;
    }
    Ok(())
}

fn install_python(project: &Path) -> anyhow::Result<()> {
    if !project.join(".venv/bin/componentize-py").exists() {
        run(Command::new("python3").args(["-m", "venv", ".venv"]).current_dir(project))?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"];
        run(Command::new(project.join(".venv/bin/python")).args(install).current_dir(project))?;
    }
    Ok(())
}
