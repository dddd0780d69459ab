//! Answers that are given without a handler: to a head that cannot be read, is too large, or does not arrive in time.
//!
//! The HTTP library answers the first two by itself, with a status and nothing else. What it writes is recognised and
//! replaced, so that every refusal has a document.

use super::problem::{Kind, Problem};

/// The answer to a head that did not arrive in time.
pub(super) fn head_timeout(header_timeout_ms: u64) -> Vec<u8> {
    answer(Kind::RequestTimeout, &format!("the head of the request did not arrive within {header_timeout_ms} ms"))
}

/// What is to be written in place of this, if it is an answer that the HTTP library made up itself.
pub(super) fn replacement(written: &[u8]) -> Option<Vec<u8>> {
    let head = written.strip_prefix(b"HTTP/1.1 ").or_else(|| written.strip_prefix(b"HTTP/1.0 "))?;
    // Most of what is written is an answer of ours, and known by its status.
    let (kind, detail) = match head.get(..3)? {
        b"400" => (Kind::BadRequest, "this is not HTTP/1.1, or its head breaks the rules"),
        b"414" => (Kind::UriTooLong, "the address is longer than is accepted"),
        b"431" => (Kind::HeadersTooLarge, "the headers are more or larger than is accepted"),
        _ => return None,
    };
    let is_empty = contains(head, b"\r\ncontent-length: 0\r\n") && !contains(head, b"\r\ncontent-type:");
    is_empty.then(|| answer(kind, detail))
}

fn answer(kind: Kind, detail: &str) -> Vec<u8> {
    let problem = Problem::new(kind, detail);
    let body = problem.body();
    format!(
        "HTTP/1.1 {}\r\nconnection: close\r\ncontent-type: application/problem+json\r\nx-content-type-options: nosniff\r\n\
         cache-control: no-store\r\ncontent-length: {}\r\n\r\n{body}",
        problem.status(),
        body.len()
    )
    .into_bytes()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_refusals_are_replaced() {
        let made_up = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let text = String::from_utf8(replacement(made_up).unwrap()).unwrap();
        assert!(text.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{text}");
        assert!(body.starts_with("{\"type\":\"/problems/headers-too-large\""), "{text}");
        for ours in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 10\r\n\r\n",
            "{\"HTTP/1.1 400\"}",
            "HTTP/1.1 4",
            "",
        ] {
            assert_eq!(replacement(ours.as_bytes()), None, "{ours:?}");
        }
    }
}
