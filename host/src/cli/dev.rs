//! `eventstream dev`: builds the plugin projects of a folder, serves them, builds again what is saved, and tells of each
//! event's end.
//!
//! Everything that it makes lies in `DIR/.eventstream`: the plugins, the store, compiled code. A project that does not build
//! leaves its last good plugin at work; one that is gone takes its plugin and its settings along.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use eventstream::app;
use eventstream::config::FlagSetting;
use serde_json::Value;

use super::client::ServerTarget;
use super::project::{Project, make};
use super::{ExitReason, announce, complain, note, serve, settings};

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream dev
  eventstream dev ./plugins --listen 127.0.0.1:3000

DIR is a project made by `eventstream plugin new`, or holds several. Send events with `eventstream send` from another
terminal. What is made lies in DIR/.eventstream; remove it to begin anew.

Exit codes: 0 stopped, 1 failed, 2 usage or configuration, or no project";

/// How often files and events are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Folders that hold what was made, not what a person writes.
const MADE: [&str; 5] = ["target", "dist", "node_modules", "__pycache__", "wit"];
/// The most events that are told of at a look; the rest is told at the next ones.
const MAX_TOLD: usize = 100;
/// How much of a result is shown.
const RESULT_CHARS: usize = 200;

/// The arguments of `dev`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder of the projects
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Where to listen [env: EVENTSTREAM_SERVER_LISTEN] [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The configuration file [default: eventstream.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "EVENTSTREAM_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

impl Args {
    fn made(&self, what: &str) -> PathBuf {
        self.dir.join(".eventstream").join(what)
    }

    fn flags(&self) -> Vec<FlagSetting> {
        let path = |what: &str| self.made(what).display().to_string();
        let mut flags = vec![
            FlagSetting { key: "broker.url", flag: "DIR", value: format!("embedded:{}", path("data")) },
            FlagSetting { key: "plugins.dir", flag: "DIR", value: path("plugins") },
            FlagSetting { key: "plugins.data_dir", flag: "DIR", value: path("compiled") },
            // All projects here are of one author.
            FlagSetting { key: "plugins.hold_taken_types", flag: "DIR", value: "false".into() },
            // Files are renamed into the directory, so that there is nothing to wait for.
            FlagSetting { key: "plugins.settle_ms", flag: "DIR", value: "50".into() },
        ];
        flags.extend(self.listen.clone().map(|value| FlagSetting { key: "server.listen", flag: "--listen", value }));
        flags
    }
}

/// Builds and serves until it is told to stop.
pub(super) fn run(args: &Args) -> ExitReason {
    let mut builder =
        ProjectBuilder { folder: args.dir.clone(), plugins: args.made("plugins"), ..ProjectBuilder::default() };
    if builder.projects().is_empty() {
        let shown = args.dir.display();
        complain(format!("there is no plugin project in {shown}: make one with eventstream plugin new"));
        return ExitReason::Usage;
    }
    if let Err(error) = prepare(args) {
        complain(format!("{} cannot be written: {error}", args.made("").display()));
        return ExitReason::Failed;
    }
    let (config, runtime, log) = match settings::serving(args.config.as_deref(), args.flags()) {
        Ok(both) => both,
        Err(exit) => return exit,
    };
    builder.look();
    let (stop, (listens, listening)) = (AtomicBool::new(false), mpsc::channel());
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                builder.look();
                std::thread::sleep(LOOK_EVERY);
            }
        });
        let stopped = &stop;
        threads.spawn(move || {
            if let Ok(url) = listening.recv() {
                tell(&ServerTarget::at(url), stopped);
            }
        });
        let served = runtime.block_on(app::run(config, log, |fact| {
            let fact = fact.to_string();
            if let Some(url) = fact.strip_prefix("listening on ") {
                // The reader is there for as long as this is.
                let _ = listens.send(url.to_owned());
            }
            announce(fact);
        }));
        runtime.shutdown_background();
        stop.store(true, Ordering::Relaxed);
        drop(listens);
        serve::ended(served)
    })
}

fn prepare(args: &Args) -> std::io::Result<()> {
    fs::create_dir_all(args.made("plugins"))?;
    fs::write(args.made(".gitignore"), "*\n")
}

/// Builds what has changed.
#[derive(Default)]
struct ProjectBuilder {
    folder: PathBuf,
    plugins: PathBuf,
    /// The folders that were built, or tried, and how new their files were.
    built: Vec<(PathBuf, Option<SystemTime>)>,
    /// What had no project at the last look; `None` before the first one.
    left_over: Option<HashSet<OsString>>,
}

impl ProjectBuilder {
    /// The folder itself if it is a project, else those in it that are.
    fn projects(&self) -> Vec<(PathBuf, Project)> {
        if let Ok(project) = Project::in_folder(&self.folder) {
            return vec![(self.folder.clone(), project)];
        }
        let mut folders: Vec<PathBuf> = fs::read_dir(&self.folder)
            .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
            .unwrap_or_default();
        folders.sort();
        folders.into_iter().filter_map(|folder| Project::in_folder(&folder).ok().map(|it| (folder, it))).collect()
    }

