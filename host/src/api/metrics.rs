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

use crate::broker::BrokerStats;

use super::problem::{Problem, ProblemKind};
use super::{ApiState, json, query};

/// The media type of the text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The media type of the older text.
const PLAIN_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Totals and depth.
pub(super) async fn show(
    State(api): State<Arc<ApiState>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let stats = api.event_log.stats().await?;
    let Some(form) = wanted(&headers) else {
        let forms = MetricsFormat::ALL.map(MetricsFormat::media_type).join(", ");
        return Err(Problem::new(ProblemKind::NotAcceptable, format!("metrics are given as {forms}")));
    };
    let unwritten = api.unwritten.total();
    let mut response = if form == MetricsFormat::Json {
        json(StatusCode::OK, &flat(&stats, unwritten))
    } else {
        let mut text = text(stats, api.event_log.health().ready(), unwritten)
            .map_err(|_| Problem::new(ProblemKind::Internal, "the metrics cannot be written"))?;
        if form == MetricsFormat::PlainText {
            text = plain(&text);
        }
        (StatusCode::OK, [(CONTENT_TYPE, HeaderValue::from_static(form.media_type()))], text).into_response()
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// A representation of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MetricsFormat {
    Json,
    OpenMetrics,
    /// The text format of Prometheus before OpenMetrics.
    PlainText,
}

impl MetricsFormat {
    /// Where a client wants several alike, it is given the first.
    const ALL: [Self; 3] = [Self::Json, Self::OpenMetrics, Self::PlainText];

    fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::OpenMetrics => OPENMETRICS,
            Self::PlainText => PLAIN_TEXT,
        }
    }

    /// The type, the subtype and the versions under which a client may ask for it.
    fn names(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Self::Json => ("application", "json", &[]),
            Self::OpenMetrics => ("application", "openmetrics-text", &["1.0.0", "0.0.1"]),
            Self::PlainText => ("text", "plain", &["0.0.4"]),
        }
    }
}

/// One media range of an `Accept` (RFC 9110, section 12.5.1).
struct MediaRange<'a> {
    kind: &'a str,
    subtype: &'a str,
    version: Option<&'a str>,
    /// In thousandths; 0 for what is not to be given.
    weight: u16,
}

impl<'a> MediaRange<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let mut range = Self { kind, subtype, version: None, weight: 1_000 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            if name.trim().eq_ignore_ascii_case("q") {
                // A weight that is none is one of 1.
                let weight = value.parse::<f64>().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(1.0);
                range.weight = (weight * 1_000.0).round() as u16;
            } else if name.trim().eq_ignore_ascii_case("version") {
                range.version = Some(value);
            }
        }
        Some(range)
    }

    /// How precisely it names a form; `None` if it does not. Other parameters than the version say how, not what.
    fn precision(&self, form: MetricsFormat) -> Option<u8> {
        let (kind, subtype, versions) = form.names();
        match (self.kind, self.subtype) {
            ("*", "*") => Some(0),
            (theirs, "*") => theirs.eq_ignore_ascii_case(kind).then_some(1),
            (theirs, theirs_too) if theirs.eq_ignore_ascii_case(kind) && theirs_too.eq_ignore_ascii_case(subtype) => {
                match self.version {
                    None => Some(2),
                    Some(version) => versions.contains(&version).then_some(3),
                }
            }
            _ => None,
        }
    }
}

/// The form that a client likes most; `None` if it takes none of ours. Without an `Accept` it is JSON.
fn wanted(headers: &HeaderMap) -> Option<MetricsFormat> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<MediaRange<'_>> = values.flat_map(|value| value.split(',')).filter_map(MediaRange::parse).collect();
    if ranges.is_empty() {
        return Some(MetricsFormat::Json);
    }
    let mut best: Option<(u16, MetricsFormat)> = None;
    for form in MetricsFormat::ALL {
        // The range that names it most precisely says how much it is wanted.
        let named = ranges.iter().filter_map(|range| Some((range.precision(form)?, range.weight)));
        let weight = named.max_by_key(|(precision, weight)| (*precision, *weight)).map_or(0, |(_, weight)| weight);
        if weight > best.map_or(0, |(best, _)| best) {
            best = Some((weight, form));
        }
    }
    best.map(|(_, form)| form)
}

