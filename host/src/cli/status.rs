//! `eventstream status`: shows the state of a server on one screen.

use std::fmt::Write;

use eventstream::printable::Printable;
use serde_json::{Value, json};

use super::client::{ClientError, ServerTarget};
use super::output::{CommandResult, ExitReason, print_json, print_lines};
use super::pause::describe_pause;

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream status
  eventstream status --json | jq .metrics.waiting

Exit codes: 0 ready, 1 not ready, 2 usage, 3 server unreachable";

/// From this part of its limit of bytes on, a plugin is named with what to do.
const NEAR_PERCENT: u64 = 80;

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
    /// The pauses of plugins that this host has not.
    paused_elsewhere: Vec<Value>,
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
    let (plugins, elsewhere, paused_elsewhere) = (list("plugins"), list("elsewhere"), list("pausedElsewhere"));
    Ok(ServerStatus { ready, readiness: readiness.parse_json()?, metrics, plugins, elsewhere, paused_elsewhere })
}

impl ServerStatus {
    fn json(&self) -> Value {
        json!({
            "ready": self.ready,
            "checks": self.readiness["checks"],
            "metrics": self.metrics,
            "plugins": self.plugins,
            "elsewhere": self.elsewhere,
            "pausedElsewhere": self.paused_elsewhere,
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
            write_lanes(text, metrics)?;
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
            if let Some(pause) = describe_pause(&plugin["paused"]) {
                writeln!(text, "  {:<24} {pause}", "")?;
            }
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
        for pause in &self.paused_elsewhere {
            let about = describe_pause(pause).unwrap_or_default();
            writeln!(text, "  {:<24} {about}", format_value(&pause["plugin"]))?;
        }
        Ok(())
    }
}

/// What the events of one plugin take of the store.
struct LaneVolume<'m> {
    lane: &'m str,
    queued: u64,
    /// All events that have not ended: queued, running, deferred and retrying.
    waiting: u64,
    waiting_bytes: u64,
    failed_bytes: u64,
}

impl LaneVolume<'_> {
    /// How full the lane is, in percent of its limit of bytes.
    fn percent_of(&self, limit_bytes: u64) -> u64 {
        let stored_bytes = self.waiting_bytes.saturating_add(self.failed_bytes);
        stored_bytes.saturating_mul(100) / limit_bytes.max(1)
    }

    /// What to do about a lane that is near or past its limit.
    fn remedy(&self) -> String {
        let lane = Printable(self.lane);
        if self.failed_bytes >= self.waiting_bytes {
            return format!("replay or discard its failed events: eventstream failed discard --plugin {lane}");
        }
        match self.lane {
            "_" => "no plugin handles these events: add one for them, or send fewer".to_owned(),
            _ => "its events wait: see what holds it up (eventstream plugin list), or send fewer".to_owned(),
        }
    }
}

/// The lanes that a server reports, in the order of their names. An earlier server reports only what is queued.
fn lanes_of(metrics: &Value) -> Vec<LaneVolume<'_>> {
    let of = |name: &str, lane: &str| metrics[name][lane].as_u64();
    let queued = metrics["lanes"].as_object().into_iter().flatten();
    let lanes = queued.map(|(lane, queued)| {
        let queued = queued.as_u64().unwrap_or(0);
        LaneVolume {
            lane,
            queued,
            waiting: of("waitingByLane", lane).unwrap_or(queued),
            waiting_bytes: of("waitingBytesByLane", lane).unwrap_or(0),
            failed_bytes: of("failedBytesByLane", lane).unwrap_or(0),
        }
    });
    lanes.collect()
}

