//! The body of `POST /events`.

use bytes::Bytes;
use eventstream::event::{
    DeliveryStart, EventFault, EventLimits, EventRecord, NewEvent, ParsedBody, RejectedRequest, Timestamp,
};
use eventstream::{broker, transfer};
use serde_json::Value;
use serde_json::value::RawValue;

/// Smaller limits than those of a server, so that inputs reach them.
const LIMITS: EventLimits = EventLimits { max_payload_bytes: 512, max_batch_events: 8, max_json_depth: 12 };

/// A body is accepted with its payloads unchanged byte for byte, or refused with the place of each fault.
///
/// # Panics
/// Something that must hold does not.
pub fn draft(input: &[u8]) {
    let body = Bytes::copy_from_slice(input);
    let accepted = Timestamp::from_unix_ms(1_795_446_245_007);
    let read = || ParsedBody::parse(&body, &LIMITS)?.validate(&LIMITS, accepted, None);
    match (read(), read()) {
        (Ok(events), Ok(again)) => {
            let known = |events: &[NewEvent]| -> Vec<_> { events.iter().map(|new| new.idempotency.clone()).collect() };
            assert_eq!(known(&events), known(&again), "what is sent twice is known by the same key");
            as_written(input, &events);
            events.iter().for_each(comes_back);
        }
        (Err(refused), Err(again)) => {
            assert_eq!(refused, again);
            names_places(input, &refused);
        }
        _ => panic!("the same body is accepted and refused"),
    }
}

/// Compares the payloads with what another reader finds in the body.
fn as_written(body: &[u8], events: &[NewEvent]) {
    let text = std::str::from_utf8(body).expect("what is accepted is text");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let root: &RawValue = serde_json::from_str(text).expect("what is accepted is JSON");
    let items: Vec<&RawValue> = match root.get().starts_with('[') {
        true => serde_json::from_str(root.get()).expect("an array"),
        false => vec![root],
    };
    assert_eq!(items.len(), events.len(), "each event is there once");
    assert!(items.len() <= LIMITS.max_batch_events);
    for (item, NewEvent { event, .. }) in items.iter().zip(events) {
        let members: std::collections::HashMap<String, &RawValue> =
            serde_json::from_str(item.get()).expect("an event is an object");
        let written = members.get("payload").map(|payload| payload.get());
        assert_eq!(event.data.as_ref().map(|data| &data.bytes[..]), written.map(str::as_bytes));
        assert!(written.is_none_or(|written| written.len() <= LIMITS.max_payload_bytes));
        let event_type: String = members["type"].get().parse::<Value>().ok().and_then(text_of).expect("a type");
        assert_eq!(event.event_type.to_string(), event_type);
        assert!(event.time.as_deref().is_none_or(is_rfc_3339), "{:?} is RFC 3339", event.time);
    }
}

fn text_of(value: Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Each store gives an accepted event back as it was.
fn comes_back(new: &NewEvent) {
    let record = EventRecord::new(new.event.clone());
    broker::redis::testing::fuzz::check_round_trip(&record);
    let due = match new.start {
        DeliveryStart::At(time) => Some(time),
        DeliveryStart::Now | DeliveryStart::InMs(_) => None,
    };
    transfer::fuzz::check_record_round_trip(&record, due);
}

/// Each fault has words and points at something in the body, or at what is missing from it.
fn names_places(body: &[u8], refused: &RejectedRequest) {
    let (RejectedRequest::Malformed(faults) | RejectedRequest::Invalid(faults) | RejectedRequest::TooLarge(faults)) =
        refused;
    assert!(!faults.is_empty(), "a refusal says why");
    let document: Option<Value> = serde_json::from_slice(body).ok();
    for EventFault { pointer, message } in faults {
        assert!(!message.is_empty());
        let Some((parent, _)) = pointer.rsplit_once('/') else {
            assert_eq!(pointer, "", "a pointer begins with a slash");
            continue;
        };
        if let Some(document) = &document {
            assert!(document.pointer(parent).is_some(), "{pointer:?} is a place in the body: {message}");
            let is_object = document.pointer(pointer).is_some_and(Value::is_object);
            assert!(!(is_object && message == "an event is an object"), "{pointer:?} is one");
        }
    }
}

/// Whether a text has the shape that RFC 3339 gives to a time.
fn is_rfc_3339(text: &str) -> bool {
    let Some((date_time, rest)) = text.split_at_checked(19) else { return false };
    let fits = |text: &str, shape: &str| {
        text.len() == shape.len()
            && text.chars().zip(shape.chars()).all(|(c, shape)| match shape {
                '0' => c.is_ascii_digit(),
                '+' => c == '+' || c == '-',
                'T' => c == 'T' || c == 't',
                shape => c == shape,
            })
    };
    let digits = rest.strip_prefix('.').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    let offset = digits.unwrap_or(rest);
    let has_fraction = digits.is_none() || rest.len() > offset.len() + 1;
    let has_offset = offset.eq_ignore_ascii_case("z") || fits(offset, "+00:00");
    fits(date_time, "0000-00-00T00:00:00") && has_fraction && has_offset
}
