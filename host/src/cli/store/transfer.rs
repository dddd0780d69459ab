//! `eventstream export | import`: write the events, keys and plugin state of a broker as lines of JSON, and read them.
//!
//! An exported file gets its name only when it is complete. If the export goes to standard output, the summary goes to
//! standard error. An import can be stopped at any time and run again: items that the broker already has are recognized.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use eventstream::app::{self, ExportNotice, TransferCounts};
use eventstream::regular_file;
use serde_json::json;

use super::partial_file::PartialFile;
use crate::cli::output::{
    CommandResult, ExitReason, format_thousands, print_line, print_note, report_as, report_error,
};
use crate::cli::progress::{ProgressUnit, TransferProgress};
use crate::cli::settings::{BrokerArgs, path_parser};

pub(crate) const EXPORT_EXAMPLES: &str = "\
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

pub(crate) const IMPORT_EXAMPLES: &str = "\
Examples:
  eventstream import events.ndjson --broker redis://127.0.0.1:6379
  gunzip < events.ndjson.gz | eventstream import -

An event that the broker already has is recognized by its id and left as it is, in whatever state. So run an interrupted import
again; a second import adds nothing, as long as the broker still keeps the events that have ended (retention.processed).
Import before you start a server. Without the idempotency keys, it would accept repeated requests again. No server may use an embedded
store during the import.
Exit codes: 0 done, 1 failed, or the export was cut short, 2 usage, 3 broker unreachable";

/// The name that stands for standard input or standard output in place of a file.
const STANDARD_STREAM: &str = "-";
/// How many bytes are read at a time.
const READ_BYTES: usize = 256 * 1024;

/// The arguments of `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    store: BrokerArgs,
    /// The file to write, or - for standard output
    #[arg(long, value_name = "FILE|-", default_value = "-", value_parser = path_parser())]
    out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of `import`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// The file that `eventstream export` wrote, a pipe that has its content, or - for standard input
    #[arg(value_name = "FILE|-", value_parser = path_parser())]
    file: PathBuf,
    #[command(flatten)]
    store: BrokerArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Exports the store.
pub(crate) fn export(args: &ExportArgs) -> CommandResult {
    let (config, runtime, _log) = args.store.open()?;
    let unwritable =
        |exit, error: io::Error| report_as(exit, format_args!("{} cannot be written: {error}", args.out.display()));
    let mut out = ExportTarget::create(&args.out).map_err(|error| unwritable(ExitReason::Usage, error))?;
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
    out.finish().map_err(|error| unwritable(ExitReason::Failed, error))?;
    let summary = if args.json { export_json(&moved) } else { summarize("exported", &moved) };
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

/// Imports the export.
pub(crate) fn import(args: &ImportArgs) -> CommandResult {
    let (config, runtime, _log) = args.store.open()?;
    let (mut input, size_bytes) = open_export(&args.file).map_err(|error| {
        report_as(ExitReason::Usage, format_args!("{} cannot be read: {error}", args.file.display()))
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
    print_line(if args.json { import_json(&moved) } else { summarize("imported", &moved) })?;
    Ok(ExitReason::Done)
}

/// Opens the export, and returns its size in bytes if that is known.
fn open_export(path: &Path) -> io::Result<(Box<dyn BufRead>, Option<u64>)> {
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

/// Summarizes an export or an import; `verb` is what was done.
fn summarize(verb: &str, moved: &TransferCounts) -> String {
    let TransferCounts { events, failed, keys, state, known, expired, unreadable } = *moved;
    let [events, failed, keys] = [events, failed, keys].map(format_thousands);
    let mut summary = format!("{verb} {events} events, {failed} failed, {keys} keys");
    for (count, before, what) in [
        (state, ", ", "state keys"),
        (known, "; ", "existed already"),
        (expired, "; ", "keys had expired"),
        (unreadable, "; ", "could not be read"),
    ] {
        if count > 0 {
            summary.push_str(&format!("{before}{} {what}", format_thousands(count)));
        }
    }
    summary
}

fn export_json(moved: &TransferCounts) -> String {
    let TransferCounts { events, failed, keys, state, unreadable, .. } = moved;
    json!({ "events": events, "failed": failed, "keys": keys, "state": state, "unreadable": unreadable }).to_string()
}

fn import_json(moved: &TransferCounts) -> String {
    let TransferCounts { events, failed, keys, state, known, expired, .. } = moved;
    json!({ "events": events, "failed": failed, "keys": keys, "state": state, "known": known, "expired": expired })
        .to_string()
}

/// The target of an export.
enum ExportTarget {
    /// Standard output or a named pipe, which receives the lines at once.
    Stream(BufWriter<Box<dyn Write>>),
    /// A file that gets its name when it is complete.
    File(PartialFile),
}

impl ExportTarget {
    fn create(path: &Path) -> io::Result<Self> {
        if path == Path::new(STANDARD_STREAM) {
            return Ok(Self::Stream(BufWriter::new(Box::new(io::stdout()))));
        }
        // A device would take everything and keep nothing.
        let found = path.metadata().map(|found| found.file_type()).ok().filter(|found| !found.is_file());
        if let Some(found) = found {
            if !found.is_fifo() {
                regular_file::require_regular(found)
                    .map_err(|error| io::Error::other(format!("{error}; name a file, or - for standard output")))?;
            }
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
