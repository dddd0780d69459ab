//! `eventstream import`: reads an export into a broker.
//!
//! It can be stopped at any time and run again: items that the broker already has are recognized.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use eventstream::app::{self, TransferCounts};
use serde_json::json;

use super::{STANDARD_STREAM, summarize};
use crate::cli::output::{CommandResult, ExitReason, print_line, report_error};
use crate::cli::progress::{ProgressUnit, TransferProgress};
use crate::cli::settings::{BrokerArgs, path_parser};

pub(crate) const EXAMPLES: &str = "\
Examples:
  eventstream import events.ndjson --broker redis://127.0.0.1:6379
  gunzip < events.ndjson.gz | eventstream import -

An event that the broker already has is recognized by its id and left as it is, in whatever state. So run an interrupted import
again; a second import adds nothing, as long as the broker still keeps the events that have ended (retention.processed).
Import before you start a server. Without the idempotency keys, it would accept repeated requests again. No server may use an embedded
store during the import.
Exit codes: 0 done, 1 failed, or the export was cut short, 2 usage, 3 broker unreachable";

/// How many bytes are read at a time.
const READ_BYTES: usize = 256 * 1024;

/// The arguments of `import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that `eventstream export` wrote, or - for standard input
    #[arg(value_name = "FILE|-", value_parser = path_parser())]
    file: PathBuf,
    #[command(flatten)]
    store: BrokerArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Imports the export.
pub(crate) fn run(args: &Args) -> CommandResult {
    let (config, runtime, _log) = args.store.open()?;
    let (mut input, size_bytes) = open(&args.file).map_err(|error| {
        report_error(format!("{} cannot be read: {error}", args.file.display()));
        ExitReason::Usage
    })?;
    let mut moved = TransferCounts::default();
    let bar = TransferProgress::new("importing");
    let mut show = |read_bytes| bar.show(ProgressUnit::Bytes, read_bytes, size_bytes);
    let imported = runtime.block_on(app::import(&config, &mut *input, &mut moved, &mut show));
    drop(bar);
    if let Err(error) = imported {
        let exit = ExitReason::report(&error);
        if moved != TransferCounts::default() {
            report_error(format!("before that: {}", summarize("imported", &moved)));
        }
        return Err(exit);
    }
    print_line(if args.json { to_json(&moved) } else { summarize("imported", &moved) })?;
    Ok(ExitReason::Done)
}

/// Opens the export, and returns its size in bytes if that is known.
fn open(path: &Path) -> io::Result<(Box<dyn BufRead>, Option<u64>)> {
    if path == Path::new(STANDARD_STREAM) {
        return Ok((Box::new(BufReader::with_capacity(READ_BYTES, io::stdin())), None));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let size_bytes = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(BufReader::with_capacity(READ_BYTES, file)), size_bytes))
}

fn to_json(moved: &TransferCounts) -> String {
    let TransferCounts { events, failed, keys, state, known, expired, .. } = moved;
    json!({ "events": events, "failed": failed, "keys": keys, "state": state, "known": known, "expired": expired })
        .to_string()
}
