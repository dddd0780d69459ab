//! What is known of the database outside of it, so that one that is gone or older than it was is noticed (G11).
//!
//! It stands in the lock file and is not synced: it may lag behind, and then less is noticed. It must never be ahead of
//! what a power cut leaves of the database, or a loss would be reported that is none.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::directory::StoreDirectory;
use parking_lot::Mutex;

/// Which store the directory held last, and how far that had come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HighWater {
    pub(super) epoch: String,
    /// How often it had been opened.
    pub(super) opening: i64,
    /// The next number for an event or a place, after a commit that was synced.
    pub(super) next_number: i64,
}

impl fmt::Display for HighWater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {}", self.epoch, self.opening, self.next_number)
    }
}

impl FromStr for HighWater {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split_whitespace();
        let epoch = words.next().ok_or(())?.to_owned();
        let opening = words.next().and_then(|word| word.parse().ok()).ok_or(())?;
        // Earlier versions wrote two words.
        let next_number = words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        Ok(Self { epoch, opening, next_number })
    }
}

impl HighWater {
    /// Why a database that says this of itself is not the one that was here last, if so. It was just opened once more.
    pub(super) fn lost(&self, found: &Self) -> Option<&'static str> {
        if self.epoch != found.epoch {
            return Some("the database is not the one that was in the directory before");
        }
        if found.opening <= self.opening {
            return Some("the database is older than the one that was in the directory before");
        }
        (found.next_number < self.next_number).then_some("what was committed last is not there")
    }
}

/// Keeps the memory of a store that is being served.
pub(super) struct HighWaterKeeper {
    directory: Arc<StoreDirectory>,
    kept: Mutex<HighWater>,
    synced: Arc<AtomicI64>,
}

impl HighWaterKeeper {
    /// Writes down what a store is when it has been opened. `synced` holds the number of the last commit that was synced.
    ///
    /// # Errors
    /// The lock file cannot be written.
    pub(super) fn start(directory: Arc<StoreDirectory>, found: HighWater, synced: Arc<AtomicI64>) -> io::Result<Self> {
        directory.remember(&found)?;
        Ok(Self { directory, kept: Mutex::new(found), synced })
    }

    /// Writes down how far the store has come, if it has come further.
    pub(super) fn keep(&self) {
        let mut kept = self.kept.lock();
        let next_number = self.synced.load(Ordering::Relaxed);
        if kept.next_number < next_number {
            kept.next_number = next_number;
            // What is not remembered is tried again when there is more; it costs noticing a loss, not what is stored.
            if let Err(error) = self.directory.remember(&kept) {
                tracing::debug!("how far the store has come was not written down: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(epoch: &str, opening: i64, next_number: i64) -> HighWater {
        HighWater { epoch: epoch.into(), opening, next_number }
    }

    #[test]
    fn a_database_that_is_another_or_an_older_one_is_noticed() {
        let last = memory("a", 7, 100);
        assert_eq!(last.lost(&memory("a", 8, 100)), None);
        assert_eq!(last.lost(&memory("a", 9, 101)), None);
        assert!(last.lost(&memory("a", 7, 100)).is_some());
        assert!(last.lost(&memory("a", 8, 99)).is_some());
        assert!(last.lost(&memory("b", 8, 100)).is_some());
    }

    #[test]
    fn a_memory_is_read_as_it_was_written_and_as_earlier_versions_wrote_it() {
        let written = memory("e", 12, 34);
        assert_eq!(written.to_string().parse(), Ok(written));
        assert_eq!("e 12\n".parse(), Ok(memory("e", 12, 0)));
        // A line that was written over a longer one, by a process that died in between.
        assert_eq!("e 12 34\n78\n".parse(), Ok(memory("e", 12, 34)));
        for text in ["", "e", "e x", "\0\0"] {
            assert_eq!(text.parse::<HighWater>(), Err(()), "{text:?}");
        }
    }
}