/// Writes what each plugin has in the store, and what to do where one is near its limit.
fn write_lanes(text: &mut String, metrics: &Value) -> std::fmt::Result {
    let lanes = lanes_of(metrics);
    if lanes.is_empty() {
        return Ok(());
    }
    let limit_bytes = metrics["maxLaneBytes"].as_u64();
    let limit = limit_bytes.map_or_else(String::new, |limit| format!(", of {} for each", format_bytes(limit)));
    writeln!(text, "\nevents and bytes by plugin{limit} (_ is for types that no plugin handles)")?;
    for lane in &lanes {
        let LaneVolume { queued, waiting, waiting_bytes, failed_bytes, .. } = lane;
        let waits = format!("waiting {waiting} ({queued} queued), {}", format_bytes(*waiting_bytes));
        write!(text, "  {:<24} {waits:<36} failed {}", Printable(lane.lane), format_bytes(*failed_bytes))?;
        match limit_bytes.map(|limit_bytes| lane.percent_of(limit_bytes)) {
            Some(percent) if percent >= NEAR_PERCENT => writeln!(text, "   {percent} % of its limit")?,
            _ => writeln!(text)?,
        }
    }
    let near = |lane: &&LaneVolume<'_>| limit_bytes.is_some_and(|limit| lane.percent_of(limit) >= NEAR_PERCENT);
    for lane in lanes.iter().filter(near) {
        writeln!(
            text,
            "  {} is near its limit, past which its events are refused: {}",
            Printable(lane.lane),
            lane.remedy()
        )?;
    }
    Ok(())
}

/// A number of bytes as people write it.
fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut size, mut unit) = (bytes as f64 / 1_024.0, 0);
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    while size >= 1_024.0 && unit + 1 < UNITS.len() {
        (size, unit) = (size / 1_024.0, unit + 1);
    }
    format!("{size:.1} {}", UNITS[unit])
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
            plugins: vec![json!({ "name": "payment", "state": "failed", "types": ["a", "b"], "error": "no handler",
                "paused": { "since": "S", "by": "key:ops", "reason": "later" } })],
            elsewhere: vec![json!({ "name": "invoice", "types": ["invoice.*"] })],
            paused_elsewhere: vec![json!({ "plugin": "invoice", "since": "S", "by": "local" })],
        };
        let text = status.text();
        for part in [
            "not ready: the store is away",
            "durability fsync, kind Redis",
            "processed 10   failed 2   retried -",
            "signup                   waiting 3 (3 queued), 0 B",
            "payment                  failed     a, b",
            "no handler",
            "paused since S by key:ops: later",
            "invoice                  invoice.*",
            "invoice                  paused since S by local",
        ] {
            assert!(text.contains(part), "{text}\nlacks {part:?}");
        }
        assert_eq!(status.json()["metrics"]["processed"], 10);
    }

    #[test]
    fn a_plugin_that_is_near_its_limit_is_named_with_what_to_do() {
        let metrics = json!({
            "lanes": { "_": 0, "hog": 0, "loop": 1, "quiet": 2 },
            "waitingByLane": { "hog": 7, "loop": 9, "quiet": 2 },
            "waitingBytesByLane": { "hog": 1_000, "loop": 850_000, "quiet": 100 },
            "failedBytesByLane": { "hog": 1_048_576, "quiet": 100 },
            "maxLaneBytes": 1_000_000,
        });
        let mut text = String::new();
        write_lanes(&mut text, &metrics).unwrap();
        let line =
            |of: &str| text.lines().find(|line| line.trim_start().starts_with(of)).unwrap_or_default().to_owned();
        assert!(line("events and bytes").contains("of 976.6 KiB for each"), "{text}");
        let hog = line("hog   ");
        assert!(
            hog.contains("waiting 7 (0 queued), 1000 B") && hog.contains("failed 1.0 MiB   104 % of its"),
            "{text}"
        );
        assert!(line("hog is near").ends_with("eventstream failed discard --plugin hog"), "{text}");
        assert!(line("loop is near").contains("its events wait"), "{text}");
        assert!(line("quiet   ").ends_with("failed 100 B") && line("quiet is").is_empty(), "{text}");
    }
}
