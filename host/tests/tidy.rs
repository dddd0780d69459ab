//! The rules of the house that no compiler checks.
//!
//! They say which module may import which, where a foreign crate may appear, and how long files and sentences may be. They
//! forbid circles of imports, two types of one name, test switches in the product, detached tasks and untested guests. The
//! layers are those of `ARCHITECTURE.md`. A rule lists every file and line that breaks it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/exceptions.rs"]
mod exceptions;
#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/source_tests.rs"]
mod source_tests;
#[path = "tidy/words.rs"]
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use exceptions::{CIRCLES, LONG_FILES, LONG_SENTENCES, SHARED_TYPE_NAMES, TEST_SWITCHES};
use files::{Module, host, host_modules, root, rust_files, show, sources};

/// The most lines of a file.
const MAX_LINES: usize = 400;
/// The most words of a sentence of documentation.
const MAX_SENTENCE_WORDS: usize = 30;

/// Which modules of the host each one may import, besides itself. `app` may import all of them.
const LAYERS: &[(&str, &[&str])] = &[
    ("clock", &["event"]),
    ("api_key", &["event", "secret"]),
    ("event", &[]),
    ("plugin_report", &["event"]),
    ("printable", &[]),
    ("secret", &[]),
    ("regular_file", &[]),
    ("shutdown", &[]),
    ("telemetry", &["printable", "secret"]),
    ("broker", &["api_key", "event", "clock", "regular_file", "secret", "shutdown"]),
    ("plugin", &["event", "clock", "plugin_report", "printable", "regular_file", "secret", "shutdown"]),
    ("worker", &["event", "clock", "broker", "plugin", "shutdown"]),
    ("transfer", &["event", "clock", "broker"]),
    ("api", &["api_key", "event", "clock", "broker", "plugin_report", "secret", "shutdown", "telemetry"]),
    ("config", &["api_key", "event", "broker", "plugin", "regular_file", "secret", "worker", "api", "telemetry"]),
    ("cli", &["api_key", "config", "app", "event", "printable", "regular_file", "secret", "shutdown", "telemetry"]),
    ("main", &["config", "app", "cli", "telemetry"]),
];

/// Modules that only these modules may import.
const PRIVATE: &[(&str, &[&str])] =
    &[("broker::redis", &["broker::redis", "app"]), ("broker::embedded", &["broker::embedded", "app"])];

/// Foreign crates, and the only modules in which they may appear.
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

/// Crates that may not appear in layer 0, which is pure.
const NOT_PURE: &[&str] = &["tokio", "tokio_util", "futures_util", "tracing", "fastrand"];

/// The only modules that may spawn tasks without an owner.
const SPAWNERS: &[&str] = &["shutdown", "plugin::run::executor"];

