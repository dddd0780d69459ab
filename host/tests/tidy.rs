//! The rules of the house that no compiler knows: who may import whom, which crate appears where, how long a file may
//! be, that each one says what it is, that no task is detached and no guest is left untested.
//!
//! The layers are those of `ARCHITECTURE.md`. Each rule names the file and the line that breaks it, all at once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use source::Source;

/// The most lines of a file.
const MAX_LINES: usize = 500;

/// Which modules of the host each one may import, besides itself. `app` may import all of them.
const LAYERS: &[(&str, &[&str])] = &[
    ("clock", &["event"]),
    ("event", &[]),
    ("printable", &[]),
    ("secret", &[]),
    ("shutdown", &[]),
    ("telemetry", &["printable", "secret"]),
    ("broker", &["event", "clock", "secret", "shutdown"]),
    ("plugin", &["event", "clock", "printable", "secret", "shutdown"]),
    ("worker", &["event", "clock", "broker", "plugin", "shutdown"]),
    ("transfer", &["event", "clock", "broker"]),
    ("api", &["event", "clock", "broker", "shutdown", "telemetry"]),
    ("config", &["event", "broker", "plugin", "secret", "worker", "api", "telemetry"]),
    ("cli", &["config", "app", "event", "printable", "secret", "telemetry"]),
    ("main", &["config", "app", "cli", "telemetry"]),
];

/// Modules that only these parts may know.
const PRIVATE: &[(&str, &[&str])] =
    &[("broker::redis", &["broker::redis", "app"]), ("broker::embedded", &["broker::embedded", "app"])];

/// Foreign crates and the only modules in which they may appear.
const CRATES: &[(&[&str], &[&str])] = &[
    (&["redis"], &["broker::redis"]),
    (&["rusqlite"], &["broker::embedded"]),
    (&["wasmtime", "wasmtime_wasi", "wasmtime_wasi_http", "wasi_preview1_component_adapter_provider"], &["plugin"]),
    (&["wit_component", "wit_parser", "wasmparser", "notify", "wat"], &["plugin"]),
    (&["axum", "prometheus_client"], &["api"]),
    (&["tower", "hyper_util"], &["api", "plugin::host_api::http"]),
    (&["hyper", "http_body_util"], &["api", "plugin::dialect::wasi_http", "plugin::host_api::http"]),
    (&["tokio_rustls", "rustls_native_certs", "webpki_roots"], &["plugin::host_api::http"]),
    (&["clap"], &["cli", "main"]),
    (&["indicatif"], &["cli"]),
    (&["ureq"], &["cli"]),
    (&["toml"], &["cli::project", "config", "plugin::settings"]),
];

/// What layer 0 does not know: it is pure.
const NOT_PURE: &[&str] = &["tokio", "tokio_util", "futures_util", "tracing", "fastrand"];

/// The only modules that start tasks by themselves.
const SPAWNERS: &[&str] = &["shutdown", "plugin::run::executor"];

#[test]
fn what_examples_are_built_against_is_the_package() {
    let root = host().join("..");
    let package = fs::read(root.join("wit/plugin.wit")).unwrap();
    // Copies and no links, so that a folder can be copied elsewhere.
    for example in ["page-views-js/wit", "order-score-python/wit", "webhook-python/wit/deps/eventstream"] {
        let copy = root.join("plugins").join(example).join("plugin.wit");
        assert!(fs::symlink_metadata(&copy).unwrap().is_file(), "{} is a file", copy.display());
        assert!(fs::read(&copy).unwrap() == package, "{} is a copy of wit/plugin.wit: copy it anew", copy.display());
    }
}

#[test]
fn modules_import_only_what_lies_beneath_them() {
    let mut faults = Vec::new();
    for file in host_modules() {
        let layer = file.module.first().map_or("", String::as_str);
        let allowed = LAYERS.iter().find(|(name, _)| *name == layer).map(|(_, allowed)| *allowed);
        for (named, target) in file.source.paths.iter().filter_map(|named| Some((named, own_module(&named.segments)?)))
        {
            let is_known = fs::exists(host().join("src").join(&target[0])).unwrap_or(false)
                || host().join("src").join(format!("{}.rs", target[0])).exists();
            if !is_known || layer == target[0] || layer == "app" || layer == "lib" {
                continue;
            }
            if !allowed.is_some_and(|allowed| allowed.contains(&target[0].as_str())) {
                faults.push(format!("{}:{}: {layer:?} may not import {:?}", file.shown, named.line, target[0]));
            }
            for (private, friends) in PRIVATE {
                if target.join("::").starts_with(private) && !friends.iter().any(|friend| lies_in(&file.module, friend))
                {
                    faults.push(format!("{}:{}: only {friends:?} may know {private}", file.shown, named.line));
                }
            }
        }
        if allowed.is_none() && !matches!(layer, "app" | "lib") {
            faults.push(format!("{}: the module {layer:?} stands in no layer; add it to the table here", file.shown));
        }
    }
    report(&faults);
}

