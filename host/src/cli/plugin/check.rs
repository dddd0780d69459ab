//! `eventstream plugin check`: shows what a file is and imports, or what is wrong with it.

use std::path::PathBuf;

use eventstream::app::PluginInspector;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::cli::inspect::{
    describe_plugin, describe_refusal, load_settings, note_unused_settings, refusal_exit, with_inspector,
};
use crate::cli::output::{CommandResult, ExitReason, print_json, print_lines, report_error};
use crate::cli::settings;

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream plugin check my-plugin.wasm
  eventstream plugin check plugins/*.wasm --json
  eventstream plugin check order.paid.wasm --settings order.paid.toml

The check starts the component once, within limits, to ask for its description. It hands no event to it and grants it
nothing. It does not read a NAME.toml beside the file or an eventstream.toml: they may come from the same source as the
file. Name a settings file with --settings to use it; what it grants is printed first.

Exit codes: 0 every file is a plugin, 1 failed, 2 usage or configuration, 4 a file is not a plugin";

/// The arguments of `plugin check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The components
    #[arg(value_name = "FILE", required = true, value_parser = settings::path_parser())]
    files: Vec<PathBuf>,
    /// The settings file of the component, if FILE is one file only [default: none, even if NAME.toml is beside the file]
    #[arg(long, value_name = "NAME.toml", value_parser = settings::path_parser())]
    settings: Option<PathBuf>,
    /// Print one line of JSON for each file
    #[arg(long)]
    json: bool,
}

/// Checks the files.
pub(super) fn run(args: &CheckArgs) -> CommandResult {
    with_inspector(settings::load_without_file(), |inspector, runtime| check(args, &inspector, &runtime))
}

fn check(args: &CheckArgs, inspector: &PluginInspector, runtime: &Runtime) -> CommandResult {
    if args.settings.is_some() && args.files.len() > 1 {
        report_error("--settings belongs to one plugin: check its file alone");
        return Err(ExitReason::Usage);
    }
    let settings = load_settings(args.settings.as_deref(), inspector, runtime)?;
    let mut exit = ExitReason::Done;
    for file in &args.files {
        if settings.is_none() {
            note_unused_settings(file);
        }
        match runtime.block_on(inspector.load(file, settings.as_ref(), None)) {
            Ok(plugin) if args.json => {
                print_json(json!({ "file": file.to_string_lossy(), "ok": true, "plugin": plugin.facts() }))?;
            }
            Ok(plugin) => print_lines(describe_plugin(file, &plugin.facts()))?,
            Err(refusal) => {
                if args.json {
                    let file = file.to_string_lossy();
                    print_json(
                        json!({ "file": file, "ok": false, "error": refusal.error, "misfits": refusal.misfits }),
                    )?;
                } else {
                    print_lines(describe_refusal(file, &refusal))?;
                }
                // A file that is not a plugin outranks one that cannot be read.
                exit = exit.max(refusal_exit(&refusal));
            }
        }
    }
    Ok(exit)
}
