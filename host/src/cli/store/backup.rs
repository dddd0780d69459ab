//! `eventstream backup`: copies the embedded store into a directory, even while a server uses it.

use std::path::PathBuf;

use eventstream::app;
use eventstream::printable::Printable;
use serde_json::json;

use crate::cli::output::{CommandResult, ExitReason, print_json, print_lines};
use crate::cli::progress::{ProgressUnit, TransferProgress};
use crate::cli::settings::{BrokerArgs, path_parser};

pub(crate) const EXAMPLES: &str = "\
Examples:
  eventstream backup /mnt/backups/monday
  eventstream backup /mnt/backups/monday --broker embedded:/var/lib/eventstream

The copy shows the store at one moment. A server may use the store meanwhile. To restore, stop the server, copy the backup,
and start the server on the copy:
  cp -r /mnt/backups/monday ./restored
  eventstream serve --broker embedded:./restored

Exit codes: 0 done, 1 failed, 2 usage, or not an embedded store, 3 there is no store";

/// The arguments of `backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory to write to; it must not contain a store, and is created if it is missing
    #[arg(value_name = "DIR", value_parser = path_parser())]
    directory: PathBuf,
    #[command(flatten)]
    store: BrokerArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Makes the backup.
pub(crate) fn run(args: &Args) -> CommandResult {
    let (config, runtime, _log) = args.store.open()?;
    let (bar, (sizes, copied)) = (TransferProgress::new("copying"), std::sync::mpsc::channel());
    let progress = move |done, all| {
        bar.show(ProgressUnit::Bytes, done, Some(all));
        // Sending fails only when the program ends.
        let _ = sizes.send(all);
    };
    let done = runtime.block_on(app::backup(&config, &args.directory, progress));
    done.map_err(|error| ExitReason::report(&error))?;
    let (from, to) = (config.broker_url.to_string(), args.directory.to_string_lossy());
    let size_bytes = copied.try_iter().last().unwrap_or_default();
    if args.json {
        print_json(json!({ "from": from, "to": to, "bytes": size_bytes }))?;
    } else {
        let (from, to) = (Printable(from), Printable(to));
        print_lines(format_args!(
            "copied {from} to {to}, {size_bytes} bytes\n\
             to restore it, stop the server and start it on a copy of {to}: serve --broker embedded:COPY"
        ))?;
    }
    Ok(ExitReason::Done)
}
