//! How an event ended, in a binary head: the ending with its time at the beginning, and fields.

use super::fields::{FieldReader, FieldWriter};
use super::head::{CodecError, DataSize, RecordHead};
use crate::event::{Discard, EventEnd, EventId, FailureClass};

/// The ending of an event that has not ended.
pub(super) const NOT_ENDED: u8 = 0;
/// The ending of a processed event.
const PROCESSED: u8 = 1;
/// The ending of a failed event of the class with code 0.
const FAILED: u8 = 2;

/// The tags of these fields, among those of a head.
pub(super) mod tag {
    /// Why it failed. Missing: empty.
    pub(in crate::broker::redis::codec) const REASON: u8 = 16;
    /// The size of the result, as that of the payload.
    pub(in crate::broker::redis::codec) const RESULT: u8 = 17;
    /// The ids of the published events, one after the other.
    pub(in crate::broker::redis::codec) const CHILDREN: u8 = 18;
    /// A signed number: ms after the end; then the reason.
    pub(in crate::broker::redis::codec) const DISCARDED: u8 = 19;
}

/// The ending of a failed event of this class.
pub(in crate::broker::redis) const fn failed_ending(class: FailureClass) -> u8 {
    FAILED + class_code(class)
}

/// The code of a class. Each class keeps its own for good; `list.lua` compares it.
pub(super) const fn class_code(class: FailureClass) -> u8 {
    match class {
        FailureClass::Retry => 0,
        FailureClass::Reject => 1,
        FailureClass::Trap => 2,
        FailureClass::Timeout => 3,
        FailureClass::Limit => 4,
        FailureClass::Output => 5,
        FailureClass::NoHandler => 6,
        FailureClass::Crash => 7,
        FailureClass::BadEntry => 8,
    }
}

/// The class with a code.
pub(super) fn class_of(code: u8) -> Result<FailureClass, CodecError> {
    let found = FailureClass::ALL.into_iter().find(|class| class_code(*class) == code);
    found.ok_or_else(|| CodecError::Newer(format!("its class of failure has code {code}")))
}

/// Writes the ending, and the time if it has ended.
pub(super) fn write(head: &mut FieldWriter, end: Option<&EventEnd>) {
    let Some(EventEnd { at, failure, .. }) = end else { return head.bytes(&[NOT_ENDED]) };
    head.bytes(&[failure.as_ref().map_or(PROCESSED, |(class, _)| failed_ending(*class))]);
    head.bytes(&at.unix_ms().to_be_bytes()[2..]);
}

/// Reads what [`write()`] wrote.
pub(super) fn read(head: &mut FieldReader<'_>) -> Result<Option<EventEnd>, CodecError> {
    let ending = head.byte()?;
    if ending == NOT_ENDED {
        return Ok(None);
    }
    let at = head.unix_ms()?;
    let failure = match ending.checked_sub(FAILED) {
        Some(code) => Some((class_of(code)?, String::new())),
        None => None,
    };
    Ok(Some(EventEnd { at, failure, result: None, children: Vec::new(), discarded: None }))
}

/// Writes the fields of the end.
pub(super) fn write_fields(head: &mut FieldWriter, end: &EventEnd) {
    let EventEnd { at, failure, result, children, discarded } = end;
    let reason = failure.as_ref().map(|(_, reason)| reason.as_str());
    head.text_field(tag::REASON, reason.filter(|reason| !reason.is_empty()));
    if let Some(result) = result {
        head.data_size_field(tag::RESULT, DataSize::of(result));
    }
    if !children.is_empty() {
        head.nested(tag::CHILDREN, |field| children.iter().for_each(|child| field.bytes(child.as_bytes())));
    }
    if let Some(discarded) = discarded {
        head.nested(tag::DISCARDED, |field| {
            field.signed(discarded.at.unix_ms() - at.unix_ms());
            field.bytes(discarded.reason.as_bytes());
        });
    }
}

/// Reads one of these fields into the end of a record.
pub(super) fn read_field(record: &mut RecordHead, tag: u8, mut value: FieldReader<'_>) -> Result<(), CodecError> {
    let Some(end) = &mut record.end else {
        return Err(CodecError::Damaged(format!("it has not ended and has a field {tag}")));
    };
    match tag {
        tag::REASON => {
            let Some((_, reason)) = &mut end.failure else {
                return Err(CodecError::Damaged("it has a reason and no failure".into()));
            };
            value.whole_text()?.clone_into(reason);
        }
        tag::RESULT => record.result = Some(value.whole(FieldReader::data_size)?),
        tag::CHILDREN => {
            while !value.is_empty() {
                end.children.push(EventId::from_bytes(value.array()?));
            }
        }
        _ => {
            let at = value.time_after(end.at.unix_ms())?;
            end.discarded = Some(Discard { at, reason: value.whole_text()?.into() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_code_of_its_own() {
        for class in FailureClass::ALL {
            assert_eq!(class_of(class_code(class)), Ok(class));
        }
        assert!(matches!(class_of(u8::MAX), Err(CodecError::Newer(_))));
    }
}
