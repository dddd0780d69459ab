//! A project in a folder: its language, its name and its files.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use eventstream::regular_file;

use crate::cli::inspect::parse_plugin_name;

/// The languages of plugin projects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// Rust, built by cargo.
    Rust,
    /// JavaScript, which componentize-qjs builds into a component with QuickJS.
    Js,
    /// Python, built by componentize-py.
    Python,
}

/// A project in a folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Project {
    pub(super) folder: PathBuf,
    pub(super) language: Language,
    pub(super) name: String,
}

impl Project {
    /// Reads the project in a folder.
    ///
    /// # Errors
    /// The folder has no project, or the project has no name; the message says what to do.
    pub(crate) fn in_folder(folder: &Path) -> Result<Self, String> {
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
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The settings file `NAME.toml`, if the project has one.
    pub(crate) fn settings(&self) -> Option<PathBuf> {
        Some(self.folder.join(format!("{}.toml", self.name))).filter(|settings| settings.is_file())
    }

    /// The file of the component.
    pub(crate) fn component(&self) -> PathBuf {
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
pub(super) fn read_table_name(text: &str, table: &str) -> Option<String> {
    let file: toml::Table = text.parse().ok()?;
    Some(file.get(table)?.get("name")?.as_str()?.to_owned())
}
