//! The paths of the host's binary and of the built components.
//!
//! They are found relative to the running test, wherever cargo builds. If a file is missing or out of date, the test fails
//! with the command that builds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The folder of this profile, such as `target/debug`.
pub fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let folder = test.parent().expect("a test lies in a folder");
    let is_below = folder.ends_with("deps") || folder.ends_with("examples");
    if is_below { folder.parent().unwrap_or(folder).to_owned() } else { folder.to_owned() }
}

/// The host's binary, built with the switches for tests.
///
/// # Panics
/// There is none, or one of its sources is newer.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let binary = profile_dir().join("eventstream");
        let built = modified(&binary);
        let newer = sources(&binary).into_iter().find(|source| built.is_none() || modified(source) > built);
        if let Some(source) = newer.filter(|_| built.is_some()) {
            panic!("{} is older than {}: run `cargo build --workspace`", binary.display(), source.display());
        }
        assert!(built.is_some(), "there is no {}: run `cargo build --workspace`", binary.display());
        binary
    })
}

/// A component of `tests/guests`, by the name of its crate.
///
/// # Panics
/// It was not built.
pub fn guest(name: &str) -> PathBuf {
    component("guests", name)
}

/// A core module of `tests/guests-wasip1`, by the name of its crate.
///
/// # Panics
/// It was not built.
pub fn core_guest(name: &str) -> PathBuf {
    component("guests-wasip1", name)
}

/// One of the example plugins, by the name of its crate.
///
/// # Panics
/// It was not built.
pub fn example_plugin(name: &str) -> PathBuf {
    component("plugins", name)
}

/// One of the example plugins in another language than Rust, by the name of its folder.
///
/// # Panics
/// It was not built.
pub fn project_plugin(name: &str) -> PathBuf {
    find_project_plugin(name).unwrap_or_else(|| panic!("plugins/{name} is not built: run `cargo xtask test`"))
}

/// The same; `None` if it was not built.
pub fn find_project_plugin(name: &str) -> Option<PathBuf> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(name);
    Some(project.join("dist").join(format!("{name}.wasm"))).filter(|path| path.is_file())
}

fn component(folder: &str, name: &str) -> PathBuf {
    let profile = profile_dir();
    let path = profile.parent().unwrap_or(&profile).join(folder).join(format!("{name}.wasm"));
    assert!(path.is_file(), "there is no {}: run `cargo xtask guests`", path.display());
    path
}

/// The sources of the binary, from the list that cargo writes next to it: `binary: source source`.
fn sources(binary: &Path) -> Vec<PathBuf> {
    let list = fs::read_to_string(binary.with_extension("d")).unwrap_or_default();
    let Some((_, sources)) = list.split_once(": ") else { return Vec::new() };
    // A blank in a path is written as `\ `.
    let marked = sources.replace("\\ ", "\0");
    marked.split_whitespace().map(|path| PathBuf::from(path.replace('\0', " "))).collect()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
