//! The bytes that an event counts for.

/// About how many bytes an event takes besides its head and its payload.
pub(super) const ROW_BYTES: u64 = 200;

/// The bytes that an event counts for while it waits, with a payload of `data_bytes`.
pub(super) fn row_bytes(data_bytes: usize) -> u64 {
    ROW_BYTES.saturating_add(data_bytes as u64)
}

/// The bytes that an event counts for after it ended, with a payload and a story of these sizes.
pub(super) fn ended_bytes(data_bytes: usize, story_bytes: usize) -> i64 {
    signed(row_bytes(data_bytes.saturating_add(story_bytes)))
}

/// A number as SQLite stores it: SQLite has only signed integers. No size comes near the limit.
pub(super) fn signed(size_bytes: u64) -> i64 {
    i64::try_from(size_bytes).unwrap_or(i64::MAX)
}
