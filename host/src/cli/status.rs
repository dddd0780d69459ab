//! `eventstream status`: shows the state of a server on one screen.

use std::fmt::Write;

use eventstream::printable::Printable;
use serde_json::{Value, json};

use super::client::{ClientError, ServerTarget};
use super::output::{CommandResult, ExitReason, print_json, print_lines};

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream status
  eventstream status --json | jq .metrics.waiting

Exit codes: 0 ready, 1 not ready, 2 usage, 3 server unreachable";

/// The arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerTarget,
    /// Print the status as JSON
    #[arg(long)]
    json: bool,
}

/// What a server reports about itself.
struct ServerStatus {
    ready: bool,
    readiness: Value,
    /// `None` when the server cannot reach its store.
    metrics: Option<Value>,
    plugins: Vec<Value>,
    /// The plugins that only other hosts have.
    elsewhere: Vec<Value>,
}

/// Shows the status.
pub(super) fn run(args: &Args) -> CommandResult {
    let status = fetch_status(&args.server).map_err(|failure| failure.report())?;
    if args.json { print_json(status.json()) } else { print_lines(status.text()) }?;
    if status.ready { Ok(ExitReason::Done) } else { Err(ExitReason::Failed) }
}

fn fetch_status(server: &ServerTarget) -> Result<ServerStatus, ClientError> {
    let readiness = server.get("/readyz?verbose")?;
    let ready = readiness.status == 200;
    // A server that is not ready still answers, and its metrics may be available.
    let readiness = if readiness.status == 503 { readiness } else { readiness.require_success()? };
    let metrics = server.get("/metrics")?;
    let metrics = if metrics.status == 503 { None } else { Some(metrics.require_success()?.parse_json()?) };
    let plugins = server.get("/plugins")?.require_success()?.parse_json()?;
    let list = |name: &str| plugins[name].as_array().cloned().unwrap_or_default();
    let (plugins, elsewhere) = (list("plugins"), list("elsewhere"));
    Ok(ServerStatus { ready, readiness: readiness.parse_json()?, metrics, plugins, elsewhere })
}

impl ServerStatus {
    fn json(&self) -> Value {
        json!({
            "ready": self.ready,
            "checks": self.readiness["checks"],
            "metrics": self.metrics,
            "plugins": self.plugins,
            "elsewhere": self.elsewhere,
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a `String` does not fail.
        let _ = self.write_text(&mut text);
        text.trim_end().to_owned()
    }

    fn write_text(&self, text: &mut String) -> std::fmt::Result {
        match self.ready {
            true => writeln!(text, "ready")?,
            false => writeln!(text, "not ready: {}", format_value(&self.readiness["detail"]))?,
        }
        for check in self.readiness["checks"].as_array().into_iter().flatten() {
            let facts: Vec<_> = check["facts"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| format!("{} {}", Printable(name), format_value(value)))
                .collect();
            writeln!(text, "  {:<10} {}", format_value(&check["name"]), facts.join(", "))?;
        }
        if let Some(metrics) = &self.metrics {
            writeln!(text, "\nevents")?;
            for names in [
                ["accepted", "published", "duplicates"].as_slice(),
                &["processed", "failed", "retried", "replayed", "discarded", "recovered"],
                &["waiting", "queued", "running", "scheduled"],
                &["processedKept", "failedKept", "consumers", "dataLosses"],
            ] {
                let facts: Vec<_> =
                    names.iter().map(|name| format!("{name} {}", format_value(&metrics[name]))).collect();
                writeln!(text, "  {}", facts.join("   "))?;
            }
            let lanes: Vec<_> = metrics["lanes"].as_object().into_iter().flatten().collect();
            if !lanes.is_empty() {
                writeln!(text, "\nwaiting events by plugin (_ is for types that no plugin handles)")?;
            }
            for (lane, waiting) in lanes {
                writeln!(text, "  {:<24} {}", Printable(lane), format_value(waiting))?;
            }
        }
        writeln!(text, "\nplugins")?;
        if self.plugins.is_empty() {
            writeln!(text, "  none")?;
        }
        for plugin in &self.plugins {
            let types: Vec<_> = plugin["types"].as_array().into_iter().flatten().map(format_value).collect();
            writeln!(
                text,
                "  {:<24} {:<10} {}",
                format_value(&plugin["name"]),
                format_value(&plugin["state"]),
                types.join(", ")
            )?;
            if let Some(error) = plugin["error"].as_str() {
                writeln!(text, "  {:<24} {}", "", Printable(error))?;
            }
        }
        if !self.elsewhere.is_empty() {
            writeln!(text, "\nplugins of other hosts only")?;
        }
        for plugin in &self.elsewhere {
            let types: Vec<_> = plugin["types"].as_array().into_iter().flatten().map(format_value).collect();
            writeln!(text, "  {:<24} {}", format_value(&plugin["name"]), types.join(", "))?;
        }
        Ok(())
    }
}

/// Formats a value on one line.
fn format_value(value: &Value) -> String {
    match value {
        Value::String(text) => Printable(text).to_string(),
        Value::Null => "-".into(),
        value => Printable(value).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_shows_readiness_totals_lanes_and_plugins() {
        let status = ServerStatus {
            ready: false,
            readiness: json!({ "detail": "the store is away", "checks": [
                { "name": "broker", "ready": false, "facts": { "kind": "Redis", "durability": "fsync" } } ] }),
            metrics: Some(json!({ "processed": 10, "failed": 2, "waiting": 3, "lanes": { "signup": 3 } })),
            plugins: vec![json!({ "name": "payment", "state": "failed", "types": ["a", "b"], "error": "no handler" })],
            elsewhere: vec![json!({ "name": "invoice", "types": ["invoice.*"] })],
        };
        let text = status.text();
        for part in [
            "not ready: the store is away",
            "durability fsync, kind Redis",
            "processed 10   failed 2   retried -",
            "signup                   3",
            "payment                  failed     a, b",
            "no handler",
            "invoice                  invoice.*",
        ] {
            assert!(text.contains(part), "{text}\nlacks {part:?}");
        }
        assert_eq!(status.json()["metrics"]["processed"], 10);
    }
}
