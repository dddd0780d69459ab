//! `eventstream import`: has a broker take over what an export holds.
//!
//! It may be stopped at any time and begun again: what is there already is recognized.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use eventstream::app::{self, TransferCounts};
use serde_json::json;

use super::progress::{ProgressUnit, TransferProgress};
use super::settings::BrokerArgs;
use super::{ExitReason, STANDARD, complain, say, thousands};

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream import events.ndjson --broker redis://127.0.0.1:6379
  gunzip < events.ndjson.gz | eventstream import -

What is there already is recognized by its id and left as it is, whatever became of it. So an import that was interrupted
is run again, and one that is run twice doubles nothing, for as long as the broker keeps the events that have ended
(retention.processed). Import before a server accepts new events: until then it does not know the idempotency keys. An
embedded store must not be served meanwhile.

Exit codes: 0 done, 1 failed, or the export was cut short, 2 usage, 3 broker unreachable";

/// The size of reads.
const READ_BYTES: usize = 256 * 1024;

/// The arguments of `import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file that export wrote, or - for standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    #[command(flatten)]
    store: BrokerArgs,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Imports.
pub(super) fn run(args: &Args) -> ExitReason {
    let (config, runtime, _log) = match args.store.open() {
        Ok(both) => both,
        Err(exit) => return exit,
    };
    let (mut input, size_bytes) = match open(&args.file) {
        Ok(opened) => opened,
        Err(error) => {
            complain(format!("{} cannot be read: {error}", args.file.display()));
            return ExitReason::Usage;
        }
    };
    let mut moved = TransferCounts::default();
    let bar = TransferProgress::new("importing");
    let mut show = |read_bytes| bar.show(ProgressUnit::Bytes, read_bytes, size_bytes);
    let imported = runtime.block_on(app::import(&config, &mut *input, &mut moved, &mut show));
    drop(bar);
    match imported {
        Ok(()) => ExitReason::Done.unless_unwritten(say(if args.json { json(&moved) } else { told(&moved) })),
        Err(error) => {
            complain(&error);
            if moved != TransferCounts::default() {
                complain(format!("until then: {}", told(&moved)));
            }
            ExitReason::of(&error)
        }
    }
}

/// What is read, and how large it is if that is known.
fn open(path: &Path) -> io::Result<(Box<dyn BufRead>, Option<u64>)> {
    if path == Path::new(STANDARD) {
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

fn told(moved: &TransferCounts) -> String {
    let [events, failed, keys] = [moved.events, moved.failed, moved.keys].map(thousands);
    let mut told = format!("imported {events} events, {failed} failed, {keys} keys");
    if moved.state > 0 {
        told.push_str(&format!(", {} keys of plugins' state", thousands(moved.state)));
    }
    if moved.known > 0 {
        told.push_str(&format!("; {} were there already", thousands(moved.known)));
    }
    if moved.expired > 0 {
        told.push_str(&format!("; {} keys had expired", thousands(moved.expired)));
    }
    told
}

fn json(moved: &TransferCounts) -> String {
    let TransferCounts { events, failed, keys, state, known, expired, .. } = moved;
    json!({ "events": events, "failed": failed, "keys": keys, "state": state, "known": known, "expired": expired })
        .to_string()
}
