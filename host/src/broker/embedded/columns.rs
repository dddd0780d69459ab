//! The columns of an event: readable JSON, and the payload byte for byte beside it.
//!
//! The body of an event never changes, and each attempt adds to its story. They are in different rows, so that a large
//! payload is written once. Each row has a checksum over its content and the event's id, which reveals a bit that
//! flipped on the disk.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};

use crate::event::{
    AttemptRecord, DEFAULT_SOURCE, DataKind, Discard, Event, EventData, EventEnd, EventId, EventRecord, EventType,
    FailureClass, Timestamp, is_zero, media_type,
};

/// A row does not hold what was written to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored event cannot be read: {0}")]
pub(super) struct UnreadableRow(String);

impl UnreadableRow {
    pub(super) fn new(why: &str) -> Self {
        Self(why.to_owned())
    }
}

/// The columns of the body, which never change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BodyColumns {
    pub(super) id: EventId,
    pub(super) event_type: EventType,
    pub(super) head: String,
    pub(super) data: Option<EventData>,
    pub(super) checksum: u32,
}

/// The columns of the story: the attempts and the end of the event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoryColumns {
    pub(super) text: String,
    pub(super) result: Option<EventData>,
    pub(super) checksum: u32,
}

/// Columns as they were read, not verified yet.
#[derive(Debug, Clone, Default)]
pub(super) struct RawColumns {
    id: Vec<u8>,
    event_type: Vec<u8>,
    head: Vec<u8>,
    data: Option<EventData>,
    checksum: i64,
    story: Option<RawStory>,
}

#[derive(Debug, Clone, Default)]
struct RawStory {
    text: Vec<u8>,
    result: Option<EventData>,
    checksum: i64,
}

/// The columns that [`RawColumns::read`] reads, from `event AS e` and `body AS b`, as a literal for `concat!`.
macro_rules! record_columns {
    () => {
        "e.id, e.type, b.head, b.data, b.checksum, e.story, e.result, e.checksum"
    };
}
pub(super) use record_columns;

#[derive(Serialize, Deserialize)]
struct HeadJson<'a> {
    accepted: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<Cow<'a, str>>,
    /// `None` for the usual media type, empty for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schema: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    extensions: Cow<'a, BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<EventId>,
    #[serde(default, skip_serializing_if = "is_zero")]
    depth: u32,
}

#[derive(Serialize, Deserialize)]
struct StoryJson<'a> {
    made: u32,
    failures: u32,
    replays: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    deferrals: u32,
    attempts: Cow<'a, [AttemptRecord]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<EndJson<'a>>,
}

#[derive(Serialize, Deserialize)]
struct EndJson<'a> {
    at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<FailureClass>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "<[EventId]>::is_empty")]
    children: Cow<'a, [EventId]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    discarded: Option<Cow<'a, Discard>>,
}

fn is_empty(extensions: &BTreeMap<String, String>) -> bool {
    extensions.is_empty()
}

impl BodyColumns {
    /// Encodes an event.
    pub(super) fn encode(event: &Event) -> Self {
        let Event { id, event_type, source, subject, time, .. } = event;
        let Event { data_content_type, data_schema, extensions, accepted_at, cause, depth, data, .. } = event;
        let head = HeadJson {
            accepted: accepted_at.unix_ms(),
            source: (source != DEFAULT_SOURCE).then_some(Cow::Borrowed(source)),
            subject: subject.as_deref().map(Cow::Borrowed),
            time: time.as_deref().map(Cow::Borrowed),
            content_type: match data_content_type.as_deref() {
                // Most payloads are JSON, so that type is left out.
                Some(media_type::JSON) => None,
                other => Some(Cow::Borrowed(other.unwrap_or_default())),
            },
            schema: data_schema.as_deref().map(Cow::Borrowed),
            extensions: Cow::Borrowed(extensions),
            cause: *cause,
            depth: *depth,
        };
        let head = json(&head);
        let checksum = body_checksum(id.as_bytes(), event_type.as_str().as_bytes(), head.as_bytes(), data);
        Self { id: *id, event_type: event_type.clone(), head, data: data.clone(), checksum }
    }

    /// The size of the head and the payload.
    pub(super) fn size_bytes(&self) -> usize {
        self.head.len() + self.data.as_ref().map_or(0, |data| data.bytes.len())
    }
}

