//! How much of its attempts a record keeps.
//!
//! One attempt may leave hundreds of kilobytes of log and standard error. The store keeps them while the event waits and
//! after it failed. So the fuller a lane is, the less of an attempt is kept. Only output is left out: attempts, failures and
//! pauses are counted all the same.

use super::{AttemptRecord, EventRecord, LogLine};

/// The most bytes that the attempts of one record take in the store. Beyond it, earlier ones lose their output.
const MAX_ATTEMPTS_BYTES: u64 = 1024 * 1024;
/// About how many bytes an attempt takes in the store besides its texts.
const ATTEMPT_BYTES: u64 = 320;
/// The most bytes of an error that a brief attempt keeps, as JSON.
const BRIEF_ERROR_BYTES: u64 = 512;
/// The most bytes of an error that a compact record keeps, as JSON.
const COMPACT_ERROR_BYTES: u64 = 128;
/// Texts up to this size are kept: what says that a text was left out is not much shorter.
const SHORT_TEXT_BYTES: usize = 64;
/// The end of an error that was cut.
const CUT: &str = " … (the rest was left out)";

/// How much of an attempt a record keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttemptDetail {
    /// Everything.
    Whole,
    /// No log, no standard error, no backtrace, and the start of the error.
    Brief,
    /// The same of every attempt, with less of each error; and of the attempts only the first and the last.
    Compact,
}

impl AttemptDetail {
    /// Decides what is kept of an attempt that takes `attempt_bytes`, where `stored_bytes` are stored already. Attempts are kept
    /// whole up to `whole_bytes`, and records become compact at `limit_bytes`.
    pub fn for_room(stored_bytes: u64, attempt_bytes: u64, whole_bytes: u64, limit_bytes: u64) -> Self {
        match stored_bytes.saturating_add(attempt_bytes) {
            _ if stored_bytes >= limit_bytes => Self::Compact,
            needed_bytes if needed_bytes > whole_bytes => Self::Brief,
            _ => Self::Whole,
        }
    }

    /// About how many bytes are kept of an attempt that takes `attempt_bytes`.
    pub fn kept_bytes(self, attempt_bytes: u64) -> u64 {
        let error_bytes = match self {
            Self::Whole => return attempt_bytes,
            Self::Brief => BRIEF_ERROR_BYTES,
            Self::Compact => COMPACT_ERROR_BYTES,
        };
        attempt_bytes.min(ATTEMPT_BYTES + 2 * SHORT_TEXT_BYTES as u64 + error_bytes)
    }

    fn error_bytes(self) -> Option<u64> {
        match self {
            Self::Whole => None,
            Self::Brief => Some(BRIEF_ERROR_BYTES),
            Self::Compact => Some(COMPACT_ERROR_BYTES),
        }
    }
}

impl AttemptRecord {
    /// About how many bytes the attempt takes in the store, as JSON.
    pub fn stored_bytes(&self) -> u64 {
        let line = |line: &LogLine| {
            let fields = line.fields.iter().map(|(name, value)| 8 + json_bytes(name) + json_bytes(value)).sum::<u64>();
            40 + json_bytes(&line.message) + fields
        };
        let texts = [&self.error, &self.backtrace, &self.stderr].into_iter().flatten();
        ATTEMPT_BYTES + texts.map(|text| json_bytes(text)).sum::<u64>() + self.log.iter().map(line).sum::<u64>()
    }

    /// Whether the guest logged anything or wrote to its standard error.
    pub fn has_output(&self) -> bool {
        !self.log.is_empty() || self.stderr.is_some()
    }

    /// Leaves out the output and all but the start of the error. What is left says so.
    fn leave_out_output(&mut self, error_bytes: u64) {
        self.log_lines_dropped =
            self.log_lines_dropped.saturating_add(u32::try_from(self.log.len()).unwrap_or(u32::MAX));
        self.log = Vec::new();
        for text in [&mut self.stderr, &mut self.backtrace].into_iter().flatten() {
            if text.len() > SHORT_TEXT_BYTES {
                *text = format!("({} bytes left out)", text.len());
            }
        }
        if let Some(error) = &mut self.error {
            cut(error, error_bytes);
        }
    }
}

