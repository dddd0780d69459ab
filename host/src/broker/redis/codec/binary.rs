//! Version 3 of the format: a binary head.
//!
//! ```text
//! version   1 byte, 3
//! size      number: the bytes of the head from here on
//! ending    1 byte: 0 has not ended, 1 processed, from 2 on failed, by class (`class_code` in `ending.rs`)
//! at        6 bytes, the highest first: Unix ms of the end; only if it has ended
//! type      text
//! id        16 bytes
//! accepted  signed number: ms after the time in the first 6 bytes of the id
//! fields    see `tag`; numbers, texts and fields are in `fields.rs`
//! check     4 bytes, the lowest first: CRC-32 of the head up to here
//! ```
//!
//! Payload and result follow. `list.lua` reads the head up to the type, so nothing may come before that.
//!
//! A field that is missing has its default. A reader skips a field that it does not know, and loses it when it writes the
//! record again. If that must not happen, the field gets a tag from [`tag::NEWER_ONLY`] on: a reader that does not know it
//! leaves the record to a later host. The same is true for a code that it does not know, of a class for instance. The check
//! makes sure that such a tag or code is not damage.

use super::fields::{FieldReader, FieldWriter, push_number};
use super::head::{CodecError, DataSize, RecordHead};
use super::{attempt, ending};
use crate::event::{Event, EventId, EventRecord};

/// The version byte.
pub(super) const VERSION: u8 = 3;
/// The usual size of the head of an event that was processed.
const USUAL_BYTES: usize = 256;
/// The size of the check.
const CHECK_BYTES: usize = 4;
/// The source that has no field.
const USUAL_SOURCE: &str = "/events";
/// The media type that has a field without a value.
const JSON: &str = "application/json";

/// The tags of the fields of a head, with those in `ending.rs`. A tag is never used again for something else.
mod tag {
    /// Missing: [`super::USUAL_SOURCE`].
    pub(super) const SOURCE: u8 = 1;
    pub(super) const SUBJECT: u8 = 2;
    pub(super) const TIME: u8 = 3;
    pub(super) const CONTENT_TYPE: u8 = 4;
    /// The content type is `application/json`. No value.
    pub(super) const CONTENT_IS_JSON: u8 = 5;
    pub(super) const SCHEMA: u8 = 6;
    /// The name as a text, then the value. One field for each attribute.
    pub(super) const EXTENSION: u8 = 7;
    pub(super) const CAUSE: u8 = 8;
    pub(super) const DEPTH: u8 = 9;
    /// A number: the size of the payload, twice, and 1 more if it is binary.
    pub(super) const DATA: u8 = 10;
    pub(super) const ATTEMPTS_MADE: u8 = 11;
    pub(super) const FAILURES: u8 = 12;
    pub(super) const REPLAYS: u8 = 13;
    pub(super) const DEFERRALS: u8 = 14;
    /// One field for each attempt, oldest first; see `attempt.rs`.
    pub(super) const ATTEMPT: u8 = 15;
    /// The first tag that a reader must know.
    pub(super) const NEWER_ONLY: u8 = 128;
}

/// The version byte, the size and the head.
///
/// # Errors
/// The record has a duration that is no number.
pub(super) fn encode_head(record: &EventRecord) -> Result<Vec<u8>, CodecError> {
    let EventRecord { event, attempts_made, failures, replays, deferrals, attempts, end } = record;
    let Event { id, event_type, source, subject, time, .. } = &**event;
    let Event { data_content_type, data_schema, extensions, accepted_at, cause, depth, data, .. } = &**event;
    let mut head = FieldWriter::with_capacity(USUAL_BYTES);
    ending::write(&mut head, end.as_ref());
    head.text(event_type.as_str());
    head.bytes(id.as_bytes());
    head.signed(accepted_at.unix_ms() - time_in(id));
    head.text_field(tag::SOURCE, (source != USUAL_SOURCE).then_some(source));
    head.text_field(tag::SUBJECT, subject.as_deref());
    head.text_field(tag::TIME, time.as_deref());
    match data_content_type.as_deref() {
        Some(JSON) => head.field(tag::CONTENT_IS_JSON, &[]),
        other => head.text_field(tag::CONTENT_TYPE, other),
    }
    head.text_field(tag::SCHEMA, data_schema.as_deref());
    for (name, value) in extensions {
        head.nested(tag::EXTENSION, |field| {
            field.text(name);
            field.bytes(value.as_bytes());
        });
    }
    if let Some(cause) = cause {
        head.field(tag::CAUSE, cause.as_bytes());
    }
    head.count_field(tag::DEPTH, *depth);
    if let Some(data) = data {
        head.data_size_field(tag::DATA, DataSize::of(data));
    }
    head.count_field(tag::ATTEMPTS_MADE, *attempts_made);
    head.count_field(tag::FAILURES, *failures);
    head.count_field(tag::REPLAYS, *replays);
    head.count_field(tag::DEFERRALS, *deferrals);
    for attempt in attempts {
        if !attempt.duration_ms.is_finite() {
            return Err(CodecError::Damaged("the duration of an attempt is no number".into()));
        }
        head.nested(tag::ATTEMPT, |field| attempt::write(field, attempt, *accepted_at));
    }
    if let Some(end) = end {
        ending::write_fields(&mut head, end);
    }
    Ok(frame(&head.into_bytes()))
}

