//! Every kind of line comes back as it was written, and a wrong line is refused with its reason.

use std::collections::BTreeMap;

use super::format::LineCounts;
use super::{ExportLine, read_header, read_line, write_end, write_header, write_item};
use crate::broker::{ExportedEvent, ExportedKey, ExportedState, Lane, SnapshotItem};
use crate::event::{
    AttemptRecord, Event, EventData, EventEnd, EventId, EventRecord, FailureClass, Idempotency, Timestamp,
};
use crate::transfer::Error;

fn event_record() -> EventRecord {
    let event = Event {
        id: EventId::new(),
        event_type: "order.paid".parse().unwrap(),
        source: "/shop \"1\"".into(),
        subject: Some("order\n7".into()),
        time: Some("2026-11-23T15:04:05Z".into()),
        data_content_type: Some("application/json".into()),
        data_schema: Some("x:y".into()),
        extensions: BTreeMap::from([("partitionkey".into(), "a|b\n\u{2028}".into())]),
        accepted_at: Timestamp::from_unix_ms(1_795_446_245_007),
        cause: Some(EventId::new()),
        depth: 3,
        data: Some(EventData::text("{\"n\": 12345678901234567890.10,\"n\":1}")),
    };
    let attempt = AttemptRecord {
        attempt: 1,
        replay: 0,
        started_at: event.accepted_at,
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

fn failed_record(result: Option<EventData>, children: Vec<EventId>) -> EventRecord {
    let failure = Some((FailureClass::Reject, "no\n\"good\"".into()));
    let end = EventEnd { at: Timestamp::from_unix_ms(7), failure, result, children, discarded: None };
    EventRecord { end: Some(end), ..event_record() }
}

fn waiting_item(record: EventRecord, due: Option<Timestamp>) -> SnapshotItem {
    SnapshotItem::Waiting(ExportedEvent { record, lane: Lane::unrouted(), due })
}

#[test]
fn every_item_is_the_same_after_it_was_written_as_one_line() {
    let bare = Event {
        subject: None,
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: BTreeMap::new(),
        cause: None,
        depth: 0,
        data: None,
        ..(*event_record().event).clone()
    };
    let idempotency = Idempotency { key: [0x0f; 32], fingerprint: std::array::from_fn(|n| n as u8 * 8) };
    for exported in [
        SnapshotItem::Key(ExportedKey { idempotency, id: EventId::new(), until: Timestamp::MAX }),
        waiting_item(event_record(), Some(Timestamp::from_unix_ms(1_795_446_245_008))),
        waiting_item(EventRecord::new(bare), None),
        waiting_item(
            EventRecord::new(Event { data: Some(EventData::text("null")), ..(*event_record().event).clone() }),
            None,
        ),
        SnapshotItem::State(ExportedState {
            plugin: "a".into(),
            key: "k \"1\"".into(),
            value: vec![0, 200].into(),
            until: Some(Timestamp::from_unix_ms(7)),
        }),
        SnapshotItem::Failed(failed_record(None, Vec::new())),
        SnapshotItem::Failed(failed_record(Some(EventData::binary(vec![0, 255])), vec![EventId::new()])),
    ] {
        let line = write_item(&exported).unwrap();
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1), "one line");
        match read_line(&line).unwrap() {
            ExportLine::Item(read) => assert_eq!(*read, exported, "{}", String::from_utf8_lossy(&line)),
            ExportLine::End(_) => panic!("it is not the end"),
        }
    }
    let holds = LineCounts { keys: 1, events: 2, failed: 3, state: 4 };
    assert!(matches!(read_line(&write_end(holds).unwrap()), Ok(ExportLine::End(read)) if read == holds));
}

#[test]
fn only_exports_that_can_be_read_are_read() {
    let ours = String::from_utf8(write_header(Timestamp::from_unix_ms(0)).unwrap()).unwrap();
    read_header(ours.as_bytes()).unwrap();
    let newer = ours.replace("\"version\":2", "\"version\":3,\"compressed\":true");
    read_header(ours.replace("\"version\":2", "\"version\":1").as_bytes()).unwrap();
    assert!(matches!(read_header(newer.as_bytes()), Err(Error::Newer { found: 3, known: 2 })));
    for foreign in ["", "\n", "{}", "hello", "[1]", &ours.replace("eventstream-export", "other")] {
        assert!(matches!(read_header(foreign.as_bytes()), Err(Error::NotAnExport)), "{foreign:?}");
    }
}

#[test]
fn a_line_that_says_less_or_more_than_it_should_is_refused() {
    let waiting = String::from_utf8(write_item(&waiting_item(event_record(), None)).unwrap()).unwrap();
    let failed =
        String::from_utf8(write_item(&SnapshotItem::Failed(failed_record(None, Vec::new()))).unwrap()).unwrap();
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
        (String::from_utf8(write_header(Timestamp::MAX).unwrap()).unwrap(), "second export"),
        (String::new(), "EOF"),
    ] {
        let message = read_line(bad.as_bytes()).unwrap_err();
        assert!(message.contains(reason), "{reason:?} in {message:?} for {bad}");
    }
}
