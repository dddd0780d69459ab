//! Encodes the header of a new event without `serde`.
//!
//! Each accepted event needs one, and with `serde` it is the most expensive part of accepting. The result is the same,
//! byte for byte; a test compares the two.

use std::fmt::{Display, Write};

use crate::event::{DataKind, Event, EventRecord};

/// The usual length of a header.
const USUAL_BYTES: usize = 384;

/// The header of a record without attempts; `None` for any other record.
pub(super) fn encode_new(record: &EventRecord) -> Option<String> {
    let EventRecord { event, attempts_made: 0, failures: 0, replays: 0, deferrals: 0, attempts, end: None } = record
    else {
        return None;
    };
    if !attempts.is_empty() {
        return None;
    }
    let Event { id, event_type, source, subject, time, .. } = &**event;
    let Event { data_content_type, data_schema, extensions, accepted, cause, depth, data, .. } = &**event;
    let mut header = RecordHeader(String::with_capacity(USUAL_BYTES));
    header.push_display("{\"event\":{\"id\":\"", id);
    header.push_text("\",\"type\":", Some(event_type.as_str()));
    header.push_text(",\"source\":", Some(source));
    header.push_text(",\"subject\":", subject.as_deref());
    header.push_text(",\"time\":", time.as_deref());
    header.push_text(",\"data_content_type\":", data_content_type.as_deref());
    header.push_text(",\"data_schema\":", data_schema.as_deref());
    let mut before = ",\"extensions\":{";
    for (name, value) in extensions {
        header.push_text(before, Some(name));
        header.push_text(":", Some(value));
        before = ",";
    }
    if !extensions.is_empty() {
        header.0.push('}');
    }
    header.push_display(",\"accepted\":\"", accepted);
    header.0.push('"');
    if let Some(cause) = cause {
        header.push_display(",\"cause\":\"", cause);
        header.0.push('"');
    }
    if *depth > 0 {
        header.push_display(",\"depth\":", depth);
    }
    header.0.push('}');
    if let Some(data) = data {
        header.0.push_str(match data.kind {
            DataKind::Text => ",\"data\":{\"kind\":\"text\",\"size_bytes\":",
            DataKind::Binary => ",\"data\":{\"kind\":\"binary\",\"size_bytes\":",
        });
        header.push_display("", data.bytes.len());
        header.0.push('}');
    }
    header.0.push_str(",\"made\":0,\"failures\":0,\"replays\":0,\"attempts\":[]}");
    Some(header.0)
}

struct RecordHeader(String);

impl RecordHeader {
    /// Appends `before` and a quoted text; nothing if there is no text.
    fn push_text(&mut self, before: &str, text: Option<&str>) {
        let Some(text) = text else { return };
        self.0.push_str(before);
        if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
            self.0.push('"');
            self.0.push_str(text);
            self.0.push('"');
        } else {
            self.push_display("", serde_json::Value::from(text));
        }
    }

    /// Appends `before` and a value as [`Display`] shows it.
    fn push_display(&mut self, before: &str, value: impl Display) {
        self.0.push_str(before);
        // Writing to a string does not fail.
        let _ = write!(self.0, "{value}");
    }
}
