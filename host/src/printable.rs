//! Makes text from elsewhere safe for a terminal and a log line.
//!
//! A plugin, a client or another server may send control sequences, marks that reverse the direction of text, or line ends
//! that forge a line. These characters become the escapes of Rust (`\n`, `\u{1b}`), as in quoted names. In JSON they become
//! those of JSON, so that a document keeps its value.

use std::fmt::{self, Display, Formatter, Write};

/// A value on one line: characters that break lines, control terminals or are invisible become escapes.
#[derive(Clone, Copy, Debug)]
pub struct Printable<T>(pub T);

/// A text of several lines: as [`Printable`], but line feeds stay. The values in it must be escaped already.
#[derive(Clone, Copy, Debug)]
pub struct PrintableLines<T>(pub T);

/// A JSON document on one line: line ends and tabs become spaces, other characters become escapes of JSON. The document
/// keeps its value.
#[derive(Clone, Copy, Debug)]
pub struct PrintableJson<T>(pub T);

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        escape(&self.0, LineEnds::Escaped, f)
    }
}

impl<T: Display> Display for PrintableLines<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        escape(&self.0, LineEnds::Kept, f)
    }
}

impl<T: Display> Display for PrintableJson<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        escape(&self.0, LineEnds::Blanks, f)
    }
}

/// How line ends and tabs are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LineEnds {
    Escaped,
    Kept,
    Blanks,
}

fn escape(value: &impl Display, line_ends: LineEnds, f: &mut Formatter<'_>) -> fmt::Result {
    if f.width().is_none() && f.precision().is_none() {
        return write!(EscapingWriter { out: f, line_ends }, "{value}");
    }
    // A width must count the escapes, or the columns of a table would not line up.
    let mut shown = String::new();
    write!(EscapingWriter { out: &mut shown, line_ends }, "{value}")?;
    f.pad(&shown)
}

/// A writer that escapes characters.
struct EscapingWriter<'a, W> {
    out: &'a mut W,
    line_ends: LineEnds,
}

impl<W: Write> Write for EscapingWriter<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut clean = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| is_unprintable(*c)) {
            self.out.write_str(&text[clean..at])?;
            clean = at + c.len_utf8();
            match (c, self.line_ends) {
                ('\n', LineEnds::Kept) => self.out.write_char('\n')?,
                ('\n' | '\r' | '\t', LineEnds::Blanks) => self.out.write_char(' ')?,
                ('\n', _) => self.out.write_str("\\n")?,
                ('\r', _) => self.out.write_str("\\r")?,
                ('\t', _) => self.out.write_str("\\t")?,
                (_, LineEnds::Blanks) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}")?;
                    }
                }
                _ => write!(self.out, "{}", c.escape_unicode())?,
            }
        }
        self.out.write_str(&text[clean..])
    }
}

/// Whether a character must be escaped.
fn is_unprintable(c: char) -> bool {
    // Most text is printable ASCII and needs only this comparison.
    if (' '..='~').contains(&c) {
        return false;
    }
    // Besides control characters: the soft hyphen, direction marks and isolates, line and paragraph separators, characters
    // without width, the byte order mark, annotations, and tags.
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\n\r\t\u{1b}[31m\u{7f}\u{85}\u{9b}\u{61c}\u{200e}\u{200f}\u{202e}\u{2066}\u{2028}\u{2029}\u{feff}\u{e0041}é\0";

    #[test]
    fn nothing_that_controls_a_terminal_or_breaks_a_line_is_left() {
        let shown = Printable(HOSTILE).to_string();
        assert!(!shown.contains(is_unprintable), "{shown:?}");
        assert!(shown.starts_with("a\\n\\r\\t\\u{1b}[31m\\u{7f}\\u{85}\\u{9b}\\u{61c}\\u{200e}"), "{shown}");
        assert!(shown.ends_with("\\u{e0041}é\\u{0}"), "{shown}");
    }

    #[test]
    fn the_escapes_are_those_of_quoted_names() {
        let text = "a\n\r\t\u{1b}[31m\u{85}\u{202e}";
        assert_eq!(format!("\"{}\"", Printable(text)), format!("{text:?}"));
    }

    #[test]
    fn a_document_keeps_its_value_on_one_line() {
        let document = serde_json::json!({ "a": [1, HOSTILE], HOSTILE: null });
        let shown = PrintableJson(serde_json::to_string_pretty(&document).unwrap()).to_string();
        assert!(!shown.contains(is_unprintable), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), document);
    }

    #[test]
    fn a_report_keeps_its_lines_and_nothing_else() {
        assert_eq!(PrintableLines("a\nb\r\u{1b}c").to_string(), "a\nb\\r\\u{1b}c");
    }

    #[test]
    fn a_width_counts_what_is_shown() {
        assert_eq!(format!("{:<8}|", Printable("a\nb")), "a\\nb    |");
        assert_eq!(format!("{:.2}|", Printable("\n\n")), "\\n|");
    }
}
