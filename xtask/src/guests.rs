//! Builds components: the example plugins into `target/plugins`, the guests of the tests into `target/guests`.
//!
//! No build script does this, so that the host builds without a second toolchain. A file is replaced only if its content
//! changed, and atomically: a server that watches the folder reloads only changed files and never sees half of one. Files
//! that no crate builds any more are removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::process::{cargo, is_installed, output, root, run, target_dir};

/// A workspace of crates that are built as components.
pub struct GuestWorkspace {
    /// Its folder.
    pub path: &'static str,
    /// The Rust target of its crates.
    pub target: &'static str,
    /// The folder for its components, below the target folder.
    destination: &'static str,
}

const PLUGINS: GuestWorkspace = GuestWorkspace { path: "plugins", target: "wasm32-wasip2", destination: "plugins" };

/// All workspaces. Guests that are built as core modules have their own; the host turns these into components.
pub const WORKSPACES: [GuestWorkspace; 3] = [
    PLUGINS,
    GuestWorkspace { path: "tests/guests", target: "wasm32-wasip2", destination: "guests" },
    GuestWorkspace { path: "tests/guests-wasip1", target: "wasm32-wasip1", destination: "guests-wasip1" },
];

/// Builds all components and copies them into the target folder.
pub fn build() -> anyhow::Result<()> {
    WORKSPACES.iter().try_for_each(build_workspace)
}

/// Builds and copies only the example plugins.
pub fn build_plugins() -> anyhow::Result<()> {
    build_workspace(&PLUGINS)
}

/// `cargo` in a workspace of guests, with a target folder below the main one.
pub fn guest_cargo(workspace: &str, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = cargo(workspace, arguments);
    // Flags for the host, such as those of a coverage tool, would replace the flags that the workspace configures and may
    // not fit its target.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env("CARGO_TARGET_DIR", target_dir()?.join("guest-build"));
    Ok(command)
}

/// Installs a Rust target if it is missing.
pub fn ensure_target(target: &str) -> anyhow::Result<()> {
    if has_target(target)? {
        return Ok(());
    }
    if is_installed("rustup") {
        run(Command::new("rustup").args(["target", "add", target]).current_dir(root()))?;
    }
    if !has_target(target)? {
        bail!(
            "the Rust target {target} is not installed: install rustup (https://rustup.rs), then `rustup target add {target}`"
        );
    }
    Ok(())
}

fn has_target(target: &str) -> anyhow::Result<bool> {
    let folder =
        output(Command::new("rustc").args(["--print", "target-libdir", "--target", target]).current_dir(root()))?;
    Ok(Path::new(folder.trim()).is_dir())
}

fn build_workspace(workspace: &GuestWorkspace) -> anyhow::Result<()> {
    let GuestWorkspace { path, target, destination } = workspace;
    ensure_target(target)?;
    run(&mut guest_cargo(path, &["build", "--release", "--target", target, "--locked"])?)?;
    let built = target_dir()?.join("guest-build").join(target).join("release");
    let destination = &target_dir()?.join(destination);
    fs::create_dir_all(destination).with_context(|| format!("cannot create {}", destination.display()))?;
    let mut wanted = BTreeSet::new();
    for name in list_crates(&root().join(path))? {
        let file = format!("{name}.wasm");
        replace_file(&built.join(file.replace('-', "_")), &destination.join(&file))?;
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
fn list_crates(workspace: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(workspace).with_context(|| format!("cannot list {}", workspace.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let manifest = entry?.path().join("Cargo.toml");
        if manifest.is_file() {
            let text = fs::read_to_string(&manifest)?;
            names.push(parse_package_name(&text).with_context(|| format!("{} names no package", manifest.display()))?);
        }
    }
    names.sort();
    Ok(names)
}

/// The `name` of the `[package]` table.
fn parse_package_name(manifest: &str) -> Option<String> {
    let package = manifest.split("[package]").nth(1)?;
    let line = package.lines().take_while(|line| !line.starts_with('[')).find(|line| line.starts_with("name"))?;
    line.split('"').nth(1).map(str::to_owned)
}

fn replace_file(from: &PathBuf, to: &PathBuf) -> anyhow::Result<()> {
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
        assert_eq!(super::parse_package_name(manifest).as_deref(), Some("user-signup"));
        assert_eq!(super::parse_package_name("[package]\n[lib]\nname = \"no\"\n"), None);
    }
}