impl EventRecord {
    /// Keeps no more of the latest attempt, of the reason of the failure and of earlier attempts than `detail` says.
    pub fn with_detail(mut self, detail: AttemptDetail) -> Self {
        let Some(error_bytes) = detail.error_bytes() else { return self };
        let first_to_shorten = match detail {
            AttemptDetail::Compact => {
                if self.attempts.len() > 2 {
                    self.attempts.drain(1..self.attempts.len() - 1);
                }
                0
            }
            AttemptDetail::Brief | AttemptDetail::Whole => self.attempts.len().saturating_sub(1),
        };
        self.attempts.iter_mut().skip(first_to_shorten).for_each(|attempt| attempt.leave_out_output(error_bytes));
        if let Some((_, reason)) = self.end.as_mut().and_then(|end| end.failure.as_mut()) {
            cut(reason, error_bytes);
        }
        self
    }

    /// Leaves out the output of earlier attempts, in the middle first, until all attempts take no more than a record may.
    pub(super) fn limit_attempts(&mut self) {
        let Some(earlier) = self.attempts.len().checked_sub(1).filter(|earlier| *earlier > 0) else { return };
        let mut all_bytes: u64 = self.attempts.iter().map(AttemptRecord::stored_bytes).sum();
        for index in (1..earlier).chain([0]) {
            if all_bytes <= MAX_ATTEMPTS_BYTES {
                return;
            }
            let attempt = &mut self.attempts[index];
            all_bytes -= attempt.stored_bytes();
            attempt.leave_out_output(BRIEF_ERROR_BYTES);
            all_bytes += attempt.stored_bytes();
        }
    }
}

/// The size of a text inside a JSON string: control characters take six bytes.
fn json_bytes(text: &str) -> u64 {
    text.bytes().map(|byte| json_byte(byte.into())).sum()
}

fn json_byte(char: char) -> u64 {
    match char {
        '"' | '\\' | '\u{8}' | '\t' | '\n' | '\u{c}' | '\r' => 2,
        '\0'..='\u{1f}' => 6,
        _ => 1,
    }
}

