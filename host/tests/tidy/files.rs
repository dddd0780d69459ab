//! The files that the rules are about, read once for all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::source::{self, Source};

/// A file of the host's package with what it says.
pub struct Module {
    /// Its path from the root of the repository.
    pub shown: String,
    /// `["broker", "redis", "codec"]`; `["lib"]` and `["main"]` for the roots.
    pub module: Vec<String>,
    /// What it says.
    pub source: Source,
}

impl Module {
    /// A file that exists only in a test of a rule.
    pub fn new(module: &str, text: &str) -> Self {
        let path: Vec<String> = module.split("::").map(str::to_owned).collect();
        Self { shown: module.to_owned(), source: source::read(text, &path).unwrap(), module: path }
    }

    /// The modules that this file declares for tests only, without `crate`: `broker::redis::tests`.
    pub fn test_modules(&self) -> impl Iterator<Item = String> {
        self.source.test_modules.iter().map(|path| path[1..].join("::"))
    }

    /// The modules that this file declares for the feature `test-util` only.
    pub fn switched_modules(&self) -> impl Iterator<Item = String> {
        let names = self.source.test_switches.iter().filter_map(|switch| switch.what.strip_prefix("mod "));
        let is_root = self.module == ["lib"];
        names.map(move |name| if is_root { name.to_owned() } else { format!("{}::{name}", self.module.join("::")) })
    }

    fn read(folder: &Path, path: &Path) -> Self {
        let relative = path.strip_prefix(folder).unwrap().with_extension("");
        let mut module: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        let is_root = module == ["lib"] || module == ["main"];
        let place = if is_root { &[][..] } else { &module[..] };
        Self { shown: show(path), source: parse(path, place), module }
    }
}

/// The files of `host/src`.
pub fn host_modules() -> &'static [Module] {
    static MODULES: LazyLock<Vec<Module>> = LazyLock::new(|| {
        let folder = host().join("src");
        let modules: Vec<Module> = rust_files(&folder, &[]).iter().map(|path| Module::read(&folder, path)).collect();
        assert!(modules.len() > 10, "the sources of the host were not found");
        modules
    });
    &MODULES
}

/// Reads a file that stands in this module.
pub fn parse(path: &Path, module: &[String]) -> Source {
    let text = fs::read_to_string(path).unwrap();
    source::read(&text, module).unwrap_or_else(|error| panic!("{}: {error}", show(path)))
}

/// Every Rust file of the repository.
pub fn sources() -> Vec<PathBuf> {
    ["host", "tests", "xtask", "plugins"].iter().flat_map(|name| rust_files(&root().join(name), &["target"])).collect()
}

/// The Rust files below a folder, in order.
pub fn rust_files(folder: &Path, without: &[&str]) -> Vec<PathBuf> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !without.contains(&name.as_str()) && name != "target" {
                folders.push(path);
            } else if name.ends_with(".rs") {
                found.insert(path);
            }
        }
    }
    found.into_iter().collect()
}

/// The folder of the host's package.
pub fn host() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The root of the repository.
pub fn root() -> PathBuf {
    host().parent().unwrap().to_owned()
}

/// A path as the faults show it.
pub fn show(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
