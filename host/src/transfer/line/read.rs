//! Reads the lines of an export.

use std::borrow::Cow;

use super::format::{
    AnyLine, EventLine, FORMAT, FooterLine, HeaderLine, KeyLine, LineCounts, LineType, StateLine, VERSION,
};
use super::payload::LinePayload;
use crate::broker::{ExportedEvent, ExportedKey, ExportedState, Lane, SnapshotItem};
use crate::event::{Event, EventEnd, EventRecord, Idempotency};
use crate::transfer::Error;

/// A line after the first one.
#[derive(Debug)]
pub(in crate::transfer) enum ExportLine {
    Item(Box<SnapshotItem>),
    End(LineCounts),
}

/// Checks that the first line begins an export that this version can read.
///
/// # Errors
/// [`Error::NotAnExport`] and [`Error::Newer`].
pub(in crate::transfer) fn read_header(line: &[u8]) -> Result<(), Error> {
    match serde_json::from_slice::<HeaderLine<'_>>(line) {
        Ok(header) if header.format != FORMAT || header.kind != LineType::Header => Err(Error::NotAnExport),
        Ok(header) if header.version > VERSION => Err(Error::Newer { found: header.version, known: VERSION }),
        Ok(_) => Ok(()),
        Err(_) => Err(Error::NotAnExport),
    }
}

/// Reads a line after the first one.
///
/// # Errors
/// What is wrong with the line.
pub(in crate::transfer) fn read_line(line: &[u8]) -> Result<ExportLine, String> {
    let describe = |error: serde_json::Error| error.to_string();
    let AnyLine { kind } = serde_json::from_slice(line).map_err(describe)?;
    let exported = match kind {
        LineType::Header => return Err("a second export begins here".into()),
        LineType::Footer => {
            return Ok(ExportLine::End(serde_json::from_slice::<FooterLine>(line).map_err(describe)?.holds));
        }
        LineType::IdempotencyKey => {
            let line: KeyLine<'_> = serde_json::from_slice(line).map_err(describe)?;
            let digest = |text: &str| parse_hexadecimal(text).ok_or("a digest is 64 digits in hexadecimal");
            let idempotency = Idempotency { key: digest(&line.key)?, fingerprint: digest(&line.fingerprint)? };
            SnapshotItem::Key(ExportedKey { idempotency, id: line.event_id, until: line.until })
        }
        LineType::State => {
            let line: StateLine<'_> = serde_json::from_slice(line).map_err(describe)?;
            let value = line.value.into_data()?.bytes;
            let (plugin, key) = (line.plugin.into_owned(), line.key.into_owned());
            SnapshotItem::State(ExportedState { plugin, key, value, until: line.until })
        }
        LineType::Event => {
            let line: EventLine<'_> = serde_json::from_slice(line).map_err(describe)?;
            let lane: Lane = line
                .lane
                .as_deref()
                .ok_or("a waiting event needs a lane")?
                .parse()
                .map_err(|error| format!("{error}"))?;
            let due = line.due_at;
            let record = into_record(line)?;
            if record.end.is_some() {
                return Err("a waiting event has not ended".into());
            }
            SnapshotItem::Waiting(ExportedEvent { record, lane, due })
        }
        LineType::Failed => {
            let record = into_record(serde_json::from_slice(line).map_err(describe)?)?;
            if record.end.is_none() {
                return Err("a failed event needs an end: when and why it failed".into());
            }
            SnapshotItem::Failed(record)
        }
    };
    Ok(ExportLine::Item(Box::new(exported)))
}

fn into_record(line: EventLine<'_>) -> Result<EventRecord, String> {
    let event = Event {
        id: line.id,
        event_type: line.event_type,
        source: line.source.into_owned(),
        subject: line.subject.map(Cow::into_owned),
        time: line.time.map(Cow::into_owned),
        data_content_type: line.data_content_type.map(Cow::into_owned),
        data_schema: line.data_schema.map(Cow::into_owned),
        extensions: line.extensions.into_owned(),
        accepted_at: line.accepted_at,
        cause: line.cause,
        depth: line.depth,
        data: line.payload.map(LinePayload::into_data).transpose()?,
    };
    let end = match line.end {
        None => None,
        Some(end) => Some(EventEnd {
            at: end.at,
            failure: Some((end.class, end.reason.into_owned())),
            result: end.result.map(LinePayload::into_data).transpose()?,
            children: end.children.into_owned(),
            // A store exports no discarded events.
            discarded: None,
        }),
    };
    let EventLine { attempts_made, failures, replays, deferrals, attempts, .. } = line;
    let attempts = attempts.into_owned();
    Ok(EventRecord { event: event.into(), attempts_made, failures, replays, deferrals, attempts, end })
}

fn parse_hexadecimal(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |place: usize| char::from(pair[place]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(digest)
}
