//! `eventstream dev`: builds the plugin projects in a folder, serves them, rebuilds them when a file is saved, and reports
//! how each event ends.
//!
//! Everything it makes is in `DIR/.eventstream`: the plugins, the store, compiled code. While a project does not build, its
//! last good version stays active. When a project is removed, its plugin and settings are removed too.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use eventstream::app;
use eventstream::config::FlagSetting;
use eventstream::shutdown::EarlyStop;
use serde_json::Value;

use super::client::ServerTarget;
use super::output::{CommandResult, ExitReason, announce_fact, print_note, report_as, report_error};
use super::project::{Project, build_component};
use super::{serve, settings};

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream dev
  eventstream dev ./plugins --listen 127.0.0.1:3000

DIR is a project made by `eventstream plugin new`, or a folder with several. Send events with `eventstream send` from another
terminal. The plugins, the store and compiled code are in DIR/.eventstream; remove it to start afresh.

Exit codes: 0 stopped, 1 failed, 2 usage or configuration, or no project";

/// How often files and events are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Folders with generated files. Changes in them do not cause a build.
const GENERATED_FOLDERS: [&str; 5] = ["target", "dist", "node_modules", "__pycache__", "wit"];
/// The most events that are listed at a poll. If more ended since the last one, the oldest are not reported.
const MAX_LISTED: usize = 100;
/// How many characters of a result are shown.
const RESULT_CHARS: usize = 200;

/// The arguments of `dev`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The project, or the folder with the projects
    #[arg(value_name = "DIR", default_value = ".", value_parser = settings::path_parser())]
    dir: PathBuf,
    /// The address to listen on; port 0 takes a free port [env: EVENTSTREAM_SERVER_LISTEN] [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The configuration file [default: eventstream.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "EVENTSTREAM_CONFIG", hide_env_values = true, value_parser = settings::path_parser())]
    config: Option<PathBuf>,
}

impl Args {
    fn work_path(&self, what: &str) -> PathBuf {
        self.dir.join(".eventstream").join(what)
    }

    fn flags(&self) -> Vec<FlagSetting> {
        let path = |what: &str| self.work_path(what).display().to_string();
        let mut flags = vec![
            FlagSetting { key: "broker.url", flag: "DIR", value: format!("embedded:{}", path("data")) },
            FlagSetting { key: "plugins.dir", flag: "DIR", value: path("plugins") },
            FlagSetting { key: "plugins.data_dir", flag: "DIR", value: path("compiled") },
            // All projects here have one author.
            FlagSetting { key: "plugins.hold_taken_types", flag: "DIR", value: "false".into() },
            // Files are renamed into the directory, so they are complete at once.
            FlagSetting { key: "plugins.settle_ms", flag: "DIR", value: "50".into() },
        ];
        flags.extend(self.listen.clone().map(|value| FlagSetting { key: "server.listen", flag: "--listen", value }));
        flags
    }
}

/// Builds and serves until a signal stops it.
pub(super) fn run(args: &Args, early_stop: Option<EarlyStop>) -> CommandResult {
    let mut builder =
        ProjectFolder { folder: args.dir.clone(), plugins: args.work_path("plugins"), ..ProjectFolder::default() };
    if builder.find_projects().is_empty() {
        let shown = args.dir.display();
        let message = format!("there is no plugin project in {shown}: make one with eventstream plugin new");
        return Err(report_as(ExitReason::Usage, message));
    }
    create_work_folder(args).map_err(|error| {
        report_as(ExitReason::Failed, format_args!("{} cannot be written: {error}", args.work_path("").display()))
    })?;
    let (config, runtime, log) = settings::open_for_serving(args.config.as_deref(), args.flags())?;
    builder.build_changed();
    let (stop, (listens, listening)) = (AtomicBool::new(false), mpsc::channel());
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                builder.build_changed();
                std::thread::sleep(POLL_INTERVAL);
            }
        });
        let stopped = &stop;
        threads.spawn(move || {
            if let Ok(url) = listening.recv() {
                report_ended_events(&ServerTarget::at(url), stopped);
            }
        });
        let served = runtime.block_on(app::run(config, log, early_stop, serve::first_key(), |fact| {
            if let Some(url) = fact.strip_prefix("listening on ") {
                // The receiver lives as long as this sender.
                let _ = listens.send(url.to_owned());
            }
            announce_fact(fact);
        }));
        runtime.shutdown_background();
        stop.store(true, Ordering::Relaxed);
        drop(listens);
        served.map(|()| ExitReason::Done).map_err(|error| ExitReason::report(&error))
    })
}

