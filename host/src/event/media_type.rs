//! Media types, as a `Content-Type` header holds them.

/// The media type of JSON.
pub const JSON: &str = "application/json";

/// Returns the type and subtype of a media type in lower case, without parameters.
pub fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether data of this media type is JSON: `application/json`, `text/json`, or a type that ends in `+json`.
pub fn is_json(media_type: &str) -> bool {
    let essence = essence(media_type);
    essence == JSON || essence == "text/json" || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognized_by_type_and_suffix() {
        for json in ["application/json", "Application/JSON; charset=utf-8", " text/json ", "application/ld+json;a=b"] {
            assert!(is_json(json), "{json}");
        }
        for other in ["", "text/plain", "application/jsonx", "json", "text/plain; a=+json"] {
            assert!(!is_json(other), "{other}");
        }
    }
}
