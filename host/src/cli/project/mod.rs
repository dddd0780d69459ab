//! `eventstream plugin new | build | test`: the project of a plugin, from a template to a component that passes its tests.
//!
//! The tools of the language build a project. A tool that is missing is named with the command that installs it.

mod build;
mod new;
mod test;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use eventstream::regular_file;

use super::inspect::parse_plugin_name;

pub(super) use build::{BUILD_EXAMPLES, BuildArgs, build_component, run as build};
pub(super) use new::{NEW_EXAMPLES, NewArgs, run as new};
pub(super) use test::{TEST_EXAMPLES, TestArgs, run as test};

/// The languages of plugin projects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Language {
    /// Rust, built by cargo.
    Rust,
    /// JavaScript, which componentize-qjs builds into a component with QuickJS.
    Js,
    /// Python, built by componentize-py.
    Python,
}

/// A project in a folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Project {
    folder: PathBuf,
    language: Language,
    name: String,
}

impl Project {
    /// Reads the project in a folder.
    ///
    /// # Errors
    /// The folder has no project, its manifest cannot be read or parsed, or it has no name. The message says what to do.
    pub(super) fn in_folder(folder: &Path) -> Result<Self, String> {
        for (file, language, read_name) in MANIFESTS {
            let path = folder.join(file);
            let text = match regular_file::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
            };
            let name = read_name(&text).map_err(|why| format!("cannot parse {}: {why}", path.display()))?;
            let name = name.ok_or_else(|| format!("{} has no project name: add one", path.display()))?;
            return Ok(Self { folder: folder.to_owned(), language, name });
        }
        let message = "there is no plugin project (no Cargo.toml, package.json or pyproject.toml)";
        Err(format!("{message} in {}: make one with eventstream plugin new", folder.display()))
    }

    /// The name of the plugin.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The settings file `NAME.toml`, if the project has one.
    pub(super) fn settings(&self) -> Option<PathBuf> {
        Some(self.folder.join(format!("{}.toml", self.name))).filter(|settings| settings.is_file())
    }

    /// The file of the component.
    pub(super) fn component(&self) -> PathBuf {
        self.folder.join("dist").join(format!("{}.wasm", self.name))
    }
}

/// Reads the name of the project from a manifest; `None` if it gives none.
type ReadName = fn(&str) -> Result<Option<String>, String>;

/// The manifests by which a folder is known as a project. The first that is there decides.
const MANIFESTS: [(&str, Language, ReadName); 3] = [
    ("Cargo.toml", Language::Rust, read_cargo_name),
    ("package.json", Language::Js, read_npm_name),
    ("pyproject.toml", Language::Python, read_python_name),
];

/// Prefers the plugin's name in the metadata: it may have dots, unlike the name of a package.
fn read_cargo_name(text: &str) -> Result<Option<String>, String> {
    let manifest = parse_toml(text)?;
    let metadata = manifest.get("package").and_then(|package| package.get("metadata")?.get("eventstream"));
    let plugin_name = metadata.and_then(|metadata| parse_plugin_name(metadata.get("name")?.as_str()?).ok());
    Ok(plugin_name.or_else(|| table_name(&manifest, "package")))
}

fn read_npm_name(text: &str) -> Result<Option<String>, String> {
    let manifest: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(manifest["name"].as_str().map(str::to_owned))
}

fn read_python_name(text: &str) -> Result<Option<String>, String> {
    Ok(table_name(&parse_toml(text)?, "project"))
}

fn table_name(manifest: &toml::Table, table: &str) -> Option<String> {
    Some(manifest.get(table)?.get("name")?.as_str()?.to_owned())
}

fn parse_toml(text: &str) -> Result<toml::Table, String> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {}", before.matches('\n').count() + 1, error.message().replace('\n', ", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_cannot_be_parsed_is_named_with_the_place_and_the_reason() {
        for (file, broken, whole) in [
            ("Cargo.toml", "\n[package\nname = \"a\"", "[package]\nname = \"a\""),
            ("package.json", "{\n\"name\": \"a\"", "{\"name\": \"a\"}"),
            ("pyproject.toml", "\n[project\nname = \"a\"", "[project]\nname = \"a\""),
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(file), broken).unwrap();
            let message = Project::in_folder(folder.path()).unwrap_err();
            let path = folder.path().join(file);
            assert!(message.starts_with(&format!("cannot parse {}: ", path.display())), "{message}");
            assert!(message.contains("line 2") && !message.contains('\n'), "{message}");
            std::fs::write(&path, whole).unwrap();
            assert_eq!(Project::in_folder(folder.path()).unwrap().name(), "a");
            std::fs::write(&path, if file == "package.json" { "{}" } else { "" }).unwrap();
            assert!(Project::in_folder(folder.path()).unwrap_err().ends_with("has no project name: add one"));
        }
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_named_and_is_not_a_missing_project() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("package.json")).unwrap();
        let message = Project::in_folder(folder.path()).unwrap_err();
        assert!(message.starts_with("cannot read ") && message.contains("package.json"), "{message}");
    }
}
