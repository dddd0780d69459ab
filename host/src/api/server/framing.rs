//! Finds where requests begin and end in the bytes of a connection, and refuses heads that servers read differently.
//!
//! A proxy before this server must see the same requests in the same bytes. Otherwise one client can smuggle a request into
//! the connection of another. So the HTTP library gets the bytes of one request at a time, and the next head begins where
//! this module saw the end. It reads three things of a head: the line ends, `Content-Length` and `Transfer-Encoding`. The
//! library reads the rest, and both must agree on the length of the body.
//!
//! Bytes after a chunked body are never read.

use std::mem;

use super::chunks::ChunkScan;

/// The most bytes of a line that are kept while a head arrives in pieces.
const MAX_LINE_BYTES: usize = 256;

/// How long the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    Bytes(u64),
    /// Its chunks tell.
    Chunked,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadFault {
    /// Two servers could read it differently.
    Ambiguous(&'static str),
    /// The body has a transfer coding that is not supported.
    UnknownCoding,
}

type HeadVerdict = Result<BodyLength, HeadFault>;

/// The current request, as far as it has arrived.
#[derive(Debug, Default)]
pub(super) struct RequestFraming {
    part: FramingState,
    /// The beginning of the current line.
    line: Vec<u8>,
    line_is_cut: bool,
    last_byte: u8,
    has_request_line: bool,
    head_bytes: usize,
    length: Option<u64>,
    is_chunked: bool,
    fault: Option<HeadFault>,
    verdict: Option<HeadVerdict>,
}

#[derive(Debug, Default)]
enum FramingState {
    #[default]
    Head,
    Body {
        left_bytes: u64,
    },
    Chunks(ChunkScan),
    /// No further byte belongs to the request, or is read as a part of it: its chunks break the rules.
    Complete,
    /// All further bytes belong to a request that is refused, or to nothing.
    Rest,
}

impl RequestFraming {
    /// Consumes the bytes of the current request and returns their number. The others belong to the next request.
    pub(super) fn consume(&mut self, bytes: &[u8]) -> usize {
        let mut consumed = 0;
        while consumed < bytes.len() {
            match &mut self.part {
                FramingState::Head => consumed += self.consume_line(&bytes[consumed..]),
                FramingState::Body { left_bytes } => {
                    let more = (bytes.len() - consumed).min(usize::try_from(*left_bytes).unwrap_or(usize::MAX));
                    consumed += more;
                    *left_bytes -= more as u64;
                    if *left_bytes == 0 {
                        self.part = FramingState::Complete;
                    }
                }
                FramingState::Chunks(chunks) => {
                    let (more, is_end) = chunks.consume(&bytes[consumed..]);
                    consumed += more;
                    if is_end {
                        self.part = FramingState::Complete;
                    }
                }
                FramingState::Complete => return consumed,
                FramingState::Rest => return bytes.len(),
            }
        }
        consumed
    }

    /// Begins the next request.
    pub(super) fn begin_next(&mut self) {
        let line = mem::take(&mut self.line);
        *self = Self { line, ..Self::default() };
        self.line.clear();
    }

    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.part, FramingState::Head)
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.part, FramingState::Complete)
    }

    /// The length of the head so far.
    pub(super) fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// What is wrong with the head.
    pub(super) fn fault(&self) -> Option<HeadFault> {
        self.fault
    }

    /// The verdict on a complete head. Each head yields one.
    pub(super) fn take_verdict(&mut self) -> Option<HeadVerdict> {
        self.verdict.take()
    }

    /// Consumes bytes of the head up to the end of the line, or all of them.
    fn consume_line(&mut self, bytes: &[u8]) -> usize {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let piece = &bytes[..end.unwrap_or(bytes.len())];
        self.head_bytes += piece.len() + usize::from(end.is_some());
        match end {
            Some(_) if self.line.is_empty() => self.end_line(piece, piece.len() > MAX_LINE_BYTES),
            end => {
                let room = MAX_LINE_BYTES - self.line.len();
                self.line.extend_from_slice(&piece[..piece.len().min(room)]);
                self.line_is_cut |= piece.len() > room;
                self.last_byte = piece.last().copied().unwrap_or(self.last_byte);
                if end.is_some() {
                    let mut line = mem::take(&mut self.line);
                    let is_cut = mem::take(&mut self.line_is_cut);
                    if is_cut {
                        line.push(self.last_byte);
                    }
                    self.end_line(&line, is_cut);
                    line.clear();
                    self.line = line;
                }
            }
        }
        piece.len() + usize::from(end.is_some())
    }

    /// Checks a line, given without its line feed. Of a long line it may get only the beginning and the last byte.
    fn end_line(&mut self, line: &[u8], is_long: bool) {
        let text = line.strip_suffix(b"\r").unwrap_or_else(|| {
            self.fail(HeadFault::Ambiguous("a line of the head ends without a carriage return"));
            line
        });
        if !text.is_empty() {
            match (mem::replace(&mut self.has_request_line, true), is_long) {
                (true, false) => self.check_header(text),
                (true, true) if value_of(text, CONTENT_LENGTH).or(value_of(text, TRANSFER_ENCODING)).is_some() => {
                    self.fail(HeadFault::Ambiguous("Content-Length or Transfer-Encoding is too long"));
                }
                _ => {}
            }
        } else if self.has_request_line {
            self.end_head();
        }
        // Empty lines before a request line are skipped (RFC 9112, section 2.2).
    }

    fn check_header(&mut self, line: &[u8]) {
        if let Some(value) = value_of(line, CONTENT_LENGTH) {
            match (self.length, parse_number(value)) {
                (Some(_), _) => self.fail(HeadFault::Ambiguous("more than one Content-Length")),
                (None, None) => self.fail(HeadFault::Ambiguous("Content-Length is not a number")),
                (None, length) => self.length = length,
            }
        } else if let Some(value) = value_of(line, TRANSFER_ENCODING) {
            if self.is_chunked {
                self.fail(HeadFault::Ambiguous("more than one Transfer-Encoding"));
            }
            self.is_chunked = true;
            let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
            let mut codings = value.rsplit(|byte| *byte == b',');
            if !codings.next().is_some_and(is_chunked) {
                self.fail(HeadFault::Ambiguous("the last transfer coding is not chunked"));
            } else if codings.clone().any(is_chunked) {
                self.fail(HeadFault::Ambiguous("the body is chunked twice"));
            } else if codings.next().is_some() {
                self.fail(HeadFault::UnknownCoding);
            }
        }
        if self.is_chunked && self.length.is_some() {
            self.fail(HeadFault::Ambiguous("both Content-Length and Transfer-Encoding"));
        }
    }

    /// Keeps the first fault. An ambiguous head replaces an unknown coding, since it is the graver fault.
    fn fail(&mut self, fault: HeadFault) {
        if matches!(self.fault, None | Some(HeadFault::UnknownCoding)) {
            self.fault = Some(fault);
        }
    }

    fn end_head(&mut self) {
        let verdict = match (self.fault, self.is_chunked) {
            (Some(fault), _) => Err(fault),
            (None, true) => Ok(BodyLength::Chunked),
            (None, false) => Ok(BodyLength::Bytes(self.length.unwrap_or(0))),
        };
        self.verdict = Some(verdict);
        self.part = match verdict {
            Ok(BodyLength::Bytes(0)) => FramingState::Complete,
            Ok(BodyLength::Bytes(left_bytes)) => FramingState::Body { left_bytes },
            Ok(BodyLength::Chunked) => FramingState::Chunks(ChunkScan::new()),
            // After a fault the connection is closed.
            Err(_) => FramingState::Rest,
        };
    }
}

