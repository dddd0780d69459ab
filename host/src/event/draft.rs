//! Parses and validates the body of a request. Events from clients enter the program here only.
//!
//! A payload stays the slice of the body that it was: parsing and printing it again would round numbers and reorder
//! members. Validation reports all faults of a request at once, each with its place.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::json::depth_is_within;
use super::limits::EventLimits;
use super::reader::{EventFault, EventReader, Idempotency, NewEvent, RawEvent, RejectedRequest, digest_parts};
use super::time::Timestamp;

/// A request body that was parsed but not validated: one event, or an array of events.
pub struct ParsedBody<'a> {
    body: &'a Bytes,
    /// The body without the white space around it.
    text: &'a str,
    is_batch: bool,
    items: Vec<RawEvent<'a>>,
}

impl<'a> ParsedBody<'a> {
    /// Parses a body of `application/json`.
    ///
    /// # Errors
    /// [`RejectedRequest::Malformed`] if the body is not UTF-8, not JSON, nested too deeply, or neither an object nor an
    /// array; [`RejectedRequest::TooLarge`] for too many events. Sending the same body again does not help.
    pub fn parse(body: &'a Bytes, limits: &EventLimits) -> Result<Self, RejectedRequest> {
        let malformed = |message: String| RejectedRequest::Malformed(vec![EventFault::new("", message)]);
        let text = std::str::from_utf8(body)
            .map_err(|error| malformed(format!("not UTF-8 from byte {} on", error.valid_up_to())))?;
        // RFC 8259 lets a reader ignore the byte order mark that some editors and libraries write.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let trimmed = text.trim_ascii();
        if trimmed.is_empty() {
            return Err(malformed("no body: send an object such as {\"type\":\"USER_SIGNUP\",\"payload\":{}}".into()));
        }
        if !depth_is_within(text, limits.max_json_depth) {
            return Err(malformed(format!("nested more than {} levels deep", limits.max_json_depth)));
        }
        let not_json = |error: serde_json::Error| malformed(format!("not JSON: {error}"));
        // A single event is parsed once, straight into its members. If that fails, it may still be JSON with a name that is
        // not Unicode text, which the reader reports.
        match trimmed.as_bytes().first() {
            Some(b'{') => {
                let members = serde_json::from_str(text).ok();
                if members.is_none() {
                    serde_json::from_str::<&RawValue>(text).map_err(not_json)?;
                }
                Ok(Self { body, text: trimmed, is_batch: false, items: vec![RawEvent { text: trimmed, members }] })
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(not_json)?;
                if items.len() > limits.max_batch_events {
                    let message = format!("{} events; a request has at most {}", items.len(), limits.max_batch_events);
                    return Err(RejectedRequest::TooLarge(vec![EventFault::new("", message)]));
                }
                Ok(Self { body, text: trimmed, is_batch: true, items: items.into_iter().map(RawEvent::from).collect() })
            }
            _ => {
                serde_json::from_str::<&RawValue>(text).map_err(not_json)?;
                Err(malformed("neither an event (an object) nor an array of events".into()))
            }
        }
    }

    /// Whether the body was an array. The response to an array is an array.
    pub fn is_batch(&self) -> bool {
        self.is_batch
    }

