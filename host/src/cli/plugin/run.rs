//! `eventstream plugin run`: runs a plugin on events from standard input, without a server.

use std::io::stdin;
use std::path::PathBuf;

use bytes::Bytes;
use eventstream::app::PluginInspector;
use tokio::runtime::Runtime;

use super::input_lines::{InputLine, next_line};
use crate::cli::exit::ExitReason;
use crate::cli::inspect::{describe_refusal, load_settings, note_unused_settings, refusal_exit, with_inspector};
use crate::cli::output::{print_json, report_error, report_error_lines};
use crate::cli::settings;

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream plugin run my-plugin.wasm < events.ndjson > outcomes.ndjson
  echo '{\"type\":\"order.paid\",\"payload\":{}}' | eventstream plugin run my-plugin.wasm --attempt 2

Each line is one event, as for POST /events. The plugin handles it, whatever its type. One line of output for each event shows
the outcome, with the effects that a server would commit. Published events are not delivered. A line may be as long as the
body of a request (server.max_body_bytes).

The component is granted nothing. A NAME.toml beside the file and an eventstream.toml are not read: they may come from the same
source as the file. Name a settings file with --settings to use it; what it grants is printed first.

Exit codes: 0 every line was handled, whatever its outcome, 1 a line was invalid or an outcome could not be written,
2 usage or configuration, 4 not a plugin";

/// The arguments of `plugin run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The settings file of the component [default: none, even if NAME.toml is beside the file]
    #[arg(long, value_name = "NAME.toml", alias = "config")]
    settings: Option<PathBuf>,
    /// The number of the attempt that the component sees, from 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: u32,
}

/// Runs the plugin on each line of standard input.
pub(super) fn run(args: &RunArgs) -> ExitReason {
    with_inspector(settings::load_without_file(), |inspector, runtime| {
        handle_lines(args, &inspector, &runtime).unwrap_or_else(|exit| exit)
    })
}

fn handle_lines(args: &RunArgs, inspector: &PluginInspector, runtime: &Runtime) -> Result<ExitReason, ExitReason> {
    let settings = load_settings(args.settings.as_deref(), inspector, runtime)?;
    if settings.is_none() {
        note_unused_settings(&args.file);
    }
    let plugin = runtime.block_on(inspector.load(&args.file, settings.as_ref())).map_err(|refusal| {
        report_error_lines(describe_refusal(&args.file, &refusal));
        refusal_exit(&refusal)
    })?;
    let (mut input, max_bytes) = (stdin().lock(), inspector.max_line_bytes());
    let mut exit = ExitReason::Done;
    for number in 1_u64.. {
        let line = next_line(&mut input, max_bytes).map_err(|error| {
            report_error(format_args!("standard input cannot be read: {error}"));
            ExitReason::Failed
        })?;
        match line {
            None => break,
            Some(InputLine::Whole(line)) if line.trim_ascii().is_empty() => {}
            Some(InputLine::TooLong) => {
                report_error(format_args!(
                    "line {number}: more than {max_bytes} bytes (server.max_body_bytes); shorten it or raise the limit"
                ));
                exit = ExitReason::Failed;
            }
            Some(InputLine::Whole(line)) => match runtime.block_on(plugin.handle(Bytes::from(line), args.attempt)) {
                Ok(outcome) => print_json(outcome)?,
                Err(faults) => {
                    exit = ExitReason::Failed;
                    for fault in faults {
                        let place =
                            if fault.pointer.is_empty() { String::new() } else { format!(" {}:", fault.pointer) };
                        report_error(format_args!("line {number}:{place} {}", fault.message));
                    }
                }
            },
        }
    }
    Ok(exit)
}
