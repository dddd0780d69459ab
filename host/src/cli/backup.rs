//! `eventstream backup`: a copy of the embedded store that opens, made while it is served or not.

use std::path::PathBuf;

use eventstream::app;
use eventstream::printable::Printable;
use serde_json::json;

use super::progress::{ProgressUnit, TransferProgress};
use super::settings::BrokerArgs;
use super::{ExitReason, complain, say_json, say_lines};

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream backup /mnt/backups/monday
  eventstream backup /mnt/backups/monday --broker embedded:/var/lib/eventstream

The copy is of one moment and may be made while a server works. To restore it, stop the server and start it on a copy of
the backup: cp -r /mnt/backups/monday ./restored; eventstream serve --broker embedded:./restored

Exit codes: 0 done, 1 failed, 2 usage, or not an embedded store, 3 there is no store";

/// The arguments of `backup`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to: a directory that holds no store; it is made if it is missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    store: BrokerArgs,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Makes the copy.
pub(super) fn run(args: &Args) -> ExitReason {
    let (config, runtime, _log) = match args.store.open() {
        Ok(both) => both,
        Err(exit) => return exit,
    };
    let (bar, (told, copied)) = (TransferProgress::new("copying"), std::sync::mpsc::channel());
    let progress = move |done, all| {
        bar.show(ProgressUnit::Bytes, done, Some(all));
        // Nobody listens any more only when the program ends.
        let _ = told.send(all);
    };
    if let Err(error) = runtime.block_on(app::backup(&config, &args.directory, progress)) {
        complain(&error);
        return ExitReason::of(&error);
    }
    let (from, to) = (config.broker_url.to_string(), args.directory.to_string_lossy());
    let size_bytes = copied.try_iter().last().unwrap_or_default();
    let said = if args.json {
        say_json(json!({ "from": from, "to": to, "bytes": size_bytes }))
    } else {
        let (from, to) = (Printable(from), Printable(to));
        say_lines(format_args!(
            "copied {from} to {to}, {size_bytes} bytes\n\
             to restore it, stop the server and start it on a copy of {to}: serve --broker embedded:COPY"
        ))
    };
    ExitReason::Done.unless_unwritten(said)
}
