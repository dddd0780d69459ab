//! The events that an attempt publishes, checked and kept until the event is settled.
//!
//! A refused publish is remembered. If the handler returns ok anyway, the attempt ends as `output` and publishes nothing.
//! So no event ends well with a part of its effects missing.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::bindings::eventstream::plugin::publisher::{Error, NewEvent};
use super::bindings::eventstream::plugin::types::EventData as WitEventData;
use crate::clock;
use crate::event::limits::{
    BadExtensionName, MAX_DELAY_MS, MAX_EXTENSION_VALUE_CHARS, MAX_EXTENSIONS, MAX_NAME_CHARS, check_extension_name,
    is_plain_text,
};
use crate::event::{DataKind, Event, EventData, EventId, PublishedEvent, depth_is_within, media_type};
use crate::plugin::AttemptLimits;

const MAX_CONTENT_TYPE_CHARS: usize = 256;
const MAX_JSON_DEPTH: usize = 64;

/// Extensions that published events inherit from their cause.
const INHERITED_NAMES: [&str; 2] = ["traceparent", "tracestate"];

/// What an attempt has published so far.
#[derive(Debug, Default)]
pub struct PublishBuffer {
    pub(super) published: Vec<PublishedEvent>,
    refused: Option<String>,
}

impl PublishBuffer {
    /// Keeps a new event and returns its id. `cause` is the event of the attempt.
    ///
    /// # Errors
    /// The event is invalid or one too many. The refusal is remembered.
    pub(super) fn publish(
        &mut self,
        new: NewEvent,
        plugin: &str,
        limits: &AttemptLimits,
        cause: &Event,
    ) -> Result<String, Error> {
        let checked = check(new, self.published.len(), limits, plugin, cause);
        checked.inspect_err(|error| self.refuse(error.words())).map(|published| {
            let id = published.event.id.to_string();
            self.published.push(published);
            id
        })
    }

    /// Remembers the first refused publish.
    pub fn refuse(&mut self, reason: &str) {
        self.refused.get_or_insert_with(|| format!("a publish was refused: {reason}"));
    }

    /// The published events.
    ///
    /// # Errors
    /// A publish was refused; the message says why.
    pub(super) fn into_published(self) -> Result<Vec<PublishedEvent>, String> {
        self.refused.map_or(Ok(self.published), Err)
    }
}

impl Error {
    /// The message of a refused publish.
    pub fn words(&self) -> &str {
        match self {
            Self::Denied(words) | Self::Invalid(words) | Self::TooLarge(words) | Self::TooMany(words) => words,
        }
    }
}

impl NewEvent {
    /// A new event with nothing but a type.
    pub fn of_type(type_: String) -> Self {
        Self { type_, subject: None, datacontenttype: None, extensions: Vec::new(), data: None, delay_ms: None }
    }

    /// Adds data from an interface that does not tell text from binary data. Valid UTF-8 is text, unless the content type
    /// says otherwise.
    pub fn with_bytes(self, bytes: Vec<u8>) -> Self {
        let content_type = self.datacontenttype.as_deref();
        let may_be_text = content_type.is_none_or(|it| it.starts_with("text/") || media_type::is_json(it));
        let data = match String::from_utf8(bytes) {
            Ok(text) if may_be_text => WitEventData::Text(text),
            Ok(text) => WitEventData::Binary(text.into_bytes()),
            Err(error) => WitEventData::Binary(error.into_bytes()),
        };
        Self { data: Some(data), ..self }
    }
}

