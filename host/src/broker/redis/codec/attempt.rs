//! An attempt in a binary head: its number, its start as a signed number of ms after the event was accepted, and fields.
//!
//! The rules for unknown fields and codes are those of the head; see `binary.rs`.

use std::sync::Arc;

use super::ending::{class_code, class_of};
use super::fields::{FieldReader, FieldWriter};
use super::head::CodecError;
use crate::event::{AttemptRecord, LogLevel, LogLine, Timestamp};

/// The size of a digest.
const DIGEST_BYTES: usize = 32;

/// The tags of the fields of an attempt. A tag is never used again for something else.
mod tag {
    pub(super) const REPLAY: u8 = 1;
    /// A number. Missing, like `DURATION_MS`: 0.
    pub(super) const DURATION_US: u8 = 2;
    /// Eight bytes of floating point, the lowest first: a duration that is no whole number of microseconds.
    pub(super) const DURATION_MS: u8 = 3;
    pub(super) const CLASS: u8 = 4;
    pub(super) const ERROR: u8 = 5;
    pub(super) const BACKTRACE: u8 = 6;
    pub(super) const RETRY_IN_MS: u8 = 7;
    pub(super) const CONSUMER: u8 = 8;
    pub(super) const PLUGIN: u8 = 9;
    /// The 32 bytes of a digest.
    pub(super) const DIGEST: u8 = 10;
    /// A digest that is not 32 bytes in lower-case hexadecimal, as text.
    pub(super) const OTHER_DIGEST: u8 = 11;
    pub(super) const STDERR: u8 = 12;
    /// The level in one byte, the message as a text, then names and values as texts. One field for each line.
    pub(super) const LOG_LINE: u8 = 13;
    pub(super) const LOG_LINES_DROPPED: u8 = 14;
    /// The first tag that a reader must know.
    pub(super) const NEWER_ONLY: u8 = 128;
}

/// The levels of log lines, each at its code.
const LEVELS: [LogLevel; 5] = [LogLevel::Trace, LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error];

/// Writes an attempt with a finite duration.
pub(super) fn write(writer: &mut FieldWriter, record: &AttemptRecord, accepted_at: Timestamp) {
    let AttemptRecord { attempt, replay, started_at, duration_ms, class, error, backtrace, retry_in_ms, .. } = record;
    let AttemptRecord { consumer, plugin, digest, stderr, log, log_lines_dropped, .. } = record;
    writer.number(u64::from(*attempt));
    writer.signed(started_at.unix_ms() - accepted_at.unix_ms());
    writer.count_field(tag::REPLAY, *replay);
    write_duration(writer, *duration_ms);
    if let Some(class) = class {
        writer.field(tag::CLASS, &[class_code(*class)]);
    }
    writer.text_field(tag::ERROR, error.as_deref());
    writer.text_field(tag::BACKTRACE, backtrace.as_deref());
    if let Some(ms) = retry_in_ms {
        writer.number_field(tag::RETRY_IN_MS, *ms);
    }
    writer.text_field(tag::CONSUMER, Some(consumer));
    writer.text_field(tag::PLUGIN, plugin.as_deref());
    match digest.as_deref().map(|digest| (bytes_of_digest(digest), digest)) {
        Some((Some(bytes), _)) => writer.field(tag::DIGEST, &bytes),
        Some((None, text)) => writer.text_field(tag::OTHER_DIGEST, Some(text)),
        None => {}
    }
    writer.text_field(tag::STDERR, stderr.as_deref());
    for LogLine { level, message, fields } in log {
        writer.nested(tag::LOG_LINE, |line| {
            line.bytes(&[level_code(*level)]);
            line.text(message);
            for text in fields.iter().flat_map(|(name, value)| [name, value]) {
                line.text(text);
            }
        });
    }
    writer.count_field(tag::LOG_LINES_DROPPED, *log_lines_dropped);
}

/// Reads what [`write()`] wrote.
pub(super) fn read(mut reader: FieldReader<'_>, accepted_at: Timestamp) -> Result<AttemptRecord, CodecError> {
    let attempt = u32::try_from(reader.number()?)
        .map_err(|_| CodecError::Damaged("the number of an attempt is too large".into()))?;
    let mut record = AttemptRecord {
        attempt,
        replay: 0,
        started_at: reader.time_after(accepted_at.unix_ms())?,
        duration_ms: 0.0,
        class: None,
        error: None,
        backtrace: None,
        retry_in_ms: None,
        consumer: Arc::default(),
        plugin: None,
        digest: None,
        stderr: None,
        log: Vec::new(),
        log_lines_dropped: 0,
    };
    while !reader.is_empty() {
        let (tag, value) = reader.field()?;
        read_field(&mut record, tag, value)?;
    }
    Ok(record)
}

