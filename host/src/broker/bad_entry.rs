//! A bad entry: a failed event that replaces an entry that cannot be read as an event.
//!
//! It looks the same in every store. Its type is `bad-entry`, its source is the lane, its subject is the name of the
//! entry, and its data are the fields of the entry.

use bytes::Bytes;

use super::Lane;
use crate::event::{Event, EventData, EventEnd, EventId, EventRecord, EventType, FailureClass, Timestamp};

/// An entry that cannot be read as an event.
#[derive(Debug)]
pub(super) struct BadEntry<'a> {
    /// The id of the unreadable event, or a new one.
    pub(super) id: EventId,
    /// The lane of the entry.
    pub(super) lane: &'a Lane,
    /// The store's name for the entry.
    pub(super) entry: &'a str,
    /// When the entry was added; `None` if that is unknown.
    pub(super) added: Option<Timestamp>,
    /// The fields of the entry, by name.
    pub(super) fields: &'a [(Bytes, Bytes)],
    /// Why the entry cannot be read.
    pub(super) why: &'a str,
}

impl BadEntry<'_> {
    /// The record of an event that failed now. Its data are a JSON array of pairs if all fields are text, else the
    /// bytes of the fields in order. `None` cannot happen, since the type is a valid constant.
    pub(super) fn record(&self, now: Timestamp) -> Option<EventRecord> {
        let event_type: EventType = FailureClass::BadEntry.as_str().parse().ok()?;
        let text = |bytes: &Bytes| std::str::from_utf8(bytes).map(str::to_owned).ok();
        let as_text: Option<Vec<[String; 2]>> =
            self.fields.iter().map(|(name, value)| Some([text(name)?, text(value)?])).collect();
        let (data, content_type) = match as_text.and_then(|fields| serde_json::to_string(&fields).ok()) {
            Some(json) => (EventData::text(json), "application/json"),
            None => {
                let all: Vec<u8> =
                    self.fields.iter().flat_map(|(name, value)| name.iter().chain(value)).copied().collect();
                (EventData::binary(all), "application/octet-stream")
            }
        };
        let event = Event {
            id: self.id,
            subject: Some(self.entry.to_owned()),
            data_content_type: Some(content_type.into()),
            data: Some(data),
            ..Event::new(event_type, format!("/lanes/{}", self.lane), self.added.unwrap_or(now))
        };
        let failure = Some((FailureClass::BadEntry, self.why.to_owned()));
        let end = EventEnd { at: now, failure, result: None, children: Vec::new(), discarded: None };
        Some(EventRecord { end: Some(end), ..EventRecord::new(event) })
    }

    /// Logs the entry. Call it once for each.
    pub(super) fn log(&self) {
        tracing::warn!(lane = %self.lane, entry = self.entry, event.id = %self.id, "an entry is no event: {}", self.why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_bad_entry_are_kept() {
        let record = |fields: &[(&'static [u8], &'static [u8])], added| {
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| (Bytes::from_static(name), Bytes::from_static(value))).collect();
            let lane = Lane::unrouted();
            let bad = BadEntry { id: EventId::new(), lane: &lane, entry: "7-3", added, fields: &fields, why: "why" };
            bad.record(Timestamp::from_unix_ms(9)).unwrap()
        };
        let text = record(&[(b"a", b"1"), (b"a", b"\"2\"")], Some(Timestamp::from_unix_ms(7)));
        assert_eq!(text.event.data.as_ref().unwrap().as_text(), Some(r#"[["a","1"],["a","\"2\""]]"#));
        assert_eq!((text.event.source.as_str(), text.event.subject.as_deref()), ("/lanes/_", Some("7-3")));
        assert_eq!(text.event.accepted_at, Timestamp::from_unix_ms(7));
        let binary = record(&[(b"a", b"\xff\x00")], None);
        assert_eq!(binary.event.data, Some(EventData::binary(&b"a\xff\x00"[..])));
        assert_eq!(binary.event.accepted_at, Timestamp::from_unix_ms(9));
        assert!(matches!(binary.end.unwrap().failure, Some((FailureClass::BadEntry, _))));
    }
}