impl StoryColumns {
    /// Encodes the attempts and the end of an event; `None` if there are none yet.
    pub(super) fn encode(record: &EventRecord) -> Option<Self> {
        let EventRecord { event, attempts_made, failures, replays, deferrals, attempts, end } = record;
        let counts = [attempts_made, failures, replays, deferrals];
        if counts.into_iter().all(is_zero) && attempts.is_empty() && end.is_none() {
            return None;
        }
        let text = json(&StoryJson {
            made: *attempts_made,
            failures: *failures,
            replays: *replays,
            deferrals: *deferrals,
            attempts: Cow::Borrowed(attempts),
            end: end.as_ref().map(|end| EndJson {
                at: end.at.unix_ms(),
                class: end.failure.as_ref().map(|(class, _)| *class),
                reason: end.failure.as_ref().map(|(_, reason)| Cow::Borrowed(reason.as_str())),
                children: Cow::Borrowed(&end.children),
                discarded: end.discarded.as_ref().map(Cow::Borrowed),
            }),
        });
        let result = end.as_ref().and_then(|end| end.result.clone());
        let checksum = story_checksum(event.id.as_bytes(), text.as_bytes(), &result);
        Some(Self { text, result, checksum })
    }

    /// The size of the story and the result.
    pub(super) fn size_bytes(&self) -> usize {
        self.text.len() + self.result.as_ref().map_or(0, |result| result.bytes.len())
    }
}

impl RawColumns {
    /// About how many bytes of memory the record takes.
    pub(super) fn size_bytes(&self) -> usize {
        self.body_bytes() + self.story_bytes()
    }

    /// Reads the columns of [`record_columns`] from a row, in which they begin at `first`.
    pub(super) fn read(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let story = match row.get_ref(first + 5)? {
            ValueRef::Null => None,
            text => Some(RawStory {
                text: bytes(text),
                result: data(row.get_ref(first + 6)?),
                checksum: row.get(first + 7)?,
            }),
        };
        Ok(Self {
            id: bytes(row.get_ref(first)?),
            event_type: bytes(row.get_ref(first + 1)?),
            head: bytes(row.get_ref(first + 2)?),
            data: data(row.get_ref(first + 3)?),
            checksum: row.get(first + 4)?,
            story,
        })
    }

    /// The size of the head and the payload.
    pub(super) fn body_bytes(&self) -> usize {
        self.head.len() + self.data.as_ref().map_or(0, |data| data.bytes.len())
    }

    /// The size of the story and the result.
    pub(super) fn story_bytes(&self) -> usize {
        let result = |story: &RawStory| story.result.as_ref().map_or(0, |result| result.bytes.len());
        self.story.as_ref().map_or(0, |story| story.text.len() + result(story))
    }

    /// The id in the row.
    ///
    /// # Errors
    /// It is not an id.
    pub(super) fn id(&self) -> Result<EventId, UnreadableRow> {
        let bytes = <[u8; 16]>::try_from(self.id.as_slice());
        bytes.map(EventId::from_bytes).map_err(|_| UnreadableRow(format!("an id of {} bytes", self.id.len())))
    }

    /// The columns that are not empty, by name, for the failed event that replaces an unreadable one.
    pub(super) fn fields(&self) -> Vec<(Bytes, Bytes)> {
        let id = self.id().map_or_else(|_| Bytes::copy_from_slice(&self.id), |id| Bytes::from(id.to_string()));
        let story = self.story.as_ref();
        let data = |data: Option<&EventData>| data.map(|data| data.bytes.clone()).unwrap_or_default();
        let fields = [
            ("id", id),
            ("type", Bytes::copy_from_slice(&self.event_type)),
            ("head", Bytes::copy_from_slice(&self.head)),
            ("data", data(self.data.as_ref())),
            ("story", story.map(|story| Bytes::copy_from_slice(&story.text)).unwrap_or_default()),
            ("result", data(story.and_then(|story| story.result.as_ref()))),
        ];
        let filled = fields.into_iter().filter(|(_, value)| !value.is_empty());
        filled.map(|(name, value)| (Bytes::from_static(name.as_bytes()), value)).collect()
    }