fn create_work_folder(args: &Args) -> std::io::Result<()> {
    fs::create_dir_all(args.work_path("plugins"))?;
    fs::write(args.work_path(".gitignore"), "*\n")
}

/// A folder of projects and what was built from it.
#[derive(Default)]
struct ProjectFolder {
    folder: PathBuf,
    plugins: PathBuf,
    /// The project folders that a build was tried for, and the time of the newest change then.
    built: Vec<(PathBuf, Option<SystemTime>)>,
    /// The installed files that had no project at the last check; `None` before the first one.
    orphans: Option<HashSet<OsString>>,
}

impl ProjectFolder {
    /// Finds the projects: the folder itself if it is one, otherwise those in it.
    fn find_projects(&self) -> Vec<(PathBuf, Project)> {
        if let Ok(project) = Project::in_folder(&self.folder) {
            return vec![(self.folder.clone(), project)];
        }
        let mut folders: Vec<PathBuf> = fs::read_dir(&self.folder)
            .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
            .unwrap_or_default();
        folders.sort();
        folders.into_iter().filter_map(|folder| Project::in_folder(&folder).ok().map(|it| (folder, it))).collect()
    }

    fn build_changed(&mut self) {
        let projects = self.find_projects();
        self.remove_orphans(&projects);
        for (folder, project) in projects {
            let newest = find_newest_change(&folder);
            match self.built.iter_mut().find(|(known, _)| *known == folder) {
                Some((_, built)) if *built == newest => continue,
                Some((_, built)) => *built = newest,
                None => self.built.push((folder.clone(), newest)),
            }
            let started = Instant::now();
            let done = build_component(&project).and_then(|()| {
                let install = install(&project, &self.plugins);
                install.map_err(|error| format!("{} cannot be written: {error}", self.plugins.display()))
            });
            match done {
                Ok(()) => print_note(format!("{} built in {:.1} s", project.name(), started.elapsed().as_secs_f32())),
                Err(message) => report_error(format!("{}: {message}; the version before stays", project.name())),
            }
        }
    }

    /// Removes installed files that have no project. Files from an earlier run are removed at once. Others must be without a
    /// project at two checks in a row, because editors replace a file by removing it first.
    fn remove_orphans(&mut self, projects: &[(PathBuf, Project)]) {
        self.built.retain(|(folder, _)| projects.iter().any(|(known, _)| known == folder));
        let files = projects.iter().flat_map(|(_, project)| [Some(project.component()), project.settings()]);
        let had: HashSet<OsString> = files.flatten().filter_map(|file| Some(file.file_name()?.to_owned())).collect();
        let installed =
            fs::read_dir(&self.plugins).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
        let is_ours =
            |name: &OsString| Path::new(name).extension().is_some_and(|kind| kind == "wasm" || kind == "toml");
        let orphans: HashSet<OsString> = installed.filter(|name| is_ours(name) && !had.contains(name)).collect();
        let before = self.orphans.replace(orphans.clone());
        for name in orphans.iter().filter(|name| before.as_ref().is_none_or(|before| before.contains(*name))) {
            let shown = Path::new(name).display();
            match fs::remove_file(self.plugins.join(name)) {
                Ok(()) => print_note(format!("removed {shown}: its project is gone")),
                Err(error) => report_error(format!("{shown} cannot be removed, though its project is gone: {error}")),
            }
        }
    }
}

/// Copies the component and its settings, if there are any, into the plugin directory.
fn install(project: &Project, plugins: &Path) -> std::io::Result<()> {
    let mut files = vec![project.component()];
    files.extend(project.settings());
    for file in files.iter().rev() {
        let name = file.file_name().unwrap_or_default();
        let temporary = plugins.join(format!(".{}.tmp", name.to_string_lossy()));
        fs::copy(file, &temporary)?;
        fs::rename(&temporary, plugins.join(name))?;
    }
    Ok(())
}

/// Returns the time of the newest change to a file that a person writes.
fn find_newest_change(folder: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let time = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let metadata = entry.metadata().ok()?;
        match metadata.is_dir() {
            true if GENERATED_FOLDERS.contains(&name.as_str()) || name.starts_with('.') => None,
            true => find_newest_change(&entry.path()),
            // The build tools write these.
            false if name == "Cargo.lock" || name == "package-lock.json" => None,
            false => metadata.modified().ok(),
        }
    };
    entries.filter_map(time).max()
}

