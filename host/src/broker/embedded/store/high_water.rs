//! The high-water mark of a store: how far the database has come, stored outside of it (G11).
//!
//! At a start the broker compares it with the database, to notice a database that is missing, replaced or older. The
//! mark is in the lock file and is not synced. It may lag behind, and then a loss can go unnoticed. It must never be
//! ahead of what is on the disk, or the broker would report a loss that did not happen.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use super::directory::StoreDirectory;

/// The identity of the store that the directory held last, and how far it had come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::broker::embedded) struct HighWater {
    pub(in crate::broker::embedded) epoch: String,
    /// How often the store was opened.
    pub(in crate::broker::embedded) opening: i64,
    /// The next number for an event or a place, after the last synced commit.
    pub(in crate::broker::embedded) next_number: i64,
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
    /// The mark that the lock file holds; `None` in a new directory.
    pub(in crate::broker::embedded) fn read(directory: &StoreDirectory) -> io::Result<Option<Self>> {
        Ok(directory.read_note()?.parse().ok())
    }

    /// Why the database that was just opened lacks data, if it does. `found` is what the database says of itself.
    pub(in crate::broker::embedded) fn loss(&self, found: &Self) -> Option<&'static str> {
        if self.epoch != found.epoch {
            return Some("the database is not the one that was in the directory before");
        }
        if found.opening <= self.opening {
            return Some("the database is older than the one that was in the directory before");
        }
        (found.next_number < self.next_number).then_some("the last commits are missing")
    }
}

/// Keeps the mark of an open store up to date.
pub(in crate::broker::embedded) struct HighWaterKeeper {
    directory: Arc<StoreDirectory>,
    mark: Mutex<HighWater>,
    synced: Arc<AtomicI64>,
}

impl HighWaterKeeper {
    /// Writes the mark of a store that was opened. `synced` holds the next number after the last synced commit.
    ///
    /// # Errors
    /// The lock file cannot be written.
    pub(in crate::broker::embedded) fn start(
        directory: Arc<StoreDirectory>,
        found: HighWater,
        synced: Arc<AtomicI64>,
    ) -> io::Result<Self> {
        match directory.write_note(&found.to_string()) {
            // The mark may lag behind, and a full disk must not stop the start.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::debug!("the high-water mark was not written: {error}");
            }
            written => written?,
        }
        Ok(Self { directory, mark: Mutex::new(found), synced })
    }

    /// Writes the mark, if the store has come further.
    pub(in crate::broker::embedded) fn save(&self) {
        let mut mark = self.mark.lock();
        let next_number = self.synced.load(Ordering::Relaxed);
        if mark.next_number < next_number {
            mark.next_number = next_number;
            // The next call tries again. Until then only the detection of a loss is affected.
            if let Err(error) = self.directory.write_note(&mark.to_string()) {
                tracing::debug!("the high-water mark was not written: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(epoch: &str, opening: i64, next_number: i64) -> HighWater {
        HighWater { epoch: epoch.into(), opening, next_number }
    }

    #[test]
    fn a_database_that_is_another_or_an_older_one_is_noticed() {
        let last = mark("a", 7, 100);
        assert_eq!(last.loss(&mark("a", 8, 100)), None);
        assert_eq!(last.loss(&mark("a", 9, 101)), None);
        assert!(last.loss(&mark("a", 7, 100)).is_some());
        assert!(last.loss(&mark("a", 8, 99)).is_some());
        assert!(last.loss(&mark("b", 8, 100)).is_some());
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_as_earlier_versions_wrote_it() {
        let written = mark("e", 12, 34);
        assert_eq!(written.to_string().parse(), Ok(written));
        assert_eq!("e 12\n".parse(), Ok(mark("e", 12, 0)));
        // A line that was written over a longer one, by a process that died in between.
        assert_eq!("e 12 34\n78\n".parse(), Ok(mark("e", 12, 34)));
        for text in ["", "e", "e x", "\0\0"] {
            assert_eq!(text.parse::<HighWater>(), Err(()), "{text:?}");
        }
    }
}
