//! What must hold of any line that stands in an export: taken as it would be written, or refused with words.
//!
//! Called by the fuzzing targets and by their test in the harness; each function fails by panicking.

use super::line::{self, Line};
use crate::broker::{Exported, ExportedEvent, Lane};
use crate::event::{Record, Timestamp};

/// Reads the input as the first line of an export and as a later one.
///
/// # Panics
/// Something that must hold does not.
pub fn line(input: &[u8]) {
    if let Err(error) = line::check_header(input) {
        assert!(!error.to_string().is_empty());
    }
    match line::parse(input) {
        Ok(Line::Item(exported)) => comes_back(&exported),
        Ok(Line::End(counts)) => {
            let written = line::end(counts).expect("the last line can be written");
            assert!(matches!(line::parse(&written), Ok(Line::End(again)) if again == counts));
        }
        Err(reason) => assert!(!reason.trim().is_empty(), "a refusal has a reason"),
    }
}

/// Whether a record that waits is the same after it was exported and imported.
///
/// # Panics
/// It is not.
pub fn record_comes_back(record: &Record, due: Option<Timestamp>) {
    comes_back(&Exported::Waiting(ExportedEvent { record: record.clone(), lane: Lane::unrouted(), due }));
}

fn comes_back(exported: &Exported) {
    let written = line::item(exported).expect("what was read can be written");
    assert_eq!(written.iter().position(|byte| *byte == b'\n'), Some(written.len() - 1), "one line");
    match line::parse(&written) {
        Ok(Line::Item(again)) => assert_eq!(*again, *exported, "{}", String::from_utf8_lossy(&written)),
        other => panic!("{} was written and read as {other:?}", String::from_utf8_lossy(&written)),
    }
}