/// Reports each event that ends from now on.
fn report_ended_events(server: &ServerTarget, stop: &AtomicBool) {
    let list_ended = || -> Vec<String> {
        let mut ids = Vec::new();
        for (path, list) in [("events", "events"), ("failed-events", "failedEvents")] {
            let page = server.get(&format!("/{path}?limit={MAX_LISTED}")).and_then(|answer| answer.parse_json());
            let events = page.ok().and_then(|page| page[list].as_array().cloned()).unwrap_or_default();
            ids.extend(events.iter().rev().filter_map(|event| Some(event["id"].as_str()?.to_owned())));
        }
        ids
    };
    let mut known: HashSet<String> = list_ended().into_iter().collect();
    while !stop.load(Ordering::Relaxed) {
        let ended = list_ended();
        for id in &ended {
            if !known.contains(id)
                && let Ok(event) = server.get(&format!("/events/{id}")).and_then(|answer| answer.parse_json())
            {
                announce_fact(describe_end(&event));
            }
        }
        // An event that left the page does not return to it.
        known = ended.into_iter().collect();
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Describes on one line how an event ended.
fn describe_end(event: &Value) -> String {
    let word = |name: &str| event[name].as_str().unwrap_or_default();
    let attempts = event["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let duration_ms = attempts.last().and_then(|attempt| attempt["durationMs"].as_f64()).unwrap_or_default();
    let head = format!("{:<9} {} {}", word("state"), word("type"), word("id"));
    let tries = if attempts.len() > 1 { format!(", {} attempts", attempts.len()) } else { String::new() };
    let rest = match event["reason"].as_str() {
        Some(reason) => format!("{}: {}", word("class"), reason.lines().next().unwrap_or_default()),
        None if event["result"].is_null() => String::new(),
        None => event["result"].to_string().chars().take(RESULT_CHARS).collect(),
    };
    format!("{head} in {duration_ms:.1} ms{tries}  {rest}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_end_is_described_on_one_line() {
        let attempts = json!([{"durationMs": 3.0}, {"durationMs": 1.26}]);
        let event = json!({"id": "1", "type": "a", "state": "processed", "result": {"n": 1}, "attempts": attempts});
        assert_eq!(describe_end(&event), "processed a 1 in 1.3 ms, 2 attempts  {\"n\":1}");
        let event = json!({"id": "1", "type": "a", "state": "failed", "class": "reject", "reason": "no\nmore"});
        assert_eq!(describe_end(&event), "failed    a 1 in 0.0 ms  reject: no");
    }

    #[test]
    fn only_what_a_person_writes_counts_as_a_change() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("app.py"), "").unwrap();
        let before = find_newest_change(folder.path());
        assert!(before.is_some());
        for folder_name in ["dist", "target", ".venv", "wit"] {
            fs::create_dir(folder.path().join(folder_name)).unwrap();
            fs::write(folder.path().join(folder_name).join("new"), "").unwrap();
        }
        assert_eq!(find_newest_change(folder.path()), before);
    }

    #[test]
    fn the_plugin_of_a_removed_project_is_removed_with_its_settings() {
        let folder = tempfile::tempdir().unwrap();
        let (plugins, project) = (folder.path().join(".eventstream/plugins"), folder.path().join("here"));
        let manifest = "[package]\nname = \"here\"";
        for folder in [&plugins, &project] {
            fs::create_dir_all(folder).unwrap();
        }
        let put =
            |folder: &Path, names: &[&str]| names.iter().for_each(|name| fs::write(folder.join(name), "").unwrap());
        put(&plugins, &["here.wasm", "here.toml", "gone.wasm", "gone.toml", ".here.wasm.tmp"]);
        put(&project, &["here.toml"]);
        fs::write(project.join("Cargo.toml"), manifest).unwrap();
        let mut builder =
            ProjectFolder { folder: folder.path().to_owned(), plugins: plugins.clone(), ..ProjectFolder::default() };
        let mut look = || {
            builder.remove_orphans(&builder.find_projects());
            let mut left: Vec<_> = fs::read_dir(&plugins).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            left.sort();
            left.into_iter().map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
        };
        let all = [".here.wasm.tmp", "here.toml", "here.wasm"];
        assert_eq!(look(), all, "what an earlier run left is removed at once");
        // A file that is replaced by way of its removal.
        fs::remove_file(project.join("Cargo.toml")).unwrap();
        assert_eq!(look(), all);
        fs::write(project.join("Cargo.toml"), manifest).unwrap();
        assert_eq!(look(), all);
        fs::remove_file(project.join("here.toml")).unwrap();
        assert_eq!((look().len(), look().len()), (3, 2), "its settings have gone");
        fs::remove_dir_all(&project).unwrap();
        assert_eq!((look().len(), look().len()), (2, 1));
    }
}
