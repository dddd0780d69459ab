//! What must hold of any line that stands in an export: taken as it would be written, or refused with words.
//!
//! Called by the fuzzing targets and by their test in the harness; each function fails by panicking.

use super::line::{self, ExportLine};
use crate::broker::{ExportedEvent, Lane, SnapshotItem};
use crate::event::{EventRecord, Timestamp};

/// Reads the input as the first line of an export and as a later one.
///
/// # Panics
/// Something that must hold does not.
pub fn line(input: &[u8]) {
    if let Err(error) = line::check_header(input) {
        assert!(!error.to_string().is_empty());
    }
    match line::parse(input) {
        Ok(ExportLine::Item(exported)) => comes_back(&exported),
        Ok(ExportLine::End(counts)) => {
            let written = line::end(counts).expect("the last line can be written");
            assert!(matches!(line::parse(&written), Ok(ExportLine::End(again)) if again == counts));
        }
        Err(reason) => assert!(!reason.trim().is_empty(), "a refusal has a reason"),
    }
}

/// Whether a record that waits is the same after it was exported and imported.
///
/// # Panics
/// It is not.
pub fn record_comes_back(record: &EventRecord, due: Option<Timestamp>) {
    comes_back(&SnapshotItem::Waiting(ExportedEvent { record: record.clone(), lane: Lane::unrouted(), due }));
}

fn comes_back(exported: &SnapshotItem) {
    let written = line::item(exported).expect("what was read can be written");
    assert_eq!(written.iter().position(|byte| *byte == b'\n'), Some(written.len() - 1), "one line");
    match line::parse(&written) {
        Ok(ExportLine::Item(again)) => assert_eq!(*again, *exported, "{}", String::from_utf8_lossy(&written)),
        other => panic!("{} was written and read as {other:?}", String::from_utf8_lossy(&written)),
    }
}
