//! `eventstream failed discard`: ends failed events for good.
//!
//! The command walks the failed events from the newest to the oldest, so it never takes one that fails after its start.

use std::fmt::Write as _;

use clap::{ArgGroup, Args as Arguments, Subcommand};
use serde_json::{Value, json};

use super::client::{ClientError, ServerTarget, encode_query};
use super::output::{
    CommandResult, ExitReason, OutputResult, format_thousands, print_json, print_line, report_error, report_error_lines,
};
use super::progress::{ProgressUnit, TransferProgress};

pub(super) const DISCARD_EXAMPLES: &str = "\
Examples:
  eventstream failed discard 01890a5d-ac96-774b-bcce-b302099a8057 --reason 'a test event'
  eventstream failed discard --plugin user-signup --class reject --dry-run
  eventstream failed discard --plugin user-signup --class reject --reason 'bad addresses of the import'

A discarded event is not tried again and cannot be replayed. Its record keeps the reason and stays for retention.discarded.
Nothing is asked: --dry-run shows what would be discarded. Events that fail after the start of the command stay. Send it from
the server's own machine.

Exit codes: 0 done, 1 an event could not be discarded, 2 usage, 3 server unreachable";

/// How many events are asked for at a time. The server sends fewer if they are large.
const PAGE_EVENTS: usize = 100;
/// After this many events, they are no longer counted.
const MAX_COUNTED: usize = 1_000;

/// The commands for failed events.
#[derive(Debug, Subcommand)]
pub(super) enum FailedCommand {
    /// End failed events for good, by id or by filter
    #[command(after_help = DISCARD_EXAMPLES)]
    Discard(DiscardArgs),
}

/// The arguments of `failed discard`.
#[derive(Debug, Arguments)]
#[command(
    group(ArgGroup::new("which").args(["ids", "plugin", "event_type", "class"]).required(true).multiple(true)),
    override_usage = "eventstream failed discard ID... --reason TEXT\n       \
                      eventstream failed discard [--plugin NAME] [--type TYPE] [--class CLASS] --reason TEXT"
)]
pub(super) struct DiscardArgs {
    /// The failed events
    #[arg(value_name = "ID", conflicts_with_all = ["plugin", "event_type", "class"])]
    ids: Vec<uuid::Uuid>,
    /// All failed events of this plugin; _ for those that no plugin handles
    #[arg(long, value_name = "NAME")]
    plugin: Option<String>,
    /// All failed events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// All failed events of this class, such as reject or trap
    #[arg(long)]
    class: Option<String>,
    /// Why they are discarded; stays in their records
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Show what would be discarded, and discard nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: ServerTarget,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What a command has done.
#[derive(Default)]
struct DiscardCounts {
    discarded: u64,
    /// Events that had left the failed ones in the meantime.
    skipped: u64,
    /// Events that were named and are not failed.
    refused: u64,
}

/// Runs the command.
pub(super) fn run(command: &FailedCommand) -> CommandResult {
    let FailedCommand::Discard(args) = command;
    let mut counts = DiscardCounts::default();
    let done = if args.ids.is_empty() { discard_matching(args, &mut counts) } else { discard_named(args, &mut counts) };
    done.map_err(|failure| {
        let exit = failure.report();
        if counts.discarded > 0 && !args.dry_run {
            report_error(format_args!("before that: discarded {}", count_events(counts.discarded)));
        }
        exit
    })?;
    counts.print(args)?;
    if counts.refused > 0 { Err(ExitReason::Failed) } else { Ok(ExitReason::Done) }
}

/// Discards the events with these ids. One that has not failed is reported, and the others are discarded.
fn discard_named(args: &DiscardArgs, counts: &mut DiscardCounts) -> Result<(), ClientError> {
    for id in &args.ids {
        let found = if args.dry_run {
            args.server.get(&format!("/failed-events/{id}"))?
        } else {
            args.server.delete(&discard_path(&id.to_string(), args))?
        };
        if matches!(found.status, 404 | 409) {
            counts.refused += 1;
            report_error_lines(found.describe_problem());
            continue;
        }
        let answer = found.require_success()?;
        counts.discarded += 1;
        if args.dry_run {
            show_event(&answer.parse_json()?, args)?;
        }
    }
    Ok(())
}

/// Discards every event that the filter matches.
fn discard_matching(args: &DiscardArgs, counts: &mut DiscardCounts) -> Result<(), ClientError> {
    let bar = TransferProgress::new("discarding");
    let mut pages = FailedEventPages::new(&args.server, args.filter(), PAGE_EVENTS);
    while let Some(events) = pages.next_page()? {
        for event in events {
            if args.dry_run {
                counts.discarded += 1;
                bar.suspend(|| show_event(&event, args))?;
                continue;
            }
            let answer = args.server.delete(&discard_path(event["id"].as_str().unwrap_or_default(), args))?;
            // Somebody else replayed or discarded it.
            if matches!(answer.status, 404 | 409) {
                counts.skipped += 1;
                continue;
            }
            answer.require_success()?;
            counts.discarded += 1;
            bar.show(ProgressUnit::Events, counts.discarded, None);
        }
    }
    Ok(())
}

fn discard_path(id: &str, args: &DiscardArgs) -> String {
    format!("/failed-events/{id}?{}", encode_query(&[("reason", args.reason.as_deref())]))
}

fn show_event(event: &Value, args: &DiscardArgs) -> Result<(), ClientError> {
    let word = |name: &str| event[name].as_str().unwrap_or("-");
    let printed = if args.json {
        let [id, event_type, class, reason] = ["id", "type", "class", "reason"].map(|name| &event[name]);
        print_json(json!({ "id": id, "type": event_type, "class": class, "reason": reason }))
    } else {
        let reason = word("reason").lines().next().unwrap_or_default();
        print_line(format_args!("{} {} {} {}: {reason}", word("id"), word("failedAt"), word("type"), word("class")))
    };
    printed.map_err(ClientError::reported)
}

impl DiscardArgs {
    fn filter(&self) -> String {
        let [plugin, event_type, class] = [&self.plugin, &self.event_type, &self.class].map(Option::as_deref);
        encode_query(&[("plugin", plugin), ("type", event_type), ("class", class)])
    }
}

impl DiscardCounts {
    fn print(&self, args: &DiscardArgs) -> OutputResult {
        let Self { discarded, skipped, refused } = self;
        if args.json {
            return match args.dry_run {
                true => Ok(()),
                false => print_json(json!({ "discarded": discarded, "skipped": skipped, "refused": refused })),
            };
        }
        let verb = if args.dry_run { "would discard" } else { "discarded" };
        let mut text = format!("{verb} {}", count_events(*discarded));
        if *skipped > 0 {
            let verb = if *skipped == 1 { "was" } else { "were" };
            // Writing into a `String` does not fail.
            let _ = write!(text, "; {} {verb} replayed or discarded meanwhile", format_thousands(*skipped));
        }
        print_line(text)
    }
}

fn count_events(count: u64) -> String {
    format!("{} failed event{}", format_thousands(count), if count == 1 { "" } else { "s" })
}

/// The failed events that match a filter, page by page.
struct FailedEventPages<'a> {
    server: &'a ServerTarget,
    filter: String,
    limit: usize,
    /// Where the next page begins; `None` after the last one.
    cursor: Option<String>,
}