const CONTENT_LENGTH: &[u8] = b"content-length:";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding:";

/// The value of a header line with this name, which ends in a colon.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// Parses a number as RFC 9110 defines it: digits only.
fn parse_number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes consumed of this text and the verdict on its head. Both are the same however the bytes are cut.
    fn framed(text: &str) -> (usize, Option<HeadVerdict>) {
        let mut whole = RequestFraming::default();
        let consumed = whole.consume(text.as_bytes());
        let verdict = whole.take_verdict();
        for piece_bytes in [1, 2, 3, 7, 19] {
            let mut framing = RequestFraming::default();
            let mut in_pieces = 0;
            for piece in text.as_bytes().chunks(piece_bytes) {
                let more = framing.consume(piece);
                in_pieces += more;
                if more < piece.len() {
                    break;
                }
            }
            assert_eq!((in_pieces, framing.take_verdict()), (consumed, verdict), "{text:?} in pieces of {piece_bytes}");
        }
        (consumed, verdict)
    }

    #[test]
    fn a_request_ends_where_its_length_says() {
        for (request, length) in [
            ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 0),
            ("\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 0),
            ("POST / HTTP/1.1\r\ncontent-LENGTH:  2\t\r\n\r\n{}", 2),
            ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 0),
            ("POST / HTTP/1.1\r\nX-Content-Length: 9\r\nContent-Length-X: 9\r\nContent-Length: 3\r\n\r\n\r\n\n", 3),
        ] {
            let followed = format!("{request}GET /next HTTP/1.1\r\n");
            assert_eq!(framed(&followed), (request.len(), Some(Ok(BodyLength::Bytes(length)))), "{request:?}");
        }
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\nContent-Length: 1\r\n\r\nx", "y".repeat(1_000));
        assert_eq!(framed(&format!("{long}GET")), (long.len(), Some(Ok(BodyLength::Bytes(1)))));
    }

    #[test]
    fn a_chunked_body_ends_with_its_last_chunk() {
        for value in ["chunked", " Chunked\t"] {
            let request = format!("POST / HTTP/1.1\r\nTransfer-Encoding:{value}\r\n\r\n1\r\nx\r\n0\r\n\r\n");
            assert_eq!(
                framed(&format!("{request}GET / HTTP/1.1\r\n")),
                (request.len(), Some(Ok(BodyLength::Chunked))),
                "{value:?}"
            );
        }
    }

    #[test]
    fn heads_that_can_be_read_in_two_ways_are_refused() {
        let long_length = format!("Content-Length: {}2\r\n", "0".repeat(240));
        for headers in [
            "Content-Length: 2\r\ntransfer-encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\nContent-Length: 2\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked,\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding:\r\n",
            "Content-Length: 2\r\nCONTENT-LENGTH: 2\r\n",
            "Content-Length: 2, 2\r\n",
            "Content-Length: +2\r\n",
            "Content-Length: 0x2\r\n",
            "Content-Length: -0\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551616\r\n",
            &long_length,
            "Host: localhost\n",
            "\n",
        ] {
            let request = format!("POST / HTTP/1.1\r\n{headers}\r\n");
            let (_, verdict) = framed(&request);
            assert!(matches!(verdict, Some(Err(HeadFault::Ambiguous(_)))), "{request:?}: {verdict:?}");
        }
        for request in
            ["GET / HTTP/1.1\nHost: localhost\r\n\r\n", "GET / HTTP/1.1\r\nX: y\r\n\n", "\nGET / HTTP/1.1\r\n\r\n"]
        {
            assert!(matches!(framed(request).1, Some(Err(HeadFault::Ambiguous(_)))), "{request:?}");
        }
    }

    #[test]
    fn an_unsupported_coding_has_a_fault_of_its_own() {
        let request = "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
        assert_eq!(framed(request).1, Some(Err(HeadFault::UnknownCoding)));
    }

    #[test]
    fn the_next_request_is_judged_anew() {
        let mut framing = RequestFraming::default();
        framing.consume(b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx");
        assert!(framing.is_complete() && framing.consume(b"more") == 0);
        assert_eq!(framing.take_verdict(), Some(Ok(BodyLength::Bytes(1))));
        framing.begin_next();
        assert_eq!(framing.consume(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nxyz"), 40);
        assert_eq!((framing.take_verdict(), framing.take_verdict()), (Some(Ok(BodyLength::Bytes(2))), None));
    }

    #[test]
    fn a_head_without_end_is_not_kept() {
        let mut framing = RequestFraming::default();
        for _ in 0..10_000 {
            framing.consume(b"0123456789abcdef");
        }
        assert_eq!((framing.line.len(), framing.head_bytes()), (MAX_LINE_BYTES, 160_000));
        assert!(framing.take_verdict().is_none() && framing.is_in_head());
    }
}