/// Checks a new event. The attempt at `cause` has published `published` events before it.
fn check(
    new: NewEvent,
    published: usize,
    limits: &AttemptLimits,
    plugin: &str,
    cause: &Event,
) -> Result<PublishedEvent, Error> {
    if published >= usize::try_from(limits.published_events).unwrap_or(usize::MAX) {
        return Err(Error::TooMany(format!("an attempt publishes at most {} events", limits.published_events)));
    }
    let event_type =
        new.type_.parse().map_err(|error| Error::Invalid(format!("type {:?}: {error}", short(&new.type_))))?;
    if let Some(subject) = &new.subject {
        check_text("subject", subject, MAX_NAME_CHARS)?;
    }
    if let Some(content_type) = &new.datacontenttype {
        check_text("datacontenttype", content_type, MAX_CONTENT_TYPE_CHARS)?;
        if !content_type.is_ascii() || !content_type.contains('/') {
            let words = format!("datacontenttype {:?} is not a media type such as text/plain", short(content_type));
            return Err(Error::Invalid(words));
        }
    }
    let delay_ms = new.delay_ms.unwrap_or(0);
    if delay_ms > MAX_DELAY_MS {
        return Err(Error::Invalid(format!("delay-ms is at most {MAX_DELAY_MS}, a year")));
    }
    let mut extensions = check_extensions(new.extensions)?;
    // Both or neither: a `tracestate` belongs to its `traceparent`.
    if !extensions.contains_key("traceparent") {
        let inherited = INHERITED_NAMES.iter().filter_map(|name| cause.extensions.get_key_value(*name));
        extensions.extend(inherited.map(|(name, value)| (name.clone(), value.clone())));
    }
    let (content_type, data) = match new.data {
        None => (new.datacontenttype, None),
        Some(data) => {
            let (content_type, data) = check_data(data, new.datacontenttype, limits)?;
            (Some(content_type), Some(data))
        }
    };
    let event = Event {
        id: EventId::new(),
        event_type,
        source: format!("/plugins/{plugin}"),
        subject: new.subject,
        time: None,
        data_content_type: content_type,
        data_schema: None,
        extensions,
        accepted_at: clock::now(),
        cause: Some(cause.id),
        depth: cause.depth.saturating_add(1),
        data,
    };
    Ok(PublishedEvent { event, delay_ms })
}

fn check_text(what: &str, text: &str, max_chars: usize) -> Result<(), Error> {
    if text.is_empty() || !is_plain_text(text, max_chars) {
        return Err(Error::Invalid(format!("{what} is 1 to {max_chars} characters without control characters")));
    }
    Ok(())
}

