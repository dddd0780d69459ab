//! `eventstream plugin build`: builds a component with the tools of its language, and checks it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use eventstream::regular_file;

use super::{Language, Project, parse_toml, table_name};
use crate::cli::inspect::{describe_plugin, load_settings, report_refusal, with_inspector};
use crate::cli::output::{CommandResult, ExitReason, print_lines, print_note, report_as};
use crate::cli::settings;

pub(crate) const BUILD_EXAMPLES: &str = "\
Examples:
  eventstream plugin build
  eventstream plugin build ./order-paid

Writes DIR/dist/NAME.wasm and checks it with the settings in DIR/NAME.toml, if that file exists. The build tool is cargo,
componentize-qjs in node_modules, or componentize-py in .venv or PATH.

Exit codes: 0 built, 1 the build failed or a tool is missing, 2 no project, 4 what was built is not a plugin";

const TARGET: &str = "wasm32-wasip2";

/// The arguments of `plugin build`.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    /// The folder of the project
    #[arg(value_name = "DIR", default_value = ".", value_parser = settings::path_parser())]
    dir: PathBuf,
}

/// Builds and checks the component.
pub(crate) fn run(args: &BuildArgs) -> CommandResult {
    let project = Project::in_folder(&args.dir).map_err(|message| report_as(ExitReason::Usage, message))?;
    build_component(&project).map_err(|message| report_as(ExitReason::Failed, message))?;
    let component = project.component();
    with_inspector(settings::load(None, Vec::new()), |inspector, runtime| {
        let settings = load_settings(project.settings().as_deref(), &inspector, &runtime)?;
        let loaded = runtime.block_on(inspector.load(&component, settings.as_ref(), None));
        let plugin = loaded.map_err(|refusal| report_refusal(&component, &refusal))?;
        print_lines(describe_plugin(&component, &plugin.facts()))?;
        Ok(ExitReason::Done)
    })
}

/// Builds the component.
///
/// # Errors
/// What failed or is missing, and what to do.
pub(crate) fn build_component(project: &Project) -> Result<(), String> {
    let component = project.component();
    let unwritable = |error: std::io::Error| format!("{} cannot be written: {error}", component.display());
    if let Some(folder) = component.parent() {
        fs::create_dir_all(folder).map_err(unwritable)?;
    }
    // The tools run in the folder of the project.
    let inside = Path::new("dist").join(component.file_name().unwrap_or_default());
    match project.language {
        Language::Rust => {
            require_target(project)?;
            let mut cargo = tool_command("cargo");
            cargo.args(["build", "--release", "--target", TARGET, "--target-dir", "target"]);
            run_tool(project, cargo, "install Rust from https://rustup.rs")?;
            let built = project.folder.join("target").join(TARGET).join("release").join(artifact_name(project)?);
            fs::copy(&built, &component)
                .map(drop)
                .map_err(|error| format!("{} is not there after the build: {error}", built.display()))
        }
        Language::Js => {
            let tool = find_tool(project, "node_modules/.bin/componentize-qjs")?;
            let mut command = tool_command(tool);
            let world = ["--wit", "wit", "--world", "plugin", "--js", "handler.js"];
            // WASI is not stubbed: a stub would drop what a handler throws, and repeat random numbers.
            command.args(world).args(["--sync", "--minify", "--output"]).arg(&inside);
            run_tool(project, command, Language::Js.install_command())
        }
        Language::Python => {
            let tool = find_tool(project, ".venv/bin/componentize-py").or_else(|message| {
                let is_there = tool_command("componentize-py").arg("--version").output().is_ok();
                if is_there { Ok(PathBuf::from("componentize-py")) } else { Err(message) }
            })?;
            let mut command = tool_command(tool);
            command.args(["--quiet", "--wit-path", "wit", "--world", "plugin", "componentize", "app"]);
            command.arg("--output").arg(&inside);
            run_tool(project, command, Language::Python.install_command())
        }
    }
}

/// A command of a build tool. It needs no settings of the server, and one of them may be a password.
fn tool_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("EVENTSTREAM_")) {
        command.env_remove(variable);
    }
    command
}

/// Finds a tool that is installed in the project.
fn find_tool(project: &Project, path: &str) -> Result<PathBuf, String> {
    let found = fs::canonicalize(&project.folder).map(|folder| folder.join(path)).ok().filter(|tool| tool.exists());
    let name = path.rsplit('/').next().unwrap_or(path);
    let install = project.language.install_command();
    found.ok_or_else(|| format!("{name} is not installed: in {}, run `{install}`", project.folder.display()))
}

fn require_target(project: &Project) -> Result<(), String> {
    let asked = tool_command("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(&project.folder)
        .output()
        .map_err(|error| format!("rustc cannot be started ({error}): install Rust from https://rustup.rs"))?;
    let folder = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    if Path::new(&folder).is_dir() {
        return Ok(());
    }
    Err(format!("the Rust target {TARGET} is not installed: run `{}`", Language::Rust.install_command()))
}

/// The name of the file that cargo writes: that of the library if it has a name, otherwise that of the package.
fn artifact_name(project: &Project) -> Result<String, String> {
    let file = project.folder.join("Cargo.toml");
    let text = regular_file::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let manifest = parse_toml(&text).map_err(|why| format!("cannot parse {}: {why}", file.display()))?;
    let name = table_name(&manifest, "lib").or_else(|| table_name(&manifest, "package"));
    let name = name.unwrap_or_else(|| project.name.clone());
    Ok(format!("{}.wasm", name.replace('-', "_")))
}

fn run_tool(project: &Project, mut command: Command, remedy: &str) -> Result<(), String> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    print_note(format!(
        "+ {name} {}",
        command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    ));
    // Standard output is for the answer, so the output of the tool goes to standard error.
    command.current_dir(&project.folder).stdout(std::io::stderr());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} failed ({status})")),
        Err(error) => Err(format!("{name} cannot be started ({error}): {remedy}")),
    }
}