    /// Verifies and decodes the columns.
    ///
    /// # Errors
    /// A checksum does not match, or the columns were written by a version that this one does not understand.
    pub(super) fn decode(&self) -> Result<EventRecord, UnreadableRow> {
        if i64::from(body_checksum(&self.id, &self.event_type, &self.head, &self.data)) != self.checksum {
            return Err(UnreadableRow("the checksum of the event does not match".into()));
        }
        let id = self.id()?;
        let head: HeadJson<'_> = parse("the event", &self.head)?;
        let event_type = std::str::from_utf8(&self.event_type).ok().and_then(|text| text.parse().ok());
        let event = Event {
            id,
            event_type: event_type.ok_or_else(|| UnreadableRow("its type is not valid".into()))?,
            source: head.source.map_or_else(|| DEFAULT_SOURCE.to_owned(), Cow::into_owned),
            subject: head.subject.map(Cow::into_owned),
            time: head.time.map(Cow::into_owned),
            data_content_type: match head.content_type {
                None => Some(media_type::JSON.to_owned()),
                Some(none) if none.is_empty() => None,
                Some(other) => Some(other.into_owned()),
            },
            data_schema: head.schema.map(Cow::into_owned),
            extensions: head.extensions.into_owned(),
            accepted_at: Timestamp::from_unix_ms(head.accepted),
            cause: head.cause,
            depth: head.depth,
            data: self.data.clone(),
        };
        match &self.story {
            None => Ok(EventRecord::new(event)),
            Some(story) => story.decode(event),
        }
    }
}

impl RawStory {
    fn decode(&self, event: Event) -> Result<EventRecord, UnreadableRow> {
        if i64::from(story_checksum(event.id.as_bytes(), &self.text, &self.result)) != self.checksum {
            return Err(UnreadableRow("the checksum of its story does not match".into()));
        }
        let text: StoryJson<'_> = parse("its story", &self.text)?;
        let end = text.end.map(|end| EventEnd {
            at: Timestamp::from_unix_ms(end.at),
            failure: end.class.map(|class| (class, end.reason.unwrap_or_default().into_owned())),
            result: self.result.clone(),
            children: end.children.into_owned(),
            discarded: end.discarded.map(Cow::into_owned),
        });
        Ok(EventRecord {
            event: event.into(),
            attempts_made: text.made,
            failures: text.failures,
            replays: text.replays,
            deferrals: text.deferrals,
            attempts: text.attempts.into_owned(),
            end,
        })
    }
}

/// A payload or result as a column: text or blob, by its kind.
pub(super) struct DataColumn<'a>(pub(super) Option<&'a EventData>);

impl ToSql for DataColumn<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            None => ValueRef::Null,
            Some(EventData { bytes, kind: DataKind::Text }) => ValueRef::Text(bytes),
            Some(EventData { bytes, kind: DataKind::Binary }) => ValueRef::Blob(bytes),
        }))
    }
}

fn data(column: ValueRef<'_>) -> Option<EventData> {
    let kind = match column {
        ValueRef::Text(_) => DataKind::Text,
        ValueRef::Blob(_) => DataKind::Binary,
        _ => return None,
    };
    Some(EventData { bytes: Bytes::from(bytes(column)), kind })
}

fn bytes(column: ValueRef<'_>) -> Vec<u8> {
    match column {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
        _ => Vec::new(),
    }
}

/// Serializes a value. It cannot fail for these types: all keys are strings, and JSON writes unknown numbers as null.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn parse<'a, T: Deserialize<'a>>(what: &str, text: &'a [u8]) -> Result<T, UnreadableRow> {
    serde_json::from_slice(text).map_err(|error| UnreadableRow(format!("{what} is not understood: {error}")))
}

fn body_checksum(id: &[u8], event_type: &[u8], head: &[u8], data: &Option<EventData>) -> u32 {
    let mut checksum = RowChecksum::default();
    checksum.part(id).part(event_type).part(head).data(data);
    checksum.0.finalize()
}

/// The checksum of a value of plugin state, its plugin and its key.
pub(super) fn state_checksum(plugin: &str, key: &str, value: &[u8]) -> u32 {
    let mut checksum = RowChecksum::default();
    checksum.part(plugin.as_bytes()).part(key.as_bytes()).part(value);
    checksum.0.finalize()
}

fn story_checksum(id: &[u8], text: &[u8], result: &Option<EventData>) -> u32 {
    let mut checksum = RowChecksum::default();
    checksum.part(id).part(text).data(result);
    checksum.0.finalize()
}

/// CRC-32 over parts and their lengths, so that it changes when bytes move from one part to the next.
#[derive(Default)]
struct RowChecksum(crc32fast::Hasher);

impl RowChecksum {
    fn part(&mut self, part: &[u8]) -> &mut Self {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    fn data(&mut self, data: &Option<EventData>) -> &mut Self {
        match data {
            None => self.part(b"none"),
            Some(EventData { bytes, kind: DataKind::Text }) => self.part(b"text").part(bytes),
            Some(EventData { bytes, kind: DataKind::Binary }) => self.part(b"binary").part(bytes),
        }
    }
}
