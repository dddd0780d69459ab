//! The head of a request as its bytes came: is there anything about it that two servers could read differently?
//!
//! Whoever sits in front of this server must see the same requests in the same bytes, or one client can slip a request
//! into another's connection. So what is only tolerated is refused: two ways to say how long the body is, and lines that
//! end without a carriage return.

/// The most bytes of a head that are looked at; more is refused by the limit on headers.
const MAX_BYTES: usize = 128 * 1024;

/// So many bytes stay set aside from one head to the next.
const KEPT_BYTES: usize = 2 * 1024;

/// The bytes of a head so far.
#[derive(Debug, Default)]
pub(super) struct Head {
    bytes: Vec<u8>,
    /// Where the line begins that has not ended.
    line_start: usize,
    complete: bool,
}

impl Head {
    /// Begins anew. What was set aside for the bytes is kept unless it is much.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        (self.line_start, self.complete) = (0, false);
    }

    /// More bytes. What follows the empty line is not looked at.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !self.complete && self.bytes.len() < MAX_BYTES {
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                self.bytes.extend_from_slice(bytes);
                return;
            };
            let (line, rest) = bytes.split_at(end + 1);
            self.bytes.extend_from_slice(line);
            bytes = rest;
            let is_empty = matches!(&self.bytes[self.line_start..], b"\n" | b"\r\n");
            match is_empty {
                // Empty lines before a request are skipped, as everyone does.
                true if self.line_start == 0 => self.bytes.clear(),
                true => self.complete = true,
                false => {}
            }
            self.line_start = self.bytes.len();
        }
    }

    /// What to think of the head of a request with this method; `None` if these are not the bytes of it.
    pub(super) fn judge(&self, method: &str) -> Option<Result<(), &'static str>> {
        let is_its = self.complete && self.bytes.strip_prefix(method.as_bytes())?.starts_with(b" ");
        is_its.then(|| self.verdict())
    }

    fn verdict(&self) -> Result<(), &'static str> {
        let (mut lengths, mut encodings) = (0, 0);
        for line in self.bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(line) = line.strip_suffix(b"\r\n") else {
                return Err("a line of the head ends without a carriage return");
            };
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            lengths += usize::from(name.eq_ignore_ascii_case(b"content-length"));
            encodings += usize::from(name.eq_ignore_ascii_case(b"transfer-encoding"));
        }
        match (lengths, encodings) {
            (0 | 1, 0) | (0, 1) => Ok(()),
            (0, _) => Err("more than one Transfer-Encoding"),
            (_, 0) => Err("more than one Content-Length"),
            _ => Err("both Content-Length and Transfer-Encoding"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict is the same however the bytes are cut.
    fn judged(text: &str, method: &str) -> Option<Result<(), &'static str>> {
        let mut whole = Head::default();
        whole.push(text.as_bytes());
        let mut in_bytes = Head::default();
        text.bytes().for_each(|byte| in_bytes.push(&[byte]));
        let verdict = whole.judge(method);
        assert_eq!(verdict, in_bytes.judge(method), "{text:?}");
        verdict
    }

    #[test]
    fn heads_that_all_read_alike_are_good() {
        for good in [
            "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nContent-Length: 1\nX",
        ] {
            assert_eq!(judged(good, "GET"), Some(Ok(())), "{good:?}");
        }
    }

    #[test]
    fn heads_that_can_be_read_in_two_ways_are_not() {
        for bad in [
            "GET / HTTP/1.1\r\nContent-Length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 2\r\nCONTENT-LENGTH: 2\r\n\r\n",
            "GET / HTTP/1.1\nHost: localhost\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: localhost\r\n\n",
        ] {
            assert!(matches!(judged(bad, "GET"), Some(Err(_))), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_the_head_of_the_request_is_not_judged() {
        assert_eq!(judged("GET / HTTP/1.1\r\nHost: localhost\r\n", "GET"), None);
        assert_eq!(judged("ontent-Length: 2\r\n\r\n", "GET"), None);
        assert_eq!(judged("GETTER / HTTP/1.1\r\n\r\n", "GET"), None);
        assert_eq!(judged("", "GET"), None);
    }

    #[test]
    fn a_head_without_end_does_not_grow_without_end() {
        let mut head = Head::default();
        for _ in 0..MAX_BYTES {
            head.push(b"0123456789abcdef");
        }
        assert!(head.bytes.len() < MAX_BYTES + 16);
    }
}