fn flat(stats: &BrokerStats, unwritten: u64) -> serde_json::Value {
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
        "logLinesUnwritten": unwritten,
    })
}

fn text(stats: BrokerStats, ready: bool, unwritten: u64) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("eventstream");
    registry.register_collector(Box::new(MetricsText { stats, ready, unwritten }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The same in the older format: there the name of a counter ends in `_total` in the lines about it, too, and the end is not
/// marked.
fn plain(openmetrics: &str) -> String {
    let mut counters = std::collections::HashSet::new();
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

/// One answer of the broker, to be written.
#[derive(Debug)]
struct MetricsText {
    stats: BrokerStats,
    ready: bool,
    unwritten: u64,
}

impl Collector for MetricsText {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (counters, depth) = (&self.stats.counters, &self.stats.depth);
        for (name, help, total) in [
            ("accepted", "Events accepted from clients", counters.accepted),
            ("duplicates", "Events that clients sent again", counters.duplicates),
            ("published", "Events published by handlers", counters.published),
            ("processed", "Events that ended well", counters.processed),
            ("retried", "Attempts that are followed by another", counters.retried),
            ("replayed", "Failed events put back to work", counters.replayed),
            ("deferred", "Attempts put off since too many events wait", counters.deferred),
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

impl MetricsText {
    fn encode_families(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (counters, depth) = (&self.stats.counters, &self.stats.depth);
        // Every class is there from the start, so that a rate is seen when the first event of it fails.
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor("events_failed", "Events that ended badly", None, kind)?;
        for class in crate::event::FailureClass::ALL {
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
    fn a_client_is_given_what_it_likes_most_of_what_there_is() {
        let given = |accept: &str| wanted(&HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]));
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        let prometheus_3 = format!(
            "{protobuf};q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        );
        for (form, accept) in [
            (
                Some(MetricsFormat::OpenMetrics),
                "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ),
            (Some(MetricsFormat::OpenMetrics), prometheus_3.as_str()),
            (Some(MetricsFormat::OpenMetrics), "application/openmetrics-text; version=\"0.0.1\"; charset=utf-8"),
            (Some(MetricsFormat::PlainText), "text/plain;version=0.0.4;escaping=allow-utf-8;q=0.6,*/*;q=0.5"),
            (Some(MetricsFormat::PlainText), "application/openmetrics-text;version=2.0.0,text/plain;q=0.5"),
            (Some(MetricsFormat::PlainText), "text/plain"),
            (Some(MetricsFormat::PlainText), "text/html, Text/*;q=0.9"),
            (Some(MetricsFormat::PlainText), "application/json;q=0.1, text/plain"),
            (Some(MetricsFormat::PlainText), "*/*;q=0.1, text/plain;q=0.9"),
            (Some(MetricsFormat::PlainText), "application/json;q=0, text/plain"),
            (Some(MetricsFormat::OpenMetrics), "application/json;q=0, */*"),
            (Some(MetricsFormat::Json), "*/*"),
            (Some(MetricsFormat::Json), "application/json, text/plain"),
            (Some(MetricsFormat::Json), "application/*;q=0.5"),
            (Some(MetricsFormat::Json), ""),
            (None, "application/xml"),
            (None, "text/plain;version=1.0.0"),
            (None, "*/*;q=0"),
        ] {
            assert_eq!(given(accept), form, "{accept}");
        }
        assert_eq!(wanted(&HeaderMap::new()), Some(MetricsFormat::Json));
    }

    #[test]
    fn the_older_text_names_counters_by_their_whole_name() {
        let text = plain(&text(BrokerStats::default(), true, 7).unwrap());
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
        stats.counters.failed_by_class.insert(crate::event::FailureClass::NoHandler, 2);
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