#[test]
fn examples_are_built_against_copies_of_the_package() {
    let root = host().join("..");
    let package = fs::read(root.join("wit/plugin.wit")).unwrap();
    // Copies instead of links, so that a person can copy the folder of an example elsewhere.
    let webhooks = ["webhook-js/wit/deps/eventstream", "webhook-python/wit/deps/eventstream"];
    for example in ["page-views-js/wit", "order-score-python/wit"].into_iter().chain(webhooks) {
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
        let own_paths = file.source.all_paths().filter_map(|named| Some((named, own_module(&named.segments)?)));
        for (named, target) in own_paths {
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
        let is_pure = matches!(
            file.module.first().map(String::as_str),
            Some("api_key" | "event" | "clock" | "printable" | "secret")
        );
        for named in file.source.all_paths() {
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
    let test_modules: BTreeSet<String> = files.iter().flat_map(Module::test_modules).collect();
    let mut faults = Vec::new();
    for file in files {
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
fn no_type_name_is_defined_in_two_files() {
    let mut defined: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
    for file in host_modules() {
        for name in &file.source.types {
            defined.entry(&name.name).or_default().push((&file.shown, name.line));
        }
    }
    let mut faults = Vec::new();
    for (name, places) in &defined {
        let files: BTreeSet<&str> = places.iter().map(|(file, _)| *file).collect();
        if files.len() > 1 && !SHARED_TYPE_NAMES.iter().any(|(shared, _)| shared == name) {
            let others: Vec<String> = places.iter().map(|(file, line)| format!("{file}:{line}")).collect();
            faults.push(format!("{name} is defined in {}: give each a name of its own", others.join(" and ")));
        }
    }
    let unused = SHARED_TYPE_NAMES.iter().filter(|(name, _)| defined.get(name).is_none_or(|places| places.len() < 2));
    faults.extend(unused.map(|(name, _)| format!("{name} is defined once: strike it from SHARED_TYPE_NAMES")));
    report(&faults);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let files = host_modules();
    let switched = files.iter().flat_map(Module::switched_modules);
    let of_tests: BTreeSet<String> = files.iter().flat_map(Module::test_modules).chain(switched).collect();
    let is_test = |file: &Module| of_tests.iter().any(|module| lies_in(&file.module, module));
    let mut faults = Vec::new();
    let mut spared = BTreeSet::new();
    for circle in circles::find_circles(files, is_test) {
        // A circle may shrink, and never grow.
        let exception =
            CIRCLES.iter().find(|(files, _)| circle.files.iter().all(|file| files.contains(&file.as_str())));
        match exception {
            Some((files, _)) => _ = spared.insert(*files),
            None => faults.push(format!(
                "{} files import each other:\n  {}",
                circle.files.len(),
                circle.imports.join("\n  ")
            )),
        }
    }
    let unused = CIRCLES.iter().filter(|(files, _)| !spared.contains(files));
    faults.extend(unused.map(|(files, _)| format!("{files:?} are no circle: strike them from CIRCLES")));
    report(&faults);
}

#[test]
fn test_switches_stay_out_of_product_code() {
    let mut faults = Vec::new();
    let mut spared = BTreeSet::new();
    for file in host_modules() {
        for switch in &file.source.test_switches {
            match TEST_SWITCHES.iter().find(|(of, what, _)| *of == file.shown && *what == switch.what) {
                Some((of, what, _)) => _ = spared.insert((*of, *what)),
                None => faults.push(format!("{}:{}: a test switch on {}", file.shown, switch.line, switch.what)),
            }
        }
    }
    let unused = TEST_SWITCHES.iter().filter(|(of, what, _)| !spared.contains(&(*of, *what)));
    faults.extend(unused.map(|(of, what, _)| format!("{of} has no switch on {what}: strike it from TEST_SWITCHES")));
    report(&faults);
}

#[test]
fn sentences_of_documentation_are_short() {
    let host_sources = rust_files(&host().join("src"), &[]);
    let others = ["tests", "xtask", "plugins"].map(|folder| rust_files(&root().join(folder), &["target"]));
    let mut faults = Vec::new();
    for path in host_sources.into_iter().chain(others.into_iter().flatten()) {
        let shown = show(&path);
        let docs = files::parse(&path, &[]).docs;
        let sentences = docs.iter().flat_map(words::split_into_sentences);
        let too_long: Vec<_> = sentences.filter(|sentence| sentence.words.len() > MAX_SENTENCE_WORDS).collect();
        let allowed = LONG_SENTENCES.iter().find(|(file, ..)| *file == shown).map_or(0, |(_, count, _)| *count);
        if too_long.len() > allowed {
            faults.extend(too_long.iter().map(|sentence| {
                let (count, begins) = (sentence.words.len(), sentence.words[..6].join(" "));
                format!("{shown}:{}: {count} words: {begins} …", sentence.line)
            }));
        }
    }
    report(&faults);
}

#[test]
fn every_file_says_what_it_is_and_is_short_enough_to_read() {
    let mut faults = Vec::new();
    let is_short =
        |file: &str| fs::read_to_string(root().join(file)).is_ok_and(|text| text.lines().count() <= MAX_LINES);
    let unused = LONG_FILES.iter().filter(|(file, _)| !root().join(file).exists() || is_short(file));
    faults.extend(unused.map(|(file, _)| format!("{file} is not too long: strike it from LONG_FILES")));
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let (shown, lines) = (show(&path), text.lines().count());
        if lines > MAX_LINES && !LONG_FILES.iter().any(|(file, _)| *file == shown) {
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
fn every_path_in_the_guide_for_contributors_exists() {
    let guide = fs::read_to_string(host().join("CONTRIBUTING.md")).unwrap();
    let paths = guide.split('`').skip(1).step_by(2).filter(|code| {
        ["host/", "tests/", "wit/", "xtask/"].iter().any(|folder| code.starts_with(folder)) && !code.contains(' ')
    });
    let missing: Vec<String> = paths
        .filter(|path| !root().join(path).exists())
        .map(|path| format!("host/CONTRIBUTING.md names {path}, which does not exist"))
        .collect();
    report(&missing);
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

/// The path of a module of the host, without its root.
fn own_module(segments: &[String]) -> Option<&[String]> {
    (matches!(segments[0].as_str(), "crate" | "eventstream") && segments.len() > 1).then_some(&segments[1..])
}

fn lies_in(module: &[String], place: &str) -> bool {
    let mut parts = module.iter();
    place.split("::").all(|part| parts.next().is_some_and(|own| own == part))
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
