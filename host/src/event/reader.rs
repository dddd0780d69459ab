//! Reads one event of a request, member by member: an event that may be appended, or everything that is wrong with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::DEFAULT_SOURCE;
use super::cloud_event::{DataKind, Event, EventData};
use super::id::{EventId, EventType, InvalidType};
use super::json::JsonMembers;
use super::limits::{
    BadExtensionName, EventLimits, MAX_DELAY_MS, MAX_EXTENSION_VALUE_CHARS, MAX_EXTENSIONS, MAX_NAME_CHARS,
    check_extension_name, is_plain_text,
};
use super::media_type;
use super::time::Timestamp;

/// The fault of a string that is valid JSON but not Unicode text.
const NOT_TEXT: &str =
    "contains half of a surrogate pair (\\ud800 to \\udfff), so it is not text: write both halves or none";
/// The extension that the member `key` becomes.
const PARTITION_KEY: &str = "partitionkey";

/// A valid event that may be appended.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// The event.
    pub event: Event,
    /// When it may first be delivered.
    pub start: DeliveryStart,
    /// How the server recognizes the same event when the client sends it again.
    pub idempotency: Option<Idempotency>,
}

/// When an event may first be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStart {
    /// Immediately.
    Now,
    /// This many milliseconds after the append, by the broker's clock.
    InMs(u64),
    /// Not before this time, by the broker's clock.
    At(Timestamp),
}

/// What identifies a sent event, and a digest of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// A digest of the `Idempotency-Key` and the event's index in the body, or of `source` and `id`.
    pub key: [u8; 32],
    /// A digest of what was sent with this key: of the whole body, or of the event.
    pub fingerprint: [u8; 32],
}

/// Why the server accepted no event of a request. Sending the same body again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectedRequest {
    /// The body is not JSON, or not events; HTTP 400.
    #[error("the body cannot be read as JSON events")]
    Malformed(Vec<EventFault>),
    /// The body is well-formed, but an event in it is invalid; HTTP 422.
    #[error("the body is not a valid event")]
    Invalid(Vec<EventFault>),
    /// A payload or the batch exceeds its limit; HTTP 413.
    #[error("the body is larger than the server accepts")]
    TooLarge(Vec<EventFault>),
}

/// One thing that is wrong, and its place.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct EventFault {
    /// A JSON pointer (RFC 6901) into the body; empty for the body itself.
    pub pointer: String,
    /// What is wrong there, and what is valid.
    pub message: String,
}

impl EventFault {
    /// Describes a fault at the place that the pointer names.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }
}

/// One event as the client wrote it.
pub(super) struct RawEvent<'a> {
    pub(super) text: &'a str,
    /// `None` if it is not an object with names that are text.
    pub(super) members: Option<JsonMembers<'a>>,
}

impl<'a> From<&'a RawValue> for RawEvent<'a> {
    fn from(value: &'a RawValue) -> Self {
        Self { text: value.get(), members: serde_json::from_str(value.get()).ok() }
    }
}

/// Reads one event and collects its faults.
pub(super) struct EventReader<'a> {
    body: &'a Bytes,
    prefix: String,
    invalid: Vec<EventFault>,
}

impl<'a> EventReader<'a> {
    /// Creates a reader for an event of this body. `prefix` is the JSON pointer to the event.
    pub(super) fn new(body: &'a Bytes, prefix: String) -> Self {
        Self { body, prefix, invalid: Vec::new() }
    }

