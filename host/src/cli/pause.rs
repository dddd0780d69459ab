//! `eventstream pause` and `eventstream resume`: stop handing events to a plugin, and go on.

use std::fmt::Write as _;

use eventstream::printable::Printable;
use serde_json::{Map, Value};

use super::client::{ClientError, CommandReport, ServerTarget};
use super::inspect::parse_plugin_name;
use super::output::{CommandResult, ExitReason};

pub(super) const PAUSE_EXAMPLES: &str = "\
Examples:
  eventstream pause payment --reason 'the bank is away'
  eventstream pause payment --until 2h
  eventstream pause payment --until 2026-11-23T15:00:00Z

Events of the plugin are still accepted and wait; attempts under way end, and no attempt is counted. The pause holds on every
server of the deployment within a second, and survives restarts and new builds. `eventstream plugin list` shows it.

Exit codes: 0 done, 1 there is no such plugin, 2 usage, 3 server unreachable";

pub(super) const RESUME_EXAMPLES: &str = "\
Examples:
  eventstream resume payment

What waited is handled within about a second. A plugin that is not paused stays as it is.

Exit codes: 0 done, 1 there is no such plugin, 2 usage, 3 server unreachable";

/// The arguments of `pause`.
#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    /// The name of the plugin
    #[arg(value_name = "NAME", value_parser = parse_plugin_name)]
    name: String,
    /// Why; `plugin list` and `status` show it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// When it resumes by itself: a time, or how long from now, such as 2h [default: when a person resumes it]
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    server: ServerTarget,
    /// Print the server's answer as JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of `resume`.
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// The name of the plugin
    #[arg(value_name = "NAME", value_parser = parse_plugin_name)]
    name: String,
    /// Why; the audit shows it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    server: ServerTarget,
    /// Print the server's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Pauses a plugin.
pub(super) fn pause(args: &PauseArgs) -> CommandResult {
    let body = members(&[("reason", &args.reason), ("until", &args.until)]);
    report(change(&args.server, &args.name, "pause", &body), args.json)
}

/// Resumes a plugin.
pub(super) fn resume(args: &ResumeArgs) -> CommandResult {
    report(change(&args.server, &args.name, "resume", &members(&[("reason", &args.reason)])), args.json)
}

/// An object with the members that have a value.
fn members(said: &[(&str, &Option<String>)]) -> Value {
    let given = said.iter().filter_map(|(name, text)| Some(((*name).to_owned(), Value::from((*text).clone()?))));
    Value::Object(given.collect::<Map<_, _>>())
}

fn change(server: &ServerTarget, name: &str, action: &str, body: &Value) -> Result<Value, ClientError> {
    server.post(&format!("/plugins/{name}/{action}"), None, &body.to_string())?.require_success()?.parse_json()
}

fn report(answer: Result<Value, ClientError>, json: bool) -> CommandResult {
    let plugin = answer.map_err(|failure| failure.report())?;
    let report = match json {
        true => CommandReport::Json(plugin.to_string()),
        false => CommandReport::Text(describe(&plugin)),
    };
    report.print().map(|()| ExitReason::Done)
}

fn describe(plugin: &Value) -> String {
    let name = Printable(plugin["name"].as_str().unwrap_or("-"));
    match describe_pause(&plugin["paused"]) {
        Some(pause) => format!("{name} is {pause}"),
        None => format!("{name} is not paused"),
    }
}

/// Describes a pause on one line; `None` if there is none.
pub(super) fn describe_pause(pause: &Value) -> Option<String> {
    let word = |name: &str| pause[name].as_str().map(Printable);
    let mut text = format!("paused since {} by {}", word("since")?, word("by")?);
    if let Some(until) = word("until") {
        // Writing into a `String` does not fail.
        let _ = write!(text, " until {until}");
    }
    if let Some(reason) = word("reason") {
        let _ = write!(text, ": {reason}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pause_is_described_on_one_line() {
        let pause = json!({ "since": "S", "by": "key:ops", "until": "U", "reason": "a\nb" });
        let text = describe(&json!({ "name": "p", "paused": pause }));
        assert!(text.starts_with("p is paused since S by key:ops until U: a") && text.lines().count() == 1, "{text}");
        assert_eq!(describe_pause(&json!({ "since": "S", "by": "local" })).unwrap(), "paused since S by local");
        assert_eq!(describe(&json!({ "name": "p" })), "p is not paused");
    }
}
