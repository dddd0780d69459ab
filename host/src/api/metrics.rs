//! `GET /metrics`: totals of the whole deployment and how much waits, as JSON or, when `Accept` asks for it, as
//! OpenMetrics text.
//!
//! The numbers are the broker's, so every host gives the same ones and they survive restarts; only what a host does not
//! write to its log is its own, since its start. Labels are the classes of failure and the lanes, which operators choose;
//! nothing that a client sends becomes a label.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde_json::json as object;

use crate::broker::Stats;

use super::problem::{Kind, Problem};
use super::{Api, json, query};

/// The media type of the text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Totals and depth.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let stats = api.broker.stats().await?;
    let mut response = if wants_text(&headers) {
        let text = text(stats, api.broker.health().ready(), api.unwritten.total())
            .map_err(|_| Problem::new(Kind::Internal, "the metrics cannot be written"))?;
        (StatusCode::OK, [(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS))], text).into_response()
    } else {
        json(StatusCode::OK, &flat(&stats, api.unwritten.total()))
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// Whether the first media range that we can give is text. Weights are not read: those who want text ask for it first.
fn wants_text(headers: &HeaderMap) -> bool {
    let ranges =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    for range in ranges {
        match range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/openmetrics-text" | "text/plain" | "text/*" => return true,
            "application/json" | "application/*" | "*/*" => return false,
            _ => {}
        }
    }
    false
}

fn flat(stats: &Stats, unwritten: u64) -> serde_json::Value {
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
        "recovered": counters.recovered,
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
        "logLinesUnwritten": unwritten,
    })
}

fn text(stats: Stats, ready: bool, unwritten: u64) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("eventstream");
    registry.register_collector(Box::new(Scrape { stats, ready, unwritten }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// One answer of the broker, to be written.
#[derive(Debug)]
struct Scrape {
    stats: Stats,
    ready: bool,
    unwritten: u64,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (counters, depth) = (&self.stats.counters, &self.stats.depth);
        for (name, help, total) in [
            ("accepted", "Events accepted from clients", counters.accepted),
            ("duplicates", "Events that clients sent again", counters.duplicates),
            ("published", "Events published by handlers", counters.published),
            ("processed", "Events that ended well", counters.processed),
            ("retried", "Attempts that are followed by another", counters.retried),
            ("replayed", "Failed events put back to work", counters.replayed),
            ("recovered", "Deliveries taken over from consumers that died", counters.recovered),
        ] {
            write_counter(&mut encoder, &format!("events_{name}"), help, total)?;
        }
        write_counter(
            &mut encoder,
            "data_losses",
            "Times that the store was found to have lost data",
            counters.data_losses,
        )?;
        write_counter(
            &mut encoder,
            "state_conflicts",
            "Times that an event was handled again since its plugin's state changed meanwhile",
            counters.state_conflicts,
        )?;
        write_counter(
            &mut encoder,
            "log_lines_unwritten",
            "Lines that this host left out of its log since its start",
            self.unwritten,
        )?;
        for (name, help, now) in [
            ("events_running", "Events being handled", depth.running),
            ("events_scheduled", "Events that are due later", depth.scheduled),
            ("events_processed_kept", "Processed events in the history", depth.processed_kept),
            ("events_failed_kept", "Failed events that wait for a person", depth.failed_kept),
            ("state_keys", "Keys of all plugins' state", depth.state_keys),
            ("consumers", "Consumers that the store knows", depth.consumers),
            ("ready", "Whether events are accepted and handled", u64::from(self.ready)),
        ] {
            let gauge = ConstGauge::new(i64::try_from(now).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        self.encode_families(encoder)
    }
}

impl Scrape {
    fn encode_families(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (counters, depth) = (&self.stats.counters, &self.stats.depth);
        // Every class is there from the start, so that a rate is seen when the first event of it fails.
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor("events_failed", "Events that ended badly", None, kind)?;
        for class in crate::event::Class::ALL {
            let total = counters.failed_by_class.get(&class).copied().unwrap_or(0);
            ConstCounter::new(total).encode(family.encode_family(&[("class", class.as_str())])?)?;
        }
        let kind = ConstGauge::new(0_i64).metric_type();
        let mut family = encoder.encode_descriptor("events_queued", "Events that wait for a consumer", None, kind)?;
        for (lane, now) in &depth.queued {
            let gauge = ConstGauge::new(i64::try_from(*now).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("lane", lane.as_str())])?)?;
        }
        Ok(())
    }
}

fn write_counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    total: u64,
) -> Result<(), std::fmt::Error> {
    let counter = ConstCounter::new(total);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_given_to_those_who_ask_for_it_first() {
        let wants = |accept: &str| wants_text(&HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]));
        for text in ["text/plain", "application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1", "text/html, text/*"] {
            assert!(wants(text), "{text}");
        }
        for json in ["*/*", "application/json", "application/json, text/plain", "image/png", ""] {
            assert!(!wants(json), "{json}");
        }
        assert!(!wants_text(&HeaderMap::new()));
    }

    #[test]
    fn the_text_is_openmetrics_with_every_class() {
        let mut stats = Stats::default();
        stats.counters.processed = 10;
        stats.counters.failed_by_class.insert(crate::event::Class::NoHandler, 2);
        stats.depth.queued.insert("user-signup".into(), 3);
        let text = text(stats, true, 7).unwrap();
        for line in [
            "# TYPE eventstream_events_processed counter",
            "eventstream_events_processed_total 10",
            "eventstream_log_lines_unwritten_total 7",
            "eventstream_events_failed_total{class=\"no-handler\"} 2",
            "eventstream_events_failed_total{class=\"trap\"} 0",
            "eventstream_events_queued{lane=\"user-signup\"} 3",
            "eventstream_ready 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
