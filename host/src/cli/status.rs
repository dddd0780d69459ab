//! `eventstream status`: what a server does, in one screen.

use std::fmt::Write;

use eventstream::printable::Printable;
use serde_json::{Value, json};

use super::client::{ClientError, ServerTarget};
use super::{ExitReason, say_json, say_lines};

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
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// What a server says about itself.
struct ServerStatus {
    ready: bool,
    readiness: Value,
    /// `None` when the store could not be asked.
    metrics: Option<Value>,
    plugins: Vec<Value>,
    /// What only other hosts handle.
    elsewhere: Vec<Value>,
}

/// Shows the status.
pub(super) fn run(args: &Args) -> ExitReason {
    match ask(&args.server) {
        Ok(status) => {
            let said = if args.json { say_json(status.json()) } else { say_lines(status.text()) };
            let exit = if status.ready { ExitReason::Done } else { ExitReason::Failed };
            exit.unless_unwritten(said)
        }
        Err(failure) => failure.told(),
    }
}

fn ask(server: &ServerTarget) -> Result<ServerStatus, ClientError> {
    let readiness = server.get("/readyz?verbose")?;
    let ready = readiness.status == 200;
    // A server that is not ready says why; its numbers may still be had.
    let readiness = if readiness.status == 503 { readiness } else { readiness.accepted()? };
    let metrics = server.get("/metrics")?;
    let metrics = if metrics.status == 503 { None } else { Some(metrics.accepted()?.json()?) };
    let plugins = server.get("/plugins")?.accepted()?.json()?;
    let list = |name: &str| plugins[name].as_array().cloned().unwrap_or_default();
    let (plugins, elsewhere) = (list("plugins"), list("elsewhere"));
    Ok(ServerStatus { ready, readiness: readiness.json()?, metrics, plugins, elsewhere })
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
        // Writing into a text does not fail.
        let _ = self.write(&mut text);
        text.trim_end().to_owned()
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        match self.ready {
            true => writeln!(text, "ready")?,
            false => writeln!(text, "not ready: {}", word(&self.readiness["detail"]))?,
        }
        for check in self.readiness["checks"].as_array().into_iter().flatten() {
            let facts: Vec<_> = check["facts"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| format!("{} {}", Printable(name), word(value)))
                .collect();
            writeln!(text, "  {:<10} {}", word(&check["name"]), facts.join(", "))?;
        }
        if let Some(metrics) = &self.metrics {
            writeln!(text, "\nevents")?;
            for names in [
                ["accepted", "published", "duplicates"].as_slice(),
                &["processed", "failed", "retried", "replayed", "recovered"],
                &["waiting", "queued", "running", "scheduled"],
                &["processedKept", "failedKept", "consumers", "dataLosses"],
            ] {
                let facts: Vec<_> = names.iter().map(|name| format!("{name} {}", word(&metrics[name]))).collect();
                writeln!(text, "  {}", facts.join("   "))?;
            }
            let lanes: Vec<_> = metrics["lanes"].as_object().into_iter().flatten().collect();
            if !lanes.is_empty() {
                writeln!(text, "\nwaiting by plugin (_ is for types that none handles)")?;
            }
            for (lane, waiting) in lanes {
                writeln!(text, "  {:<24} {}", Printable(lane), word(waiting))?;
            }
        }
        writeln!(text, "\nplugins")?;
        if self.plugins.is_empty() {
            writeln!(text, "  none")?;
        }
        for plugin in &self.plugins {
            let types: Vec<_> = plugin["types"].as_array().into_iter().flatten().map(word).collect();
            writeln!(text, "  {:<24} {:<10} {}", word(&plugin["name"]), word(&plugin["state"]), types.join(", "))?;
            if let Some(error) = plugin["error"].as_str() {
                writeln!(text, "  {:<24} {}", "", Printable(error))?;
            }
        }
        if !self.elsewhere.is_empty() {
            writeln!(text, "\nhandled by other hosts only")?;
        }
        for plugin in &self.elsewhere {
            let types: Vec<_> = plugin["types"].as_array().into_iter().flatten().map(word).collect();
            writeln!(text, "  {:<24} {}", word(&plugin["name"]), types.join(", "))?;
        }
        Ok(())
    }
}

/// A value in one line.
fn word(value: &Value) -> String {
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
    fn the_screen_names_what_a_person_needs() {
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