    /// Returns the event, or all its faults. `keyed` is its identity if the request has an idempotency key.
    pub(super) fn read(
        &mut self,
        item: &RawEvent<'_>,
        limits: &EventLimits,
        accepted_at: Timestamp,
        keyed: Option<Idempotency>,
    ) -> Result<NewEvent, RejectedRequest> {
        let Some(members) = &item.members else {
            let message = if is_object(item.text) { NOT_TEXT } else { "an event is an object" };
            return Err(RejectedRequest::Invalid(vec![EventFault::new(self.prefix.clone(), message)]));
        };
        if let Some(name) = members.find_duplicate() {
            let pointer = self.pointer(&escape_token(name));
            return Err(RejectedRequest::Malformed(vec![EventFault::new(pointer, "this member occurs twice")]));
        }

        let mut start = None;
        let (mut event_type, mut source, mut id, mut subject) = (None, None, None, None);
        let (mut schema, mut key_member, mut time, mut data) = (None, None, None, None);
        let mut extensions = BTreeMap::new();
        for (name, value) in &members.0 {
            match name.as_ref() {
                // Many serializers write an absent member as null. A payload may be null.
                known if is_null(value) && known != "payload" && MEMBERS.contains(&known) => {}
                "type" => event_type = self.read_type(value),
                "payload" => data = Some(self.read_payload(value, limits)?),
                "id" => id = self.read_name("id", value),
                "source" => source = self.read_name("source", value),
                "subject" => subject = self.read_name("subject", value),
                "schema" => schema = self.read_name("schema", value),
                "key" => key_member = self.read_name("key", value),
                "time" => time = self.read_time("time", value).map(|(text, _)| text),
                "headers" => self.read_headers(value, &mut extensions)?,
                "delayMs" | "deliverAt" if start.is_some() => {
                    self.add_fault(name, "delayMs and deliverAt exclude each other");
                }
                "delayMs" => start = self.read_delay(value),
                "deliverAt" => start = self.read_deliver_at(value, accepted_at),
                _ => self.add_fault(&escape_token(name), describe_unknown_member(name)),
            }
        }
        let type_pointer = self.pointer("type");
        if event_type.is_none() && !self.invalid.iter().any(|fault| fault.pointer == type_pointer) {
            self.add_fault("type", "an event needs a type, such as \"USER_SIGNUP\"");
        }
        let Some(event_type) = event_type.filter(|_| self.invalid.is_empty()) else {
            return Err(RejectedRequest::Invalid(std::mem::take(&mut self.invalid)));
        };

        let source = source.unwrap_or_else(|| DEFAULT_SOURCE.to_owned());
        let named =
            |id| Idempotency { key: digest_parts(&["id", &source, id]), fingerprint: digest_parts(&[item.text]) };
        let idempotency = keyed.or_else(|| id.as_deref().map(named));
        extensions.extend(id.map(|id| ("sourceid".to_owned(), id)));
        extensions.extend(key_member.map(|key| (PARTITION_KEY.to_owned(), key)));
        let event = Event {
            id: EventId::new(),
            event_type,
            source,
            subject,
            time,
            data_content_type: data.as_ref().map(|_| media_type::JSON.to_owned()),
            data_schema: schema,
            extensions,
            accepted_at,
            cause: None,
            depth: 0,
            data,
        };
        Ok(NewEvent { event, start: start.unwrap_or(DeliveryStart::Now), idempotency })
    }

