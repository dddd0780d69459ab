//! What is sent, where to, and what the answer means.
//!
//! The request follows Standard Webhooks (<https://www.standardwebhooks.com>). `webhook-id` is the event's idempotency
//! key, the same for every attempt, so that the receiver recognizes an event that it has seen.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac_sha256::HMAC;

/// The parts of an address that a request names.
#[derive(Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// Whether the scheme is `https` and not `http`.
    pub is_https: bool,
    /// The host, with its port if it is not the usual one.
    pub authority: &'a str,
    /// The path and the query.
    pub path_with_query: String,
}

impl<'a> Address<'a> {
    /// The parts of a URL; `None` if it is not one of `http` or `https`.
    #[must_use]
    pub fn parse(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let is_https = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let slash = if path.starts_with('/') { "" } else { "/" };
        (!authority.is_empty()).then(|| Self { is_https, authority, path_with_query: format!("{slash}{path}") })
    }
}

/// Why the receiver did not accept an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It may accept the event later.
    Later {
        /// When it wants to be asked again, if it says so.
        after_ms: Option<u64>,
    },
    /// Asking again gives the same answer.
    Final,
}

/// Decides by the status of an answer, and by its `Retry-After`.
///
/// # Errors
/// See [`Refusal`].
pub fn judge(status: u16, retry_after: Option<&str>) -> Result<(), Refusal> {
    match status {
        200..300 => Ok(()),
        408 | 425 | 429 | 500.. => Err(Refusal::Later { after_ms: retry_after.and_then(parse_seconds) }),
        _ => Err(Refusal::Final),
    }
}

/// Seconds in milliseconds. A date gives `None`: the retry policy then sets the pause.
fn parse_seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let is_number = text.len() < 7 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse::<u64>().ok()).flatten().map(|seconds| seconds * 1_000)
}

/// The headers of the message. With a key they contain its signature.
#[must_use]
pub fn headers(id: &str, unix_seconds: u64, body: &[u8], signing_key: Option<&str>) -> Vec<(&'static str, String)> {
    let timestamp = unix_seconds.to_string();
    let signature = signing_key.map(|key| sign(key, id, &timestamp, body));
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        // Without the length the body goes out in chunks, which some receivers do not accept.
        ("content-length", body.len().to_string()),
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", timestamp),
    ];
    headers.extend(signature.map(|signature| ("webhook-signature", signature)));
    headers
}

fn sign(key: &str, id: &str, timestamp: &str, body: &[u8]) -> String {
    let signed = [id.as_bytes(), timestamp.as_bytes(), body].join(&b'.');
    format!("v1,{}", STANDARD.encode(HMAC::mac(signed, key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_path() {
        for (url, is_https, authority, path_with_query) in [
            ("http://127.0.0.1:8080/hooks", false, "127.0.0.1:8080", "/hooks"),
            ("https://example.com", true, "example.com", "/"),
            ("https://example.com/a/b?to=us#part", true, "example.com", "/a/b?to=us"),
            ("https://example.com?to=us", true, "example.com", "/?to=us"),
        ] {
            let expected = Address { is_https, authority, path_with_query: path_with_query.into() };
            assert_eq!(Address::parse(url), Some(expected), "{url}");
        }
        for url in ["example.com", "ftp://example.com", "https://", "https:///hooks", ""] {
            assert_eq!(Address::parse(url), None, "{url}");
        }
    }

    #[test]
    fn the_status_decides_how_the_event_ends() {
        for status in [200, 204, 299] {
            assert_eq!(judge(status, None), Ok(()));
        }
        for status in [408, 425, 429, 500, 503, 599] {
            assert_eq!(judge(status, None), Err(Refusal::Later { after_ms: None }));
        }
        for status in [301, 400, 404, 410] {
            assert_eq!(judge(status, Some("1")), Err(Refusal::Final));
        }
    }

    #[test]
    fn the_receiver_may_name_the_pause_in_seconds() {
        for (text, after_ms) in [("1", Some(1_000)), (" 120 ", Some(120_000)), ("0", Some(0))] {
            assert_eq!(judge(503, Some(text)), Err(Refusal::Later { after_ms }), "{text}");
        }
        for text in ["", "-1", "1.5", "1234567", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(judge(503, Some(text)), Err(Refusal::Later { after_ms: None }), "{text}");
        }
    }

    #[test]
    fn a_message_is_signed_if_there_is_a_key() {
        let find = |headers: Vec<(&str, String)>, wanted| {
            headers.into_iter().find_map(|(name, value)| (name == wanted).then_some(value))
        };
        let signed = headers("0190", 1_700_000_000, b"{}", Some("a signing key"));
        // HMAC-SHA256 of `0190.1700000000.{}`, computed with Python's `hmac`.
        assert_eq!(
            find(signed, "webhook-signature").as_deref(),
            Some("v1,SgXTSoX9J3BT0x9yFNBvgL0/h1Xb/0aBn0E10qeeIbs=")
        );
        let unsigned = headers("0190", 1_700_000_000, b"{}", None);
        assert_eq!(find(unsigned, "webhook-signature"), None);
    }
}
