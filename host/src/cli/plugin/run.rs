//! `eventstream plugin run`: runs a plugin on events from standard input, without a server.

use std::io::{self, BufRead, stdin};
use std::path::PathBuf;

use bytes::Bytes;
use eventstream::app::PluginInspector;
use tokio::runtime::Runtime;

use crate::cli::inspect::{load_settings, note_unused_settings, report_refusal, with_inspector};
use crate::cli::output::{CommandResult, ExitReason, print_json, report_error};
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
    #[arg(value_name = "FILE", value_parser = settings::path_parser())]
    file: PathBuf,
    /// The settings file of the component [default: none, even if NAME.toml is beside the file]
    #[arg(long, value_name = "NAME.toml", alias = "config", value_parser = settings::path_parser())]
    settings: Option<PathBuf>,
    /// The number of the attempt that the component sees, from 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: u32,
}

/// Runs the plugin on each line of standard input.
pub(super) fn run(args: &RunArgs) -> CommandResult {
    with_inspector(settings::load_without_file(), |inspector, runtime| handle_lines(args, &inspector, &runtime))
}

fn handle_lines(args: &RunArgs, inspector: &PluginInspector, runtime: &Runtime) -> CommandResult {
    let settings = load_settings(args.settings.as_deref(), inspector, runtime)?;
    if settings.is_none() {
        note_unused_settings(&args.file);
    }
    let loaded = runtime.block_on(inspector.load(&args.file, settings.as_ref(), None));
    let plugin = loaded.map_err(|refusal| report_refusal(&args.file, &refusal))?;
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

/// A line without its line break.
#[derive(Debug, PartialEq, Eq)]
enum InputLine {
    /// The complete line.
    Whole(Vec<u8>),
    /// The line was longer than allowed. It was dropped.
    TooLong,
}

/// Reads the next line; `None` at the end of the stream. An endless line takes bounded memory: one of more
/// than `max_bytes` is dropped.
///
/// # Errors
/// The stream cannot be read.
fn next_line(input: &mut impl BufRead, max_bytes: usize) -> io::Result<Option<InputLine>> {
    let (mut line, mut is_begun, mut is_too_long) = (Vec::new(), false, false);
    loop {
        let read = match input.fill_buf() {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        is_begun |= !read.is_empty();
        let end = read.iter().position(|byte| *byte == b'\n');
        let part = &read[..end.unwrap_or(read.len())];
        if line.len() + part.len() > max_bytes {
            is_too_long = true;
            line = Vec::new();
        } else if !is_too_long {
            line.extend_from_slice(part);
        }
        let is_ended = end.is_some() || read.is_empty();
        let used = end.map_or(read.len(), |end| end + 1);
        input.consume(used);
        if is_ended {
            let whole = if is_too_long { InputLine::TooLong } else { InputLine::Whole(line) };
            return Ok(is_begun.then_some(whole));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn read(text: &str, max_bytes: usize) -> Vec<InputLine> {
        // The buffer has three bytes, so that a line takes several reads.
        let mut input = BufReader::with_capacity(3, text.as_bytes());
        std::iter::from_fn(|| next_line(&mut input, max_bytes).unwrap()).collect()
    }

    #[test]
    fn lines_come_one_by_one_with_or_without_an_end() {
        let whole = |text: &str| InputLine::Whole(text.as_bytes().to_vec());
        assert_eq!(read("", 9), []);
        assert_eq!(read("\n", 9), [whole("")]);
        assert_eq!(read("one\n\ntwo and", 9), [whole("one"), whole(""), whole("two and")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_the_next_one_read() {
        let whole = |text: &str| InputLine::Whole(text.as_bytes().to_vec());
        assert_eq!(
            read("12345\n123456\n123456789\n1", 5),
            [whole("12345"), InputLine::TooLong, InputLine::TooLong, whole("1")]
        );
    }
}