impl<'a> FailedEventPages<'a> {
    fn new(server: &'a ServerTarget, filter: String, limit: usize) -> Self {
        Self { server, filter, limit, cursor: Some(String::new()) }
    }

    fn next_page(&mut self) -> Result<Option<Vec<Value>>, ClientError> {
        let Some(cursor) = self.cursor.take() else { return Ok(None) };
        let cursor =
            if cursor.is_empty() { cursor } else { format!("&{}", encode_query(&[("cursor", Some(&cursor))])) };
        let path = format!("/failed-events?limit={}&{}{cursor}", self.limit, self.filter);
        let mut page = self.server.get(&path)?.require_success()?.parse_json()?;
        self.cursor = page["nextCursor"].as_str().map(str::to_owned);
        match page["failedEvents"].take() {
            Value::Array(events) => Ok(Some(events)),
            _ => {
                Err(ClientError::new(ExitReason::Failed, "the answer lists no events; is this an eventstream server?"))
            }
        }
    }
}

/// Says how many failed events of a plugin the server keeps, and how to discard them; `None` if there are none.
pub(super) fn describe_kept(server: &ServerTarget, plugin: &str) -> Result<Option<String>, ClientError> {
    let mut pages = FailedEventPages::new(server, encode_query(&[("plugin", Some(plugin))]), MAX_COUNTED);
    let mut count = 0;
    while count < MAX_COUNTED
        && let Some(events) = pages.next_page()?
    {
        count += events.len();
    }
    let more = if pages.cursor.is_some() { " or more" } else { "" };
    let discard = format!("`eventstream failed discard --plugin {plugin} --reason TEXT` discards them");
    Ok((count > 0).then(|| format!("failed events that stay: {}{more}; {discard}", format_thousands(count as u64))))
}
