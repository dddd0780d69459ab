//! `eventstream plugin build`: has the language's own tools make a component, and says whether a server will take it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::plugin::{facts, faults, given, on_bench, refused};
use super::super::{ExitReason, complain, complain_lines, note, say_lines, settings};
use super::{Language, Project};

pub(in super::super) const BUILD_EXAMPLES: &str = "\
Examples:
  eventstream plugin build
  eventstream plugin build ./order-paid

Leaves DIR/dist/NAME.wasm, and checks it with the settings in DIR/NAME.toml, if there are some. Built by cargo, by componentize-qjs in node_modules, or by componentize-py in .venv or PATH.

Exit codes: 0 built, 1 the build failed or a tool is missing, 2 no project, 4 what was built is not a plugin";

const TARGET: &str = "wasm32-wasip2";

/// The arguments of `plugin build`.
#[derive(Debug, clap::Args)]
pub(in super::super) struct BuildArgs {
    /// The project
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// Builds and checks.
pub(in super::super) fn run(args: &BuildArgs) -> ExitReason {
    let project = match Project::in_folder(&args.dir) {
        Ok(project) => project,
        Err(words) => {
            complain(words);
            return ExitReason::Usage;
        }
    };
    if let Err(words) = make(&project) {
        complain(words);
        return ExitReason::Failed;
    }
    let component = project.component();
    on_bench(settings::load(None, Vec::new()), |bench, runtime| {
        let settings = match given(project.settings().as_deref(), &bench, &runtime) {
            Ok(settings) => settings,
            Err(exit) => return exit,
        };
        match runtime.block_on(bench.load(&component, settings.as_ref())) {
            Ok(plugin) => ExitReason::Done.unless_unwritten(say_lines(facts(&component, &plugin.facts()))),
            Err(no) => {
                complain_lines(faults(&component, &no));
                refused(&no)
            }
        }
    })
}

/// Makes the component.
///
/// # Errors
/// What failed or is missing, and what to do about it.
pub(in super::super) fn make(project: &Project) -> Result<(), String> {
    let component = project.component();
    let told = |error: std::io::Error| format!("{} cannot be written: {error}", component.display());
    if let Some(folder) = component.parent() {
        fs::create_dir_all(folder).map_err(told)?;
    }
    // The tools run inside of the project.
    let inside = Path::new("dist").join(component.file_name().unwrap_or_default());
    match project.language {
        Language::Rust => {
            require_target(project)?;
            let mut cargo = Command::new("cargo");
            cargo.args(["build", "--release", "--target", TARGET, "--target-dir", "target"]);
            run_tool(project, cargo, "install Rust from https://rustup.rs")?;
            let built = project.folder.join("target").join(TARGET).join("release").join(artifact(project)?);
            fs::copy(&built, &component)
                .map(drop)
                .map_err(|error| format!("{} is not there after the build: {error}", built.display()))
        }
        Language::Js => {
            let tool = tool(project, "node_modules/.bin/componentize-qjs")?;
            let mut command = Command::new(tool);
            let world = ["--wit", "wit", "--world", "plugin", "--js", "handler.js"];
            // WASI is not stubbed: what a handler throws would be lost, and random numbers would be the same each time.
            command.args(world).args(["--sync", "--minify", "--output"]).arg(&inside);
            run_tool(project, command, Language::Js.install())
        }
        Language::Python => {
            let tool = tool(project, ".venv/bin/componentize-py").or_else(|words| {
                let is_there = Command::new("componentize-py").arg("--version").output().is_ok();
                if is_there { Ok(PathBuf::from("componentize-py")) } else { Err(words) }
            })?;
            let mut command = Command::new(tool);
            command.args(["--quiet", "--wit-path", "wit", "--world", "plugin", "componentize", "app"]);
            command.arg("--output").arg(&inside);
            run_tool(project, command, Language::Python.install())
        }
    }
}

/// A tool that is installed into the project.
fn tool(project: &Project, path: &str) -> Result<PathBuf, String> {
    let found = fs::canonicalize(&project.folder).map(|folder| folder.join(path)).ok().filter(|tool| tool.exists());
    let name = path.rsplit('/').next().unwrap_or(path);
    let install = project.language.install();
    found.ok_or_else(|| format!("{name} is not installed: in {}, run `{install}`", project.folder.display()))
}

fn require_target(project: &Project) -> Result<(), String> {
    let asked = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(&project.folder)
        .output()
        .map_err(|error| format!("rustc cannot be started ({error}): install Rust from https://rustup.rs"))?;
    let folder = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    if Path::new(&folder).is_dir() {
        return Ok(());
    }
    Err(format!("the Rust target {TARGET} is not installed: run `{}`", Language::Rust.install()))
}

/// The file that cargo makes: that of the library, or of the package if the library has no name of its own.
fn artifact(project: &Project) -> Result<String, String> {
    let file = project.folder.join("Cargo.toml");
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let name = super::named(&text, "lib").or_else(|| super::named(&text, "package"));
    let name = name.unwrap_or_else(|| project.name.clone());
    Ok(format!("{}.wasm", name.replace('-', "_")))
}

fn run_tool(project: &Project, mut command: Command, remedy: &str) -> Result<(), String> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    note(format!("+ {name} {}", command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")));
    // What builds a plugin has no use for what a server is told, which may be a password.
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("EVENTSTREAM_")) {
        command.env_remove(variable);
    }
    // What the tool says is about the work, not the answer: that is standard output's.
    command.current_dir(&project.folder).stdout(std::io::stderr());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} failed ({status})")),
        Err(error) => Err(format!("{name} cannot be started ({error}): {remedy}")),
    }
}
