//! `eventstream run-now` and `eventstream cancel`: start events early that are due later, and end events that wait.

use serde_json::{Value, json};

use super::client::{ClientError, ServerTarget};
use super::output::{CommandResult, ExitReason, print_json, print_line, report_error_lines};

pub(super) const RUN_NOW_EXAMPLES: &str = "\
Examples:
  eventstream run-now 01890a5d-ac96-774b-bcce-b302099a8057

Starts an event that is scheduled, retrying or deferred within a second, if its plugin has a slot and is not paused. Its
attempts so far stay.

Exit codes: 0 done, 1 an event is not due later, 2 usage, 3 server unreachable";

pub(super) const CANCEL_EXAMPLES: &str = "\
Examples:
  eventstream cancel 01890a5d-ac96-774b-bcce-b302099a8057 --reason 'sent by mistake'

Ends an event that waits, is scheduled or retries. It is discarded and cannot be replayed; its record says who cancelled it.
One that runs goes on: if a server claims it first, the event is not cancelled. Discard a failed one with `failed discard`.

Exit codes: 0 done, 1 an event does not wait, 2 usage, 3 server unreachable";

/// Events of a server. These are the arguments of both commands.
#[derive(Debug, clap::Args)]
pub(super) struct EventTargets {
    /// The events
    #[arg(value_name = "ID", required = true)]
    ids: Vec<uuid::Uuid>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    server: ServerTarget,
    /// Print the server's answers as JSON
    #[arg(long)]
    json: bool,
}

/// Starts events early.
pub(super) fn run_now(events: &EventTargets) -> CommandResult {
    change_all(events, "run-now", "is due now")
}

/// Cancels events.
pub(super) fn cancel(events: &EventTargets) -> CommandResult {
    change_all(events, "cancel", "is cancelled")
}

/// Changes each event. One that is refused is reported, and the others are changed.
fn change_all(events: &EventTargets, action: &str, done: &str) -> CommandResult {
    let body = events.reason.as_ref().map_or(json!({}), |reason| json!({ "reason": reason })).to_string();
    let (mut answers, mut exit) = (Vec::new(), Ok(ExitReason::Done));
    for id in &events.ids {
        match change(events, &format!("/events/{id}/{action}"), &body).map_err(|failure| failure.report())? {
            Ok(answer) if events.json => answers.push(answer),
            Ok(_) => print_line(format_args!("{id} {done}"))?,
            Err(problem) => {
                report_error_lines(&problem);
                exit = Err(ExitReason::Failed);
            }
        }
    }
    if events.json {
        print_json(Value::Array(answers))?;
    }
    exit
}

/// The answer, or the description of a refusal.
fn change(events: &EventTargets, path: &str, body: &str) -> Result<Result<Value, String>, ClientError> {
    let answer = events.server.post(path, None, body)?;
    if matches!(answer.status, 404 | 409) {
        return Ok(Err(answer.describe_problem()));
    }
    Ok(Ok(answer.require_success()?.parse_json()?))
}
