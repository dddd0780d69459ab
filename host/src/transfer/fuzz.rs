//! Properties of every line of an export: it is read and writes back the same, or is refused with a reason.
//!
//! The fuzzing targets call these functions, and so does a test in their harness. A violated property panics.

use super::line::{self, ExportLine};
use crate::broker::{ExportedEvent, Lane, SnapshotItem};
use crate::event::{EventRecord, Timestamp};

/// Reads the input as a first line and as a later one.
///
/// # Panics
/// A property does not hold.
pub fn line(input: &[u8]) {
    if let Err(error) = line::read_header(input) {
        assert!(!error.to_string().is_empty());
    }
    match line::read_line(input) {
        Ok(ExportLine::Item(exported)) => check_round_trip(&exported),
        Ok(ExportLine::End(counts)) => {
            let written = line::write_end(counts).expect("the last line can be written");
            assert!(matches!(line::read_line(&written), Ok(ExportLine::End(again)) if again == counts));
        }
        Err(reason) => assert!(!reason.trim().is_empty(), "a refusal has a reason"),
    }
}

/// Checks that a waiting event is the same after an export and an import.
///
/// # Panics
/// It is not the same.
pub fn check_record_round_trip(record: &EventRecord, due: Option<Timestamp>) {
    check_round_trip(&SnapshotItem::Waiting(ExportedEvent { record: record.clone(), lane: Lane::unrouted(), due }));
}

fn check_round_trip(exported: &SnapshotItem) {
    let written = line::write_item(exported).expect("what was read can be written");
    assert_eq!(written.iter().position(|byte| *byte == b'\n'), Some(written.len() - 1), "one line");
    match line::read_line(&written) {
        Ok(ExportLine::Item(again)) => assert_eq!(*again, *exported, "{}", String::from_utf8_lossy(&written)),
        other => panic!("{} was written and read as {other:?}", String::from_utf8_lossy(&written)),
    }
}
