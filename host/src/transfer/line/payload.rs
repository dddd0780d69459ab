//! Payloads in a line: as JSON where possible, otherwise as text, otherwise in base64. All three keep every byte.
//!
//! JSON is embedded as it was received, never parsed and printed again. That needs bytes that are exactly one JSON value
//! without a line break, which would end the line.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::event::{DataKind, EventData};

/// A payload in a line. Exactly one of the first three fields is present.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinePayload<'a> {
    #[serde(borrow, default, deserialize_with = "present_value", skip_serializing_if = "Option::is_none")]
    json: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    base64: Option<Cow<'a, str>>,
    /// The kind of the bytes in base64; binary if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<DataKind>,
}

/// Reads a value that is present. `null` counts as a value.
fn present_value<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> From<&'a EventData> for LinePayload<'a> {
    fn from(data: &'a EventData) -> Self {
        let in_base64 = |kind| Self { base64: Some(STANDARD.encode(&data.bytes).into()), kind, ..Self::default() };
        match (data.kind, std::str::from_utf8(&data.bytes)) {
            (DataKind::Binary, _) => in_base64(None),
            // A store returned damaged bytes. They are exported as they are.
            (DataKind::Text, Err(_)) => in_base64(Some(DataKind::Text)),
            (DataKind::Text, Ok(text)) => match as_single_line_json(text) {
                Some(json) => Self { json: Some(json), ..Self::default() },
                None => Self { text: Some(text.into()), ..Self::default() },
            },
        }
    }
}

/// Returns the text as JSON if it is exactly one value without a line break.
fn as_single_line_json(text: &str) -> Option<&RawValue> {
    if text.bytes().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return None;
    }
    serde_json::from_str::<&RawValue>(text).ok().filter(|json| json.get().len() == text.len())
}

impl LinePayload<'_> {
    /// Decodes the payload.
    ///
    /// # Errors
    /// None or several of the forms are present, or the base64 is invalid.
    pub(super) fn into_data(self) -> Result<EventData, String> {
        match (self.json, self.text, self.base64) {
            (Some(json), None, None) => Ok(EventData::text(json.get())),
            (None, Some(text), None) => Ok(EventData::text(text)),
            (None, None, Some(base64)) => {
                let bytes = STANDARD.decode(base64.as_bytes()).map_err(|error| format!("not base64: {error}"))?;
                Ok(EventData { bytes: Bytes::from(bytes), kind: self.kind.unwrap_or(DataKind::Binary) })
            }
            _ => Err("a payload has exactly one of json, text and base64".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(data: &EventData) -> String {
        serde_json::to_string(&LinePayload::from(data)).unwrap()
    }

    fn check_round_trip(data: &EventData) {
        let line = written(data);
        assert!(!line.contains(['\n', '\r']), "{line:?}");
        assert_eq!(&serde_json::from_str::<LinePayload<'_>>(&line).unwrap().into_data().unwrap(), data, "{line}");
    }

    #[test]
    fn json_is_embedded_as_it_was_and_other_forms_are_recognized() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for (text, form) in [
            (r#"{ "n": 12345678901234567890.10, "n":1e400 }"#, "json"),
            ("null", "json"),
            ("\"\\ud800\"", "json"),
            (&deep, "json"),
            ("", "text"),
            (" 1", "text"),
            ("1 ", "text"),
            ("{\n}", "text"),
            ("[1,\r2]", "text"),
            ("hello", "text"),
            ("1 2", "text"),
            ("\u{feff}1", "text"),
            ("\u{0}\u{2028}\u{10ffff}\"", "text"),
        ] {
            let data = EventData::text(text);
            assert!(written(&data).starts_with(&format!("{{\"{form}\":")), "{}", written(&data));
            check_round_trip(&data);
        }
        assert_eq!(written(&EventData::text("{ \"n\": 1.10 }")), "{\"json\":{ \"n\": 1.10 }}");
        for bytes in [&b""[..], b"\xff\x00\n", b"{}"] {
            assert!(written(&EventData::binary(bytes)).starts_with("{\"base64\":"));
            check_round_trip(&EventData::binary(bytes));
        }
        check_round_trip(&EventData { bytes: Bytes::from_static(b"\xff"), kind: DataKind::Text });
    }

    #[test]
    fn random_bytes_come_back_as_they_were() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..5_000 {
            const LIKELY: &[u8] = b"{}[]\",:\\ \n\r\tnul0123456789.eE-\xc3\xa9\x00\xff";
            let bytes: Vec<u8> = (0..random.usize(..12)).map(|_| LIKELY[random.usize(..LIKELY.len())]).collect();
            check_round_trip(&EventData { bytes: bytes.clone().into(), kind: DataKind::Text });
            check_round_trip(&EventData::binary(bytes));
        }
    }

    #[test]
    fn a_payload_that_is_written_in_no_form_or_two_is_refused() {
        for bad in ["{}", r#"{"json":1,"text":"a"}"#, r#"{"base64":"?"}"#] {
            assert!(serde_json::from_str::<LinePayload<'_>>(bad).unwrap().into_data().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<LinePayload<'_>>(r#"{"xml":"a"}"#).is_err());
    }
}
