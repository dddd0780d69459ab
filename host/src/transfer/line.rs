//! The lines of an export: a first one that says what follows, one for each key and event, and a last one that counts.
//!
//! Each is an object of JSON whose `kind` says what it is. A change that an older reader would take wrongly gets a new
//! [`VERSION`]. What a line says is checked as strictly as what comes in by HTTP: an unknown member is an error, since
//! what it means would be lost.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::payload::LinePayload;
use super::{Error, TransferCounts};
use crate::broker::{ExportedEvent, ExportedKey, ExportedState, Lane, SnapshotItem};
use crate::event::{
    AttemptRecord, DataKind, Event, EventData, EventEnd, EventId, EventRecord, EventType, FailureClass, Idempotency,
    Timestamp, is_zero,
};

/// What the first line calls itself.
const FORMAT: &str = "eventstream-export";
/// The version that is written, and the newest that is read.
pub(super) const VERSION: u32 = 2;

/// A line that was read.
#[derive(Debug)]
pub(super) enum ExportLine {
    Item(Box<SnapshotItem>),
    End(LineCounts),
}

/// What the last line says of those before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LineCounts {
    pub(super) keys: u64,
    pub(super) events: u64,
    pub(super) failed: u64,
    /// Not there in version 1.
    #[serde(default)]
    pub(super) state: u64,
}

