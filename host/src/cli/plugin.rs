//! `eventstream plugin`: what a file is, and what it does with events. The plugins of a server are seen to in [`served`],
//! projects are made, built and tested in [`super::project`].

mod served;

use std::fmt::Write as _;
use std::io::{BufRead, stdin};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use eventstream::app::{Facts, NoPlugin, Workbench};
use serde_json::json;

use super::client::Failure;
use super::{Exit, complain, project, say, settings, thousands};

const CHECK_EXAMPLES: &str = "\
Examples:
  eventstream plugin check my-plugin.wasm
  eventstream plugin check plugins/*.wasm --json

Exit codes: 0 every file is a plugin, 1 failed, 2 usage or configuration, 4 a file is not a plugin";

const RUN_EXAMPLES: &str = "\
Examples:
  eventstream plugin run my-plugin.wasm < events.ndjson > outcomes.ndjson
  echo '{\"type\":\"order.paid\",\"payload\":{}}' | eventstream plugin run my-plugin.wasm --attempt 2

One event a line, as POST /events takes them; each is handed to the plugin, whatever its type. One line for each tells what
came of it, with the effects that a server would commit. What was published goes nowhere.

Exit codes: 0 every line was handled, whatever came of it, 1 a line was invalid, 2 usage or configuration, 4 not a plugin";

/// The longest line that is read.
const MAX_LINE_BYTES: usize = 1024 * 1024;
/// What to do with plugins.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a project for a plugin in Rust, JavaScript or Python
    #[command(after_help = project::NEW_EXAMPLES)]
    New(project::New),
    /// Build the component of a project
    #[command(after_help = project::BUILD_EXAMPLES)]
    Build(project::Build),
    /// Hand a project's component the events in its tests
    #[command(after_help = project::TEST_EXAMPLES)]
    Test(project::Test),
    /// Say what a component is, or everything that is wrong with it
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Check),
    /// Hand events to a component, without a server
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// List the plugins of a server
    #[command(after_help = served::LIST_EXAMPLES)]
    List(served::List),
    /// Bring back the version of a plugin that served before
    #[command(after_help = served::ROLLBACK_EXAMPLES)]
    Rollback(served::Rollback),
    /// Let a build serve that is held because it takes types from another plugin or imports more than before
    #[command(after_help = served::APPROVE_EXAMPLES)]
    Approve(served::Approve),
    /// Remove a plugin from a server
    #[command(after_help = served::REMOVE_EXAMPLES)]
    Remove(served::Remove),
}

/// The arguments of `plugin check`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The components
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Print one line of JSON for each file
    #[arg(long)]
    json: bool,
}

/// The arguments of `plugin run`.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Its settings [default: NAME.toml beside the file, if there is one]
    #[arg(long, value_name = "NAME.toml")]
    config: Option<PathBuf>,
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
pub(super) fn run(command: &Command) -> Exit {
    match command {
        Command::New(args) => project::new(args),
        Command::Build(args) => project::build(args),
        Command::Test(args) => project::test(args),
        Command::Check(args) => on_bench(|bench, runtime| check(args, &bench, &runtime)),
        Command::Run(args) => on_bench(|bench, runtime| handle(args, &bench, &runtime)),
        Command::List(args) => told(served::list(args)),
        Command::Rollback(args) => told(served::rollback(args)),
        Command::Approve(args) => told(served::approve(args)),
        Command::Remove(args) => told(served::remove(args)),
    }
}

fn told(answer: Result<String, Failure>) -> Exit {
    match answer {
        Ok(text) => {
            say(text);
            Exit::Done
        }
        Err(failure) => {
            complain(&failure.message);
            failure.exit
        }
    }
}

/// Does something with a sandbox.
pub(super) fn on_bench(work: impl FnOnce(Workbench, tokio::runtime::Runtime) -> Exit) -> Exit {
    let opened = settings::load(None, Vec::new()).and_then(|config| Ok((config, settings::runtime()?)));
    let (config, runtime) = match opened {
        Ok(both) => both,
        Err(exit) => return exit,
    };
    match Workbench::open(&config) {
        Ok(bench) => work(bench, runtime),
        Err(error) => {
            complain(&error);
            Exit::of(&error)
        }
    }
}

fn check(args: &Check, bench: &Workbench, runtime: &tokio::runtime::Runtime) -> Exit {
    let mut exit = Exit::Done;
    for file in &args.files {
        match runtime.block_on(bench.load(file, None)) {
            Ok(plugin) if args.json => {
                say(json!({ "file": file, "ok": true, "plugin": plugin.facts() }));
            }
            Ok(plugin) => say(facts(file, &plugin.facts())),
            Err(no) => {
                if args.json {
                    say(json!({ "file": file, "ok": false, "error": no.error, "misfits": no.misfits }));
                } else {
                    say(faults(file, &no));
                }
                exit = worse(exit, refused(&no));
            }
        }
    }
    exit
}

/// That a file is no plugin goes before that another one cannot be read.
fn worse(one: Exit, other: Exit) -> Exit {
    if one as u8 > other as u8 { one } else { other }
}

/// How a command ends that was given a file that is no plugin.
pub(super) fn refused(no: &NoPlugin) -> Exit {
    if no.is_usage { Exit::Usage } else { Exit::Invalid }
}

/// What a file is, for a person.
pub(super) fn facts(file: &Path, facts: &Facts) -> String {
    let version = facts.version.as_deref().unwrap_or("without a version");
    let mut text = format!("{}: a plugin\n  name     {} {version}\n", file.display(), facts.name);
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
            let _ = writeln!(text, "  {name:<8} {value}");
        }
    }
    text.trim_end().to_owned()
}

/// Everything that is wrong with a file, for a person.
pub(super) fn faults(file: &Path, no: &NoPlugin) -> String {
    match no.misfits.as_slice() {
        [_] | [] => format!("{}: {}", file.display(), no.error),
        misfits => format!("{}: does not fit this host:\n  {}", file.display(), misfits.join("\n  ")),
    }
}

fn handle(args: &Run, bench: &Workbench, runtime: &tokio::runtime::Runtime) -> Exit {
    let plugin = match runtime.block_on(bench.load(&args.file, args.config.as_deref())) {
        Ok(plugin) => plugin,
        Err(no) => {
            complain(faults(&args.file, &no));
            return refused(&no);
        }
    };
    let mut exit = Exit::Done;
    for (index, line) in stdin().lock().split(b'\n').enumerate() {
        let number = index + 1;
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                complain(format!("standard input cannot be read: {error}"));
                return Exit::Failed;
            }
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        if line.len() > MAX_LINE_BYTES {
            complain(format!("line {number}: more than {MAX_LINE_BYTES} bytes"));
            exit = Exit::Failed;
            continue;
        }
        match runtime.block_on(plugin.handle(Bytes::from(line), args.attempt)) {
            Ok(outcome) => say(outcome),
            Err(faults) => {
                exit = Exit::Failed;
                for fault in faults {
                    let place = if fault.pointer.is_empty() { String::new() } else { format!(" {}:", fault.pointer) };
                    complain(format!("line {number}:{place} {}", fault.message));
                }
            }
        }
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_plugin_goes_before_one_that_cannot_be_read() {
        assert_eq!(worse(Exit::Invalid, Exit::Usage), Exit::Invalid);
        assert_eq!(worse(Exit::Done, Exit::Usage), Exit::Usage);
    }
}
