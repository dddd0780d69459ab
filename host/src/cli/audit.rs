//! `eventstream audit`: shows who changed what.

use std::fmt::Write as _;
use std::time::SystemTime;

use eventstream::printable::Printable;
use serde_json::{Value, json};

use super::client::{ClientError, CommandReport, ServerTarget, path_with_query};
use super::output::{CommandResult, ExitReason};

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream audit
  eventstream audit --action plugin --since 24h
  eventstream audit --by key:ops --target 01890a5d-ac96-774b-bcce-b302099a8057 --json

Every change that a person or a key makes leaves an entry: when, who, from where, what, on what, and why. Entries are kept for
retention.audit. Plugin files that appear in the plugin directory are in the log, not here.

Exit codes: 0 done, 1 failed, 2 usage, 3 server unreachable";

/// The most entries that are asked for at a time.
const PAGE_ENTRIES: usize = 200;

/// The arguments of `audit`.
#[derive(Debug, clap::Args)]
pub(super) struct AuditArgs {
    /// Only this action, such as event.cancel, or all on one kind of thing: event, plugin, state, key, store
    #[arg(long)]
    action: Option<String>,
    /// Only changes of this caller, such as key:ops, or of the key with this id
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// Only changes of this event, plugin or key
    #[arg(long, value_name = "ID|NAME")]
    target: Option<String>,
    /// Only changes since then: a time, or how long ago, such as 24h
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<String>,
    /// How many entries, the newest first
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    server: ServerTarget,
    /// Print the entries as JSON
    #[arg(long)]
    json: bool,
}

/// Reads how long ago as a time. The server reads any other text.
fn parse_since(text: &str) -> Result<String, &'static str> {
    let Ok(length) = humantime::parse_duration(text) else { return Ok(text.to_owned()) };
    let since = SystemTime::now().checked_sub(length).ok_or("that is too long ago")?;
    Ok(humantime::format_rfc3339_millis(since).to_string())
}

/// Shows the audit.
pub(super) fn run(args: &AuditArgs) -> CommandResult {
    let document = read(args).map_err(|failure| failure.report())?;
    let report = match args.json {
        true => CommandReport::Json(document.to_string()),
        false => CommandReport::Text(describe(&document)),
    };
    report.print().map(|()| ExitReason::Done)
}

/// Reads as many pages as it takes. The cursor in the result is that of the page after them.
fn read(args: &AuditArgs) -> Result<Value, ClientError> {
    let wanted = args.limit as usize;
    let mut entries: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let limit = (wanted - entries.len()).min(PAGE_ENTRIES).to_string();
        let [action, by, target, since] = [&args.action, &args.by, &args.target, &args.since].map(Option::as_deref);
        let parameters = [
            ("action", action),
            ("by", by),
            ("target", target),
            ("since", since),
            ("limit", Some(&limit)),
            ("cursor", cursor.as_deref()),
        ];
        let mut page = args.server.get(&path_with_query("/audit", &parameters))?.require_success()?.parse_json()?;
        let Value::Array(found) = page["entries"].take() else {
            return Err(ClientError::new(
                ExitReason::Failed,
                "the answer has no entries; is this an eventstream server?",
            ));
        };
        entries.extend(found);
        cursor = page["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() || entries.len() >= wanted {
            return Ok(json!({ "entries": entries, "nextCursor": cursor }));
        }
    }
}

/// Describes each entry on one line.
fn describe(document: &Value) -> String {
    let mut text = String::new();
    for entry in document["entries"].as_array().into_iter().flatten() {
        let word = |name: &str| entry[name].as_str().map(Printable);
        let shown = |name: &str| word(name).map_or_else(|| "-".to_owned(), |word| word.to_string());
        // Writing into a `String` does not fail.
        let _ = write!(text, "{}  {:<14}  {:<15}  {}", shown("at"), shown("by"), shown("action"), shown("target"));
        for (before, part) in [
            (" from ", word("from").map(|it| it.to_string())),
            (", ", entry["count"].as_u64().map(|count| format!("{count} items"))),
            (", ", word("detail").map(|it| it.to_string())),
            (", ", word("outcome").map(|it| it.to_string()).filter(|outcome| outcome != "done")),
            (": ", word("reason").map(|it| it.to_string())),
        ] {
            if let Some(part) = part {
                let _ = write!(text, "{before}{part}");
            }
        }
        text.push('\n');
    }
    if text.is_empty() { "no entries".into() } else { text.trim_end().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_one_line() {
        let entries = json!({ "entries": [
            { "at": "T", "by": "key:ops", "from": "10.0.0.7", "action": "plugin.pause", "target": "work",
              "detail": "until U", "reason": "a\nb", "outcome": "done" },
            { "at": "T", "by": "command-line", "action": "store.import", "target": "store", "count": 7,
              "outcome": "interrupted" },
        ]});
        let text = describe(&entries);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("T  key:ops         plugin.pause     work from 10.0.0.7, until U: a"), "{text}");
        assert_eq!(lines[1..], ["T  command-line    store.import     store, 7 items, interrupted"]);
        assert_eq!(describe(&json!({ "entries": [] })), "no entries");
    }

    #[test]
    fn a_length_of_time_is_so_long_ago() {
        assert_eq!(parse_since("2026-11-23T15:00:00Z").as_deref(), Ok("2026-11-23T15:00:00Z"));
        let since = parse_since("1h").unwrap();
        assert!(since.ends_with('Z') && humantime::parse_rfc3339(&since).unwrap() < SystemTime::now(), "{since}");
    }
}