    /// Validates every event; all are accepted or none. `idempotency_key` is the value of the request's header.
    ///
    /// # Errors
    /// Everything that is wrong with the events, each fault with its place. Sending the same body again does not help.
    pub fn validate(
        self,
        limits: &EventLimits,
        accepted_at: Timestamp,
        idempotency_key: Option<&str>,
    ) -> Result<Vec<NewEvent>, RejectedRequest> {
        let (mut malformed, mut too_large, mut invalid) = (Vec::new(), Vec::new(), Vec::new());
        let mut events = Vec::with_capacity(self.items.len());
        let keyed = idempotency_key.map(|key| (key, digest_parts(&[self.text])));
        for (index, item) in self.items.iter().enumerate() {
            let prefix = if self.is_batch { format!("/{index}") } else { String::new() };
            let keyed = keyed.map(|(key, fingerprint)| {
                // A single event has the index of the first one: it may be sent again as an array of one.
                Idempotency { key: digest_parts(&["key", key, &index.to_string()]), fingerprint }
            });
            match EventReader::new(self.body, prefix).read(item, limits, accepted_at, keyed) {
                Ok(event) => events.push(event),
                Err(RejectedRequest::Malformed(faults)) => malformed.extend(faults),
                Err(RejectedRequest::TooLarge(faults)) => too_large.extend(faults),
                Err(RejectedRequest::Invalid(faults)) => invalid.extend(faults),
            }
        }
        match (malformed.is_empty(), too_large.is_empty(), invalid.is_empty()) {
            (false, _, _) => Err(RejectedRequest::Malformed(malformed)),
            (_, false, _) => Err(RejectedRequest::TooLarge(too_large)),
            (_, _, false) => Err(RejectedRequest::Invalid(invalid)),
            _ => Ok(events),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DeliveryStart, Event, EventData};

    fn read(body: &str, key: Option<&str>) -> Result<Vec<NewEvent>, RejectedRequest> {
        let body = Bytes::from(body.to_owned());
        let limits = EventLimits { max_payload_bytes: 64, max_batch_events: 3, max_json_depth: 6 };
        ParsedBody::parse(&body, &limits)?.validate(&limits, Timestamp::from_unix_ms(0), key)
    }

    fn pointers_of(faults: &[EventFault]) -> Vec<&str> {
        faults.iter().map(|fault| fault.pointer.as_str()).collect()
    }

    #[test]
    fn a_payload_is_kept_byte_for_byte() {
        for payload in ["{ \"b\":1, \"a\" : 12345678901234567890.10 }", "null", "\"\\u00e9\"", "[ ]", "1e400"] {
            let events = read(&format!("{{\"type\":\"a\",\"payload\":{payload}}}"), None).unwrap();
            assert_eq!(events[0].event.data, Some(EventData::text(payload)));
        }
        assert_eq!(read("{\"type\":\"a\"}", None).unwrap()[0].event.data, None);
    }

    #[test]
    fn a_byte_order_mark_is_ignored() {
        let plain = r#"[{"type":"a","payload":1,"id":"1"}]"#;
        let read = |body: &str| read(body, Some("k")).unwrap().remove(0);
        let (marked, plain) = (read(&format!("\u{feff}{plain}")), read(plain));
        assert_eq!((marked.event.data, marked.idempotency), (plain.event.data, plain.idempotency));
    }

    #[test]
    fn null_is_as_if_the_member_was_absent_and_only_a_payload_may_be_null() {
        let bare = read(r#"{"type":"a"}"#, None).unwrap().remove(0);
        for name in ["subject", "key", "id", "source", "time", "schema", "headers", "delayMs", "deliverAt"] {
            let new = read(&format!("{{\"type\":\"a\",\"{name}\":null}}"), None).unwrap().remove(0);
            let same = NewEvent { event: Event { id: bare.event.id, ..new.event }, ..new };
            assert_eq!(same, bare, "{name}");
        }
        assert_eq!(read(r#"{"type":"a","payload":null}"#, None).unwrap()[0].event.data, Some(EventData::text("null")));
        assert_eq!(
            read(r#"{"type":"a","deliverAt":null,"delayMs":5}"#, None).unwrap()[0].start,
            DeliveryStart::InMs(5)
        );
        assert!(read(r#"{"type":"a","headers":{"x":null}}"#, None).unwrap()[0].event.extensions.is_empty());
        let Err(RejectedRequest::Invalid(faults)) = read(r#"{"type":null}"#, None) else { panic!("a type is needed") };
        assert!(faults[0].message.contains("an event needs a type"), "{faults:?}");
    }

    #[test]
    fn a_delay_is_a_whole_number_however_it_is_written() {
        let delay = |text: &str| {
            read(&format!("{{\"type\":\"a\",\"delayMs\":{text}}}"), None).ok().map(|events| events[0].start)
        };
        for text in ["1000", "1000.0", "1e3", "1E+3", "100000e-2"] {
            assert_eq!(delay(text), Some(DeliveryStart::InMs(1_000)), "{text}");
        }
        assert_eq!((delay("0.0"), delay("-0.0")), (Some(DeliveryStart::InMs(0)), Some(DeliveryStart::InMs(0))));
        for text in ["1000.5", "-1.0", "1e400", "1e11", "\"1000\"", "true"] {
            assert_eq!(delay(text), None, "{text}");
        }
    }

    #[test]
    fn every_member_is_read() {
        let body = r#"{"type":"a.b","id":"1","source":"/s","subject":"s","key":"k","schema":"x:y","delayMs":5,
            "time":"2026-11-23T16:04:05+01:00","headers":{"traceparent":"00"}}"#;
        let new = read(body, None).unwrap().remove(0);
        let extensions: Vec<_> = new.event.extensions.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(extensions, [("partitionkey", "k"), ("sourceid", "1"), ("traceparent", "00")]);
        assert_eq!(new.event.time.as_deref(), Some("2026-11-23T16:04:05+01:00"));
        assert_eq!((new.event.source.as_str(), new.start), ("/s", DeliveryStart::InMs(5)));
        assert!(new.idempotency.is_some());
    }

    #[test]
    fn other_than_json_events_is_malformed() {
        let deep = format!("{{\"type\":\"a\",\"payload\":{}{}}}", "[".repeat(6), "]".repeat(6));
        for (body, pointer) in [
            ("", ""),
            (" ", ""),
            ("1", ""),
            ("{\"type\":\"a\"", ""),
            ("{\"type\":\"a\"} x", ""),
            ("{\"type\":\"a\",\"type\":\"b\"}", "/type"),
            ("[{\"type\":\"a\"},{\"type\":\"a\",\"p/q\":1,\"p/q\":1}]", "/1/p~1q"),
            ("{\"type\":\"a\",\"headers\":{\"x\":\"1\",\"x\":\"1\"}}", "/headers/x"),
            (&deep, ""),
        ] {
            let Err(RejectedRequest::Malformed(faults)) = read(body, None) else { panic!("{body:?} is malformed") };
            assert_eq!(pointers_of(&faults), [pointer], "{body:?}");
        }
        let body = Bytes::from_static(b"{\"type\":\"\xff\"}");
        assert!(matches!(ParsedBody::parse(&body, &EventLimits::default()), Err(RejectedRequest::Malformed(_))));
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        for (body, pointers) in [
            ("{}", vec!["/type"]),
            ("[1]", vec!["/0"]),
            ("{\"type\":5}", vec!["/type"]),
            ("{\"type\":\"a b\",\"payloda\":1,\"source\":\"\"}", vec!["/type", "/payloda", "/source"]),
            ("[{\"type\":\"a\"},{\"payload\":1}]", vec!["/1/type"]),
            ("{\"type\":\"a\",\"delayMs\":-1}", vec!["/delayMs"]),
            ("{\"type\":\"a\",\"delayMs\":1,\"deliverAt\":\"1970-01-01T00:00:00Z\"}", vec!["/deliverAt"]),
            ("{\"type\":\"a\",\"deliverAt\":\"1999-01-01T00:00:00Z\"}", vec!["/deliverAt"]),
            ("{\"type\":\"a\",\"time\":\"yesterday\"}", vec!["/time"]),
            (
                "{\"type\":\"a\",\"headers\":{\"X\":\"1\",\"id\":\"1\",\"ok\":2}}",
                vec!["/headers", "/headers/id", "/headers/ok"],
            ),
        ] {
            let Err(RejectedRequest::Invalid(faults)) = read(body, None) else { panic!("{body:?} is invalid") };
            assert_eq!(pointers_of(&faults), pointers, "{body:?}");
        }
    }

    #[test]
    fn half_of_a_surrogate_pair_is_reported_as_such() {
        for body in [r#"{"\ud800":1}"#, r#"{"type":"\ud800"}"#, r#"{"type":"a","headers":{"\ud800":"1"}}"#] {
            let Err(RejectedRequest::Invalid(faults)) = read(body, None) else { panic!("{body:?} is invalid") };
            assert!(faults[0].message.contains("surrogate pair"), "{body}: {faults:?}");
        }
    }

    #[test]
    fn a_payload_or_batch_over_its_limit_is_too_large() {
        let payload = format!("{{\"type\":\"a\",\"payload\":\"{}\"}}", "x".repeat(63));
        assert!(
            matches!(read(&payload, None), Err(RejectedRequest::TooLarge(faults)) if pointers_of(&faults) == ["/payload"])
        );
        assert!(matches!(read("[{},{},{},{}]", None), Err(RejectedRequest::TooLarge(_))));
    }

    #[test]
    fn the_same_event_is_identified_by_key_and_index_or_by_source_and_id() {
        let keys = |body: &str, key| -> Vec<_> {
            read(body, key).unwrap().into_iter().map(|new| new.idempotency.map(|known| known.key)).collect()
        };
        let one = r#"{"type":"a","id":"1"}"#;
        assert_eq!(keys(r#"{"type":"a"}"#, None), [None]);
        assert_eq!(keys(one, None), keys(r#"{"type":"b","id":"1"}"#, None));
        assert_ne!(keys(one, None), keys(r#"{"type":"a","id":"1","source":"x"}"#, None));
        assert_eq!(keys(one, Some("k")), keys(r#"{"type":"a"}"#, Some("k")));
        let two = keys(r#"[{"type":"a"},{"type":"a"}]"#, Some("k"));
        assert_ne!(two[0], two[1]);
        assert_eq!(two[0], keys(r#"{"type":"a"}"#, Some("k"))[0]);
    }

    #[test]
    fn a_key_fingerprints_the_whole_body_and_source_and_id_the_event() {
        let prints = |body: &str, key| -> Vec<_> {
            read(body, key).unwrap().into_iter().map(|new| new.idempotency.map(|known| known.fingerprint)).collect()
        };
        let one = r#"{"type":"a","id":"1"}"#;
        let first = |body: &str| prints(body, Some("k"))[0];
        assert_eq!(first(one), first(&format!(" {one}\n")));
        for other in [format!("[{one}]"), format!("[{one},{{\"type\":\"a\"}}]"), r#"{"type":"a","id":"2"}"#.to_owned()]
        {
            assert_ne!(first(one), first(&other), "{other}");
        }
        assert_eq!(prints(one, None), prints(&format!("[{one}]"), None));
    }
}
