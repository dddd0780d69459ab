//! `eventstream export`: writes everything that another broker can go on with, as lines of JSON.
//!
//! A file gets its name only when it is whole. What was asked for may be the data itself, on standard output; what is
//! said about it then goes to standard error.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use eventstream::app::{self, ExportNotice, TransferCounts};
use serde_json::json;

use super::partial_file::PartialFile;
use super::progress::{ProgressUnit, TransferProgress};
use super::settings::BrokerArgs;
use super::{ExitReason, STANDARD, complain, note, say, thousands};

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream export --out events.ndjson
  eventstream export --broker redis://127.0.0.1:6379 | gzip > events.ndjson.gz
  eventstream export | eventstream import --broker redis://127.0.0.1:6379 -

Exported are the events that have not ended, with their schedules and attempts, the failed events, and the idempotency
keys; not the processed events and the totals. Nothing is changed. Stop the servers of the broker first, and start them
on the other one after the import: what they accept or end while a Redis is exported may be missing or there twice (which
an import recognizes). An embedded store is exported as it is at the beginning.

Exit codes: 0 done, 1 failed, or something could not be read, 2 usage, 3 broker unreachable";

/// The arguments of `export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: BrokerArgs,
    /// The file to write, or - for standard output
    #[arg(long, value_name = "FILE|-", default_value = "-")]
    out: PathBuf,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Exports.
pub(super) fn run(args: &Args) -> ExitReason {
    let (config, runtime, _log) = match args.store.open() {
        Ok(both) => both,
        Err(exit) => return exit,
    };
    let mut out = match ExportTarget::create(&args.out) {
        Ok(out) => out,
        Err(error) => {
            complain(format!("{} cannot be written: {error}", args.out.display()));
            return ExitReason::Usage;
        }
    };
    let mut moved = TransferCounts::default();
    let bar = TransferProgress::new("exporting");
    let mut tell = |told: ExportNotice<'_>, expected| match told {
        ExportNotice::Written(moved) if moved.events + moved.failed == 0 => {
            bar.show(ProgressUnit::Keys, moved.keys, None)
        }
        ExportNotice::Written(moved) => bar.show(ProgressUnit::Events, moved.events + moved.failed, Some(expected)),
        ExportNotice::LeftOut(why) => bar.aside(|| complain(format!("left out, since it cannot be read: {why}"))),
    };
    let exported = runtime.block_on(app::export(&config, out.writer(), &mut moved, &mut tell));
    drop(bar);
    let finished = match exported {
        Ok(()) => out.finish(),
        Err(error) => {
            out.abandon();
            complain(&error);
            return ExitReason::of(&error);
        }
    };
    if let Err(error) = finished {
        complain(format!("{} cannot be written: {error}", args.out.display()));
        return ExitReason::Failed;
    }
    let told = if args.json { json(&moved) } else { told(&moved) };
    let said = if args.out == Path::new(STANDARD) {
        note(told);
        Ok(())
    } else {
        say(told)
    };
    if moved.unreadable > 0 {
        complain("what could not be read stays in the broker");
        return ExitReason::Failed;
    }
    ExitReason::Done.unless_unwritten(said)
}

fn told(moved: &TransferCounts) -> String {
    let [events, failed, keys] = [moved.events, moved.failed, moved.keys].map(thousands);
    let mut told = format!("exported {events} events, {failed} failed, {keys} keys");
    if moved.state > 0 {
        told.push_str(&format!(", {} keys of plugins' state", thousands(moved.state)));
    }
    if moved.unreadable > 0 {
        told.push_str(&format!("; {} could not be read", thousands(moved.unreadable)));
    }
    told
}

fn json(moved: &TransferCounts) -> String {
    let TransferCounts { events, failed, keys, state, unreadable, .. } = moved;
    json!({ "events": events, "failed": failed, "keys": keys, "state": state, "unreadable": unreadable }).to_string()
}

/// Where an export goes.
enum ExportTarget {
    /// Standard output, a pipe or a device: what is written is there at once.
    Stream(BufWriter<Box<dyn Write>>),
    /// A file that gets its name when it is whole.
    File(PartialFile),
}

impl ExportTarget {
    fn create(path: &Path) -> io::Result<Self> {
        if path == Path::new(STANDARD) {
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

    /// Leaves nothing behind, where that is possible.
    fn abandon(self) {
        if let Self::File(file) = self {
            file.abandon();
        }
    }
}