/// Puts the version and the size before a head, and the check behind it.
pub(in crate::broker::redis) fn frame(head: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(1 + 5 + head.len() + CHECK_BYTES);
    framed.push(VERSION);
    push_number(&mut framed, (head.len() + CHECK_BYTES) as u64);
    framed.extend_from_slice(head);
    framed.extend_from_slice(&crc32fast::hash(head).to_le_bytes());
    framed
}

/// Where the head ends.
pub(super) fn head_end(blob: &[u8]) -> Result<usize, CodecError> {
    let mut reader = FieldReader::new(blob.get(1..).unwrap_or_default());
    let size_bytes = reader.size()?;
    (blob.len() - reader.rest().len()).checked_add(size_bytes).ok_or_else(CodecError::too_large)
}

/// Decodes what [`encode_head`] wrote.
pub(super) fn decode_head(framed: &[u8]) -> Result<RecordHead, CodecError> {
    let mut head = FieldReader::new(framed.get(1..).unwrap_or_default());
    head.size()?;
    let (content, check) = head.rest().split_last_chunk().ok_or_else(CodecError::cut_short)?;
    if crc32fast::hash(content) != u32::from_le_bytes(*check) {
        return Err(CodecError::Damaged("its check does not fit".into()));
    }
    let mut head = FieldReader::new(content);
    let end = ending::read(&mut head)?;
    let event_type = head.text()?.parse().map_err(|_| CodecError::Damaged("its type is not valid".into()))?;
    let id = EventId::from_bytes(head.array()?);
    let accepted = head.time_after(time_in(&id))?;
    let event = Event::with_id(id, event_type, USUAL_SOURCE, accepted);
    let mut record = RecordHead {
        event,
        data: None,
        attempts_made: 0,
        failures: 0,
        replays: 0,
        deferrals: 0,
        attempts: Vec::new(),
        end,
        result: None,
    };
    while !head.is_empty() {
        let (tag, value) = head.field()?;
        read_field(&mut record, tag, value)?;
    }
    Ok(record)
}

fn read_field(record: &mut RecordHead, tag: u8, mut value: FieldReader<'_>) -> Result<(), CodecError> {
    let event = &mut record.event;
    match tag {
        tag::SOURCE => value.whole_text()?.clone_into(&mut event.source),
        tag::SUBJECT => event.subject = Some(value.whole_text()?.into()),
        tag::TIME => event.time = Some(value.whole_text()?.into()),
        tag::CONTENT_TYPE => event.data_content_type = Some(value.whole_text()?.into()),
        tag::CONTENT_IS_JSON => event.data_content_type = Some(JSON.into()),
        tag::SCHEMA => event.data_schema = Some(value.whole_text()?.into()),
        tag::EXTENSION => {
            let name = value.text()?;
            event.extensions.insert(name.into(), value.whole_text()?.into());
        }
        tag::CAUSE => event.cause = Some(EventId::from_bytes(value.whole(FieldReader::array)?)),
        tag::DEPTH => event.depth = value.whole_count()?,
        tag::DATA => record.data = Some(value.whole(FieldReader::data_size)?),
        tag::ATTEMPTS_MADE => record.attempts_made = value.whole_count()?,
        tag::FAILURES => record.failures = value.whole_count()?,
        tag::REPLAYS => record.replays = value.whole_count()?,
        tag::DEFERRALS => record.deferrals = value.whole_count()?,
        tag::ATTEMPT => record.attempts.push(attempt::read(value, event.accepted_at)?),
        ending::tag::REASON..=ending::tag::DISCARDED => ending::read_field(record, tag, value)?,
        tag::NEWER_ONLY.. => return Err(CodecError::Newer(format!("it has a field {tag}"))),
        _ => {}
    }
    Ok(())
}

