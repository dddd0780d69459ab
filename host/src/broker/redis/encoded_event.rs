//! A new event as scripts get it: its blob, its lane and its start.

use bytes::Bytes;

use super::codec;
use super::scripts::ScriptCall;
use crate::broker::{AppendRequest, Error, Lane};
use crate::event::{DeliveryStart, EventId, Idempotency};

/// One new event, encoded.
pub(super) struct EncodedEvent {
    pub(super) id: EventId,
    pub(super) lane: Lane,
    pub(super) start: DeliveryStart,
    pub(super) blob: Bytes,
    pub(super) idempotency: Option<Idempotency>,
}

impl EncodedEvent {
    /// # Errors
    /// [`Error::Misconfigured`] if the record cannot be encoded. Retrying cannot help.
    pub(super) fn encode(append: AppendRequest) -> Result<Self, Error> {
        Ok(Self {
            id: append.record.event.id,
            blob: codec::encode(&append.record)?,
            lane: append.lane,
            start: append.start,
            idempotency: append.idempotency,
        })
    }

    /// Adds the start to a call as two arguments.
    pub(super) fn push_start(&self, call: &mut ScriptCall<'_>) {
        let (word, ms) = start_words(self.start);
        call.push_text(word);
        call.push_number(ms);
    }
}

/// A start as scripts read it: a word and milliseconds.
pub(super) fn start_words(start: DeliveryStart) -> (&'static str, u64) {
    let (word, ms) = match start {
        DeliveryStart::Now => ("now", 0),
        DeliveryStart::InMs(ms) => ("in", ms),
        DeliveryStart::At(time) => ("at", u64::try_from(time.unix_ms()).unwrap_or(0)),
    };
    (word, ms.min(ScriptCall::MAX_NUMBER))
}
