//! What the head of a record says in any version, and why bytes are no record.

use serde::{Deserialize, Serialize};

use crate::broker::Error;
use crate::event::{AttemptRecord, DataKind, Event, EventData, EventEnd, EventRecord};

/// Why a blob is not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::broker::redis) enum CodecError {
    /// A newer host wrote it, and only a newer host can read it.
    #[error("only a later version of eventstream can read the entry: {0}")]
    Newer(String),
    /// It is damaged, or another program wrote it.
    #[error("the entry is not an event: {0}")]
    Damaged(String),
}

/// A record without payload and result.
pub(super) struct RecordHead {
    pub(super) event: Event,
    /// The payload follows the head.
    pub(super) data: Option<DataSize>,
    pub(super) attempts_made: u32,
    pub(super) failures: u32,
    pub(super) replays: u32,
    pub(super) deferrals: u32,
    pub(super) attempts: Vec<AttemptRecord>,
    pub(super) end: Option<EventEnd>,
    /// The result follows the payload.
    pub(super) result: Option<DataSize>,
}

/// The kind and size of a payload or a result.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct DataSize {
    pub(super) kind: DataKind,
    pub(super) size_bytes: usize,
}

impl CodecError {
    pub(super) fn cut_short() -> Self {
        Self::Damaged("it is cut short".into())
    }

    pub(super) fn too_large() -> Self {
        Self::Damaged("it is too large".into())
    }
}

impl From<CodecError> for Error {
    fn from(error: CodecError) -> Self {
        Self::Misconfigured(error.to_string())
    }
}

impl DataSize {
    pub(super) fn of(data: &EventData) -> Self {
        Self { kind: data.kind, size_bytes: data.bytes.len() }
    }
}

impl RecordHead {
    pub(super) fn into_record(self, data: Option<EventData>, result: Option<EventData>) -> EventRecord {
        let Self { event, data: _, attempts_made, failures, replays, deferrals, attempts, end, result: _ } = self;
        let end = end.map(|end| EventEnd { result, ..end });
        let event = Event { data, ..event }.into();
        EventRecord { event, attempts_made, failures, replays, deferrals, attempts, end }
    }
}