impl LineCounts {
    pub(super) fn of(moved: &TransferCounts) -> Self {
        Self { keys: moved.keys, events: moved.events, failed: moved.failed, state: moved.state }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LineType {
    Header,
    IdempotencyKey,
    Event,
    Failed,
    State,
    End,
}

#[derive(Deserialize)]
struct AnyLine {
    kind: LineType,
}

/// Read leniently, so that a newer version is told apart from something else.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeaderLine<'a> {
    kind: LineType,
    #[serde(borrow)]
    format: Cow<'a, str>,
    version: u32,
    exported_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyLine<'a> {
    kind: LineType,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    fingerprint: Cow<'a, str>,
    event_id: EventId,
    until: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateLine<'a> {
    kind: LineType,
    #[serde(borrow)]
    plugin: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: LinePayload<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EventLine<'a> {
    kind: LineType,
    id: EventId,
    #[serde(rename = "type")]
    event_type: EventType,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    time: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data_content_type: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data_schema: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    extensions: Cow<'a, BTreeMap<String, String>>,
    accepted_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<EventId>,
    /// Left out where it is 0, as it was before there was one.
    #[serde(default, skip_serializing_if = "is_zero")]
    depth: u32,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    payload: Option<LinePayload<'a>>,
    /// Of an event that waits: where, and until when.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    lane: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due_at: Option<Timestamp>,
    attempts_made: u32,
    failures: u32,
    replays: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    deferrals: u32,
    attempts: Cow<'a, [AttemptRecord]>,
    /// Of a failed event.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    end: Option<EndLine<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine<'a> {
    at: Timestamp,
    class: FailureClass,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    result: Option<LinePayload<'a>>,
    #[serde(default, skip_serializing_if = "<[EventId]>::is_empty")]
    children: Cow<'a, [EventId]>,
}

#[derive(Serialize, Deserialize)]
struct EndOfExport {
    kind: LineType,
    holds: LineCounts,
}

fn is_empty(extensions: &BTreeMap<String, String>) -> bool {
    extensions.is_empty()
}

/// The first line.
pub(super) fn header(now: Timestamp) -> Result<Vec<u8>, serde_json::Error> {
    written(&HeaderLine { kind: LineType::Header, format: FORMAT.into(), version: VERSION, exported_at: now })
}

/// The line of a key or an event.
pub(super) fn item(exported: &SnapshotItem) -> Result<Vec<u8>, serde_json::Error> {
    match exported {
        SnapshotItem::Key(ExportedKey { idempotency, id, until }) => written(&KeyLine {
            kind: LineType::IdempotencyKey,
            key: hexadecimal(&idempotency.key).into(),
            fingerprint: hexadecimal(&idempotency.fingerprint).into(),
            event_id: *id,
            until: *until,
        }),
        SnapshotItem::Waiting(ExportedEvent { record, lane, due }) => {
            let line = event_line(LineType::Event, record);
            written(&EventLine { lane: Some(lane.as_str().into()), due_at: *due, ..line })
        }
        SnapshotItem::State(ExportedState { plugin, key, value, until }) => {
            let kind = if std::str::from_utf8(value).is_ok() { DataKind::Text } else { DataKind::Binary };
            let data = EventData { bytes: value.clone(), kind };
            let (plugin, key) = (Cow::Borrowed(plugin.as_str()), Cow::Borrowed(key.as_str()));
            written(&StateLine { kind: LineType::State, plugin, key, value: LinePayload::from(&data), until: *until })
        }
        SnapshotItem::Failed(record) => written(&event_line(LineType::Failed, record)),
    }
}

/// The last line.
pub(super) fn end(holds: LineCounts) -> Result<Vec<u8>, serde_json::Error> {
    written(&EndOfExport { kind: LineType::End, holds })
}

fn written(line: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn event_line(kind: LineType, record: &EventRecord) -> EventLine<'_> {
    let EventRecord { event, attempts_made, failures, replays, deferrals, attempts, end } = record;
    EventLine {
        kind,
        id: event.id,
        event_type: event.event_type.clone(),
        source: event.source.as_str().into(),
        subject: event.subject.as_deref().map(Cow::Borrowed),
        time: event.time.as_deref().map(Cow::Borrowed),
        data_content_type: event.data_content_type.as_deref().map(Cow::Borrowed),
        data_schema: event.data_schema.as_deref().map(Cow::Borrowed),
        extensions: Cow::Borrowed(&event.extensions),
        accepted_at: event.accepted,
        cause: event.cause,
        depth: event.depth,
        payload: event.data.as_ref().map(LinePayload::from),
        lane: None,
        due_at: None,
        attempts_made: *attempts_made,
        failures: *failures,
        replays: *replays,
        deferrals: *deferrals,
        attempts: Cow::Borrowed(attempts),
        end: end.as_ref().and_then(|end| {
            let (class, reason) = end.failure.as_ref()?;
            Some(EndLine {
                at: end.at,
                class: *class,
                reason: reason.as_str().into(),
                result: end.result.as_ref().map(LinePayload::from),
                children: Cow::Borrowed(&end.children),
            })
        }),
    }
}

/// Whether the first line is that of an export that can be read.
///
/// # Errors
/// [`Error::NotAnExport`] and [`Error::Newer`].
pub(super) fn check_header(line: &[u8]) -> Result<(), Error> {
    match serde_json::from_slice::<HeaderLine<'_>>(line) {
        Ok(header) if header.format != FORMAT || header.kind != LineType::Header => Err(Error::NotAnExport),
        Ok(header) if header.version > VERSION => Err(Error::Newer { found: header.version, known: VERSION }),
        Ok(_) => Ok(()),
        Err(_) => Err(Error::NotAnExport),
    }
}

/// Reads a line that follows the first one.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(line: &[u8]) -> Result<ExportLine, String> {
    let told = |error: serde_json::Error| error.to_string();
    let AnyLine { kind } = serde_json::from_slice(line).map_err(told)?;
    let exported = match kind {
        LineType::Header => return Err("a second export begins here".into()),
        LineType::End => return Ok(ExportLine::End(serde_json::from_slice::<EndOfExport>(line).map_err(told)?.holds)),
        LineType::IdempotencyKey => {
            let line: KeyLine<'_> = serde_json::from_slice(line).map_err(told)?;
            let digest = |text: &str| from_hexadecimal(text).ok_or("a digest is 64 digits in hexadecimal");
            let idempotency = Idempotency { key: digest(&line.key)?, fingerprint: digest(&line.fingerprint)? };
            SnapshotItem::Key(ExportedKey { idempotency, id: line.event_id, until: line.until })
        }
        LineType::State => {
            let line: StateLine<'_> = serde_json::from_slice(line).map_err(told)?;
            let value = line.value.into_data()?.bytes;
            let (plugin, key) = (line.plugin.into_owned(), line.key.into_owned());
            SnapshotItem::State(ExportedState { plugin, key, value, until: line.until })
        }
        LineType::Event => {
            let line: EventLine<'_> = serde_json::from_slice(line).map_err(told)?;
            let lane: Lane = line
                .lane
                .as_deref()
                .ok_or("an event that waits has a lane")?
                .parse()
                .map_err(|error| format!("{error}"))?;
            let due = line.due_at;
            let record = record(line)?;
            if record.end.is_some() {
                return Err("an event that waits has not ended".into());
            }
            SnapshotItem::Waiting(ExportedEvent { record, lane, due })
        }
        LineType::Failed => {
            let record = record(serde_json::from_slice(line).map_err(told)?)?;
            if record.end.is_none() {
                return Err("a failed event says when and why it failed".into());
            }
            SnapshotItem::Failed(record)
        }
    };
    Ok(ExportLine::Item(Box::new(exported)))
}

