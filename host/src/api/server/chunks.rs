//! Finds the end of a chunked body (RFC 9112, section 7.1), and lines that servers end differently.
//!
//! The HTTP library decodes the chunks and checks the rest. It takes a bare line feed in a trailer for a part of the line,
//! where other servers see the end of the body.

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkPart {
    /// The digits of a chunk's size.
    Size,
    /// The rest of that line.
    Extension,
    Data,
    DataEnd,
    /// The beginning of a line after the last chunk.
    TrailerStart,
    Trailer,
}

/// The body, as far as it has arrived.
#[derive(Debug)]
pub(super) struct ChunkScan {
    part: ChunkPart,
    /// The size of the chunk, or what is missing of its data.
    left_bytes: u64,
    after_carriage_return: bool,
}

impl ChunkScan {
    pub(super) fn new() -> Self {
        Self { part: ChunkPart::Size, left_bytes: 0, after_carriage_return: false }
    }

    /// Consumes bytes of the body and returns their number. The flag says whether the body ends there: it is complete, or the
    /// next byte breaks the rules.
    pub(super) fn consume(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut consumed = 0;
        while let Some(byte) = bytes.get(consumed) {
            if self.part == ChunkPart::Data {
                let more = (bytes.len() - consumed).min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
                consumed += more;
                self.left_bytes -= more as u64;
                if self.left_bytes == 0 {
                    self.part = ChunkPart::DataEnd;
                }
                continue;
            }
            if self.after_carriage_return != (*byte == b'\n') {
                return (consumed, true);
            }
            consumed += 1;
            self.after_carriage_return = *byte == b'\r';
            match (*byte, self.part) {
                (b'\n', ChunkPart::TrailerStart) => return (consumed, true),
                (b'\n', part) => self.part = self.part_after_line(part),
                (b'\r', _) => {}
                (_, ChunkPart::DataEnd) => return (consumed - 1, true),
                (_, ChunkPart::TrailerStart) => self.part = ChunkPart::Trailer,
                (byte, ChunkPart::Size) => match char::from(byte).to_digit(16) {
                    Some(digit) => self.left_bytes = self.left_bytes.saturating_mul(16).saturating_add(digit.into()),
                    None => self.part = ChunkPart::Extension,
                },
                _ => {}
            }
        }
        (consumed, false)
    }

    fn part_after_line(&self, part: ChunkPart) -> ChunkPart {
        match part {
            ChunkPart::Size | ChunkPart::Extension if self.left_bytes > 0 => ChunkPart::Data,
            ChunkPart::DataEnd => ChunkPart::Size,
            _ => ChunkPart::TrailerStart,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes belong to the body, and whether it ends there. Both are the same however the bytes are cut.
    fn scanned(text: &str) -> (usize, bool) {
        let whole = ChunkScan::new().consume(text.as_bytes());
        for piece_bytes in 1..5 {
            let (mut scan, mut in_pieces, mut is_ended) = (ChunkScan::new(), 0, false);
            for piece in text.as_bytes().chunks(piece_bytes) {
                let (more, ends) = scan.consume(piece);
                (in_pieces, is_ended) = (in_pieces + more, ends);
                if ends {
                    break;
                }
            }
            assert_eq!((in_pieces, is_ended), whole, "{text:?} in pieces of {piece_bytes}");
        }
        whole
    }

    #[test]
    fn a_body_ends_behind_its_last_chunk_and_its_trailers() {
        for body in [
            "0\r\n\r\n",
            "5\r\nab\ncd\r\n0\r\n\r\n",
            "1a ;x=\"y\"\r\n01234567890123456789\r\n\r\nab\r\n0\r\nX: y\r\nZ:\r\n\r\n",
        ] {
            assert_eq!(scanned(&format!("{body}GET / ")), (body.len(), true), "{body:?}");
            assert_eq!(scanned(&body[..body.len() - 1]), (body.len() - 1, false), "{body:?}");
        }
    }

    #[test]
    fn a_line_that_ends_in_a_bare_line_feed_or_carriage_return_is_not_taken() {
        for (good, bad) in [
            ("0", "\n\r\n"),
            ("0\r\n", "\n"),
            ("0\r\nX: y", "\n\r\n"),
            ("0\r\nX: y\r", "y\r\n\r\n"),
            ("0\r\nX: y\r\n", "\n"),
            ("1;a", "\nx\r\n0\r\n\r\n"),
            ("1\r\nx", "\n0\r\n\r\n"),
            ("1\r\nx", "y\r\n0\r\n\r\n"),
            ("1\r\nx\r", "\r\n0\r\n\r\n"),
        ] {
            assert_eq!(scanned(&format!("{good}{bad}")), (good.len(), true), "{good:?} and {bad:?}");
        }
    }
}
