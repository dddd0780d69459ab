//! `eventstream plugin`: what a file is, and what it does with events. The plugins of a server are seen to in [`served`],
//! projects are made, built and tested in [`super::project`].

mod served;

use std::fmt::Write as _;
use std::io::stdin;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use eventstream::app::{InspectError, PluginFacts, PluginInspector, PluginSettings};
use eventstream::config::Config;
use eventstream::printable::Printable;
use serde_json::json;
use tokio::runtime::Runtime;

use super::client::{AnswerReading, ClientError};
use super::lines::{InputLine, next_line};
use super::{ExitReason, complain, complain_lines, note_lines, project, say_json, say_lines, settings, thousands};

const CHECK_EXAMPLES: &str = "\
Examples:
  eventstream plugin check my-plugin.wasm
  eventstream plugin check plugins/*.wasm --json
  eventstream plugin check order.paid.wasm --settings order.paid.toml

To look at a file grants it nothing: a NAME.toml beside it and an eventstream.toml may have come with it, and are not read.
With --settings it has what that file gives, which is shown first.

Exit codes: 0 every file is a plugin, 1 failed, 2 usage or configuration, 4 a file is not a plugin";

const RUN_EXAMPLES: &str = "\
Examples:
  eventstream plugin run my-plugin.wasm < events.ndjson > outcomes.ndjson
  echo '{\"type\":\"order.paid\",\"payload\":{}}' | eventstream plugin run my-plugin.wasm --attempt 2

One event a line, as POST /events takes them; each is handed to the plugin, whatever its type. One line for each tells what
came of it, with the effects that a server would commit. What was published goes nowhere. A line may be as long as the body
of a request (server.max_body_bytes).

The component is granted nothing: a NAME.toml beside it and an eventstream.toml may have come with it, and are not read. With
--settings it has what that file gives, which is shown first.

Exit codes: 0 every line was handled, whatever came of it, 1 a line was invalid or an outcome not written, 2 usage or configuration, 4 not a plugin";

/// What to do with plugins.
#[derive(Debug, clap::Subcommand)]
pub(super) enum PluginCommand {
    /// Make a project for a plugin in Rust, JavaScript or Python
    #[command(after_help = project::NEW_EXAMPLES)]
    New(project::NewArgs),
    /// Build the component of a project
    #[command(after_help = project::BUILD_EXAMPLES)]
    Build(project::BuildArgs),
    /// Hand a project's component the events in its tests
    #[command(after_help = project::TEST_EXAMPLES)]
    Test(project::TestArgs),
    /// Say what a component is, or everything that is wrong with it
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Hand events to a component, without a server
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// List the plugins of a server
    #[command(after_help = served::LIST_EXAMPLES)]
    List(served::ListArgs),
    /// Bring back the version of a plugin that served before
    #[command(after_help = served::ROLLBACK_EXAMPLES)]
    Rollback(served::RollbackArgs),
    /// Let a build serve that is held because it takes types from another plugin or imports more than before
    #[command(after_help = served::APPROVE_EXAMPLES)]
    Approve(served::ApproveArgs),
    /// Remove a plugin from a server
    #[command(after_help = served::REMOVE_EXAMPLES)]
    Remove(served::RemoveArgs),
}

/// The arguments of `plugin check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The components
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The settings of the one component [default: none, also if there is a NAME.toml beside it]
    #[arg(long, value_name = "NAME.toml")]
    settings: Option<PathBuf>,
    /// Print one line of JSON for each file
    #[arg(long)]
    json: bool,
}

/// The arguments of `plugin run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Its settings [default: none, also if there is a NAME.toml beside it]
    #[arg(long, value_name = "NAME.toml", alias = "config")]
    settings: Option<PathBuf>,
    /// Which attempt at each event this is
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: u32,
}

/// What can be a plugin's name; nothing else is put into an address.
pub(super) fn name(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fits);
    if is_name {
        Ok(text.to_owned())
    } else {
        Err("a plugin's name is letters, digits and ._-; plugin list shows them")
    }
}

/// Does what was asked for.
pub(super) fn run(command: &PluginCommand) -> ExitReason {
    match command {
        PluginCommand::New(args) => project::new(args),
        PluginCommand::Build(args) => project::build(args),
        PluginCommand::Test(args) => project::test(args),
        PluginCommand::Check(args) => on_bench(settings::load_without_file(), |bench, runtime| {
            check(args, &bench, &runtime).unwrap_or_else(|exit| exit)
        }),
        PluginCommand::Run(args) => on_bench(settings::load_without_file(), |bench, runtime| {
            handle(args, &bench, &runtime).unwrap_or_else(|exit| exit)
        }),
        PluginCommand::List(args) => told(served::list(args)),
        PluginCommand::Rollback(args) => told(served::rollback(args)),
        PluginCommand::Approve(args) => told(served::approve(args)),
        PluginCommand::Remove(args) => told(served::remove(args)),
    }
}

fn told(answer: Result<AnswerReading, ClientError>) -> ExitReason {
    match answer {
        Ok(answered) => ExitReason::Done.unless_unwritten(answered.say()),
        Err(failure) => failure.told(),
    }
}

/// Does something with a sandbox.
pub(super) fn on_bench(
    config: Result<Config, ExitReason>,
    work: impl FnOnce(PluginInspector, Runtime) -> ExitReason,
) -> ExitReason {
    let (config, runtime) = match config.and_then(|config| Ok((config, settings::runtime()?))) {
        Ok(both) => both,
        Err(exit) => return exit,
    };
    match PluginInspector::open(&config) {
        Ok(bench) => work(bench, runtime),
        Err(error) => {
            complain(&error);
            ExitReason::of(&error)
        }
    }
}

/// The settings in a file that was named, after what they give has been shown. What is wrong has been said.
pub(super) fn given(
    file: Option<&Path>,
    bench: &PluginInspector,
    runtime: &Runtime,
) -> Result<Option<PluginSettings>, ExitReason> {
    let Some(file) = file else { return Ok(None) };
    let settings = runtime.block_on(bench.read_settings(file)).map_err(|no| {
        complain_lines(faults(file, &no));
        refused(&no)
    })?;
    let summary = settings.summary();
    if !summary.is_empty() {
        let mut text = format!("{} gives the plugin:", Printable(file.display()));
        for (what, value) in summary {
            // Writing into a text does not fail.
            let _ = write!(text, "\n  {what:<8} {}", Printable(value));
        }
        note_lines(text);
    }
    Ok(Some(settings))
}

/// Says that settings which lie beside a file are not used.
fn tell_of_unused(file: &Path) {
    let beside = file.with_extension("toml");
    if beside.is_file() {
        super::note(format_args!("{} is not used; --settings names it", beside.display()));
    }
}

fn check(args: &CheckArgs, bench: &PluginInspector, runtime: &Runtime) -> Result<ExitReason, ExitReason> {
    if args.settings.is_some() && args.files.len() > 1 {
        complain("--settings are those of one plugin: check its file alone");
        return Err(ExitReason::Usage);
    }
    let settings = given(args.settings.as_deref(), bench, runtime)?;
    let mut exit = ExitReason::Done;
    for file in &args.files {
        if settings.is_none() {
            tell_of_unused(file);
        }
        match runtime.block_on(bench.load(file, settings.as_ref())) {
            Ok(plugin) if args.json => {
                say_json(json!({ "file": file.to_string_lossy(), "ok": true, "plugin": plugin.facts() }))?;
            }
            Ok(plugin) => say_lines(facts(file, &plugin.facts()))?,
            Err(no) => {
                if args.json {
                    let file = file.to_string_lossy();
                    say_json(json!({ "file": file, "ok": false, "error": no.error, "misfits": no.misfits }))?;
                } else {
                    say_lines(faults(file, &no))?;
                }
                exit = worse(exit, refused(&no));
            }
        }
    }
    Ok(exit)
}

/// That a file is no plugin goes before that another one cannot be read.
fn worse(one: ExitReason, other: ExitReason) -> ExitReason {
    if one as u8 > other as u8 { one } else { other }
}

/// How a command ends that was given a file that is no plugin.
pub(super) fn refused(no: &InspectError) -> ExitReason {
    if no.is_usage { ExitReason::Usage } else { ExitReason::Invalid }
}

/// What a file is, for a person. Each value stays on its line.
pub(super) fn facts(file: &Path, facts: &PluginFacts) -> String {
    let version = Printable(facts.version.as_deref().unwrap_or("without a version"));
    let name = Printable(&facts.name);
    let mut text = format!("{}: a plugin\n  name     {name} {version}\n", Printable(file.display()));
    let imports = if facts.imports.is_empty() { "nothing".to_owned() } else { facts.imports.join(", ") };
    let memory = format!(
        "starts with {} bytes, may have {}",
        thousands(facts.initial_memory_bytes),
        thousands(facts.memory_limit_bytes)
    );
    let size = format!("{} bytes", thousands(facts.size_bytes));
    for (name, value) in [
        ("does", facts.description.as_deref().unwrap_or_default()),
        ("called", &facts.dialect),
        ("types", &facts.types.join(", ")),
        ("size", &size),
        ("memory", &memory),
        ("digest", &facts.digest),
        ("imports", &imports),
    ] {
        if !value.is_empty() {
            // Writing into a text does not fail.
            let _ = writeln!(text, "  {name:<8} {}", Printable(value));
        }
    }
    text.trim_end().to_owned()
}

/// Everything that is wrong with a file, for a person. Each fault stays on its line.
pub(super) fn faults(file: &Path, no: &InspectError) -> String {
    let mut text = format!("{}: ", Printable(file.display()));
    match no.misfits.as_slice() {
        [_] | [] => {
            let _ = write!(text, "{}", Printable(&no.error));
        }
        misfits => {
            text.push_str("does not fit this host:");
            for misfit in misfits {
                let _ = write!(text, "\n  {}", Printable(misfit));
            }
        }
    }
    text
}

fn handle(args: &RunArgs, bench: &PluginInspector, runtime: &Runtime) -> Result<ExitReason, ExitReason> {
    let settings = given(args.settings.as_deref(), bench, runtime)?;
    if settings.is_none() {
        tell_of_unused(&args.file);
    }
    let plugin = runtime.block_on(bench.load(&args.file, settings.as_ref())).map_err(|no| {
        complain_lines(faults(&args.file, &no));
        refused(&no)
    })?;
    let (mut input, max_bytes) = (stdin().lock(), bench.max_line_bytes());
    let mut exit = ExitReason::Done;
    for number in 1_u64.. {
        let line = next_line(&mut input, max_bytes).map_err(|error| {
            complain(format_args!("standard input cannot be read: {error}"));
            ExitReason::Failed
        })?;
        match line {
            None => break,
            Some(InputLine::Whole(line)) if line.trim_ascii().is_empty() => {}
            Some(InputLine::TooLong) => {
                complain(format_args!("line {number}: more than {max_bytes} bytes (server.max_body_bytes)"));
                exit = ExitReason::Failed;
            }
            Some(InputLine::Whole(line)) => match runtime.block_on(plugin.handle(Bytes::from(line), args.attempt)) {
                Ok(outcome) => say_json(outcome)?,
                Err(faults) => {
                    exit = ExitReason::Failed;
                    for fault in faults {
                        let place =
                            if fault.pointer.is_empty() { String::new() } else { format!(" {}:", fault.pointer) };
                        complain(format_args!("line {number}:{place} {}", fault.message));
                    }
                }
            },
        }
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_plugin_goes_before_one_that_cannot_be_read() {
        assert_eq!(worse(ExitReason::Invalid, ExitReason::Usage), ExitReason::Invalid);
        assert_eq!(worse(ExitReason::Done, ExitReason::Usage), ExitReason::Usage);
    }
}