/// What the first 6 bytes of an id say, which are its time in Unix ms if the server made it.
fn time_in(id: &EventId) -> i64 {
    let [a, b, c, d, e, f, ..] = *id.as_bytes();
    i64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AttemptRecord, EventData, EventEnd, Timestamp};

    /// A record, and its blob as an independent program wrote it.
    fn stored() -> (EventRecord, &'static str) {
        let accepted = Timestamp::from_unix_ms(1_688_096_058_521);
        let event = Event {
            id: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            data_content_type: Some(JSON.into()),
            data: Some(EventData::text("{}")),
            ..Event::new("order.paid".parse().unwrap(), "/shop", accepted)
        };
        let attempt = AttemptRecord {
            attempt: 1,
            replay: 0,
            started_at: accepted.plus_ms(2),
            duration_ms: 0.643,
            class: None,
            error: None,
            backtrace: None,
            retry_in_ms: None,
            consumer: "c".into(),
            plugin: Some("p".into()),
            digest: Some("ab".repeat(32).into()),
            stderr: None,
            log: Vec::new(),
            log_lines_dropped: 0,
        };
        let end = EventEnd {
            at: accepted.plus_ms(5),
            failure: None,
            result: Some(EventData::binary(vec![1])),
            children: Vec::new(),
            discarded: None,
        };
        let record =
            EventRecord { attempts_made: 1, attempts: vec![attempt], end: Some(end), ..EventRecord::new(event) };
        let blob = "03690101890a5dac9e0a6f726465722e7061696401890a5dac96774bbcceb302099a80570601052f73686f7005000a01\
                    040b01010f2e0104020283050801630901700a20abababababababababababababababababababababababababababab\
                    abababab110103db925b077b7d01";
        (record, blob)
    }

    /// A head of a new event, and further fields.
    fn head_with(write: impl FnOnce(&mut FieldWriter)) -> Result<RecordHead, CodecError> {
        let mut head = FieldWriter::with_capacity(0);
        head.bytes(&[ending::NOT_ENDED]);
        head.text("order.paid");
        head.bytes(EventId::new().as_bytes());
        head.signed(0);
        write(&mut head);
        decode_head(&frame(&head.into_bytes()))
    }

    #[test]
    fn the_format_stays_as_it_is() {
        let (record, stored) = stored();
        let blob = super::super::encode(&record, super::super::RecordVersion::Binary).unwrap();
        let written: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(written, stored);
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped_unless_it_must_be_known() {
        let head = head_with(|head| {
            head.field(tag::NEWER_ONLY - 1, b"unknown");
            head.number_field(tag::DEPTH, 7);
        });
        assert_eq!(head.ok().map(|head| head.event.depth), Some(7));
        for tag in [tag::NEWER_ONLY, u8::MAX] {
            let head = head_with(|head| head.field(tag, b"unknown"));
            assert!(matches!(head, Err(CodecError::Newer(_))), "{tag}");
        }
    }

    #[test]
    fn what_no_host_writes_is_damage() {
        let cases: [&dyn Fn(&mut FieldWriter); 7] = [
            &|head| head.field(ending::tag::REASON, b"it has not ended"),
            &|head| head.field(tag::SUBJECT, b"\xff"),
            &|head| head.field(tag::CAUSE, &[0; 17]),
            &|head| head.number_field(tag::DEPTH, u64::MAX),
            &|head| head.nested(tag::ATTEMPT, |attempt| (0..2).for_each(|_| attempt.number(u64::MAX))),
            &|head| head.bytes(&[tag::SOURCE]),
            &|head| head.bytes(&[tag::SOURCE, 9, 0]),
        ];
        for (place, write) in cases.into_iter().enumerate() {
            assert!(matches!(head_with(write), Err(CodecError::Damaged(_))), "case {place}");
        }
    }

    #[test]
    fn an_event_whose_id_has_no_time_keeps_its_time_of_acceptance() {
        for id in ["00000000-0000-4000-8000-000000000000", "ffffffff-ffff-4fff-bfff-ffffffffffff"] {
            for accepted in [Timestamp::from_unix_ms(0), Timestamp::MAX] {
                let new = Event::new("a".parse().unwrap(), "/events", accepted);
                let record = EventRecord::new(Event { id: id.parse().unwrap(), ..new });
                let head = decode_head(&encode_head(&record).unwrap()).ok();
                assert_eq!(head.map(|head| head.into_record(None, None)), Some(record));
            }
        }
    }
}
