//! `eventstream export`: writes the events, keys and plugin state of a broker as lines of JSON.
//!
//! A file gets its name only when it is complete. If the export goes to standard output, the summary goes to standard error.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use eventstream::app::{self, ExportNotice, TransferCounts};
use serde_json::json;

use super::partial_file::PartialFile;
use super::{STANDARD_STREAM, summarize};
use crate::cli::output::{CommandResult, ExitReason, print_line, print_note, report_error};
use crate::cli::progress::{ProgressUnit, TransferProgress};
use crate::cli::settings::{BrokerArgs, path_parser};

pub(crate) const EXAMPLES: &str = "\
Examples:
  eventstream export --out events.ndjson
  eventstream export --broker redis://127.0.0.1:6379 | gzip > events.ndjson.gz
  eventstream export | eventstream import --broker redis://127.0.0.1:6379 -

An export contains the events that have not ended, with their schedules and attempts, the failed events, the idempotency keys
and the state of plugins; not the processed events or the totals. The broker is not changed.

Stop all servers of the broker first, and start them on the other broker after the import. Events that a server accepts or
ends while a Redis broker is exported may be missing in the export, or be in it twice (an import recognizes them). An
embedded store is exported as it is at the start.
Exit codes: 0 done, 1 failed, or an entry could not be read, 2 usage, 3 broker unreachable";

/// The arguments of `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    store: BrokerArgs,
    /// The file to write, or - for standard output
    #[arg(long, value_name = "FILE|-", default_value = "-", value_parser = path_parser())]
    out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Exports the store.
pub(crate) fn run(args: &Args) -> CommandResult {
    let (config, runtime, _log) = args.store.open()?;
    let report_unwritable = |error| report_error(format!("{} cannot be written: {error}", args.out.display()));
    let mut out = ExportTarget::create(&args.out).map_err(|error| {
        report_unwritable(error);
        ExitReason::Usage
    })?;
    let mut moved = TransferCounts::default();
    let bar = TransferProgress::new("exporting");
    let mut report = |notice: ExportNotice<'_>, expected| match notice {
        ExportNotice::Written(moved) if moved.events + moved.failed == 0 => {
            bar.show(ProgressUnit::Keys, moved.keys, None)
        }
        ExportNotice::Written(moved) => bar.show(ProgressUnit::Events, moved.events + moved.failed, Some(expected)),
        ExportNotice::LeftOut(reason) => {
            bar.suspend(|| report_error(format!("left out an entry that cannot be read: {reason}")))
        }
    };
    let exported = runtime.block_on(app::export(&config, out.writer(), &mut moved, &mut report));
    drop(bar);
    if let Err(error) = exported {
        out.abandon();
        return Err(ExitReason::report(&error));
    }
    out.finish().map_err(|error| {
        report_unwritable(error);
        ExitReason::Failed
    })?;
    let summary = if args.json { to_json(&moved) } else { summarize("exported", &moved) };
    let printed = if args.out == Path::new(STANDARD_STREAM) {
        print_note(summary);
        Ok(())
    } else {
        print_line(summary)
    };
    if moved.unreadable > 0 {
        report_error("the entries that could not be read stay in the broker");
        return Err(ExitReason::Failed);
    }
    printed.map(|()| ExitReason::Done)
}

fn to_json(moved: &TransferCounts) -> String {
    let TransferCounts { events, failed, keys, state, unreadable, .. } = moved;
    json!({ "events": events, "failed": failed, "keys": keys, "state": state, "unreadable": unreadable }).to_string()
}

/// The target of an export.
enum ExportTarget {
    /// Standard output, a pipe or a device, which receives the lines at once.
    Stream(BufWriter<Box<dyn Write>>),
    /// A file that gets its name when it is complete.
    File(PartialFile),
}

impl ExportTarget {
    fn create(path: &Path) -> io::Result<Self> {
        if path == Path::new(STANDARD_STREAM) {
            return Ok(Self::Stream(BufWriter::new(Box::new(io::stdout()))));
        }
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Ok(Self::Stream(BufWriter::new(Box::new(OpenOptions::new().write(true).open(path)?))));
        }
        Ok(Self::File(PartialFile::create(path)?))
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Stream(writer) => writer,
            Self::File(file) => file.writer(),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Stream(mut writer) => writer.flush(),
            Self::File(file) => file.finish(),
        }
    }

    /// Removes an incomplete file.
    fn abandon(self) {
        if let Self::File(file) = self {
            file.abandon();
        }
    }
}
