//! The header of a new event, written by hand.
//!
//! Accepting writes one for each event, and nothing else takes so long there when it is left to the general way. What
//! comes out is the same, byte for byte; a test compares the two.

use std::fmt::{Display, Write};

use crate::event::{DataKind, Event, EventRecord};

/// About how long a header is.
const USUAL_BYTES: usize = 384;

/// The header of a record to which nothing has happened yet; `None` for any other.
pub(super) fn of_new(record: &EventRecord) -> Option<String> {
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
    header.shown("{\"event\":{\"id\":\"", id);
    header.text("\",\"type\":", Some(event_type.as_str()));
    header.text(",\"source\":", Some(source));
    header.text(",\"subject\":", subject.as_deref());
    header.text(",\"time\":", time.as_deref());
    header.text(",\"data_content_type\":", data_content_type.as_deref());
    header.text(",\"data_schema\":", data_schema.as_deref());
    let mut before = ",\"extensions\":{";
    for (name, value) in extensions {
        header.text(before, Some(name));
        header.text(":", Some(value));
        before = ",";
    }
    if !extensions.is_empty() {
        header.0.push('}');
    }
    header.shown(",\"accepted\":\"", accepted);
    header.0.push('"');
    if let Some(cause) = cause {
        header.shown(",\"cause\":\"", cause);
        header.0.push('"');
    }
    if *depth > 0 {
        header.shown(",\"depth\":", depth);
    }
    header.0.push('}');
    if let Some(data) = data {
        header.0.push_str(match data.kind {
            DataKind::Text => ",\"data\":{\"kind\":\"text\",\"size_bytes\":",
            DataKind::Binary => ",\"data\":{\"kind\":\"binary\",\"size_bytes\":",
        });
        header.shown("", data.bytes.len());
        header.0.push('}');
    }
    header.0.push_str(",\"made\":0,\"failures\":0,\"replays\":0,\"attempts\":[]}");
    Some(header.0)
}

struct RecordHeader(String);

impl RecordHeader {
    /// A text in quotes behind what stands before it; nothing if there is none.
    fn text(&mut self, before: &str, text: Option<&str>) {
        let Some(text) = text else { return };
        self.0.push_str(before);
        if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
            self.0.push('"');
            self.0.push_str(text);
            self.0.push('"');
        } else {
            self.shown("", serde_json::Value::from(text));
        }
    }

    /// What is shown of a value, behind what stands before it.
    fn shown(&mut self, before: &str, value: impl Display) {
        self.0.push_str(before);
        // Writing to memory does not fail.
        let _ = write!(self.0, "{value}");
    }
}
