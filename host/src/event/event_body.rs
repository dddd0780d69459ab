//! Events and their data as JSON.
//!
//! Data is not parsed into values. JSON is copied byte for byte, other text becomes a string, and bytes become base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{EventData, media_type};

/// An event as a client sends it and as an attempt publishes it.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each member is the one of that name in `POST /events`")]
pub struct EventBody<'a> {
    pub r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<DataView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

/// Text: spliced in if it is JSON, else a string.
#[derive(Serialize)]
#[serde(untagged)]
pub enum DataView<'a> {
    /// JSON.
    Json(&'a RawValue),
    /// Other text.
    Text(&'a str),
}

/// Shows data as text or as base64: one of the two is `Some` unless there is no data. Text without a content type is shown as
/// JSON if it is JSON.
pub fn data_view<'a>(
    data: Option<&'a EventData>,
    content_type: Option<&str>,
) -> (Option<DataView<'a>>, Option<String>) {
    let Some(data) = data else { return (None, None) };
    let Some(text) = data.as_text() else { return (None, Some(STANDARD.encode(&data.bytes))) };
    let json = serde_json::from_str::<&RawValue>(text).ok();
    // A `RawValue` drops the white space around the JSON, but the payload must be shown byte for byte.
    let json = json.filter(|json| json.get().len() == text.len() && content_type.is_none_or(media_type::is_json));
    (Some(json.map_or(DataView::Text(text), DataView::Json)), None)
}
