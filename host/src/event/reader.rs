//! One event as a client wrote it, member by member: what each may be, and what to say when it is not.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::draft::{DeliveryStart, EventFault, EventLimits, Idempotency, NewEvent, RejectedRequest};
use super::id::InvalidType;
use super::json::JsonMembers;
use super::limits::{
    BadExtensionName, MAX_DELAY_MS, MAX_EXTENSION_VALUE_CHARS, MAX_EXTENSIONS, MAX_NAME_CHARS, check_extension_name,
    is_plain_text,
};
use super::{DEFAULT_SOURCE, DataKind, Event, EventData, EventId, EventType, Timestamp};

/// What is said of a string that is well-formed JSON and no Unicode text.
const NOT_TEXT: &str = "holds half of a surrogate pair (\\ud800 to \\udfff), which is no text: write both or neither";
/// The extension that the member `key` becomes.
const PARTITION_KEY: &str = "partitionkey";

/// One event as it was written.
pub(super) struct WrittenEvent<'a> {
    pub(super) text: &'a str,
    /// None if it is not an object.
    pub(super) members: Option<JsonMembers<'a>>,
}

impl<'a> From<&'a RawValue> for WrittenEvent<'a> {
    fn from(value: &'a RawValue) -> Self {
        Self { text: value.get(), members: serde_json::from_str(value.get()).ok() }
    }
}

/// Reads one event and gathers what is wrong with it.
pub(super) struct EventReader<'a> {
    body: &'a Bytes,
    prefix: String,
    invalid: Vec<EventFault>,
}

impl<'a> EventReader<'a> {
    /// Reads events of this body; `prefix` is the pointer to the event.
    pub(super) fn new(body: &'a Bytes, prefix: String) -> Self {
        Self { body, prefix, invalid: Vec::new() }
    }

    /// The event, or everything that is wrong with it. With an idempotency key the request is `keyed`.
    pub(super) fn read(
        &mut self,
        item: &WrittenEvent<'_>,
        limits: &EventLimits,
        accepted: Timestamp,
        keyed: Option<Idempotency>,
    ) -> Result<NewEvent, RejectedRequest> {
        let Some(members) = &item.members else {
            let words = if is_object(item.text) { NOT_TEXT } else { "an event is an object" };
            return Err(RejectedRequest::Invalid(vec![EventFault::new(self.prefix.clone(), words)]));
        };
        if let Some(name) = members.duplicate() {
            let pointer = self.pointer(&escape(name));
            return Err(RejectedRequest::Malformed(vec![EventFault::new(pointer, "this member occurs twice")]));
        }

        let mut start = None;
        let (mut event_type, mut source, mut id, mut subject) = (None, None, None, None);
        let (mut schema, mut key_member, mut time, mut data) = (None, None, None, None);
        let mut extensions = BTreeMap::new();
        for (name, value) in &members.0 {
            match name.as_ref() {
                // Many serializers write a member that is absent as null. A payload may be null.
                known if is_null(value) && known != "payload" && MEMBERS.contains(&known) => {}
                "type" => event_type = self.event_type(value),
                "payload" => data = Some(self.payload(value, limits)?),
                "id" => id = self.name("id", value),
                "source" => source = self.name("source", value),
                "subject" => subject = self.name("subject", value),
                "schema" => schema = self.name("schema", value),
                "key" => key_member = self.name("key", value),
                "time" => time = self.time("time", value).map(|(text, _)| text),
                "headers" => self.headers(value, &mut extensions)?,
                "delayMs" | "deliverAt" if start.is_some() => {
                    self.fault(name, "delayMs and deliverAt exclude each other");
                }
                "delayMs" => start = self.delay(value),
                "deliverAt" => start = self.deliver_at(value, accepted),
                _ => self.fault(&escape(name), unknown_member(name)),
            }
        }
        let type_pointer = self.pointer("type");
        if event_type.is_none() && !self.invalid.iter().any(|fault| fault.pointer == type_pointer) {
            self.fault("type", "an event has a type, such as \"USER_SIGNUP\"");
        }
        let Some(event_type) = event_type.filter(|_| self.invalid.is_empty()) else {
            return Err(RejectedRequest::Invalid(std::mem::take(&mut self.invalid)));
        };

        let source = source.unwrap_or_else(|| DEFAULT_SOURCE.to_owned());
        let named = |id| Idempotency { key: digest(&["id", &source, id]), fingerprint: digest(&[item.text]) };
        let idempotency = keyed.or_else(|| id.as_deref().map(named));
        extensions.extend(id.map(|id| ("sourceid".to_owned(), id)));
        extensions.extend(key_member.map(|key| (PARTITION_KEY.to_owned(), key)));
        let event = Event {
            id: EventId::new(),
            event_type,
            source,
            subject,
            time,
            data_content_type: data.as_ref().map(|_| "application/json".to_owned()),
            data_schema: schema,
            extensions,
            accepted,
            cause: None,
            depth: 0,
            data,
        };
        Ok(NewEvent { event, start: start.unwrap_or(DeliveryStart::Now), idempotency })
    }

