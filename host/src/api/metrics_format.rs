//! The formats of the metrics, and which of them a client prefers by its `Accept`.

use axum::http::header::{ACCEPT, HeaderMap};

use crate::event::media_type;

/// A format of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetricsFormat {
    /// JSON.
    Json,
    /// OpenMetrics text.
    OpenMetrics,
    /// The text format of Prometheus before OpenMetrics.
    PlainText,
}

impl MetricsFormat {
    /// In order of preference, for clients that want several of them equally.
    pub(super) const ALL: [Self; 3] = [Self::Json, Self::OpenMetrics, Self::PlainText];

    /// Its media type, with its parameters.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Json => media_type::JSON,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::PlainText => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The type, the subtype and the versions by which a client may ask for it.
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
    /// In thousandths. 0 refuses the format.
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
                // An invalid weight counts as 1.
                let weight = value.parse::<f64>().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(1.0);
                range.weight = (weight * 1_000.0).round() as u16;
            } else if name.trim().eq_ignore_ascii_case("version") {
                range.version = Some(value);
            }
        }
        Some(range)
    }

    /// How precisely the range names a format: `None` if it does not, 3 at most. Of the parameters only the version counts.
    fn precision(&self, format: MetricsFormat) -> Option<u8> {
        let (kind, subtype, versions) = format.names();
        match (self.kind, self.subtype) {
            ("*", "*") => Some(0),
            (their_kind, "*") => their_kind.eq_ignore_ascii_case(kind).then_some(1),
            (their_kind, theirs) if their_kind.eq_ignore_ascii_case(kind) && theirs.eq_ignore_ascii_case(subtype) => {
                match self.version {
                    None => Some(2),
                    Some(version) => versions.contains(&version).then_some(3),
                }
            }
            _ => None,
        }
    }
}

/// Chooses the format that the client prefers by its `Accept`: JSON if there is none, `None` if it accepts no format.
pub(super) fn negotiate(headers: &HeaderMap) -> Option<MetricsFormat> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<MediaRange<'_>> = values.flat_map(|value| value.split(',')).filter_map(MediaRange::parse).collect();
    if ranges.is_empty() {
        return Some(MetricsFormat::Json);
    }
    let mut best: Option<(u16, MetricsFormat)> = None;
    for format in MetricsFormat::ALL {
        // The most precise range decides the weight of a format.
        let named = ranges.iter().filter_map(|range| Some((range.precision(format)?, range.weight)));
        let weight = named.max_by_key(|(precision, weight)| (*precision, *weight)).map_or(0, |(_, weight)| weight);
        if weight > best.map_or(0, |(best, _)| best) {
            best = Some((weight, format));
        }
    }
    best.map(|(_, format)| format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_format_that_it_prefers() {
        let given = |accept: &str| negotiate(&HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]));
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
        assert_eq!(negotiate(&HeaderMap::new()), Some(MetricsFormat::Json));
    }
}
