//! Reads a stream line by line. A line has a bounded length, so that an endless one takes bounded memory.

use std::io::{self, BufRead};

/// A line without its line break.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InputLine {
    /// The complete line.
    Whole(Vec<u8>),
    /// The line was longer than allowed. It was dropped.
    TooLong,
}

/// Reads the next line; `None` at the end of the stream. A line of more than `max_bytes` is dropped.
///
/// # Errors
/// The stream cannot be read.
pub(super) fn next_line(input: &mut impl BufRead, max_bytes: usize) -> io::Result<Option<InputLine>> {
    let (mut line, mut is_begun, mut is_too_long) = (Vec::new(), false, false);
    loop {
        let read = match input.fill_buf() {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        is_begun |= !read.is_empty();
        let end = read.iter().position(|byte| *byte == b'\n');
        let part = &read[..end.unwrap_or(read.len())];
        if line.len() + part.len() > max_bytes {
            is_too_long = true;
            line = Vec::new();
        } else if !is_too_long {
            line.extend_from_slice(part);
        }
        let is_ended = end.is_some() || read.is_empty();
        let used = end.map_or(read.len(), |end| end + 1);
        input.consume(used);
        if is_ended {
            let whole = if is_too_long { InputLine::TooLong } else { InputLine::Whole(line) };
            return Ok(is_begun.then_some(whole));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn read(text: &str, max_bytes: usize) -> Vec<InputLine> {
        // The buffer has three bytes, so that a line takes several reads.
        let mut input = BufReader::with_capacity(3, text.as_bytes());
        std::iter::from_fn(|| next_line(&mut input, max_bytes).unwrap()).collect()
    }

    #[test]
    fn lines_come_one_by_one_with_or_without_an_end() {
        let whole = |text: &str| InputLine::Whole(text.as_bytes().to_vec());
        assert_eq!(read("", 9), []);
        assert_eq!(read("\n", 9), [whole("")]);
        assert_eq!(read("one\n\ntwo and", 9), [whole("one"), whole(""), whole("two and")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_the_next_one_read() {
        let whole = |text: &str| InputLine::Whole(text.as_bytes().to_vec());
        assert_eq!(
            read("12345\n123456\n123456789\n1", 5),
            [whole("12345"), InputLine::TooLong, InputLine::TooLong, whole("1")]
        );
    }
}