    fn pointer(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    fn fault(&mut self, name: &str, message: impl Into<String>) {
        let pointer = self.pointer(name);
        self.invalid.push(EventFault::new(pointer, message));
    }

    fn string(&mut self, name: &str, value: &RawValue) -> Option<String> {
        let text = serde_json::from_str::<String>(value.get()).ok();
        if text.is_none() {
            self.fault(name, if value.get().starts_with('"') { NOT_TEXT } else { "must be a string" });
        }
        text
    }

    fn name(&mut self, name: &str, value: &RawValue) -> Option<String> {
        let text = self.string(name, value)?;
        if text.is_empty() || !is_plain_text(&text, MAX_NAME_CHARS) {
            self.fault(name, format!("must be 1 to {MAX_NAME_CHARS} characters without control characters"));
            return None;
        }
        Some(text)
    }

    fn event_type(&mut self, value: &RawValue) -> Option<EventType> {
        let text = self.string("type", value)?;
        text.parse().map_err(|error: InvalidType| self.fault("type", error.to_string())).ok()
    }

    fn payload(&self, value: &RawValue, limits: &EventLimits) -> Result<EventData, RejectedRequest> {
        let text = value.get();
        if text.len() > limits.max_payload_bytes {
            let message = format!("{} bytes; a payload has at most {}", text.len(), limits.max_payload_bytes);
            return Err(RejectedRequest::TooLarge(vec![EventFault::new(self.pointer("payload"), message)]));
        }
        // A copy and not a slice of the body: a small payload of a large batch would keep all of it in memory.
        let bytes = if text.len() * 2 < self.body.len() {
            Bytes::copy_from_slice(text.as_bytes())
        } else {
            self.body.slice_ref(text.as_bytes())
        };
        Ok(EventData { bytes, kind: DataKind::Text })
    }

    fn time(&mut self, name: &str, value: &RawValue) -> Option<(String, Timestamp)> {
        let text = self.string(name, value)?;
        match text.parse::<Timestamp>() {
            Ok(time) => Some((text, time)),
            Err(error) => {
                self.fault(name, error.to_string());
                None
            }
        }
    }

    fn delay(&mut self, value: &RawValue) -> Option<DeliveryStart> {
        match whole_number(value) {
            Some(delay_ms) if delay_ms <= MAX_DELAY_MS => Some(DeliveryStart::InMs(delay_ms)),
            _ => {
                self.fault("delayMs", format!("must be a whole number from 0 to {MAX_DELAY_MS}, a year"));
                None
            }
        }
    }

    fn deliver_at(&mut self, value: &RawValue, accepted: Timestamp) -> Option<DeliveryStart> {
        let (_, at) = self.time("deliverAt", value)?;
        if at > accepted.plus_ms(MAX_DELAY_MS) {
            self.fault("deliverAt", "must be within a year from now");
            return None;
        }
        Some(DeliveryStart::At(at))
    }

    fn headers(&mut self, value: &RawValue, extensions: &mut BTreeMap<String, String>) -> Result<(), RejectedRequest> {
        let Ok(members) = serde_json::from_str::<JsonMembers<'_>>(value.get()) else {
            self.fault("headers", if is_object(value.get()) { NOT_TEXT } else { "must be an object of strings" });
            return Ok(());
        };
        if let Some(name) = members.duplicate() {
            let pointer = self.pointer(&format!("headers/{}", escape(name)));
            return Err(RejectedRequest::Malformed(vec![EventFault::new(pointer, "this member occurs twice")]));
        }
        if members.0.len() > MAX_EXTENSIONS {
            self.fault("headers", format!("{} headers; an event has at most {MAX_EXTENSIONS}", members.0.len()));
        }
        for (name, value) in members.0.into_iter().filter(|(_, value)| !is_null(value)) {
            let place = format!("headers/{name}");
            match check_extension_name(&name) {
                Err(BadExtensionName::Malformed) => {
                    self.fault("headers", format!("the name {name:?} must be 1 to 64 lower-case letters and digits"));
                }
                Err(BadExtensionName::Reserved) => self.fault(&place, "this name is an attribute of its own"),
                Ok(()) if name == PARTITION_KEY => self.fault(&place, "this is the member key of an event"),
                Ok(()) => {
                    let Some(text) = self.string(&place, value) else { continue };
                    if !is_plain_text(&text, MAX_EXTENSION_VALUE_CHARS) {
                        let words = format!("must be up to {MAX_EXTENSION_VALUE_CHARS} characters, none of control");
                        self.fault(&place, words);
                    }
                    extensions.insert(name.into_owned(), text);
                }
            }
        }
        Ok(())
    }
}

/// The members of an event, for the hint to whoever wrote another.
const MEMBERS: [&str; 11] =
    ["type", "payload", "id", "source", "subject", "key", "schema", "time", "delayMs", "deliverAt", "headers"];

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// A number that is whole, however it is written: some languages know no other than 1000.0.
fn whole_number(value: &RawValue) -> Option<u64> {
    /// Up to here every whole number is exact.
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

/// A member's name as a token of a JSON pointer.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn unknown_member(name: &str) -> String {
    let nearest = MEMBERS.iter().max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)));
    match nearest {
        Some(nearest) if strsim::jaro(nearest, name) > 0.7 => format!("no such member; did you mean {nearest:?}?"),
        _ => format!("no such member; an event has {}", MEMBERS.join(", ")),
    }
}

/// A digest of several texts, each with its length, so that no two lists give the same bytes.
pub(super) fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