    fn pointer(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    fn add_fault(&mut self, name: &str, message: impl Into<String>) {
        let pointer = self.pointer(name);
        self.invalid.push(EventFault::new(pointer, message));
    }

    fn read_string(&mut self, name: &str, value: &RawValue) -> Option<String> {
        let text = serde_json::from_str::<String>(value.get()).ok();
        if text.is_none() {
            self.add_fault(name, if value.get().starts_with('"') { NOT_TEXT } else { "must be a string" });
        }
        text
    }

    fn read_name(&mut self, name: &str, value: &RawValue) -> Option<String> {
        let text = self.read_string(name, value)?;
        if text.is_empty() || !is_plain_text(&text, MAX_NAME_CHARS) {
            self.add_fault(name, format!("must be 1 to {MAX_NAME_CHARS} characters without control characters"));
            return None;
        }
        Some(text)
    }

    fn read_type(&mut self, value: &RawValue) -> Option<EventType> {
        let text = self.read_string("type", value)?;
        text.parse().map_err(|error: InvalidType| self.add_fault("type", error.to_string())).ok()
    }

    fn read_payload(&self, value: &RawValue, limits: &EventLimits) -> Result<EventData, RejectedRequest> {
        let text = value.get();
        if text.len() > limits.max_payload_bytes {
            let message = format!("{} bytes; a payload has at most {}", text.len(), limits.max_payload_bytes);
            return Err(RejectedRequest::TooLarge(vec![EventFault::new(self.pointer("payload"), message)]));
        }
        // A small payload is copied: a slice of it would keep the body of the whole batch in memory.
        let bytes = if text.len() * 2 < self.body.len() {
            Bytes::copy_from_slice(text.as_bytes())
        } else {
            self.body.slice_ref(text.as_bytes())
        };
        Ok(EventData { bytes, kind: DataKind::Text })
    }

    fn read_time(&mut self, name: &str, value: &RawValue) -> Option<(String, Timestamp)> {
        let text = self.read_string(name, value)?;
        match text.parse::<Timestamp>() {
            Ok(time) => Some((text, time)),
            Err(error) => {
                self.add_fault(name, error.to_string());
                None
            }
        }
    }

    fn read_delay(&mut self, value: &RawValue) -> Option<DeliveryStart> {
        match parse_whole_number(value) {
            Some(delay_ms) if delay_ms <= MAX_DELAY_MS => Some(DeliveryStart::InMs(delay_ms)),
            _ => {
                self.add_fault("delayMs", format!("must be a whole number from 0 to {MAX_DELAY_MS}, a year"));
                None
            }
        }
    }

    fn read_deliver_at(&mut self, value: &RawValue, accepted_at: Timestamp) -> Option<DeliveryStart> {
        let (_, at) = self.read_time("deliverAt", value)?;
        if at > accepted_at.plus_ms(MAX_DELAY_MS) {
            self.add_fault("deliverAt", "must be within a year from now");
            return None;
        }
        Some(DeliveryStart::At(at))
    }

    fn read_headers(
        &mut self,
        value: &RawValue,
        extensions: &mut BTreeMap<String, String>,
    ) -> Result<(), RejectedRequest> {
        let Ok(members) = serde_json::from_str::<JsonMembers<'_>>(value.get()) else {
            self.add_fault("headers", if is_object(value.get()) { NOT_TEXT } else { "must be an object of strings" });
            return Ok(());
        };
        if let Some(name) = members.find_duplicate() {
            let pointer = self.pointer(&format!("headers/{}", escape_token(name)));
            return Err(RejectedRequest::Malformed(vec![EventFault::new(pointer, "this member occurs twice")]));
        }
        if members.0.len() > MAX_EXTENSIONS {
            self.add_fault("headers", format!("{} headers; an event has at most {MAX_EXTENSIONS}", members.0.len()));
        }
        for (name, value) in members.0.into_iter().filter(|(_, value)| !is_null(value)) {
            let place = format!("headers/{name}");
            match check_extension_name(&name) {
                Err(BadExtensionName::Malformed) => {
                    self.add_fault(
                        "headers",
                        format!("the name {name:?} must be 1 to 64 lower-case letters and digits"),
                    );
                }
                Err(BadExtensionName::Reserved) => self.add_fault(&place, "this name is reserved for an attribute"),
                Ok(()) if name == PARTITION_KEY => {
                    self.add_fault(&place, "set it with the member \"key\" of the event")
                }
                Ok(()) => {
                    let Some(text) = self.read_string(&place, value) else { continue };
                    if !is_plain_text(&text, MAX_EXTENSION_VALUE_CHARS) {
                        let message =
                            format!("must be up to {MAX_EXTENSION_VALUE_CHARS} characters without control characters");
                        self.add_fault(&place, message);
                    }
                    extensions.insert(name.into_owned(), text);
                }
            }
        }
        Ok(())
    }
}

/// The members that an event may have.
const MEMBERS: [&str; 11] =
    ["type", "payload", "id", "source", "subject", "key", "schema", "time", "delayMs", "deliverAt", "headers"];

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// Parses a whole number in any notation: some languages can only write 1000.0.
fn parse_whole_number(value: &RawValue) -> Option<u64> {
    /// The largest integer up to which an `f64` represents every integer exactly.
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    if let Ok(number) = serde_json::from_str(value.get()) {
        return Some(number);
    }
    let number: f64 = serde_json::from_str(value.get()).ok()?;
    let is_whole = number.fract() == 0.0 && (0.0..=MAX_EXACT).contains(&number);
    is_whole.then_some(number as u64)
}

fn is_object(text: &str) -> bool {
    text.starts_with('{')
}

/// Escapes a member's name as a token of a JSON pointer.
fn escape_token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn describe_unknown_member(name: &str) -> String {
    let nearest = MEMBERS.iter().max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)));
    match nearest {
        Some(nearest) if strsim::jaro(nearest, name) > 0.7 => format!("no such member; did you mean {nearest:?}?"),
        _ => format!("no such member; an event has {}", MEMBERS.join(", ")),
    }
}

/// Hashes several texts. The length before each text makes different lists give different digests.
pub(super) fn digest_parts(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
