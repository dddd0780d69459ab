//! Refusals without a handler: of a head that cannot be read, is too large, or does not arrive in time.
//!
//! The HTTP library answers the first two itself, with a status and no body. Such an answer is recognized as it is written,
//! and replaced by a problem document.

use crate::api::problem::{PROBLEM_JSON, Problem, ProblemKind};

/// The refusal of a head that did not arrive in time.
pub(super) fn head_timeout(header_timeout_ms: u64) -> Problem {
    Problem::new(
        ProblemKind::RequestTimeout,
        format!("the head of the request did not arrive within {header_timeout_ms} ms"),
    )
}

/// The problem that replaces these bytes, if they are an answer of the HTTP library itself. `head_fault` returns a more
/// precise reason where there is one.
pub(super) fn problem_for(
    written: &[u8],
    head_fault: impl FnOnce() -> Option<(ProblemKind, &'static str)>,
) -> Option<Problem> {
    let head = written.strip_prefix(b"HTTP/1.1 ").or_else(|| written.strip_prefix(b"HTTP/1.0 "))?;
    // Nearly all writes are answers of a handler. Their status ends the check here.
    let general = match head.get(..3)? {
        b"400" => (ProblemKind::BadRequest, "this is not HTTP/1.1, or its head breaks the rules"),
        b"414" => (ProblemKind::UriTooLong, "the address is too long"),
        b"431" => (ProblemKind::HeadersTooLarge, "the request has too many headers, or they are too large"),
        _ => return None,
    };
    let is_empty = contains(head, b"\r\ncontent-length: 0\r\n") && !contains(head, b"\r\ncontent-type:");
    let refusal = || if general.0 == ProblemKind::BadRequest { head_fault().unwrap_or(general) } else { general };
    is_empty.then(|| {
        let (kind, detail) = refusal();
        Problem::new(kind, detail)
    })
}

/// The bytes of an answer that ends its connection.
pub(super) fn answer_bytes(problem: &Problem) -> Vec<u8> {
    let body = problem.body();
    let retry_after = problem.retry_after_s().map(|seconds| format!("retry-after: {seconds}\r\n"));
    format!(
        "HTTP/1.1 {}\r\nconnection: close\r\ncontent-type: {PROBLEM_JSON}\r\nx-content-type-options: nosniff\r\n\
         cache-control: no-store\r\n{}content-length: {}\r\n\r\n{body}",
        problem.status(),
        retry_after.unwrap_or_default(),
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

    fn replaced(written: &[u8], head_fault: Option<(ProblemKind, &'static str)>) -> Option<String> {
        let problem = problem_for(written, || head_fault)?;
        Some(String::from_utf8(answer_bytes(&problem)).unwrap())
    }

    #[test]
    fn only_empty_refusals_are_replaced() {
        let made_up = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let text = replaced(made_up, Some((ProblemKind::UnknownCoding, "gzip"))).unwrap();
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
            assert_eq!(replaced(ours.as_bytes(), None), None, "{ours:?}");
        }
    }

    #[test]
    fn a_known_fault_of_the_head_is_named() {
        let made_up = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let text = replaced(made_up, Some((ProblemKind::UnknownCoding, "no gzip"))).unwrap();
        assert!(text.starts_with("HTTP/1.1 501 Not Implemented\r\n") && text.contains("no gzip"), "{text}");
        assert!(replaced(made_up, None).unwrap().starts_with("HTTP/1.1 400 Bad Request\r\n"));
    }

    #[test]
    fn a_temporary_refusal_says_when_to_try_again() {
        let text = String::from_utf8(answer_bytes(&Problem::overloaded("full"))).unwrap();
        assert!(text.contains("\r\nretry-after: 1\r\n"), "{text}");
    }
}