#[test]
fn foreign_crates_stay_behind_the_module_that_wraps_them() {
    let mut faults = Vec::new();
    for file in host_modules() {
        let is_pure =
            matches!(file.module.first().map(String::as_str), Some("event" | "clock" | "printable" | "secret"));
        for named in &file.source.paths {
            let name = named.segments[0].as_str();
            for (_, homes) in CRATES.iter().filter(|(names, _)| names.contains(&name)) {
                if !homes.iter().any(|home| lies_in(&file.module, home)) {
                    faults.push(format!("{}:{}: {name} may only appear in {homes:?}", file.shown, named.line));
                }
            }
            if is_pure && NOT_PURE.contains(&name) && !named.in_test {
                faults.push(format!("{}:{}: what is pure does not know {name}", file.shown, named.line));
            }
        }
    }
    report(&faults);
}

#[test]
fn every_task_has_an_owner() {
    let files = host_modules();
    let test_modules: BTreeSet<String> =
        files.iter().flat_map(|file| &file.source.test_modules).map(|path| path[1..].join("::")).collect();
    let mut faults = Vec::new();
    for file in &files {
        let only_tests = test_modules.iter().any(|module| lies_in(&file.module, module));
        if only_tests || SPAWNERS.iter().any(|spawner| lies_in(&file.module, spawner)) {
            continue;
        }
        for named in file.source.paths.iter().filter(|named| !named.in_test) {
            if matches!(named.segments.join("::").as_str(), "tokio::spawn" | "tokio::task::spawn") {
                faults.push(format!("{}:{}: use shutdown::Tasks instead of spawn", file.shown, named.line));
            }
        }
    }
    report(&faults);
}

#[test]
fn every_file_says_what_it_is_and_is_short_enough_to_read() {
    let mut faults = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let (shown, lines) = (show(&path), text.lines().count());
        if lines > MAX_LINES {
            faults.push(format!("{shown}: {lines} lines; split it by concept, {MAX_LINES} is the most"));
        }
        let first = text.lines().next().unwrap_or_default();
        if !first.starts_with("//! ") && !first.starts_with("#![doc = include_str!(") {
            faults.push(format!("{shown}: does not begin with a `//!` header that says what it is"));
        }
    }
    report(&faults);
}

#[test]
fn every_guest_is_named_by_a_test() {
    let tests: String = rust_files(&root().join("tests"), &["guests", "guests-wasip1"])
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut faults = Vec::new();
    let folders = ["tests/guests", "tests/guests-wasip1"].map(|folder| fs::read_dir(root().join(folder)).unwrap());
    for entry in folders.into_iter().flatten() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if folder.join("Cargo.toml").exists() && !tests.contains(&format!("\"{name}\"")) {
            faults.push(format!("{}: no test names it", show(&folder)));
        }
    }
    report(&faults);
}

/// A file of the host's package with what it names.
struct Module {
    shown: String,
    /// `["broker", "redis", "codec"]`; `["lib"]` and `["main"]` for the roots.
    module: Vec<String>,
    source: Source,
}

fn host_modules() -> Vec<Module> {
    let folder = host().join("src");
    let read = |path: PathBuf| {
        let relative = path.strip_prefix(&folder).unwrap().with_extension("");
        let mut module: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        let is_root = module == ["lib"] || module == ["main"];
        let place = if is_root { &[][..] } else { &module[..] };
        let source = source::read(&fs::read_to_string(&path).unwrap(), place);
        Module { shown: show(&path), module, source }
    };
    let modules: Vec<Module> = rust_files(&folder, &[]).into_iter().map(read).collect();
    assert!(modules.len() > 10, "the sources of the host were not found");
    modules
}

/// The path of a module of the host, without its root.
fn own_module(segments: &[String]) -> Option<&[String]> {
    (matches!(segments[0].as_str(), "crate" | "eventstream") && segments.len() > 1).then_some(&segments[1..])
}

fn lies_in(module: &[String], place: &str) -> bool {
    let mut parts = module.iter();
    place.split("::").all(|part| parts.next().is_some_and(|own| own == part))
}

fn sources() -> Vec<PathBuf> {
    ["host", "tests", "xtask", "plugins"].iter().flat_map(|name| rust_files(&root().join(name), &["target"])).collect()
}

fn rust_files(folder: &Path, without: &[&str]) -> Vec<PathBuf> {
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

fn host() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn root() -> PathBuf {
    host().parent().unwrap().to_owned()
}

fn show(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