    fn look(&mut self) {
        let projects = self.projects();
        self.sweep(&projects);
        for (folder, project) in projects {
            let newest = newest(&folder);
            match self.built.iter_mut().find(|(known, _)| *known == folder) {
                Some((_, built)) if *built == newest => continue,
                Some((_, built)) => *built = newest,
                None => self.built.push((folder.clone(), newest)),
            }
            let begun = Instant::now();
            let done = make(&project).and_then(|()| {
                let install = install(&project, &self.plugins);
                install.map_err(|error| format!("{} cannot be written: {error}", self.plugins.display()))
            });
            match done {
                Ok(()) => note(format!("{} built in {:.1} s", project.name(), begun.elapsed().as_secs_f32())),
                Err(words) => complain(format!("{}: {words}; the version before stays", project.name())),
            }
        }
    }

    /// Removes the plugins and settings that no project has any more: left by an earlier `dev` at once, others when they
    /// have none at two looks in a row, since editors replace a file by removing it first.
    fn sweep(&mut self, projects: &[(PathBuf, Project)]) {
        self.built.retain(|(folder, _)| projects.iter().any(|(known, _)| known == folder));
        let files = projects.iter().flat_map(|(_, project)| [Some(project.component()), project.settings()]);
        let had: HashSet<OsString> = files.flatten().filter_map(|file| Some(file.file_name()?.to_owned())).collect();
        let installed =
            fs::read_dir(&self.plugins).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
        let is_ours =
            |name: &OsString| Path::new(name).extension().is_some_and(|kind| kind == "wasm" || kind == "toml");
        let left_over: HashSet<OsString> = installed.filter(|name| is_ours(name) && !had.contains(name)).collect();
        let before = self.left_over.replace(left_over.clone());
        for name in left_over.iter().filter(|name| before.as_ref().is_none_or(|before| before.contains(*name))) {
            let shown = Path::new(name).display();
            match fs::remove_file(self.plugins.join(name)) {
                Ok(()) => note(format!("{shown} removed, which no project has any more")),
                Err(error) => complain(format!("{shown}, which no project has any more, cannot be removed: {error}")),
            }
        }
    }
}

/// Puts the component, and its settings if the project has some, where the server looks.
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

/// When the newest file that a person wrote was saved.
fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let time = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let metadata = entry.metadata().ok()?;
        match metadata.is_dir() {
            true if MADE.contains(&name.as_str()) || name.starts_with('.') => None,
            true => newest(&entry.path()),
            // Written by the tools, beside what a person writes.
            false if name == "Cargo.lock" || name == "package-lock.json" => None,
            false => metadata.modified().ok(),
        }
    };
    entries.filter_map(time).max()
}

/// Tells of each event that ends from now on.
fn tell(server: &ServerTarget, stop: &AtomicBool) {
    let ended = || -> Vec<String> {
        let mut ids = Vec::new();
        for (path, list) in [("events", "events"), ("failed-events", "failedEvents")] {
            let page = server.get(&format!("/{path}?limit={MAX_TOLD}")).and_then(|answer| answer.json());
            let events = page.ok().and_then(|page| page[list].as_array().cloned()).unwrap_or_default();
            ids.extend(events.iter().rev().filter_map(|event| Some(event["id"].as_str()?.to_owned())));
        }
        ids
    };
    let mut told: HashSet<String> = ended().into_iter().collect();
    while !stop.load(Ordering::Relaxed) {
        let now = ended();
        for id in &now {
            if !told.contains(id)
                && let Ok(event) = server.get(&format!("/events/{id}")).and_then(|answer| answer.json())
            {
                announce(line(&event));
            }
        }
        // What left the page will not come back.
        told = now.into_iter().collect();
        std::thread::sleep(LOOK_EVERY);
    }
}

/// How an event ended, in one line.
fn line(event: &Value) -> String {
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
    fn an_end_is_told_in_one_line() {
        let attempts = json!([{"durationMs": 3.0}, {"durationMs": 1.26}]);
        let event = json!({"id": "1", "type": "a", "state": "processed", "result": {"n": 1}, "attempts": attempts});
        assert_eq!(line(&event), "processed a 1 in 1.3 ms, 2 attempts  {\"n\":1}");
        let event = json!({"id": "1", "type": "a", "state": "failed", "class": "reject", "reason": "no\nmore"});
        assert_eq!(line(&event), "failed    a 1 in 0.0 ms  reject: no");
    }

    #[test]
    fn only_what_a_person_writes_counts_as_new() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("app.py"), "").unwrap();
        let before = newest(folder.path());
        assert!(before.is_some());
        for made in ["dist", "target", ".venv", "wit"] {
            fs::create_dir(folder.path().join(made)).unwrap();
            fs::write(folder.path().join(made).join("new"), "").unwrap();
        }
        assert_eq!(newest(folder.path()), before);
    }

    #[test]
    fn what_no_project_has_any_more_is_removed_with_its_settings() {
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
            ProjectBuilder { folder: folder.path().to_owned(), plugins: plugins.clone(), ..ProjectBuilder::default() };
        let mut look = || {
            builder.sweep(&builder.projects());
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
