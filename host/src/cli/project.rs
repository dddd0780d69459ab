//! `eventstream plugin new | build | test`: a plugin's project, from nothing to a component that passes its tests.
//!
//! A project is built by its language's own tools; what is missing is named with the command that installs it.

mod build;
mod new;
mod test;

use std::path::{Path, PathBuf};

use clap::ValueEnum;

pub(super) use build::{BUILD_EXAMPLES, BuildArgs, make, run as build};
pub(super) use new::{NEW_EXAMPLES, NewArgs, run as new};
pub(super) use test::{TEST_EXAMPLES, TestArgs, run as test};

/// The languages that projects are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Language {
    /// Rust, by cargo.
    Rust,
    /// JavaScript in QuickJS, by componentize-qjs.
    Js,
    /// Python, by componentize-py.
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
    /// Finds out what the folder holds.
    ///
    /// # Errors
    /// No project, in words.
    pub(super) fn in_folder(folder: &Path) -> Result<Self, String> {
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let nameless = |file: &str| format!("{} names no project", folder.join(file).display());
        let (language, file, name) = if let Some(text) = read("Cargo.toml") {
            (Language::Rust, "Cargo.toml", named_for_us(&text).or_else(|| named(&text, "package")))
        } else if let Some(text) = read("package.json") {
            let json = serde_json::from_str::<serde_json::Value>(&text).ok();
            (Language::Js, "package.json", json.and_then(|json| Some(json["name"].as_str()?.to_owned())))
        } else if let Some(text) = read("pyproject.toml") {
            (Language::Python, "pyproject.toml", named(&text, "project"))
        } else {
            let words = "there is no plugin project (no Cargo.toml, package.json or pyproject.toml)";
            return Err(format!("{words} in {}: make one with eventstream plugin new", folder.display()));
        };
        let name = name.ok_or_else(|| nameless(file))?;
        Ok(Self { folder: folder.to_owned(), language, name })
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Settings that a server should have for it: `NAME.toml`, if the project has such a file.
    pub(super) fn settings(&self) -> Option<PathBuf> {
        Some(self.folder.join(format!("{}.toml", self.name))).filter(|settings| settings.is_file())
    }

    /// Where the component goes.
    pub(super) fn component(&self) -> PathBuf {
        self.folder.join("dist").join(format!("{}.wasm", self.name))
    }
}

/// The name that a Rust project says its plugin has, which may have dots.
fn named_for_us(text: &str) -> Option<String> {
    let file: toml::Table = text.parse().ok()?;
    let name = file.get("package")?.get("metadata")?.get("eventstream")?.get("name")?.as_str()?;
    super::plugin::name(name).ok()
}

/// The name in a table of a TOML file.
fn named(text: &str, table: &str) -> Option<String> {
    let file: toml::Table = text.parse().ok()?;
    Some(file.get(table)?.get("name")?.as_str()?.to_owned())
}