fn check_extensions(pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Error> {
    if pairs.len() > MAX_EXTENSIONS {
        return Err(Error::TooLarge(format!("{} extensions; an event has at most {MAX_EXTENSIONS}", pairs.len())));
    }
    let mut extensions = BTreeMap::new();
    for (name, value) in pairs {
        check_extension_name(&name).map_err(|bad| {
            let words = match bad {
                BadExtensionName::Malformed => "is not 1 to 64 lower-case letters and digits",
                BadExtensionName::Reserved => "has the name of a CloudEvents attribute",
            };
            Error::Invalid(format!("the extension {:?} {words}", short(&name)))
        })?;
        if !is_plain_text(&value, MAX_EXTENSION_VALUE_CHARS) {
            let words = format!("up to {MAX_EXTENSION_VALUE_CHARS} characters without control characters");
            return Err(Error::Invalid(format!("the extension {name:?} must be {words}")));
        }
        if extensions.insert(name.clone(), value).is_some() {
            return Err(Error::Invalid(format!("the extension {name:?} occurs twice")));
        }
    }
    Ok(extensions)
}

/// Checks the data of a new event. Data that is declared as JSON must be JSON. Text without a content type is JSON if it
/// parses as JSON.
fn check_data(
    data: WitEventData,
    content_type: Option<String>,
    limits: &AttemptLimits,
) -> Result<(String, EventData), Error> {
    let (bytes, kind) = match data {
        WitEventData::Text(text) => (text.into_bytes(), DataKind::Text),
        WitEventData::Binary(bytes) => (bytes, DataKind::Binary),
    };
    if bytes.len() as u64 > limits.payload_bytes {
        let words = format!("{} bytes of data; an event has at most {}", bytes.len(), limits.payload_bytes);
        return Err(Error::TooLarge(words));
    }
    let is_text = kind == DataKind::Text;
    let (content_type, kind) = match content_type {
        Some(content_type) if media_type::is_json(&content_type) => {
            check_json(&bytes).map_err(|why| Error::Invalid(format!("the data is not {content_type}: {why}")))?;
            (content_type, DataKind::Text)
        }
        Some(content_type) => (content_type, kind),
        None if is_text && check_json(&bytes).is_ok() => (media_type::JSON.to_owned(), kind),
        None if is_text => ("text/plain".to_owned(), kind),
        None => ("application/octet-stream".to_owned(), kind),
    };
    Ok((content_type, EventData { bytes: Bytes::from(bytes), kind }))
}

fn check_json(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    if !depth_is_within(text, MAX_JSON_DEPTH) {
        return Err(format!("nested more than {MAX_JSON_DEPTH} levels deep"));
    }
    serde_json::from_str::<&serde_json::value::RawValue>(text).map(drop).map_err(|error| error.to_string())
}

pub(super) fn size_bytes(new: &NewEvent) -> usize {
    let data = match &new.data {
        None => 0,
        Some(WitEventData::Text(text)) => text.len(),
        Some(WitEventData::Binary(bytes)) => bytes.len(),
    };
    // The size of an empty pair counts too, because a guest can add any number of them.
    let pair = |(name, value): &(String, String)| size_of::<(String, String)>() + name.len() + value.len();
    let extensions: usize = new.extensions.iter().map(pair).sum();
    let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    new.type_.len() + optional(&new.subject) + optional(&new.datacontenttype) + extensions + data
}

/// The start of a guest's text, for a message.
pub fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_event() -> NewEvent {
        NewEvent::of_type("child".into())
    }

    fn check_event(new: NewEvent, published: usize) -> Result<PublishedEvent, Error> {
        check(new, published, &limits(), "p", &crate::plugin::testing::event("{}"))
    }

    fn limits() -> AttemptLimits {
        AttemptLimits { published_events: 2, payload_bytes: 16, ..AttemptLimits::default() }
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        let extension = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        let text = |text: &str| Some(WitEventData::Text(text.into()));
        let json = Some("application/cloudevents+json; charset=utf-8".to_owned());
        for (new, expected) in [
            (NewEvent { type_: "a b".into(), ..new_event() }, "type"),
            (NewEvent { subject: Some(String::new()), ..new_event() }, "subject"),
            (NewEvent { subject: Some("a\n".into()), ..new_event() }, "subject"),
            (NewEvent { datacontenttype: Some("json".into()), ..new_event() }, "media type"),
            (NewEvent { delay_ms: Some(MAX_DELAY_MS + 1), ..new_event() }, "delay-ms"),
            (NewEvent { extensions: extension("Upper", "v"), ..new_event() }, "lower-case"),
            (NewEvent { extensions: extension("source", "v"), ..new_event() }, "attribute"),
            (NewEvent { extensions: extension("ok", "\u{7}"), ..new_event() }, "control"),
            (NewEvent { extensions: [extension("a", "1"), extension("a", "1")].concat(), ..new_event() }, "twice"),
            (NewEvent { data: text("{"), datacontenttype: json, ..new_event() }, "is not application/cloudevents"),
        ] {
            let Err(Error::Invalid(words)) = check_event(new, 0) else { panic!("{expected}: it is invalid") };
            assert!(words.contains(expected), "{words:?} says {expected:?}");
        }
        let large = NewEvent { data: text("12345678901234567"), ..new_event() };
        assert!(matches!(check_event(large, 0), Err(Error::TooLarge(_))));
        assert!(matches!(check_event(new_event(), 2), Err(Error::TooMany(_))));
    }

    #[test]
    fn the_content_type_follows_from_the_data() {
        let binary = |bytes: &[u8]| WitEventData::Binary(bytes.to_vec());
        let text = |text: &str| WitEventData::Text(text.into());
        for (data, stated, expected, kind) in [
            (text("{\"a\":1}"), None, "application/json", DataKind::Text),
            (text("hello"), None, "text/plain", DataKind::Text),
            (text("1"), Some("text/csv"), "text/csv", DataKind::Text),
            (binary(b"1"), None, "application/octet-stream", DataKind::Binary),
            (binary(b"1"), Some("application/json"), "application/json", DataKind::Text),
        ] {
            let (content_type, data) = check_data(data, stated.map(str::to_owned), &limits()).unwrap();
            assert_eq!((content_type.as_str(), data.kind), (expected, kind));
        }
    }

    #[test]
    fn a_published_event_has_its_cause_and_its_trace() {
        let mut cause = crate::plugin::testing::event("{}");
        cause.extensions.insert("tracestate".into(), "vendor=1".into());
        let published = check(new_event(), 0, &limits(), "p", &cause).unwrap();
        assert_eq!((published.event.source.as_str(), published.event.cause), ("/plugins/p", Some(cause.id)));
        assert_eq!(published.event.depth, cause.depth + 1);
        assert_eq!(published.event.extensions, cause.extensions);
        assert_ne!(published.event.id, cause.id);

        let own = vec![("traceparent".to_owned(), "own".to_owned())];
        let own = NewEvent { extensions: own, ..new_event() };
        let extensions = check(own, 0, &limits(), "p", &cause).unwrap().event.extensions;
        assert_eq!(extensions, BTreeMap::from([("traceparent".to_owned(), "own".to_owned())]));
    }
}
