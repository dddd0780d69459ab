//! `GET /metrics`: totals and queue depths of the whole deployment, in JSON or, by `Accept`, as OpenMetrics text.
//!
//! The broker keeps the numbers, so every host returns the same ones and they survive restarts. Only what [`HostTotals`] holds
//! is counted by each host since its start. Labels are reasons, failure classes and lanes, which operators choose. No text
//! from a client becomes a label.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde_json::json as object;

use crate::broker::{BrokerStats, Lane};
use crate::event::FailureClass;

use super::api_state::ApiState;
use super::metrics_format::{MetricsFormat, negotiate};
use super::problem::{Problem, ProblemKind};
use super::query;
use super::response::json;

/// What this host counted since its start.
#[derive(Debug)]
struct HostTotals {
    /// Lines that it did not write to its log.
    unwritten_lines: u64,
    /// Requests that it refused for want of a key or a right, by reason.
    auth_failures: Vec<(&'static str, u64)>,
}

/// Shows the metrics in the format that the client prefers.
pub(super) async fn show(
    State(api): State<Arc<ApiState>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let stats = api.event_log.stats().await?;
    let Some(format) = negotiate(&headers) else {
        let formats = MetricsFormat::ALL.map(MetricsFormat::media_type).join(", ");
        return Err(Problem::new(ProblemKind::NotAcceptable, format!("metrics are given as {formats}")));
    };
    let own = HostTotals { unwritten_lines: api.unwritten_lines.total(), auth_failures: api.keys.failures.totals() };
    let paused: Vec<Lane> = api.pauses.pauses().iter().map(|pause| pause.plugin.clone()).collect();
    let mut response = if format == MetricsFormat::Json {
        json(StatusCode::OK, &metrics_json(&stats, &paused, &own))
    } else {
        let mut text = openmetrics_text(stats, paused, api.event_log.health().ready(), own)
            .map_err(|_| Problem::new(ProblemKind::Internal, "the metrics cannot be written"))?;
        if format == MetricsFormat::PlainText {
            text = to_plain_text(&text);
        }
        (StatusCode::OK, [(CONTENT_TYPE, HeaderValue::from_static(format.media_type()))], text).into_response()
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

fn metrics_json(stats: &BrokerStats, paused: &[Lane], own: &HostTotals) -> serde_json::Value {
    let (counters, depth) = (&stats.counters, &stats.depth);
    let by_class: BTreeMap<_, _> =
        counters.failed_by_class.iter().map(|(class, total)| (class.as_str(), total)).collect();
    object!({
        "accepted": counters.accepted,
        "duplicates": counters.duplicates,
        "published": counters.published,
        "processed": counters.processed,
        "failed": counters.failed,
        "retried": counters.retried,
        "replayed": counters.replayed,
        "discarded": counters.discarded,
        "recovered": counters.recovered,
        "deferred": counters.deferred,
        "dataLosses": counters.data_losses,
        "stateConflicts": counters.state_conflicts,
        "failedByClass": by_class,
        "waiting": depth.waiting(),
        "queued": depth.queued.values().sum::<u64>(),
        "running": depth.running,
        "scheduled": depth.scheduled,
        "processedKept": depth.processed_kept,
        "failedKept": depth.failed_kept,
        "stateKeys": depth.state_keys,
        "consumers": depth.consumers,
        "lanes": depth.queued,
        "waitingByLane": depth.waiting_by_lane,
        "waitingBytesByLane": depth.waiting_bytes_by_lane,
        "failedBytesByLane": depth.failed_bytes_by_lane,
        "keptBytesByLane": depth.kept_bytes_by_lane,
        "maxLaneBytes": depth.lane_level_bytes(),
        "idempotencyBytesByLane": depth.idempotency_bytes_by_lane,
        "maxIdempotencyBytes": depth.max_idempotency_bytes,
        "paused": paused,
        "logLinesUnwritten": own.unwritten_lines,
        "authFailures": own.auth_failures.iter().copied().collect::<BTreeMap<_, _>>(),
    })
}

fn openmetrics_text(
    stats: BrokerStats,
    paused: Vec<Lane>,
    is_ready: bool,
    own: HostTotals,
) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("eventstream");
    registry.register_collector(Box::new(MetricsText { stats, paused, is_ready, own }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Turns OpenMetrics text into the older format of Prometheus. There the `HELP` and `TYPE` lines name a counter with `_total`
/// as well, and no line marks the end.
fn to_plain_text(openmetrics: &str) -> String {
    let mut counters = HashSet::new();
    for line in openmetrics.lines() {
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter")) {
            counters.insert(name);
        }
    }
    let mut text = String::with_capacity(openmetrics.len() + 1_024);
    for line in openmetrics.lines().filter(|line| *line != "# EOF") {
        let about = ["# HELP ", "# TYPE "].iter().find_map(|about| Some((*about, line.strip_prefix(about)?)));
        match about.and_then(|(about, rest)| Some((about, rest.split_once(' ')?))) {
            Some((about, (name, rest))) if counters.contains(name) => {
                text.push_str(&format!("{about}{name}_total {rest}\n"));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// Writes the metrics as OpenMetrics text.
#[derive(Debug)]
struct MetricsText {
    stats: BrokerStats,
    paused: Vec<Lane>,
    is_ready: bool,
    own: HostTotals,
}

impl Collector for MetricsText {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (counters, depth) = (&self.stats.counters, &self.stats.depth);
        for (name, help, total) in [
            ("events_accepted", "Events accepted from clients", counters.accepted),
            ("events_duplicates", "Events that clients sent more than once", counters.duplicates),
            ("events_published", "Events published by plugins", counters.published),
            ("events_processed", "Events processed successfully", counters.processed),
            ("events_retried", "Failed attempts that a retry follows", counters.retried),
            ("events_replayed", "Failed events queued again by a replay", counters.replayed),
            ("events_discarded", "Events discarded or cancelled by an operator", counters.discarded),
            ("events_deferred", "Attempts deferred by a limit on waiting events", counters.deferred),
            ("events_recovered", "Deliveries taken over from consumers that were lost", counters.recovered),
            ("data_losses", "Detected losses of data in the store", counters.data_losses),
            (
                "state_conflicts",
                "Attempts repeated because another attempt changed the state they had read",
                counters.state_conflicts,
            ),
            (
                "log_lines_unwritten",
                "Lines that this host did not write to its log since its start",
                self.own.unwritten_lines,
            ),
        ] {
            let counter = ConstCounter::new(total);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        for (name, help, now) in [
            ("events_running", "Events being handled", depth.running),
            ("events_scheduled", "Retries and delayed events that are not due yet", depth.scheduled),
            ("events_processed_kept", "Processed events in the history", depth.processed_kept),
            ("events_failed_kept", "Failed events that wait for a replay", depth.failed_kept),
            ("state_keys", "Keys in the state of all plugins", depth.state_keys),
            ("consumers", "Consumers registered in the store", depth.consumers),
            (
                "lane_bytes_limit",
                "The most bytes that the waiting and failed events of one lane may take now; 0 for no limit",
                depth.lane_level_bytes().unwrap_or(0),
            ),
            (
                "idempotency_bytes_limit",
                "The most bytes of the idempotency keys of all lanes; 0 for no limit",
                depth.max_idempotency_bytes.unwrap_or(0),
            ),
            ("ready", "1 if events are accepted and handled, else 0", u64::from(self.is_ready)),
        ] {
            let gauge = ConstGauge::new(i64::try_from(now).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        // Exports classes that are still 0 as well. Otherwise the first failure of a class would not appear as a rate.
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor("events_failed", "Failed events by failure class", None, kind)?;
        for class in FailureClass::ALL {
            let total = counters.failed_by_class.get(&class).copied().unwrap_or(0);
            ConstCounter::new(total).encode(family.encode_family(&[("class", class.as_str())])?)?;
        }
        let help = "Requests that this host refused for want of a key or a right since its start, by reason";
        let mut family = encoder.encode_descriptor("auth_failures", help, None, kind)?;
        for (reason, total) in &self.own.auth_failures {
            ConstCounter::new(*total).encode(family.encode_family(&[("reason", *reason)])?)?;
        }
        let kind = ConstGauge::new(0_i64).metric_type();
        for (name, help, by_lane) in [
            ("events_queued", "Events that wait for a consumer, by lane", &depth.queued),
            (
                "events_waiting",
                "Events that have not ended: queued, running, deferred and retrying, by lane",
                &depth.waiting_by_lane,
            ),
            ("waiting_bytes", "Bytes of the events that have not ended, by lane", &depth.waiting_bytes_by_lane),
            ("failed_bytes", "Bytes of the failed events that are kept, by lane", &depth.failed_bytes_by_lane),
            ("idempotency_bytes", "Bytes of the idempotency keys, by lane", &depth.idempotency_bytes_by_lane),
            ("history_bytes", "Bytes of the processed and discarded events, by lane", &depth.kept_bytes_by_lane),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (lane, now) in by_lane {
                let gauge = ConstGauge::new(i64::try_from(*now).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&[("lane", lane.as_str())])?)?;
            }
        }
        let help = "1 for each plugin that is paused, by lane";
        let mut family = encoder.encode_descriptor("paused", help, None, kind)?;
        for lane in &self.paused {
            ConstGauge::new(1_i64).encode(family.encode_family(&[("lane", lane.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> HostTotals {
        HostTotals { unwritten_lines: 7, auth_failures: vec![("missing", 3)] }
    }

    #[test]
    fn the_older_text_names_counters_by_their_whole_name() {
        let text = to_plain_text(&openmetrics_text(BrokerStats::default(), Vec::new(), true, own()).unwrap());
        for line in [
            "# TYPE eventstream_events_processed_total counter",
            "eventstream_events_processed_total 0",
            "# TYPE eventstream_events_failed_total counter",
            "# TYPE eventstream_ready gauge",
            "eventstream_log_lines_unwritten_total 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("# EOF") && text.ends_with('\n'));
    }

    #[test]
    fn the_text_is_openmetrics_with_every_class() {
        let mut stats = BrokerStats::default();
        stats.counters.processed = 10;
        stats.counters.failed_by_class.insert(FailureClass::NoHandler, 2);
        stats.depth.queued.insert("user-signup".into(), 3);
        stats.depth.waiting_by_lane.insert("user-signup".into(), 8);
        stats.depth.waiting_bytes_by_lane.insert("user-signup".into(), 800);
        stats.depth.failed_bytes_by_lane.insert("user-signup".into(), 900);
        stats.depth.max_lane_bytes = Some(2_000);
        stats.depth.idempotency_bytes_by_lane.insert("user-signup".into(), 700);
        stats.depth.max_idempotency_bytes = Some(3_000);
        let text = openmetrics_text(stats, vec!["mail".parse().unwrap()], true, own()).unwrap();
        for line in [
            "# TYPE eventstream_events_processed counter",
            "eventstream_events_processed_total 10",
            "eventstream_log_lines_unwritten_total 7",
            "eventstream_events_failed_total{class=\"no-handler\"} 2",
            "eventstream_events_failed_total{class=\"trap\"} 0",
            "eventstream_auth_failures_total{reason=\"missing\"} 3",
            "eventstream_events_queued{lane=\"user-signup\"} 3",
            "eventstream_events_waiting{lane=\"user-signup\"} 8",
            "eventstream_waiting_bytes{lane=\"user-signup\"} 800",
            "eventstream_failed_bytes{lane=\"user-signup\"} 900",
            "eventstream_lane_bytes_limit 2000",
            "eventstream_idempotency_bytes{lane=\"user-signup\"} 700",
            "eventstream_idempotency_bytes_limit 3000",
            "eventstream_paused{lane=\"mail\"} 1",
            "eventstream_ready 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
