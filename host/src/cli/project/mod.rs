//! `eventstream plugin new | build | test`: the project of a plugin, from a template to a component that passes its tests.
//!
//! The tools of the language build a project. A tool that is missing is named with the command that installs it.

mod build;
mod new;
mod test;

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
    /// The folder has no project, or the project has no name; the message says what to do.
    pub(super) fn in_folder(folder: &Path) -> Result<Self, String> {
        let read = |file: &str| regular_file::read_to_string(&folder.join(file)).ok();
        let nameless = |file: &str| format!("{} has no project name: add one", folder.join(file).display());
        let (language, file, name) = if let Some(text) = read("Cargo.toml") {
            (Language::Rust, "Cargo.toml", read_plugin_name(&text).or_else(|| read_table_name(&text, "package")))
        } else if let Some(text) = read("package.json") {
            let json = serde_json::from_str::<serde_json::Value>(&text).ok();
            (Language::Js, "package.json", json.and_then(|json| Some(json["name"].as_str()?.to_owned())))
        } else if let Some(text) = read("pyproject.toml") {
            (Language::Python, "pyproject.toml", read_table_name(&text, "project"))
        } else {
            let message = "there is no plugin project (no Cargo.toml, package.json or pyproject.toml)";
            return Err(format!("{message} in {}: make one with eventstream plugin new", folder.display()));
        };
        let name = name.ok_or_else(|| nameless(file))?;
        Ok(Self { folder: folder.to_owned(), language, name })
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

/// Reads the plugin's name from the metadata of a Cargo.toml. It may have dots, unlike the name of a package.
fn read_plugin_name(text: &str) -> Option<String> {
    let file: toml::Table = text.parse().ok()?;
    let name = file.get("package")?.get("metadata")?.get("eventstream")?.get("name")?.as_str()?;
    parse_plugin_name(name).ok()
}

/// Reads the name in a table of a TOML file.
fn read_table_name(text: &str, table: &str) -> Option<String> {
    let file: toml::Table = text.parse().ok()?;
    Some(file.get(table)?.get("name")?.as_str()?.to_owned())
}
