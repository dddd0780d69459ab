//! Builds components: the example plugins into `target/plugins`, the guests of the tests into `target/guests`.
//!
//! Never done by a build script, so that building the host needs no second toolchain and shows its own progress. A file
//! is replaced only when its content changed, and in one step: a server that watches the folder reloads what is new and
//! never sees half a file. What no crate builds any more is removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::process::{cargo, is_installed, output, root, run, target_dir};

/// A workspace of guests.
pub struct Workspace {
    /// Its folder.
    pub path: &'static str,
    /// What its crates are built for.
    pub target: &'static str,
    /// The folder below the target folder where its components go.
    destination: &'static str,
}

const PLUGINS: Workspace = Workspace { path: "plugins", target: "wasm32-wasip2", destination: "plugins" };

/// All of them. SDKs that are made for core modules, which the host makes components of, have a workspace of their own.
pub const WORKSPACES: [Workspace; 3] = [
    PLUGINS,
    Workspace { path: "tests/guests", target: "wasm32-wasip2", destination: "guests" },
    Workspace { path: "tests/guests-wasip1", target: "wasm32-wasip1", destination: "guests-wasip1" },
];

/// Builds and copies all components.
pub fn build() -> anyhow::Result<()> {
    WORKSPACES.iter().try_for_each(build_workspace)
}

/// Builds and copies the example plugins only.
pub fn build_plugins() -> anyhow::Result<()> {
    build_workspace(&PLUGINS)
}

/// `cargo` in a workspace of guests, with a target folder below the main one.
pub fn guest_cargo(workspace: &str, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = cargo(workspace, arguments);
    // Flags meant for the host, such as those of a coverage tool, would displace the ones in the workspace's own
    // configuration and may not fit the target.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env("CARGO_TARGET_DIR", target_dir()?.join("guest-build"));
    Ok(command)
}

/// Makes sure that a target is installed.
pub fn ensure_target(target: &str) -> anyhow::Result<()> {
    if target_is_installed(target)? {
        return Ok(());
    }
    if is_installed("rustup") {
        run(Command::new("rustup").args(["target", "add", target]).current_dir(root()))?;
    }
    if !target_is_installed(target)? {
        bail!(
            "the Rust target {target} is not installed: install rustup (https://rustup.rs), then `rustup target add {target}`"
        );
    }
    Ok(())
}

fn target_is_installed(target: &str) -> anyhow::Result<bool> {
    let folder =
        output(Command::new("rustc").args(["--print", "target-libdir", "--target", target]).current_dir(root()))?;
    Ok(Path::new(folder.trim()).is_dir())
}

fn build_workspace(workspace: &Workspace) -> anyhow::Result<()> {
    let Workspace { path, target, destination } = workspace;
    ensure_target(target)?;
    run(&mut guest_cargo(path, &["build", "--release", "--target", target, "--locked"])?)?;
    let built = target_dir()?.join("guest-build").join(target).join("release");
    let destination = &target_dir()?.join(destination);
    fs::create_dir_all(destination).with_context(|| format!("cannot create {}", destination.display()))?;
    let mut wanted = BTreeSet::new();
    for name in crate_names(&root().join(path))? {
        let file = format!("{name}.wasm");
        replace(&built.join(file.replace('-', "_")), &destination.join(&file))?;
        wanted.insert(file);
    }
    for entry in fs::read_dir(destination)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".wasm") && !wanted.contains(&name) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// The names of the crates in the folders of a workspace.
fn crate_names(workspace: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(workspace).with_context(|| format!("cannot list {}", workspace.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let manifest = entry?.path().join("Cargo.toml");
        if manifest.is_file() {
            let text = fs::read_to_string(&manifest)?;
            names.push(package_name(&text).with_context(|| format!("{} names no package", manifest.display()))?);
        }
    }
    names.sort();
    Ok(names)
}

/// The `name` of the `[package]` table.
fn package_name(manifest: &str) -> Option<String> {
    let package = manifest.split("[package]").nth(1)?;
    let line = package.lines().take_while(|line| !line.starts_with('[')).find(|line| line.starts_with("name"))?;
    line.split('"').nth(1).map(str::to_owned)
}

fn replace(from: &PathBuf, to: &PathBuf) -> anyhow::Result<()> {
    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let temporary = to.with_extension("tmp");
    fs::write(&temporary, content).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, to).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_package_is_named_by_its_own_table() {
        let manifest = "[workspace]\nname = \"no\"\n[package]\nname = \"user-signup\"\n[lib]\nname = \"no\"\n";
        assert_eq!(super::package_name(manifest).as_deref(), Some("user-signup"));
        assert_eq!(super::package_name("[package]\n[lib]\nname = \"no\"\n"), None);
    }
}