/// Cuts a text to its first `most_bytes` bytes as JSON.
fn cut(text: &mut String, most_bytes: u64) {
    if text.len() <= SHORT_TEXT_BYTES || json_bytes(text) <= most_bytes + CUT.len() as u64 {
        return;
    }
    let mut size_bytes = 0;
    let is_past = |(_, char): &(usize, char)| {
        size_bytes += json_byte(*char) * char.len_utf8() as u64;
        size_bytes > most_bytes
    };
    if let Some((end, _)) = text.char_indices().find(is_past) {
        text.truncate(end);
        text.push_str(CUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DEFAULT_SOURCE, Event, FailureClass, LogLevel, Settlement, Timestamp};

    fn attempt(number: u32, output_bytes: usize) -> AttemptRecord {
        AttemptRecord {
            attempt: number,
            replay: 0,
            started_at: Timestamp::from_unix_ms(1_795_446_245_007),
            duration_ms: 1.25,
            class: Some(FailureClass::Trap),
            error: Some("e\u{1}\n\"é".repeat(output_bytes / 5)),
            backtrace: Some("b".repeat(output_bytes)),
            retry_in_ms: None,
            consumer: "eventstream-12345-0123abcd".into(),
            plugin: Some("orders".into()),
            digest: Some("0".repeat(64).into()),
            stderr: Some("s\n".repeat(output_bytes / 2)),
            log: vec![
                LogLine {
                    level: LogLevel::Info,
                    message: "\u{1}m".repeat(output_bytes),
                    fields: vec![("key".into(), "v".into())]
                };
                3
            ],
            log_lines_dropped: 2,
        }
    }

    fn tried(times: u32, output_bytes: usize) -> EventRecord {
        let event = Event::new("a".parse().unwrap(), DEFAULT_SOURCE, Timestamp::from_unix_ms(0));
        let retry = Settlement::Retry { class: FailureClass::Trap, delay_ms: 1_000 };
        (1..=times).fold(EventRecord::new(event), |record, number| {
            record.with_attempt(attempt(number, output_bytes), &retry, Timestamp::from_unix_ms(0), None, Vec::new())
        })
    }

    fn json(attempt: &AttemptRecord) -> String {
        serde_json::to_string(attempt).unwrap()
    }

    #[test]
    fn the_fuller_a_lane_is_the_less_is_kept() {
        use AttemptDetail::{Brief, Compact, Whole};
        for (stored, attempt, expected) in [
            (0, 0, Whole),
            (0, 50, Whole),
            (49, 1, Whole),
            (0, 51, Brief),
            (0, u64::MAX, Brief),
            (49, 2, Brief),
            (51, 0, Brief),
            (99, 300, Brief),
            (100, 0, Compact),
            (u64::MAX, u64::MAX, Compact),
        ] {
            assert_eq!(AttemptDetail::for_room(stored, attempt, 50, 100), expected, "{stored} and {attempt}");
        }
        assert_eq!(AttemptDetail::for_room(0, 0, 0, 0), Compact, "no room at all");
    }

    #[test]
    fn the_size_of_an_attempt_is_that_of_its_json() {
        for output_bytes in [0, 1, 300, 4_000] {
            let attempt = attempt(1, output_bytes);
            let (estimate, real) = (attempt.stored_bytes(), json(&attempt).len() as u64);
            assert!(estimate.abs_diff(real) < 250, "{estimate} for {real}");
        }
    }

    #[test]
    fn a_brief_attempt_is_small_and_says_what_is_missing() {
        let whole = tried(2, 4_000);
        assert_eq!(whole.clone().with_detail(AttemptDetail::Whole), whole);
        let brief = whole.clone().with_detail(AttemptDetail::Brief);
        assert_eq!(brief.attempts[0], whole.attempts[0], "earlier attempts stay");
        let last = &brief.attempts[1];
        assert_eq!((last.log.len(), last.log_lines_dropped), (0, 5));
        assert_eq!(last.stderr.as_deref(), Some("(4000 bytes left out)"));
        assert_eq!(last.backtrace.as_deref(), Some("(4000 bytes left out)"));
        assert!(last.error.as_ref().unwrap().ends_with(CUT), "{last:?}");
        let most_bytes = AttemptDetail::Brief.kept_bytes(u64::MAX) + 40;
        assert!((json(last).len() as u64) < most_bytes, "{} bytes", json(last).len());
        assert_eq!((last.attempt, last.class, last.retry_in_ms), (2, Some(FailureClass::Trap), Some(1_000)));
        assert_eq!(brief.clone().with_detail(AttemptDetail::Brief), brief, "nothing is left out twice");
        let small = tried(1, 0);
        assert_eq!(small.attempts[0].log_lines_dropped, 2);
        assert_eq!(small.clone().with_detail(AttemptDetail::Brief).attempts[0].error, small.attempts[0].error);
    }

    #[test]
    fn a_compact_record_does_not_grow() {
        let mut record = tried(1, 4_000).with_detail(AttemptDetail::Compact);
        let mut sizes = Vec::new();
        for number in 2..40 {
            let retry = Settlement::Retry { class: FailureClass::Trap, delay_ms: 1_000 };
            let at = Timestamp::from_unix_ms(0);
            record = record.with_attempt(attempt(number, 4_000), &retry, at, None, Vec::new());
            record = record.with_detail(AttemptDetail::Compact);
            sizes.push(record.attempts.iter().map(|attempt| json(attempt).len()).sum::<usize>());
        }
        assert!(sizes.iter().all(|size_bytes| *size_bytes < 1_400), "{sizes:?}");
        assert_eq!((record.attempts.len(), record.attempts_made, record.failures), (2, 39, 39));
        assert_eq!((record.attempts[0].attempt, record.attempts[1].attempt), (1, 39));
        assert_eq!(tried(5, 4_000).with_detail(AttemptDetail::Compact).attempts.len(), 2, "earlier ones shrink, too");
    }

    #[test]
    fn the_reason_of_a_failure_is_cut_with_its_error() {
        let failed = Settlement::Failed { class: FailureClass::Trap, reason: "\u{1}".repeat(4_000) };
        let record = tried(1, 0).with_attempt(attempt(2, 0), &failed, Timestamp::from_unix_ms(0), None, Vec::new());
        let reason = |detail| record.clone().with_detail(detail).end.unwrap().failure.unwrap().1;
        assert_eq!(reason(AttemptDetail::Whole).len(), 4_000);
        assert_eq!(reason(AttemptDetail::Brief), format!("{}{CUT}", "\u{1}".repeat(512 / 6)));
        assert_eq!(reason(AttemptDetail::Compact), format!("{}{CUT}", "\u{1}".repeat(128 / 6)));
    }

    #[test]
    fn many_large_attempts_do_not_make_a_record_huge() {
        let record = tried(40, 10_000);
        let all_bytes: usize = record.attempts.iter().map(|attempt| json(attempt).len()).sum();
        assert!(all_bytes < 1_200_000, "{all_bytes}");
        assert_eq!(record.attempts.len(), 32);
        let has_output: Vec<u32> = record
            .attempts
            .iter()
            .filter(|kept| kept.has_output() && kept.log.len() == 3)
            .map(|kept| kept.attempt)
            .collect();
        assert_eq!((has_output.first(), has_output.last()), (Some(&1), Some(&40)), "{has_output:?}");
    }
}
