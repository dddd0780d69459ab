//! The bytes that an event counts for.

/// About how many bytes an event takes besides its columns.
pub(super) const ROW_BYTES: u64 = 200;
/// About how many bytes an idempotency key takes, with its entry in the index.
pub(super) const IDEMPOTENCY_KEY_BYTES: u64 = 180;

/// The bytes that an event counts for in any state. `body_bytes` is the size of its head, which holds its attributes, and of
/// its payload; `story_bytes` that of its attempts and its result.
pub(super) fn row_bytes(body_bytes: usize, story_bytes: usize) -> u64 {
    ROW_BYTES.saturating_add(body_bytes as u64).saturating_add(story_bytes as u64)
}

/// A number as SQLite stores it: SQLite has only signed integers. No size comes near the limit.
pub(super) fn signed(size_bytes: u64) -> i64 {
    i64::try_from(size_bytes).unwrap_or(i64::MAX)
}