fn record(line: EventLine<'_>) -> Result<EventRecord, String> {
    let event = Event {
        id: line.id,
        event_type: line.event_type,
        source: line.source.into_owned(),
        subject: line.subject.map(Cow::into_owned),
        time: line.time.map(Cow::into_owned),
        data_content_type: line.data_content_type.map(Cow::into_owned),
        data_schema: line.data_schema.map(Cow::into_owned),
        extensions: line.extensions.into_owned(),
        accepted: line.accepted_at,
        cause: line.cause,
        depth: line.depth,
        data: line.payload.map(LinePayload::into_data).transpose()?,
    };
    let end = match line.end {
        None => None,
        Some(end) => Some(EventEnd {
            at: end.at,
            failure: Some((end.class, end.reason.into_owned())),
            result: end.result.map(LinePayload::into_data).transpose()?,
            children: end.children.into_owned(),
        }),
    };
    let EventLine { attempts_made, failures, replays, deferrals, attempts, .. } = line;
    let attempts = attempts.into_owned();
    Ok(EventRecord { event: event.into(), attempts_made, failures, replays, deferrals, attempts, end })
}

fn hexadecimal(digest: &[u8; 32]) -> String {
    digest.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|n| char::from_digit(u32::from(n), 16)).collect()
}

fn from_hexadecimal(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |place: usize| char::from(pair[place]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> EventRecord {
        let event = Event {
            id: EventId::new(),
            event_type: "order.paid".parse().unwrap(),
            source: "/shop \"1\"".into(),
            subject: Some("order\n7".into()),
            time: Some("2026-11-23T15:04:05Z".into()),
            data_content_type: Some("application/json".into()),
            data_schema: Some("x:y".into()),
            extensions: BTreeMap::from([("partitionkey".into(), "a|b\n\u{2028}".into())]),
            accepted: Timestamp::from_unix_ms(1_795_446_245_007),
            cause: Some(EventId::new()),
            depth: 3,
            data: Some(EventData::text("{\"n\": 12345678901234567890.10,\"n\":1}")),
        };
        let attempt = AttemptRecord {
            attempt: 1,
            replay: 0,
            started_at: event.accepted,
            duration_ms: 1.25,
            class: Some(FailureClass::NoHandler),
            error: Some("no\nplugin".into()),
            backtrace: None,
            retry_in_ms: Some(900),
            consumer: "host-1".into(),
            plugin: None,
            digest: None,
            stderr: None,
            log: Vec::new(),
            log_lines_dropped: 0,
        };
        EventRecord { attempts_made: 3, failures: 1, replays: 2, attempts: vec![attempt], ..EventRecord::new(event) }
    }

    fn failed(result: Option<EventData>, children: Vec<EventId>) -> EventRecord {
        let failure = Some((FailureClass::Reject, "no\n\"good\"".into()));
        let end = EventEnd { at: Timestamp::from_unix_ms(7), failure, result, children };
        EventRecord { end: Some(end), ..record() }
    }

    fn waits(record: EventRecord, due: Option<Timestamp>) -> SnapshotItem {
        SnapshotItem::Waiting(ExportedEvent { record, lane: Lane::unrouted(), due })
    }

    #[test]
    fn everything_comes_back_as_it_was_from_one_line() {
        let bare = Event {
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: BTreeMap::new(),
            cause: None,
            depth: 0,
            data: None,
            ..(*record().event).clone()
        };
        let idempotency = Idempotency { key: [0x0f; 32], fingerprint: std::array::from_fn(|n| n as u8 * 8) };
        for exported in [
            SnapshotItem::Key(ExportedKey { idempotency, id: EventId::new(), until: Timestamp::MAX }),
            waits(record(), Some(Timestamp::from_unix_ms(1_795_446_245_008))),
            waits(EventRecord::new(bare), None),
            waits(EventRecord::new(Event { data: Some(EventData::text("null")), ..(*record().event).clone() }), None),
            SnapshotItem::State(ExportedState {
                plugin: "a".into(),
                key: "k \"1\"".into(),
                value: vec![0, 200].into(),
                until: Some(Timestamp::from_unix_ms(7)),
            }),
            SnapshotItem::Failed(failed(None, Vec::new())),
            SnapshotItem::Failed(failed(Some(EventData::binary(vec![0, 255])), vec![EventId::new()])),
        ] {
            let line = item(&exported).unwrap();
            assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1), "one line");
            match parse(&line).unwrap() {
                ExportLine::Item(read) => assert_eq!(*read, exported, "{}", String::from_utf8_lossy(&line)),
                ExportLine::End(_) => panic!("it is not the end"),
            }
        }
        let holds = LineCounts { keys: 1, events: 2, failed: 3, state: 4 };
        assert!(matches!(parse(&end(holds).unwrap()), Ok(ExportLine::End(read)) if read == holds));
    }

    #[test]
    fn only_exports_that_can_be_read_are_read() {
        let ours = String::from_utf8(header(Timestamp::from_unix_ms(0)).unwrap()).unwrap();
        check_header(ours.as_bytes()).unwrap();
        let newer = ours.replace("\"version\":2", "\"version\":3,\"compressed\":true");
        check_header(ours.replace("\"version\":2", "\"version\":1").as_bytes()).unwrap();
        assert!(matches!(check_header(newer.as_bytes()), Err(Error::Newer { found: 3, known: 2 })));
        for foreign in ["", "\n", "{}", "hello", "[1]", &ours.replace("eventstream-export", "other")] {
            assert!(matches!(check_header(foreign.as_bytes()), Err(Error::NotAnExport)), "{foreign:?}");
        }
    }

    #[test]
    fn a_line_that_says_less_or_more_than_it_should_is_refused() {
        let waiting = String::from_utf8(item(&waits(record(), None)).unwrap()).unwrap();
        let failed = String::from_utf8(item(&SnapshotItem::Failed(failed(None, Vec::new()))).unwrap()).unwrap();
        for (bad, reason) in [
            (waiting.replace("\"lane\":\"_\"", "\"lane\":\"../a\""), "lane"),
            (waiting.replace(",\"lane\":\"_\"", ""), "lane"),
            (waiting.replace("\"lane\"", "\"future\":1,\"lane\""), "future"),
            (waiting.replace("order.paid", "order paid"), "type"),
            (waiting.replace("\"failures\":1,", ""), "failures"),
            (failed.replace("\"kind\":\"failed\"", "\"kind\":\"event\",\"lane\":\"a\""), "not ended"),
            (waiting.replace("\"kind\":\"event\"", "\"kind\":\"failed\""), "when and why"),
            (waiting.replace("\"kind\":\"event\"", "\"kind\":\"secret\""), "secret"),
            (waiting[..waiting.len() / 2].to_owned(), "EOF"),
            (r#"{"kind":"idempotency-key","key":"0","fingerprint":"0","eventId":"01890a5d-ac96-774b-bcce-b302099a8057","until":"2026-11-23T15:04:05Z"}"#.to_owned(), "64 digits"),
            (String::from_utf8(header(Timestamp::MAX).unwrap()).unwrap(), "second export"),
            (String::new(), "EOF"),
        ] {
            let told = parse(bad.as_bytes()).unwrap_err();
            assert!(told.contains(reason), "{reason:?} in {told:?} for {bad}");
        }
    }
}