fn read_field(record: &mut AttemptRecord, tag: u8, value: FieldReader<'_>) -> Result<(), CodecError> {
    match tag {
        tag::REPLAY => record.replay = value.whole_count()?,
        tag::DURATION_US => record.duration_ms = us_to_ms(value.whole(FieldReader::number)?),
        tag::DURATION_MS => {
            let duration_ms = f64::from_le_bytes(value.whole(FieldReader::array)?);
            if !duration_ms.is_finite() {
                return Err(CodecError::Damaged("the duration of an attempt is no number".into()));
            }
            record.duration_ms = duration_ms;
        }
        tag::CLASS => record.class = Some(class_of(value.whole(FieldReader::byte)?)?),
        tag::ERROR => record.error = Some(value.whole_text()?.into()),
        tag::BACKTRACE => record.backtrace = Some(value.whole_text()?.into()),
        tag::RETRY_IN_MS => record.retry_in_ms = Some(value.whole(FieldReader::number)?),
        tag::CONSUMER => record.consumer = value.whole_text()?.into(),
        tag::PLUGIN => record.plugin = Some(value.whole_text()?.into()),
        tag::DIGEST => record.digest = Some(text_of_digest(value.whole(FieldReader::array)?).into()),
        tag::OTHER_DIGEST => record.digest = Some(value.whole_text()?.into()),
        tag::STDERR => record.stderr = Some(value.whole_text()?.into()),
        tag::LOG_LINE => record.log.push(read_log_line(value)?),
        tag::LOG_LINES_DROPPED => record.log_lines_dropped = value.whole_count()?,
        tag::NEWER_ONLY.. => return Err(CodecError::Newer(format!("an attempt in it has a field {tag}"))),
        _ => {}
    }
    Ok(())
}

fn write_duration(writer: &mut FieldWriter, duration_ms: f64) {
    // A number that is too large or negative becomes another one here, and the comparison shows it.
    let us = (duration_ms * 1_000.0).round() as u64;
    if us_to_ms(us) != duration_ms {
        writer.field(tag::DURATION_MS, &duration_ms.to_le_bytes());
    } else if us > 0 {
        writer.number_field(tag::DURATION_US, us);
    }
}

fn us_to_ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

fn level_code(level: LogLevel) -> u8 {
    match level {
        LogLevel::Trace => 0,
        LogLevel::Debug => 1,
        LogLevel::Info => 2,
        LogLevel::Warn => 3,
        LogLevel::Error => 4,
    }
}

fn read_log_line(mut reader: FieldReader<'_>) -> Result<LogLine, CodecError> {
    let code = reader.byte()?;
    let level = LEVELS.get(usize::from(code)).copied();
    let level = level.ok_or_else(|| CodecError::Newer(format!("a level of its log has code {code}")))?;
    let message = reader.text()?.into();
    let mut fields = Vec::new();
    while !reader.is_empty() {
        fields.push((reader.text()?.into(), reader.text()?.into()));
    }
    Ok(LogLine { level, message, fields })
}

/// The bytes of a digest in lower-case hexadecimal; `None` for any other text.
fn bytes_of_digest(text: &str) -> Option<[u8; DIGEST_BYTES]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != DIGEST_BYTES || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; DIGEST_BYTES];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn text_of_digest(bytes: [u8; DIGEST_BYTES]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(record: &AttemptRecord) -> (AttemptRecord, usize) {
        let accepted = Timestamp::from_unix_ms(1_795_446_245_007);
        let mut writer = FieldWriter::with_capacity(0);
        write(&mut writer, record, accepted);
        let bytes = writer.into_bytes();
        (read(FieldReader::new(&bytes), accepted).unwrap(), bytes.len())
    }

    fn attempt() -> AttemptRecord {
        AttemptRecord {
            attempt: 1,
            replay: 0,
            started_at: Timestamp::from_unix_ms(1_795_446_245_009),
            duration_ms: 0.0,
            class: None,
            error: None,
            backtrace: None,
            retry_in_ms: None,
            consumer: "".into(),
            plugin: None,
            digest: None,
            stderr: None,
            log: Vec::new(),
            log_lines_dropped: 0,
        }
    }

    #[test]
    fn durations_come_back_exactly() {
        for duration_ms in [0.0, 0.001, 0.643, 1.25, 5_000.0, 1e15, 1e300, -1.0, 1.0 / 3.0, f64::MIN_POSITIVE] {
            let (back, _) = round_trip(&AttemptRecord { duration_ms, ..attempt() });
            assert_eq!(back.duration_ms.to_bits(), duration_ms.to_bits(), "{duration_ms}");
        }
    }

    #[test]
    fn digests_come_back_and_usual_ones_take_half_their_size() {
        let usual = "96bee0fcb0544dee6253dae41a4f477a9f1a65f7de3d82c33ea89e95516276c1";
        let upper = usual.to_uppercase();
        for (digest, size_bytes) in [(usual, 32), (&upper, 64), ("", 0), ("96b", 3), (&usual[..62], 62)] {
            let (back, with) = round_trip(&AttemptRecord { digest: Some(digest.into()), ..attempt() });
            assert_eq!(back.digest.as_deref(), Some(digest));
            assert_eq!(with, round_trip(&attempt()).1 + 2 + size_bytes, "{digest:?}");
        }
    }

    #[test]
    fn every_level_and_every_part_of_a_log_line_comes_back() {
        let line = |level| LogLine {
            level,
            message: "größer\n".into(),
            fields: vec![(String::new(), "v".repeat(200)), ("n".into(), String::new())],
        };
        let log = LEVELS.map(line).to_vec();
        let record = AttemptRecord { log, log_lines_dropped: 3, retry_in_ms: Some(0), replay: 2, ..attempt() };
        assert_eq!(round_trip(&record).0, record);
    }

    #[test]
    fn a_level_or_field_of_a_later_version_is_not_damage() {
        let accepted = Timestamp::from_unix_ms(0);
        for (tag, value) in [(tag::LOG_LINE, &[9, 0][..]), (tag::CLASS, &[200]), (tag::NEWER_ONLY, &[])] {
            let mut writer = FieldWriter::with_capacity(0);
            write(&mut writer, &attempt(), accepted);
            writer.field(tag, value);
            let read = read(FieldReader::new(&writer.into_bytes()), accepted);
            assert!(matches!(read, Err(CodecError::Newer(_))), "{tag}: {read:?}");
        }
    }
}
