//! The JSON of an event: one form for every state, alone and in lists.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::event::{
    AttemptRecord, DataView, EventId, EventRecord, EventState, FailureClass, Timestamp, data_view, is_zero,
};

/// The extension that is shown as the member `key`.
const PARTITION_KEY: &str = "partitionkey";

/// The reason that an event shows whose last attempt was deferred.
const DEFERRED: &str = "the last attempt was deferred, because it publishes into a lane in which too many events wait \
    (broker.max_waiting, plugins.NAME.max_waiting) or take too many bytes (broker.max_waiting_bytes); the log names the lane";

/// An event with its attempts and its end.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventView<'a> {
    id: EventId,
    r#type: &'a str,
    state: EventState,
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a str>,
    accepted_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<FailureClass>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discarded_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discard_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extensions: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<DataView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<DataView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
    children: &'a [EventId],
    attempt_count: u32,
    /// The attempts in a row that a limit of the deployment deferred.
    #[serde(skip_serializing_if = "is_zero")]
    deferrals: u32,
    replays: u32,
    attempts: &'a [AttemptRecord],
}

impl<'a> EventView<'a> {
    /// The view of an event in this state. `due` is when it starts, if it is scheduled.
    pub(super) fn new(record: &'a EventRecord, state: EventState, due: Option<Timestamp>) -> Self {
        let EventRecord { event, attempts_made, failures: _, replays, deferrals, attempts, end } = record;
        let (end, deferrals) = (end.as_ref(), *deferrals);
        let failure = end.and_then(|end| end.failure.as_ref());
        let discard = end.and_then(|end| end.discarded.as_ref());
        let is_deferred = end.is_none() && deferrals > 0;
        let result = end.and_then(|end| end.result.as_ref());
        let (payload, payload_base64) = data_view(event.data.as_ref(), event.data_content_type.as_deref());
        let (result, result_base64) = data_view(result, None);
        let extensions = event.extensions.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Self {
            id: event.id,
            r#type: event.event_type.as_str(),
            state,
            source: &event.source,
            subject: event.subject.as_deref(),
            key: event.extensions.get(PARTITION_KEY).map(String::as_str),
            time: event.time.as_deref(),
            accepted_at: event.accepted_at,
            due_at: due,
            ended_at: end.map(|end| end.at),
            failed_at: failure.and(end).map(|end| end.at),
            class: failure.map(|(class, _)| *class),
            reason: failure.map(|(_, reason)| reason.as_str()).or(is_deferred.then_some(DEFERRED)),
            discarded_at: discard.map(|discard| discard.at),
            discard_reason: discard.map(|discard| discard.reason.as_str()),
            content_type: event.data_content_type.as_deref(),
            schema: event.data_schema.as_deref(),
            extensions: extensions.filter(|(name, _)| *name != PARTITION_KEY).collect(),
            payload,
            payload_base64,
            cause: event.cause,
            result,
            result_base64,
            children: end.map_or(&[], |end| &end.children),
            attempt_count: *attempts_made,
            deferrals,
            replays: *replays,
            attempts,
        }
    }

    /// The view of an event that has ended.
    pub(super) fn of_ended(record: &'a EventRecord) -> Self {
        let failed = record.end.as_ref().is_some_and(|end| end.failure.is_some());
        Self::new(record, if failed { EventState::Failed } else { EventState::Processed }, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DEFAULT_SOURCE, Event, EventData, EventEnd};

    fn record(data: Option<EventData>, content_type: Option<&str>) -> EventRecord {
        EventRecord::new(Event {
            id: EventId::new(),
            event_type: "a".parse().unwrap(),
            source: DEFAULT_SOURCE.into(),
            subject: None,
            time: None,
            data_content_type: content_type.map(str::to_owned),
            data_schema: None,
            extensions: BTreeMap::from([(PARTITION_KEY.to_owned(), "k".to_owned()), ("x".to_owned(), "y".to_owned())]),
            accepted_at: Timestamp::from_unix_ms(0),
            cause: None,
            depth: 0,
            data,
        })
    }

    fn shown(record: &EventRecord) -> String {
        serde_json::to_string(&EventView::new(record, EventState::Queued, None)).unwrap()
    }

    #[test]
    fn json_comes_back_byte_for_byte() {
        for payload in
            ["{ \"b\":1, \"a\" : 12345678901234567890.10 }", "null", "\"\\u00e9\"", "[ ]", "1e400", "9007199254740993"]
        {
            let text = shown(&record(Some(EventData::text(payload)), Some("application/json; charset=utf-8")));
            assert!(text.contains(&format!("\"payload\":{payload},")), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_a_string_or_base64() {
        for (data, content_type, member) in [
            (EventData::text("hello"), Some("text/plain"), "\"payload\":\"hello\","),
            (EventData::text("1"), Some("text/plain"), "\"payload\":\"1\","),
            (EventData::text("{\"torn\":"), Some("application/json"), "\"payload\":\"{\\\"torn\\\":\","),
            (EventData::text(" 1"), None, "\"payload\":\" 1\","),
            (EventData::text("1"), None, "\"payload\":1,"),
            (EventData::binary(vec![0xff, 0]), Some("image/png"), "\"payloadBase64\":\"/wA=\","),
        ] {
            let text = shown(&record(Some(data), content_type));
            assert!(text.contains(member), "{text} lacks {member}");
        }
        assert!(!shown(&record(None, None)).contains("payload"));
    }

    #[test]
    fn the_key_is_a_member_and_no_extension() {
        let view: serde_json::Value = serde_json::from_str(&shown(&record(None, None))).unwrap();
        assert_eq!((&view["key"], &view["extensions"]), (&"k".into(), &serde_json::json!({ "x": "y" })));
    }

    #[test]
    fn a_failed_event_says_why_and_a_processed_one_what_came_of_it() {
        let mut failed = record(None, None);
        let at = Timestamp::from_unix_ms(5);
        let failure = Some((FailureClass::Reject, "no e-mail".to_owned()));
        failed.end = Some(EventEnd { at, failure, result: None, children: Vec::new(), discarded: None });
        let view = serde_json::to_value(EventView::of_ended(&failed)).unwrap();
        assert_eq!((&view["state"], &view["class"]), (&"failed".into(), &"reject".into()));
        assert_eq!((&view["reason"], &view["failedAt"]), (&"no e-mail".into(), &"1970-01-01T00:00:00.005Z".into()));

        let child = EventId::new();
        failed.end = Some(EventEnd {
            at,
            failure: None,
            result: Some(EventData::text("{\"ok\":true}")),
            children: vec![child],
            discarded: None,
        });
        let view = serde_json::to_value(EventView::of_ended(&failed)).unwrap();
        assert_eq!((&view["state"], &view["result"]), (&"processed".into(), &serde_json::json!({ "ok": true })));
        assert_eq!(view["children"], serde_json::json!([child]));
        assert_eq!(view.get("failedAt"), None);
    }

    #[test]
    fn a_deferred_event_says_how_often_and_why() {
        let mut deferred = record(None, None);
        deferred.deferrals = 3;
        let view = serde_json::to_value(EventView::new(&deferred, EventState::Scheduled, None)).unwrap();
        let reason = view["reason"].as_str().unwrap_or_default();
        assert!(view["deferrals"] == 3 && reason.contains("broker.max_waiting"), "{view}");
        deferred.deferrals = 0;
        let view = serde_json::to_value(EventView::new(&deferred, EventState::Scheduled, None)).unwrap();
        assert_eq!((view.get("deferrals"), view.get("reason")), (None, None));
    }
}
